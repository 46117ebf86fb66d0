"""Decoders p(x|z)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hvae_jax import gaussian


class GaussianDecoder(NamedTuple):
    """p(x|z) = N(x; mean, std²) (eq. 9), in the unit of the images it describes.

    Attributes:
        mean: decoded mean μ_θ(z), shape (B, H, W, C).
        std: decoder deviation γ, of mean's shape.
    """

    mean: Float[Array, "B H W C"]
    std: Float[Array, "B H W C"]

    @property
    def variance(self) -> Float[Array, "B H W C"]:
        """The variance γ² of each pixel."""
        return self.std**2

    def nll(self, x: Float[Array, "B H W C"]) -> Float[Array, " B"]:
        """-log p(x|z) of each image, in nats."""
        return -gaussian.log_density(x, gaussian.Gaussian(*self))

    def sample(self, key: Array) -> Float[Array, "B H W C"]:
        """Draw x ~ p(x|z), one key split over the batch."""
        return gaussian.sample(gaussian.Gaussian(*self), jax.random.split(key, self.mean.shape[0]))


class LogisticMixtureDecoder(NamedTuple):
    """A mixture of discretized logistics over the pixels of RGB images in [-1, 1].

    Given a pixel's red and green, the mean of component k is

        m_r = a_r,  m_g = a_g + c_0 x_r,  m_b = a_b + c_1 x_r + c_2 x_g

    and the likelihood is the logistic's mass in a bin around x, the outermost bins reaching to infinity.

    Attributes:
        logits: of the K components, shape (B, H, W, K).
        means: a, shape (B, H, W, C, K).
        log_scales: logarithm of the logistics' scales, at least -7, shape (B, H, W, C, K).
        coefficients: c, in [-1, 1], shape (B, H, W, 3, K).

    Source:
        Salimans et al. 2017 (PixelCNN++), eq. 2 and 3, as in OpenAI's VDVAE.
    """

    logits: Float[Array, "B H W K"]
    means: Float[Array, "B H W C K"]
    log_scales: Float[Array, "B H W C K"]
    coefficients: Float[Array, "B H W C K"]

    @classmethod
    def of(cls, parameters: Float[Array, "B H W D"], channels: int = 3) -> "LogisticMixtureDecoder":
        """From a network's output of 10 K channels: K logits, then K means, log-scales, coefficients per channel."""
        *shape, count = parameters.shape
        mixtures = count // (3 * channels + 1)
        rest = parameters[..., mixtures:].reshape(*shape, channels, 3 * mixtures)
        means, log_scales, coefficients = jnp.split(rest, 3, axis=-1)
        return cls(
            logits=parameters[..., :mixtures],
            means=means,
            log_scales=jnp.maximum(log_scales, -7),
            coefficients=jnp.tanh(coefficients),
        )

    @property
    def mean(self) -> Float[Array, "B H W C"]:
        """The mixture's mean, the components' own means clamped to [-1, 1], as the official PnP-HVAE computes it."""
        return jnp.sum(self._weights() * self._component_means(), axis=-1)

    @property
    def variance(self) -> Float[Array, "B H W C"]:
        """The variance of the mixture: that of its components, s²π²/3, and that of their means."""
        spread = (self._component_means() - self.mean[..., None]) ** 2
        return jnp.sum(self._weights() * (jnp.exp(2 * self.log_scales) * (jnp.pi**2 / 3) + spread), axis=-1)

    def nll(self, x: Float[Array, "B H W C"], bits: int = 8) -> Float[Array, " B"]:
        """-log P(x|z) of each image, in nats.

        Args:
            x: images in [-1, 1].
            bits: 8, or 5 for images floored to 32 levels; a bin is 2/(2^bits - 1) wide.

        Returns:
            One number per image, summed over its pixels.
        """
        half_bin = 1 / (2**bits - 1)
        pixel = x[..., None]
        centered = pixel - self._means_given(pixel)
        inverse = jnp.exp(-self.log_scales)
        upper, middle, lower = (inverse * (centered + shift) for shift in (half_bin, 0.0, -half_bin))
        mass = jax.nn.sigmoid(upper) - jax.nn.sigmoid(lower)
        # Where the mass underflows, the density at the centre times the bin's width.
        density = middle - self.log_scales - 2 * jax.nn.softplus(middle) + math.log(2 * half_bin)
        inner = jnp.where(mass > 1e-5, jnp.log(jnp.maximum(mass, 1e-12)), density)
        log_mass = jnp.where(
            pixel < -0.999,
            upper - jax.nn.softplus(upper),
            jnp.where(pixel > 0.999, -jax.nn.softplus(lower), inner),
        )
        joint = jnp.sum(log_mass, axis=-2) + jax.nn.log_softmax(self.logits)
        return -gaussian.sum_per_image(jax.nn.logsumexp(joint, axis=-1))

    def sample(self, key: Array) -> Float[Array, "B H W C"]:
        """Draw x ~ p(x|z) in [-1, 1], one key split over the batch."""
        keys = jax.random.split(key, (self.logits.shape[0], 2))
        tiny = jnp.finfo(self.logits.dtype).tiny

        def uniform(keys: Array, shape: tuple[int, ...]) -> Array:
            return jax.vmap(lambda k: jax.random.uniform(k, shape, self.logits.dtype, minval=tiny))(keys)

        return self.sample_from(uniform(keys[:, 0], self.logits.shape[1:]), uniform(keys[:, 1], self.means.shape[1:-1]))

    def sample_from(self, choice: Float[Array, "B H W K"], logistic: Float[Array, "B H W C"]) -> Array:
        """Draw x from uniform numbers in (0, 1): those that choose the component, and those of its logistic."""
        gumbel = -jnp.log(-jnp.log(choice))
        chosen = jax.nn.one_hot(jnp.argmax(self.logits + gumbel, axis=-1), self.logits.shape[-1], dtype=choice.dtype)
        picked = self._replace(
            **{
                name: jnp.sum(getattr(self, name) * chosen[..., None, :], axis=-1, keepdims=True)
                for name in ("means", "log_scales", "coefficients")
            }
        )
        noise = jnp.exp(picked.log_scales) * (jnp.log(logistic) - jnp.log1p(-logistic))[..., None]
        x = jnp.zeros_like(noise)
        for _ in range(3):  # first red comes right, then green, which needs red, then blue
            x = jnp.clip(picked._means_given(x) + noise, -1, 1)
        return x[..., 0]

    def _weights(self) -> Float[Array, "B H W 1 K"]:
        return jax.nn.softmax(self.logits)[..., None, :]

    def _means_given(self, x: Float[Array, "B H W C _"]) -> Float[Array, "B H W C K"]:
        """The components' means given red and green of the pixels x."""
        red, green = x[..., :1, :], x[..., 1:2, :]
        c = self.coefficients
        shifts = (jnp.zeros_like(c[..., :1, :]), c[..., :1, :] * red, c[..., 1:2, :] * red + c[..., 2:3, :] * green)
        return self.means + jnp.concatenate(shifts, axis=-2)

    def _component_means(self) -> Float[Array, "B H W C K"]:
        """The components' means, red and green taken to be at theirs, clamped to [-1, 1]."""
        return jnp.clip(self._means_given(self.means), -1, 1)
