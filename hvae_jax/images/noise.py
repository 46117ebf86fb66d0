"""The noise of a picture, estimated: white, or as a spectrum where a kernel or a file's compression say what counts."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.fft import dctn

SIDE = 8
"""Pixels along a side of the blocks whose cosine transforms are looked at; JPEG's."""

_FLATTEST, _FLATTEST_OF_CHI2 = 0.05, 0.369457
"""Of blocks, by their energy at the highest frequencies, the flattest; and that quantile of χ²/9 with 9 degrees."""

_QUANTILE, _QUANTILE_OF_CHI2 = 0.3, 0.148472
"""Of blocks, by their energy at a frequency, how many are taken to be flat; and that quantile of χ² with 1 degree."""

NOISE_ONLY = 2e-3
"""Where the kernel passes less of the power than this, what a picture shows is noise."""

WHITE = 1.8
"""White noise has at the lowest of these frequencies at most so much more power than at the highest."""

MARGINS = ((15.0, 3.2), (math.inf, 1.4))
"""Ratio of these powers -> by how much a spectrum that is not white is multiplied.

Grain, whose power rises towards the frequencies where the picture is, needs much; a demosaicked picture, whose highest
frequencies are interpolated and so nearly empty, needs little. Found on training photographs: too much noise costs
little, too little is a catastrophe.
"""

MOST_OVER_LOWEST = 5.0
"""At most so many times the deviation of what is noise alone: the rest is the picture's texture."""

JPEG_MARGIN, JPEG_LEAST, JPEG_MOST = 1.6, 3 / 255, 6 / 255
"""Of a JPEG: what the estimate is multiplied by, its least value, the most that quantisation adds. Found likewise."""


class NoiseEstimate(NamedTuple):
    """What is known of the noise.

    Attributes:
        std: σ, in the unit of the pixels.
        source: what it was estimated from, in words.
    """

    std: float
    source: str


def estimate_noise_std(pixels: Float[np.ndarray, "*batch height width channels"]) -> float:
    """Estimate the deviation of white Gaussian noise in a picture.

        σ = median |d| / 0.6745

    where d is the picture's finest diagonal detail, here the fourth difference along rows and columns scaled
    to unit norm. It cancels cubic polynomials, so that what is left of a blurred picture is the noise; of a
    sharp and textured picture some texture is left and the estimate is too high. Noise that is not white
    (a demosaicked or a compressed picture) is underestimated: see `estimate_noise`.

    Args:
        pixels: in [0, 1], at least 5x5. Neighbourhoods with samples clipped to 0 or 1 are left out.

    Returns:
        The deviation in the unit of the pixels, 0 where all of them are clipped.

    Raises:
        ValueError: the picture is smaller than 5x5, or its samples are integers.

    Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994; fourth
    difference instead of a wavelet.
    """
    if pixels.ndim < 3 or min(pixels.shape[-3:-1]) < 5:
        raise ValueError(f"expected an image of at least 5x5 pixels, got shape {pixels.shape}")
    if pixels.dtype.kind != "f":
        raise ValueError(f"expected pixels as floating-point numbers in [0, 1], got {pixels.dtype}")
    detail = np.asarray(pixels, np.float32)
    clipped = (detail == 0) | (detail == 1)
    for axis in (-3, -2):
        detail = np.diff(detail, 4, axis=axis) / np.float32(math.sqrt(70))  # 1 + 16 + 36 + 16 + 1
        clipped = np.lib.stride_tricks.sliding_window_view(clipped, 5, axis=axis).any(axis=-1)
    usable = np.abs(detail[~clipped])
    return float(np.median(usable) / 0.6745) if usable.size else 0.0


def estimate_noise(
    pixels: Float[np.ndarray, "height width channels"],
    kernel: Float[np.ndarray, "kernel_height kernel_width"] | None = None,
    quantisation: Float[np.ndarray, "8 8"] | None = None,
    unusable: Bool[np.ndarray, "height width"] | None = None,
) -> NoiseEstimate:
    """Estimate the noise that a restoration has to reckon with.

    Without a kernel this is white noise (`estimate_noise_std`). With one it is the noise at the frequencies that
    deblurring amplifies, those where the kernel passes little but not nothing: the power of a frequency of the blocks'
    cosine transforms is a low quantile over the blocks, which are flat somewhere in every picture. Where the kernel
    passes nothing there is noise alone; if that is white, it is the answer. A JPEG's quantisation steps q add an error
    of deviation q/√12 that no flat block shows.

    Args:
        pixels: in [0, 1].
        kernel: of the blur, of sum 1.
        quantisation: steps of the luminance in a JPEG, in grey levels of 255, lowest frequency first.
        unusable: pixels that tell nothing, of holes for example.

    Returns:
        σ in the unit of the pixels, and what it is from.

    Raises:
        ValueError: the picture is smaller than 5x5.

    The blocks' quantile is in the spirit of Ponomarenko et al., "An automatic approach to lossy compression of AVIRIS
    images", IGARSS 2007.
    """
    known = pixels if unusable is None else np.where(unusable[..., None], np.float32(0), pixels)  # 0 counts as clipped
    white = estimate_noise_std(known)
    steps = None if quantisation is None else np.asarray(quantisation, np.float64) / 255
    power = None if min(pixels.shape[:2]) < 4 * SIDE else _power_of_blocks(known)
    if power is not None:  # of a textured picture the flattest blocks tell more
        white = min(white, _white_std(power))
    if kernel is None or power is None:
        if steps is None:
            return NoiseEstimate(white, "the finest detail")
        rounding = math.sqrt(float(np.mean(steps.ravel()[1:] ** 2)) / 12)
        return NoiseEstimate(math.hypot(white, rounding), "the finest detail and the JPEG's quantisation")
    spectrum = np.quantile(power, _QUANTILE, axis=0).mean(axis=0) / _QUANTILE_OF_CHI2
    response = kernel_response(kernel)
    weight = response / (response + 0.02) ** 2
    weight[:2, :2] = 0
    at_cutoff = math.sqrt(float(np.sum(weight * spectrum) / np.sum(weight)))
    if steps is not None:
        rounding = math.sqrt(float(np.sum(weight * steps**2) / np.sum(weight)) / 12)
        std = max(JPEG_MARGIN * math.hypot(at_cutoff, min(rounding, JPEG_MOST)), JPEG_LEAST)
        return NoiseEstimate(std, "the kernel's cut-off and the JPEG's quantisation")
    only = response < NOISE_ONLY
    only[:2, :1] = only[:1, :2] = False
    if only.sum() < 6:
        return NoiseEstimate(max(1.3 * at_cutoff, white), "the kernel's cut-off")
    frequency = np.hypot(*np.mgrid[:SIDE, :SIDE])[only]
    lowest = float(np.median(spectrum[only][frequency <= np.quantile(frequency, 0.35)]))
    highest = float(np.median(spectrum[5:, 5:]))
    ratio = lowest / max(highest, 1e-12)
    if ratio < WHITE:
        return NoiseEstimate(math.sqrt(max(lowest, highest)), "what the kernel does not pass")
    margin = next(margin for most, margin in MARGINS if ratio <= most)
    std = min(margin * at_cutoff, MOST_OVER_LOWEST * math.sqrt(lowest))
    return NoiseEstimate(std, "the kernel's cut-off, for the noise is not white")


def _white_std(power: Float[np.ndarray, "blocks channels 8 8"]) -> float:
    """The deviation of white noise, from the highest frequencies of the flattest blocks."""
    highest = power[..., 5:, 5:].mean(axis=(-2, -1))  # of 9 frequencies, σ² χ²/9 with 9 degrees
    return math.sqrt(float(np.quantile(highest, _FLATTEST, axis=0).mean()) / _FLATTEST_OF_CHI2)


def _power_of_blocks(
    pixels: Float[np.ndarray, "height width channels"],
) -> Float[np.ndarray, "blocks channels 8 8"] | None:
    """Power at each frequency of the blocks without clipped samples, 1 for white noise of deviation 1."""
    step = max(3, math.isqrt(pixels.shape[0] * pixels.shape[1] // 40_000))
    blocks = np.lib.stride_tricks.sliding_window_view(pixels, (SIDE, SIDE), axis=(0, 1))[::step, ::step]
    blocks = blocks.reshape(-1, pixels.shape[-1], SIDE, SIDE)
    usable = ((blocks > 0) & (blocks < 1)).all(axis=(1, 2, 3))
    return dctn(blocks[usable], axes=(-2, -1), norm="ortho") ** 2 if usable.sum() >= 50 else None


def kernel_response(kernel: Float[np.ndarray, "kernel_height kernel_width"]) -> Float[np.ndarray, "8 8"]:
    """The share of the power that a kernel passes at each frequency of an 8x8 cosine transform."""
    frequency = np.arange(SIDE) / (2 * SIDE)
    rows, columns = (np.arange(size) - size // 2 for size in kernel.shape)
    along_rows, along_columns = (np.exp(-2j * np.pi * np.outer(frequency, at)) for at in (rows, columns))
    both = [along_rows @ kernel @ along.T for along in (along_columns, along_columns.conj())]  # both diagonals
    return (np.abs(both[0]) ** 2 + np.abs(both[1]) ** 2) / 2
