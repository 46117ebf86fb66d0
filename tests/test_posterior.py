"""Posterior sampling: the closed-form posterior, running moments, batching, schedules, compilation, errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import operators
from hvae_jax.prior import Prior
from hvae_jax.restoration import (
    Plateau,
    RestoreConfig,
    Status,
    geometric,
    sample_posterior,
    sampling_config,
)
from tests.helpers import CountCompiles
from tests.test_restoration import KERNEL, LinearGaussian, LinearGaussianBlock

SHAPE = (6, 6, 3)
RNG = np.random.default_rng(0)
MIX = RNG.normal(0, 0.1, (SHAPE[0] * SHAPE[1] * SHAPE[2], 40))
OPERATORS = {
    "Blur": operators.Blur(RNG.uniform(size=(3, 3))),
    "Inpainting": operators.Inpainting(RNG.uniform(size=SHAPE) > 0.4),
    "SuperResolution": operators.SuperResolution(RNG.uniform(size=(3, 3)), 2),
    "Linear": operators.Linear(lambda x: x.reshape(-1) @ jnp.asarray(MIX, x.dtype), SHAPE),
}


class Block(LinearGaussianBlock):
    """The same for the sides that super-resolution needs."""

    def setup(self):
        self.weight = self.param("weight", nn.initializers.ones, SHAPE)
        self.bias = self.param("bias", nn.initializers.zeros, SHAPE)


class Model(LinearGaussian):
    def setup(self):
        self.block = Block(self.std)


def linear_gaussian(weight, bias, gamma):
    return Prior({"block": {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}}, Model(gamma))


@pytest.mark.parametrize(
    ("name", "temperature", "beta"),
    [
        ("Linear", 1.0, 1.0),
        ("Blur", 0.7, 0.8),
        *(pytest.param(name, 1.0, 1.0, marks=pytest.mark.slow) for name in OPERATORS if name != "Linear"),
    ],
)
def test_closed_form_posterior_of_a_linear_gaussian_prior(name, temperature, beta):
    """z ~ N(0, τ²), x|z ~ N(w z + b, γ²/β): x ~ N(b, w²τ² + γ²/β), so p(x|y) is Gaussian with known moments."""
    operator, gamma, sigma = OPERATORS[name], 0.3, 0.1
    rng = np.random.default_rng(1)
    weight, bias = rng.uniform(0.3, 0.6, SHAPE).astype(np.float32), rng.uniform(size=SHAPE).astype(np.float32)
    prior = linear_gaussian(weight, bias, gamma)
    clean = bias + weight * rng.standard_normal(SHAPE).astype(np.float32)
    y = operator(clean)
    y += sigma * rng.standard_normal(y.shape).astype(np.float32)
    config = RestoreConfig(temperature=temperature, decoder_std=gamma, stop=Plateau(beta_min=beta, beta_max=beta))
    chains, sweeps = 500, 60
    out = sample_posterior(prior, y, operator, sigma, KEY, config, chains=chains, sweeps=sweeps, burn_in=60)

    size = bias.size
    dense = np.asarray(jax.vmap(operator)(jnp.eye(size).reshape(size, *SHAPE)), np.float64).reshape(size, -1).T
    marginal = (weight.astype(np.float64) ** 2 * temperature**2 + gamma**2 / beta).ravel()
    covariance = np.linalg.inv(dense.T @ dense / sigma**2 + np.diag(1 / marginal))
    mean = covariance @ (dense.T @ np.asarray(y).ravel() / sigma**2 + bias.ravel() / marginal)
    std = np.sqrt(np.diag(covariance))

    # The samples of different chains are independent; those of a chain have a correlation of at most r^distance, r
    # being the largest part of x that an exchange with z keeps.
    r = (1 - gamma**2 / beta / marginal).max()
    for ours, ours_std, independent in (
        (out.samples.mean(axis=0), out.samples.std(axis=0, ddof=1), chains),
        (out.mean, out.std, chains * sweeps * (1 - r) / (1 + r)),
    ):
        error = (np.asarray(ours).ravel() - mean) / std * np.sqrt(independent)
        assert np.abs(error).max() < 4.5
        np.testing.assert_allclose(np.asarray(ours_std).ravel() / std, 1, atol=4.5 / np.sqrt(2 * independent))
    assert int(out.status) == Status.COMPLETED
    assert 0.98 < float(out.r_hat) < np.sqrt(1 + 2 / sweeps * (1 + r) / (1 - r)) + 0.02


PLAIN = RestoreConfig(temperature=0.9, decoder_std=0.1)
BLUR = operators.Blur(KERNEL)
KEY = jax.random.key(3)


def test_moments_are_those_of_the_counted_sweeps(conditional_prior, noisy_images):
    def run(noise_level=0.1, **lengths):
        config = PLAIN.replace(noise_level=noise_level)
        return sample_posterior(conditional_prior, noisy_images, BLUR, 0.1, KEY, config, chains=3, **lengths)

    each = np.concatenate([run(sweeps=1, burn_in=k).samples for k in (1, 2, 3)])
    out = run(sweeps=3, burn_in=1)
    np.testing.assert_allclose(out.mean, each.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(out.std, each.std(axis=0, ddof=1), atol=1e-6)
    np.testing.assert_array_equal(out.samples, each[-3:])
    # What the prior is told matters, and the number of sweeps does not compile again.
    with CountCompiles() as count:
        told = run(0.2, sweeps=4, burn_in=2)
    assert count.programs == []
    assert np.abs(told.samples - out.samples).max() > 1e-3


def test_an_image_and_a_chain_depend_on_nothing_else():
    rng = np.random.default_rng(2)
    prior = linear_gaussian(rng.uniform(size=SHAPE), rng.uniform(size=SHAPE), 0.3)
    images = rng.uniform(size=(3, *SHAPE)).astype(np.float32)
    operator = operators.Blur(np.stack([KERNEL, KERNEL.T, np.eye(3) / 3]))
    sigma = np.array([0.05, 0.1, 0.2])

    def run(y, key=KEY):
        return sample_posterior(prior, y, operator, sigma, key, PLAIN, chains=3, sweeps=4, burn_in=2)

    batch = run(images)
    single = sample_posterior(prior, images[0], operators.Blur(KERNEL), 0.05, KEY, PLAIN, chains=2, sweeps=4, burn_in=2)
    np.testing.assert_allclose(single.samples, batch.samples[:2, 0], atol=1e-5)
    assert single.mean.shape == single.std.shape == images[0].shape
    np.testing.assert_array_equal(run(images).samples, batch.samples)
    assert np.abs(run(images, jax.random.key(4)).samples - batch.samples).min(axis=0).max() > 1e-3


def test_a_schedule_is_gone_through_before_the_burn_in():
    prior = linear_gaussian(np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32), 0.3)

    def run(levels, burn_in):
        config = RestoreConfig(temperature=1.0, decoder_std=levels)
        return sample_posterior(
            prior, np.ones(SHAPE, np.float32), operators.Denoising(), 0.1, KEY, config, sweeps=2, burn_in=burn_in
        )

    two = geometric(0.4, 0.1, 2)
    kept = run(two, 1)
    np.testing.assert_allclose(kept.std, run(jnp.concatenate([two, two[-1:]]), 0).std, atol=1e-6)  # the last row stays
    flat = jnp.broadcast_to(two[-1:], two.shape)
    assert np.abs(kept.samples - run(flat, 1).samples).max() > 1e-3  # and the first was used


def test_r_hat_is_that_of_half_chains():
    """Against the textbook's formula, of one value; and chains that go apart are found."""
    prior = linear_gaussian(np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32), 0.3)

    def run(sweeps, burn_in, chains=3):
        y = np.ones(SHAPE, np.float32)
        lengths = {"chains": chains, "sweeps": sweeps, "burn_in": burn_in}
        return sample_posterior(prior, y, operators.Denoising(), 0.4, KEY, RestoreConfig(1.0, 0.3), **lengths)

    assert np.isinf(run(3, 0).r_hat)
    draws = np.stack([run(1, k).samples for k in range(6)]).reshape(2, 3, 3, -1)  # halves, sweeps, chains, pixels
    within = draws.var(axis=1, ddof=1).mean()
    apart = draws.mean(axis=1).reshape(6, -1).var(axis=0, ddof=1).mean()
    np.testing.assert_allclose(run(6, 0).r_hat, np.sqrt(2 / 3 + apart / within), rtol=1e-4)
    assert float(run(200, 50).r_hat) < 1.03 < 1.1 < float(run(4, 0).r_hat)


def test_ranks_of_the_truth_among_draws_are_uniform():
    """Simulation-based calibration: x from the prior, y from p(y|x), draws from p(x|y)."""
    gamma, sigma, images, chains = 0.3, 0.2, 200, 9
    rng = np.random.default_rng(4)
    weight, bias = rng.uniform(0.3, 0.6, SHAPE).astype(np.float32), rng.uniform(size=SHAPE).astype(np.float32)
    prior, operator = linear_gaussian(weight, bias, gamma), OPERATORS["Blur"]
    z, noise, kept = (rng.standard_normal((images, *SHAPE)).astype(np.float32) for _ in range(3))
    clean = bias + weight * z + gamma * kept
    y = np.asarray(operator(clean)) + sigma * noise
    out = sample_posterior(prior, y, operator, sigma, KEY, RestoreConfig(1.0, gamma), chains=chains, sweeps=1)
    pixel = (slice(None), slice(None), 0, 0, 0)  # one of each image: neighbours are not independent
    ranks = (np.asarray(out.samples)[pixel] < clean[pixel[1:]]).sum(axis=0)
    counts = np.bincount(ranks, minlength=chains + 1)
    assert ((counts - images / 10) ** 2 / (images / 10)).sum() < 27.9  # chi-squared of 9 degrees of freedom, p = 0.001


def test_settings_for_sampling():
    tuned = RestoreConfig(decoder_std=0.3, noise_level=geometric(0.2, 0.1, 3), returns="mean")
    ours = sampling_config(tuned)
    np.testing.assert_array_equal(ours.decoder_std, ours.noise_level)
    np.testing.assert_allclose(ours.noise_level[[0, -1], 0], [49 / 255, 3 / 255], rtol=1e-6)
    assert (ours.temperature, ours.returns) == (1.0, "mean")
    assert sampling_config(PLAIN) is PLAIN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": jax.random.PRNGKey(0)}, r"one key of jax.random.key, got Array\(\[0, 0\]"),
        ({"key": 0}, "one key of jax.random.key, got 0"),
        ({"key": jax.random.split(KEY, 3)}, "one key of jax.random.key"),
        ({"chains": 0}, "got 0 and 32"),
        ({"chains": 1, "sweeps": 1}, "at least 2 samples"),
        ({"burn_in": -1}, "burn_in must not be negative, got -1"),
        ({"config": None}, "recommends no settings"),
    ],
)
def test_bad_inputs(tiny_prior, noisy_images, change, message):
    arguments = {
        "prior": tiny_prior,
        "y": noisy_images,
        "operator": operators.Denoising(),
        "noise_std": 0.1,
        "key": KEY,
        "config": PLAIN,
    }
    with pytest.raises(ValueError, match=message):
        hj.sample_posterior(**(arguments | change))
