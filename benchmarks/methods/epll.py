"""EPLL: half-quadratic splitting with a Gaussian mixture of 8x8 patches as prior."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from benchmarks.methods.contract import Method
from benchmarks.methods.hqs import dpir_schedule, half_quadratic
from hvae_jax.operators import Denoising, Operator

PATCH = 8
"""Side of a patch in pixels."""

MIXTURE = Path(__file__).parent / "epll.npz"
"""The mixture that `benchmarks.methods.fit_epll` fitted to the photographs of hvae_jax/pretrained/ATTRIBUTION.md."""

BETAS = (1, 4, 8, 16, 32)
"""1/s² of each iteration of denoising, relative to 1/σ²."""

OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.sqrt([[3], [2], [6]], dtype=np.float32)
"""Rotates red, green and blue to grey (times √3) and two colour differences."""


class Mixture(NamedTuple):
    """A mixture of K Gaussians of grey patches without their mean, flattened to P = 64 numbers.

    The covariance of a component is V diag(variances) Vᵀ.
    """

    log_weights: Float[Array, "K"]
    means: Float[Array, "K P"]
    vectors: Float[Array, "K P P"]
    variances: Float[Array, "K P"]


def load_mixture(path: str | os.PathLike = MIXTURE) -> Mixture:
    """The mixture in a file that `benchmarks.methods.fit_epll` wrote: weights, means and Cholesky factors."""
    with np.load(path) as file:
        weights, means, packed = (file[name].astype(np.float64) for name in ("weights", "means", "cholesky"))
    factors = np.zeros((len(weights), PATCH**2, PATCH**2))
    factors[:, *np.tril_indices(PATCH**2)] = packed
    variances, vectors = np.linalg.eigh(factors @ factors.transpose(0, 2, 1))
    parts = (np.log(weights), means, vectors, np.maximum(variances, 0))
    return Mixture(*(jnp.asarray(part, jnp.float32) for part in parts))


@jax.jit
def denoise_patches(
    mixture: Mixture, x: Float[Array, "batch height width channels"], deviation: float
) -> Float[Array, "batch height width channels"]:
    """Each 8x8 patch's most likely component at this noise level, that component's Wiener filter, and the average.

    Channels are denoised one by one. Patches are taken a row at a time, which bounds the memory.

    Args:
        mixture: the prior.
        x: noisy images of at least 8x8 pixels.
        deviation: of their noise, in the images' unit.

    Returns:
        The denoised images.

    Raises:
        ValueError: an image is smaller than a patch.
    """
    height, width = x.shape[1:3]
    if min(height, width) < PATCH:
        raise ValueError(f"expected images of at least {PATCH}x{PATCH} pixels, got shape {x.shape}")
    columns = width - PATCH + 1
    std = jnp.sqrt(mixture.variances + deviation**2)
    whiten = mixture.vectors / std[:, None]
    unwhiten = mixture.vectors * (mixture.variances / std)[:, None]  # V λ/(λ+s²) Vᵀ is unwhiten whitenᵀ
    white_means = jnp.einsum("kp,kpq->kq", mixture.means, whiten)
    offset = mixture.log_weights - jnp.log(std).sum(-1)

    def restore(patches: Float[Array, "n P"]) -> Float[Array, "n P"]:
        mean = patches.mean(-1, keepdims=True)
        centred = patches - mean
        # One component after the other stays in the cache, which is several times faster than all at once.
        energy = lax.map(lambda part: jnp.sum((centred @ part[0] - part[1]) ** 2, axis=-1), (whiten, white_means))
        best = jnp.argmax(offset[:, None] - 0.5 * energy, axis=0)
        white = jnp.einsum("np,npq->nq", centred, whiten[best]) - white_means[best]
        return mean + mixture.means[best] + jnp.einsum("npq,nq->np", unwhiten[best], white)

    def add_row(top: Array, total: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(x, top, PATCH, axis=1)
        shifted = jnp.stack([rows[:, :, left : left + columns] for left in range(PATCH)], axis=2)
        patches = jnp.moveaxis(shifted, (1, 2), (-2, -1))  # (batch, columns, channels, 8, 8)
        restored = restore(patches.reshape(-1, PATCH**2)).reshape(patches.shape)
        restored = jnp.moveaxis(restored, (-2, -1), (1, 2))
        summed = sum(
            jnp.pad(restored[:, :, left], ((0, 0), (0, 0), (left, PATCH - 1 - left), (0, 0))) for left in range(PATCH)
        )
        return lax.dynamic_update_slice_in_dim(
            total, lax.dynamic_slice_in_dim(total, top, PATCH, axis=1) + summed, top, axis=1
        )

    total = lax.fori_loop(0, height - PATCH + 1, add_row, jnp.zeros_like(x))
    covering = [jnp.convolve(jnp.ones(side - PATCH + 1), jnp.ones(PATCH)) for side in (height, width)]
    return total / (covering[0][:, None] * covering[1])[..., None]


def denoise_colours(
    mixture: Mixture, x: Float[Array, "batch height width channels"], deviation: float
) -> Float[Array, "batch height width channels"]:
    """`denoise_patches` of grey and two colour differences, or of the channels where there are not three.

    The rotation keeps the noise white; the grey picture, the mean of three channels, has 1/√3 of their deviation.
    """
    if x.shape[-1] != 3:
        return denoise_patches(mixture, x, deviation)
    rotated = x @ OPPONENT.T
    grey = 3**0.5 * denoise_patches(mixture, rotated[..., :1] / 3**0.5, deviation / 3**0.5)
    differences = denoise_patches(mixture, rotated[..., 1:], deviation)
    return jnp.concatenate([grey, differences], axis=-1) @ OPPONENT


def epll(mixture: Mixture | None = None) -> Method:
    """EPLL: the patches' expected log-likelihood as prior, by half-quadratic splitting.

    Denoising runs on the paper's schedule; other operators on DPIR's, which is 0.1 to 0.2 dB better for deblurring
    than the best of the paper's kind, β_k = β_0 4^k/σ². The mixture is of grey patches; colours are decorrelated first,
    which is 2 dB better for denoising (σ = 25/255) than red, green and blue one by one.

    Args:
        mixture: the prior; the one beside this file unless given.

    Returns:
        The method.

    Source: Zoran and Weiss, "From learning models of natural image patches to whole image restoration", ICCV 2011.
    """
    denoiser = functools.partial(denoise_colours, load_mixture() if mixture is None else mixture)

    def method(y: Array, A: Operator, noise_std: float) -> Array:
        schedule = epll_schedule(noise_std) if isinstance(A, Denoising) else dpir_schedule(noise_std)
        return half_quadratic(y, A, denoiser, schedule)

    return method


def epll_schedule(noise_std: float) -> list[tuple[float, float]]:
    """Iteration k denoises patches at s_k = σ/√β_k and then weighs their average by β_k against the observation.

    A pixel is in P patches, and the likelihood counts P times to match. Our loop starts with the data step, so each has
    the β of the iteration before.

    Args:
        noise_std: σ, in the images' unit.

    Returns:
        (ratio, deviation) of each iteration.
    """
    return [(before, noise_std / beta**0.5) for before, beta in zip((BETAS[0], *BETAS[:-1]), BETAS, strict=True)]
