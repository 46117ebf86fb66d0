"""Training on several devices and in several processes gives what it gives on one device, but for the order of sums."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest

from hvae_jax import load_prior
from hvae_jax.cli import main
from hvae_jax.training import LossConfig, OptimizerConfig, TrainConfig, data, devices, train
from tests.helpers import random_prior, tiny_config

ROOT = Path(__file__).parents[1]

TOLERANCE = 1e-5
"""Relative, of what is logged: sums in another order differ by 1e-7, and after forty steps it was 3e-7. The parameters
differ by ten times as much of what they have moved, 4e-6, for Adam divides small gradients by small numbers."""

CONFIG = TrainConfig(
    model=tiny_config(levels=1, noise_conditional=True, clip_input=False, space_to_depth=2),
    steps=40,
    batch_size=4,
    crop_size=32,
    scales=(1, 2),
    # So that a set of photographs follows another.
    store_gib=11 * data.PITCH / 2**30,
    store_steps=7,
    checkpoint_every=5,
    log_every=1,
    loss=LossConfig(decoder_std=0.05, noise_max=0.1, dequantization_std=0.0, iterate_fraction=0.5),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, settings, and a prior to start from."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for k in range(4):
        PIL.Image.fromarray(rng.integers(0, 256, (70 + k, 64, 3), np.uint8)).save(folder / "photos" / f"{k}.png")
    (folder / "config.json").write_text(CONFIG.to_json())
    random_prior(CONFIG.architecture).save(folder / "start")
    return folder


def test_devices_that_cannot_share_a_batch_are_refused(tmp_path):
    one = jax.devices()[0]
    eight = jax.sharding.Mesh(np.array([one] * 8), ("batch",))

    def refused(match, mesh=eight, **changes):
        with pytest.raises(ValueError, match=match):
            train(dataclasses.replace(CONFIG, **changes), tmp_path / "absent", tmp_path / "run", mesh=mesh)

    refused(r"batch_size that 8 devices can share.* got 12 and 6; 6 devices can", batch_size=12)
    refused(r"and iterates too, multiples of that, got 8 and 4; 4 devices can", batch_size=8)
    refused(r"one axis, named 'batch', got \('rows',\)", jax.sharding.Mesh(np.array([one]), ("rows",)))
    assert not (tmp_path / "run").exists()


def test_without_other_devices_there_is_no_mesh():
    assert devices.mesh_of() is None
    assert devices.mesh_of(3) is None
    assert devices.Agreement(None).on(devices.Wish.INTERRUPTED) == devices.Wish.INTERRUPTED


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--distributed", "host:1"], "--distributed HOST:PORT and --process together, got one of them"),
        (["--process", "1/2"], "--distributed HOST:PORT and --process together, got one of them"),
        (["--distributed", "host", "--process", "1/2"], "expected --distributed auto or HOST:PORT, got host"),
        (["--distributed", "host:1", "--process", "0/2"], "expected --process as I/N with I from 1 to N, got 0/2"),
    ],
)
def test_processes_that_cannot_be_meant_are_refused(options, sentence, tmp_path, capsys):
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def run_of(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, CONFIG.steps + 1))
    return lines, load_prior(out / "prior")


EIGHT = """
import dataclasses, json, re, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from hvae_jax import load_prior
from hvae_jax.training import OutOfTime, TrainConfig, train
from hvae_jax.training.data import Photographs
from hvae_jax.training.devices import everywhere, mesh_of, place, shardings
from hvae_jax.training.state import init_state, train_steps
from tests.helpers import CountCompiles

folder = Path(sys.argv[1])
config = dataclasses.replace(TrainConfig.from_file(folder / "config.json"), batch_size=16, steps=8)
mesh, params, key = mesh_of(), load_prior(folder / "start").params, jax.random.key(1)
assert mesh.size == 8

def losses(run):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]

def prepared(mesh):
    state = init_state(config, params)
    return place(state, shardings(state, mesh)), Photographs(folder / "photos", config, everywhere(mesh)).at(0)[0]

# One step: the gradient is Adam's first moment divided by 0.1, as it is not clipped.
config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, clip_norm=1e9, warmup_steps=0))
(one, store_one), (many, store_many) = prepared(None), prepared(mesh)
compiled = train_steps.lower(many, store_many, key, 1, config, mesh).compile()
alone = train_steps.lower(one, store_one, key, 1, config).compile()
one, terms_one, norm_one = train_steps(one, store_one, key, 1, config)
given = many
many, terms_many, norm_many = train_steps(many, store_many, key, 1, config, mesh)
assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given)), "not donated"
np.testing.assert_allclose(norm_many, norm_one, rtol=1e-6)
largest = 0.0
paths = jax.tree_util.tree_leaves_with_path(one.optimizer)
for (path, a), b in zip(paths, jax.tree.leaves(many.optimizer), strict=True):
    if ".mu" in jax.tree_util.keystr(path):
        largest = max(largest, np.abs(np.asarray(a)).max())
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(np.asarray(a)).max(), err_msg=str(path))
assert largest > 0
for name in ("loss", "kl", "reconstruction", "psnr"):
    np.testing.assert_allclose(getattr(terms_many, name), getattr(terms_one, name), rtol=1e-5)
for a, b in zip(jax.tree.leaves(one.restorations), jax.tree.leaves(many.restorations), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)

# Parameters on all devices, restorations split; a second step compiles nothing.
assert {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(many._replace(restorations=None))} == {True}
assert {leaf.sharding.shard_shape(leaf.shape)[0] for leaf in jax.tree.leaves(many.restorations)} == {1}
with CountCompiles() as count:
    many, *_ = train_steps(many, store_many, key, 1, config, mesh)
    jax.block_until_ready(many)
assert count.programs == [], count.programs

# Each device does an eighth of the work; the images that are gathered are none.
work = compiled.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
memory = compiled.memory_analysis().temp_size_in_bytes / alone.memory_analysis().temp_size_in_bytes
assert work < 0.2 and memory < 0.25, (work, memory)
assert not re.search(r"(f32|c64)\\S*,\\S* all-gather", compiled.as_text())

# A run begun on all devices, which is the default, goes on on one.
one, several = (Path(sys.argv[2]) / name for name in ("one", "several"))
try:
    train(config, folder / "photos", several, init=params, stop_after=1e-9)
except OutOfTime as stop:
    assert str(stop) == "stopped at step 1 of 8; the same command goes on"
with jax.default_device(jax.devices()[3]):
    train(config, folder / "photos", several)
    train(config, folder / "photos", one, init=params)
for a, b in zip(*map(losses, (one, several)), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-5)
print("fine")
"""


@pytest.mark.slow
def test_eight_devices_take_the_step_that_one_does(folder, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EIGHT, str(folder), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "fine\n"


class Processes:
    """A run through the command line, in one process or in several that are told of each other."""

    def __init__(self, folder: Path, out: Path, count: int, files: Sequence[Path] = ()):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        paths = {"data": "photos", "config": "config.json", "init": "start"}
        given = [part for name, path in paths.items() for part in (f"--{name}", str(folder / path))]
        self.out, self.running = out, []
        for number in range(1, count + 1):
            place = ["--distributed", address, "--process", f"{number}/{count}"] if count > 1 else []
            place += ["--files", str(files[number - 1])] if files else []
            command = [sys.executable, "-m", "hvae_jax", "train", *given, "--out", str(out), *place]
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            }
            pipe = subprocess.PIPE
            self.running.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.running:
            process.kill()
            process.communicate()

    def wait_for_step(self, step):
        deadline = time.monotonic() + 600
        while not any(int(path.name) >= step for path in (self.out / "checkpoints").glob("*") if path.name.isdecimal()):
            assert all(process.poll() is None for process in self.running), self.ended()
            assert time.monotonic() < deadline, "the run is too slow"
            time.sleep(0.01)

    def ended(self, timeout=600):
        """Exit code, output and errors of each process."""
        texts = [process.communicate(timeout=timeout) for process in self.running]
        return [(process.returncode, *text) for process, text in zip(self.running, texts, strict=True)]


@pytest.mark.slow
def test_processes_that_do_not_go_together_all_refuse(folder, tmp_path):
    lists = [tmp_path / f"{name}.txt" for name in ("these", "others", "absent")]
    for file, names in zip(lists, ("1.png", "2.png", "9.png"), strict=True):
        file.write_text(names + "\n")

    def sentences(second):
        with Processes(folder, tmp_path / "run", 2, (lists[0], second)) as two:
            ends = two.ended()
        assert [code for code, *_ in ends] == [2, 2]
        assert "Traceback" not in ends[0][2] + ends[1][2]
        return [complaint for *_, complaint in ends]

    different = "expected the same settings, photographs and checkpoints in all processes, got others in 2"
    assert all(different in complaint for complaint in sentences(lists[1]))
    first, second = sentences(lists[2])
    assert "process 2 of this run stopped at a mistake, which it tells" in first
    assert "photographs that exist, got 1 that do not" in second
    assert not (tmp_path / "run").exists()

    command = [
        sys.executable,
        "-m",
        "hvae_jax",
        "train",
        "--data",
        str(folder / "photos"),
        "--out",
        str(tmp_path / "run"),
    ]
    alone = subprocess.run([*command, "--distributed", "auto"], capture_output=True, text=True, cwd=ROOT)
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "a job of Slurm, Open MPI or Kubernetes with --distributed auto, got none" in alone.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_whatever_happens_to_them(folder, tmp_path):
    with Processes(folder, tmp_path / "one", 1) as alone:
        assert [code for code, *_ in alone.ended()] == [0]
    out = tmp_path / "two"

    # One is killed: the other does not wait for it.
    with Processes(folder, out, 2) as two:
        two.wait_for_step(5)
        two.running[1].kill()
        (code, _, complaint), _ = two.ended(timeout=300)
    assert code == 2
    assert "error: process 1 of this run cannot go on: " in complaint
    assert "Traceback" not in complaint

    # One is told to stop: both stop, at the same step.
    with Processes(folder, out, 2) as two:
        two.wait_for_step(15)
        two.running[1].send_signal(signal.SIGTERM)
        ends = two.ended()
    assert [code for code, *_ in ends] == [130, 130]
    assert "the same command goes on" in ends[0][2]
    assert "goes on" not in ends[1][2]

    # One goes on alone; two end it.
    with Processes(folder, out, 1) as one:
        one.wait_for_step(25)
        one.running[0].send_signal(signal.SIGINT)
        assert [code for code, *_ in one.ended()] == [130]
    with Processes(folder, out, 2) as two:
        ends = two.ended()
    assert [code for code, *_ in ends] == [0, 0]
    done = f"{out / 'prior'}: trained for {CONFIG.steps} steps\n"
    assert [done in printed for _, printed, _ in ends] == [True, False]  # gloo prints a line of its own

    (log, prior), (expected_log, expected) = run_of(out), run_of(tmp_path / "one")
    for line, other in zip(log, expected_log, strict=True):
        for name in ("loss", "gradient_norm", "kl", "skipped"):
            np.testing.assert_allclose(line[name], other[name], rtol=TOLERANCE, err_msg=f"{name} of {line['step']}")
    start = load_prior(folder / "start").params
    for a, b, before in zip(*map(jax.tree.leaves, (prior.params, expected.params, start)), strict=True):
        moved = np.abs(b - before).max()
        assert np.abs(a - b).max() <= 10 * TOLERANCE * moved
