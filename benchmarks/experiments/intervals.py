"""Whether the intervals of `--uncertainty` hold what they say: coverage and width on other photographs."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.experiment import solver_version
from benchmarks.experiments.common import Options
from benchmarks.problems import DATA
from hvae_jax.restoration.calibration import calibration_for
from hvae_jax.tuning.calibration import LEVEL, coverage_by_width, measure
from hvae_jax.tuning.cases import cases_of, pose, tuning_kernels
from hvae_jax.tuning.settings import TUNED

TITLE, PAPER = "Intervals of 90 %", "none"
NOISE_LEVELS = (2.55, 3.5, 5.0, 10.0, 12.75, 25.5, 35.0)
"""In grey levels of 255; some are knots of the table, some lie between."""

IDEAL = 1.6449 / np.sqrt(2 / np.pi)
"""Half-width of a normal error's 90 % interval over its mean absolute value."""


def coverage(options: Options, task: str, factor: int | None, sigma: float) -> dict[str, Any]:
    """What part of the pixels is within, and how wide that is."""
    kernels = tuning_kernels(options.kernels or DATA / "usrnet12.npz")
    case = pose(task, factor, sigma, options.images.pixels, kernels, options.seed)
    calibration = calibration_for(options.prior, case.operator([0]), sigma / 255)
    if calibration is None:
        raise ValueError(
            f"expected a prior that is calibrated for {task}, got one that is not (hvae-jax tune --calibrate)"
        )
    errors = measure(options.prior, case, options.seed, options.batch)
    half = calibration.half_width(errors.deviation, errors.contrast, LEVEL, errors.missing)
    within = errors.error <= half
    constant = np.quantile(errors.error, within.mean())
    return {
        "coverage": float(within.mean()),
        "least": min(coverage_by_width(errors.error.ravel(), half.ravel())),
        "images": [round(float(one), 4) for one in within.mean(axis=1)],
        "width": float(2 * 255 * half.mean()),
        "ratio": float(half.mean() / constant),
        "ideal": float(IDEAL * errors.error.mean() / constant),
    }


def run(options: Options) -> None:
    """Run it."""
    import matplotlib.pyplot as plt

    cases = cases_of(TUNED, NOISE_LEVELS)
    calibration = solver_version(options.prior, "calibration")
    with options.start("intervals", TITLE, PAPER, calibration=calibration, version=VERSION) as run:
        run.expect(len(cases))
        lines, shown = [], []
        for task, factor, sigma in cases:
            name = task if factor is None else f"{task} x{factor}"
            row = run.row({"task": name, "σ": sigma}, partial(coverage, options, task, factor, sigma))
            images = row["images"]
            numbers = (
                row["coverage"],
                np.std(images, ddof=1) / len(images) ** 0.5,
                min(images),
                max(images),
                row["least"],
                row["width"],
                row["ratio"],
                row["ideal"],
            )
            lines.append([name, sigma, *numbers])
            shown.append((f"{name}, {sigma:g}", row["coverage"], row["least"]))
        means = np.mean([line[2:] for line in lines], axis=0).tolist()
        lines.append(["all", "", *means])
        columns = [
            "task",
            "σ",
            "coverage",
            "standard error",
            "least image",
            "most image",
            "least quarter of widths",
            "mean width",
            "over constant width",
            "ideal",
        ]
        note = (
            f"Of {len(options.images.names)} images, used neither in training nor for the intervals. Standard error: "
            "of the coverage, from how it differs between the images. Width in grey levels of 255; constant: the "
            "interval of one width for all pixels of the row with the same coverage, chosen with the truth at hand. "
            "Ideal: what that ratio would be if each pixel's error were normal, of a deviation that is known."
        )
        run.table("Coverage of the 90 % intervals", columns, lines, notes=[note])
        figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
        axes.plot([one[1] for one in shown], "o", label="all pixels")
        axes.plot([one[2] for one in shown], "v", label="the quarter of the widths with the least")
        axes.axhline(LEVEL, color="0.6", linewidth=1)
        axes.set_xticks(range(len(shown)), [one[0] for one in shown], rotation=90, fontsize=7)
        axes.set(ylabel="part within", ylim=(0.7, 1))
        axes.legend()
        run.figure(figure, "coverage.png", "Part of the pixels within their 90 % interval")
        run.finish()


VERSION = 1
"""Of what is drawn and measured."""
