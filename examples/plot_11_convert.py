"""
Convert a PyTorch checkpoint
============================

Hierarchical VAEs that were trained in PyTorch, OpenAI's VDVAE and the authors' PatchVDVAE, become priors without
PyTorch. A checkpoint from anywhere is safe to read: nothing in it is executed, and every tensor must have its place.

The file here is a toy with random weights, of 16 levels and 32x32 pixels, that the tests use; so it restores nothing.
What can be shown is that it computes what PyTorch computed. For the published checkpoints see :doc:`/conversion`.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from conversion.convert import read, to_prior

golden = Path("../tests/golden")

# %%
# A VDVAE's architecture is not all in the file; its hyperparameters are given in OpenAI's words.
checkpoint = read(golden / "tiny_vdvae.th", str(golden / "tiny_vdvae.json"))
print(
    f"{checkpoint.family}: {len(checkpoint.state)} tensors, {sum(t.size for t in checkpoint.state.values()):,} numbers"
)
print(f"what does not fit: {', '.join(checkpoint.mismatches) or 'nothing'}")

# %%
# A prior on disk is a folder: an Orbax checkpoint and a readable ``prior.json``, which says where the numbers are
# from.
with tempfile.TemporaryDirectory() as folder:
    to_prior(checkpoint).save(Path(folder) / "toy")
    prior = hj.load_prior(Path(folder) / "toy")
print(f"{prior.info['name']}: {prior.levels} levels, images of {prior.image_size}x{prior.image_size} pixels")
print(f"from {prior.info['provenance']['source']}, sha256 {prior.info['provenance']['sha256'][:16]}...")

# %%
# In a shell it is::
#
#     hvae-jax-convert tiny_vdvae.th --preset tiny_vdvae.json --out toy
#
# Does it compute the same?
# -------------------------
#
# The authors' code was run on one input in double precision, and what it gave is stored in the repository: for
# Algorithm 1 the log-density of each level, and every fourth pixel of the decoded mean. This is single precision.
stored = np.load(golden / "tiny_vdvae.npz")
encoding = hj.encode(prior, stored["x"].astype(np.float32), stored["T_const"].astype(np.float32))
ours, theirs = np.asarray(encoding.mean)[0, 1::4, 2::4], stored["const/lr_mu"][0]
print(f"decoded mean: at most {np.abs(ours - theirs).max():.1e} off")

ours_density, their_density = np.asarray(encoding.log_prior)[0], stored["const/lr_logpz"]
print(f"log p(z_l|z_<l): at most {np.abs(ours_density / their_density - 1).max():.1e} off, relatively")

figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(theirs.ravel(), ours.ravel(), ".")
axes[0].set(xlabel="decoded mean in PyTorch", ylabel="here")
axes[1].plot(their_density, "o", markersize=9, fillstyle="none", label="PyTorch")
axes[1].plot(ours_density, ".", label="here")
axes[1].set(xlabel="level, coarsest first", ylabel="log p(z)")
axes[1].legend()
figure.tight_layout()
plt.show()

# %%
# ``hvae-jax-convert --inspect FILE`` prints what is in a file, and ``--check`` restores a test image with what came
# out.
