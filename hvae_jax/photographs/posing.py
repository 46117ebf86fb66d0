"""Pose the problem of a photograph in a size that the prior takes, and cut the result back."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hvae_jax import images
from hvae_jax.images import Box, Image
from hvae_jax.operators import Operator
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.prior import Prior

BOUNDARIES = ("natural", "circular")


def check(
    image: Image, degradation: Degradation, boundary: str, prior: Prior, noise_std: float | None
) -> tuple[int, int]:
    """Refuse a picture that cannot be restored in this way; cheap.

    Returns:
        Height and width of the result.

    Raises:
        ValueError: see there.
    """
    height, width, channels = image.pixels.shape
    if np.abs(image.pixels).max() > 10:  # strong noise may reach 2 or 3
        raise ValueError(f"expected values in [0, 1] plus noise, got up to {np.abs(image.pixels).max():g}")
    if channels not in (1, prior.config.channels):
        raise ValueError(f"expected 1 or {prior.config.channels} channels, as the prior has, got {channels}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"expected a boundary natural or circular, got {boundary!r}")
    if noise_std is None and min(height, width) < 5:
        raise ValueError("expected a noise_std for an image of less than 5x5 pixels, got none to estimate it from")
    if noise_std is not None and not 0 <= noise_std <= 1:
        raise ValueError(f"expected a noise_std from 0 to 1, the images' unit, got {noise_std:g}")
    height, width = degradation.factor * height, degradation.factor * width
    degradation.operator(height, width)
    if (size := prior.image_size) is not None:
        if (height, width) != (size, size):
            raise ValueError(
                f"expected a result of {size}x{size} pixels, the only size of this prior, "
                f"got {height}x{width}; resize cuts and scales the image to fit"
            )
        if degradation.task == "deblur" and boundary == "natural":
            reach = max(degradation.point_spread.shape)
            if reach > size // 2:
                raise ValueError(
                    f"expected a kernel of at most half the image's {size} pixels for the boundary natural, got {reach}"
                )
    multiple = math.lcm(prior.multiple, degradation.factor)
    blurs = degradation.task in ("deblur", "sr")
    if blurs and boundary == "circular" and (height % multiple or width % multiple):
        raise ValueError(
            f"expected sides of the result that are multiples of {multiple} for the boundary circular, "
            f"got {height}x{width}; crop the image or take the boundary natural"
        )
    return height, width


def fitting_side(prior: Prior, factor: int, resize: bool) -> int | None:
    """The side to which `resize` scales an observation, or None where it stays as it is."""
    size = prior.image_size
    if size is None and resize:
        raise ValueError("expected no resize, for this prior takes images of any size")
    if size is not None and size % factor:
        raise ValueError(f"expected a factor that divides {size}, the only size of this prior, got {factor}")
    return size // factor if size is not None and resize else None


def fit(image: Image, side: int | None) -> Image:
    """The middle square of a picture, scaled to a side; all of it for None."""
    if side is None:
        return image
    alpha = None if image.alpha is None else images.fit_square(image.alpha, side)
    return image._replace(pixels=images.fit_square(image.pixels, side), alpha=alpha, jpeg=None)


def pose(
    image: Image,
    degradation: Degradation,
    boundary: str,
    prior: Prior,
    unusable: Bool[np.ndarray, "H W"] | None = None,
) -> tuple[Float[np.ndarray, "h w C"], Operator, Box]:
    """The observation in a size that the prior takes, its operator, and where the result is in the restored image."""
    y = np.repeat(image.pixels, prior.config.channels // image.pixels.shape[-1], axis=-1)
    height, width = y.shape[:2]
    factor = degradation.factor
    if degradation.task in ("inpaint", "denoise"):
        y, box = images.pad_to_multiple(y, prior.multiple)
        if (mask := degradation.mask) is not None:
            mask = mask.reshape(height, width, -1)  # padded like the image
            degradation = dataclasses.replace(degradation, mask=images.pad_to_multiple(mask, prior.multiple)[0])
    elif boundary == "circular" or (prior.image_size is not None and factor > 1):
        box = (slice(0, height), slice(0, width))
    else:
        # The kernel's reach on each side, in the observation's pixels. Its extension with the kernel of a blur is
        # what that blur would have given there; an observation of low resolution is hardly blurred.
        kernel = degradation.point_spread
        margin = math.ceil(max(kernel.shape) / 2 / factor)
        multiple = math.lcm(prior.multiple, factor) // factor
        if prior.image_size is not None:
            # No room: replace the margin itself, so that it is what a circular blur gives.
            y = y[margin:-margin, margin:-margin]
            unusable = None if unusable is None else unusable[margin:-margin, margin:-margin]
        y, box = images.extend_periodic(y, margin, multiple, kernel if factor == 1 else None, unusable=unusable)
        if prior.image_size is not None:
            box = (slice(0, height), slice(0, width))
    rows, columns = (slice(factor * side.start, factor * side.stop) for side in box)
    return y, degradation.operator(factor * y.shape[0], factor * y.shape[1]), (rows, columns)


def finish(restored: Array | np.ndarray, box: Box, image: Image) -> Float[np.ndarray, "H W C"]:
    """The result's pixels: without what was added at the borders, grey where the photograph is."""
    pixels = np.asarray(images.crop(restored, box))
    return pixels.mean(axis=-1, keepdims=True) if image.pixels.shape[-1] == 1 else pixels


def enlarge(values: Float[np.ndarray, "H W C"], factor: int) -> Float[np.ndarray, "h w C"]:
    """Bicubic interpolation."""
    if factor == 1:
        return values
    shape = (factor * values.shape[0], factor * values.shape[1], values.shape[2])
    return np.asarray(jax.image.resize(jnp.asarray(values), shape, "cubic"))
