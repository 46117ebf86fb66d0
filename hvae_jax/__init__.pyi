from . import images, interop, metrics, operators, restoration
from .denoiser import Denoiser, as_denoiser
from .encoding import Encoding, encode, reconstruct, sample
from .photographs import (
    KernelEstimate,
    Restored,
    degrade_photograph,
    estimate_kernel,
    read_photograph,
    restore_photograph,
    write_photograph,
)
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

__version__: str

__all__ = [
    "Denoiser",
    "Encoding",
    "KernelEstimate",
    "Metadata",
    "Posterior",
    "Prior",
    "PriorError",
    "Restoration",
    "RestoreConfig",
    "Restored",
    "Status",
    "as_denoiser",
    "degrade_photograph",
    "encode",
    "estimate_kernel",
    "images",
    "interop",
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
