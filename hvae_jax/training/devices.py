"""Training on several devices, of one process or of several hosts: each computes its share of a batch.

Parameters, averages, optimizer and photographs are on every device. The program is that of one device, crops and random
numbers included; XLA splits it along the batch and sums the gradients, so results differ by the order of sums alone.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from hvae_jax.restoration.devices import BATCH

if TYPE_CHECKING:
    from hvae_jax.training.config import TrainConfig
    from hvae_jax.training.state import TrainState


def mesh_of(count: int | None = None) -> Mesh | None:
    """A mesh of the devices of all processes.

    Args:
        count: at most so many of each process, at least 1; all if None.

    Returns:
        The mesh, with one axis, "batch"; None for the one default device where there is no other, or where
        `jax.default_device` says which.
    """
    if count is None and jax.process_count() == 1 and jax.config.values["jax_default_device"] is not None:
        return None
    chosen = [d for process in range(jax.process_count()) for d in jax.local_devices(process)[:count]]
    return Mesh(np.array(chosen), (BATCH,)) if len(chosen) > 1 else None


def check_mesh(mesh: Mesh, config: TrainConfig) -> None:
    """Refuse a mesh whose devices cannot have the same shares of a batch.

    Raises:
        ValueError: its axis has another name, or the crops or iterates are no multiple of its devices.
    """
    if mesh.axis_names != (BATCH,):
        raise ValueError(f"expected a mesh with one axis, named {BATCH!r}, got {mesh.axis_names}")
    if config.batch_size % mesh.size or config.iterates % mesh.size:
        possible = math.gcd(config.batch_size, config.iterates)
        most = max(n for n in range(1, mesh.size) if possible % n == 0)
        raise ValueError(
            f"expected a batch_size that {mesh.size} devices can share, and iterates too, multiples of that, got "
            f"{config.batch_size} and {config.iterates}; {most} devices can"
        )


def everywhere(mesh: Mesh | None) -> Sharding:
    """The whole array on each device of a mesh; on JAX's default device without one."""
    if mesh is None:
        return SingleDeviceSharding(next(iter(jnp.zeros(()).devices())))
    return NamedSharding(mesh, P())


def shardings(state: TrainState, mesh: Mesh | None) -> TrainState:
    """Where the arrays of a state are: each device has its share of the restorations, and all of all else."""
    whole = everywhere(mesh)
    of_state = jax.tree.map(lambda _: whole, state)
    if mesh is None:
        return of_state
    shared = NamedSharding(mesh, P(BATCH))
    return of_state._replace(restorations=jax.tree.map(lambda _: shared, state.restorations))


def place(tree: Any, where: Any) -> Any:
    """Put arrays, the same in each process, on the devices of all.

    Args:
        tree: the arrays.
        where: their shardings, or one for all.
    """

    def place_one(array: Any, sharding: Sharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        # Not `device_put`, which compares the processes' arrays first, and may be called by a thread of each.
        on_host = np.asarray(array)
        return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])

    if isinstance(where, Sharding):
        return jax.tree.map(lambda array: place_one(array, where), tree)
    return jax.tree.map(place_one, tree, where)


def split(array: Any, mesh: Mesh | None) -> Any:
    """An array inside a program, each device holding its share of the first axis; as it is without a mesh."""
    return array if mesh is None else jax.lax.with_sharding_constraint(array, NamedSharding(mesh, P(BATCH)))


def on_shares(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """A function of images that know nothing of each other, called on each device's share of them.

    XLA does not split a Fourier transform along the batch by itself, but gathers all images on each device.
    """
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=P(BATCH), out_specs=P(BATCH), check_vma=False)


class Broken(RuntimeError):
    """A process of several cannot go on, so that none can; the last checkpoint is where they go on from."""


@contextmanager
def unbroken() -> Iterator[None]:
    """Turn what stops a process of several, the loss of another among it, into `Broken`; alone, leave it as it is."""
    try:
        yield
    except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).strip().partition("\n")[0]
        raise Broken(f"process {jax.process_index() + 1} of this run cannot go on: {reason}") from error


def is_first_process() -> bool:
    """Whether this is the process that writes what one process writes."""
    return jax.process_index() == 0


@contextmanager
def together() -> Iterator[Any]:
    """Let no process go on where another has met a mistake, or was given something else.

    Yields:
        A hash, to be updated with what must be the same in all processes.

    Raises:
        ValueError: in each of them, where one differs or has met a mistake; that one raises its own.
    """
    given = hashlib.sha256()
    try:
        yield given
    except Exception:
        _gather(bytes(32))
        raise
    digests = _gather(given.digest())
    if bytes(32) in digests:
        raise ValueError(f"process {digests.index(bytes(32)) + 1} of this run stopped at a mistake, which it tells")
    if len(set(digests)) > 1:
        other = next(k for k, digest in enumerate(digests) if digest != digests[0])
        raise ValueError(
            f"expected the same settings, photographs and checkpoints in all processes, got others in {other + 1}"
        )


def _gather(digest: bytes) -> list[bytes]:
    """The digests of all processes."""
    if jax.process_count() == 1:
        return [digest]
    from jax.experimental import multihost_utils

    return [row.tobytes() for row in multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))]


class Wish(enum.IntEnum):
    """What a process wants after a dispatch, the most urgent last."""

    GO_ON = 0
    CHECKPOINT = 1
    OUT_OF_TIME = 2
    INTERRUPTED = 3


class Agreement:
    """What all processes do after a dispatch: the most urgent of their wishes, for clocks and signals differ.

    Alone, a process does what it wishes, at once. With others the wishes of a dispatch are compared on the devices,
    and the result is read after the next one has been sent, so that no device waits for a host.
    """

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh
        self._coming: jax.Array | None = None

    def on(self, wish: Wish) -> Wish:
        """What is agreed on; every process calls this after each dispatch."""
        if self._mesh is None or jax.process_count() == 1:
            return wish
        mine = np.full(self._mesh.size, wish, np.int32)
        wishes = jax.make_array_from_callback(
            mine.shape, NamedSharding(self._mesh, P(BATCH)), lambda index: mine[index]
        )
        coming, self._coming = self._coming, _largest(wishes)
        agreed = Wish.GO_ON if coming is None else Wish(int(coming))
        if agreed == Wish.CHECKPOINT:
            self._coming = None  # it was wished for once more meanwhile
        return agreed


_largest = jax.jit(jnp.max)
