"""The prior as a denoiser for algorithms of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax.operators import Denoising
from tests.helpers import CountCompiles, random_prior, tiny_config, tiny_vdvae_config

ROWS = [
    {"noise_std": 5.0, "temperature": [0.8, 0.6], "anneal_from": 0.0, "anneal_to": 2.0, "max_iterations": 1},
    {"noise_std": 25.0, "temperature": 1.0, "anneal_from": 0.0, "anneal_to": 3.0, "max_iterations": 1},
]
COMMON = {"initial": "image", "returns": "mean", "decoder_std_per_noise_level": 2.0, "orientations": 2}


@pytest.fixture(scope="module")
def prior():
    config = tiny_config(1, noise_conditional=True, clip_input=False, space_to_depth=2)
    return random_prior(config, name="conditional", settings={"denoise": [{**row, **COMMON} for row in ROWS]})


@pytest.fixture(scope="module")
def x(noisy_images):
    return jnp.asarray(noisy_images)


def test_it_is_what_restore_gives_for_denoising(prior, x):
    denoise, sigmas = hj.as_denoiser(prior, orientations=2), np.array([1, 12, 40]) / 255
    np.testing.assert_allclose(denoise(x, sigmas), hj.restore(prior, x, Denoising(), sigmas).image, atol=2e-6)


def test_it_is_one_evaluation_with_the_recommended_settings(prior, x):
    denoise, sigmas = hj.as_denoiser(prior), jnp.array([1, 15, 60]) / 255
    tau = np.linspace([0.8, 0.9, 1.0], [0.6, 0.8, 1.0], prior.levels).T
    level = np.array([2, 15, 60]) / 255
    np.testing.assert_allclose(denoise(x, sigmas), hj.reconstruct(prior, x, tau, noise_level=level), atol=2e-6)


def test_it_compiles_once_maps_and_differentiates(prior, x):
    denoise = hj.as_denoiser(prior)
    plain = denoise(x, 0.05)
    with CountCompiles() as counted:
        denoise(x, 0.1)  # another σ
        hj.as_denoiser(prior)(x, 0.1)  # another denoiser of the prior
    assert "_denoise" not in " ".join(counted.programs)
    as_argument = jax.jit(lambda denoise, x, sigma: denoise(x, sigma))
    np.testing.assert_allclose(as_argument(denoise, x, 0.05), plain, atol=2e-6)
    mapped = jax.vmap(denoise)(x, jnp.full(len(x), 0.05))
    np.testing.assert_allclose(mapped, plain, atol=2e-6)
    direction = jnp.asarray(np.random.default_rng(0).standard_normal(x.shape), x.dtype)
    _, forward = jax.jvp(lambda x: denoise(x, 0.05), (x,), (direction,))
    _, pull = jax.vjp(lambda x, sigma: denoise(x, sigma), x, 0.05)
    backward, of_sigma = pull(direction)
    assert float(jnp.vdot(forward, direction)) == pytest.approx(float(jnp.vdot(direction, backward)), rel=1e-4)
    step = 1e-2
    finite = (denoise(x, 0.05 + step) - denoise(x, 0.05 - step)) / (2 * step)
    assert float(of_sigma) == pytest.approx(float(jnp.vdot(direction, finite)), rel=0.05)


def test_any_size_and_grey(prior, x):
    denoise = hj.as_denoiser(prior)
    odd = x[:, :7, :13, :1]
    padded = jnp.pad(odd, ((0, 0), (0, 1), (0, 3), (0, 0)), mode="reflect")
    colour = denoise(jnp.repeat(padded, 3, axis=-1), 0.05)[:, :7, :13]
    np.testing.assert_allclose(denoise(odd, 0.05), colour.mean(axis=-1, keepdims=True), atol=2e-6)


def test_a_temperature_of_ones_own(tiny_prior, x):
    with pytest.raises(ValueError, match="expected a temperature, for this prior recommends no settings"):
        hj.as_denoiser(tiny_prior)
    with pytest.raises(ValueError, match="temperature"):
        hj.as_denoiser(tiny_prior, temperature=-0.5)
    denoise = hj.as_denoiser(tiny_prior, temperature=0.7)
    np.testing.assert_allclose(denoise(x, 0.3), hj.reconstruct(tiny_prior, x, 0.7), atol=2e-6)


def test_refuses_what_does_not_fit(prior, x):
    denoise = hj.as_denoiser(prior)
    for images, sigma, message in (
        (np.zeros((8, 16, 3), np.uint8), 0.1, "floating-point"),
        (x[..., :2], 0.1, r"C of 1 or 3, got \(3, 8, 16, 2\)"),
        (x, 15, "divide grey levels by 255"),
        (x, -0.1, "noise_std must not be negative"),
        (x, np.full(2, 0.1), r"noise_std must be a number or one per image \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            denoise(images, sigma)
    square = hj.as_denoiser(random_prior(tiny_vdvae_config()), temperature=1.0)
    with pytest.raises(ValueError, match="images must be 8x8, the only size of this prior"):
        square(x, 0.1)


# PyTorch and deepinv warn of what is theirs to change.
@pytest.mark.filterwarnings("ignore")
def test_it_is_deepinvs_denoiser(prior, x):
    deepinv = pytest.importorskip("deepinv", reason="needs the extra peers")
    import torch

    ours = hj.as_denoiser(prior)
    denoise = hj.interop.as_deepinv(ours)
    assert isinstance(denoise, deepinv.models.Denoiser)
    images = torch.from_numpy(np.asarray(x)).movedim(-1, 1).double().requires_grad_()
    sigma = torch.tensor([0.02, 0.05, 0.1])
    denoised = denoise(images, sigma)
    assert denoised.dtype == torch.float64
    np.testing.assert_allclose(denoised.detach().movedim(1, -1), ours(x, sigma.numpy()), atol=2e-6)
    np.testing.assert_allclose(denoise(images, 0.05).detach().movedim(1, -1), ours(x, 0.05), atol=2e-6)
    (gradient,) = torch.autograd.grad((denoised**2).sum(), images)
    expected = jax.grad(lambda x: jnp.sum(ours(x, sigma.numpy()) ** 2))(x)
    np.testing.assert_allclose(gradient.movedim(1, -1), expected, atol=1e-4)

    # In an algorithm of deepinv's: a step of proximal gradient descent from y, of which the gradient is 0 there.
    physics = deepinv.physics.Denoising()
    model = deepinv.optim.PGD(
        deepinv.optim.data_fidelity.L2(),
        deepinv.optim.prior.PnP(denoise),
        stepsize=1.0,
        sigma_denoiser=0.05,
        max_iter=1,
    )
    y = images.detach().float()
    np.testing.assert_allclose(model(y, physics, init=y).movedim(1, -1), ours(x, 0.05), atol=2e-6)


def test_without_deepinv(prior, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ValueError, match=r"pip install 'hvae_jax\[peers\]'"):
        hj.interop.as_deepinv(hj.as_denoiser(prior))
