"""The scanned pass and PatchVDVAE: sizes, parameter counts, program size, batching."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.models import hierarchy
from hvae_jax.models.blocks import depth_to_space, space_to_depth
from hvae_jax.models.hierarchy import LevelOutputs, Pass
from hvae_jax.models.patch_vdvae import PRESETS, PatchVDVAE, PatchVDVAEConfig
from tests.conftest import random_prior, tiny_config

OFFICIAL_PARAMETERS = 14_770_942


def parameter_count(config: PatchVDVAEConfig) -> int:
    shapes = jax.eval_shape(PatchVDVAE(config).initialize, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_official_preset_has_the_official_size():
    config = PRESETS["official"]
    assert (config.levels, config.multiple) == (36, 64)
    assert parameter_count(config) == OFFICIAL_PARAMETERS


@pytest.mark.parametrize("levels", [6, 12, 18, 36])
def test_table_4_variants_have_constant_size(levels):
    config = PRESETS[f"table4-l{levels}"]
    assert config.levels == levels
    assert abs(parameter_count(config) / OFFICIAL_PARAMETERS - 1) < 0.005


def equations(jaxpr) -> int:
    """Number of equations, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            total += equations(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("rule", [hierarchy.tempered_map, hierarchy.posterior_sample, hierarchy.prior_sample])
def test_program_does_not_grow_with_depth(rule):
    def size(levels: int) -> int:
        config = tiny_config(levels)
        model = PatchVDVAE(config)
        params = jax.eval_shape(model.initialize, jax.random.key(0))

        def run(params, x, tau, keys):
            settings = Pass(rule, tau, jnp.ones((1,)), noise=keys, collect=frozenset(LevelOutputs._fields))
            return model.apply({"params": params}, x, settings)

        keys = jax.random.split(jax.random.key(0), (1, config.levels))
        return equations(jax.make_jaxpr(run)(params, jnp.zeros((1, 8, 8, 3)), jnp.ones((1, config.levels)), keys).jaxpr)

    assert size(3) == size(12)


@pytest.mark.parametrize(
    "changes", [{}, {"space_to_depth": 2, "noise_conditional": True}, {"auxiliary_heads": True, "activation": "relu"}]
)
def test_batch_is_single_and_jit_is_eager(changes, noisy_images):
    prior = random_prior(tiny_config(**changes))
    x = jnp.asarray(noisy_images)
    level = jnp.array([0.0, 0.05, 0.1])
    tau = jnp.array([[0.5], [0.8], [1.0]]) * jnp.ones((3, prior.levels))
    keys = jax.random.split(jax.random.key(0), (3, prior.levels))

    def run(x, tau, keys, level):
        settings = Pass(hierarchy.tempered_sample, tau, jnp.ones((1,)), noise=keys)
        return prior.model.apply({"params": prior.params}, x, settings, level)[0].mean

    compiled = jax.jit(run)
    batch = compiled(x, tau, keys, level)
    for i in range(3):
        part = slice(i, i + 1)
        np.testing.assert_allclose(compiled(x[part], tau[part], keys[part], level[part])[0], batch[i], atol=2e-5)
    np.testing.assert_allclose(run(x, tau, keys, level), batch, atol=2e-5)
    unrolled = PatchVDVAE(prior.config, unroll=True)
    settings = Pass(hierarchy.tempered_sample, tau, jnp.ones((1,)), noise=keys)
    written_out = jax.jit(lambda p: unrolled.apply({"params": p}, x, settings, level)[0].mean)(prior.params)
    np.testing.assert_allclose(written_out, batch, atol=2e-5)


def test_noise_level_is_seen_only_by_conditional_models(conditional_prior, noisy_images):
    from hvae_jax import reconstruct

    quiet, loud = (reconstruct(conditional_prior, noisy_images, noise_level=s) for s in (0.0, 0.2))
    assert np.max(np.abs(quiet - loud)) > 1e-3


def test_depth_to_space_inverts_space_to_depth():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 2), 2), x)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 0], x[0, :2, :2].reshape(-1))


def test_config_survives_json():
    for config in PRESETS.values():
        assert PatchVDVAEConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_bad_configs():
    with pytest.raises(ValueError, match="coarsest of stride 1"):
        PatchVDVAEConfig((dataclasses.replace(tiny_config().resolutions[0], stride=2),))
    with pytest.raises(ValueError, match="activation"):
        tiny_config(activation="swish")
