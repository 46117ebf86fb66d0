"""Intervals that hold what they say: how the draws' deviation becomes the half-width of an interval of a given level.

The deviation d of draws from the posterior says where a restoration is uncertain, but not how much: the prior is no
exact model of photographs. Nor does it know all of where, so the local contrast c of the restored picture helps, as
errors sit where there is detail. For a level of 90 %, say, the interval of a pixel is

    x̂ ± λ_90 (d + a c + b),

with a, the floor b and a λ for each level fitted for each task and noise level on photographs that were degraded for it
(`tuning.calibrate`), so that this part of their pixels lies within: split conformal prediction, the pixels of new
photographs of that kind being taken as exchangeable with theirs. Of inpainting, pixels that are missing have numbers of
their own, as their errors are of another kind.

Source: Angelopoulos et al., "Image-to-image regression with distribution-free uncertainty quantification", ICML 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from hvae_jax.operators import Composed, Jpeg, Operator, SuperResolution, Weighted
from hvae_jax.prior import Prior
from hvae_jax.restoration.recommended import nearest_factor

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)
"""Parts of pixels for which a table has a scale λ; between them it is interpolated."""

DEVIATION_WIDTH, CONTRAST_WIDTH = 1.0, 2.0
"""Of the Gaussians, in pixels, over which the draws' variance and the squared detail are averaged."""


class Calibration(NamedTuple):
    """How a deviation becomes an interval.

    Attributes:
        deviation: λ for each of `LEVELS`.
        contrast: λ a likewise.
        floor: λ b likewise, in the images' unit.
        extrapolated: whether the noise level is outside the table's, so that it is that of the nearest one.
        missing: the calibration of pixels that were not observed, where that is another one.
    """

    deviation: tuple[float, ...]
    contrast: tuple[float, ...]
    floor: tuple[float, ...]
    extrapolated: bool = False
    missing: Calibration | None = None

    def half_width(
        self,
        deviation: Float[np.ndarray, "*P"],
        contrast: Float[np.ndarray, "*P"],
        level: float = 0.9,
        missing: Bool[np.ndarray, "*P"] | None = None,
    ) -> Float[np.ndarray, "*P"]:
        """Half the width of an interval around each value of a restored image, λ (d + a c + b).

        Args:
            deviation: d, `local_deviation` of draws from the posterior.
            contrast: c, `local_contrast` of the restored image.
            level: the part of the pixels that is to lie within, 0.5 to 0.99.
            missing: which pixels were not observed, of inpainting.

        Returns:
            Half-widths in the images' unit, one for all channels of a pixel.

        Raises:
            ValueError: the level is outside what was calibrated.
        """
        if not LEVELS[0] <= level <= LEVELS[-1]:
            raise ValueError(f"expected a level from {LEVELS[0]} to {LEVELS[-1]}, got {level}")
        # In the logarithm of what lies outside, where the scales are nearly straight.
        at, levels = -np.log1p(-level), -np.log1p(-np.array(LEVELS))
        a, b, c = (np.float32(np.interp(at, levels, one)) for one in (self.deviation, self.contrast, self.floor))
        half = a * deviation + b * contrast + c
        if missing is None or self.missing is None:
            return half
        return np.where(missing, self.missing.half_width(deviation, contrast, level), half)


def local_deviation(
    std: Float[np.ndarray, "H W C"], mask: Float[np.ndarray, "H W *C"] | None = None
) -> Float[np.ndarray, "H W"]:
    """D: the draws' deviation, of the mean variance over the channels and near pixels.

    Args:
        std: standard deviation of the draws, of each pixel.
        mask: of inpainting, 1 where a pixel was observed: holes are averaged with holes, what was observed with its
            like.
    """
    variance = np.mean(np.square(std, dtype=np.float32), axis=-1)
    if mask is None:
        return np.sqrt(ndimage.gaussian_filter(variance, DEVIATION_WIDTH))
    missing = missing_pixels(mask)
    deviation = np.zeros_like(variance)
    for kind in (missing, ~missing):
        share = ndimage.gaussian_filter(kind.astype(np.float32), DEVIATION_WIDTH)
        near = ndimage.gaussian_filter(np.where(kind, variance, np.float32(0)), DEVIATION_WIDTH)
        deviation[kind] = np.sqrt(near[kind] / share[kind])
    return deviation


def missing_pixels(mask: Float[np.ndarray, "H W *C"]) -> Bool[np.ndarray, "H W"]:
    """Which pixels of a mask of inpainting were not observed, in one channel at least."""
    return mask.reshape(*mask.shape[:2], -1).min(axis=-1) <= 0


def local_contrast(image: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W"]:
    """C: the root mean square of an image's detail around each pixel, that is of its difference from itself blurred.

    Args:
        image: the image.
    """
    detail = image - ndimage.gaussian_filter(image, (1, 1, 0))
    return np.sqrt(ndimage.gaussian_filter(np.mean(detail * detail, axis=-1), CONTRAST_WIDTH))


def calibration_for(prior: Prior, operator: Operator, noise_std: float) -> Calibration | None:
    """What a prior's `prior.json` knows for a task and a noise level.

    Args:
        prior: the prior.
        operator: the degradation, which names the task.
        noise_std: σ in the images' unit.

    Returns:
        The calibration, interpolated between the table's noise levels such that the widths are; None where there is no
        table.
    """
    inner = operator.operator if isinstance(operator, Weighted) else operator
    if isinstance(inner, Jpeg | Composed):  # whose errors are of another kind
        return None
    rows: Sequence[Mapping[str, Any]] = (prior.info.get("calibration") or {}).get(inner.task, ())
    if isinstance(inner, SuperResolution) and rows:
        rows = nearest_factor(rows, inner.factor)
    if not rows:
        return None
    missing = [row for row in rows if row.get("missing")]
    observed = _between([row for row in rows if not row.get("missing")] or missing, 255 * noise_std)
    return observed._replace(missing=_between(missing, 255 * noise_std)) if missing else observed


def _between(rows: Sequence[Mapping[str, Any]], sigma: float) -> Calibration:
    """The numbers of a table at a noise level, σ in grey levels of 255."""
    sigmas = [row["noise_std"] for row in rows]

    def numbers(factors: Sequence[float]) -> tuple[float, ...]:
        """λ times a factor of each row, for each level."""
        products = np.array([row["scales"] for row in rows]) * np.array(factors)[:, None]
        return tuple(float(np.interp(sigma, sigmas, column)) for column in products.T)

    return Calibration(
        numbers([1.0 for _ in rows]),
        numbers([row["contrast"] for row in rows]),
        numbers([row["floor"] / 255 for row in rows]),
        # A tenth beyond: noise that was estimated is never exactly that of the table.
        extrapolated=not 0.9 * sigmas[0] <= sigma <= 1.1 * sigmas[-1],
    )
