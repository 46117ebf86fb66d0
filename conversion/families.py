"""The layouts of checkpoints that the converter knows: a line here for each family."""

from conversion import patch_vdvae, vdvae
from conversion.mapping import Layout

LAYOUTS: dict[str, Layout] = {"vdvae": vdvae.LAYOUT, "patch_vdvae": patch_vdvae.LAYOUT}
"""Layouts by the names of their families in `hvae_jax.models.FAMILIES`."""
