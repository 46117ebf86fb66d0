"""The web page, `hvae-jax web`: a photograph is dropped on it, restored, and compared (extra `web`)."""

from hvae_jax.web.serve import serve

__all__ = ["serve"]
