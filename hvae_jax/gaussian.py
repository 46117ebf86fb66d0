"""Diagonal Gaussians: log-density, KL divergence, sampling, and the tempered product of eq. 18."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

_LOG_2PI = 1.8378770664093453


class Gaussian(NamedTuple):
    """A diagonal Gaussian N(mean, std²); arrays of one shape, batch first."""

    mean: Float[Array, "B *shape"]
    std: Float[Array, "B *shape"]


def sum_per_image(x: Float[Array, "B *shape"]) -> Float[Array, " B"]:
    """Sum over every axis but the first."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def per_image(value: Shaped[Array, "#B"] | Shaped[Array, ""], like: Shaped[Array, "B *shape"]) -> Array:
    """Append axes to a scalar or a per-image vector until it broadcasts against `like`."""
    value = jnp.asarray(value, like.dtype)
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def log_density(z: Float[Array, "B *shape"], p: Gaussian) -> Float[Array, " B"]:
    """Log-density of z under p, summed over each image.

    log p(z) = -½ Σ [((z - m)/s)² + 2 log s + log 2π]

    Args:
        z: points, batch first.
        p: the Gaussian, of z's shape or broadcasting to it.

    Returns:
        One number per image.
    """
    u = (z - p.mean) / p.std
    return -0.5 * sum_per_image(u * u + 2 * jnp.log(p.std) + _LOG_2PI)


def kl_divergence(q: Gaussian, p: Gaussian) -> Float[Array, " B"]:
    """KL(q ‖ p) of diagonal Gaussians, summed over each image.

    KL = Σ [log(s_p/s_q) + (s_q² + (m_q - m_p)²)/(2 s_p²) - ½]

    Args:
        q: the posterior.
        p: the prior, of the same shape.

    Returns:
        One number per image, in nats.
    """
    ratio = q.std / p.std
    u = (q.mean - p.mean) / p.std
    return sum_per_image(0.5 * (ratio * ratio + u * u - 1) - jnp.log(ratio))


def sample(p: Gaussian, noise: Array) -> Float[Array, "B *shape"]:
    """Draw from p.

    Args:
        p: the Gaussian, of shape (B, ...).
        noise: one key per image, shape (B,), or the standard normal draws themselves, of p's shape.
            With a key per image a batch draws what its images draw one by one.

    Returns:
        m + s ε.
    """
    if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        shape, dtype = p.mean.shape[1:], p.mean.dtype
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(noise)
    return p.mean + p.std * noise.astype(p.mean.dtype)


def tempered_product(
    q: Gaussian, p: Gaussian, temperature: Float[Array, "..."] | float, beta: Float[Array, "..."] | float
) -> Gaussian:
    """The Gaussian proportional to q^β p^λ, λ = 1/τ² - β: mean and deviation of eq. 18.

    m = (βS_q + λS_p)⁻¹ (βS_q m_q + λS_p m_p),  s² = (βS_q + λS_p)⁻¹,  S: precisions.

    Args:
        q: the posterior q(z_l | z_<l, x).
        p: the prior p(z_l | z_<l).
        temperature: τ > 0, broadcasting against q; it scales the prior's deviation.
        beta: β in (0, 1], broadcasting against q; 1 in the paper, raised to 1 by the official code's schedule.

    Returns:
        The product, NaN where βS_q + λS_p is not positive (then no maximum exists; τ² <= 1/β is always safe).

    Source:
        Prost et al. 2023, eq. 18; λ = 1/τ² - β is the official code's.
    """
    # Relative to βS_q, so that neither a tiny nor a huge deviation overflows its square.
    ratio = q.std / p.std
    total = 1 + (1 / temperature**2 - beta) / beta * ratio * ratio
    # NaN, but only where it is: a literal one would alarm `jax_debug_nans`.
    total += jnp.sqrt(jnp.where(total > 0, jnp.zeros_like(total), -jnp.ones_like(total)))
    return Gaussian(p.mean + (q.mean - p.mean) / total, q.std / jnp.sqrt(beta * total))
