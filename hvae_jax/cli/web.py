"""`hvae-jax web`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hvae_jax.cli.shared import PriorOption


def web(
    host: Annotated[
        str,
        typer.Option(help="The address to listen at: 127.0.0.1 is this computer alone, 0.0.0.0 others too."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 7860,
    password: Annotated[
        str | None,
        typer.Option(
            envvar="HVAE_JAX_WEB_PASSWORD",
            show_envvar=True,
            help="The password that the page asks for, with any name; needed where others reach it. Without it the "
            "terminal is asked. On the command line other users of the computer can see it.",
        ),
    ] = None,
    prior: PriorOption = None,
    megapixels: Annotated[float, typer.Option(min=0, help="The most that a photograph or a result may have.")] = 30,
    waiting: Annotated[int, typer.Option(min=1, help="How many restorations may wait; more are refused.")] = 10,
    memory: Annotated[
        float | None,
        typer.Option(min=0, metavar="GIB", help="How much memory a restoration may take (default: what there is)."),
    ] = None,
) -> None:
    """Serve a web page on which photographs are restored (extra web); Ctrl-C ends it.

    Nothing is asked of any other host, by the page or by the server. What is uploaded is kept for an hour at most.
    """
    from hvae_jax.web.serve import Limits, is_local, serve

    if not password and not is_local(host):
        if not sys.stdin.isatty():
            raise ValueError(
                "expected a password where others reach the page (HVAE_JAX_WEB_PASSWORD or --password), "
                f"got none for {host}"
            )
        password = typer.prompt("Password for the page", hide_input=True, confirmation_prompt=True, err=True)
    serve(
        host,
        port,
        password=password or None,
        prior=prior,
        limits=Limits(megapixels, waiting, memory),
        ready=lambda address: typer.echo(f"{address}  (Ctrl-C ends it)"),
    )
