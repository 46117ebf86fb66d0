"""Files in and out, borders, noise, kernels and masks."""

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import png
import pytest
import tifffile

from hvae_jax import images
from hvae_jax.images import ImageError, borders

PHOTO = Path(__file__).parent / "data" / "chelsea256.png"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def photo():
    return images.read_image(PHOTO).pixels


def circular_blur(image, kernel):
    """Reference: the sum over shifts, true convolution with centre size // 2."""
    out = np.zeros(image.shape, np.float64)
    for i, j in np.argwhere(kernel):
        out += kernel[i, j] * np.roll(image, (i - kernel.shape[0] // 2, j - kernel.shape[1] // 2), (0, 1))
    return out


# Files


@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "bit_depth", "read_depth"),
    [
        *[(".png", 8, 8), (".png", 16, 16), (".PNG", 32, 16), (".jpg", 8, 8), (".jpeg", 16, 8)],
        *[(".tif", 8, 8), (".tiff", 16, 16), (".tif", 32, 32), (".npy", 8, 32), (".npy", 32, 32)],
    ],
)
def test_round_trip(tmp_path, rng, suffix, bit_depth, read_depth, channels, with_alpha):
    path = tmp_path / f"picture{suffix}"
    # Smooth, for JPEG; beyond [0, 1], which only float files keep.
    ramp = np.linspace(-0.1, 1.1, 21)[:, None, None] + np.linspace(0, 0.1, 13)[:, None]
    pixels = (ramp + 0.02 * np.arange(channels)).astype(np.float32)
    alpha = rng.random((21, 13, 1), np.float32) if with_alpha else None
    images.write_image(path, pixels, bit_depth=bit_depth, alpha=alpha)
    back = images.read_image(path)

    lossy = suffix.startswith(".jp")
    assert back.bit_depth == read_depth
    assert back.pixels.dtype == np.float32
    step = 0.5 / (2**read_depth - 1) + 1e-7 if read_depth < 32 else 0
    expected = pixels if read_depth == 32 else pixels.clip(0, 1)
    np.testing.assert_allclose(back.pixels, expected, rtol=0, atol=0.02 if lossy else step)
    if with_alpha and not lossy:
        np.testing.assert_allclose(back.alpha, alpha, rtol=0, atol=step)
    else:
        assert back.alpha is None
    # What was read is written back without loss, whatever the depth.
    if not lossy:
        images.write_image(path, back.pixels, bit_depth=back.bit_depth, alpha=back.alpha, overwrite=True)
        np.testing.assert_array_equal(images.read_image(path).pixels, back.pixels)


def test_sixteen_bits_are_kept(tmp_path, rng):
    """Against independent encoders, interlaced and with a colour key; not the upper byte only."""
    samples = rng.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    for interlace in (False, True):
        with open(tmp_path / "a.png", "wb") as file:
            png.Writer(7, 5, greyscale=False, bitdepth=16, interlace=interlace).write_array(file, samples.ravel())
        image = images.read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(np.rint(image.pixels * 65535), samples)
        assert image.bit_depth == 16
    with open(tmp_path / "key.png", "wb") as file:
        writer = png.Writer(7, 5, greyscale=False, bitdepth=16, transparent=tuple(map(int, samples[0, 0])))
        writer.write(file, samples.reshape(5, -1))
    alpha = images.read_image(tmp_path / "key.png").alpha
    assert alpha[0, 0, 0] == 0
    assert alpha.sum() == 34
    for planar in ("contig", "separate"):
        data = samples if planar == "contig" else np.moveaxis(samples, -1, 0)
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig=planar, compression="zlib")
        np.testing.assert_array_equal(np.rint(images.read_image(tmp_path / "a.tif").pixels * 65535), samples)
    tifffile.imwrite(tmp_path / "white.tif", samples[..., 0], photometric="miniswhite")
    np.testing.assert_allclose(
        images.read_image(tmp_path / "white.tif").pixels[..., 0], 1 - samples[..., 0] / 65535, atol=1e-6
    )


def test_files_of_other_programs(tmp_path):
    """Palettes with and without transparency, 1 bit, CMYK, a wrong suffix, and NPY of other types."""
    grid = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    rgb = np.stack([grid, grid[::-1], grid.T.reshape(6, 8)], -1)
    colour = PIL.Image.fromarray(rgb)
    expected = rgb / np.float32(255)

    palette = colour.quantize(48)
    palette.save(tmp_path / "palette.png")
    image = images.read_image(tmp_path / "palette.png")
    np.testing.assert_allclose(image.pixels, np.asarray(palette.convert("RGB")) / 255, atol=1e-6)
    assert image.alpha is None
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    assert images.read_image(tmp_path / "clear.png").alpha[0, 0, 0] == 0

    colour.save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_allclose(images.read_image(tmp_path / "lzw.tif").pixels, expected, atol=1e-6)

    PIL.Image.fromarray(grid > 100).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "bit.png").pixels[..., 0], grid > 100)

    flat = PIL.Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    flat.save(tmp_path / "cmyk.jpg", quality=95)
    np.testing.assert_allclose(images.read_image(tmp_path / "cmyk.jpg").pixels[0, 0], (0, 1, 1), atol=0.02)

    colour.save(tmp_path / "really_png.jpg", format="PNG")
    np.testing.assert_allclose(images.read_image(tmp_path / "really_png.jpg").pixels, expected, atol=1e-6)

    for array in (rgb, rgb.astype(np.uint16) * 257, expected.astype(np.float64)):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_allclose(images.read_image(tmp_path / "a.npy").pixels, expected, atol=1e-6)
    np.save(tmp_path / "a.npy", expected[..., :2])
    image = images.read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(image.pixels, expected[..., :1])
    np.testing.assert_array_equal(image.alpha, expected[..., 1:2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    """Upright whatever the camera wrote; Pillow's own transposition is the reference."""
    stored = np.zeros((16, 24), np.uint8)
    stored[:8, :8] = 255  # one bright corner tells all eight apart
    stored[:8, 8:16] = 128
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = PIL.Image.fromarray(stored)
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image.save(tmp_path / "a.png", exif=exif)
    with PIL.Image.open(tmp_path / "a.png") as saved:
        expected = np.asarray(PIL.ImageOps.exif_transpose(saved), np.float32) / 255
    tag = [(0x0112, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=tag)
    tifffile.imwrite(tmp_path / "b.tif", stored.astype(np.float32) / 255, extratags=tag)
    for name in ("a.jpg", "a.png", "a.tif", "b.tif"):
        pixels = images.read_image(tmp_path / name).pixels[..., 0]
        assert pixels.shape == expected.shape, name
        np.testing.assert_allclose(pixels, expected, atol=0.03, err_msg=name)

    # 16-bit PNG: the eXIf chunk, put in by hand after the header.
    buffer = io.BytesIO()
    png.Writer(24, 16, greyscale=True, bitdepth=16).write(buffer, stored.astype(np.uint16) * 257)
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    content = buffer.getvalue()
    (tmp_path / "c.png").write_bytes(content[:33] + chunk + content[33:])
    np.testing.assert_allclose(images.read_image(tmp_path / "c.png").pixels[..., 0], expected, atol=1e-6)


def test_unreadable_files(tmp_path, rng):
    noise = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    picture = PIL.Image.fromarray(noise)

    def check(name, match):
        with pytest.raises(ImageError, match=match) as caught:
            images.read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)

    check("missing.png", "there is none")
    (tmp_path / "folder.png").mkdir()
    check("folder.png", "got a folder")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    check("a.gif", "expected a file name ending in .png")
    (tmp_path / "none").write_bytes(b"")
    check("none", "no ending")
    for suffix in ("npy", "tif", "png"):
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        check(f"empty.{suffix}", "expected an? (readable )?image")
    (tmp_path / "text.jpg").write_text("not a picture")
    check("text.jpg", "expected an image, got another or a damaged file")
    for suffix in ("png", "jpg", "tif", "npy"):
        images.write_image(tmp_path / f"whole.{suffix}", noise / 255)
    images.write_image(tmp_path / "deep.png", noise / 255, bit_depth=16)
    images.write_image(tmp_path / "deep.tif", noise / 255, bit_depth=16)
    for whole in ("whole.png", "whole.jpg", "whole.tif", "whole.npy", "deep.png", "deep.tif"):
        content = (tmp_path / whole).read_bytes()
        (tmp_path / f"cut_{whole}").write_bytes(content[: len(content) // 2])
        check(f"cut_{whole}", "expected a readable image")

    picture.save(tmp_path / "anim.png", save_all=True, append_images=[picture.rotate(90)])
    check("anim.png", "animation")
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([noise, noise]), photometric="rgb")
    check("pages.tif", "one page, got 2")
    for array, match in [
        (np.zeros((2, 3, 4, 3)), "got a stack of 2; give --pages"),
        (np.zeros((4, 5, 6)), r"got \(4, 5, 6\)"),
        (np.zeros((0, 5)), r"got \(0, 5\)"),
        (np.zeros((4, 5), np.int32), "got int32"),
        (np.zeros((4, 5), complex), "got complex128"),
        (np.full((4, 5), np.nan), "only NaN"),
        (np.full((4, 5), 1e300), "finite"),
    ]:
        np.save(tmp_path / "bad.npy", array)
        check("bad.npy", match)
    with open(tmp_path / "archive.npy", "wb") as file:
        np.savez(file, a=noise)
    check("archive.npy", "expected a readable image")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    check("object.npy", "allow_pickle")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy"])
@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("existing", [False, True])
def test_failed_write_leaves_nothing(tmp_path, monkeypatch, name, broken, existing):
    if existing:
        (tmp_path / name).write_bytes(b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(ImageError, match="No space left on device"):
        images.write_image(tmp_path / name, np.zeros((8, 8, 3)), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ([name] if existing else [])
    if existing:
        assert (tmp_path / name).read_bytes() == b"before"

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, broken, interrupt)
    with pytest.raises(KeyboardInterrupt):
        images.write_image(tmp_path / name, np.zeros((8, 8, 3)), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ([name] if existing else [])


def test_refused_writes(tmp_path):
    black = np.zeros((4, 4, 3))
    target = tmp_path / "new" / "folder" / "a.png"
    images.check_writable(target)
    assert not target.parent.exists()
    images.write_image(target, black)
    with pytest.raises(ImageError, match="exists and overwriting"):
        images.write_image(target, black)
    with pytest.raises(ImageError, match="exists and overwriting"):
        images.check_writable(target)
    images.check_writable(target, overwrite=True)
    images.write_image(target, black + 1, overwrite=True)
    assert images.read_image(target).pixels.min() == 1
    assert os.stat(target).st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(ImageError, match="expected a folder that can be written"):
        images.check_writable(target / "a.png")
    with pytest.raises(ImageError, match="ending in"):
        images.check_writable(tmp_path / "a.gif")
    (tmp_path / "f.png").mkdir()
    with pytest.raises(ImageError, match="got a folder"):
        images.check_writable(tmp_path / "f.png", overwrite=True)
    for pixels, options, match in [
        (np.zeros((4, 4, 2)), {}, r"got \(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3)), {}, r"got \(2, 4, 4, 3\)"),
        (np.full((4, 4), np.inf), {}, "finite"),
        (black, {"alpha": np.zeros((3, 4))}, r"alpha of shape \(4, 4\), got \(3, 4\)"),
        (black, {"bit_depth": 12}, "8, 16 or 32, got 12"),
    ]:
        with pytest.raises(ImageError, match=match):
            images.write_image(tmp_path / "b.png", pixels, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.png", "new"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_list_images(tmp_path):
    for name in ("b.png", "a.JPG", "c.npy", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.png").touch()
    assert [p.name for p in images.list_images(tmp_path)] == ["a.JPG", "b.png", "c.npy"]
    assert images.list_images(str(tmp_path / "b.png")) == [tmp_path / "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="found none"):
        images.list_images(tmp_path / "empty")
    with pytest.raises(ImageError, match="there is none"):
        images.list_images(tmp_path / "nowhere")


def test_read_mask(tmp_path, rng):
    mask = rng.random((6, 7)) > 0.4
    PIL.Image.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(images.read_mask(tmp_path / "m.png"), mask)
    images.write_image(tmp_path / "rgb.png", np.repeat(mask[..., None], 3, -1))
    assert images.read_mask(tmp_path / "rgb.png").shape == (6, 7)
    channels = rng.random((6, 7, 3)) > 0.4
    np.save(tmp_path / "m.npy", channels)
    np.testing.assert_array_equal(images.read_mask(tmp_path / "m.npy"), channels)
    images.write_image(tmp_path / "none.png", np.zeros((6, 7)))
    with pytest.raises(ImageError, match="observed"):
        images.read_mask(tmp_path / "none.png")
    images.write_image(tmp_path / "all.png", np.ones((6, 7)))
    with pytest.raises(ImageError, match="missing"):
        images.read_mask(tmp_path / "all.png")
    np.testing.assert_array_equal(images.read_mask(tmp_path / "m.png", invert=True), ~mask)
    PIL.Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "01.png")  # of 255
    np.testing.assert_array_equal(images.read_mask(tmp_path / "01.png"), mask)
    images.write_image(tmp_path / "alpha.png", np.zeros((6, 7)), alpha=mask.astype(float))
    np.testing.assert_array_equal(images.read_mask(tmp_path / "alpha.png"), mask)


@pytest.mark.parametrize("kind", ["objects", "text", "random50", "random80", "boxes"])
def test_made_masks(kind):
    mask = images.make_mask(kind, 256, 0)
    np.testing.assert_array_equal(mask, images.make_mask(kind, 256, 0))
    assert set(np.unique(mask)) == {0, 1}
    random = {"random50": (0.48, 0.52), "random80": (0.78, 0.82)}
    low, high = {"objects": (0.01, 0.15), "boxes": (0.03, 0.15), "text": (0.03, 0.3), **random}[kind]
    assert low < 1 - mask.mean() < high


def test_mask_of_no_kind():
    with pytest.raises(ValueError, match=r"expected a mask 'objects', .*, got 'random5'"):
        images.make_mask("random5", 8, 0)


def test_middle_squares(tmp_path, rng):
    (tmp_path / "photos").mkdir()
    (tmp_path / "lists").mkdir()
    colour, grey = rng.integers(0, 256, (9, 12, 3), np.uint8), rng.integers(0, 256, (8, 8), np.uint8)
    images.write_image(tmp_path / "photos" / "a photo.png", colour / 255)
    images.write_image(tmp_path / "photos" / "b.png", grey / 255)
    found = images.read_squares(tmp_path / "photos", 6)
    assert (found.names, found.source) == (("a photo", "b"), "2 of photos, the middle 6x6 pixels")
    assert found.pixels.shape == (2, 6, 6, 3)
    np.testing.assert_allclose(found.pixels[0], colour[1:7, 3:9] / 255, atol=1e-6)
    np.testing.assert_allclose(found.pixels[1], np.repeat(grey[1:7, 1:7, None], 3, axis=2) / 255, atol=1e-6)

    names = tmp_path / "lists" / "few.txt"
    names.write_text("photos/b.png\n\nphotos/a photo.png\n")
    listed = images.read_squares(names, 6)
    assert listed.names == ("b", "a photo")
    np.testing.assert_array_equal(listed.pixels[::-1], found.pixels)
    assert images.read_squares(names, 6, 1).names == ("b",)
    assert len({squares.digest for squares in (found, listed, images.read_squares(names, 6, 1))}) == 3

    with pytest.raises(ImageError, match=r"a photo.png: expected at least 10x10 pixels, got 9x12"):
        images.read_squares(tmp_path / "photos", 10)
    names.write_text("\n")
    with pytest.raises(ImageError, match=r"few.txt: expected a list of images, one path a line, found none"):
        images.read_squares(names, 6)


def test_kernels_of_a_file(tmp_path):
    file = tmp_path / "kernels.npz"
    np.savez(file, wide=np.ones((1, 4)), tall=np.ones((2, 1)))
    assert list(images.read_kernels(file)) == ["wide", "tall"]
    kernels = images.read_kernels(file, ["tall", "wide"])
    assert list(kernels) == ["tall", "wide"]
    np.testing.assert_array_equal(kernels["wide"], np.full((1, 4), 0.25, np.float32))
    with pytest.raises(ImageError, match=r"kernels.npz: expected kernels named tall, k1, got none named k1"):
        images.read_kernels(file, ["tall", "k1"])
    (tmp_path / "broken.npz").write_bytes(file.read_bytes()[:60])
    np.save(tmp_path / "one.npy", np.ones((3, 3)))
    for name in ("broken.npz", "one.npy"):
        with pytest.raises(ImageError, match=f"{name}: expected an .npz file of kernels"):
            images.read_kernels(tmp_path / name)
    with pytest.raises(ImageError, match=r"none.npz: expected a file, but there is none"):
        images.read_kernels(tmp_path / "none.npz")


# Borders


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 50, 3), (16, 32, 1), (2, 17, 5, 3)])
@pytest.mark.parametrize("multiple", [1, 16])
def test_padding_and_extension_of_any_size(rng, shape, multiple):
    image = rng.random(shape, np.float32)
    extensions = [
        images.pad_to_multiple(image, multiple),
        images.extend_periodic(image, 0, multiple),
        images.extend_periodic(image, 9, multiple),
        images.extend_periodic(image, 9, multiple, np.full((3, 4), 1 / 12)),
    ]
    for number, (larger, box) in enumerate(extensions):
        assert larger.dtype == np.float32
        assert np.isfinite(larger).all()
        for size, before in zip(larger.shape[-3:-1], shape[-3:-1], strict=True):
            assert size % multiple == 0
            assert 0 <= size - before - (18 if number > 1 else 0) < multiple
        np.testing.assert_array_equal(images.crop(larger, box), image)
    larger, box = images.extend_periodic(image, 9, multiple, rounded_to=24)
    assert larger.shape[-3] % 24 == larger.shape[-2] % 24 == larger.shape[-3] % multiple == 0
    assert box == extensions[2][1], "more at the bottom and right"
    np.testing.assert_array_equal(images.crop(larger, box), image)
    if len(shape) == 4:  # a batch is extended one by one
        single = images.extend_periodic(image[1], 9, multiple)[0]
        np.testing.assert_allclose(extensions[2][0][1], single, atol=1e-5)


def test_extension_has_no_jump(photo):
    """Across the wrap the extended picture is as smooth as inside, with and without the kernel."""
    kernel = images.parse_kernel("gaussian:2")
    blurred = circular_blur(photo, kernel)[8:-8, 8:-60].astype(np.float32)

    def largest_step(image, axis):
        return np.abs(image - np.roll(image, 1, axis)).max()

    inside = [np.abs(np.diff(blurred, axis=axis)).max() for axis in (0, 1)]
    assert max(largest_step(blurred, axis) / inside[axis] for axis in (0, 1)) > 3  # the test can fail
    for known in (kernel, None):
        extended, _ = images.extend_periodic(blurred, 16, 16, known)
        for axis in (0, 1):
            assert largest_step(extended, axis) < 1.2 * inside[axis]
            np.testing.assert_allclose(extended.mean((0, 1)), blurred.mean((0, 1)), atol=0.05)  # nothing runs away
    constant = np.full((20, 30, 3), 0.3, np.float32)
    np.testing.assert_allclose(images.extend_periodic(constant, 8, 16, kernel)[0], 0.3, atol=1e-6)


def test_extension_stops_ringing(photo, rng, monkeypatch):
    """A circular deconvolution of a photograph: hopeless as it is, good at the border too if extended."""
    kernel = images.parse_kernel("motion:13,30")
    blurred = circular_blur(photo, kernel)[16:-16, 16:-16]
    blurred = (blurred + rng.normal(0, 2.55 / 255, blurred.shape)).astype(np.float32)
    truth = photo[16:-16, 16:-16]

    def deconvolve(image):
        impulse = np.zeros((*image.shape[:2], 1))
        impulse[0, 0] = 1
        blur = np.fft.fft2(circular_blur(impulse, kernel), axes=(0, 1))
        frequency = [2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(n)) for n in image.shape[:2]]
        penalty = 5e-3 * (frequency[0][:, None] + frequency[1])[..., None]
        spectrum = np.conj(blur) * np.fft.fft2(image, axes=(0, 1)) / (np.abs(blur) ** 2 + penalty)
        return np.fft.ifft2(spectrum, axes=(0, 1)).real

    def border_psnr(image):
        error = (image.clip(0, 1) - truth) ** 2
        error[24:-24, 24:-24] = np.nan
        return -10 * np.log10(np.nanmean(error))

    psnr = {"circular": border_psnr(deconvolve(blurred))}
    for name, known in (("blind", None), ("kernel", kernel)):
        extended, box = images.extend_periodic(blurred, 16, 16, known)
        psnr[name] = border_psnr(images.crop(deconvolve(extended), box))
    assert psnr["blind"] > psnr["circular"] + 3, psnr
    assert psnr["kernel"] > psnr["blind"] + 0.2, psnr
    assert psnr["kernel"] > 27, psnr
    # A large picture's extension is computed from what is near its borders.
    monkeypatch.setattr(borders, "LARGEST_EXTENDED", 0)
    monkeypatch.setattr(borders, "BAND", 64)
    extended, box = images.extend_periodic(blurred, 16, 16, kernel)
    np.testing.assert_array_equal(images.crop(extended, box), blurred)
    assert border_psnr(images.crop(deconvolve(extended), box)) > psnr["kernel"] - 0.2


def test_fit_square_averages_the_middle():
    image = np.random.default_rng(0).random((8, 12, 3)).astype(np.float32)
    middle = image[:, 2:10]
    np.testing.assert_array_equal(images.fit_square(image, 8), middle)
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[:, None, None], (64, 64, 3))
    np.testing.assert_allclose(
        images.fit_square(ramp, 16)[2:-2], ramp.reshape(16, 4, 64, 3).mean(1)[2:-2, :16], atol=1e-6
    )
    checks = (np.indices((64, 64)).sum(0) % 2)[..., None].astype(np.float32)  # no aliasing
    np.testing.assert_allclose(images.fit_square(checks, 16)[2:-2, 2:-2], 0.5, atol=0.01)
    assert images.fit_square(image[..., :1], 20).shape == (20, 20, 1)


def test_border_arguments_are_checked():
    image = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="side of at least 1, got 0"):
        images.fit_square(image, 0)
    with pytest.raises(ValueError, match=r"got shape \(8, 8\)"):
        images.pad_to_multiple(image[..., 0], 4)
    with pytest.raises(ValueError, match="multiple of at least 1, got 0"):
        images.extend_periodic(image, 2, 0)
    with pytest.raises(ValueError, match="margin of at least 0, got -1"):
        images.extend_periodic(image, -1, 4)
    with pytest.raises(ValueError, match=r"at most \(12, 12\), got \(13, 1\)"):
        images.extend_periodic(image, 2, 4, np.ones((13, 1)))


# Noise


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [2.55, 7.65, 12.75, 25.0])
@pytest.mark.parametrize("kernel", ["gaussian:1.2", "motion:9,45"])
def test_noise_estimate(photo, rng, kernel, level, channels):
    bright = 1.3 * photo[..., :channels]  # a good part of it saturated
    noisy = circular_blur(bright, images.parse_kernel(kernel)) + rng.normal(0, level / 255, bright.shape)
    assert images.estimate_noise_std(noisy) * 255 == pytest.approx(level, rel=0.1)
    stored = np.rint(noisy.clip(0, 1) * 255).astype(np.float32) / np.float32(255)
    assert images.estimate_noise_std(stored) * 255 == pytest.approx(level, rel=0.2)


def test_noise_estimate_of_degenerate_pictures(photo):
    assert images.estimate_noise_std(np.ones((9, 9, 3), np.float32)) == 0
    assert images.estimate_noise_std(np.full((9, 9, 1), 0.5, np.float32)) == 0
    assert images.estimate_noise_std(photo) < 2 / 255
    with pytest.raises(ValueError, match="at least 5x5"):
        images.estimate_noise_std(np.zeros((4, 9, 3), np.float32))


# Kernels


def test_made_kernels():
    gaussian = images.parse_kernel("gaussian:1.6")
    offset = np.arange(gaussian.shape[0]) - gaussian.shape[0] // 2
    assert gaussian.shape == (11, 11)
    assert (gaussian.sum(0) * offset**2).sum() == pytest.approx(1.6**2, rel=0.02)
    np.testing.assert_allclose(images.parse_kernel("motion:9,0"), np.full((1, 9), 1 / 9), rtol=1e-6)
    np.testing.assert_allclose(images.parse_kernel("box:3"), np.full((3, 3), 1 / 9), rtol=1e-6)
    np.testing.assert_allclose(images.parse_kernel("box:4").sum(axis=0), [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], rtol=1e-6)
    assert (images.parse_kernel("disk:8") > 0).sum() == pytest.approx(np.pi * 8.5**2, rel=0.03)
    flat, upright = images.parse_kernel("gaussian:3,1,0"), images.parse_kernel("gaussian:3,1,90")
    np.testing.assert_allclose(flat, upright.T, atol=1e-7)
    assert flat.sum(axis=0).std() < flat.sum(axis=1).std()  # wide
    np.testing.assert_allclose(images.parse_kernel("motion:9,-90"), np.full((9, 1), 1 / 9), rtol=1e-6)
    np.testing.assert_array_equal(images.parse_kernel("motion:0.5,30"), [[1]])
    rising = images.parse_kernel("motion:11,45")  # counter-clockwise: from bottom left to top right
    np.testing.assert_allclose(rising, rising.T[::-1, ::-1], atol=1e-7)
    assert rising[0, -1] > 0
    assert rising[0, 0] == 0
    np.testing.assert_allclose(images.parse_kernel("motion:11,135"), rising[:, ::-1], atol=1e-7)
    for angle in range(0, 180, 15):
        kernel = images.parse_kernel(f"motion:12.5,{angle}")
        y, x = (axis - n // 2 for axis, n in zip(np.indices(kernel.shape), kernel.shape, strict=True))
        along = x * np.cos(np.deg2rad(angle)) - y * np.sin(np.deg2rad(angle))
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
        assert (kernel * along).sum() == pytest.approx(0, abs=1e-5)
        assert (kernel * along**2).sum() == pytest.approx(12.5**2 / 12, rel=0.06)  # of a uniform segment


def test_kernel_files(tmp_path):
    kernel = np.array([[0, 2, 0], [1, 4, 1.0]])
    expected = kernel / 8
    np.save(tmp_path / "k.npy", kernel)
    np.savez(tmp_path / "one.npz", only=kernel)
    np.savez(tmp_path / "two.npz", a=kernel.T, b=kernel)
    (tmp_path / "k.txt").write_text("0 2 0\n1 4 1\n\n")
    (tmp_path / "k.csv").write_text("0, 2, 0\r\n1, 4, 1\r\n")
    images.write_image(tmp_path / "k.png", kernel / 4, bit_depth=16)
    images.write_image(tmp_path / "k.tif", np.repeat(kernel[..., None], 3, -1), bit_depth=32)
    for name in ("k.npy", "one.npz", "one.npz:only", "two.npz:b", "k.txt", "k.csv", "k.png", "k.tif"):
        made = images.parse_kernel(str(tmp_path / name))
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, expected, atol=1e-5, err_msg=name)


def test_a_file_is_made_a_kernel(tmp_path):
    """Moved, on a camera's dark level, with small negatives, in an alpha channel, of MATLAB: the same kernel."""
    import scipy.io

    kernel = images.parse_kernel("gaussian:1.5")
    side = len(kernel)
    frame = np.zeros((31, 31))
    frame[2 : 2 + side, 9 : 9 + side] = kernel / kernel.max()
    negative = np.where(frame > 0, frame, -0.01)
    tables = {"moved": frame, "dark": 0.1 + 0.9 * frame, "negative": negative}
    for name, table in tables.items():
        np.save(tmp_path / f"{name}.npy", table)
    scipy.io.savemat(tmp_path / "k.mat", {"k": frame})
    images.write_image(tmp_path / "alpha.png", np.zeros_like(frame), alpha=frame, bit_depth=16)
    words = {"dark": "dark level", "negative": "negative numbers down to -1.0%"}
    for name in ("moved.npy", "dark.npy", "negative.npy", "k.mat", "alpha.png"):
        made, notes = images.read_kernel(str(tmp_path / name))
        middle = (np.array(made.shape) - side) // 2
        np.testing.assert_allclose(
            made[middle[0] : middle[0] + side, middle[1] : middle[1] + side], kernel, atol=2e-3, err_msg=name
        )
        assert "its centre of mass is -8.0 rows and -1.0 columns from its centre" in notes[-1]
        assert words.get(name.split(".")[0], "") in notes[0]
    kept, notes = images.read_kernel(str(tmp_path / "moved.npy"), keep_origin=True)
    assert kept.shape == (31, 31)
    assert notes == ()
    np.save(tmp_path / "wide.npy", np.pad(kernel, 20))  # empty borders are cut off
    np.testing.assert_allclose(images.read_kernel(str(tmp_path / "wide.npy")).values, kernel, atol=1e-5)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".fits", ".png"])
def test_a_kernel_that_is_written_is_read_again(tmp_path, suffix):
    kernel = images.parse_kernel("motion:9,30")
    images.write_kernel(tmp_path / f"k{suffix}", kernel)
    np.testing.assert_allclose(images.parse_kernel(str(tmp_path / f"k{suffix}")), kernel, atol=2e-6)
    if suffix != ".png":  # whose white is the largest
        np.testing.assert_allclose(images.read_image(tmp_path / f"k{suffix}").pixels.sum(), 1, rtol=1e-5)
    with pytest.raises(images.ImageError, match="overwriting was not asked for"):
        images.write_kernel(tmp_path / f"k{suffix}", kernel)
    images.write_kernel(tmp_path / f"k{suffix}", kernel, overwrite=True)


def test_kernel_mistakes(tmp_path):
    def saved(name, array):
        np.save(tmp_path / name, array)
        return str(tmp_path / name)

    np.savez(tmp_path / "two.npz", a=np.ones((3, 3)), b=np.ones((3, 3)))
    (tmp_path / "bad.txt").write_text("1 2\n3 x\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "void.txt").write_text("")
    (tmp_path / "bad.npz").write_text("no archive")
    (tmp_path / "k.mat").touch()
    (tmp_path / "k.npy").mkdir()
    for spec, match in [
        ("gaussian:", "expected gaussian:WIDTH or gaussian:WIDTH,HEIGHT,ANGLE with numbers, got ''"),
        ("gaussian:wide", "got 'wide'"),
        ("gaussian:1,2", "got '1,2'"),
        ("gaussian:0", "above 0 and at most 256, got 0"),
        ("gaussian:nan", "got 'nan'"),
        ("gaussian:1e9", "at most 256, got 1e[+]09"),
        ("motion:5", "expected motion:LENGTH,ANGLE"),
        ("motion:-5,30", "above 0"),
        ("star:3", "expected gaussian:WIDTH, motion:LENGTH,ANGLE, disk:RADIUS, box:SIDE or a file"),
        ("nowhere.npz:a", "no such file"),
        (str(tmp_path / "two.npz"), "got 2; choose with .*:NAME from a, b"),
        (str(tmp_path / "two.npz:c"), "named c, got a, b"),
        (str(tmp_path / "bad.txt"), "'x'"),
        (str(tmp_path / "ragged.csv"), "expected a kernel"),
        (str(tmp_path / "void.txt"), r"got shape \(0,\)"),
        (str(tmp_path / "bad.npz"), "expected a kernel"),
        (str(tmp_path / "k.mat"), "expected a kernel"),
        (str(tmp_path / "k.npy"), "got a folder"),
        (saved("rank.npy", np.ones((3, 3, 3))), r"got shape \(3, 3, 3\)"),
        (saved("negative.npy", np.array([[1.0, -1]])), "at least 0"),
        (saved("zero.npy", np.zeros((3, 3))), "not all 0"),
        (saved("nan.npy", np.array([[np.nan, 1]])), "finite"),
        (saved("complex.npy", np.ones((3, 3), complex)), "complex128"),
        (saved("large.npy", np.ones((33, 3))), r"at most the image's \(32, 64\) pixels, got \(33, 3\)"),
    ]:
        with pytest.raises(ImageError, match=match) as caught:
            images.parse_kernel(spec, max_shape=(32, 64))
        assert Path(spec.removesuffix(":c")).name in str(caught.value)


def test_import_is_light():
    """Neither the file formats nor JAX are needed to import the module's functions."""
    code = (
        "import sys, hvae_jax.images.read; sys.exit(any(n in sys.modules for n in ('jax', 'PIL', 'tifffile', 'png')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
