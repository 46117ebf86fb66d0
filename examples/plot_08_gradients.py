"""
Gradients: fit the width of a blur
==================================

A restoration is a function of the kernel, the noise level and the settings, and JAX differentiates it: forwards
(``jax.jvp``) through :func:`hvae_jax.restore`, whose loop stops by itself, and in both directions through
:func:`hvae_jax.encode` and :func:`hvae_jax.reconstruct`.

Here a camera is calibrated: one picture of a scene is at hand that is known to be sharp, and one that is out of
focus. Which width of a Gaussian blur gives the best restoration?
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
sharp = hj.read_photograph("../benchmarks/data/images/coffee.png").pixels[64:160, 64:160]
noise_std = 3 / 255
position = jnp.arange(-8, 9)


def blur(width):
    """A Gaussian blur whose width may be differentiated."""
    profile = jnp.exp(-0.5 * (position / width) ** 2)
    return hj.operators.Blur(profile[:, None] * profile[None, :])


TRUE = 1.7
y = blur(TRUE)(sharp) + noise_std * np.random.default_rng(0).standard_normal(sharp.shape, np.float32)

# %%
# The error of a restoration, pixel by pixel, and its derivative by the width, from one forward pass. Settings are
# fixed, so that they do not depend on what is varied.
config = hj.recommended_config(prior, noise_std, blur(1.0))


@jax.jit
def error_and_derivative(width):
    """x̂(w) - x and d x̂/dw."""
    return jax.jvp(lambda w: hj.restore(prior, y, blur(w), noise_std, config).image - sharp, (width,), (1.0,))


# %%
# Is the derivative right? Against a difference quotient:
step = 0.01
error, derivative = error_and_derivative(1.4)
quotient = (error_and_derivative(1.4 + step)[0] - error_and_derivative(1.4 - step)[0]) / (2 * step)
apart = jnp.linalg.norm(derivative - quotient) / jnp.linalg.norm(quotient)
print(f"derivative and difference quotient differ by {apart:.1%}")

# %%
# The method of Gauss and Newton: where the error is linear in the width, one step w - ⟨e', e⟩/⟨e', e'⟩ leads to the
# least squared error.
width, path = 1.0, []
for k in range(6):
    error, derivative = error_and_derivative(width)
    psnr = -10 * jnp.log10(jnp.mean(error**2))
    path.append((width, float(psnr)))
    print(f"step {k}: width {width:.3f}, {psnr:.2f} dB")
    width = float(width - jnp.clip(jnp.vdot(derivative, error) / jnp.vdot(derivative, derivative), -0.4, 0.4))
print(f"found {path[-1][0]:.3f}; the picture was blurred with {TRUE}")

# %%
widths = np.linspace(0.8, 2.4, 9)
curve = [-10 * np.log10(np.mean(np.asarray(error_and_derivative(w)[0]) ** 2)) for w in widths]
figure, axis = plt.subplots(figsize=(6, 3))
axis.plot(widths, curve, color="grey")
axis.plot(*zip(*path, strict=True), "o-")
axis.axvline(TRUE, color="grey", linestyle=":")
axis.set(xlabel="width that was assumed (pixels)", ylabel="PSNR of the restoration (dB)")
figure.tight_layout()
plt.show()

first = hj.restore(prior, y, blur(path[0][0]), noise_std, config).image
last = hj.restore(prior, y, blur(path[-1][0]), noise_std, config).image
show({"out of focus": y, f"width {path[0][0]:.2f}": first, f"width {path[-1][0]:.2f}": last, "sharp": sharp})

# %%
# Backwards
# ---------
#
# ``jax.grad`` goes through the prior itself. By how much does each pixel of a noisy picture act on one pixel of the
# denoised one? The support of the gradient is how far the network looks.
noisy = sharp + noise_std * np.random.default_rng(1).standard_normal(sharp.shape, np.float32)
gradient = jax.grad(lambda x: hj.reconstruct(prior, x, noise_level=noise_std)[48, 48].sum())(jnp.asarray(noisy))
size = jnp.abs(gradient).sum(-1)
inner = size[40:57, 40:57].sum() / size.sum()
print(f"{inner:.0%} of what acts on a pixel is within 8 pixels of it")
show(
    {
        "around the pixel": sharp[24:73, 24:73],
        "influence, in logarithm": 1 + jnp.log10(size / size.max())[24:73, 24:73] / 4,
    }
)
