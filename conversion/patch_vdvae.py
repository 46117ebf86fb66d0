"""PatchVDVAE: from the official PyTorch state dict and training configuration to Flax."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from conversion.mapping import Target, assemble
from hvae_jax.models.patch_vdvae import PatchVDVAE, PatchVDVAEConfig, Resolution


def config_from_official(official: Mapping[str, Any]) -> PatchVDVAEConfig:
    """The architecture that an official training configuration describes.

    Args:
        official: the JSON file's `model` section; its `up_*` lists run from fine to coarse.

    Returns:
        The configuration.
    """
    coarsest_first = {key: value[::-1] for key, value in official.items() if key.startswith("up_")}
    widths = [official["input_conv_filters"], *official["up_filters"][:-1]][::-1]
    down = official["down_filters"]
    return PatchVDVAEConfig(
        resolutions=tuple(
            Resolution(
                stride=official["down_strides"][i],
                levels=1 + official["down_n_blocks_per_res"][i],
                width=down[i],
                bottleneck=int(down[i] * official["down_mid_filters_ratio"][i]),
                # the posterior block of the reference is half as wide relative to its input
                posterior_bottleneck=int(
                    (down[i] + coarsest_first["up_skip_filters"][i]) * official["down_mid_filters_ratio"][i] / 2
                ),
                latent_channels=official["down_latent_variates"][i],
                encoder_width=widths[i],
                encoder_bottleneck=int(widths[i] * coarsest_first["up_mid_filters_ratio"][i]),
                encoder_blocks=coarsest_first["up_n_blocks"][i],
                skip_width=coarsest_first["up_skip_filters"][i],
                kernel_size=official["down_kernel_size"][i],
            )
            for i in range(len(down))
        ),
        first_posterior_bottleneck=int(coarsest_first["up_skip_filters"][0] * official["down_mid_filters_ratio"][0]),
        input_kernel=official["input_kernel_size"][0],
        output_kernel=official["output_kernel_size"][0],
    )


def targets(config: PatchVDVAEConfig) -> dict[str, Target]:
    """Every tensor of the official state dict and where it goes.

    Args:
        config: the architecture.

    Returns:
        PyTorch names to places in the tree of `PatchVDVAE`'s parameters.
    """
    return dict(_targets(config))


def _targets(config: PatchVDVAEConfig) -> Iterator[tuple[str, Target]]:
    count = len(config.resolutions)
    yield from _conv("bottom_up.input_conv", ("input_conv",))
    yield from _conv("top_down.output_conv", ("output_conv",))
    for i, resolution in enumerate(config.resolutions):
        up = f"bottom_up.levels_up_downsample.{count - 1 - i}"
        for j in range(resolution.encoder_blocks):
            yield from _bottleneck(f"{up}.residual_block.{j}", (f"encode_blocks_{i}",), j)
        yield from _conv(f"{up}.skip_projection", (f"skip_projections_{i}",))
        if i > 0:
            yield from _conv(f"{up}.pool.ops.0", (f"pools_{i - 1}", "conv"))
        first = f"top_down.levels_down_upsample.{i}"
        if i == 0:
            yield from _level(first, ("first_level",), None)
            yield f"{first}.prior_layer.mean", Target(("first_level", "mean"))
            yield f"{first}.prior_layer.std", Target(("first_level", "std"))
        else:
            yield from _conv(f"{first}.unpool.ops.0", (f"unpools_{i - 1}", "conv"))
            yield f"{first}.unpool.scale_bias", Target((f"unpools_{i - 1}", "scale_bias"))
            yield from _scanned_level(first, i, 0)
        for j in range(1, resolution.levels):
            yield from _scanned_level(f"top_down.levels_down.{i}.{j - 1}", i, j - (i == 0))


def _scanned_level(source: str, resolution: int, index: int) -> Iterator[tuple[str, Target]]:
    path = (f"levels_{resolution}",)
    yield from _level(source, path, index)
    yield from _bottleneck(f"{source}.prior_net.0", (*path, "prior_net"), index)
    yield from _conv(f"{source}.prior_layer.projection", (*path, "prior_projection"), index)


def _level(source: str, path: tuple[str, ...], index: int | None) -> Iterator[tuple[str, Target]]:
    yield from _bottleneck(f"{source}.residual_block.0", (*path, "residual_block"), index)
    yield from _bottleneck(f"{source}.posterior_net.0", (*path, "posterior_net"), index)
    yield from _conv(f"{source}.posterior_layer.projection", (*path, "posterior_projection"), index)
    yield from _conv(f"{source}.z_projection", (*path, "z_projection"), index)


def _bottleneck(source: str, path: tuple[str, ...], index: int | None) -> Iterator[tuple[str, Target]]:
    for k in range(4):
        yield from _conv(f"{source}.convs.{2 * k + 1}", (*path, f"conv_{k}"), index)


def _conv(source: str, path: tuple[str, ...], index: int | None = None) -> Iterator[tuple[str, Target]]:
    yield f"{source}.weight", Target((*path, "kernel"), index)
    yield f"{source}.bias", Target((*path, "bias"), index)


def params_from_state_dict(config: PatchVDVAEConfig, state: Mapping[str, np.ndarray]) -> dict:
    """The Flax parameters that a PyTorch state dict holds.

    Args:
        config: the architecture.
        state: PyTorch names to arrays.

    Returns:
        The parameter tree, of NumPy arrays.

    Raises:
        ValueError: the state dict does not fit the architecture; everything that differs is listed.
    """
    model = PatchVDVAE(config)
    template = jax.eval_shape(model.initialize, jax.random.key(0))
    return assemble(state, targets(config), template)
