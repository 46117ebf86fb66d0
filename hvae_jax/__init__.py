"""Restore degraded images with hierarchical VAE priors (PnP-HVAE) in JAX.

The public names are in `__init__.pyi`. They are imported when they are first used (SPEC 1): `import hvae_jax` costs
nothing, not even JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
