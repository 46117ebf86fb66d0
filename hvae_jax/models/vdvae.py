"""VDVAE: OpenAI's very deep VAE for images of a fixed size (Child 2021), the paper's face prior (section 6.1)."""

import itertools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from hvae_jax.gaussian import Gaussian
from hvae_jax.likelihood import GaussianDecoder, LogisticMixtureDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.blocks import Bottleneck, average_pool, bottlenecks, conv, upsample
from hvae_jax.models.contract import HierarchyConfig
from hvae_jax.models.hierarchy import LatentBlock, Pass, TopDown

FIVE_BIT_LEVELS = 256.0
"""The official face wrapper scales [0, 1] by 256, not 255, before it clamps to 255.

Its 5-bit model was trained on levels 0..255, so that white is clamped rather than reached.
"""

FIVE_BIT_SHIFT = 4 / 255
"""Added to a decoded mean: training floored images to multiples of 8 grey levels, on average 4 too dark."""

FIVE_BIT_VARIANCE = (0.004, 0.5)
"""Range that the official face wrapper clamps the decoded variance to, in the images' unit squared.

Without it a confident pixel's variance would fall far below the quantization's and dominate log p(x|z).
"""


@dataclass(frozen=True)
class Resolution:
    """One resolution of VDVAE.

    Attributes:
        size: side of its maps in pixels; a multiple of the next coarser resolution's.
        levels: latent groups.
        encoder_blocks: bottom-up blocks before the activation is taken; another one follows before pooling.
        width: channels of the state, bottom-up and top-down.
    """

    size: int
    levels: int
    encoder_blocks: int
    width: int


@dataclass(frozen=True)
class VDVAEConfig(HierarchyConfig):
    """Architecture of a VDVAE, and how images go in and come out.

    Attributes:
        resolutions: coarsest first.
        input_shift: added to an image of `input_levels` grey levels.
        input_scale: factor after that.
        channels: channels of the images.
        latent_channels: channels of each z_l.
        bottleneck_ratio: inner channels of the blocks relative to their resolution's width.
        mixtures: components of the discretized mixture of logistics.
        no_bias_above: the finest resolution with a learned bias map.
        bits: of the images that the model was trained on, as its likelihood counts them.
        input_levels: what white is scaled to; the face model has `FIVE_BIT_LEVELS`.
        input_limit: the scaled image is clamped to [0, input_limit].
        mean_shift: added to the decoded mean, in the images' unit; the face model has `FIVE_BIT_SHIFT`.
        variance_range: what the decoded variance is clamped to, in the images' unit squared, or None; the face
            model has `FIVE_BIT_VARIANCE`.
    """

    resolutions: tuple[Resolution, ...]
    input_shift: float
    input_scale: float
    channels: int = 3
    latent_channels: int = 16
    bottleneck_ratio: float = 0.25
    mixtures: int = 10
    no_bias_above: int = 64
    bits: int = 8
    input_levels: float = 255.0
    input_limit: float = 255.0
    mean_shift: float = 0.0
    variance_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        sizes = [r.size for r in self.resolutions]
        if not sizes or any(fine % coarse for coarse, fine in itertools.pairwise(sizes)):
            raise ValueError(f"expected resolutions, coarsest first, each a multiple of the one before, got {sizes}")
        widths = [r.width for r in self.resolutions]
        if widths != sorted(widths, reverse=True):
            raise ValueError(f"expected widths that do not grow from coarse to fine, got {widths}")
        if min(r.levels for r in self.resolutions) < 1:
            raise ValueError(f"expected a level at each resolution, got {[r.levels for r in self.resolutions]}")
        if self.bits not in (5, 8):
            raise ValueError(f"expected bits of 5 or 8, got {self.bits}")

    @property
    def image_size(self) -> int:
        """The only side of images that the model takes: its bias maps have this many pixels."""
        return self.resolutions[-1].size

    @property
    def latent_maps(self) -> tuple[tuple[int, int], ...]:
        """See `HierarchyConfig.latent_maps`."""
        return tuple((self.image_size // r.size, self.latent_channels) for r in self.resolutions)

    @property
    def multiple(self) -> int:
        """The sides of images are multiples of it; here they are exactly `image_size`."""
        return self.image_size

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "VDVAEConfig":
        """See `HierarchyConfig.from_dict`."""
        limits = config["variance_range"]
        return cls(
            **{
                **config,
                "resolutions": tuple(Resolution(**r) for r in config["resolutions"]),
                "variance_range": limits and tuple(limits),
            }
        )


def _resolutions(width: int, **blocks: tuple[int, int]) -> tuple[Resolution, ...]:
    """Resolutions of one width: r<size>=(levels, encoder_blocks), coarsest first."""
    return tuple(
        Resolution(size=int(name[1:]), levels=levels, encoder_blocks=encoder_blocks, width=width)
        for name, (levels, encoder_blocks) in blocks.items()
    )


FIVE_BIT: dict[str, Any] = {
    "bits": 5,
    "input_levels": FIVE_BIT_LEVELS,
    "mean_shift": FIVE_BIT_SHIFT,
    "variance_range": FIVE_BIT_VARIANCE,
}
"""How images go into and come out of the 5-bit face model in the official PnP-HVAE code."""

PRESETS: dict[str, VDVAEConfig] = {
    "cifar10": VDVAEConfig(
        _resolutions(384, r1=(1, 3), r4=(3, 3), r8=(6, 6), r16=(11, 6), r32=(22, 11)),
        input_shift=-120.63838,
        input_scale=1 / 64.16736,
    ),
    "imagenet32": VDVAEConfig(
        _resolutions(512, r1=(2, 6), r4=(5, 6), r8=(10, 8), r16=(20, 9), r32=(41, 15)),
        input_shift=-116.2373,
        input_scale=1 / 69.37404,
    ),
    "imagenet64": VDVAEConfig(
        _resolutions(512, r1=(2, 5), r4=(4, 7), r8=(8, 8), r16=(16, 9), r32=(32, 20), r64=(13, 11)),
        input_shift=-115.92961967,
        input_scale=1 / 69.37404,
    ),
    "ffhq256": VDVAEConfig(
        _resolutions(
            512, r1=(2, 4), r4=(4, 5), r8=(5, 5), r16=(10, 7), r32=(22, 17), r64=(14, 12), r128=(8, 8), r256=(1, 3)
        ),
        input_shift=-112.8666757481,
        input_scale=1 / 69.84780273,
        **FIVE_BIT,
    ),
    "ffhq1024": VDVAEConfig(
        (
            *_resolutions(512, r1=(2, 4), r4=(4, 5), r8=(5, 5), r16=(10, 7), r32=(21, 14), r64=(15, 10), r128=(8, 7)),
            Resolution(size=256, levels=3, encoder_blocks=5, width=64),
            Resolution(size=512, levels=1, encoder_blocks=3, width=32),
            Resolution(size=1024, levels=1, encoder_blocks=1, width=16),
        ),
        input_shift=-0.4387,
        input_scale=1 / 0.2743,
        input_levels=1.0,  # the only model that was trained on images in [0, 1]
        input_limit=1.0,
        mixtures=2,
    ),
}
"""OpenAI's models, by their names there."""


class VDVAEBlock(LatentBlock):
    """A level: prior from the state, posterior from the state and the activation, then a residual bottleneck.

    Attributes:
        width: channels of the state.
        bottleneck: inner channels.
        latent_channels: channels of z_l.
        kernel_size: of the inner convolutions.
        init_scale: variance of the initial weights of what is added to the state, relative to He's.
    """

    width: int
    bottleneck: int
    latent_channels: int
    kernel_size: int
    init_scale: float

    def setup(self) -> None:
        block: dict[str, Any] = {"width": self.bottleneck, "kernel_size": self.kernel_size, "activation": "gelu"}
        statistics = 2 * self.latent_channels
        self.prior_net = Bottleneck(features=statistics + self.width, residual=False, init_scale=0, **block)
        self.posterior_net = Bottleneck(features=statistics, residual=False, **block)
        self.z_projection = conv(self.width, 1, self.init_scale)
        self.residual_block = Bottleneck(features=self.width, init_scale=self.init_scale, **block)

    def prior(self, h: Array) -> tuple[Gaussian, Array]:
        z = self.latent_channels
        mean, log_std, features = jnp.split(self.prior_net(h), (z, 2 * z), axis=-1)
        return Gaussian(mean, jnp.exp(log_std)), h + features

    def posterior(self, h: Array, activation: Array) -> Gaussian:
        mean, log_std = jnp.split(self.posterior_net(h, activation), 2, axis=-1)
        return Gaussian(mean, jnp.exp(log_std))

    def merge(self, h: Array, z: Array) -> Array:
        return self.residual_block(h + self.z_projection(z))


class VDVAE(nn.Module):
    """The model; images are in [0, 1], the likelihood works in [-1, 1].

    Attributes:
        config: the architecture.
        unroll: write the scans out; the parameters are the same.
    """

    config: VDVAEConfig
    unroll: bool = False

    def setup(self) -> None:
        config = self.config
        resolutions = config.resolutions
        coarser = resolutions[:-1]
        blocks = sum(r.encoder_blocks for r in resolutions) + len(coarser)

        def sizes(r: Resolution) -> dict[str, Any]:
            # A 3x3 convolution on 1x1 or 2x2 pixels would see padding more than image.
            return {"kernel_size": 3 if r.size > 2 else 1}

        def block(r: Resolution) -> dict[str, Any]:
            return {
                "width": int(r.width * config.bottleneck_ratio),
                "features": r.width,
                "activation": "gelu",
                "init_scale": 1 / blocks,
                **sizes(r),
            }

        self.input_conv = conv(resolutions[-1].width, 3)
        self.encode_blocks = [
            bottlenecks(r.encoder_blocks, self.unroll, **block(r)) if r.encoder_blocks else None for r in resolutions
        ]
        self.pool_blocks = [Bottleneck(**block(r)) for r in resolutions[1:]]  # pool_blocks[i] leads to resolution i
        self.levels = [
            hierarchy.scan_levels(
                VDVAEBlock,
                r.levels,
                self.unroll,
                width=r.width,
                bottleneck=int(r.width * config.bottleneck_ratio),
                latent_channels=config.latent_channels,
                init_scale=1 / config.levels,
                **sizes(r),
            )
            for r in resolutions
        ]
        self.bias_maps = [
            self.param(f"bias_map_{i}", nn.initializers.zeros, (r.size, r.size, r.width))
            for i, r in enumerate(resolutions)
            if r.size <= config.no_bias_above
        ]
        self.gain = self.param("gain", nn.initializers.ones, (resolutions[-1].width,))
        self.bias = self.param("bias", nn.initializers.zeros, (resolutions[-1].width,))
        self.output_conv = conv(10 * config.mixtures, 1)

    def bottom_up(self, image: Float[Array, "B H W C"], noise_level: Array | None = None) -> tuple[Array, ...]:
        """The deterministic encoder: one activation per resolution.

        Args:
            image: shape (B, H, W, C), in [0, 1], H = W = `config.image_size`.
            noise_level: without effect; here for the signature of a noise-conditional family.

        Returns:
            Activations, coarsest first, shape (B, size, size, width).
        """
        resolutions = self.config.resolutions
        h = self.input_conv(self.to_network(image))
        activations: list[Array] = []
        for i in reversed(range(len(resolutions))):
            blocks = self.encode_blocks[i]
            if blocks is not None:
                h, _ = blocks(h, None)
            activations.insert(0, h)
            if i > 0:
                h = average_pool(self.pool_blocks[i - 1](h), resolutions[i].size // resolutions[i - 1].size)
                wider = resolutions[i - 1].width - resolutions[i].width
                h = jnp.pad(h, ((0, 0), (0, 0), (0, 0), (0, wider)))
        return tuple(activations)

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
        if activations is not None:
            batch, dtype = activations[0].shape[0], activations[0].dtype
        elif shape is not None:
            batch, dtype = shape[0], settings.temperature.dtype
        else:
            raise ValueError("expected activations or the images' shape (B, H, W), got neither")
        first = self.config.first_levels
        states: list[Array] = []
        outputs: list[hierarchy.LevelOutputs] = []
        for i, (r, levels) in enumerate(zip(self.config.resolutions, self.levels, strict=True)):
            h = jnp.zeros((batch, r.size, r.size, r.width), dtype)
            if i < len(self.bias_maps):
                h = h + self.bias_maps[i][None]
            if i > 0:
                coarse = states[-1][..., : r.width]
                h = h + upsample(coarse, r.size // coarse.shape[1])
            activation = None if activations is None else activations[i]
            inputs = settings.inputs(i, first[i], first[i], first[i + 1])
            h, output = hierarchy.run_levels(levels, h, activation, settings, inputs)
            states.append(h)
            outputs.append(output)
        return hierarchy.join(states, outputs)

    def decode(self, features: Float[Array, "B H W D"]) -> LogisticMixtureDecoder:
        """The decoder's distribution of images in [-1, 1]."""
        parameters = self.output_conv(features * self.gain[None, None, None] + self.bias[None, None, None])
        return LogisticMixtureDecoder.of(parameters, self.config.channels)

    def __call__(
        self, image: Float[Array, "B H W C"], settings: Pass, noise_level: Array | None = None
    ) -> tuple[LogisticMixtureDecoder, TopDown]:
        """Encode, pass and decode."""
        result = self.top_down(self.bottom_up(image, noise_level), settings)
        return self.decode(result.features), result

    def initialize(self, key: Array) -> dict[str, Any]:
        """Random parameters."""
        config = self.config
        image = jnp.zeros((1, config.image_size, config.image_size, config.channels))
        settings = Pass(hierarchy.tempered_map, jnp.ones((1, config.levels)), jnp.ones((1,)))
        return self.init(key, image, settings)["params"]

    def to_network(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Images in [0, 1] to the network's standardized ones."""
        config = self.config
        levels = jnp.clip(config.input_levels * image, 0, config.input_limit)
        return (levels + config.input_shift) * config.input_scale

    def to_image(self, decoder: LogisticMixtureDecoder) -> GaussianDecoder:
        """Mean and deviation of the decoder's distribution in the images' unit, the mean clipped to [0, 1]."""
        config = self.config
        mean = (decoder.mean + 1) / 2 + config.mean_shift
        variance = decoder.variance / 4
        if config.variance_range is not None:
            variance = jnp.clip(variance, *config.variance_range)
        return GaussianDecoder(jnp.clip(mean, 0, 1), jnp.sqrt(variance))
