"""A second call with the same shapes and other numbers compiles nothing, anywhere; an import pulls in nothing."""

import dataclasses
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import operators
from hvae_jax.prior import Metadata
from hvae_jax.restoration import restore_adam
from tests.helpers import CountCompiles, random_prior, tiny_config

SIDE = 16


@pytest.fixture(scope="module")
def prior():
    return random_prior(tiny_config())


def average(x):
    return x.mean(axis=-1)


def blur(rng):
    return operators.Blur(rng.uniform(0.1, 1, (3, 3)).astype(np.float32))


def super_resolution(rng):
    return operators.SuperResolution(rng.uniform(0.1, 1, (3, 3)).astype(np.float32), 2)


def inpainting(rng):
    return operators.Inpainting((rng.uniform(size=(SIDE, SIDE)) > 0.3).astype(np.float32))


def denoising(rng):
    return operators.Denoising()


def linear(rng):
    return operators.Linear(average, (SIDE, SIDE, 3))


OPERATORS = (blur, super_resolution, inpainting, denoising, linear)


def posed(make, rng):
    """An operator, an observation and its noise, of random numbers."""
    operator = make(rng)
    x = rng.uniform(size=(SIDE, SIDE, 3)).astype(np.float32)
    return operator, np.asarray(operator(x)), rng.uniform(0.01, 0.05)


def config(rng, **changes):
    return hj.RestoreConfig(rng.uniform(0.6, 0.9), rng.uniform(0.03, 0.1), max_iterations=2, **changes)


def restoring(make, **changes):
    def call(prior, rng):
        operator, y, noise_std = posed(make, rng)
        return hj.restore(prior, y, operator, noise_std, config(rng, **changes))

    return call


def stepping(make, **settings):
    def call(prior, rng):
        operator, y, ratio = posed(make, rng)
        return operator.data_step(rng.uniform(size=(SIDE, SIDE, 3)).astype(np.float32), y, ratio, **settings)

    return call


def adam(prior, rng):
    operator, y, noise_std = posed(linear, rng)
    return restore_adam(prior, y, operator, noise_std, config(rng))


def sampling(prior, rng):
    operator, y, noise_std = posed(linear, rng)
    key = jax.random.key(int(rng.integers(100)))
    return hj.sample_posterior(prior, y, operator, noise_std, key, config(rng), chains=2, sweeps=2, burn_in=1)


def encoding(prior, rng):
    return hj.encode(prior, rng.uniform(size=(SIDE, SIDE, 3)).astype(np.float32), rng.uniform(0.5, 1))


def reconstructing(prior, rng):
    return hj.reconstruct(prior, rng.uniform(size=(SIDE, SIDE, 3)).astype(np.float32), rng.uniform(0.5, 1))


def generating(prior, rng):
    key = jax.random.key(int(rng.integers(100)))
    return hj.sample(prior, key, (1, SIDE, SIDE, 3), temperature=rng.uniform(0.5, 1))


CALLS = {
    **{f"restore-{make.__name__}": restoring(make) for make in OPERATORS},
    "restore-cg": restoring(blur, data_step=hj.restoration.ConjugateGradient(1)),
    **{f"data_step-{make.__name__}": stepping(make) for make in OPERATORS},
    **{f"data_step-cg-{make.__name__}": stepping(make, method="cg") for make in OPERATORS},
    "data_step-cg-steps": stepping(blur, method="cg", cg_steps=2),
    "restore_adam": adam,
    "sample_posterior": sampling,
    "encode": encoding,
    "reconstruct": reconstructing,
    "sample": generating,
}


@pytest.mark.parametrize("name", CALLS)
def test_second_call_compiles_nothing(name, prior):
    with CountCompiles() as first:
        jax.block_until_ready(CALLS[name](prior, np.random.default_rng(0)))
    prior = dataclasses.replace(prior, metadata=Metadata.of(name="another of the same architecture"))
    with CountCompiles() as second:
        jax.block_until_ready(CALLS[name](prior, np.random.default_rng(1)))
    assert second.programs == [], f"after {len(first.programs)}"


def test_log_sees_a_compilation():
    with CountCompiles() as count:
        jax.jit(lambda x: x + len(CALLS))(np.zeros(7)).block_until_ready()
    assert len(count.programs) == 1


HEAVY = ("jax", "jaxlib", "flax", "orbax", "tensorstore", "optax", "numpy")


@pytest.mark.parametrize("code", ["import hvae_jax", "import hvae_jax.cli", "import hvae_jax; dir(hvae_jax)"])
def test_importing_pulls_in_nothing_heavy(code):
    script = f"""
        import sys
        {code}
        print([name for name in {HEAVY!r} if name in sys.modules and "_Lazy" not in str(type(sys.modules[name]))])
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in hj.__all__:
        assert getattr(hj, name) is not None
    assert set(hj.__all__) <= set(dir(hj))
    with pytest.raises(AttributeError, match=r"attribute restor$"):
        _ = hj.restor
