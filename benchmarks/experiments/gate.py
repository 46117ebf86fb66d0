"""Fits when an estimated blur is trusted: candidates on training photographs, and the gate's numbers.

Example:
    python -m benchmarks gate --images training.txt --out gate
"""

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special

import hvae_jax as hj
from benchmarks.command import AddOption
from benchmarks.experiment import solver_version
from benchmarks.experiments.blind import BLURS, HARM, NOISES, QUALITIES, blur_kernel, simulated
from benchmarks.experiments.common import Options
from hvae_jax import images
from hvae_jax.metrics import psnr
from hvae_jax.photographs.blind.candidates import Part
from hvae_jax.photographs.blind.estimating import KERNEL_SIZE, examine
from hvae_jax.photographs.blind.families import ran_away
from hvae_jax.photographs.blind.gate import INTERCEPT, TRUSTED, WEIGHTS, rank

TITLE, PAPER = "When an estimated blur is trusted", "none"

FOLDS = 10
"""Of cross-validation; photographs are not divided among them."""

NAMES = tuple(WEIGHTS)
"""Of the evidence."""

PENALTY = 1.0
"""Of half the squares of the weights of evidence of deviation 1, beside the sum of the log losses."""

MOST_HARMED = 0.02
"""Of those accepted, the share that may lose more than `HARM` dB."""

THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)

VERSION = 1
"""Of what is measured."""


def add_options(add: AddOption) -> None:
    """Its own."""
    add("--grey", action="store_true", help="make the photographs grey")


def measured(options: Options, blur: str, grey: bool, i: int) -> dict[str, Any]:
    """What is known of a simulated picture, and each candidate's evidence and gain in dB."""
    seed = 1000 * options.seed + 10 * i + 2 * (*BLURS, "none").index(blur) + grey
    rng = np.random.default_rng(seed)
    sigma, quality = float(rng.choice(NOISES)), QUALITIES[rng.integers(len(QUALITIES))]
    scene = options.images.pixels[i]
    scene = scene.mean(axis=-1, keepdims=True) if grey else scene
    kernel = blur_kernel(blur, seed, None)
    file, clean = simulated(scene, kernel, sigma, quality, seed, wrap=False)
    part = hj.read_photograph(io.BytesIO(file))._replace(jpeg=None)
    before = float(psnr(part.pixels, clean))

    def gain(pixels: np.ndarray) -> float:
        shown = np.clip(pixels.mean(axis=-1, keepdims=True) if grey else pixels, 0, 1)
        return round(float(psnr(shown.astype(np.float32), clean)) - before, 3)

    about = {"noise": sigma, "quality": quality, "input": round(before, 3)}
    found = examine(part, KERNEL_SIZE, options.prior)
    if isinstance(found, str):
        return {**about, "refused": found, "candidates": []}
    noise_std = images.estimate_noise(part.pixels, None, part.quantisation).std
    known = 0.0
    if blur != "none":
        known = gain(Part(part, options.prior, KERNEL_SIZE, noise_std).attempt("known", kernel).pixels)
    candidates = [
        {"kind": one.kind, "gain": gain(one.pixels), "evidence": {name: round(v, 6) for name, v in evidence.items()}}
        for one, evidence in found
    ]
    return {**about, "refused": None, "known": known, "candidates": candidates}


class Cases(NamedTuple):
    """What a gate is fitted to, a line for each candidate.

    Attributes:
        evidence: a column for each of `NAMES`.
        cost: of the kernel.
        gain: in dB.
        picture: number of the picture.
        photograph: number of the photograph that it was made of.
    """

    evidence: Float[np.ndarray, "n k"]
    cost: Float[np.ndarray, " n"]
    gain: Float[np.ndarray, " n"]
    picture: np.ndarray
    photograph: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[str, dict[str, Any]]]) -> "Cases":
        """Of rows, with the photographs' names; candidates that ran away are left out, for they are never trusted."""
        photographs = sorted({name for name, _ in rows})
        lines = [
            (candidate["evidence"], candidate["evidence"]["cost"], candidate["gain"], number, photographs.index(name))
            for number, (name, row) in enumerate(rows)
            for candidate in row["candidates"]
            if not ran_away(candidate["kind"])
        ]
        if not lines:
            raise ValueError("expected pictures with candidates to fit a gate to, got none")
        evidence = np.array([[line[0][name] for name in NAMES] for line in lines], np.float64)
        return cls(evidence, *(np.array([line[i] for line in lines]) for i in (1, 2, 3, 4)))

    @property
    def helps(self) -> Bool[np.ndarray, " n"]:
        """Whether a candidate gains more than `HARM` dB."""
        return self.gain > HARM


def fitted(x: Float[np.ndarray, "n k"], helps: Bool[np.ndarray, " n"]) -> tuple[float, Float[np.ndarray, " k"]]:
    """Intercept and weights of a logistic regression, regularized as if each column had deviation 1.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., section 4.4.
    """
    mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    z = (x - mean) / deviation

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        score = w[0] + z @ w[1:]
        surplus = special.expit(score) - helps
        value = np.logaddexp(0, np.where(helps, -score, score)).sum() + PENALTY / 2 * (w[1:] ** 2).sum()
        return float(value), np.array([surplus.sum(), *(z.T @ surplus + PENALTY * w[1:])])

    w = optimize.minimize(loss, np.zeros(1 + x.shape[1]), jac=True, options={"gtol": 1e-6}).x
    weights = w[1:] / deviation
    return float(w[0] - weights @ mean), weights


def cross_validated(cases: Cases) -> Float[np.ndarray, " n"]:
    """Each candidate's confidence, by a gate that was fitted to other photographs."""
    fold, confidence = cases.photograph % FOLDS, np.full(len(cases.gain), cases.helps.mean())
    for k in np.unique(fold):
        mine = fold == k
        if len(np.unique(cases.helps[~mine])) == 2:
            intercept, weights = fitted(cases.evidence[~mine], cases.helps[~mine])
            confidence[mine] = special.expit(intercept + cases.evidence[mine] @ weights)
    return confidence


class Candidate(NamedTuple):
    """A candidate: confidence in it, in cross-validation; cost of its kernel; gain in dB."""

    confidence: float
    cost: float
    gain: float


class Picture(NamedTuple):
    """A simulated picture, and what the gate makes of it.

    Attributes:
        blurred: whether it is.
        row: see `measured`.
        candidates: those that did not run away.
    """

    blurred: bool
    row: dict[str, Any]
    candidates: tuple[Candidate, ...]

    def best(self, threshold: float) -> Candidate | None:
        """The candidate that is taken if it is trusted; None where there is none."""
        return min(self.candidates, key=lambda one: rank(one.confidence, one.cost, threshold), default=None)

    def accepted(self, threshold: float) -> Candidate | None:
        """The one that is taken, or None."""
        best = self.best(threshold)
        return best if best is not None and best.confidence >= threshold else None


def judged(
    blurred: Sequence[bool], rows: Sequence[dict[str, Any]], cases: Cases, confidence: Float[np.ndarray, " n"]
) -> list[Picture]:
    """The pictures with the confidence in their candidates."""
    candidates: dict[int, list[Candidate]] = {}
    for number, *values in zip(cases.picture, confidence, cases.cost, cases.gain, strict=True):
        candidates.setdefault(int(number), []).append(Candidate(*map(float, values)))
    return [
        Picture(is_blurred, row, tuple(candidates.get(i, ())))
        for i, (is_blurred, row) in enumerate(zip(blurred, rows, strict=True))
    ]


def accepted_at(threshold: float, pictures: Sequence[Picture]) -> list[Any]:
    """A line of the table of thresholds: how many blurred and sharp pictures are accepted, and what they gain."""
    taken = [(picture, best) for picture in pictures if (best := picture.accepted(threshold)) is not None]
    counts = [
        f"{sum(picture.blurred == blurred for picture, _ in taken)}/"
        f"{sum(picture.blurred == blurred for picture in pictures)}"
        for blurred in (True, False)
    ]
    if not taken:
        return [threshold, *counts, None, None, None, None]
    gains = np.array([best.gain for _, best in taken])
    lacking = np.median([picture.row["known"] - best.gain for picture, best in taken])
    worse = f"{int((gains < -HARM).sum())}/{len(taken)}"
    return [threshold, *counts, worse, *(round(float(value), 2) for value in (gains.min(), gains.mean(), lacking))]


def least_harmless(pictures: Sequence[Picture]) -> float:
    """The lowest of `THRESHOLDS` such that at it and at those above few enough of the accepted are worse."""
    harmless = THRESHOLDS[-1]
    for threshold in reversed(THRESHOLDS):
        gains = [best.gain for picture in pictures if (best := picture.accepted(threshold)) is not None]
        if sum(gain < -HARM for gain in gains) > MOST_HARMED * len(gains):
            break
        harmless = threshold
    return harmless


def why_refused(picture: Picture, best: Candidate | None) -> str:
    """In words, of a blurred picture: the sentence that refused it, or what there would have been to gain."""
    if picture.row["refused"] is not None:
        return picture.row["refused"]
    if picture.row["known"] <= HARM:
        return "the true kernel does not help"
    if max((one.gain for one in picture.candidates), default=-np.inf) <= HARM:
        return "no candidate helps"
    return "the best candidate helps" if best is not None and best.gain > HARM else "another candidate helps"


def refused_at(threshold: float, pictures: Sequence[Picture]) -> list[list[Any]]:
    """A line for each reason: how many blurred pictures are refused, and the mean gain of their best candidates."""
    gains: dict[str, list[float]] = {}
    for picture in pictures:
        if picture.blurred and picture.accepted(threshold) is None:
            best = picture.best(threshold)
            gains.setdefault(why_refused(picture, best), []).append(0.0 if best is None else best.gain)
    by_count = sorted(gains.items(), key=lambda item: -len(item[1]))
    return [[why, len(values), round(float(np.mean(values)), 2)] for why, values in by_count]


def run(options: Options) -> None:
    """Run it."""
    names, grey = options.images.names, options.own.grey
    with options.start("gate", TITLE, PAPER, recommended=solver_version(options.prior), version=VERSION) as run:
        cells = [(blur, i) for i in range(len(names)) for blur in (BLURS[(i + grey) % len(BLURS)], "none")]
        run.expect(len(cells))
        digests = [hashlib.sha256(scene.tobytes()).hexdigest()[:16] for scene in options.images.pixels]
        rows = [
            run.row(
                {"blur": blur, "grey": grey, "image": names[i], "pixels": digests[i]},
                partial(measured, options, blur, grey, i),
                unaffected_by=("images", "pixels"),  # the others
            )
            for blur, i in cells
        ]
        cases = Cases.of([(names[i], row) for (_, i), row in zip(cells, rows, strict=True)])
        blurred = [blur != "none" for blur, _ in cells]
        columns = ["confidence", "blurred", "sharp", "worse", "least gain", "mean gain", "less than known"]
        of = f"{len(names)} {'grey ' if grey else ''}photographs"
        note = (
            f"Of {of}. Worse: of those accepted, by more than {HARM} dB. Gains in dB; less than known: median of what "
            "is lacking to the true kernel."
        )
        present = special.expit(INTERCEPT + cases.evidence @ np.array(list(WEIGHTS.values())))
        pictures = judged(blurred, rows, cases, present)
        lines = [accepted_at(threshold, pictures) for threshold in THRESHOLDS]
        run.table(f"Accepted by the gate as it stands ({TRUSTED})", columns, lines, notes=[note])
        why = ["why", "pictures", "mean gain of the best candidate"]
        run.table(f"Blurred and refused by it ({TRUSTED})", why, refused_at(TRUSTED, pictures))
        pictures = judged(blurred, rows, cases, cross_validated(cases))
        lines = [accepted_at(threshold, pictures) for threshold in THRESHOLDS]
        run.table(f"Accepted by a gate that is fitted to these, in {FOLDS}-fold cross-validation", columns, lines)
        intercept, weights = fitted(cases.evidence, cases.helps)
        numbers = [("INTERCEPT", intercept), ("TRUSTED", least_harmless(pictures)), *zip(NAMES, weights, strict=True)]
        note = (
            "As they would stand in hvae_jax/photographs/blind/gate.py; TRUSTED is the lowest confidence above "
            f"from which on at most {100 * MOST_HARMED:g} % of those accepted are worse."
        )
        table = [[name, str(round(float(number), 3))] for name, number in numbers]
        run.table("Its numbers", ["name", "value"], table, notes=[note])
        run.finish()
