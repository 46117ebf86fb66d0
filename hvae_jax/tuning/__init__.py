"""The settings that a prior recommends, chosen on photographs that it was not trained on (`hvae-jax tune`)."""

from hvae_jax.tuning.cases import tuning_kernels
from hvae_jax.tuning.settings import NOISE_LEVELS, tune, write_settings

__all__ = ["NOISE_LEVELS", "tune", "tuning_kernels", "write_settings"]
