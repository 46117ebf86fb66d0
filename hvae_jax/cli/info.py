"""`hvae-jax info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import hvae_jax as hj
from hvae_jax.cli.shared import in_words, load_prior, printable, settings_table


def info(
    prior: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|DIR]", help="A bundled prior or a prior's folder (default: natural-medium)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON, without the model card.")] = False,
) -> None:
    """Tell what a prior is: its model card, if it has one, its levels, size, origin, licence and settings."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table

    from hvae_jax.prior import BUNDLED, find_prior

    folder = find_prior(BUNDLED if prior is None else prior)
    facts = _facts(folder, load_prior(prior))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console(markup=False)  # what a prior says of itself is its maker's
    if facts["card"] is not None:
        card = printable(Path(facts["card"]).read_text("utf-8", "replace"))
        if console.is_terminal:
            console.print(Markdown(card, hyperlinks=False))
        else:
            typer.echo(card)
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")

    def row(name: str, value: Any) -> None:
        inner = value if isinstance(value, dict) else {}
        words = "" if inner else "not said" if value is None else in_words(value)
        table.add_row(printable(name).replace("_", " "), printable(words))
        for part in inner:
            row(f"  {part}", in_words(inner[part]))

    row("name", facts.pop("name"))
    row("folder", facts.pop("folder"))
    row("model card", "none" if (file := facts.pop("card")) is None else f"{file}, its pictures beside it")
    row("family", facts.pop("family"))
    row("parameters", f"{facts.pop('parameters'):,}")
    row("sha256", facts.pop("sha256"))
    row("levels", facts.pop("levels"))
    for group in facts.pop("latents"):
        row(f"  at 1/{group['stride']}", f"{group['levels']} with {group['channels']} channels")
    any_size = f"any; multiples of {facts.pop('multiple')} need no padding"
    row("image sides", any_size if (size := facts.pop("image_size")) is None else f"exactly {size}")
    row("noise-conditional", "yes" if facts.pop("noise_conditional") else "no")
    tables = facts.pop("settings", {})
    for name, value in facts.items():
        row(name, value)
    console.print(table)
    for task, rows in tables.items():
        console.print(settings_table(task, rows))


def _facts(folder: Path, prior: hj.Prior) -> dict[str, Any]:
    """What is known of a prior in a folder, in JSON's types; what `prior.json` says beside the model comes last."""
    from hvae_jax.models.contract import HierarchyConfig

    card = folder / "README.md"
    config: HierarchyConfig = prior.config
    facts = {
        "name": prior.info.get("name"),
        "folder": str(folder),
        "card": str(card) if card.is_file() else None,
        "family": prior.info["family"],
        "parameters": prior.info["parameters"],
        "sha256": prior.info["sha256"],
        "levels": prior.levels,
        "latents": [
            {"stride": stride, "levels": resolution.levels, "channels": channels}
            for resolution, (stride, channels) in zip(config.resolutions, config.latent_maps, strict=True)
        ],
        "multiple": prior.multiple,
        "image_size": prior.image_size,
        "noise_conditional": prior.config.noise_conditional,
        **{name: prior.info.get(name) for name in ("licence", "data_licence", "provenance")},
    }
    return facts | {name: value for name, value in prior.info.items() if name not in facts}
