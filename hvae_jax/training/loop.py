"""The training loop: checkpoints, log, progress, interruption and resumption."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvae_jax.training.config import TrainConfig
from hvae_jax.training.data import batches
from hvae_jax.training.state import TrainState, init_state, train_step


class Interrupted(RuntimeError):
    """Training was asked to stop; the last checkpoint holds every step taken."""


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    files: Path | None = None,
    init: dict | None = None,
    console: Console | None = None,
) -> TrainState:
    """Train a model, or go on with a run that was interrupted.

    `out` gets `config.json`, `log.jsonl` (a line of means every `log_every` steps) and `checkpoints/`. A run that
    was killed goes on from its last checkpoint to the parameters it would have reached, bit for bit.

    Args:
        config: the settings; must equal those of the run that `out` holds, if any.
        data: a folder of photographs.
        out: the run's folder.
        files: a text file that names the photographs to use, one path below `data` a line; all if None.
        init: parameters to start from; random if None.
        console: where the progress is shown; nowhere if None.

    Returns:
        The state after the last step.

    Raises:
        ValueError: `out` holds a run with other settings, or `data` has no usable photograph.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    _check_same_run(config, out)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(out / "checkpoints", options=options) as checkpoints:
        state = init_state(config)
        if init is not None:
            state = state._replace(params=init, ema=jax.tree.map(np.copy, init))
        if (last := checkpoints.latest_step()) is not None:
            template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            state = checkpoints.restore(last, args=ocp.args.StandardRestore(template))
        start = int(state.step)
        crops = batches(data, config, start=start, files=files)
        with _stop_signals() as stopped, _Log(out / "log.jsonl", config, start, console) as log:
            for step in range(start + 1, config.steps + 1):
                state, terms, norm = train_step(state, next(crops), config)
                log.add(step, terms, norm, state.skipped)
                if step % config.checkpoint_every == 0 or step == config.steps or stopped:
                    checkpoints.save(step, args=ocp.args.StandardSave(state))
                    # The next step donates the buffers that are being written.
                    checkpoints.wait_until_finished()
                if stopped and step < config.steps:
                    raise Interrupted(f"stopped at step {step} of {config.steps}; the same command goes on")
        crops.close()
    return state


def _check_same_run(config: TrainConfig, out: Path) -> None:
    path = out / "config.json"
    if not path.exists():
        path.write_text(config.to_json())
    elif TrainConfig.from_file(path) != config:
        raise ValueError(f"{out} holds a run with other settings ({path}); give another folder or those settings")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that a step is never cut in two."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
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
            lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= start]
            path.write_text("".join(line + "\n" for line in lines))
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

    def add(self, step: int, terms, norm, skipped) -> None:
        self._pending.append((terms, norm))
        self._progress.update(self._task, completed=step)
        if step % self._config.log_every and step != self._config.steps:
            return
        terms, norm = jax.tree.map(lambda *xs: np.mean(np.stack(xs), axis=0), *jax.device_get(self._pending))
        now = time.perf_counter()
        rate = len(self._pending) / (now - self._time)
        self._pending, self._time = [], now
        line = {"step": step, **{k: v.tolist() for k, v in terms._asdict().items()}}
        line |= {"gradient_norm": float(norm), "skipped": int(skipped), "steps_per_second": rate}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._progress.update(
            self._task,
            numbers=f"loss {terms.loss:.3f}  {terms.bits_per_dim:.2f} bits/dim  {terms.psnr:.2f} dB  {rate:.2f} steps/s",
        )


