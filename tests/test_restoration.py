"""Algorithm 2: parity with the official solver, a closed-form fixed point, batching, stopping, settings, errors."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import operators
from hvae_jax.gaussian import Gaussian
from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import LatentBlock
from hvae_jax.prior import Metadata, Prior
from hvae_jax.restoration import (
    ConjugateGradient,
    Exact,
    Plateau,
    Residual,
    RestoreConfig,
    Status,
    paper_config,
    recommended_config,
)
from hvae_jax.restoration import pnp_hvae as solver
from hvae_jax.restoration.problem import Problem
from hvae_jax.restoration.schedules import at_iteration, geometric, linear
from tests.helpers import GOLDEN, official_prior, relative_error

# ---- the official solver -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    """The official solver's runs, by family."""
    files = {"patch_vdvae": "solve_tiny_patchvdvae.npz", "vdvae": "solve_tiny_vdvae.npz"}
    return {family: dict(np.load(GOLDEN / file)) for family, file in files.items()}


@partial(jax.jit, static_argnames="steps")
def iterate(prior, operator, y, noise_std, config, x0, mean0, steps):
    """The states after each number of steps in `steps`."""
    problem = Problem(prior, operator, y, noise_std, config.replace(noise_level=config.decoder_std), x0, None)
    data_step = problem.data_step()

    def until(state, limit):
        def unfinished(s):
            return jnp.any(s.active & (s.iteration < limit))

        return jax.lax.while_loop(unfinished, partial(solver.step, problem, data_step), state)

    _, states = jax.lax.scan(lambda s, n: (until(s, n),) * 2, solver.init(problem, x0, mean0, None), jnp.asarray(steps))
    return states


def by_default(family, *cases):
    return [(family, case) for case in cases]


def slow(family, *cases):
    return [pytest.param(family, case, marks=pytest.mark.slow) for case in cases]


CASES = [
    *by_default("patch_vdvae", "deblur_const_20", "sr_const_20", "inp_const_20", "deblur_betaramp"),
    *slow("patch_vdvae", "deblur_lin_5", "deblur_const_20_exactprox", "sr_const_20_exactprox", "deblur_stop_residual"),
    *by_default("vdvae", "deblur_const_20"),
    *slow("vdvae", "sr_const_20", "inp_const_20", "deblur_betaramp", "deblur_lin_5", "deblur_const_20_exactprox"),
    *slow("vdvae", "sr_const_20_exactprox", "deblur_stop_residual"),
]


@pytest.mark.parametrize(("family", "case"), CASES)
def test_official_iterates(golden, family, case):
    def of(name):
        return golden[family][f"{case}/{name}"]

    if case.startswith("deblur"):
        operator = operators.Blur(of("kernel"))
    elif case.startswith("sr"):
        operator = operators.SuperResolution(of("kernel"), int(of("sf")))
    else:
        operator = operators.Inpainting(of("mask"))
    exact = case.endswith("exactprox")
    config = RestoreConfig(
        temperature=jnp.asarray(of("T"), jnp.float32)[None],
        decoder_std=jnp.full((1,), of("decoder_std"), jnp.float32),
        stop=Plateau(
            tolerance=float(of("tol")),
            patience=int(of("patience")),
            beta_min=float(of("beta_min")),
            beta_max=float(of("beta_max")),
            beta_step=float(of("delta_beta")),
        ),
        data_step=Exact() if exact else ConjugateGradient(steps=1),
        max_iterations=int(of("niter")) if case.endswith(("5", "20", "exactprox")) else 20,
        history=True,
    )
    steps = tuple(int(k) for k in of("iterations"))
    states = iterate(
        official_prior("float32", family),
        operator,
        jnp.asarray(of("y")),
        jnp.full((1,), of("noise_std"), jnp.float32),
        config,
        jnp.asarray(of("x0")),
        jnp.asarray(of("mean0")),
        steps,
    )
    for i in range(len(steps)):
        assert relative_error(states.x[i, :, 1::3, 2::3][0], of("X")[i]) <= 1e-3
        assert relative_error(states.mean[i, :, 1::3, 2::3][0], of("MU")[i]) <= 1e-3
    count = int(of("niter"))
    assert int(states.iteration[-1, 0]) == count
    assert float(states.own.beta[-1, 0]) <= config.stop.beta_max  # what the last data step uses
    stops_early = case in ("deblur_betaramp", "deblur_stop_residual")
    assert int(states.status[-1, 0]) == (Status.CONVERGED if stops_early else Status.ITERATION_LIMIT)
    np.testing.assert_allclose(states.history.beta[-1, 0, 1 : count + 1], of("beta")[1 : count + 1], rtol=1e-6)
    # The residuals fall to the round-off of float32; compare those above it.
    ours, theirs = states.history.residual[-1, 0, 1 : count + 1] ** 2, of("residual_square")[1 : count + 1]
    large = theirs > 1e-9
    np.testing.assert_allclose(ours[large], theirs[large], rtol=2e-2)


# ---- a prior for which everything is known ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LinearGaussianConfig:
    levels: int = 1
    multiple: int = 1
    image_size: int | None = None
    channels: int = 3
    noise_conditional: bool = False
    clip_input: bool = False


class LinearGaussianBlock(LatentBlock):
    """z ~ N(0, I), x|z ~ N(w z + b, γ²), and its exact posterior."""

    std: float

    def setup(self):
        self.weight = self.param("weight", nn.initializers.ones, (6, 5, 3))
        self.bias = self.param("bias", nn.initializers.zeros, (6, 5, 3))

    def prior(self, h):
        return Gaussian(jnp.zeros_like(h), jnp.ones_like(h)), jnp.zeros_like(h)

    def posterior(self, h, activation):
        precision = 1 + self.weight**2 / self.std**2
        mean = self.weight * (activation - self.bias) / self.std**2 / precision
        return Gaussian(mean, jnp.broadcast_to(precision**-0.5, mean.shape))

    def merge(self, h, z):
        return self.weight * z + self.bias


class LinearGaussian(nn.Module):
    std: float
    config: LinearGaussianConfig = LinearGaussianConfig()

    def setup(self):
        self.block = LinearGaussianBlock(self.std)

    def __call__(self, image, settings, noise_level=None):
        inputs = settings.inputs(0, 0, 0, 1)
        h, outputs = hierarchy.run_level(self.block, jnp.zeros_like(image), image, settings, inputs)
        return GaussianDecoder(h, jnp.full_like(h, self.std)), hierarchy.join([h], [outputs])

    @staticmethod
    def to_image(decoder):
        return decoder


@pytest.mark.parametrize("initial", ["encode", "image"])
@pytest.mark.parametrize("temperature", [0.4, 0.8, 1.0])
def test_linear_gaussian_fixed_point(initial, temperature):
    """HVAE(x, τ) = b + c (x - b), c = (w²/γ²)/(1/τ² + w²/γ²), so x* solves (AᵀA + ρ(1-c)) x = Aᵀy + ρ(1-c) b."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        gamma, sigma = 0.3, 0.1
        weight, bias = rng.uniform(0.3, 0.6, (6, 5, 3)), rng.uniform(size=(6, 5, 3))
        params = {"block": {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}}
        prior = Prior(params, LinearGaussian(gamma))
        operator = operators.Blur(rng.uniform(size=(3, 3)))
        y = jnp.asarray(rng.uniform(size=(6, 5, 3)))
        config = RestoreConfig(
            temperature=temperature,
            decoder_std=gamma,
            max_iterations=500,
            stop=Residual(1e-12),
            initial=initial,
            history=True,
        )
        out = hj.restore(prior, y, operator, sigma, config)

        ratio = (sigma / gamma) ** 2
        power = weight**2 / gamma**2
        ridge = ratio * (1 - power / (temperature**-2 + power)).ravel()
        dense = np.array(jax.vmap(operator)(jnp.eye(90).reshape(90, 6, 5, 3)).reshape(90, 90).T)
        fixed = np.linalg.solve(
            dense.T @ dense + np.diag(ridge), dense.T @ np.asarray(y).ravel() + ridge * bias.ravel()
        )
        assert int(out.status) == Status.CONVERGED
        np.testing.assert_allclose(np.asarray(out.x).ravel(), fixed, atol=1e-5)
        # It is the MAP under the tempered marginal: J1's terms at the end, from their definitions.
        count = int(out.iterations)
        misfit = dense @ fixed - np.asarray(y).ravel()
        np.testing.assert_allclose(out.history.data_term[count], misfit @ misfit / (2 * sigma**2), rtol=1e-4)
        assert np.all(np.diff(np.asarray(out.history.objective[1 : count + 1])) < 1e-6)


# ---- batches, stopping, histories ------------------------------------------------------------------------------------

KERNEL = np.outer([1, 2, 1], [1, 2, 1]) / 16.0
PLAIN = RestoreConfig(temperature=0.9, decoder_std=0.1, max_iterations=12, stop=Residual(5e-4))


def test_holes_are_never_read(tiny_prior, noisy_images):
    mask = np.ones((8, 16))
    mask[2:5, 3:9] = 0
    operator = operators.Inpainting(mask)
    other = np.where(mask[..., None], noisy_images, np.float32(np.nan))
    config = PLAIN.replace(history=True)
    a, b = (hj.restore(tiny_prior, y, operator, 0.05, config) for y in (noisy_images, other))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.history.data_term, b.history.data_term)


def test_inside_jit_vmap_and_jvp(tiny_prior, noisy_images):
    y = jnp.asarray(noisy_images)

    def run(kernel, y, sigma):
        return hj.restore(tiny_prior, y, operators.Blur(kernel), sigma, PLAIN).image

    kernels = jnp.asarray(np.stack([KERNEL, KERNEL.T, np.eye(3) / 3]), jnp.float32)
    sigmas = jnp.array([0.02, 0.1, 0.3])
    mapped = jax.jit(jax.vmap(run))(kernels, y, sigmas)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], run(kernels[i], y[i], sigmas[i]), atol=1e-5)
    fixed = PLAIN.replace(stop=Residual(0.0), max_iterations=2)
    restored = partial(hj.restore, tiny_prior, operator=operators.Denoising(), noise_std=0.1, config=fixed)
    direction = jnp.ones_like(y[0])
    _, tangent = jax.jvp(lambda y: restored(y=y).x, (y[0],), (direction,))
    numeric = (restored(y=y[0] + 1e-2 * direction).x - restored(y=y[0] - 1e-2 * direction).x) / 2e-2
    np.testing.assert_allclose(tangent, numeric, atol=2e-2)


def test_official_start_is_random_only_through_its_key(tiny_prior, noisy_images):
    config = PLAIN.replace(initial="official", max_iterations=1)
    run = partial(hj.restore, tiny_prior, noisy_images, operators.Denoising(), 0.1, config)
    a, b, other = (run(key=jax.random.key(seed)).mean for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.max(np.abs(a - other)) > 1e-4
    with pytest.raises(ValueError, match="give a key"):
        run()


def test_start_and_returns(tiny_prior, noisy_images):
    start = np.full_like(noisy_images, 0.3)
    config = PLAIN.replace(initial="image", max_iterations=1, history=True)
    operator = operators.Denoising()
    out = hj.restore(tiny_prior, noisy_images, operator, 0.1, config, start=start, reference=start)
    assert np.isinf(out.history.psnr_x[:, 0]).all()
    first = operator.data_step(start, noisy_images, 1.0)  # σ = γ
    np.testing.assert_allclose(out.mean, hj.reconstruct(tiny_prior, first, 0.9), atol=1e-5)
    np.testing.assert_allclose(out.x, operator.data_step(out.mean, noisy_images, 1.0), atol=1e-5)
    np.testing.assert_array_equal(out.image, out.x)
    mean = hj.restore(
        tiny_prior, noisy_images, operator, 0.1, config.replace(returns="mean", history=False), start=start
    )
    np.testing.assert_array_equal(mean.image, mean.mean)
    assert mean.history is None


def test_recommended_settings_of_a_batch_are_those_of_its_images(conditional_prior, noisy_images):
    common = {"temperature": 1.0, "anneal_from": 40, "anneal_to": 2, "max_iterations": 3, "initial": "image"}
    rows = [
        {**common, "noise_std": 2.0, "decoder_std_per_noise_level": 2.0, "returns": "x"},
        {**common, "noise_std": 20.0, "decoder_std_per_noise_level": 3.0, "returns": "mean"},
    ]
    prior = dataclasses.replace(conditional_prior, metadata=Metadata.of(settings={"default": rows}))
    sigma = np.array([2.0, 8.0, 30.0]) / 255
    batch = hj.restore(prior, noisy_images, operators.Denoising(), sigma)
    for i in range(3):
        single = hj.restore(prior, noisy_images[i], operators.Denoising(), sigma[i])
        np.testing.assert_allclose(single.image, batch.image[i], atol=1e-5)


def test_annealing_of_a_conditional_prior(conditional_prior, noisy_images):
    """Each iteration uses its own γ and s: two iterations equal two restorations of one iteration."""
    levels = np.array([[0.2], [0.05]])
    config = RestoreConfig(
        temperature=1.0,
        decoder_std=2 * levels,
        noise_level=levels,
        max_iterations=2,
        stop=Residual(0.0),
        initial="image",
    )
    operator = operators.Blur(KERNEL)
    out = hj.restore(conditional_prior, noisy_images, operator, 0.1, config)
    mean = noisy_images
    for s in (0.2, 0.05):
        x = operator.data_step(mean, noisy_images, (0.1 / (2 * s)) ** 2)
        mean = hj.reconstruct(conditional_prior, x, 1.0, noise_level=s)
    np.testing.assert_allclose(out.mean, mean, atol=1e-5)
    np.testing.assert_allclose(out.x, operator.data_step(mean, noisy_images, (0.1 / 0.1) ** 2), atol=1e-5)


@pytest.mark.parametrize("width", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_orientations(conditional_prior, noisy_images, width):
    """An evaluation in another orientation in each iteration, or the mean over several, done by hand."""
    y = noisy_images[:, :, :width]
    config = RestoreConfig(1.0, 0.2, max_iterations=3, stop=Residual(0.0), initial="image")
    operator = operators.Denoising()
    square = width == 8
    symmetries = [lambda x: x, lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: x[:, ::-1, ::-1]]
    back = symmetries
    order = [0, 3, 1, 2]
    if square:
        symmetries = symmetries + [lambda x, s=s: np.swapaxes(s(x), 1, 2) for s in symmetries]
        back = back + [lambda x, s=s: s(np.swapaxes(x, 1, 2)) for s in back]
        order = [0, 7, 1, 6, 2, 5, 3, 4]

    def evaluate(x, turns):
        means = [
            back[i](np.asarray(hj.reconstruct(conditional_prior, symmetries[i](np.asarray(x)), 1.0, noise_level=0.2)))
            for i in (order[turn % len(order)] for turn in turns)
        ]
        return np.mean(means, axis=0)

    for orientations, count in (("cycle", 1), (2, 2)):
        out = hj.restore(conditional_prior, y, operator, 0.1, config.replace(orientations=orientations))
        mean = y
        for k in range(3):
            mean = evaluate(operator.data_step(mean, y, 0.25), range(k * count, k * count + count))
        np.testing.assert_allclose(out.mean, mean, atol=1e-5)
    fixed = hj.restore(conditional_prior, y, operator, 0.1, config)
    assert np.abs(out.mean - fixed.mean).max() > 1e-3


def test_end_of_a_schedule_and_of_patience(tiny_prior, noisy_images):
    """Without a tolerance to meet, all iterations are the regular end; with one they are a limit."""
    run = partial(hj.restore, tiny_prior, noisy_images, operators.Denoising(), 0.1)
    assert run(PLAIN.replace(stop=Residual(0.0), max_iterations=2)).status.tolist() == [Status.COMPLETED] * 3
    assert run(PLAIN.replace(stop=Residual(1e-9), max_iterations=2)).status.tolist() == [Status.ITERATION_LIMIT] * 3
    assert run(PLAIN.replace(stop=Residual(0.5), max_iterations=2)).status.tolist() == [Status.CONVERGED] * 3


def test_schedules():
    np.testing.assert_allclose(linear(0.9, 0.5, 5), [0.9, 0.8, 0.7, 0.6, 0.5], rtol=1e-6)
    schedule = geometric(0.4, np.array([0.1, 0.4]), 3)
    np.testing.assert_allclose(schedule, [[0.4, 0.4], [0.2, 0.4], [0.1, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(at_iteration(schedule, jnp.asarray(7)), schedule[2])
    np.testing.assert_allclose(at_iteration(schedule[0], jnp.asarray(7)), schedule[0])


# ---- settings --------------------------------------------------------------------------------------------------------


def test_recommended_settings(tiny_prior):
    def row(noise, **values):
        return {"noise_std": noise, "temperature": 1.0, "max_iterations": 8, "returns": "x", **values}

    settings = {
        "default": [
            row(2.0, anneal_from=50, anneal_to=2, decoder_std_per_noise_level=2.0, initial="image"),
            row(10.0, anneal_from=50, anneal_to=2, decoder_std_per_noise_level=3.0, returns="mean", initial="image"),
        ],
        "Inpainting": [row(2.0, decoder_std=5.0, temperature=0.5), row(10.0, decoder_std=15.0)],
        "SuperResolution": [row(5.0, factor=2, decoder_std=6.0), row(5.0, factor=4, decoder_std=9.0)],
    }
    prior = dataclasses.replace(tiny_prior, metadata=Metadata.of(settings=settings))
    config = recommended_config(prior, np.array([2.0, 7.0, 20.0]) / 255, operators.Denoising())
    assert config.returns == ("x", "mean", "mean")  # of the nearest rows
    np.testing.assert_allclose(np.asarray(config.noise_level)[[0, -1]] * 255, [[50, 50, 50], [2, 7, 20]], rtol=1e-5)
    np.testing.assert_allclose(config.decoder_std / config.noise_level, np.tile([2, 2.625, 3], (8, 1)), rtol=1e-5)
    loud = recommended_config(prior, 60 / 255, operators.Denoising())
    np.testing.assert_allclose(np.asarray(loud.noise_level) * 255, 60, rtol=1e-5)  # never rises
    holes = recommended_config(prior, 4.0 / 255, operators.Inpainting(np.ones((8, 8))))
    np.testing.assert_allclose([holes.decoder_std * 255, holes.temperature], [7.5, 0.625])
    assert holes.noise_level is None
    for factor, expected in ((2, 6), (3, 9), (8, 9)):  # that of the nearest factor, in ratio
        larger = recommended_config(prior, 5.0 / 255, operators.SuperResolution(KERNEL, factor))
        assert larger.decoder_std * 255 == pytest.approx(expected)
    nothing = dataclasses.replace(tiny_prior, metadata=Metadata.of(settings={"Blur": settings["Inpainting"]}))
    with pytest.raises(ValueError, match=r"settings for \['deblur'\], got denoise"):
        recommended_config(nothing, 0.1, operators.Denoising())
    with pytest.raises(ValueError, match="recommends no settings"):
        recommended_config(tiny_prior, 0.1, operators.Denoising())


def test_annealing_of_a_row(tiny_prior):
    """Its last s may be below σ, but not below `anneal_to`; γ has an exponent, around the middle of the schedule."""
    row = {"noise_std": 10.0, "temperature": 1.0, "max_iterations": 5, "returns": "x", "anneal_from": 40.0}
    row |= {"anneal_to": 2.0, "anneal_to_per_noise_std": 0.25, "decoder_std_per_noise_level": 3.0}
    settings = {"default": [row | {"decoder_std_exponent": 0.5}]}
    prior = dataclasses.replace(tiny_prior, metadata=Metadata.of(settings=settings))
    for sigma, last in ((10.0, 2.5), (4.0, 2.0)):
        config = recommended_config(prior, sigma / 255, operators.Denoising())
        level, gamma = 255 * config.noise_level[:, 0], 255 * config.decoder_std[:, 0]
        np.testing.assert_allclose(level, np.geomspace(40, last, 5), rtol=1e-5)
        np.testing.assert_allclose(gamma, 3 * np.sqrt(level * level[2]), rtol=1e-5)


def test_changes_of_recommended_settings(tiny_prior):
    common = {"temperature": 1.0, "anneal_from": 40.0, "anneal_to": 2.0, "decoder_std_per_noise_level": 2.0}
    rows = [
        {**common, "noise_std": 2.0, "max_iterations": 3, "returns": "x"},
        {**common, "noise_std": 20.0, "max_iterations": 6, "returns": "mean"},
    ]
    prior = dataclasses.replace(tiny_prior, metadata=Metadata.of(settings={"default": rows}))
    sigma = np.array([2.0, 20.0]) / 255
    with pytest.raises(ValueError, match="differ in max_iterations"):
        recommended_config(prior, sigma, operators.Denoising())
    spread = recommended_config(prior, sigma, operators.Denoising(), max_iterations=4, returns="mean")
    assert (spread.max_iterations, spread.returns) == (4, "mean")
    np.testing.assert_allclose(spread.noise_level * 255, np.geomspace([40, 40], [2, 20], 4), rtol=1e-5)
    np.testing.assert_allclose(spread.decoder_std, 2 * spread.noise_level, rtol=1e-5)
    own = recommended_config(prior, 2.0 / 255, operators.Denoising(), decoder_std=0.1)
    np.testing.assert_allclose([own.decoder_std, own.noise_level], [0.1, 0.05])  # paired
    told = recommended_config(prior, 2.0 / 255, operators.Denoising(), decoder_std=0.1, noise_level=0.07)
    np.testing.assert_allclose([told.decoder_std, told.noise_level], [0.1, 0.07])


def test_paper_settings():
    for name in hj.restoration.EXPERIMENTS:
        config = paper_config(name)
        assert config.stop == Plateau(config.stop.tolerance, config.stop.patience)
        assert config.orientations == "fixed"
    assert np.isclose(paper_config("bsd-deblurring-7.65").decoder_std, 10 / 255)
    assert paper_config("bsd-deblurring-12.75").temperature == 0.6
    assert len(paper_config("face-deblurring").temperature) == 66
    with pytest.raises(ValueError, match=r"bsd-inpainting.*got 'imagenet'"):
        paper_config("imagenet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": PLAIN.replace(returns=("x", "mean"))}, "for each of 3 images, got 2"),
        ({"config": PLAIN.replace(stop=Plateau(patience=-1))}, "patience >= 0"),
        ({"reference": np.zeros((4, 4, 3))}, "reference must have the images' shape"),
        ({"config": PLAIN.replace(stop=Plateau(beta_min=0.0))}, "0 < beta_min <= beta_max"),
        ({"config": None}, "recommends no settings"),
    ],
)
def test_bad_inputs(tiny_prior, noisy_images, change, message):
    arguments = {
        "prior": tiny_prior,
        "y": noisy_images,
        "operator": operators.Denoising(),
        "noise_std": 0.1,
        "config": PLAIN,
    }
    with pytest.raises(ValueError, match=message):
        hj.restore(**(arguments | change))
