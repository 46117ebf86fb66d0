"""On paper: what very many large photographs cost on accelerators, from what can be measured without them.

    python -m benchmarks cost

    hours = photographs · FLOP of one / (share of the peak · peak · accelerators) / 3600

FLOP are counted in the program; reading and writing are timed here, in seconds of a core. The share of the peak is an
assumption but for one row: what the training of the bundled prior reached on an H200.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import jax
import numpy as np

import hvae_jax as hj
from benchmarks.command import AddOption, add_out
from benchmarks.experiment import Run, machine
from benchmarks.large import KERNEL, NOISE_STD, mosaic
from benchmarks.priors import NOISE_LEVEL
from benchmarks.profile import arithmetic
from hvae_jax.photographs.room import LARGEST_TILE, Room
from hvae_jax.prior import Prior
from hvae_jax.restoration.tiles import plan_tiles, sight

PEAK = 494.7e12
"""FLOP/s of an H100 SXM in TF32, dense, by NVIDIA's data sheet: how XLA multiplies float32 there by default."""

TRAINING = {"steps per second": 54, "crops": 512, "side": 32}
"""Of the bundled prior's first stage on one H200 in bfloat16, by its log; see docs/experiments.md."""

SHARES = (0.1, 0.3, 0.5)
SIDE = 256
"""Of the photograph on which the evaluations of a restoration are counted."""

TASKS = {"deblur": {"kernel": KERNEL}, "denoise": {}}


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--prior", default="natural-medium", metavar="NAME|DIR")
    add("--photographs", type=float, default=1e6, metavar="N", help="default a million")
    add("--height", type=int, default=3000)
    add("--width", type=int, default=4000)
    add("--accelerators", type=int, default=64, metavar="N")
    add_out(add)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    prior = hj.load_prior(args.prior)
    height, width = (-(-side // prior.multiple) * prior.multiple for side in (args.height, args.width))
    mega = args.height * args.width / 1e6
    each = flop_per_pixel(prior)
    tiles = plan_tiles(height, width, LARGEST_TILE, sight(prior), prior.multiple)
    overlap = sum(np.prod([part.stop - part.start for part in tile.seen]) for tile in tiles) / (height * width)
    results = Run("cost", "Many large photographs on accelerators, on paper", "", args.out, command, machine())

    whole: dict[str, float] = {}
    lines = []
    for task, options in TASKS.items():
        count = evaluations(prior, task, options)
        whole[task] = each * count * overlap * height * width
        lines.append([task, f"{count:g}", f"{whole[task] / 1e12:.0f}"])
    results.table(
        f"A photograph of {mega:.0f} megapixels",
        ["task", "evaluations of the network", "TFLOP"],
        lines,
        notes=(
            f"An evaluation takes {each / 1e3:.0f} GFLOP a megapixel. {len(tiles)} tiles cover the photograph, which "
            f"overlap: {overlap:.2f} times its pixels are evaluated.",
        ),
    )

    reached = 3 * each * TRAINING["steps per second"] * TRAINING["crops"] * TRAINING["side"] ** 2
    rates = [
        ("as training reached on an H200, in bfloat16", reached),
        *((f"{s:.0%}, assumed", s * PEAK) for s in SHARES),
    ]
    lines = []
    for name, rate in rates:
        cells = []
        for flop in whole.values():
            hours = args.photographs * flop / rate / 3600
            cells += [f"{flop / rate:.2f}", f"{hours / args.accelerators:.1f}", f"{hours:,.0f}"]
        lines.append([name, f"{rate / 1e12:.0f}", *cells])
    units = ("seconds each", f"hours on {args.accelerators}", "hours of one")
    results.table(
        f"{args.photographs:,.0f} of them",
        ["share of the peak", "TFLOP/s of one", *(f"{task}: {unit}" for task in TASKS for unit in units)],
        lines,
        notes=(
            f"The peak is {PEAK / 1e12:.0f} TFLOP/s (H100, TF32). Training did {TRAINING['steps per second']} steps a "
            f"second of {TRAINING['crops']} crops of {TRAINING['side']}x{TRAINING['side']}, at three evaluations' "
            "arithmetic for each; an H200 computes as an H100 does, and has more memory bandwidth.",
        ),
    )

    seconds = on_the_host(prior, args.height, args.width)
    reading, writing = seconds["reading a JPEG"], seconds["writing a PNG"]
    cores = [
        f"{(reading + seconds[around(task)] + writing) * rate / flop:.0f} at {rate / 1e12:.0f} TFLOP/s ({task})"
        for task, flop in whole.items()
        for rate in (reached, SHARES[-1] * PEAK)
    ]
    results.table(
        f"What the host does for a photograph of {mega:.0f} megapixels",
        ["", "seconds of a core", "per megapixel"],
        [[name, f"{spent:.2f}", f"{spent / mega:.3f}"] for name, spent in seconds.items()],
        notes=(f"Cores that keep one accelerator busy: {', '.join(cores)}.",),
    )
    results.finish(as_markdown=True)


def flop_per_pixel(prior: Prior) -> float:
    """Multiplications and additions of an evaluation, of each pixel."""
    level = NOISE_LEVEL if prior.config.noise_conditional else None
    x = jax.ShapeDtypeStruct((1, SIDE, SIDE, prior.config.channels), np.float32)
    counted = arithmetic(jax.make_jaxpr(lambda x: hj.reconstruct(prior, x, 1.0, noise_level=level))(x).jaxpr)
    return sum(counted.values()) / SIDE**2


def evaluations(prior: Prior, task: str, options: dict[str, str]) -> float:
    """How often a photograph's whole way evaluates the network."""
    counts = [0.0]
    restore = Room.restore

    def counting(room, prior, y, operator, noise_std, config):
        end = restore(room, prior, y, operator, noise_std, config)
        many = config.orientations if isinstance(config.orientations, int) else 1
        counts[0] += many * (int(end.iterations) + (config.initial == "encode"))
        return end

    sharp = hj.images.Image(mosaic(SIDE, SIDE), None, 8)
    photo = hj.degrade_photograph(sharp, task, noise_std=NOISE_STD / 255, **options)
    with patch.object(Room, "restore", counting):
        hj.restore_photograph(photo, task, prior=prior, **options)
    return counts[0]


def around(task: str) -> str:
    """What a row is called."""
    return f"around the network, {task}: noise, borders, checks"


def on_the_host(prior: Prior, height: int, width: int, repeats: int = 3) -> dict[str, float]:
    """Seconds of a core of all that is not the network's: reading, writing, and a restoration that leaves that out.

    What JAX computes of it would be the accelerator's, so that these are upper bounds.
    """

    def nothing(room, prior, y, operator, noise_std, config):
        x = np.clip(np.asarray(operator.adjoint(y[None]))[0], 0, 1)
        return hj.Restoration(x, x, x, iterations=1, residual=0.0, status=hj.Status.COMPLETED, history=None)

    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "in.jpg", Path(folder) / "out.png"
        hj.images.write_image(given, mosaic(height, width))
        photo = hj.read_photograph(given)
        png = photo._replace(jpeg=None)
        seconds = {
            "reading a JPEG": _median(lambda: hj.read_photograph(given), repeats),
            "writing a PNG": _median(lambda: hj.write_photograph(result, photo, overwrite=True), repeats),
        }
        with patch.object(Room, "restore", nothing):
            for task, options in TASKS.items():
                seconds[around(task)] = _median(
                    lambda options=options, task=task: hj.restore_photograph(
                        png, task, prior=prior, noise_std=NOISE_STD / 255, **options
                    ),
                    repeats,
                )
        return seconds


def _median(function: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return float(np.median(spent))
