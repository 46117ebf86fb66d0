"""The settings of all tasks and noise levels, and where they are written."""

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

import hvae_jax as hj
from hvae_jax.files import Journal
from hvae_jax.images import Squares
from hvae_jax.images.formats import FilePath
from hvae_jax.prior import Prior, load_prior, update_prior
from hvae_jax.restoration.recommended import tables_of
from hvae_jax.tuning.cases import FACTORS, Case, cases_of, pose, tuning_kernels
from hvae_jax.tuning.search import ONCE, START, STEPS, Row, Scores, search

TUNED = ("deblur", "sr", "inpaint", "denoise")
"""Tasks with settings of their own; that of JPEG artefacts takes those of deblurring."""

NOISE_LEVELS = (2.55, 7.65, 12.75, 25.5)
"""In grey levels of 255."""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Told the number of searches that are done, that of all, and in words what is going on."""


class Measurement(NamedTuple):
    """The scores of candidates for a case, of which only those are measured that the journal does not have.

    Attributes:
        prior: the prior.
        case: the images.
        batch: restorations in a compiled call.
        journal: keeps each restoration's PSNR.
        settings: what these depend on, beside case, candidate and image.
        tell: told in words what is going on.
    """

    prior: Prior
    case: Case
    batch: int
    journal: Journal
    settings: Mapping[str, Any]
    tell: Callable[[str], None]

    def scores(self, rows: Sequence[Row], count: int) -> list[Scores]:
        """What candidates with one number of iterations score on the first images."""
        pairs = [(row, image) for row in rows for image in range(count)]
        missing = [pair for pair in pairs if self._find(*pair) is None]
        for start in range(0, len(missing), self.batch):
            self.tell(f"{self.case.name}, σ = {self.case.sigma:g}: {start} of {len(missing)} restorations")
            part = missing[start : start + self.batch]
            for pair, (x, mean) in zip(part, self.case.scores(self.prior, part, self.batch), strict=True):
                self.journal.keep(self.settings, self._key(*pair), {"x": x, "mean": mean})
        found = [self._find(*pair) or {} for pair in pairs]
        parts = [found[start : start + count] for start in range(0, len(found), count)]
        return [Scores(tuple(one["x"] for one in part), tuple(one["mean"] for one in part)) for part in parts]

    def _find(self, row: Row, image: int) -> dict[str, Any] | None:
        return self.journal.find(self.settings, self._key(row, image))

    def _key(self, row: Row, image: int) -> dict[str, Any]:
        return {"task": self.case.name, "candidate": row, "image": image}


def tune(
    prior: Prior,
    images: Squares,
    folder: FilePath,
    *,
    tasks: Sequence[str] = TUNED,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    kernels: Float[np.ndarray, "K h w"] | None = None,
    seed: int = 0,
    batch: int = 6,
    rounds: int = 2,
    progress: Progress = lambda done, count, words: None,
) -> dict[str, list[Row]]:
    """Choose the settings of tasks and noise levels.

    Args:
        prior: the prior; if it is not noise-conditional, γ alone is annealed.
        images: photographs that it was not trained on; their sides are a multiple of the prior's.
        folder: where all that is measured is kept, in `measured.jsonl`: with the same arguments a search that was
            interrupted goes on where it was.
        tasks: of `TUNED`.
        noise_levels: σ in grey levels of 255, increasing.
        kernels: of deblurring; by default those of `tuning_kernels`.
        seed: of masks and noise, at least 0.
        batch: restorations in a compiled call; an accelerator has room for more.
        rounds: of neighbours in each search.
        progress: told what is going on.

    Returns:
        A table for each task, as a `prior.json` has them, with the PSNR that was measured and its standard error.

    Raises:
        ValueError: there is no such task, the noise levels do not increase from above 0, or the size of the images
            does not fit the prior or the kernels.
        OSError: the folder cannot be written.

    Example:
        >>> tables = tune(prior, read_squares("photographs", 176, 6), "runs/mine/tuning")
        >>> write_settings("runs/mine/prior", prior, tables, "my photographs")
    """
    kernels = tuning_kernels() if kernels is None else kernels
    check(prior, images.pixels.shape[1], tasks, noise_levels, kernels)
    journal = Journal(Path(folder) / "measured.jsonl")
    settings = {"prior": prior.digest, "config": repr(prior.config), "images": images.digest, "seed": seed}
    settings["version"] = hj.__version__  # another one may restore otherwise
    blurs = {"kernels": hashlib.sha256(kernels.tobytes()).hexdigest()}
    searches = cases_of(tasks, noise_levels)
    tables: dict[str, list[Row]] = {}
    chosen: Row = {}
    for done, (task, factor, sigma) in enumerate(searches):
        case = pose(task, factor, sigma, images.pixels, kernels, seed)
        start = {"noise_std": sigma, **(ONCE if task == "denoise" else START)}
        if sigma != noise_levels[0] and task != "denoise":
            start |= {name: chosen[name] for name in STEPS}
        about = settings | (blurs if task == "deblur" else {})
        measure = Measurement(prior, case, batch, journal, about, tell=functools.partial(progress, done, len(searches)))
        chosen, scores = search(measure.scores, start, len(images.names), rounds)
        row = {**chosen, "returns": scores.returns, "validation_psnr": round(float(np.mean(scores.better)), 3)}
        if (count := len(scores.better)) > 1:  # of one image there is no error
            row["validation_psnr_error"] = round(float(np.std(scores.better, ddof=1)) / math.sqrt(count), 3)
        tables.setdefault(task, []).append(row if factor is None else {**row, "factor": factor})
    progress(len(searches), len(searches), "done")
    return tables


def check(
    prior: Prior,
    size: int,
    tasks: Sequence[str],
    noise_levels: Sequence[float],
    kernels: Float[np.ndarray, "K h w"],
) -> None:
    """ValueError for what `tune` cannot do; see there."""
    if not tasks or (unknown := [task for task in tasks if task not in TUNED]):
        raise ValueError(f"expected tasks of {', '.join(TUNED)}, got {unknown[0] if tasks else 'none'!r}")
    above = [0.0, *noise_levels]
    if not noise_levels or not all(0 <= a < b < math.inf for a, b in itertools.pairwise(above)):
        raise ValueError(f"expected noise levels above 0 that increase, got {list(noise_levels)}")
    if prior.image_size not in (None, size):
        raise ValueError(f"expected squares of {prior.image_size} pixels, the only size of this prior, got {size}")
    multiple = math.lcm(prior.multiple, *(FACTORS if "sr" in tasks else ()))
    if size % multiple:
        raise ValueError(f"expected squares with a multiple of {multiple} pixels along each side, got {size}")
    if "deblur" in tasks and max(kernels.shape[1:]) > size:
        raise ValueError(f"expected kernels of at most the squares' {size} pixels, got {max(kernels.shape[1:])}")


def still_there(directory: FilePath, prior: Prior) -> Prior:
    """The prior in a folder; ValueError if it is not the one that was measured, `PriorError` if there is none."""
    now = load_prior(Path(directory).resolve())
    if now.digest != prior.digest:
        raise ValueError(f"{directory}: expected the prior that was measured, got another one, written meanwhile")
    return now


def write_settings(directory: FilePath, prior: Prior, tables: Mapping[str, list[Row]], measured_on: str) -> None:
    """Put tables of settings into a prior's `prior.json`, all or nothing; tables of other tasks stay as they are.

    A table under a former name of its task is replaced. One named "default", which deblurring's was once called, goes
    when deblurring is written; the tasks that have no table but that one keep its settings under their own names.

    Args:
        directory: the prior's folder.
        prior: the prior that was measured.
        tables: a table for each task.
        measured_on: the photographs, in words.

    Raises:
        PriorError: the folder holds no prior.
        ValueError: it holds another one by now, as trainings write.
    """
    now = still_there(directory, prior)
    known: dict[str, Any] = tables_of(now)
    if "deblur" in tables and (default := known.pop("default", None)):
        shared = [{name: row[name] for name in row if not name.startswith("validation_")} for row in default]
        known = dict.fromkeys(TUNED, shared) | known
    before = now.info.get("settings_measured_on")
    if set(known) - set(tables) and before != measured_on:  # then it is not what all tables were measured on
        measured_on = f"{measured_on} ({', '.join(tables)})" + (f"; before that, {before}" if before else "")
    update_prior(directory, settings={**known, **tables}, settings_measured_on=measured_on)
