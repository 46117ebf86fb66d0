"""`hvae-jax restore`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import lazy_loader
import typer

import hvae_jax as hj
from hvae_jax.cli.shared import (
    GREY_LEVELS,
    AlignOption,
    FactorOption,
    KernelOption,
    MaskOption,
    OverwriteOption,
    PriorOption,
    TaskOption,
    complain,
    load_prior,
    naming,
    parse_noise_std,
    parse_temperature,
    scaled,
)
from hvae_jax.progress import progress_bar

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    import numpy as np
else:
    np = lazy_loader.load("numpy")

WHITE_STD = 25
"""The posterior deviation in grey levels that is white in the pictures of `--uncertainty`."""

SETTINGS = "Solver settings (default: what the prior recommends for the noise)"


def restore(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Degraded images, or folders of them.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="A file, for one image; else a folder, where each image keeps its name (but .jpg becomes .png, "
            "so that the result is not compressed again).",
        ),
    ],
    task: TaskOption,
    kernel: KernelOption = None,
    factor: FactorOption = None,
    align: AlignOption = "center",
    mask: MaskOption = None,
    noise_std: Annotated[
        str,
        typer.Option(
            metavar="S|auto", help="Standard deviation of the noise in grey levels of 255; auto estimates it."
        ),
    ] = "auto",
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
    uncertainty: Annotated[
        Path | None,
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
    """Restore degraded images of any size, grey or colour, 8 or 16 bit or float: PNG, JPEG, TIFF and NPY.

    The size is that of the input (FACTOR times it for sr); alpha and bit depth are kept. The first image of each
    size takes some seconds more, to compile. What did not fit (kernel, noise, lights brighter than white) is said in a
    sentence, and a picture that a restoration would harm is left as it was. An image whose iteration diverges is not
    written, and the exit code is then 1.
    """
    sigma = parse_noise_std(noise_std)
    jobs = _plan(inputs, out, overwrite)
    deviation_maps = _plan_maps(inputs, uncertainty, overwrite, jobs)

    import jax

    from hvae_jax import photographs

    # Kernel and mask are read once, for all pictures.
    observed = None if mask is None else hj.images.read_mask(mask)
    degradation = photographs.Degradation.of(task, kernel, factor, observed, align)
    model = load_prior(prior)
    changes = {
        "temperature": None if temperature is None else parse_temperature(temperature, model.levels),
        "decoder_std": scaled("--decoder-std", decoder_std),
        "noise_level": scaled("--noise-level", noise_level),
        "stop": None if tolerance is None else hj.restoration.Residual(tolerance / GREY_LEVELS),
        "max_iterations": iterations,
        "data_step": _data_step_solver(data_step, cg_steps),
        "initial": _one_of("--initial", initial, ("encode", "image")),
        "returns": _one_of("--returns", returns, ("x", "mean")),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    photographs.check_changes(model, changes)
    side = photographs.fitting_side(model, degradation.factor, resize)
    pictures = _Pictures()
    for file, _ in jobs:  # the last file's mistake is known before the first is restored
        with naming(file):
            picture = pictures.read(file, side)
            shape = photographs.check(picture, degradation.fitted(side), boundary, model, sigma)
        if (clean := _reference_of(reference, file)) is not None:
            _check_reference(clean, (*shape, picture.pixels.shape[-1]), side and side * degradation.factor)

    failed = 0
    key = jax.random.key(seed) if uncertainty is not None else None
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(jobs))
        for (file, result), deviation_map in zip(jobs, deviation_maps, strict=True):
            progress.update(bar, description=f"restoring {file.name}")
            start = time.perf_counter()
            with naming(file):
                picture = pictures.read(file, None)
                done = photographs.restore_photograph(
                    picture,
                    task,
                    kernel=degradation.kernel,
                    factor=factor,
                    align="corner",  # the kernel has been moved already
                    mask=degradation.mask,
                    noise_std=sigma,
                    boundary=boundary,
                    prior=model,
                    resize=resize,
                    uncertainty=key,
                    quality=quality,
                    **changes,
                )
            pictures.forget(file)
            seconds = time.perf_counter() - start
            progress.advance(bar)
            if done.status is hj.Status.NOT_FINITE:
                failed += 1
                complain(f"{file}: the iteration diverged after {done.iterations} steps; {result} was not written")
                continue
            hj.write_photograph(result, done.image, overwrite=overwrite)
            typer.echo(f"{result}: {_in_words(done, seconds)}{_quality(picture, done, _reference_of(reference, file))}")
            failed += strict and bool(done.warnings)
            for warning in done.warnings:
                typer.echo(f"{file}: {warning}", err=True)
            if deviation_map is None:
                continue
            if done.deviation is None:
                failed += 1
                complain(f"{file}: the sampling diverged; {deviation_map} was not written")
                continue
            _write_map(deviation_map, done.deviation, overwrite)
    return 1 if failed else 0


class _Pictures:
    """Pictures that were decoded to be checked, kept until they are restored as long as they are not too many."""

    LARGEST = 2**30

    def __init__(self) -> None:
        self._kept: dict[Path, hj.images.Image] = {}

    def read(self, file: Path, side: int | None) -> hj.images.Image:
        picture = self._kept.get(file) or hj.read_photograph(file)
        if sum(kept.pixels.nbytes for kept in self._kept.values()) + picture.pixels.nbytes <= self.LARGEST:
            self._kept[file] = picture
        from hvae_jax.photographs import fit

        return fit(picture, side)

    def forget(self, file: Path) -> None:
        self._kept.pop(file, None)


def _data_step_solver(name: str | None, cg_steps: int | None) -> Any:
    _one_of("--data-step", name, ("exact", "cg"))
    if cg_steps is not None and name != "cg":
        raise ValueError("expected --data-step cg with --cg-steps, got none")
    if name is None:
        return None
    return hj.restoration.Exact() if name == "exact" else hj.restoration.ConjugateGradient(cg_steps)


def _one_of(option: str, value: str | None, choices: Sequence[str]) -> str | None:
    if value is not None and value not in choices:
        raise ValueError(f"expected {option} of {' or '.join(choices)}, got {value}")
    return value


def _in_words(done: hj.Restored, seconds: float) -> str:
    how = "converged" if done.status is hj.Status.CONVERGED else "restored"
    count = f"{done.iterations} iteration{'' if done.iterations == 1 else 's'}"
    estimated = "" if done.noise_source == "given" else f" (estimated from {done.noise_source})"
    return f"{how} in {count}, {seconds:.1f} s; noise {GREY_LEVELS * done.noise_std:.2f} of {GREY_LEVELS}{estimated}"


def _plan(inputs: Sequence[Path], out: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    """The images and where their results go, all of them checked."""
    files = [file for path in inputs for file in hj.images.list_images(path)]
    several = len(inputs) > 1 or inputs[0].is_dir()
    if several and not out.is_dir() and out.suffix.lower() in hj.images.SUFFIXES:
        raise ValueError(f"{out}: expected a folder for several images, got the name of a file")
    if out.suffix and not several and not out.is_dir():
        results = [out]
    else:
        kept = (".png", ".tif", ".tiff", ".npy")
        results = [out / (file.name if file.suffix.lower() in kept else f"{file.stem}.png") for file in files]
    sources = {file.resolve() for file in files}
    for result in results:
        if results.count(result) > 1:
            raise ValueError(f"{result}: expected a result of its own for each image, got two of this name")
        if result.resolve() in sources:
            raise ValueError(f"{result}: expected another file than the input, got the same")
        hj.images.check_writable(result, overwrite)
    return list(zip(files, results, strict=True))


def _plan_maps(
    inputs: Sequence[Path], uncertainty: Path | None, overwrite: bool, jobs: Sequence[tuple[Path, Path]]
) -> list[Path | None]:
    """Where the deviation map of each image goes, checked; None where none is asked for."""
    if uncertainty is None:
        return [None] * len(jobs)
    maps = [target for _, target in _plan(inputs, uncertainty, overwrite)]
    results = {result.resolve() for _, result in jobs}
    for target in maps:
        if target.resolve() in results:
            raise ValueError(f"{target}: expected another file for --uncertainty than for --out, got the same")
    return [*maps]


def _write_map(path: Path, deviation: np.ndarray, overwrite: bool) -> None:
    """Write a deviation map and say how to read it."""
    exact = path.suffix.lower() in (".npy", ".tif", ".tiff")
    picture = deviation if exact else np.clip(deviation * GREY_LEVELS / WHITE_STD, 0, 1)
    hj.images.write_image(path, picture, bit_depth=32 if exact else 8, overwrite=overwrite)
    scale = "" if exact else f"; white is {WHITE_STD}"
    typer.echo(f"{path}: posterior deviation {GREY_LEVELS * deviation.mean():.2f} of {GREY_LEVELS} on average{scale}")


def _reference_of(reference: Path | None, file: Path) -> Path | None:
    return reference / file.name if reference is not None and reference.is_dir() else reference


def _check_reference(path: Path, shape: tuple[int, ...], side: int | None) -> None:
    """ValueError where a clean image is none of the result."""
    got = _fitted(path, side).pixels.shape
    if got != shape or min(shape[:2]) < 11:
        raise ValueError(f"{path}: expected a reference of the result's shape {shape}, at least 11x11, got {got}")


def _fitted(path: Path, side: int | None) -> hj.images.Image:
    from hvae_jax.photographs import fit

    return fit(hj.read_photograph(path), side)


def _quality(before: hj.images.Image, done: hj.Restored, reference: Path | None) -> str:
    """PSNR, SSIM and, where it is defined, LPIPS in words, of the input too where it has the result's size."""
    from hvae_jax.metrics import LPIPS_SIDE, lpips, psnr, ssim

    if reference is None:
        return ""
    after = done.image.pixels
    clean = hj.read_photograph(reference).pixels
    if clean.shape != after.shape:  # both were resized
        clean = hj.images.fit_square(clean, len(after))
        before = before._replace(pixels=hj.images.fit_square(before.pixels, len(after)))
    pictures = (before.pixels, after) if before.pixels.shape == after.shape else (after,)
    decibels = " -> ".join(f"{psnr(picture, clean):.2f}" for picture in pictures)
    similarity = " -> ".join(f"{ssim(picture, clean):.3f}" for picture in pictures)
    words = f"; PSNR {decibels} dB, SSIM {similarity}"
    if min(clean.shape[:2]) < LPIPS_SIDE:
        return words
    return f"{words}, LPIPS {' -> '.join(f'{lpips(picture, clean):.3f}' for picture in pictures)}"
