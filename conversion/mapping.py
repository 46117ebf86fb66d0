"""Put the tensors of a PyTorch state dict into a Flax parameter tree, by declared rules and with exact coverage."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

Names = dict[str, str]
"""Names of a PyTorch module's tensors, relative to it, to paths in a Flax module, relative to that."""

CONV: Names = {"weight": "kernel", "bias": "bias"}
"""A convolution."""


def nest(children: Mapping[str, str], names: Names) -> Names:
    """The names of several children that are modules of one kind."""
    return {
        f"{source}.{name}": f"{target}/{path}" for source, target in children.items() for name, path in names.items()
    }


class Rule(NamedTuple):
    """Where the tensors of a PyTorch module, or of several that become one scanned module, go.

    Attributes:
        source: the module's name, or those of the modules in the order of the stack.
        target: path of the Flax module.
        names: the tensors within the modules.
    """

    source: str | list[str]
    target: str
    names: Names = CONV


class Layout(NamedTuple):
    """What the converter knows of the official checkpoints of a model family.

    Attributes:
        prefix: what the names of its tensors, and of no other family's, begin with.
        presets: its known architectures.
        rules: where the tensors go, from the architecture.
        detect: the preset that a state dict is of, from its tensors' shapes; None if it is of none.
        infer: the architecture, from the shapes and the preset that it is expected to be of, or None; ValueError if
            they do not tell.
        experiments: task to the paper's experiments whose settings its priors get; "default" for other tasks.
        parse: the architecture that the official code's hyperparameters, a JSON object, describe; None where that
            code has none.
    """

    prefix: str
    presets: Mapping[str, Any]
    rules: Callable[[Any], Iterator[Rule]]
    detect: Callable[[Mapping[str, tuple[int, ...]]], str | None]
    infer: Callable[[Mapping[str, tuple[int, ...]], Any], Any]
    experiments: Mapping[str, tuple[str, ...]]
    parse: Callable[[Mapping[str, Any]], Any] | None = None


class Target(NamedTuple):
    """Where a PyTorch tensor goes.

    Attributes:
        path: keys of the leaf in the parameter tree.
        layer: its place on the leaf's stacked first axis, or None where the leaf is one tensor.
    """

    path: tuple[str, ...]
    layer: int | None


def expand(rules: Iterable[Rule]) -> dict[str, Target]:
    """Every tensor that the rules name, and where it goes."""
    targets: dict[str, Target] = {}
    for source, target, names in rules:
        modules = [(source, None)] if isinstance(source, str) else [(name, i) for i, name in enumerate(source)]
        for module, layer in modules:
            for name, path in names.items():
                full = f"{module}.{name}" if module else name
                assert full not in targets, f"two rules for {full}"
                targets[full] = Target(tuple(f"{target}/{path}".strip("/").split("/")), layer)
    return targets


def count_indices(names: Iterable[str], prefix: str) -> int:
    """How many numbered modules there are behind a prefix, missing ones included: the largest number and one.

    A number that is larger than that of all names is taken for no module's; it would ask for any amount of memory.
    """
    names = list(names)
    heads = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    numbers = [int(head) for head in heads if head.isdecimal() and len(head) < 10]
    return max((number for number in numbers if number < len(names)), default=-1) + 1


def shape_in_flax(shape: tuple[int, ...], leaf: tuple[int, ...]) -> tuple[int, ...] | None:
    """The leaf's shape if a PyTorch tensor of this shape can be laid out as it, else None.

    Convolutions (out, in, k, k) become (k, k, in, out); without the k where k is 1, and (k·k·in, out), ordered
    (row, column, channel) as in `space_to_depth`, where the kernel is its stride. Maps (1, C, H, W) become (H, W, C),
    and what is per channel, (1, C, 1, 1), becomes (C,). So only axes of size 1 appear or vanish.
    """

    def wide(dimensions: Iterable[int]) -> list[int]:
        return [d for d in dimensions if d != 1]

    if len(shape) != 4:
        return leaf if shape == leaf else None
    out, channels, height, width = shape
    cells = (height * width * channels, out)
    return leaf if wide((height, width, channels, out)) == wide(leaf) or (height > 1 and cells == leaf) else None


def mismatches(
    shapes: Mapping[str, tuple[int, ...]], targets: Mapping[str, Target], template: Mapping[str, ArrayLike]
) -> list[str]:
    """What keeps a state dict from filling a parameter tree exactly; see `assemble`."""
    leaves = _leaf_shapes(template)
    problems = [f"missing from the file: {name}" for name in targets if name not in shapes]
    problems += [
        f"not a parameter of this model: {name} {shape}" for name, shape in shapes.items() if name not in targets
    ]
    filled: dict[tuple[str, ...], set[int | None]] = {}
    for name, (path, layer) in targets.items():
        filled.setdefault(path, set()).add(layer)
        if path not in leaves:
            problems.append(f"{name}: the model has no parameter {'/'.join(path)}")
        elif name in shapes:
            leaf = leaves[path] if layer is None else leaves[path][1:]
            if shape_in_flax(shapes[name], leaf) is None:
                problems.append(
                    f"of another shape: {name} is {shapes[name]}, which does not fit {'/'.join(path)} {leaf}"
                )
    for path, shape in leaves.items():
        if filled.get(path) != {None} and filled.get(path) != set(range(shape[0])):
            problems.append(f"not filled by any rule: {'/'.join(path)}")
    return problems


def assemble(state: Mapping[str, ArrayLike], targets: Mapping[str, Target], template: Mapping) -> dict:
    """Fill a parameter tree from a state dict, one tensor at a time.

    Args:
        state: PyTorch names to arrays, or to what NumPy makes arrays of, read only when its turn comes.
        targets: PyTorch names to places in the tree.
        template: the tree, its leaves having `shape`.

    Returns:
        The filled tree, of float32 arrays.

    Raises:
        ValueError: a tensor is missing, extra or of another shape, or a leaf is not filled, all of them listed; or
            tensors hold other than finite floating-point numbers.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}  # type: ignore[union-attr]
    if problems := mismatches(shapes, targets, template):
        raise ValueError("does not fit the model:\n  " + "\n  ".join(problems))
    sources: dict[tuple[str, ...], list[tuple[int | None, str]]] = {}
    for name, (path, layer) in targets.items():
        sources.setdefault(path, []).append((layer, name))
    bad: list[str] = []
    tree: dict = {}
    # Leaf by leaf, so that no more than one is there twice.
    for path, shape in _leaf_shapes(template).items():
        leaf = np.empty(shape, np.float32)
        for layer, name in sources[path]:
            _fill(leaf if layer is None else leaf[layer], name, np.asarray(state[name]), bad)
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(leaf)
    if bad:
        raise ValueError("does not hold finite floating-point weights:\n  " + "\n  ".join(bad))
    return tree


def _fill(leaf: np.ndarray, name: str, array: np.ndarray, bad: list[str]) -> None:
    """Lay a tensor out in its place, and note what is wrong with its numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        bad.append(f"{name} is of {array.dtype}")
        return
    with np.errstate(over="ignore"):  # told below
        leaf[...] = (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array).reshape(leaf.shape)
    if not np.isfinite(leaf).all():
        bad.append(f"{name} holds NaN or infinity")


def _leaf_shapes(template: Mapping) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {
        tuple(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(template)[0]
    }
