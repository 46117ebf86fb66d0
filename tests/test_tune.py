"""The choice of settings: the search where the optimum is known, batches of candidates, the command."""

import json
import re

import numpy as np
import pytest

import hvae_jax as hj
from benchmarks import __main__ as benchmarks
from benchmarks import problems, tune
from benchmarks.tune import Case, Scores, search
from tests.helpers import random_prior, tiny_config


def test_search_finds_the_top_of_a_parabola():
    """Quality is quadratic in the logarithms, with coupled settings; K = 12 is best, 18 brings nothing."""
    best = {"decoder_std_per_noise_level": 2.6, "decoder_std_exponent": 0.9, "anneal_from": 30.0}
    best |= {"anneal_to_per_noise_std": 0.6, "temperature": 1.0}
    calls = []

    def measure(rows, count):
        assert len({row["max_iterations"] for row in rows}) == 1, "one program for all"
        calls.append((len(rows), count))
        scores = []
        for row in rows:
            d = np.array([np.log(row[name] / value) for name, value in best.items()])
            quality = 30 - d @ (np.eye(5) + 0.2) @ d - 0.1 * np.log(row["max_iterations"] / 13) ** 2
            scores.append(Scores((quality, quality + 1), (quality - 5, quality - 5)))
        return scores

    start = {**tune.START, "noise_std": 10.0}
    row, scores = search(measure, start, 2, rounds=4)
    assert row["max_iterations"] == 12
    assert scores.returns == "x"
    for name, value in best.items():
        assert row[name] == pytest.approx(value, rel=0.06)
    assert calls[0] == (10, 1)  # τ = 1 has one neighbour only; half of the images
    assert calls[-1] == (1, 2)
    assert sum(count for count, _ in calls) < 50


def test_shorter_schedules_and_single_evaluations():
    def prefers(iterations):
        def measure(rows, count):
            return [Scores((0.0,), (-abs(np.log(row["max_iterations"] / iterations)),)) for row in rows]

        return lambda rows, count: [s._replace(x=(-9.0,)) for s in measure(rows, count)]

    row, _ = search(prefers(5), {**tune.START, "noise_std": 10.0}, 1, rounds=1)
    assert row["max_iterations"] == 5
    row, _ = search(prefers(1), {**tune.ONCE, "noise_std": 10.0}, 1, rounds=1)
    assert row["max_iterations"] == 1
    row, _ = search(prefers(2), {**tune.ONCE, "noise_std": 10.0}, 1, rounds=1)
    assert (row["max_iterations"], row["anneal_from"], row["anneal_to_per_noise_std"]) == (2, 10.0, 0.5)


@pytest.mark.parametrize(
    ("task", "factor"),
    [
        ("Inpainting", None),
        pytest.param("Blur", None, marks=pytest.mark.slow),
        pytest.param("SuperResolution", 4, marks=pytest.mark.slow),
    ],
)
def test_a_batch_of_candidates_scores_what_each_scores_alone(conditional_prior, task, factor):
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    case = tune.pose(task, factor, 10.0, images, None, 0)
    start = {**tune.START, "noise_std": 10.0, "max_iterations": 2}
    rows = [start, {**start, "temperature": 0.8}, {**start, "decoder_std_per_noise_level": 1.0, "anneal_from": 30.0}]
    found = case.measure(conditional_prior, rows, 2, batch=4)  # two calls, the second one is filled up
    config = tune.config_from_rows([rows[2]], 10 / 255, conditional_prior.levels)
    whole = hj.restore(conditional_prior, case.observed, case.operator([0, 1]), 10 / 255, config)
    np.testing.assert_allclose(found[2].x, hj.metrics.psnr(whole.x, images), atol=1e-3)
    np.testing.assert_allclose(found[2].mean, hj.metrics.psnr(whole.mean, images), atol=1e-3)
    assert len({scores.mean for scores in found}) == 3


@pytest.fixture
def prior(tmp_path):
    """A prior on disk that recommends something for inpainting."""
    directory = tmp_path / "prior"
    config = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2)
    random_prior(config, name="tiny", settings={"Inpainting": [{"noise_std": 1.0}]}).save(directory)
    return directory


def test_the_command(prior, tmp_path, monkeypatch, capsys):
    before = json.loads((prior / "prior.json").read_text())
    options = ["--count", "2", "--size", "16", "--tasks", "Denoising", "--sigmas", "5,20", "--rounds", "1"]
    command = ["tune", "--prior", str(prior), *options, "--out", str(tmp_path / "results")]
    measure, calls = Case.measure, []

    def interrupted(case, *arguments):
        calls.append(case.sigma)
        if case.sigma == 20:
            raise KeyboardInterrupt
        return measure(case, *arguments)

    monkeypatch.setattr(Case, "measure", interrupted)
    assert benchmarks.main(command) == 130
    assert json.loads((prior / "prior.json").read_text()) == before
    calls.clear()
    monkeypatch.setattr(Case, "measure", lambda *arguments: (calls.append(arguments[0].sigma), measure(*arguments))[1])
    assert benchmarks.main(command) == 0
    assert set(calls) == {20}, "what was measured is kept"
    assert re.search(r"Denoising +│ +20\.00 ", capsys.readouterr().out)

    after = json.loads((prior / "prior.json").read_text())
    rows = after["settings"].pop("Denoising")
    assert after.pop("settings_measured_on").startswith("2 of images")
    assert after == before
    assert [row["noise_std"] for row in rows] == [5, 20]
    assert all(row["validation_psnr_error"] > 0 and row["returns"] in ("x", "mean") for row in rows)
    config = hj.recommended_config(hj.load_prior(prior), 10 / 255, hj.operators.Denoising())
    assert config.max_iterations == rows[0]["max_iterations"]
    calls.clear()
    assert benchmarks.main(command) == 0
    assert calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "Blur,Magic"], "expected tasks of Blur, .*, got 'Magic'"),
        (["--sigmas", "5,2"], r"that increase, got \[5\.0, 2\.0\]"),
        (["--sigmas", "-1"], "above 0"),
        (["--prior", "natural-medium"], "expected the folder of a prior, .* got natural-medium"),
    ],
)
def test_mistakes(prior, tmp_path, capsys, options, message):
    given = ["tune", "--prior", str(prior), "--size", "16", "--count", "1", "--out", str(tmp_path / "results")]
    assert benchmarks.main([*given, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err), err


@pytest.mark.slow
def test_drift_starts_where_the_recommended_settings_end(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    row = {"temperature": 1.0, "anneal_from": 40.0, "anneal_to": 2.0, "decoder_std_per_noise_level": 2.0}
    row |= {"max_iterations": 2, "initial": "image"}
    rows = [{**row, "noise_std": 2.55, "returns": "x"}, {**row, "noise_std": 12.75, "returns": "mean"}]
    config = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2)
    prior = random_prior(config, name="tiny", settings={"default": rows})
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
