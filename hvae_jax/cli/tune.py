"""`hvae-jax tune`."""

from pathlib import Path
from typing import Annotated

import typer

import hvae_jax as hj
from hvae_jax.cli.shared import parse_numbers, settings_table
from hvae_jax.progress import progress_bar


def tune(
    prior: Annotated[Path, typer.Option(metavar="DIR", help="The prior's folder, whose prior.json is replaced.")],
    images: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER|LIST",
            help="Photographs that the prior was not trained on: a folder, or a text file (.txt) of paths, one a line, "
            "relative to the folder above its own.",
        ),
    ],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Take the first N photographs.")] = 6,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side in pixels of the square that is cut from the middle of each (default: 176, or the only size "
            "that the prior takes).",
        ),
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="TASK,TASK", help="For which tasks; the settings of others stay as they are.")
    ] = "deblur,sr,inpaint,denoise",
    noise_std: Annotated[
        str,
        typer.Option(metavar="S,S", help="For which noise: standard deviations in grey levels of 255, increasing."),
    ] = "2.55,7.65,12.75,25.5",
    kernels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Blur kernels of deblur: an .npz file, of which k4, k9, k7 and k11 (the paper's) are taken if it has "
            "them, else all (default: two Gaussian and two motion blurs).",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of each search; more are finer.")] = 2,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Restorations at a time; an accelerator has room for more.")
    ] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of masks and noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where all that was measured is kept, to go on after an interruption (default: beside the prior's "
            "folder, with -tuning added to its name). It may be deleted afterwards.",
        ),
    ] = None,
) -> int:
    """Choose the settings that a prior recommends for each task and noise level, and write them into its prior.json.

    It restores photographs that it has degraded itself, with many settings: 20 searches, of two to three minutes each
    on two CPU cores. Stop it with Ctrl-C at any time: the same command goes on where it was. prior.json is written
    once, at the end.
    """
    if not (prior / "prior.json").is_file():
        raise ValueError(f"expected the folder of a prior, whose prior.json is to be written, got {prior}")
    noise_levels = parse_numbers("--noise-std", noise_std)

    from rich.console import Console

    from hvae_jax import tuning

    prior = prior.resolve()
    model = hj.load_prior(prior)
    squares = hj.images.read_squares(images, size or model.image_size or 176, count)
    folder = prior.with_name(f"{prior.name}-tuning") if out is None else out
    with progress_bar() as progress:
        bar = progress.add_task("tuning", total=None)
        try:
            tables = tuning.tune(
                model,
                squares,
                folder,
                tasks=tasks.split(","),
                noise_levels=noise_levels,
                kernels=tuning.tuning_kernels(kernels),
                seed=seed,
                batch=batch,
                rounds=rounds,
                progress=lambda done, total, words: progress.update(
                    bar, completed=done, total=total, description=words
                ),
            )
        except KeyboardInterrupt:
            typer.echo(f"stopped; what was measured is kept in {folder}, and the same command goes on", err=True)
            return 130
    tuning.write_settings(prior, model, tables, squares.source)
    console = Console(markup=False)
    for task, rows in tables.items():
        console.print(settings_table(task, rows))
    typer.echo(f"{prior / 'prior.json'}: settings for {', '.join(tables)}, measured on {squares.source}")
    return 0
