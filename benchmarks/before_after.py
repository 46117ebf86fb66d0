"""Make the README's picture: blurred, restored by total variation and by a prior, and sharp, side by side.

python -m benchmarks before-after --prior NAME|DIR

The numbers below the pictures are PSNRs of the whole photograph, as `hvae-jax restore --reference` prints them.
"""

import argparse
from pathlib import Path

import numpy as np

import hvae_jax as hj
from benchmarks.command import AddOption
from benchmarks.methods import admm_tv, tuned
from benchmarks.pictures import sheet
from hvae_jax.images import Image, parse_kernel, read_image, write_image
from hvae_jax.metrics import psnr
from hvae_jax.operators import Blur
from hvae_jax.photographs import Degradation
from hvae_jax.photographs.posing import pose
from hvae_jax.prior import BUNDLED

EXAMPLES = Path(__file__).parent.parent / "examples"
SHOWN = (slice(44, 268), slice(104, 328))
"""Rows and columns of the photograph that are in the picture."""

TV_WEIGHTS = (2.0, 4.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0)


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--prior", default=BUNDLED, metavar="NAME|DIR", help="default: the bundled one")
    add("--out", type=Path, default=EXAMPLES / "before_after.png", metavar="FILE")


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    prior = hj.load_prior(args.prior)
    blurred, sharp = (read_image(EXAMPLES / f"{name}.png").pixels for name in ("blurred", "sharp"))
    kernel, noise_std = parse_kernel("motion:13,30"), 2.55 / 255
    y, A, finish, _ = pose(Image(blurred, None, 8), Degradation("deblur", kernel), "natural", prior)

    def total_variation(y: np.ndarray, A: Blur, noise_std: float, weight: float) -> np.ndarray:
        return finish(np.asarray(admm_tv(y[None], A, noise_std, weight))[0])

    weight = tuned(total_variation, [(y, A, noise_std, sharp)], TV_WEIGHTS)  # its best one for this very photograph
    done = hj.restore_photograph(blurred, "deblur", kernel=kernel, noise_std=noise_std, prior=prior)
    found = {
        "blurred and noisy": blurred,
        "total variation": total_variation(y, A, noise_std, weight),
        "hvae-jax": done.image.pixels,
    }
    row = [(f"{name}, {float(psnr(image, sharp)):.2f} dB", image[SHOWN]) for name, image in found.items()]
    write_image(args.out, sheet([[*row, ("the photograph", sharp[SHOWN])]]), overwrite=True)
    print(f"{args.out}: {'; '.join(caption for caption, _ in row)}; weight of total variation {weight:g}")
