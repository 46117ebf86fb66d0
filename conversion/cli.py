"""The command line, `hvae-jax-convert` or `python -m conversion`: a PyTorch checkpoint to a prior."""

import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from hvae_jax.cli.shared import run

if TYPE_CHECKING:  # imported where it is used, so that `--help` does not wait for JAX
    from conversion.convert import Checkpoint

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


class Weights(StrEnum):
    """`conversion.convert.Weights`."""

    EMA = "ema"
    RAW = "raw"


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="A file that torch.save wrote, of OpenAI's VDVAE or of PatchVDVAE; or the name of an official one, "
            "which is downloaded once: vdvae-ffhq256, vdvae-ffhq1024, vdvae-imagenet32, vdvae-imagenet64, "
            "vdvae-cifar10 (also -seed0 to -seed3), patch-vdvae.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The prior's folder.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.json",
            help="The architecture the file is expected to be of (default: found out), or for a VDVAE of one's own a "
            "JSON file of its hyperparameters in OpenAI's words: dataset, width, enc_blocks, dec_blocks, ...",
        ),
    ] = None,
    weights: Annotated[
        Weights | None,
        typer.Option(help="Averaged over the training (ema, the default) or as it ended (raw), of a file with both."),
    ] = None,
    inspect: Annotated[bool, typer.Option("--inspect", help="Only print what is in the file.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Then restore a test image with the prior, and print its numbers.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a prior that is there.")] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where downloads are kept (default: the user's cache folder).")
    ] = None,
) -> int:
    """Convert a PyTorch checkpoint to a prior that `hvae-jax restore --prior DIR` takes. PyTorch is not needed.

    The file is not trusted: nothing in it is executed, and anything but tensors and plain values is refused. Every
    tensor must have its place, and every parameter its tensor; otherwise all that does not fit is listed and nothing
    is written.
    """
    if inspect == (out is not None):
        raise ValueError("expected either --out DIR, to convert, or --inspect, to look")
    if inspect and check:
        raise ValueError("expected --check with --out DIR, not with --inspect")
    chosen: Literal["ema", "raw"] | None = weights and weights.value  # type: ignore[assignment]

    from conversion.convert import read, to_prior
    from conversion.download import OFFICIAL, fetch
    from hvae_jax.prior import check_writable

    if out is not None:  # before anything is downloaded or read
        check_writable(out, overwrite)
    if Path(source).exists() or source not in OFFICIAL:
        if not Path(source).exists():
            raise ValueError(f"expected a file or one of {', '.join(OFFICIAL)}, got {source!r}")
        path = Path(source)
    else:
        path = fetch(source, weights=chosen or "ema", cache=cache)
        preset = preset or OFFICIAL[source].preset
    checkpoint = read(path, preset, chosen)
    if out is None:
        _print(checkpoint)
        return 0
    for line in checkpoint.differences:
        typer.echo(f"{path.name} differs from the preset {checkpoint.preset}: {line}")
    if checkpoint.config is not None and checkpoint.mismatches:
        for line in checkpoint.mismatches:
            typer.echo(line, err=True)
        raise ValueError(
            f"{path} does not fit {checkpoint.preset or 'its architecture'}: expected every tensor to have its place, "
            f"got the {len(checkpoint.mismatches)} mismatches above; nothing was written"
        )
    start = time.perf_counter()
    prior = to_prior(checkpoint)
    prior.save(out, overwrite=overwrite)
    known = checkpoint.preset if not checkpoint.differences else None
    typer.echo(
        f"{out}: {checkpoint.family}, {known or 'an architecture of its own'}, {prior.levels} levels, "
        f"{_parameters(checkpoint):,} parameters, converted in {time.perf_counter() - start:.1f} s"
    )
    return 0 if not check else _check(out)


def _check(out: Path) -> int:
    from conversion.check import check
    from hvae_jax import load_prior

    typer.echo(f"restoring a test image with {out}", err=True)
    return check(load_prior(out), typer.echo)


def _parameters(checkpoint: "Checkpoint") -> int:
    return sum(tensor.size for tensor in checkpoint.state.values())


def _print(checkpoint: "Checkpoint") -> None:
    """What a file holds, for `--inspect`."""
    import collections

    table = Table("", "", show_header=False, box=None)
    dtypes = collections.Counter(str(tensor.dtype) for tensor in checkpoint.state.values())
    rows: dict[str, Any] = {
        "file": f"{checkpoint.path}, {checkpoint.path.stat().st_size:,} bytes",
        "family": checkpoint.family,
        "preset": checkpoint.preset or "none of the known",
        "weights": checkpoint.weights or "one set",
        "levels": checkpoint.config.levels if checkpoint.config else "unknown",
        "tensors": f"{len(checkpoint.state):,}",
        "parameters": f"{_parameters(checkpoint):,}",
        "dtype": ", ".join(f"{name} ({count})" for name, count in dtypes.items()),
        "differs from the preset": "\n".join(checkpoint.differences) or "no",
        "fits its architecture": "\n".join(("no:", *checkpoint.mismatches)) if checkpoint.mismatches else "yes",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console(highlight=False, markup=False).print(table)  # names in a file are its maker's


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those after the program's name; `sys.argv`'s by default.

    Returns:
        The exit code, as `hvae_jax.cli.shared.run` has it.
    """
    return run(app, "hvae-jax-convert", arguments)


if __name__ == "__main__":
    sys.exit(main())
