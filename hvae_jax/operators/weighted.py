"""Noise that is not the same everywhere: an operator whose observations are weighted until it is."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.operators.base import Operator, Shape, of_rank
from hvae_jax.operators.conjugate_gradient import Map
from hvae_jax.operators.inpainting import Denoising, Inpainting


class Weighted(Operator, arrays=("operator", "weight"), static=("exact",)):
    """W A, for observations y = A x + e whose noise has another deviation at each number: W = diag(σ/deviation).

    W y = W A x + W e has noise of one deviation σ. Where the deviations are those of channels, or A acts on each pixel
    by itself, the data step is A's own with the ratio divided by W²; elsewhere it is solved by conjugate gradient.

    Args:
        operator: A.
        weight: σ/deviation, positive, in a shape that broadcasts against observations (height, width, channels).

    Raises:
        ValueError: if the weights are not positive or have more axes.
    """

    operator: Operator
    weight: Float[Array, "#height #width #channels"]
    exact: bool

    def __init__(self, operator: Operator, weight: ArrayLike) -> None:
        known = np.asarray(weight)
        if known.dtype.kind not in "fiu":
            raise ValueError(f"weights must be real numbers, got {known.dtype}")
        known = known.astype(np.float32)
        known = known.reshape((1,) * (3 - known.ndim) + known.shape) if known.ndim < 3 else known
        if known.ndim != 3 or not (np.isfinite(known) & (known > 0)).all():
            raise ValueError(f"weights must be positive, (height, width, channels), got shape {known.shape}")
        by_pixel = isinstance(operator, Denoising | Inpainting)
        self._set(operator=operator, weight=jnp.asarray(known), exact=by_pixel or known.shape[:2] == (1, 1))

    @property
    def task(self) -> str:  # type: ignore[override]
        """That of A; but one evaluation, which is enough for denoising, takes no notice of weights."""
        return Operator.task if isinstance(self.operator, Denoising) else self.operator.task

    def image_shape(self, observation_shape: Shape) -> Shape:
        """See `Operator.image_shape`."""
        sizes = zip(self.weight.shape, observation_shape[-3:], strict=True)
        if len(observation_shape) < 3 or any(size not in (1, side) for size, side in sizes):
            raise ValueError(f"weights {self.weight.shape} must fit the observation, got {tuple(observation_shape)}")
        return self.operator.image_shape(observation_shape)

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """W A and Aᵀ W; see `Operator.bind`."""
        forward, adjoint = self.operator.bind(image_shape, dtype)
        weight = of_rank(self.weight.astype(dtype), len(image_shape))
        return lambda x: weight * forward(x), lambda y: adjoint(weight * y)

    def observed(self, y: Float[ArrayLike, "*observations"]) -> Float[Array, "*observations"]:
        """See `Operator.observed`."""
        return self.operator.observed(y)

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """A's own with ratio/W² where that is exact; see `Operator.exact_step`."""
        if not self.exact:
            return super().exact_step(y)
        weight = of_rank(self.weight.astype(y.dtype), y.ndim)
        step = self.operator.exact_step(y / weight)
        return lambda u, ratio: step(u, ratio / weight**2)

    def initial(self, y: Float[ArrayLike, "*observations"]) -> Float[Array, "*batch height width channels"]:
        """A's own; see `Operator.initial`."""
        y = jnp.asarray(y)
        return self.operator.initial(y / of_rank(self.weight.astype(y.dtype), y.ndim))
