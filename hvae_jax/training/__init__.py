"""Training of PatchVDVAE priors."""

from hvae_jax.training.config import RUNS, LossConfig, OptimizerConfig, TrainConfig
from hvae_jax.training.devices import Broken
from hvae_jax.training.loop import Interrupted, OutOfTime, last_step, train

__all__ = [
    "RUNS",
    "Broken",
    "Interrupted",
    "LossConfig",
    "OptimizerConfig",
    "OutOfTime",
    "TrainConfig",
    "last_step",
    "train",
]
