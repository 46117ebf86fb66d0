"""What the commands share: options, parsing, progress, tables, one sentence for a mistake."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import hvae_jax as hj

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    from rich.table import Table

GREY_LEVELS = 255
"""Deviations are given in grey levels, of which the images' unit [0, 1] has this many."""

TaskOption = Annotated[
    str,
    typer.Option(
        metavar="deblur|sr|inpaint|denoise|jpeg",
        help="What happened to the image: blur, loss of resolution, holes, noise, JPEG compression.",
    ),
]
KernelOption = Annotated[
    str | None,
    typer.Option(
        metavar="KERNEL",
        help="Blur kernel: gaussian:WIDTH (standard deviation in pixels), motion:LENGTH,ANGLE (pixels, degrees "
        "counter-clockwise from the horizontal), disk:RADIUS (out of focus), box:SIDE, or a file (.npy, .npz, .mat, "
        ".txt, .csv, .fits or an image), or estimate, which finds it out, or leaves the picture as it is where that is "
        "not sure. A kernel in a file is centred. Needed by deblur; for sr the default is the average over FACTOR x "
        "FACTOR pixels.",
    ),
]
FactorOption = Annotated[
    int | None,
    typer.Option(min=2, help="For sr: how many times fewer pixels there are along each side."),
]
AlignOption = Annotated[
    str,
    typer.Option(
        metavar="center|corner",
        help="For sr with a kernel: where in its cell of FACTOR x FACTOR pixels a reduced pixel lies. center, as most "
        "programs reduce pictures; corner, as simulated data often is.",
    ),
]
KeepOriginOption = Annotated[
    bool,
    typer.Option(
        "--keep-origin",
        help="Do not centre a kernel from a file: its centre is at half its size, rounded down. One whose centre of "
        "mass is elsewhere moves the picture.",
    ),
]
InvertMaskOption = Annotated[bool, typer.Option("--invert-mask", help="The mask is white where a pixel is missing.")]
MaskOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="For inpaint: an image of the same size, white where a pixel was observed."),
]
PriorOption = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR", help="A bundled prior or a prior's folder (default: the bundled natural-medium)."),
]
CompileCacheOption = Annotated[
    bool,
    typer.Option(
        "--compile-cache/--no-compile-cache",
        help="Keep compiled programs in the user's cache folder (at most 1 GiB), so that the next command is faster.",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]


def new_app(help: str) -> typer.Typer:
    """An empty command line in the style of the house."""
    return typer.Typer(
        help=help,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # reflows the paragraphs of docstrings
    )


def load_prior(name: str | None) -> hj.Prior:
    """The prior that `--prior` names."""
    return hj.load_prior() if name is None else hj.load_prior(name)


def parse_noise_std(text: str) -> float | None:
    """A deviation in the images' unit, or None for auto."""
    return None if text == "auto" else scaled("--noise-std", _number("--noise-std", text), zero=True)


def parse_range(text: str) -> tuple[float, float] | None:
    """Two numbers, or None for auto."""
    if text == "auto":
        return None
    numbers = parse_numbers("--range", text)
    if len(numbers) != 2:
        raise ValueError(f"expected --range as two numbers, LOW,HIGH, or auto, got {text}")
    return numbers[0], numbers[1]


def parse_temperature(text: str, levels: int) -> Any:
    """`--temperature`, for a prior of so many levels."""
    from hvae_jax.restoration import linear

    ends = parse_numbers("--temperature", text)
    if len(ends) > 2 or min(ends) <= 0:
        raise ValueError(f"expected --temperature as one or two numbers above 0, got {text}")
    return ends[0] if len(ends) == 1 else linear(ends[0], ends[1], levels)


def parse_numbers(option: str, text: str) -> list[float]:
    """Numbers with commas between them."""
    return [_number(option, part) for part in text.split(",")]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number for {option}, got {text}") from None


def scaled(option: str, grey_levels: float | None, zero: bool = False) -> Any:
    """A deviation in the images' unit; None stays."""
    if grey_levels is None:
        return None
    if not (math.isfinite(grey_levels) and (grey_levels > 0 or (zero and grey_levels == 0))):
        raise ValueError(f"expected {option} {'of at least' if zero else 'above'} 0, got {grey_levels:g}")
    return grey_levels / GREY_LEVELS


def check_output_file(out: Path, source: Path, overwrite: bool) -> None:
    """ValueError where a result cannot be written."""
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: expected another file than the input, got the same")
    hj.images.check_writable(out, overwrite)


def printable(text: str) -> str:
    """A prior's text without what would steer a terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def settings_table(task: str, rows: Sequence[dict[str, Any]], what: str = "Recommended settings") -> Table:
    """The recommended settings (or what else there is) of a task, a column per noise level."""
    from rich.table import Table

    title = f"{what}: {printable(task)} (deviations in grey levels of 255)"
    table = Table(title=title, title_justify="left")
    table.add_column("noise std")
    for row in rows:
        table.add_column(in_words(row.get("noise_std", "")), justify="right")
    names = sorted({name for row in rows for name in row} - {"noise_std"})
    for name in names:
        table.add_row(printable(name).replace("_", " "), *(printable(in_words(row.get(name, ""))) for row in rows))
    return table


def in_words(value: Any) -> str:
    """A JSON value on one line."""
    if isinstance(value, dict):
        parts = [
            f"{name} ({in_words(v)})" if isinstance(v, dict) else f"{name} {in_words(v)}" for name, v in value.items()
        ]
        return ", ".join(parts)
    if isinstance(value, list):
        return " ".join(map(in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def complain(sentence: str) -> None:
    """Report a mistake."""
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    """Run a command line, with one sentence for a user's mistake.

    Args:
        app: the commands.
        name: the program's name.
        arguments: those after it; `sys.argv`'s if None.

    Returns:
        The exit code: 0; 1 where an image could not be restored; 2 for a user's mistake, after one sentence on
        stderr; 3 where a training's time was over; 130 when interrupted. What is none of these is a bug and raises.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = typer.main.get_command(app)
    try:
        return command.main(arguments or ["--help"], prog_name=name, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):  # the latter by older versions of typer
        return 130
    except Exception as error:
        sentence = sentence_of(error)
        # A mistake in the options has one of its own; typer's versions have several classes.
        if sentence is None and hasattr(error, "format_message"):
            sentence = error.format_message()
        if sentence is None:
            raise
        complain(sentence)
    return 2


def sentence_of(error: Exception) -> str | None:
    """What to tell the user of a mistake, or of a machine that is too small; None for a bug."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # the latter by JAX
        return "expected enough memory for this size, got too little; take a smaller image or a part of it"
    return None


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a file's name before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
