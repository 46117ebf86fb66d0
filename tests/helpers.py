"""What several test files use: priors with random weights, the tiny official ones, how arrays are compared."""

import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from conversion.convert import read, to_prior
from hvae_jax.models import FAMILIES, vdvae
from hvae_jax.models.contract import HierarchyConfig
from hvae_jax.models.patch_vdvae import PatchVDVAEConfig, Resolution
from hvae_jax.models.vdvae import VDVAEConfig
from hvae_jax.prior import Metadata, Prior

GOLDEN = Path(__file__).parent / "golden"

OFFICIAL = {"patch_vdvae": ("tiny_patchvdvae.pth", None), "vdvae": ("tiny_vdvae.th", str(GOLDEN / "tiny_vdvae.json"))}
"""The tiny official checkpoints: file, and preset of the converter."""


@functools.cache
def official_prior(dtype, family: str = "patch_vdvae") -> Prior:
    """The tiny PatchVDVAE (10 levels, multiple of 64) or VDVAE (16 levels, 32x32) of the golden arrays."""
    file, preset = OFFICIAL[family]
    prior = to_prior(read(GOLDEN / file, preset))
    return Prior(jax.tree.map(lambda leaf: leaf.astype(dtype), prior.params), prior.model)


def tiny_config(levels: int = 2, **changes) -> PatchVDVAEConfig:
    """A model of two resolutions that compiles fast, for images of multiples of 4."""
    common = {
        "width": 8,
        "bottleneck": 4,
        "posterior_bottleneck": 4,
        "latent_channels": 3,
        "encoder_width": 8,
        "encoder_bottleneck": 4,
        "encoder_blocks": 2,
        "skip_width": 8,
    }
    resolutions = (Resolution(stride=1, levels=levels, **common), Resolution(stride=4, levels=levels, **common))
    return PatchVDVAEConfig(resolutions, first_posterior_bottleneck=4, **changes)


def tiny_vdvae_config(levels: int = 2, **changes) -> VDVAEConfig:
    """A VDVAE of two resolutions that compiles fast, for images of 8x8 pixels."""
    coarse = vdvae.Resolution(size=2, levels=levels, encoder_blocks=1, width=16)
    fine = vdvae.Resolution(size=8, levels=levels, encoder_blocks=2, width=8)
    settings = {"input_shift": -120.0, "input_scale": 1 / 64, "latent_channels": 3, "mixtures": 2, "no_bias_above": 2}
    return VDVAEConfig((coarse, fine), **settings, **changes)


def model_of(config: HierarchyConfig):
    """The model of an architecture."""
    return next(family.model for family in FAMILIES.values() if isinstance(config, family.config))(config)


def random_prior(config: HierarchyConfig, seed: int = 0, **info) -> Prior:
    """A prior with random weights that are large enough for every level to matter; NumPy has nothing to compile."""
    rng = np.random.default_rng(seed)
    model = model_of(config)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            scale = np.sqrt(0.7 / np.prod(leaf.shape[-4 if len(leaf.shape) > 3 else -2 : -1]))
            return jnp.asarray(rng.normal(0, scale, leaf.shape), leaf.dtype)
        return jnp.asarray((path[-1].key in ("std", "gain")) + rng.normal(0, 0.1, leaf.shape), leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.initialize, jax.random.key(0)))
    return Prior(params, model, Metadata.of(**info))


TINY_SETTINGS = [{"noise_std": 5.0, "temperature": 1.0, "decoder_std": 10.0, "max_iterations": 2, "returns": "mean"}]
"""A table of two iterations, for what is not about settings."""


def relative_error(ours, reference) -> float:
    """max |difference| relative to the reference's max."""
    return float(np.max(np.abs(np.asarray(ours) - reference)) / np.max(np.abs(reference)))


class CountCompiles(logging.Handler):
    """The names of the programs that JAX compiles, from its own log, which knows all of them."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.programs = []

    def emit(self, record):
        if (text := record.getMessage()).startswith("Finished XLA compilation of "):
            self.programs.append(text.split()[4])

    def __enter__(self):
        self._context = jax.log_compiles()
        self._context.__enter__()
        logging.getLogger("jax").addHandler(self)
        return self

    def __exit__(self, *error):
        logging.getLogger("jax").removeHandler(self)
        self._context.__exit__(*error)
