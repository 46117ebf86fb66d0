"""PatchVDVAE: the fully convolutional hierarchical VAE for natural images of any size (section 6.2)."""

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hvae_jax.files import without_withdrawn
from hvae_jax.gaussian import Gaussian, per_image
from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.blocks import (
    ACTIVATIONS,
    Bottleneck,
    Pool,
    Unpool,
    bottlenecks,
    conv,
    depth_to_space,
    smooth_softplus,
    space_to_depth,
)
from hvae_jax.models.contract import HierarchyConfig
from hvae_jax.models.hierarchy import LatentBlock, Pass, TopDown


@dataclass(frozen=True)
class Resolution:
    """One resolution of PatchVDVAE.

    Attributes:
        stride: upsampling factor from the next coarser resolution; 1 for the coarsest.
        levels: latent groups L_r.
        width: channels of the top-down state.
        bottleneck: inner channels of the top-down blocks.
        posterior_bottleneck: inner channels of the posterior blocks.
        latent_channels: channels of each z_l.
        encoder_width: channels of the bottom-up state.
        encoder_bottleneck: inner channels of the bottom-up blocks.
        encoder_blocks: bottom-up blocks.
        skip_width: channels of the bottom-up skip.
        kernel_size: side of the blocks' convolutions.
        deterministic: deterministic bottlenecks after each level (Table 4 replaces stochastic blocks by them).
        deterministic_bottleneck: inner channels of those.
    """

    stride: int
    levels: int
    width: int
    bottleneck: int
    posterior_bottleneck: int
    latent_channels: int
    encoder_width: int
    encoder_bottleneck: int
    encoder_blocks: int
    skip_width: int
    kernel_size: int = 3
    deterministic: int = 0
    deterministic_bottleneck: int = 0


@dataclass(frozen=True)
class PatchVDVAEConfig(HierarchyConfig):
    """Architecture of a PatchVDVAE.

    Attributes:
        resolutions: coarsest first.
        channels: channels of the images.
        activation: a name in `ACTIVATIONS`; SiLU in the paper's models.
        space_to_depth: factor of a space-to-depth stem; 1 (none) in the paper's models.
        noise_conditional: the bottom-up pass has the noise level as an input channel; off in the paper's models.
        clip_input: images are clipped to [0, 1] before they are encoded, as the official code does; off for a
            noise-conditional model, which is trained on unclipped noise.
        input_kernel: side of the first convolution.
        output_kernel: side of the last convolution.
        first_posterior_bottleneck: inner channels of the first level's posterior block.
        auxiliary_heads: heads that predict the average-pooled image from each coarse resolution's state,
            used in training only, so that coarse levels stay informative; off in the paper's models.
    """

    resolutions: tuple[Resolution, ...]
    channels: int = 3
    activation: str = "silu"
    space_to_depth: int = 1
    noise_conditional: bool = False
    clip_input: bool = True
    input_kernel: int = 1
    output_kernel: int = 1
    first_posterior_bottleneck: int = 16
    auxiliary_heads: bool = False

    def __post_init__(self) -> None:
        if not self.resolutions or self.resolutions[0].stride != 1:
            raise ValueError(
                "expected resolutions, coarsest first, the coarsest of stride 1, got "
                f"strides {[r.stride for r in self.resolutions]}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"expected an activation of {sorted(ACTIVATIONS)}, got {self.activation!r}")

    @property
    def multiple(self) -> int:
        """Total stride: the sides of images are multiples of it."""
        return self.space_to_depth * math.prod(r.stride for r in self.resolutions)

    @property
    def latent_maps(self) -> tuple[tuple[int, int], ...]:
        """See `HierarchyConfig.latent_maps`."""
        strides = itertools.accumulate((r.stride for r in self.resolutions), operator.floordiv, initial=self.multiple)
        return tuple(zip(list(strides)[1:], (r.latent_channels for r in self.resolutions), strict=True))

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "PatchVDVAEConfig":
        """See `HierarchyConfig.from_dict`."""
        config = without_withdrawn(config)
        return cls(**{**config, "resolutions": tuple(Resolution(**r) for r in config.get("resolutions", ()))})


class PatchBlock(LatentBlock):
    """A level: prior from the state, posterior from the state and the skip, then a residual bottleneck.

    Attributes:
        resolution: where the level stands.
        posterior_bottleneck: inner channels of the posterior block.
        activation: a name in `ACTIVATIONS`.
        init_scale: variance of the initial weights of what is added to the state, relative to He's.
        dtype: of the state; mean and deviation of the Gaussians are float32 or wider.
        unroll_blocks: write the scan of the deterministic blocks out, see `scan_unroll`.
    """

    resolution: Resolution
    posterior_bottleneck: int
    activation: str
    init_scale: float
    dtype: Any = None
    unroll_blocks: bool = False

    def setup(self) -> None:
        r = self.resolution
        block: dict[str, Any] = {"kernel_size": r.kernel_size, "activation": self.activation, "dtype": self.dtype}
        residual = {"init_scale": self.init_scale, **block}
        self.setup_prior(block)
        self.posterior_net = Bottleneck(self.posterior_bottleneck, r.width, residual=False, **block)
        self.posterior_projection = conv(2 * r.latent_channels, 1, self.init_scale)
        self.z_projection = conv(r.width, 1, self.init_scale, dtype=self.dtype)
        self.residual_block = Bottleneck(r.bottleneck, r.width, **residual)
        if r.deterministic:
            # Two bottlenecks in place of one level, whose block has about twice the parameters of a bottleneck.
            self.deterministic_blocks = bottlenecks(
                2 * r.deterministic, self.unroll_blocks, width=r.deterministic_bottleneck, features=r.width, **residual
            )

    def setup_prior(self, block: dict[str, Any]) -> None:
        """Create what `prior` needs."""
        r = self.resolution
        self.prior_net = Bottleneck(r.bottleneck, 2 * r.width, residual=False, init_scale=self.init_scale, **block)
        self.prior_projection = conv(2 * r.latent_channels, 1, self.init_scale)

    def prior(self, h: Array) -> tuple[Gaussian, Array]:
        features, prior = jnp.split(self.prior_net(h), 2, axis=-1)
        return _gaussian(self.prior_projection(prior)), h + features

    def posterior(self, h: Array, activation: Array) -> Gaussian:
        return _gaussian(self.posterior_projection(self.posterior_net(h, activation)))

    def merge(self, h: Array, z: Array) -> Array:
        h = self.residual_block(h + self.z_projection(z))
        return self.deterministic_blocks(h, None)[0] if self.resolution.deterministic else h


class FirstPatchBlock(PatchBlock):
    """The first level: z_0 ~ N(0, I) in place of VDVAE's learned constant, so that any size can be drawn.

    It starts from a state without channels, which only tells the size. Mean and deviation of the prior are
    parameters because the official files hold them, but they are not trained.
    """

    def setup_prior(self, block: dict[str, Any]) -> None:
        channels = (self.resolution.latent_channels,)
        self.mean = self.param("mean", nn.initializers.zeros, channels)
        self.std = self.param("std", nn.initializers.ones, channels)

    def prior(self, h: Array) -> tuple[Gaussian, Array]:
        shape = (*h.shape[:-1], self.resolution.latent_channels)
        mean, std = (jnp.broadcast_to(jax.lax.stop_gradient(v), shape) for v in (self.mean, self.std))
        return Gaussian(mean, std), jnp.zeros((*h.shape[:-1], self.resolution.width), h.dtype)


def _gaussian(statistics: Array) -> Gaussian:
    """Split a projection's output into mean and deviation; no floor on the deviation, as in the reference."""
    mean, std = jnp.split(statistics, 2, axis=-1)
    return Gaussian(mean, smooth_softplus(std))


class PatchVDVAE(nn.Module):
    """The model; images are in [0, 1], the network works in [-1, 1].

    Attributes:
        config: the architecture.
        unroll: write the scans out, for training on CPU; the parameters are the same.
        dtype: of the states and of the convolutions between them, bfloat16 for training on an accelerator; that of
            image and parameters if None. What leaves the network, the mean and deviation of every Gaussian and the
            auxiliary images, is computed in the parameters' type, float32.
    """

    config: PatchVDVAEConfig
    unroll: bool = False
    dtype: Any = None

    def setup(self) -> None:
        config = self.config
        resolutions = config.resolutions
        count = len(resolutions)
        init_scale = 1 / (config.levels + sum(r.encoder_blocks for r in resolutions))
        common: dict[str, Any] = {"activation": config.activation, "init_scale": init_scale, "dtype": self.dtype}

        self.input_conv = conv(resolutions[-1].encoder_width, config.input_kernel, dtype=self.dtype)
        self.encode_blocks = [
            bottlenecks(
                r.encoder_blocks,
                self.unroll,
                width=r.encoder_bottleneck,
                features=r.encoder_width,
                kernel_size=r.kernel_size,
                **common,
            )
            for r in resolutions
        ]
        self.skip_projections = [conv(r.skip_width, 1, dtype=self.dtype) for r in resolutions]
        self.pools = [
            Pool(resolutions[i + 1].stride, resolutions[i].encoder_width, self.dtype) for i in range(count - 1)
        ]  # pools[i] leads to resolution i

        self.first_level = FirstPatchBlock(
            resolutions[0], config.first_posterior_bottleneck, unroll_blocks=self.unroll, **common
        )
        self.unpools = [Unpool(resolutions[i].stride, resolutions[i].width, self.dtype) for i in range(1, count)]
        self.levels = [
            hierarchy.scan_levels(
                PatchBlock,
                r.levels - (i == 0),
                self.unroll,
                resolution=r,
                posterior_bottleneck=r.posterior_bottleneck,
                unroll_blocks=self.unroll,
                **common,
            )
            if r.levels > (i == 0)
            else None
            for i, r in enumerate(resolutions)
        ]
        self.output_conv = conv(2 * config.channels * config.space_to_depth**2, config.output_kernel, init_scale)
        if config.auxiliary_heads:
            self.auxiliary = [conv(config.channels, 1, init_scale) for _ in resolutions[:-1]]

    def bottom_up(
        self, image: Float[Array, "B H W C"], noise_level: Float[Array, " B"] | None = None
    ) -> tuple[Array, ...]:
        """The deterministic encoder: one projected skip per resolution.

        Args:
            image: shape (B, H, W, C), in [0, 1], sides multiples of `config.multiple`.
            noise_level: deviation of the noise in each image, in the images' unit; only for a
                noise-conditional model.

        Returns:
            Skips, coarsest first, shape (B, h, w, skip_width).
        """
        config = self.config
        h = space_to_depth(self.to_network(image), config.space_to_depth)
        if config.noise_conditional:
            # In the network's unit, as is the image.
            level = per_image(2 * jnp.asarray(noise_level, h.dtype), h)
            h = jnp.concatenate([h, jnp.broadcast_to(level, (*h.shape[:-1], 1))], axis=-1)
        h = self.input_conv(h)
        skips: list[Array] = []
        for i in reversed(range(len(config.resolutions))):
            h, _ = self.encode_blocks[i](h, None)
            skips.insert(0, self.skip_projections[i](h))
            if i > 0:
                h = self.pools[i - 1](h)
        return tuple(skips)

    def top_down(
        self,
        activations: tuple[Array, ...] | None,
        settings: Pass,
        shape: tuple[int, int, int] | None = None,
    ) -> TopDown:
        """The top-down pass.

        Args:
            activations: what `bottom_up` returned, or None to use the prior alone.
            settings: latent rule and its inputs.
            shape: (B, H, W) of the images, needed where there are no activations.

        Returns:
            The pass's result; its `features` are for `decode`.
        """
        config = self.config
        if activations is not None:
            batch, height, width = activations[0].shape[:3]
            dtype = activations[0].dtype
        elif shape is not None:
            batch, height, width = shape[0], shape[1] // config.multiple, shape[2] // config.multiple
            dtype = settings.temperature.dtype
        else:
            raise ValueError("expected activations or the images' shape (B, H, W), got neither")
        first = config.first_levels
        h = jnp.zeros((batch, height, width, 0), dtype)
        states: list[Array] = []
        outputs: list[hierarchy.LevelOutputs] = []
        for i, levels in enumerate(self.levels):
            activation = None if activations is None else activations[i]
            parts = []
            if i == 0:
                h, output = hierarchy.run_level(self.first_level, h, activation, settings, settings.inputs(0, 0, 0, 1))
                parts.append(output)
            else:
                h = self.unpools[i - 1](h)
            if levels is not None:
                inputs = settings.inputs(i, first[i], first[i] + (i == 0), first[i + 1])
                h, output = hierarchy.run_levels(levels, h, activation, settings, inputs)
                parts.append(output)
            states.append(h)
            outputs.append(jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts))
        return hierarchy.join(states, outputs)

    def decode(self, features: Float[Array, "B h w D"]) -> GaussianDecoder:
        """The decoder's distribution of the network's images, in [-1, 1] units."""
        out = depth_to_space(self.output_conv(features), self.config.space_to_depth)
        return GaussianDecoder(*_gaussian(out))

    def predict_pooled(self, states: tuple[Array, ...]) -> tuple[Array, ...]:
        """What the auxiliary heads predict from each coarse resolution's state: the average-pooled image."""
        return tuple(head(state) for head, state in zip(self.auxiliary, states, strict=False))

    def __call__(
        self,
        image: Float[Array, "B H W C"],
        settings: Pass,
        noise_level: Float[Array, " B"] | None = None,
    ) -> tuple[GaussianDecoder, TopDown]:
        """Encode, pass and decode."""
        result = self.top_down(self.bottom_up(image, noise_level), settings)
        if self.config.auxiliary_heads and self.is_initializing():
            self.predict_pooled(result.states)
        return self.decode(result.features), result

    def initialize(self, key: Array) -> dict[str, Any]:
        """Random parameters."""
        config = self.config
        image = jnp.zeros((1, config.multiple, config.multiple, config.channels))
        settings = Pass(hierarchy.tempered_map, jnp.ones((1, config.levels)), jnp.ones((1,)))
        return self.init(key, image, settings, jnp.zeros((1,)))["params"]

    @staticmethod
    def to_network(image: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Images in [0, 1] to the network's [-1, 1]."""
        return 2 * image - 1

    @staticmethod
    def to_image(decoder: GaussianDecoder) -> GaussianDecoder:
        """The decoder's distribution in the images' unit, its mean clipped to [0, 1] as in the reference."""
        return GaussianDecoder(jnp.clip((decoder.mean + 1) / 2, 0, 1), decoder.std / 2)
