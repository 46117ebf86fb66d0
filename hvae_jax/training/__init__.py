"""Training of PatchVDVAE priors; reading photographs needs the extra `train`."""

from hvae_jax.training.config import LossConfig, OptimizerConfig, TrainConfig
from hvae_jax.training.loop import Interrupted, train

__all__ = ["Interrupted", "LossConfig", "OptimizerConfig", "TrainConfig", "train"]
