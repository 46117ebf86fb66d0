"""JPEG artefacts: what a file's coefficients and the prior give, beside total variation at its best."""

import io
from functools import partial
from typing import Any

import numpy as np
import PIL.Image

import hvae_jax as hj
from benchmarks.experiment import solver_version
from benchmarks.experiments.common import Options
from benchmarks.methods import admm_tv
from hvae_jax.metrics import psnr
from hvae_jax.operators import Denoising

TITLE, PAPER = "JPEG artefacts", "none"
QUALITIES = (10, 20, 40, 60, 80, 90, 95)
TV_NOISE = (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0)
"""Noise levels in grey levels for which total variation is tried; the best is chosen with the truth at hand."""


def measure(options: Options, quality: int) -> dict[str, Any]:
    """PSNR of each image: the file, total variation, ours."""
    found: dict[str, Any] = {"file": [], "ours": [], **{f"tv {sigma:g}": [] for sigma in TV_NOISE}}
    for scene in options.images.pixels:
        file = io.BytesIO()
        PIL.Image.fromarray(np.rint(255 * scene).astype(np.uint8)).save(file, "JPEG", quality=quality)
        photo = hj.read_photograph(file)
        done = hj.restore_photograph(photo, "jpeg", prior=options.prior)
        results = {"file": photo.pixels, "ours": done.image.pixels}
        for sigma in TV_NOISE:
            results[f"tv {sigma:g}"] = np.asarray(admm_tv(photo.pixels[None], Denoising(), sigma / 255)[0])
        for name, pixels in results.items():
            found[name].append(round(float(psnr(np.clip(pixels, 0, 1), scene)), 3))
    return found


def run(options: Options) -> None:
    """Run it."""
    lines = []
    with options.start("jpeg", TITLE, PAPER, recommended=solver_version(options.prior), version=VERSION) as run:
        run.expect(len(QUALITIES))
        for quality in QUALITIES:
            row = run.row({"quality": quality}, partial(measure, options, quality))
            tv = max((row[f"tv {sigma:g}"] for sigma in TV_NOISE), key=np.mean)
            gains = np.subtract(row["ours"], row["file"])
            means = [float(np.mean(values)) for values in (row["file"], tv, row["ours"])]
            lines.append([quality, *means, float(gains.mean()), float(gains.min())])
        columns = ["quality", "file", "tv", "restore --task jpeg", "gain", "least gain"]
        notes = [
            f"PSNR in dB of the clean picture, means over {len(options.images.names)} images, colours shared by 2x2 "
            "pixels. The weight of total variation is one for all images of a line, chosen with the truth at hand."
        ]
        run.table("JPEG artefacts", columns, lines, best=[None, "max", "max", "max", None, None], notes=notes)
        run.finish()


VERSION = 1
"""Of what `restore_photograph` does with a JPEG."""
