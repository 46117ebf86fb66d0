"""Closed forms of diagonal Gaussians against dense linear algebra and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax import gaussian
from hvae_jax.gaussian import Gaussian
from hvae_jax.likelihood import GaussianDecoder


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    shape = (2, 3, 4)
    return tuple(
        Gaussian(jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.uniform(0.3, 2, shape))) for _ in range(2)
    )


def test_log_density_is_that_of_the_dense_gaussian(pair):
    z = pair[1].mean
    for i in range(2):
        mean, std = (np.asarray(a[i], np.float64).ravel() for a in pair[0])
        covariance = np.diag(std**2)
        residual = np.asarray(z[i], np.float64).ravel() - mean
        expected = -0.5 * (
            residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(2 * np.pi * covariance)[1]
        )
        np.testing.assert_allclose(gaussian.log_density(z, pair[0])[i], expected, rtol=1e-5)


def test_kl_is_the_integral(pair):
    q, p = pair
    x = np.linspace(-30, 30, 60001)[:, None]

    def density(g, i):
        mean, std = (np.asarray(a[i], np.float64).ravel() for a in g)
        return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)

    for i in range(2):
        log_q, log_p = density(q, i), density(p, i)
        expected = np.sum(np.exp(log_q) * (log_q - log_p)) * (x[1, 0] - x[0, 0])
        np.testing.assert_allclose(gaussian.kl_divergence(q, p)[i], expected, rtol=1e-4)


@pytest.mark.parametrize(("temperature", "beta"), [(0.5, 1.0), (0.9, 1.0), (1.0, 1.0), (1.2, 0.5)])
def test_tempered_product_is_equation_18(pair, temperature, beta):
    q, p = pair
    s_q, s_p, weight = 1 / q.std**2, 1 / p.std**2, 1 / temperature**2 - beta
    precision = beta * s_q + weight * s_p
    product = gaussian.tempered_product(q, p, temperature, beta)
    np.testing.assert_allclose(
        product.mean, (beta * s_q * q.mean + weight * s_p * p.mean) / precision, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(product.std, precision**-0.5, rtol=1e-5)


def test_tempered_product_limits_and_failure(pair):
    q, p = pair
    one = gaussian.tempered_product(q, p, 1.0, 1.0)
    np.testing.assert_allclose(one.mean, q.mean, rtol=1e-5, atol=1e-6)
    cold = gaussian.tempered_product(q, p, 1e-4, 1.0)
    np.testing.assert_allclose(cold.mean, p.mean, atol=1e-5)
    wide = Gaussian(q.mean, 10 * p.std)  # βS_q + λS_p < 0 at a high temperature: no maximum
    assert np.isnan(gaussian.tempered_product(wide, p, 2.0, 1.0).mean).all()


def test_samples_have_the_moments_and_do_not_depend_on_the_batch(pair):
    p = Gaussian(jnp.full((2, 20000), 1.5), jnp.full((2, 20000), 0.5))
    keys = jax.random.split(jax.random.key(0), 2)
    z = gaussian.sample(p, keys)
    np.testing.assert_allclose(z.mean(axis=1), 1.5, atol=0.02)
    np.testing.assert_allclose(z.std(axis=1), 0.5, atol=0.02)
    one = gaussian.sample(Gaussian(p.mean[1:], p.std[1:]), keys[1:])
    np.testing.assert_array_equal(one[0], z[1])
    np.testing.assert_array_equal(gaussian.sample(pair[0], jnp.zeros((2, 3, 4))), pair[0].mean)


def test_decoder(pair):
    decoder = GaussianDecoder(jnp.full((2, 4, 4, 3), 0.5), jnp.full((2, 4, 4, 3), 0.1))
    x = decoder.sample(jax.random.key(0))
    np.testing.assert_allclose(np.std(x - 0.5), 0.1, atol=0.02)
    np.testing.assert_allclose(decoder.variance, 0.01, rtol=1e-6)
    expected = 0.5 * np.sum((x[0] - 0.5) ** 2) / 0.01 + 48 * np.log(0.1 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(decoder.nll(x)[0], expected, rtol=1e-4)
