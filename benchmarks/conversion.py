"""Converting a checkpoint of full size: seconds, peak memory, size of the prior, seconds to load it.

    python -m benchmarks conversion [--preset ffhq256] [--legacy] [--repeats 3]

The checkpoint has random weights in OpenAI's layout; each step is the real command or call in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import sys
from benchmarks.command import AddOption
from benchmarks.torch_writer import save
from benchmarks.vdvae import PRESETS, random_state
save(random_state(PRESETS[sys.argv[1]]), sys.argv[2], legacy=len(sys.argv) > 3)
"""

LOAD = """
import sys, time
import jax, hvae_jax
start = time.perf_counter()
prior = hvae_jax.load_prior(sys.argv[1])
jax.block_until_ready(prior.params)
print(time.perf_counter() - start)
"""


def measure(*arguments: str) -> tuple[float, float, str]:
    """Run Python in a process: its seconds, peak memory in MB, and what it printed.

    The peak counts what this process holds when it starts the other, so it must stay small itself.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{printed}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3, printed


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--preset", default="ffhq256", help="a VDVAE: ffhq256, imagenet64, ...")
    add("--legacy", action="store_true", help="the file format of PyTorch < 1.6, as OpenAI's files are")
    add("--repeats", type=int, default=3)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    with tempfile.TemporaryDirectory() as scratch:
        file, prior = Path(scratch) / "model.th", Path(scratch) / "prior"
        measure("-c", MAKE, args.preset, str(file), *(["legacy"] if args.legacy else []))
        size = file.stat().st_size / 1e6
        print(f"{args.preset} with random weights, a file of {size:.0f} MB, {'old' if args.legacy else 'zip'} format")
        _, idle, _ = measure("-c", "import conversion.convert")
        print(f"importing alone: peak memory {idle:.0f} MB")
        for _ in range(args.repeats):
            seconds, peak, printed = measure("-m", "conversion", str(file), "--out", str(prior), "--overwrite")
            print(f"converting: {seconds:.1f} s in all, peak memory {peak:.0f} MB, {peak / size:.2f} times the file's")
        print(printed.strip().replace(scratch, "."))
        stored = sum(path.stat().st_size for path in prior.rglob("*") if path.is_file()) / 1e6
        print(f"prior's directory: {stored:.0f} MB")
        for _ in range(args.repeats):
            _, peak, printed = measure("-c", LOAD, str(prior))
            print(f"loading: {float(printed):.2f} s, peak memory {peak:.0f} MB")
