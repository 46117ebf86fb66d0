"""The way of a photograph: nobody's picture gets worse, and the command line does what the library does."""

import io
import types
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest

import hvae_jax as hj
from benchmarks.methods import admm_tv
from benchmarks.pipelines import photograph
from hvae_jax import cli, images
from hvae_jax.images import estimate_noise
from hvae_jax.images.light import to_display, to_linear
from hvae_jax.metrics import psnr
from hvae_jax.photographs import restoring, room, trials
from hvae_jax.photographs.checking import Noise
from hvae_jax.photographs.posing import enlarge, fit
from hvae_jax.photographs.sharpness import MOST_STEEP, WARY_STEEP, excess_of_sharpness, steepest_step

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def photo():
    return images.read_image(DATA / "chelsea256.png").pixels[60:188, 60:188]


def degraded(photo, kernel, sigma, seed=0):
    """Blurred by a kernel, with white noise, in 8 bits; and the clean picture."""
    scene = images.Image(photo, None, 8)
    y = hj.degrade_photograph(scene, "deblur", kernel=kernel, noise_std=sigma / 255, boundary="natural", seed=seed)
    reach = (len(photo) - len(y.pixels)) // 2
    clean = photo[reach : reach + len(y.pixels), reach : reach + len(y.pixels)]
    return np.rint(255 * np.clip(y.pixels, 0, 1)).astype(np.float32) / 255, clean


def as_jpeg(pixels, quality):
    file = io.BytesIO()
    PIL.Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


# A kernel that is not what blurred the picture


@pytest.mark.parametrize("kernel", ["gaussian:1.6", "gaussian:3", "disk:3", "motion:13,30"])
def test_edges_sharper_than_a_kernel_leaves_them(photo, kernel):
    matrix = images.parse_kernel(kernel)
    noisy = photo + 2 / 255 * np.random.default_rng(0).standard_normal(photo.shape).astype(np.float32)
    for sharp in (photo, noisy, images.read_image(io.BytesIO(as_jpeg(photo, 80))).pixels):
        assert excess_of_sharpness(sharp, matrix) > MOST_STEEP
        assert excess_of_sharpness(sharp, np.ones((1, 1), np.float32)) == 0
    blurred, _ = degraded(photo, kernel, 2)
    for right in (blurred, images.read_image(io.BytesIO(as_jpeg(blurred, 80))).pixels):
        assert excess_of_sharpness(right, matrix) < WARY_STEEP
    assert excess_of_sharpness(photo[:9, :9], matrix) == 0  # too small to say


def test_the_steepest_step_of_a_kernel():
    """Of a box the inverse of its width along its sides, of a line nothing is left along it, of a point all."""
    np.testing.assert_allclose(steepest_step(np.full((5, 5), 1 / 25))[[0, 8]], 1 / 5, rtol=1e-6)
    line = steepest_step(np.full((1, 9), 1 / 9))
    np.testing.assert_allclose(line[[0, 8]], [1 / 9, 1], rtol=1e-6)
    np.testing.assert_allclose(steepest_step(np.ones((1, 1)))[[0, 8]], 1)


def test_a_sharp_picture_is_left_as_it_was(photo):
    sharp = np.rint(255 * photo) / np.float32(255)
    done = hj.restore_photograph(sharp, "deblur", kernel="gaussian:2")
    np.testing.assert_array_equal(done.image.pixels, sharp)
    assert done.warnings == (
        "the picture has sharper edges than this kernel leaves any, so the kernel does not fit; "
        "the picture was left as it was",
    )


@pytest.mark.slow
def test_lights_in_a_small_picture(photo):
    """Where a pixel of low resolution is white, nothing says how bright the light was: not worse than interpolation."""
    scene = photo.astype(np.float64)
    for row, column in np.random.default_rng(0).integers(8, 120, (6, 2)):
        scene[row : row + 3, column : column + 3] = 6
    small = hj.degrade_photograph(images.Image(scene.astype(np.float32), None, 8), "sr", kernel="gaussian:2", factor=2)
    small = small._replace(pixels=np.rint(255 * small.pixels.clip(0, 1)) / np.float32(255))
    done = hj.restore_photograph(small, "sr", kernel="gaussian:2", factor=2)
    clean, restored, enlarged = (
        pixels.clip(0, 1).astype(np.float32)[12:-12, 12:-12]  # without the borders, which came from the other side
        for pixels in (scene, done.image.pixels, enlarge(small.pixels, 2))
    )
    assert psnr(restored, clean) > psnr(enlarged, clean) + 0.05
    assert "around lights brighter than white" in done.warnings[0]


# A blurred JPEG


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_blurred_jpeg_is_restored_from_its_coefficients(photo, orientation, monkeypatch):
    """Better than from its pixels; the kernel is that of the upright picture, whichever way its samples are stored."""
    kernel = np.triu(images.parse_kernel("disk:3"))  # looks the same from no two sides
    kernel /= kernel.sum()
    blurred, clean = degraded(photo, kernel, 1)
    stored = {1: blurred, 6: np.rot90(blurred)}[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    samples = np.rint(255 * stored).astype(np.uint8)
    PIL.Image.fromarray(samples).save(file, "JPEG", quality=85, exif=exif, subsampling=2)
    picture = images.read_image(file)
    assert picture.pixels.shape == blurred.shape

    done = hj.restore_photograph(picture, "deblur", kernel=kernel)
    monkeypatch.setattr(restoring, "pose_jpeg", lambda *args: None)
    by_pixels = hj.restore_photograph(picture, "deblur", kernel=kernel)
    gains = [float(psnr(one.image.pixels, clean) - psnr(picture.pixels, clean)) for one in (done, by_pixels)]
    assert gains[0] > gains[1] + 0.3 > 1


# Noise


@pytest.mark.parametrize("sigma", [1.0, 3.0, 8.0])
def test_white_noise_is_measured_where_the_kernel_passes_nothing(photo, sigma):
    y, _ = degraded(photo, "gaussian:2", sigma)
    found = estimate_noise(y, images.parse_kernel("gaussian:2"))
    assert 255 * found.std == pytest.approx(sigma, rel=0.15)
    assert found.source == "what the kernel does not pass"


def test_noise_that_is_not_white_is_not_underestimated(photo):
    """What is left of white noise after an average over neighbours, as of grain; the finest detail shows little."""
    kernel = images.parse_kernel("gaussian:2")
    y, _ = degraded(photo, "gaussian:2", 0)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(y.shape)
    noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))) / 2  # deviation 1
    grainy = (y + 5 / 255 * noise).astype(np.float32)
    assert 255 * images.estimate_noise_std(grainy) < 2
    assert 255 * estimate_noise(grainy, kernel).std > 5


def test_a_jpeg_tells_its_rounding(photo, tmp_path):
    y, _ = degraded(photo, "gaussian:2", 0)
    kernel = images.parse_kernel("gaussian:2")
    estimates = []
    for quality in (95, 60):
        (tmp_path / "y.jpg").write_bytes(as_jpeg(y, quality))
        picture = hj.read_photograph(tmp_path / "y.jpg")
        with PIL.Image.open(tmp_path / "y.jpg") as file:
            assert picture.quantisation.ravel().tolist() == list(file.quantization[0])
        estimates.append(255 * estimate_noise(picture.pixels, kernel, picture.quantisation).std)
    assert 3 <= estimates[0] < estimates[1]
    images.write_image(tmp_path / "y.png", y)
    assert hj.read_photograph(tmp_path / "y.png").quantisation is None


def test_estimates_refuse_integers():
    with pytest.raises(ValueError, match=r"floating-point numbers in \[0, 1\], got uint8"):
        images.estimate_noise_std(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"numbers in \[0, 1\], got uint8"):
        images.write_image("x.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"floating-point numbers in \[0, 1\], got uint8"):
        hj.restore_photograph(np.zeros((16, 16, 3), np.uint8), "denoise")


# Nobody's picture gets worse


@pytest.mark.slow
def test_a_blurred_jpeg_gains(photo, tmp_path):
    """Quality 92, blurred by gaussian:2: noise of half a grey level was estimated once, and 8 dB were lost."""
    y, clean = degraded(photo, "gaussian:2", 0)
    (tmp_path / "y.jpg").write_bytes(as_jpeg(y, 92))
    picture = hj.read_photograph(tmp_path / "y.jpg")
    done = hj.restore_photograph(picture, "deblur", kernel="gaussian:2")
    assert psnr(done.image.pixels, clean) > psnr(picture.pixels, clean) + 1
    assert "JPEG" in done.noise_source


@pytest.mark.slow
def test_a_blurred_grey_picture_gains(photo):
    """Its noise is the same in the three channels that the prior is shown; taken for less it lost 2.7 dB once."""
    y, clean = degraded(photo.mean(axis=-1, keepdims=True), "gaussian:2", 7.65)
    done = hj.restore_photograph(y, "deblur", kernel="gaussian:2")
    assert done.image.pixels.shape == clean.shape
    assert 255 * done.noise_std == pytest.approx(7.65, rel=0.15)  # what there is
    assert psnr(done.image.pixels, clean) > psnr(y, clean) + 1.5


@pytest.mark.parametrize(("grey", "sigma", "level"), [(True, 2, 6), (False, 2, 2), (True, 20, 50), (True, 60, 60)])
def test_the_noise_that_a_blurred_picture_is_restored_with(photo, monkeypatch, grey, sigma, level):
    levels = []

    def solve(prior, y, operator, noise_std, config):
        levels.append(255 * noise_std)
        return ended(y)

    monkeypatch.setattr(room, "restore", solve)
    monkeypatch.setattr(trials, "ringing", lambda *_: 0.0)
    picture = photo.mean(axis=-1, keepdims=True) if grey else photo
    done = hj.restore_photograph(picture, "deblur", kernel="gaussian:1", noise_std=sigma / 255)
    assert levels == pytest.approx([level] * len(levels))
    assert 255 * done.noise_std == pytest.approx(sigma)
    hj.restore_photograph(picture, "inpaint", mask=np.ones(photo.shape[:2]), noise_std=sigma / 255)
    assert levels[-1] == pytest.approx(sigma)

    def draw(prior, y, operator, noise_std, *_):
        levels.append(255 * noise_std)
        return types.SimpleNamespace(status=hj.Status.NOT_FINITE)

    monkeypatch.setattr(restoring, "sample_posterior", draw)  # how sure it is, is of the noise that it was solved with
    hj.restore_photograph(picture, "deblur", kernel="gaussian:1", noise_std=sigma / 255, uncertainty=jax.random.key(0))
    assert levels[-1] == pytest.approx(level)


@pytest.mark.slow
def test_weak_noise_is_left_where_the_prior_would_take_more(photo, monkeypatch):
    rng = np.random.default_rng(0)
    noisy = (photo + 1 / 255 * rng.standard_normal(photo.shape)).astype(np.float32)
    done = hj.restore_photograph(noisy, "denoise", noise_std=1 / 255)
    plain = hj.reconstruct(hj.load_prior(), noisy, noise_level=1 / 255)
    assert psnr(done.image.pixels, photo) > max(psnr(noisy, photo), psnr(plain, photo) - 0.05)
    # A prior that takes everything is not listened to.
    blank = np.full_like(noisy, 0.5)
    monkeypatch.setattr(room, "restore", lambda prior, y, *_: ended(np.full_like(y, 0.5)))
    assert np.abs(blank - noisy).mean() > 0.1
    done = hj.restore_photograph(noisy, "denoise", noise_std=1 / 255)
    assert np.abs(done.image.pixels - noisy).max() < 2 / 255


def test_lights_brighter_than_white_do_not_ring(photo):
    picture = photograph(photo, "lights", "disc", 0)
    done = hj.restore_photograph(picture.pixels, "deblur", kernel=picture.kernel)
    assert psnr(done.image.pixels, picture.clean) > psnr(picture.pixels, picture.clean)
    assert any("lights" in warning for warning in done.warnings)


@pytest.mark.slow
def test_too_little_noise_is_noticed(photo, monkeypatch):
    """More is tried where it was estimated; where it was given, a sentence says so."""
    y, clean = degraded(photo, "gaussian:2", 4)
    kernel = images.parse_kernel("gaussian:2")
    given = hj.restore_photograph(y, "deblur", kernel=kernel, noise_std=0.5 / 255)
    assert psnr(given.image.pixels, clean) < psnr(y, clean)
    assert any("more noise" in warning for warning in given.warnings)

    attempts = []
    monkeypatch.setattr(room, "restore", counted(room.restore, attempts))
    monkeypatch.setattr(restoring, "noise_of", lambda *_: Noise(0.5 / 255, "a guess", None))
    done = hj.restore_photograph(y, "deblur", kernel=kernel)
    assert len(attempts) > 1
    assert any("oscillated" in warning for warning in done.warnings)
    assert psnr(done.image.pixels, clean) > psnr(y, clean)


@pytest.mark.slow
def test_noise_that_a_jpeg_hides_does_no_harm(photo):
    y, clean = degraded(photo[:96, :96], "disk:4", 8)
    shown = hj.read_photograph(io.BytesIO(as_jpeg(y, 90)))
    done = hj.restore_photograph(shown, "deblur", kernel="disk:4")
    assert psnr(done.image.pixels, clean) > psnr(shown.pixels, clean) + 0.5


def test_what_cannot_be_restored_is_left_as_it_was(photo, monkeypatch):
    monkeypatch.setattr(trials, "ringing", lambda *_: 9.0)
    done = hj.restore_photograph(photo, "deblur", kernel="gaussian:2")
    np.testing.assert_array_equal(done.image.pixels, photo)
    assert any("left as it was" in warning for warning in done.warnings)
    assert done.left
    assert done.in_words(1.0) == "left as it was, 1.0 s"


def ended(x):
    """A restoration that gave x."""
    return hj.Restoration(x, x, x, iterations=1, residual=0.0, status=hj.Status.COMPLETED, history=None)


def counted(function, calls):
    def count(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    return count


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reduced_pixels_lie_at_the_centre_of_their_cells(photo, factor):
    """A linear ramp, blurred and reduced, has the values of the cells' centres; at the corner those of the corners."""
    side = 24 * factor
    ramp = np.broadcast_to(np.arange(side, dtype=np.float32)[:, None, None] / side, (side, side, 3))
    middle = slice(6, -6)
    for align, at in (("center", (factor - 1) / 2), ("corner", 0.0)):
        y = hj.degrade_photograph(
            images.Image(ramp, None, 32), "sr", kernel="gaussian:1.6", factor=factor, align=align
        ).pixels
        expected = (factor * np.arange(24) + at) / side
        np.testing.assert_allclose(y[middle, 12, 0], expected[middle], atol=2e-3 / factor)


# The command line adds nothing


def test_the_command_line_gives_what_the_library_gives(photo, tmp_path, monkeypatch):
    """Bit for bit; each picture is decoded once, and the kernel parsed once."""
    y, _ = degraded(photo, "gaussian:1.6", 3)
    files = [tmp_path / "in" / f"{i}.png" for i in range(2)]
    for i, file in enumerate(files):
        images.write_image(file, np.roll(y, i, axis=1))
    done = hj.restore_photograph(hj.read_photograph(files[1]), "deblur", kernel="gaussian:1.6")
    hj.write_photograph(tmp_path / "library.png", done.image)

    decoded, parsed = [], []
    monkeypatch.setattr(hj, "read_photograph", counted(hj.read_photograph, decoded))
    monkeypatch.setattr(images, "read_kernel", counted(images.read_kernel, parsed))
    options = ["--task", "deblur", "--kernel", "gaussian:1.6"]
    assert cli.main(["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options]) == 0
    assert (tmp_path / "out" / "1.png").read_bytes() == (tmp_path / "library.png").read_bytes()
    assert len(decoded) == 2
    assert len(parsed) == 1


def test_strict_and_quality(photo, tmp_path, capsys):
    y, _ = degraded(photo, "gaussian:2", 4)
    images.write_image(tmp_path / "y.png", y)
    command = ["restore", str(tmp_path / "y.png"), "--task", "deblur", "--kernel", "gaussian:2", "--noise-std", "0.5"]
    options = ["--out", str(tmp_path / "x.png"), "--overwrite", "--quality", "fast"]
    assert cli.main([*command, *options]) == 0
    assert "y.png: the restoration oscillates" in capsys.readouterr().err
    assert cli.main([*command, *options, "--strict"]) == 1
    assert cli.main([*command, *options[:-1], "superb"]) == 2
    assert "expected a quality of fast, default, best, got 'superb'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "sharpen"}, "expected a task of deblur, sr, inpaint, denoise, jpeg, got 'sharpen'"),
        ({"task": "deblur"}, r'expected a kernel for the task deblur \(or "estimate"\), got none'),
        ({"task": "sr", "factor": 1}, "a whole number from 2 to 64, got 1"),
        ({"task": "sr", "factor": 10**6}, "a whole number from 2 to 64, got 1000000"),
        ({"task": "denoise", "noise_std": 5.0}, "from 0 to 1, the images' unit, got 5"),
        ({"task": "denoise", "boundary": "open"}, "boundary natural or circular, got 'open'"),
        ({"task": "denoise", "sharpness": 3}, "expected settings of .*, got 'sharpness'"),
        ({"task": "inpaint", "mask": np.zeros((16, 16))}, "a mask .* with observed pixels"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        hj.restore_photograph(np.full((16, 16, 3), 0.5, np.float32), **arguments)


@pytest.mark.parametrize("quality", [10, *(pytest.param(q, marks=pytest.mark.slow) for q in (20, 40))])
def test_artefacts_of_a_jpeg_are_removed(photo, tmp_path, quality):
    """At least 0.3 dB above the file and above total variation at its best; grey and turned ones too."""
    file = tmp_path / "a.jpg"
    PIL.Image.fromarray(np.rint(255 * photo).astype(np.uint8)).save(file, quality=quality)
    picture = hj.read_photograph(file)
    done = hj.restore_photograph(picture, "denoise")  # auto
    gained = psnr(np.clip(done.image.pixels, 0, 1), photo) - psnr(picture.pixels, photo)
    by_tv = max(
        psnr(np.asarray(admm_tv(picture.pixels[None], hj.operators.Denoising(), sigma / 255)[0]), photo)
        for sigma in (1, 2, 4, 8)
    )
    assert gained > 0.3
    assert psnr(done.image.pixels, photo) > by_tv + 0.3
    assert done.noise_source.endswith("the JPEG's quantisation")
    if quality == 20:
        grey, exif = PIL.Image.fromarray(np.rint(255 * photo[..., 1]).astype(np.uint8)), PIL.Image.Exif()
        exif[0x0112] = 6
        grey.save(tmp_path / "grey.jpg", quality=quality, exif=exif)
        turned = hj.read_photograph(tmp_path / "grey.jpg")
        better = hj.restore_photograph(turned, "jpeg").image.pixels
        clean = np.rot90(photo[..., 1:2], -1)
        assert psnr(better, clean) > psnr(turned.pixels, clean) + 0.3


@pytest.mark.slow
def test_coefficients_are_used_of_the_picture_that_was_read(photo, tmp_path):
    """Not where its pixels were cut or are of another range since, or the noise is more than its file tells."""
    PIL.Image.fromarray(np.rint(255 * photo).astype(np.uint8)).save(tmp_path / "a.jpg", quality=30)
    picture = hj.read_photograph(tmp_path / "a.jpg")
    cut = picture._replace(pixels=picture.pixels[:64, :96])
    assert hj.restore_photograph(cut, "denoise").image.pixels.shape == (64, 96, 3)
    half, gain = ({"value_range": (0.0, 0.5)}, {"noise_gain": 0.001})
    for options in (half, gain):
        done = hj.restore_photograph(picture, "denoise", **options)
        assert psnr(done.image.pixels, photo) > psnr(picture.pixels, photo) - 0.5
    assert hj.restore_photograph(picture, "denoise").noise_source.endswith("and the JPEG's quantisation")


def test_missing_pixels_are_resized_too(photo):
    missing = np.zeros(photo.shape[:2], bool)
    missing[:, :64] = True
    small = fit(images.Image(photo, None, 32, missing=missing), 32)
    assert small.missing.shape == (32, 32)
    assert small.missing[:, :15].all()
    assert not small.missing[:, 18:].any()


@pytest.mark.slow
def test_hidden_and_missing_pixels_are_no_black(photo):
    """Under alpha 0 a picture is black: next to it the result is as good as if it were not; NaN is filled."""
    kernel = images.parse_kernel("gaussian:1.5")
    y, clean = degraded(photo, kernel, 1)
    alpha = np.ones((*y.shape[:2], 1), np.float32)
    alpha[:, :30] = 0
    cut = np.where(alpha > 0, y, 0).astype(np.float32)
    whole, done = (
        hj.restore_photograph(images.Image(pixels, opacity, 8), "deblur", kernel=kernel, noise_std=1 / 255)
        for pixels, opacity in ((y, None), (cut, alpha))
    )
    edge = np.s_[:, 36:46]
    assert psnr(done.image.pixels[edge], clean[edge]) > psnr(whole.image.pixels[edge], clean[edge]) - 2
    assert (done.image.pixels[:, :26] == 0).all()
    missing = np.zeros(y.shape[:2], bool)
    missing[40:44, 50:54] = True
    holed = images.Image(np.where(missing[..., None], 0, y).astype(np.float32), None, 32, missing=missing)
    filled = hj.restore_photograph(holed, "denoise", noise_std=1 / 255)
    np.testing.assert_allclose(filled.image.pixels[missing], y[missing], atol=0.15)
    assert filled.warnings == ("16 missing pixels (NaN) were filled",)


def test_values_of_another_range_come_back(photo):
    y, _ = degraded(photo, images.parse_kernel("gaussian:1.5"), 2)
    plain = hj.restore_photograph(y, "denoise", noise_std=5 / 255)
    for given in ((0.0, 1000.0), None):
        done = hj.restore_photograph(1000 * y, "denoise", noise_std=5 / 255, value_range=given)
        if given:
            np.testing.assert_allclose(done.image.pixels / 1000, plain.image.pixels, atol=1e-4)
            assert done.warnings == ()
        else:
            assert "the values were taken to reach from 0 to" in done.warnings[0]
            assert psnr(done.image.pixels / 1000, plain.image.pixels) > 40
    with pytest.raises(ValueError, match="the lower first, got 1 and 0"):
        hj.restore_photograph(y, "denoise", value_range=(1.0, 0.0))


@pytest.mark.slow
def test_noise_of_its_own_for_each_channel_and_pixel(photo):
    rng = np.random.default_rng(0)
    sigma = np.array([2, 2, 20]) / 255
    y = (photo + sigma * rng.standard_normal(photo.shape)).astype(np.float32)
    done = hj.restore_photograph(y, "denoise")
    assert done.noise_source.endswith("by channel")
    same = hj.restore_photograph(y, "denoise", noise_std=float(np.sqrt(np.mean(sigma**2))))
    assert psnr(done.image.pixels, photo) > psnr(same.image.pixels, photo) + 1
    level = np.full(photo.shape[:2], 2 / 255)
    level[:, 64:] = 20 / 255
    y = (photo + level[..., None] * rng.standard_normal(photo.shape)).astype(np.float32)
    known, guess = (hj.restore_photograph(y, "denoise", noise_std=s).image.pixels for s in (level, 14.2 / 255))
    assert psnr(known, photo) > psnr(guess, photo) + 1
    with pytest.raises(ValueError, match=r"a number or of the image's shape \(128, 128\)"):
        hj.restore_photograph(y, "denoise", noise_std=level[:5])
    gain = 0.004
    y = (photo + np.sqrt(gain * photo) * rng.standard_normal(photo.shape)).astype(np.float32)
    done = hj.restore_photograph(y, "denoise", noise_std=0.001, noise_gain=gain)
    assert psnr(done.image.pixels, photo) > psnr(y, photo) + 4


@pytest.mark.slow
def test_blur_of_light(photo):
    """A camera blurs light: undone in light it is better than in samples."""
    light = images.Image(to_linear(photo), None, 8)
    y = to_display(hj.degrade_photograph(light, "deblur", kernel="disk:3", boundary="natural").pixels)
    y = np.rint(255 * y + 2 * np.random.default_rng(0).standard_normal(y.shape)).clip(0, 255).astype(np.float32) / 255
    clean = photo[3:-3, 3:-3]
    gains = {
        how: psnr(
            hj.restore_photograph(images.Image(y, None, 8), "deblur", kernel="disk:3", light=how).image.pixels, clean
        )
        - psnr(y, clean)
        for how in ("display", "linear")
    }
    assert gains["linear"] > gains["display"] > 0.5
    values = np.linspace(-0.2, 1.4, 99, dtype=np.float32)
    np.testing.assert_allclose(to_display(to_linear(values)), values, atol=1e-5)
