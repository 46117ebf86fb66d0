"""Schedules: temperature over the levels, deviations over the iterations."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def linear(coarsest: float, finest: float, levels: int) -> Float[Array, " L"]:
    """A temperature that changes linearly over the levels, both ends included.

    τ_l = coarsest + (finest - coarsest) l/(L - 1)

    Args:
        coarsest: temperature of level 0.
        finest: temperature of level L - 1.
        levels: L.

    Returns:
        τ, shape (L,). (The file that defines the official `Linear` is missing from its repository.)
    """
    return jnp.linspace(coarsest, finest, levels)


def geometric(start: ArrayLike, stop: ArrayLike, iterations: int) -> Float[Array, "K *B"]:
    """A deviation that falls geometrically over the iterations, both ends included.

    s_k = start (stop/start)^(k/(K - 1))

    Args:
        start: first value, a positive number or one per image (B,).
        stop: last value, likewise.
        iterations: K.

    Returns:
        One value per iteration and image, shape (K, 1) or (K, B).
    """
    start, stop = jnp.broadcast_arrays(jnp.atleast_1d(start), jnp.atleast_1d(stop))
    return jax.vmap(lambda first, last: jnp.geomspace(first, last, iterations), out_axes=1)(start, stop)


DPIR_NOISE_LEVELS = (49 / 255, 2.55 / 255)
"""First and last noise level of DPIR's schedule, in the images' unit."""

DPIR_WEIGHT = 0.23
"""1/γ² = weight/s² in DPIR."""


def dpir(noise_std: ArrayLike, iterations: int = 8) -> Float[Array, "K *B"]:
    """The noise levels s of DPIR: from 49/255 to max(σ, 2.55/255), geometrically.

    Args:
        noise_std: σ, in the images' unit, a number or one per image (B,).
        iterations: K.

    Returns:
        s, shape (K, 1) or (K, B).

    Source: Zhang et al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021, section 4.2.
    """
    first, last = DPIR_NOISE_LEVELS
    return geometric(first, jnp.maximum(jnp.asarray(noise_std), last), iterations)


def at_iteration(value: Float[Array, "*K_B"], iteration: ArrayLike) -> Float[Array, " B"]:
    """The value of an iteration, or of each image's own (B,): constants (B,) stay, of a schedule (K, B) the row.

    Beyond its end the last row stays.
    """
    if value.ndim < 2:
        return value
    rows = jnp.broadcast_to(jnp.minimum(iteration, value.shape[0] - 1), value.shape[1:])
    return jnp.take_along_axis(value, rows[None], axis=0)[0]
