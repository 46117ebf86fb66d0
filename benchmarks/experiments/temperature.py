"""Figure 7: PSNR and pictures over the temperature, on a deblurring problem at σ = 7.65."""

from functools import partial

import numpy as np

import hvae_jax as hj
from benchmarks import problems
from benchmarks.experiment import score
from benchmarks.experiments.common import Options
from hvae_jax.restoration import RestoreConfig

TITLE, PAPER = "Effect of the temperature", "Figure 7"
TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SIGMA, KERNEL = 7.65, "k4"
ITERATIONS = 50


def run(options: Options) -> None:
    """Run it; all temperatures of an image are one batch."""
    import matplotlib.pyplot as plt

    (case,) = (
        case
        for case in problems.deblurring(options.images, options.seed, options.kernels, (SIGMA,))
        if case.label["kernel"] == KERNEL
    )
    count = len(TEMPERATURES)
    config = RestoreConfig(
        temperature=np.array(TEMPERATURES)[:, None], decoder_std=10 / 255, max_iterations=ITERATIONS, returns="mean"
    )

    def restore(i: int) -> np.ndarray:
        y = np.repeat(case.observed[i : i + 1], count, axis=0)
        return np.asarray(hj.restore(options.prior, y, case.operator, case.noise_std, config).image)

    def scores(i: int) -> dict[str, list[float]]:
        clean = np.repeat(case.clean[i : i + 1], count, axis=0)
        return {name: values.tolist() for name, values in score(restore(i), clean).items()}

    names = options.images.names
    with options.start("temperature", TITLE, PAPER, temperatures=list(TEMPERATURES), iterations=ITERATIONS) as run:
        run.expect(len(names))
        rows = [run.row({"image": name}, partial(scores, i)) for i, name in enumerate(names)]
        mean = {metric: np.mean([row[metric] for row in rows], axis=0) for metric in rows[0]}
        lines = [[tau, *(float(mean[metric][t]) for metric in mean)] for t, tau in enumerate(TEMPERATURES)]
        note = "Fixed γ = 10/255; the paper's best on its picture is τ = 0.7."
        title = f"Deblurring, kernel {KERNEL}, σ = {SIGMA}, {ITERATIONS} iterations"
        run.table(title, ["τ", *mean], lines, best=[None, "max", "max", "min"], notes=[note])

        figure, axis = plt.subplots(figsize=(6, 3.5))
        for row in rows:
            axis.plot(TEMPERATURES, row["PSNR"], color="0.8", linewidth=1)
        axis.plot(TEMPERATURES, mean["PSNR"], marker="o")
        axis.set(xlabel="temperature τ", ylabel="PSNR (dB)")
        run.figure(figure, "psnr.png", "PSNR over the temperature: the mean, and each image in grey")
        plt.close(figure)
        if options.pictures:
            shown = [0, count // 2, count - 1]
            restored = restore(0)
            strip = np.concatenate([case.observed[0], *(restored[t] for t in shown), case.clean[0]], axis=1)
            temperatures = ", ".join(f"τ = {TEMPERATURES[t]}" for t in shown)
            run.picture(strip, "pictures.png", f"{names[0]}: observed; restored with {temperatures}; clean")
        run.finish()
