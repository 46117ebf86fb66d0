"""JAX's flags that find mistakes find none here: in a process of their own, for they change all that is computed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import jax
import numpy as np
import hvae_jax as hj
from hvae_jax import images, operators as ops
from hvae_jax.restoration import ConjugateGradient, Plateau
from tests.helpers import random_prior, tiny_config, tiny_vdvae_config

rng = np.random.default_rng(0)
kernel, mask = rng.random((3, 3)), rng.random((16, 16)) < 0.5
x = rng.random((16, 16, 3)).astype(np.float32)
prior = random_prior(tiny_config(noise_conditional=True, clip_input=False))
jpeg = ops.Jpeg(rng.integers(3, 40, (3, 8, 8)), (2, 2), 6 / 255)
configs = [
    hj.RestoreConfig(temperature=0.9, decoder_std=0.1, max_iterations=3, history=True),
    hj.RestoreConfig(
        temperature=0.9, decoder_std=hj.restoration.geometric(0.2, 0.1, 3), max_iterations=3, orientations="cycle",
        stop=Plateau(patience=1, track="objective"), data_step=ConjugateGradient(2), initial="image",
    ),
]
for operator in (
    ops.Blur(kernel), ops.SuperResolution(kernel, 2), ops.Inpainting(mask), ops.Denoising(), jpeg,
    ops.Weighted(ops.Blur(kernel), rng.uniform(0.5, 2, (16, 16, 1))), ops.Composed(jpeg, ops.Blur(kernel)),
):
    y = operator(x)
    for config in configs:
        for start in (None, x):
            out = hj.restore(prior, y, operator, 0.05, config, start=start, reference=x)
            assert np.isfinite(out.image).all(), operator
    posterior = hj.sample_posterior(prior, y, operator, 0.05, jax.random.key(0), configs[0].replace(history=False))
    assert np.isfinite(posterior.std).all()
faces = random_prior(tiny_vdvae_config())
hj.restore(faces, x[:8, :8], ops.Denoising(), 0.05, configs[0])
hj.sample(prior, jax.random.key(0), (2, 16, 16, 3))
images.extend_periodic(x, 3, 8, kernel / kernel.sum())
"""


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["DEBUG_NANS=1", "NUMPY_RANK_PROMOTION=raise", "NUMPY_DTYPE_PROMOTION=strict"])
def test_flag(flag):
    name, value = f"JAX_{flag}".split("=")
    environment = {**os.environ, name: value}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
