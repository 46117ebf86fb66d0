"""What noise a photograph has, whether its restoration helped, and what to do where it did not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.signal import oaconvolve

from hvae_jax import images
from hvae_jax.images import Image
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import MOST_NOISE, enlarge

GREY_LEVELS = 255
"""Of the images' unit [0, 1], in which people think of deviations."""

MOST_TRIALS = 5
"""With twice the noise each, where a restoration did not help; one of them may have been to find lights."""

RINGING, RINGING_IF_UNSURE, RINGING_AGAIN = 0.65, 0.5, 0.3
"""Total variation over what a blurred picture explains, above which its restoration oscillates: at the first trial, the
same of a JPEG or where edges are rather sharp for the kernel, and once a trial has shown that the noise is not what it
seemed. Found on validation photographs through pipelines like those of `benchmarks.pipelines`: with the right
kernel and noise it is 0.2 to 0.6."""

LEAST_MISFIT = 2 / GREY_LEVELS
"""Difference of a picture from what a restored one explains, above which it is more than rounding and compression."""

MOST_UNEXPLAINED = 0.5
"""Share of a picture above which it is the kernel that does not fit."""

MOST_LIGHTS = 0.05
"""Share of clipped pixels up to which they are lights, in super-resolution; above it they are sky or paper."""

NOISE_BY_LIGHTS = 1.5 / 255
"""Least noise in super-resolution where lights are left out, around which what is filled in fits not exactly."""

LEAST_BEFORE = 2 / GREY_LEVELS
"""Of a blurred picture before it was compressed: little is lost where there was none, and much gained where there was.
Found on validation photographs, at qualities 60 to 95 and noise of 1 to 3."""

LEAST_ESTIMATE = 0.5 / GREY_LEVELS
"""Lowest noise that is estimated: an 8-bit file alone has 0.3 grey levels, and the blur is never exactly known."""


EXAMINED = 1024
"""Side of the middle of a picture by which it is told whether it oscillates."""


class Noise(NamedTuple):
    """The noise that a restoration reckons with.

    Attributes:
        std: σ; where it differs, the root of the mean of its square.
        source: what it was estimated from, or "given".
        weight: σ over the deviation of each pixel or channel; None where it is the same everywhere.
    """

    std: float
    source: str
    weight: Float[np.ndarray, "#H #W #C"] | None


CHANNELS_DIFFER = 1.5
"""Ratio of the channels' deviations from which each has its own."""


def noise_of(
    image: Image,
    degradation: Degradation,
    given: ArrayLike | None,
    gain: float = 0.0,
    hidden: Bool[np.ndarray, "H W"] | None = None,
) -> Noise:
    """The noise of a photograph: given, or estimated where pixels were observed at the frequencies that count."""
    if given is not None:
        source, levels = "given", np.asarray(given, np.float64)
        levels = levels.reshape((*levels.shape, *(1,) * (3 - levels.ndim)))
    else:
        holes = hidden
        if (mask := degradation.mask) is not None:
            missing = (mask.reshape(*mask.shape[:2], -1) == 0).any(axis=-1)
            holes = missing if holes is None else holes | missing
        kernel = degradation.kernel if degradation.task == "deblur" else None
        steps = image.quantisation
        parts = [image.pixels]
        if steps is None and image.pixels.shape[-1] > 1:  # a JPEG's channels were rounded together
            parts += np.split(image.pixels, image.pixels.shape[-1], axis=-1)
        found = [images.estimate_noise(part, kernel, steps, holes) for part in parts]
        least = least_noise(image)
        together, *each = (min(max(one.std, least), MOST_NOISE) for one in found)
        levels, source = np.full((1, 1, 1), together), found[0].source
        if image.noise_std is not None and image.noise_std > together:  # demosaicking hides it
            return Noise(min(image.noise_std, MOST_NOISE), "the file's own noise profile", None)
        if each and max(each) > CHANNELS_DIFFER * min(each):
            levels, source = np.array(each).reshape(1, 1, -1), f"{source}, by channel"
    if gain:
        signal = ndimage.gaussian_filter(np.clip(image.pixels, 0, 1), (2, 2, 0))
        levels = np.sqrt(levels**2 + gain * signal)
    std = math.sqrt(float(np.mean(levels**2)))
    if levels.size == 1 or std == 0:
        return Noise(std, source, None)
    return Noise(std, source, (std / np.maximum(levels, std / 30)).astype(np.float32))


def noise_before(image: Image, task: str) -> float:
    """The noise that a JPEG is reckoned to have had before it was compressed, which hides it."""
    if task == "jpeg":
        return 0.0
    found = images.estimate_noise_std(image.pixels)
    return found if task == "denoise" else max(found, LEAST_BEFORE)


def least_noise(image: Image) -> float:
    """The lowest noise that is assumed unasked: the rounding of the file's samples, and that no blur is exactly known.

    Half a grey level of 255 for files of 8 bits, a tenth for deeper ones, whose used range may be small.
    """
    if image.bit_depth == 8:
        return LEAST_ESTIMATE
    low, high = np.quantile(image.pixels, (0.01, 0.99))
    return float(LEAST_ESTIMATE / 5 * np.clip(high - low, 0.01, 1))


def hidden_pixels(image: Image) -> Bool[np.ndarray, "H W"] | None:
    """Pixels that show nothing: NaN, and of a cut-out those that are wholly transparent. None for nowhere."""
    hidden = np.zeros(image.pixels.shape[:2], bool) if image.missing is None else image.missing
    if image.alpha is not None:
        hidden = hidden | (image.alpha[..., 0] == 0)
    return hidden if hidden.any() and not hidden.all() else None


def unexplained(
    pixels: np.ndarray, image: Image, degradation: Degradation, noise_std: float
) -> Bool[np.ndarray, "H W"] | None:
    """Where a blurred or reduced picture is not what the kernel makes of a restored one in [0, 1]; None for nowhere.

    Around lights brighter than white, whether the picture clips them or the blur has spread them below white, no image
    in [0, 1] explains the picture, and the attempt to do so rings. What such a pixel may have come from is included.
    """
    if degradation.task not in ("deblur", "sr"):
        return None
    kernel, factor = degradation.point_spread, degradation.factor
    shown = np.clip(pixels, 0, 1)
    expected = blurred(shown, kernel)[::factor, ::factor]
    clipped = (image.pixels >= 1 - 0.5 / GREY_LEVELS).any(axis=-1)
    misfit = ndimage.uniform_filter(np.abs(expected - image.pixels).max(axis=-1), 5)
    wrong = misfit > 2 * noise_std + LEAST_MISFIT
    if factor > 1 and clipped.mean() < MOST_LIGHTS:  # a cell that is white throughout explains any light
        wrong |= clipped
    # What is beyond the borders is not known either.
    inside = np.zeros_like(wrong)
    reach = -(-(max(kernel.shape) // 2) // factor)
    inside[reach:-reach, reach:-reach] = True
    wrong &= inside
    if not wrong.any():
        return None
    # Clipped pixels beside it are of the same lights.
    reach_of_blur = kernel > 1e-3 * kernel.max()
    if factor > 1:
        reach_of_blur = np.ones((2 * reach + 1, 2 * reach + 1), bool)
    near = ndimage.binary_dilation(wrong, structure=reach_of_blur) & clipped
    wrong |= ndimage.binary_propagation(near, mask=clipped)
    region = ndimage.binary_dilation(wrong, structure=reach_of_blur)
    return region if region.mean() < MOST_UNEXPLAINED else None


def ringing(
    pixels: np.ndarray, image: Image, degradation: Degradation, unusable: Bool[np.ndarray, "H W"] | None
) -> float:
    """How much a deblurred picture oscillates: its total variation over what the blurred one explains; else 0.

    What that explains is its variation after it was blurred once more by the same kernel, times the growth by undoing
    both. Noise, and edges that the kernel has not made, hardly pass the kernel, so that they explain nothing. What is
    unusable does not count.
    """
    if degradation.task != "deblur":
        return 0.0
    kernel = degradation.point_spread
    middle = tuple(slice(max(0, (side - EXAMINED) // 2), (side + EXAMINED) // 2) for side in pixels.shape[:2])
    without = None if unusable is None else unusable[middle]
    explained = variation_explained(kernel, times=2) * variation(blurred(image.pixels[middle], kernel), without)
    return variation(pixels[middle], without) / max(explained, 1e-12)


def blurred(pixels: Float[np.ndarray, "H W C"], kernel: Float[np.ndarray, "kh kw"]) -> Float[np.ndarray, "H W C"]:
    """A picture blurred, the pixels at its borders continued beyond them."""
    after = [side // 2 for side in kernel.shape]
    before = [side - 1 - half for side, half in zip(kernel.shape, after, strict=True)]
    padded = np.pad(pixels, (*zip(before, after, strict=True), (0, 0)), mode="edge")
    return oaconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)).astype(np.float32)


def variation_explained(kernel: Float[np.ndarray, "kh kw"], times: int = 1) -> float:
    """Growth of the variation by undoing a kernel, of an image whose power falls with the square of the frequency.

    As that of photographs does.

    Args:
        kernel: of sum 1.
        times: how often it blurred.
    """
    size = max(128, *kernel.shape)
    spectrum = np.abs(np.fft.fft2(kernel, (size, size))) ** (2 * times)
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.fftfreq(size) ** 2
    power = 1 / np.maximum(squared, 1 / size**2)
    differences = 2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(size))
    gradient = differences[:, None] + differences
    return math.sqrt(float((gradient * power).sum() / (gradient * power * spectrum).sum()))


def variation(pixels: Float[np.ndarray, "H W C"], unusable: Bool[np.ndarray, "H W"] | None = None) -> float:
    """Mean absolute difference of neighbours, of those that are usable; 0 where none are."""
    total = 0.0
    for axis in (0, 1):
        difference = np.abs(np.diff(pixels, axis=axis)).mean(axis=-1)
        if unusable is not None:
            pair = np.lib.stride_tricks.sliding_window_view(unusable, 2, axis=axis).any(axis=-1)
            difference = difference[~pair]
        total += float(difference.mean()) if difference.size else 0.0
    return total


def blend(
    denoised: np.ndarray, image: Image, noise_std: float, denoise_changed: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Y + w (x̂ - y), with the w in [0, 1] that Stein's unbiased estimate of the risk prefers.

    With N values, x̂ = f(y) and a direction b of random signs, the divergence of f is bᵀ(f(y + εb) - f(y))/ε, and

        w = σ² (N - div f) / ‖f(y) - y‖²

    is 0 where the prior takes more from the picture than there is noise.

    Args:
        denoised: f(y).
        image: y.
        noise_std: σ.
        denoise_changed: the function d -> f(y + d).

    Returns:
        The blend.

    Source: Stein 1981; Ramani, Blu and Unser, "Monte-Carlo SURE", IEEE TIP 17(9), 2008.
    """
    step = np.float32(max(noise_std, LEAST_ESTIMATE) / 10)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), image.pixels.shape)
    moved = denoise_changed(step * signs)
    divergence = float(np.sum(signs * (moved - denoised), dtype=np.float64)) / float(step)
    distance = float(np.sum((denoised - image.pixels) ** 2, dtype=np.float64))
    if distance == 0:
        return denoised
    weight = min(max(noise_std**2 * (image.pixels.size - divergence) / distance, 0.0), 1.0)
    return image.pixels + np.float32(weight) * (denoised - image.pixels)


def keep_where(region: Bool[np.ndarray, "H W"], image: Image, pixels: np.ndarray, factor: int) -> np.ndarray:
    """The result with the picture as it was in a region, which fades out around it."""
    grown = ndimage.binary_dilation(region, np.ones((3, 3), bool)).astype(np.float32)
    weight = np.clip(enlarge(ndimage.uniform_filter(grown, 3)[..., None], factor), 0, 1)
    return pixels + weight * (enlarge(image.pixels, factor) - pixels)
