"""Shards of a folder: who does what, several processes at once, one of them killed; what is summed up."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hvae_jax import cli, folders, images
from hvae_jax.folders import MANIFEST, Shard

SLURM = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "7"}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, (1, 1)),
        ("2/3", {}, (2, 3)),
        ("1/1", SLURM, (1, 1)),
        (None, SLURM, (3, 4)),
        (None, KUBERNETES, (1, 7)),
    ],
)
def test_whose_share_it_is(text, environment, expected):
    assert Shard.of(text, environment)[:2] == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/3", {}, "--shard as I/N with I from 1 to N, got 0/3"),
        ("4/3", {}, "got 4/3"),
        ("x", {}, "got x"),
        (None, {"SLURM_ARRAY_TASK_ID": "5"}, "SLURM_ARRAY_TASK_ID as I/N"),
        (None, {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_INDEX as I/N with I from 1 to N, got 2/"),
    ],
)
def test_what_is_no_share(text, environment, message):
    with pytest.raises(ValueError, match=message):
        Shard.of(text, environment)


def test_shares_are_all_and_disjoint():
    names = [f"folder/{i}.png" for i in range(1000)]
    counts = [sum(Shard(i + 1, 7).has(name) for name in names) for i in range(7)]
    assert sum(counts) == 1000
    assert min(counts) > 100
    assert all(sum(Shard(i + 1, 7).has(name) for i in range(7)) == 1 for name in names[:50])


def photographs(folder, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        images.write_image(folder / f"{i % 3}" / f"{i}.png", rng.random((16, 16, 3)))
    return folder


def options(prior, source, out):
    more = ("--task", "denoise", "--noise-std", "5", "--prior", str(prior), "--out", f"{out}/", "--keep-going")
    return ["restore", str(source), "-r", *more]


def test_shards_one_after_the_other(prior_folder, tmp_path, capsys, monkeypatch):
    source, out = photographs(tmp_path / "in", 9), tmp_path / "out"
    (source / "0" / "bad.png").write_text("no picture")
    command = options(prior_folder, source, out)
    codes = [cli.main([*command, "--shard", f"{i}/3"]) for i in (1, 2, 3)]
    assert sorted(codes) == [0, 0, 1]
    said = capsys.readouterr().out
    assert sum(int(n) for n in re.findall(r"(\d+) of 10 images \(--shard \d/3\)", said)) == 10
    assert len([*out.rglob("[!.]*.png")]) == 9
    assert cli.main(["status", str(out), "--failures"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{out}: 9 restored, 0 of them with a warning; 1 failed"
    assert second.startswith(f"{source}/0/bad.png: expected an image")

    # The same folder without shards, or with others: nothing is done twice, and what was mended is done.
    images.write_image(source / "0" / "bad.png", np.ones((16, 16, 3)), overwrite=True)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    assert cli.main(command) == 0
    assert "9 of 10 are done already" in capsys.readouterr().out
    next(out.rglob("8.png")).unlink()
    assert cli.main(["status", str(out)]) == 0
    assert "10 restored, 0 of them with a warning, 1 of them removed since; 0 failed" in capsys.readouterr().out
    assert cli.main(["status", str(tmp_path / "in")]) == 2
    assert "expected a folder of results with a manifest" in capsys.readouterr().err
    rows = [json.loads(line) for path in folders.manifests(out / "0") for line in path.read_text().splitlines()]
    assert {path.name for path in folders.manifests(out / "0")} >= {MANIFEST}
    assert all({"settings", "key", "values"} == set(row) for row in rows)


def test_what_ends_a_folder_and_what_does_not(prior_folder, tmp_path, capsys, monkeypatch):
    """A picture that is too large is one that failed; a disk that is full ends the command, for all others fail too."""
    source, tried = photographs(tmp_path / "in", 3), []

    def fail(*errors):
        def restore(*_, **__):
            tried.append(None)
            raise errors[len(tried) - 1]

        tried.clear()
        monkeypatch.setattr("hvae_jax.photographs.restore_photograph", restore)
        code = cli.main(options(prior_folder, source, tmp_path / "out"))
        return code, len(tried), capsys.readouterr().err.splitlines()

    memory = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
    code, count, said = fail(memory, MemoryError(), OSError(errno.EACCES, "Permission denied", "x.png"))
    assert (code, count, len(said)) == (1, 3, 3)
    assert said[0].startswith(f"error: {source}/0/0.png: expected enough memory for this size")
    assert said[2] == f"error: {source}/2/2.png: x.png: Permission denied"

    full = ValueError("x.png: expected to write the file")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    code, count, said = fail(memory, full)
    assert (code, count, len(said)) == (2, 2, 1)
    assert said[0].startswith(f"error: {source}/1/1.png: x.png: expected to write")

    with pytest.raises(ZeroDivisionError):  # a bug is none of the user's mistakes
        fail(ZeroDivisionError())


@pytest.mark.slow
def test_four_processes_one_of_them_killed(prior_folder, tmp_path):
    source, out = photographs(tmp_path / "in", 24), tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}

    def start(i):
        line = [sys.executable, "-m", "hvae_jax", *options(prior_folder, source, out), "--shard", f"{i}/4"]
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    processes = [start(i) for i in (1, 2, 3, 4)]
    deadline = time.monotonic() + 300
    mine = [*out.rglob("[!.]*.png")]
    while not (mine := [*out.rglob("[!.]*.png")]):  # in the middle of it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[0].kill()
    for process in processes:
        process.communicate(timeout=300)
    assert [process.returncode for process in processes[1:]] == [0, 0, 0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("[!.]*.png")}
    assert set(mine) <= set(before)
    again = start(1)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    after = {path: path.stat().st_mtime_ns for path in out.rglob("[!.]*.png")}
    assert len(after) == 24
    noted = sum(len(folders.read_rows(path)) for path in out.rglob(f"{MANIFEST.removesuffix('.jsonl')}*.jsonl"))
    # At most one, which was written when its process was killed but not noted, was done again.
    assert sum(after[path] != written for path, written in before.items()) <= 1
    assert noted in (24, 25)
    assert folders.summary(out)[:1] == (24,)
    assert not [*out.rglob("*tmp*")]


@pytest.mark.slow
def test_the_second_process_finds_its_programs_compiled(prior_folder, tmp_path):
    source = photographs(tmp_path / "in", 3)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(cli.__file__).parents[2]),
        "HVAE_JAX_CACHE": str(tmp_path / "c"),
    }
    del environment["HVAE_JAX_NO_COMPILE_CACHE"]
    environment["JAX_LOGGING_LEVEL"] = "DEBUG"

    def hits(*more):
        out = tmp_path / f"out{len([*tmp_path.iterdir()])}"
        line = [sys.executable, "-m", "hvae_jax", *options(prior_folder, source, out), *more]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stderr.count("Persistent compilation cache hit")

    assert hits("--no-compile-cache") == 0
    assert not (tmp_path / "c").exists()
    before = hits()
    kept = {*(tmp_path / "c").rglob("*-cache")}
    assert len(kept) > 5
    assert hits() >= before + len(kept)
    assert {*(tmp_path / "c").rglob("*-cache")} == kept
