"""What the speed benchmarks count, and the PyTorch that they compare with."""

import importlib.util
import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from benchmarks import __main__ as benchmarks
from benchmarks import cost, profile
from tests.helpers import random_prior, tiny_config


def test_arithmetic_of_loops_and_convolutions():
    """A scan counts as often as it runs, a while as often as it is said to."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((5, 5, 3, 4))

    def function(x):
        with jax.named_scope("bottom_up"):
            dimensions = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        with jax.named_scope("top_down"), jax.named_scope("levels_1"):
            y, _ = jax.lax.scan(lambda carry, _: (carry @ jnp.ones((4, 4)), None), y, length=7)
        _, y = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ jnp.ones((4, 4))), (0, y))
        return y

    product = 2 * 2 * 8 * 8 * 4 * 4
    assert profile.arithmetic(jax.make_jaxpr(function)(x).jaxpr, trips=3) == {
        "bottom-up, between the resolutions": 2 * 2 * 8 * 8 * 4 * 75,
        "top-down, resolution 1": 7 * product,
        profile.REST: 3 * product,
    }


@pytest.mark.slow  # compiles with a trace
def test_a_profile_says_where_the_time_goes():
    prior = random_prior(tiny_config())
    x = jnp.full((1, 64, 64, 3), 0.5)

    def evaluate(prior, x):
        return hj.reconstruct(prior, x, 0.9)

    parts = profile.profile(evaluate, prior, x, repeats=2)
    expected = {"bottom-up, resolution 1", "top-down, resolution 0", "top-down, resolution 1", "decoder"}
    assert expected <= {name for name, part in parts.items() if part.flop > 0 and part.seconds > 0}
    assert all(0 <= part.products + part.copies <= 1 + 1e-9 for part in parts.values())
    rows = profile.rows_of(parts, 0.02, 1e11)
    assert sum(float(row[1]) for row in rows[:-1]) == pytest.approx(20, abs=1)
    assert all(len(row) == len(profile.PROFILE) for row in rows)


@pytest.mark.parametrize("changes", [{}, {"space_to_depth": 2, "noise_conditional": True, "clip_input": False}])
def test_the_same_weights_in_pytorch(changes):
    torch = pytest.importorskip("torch", reason="needs the extra peers")
    from benchmarks.torch_patch_vdvae import TorchPatchVDVAE

    prior = random_prior(tiny_config(**changes))
    level = 0.1 if changes else None
    x = np.random.default_rng(0).normal(0.5, 0.4, (2, 16, 24, 3)).astype(np.float32)
    model = TorchPatchVDVAE(prior.config, jax.tree.map(np.asarray, prior.params), 0.8, level).eval()
    with torch.inference_mode():
        theirs = model(torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1).numpy()
    np.testing.assert_allclose(hj.reconstruct(prior, x, 0.8, noise_level=level), theirs, atol=1e-5)


def tables_of(name, folder, *arguments):
    """What a tool writes."""
    assert benchmarks.main([name, *map(str, arguments), "--out", str(folder)]) == 0
    found = json.loads((folder / name / f"{name}.json").read_text())
    assert found["command"].startswith(f"python -m benchmarks {name} ")
    assert {"device", "versions", "python", "date"} <= set(found["settings"])
    return found["tables"]


@pytest.mark.slow  # restores
def test_what_a_million_photographs_cost(prior_folder, tmp_path, capsys):
    """The arithmetic by hand, for a picture of one tile."""
    given = ("--prior", prior_folder, "--height", 64, "--width", 48, "--photographs", 1e6, "--accelerators", 10)
    each, many, files = tables_of("cost", tmp_path, *given)
    prior = hj.load_prior(prior_folder)
    x = jnp.zeros((1, 64, 48, 3))
    flop = sum(profile.arithmetic(jax.make_jaxpr(lambda x: hj.reconstruct(prior, x, 1.0))(x).jaxpr).values())
    assert cost.flop_per_pixel(prior) * 64 * 48 == pytest.approx(flop, rel=1e-6)
    assert [row[0] for row in each["rows"]] == ["deblur", "denoise"]
    count = float(each["rows"][0][1])
    assert count > 1
    row = next(row for row in many["rows"] if row[0].startswith("50%"))
    hours = 1e6 * flop * count / (0.5 * cost.PEAK) / 3600
    assert float(row[4].replace(",", "")) == pytest.approx(hours, abs=1)
    assert float(row[3]) == pytest.approx(hours / 10, abs=0.1)
    assert [row[0].partition(",")[0] for row in files["rows"][2:]] == ["around the network"] * 2
    assert all(float(row[1]) >= 0 for row in files["rows"])


@pytest.mark.slow
def test_seconds_are_written(prior_folder, tmp_path, capsys):
    first, *rest = tables_of("speed", tmp_path, "--prior", prior_folder, "--size", 16, "--repeats", 1)
    assert rest == []
    names = [row[0] for row in first["rows"]]
    assert names[0] == "one evaluation, HVAE(x, τ)"
    assert names[1].startswith("restore, ")
    assert float(first["rows"][0][3]) == 1
    assert benchmarks.main(["speed", "--prior", "vdvae-none", "--out", str(tmp_path)]) == 2
    assert "expected vdvae- and one of cifar10, " in capsys.readouterr().err


@pytest.mark.slow  # compiles with a trace
def test_a_profile_of_a_vdvae(tmp_path):
    given = ("--prior", "vdvae-cifar10", "--repeats", 1, "--profile")
    _, parts = tables_of("speed", tmp_path, *given)
    flop = {row[0]: float(row[5]) for row in parts["rows"]}
    assert {f"{way}, resolution {i}" for way in ("bottom-up", "top-down") for i in range(5)} <= set(flop)
    assert flop["top-down, resolution 4"] > 0.5 * flop["all"]  # 22 of 45 blocks, and all of its pixels


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["folder", "vdvae-cifar10"])
def test_a_table_beside_pytorch(prior_folder, tmp_path, prior):
    pytest.importorskip("torch", reason="needs the extra peers")
    name = prior_folder if prior == "folder" else prior
    given = ("--prior", name, "--batches", "1,2", "--size", 32, "--repeats", 1)
    (table,) = tables_of("pytorch", tmp_path, *given)
    assert [row[1] for row in table["rows"]] == ["1", "2"]
    assert all(float(row[-1]) < 1e-3 for row in table["rows"])


def test_mistakes(tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert benchmarks.main([*arguments, "--out", str(tmp_path)]) == 2
        return capsys.readouterr().err

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    assert "expected Ray, which is not installed: pip install 'hvae_jax[cluster]'" in refused("cluster")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "ray" else found(name))
    assert "cores, got 9999" in refused("cluster", "--actors", "9999")
    assert "at least three photographs for each actor, got 2" in refused("cluster", "--photographs", "2")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "expected PyTorch, which is not installed" in refused("pytorch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed")
def test_a_table_of_actors(tmp_path):
    actors = "1,2" if (os.cpu_count() or 1) > 1 else "1"
    (table,) = tables_of("cluster", tmp_path, "--photographs", 8, "--size", 48, "--actors", actors)
    assert len(table["rows"]) == len(actors.split(",")) + 1
    assert all(float(row[1]) > 0 for row in table["rows"])
    assert float(table["rows"][0][2]) == 1
