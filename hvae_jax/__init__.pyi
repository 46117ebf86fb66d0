from . import images, metrics, operators, restoration
from .encoding import Encoding, encode, reconstruct, sample
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
    "Status",
    "encode",
    "images",
    "load_prior",
    "metrics",
    "operators",
    "paper_config",
    "recommended_config",
    "reconstruct",
    "restoration",
    "restore",
    "sample",
    "sample_posterior",
]
