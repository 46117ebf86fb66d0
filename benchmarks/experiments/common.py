"""What the experiments share: their options, their methods, tables of methods."""

import argparse
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike

import hvae_jax as hj
from benchmarks import methods
from benchmarks.experiment import BEST, METRICS, Run, means, per_image, settings_of, solver_version, standard_error
from benchmarks.methods import Method, Unavailable
from benchmarks.problems import Problem
from hvae_jax.images import Squares
from hvae_jax.operators import Inpainting, Operator, SuperResolution
from hvae_jax.prior import Prior
from hvae_jax.restoration import Residual
from hvae_jax.restoration.adam import restore_adam

LEARNING_RATES = (0.01, 0.001)
"""Of the Adam baseline, the paper's."""


ADAM_ITERATIONS = 100
"""Of the Adam baseline in tables; about as many evaluations of the network as two restorations of 50 iterations."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        prior: the prior.
        prior_name: as it was given.
        images: the clean images.
        out: folder of the results.
        command: the whole command.
        seed: of everything random.
        batch: images in a compiled call.
        pictures: of how many images to keep before/after pictures.
        methods: names, or None for the experiment's own.
        settings: "recommended" by the prior, or the "paper"'s.
        kernels: an .npz file of blur kernels, or None.
        weights: an .npz of DnCNN or FDnCNN, or None.
        own: what only this experiment has; see its `add_options`.
    """

    prior: Prior
    prior_name: str
    images: Squares
    out: Path
    command: str
    seed: int
    batch: int
    pictures: int
    methods: tuple[str, ...] | None
    settings: str
    kernels: Path | None
    weights: Path | None
    own: argparse.Namespace = dataclasses.field(default_factory=argparse.Namespace)

    @property
    def solver(self) -> str:
        """Whose settings, with the digest of those that the prior recommends."""
        return self.settings if self.settings == "paper" else f"{self.settings} ({solver_version(self.prior)})"

    def start(self, name: str, title: str, paper: str, *, uses_images: bool = True, **settings: Any) -> Run:
        """Begin the run of an experiment."""
        images = self.images if uses_images else None
        given = {"kernels": self.kernels, "weights": self.weights}
        files = {key: f"{path.name} ({digest(path)})" for key, path in given.items() if path is not None}
        about = settings_of(self.prior, self.prior_name, images, seed=self.seed, **files, **settings)
        return Run(name, title, paper, self.out, self.command, about)


def config(options: Options, operator: Operator, noise_std: float, experiment: str) -> hj.RestoreConfig:
    """The settings of PnP-HVAE: those the prior recommends, or those of one of the paper's experiments."""
    if options.settings == "paper" or not options.prior.info.get("settings"):
        return hj.paper_config(experiment, options.prior.levels)
    return hj.recommended_config(options.prior, noise_std, operator)


def paper_experiment(operator: Operator, noise_std: float, faces: bool) -> str:
    """The name in `paper_config` of the experiment that a problem is of."""
    if faces:
        kinds = {SuperResolution: "face-super-resolution", Inpainting: "face-inpainting"}
        return kinds.get(type(operator), "face-deblurring")
    if isinstance(operator, Inpainting):
        return "bsd-inpainting"
    levels = (2.55, 7.65, 12.75)
    return f"bsd-deblurring-{levels[int(np.argmin([abs(255 * noise_std - s) for s in levels]))]}"


def pnp_hvae(options: Options, faces: bool = False) -> Method:
    """PnP-HVAE as a method."""

    def restore(y: ArrayLike, A: Operator, noise_std: float) -> jax.Array:
        chosen = config(options, A, noise_std, paper_experiment(A, noise_std, faces))
        return hj.restore(options.prior, y, A, noise_std, chosen).image

    return restore


def adam(options: Options, learning_rate: float, faces: bool = False) -> Method:
    """Adam on J1 as a method, with the paper's temperature and decoder deviation."""

    def restore(y: ArrayLike, A: Operator, noise_std: float) -> jax.Array:
        paper = hj.paper_config(paper_experiment(A, noise_std, faces), options.prior.levels)
        chosen = paper.replace(stop=Residual(0.0), max_iterations=ADAM_ITERATIONS, returns="x")
        return restore_adam(options.prior, y, A, noise_std, chosen, learning_rate=learning_rate).image

    return restore


def resolve(options: Options, names: Sequence[str], faces: bool = False) -> dict[str, Method | str]:
    """The methods by name, or in words why one cannot be had."""
    own: dict[str, Callable[[], Method]] = {
        "pnp-hvae": lambda: pnp_hvae(options, faces),
        **{f"adam-{rate}": lambda rate=rate: adam(options, rate, faces) for rate in LEARNING_RATES},
        "observation": lambda: lambda y, A, noise_std: A.initial(y),
    }
    found: dict[str, Method | str] = {}
    for name in options.methods or names:
        more = {"weights": options.weights} if name == "fdncnn" and options.weights else {}
        try:
            found[name] = own[name]() if name in own else methods.get(name, **more)
        except Unavailable as reason:
            found[name] = str(reason)
    return found


def digest(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def version(method: str) -> str | None:
    """Of a method in a file of the user's, so that an edited one is run again."""
    file = Path(method.rpartition(":")[0])
    return digest(file) if file.suffix == ".py" else None


def unaffected_by(method: str) -> tuple[str, ...]:
    """The settings of a run on which a method's results do not depend."""
    ours = method == "pnp-hvae" or method.startswith("adam-")
    matters = {"prior": ours, "solver": ours, "weights": method == "fdncnn"}
    return tuple(name for name, does in matters.items() if not does)


Variant: TypeAlias = Callable[[Problem], tuple[Method, str | None] | None]
"""A method that is another one for each problem: that and what tells it from others, or None where there is none."""


def evaluate(
    run: Run,
    options: Options,
    problems: Sequence[Problem],
    chosen: Mapping[str, Method | str],
    variants: Mapping[str, Variant] = MappingProxyType({}),
) -> tuple[dict[tuple[int, str], dict[str, Any]], list[str]]:
    """A row for each problem and method; and notes on the methods that cannot be had.

    Args:
        run: the run.
        options: what the command line says.
        problems: the problems; the pictures are those of the first "draw" of the noise, where there are several.
        chosen: the methods, or why one cannot be had.
        variants: what takes the place of a method of that name.

    Returns:
        The rows by the problem's number and the method's name, and the notes.
    """
    usable = {name: method for name, method in chosen.items() if not isinstance(method, str)}
    run.expect(len(problems) * len(usable))
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    notes = [f"{name}: {why}" for name, why in chosen.items() if isinstance(why, str)]
    for name, method in usable.items():
        same = (method, version(name))
        for i, problem in enumerate(problems):
            found = variants[name](problem) if name in variants else same
            if found is None:
                continue
            shown = options.pictures if name == "pnp-hvae" and not problem.label.get("draw") else 0
            arguments = (problem, options.images.names, options.batch, shown, found[1], unaffected_by(name))
            try:
                rows[i, name] = run.restore((name, found[0]), *arguments)
            except Unavailable as reason:  # weights that could not be downloaded
                notes.append(f"{name}: {reason}")
                break
    return rows, notes


def method_table(
    run: Run,
    title: str,
    groups: Mapping[str, Sequence[int]],
    rows: dict[tuple[int, str], dict[str, Any]],
    chosen: dict[str, Method | str],
    paper: Mapping[tuple[str, str], Sequence[float]],
    notes: Sequence[str],
) -> None:
    """Add a table per group of problems: a row per method, means over images, the paper's numbers beside."""
    columns = ["method", *METRICS, "± PSNR", "seconds", *(f"paper {metric}" for metric in METRICS)]
    best = [None, *(BEST[metric] for metric in METRICS), None, None, None, None, None]
    for group, members in groups.items():
        lines = []
        for name in chosen:
            found = [rows[i, name] for i in members if (i, name) in rows]
            complete = len(found) == len(members)
            numbers = means(found) if complete else [None] * 4
            spread = standard_error(per_image(found)) if complete else None
            told = list(paper.get((group, name), (None,) * 3))[:3]
            lines.append([name, *numbers[:3], spread, numbers[3], *told])
        run.table(f"{title}, {group}", columns, lines, best=best, notes=[*notes, SCORES])


SCORES = (
    "Means over the images (and kernels); ± PSNR is the standard error over images; seconds per image, compiling not "
    "counted. The observation is shown with its holes filled smoothly, or enlarged. The paper's numbers are of other "
    "images and other priors."
)
