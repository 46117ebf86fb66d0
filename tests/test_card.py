"""The model card: what is measured, what is read, and the command."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hvae_jax as hj
from benchmarks import __main__ as benchmarks
from benchmarks import card, problems
from benchmarks.experiment import settings_of
from hvae_jax import images
from hvae_jax.images import Squares
from hvae_jax.prior import Prior
from hvae_jax.training import TrainConfig

from .helpers import model_of, random_prior, tiny_config

pytest.importorskip("jinja2", reason="needs the extra bench")

ROW = {"noise_std": 5, "temperature": 1.0, "anneal_from": 40.0, "anneal_to": 2.0, "max_iterations": 2}
ROW |= {"decoder_std_per_noise_level": 2.0, "initial": "image", "returns": "mean"}


def written(folder: Path, content: str) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text(content)
    return folder


def test_elbo_without_latents_is_the_decoders_density():
    model = model_of(tiny_config(levels=1))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.initialize, jax.random.key(0)))
    zero["first_level"]["std"] += 1
    prior = Prior(zero, model)  # prior and posterior are one, and nothing depends on them
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 8, 3)).astype(np.float32) / 255
    found = card.elbo(prior, Squares(("a", "b"), x, ""), seed=0)
    _, _, mean, variance = hj.encode(prior, x)
    density = np.log2(2 * np.pi * variance) / 2 + (x - mean) ** 2 / (2 * variance * np.log(2))
    np.testing.assert_allclose(found["bits"], np.mean(density, axis=(1, 2, 3)) + np.log2(255), rtol=1e-4)
    assert np.shape(found["kl"]) == (2, prior.levels)
    np.testing.assert_allclose(found["kl"], 0, atol=1e-6)


def test_training_run(tmp_path):
    config = TrainConfig(steps=80, batch_size=3)
    known = {"steps": 80, "batch_size": 3}  # written by an older version, which had fewer settings
    prior = random_prior(tiny_config(), training={"steps": 80, "config": known})
    written(tmp_path / "config.json", config.to_json())
    lines = [{"step": 50, "steps_per_second": 2.0}, {"step": 80, "steps_per_second": 1.0, "bits_per_dim": 5.5}]
    log = written(tmp_path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    (run,) = card.training_runs(prior, [tmp_path])
    assert run["hours"] == pytest.approx((50 / 2 + 30 / 1) / 3600)
    assert (run["bits_per_dim"], run["batch_size"]) == (5.5, 3)
    (known,) = card.training_runs(prior, [])
    assert "hours" not in known
    with pytest.raises(ValueError, match="expected the run that made the prior"):
        card.training_runs(random_prior(tiny_config(), training={"config": {}}), [tmp_path])
    log.write_text(json.dumps(lines[0]))
    with pytest.raises(ValueError, match="expected the log of all 80 steps, got one of 50"):
        card.training_runs(prior, [tmp_path])


def test_licences(tmp_path):
    table = (
        "| file | source | licence |\n|---|---|---|\n| a | here | CC0 (A) |\n| b | there | GPL-2+ |\n| c | x | CC0 |\n"
    )
    attribution = written(tmp_path / "ATTRIBUTION.md", table)
    assert card.licences(attribution, written(tmp_path / "all", "a\nb\nc\n")) == [("CC0", 2), ("GPL-2+", 1)]
    with pytest.raises(ValueError, match=r"expected all files of .*, got none for d"):
        card.licences(attribution, written(tmp_path / "more", "a\nd\n"))
    # The bundled prior's: each file is attributed.
    listed = card.PRETRAINED / "training" / "natural-medium.photos.txt"
    assert sum(n for _, n in card.licences(card.PRETRAINED / "ATTRIBUTION.md", listed)) == 155


def test_verdict():
    assert card.verdict(["a face", "blur", 5, 20.0, 25.0, 27.0, 2.0, float("nan")]).startswith("27.00 dB, 2.00 above")
    assert card.verdict(["p", "blur", 5, 20.0, 25.0, 24.0, -1.0, 0.2]) == "24.00 dB, 1.00 below the better simple way"
    assert card.verdict(["p", "blur", 5, 20.0, 25.0, 25.1, 0.1, 0.2]).endswith("within two standard errors")


def test_best_weight_is_found_far_from_the_default():
    x = problems.load_images(None, 32, 1).pixels
    noisy = x + 0.1 * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    right, low, high = (
        card.best_weight(problems.Problem({}, problems.Denoising(), sigma, x, noisy)) for sigma in (0.1, 0.02, 0.5)
    )
    assert low > 5 * right  # noise that is told too low needs a larger weight, and the other way round
    assert high < right / 5


@pytest.fixture
def prior(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config = json.loads(TrainConfig().to_json())
    known = {"training": {"steps": 9, "skipped": 0, "config": config}, "settings": {"default": [ROW]}}
    tiny = tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2)
    random_prior(tiny, name="tiny", licence="CC0-1.0", **known).save("prior")
    return tmp_path / "prior"


@pytest.mark.slow
def test_the_card(prior, monkeypatch, capsys):
    monkeypatch.setattr(card, "WEIGHTS", np.array([7.0, 14.0]))
    digest = settings_of(hj.load_prior(prior), "", None)["prior"]
    table = {"title": "Mean", "columns": ["method", "PSNR", "paper PSNR"], "notes": ["Ten images."]}
    table |= {"rows": [["tv", 25.125, None], ["ours", 26.5, 27.75]]}
    result = {"title": "Deblurring", "command": "python -m benchmarks final", "tables": [table]}
    about = {"prior": digest, "device": "cpu", "versions": "jax 1", "date": "2026-01-01"}
    written(Path("results/final/final.json"), json.dumps({**result, "settings": about}))
    written(Path("results/deblurring/deblurring.json"), json.dumps({**result, "settings": {"prior": "another"}}))
    arguments = ["--prior", "prior", "--results", "results", "--out", "prior", "--size", "64", "--limit", "2"]
    assert benchmarks.main(["card", *arguments]) == 0
    assert "deblurring.json: left out, for it is of another" in capsys.readouterr().err

    text = Path("prior/README.md").read_text()
    assert "Licence of the weights: CC0-1.0" in text
    assert "| ours | 26.50 |\n" in text  # the paper's column is left out
    assert "Ten images." in text
    assert "{" not in re.sub(r"`[^`]*`", "", text)
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert {path.name for path in Path("prior").iterdir()} == {"README.md", "prior.json", "params", *pictures}
    assert sum(Path("prior", file).stat().st_size for file in pictures) <= card.LARGEST
    assert images.read_image("prior/restored.jpg").pixels.shape == (4 * (64 + 26) - 6, 4 * (64 + 6) - 6, 3)
    hj.load_prior("prior")  # still loads

    monkeypatch.setattr(card, "elbo", None)  # what was measured is not measured again
    monkeypatch.setattr(card, "best_weight", None)
    assert benchmarks.main(["card", *arguments]) == 0
    assert Path("prior/README.md").read_text() == text


def test_mistakes(prior, capsys):
    for arguments, sentence in (
        (("--prior", "none"), "expected the name of a bundled prior"),
        (("--prior", "prior", "--run", "none"), "cannot read the training configuration"),
        (("--prior", "prior", "--photos", "none"), "No such file"),
    ):
        assert benchmarks.main(["card", *arguments, "--out", "out", "--results", "results"]) == 2
        assert re.fullmatch(rf"error: .*{sentence}.*\n", capsys.readouterr().err)
    assert not Path("out").exists()
    assert not Path("results").exists()
