"""The training loop: checkpoints, log, progress, interruption and resumption."""

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, Sharding
from jaxtyping import Array
from rich.console import Console

from hvae_jax.files import write_atomically
from hvae_jax.models.patch_vdvae import PatchVDVAE
from hvae_jax.prior import Metadata, Prior
from hvae_jax.progress import progress_bar
from hvae_jax.training.config import HOW, TrainConfig
from hvae_jax.training.data import Photographs
from hvae_jax.training.devices import (
    Agreement,
    Wish,
    check_mesh,
    everywhere,
    is_first_process,
    mesh_of,
    place,
    shardings,
    together,
    unbroken,
)
from hvae_jax.training.loss import LossTerms
from hvae_jax.training.state import TrainState, dispatch_length, grown, init_state, initial_params, train_steps


class Interrupted(RuntimeError):
    """Training was asked to stop; the last checkpoint holds every step taken."""


class OutOfTime(Interrupted):
    """The time that was given is over; the last checkpoint holds every step taken."""


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    files: Path | None = None,
    init: dict[str, Any] | None = None,
    leave: Path | None = None,
    description: Mapping[str, Any] | None = None,
    stop_after: float | None = None,
    console: Console | None = None,
    mesh: Mesh | None = None,
) -> Prior:
    """Train a model, or go on with a run that was interrupted.

    `out` gets `config.json`, `log.jsonl` (a line of means every `log_every` steps), `checkpoints/` and, with each
    checkpoint, `prior/`, made of the averaged parameters. A run that was killed goes on from its last checkpoint
    to the parameters it would have reached, bit for bit on the same machine. Another machine goes on as well, with
    the same crops and random numbers, on any number of devices: they share each batch (`hvae_jax.training.devices`).
    After `jax.distributed.initialize` all processes call this with the same arguments, and with `out` in a file system
    that they share.

    Args:
        config: the settings; must equal those of the run that `out` holds, if any, but for those in
            `config.HOW`.
        data: a folder of photographs.
        out: the run's folder.
        files: a text file that names the photographs to use, one path below `data` a line; all if None.
        init: parameters to start from, those of a prior for example, which may have fewer residual blocks (`grown`);
            random if None.
        leave: another run's folder, from whose last checkpoint this one goes on: the decay of an endless run
            (`TrainConfig.decayed`). Parameters, averages, optimizer and step are taken; with another batch or crop
            size the restorations that run along start anew.
        description: what the prior's `prior.json` shall say besides the training: name, provenance, licences.
        stop_after: minutes after which to stop with a checkpoint; none if None.
        console: where the progress is shown, in a terminal, and at the end how fast it was; nowhere if None.
        mesh: the devices to use, as one axis named "batch"; all of all processes if None, but for
            `jax.default_device`, where that is set.

    Returns:
        The prior.

    Raises:
        ValueError: `out` holds a run with other settings, `data` has no usable photograph, `init` or `leave` does
            not fit the model, the devices cannot share a batch, or processes were given different things; nothing was
            written then.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        OutOfTime: likewise, after `stop_after`.
        Broken: this is one of several processes, and it or another one ended.
    """
    begin = time.monotonic()
    out = Path(out).resolve()
    mesh = mesh_of() if mesh is None else mesh
    if mesh is not None:
        check_mesh(mesh, config)
    template = jax.eval_shape(partial(init_state, config))
    layout = shardings(template, mesh)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=False)
    with ExitStack() as stack:
        with together() as given:  # a mistake is known before anything is written
            _check_same_run(config, out)
            if init is not None:
                jax.eval_shape(grown, init, template.params)
            if leave is not None:
                _check_model(Path(leave), config)
            photographs = stack.enter_context(closing(Photographs(data, config, everywhere(mesh), files)))
            start = max(_checkpointed(out), default=0)
            if start < config.steps:
                photographs.at(start)
            given.update(repr((config.to_json(), photographs.names, start)).encode())
            for leaf in jax.tree.leaves(init):
                given.update(np.asarray(leaf).tobytes())
        stack.enter_context(unbroken())
        checkpoints = stack.enter_context(ocp.CheckpointManager(out / "checkpoints", options=options))
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        if is_first_process():
            write_atomically(out / "config.json", config.to_json().encode())
        if start == 0 and leave is not None:
            state = place(_left(Path(leave), config, template, mesh), layout)
            start = int(state.step)
        elif start == 0:
            params = None if init is None else grown(init, initial_params(config))
            state = place(init_state(config, params), layout)
        else:
            state = _restored(checkpoints, start, template, layout)
        # Runs that differ in the seed alone are one program.
        key, without_seed = jax.random.key(config.seed), dataclasses.replace(config, seed=0)
        step, saved, saved_at = start, start, time.monotonic()
        before, agreement = None, Agreement(mesh)
        with _stop_signals() as stopped, _Log(out / "log.jsonl", config, start, console) as log:
            while step < config.steps:
                store, left = photographs.at(step)
                count = min(dispatch_length(config, step), left)
                state, terms, norms = train_steps(state, store, key, count, without_seed, mesh)
                step += count
                # The device has this dispatch to do; without waiting here the host would queue any number more.
                jax.block_until_ready(before)
                before = norms
                log.add(step, terms, norms, state.skipped, photographs.seconds)
                now, wish = time.monotonic(), Wish.GO_ON
                if stop_after is not None and now - begin >= 60 * stop_after:
                    wish = Wish.OUT_OF_TIME
                elif stopped:
                    wish = Wish.INTERRUPTED
                elif now - saved_at >= 60 * config.checkpoint_minutes:
                    wish = Wish.CHECKPOINT
                agreed = agreement.on(wish)
                due = step // config.checkpoint_every > saved // config.checkpoint_every
                if due or agreed != Wish.GO_ON or step == config.steps:
                    # Before the checkpoint: killed in between, the run goes on from the one before and repeats this.
                    _save_prior(_prior(state, config, description), out)
                    checkpoints.save(step, args=ocp.args.StandardSave(state))
                    # The next step donates the buffers that are being written.
                    checkpoints.wait_until_finished()
                    saved, saved_at = step, time.monotonic()
                if agreed > Wish.CHECKPOINT and step < config.steps:
                    kind = OutOfTime if agreed == Wish.OUT_OF_TIME else Interrupted
                    raise kind(f"stopped at step {step} of {config.steps}; the same command goes on")
    prior = _prior(state, config, description)
    if start == config.steps:  # it was finished before: write its prior anew, with this description
        _save_prior(prior, out)
    return prior


def last_step(run: Path) -> int:
    """The step of a run's last checkpoint; ValueError if there is none."""
    if not (steps := _checkpointed(run)):
        raise ValueError(f"{run}: expected a run with a checkpoint, got none")
    return max(steps)


def _checkpointed(run: Path) -> list[int]:
    return [int(path.name) for path in (Path(run) / "checkpoints").glob("*") if path.name.isdecimal()]


def _check_model(run: Path, config: TrainConfig) -> None:
    """ValueError where a run is not of this model and optimizer."""
    last_step(run)
    theirs = TrainConfig.from_file(run / "config.json")
    for name, expected, got in (
        ("model", config.architecture, theirs.architecture),
        ("optimizer", config.optimizer.name, theirs.optimizer.name),
    ):
        if expected != got:
            raise ValueError(f"{run}: expected a run of the {name} {expected}, got {got}")


def _restored(checkpoints: ocp.CheckpointManager, step: int, template: TrainState, layout: TrainState) -> TrainState:
    """The state of a checkpoint, wherever it was when it was written."""

    def placed(leaf: jax.ShapeDtypeStruct, where: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return checkpoints.restore(step, args=ocp.args.StandardRestore(jax.tree.map(placed, template, layout)))


def _left(run: Path, config: TrainConfig, template: TrainState, mesh: Mesh | None) -> TrainState:
    """The state of another run's last checkpoint, its restorations anew where they have other shapes."""
    theirs = jax.eval_shape(partial(init_state, TrainConfig.from_file(run / "config.json")))
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(run.resolve() / "checkpoints", options=options) as checkpoints:
        # The restorations whole on each device, for theirs may be none that the devices can share.
        everything = jax.tree.map(lambda _: everywhere(mesh), theirs)
        state = _restored(checkpoints, last_step(run), theirs, everything)
    if jax.tree.map(jnp.shape, theirs.restorations) != jax.tree.map(jnp.shape, template.restorations):
        state = state._replace(restorations=init_state(config, state.params).restorations)
    return state


def _prior(state: TrainState, config: TrainConfig, description: Mapping[str, Any] | None) -> Prior:
    training = {"steps": int(state.step), "skipped": int(state.skipped), "config": dataclasses.asdict(config)}
    metadata = Metadata.of(**(description or {}), training=training)
    # This process's first copy, for a prior is of one device.
    params = jax.tree.map(lambda leaf: jnp.copy(leaf.addressable_data(0)), state.ema)
    return Prior(params, PatchVDVAE(config.architecture), metadata)


def _save_prior(prior: Prior, out: Path) -> None:
    if is_first_process():
        prior.save(out / "prior", overwrite=True)


def _check_same_run(config: TrainConfig, out: Path) -> None:
    path = out / "config.json"
    if not path.exists():
        return
    theirs, ours = _settings(TrainConfig.from_file(path)), _settings(config)
    if differences := [f"{name} = {theirs[name]!r}, got {ours[name]!r}" for name in ours if theirs[name] != ours[name]]:
        raise ValueError(f"{out} holds a run with other settings: expected {'; '.join(differences)}")


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide what comes out, sections flat."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in HOW}
    sections = {name: settings.pop(name) for name in ("loss", "optimizer")}
    return settings | {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


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
    """Means over `log_every` steps, to a JSONL file and a progress bar; values are fetched once per line.

    Of several processes the first one has it. `images_per_second` counts the time to compile too; `waiting` is the
    share of the time that went into waiting for photographs.
    """

    def __init__(self, path: Path, config: TrainConfig, start: int, console: Console | None):
        self._path, self._config = path, config
        self._console = console if is_first_process() else None
        self._pending: list = []
        self._start = self._last = _Moment(start, time.perf_counter(), 0.0)
        if path.exists() and is_first_process():  # drop what was logged after the checkpoint that we go on from
            kept = [line for line in path.read_text().splitlines() if _logged_step(line) <= start]
            write_atomically(path, "".join(line + "\n" for line in kept).encode())
        self._progress = progress_bar("{task.fields[numbers]}", console=console, shown=self._console is not None)
        self._task = self._progress.add_task("training", total=config.steps, completed=start, numbers="")

    def __enter__(self) -> "_Log":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._console is not None and self._last != self._start:
            taken = self._last.step - self._start.step
            self._console.print(f"{taken} steps, {_in_words(self._speed(self._start, self._last))}", highlight=False)

    def add(self, step: int, terms: LossTerms, norms: Array, skipped: Array, waited: float) -> None:
        """Count the steps up to `step`; `waited` is the time so far, in seconds, that was waited for photographs."""
        self._pending.append((terms, norms))
        self._progress.update(self._task, completed=step)
        every = self._config.log_every
        if step // every == self._last.step // every and step != self._config.steps:
            return
        terms, norm = jax.tree.map(_mean, *jax.device_get(self._pending))
        now = _Moment(step, time.perf_counter(), waited)
        speed = self._speed(self._last, now)
        self._pending, self._last = [], now
        line = {"step": step, **{k: v.tolist() for k, v in terms._asdict().items()}}
        line |= {"gradient_norm": float(norm), "skipped": int(skipped), **speed}
        if is_first_process():
            with self._path.open("a") as file:
                file.write(json.dumps(line).replace("NaN", "null") + "\n")  # JSON has no NaN
        numbers = f"loss {terms.loss:.3f}  {terms.bits_per_dim:.2f} bits/dim  {terms.psnr:.2f} dB  {_in_words(speed)}"
        self._progress.update(self._task, numbers=numbers)

    def _speed(self, start: "_Moment", end: "_Moment") -> dict[str, float]:
        seconds = end.time - start.time
        rate = (end.step - start.step) / seconds
        return {
            "steps_per_second": rate,
            "images_per_second": rate * self._config.batch_size,
            "waiting": (end.waited - start.waited) / seconds,
        }


class _Moment(NamedTuple):
    step: int
    time: float
    waited: float


def _in_words(speed: Mapping[str, float]) -> str:
    return f"{speed['images_per_second']:.1f} images/s  {speed['waiting']:.1%} waiting for data"


def _mean(*values: np.ndarray) -> np.ndarray:
    """Mean of the finite values, for those of skipped steps may not be; NaN where there are none."""
    return np.ma.filled(np.ma.masked_invalid(np.concatenate(values)).mean(axis=0), np.nan)


def _logged_step(line: str) -> float:
    """The step of a line of the log; infinity if the line was cut off by a kill."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return np.inf
