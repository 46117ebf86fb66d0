"""What a model offers: all that encoding, solvers, training and tools read of a model and its configuration.

A family is a configuration (`HierarchyConfig`) and a Flax module with the methods of `HVAE`; it is registered by name
in `hvae_jax.models.FAMILIES`. The top-down pass itself is the same for all (`hierarchy`): a family says how a level's
prior, posterior and merge work.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Protocol

from jaxtyping import Array, Float

from hvae_jax.likelihood import GaussianDecoder

if TYPE_CHECKING:  # which builds on this file
    from hvae_jax.models.hierarchy import Pass, TopDown


class HierarchyConfig:
    """An architecture: a frozen dataclass, hashable.

    Attributes:
        resolutions: coarsest first; each has its number of latent groups as `levels`.
        channels: of the images.
        noise_conditional: whether the bottom-up pass takes a noise level.
        clip_input: whether images are clipped to [0, 1] before they are encoded.
        auxiliary_heads: whether the model has `predict_pooled`, for training.
    """

    resolutions: tuple[Any, ...]
    channels: int
    noise_conditional: bool = False
    clip_input: bool = False
    auxiliary_heads: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> HierarchyConfig:
        """The inverse of `to_dict`; ValueError, TypeError or KeyError for what is no such configuration."""
        raise NotImplementedError

    @property
    def levels(self) -> int:
        """Number of latent groups L."""
        return self.first_levels[-1]

    @property
    def first_levels(self) -> tuple[int, ...]:
        """The first level of each resolution, then L."""
        return tuple(itertools.accumulate((r.levels for r in self.resolutions), initial=0))

    @property
    def multiple(self) -> int:
        """The sides of images are multiples of it."""
        raise NotImplementedError

    @property
    def image_size(self) -> int | None:
        """The only side of images that the model takes, or None for one that takes any size."""
        return None

    @property
    def latent_maps(self) -> tuple[tuple[int, int], ...]:
        """Per resolution, the latents' stride (image pixels along a side of theirs) and channels."""
        raise NotImplementedError


class Decoder(Protocol):
    """p(x|z), in the network's unit."""

    @property
    def mean(self) -> Array:
        """Its mean, shape (B, H, W, C)."""

    @property
    def variance(self) -> Array:
        """Its variance, of the same shape."""

    def nll(self, x: Array) -> Array:
        """-log p(x|z) of each image, in nats."""

    def sample(self, key: Array) -> Array:
        """Draw x ~ p(x|z)."""


class HVAE(Protocol):
    """A model: what its Flax module offers, the arrays being methods' through `module.apply(..., method=name)`.

    Attributes:
        config: the architecture.
    """

    config: Any

    def __init__(self, config: Any, *, unroll: bool = False) -> None:
        """A model of an architecture; with `unroll` its scans are written out, for training on CPU."""

    def bottom_up(self, image: Float[Array, "B H W C"], noise_level: Any = None) -> tuple[Array, ...]:
        """The deterministic encoder: one activation per resolution, coarsest first, of an image in [0, 1]."""

    def top_down(
        self, activations: tuple[Array, ...] | None, settings: Pass, shape: tuple[int, int, int] | None = None
    ) -> TopDown:
        """The top-down pass (`hierarchy.join`), from activations, or from the prior alone for images of a shape."""

    def decode(self, features: Array) -> Any:
        """The `Decoder` of a pass's features."""

    def __call__(self, image: Float[Array, "B H W C"], settings: Pass, noise_level: Any = None) -> tuple[Any, TopDown]:
        """Encode, pass and decode."""

    def initialize(self, key: Array) -> dict[str, Any]:
        """Random parameters."""

    def apply(self, variables: dict[str, Any], *args: Any, method: Any = None) -> Any:
        """Flax's: call a method, by default `__call__`, with parameters."""

    def to_network(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Images in [0, 1] in the network's unit; no `apply` needed."""

    def to_image(self, decoder: Any) -> GaussianDecoder:
        """Mean and deviation of a `Decoder` in the images' unit, the mean clipped to [0, 1]; no `apply` needed."""
