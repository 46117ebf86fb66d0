"""
How sure is it?
===============

A restoration is a guess. Draws from the posterior show what the observation leaves open, and with what was fitted on
other photographs they become intervals: for a level of 90 %, intervals around each pixel within which the true value
is, for 90 % of the pixels of photographs like those.
"""

import jax
import numpy as np

import hvae_jax as hj
from pictures import show

sharp = hj.read_photograph("../benchmarks/data/images/chelsea.png")
sharp = sharp._replace(pixels=sharp.pixels[48:176, 56:216])
observed = hj.degrade_photograph(sharp, "deblur", kernel="gaussian:1.6", noise_std=5 / 255, seed=0, boundary="natural")
# With a natural boundary only the middle is observed.
cut = [(full - part) // 2 for full, part in zip(sharp.pixels.shape[:2], observed.pixels.shape[:2], strict=True)]
truth = sharp.pixels[cut[0] : cut[0] + observed.pixels.shape[0], cut[1] : cut[1] + observed.pixels.shape[1]]

# %%
# Randomness needs a key; with ``uncertainty=None``, the default, there is no sampling.
done = hj.restore_photograph(
    observed, "deblur", kernel="gaussian:1.6", noise_std=5 / 255, uncertainty=jax.random.key(0)
)
before, after = hj.metrics.psnr(observed.pixels, truth), hj.metrics.psnr(done.image.pixels, truth)
print(f"PSNR {before:.2f} dB before, {after:.2f} dB after")

# %%
# Do the intervals hold what they say? With the truth at hand, count. One picture need not have exactly 90 %: the
# level is for the pixels of many pictures together.
for level in (0.5, 0.8, 0.9, 0.95):
    low, high = done.interval(level)
    inside, width = np.mean((low <= truth) & (truth <= high)), 255 * np.mean(high - low)
    print(f"{level:.0%} interval: {inside:.1%} of the pixels are within, mean half-width {width / 2:.1f} grey levels")

half = done.half_width(0.9)
error = np.abs(done.image.pixels - truth).max(axis=-1)
show(
    {
        "observed": observed.pixels,
        f"restored, {after:.1f} dB": done.image.pixels,
        "half-width of 90 % intervals (white: 50 grey levels)": half / (50 / 255),
        "error (white: 50 grey levels)": error / (50 / 255),
    },
    columns=2,
)

# %%
# The map is wide where errors are large; how much of the error it foretells is another question:
rank = np.corrcoef(half.ravel(), error.ravel())[0, 1]
print(f"correlation of half-width and error: {rank:.2f}")

# %%
# The draws themselves
# --------------------
#
# :func:`hvae_jax.sample_posterior` draws, for data of your own. In the pupil the draws agree, in the fur they differ.
prior = hj.load_prior()
A = hj.operators.Blur(hj.images.parse_kernel("gaussian:1.6"))
small = sharp.pixels[16:112, 32:128]
y = A(small) + 5 / 255 * np.random.default_rng(0).standard_normal(small.shape, np.float32)
draws = hj.sample_posterior(prior, y, A, 5 / 255, jax.random.key(1), chains=4)
one = hj.restore(prior, y, A, 5 / 255).image
for name, picture in (("a draw", draws.samples[0]), ("mean of 4 draws", draws.mean), ("restored", one)):
    print(f"{name}: {hj.metrics.psnr(picture, small):.2f} dB")
show(
    {
        "observed": y,
        "a draw": draws.samples[0],
        "another": draws.samples[1],
        "deviation, times 10": 10 * draws.std.mean(-1),
        "the picture": small,
    }
)
