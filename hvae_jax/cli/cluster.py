"""A folder of photographs on a Ray cluster: paths go to actors that each hold a prior and its compiled programs.

Pixels never enter Ray's object store: an actor reads, restores and writes a file, and returns how it went. Retries of
what a lost machine had in hand, autoscaling and back-pressure are Ray's; a file that cannot be restored is a line in
the manifest.

Source: Ray Data, "Stateful transforms".
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import secrets
import socket
import types
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hvae_jax.cli.shared import complain, sentence_of
from hvae_jax.folders import Job
from hvae_jax.progress import progress_bar

if TYPE_CHECKING:
    from hvae_jax.cli.run import Run

ROUNDS = 5
"""So often a file is tried whose machine was lost."""

BLOCKS = 10_000
"""In how many pieces Ray gets the files at most, for it keeps books of each."""


class Restorer:
    """An actor: `hvae-jax restore` with its options, for files one by one.

    Args:
        given: the options by name.
        threads: of its own; None for what XLA finds.
    """

    def __init__(self, given: Mapping[str, Any], threads: int | None = None) -> None:
        if threads is not None:
            os.environ["NPROC"] = str(threads)  # of XLA's pool, else as many in each actor as the machine has cores
        from hvae_jax.cli.prepare import prepare
        from hvae_jax.compile_cache import use_compile_cache

        use_compile_cache(given["compile_cache"])
        reference = given["reference"]
        changed = {"keep_going": True, "reference": None if reference is None else Path(reference)}
        options = types.SimpleNamespace(**{**given, **changed})
        self._prepare = partial(prepare, options, several=True, writer=f"ray-{secrets.token_hex(4)}")
        self._run: Run | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore a file, unless that has been done.

        Args:
            row: file, page, result and map, paths as text.

        Returns:
            The file and page, the exit code, 2 where no other file can be restored either, and what was printed.
        """
        said = io.StringIO()
        job = Job(Path(row["file"]), row["page"], Path(row["result"]), several=True)
        target = None if row["map"] is None else Path(row["map"])
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                self._run = self._run or self._prepare()
                if self._run.resume and Path(row["result"]).exists() and not self._run.manifest.done(job, target):
                    self._run.manifest.forget()  # another actor may have done it, and been lost before it said so
                code = self._run([(job, target)])
            except Exception as error:  # Ray would try it again, and tell nobody
                code = 2
                typer.echo(f"{platform.node()}: {sentence_of(error) or f'{job}: a bug, {error!r}'}")
        return {"file": row["file"], "page": row["page"], "code": code, "said": said.getvalue()}


def absolute(path: Path | str | None) -> str | None:
    """The path of a file here, as the actors see it; a kernel in words and a prior's name as they are."""
    return os.path.abspath(path) if path is not None and (isinstance(path, Path) or Path(path).exists()) else path


def restore_on_cluster(targets: Sequence[tuple[Job, Path | None]], given: Any, address: str, actors: int | None) -> int:
    """Restore files on a cluster.

    Args:
        targets: the pictures that are missing, and where the maps of their uncertainty go.
        given: the options of `hvae-jax restore` by name.
        address: of the cluster; "auto" for the one that this machine is of, "local" for this machine alone.
        actors: at most so many; None for one on each accelerator, else on each core that Ray counts.

    Returns:
        The exit code: 1 if a file failed.

    Raises:
        ValueError: Ray is not installed, there is no such cluster, or no file can be restored or written there.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what is lost is told here
    try:
        import ray.data
    except ImportError:
        raise ValueError(
            "expected Ray for --cluster, which is not installed: pip install 'hvae_jax[cluster]'"
        ) from None
    if not targets:
        return 0
    was_there = ray.is_initialized()
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX's, but another program begins at once
            check_reachable(address)
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected the address of a Ray cluster, got {address}: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # so is how often to restart an actor
            return _restore(targets, given, actors)
    finally:
        if not was_there:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """OSError where nothing answers at HOST:PORT, for which Ray would look for half a minute, and tell each time."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _restore(targets: Sequence[tuple[Job, Path | None]], given: Any, actors: int | None) -> int:
    """Restore files on the cluster that Ray is connected with."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what was in hand on a machine that was lost is done in the next round
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cores = [count for node in ray.nodes() if node["Alive"] and (count := int(node["Resources"].get("CPU", 0)))]
    most = actors or gpus or max(sum(cores), 1)
    threads = max(1, min(sum(cores) // most, *cores))  # an actor's share, but no more than any machine has
    rows = [
        {"file": absolute(job.file), "page": job.page, "result": absolute(job.result), "map": absolute(uncertainty)}
        for job, uncertainty in targets
    ]
    paths = {name: absolute(getattr(given, name)) for name in ("mask", "reference", "kernel", "prior")}
    options = {**vars(given), **paths}
    failed = 0
    with progress_bar() as progress:
        bar = progress.add_task("restoring", total=len(rows))
        for _ in range(ROUNDS):
            data = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
                Restorer,
                fn_constructor_args=(options, None if gpus else threads),
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
                num_gpus=1 if gpus else 0,
                num_cpus=0 if gpus else threads,
                max_restarts=ROUNDS,
                max_task_retries=ROUNDS,
            )
            returned = set()
            with contextlib.suppress(ray.exceptions.RayError):  # a machine was lost
                for row in data.iter_rows():
                    if row["code"] == 2:
                        raise ValueError(row["said"])
                    returned.add((row["file"], row["page"]))
                    failed += row["code"] != 0
                    if row["said"]:
                        typer.echo(row["said"].rstrip(), err=row["code"] != 0)
                    progress.advance(bar)
            rows = [row for row in rows if (row["file"], row["page"]) not in returned]
            if not rows:
                break
    for row in rows:
        complain(f"{row['file']}: its machine was lost {ROUNDS} times")
    return 1 if failed or rows else 0
