"""Parity of VDVAE with the official PyTorch code; see golden/README.md for what the arrays are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.encoding import encode
from hvae_jax.gaussian import kl_divergence
from hvae_jax.likelihood import GaussianDecoder, LogisticMixtureDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.vdvae import FIVE_BIT_LEVELS, FIVE_BIT_SHIFT
from hvae_jax.prior import Prior
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
    return load_golden("tiny_vdvae.npz")


@pytest.fixture(scope="module", params=["float64", pytest.param("float32", marks=pytest.mark.slow)])
def setting(request):
    """The tiny prior in one precision, and the bar; every quantity in both, float32 in the slow tests."""
    with jax.enable_x64(request.param == "float64"):
        yield official_prior(request.param, "vdvae"), BARS[request.param], request.param


def test_encoder_activations(golden, setting):
    prior, bar, dtype = setting
    for activation in bottom_up(prior, jnp.asarray(golden["x"], dtype)):
        close(activation, golden[f"act_{activation.shape[1]}"], bar)


@pytest.mark.parametrize("schedule", ["const", pytest.param("lin", marks=pytest.mark.slow)])
def test_algorithm_1(golden, setting, schedule):
    prior, bar, dtype = setting
    x, tau = jnp.asarray(golden["x"], dtype), golden[f"T_{schedule}"]

    def of(name):
        return golden[f"{schedule}/{name}"]

    decoder, result = run(prior, x, hierarchy.tempered_map, tau)
    z, q, p = levels(result.latents), gaussians(result.posterior), gaussians(result.prior)
    for i in range(prior.levels):
        close(z[i], of(f"z_{i:02d}"), bar)
        for name, gaussian in (("q", q[i]), ("p", p[i])):
            close(gaussian.mean, of(f"{name}m_{i:02d}"), bar)
            close(np.log(np.asarray(gaussian.std)), of(f"{name}logs_{i:02d}"), bar)
    close(result.log_prior[0], of("ll"), bar)
    close(result.kl[0], of("kl"), bar)

    # Decoder, before any clamp; the reference's variance is in the images' unit already.
    close(result.features * prior.params["gain"] + prior.params["bias"], of("px_z"), bar)
    close((decoder.mean + 1) / 2, of("mu_raw"), bar)
    close(decoder.variance / 4, of("var_raw"), bar)
    drawn = (
        decoder.sample_from(*(jnp.asarray(of(f"noise_{name}_u"), dtype) for name in ("gumbel", "logistic"))) + 1
    ) / 2
    close(drawn, of("sample"), bar)

    # Through the public functions, as `latent_reg` reports it.
    encoding = encode(prior, x, tau)
    close(encoding.mean, of("lr_mu"), bar)
    if schedule == "const":
        close(encoding.variance, of("lr_var"), bar)
        close(encoding.log_prior[0], of("lr_logpz"), bar)
        close(-encoding.log_prior.sum(), of("lr_gx"), bar)
        close(jnp.clip(drawn + FIVE_BIT_SHIFT, 0, 1), of("lr_x"), bar)
        less = encode(prior, x, tau, beta=0.7)
        close(less.mean, of("lr_mu_beta0.7"), bar)
        close(-less.log_prior.sum(), of("lr_gx_beta0.7"), bar)
        # `eval_logpxz`: p(z_l) of deviation σ τ, no shift, the decoder's variance or a given one.
        tempered = log_densities(z, p, list(tau))
        raw = GaussianDecoder((decoder.mean + 1) / 2, jnp.sqrt(decoder.variance) / 2)
        given = raw._replace(std=jnp.full_like(raw.std, 5 / 255))
        for name, distribution in (("none", raw), ("std5", given)):
            close(tempered, of(f"ev_{name}_logpzl"), bar)
            close(tempered.sum(), of(f"ev_{name}_logpz"), bar)
            close(distribution.mean, of(f"ev_{name}_mu"), bar)
            close(-distribution.nll(x)[0], of(f"ev_{name}_logpxz"), bar)
        close(raw.variance, of("ev_none_var"), bar)


@pytest.mark.slow  # the rule is the same code as for PatchVDVAE
def test_tempered_sample(golden, setting):
    prior, bar, dtype = setting
    x, noise = jnp.asarray(golden["x"], dtype), draws(golden, "samplemode", prior)
    decoder, result = run(prior, x, hierarchy.tempered_sample, golden["T_const"], noise)
    for i, z in enumerate(levels(result.latents)):
        close(z, golden[f"samplemode/z_{i:02d}"], bar)
    close((decoder.mean + 1) / 2, golden["samplemode/mu_raw"], bar)
    close(decoder.variance / 4, golden["samplemode/var_raw"], bar)


@pytest.mark.slow  # the rule is the same code as for PatchVDVAE
def test_levels_from_the_prior(golden, setting):
    prior, bar, dtype = setting
    x, first = jnp.asarray(golden["x"], dtype), int(golden["prior_after5/nlogp"])
    tau = np.where(np.arange(prior.levels) < first, golden["T_const"], 1)  # it draws from the prior untempered
    decoder, result = run(prior, x, drawn_levels_from_the_prior, tau, draws(golden, "prior_after5", prior))
    close(prior.model.to_image(decoder).mean, golden["prior_after5/lr_mu"], bar)
    close(-result.log_prior[:, :first].sum(), golden["prior_after5/lr_gx"], bar)


@pytest.mark.slow
def test_batch_of_two(golden, setting):
    prior, bar, dtype = setting
    encoding = encode(prior, jnp.asarray(golden["b2/x"], dtype), golden["T_const"])
    close(encoding.mean, golden["b2/lr_mu"], bar)
    close(encoding.variance, golden["b2/lr_var"], bar)
    close(encoding.log_prior.sum(axis=0), golden["b2/lr_logpz"], bar)  # the reference sums over the batch


def test_clamps(golden, setting):
    prior, bar, dtype = setting
    loud = {**prior.params, "output_conv": {name: 4 * leaf for name, leaf in prior.params["output_conv"].items()}}
    encoding = encode(Prior(loud, prior.model), jnp.asarray(golden["x"], dtype), golden["T_const"])
    close(encoding.mean, golden["clamp_outconv_x4/lr_mu"], bar)
    close(encoding.variance, golden["clamp_outconv_x4/lr_var"], bar)


def test_posterior_draws_and_training_terms(golden, setting):
    prior, bar, dtype = setting
    # The encoded draw of "encode" in the same program.
    noise = [jnp.repeat(eps, 2, axis=0) for eps in draws(golden, "encode", prior)]
    _, result = run(
        prior, jnp.repeat(jnp.asarray(golden["x"], dtype), 2, axis=0), hierarchy.posterior_sample, 1.0, noise
    )
    for i, z in enumerate(levels(result.latents)):
        close(z[:1], golden[f"encode/z_{i:02d}"], bar)

    x = jnp.asarray(golden["elbo/x255"], dtype) / FIVE_BIT_LEVELS
    decoder, result = run(prior, x, hierarchy.posterior_sample, 1.0, draws(golden, "elbo", prior))
    for i, (z, q, p) in enumerate(
        zip(levels(result.latents), gaussians(result.posterior), gaussians(result.prior), strict=True)
    ):
        close(z, golden[f"elbo/z_{i:02d}"], bar)
        close(kl_divergence(q, p), golden[f"elbo/kl_{i:02d}"], bar)
    target = jnp.asarray(golden["elbo/target"], dtype)
    pixels = target[0].size
    close(decoder.nll(target, bits=5) / pixels, golden["elbo/nll_low"], bar)
    close(decoder.nll(target, bits=8) / pixels, golden["elbo/nll_8bit_on_target"], bar)
    rate = result.kl.sum(axis=1) / pixels
    close(rate.mean(), golden["elbo/rate"], bar)
    close((rate + decoder.nll(target, bits=5) / pixels).mean(), golden["elbo/elbo"], bar)


def test_likelihood_at_its_edges(golden, setting):
    _, bar, dtype = setting
    decoder = LogisticMixtureDecoder.of(jnp.asarray(golden["nllstress/l"], dtype))
    target = jnp.asarray(golden["nllstress/target"], dtype)
    close(decoder.nll(target, bits=8) / target[0].size, golden["nllstress/nll_8bit"], bar)
    close(decoder.nll(target, bits=5) / target[0].size, golden["nllstress/nll_low"], bar)
    close(decoder.mean, golden["nllstress/dmol_mean"], bar)
    close(decoder.variance, golden["nllstress/dmol_var"], bar)
