"""`hvae-jax tune`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import hvae_jax as hj
from hvae_jax.cli.shared import CompileCacheOption, parse_numbers, settings_table
from hvae_jax.compile_cache import use_compile_cache
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
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Fit the intervals of restore --uncertainty instead of the settings, and with these: do it after "
            "them, on more photographs.",
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Take the first N photographs (default: 6, or 32 with --calibrate).",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side in pixels of the square that is cut from the middle of each (default: 176, 96 with "
            "--calibrate, or the only size that the prior takes).",
        ),
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="TASK,TASK", help="For which tasks; the settings of others stay as they are.")
    ] = "deblur,sr,inpaint,denoise",
    noise_std: Annotated[
        str | None,
        typer.Option(
            metavar="S,S",
            help="For which noise: standard deviations in grey levels of 255, increasing (default: "
            "2.55,7.65,12.75,25.5; with --calibrate 1 and 50 too).",
        ),
    ] = None,
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
    compile_cache: CompileCacheOption = True,
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
    on two CPU cores. With --calibrate it fits how wide the intervals of restore --uncertainty are to be, in about as
    long. Stop it with Ctrl-C at any time: the same command goes on where it was. prior.json is written at the end.
    """
    if not (prior / "prior.json").is_file():
        raise ValueError(f"expected the folder of a prior, whose prior.json is to be written, got {prior}")
    use_compile_cache(compile_cache)
    given = None if noise_std is None else parse_numbers("--noise-std", noise_std)

    from rich.console import Console

    from hvae_jax import tuning

    prior = prior.resolve()
    model = hj.load_prior(prior)
    side = size or model.image_size or (96 if calibrate else 176)
    squares = hj.images.read_squares(images, side, count or (32 if calibrate else 6))
    folder = prior.with_name(f"{prior.name}-tuning") if out is None else out
    with progress_bar() as progress:
        bar = progress.add_task("tuning", total=None)
        try:
            work = tuning.calibrate if calibrate else partial(tuning.tune, rounds=rounds)
            usual = tuning.CALIBRATED_NOISE_LEVELS if calibrate else tuning.NOISE_LEVELS
            tables = work(
                model,
                squares,
                folder,
                tasks=tasks.split(","),
                noise_levels=given or usual,
                kernels=tuning.tuning_kernels(kernels),
                seed=seed,
                batch=batch,
                progress=lambda done, total, words: progress.update(
                    bar, completed=done, total=total, description=words
                ),
            )
        except KeyboardInterrupt:
            typer.echo(f"stopped; what was measured is kept in {folder}, and the same command goes on", err=True)
            return 130
    write = tuning.write_calibration if calibrate else tuning.write_settings
    write(prior, model, tables, squares.source)
    console = Console(markup=False)
    what = "Intervals" if calibrate else "Recommended settings"
    for task, rows in tables.items():
        console.print(settings_table(task, rows, what))
    typer.echo(
        f"{prior / 'prior.json'}: {what.split()[-1].lower()} for {', '.join(tables)}, measured on {squares.source}"
    )
    return 0
