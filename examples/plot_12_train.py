"""
Train a small prior
===================

A prior is learned from photographs alone; no degradation is needed. Here is the whole way in less than a minute, with
a model and a training that are far too small, on ten photographs. :doc:`/training` has the presets that make useful
priors.
"""

import json
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from hvae_jax.models.patch_vdvae import PatchVDVAEConfig, Resolution
from hvae_jax.training import LossConfig, OptimizerConfig, TrainConfig, train
from pictures import show

# %%
# The architecture: two resolutions of latent variables, at a quarter and at half the picture's side.
common = {"levels": 1, "width": 24, "bottleneck": 24, "posterior_bottleneck": 24, "latent_channels": 12}
common |= {"encoder_width": 24, "encoder_bottleneck": 24, "encoder_blocks": 1, "skip_width": 24}
model = PatchVDVAEConfig(
    resolutions=(Resolution(stride=1, **common), Resolution(stride=2, **common)),
    activation="relu",
    space_to_depth=2,
    noise_conditional=True,
    clip_input=False,
    input_kernel=3,
    output_kernel=3,
    auxiliary_heads=True,
)

# %%
# The objective is the ELBO of the clean crop, while the encoder sees it with noise of a level that is drawn anew and
# told to it. So the model learns to denoise at every level.
config = TrainConfig(
    model=model,
    steps=200,
    batch_size=8,
    crop_size=32,
    scales=(1, 2),
    log_every=10,
    loss=LossConfig(decoder_std=0.002, decoder_std_slope=0.1, noise_max=0.2, dequantization_std=0.0),
    optimizer=OptimizerConfig(name="muon", learning_rate=2e-3, warmup_steps=30, ema_decay=0.95),
)

with tempfile.TemporaryDirectory() as folder:
    run = Path(folder) / "run"
    prior = train(config, Path("../benchmarks/data/images"), run, description={"name": "toy"})
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
print(f"{sum(leaf.size for leaf in jax.tree.leaves(prior.params)):,} parameters")
print(f"the loss fell from {log[0]['loss']:.2f} to {log[-1]['loss']:.2f} in {log[-1]['step']} steps")

figure, axis = plt.subplots(figsize=(6, 2.6))
axis.plot([line["step"] for line in log], [line["psnr"] for line in log])
axis.set(xlabel="step", ylabel="PSNR of crops (dB)")
figure.tight_layout()
plt.show()

# %%
# Does it denoise?
# ----------------
#
# A photograph that it has not seen, beside the bundled prior, which has 26 times as many parameters and saw thousands
# of times as many crops.
sharp = hj.read_photograph("sharp.png").pixels[100:228, 160:352]
noise_std = 20 / 255
noisy = sharp + noise_std * np.random.default_rng(0).standard_normal(sharp.shape, np.float32)
shown = {f"noisy, {hj.metrics.psnr(noisy, sharp):.1f} dB": noisy}
for name, denoiser in (("this toy", prior), ("the bundled prior", hj.load_prior())):
    denoised = hj.reconstruct(denoiser, noisy, noise_level=noise_std)
    print(f"{name}: {hj.metrics.psnr(noisy, sharp):.2f} dB before, {hj.metrics.psnr(denoised, sharp):.2f} dB after")
    shown[f"{name}, {hj.metrics.psnr(denoised, sharp):.1f} dB"] = denoised
show(shown)

# %%
# In a shell a training is one command; stopped, the same command goes on where it was::
#
#     hvae-jax train --preset cpu-3h --data PHOTOS --out runs/mine
#     hvae-jax tune --prior runs/mine/prior --images PHOTOS
#     hvae-jax restore photo.png --task denoise --prior runs/mine/prior --out restored.png
#
# ``tune`` measures which settings to recommend, and writes them into the prior.
