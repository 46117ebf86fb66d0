"""The web page's parts; `test_web_browser` tries the page itself."""

import asyncio
import io
import os
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import hvae_jax as hj
from hvae_jax import cli
from hvae_jax.images.metadata import Metadata
from hvae_jax.web.choices import BLURS, EXAMPLES, FACTORS, TASKS
from hvae_jax.web.job import Request, carry_out, read, show
from hvae_jax.web.serve import Password, is_local, names
from hvae_jax.web.worker import Stopped, Worker

PHOTO = Path(__file__).parent / "data" / "chelsea256.png"


def nothing(done, count):
    """Progress that is not looked at."""


@pytest.fixture
def request_for(tmp_path):
    """A request with a small 16-bit photograph."""
    pixels = hj.read_photograph(PHOTO).pixels[64:104, 64:112]
    about = Metadata(dpi=(300.0, 300.0), text={"Title": "Chelsea"})
    photo = hj.images.Image(pixels, None, 16, metadata=about)
    hj.write_photograph(tmp_path / "a cat.png", photo)
    (tmp_path / "out").mkdir()
    return Request(str(tmp_path / "a cat.png"), str(tmp_path / "out"), "denoise")


def test_a_photograph_goes_the_way_of_the_library(request_for, prior_folder):
    prior = hj.load_prior(prior_folder)
    outcome = carry_out(replace(request_for, task="deblur", kernel="motion:5,30", noise_std=3), prior, nothing)
    photo = hj.read_photograph(request_for.photo)
    done = hj.restore_photograph(photo, "deblur", kernel="motion:5,30", noise_std=3 / 255, prior=prior)
    result = hj.read_photograph(outcome.result)
    assert Path(outcome.result).name == "a cat-restored.png"
    assert result.bit_depth == 16
    assert result.metadata.dpi == pytest.approx((300, 300), rel=1e-3)
    assert result.metadata.text == {"Title": "Chelsea"}
    np.testing.assert_allclose(result.pixels, np.clip(done.image.pixels, 0, 1), atol=2 / 65535)
    shown = hj.read_photograph(outcome.after)
    assert shown.bit_depth == 8
    np.testing.assert_allclose(shown.pixels, result.pixels, atol=0.51 / 255)
    np.testing.assert_allclose(hj.read_photograph(outcome.before).pixels, photo.pixels, atol=0.51 / 255)
    np.testing.assert_allclose(hj.images.parse_kernel(outcome.kernel), done.kernel, atol=0.01)
    assert outcome.uncertainty is None
    assert not outcome.left
    assert "noise 3.00 of 255" in outcome.words
    assert outcome.warnings == done.warnings


def test_a_blur_that_cannot_be_told_leaves_the_photograph(request_for, prior_folder):
    outcome = carry_out(replace(request_for, task="deblur", kernel="estimate"), hj.load_prior(prior_folder), nothing)
    assert outcome.left
    assert outcome.kernel is None
    assert outcome.warnings == (
        "the picture is too small to tell its blur (less than 96 pixels); it was left as it was",
    )
    before, after = (hj.read_photograph(path).pixels for path in (outcome.before, outcome.after))
    np.testing.assert_array_equal(after, before)


def test_holes_are_those_of_the_mask_and_those_that_were_drawn(request_for, prior_folder, tmp_path):
    good = np.ones((40, 48), np.float32)
    good[5:9, 5:9] = 0
    hj.images.write_image(tmp_path / "mask.png", good)
    drawn = np.zeros((40, 48, 4), np.uint8)
    drawn[20:25, 30:35] = (255, 45, 85, 255)
    drawn[20, 29] = (255, 45, 85, 9)  # the edge of a stroke
    PIL.Image.fromarray(drawn).save(tmp_path / "layer.png")
    good[20:25, 30:35] = good[20, 29] = 0
    prior = hj.load_prior(prior_folder)
    asked = replace(
        request_for, task="inpaint", mask=str(tmp_path / "mask.png"), strokes=(str(tmp_path / "layer.png"),)
    )
    outcome = carry_out(replace(asked, noise_std=1), prior, nothing)
    photo = hj.read_photograph(request_for.photo)
    done = hj.restore_photograph(photo, "inpaint", mask=good, noise_std=1 / 255, prior=prior)
    np.testing.assert_allclose(
        hj.read_photograph(outcome.result).pixels, np.clip(done.image.pixels, 0, 1), atol=2 / 65535
    )
    with pytest.raises(ValueError, match="expected holes, got none: paint over"):
        carry_out(replace(asked, mask=None, strokes=()), prior, nothing)
    PIL.Image.fromarray(drawn[:-1]).save(tmp_path / "layer.png")
    with pytest.raises(ValueError, match=r"expected holes of the picture's \(40, 48\) pixels, got \(39, 48\)"):
        carry_out(asked, prior, nothing)


def png_of_zeros(side: int) -> bytes:
    """A small file of a large picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    samples = zlib.compress(bytes((side + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", samples) + chunk(b"IEND", b"")


def test_a_picture_that_is_too_large_is_not_decoded(tmp_path, monkeypatch, request_for, prior_folder):
    (tmp_path / "large.png").write_bytes(png_of_zeros(4000))
    monkeypatch.setattr(hj, "read_photograph", lambda path: pytest.fail("it was decoded"), raising=False)
    with pytest.raises(ValueError, match="expected at most 15 megapixels, as this page takes, got 4000x4000 pixels"):
        read(str(tmp_path / "large.png"), 15)
    monkeypatch.undo()
    np.save(tmp_path / "large.npy", np.zeros((40, 50), np.float32))  # whose header is read with it
    with pytest.raises(ValueError, match=r"expected at most 0\.001 megapixels"):
        read(str(tmp_path / "large.npy"), 0.001)
    assert read(str(tmp_path / "large.npy"), 0.002).pixels.shape == (40, 50, 1)
    with pytest.raises(ValueError, match=r"expected at most 0\.005 megapixels, as this page takes, got 120x144 pixels"):
        carry_out(replace(request_for, task="sr", factor=3, megapixels=0.005), hj.load_prior(prior_folder), nothing)


def test_float_pictures_are_shown_from_black_to_white(tmp_path):
    pixels = np.linspace(0, 4000, 40 * 40, dtype=np.float32).reshape(40, 40, 1)
    path = show(hj.images.Image(pixels, None, 32), tmp_path / "shown")
    np.testing.assert_allclose(hj.read_photograph(path).pixels, pixels / 4000, atol=0.51 / 255)


def test_choices_are_those_of_the_library():
    assert set(TASKS.values()) == {"deblur", "denoise", "jpeg", "sr", "inpaint"}
    for blur in BLURS:
        for pick in ("least", "usual", "most") if blur.numbers else ():
            kernel = hj.images.parse_kernel(blur.text([getattr(number, pick) for number in blur.numbers]))
            assert kernel.sum() == pytest.approx(1, abs=1e-5)
    usual = {blur.label: blur.text([number.usual for number in blur.numbers]) for blur in BLURS}
    assert usual[BLURS[0].label] == "estimate"  # who has a blurred picture rarely knows more
    blurs = {Path(example.path).stem: usual[example.blur] for example in EXAMPLES}
    assert (blurs["soft"], blurs["shaken"]) == ("estimate", "motion:13,30")
    for example in EXAMPLES:
        photo = hj.read_photograph(example.path)
        assert example.task in TASKS.values()
        if example.mask is not None:
            assert hj.images.read_mask(example.mask).shape == photo.pixels.shape[:2]
    assert hj.read_photograph(next(one.path for one in EXAMPLES if one.task == "jpeg")).jpeg is not None
    assert all(factor >= 2 for factor in FACTORS)


@pytest.mark.slow
def test_worker_restores_refuses_stops_and_goes_on(request_for, prior_folder, tmp_path):
    async def run():
        worker = Worker(str(prior_folder), waiting=1)
        try:
            outcome = await worker.restore(replace(request_for, uncertainty=True), nothing)
            assert Path(outcome.result).exists()
            assert hj.read_photograph(outcome.uncertainty).pixels.shape == (40, 48, 1)
            first = (await worker.start()).pid

            with pytest.raises(ValueError, match="expected a JPEG file"):
                await worker.restore(replace(request_for, task="jpeg"), nothing)
            assert (await worker.start()).pid == first  # a mistake ends nothing

            endless = replace(
                request_for, folder=str(tmp_path / "endless"), task="deblur", kernel="box:3", quality="best"
            )
            ahead = []
            running = asyncio.ensure_future(worker.restore(endless, nothing, owner="one"))
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(worker.restore(endless, nothing, ahead.append, owner="two"))
            await asyncio.sleep(0.1)
            assert ahead == [1]
            with pytest.raises(ValueError, match="expected at most 1 restorations to wait, got one more"):
                await worker.restore(request_for, nothing)
            await worker.stop("two")
            with pytest.raises(Stopped):
                await waiting
            assert (await worker.start()).pid == first  # which is still at the first one's
            await worker.stop("one")
            with pytest.raises(Stopped):
                await running
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)

            (tmp_path / "again").mkdir()
            again = await worker.restore(replace(request_for, folder=str(tmp_path / "again")), nothing)
            assert Path(again.result).read_bytes() == Path(outcome.result).read_bytes()
        finally:
            await worker.end()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_only_this_computer_needs_no_password(host, local, capsys, monkeypatch):
    assert is_local(host) == local
    assert ("*" in names(host, None)) != local
    assert names(host, "secret") == ["*"]
    if not local:
        monkeypatch.delenv("HVAE_JAX_WEB_PASSWORD", raising=False)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        assert cli.main(["web", "--host", host]) == 2
        assert "expected a password where others reach the page" in capsys.readouterr().err


def test_password():
    right = Password("schlüssel")
    assert right("anybody", "schlüssel")
    assert not right("anybody", "schlussel")
    assert not right("schlüssel", "")


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["web"]) == 2
    assert capsys.readouterr().err == "error: the web page needs gradio: pip install 'hvae_jax[web]'\n"
