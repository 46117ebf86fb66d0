"""Super-resolution: blur, then keep one pixel of each cell."""

import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.operators.base import Kernel, Operator, Shape, check_image_shape, of_rank
from hvae_jax.operators.blur import (
    as_kernel,
    check_kernel_fits,
    divided,
    fft,
    filter_image,
    inverse_fft,
    on_grid,
    squared_abs,
    transfer_function,
)
from hvae_jax.operators.conjugate_gradient import Map


class SuperResolution(Operator, arrays=("kernel",), static=("factor",)):
    """Circular blur followed by sampling, (A x)[i] = (k * x)[factor·i]: each cell's top-left pixel is kept.

    The data step is the closed form of Zhao et al., "Fast single image super-resolution using a new
    analytical solution for l2-l2 problems", 2016: A Aᵀ is a circular convolution on the coarse grid.

    Args:
        kernel: (height, width), or one per image (batch, height, width); see `Blur`.
        factor: side of a cell in pixels, at least 1; the image's sides must be multiples of it.
        normalize: divide each kernel by its sum, as the official code does.

    Raises:
        ValueError: if the factor is not a whole number of at least 1, or for the kernel as in `Blur`.
    """

    task = "sr"
    per_image: ClassVar[Mapping[str, int]] = MappingProxyType({"kernel": 3})

    kernel: Float[Array, "*batch kernel_height kernel_width"]
    factor: int

    def __init__(
        self,
        kernel: Kernel,
        factor: int,
        normalize: bool = True,
    ) -> None:
        if not (isinstance(factor, numbers.Integral) and factor >= 1):
            raise ValueError(f"the factor of a super-resolution must be a whole number of at least 1, got {factor!r}")
        self._set(kernel=as_kernel(kernel, normalize), factor=int(factor))

    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images, `factor` times as high and wide; see `Operator.image_shape`."""
        *batch, height, width, channels = check_image_shape(observation_shape, "a low-resolution image")
        return check_kernel_fits(self.kernel, (*batch, height * self.factor, width * self.factor, channels))

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """A and Aᵀ with the kernel's spectrum computed once; see `Operator.bind`."""
        spectrum = transfer_function(self.kernel, image_shape, dtype)
        step = self.factor
        if image_shape[-3] % step or image_shape[-2] % step:
            raise ValueError(
                f"the image's sides must be multiples of the factor {step}, got {tuple(image_shape[-3:-1])}"
            )

        def forward(x: Array) -> Array:
            return filter_image(spectrum, x)[..., ::step, ::step, :]

        def adjoint(y: Array) -> Array:
            spread = jnp.zeros(image_shape, dtype).at[..., ::step, ::step, :].set(y)
            return filter_image(spectrum.conj(), spread)

        return forward, adjoint

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """Divides spectra, x = u + Aᵀ F⁻¹[F(y − A u) / (P + ratio)]; see `Operator.exact_step`."""
        shape = self.image_shape(y.shape)
        forward, adjoint = self.bind(shape, y.dtype)
        power = self._aliased_power(shape, y.dtype)  # P, the spectrum of A Aᵀ

        def step(u: Array, ratio: Array) -> Array:
            return u + adjoint(inverse_fft(divided(fft(y - forward(u)), power + ratio), y.shape))

        return step

    def initial(
        self, y: Float[ArrayLike, "*batch low_height low_width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """Bicubic interpolation, clipped to [0, 1]; see `Operator.initial`.

        The grid is shifted by (factor − 1)/2 pixels, because y has the top-left pixels of the cells and not
        their centres. Beyond the borders the image is continued with its edge.
        """
        y, shape = self._observation(y)
        border = 2  # pixels that a cubic kernel sees beyond the edge
        padded = jnp.pad(y, [(0, 0)] * (y.ndim - 3) + [(border, border), (border, border), (0, 0)], mode="edge")
        x = jax.image.scale_and_translate(
            padded,
            shape,
            spatial_dims=(y.ndim - 3, y.ndim - 2),
            scale=jnp.full(2, self.factor, y.dtype),
            translation=jnp.full(2, -(self.factor - 1) / 2 - border * self.factor, y.dtype),
            method="cubic",
            antialias=False,
        )
        return jnp.clip(x, 0, 1)

    def _aliased_power(self, image_shape: Shape, dtype: Any) -> Float[Array, "*images low_height half_low_width 1"]:
        """|K|² averaged over the frequencies that sampling folds together."""
        step = self.factor
        height, width = image_shape[-3] // step, image_shape[-2] // step
        power = squared_abs(jnp.fft.fft2(on_grid(self.kernel, image_shape, dtype)))
        folded = power.reshape(*power.shape[:-2], step, height, step, width).mean(axis=(-4, -2))
        return of_rank(folded[..., : width // 2 + 1, None], len(image_shape))
