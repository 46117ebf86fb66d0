"""A large photograph from the shell: seconds, memory, and pixels per second beside the solver's on a picture at once.

    python -m benchmarks large --height 4000 --width 6000

The picture is put together of the free photographs that are here, blurred and noisy; each run is a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import hvae_jax as hj
from benchmarks.command import AddOption
from benchmarks.experiment import markdown
from benchmarks.problems import DATA

KERNEL, NOISE_STD = "gaussian:1.6", 2.0

WHOLE = """
import json, sys, time
import jax
import numpy as np
import hvae_jax as hj
side = int(sys.argv[1])
prior, operator = hj.load_prior(), hj.operators.Blur(hj.images.parse_kernel(sys.argv[2]))
y = np.random.default_rng(0).random((side, side, 3), np.float32)
def run():
    start = time.perf_counter()
    jax.block_until_ready(hj.restore(prior, y, operator, float(sys.argv[3]) / 255).image)
    return time.perf_counter() - start
run()
print(json.dumps(run()))
"""


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--height", type=int, default=4000)
    add("--width", type=int, default=6000)
    add("--memory", type=float, default=None, metavar="GIB", help="as of restore")
    add("--whole", type=int, default=2048, metavar="SIDE", help="of the picture that is restored at once")


def mosaic(height: int, width: int) -> np.ndarray:
    """Photographs side by side, each as often as it takes."""
    parts = [hj.images.read_image(path).pixels for path in hj.images.list_images(DATA / "images")]
    whole = np.zeros((height, width, 3), np.float32)
    top = count = 0
    while top < height:
        left, tallest = 0, min(part.shape[0] for part in parts)
        while left < width:
            part = parts[count % len(parts)][:: (-1) ** (count // len(parts) % 2)]
            whole[top : top + tallest, left : left + part.shape[1]] = part[: height - top, : width - left][:tallest]
            left, count = left + part.shape[1], count + 1
        top += tallest
    return whole


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    height, width = args.height, args.width
    with tempfile.TemporaryDirectory() as folder:
        sharp = hj.images.Image(mosaic(height + 16, width + 16), None, 8)
        blurred = hj.degrade_photograph(sharp, "deblur", kernel=KERNEL, noise_std=NOISE_STD / 255, boundary="natural")
        pixels = blurred.pixels[:height, :width]
        hj.images.write_image(Path(folder) / "in.png", np.clip(pixels, 0, 1))
        del sharp, blurred, pixels
        line = [sys.executable, "-m", "hvae_jax", "restore", f"{folder}/in.png", "--out", f"{folder}/out.png"]
        line += ["--task", "deblur", "--kernel", KERNEL, "--no-compile-cache"]
        line += [] if args.memory is None else ["--memory", str(args.memory)]
        start = time.perf_counter()
        done = subprocess.run(line, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # given in KiB
    print(done.stdout.strip().rpartition("/")[2])
    whole = [sys.executable, "-c", WHOLE, str(args.whole), KERNEL, str(NOISE_STD)]
    at_once = json.loads(subprocess.run(whole, check=True, capture_output=True, text=True, env=os.environ).stdout)
    rows = [
        [f"{height}x{width}, from the shell, all included", f"{seconds:.0f}", f"{height * width / seconds / 1e3:.1f}"],
        [
            f"{args.whole}x{args.whole}, the solver alone, at once",
            f"{at_once:.0f}",
            f"{args.whole**2 / at_once / 1e3:.1f}",
        ],
    ]
    print(markdown(["", "seconds", "thousand pixels per second"], rows))
    ratio = (height * width / seconds) / (args.whole**2 / at_once)
    print(f"\nratio {ratio:.2f}; peak memory of the process {peak:.2f} GiB")
