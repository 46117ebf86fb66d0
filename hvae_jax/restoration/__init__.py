"""Restoration with a hierarchical VAE prior: Algorithm 2, and its sampling counterpart."""

from hvae_jax.restoration.adam import restore_adam
from hvae_jax.restoration.calibration import Calibration, calibration_for
from hvae_jax.restoration.pnp_hvae import restore
from hvae_jax.restoration.posterior import Posterior, sample_posterior, sampling_config
from hvae_jax.restoration.recommended import EXPERIMENTS, paper_config, recommended_config
from hvae_jax.restoration.result import History, Restoration, Status
from hvae_jax.restoration.schedules import geometric, linear
from hvae_jax.restoration.settings import ConjugateGradient, Exact, Plateau, Residual, RestoreConfig

__all__ = [
    "EXPERIMENTS",
    "Calibration",
    "ConjugateGradient",
    "Exact",
    "History",
    "Plateau",
    "Posterior",
    "Residual",
    "Restoration",
    "RestoreConfig",
    "Status",
    "calibration_for",
    "geometric",
    "linear",
    "paper_config",
    "recommended_config",
    "restore",
    "restore_adam",
    "sample_posterior",
    "sampling_config",
]
