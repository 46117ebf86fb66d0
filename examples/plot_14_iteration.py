"""
The method, step by step
========================

PnP-HVAE alternates two steps (Algorithm 2 of `the paper <https://arxiv.org/abs/2303.11217>`_):

- the *data step* takes the picture nearest to what the prior expects that also explains the observation,
- the *prior step* encodes and decodes it, which removes what no photograph has (Algorithm 1).

Both are single calls, so the whole method is a loop of two lines. At the end it is compared with
:func:`hvae_jax.restore`.
"""

import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
sharp = hj.read_photograph("sharp.png").pixels[80:208, 180:308]
A = hj.operators.Blur(hj.images.parse_kernel("motion:13,30"))
noise_std = 5 / 255
y = A(sharp) + noise_std * np.random.default_rng(0).standard_normal(sharp.shape, np.float32)

# %%
# The settings of an iteration are γ, how far the picture may be from what the prior expects, and s, the noise that
# the prior is told of. The bundled prior wants both annealed, from much to little.
config = hj.recommended_config(prior, noise_std, A, orientations="fixed")
gammas, levels = np.asarray(config.decoder_std)[:, 0], np.asarray(config.noise_level)[:, 0]
print("γ, grey levels:", *np.round(255 * gammas, 1))
print("s, grey levels:", *np.round(255 * levels, 1))

# %%
# The loop. The ratio of the data step is ρ = σ²/γ²: x = argmin ½‖A x - y‖² + ρ/2 ‖x - μ‖².
mean = A.initial(y)
pictures = {f"the observation, {hj.metrics.psnr(y, sharp):.1f} dB": y}
for k, (gamma, s) in enumerate(zip(gammas, levels, strict=True)):
    x = A.data_step(mean, y, noise_std**2 / float(gamma) ** 2)
    mean = hj.reconstruct(prior, x, config.temperature, noise_level=float(s))
    psnr = hj.metrics.psnr(x, sharp), hj.metrics.psnr(mean, sharp)
    print(f"iteration {k + 1}: data step {psnr[0]:.2f} dB, prior step {psnr[1]:.2f} dB")
    if k in (0, 2, len(gammas) - 1):
        pictures |= {f"{k + 1}: data step, {psnr[0]:.1f} dB": x, f"{k + 1}: prior step, {psnr[1]:.1f} dB": mean}
last = A.data_step(mean, y, noise_std**2 / float(gammas[-1]) ** 2)

show({**pictures, "the picture": sharp}, columns=4)

# %%
# The data step undoes the blur and lets the noise grow; the prior step takes the noise out and leaves what is a
# picture. With each iteration less has to be taken out.
#
# Is this the same as the library's compiled loop?
out = hj.restore(prior, y, A, noise_std, config)
print(f"largest difference to hvae_jax.restore: {np.abs(np.asarray(out.x) - np.asarray(last)).max():.1e}")

# %%
# By default there is one thing more, which costs nothing: in each iteration the picture is flipped or turned
# differently before the prior sees it, so that the network's preferred direction leaves no trace.
turned = hj.restore(prior, y, A, noise_std)
for name, picture in (("fixed", out.image), ("cycled", turned.image)):
    print(f"orientation {name}: {hj.metrics.psnr(picture, sharp):.2f} dB")
