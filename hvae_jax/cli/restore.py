"""`hvae-jax restore`."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Annotated

import typer

from hvae_jax import folders
from hvae_jax.cli.prepare import check_options, prepare
from hvae_jax.cli.reports import LEVEL, WHITE, plan_maps
from hvae_jax.cli.shared import (
    AlignOption,
    CompileCacheOption,
    FactorOption,
    InvertMaskOption,
    KeepOriginOption,
    KernelOption,
    MaskOption,
    OverwriteOption,
    PriorOption,
    TaskOption,
)
from hvae_jax.compile_cache import use_compile_cache

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
    kernel_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="For --kernel estimate: the largest side of the kernel in pixels, odd (default: 25)."
        ),
    ] = None,
    save_kernel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For --kernel estimate and one image: write the kernel that was found, as numbers (.npy, .tif) or a "
            "picture (.png) that --kernel takes.",
        ),
    ] = None,
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
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="For several images: restore the I-th of N shares only, from 1 on, as one of N processes, on as many "
            "machines, that need nothing but the folders in common (default: what Slurm and Kubernetes say in an array "
            "of jobs). See `hvae-jax status`.",
        ),
    ] = None,
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
            help=f"Also draw from the posterior, and write the half-width of {LEVEL:.0%} intervals at each pixel (the "
            "draws' standard deviation where the prior is not calibrated for the task); PATH as for --out. White is "
            f"{WHITE} grey levels of 255; .npy and .tif keep the numbers, 1 being 255 grey levels. Takes several "
            "times as long.",
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
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="For several images: restore them on a Ray cluster, whose machines have the folders in common (extra "
            "cluster): its address, auto for the one that this machine is of, or local.",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="For --cluster: at most so many restore at a time (default: what there is)."
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="GIB",
            help="How much memory the process may take. A picture that needs more is restored in tiles; by default one "
            "of more than four megapixels is, with what the machine has free. Stopped, the same command goes on from "
            "the last iteration of such a picture.",
        ),
    ] = None,
    compile_cache: CompileCacheOption = True,
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
    given = types.SimpleNamespace(**locals())
    check_options(given)
    plan = folders.plan(inputs, out, recursive=recursive, pages=pages, besides=uncertainty)
    if plan.skipped:
        names = ", ".join(f"{file} (no such format)" for file in plan.skipped[:MOST_NAMED])
        more = ", ..." if len(plan.skipped) > MOST_NAMED else ""
        typer.echo(f"{len(plan.skipped)} file{'s' * (len(plan.skipped) > 1)} skipped: {names}{more}", err=True)
    if cluster is not None and not plan.several:
        raise ValueError("expected a folder or several images for --cluster, got one image")
    if cluster is not None and shard is not None:
        raise ValueError("expected --shard or --cluster, got both")
    is_shared = plan.several and cluster is None
    share = folders.Shard.of(shard, os.environ) if is_shared else folders.Shard()
    targets = [*zip(plan.jobs, plan_maps(inputs, uncertainty, plan, recursive=recursive, pages=pages), strict=True)]
    writer = ""
    if share.among > 1:
        ours = [target for target in targets if share.has(plan.name(target[0]))]
        typer.echo(f"{len(ours)} of {len(targets)} images ({share.source} {share.number}/{share.among})")
        targets, writer = ours, f"{share.number}-of-{share.among}"
    if save_kernel is not None and plan.several:
        raise ValueError("expected one image for --save-kernel, got several")
    use_compile_cache(compile_cache)
    run = prepare(given, plan.several, writer)
    if cluster is None:
        return run(targets)
    from hvae_jax.cli.cluster import restore_on_cluster

    return restore_on_cluster(run.missing(targets), given, cluster, actors)
