"""Several devices give what one does; in a process of its own, whose host is taken for eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import operators

SCRIPT = """
import jax
import numpy as np
from jax.sharding import Mesh
import hvae_jax as hj
from hvae_jax import operators
from hvae_jax.restoration import Residual, geometric, pnp_hvae, restore
from hvae_jax.restoration.devices import _split, batch_specs
from hvae_jax.restoration.problem import pose
from tests.helpers import CountCompiles, random_prior, tiny_config

assert len(jax.devices()) == 8
prior = random_prior(tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2))
rng = np.random.default_rng(0)
batch, rows = (Mesh(np.array(jax.devices()), (name,)) for name in ("batch", "rows"))
fixed = hj.RestoreConfig(decoder_std=0.1, noise_level=0.1, temperature=0.9, max_iterations=4, orientations="cycle")
annealed = fixed.replace(
    decoder_std=geometric(np.linspace(0.2, 0.4, 16), 0.1, 4), noise_level=geometric(0.2, 0.05, 4),
    temperature=np.linspace(0.7, 1, 16)[:, None], initial="image", history=True, stop=Residual(0.217),
)
y = rng.random((16, 32, 48, 3), np.float32)
sigma = np.linspace(0.02, 0.1, 16)

cases = {
    "Blur": (operators.Blur(rng.random((16, 5, 5))), y),
    "one kernel": (operators.Blur(rng.random((5, 5))), y),
    "SuperResolution": (operators.SuperResolution(rng.random((16, 3, 3)), 2), y[:, :16, :24]),
    "Inpainting": (operators.Inpainting(rng.random((16, 32, 48, 1)) > 0.4), y),
    "Weighted": (operators.Weighted(operators.Blur(rng.random((16, 3, 3))), [1.0, 2.0, 0.5]), y),
    "Linear": (operators.Linear(lambda x: 0.5 * x[:16] + 0.5 * x[16:], (32, 48, 3)), y[:, :16]),
}
for name, (operator, seen) in cases.items():
    for config in (fixed, annealed):
        one = restore(prior, seen, operator, sigma, config, reference=y)
        many = restore(prior, seen, operator, sigma, config, reference=y, mesh=batch)
        assert len(many.image.sharding.device_set) == 8
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
            # J1 in the history is a sum over all pixels.
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4 if a.shape[1:2] == (5,) else 1e-5, err_msg=name)
    assert name != "Blur" or len(set(many.iterations.tolist())) > 1, many.residual

# A batch that does not divide by the devices; a second call compiles nothing.
operator = operators.Blur(rng.random((11, 5, 5)))
one = restore(prior, y[:11], operator, sigma[:11], fixed)
many = restore(prior, y[:11], operator, sigma[:11], fixed, mesh=batch)
np.testing.assert_allclose(one.image, many.image, atol=1e-5)
with CountCompiles() as count:
    restore(prior, y[:11] + 0.1, operator, sigma[:11], fixed, mesh=batch)
assert count.programs == [], count.programs

# One picture by rows.
picture, operator = rng.random((128, 96, 3), np.float32), operators.Blur(rng.random((5, 5)))
one = restore(prior, picture, operator, 0.05, fixed)
many = restore(prior, picture, operator, 0.05, fixed, mesh=rows)
np.testing.assert_allclose(one.image, many.image, atol=1e-4)

# Each device holds its share of the images.
def memory(count, mesh):
    problem, _ = pose(prior, np.repeat(y[:1], count, axis=0), operators.Denoising(), 0.05, fixed, None, None)
    if mesh is None:
        return pnp_hvae._restore.lower(problem, None).compile().memory_analysis().temp_size_in_bytes
    leaves, structure = jax.tree.flatten(problem)
    split = _split(pnp_hvae._restore_without_key, structure, mesh, batch_specs(problem))
    compiled = split.lower(*leaves).compile()
    assert "all-" not in compiled.as_text(), "communication"
    return compiled.memory_analysis().temp_size_in_bytes

assert memory(16, batch) < 1.1 * memory(2, None)
print("fine")
"""


@pytest.mark.slow
def test_eight_devices_give_what_one_does():
    root = Path(__file__).parents[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "fine\n"


def test_a_mesh_of_one_device_and_what_is_none(conditional_prior, noisy_images):
    config = hj.RestoreConfig(decoder_std=0.1, max_iterations=2)
    arguments = (conditional_prior, noisy_images, operators.Denoising(), 0.05, config)
    one = hj.restore(*arguments)
    many = hj.restore(*arguments, mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",)))
    np.testing.assert_allclose(one.image, many.image, atol=1e-6)
    with pytest.raises(ValueError, match=r"one axis, named 'batch' or 'rows', got \('x',\)"):
        hj.restore(*arguments, mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",)))
    with pytest.raises(ValueError, match='"official", whose draws'):
        hj.restore(
            *arguments[:4],
            config.replace(initial="official"),
            key=jax.random.key(0),
            mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",)),
        )
