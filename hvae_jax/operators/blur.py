"""Circular blur, and what every operator that starts with one shares."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from hvae_jax.operators.base import Kernel, Operator, Shape, check_image_shape, is_concrete, of_rank
from hvae_jax.operators.conjugate_gradient import Map

LARGEST_WEIGHT, LEAST_SUM = 1e30, 1e-30
"""Beyond these the sum of a kernel in single precision is not known."""


class Blur(Operator, arrays=("kernel",)):
    """Circular blur, (A x)[i] = Σ_j k[j] x[i + c − j] with the kernel's centre c = size//2 on each axis.

    This is a true convolution (the kernel is flipped against the image) of every channel with the same
    kernel, with periodic boundaries. An even kernel has its centre just after its middle, as in
    `numpy.fft.fftshift`. The data step divides in the Fourier domain.

    Args:
        kernel: (height, width), or one per image (batch, height, width); at most as large as the image.
        normalize: divide each kernel by its sum, as the official code does.

    Raises:
        ValueError: if the kernel has another rank or is not of real numbers, or (where its values are known)
            is not finite, or is to be normalized and its sum is not positive.
    """

    task = "deblur"
    per_image: ClassVar[Mapping[str, int]] = MappingProxyType({"kernel": 3})

    kernel: Float[Array, "*batch kernel_height kernel_width"]

    def __init__(self, kernel: Kernel, normalize: bool = True) -> None:
        self._set(kernel=as_kernel(kernel, normalize))

    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images, that of their observations; see `Operator.image_shape`."""
        return check_kernel_fits(self.kernel, observation_shape)

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """A and Aᵀ with the kernel's spectrum computed once; see `Operator.bind`."""
        spectrum = transfer_function(self.kernel, image_shape, dtype)
        return functools.partial(filter_image, spectrum), functools.partial(filter_image, spectrum.conj())

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """Divides spectra, x = u + F⁻¹[K̄ (F y − K F u) / (|K|² + ratio)]; see `Operator.exact_step`."""
        spectrum = transfer_function(self.kernel, y.shape, y.dtype)
        power = squared_abs(spectrum)
        observed = fft(y)

        def step(u: Array, ratio: Array) -> Array:
            residual = observed - spectrum * fft(u)
            return u + inverse_fft(divided(spectrum.conj() * residual, power + ratio), u.shape)

        return step

    def initial(
        self, y: Float[ArrayLike, "*batch height width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """The observation itself; see `Operator.initial`."""
        return self._observation(y)[0]


def as_kernel(kernel: Kernel, normalize: bool) -> Float[Array, "*batch kernel_height kernel_width"]:
    """The kernel as a checked float array, divided by its sum if asked; see `Blur`."""
    if not is_concrete(kernel):
        kernel = jnp.asarray(kernel)
        _check_matrices(kernel)
        kernel = kernel if jnp.issubdtype(kernel.dtype, jnp.floating) else kernel.astype(float)
    else:  # checked in NumPy: inside a compiled function JAX would make tracers even of known values
        known = np.asarray(kernel)
        _check_matrices(known)
        if not np.isfinite(known).all():
            raise ValueError("a kernel must be finite, got NaN or infinite values")
        if np.abs(known).max() > LARGEST_WEIGHT:
            raise ValueError(f"a kernel's values must be at most {LARGEST_WEIGHT:g}, got {np.abs(known).max():g}")
        if normalize and not (known.sum(axis=(-2, -1)) > LEAST_SUM).all():
            raise ValueError(
                f"a kernel that is normalized must have a positive sum, got {known.sum(axis=(-2, -1))}; "
                "normalize=False takes it as it is"
            )
        kernel = jnp.asarray(known if known.dtype.kind == "f" else known.astype(float))
    return kernel / kernel.sum(axis=(-2, -1), keepdims=True) if normalize else kernel


def _check_matrices(kernel: Any) -> None:
    """Refuse a kernel of another rank, or that is not of real numbers."""
    if kernel.ndim not in (2, 3) or 0 in kernel.shape:
        raise ValueError(f"a kernel must be (height, width) or (batch, height, width), got shape {kernel.shape}")
    if not (jnp.issubdtype(kernel.dtype, jnp.floating) or jnp.issubdtype(kernel.dtype, jnp.integer)):
        raise ValueError(f"a kernel must be of real numbers, got {kernel.dtype}")


def check_kernel_fits(kernel: Array, image_shape: Shape) -> Shape:
    """The image's shape as a tuple, if the kernel applies to it."""
    image_shape = check_image_shape(image_shape, "a blurred image")
    batch, height, width = image_shape[:-3], image_shape[-3], image_shape[-2]
    if kernel.shape[-2] > height or kernel.shape[-1] > width:
        raise ValueError(
            "the kernel must not be larger than the image, "
            f"got a kernel {kernel.shape[-2:]} and an image {(height, width)}"
        )
    if kernel.ndim == 3 and kernel.shape[:1] != batch:
        raise ValueError(
            f"kernels of shape {kernel.shape} need a batch of {kernel.shape[0]} images, "
            f"got images of shape {image_shape}"
        )
    return image_shape


def on_grid(kernel: Float[Array, "*batch height width"], image_shape: Shape, dtype: Any) -> Array:
    """The kernel on the image's grid, zero elsewhere, with its centre (size//2) at the origin."""
    check_kernel_fits(kernel, image_shape)
    height, width = kernel.shape[-2:]
    grid = jnp.zeros((*kernel.shape[:-2], *image_shape[-3:-1]), dtype).at[..., :height, :width].set(kernel)
    return jnp.roll(grid, (-(height // 2), -(width // 2)), axis=(-2, -1))


def transfer_function(
    kernel: Float[Array, "*batch height width"], image_shape: Shape, dtype: Any
) -> Complex[Array, "*images image_height half_width 1"]:
    """The kernel's spectrum, which multiplies `fft` of an image of this shape."""
    spectrum = jnp.fft.rfft2(on_grid(kernel, image_shape, dtype))[..., None]
    return of_rank(spectrum, len(image_shape))


def filter_image(spectrum: Array, x: Array) -> Array:
    """Multiplies the image's spectrum."""
    return inverse_fft(spectrum * fft(x), x.shape)


def divided(spectrum: Array, by: Array) -> Array:
    """A spectrum over real numbers."""
    return lax.complex(spectrum.real / by, spectrum.imag / by)


def fft(x: Array) -> Array:
    """Fourier transform of an image's rows and columns; half of them, as the image is real."""
    return jnp.fft.rfft2(x, axes=(-3, -2))


def inverse_fft(spectrum: Array, image_shape: Shape) -> Array:
    """The image of this shape with this (half) spectrum."""
    return jnp.fft.irfft2(spectrum, s=image_shape[-3:-1], axes=(-3, -2))


def squared_abs(z: Complex[Array, "..."]) -> Float[Array, "..."]:
    """|z|², without the square root of `abs`, whose gradient at 0 is not defined."""
    return z.real**2 + z.imag**2
