"""`hvae-jax train`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hvae_jax.cli.shared import complain, load_prior

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    from hvae_jax.training import TrainConfig

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    from hvae_jax.training import TrainConfig

OUT_OF_TIME = 3
"""Exit code of `train` after `--stop-after`."""


def _print_config(name: str | None) -> None:
    if name is not None:
        typer.echo(_preset(name).to_json(), nl=False)
        raise typer.Exit


def _preset(name: str) -> TrainConfig:
    from hvae_jax import training

    if name not in training.RUNS:
        raise ValueError(f"expected a preset of {', '.join(training.RUNS)}, got {name}")
    return training.RUNS[name]


def train(
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Photographs to learn from.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; DIR/prior is the prior.")],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON file with the run's settings; --print-config writes one to start from."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Settings that are built in: gpu-25min, 5.2 million parameters in 25 minutes of a large accelerator; "
            "cpu-3h (default), 1 million in 3 hours of two CPU cores; cpu-endless, 2 million, until you stop it.",
        ),
    ] = None,
    print_config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_print_config,
            is_eager=True,
            help="Print the settings of a preset as JSON, and exit.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, instead of the settings'.")] = None,
    files: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with the photographs to use, one path below FOLDER a line."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="A prior to start from: of the same architecture, or with fewer residual blocks."
        ),
    ] = None,
    leave: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --decay-steps: the run from whose last checkpoint to go on."),
    ] = None,
    decay_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --leave: harvest an endless run. Its learning rate falls to nearly nothing over so many steps, "
            "in a run of its own in --out; the endless run can go on.",
        ),
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file with what to say of the prior: name, provenance, data_licence."),
    ] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help=f"Stop with a checkpoint after so many minutes; the exit code is then {OUT_OF_TIME}.",
        ),
    ] = None,
) -> int:
    """Train a prior on a folder of photographs.

    Stop it with Ctrl-C at any time, or by --stop-after: the same command goes on where it was, on another device too.
    The photographs are kept in the device's memory, or as many at a time as the settings' store_gib has room for.
    """
    if not data.is_dir():
        raise ValueError(f"{data}: expected a folder of photographs, but there is none")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder, got a file")

    if config is not None and preset is not None:
        raise ValueError(f"expected --config or --preset, got both, {config} and {preset}")
    if stop_after is not None and not stop_after > 0:
        raise ValueError(f"expected --stop-after above 0, got {stop_after:g}")

    if (leave is None) != (decay_steps is None):
        raise ValueError("expected --leave and --decay-steps together, got one of them")
    if leave is not None and (preset is not None or init is not None or steps is not None):
        raise ValueError("expected no --preset, --init or --steps with --leave, whose run decides them")

    from rich.console import Console

    from hvae_jax import training

    if leave is not None and decay_steps is not None:
        # An interrupted decay goes on from where it left, wherever the endless run is by now.
        begun = training.TrainConfig.from_file(out / "config.json") if (out / "config.json").exists() else None
        start = training.last_step(leave) if begun is None else begun.steps - (begun.optimizer.decay_steps or 0)
        settings = training.TrainConfig.from_file(config or leave / "config.json").decayed(start, decay_steps)
    else:
        settings = _preset(preset or "cpu-3h") if config is None else training.TrainConfig.from_file(config)
    if steps is not None:
        settings = dataclasses.replace(settings, steps=steps)
    try:
        training.train(
            settings,
            data,
            out,
            files=files,
            init=None if init is None else load_prior(init).params,
            leave=leave,
            description=None if description is None else _read_description(description),
            stop_after=stop_after,
            console=Console(stderr=True),
        )
    except training.OutOfTime as stop:
        typer.echo(f"{out}: {stop}", err=True)
        return OUT_OF_TIME
    except training.Interrupted as stop:
        complain(str(stop))
        return 130
    typer.echo(f"{out / 'prior'}: trained for {settings.steps} steps")
    return 0


def _read_description(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON file, got: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
