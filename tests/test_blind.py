"""A blur that nobody tells: kernels found from pictures made for it, and nobody's picture gets worse."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

import hvae_jax as hj
from hvae_jax import cli, images
from hvae_jax.metrics import psnr
from hvae_jax.photographs.blind.estimating import Candidate, in_words, most_edges, principal_axes, rounded, trimmed
from hvae_jax.photographs.blind.evidence import similarity
from hvae_jax.photographs.blind.families import FAMILIES, in_square, ran_away
from hvae_jax.photographs.blind.fitting import Fit
from hvae_jax.photographs.blind.free import as_kernel, centred, free_kernel
from tests.helpers import random_prior, tiny_vdvae_config

ROOT = Path(__file__).parent.parent
SIDE = 21


@pytest.fixture(scope="module")
def steps():
    """A picture of random rectangles and discs: nothing but steps, in every direction."""
    rng = np.random.default_rng(0)
    picture = np.full((192, 192), 0.5)
    rows, columns = np.mgrid[:192, :192]
    for _ in range(60):
        row, column, size, value = (
            rng.integers(0, 192),
            rng.integers(0, 192),
            rng.integers(8, 30),
            rng.uniform(0.1, 0.9),
        )
        if rng.uniform() < 0.5:
            picture[row : row + size, column : column + size] = value
        else:
            picture[np.hypot(rows - row, columns - column) < size / 2] = value
    return picture


def blurred(picture, kernel, noise_std=0.0):
    y = ndimage.convolve(picture, kernel.astype(np.float64), mode="wrap")
    return y + noise_std * np.random.default_rng(1).standard_normal(y.shape)


# Kernels


@pytest.mark.parametrize(
    ("kind", "spec", "start"),
    [
        ("gaussian", "gaussian:1.7", (2.5, 1.2, 20.0)),
        ("gaussian", "gaussian:2.6,1.2,40", (2.0, 1.5, 30.0)),
        ("disk", "disk:3.3", (4.5,)),
        ("motion", "motion:11,65", (8.0, 50.0)),
    ],
)
def test_a_family_fitted_to_a_sharp_picture_and_its_blur(steps, kind, spec, start):
    kernel = in_square(images.parse_kernel(spec), SIDE)
    x, y = (np.repeat(v[..., None], 3, axis=-1).astype(np.float32) for v in (steps, blurred(steps, kernel, 1 / 255)))
    fit = Fit(x, y, (slice(16, 176), slice(16, 176)), kernel, 2 / 255, SIDE)
    family = FAMILIES[kind]
    numbers = family.fit(fit.cost, SIDE, [start])
    assert similarity(family.kernel(numbers, SIDE), kernel) > 0.99
    np.testing.assert_allclose(numbers[0], float(spec.partition(":")[2].split(",")[0]), rtol=0.06)
    assert similarity(fit.free_kernel(), kernel) > 0.95  # which has no values below a twentieth of the largest
    assert fit.cost(kernel) < fit.cost(in_square(images.parse_kernel("box:1"), SIDE))


@pytest.mark.parametrize("spec", [pytest.param("motion:9,30", marks=pytest.mark.slow), "disk:3", "bent"])
def test_a_free_kernel_from_steps(steps, spec):
    if spec == "bent":
        kernel = np.zeros((11, 11))
        kernel[2:9, 3] = kernel[8, 3:9] = 1
        kernel = centred(ndimage.gaussian_filter(kernel / kernel.sum(), 0.6))
    else:
        kernel = images.parse_kernel(spec)
    found = free_kernel(blurred(steps, kernel, 1 / 255)[8:-8, 8:-8], SIDE)
    assert found.shape == (SIDE, SIDE)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    assert similarity(found, in_square(kernel, SIDE)) > 0.85


def test_what_is_made_a_kernel():
    """Small numbers and specks are none; the centre of mass is the centre, and stays where borders are cut off."""
    values = np.zeros((15, 15))
    values[2, 3:9] = 1.0
    values[12, 12] = 0.3  # less than a tenth of all
    values[4, 4] = -1.0
    kernel = centred(as_kernel(values))
    np.testing.assert_allclose(kernel.sum(), 1)
    at = [(np.arange(15) * kernel.sum(axis=1 - axis)).sum() for axis in (0, 1)]
    np.testing.assert_allclose(at, 7, atol=0.1)
    cut = trimmed(in_square(images.parse_kernel("disk:2"), 15))
    np.testing.assert_allclose(cut, images.parse_kernel("disk:2"), atol=1e-6)
    large = in_square(images.parse_kernel("gaussian:4"), 9)
    assert large.shape == (9, 9)
    assert large.argmax() == 40


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("disk:2.5", "out of focus, a disc of radius 2.5 pixels"),
        ("motion:13,30", "a straight motion of 13 pixels at 30 degrees"),
        ("gaussian:1.6,1.55,12", "a Gaussian of 1.6 pixels"),
        ("gaussian:1,2,10", "a Gaussian of 2.0 by 1.0 pixels at 100 degrees"),
    ],
)
def test_a_kernel_in_words(spec, words):
    kernel = images.parse_kernel(spec)
    assert in_words(Candidate(spec, kernel, 1.0, {})) == words


def test_a_guess_is_told_as_the_command_takes_it():
    assert rounded("motion:13.626,31.329") == "motion:13.6,31.3"
    images.parse_kernel(rounded("gaussian:1.234,0.987,179.99"))


def test_a_search_that_ran_to_a_bound():
    assert ran_away("gaussian:8.000,2.400,88.000")
    assert ran_away("motion:2.0,10")
    assert not ran_away("gaussian:1.6,0.8,170")
    assert not ran_away("free")


def test_the_axes_of_a_free_kernel():
    (long, short), angle = principal_axes(images.parse_kernel("motion:14,40"))
    assert abs(angle - 40) < 1.5
    assert abs(np.sqrt(12) * long - 14) < 1
    assert short < 1
    line = Candidate("free", images.parse_kernel("motion:14,40"), 1.0, {})
    assert in_words(line).startswith("camera shake of about 14 pixels at 40 degrees")
    assert in_words(line._replace(kernel=images.parse_kernel("disk:3"))).startswith("a blur without direction of about")


def test_the_part_with_most_edges():
    pixels = np.full((400, 300, 3), 0.5, np.float32)
    pixels[250:350, 100:250:8] = 0.9
    rows, columns = most_edges(pixels, 176)
    assert rows.stop - rows.start == columns.stop - columns.start == 176
    assert rows.start <= 250
    assert rows.stop >= 350
    assert columns.stop >= 250
    assert most_edges(pixels[:90, :100], 176) == (slice(0, 90), slice(0, 100))


# What is refused, and what is left


def test_sharp_flat_and_small_pictures_are_told_at_once():
    sharp = images.read_image(ROOT / "examples/sharp.png").pixels
    found = hj.estimate_kernel(sharp)
    assert (found.kernel, found.description, found.candidates) == (None, "the picture is sharp", ())
    assert "sharp" in hj.estimate_kernel(sharp.mean(axis=-1, keepdims=True)).description
    assert "too few edges" in hj.estimate_kernel(np.full((200, 200, 3), 0.5, np.float32)).description
    assert "too small" in hj.estimate_kernel(sharp[:80, :90]).description
    done = hj.restore_photograph(sharp, "deblur", kernel="estimate")
    np.testing.assert_array_equal(done.image.pixels, sharp)
    assert done.warnings == ("the picture is sharp; it was left as it was",)
    assert done.kernel is None


def test_values_that_are_not_in_the_unit_stay():
    sharp = 1000 * images.read_image(ROOT / "examples/sharp.png").pixels + 50
    done = hj.restore_photograph(sharp, "deblur", kernel="estimate", value_range=(50, 1050))
    np.testing.assert_array_equal(done.image.pixels, sharp)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "sr", "factor": 2}, "deblur only"),
        ({"task": "denoise"}, "expected no kernel|deblur only"),
        ({"task": "inpaint", "mask": np.ones((120, 120))}, "expected no kernel|deblur only"),
        ({"task": "deblur", "kernel_size": 24}, "odd and from 5 to 63 pixels, got 24"),
        ({"task": "deblur", "kernel_size": -3}, "got -3"),
        ({"task": "deblur", "kernel_size": 65}, "got 65"),
        ({"task": "deblur", "prior": random_prior(tiny_vdvae_config())}, "images of any size"),
    ],
)
def test_what_cannot_be_estimated(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        hj.restore_photograph(np.zeros((120, 120, 3), np.float32), **{"kernel": "estimate", **options})
    with pytest.raises(ValueError, match="expected a kernel to degrade with"):
        hj.degrade_photograph(images.Image(np.zeros((9, 9, 3), np.float32), None, 8), "deblur", kernel="estimate")


def run(*arguments):
    return cli.main(["restore", *map(str, arguments)])


def test_the_command_leaves_a_sharp_picture(tmp_path, capsys):
    sharp, out = ROOT / "examples/sharp.png", tmp_path / "out.png"
    options = ("--task", "deblur", "--kernel", "estimate", "--save-kernel", tmp_path / "k.npy", "--strict")
    assert run(sharp, *options, "--out", out) == 1
    printed = capsys.readouterr()
    assert "left as it was" in printed.out
    assert printed.err.strip() == f"{sharp}: the picture is sharp; it was left as it was"
    np.testing.assert_array_equal(images.read_image(out).pixels, images.read_image(sharp).pixels)
    assert not (tmp_path / "k.npy").exists()


def test_a_folder_of_sharp_pictures(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    sharp = PIL.Image.open(ROOT / "examples/sharp.png")
    sharp.convert("L").save(folder / "grey.png")
    sharp.save(folder / "colour.jpg", quality=95)
    command = (folder, "--task", "deblur", "--kernel", "estimate", "--out", tmp_path / "out")
    assert run(*command) == 0
    assert capsys.readouterr().err.count("the picture is sharp; it was left as it was") == 2
    assert images.read_image(tmp_path / "out/grey.png").pixels.shape[-1] == 1
    assert run(*command) == 0
    assert "2 of 2 are done already" in capsys.readouterr().out
    assert run(*command, "--save-kernel", tmp_path / "k.npy") == 2
    assert "expected one image for --save-kernel, got several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--task", "denoise", "--kernel", "estimate"), "error: "),
        (("--task", "sr", "--factor", 2, "--kernel", "estimate"), "for the task deblur only, got it for sr"),
        (("--task", "deblur", "--kernel", "estimate", "--kernel-size", 6), "odd and from 5 to 63 pixels, got 6"),
        (("--task", "deblur", "--kernel", "estimate", "--kernel-size", 1001), "got 1001"),
        (("--task", "deblur", "--kernel", "disk:2", "--kernel-size", 9), "--kernel-size with --kernel estimate only"),
        (
            ("--task", "deblur", "--kernel", "disk:2", "--save-kernel", "k.npy"),
            "--save-kernel with --kernel estimate only",
        ),
        (("--task", "deblur", "--kernel", "estimate", "--save-kernel", "k.xyz"), "k.xyz"),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, options, sentence):
    assert run(ROOT / "examples/blurred.png", *options, "--out", tmp_path / "out.png") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


# Pictures that are restored


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["colour", "jpeg"])
def test_a_blur_that_is_found(tmp_path, capsys, kind):
    """The file is restored with it, the kernel that is written is what blurred it, and gives the same again."""
    scene = images.read_image(ROOT / "benchmarks/data/images/coffee.png").pixels[:256, :256]
    y = hj.degrade_photograph(
        images.Image(scene, None, 8), "deblur", kernel="gaussian:2.8", noise_std=5 / 255, boundary="natural"
    )
    edge = (len(scene) - len(y.pixels)) // 2
    pictures = {"in": y.pixels, "clean": scene[edge:-edge, edge:-edge]}
    files = {}
    for name, pixels in pictures.items():
        picture = PIL.Image.fromarray(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8))
        files[name] = tmp_path / f"{name}.{'jpg' if kind == 'jpeg' and name == 'in' else 'png'}"
        picture.save(files[name], quality=92)
    saved, out = tmp_path / ("k.npy" if kind == "colour" else "k.png"), tmp_path / "out.png"
    command = (files["in"], "--task", "deblur", "--kernel", "estimate", "--out", out)
    assert run(*command, "--save-kernel", saved, "--reference", files["clean"]) == 0
    assert ", confidence " in capsys.readouterr().out
    true = in_square(images.parse_kernel("gaussian:2.8"), 31)
    assert similarity(in_square(images.parse_kernel(str(saved)), 31), true) > 0.95
    before, after, clean = (images.read_image(file).pixels for file in (files["in"], out, files["clean"]))
    assert psnr(after, clean) > psnr(before, clean) + 0.5


@pytest.mark.slow
def test_a_grey_picture_is_left(tmp_path, capsys):
    """What was fitted on colours is not relied on; the sentence names the kernel, to be tried."""
    scene = images.read_image(ROOT / "benchmarks/data/images/coffee.png").pixels[:160, :160].mean(-1, keepdims=True)
    y = hj.degrade_photograph(
        images.Image(scene, None, 8), "deblur", kernel="gaussian:2", noise_std=3 / 255, boundary="natural"
    )
    images.write_image(tmp_path / "in.png", y.pixels)
    out = tmp_path / "out.png"
    assert run(tmp_path / "in.png", "--task", "deblur", "--kernel", "estimate", "--out", out) == 0
    assert "which is not relied on in a grey picture" in capsys.readouterr().err
    np.testing.assert_array_equal(images.read_image(out).pixels, images.read_image(tmp_path / "in.png").pixels)


@pytest.mark.slow
def test_the_example_is_not_made_worse(tmp_path):
    """Whether its kernel is trusted or not."""
    out = tmp_path / "out.png"
    assert run(ROOT / "examples/blurred.png", "--task", "deblur", "--kernel", "estimate", "--out", out) == 0
    before, after, clean = (
        images.read_image(f).pixels for f in (ROOT / "examples/blurred.png", out, ROOT / "examples/sharp.png")
    )
    assert psnr(after, clean) > psnr(before, clean) - 0.1
