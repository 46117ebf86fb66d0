"""
Many pictures at once
=====================

Everything takes a batch, (B, H, W, C), and what may differ from picture to picture is given once for each: the noise,
the kernel, the mask, the temperature. Every picture of a batch stops by itself, and gets what it would get alone.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
folder = Path("../benchmarks/data/images")
names = ("chelsea", "coffee", "colosseum", "osprey")
sharp = np.stack([hj.read_photograph(folder / f"{name}.png").pixels[64:192, 64:192] for name in names])
print(f"a batch of shape {sharp.shape}")

# %%
# Each picture has a blur and a noise level of its own.
widths = np.array([0.8, 1.2, 1.6, 2.0])
noise_std = np.array([2.0, 4.0, 6.0, 8.0]) / 255
kernels = [hj.images.parse_kernel(f"gaussian:{width}") for width in widths]
largest = max(kernel.shape[0] for kernel in kernels)
kernels = np.stack([np.pad(kernel, (largest - kernel.shape[0]) // 2) for kernel in kernels])
A = hj.operators.Blur(kernels)

noise = np.random.default_rng(0).standard_normal(sharp.shape, np.float32)
y = A(sharp) + noise_std[:, None, None, None].astype(np.float32) * noise

# %%
# One call restores them. The first one compiles; the second has the program at hand, for any pictures of this shape.
for attempt in ("first", "second"):
    start = time.perf_counter()
    out = jax.block_until_ready(hj.restore(prior, y, A, noise_std))
    print(f"{attempt} call: {time.perf_counter() - start:.1f} s")

before, after = hj.metrics.psnr(y, sharp), hj.metrics.psnr(out.image, sharp)
for i, name in enumerate(names):
    print(f"{name}: {before[i]:.2f} dB, restored {after[i]:.2f} dB in {out.iterations[i]} iterations")

show({f"{name}, {before[i]:.1f} dB": y[i] for i, name in enumerate(names)})
show({f"{name}, {after[i]:.1f} dB": out.image[i] for i, name in enumerate(names)})

# %%
# One by one they come out the same, up to the rounding of single precision:
alone = hj.restore(prior, y[2], hj.operators.Blur(kernels[2]), float(noise_std[2]))
print(f"largest difference to one by itself: {jnp.abs(alone.image - out.image[2]).max():.1e}")

# %%
# vmap, and jit
# -------------
#
# Priors, operators and settings are pytrees, so they go through ``jax.jit`` and ``jax.vmap`` as arguments. Here one
# picture is restored with three strengths of the prior, in one program.
config = hj.recommended_config(prior, float(noise_std[2]), A)


@jax.jit
def restored(factor):
    """The third picture, with the deviation γ of the prior scaled."""
    scaled = config.replace(decoder_std=factor * config.decoder_std, noise_level=config.noise_level)
    return hj.restore(prior, y[2], hj.operators.Blur(kernels[2]), float(noise_std[2]), scaled).image


factors = jnp.array([0.5, 1.0, 2.0])
images = jax.vmap(restored)(factors)
show({f"γ times {f:g}, {hj.metrics.psnr(x, sharp[2]):.2f} dB": x for f, x in zip(factors, images, strict=True)})

# %%
# Pictures of different sizes need a program for each size. For a folder of files, use the command line, which also
# goes on where it was stopped::
#
#     hvae-jax restore PICTURES -r --keep-going --task denoise --out RESULTS/
#
# On several devices a batch is shared by ``mesh=jax.sharding.Mesh(jax.devices(), ("batch",))``; on many machines see
# :doc:`/cluster`.
