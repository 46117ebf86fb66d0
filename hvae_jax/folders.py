"""Files and folders of photographs: what is to be restored, where results go, and what is done already."""

from __future__ import annotations

import dataclasses
import functools
import io
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import hvae_jax as hj
from hvae_jax.files import Journal

MANIFEST = ".hvae-jax.jsonl"
"""Beside the results of a folder: how each was made, a line of JSON each."""

STANDARD = "-"
"""Standard input or output."""

KEPT = (".png", ".tif", ".tiff", ".npy", ".webp", ".bmp", ".fits", ".fit", ".fts")
"""Endings that results have as their inputs do, for these formats lose nothing; others become .png."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to restore.

    Attributes:
        file: where it is; None for standard input.
        page: of a file with several.
        result: where its result goes; None for standard output.
    """

    file: Path | None
    page: int | None
    result: Path | None

    def __str__(self) -> str:
        name = "standard input" if self.file is None else str(self.file)
        return name if self.page is None else f"{name}, page {self.page + 1}"

    @property
    def source(self) -> hj.images.Source:
        """What `images.read_image` takes; standard input is read once."""
        return _standard_input() if self.file is None else self.file

    @property
    def key(self) -> dict[str, Any]:
        """What tells this picture, as it is now, from others in a manifest."""
        assert self.file is not None
        assert self.result is not None
        about = self.file.stat()
        return {"result": self.result.name, "page": self.page, "bytes": about.st_size, "modified": about.st_mtime_ns}


@dataclasses.dataclass(frozen=True)
class Plan:
    """All jobs of a command.

    Attributes:
        jobs: in order.
        skipped: files in folders that are no pictures.
        several: whether results go into a folder.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Path, ...]
    several: bool


def plan(inputs: Sequence[str], out: str, *, recursive: bool = False, pages: bool = False) -> Plan:
    """Find the pictures and where their results go.

    Args:
        inputs: files, folders, or "-" alone for standard input.
        out: a file for one picture, "-" for standard output, or a folder (it exists, ends in a slash, has no ending, or
            there are several pictures).
        recursive: sub-folders too; results are in sub-folders of the same names.
        pages: each page of a TIFF file is a picture; its number goes into the result's name.

    Returns:
        The plan.

    Raises:
        ValueError: an input is missing or no picture, or two results have one name, or one is an input.
    """
    if STANDARD in inputs or out == STANDARD:
        if len(inputs) > 1 or Path(inputs[0]).is_dir() or pages:
            raise ValueError("expected one picture for standard input or output, got several")
        if inputs[0] == STANDARD and Path(out).suffix.lower() not in hj.images.SUFFIXES and out != STANDARD:
            raise ValueError(f"{out}: expected the name of a file for a picture from standard input, got a folder")
        file = None if inputs[0] == STANDARD else hj.images.list_images(inputs[0])[0]
        return Plan((Job(file, None, None if out == STANDARD else Path(out)),), (), False)
    found: list[tuple[Path, Path]] = []  # file, and what of it is below the folder that was given
    skipped: list[Path] = []
    for path in map(Path, inputs):
        files, others = hj.images.survey(path, recursive=recursive)
        found += [(file, file.relative_to(path) if path.is_dir() else Path(file.name)) for file in files]
        skipped += others
    sources = {file.resolve() for file, _ in found}
    folder = Path(out)
    several = len(inputs) > 1 or Path(inputs[0]).is_dir()
    numbers = {file: hj.images.count_pages(file) if pages else 1 for file, _ in found}
    several = several or any(count > 1 for count in numbers.values())
    is_folder = out.endswith(("/", "\\")) or folder.is_dir()
    if several and not is_folder and folder.suffix.lower() in hj.images.SUFFIXES:
        raise ValueError(f"{folder}: expected a folder for several images, got the name of a file")
    if folder.suffix and not several and not is_folder:
        return Plan((_checked(Job(found[0][0], None, folder), sources),), tuple(skipped), False)
    jobs = []
    for file, name in found:
        suffix = name.suffix if name.suffix.lower() in KEPT else ".png"
        count = numbers[file]
        for page in range(count):
            ending = f"-{page + 1:0{len(str(count))}d}" if count > 1 else ""
            result = folder / name.with_name(f"{name.stem}{ending}{suffix}")
            jobs.append(_checked(Job(file, page if count > 1 else None, result), sources))
    seen: set[Path | None] = set()
    for job in jobs:
        if job.result in seen:
            raise ValueError(f"{job.result}: expected a result of its own for each image, got two of this name")
        seen.add(job.result)
    return Plan(tuple(jobs), tuple(skipped), several)


def _checked(job: Job, sources: Set[Path]) -> Job:
    """Refuse to write over an input."""
    assert job.result is not None
    if job.result.resolve() in sources:
        raise ValueError(f"{job.result}: expected another file than the input, got the same")
    return job


class Manifest:
    """How the results of a folder were made, so that the same command does only what is missing.

    Args:
        settings: all that results depend on besides their pictures, of JSON's types.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._journals: dict[Path, Journal] = {}

    def done(self, job: Job) -> bool:
        """Whether a result is there, made from this very file with these settings."""
        if job.file is None or job.result is None or not (job.result.parent / MANIFEST).exists():
            return False
        return job.result.exists() and self._journal(job).find(self._settings, job.key) is not None

    def add(self, job: Job, **about: Any) -> None:
        """Note that a result was written."""
        if job.file is not None and job.result is not None:
            self._journal(job).keep(self._settings, job.key, about)

    def _journal(self, job: Job) -> Journal:
        assert job.result is not None
        folder = job.result.parent
        if folder not in self._journals:
            self._journals[folder] = Journal(folder / MANIFEST)
        return self._journals[folder]


@functools.cache
def _standard_input() -> io.BytesIO:
    return io.BytesIO(sys.stdin.buffer.read())
