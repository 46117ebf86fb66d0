"""Ordinary files of photographs, everything left to the program: who gains, and whose picture gets worse."""

import io
from functools import partial
from typing import Any

import numpy as np

import hvae_jax as hj
from benchmarks.experiment import solver_version
from benchmarks.experiments.common import Options
from benchmarks.pipelines import BLURS, PIPELINES, Picture, blur_kernel, photograph
from hvae_jax.metrics import psnr

TITLE, PAPER = "Ordinary files, everything left to the program", "none"

HARM = 0.1
"""A picture is worse that has lost so many dB."""

FIXED = (1.5, 4.0, 10.0, 25.0)
"""Noise levels in grey levels that are tried for all pictures of a pipeline and a blur, the best by the truth."""


def gain(options: Options, picture: Picture, sigma: float | None) -> float:
    """PSNR of the restored file, 8 bits again, less that of the file."""
    done = hj.restore_photograph(
        hj.read_photograph(io.BytesIO(picture.file)),
        "denoise" if picture.kernel is None else "deblur",
        kernel=picture.kernel,
        noise_std=None if sigma is None else sigma / 255,
        prior=options.prior,
    )
    written = np.rint(255 * np.clip(done.image.pixels, 0, 1)).astype(np.float32) / 255
    return float(psnr(written, picture.clean) - psnr(picture.pixels, picture.clean))


def gains(options: Options, pipeline: str, blur: str, sigma: float | None, *, sharp: bool = False) -> dict[str, Any]:
    """Of all images, through one pipeline; `sharp`: of images that were not blurred, given the kernel all the same."""
    pictures = []
    for i, scene in enumerate(options.images.pixels):
        seed = 1000 * options.seed + i
        picture = photograph(scene, pipeline, "none" if sharp else blur, seed)
        pictures.append(picture._replace(kernel=blur_kernel(blur, seed)) if sharp else picture)
    return {"gains": [round(gain(options, picture, sigma), 3) for picture in pictures]}


def run(options: Options) -> None:
    """Run it."""
    lines, all_gains, best_gains = [], [], []
    with options.start("real", TITLE, PAPER, recommended=solver_version(options.prior), version=VERSION) as run:
        run.expect(len(PIPELINES) * (len(BLURS) * (1 + len(FIXED)) + len(BLURS) - 1))
        for pipeline in PIPELINES:
            for blur in BLURS:
                levels: list[float | None] = [None, *FIXED]
                rows = [
                    run.row(
                        {"pipeline": pipeline, "blur": blur, "σ": "auto" if level is None else level},
                        partial(gains, options, pipeline, blur, level),
                    )["gains"]
                    for level in levels
                ]
                auto, *fixed = rows
                best = max(range(len(fixed)), key=lambda i: np.mean(fixed[i]))
                all_gains += auto
                best_gains += fixed[best]
                worse = sum(value < -HARM for value in auto)
                means = [round(float(np.mean(values)), 2) for values in (auto, fixed[best])]
                lines.append([pipeline, blur, means[0], min(auto), worse, means[1], FIXED[best]])
        worse = sum(value < -HARM for value in all_gains)
        total = [round(float(np.mean(values)), 2) for values in (all_gains, best_gains)]
        lines.append(["all", "all", total[0], min(all_gains), worse, total[1], None])
        note = (
            f"PSNR gained (dB), the mean over {len(options.images.names)} images, and the least; the number of "
            f"pictures that lost more than {HARM} dB, of {len(all_gains)} in all. The best σ (grey levels) is one for "
            "all images of a line, chosen with the truth at hand."
        )
        columns = ["pipeline", "blur", "gain", "least", "worse", "gain with the best σ", "best σ"]
        run.table("Everything left to the program", columns, lines, notes=[note])
        lines, all_gains = [], []
        for pipeline in PIPELINES:
            for blur in BLURS[1:]:
                cell = {"pipeline": pipeline, "kernel of a sharp picture": blur}
                row = run.row(cell, partial(gains, options, pipeline, blur, None, sharp=True))["gains"]
                all_gains += row
                lines.append([pipeline, blur, min(row), sum(value < -HARM for value in row)])
        lines.append(["all", "all", min(all_gains), sum(value < -HARM for value in all_gains)])
        note = f"PSNR gained (dB), the least, and how many of {len(all_gains)} pictures lost more than {HARM} dB."
        run.table("Sharp pictures, and a kernel given", ["pipeline", "kernel", "least", "worse"], lines, notes=[note])
        run.finish()


VERSION = 5
"""Of the pipelines and of what `restore_photograph` does unasked."""
