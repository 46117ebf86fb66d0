"""Restore degraded images with hierarchical VAE priors (PnP-HVAE) in JAX.

The public names are in `__init__.pyi`. They are imported when they are first used (SPEC 1): `import hvae_jax` costs
nothing, not even JAX.
"""

import lazy_loader

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name != "__version__":
        return _public_name(name)
    import importlib.metadata

    try:
        return importlib.metadata.version("hvae_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "0+unknown"
