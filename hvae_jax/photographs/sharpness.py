"""Whether a picture has edges that are sharper than a kernel leaves any: then the kernel is not what blurred it."""

import math

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from hvae_jax import images
from hvae_jax.images.jpeg import rounding_std

DIRECTIONS = 16
"""Of an edge's normal, in half a turn."""

LEAST_CONTRAST = 0.12
"""Range of values around an edge that is looked at; and a multiple of the noise."""

MARGIN = 1.3
"""By so much an edge is steeper than a blurred step can be: textures are a little steeper than steps."""

WIDEST = 0.6
"""Steepness, in contrasts per pixel, above which a picture's own edges are hardly told from blurred ones."""

MOST_STEEP = 6e-4
"""Excess of sharpness above which the kernel does not fit.

Found on validation photographs through the pipelines of `benchmarks.pipelines`: of blurred ones whose kernel is right
4 % are above, of sharp ones 96 % (of those that were given a Gaussian of 1 pixel 77 %).
"""

WARY_STEEP = 2e-4
"""Excess from which a result is looked at more closely."""

OF_ROUNDING = 0.4
"""Of the deviation that a JPEG's steps would have if all coefficients were larger than them: most are not. With this
no blurred picture at quality 60 is too sharp, and 92 % of the sharp ones are."""

LEAST_EDGES = 50
"""Pixels on edges without which nothing is said."""

LARGEST = 2048
"""Side of the middle of a picture that is looked at."""


def excess_of_sharpness(
    pixels: Float[np.ndarray, "H W C"],
    kernel: Float[np.ndarray, "kh kw"],
    quantisation: Float[np.ndarray, "8 8"] | None = None,
) -> float:
    """How many edges of a picture are sharper than a kernel leaves any.

    A unit step that was blurred rises per pixel by at most the largest value of the kernel's profile along the step's
    normal. A pixel's gradient, over the range of values around it, is compared with what the kernel leaves in its
    direction. Clipped neighbourhoods and weak contrasts are left out, and what noise may add is taken from gradients.

    Args:
        pixels: in [0, 1].
        kernel: of sum 1, centre at size // 2.
        quantisation: steps of a JPEG, in grey levels of 255, whose errors may look like edges.

    Returns:
        The share of a picture's edges that are too sharp, times the square of the mean steepness that the kernel
        leaves (wide kernels are exceeded more easily); 0 if there are hardly any edges.
    """
    size = min(max(*kernel.shape, 5) | 1, 15)
    rounding = 0.0 if quantisation is None else OF_ROUNDING * rounding_std(quantisation)
    if (found := _edges(pixels, size, rounding)) is None:
        return 0.0
    steepness, direction, usable = found
    allowed = steepest_step(kernel)[direction]
    edges = usable & (MARGIN * allowed < WIDEST)
    if edges.sum() < LEAST_EDGES:
        return 0.0
    too_steep = float((steepness > MARGIN * allowed)[edges].mean())
    return too_steep * float(allowed[edges].mean()) ** 2


def steepness_by_direction(pixels: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, " quarters"]:
    """How steep the steepest edges of a picture are, by the direction of their normals: NaN where there are few.

    Args:
        pixels: in [0, 1].

    Returns:
        The 95 % quantile of the rise per pixel over the contrast, of edges whose normals are within 22.5 degrees of
        along a row, of the two diagonals and of along a column: near 0.4 for a Gaussian of 1 pixel, more for a picture
        that is not blurred in this direction.
    """
    found = _edges(pixels, 9)
    quarters = np.full(4, np.nan)
    if found is not None:
        steepness, direction, usable = found
        quarter = (direction + 2) // 4 % 4
        for i in range(4):
            if (edges := usable & (quarter == i)).sum() >= LEAST_EDGES:
                quarters[i] = np.quantile(steepness[edges], 0.95)
    return quarters


def steepest_step(kernel: Float[np.ndarray, "kh kw"]) -> Float[np.ndarray, " directions"]:
    """Largest rise per pixel of a blurred unit step whose normal is at i/16 of half a turn, from along a row."""
    at_row, at_column = (np.arange(side) - side // 2 for side in kernel.shape)
    reach = math.ceil(math.hypot(*kernel.shape) / 2) + 1
    positions = np.arange(-4 * reach, 4 * reach + 1) / 4
    steepest = np.empty(DIRECTIONS)
    for i, angle in enumerate(np.pi * np.arange(DIRECTIONS) / DIRECTIONS):
        profile_at = (at_column * np.cos(angle) + at_row[:, None] * np.sin(angle)).ravel()
        # The share of a kernel's pixel, a box seen from this direction, that is within half a pixel of a position.
        half = (abs(np.cos(angle)) + abs(np.sin(angle))) / 2
        within = np.clip((half + 0.5 - np.abs(positions[:, None] - profile_at)) / (2 * half), 0, min(1, 0.5 / half))
        steepest[i] = min(float((within @ kernel.ravel()).max()), 1.0)
    return steepest


def _edges(
    pixels: Float[np.ndarray, "H W C"], size: int, more_noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steepness, direction (of `DIRECTIONS`) and usability of edges; None for a picture that is too small."""
    rows, columns = (slice(max(0, (side - LARGEST) // 2), (side + LARGEST) // 2) for side in pixels.shape[:2])
    pixels = pixels[rows, columns]
    if min(pixels.shape[:2]) <= size:
        return None
    grey = pixels.mean(axis=-1, dtype=np.float64)
    noise = math.hypot(_noise(pixels, grey), more_noise)
    contrast = ndimage.maximum_filter(grey, size) - ndimage.minimum_filter(grey, size)
    brightest = ndimage.maximum_filter(pixels.max(axis=-1), size)
    darkest = ndimage.minimum_filter(pixels.min(axis=-1), size)
    usable = (contrast > max(LEAST_CONTRAST, 12 * noise)) & (brightest < 1 - 1 / 255) & (darkest > 1 / 255)
    # Of an edge near the border the picture may show a part only, and so less contrast than there is.
    inside = np.zeros_like(usable)
    inside[size // 2 : -(size // 2), size // 2 : -(size // 2)] = True
    usable &= inside

    down, right = np.diff(grey, axis=0), np.diff(grey, axis=1)
    down, right = (down[:, 1:] + down[:, :-1]) / 2, (right[1:] + right[:-1]) / 2
    direction = np.rint(np.arctan2(down, right) / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    steepness = np.maximum(np.hypot(down, right) - 3 * noise, 0) / np.maximum(contrast[:-1, :-1], 1e-6)
    return steepness, direction, usable[:-1, :-1] & (steepness > 0.02)


def _noise(pixels: Float[np.ndarray, "H W C"], grey: Float[np.ndarray, "H W"]) -> float:
    """Deviation of the mean of the channels where the picture is flattest, grain included that is not white."""
    mean = ndimage.uniform_filter(grey, 7)
    variance = np.maximum(ndimage.uniform_filter(grey**2, 7) - mean**2, 0)
    return max(0.6 * images.estimate_noise_std(pixels), math.sqrt(float(np.quantile(variance, 0.05))))
