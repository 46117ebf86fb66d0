"""The benchmarks' command line: tables, figures and pictures of tiny runs, resuming, determinism, mistakes."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import hvae_jax as hj
from benchmarks import __main__ as benchmarks
from benchmarks import problems
from benchmarks.experiment import markdown
from benchmarks.experiments import ablation, anderson, blind, common, final, gate
from hvae_jax import images
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.operators import Inpainting
from tests.helpers import random_prior, tiny_config

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


@pytest.mark.slow
def test_an_unknown_blur_in_pictures_that_are_too_small_to_tell(run, monkeypatch):
    monkeypatch.setattr(blind, "BLURS", ("gaussian", "line"))
    monkeypatch.setattr(blind, "polyblur", lambda: (lambda pixels: pixels, "A peer that does nothing."))
    found, _ = run("blind")
    check(found)
    table = found["tables"][0]
    by_blur = {row[0]: row[1:] for row in table["rows"]}
    assert list(by_blur) == ["gaussian", "line", "all blurred", "sharp"]
    assert by_blur["all blurred"][0] == "0/4"
    for row in by_blur.values():  # of pictures that stay as they were
        assert row[-4] == row[-3] == row[-1]
    assert table["notes"][0].endswith("A peer that does nothing.")


@pytest.mark.slow
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
    assert len(computed) == 3 + 2 * 12  # each noise level compiles


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
def test_ablation(run, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", tiny_config(levels=1, noise_conditional=True, clip_input=False))
    monkeypatch.setattr("benchmarks.experiments.ablation.DENOISING", (25.0,))
    loss = {"decoder_std": 0.01, "noise_max": 0.2}
    Path("tiny.json").write_text(json.dumps({"preset": "tiny", "crop_size": 16, "batch_size": 2, "loss": loss}))
    Path("notes.md").write_text("# Findings\n\nMine.\n")
    options = ("--data", "photos", "--training", "tiny.json", "--steps", 2, "--docs", "notes.md")
    found, _ = run("ablation", *options, "--variants", "decoder-std-0.01,decoder-std-0.002")
    check(found)
    table, differences = found["tables"]
    assert [row[0] for row in table["rows"]] == ["baseline", "decoder-std-0.002"]  # the other is the baseline
    assert [row[0] for row in differences["rows"]] == ["decoder-std-0.002"]
    blurred = [f"blurred, {sigma}" for sigma in problems.NOISE_LEVELS]
    assert table["columns"] == ["variant", "parameters", "seconds", "bits/dim", "clean", "noisy, 25", *blurred]
    for plain in (row[3:] for row in table["rows"]):
        assert all(re.fullmatch(r"\d+\.\d+ ± \d+\.\d+", cell) for cell in plain)
    text = Path("notes.md").read_text()
    assert text.startswith("# Findings\n\nMine.\n")
    assert markdown(table["columns"], table["rows"]) in text

    # The same command trains nothing again and writes the same file.
    trained = []
    monkeypatch.setattr("benchmarks.experiments.ablation.train", lambda *_: trained.append(1))
    again, _ = run("ablation", *options, "--variants", "decoder-std-0.01,decoder-std-0.002")
    assert (again["tables"], trained) == (found["tables"], [])
    assert Path("notes.md").read_text() == text


def test_variants():
    base = ablation.TrainConfig.from_file(ablation.BASELINE)
    configs = {name: ablation.configure(base, changes) for name, changes in ablation.VARIANTS.items()}
    assert configs["baseline"] == base
    assert configs["crop-32"].batch_size == 4 * base.batch_size
    for name, config in configs.items():
        assert (config.model is None) == all(not path.startswith("model.") for path in ablation.VARIANTS[name])
        assert not config.crop_size % config.architecture.multiple
        assert ablation.TrainConfig.from_dict(json.loads(config.to_json())) == config
    strides = {name: [r.stride for r in config.architecture.resolutions] for name, config in configs.items()}
    assert strides["resolution-more"] == [1, 2, 2, 2, 2]
    assert strides["resolution-less"] == [1, 2, 2]
    assert [r.levels for r in configs["groups-finest-x2"].architecture.resolutions] == [1, 1, 2, 6]
    with pytest.raises(ValueError, match=r"expected a setting of .*noise_power.* got 'magic'"):
        ablation.configure(base, {"loss.magic": 1})
    with pytest.raises(ValueError, match=r"expected resolutions, coarsest first.* got strides \[\]"):
        ablation.TrainConfig.from_dict({"model": {}})
    with pytest.raises(ValueError, match=r"expected a model's architecture.* got 'base'"):
        ablation.TrainConfig.from_dict({"model": "base"})


def test_error_over_images_and_seeds():
    rng = np.random.default_rng(0)
    seeds, images = 4, 9
    draws = rng.normal(0, 2, (4000, 1, images)) + rng.normal(0, 0.5, (4000, seeds, 1))
    found = np.array([ablation.mean_and_error(values) for values in draws + rng.normal(0, 0.3, (4000, seeds, images))])
    assert np.sqrt(np.mean(found[:, 1] ** 2)) == pytest.approx(np.std(found[:, 0]), rel=0.05)
    assert np.isnan(ablation.mean_and_error(np.ones((1, 1)))[1])


@pytest.mark.slow
def test_levels(run, monkeypatch):
    monkeypatch.setattr("benchmarks.experiments.levels.LEVELS", (6,))  # of four trainings that compile for minutes
    found, _ = run("levels", "--limit", 1, "--data", "photos", "--steps", 2)
    check(found)
    assert found["tables"][0]["columns"] == ["", "L = 6", "paper L = 6"]
    assert [row[0] for row in found["tables"][0]["rows"]] == ["σ = 2.55", "σ = 7.65", "σ = 12.75", "ELBO"]
    assert all(np.isfinite(row[1]) for row in found["tables"][0]["rows"])


@pytest.mark.slow
def test_final_table(run, monkeypatch):
    monkeypatch.setattr(final, "TUNED", {"tv": (final.tv, (4.0, 8.0, 1e4))})
    monkeypatch.setattr(final, "VALIDATION_COUNT", 2)
    identity = np.zeros((3, 3, 4, 3), np.float32)
    identity[1, 1, :3] = np.eye(3)
    np.savez("identity.npz", conv00_w=identity, conv00_b=np.zeros(3, np.float32))
    monkeypatch.setitem(sys.modules, "bm3d", None)  # as where the extra is not installed
    arguments = ("--tasks", "denoising", "--batch", 2, "--weights", "identity.npz", "--pictures", 0)
    found, printed = run("final", *arguments, "--methods", "observation,tv,bm3d,fdncnn,pnp-hvae")
    check(found)
    psnr, difference, *others = found["tables"]
    assert [table["title"] for table in others] == ["SSIM", "LPIPS", "Seconds"]
    tasks = [f"denoising, σ = {sigma}" for sigma in (15, 25, 50)]
    assert [row[0] for row in psnr["rows"]] == tasks
    assert markdown(psnr["columns"], psnr["rows"]) in printed
    assert any(note.startswith("bm3d: bm3d needs its package") for note in psnr["notes"])

    # A cell, from each image's score; the denoiser, which returns what it is given, was given the observation.
    rows = Path("results/final/rows.jsonl")
    scores = {}
    for line in map(json.loads, rows.read_text().splitlines()):
        scores[line["key"].get("σ"), line["key"].get("method")] = line["values"]
    ours, plain = (np.array(scores[25.0, name]["PSNR"]) for name in ("pnp-hvae", "observation"))
    gap = ours - plain
    expected = f"{gap.mean():+.2f} ± {np.std(gap, ddof=1) / 2**0.5:.2f}"
    assert difference["rows"][1] == [tasks[1], expected, difference["rows"][1][2], None, expected]
    assert psnr["rows"][1][5].startswith(f"{ours.mean():.2f} ± ")
    np.testing.assert_allclose(scores[25.0, "fdncnn"]["PSNR"], plain, atol=1e-4)

    # A weight was chosen for each line, on other images, and not the one that is far too strong.
    assert scores[None, None]["weight"] in (4.0, 8.0)
    assert any(note.startswith("tv: weights chosen on the middle 64x64 pixels of 2 others") for note in psnr["notes"])

    # Another draw of the noise, and then another prior, need only the rows that depend on them.
    def count():
        return len(rows.read_text().splitlines())

    first = count()
    assert first == 4 * 3 + 3
    again, _ = run("final", *arguments, "--methods", "observation,tv,pnp-hvae", "--seeds", 2)
    assert count() == first + 3 * 3
    assert any("between 2 draws of the noise" in note for note in again["tables"][0]["notes"])
    random_prior(tiny_config(), seed=1, name="tiny").save("other")
    run("final", *arguments, "--methods", "observation,tv,pnp-hvae", "--prior", "other")
    assert count() == first + 3 * 3 + 3


def test_draws_of_the_final_table():
    """Its deblurring is the protocol of Table 2, and other draws have other noise and the same masks."""
    found = problems.load_images(None, 64, 1)
    cases = list(problems.final(found, draws=2))
    assert len(cases) == 2 * (3 * 4 + 2 + 4 + 3)
    for ours, theirs in zip(cases, problems.deblurring(found), strict=False):
        np.testing.assert_array_equal(ours.observed, theirs.observed)
    first, second = (
        [c for c in cases if c.label["draw"] == draw and c.label.get("case") == "boxes"] for draw in (0, 1)
    )
    np.testing.assert_array_equal(first[0].operator.mask, second[0].operator.mask)
    assert 0.01 < np.mean(first[0].observed != second[0].observed) < 1


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
        (("final", "--tasks", "magic"), "expected tasks of deblurring, .* got 'magic'"),
        (("final", "--size", "64"), "expected images that are not tested; give others with --validation"),
        (("ablation", "--variants", "magic"), "expected variants of baseline, .* got 'magic'"),
        pytest.param(
            ("ablation", "--init", "tiny"),
            "expected a prior of the baseline's architecture to start from, got tiny",
            marks=pytest.mark.slow,
        ),
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
    Path("tiny").symlink_to(prior)
    given = [*arguments, *(() if "--prior" in arguments or arguments[0] == "report" else ("--prior", str(prior)))]
    assert benchmarks.main([*given, *(() if arguments[0] == "report" else ("--out", "results"))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)
    assert re.search(message, err), err


@pytest.mark.slow
def test_drift_starts_where_the_recommended_settings_end(tmp_path, monkeypatch):
    row = {"temperature": 1.0, "anneal_from": 40.0, "anneal_to": 2.0, "decoder_std_per_noise_level": 2.0}
    row |= {"max_iterations": 2, "initial": "image"}
    rows = [{**row, "noise_std": 2.55, "returns": "x"}, {**row, "noise_std": 12.75, "returns": "mean"}]
    config = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2)
    prior = random_prior(config, name="tiny", settings={"deblur": rows})
    prior.save(tmp_path / "prior")
    monkeypatch.setattr("benchmarks.experiments.drift.HELD", 3)
    monkeypatch.setattr("benchmarks.experiments.drift.LATER", (0, 3))
    command = ["drift", "--prior", str(tmp_path / "prior"), "--size", "32", "--limit", "2", "--out", str(tmp_path)]
    assert benchmarks.main(command) == 0
    tables = json.loads((tmp_path / "drift" / "drift.json").read_text())["tables"]
    images = problems.load_images(None, 32, 2)
    for table, sigma in zip(tables, (2.55, 7.65, 12.75), strict=True):
        assert [line[1] for line in table["rows"]] == ["annealed, held", "fixed"] * 4
        case = next(problems.deblurring(images, noise_levels=(sigma,)))
        end = hj.restore(prior, case.observed, case.operator, case.noise_std).image
        assert table["rows"][0][2] == pytest.approx(float(hj.metrics.psnr(end, case.clean).mean()), abs=1e-3)
        for *_, at_end, best, _, drift, error in (line[3:] for line in table["rows"]):
            assert drift == pytest.approx(at_end - best, abs=1e-3)
            assert error >= 0


SHARP = {"refused": "the picture is sharp", "candidates": []}


def made_rows(count, rng):
    """Pictures with three candidates each, whose gain two numbers of the evidence tell, and one that ran away."""
    rows = []
    for i in range(count):
        evidence = rng.standard_normal((3, len(gate.NAMES)))
        gains = 4 * evidence[:, 1] - 3 * evidence[:, 2] + 0.3 * rng.standard_normal(3)
        candidates = [
            {"kind": "free", "gain": float(gain), "evidence": {**dict(zip(gate.NAMES, map(float, e), strict=True))}}
            for gain, e in zip(gains, evidence, strict=True)
        ]
        candidates.append({"kind": "motion:2.0,10", "gain": -9.0, "evidence": dict.fromkeys(gate.NAMES, 9.0)})
        for candidate in candidates:
            candidate["evidence"]["cost"] = -candidate["gain"]
        rows.append((f"photo {i // 2}", {"refused": None, "known": 50.0, "candidates": candidates}))
    return rows


def test_a_gate_fitted_to_made_rows():
    """It finds the numbers that matter, their ratio and their signs, and predicts other photographs."""
    rows = made_rows(60, np.random.default_rng(0))
    cases = gate.Cases.of([*rows, ("photo 0", SHARP)])
    assert len(cases.gain) == 3 * 60
    _, weights = gate.fitted(cases.evidence, cases.helps)
    np.testing.assert_allclose(weights[1] / weights[2], -4 / 3, rtol=0.15)
    assert np.abs(np.delete(weights, [1, 2])).max() < 0.2 * weights[1]
    confidence = gate.cross_validated(cases)
    assert ((confidence > 0.5) == cases.helps).mean() > 0.9
    pictures = gate.judged([True] * 60 + [False], [*(row for _, row in rows), SHARP], cases, confidence)
    assert pictures[-1].candidates == ()
    trusted = gate.least_harmless(pictures)
    taken = [best for picture in pictures if (best := picture.accepted(trusted)) is not None]
    assert len(taken) > 45  # of 60, each with a best of three
    assert sum(best.gain < -0.2 for best in taken) <= 0.02 * len(taken)
    for picture in pictures:
        of_those_trusted = [one.gain for one in picture.candidates if one.confidence >= trusted]
        if of_those_trusted:  # the cost tells which
            assert picture.accepted(trusted).gain == max(of_those_trusted)
    line = gate.accepted_at(trusted, pictures)
    assert line[1:3] == [f"{len(taken)}/60", "0/1"]
    assert sum(row[1] for row in gate.refused_at(trusted, pictures)) == 60 - len(taken)
    with pytest.raises(ValueError, match="expected pictures with candidates"):
        gate.Cases.of([("photo 0", SHARP)])


def test_why_a_blurred_picture_is_refused():
    helps, harms = gate.Candidate(0.4, -0.8, 1.0), gate.Candidate(0.5, -0.7, -1.0)
    row = {"refused": None, "known": 3.0}
    picture = gate.Picture(True, row, (helps, harms))
    assert gate.why_refused(picture._replace(row=SHARP), None) == "the picture is sharp"
    assert gate.why_refused(picture._replace(row={**row, "known": 0.1}), harms) == "the true kernel does not help"
    assert gate.why_refused(picture._replace(candidates=(harms,)), harms) == "no candidate helps"
    assert gate.why_refused(picture, helps) == "the best candidate helps"
    shown = gate.refused_at(0.45, [picture, picture._replace(blurred=False)])
    assert shown == []  # one candidate is trusted
    assert gate.refused_at(0.6, [picture]) == [["another candidate helps", 1, -1.0]]


def test_anderson_acceleration_of_a_linear_map_is_exact_after_one_more_than_its_dimension(monkeypatch):
    monkeypatch.setattr(anderson, "RIDGE", 0.0)
    rng = np.random.default_rng(0)
    matrix, shift, x = 0.3 * rng.standard_normal((3, 3)), rng.standard_normal(3), np.zeros(3)
    solver = anderson.Anderson(memory=3)
    for _ in range(4):
        x = solver(x, matrix @ x + shift)
    np.testing.assert_allclose(x, np.linalg.solve(np.eye(3) - matrix, shift), rtol=1e-9)


def test_anderson_acceleration_takes_the_plain_step_where_the_residual_grows():
    solver = anderson.Anderson(memory=3)
    assert solver(np.array([0.0]), np.array([1.0])) == 1
    assert solver(np.array([1.0]), np.array([1.5])) == pytest.approx(2, abs=1e-5)  # where the secant meets T(x) = x
    assert solver(np.array([2.0]), np.array([5.0])) == 5
    assert anderson.Anderson(memory=0)(np.array([0.0]), np.array([3.0])) == 3


@pytest.mark.slow
def test_anderson_counts_evaluations_from_the_plain_iterations_of_restore(run, prior, monkeypatch):
    monkeypatch.setattr(anderson, "ITERATIONS", 4)
    found, _ = run("anderson")
    check(found)
    (table,) = found["tables"]
    assert [line[0] for line in table["rows"][-2:]] == ["all", "all"]
    squares = images.read_squares(Path("photos"), 64)
    case = problems.observe({}, anderson.Blur(problems.load_kernels(None, ("k4",))["k4"]), 2.55, squares, 0)
    config = hj.paper_config("bsd-deblurring-2.55", 4).replace(max_iterations=4, history=True)
    out = hj.restore(hj.load_prior(prior), case.observed, case.operator, case.noise_std, config, reference=case.clean)
    for line in table["rows"][:2]:
        assert 1 <= line[2] <= line[3] <= 5
        assert line[5] == pytest.approx(float(out.history.psnr_x[:, 4].mean()), abs=1e-3)
