"""What somebody wants on the page, and doing it: the way of a photograph, from an uploaded file to files to show."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import hvae_jax as hj
from hvae_jax import folders
from hvae_jax.images.bounds import declared_size
from hvae_jax.photographs.checking import GREY_LEVELS
from hvae_jax.photographs.posing import Range, fit, fitting_side, range_of
from hvae_jax.restoration.tiles import Progress

LARGEST_PNG = 2048 * 2048
"""Pixels above which a picture is shown as a JPEG, which loads in time; what is downloaded is not."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A restoration that is asked for, of JSON's types.

    Attributes:
        photo: the file.
        folder: where the results go.
        task: as in `restore_photograph`.
        kernel: likewise.
        factor: likewise.
        mask: of holes, a file, white where the photograph is good.
        strokes: pictures of what was drawn on the photograph, opaque where it has holes, too.
        noise_std: grey levels of 255; None to estimate it.
        quality: as in `restore_photograph`.
        light: likewise.
        uncertainty: whether to say how sure the result is.
        megapixels: the most that a picture, and a result, may have.
        memory: GiB that the process may take; None for what there is.
    """

    photo: str
    folder: str
    task: str
    kernel: str | None = None
    factor: int | None = None
    mask: str | None = None
    strokes: tuple[str, ...] = ()
    noise_std: float | None = None
    quality: str = "default"
    light: str = "display"
    uncertainty: bool = False
    megapixels: float = math.inf
    memory: float | None = None


class Outcome(NamedTuple):
    """What came of it, of JSON's types.

    Attributes:
        result: the file to download.
        before: what a browser can show of the photograph.
        after: the same of the result.
        kernel: of the blur, a picture, or None.
        uncertainty: a picture of how sure the result is, or None.
        words: how it went.
        warnings: what did not fit.
        left: whether the picture was left as it was.
    """

    result: str
    before: str
    after: str
    kernel: str | None
    uncertainty: str | None
    words: str
    warnings: tuple[str, ...]
    left: bool


def read(path: str, megapixels: float) -> hj.images.Image:
    """A photograph; ValueError if it is none or too large, before it is decoded where its header tells."""
    if (declared := declared_size(path)) is not None:
        check_size(declared, megapixels)
    photo = hj.read_photograph(path)
    check_size(photo.pixels.shape[:2], megapixels)
    return photo


def check_size(size: tuple[int, ...], megapixels: float) -> None:
    """ValueError for more pixels than this page takes."""
    height, width = size
    if height * width > megapixels * 1e6:
        raise ValueError(f"expected at most {megapixels:g} megapixels, as this page takes, got {height}x{width} pixels")


def show(photo: hj.images.Image, path: Path, values: Range | None = None) -> str:
    """Write what a browser can show of a picture, with 8 bits, and return the file.

    Args:
        photo: the picture.
        path: the file without its ending.
        values: what is black and white in it; found in the picture if None.
    """
    values = values or range_of(photo, None)
    pixels = photo.pixels if values is None else values.to_unit(photo.pixels)
    path = path.with_suffix(".png" if math.prod(pixels.shape[:2]) <= LARGEST_PNG else ".jpg")
    hj.write_photograph(path, photo._replace(pixels=pixels, bit_depth=8), overwrite=True)
    return str(path)


def carry_out(request: Request, prior: hj.Prior, progress: Progress) -> Outcome:
    """Restore the photograph, and write all that is shown of it.

    Args:
        request: what is asked for.
        prior: the prior.
        progress: told (done, count) of the evaluations of a picture in tiles.

    Raises:
        ValueError: something does not fit; nothing was written then.
    """
    start, folder = time.perf_counter(), Path(request.folder)
    photo = read(request.photo, request.megapixels)
    check_size(tuple((request.factor or 1) * side for side in photo.pixels.shape[:2]), request.megapixels)
    done = hj.restore_photograph(
        photo,
        request.task,
        kernel=request.kernel,
        factor=request.factor,
        mask=observed(request, photo) if request.task == "inpaint" else None,
        noise_std=None if request.noise_std is None else request.noise_std / GREY_LEVELS,
        quality=request.quality,
        light=request.light,
        uncertainty=jax.random.key(0) if request.uncertainty else None,
        memory=None if request.memory is None else request.memory * 2**30,
        progress=progress,
        prior=prior,
        resize=prior.image_size is not None,
    )
    if done.status is hj.Status.NOT_FINITE:
        raise ValueError(f"the iteration diverged after {done.iterations} steps, so that there is no result")
    target = folders.plan([request.photo], f"{folder}/").jobs[0].result
    assert target is not None  # it is a file's
    target = target.with_stem(f"{target.stem}-restored")
    hj.write_photograph(target, done.image)
    values, words = range_of(photo, None), done.in_words(time.perf_counter() - start)
    kernel = uncertainty = None
    if done.kernel is not None:
        kernel = folder / "kernel.png"
        hj.images.write_kernel(kernel, done.kernel)
    if done.deviation is not None:
        uncertainty = folder / "uncertainty.png"
        hj.images.write_image(uncertainty, done.uncertainty_picture())
        what = "how far draws differ" if done.calibration is None else "half the width of intervals that hold 90 %"
        words += f"; how sure: {what}, white is 50 grey levels or more"
    return Outcome(
        result=str(target),
        before=show(
            fit(photo, fitting_side(prior, request.factor or 1, prior.image_size is not None)),
            folder / "before",
            values,
        ),
        after=show(done.image, folder / "after", values),
        kernel=None if kernel is None else str(kernel),
        uncertainty=None if uncertainty is None else str(uncertainty),
        words=words,
        warnings=done.warnings,
        left=done.left,
    )


def observed(request: Request, photo: hj.images.Image) -> np.ndarray:
    """The mask of the photograph's holes, from a file and what was drawn, 1 where it has none.

    Raises:
        ValueError: there are none, or they are drawn on a picture of another size.
    """
    size = photo.pixels.shape[:2]
    mask = np.ones(size, np.float32) if request.mask is None else hj.images.read_mask(request.mask)
    for stroke in request.strokes:
        drawn = hj.read_photograph(stroke).alpha
        if drawn is None:
            continue
        if not drawn.shape[:2] == mask.shape[:2] == size:
            raise ValueError(f"expected holes of the picture's {size} pixels, got {drawn.shape[:2]}; draw them anew")
        mask[drawn[..., 0] > 0] = 0
    if mask.all():
        raise ValueError("expected holes, got none: paint over what is to be filled, or give a mask")
    return mask
