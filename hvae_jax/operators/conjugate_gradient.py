"""Conjugate gradient, each image of a batch by itself; for data steps, and for whatever else solves a linear system."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

Map: TypeAlias = Callable[[Array], Array]

MAX_STEPS = 1000
"""Conjugate gradient to a tolerance gives up here; a system so badly conditioned is not worth more."""


def dot(a: Array, b: Array) -> Array:
    """Inner product of each image, in a shape that broadcasts against images."""
    return jnp.sum(a * b, axis=(-3, -2, -1), keepdims=True)


def conjugate_gradient(
    matvec: Map,
    b: Inexact[Array, "*images"],
    steps: int | None,
    tolerance: float | Float[Array, ""],
    *,
    precondition: Map | None = None,
    inner: Callable[[Array, Array], Array] = dot,
) -> Inexact[Array, "*images"]:
    """Solve M d = b from d = 0, each image of a batch by itself, for a symmetric positive definite M.

    Args:
        matvec: the function d -> M d.
        b: right-hand side(s), images (height, width, channels) or a batch of them, unless `inner` is for others.
        steps: do exactly this many steps; gradients go through them. None: as the tolerance says.
        tolerance: an image stops (and does not change any more) when ‖b - M d‖ <= tolerance ‖b‖, at the
            latest after 1000 steps. Gradients are those of the solution M⁻¹b, by implicit differentiation.
        precondition: a symmetric positive definite map near M⁻¹; none if None. The norm of the tolerance is then
            the one that it defines.
        inner: inner product of each image, in a shape that broadcasts against images; `dot`, unless images are
            represented by something else.

    Returns:
        d. Steps after an exact solution change nothing, instead of dividing by zero.

    Reference:
        Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    """
    improve: Map = precondition or (lambda residual: residual)

    def start(b: Array) -> _State:
        conditioned = improve(b)
        return _State(jnp.zeros_like(b), b, conditioned, inner(b, conditioned))

    def update(matvec: Map, state: _State) -> _State:
        """One textbook step."""
        image = matvec(state.direction)
        length = safe_divide(state.residual_square, inner(state.direction, image)).astype(image.dtype)
        residual = state.residual - length * image
        conditioned = improve(residual)
        residual_square = inner(residual, conditioned)
        return _State(
            state.solution + length * state.direction,
            residual,
            conditioned + safe_divide(residual_square, state.residual_square).astype(image.dtype) * state.direction,
            residual_square,
        )

    if steps is not None:
        return lax.fori_loop(0, steps, lambda _, state: update(matvec, state), start(b)).solution

    def solve(matvec: Map, b: Array) -> Array:
        first = start(b)
        target = tolerance**2 * first.residual_square

        def unfinished(carry: tuple[Array, _State]) -> Array:
            count, state = carry
            return (count < MAX_STEPS) & jnp.any(state.residual_square > target)

        def body(carry: tuple[Array, _State]) -> tuple[Array, _State]:
            count, state = carry
            active = state.residual_square > target
            after = update(matvec, state)
            return count + 1, jax.tree.map(lambda new, old: jnp.where(active, new, old), after, state)

        return lax.while_loop(unfinished, body, (jnp.zeros((), int), first))[1].solution

    return lax.custom_linear_solve(matvec, b, solve, symmetric=True)


class _State(NamedTuple):
    solution: Array
    residual: Array
    direction: Array
    residual_square: Array


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """The quotient where the denominator is positive, zero elsewhere, with finite gradients."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)
