"""What speaks for a kernel, or against it, when the picture has been restored with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from hvae_jax.photographs.blind.candidates import Attempt, Part
from hvae_jax.photographs.blind.fitting import Fit
from hvae_jax.photographs.checking import blurred, variation, variation_explained

FEW_EDGES = 0.3
"""Steepness that is taken where there are too few edges to tell."""


def evidence_of(
    one: Attempt,
    part: Part,
    attempts: Sequence[Attempt],
    steepness: Float[np.ndarray, " quarters"],
) -> dict[str, float]:
    """Numbers by which the gain of a restoration is predicted.

    Args:
        one: the restoration.
        part: of the picture.
        attempts: all restorations.
        steepness: of the picture's edges, see `steepness_by_direction`.

    Returns:
        By name: "cost", J of the kernel; the growth of the total variation, "variation", and over what the kernel
        explains; "closest", how unlike the most alike of the other restorations is, over the change; "halves", how
        alike the kernels are that the left and the right half of the picture ask for; logarithms of the "noise" and of
        the "misfit" over it; "least steep", of the picture's edges, by direction.
    """
    x, y, side = one.pixels, part.denoised, part.side
    change = max(_rms(x - y), 1e-4)
    inside = (slice(side // 2, -(side // 2)),) * 2
    growth = math.log(variation(x) / variation(y))
    steep = steepness[np.isfinite(steepness)]
    return {
        "cost": one.fit.cost(one.kernel),
        "variation": growth,
        "variation over explained": growth - math.log(variation_explained(one.kernel)),
        "least steep": float(steep.min()) if steep.size else FEW_EDGES,
        "closest": min(_rms(x - other.pixels) for other in attempts if other is not one) / change,
        "halves": _likeness_of_halves(one, side),
        "noise": math.log(max(part.noise_std, 0.3 / 255)),
        "misfit": math.log(_rms((blurred(x, one.kernel) - part.image.pixels)[inside]) / max(part.noise_std, 1 / 255)),
    }


def similarity(a: Float[np.ndarray, "side side"], b: Float[np.ndarray, "side side"]) -> float:
    """Largest correlation of two kernels over shifts, 1 for equal ones."""
    shape = (2 * a.shape[0], 2 * a.shape[1])
    products = np.fft.irfft2(np.fft.rfft2(a, shape) * np.fft.rfft2(b, shape).conj(), shape)
    return float(products.max() / math.sqrt(float((a**2).sum()) * float((b**2).sum())))


def _likeness_of_halves(one: Attempt, side: int) -> float:
    assert one.posed.box is not None
    rows, columns = one.posed.box
    middle = (columns.start + columns.stop) // 2
    halves = (rows, slice(columns.start, middle)), (rows, slice(middle, columns.stop))
    fits = [Fit(one.restored, one.posed.y, half, one.kernel, one.level, side) for half in halves]
    return similarity(*(fit.free_kernel() for fit in fits))


def _rms(values: np.ndarray) -> float:
    return max(float(np.sqrt(np.mean(values.astype(np.float64) ** 2))), 1e-6)
