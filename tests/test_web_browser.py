"""The web page in a real browser, on a computer and on a telephone. SHOTS=FOLDER keeps pictures of the screen."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import requests

import hvae_jax as hj

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

BLURRED, SHARP = (Path(__file__).parents[1] / "examples" / name for name in ("blurred.png", "sharp.png"))
PATIENCE = 300_000
"""Milliseconds for a restoration, compiling included, on a busy computer."""

expect.set_options(timeout=PATIENCE)


@contextlib.contextmanager
def serving(*options, **environment):
    """The command, and its address."""
    command = [sys.executable, "-m", "hvae_jax", "web", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        address = process.stdout.readline().split()[0]
        process.address = address
        until(lambda: answers(address))
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE / 1000) in (0, 130)


def until(condition):
    """Wait for what comes."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def answers(address) -> bool:
    """Whether a page is served there."""
    try:
        return requests.get(address, timeout=PATIENCE / 1000).ok
    except requests.ConnectionError:
        return False


def workers(server) -> list[str]:
    """The processes that a server started."""
    return Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()


@pytest.fixture(scope="module")
def server():
    with serving() as process:
        yield process


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, server):
    """Somebody new on the page, who is asked what else the page wanted from where."""
    contexts, hosts = [], set()

    def visit(width=1280, height=900, address=server.address, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: hosts.add(request.url.partition("://")[2].partition("/")[0]))
        page.goto(address)
        page.set_default_timeout(PATIENCE)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert {host for host in hosts if not host.startswith("127.0.0.1:")} <= {""}  # the last of data: and blob:


def shot(page, name, full_page=True):
    """Keep a picture of the screen, where one is wanted."""
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full_page)


def choose(page, file):
    """Give a photograph, and wait until it is shown."""
    page.set_input_files("#photograph input[type=file]", file)
    page.wait_for_selector("#shown img, #canvas canvas", state="visible")


def clear(page):
    """Take the photograph away."""
    page.get_by_role("button", name="Clear").first.click()
    page.wait_for_selector("#shown img", state="hidden")


def choose_blur(page, name):
    """Say how a photograph was blurred."""
    page.get_by_label("How was it blurred?").click()
    page.get_by_role("option", name=name).click()


def settled(page, where) -> np.ndarray:
    """The pixels of a part of the page, as soon as there is a picture that moves no more."""
    pictures = [b"", b""]

    def still() -> bool:
        pictures[:] = pictures[1], page.locator(where).first.screenshot()
        return pictures[0] == pictures[1] and pixels().std() > 0

    def pixels() -> np.ndarray:
        return np.asarray(PIL.Image.open(io.BytesIO(pictures[1])).convert("RGB"), np.float32)

    until(still)
    return pixels()


def restored(page, folder) -> hj.images.Image:
    """Press Restore, and take what can be downloaded then."""
    page.click("#go")
    page.wait_for_selector("#download", state="visible")
    with page.expect_download() as waiting:
        page.click("#download")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return hj.read_photograph(path)


@pytest.fixture
def photo(tmp_path):
    """A part of the example, with 16 bits."""
    blurred = hj.read_photograph(BLURRED)
    path = tmp_path / "kitten.png"
    about = hj.images.Metadata(dpi=(300.0, 300.0))
    hj.write_photograph(path, blurred._replace(pixels=blurred.pixels[96:224, 128:288], bit_depth=16, metadata=about))
    return path


def test_upload_restore_compare_download(visit, photo, tmp_path):
    page = visit()
    page.wait_for_selector("#go")
    shot(page, "start")
    choose(page, photo)
    choose_blur(page, "Shaken")
    page.check("#sure input")
    result = restored(page, tmp_path)
    shot(page, "restored")
    done = hj.restore_photograph(hj.read_photograph(photo), "deblur", kernel="motion:13,30")
    assert {path.name for path in tmp_path.iterdir()} == {"kitten.png", "kitten-restored.png"}
    assert result.bit_depth == 16
    assert result.metadata.dpi == pytest.approx((300, 300), rel=1e-3)
    np.testing.assert_allclose(result.pixels, np.clip(done.image.pixels, 0, 1), atol=1e-3)
    assert f"noise {255 * done.noise_std:.2f} of 255 (estimated from" in page.inner_text("#words")
    assert "how sure: half the width of intervals that hold 90 %, white is 50" in page.inner_text("#words")
    for picture in ("#kernel", "#uncertainty"):
        page.wait_for_selector(f"{picture} img", state="visible")

    before, after = page.locator("#result img").all()
    for image in (before, after):
        assert image.evaluate("image => image.complete && image.naturalWidth") == 160
    box = page.locator("#result").bounding_box()
    handle = page.locator("#result [role=slider], #result .slider, #result .outer").first
    grip = handle.bounding_box()
    start = (grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] - box["width"] / 4, start[1], steps=5)
    page.mouse.up()
    assert handle.bounding_box()["x"] < grip["x"] - box["width"] / 8


def test_a_blur_that_nobody_knows(visit, tmp_path):
    """The page finds it out unasked, and shows it; or says why not, and the picture as it was."""
    page = visit()
    page.get_by_role("button", name="Out of focus").click()
    page.wait_for_selector("#shown img", state="visible")
    restored(page, tmp_path)
    expect(page.locator("#words")).to_contain_text(re.compile(r"of (about|radius) .* pixels, confidence 0\.[89]"))
    page.wait_for_selector("#kernel img", state="visible")
    shot(page, "found")

    clear(page)
    choose(page, SHARP)
    page.click("#go")
    expect(page.locator("#words")).to_have_text("Not changed: the picture is sharp; it was left as it was.")
    for image in page.locator("#result img").all():
        shown = requests.get(image.get_attribute("src"), timeout=60).content
        assert np.array_equal(PIL.Image.open(io.BytesIO(shown)), PIL.Image.open(SHARP))
    expect(page.locator("#kernel")).to_be_hidden()
    expect(page.locator("#download")).to_be_hidden()
    shot(page, "left")


def test_an_example_brings_what_is_known(visit):
    page = visit()
    choose_blur(page, "Out of focus")
    page.get_by_role("button", name="Shaken by 13 pixels").click()
    expect(page.get_by_label("How was it blurred?")).to_have_value("Shaken: moved along a line")
    expect(page.get_by_label("Length in pixels").first).to_be_visible()
    expect(page.get_by_label("Radius in pixels").first).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("notes.txt", "Invalid file type"), ("notes.png", "notes.png: expected an image, got another or a damaged file")],
)
def test_a_text_is_no_photograph(visit, tmp_path, name, sentence):
    (tmp_path / name).write_text("It was a dark and stormy night.")
    page = visit()
    page.set_input_files("#photograph input[type=file]", tmp_path / name)
    expect(page.get_by_text(sentence)).to_be_visible()
    shot(page, f"refused-{name.replace('.', '-')}", full_page=False)
    assert "hvae-jax-web-" not in page.inner_text("body")  # where it is kept is nobody's concern
    page.click("#go")
    expect(page.get_by_text("First choose a photograph")).to_be_visible()


def test_a_mistake_is_a_sentence(visit, photo):
    page = visit()
    choose(page, photo)
    page.get_by_label("JPEG artefacts").check()
    page.click("#go")
    expect(page.get_by_text("expected a JPEG file, read as it is")).to_be_visible()


def test_holes_are_drawn(visit, photo, tmp_path):
    page = visit()
    choose(page, photo)
    page.get_by_label("Has holes").check()
    before = settled(page, "#canvas canvas")
    box = page.locator("#canvas canvas").first.bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2, steps=10)
    page.mouse.up()
    assert np.abs(settled(page, "#canvas canvas") - before).mean() > 1
    shot(page, "drawn")
    changed = np.abs(restored(page, tmp_path).pixels - hj.read_photograph(photo).pixels).max(axis=-1)
    shot(page, "filled")
    assert changed[54:74, 70:90].mean() > 4 * changed[:30].mean()  # the stroke is in the middle


def test_two_people_at_once(visit, server, photo, tmp_path):
    pages, results = [visit(), visit()], []
    for number, page in enumerate(pages):
        mine = tmp_path / str(number) / f"mine-{number}.png"
        picture = hj.read_photograph(photo)
        hj.write_photograph(mine, picture._replace(pixels=picture.pixels[:, ::-1] if number else picture.pixels))
        choose(page, mine)
        page.get_by_label("Noisy").check()
    (worker,) = workers(server)
    os.kill(int(worker), signal.SIGSTOP)  # the first one's restoration takes as long as it must
    try:
        pages[0].click("#go")
        expect(pages[0].get_by_text("Restoring")).to_be_visible()
        pages[1].click("#go")
        expect(pages[1].get_by_text("Waiting for 1 other")).to_be_visible()
    finally:
        os.kill(int(worker), signal.SIGCONT)
    for number, page in enumerate(pages):
        page.wait_for_selector("#download", state="visible")
        expect(page.locator("#download")).to_contain_text(f"mine-{number}-restored.png")
        with page.expect_download() as waiting:
            page.click("#download")
        results.append(hj.read_photograph(waiting.value.path().rename(tmp_path / f"{number}.png")).pixels)
    # Each got their own: the second one's picture was the first one's mirrored.
    assert np.abs(results[0] - results[1][:, ::-1]).mean() < 0.1 * np.abs(results[0] - results[1]).mean()


def test_large_pictures_show_a_bar_and_stop_ends_the_work(visit, photo, tmp_path):
    picture = hj.read_photograph(photo)
    large = picture._replace(pixels=np.tile(picture.pixels, (10, 10, 1)), bit_depth=8)
    hj.write_photograph(tmp_path / "large.png", large)
    with serving("--memory", "1.2") as server:
        page = visit(address=server.address)
        choose(page, tmp_path / "large.png")
        choose_blur(page, "Shaken")
        (worker,) = workers(server)
        page.click("#go")
        expect(page.get_by_text(re.compile(r"\d+/\d+ tiles"))).to_be_visible()
        shot(page, "tiles")
        page.click("#stop")
        expect(page.locator("#words")).to_have_text("Stopped.")
        assert not Path(f"/proc/{worker}").exists()
        shot(page, "stopped")
        page.get_by_role("button", name="Too small").click()
        page.wait_for_function("document.querySelector('#photograph').innerText.includes('small')")
        assert restored(page, tmp_path).pixels.shape == (304, 448, 3)  # a new one does the next
        shot(page, "larger")
        # Who leaves waits no more.
        clear(page)
        choose(page, tmp_path / "large.png")
        page.get_by_label("Blurred").check()
        choose_blur(page, "Shaken")
        (worker,) = workers(server)
        page.click("#go")
        expect(page.get_by_text(re.compile(r"\d+/\d+ tiles"))).to_be_visible()
        assert Path(f"/proc/{worker}").exists()
        page.close()
        until(lambda: not Path(f"/proc/{worker}").exists())


def test_on_a_telephone(visit, tmp_path):
    page = visit(390, 844, is_mobile=True, has_touch=True)
    page.wait_for_selector("#go")
    shot(page, "phone-start")
    page.get_by_role("button", name="Scratched").tap()
    page.wait_for_selector("#canvas canvas", state="visible")
    result = restored(page, tmp_path)
    shot(page, "phone")
    assert result.pixels.shape == (304, 448, 3)
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing is beside the screen
    for button in ("#go", "#stop", "#download"):
        box = page.locator(button).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["height"] >= 32


def test_only_what_was_given_can_be_had(server):
    for path in (BLURRED, "/etc/passwd"):
        assert requests.get(f"{server.address}/gradio_api/file={path}", timeout=60).status_code == 403
    data = [{"path": str(BLURRED), "meta": {"_type": "gradio.FileData"}}, "denoise"]
    call = requests.post(f"{server.address}/gradio_api/call/restore", json={"data": [*data, *[None] * 15]}, timeout=60)
    answer = requests.get(f"{call.url}/{call.json()['event_id']}", timeout=60).text
    assert "event: error" in answer


def test_password_and_names(visit, server):
    answer = requests.get(server.address, timeout=60)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert requests.get(server.address, headers={"Host": "evil.example"}, timeout=60).status_code == 400
    with serving(HVAE_JAX_WEB_PASSWORD="open sesame") as guarded:
        assert "Restore a photograph" not in requests.get(guarded.address, timeout=60).text
        page = visit(address=guarded.address)
        page.locator("input").nth(0).fill("somebody")
        page.locator("input[type=password]").fill("open barley")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_text("Incorrect")).to_be_visible()
        shot(page, "login")
        page.locator("input").nth(0).fill("somebody")
        page.locator("input[type=password]").fill("open sesame")
        page.get_by_role("button", name="Login").click()
        page.wait_for_selector("#go", state="visible")
