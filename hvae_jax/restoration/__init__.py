"""Restoration with a hierarchical VAE prior: Algorithm 2."""

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
from hvae_jax.restoration.schedules import geometric, linear

__all__ = [
    "EXPERIMENTS",
    "History",
    "Restoration",
    "RestoreConfig",
    "Status",
    "geometric",
    "linear",
    "paper_config",
    "recommended_config",
    "restore",
]
