"""`hvae-jax status`."""

from pathlib import Path
from typing import Annotated

import typer

from hvae_jax import folders
from hvae_jax.cli.shared import printable


def status(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where results of restore are, of all its shards.")],
    failures: Annotated[bool, typer.Option("--failures", help="Name the pictures that failed, a line each.")] = False,
) -> int:
    """Sum up a folder of results: how many pictures were restored, with a warning, and which failed.

    The exit code is 1 if any failed and was not restored since.
    """
    found = folders.summary(out)
    typer.echo(
        f"{out}: {found.done} restored, {found.warned} of them with a warning"
        + (f", {found.missing} of them removed since" if found.missing else "")
        + f"; {len(found.failures)} failed"
    )
    if failures:
        for file, sentence in sorted(found.failures.items()):
            typer.echo(printable(f"{file}: {sentence.removeprefix(f'{file}: ')}"))
    return 1 if found.failures else 0
