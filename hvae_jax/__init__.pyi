from . import images, metrics, operators, restoration
from .encoding import Encoding, encode, reconstruct, sample
from .photographs import Restored, degrade_photograph, read_photograph, restore_photograph, write_photograph
from .prior import Metadata, Prior, PriorError, load_prior
from .restoration import (
    Posterior,
    Restoration,
    RestoreConfig,
    Status,
    paper_config,
    recommended_config,
    restore,
    sample_posterior,
)

__all__ = [
    "Encoding",
    "Metadata",
    "Posterior",
    "Prior",
    "PriorError",
    "Restoration",
    "RestoreConfig",
    "Restored",
    "Status",
    "degrade_photograph",
    "encode",
    "images",
    "load_prior",
    "metrics",
    "operators",
    "paper_config",
    "read_photograph",
    "recommended_config",
    "reconstruct",
    "restoration",
    "restore",
    "restore_photograph",
    "sample",
    "sample_posterior",
    "write_photograph",
]
