"""What needs no learned prior: a Tikhonov filter and total variation, for every operator."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hvae_jax.operators import Blur, Denoising, Operator, conjugate_gradient
from hvae_jax.operators.blur import fft, inverse_fft, squared_abs

TIKHONOV_WEIGHT, TV_WEIGHT = 15.0, 7.0
"""Good for deblurring photographs in [0, 1]; see `benchmarks.methods.tuned` for better ones."""

_CG_TOLERANCE = 1e-5  # of Tikhonov where there is no closed form
_ADMM_CG_STEPS = 5  # of one iteration of ADMM, which starts where the last one ended


@jax.jit
def tikhonov(
    y: Float[Array, "batch *observation"], A: Operator, noise_std: float, weight: float = TIKHONOV_WEIGHT
) -> Float[Array, "batch height width channels"]:
    """argmin_x ‖A x − y‖²/(2σ²) + (weight/2) ‖∇x‖²: a Wiener filter for images of spectrum 1/|ω|².

    Args:
        y: observations.
        A: the operator; circular ones are inverted exactly, others by conjugate gradient.
        noise_std: σ > 0, in the images' unit.
        weight: of the prior, positive.

    Returns:
        The restored images.
    """
    start = A.initial(y)
    _, adjoint = A.bind(start.shape, start.dtype)
    return _least_squares(A, start, noise_std**2 * weight)(adjoint(A.observed(y)), start)


@partial(jax.jit, static_argnames="iterations")
def admm_tv(
    y: Float[Array, "batch *observation"],
    A: Operator,
    noise_std: float,
    weight: float = TV_WEIGHT,
    iterations: int = 100,
) -> Float[Array, "batch height width channels"]:
    """argmin_x ‖A x − y‖²/(2σ²) + weight Σ |∇x|, colours coupled in the norm, by ADMM (split d = ∇x).

    Args:
        y: observations.
        A: the operator; see `tikhonov`.
        noise_std: σ > 0, in the images' unit.
        weight: of the prior, positive.
        iterations: of ADMM.

    Returns:
        The restored images.

    Source: Rudin, Osher and Fatemi, 1992; Wang, Yang, Yin and Zhang, "A new alternating minimization algorithm for
    total variation image reconstruction", 2008.
    """
    start = A.initial(y)
    _, adjoint = A.bind(start.shape, start.dtype)
    observed = adjoint(A.observed(y))
    threshold = 1 / 20  # of the order of the gradients of images in [0, 1]
    penalty = noise_std**2 * weight / threshold
    solve = _least_squares(A, start, penalty, _ADMM_CG_STEPS)

    def body(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, split, dual = state
        x = solve(observed + penalty * _gradient_adjoint(split - dual), x)
        target = _gradient(x) + dual
        norm = jnp.sqrt(jnp.sum(target**2, axis=(0, -1), keepdims=True))
        split = target * jnp.maximum(1 - threshold / jnp.maximum(norm, 1e-12), 0)
        return x, split, target - split

    zeros = jnp.zeros((2, *start.shape), start.dtype)
    return lax.fori_loop(0, iterations, body, (start, zeros, zeros))[0]


def _least_squares(
    A: Operator, like: Array, weight: float, cg_steps: int | None = None
) -> Callable[[Array, Array], Array]:
    """The function (b, start) -> x with (AᵀA + weight ∇ᵀ∇) x = b, for images like the one given."""
    forward, adjoint = A.bind(like.shape, like.dtype)
    if isinstance(A, Blur | Denoising):  # a circular convolution: its spectrum is that of what it makes of a point
        point = jnp.zeros_like(like).at[..., 0, 0, :].set(1)
        power = squared_abs(fft(forward(point))) + weight * squared_abs(fft(_gradient(point))).sum(0)
        return lambda b, start: inverse_fft(fft(b) / power, b.shape)

    def matvec(x: Array) -> Array:
        return adjoint(forward(x)) + weight * _gradient_adjoint(_gradient(x))

    return lambda b, start: start + conjugate_gradient(matvec, b - matvec(start), cg_steps, _CG_TOLERANCE)


def _gradient(x: Array) -> Array:
    """Differences with the next pixel below and to the right, circular, on a new first axis."""
    return jnp.stack([jnp.roll(x, -1, axis) - x for axis in (-3, -2)])


def _gradient_adjoint(d: Array) -> Array:
    """The transpose of `_gradient`."""
    rows, columns = d
    return (jnp.roll(rows, 1, -3) - rows) + (jnp.roll(columns, 1, -2) - columns)
