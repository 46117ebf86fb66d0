"""The command line, `hvae-jax`: a module per command, thin; what they do is in the library.

A user's mistake is a `ValueError` or an `OSError`, from here or from what is called; `run` turns it into one
sentence and exit code 2. All that can be checked is checked before the first file is written.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

import hvae_jax as hj
from hvae_jax.cli import degrade, info, restore, sample, status, train, tune, web
from hvae_jax.cli.shared import new_app, run

app = new_app("Restore degraded images with a hierarchical VAE as prior.")
for module in (restore, status, degrade, sample, train, tune, info, web):
    app.command()(getattr(module, module.__name__.rpartition(".")[2]))


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"hvae-jax {hj.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `hvae-jax`.

    Args:
        arguments: those after the program's name; `sys.argv`'s by default.

    Returns:
        The exit code, as `run` has it.
    """
    return run(app, "hvae-jax", arguments)
