"""Restoration with a hierarchical VAE prior: Algorithm 2, and its sampling counterpart."""

from hvae_jax.restoration.adam import restore_adam
from hvae_jax.restoration.pnp_hvae import (
    EXPERIMENTS,
    History,
    Restoration,
    RestoreConfig,
    Status,
    paper_config,
    recommended_config,
    restore,
)
from hvae_jax.restoration.posterior import Posterior, sample_posterior, sampling_config
from hvae_jax.restoration.schedules import geometric, linear

__all__ = [
    "EXPERIMENTS",
    "History",
    "Posterior",
    "Restoration",
    "RestoreConfig",
    "Status",
    "geometric",
    "linear",
    "paper_config",
    "recommended_config",
    "restore",
    "restore_adam",
    "sample_posterior",
    "sampling_config",
]
