"""What a folder's command finds of earlier ones, and what it writes where values and pixels are unusual."""

import importlib

import numpy as np
import pytest

from hvae_jax import cli, folders, images
from hvae_jax.folders import Job, Manifest

restore_loop = importlib.import_module("hvae_jax.cli.run")


@pytest.fixture
def run(prior_folder, tmp_path, capsys, monkeypatch):
    """`hvae-jax restore` in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(["restore", *map(str, arguments), "--prior", str(prior_folder)])
        return code, *capsys.readouterr()

    return run


def blocks(side=64):
    """A picture of sharp edges."""
    return np.repeat(np.repeat(np.random.default_rng(0).random((side // 8, side // 8, 3)), 8, 0), 8, 1) * 0.8 + 0.1


def job_in(folder, name="a.png"):
    for place in (folder / "in", folder / "out"):
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(b"a picture")
    return Job(folder / "in" / name, None, folder / "out" / name, several=True)


def test_only_what_was_written_last_is_done(tmp_path):
    job = job_in(tmp_path)
    mine, theirs = Manifest({"noise": 5}), Manifest({"noise": 40}, "other")
    mine.add(job)
    assert mine.done(job)
    theirs.add(job)  # with other settings, in a manifest of another name
    mine.forget()
    assert not mine.done(job)
    assert theirs.done(job)
    mine.add(job, map=False)
    assert mine.done(job, tmp_path / "map.png")  # none can be had
    mine.add(job)
    assert not mine.done(job, tmp_path / "map.png")
    assert mine.wrote(job) is not None
    job.result.unlink()
    assert mine.wrote(job) is None


def test_the_summary_goes_by_time_and_not_by_name(tmp_path):
    job = job_in(tmp_path)
    Manifest({}, "z").add_failure(job, "damaged")
    assert folders.summary(tmp_path / "out")[:3] == (0, 0, 0)
    Manifest({}, "a").add(job)
    assert folders.summary(tmp_path / "out") == (1, 0, 0, {})


def test_results_below_the_inputs_are_no_inputs(tmp_path):
    for place in ("pics", "pics/out", "pics/maps", "pics/more"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "a.png").write_bytes(b"")
    found = folders.plan(
        [str(tmp_path / "pics")], f"{tmp_path}/pics/out", recursive=True, besides=f"{tmp_path}/pics/maps"
    )
    assert [found.name(job) for job in found.jobs] == ["a.png", "more/a.png"]


def test_a_command_stopped_behind_its_result_goes_on(run, monkeypatch):
    for name in "ab":
        images.write_image(f"in/{name}.png", blocks())
    command = ("in", "--task", "denoise", "--noise-std", 5, "--out", "out/", "--reference", "in")
    with monkeypatch.context() as patched:
        patched.setattr(restore_loop, "quality_in_words", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*command)[0] == 130
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "1 of 2 are done already" in out
    # Other settings, and then those again: what is there now was not made with them.
    assert run("in", "--task", "denoise", "--noise-std", 40, "--out", "out/", "--overwrite")[0] == 0
    code, out, err = run("in", "--task", "denoise", "--noise-std", 5, "--out", "out/")
    assert code == 2
    assert "out/a.png: expected a new file, but it exists" in err


def test_pictures_that_are_left_are_done_without_a_map(run):
    images.write_image("in/a.png", blocks(128))
    command = ("in", "--task", "deblur", "--kernel", "gaussian:3", "--out", "out/", "--uncertainty", "maps/")
    code, out, err = run(*command)
    assert code == 0
    assert "left as it was" in out
    assert "how sure the result is was not computed" in err
    code, out, _ = run(*command)
    assert code == 0
    assert "1 of 1 are done already" in out


@pytest.mark.slow
def test_the_maps_of_cut_outs_have_holes_and_are_made_anew(run, tmp_path):
    opacity = np.ones((64, 64), np.float32)
    opacity[:10] = 0
    images.write_image("in/a.tif", blocks(), bit_depth=16, alpha=opacity)
    command = ("in", "--task", "denoise", "--noise-std", 5, "--out", "out/", "--uncertainty", "maps/")
    assert run(*command)[::2] == (0, "")
    (tmp_path / "maps" / "a.tif").unlink()
    assert run(*command)[::2] == (0, "")
    known = np.isfinite(images.read_image("maps/a.tif").pixels[..., 0]) & ~images.read_image("maps/a.tif").missing
    assert not known[:10].any()
    assert known[10:].all()


def test_large_values_are_black_to_white_where_a_file_holds_no_others(run):
    pixels = (1000 * blocks()).astype(np.float32)
    np.save("a.npy", pixels)
    code, out, _ = run("a.npy", "--task", "denoise", "--noise-std", 5, "--out", "a.png", "--reference", "a.npy")
    assert code == 0
    assert "; its values from 0 to 8" in out
    assert "; PSNR inf -> " in out
    assert 0.3 < images.read_image("a.png").pixels.mean() < 0.7
    assert run("a.npy", "--task", "denoise", "--noise-std", 5, "--out", "b.npy")[0] == 0
    np.testing.assert_allclose(np.load("b.npy").mean(), pixels.mean(), rtol=0.05)


def test_missing_pixels_of_a_picture_that_is_left(run):
    pixels = blocks(128).astype(np.float32)
    pixels[40:50, 40:50] = np.nan
    np.save("a.npy", pixels)
    code, _, err = run("a.npy", "--task", "deblur", "--kernel", "gaussian:3", "--out", "b.npy")
    assert code == 0
    assert "100 missing pixels (NaN) were filled" in err
    left = np.load("b.npy")
    assert (left[40:50, 40:50] > 0).all()
    np.testing.assert_array_equal(np.where(np.isnan(pixels), 0, left), np.nan_to_num(pixels))
    code, _, err = run("a.npy", "--task", "deblur", "--kernel", "estimate", "--out", "c.npy")
    assert code == 0
    assert "100 missing pixels (NaN) were not filled: they are 0" in err


def test_shards_of_a_cluster(run):
    images.write_image("in/a.png", blocks())
    code, _, err = run("in", "--task", "denoise", "--out", "out/", "--cluster", "local", "--shard", "1/2")
    assert code == 2
    assert "expected --shard or --cluster, got both" in err
