"""The benchmarks' command line: tables, figures and pictures of tiny runs, resuming, determinism, mistakes."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import problems
from benchmarks.experiments import common
from hvae_jax import images
from hvae_jax.operators import Inpainting
from tests.conftest import random_prior, tiny_config

pytest.importorskip("matplotlib", reason="needs the extra bench")


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    directory = tmp_path_factory.mktemp("priors") / "tiny"
    random_prior(tiny_config(), name="tiny").save(directory)
    return directory


@pytest.fixture
def run(tmp_path, prior, monkeypatch, capsys):
    """An experiment on two small pictures; its folder's JSON, and what was printed."""
    monkeypatch.chdir(tmp_path)
    picture = images.read_image(problems.DATA / "images" / "coffee.png").pixels
    Path("photos").mkdir(exist_ok=True)
    for i in range(2):
        images.write_image(Path("photos") / f"{i}.png", picture[64 * i : 64 * i + 64, 100:164])

    def run(name, *arguments):
        options = ("--prior", prior, "--images", "photos", "--size", 64, "--out", "results")
        code = benchmarks.main([str(a) for a in (name, *options, *arguments)])
        out, err = capsys.readouterr()
        assert (code, err) == (0, ""), err
        return json.loads(Path(f"results/{name}/{name}.json").read_text()), out

    return run


def check(found):
    """What every experiment's JSON promises."""
    folder = Path("results") / found["name"]
    assert found["command"].startswith(f"python -m benchmarks {found['name']} --prior ")
    assert found["settings"]["prior"].startswith("tiny (")
    for key in ("device", "versions", "seed", "date"):
        assert key in found["settings"]
    assert found["tables"]
    for table in found["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    for figure in found["figures"]:
        assert images.read_image(folder / figure["file"]).pixels.std() > 0
    for pair in found["comparisons"]:
        shapes = {images.read_image(folder / pair[name]).pixels.shape for name in ("before", "after", "reference")}
        assert shapes == {(64, 64, 3)}
    assert found["tables"][0]["title"] in (folder / f"{found['name']}.md").read_text()
    with (folder / f"{found['name']}.csv").open() as file:
        assert next(csv.reader(file)) == found["tables"][0]["columns"]


def test_a_table_of_methods(run, monkeypatch):
    Path("mine.py").write_text("def half(y, A, noise_std):\n    return 0.5 + 0 * A.adjoint(y)\n")
    monkeypatch.setitem(sys.modules, "deepinv", None)  # as where the extra is not installed
    options = ("--methods", "observation,pnp-hvae,mine.py:half,fdncnn,dps", "--batch", 1)
    first, printed = run("deblurring", *options)
    check(first)
    assert [table["title"].split(", ")[-1] for table in first["tables"]] == ["σ = 2.55", "σ = 7.65", "σ = 12.75"]
    table = first["tables"][0]
    by_method = {row[0]: row for row in table["rows"]}
    assert list(by_method) == ["observation", "pnp-hvae", "mine.py:half", "fdncnn", "dps"]
    assert by_method["pnp-hvae"][6:] == [27.75, 0.79, 0.31]  # the paper's
    assert by_method["fdncnn"][1] is None
    assert any(note.startswith("fdncnn: FDnCNN's weights") for note in table["notes"])
    clean = problems.load_images(Path("photos"), 64).pixels
    grey = -10 * np.log10(np.mean((clean - 0.5) ** 2, axis=(1, 2, 3))).mean()
    assert by_method["mine.py:half"][1] == pytest.approx(grey, abs=0.01)
    assert len(first["comparisons"]) == 12
    assert "pnp-hvae" in printed
    assert "pip install 'hvae_jax[peers]'" in printed

    # The same command computes nothing again; a row that was lost, and one that a kill cut, are computed anew.
    rows = Path("results/deblurring/rows.jsonl")
    lines = rows.read_text().splitlines()
    assert len(lines) == 12 * 3
    rows.write_text("\n".join([*lines[:-2], lines[-1][: len(lines[-1]) // 2]]) + "\n")
    computed = []
    resolve = common.resolve

    def counting(*args, **kwargs):
        def count(name, method):
            return lambda *a: (computed.append(name), method(*a))[1]

        return {n: m if isinstance(m, str) else count(n, m) for n, m in resolve(*args, **kwargs).items()}

    monkeypatch.setattr("benchmarks.experiments.deblurring.resolve", counting)
    second, _ = run("deblurring", *options)
    assert set(computed) == {"mine.py:half"}
    assert len(computed) == 1 + 2 * 2  # a call to compile, and two images in two rows

    def without_seconds(found):
        return [[cell for i, cell in enumerate(row) if i != 5] for table in found["tables"] for row in table["rows"]]

    assert without_seconds(first) == without_seconds(second)
    # A method of one's own that was edited is run again.
    Path("mine.py").write_text("def half(y, A, noise_std):\n    return 0.4 + 0 * A.adjoint(y)\n")
    computed.clear()
    run("deblurring", *options)
    assert set(computed) == {"mine.py:half"}
    assert len(computed) == 1 + 2 * 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faces", "inpainting"])
def test_other_tables(run, name):
    found, _ = run(name, "--methods", "observation,pnp-hvae", "--batch", 2, "--limit", 1)
    check(found)
    assert [len(table["rows"]) for table in found["tables"]] == [2] * 4
    assert len(found["comparisons"]) == 4


@pytest.mark.parametrize(
    ("name", "rows"), [("lipschitz", 9), ("samples", 6), pytest.param("temperature", 9, marks=pytest.mark.slow)]
)
def test_figures(run, name, rows):
    found, _ = run(name)
    check(found)
    assert found["figures"]
    assert len(found["tables"][0]["rows"]) == rows


@pytest.mark.slow
def test_convergence(run):
    found, _ = run("convergence", "--limit", 1)
    check(found)
    assert [row[0] for row in found["tables"][0]["rows"]] == ["pnp-hvae", "adam-0.01", "adam-0.001"]


@pytest.mark.slow
def test_levels(run, monkeypatch):
    monkeypatch.setattr("benchmarks.experiments.levels.LEVELS", (6,))  # of four trainings that compile for minutes
    found, _ = run("levels", "--limit", 1, "--data", "photos", "--steps", 2)
    check(found)
    assert found["tables"][0]["columns"] == ["", "L = 6", "paper L = 6"]
    assert [row[0] for row in found["tables"][0]["rows"]] == ["σ = 2.55", "σ = 7.65", "σ = 12.75", "ELBO"]
    assert all(np.isfinite(row[1]) for row in found["tables"][0]["rows"])


@pytest.mark.parametrize("kind", problems.MASKS)
def test_masks(kind):
    mask = problems.mask(kind, 256, 0)
    np.testing.assert_array_equal(mask, problems.mask(kind, 256, 0))
    assert set(np.unique(mask)) == {0, 1}
    low, high = {"objects": (0.01, 0.15), "text": (0.03, 0.3), "random50": (0.48, 0.52), "random80": (0.78, 0.82)}[kind]
    assert low < 1 - mask.mean() < high


def test_problems_share_their_noise():
    found = problems.load_images(None, 64, 3)
    assert found.pixels.shape == (3, 64, 64, 3)
    cases = list(problems.inpainting(found))
    case = cases[0]
    assert isinstance(case.operator, Inpainting)
    noise = case.observed - np.asarray(case.operator(case.clean))
    np.testing.assert_allclose(noise[0], noise[2], atol=1e-6)
    assert np.std(noise[0][noise[0] != 0]) == pytest.approx(3 / 255, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("deblurring", "--prior", "nothing"), "nothing"),
        (("deblurring", "--images", "nothing"), "nothing"),
        (("deblurring", "--size", "1000"), "expected at least 1000x1000 pixels, got 256x256"),
        (("deblurring", "--methods", "magic"), "expected one of .* got 'magic'"),
        (("deblurring", "--kernels", "few.npz"), "expected kernels named k4, .* got none named k4"),
        (("report", "nothing"), "nothing"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, prior, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.savez("few.npz", k1=np.ones((3, 3)))
    given = [*arguments, *(() if "--prior" in arguments or arguments[0] == "report" else ("--prior", str(prior)))]
    assert benchmarks.main([*given, *(() if arguments[0] == "report" else ("--out", "results"))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)
    assert re.search(message, err), err
