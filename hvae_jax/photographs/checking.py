"""What noise a photograph has, whether its restoration helped, and what to do where it did not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from scipy import ndimage

from hvae_jax import images
from hvae_jax.encoding import reconstruct
from hvae_jax.images import Image
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import enlarge
from hvae_jax.prior import Prior

GREY_LEVELS = 255
"""Of the images' unit [0, 1], in which people think of deviations."""

MOST_TRIALS = 4
"""With twice the noise each, where a restoration did not help."""

MOST_NOISE = 50 / GREY_LEVELS
"""Highest noise that is assumed unasked; the prior was trained on up to 51."""

RINGING = 0.75
"""Growth of the total variation over what a kernel explains, above which a picture oscillates; sharp photographs have
at most this. Found on training photographs."""

RINGING_OF_A_JPEG = 1.0
"""The same where the coefficients are the data, whose errors are known."""

WARY_RINGING = 0.35
"""The same, once a first trial has shown that the noise is not what it seemed."""

LEAST_DENOISED = 8 / GREY_LEVELS
"""At least so much noise, at most twice as much, is taken out of a blurred picture before its variation is measured."""

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
    blurred = np.stack([ndimage.convolve(c, kernel, mode="nearest") for c in np.moveaxis(shown, -1, 0)], axis=-1)
    blurred = blurred[::factor, ::factor]
    clipped = (image.pixels >= 1 - 0.5 / GREY_LEVELS).any(axis=-1)
    misfit = ndimage.uniform_filter(np.abs(blurred - image.pixels).max(axis=-1), 5)
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


def rings(
    pixels: np.ndarray, image: Image, degradation: Degradation, prior: Prior, noise_std: float, most: float
) -> bool:
    """Whether a deblurred picture oscillates: its total variation grew by more than `most` of what the kernel explains.

    What is explained is the growth of an image whose power falls with the square of the frequency, as that of
    photographs does. The blurred picture is denoised before, for its noise has variation too.
    """
    if degradation.task != "deblur":
        return False
    kernel, size = degradation.point_spread, 128
    spectrum = np.abs(np.fft.fft2(kernel, (size, size))) ** 2
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.fftfreq(size) ** 2
    power = 1 / np.maximum(squared, 1 / size**2)
    differences = 2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(size))
    gradient = differences[:, None] + differences
    explained = math.sqrt(float((gradient * power).sum() / (gradient * power * spectrum).sum()))
    denoised = evaluate(image.pixels, prior, min(max(noise_std, LEAST_DENOISED), 2 * LEAST_DENOISED))
    return variation(pixels) > most * explained * variation(denoised)


def variation(pixels: np.ndarray) -> float:
    """Mean absolute difference of neighbours."""
    return float(np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean())


def evaluate(pixels: np.ndarray, prior: Prior, noise_std: float) -> np.ndarray:
    """A picture denoised by one evaluation of the prior."""
    colour = np.repeat(pixels, prior.config.channels // pixels.shape[-1], axis=-1)
    padded, box = images.pad_to_multiple(colour, prior.multiple)
    level = {"noise_level": noise_std} if prior.config.noise_conditional else {}
    mean = np.asarray(images.crop(reconstruct(prior, padded, 1.0, **level), box))
    return mean if pixels.shape[-1] > 1 else mean.mean(axis=-1, keepdims=True)


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
