"""What a method is."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array, Float

from hvae_jax.operators import Operator

Method: TypeAlias = Callable[
    [Float[Array, "batch *observation"], Operator, float], Float[Array, "batch height width channels"]
]
"""(y, A, noise_std) -> x: observations y = A x + noise_std·ε, and the images that the method makes of them."""


class Unavailable(ValueError):
    """A method that cannot run here; the message says in one sentence what to install or to give."""
