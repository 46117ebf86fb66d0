"""Architectures of PatchVDVAE by name: the paper's, and those that are trained here."""

import dataclasses
from typing import Any

from hvae_jax.models.patch_vdvae import PatchVDVAEConfig, Resolution


def _official(deterministic: int, shrink: int = 1) -> PatchVDVAEConfig:
    """The official model, or its Table 4 variant with `deterministic` of each 1 + deterministic blocks.

    `shrink` divides all channels but the latents'.
    """
    levels = 6 // (1 + deterministic)
    common: dict[str, Any] = {
        "levels": levels,
        "width": 256 // shrink,
        "bottleneck": 64 // shrink,
        "posterior_bottleneck": 40 // shrink,
        "latent_channels": 16,
        "encoder_blocks": 5,
        "skip_width": 64 // shrink,
        "deterministic": deterministic,
    }
    coarse: dict[str, Any] = {"encoder_width": 256 // shrink, "encoder_bottleneck": 64 // shrink, **common}
    fine: dict[str, Any] = {"encoder_width": 128 // shrink, "encoder_bottleneck": 32 // shrink, **common}
    # Widths that keep the parameters of a deterministic block nearest to those of a stochastic one.
    at_1x1, at_3x3 = ({"deterministic_bottleneck": width if deterministic else 0} for width in _DETERMINISTIC[shrink])
    return PatchVDVAEConfig(
        resolutions=(
            Resolution(stride=1, kernel_size=1, **at_1x1, **coarse),
            Resolution(stride=4, **at_3x3, **coarse),
            Resolution(stride=2, **at_3x3, **coarse),
            Resolution(stride=2, **at_3x3, **coarse),
            Resolution(stride=2, **at_3x3, **coarse),
            Resolution(stride=2, **at_3x3, **fine),
        ),
        first_posterior_bottleneck=16 // shrink,
    )


_DETERMINISTIC = {1: (96, 79), 4: (32, 22)}
"""Inner channels of the deterministic bottlenecks at 1x1 and 3x3 kernels, by `shrink`."""


def _table4_small(deterministic: int) -> PatchVDVAEConfig:
    """A variant of Table 4 that two CPU cores can train: narrow, at half resolution, with a short encoder."""
    config = _official(deterministic, shrink=4)
    resolutions = tuple(dataclasses.replace(r, encoder_blocks=2, stride=min(r.stride, 2)) for r in config.resolutions)
    return dataclasses.replace(config, resolutions=resolutions, space_to_depth=2)


def _conditional(
    levels: tuple[int, ...],
    coarse: tuple[int, int],
    finest: tuple[int, int],
    encoder_blocks: tuple[int, ...],
    deterministic: int = 0,
) -> PatchVDVAEConfig:
    """A noise-conditional model for restoration, finest latents at half resolution.

    `levels` and `encoder_blocks` of each resolution, coarsest first; (width, bottleneck) of the `coarse` ones and of
    the `finest`; `deterministic` pairs of blocks after each of the finest levels.
    """

    def resolution(index: int) -> Resolution:
        is_finest = index == len(levels) - 1
        width, bottleneck = finest if is_finest else coarse
        return Resolution(
            stride=2 if index else 1,
            levels=levels[index],
            width=width,
            bottleneck=bottleneck,
            posterior_bottleneck=bottleneck,
            latent_channels=24 if is_finest else 16,
            encoder_width=width,
            encoder_bottleneck=bottleneck,
            encoder_blocks=encoder_blocks[index],
            skip_width=width,
            deterministic=deterministic if is_finest else 0,
            deterministic_bottleneck=bottleneck if deterministic and is_finest else 0,
        )

    return PatchVDVAEConfig(
        resolutions=tuple(resolution(i) for i in range(len(levels))),
        activation="relu",
        space_to_depth=2,
        noise_conditional=True,
        clip_input=False,
        input_kernel=3,
        output_kernel=3,
        first_posterior_bottleneck=coarse[1],
        auxiliary_heads=True,
    )


PRESETS: dict[str, PatchVDVAEConfig] = {
    "official": _official(deterministic=0),
    "table4-l6": _official(deterministic=5),
    "table4-l12": _official(deterministic=2),
    "table4-l18": _official(deterministic=1),
    "table4-l36": _official(deterministic=0),
    "table4-small-l6": _table4_small(deterministic=5),
    "table4-small-l12": _table4_small(deterministic=2),
    "table4-small-l18": _table4_small(deterministic=1),
    "table4-small-l36": _table4_small(deterministic=0),
    "small": _conditional((1, 1, 2, 3), coarse=(64, 48), finest=(48, 32), encoder_blocks=(1, 1, 1, 1)),
    "small-deep": _conditional(
        (1, 1, 2, 3), coarse=(64, 48), finest=(48, 32), encoder_blocks=(1, 1, 2, 3), deterministic=1
    ),
    "medium": _conditional((1, 1, 2, 3), coarse=(96, 64), finest=(64, 64), encoder_blocks=(1, 1, 1, 2)),
    "base": _conditional((1, 2, 3, 5), coarse=(128, 80), finest=(96, 64), encoder_blocks=(2, 2, 2, 2)),
}
"""`official`: the paper's 36-group model; `table4-*`: Table 4's, small ones for two cores; `small`: the bundled.

`small-deep`: more residual blocks, and can start from `small`'s parameters; `medium`: twice as many parameters, in
widths whose convolutions XLA computes fastest on a CPU; `base`: five times as many, for an accelerator. A variant's
name ends in its number of levels.
"""
