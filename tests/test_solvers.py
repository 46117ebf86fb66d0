"""What every solver keeps, as one matrix: batches, images that are not finite, compilation, jit, mistakes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import operators
from hvae_jax.restoration import ConjugateGradient, Plateau, Residual, RestoreConfig, Status, restore_adam
from tests.helpers import CountCompiles

KERNEL = np.outer([1, 2, 1], [1, 2, 1]) / 16.0
KERNELS = np.stack([KERNEL, KERNEL.T, np.eye(3) / 3])
SIGMA = np.array([0.02, 0.1, 0.3])
CONFIG = RestoreConfig(
    temperature=np.array([[0.9], [0.5], [1.0]]),
    decoder_std=np.array([0.1, 0.02, 0.2]),
    max_iterations=12,
    stop=Residual(5e-4),
)
KEY = jax.random.key(3)


def sample(prior, y, operator, noise_std, config, reference=None, **more):
    """Posterior sampling in the solvers' words; it takes no reference."""
    return hj.sample_posterior(prior, y, operator, noise_std, KEY, config, chains=2, sweeps=3, burn_in=1, **more)


SOLVERS = {
    "residual": (hj.restore, CONFIG.replace(history=True)),
    "plateau": (
        hj.restore,
        CONFIG.replace(stop=Plateau(0.9999, 1, beta_min=0.5, beta_step=0.25), initial="image", history=True),
    ),
    "objective": (
        hj.restore,
        CONFIG.replace(stop=Plateau(1e-2, 1, track="objective"), data_step=ConjugateGradient(2), history=True),
    ),
    "cycle": (hj.restore, CONFIG.replace(orientations="cycle")),
    "mean of 2": (hj.restore, CONFIG.replace(orientations=2)),
    "adam": (
        partial(restore_adam, learning_rate=1e-3),
        CONFIG.replace(stop=Residual(9.5e-4), max_iterations=16, history=True),
    ),
    "sampling": (sample, CONFIG),
}
ALIKE = {"plateau": "objective", "mean of 2": "cycle"}
"""Solvers whose loops are nearly those of others, which the default tests have."""

EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in SOLVERS]
)


def per_image(out) -> dict[str, np.ndarray]:
    """All arrays of a result, images first."""
    found = {name: value for name, value in out._asdict().items() if value is not None}
    for name, value in (found.pop("history", None) or _Nothing())._asdict().items():
        found[f"history.{name}"] = value
    if "samples" in found:
        found["samples"] = jnp.moveaxis(found["samples"], 1, 0)
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


class _Nothing:
    def _asdict(self):
        return {}


def close(a, b, name, field):
    """Equal to 1e-5; sums over an image relatively, and what Adam decodes with its own gain."""
    sums = field.startswith("history.")
    tolerance = 1e-4 if sums or (name, field) == ("adam", "mean") else 1e-5
    np.testing.assert_allclose(a, b, rtol=tolerance if sums else 0, atol=tolerance, err_msg=field)


@pytest.fixture(scope="module")
def solved(tiny_prior, noisy_images):
    """Each solver's result for the batch, computed when it is first asked for."""
    found = {}

    def get(name):
        if name not in found:
            solve, config = SOLVERS[name]
            found[name] = solve(
                tiny_prior, noisy_images, operators.Blur(KERNELS), SIGMA, config, reference=noisy_images
            )
        return found[name]

    return get


@EACH
def test_a_batch_gives_what_its_images_give(tiny_prior, noisy_images, solved, name):
    solve, config = SOLVERS[name]
    batch = per_image(solved(name))
    for i in range(1 if name == "sampling" else 3):  # an image's draws depend on its place
        one = config.replace(temperature=config.temperature[i : i + 1], decoder_std=config.decoder_std[i])
        y = noisy_images[i]
        out = solve(tiny_prior, y, operators.Blur(KERNELS[i]), SIGMA[i], one, reference=y)
        single = per_image(out._replace(samples=out.samples[:, None]) if name == "sampling" else out)
        assert set(single) == set(batch)
        for field, value in single.items():
            value = value[0] if field == "samples" else value
            close(value, batch[field][i], name, field)
    if name in ("residual", "adam"):
        assert len(set(batch["iterations"].tolist())) > 1, "the images should stop at different times"
    # A stopped image does not change, and its history ends.
    for i, residual in enumerate(batch.get("history.residual", ())):
        count = batch["iterations"][i]
        assert np.isfinite(residual[1 : count + 1]).all()
        assert np.isnan(residual[count + 1 :]).all()


@EACH
def test_an_image_that_is_not_finite_harms_no_other(tiny_prior, noisy_images, solved, name):
    solve, config = SOLVERS[name]
    broken = noisy_images.copy()
    broken[1, 2, 3] = np.nan
    harmed = per_image(solve(tiny_prior, broken, operators.Blur(KERNELS), SIGMA, config, reference=noisy_images))
    assert harmed["status"][1] == Status.NOT_FINITE
    for field, value in per_image(solved(name)).items():
        for i in (0, 2):
            np.testing.assert_array_equal(harmed[field][i], value[i], err_msg=field)  # to the bit


@EACH
def test_a_second_call_compiles_nothing(tiny_prior, noisy_images, solved, name):
    solve, config = SOLVERS[name]
    solved(name)
    other = config.replace(temperature=0.7 * config.temperature, decoder_std=1.1 * config.decoder_std)
    if isinstance(config.stop, Residual):
        other = other.replace(stop=Residual(1e-3))
    with CountCompiles() as count:
        out = solve(
            tiny_prior,
            0.9 * noisy_images,
            operators.Blur(KERNELS[::-1]),
            1.1 * SIGMA,
            other,
            reference=noisy_images,
        )
        jax.block_until_ready(out)
    assert count.programs == []


@EACH
def test_jit_gives_what_a_call_gives(tiny_prior, noisy_images, solved, name):
    """Everything that is an array is an argument; the settings that are words stay outside."""
    solve, config = SOLVERS[name]

    @jax.jit
    def compiled(prior, y, operator, noise_std, temperature, decoder_std):
        changed = config.replace(temperature=temperature, decoder_std=decoder_std)
        return solve(prior, y, operator, noise_std, changed, reference=y)

    out = compiled(tiny_prior, noisy_images, operators.Blur(KERNELS), SIGMA, config.temperature, config.decoder_std)
    for field, value in per_image(solved(name)).items():
        close(per_image(out)[field], value, name, field)


MISTAKES = [
    ({"noise_std": -1.0}, "noise_std must not be negative, got -1.0"),
    ({"noise_std": 7.65}, "divide grey levels by 255"),
    ({"noise_std": np.ones(2)}, r"one per image \(3,\), got shape \(2,\)"),
    ({"y": np.zeros((9, 16, 3), np.float32)}, "multiples of 4"),
    ({"y": np.zeros((8, 16, 3), np.uint8)}, "must be a float32 or float64 array, got uint8"),
    ({"start": np.zeros((8, 12, 3), np.float32)}, r"start must have the images' shape \(3, 8, 16, 3\)"),
    ({"start": np.zeros((3, 8, 16, 3), np.uint8)}, "start must be a float32 or float64 array, got uint8"),
    ({"config": CONFIG.replace(temperature=1.5)}, "at most 1/sqrt"),
    ({"config": CONFIG.replace(decoder_std=0.0)}, "decoder_std must be positive, got 0.0"),
    ({"config": CONFIG.replace(decoder_std=10.0)}, "divide grey levels by 255"),
    ({"config": CONFIG.replace(decoder_std=np.ones((2, 2)))}, r"\(K, 3\), got shape \(2, 2\)"),
    ({"config": CONFIG.replace(max_iterations=0)}, "max_iterations must be a whole number from 1 to 1000000, got 0"),
    ({"config": CONFIG.replace(stop=Residual(-1.0))}, "tolerance must not be negative"),
    ({"config": CONFIG.replace(stop="never")}, "stop must be .*Residual.*, got 'never'"),
    ({"config": CONFIG.replace(data_step="cg")}, "data_step must be Exact or ConjugateGradient, got 'cg'"),
]


@pytest.mark.parametrize("solve", [hj.restore, restore_adam, sample], ids=["restore", "adam", "sampling"])
@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistakes(tiny_prior, noisy_images, solve, change, message):
    arguments = {"y": noisy_images, "operator": operators.Denoising(), "noise_std": 0.1, "config": CONFIG}
    with pytest.raises(ValueError, match=message):
        solve(tiny_prior, **(arguments | change))
