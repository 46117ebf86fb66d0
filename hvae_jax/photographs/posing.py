"""Pose the problem of a photograph in a size that the prior takes, and cut the result back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from hvae_jax import images, operators
from hvae_jax.images import Box, Image
from hvae_jax.images.jpeg import coefficients, rounding_std
from hvae_jax.images.read import upright
from hvae_jax.operators import Operator
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.prior import Prior

BOUNDARIES = ("natural", "circular")

MOST_NOISE = 50 / 255
"""Highest noise that is assumed unasked; the prior was trained on up to 51."""

NOISE_OF_EQUAL_CHANNELS = 3.0
"""Over the noise of a blurred grey picture, what it is reckoned to have: the prior is shown three equal channels, whose
noise is the same and so is more like texture, and counts once. Found on validation photographs, blurred and grey."""


def check(
    image: Image, degradation: Degradation, boundary: str, prior: Prior, noise_std: ArrayLike | None
) -> tuple[int, int]:
    """Refuse a picture that cannot be restored in this way; cheap.

    Returns:
        Height and width of the result.

    Raises:
        ValueError: see there.
    """
    height, width, channels = image.pixels.shape
    if channels not in (1, prior.config.channels):
        raise ValueError(f"expected 1 or {prior.config.channels} channels, as the prior has, got {channels}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"expected a boundary natural or circular, got {boundary!r}")
    if noise_std is None and min(height, width) < 5:
        raise ValueError("expected a noise_std for an image of less than 5x5 pixels, got none to estimate it from")
    if noise_std is not None:
        levels = np.asarray(noise_std)
        if not ((levels >= 0) & (levels <= 1)).all():
            shown = f"{levels:g}" if levels.ndim == 0 else f"up to {levels.max():g}"
            raise ValueError(f"expected a noise_std from 0 to 1, the images' unit, got {shown}")
        if levels.ndim not in (0, 2, 3) or (levels.ndim and levels.shape[:2] != (height, width)):
            raise ValueError(
                f"expected a noise_std that is a number or of the image's shape {(height, width)}, got {levels.shape}"
            )
    if degradation.task == "jpeg" and (image.jpeg is None or prior.image_size is not None):
        raise ValueError(
            "expected a JPEG file, read as it is, and a prior of any size for the task jpeg, got another; "
            "denoise takes other pictures"
        )
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


SIZES_PER_OCTAVE = 8
"""Of the sides that pictures have whose sizes are rounded up."""


def shared_multiple(prior: Prior, factor: int, sides: tuple[int, int]) -> int:
    """What sides are to be multiples of, so that pictures of many sizes have few after padding, and share programs.

    Args:
        prior: the prior.
        factor: of super-resolution.
        sides: height and width of the result.

    Returns:
        An eighth of the largest power of two in the shorter side, rounded up to what the prior and the factor need.
    """
    multiple = math.lcm(prior.multiple, factor)
    octave = 2 ** (min(sides).bit_length() - 1)
    return max(1, math.ceil(octave / SIZES_PER_OCTAVE / multiple)) * multiple


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
    missing = image.missing
    if missing is not None:  # where any that went into a pixel was
        missing = images.fit_square(missing[..., None].astype(np.float32), side)[..., 0] > 1e-4
    return image._replace(
        pixels=images.fit_square(image.pixels, side), alpha=alpha, missing=missing, jpeg=None, noise_std=None
    )


class Posed(NamedTuple):
    """A photograph's problem in a size that the prior takes.

    Attributes:
        y: the observation.
        operator: its operator.
        finish: cuts the photograph's result out of a restored image; grey where the photograph is.
        box: where the photograph's pixels are in y; None where y is none of pixels.
    """

    y: Float[np.ndarray, ...]
    operator: Operator
    finish: Callable[[Any], Float[np.ndarray, "H W C"]]
    box: Box | None


def pose(
    image: Image,
    degradation: Degradation,
    boundary: str,
    prior: Prior,
    unusable: Bool[np.ndarray, "H W"] | None = None,
    weight: Float[np.ndarray, "#H #W #C"] | None = None,
    multiple: int | None = None,
) -> Posed:
    """The observation in a size that the prior takes, and its operator.

    Args:
        image: the photograph.
        degradation: what happened to it.
        boundary: see `restore_photograph`.
        prior: the prior.
        unusable: pixels that are no measurements.
        weight: of noise that differs, see `operators.Weighted`.
        multiple: what the sides are to be multiples of, a multiple of the prior's; None for that.

    Returns:
        The problem.
    """
    multiple = prior.multiple if multiple is None else multiple
    y = np.repeat(image.pixels, prior.config.channels // image.pixels.shape[-1], axis=-1)
    height, width = y.shape[:2]
    factor = degradation.factor
    if degradation.task in ("inpaint", "denoise", "jpeg"):
        y, box = images.pad_to_multiple(y, multiple)
        mask = degradation.mask
        if unusable is not None:
            seen = (~unusable[..., None]).astype(np.float32)
            mask = seen if mask is None else mask.reshape(height, width, -1) * seen
        if mask is not None:  # padded like the image
            mask = images.pad_to_multiple(mask.reshape(height, width, -1), multiple)[0]
            degradation = dataclasses.replace(degradation, task="inpaint", mask=mask)
    elif boundary == "circular" or (prior.image_size is not None and factor > 1):
        box = (slice(0, height), slice(0, width))
    else:
        # The kernel's reach on each side, in the observation's pixels. Its extension with the kernel of a blur is
        # what that blur would have given there; an observation of low resolution is hardly blurred.
        kernel = degradation.point_spread
        margin = math.ceil(max(kernel.shape) / 2 / factor)
        least = math.lcm(prior.multiple, factor) // factor
        rounded_to = math.lcm(multiple, factor) // factor
        if prior.image_size is not None:
            # No room: replace the margin itself, so that it is what a circular blur gives.
            y = y[margin:-margin, margin:-margin]
            unusable = None if unusable is None else unusable[margin:-margin, margin:-margin]
        known = kernel if factor == 1 else None
        y, box = images.extend_periodic(y, margin, least, known, unusable=unusable, rounded_to=rounded_to)
        if prior.image_size is not None:
            box = (slice(0, height), slice(0, width))
    operator = degradation.operator(factor * y.shape[0], factor * y.shape[1])
    if weight is not None:
        if weight.shape[:2] != (1, 1) and weight.shape[:2] != y.shape[:2]:  # as at the nearest border
            rows, columns = (
                np.clip(np.arange(size) - side.start, 0, known - 1)
                for size, side, known in zip(y.shape[:2], box, weight.shape[:2], strict=True)
            )
            weight = weight[rows][:, columns]
        y, operator = y * weight, operators.Weighted(operator, weight)
    rows, columns = (slice(factor * side.start, factor * side.stop) for side in box)

    def finish(restored: Any) -> Float[np.ndarray, "H W C"]:
        return grey_like(image, images.crop(np.asarray(restored), (rows, columns)))

    return Posed(y, operator, finish, box)


JPEG_NOISE_STD = 6 / 255
"""The deviation to which a JPEG's coefficients are weighted, which says how far the prior is to go: this, or half of
what the rounding of the luminance amounts to, if that is less. Found on validation photographs at qualities 10 to 98.
"""

LEAST_ROUNDING = 3 / 255
"""Of the luminance; a JPEG that errs by less (quality 93 and above) is taken as pixels with noise, for the prior knows
less of it than the file.
"""

LEAST_ROUNDING_OF_A_BLUR = 1 / 255
"""Likewise where the picture was blurred before, in which the rounding of weak frequencies counts (quality 98)."""

CELL_MARGIN = 2.0
"""Deviations of the noise before the compression by which a result may be outside of the file's cells."""


def pose_jpeg(
    image: Image, degradation: Degradation, prior: Prior, noise_before: float, multiple: int
) -> tuple[Posed, float] | None:
    """The problem whose observation is a JPEG's coefficients, and its noise; None where pixels tell as much.

    Args:
        image: the photograph, with its file.
        degradation: what happened before it was saved: "denoise" or "jpeg" for nothing, or "deblur".
        prior: a prior of any size.
        noise_before: deviation of white noise in the picture before it was compressed.
        multiple: see `pose`; what a kernel needs beyond the borders comes on top.
    """
    found = None if image.jpeg is None else coefficients(image.jpeg, multiple)
    if found is None:
        return None
    blurred = degradation.task == "deblur"
    rounding = rounding_std(found.steps[0])
    shown = found.size if found.orientation < 5 else found.size[::-1]
    if rounding < (LEAST_ROUNDING_OF_A_BLUR if blurred else LEAST_ROUNDING) or shown != image.pixels.shape[:2]:
        return None  # the last: it was cut since it was read
    std = math.hypot(min(JPEG_NOISE_STD, rounding / 2), noise_before)
    seen = operators.Jpeg(found.steps, found.sampling, std, noise_before, prior.config.channels)
    y = seen.observation(found.values)
    operator: Operator = seen
    (rows, columns), corner = found.size, (0, 0)
    if blurred:
        kernel = _as_stored(degradation.point_spread, found.orientation)
        reach = math.ceil(max(kernel.shape) / 2)
        sides = seen.image_shape(y.shape)[:2]
        larger = [-(-(side + 2 * reach) // prior.multiple) * prior.multiple for side in sides]
        corner = ((larger[0] - sides[0]) // 2, (larger[1] - sides[1]) // 2)
        above, left = corner
        margins = ((above, larger[0] - sides[0] - above), (left, larger[1] - sides[1] - left))
        operator = operators.Composed(seen, operators.Blur(kernel), margins)

    def finish(restored: Any) -> Float[np.ndarray, "H W C"]:
        if not blurred:
            restored = seen.within_cells(restored, y, CELL_MARGIN)
        return grey_like(
            image, upright(np.asarray(restored)[corner[0] :, corner[1] :][:rows, :columns], found.orientation)
        )

    return Posed(np.asarray(y), operator, finish, None), std


def _as_stored(kernel: Float[np.ndarray, "kh kw"], orientation: int) -> Float[np.ndarray, "rows columns"]:
    """The kernel of a picture whose samples are not turned upright, its sides made odd so that its centre stays."""
    if orientation == 1:
        return kernel
    odd = np.pad(kernel, [(0, 1 - side % 2) for side in kernel.shape])
    return np.ascontiguousarray(upright(odd, {6: 8, 8: 6}.get(orientation, orientation)))


def excess_of_noise(posed: Posed, task: str) -> float:
    """By how much more noise than there is a problem is solved with: 1, and more where a blurred picture is grey."""
    y = posed.y
    equal = posed.box is not None and y.shape[-1] > 1 and bool((y == y[..., :1]).all())
    return NOISE_OF_EQUAL_CHANNELS if task == "deblur" and equal else 1.0


def grey_like(image: Image, pixels: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W c"]:
    """Grey where the photograph is."""
    return pixels.mean(axis=-1, keepdims=True) if image.pixels.shape[-1] == 1 else pixels


def as_image(photo: Any) -> Image:
    """What is no `Image` yet: pixels as one.

    Raises:
        ValueError: they are none.
    """
    if isinstance(photo, Image):
        return photo
    pixels = np.asarray(photo)
    if pixels.dtype.kind != "f":
        raise ValueError(f"expected pixels as floating-point numbers in [0, 1], got {pixels.dtype}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.size == 0:
        raise ValueError(f"expected pixels (H, W) or (H, W, C), got shape {pixels.shape}")
    return Image(pixels.astype(np.float32), None, 32)


class Range(NamedTuple):
    """Values that are to be 0 and 1."""

    low: float
    high: float

    def to_unit(self, pixels: np.ndarray) -> np.ndarray:
        """To [0, 1]."""
        return ((pixels - self.low) / (self.high - self.low)).astype(np.float32)

    def from_unit(self, pixels: np.ndarray) -> np.ndarray:
        """And back."""
        return (pixels * (self.high - self.low) + self.low).astype(np.float32)


def range_of(image: Image, given: tuple[float, float] | None) -> Range | None:
    """The range of a picture's values, where they are not in [0, 1] plus noise: what is given, or what is found.

    Raises:
        ValueError: the range is none.
    """
    if given is not None:
        low, high = given
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"expected a range of two numbers, the lower first, got {low:g} and {high:g}")
        return None if (low, high) == (0, 1) else Range(float(low), float(high))
    if image.bit_depth < 32:
        return None
    least, most = (float(value) for value in np.quantile(image.pixels, (0.005, 0.995)))
    beyond = max(-least, most - 1) - 0.25
    if beyond <= 0 or (min(image.pixels.shape[:2]) >= 5 and beyond <= 4 * images.estimate_noise_std(image.pixels)):
        return None
    return Range(min(0.0, float(image.pixels.min())), float(image.pixels.max()))


def enlarge(values: Float[np.ndarray, "H W C"], factor: int) -> Float[np.ndarray, "h w C"]:
    """Bicubic interpolation."""
    if factor == 1:
        return values
    shape = (factor * values.shape[0], factor * values.shape[1], values.shape[2])
    return np.asarray(jax.image.resize(jnp.asarray(values), shape, "cubic"))
