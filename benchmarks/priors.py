"""Priors by name: bundled ones, folders, and the published architectures with random weights, which take as long."""

import jax

import hvae_jax as hj
from benchmarks.command import AddOption, names_of
from benchmarks.vdvae import random_prior
from hvae_jax.models.patch_vdvae import PatchVDVAE
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.models.vdvae import PRESETS as VDVAE_PRESETS
from hvae_jax.prior import Prior

NOISE_LEVEL = 7.65 / 255
"""What noise-conditional priors are told."""


def prior_of(name: str) -> Prior:
    """The prior of a name: `patch-vdvae`, the paper's; `vdvae-ffhq256` and the like, OpenAI's; else as `load_prior`.

    Raises:
        ValueError: there is none.
    """
    if name == "patch-vdvae":
        network = PatchVDVAE(PRESETS["official"])
        return Prior(jax.jit(network.initialize)(jax.random.key(0)), network)
    if name.startswith("vdvae-"):
        preset = name.removeprefix("vdvae-")
        if preset not in VDVAE_PRESETS:
            raise ValueError(f"expected vdvae- and one of {', '.join(VDVAE_PRESETS)}, got {name}")
        return random_prior(VDVAE_PRESETS[preset])[0]
    return hj.load_prior(name)


def noise_level_of(prior: Prior) -> float | None:
    """What `reconstruct` takes for a prior."""
    return NOISE_LEVEL if getattr(prior.config, "noise_conditional", False) else None


def add_prior_options(add: AddOption, default: str) -> None:
    """Which ones, and the size of their images."""
    which = "names or folders; patch-vdvae and vdvae-ffhq256 are the published architectures with random weights"
    add("--prior", type=names_of, default=names_of(default), metavar="A,B", help=f"{which} (default {default})")
    add("--size", type=int, default=256, help="side of the images, of a prior of any size (default 256)")
