"""The choice of settings: the search where the optimum is known, batches of candidates, what is kept and written."""

import json
import re

import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import cli, images, tuning
from hvae_jax.files import Journal
from hvae_jax.restoration.recommended import config_from_rows
from hvae_jax.tuning import cases
from hvae_jax.tuning.cases import Case
from hvae_jax.tuning.search import ONCE, START, Scores, search
from hvae_jax.tuning.settings import Measurement
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

    start = {**START, "noise_std": 10.0}
    row, scores = search(measure, start, 2, rounds=4)
    assert row["max_iterations"] == 12
    assert row["orientations"] == "cycle"
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

    row, _ = search(prefers(5), {**START, "noise_std": 10.0}, 1, rounds=1)
    assert row["max_iterations"] == 5
    row, _ = search(prefers(1), {**ONCE, "noise_std": 10.0}, 1, rounds=1)
    assert (row["max_iterations"], row["orientations"]) == (1, 2)
    row, _ = search(prefers(2), {**ONCE, "noise_std": 10.0}, 1, rounds=1)
    assert row["max_iterations"] == 1, "it holds at any noise level"


@pytest.mark.parametrize(
    ("task", "factor"),
    [
        ("inpaint", None),
        pytest.param("deblur", None, marks=pytest.mark.slow),
        pytest.param("sr", 4, marks=pytest.mark.slow),
    ],
)
def test_a_batch_of_candidates_scores_what_each_scores_alone(conditional_prior, tmp_path, task, factor):
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    case = cases.pose(task, factor, 10.0, pixels, tuning.tuning_kernels())
    start = {**START, "noise_std": 10.0, "max_iterations": 2}
    rows = [start, {**start, "temperature": 0.8}, {**start, "decoder_std_per_noise_level": 1.0, "anneal_from": 30.0}]
    told = []
    measurement = Measurement(conditional_prior, case, 4, Journal(tmp_path / "kept.jsonl"), {}, told.append)
    found = measurement.scores(rows, 2)  # two calls, the second one is filled up
    config = config_from_rows([rows[2]], 10 / 255, conditional_prior.levels)
    assert config.orientations == "cycle"
    whole = hj.restore(conditional_prior, case.observed, case.operator([0, 1]), 10 / 255, config)
    np.testing.assert_allclose(found[2].x, hj.metrics.psnr(whole.x, pixels), atol=1e-3)
    np.testing.assert_allclose(found[2].mean, hj.metrics.psnr(whole.mean, pixels), atol=1e-3)
    assert len({scores.mean for scores in found}) == 3
    assert told == [f"{case.name}, σ = 10: {done} of 6 restorations" for done in (0, 4)]
    assert measurement._replace(prior=None).scores(rows[::-1], 1) == [Scores(s.x[:1], s.mean[:1]) for s in found[::-1]]


def test_a_restoration_that_is_not_finite_scores_nothing(conditional_prior):
    clean = np.full((1, 16, 16, 3), 0.5, np.float32)
    case = cases.pose("denoise", None, 10.0, clean, tuning.tuning_kernels())
    case = case._replace(observed=np.full_like(clean, np.nan))
    assert case.scores(conditional_prior, [({**ONCE, "noise_std": 10.0}, 0)], 1)[0][0] == 0.0


def test_kernels(tmp_path):
    made = tuning.tuning_kernels()
    assert made.shape == (4, 19, 19)
    np.testing.assert_allclose(made.sum(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(made[1][6:13, 3:16], images.parse_kernel("motion:13,30"))
    assert made[0].argmax() == made[0].size // 2
    np.savez(tmp_path / "mine.npz", even=[[0, 0], [0, 1]], flat=np.ones((1, 5)))  # the centre of 2 is 1, of 5 is 2
    mine = tuning.tuning_kernels(tmp_path / "mine.npz")
    assert mine.shape == (2, 5, 5)
    assert mine[0, 2, 2] == 1
    np.testing.assert_allclose(mine[1, 2], 0.2)
    names = [f"k{i}" for i in range(1, 13)]
    np.savez(tmp_path / "twelve.npz", **{name: np.eye(3) for name in names} | {"k7": np.ones((3, 3))})
    paper = tuning.tuning_kernels(tmp_path / "twelve.npz")
    assert len(paper) == 4
    np.testing.assert_allclose(paper[2], 1 / 9)


@pytest.mark.parametrize("cut", ["", '{"settings": "x", "ke', '{"other": 1}\n', "[1]\n"])
def test_a_journal_survives_a_kill(tmp_path, cut):
    path = tmp_path / "new" / "kept.jsonl"
    first = Journal(path)
    assert first.find({"a": 1}, {"i": 0}) is None
    first.keep({"a": 1, "b": 2}, {"i": 0, "j": [1]}, {"x": 3.5})
    with path.open("a") as file:
        file.write(cut)
    second = Journal(path)
    assert second.find({"b": 2, "a": 1}, {"j": [1], "i": 0}) == {"x": 3.5}
    assert second.find({"b": 3, "a": 1}, {"j": [1], "i": 0}) is None
    second.keep({}, {"i": 1}, {"x": 4})
    third = Journal(path)
    assert (third.find({}, {"i": 1}), third.find({"b": 2, "a": 1}, {"j": [1], "i": 0})) == ({"x": 4}, {"x": 3.5})


@pytest.fixture
def prior(tmp_path):
    """A prior on disk that recommends something for inpainting."""
    return saved(tmp_path / "prior", {"Inpainting": [row(1.0)]})


def row(noise_std):
    return {"noise_std": noise_std, "temperature": 0.5, "decoder_std": 9.0, "max_iterations": 3, "returns": "x"}


def saved(directory, settings, seed=0, **info):
    config = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2)
    random_prior(config, seed, name="tiny", settings=settings, **info).save(directory, overwrite=True)
    return directory


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        images.write_image(folder / f"{name}.png", rng.random((20, 18, 3)))
    return folder


def described(prior):
    return json.loads((prior / "prior.json").read_text())


@pytest.mark.slow
def test_the_command(prior, photos, tmp_path, monkeypatch, capsys):
    before = (prior / "prior.json").read_bytes()
    options = ["--count", "2", "--size", "16", "--tasks", "denoise", "--noise-std", "5,20", "--rounds", "1"]
    command = ["tune", "--prior", str(prior), "--images", str(photos), *options]
    scores, calls, limit = Case.scores, [], 2

    def counted(case, model, pairs, batch):
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.append([(case.name, case.sigma, json.dumps(row), image) for row, image in pairs])
        return scores(case, model, pairs, batch)

    monkeypatch.setattr(Case, "scores", counted)
    assert cli.main(command) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "prior-tuning, and the same command goes on" in err
    assert (prior / "prior.json").read_bytes() == before
    done = {pair for call in calls for pair in call}
    kept = tmp_path / "prior-tuning" / "measured.jsonl"
    assert len(kept.read_text().splitlines()) == len(done) > 2
    calls.clear()
    limit = np.inf
    assert cli.main(command) == 0
    assert not done & {pair for call in calls for pair in call}, "what was measured is kept"
    assert all(len({json.loads(row)["max_iterations"] for _, _, row, _ in call}) == 1 for call in calls)
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"Recommended settings: denoise .* noise std +┃ +5 ┃ +20 ", out, re.DOTALL)
    assert "prior.json: settings for denoise, measured on 2 of photos" in out

    old, after = json.loads(before), described(prior)
    settings = after.pop("settings")
    assert list(settings) == ["inpaint", "denoise"]
    assert settings["inpaint"] == old.pop("settings")["Inpainting"]
    assert after.pop("settings_measured_on") == "2 of photos, the middle 16x16 pixels (denoise)"
    assert after == old
    rows = settings["denoise"]
    assert [row["noise_std"] for row in rows] == [5, 20]
    assert all(row["validation_psnr_error"] > 0 and row["returns"] in ("x", "mean") for row in rows)
    assert all(row["orientations"] == 2 for row in rows)
    config = hj.recommended_config(hj.load_prior(prior), 10 / 255, hj.operators.Denoising())
    assert (config.max_iterations, config.orientations) == (rows[0]["max_iterations"], 2)
    calls.clear()
    assert cli.main(command) == 0
    assert calls == []
    assert described(prior)["settings"] == settings

    # Of another prior, and of other images, nothing is known.
    saved(prior, {}, seed=1)
    limit = 1
    assert cli.main(command) == 130
    assert cli.main([*command, "--count", "1"]) == 130
    assert not hj.load_prior(prior).info["settings"]


@pytest.mark.slow
def test_all_tasks(prior, photos, capsys):
    """Deblurring and super-resolution with annealed schedules, which inherit from one noise level to the next."""
    for i, name in enumerate("abc"):
        pixels = np.random.default_rng(i).random((32, 32, 3))
        images.write_image(photos / f"{name}.png", pixels, overwrite=True)
    options = ["--count", "1", "--size", "32", "--noise-std", "5,20", "--rounds", "1"]
    assert cli.main(["tune", "--prior", str(prior), "--images", str(photos), *options]) == 0
    found = described(prior)
    assert found["settings_measured_on"] == "1 of photos, the middle 32x32 pixels"
    assert list(found["settings"]) == ["inpaint", "deblur", "sr", "denoise"]
    assert [(row["factor"], row["noise_std"]) for row in found["settings"]["sr"]] == [(2, 5), (2, 20), (4, 5), (4, 20)]
    for task in ("deblur", "sr", "inpaint"):
        assert all(row["orientations"] == "cycle" for row in found["settings"][task])
    assert "validation_psnr_error" not in found["settings"]["deblur"][0]
    capsys.readouterr()
    assert cli.main(["info", str(prior)]) == 0
    assert "Recommended settings: sr" in capsys.readouterr().out


def test_former_names_are_replaced(tmp_path):
    old = {name: [row(1.0)] for name in ("Blur", "SuperResolution", "Denoising")}
    directory = saved(tmp_path / "prior", old, settings_measured_on="others")
    prior = hj.load_prior(directory)
    new = [row(2.0)]
    tuning.write_settings(directory, prior, {"deblur": new, "denoise": new}, "photographs")
    found = described(directory)
    assert found["settings"] == {"deblur": new, "sr": old["SuperResolution"], "denoise": new}
    assert found["settings_measured_on"] == "photographs (deblur, denoise); before that, others"
    tuning.write_settings(directory, prior, {"deblur": new, "sr": new, "denoise": new}, "photographs")
    assert described(directory)["settings_measured_on"] == "photographs"


def test_deblurring_was_once_called_default(tmp_path):
    """The tasks that fell back to it keep its settings, without the numbers that were measured for deblurring."""
    old = [{**row(1.0), "validation_psnr": 30.0}]
    new = [row(2.0)]
    directory = saved(tmp_path / "prior", {"default": old, "Denoising": new})
    prior = hj.load_prior(directory)
    tuning.write_settings(directory, prior, {"sr": new}, "photographs")
    assert described(directory)["settings"] == {"default": old, "denoise": new, "sr": new}
    tuning.write_settings(directory, prior, {"deblur": new}, "photographs")
    same = [row(1.0)]
    assert described(directory)["settings"] == {"deblur": new, "sr": new, "inpaint": same, "denoise": new}


def test_a_prior_that_was_trained_meanwhile_is_not_written(tmp_path):
    directory = saved(tmp_path / "prior", {})
    prior = hj.load_prior(directory)
    saved(directory, {}, seed=1)
    with pytest.raises(ValueError, match="expected the prior that was measured, got another one"):
        tuning.write_settings(directory, prior, {"sr": [row(2.0)]}, "photographs")
    assert described(directory)["settings"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "deblur,magic"], "expected tasks of deblur, .*, got 'magic'"),
        (["--tasks", ""], "expected tasks of deblur, .*, got ''"),
        (["--noise-std", "5,2"], r"that increase, got \[5\.0, 2\.0\]"),
        (["--noise-std", "-1"], "above 0"),
        (["--noise-std", "5,nan"], "above 0 that increase"),
        (["--noise-std", "five"], "expected a number for --noise-std, got five"),
        (["--prior", "natural-medium"], "expected the folder of a prior, .* got natural-medium"),
        (["--images", "nothing"], "nothing: expected a file, but there is none"),
        (["--size", "18"], "expected squares with a multiple of 8 pixels along each side, got 18"),
        (["--size", "19"], "expected at least 19x19 pixels, got 20x18"),
        (["--kernels", "nothing.npz"], "nothing.npz: expected a file, but there is none"),
        (["--tasks", "deblur"], "expected kernels of at most the squares' 16 pixels, got 19"),
        (["--tasks", "denoise", "--out", "{photos}/a.png"], r"a\.png: (File exists|Not a directory)"),
        (["--count", "0"], "count"),
    ],
)
def test_mistakes(prior, photos, capsys, options, message):
    before = (prior / "prior.json").read_bytes()
    given = ["tune", "--prior", str(prior), "--images", str(photos), "--size", "16", "--count", "1"]
    assert cli.main([*given, *(option.format(photos=photos) for option in options)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)
    assert re.search(message, err), err
    assert (prior / "prior.json").read_bytes() == before
    assert not (prior.parent / "prior-tuning").exists()
