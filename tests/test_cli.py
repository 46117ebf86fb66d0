"""The command line: what it writes, and one sentence and exit code 2 for each mistake, with nothing written."""

import dataclasses
import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import tifffile

import hvae_jax as hj
from hvae_jax import cli, images, training
from hvae_jax.models.patch_vdvae import PatchVDVAE
from hvae_jax.photographs import restoring, room
from hvae_jax.prior import Metadata, Prior
from hvae_jax.restoration import pnp_hvae

from .helpers import random_prior, tiny_config, tiny_vdvae_config

PHOTO = Path(__file__).parent / "data" / "chelsea256.png"
DEBLUR = ("--task", "deblur", "--kernel", "gaussian:1.6")


def command(*arguments, cwd, before=()):
    """The real command, in a process of its own."""
    line = [*before, sys.executable, "-m", "hvae_jax", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def run(capsys):
    """The command in this process, which spares the start: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def photo():
    return images.read_image(PHOTO).pixels


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A prior of random weights that compiles fast, with an annealing to recommend; multiples of 8."""
    row = {"noise_std": 5, "temperature": 1.0, "anneal_from": 40.0, "anneal_to": 2.0, "max_iterations": 3}
    row |= {"decoder_std_per_noise_level": 2.0, "initial": "image", "returns": "mean"}
    model = PatchVDVAE(tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.initialize, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)
    params["first_level"] |= {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)}
    metadata = Metadata.of(name="tiny", data_licence="CC0-1.0", settings={"default": [row]})
    directory = tmp_path_factory.mktemp("priors") / "tiny"
    Prior(params, model, metadata).save(directory)
    return directory


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A prior that takes 32x32 pixels and nothing else."""
    config = tiny_vdvae_config()
    resolutions = tuple(dataclasses.replace(r, size=4 * r.size) for r in config.resolutions)
    directory = tmp_path_factory.mktemp("priors") / "faces"
    random_prior(dataclasses.replace(config, resolutions=resolutions)).save(directory)
    return directory


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a clean and a degraded image, a mask and a kernel."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images.write_image("clean.png", rng.random((20, 13, 3)))
    images.write_image("photo.png", rng.random((20, 13, 3)))
    images.write_image("mask.png", rng.random((20, 13)) > 0.3)
    images.write_image("small-mask.png", np.eye(8))
    np.save("negative.npy", -np.ones((3, 3)))
    np.save("bytes.npy", 255 * rng.random((20, 13, 3)))
    (tmp_path / "broken.png").write_bytes(PHOTO.read_bytes()[:1000])
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "photo.gif").write_bytes(b"GIF89a")
    (tmp_path / "empty").mkdir()
    return tmp_path


def ended(y, status):
    """What a solver that does nothing returns."""
    return hj.Restoration(y, y, y, iterations=3, residual=0.0, status=status, history=None)


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# What it does


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["circular", "natural"])
def test_degrade_and_restore_improves_the_image(tmp_path, photo, run, boundary):
    kernel_side = 11
    scene = photo[60:, 80:][: 112 if boundary == "circular" else 100 + kernel_side - 1]
    scene = scene[:, : 96 if boundary == "circular" else 84 + kernel_side - 1]
    reach = kernel_side // 2 if boundary == "natural" else 0
    clean = scene[reach : scene.shape[0] - reach, reach : scene.shape[1] - reach]
    images.write_image(tmp_path / "scene.png", scene)
    images.write_image(tmp_path / "clean.png", clean)
    options = (*DEBLUR, "--boundary", boundary)
    code, _, err = run(
        *("degrade", tmp_path / "scene.png", "--out", tmp_path / "y.png", *options, "--noise-std", "5", "--seed", 1)
    )
    assert (code, err) == (0, "")

    if boundary == "natural":  # both commands of the first page, in a process of their own
        result = command(*("restore", "y.png", "--out", "x.png", *options, "--reference", "clean.png"), cwd=tmp_path)
        code, out, err = result.returncode, result.stdout, result.stderr
    else:
        reference = ("--reference", tmp_path / "clean.png")
        code, out, err = run("restore", tmp_path / "y.png", "--out", tmp_path / "x.png", *options, *reference)
    assert (code, err) == (0, "")
    pattern = r"PSNR ([\d.]+) -> ([\d.]+) dB, SSIM 0\.\d+ -> 0\.\d+, LPIPS 0\.\d+ -> 0\.\d+"
    before, after = map(float, re.search(pattern, out).groups())
    restored = images.read_image(tmp_path / "x.png")
    assert restored.pixels.shape == clean.shape
    assert after == pytest.approx(float(hj.metrics.psnr(restored.pixels, clean)), abs=0.02)
    assert after > before + 0.5
    estimated = float(re.search(r"noise ([\d.]+) of 255 \(estimated from .*\)", out)[1])
    assert estimated == pytest.approx(5, rel=0.3)


def test_grey_16_bit_and_alpha_are_kept(folder, tiny, run):
    rng = np.random.default_rng(1)
    alpha = rng.random((21, 14, 1))
    images.write_image("grey.png", rng.random((21, 14, 1)), bit_depth=16, alpha=alpha)
    assert run("restore", "grey.png", "--out", "x.png", "--task", "denoise", "--prior", tiny)[0] == 0
    restored = images.read_image("x.png")
    assert restored.pixels.shape == (21, 14, 1)
    assert restored.bit_depth == 16
    np.testing.assert_array_equal(restored.alpha, images.read_image("grey.png").alpha)


def test_folder_to_folder_compiles_once_per_padded_size(folder, tiny, run):
    rng = np.random.default_rng(1)
    Path("in").mkdir()
    for name, shape in (("a.png", (20, 13)), ("b.tif", (22, 16)), ("c.jpg", (17, 9))):
        images.write_image(Path("in") / name, rng.random((*shape, 3)))
    compiled = pnp_hvae._restore._cache_size()
    code, out, err = run(*("restore", "in", "--out", "results", "--task", "denoise", "--prior", tiny, "--noise-std", 5))
    assert (code, err) == (0, "")
    assert pnp_hvae._restore._cache_size() <= compiled + 1
    assert sorted(path.name for path in Path("results").glob("[!.]*")) == ["a.png", "b.tif", "c.png"]
    assert len(out.splitlines()) == 3
    assert images.read_image("results/c.png").pixels.shape == (17, 9, 3)


def test_super_resolution(folder, tiny, run):
    images.write_image("low.png", np.full((9, 7, 3), 0.5), alpha=np.ones((9, 7, 1)))
    options = ("--task", "sr", "--factor", 3, "--noise-std", 2, "--prior", tiny)
    images.write_image("high.png", np.full((27, 21, 3), 0.5))
    code, out, _ = run("restore", "low.png", "--out", "x.png", *options, "--reference", "high.png")
    assert code == 0
    assert re.search(r"PSNR [\d.]+ dB", out)  # of the result alone
    restored = images.read_image("x.png")
    assert restored.pixels.shape == (27, 21, 3)
    assert restored.alpha.shape == (27, 21, 1)


def test_default_kernel_of_super_resolution_averages_cells(folder, run):
    assert run("degrade", "clean.png", "--out", "x.npy", "--task", "sr", "--factor", 2)[0] == 2  # 13 is odd
    clean = np.random.default_rng(2).random((12, 18, 3)).astype(np.float32)
    np.save("even.npy", clean)
    for factor in (2, 3):
        assert run("degrade", "even.npy", "--out", f"{factor}.npy", "--task", "sr", "--factor", factor)[0] == 0
        cells = clean.reshape(12 // factor, factor, 18 // factor, factor, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(np.load(f"{factor}.npy"), cells, atol=1e-5)


def test_inpainting(folder, tiny, run):
    options = ("--task", "inpaint", "--mask", "mask.png")
    assert run("degrade", "clean.png", "--out", "y.png", *options, "--noise-std", 5)[0] == 0
    holes = images.read_mask("mask.png") == 0
    assert not images.read_image("y.png").pixels[holes].any()
    code, out, err = run("restore", "y.png", "--out", "x.png", *options, "--prior", tiny, "--returns", "x")
    assert (code, err) == (0, "")
    assert "(estimated from the finest detail)" in out
    restored, clean = images.read_image("x.png").pixels, images.read_image("clean.png").pixels
    assert restored[holes].any()
    assert np.abs(restored - clean)[~holes].mean() < 0.1


def test_float_files_are_not_clipped(folder, tiny, run):
    y = (np.random.default_rng(0).random((16, 16, 3)) * 1.5 - 0.2).astype(np.float32)
    np.save("y.npy", y)
    for noisy in ("noisy.npy", "noisy.tif"):
        assert run("degrade", "y.npy", "--out", noisy, "--task", "denoise", "--noise-std", 10, "--seed", 3)[0] == 0
        noise = np.random.default_rng(3).standard_normal(y.shape)
        np.testing.assert_allclose(images.read_image(noisy).pixels, y + 10 / 255 * noise, atol=1e-6)
    options = ("--task", "denoise", "--noise-std", 10, "--prior", tiny, "--returns", "x")
    assert run("restore", "noisy.npy", "--out", "x.npy", *options)[0] == 0
    restored = np.load("x.npy")
    assert restored.dtype == np.float32
    assert restored.max() > 1


def test_a_folder_run_goes_on_where_it_was(folder, tiny, run):
    """What cannot be read is named, a bad file does not stop the others, and what is done is not done again."""
    rng = np.random.default_rng(0)
    for name in ("in/a.png", "in/b.jpg", "in/sub/a.png"):
        images.write_image(name, rng.random((16, 16, 3)))
    Path("in/notes.txt").write_text("no picture")
    Path("in/c.png").write_text("no picture either")
    options = ("--task", "denoise", "--noise-std", 5, "--prior", tiny)
    code, out, err = run("restore", "in", "--out", "new/", "-r", *options)
    assert (code, out) == (2, "")
    assert not Path("new").exists()  # the mistake was known before
    code, out, err = run("restore", "in", "--out", "new/", "-r", "--keep-going", *options)
    assert code == 1
    assert "1 file skipped: in/notes.txt (no such format)" in err
    assert re.search(r"error: in/c.png: expected an image, got another or a damaged file", err)
    results = [Path("new/a.png"), Path("new/b.png"), Path("new/sub/a.png")]
    assert sorted(Path("new").rglob("[!.]*.png")) == results
    before = [path.stat().st_mtime_ns for path in results]
    Path("in/c.png").unlink()
    results[1].unlink()
    code, out, err = run("restore", "in", "--out", "new/", "-r", *options)
    assert code == 0
    assert "2 of 3 are done already" in out
    assert results[1].exists()
    assert [results[i].stat().st_mtime_ns for i in (0, 2)] == [before[0], before[2]]
    # Other settings, or another picture of this name: not done.
    again = ("restore", "in", "--out", "new/", "-r", *options)
    assert "exists and overwriting was not asked for" in run(*again, "--strip")[2]
    images.write_image("in/a.png", rng.random((16, 16, 3)), overwrite=True)
    assert "new/a.png: expected a new file" in run(*again)[2]


def test_standard_input_and_output(folder, tiny):
    options = ("--task", "denoise", "--noise-std", "5", "--prior", str(tiny))
    line = [sys.executable, "-m", "hvae_jax", "restore", "-", "--out", "-", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    content = Path("photo.png").read_bytes()
    done = subprocess.run(line, input=content, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert PIL.Image.open(io.BytesIO(done.stdout)).size == (13, 20)
    assert b"standard output: restored" in done.stderr


def test_pages_and_range_and_masks(folder, tiny, run):
    options = ("--noise-std", 5, "--prior", tiny)
    stack = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    tifffile.imwrite("stack.tif", 4 * stack, photometric="minisblack")
    denoise = ("--task", "denoise", "--range", "0,4")
    assert "got 2; give --pages" in run("restore", "stack.tif", "--out", "x.tif", *options, *denoise)[2]
    code, _, err = run("restore", "stack.tif", "--out", "pages", "--pages", *options, *denoise)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path("pages").glob("[!.]*")) == ["stack-1.tif", "stack-2.tif"]
    assert images.read_image("pages/stack-1.tif").pixels.max() > 1.5
    assert (
        "two numbers, LOW,HIGH, or auto, got 4"
        in run("restore", "photo.png", "--out", "x.png", *options, "--task", "denoise", "--range", 4)[2]
    )
    inpaint = ("--task", "inpaint", "--mask", "mask.png", "--invert-mask")
    code, out, _ = run("restore", "photo.png", "--out", "filled.png", *options, *inpaint)
    missing = images.read_mask("mask.png").mean()
    assert code == 0
    assert f"{missing:.1%} was missing" in out
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.open("photo.png").save("turned.png", exif=exif)
    assert "EXIF orientation 3" in run("restore", "turned.png", "--out", "y.png", *options, *inpaint)[2]


def test_settings_reach_the_solver(folder, tiny, run, monkeypatch):
    seen = []
    monkeypatch.setattr(room, "restore", lambda *args: (seen.append(args), ended(args[1], hj.Status.CONVERGED))[1])

    def config(*options):
        common = ("--task", "denoise", "--noise-std", 5.1, "--prior", tiny, "--overwrite")
        assert run("restore", "photo.png", "--out", "x.png", *common, *options)[0] == 0
        return seen[-1][-1]

    recommended = config()
    np.testing.assert_allclose(255 * recommended.noise_level[[0, -1], 0], [40, 5.1], rtol=1e-5)
    np.testing.assert_allclose(recommended.decoder_std, 2 * recommended.noise_level, rtol=1e-5)
    spread = config("--iterations", 5)
    assert spread.noise_level.shape == (5, 1)
    np.testing.assert_allclose(255 * spread.noise_level[[0, -1], 0], [40, 5.1], rtol=1e-5)
    fixed = config("--decoder-std", 20)
    np.testing.assert_allclose(255 * fixed.decoder_std, 20)
    np.testing.assert_allclose(255 * fixed.noise_level, [10], rtol=1e-5)
    changed = config("--temperature", "0.9,0.5", "--noise-level", 7, "--data-step", "cg", "--cg-steps", 1)
    np.testing.assert_allclose(changed.temperature, np.linspace(0.9, 0.5, 4), rtol=1e-6)
    assert 255 * changed.noise_level == pytest.approx(7)
    assert (changed.data_step, changed.returns) == (hj.restoration.ConjugateGradient(1), "mean")


@pytest.mark.slow
def test_a_prior_of_one_size(folder, faces, tiny, run, monkeypatch):
    options = ("--prior", faces, "--noise-std", 5, "--iterations", 2)
    size = r"expected a result of 32x32 pixels, the only size of this prior, got 20x13; resize cuts and scales"
    check_refused(folder, run(*RESTORE, *DENOISE, *options), size)
    inpaint = ("--task", "inpaint", "--mask", "mask.png", "--resize", "--reference", "clean.png")
    code, out, err = run(*RESTORE, *inpaint, *options)
    assert (code, err) == (0, "")
    assert re.search(r"PSNR [\d.]+ -> [\d.]+ dB", out)
    assert images.read_image("x.png").pixels.shape == (32, 32, 3)

    # A photograph's borders are not periodic; there is no room to extend them, so they are replaced.
    seen = []

    def stopped(prior, y, operator, *_):
        seen.append((prior, y))
        return ended(np.zeros(operator.image_shape(y.shape), np.float32), hj.Status.CONVERGED)

    monkeypatch.setattr(room, "restore", stopped)
    assert run("restore", "photo.png", "--out", "sr.png", "--task", "sr", "--factor", 4, "--resize", *options)[0] == 0
    assert seen[-1][1].shape == (8, 8, 3)
    assert run("restore", "photo.png", "--out", "b.png", *DEBLUR, "--resize", *options)[0] == 0
    y, given = seen[-1][1], images.fit_square(images.read_image("photo.png").pixels, 32)
    assert y.shape == given.shape
    reach = 6  # half of gaussian:1.6's 11 pixels, rounded up
    np.testing.assert_array_equal(y[reach:-reach, reach:-reach], given[reach:-reach, reach:-reach])
    jump = [np.abs(picture[0] - picture[-1]).mean() for picture in (y, given)]
    assert jump[0] < jump[1] / 2

    for arguments, sentence in (
        ((*RESTORE, "--task", "sr", "--factor", "5", *options), "factor that divides 32, .*got 5"),
        ((*RESTORE, *DENOISE, "--resize", "--prior", tiny), "no resize, for this prior takes images of any size"),
        ((*RESTORE, "--task", "deblur", "--kernel", "gaussian:3", "--resize", *options), "at most half .* 32 .*got 19"),
        (("sample", "--out", "s.png", "--prior", faces, "--size", "16x16"), "--size 32x32, the only one .*got 16x16"),
    ):
        before = contents(folder)
        check_refused(folder, run(*(a if a != "x.png" else "new.png" for a in arguments)), sentence, before)
    assert run("sample", "--out", "s.png", "--prior", faces, "--count", 1)[0] == 0
    assert images.read_image("s.png").pixels.shape == (32, 32, 3)
    assert "exactly 32" in run("info", faces)[1]


def test_divergence_is_reported_and_the_others_are_restored(folder, tiny, run, monkeypatch):
    statuses = itertools.chain([hj.Status.NOT_FINITE], itertools.repeat(hj.Status.CONVERGED))
    monkeypatch.setattr(room, "restore", lambda prior, y, *_: ended(y, next(statuses)))
    options = ("--task", "denoise", "--noise-std", 5, "--prior", tiny)
    code, out, err = run("restore", "clean.png", "photo.png", "--out", "results", *options)
    assert code == 1
    assert re.fullmatch(r"error: clean\.png: the iteration diverged .*\n", err)
    assert "converged" in out
    assert [path.name for path in Path("results").glob("[!.]*")] == ["photo.png"]


def test_uncertainty(folder, tiny, run, monkeypatch):
    options = ("--task", "inpaint", "--mask", "mask.png", "--noise-std", 2, "--prior", tiny)
    code, out, err = run("restore", "photo.png", "--out", "x.png", *options, "--uncertainty", "std.png")
    assert (code, err) == (0, "")
    words = r"std\.png: not calibrated for this task; draws differ by ([\d.]+) of 255 on average; white is 50"
    mean = float(re.search(words, out)[1])
    picture = images.read_image("std.png").pixels
    assert picture.shape == (20, 13, 1)
    assert 50 * picture.mean() <= mean + 0.1
    holes = images.read_mask("mask.png") == 0
    assert picture[holes].mean() > picture[~holes].mean()

    seeds = (("a", 0), ("b", 1))
    for name, seed in seeds:  # folders; exact numbers
        Path("in").mkdir(exist_ok=True)
        np.save("in/y.npy", images.read_image("photo.png").pixels)
        assert run("restore", "in", "--out", f"x{name}", *options, "--uncertainty", name, "--seed", seed)[0] == 0
    first, other = (np.load(f"{name}/y.npy") for name, _ in seeds)
    np.testing.assert_allclose(np.clip(first * 255 / 50, 0, 1), picture, atol=0.6 / 255)
    assert np.abs(first - other).max() > 1e-4

    diverged = hj.Posterior(first, first, first, np.inf, hj.Status.NOT_FINITE)
    monkeypatch.setattr(restoring, "sample_posterior", lambda *args: diverged)
    code, _, err = run("restore", "photo.png", "--out", "y.png", *options, "--uncertainty", "none.png")
    assert code == 1
    assert re.fullmatch(r"error: photo\.png: none\.png was not written, as there is nothing to draw from\n", err)
    assert Path("y.png").exists()
    assert not Path("none.png").exists()


@pytest.fixture
def interruptible():
    """A background job of a shell ignores SIGINT, and so would its tests."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_interrupt(folder, tiny, run, monkeypatch):
    monkeypatch.setattr(room, "restore", lambda *args: signal.raise_signal(signal.SIGINT))
    before = contents(folder)
    code, _, err = run("restore", "photo.png", "--out", "x.png", "--task", "denoise", "--prior", tiny)
    assert code == 130
    assert "Traceback" not in err
    assert contents(folder) == before


def test_sample(folder, tiny, run):
    options = ("--size", "20x9", "--temperature", "0.7", "--seed", 1, "--prior", tiny)
    assert run("sample", "--out", "grid.png", "--count", 3, *options)[0] == 0
    assert images.read_image("grid.png").pixels.shape == (42, 20, 3)
    assert run("sample", "--out", "each", "--count", 2, *options)[0] == 0
    assert sorted(path.name for path in Path("each").iterdir()) == ["sample-000.png", "sample-001.png"]
    first = images.read_image("each/sample-000.png").pixels
    np.testing.assert_array_equal(images.read_image("grid.png").pixels[:20, :9], first)


def test_info(tiny, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for arguments in ((), (tiny,)):
        code, out, err = run("info", *arguments)
        assert (code, err) == (0, "")
        for words in ("levels", "parameters", "data licence", "multiples of", "Recommended settings"):
            assert words in out
    assert "CC0-1.0" in out
    assert re.search(r"sha256 +[0-9a-f]{64}\b", out)

    facts = json.loads(run("info", tiny, "--json")[1])
    loaded = hj.load_prior(tiny)
    assert (facts["name"], facts["card"], facts["levels"], facts["multiple"]) == ("tiny", None, loaded.levels, 8)
    assert sum(group["levels"] for group in facts["latents"]) == loaded.levels
    assert facts["settings"] == loaded.info["settings"]
    assert facts["sha256"] == json.loads((tiny / "prior.json").read_text())["sha256"]


def test_info_shows_the_model_card(tmp_path, tiny, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = Path(shutil.copytree(tiny, tmp_path / "carded"))
    card = "# What it is\n\nA *toy*, \x1b[31mσ\x9b2J = 5.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    (folder / "README.md").write_text(card)
    code, out, err = run("info", folder)
    assert (code, err) == (0, "")
    assert out.startswith(card.replace("\x1b", "").replace("\x9b", ""))  # plain where it is piped
    assert "Recommended settings" in out
    assert json.loads(run("info", folder, "--json")[1])["card"] == str(folder / "README.md")
    assert f"{folder}/README.md, its pictures beside it" in out

    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    out = run("info", folder)[1]
    assert "What it is" in out
    assert "\x1b[3mtoy\x1b[0m" in out
    assert "*toy*" not in out
    assert "\x1b[31mσ" not in out
    assert "Recommended settings" in out


def test_help_and_version(run):
    for arguments in ((), ("--help",)):
        code, out, _ = run(*arguments)
        assert code == 0
        assert all(name in out for name in ("restore", "degrade", "sample", "train", "tune", "info"))
    assert run("--version")[1].startswith("hvae-jax ")


def test_train(folder, tiny, run, monkeypatch):
    calls = []
    monkeypatch.setattr(training, "train", lambda *args, **options: calls.append((args, options)))
    Path("config.json").write_text(training.TrainConfig(batch_size=3).to_json())
    Path("about.json").write_text(json.dumps({"name": "mine"}))
    options = ("--config", "config.json", "--steps", 7, "--init", tiny, "--description", "about.json")
    assert run("train", "--data", folder, "--out", "out", *options)[0] == 0
    (config, data, out), keywords = calls[-1]
    assert (config.batch_size, config.steps, data, out) == (3, 7, folder, Path("out"))
    assert keywords["description"] == {"name": "mine"}
    assert "first_level" in keywords["init"]

    def interrupted(*args, **options):
        raise training.Interrupted("stopped at step 3 of 7; the same command goes on")

    monkeypatch.setattr(training, "train", interrupted)
    code, _, err = run("train", "--data", folder, "--out", "out")
    assert code == 130
    assert "stopped at step 3" in err


def test_train_presets_and_time(folder, run, monkeypatch):
    for name, settings in training.RUNS.items():
        code, out, _ = run("train", "--print-config", name)
        assert code == 0
        assert training.TrainConfig.from_dict(json.loads(out)) == settings

    def out_of_time(config, *args, stop_after, **options):
        assert (config, stop_after) == (training.RUNS["gpu-25min"], 9)
        raise training.OutOfTime("stopped at step 3 of 7; the same command goes on")

    monkeypatch.setattr(training, "train", out_of_time)
    code, _, err = run("train", "--data", folder, "--out", "out", "--preset", "gpu-25min", "--stop-after", 9)
    assert code == cli.train.OUT_OF_TIME
    assert "error" not in err
    assert "the same command goes on" in err


def test_a_bug_is_not_hidden(folder, monkeypatch):
    def fail(*args):
        raise TypeError("a bug")

    monkeypatch.setattr(hj, "read_photograph", fail)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["degrade", "clean.png", "--out", "x.png", "--task", "denoise"])


# Mistakes


def check_refused(folder, result, sentence, before=None):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err), err
    assert re.search(sentence, err), err
    if before is not None:
        assert contents(folder) == before


RESTORE = ("restore", "photo.png", "--out", "x.png")
DEGRADE = ("degrade", "clean.png", "--out", "x.png")
DENOISE = ("--task", "denoise")
MISTAKES = {
    "missing file": (("restore", "none.png", "--out", "x.png", *DENOISE), "none.png"),
    "missing file of two": (("restore", "photo.png", "none.png", "--out", "results", *DENOISE), "none.png"),
    "unreadable image": (("restore", "broken.png", "--out", "x.png", *DENOISE), "broken.png"),
    "unreadable image of two": (("restore", "photo.png", "broken.png", "--out", "results", *DENOISE), "broken.png"),
    "image type": (("restore", "photo.gif", "--out", "results", *DENOISE), r"photo\.gif"),
    "empty folder": (("restore", "empty", "--out", "results", *DENOISE), "empty"),
    "no task": (RESTORE, "--task"),
    "unknown task": ((*RESTORE, "--task", "denoice"), "denoice"),
    "unknown option": ((*RESTORE, *DENOISE, "--frobnicate"), "--frobnicate"),
    "unknown command": (("repair",), "repair"),
    "unknown boundary": ((*RESTORE, *DEBLUR, "--boundary", "open"), "open"),
    "unknown kernel": ((*RESTORE, "--task", "deblur", "--kernel", "star:3"), "star:3"),
    "kernel without number": ((*RESTORE, "--task", "deblur", "--kernel", "motion:3"), "motion:LENGTH,ANGLE"),
    "kernel file": ((*RESTORE, "--task", "deblur", "--kernel", "negative.npy"), "negative.npy"),
    "kernel too large": ((*RESTORE, "--task", "deblur", "--kernel", "gaussian:9"), "at most the image's"),
    "no kernel": ((*RESTORE, "--task", "deblur"), "kernel for the task deblur"),
    "kernel without meaning": ((*RESTORE, *DENOISE, "--kernel", "gaussian:1"), "no kernel"),
    "no factor": ((*RESTORE, "--task", "sr"), "factor for the task sr"),
    "factor": ((*RESTORE, "--task", "sr", "--factor", "1"), "--factor"),
    "no mask": ((*RESTORE, "--task", "inpaint"), "mask for the task inpaint"),
    "mask of another size": ((*RESTORE, "--task", "inpaint", "--mask", "small-mask.png"), "20x13, got 8x8"),
    "missing mask": ((*RESTORE, "--task", "inpaint", "--mask", "none.png"), "none.png"),
    "negative noise": ((*RESTORE, *DENOISE, "--noise-std", "-3"), "at least 0, got -3"),
    "noise in words": ((*RESTORE, *DENOISE, "--noise-std", "much"), "much"),
    "noise not a number": ((*RESTORE, *DENOISE, "--noise-std", "nan"), "nan"),
    "unknown prior": ((*RESTORE, *DENOISE, "--prior", "faces"), "faces"),
    "folder that is no prior": ((*RESTORE, *DENOISE, "--prior", "empty"), "prior.json"),
    "output exists": (("restore", "photo.png", "--out", "clean.png", *DENOISE), "exists"),
    "output is the input": (("restore", "photo.png", "--out", "photo.png", *DENOISE, "--overwrite"), "the same"),
    "output folder is the input's": (("restore", "photo.png", "--out", ".", *DENOISE, "--overwrite"), "the same"),
    "output folder is a file": (("restore", "photo.png", "--out", "file", *DENOISE), "file"),
    "output type": (("restore", "photo.png", "--out", "x.gif", *DENOISE), r"\.gif"),
    "file for two images": (("restore", "photo.png", "clean.png", "--out", "x.png", *DENOISE), "folder"),
    "two of one name": (("restore", "photo.png", "../{name}/photo.png", "--out", "r", *DENOISE), "own for each"),
    "circular of any size": ((*RESTORE, *DEBLUR, "--boundary", "circular"), "the boundary natural"),
    "reference of another size": ((*RESTORE, *DENOISE, "--reference", "small-mask.png"), "small-mask.png"),
    "missing reference": ((*RESTORE, *DENOISE, "--reference", "none.png"), "none.png"),
    "uncertainty in the result's place": ((*RESTORE, *DENOISE, "--uncertainty", "x.png"), "--uncertainty .*the same"),
    "uncertainty in the input's place": (
        (*RESTORE, *DENOISE, "--uncertainty", "photo.png", "--overwrite"),
        "the same",
    ),
    "uncertainty exists": ((*RESTORE, *DENOISE, "--uncertainty", "clean.png"), "exists"),
    "uncertainty's type": ((*RESTORE, *DENOISE, "--uncertainty", "u.gif"), r"\.gif"),
    "uncertainty of two in a file": (
        ("restore", "photo.png", "clean.png", "--out", "r", "--uncertainty", "u.png", *DENOISE),
        "folder",
    ),
    "temperature above 1": ((*RESTORE, *DENOISE, "--noise-std", "5", "--temperature", "1.5"), "temperature"),
    "temperature in words": ((*RESTORE, *DENOISE, "--temperature", "hot"), "hot"),
    "negative decoder-std": ((*RESTORE, *DENOISE, "--decoder-std", "-1"), "--decoder-std"),
    "negative tolerance": ((*RESTORE, *DENOISE, "--noise-std", "5", "--tolerance", "-1"), "tolerance"),
    "iterations": ((*RESTORE, *DENOISE, "--iterations", "0"), "--iterations"),
    "cg-steps alone": ((*RESTORE, *DENOISE, "--cg-steps", "2"), "--data-step cg"),
    "degrade a missing file": (("degrade", "none.png", "--out", "x.png", *DENOISE), "none.png"),
    "degrade with unknown noise": ((*DEGRADE, *DENOISE, "--noise-std", "auto"), "auto"),
    "degrade to the input": (("degrade", "clean.png", "--out", "clean.png", *DENOISE, "--overwrite"), "the same"),
    "degrade to a file that exists": (("degrade", "clean.png", "--out", "photo.png", *DENOISE), "exists"),
    "degrade with a mask of another size": ((*DEGRADE, "--task", "inpaint", "--mask", "small-mask.png"), "8x8"),
    "degrade natural": ((*DEGRADE, "--task", "sr", "--factor", "2", "--boundary", "natural"), "circular"),
    "sample's size": (("sample", "--out", "x.png", "--size", "128"), "HxW"),
    "sample's temperature": (("sample", "--out", "x.png", "--temperature", "0"), "--temperature"),
    "sample exists": (("sample", "--out", "photo.png"), "exists"),
    "train on nothing": (("train", "--data", "none", "--out", "out"), "none"),
    "train on an empty folder": (("train", "--data", "empty", "--out", "out"), "empty"),
    "train without settings": (("train", "--data", ".", "--out", "out", "--config", "none.json"), "none.json"),
    "train with another file's settings": (("train", "--data", ".", "--out", "out", "--config", "file"), "file"),
    "train with another file's description": (
        ("train", "--data", ".", "--out", "out", "--description", "file"),
        "JSON",
    ),
    "train with two settings": (
        ("train", "--data", ".", "--out", "out", "--config", "file", "--preset", "cpu-3h"),
        "--config or --preset, got both",
    ),
    "train for no time": (("train", "--data", ".", "--out", "out", "--stop-after", "0"), "--stop-after above 0"),
    "train into a file": (("train", "--data", ".", "--out", "file"), "file"),
    "info of nothing": (("info", "none"), "none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_sentence(folder, run, tiny, mistake):
    arguments, sentence = MISTAKES[mistake]
    arguments = [argument.replace("{name}", folder.name) for argument in arguments]
    if arguments[0] == "restore" and "--prior" not in arguments:
        arguments += ["--prior", str(tiny)]
    before = contents(folder)
    check_refused(folder, run(*arguments), sentence, before)


@pytest.mark.parametrize(
    "mistake", ["missing file", "unreadable image of two", "output exists", "mask of another size", "unknown option"]
)
def test_mistake_through_the_real_command(folder, mistake):
    arguments, sentence = MISTAKES[mistake]
    before = contents(folder)
    result = command(*arguments, cwd=folder)
    check_refused(folder, (result.returncode, result.stdout, result.stderr), sentence, before)


def test_full_disk(folder, run, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(folder)
    monkeypatch.setattr(os, "fsync", fail)
    check_refused(folder, run(*DEGRADE, *DENOISE), "No space left on device", before)


def test_full_memory(folder, run, tiny, monkeypatch):
    def fail(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte.")

    before = contents(folder)
    monkeypatch.setattr(room, "restore", fail)
    check_refused(folder, run(*RESTORE, *DENOISE, "--prior", tiny), "enough memory", before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_full_disk_through_the_real_command(folder):
    """A limit of half a kilobyte on files, which stands for the disk's end."""
    before = contents(folder)
    limit = ("sh", "-c", 'ulimit -f 1 && exec "$@"', "sh")
    arguments = ("degrade", PHOTO, "--out", "x.npy", *DENOISE)
    result = command(*arguments, cwd=folder, before=limit)
    check_refused(folder, (result.returncode, result.stdout, result.stderr), "x.npy: .* File too large", before)
