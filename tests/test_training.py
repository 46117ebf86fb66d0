"""Objective, data, step and loop; a run that is killed or interrupted ends as if it had not been."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from hvae_jax import Prior, load_prior
from hvae_jax.gaussian import Gaussian, kl_divergence
from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.models.patch_vdvae import PRESETS, PatchVDVAE, PatchVDVAEConfig, Resolution
from hvae_jax.training import Interrupted, LossConfig, OptimizerConfig, TrainConfig, loop, train
from hvae_jax.training.data import batches, crops
from hvae_jax.training.loss import elbo_terms, kl_weights, loss_fn
from hvae_jax.training.state import init_state, train_step
from tests.conftest import official_prior

GOLDEN = Path(__file__).parent / "golden"

COARSE = Resolution(
    stride=1,
    levels=1,
    width=8,
    bottleneck=4,
    posterior_bottleneck=4,
    latent_channels=2,
    encoder_width=8,
    encoder_bottleneck=4,
    encoder_blocks=1,
    skip_width=8,
)
TINY = PatchVDVAEConfig(
    resolutions=(COARSE, dataclasses.replace(COARSE, stride=2)),
    activation="relu",
    space_to_depth=2,
    noise_conditional=True,
    clip_input=False,
    auxiliary_heads=True,
)


@pytest.fixture(autouse=True)
def _tiny_preset(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)


@pytest.fixture
def config():
    """One configuration for all tests that step, so that the step is compiled once."""
    return TrainConfig(
        preset="tiny",
        steps=30,
        batch_size=2,
        crop_size=16,
        scales=(1, 2),
        seed=2,
        checkpoint_every=5,
        log_every=3,
        loss=LossConfig(decoder_std=0.05, noise_max=0.1, dequantization_std=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=3, skip_norm=1e4, ema_decay=0.9),
    )


@pytest.fixture(scope="module")
def start():
    """Parameters to start from; drawn with NumPy, for compiling the initialisation takes long."""
    shapes = jax.eval_shape(PatchVDVAE(TINY).initialize, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.1, size=leaf.shape).astype(leaf.dtype), shapes)
    params["first_level"] |= {"mean": np.zeros(2, np.float32), "std": np.ones(2, np.float32)}
    return params


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photograph k has 100 + k in the red channel, and 100 + the row and the column in green and blue."""
    folder = tmp_path_factory.mktemp("photographs")
    for k, (height, width) in enumerate([(40, 48), (33, 70), (15, 90), (64, 32), (50, 50)]):
        pixels = np.full((height, width, 3), 100, np.uint8)
        pixels[..., 0] += np.uint8(k)
        pixels[..., 1] += np.arange(height, dtype=np.uint8)[:, None]
        pixels[..., 2] += np.arange(width, dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def take(source, count, start=0):
    stream = batches(source, start)
    taken = [next(stream) for _ in range(count)]
    stream.close()
    return taken


# The objective


@pytest.mark.parametrize(("dtype", "bar"), [("float32", 1e-4), ("float64", 1e-9)])
def test_terms_are_those_of_the_official_code(dtype, bar):
    golden = dict(np.load(GOLDEN / "tiny_patchvdvae_elbo.npz"))
    prior = official_prior("float32")
    config, params = prior.config, prior.params

    def close(actual, name):
        expected = golden[name]
        assert np.max(np.abs(np.asarray(actual) - expected)) <= bar * np.max(np.abs(expected)), name

    @jax.jit
    def run(params, x, noise):
        settings = Pass(
            rule=hierarchy.posterior_sample,
            temperature=jnp.ones((1, config.levels), dtype),
            beta=jnp.ones((1,), dtype),
            noise=noise,
            collect=frozenset({"kl"}),
        )
        decoder, result = PatchVDVAE(config).apply({"params": params}, (x + 1) / 2, settings)
        return decoder, result.kl

    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(golden["x"], dtype)  # 8-bit values in the network's unit, without dequantisation noise
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        decoder, kl = run(params, x, [jnp.asarray(golden[f"eps_{i}"], dtype) for i in range(5)])
        assert decoder.mean.dtype == dtype
        close(np.concatenate(decoder, axis=-1), "dec_mean_std")
        np.testing.assert_allclose(kl, golden["kl"], rtol=bar)  # each level, whatever its size

        # The official term is the mean of -log p(x + n|z) over the noise n of deviation 0.015, less the noise's
        # entropy: KL(N(x, 0.015²) ‖ p). A Gaussian's nll is quadratic, so the mean over ±0.015 is exact.
        std = 0.015
        rec_per_example = kl_divergence(Gaussian(x, jnp.full_like(x, std)), Gaussian(*decoder))
        close(rec_per_example, "rec_per_example")
        size = x[0].size
        entropy = size * (np.log(std) + 0.5 + 0.5 * np.log(2 * np.pi))
        normalizer = 128**2 * 3
        (above, kl_loss), (below, _) = (elbo_terms(x + sign * std, decoder, kl, normalizer) for sign in (1, -1))
        close((above + below) / 2 - entropy / normalizer, "rec_loss")
        close(kl_loss, "kl_loss")

        # In bits per value, of the image and of each level's latents
        per_value = normalizer / size / np.log(2)
        close(((above + below) / 2 - entropy / normalizer) * per_value, "rec_avg_loss")
        latents = np.repeat([golden[f"eps_{i}"][0, 0].size for i in range(5)], 2)
        close(kl_loss * normalizer / latents / np.log(2), "kl_avg_loss")


def test_kl_schedules():
    kl = jnp.array([0.0, 1.0, 5.0])
    ramp = LossConfig(beta_min=0.01, beta_start=10, beta_steps=100)
    for step, beta in [(0, 0.01), (10, 0.01), (60, 0.5), (110, 1.0), (10_000, 1.0)]:
        np.testing.assert_allclose(kl_weights(kl, jnp.array(step), ramp), [beta] * 3, rtol=1e-6)

    both = dataclasses.replace(ramp, gamma_steps=80)
    np.testing.assert_allclose(kl_weights(kl, jnp.array(60), both), 0.5 * np.array([0, 0.5, 2.5]), rtol=1e-6)
    np.testing.assert_allclose(kl_weights(kl, jnp.array(80), both), [0.7] * 3, rtol=1e-6)
    np.testing.assert_array_equal(kl_weights(kl, jnp.array(0), LossConfig()), [1, 1, 1])
    # The balance is no function to minimise, and all levels collapsed is no division by zero.
    gradient = jax.grad(lambda kl: jnp.sum(kl_weights(kl, jnp.array(60), both) * kl))(kl)
    np.testing.assert_allclose(gradient, kl_weights(kl, jnp.array(60), both))
    np.testing.assert_array_equal(kl_weights(jnp.zeros(3), jnp.array(60), both), [0, 0, 0])


def test_fitting_the_deviation_changes_nothing_else(start):
    model = PatchVDVAE(TINY, unroll=True)
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    objective = LossConfig(decoder_std=0.05, decoder_std_slope=0.1, noise_max=0.1, auxiliary_weight=0.0)

    def loss(params, only_evidence):
        value, (terms, _) = loss_fn(params, model, images, jax.random.key(2), jnp.array(0), objective)
        return jnp.where(only_evidence, terms.reconstruction + jnp.sum(terms.kl), value)

    gradient = jax.jit(jax.grad(loss))
    with_head, without = gradient(start, False), gradient(start, True)

    def split(gradient):
        """The gradient of all else, and that of the deviation's outputs."""
        head = {k: v.reshape(*v.shape[:-1], -1, 2, 3) for k, v in gradient["output_conv"].items()}
        deviation = {k: v[..., 1, :] for k, v in head.items()}
        return {**gradient, "output_conv": {k: v[..., 0, :] for k, v in head.items()}}, deviation

    (rest, head), (expected, zeros) = split(with_head), split(without)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), rest, expected)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(zeros))
    assert all(np.all(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(head))

    # It falls to zero where the deviation is that of the residual: the head is fitted by maximum likelihood.
    target, mean = model.to_network(images), jnp.full((2, 8, 8, 3), 0.2)
    residual = jnp.abs(target - mean)
    slope = jax.grad(lambda std: jnp.sum(GaussianDecoder(mean, std).nll(target)))(residual)
    np.testing.assert_allclose(slope * residual, np.zeros_like(slope), atol=1e-4)


# The data


def test_batches_depend_on_seed_and_number_only(photographs, config):
    straight = take(crops(photographs, config), 12)
    assert {b.dtype for b in straight} == {np.dtype(np.uint8)}
    assert {b.shape for b in straight} == {(2, 16, 16, 3)}
    np.testing.assert_array_equal(take(crops(photographs, config), 12), straight)
    for start in (1, 7):
        np.testing.assert_array_equal(take(crops(photographs, config), 12 - start, start), straight[start:])
    other = take(crops(photographs, dataclasses.replace(config, seed=4)), 12)
    assert not np.array_equal(other, straight)
    assert not np.array_equal(straight[:6], straight[6:])


def test_crops_are_of_the_listed_photographs(photographs, config, tmp_path):
    listed = tmp_path / "photos.txt"
    listed.write_text("3.png\n\n2.png\r\n1.png \n")  # 2.png is too small
    images = np.concatenate(take(crops(photographs, config, listed), 40)).astype(int)
    assert set(images[..., 0].ravel()) == {101, 103}
    down, right = np.diff(images[..., 1], axis=1), np.diff(images[..., 2], axis=2)
    # Each crop is of one scale and mirrored left to right or not, never upside down.
    scales, flips = np.round(down.mean(axis=(1, 2))), np.sign(right.mean(axis=(1, 2)))
    assert set(scales) == {1, 2}
    assert set(flips) == {-1, 1}
    np.testing.assert_allclose(np.round(np.abs(right).mean(axis=(1, 2))), scales)
    assert len({tuple(image[0, 0]) for image in images}) > 40  # at many places


def test_unusable_data_is_refused_before_anything_is_written(photographs, config, tmp_path, monkeypatch):
    listed = tmp_path / "photos.txt"

    def refused(error, match, **changes):
        with pytest.raises(error, match=match):
            train(dataclasses.replace(config, **changes), photographs, tmp_path / "run", files=listed)

    refused(ValueError, "cannot read the list of photographs .*photos.txt")
    listed.write_text("1.png\nsub/absent.png\n")
    refused(ValueError, r"1 that do not, first .*sub/absent\.png")
    listed.write_text("2.png\n")
    refused(ValueError, "expected photographs of at least 16x16 pixels, got none in 1 files")
    refused(ValueError, "downsampling factors of at least 1", scales=(0,))
    with pytest.raises(ValueError, match="absent"):
        train(config, tmp_path / "absent", tmp_path / "run")
    with pytest.raises(
        ValueError,
        match=r"parameters of the model or of one with fewer residual blocks; \d+ do not fit, first .*got none",
    ):
        train(config, photographs, tmp_path / "run", init={"input_conv": {"bias": np.zeros(8)}})
    monkeypatch.setitem(sys.modules, "grain", None)
    refused(ImportError, r"hvae_jax\[train\]")
    assert not (tmp_path / "run").exists()


# The step


def test_step_learns_and_is_compiled_once(photographs, config, start):
    images = crops(photographs, config)[0]
    state = jax.device_put(init_state(config, start), jax.devices()[0])
    losses = []
    before = train_step._cache_size()
    for _ in range(config.steps):
        old = state
        state, terms, norm = train_step(state, images, config)
        losses.append(float(terms.loss))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))  # its buffers were donated
    assert train_step._cache_size() <= before + 1
    assert (int(state.step), int(state.skipped)) == (config.steps, 0)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert np.isfinite(norm)
    assert terms.kl.shape == (TINY.levels,)

    # The average lags behind the parameters, nearer to them than to the start.
    first, now, average = (tree["output_conv"]["bias"] for tree in (start, state.params, state.ema))
    assert 0 < np.linalg.norm(now - average) < np.linalg.norm(first - average)


@pytest.mark.parametrize("damage", [jnp.nan, 100.0])
def test_bad_step_is_skipped_and_counted(photographs, config, start, damage):
    """Whether the loss is not finite, or the gradient larger than `skip_norm`."""
    images = crops(photographs, config)[0]
    state = jax.device_put(init_state(config, start), jax.devices()[0])
    state, *_ = train_step(state, images, config)
    state.params["output_conv"]["bias"] = damage * state.params["output_conv"]["bias"]
    before = jax.device_get(state)
    state, terms, norm = train_step(state, images, config)
    assert np.isnan(terms.loss) if np.isnan(damage) else norm > config.optimizer.skip_norm
    assert (int(state.step), int(state.skipped)) == (2, 1)
    assert_same(state[1:4], before[1:4])  # parameters, average, optimizer


# The loop


def final_state(out):
    with loop.ocp.CheckpointManager(out / "checkpoints") as checkpoints:
        return checkpoints.latest_step(), checkpoints.restore(
            checkpoints.latest_step(), args=loop.ocp.args.StandardRestore()
        )


def log_of(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line.pop("step"): line for line in lines}, len(lines)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, photographs, start):
    """A run without interruption."""
    out = tmp_path_factory.mktemp("straight") / "run"

    def run(config):
        if not out.exists():
            train(config, photographs, out, init=start, description={"name": "tiny"})
        return out

    return run


def assert_as_straight(out, straight, config):
    step, state = final_state(out)
    assert step == config.steps
    assert_same(state, final_state(straight)[1])
    log, lines = log_of(out)
    assert sorted(log) == list(range(3, config.steps + 1, 3))
    assert lines == len(log)
    expected = log_of(straight)[0][config.steps]
    for name in ("loss", "kl", "gradient_norm", "skipped"):
        assert log[config.steps][name] == expected[name]


def test_run_makes_a_prior_that_loads(straight, config, photographs):
    out = straight(config)
    step, state = final_state(out)
    prior = load_prior(out / "prior")
    assert_same(prior.params, state["ema"])
    assert prior.config == TINY
    assert prior.info["name"] == "tiny"
    summary = prior.info["training"]
    assert (summary["steps"], summary["skipped"]) == (step, 0) == (config.steps, 0)
    assert TrainConfig.from_dict(summary["config"]) == config == TrainConfig.from_file(out / "config.json")
    # The same call again has nothing to do.
    log = (out / "log.jsonl").read_text()
    assert_same(train(config, photographs, out).params, prior.params)
    assert (out / "log.jsonl").read_text() == log


def test_other_settings_are_refused(straight, config, photographs):
    loss = dataclasses.replace(config.loss, decoder_std=None)
    with pytest.raises(ValueError, match=r"seed = 2, got 4; loss\.decoder_std = 0\.05, got None"):
        train(dataclasses.replace(config, seed=4, loss=loss), photographs, straight(config))


def test_start_from_a_prior_leaves_it_alone(straight, config, photographs, tmp_path):
    prior = load_prior(straight(config) / "prior")
    before = jax.device_get(prior.params)
    after = train(config, photographs, tmp_path / "run", init=prior.params)
    assert_same(prior.params, before)
    assert not np.array_equal(after.params["output_conv"]["bias"], before["output_conv"]["bias"])


DRIVER = """
import sys
from pathlib import Path
from hvae_jax import Prior, load_prior
from hvae_jax.models.patch_vdvae import PRESETS
from hvae_jax.training import TrainConfig, train
prior = load_prior(sys.argv[1])
PRESETS["tiny"] = prior.config
train(TrainConfig.from_file(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), init=prior.params)
"""


def test_killed_run_resumes_to_the_same_bits(straight, config, start, photographs, tmp_path):
    out, settings = tmp_path / "run", tmp_path / "config.json"
    settings.write_text(config.to_json())
    Prior(start, PatchVDVAE(TINY)).save(tmp_path / "start")
    arguments = [str(tmp_path / "start"), str(settings), str(photographs), str(out)]
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoints" / "10").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run is too slow"
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 27, "lo')  # a kill may come in the middle of a line

    train(config, photographs, out)
    assert_as_straight(out, straight(config), config)


def test_interrupted_run_resumes_to_the_same_bits(straight, config, start, photographs, tmp_path, monkeypatch):
    """As by Ctrl-C, then as by a batch system, in the middle of a step."""

    def interrupting(number, at):
        def wrapped(source, start):
            for step, images in enumerate(batches(source, start), start + 1):
                if step == at:
                    os.kill(os.getpid(), number)
                yield images

        return wrapped

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for number, at in [(signal.SIGINT, 7), (signal.SIGTERM, 15)]:
        monkeypatch.setattr(loop, "batches", interrupting(number, at))
        with pytest.raises(Interrupted, match=f"stopped at step {at} of 30"):
            train(config, photographs, tmp_path / "run", init=start)
        assert final_state(tmp_path / "run")[0] == at
        assert load_prior(tmp_path / "run" / "prior").info["training"]["steps"] == at
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.setattr(loop, "batches", batches)
    train(config, photographs, tmp_path / "run")
    assert_as_straight(tmp_path / "run", straight(config), config)
