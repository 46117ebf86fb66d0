"""The settings that a prior recommends, chosen on photographs that it was not trained on (`hvae-jax tune`)."""

from hvae_jax.tuning.calibration import CALIBRATED_NOISE_LEVELS, calibrate, write_calibration
from hvae_jax.tuning.cases import tuning_kernels
from hvae_jax.tuning.settings import NOISE_LEVELS, tune, write_settings

__all__ = [
    "CALIBRATED_NOISE_LEVELS",
    "NOISE_LEVELS",
    "calibrate",
    "tune",
    "tuning_kernels",
    "write_calibration",
    "write_settings",
]
