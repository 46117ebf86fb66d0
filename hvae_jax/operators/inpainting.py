"""Operators that act on each pixel by itself: inpainting and denoising."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from hvae_jax.operators.base import Operator, Shape, check_image_shape, is_concrete, of_rank
from hvae_jax.operators.conjugate_gradient import Map


class Inpainting(Operator, arrays=("mask",)):
    """Missing pixels, (A x)[i] = mask[i] x[i]; what an observation holds at missing pixels is never read.

    Args:
        mask: 1 (or True) where observed, 0 where missing: (height, width), (height, width, 1),
            (height, width, channels), or one per image (batch, height, width, 1 or channels).

    Raises:
        ValueError: if the mask has another rank or (where its values are known) other values than 0 and 1.
    """

    task = "inpaint"
    per_image: ClassVar[Mapping[str, int]] = MappingProxyType({"mask": 4})

    mask: Bool[Array, "*batch height width mask_channels"]

    def __init__(self, mask: Shaped[ArrayLike, "..."] | Sequence[Any]) -> None:
        shape = np.shape(mask)
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                "a mask must be (height, width), (height, width, channels) or "
                f"(batch, height, width, channels), got shape {shape}"
            )
        # Checked in numpy: inside a compiled function jax would make tracers even of known values.
        if is_concrete(mask) and not np.isin(np.asarray(mask), (0, 1)).all():
            raise ValueError(
                "a mask must hold 1 where observed and 0 where missing, "
                f"got values from {np.min(mask)} to {np.max(mask)}"
            )
        mask = jnp.asarray(mask)
        observed = mask if mask.dtype == bool else mask != 0
        self._set(mask=observed[..., None] if observed.ndim == 2 else observed)

    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images, that of their observations; see `Operator.image_shape`."""
        shape = check_image_shape(observation_shape, "an image with missing pixels")
        # A mask without a batch axis, or with one channel, is for all of them.
        fits = self.mask.shape[-3:-1] == shape[-3:-1] and self.mask.shape[-1] in (1, shape[-1])
        if not fits or (self.mask.ndim == 4 and self.mask.shape[:1] != shape[:-3]):
            raise ValueError(f"mask and image must have the same size, got {self.mask.shape} and {shape}")
        return shape

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """A and Aᵀ, which are the same; see `Operator.bind`."""
        self.image_shape(image_shape)

        def select(x: Array) -> Array:
            # Not a product: a missing pixel may be marked by NaN.
            return jnp.where(of_rank(self.mask, x.ndim), x, 0)

        return select, select

    def observed(
        self, y: Float[ArrayLike, "*batch height width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """Zeros at the missing pixels; see `Operator.observed`."""
        y = jnp.asarray(y)
        return jnp.where(of_rank(self.mask, y.ndim), y, 0)

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """(y + ratio u)/(1 + ratio) where observed, u elsewhere; see `Operator.exact_step`."""
        return lambda u, ratio: u + jnp.where(of_rank(self.mask, y.ndim), y - u, 0) / (1 + ratio)

    def initial(
        self, y: Float[ArrayLike, "*batch height width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """The observation with its holes filled smoothly; see `Operator.initial` and `smooth_fill`."""
        y, shape = self._observation(y)
        return smooth_fill(y, jnp.broadcast_to(of_rank(self.mask, y.ndim), shape))


class Denoising(Operator):
    """The identity, A x = x."""

    task = "denoise"

    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images, that of their observations; see `Operator.image_shape`."""
        return check_image_shape(observation_shape, "a noisy image")

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """The identity, twice; see `Operator.bind`."""
        self.image_shape(image_shape)
        return (lambda x: x), (lambda y: y)

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """(y + ratio u)/(1 + ratio); see `Operator.exact_step`."""
        return lambda u, ratio: u + (y - u) / (1 + ratio)

    def initial(
        self, y: Float[ArrayLike, "*batch height width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """The observation itself; see `Operator.initial`."""
        return self._observation(y)[0]


@functools.partial(jax.jit, static_argnames="sweeps")
def smooth_fill(
    y: Float[Array, "*batch height width channels"],
    observed: Bool[Array, "*batch height width channels"],
    sweeps: int = 8,
) -> Float[Array, "*batch height width channels"]:
    """Fills what is not observed from coarse to fine, which approaches the harmonic fill.

    The image is halved (averages of the observed pixels) until one pixel is left; on the way back holes take
    the coarser level's fill, which a few sweeps smooth: a cascadic multigrid method for Δx = 0 in the holes.

    Args:
        y: image(s).
        observed: True where y is to be kept.
        sweeps: number of smoothing sweeps on each level.

    Returns:
        The image without holes, each channel by itself; 0.5 where nothing of a channel was observed.

    References:
        Gortler et al., "The lumigraph", 1996 (pull-push); Bornemann and Deuflhard, "The cascadic multigrid
        method for elliptic problems", 1996.
    """
    height, width = y.shape[-3:-1]
    if height == width == 1:
        return jnp.where(observed, y, 0.5)
    count = _sum_of_cells(observed.astype(y.dtype))
    coarse = _sum_of_cells(jnp.where(observed, y, 0)) / jnp.maximum(count, 1)
    coarse = smooth_fill(coarse, count > 0, sweeps)
    filled = coarse.repeat(2, axis=-3).repeat(2, axis=-2)[..., :height, :width, :]
    return lax.fori_loop(0, sweeps, lambda _, x: jnp.where(observed, y, _smooth(x)), jnp.where(observed, y, filled))


def _sum_of_cells(x: Array) -> Array:
    """Sums of 2 x 2 pixels, with zeros beyond an odd side."""
    height, width = x.shape[-3:-1]
    x = _pad(x, (0, height % 2), (0, width % 2))
    height, width, channels = x.shape[-3:]
    return x.reshape(*x.shape[:-3], height // 2, 2, width // 2, 2, channels).sum(axis=(-4, -2))


def _smooth(x: Array) -> Array:
    """Each pixel's average with its four neighbours, the damped Jacobi step for Δx = 0."""
    x = _pad(x, (1, 1), (1, 1), mode="edge")
    centre = x[..., 1:-1, 1:-1, :]
    rows = x[..., :-2, 1:-1, :] + x[..., 2:, 1:-1, :]
    columns = x[..., 1:-1, :-2, :] + x[..., 1:-1, 2:, :]
    return (centre + rows + columns) / 5


def _pad(x: Array, rows: tuple[int, int], columns: tuple[int, int], **how: Any) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [rows, columns, (0, 0)], **how)
