"""One matrix, every operator x every part of the contract, and what is particular to each operator."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax import operators as ops
from hvae_jax.images import parse_kernel

GOLDEN = Path(__file__).parent / "golden"
BATCH = 2
RATIO = np.array([0.1, 0.7])
RNG = np.random.default_rng(0)
KERNEL = RNG.random((5, 3)) ** 2  # asymmetric
MOTION = np.maximum(RNG.random((6, 8)) - 0.7, 0)  # sparse, asymmetric, even
KERNELS = RNG.random((BATCH, 4, 5))
MASK = RNG.random((BATCH, 12, 16, 2)) < 0.5
WEIGHT = RNG.uniform(0.5, 2, (12, 16, 1))
STEPS = RNG.integers(3, 60, (3, 8, 8))
MIX = RNG.standard_normal((2, 3))


def mixed_differences(x):
    """Mixes channels, takes vertical differences, drops columns: neither square nor of an image's shape."""
    mixed = x @ jnp.asarray(MIX, x.dtype)
    return jnp.moveaxis(mixed[1:] - 0.5 * mixed[:-1], -1, 0)[..., ::2].reshape(3, -1)


# Each case makes its operator anew, because arrays take the precision of the moment. (operator, image shape)
CASES = {
    "blur-odd": (lambda: ops.Blur(KERNEL), (12, 16, 2)),
    "blur-even": (lambda: ops.Blur(MOTION), (11, 15, 2)),
    "blur-per-image": (lambda: ops.Blur(KERNELS), (12, 16, 2)),
    "blur-not-normalized": (lambda: ops.Blur(KERNEL - 0.2, normalize=False), (12, 16, 2)),
    "sr-2": (lambda: ops.SuperResolution(KERNEL, 2), (12, 16, 2)),
    "sr-3": (lambda: ops.SuperResolution(MOTION, 3), (9, 15, 2)),
    "sr-4-per-image": (lambda: ops.SuperResolution(KERNELS, 4), (12, 16, 2)),
    "mask-2d": (lambda: ops.Inpainting(MASK[0, ..., 0]), (12, 16, 2)),
    "mask-channels": (lambda: ops.Inpainting(MASK[0].astype(float)), (12, 16, 2)),
    "mask-per-image-one-channel": (lambda: ops.Inpainting(MASK[..., :1]), (12, 16, 2)),
    "mask-per-image": (lambda: ops.Inpainting(MASK), (12, 16, 2)),
    "denoising": (lambda: ops.Denoising(), (12, 16, 2)),
    "jpeg": (lambda: ops.Jpeg(STEPS, (2, 2), 6 / 255), (16, 32, 3)),
    "jpeg-noisy": (lambda: ops.Jpeg(STEPS, (1, 2), 6 / 255, noise_before=3 / 255), (8, 32, 3)),
    "jpeg-grey": (lambda: ops.Jpeg(STEPS[:1], noise_std=6 / 255, channels=2), (16, 8, 2)),
    "weighted-channels": (lambda: ops.Weighted(ops.SuperResolution(KERNEL, 2), np.array([0.5, 2.0])), (12, 16, 2)),
    "weighted-pixels": (lambda: ops.Weighted(ops.Blur(KERNEL), WEIGHT), (12, 16, 2)),
    "weighted-mask": (lambda: ops.Weighted(ops.Inpainting(MASK[0]), WEIGHT), (12, 16, 2)),
    "composed": (
        lambda: ops.Composed(ops.Jpeg(STEPS, (2, 1), 6 / 255), ops.Blur(KERNEL), ((3, 5), (4, 4))),
        (24, 24, 3),
    ),
    "composed-sr": (lambda: ops.Composed(ops.Inpainting(MASK[0, :4, :6]), ops.SuperResolution(KERNEL, 2)), (8, 12, 2)),
    "linear": (lambda: ops.Linear(mixed_differences, (12, 16, 2)), (12, 16, 2)),
}
ONE_OF_EACH = [
    "blur-odd",
    "blur-per-image",
    "sr-3",
    "sr-4-per-image",
    "mask-per-image",
    "denoising",
    "jpeg",
    "weighted-pixels",
    "linear",
]
PER_IMAGE = {"blur-per-image", "sr-4-per-image", "mask-per-image-one-channel", "mask-per-image"}
every_case = pytest.mark.parametrize("case", CASES)


@functools.cache
def data(case):
    """u, x, y as float64 numpy arrays: an image of the prior, the truth, its noisy observation."""
    make, shape = CASES[case]
    rng = np.random.default_rng(1)
    u, x = rng.random((2, BATCH, *shape))
    with jax.enable_x64(True):
        y = np.asarray(make()(x))
    return u, x, y + 0.05 * rng.standard_normal(y.shape)


@functools.cache
def dense(case):
    """The operator as float64 matrices, (batch, observation size, image size)."""
    make, shape = CASES[case]
    size = int(np.prod(shape))
    with jax.enable_x64(True):
        A = make()
        basis = jnp.eye(size).reshape(size, 1, *shape)
        columns = jax.jit(jax.vmap(lambda e: A(jnp.broadcast_to(e, (BATCH, *shape)))))(basis)
        return np.moveaxis(np.asarray(columns).reshape(size, BATCH, -1), 0, -1)


def everything(A, x, u, y, ratio, tolerance=1e-7, steps=()):
    fixed = [A.data_step(u, y, ratio, "cg", cg_steps=k) for k in steps]
    return (
        A(x),
        A.adjoint(y),
        A.data_step(u, y, ratio),
        A.data_step(u, y, ratio, "cg", None, tolerance),
        *fixed,
    )


single_precision = jax.jit(everything)
double_precision = jax.jit(functools.partial(everything, tolerance=1e-12, steps=(1, 4)))


@functools.cache
def results(case, x64):
    """What the operator makes of the data, compiled; in double precision also 1 and 4 steps of cg."""
    u, x, y = data(case)
    with jax.enable_x64(x64):
        out = (double_precision if x64 else single_precision)(CASES[case][0](), x, u, y, RATIO)
    chex.assert_trees_all_equal_dtypes(*out, np.zeros((), np.float64 if x64 else np.float32))
    return [np.asarray(a, float) for a in out]


def apply(matrices, x):
    return np.einsum("bij,bj->bi", matrices, x.reshape(BATCH, -1))


def relative_error(actual, expected):
    return np.abs(actual.reshape(expected.shape) - expected).max() / np.abs(expected).max()


@every_case
@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_adjoint(case, x64, tolerance):
    _, x, y = data(case)
    Ax, Aty = results(case, x64)[:2]
    assert relative_error(Ax, apply(dense(case), x)) < tolerance
    assert relative_error(Aty, apply(dense(case).swapaxes(1, 2), y)) < tolerance
    left, right = np.sum((Ax * y).reshape(BATCH, -1), 1), np.sum((x * Aty).reshape(BATCH, -1), 1)
    assert relative_error(left, right) < tolerance
    assert CASES[case][0]().image_shape(y.shape) == x.shape


def normal_equations(case):
    u, _, y = data(case)
    A = dense(case)
    normal = A.swapaxes(1, 2) @ A + RATIO[:, None, None] * np.eye(A.shape[-1])
    return normal, apply(A.swapaxes(1, 2), y) + RATIO[:, None] * u.reshape(BATCH, -1)


@every_case
@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 1e-10)])
def test_data_step_is_the_dense_solution(case, x64, tolerance):
    normal, right = normal_equations(case)
    expected = np.linalg.solve(normal, right[..., None])[..., 0]
    exact, by_cg = results(case, x64)[2:4]
    assert exact.shape == by_cg.shape == data(case)[0].shape
    assert relative_error(exact, expected) < tolerance
    assert relative_error(by_cg, expected) < tolerance


@every_case
def test_conjugate_gradient_steps_are_the_textbooks(case):
    normal, right = normal_equations(case)
    x = data(case)[0].reshape(BATCH, -1)
    r = right - apply(normal, x)
    p, rr, iterates = r, np.sum(r * r, axis=1, keepdims=True), []
    for _ in range(4):
        if rr.max() > 1e-24:  # inpainting and denoising are solved after two steps and one
            q = apply(normal, p)
            alpha = rr / np.sum(p * q, axis=1, keepdims=True)
            x, r = x + alpha * p, r - alpha * q
            rr, rr_before = np.sum(r * r, axis=1, keepdims=True), rr
            p = r + rr / rr_before * p
        iterates.append(x)
    one, four = results(case, True)[4:]
    assert relative_error(one, iterates[0]) < 1e-12
    assert relative_error(four, iterates[3]) < 1e-12


def assert_close(actual, expected):
    chex.assert_trees_all_close(actual, tuple(expected), rtol=1e-5, atol=1e-5)


@every_case
def test_jit_vmap_and_batches_agree(case):
    u, x, y = (jnp.asarray(a, jnp.float32) for a in data(case))
    A, ratio, batched = CASES[case][0](), jnp.asarray(RATIO, jnp.float32), results(case, False)
    if case in ONE_OF_EACH:
        assert_close((A(x), A.adjoint(y), A.data_step(u, y, ratio)), batched[:3])
    mapped = jax.vmap(single_precision, in_axes=(0 if case in PER_IMAGE else None, 0, 0, 0, 0))
    assert_close(mapped(A, x, u, y, ratio), batched)
    one = jax.tree.map(lambda leaf: leaf[1], A) if case in PER_IMAGE else A
    assert_close(single_precision(one, x[1], u[1], y[1], ratio[1]), [a[1] for a in batched])


@pytest.mark.parametrize("case", ["blur-per-image", "sr-2", "mask-per-image", "linear"])
def test_starts_of_batches_agree(case):
    y, A = jnp.asarray(data(case)[2], jnp.float32), CASES[case][0]()
    start = jax.jit(type(A).initial)
    mapped = jax.vmap(start, in_axes=(0 if case in PER_IMAGE else None, 0))
    assert_close((mapped(A, y),), [start(A, y)])
    assert A.image_shape(y.shape) == start(A, y).shape


def check_gradients(f, *args):
    """Forward and reverse derivatives of f along a random direction against a central difference."""
    rng = np.random.default_rng(4)
    random_like = functools.partial(jax.tree.map, lambda a: jnp.asarray(rng.standard_normal(np.shape(a))))
    args = jax.tree.map(jnp.asarray, args)
    tangents, cotangent, eps = random_like(args), random_like(jax.eval_shape(f, *args)), 1e-5

    @jax.jit
    def three_ways(args, tangents, cotangent):
        forward = jnp.vdot(cotangent, jax.jvp(f, args, tangents)[1])
        gradients = jax.vjp(f, *args)[1](cotangent)
        reverse = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradients, tangents)))
        moved = jax.vmap(lambda e: jnp.vdot(cotangent, f(*jax.tree.map(lambda a, t: a + e * t, args, tangents))))
        after, before = moved(jnp.array([eps, -eps]))
        return forward, reverse, (after - before) / (2 * eps)

    forward, reverse, numeric = three_ways(args, tangents, cotangent)
    np.testing.assert_allclose(forward, numeric, rtol=1e-5)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8)


TO_TOLERANCE = {"method": "cg", "cg_tolerance": 1e-12}
TWO_STEPS = {"method": "cg", "cg_steps": 2}


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("blur-per-image", {}),
        ("blur-odd", TO_TOLERANCE),
        ("blur-odd", TWO_STEPS),
        ("sr-3", {}),
        ("sr-4-per-image", TWO_STEPS),
        ("mask-per-image", {}),
        ("mask-2d", TO_TOLERANCE),
        ("denoising", {}),
        ("linear", {}),
        ("linear", TWO_STEPS),
    ],
)
def test_gradients(case, options):
    u, _, y = data(case)
    with jax.enable_x64(True):
        fields, structure = jax.tree.flatten(CASES[case][0]())
        kernels = [f for f in fields if f.dtype == float]  # a mask has no gradient

        def step(kernels, u, y, ratio):
            return jax.tree.unflatten(structure, kernels or fields).data_step(u, y, ratio, **options)

        check_gradients(step, kernels, u, y, RATIO)


def test_gradient_reaches_the_kernel_through_its_normalization():
    u, _, y = data("blur-odd")
    with jax.enable_x64(True):
        check_gradients(lambda kernel: ops.Blur(kernel).data_step(u, y, 0.3), KERNEL)


def test_gradients_of_a_small_loss_are_as_accurate():
    # The solve for the cotangent must stop relative to the cotangent, and not to the image.
    u, _, y = data("linear")
    A = CASES["linear"][0]()
    gradient = jax.jit(jax.grad(lambda u, scale: scale * jnp.sum(A.data_step(u, y, 0.3) ** 2)))
    chex.assert_trees_all_close(1e8 * gradient(u, 1e-8), gradient(u, 1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["blur-odd", "sr-2"])
@pytest.mark.parametrize("method", ["exact", "cg"])
def test_a_loop_does_the_observations_work_once(case, method):
    u, _, y = data(case)
    A = CASES[case][0]()

    def loop(kernel, u):
        step = jax.tree.unflatten(jax.tree.structure(A), [kernel]).data_step_for(y, method)
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 0, lambda x: step(x, 0.1), u)

    equations = jax.make_jaxpr(loop)(A.kernel, jnp.asarray(u)).eqns
    (body,) = [e.params["body_jaxpr"] for e in equations if e.primitive.name == "while"]
    # The loop gets the kernel's spectrum and not the kernel.
    assert A.kernel.shape not in [a.shape for a in body.in_avals]
    assert any(a.dtype == jnp.complex64 for a in body.in_avals)


@pytest.mark.parametrize("kernel", [KERNEL, MOTION, KERNELS[0], KERNELS[1][:, :2]])
def test_blur_is_a_circular_true_convolution(kernel):
    x = RNG.random((9, 12, 1))
    kernel = kernel / kernel.sum()
    (h, w), (height, width) = kernel.shape, x.shape[:2]
    expected = np.zeros_like(x)
    for i, j, a, b in np.ndindex(height, width, h, w):
        expected[i, j] += kernel[a, b] * x[(i - a + h // 2) % height, (j - b + w // 2) % width]
    np.testing.assert_allclose(ops.Blur(kernel)(x), expected, atol=1e-6)
    np.testing.assert_allclose(ops.SuperResolution(kernel, 3)(x), expected[::3, ::3], atol=1e-6)


def test_kernels_are_divided_by_their_sum_unless_told_otherwise():
    np.testing.assert_allclose(ops.Blur(KERNELS).kernel.sum((1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(ops.Blur(KERNEL - 0.5, normalize=False).kernel, KERNEL - 0.5, rtol=1e-6)
    np.testing.assert_array_equal(ops.Blur([[0, 2], [0, 0]]).kernel, [[0, 1], [0, 0]])


def test_masks_of_any_type_and_rank():
    expected = MASK[0, ..., :1]
    for mask in (expected, expected[..., 0], expected.astype(int), expected[..., 0].astype(float).tolist()):
        np.testing.assert_array_equal(ops.Inpainting(mask).mask, expected)


def test_what_an_observation_holds_in_holes_does_not_matter():
    A, (u, _, y) = ops.Inpainting(MASK), data("mask-per-image")
    marked = np.where(MASK, y, np.nan)
    for method in ("exact", "cg"):
        chex.assert_trees_all_close(A.data_step(u, marked, 0.1, method), A.data_step(u, y, 0.1, method))
    chex.assert_trees_all_equal(A.initial(marked), A.initial(y), A.initial(np.where(MASK, y, 100)))
    chex.assert_tree_all_finite(A.adjoint(marked))


def test_noiseless_inpainting_keeps_the_observed_pixels():
    A, (u, _, y) = ops.Inpainting(MASK), data("mask-per-image")
    np.testing.assert_allclose(A.data_step(u, y, 0.0), np.where(MASK, y, u), atol=1e-7)


def test_cg_steps_after_the_solution_change_nothing():
    u, _, y = data("denoising")
    A = ops.Denoising()
    few, many = (A.data_step(u, y, 0.1, "cg", cg_steps=k) for k in (1, 40))
    np.testing.assert_allclose(many, few, atol=1e-6)
    np.testing.assert_array_equal(A.data_step(u, u, 0.1, "cg", cg_steps=3), jnp.asarray(u))
    np.testing.assert_array_equal(A.data_step(u, u, 0.1, "cg"), jnp.asarray(u))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 1), (24, 37, 3), (2, 33, 20, 2)])
def test_smooth_fill(shape):
    rng = np.random.default_rng(2)
    x, observed = rng.random(shape).astype(np.float32), rng.random(shape) < 0.3
    filled = np.asarray(ops.smooth_fill(x, observed))
    np.testing.assert_array_equal(filled[observed], x[observed])
    lead = shape[:-3]
    for index in np.ndindex(*lead, shape[-1]):
        here = (*index[:-1], ..., index[-1])
        known = x[here][observed[here]]
        low, high = (known.min(), known.max()) if known.size else (0.5, 0.5)
        assert low - 1e-6 <= filled[here].min() <= filled[here].max() <= high + 1e-6
    np.testing.assert_array_equal(ops.smooth_fill(x, np.zeros_like(observed)), 0.5)
    np.testing.assert_array_equal(ops.smooth_fill(x, np.ones_like(observed)), x)


def test_smooth_fill_of_a_smooth_image_is_close():
    rows, columns = np.mgrid[:64, :48] / 64
    x = (0.2 + 0.5 * rows + 0.3 * np.sin(3 * columns))[..., None].astype(np.float32)
    observed = np.random.default_rng(3).random((64, 48)) < 0.3
    observed[20:36, 16:32] = False
    filled = ops.Inpainting(observed).initial(np.where(observed[..., None], x, np.nan))
    assert np.abs(filled - x).max() < 0.08
    assert np.sqrt(np.mean((filled - x) ** 2)) < 0.01


def test_super_resolution_starts_close_to_the_official_start():
    # y and x0 of the official super-resolution run with PatchVDVAE. It interpolates in two stages, with
    # a = -0.75 instead of -0.5, so that equality is not to be had.
    with np.load(GOLDEN / "super_resolution_start.npz") as golden:
        x0 = jax.jit(ops.SuperResolution(np.ones((1, 1)), int(golden["factor"])).initial)(golden["y"])
        assert -10 * np.log10(np.mean((x0 - golden["x0"].astype(float)) ** 2)) > 45


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_super_resolution_starts_without_a_shift(factor):
    rows, columns = np.mgrid[: 10 * factor, : 8 * factor] / (10 * factor)
    x = (0.2 + 0.3 * rows + 0.4 * columns)[..., None].astype(np.float32)
    A = ops.SuperResolution(np.ones((1, 1)), factor)
    inner = slice(2 * factor, -3 * factor)
    start = jax.jit(lambda A, x: A.initial(A(x)))(A, x)
    np.testing.assert_allclose(start[inner, inner], x[inner, inner], atol=1e-5)


def test_linear_starts_closer_than_a_constant():
    _, x, _ = data("linear")
    x = jax.image.resize(jnp.asarray(x[:, ::4, ::4]), x.shape, "linear")
    for scale in (1.0, 1e3):
        A = ops.Linear(lambda x, scale=scale: scale * mixed_differences(x), (12, 16, 2))
        error = jnp.linalg.norm(A(A.initial(A(x))) - A(x)) / jnp.linalg.norm(A(x))
        assert error < 0.05
    np.testing.assert_array_equal(A.initial(jnp.zeros_like(A(x))), 0)


def test_operators_are_frozen_pytrees():
    A = ops.SuperResolution(KERNEL, 2)
    assert repr(A) == "SuperResolution(kernel=float32[5, 3], factor=2)"
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(A)] == [".kernel"]
    assert jax.tree.structure(A) == jax.tree.structure(ops.SuperResolution(KERNEL + 1, 2))
    assert jax.tree.structure(A) != jax.tree.structure(ops.SuperResolution(KERNEL, 3))
    with pytest.raises(AttributeError, match="cannot assign to field 'factor'"):
        A.factor = 3
    stacked = jax.tree.map(lambda *kernels: jnp.stack(kernels), ops.Blur(KERNELS[0]), ops.Blur(KERNELS[1]))
    chex.assert_trees_all_equal(stacked, ops.Blur(KERNELS))


def test_an_operator_of_ones_own_needs_only_its_maps():
    class Scale(ops.Operator, arrays=("weight",)):
        def __init__(self, weight):
            self._set(weight=weight)

        def image_shape(self, observation_shape):
            return observation_shape

        def bind(self, image_shape, dtype):
            return (lambda x: self.weight * x), (lambda y: self.weight * y)

    y = jnp.full((2, 4, 6, 1), 0.6)
    x = jax.jit(lambda A: A.data_step(jnp.zeros_like(y), y, 0.5))(Scale(jnp.asarray(2.0)))
    np.testing.assert_allclose(x, 2 * 0.6 / 4.5, rtol=1e-5)
    np.testing.assert_allclose(Scale(jnp.asarray(2.0)).initial(y), 0.3, rtol=1e-5)


X = np.zeros((12, 16, 3), np.float32)
XS = np.zeros((2, 12, 16, 3), np.float32)
NAN = np.array([[1, np.nan]])
A_MASK = np.ones((12, 16))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: ops.Blur(np.ones(3)), r"kernel must be \(height, width\) or .* got shape \(3,\)"),
        (lambda: ops.Blur(np.ones((0, 3))), r"kernel must be .* got shape \(0, 3\)"),
        (lambda: ops.Blur(1j * KERNEL), "kernel must be of real numbers, got complex"),
        (lambda: ops.Blur(NAN), "kernel must be finite"),
        (lambda: ops.Blur(NAN, normalize=False), "kernel must be finite"),
        (lambda: ops.Blur(np.zeros((3, 3))), "must have a positive sum, got 0.0; normalize=False"),
        (lambda: ops.Blur(-KERNEL), "must have a positive sum, got -"),
        (lambda: jax.jit(lambda x: ops.Blur(-KERNEL)(x))(X), "must have a positive sum"),
        (
            lambda: ops.Blur(np.ones((3, 17)))(X),
            r"larger than the image, got a kernel \(3, 17\) .* \(12, 16\)",
        ),
        (lambda: ops.Blur(KERNELS)(X), r"\(2, 4, 5\) need a batch of 2 images, got .* \(12, 16, 3\)"),
        (lambda: ops.Blur(KERNELS)(XS[:1]), r"need a batch of 2 images, got .* \(1, 12, 16, 3\)"),
        (lambda: ops.Blur(KERNEL)(X[..., 0]), r"must be \(height, width, channels\) or .* shape \(12, 16\)"),
        (lambda: ops.Blur(KERNEL)(X.astype(np.uint8)), "image must be a float32 or float64 array, got uint8"),
        (lambda: ops.Blur(KERNEL).adjoint(X[None, None]), r"got shape \(1, 1, 12, 16, 3\)"),
        (lambda: ops.SuperResolution(KERNEL, 0), "whole number of at least 1, got 0"),
        (lambda: ops.SuperResolution(KERNEL, 2.5), "whole number of at least 1, got 2.5"),
        (lambda: ops.SuperResolution(-KERNEL, 2), "must have a positive sum"),
        (lambda: ops.SuperResolution(KERNEL, 5)(X), r"must be multiples of the factor 5, got \(12, 16\)"),
        (lambda: ops.SuperResolution(np.ones((9, 9)), 2).initial(X[:4]), "larger than the image"),
        (
            lambda: ops.SuperResolution(KERNEL, 2).image_shape((6, 8)),
            r"low-resolution image must be .* \(6, 8\)",
        ),
        (lambda: ops.Inpainting(np.ones(3)), r"mask must be \(height, width\).* got shape \(3,\)"),
        (
            lambda: ops.Inpainting(0.5 * A_MASK),
            "1 where observed and 0 where missing, got values from 0.5 to 0.5",
        ),
        (lambda: ops.Inpainting(255 * A_MASK), "got values from 255.0 to 255.0"),
        (lambda: ops.Inpainting(A_MASK)(X[:, 1:]), r"same size, got \(12, 16, 1\) and \(12, 15, 3\)"),
        (lambda: ops.Inpainting(MASK[0])(X), r"same size, got \(12, 16, 2\) and \(12, 16, 3\)"),
        (lambda: ops.Inpainting(MASK).initial(X), r"same size, got \(2, 12, 16, 2\) and \(12, 16, 3\)"),
        (lambda: ops.Denoising()(X[0]), r"noisy image must be .* got shape \(16, 3\)"),
        (lambda: ops.Linear(jnp.sin, (4, 4, 1)), "fn must be linear so that it has a transpose"),
        (lambda: ops.Linear(lambda x: x * x, (4, 4, 1)), "fn must be linear so that it has a transpose"),
        (lambda: ops.Linear(lambda x: x + 1, (4, 4, 1)), "map zero to zero"),
        (lambda: ops.Linear(lambda x: x @ MIX, (4, 4, 3)), r"must take an image of shape \(4, 4, 3\)"),
        (lambda: ops.Linear(lambda x: (x, x), (4, 4, 1)), "fn must return one array of real numbers"),
        (lambda: ops.Linear(jnp.fft.fft2, (4, 4, 1)), "fn must return one array of real numbers"),
        (lambda: ops.Linear(lambda x: x, (4, 4)), r"input_shape must be .* got \(4, 4\)"),
        (
            lambda: ops.Linear(lambda x: x, (12, 15, 3))(X),
            r"must have shape \(12, 15, 3\).* got \(12, 16, 3\)",
        ),
        (lambda: ops.Linear(jnp.sum, (4, 4, 1)).adjoint(X), r"must have shape \(\).* got \(12, 16, 3\)"),
        (lambda: ops.Denoising().data_step(X, X, -1.0), "ratio must be positive and at most 1e\\+30, got -1.0"),
        (lambda: ops.Denoising().data_step(X, X, np.ones(1)), r"ratio must be a number or .* shape \(1,\)"),
        (lambda: ops.Denoising().data_step(XS, XS, np.ones(3)), r"one per image of u .* shape \(3,\)"),
        (
            lambda: ops.Denoising().data_step(X, XS, 1),
            r"u must have shape \(2, 12, 16, 3\) .* got \(12, 16, 3\)",
        ),
        (
            lambda: ops.Denoising().data_step(X.astype(int), X, 1),
            "u must be a float32 or float64 array, got int",
        ),
        (lambda: ops.Denoising().data_step_for(X, "newton"), '"exact" or "cg", got \'newton\''),
        (lambda: ops.Denoising().data_step_for(X, cg_steps=2), 'cg_steps needs method="cg"'),
        (lambda: ops.Denoising().data_step_for(X, "cg", 0), "at least 1 or None, got 0"),
        (lambda: ops.Denoising().data_step_for(X, "cg", 1.5), "at least 1 or None, got 1.5"),
        (lambda: ops.Denoising().data_step_for(X, "cg", None, 0.0), "between 0 and 1, got 0.0"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ValueError, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ratio", "bound"), [(1e-8, 3e-4), (1e-6, 6e-5), (1e-4, 1e-5)])
def test_rounding_at_small_ratios_is_what_the_docstring_says(ratio, bound):
    """Of a blur's data step in float32, over the largest value of x."""
    rng = np.random.default_rng(0)
    y, u = rng.normal(0.5, 0.1, (2, 64, 64, 3)).astype(np.float32)
    kernel = parse_kernel("gaussian:2")
    ours = ops.Blur(kernel).data_step(u, y, ratio)
    with jax.enable_x64(True):
        wide = ops.Blur(kernel.astype(np.float64), normalize=False)
        exact = np.asarray(wide.data_step(u.astype(np.float64), y.astype(np.float64), ratio))
    assert np.abs(ours - exact).max() < bound * np.abs(exact).max()
