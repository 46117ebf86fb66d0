"""A Ray cluster of two machines, one of which is lost in the middle; in a process of its own."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvae_jax import cli, images
from hvae_jax.cli import cluster
from hvae_jax.cli.run import Run

SCRIPT = """
import sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from hvae_jax import cli

prior, source, out = sys.argv[1:]
head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=head)
other = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
results = lambda: [*Path(out).rglob("[!.]*.png")]
lost = []

def lose():
    while len(results()) < 5:
        time.sleep(0.05)
    cluster.remove_node(other, allow_graceful=False)
    lost.append(len(results()))

threading.Thread(target=lose, daemon=True).start()
command = ["restore", source, "-r", "--task", "denoise", "--noise-std", "5", "--prior", prior, "--out", out + "/"]
codes = [cli.main([*command, "--cluster", cluster.address]) for _ in range(2)]
print("codes", codes, "lost at", lost, "results", len(results()))
print("fine")
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed")
def test_a_machine_lost_in_the_middle(prior_folder, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        images.write_image(tmp_path / "in" / f"{i % 3}" / f"{i}.png", rng.random((16 + 8 * (i % 2), 16, 3)))
    (tmp_path / "in" / "0" / "bad.png").write_text("no picture")
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    line = [sys.executable, "-c", SCRIPT, str(prior_folder), str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "codes [1, 1]" in done.stdout  # the bad picture's
    assert "results 40" in done.stdout
    (lost,) = [line for line in done.stdout.splitlines() if line.startswith("codes")]
    assert "lost at []" not in lost
    assert "40 of 41 are done already" in done.stdout  # nothing twice
    assert "bad.png: expected an image" in done.stderr
    summed = cli.main(["status", str(tmp_path / "out")])
    assert summed == 1


def test_without_ray(prior_folder, tmp_path, capsys, monkeypatch):
    images.write_image(tmp_path / "a.png", np.ones((16, 16, 3)))
    command = [
        "restore",
        str(tmp_path / "a.png"),
        "--task",
        "denoise",
        "--prior",
        str(prior_folder),
        "--cluster",
        "auto",
    ]
    assert cli.main([*command, "--out", str(tmp_path / "b.png")]) == 2
    assert "a folder or several images for --cluster, got one image" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["restore", str(tmp_path), *command[2:], "--out", f"{tmp_path}/out/"]) == 2
    assert "which is not installed: pip install" in capsys.readouterr().err


def test_what_an_actor_answers(prior_folder, tmp_path, monkeypatch):
    """Without Ray: a result, a bad file, and what makes all files fail, which Ray would only try again."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.write_image(source / "a.png", np.ones((16, 16, 3)))
    (source / "bad.png").write_text("no picture")
    seen = []
    monkeypatch.setattr(cluster, "restore_on_cluster", lambda targets, given, *_: seen.append((targets, given)) or 0)
    command = ["restore", str(source), "--task", "denoise", "--noise-std", "5", "--prior", str(prior_folder)]
    assert cli.main([*command, "--out", f"{out}/", "--cluster", "auto"]) == 0
    ((targets, given),) = seen
    rows = [{"file": str(job.file), "page": None, "result": str(job.result), "map": None} for job, _ in targets]

    actor = cluster.Restorer(vars(given))
    good, bad = (actor(row) for row in rows)
    assert (good["code"], bad["code"]) == (0, 1)
    assert "restored in" in good["said"]
    assert "bad.png: expected an image" in bad["said"]
    assert actor(rows[0])["said"].startswith("1 of 1 are done already")  # by itself, before its machine was lost

    lost = cluster.Restorer({**vars(given), "prior": str(tmp_path / "elsewhere")})(rows[0])
    assert lost["code"] == 2
    assert "elsewhere" in lost["said"]
    monkeypatch.setattr(Run, "__call__", lambda *_: 1 / 0)
    assert "a bug, ZeroDivisionError" in actor(rows[0])["said"]


def test_an_address_where_nothing_answers():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        cluster.check_reachable(f"localhost:{port}")
    for address in ("auto", "local", "ray://there:10001"):
        cluster.check_reachable(address)  # is Ray's to judge
