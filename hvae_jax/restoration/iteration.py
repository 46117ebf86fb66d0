"""What the solvers share: who goes on, freezing what has ended, recording, the loop."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from hvae_jax.gaussian import per_image
from hvae_jax.restoration.problem import Problem, Terms
from hvae_jax.restoration.result import History, Restoration, Status

_Tree = TypeVar("_Tree")


class State(NamedTuple):
    """Where a restoration is; images that ended stay as they are.

    Attributes:
        x: x_k.
        mean: μ_k.
        residual: RMS of x_k - x_{k-1}, shape (B,).
        iteration: k, iterations that each image did.
        active: images that go on.
        status: a `Status` for each image.
        history: arrays (B, K + 1), or None.
        own: what the solver carries beside that.
    """

    x: Float[Array, "B H W C"]
    mean: Float[Array, "B H W C"]
    residual: Float[Array, " B"]
    iteration: Int[Array, " B"]
    active: Bool[Array, " B"]
    status: Int[Array, " B"]
    history: History | None
    own: Any


def init(problem: Problem, x: Array, mean: Array, own: Any, terms: Terms | None, beta: Array) -> State:
    """The state before the first iteration.

    Args:
        problem: the problem.
        x: x_0.
        mean: μ_0.
        own: what the solver carries beside that.
        terms: of J1, for the history.
        beta: β, for the history.
    """
    batch = x.shape[0]
    finite = all_finite(x) & all_finite(mean)
    # A tolerance of 0 asks for all iterations: to do them is the regular end.
    end = jnp.where(jnp.asarray(problem.config.stop.tolerance) > 0, Status.ITERATION_LIMIT, Status.COMPLETED)
    history = None
    residual = jnp.full((batch,), not_there(), x.dtype)
    if problem.config.history:
        assert terms is not None
        first = History(residual, *terms, beta, *problem.psnrs(x, mean))
        rest = jnp.full((batch, problem.config.max_iterations), not_there(), x.dtype)
        history = jax.tree.map(lambda row: jnp.concatenate([row[:, None].astype(x.dtype), rest], axis=1), first)
    status = jnp.where(finite, end, Status.NOT_FINITE).astype(jnp.int32)
    return State(x, mean, residual, jnp.zeros((batch,), jnp.int32), finite, status, history, own)


def not_there() -> float:
    """What a history holds where there is no value: NaN, or infinity while JAX looks for NaN (`jax_debug_nans`)."""
    return jnp.inf if jax.config.jax_debug_nans else jnp.nan  # type: ignore[attr-defined]


def advance(
    problem: Problem,
    state: State,
    x: Array,
    mean: Array,
    residual: Array,
    own: Any,
    stopped: Bool[Array, " B"],
    terms: Terms | None,
    beta: Array,
) -> State:
    """The next state, from what an iteration made of all images.

    Args:
        problem: the problem.
        state: before.
        x: x_{k+1}.
        mean: μ_{k+1}.
        residual: `change` of x.
        own: what the solver carries, every array with the batch first.
        stopped: who stops with this iteration, by the stop rule.
        terms: of J1, where the settings need them.
        beta: β of this iteration.
    """
    finite = all_finite(x) & all_finite(mean)
    done = state.active & finite
    iteration = state.iteration + done.astype(jnp.int32)
    status = jnp.where(done & stopped, Status.CONVERGED, state.status)
    status = jnp.where(state.active & ~finite, Status.NOT_FINITE, status)
    history = state.history
    if history is not None:
        assert terms is not None
        rows = History(residual, *terms, beta, *problem.psnrs(x, mean))
        # Of an image that has ended, a row past the end, which is dropped.
        row = jnp.where(state.active, state.iteration + 1, problem.config.max_iterations + 1)
        index = jnp.arange(x.shape[0])
        history = jax.tree.map(lambda log, new: log.at[index, row].set(new, mode="drop"), history, rows)
    new = (x, mean, residual, own)
    x, mean, residual, own = keep(done, new, (state.x, state.mean, state.residual, state.own))
    active = done & ~stopped & (iteration < problem.config.max_iterations)
    return State(x, mean, residual, iteration, active, status.astype(jnp.int32), history, own)


def run(step: Callable[[State], State], state: State) -> State:
    """Iterate until no image goes on."""
    return lax.while_loop(lambda s: jnp.any(s.active), step, state)


def restoration(state: State, x: Array) -> Restoration:
    """The result of a final state, with the solver's last x."""
    return Restoration(x, x, state.mean, state.iteration, state.residual, state.status, state.history)


def change(x: Array, before: Array) -> Float[Array, " B"]:
    """RMS of x_k - x_{k-1}."""
    return jnp.sqrt(jnp.mean((x - before) ** 2, axis=(1, 2, 3)))


def keep(where: Bool[Array, " B"], new: _Tree, old: _Tree) -> _Tree:
    """The new arrays for the images that `where` names, the old ones for the others."""
    return jax.tree.map(lambda a, b: jnp.where(per_image(where, a).astype(bool), a, b), new, old)


def all_finite(x: Float[Array, "B H W C"]) -> Bool[Array, " B"]:
    """Whether nothing of an image is NaN or infinite."""
    return jnp.all(jnp.isfinite(x), axis=(1, 2, 3))
