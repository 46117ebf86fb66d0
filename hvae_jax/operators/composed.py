"""One operator after another: what is seen of an observation, through a second degradation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.operators.base import Operator, Shape
from hvae_jax.operators.conjugate_gradient import Map

Margins = tuple[tuple[int, int], tuple[int, int]]


class Composed(Operator, arrays=("outer", "inner"), static=("margins",)):
    """B P A: an operator A, of whose observation the part that P keeps is observed through another, B.

    A blurred photograph that was saved as a JPEG, say: A blurs a scene that is larger than the picture by `margins`, B
    gives the coefficients of the picture. The data step is conjugate gradient to round-off.

    Args:
        outer: B.
        inner: A, whose observations are B's images.
        margins: rows (above, below) and columns (left, right) of A's observation that B does not see.

    Raises:
        ValueError: if a margin is negative.
    """

    outer: Operator
    inner: Operator
    margins: Margins

    def __init__(self, outer: Operator, inner: Operator, margins: Margins = ((0, 0), (0, 0))) -> None:
        (above, below), (left, right) = margins
        if min(above, below, left, right) < 0:
            raise ValueError(f"margins must be at least 0, got {margins}")
        self._set(outer=outer, inner=inner, margins=((above, below), (left, right)))

    @property
    def task(self) -> str:  # type: ignore[override]
        """That of A."""
        return self.inner.task

    def image_shape(self, observation_shape: Shape) -> Shape:
        """See `Operator.image_shape`."""
        *batch, height, width, channels = self.outer.image_shape(observation_shape)
        (above, below), (left, right) = self.margins
        return self.inner.image_shape((*batch, height + above + below, width + left + right, channels))

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """B P A and Aᵀ Pᵀ Bᵀ; see `Operator.bind`."""
        forward, adjoint = self.inner.bind(image_shape, dtype)
        *batch, height, width, channels = jax.eval_shape(forward, jax.ShapeDtypeStruct(image_shape, dtype)).shape
        (above, below), (left, right) = self.margins
        seen = (*batch, height - above - below, width - left - right, channels)
        if min(seen) < 1:
            raise ValueError(f"margins must leave something of {(height, width)}, got {self.margins}")
        outer_forward, outer_adjoint = self.outer.bind(seen, dtype)
        kept = (..., slice(above, height - below), slice(left, width - right), slice(None))
        return (
            lambda x: outer_forward(forward(x)[kept]),
            lambda y: adjoint(jnp.zeros((*batch, height, width, channels), dtype).at[kept].set(outer_adjoint(y))),
        )

    def initial(self, y: Float[ArrayLike, "*observations"]) -> Float[Array, "*batch height width channels"]:
        """That of A for B's, continued with its edges; see `Operator.initial`."""
        seen = self.outer.initial(y)
        return self.inner.initial(jnp.pad(seen, (*((0, 0),) * (seen.ndim - 3), *self.margins, (0, 0)), mode="edge"))
