"""Models: the families of hierarchical VAEs, and what they share."""

from typing import NamedTuple

from hvae_jax.models.contract import HVAE, HierarchyConfig
from hvae_jax.models.patch_vdvae import PatchVDVAE, PatchVDVAEConfig
from hvae_jax.models.vdvae import VDVAE, VDVAEConfig


class Family(NamedTuple):
    """A model family.

    Attributes:
        model: its Flax module, with the methods of `HVAE`.
        config: its architectures.
    """

    model: type[HVAE]
    config: type[HierarchyConfig]


FAMILIES = {
    "patch_vdvae": Family(PatchVDVAE, PatchVDVAEConfig),
    "vdvae": Family(VDVAE, VDVAEConfig),
}
"""Model families by the name that `prior.json` gives them."""
