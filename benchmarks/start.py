"""What the first and the second process of one size spend on tracing and compiling, with an empty cache before.

Example:
    python -m benchmarks start
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.command import AddOption
from benchmarks.experiment import markdown

ROOT = Path(__file__).parents[1]
RESTORE = ["restore", "examples/blurred.png", "--task", "deblur", "--kernel", "motion:13,30", "--noise-std", "2.55"]

PROCESS = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
start = time.perf_counter()
import jax
spent = {"tracing": 0.0, "lowering": 0.0, "compiling": 0.0}
names = {"jaxpr_trace_duration": "tracing", "jaxpr_to_mlir_module_duration": "lowering"}
names["backend_compile_duration"] = "compiling"
def note(event, seconds, **_):
    name = names.get(event.rsplit("/", 1)[-1])
    if name:
        spent[name] += seconds
jax.monitoring.register_event_duration_secs_listener(note)
from hvae_jax.cli import main
code = main(sys.argv[1:])
print(json.dumps({"process": time.perf_counter() - start, **spent}))
sys.exit(code)
"""


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--repeats", type=int, default=3, help="pairs of processes; medians are shown")


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    pairs = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "HVAE_JAX_CACHE": f"{folder}/cache"}
            pair = []
            for _ in range(2):
                line = [sys.executable, "-c", PROCESS, *RESTORE, "--overwrite", "--out", f"{folder}/out.png"]
                done = subprocess.run(line, check=True, capture_output=True, text=True, env=environment, cwd=ROOT)
                spent = json.loads(done.stdout.splitlines()[-1])
                programs = spent["tracing"] + spent["lowering"] + spent["compiling"]
                pair.append([*spent.values(), programs])
            pairs.append(pair)
    first, second = np.median(pairs, axis=0)
    header = ["seconds", "process", "tracing", "lowering", "compiling or reading", "these three"]
    rows = [[name, *(f"{value:.2f}" for value in row)] for name, row in (("first", first), ("second", second))]
    print(markdown(header, [*rows, ["second / first", *(f"{value:.2f}" for value in second / first)]]))
