"""Seconds to compile and to run a restoration, beside one evaluation of the network, and where they go.

Example:
    python -m benchmarks speed --prior natural-medium,vdvae-ffhq256 --profile
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import hvae_jax as hj
from benchmarks.command import AddOption, add_out
from benchmarks.experiment import Run, machine
from benchmarks.priors import NOISE_LEVEL, add_prior_options, noise_level_of, prior_of
from benchmarks.profile import PROFILE, matmul_peak, profile, rows_of
from hvae_jax.operators import Blur
from hvae_jax.prior import Prior
from hvae_jax.restoration.recommended import tables_of

Work = Callable[[Prior, jax.Array], jax.Array]


def timed(function: Callable[[], jax.Array], repeats: int) -> tuple[float, float]:
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
    add_prior_options(add, "natural-medium")
    add("--batch", type=int, default=1)
    add("--repeats", type=int, default=5)
    add("--profile", action="store_true", help="say where the time of an evaluation and of a restoration goes, too")
    add_out(add)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    results = Run("speed", "Seconds of an evaluation and of a restoration", "", args.out, command, machine())
    for name in args.prior:
        measure(results, name, args)
    results.finish(as_markdown=True)


def measure(results: Run, name: str, args: argparse.Namespace) -> None:
    """The tables of a prior. Without settings of its own it is not restored with, for nobody would."""
    jax.clear_caches()
    start = time.perf_counter()
    prior = prior_of(name)
    jax.block_until_ready(prior.params)
    loading = time.perf_counter() - start
    side = prior.image_size or args.size
    y = jax.random.uniform(jax.random.key(0), (args.batch, side, side, 3))
    operator, level = Blur(jnp.full((9, 9), 1 / 81)), noise_level_of(prior)
    works: dict[str, Work] = {
        "one evaluation, HVAE(x, τ)": lambda prior, y: hj.reconstruct(prior, y, 1.0, noise_level=level)
    }
    iterations = 1
    if tables_of(prior):
        iterations = int(hj.restore(prior, y, operator, NOISE_LEVEL).iterations[0])
        jax.clear_caches()
        restoring = f"restore, {iterations} iterations"
        works[restoring] = lambda prior, y: hj.restore(prior, y, operator, NOISE_LEVEL).image
    profiled = [*works.items()]
    works["one data step"] = lambda prior, y: operator.data_step(y, y, 0.1)
    rows = [(work, *timed(partial(function, prior, y), args.repeats)) for work, function in works.items()]
    unit = rows[0][2]
    header = ["", "compile (s)", "run (s)", "run / evaluation"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # given in KiB
    results.table(
        f"{name}, {args.batch} x {side} x {side}",
        header,
        [[work, f"{c:.2f}", f"{r:.3f}", f"{r / unit:.2f}"] for work, c, r in rows],
        notes=(f"{name}: loading {loading:.2f} s, peak memory of the process until then {peak:.2f} GiB",),
    )
    if not args.profile:
        return
    for work, function in profiled:
        parts = profile(function, prior, y, trips=iterations, repeats=args.repeats)
        # The machine's speed now, not that of a while ago.
        running, peak = timed(partial(jax.jit(function), prior, y), args.repeats)[1], matmul_peak()
        results.table(
            f"{name}: {work}",
            PROFILE,
            rows_of(parts, running, peak),
            notes=(f"{name}, {work}: a matrix product of 2048x2048 did {peak / 1e9:.0f} GFLOP/s meanwhile",),
        )
