"""Algorithm 1: encode, reconstruct, sample; and the pass that every solver runs."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass, TopDown
from hvae_jax.prior import Prior


class Encoding(NamedTuple):
    """What Algorithm 1 finds.

    Attributes:
        latents: E_τ(x), per resolution, coarsest first: z of its levels, shape (B, levels, h, w, channels).
        log_prior: log p(z_l|z_<l) of each level, summed over the image, untempered, shape (B, L).
        mean: decoded mean μ_θ(z), shape (B, H, W, C), in [0, 1].
        variance: the decoder's own variance of each pixel, shape (B, H, W, C), in the images' unit squared.
    """

    latents: tuple[Float[Array, "B n h w c"], ...]
    log_prior: Float[Array, "B L"]
    mean: Float[Array, "B H W C"]
    variance: Float[Array, "B H W C"]


def encode(
    prior: Prior,
    x: Float[ArrayLike, "*B H W C"],
    temperature: ArrayLike = 1.0,
    *,
    beta: ArrayLike = 1.0,
    noise_level: ArrayLike | None = None,
) -> Encoding:
    """Algorithm 1: the latents E_τ(x), level by level the maximum of q(z_l|x, z_<l) p(z_l|z_<l)^λ (eq. 18).

    Args:
        prior: the prior.
        x: image(s) in [0, 1], sides multiples of `prior.multiple`.
        temperature: τ > 0, τ² <= 1/β: a number, one per level (L,), or one per image and level (B, L) or (B, 1).
        beta: β of eq. 18, a number or one per image (B,); 1 in the paper.
        noise_level: for a noise-conditional prior, the deviation of the noise in x, in the images' unit, a number
            or one per image (B,); 0, a clean image, by default.

    Returns:
        The latents with log p(z_l|z_<l), and the decoded mean and variance; without the batch axis if x has none.

    Raises:
        ValueError: a shape, a type or the temperature does not fit.

    Source:
        Prost et al. 2023, Algorithm 1.
    """
    x, single = as_batch(prior, x)
    tau, beta, noise_level = _pass_inputs(prior, x.shape[0], x.dtype, temperature, beta, noise_level)
    encoding = _encode(prior.network, x, tau, beta, noise_level)
    return jax.tree.map(lambda leaf: leaf[0], encoding) if single else encoding


def reconstruct(
    prior: Prior,
    x: Float[ArrayLike, "*B H W C"],
    temperature: ArrayLike = 1.0,
    *,
    beta: ArrayLike = 1.0,
    noise_level: ArrayLike | None = None,
) -> Float[Array, "*B H W C"]:
    """HVAE(x, τ) = μ_θ(E_τ(x)) of Proposition 1: the denoiser that the prior is.

    Args:
        prior: the prior.
        x: see `encode`.
        temperature: see `encode`.
        beta: see `encode`.
        noise_level: see `encode`.

    Returns:
        The decoded mean, of x's shape, in [0, 1].

    Raises:
        ValueError: a shape, a type or the temperature does not fit.
    """
    x, single = as_batch(prior, x)
    tau, beta, noise_level = _pass_inputs(prior, x.shape[0], x.dtype, temperature, beta, noise_level)
    mean = compiled_reconstruct(prior.network, x, tau, beta, noise_level)
    return mean[0] if single else mean


def sample(
    prior: Prior, key: Array, shape: tuple[int, int, int, int], *, temperature: ArrayLike = 1.0
) -> Float[Array, "B H W C"]:
    """Draw images: z_l ~ N(μ_l, τ_l² Σ_l) level by level (section 3.3), then the decoded mean.

    Args:
        prior: the prior.
        key: a key of `jax.random`.
        shape: (B, H, W, C); sides multiples of `prior.multiple`.
        temperature: τ > 0, as in `encode`, but not bounded above.

    Returns:
        Images in [0, 1].

    Raises:
        ValueError: the shape or the temperature does not fit.
    """
    if len(shape) != 4:
        raise ValueError(f"the shape to sample must be (B, H, W, {prior.config.channels}), got {tuple(shape)}")
    check_shape(prior, tuple(shape), "the shape to sample")
    tau, _, _ = _pass_inputs(prior, shape[0], jnp.float32, temperature, 1.0, None, bounded=False)
    return _sample(prior.network, key, tuple(shape), tau)


@jax.jit
def _encode(prior: Prior, x: Array, temperature: Array, beta: Array, noise_level: Array) -> Encoding:
    settings = Pass(hierarchy.tempered_map, temperature, beta, collect=frozenset({"latent", "log_prior"}))
    decoder, result = run_pass(prior, x, settings, noise_level)
    assert result.log_prior is not None  # it was asked for
    return Encoding(result.latents, result.log_prior, decoder.mean, decoder.variance)


@jax.jit
def compiled_reconstruct(prior: Prior, x: Array, temperature: Array, beta: Array, noise_level: Array) -> Array:
    """The program of `reconstruct`, which needs all its inputs as arrays."""
    return run_pass(prior, x, Pass(hierarchy.tempered_map, temperature, beta), noise_level)[0].mean


@partial(jax.jit, static_argnames="shape")
def _sample(prior: Prior, key: Array, shape: tuple[int, int, int, int], temperature: Array) -> Array:
    keys = jax.random.split(key, (shape[0], prior.levels))
    settings = Pass(hierarchy.prior_sample, temperature, jnp.ones((1,)), noise=keys)
    apply: Any = partial(prior.model.apply, {"params": prior.params})
    result = apply(None, settings, shape[:3], method="top_down")
    return prior.model.to_image(apply(result.features, method="decode")).mean


def run_pass(prior: Prior, x: Array, settings: Pass, noise_level: Array | None) -> tuple[GaussianDecoder, TopDown]:
    """Encode a batch, run one top-down pass, decode; the decoder's distribution is in the images' unit."""
    if prior.config.clip_input:
        x = jnp.clip(x, 0, 1)
    apply: Any = prior.model.apply
    decoder, result = apply({"params": prior.params}, x, settings, noise_level)
    return prior.model.to_image(decoder), result


def draw_posterior(prior: Prior, x: Array, noise: Any, noise_level: Array | None) -> Array:
    """Decode an untempered draw from q(z|x): how the official code starts (`initial="official"`)."""
    settings = Pass(
        hierarchy.posterior_sample, jnp.ones((1, prior.levels), x.dtype), jnp.ones((1,), x.dtype), noise=noise
    )
    return run_pass(prior, x, settings, noise_level)[0].mean


def as_batch(prior: Prior, x: ArrayLike) -> tuple[Array, bool]:
    """The images as a checked batch, and whether there was no batch axis."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images must be floating-point numbers in [0, 1], got {x.dtype}")
    single = x.ndim == 3
    x = x[None] if single else x
    check_shape(prior, x.shape, "images")
    return x, single


def check_shape(prior: Prior, shape: tuple[int, ...], name: str) -> None:
    """Refuse a shape of images (B, H, W, C) that the prior does not take."""
    multiple, channels = prior.multiple, prior.config.channels
    if (size := prior.image_size) is not None and (len(shape) != 4 or shape[1:] != (size, size, channels)):
        raise ValueError(
            f"{name} must be ({size}, {size}, {channels}) or (B, {size}, {size}, {channels}), the only size of this "
            f"prior, got {shape if len(shape) != 4 else shape[shape[0] == 1 :]}"
        )
    if len(shape) != 4 or shape[3] != channels or 0 in shape or shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"{name} must be (H, W, {channels}) or (B, H, W, {channels}) with H and W multiples of {multiple} "
            f"(hvae_jax.images.pad_to_multiple pads), got {shape if len(shape) != 4 else tuple(shape)}"
        )


def level_temperature(prior: Prior, batch: int, temperature: ArrayLike, dtype: Any) -> Float[Array, "b L"]:
    """The temperature of each image (or one for all) and level, shape (B or 1, L)."""
    tau = jnp.asarray(temperature, dtype)
    levels = prior.levels
    shape: tuple[int, ...] = tau.shape
    if shape not in ((), (levels,), (batch, 1), (batch, levels), (1, 1), (1, levels)):
        raise ValueError(
            f"temperature must be a number, one per level ({levels},), or one per image and level "
            f"({batch}, {levels}), got shape {shape}"
        )
    return jnp.broadcast_to(tau, (shape[0] if len(shape) == 2 else 1, levels))


LARGEST_TEMPERATURE = 100.0
"""Far above any of use; the variance of a prior so hot is still a number."""


def check_temperature(temperature: ArrayLike, beta: ArrayLike, bounded: bool = True) -> None:
    """Refuse a known temperature for which βS_q + λS_p may not be positive."""
    if isinstance(temperature, jax.core.Tracer) or isinstance(beta, jax.core.Tracer):
        return
    tau, b = np.asarray(temperature, np.float64), np.asarray(beta, np.float64)
    if not (np.isfinite(tau).all() and (tau > 0).all()):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if not (tau <= LARGEST_TEMPERATURE).all():
        raise ValueError(f"temperature must be at most {LARGEST_TEMPERATURE:g}, got {temperature}")
    if not (np.isfinite(b).all() and (b > 0).all()):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    # A little above 1/β for temperatures that were rounded to float32.
    if bounded and tau.max() ** 2 * b.max() > 1 + 1e-6:
        raise ValueError(
            f"temperature must be at most 1/sqrt(beta) = {b.max() ** -0.5:.6g}, so that eq. 18 has a maximum, "
            f"got {tau.max():.6g}"
        )


def _pass_inputs(
    prior: Prior,
    batch: int,
    dtype: Any,
    temperature: ArrayLike,
    beta: ArrayLike,
    noise_level: ArrayLike | None,
    bounded: bool = True,
) -> tuple[Array, Array, Array]:
    """The checked inputs of a pass: temperature (B or 1, L), β (B or 1,), noise level (B,)."""
    check_temperature(temperature, beta, bounded)
    tau = level_temperature(prior, batch, temperature, dtype)
    if noise_level is not None and not prior.config.noise_conditional:
        raise ValueError("this prior is not noise-conditional, but a noise_level was given")
    check_deviation(0.0 if noise_level is None else noise_level, "noise_level")
    level = per_batch(0.0 if noise_level is None else noise_level, batch, "noise_level", dtype)
    return tau, jnp.atleast_1d(per_batch(beta, batch, "beta", dtype)), level


def check_deviation(value: ArrayLike, name: str) -> None:
    """Refuse a known deviation that is negative, not finite, or in grey levels."""
    if isinstance(value, jax.core.Tracer):
        return
    known = np.asarray(value, np.float64)
    if not (known >= 0).all():
        raise ValueError(f"{name} must not be negative, got {value}")
    if not (known <= 1).all():
        raise ValueError(f"{name} must be in the unit of the images, [0, 1], got {value}: divide grey levels by 255")


def per_batch(value: ArrayLike, batch: int, name: str, dtype: Any) -> Float[Array, " B"]:
    """A number or one per image, as one per image."""
    array = jnp.asarray(value, dtype)
    if array.shape not in ((), (1,), (batch,)):
        raise ValueError(f"{name} must be a number or one per image ({batch},), got shape {array.shape}")
    return jnp.broadcast_to(array, (batch,))
