"""Which estimate is to be trusted: how probably a restoration helps, fitted on training photographs."""

import math
from collections.abc import Mapping

SHARP = 0.3
"""Mean steepness of edges above which a picture is sharp, see `steepness_by_direction`: of photographs with enough
edges to tell 87 of 102 sharp ones were above it, and 3 of 114 blurred ones, all of a motion."""

TRUSTED = 0.85
"""Confidence from which a restoration is not refused. In ten-fold cross-validation over the photographs 28 of 97
blurred ones were above it, of which one lost more than 0.2 dB (0.6 dB), and none of 11 sharp ones that look soft. Of 22
newly blurred training pictures, with one more kernel to choose from, 11 were above it, one of which lost 0.7 dB, and
none of as many sharp ones; 14 of their 21 photographs were among those of the fit, and that the cost chooses among the
trusted was found on them (`python -m benchmarks gate`)."""

INTERCEPT = -22.078

WEIGHTS: Mapping[str, float] = {
    "variation": -2.588,
    "variation over explained": -1.07,
    "least steep": -10.588,
    "closest": -1.564,
    "halves": 30.587,
    "noise": 0.933,
    "misfit": 1.038,
}
"""Of the evidence, by logistic regression of whether a restoration gains more than 0.2 dB: on 3 candidates of each of
about a hundred photographs that were blurred at random (shake, Gaussians, discs, motions; noise of 1, 2.55 and 7.65;
PNG and JPEG) and of sharp ones that look soft; 40 of them by an earlier search, with kernels of 31 pixels. To fit
others: `python -m benchmarks gate --images LIST`, which takes photographs that nothing else is measured on."""


def confidence_of(evidence: Mapping[str, float]) -> float:
    """The probability that a restoration with a kernel helps.

    Args:
        evidence: see `evidence_of`.
    """
    score = INTERCEPT + sum(weight * evidence[name] for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-min(max(score, -30.0), 30.0)))


def rank(confidence: float, cost: float, trusted: float = TRUSTED) -> tuple[bool, float]:
    """What sorts candidates, the best one first: of those that are trusted the one that explains the picture best.

    Args:
        confidence: in a candidate.
        cost: of its kernel, see `Fit.cost`.
        trusted: confidence from which it is.
    """
    return confidence < trusted, cost if confidence >= trusted else -confidence
