"""
Denoise, and the temperature
============================

The prior alone is a denoiser: encode the noisy picture, decode it again. That is :func:`hvae_jax.reconstruct`,
HVAE(x, τ) in the paper. The *temperature* τ says how far the latent variables follow the picture: at τ = 1 they are
what the encoder says, below that they are drawn towards what the prior expects, and what is lost is detail.
"""

import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
sharp = hj.read_photograph("../benchmarks/data/images/lake.png").pixels
noise_std = 25 / 255
noisy = sharp + noise_std * np.random.default_rng(0).standard_normal(sharp.shape, dtype=np.float32)

# %%
# The bundled prior is *noise-conditional*: its encoder is told the noise level s, and at τ = 1 takes out just that.
# Lower temperatures smooth more.
temperatures = np.array([0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
batch = np.broadcast_to(noisy, (len(temperatures), *noisy.shape))
denoised = hj.reconstruct(prior, batch, temperatures[:, None], noise_level=noise_std)  # all of them at once
psnr = hj.metrics.psnr(denoised, np.broadcast_to(sharp, denoised.shape))
print(f"noisy: {hj.metrics.psnr(noisy, sharp):.2f} dB")
for tau, value in zip(temperatures, psnr, strict=True):
    print(f"temperature {tau:.1f}: {value:.2f} dB")

show({"noisy": noisy, **{f"τ = {temperatures[i]:.1f}, {psnr[i]:.1f} dB": denoised[i] for i in (0, 2, 5)}})

# %%
# Told another noise level
# ------------------------
#
# What matters more is the noise level. Told too little, it leaves noise; told too much, it takes detail for noise.
levels = np.array([5, 10, 15, 20, 25, 30, 40, 50]) / 255
batch = np.broadcast_to(noisy, (len(levels), *noisy.shape))
told = hj.reconstruct(prior, batch, 1.0, noise_level=levels)
told_psnr = hj.metrics.psnr(told, np.broadcast_to(sharp, told.shape))
best = int(np.argmax(told_psnr))
print(f"best at s = {255 * levels[best]:.0f}, {told_psnr[best]:.2f} dB; the noise is of deviation 25")

figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
axes[0].plot(temperatures, psnr, "o-")
axes[0].set(xlabel="temperature τ, at s = 25", ylabel="PSNR (dB)")
axes[1].plot(255 * levels, told_psnr, "o-")
axes[1].axvline(25, color="grey", linestyle=":")
axes[1].set(xlabel="noise level s that it is told, at τ = 1")
figure.tight_layout()
plt.show()

# %%
# For a photograph of any size, with the noise estimated, use :func:`hvae_jax.restore_photograph` with the task
# ``"denoise"``. It looks at the picture in two orientations and takes the mean.
done = hj.restore_photograph(noisy, "denoise")
print(
    f"restore_photograph: noise estimated as {255 * done.noise_std:.1f}, "
    f"{hj.metrics.psnr(done.image.pixels, sharp):.2f} dB"
)
