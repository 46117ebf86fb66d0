"""Choose the settings that a prior recommends, on validation images, and write them into its prior.json.

For each task and noise level σ the search looks for the largest mean PSNR over images that are degraded each in another
way (kernels or masks take turns), over the settings that `recommended_config` explains: γ/s and its exponent, by which
the data step trusts the prior, the first noise level s of the annealing, the last one in units of σ (also below σ), the
temperature τ, and the number of iterations K.

A round measures a centre and two neighbours in each setting, on half of the images. The next centre takes of each
setting, all at once, where the parabola through its three points is highest; a setting that made no difference stays as
it is. The last centre and the best candidate are then compared on all images, and the better one gets longer schedules
as long as these gain something, or else a shorter one. Two things make this cheaper than one setting after the other
over a grid, and it is finer. A round is one batch: temperature, γ and s are numbers per image, so that all its
candidates run in one program, compiled once per task and K. And the settings are ratios, whose best values change
little with σ: a noise level starts from what the one before chose.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

import hvae_jax as hj
from benchmarks.experiment import Run, settings_of, standard_error
from benchmarks.experiments.common import digest
from benchmarks.problems import SUPER_RESOLUTION_KERNEL, load_kernels
from hvae_jax.files import write_atomically
from hvae_jax.images import Squares, make_mask
from hvae_jax.metrics import psnr
from hvae_jax.operators import Blur, Denoising, Inpainting, Operator, SuperResolution
from hvae_jax.prior import Prior
from hvae_jax.restoration.recommended import config_from_rows
from hvae_jax.restoration.settings import RestoreConfig

Row: TypeAlias = dict[str, Any]
"""Of a table of settings in a `prior.json`: see `recommended_config`."""

TASKS = ("Blur", "SuperResolution", "Inpainting", "Denoising")
FACTORS = (2, 4)
"""Of super-resolution."""
NOISE_LEVELS = (2.55, 7.65, 12.75, 25.5)
"""In grey levels of 255."""
KERNELS = ("k4", "k9", "k7", "k11")
"""The paper's four, ordered so that the first two are a Gaussian and a motion blur."""
MASKS = ("random70", "random30", "boxes", "text")

START: Row = {
    "temperature": 1.0,
    "anneal_from": 49.0,
    "anneal_to": 1.0,  # for small σ: no image is cleaner than its 8 bits and its camera
    "anneal_to_per_noise_std": 1.0,
    "decoder_std_per_noise_level": 2.09,  # 0.23^-½, of DPIR
    "decoder_std_exponent": 1.0,
    "max_iterations": 8,
    "initial": "image",
    "returns": "x",  # the better iterate is found when all else is
}
"""Where the search begins: the schedule of DPIR (Zhang et al. 2021)."""

ONCE: Row = {**START, "anneal_from": 0.0, "decoder_std_exponent": 0.0, "max_iterations": 1}
"""Where that of denoising does: one evaluation at s = σ is what a prior is trained for."""

STEPS = {
    "decoder_std_per_noise_level": 1.4,
    "decoder_std_exponent": 1.3,
    "anneal_from": 1.6,
    "anneal_to_per_noise_std": 1.5,
    "temperature": 1.06,
}
"""Ratios of a setting to its neighbours; a setting that is 0 has no meaning at this start and is left."""

LEAST_GAIN = 0.02
"""What makes a difference, in dB: what a longer schedule must bring."""

LONGEST = 24
"""Most iterations."""


class Scores(NamedTuple):
    """PSNR of the two iterates, of each image.

    Attributes:
        x: of the last data step.
        mean: of the last decoded mean.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]

    @property
    def returns(self) -> str:
        """The better iterate."""
        return "x" if np.mean(self.x) > np.mean(self.mean) else "mean"

    @property
    def better(self) -> tuple[float, ...]:
        """Its PSNR."""
        return self.x if self.returns == "x" else self.mean


Measure: TypeAlias = Callable[[Sequence[Row], int], list[Scores]]
"""Of candidates with one number of iterations, on the first images."""


class Case(NamedTuple):
    """A task at a noise level: the images, each degraded in its way.

    Attributes:
        task: the operator's class.
        factor: of super-resolution, or None.
        sigma: in grey levels of 255.
        clean: the images.
        observed: their observations.
        operator: makes the operator of a batch, from the images' numbers.
    """

    task: str
    factor: int | None
    sigma: float
    clean: Float[np.ndarray, "N H W 3"]
    observed: Float[np.ndarray, "N h w 3"]
    operator: Callable[[Sequence[int]], Operator]

    @property
    def name(self) -> str:
        """In words."""
        return self.task if self.factor is None else f"{self.task} x{self.factor}"

    def measure(self, prior: Prior, rows: Sequence[Row], count: int, batch: int) -> list[Scores]:
        """Restore the first images with each candidate, in calls of one size.

        Args:
            prior: the prior.
            rows: candidates with one number of iterations.
            count: number of images.
            batch: restorations in a call.

        Returns:
            What each candidate scores.
        """
        pairs = [(config_from_rows([row], self.sigma / 255, prior.levels), i) for row in rows for i in range(count)]
        scores: list[tuple[float, float]] = []
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            configs, images = zip(*part, *part[-1:] * (batch - len(part)), strict=True)
            index = list(images)
            out = hj.restore(prior, self.observed[index], self.operator(index), self.sigma / 255, joined(configs))
            both = zip(psnr(out.x, self.clean[index]), psnr(out.mean, self.clean[index]), strict=True)
            scores += [(float(x), float(mean)) for x, mean in both][: len(part)]
        x, mean = np.array(scores).reshape(len(rows), count, 2).round(4).transpose(2, 0, 1).tolist()
        return [Scores(tuple(a), tuple(b)) for a, b in zip(x, mean, strict=True)]


def joined(configs: Sequence[RestoreConfig]) -> RestoreConfig:
    """Settings of single images, with schedules of one length, as those of a batch."""

    def side_by_side(name: str) -> np.ndarray:
        return np.concatenate([getattr(config, name) for config in configs], axis=1)

    return configs[0].replace(
        temperature=np.stack([np.atleast_1d(config.temperature) for config in configs]),
        decoder_std=side_by_side("decoder_std"),
        noise_level=side_by_side("noise_level"),
        returns="x",
    )


def pose(
    task: str, factor: int | None, sigma: float, images: Float[np.ndarray, "N H W 3"], kernels: Path | None, seed: int
) -> Case:
    """Degrade the images for a task.

    Args:
        task: of `TASKS`.
        factor: of super-resolution, else None.
        sigma: the noise's deviation in grey levels of 255.
        images: the clean images.
        kernels: an .npz file of blur kernels; by default the one that is here.
        seed: of masks and noise.

    Returns:
        The case.
    """
    operator = degradations(task, factor, images.shape[1], kernels, seed)
    y = np.asarray(operator(range(len(images)))(images))
    noise = sigma / 255 * np.random.default_rng(seed).standard_normal(y.shape, np.float32)
    return Case(task, factor, sigma, images, y + noise, operator)


def degradations(
    task: str, factor: int | None, size: int, kernels: Path | None, seed: int
) -> Callable[[Sequence[int]], Operator]:
    """What makes a task's operator of a batch from the images' numbers; kernels and masks take turns."""
    if task == "Blur":
        blurs = np.stack(list(load_kernels(kernels, KERNELS).values()))
        return lambda index: Blur(blurs[np.array(index) % len(blurs)])
    if task == "Inpainting":
        masks = np.stack([make_mask(kind, size, seed) for kind in MASKS])[..., None]
        return lambda index: Inpainting(masks[np.array(index) % len(masks)])
    if factor is not None:
        (kernel,) = load_kernels(kernels, (SUPER_RESOLUTION_KERNEL,)).values()
        return lambda index: SuperResolution(kernel, factor)
    return lambda index: Denoising()


def neighbours(row: Row, name: str) -> list[float]:
    """The values on both sides of a row's setting; τ is at most 1, and the last s at least `anneal_to`."""
    least = row["anneal_to"] / row["noise_std"] if name == "anneal_to_per_noise_std" else 0.0
    most = 1.0 if name == "temperature" else np.inf
    values = {rounded(min(max(row[name] * ratio, least), most)) for ratio in (1 / STEPS[name], STEPS[name])}
    return sorted(values - {row[name]})


def peak(line: Mapping[float, float]) -> float:
    """Where the parabola through a line of value -> quality is highest, over log value; else the best value."""
    best = max(line, key=line.__getitem__)
    if len(line) < 3:
        return best
    curvature, slope, _ = np.polyfit(np.log(list(line)), list(line.values()), 2)
    if curvature > -1e-6:  # no parabola that has a top
        return best
    return rounded(np.clip(np.exp(-slope / (2 * curvature)), min(line), max(line)))


def rounded(value: float) -> float:
    """To three digits, so that `prior.json` can be read."""
    return float(f"{value:.3g}")


def longer(row: Row) -> Row:
    """With half as many iterations more; a single evaluation becomes a schedule that begins with it."""
    count = row["max_iterations"]
    more = {**row, "max_iterations": count + max(count // 2, 1)}
    if count > 1:
        return more
    last = row["anneal_to_per_noise_std"]
    halved = {"anneal_from": rounded(last * row["noise_std"]), "anneal_to_per_noise_std": rounded(last / 2)}
    return {**more, **halved, "decoder_std_exponent": 1.0}


def search(measure: Measure, start: Row, count: int, rounds: int = 2) -> tuple[Row, Scores]:
    """The settings with the best PSNR that the search of this module finds.

    Args:
        measure: gives candidates' scores on the first images.
        start: the first centre, with its "noise_std".
        count: number of images.
        rounds: of neighbours, at most.

    Returns:
        The row and its scores on all images.
    """

    def quality(scores: Scores) -> float:
        return float(np.mean(scores.better))

    half, centre = max(count // 2, 1), start
    names = [name for name in STEPS if start[name] > 0]
    best = (-np.inf, start)
    for _ in range(rounds):
        around = {(name, value): {**centre, name: value} for name in names for value in neighbours(centre, name)}
        rows = [centre, *around.values()]
        middle, *qualities = map(quality, measure(rows, half))
        best = max([best, *zip([middle, *qualities], rows, strict=True)], key=itemgetter(0))
        lines = {name: {centre[name]: middle} for name in names}
        for (name, value), one in zip(around, qualities, strict=True):
            lines[name][value] = one
        names = [name for name, line in lines.items() if np.ptp(list(line.values())) > LEAST_GAIN]
        centre = {**centre, **{name: peak(lines[name]) for name in names}}
    finalists = [best[1]] if centre == best[1] else [best[1], centre]  # the last centre was not measured yet
    scored = zip(measure(finalists, count), finalists, strict=True)
    scores, row = max(scored, key=lambda pair: quality(pair[0]))

    while (more := longer(row))["max_iterations"] <= LONGEST:
        (new,) = measure([more], count)
        if quality(new) < quality(scores) + LEAST_GAIN:
            break
        scores, row = new, more
    if start["max_iterations"] == row["max_iterations"] > 1:
        fewer = {**row, "max_iterations": row["max_iterations"] * 2 // 3}
        (new,) = measure([fewer], count)
        if quality(new) >= quality(scores):
            scores, row = new, fewer
    return row, scores


def tune(
    prior: Prior,
    images: Squares,
    run: Run,
    *,
    tasks: Sequence[str] = TASKS,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    kernels: Path | None = None,
    seed: int = 0,
    batch: int = 6,
    rounds: int = 2,
) -> dict[str, list[Row]]:
    """Search the settings of all tasks and noise levels.

    Args:
        prior: the prior; if it is not noise-conditional, γ alone is annealed.
        images: validation images.
        run: keeps what was measured.
        tasks: of `TASKS`.
        noise_levels: in grey levels of 255, increasing.
        kernels: an .npz file of blur kernels; by default the one that is here.
        seed: of masks and noise.
        batch: restorations in a compiled call.
        rounds: of each search.

    Returns:
        Tables as `prior.json` has them; deblurring's is the "default".

    Raises:
        ValueError: there is no such task, or the noise levels do not increase from above 0.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"expected tasks of {', '.join(TASKS)}, got {unknown[0]!r}")
    if not noise_levels or min(noise_levels) <= 0 or sorted(set(noise_levels)) != list(noise_levels):
        raise ValueError(f"expected noise levels above 0 that increase, got {list(noise_levels)}")
    kinds = [(task, factor) for task in tasks for factor in (FACTORS if task == "SuperResolution" else (None,))]
    searches = [(task, factor, sigma) for task, factor in kinds for sigma in noise_levels]
    run.expect(len(searches) * (rounds * (1 + 2 * len(STEPS)) + 3))  # about
    settings: dict[str, list[Row]] = {}
    chosen: Row = {}
    for task, factor, sigma in searches:
        case = pose(task, factor, sigma, images.pixels, kernels, seed)
        start = {"noise_std": sigma, **(ONCE if task == "Denoising" else START)}
        if sigma != noise_levels[0] and task != "Denoising":
            start |= {name: chosen[name] for name in STEPS}
        chosen, scores = search(partial(remembered, run, prior, case, batch), start, len(images.names), rounds)
        quality, error = float(np.mean(scores.better)), standard_error(scores.better)
        row = {**chosen, "returns": scores.returns, "validation_psnr": round(quality, 3)}
        row |= {} if np.isnan(error) else {"validation_psnr_error": round(error, 3)}  # of one image there is none
        row |= {} if factor is None else {"factor": factor}
        settings.setdefault("default" if task == "Blur" else task, []).append(row)
        print(f"{case.name}, σ = {sigma}: {quality:.2f} dB with {row}", flush=True)
    return settings


def remembered(run: Run, prior: Prior, case: Case, batch: int, rows: Sequence[Row], count: int) -> list[Scores]:
    """`Case.measure`, of which the run keeps each candidate."""
    new: dict[int, Scores] = {}

    def compute(i: int) -> dict[str, Any]:
        if not new:  # the first that is missing brings all that follow, in one batch
            new.update(enumerate(case.measure(prior, rows[i:], count, batch), start=i))
        return new[i]._asdict()

    keys = [{"task": case.name, "σ": case.sigma, "images": count, "candidate": row} for row in rows]
    found = [run.row(key, partial(compute, i)) for i, key in enumerate(keys)]
    return [Scores(**{name: tuple(values) for name, values in one.items()}) for one in found]


COLUMNS = {
    "noise_std": "σ",
    "decoder_std_per_noise_level": "γ/s",
    "decoder_std_exponent": "exponent",
    "anneal_from": "first s",
    "anneal_to_per_noise_std": "last s/σ",
    "temperature": "τ",
    "max_iterations": "iterations",
    "returns": "returns",
    "validation_psnr": "PSNR",
    "validation_psnr_error": "± PSNR",
}


def write_settings(directory: Path, settings: dict[str, list[Row]], measured_on: str) -> None:
    """Put tables of settings into a prior's `prior.json`, all or nothing; tables of other tasks stay as they are.

    Args:
        directory: of the prior.
        settings: a table per task.
        measured_on: in words.
    """
    path = directory / "prior.json"
    description = json.loads(path.read_text())
    description["settings"] = {**description.get("settings", {}), **settings}
    description["settings_measured_on"] = measured_on
    write_atomically(path, (json.dumps(description, indent=2) + "\n").encode())


def main(
    directory: Path, images: Squares, out: Path, command: str, *, kernels: Path | None, seed: int, **options: Any
) -> None:
    """Tune the prior in a directory and write its settings.

    Args:
        directory: of the prior.
        images: validation images.
        out: folder of the results, where what was measured is kept.
        command: the whole command, for the results.
        kernels: see `tune`.
        seed: see `tune`.
        options: the others of `tune`.

    Raises:
        ValueError: it is no prior's directory, or an option does not fit.
    """
    if not (directory / "prior.json").is_file():
        raise ValueError(f"expected the folder of a prior, whose prior.json is to be written, got {directory}")
    prior = hj.load_prior(directory.resolve())
    given = {} if kernels is None else {"kernels": f"{kernels.name} ({digest(kernels)})"}
    about = settings_of(prior, str(directory), images, seed=seed, **given)
    with Run("tune", "Recommended settings", "none", out, command, about) as run:
        settings = tune(prior, images, run, kernels=kernels, seed=seed, **options)
        write_settings(directory, settings, images.source)
        lines = [
            [f"{task} x{row['factor']}" if "factor" in row else task, *(row.get(name) for name in COLUMNS)]
            for task, rows in settings.items()
            for row in rows
        ]
        note = "PSNR of the better iterate: mean and standard error over the images, each degraded in another way."
        run.table(f"Settings in {directory / 'prior.json'}", ["task", *COLUMNS.values()], lines, notes=[note])
        run.finish()
