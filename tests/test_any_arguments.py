"""Any arguments of the public functions: a finite result of the right shape, or a ValueError or TypeError in words."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hvae_jax as hj
from hvae_jax import images, metrics, operators
from hvae_jax.restoration import ConjugateGradient, Exact, Plateau, Residual
from tests.helpers import random_prior, tiny_config

prior = functools.cache(lambda: random_prior(tiny_config()))  # no fixture, which Hypothesis would print

SHAPES = [(8, 8, 3), (2, 8, 8, 3)]
"""Of the images that are right, for which programs are compiled."""

NUMBERS = [0, 1, -1, 2, 0.1, 0.5, -0.5, 1e-30, 1e30, 1e300, 10**20, float("nan"), float("inf"), -float("inf")]
ODD = st.sampled_from([*NUMBERS, None, True, "x", "", b"", (), [], {}, [1, "a"], object(), 1j, np.float64(3), np.nan])


@st.composite
def arrays(draw, shapes=SHAPES):
    """Mostly an array of the right shape and type with ordinary values, sometimes anything else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(ODD)
    shape = draw(st.sampled_from(shapes))
    if draw(st.integers(0, 4)) == 0:
        shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8]), max_size=5)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    values = rng.random(shape)
    if draw(st.integers(0, 4)) == 0 and values.size:
        values.flat[0] = draw(st.sampled_from(NUMBERS))
    if draw(st.integers(0, 9)) == 0:
        with np.errstate(all="ignore"):
            values = values * draw(st.sampled_from([0, -1, 255, 1e30, 1e-30]))
    kinds = [np.float32] * 8 + [np.float64, np.float16, np.uint8, np.int64, bool, complex, object, str]
    with np.errstate(all="ignore"):
        return values.astype(draw(st.sampled_from(kinds))) if np.isfinite(values).all() else values.astype(np.float32)


@st.composite
def made_operators(draw):
    """A function that makes an operator."""
    matrix = arrays([(3, 3), (2, 3), (2, 3, 3), (8, 8), (8, 8, 1)])
    number = st.one_of(st.sampled_from([1, 2, 4]), ODD)
    kind = draw(st.sampled_from(["Blur", "SuperResolution", "Inpainting", "Denoising", "Weighted", "Jpeg", "Composed"]))
    match kind:
        case "Blur":
            kernel = draw(matrix)
            return lambda: operators.Blur(kernel)
        case "SuperResolution":
            kernel, factor = draw(matrix), draw(number)
            return lambda: operators.SuperResolution(kernel, factor)
        case "Inpainting":
            mask = draw(arrays([(8, 8), (8, 8, 3), (2, 8, 8, 3)]))
            return lambda: operators.Inpainting(mask)
        case "Weighted":
            weight = draw(arrays([(8, 8, 1), (3,)]))
            return lambda: operators.Weighted(operators.Denoising(), weight)
        case "Jpeg":
            steps, sampling = draw(arrays([(3, 8, 8), (1, 8, 8)])), draw(st.sampled_from([(1, 1), (2, 2), (3, 1), 5]))
            return lambda: operators.Jpeg(steps, sampling)
        case "Composed":
            margin = draw(st.sampled_from([0, 2, -1]))
            margins = ((margin, 0), (0, 0))
            return lambda: operators.Composed(operators.Denoising(), operators.Denoising(), margins)
    return operators.Denoising


@st.composite
def made_configs(draw):
    """A function that makes settings, one or two of which are odd."""
    right = {"max_iterations": 2, "temperature": 0.9, "decoder_std": 0.1, "returns": "x", "initial": "encode"}
    number = st.one_of(st.sampled_from([0.05, 0.5, 1.0]), arrays([(2,), (2, 2), (4,), (1,)]), ODD)
    odd = {
        "temperature": number,
        "decoder_std": number,
        "noise_level": number,
        "max_iterations": st.one_of(st.sampled_from([1, 2]), ODD),
        "returns": st.one_of(st.sampled_from(["x", "mean", ("x", "mean")]), ODD),
        "initial": st.one_of(st.sampled_from(["image", "encode"]), ODD),
        "orientations": st.one_of(st.sampled_from(["fixed", "cycle", 2]), ODD),
        "history": st.booleans(),
    }
    tolerance = draw(st.one_of(st.just(1e-3), ODD))
    stops = [Residual, lambda: Residual(tolerance), lambda: Plateau(tolerance), lambda: tolerance]
    steps = [Exact, lambda: ConjugateGradient(2), lambda: ConjugateGradient(tolerance), lambda: tolerance]
    chosen = draw(st.lists(st.sampled_from(sorted(odd)), max_size=2))
    changes = {name: draw(odd[name]) for name in chosen}
    stop, step = draw(st.sampled_from(stops)), draw(st.sampled_from(steps))
    return lambda: hj.RestoreConfig(**{**right, "stop": stop(), "data_step": step(), **changes})


def check(call, shape=None):
    """Finite and of the right shape, or one sentence."""
    try:
        result = call()
    except (ValueError, TypeError) as error:
        if not str(error).strip():
            raise
        return None
    for leaf in jax.tree.leaves(result):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
            assert shape is None or leaf.shape == shape
    return result


pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::DeprecationWarning"
)  # NumPy's, of odd numbers

SCALE = int(os.environ.get("HYPOTHESIS_SCALE", "1"))
"""How many times the examples below; CI takes ten."""

MANY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(MANY, max_examples=200 * SCALE)
@given(data=st.data())
def test_operators(data):
    make, x = data.draw(made_operators()), data.draw(arrays())
    ratio = data.draw(st.one_of(st.sampled_from([0.1, 1.0, np.array([0.1, 1.0])]), ODD))

    def call():
        operator = make()
        return operator.data_step(x, operator(x), ratio)

    result = check(call)
    if result is not None and np.isfinite(x).all() and np.abs(x).max() < 1e3:
        assert np.isfinite(result).all()
        assert result.shape == x.shape


@settings(MANY, max_examples=200 * SCALE)
@given(image=arrays(), reference=arrays(), metric=st.sampled_from([metrics.psnr, metrics.ssim]))
def test_metrics(image, reference, metric):
    result = check(lambda: metric(image, reference))
    if result is not None and np.isfinite(image).all() and np.isfinite(reference).all():
        assert not np.isnan(result).any()


@settings(MANY, max_examples=120 * SCALE)
@given(data=st.data())
def test_restore(data):
    make, config = data.draw(made_operators()), data.draw(made_configs())
    y = data.draw(arrays())
    noise_std = data.draw(st.one_of(st.sampled_from([0.05, 0.1, np.array([0.05, 0.1])]), ODD))
    start = data.draw(st.one_of(st.none(), arrays())) if data.draw(st.integers(0, 3)) == 0 else None
    result = check(lambda: hj.restore(prior(), y, make(), noise_std, config(), start=start))
    if result is not None:
        finite = np.isfinite(result.image).all(axis=(-3, -2, -1))
        assert (finite | (np.asarray(result.status) == hj.Status.NOT_FINITE)).all()


bundled = functools.cache(hj.load_prior)
CROP = images.read_image(Path(__file__).parents[1] / "examples" / "sharp.png").pixels[64:128, 96:160]
ORDINARY = {
    "Blur": lambda rng: operators.Blur(images.parse_kernel(f"gaussian:{rng.uniform(0.5, 3):.2f}")),
    "motion": lambda rng: operators.Blur(images.parse_kernel(f"motion:{rng.uniform(3, 15):.1f},{rng.integers(180)}")),
    "SuperResolution": lambda rng: operators.SuperResolution(images.parse_kernel("gaussian:1.2"), 2),
    "Inpainting": lambda rng: operators.Inpainting(rng.random((64, 64)) > rng.uniform(0.1, 0.8)),
    "Denoising": lambda rng: operators.Denoising(),
}


@pytest.mark.slow
@settings(MANY, max_examples=16 * SCALE)
@given(kind=st.sampled_from(sorted(ORDINARY)), sigma=st.floats(2.55, 40), seed=st.integers(0, 2**31))
def test_a_restoration_is_no_farther_from_the_observation_than_the_noise_explains(kind, sigma, seed):
    """In the range of noise that the prior has settings for; and in a batch it is what it is alone.

    (At 1 grey level a mean that was decoded, of inpainting, is 1.3 grey levels away from what was observed.)
    """
    rng = np.random.default_rng(seed)
    operator = ORDINARY[kind](rng)
    clean = np.asarray(operator(CROP))
    y = np.asarray(operator.observed(clean + sigma / 255 * rng.standard_normal(clean.shape, np.float32)))
    out = hj.restore(bundled(), y, operator, sigma / 255)
    assert int(out.status) == hj.Status.COMPLETED
    noise = np.sqrt(np.mean((y - clean) ** 2))
    assert np.sqrt(np.mean((operator.observed(operator(out.image)) - y) ** 2)) < 1.1 * noise
    if seed % 4 == 0:
        batch = hj.restore(bundled(), np.stack([y[::-1], y]), operator, sigma / 255)
        np.testing.assert_allclose(batch.image[1], out.image, atol=1e-4)


@settings(MANY, max_examples=60 * SCALE)
@given(temperature=st.one_of(st.just(0.9), arrays([(2,), (4,), (2, 4)]), ODD), x=arrays())
def test_reconstruct(temperature, x):
    result = check(lambda: hj.reconstruct(prior(), x, temperature))
    assert result is None or result.shape == x.shape


@settings(MANY, max_examples=60 * SCALE)
@given(temperature=st.one_of(st.just(0.9), ODD), shape=st.one_of(st.sampled_from(SHAPES), ODD))
def test_sample(temperature, shape):
    result = check(lambda: hj.sample(prior(), jax.random.key(0), shape, temperature=temperature))
    assert result is None or np.isfinite(result).all()
