"""The tests. Whatever of hvae_jax they import has its annotations checked (see `annotations`)."""

from jaxtyping import install_import_hook

from . import annotations as annotations

install_import_hook("hvae_jax", "tests.annotations.checked")
