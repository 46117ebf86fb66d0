"""`hvae-jax train`."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hvae_jax.cli.shared import complain, load_prior

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
    devices: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many devices share each batch, of each process if there are several (default: all)."
        ),
    ] = None,
    distributed: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT",
            help="One of several processes, on one or more hosts, that train together; each is given the same command, "
            "with --out in a file system that they share. auto, where Slurm, Open MPI or Kubernetes tell who they are; "
            "else the address of the first one, with --process.",
        ),
    ] = None,
    process: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="With --distributed HOST:PORT: which of how many processes this one is."),
    ] = None,
) -> int:
    """Train a prior on a folder of photographs.

    Stop it with Ctrl-C at any time, or by --stop-after: the same command goes on where it was, on another device or on
    another number of them too. All devices share each batch. The photographs are kept in each device's memory, or as
    many at a time as the settings' store_gib has room for.
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

    if (process is not None) != (distributed is not None and distributed != "auto"):
        raise ValueError("expected --distributed HOST:PORT and --process together, got one of them")
    if distributed is not None:
        _join(distributed, process)

    from rich.console import Console

    from hvae_jax import training
    from hvae_jax.training.devices import is_first_process, mesh_of

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax tells as an error it raises too, for a sentence

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
            mesh=None if devices is None else mesh_of(devices),
        )
    except training.Interrupted as stop:
        out_of_time = isinstance(stop, training.OutOfTime)
        if is_first_process() and out_of_time:
            typer.echo(f"{out}: {stop}", err=True)
        elif is_first_process():
            complain(str(stop))
        return OUT_OF_TIME if out_of_time else 130
    except training.Broken as error:
        complain(f"{error}; the same command, for each process, goes on from the last checkpoint")
        sys.stderr.flush()
        os._exit(2)  # an orderly end would wait for the other processes, and they for this one
    if is_first_process():
        typer.echo(f"{out / 'prior'}: trained for {settings.steps} steps")
    return 0


def _join(coordinator: str, process: str | None) -> None:
    """Make this process one of several, before JAX looks for devices."""
    import jax

    from hvae_jax.folders import one_of

    where: dict[str, Any] = {}
    if process is not None:
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"expected --distributed auto or HOST:PORT, got {coordinator}")
        number, count = one_of(process, "--process")
        where = {"coordinator_address": coordinator, "process_id": number - 1, "num_processes": count}
        where["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(**where, shutdown_timeout_seconds=60)
    except ValueError as error:
        raise ValueError(
            f"expected a job of Slurm, Open MPI or Kubernetes with --distributed auto, got none ({error}); "
            "else give HOST:PORT and --process"
        ) from error
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the processes of this run do not find each other at {coordinator}: {reason}") from error
    if jax.default_backend() == "cpu":
        # Where the user has set a cache of compiled programs, reading one waits for ever (JAX 0.10.1).
        jax.config.update("jax_enable_compilation_cache", False)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON file, got: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
