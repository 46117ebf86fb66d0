"""Choose the settings that a noise-conditional prior recommends, on validation images; write them to its prior.json.

For each task and noise level one setting after the other is moved to the best of its candidates (mean PSNR).

Example:
    python -m benchmarks.settings --prior runs/natural-small/prior --out hvae_jax/pretrained/natural-small \
        --images DATA/test/bsd_valid32.txt --kernels DATA/kernels/usrnet12.npz
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import hvae_jax as hj
from benchmarks.problems import load_images, load_kernels
from hvae_jax import operators
from hvae_jax.metrics import psnr

NOISE_LEVELS = (2.55, 7.65, 12.75, 25.5)
START = {
    "temperature": 1.0,
    "anneal_from": 49.0,
    "anneal_to": 2.55,
    "decoder_std_per_noise_level": round(0.23**-0.5, 3),
    "max_iterations": 8,
    "initial": "image",
}
CANDIDATES: dict[str, dict[str, tuple]] = {
    "Blur": {
        "decoder_std_per_noise_level": (1.5, 1.8, 2.5),
        "anneal_to": (4.0, 6.0),
        "anneal_from": (35.0,),
        "temperature": (0.95,),
        "max_iterations": (12,),
    },
    "SuperResolution": {"decoder_std_per_noise_level": (1.5, 3.0), "anneal_to": (6.0,), "max_iterations": (12,)},
    "Inpainting": {"decoder_std_per_noise_level": (1.0, 4.0), "anneal_to": (6.0,), "max_iterations": (16,)},
}


def cases(task: str, images: np.ndarray, kernels: Path, sigma: float) -> list[tuple[operators.Operator, np.ndarray]]:
    """Operators and observations of a task; all images of an operator get one noise draw."""
    size = images.shape[1]
    loaded = list(load_kernels(kernels).values())
    mask = np.random.default_rng(1).random((size, size)) < 0.5
    made: dict[str, list[operators.Operator]] = {
        "Blur": [operators.Blur(kernel) for kernel in loaded],
        "SuperResolution": [operators.SuperResolution(loaded[0], 2)],
        "Inpainting": [operators.Inpainting(mask)],
    }
    rng = np.random.default_rng(0)
    observed = []
    for operator in made[task]:
        y = np.asarray(operator(images))
        observed.append((operator, y + sigma / 255 * rng.standard_normal(y.shape[1:]).astype(np.float32)))
    return observed


def search(quality: Callable[[dict], tuple[float, str]], start: dict, candidates: dict[str, tuple]) -> dict:
    """Coordinate search; `quality` gives the PSNR of the better iterate and its name."""
    best, (value, returns) = dict(start), quality(start)
    for name, values in candidates.items():
        for candidate in values:
            if name == "anneal_to" and candidate <= start["noise_std"]:
                continue  # the noise level itself is the end then
            row = {**best, name: candidate}
            new, new_returns = quality(row)
            if new > value + 0.005:  # keep the simpler setting where it makes no difference
                best, value, returns = row, new, new_returns
    print(f"    {value:.2f} dB  {best}  returns {returns}", flush=True)
    return {**best, "returns": returns, "validation_psnr": round(value, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", required=True, help="name or directory")
    parser.add_argument("--out", type=Path, required=True, help="where the prior with its settings goes")
    parser.add_argument("--images", type=Path, required=True, help="text file of validation images")
    parser.add_argument("--kernels", type=Path, required=True, help=".npz with k4, k7, k9, k11")
    parser.add_argument("--count", type=int, default=6, help="number of images")
    parser.add_argument("--size", type=int, default=176, help="side of their centre crops")
    arguments = parser.parse_args()
    prior = hj.load_prior(arguments.prior)
    images = load_images(arguments.images, arguments.size, arguments.count).pixels

    settings: dict[str, list[dict]] = {}
    for task, candidates in CANDIDATES.items():
        for sigma in NOISE_LEVELS:
            print(f"{task}, σ = {sigma}", flush=True)
            observed = cases(task, images, arguments.kernels, sigma)

            def quality(row: dict, observed=observed, sigma=sigma, task=task) -> tuple[float, str]:
                table = {"default": [{**row, "returns": "x"}]}
                candidate = dataclasses.replace(prior, metadata=hj.Metadata.of(settings=table))
                scores = []
                for operator, y in observed:
                    out = hj.restore(candidate, y, operator, sigma / 255)
                    scores.append([np.mean(psnr(out.x, images)), np.mean(psnr(out.mean, images))])
                x, mean = np.mean(scores, axis=0)
                return (float(x), "x") if x > mean else (float(mean), "mean")

            row = search(quality, {**START, "noise_std": sigma}, candidates)
            settings.setdefault("default" if task == "Blur" else task, []).append(row)
    # Denoising needs no iteration: one evaluation at the noise level is what the prior was trained for.
    settings["Denoising"] = [
        {"noise_std": s, "temperature": 1.0, "anneal_from": s, "anneal_to": s, "decoder_std_per_noise_level": 2.0}
        | {"max_iterations": 1, "initial": "image", "returns": "mean"}
        for s in (0.5, 50.0)
    ]
    measured_on = f"{arguments.count} images of {arguments.images.name}, {arguments.size} pixels square"
    info = {**prior.info, "settings": settings, "settings_measured_on": measured_on}
    dataclasses.replace(prior, metadata=hj.Metadata.of(**info)).save(arguments.out, overwrite=True)
    print(json.dumps(settings, indent=1))


if __name__ == "__main__":
    main()
