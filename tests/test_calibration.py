"""Intervals: the fit where the answer is known, the tables of a prior, the commands."""

import json
import re

import jax
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import cli, images, operators, tuning
from hvae_jax.prior import update_prior
from hvae_jax.restoration.calibration import LEVELS, calibration_for, local_contrast, local_deviation
from hvae_jax.tuning.calibration import Errors, coverage_by_width, fit
from tests.helpers import TINY_SETTINGS, random_prior, tiny_config

QUANTILES = (0.6745, 0.9945, 1.2816, 1.6449, 1.96, 2.5758)
"""Of |N(0, 1)| at `LEVELS`."""


def test_the_fit_of_normal_errors_whose_deviation_is_known():
    rng = np.random.default_rng(0)
    deviation = rng.lognormal(-4, 1, (20, 5000))
    errors = Errors(np.abs(rng.normal(0, 2 * deviation)), deviation, np.zeros_like(deviation), deviation < 0)
    row = fit(errors)
    assert (row["contrast"], row["floor"]) == (0, pytest.approx(0, abs=0.02))
    np.testing.assert_allclose(row["scales"], 2 * np.array(QUANTILES), rtol=0.02)
    assert row["width"] < 0.9 * row["constant_width"]


def test_the_fit_finds_what_the_draws_do_not_know():
    """Errors that follow the contrast, and a floor under all; every quarter of the widths holds."""
    rng = np.random.default_rng(1)
    deviation, contrast = rng.lognormal(-4, 0.3, (2, 20, 5000))
    errors = Errors(np.abs(rng.normal(0, contrast + 0.01)), deviation, contrast, deviation < 0)
    row = fit(errors)
    assert row["contrast"] > 0
    spread = deviation + row["contrast"] * contrast + row["floor"] / 255
    half = row["scales"][LEVELS.index(0.9)] * spread
    assert np.mean(errors.error <= half) == pytest.approx(0.9, abs=1e-3)
    assert min(coverage_by_width(errors.error.ravel(), half.ravel())) > 0.87


def table(*noise_levels, **more):
    scales = [float(i + 1) for i in range(len(LEVELS))]
    return [{"noise_std": n, "contrast": n / 100, "floor": n / 10, "scales": scales, **more} for n in noise_levels]


def test_tables():
    """Between noise levels the half-widths lie between, whatever the rows' numbers are."""
    fine, coarse = {"contrast": 0.5, "floor": 20.0}, {"contrast": 2.0, "floor": 0.0}
    calibration = {
        "deblur": [{**table(2.0)[0], **fine}, {**table(10.0)[0], **coarse}],
        "sr": table(5.0, factor=2) + table(20.0, factor=4),
        "inpaint": table(2.0, 10.0) + table(6.0, missing=True),
    }
    prior = random_prior(tiny_config(), calibration=calibration)
    rng = np.random.default_rng(0)
    image, std = rng.random((9, 8, 3), np.float32), rng.random((9, 8, 3), np.float32)
    d, c = local_deviation(std), local_contrast(image)

    def half_width(operator, sigma, level=0.9, **more):
        return calibration_for(prior, operator, sigma / 255).half_width(d, c, level, **more)

    def expected(scale, contrast, floor):
        return scale * (d + contrast * c + floor / 255)

    blur = operators.Blur(np.ones((3, 3)))
    weighted = operators.Weighted(blur, np.array([1.0, 2.0, 1.0]))
    for operator in (blur, weighted):
        np.testing.assert_allclose(half_width(operator, 2), expected(4, 0.5, 20), rtol=1e-5)
        np.testing.assert_allclose(half_width(operator, 20), expected(4, 2, 0), rtol=1e-5)
        between = (expected(4, 0.5, 20) + expected(4, 2, 0)) / 2
        np.testing.assert_allclose(half_width(operator, 6), between, rtol=1e-5)
    np.testing.assert_allclose(half_width(blur, 2, 0.8), expected(3, 0.5, 20), rtol=1e-5)
    assert (half_width(blur, 2, 0.8) < half_width(blur, 2, 0.85)).all()
    assert (half_width(blur, 2, 0.85) < half_width(blur, 2, 0.9)).all()
    assert not calibration_for(prior, blur, 6 / 255).extrapolated
    assert calibration_for(prior, blur, 20 / 255).extrapolated
    for factor, nearest in ((2, 5), (3, 20), (8, 20)):  # in ratio
        operator = operators.SuperResolution(np.ones((3, 3)), factor)
        np.testing.assert_allclose(half_width(operator, 5), expected(4, nearest / 100, nearest / 10), rtol=1e-5)
    assert calibration_for(prior, operators.Denoising(), 6 / 255) is None
    # What is missing has numbers of its own.
    missing = rng.random((9, 8)) < 0.5
    half = half_width(operators.Inpainting(1.0 - missing), 2, missing=missing)
    np.testing.assert_allclose(half[missing], expected(4, 0.06, 0.6)[missing], rtol=1e-5)
    np.testing.assert_allclose(half[~missing], expected(4, 0.02, 0.2)[~missing], rtol=1e-5)
    with pytest.raises(ValueError, match=r"a level from 0\.5 to 0\.99, got 0\.999"):
        half_width(blur, 2, 0.999)

    np.testing.assert_allclose(local_deviation(np.full((9, 8, 3), 0.3)), 0.3, rtol=1e-5)
    np.testing.assert_allclose(local_contrast(np.full((9, 8, 3), 0.3)), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scales": [1.0]}, "scales"), ({"floor": -1.0}, "floor"), ({"contrast": "x"}, "contrast")],
)
def test_a_table_that_is_none(tmp_path, change, message):
    random_prior(tiny_config()).save(tmp_path / "prior")
    row = {**table(5.0)[0], **change}
    with pytest.raises(ValueError, match=rf"calibration\.denoise\.0\.{message}"):
        update_prior(tmp_path / "prior", calibration={"denoise": [row]})


@pytest.mark.slow
def test_the_commands(tmp_path, capsys, monkeypatch):
    """Calibrate a prior, go on after an interruption, restore with it."""
    config = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2)
    folder = tmp_path / "prior"
    random_prior(config, name="tiny", settings={"default": TINY_SETTINGS}).save(folder)
    rng = np.random.default_rng(0)
    for name in "abc":
        images.write_image(tmp_path / "photos" / f"{name}.png", rng.random((20, 18, 3)))
    command = ["tune", "--prior", str(folder), "--images", str(tmp_path / "photos"), "--calibrate", "--size", "16"]
    command += ["--tasks", "denoise", "--noise-std", "5,20", "--count", "3", "--batch", "2"]
    measured, measure = [], tuning.calibration.measure

    def interrupted(prior, case, *rest):
        if case.sigma == 20 and not measured.count(20):
            measured.append(20)
            raise KeyboardInterrupt
        measured.append(case.sigma)
        return measure(prior, case, *rest)

    monkeypatch.setattr(tuning.calibration, "measure", interrupted)
    assert cli.main(command) == 130
    assert cli.main(command) == 0
    assert measured == [5, 20, 20]
    out, err = capsys.readouterr()
    assert "prior.json: intervals for denoise, measured on 3 of photos" in out
    described = json.loads((folder / "prior.json").read_text())
    assert [row["noise_std"] for row in described["calibration"]["denoise"]] == [5, 20]
    assert described["settings"] == {"default": TINY_SETTINGS}

    photo = str(tmp_path / "photos" / "a.png")
    options = [
        "--task",
        "denoise",
        "--noise-std",
        "10",
        "--prior",
        str(folder),
        "--uncertainty",
        str(tmp_path / "u.npy"),
    ]
    assert cli.main(["restore", photo, "--out", str(tmp_path / "x.png"), *options]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"u\.npy: 90% of the pixels are within [\d.]+ of 255 on average\n", out)
    assert err == ""
    prior, key = hj.load_prior(folder), jax.random.key(0)
    given = {"noise_std": 10 / 255, "prior": prior, "uncertainty": key}
    done = hj.restore_photograph(hj.read_photograph(photo), "denoise", **given)
    np.testing.assert_allclose(np.load(tmp_path / "u.npy")[..., 0], done.half_width(0.9), atol=1e-5)
    low, high = done.interval(0.5)
    assert (low < done.image.pixels).all()
    assert (high - low < 2 * done.half_width(0.9)[..., None]).all()

    # A picture in values of its own, and one without intervals.
    scene = 100 + 1000 * images.read_image(photo).pixels
    scaled = hj.restore_photograph(scene, "denoise", value_range=(100, 1100), **given)
    np.testing.assert_allclose(scaled.half_width(), done.half_width(), rtol=2e-2)
    np.testing.assert_allclose(np.subtract(*scaled.interval()[::-1])[..., 0], 2000 * scaled.half_width(), rtol=1e-3)
    with pytest.raises(ValueError, match="got no deviation"):
        hj.restore_photograph(scene / 1100, "denoise", noise_std=0.1, prior=prior).interval()
    with pytest.raises(ValueError, match="got no calibration"):
        hj.restore_photograph(scene / 1100, "deblur", kernel="box:3", **given).interval()
