"""Decoders p(x|z)."""

from typing import NamedTuple

import jax
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
