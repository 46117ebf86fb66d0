"""Seconds to compile and to run a restoration with the bundled prior, beside one evaluation of the network.

Example:
    python -m benchmarks speed --size 256 --batch 1
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import hvae_jax as hj
from benchmarks.command import AddOption
from benchmarks.experiment import markdown
from hvae_jax.operators import Blur


def timed(function, repeats: int) -> tuple[float, float]:
    """Seconds of the first call less a later one (compiling), and the median of the later ones (running)."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    first = time.perf_counter() - start
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        runs.append(time.perf_counter() - start)
    run = float(np.median(runs))
    return first - run, run


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--prior", default="natural-medium", help="name or directory")
    add("--size", type=int, default=256)
    add("--batch", type=int, default=1)
    add("--repeats", type=int, default=5)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    start = time.perf_counter()
    prior = hj.load_prior(args.prior)
    loading = time.perf_counter() - start
    shape = (args.batch, args.size, args.size, 3)
    y = jax.random.uniform(jax.random.key(0), shape)
    operator = Blur(jnp.full((9, 9), 1 / 81))
    noise_std = 7.65 / 255
    iterations = int(hj.restore(prior, y, operator, noise_std).iterations[0])
    jax.clear_caches()
    rows = []
    for name, function in {
        "one evaluation, HVAE(x, τ)": lambda: hj.reconstruct(prior, y, 1.0, noise_level=noise_std),
        f"restore, {iterations} iterations": lambda: hj.restore(prior, y, operator, noise_std).image,
        "one data step": lambda: operator.data_step(y, y, 0.1),
    }.items():
        compiling, running = timed(function, args.repeats)
        rows.append((name, compiling, running))
    unit = rows[0][2]
    print(f"{shape}, {jax.devices()[0].device_kind}, jax {jax.__version__}; loading the prior {loading:.2f} s\n")
    header = ["", "compile (s)", "run (s)", "run / evaluation"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # given in KiB
    print(f"peak memory of the process {peak:.2f} GiB\n")
    print(markdown(header, [[name, f"{c:.2f}", f"{r:.3f}", f"{r / unit:.2f}"] for name, c, r in rows]))
