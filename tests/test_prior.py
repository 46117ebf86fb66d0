"""Priors: public functions, saving, loading, and what goes wrong with both."""

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import files
from hvae_jax.prior import BUNDLED


def test_encode_reconstruct_agree_and_follow_the_batch(tiny_prior, noisy_images):
    encoding = hj.encode(tiny_prior, noisy_images, 0.8)
    assert [z.shape for z in encoding.latents] == [(3, 2, 2, 4, 3), (3, 2, 8, 16, 3)]
    assert encoding.log_prior.shape == (3, tiny_prior.levels)
    assert encoding.mean.shape == encoding.variance.shape == noisy_images.shape
    np.testing.assert_allclose(hj.reconstruct(tiny_prior, noisy_images, 0.8), encoding.mean, atol=1e-6)
    single = hj.encode(tiny_prior, noisy_images[1], 0.8)
    assert single.mean.shape == noisy_images[1].shape
    np.testing.assert_allclose(single.mean, encoding.mean[1], atol=1e-5)
    np.testing.assert_allclose(single.log_prior, encoding.log_prior[1], rtol=1e-4)


def test_temperatures(tiny_prior, noisy_images):
    levels = tiny_prior.levels
    constant = hj.reconstruct(tiny_prior, noisy_images, 0.7)
    for same in (np.full(levels, 0.7), np.full((3, 1), 0.7), np.full((3, levels), 0.7)):
        np.testing.assert_allclose(hj.reconstruct(tiny_prior, noisy_images, same), constant, atol=1e-6)
    per_level = hj.reconstruct(tiny_prior, noisy_images, hj.restoration.linear(1.0, 0.3, levels))
    assert np.max(np.abs(per_level - constant)) > 1e-3
    per_image = hj.reconstruct(tiny_prior, noisy_images, np.array([[0.7], [0.3], [1.0]]))
    np.testing.assert_allclose(per_image[0], constant[0], atol=1e-5)
    assert np.max(np.abs(per_image[1] - constant[1])) > 1e-3


def test_samples(tiny_prior):
    a, b = (hj.sample(tiny_prior, jax.random.key(1), (n, 8, 12, 3), temperature=1.3) for n in (2, 1))
    assert a.shape == (2, 8, 12, 3)
    assert np.max(np.abs(a[0] - a[1])) > 1e-3
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)  # the first image does not depend on the batch
    assert float(a.min()) >= 0
    assert float(a.max()) <= 1


def test_prior_is_a_pytree(tiny_prior, noisy_images):
    x = jnp.asarray(noisy_images)

    @jax.jit
    def loss(prior):
        return jnp.mean((hj.reconstruct(prior, x, 0.9) - x) ** 2)

    gradient = jax.grad(loss)(tiny_prior)
    assert isinstance(gradient, hj.Prior)
    assert float(jnp.abs(gradient.params["output_conv"]["kernel"]).max()) > 0
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tiny_prior)
    mapped = jax.vmap(lambda prior: hj.reconstruct(prior, x[0], 0.9))(two)
    np.testing.assert_allclose(mapped[0], hj.reconstruct(tiny_prior, x[0], 0.9), atol=1e-5)


def test_no_recompilation(tiny_prior, noisy_images):
    from hvae_jax.encoding import compiled_reconstruct

    hj.reconstruct(tiny_prior, noisy_images, 0.9)
    before = compiled_reconstruct._cache_size()
    hj.reconstruct(tiny_prior, noisy_images + 0.01, 0.5, beta=0.9)
    assert compiled_reconstruct._cache_size() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((9, 16, 3), np.float32)}, r"multiples of 4 .* got \(1, 9, 16, 3\)"),
        ({"x": np.zeros((8, 16), np.float32)}, r"\(H, W, 3\) or \(B, H, W, 3\)"),
        ({"x": np.zeros((8, 16, 1), np.float32)}, r"\(H, W, 3\)"),
        ({"x": np.zeros((8, 16, 3), np.uint8)}, "floating-point.*uint8"),
        ({"temperature": 1.2}, "at most 1/sqrt.*got 1.2"),
        ({"temperature": 0.0}, "positive"),
        ({"temperature": np.ones(3)}, r"one per level \(4,\).*got shape \(3,\)"),
        ({"beta": -1.0}, "beta must be positive"),
        ({"noise_level": 0.1}, "not noise-conditional"),
    ],
)
def test_bad_inputs(tiny_prior, change, message):
    arguments = {"x": np.zeros((8, 16, 3), np.float32), "temperature": 0.9} | change
    with pytest.raises(ValueError, match=message):
        hj.encode(tiny_prior, **arguments)


def test_save_and_load(tiny_prior, noisy_images, tmp_path):
    tiny_prior.save(tmp_path / "new" / "prior")
    loaded = hj.load_prior(tmp_path / "new" / "prior")
    assert loaded.config == tiny_prior.config
    assert loaded.info["name"] == "tiny"
    assert os.listdir(tmp_path / "new") == ["prior"]
    jax.tree.map(np.testing.assert_array_equal, loaded.params, tiny_prior.params)
    np.testing.assert_array_equal(
        hj.reconstruct(loaded, noisy_images, 0.9), hj.reconstruct(tiny_prior, noisy_images, 0.9)
    )
    with pytest.raises(FileExistsError, match="exists"):
        tiny_prior.save(tmp_path / "new" / "prior")
    tiny_prior.save(tmp_path / "new" / "prior", overwrite=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="exists"):  # never overwrites what is not a prior
        tiny_prior.save(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_saved_in_half_the_space(tiny_prior, tmp_path, dtype):
    tiny_prior.save(tmp_path / "half", dtype=dtype)
    assert json.loads((tmp_path / "half" / "prior.json").read_text())["dtype"] == dtype
    loaded = hj.load_prior(tmp_path / "half")  # checks the checksum
    assert loaded.info["name"] == "tiny"
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype("float32"), tiny_prior.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, rounded)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"float32"}


def test_half_precision_that_does_not_hold_the_parameters_is_refused(tiny_prior, tmp_path):
    with pytest.raises(ValueError, match="'float32', 'float16' or 'bfloat16', got 'int8'"):
        tiny_prior.save(tmp_path / "prior", dtype="int8")
    large = dataclasses.replace(tiny_prior, params=jax.tree.map(lambda leaf: 1e6 * leaf, tiny_prior.params))
    with pytest.raises(ValueError, match="within the range of float16"):
        large.save(tmp_path / "prior", dtype="float16")
    assert not (tmp_path / "prior").exists()


def _damage_array(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    largest.write_bytes(content)


def _edit(path, **changes):
    description = json.loads((path / "prior.json").read_text())
    (path / "prior.json").write_text(json.dumps({**description, **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "prior.json").unlink(), "has no prior.json"),
        (lambda p: (p / "prior.json").write_text("{"), "prior.json is damaged"),
        (lambda p: (p / "prior.json").write_text("[1]"), "prior.json is damaged"),
        (lambda p: _edit(p, format=2), "format 2, this version of hvae_jax reads 1"),
        (lambda p: _edit(p, family="diffusion"), "no model that is known"),
        (lambda p: _edit(p, config={"width": 3}), "no model that is known"),
        (lambda p: _edit(p, sha256="0"), "checksum"),
        (_damage_array, "damaged"),
        (lambda p: [f.unlink() for f in p.rglob("manifest.ocdbt")], "damaged"),
    ],
)
def test_damaged_directories_give_one_clear_error(tiny_prior, tmp_path, damage, message):
    tiny_prior.save(tmp_path / "prior")
    damage(tmp_path / "prior")
    with pytest.raises(hj.PriorError, match=message) as error:
        hj.load_prior(tmp_path / "prior")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_parameters_of_another_model(tiny_prior, conditional_prior, tmp_path):
    tiny_prior.save(tmp_path / "a")
    conditional_prior.save(tmp_path / "b")
    _edit(tmp_path / "a", config=json.loads((tmp_path / "b" / "prior.json").read_text())["config"])
    with pytest.raises(hj.PriorError, match=r"of another model: \d+ do not fit, first .*: expected .*, got"):
        hj.load_prior(tmp_path / "a")


def test_unknown_name():
    with pytest.raises(hj.PriorError, match=r"natural-medium.*got 'nonsense'"):
        hj.load_prior("nonsense")


@pytest.mark.slow
def test_killed_while_saving_leaves_nothing_that_loads(tmp_path):
    """Kill a process at random moments of saving; what is there afterwards loads or does not exist."""
    script = f"""
import sys
sys.path.insert(0, {str(os.getcwd())!r})
from tests.helpers import random_prior, tiny_config
prior = random_prior(tiny_config())
print("ready", flush=True)
while True:
    prior.save(sys.argv[1], overwrite=True)
    print("saved", flush=True)
"""
    target = tmp_path / "prior"
    process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "saved\n":
            break
    time.sleep(0.137)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if target.exists():  # the kill may fall between the two renames; then there is no prior
        hj.load_prior(target)
    else:
        with pytest.raises(hj.PriorError):
            hj.load_prior(target)


def test_what_a_killed_process_left_is_removed_by_the_next(tiny_prior, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours, theirs = (f"{files.TEMPORARY}-{platform.node()}-{pid}-x" for pid in (os.getpid(), dead.pid))
    for name in (ours, theirs, f"{files.TEMPORARY}-elsewhere-{dead.pid}-x"):
        (tmp_path / name).write_text("half")
    (tmp_path / f"{theirs}y").mkdir()
    (tmp_path / f"{theirs}y" / "half").touch()
    tiny_prior.save(tmp_path / "prior")
    assert {path.name for path in tmp_path.iterdir()} == {"prior", ours, f"{files.TEMPORARY}-elsewhere-{dead.pid}-x"}


def test_bundled_prior(tmp_path, monkeypatch):
    (tmp_path / BUNDLED).mkdir()  # a folder of that name does not hide it
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(True):  # what was saved is float32 whatever the default
        prior = hj.load_prior()
    assert prior.info["name"] == BUNDLED
    assert prior.config.noise_conditional
    assert prior.multiple == 16
    for key in ("provenance", "data_licence", "training", "settings"):
        assert prior.info[key]
