"""Where the time of a compiled program goes, by parts of the model: arithmetic from its jaxpr, seconds from a trace."""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

PARTS = (
    (r"bottom_up.*?encode_blocks_(\d+)/", "bottom-up, resolution {}"),
    (r"bottom_up", "bottom-up, between the resolutions"),
    (r"top_down.*?first_level/", "top-down, resolution 0"),
    (r"top_down.*?levels_(\d+)/", "top-down, resolution {}"),
    (r"top_down", "top-down, between the resolutions"),
    (r"decode", "decoder"),
)
"""What part of a model an operation's name belongs to, the first that fits."""
REST = "the rest: data step, flips"

PROFILE = ["part", "ms", "share", "of it products", "copies", "GFLOP", "GFLOP/s over a matrix product's"]
"""Columns of `rows_of`."""
COPIES = ("copy", "concatenate", "transpose", "slice", "pad", "bitcast")
"""Words in the names of XLA's fusions that only move numbers."""


class Part(NamedTuple):
    """A part of a program.

    Attributes:
        flop: multiplications and additions of its convolutions and matrix products, in one run.
        seconds: of one run: time on all threads, over the number of threads.
        products: the share of that in convolutions, matrix products and what XLA fused with them.
        copies: the share in what only moves numbers.
    """

    flop: float
    seconds: float
    products: float
    copies: float


def part_of(name: str) -> str:
    """The part of a model that an operation's name belongs to."""
    for pattern, part in PARTS:
        if found := re.search(pattern, name):
            return part.format(*found.groups())
    return REST


def arithmetic(jaxpr: Any, trips: int = 1, where: str = "") -> Counter[str]:
    """Multiplications and additions of a program's convolutions and matrix products, by part.

    XLA's own count takes a loop's body once; here a scan counts as often as it runs.

    Args:
        jaxpr: the program.
        trips: how often the body of a `while` runs.
        where: name of what the program is a part of.

    Returns:
        Floating-point operations of each part.
    """
    counted: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name = f"{where}/{equation.source_info.name_stack}/"
        kind, params = equation.primitive.name, equation.params
        if kind == "conv_general_dilated":
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval
            features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            counted[part_of(name)] += 2 * out.size * kernel.size // features
        elif kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval
            inner = int(np.prod([left.shape[i] for i in contracted]))
            counted[part_of(name)] += 2 * equation.outvars[0].aval.size * inner
        times = params["length"] if kind == "scan" else trips if kind == "while" else 1
        for value in params.values():
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                for part, flop in arithmetic(inside, trips, name).items():
                    counted[part] += times * flop
    return counted


def profile(function: Callable[..., jax.Array], *args: Any, trips: int = 1, repeats: int = 5) -> dict[str, Part]:
    """Arithmetic and time of a function's parts.

    Args:
        function: a function of arrays.
        args: what it is called with.
        trips: how often the body of a `while` runs.
        repeats: runs over which the time is averaged.

    Returns:
        The parts, the dearest first.
    """
    counted = arithmetic(jax.make_jaxpr(function)(*args).jaxpr, trips)
    compiled = jax.jit(function).lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    operations = {
        found[1]: (found[2], found[3])
        for found in re.finditer(
            r'^\s*(?:ROOT )?%([\w.\-]+) = .*? ([\w\-]+)\(.*?op_name="([^"]*)"', compiled.as_text(), re.MULTILINE
        )
    }
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                jax.block_until_ready(compiled(*args))
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    seconds: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    threads = set()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                opcode, name = operations.get(event.name, ("", ""))
                if opcode in ("", "while", "call", "conditional"):  # what is inside has events of its own
                    continue
                threads.add(line.name)
                spent = event.duration_ns / 1e9 / repeats
                part = part_of(name)
                seconds[part] += spent
                kinds[part, _kind(event.name, opcode, name)] += spent
    many = max(len([name for name in threads if "Eigen" in name]), 1)
    return {
        part: Part(
            counted[part],
            spent / many,
            kinds[part, "products"] / spent,
            kinds[part, "copies"] / spent,
        )
        for part, spent in seconds.most_common()
    }


def _kind(name: str, opcode: str, source: str) -> str:
    """Products, copies, or something else."""
    is_product = re.search(r"(dot_general|conv_general\w*)$", source)
    if opcode in ("convolution", "dot") or name.startswith("ynn") or is_product:
        return "products"
    return "copies" if any(word in name for word in COPIES) else "else"


def matmul_peak(side: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations per second of a large matrix product, the best of some runs."""
    a = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def rows_of(parts: Mapping[str, Part], seconds: float, peak: float) -> list[list[str]]:
    """Rows of a table: milliseconds, what they are spent on, and GFLOP/s over a matrix product's.

    Args:
        parts: of one run.
        seconds: what a run takes without the profiler.
        peak: floating-point operations per second of a matrix product.
    """
    whole = sum(part.seconds for part in parts.values())
    rows = []
    for name, part in parts.items():
        rate = part.flop / (part.seconds * seconds / whole)
        rows.append(
            [
                name,
                f"{1e3 * seconds * part.seconds / whole:.1f}",
                f"{part.seconds / whole:.0%}",
                f"{part.products:.0%}",
                f"{part.copies:.0%}",
                f"{part.flop / 1e9:.2f}",
                f"{rate / peak:.2f}",
            ]
        )
    flop = sum(part.flop for part in parts.values())
    return [*rows, ["all", f"{1e3 * seconds:.1f}", "", "", "", f"{flop / 1e9:.2f}", f"{flop / seconds / peak:.2f}"]]
