"""Killed at random moments, and with the disk full at each write: nothing is lost and nothing half-written stays."""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hvae_jax import cli, images
from hvae_jax.folders import MANIFEST
from hvae_jax.prior import update_prior
from tests.helpers import TINY_SETTINGS

KILLS = 20


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        images.write_image(tmp_path / "in" / f"{number}.png", rng.random((16, 16, 3)))
    return tmp_path / "in"


def killed_after(seconds, *arguments):
    """Whether the command was killed, rather than done before."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, err
    return False


@pytest.mark.slow
def test_a_folder_run_killed_at_random_moments(prior_folder, photographs, tmp_path):
    def command(out):
        options = ("--task", "denoise", "--noise-std", "5", "--prior", str(prior_folder), "--out", f"{out}/")
        return sys.executable, "-m", "hvae_jax", "restore", str(photographs), *options

    whole, out = tmp_path / "whole", tmp_path / "out"
    start = time.monotonic()
    subprocess.run(command(whole), check=True, capture_output=True)
    longest = time.monotonic() - start
    expected = {path.name: path.read_bytes() for path in whole.glob("*.png")}
    assert len(expected) == 8
    chance = random.Random(0)
    killed = 0
    while killed < KILLS:
        # A start from nothing takes longest; the moments are those at which results are written, and some before.
        killed += killed_after(chance.uniform(0.3, 1.1) * longest, *command(out))
        results = {path.name: path.read_bytes() for path in out.glob("*.png")} if out.exists() else {}
        assert results.items() <= expected.items()  # what is there is whole
        if len(results) == len(expected):
            shutil.rmtree(out)
    # The next run does what is missing, and only that, and clears up.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")} if out.exists() else {}
    subprocess.run(command(out), check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == expected
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@contextlib.contextmanager
def full_disk(room):
    """No file of this process can grow beyond so many bytes, as on a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


ROOM = (0, 100, 2000)
"""Bytes: nothing can be written, not even a header, or the middle of a file."""


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("name", ["out.png", "out.tif", "out.npy", "out.webp"])
def test_a_disk_that_is_full_at_a_result(name, room, photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = str(photographs / "0.png")
    with full_disk(room):
        code = cli.main(["degrade", source, "--task", "denoise", "--noise-std", "5", "--out", f"results/{name}"])
    err = capsys.readouterr().err
    if code == 0:  # a small file fits
        assert (tmp_path / "results" / name).stat().st_size <= room
        images.read_image(tmp_path / "results" / name)
    else:
        assert name in err
        assert "too large" in err.lower()
        assert "Traceback" not in err
        assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_in_a_folder_run(prior_folder, photographs, tmp_path, capsys):
    """What was written stays, each whole; with room again the same command does the rest."""
    np.save(photographs / "9.npy", np.random.default_rng(1).random((64, 64, 3), np.float32))
    out = tmp_path / "out"
    command = ["restore", str(photographs), "--task", "denoise", "--noise-std", "5", "--prior", str(prior_folder)]
    command += ["--out", f"{out}/", "--keep-going"]
    with full_disk(6000):
        assert cli.main(command) == 1
    assert "9.npy" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {MANIFEST, *(f"{number}.png" for number in range(8))}
    assert cli.main(command) == 0
    assert "8 of 9 are done already" in capsys.readouterr().out
    assert images.read_image(out / "9.npy").pixels.shape == (64, 64, 3)


FULL = """
import resource, signal, sys
from hvae_jax import load_prior
model = load_prior(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    model.save(sys.argv[2])
except (OSError, ValueError):
    print("refused")
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOM)
def test_a_disk_that_is_full_at_a_prior(prior_folder, tmp_path, room):
    """In a process of its own: Orbax leaves threads and coroutines behind that failed."""
    line = [sys.executable, "-c", FULL, str(prior_folder), str(tmp_path / "new"), str(room)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_a_description(prior_folder):
    before = (prior_folder / "prior.json").read_bytes()
    with full_disk(500), pytest.raises(OSError, match="too large"):
        update_prior(prior_folder, settings={"default": TINY_SETTINGS}, note="x" * 5000)
    assert (prior_folder / "prior.json").read_bytes() == before
    assert {path.name for path in prior_folder.iterdir()} == {"params", "prior.json"}
