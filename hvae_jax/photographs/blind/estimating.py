"""Estimate the blur of a photograph, or say that nothing can be said of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from hvae_jax import images
from hvae_jax.images import Image
from hvae_jax.photographs.blind.candidates import LENGTH_OF_A_LINE, LEVEL, Attempt, Part
from hvae_jax.photographs.blind.evidence import evidence_of
from hvae_jax.photographs.blind.families import ran_away
from hvae_jax.photographs.blind.gate import SHARP, TRUSTED, confidence_of, rank
from hvae_jax.photographs.sharpness import steepness_by_direction
from hvae_jax.prior import Prior, load_prior

KERNEL_SIZE = 25
"""Side of the kernels in pixels, by default; thresholds were found with it."""

LEAST_SIZE, MOST_SIZE = 5, 63
"""Of kernels that are estimated."""

CROP = 176
"""Side in pixels of the part of a picture that is looked at, for kernels of the default size."""

LEAST_CROP = 96
"""Of a picture of which anything is said."""

ROUND = 0.7
"""Ratio of a kernel's deviations from which it has no direction."""


class Candidate(NamedTuple):
    """A kernel that a picture may have been blurred with.

    Attributes:
        kind: "free", or as `images.parse_kernel` takes it.
        kernel: of sum 1, centre at size // 2.
        confidence: from 0 to 1, that a restoration helps.
        evidence: from which it is, see `blind.evidence`.
    """

    kind: str
    kernel: Float[np.ndarray, "kh kw"]
    confidence: float
    evidence: dict[str, float]


class KernelEstimate(NamedTuple):
    """What `estimate_kernel` found.

    Attributes:
        kernel: float32, of sum 1, centre at size // 2; None where nothing is known that would help.
        description: of the kernel in words; where there is none, why not, a sentence.
        confidence: from 0 to 1, that a restoration with the best candidate helps; 0 where there is none.
        noise_std: σ to restore with, in the images' unit: more than there is, for the kernel is not exact.
        candidates: the best one first.
        box: rows and columns of the part of the picture that was looked at.
    """

    kernel: Float[np.ndarray, "kh kw"] | None
    description: str
    confidence: float
    noise_std: float
    candidates: tuple[Candidate, ...]
    box: images.Box


def estimate_kernel(
    photo: Image | Float[np.ndarray, "H W C"],
    *,
    kernel_size: int = KERNEL_SIZE,
    prior: Prior | None = None,
) -> KernelEstimate:
    """Estimate the blur of a photograph, the same everywhere, if it can be known.

    A picture of sharp or of hardly any edges is told at once. Else the part with the most edges is restored with
    kernels of any shape, Gaussians, discs and straight motions, each made to fit by expectation maximization. From
    what the restored parts look like, and how well the kernels agree, it is predicted whether a restoration helps.
    Of those that are trusted the one that explains the picture best is taken; where there is none there is no kernel.

    Args:
        photo: what `read_photograph` gave, or pixels (H, W, C) in [0, 1]; 1 channel or as many as the prior has.
        kernel_size: side in pixels of the largest kernel, odd, from 5 to 63.
        prior: of any size of image; by default the bundled one.

    Returns:
        The estimate.

    Raises:
        ValueError: the size, the prior or the picture cannot be used.

    Example:
        >>> found = hj.estimate_kernel(hj.read_photograph("holiday.jpg"))
        >>> found.kernel is None, found.description
    """
    image = photo if isinstance(photo, Image) else Image(np.asarray(photo, np.float32), None, 32)
    prior = load_prior() if prior is None else prior
    check_estimation(kernel_size, prior)
    if image.pixels.ndim != 3 or image.pixels.shape[-1] not in (1, prior.config.channels):
        raise ValueError(
            f"expected pixels (H, W, C) of 1 or {prior.config.channels} channels, got shape {image.pixels.shape}"
        )
    box = most_edges(image.pixels, CROP + 2 * max(0, kernel_size - KERNEL_SIZE))
    part = image._replace(pixels=np.ascontiguousarray(image.pixels[box]), alpha=None, missing=None, jpeg=None)
    examined = examine(part, kernel_size, prior)
    if isinstance(examined, str):
        return _nothing(examined, box)
    scored = []
    for one, evidence in examined:
        confidence = 0.0 if ran_away(one.kind) else confidence_of(evidence)
        scored.append((Candidate(one.kind, trimmed(one.kernel), confidence, evidence), one.noise_std))
    scored.sort(key=lambda pair: rank(pair[0].confidence, pair[0].evidence["cost"]))
    candidates, (best, noise_std) = tuple(candidate for candidate, _ in scored), scored[0]
    # Of grey photographs that this gate accepted 4 of 11 were worse, by up to 6 dB, and 18 are too few to fit another
    # to (`python -m benchmarks gate --grey`).
    grey = bool((part.pixels == part.pixels[..., :1]).all())
    if best.confidence < TRUSTED or grey:
        likeliest = in_words(best) + ("" if best.kind == "free" else f", {rounded(best.kind)}")
        why = (
            f"no kernel was found that would surely help (the likeliest: {likeliest}, confidence {best.confidence:.2f}"
            f"{', which is not relied on in a grey picture' if grey else ''})"
        )
        return KernelEstimate(None, why, best.confidence, noise_std, candidates, box)
    return KernelEstimate(best.kernel, in_words(best), best.confidence, noise_std, candidates, box)


def examine(part: Image, side: int, prior: Prior) -> list[tuple[Attempt, dict[str, float]]] | str:
    """Restore a part of a picture with all that may have blurred it.

    Args:
        part: of the picture.
        side: of the kernels in pixels, odd.
        prior: of any size of image.

    Returns:
        The attempts with their evidence, or a sentence where the picture itself tells that there is nothing to find.
    """
    least = max(LEAST_CROP, 2 * side)
    if min(part.pixels.shape[:2]) < least:
        return f"the picture is too small to tell its blur (less than {least} pixels)"
    steepness = steepness_by_direction(part.pixels)
    if not np.isfinite(steepness).any():
        return "the picture has too few edges to tell its blur"
    if np.nanmean(steepness) > SHARP:
        return "the picture is sharp"
    examined = Part(part, prior, side, images.estimate_noise(part.pixels, None, part.quantisation).std)
    attempts = examined.attempts()
    return [(one, evidence_of(one, examined, attempts, steepness)) for one in attempts]


def check_estimation(kernel_size: int, prior: Prior) -> None:
    """ValueError where no kernel of this size can be estimated with a prior."""
    if not (LEAST_SIZE <= kernel_size <= MOST_SIZE and kernel_size % 2):
        raise ValueError(
            f"expected a kernel size that is odd and from {LEAST_SIZE} to {MOST_SIZE} pixels, got {kernel_size}"
        )
    if prior.image_size is not None:
        raise ValueError(
            f"expected a prior of images of any size to estimate a kernel, got one of {prior.image_size} pixels"
        )


def _nothing(why: str, box: images.Box) -> KernelEstimate:
    return KernelEstimate(None, why, 0.0, LEVEL, (), box)


def most_edges(pixels: Float[np.ndarray, "H W C"], side: int) -> images.Box:
    """The square of a side (or less, at most the picture) with the largest gradients, clipped ones left out."""
    height, width = (min(side, n) for n in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return slice(0, height), slice(0, width)
    smooth = ndimage.gaussian_filter(pixels.mean(axis=-1), 1.0)
    usable = (pixels < 1 - 0.5 / 255).all(axis=-1) & (pixels > 0.5 / 255).all(axis=-1)
    gradients = np.hypot(*np.gradient(smooth)) * usable
    sums = np.pad(gradients.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    step = max(1, side // 8)
    rows, columns = (np.arange(0, n - m + 1, step) for n, m in zip(pixels.shape[:2], (height, width), strict=True))
    below, right = rows + height, columns + width
    inside = sums[np.ix_(below, right)] - sums[np.ix_(rows, right)] - sums[np.ix_(below, columns)]
    inside += sums[np.ix_(rows, columns)]
    i, j = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(rows[i]), int(below[i])), slice(int(columns[j]), int(right[j]))


def trimmed(kernel: Float[np.ndarray, "side side"]) -> Float[np.ndarray, "kh kw"]:
    """Without empty borders, as much on both sides, so that the centre stays."""
    filled = [np.flatnonzero((kernel > 1e-6).any(axis=1 - axis)) for axis in (0, 1)]
    rows, columns = (
        slice(empty, n - empty)
        for n, empty in ((n, min(int(f[0]), n - 1 - int(f[-1]))) for f, n in zip(filled, kernel.shape, strict=True))
    )
    cut = kernel[rows, columns]
    return (cut / cut.sum()).astype(np.float32)


def in_words(candidate: Candidate) -> str:
    """What blurred the picture."""
    kind, _, text = candidate.kind.partition(":")
    numbers = [float(number) for number in text.split(",")] if text else []
    if kind == "disk":
        return f"out of focus, a disc of radius {numbers[0]:.1f} pixels"
    if kind == "motion":
        return f"a straight motion of {numbers[0]:.0f} pixels at {numbers[1]:.0f} degrees"
    if kind == "gaussian" and min(numbers[:2]) > 0.9 * max(numbers[:2]):
        return f"a Gaussian of {sum(numbers[:2]) / 2:.1f} pixels"
    if kind == "gaussian":
        long, short, angle = numbers if numbers[0] >= numbers[1] else (numbers[1], numbers[0], numbers[2] + 90)
        return f"a Gaussian of {long:.1f} by {short:.1f} pixels at {angle % 180:.0f} degrees"
    deviations, angle = principal_axes(candidate.kernel)
    length = LENGTH_OF_A_LINE * deviations[0]
    if deviations[1] > ROUND * deviations[0]:
        return f"a blur without direction of about {length:.0f} pixels"
    return f"camera shake of about {length:.0f} pixels at {angle:.0f} degrees"


def rounded(kind: str) -> str:
    """As `--kernel` takes it, to a tenth of a pixel or a degree."""
    family, _, numbers = kind.partition(":")
    return f"{family}:{','.join(f'{float(number):.1f}' for number in numbers.split(','))}"


def principal_axes(kernel: Float[np.ndarray, "kh kw"]) -> tuple[tuple[float, float], float]:
    """Deviations of a kernel along its longer and its shorter axis, and the former's angle in degrees, 0 to 180."""
    rows, columns = (np.arange(n) - n // 2 for n in kernel.shape)
    across, down = (kernel * columns**2).sum(), (kernel * rows[:, None] ** 2).sum()
    both = -(kernel * columns * rows[:, None]).sum()  # rows count downwards
    values, vectors = np.linalg.eigh(np.array([[across, both], [both, down]], np.float64))
    short, long = np.sqrt(np.maximum(values, 0))
    return (float(long), float(short)), math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180
