"""What holds quality back: short trainings that differ from a baseline in one thing, all measured alike.

A variant is a line of `VARIANTS`. Trainings go on where they were interrupted, and finished ones are not repeated.
"""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

import hvae_jax as hj
from benchmarks import problems
from benchmarks.command import AddOption, names_of
from benchmarks.experiment import Run, plus_minus, prior_name
from benchmarks.experiments.common import Options, digest, paper_experiment
from benchmarks.experiments.common import config as config_of
from benchmarks.measures import PHOTOGRAPHS, elbo, train
from benchmarks.methods import Method
from benchmarks.problems import Problem, observe
from hvae_jax.files import write_atomically
from hvae_jax.models.patch_vdvae import Resolution
from hvae_jax.operators import Denoising, Operator
from hvae_jax.prior import Prior
from hvae_jax.training import TrainConfig
from hvae_jax.training.state import grown, initial_params

TITLE, PAPER = "What holds quality back", "not in the paper"
BASELINE = Path(__file__).parents[1] / "data" / "small.stage1.json"
DENOISING = (2.55, 7.65, 15.0, 25.0, 50.0)
"""Noise levels in grey levels of 255."""


def times(factor: float) -> Callable[[int], int]:
    """A number of channels or levels, multiplied and rounded."""
    return lambda count: max(1, math.floor(factor * count + 0.5))


def add_coarsest(resolutions: tuple[Resolution, ...]) -> tuple[Resolution, ...]:
    """One more resolution below the coarsest, of its kind."""
    return (resolutions[0], dataclasses.replace(resolutions[0], stride=2), *resolutions[1:])


def drop_coarsest(resolutions: tuple[Resolution, ...]) -> tuple[Resolution, ...]:
    """One resolution less."""
    return (dataclasses.replace(resolutions[1], stride=1), *resolutions[2:])


WIDTHS = ("width", "bottleneck", "posterior_bottleneck", "encoder_width", "encoder_bottleneck", "skip_width")

VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "decoder-std-0.01": {"loss.decoder_std": 0.01},
    "decoder-std-0.005": {"loss.decoder_std": 0.005},
    "decoder-std-0.002": {"loss.decoder_std": 0.002},
    "decoder-std-learned": {"loss.decoder_std": None},
    "decoder-slope-0.35": {"loss.decoder_std_slope": 0.35},
    "decoder-slope-0.1": {"loss.decoder_std_slope": 0.1},
    "decoder-slope-0.05": {"loss.decoder_std_slope": 0.05},
    "noise-max-0.1": {"loss.noise_max": 0.1},
    "noise-max-0.2": {"loss.noise_max": 0.2},
    "noise-max-0.3": {"loss.noise_max": 0.3},
    "noise-power-1": {"loss.noise_power": 1.0},
    "noise-power-2": {"loss.noise_power": 2.0},
    "noise-power-3": {"loss.noise_power": 3.0},
    "iterates-0": {"loss.iterate_fraction": 0.0},
    "iterates-0.25": {"loss.iterate_fraction": 0.25},
    "iterates-0.5": {"loss.iterate_fraction": 0.5},
    "auxiliary-0": {"loss.auxiliary_weight": 0.0},
    "auxiliary-1": {"loss.auxiliary_weight": 1.0},
    "kl-balanced-0": {"loss.gamma_steps": 0},
    "kl-balanced-500": {"loss.gamma_steps": 500},
    "adam": {"optimizer.name": "adam"},
    "muon": {"optimizer.name": "muon"},
    "crop-32": {"crop_size": 32},
    "crop-64": {"crop_size": 64},
    "crop-96": {"crop_size": 96},
    "latents-x0.5": {"model.resolutions.*.latent_channels": times(0.5)},
    "latents-x2": {"model.resolutions.*.latent_channels": times(2)},
    "groups-x0.5": {"model.resolutions.*.levels": times(0.5)},
    "groups-x2": {"model.resolutions.*.levels": times(2)},
    "groups-finest-x2": {"model.resolutions.-1.levels": times(2)},
    "resolution-less": {"model.resolutions": drop_coarsest},
    "resolution-more": {"model.resolutions": add_coarsest},
    "encoder-blocks-x2": {"model.resolutions.*.encoder_blocks": times(2)},
    "input-kernel-1": {"model.input_kernel": 1},
    "input-kernel-5": {"model.input_kernel": 5},
    "output-kernel-1": {"model.output_kernel": 1},
    "output-kernel-5": {"model.output_kernel": 5},
    "width-x1.5": {f"model.resolutions.*.{name}": times(1.5) for name in WIDTHS},
}
"""Name -> what differs from the baseline: a setting of `TrainConfig`, or, after "model.", of its architecture; its new
value, or a function of the old one. An index or * stands for elements of a tuple. Where the crops' size changes, the
batch does so that the number of pixels stays; a variant that changes nothing in the baseline is left out.
"""


def changed(config: Any, path: str, value: Any) -> Any:
    """A copy of settings in which one has changed.

    Args:
        config: a frozen dataclass, or a tuple of them.
        path: fields, indices and *, with dots between them.
        value: the new value, or a function of the old one.

    Returns:
        The settings.

    Raises:
        ValueError: there is no such setting.
    """
    name, _, rest = path.partition(".")
    if isinstance(config, tuple):
        chosen = range(len(config)) if name == "*" else (range(len(config))[int(name)],)
        return tuple(changed(part, rest, value) if i in chosen else part for i, part in enumerate(config))
    names = [field.name for field in dataclasses.fields(config)]
    if name not in names:
        raise ValueError(f"expected a setting of {', '.join(names)}, got {name!r}")
    old = getattr(config, name)
    new = changed(old, rest, value) if rest else value(old) if callable(value) else value
    return dataclasses.replace(config, **{name: new})


def configure(base: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """The baseline with a variant's changes.

    Args:
        base: the baseline.
        changes: a value of `VARIANTS`.

    Returns:
        The settings.

    Raises:
        ValueError: a setting does not exist, or its value is refused.
    """
    if "crop_size" in changes:
        pixels = base.batch_size * base.crop_size**2
        changes = {**changes, "batch_size": max(1, round(pixels / changes["crop_size"] ** 2))}
    config, architecture = base, base.architecture
    for path, value in changes.items():
        section, _, rest = path.partition(".")
        if section == "model":
            architecture = changed(architecture, rest, value)
        else:
            config = changed(config, path, value)
    return config if architecture == base.architecture else dataclasses.replace(config, model=architecture)


def variants(options: Options) -> dict[str, TrainConfig]:
    """The settings of the baseline and of each variant.

    Raises:
        ValueError: there is no such variant, or it cannot be trained.
    """
    base = TrainConfig.from_file(options.own.training or BASELINE)
    base = dataclasses.replace(base, steps=options.own.steps)
    names = list(VARIANTS) if options.own.variants is None else ["baseline", *options.own.variants]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ValueError(f"expected variants of {', '.join(VARIANTS)}, got {unknown[0]!r}")
    found = {}
    for name in names:
        try:
            config = configure(base, VARIANTS[name])
        except ValueError as error:
            raise ValueError(f"variant {name}: {error}") from error
        if name == "baseline" or config != base:
            found[name] = config
    return found


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--data", type=Path, default=PHOTOGRAPHS, metavar="DIR", help="photographs to train on (default: the ten)")
    add("--files", type=Path, metavar="LIST", help="names of the photographs to use (default: all in DIR)")
    add("--steps", type=int, default=1000, help="of each training (default 1000)")
    add("--training", type=Path, metavar="FILE", help="baseline, a JSON file as `hvae-jax train` takes")
    add("--init", metavar="NAME|DIR", help="prior whose parameters all start from (default: random ones)")
    add("--variants", type=names_of, metavar="A,B", help="names in benchmarks/experiments/ablation.py")
    add("--seeds", type=int, default=1, metavar="N", help="trainings of each variant (default 1)")
    add("--docs", type=Path, metavar="FILE", help="write the tables into this Markdown file too")


def run(options: Options) -> None:
    """Run it."""
    configs = variants(options)
    init = None if options.own.init is None else hj.load_prior(options.own.init)
    notes = []
    if init is not None:
        other = [name for name, config in configs.items() if not can_start(config, init)]
        if "baseline" in other:
            raise ValueError(f"expected a prior of the baseline's architecture to start from, got {options.own.init}")
        configs = {name: config for name, config in configs.items() if name not in other}
        if other:
            notes.append(f"Left out, for they cannot start from the parameters of a prior: {', '.join(other)}.")
    files = "" if options.own.files is None else f", {options.own.files.name} ({digest(options.own.files)})"
    start = "random" if init is None else prior_name(init, str(options.own.init))
    about: dict[str, Any] = {"trained on": options.own.data.name + files, "initial parameters": start}
    cases = [
        *(observe({"task": "denoising"}, Denoising(), s, options.images, options.seed) for s in (0.0, *DENOISING)),
        *(case._replace(label={"task": "deblurring", **case.label}) for case in deblurring(options)),
    ]
    with options.start("ablation", TITLE, PAPER, solver=options.solver, **about) as run:
        run.expect(len(configs) * options.own.seeds * (2 + len(cases)))
        found: dict[str, list[dict[str, Any]]] = {}
        for name, config in configs.items():
            for seed in range(options.seed, options.seed + options.own.seeds):
                one = dataclasses.replace(config, seed=seed)
                trial = Trial(name, one, hashlib.sha256(f"{one.to_json()}{about}".encode()).hexdigest()[:16])
                found.setdefault(name, []).append(measure(run, options, trial, init, cases))
        paper = options.settings == "paper" or not options.prior.info.get("settings")
        recommends = "the paper" if paper else prior_name(options.prior, options.prior_name)
        seeds = f"{options.own.seeds} seed{'' if options.own.seeds == 1 else 's'}"
        notes.append(
            f"Means over {len(options.images.names)} images and {seeds} ± their standard error. ELBO in "
            "bits per dimension, its sign reversed. PSNR in dB of clean and noisy images reconstructed at τ = 1, and "
            f"of deblurring, a mean over four kernels, with the settings of {recommends}; σ in grey levels of 255. "
            "Parameters in millions; seconds per training step."
        )
        kind = f"{options.own.steps} steps from {'random parameters' if init is None else start}"
        tables(run, kind, found, notes)
        run.finish()
        if options.own.docs is not None:
            write_section(options.own.docs, kind, f"`{options.command}`\n\n{run.markdown()}")


def can_start(config: TrainConfig, init: Prior) -> bool:
    """Whether a training can start from the parameters of a prior."""
    try:
        jax.eval_shape(lambda: grown(init.params, initial_params(config)))
    except ValueError:
        return False
    return True


class Trial(NamedTuple):
    """One training.

    Attributes:
        variant: its name.
        config: its settings.
        version: a digest of these and of what else the training depends on.
    """

    variant: str
    config: TrainConfig
    version: str


def deblurring(options: Options) -> Iterator[Problem]:
    """The problems of Table 2."""
    return problems.deblurring(options.images, options.seed, options.kernels)


def measure(run: Run, options: Options, trial: Trial, init: Prior | None, cases: Sequence[Problem]) -> dict[str, Any]:
    """Train, unless that was done, and measure.

    Args:
        run: keeps what was measured.
        options: what the command line says.
        trial: what to train.
        init: where to start.
        cases: what to reconstruct and to restore.

    Returns:
        Of each column of the tables a number per image; "parameters" and "seconds".
    """
    folder = run.folder / "runs" / f"{trial.variant}-{trial.version}"
    checkpoints = folder / "checkpoints"

    @functools.cache
    def prior() -> Prior:
        if (folder / "prior").exists() and not checkpoints.exists():
            return hj.load_prior(folder / "prior")
        return train(trial.config, options.own.data, folder, options.own.files, None if init is None else init.params)

    def finish() -> dict[str, Any]:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(prior().params))
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        return {"parameters": parameters, "seconds": float(np.median([1 / row["steps_per_second"] for row in lines]))}

    def reconstruct(y: ArrayLike, A: Operator, noise_std: float) -> jax.Array:
        level = noise_std if prior().config.noise_conditional else None
        return hj.reconstruct(prior(), y, 1.0, noise_level=level)

    def restore(y: ArrayLike, A: Operator, noise_std: float) -> jax.Array:
        chosen = config_of(options, A, noise_std, paper_experiment(A, noise_std, faces=False))
        return hj.restore(prior(), y, A, noise_std, chosen).image

    methods: dict[Any, Method] = {"denoising": reconstruct, "deblurring": restore}
    unaffected: dict[Any, tuple[str, ...]] = {"denoising": ("prior", "solver", "weights"), "deblurring": ("weights",)}
    key = {"variant": trial.variant, "seed": trial.config.seed, "training": trial.version}
    of_images = ("images", "pixels", "seed", "kernels")
    values = run.row(key, finish, (*unaffected["denoising"], *of_images))
    shutil.rmtree(checkpoints, ignore_errors=True)  # the training is finished
    bits = run.row(key | {"of": "ELBO"}, lambda: elbo(prior(), options.images, options.seed), unaffected["denoising"])
    found: dict[str, list[list[float]]] = {"bits/dim": [bits["bits"]]}
    for case in cases:
        task, sigma = case.label["task"], case.label["σ"]
        method = (trial.variant, methods[task])
        row = run.restore(
            method, case, options.images.names, options.batch, 0, trial.version, unaffected_by=unaffected[task]
        )
        column = "clean" if not sigma else f"{'noisy' if task == 'denoising' else 'blurred'}, {sigma:g}"
        found.setdefault(column, []).append(row["PSNR"])
    return {**values, **{column: np.mean(lists, axis=0) for column, lists in found.items()}}


def tables(run: Run, kind: str, found: Mapping[str, Sequence[Mapping[str, Any]]], notes: Sequence[str]) -> None:
    """Add the table of all variants, and that of their differences to the baseline.

    Args:
        run: the run.
        kind: of training.
        found: what `measure` found of each variant's seeds.
        notes: sentences below the first table.
    """
    columns = [name for name in found["baseline"][0] if name not in ("parameters", "seconds")]
    digits = {name: 3 if name == "bits/dim" else 2 for name in columns}
    values = {variant: {c: np.array([one[c] for one in seeds]) for c in columns} for variant, seeds in found.items()}
    lines, differences = [], []
    for variant, seeds in found.items():
        own, base = values[variant], values["baseline"]
        size = [seeds[0]["parameters"] / 1e6, float(np.mean([one["seconds"] for one in seeds]))]
        lines.append([variant, *size, *(plus_minus(*mean_and_error(own[c]), digits[c]) for c in columns)])
        if variant != "baseline":
            differences.append(
                [variant, *(plus_minus(*mean_and_error(own[c] - base[c]), digits[c], sign=True) for c in columns)]
            )
    best = [None, None, "min", *("min" if c == "bits/dim" else "max" for c in columns)]
    run.table(f"Variants, {kind}", ["variant", "parameters", "seconds", *columns], lines, best=best, notes=notes)
    if differences:
        note = "Paired: of the same images and the same seed."
        run.table("Differences to the baseline", ["variant", *columns], differences, notes=[note])


def mean_and_error(values: Float[np.ndarray, "seeds images"]) -> tuple[float, float]:
    """The mean, and its standard error for images and seeds that are both drawn at random.

    The variances of the means over seeds and over images are added; what they share is counted twice, so the error is
    rather too large than too small. One image or one seed tells nothing of its own variance.
    """
    axes = [axis for axis in (0, 1) if values.shape[1 - axis] > 1]
    variances = [values.mean(axis).var(ddof=1) / values.shape[1 - axis] for axis in axes]
    return float(values.mean()), float(np.sqrt(np.sum(variances))) if variances else float("nan")


def write_section(path: Path, name: str, text: str) -> None:
    """Put a section into a Markdown file, in place of the one of that name or at the end."""
    begin, end = (f"<!-- {edge} of {name}, written by python -m benchmarks ablation -->" for edge in ("begin", "end"))
    old = path.read_text() if path.exists() else "# Experiments\n"
    section = f"{begin}\n## {TITLE}: {name}\n\n{text.strip()}\n{end}"
    before, found, rest = old.partition(begin)
    if found and end not in rest:
        raise ValueError(f"{path}: expected the line {end!r} after {begin!r}")
    after = rest.partition(end)[2] if found else "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (before + ("" if found else "\n") + section + after).encode())
