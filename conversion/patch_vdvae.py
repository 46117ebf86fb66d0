"""PatchVDVAE: the architecture that an official state dict is of, and where its tensors go."""

from collections.abc import Iterator, Mapping

from conversion.mapping import CONV, Layout, Names, Rule, count_indices, nest
from hvae_jax.models.patch_vdvae import PatchVDVAEConfig, Resolution
from hvae_jax.models.patch_vdvae_presets import PRESETS

BOTTLENECK = nest({f"convs.{2 * k + 1}": f"conv_{k}" for k in range(4)}, CONV)
FIRST_LEVEL: Names = {
    **nest({"residual_block.0": "residual_block", "posterior_net.0": "posterior_net"}, BOTTLENECK),
    **nest({"posterior_layer.projection": "posterior_projection", "z_projection": "z_projection"}, CONV),
}
LEVEL: Names = {
    **FIRST_LEVEL,
    **nest({"prior_net.0": "prior_net"}, BOTTLENECK),
    **nest({"prior_layer.projection": "prior_projection"}, CONV),
}


def rules(config: PatchVDVAEConfig) -> Iterator[Rule]:
    """Where the tensors of the official state dict go.

    Args:
        config: the architecture.

    Yields:
        The rules; each tensor is named by one.
    """
    count = len(config.resolutions)
    yield Rule("bottom_up.input_conv", "input_conv")
    yield Rule("top_down.output_conv", "output_conv")
    yield Rule("top_down.levels_down_upsample.0", "first_level", FIRST_LEVEL)
    yield Rule("top_down.levels_down_upsample.0.prior_layer", "first_level", {"mean": "mean", "std": "std"})
    for i, resolution in enumerate(config.resolutions):
        up = f"bottom_up.levels_up_downsample.{count - 1 - i}"  # numbered from fine to coarse
        blocks = [f"{up}.residual_block.{j}" for j in range(resolution.encoder_blocks)]
        yield Rule(blocks, f"encode_blocks_{i}", BOTTLENECK)
        yield Rule(f"{up}.skip_projection", f"skip_projections_{i}")
        levels = [f"top_down.levels_down.{i}.{j}" for j in range(resolution.levels - 1)]
        if i > 0:
            first = f"top_down.levels_down_upsample.{i}"
            yield Rule(f"{up}.pool.ops.0", f"pools_{i - 1}/conv")
            yield Rule(f"{first}.unpool.ops.0", f"unpools_{i - 1}/conv")
            yield Rule(f"{first}.unpool", f"unpools_{i - 1}", {"scale_bias": "scale_bias"})
            levels = [first, *levels]
        yield Rule(levels, f"levels_{i}", LEVEL)


def detect(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The preset whose architecture the names and shapes of a state dict tell."""
    config = infer(shapes)
    return next((name for name, known in PRESETS.items() if known == config), None)


def infer(shapes: Mapping[str, tuple[int, ...]], preset: PatchVDVAEConfig | None = None) -> PatchVDVAEConfig:
    """The architecture that the names and shapes of a state dict tell.

    Args:
        shapes: of its tensors.
        preset: without effect, as they tell all of it.

    Returns:
        The configuration, the rest of it as in the official models.

    Raises:
        ValueError: a tensor that tells it is missing.
    """

    def size(name: str, axis: int) -> int:
        if len(shapes.get(name, ())) != 4:
            raise ValueError(f"expected a 4-dimensional {name} in a PatchVDVAE, got {shapes.get(name, 'none')}")
        return shapes[name][axis]

    count = count_indices(shapes, "top_down.levels_down_upsample.")

    def resolution(i: int) -> Resolution:
        up, first = f"bottom_up.levels_up_downsample.{count - 1 - i}", f"top_down.levels_down_upsample.{i}"
        more = count_indices(shapes, f"top_down.levels_down.{i}.")
        posterior = f"top_down.levels_down.{i}.0" if i == 0 and more else first
        return Resolution(
            stride=size(f"{up}.pool.ops.0.weight", 2) if i > 0 else 1,
            levels=1 + more,
            width=size(f"{first}.residual_block.0.convs.7.weight", 0),
            bottleneck=size(f"{first}.residual_block.0.convs.1.weight", 0),
            posterior_bottleneck=size(f"{posterior}.posterior_net.0.convs.1.weight", 0),
            latent_channels=size(f"{first}.z_projection.weight", 1),
            encoder_width=size(f"{up}.residual_block.0.convs.7.weight", 0),
            encoder_bottleneck=size(f"{up}.residual_block.0.convs.1.weight", 0),
            encoder_blocks=count_indices(shapes, f"{up}.residual_block."),
            skip_width=size(f"{up}.skip_projection.weight", 0),
            kernel_size=size(f"{first}.residual_block.0.convs.3.weight", 2),
        )

    return PatchVDVAEConfig(
        resolutions=tuple(resolution(i) for i in range(count)),
        channels=size("bottom_up.input_conv.weight", 1),
        input_kernel=size("bottom_up.input_conv.weight", 2),
        output_kernel=size("top_down.output_conv.weight", 2),
        first_posterior_bottleneck=size("top_down.levels_down_upsample.0.posterior_net.0.convs.1.weight", 0),
    )


DEBLURRING = ("bsd-deblurring-2.55", "bsd-deblurring-7.65", "bsd-deblurring-12.75")
LAYOUT = Layout(
    prefix="top_down.levels_down_upsample.",
    presets=PRESETS,
    rules=rules,
    detect=detect,
    infer=infer,
    experiments={"default": DEBLURRING, "inpaint": ("bsd-inpainting",)},
)
