"""The baseline, Adam on J1: parity with the official one, batching, descent, compiling once, errors."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax import operators
from hvae_jax.encoding import encode
from hvae_jax.metrics import psnr
from hvae_jax.models.vdvae import VDVAE
from hvae_jax.prior import Prior
from hvae_jax.restoration import Plateau, Residual, RestoreConfig, Status, restore_adam
from tests.helpers import GOLDEN, official_prior, relative_error

KERNEL = np.outer([1, 2, 1], [1, 2, 1]) / 16.0
PLAIN = RestoreConfig(temperature=0.9, decoder_std=0.1, max_iterations=6, stop=Residual(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vdvae", "patch_vdvae"])
def test_official_baseline(family):
    prior = official_prior("float32", family)
    if family == "vdvae":  # the official baseline does not shift the decoded mean
        prior = Prior(prior.params, VDVAE(dataclasses.replace(prior.config, mean_shift=0.0)))
    golden = dict(np.load(GOLDEN / f"adam_tiny_{family.replace('_', '')}.npz"))

    def latents(name):
        first = itertools.pairwise(prior.config.first_levels)
        return tuple(np.stack([golden[f"{name}_{i:02d}"] for i in range(a, b)], axis=1) for a, b in first)

    operator = operators.Blur(golden["kernel"][::-1, ::-1])  # it correlates
    config = RestoreConfig(temperature=0.8, decoder_std=10 / 255, max_iterations=5, stop=Residual(0.0), history=True)
    solve = partial(
        restore_adam, prior, golden["y"], operator, float(golden["noise_std"]), config, objective="official"
    )
    out = solve(latents=latents("z0"))
    assert relative_error(out.x, golden["X"]) <= 1e-3
    assert int(out.iterations[0]) == 5
    # Its terms are means over the image's values, and known for z_0 to z_4.
    for name in ("data_term", "latent_term", "decoder_term"):
        ours = np.asarray(getattr(out.history, name))[0, :5] / golden["y"].size
        np.testing.assert_allclose(ours, golden[name], rtol=1e-4)
    # The official z_5, decoded by the same program without moving it.
    final = solve(latents=latents("zfinal"), start=out.x, learning_rate=1e-12)
    assert relative_error(out.mean, final.mean) <= 1e-3


# The images' residuals fall below the tolerance at different times, if at all.
SIGMA = np.array([0.02, 0.1, 0.3])
VARIED = PLAIN.replace(
    temperature=np.array([[0.9], [0.5], [1.0]]),
    decoder_std=np.array([0.1, 0.02, 0.2]),
    max_iterations=20,
    stop=Residual(9.5e-4),
    history=True,
)


@pytest.fixture(scope="module")
def batch(tiny_prior, noisy_images):
    operator = operators.Blur(np.stack([KERNEL, KERNEL.T, np.eye(3) / 3]))
    return operator, restore_adam(
        tiny_prior, noisy_images, operator, SIGMA, VARIED, learning_rate=1e-3, reference=noisy_images
    )


def test_it_descends(tiny_prior, noisy_images, batch):
    operator, out = batch
    counts = np.asarray(out.iterations)
    assert len(set(counts.tolist())) > 1, "the images should stop at different times"
    objective = np.asarray(out.history.objective)
    for i, count in enumerate(counts):
        assert (np.diff(objective[i, : count + 1]) < 0).all()
        assert np.isnan(objective[i, count + 1 :]).all()
        assert int(out.status[i]) == (Status.CONVERGED if count < 20 else Status.ITERATION_LIMIT)
        np.testing.assert_allclose(out.history.psnr_x[i, count], psnr(out.x[i], noisy_images[i]), rtol=1e-5)
        np.testing.assert_allclose(out.history.psnr_mean[i, count], psnr(out.mean[i], noisy_images[i]), rtol=1e-5)

    # It starts at eq. 15 of the observation and its encoding, from the definitions.
    encoding = encode(tiny_prior, noisy_images, VARIED.temperature)
    gamma, tau = VARIED.decoder_std, VARIED.temperature[:, 0]

    def half_square(x, std):
        return np.sum(np.asarray(x, np.float64) ** 2, axis=(1, 2, 3)) / (2 * std**2)

    data_term = half_square(operator(noisy_images) - noisy_images, SIGMA)
    decoder_term = half_square(noisy_images - encoding.mean, gamma)
    decoder_term += noisy_images[0].size / 2 * np.log(2 * np.pi * gamma**2)
    start = data_term - encoding.log_prior.sum(axis=1) / tau**2 + decoder_term
    np.testing.assert_allclose(objective[:, 0], start, rtol=1e-5)


@pytest.mark.slow  # compiles once more for one branch
def test_random_start(tiny_prior, noisy_images):
    config = PLAIN.replace(initial="official", max_iterations=1)
    a, b, other = (
        restore_adam(tiny_prior, noisy_images, operators.Denoising(), 0.1, config, key=jax.random.key(seed)).mean
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, b)
    assert jnp.max(jnp.abs(a - other)) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "map"}, r"objective must be one of \('paper', 'official'\) for restore_adam, got 'map'"),
        ({"config": PLAIN.replace(stop=Plateau())}, "stop must be a Residual for restore_adam, got Plateau"),
        ({"config": PLAIN.replace(initial="image")}, "initial must be one of .* got 'image'"),
        ({"config": PLAIN.replace(initial="official")}, "give a key"),
        ({"config": PLAIN.replace(decoder_std=np.full((4, 1), 0.1))}, "got a schedule of 4"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"latents": (np.zeros((3, 2, 2, 4, 3)),)}, r"latents must have the shapes \(\(3, 2, 2, 4, 3\), \(3, 2, 8, 16"),
        ({"reference": np.zeros((4, 4, 3))}, "reference must have the images' shape"),
    ],
)
def test_bad_inputs(tiny_prior, noisy_images, change, message):
    arguments = {
        "prior": tiny_prior,
        "y": noisy_images,
        "operator": operators.Denoising(),
        "noise_std": 0.1,
        "config": PLAIN,
    }
    with pytest.raises(ValueError, match=message):
        restore_adam(**(arguments | change))
