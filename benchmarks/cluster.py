"""Photographs per second of `hvae-jax restore FOLDER --cluster`, with one actor and with several, on this machine.

    python -m benchmarks cluster --photographs 60

Needs Ray (`pip install '.[cluster]'`). Each row is the real command on a cluster of as many cores as actors, in
processes of its own; an actor has one core, and XLA one thread in it. The last row is the same command without a
cluster, whose threads have all cores. Compiling is not counted: the clock starts when each actor has written its first
photograph.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.command import AddOption, add_out
from benchmarks.experiment import Run, machine
from benchmarks.large import mosaic
from hvae_jax import folders
from hvae_jax.files import read_rows
from hvae_jax.images import write_image

NOISE_STD = 10.0

ON_CORES = """
import sys
import ray
from hvae_jax import cli
ray.init(num_cpus=int(sys.argv[1]), include_dashboard=False, object_store_memory=100 * 2**20)
sys.exit(cli.main([*sys.argv[2:], "--cluster", "local"]))
"""


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--photographs", type=int, default=60, metavar="N", help="how many to restore for each row (default 60)")
    add("--size", type=int, default=256, help="their side in pixels (default 256)")
    add("--actors", type=lambda text: [*map(int, text.split(","))], default=[1, 2], metavar="N,M", help="default 1,2")
    add_out(add)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("expected Ray, which is not installed: pip install 'hvae_jax[cluster]'")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 0 < max(args.actors) <= cores:
        raise ValueError(f"expected actors from 1 to this machine's {cores} cores, got {max(args.actors)}")
    if args.photographs < 3 * max(args.actors):
        raise ValueError(f"expected at least three photographs for each actor, got {args.photographs}")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        photographs = make_photographs(Path(scratch) / "in", args.photographs, args.size)
        for count in args.actors:
            start = [sys.executable, "-c", ON_CORES, str(count)]
            rows.append((f"{count} actor{'s' * (count > 1)}, a core each", rate(start, photographs, count)))
        alone = rate([sys.executable, "-m", "hvae_jax"], photographs, 1)
        rows.append((f"no cluster, a process on {cores} cores", alone))
    results = Run("cluster", "A folder on a Ray cluster", "", args.out, command, machine())
    results.table(
        f"{args.photographs} photographs of {args.size} x {args.size}, denoised",
        ["", "photographs per second", "over the first row"],
        [[name, f"{value:.3f}", f"{value / rows[0][1]:.2f}"] for name, value in rows],
        notes=("After each process has compiled; its first photograph is not counted.",),
    )
    results.finish(as_markdown=True)


def make_photographs(folder: Path, count: int, size: int) -> Path:
    """Noisy squares of the free photographs that are here, no two the same."""
    across = int(np.ceil(np.sqrt(count)))
    rng = np.random.default_rng(0)
    whole = mosaic(across * size, across * size)
    whole += NOISE_STD / 255 * rng.standard_normal(whole.shape, np.float32)
    for i in range(count):
        top, left = size * (i // across), size * (i % across)
        write_image(folder / f"{i:04d}.png", np.clip(whole[top : top + size, left : left + size], 0, 1))
    return folder


def rate(start: list[str], photographs: Path, processes: int) -> float:
    """Photographs per second of a command, from when its slowest process to start has written its first one.

    Raises:
        ValueError: it failed, or not as many processes had something to do.
    """
    with tempfile.TemporaryDirectory() as out:
        options = ["--task", "denoise", "--noise-std", str(NOISE_STD), "--out", f"{out}/"]
        done = subprocess.run([*start, "restore", str(photographs), *options], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"expected the command to succeed, got: {done.stderr[-300:]}")
        written = [
            [(Path(out) / row["key"]["result"]).stat().st_mtime for row in read_rows(path)]
            for path in folders.manifests(Path(out))
        ]
    if len(written) != processes:
        raise ValueError(f"expected {processes} processes to restore, got {len(written)}; take more photographs")
    begin = max(map(min, written))
    counted = [when for times in written for when in times if when > begin]
    if not counted:
        raise ValueError("expected photographs after each process's first, got none; take more photographs")
    return len(counted) / (max(counted) - begin)
