"""Whether iterates stay good: PSNR along the iterations, annealed and then held, or with one γ throughout."""

from functools import partial
from typing import Any

import numpy as np

import hvae_jax as hj
from benchmarks import problems
from benchmarks.experiment import solver_version, standard_error
from benchmarks.experiments.common import Options
from benchmarks.problems import NOISE_LEVELS, Problem
from hvae_jax.restoration import RestoreConfig

TITLE, PAPER = "PSNR along the iterations", "the blind denoiser's decay"
HELD = 30
"""Iterations with the schedule's last γ and noise level, after its own."""

LATER = (0, 5, 10, 20, HELD)


def schedules(options: Options, case: Problem) -> dict[str, RestoreConfig]:
    """The recommended settings, held at their end; and their end from the first iteration."""
    recommended = hj.recommended_config(options.prior, case.noise_std, case.operator)
    # One more, for an "x" that is returned is the data step of the next iteration.
    long = recommended.replace(max_iterations=recommended.max_iterations + HELD + 1, history=True)
    last = {name: np.atleast_1d(np.asarray(getattr(long, name)))[-1] for name in ("decoder_std", "noise_level")}
    return {"annealed, held": long, "fixed": long.replace(**last)}


def curve(options: Options, case: Problem, config: RestoreConfig) -> dict[str, list[list[float]]]:
    """PSNR of the iterate that the settings return, for each image and iteration."""
    curves: list[np.ndarray] = []
    for start in range(0, len(case.clean), options.batch):
        part = slice(start, start + options.batch)
        arguments = (options.prior, case.observed[part], case.operator, case.noise_std, config)
        history = hj.restore(*arguments, reference=case.clean[part]).history
        assert history is not None
        assert history.psnr_x is not None
        assert history.psnr_mean is not None
        returned = history.psnr_x[:, 1:] if config.returns == "x" else history.psnr_mean[:, :-1]
        curves.extend(np.asarray(returned, np.float64))
    return {"PSNR": np.stack(curves).round(4).tolist()}


def run(options: Options) -> None:
    """Run it."""
    import matplotlib.pyplot as plt

    cases = list(problems.deblurring(options.images, options.seed, options.kernels))
    columns = ["kernel", "schedule", *(f"+{k}" for k in LATER), "best", "at k", "drift", "± drift"]
    note = (
        "PSNR (dB) of the iterate that the settings return, mean over the images: at the end of the annealing (+0) and "
        f"after more iterations with its last γ and noise level. Drift: +{HELD} less the best, and its standard error."
    )
    # A prior that is tuned again has the same parameters, but other curves.
    with options.start("drift", TITLE, PAPER, held=HELD, recommended=solver_version(options.prior)) as run:
        run.expect(2 * len(cases))
        figure, axes = plt.subplots(1, len(NOISE_LEVELS), figsize=(4 * len(NOISE_LEVELS), 3.5), layout="constrained")
        for sigma, axis in zip(NOISE_LEVELS, axes, strict=True):
            lines: list[list[Any]] = []
            for i, case in enumerate(case for case in cases if case.label["σ"] == sigma):
                for name, config in schedules(options, case).items():
                    key = {**case.label, "schedule": name}
                    psnr = np.array(run.row(key, partial(curve, options, case, config))["PSNR"])
                    mean, end = psnr.mean(axis=0), config.max_iterations - HELD - 1
                    best = 1 + int(np.argmax(mean[1:]))
                    drift = psnr[:, -1] - psnr[:, best]
                    shown = [*(mean[end + k] for k in LATER), mean[best]]
                    spread = standard_error(drift)
                    lines.append([case.label["kernel"], name, *map(float, shown), best, float(drift.mean()), spread])
                    style = ":" if name == "fixed" else "-"
                    axis.plot(mean, style, color=f"C{i}", linewidth=1, label=f"{case.label['kernel']}, {name}")
            run.table(f"σ = {sigma}", columns, lines, notes=[note])
            axis.set(title=f"σ = {sigma}", xlabel="iteration k", ylabel="PSNR (dB)")
        axes[-1].legend(fontsize="x-small")
        run.figure(figure, "psnr.png", "Mean PSNR along the iterations: annealed and then held, or fixed (dotted)")
        plt.close(figure)
        run.finish()
