"""Iterates of restorations as training inputs, Muon, and models that grow."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax import RestoreConfig, operators, restore
from hvae_jax.encoding import encode
from hvae_jax.models.patch_vdvae import PatchVDVAE
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.restoration.schedules import DPIR_WEIGHT
from hvae_jax.training import LossConfig, OptimizerConfig, TrainConfig, iterates
from hvae_jax.training.state import grown, init_state, make_optimizer, train_step
from tests.helpers import random_prior, tiny_config

CONFIG = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2, activation="relu")


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (4, 32, 32, 3))


def test_kernels_are_centred_blurs():
    kernels = np.asarray(iterates.random_kernels(jax.random.key(1), 50))
    rows, columns = np.mgrid[-12:13, -12:13]
    assert kernels.min() >= 0
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, rtol=1e-5)
    assert np.abs((kernels * rows).sum((1, 2))).max() < 0.6
    assert np.abs((kernels * columns).sum((1, 2))).max() < 0.6
    spread = np.sqrt((kernels * (rows**2 + columns**2)).sum((1, 2)))
    assert spread.min() < 1.5
    assert spread.max() > 5


@pytest.mark.parametrize("blurred", [True, False])
def test_the_iterates_are_those_of_algorithm_2(images, blurred):
    """What a restoration in progress hands to the encoder is what `restore` does."""
    prior = random_prior(CONFIG)
    r = jax.jit(iterates.start)(jax.random.key(5), images)
    assert r.blurred.any()
    assert not r.blurred.all()
    i = int(np.argmax(np.asarray(r.blurred) == blurred))
    r = jax.tree.map(lambda leaf: leaf[i : i + 1], r)
    operator = operators.Blur(r.kernel) if blurred else operators.Inpainting(r.mask[..., None])
    np.testing.assert_allclose(r.mean, operator.initial(r.observation), atol=1e-6)
    levels = []
    for _ in range(iterates.ITERATIONS):
        x, level = iterates.encoder_input(r)
        levels.append(level[0])
        r = iterates.advance(r, encode(prior, x, 1.0, noise_level=level).mean)
    config = RestoreConfig(
        temperature=1.0,
        decoder_std=jnp.array(levels)[:, None] / DPIR_WEIGHT**0.5,
        noise_level=jnp.array(levels)[:, None],
        max_iterations=iterates.ITERATIONS,
        initial="image",
    )
    out = restore(prior, r.observation, operator, r.noise_std, config)
    np.testing.assert_allclose(r.mean, out.mean, atol=2e-4)
    assert r.iteration[0] == iterates.ITERATIONS


def test_finished_restorations_are_renewed(images):
    r = iterates.start(jax.random.key(0), images)._replace(iteration=jnp.array([8, 3, 8, 0]))
    new = iterates.renew(r, jax.random.key(1), 1 - images)
    np.testing.assert_array_equal(new.iteration, [0, 3, 0, 0])
    np.testing.assert_array_equal(new.image[jnp.array([1, 3])], images[jnp.array([1, 3])])
    np.testing.assert_array_equal(new.image[jnp.array([0, 2])], 1 - images[jnp.array([0, 2])])
    np.testing.assert_array_equal(new.observation[1], r.observation[1])


@pytest.mark.slow
def test_training_on_iterates_with_muon(images, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", CONFIG)
    config = TrainConfig(
        preset="tiny",
        batch_size=4,
        crop_size=32,
        loss=LossConfig(decoder_std=0.02, noise_max=0.2, iterate_fraction=0.5, auxiliary_weight=0.0),
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_steps=2),
    )
    crops = np.asarray(255 * images).astype(np.uint8)
    compiled = jax.jit(functools.partial(train_step, key=jax.random.key(0), config=config))
    state, losses = init_state(config), []
    for step in range(25):
        state, terms, _ = compiled(state, crops)
        losses.append(float(terms.loss))
        # Two restorations, four iterations apart, each renewed after its eighth.
        np.testing.assert_array_equal(state.restorations.iteration, [step % 8 + 1, (step - 1) % 8 + 1])
    assert int(state.skipped) == 0
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


@pytest.mark.slow
def test_muon_orthogonalizes_each_kernel():
    """A first step's kernels have similar singular values, level by level; biases take Adam's step."""
    params = jax.eval_shape(PatchVDVAE(CONFIG).initialize, jax.random.key(0))
    rng = np.random.default_rng(0)
    gradient = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), params)
    config = OptimizerConfig(name="muon", learning_rate=1.0, warmup_steps=0, clip_norm=1e9)
    optimizer = make_optimizer(config, 10, params)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(gradient), gradient)
    block = updates["levels_1"]["residual_block"]["conv_1"]
    for kernel in block["kernel"].reshape(2, 9 * 4, 4):
        singular = np.linalg.svd(kernel, compute_uv=False)
        assert singular.max() < 2 * singular.min()
        # Moonlight's scale: 0.2 sqrt(max side) times an orthogonal matrix, whose RMS is 0.2 for all shapes.
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(kernel))), 0.2, rtol=0.3)
    # Adam's first step is the gradient's sign, here with Nesterov's momentum.
    bias = gradient["levels_1"]["residual_block"]["conv_1"]["bias"]
    np.testing.assert_allclose(block["bias"] / np.sign(bias), block["bias"][0, 0] / np.sign(bias[0, 0]), rtol=1e-3)


def test_a_grown_model_computes_what_the_smaller_did(images):
    small = random_prior(CONFIG)
    resolutions = [
        dataclasses.replace(r, encoder_blocks=3, deterministic=1, deterministic_bottleneck=4)
        for r in CONFIG.resolutions
    ]
    large = random_prior(dataclasses.replace(CONFIG, resolutions=tuple(resolutions)))
    both = dataclasses.replace(large, params=grown(small.params, large.params))
    expected, got = (encode(p, images, 1.0, noise_level=0.1).mean for p in (small, both))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_what_cannot_grow_is_refused():
    small, large = random_prior(CONFIG).params, random_prior(tiny_config(levels=3)).params
    with pytest.raises(ValueError, match=r"fewer residual blocks; \d+ do not fit, first .*expected \(.*, got"):
        grown(small, large)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": LossConfig(iterate_fraction=1.5)}, "iterate_fraction from 0 to 1, got 1.5"),
        ({"preset": "official", "loss": LossConfig(iterate_fraction=0.5)}, "needs a noise-conditional model"),
        ({"crop_size": 16, "loss": LossConfig(iterate_fraction=0.5)}, "crops of at least 25 pixels, got 16"),
        ({"optimizer": OptimizerConfig(decay_steps=20), "steps": 10}, "decay_steps from 0 to the 10 steps, got 20"),
        ({"optimizer": OptimizerConfig(name="sgd")}, "'muon', got 'sgd'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)
