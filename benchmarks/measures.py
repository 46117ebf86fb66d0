"""What several experiments measure or make: the ELBO, patches, short trainings."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks.problems import DATA
from hvae_jax import training
from hvae_jax.images import Squares
from hvae_jax.metrics import psnr
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.prior import Prior
from hvae_jax.training.config import TrainConfig
from hvae_jax.training.loss import elbo_terms

PHOTOGRAPHS = DATA / "images"
"""Photographs to train on where none are given."""


def elbo(prior: Prior, images: Squares, seed: int) -> dict[str, Any]:
    """The ELBO (eq. 4) of each clean image with uniform dequantization noise, as "bits" per dimension.

    Args:
        prior: a PatchVDVAE.
        images: of 8 bits.
        seed: of the noise and the latents' one draw.

    Returns:
        "bits", and of these "kl", a list by level; "psnr" of the decoded mean. Lists, an item per image.
    """
    model, levels = prior.model, prior.levels

    @jax.jit
    def evaluate(params: dict, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        rule, noise = hierarchy.posterior_sample, jax.random.split(key, (1, levels))
        settings = Pass(rule, jnp.ones((1, levels)), jnp.ones((1,)), noise=noise, collect=frozenset({"kl"}))
        decoder, result = model.apply({"params": params}, x, settings, jnp.zeros((1,)))
        reconstruction, kl = elbo_terms(model.to_network(x), decoder, result.kl, x.size * math.log(2))
        # The network's unit is 127.5 grey levels.
        return reconstruction + jnp.sum(kl) + math.log2(127.5), kl, psnr(model.to_image(decoder).mean, x)[0]

    found: dict[str, list] = {"bits": [], "kl": [], "psnr": []}
    for i, image in enumerate(images.pixels):
        uniform, latents = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        x = image + jax.random.uniform(uniform, image.shape, minval=-0.5, maxval=0.5) / 255
        for name, value in zip(found, evaluate(prior.params, x[None], latents), strict=True):
            found[name].append(np.asarray(value).tolist())
    return found


def patches(images: np.ndarray, side: int) -> np.ndarray:
    """All images cut into squares."""
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    cut = images[:, : rows * side, : columns * side].reshape(count, rows, side, columns, side, channels)
    return cut.swapaxes(2, 3).reshape(-1, side, side, channels)


def train(config: TrainConfig, data: Path, folder: Path, files: Path | None = None, init: dict | None = None) -> Prior:
    """Train, or go on where an interruption left it.

    Args:
        config: the settings.
        data: folder of the photographs.
        folder: of this training.
        files: a list of the photographs to use; all if None.
        init: parameters to start from; random if None.

    Returns:
        The prior.
    """
    console = Console(stderr=True)
    shown = console if console.is_terminal else None
    try:
        return training.train(config, data, folder, files=files, init=init, console=shown)
    except training.Interrupted as stop:  # with a checkpoint
        raise KeyboardInterrupt from stop
