"""The loop of `hvae-jax restore`: what is missing is read ahead, restored and written, and each failure is told."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import typer

import hvae_jax as hj
from hvae_jax import folders
from hvae_jax.cli.reports import (
    Failures,
    Pictures,
    check_reference,
    quality_in_words,
    reference_of,
    write_map,
    write_standard_output,
)
from hvae_jax.cli.shared import GREY_LEVELS
from hvae_jax.files import remove_strays
from hvae_jax.folders import Job
from hvae_jax.progress import progress_bar

CHECKED_FIRST = 64
"""Pictures whose mistakes are known before the first is restored; those of others when it is their turn."""

FEW_SIZES = 4
"""Sizes of pictures up to which each is compiled for; more are rounded up to fewer."""

Target: TypeAlias = tuple[Job, Path | None]
"""A picture, and where the map of its uncertainty goes."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What is the same for all pictures of a command.

    Attributes:
        check: refuses a picture that cannot be restored, and gives the result's height and width.
        restore: restores one.
        manifest: how the results were made.
        reference: the clean image, or a folder of them.
        side: of results that are resized.
        values: that are black and white; None where pictures tell.
        note: what is said of each, at the end of its line.
        overwrite: whether results may be replaced.
        resume: whether those that are done are left out.
        strip: whether metadata are.
        strict: whether a warning is a failure.
        save_kernel: where the kernel goes that was estimated.
        keep_going: whether the others are restored where one cannot be.
        out_is_standard: whether the result goes to standard output.
        cleared: folders of results from which what killed processes left was removed.
        sizes: heights and widths of the results of all pictures that were looked at.
    """

    check: Callable[[hj.images.Image], tuple[int, int]]
    restore: Callable[..., hj.Restored]
    manifest: folders.Manifest
    reference: Path | None
    side: int | None
    values: tuple[float, float] | None
    note: str
    overwrite: bool
    resume: bool
    strip: bool
    strict: bool
    save_kernel: Path | None
    keep_going: bool
    out_is_standard: bool
    cleared: set[Path] = dataclasses.field(default_factory=set)
    sizes: set[tuple[int, int]] = dataclasses.field(default_factory=set)

    def __call__(self, targets: Sequence[Target]) -> int:
        """Restore what is missing.

        Args:
            targets: all pictures of the command.

        Returns:
            The exit code.

        Raises:
            ValueError: a picture cannot be restored, and the others are not to be.
            OSError: a file cannot be read or written, likewise.
        """
        missing = self.missing(targets)
        for job, uncertainty in missing:
            for path in (job.result, uncertainty):
                if path is not None:
                    hj.images.check_writable(path, self._may_replace(job))
        pictures, failures = Pictures(), Failures(self.keep_going, self.manifest)
        for job, _ in missing[:CHECKED_FIRST]:  # the last file's mistake is known before the first is restored
            with failures.of(job):
                self._checked(pictures.read(job), job)
        for folder in {job.result.parent for job, _ in missing if job.result is not None} - self.cleared:
            remove_strays(folder)
            self.cleared.add(folder)
        todo = [target for target in missing if target[0] not in failures]
        with progress_bar() as progress:
            bar = progress.add_task("", total=len(missing), completed=len(missing) - len(todo))
            pieces = progress.add_task("tiles", total=1, visible=False)

            def tell(done: int, count: int) -> None:
                progress.update(pieces, completed=done, total=count, visible=True)

            for (job, uncertainty), read in _ahead(todo, pictures):
                progress.update(bar, description=f"restoring {job}")
                with failures.of(job):
                    self._one(job, uncertainty, read(), failures, tell)
                progress.update(pieces, visible=False)
                progress.advance(bar)
        return failures.exit_code()

    def missing(self, targets: Sequence[Target]) -> list[Target]:
        """The pictures that are not done."""
        missing = [target for target in targets if not (self.resume and self.manifest.done(*target))]
        if len(missing) < len(targets):
            typer.echo(
                f"{len(targets) - len(missing)} of {len(targets)} are done already "
                "(--no-resume or --overwrite restores them anew)"
            )
        return missing

    def _may_replace(self, job: Job) -> bool:
        """Whether its result may be written where there is one: it was asked for, or is of this command, stopped."""
        return self.overwrite or (self.resume and self.manifest.wrote(job) is not None)

    def _checked(self, picture: hj.images.Image, job: Job) -> hj.images.Image:
        shape = self.check(picture)
        self.sizes.add(shape)
        if (clean := reference_of(self.reference, job.file)) is not None:
            check_reference(clean, (*shape, picture.pixels.shape[-1]), self.side)
        return picture

    def _one(
        self,
        job: Job,
        uncertainty: Path | None,
        picture: hj.images.Image,
        failures: Failures,
        tell: Callable[[int, int], None],
    ) -> None:
        start = time.perf_counter()
        kept = None if job.result is None else job.result.parent
        picture = self._checked(picture, job)
        done = self.restore(picture, progress=tell, resume=kept, few_sizes=len(self.sizes) > FEW_SIZES)
        seconds = time.perf_counter() - start
        where = "standard output" if job.result is None else job.result
        if done.status is hj.Status.NOT_FINITE:
            failures.add(job, f"the iteration diverged after {done.iterations} steps; {where} was not written")
            return
        from hvae_jax.images.formats import FITS, NPY, TIFF
        from hvae_jax.photographs.posing import range_of

        replaces, values = self._may_replace(job), range_of(picture, self.values)
        result = done.image._replace(metadata=hj.images.Metadata()) if self.strip else done.image
        words = f"{done.in_words(seconds)}{self.note}"
        if values is not None and (job.result is None or job.result.suffix.lower() not in NPY + TIFF + FITS):
            result = result._replace(pixels=values.to_unit(result.pixels))
            words += f"; its values from {values.low:g} to {values.high:g} are black to white in the file"
        if job.result is None:
            write_standard_output(result)
        else:
            hj.write_photograph(job.result, result, overwrite=replaces)
            about = {"noise_std": round(GREY_LEVELS * done.noise_std, 3), "warnings": list(done.warnings)}
            self.manifest.add(job, **about, map=done.deviation is not None)
        words += quality_in_words(picture, done, reference_of(self.reference, job.file), values)
        typer.echo(f"{where}: {words}", err=self.out_is_standard)
        if self.save_kernel is not None and done.estimate is not None and done.estimate.kernel is not None:
            hj.images.write_kernel(self.save_kernel, done.estimate.kernel, overwrite=self.overwrite)
        for warning in done.warnings:
            typer.echo(f"{job}: {warning}", err=True)
        if self.strict and done.warnings:
            failures.count += 1
        if uncertainty is not None and done.deviation is not None:
            write_map(uncertainty, done, replaces)
        elif uncertainty is not None and not done.left:  # of which a warning tells
            failures.add(job, f"{uncertainty} was not written, as there is nothing to draw from")


def _ahead(targets: Sequence[Target], pictures: Pictures) -> Iterator[tuple[Target, Callable[[], Any]]]:
    """Each picture, with the function that gives it or raises what was wrong; the next one is read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        reads = (reader.submit(pictures.take, job) for job, _ in targets)
        following = next(reads, None)
        for target in targets:
            assert following is not None
            read, following = following, next(reads, None)
            yield target, read.result
