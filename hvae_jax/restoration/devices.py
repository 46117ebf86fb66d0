"""Restorations on several devices: the images of a batch side by side, or the rows of one large picture.

Images know nothing of each other, so each device gets its share of them and a loop of its own, which ends when its
images have: there is no communication. The rows of a picture belong together; there XLA exchanges what convolutions and
spectra need.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hvae_jax.operators import Operator
from hvae_jax.restoration.problem import Problem
from hvae_jax.restoration.result import Restoration

BATCH, ROWS = "batch", "rows"
"""Names of a mesh's axis: what is split over it."""


def check_mesh(mesh: Mesh, problem: Problem) -> None:
    """Refuse a mesh that cannot be meant.

    Raises:
        ValueError: its axis has another name, or the rows are none that its devices can share.
    """
    if mesh.axis_names not in ((BATCH,), (ROWS,)):
        raise ValueError(f"expected a mesh with one axis, named {BATCH!r} or {ROWS!r}, got {mesh.axis_names}")
    if problem.config.initial == "official":
        raise ValueError(
            'expected initial="encode" or "image" on a mesh, got "official", whose draws are of one device'
        )
    height = problem.y.shape[1]
    if mesh.axis_names == (ROWS,) and height % mesh.size:
        raise ValueError(f"expected a height that {mesh.size} devices can share, a multiple of that, got {height}")


def on_mesh(program: Callable[[Problem], Restoration], problem: Problem, mesh: Mesh) -> Restoration:
    """Run a solver's program on the devices of a mesh.

    Args:
        program: from a problem to its restoration, which it gives image by image.
        problem: the problem.
        mesh: of one axis: "batch", or "rows".

    Returns:
        The restoration; its images lie on the devices that restored them.
    """
    count = problem.y.shape[0]
    filled = -(-count // mesh.size) * mesh.size
    index = np.minimum(np.arange(filled), count - 1)  # the last image again, so that all devices have as many
    leaves, structure = jax.tree.flatten(problem)
    by_rows = mesh.axis_names == (ROWS,)
    specs = row_specs(problem) if by_rows else batch_specs(problem)

    def place(leaf: Any, spec: P) -> Any:
        if filled != count and BATCH in spec:
            leaf = jnp.take(jnp.asarray(leaf), index, axis=spec.index(BATCH))
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    placed = [*map(place, leaves, specs)]
    if by_rows:
        return program(jax.tree.unflatten(structure, placed))
    out = _split(program, structure, mesh, specs)(*placed)
    return out if filled == count else jax.tree.map(lambda leaf: leaf[:count], out)


@functools.lru_cache(maxsize=32)
def _split(
    program: Callable[[Problem], Restoration], structure: Any, mesh: Mesh, specs: tuple[P, ...]
) -> Callable[..., Restoration]:
    """The program on each device's share of the leaves; one function object for one program, so that it is kept."""

    def on_share(*leaves: Any) -> Restoration:
        return program(jax.tree.unflatten(structure, leaves))

    return jax.jit(jax.shard_map(on_share, mesh=mesh, in_specs=specs, out_specs=P(BATCH), check_vma=False))


def row_specs(problem: Problem) -> tuple[P, ...]:
    """How each leaf of a problem is split over the devices: pictures by their rows, all else not at all."""
    pictures = ("y", "start", "reference")
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(problem)]
    return tuple(P(None, ROWS) if getattr(path[0], "name", "") in pictures else P() for path in paths)


def batch_specs(problem: Problem) -> tuple[P, ...]:
    """How each leaf of a problem is split over the devices: along its batch axis, or not at all."""
    count = problem.y.shape[0]

    def spec(path: Any, leaf: Any) -> P:
        shape, names = np.shape(leaf), [getattr(key, "name", "") for key in path]
        match names[0]:
            case "y" | "noise_std":
                return P(BATCH)
            case "start" | "reference":
                return P(BATCH) if shape[0] == count else P()
            case "config" if names[1] == "temperature":
                return P(BATCH) if shape[0] == count else P()
            case "config" if names[1] in ("decoder_std", "noise_level"):
                return P(None, BATCH) if len(shape) == 2 else P(BATCH)
            case "operator":
                owner: Any = problem
                for name in names[:-1]:
                    owner = getattr(owner, name)
                is_per_image = isinstance(owner, Operator) and owner.per_image.get(names[-1]) == len(shape)
                return P(BATCH) if is_per_image else P()
        return P()

    return tuple(spec(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(problem))
