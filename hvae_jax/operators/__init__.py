"""Degradations of an image: linear operators with an adjoint and a data step."""

from hvae_jax.operators.base import Operator
from hvae_jax.operators.blur import Blur
from hvae_jax.operators.composed import Composed
from hvae_jax.operators.conjugate_gradient import conjugate_gradient
from hvae_jax.operators.inpainting import Denoising, Inpainting, smooth_fill
from hvae_jax.operators.jpeg import Jpeg
from hvae_jax.operators.linear import Linear
from hvae_jax.operators.super_resolution import SuperResolution
from hvae_jax.operators.weighted import Weighted

__all__ = [
    "Blur",
    "Composed",
    "Denoising",
    "Inpainting",
    "Jpeg",
    "Linear",
    "Operator",
    "SuperResolution",
    "Weighted",
    "conjugate_gradient",
    "smooth_fill",
]
