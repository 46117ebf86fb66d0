"""The methods that the benchmarks compare with: each works for every operator, and each is what it says."""

import functools
import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import methods
from benchmarks.methods.epll import Mixture, denoise_patches, load_mixture
from benchmarks.methods.hqs import dpir_schedule
from hvae_jax import operators as ops
from hvae_jax.images import read_image
from hvae_jax.metrics import psnr

SIZE = 24
NOISE_STD = 25.5 / 255
RNG = np.random.default_rng(0)
KERNEL = np.outer([1, 2, 3, 2, 1], [1, 1, 1, 0, 0]) / 27.0


def halved(x):
    """The averages of neighbouring columns."""
    return (x[:, ::2] + x[:, 1::2]) / 2


OPERATORS = {
    "blur": ops.Blur(KERNEL.astype(np.float32)),
    "super-resolution": ops.SuperResolution(KERNEL.astype(np.float32), 2),
    "inpainting": ops.Inpainting(RNG.random((SIZE, SIZE)) < 0.6),
    "denoising": ops.Denoising(),
    "linear": ops.Linear(halved, (SIZE, SIZE, 3)),
}


@functools.cache
def photographs() -> np.ndarray:
    pixels = read_image(Path(__file__).parent / "data" / "chelsea256.png").pixels
    return np.stack([pixels[80 : 80 + SIZE, 60 : 60 + SIZE], pixels[120 : 120 + SIZE, 100 : 100 + SIZE]])


@functools.cache
def observe(operator: str) -> np.ndarray:
    y = np.asarray(OPERATORS[operator](photographs()))
    return y + NOISE_STD * np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)


def smooth(x, deviation):
    """A denoiser to plug in."""
    return methods.tikhonov(x, ops.Denoising(), deviation, 50.0)


@functools.cache
def method(name: str) -> methods.Method:
    return methods.get(name, **({"denoiser": smooth} if name == "pnp" else {}))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["tikhonov", "tv", "epll", "pnp"])
def test_improves_on_the_start_and_a_batch_is_its_images(name, operator):
    A, y, clean = OPERATORS[operator], observe(operator), photographs()
    x = method(name)(y, A, NOISE_STD)
    assert x.shape == clean.shape
    assert x.dtype == jnp.float32
    assert (psnr(x, clean) > psnr(A.initial(y), clean) + 0.5).all()
    assert_allclose(method(name)(y[1:], A, NOISE_STD)[0], x[1], atol=2e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_tikhonov_solves_its_normal_equations(operator):
    A, y = OPERATORS[operator], observe(operator)
    x = methods.tikhonov(y, A, NOISE_STD, 5.0)
    laplacian = 4 * x - sum(jnp.roll(x, shift, axis) for shift in (-1, 1) for axis in (-3, -2))
    gradient = A.adjoint(A(x) - A.observed(y)) + NOISE_STD**2 * 5.0 * laplacian
    assert jnp.abs(gradient).max() < 2e-5


def test_tv_finds_the_minimum():
    def objective(x):
        steps = jnp.stack([jnp.roll(x, -1, axis) - x for axis in (-3, -2)])
        return jnp.sum((x - y) ** 2) / (2 * NOISE_STD**2) + 10.0 * jnp.sum(jnp.sqrt(jnp.sum(steps**2, axis=(0, -1))))

    y = observe("denoising")
    x = methods.admm_tv(y, ops.Denoising(), NOISE_STD, 10.0, iterations=300)
    least = objective(x)
    assert least < 0.9 * objective(y)
    # The objective is convex: no direction may lead down from its minimum.
    for direction in (y - x, jnp.mean(x) - x, RNG.standard_normal(x.shape)):
        scaled = 1e-3 * direction / jnp.abs(direction).max()
        assert objective(x + scaled) > least - 1e-3
        assert objective(x - scaled) > least - 1e-3


def test_tv_is_the_same_by_conjugate_gradient():
    as_linear = ops.Linear(ops.Blur(KERNEL.astype(np.float32)), (SIZE, SIZE, 3))
    y = observe("blur")
    assert_allclose(
        methods.admm_tv(y, as_linear, NOISE_STD, 5.0, iterations=300),
        methods.admm_tv(y, OPERATORS["blur"], NOISE_STD, 5.0, iterations=300),
        atol=2e-3,
    )


def test_tuned_finds_the_best_weight():
    clean = photographs()
    case = (observe("denoising"), ops.Denoising(), NOISE_STD, clean)
    weights = [0.1, 1.0, 10.0, 100.0, 1000.0]
    best = methods.tuned(methods.tikhonov, [case], weights)
    quality = [float(psnr(methods.tikhonov(*case[:3], weight), clean).mean()) for weight in weights]
    assert best == weights[int(np.argmax(quality))]


def test_dpir_schedule():
    ratios, deviations = np.transpose(dpir_schedule(7.65 / 255))
    assert_allclose(deviations[[0, -1]], [49 / 255, 7.65 / 255], rtol=1e-6)
    assert_allclose(deviations[1:] / deviations[:-1], (7.65 / 49) ** (1 / 7), rtol=1e-6)
    assert_allclose(ratios * deviations**2, 0.23 * (7.65 / 255) ** 2, rtol=1e-6)
    assert dpir_schedule(1 / 255)[-1][1] == pytest.approx(2.55 / 255)


def test_epll_denoises_each_patch_by_its_component():
    """Against the definition, patch by patch in NumPy."""
    components, side = 3, 8
    factors = 0.05 * RNG.standard_normal((components, 64, 64))
    covariances = factors @ factors.transpose(0, 2, 1)
    variances, vectors = np.linalg.eigh(covariances)
    weights, means = np.array([0.5, 0.3, 0.2]), 0.1 * RNG.standard_normal((components, 64))
    mixture = Mixture(*(jnp.asarray(part, jnp.float32) for part in (np.log(weights), means, vectors, variances)))
    x, deviation = photographs()[:, :11, :10], 0.1
    total, count = np.zeros(x.shape), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(2, 4, 3, 3):
        patch = x[b, i : i + side, j : j + side, c].ravel().astype(float)
        noisy = covariances + deviation**2 * np.eye(64)
        centred = patch - patch.mean() - means
        filtered = np.linalg.solve(noisy, centred[..., None])[..., 0]
        likelihood = np.log(weights) - 0.5 * (np.linalg.slogdet(noisy)[1] + (centred * filtered).sum(-1))
        k = np.argmax(likelihood)
        place = (b, slice(i, i + side), slice(j, j + side), c)
        total[place] += (patch.mean() + means[k] + covariances[k] @ filtered[k]).reshape(side, side)
        count[place] += 1
    assert_allclose(denoise_patches(mixture, x, deviation), total / count, atol=2e-5)


def test_the_stored_mixture():
    mixture = load_mixture()
    assert_allclose(jnp.exp(mixture.log_weights).sum(), 1, atol=1e-3)
    assert (mixture.variances[:, -1] < 4).all()  # of 64 pixels in [0, 1]
    identity = jnp.einsum("kpq,kpr->kqr", mixture.vectors, mixture.vectors)
    assert_allclose(identity, jnp.broadcast_to(jnp.eye(64), identity.shape), atol=1e-5)
    with pytest.raises(ValueError, match=r"at least 8x8 pixels, got shape \(1, 7, 9, 3\)"):
        denoise_patches(mixture, jnp.zeros((1, 7, 9, 3)), 0.1)


def random_dncnn(inputs: int) -> dict[str, np.ndarray]:
    widths = (inputs, 5, 4, 3)
    weights = {}
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        weights[f"conv{i:02d}_w"] = (0.2 * RNG.standard_normal((3, 3, before, after))).astype(np.float32)
        weights[f"conv{i:02d}_b"] = (0.1 * RNG.standard_normal(after)).astype(np.float32)
    return weights


def convolved(x, kernel, bias):
    """A 3x3 correlation with zeros beyond the borders, in NumPy."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel) + bias


@pytest.mark.parametrize("inputs", [3, 4], ids=["dncnn", "fdncnn"])
def test_dncnn_is_its_convolutions(inputs, tmp_path):
    weights, x = random_dncnn(inputs), photographs()
    h = x if inputs == 3 else np.concatenate([x, np.full_like(x[..., :1], 0.1)], axis=-1)
    for i in range(3):
        h = convolved(h if i == 0 else np.maximum(h, 0), weights[f"conv{i:02d}_w"], weights[f"conv{i:02d}_b"])
    np.savez(tmp_path / "weights.npz", **weights)
    assert_allclose(methods.load_dncnn(tmp_path / "weights.npz")(x, 0.1), x - h if inputs == 3 else h, atol=1e-5)
    assert methods.get("fdncnn", weights=weights)(observe("blur"), OPERATORS["blur"], NOISE_STD).shape == x.shape


def test_dncnn_refuses_other_weights():
    weights = random_dncnn(4)
    with pytest.raises(ValueError, match="expected the arrays conv00_w"):
        methods.load_dncnn({"layer": weights["conv00_w"]})
    with pytest.raises(ValueError, match="follow one another"):
        methods.load_dncnn(weights | {"conv01_w": weights["conv02_w"]})
    with pytest.raises(ValueError, match="as many as the outputs"):
        methods.load_dncnn(random_dncnn(6))


def test_bm3d():
    pytest.importorskip("bm3d", reason="needs the extra bm3d", exc_type=ImportError)
    A, y, clean = OPERATORS["blur"], observe("blur"), photographs()
    x = methods.get("bm3d", iterations=3)(y, A, NOISE_STD)
    assert (psnr(x, clean) > psnr(y, clean) + 0.5).all()
    grey = methods.load_bm3d()(y[:1, :, :, :1], NOISE_STD)
    assert grey.shape == (1, SIZE, SIZE, 1)


def test_what_is_not_there_is_unavailable(monkeypatch, tmp_path):
    with pytest.raises(methods.Unavailable, match=r"give weights=FILE\.npz"):
        methods.get("fdncnn")
    with pytest.raises(methods.Unavailable, match="cannot be read"):
        methods.get("fdncnn", weights=tmp_path / "absent.npz")
    for module in ("bm3d", "deepinv", "benchmarks.methods.peers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(methods.Unavailable, match=r"pip install 'hvae_jax\[bm3d\]'"):
        methods.get("bm3d")
    with pytest.raises(methods.Unavailable, match=r"gs-pnp needs deepinv and PyTorch: pip install 'hvae_jax\[peers\]'"):
        methods.get("gs-pnp")


def test_a_method_of_ones_own(tmp_path):
    (tmp_path / "ilo.py").write_text("def restore(y, A, noise_std, scale=1):\n    return scale * A.adjoint(y)\n")
    A, y = OPERATORS["blur"], observe("blur")
    assert_allclose(methods.get(f"{tmp_path}/ilo.py:restore")(y, A, NOISE_STD), A.adjoint(y))
    assert_allclose(methods.get(f"{tmp_path}/ilo.py:restore", scale=2)(y, A, NOISE_STD), 2 * A.adjoint(y))
    assert methods.get("benchmarks.methods.variational:tikhonov") is methods.tikhonov
    for name, message in {
        "wavelets": "expected one of tikhonov, tv, .*got 'wavelets'",
        f"{tmp_path}/ilo.py:run": "a function run in .*ilo.py",
        f"{tmp_path}/absent.py:run": "absent.py",
        "no_such_module:run": "No module named 'no_such_module'",
    }.items():
        with pytest.raises(ValueError, match=message):
            methods.get(name)


# PyTorch and deepinv warn of what is theirs to change.
needs_deepinv = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def peers():
    pytest.importorskip("deepinv", reason="needs the extra peers")
    from benchmarks.methods import peers

    return peers


@needs_deepinv
@pytest.mark.parametrize("operator", OPERATORS)
def test_deepinv_sees_our_operator(peers, operator):
    import torch

    A, y, x = OPERATORS[operator], observe(operator), photographs()
    physics = peers.OurPhysics(y, A, NOISE_STD)
    image = torch.from_numpy(x).movedim(-1, 1).requires_grad_()
    assert_allclose(physics.A(image).detach(), A(x), atol=1e-6)
    assert_allclose(physics.A_adjoint(physics.y).movedim(1, -1), A.adjoint(A.observed(y)), atol=1e-6)
    (gradient,) = torch.autograd.grad(0.5 * ((physics.A(image) - physics.y) ** 2).sum(), image)
    assert_allclose(gradient.movedim(1, -1), A.adjoint(A(x) - A.observed(y)), atol=1e-5)
    for gamma in (2.0, torch.tensor([[[[2.0]]]])):
        step = physics.prox_l2(image.detach(), physics.y, gamma)
        assert_allclose(step.movedim(1, -1), A.data_step(x, y, 0.5), atol=1e-5)


@needs_deepinv
def test_deepinv_and_we_run_the_same_dpir(peers):
    import torch

    A, y = OPERATORS["blur"], observe("blur")
    torch.manual_seed(0)
    theirs = peers.dpir(weights=None)(y, A, NOISE_STD)
    torch.manual_seed(0)
    network = peers._network(peers.DRUNet, None)

    @torch.no_grad()
    def denoiser(x, deviation):
        return peers.to_jax(network(peers._to_torch(x).movedim(-1, 1), deviation).movedim(1, -1))

    ours = methods.plug_and_play(denoiser)(y, A, NOISE_STD)
    assert_allclose(theirs, ours, atol=1e-4 * float(jnp.abs(ours).max()))


@needs_deepinv
@pytest.mark.parametrize(
    ("name", "operator", "options"),
    [
        ("gs-pnp", "blur", {"max_iter": 2}),
        ("gs-pnp", "super-resolution", {"max_iter": 2}),
        ("pnp-mmo", "linear", {"max_iter": 3}),
        ("diffpir", "super-resolution", {"max_iter": 3}),
        ("dps", "linear", {"num_steps": 3}),
    ],
)
def test_deepinv_runs_with_random_weights(peers, name, operator, options):
    import torch

    A = OPERATORS[operator] if operator != "linear" else ops.Linear(halved, (32, 32, 3))
    clean = jnp.tile(photographs()[:, :16, :16], (1, 2, 2, 1))  # the diffusion models want powers of two
    y = np.asarray(A(clean), np.float32)
    torch.manual_seed(0)
    restored = methods.get(name, weights=None, **options)
    x = restored(y, A, NOISE_STD)
    assert x.shape == clean.shape
    assert x.dtype == jnp.float32
    assert jnp.isfinite(x).all()
    assert_allclose(restored(y, A, NOISE_STD), x, atol=1e-5)  # the same noise again


@needs_deepinv
def test_weights_that_cannot_be_had_are_unavailable(peers, tmp_path):
    with pytest.raises(methods.Unavailable, match="the weights of DRUNet cannot be had"):
        methods.get("dpir", weights=str(tmp_path / "absent.pth"))


def test_methods_compile_once():
    y, A = observe("blur"), OPERATORS["blur"]
    method("tv")(y, A, NOISE_STD)
    before = methods.admm_tv._cache_size()
    method("tv")(y, ops.Blur(KERNEL[::-1].astype(np.float32)), 2 * NOISE_STD)
    assert methods.admm_tv._cache_size() == before
