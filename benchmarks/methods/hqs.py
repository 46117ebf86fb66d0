"""Half-quadratic splitting: the loop that EPLL, BM3D and plug-and-play denoisers share."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float

from hvae_jax.operators import Operator
from hvae_jax.restoration.schedules import DPIR_WEIGHT, dpir

Denoiser: TypeAlias = Callable[
    [Float[Array, "batch height width channels"], float], Float[Array, "batch height width channels"]
]
"""(noisy images, deviation of their noise in the images' unit) -> denoised images."""


@jax.jit
def data_step(A: Operator, y: Array, u: Array, ratio: Array) -> Array:
    """`Operator.data_step`, compiled once for all iterations, operators of one shape and noise levels."""
    return A.data_step(u, y, ratio)


def half_quadratic(
    y: Float[Array, "batch *observation"],
    A: Operator,
    denoiser: Denoiser,
    schedule: Iterable[tuple[float, float]],
) -> Float[Array, "batch height width channels"]:
    """Alternates x = argmin ½‖A x − y‖² + (ratio/2)‖x − v‖² and v = denoiser(x, deviation), from v = A.initial(y).

    Args:
        y: observations.
        A: the operator.
        denoiser: any function, also one that runs on the host.
        schedule: (ratio, deviation) of each iteration, both positive.

    Returns:
        The last v.
    """
    v = A.initial(y)
    for ratio, deviation in schedule:
        v = denoiser(data_step(A, y, v, np.float32(ratio)), float(deviation))
    return v


def dpir_schedule(noise_std: float, iterations: int = 8, weight: float = DPIR_WEIGHT) -> list[tuple[float, float]]:
    """DPIR's schedule for `half_quadratic`: ratio = weight σ²/s² and the deviations s of `schedules.dpir`.

    Args:
        noise_std: σ > 0, in the images' unit.
        iterations: number of evaluations of the denoiser.
        weight: λ of DPIR; larger trusts the denoiser more.

    Returns:
        (ratio, deviation) of each iteration.

    Source: Zhang et al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021, eq. 9 and section 4.2.
    """
    return [(weight * noise_std**2 / s**2, s) for s in dpir(noise_std, iterations)[:, 0].tolist()]


def plug_and_play(denoiser: Denoiser, iterations: int = 8, weight: float = DPIR_WEIGHT) -> Callable[..., Array]:
    """The method that half-quadratic splitting makes of a denoiser, on DPIR's schedule; see `dpir_schedule`.

    Args:
        denoiser: any function (x, deviation) -> x of a batch; see `Denoiser`.
        iterations: number of evaluations of it.
        weight: λ of DPIR.

    Returns:
        The method (y, A, noise_std) -> x.
    """

    def method(y: Array, A: Operator, noise_std: float) -> Array:
        return half_quadratic(y, A, denoiser, dpir_schedule(noise_std, iterations, weight))

    return method
