"""What a restoration gives: images, how they ended, and what was recorded on the way."""

import enum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Status(enum.IntEnum):
    """How an image's restoration ended."""

    ITERATION_LIMIT = 0
    """`max_iterations` were done before the stop rule's tolerance was met."""
    CONVERGED = 1
    """The stop rule was met."""
    NOT_FINITE = 2
    """NaN or infinity appeared; the image is the last finite one, if there was one."""
    COMPLETED = 3
    """All of `max_iterations` were done, as a tolerance of 0 asks for: the regular end of an annealed schedule."""


class History(NamedTuple):
    """What `history=True` records; entry k is iteration k, 0 the start; NaN after an image's end.

    Attributes:
        residual: RMS of x_k - x_{k-1}, shape (B, K + 1); NaN at 0.
        data_term: f(x_k) = ‖A x_k - y‖²/2σ².
        latent_term: -Σ_l log p(z_l|z_<l)/τ_l² of z_k = E_τ(x_k).
        decoder_term: -log p(x_k|z_k) = ‖x_k - μ_k‖²/2γ² + (d/2) log 2πγ².
        beta: β.
        psnr_x: PSNR of x_k in dB against the reference, if one is given.
        psnr_mean: PSNR of μ_k.
    """

    residual: Float[Array, "*B K"]
    data_term: Float[Array, "*B K"]
    latent_term: Float[Array, "*B K"]
    decoder_term: Float[Array, "*B K"]
    beta: Float[Array, "*B K"]
    psnr_x: Float[Array, "*B K"] | None
    psnr_mean: Float[Array, "*B K"] | None

    @property
    def objective(self) -> Float[Array, "*B K"]:
        """J1(x_k, z_k) (eq. 15), up to constants."""
        return self.data_term + self.latent_term + self.decoder_term


class Restoration(NamedTuple):
    """What `restore` returns; without the batch axis if y has none.

    Attributes:
        image: x or mean, as the settings' `returns` says.
        x: the last data step, not clipped.
        mean: the last decoded mean, in [0, 1].
        iterations: iterations done.
        residual: RMS of x_K - x_{K-1}, the data steps of the last two iterations, in the images' unit.
        status: a `Status`.
        history: a `History` if it was asked for.
    """

    image: Float[Array, "*B H W C"]
    x: Float[Array, "*B H W C"]
    mean: Float[Array, "*B H W C"]
    iterations: Int[Array, "*B"]
    residual: Float[Array, "*B"]
    status: Int[Array, "*B"]
    history: History | None


def choose(out: Restoration, returns: str | tuple[str, ...]) -> Float[Array, "B H W C"]:
    """The iterate that `RestoreConfig.returns` names, for all or for each image."""
    if isinstance(returns, str):
        return out.x if returns == "x" else out.mean
    return jnp.stack([out.x[i] if name == "x" else out.mean[i] for i, name in enumerate(returns)])
