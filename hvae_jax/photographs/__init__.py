"""The way of a photograph: read it, pose the problem in a size that the prior takes, restore, check, finish, write.

The command line and whatever else brings a picture goes through these steps and adds none of its own.
"""

from hvae_jax.images import read_image as read_photograph
from hvae_jax.photographs.blind.estimating import KERNEL_SIZE, KernelEstimate, check_estimation, estimate_kernel
from hvae_jax.photographs.degradation import Degradation, degrade_photograph
from hvae_jax.photographs.posing import check, fit, fitting_side
from hvae_jax.photographs.restored import Restored
from hvae_jax.photographs.restoring import check_changes, restore_photograph
from hvae_jax.photographs.writing import write_photograph

__all__ = [
    "KERNEL_SIZE",
    "Degradation",
    "KernelEstimate",
    "Restored",
    "check",
    "check_changes",
    "check_estimation",
    "degrade_photograph",
    "estimate_kernel",
    "fit",
    "fitting_side",
    "read_photograph",
    "restore_photograph",
    "write_photograph",
]
