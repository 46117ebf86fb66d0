"""The calibration of a prior's intervals on photographs, for all tasks and noise levels; `restoration.calibration`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

import hvae_jax as hj
from hvae_jax.files import digest_of, writing
from hvae_jax.images import Squares
from hvae_jax.images.formats import FilePath
from hvae_jax.operators import Inpainting
from hvae_jax.prior import Prior, update_prior
from hvae_jax.restoration import recommended_config, restore, sample_posterior, sampling_config
from hvae_jax.restoration.calibration import LEVELS, local_contrast, local_deviation, missing_pixels
from hvae_jax.restoration.posterior import ANNEALING
from hvae_jax.tuning.cases import Case, cases_of, pose, tuning_kernels
from hvae_jax.tuning.search import Row
from hvae_jax.tuning.settings import TUNED, Progress, check, still_there

CALIBRATED_NOISE_LEVELS = (1.0, 2.55, 5.0, 7.65, 12.75, 25.5, 50.0)
"""In grey levels of 255."""

CONTRASTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Of which the weight of the local contrast is chosen, times the mean deviation over the mean contrast."""
FLOORS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Of which the floor is chosen, times the median of the rest."""

LEVEL, LEAST_COVERAGE = 0.9, 0.87
"""Of all pixels, and of those of each quarter of the widths, for which a, b are chosen."""

PIXELS = 4096
"""Of each photograph, at random."""


class Errors(NamedTuple):
    """Of pixels of restored photographs; where they are measured, a row for each photograph.

    Attributes:
        error: |x̂ - x| of one channel of each.
        deviation: d.
        contrast: c.
        missing: whether the pixel was not observed, of inpainting.
    """

    error: Float[np.ndarray, "*P"]
    deviation: Float[np.ndarray, "*P"]
    contrast: Float[np.ndarray, "*P"]
    missing: Bool[np.ndarray, "*P"]


def calibrate(
    prior: Prior,
    images: Squares,
    folder: FilePath,
    *,
    tasks: Sequence[str] = TUNED,
    noise_levels: Sequence[float] = CALIBRATED_NOISE_LEVELS,
    kernels: Float[np.ndarray, "K h w"] | None = None,
    seed: int = 0,
    batch: int = 4,
    progress: Progress = lambda done, count, words: None,
) -> dict[str, list[Row]]:
    """Fit the intervals of tasks and noise levels, with the settings that the prior recommends.

    Args:
        prior: the prior.
        images: photographs that it was neither trained nor tested on; two dozen at least.
        folder: where what is measured is kept: with the same arguments a calibration that was interrupted goes on.
        tasks: of `settings.TUNED`.
        noise_levels: σ in grey levels of 255, increasing.
        kernels: of deblurring; by default those of `tuning_kernels`.
        seed: of masks, noise and draws, at least 0.
        batch: restorations in a compiled call.
        progress: told what is going on.

    Returns:
        A table for each task, as a `prior.json` has them.

    Raises:
        ValueError: something does not fit; see `tune`. The prior recommends no settings.
        OSError: the folder cannot be written.
    """
    kernels = tuning_kernels() if kernels is None else kernels
    check(prior, images.pixels.shape[1], tasks, noise_levels, kernels)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"prior": prior.digest, "settings": prior.info.get("settings"), "images": images.digest, "seed": seed}
    about |= {"kernels": hashlib.sha256(kernels.tobytes()).hexdigest()}
    about |= {"version": hj.__version__, "annealing": ANNEALING}
    digest = digest_of(about)
    cases = cases_of(tasks, noise_levels)
    tables: dict[str, list[Row]] = {}
    for done, (task, factor, sigma) in enumerate(cases):
        case = pose(task, factor, sigma, images.pixels, kernels, seed)
        progress(done, len(cases), f"{case.name}, σ = {sigma:g}")
        path = folder / f"{digest}-{case.name.replace(' ', '-')}-{sigma:g}.npz"
        if path.exists():
            errors = Errors(**np.load(path))
        else:
            errors = measure(prior, case, seed, batch)
            with writing(path) as file:
                np.savez(file, **errors._asdict())
        kind = {} if factor is None else {"factor": factor}
        for missing in np.unique(errors.missing):
            kind |= {"missing": True} if missing else {}
            part = Errors(*(values[errors.missing == missing] for values in errors))
            tables.setdefault(task, []).append({"noise_std": sigma, **kind, **fit(part)})
    progress(len(cases), len(cases), "done")
    return tables


def measure(prior: Prior, case: Case, seed: int, batch: int) -> Errors:
    """Restore the images of a case, draw from their posteriors, and take pixels of each."""
    sigma, count = case.sigma / 255, len(case.clean)
    parts = []
    for start in range(0, count, batch):
        index = [min(i, count - 1) for i in range(start, start + batch)]  # all batches of one size
        operator, y = case.operator(index), case.observed[index]
        config = recommended_config(prior, sigma, operator)
        restored = np.asarray(restore(prior, y, operator, sigma, config).image)
        key = jax.random.fold_in(jax.random.key(seed), start)
        std = np.asarray(sample_posterior(prior, y, operator, sigma, key, sampling_config(config)).std)
        masks = np.asarray(operator.mask) if isinstance(operator, Inpainting) else [None] * batch
        for at, i in enumerate(index[: count - start]):
            rng = np.random.default_rng((seed, i))
            mask = masks[at]
            missing = np.zeros(case.clean[i].shape[:2], bool) if mask is None else missing_pixels(mask)
            height, width, channels = case.clean[i].shape
            chosen = rng.choice(height * width, min(PIXELS, height * width), replace=False)
            error = np.abs(restored[at] - case.clean[i]).reshape(-1, channels)
            parts.append(
                Errors(
                    error[chosen, rng.integers(channels, size=len(chosen))],
                    local_deviation(std[at], mask).ravel()[chosen],
                    local_contrast(restored[at]).ravel()[chosen],
                    missing.ravel()[chosen],
                )
            )
    return Errors(*(np.stack(rows) for rows in zip(*parts, strict=True)))


def fit(errors: Errors) -> Row:
    """The narrowest intervals of level 90 % that hold for 87 % of each quarter of their widths at least.

    Args:
        errors: what was measured.

    Returns:
        contrast, floor (grey levels of 255) and scales of a row of a table, and what they reach on these pixels.
    """
    error, deviation, contrast = (np.asarray(part, np.float64).ravel() for part in errors[:3])
    unit = deviation.mean() / max(contrast.mean(), 1e-9)
    candidates = []
    for a in CONTRASTS:
        rest = deviation + a * unit * contrast
        for b in FLOORS:
            floor = max(b * float(np.median(rest)), 1e-6)
            spread = rest + floor
            scale = np.quantile(error / spread, LEVEL)
            least = min(coverage_by_width(error, scale * spread))
            # First of all that every quarter holds; then the narrowest.
            candidates.append((max(LEAST_COVERAGE - least, 0), scale * spread.mean(), a * unit, floor))
    _, width, a, floor = min(candidates)
    spread = deviation + a * contrast + floor
    return {
        "contrast": _digits(a),
        "floor": _digits(255 * floor),
        "scales": [_digits(scale) for scale in np.quantile(error / spread, LEVELS)],
        "width": _digits(255 * 2 * width),
        "constant_width": _digits(255 * 2 * np.quantile(error, LEVEL)),
    }


def coverage_by_width(error: Float[np.ndarray, " P"], half_width: Float[np.ndarray, " P"]) -> list[float]:
    """The part of pixels within their interval, of each quarter of the widths, the narrowest first."""
    quarter = np.digitize(half_width, np.quantile(half_width, [0.25, 0.5, 0.75]))
    return [float(np.mean(error[quarter == i] <= half_width[quarter == i])) for i in np.unique(quarter)]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def write_calibration(directory: FilePath, prior: Prior, tables: Mapping[str, list[Row]], measured_on: str) -> None:
    """Put tables of calibration into a prior's `prior.json`, all or nothing; those of other tasks stay as they are.

    Args:
        directory: the prior's folder.
        prior: the prior that was measured.
        tables: a table for each task.
        measured_on: the photographs, in words.

    Raises:
        PriorError: the folder holds no prior.
        ValueError: it holds another one by now.
    """
    known: dict[str, Any] = still_there(directory, prior).info.get("calibration") or {}
    update_prior(directory, calibration={**known, **tables}, calibration_measured_on=measured_on)
