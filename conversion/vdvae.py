"""VDVAE: OpenAI's hyperparameters, the architecture that a state dict is of, and where its tensors go."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from conversion.mapping import CONV, Layout, Names, Rule, count_indices, nest
from hvae_jax.models.vdvae import PRESETS, Resolution, VDVAEConfig

BOTTLENECK = nest({f"c{k + 1}": f"conv_{k}" for k in range(4)}, CONV)
LEVEL: Names = {
    **nest({"prior": "prior_net", "enc": "posterior_net", "resnet": "residual_block"}, BOTTLENECK),
    **nest({"z_proj": "z_projection"}, CONV),
}

DATASETS = {
    "cifar10": "cifar10",
    "imagenet32": "imagenet32",
    "imagenet64": "imagenet64",
    "ffhq_256": "ffhq256",
    "ffhq_1024": "ffhq1024",
}
"""OpenAI's names of the datasets, whose images each model takes as its preset does."""


def rules(config: VDVAEConfig) -> Iterator[Rule]:
    """Where the tensors of the official state dict go.

    Args:
        config: the architecture.

    Yields:
        The rules; each tensor is named by one.
    """
    yield Rule("encoder.in_conv", "input_conv")
    yield Rule("decoder", "", {"gain": "gain", "bias": "bias"})
    yield Rule("decoder.out_net.out_conv", "output_conv")
    block = 0
    for i, resolution in reversed(list(enumerate(config.resolutions))):  # numbered from fine to coarse
        blocks = [f"encoder.enc_blocks.{block + j}" for j in range(resolution.encoder_blocks)]
        yield Rule(blocks, f"encode_blocks_{i}", BOTTLENECK)
        block += len(blocks)
        if i > 0:
            yield Rule(f"encoder.enc_blocks.{block}", f"pool_blocks_{i - 1}", BOTTLENECK)
            block += 1
    first = config.first_levels
    for i, resolution in enumerate(config.resolutions):
        levels = [f"decoder.dec_blocks.{j}" for j in range(first[i], first[i + 1])]
        yield Rule(levels, f"levels_{i}", LEVEL)
        if resolution.size <= config.no_bias_above:
            yield Rule("decoder.bias_xs", "", {str(i): f"bias_map_{i}"})


def infer(shapes: Mapping[str, tuple[int, ...]], preset: VDVAEConfig | None) -> VDVAEConfig:
    """The architecture that the names and shapes of a state dict tell, where they differ from a preset's.

    They do not tell at which resolution a block stands, as the blocks are numbered through; only the number of
    those at the coarsest can be told if the preset is right about all others.

    Args:
        shapes: of its tensors.
        preset: the architecture that it is expected to be.

    Returns:
        The preset with what the file says of the coarsest resolution's encoder, the latent channels, the mixture
        and the bias maps.

    Raises:
        ValueError: there is no preset.
    """
    if preset is None:
        raise ValueError(
            f"this VDVAE has {levels_in(shapes)} levels, as none of the presets "
            f"{ {name: known.levels for name, known in PRESETS.items()} }; give its hyperparameters as --preset "
            "FILE.json (width, enc_blocks, dec_blocks and the others in OpenAI's words)"
        )
    coarsest, *others = preset.resolutions
    blocks = count_indices(shapes, "encoder.enc_blocks.") - sum(r.encoder_blocks + 1 for r in others)
    biased = count_indices(shapes, "decoder.bias_xs.")

    def size(name: str, axis: int, default: int) -> int:
        return shapes[name][axis] if len(shapes.get(name, ())) == 4 else default

    mixtures = size("decoder.out_net.out_conv.weight", 0, 10 * preset.mixtures) / 10
    return dataclasses.replace(
        preset,
        resolutions=(dataclasses.replace(coarsest, encoder_blocks=max(blocks, 0)), *others),
        latent_channels=size("decoder.dec_blocks.0.z_proj.weight", 1, preset.latent_channels),
        mixtures=int(mixtures),
        no_bias_above=preset.no_bias_above
        if biased == sum(r.size <= preset.no_bias_above for r in preset.resolutions)
        else max((r.size for r in preset.resolutions[:biased]), default=0),
    )


def detect(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The preset with as many levels as a state dict has; all of them differ in that."""
    return next((name for name, config in PRESETS.items() if config.levels == levels_in(shapes)), None)


def levels_in(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many levels a state dict has."""
    return count_indices(shapes, "decoder.dec_blocks.")


def parse(hyperparameters: Mapping[str, Any]) -> VDVAEConfig:
    """The architecture that OpenAI's hyperparameters describe.

    Args:
        hyperparameters: `dataset`, a key of `DATASETS`, whose images the model takes as its preset does; `width`;
            `enc_blocks` and `dec_blocks`, strings such as "4x2,4d4,1x2" and "1x1,4m1,4x2"; and, where they are not
            the usual ones, `custom_width_str`, `zdim`, `bottleneck_multiple`, `num_mixtures`, `image_channels`,
            `no_bias_above`, `shift` and `scale`.

    Returns:
        The configuration.

    Raises:
        ValueError: one is missing or has no meaning.
    """
    if missing := [name for name in ("dataset", "width", "enc_blocks", "dec_blocks") if name not in hyperparameters]:
        raise ValueError(f"expected the hyperparameters of a VDVAE, but these are missing: {', '.join(missing)}")
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    if given["dataset"] not in DATASETS:
        raise ValueError(f"expected a dataset of {sorted(DATASETS)}, got {given['dataset']!r}")
    preset = PRESETS[DATASETS[given["dataset"]]]
    widths = _widths(given.get("custom_width_str", ""))
    encoder = _blocks(given["enc_blocks"], "xd")
    decoder = _blocks(given["dec_blocks"], "xm")
    sizes = sorted(decoder)
    resolutions = tuple(
        Resolution(
            size=size,
            levels=decoder[size]["x"] + (size > sizes[0]),
            encoder_blocks=encoder.get(size, {"x": 0})["x"],
            width=widths.get(size, given["width"]),
        )
        for size in sizes
    )
    if _layer_strings(resolutions) != (encoder, decoder):
        raise ValueError(
            "expected enc_blocks that end each resolution but the coarsest by pooling to the next, and dec_blocks "
            f"that begin it by mixing in the coarser, got {given['enc_blocks']!r} and {given['dec_blocks']!r}"
        )
    return dataclasses.replace(
        preset,
        resolutions=resolutions,
        input_shift=given.get("shift", preset.input_shift),
        input_scale=given.get("scale", preset.input_scale),
        channels=given.get("image_channels", 3),
        latent_channels=given.get("zdim", 16),
        bottleneck_ratio=given.get("bottleneck_multiple", 0.25),
        mixtures=given.get("num_mixtures", 10),
        no_bias_above=given.get("no_bias_above", 64),
    )


_Layers = dict[int, dict[str, int]]
"""Per resolution: the number of plain blocks as x, and as d or m the factor or resolution of the special one."""


def _blocks(text: str, kinds: str) -> _Layers:
    """Read a layer string: RxN is N blocks at resolution R, RdK pools by K after a block, RmS mixes S in before one."""
    layers: _Layers = {}
    for part in text.split(","):
        if not (match := re.fullmatch(rf"(\d+)([{kinds}])(\d+)", part.strip())):
            raise ValueError(f"expected blocks such as 4x2 or 4{kinds[1]}1, got {part!r} in {text!r}")
        size, kind, number = int(match[1]), match[2], int(match[3])
        layer = layers.setdefault(size, {"x": 0})
        if kind != "x" and kind in layer:
            raise ValueError(f"expected one {size}{kind}, got two in {text!r}")
        layer[kind] = number if kind != "x" else layer["x"] + number
    return layers


def _layer_strings(resolutions: tuple[Resolution, ...]) -> tuple[_Layers, _Layers]:
    """What `_blocks` reads from the strings of these resolutions."""
    encoder: _Layers = {}
    decoder: _Layers = {}
    for i, r in enumerate(resolutions):
        encoder[r.size], decoder[r.size] = {"x": r.encoder_blocks}, {"x": r.levels - (i > 0)}
        if i > 0:
            encoder[r.size]["d"], decoder[r.size]["m"] = r.size // resolutions[i - 1].size, resolutions[i - 1].size
    return encoder, decoder


def _widths(text: str) -> dict[int, int]:
    """Read "512:32,256:64": widths by resolution."""
    if not re.fullmatch(r"(\d+:\d+(,\d+:\d+)*)?", text):
        raise ValueError(f"expected custom_width_str such as 512:32,256:64, got {text!r}")
    return {int(size): int(width) for size, width in (pair.split(":") for pair in text.split(",") if pair)}


LAYOUT = Layout(
    prefix="decoder.dec_blocks.",
    presets=PRESETS,
    rules=rules,
    detect=detect,
    infer=infer,
    experiments={
        "default": ("face-deblurring",),
        "sr": ("face-super-resolution",),
        "inpaint": ("face-inpainting",),
    },
    parse=parse,
)
