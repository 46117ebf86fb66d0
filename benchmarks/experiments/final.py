"""The final table: the prior beside other methods on every task, means and standard errors over images.

The weights of total variation and EPLL are chosen for each task and noise level on validation images (--validation),
none of which is tested. Denoisers are applied once where the task is denoising, and by half-quadratic splitting
elsewhere; BM3D, which is slow, in denoising alone.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import methods, problems
from benchmarks.command import AddOption, names_of
from benchmarks.experiment import BEST, METRICS, Run, per_image, plus_minus, standard_error
from benchmarks.experiments.common import Options, Variant, evaluate, resolve, unaffected_by
from benchmarks.methods import Denoiser, Method, load_bm3d, load_dncnn, plug_and_play, tuned
from benchmarks.methods.epll import denoise_colours, load_mixture
from benchmarks.problems import Problem
from hvae_jax.images import Squares
from hvae_jax.operators import Denoising

TITLE, PAPER = "The prior beside other methods on every task", "after Tables 2 and 3"
METHODS = ("observation", "tv", "epll", "bm3d", "fdncnn", "pnp-hvae")
OURS = "pnp-hvae"

VALIDATION_COUNT, VALIDATION_SIZE = 4, 128
"""How many validation images are used, and the side of the squares in their middle."""


def tv(weight: float) -> Method:
    """Total variation."""
    return methods.get("tv", weight=weight)


@functools.cache
def epll(weight: float) -> Method:
    """EPLL with another λ than DPIR's, for what is not denoising."""
    return plug_and_play(functools.partial(denoise_colours, load_mixture()), weight=weight)


TUNED: dict[str, tuple[Callable[[float], Method], tuple[float, ...]]] = {
    "tv": (tv, (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0, 90.0, 128.0)),
    "epll": (epll, (0.06, 0.12, 0.23, 0.46, 0.92)),
}
"""Methods with a weight to choose, and the candidates."""


def add_options(add: AddOption) -> None:
    """Its own ones."""
    tasks = f"some of {','.join(problems.TASKS)} (default: all)"
    add("--tasks", type=names_of, default=problems.TASKS, metavar="A,B", help=tasks)
    add("--seeds", type=int, default=1, metavar="N", help="draws of the noise (default 1)")
    add("--validation", type=Path, metavar="DIR|LIST", help="images to tune other methods on, as --images")


def run(options: Options) -> None:
    """Run it."""
    draw = functools.partial(problems.final, seed=options.seed, kernels=options.kernels, tasks=options.own.tasks)
    cases = list(draw(options.images, draws=options.own.seeds))
    chosen = resolve(options, METHODS)
    usable = [name for name, method in chosen.items() if not isinstance(method, str)]
    validation = validation_images(options) if set(usable) & set(TUNED) else None
    with options.start("final", TITLE, PAPER, solver=options.solver) as run:
        variants: dict[str, Variant] = {}
        notes = []
        for name, method in chosen.items():
            if isinstance(method, str):
                continue
            if name in TUNED and validation is not None:
                weights = choose_weights(run, name, list(draw(validation)), validation)
                variants[name] = functools.partial(with_weight, name, method, weights)
                shown = ", ".join(f"{weight:g} ({task})" for task, weight in weights.items())
                notes.append(f"{name}: weights chosen on {validation.source}: {shown}.")
            elif name == "fdncnn" and options.weights is not None:
                variants[name] = functools.partial(denoiser_for, load_dncnn(options.weights), False)
            elif name == "bm3d":
                variants[name] = functools.partial(denoiser_for, load_bm3d(), True)
        rows, unavailable = evaluate(run, options, cases, chosen, variants)
        lines: dict[str, list[int]] = {}
        for i, case in enumerate(cases):
            lines.setdefault(line(case), []).append(i)
        if options.own.seeds > 1:
            spread = max(draw_deviation(cases, rows, members, name) for members in lines.values() for name in usable)
            notes.append(
                f"A mean PSNR deviates by at most {spread:.3f} dB between {options.own.seeds} draws of the noise."
            )
        tables(run, lines, rows, list(chosen), [*unavailable, *notes, ABOUT])
        run.compare([row for (_, name), row in rows.items() if name == OURS])
        run.finish(as_markdown=True)


def line(problem: Problem) -> str:
    """The row of the tables that a problem belongs to; deblurring is averaged over kernels."""
    task = " ".join(str(problem.label[name]) for name in ("task", "case") if name in problem.label)
    return f"{task}, σ = {problem.label['σ']:g}"


def validation_images(options: Options) -> Squares:
    """The middles of a few images, none of which is tested."""
    images = problems.load_images(options.own.validation, options.images.pixels.shape[1])
    tested = {square.tobytes() for square in options.images.pixels}
    others = [i for i, square in enumerate(images.pixels) if square.tobytes() not in tested][:VALIDATION_COUNT]
    if not others:
        raise ValueError(f"{images.source}: expected images that are not tested; give others with --validation")
    size = min(VALIDATION_SIZE, images.pixels.shape[1])
    start = (images.pixels.shape[1] - size) // 2
    folder = options.own.validation or problems.DATA / "images"
    source = f"the middle {size}x{size} pixels of {len(others)} others of {folder.name}"
    squares = images.pixels[others, start : start + size, start : start + size]
    return Squares(tuple(images.names[i] for i in others), squares, source)


def choose_weights(run: Run, method: str, cases: Sequence[Problem], images: Squares) -> dict[str, float]:
    """The best weight of a method for each line of the tables that it is tuned for.

    Args:
        run: keeps what was chosen.
        method: a key of `TUNED`.
        cases: the problems, of validation images.
        images: those.

    Returns:
        The weights.
    """
    make, candidates = TUNED[method]
    lines: dict[str, list[Problem]] = {}
    for case in cases:
        if method != "epll" or not isinstance(case.operator, Denoising):  # for which its authors' schedule is better
            lines.setdefault(line(case), []).append(case)
    run.expect(len(lines))

    def choose(members: Sequence[Problem]) -> dict[str, float]:
        given = [(case.observed, case.operator, case.noise_std, case.clean) for case in members]
        return {"weight": tuned(lambda y, A, noise_std, weight: make(weight)(y, A, noise_std), given, candidates)}

    weights = {}
    for name, members in lines.items():
        key = {"weight of": method, "task": name, "validation": images.digest, "candidates": candidates}
        apart_from = ("images", "pixels", *unaffected_by(method))
        weights[name] = run.row(key, functools.partial(choose, members), apart_from)["weight"]
    return weights


def with_weight(name: str, method: Method, weights: Mapping[str, float], problem: Problem) -> tuple[Method, str | None]:
    """A method with the weight that was chosen for the problem, or as it is where none was."""
    weight = weights.get(line(problem))
    return (method, None) if weight is None else (TUNED[name][0](weight), f"weight {weight:g}")


def denoiser_for(denoise: Denoiser, only: bool, problem: Problem) -> tuple[Method, str | None] | None:
    """A denoiser, applied once for denoising; elsewhere by half-quadratic splitting, or not if it is `only` that."""
    if isinstance(problem.operator, Denoising):
        return lambda y, A, noise_std: denoise(y, noise_std), "once"
    return None if only else (plug_and_play(denoise), None)


def draw_deviation(cases: Sequence[Problem], rows: Mapping, members: Sequence[int], method: str) -> float:
    """The standard deviation of a line's mean PSNR between draws of the noise, 0 where there is none."""
    draws: dict[Any, list[float]] = {}
    for i in members:
        if (i, method) in rows:
            draws.setdefault(cases[i].label["draw"], []).append(float(np.mean(rows[i, method]["PSNR"])))
    means = [np.mean(values) for values in draws.values()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def tables(
    run: Run,
    lines: Mapping[str, Sequence[int]],
    rows: Mapping[tuple[int, str], dict[str, Any]],
    names: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Add a table for each metric, of the paired differences in PSNR, and of the seconds.

    Args:
        run: the run.
        lines: the numbers of the problems of each row.
        rows: of `evaluate`.
        names: of the methods.
        notes: sentences below the first table.
    """
    complete = {
        (task, name): [rows[i, name] for i in members]
        for task, members in lines.items()
        for name in names
        if all((i, name) in rows for i in members)
    }

    def add(title: str, columns: Sequence[str], cell: Callable[[str, str], Any], best: str | None, *notes: str) -> None:
        cells = [[task, *(cell(task, name) for name in columns)] for task in lines]
        run.table(title, ["task", *columns], cells, best=best, across=True, notes=notes)

    def mean(metric: str, task: str, name: str) -> str | None:
        if (found := complete.get((task, name))) is None:
            return None
        values = per_image(found, metric)
        return plus_minus(float(values.mean()), standard_error(values), 2 if metric == "PSNR" else 3)

    def difference(task: str, name: str) -> str | None:
        ours, theirs = complete.get((task, OURS)), complete.get((task, name))
        if ours is None or theirs is None:
            return None
        gain = per_image(ours) - per_image(theirs)
        return plus_minus(float(gain.mean()), standard_error(gain), 2, sign=True)

    def seconds(task: str, name: str) -> float | None:
        found = complete.get((task, name))
        return None if found is None else float(np.mean([row["seconds"] for row in found]))

    add("PSNR (dB)", names, functools.partial(mean, "PSNR"), BEST["PSNR"], *notes)
    if OURS in names:
        others = [name for name in names if name != OURS]
        note = "Mean over the same images of the difference, and its standard error."
        add(f"PSNR of {OURS} less that of the other (dB)", others, difference, None, note)
    for metric in METRICS[1:]:
        add(metric, names, functools.partial(mean, metric), BEST[metric])
    note = "Per image, compiling not counted."
    add("Seconds", [name for name in names if name != "observation"], seconds, BEST["seconds"], note)


ABOUT = (
    "Means over images ± their standard error; σ in grey levels of 255. Deblurring: the mean over circular blurs with "
    f"the kernels {', '.join(problems.KERNELS)}; super-resolution: every second or fourth pixel after the Gaussian "
    f"blur {problems.SUPER_RESOLUTION_KERNEL}. The observation is shown with its holes filled smoothly, or enlarged. "
    "EPLL and FDnCNN: half-quadratic splitting in 8 evaluations; for denoising EPLL's own schedule, and FDnCNN and "
    "BM3D once."
)
