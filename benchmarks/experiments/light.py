"""Whether a blur was of light or of samples, undone as either: why `--light display` is the default."""

import io
from functools import partial
from typing import Any

import numpy as np
import PIL.Image

import hvae_jax as hj
from benchmarks.experiment import solver_version
from benchmarks.experiments.common import Options
from hvae_jax.images.light import LIGHTS, to_display, to_linear
from hvae_jax.metrics import psnr

TITLE, PAPER = "Blur of light and of samples", "none"
KERNELS = ("gaussian:1.6", "disk:3", "motion:11,0")
NOISE = 2.0
"""In grey levels of 255, before the file's rounding."""


def measure(options: Options, kernel: str, blurred: str) -> dict[str, Any]:
    """PSNR of each image: the file, and undone in each light."""
    found: dict[str, list[float]] = {name: [] for name in ("file", *LIGHTS)}
    for i, scene in enumerate(options.images.pixels):
        light = hj.images.Image(to_linear(scene) if blurred == "linear" else scene, None, 8)
        y = hj.degrade_photograph(light, "deblur", kernel=kernel, boundary="natural").pixels
        y = to_display(y) if blurred == "linear" else y
        noisy = 255 * y + NOISE * np.random.default_rng(options.seed + i).standard_normal(y.shape)
        file = io.BytesIO()
        PIL.Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8)).save(file, "PNG")
        photo = hj.read_photograph(file)
        reach = [(before - after) // 2 for before, after in zip(scene.shape[:2], y.shape[:2], strict=True)]
        clean = scene[reach[0] : reach[0] + y.shape[0], reach[1] : reach[1] + y.shape[1]]
        results = {"file": photo.pixels}
        for how in LIGHTS:
            done = hj.restore_photograph(photo, "deblur", kernel=kernel, light=how, prior=options.prior)
            results[how] = np.clip(done.image.pixels, 0, 1)
        for name, pixels in results.items():
            found[name].append(round(float(psnr(pixels, clean)), 3))
    return found


def run(options: Options) -> None:
    """Run it."""
    lines = []
    with options.start("light", TITLE, PAPER, recommended=solver_version(options.prior), version=VERSION) as run:
        run.expect(len(KERNELS) * len(LIGHTS))
        for kernel in KERNELS:
            for blurred in ("linear", "display"):
                row = run.row({"kernel": kernel, "blurred": blurred}, partial(measure, options, kernel, blurred))
                lines.append([kernel, blurred, *(float(np.mean(row[name])) for name in ("file", *LIGHTS))])
        columns = ["kernel", "blurred", "file", *(f"--light {how}" for how in LIGHTS)]
        count = len(options.images.names)
        note = f"PSNR in dB, means over {count} images, noise {NOISE:g}, everything else left to the program."
        run.table("Blur of light and of samples", columns, lines, notes=[note])
        run.finish()


VERSION = 1
"""Of what `restore_photograph` does."""
