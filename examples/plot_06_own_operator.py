"""
An operator of your own
=======================

A prior does not know what happened to a picture; the operator does. If yours is not in :doc:`hvae_jax.operators
</api/operators>`, write it as a linear function of ``jax.numpy``: the adjoint and the data step come from it.

The example is a scanner that measures only some rows of the picture's Fourier transform, as magnetic resonance
imaging does to save time.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
sharp = hj.read_photograph("../benchmarks/data/images/chelsea.png").pixels
height, width, _ = sharp.shape

# %%
# All low frequencies are measured and a third of the others, the rows drawn at random.
rng = np.random.default_rng(0)
frequency = np.abs(np.fft.fftfreq(height))
rows = np.flatnonzero((frequency < 0.08) | (rng.random(height) < 0.3))
print(f"{len(rows)} of {height} rows are measured: {len(rows) / height:.0%}")


def measure(x):
    """Some rows of the unitary Fourier transform of each channel, as real and imaginary parts."""
    spectrum = jnp.fft.fft2(x, axes=(0, 1), norm="ortho")[rows]
    return jnp.stack([spectrum.real, spectrum.imag])


A = hj.operators.Linear(measure, sharp.shape)

# %%
# Is it linear, and is the adjoint right? For every x and y, ⟨A x, y⟩ = ⟨x, Aᵀ y⟩.
x, y = rng.standard_normal(sharp.shape, np.float32), rng.standard_normal((2, len(rows), width, 3), np.float32)
left, right = float(jnp.vdot(A(x), y)), float(jnp.vdot(x, A.adjoint(y)))
print(f"<Ax, y> = {left:.3f}, <x, A'y> = {right:.3f}")

# %%
# The observation, with noise, and the two ways back: the adjoint, which takes what was not measured for zero, and the
# prior. Without a table of settings for such an operator, those of deblurring are taken.
noise_std = 2.55 / 255
observation = A(sharp) + noise_std * rng.standard_normal((2, len(rows), width, 3), np.float32)
zeros = A.adjoint(observation)
out = hj.restore(prior, observation, A, noise_std)

before, after = hj.metrics.psnr(zeros, sharp), hj.metrics.psnr(out.image, sharp)
print(f"missing rows taken as zero: {before:.2f} dB; with the prior: {after:.2f} dB, {int(out.iterations)} iterations")

pattern = np.zeros((height, width))
pattern[rows] = 1
show(
    {
        "what is measured": np.fft.fftshift(pattern),
        f"zeros, {before:.1f} dB": zeros,
        f"restored, {after:.1f} dB": out.image,
        "the picture": sharp,
    }
)

# %%
# How well does it fit?
# ---------------------
#
# A good restoration misses the data by about the noise, no more and no less.
misfit = jnp.sqrt(jnp.mean((A(out.image) - observation) ** 2)) / noise_std
print(f"the misfit is {misfit:.2f} times the noise")

# %%
# An operator that is used often, or has a closed form of its data step, is worth a class: see
# :class:`hvae_jax.operators.Operator`. With a closed form there is no conjugate gradient.
plt.close("all")
