"""Objective, data, step and loop; a run that is killed or interrupted ends as if it had not been."""

import collections
import dataclasses
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import rich.console

from hvae_jax import Prior, load_prior
from hvae_jax.files import TEMPORARY
from hvae_jax.gaussian import Gaussian, kl_divergence
from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.models.patch_vdvae import PatchVDVAE, PatchVDVAEConfig, Resolution
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.training import (
    RUNS,
    Interrupted,
    LossConfig,
    OptimizerConfig,
    OutOfTime,
    TrainConfig,
    data,
    last_step,
    loop,
    train,
)
from hvae_jax.training import state as state_module
from hvae_jax.training.data import Photographs, random_crops
from hvae_jax.training.loss import elbo_terms, kl_weights, loss_fn
from hvae_jax.training.state import init_state, learning_rate, train_step, train_steps
from tests.helpers import official_prior

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


KEY = jax.random.key(2)
"""Of a run."""


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


# The objective


@pytest.mark.parametrize(("dtype", "bar"), [pytest.param("float32", 1e-4, marks=pytest.mark.slow), ("float64", 1e-9)])
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


def photographs_of(folder, config, **options):
    return Photographs(folder, config, jax.sharding.SingleDeviceSharding(jax.devices()[0]), **options)


@functools.cache
def jitted_crops(count, size):
    return jax.jit(lambda store, key: random_crops(store, key, count, size))


def versions_of(folder, k, scales):
    """The versions of a photograph, not rounded."""
    image = np.asarray(PIL.Image.open(folder / f"{k}.png")).astype(float)
    for scale in scales:
        height, width = (side // scale for side in image.shape[:2])
        cells = image[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
        yield cells.mean(axis=(1, 3))


def test_crops_are_any_symmetry_of_any_place_of_the_listed_photographs(photographs, config, tmp_path):
    listed = tmp_path / "photos.txt"
    listed.write_text("3.png\n\n2.png\r\n1.png \n")  # 2.png is too small
    store, left = photographs_of(photographs, config, files=listed).at(0)
    assert left == config.steps
    images = jitted_crops(1500, 16)(store, jax.random.key(0))
    assert (images.dtype, images.shape) == (np.uint8, (1500, 16, 16, 3))

    # Red tells the photograph of a crop, the difference of neighbours its version.
    found = collections.Counter()
    places = collections.defaultdict(set)
    versions = {(k, s): v for k in (1, 3) for s, v in zip((1, 2), versions_of(photographs, k, (1, 2)), strict=True)}
    for crop in np.asarray(images).astype(int):
        green, blue = crop[..., 1], crop[..., 2]
        k = crop[0, 0, 0] - 100
        scale = np.ptp(green) // 15
        top, left = (green.min() - 100) // scale, (blue.min() - 100) // scale
        region = versions[k, scale][top : top + 16, left : left + 16]
        turned = {(t, r): np.rot90(region.swapaxes(0, 1) if t else region, r) for t in (False, True) for r in range(4)}
        match = [name for name, expected in turned.items() if np.max(np.abs(expected - crop)) < 0.6]
        assert len(match) == 1
        found[k, scale, match[0]] += 1
        places[k, scale] |= {("top", top), ("left", left)}
    assert len(found) == 2 * 2 * 8
    assert min(found.values()) > 1500 / 32 / 2  # 47 each on average, with a deviation of 7
    for version, region in versions.items():  # up to the borders
        for side, length in zip(("top", "left"), region.shape, strict=False):
            assert {(side, 0), (side, length - 16)} <= places[version]


def sampled(source, steps):
    """A crop of each step, drawn as `train_steps` does."""
    return np.stack([jitted_crops(1, 16)(source.at(step)[0], jax.random.key(step))[0] for step in steps])


def test_photographs_that_do_not_fit_take_turns(photographs, config):
    two = dataclasses.replace(config, store_gib=7 * data.PITCH / 2**30, store_steps=3)
    with closing(photographs_of(photographs, two)) as source:
        straight = sampled(source, range(30))
        assert source.at(28)[1] == 2
        assert source.seconds > 0
    with closing(photographs_of(photographs, two)) as source:
        compiled = jitted_crops(1, 16)._cache_size()
        np.testing.assert_array_equal(sampled(source, range(17, 30)), straight[17:])  # as if it had not been stopped
        assert jitted_crops(1, 16)._cache_size() == compiled
    turns = straight[..., 0].max(axis=(1, 2)).reshape(10, 3)
    assert max(len(set(turn)) for turn in turns) == 2
    assert set(turns.ravel()) == {100, 101, 103, 104}


@pytest.mark.slow
def test_more_bytes_than_32_bits_can_count():
    """One version that starts 2³¹ bytes into the store."""
    rows = 2**31 // data.PITCH + 3
    pixels = np.zeros((rows, data.PITCH), np.uint8)
    version = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)  # three rows
    pixels[-3:] = version.reshape(3, -1)
    one = jnp.ones(1, jnp.int32)
    store = data.Store(jnp.asarray(pixels), (rows - 3) * one, 64 * one, 64 * one, 0 * one, one, jnp.int32(1))
    crop = jitted_crops(1, 64)(store, jax.random.key(0))[0]
    np.testing.assert_array_equal(np.sort(np.asarray(crop).ravel()), np.sort(version.ravel()))


def test_unusable_data_is_refused_before_anything_is_written(photographs, config, tmp_path, monkeypatch):
    listed = tmp_path / "photos.txt"

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            train(dataclasses.replace(config, **changes), photographs, tmp_path / "run", files=listed)

    refused("cannot read the list of photographs .*photos.txt")
    listed.write_text("1.png\nsub/absent.png\n")
    refused(r"1 that do not, first .*sub/absent\.png")
    listed.write_text("2.png\n")
    refused("expected photographs of at least 16x16 pixels, got none in 1 files")
    refused("downsampling factors of at least 1", scales=(0,))
    listed.write_text("1.png\n")
    refused("store_gib large enough for one photograph, got 1e-06", store_gib=1e-6)
    with pytest.raises(ValueError, match="absent"):
        train(config, tmp_path / "absent", tmp_path / "run")
    with pytest.raises(
        ValueError,
        match=r"parameters of the model or of one with fewer residual blocks; \d+ do not fit, first .*got none",
    ):
        train(config, photographs, tmp_path / "run", init={"input_conv": {"bias": np.zeros(8)}})
    monkeypatch.setattr(data, "_memory", lambda where: 2**12)
    refused(r"expected 0\.0 GiB of memory for the photographs, got 0\.0; set a smaller store_gib")
    assert not (tmp_path / "run").exists()


# The step


@pytest.fixture
def store(photographs, config):
    return photographs_of(photographs, config).at(0)[0]


def test_step_learns_and_is_compiled_once(store, config, start):
    state = jax.device_put(init_state(config, start), jax.devices()[0])
    losses = []
    before = train_steps._cache_size()
    for _ in range(config.steps):
        old = state
        state, terms, norms = train_steps(state, store, KEY, 1, config)
        losses.append(float(terms.loss[0]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))  # its buffers were donated
    assert train_steps._cache_size() <= before + 1
    assert (int(state.step), int(state.skipped)) == (config.steps, 0)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert np.isfinite(norms).all()
    assert terms.kl.shape == (1, TINY.levels)

    # The average lags behind the parameters, nearer to them than to the start.
    first, now, average = (tree["output_conv"]["bias"] for tree in (start, state.params, state.ema))
    assert 0 < np.linalg.norm(now - average) < np.linalg.norm(first - average)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [jnp.nan, 100.0])
def test_bad_step_is_skipped_and_counted(store, config, start, damage):
    """Whether the loss is not finite, or the gradient larger than `skip_norm`."""
    state = jax.device_put(init_state(config, start), jax.devices()[0])
    state, *_ = train_steps(state, store, KEY, 1, config)
    state.params["output_conv"]["bias"] = damage * state.params["output_conv"]["bias"]
    before = jax.device_get(state)
    state, terms, norms = train_steps(state, store, KEY, 1, config)
    assert np.isnan(terms.loss) if np.isnan(damage) else norms > config.optimizer.skip_norm
    assert (int(state.step), int(state.skipped)) == (2, 1)
    assert_same(state[1:4], before[1:4])  # parameters, average, optimizer


@pytest.mark.slow
def test_bfloat16_is_near_float32(config, start, monkeypatch):
    images = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))

    @functools.partial(jax.jit, static_argnames="dtype")
    def gradient(params, dtype):
        model = PatchVDVAE(TINY, unroll=True, dtype=dtype)
        return jax.grad(loss_fn, has_aux=True)(params, model, images, jax.random.key(2), jnp.array(0), config.loss)

    (exact, (terms, _)), (rounded, (rounded_terms, _)) = gradient(start, None), gradient(start, "bfloat16")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01, atol=1e-4), rounded_terms, terms)
    flat, flat_rounded = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (exact, rounded))
    difference = np.linalg.norm(flat_rounded - flat) / np.linalg.norm(flat)
    assert 1e-6 < difference < 0.02  # 8 binary digits: 0.004
    assert {leaf.dtype.name for leaf in jax.tree.leaves((rounded, rounded_terms))} == {"float32"}

    # The whole step, as on an accelerator
    monkeypatch.setattr(state_module, "_on_cpu", lambda: False)
    state = jax.eval_shape(lambda: init_state(config, start))
    crops = jax.ShapeDtypeStruct((2, 16, 16, 3), np.uint8)
    half = dataclasses.replace(config, compute_dtype="bfloat16")
    step = functools.partial(train_step, key=KEY, config=half)
    traced, (after, *_) = jax.make_jaxpr(step, return_shape=True)(state, crops)
    assert "bf16" in str(traced)
    types = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (state, after)]
    assert types[0] == types[1]


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_other_settings_are_refused(straight, config, photographs):
    loss = dataclasses.replace(config.loss, decoder_std=None)
    with pytest.raises(ValueError, match=r"seed = 2, got 4; loss\.decoder_std = 0\.05, got None"):
        train(dataclasses.replace(config, seed=4, loss=loss), photographs, straight(config))


@pytest.mark.slow
def test_start_from_a_prior_leaves_it_alone(straight, config, photographs, tmp_path):
    prior = load_prior(straight(config) / "prior")
    before = jax.device_get(prior.params)
    after = train(config, photographs, tmp_path / "run", init=prior.params)
    assert_same(prior.params, before)
    assert not np.array_equal(after.params["output_conv"]["bias"], before["output_conv"]["bias"])


DRIVER = """
import sys
from pathlib import Path
import jax
from hvae_jax import Prior, load_prior
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.training import TrainConfig, train
prior = load_prior(sys.argv[1])
PRESETS["tiny"] = prior.config
with jax.default_device(jax.devices()[1]):
    train(TrainConfig.from_file(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), init=prior.params)
"""


KILLS = 20


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bits(straight, config, start, photographs, tmp_path):
    """On another device, in the middle; then at random moments, of starting and of writing too."""
    out, settings = tmp_path / "run", tmp_path / "config.json"
    settings.write_text(config.to_json())
    Prior(start, PatchVDVAE(TINY)).save(tmp_path / "start")
    arguments = [str(tmp_path / "start"), str(settings), str(photographs), str(out)]
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"

    def started():
        return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], env={**os.environ, "XLA_FLAGS": flags})

    start_time = time.monotonic()
    process = started()
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoints" / "10").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run is too slow"
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    until_there = time.monotonic() - start_time
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 27, "lo')  # a kill may come in the middle of a line

    chance, kills = random.Random(0), 1
    while kills < KILLS:
        process = started()
        try:
            process.wait(chance.uniform(0.3, 1.2) * until_there)
            assert process.returncode == 0
            shutil.rmtree(out)  # it was done before it was killed
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    train(config, photographs, out, init=start)
    assert [path.name for path in out.parent.glob(f"{TEMPORARY}*")] == []
    assert_as_straight(out, straight(config), config)


@pytest.mark.slow
def test_interrupted_run_resumes_to_the_same_bits(straight, config, start, photographs, tmp_path, monkeypatch):
    """As by Ctrl-C, then as by a batch system, in the middle of a step."""

    class Interrupting(Photographs):
        def at(self, step):
            for number, last in [(signal.SIGINT, 7), (signal.SIGTERM, 15)]:
                if step + 1 == last:
                    os.kill(os.getpid(), number)
            return super().at(step)

    monkeypatch.setattr(loop, "Photographs", Interrupting)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for at in (7, 15):
        with pytest.raises(Interrupted, match=f"stopped at step {at} of 30"):
            train(config, photographs, tmp_path / "run", init=start)
        assert final_state(tmp_path / "run")[0] == at
        assert load_prior(tmp_path / "run" / "prior").info["training"]["steps"] == at
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    train(config, photographs, tmp_path / "run")
    assert_as_straight(tmp_path / "run", straight(config), config)


@pytest.mark.slow
def test_goes_on_in_another_way_of_computing(straight, config, start, photographs, tmp_path, monkeypatch):
    """As an accelerator does, for a moment, then on this one."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "_on_cpu", lambda: False)
        several = dataclasses.replace(config, steps_per_dispatch=4, checkpoint_every=1000, checkpoint_minutes=1e-9)
        with pytest.raises(OutOfTime, match="stopped at step 4 of 30"):
            train(several, photographs, out, init=start, stop_after=1e-9)
        console = rich.console.Console(file=io.StringIO(), width=200)
        with pytest.raises(OutOfTime, match="stopped at step 8 of 30"):
            train(several, photographs, out, stop_after=1e-9, console=console)
    assert re.fullmatch(r"4 steps, \d+\.\d images/s  0\.0% waiting for data\n", console.file.getvalue())
    train(config, photographs, out)
    log, lines = log_of(out)
    assert sorted(log) == [4, 8, *range(9, 31, 3)]  # where a dispatch ends
    assert lines == len(log)
    assert all(line["waiting"] == 0 for line in log.values())
    assert all(
        line["images_per_second"] == pytest.approx(config.batch_size * line["steps_per_second"])
        for line in log.values()
    )
    for name in ("loss", "kl", "gradient_norm"):
        np.testing.assert_allclose(log[30][name], log_of(straight(config))[0][30][name], rtol=1e-3)


def test_learning_rate_rises_stays_and_falls():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, decay_steps=10, final_fraction=0.1)
    rate = learning_rate(config, 100)
    np.testing.assert_allclose([rate(k) for k in (0, 2, 4, 50, 90)], [0, 1, 2, 2, 2], rtol=1e-6)
    np.testing.assert_allclose([rate(95), rate(100)], [2 * 0.55, 2 * 0.1], rtol=1e-6)
    endless = learning_rate(dataclasses.replace(config, decay_steps=0), 100)
    np.testing.assert_allclose([endless(4), endless(100), endless(10**6)], 2, rtol=1e-6)


@pytest.mark.slow
def test_endless_run_is_harvested_and_goes_on(config, photographs, start, tmp_path):
    optimizer = dataclasses.replace(config.optimizer, decay_steps=0)
    endless = dataclasses.replace(config, steps=4, optimizer=optimizer)
    train(endless, photographs, tmp_path / "endless", init=start)
    _, before = final_state(tmp_path / "endless")
    assert last_step(tmp_path / "endless") == 4

    harvest = endless.decayed(4, 3)
    prior = train(harvest, photographs, tmp_path / "decay", leave=tmp_path / "endless")
    step, after = final_state(tmp_path / "decay")
    assert (step, prior.info["training"]["steps"]) == (7, 7)
    assert_same(final_state(tmp_path / "endless")[1], before)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), after["params"], before["params"])
    assert max(jax.tree.leaves(moved)) > 0

    other = dataclasses.replace(harvest, optimizer=dataclasses.replace(harvest.optimizer, name="adamax"))
    with pytest.raises(ValueError, match="run of the optimizer adamax, got adam"):
        train(other, photographs, tmp_path / "other", leave=tmp_path / "endless")
    with pytest.raises(ValueError, match="run with a checkpoint"):
        train(harvest, photographs, tmp_path / "other", leave=tmp_path)
    assert not (tmp_path / "other").exists()


def test_what_is_built_in_fits_its_machine():
    large, small = (PatchVDVAE(PRESETS[RUNS[name].preset]) for name in ("gpu-25min", "cpu-3h"))
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(m.initialize, jax.random.key(0))))
        for m in (large, small)
    ]
    assert 4e6 < sizes[0] < 6e6
    assert 2 * sizes[0] < 12e6  # bytes as float16
    assert sizes[1] < 1.1e6
