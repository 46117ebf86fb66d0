"""Make the README's picture of the tasks: a photograph degraded in each way, and restored, one below the other.

python -m benchmarks tasks --prior NAME|DIR

The numbers below the pictures are PSNRs of the whole photograph, as `hvae-jax restore --reference` prints them.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import PIL.Image

import hvae_jax as hj
from benchmarks.before_after import EXAMPLES
from benchmarks.command import AddOption
from benchmarks.pictures import sheet
from hvae_jax.images import Image, read_image, read_mask, write_image
from hvae_jax.metrics import psnr
from hvae_jax.prior import BUNDLED

SHOWN = (slice(60, 228), slice(132, 308))
"""Rows and columns of the photograph that are in the picture."""

FACTOR = 2
"""Of super-resolution."""


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--prior", default=BUNDLED, metavar="NAME|DIR", help="default: the bundled one")
    add("--out", type=Path, default=EXAMPLES / "tasks.png", metavar="FILE")


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    prior = hj.load_prior(args.prior)
    sharp = read_image(EXAMPLES / "sharp.png")
    mask = read_mask(EXAMPLES / "mask.png")
    blurred = {"kernel": "motion:13,30"}
    small = hj.degrade_photograph(sharp, "sr", factor=FACTOR, noise_std=2.55 / 255)
    holes = hj.degrade_photograph(sharp, "inpaint", mask=mask, noise_std=2.55 / 255)
    noisy = hj.degrade_photograph(sharp, "denoise", noise_std=25 / 255)
    cases: list[tuple[str, Image, str, dict]] = [
        ("blurred", read_image(EXAMPLES / "blurred.png"), "deblur", blurred),
        ("half the size", small, "sr", {"factor": FACTOR}),
        ("with holes", holes, "inpaint", {"mask": mask}),
        ("noisy", noisy, "denoise", {}),
        ("JPEG, quality 15", _jpeg(sharp, 15), "jpeg", {}),
    ]
    before, after = [], []
    for name, photo, task, given in cases:
        done = hj.restore_photograph(photo, task, prior=prior, **given)
        observed = photo.pixels
        if task == "sr":
            observed = observed.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
        before.append((f"{name}, {float(psnr(observed, sharp.pixels)):.1f} dB", observed[SHOWN]))
        restored = done.image.pixels
        after.append((f"restored, {float(psnr(restored, sharp.pixels)):.1f} dB", restored[SHOWN]))
        print(f"{before[-1][0]}; {after[-1][0]}; {' '.join(done.warnings) or 'no warning'}")
    write_image(args.out, sheet([before, after]), overwrite=True)


def _jpeg(photo: Image, quality: int) -> Image:
    """The photograph as a JPEG file shows it."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.rint(255 * photo.pixels).astype(np.uint8)).save(file, "JPEG", quality=quality)
    file.seek(0)
    return read_image(file)
