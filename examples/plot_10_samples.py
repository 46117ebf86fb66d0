"""
What the prior knows
====================

A prior is a distribution over pictures, and one can draw from it: the latent variables level by level, then the
decoder. A small prior for restoration is no generator of pictures. Its samples show what it has learned, which is
edges, textures and colours and not objects.
"""

import jax
import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
print(f"{prior.info['name']}: {prior.info['parameters']:,} parameters, {prior.levels} latent groups")

# %%
# The temperature scales the deviation of each latent variable: below 1 samples are closer to what is typical.
samples = {}
for tau in (0.7, 0.85, 1.0):
    drawn = hj.sample(prior, jax.random.key(0), (3, 128, 128, 3), temperature=tau)
    samples |= {f"τ = {tau}" + " " * i: drawn[i] for i in range(3)}
    contrast = float(np.std(np.asarray(drawn), axis=(1, 2)).mean())
    print(f"temperature {tau}: mean contrast {255 * contrast:.0f} grey levels")
show(samples, columns=3)

# %%
# From coarse to fine
# -------------------
#
# :func:`hvae_jax.encode` finds the latent variables of a picture (Algorithm 1), and tells how likely each group is.
# Most of what a picture costs is in the finest groups, which hold its texture and its noise.
sharp = hj.read_photograph("../benchmarks/data/images/colosseum.png").pixels
encoding = hj.encode(prior, sharp)
for level, value in enumerate(np.asarray(encoding.log_prior)):
    print(f"group {level}: -log p(z) = {-value / sharp.size:.3f} nats for each number of the picture")
print(f"decoded: {hj.metrics.psnr(encoding.mean, sharp):.2f} dB of the picture")

# %%
# Is a picture more likely under the prior than a damaged one? The sum over the groups, for each number of the
# picture:
rng = np.random.default_rng(0)
blur = hj.operators.Blur(hj.images.parse_kernel("gaussian:1.6"))
pictures = {
    "the picture": sharp,
    "blurred": np.asarray(blur(sharp)),
    "noisy": sharp + 0.1 * rng.standard_normal(sharp.shape, np.float32),
    "only noise": rng.random(sharp.shape, np.float32),
}
for name, picture in pictures.items():
    value = float(hj.encode(prior, picture).log_prior.sum()) / sharp.size
    print(f"{name}: log p(z) = {value:.2f} nats per number")

# %%
# A blurred picture is *more* likely than a sharp one, as there is less in it. That is why a prior alone does not
# sharpen, and why it takes a data step that knows the blur.
show(pictures)
