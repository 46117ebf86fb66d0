"""`hvae-jax restore`."""

from __future__ import annotations

import importlib.metadata
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import hvae_jax as hj
from hvae_jax import folders
from hvae_jax.cli.reports import (
    WHITE_STD,
    Failures,
    Pictures,
    check_reference,
    check_turned,
    data_step_solver,
    digest,
    done_in_words,
    missing_in_words,
    one_of,
    plan_maps,
    quality_in_words,
    reference_of,
    write_map,
    write_standard_output,
)
from hvae_jax.cli.shared import (
    GREY_LEVELS,
    AlignOption,
    FactorOption,
    InvertMaskOption,
    KeepOriginOption,
    KernelOption,
    MaskOption,
    OverwriteOption,
    PriorOption,
    TaskOption,
    load_prior,
    parse_noise_std,
    parse_range,
    parse_temperature,
    scaled,
)
from hvae_jax.files import remove_strays
from hvae_jax.progress import progress_bar

MOST_NAMED = 5
"""Of the files that are skipped."""

SETTINGS = "Solver settings (default: what the prior recommends for the noise)"


def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Degraded images, or folders of them; - for standard input."),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="A file, for one image, or - for standard output (PNG); else a folder, where each image keeps its "
            "name (but .jpg becomes .png, so that the result is not compressed again).",
        ),
    ],
    task: TaskOption,
    kernel: KernelOption = None,
    factor: FactorOption = None,
    align: AlignOption = "center",
    keep_origin: KeepOriginOption = False,
    mask: MaskOption = None,
    invert_mask: InvertMaskOption = False,
    noise_std: Annotated[
        str,
        typer.Option(
            metavar="S|auto", help="Standard deviation of the noise in grey levels of 255; auto estimates it."
        ),
    ] = "auto",
    noise_gain: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="G",
            help="Of noise that grows with the light, as a sensor's: its variance is S^2 + G times the signal, in grey "
            "levels of 255.",
        ),
    ] = 0.0,
    value_range: Annotated[
        str,
        typer.Option(
            "--range",
            metavar="LOW,HIGH|auto",
            help="The values that are black and white in float images that are not in [0, 1]; the result has them too, "
            "and deviations are in 255ths of their distance.",
        ),
    ] = "auto",
    light: Annotated[
        str,
        typer.Option(
            metavar="display|linear",
            help="For deblur and sr: what was averaged, the file's samples, as most programs do, or the light itself, "
            "as a camera does. linear gains a little for the blur of a camera, and does harm to pictures that a "
            "program blurred.",
        ),
    ] = "display",
    boundary: Annotated[
        str,
        typer.Option(
            metavar="natural|circular",
            help="For deblur and sr. natural: the image was cut from a larger scene, as photographs are, and its "
            "borders are extended (for a prior of one size, where there is no room for that, what the kernel brings in "
            "at the borders is left to the prior). circular: it was blurred as if it repeated itself, as simulated "
            "data often is.",
        ),
    ] = "natural",
    prior: PriorOption = None,
    resize: Annotated[
        bool,
        typer.Option(
            "--resize",
            help="For a prior of one size, such as one of faces: cut the middle square out of the image (its mask and "
            "reference too) and scale it to fit. Kernel and noise are then those of the scaled image.",
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The clean image (or a folder of clean images with the inputs' names): prints PSNR and SSIM.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Folders with their sub-folders, which the results have too.")
    ] = False,
    pages: Annotated[
        bool, typer.Option("--pages", help="Restore each page of a TIFF file, into a file of its own.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Restore the others where one cannot be; it is named at the end, and the exit code is 1.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            help="For several images: leave out those whose results are there, made from the same files with the same "
            "settings.",
        ),
    ] = True,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out colour profile, EXIF, XMP, resolution and text of the input.")
    ] = False,
    uncertainty: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Also draw from the posterior, and write how far the draws differ at each pixel (their standard "
            f"deviation, averaged over the channels); PATH as for --out. White stands for {WHITE_STD} grey levels of "
            "255; .npy and .tif keep the numbers, 1 being 255 grey levels. Takes several times as long.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws for --uncertainty.")] = 0,
    quality: Annotated[
        str,
        typer.Option(
            metavar="fast|default|best",
            help="fast: half the iterations. best: each iteration is a mean over eight flips and turns of the image, "
            "for eight times the work and a little more quality.",
        ),
    ] = "default",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 where a result has a warning, too.")
    ] = False,
    overwrite: OverwriteOption = False,
    temperature: Annotated[
        str | None,
        typer.Option(
            metavar="T|COARSEST,FINEST",
            help="Temperature of the prior, above 0 and at most 1 (lower is smoother); two numbers change linearly "
            "from the coarsest to the finest level.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    decoder_std: Annotated[
        float | None,
        typer.Option(
            help="How far the result may be from what the prior decodes, in grey levels of 255 (larger trusts the "
            "image more). It is then the same in all iterations: a recommended annealing is switched off, and a "
            "noise-conditional prior is told the noise level that the recommended settings pair with this value.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    noise_level: Annotated[
        float | None,
        typer.Option(
            help="What a noise-conditional prior is told of the noise in each iteration's image, in grey levels of "
            "255, the same in all iterations.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest number of iterations; a recommended annealing is spread over them.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Stop when an iteration changes the image by less than this (root mean square, grey levels of 255).",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    data_step: Annotated[
        str | None,
        typer.Option(
            metavar="exact|cg", help="Solve the data step exactly or by conjugate gradient.", rich_help_panel=SETTINGS
        ),
    ] = None,
    cg_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Number of conjugate gradient steps, for --data-step cg.", rich_help_panel=SETTINGS),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            metavar="encode|image",
            help="Start from the encoded and decoded image, or the image itself.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    returns: Annotated[
        str | None,
        typer.Option(
            metavar="x|mean",
            help="The result: x, the last data step, or mean, what the prior decodes last.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
) -> int:
    """Restore degraded images of any size, grey or colour, 8 or 16 bit or float: PNG, JPEG, TIFF, WebP, NPY and others.

    The size is that of the input (FACTOR times it for sr); alpha, bit depth and metadata are kept. The first image of
    each size takes some seconds more, to compile. What did not fit (kernel, noise, lights brighter than white) is said
    in a sentence, and a picture that a restoration would harm is left as it was. An image whose iteration diverges is
    not written, and the exit code is then 1. A folder's command that was stopped goes on with what is missing.
    """
    sigma = parse_noise_std(noise_std)
    values = parse_range(value_range)
    one_of("--light", light, ("display", "linear"))
    plan = folders.plan(inputs, out, recursive=recursive, pages=pages)
    if plan.skipped:
        names = ", ".join(f"{file} (no such format)" for file in plan.skipped[:MOST_NAMED])
        more = ", ..." if len(plan.skipped) > MOST_NAMED else ""
        typer.echo(f"{len(plan.skipped)} file{'s' * (len(plan.skipped) > 1)} skipped: {names}{more}", err=True)
    maps = plan_maps(inputs, uncertainty, plan, recursive=recursive, pages=pages)

    import jax

    from hvae_jax import photographs

    # Kernel and mask are read once, for all pictures.
    observed = None if mask is None else hj.images.read_mask(mask, invert=invert_mask)
    degradation = photographs.Degradation.of(task, kernel, factor, observed, align, keep_origin)
    for note in degradation.notes:
        typer.echo(note, err=True)
    model = load_prior(prior)
    changes = {
        "temperature": None if temperature is None else parse_temperature(temperature, model.levels),
        "decoder_std": scaled("--decoder-std", decoder_std),
        "noise_level": scaled("--noise-level", noise_level),
        "stop": None if tolerance is None else hj.restoration.Residual(tolerance / GREY_LEVELS),
        "max_iterations": iterations,
        "data_step": data_step_solver(data_step, cg_steps),
        "initial": one_of("--initial", initial, ("encode", "image")),
        "returns": one_of("--returns", returns, ("x", "mean")),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    photographs.check_changes(model, changes)
    side = photographs.fitting_side(model, degradation.factor, resize)
    manifest = folders.Manifest(
        {
            "task": task,
            "kernel": digest(degradation.kernel),
            "mask": digest(degradation.mask),
            "prior": model.info.get("sha256") or model.digest,
            "settings": digest(model.info.get("settings")),
            "options": [factor, align, sigma, noise_gain, value_range, light, boundary, resize, quality, strip, seed],
            "more": [uncertainty is not None, *(f"{name}={digest(value)}" for name, value in sorted(changes.items()))],
            "version": importlib.metadata.version("hvae_jax"),
        }
    )
    jobs, done_before = [], 0
    for job, deviation_map in zip(plan.jobs, maps, strict=True):
        if plan.several and resume and not overwrite and manifest.done(job):
            done_before += 1
            continue
        for target in (job.result, deviation_map):
            if target is not None:
                hj.images.check_writable(target, overwrite)
        jobs.append((job, deviation_map))
    if done_before:
        typer.echo(
            f"{done_before} of {len(plan.jobs)} are done already (--no-resume or --overwrite restores them anew)"
        )
    pictures, failures = Pictures(), Failures(keep_going)
    for job, _ in jobs:  # the last file's mistake is known before the first is restored
        with failures.of(job):
            picture = pictures.read(job)
            if observed is not None:
                check_turned(picture, mask)
            fitted = photographs.fit(picture, side)
            shape = photographs.check(fitted, degradation.fitted(side), boundary, model, sigma)
            if (clean := reference_of(reference, job.file)) is not None:
                check_reference(clean, (*shape, picture.pixels.shape[-1]), side and side * degradation.factor)

    for folder in {job.result.parent for job, _ in jobs if job.result is not None}:
        remove_strays(folder)
    key = jax.random.key(seed) if uncertainty is not None else None
    say = partial(typer.echo, err=out == folders.STANDARD)
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(jobs))
        for job, deviation_map in jobs:
            if job in failures:
                continue
            progress.update(bar, description=f"restoring {job}")
            start = time.perf_counter()
            with failures.of(job):
                picture = pictures.read(job)
                done = photographs.restore_photograph(
                    picture,
                    task,
                    kernel=degradation.kernel,
                    factor=factor,
                    align="corner",  # the kernel has been moved already
                    mask=degradation.mask,
                    noise_std=sigma,
                    noise_gain=noise_gain / GREY_LEVELS,
                    value_range=values,
                    light=light,
                    boundary=boundary,
                    prior=model,
                    resize=resize,
                    uncertainty=key,
                    quality=quality,
                    **changes,
                )
                pictures.forget(job)
                seconds = time.perf_counter() - start
                progress.advance(bar)
                where = "standard output" if job.result is None else job.result
                if done.status is hj.Status.NOT_FINITE:
                    failures.add(job, f"the iteration diverged after {done.iterations} steps; {where} was not written")
                    continue
                result = done.image._replace(metadata=hj.images.Metadata()) if strip else done.image
                if job.result is None:
                    write_standard_output(result)
                else:
                    hj.write_photograph(job.result, result, overwrite=overwrite)
                clean = reference_of(reference, job.file)
                words = f"{done_in_words(done, seconds)}{missing_in_words(observed)}"
                say(f"{where}: {words}{quality_in_words(picture, done, clean)}")
                for warning in done.warnings:
                    typer.echo(f"{job}: {warning}", err=True)
                if strict and done.warnings:
                    failures.count += 1
                if deviation_map is not None and done.deviation is None:
                    failures.add(job, f"the sampling diverged; {deviation_map} was not written")
                    continue
                if deviation_map is not None and done.deviation is not None:
                    write_map(deviation_map, done.deviation, overwrite)
                if plan.several:
                    manifest.add(job, noise_std=round(GREY_LEVELS * done.noise_std, 3), warnings=list(done.warnings))
    return failures.exit_code()
