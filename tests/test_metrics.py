"""PSNR and SSIM against scikit-image, LPIPS against its authors' example, in every way they are called."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hvae_jax import metrics
from hvae_jax.images import read_image

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=[1, 3])
def pair(request):
    """Three images and what is left of them; both leave [0, 1]."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(-0.1, 1.1, 40)[:, None, None] * np.linspace(0.5, 1, 33)[:, None]
    reference = np.stack([ramp + 0.05 * rng.standard_normal((40, 33, request.param)) for _ in range(3)])
    noise = np.array([0.01, 0.1, 0.3])[:, None, None, None] * rng.standard_normal(reference.shape)
    return (reference + noise).astype(np.float32), reference.astype(np.float32)


def reference_psnr(image, reference):
    return peak_signal_noise_ratio(reference.clip(0, 1), image.clip(0, 1), data_range=1)


def reference_ssim(image, reference):
    return structural_similarity(
        image.clip(0, 1).astype(np.float64),
        reference.clip(0, 1).astype(np.float64),
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
    )


@pytest.mark.parametrize(
    ("metric", "peer", "tolerance"),
    [(metrics.psnr, reference_psnr, 1e-3), (metrics.ssim, reference_ssim, 1e-4)],
)
def test_equals_scikit_image(pair, metric, peer, tolerance):
    image, reference = pair
    expected = [peer(x, r) for x, r in zip(image, reference, strict=True)]
    for values in (metric(image, reference), jax.jit(metric)(image, reference)):
        assert values.shape == (3,)
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(jax.vmap(metric)(image, reference), expected, rtol=0, atol=tolerance)
    single = metric(image[1], reference[1])
    assert single.shape == ()
    assert float(single) == pytest.approx(expected[1], abs=tolerance)


def test_identical_images(pair):
    image, _ = pair
    assert (metrics.psnr(image, image) == jnp.inf).all()
    np.testing.assert_allclose(metrics.ssim(image, image), 1, atol=1e-6)
    flat = jnp.full((16, 16, 3), 0.5)
    assert metrics.ssim(flat, flat) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.lpips])
def test_mistakes(metric):
    image = np.zeros((16, 16, 3), np.float32)
    with pytest.raises(ValueError, match=r"of one shape, got \(16, 16, 3\) and \(16, 16, 1\)"):
        metric(image, image[..., :1])
    with pytest.raises(ValueError, match=r"got \(16, 16\)"):
        metric(image[..., 0], image[..., 0])
    with pytest.raises(ValueError, match=r"expected float images in .* got uint8"):
        metric(image.astype(np.uint8), image)


def test_ssim_of_a_small_image():
    with pytest.raises(ValueError, match=r"at least 11x11 pixels, got shape \(10, 16, 3\)"):
        metrics.ssim(np.zeros((10, 16, 3), np.float32), np.zeros((10, 16, 3), np.float32))


def test_lpips_of_its_authors_example():
    reference, *others = (read_image(DATA / f"lpips_{name}.png").pixels for name in ("ref", "p0", "p1"))
    images, references = np.stack([*others, reference]), np.stack(3 * [reference])
    expected = [0.7219, 0.1376, 0]
    for values in (metrics.lpips(images, references), jax.jit(metrics.lpips)(images, references)):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(jax.vmap(metrics.lpips)(images, references), expected, rtol=0, atol=1e-3)
    single = metrics.lpips(images[0], reference)
    assert single.shape == ()
    np.testing.assert_allclose(single, expected[0], rtol=0, atol=1e-3)


def test_lpips_of_small_and_of_grey_images():
    rng = np.random.default_rng(0)
    image, reference = rng.uniform(size=(2, 31, 33, 1)).astype(np.float32)
    value = metrics.lpips(image, reference)
    assert 0 < value < 2
    before = metrics._lpips._cache_size()
    np.testing.assert_allclose(metrics.lpips(reference, image), value, rtol=1e-4)
    assert metrics._lpips._cache_size() == before
    with pytest.raises(ValueError, match=r"at least 31x31 pixels with 1 or 3 channels, got shape \(30, 33, 1\)"):
        metrics.lpips(image[:30], reference[:30])
    with pytest.raises(ValueError, match=r"1 or 3 channels, got shape \(31, 33, 2\)"):
        metrics.lpips(image.repeat(2, -1), reference.repeat(2, -1))
