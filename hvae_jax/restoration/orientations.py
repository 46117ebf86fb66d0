"""The network's preferred direction, averaged away: images flipped and turned around an evaluation, at no cost."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from hvae_jax.gaussian import per_image
from hvae_jax.restoration.settings import Orientations


def orient(x: Float[Array, "B H W C"], index: Int[Array, " B"], inverse: bool = False) -> Float[Array, "B H W C"]:
    """One of the symmetries of the rectangle (0 to 3) or, where height equals width, of the square (0 to 7).

    Args:
        x: images.
        index: which one, of each image; its bits are upside down, mirrored, transposed.
        inverse: undo it.
    """
    actions: list[tuple[int, Any]] = [(0, lambda x: jnp.flip(x, axis=1)), (1, lambda x: jnp.flip(x, axis=2))]
    if x.shape[1] == x.shape[2]:
        actions.append((2, lambda x: jnp.swapaxes(x, 1, 2)))
    for bit, action in reversed(actions) if inverse else actions:
        x = jnp.where(per_image(index >> bit & 1, x).astype(bool), action(x), x)
    return x


def in_orientations(
    evaluate: Any,
    x: Float[Array, "B H W C"],
    iteration: Int[Array, " B"],
    orientations: Orientations,
    square: bool | None = None,
) -> tuple[Float[Array, "B H W C"], Float[Array, " B"]]:
    """An evaluation of the network in the orientations that are an iteration's turn.

    Args:
        evaluate: images -> (means, a number of each image).
        x: images.
        iteration: of each image.
        orientations: see `RestoreConfig`.
        square: whether images are turned, too: a tile is if its picture is square; None for those that are.

    Returns:
        What `evaluate` gives, the means turned back; their mean over the orientations.
    """
    if orientations == "fixed":
        return evaluate(x)
    count = 1 if orientations == "cycle" else int(orientations)
    square = x.shape[1] == x.shape[2] if square is None else square
    # From one to the next as many of the actions change as may: two that follow each other average best.
    order = jnp.array([0, 7, 1, 6, 2, 5, 3, 4] if square else [0, 3, 1, 2])

    def one(turn: Array) -> tuple[Array, Array]:
        index = order[(iteration * count + turn) % len(order)]
        mean, number = evaluate(orient(x, index))
        return orient(mean, index, inverse=True), number

    if count == 1:
        return one(jnp.zeros((), jnp.int32))
    mean, number = lax.map(one, jnp.arange(count))  # a loop, so that the network is compiled once
    return mean.mean(axis=0), number.mean(axis=0)
