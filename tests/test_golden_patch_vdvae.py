"""Parity with the official PyTorch code; see golden/README.md for what the arrays are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.encoding import encode
from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from tests.golden_arrays import (
    BARS,
    bottom_up,
    close,
    drawn_levels_from_the_prior,
    draws,
    gaussians,
    levels,
    load_golden,
    log_densities,
    run,
)
from tests.helpers import official_prior


@pytest.fixture(scope="module")
def golden():
    return load_golden("tiny_patchvdvae.npz")


@pytest.fixture(scope="module", params=["float64", pytest.param("float32", marks=pytest.mark.slow)])
def setting(request):
    """The tiny prior in one precision, and the bar; every quantity in both, float32 in the slow tests."""
    with jax.enable_x64(request.param == "float64"):
        yield official_prior(request.param), BARS[request.param], request.param


@pytest.mark.parametrize(
    ("size", "schedule"),
    [("s64x64", "const"), ("s64x64", "lin"), pytest.param("s64x128", "const", marks=pytest.mark.slow)],
)
def test_algorithm_1(golden, setting, size, schedule):
    prior, bar, dtype = setting
    x = jnp.asarray(golden[f"{size}/x"], dtype)
    tau = golden[f"T_{schedule}"]
    where = f"{size}/{schedule}"
    for i, skip in enumerate(bottom_up(prior, x)):
        close(skip, golden[f"{size}/skip_{i}"], bar)

    decoder, result = run(prior, x, hierarchy.tempered_map, tau)
    statistics = {
        "z": levels(result.latents),
        "qm": levels([q.mean for q in result.posterior]),
        "qs": levels([q.std for q in result.posterior]),
        "pm": levels([p.mean for p in result.prior]),
        "ps": levels([p.std for p in result.prior]),
    }
    for name, arrays in statistics.items():
        for i, array in enumerate(arrays):
            close(array, golden[f"{where}/{name}_{i:02d}"], bar)
    close(jnp.concatenate(decoder, axis=-1), golden[f"{where}/dec_mean_std"], bar)

    # The official code reports log p(z_l) under a deviation divided by τ.
    priors = gaussians(result.prior)
    log_prior = log_densities(statistics["z"], priors, list(1 / tau))
    for name in ("logpz", "lr_logpz", "ev_none_logpzl", "ev_std10_logpzl"):
        close(log_prior, golden[f"{where}/{name}"], bar)
    for name, sign in (("lr_gx", -1), ("ev_none_logpz", 1), ("ev_std10_logpz", 1)):
        close(sign * log_prior.sum(keepdims=True), golden[f"{where}/{name}"], bar)

    # Through the public function; its log p(z_l) is untempered.
    encoding = encode(prior, x, tau)
    untempered = log_densities(statistics["z"], priors, [1.0] * prior.levels)
    close(encoding.log_prior[0], np.asarray(untempered), bar)
    for name in ("lr_mu", "ev_none_mu", "ev_std10_mu"):
        close(encoding.mean, golden[f"{where}/{name}"], bar)
    close(encode(prior, x, tau, beta=0.7).mean, golden[f"{where}/lr_mu_beta0.7"], bar)
    # What the official wrapper calls variance is a quarter of the network's deviation.
    close(jnp.sqrt(encoding.variance) / 2, golden[f"{where}/lr_var"], bar)
    # Its log p(x|z) never uses that, but a given deviation, 1/255 by default.
    for name, std in (("none", 1 / 255), ("std10", 10 / 255)):
        fixed = GaussianDecoder(encoding.mean, jnp.full(x.shape, std, x.dtype))
        close(-fixed.nll(x), golden[f"{where}/ev_{name}_logpxz"], bar)
    # Its drawn image stays in the network's unit, at an output temperature of 0.05.
    drawn = decoder.mean + 0.05 * decoder.std * golden[f"{where}/lr_x_noise"]
    close(jnp.clip(drawn, 0, 1), golden[f"{where}/lr_x"], bar)


@pytest.mark.parametrize(
    ("section", "rule"), [("encode", hierarchy.posterior_sample), ("samplemode", hierarchy.tempered_sample)]
)
def test_draws(golden, setting, section, rule):
    prior, bar, dtype = setting
    x = jnp.asarray(golden["s64x64/x"], dtype)
    decoder, result = run(prior, x, rule, 0.8, draws(golden, section, prior))
    for i, z in enumerate(levels(result.latents)):
        close(z, golden[f"{section}/z_{i:02d}"], bar)
    if section == "samplemode":
        close(jnp.concatenate(decoder, axis=-1), golden["samplemode/dec_mean_std"], bar)


def test_levels_from_the_prior(golden, setting):
    prior, bar, dtype = setting
    x = jnp.asarray(golden["s64x64/x"], dtype)
    decoder, result = run(prior, x, drawn_levels_from_the_prior, 0.8, draws(golden, "prior_after4", prior))
    close(prior.model.to_image(decoder).mean, golden["prior_after4/lr_mu"], bar)
    # The official code tempers log p(z_l) of the encoded levels alone.
    priors = gaussians(result.prior)
    log_prior = log_densities(levels(result.latents), priors, [1 / 0.8 if i < 4 else 1.0 for i in range(prior.levels)])
    close(log_prior, golden["prior_after4/lr_logpz"], bar)
    close(-log_prior.sum(keepdims=True), golden["prior_after4/lr_gx"], bar)


def test_generation(golden, setting):
    prior, bar, dtype = setting
    noise = draws(golden, "uncond", prior)
    settings = Pass(hierarchy.prior_sample, jnp.full((1, prior.levels), 0.8, dtype), jnp.ones((1,), dtype), noise=noise)

    @jax.jit
    def generate(p):
        result = p.model.apply({"params": p.params}, None, settings, (1, 128, 64), method="top_down")
        return p.model.apply({"params": p.params}, result.features, method="decode")

    close(jnp.concatenate(generate(prior), axis=-1), golden["uncond/dec_mean_std"], bar)


def test_batch_of_two(golden, setting):
    prior, bar, dtype = setting
    encoding = encode(prior, jnp.asarray(golden["b2/x"], dtype), 0.8)
    close(encoding.mean, golden["b2/lr_mu"], bar)
    close(jnp.sqrt(encoding.variance) / 2, golden["b2/lr_var"], bar)


def test_given_latents_reproduce_the_pass(golden, setting):
    prior, bar, dtype = setting
    x = jnp.asarray(golden["s64x64/x"], dtype)
    decoder, result = run(prior, x, hierarchy.tempered_map, 0.8)
    settings = Pass(hierarchy.given, jnp.ones((1, prior.levels), dtype), jnp.ones((1,), dtype), latents=result.latents)
    variables = {"params": prior.params}
    again = prior.model.apply(variables, None, settings, (1, 64, 64), method="top_down")
    mean = prior.model.apply(variables, again.features, method="decode").mean
    close(mean, np.asarray(decoder.mean), bar)
