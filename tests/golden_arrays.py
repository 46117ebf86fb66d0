"""What the parity tests of both families share; see golden/README.md for what the arrays are."""

import itertools
import re
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax import gaussian
from hvae_jax.gaussian import Gaussian
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import LevelOutputs, Pass
from tests.helpers import GOLDEN, relative_error

BARS = {"float32": 1e-4, "float64": 1e-9}

MEASURED: dict[tuple[str, str], dict[str, float]] = {}
"""By file and quantity: the largest relative error that `close` saw in each type, for `pytest --parity -n 0`."""


class Golden(np.ndarray):
    """An array of the official code that knows the file and the name it has there."""

    origin: tuple[str, str] | None = None


def load_golden(file: str) -> dict[str, np.ndarray]:
    """The arrays of a file in golden/."""

    def named(name: str, array: np.ndarray) -> Golden:
        result = array.view(Golden)
        # One quantity for all levels.
        result.origin = file, re.sub(r"(?<!act)_\d\d$", "", name)
        return result

    with np.load(GOLDEN / file) as arrays:
        return {name: named(name, arrays[name]) for name in arrays.files}


def parity_table() -> Iterator[str]:
    """What was measured, in Markdown."""
    yield from ("| file | quantity | float32 | float64 |", "| --- | --- | --- | --- |")
    for (file, quantity), errors in sorted(MEASURED.items()):
        cells = [f"{errors[dtype]:.1e}" if dtype in errors else "" for dtype in BARS]
        yield f"| {file} | {quantity} | {' | '.join(cells)} |"


def strided(x, like):
    """The part of an array that its golden counterpart keeps: large arrays are stored with steps (see golden/)."""
    return x[:, 1::4, 2::4] if x.shape != like.shape else x


def close(ours, reference, bar):
    ours = np.asarray(ours)  # compares many shapes: numpy has nothing to compile
    assert ours.dtype == np.float32 or bar < 1e-8, "float64 was asked for"
    error = relative_error(strided(ours, reference), reference)
    if (origin := getattr(reference, "origin", None)) is not None:
        errors = MEASURED.setdefault(origin, {})
        errors[ours.dtype.name] = max(error, errors.get(ours.dtype.name, 0.0))
    assert error <= bar


def levels(per_resolution) -> list:
    """Arrays per resolution (B, n, ...) as one per level (B, ...)."""
    return [array[:, i] for array in per_resolution for i in range(array.shape[1])]


def gaussians(per_resolution) -> list[Gaussian]:
    """Gaussians per resolution as one per level."""
    return [Gaussian(*p) for p in zip(*map(levels, zip(*per_resolution, strict=True)), strict=True)]


def draws(golden, section, prior):
    """The given standard normal draws, per resolution; zeros where a section has none."""
    first = prior.config.first_levels
    names = [f"eps_{i:02d}" for i in range(prior.levels)]
    eps = [golden.get(f"{section}/{name}", np.zeros_like(golden[f"encode/{name}"])) for name in names]
    return [jnp.asarray(np.stack(eps[a:b], axis=1)) for a, b in itertools.pairwise(first)]


def drawn_levels_from_the_prior(prior, posterior, inputs):
    """A latent rule: Algorithm 1 for levels without draws, samples of the prior for those that have some."""
    drawn = hierarchy.prior_sample(prior, posterior, inputs)
    return jnp.where(jnp.any(inputs.noise), drawn, hierarchy.tempered_map(prior, posterior, inputs))


def run(prior, x, rule, temperature, noise=None):
    tau = jnp.broadcast_to(jnp.asarray(temperature, x.dtype), (1, prior.levels))
    return compiled_pass(prior, x, tau, noise, rule)


@partial(jax.jit, static_argnames="rule")
def compiled_pass(prior, x, tau, noise, rule):
    settings = Pass(rule, tau, jnp.ones((1,), x.dtype), noise=noise, collect=frozenset(LevelOutputs._fields))
    return prior.model.apply({"params": prior.params}, x, settings)


@jax.jit
def bottom_up(prior, x):
    return prior.model.apply({"params": prior.params}, x, method="bottom_up")


@jax.jit
def log_densities(zs, priors, deviation_scale):
    """log p(z_l) of the first image under the priors with their deviations scaled."""
    pairs = zip(zs, priors, deviation_scale, strict=True)
    return jnp.stack([gaussian.log_density(z, Gaussian(p.mean, p.std * t))[0] for z, p, t in pairs])
