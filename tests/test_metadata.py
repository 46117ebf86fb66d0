"""What a file holds besides 8-bit RGB: profiles, EXIF, resolution, other formats, pages, holes, multiplied alpha."""

import functools
import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest
import tifffile
from PIL.TiffImagePlugin import IFDRational

from hvae_jax import images
from hvae_jax.images import ImageError, Metadata
from hvae_jax.images.jpeg import coefficients
from hvae_jax.images.light import to_display, to_linear
from hvae_jax.images.metadata import EXIF_IFD, GPS_IFD
from hvae_jax.photographs.checking import noise_of
from hvae_jax.photographs.degradation import Degradation

DATA = Path(__file__).parent / "data"

MAKE, ORIENTATION, EXPOSURE, WIDTH, HEIGHT = 0x010F, 0x0112, 0x829A, 0xA002, 0xA003
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rating>5</rating></x:xmpmeta>'


@pytest.fixture
def pixels():
    ramp = np.linspace(0, 1, 24, dtype=np.float32)
    return np.stack([np.tile(ramp, (16, 1)), np.tile(ramp[:16, None], (1, 24)), np.full((16, 24), 0.3)], -1)


@functools.cache  # a profile holds the second that it was made in
def wide_profile() -> bytes:
    """An RGB profile whose colours are not sRGB's: green and blue exchanged, so that no reader can miss it."""
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    green, blue = profile.index(b"gXYZ"), profile.index(b"bXYZ")
    profile[green : green + 4], profile[blue : blue + 4] = b"bXYZ", b"gXYZ"
    return bytes(profile)


def managed(path) -> np.ndarray:
    """The colours that a colour-managed reader shows, in sRGB."""
    with PIL.Image.open(path) as image:
        profile = PIL.ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        shown = PIL.ImageCms.profileToProfile(image.convert("RGB"), profile, PIL.ImageCms.createProfile("sRGB"))
        return np.asarray(shown).astype(int)


@pytest.fixture
def photograph(tmp_path, pixels):
    """A camera's JPEG: a profile of its own, turned, with EXIF, GPS, XMP and a resolution."""
    exif = PIL.Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Camera", 6
    exif.get_ifd(EXIF_IFD).update({EXPOSURE: IFDRational(1, 125), WIDTH: 24, HEIGHT: 16})
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (48.0, 51.0, 30.0)})
    image = PIL.Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    path = tmp_path / "camera.jpg"
    image.save(path, exif=exif, icc_profile=wide_profile(), xmp=XMP, dpi=(240, 240), quality=95)
    return path


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.tif", "deep.tif", "float.tif", "a.webp", "a.avif"])
def test_what_is_around_the_pixels_goes_to_the_result(tmp_path, photograph, name):
    photo = images.read_image(photograph)
    assert photo.pixels.shape == (24, 16, 3)  # upright
    depth = {"deep": 16, "float": 32}.get(name.split(".")[0], 8)
    larger = np.repeat(np.repeat(photo.pixels, 2, 0), 2, 1)
    path = tmp_path / name
    images.write_image(path, larger, bit_depth=depth, metadata=photo.metadata)
    found = images.read_image(path).metadata
    assert found.icc == wide_profile()
    assert found.exif[0][MAKE] == "Camera"
    assert ORIENTATION not in found.exif[0]
    assert float(found.exif[EXIF_IFD][EXPOSURE]) == pytest.approx(1 / 125)
    assert [found.exif[EXIF_IFD][tag] for tag in (WIDTH, HEIGHT)] == [32, 48]
    assert found.exif[GPS_IFD][1] == "N"
    assert [float(part) for part in found.exif[GPS_IFD][2]] == [48, 51, 30]
    assert found.xmp == XMP
    if not name.endswith(("webp", "avif")):  # which have no place for it
        assert found.dpi == pytest.approx((240, 240), abs=0.01)
    np.testing.assert_allclose(
        images.read_image(path).pixels, larger, atol=0.05 if name[2:] in ("jpg", "avif") else 3e-3
    )


def test_colours_are_those_of_the_input(tmp_path, photograph):
    photo = images.read_image(photograph)
    images.write_image(tmp_path / "out.png", photo.pixels, metadata=photo.metadata)
    with PIL.Image.open(photograph) as image:
        plain = np.rot90(np.asarray(image), -1).astype(int)
    shown = managed(tmp_path / "out.png")
    np.testing.assert_allclose(shown, np.rot90(managed(photograph), -1), atol=1)
    assert np.abs(shown - plain).max() > 50  # the profile matters


def test_png_says_gamma_and_text(tmp_path, pixels):
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Title", "A ramp")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    PIL.Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).save(tmp_path / "in.png", pnginfo=info)
    photo = images.read_image(tmp_path / "in.png")
    for depth in (8, 16):
        images.write_image(tmp_path / f"{depth}.png", photo.pixels, bit_depth=depth, metadata=photo.metadata)
        with PIL.Image.open(tmp_path / f"{depth}.png") as image:
            assert image.text == {"Title": "A ramp"}
            assert image.info["gamma"] == pytest.approx(0.45455)


def test_a_profile_of_cmyk_is_not_one_of_rgb(tmp_path):
    profile = bytearray(wide_profile())
    profile[16:20] = b"CMYK"
    PIL.Image.new("CMYK", (20, 10), (10, 20, 30, 0)).save(tmp_path / "a.jpg", icc_profile=bytes(profile))
    assert images.read_image(tmp_path / "a.jpg").metadata == Metadata()


@pytest.mark.parametrize("compression", ["lzw", "zstd", "deflate"])
@pytest.mark.parametrize("predictor", [False, True])
def test_compressed_16_bit_tiff(tmp_path, rng, compression, predictor):
    if compression != "deflate":
        pytest.importorskip("imagecodecs", reason="needs the extra photo")
    samples = rng.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    if predictor and compression == "deflate":
        pytest.importorskip("imagecodecs", reason="needs the extra photo")
    tifffile.imwrite(tmp_path / "a.tif", samples, compression=compression, predictor=predictor, photometric="rgb")
    np.testing.assert_array_equal(np.rint(65535 * images.read_image(tmp_path / "a.tif").pixels), samples)


def test_ome_tiff(tmp_path, rng):
    """The size of a microscope's pixels is kept, and right for one page of a stack and for twice the size."""
    stack = rng.integers(0, 65536, (3, 12, 16)).astype(np.uint16)
    about = {"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata=about, photometric="minisblack")
    page = images.read_image(tmp_path / "a.ome.tif", page=1)
    images.write_image(tmp_path / "b.tif", page.pixels, bit_depth=16, metadata=page.metadata)
    twice = np.repeat(np.repeat(page.pixels, 2, axis=0), 2, axis=1)
    images.write_image(tmp_path / "c.tif", twice, bit_depth=16, metadata=page.metadata)
    for name, samples, size in (("b.tif", stack[1], "0.1"), ("c.tif", twice[..., 0] * 65535, "0.05")):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            assert tiff.is_ome
            assert tiff.series[0].axes == "YX"
            np.testing.assert_array_equal(tiff.series[0].asarray(), np.rint(samples))
            assert f'PhysicalSizeX="{size}" PhysicalSizeXUnit="µm"' in tiff.ome_metadata


def test_a_raw_file_and_its_noise(tmp_path):
    """A DNG made of a picture's light: what is read is the picture, and the noise is what its profile says."""
    pytest.importorskip("rawpy", reason="needs the extra photo")
    photo = images.read_image(DATA / "chelsea256.png").pixels
    light, rng = to_linear(photo).astype(np.float64), np.random.default_rng(0)
    scale, offset = 0.002, 1e-6
    light += np.sqrt(scale * light + offset) * rng.standard_normal(light.shape)
    samples = np.rint(65535 * np.clip(light, 0, 1)).astype(np.uint16)
    mosaic = samples[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = samples[::2, ::2, 0], samples[1::2, 1::2, 2]
    xyz_to_srgb = [3.2405, -1.5371, -0.4985, -0.9693, 1.8760, 0.0416, 0.0556, -0.2040, 1.0572]
    tags = [
        (33421, "H", 2, (2, 2), True),  # the mosaic's size and colours
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),  # version, camera, matrix, neutral, white
        (50708, "s", 0, "Made for a test", True),
        (50721, "2i", 9, [part for entry in xyz_to_srgb for part in (round(10_000 * entry), 10_000)], True),
        (50728, "2I", 3, [1, 1] * 3, True),
        (50717, "H", 1, 65535, True),
        (51041, "d", 2, (scale, offset), True),
    ]
    tifffile.imwrite(tmp_path / "a.dng", mosaic, photometric="cfa", extratags=tags, metadata=None)
    picture = images.read_image(tmp_path / "a.dng")
    assert picture.bit_depth == 16
    assert abs(picture.pixels.mean() - photo.mean()) < 0.01
    shown = to_display(light.astype(np.float32))
    assert picture.noise_std == pytest.approx(float(np.std(shown - photo)), rel=0.15)
    assert 2 * images.estimate_noise_std(picture.pixels) < picture.noise_std  # what demosaicking hides
    noise = noise_of(picture, Degradation.of("denoise", None, None, None), None)
    assert (noise.std, noise.source) == (picture.noise_std, "the file's own noise profile")


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    import sys

    for name, package in (("a.heic", "pillow_heif"), ("a.dng", "rawpy"), ("a.fits", "astropy")):
        (tmp_path / name).write_bytes(b"SIMPLE  =" + bytes(100) if name.endswith("fits") else bytes(100))
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.io", None)
        with pytest.raises(ImageError, match=rf"needs {package}: pip install 'hvae_jax\[(photo|science)\]'"):
            images.read_image(tmp_path / name)


def test_other_formats(tmp_path, pixels):
    samples = np.rint(255 * pixels).astype(np.uint8)
    for name in ("a.bmp", "a.webp"):
        images.write_image(tmp_path / name, pixels)
        np.testing.assert_array_equal(np.rint(255 * images.read_image(tmp_path / name).pixels), samples)
    PIL.Image.fromarray(samples).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "b.png")
    with pytest.raises(ImageError, match="got a GIF; save the frame that is meant as PNG"):
        images.read_image(tmp_path / "b.png")
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ImageError, match="got a Git LFS pointer; run git lfs pull"):
        images.read_image(tmp_path / "lfs.png")
    with open(tmp_path / "a.bmp", "rb") as file:  # an open file, as from standard input
        np.testing.assert_array_equal(np.rint(255 * images.read_image(file).pixels), samples)


def test_of_a_jpeg_with_several_pictures_the_first_is_read(tmp_path, pixels):
    """As phones write them (MPO); its coefficients are those of the first, too."""
    first, second = (PIL.Image.fromarray(np.rint(255 * x).astype(np.uint8)) for x in (pixels, 1 - pixels))
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second], quality=50)
    first.save(tmp_path / "one.jpg", quality=50)
    several, one = (images.read_image(tmp_path / name) for name in ("phone.jpg", "one.jpg"))
    np.testing.assert_array_equal(several.pixels, one.pixels)
    found = [coefficients(photo.jpeg) for photo in (several, one)]
    np.testing.assert_array_equal(found[0].values, found[1].values)


def test_heic(tmp_path, pixels):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra photo")
    image = PIL.Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=100)
    np.testing.assert_allclose(images.read_image(tmp_path / "a.heic").pixels, pixels, atol=0.08)


def test_fits(tmp_path, pixels):
    pytest.importorskip("astropy", reason="needs the extra science")
    images.write_image(tmp_path / "a.fits", pixels[..., :1], bit_depth=32)
    photo = images.read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(photo.pixels, pixels[..., :1])
    assert photo.bit_depth == 32


def test_pages(tmp_path, rng):
    stack = rng.random((3, 20, 30)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.save(tmp_path / "a.npy", stack[..., None])
    assert images.count_pages(tmp_path / "a.tif") == 3
    assert images.count_pages(tmp_path / "a.npy") == 1
    for name in ("a.tif", "a.npy"):
        np.testing.assert_array_equal(images.read_image(tmp_path / name, page=2).pixels[..., 0], stack[2])
        with pytest.raises(ImageError, match=r"expected .*more than 3"):
            images.read_image(tmp_path / name, page=3)


def test_nan_is_a_missing_pixel(tmp_path, pixels):
    holed = pixels.copy()
    holed[3, 4, 1] = np.nan
    np.save(tmp_path / "a.npy", holed)
    photo = images.read_image(tmp_path / "a.npy")
    assert np.argwhere(photo.missing).tolist() == [[3, 4]]
    assert (photo.pixels[3, 4] == 0).all()


def test_multiplied_alpha_is_undone_and_redone(tmp_path, pixels):
    alpha = np.tile(np.linspace(0, 1, 24, dtype=np.float32), (16, 1))[..., None]
    both = np.concatenate([pixels * alpha, alpha], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", both, photometric="rgb", extrasamples=["assocalpha"])
    photo = images.read_image(tmp_path / "a.tif")
    assert photo.premultiplied
    np.testing.assert_allclose(photo.pixels[:, 1:], pixels[:, 1:], atol=1e-5)
    images.write_image(
        tmp_path / "b.tif", photo.pixels, bit_depth=32, alpha=photo.alpha, premultiplied=photo.premultiplied
    )
    np.testing.assert_allclose(tifffile.imread(tmp_path / "b.tif"), both, atol=1e-6)


def test_a_symbolic_link_is_written_through(tmp_path, pixels):
    images.write_image(tmp_path / "target.png", pixels)
    (tmp_path / "link.png").symlink_to("target.png")
    images.write_image(tmp_path / "link.png", 1 - pixels, overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_allclose(images.read_image(tmp_path / "target.png").pixels, 1 - pixels, atol=3e-3)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
