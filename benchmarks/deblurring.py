"""Mean PSNR and SSIM of circular deblurring, beside what needs no learned prior (tuned on the first of these images).

Example:
    python -m benchmarks.deblurring --images DATA/test/cbsd10.txt --kernels DATA/kernels/usrnet12.npz
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import hvae_jax as hj
from benchmarks.baselines import admm_tv, tikhonov
from benchmarks.protocol import NOISE_LEVELS, Case, deblurring_cases, scores, table
from hvae_jax.operators import Blur

# Relative to σ², of which the best weights are a slowly varying multiple.
TIKHONOV_WEIGHTS = np.geomspace(2, 60, 9)
TV_WEIGHTS = np.geomspace(1.5, 24, 9)


def tuned(method: Callable, cases: list[Case], weights: np.ndarray, images: int) -> float:
    """The weight with the best mean PSNR on the first `images` images of every kernel."""

    def quality(weight: float) -> float:
        return float(
            np.mean([scores(method(c.observed[:images], c.kernel, weight), c.clean[:images])[0] for c in cases])
        )

    best = 0  # quality is unimodal in the weight: walk until it falls
    values = [quality(weights[0])]
    while best + 1 < len(weights):
        values.append(quality(weights[best + 1]))
        if values[-1] < values[-2]:
            break
        best += 1
    return float(weights[best])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="text file of images, see benchmarks/protocol.py")
    parser.add_argument("--kernels", type=Path, required=True, help=".npz with k4, k7, k9, k11")
    parser.add_argument("--prior", default="natural-small", help="name or directory")
    parser.add_argument("--batch", type=int, default=5, help="images per compiled call")
    parser.add_argument("--tune-images", type=int, default=2, help="images to tune the baselines on")
    parser.add_argument("--no-baselines", action="store_true")
    arguments = parser.parse_args()
    prior = hj.load_prior(arguments.prior)

    def restore(case: Case) -> np.ndarray:
        parts = range(0, len(case.observed), arguments.batch)
        return np.concatenate(
            [
                hj.restore(prior, case.observed[i : i + arguments.batch], Blur(case.kernel), case.sigma / 255).image
                for i in parts
            ]
        )

    results: dict[str, list[np.ndarray]] = {}
    notes = []
    for sigma in NOISE_LEVELS:
        cases = list(deblurring_cases(arguments.images, arguments.kernels, (sigma,)))
        methods: dict[str, Callable[[Case], np.ndarray]] = {"observation": lambda c: c.observed}
        if not arguments.no_baselines:
            ridge = tuned(tikhonov, cases, TIKHONOV_WEIGHTS * (sigma / 255) ** 2, arguments.tune_images)
            tv = tuned(admm_tv, cases, TV_WEIGHTS * (sigma / 255) ** 2, arguments.tune_images)
            notes.append(f"σ = {sigma}: Tikhonov weight {ridge:.2g}, TV weight {tv:.2g}")
            methods["Tikhonov (tuned)"] = lambda c, w=ridge: tikhonov(c.observed, c.kernel, w)
            methods["ADMM-TV (tuned)"] = lambda c, w=tv: admm_tv(c.observed, c.kernel, w)
        methods["restore"] = restore
        for name, method in methods.items():
            values = [scores(method(case), case.clean) for case in cases]
            results.setdefault(name, []).append(np.concatenate(values, axis=1).mean(axis=1))
            print(f"σ = {sigma}  {name}: {results[name][-1][0]:.2f} dB", flush=True)
    header = ["method", *(f"σ = {sigma}" for sigma in NOISE_LEVELS)]
    rows = [[name, *(f"{p:.2f} / {s:.3f}" for p, s in values)] for name, values in results.items()]
    print(f"\nMean PSNR in dB / SSIM; prior {arguments.prior}, jax {jax.__version__}\n")
    print(table(header, rows))
    print(f"\nTuned on the first {arguments.tune_images} images of each kernel:", *notes, sep="\n")


if __name__ == "__main__":
    main()
