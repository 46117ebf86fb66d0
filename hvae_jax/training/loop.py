"""The training loop: checkpoints, log, progress, interruption and resumption."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvae_jax.models.patch_vdvae import PRESETS, PatchVDVAE
from hvae_jax.prior import Metadata, Prior
from hvae_jax.training.config import TrainConfig
from hvae_jax.training.data import batches, crops
from hvae_jax.training.loss import LossTerms
from hvae_jax.training.state import TrainState, grown, init_state, initial_params, train_step


class Interrupted(RuntimeError):
    """Training was asked to stop; the last checkpoint holds every step taken."""


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    files: Path | None = None,
    init: dict | None = None,
    description: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Prior:
    """Train a model, or go on with a run that was interrupted.

    `out` gets `config.json`, `log.jsonl` (a line of means every `log_every` steps), `checkpoints/` and, with each
    checkpoint, `prior/`, made of the averaged parameters. A run that was killed goes on from its last checkpoint
    to the parameters it would have reached, bit for bit.

    Args:
        config: the settings; must equal those of the run that `out` holds, if any.
        data: a folder of photographs.
        out: the run's folder.
        files: a text file that names the photographs to use, one path below `data` a line; all if None.
        init: parameters to start from, those of a prior for example, which may have fewer residual blocks (`grown`);
            random if None.
        description: what the prior's `prior.json` shall say besides the training: name, provenance, licences.
        console: where the progress is shown; nowhere if None.

    Returns:
        The prior.

    Raises:
        ValueError: `out` holds a run with other settings, `data` has no usable photograph, or `init` does not fit
            the model; nothing was written then.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
    """
    out = Path(out).resolve()
    _check_same_run(config, out)
    source = crops(data, config, files)
    template = jax.eval_shape(partial(init_state, config))
    if init is not None:
        init = grown(init, initial_params(config))
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "config.json", config.to_json())
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(out / "checkpoints", options=options) as checkpoints:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        if (last := checkpoints.latest_step()) is None:
            state = jax.device_put(init_state(config, init), device)
        else:
            placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), template)
            state = checkpoints.restore(last, args=ocp.args.StandardRestore(placed))
        start = int(state.step)
        with (
            _stop_signals() as stopped,
            _Log(out / "log.jsonl", config, start, console) as log,
            closing(batches(source, start)) as images,
        ):
            for step in range(start + 1, config.steps + 1):
                state, terms, norm = train_step(state, next(images), config)
                log.add(step, terms, norm, state.skipped)
                stop = bool(stopped)  # asked once, for a signal may come at any time
                if step % config.checkpoint_every == 0 or step == config.steps or stop:
                    # Before the checkpoint: killed in between, the run goes on from the one before and repeats this.
                    _prior(state, config, description).save(out / "prior", overwrite=True)
                    checkpoints.save(step, args=ocp.args.StandardSave(state))
                    # The next step donates the buffers that are being written.
                    checkpoints.wait_until_finished()
                if stop and step < config.steps:
                    raise Interrupted(f"stopped at step {step} of {config.steps}; the same command goes on")
    prior = _prior(state, config, description)
    if start == config.steps:  # it was finished before: write its prior anew, with this description
        prior.save(out / "prior", overwrite=True)
    return prior


def _prior(state: TrainState, config: TrainConfig, description: Mapping[str, Any] | None) -> Prior:
    training = {"steps": int(state.step), "skipped": int(state.skipped), "config": dataclasses.asdict(config)}
    metadata = Metadata.of(**(description or {}), training=training)
    return Prior(jax.tree.map(jnp.copy, state.ema), PatchVDVAE(PRESETS[config.preset]), metadata)


def _check_same_run(config: TrainConfig, out: Path) -> None:
    path = out / "config.json"
    if not path.exists():
        return
    theirs, ours = _settings(TrainConfig.from_file(path)), _settings(config)
    if differences := [f"{name} = {theirs[name]!r}, got {ours[name]!r}" for name in ours if theirs[name] != ours[name]]:
        raise ValueError(f"{out} holds a run with other settings: expected {'; '.join(differences)}")


def _settings(config: TrainConfig) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    sections = {name: settings.pop(name) for name in ("loss", "optimizer")}
    return settings | {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that being killed leaves the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that a step is never cut in two."""
    received: list[int] = []
    # Python lets only the main thread handle signals.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Log:
    """Means over `log_every` steps, to a JSONL file and a progress bar; values are fetched once per line."""

    def __init__(self, path: Path, config: TrainConfig, start: int, console: Console | None):
        self._path, self._config = path, config
        self._pending: list = []
        self._time = time.perf_counter()
        if path.exists():  # drop what was logged after the checkpoint that we go on from
            kept = [line for line in path.read_text().splitlines() if _logged_step(line) <= start]
            _write(path, "".join(line + "\n" for line in kept))
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=console is None,
        )
        self._task = self._progress.add_task("", total=config.steps, completed=start, numbers="")

    def __enter__(self) -> "_Log":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, step: int, terms: LossTerms, norm: Array, skipped: Array) -> None:
        self._pending.append((terms, norm))
        self._progress.update(self._task, completed=step)
        if step % self._config.log_every and step != self._config.steps:
            return
        terms, norm = jax.tree.map(_mean, *jax.device_get(self._pending))
        now = time.perf_counter()
        rate = len(self._pending) / (now - self._time)
        self._pending, self._time = [], now
        line = {"step": step, **{k: v.tolist() for k, v in terms._asdict().items()}}
        line |= {"gradient_norm": float(norm), "skipped": int(skipped), "steps_per_second": rate}
        with self._path.open("a") as file:
            file.write(json.dumps(line).replace("NaN", "null") + "\n")  # JSON has no NaN
        numbers = f"loss {terms.loss:.3f}  {terms.bits_per_dim:.2f} bits/dim  {terms.psnr:.2f} dB  {rate:.2f} steps/s"
        self._progress.update(self._task, numbers=numbers)


def _mean(*values: np.ndarray) -> np.ndarray:
    """Mean of the finite values, for those of skipped steps may not be; NaN where there are none."""
    return np.ma.filled(np.ma.masked_invalid(np.stack(values)).mean(axis=0), np.nan)


def _logged_step(line: str) -> float:
    """The step of a line of the log; infinity if the line was cut off by a kill."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return np.inf
