"""`hvae-jax degrade`."""

from pathlib import Path
from typing import Annotated

import typer

import hvae_jax as hj
from hvae_jax.cli.shared import (
    AlignOption,
    FactorOption,
    InvertMaskOption,
    KernelOption,
    MaskOption,
    OverwriteOption,
    TaskOption,
    check_output_file,
    parse_noise_std,
)


def degrade(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A clean image.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The observation. .npy and .tif keep it as float numbers, not clipped; .png and .jpg clip and round.",
        ),
    ],
    task: TaskOption,
    kernel: KernelOption = None,
    factor: FactorOption = None,
    align: AlignOption = "center",
    mask: MaskOption = None,
    invert_mask: InvertMaskOption = False,
    noise_std: Annotated[
        str, typer.Option(metavar="S", help="Standard deviation of the noise in grey levels of 255.")
    ] = "0",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    boundary: Annotated[
        str,
        typer.Option(
            metavar="natural|circular",
            help="circular: blur as if the image repeated itself. natural (deblur only): keep the part whose blur "
            "the image determines, smaller by the kernel's size less one.",
        ),
    ] = "circular",
    overwrite: OverwriteOption = False,
) -> None:
    """Make a simulated observation y = A x + noise from a clean image, to try the method on your own picture.

    Restore it with the same task, kernel, factor, mask and boundary.
    """
    sigma = parse_noise_std(noise_std)
    if sigma is None:
        raise ValueError("expected --noise-std as a number, got auto")
    check_output_file(out, source, overwrite)
    observed = None if mask is None else hj.images.read_mask(mask, invert=invert_mask)
    photo = hj.read_photograph(source)
    y = hj.degrade_photograph(
        photo,
        task,
        kernel=kernel,
        factor=factor,
        align=align,
        mask=observed,
        noise_std=sigma,
        boundary=boundary,
        seed=seed,
    )
    exact = out.suffix.lower() in (".npy", ".tif", ".tiff")
    hj.write_photograph(out, y._replace(bit_depth=32) if exact else y, overwrite=overwrite)
    typer.echo(f"{out}: {y.pixels.shape[0]}x{y.pixels.shape[1]} pixels")
