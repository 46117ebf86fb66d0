"""Files and folders of photographs: what is to be restored, where results go, and what is done already."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import hvae_jax as hj
from hvae_jax.files import Journal, digest_of, read_rows

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
        several: whether that is a folder of results.
    """

    file: Path | None
    page: int | None
    result: Path | None
    several: bool = False

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
        folder: which one.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Path, ...]
    several: bool
    folder: Path | None = None

    def name(self, job: Job) -> str:
        """Of a job's result below the folder of results."""
        assert job.result is not None
        assert self.folder is not None
        return job.result.relative_to(self.folder).as_posix()


def plan(
    inputs: Sequence[str], out: str, *, recursive: bool = False, pages: bool = False, besides: str | None = None
) -> Plan:
    """Find the pictures and where their results go.

    Args:
        inputs: files, folders, or "-" alone for standard input.
        out: a file for one picture, "-" for standard output, or a folder (it exists, ends in a slash, has no ending, or
            there are several pictures).
        recursive: sub-folders too, but not those where results go; results are in sub-folders of the same names.
        pages: each page of a TIFF file is a picture; its number goes into the result's name.
        besides: where other results go.

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
        results = [Path(where).resolve() for where in (out, besides) if where is not None] if path.is_dir() else []
        within = [where for where in results if path.resolve() in where.parents]
        files = [file for file in files if not any(where in file.resolve().parents for where in within)]
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
            jobs.append(_checked(Job(file, page if count > 1 else None, result, several), sources))
    seen: set[Path | None] = set()
    for job in jobs:
        if job.result in seen:
            raise ValueError(f"{job.result}: expected a result of its own for each image, got two of this name")
        seen.add(job.result)
    return Plan(tuple(jobs), tuple(skipped), several, folder)


def _checked(job: Job, sources: Set[Path]) -> Job:
    """Refuse to write over an input."""
    assert job.result is not None
    if job.result.resolve() in sources:
        raise ValueError(f"{job.result}: expected another file than the input, got the same")
    return job


class Shard(NamedTuple):
    """A share of a folder's pictures, for one of several processes.

    Attributes:
        number: from 1 on.
        among: how many shards there are.
        source: what said so, in words.
    """

    number: int = 1
    among: int = 1
    source: str = "--shard"

    @classmethod
    def of(cls, text: str | None, environment: Mapping[str, str]) -> Shard:
        """From `--shard I/N`, or from what Slurm or Kubernetes tell the process of an array of jobs.

        Args:
            text: "I/N", with I from 1 to N, or None.
            environment: SLURM_ARRAY_TASK_ID, _MIN and _COUNT, or JOB_COMPLETION_INDEX and JOB_COMPLETIONS (which
                a job's description has to set).

        Raises:
            ValueError: it is none.
        """
        source = "--shard"
        if text is None and "SLURM_ARRAY_TASK_ID" in environment:
            source = "SLURM_ARRAY_TASK_ID"
            first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
            text = f"{_whole(environment[source]) - _whole(first) + 1}/{environment.get('SLURM_ARRAY_TASK_COUNT', '')}"
        elif text is None and "JOB_COMPLETION_INDEX" in environment:
            source = "JOB_COMPLETION_INDEX"
            text = f"{_whole(environment[source]) + 1}/{environment.get('JOB_COMPLETIONS', '')}"
        if text is None:
            return cls()
        return cls(*one_of(text, source), source)

    def has(self, name: str) -> bool:
        """Whether a picture is in it, by its path below the folder of results: the same on each machine."""
        return int(hashlib.sha256(name.encode()).hexdigest(), 16) % self.among == self.number - 1


def one_of(text: str, name: str) -> tuple[int, int]:
    """The numbers of "I/N", with I from 1 to N; ValueError, with the name of what said so, where it is none."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"expected {name} as I/N with I from 1 to N, got {text}")
    return int(number), int(count)


def _whole(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else -1


class Manifest:
    """How the results of a folder were made, so that the same command does only what is missing.

    Each process writes a file of its own, and reads all of them: a line of JSON for each picture.

    Args:
        settings: all that results depend on besides their pictures, of JSON's types.
        writer: what tells this process from others that write results beside it; empty for the only one.
    """

    def __init__(self, settings: Mapping[str, Any], writer: str = "") -> None:
        self._settings, self._digest = settings, digest_of(settings)
        self._name = f"{MANIFEST.removesuffix('.jsonl')}-{writer}.jsonl" if writer else MANIFEST
        self._journals: dict[Path, Journal] = {}
        self._last: dict[Path, dict[tuple[Any, Any], dict[str, Any]]] = {}

    def wrote(self, job: Job) -> dict[str, Any] | None:
        """What was noted of a result that is there, made from this very file with these settings; else None.

        What was written last counts: with other settings it has been replaced.
        """
        if job.file is None or job.result is None or not job.result.exists():
            return None
        row = self._written(job.result.parent).get((job.result.name, job.page))
        is_of_this = row is not None and (row["settings"], row["key"]) == (self._digest, job.key)
        return row["values"] if row is not None and is_of_this else None

    def done(self, job: Job, uncertainty: Path | None = None) -> bool:
        """Whether nothing is left to do: of the map of its uncertainty neither, where one can be had."""
        about = self.wrote(job)
        return about is not None and (uncertainty is None or uncertainty.exists() or not about.get("map", True))

    def forget(self) -> None:
        """Read the manifests anew when they are needed, for others may have written since."""
        self._last.clear()

    def add(self, job: Job, **about: Any) -> None:
        """Note that a result was written, if it is one of a folder's."""
        if job.several and job.result is not None:
            row = self._journal(job).keep(self._settings, job.key, {**about, "time": time.time()})
            self._written(job.result.parent)[job.result.name, job.page] = row

    def add_failure(self, job: Job, sentence: str) -> None:
        """Note what was wrong with a picture, if it is one of a folder's."""
        if job.several and job.file is not None and job.file.exists():
            about = {"file": str(job.file), "error": sentence, "time": time.time()}
            self._journal(job).keep({"failure": True}, job.key, about)

    def _written(self, folder: Path) -> dict[tuple[Any, Any], dict[str, Any]]:
        """The last row of each result and page in a folder; read once, for there may be very many."""
        if folder not in self._last:
            rows = in_order(manifests(folder))
            made = (row for row in rows if "error" not in row["values"])
            self._last[folder] = {(row["key"].get("result"), row["key"].get("page")): row for row in made}
        return self._last[folder]

    def _journal(self, job: Job) -> Journal:
        assert job.result is not None
        folder = job.result.parent
        if folder not in self._journals:
            self._journals[folder] = Journal(folder / self._name)
        return self._journals[folder]


def manifests(folder: Path) -> list[Path]:
    """The manifests beside the results in a folder."""
    return sorted(folder.glob(f"{MANIFEST.removesuffix('.jsonl')}*.jsonl"))


def in_order(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of manifests as they were written, by the clocks of those who wrote them."""
    return sorted((row for path in paths for row in read_rows(path)), key=lambda row: row["values"].get("time", 0.0))


class Summary(NamedTuple):
    """What manifests say of a folder of results, and of those below it.

    Attributes:
        done: pictures that were restored.
        warned: of these, with a warning.
        missing: of these, whose results are no more.
        failures: what was wrong with pictures that were not restored since, by their files.
    """

    done: int
    warned: int
    missing: int
    failures: dict[str, str]


def summary(folder: Path) -> Summary:
    """Sum up the manifests of a folder of results.

    Raises:
        ValueError: there is none.
    """
    if not folder.is_dir() or not (found := sorted(folder.rglob(f"{MANIFEST.removesuffix('.jsonl')}*.jsonl"))):
        raise ValueError(f"{folder}: expected a folder of results with a manifest, as restore makes them, got none")
    results: dict[tuple[Path, Any], dict[str, Any]] = {}
    failures: dict[tuple[Path, Any], dict[str, Any]] = {}
    for parent in dict.fromkeys(path.parent for path in found):
        for row in in_order(path for path in found if path.parent == parent):
            key = (parent / row["key"]["result"], row["key"]["page"])
            into, other = (failures, results) if "error" in row["values"] else (results, failures)
            into[key] = row["values"]
            other.pop(key, None)  # what came last counts
    return Summary(
        len(results),
        sum(bool(about.get("warnings")) for about in results.values()),
        sum(not path.exists() for path, _ in results),
        {about["file"]: about["error"] for about in failures.values()},
    )


@functools.cache
def _standard_input() -> io.BytesIO:
    return io.BytesIO(sys.stdin.buffer.read())
