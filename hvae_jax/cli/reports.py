"""What `hvae-jax restore` needs around its loop: pictures kept, failures counted, results in words."""

from __future__ import annotations

import errno
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import hvae_jax as hj
from hvae_jax import folders
from hvae_jax.cli.shared import GREY_LEVELS, complain, naming, sentence_of

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    import numpy as np

    from hvae_jax.photographs.posing import Range

WHITE = 50
"""The half-width (or deviation) in grey levels that is white in the pictures of `--uncertainty`."""
LEVEL = 0.9
"""Of the intervals there."""


class Failures:
    """What could not be restored: the first ends the command, or all are named at the end, and kept in the manifest."""

    def __init__(self, keep_going: bool, manifest: folders.Manifest) -> None:
        self._keep_going, self._manifest = keep_going, manifest
        self._sentences: dict[folders.Job, str] = {}
        self.count = 0

    def __contains__(self, job: folders.Job) -> bool:
        return job in self._sentences

    @contextmanager
    def of(self, job: folders.Job) -> Iterator[None]:
        """Put the file's name before what is wrong with it; with --keep-going remember it, unless it is so for all."""
        try:
            with naming(str(job)):
                yield
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None or not self._keep_going or nothing_can_be_written(error):
                raise
            sentence = sentence if sentence.startswith(str(job)) else f"{job}: {sentence}"
            self._manifest.add_failure(job, sentence)
            self._sentences[job] = sentence

    def add(self, job: folders.Job, sentence: str) -> None:
        """What is no mistake of the user's is said now."""
        self.count += 1
        self._manifest.add_failure(job, sentence)
        complain(f"{job}: {sentence}")

    def exit_code(self) -> int:
        """Say what is left, and 1 if anything failed."""
        for sentence in self._sentences.values():
            complain(sentence)
        return 1 if self.count or self._sentences else 0


def nothing_can_be_written(error: BaseException | None) -> bool:
    """Whether what failed will fail for all pictures: the disk is full, or can only be read."""
    while error is not None and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        error = error.__cause__
    return error is not None


def missing_in_words(observed: np.ndarray | None) -> str:
    """What share of a picture was missing, in words."""
    if observed is None:
        return ""
    return f"; {1 - observed.mean():.1%} was missing{' (the channels differ)' if observed.ndim == 3 else ''}"


def check_turned(picture: hj.images.Image, mask: Path | None) -> None:
    """Refuse a picture that EXIF turns and a mask that it does not, for nobody knows which way that was made."""
    if mask is None or picture.orientation == 1:
        return
    if hj.images.read_image(mask).orientation != picture.orientation:
        raise ValueError(
            f"expected a mask turned like the picture (EXIF orientation {picture.orientation}), got one that is not; "
            "save the picture upright and make the mask for that"
        )


def write_standard_output(image: hj.images.Image) -> None:
    """Write a picture as PNG to standard output."""
    content = io.BytesIO()
    hj.images.encode_image(
        content, ".png", image.pixels, bit_depth=image.bit_depth, alpha=image.alpha, metadata=image.metadata
    )
    sys.stdout.buffer.write(content.getbuffer())
    sys.stdout.buffer.flush()


def digest(value: Any) -> str:
    """Of a setting or an array, for the manifest."""
    content = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


class Pictures:
    """Pictures that were decoded to be checked, kept until they are restored as long as they are not too many."""

    LARGEST = 2**28

    def __init__(self) -> None:
        self._kept: dict[folders.Job, hj.images.Image] = {}

    def read(self, job: folders.Job) -> hj.images.Image:
        if (picture := self._kept.get(job)) is None:
            source: Any = job.source
            picture = hj.read_photograph(source, page=job.page)
        if sum(kept.pixels.nbytes for kept in self._kept.values()) + picture.pixels.nbytes <= self.LARGEST:
            self._kept[job] = picture
        return picture

    def take(self, job: folders.Job) -> hj.images.Image:
        """Read it, and keep it no longer."""
        picture = self.read(job)
        self._kept.pop(job, None)
        return picture


def data_step_solver(name: str | None, cg_steps: int | None) -> Any:
    """The data step of `--data-step` and `--cg-steps`, or None."""
    one_of("--data-step", name, ("exact", "cg"))
    if cg_steps is not None and name != "cg":
        raise ValueError("expected --data-step cg with --cg-steps, got none")
    if name is None:
        return None
    return hj.restoration.Exact() if name == "exact" else hj.restoration.ConjugateGradient(cg_steps)


def one_of(option: str, value: str | None, choices: Sequence[str]) -> str | None:
    """The value, refused where it is none of the choices."""
    if value is not None and value not in choices:
        raise ValueError(f"expected {option} of {' or '.join(choices)}, got {value}")
    return value


def plan_maps(
    inputs: Sequence[str], uncertainty: str | None, plan: folders.Plan, *, recursive: bool, pages: bool
) -> list[Path | None]:
    """Where the deviation map of each image goes, checked; None where none is asked for."""
    if uncertainty is None:
        return [None] * len(plan.jobs)
    if uncertainty == folders.STANDARD:
        raise ValueError("expected a file or a folder for --uncertainty, got -")
    results = None if plan.folder is None else str(plan.folder)
    planned = folders.plan(inputs, uncertainty, recursive=recursive, pages=pages, besides=results)
    maps = [job.result for job in planned.jobs]
    taken = {job.result.resolve() for job in plan.jobs if job.result is not None}
    for target in maps:
        if target is not None and target.resolve() in taken:
            raise ValueError(f"{target}: expected another file for --uncertainty than for --out, got the same")
    return [*maps]


def write_map(path: Path, done: hj.Restored, overwrite: bool) -> None:
    """Write the half-widths of intervals, or where there are none the deviation, and say what it is."""
    import numpy as np

    exact = path.suffix.lower() in (".npy", ".tif", ".tiff")
    values = done.uncertainty(LEVEL)
    picture = values if exact else done.uncertainty_picture(LEVEL, WHITE / GREY_LEVELS)
    hj.images.write_image(path, picture, bit_depth=32 if exact else 8, overwrite=overwrite, finite=not exact)
    calibrated = done.calibration is not None
    what = f"{LEVEL:.0%} of the pixels are within" if calibrated else "not calibrated for this task; draws differ by"
    scale = "" if exact else f"; white is {WHITE}"
    known = values[np.isfinite(values)]
    mean = f"{GREY_LEVELS * known.mean():.2f} of {GREY_LEVELS} on average" if known.size else "nothing that is known"
    typer.echo(f"{path}: {what} {mean}{scale}")


def reference_of(reference: Path | None, file: Path | None) -> Path | None:
    """The clean image of a file, where there is one."""
    return reference / file.name if reference is not None and file is not None and reference.is_dir() else reference


def check_reference(path: Path, shape: tuple[int, ...], side: int | None) -> None:
    """ValueError where a clean image is none of the result."""
    got = fitted(path, side).pixels.shape
    if got != shape or min(shape[:2]) < 11:
        raise ValueError(f"{path}: expected a reference of the result's shape {shape}, at least 11x11, got {got}")


def fitted(path: Path, side: int | None) -> hj.images.Image:
    """A picture, cut and scaled as `--resize` does."""
    from hvae_jax.photographs import fit

    return fit(hj.read_photograph(path), side)


def quality_in_words(before: hj.images.Image, done: hj.Restored, reference: Path | None, values: Range | None) -> str:
    """PSNR, SSIM and, where it is defined, LPIPS in words, of the input too where it has the result's size.

    Args:
        before: the input.
        done: its restoration.
        reference: the clean image, if there is one.
        values: of all of them, that are black and white; None for 0 and 1.
    """
    from hvae_jax.metrics import LPIPS_SIDE, lpips, psnr, ssim

    if reference is None:
        return ""
    after = done.image.pixels
    clean = hj.read_photograph(reference).pixels
    if clean.shape != after.shape:  # both were resized
        clean = hj.images.fit_square(clean, len(after))
        before = before._replace(pixels=hj.images.fit_square(before.pixels, len(after)))
    pictures: tuple[np.ndarray, ...] = (before.pixels, after) if before.pixels.shape == after.shape else (after,)
    if values is not None:
        clean, pictures = values.to_unit(clean), tuple(map(values.to_unit, pictures))
    decibels = " -> ".join(f"{psnr(picture, clean):.2f}" for picture in pictures)
    similarity = " -> ".join(f"{ssim(picture, clean):.3f}" for picture in pictures)
    words = f"; PSNR {decibels} dB, SSIM {similarity}"
    if min(clean.shape[:2]) < LPIPS_SIDE:
        return words
    return f"{words}, LPIPS {' -> '.join(f'{lpips(picture, clean):.3f}' for picture in pictures)}"
