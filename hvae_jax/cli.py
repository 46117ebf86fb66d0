"""The command line, `hvae-jax`: restore, degrade, sample, train, info.

A user's mistake is a `ValueError` or an `OSError`, from here or from what is called; `main` turns it into one
sentence and exit code 2. All that can be checked is checked before the first file is written.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import lazy_loader
import typer

import hvae_jax as hj

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    import numpy as np
    from rich.progress import Progress

    from hvae_jax.operators import Operator
else:
    np = lazy_loader.load("numpy")

GREY_LEVELS = 255
"""Deviations are given in grey levels, of which the images' unit [0, 1] has this many."""

WHITE_STD = 25
"""The posterior deviation in grey levels that is white in the pictures of `--uncertainty`."""

LEAST_ESTIMATE = 0.5 / GREY_LEVELS
"""Lowest noise that is estimated: an 8-bit file alone has 0.3 grey levels, and the blur is never exactly known."""

app = typer.Typer(
    help="Restore degraded images with a hierarchical VAE as prior.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # reflows the paragraphs of docstrings
)


class Task(StrEnum):
    """What happened to the image."""

    DEBLUR = "deblur"
    SR = "sr"
    INPAINT = "inpaint"
    DENOISE = "denoise"


class Boundary(StrEnum):
    """What a blur sees beyond the borders."""

    NATURAL = "natural"
    CIRCULAR = "circular"


class Iterate(StrEnum):
    """`RestoreConfig.returns`."""

    X = "x"
    MEAN = "mean"


class DataStep(StrEnum):
    """`RestoreConfig.data_step`."""

    EXACT = "exact"
    CG = "cg"


class Initial(StrEnum):
    """`RestoreConfig.initial`, without the one that is random."""

    ENCODE = "encode"
    IMAGE = "image"


class Run(StrEnum):
    """`training.RUNS`."""

    GPU = "gpu-25min"
    CPU = "cpu-3h"
    ENDLESS = "cpu-endless"


SETTINGS = "Solver settings (default: what the prior recommends for the noise)"

TaskOption = Annotated[Task, typer.Option(help="What happened to the image: blur, loss of resolution, holes, noise.")]
KernelOption = Annotated[
    str | None,
    typer.Option(
        metavar="KERNEL",
        help="Blur kernel: gaussian:WIDTH (standard deviation in pixels), motion:LENGTH,ANGLE (pixels, degrees "
        "counter-clockwise from the horizontal), or a file (.npy, .npz, .txt, .csv or an image). Needed by deblur; "
        "for sr the default is the average over FACTOR x FACTOR pixels.",
    ),
]
FactorOption = Annotated[
    int | None,
    typer.Option(min=2, help="For sr: how many times fewer pixels there are along each side."),
]
MaskOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="For inpaint: an image of the same size, white where a pixel was observed."),
]
PriorOption = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR", help="A bundled prior or a prior's folder (default: the bundled natural-small)."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]


@dataclasses.dataclass(frozen=True)
class Degradation:
    """What happened to an image, as the options say it.

    Attributes:
        task: kind of degradation.
        kernel: `--kernel`, to be parsed for each image's size.
        factor: of super-resolution, else 1.
        mask: of inpainting, (H, W) or (H, W, 3), 1 where observed.
    """

    task: Task
    kernel: str | None
    factor: int
    mask: np.ndarray | None

    @classmethod
    def of(cls, task: Task, kernel: str | None, factor: int | None, mask: Path | None) -> Degradation:
        """From the options; ValueError where one is missing or has no meaning."""
        needed = {Task.DEBLUR: "kernel", Task.SR: "factor", Task.INPAINT: "mask"}.get(task)
        allowed = {needed, "kernel"} if task is Task.SR else {needed}
        for name, value in (("kernel", kernel), ("factor", factor), ("mask", mask)):
            if value is None and name == needed:
                raise ValueError(f"expected --{name} for --task {task}, got none")
            if value is not None and name not in allowed:
                raise ValueError(f"expected no --{name} for --task {task}, got {value}")
        return cls(task, kernel, factor or 1, None if mask is None else hj.images.read_mask(mask))

    def point_spread(self, height: int, width: int) -> np.ndarray:
        """The kernel for a clean image of this size."""
        if self.kernel is not None:
            return hj.images.parse_kernel(self.kernel, (height, width))
        # Shifted so that what is kept at a cell's top-left pixel is the average of just this cell.
        average = np.zeros((2 * self.factor - 1, 2 * self.factor - 1), np.float32)
        average[: self.factor, : self.factor] = 1 / self.factor**2
        return average

    def operator(self, height: int, width: int) -> Operator:
        """The operator for a clean image of this size."""
        from hvae_jax import operators

        if self.task is Task.DENOISE:
            return operators.Denoising()
        if self.mask is not None:
            if self.mask.shape[:2] != (height, width):
                raise ValueError(
                    f"expected a mask of the image's size {height}x{width}, "
                    f"got {self.mask.shape[0]}x{self.mask.shape[1]}"
                )
            return operators.Inpainting(self.mask)
        kernel = self.point_spread(height, width)
        return operators.Blur(kernel) if self.task is Task.DEBLUR else operators.SuperResolution(kernel, self.factor)


# Restore


@app.command()
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
    mask: MaskOption = None,
    noise_std: Annotated[
        str,
        typer.Option(
            metavar="S|auto", help="Standard deviation of the noise in grey levels of 255; auto estimates it."
        ),
    ] = "auto",
    boundary: Annotated[
        Boundary,
        typer.Option(
            help="For deblur and sr. natural: the image was cut from a larger scene, as photographs are, and its "
            "borders are extended (for a prior of one size, where there is no room for that, what the kernel brings in "
            "at the borders is left to the prior). circular: it was blurred as if it repeated itself, as simulated "
            "data often is."
        ),
    ] = Boundary.NATURAL,
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
        DataStep | None,
        typer.Option(help="Solve the data step exactly or by conjugate gradient.", rich_help_panel=SETTINGS),
    ] = None,
    cg_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Number of conjugate gradient steps, for --data-step cg.", rich_help_panel=SETTINGS),
    ] = None,
    initial: Annotated[
        Initial | None,
        typer.Option(help="Start from the encoded and decoded image, or the image itself.", rich_help_panel=SETTINGS),
    ] = None,
    returns: Annotated[
        Iterate | None,
        typer.Option(
            help="The result: x, the last data step, or mean, what the prior decodes last.", rich_help_panel=SETTINGS
        ),
    ] = None,
) -> int:
    """Restore degraded images of any size, grey or colour, 8 or 16 bit or float: PNG, JPEG, TIFF and NPY.

    The size is that of the input (FACTOR times it for sr); alpha and bit depth are kept. The first image of each
    size takes some seconds more, to compile. An image whose iteration diverges is not written, and the exit code
    is then 1.
    """
    degradation = Degradation.of(task, kernel, factor, mask)
    sigma = _parse_noise_std(noise_std)
    if cg_steps is not None and data_step is not DataStep.CG:
        raise ValueError("expected --data-step cg with --cg-steps, got none")
    jobs = _plan(inputs, out, overwrite)
    deviation_maps = _plan_maps(inputs, uncertainty, overwrite, jobs)

    import jax

    model = _load_prior(prior)
    tau = None if temperature is None else _parse_temperature(temperature, model.levels)
    changes = {
        "temperature": tau,
        "decoder_std": _scaled("--decoder-std", decoder_std),
        "noise_level": _scaled("--noise-level", noise_level),
        "stop": None if tolerance is None else hj.restoration.Residual(tolerance / GREY_LEVELS),
        "max_iterations": iterations,
        "data_step": None
        if data_step is None
        else hj.restoration.Exact()
        if data_step is DataStep.EXACT
        else hj.restoration.ConjugateGradient(cg_steps),
        "initial": initial and initial.value,
        "returns": returns and returns.value,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    side = _check_size(model, degradation.factor, resize)
    if side and degradation.mask is not None:
        # Observed where all of what was scaled into a pixel was.
        observed = hj.images.fit_square(degradation.mask.reshape(*degradation.mask.shape[:2], -1), side) > 1 - 1e-4
        degradation = dataclasses.replace(degradation, mask=observed.astype(np.float32))
    for file, _ in jobs:  # read twice, so that the last file's mistake is known before the first is restored
        _check(_read(file, side), file, degradation, boundary, model, sigma, _reference_of(reference, file), side)

    failed = 0
    compiled: set[tuple[int, ...]] = set()
    with _progress() as progress:
        bar = progress.add_task("", total=len(jobs))
        for (file, result), deviation_map in zip(jobs, deviation_maps, strict=True):
            image = _read(file, side)
            std = _estimate(image, degradation) if sigma is None else sigma
            y, operator, box = _pose(image, degradation, boundary, model)
            config = _configure(model, std, operator, changes)
            compiling = y.shape not in compiled
            compiled.add(y.shape)
            doing = f"compiling for this size and restoring {file.name}" if compiling else f"restoring {file.name}"
            progress.update(bar, description=doing)

            start = time.perf_counter()
            end = hj.restore(model, y, operator, std, config)
            restored = np.asarray(hj.images.crop(end.image, box))
            seconds = time.perf_counter() - start
            progress.advance(bar)

            if end.status == hj.Status.NOT_FINITE:
                failed += 1
                _complain(f"{file}: the iteration diverged after {end.iterations} steps; {result} was not written")
                continue
            if image.pixels.shape[-1] == 1:
                restored = restored.mean(axis=-1, keepdims=True)
            alpha = image.alpha if image.alpha is None else _enlarge(image.alpha, degradation.factor)
            hj.images.write_image(result, restored, bit_depth=image.bit_depth, alpha=alpha, overwrite=overwrite)
            how = "converged" if end.status == hj.Status.CONVERGED else "restored"
            noise = f"noise {GREY_LEVELS * std:.2f} of {GREY_LEVELS}{' (estimated)' if sigma is None else ''}"
            quality = _quality(image.pixels, restored, _reference_of(reference, file), side)
            count = f"{end.iterations} iteration{'' if end.iterations == 1 else 's'}"
            typer.echo(f"{result}: {how} in {count}, {seconds:.1f} s; {noise}{quality}")
            if deviation_map is None:
                continue

            progress.update(bar, description=f"sampling {file.name}")
            settings = hj.restoration.sampling_config(config)
            posterior = hj.sample_posterior(model, y, operator, std, jax.random.key(seed), settings)
            if posterior.status == hj.Status.NOT_FINITE:
                failed += 1
                _complain(f"{file}: the sampling diverged; {deviation_map} was not written")
                continue
            deviation = np.asarray(hj.images.crop(posterior.std, box)).mean(axis=-1, keepdims=True)
            _write_map(deviation_map, deviation, overwrite)
    return 1 if failed else 0


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


def _check(
    image: hj.images.Image,
    file: Path,
    degradation: Degradation,
    boundary: Boundary,
    prior: hj.Prior,
    noise_std: float | None,
    reference: Path | None,
    side: int | None,
) -> None:
    """Refuse an image that cannot be restored with these options; cheap, unlike `_pose`."""
    height, width, channels = image.pixels.shape
    if np.abs(image.pixels).max() > 10:  # strong noise may reach 2 or 3
        raise ValueError(f"{file}: expected values in [0, 1] plus noise, got up to {np.abs(image.pixels).max():g}")
    if channels not in (1, prior.config.channels):
        raise ValueError(f"{file}: expected 1 or {prior.config.channels} channels, as the prior has, got {channels}")
    if noise_std is None and min(height, width) < 5:
        raise ValueError(f"{file}: expected --noise-std for an image of less than 5x5 pixels, got auto")
    height, width = degradation.factor * height, degradation.factor * width
    degradation.operator(height, width)
    if (size := prior.image_size) is not None:
        if (height, width) != (size, size):
            raise ValueError(
                f"{file}: expected a result of {size}x{size} pixels, the only size of this prior, "
                f"got {height}x{width}; --resize cuts and scales the image to fit"
            )
        if degradation.task is Task.DEBLUR and boundary is Boundary.NATURAL:
            reach = max(degradation.point_spread(size, size).shape)
            if reach > size // 2:
                raise ValueError(
                    f"expected a kernel of at most half the image's {size} pixels for --boundary natural, got {reach}"
                )
    multiple = math.lcm(prior.multiple, degradation.factor)
    blurs = degradation.task in (Task.DEBLUR, Task.SR)
    if blurs and boundary is Boundary.CIRCULAR and (height % multiple or width % multiple):
        raise ValueError(
            f"{file}: expected sides of the result that are multiples of {multiple} for --boundary circular, "
            f"got {height}x{width}; crop the image or use --boundary natural"
        )
    if reference is not None:
        shape = _read(reference, side and side * degradation.factor).pixels.shape
        if shape != (height, width, channels) or min(height, width) < 11:
            raise ValueError(
                f"{reference}: expected a reference of the result's shape {(height, width, channels)}, "
                f"at least 11x11, got {shape}"
            )


def _check_size(prior: hj.Prior, factor: int, resize: bool) -> int | None:
    """The side to which `--resize` scales the observations, or None where they stay as they are."""
    size = prior.image_size
    if size is None and resize:
        raise ValueError("expected no --resize, for this prior takes images of any size")
    if size is not None and size % factor:
        raise ValueError(f"expected a --factor that divides {size}, the only size of this prior, got {factor}")
    return size // factor if size is not None and resize else None


def _read(path: Path, side: int | None) -> hj.images.Image:
    """An image file, its middle square scaled to a side if one is given."""
    image = hj.images.read_image(path)
    if side is None:
        return image
    alpha = None if image.alpha is None else hj.images.fit_square(image.alpha, side)
    return image._replace(pixels=hj.images.fit_square(image.pixels, side), alpha=alpha)


def _pose(
    image: hj.images.Image, degradation: Degradation, boundary: Boundary, prior: hj.Prior
) -> tuple[np.ndarray, Operator, hj.images.Box]:
    """The observation in a size that the prior takes, its operator, and where the result is in the restored image."""
    y = np.repeat(image.pixels, prior.config.channels // image.pixels.shape[-1], axis=-1)
    height, width = y.shape[:2]
    factor = degradation.factor
    if degradation.task in (Task.INPAINT, Task.DENOISE):
        y, box = hj.images.pad_to_multiple(y, prior.multiple)
        if (mask := degradation.mask) is not None:
            mask = mask.reshape(height, width, -1)  # padded like the image
            degradation = dataclasses.replace(degradation, mask=hj.images.pad_to_multiple(mask, prior.multiple)[0])
    elif boundary is Boundary.CIRCULAR or (prior.image_size is not None and factor > 1):
        box = (slice(0, height), slice(0, width))
    else:
        # The kernel's reach on each side, in the observation's pixels. Its extension with the kernel of a blur is
        # what that blur would have given there; an observation of low resolution is hardly blurred.
        kernel = degradation.point_spread(factor * height, factor * width)
        margin = math.ceil(max(kernel.shape) / 2 / factor)
        multiple = math.lcm(prior.multiple, factor) // factor
        if prior.image_size is not None:
            # No room: replace the margin itself, so that it is what a circular blur gives.
            y = y[margin:-margin, margin:-margin]
        y, box = hj.images.extend_periodic(y, margin, multiple, kernel if factor == 1 else None)
        if prior.image_size is not None:
            box = (slice(0, height), slice(0, width))
    rows, columns = (slice(factor * side.start, factor * side.stop) for side in box)
    return y, degradation.operator(factor * y.shape[0], factor * y.shape[1]), (rows, columns)


def _configure(prior: hj.Prior, noise_std: float, operator: Operator, changes: dict[str, Any]) -> hj.RestoreConfig:
    """The recommended settings (those of the paper if the prior has none) with some changed."""
    if "noise_level" in changes and not prior.config.noise_conditional:
        raise ValueError("expected no --noise-level, for this prior is not noise-conditional")
    if prior.info.get("settings"):
        return hj.recommended_config(prior, noise_std, operator, **changes)
    return hj.RestoreConfig(**changes)


def _estimate(image: hj.images.Image, degradation: Degradation) -> float:
    """The noise's deviation, estimated where pixels were observed."""
    pixels = image.pixels
    if (mask := degradation.mask) is not None:
        pixels = np.where(mask.reshape(*mask.shape[:2], -1) > 0, pixels, 0)  # zeros count as clipped
    return max(hj.images.estimate_noise_std(pixels), LEAST_ESTIMATE)


def _enlarge(alpha: np.ndarray, factor: int) -> np.ndarray:
    """Bicubic interpolation of an opacity."""
    import jax

    if factor == 1:
        return alpha
    shape = (factor * alpha.shape[0], factor * alpha.shape[1], 1)
    return np.clip(np.asarray(jax.image.resize(alpha, shape, "cubic")), 0, 1)


def _reference_of(reference: Path | None, file: Path) -> Path | None:
    return reference / file.name if reference is not None and reference.is_dir() else reference


def _quality(before: np.ndarray, after: np.ndarray, reference: Path | None, side: int | None) -> str:
    """PSNR, SSIM and, where it is defined, LPIPS in words, of the input too where it has the result's size."""
    from hvae_jax.metrics import LPIPS_SIDE, lpips, psnr, ssim

    if reference is None:
        return ""
    clean = _read(reference, side and len(after)).pixels
    pictures = (before, after) if before.shape == after.shape else (after,)
    decibels = " -> ".join(f"{psnr(picture, clean):.2f}" for picture in pictures)
    similarity = " -> ".join(f"{ssim(picture, clean):.3f}" for picture in pictures)
    words = f"; PSNR {decibels} dB, SSIM {similarity}"
    if min(clean.shape[:2]) < LPIPS_SIDE:
        return words
    return f"{words}, LPIPS {' -> '.join(f'{lpips(picture, clean):.3f}' for picture in pictures)}"


# Degrade


@app.command()
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
    mask: MaskOption = None,
    noise_std: Annotated[
        str, typer.Option(metavar="S", help="Standard deviation of the noise in grey levels of 255.")
    ] = "0",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    boundary: Annotated[
        Boundary,
        typer.Option(
            help="circular: blur as if the image repeated itself. natural (deblur only): keep the part whose blur "
            "the image determines, smaller by the kernel's size less one."
        ),
    ] = Boundary.CIRCULAR,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a simulated observation y = A x + noise from a clean image, to try the method on your own picture.

    Restore it with the same task, kernel, factor, mask and boundary.
    """
    degradation = Degradation.of(task, kernel, factor, mask)
    sigma = _parse_noise_std(noise_std)
    if sigma is None:
        raise ValueError("expected --noise-std as a number, got auto")
    if boundary is Boundary.NATURAL and task is not Task.DEBLUR:
        raise ValueError(f"expected --boundary circular for --task {task}, got natural")
    _check_output_file(out, source, overwrite)

    image = hj.images.read_image(source)
    height, width, _ = image.pixels.shape
    operator = degradation.operator(height, width)
    y = np.asarray(operator(image.pixels))
    y = y + sigma * np.random.default_rng(seed).standard_normal(y.shape)
    y = np.asarray(operator.observed(y.astype(np.float32)))  # no noise in holes
    alpha = None if image.alpha is None else image.alpha[:: degradation.factor, :: degradation.factor]
    if boundary is Boundary.NATURAL:
        rows, columns = (
            slice(size - 1 - size // 2, side - size // 2)
            for size, side in zip(degradation.point_spread(height, width).shape, (height, width), strict=True)
        )
        y, alpha = y[rows, columns], None if alpha is None else alpha[rows, columns]
    exact = out.suffix.lower() in (".npy", ".tif", ".tiff")
    hj.images.write_image(out, y, bit_depth=32 if exact else image.bit_depth, alpha=alpha, overwrite=overwrite)
    typer.echo(f"{out}: {y.shape[0]}x{y.shape[1]} pixels")


# Sample


@app.command()
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

    model = _load_prior(prior)
    tau = _parse_temperature(temperature, model.levels)
    height, width = sides or (model.image_size or 128,) * 2
    if model.image_size and (height, width) != (model.image_size, model.image_size):
        raise ValueError(
            f"expected --size {model.image_size}x{model.image_size}, the only one of this prior, got {size}"
        )
    # Drawn in a size that the prior takes, then cut.
    shape = (1, height + -height % model.multiple, width + -width % model.multiple, model.config.channels)
    drawn = []
    with _progress() as progress:
        bar = progress.add_task("sampling", total=count)
        for i in range(count):
            key = jax.random.fold_in(jax.random.key(seed), i)
            drawn.append(np.asarray(hj.sample(model, key, shape, temperature=tau))[0, :height, :width])
            progress.advance(bar)
    pictures = [_grid(drawn)] if one_file else drawn
    for result, picture in zip(results, pictures, strict=True):
        hj.images.write_image(result, picture, overwrite=overwrite)
    typer.echo(f"{out}: {count} images of {height}x{width} pixels")


def _grid(pictures: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures of one size in rows, about as many as columns, on white."""
    height, width, channels = pictures[0].shape
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    grid = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid


# Train


OUT_OF_TIME = 3
"""Exit code of `train` after `--stop-after`."""


def _print_config(run: Run | None) -> None:
    if run is not None:
        from hvae_jax import training

        typer.echo(training.RUNS[run].to_json(), nl=False)
        raise typer.Exit


@app.command()
def train(
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Photographs to learn from.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; DIR/prior is the prior.")],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON file with the run's settings; --print-config writes one to start from."
        ),
    ] = None,
    preset: Annotated[
        Run | None,
        typer.Option(
            help="Settings that are built in: gpu-25min, 5.2 million parameters in 25 minutes of a large accelerator; "
            "cpu-3h (default), 1 million in 3 hours of two CPU cores; cpu-endless, 2 million, until you stop it."
        ),
    ] = None,
    print_config: Annotated[
        Run | None,
        typer.Option(callback=_print_config, is_eager=True, help="Print the settings of a preset as JSON, and exit."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, instead of the settings'.")] = None,
    files: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with the photographs to use, one path below FOLDER a line."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="A prior to start from: of the same architecture, or with fewer residual blocks."
        ),
    ] = None,
    leave: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --decay-steps: the run from whose last checkpoint to go on."),
    ] = None,
    decay_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --leave: harvest an endless run. Its learning rate falls to nearly nothing over so many steps, "
            "in a run of its own in --out; the endless run can go on.",
        ),
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file with what to say of the prior: name, provenance, data_licence."),
    ] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help=f"Stop with a checkpoint after so many minutes; the exit code is then {OUT_OF_TIME}.",
        ),
    ] = None,
) -> int:
    """Train a prior on a folder of photographs.

    Stop it with Ctrl-C at any time, or by --stop-after: the same command goes on where it was, on another device too.
    The photographs are kept in the device's memory, or as many at a time as the settings' store_gib has room for.
    """
    if not data.is_dir():
        raise ValueError(f"{data}: expected a folder of photographs, but there is none")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder, got a file")

    if config is not None and preset is not None:
        raise ValueError(f"expected --config or --preset, got both, {config} and {preset}")
    if stop_after is not None and not stop_after > 0:
        raise ValueError(f"expected --stop-after above 0, got {stop_after:g}")

    if (leave is None) != (decay_steps is None):
        raise ValueError("expected --leave and --decay-steps together, got one of them")
    if leave is not None and (preset is not None or init is not None or steps is not None):
        raise ValueError("expected no --preset, --init or --steps with --leave, whose run decides them")

    from rich.console import Console

    from hvae_jax import training

    if leave is not None and decay_steps is not None:
        # An interrupted decay goes on from where it left, wherever the endless run is by now.
        begun = training.TrainConfig.from_file(out / "config.json") if (out / "config.json").exists() else None
        start = training.last_step(leave) if begun is None else begun.steps - (begun.optimizer.decay_steps or 0)
        settings = training.TrainConfig.from_file(config or leave / "config.json").decayed(start, decay_steps)
    else:
        settings = training.RUNS[preset or Run.CPU] if config is None else training.TrainConfig.from_file(config)
    if steps is not None:
        settings = dataclasses.replace(settings, steps=steps)
    try:
        training.train(
            settings,
            data,
            out,
            files=files,
            init=None if init is None else _load_prior(init).params,
            leave=leave,
            description=None if description is None else _read_description(description),
            stop_after=stop_after,
            console=Console(stderr=True),
        )
    except training.OutOfTime as stop:
        typer.echo(f"{out}: {stop}", err=True)
        return OUT_OF_TIME
    except training.Interrupted as stop:
        _complain(str(stop))
        return 130
    typer.echo(f"{out / 'prior'}: trained for {settings.steps} steps")
    return 0


def _read_description(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON file, got: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


# Info


@app.command()
def info(
    prior: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|DIR]", help="A bundled prior or a prior's folder (default: natural-small)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON, without the model card.")] = False,
) -> None:
    """Tell what a prior is: its model card, if it has one, its levels, size, origin, licence and settings."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table

    from hvae_jax.prior import BUNDLED, find_prior

    folder = find_prior(BUNDLED if prior is None else prior)
    facts = _facts(folder, _load_prior(prior))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console(markup=False)  # what a prior says of itself is its maker's
    if facts["card"] is not None:
        card = _printable(Path(facts["card"]).read_text("utf-8", "replace"))
        if console.is_terminal:
            console.print(Markdown(card, hyperlinks=False))
        else:
            typer.echo(card)
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")

    def row(name: str, value: Any) -> None:
        inner = value if isinstance(value, dict) else {}
        words = "" if inner else "not said" if value is None else _in_words(value)
        table.add_row(_printable(name).replace("_", " "), _printable(words))
        for part in inner:
            row(f"  {part}", _in_words(inner[part]))

    row("name", facts.pop("name"))
    row("folder", facts.pop("folder"))
    row("model card", "none" if (file := facts.pop("card")) is None else f"{file}, its pictures beside it")
    row("family", facts.pop("family"))
    row("parameters", f"{facts.pop('parameters'):,}")
    row("sha256", facts.pop("sha256"))
    row("levels", facts.pop("levels"))
    for group in facts.pop("latents"):
        row(f"  at 1/{group['stride']}", f"{group['levels']} with {group['channels']} channels")
    any_size = f"any; multiples of {facts.pop('multiple')} need no padding"
    row("image sides", any_size if (size := facts.pop("image_size")) is None else f"exactly {size}")
    row("noise-conditional", "yes" if facts.pop("noise_conditional") else "no")
    tables = facts.pop("settings", {})
    for name, value in facts.items():
        row(name, value)
    console.print(table)
    for task, rows in tables.items():
        console.print(_settings_table(task, rows))


def _facts(folder: Path, prior: hj.Prior) -> dict[str, Any]:
    """What is known of a prior in a folder, in JSON's types; what `prior.json` says beside the model comes last."""
    import jax

    from hvae_jax.models.hierarchy import HierarchyConfig

    described = json.loads((folder / "prior.json").read_text())
    card = folder / "README.md"
    config: HierarchyConfig = prior.config
    facts = {
        "name": prior.info.get("name"),
        "folder": str(folder),
        "card": str(card) if card.is_file() else None,
        "family": described["family"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(prior.params)),
        "sha256": described["sha256"],
        "levels": prior.levels,
        "latents": [
            {"stride": stride, "levels": resolution.levels, "channels": channels}
            for resolution, (stride, channels) in zip(config.resolutions, config.latent_maps, strict=True)
        ],
        "multiple": prior.multiple,
        "image_size": prior.image_size,
        "noise_conditional": prior.config.noise_conditional,
        **{name: prior.info.get(name) for name in ("licence", "data_licence", "provenance")},
    }
    return facts | {name: value for name, value in prior.info.items() if name not in facts}


def _printable(text: str) -> str:
    """A prior's text without what would steer a terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _settings_table(task: str, rows: Sequence[dict[str, Any]]) -> Any:
    """The recommended settings of a task, a column per noise level."""
    from rich.table import Table

    title = f"Recommended settings: {_printable(task)} (deviations in grey levels of 255)"
    table = Table(title=title, title_justify="left")
    table.add_column("noise std")
    for row in rows:
        table.add_column(_in_words(row.get("noise_std", "")), justify="right")
    names = sorted({name for row in rows for name in row} - {"noise_std"})
    for name in names:
        table.add_row(_printable(name).replace("_", " "), *(_printable(_in_words(row.get(name, ""))) for row in rows))
    return table


def _in_words(value: Any) -> str:
    """A JSON value on one line."""
    if isinstance(value, dict):
        parts = [
            f"{name} ({_in_words(v)})" if isinstance(v, dict) else f"{name} {_in_words(v)}" for name, v in value.items()
        ]
        return ", ".join(parts)
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# What the commands share


def _load_prior(name: str | None) -> hj.Prior:
    return hj.load_prior() if name is None else hj.load_prior(name)


def _parse_noise_std(text: str) -> float | None:
    """A deviation in the images' unit, or None for auto."""
    return None if text == "auto" else _scaled("--noise-std", _number("--noise-std", text), zero=True)


def _parse_temperature(text: str, levels: int) -> Any:
    from hvae_jax.restoration import linear

    ends = [_number("--temperature", part) for part in text.split(",")]
    if len(ends) > 2 or min(ends) <= 0:
        raise ValueError(f"expected --temperature as one or two numbers above 0, got {text}")
    return ends[0] if len(ends) == 1 else linear(ends[0], ends[1], levels)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number for {option}, got {text}") from None


def _scaled(option: str, grey_levels: float | None, zero: bool = False) -> Any:
    """A deviation in the images' unit; None stays."""
    if grey_levels is None:
        return None
    if not (math.isfinite(grey_levels) and (grey_levels > 0 or (zero and grey_levels == 0))):
        raise ValueError(f"expected {option} {'of at least' if zero else 'above'} 0, got {grey_levels:g}")
    return grey_levels / GREY_LEVELS


def _check_output_file(out: Path, source: Path, overwrite: bool) -> None:
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: expected another file than the input, got the same")
    hj.images.check_writable(out, overwrite)


def _progress() -> Progress:
    """A bar on stderr, in a terminal only, that is gone at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # what is piped elsewhere must not end on stderr
    )


def _complain(sentence: str) -> None:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        try:
            version = importlib.metadata.version("hvae_jax")
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            version = "(not installed)"
        typer.echo(f"hvae-jax {version}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `hvae-jax`.

    Args:
        arguments: those after the program's name; `sys.argv`'s by default.

    Returns:
        The exit code, as `run` has it.
    """
    return run(app, "hvae-jax", arguments)


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    """Run a command line, with one sentence for a user's mistake.

    Args:
        app: the commands.
        name: the program's name.
        arguments: those after it; `sys.argv`'s if None.

    Returns:
        The exit code: 0; 1 where an image could not be restored; 2 for a user's mistake, after one sentence on
        stderr; 3 where a training's time was over; 130 when interrupted. What is none of these is a bug and raises.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = typer.main.get_command(app)
    try:
        return command.main(arguments or ["--help"], prog_name=name, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):  # the latter by older versions of typer
        return 130
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except ValueError as error:
        _complain(str(error))
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # the latter by JAX
            _complain("expected enough memory for this size, got too little; take a smaller image or a part of it")
        elif hasattr(error, "format_message"):  # a mistake in the options; typer's versions have several classes
            _complain(error.format_message())
        else:
            raise
    return 2


if __name__ == "__main__":
    sys.exit(main())
