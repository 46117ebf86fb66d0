"""What noise a photograph has, whether its restoration helped, and what to do where it did not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
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

WARY_RINGING = 0.35
"""The same, once a first trial has shown that the noise is not what it seemed."""

LEAST_DENOISED = 8 / GREY_LEVELS
"""At least so much noise, at most twice as much, is taken out of a blurred picture before its variation is measured."""

LEAST_MISFIT = 2 / GREY_LEVELS
"""Difference of a picture from what a restored one explains, above which it is more than rounding and compression."""

MOST_UNEXPLAINED = 0.5
"""Share of a picture above which it is the kernel that does not fit."""

LEAST_ESTIMATE = 0.5 / GREY_LEVELS
"""Lowest noise that is estimated: an 8-bit file alone has 0.3 grey levels, and the blur is never exactly known."""


def estimated(image: Image, degradation: Degradation) -> images.NoiseEstimate:
    """The noise where pixels were observed, at the frequencies that the task amplifies."""
    holes = None
    if (mask := degradation.mask) is not None:
        holes = (mask.reshape(*mask.shape[:2], -1) == 0).any(axis=-1)
    kernel = degradation.kernel if degradation.task == "deblur" else None
    found = images.estimate_noise(image.pixels, kernel, image.quantisation, holes)
    return found._replace(std=min(max(found.std, LEAST_ESTIMATE), MOST_NOISE))


def unexplained(
    pixels: np.ndarray, image: Image, degradation: Degradation, noise_std: float
) -> Bool[np.ndarray, "H W"] | None:
    """Where a blurred picture is not what the kernel makes of a restored one in [0, 1]; None for nowhere.

    Around lights brighter than white, whether the picture clips them or the blur has spread them below white, no image
    in [0, 1] explains the picture, and the attempt to do so rings. What such a pixel may have come from is included.
    """
    if degradation.task != "deblur":
        return None
    kernel = degradation.point_spread
    shown = np.clip(pixels, 0, 1)
    blurred = np.stack([ndimage.convolve(c, kernel, mode="nearest") for c in np.moveaxis(shown, -1, 0)], axis=-1)
    misfit = ndimage.uniform_filter(np.abs(blurred - image.pixels).max(axis=-1), 5)
    wrong = misfit > 2 * noise_std + LEAST_MISFIT
    # What is beyond the borders is not known either.
    inside = np.zeros_like(wrong)
    reach = max(kernel.shape) // 2
    inside[reach:-reach, reach:-reach] = True
    wrong &= inside
    if not wrong.any():
        return None
    # Clipped pixels beside it are of the same lights.
    clipped = (image.pixels >= 1 - 0.5 / GREY_LEVELS).any(axis=-1)
    reach_of_blur = kernel > 1e-3 * kernel.max()
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
    """The result with the picture as it was in a region, with a soft edge."""
    weight = enlarge(ndimage.uniform_filter(region.astype(np.float32), 5)[..., None], factor)
    weight = np.maximum(np.clip(2 * weight - 1, 0, 1), 0)
    return pixels + weight * (enlarge(image.pixels, factor) - pixels)
