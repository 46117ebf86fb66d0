"""`hvae-jax sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import hvae_jax as hj
from hvae_jax.cli.shared import OverwriteOption, PriorOption, load_prior, parse_temperature
from hvae_jax.progress import progress_bar

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    import numpy as np


def sample(
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="A file for all images side by side, or a folder for a file each.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 4,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Height and width in pixels (default: 128x128, or the prior's).")
    ] = None,
    temperature: Annotated[
        str, typer.Option(metavar="T|COARSEST,FINEST", help="As in restore, but it may be above 1.")
    ] = "1",
    seed: Annotated[int, typer.Option(min=0, help="Seed; image i of a seed does not depend on the count.")] = 0,
    prior: PriorOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw images from a prior, to see what it knows."""
    sides = None if size is None else [int(s) if s.isdecimal() else 0 for s in size.lower().split("x")]
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        raise ValueError(f"expected --size HxW in pixels, as in 128x192, got {size}")
    one_file = bool(out.suffix) and not out.is_dir()
    digits = max(len(str(count - 1)), 3)
    results = [out] if one_file else [out / f"sample-{i:0{digits}}.png" for i in range(count)]
    for result in results:
        hj.images.check_writable(result, overwrite)

    import jax
    import numpy as np

    model = load_prior(prior)
    tau = parse_temperature(temperature, model.levels)
    height, width = sides or (model.image_size or 128,) * 2
    if model.image_size and (height, width) != (model.image_size, model.image_size):
        raise ValueError(
            f"expected --size {model.image_size}x{model.image_size}, the only one of this prior, got {size}"
        )
    # Drawn in a size that the prior takes, then cut.
    shape = (1, height + -height % model.multiple, width + -width % model.multiple, model.config.channels)
    drawn = []
    with progress_bar() as progress:
        bar = progress.add_task("sampling", total=count)
        for i in range(count):
            key = jax.random.fold_in(jax.random.key(seed), i)
            drawn.append(np.asarray(hj.sample(model, key, shape, temperature=tau))[0, :height, :width])
            progress.advance(bar)
    pictures = [grid(drawn)] if one_file else drawn
    for result, picture in zip(results, pictures, strict=True):
        hj.images.write_image(result, picture, overwrite=overwrite)
    typer.echo(f"{out}: {count} images of {height}x{width} pixels")


def grid(pictures: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures of one size in rows, about as many as columns, on white."""
    import numpy as np

    height, width, channels = pictures[0].shape
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    grid = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid
