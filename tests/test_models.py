"""The scanned pass and both models: sizes, parameter counts, program size, batching."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.encoding import encode
from hvae_jax.models import hierarchy
from hvae_jax.models.blocks import depth_to_space, space_to_depth
from hvae_jax.models.contract import HierarchyConfig
from hvae_jax.models.hierarchy import LevelOutputs, Pass
from hvae_jax.models.patch_vdvae import PatchVDVAEConfig
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.models.vdvae import PRESETS as VDVAE_PRESETS
from tests.helpers import model_of, random_prior, tiny_config, tiny_vdvae_config

OFFICIAL_PARAMETERS = 14_770_942
VDVAE_PARAMETERS = {
    "cifar10": 39_145_700,
    "imagenet32": 119_280_868,
    "imagenet64": 125_005_860,
    "ffhq256": 114_874_852,
    "ffhq1024": 109_366_904,
}


def parameter_count(config: HierarchyConfig) -> int:
    shapes = jax.eval_shape(model_of(config).initialize, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_official_preset_has_the_official_size():
    config = PRESETS["official"]
    assert (config.levels, config.multiple) == (36, 64)
    assert parameter_count(config) == OFFICIAL_PARAMETERS


@pytest.mark.parametrize("preset", VDVAE_PARAMETERS)
def test_vdvae_presets_have_openais_sizes(preset):
    assert parameter_count(VDVAE_PRESETS[preset]) == VDVAE_PARAMETERS[preset]


@pytest.mark.parametrize("levels", [6, 12, 18, 36])
@pytest.mark.parametrize(("name", "parameters"), [("table4-l", OFFICIAL_PARAMETERS), ("table4-small-l", 935_350)])
def test_table_4_variants_have_constant_size(levels, name, parameters):
    config = PRESETS[f"{name}{levels}"]
    assert config.levels == levels
    assert abs(parameter_count(config) / parameters - 1) < 0.005


def equations(jaxpr) -> int:
    """Number of equations, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            total += equations(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("make", [tiny_config, tiny_vdvae_config])
@pytest.mark.parametrize("rule", [hierarchy.tempered_map, hierarchy.posterior_sample, hierarchy.prior_sample])
def test_program_does_not_grow_with_depth(rule, make):
    def size(levels: int) -> int:
        config = make(levels)
        model = model_of(config)
        params = jax.eval_shape(model.initialize, jax.random.key(0))

        def run(params, x, tau, keys):
            settings = Pass(rule, tau, jnp.ones((1,)), noise=keys, collect=frozenset(LevelOutputs._fields))
            return model.apply({"params": params}, x, settings)

        keys = jax.random.split(jax.random.key(0), (1, config.levels))
        return equations(jax.make_jaxpr(run)(params, jnp.zeros((1, 8, 8, 3)), jnp.ones((1, config.levels)), keys).jaxpr)

    assert size(3) == size(12)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        pytest.param(tiny_config(space_to_depth=2, noise_conditional=True), marks=pytest.mark.slow),
        pytest.param(tiny_config(auxiliary_heads=True, activation="relu"), marks=pytest.mark.slow),
        pytest.param(tiny_vdvae_config(), marks=pytest.mark.slow),
    ],
    ids=["patch", "conditional", "auxiliary", "vdvae"],
)
def test_batch_is_single_and_jit_is_eager(config, noisy_images):
    prior = random_prior(config)
    x = jnp.asarray(noisy_images)[:, :8, :8]
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
    unrolled = dataclasses.replace(prior.model, unroll=True)
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
    for config in (*PRESETS.values(), *VDVAE_PRESETS.values()):
        assert type(config).from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_latent_maps(noisy_images):
    """Stride and channels of each resolution are those of the latents."""
    for config in (tiny_config(space_to_depth=2), tiny_vdvae_config()):
        latents = jax.eval_shape(partial(encode, random_prior(config)), noisy_images[:, :8, :8]).latents
        assert [(8 // z.shape[2], z.shape[-1]) for z in latents] == list(config.latent_maps)


def test_bad_configs():
    with pytest.raises(ValueError, match="coarsest of stride 1"):
        PatchVDVAEConfig((dataclasses.replace(tiny_config().resolutions[0], stride=2),))
    with pytest.raises(ValueError, match="activation"):
        tiny_config(activation="swish")
    coarse, fine = tiny_vdvae_config().resolutions
    for resolutions, message in (
        ((fine, coarse), "coarsest first"),
        ((coarse, dataclasses.replace(fine, width=32)), "widths that do not grow"),
        ((dataclasses.replace(coarse, levels=0), fine), "a level at each resolution"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(tiny_vdvae_config(), resolutions=resolutions)
    with pytest.raises(ValueError, match="bits of 5 or 8, got 7"):
        tiny_vdvae_config(bits=7)


def test_vdvae_takes_one_size(noisy_images):
    prior = random_prior(tiny_vdvae_config())
    with pytest.raises(ValueError, match=r"\(8, 8, 3\) or \(B, 8, 8, 3\), the only size .*got \(3, 8, 16, 3\)"):
        encode(prior, noisy_images)
    with pytest.raises(ValueError, match="not noise-conditional"):
        encode(prior, noisy_images[:, :, :8], noise_level=0.1)
