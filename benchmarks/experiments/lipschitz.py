"""Figure 1: how much the reconstruction contracts, ‖HVAE(u, τ) − HVAE(v, τ)‖ / ‖u − v‖."""

from functools import partial

import numpy as np

import hvae_jax as hj
from benchmarks.experiments.common import Options
from benchmarks.measures import patches

TITLE, PAPER = "Lipschitz constant of the reconstruction", "Figure 1"
TEMPERATURES = (0.6, 0.8, 0.99)
NOISE_LEVELS = (0.0, 25.0, 50.0)
SIDE = 64


def ratios(options: Options, x: np.ndarray, sigma: float, temperature: float) -> list[float]:
    """The ratio for pairs of patches, each patch with its own noise, paired at random."""
    rng = np.random.default_rng(options.seed)
    x = rng.permutation(x)
    noisy = x + (sigma / 255 * rng.standard_normal(x.shape)).astype(np.float32)
    level = sigma / 255 if options.prior.config.noise_conditional else None
    batch = min(64, len(x))
    whole = np.concatenate([noisy, noisy[: -len(noisy) % batch]])  # calls of one size
    means = [
        np.asarray(hj.reconstruct(options.prior, whole[i : i + batch], temperature, noise_level=level))
        for i in range(0, len(whole), batch)
    ]

    def distances(images: np.ndarray) -> np.ndarray:
        """Of each image to the next, and of the last to the first."""
        return np.sqrt(np.sum((images - np.roll(images, 1, axis=0)) ** 2, axis=(1, 2, 3), dtype=np.float64))

    return (distances(np.concatenate(means)[: len(noisy)]) / distances(noisy)).tolist()


def run(options: Options) -> None:
    """Run it."""
    import matplotlib.pyplot as plt

    side = options.prior.image_size or -(-SIDE // options.prior.multiple) * options.prior.multiple
    x = patches(options.images.pixels, side)
    with options.start("lipschitz", TITLE, PAPER, patches=f"{len(x)} of {side}x{side} pixels") as run:
        run.expect(len(TEMPERATURES) * len(NOISE_LEVELS))
        figure, axes = plt.subplots(
            len(NOISE_LEVELS), len(TEMPERATURES), figsize=(9, 6), sharex="row", squeeze=False, layout="constrained"
        )
        lines = []
        for i, sigma in enumerate(NOISE_LEVELS):
            for j, tau in enumerate(TEMPERATURES):
                compute = partial(ratios, options, x, sigma, tau)
                found = np.array(run.row({"σ": sigma, "τ": tau}, lambda c=compute: {"ratios": c()})["ratios"])
                fraction = float(np.mean(found >= 1))
                lines.append(
                    [f"σ = {sigma:g}", tau, len(found), *(float(f(found)) for f in (np.mean, np.max)), fraction]
                )
                axes[i, j].hist(found, bins=30)
                axes[i, j].axvline(1, color="tab:red", linewidth=1)
                axes[i, j].set_title(f"σ = {sigma:g}, τ = {tau}", fontsize=9)
        note = "The paper: close to 1 and rarely above on clean images, always below 1 on noisy ones."
        columns = ["noise", "τ", "pairs", "mean", "largest", "fraction ≥ 1"]
        run.table("‖HVAE(u, τ) − HVAE(v, τ)‖ / ‖u − v‖", columns, lines, notes=[note])
        run.figure(figure, "histograms.png", "Ratios of pairs of patches; the red line is 1")
        plt.close(figure)
        run.finish()
