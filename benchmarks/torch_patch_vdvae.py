"""PatchVDVAE in plain PyTorch, with a prior's weights: what `benchmarks pytorch` compares speeds with.

Modules as one would write them in PyTorch: NCHW convolutions, pixel (un)shuffle, one module a level.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvae_jax.models.patch_vdvae import PatchVDVAEConfig, Resolution

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}
Arrays = Mapping[str, Any]


def conv(arrays: Arrays) -> nn.Conv2d:
    """A convolution with the weights of one of ours; 1x1 where ours is a matrix product."""
    kernel = np.array(arrays["kernel"], np.float32)
    kernel = kernel[None, None] if kernel.ndim == 2 else kernel
    side, _, inputs, outputs = kernel.shape
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    layer.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    layer.bias.data = torch.from_numpy(np.array(arrays["bias"], np.float32))
    return layer


def shuffled(arrays: Arrays, factor: int, axis: int, channels: int) -> Arrays:
    """Weights whose channels along an axis are ordered as PyTorch's pixel shuffle has them, channel before cell."""
    cells = factor * factor * channels
    order = np.arange(cells).reshape(factor * factor, channels).T.ravel()
    kernel = np.array(arrays["kernel"])
    order = np.concatenate([order, np.arange(cells, kernel.shape[axis])])  # the noise level stays the last
    bias = np.array(arrays["bias"])
    return {"kernel": np.take(kernel, order, axis), "bias": bias[order] if axis in (-1, kernel.ndim - 1) else bias}


def layer(stacked: Arrays, index: int) -> dict[str, Any]:
    """The arrays of one of the layers that a scan has stacked."""
    return {key: layer(value, index) if isinstance(value, Mapping) else value[index] for key, value in stacked.items()}


class Bottleneck(nn.Module):
    """1x1 → k x k → k x k → 1x1, an activation before each."""

    def __init__(self, arrays: Arrays, activation: str, residual: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(arrays[f"conv_{i}"]) for i in range(4))
        self.activation, self.residual = ACTIVATIONS[activation], residual

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for one in self.convs:
            h = one(self.activation(h))
        return x + h if self.residual else h


def gaussian(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation."""
    mean, std = statistics.chunk(2, 1)
    return mean, F.softplus(std, beta=math.log(2))


class Level(nn.Module):
    """A level, its latent the maximum of q p^λ (eq. 18)."""

    def __init__(self, arrays: Arrays, resolution: Resolution, activation: str) -> None:
        super().__init__()
        if resolution.deterministic:
            raise ValueError("expected an architecture without deterministic blocks")
        self.first = "prior_net" not in arrays
        if not self.first:
            self.prior_net = Bottleneck(arrays["prior_net"], activation, residual=False)
            self.prior_projection = conv(arrays["prior_projection"])
        else:
            mean, std = (torch.from_numpy(np.array(arrays[name], np.float32)) for name in ("mean", "std"))
            self.register_buffer("mean", mean[None, :, None, None])
            self.register_buffer("std", std[None, :, None, None])
        self.posterior_net = Bottleneck(arrays["posterior_net"], activation, residual=False)
        self.posterior_projection = conv(arrays["posterior_projection"])
        self.z_projection = conv(arrays["z_projection"])
        self.residual_block = Bottleneck(arrays["residual_block"], activation, residual=True)

    def forward(self, h: Tensor | None, skip: Tensor, strength: float) -> Tensor:
        seen = skip if h is None else torch.cat([h, skip], 1)
        q_mean, q_std = gaussian(self.posterior_projection(self.posterior_net(seen)))
        if h is None:
            p_mean, p_std, state = self.mean, self.std, 0
        else:
            features, prior = self.prior_net(h).chunk(2, 1)
            (p_mean, p_std), state = gaussian(self.prior_projection(prior)), h + features
        q_precision, p_precision = q_std**-2, strength * p_std**-2
        z = (q_precision * q_mean + p_precision * p_mean) / (q_precision + p_precision)
        return self.residual_block(state + self.z_projection(z))


class TorchPatchVDVAE(nn.Module):
    """HVAE(x, τ) of Proposition 1.

    Args:
        config: the architecture.
        arrays: the prior's parameters.
        temperature: τ.
        noise_level: of a noise-conditional model, in the images' unit.
    """

    def __init__(
        self, config: PatchVDVAEConfig, arrays: Arrays, temperature: float, noise_level: float | None = None
    ) -> None:
        super().__init__()
        self.config, self.strength, self.noise_level = config, 1 / temperature**2 - 1, noise_level
        factor, resolutions, activation = config.space_to_depth, config.resolutions, config.activation
        self.input_conv = conv(shuffled(arrays["input_conv"], factor, -2, config.channels))
        self.encoders = nn.ModuleList(
            nn.Sequential(
                *(
                    Bottleneck(layer(arrays[f"encode_blocks_{i}"], n), activation, residual=True)
                    for n in range(r.encoder_blocks)
                )
            )
            for i, r in enumerate(resolutions)
        )
        self.skips = nn.ModuleList(conv(arrays[f"skip_projections_{i}"]) for i in range(len(resolutions)))
        self.pools = nn.ModuleList()
        for i, r in enumerate(resolutions[1:]):
            one = arrays[f"pools_{i}"]["conv"]
            kernel = np.array(one["kernel"]).reshape(r.stride, r.stride, r.encoder_width, -1)
            pool = conv({"kernel": kernel, "bias": one["bias"]})
            pool.stride, pool.padding = (r.stride, r.stride), (0, 0)
            self.pools.append(pool)
        self.levels = nn.ModuleList()
        for i, r in enumerate(resolutions):
            here = [arrays["first_level"]] if i == 0 else []
            here += [layer(arrays[f"levels_{i}"], n) for n in range(r.levels - (i == 0))]
            self.levels.append(nn.ModuleList(Level(one, r, activation) for one in here))
        self.unpools = nn.ModuleList(conv(arrays[f"unpools_{i}"]["conv"]) for i in range(len(resolutions) - 1))
        self.biases = nn.ParameterList(
            torch.from_numpy(np.array(arrays[f"unpools_{i}"]["scale_bias"], np.float32))[None, :, None, None]
            for i in range(len(resolutions) - 1)
        )
        self.output_conv = conv(shuffled(arrays["output_conv"], factor, -1, 2 * config.channels))

    def forward(self, x: Tensor) -> Tensor:
        """The decoded mean in [0, 1] of images (B, C, H, W)."""
        config, count = self.config, len(self.config.resolutions)
        x = x.clamp(0, 1) if config.clip_input else x
        h = F.pixel_unshuffle(2 * x - 1, config.space_to_depth)
        if config.noise_conditional:
            level = torch.full_like(h[:, :1], 2 * (self.noise_level or 0))
            h = torch.cat([h, level], 1)
        h = self.input_conv(h)
        skips: list[Tensor] = [h] * count
        for i in reversed(range(count)):
            h = self.encoders[i](h)
            skips[i] = self.skips[i](h)
            if i > 0:
                h = F.leaky_relu(self.pools[i - 1](h), 0.1)
        state: Tensor | None = None
        for i, levels in enumerate(self.levels):
            if state is not None:
                state = F.leaky_relu(self.unpools[i - 1](state), 0.1)
                state = F.interpolate(state, scale_factor=config.resolutions[i].stride) + self.biases[i - 1]
            for one in levels:
                state = one(state, skips[i], self.strength)
        out = F.pixel_shuffle(self.output_conv(state), config.space_to_depth)
        return ((out[:, : config.channels] + 1) / 2).clamp(0, 1)
