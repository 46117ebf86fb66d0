"""Borders: padding to the size that a prior takes, extending, cropping."""

import math
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

Box: TypeAlias = tuple[slice, slice]
"""The rows and the columns of an image inside a larger one."""

LARGEST_EXTENDED = 2048 * 2048
"""Pixels up to which a picture is extended as a whole."""

BAND = 256
"""Pixels of a larger one, from its borders inwards, that have a part in its extension."""


def pad_to_multiple(
    image: Float[np.ndarray, "*batch height width channels"],
    multiple: int,
    *,
    mode: Literal["reflect", "symmetric", "edge", "wrap"] = "reflect",
) -> tuple[Float[np.ndarray, "*batch padded_height padded_width channels"], Box]:
    """Pad an image at its bottom and right until its sides are multiples of what a model needs.

    Args:
        image: of any size from one pixel on; where the padding exceeds it, it is reflected repeatedly.
        multiple: at least 1.
        mode: what to pad with, as in `numpy.pad`.

    Returns:
        The padded image, and the box for `crop` that holds the original.

    Raises:
        ValueError: the array has no pixels, or the multiple is not positive.
    """
    height, width = _check_borders(image, multiple)
    padding = [(0, 0)] * (image.ndim - 3) + [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    return np.pad(image, padding, mode=mode), (slice(0, height), slice(0, width))


def fit_square(image: Float[np.ndarray, "height width channels"], side: int) -> Float[np.ndarray, "side side channels"]:
    """Cut the middle square out of an image and scale it.

    Bilinear; where the result is smaller, each of its pixels averages the area that it stands for (no aliasing).

    Args:
        image: of any size from one pixel on.
        side: pixels along a side of the result.

    Returns:
        The square, float32.

    Raises:
        ValueError: the array has no pixels, or the side is not positive.
    """
    height, width = _check_borders(image)
    if side < 1:
        raise ValueError(f"expected a side of at least 1, got {side}")
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = np.asarray(image[top : top + edge, left : left + edge], np.float32)
    if edge == side:
        return square
    import PIL.Image

    size, how = (side, side), PIL.Image.Resampling.BILINEAR
    return np.stack([np.asarray(PIL.Image.fromarray(c).resize(size, how)) for c in np.moveaxis(square, -1, 0)], -1)


def crop(image: Any, box: Box) -> Any:
    """Cut out of a padded image what was there before.

    Args:
        image: (..., H, W, C), a NumPy or a JAX array.
        box: as returned by `pad_to_multiple` or `extend_periodic`.

    Returns:
        The part of the image in the box.
    """
    return image[..., box[0], box[1], :]


def extend_periodic(
    image: Float[np.ndarray, "*batch height width channels"],
    margin: int,
    multiple: int = 1,
    kernel: Float[np.ndarray, "kernel_height kernel_width"] | None = None,
    *,
    unusable: Bool[np.ndarray, "height width"] | None = None,
    rounded_to: int = 1,
    smoothness: float = 0.03,
    steps: int = 30,
) -> tuple[Float[np.ndarray, "*batch extended_height extended_width channels"], Box]:
    """Extend a blurred photograph so that its opposite borders meet, for a solver with a circular blur.

    A photograph is not periodic, and a circular deconvolution of it rings at the borders. The extension is
    what a circular blur of some smooth image would have given there: with M the image's place in the
    extended domain and K the circular blur, a conjugate gradient solves

        x = argmin ½‖M(Kx − y)‖² + ½ smoothness ‖∇x‖²

    and Kx continues y beyond its borders, where y itself is kept. Without a kernel K is the identity, and
    the extension is the smoothest (harmonic) one. With the kernel a deconvolution of the extended image is
    within 0.3 dB of this least-squares fit of the open border itself; without it, 1 to 3 dB below.

    Args:
        image: the blurred photograph, in any unit.
        margin: pixels that are added at least at each side; half the kernel's size or more.
        multiple: the sides of the result are multiples of it.
        kernel: the point spread function, whose sum is 1, centre at size // 2; None if not known.
        unusable: pixels that are no measurements, clipped ones for example, and are replaced likewise.
        rounded_to: the sides are multiples of it too, for which more is added at the bottom and right.
        smoothness: weight of the gradient; larger for noisier images, uncritical from 0.01 to 0.1.
        steps: of the conjugate gradient.

    Returns:
        The extended image, float32, and the box for `crop` that holds the original.

    Raises:
        ValueError: wrong rank, negative margin, a multiple that is not positive, a kernel that is not a
            matrix or is larger than the extended image.

    The idea is that of Reeves, "Fast image restoration without boundary artifacts", IEEE TIP 14(10), 2005;
    the harmonic extension is that of Liu and Jia, "Reducing boundary artifacts in image deconvolution",
    ICIP 2008.
    """
    height, width = _check_borders(image, multiple)
    if margin < 0:
        raise ValueError(f"expected a margin of at least 0, got {margin}")
    least = (_up(height + 2 * margin, multiple), _up(width + 2 * margin, multiple))
    top, left = (least[0] - height) // 2, (least[1] - width) // 2
    both = math.lcm(multiple, rounded_to)
    sides = (_up(least[0], both), _up(least[1], both))
    box = (slice(top, top + height), slice(left, left + width))
    if sides == (height, width) and unusable is None:
        return image.astype(np.float32), box
    kernel = np.ones((1, 1), np.float32) if kernel is None else np.asarray(kernel, np.float32)
    if kernel.ndim != 2 or kernel.shape[0] > sides[0] or kernel.shape[1] > sides[1]:
        raise ValueError(f"expected a kernel (height, width) of at most {sides}, got {kernel.shape}")
    usable = np.ones((height, width), bool) if unusable is None else ~unusable
    if not usable.any():
        raise ValueError("expected pixels that can be used, got none")
    # Channels first, which the Fourier transforms like better.
    channels = np.moveaxis(image, -1, -3).astype(np.float32)
    solve = partial(_extended, kernel=kernel, smoothness=smoothness, steps=steps)
    if unusable is not None or height * width <= LARGEST_EXTENDED or min(height, width) < 4 * BAND:
        return np.moveaxis(solve(channels, usable, sides, box), -3, -1), box
    # What is far from the borders has no part in what is beyond them: two frames without it, one for each direction.
    extended = np.empty((*channels.shape[:-2], *sides), np.float32)
    extended[..., *box] = channels
    for axis in (1, 0):
        thin = np.concatenate([_part(channels, axis, 0, BAND), _part(channels, axis, -BAND, None)], axis=axis - 2)
        size, before, after = channels.shape[axis - 2], box[axis].start, sides[axis] - box[axis].stop
        domain, place = [*sides], [*box]
        domain[axis], place[axis] = sides[axis] - size + 2 * BAND, slice(before, before + 2 * BAND)
        seen = np.ones(thin.shape[-2:], bool)
        found = solve(thin, seen, (domain[0], domain[1]), (place[0], place[1]))
        _part(extended, axis, 0, before)[...] = _part(found, axis, 0, before)
        _part(extended, axis, sides[axis] - after, None)[...] = _part(found, axis, domain[axis] - after, None)
    return np.moveaxis(extended, -3, -1), box


def _up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def _part(array: np.ndarray, axis: int, start: int, stop: int | None) -> np.ndarray:
    """Some rows (axis 0) or columns (1) of images, a view."""
    return array[..., start:stop, :] if axis == 0 else array[..., start:stop]


def _extended(
    channels: Float[np.ndarray, "*batch height width"],
    usable: Bool[np.ndarray, "height width"],
    sides: tuple[int, int],
    box: Box,
    *,
    kernel: Float[np.ndarray, "kernel_height kernel_width"],
    smoothness: float,
    steps: int,
) -> Float[np.ndarray, "*batch extended_height extended_width"]:
    """Images in a box of a larger domain, continued beyond it and at pixels that are not usable."""
    from hvae_jax.images.extension import continued  # only now, for it takes JAX

    observed_at = np.zeros(sides, bool)
    observed_at[box] = usable
    point_spread = np.zeros(sides, np.float32)
    point_spread[: kernel.shape[0], : kernel.shape[1]] = kernel
    point_spread = np.roll(point_spread, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
    observed = np.zeros((*channels.shape[:-2], *sides), np.float32)
    observed[..., *box] = channels
    extended = np.array(continued(observed, observed_at, point_spread, smoothness, steps))
    extended[..., observed_at] = channels[..., usable]
    return extended


def _check_borders(image: np.ndarray, multiple: int = 1) -> tuple[int, int]:
    if image.ndim < 3 or image.size == 0:
        raise ValueError(f"expected an image (..., height, width, channels), got shape {image.shape}")
    if multiple < 1:
        raise ValueError(f"expected a multiple of at least 1, got {multiple}")
    return image.shape[-3], image.shape[-2]
