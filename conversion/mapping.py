"""Put the arrays of a PyTorch state dict into a Flax parameter tree, with exact coverage."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np


class Target(NamedTuple):
    """Where a PyTorch tensor goes.

    Attributes:
        path: keys of the leaf in the parameter tree.
        layer: its place on the leaf's stacked first axis, or None where the leaf is one tensor.
    """

    path: tuple[str, ...]
    layer: int | None = None


def convert_array(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Lay a PyTorch tensor out as the Flax leaf of the given shape, or return it unchanged if it cannot be.

    Convolutions (out, in, k, k) become (k, k, in, out), or for a 1x1 convolution or one whose kernel is its
    stride (k·k·in, out), ordered (row, column, channel) as in `space_to_depth`; biases over (1, C, 1, 1) become (C,).

    Args:
        array: the tensor.
        shape: the leaf's shape.

    Returns:
        The array.
    """
    if array.ndim == 4 and array.size == np.prod(shape):
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0)).reshape(shape)
    return array


def assemble(state: Mapping[str, np.ndarray], targets: Mapping[str, Target], template: dict) -> dict:
    """Fill a parameter tree from a state dict.

    Args:
        state: PyTorch names to arrays.
        targets: PyTorch names to places in the tree.
        template: the tree, its leaves having `shape`.

    Returns:
        The filled tree, of NumPy arrays in the state dict's dtype.

    Raises:
        ValueError: a name is missing, extra or of another shape, or a leaf is not filled; all are listed.
    """
    leaves = {
        tuple(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(template)[0]
    }
    problems = [f"missing from the file: {name}" for name in targets if name not in state]
    problems += [f"not a parameter of this model: {name}" for name in state if name not in targets]
    parts: dict[tuple[str, ...], dict[int | None, np.ndarray]] = {}
    for name in targets.keys() & state.keys():
        path, index = targets[name]
        shape = leaves.get(path)
        if shape is None:
            problems.append(f"{name}: the model has no parameter {'/'.join(path)}")
            continue
        expected = shape if index is None else shape[1:]
        array = convert_array(np.asarray(state[name]), expected)
        if array.shape != expected:
            problems.append(f"{name}: expected a shape that fits {expected}, got {np.shape(state[name])}")
        parts.setdefault(path, {})[index] = array
    for path, shape in leaves.items():
        filled = parts.get(path, {})
        if set(filled) != {None} and set(filled) != set(range(shape[0])):
            problems.append(f"not filled by the file: {'/'.join(path)}")
    if problems:
        raise ValueError("the file does not fit the model:\n" + "\n".join(sorted(problems)))
    tree: dict = {}
    for path, filled in parts.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = filled[None] if None in filled else np.stack([filled[i] for i in range(len(filled))])
    return tree
