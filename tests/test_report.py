import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import cells, write_report
from hvae_jax.images import read_image, write_image

CHROMIUM = shutil.which("chromium")


def results(**changes) -> dict:
    table = {
        "title": "Mean PSNR",
        "columns": ["method", "PSNR", "SSIM", "seconds"],
        "rows": [
            ["observed", 21.4213, "0.498", None],
            ["ours", 29.2812, "0.830", 4.25],
            ["DPIR", None, "not here", 2.5],
        ],
        "best": [None, "max", "max", "min"],
        "notes": ["Ten images."],
    }
    comparison = {"caption": "A cat", "before": "observed.png", "after": "ours.png", "reference": "clean.png"}
    return {
        "name": "deblurring",
        "title": "Deblurring",
        "paper": "Table 2",
        "command": "python -m benchmarks deblurring --out OUT",
        "settings": {"prior": "natural-medium", "seed": 0},
        "tables": [table],
        "figures": [{"file": "psnr.png", "caption": "PSNR of <script>alert('&')</script>"}],
        "comparisons": [comparison, {**comparison, "before": "small.png", "reference": None}],
        **changes,
    }


@pytest.fixture
def out(tmp_path) -> Path:
    """Two experiments, one of them with pictures."""
    photograph = read_image(Path(__file__).parent / "data" / "chelsea256.png").pixels[::2, ::2]
    folder = tmp_path / "deblurring"
    for name, pixels in (
        ("clean", photograph),
        ("ours", 0.9 * photograph),
        ("observed", 1 - photograph),
        ("small", photograph[::4, ::4]),
        ("psnr", photograph[..., 0]),
    ):
        write_image(folder / f"{name}.png", pixels)
    (folder / "deblurring.json").write_text(json.dumps(results()))
    (folder / "other.json").write_text("not a file of results")
    (tmp_path / "speed").mkdir()
    speed = results(title="Seconds", paper="", settings={}, figures=[], comparisons=[])
    (tmp_path / "speed" / "speed.json").write_text(json.dumps(speed))
    return tmp_path


class Elements(HTMLParser):
    """The start tags of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def __call__(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.found if tag in tags]


def test_page_is_complete_and_needs_nothing_else(out):
    path = write_report(out)
    assert path == out / "report.html"
    assert {file.name for file in out.iterdir()} == {"deblurring", "speed", "report.html"}
    page = path.read_text()
    elements = Elements(page)
    assert elements("html")[0]["lang"] == "en"
    assert {attributes.get("name") for attributes in elements("meta")} >= {"viewport"}
    assert [attributes["id"] for attributes in elements("section")] == ["deblurring", "speed"]
    assert {attributes["href"] for attributes in elements("a")} == {"#deblurring", "#speed"}
    images = elements("img")
    assert len(images) == 1 + 3 + 2
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    assert all(attributes["href"] == "data:," for attributes in elements("link"))
    assert "http://" not in page
    assert "https://" not in page
    assert len(elements("script")) == 2  # the caption's is text
    assert "PSNR of &lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in page
    for shown in (
        "<strong>29.28</strong>",
        "<u>21.42</u>",
        "<strong>2.50</strong>",
        ">–</td>",
        "Ten images.",
        "natural-medium",
    ):
        assert shown in page
    assert write_report(out).read_text() == page  # a second time: the same page, replaced


@pytest.mark.parametrize(
    ("column", "best", "marks"),
    [
        ([1.0, 3.0, 2.0, None], "max", ["", "best", "second", ""]),
        ([1.0, 3.0, 2.0, "not 9"], "min", ["best", "", "second", ""]),
        ([29.281, 29.284, 28.0], "max", ["best", "best", "second"]),  # they look the same
        (["9.5 / 0.7", "29.1 / 0.8", "11 ± 2", "12,000 (of 7)"], "max", ["", "second", "", "best"]),
        ([1.0, 1.0, None], "max", ["", "", ""]),
        ([float("nan"), -1.0, -2.0], "max", ["", "best", "second"]),
        ([1.0, 2.0], None, ["", ""]),
    ],
)
def test_best_and_second(column, best, marks):
    assert [cell.mark for cell in cells(column, best)] == marks


def wrong_table(**changes) -> str:
    return json.dumps(results(tables=[{**results()["tables"][0], **changes}]))


def test_compared_across_rows(out):
    table = {"title": "Mean PSNR", "columns": ["task", "tv", "ours"], "notes": [], "best": "max", "across": True}
    table["rows"] = [["deblurring, σ = 3", "29.28 ± 0.40", "30.01 ± 0.39"], ["denoising", "31.50", None]]
    (out / "deblurring" / "deblurring.json").write_text(json.dumps(results(tables=[table])))
    page = write_report(out).read_text()
    assert "The best of a row is" in page
    assert "<strong>30.01 ± 0.39</strong>" in page
    assert "<u>29.28 ± 0.40</u>" in page
    assert "<strong>31.50" not in page  # nothing to compare it with


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("deblurring.json", '{"name": "deb', "deblurring.json: expected JSON"),
        ("deblurring.json", "[]", 'deblurring.json: expected "title" to be a string'),
        (
            "deblurring.json",
            json.dumps(results(tables=None)),
            'deblurring.json: expected "tables" to be a list, got None',
        ),
        ("deblurring.json", wrong_table(notes=None), 'deblurring.json: expected "notes" to be a list'),
        ("deblurring.json", wrong_table(rows=[["ours", 1.0]]), "expected rows of 4 cells"),
        ("deblurring.json", wrong_table(best="high"), 'expected "best" to be "max", "min"'),
        ("deblurring.json", wrong_table(best=["max"]), 'expected "best" to be "max", "min"'),
        ("psnr.png", None, "psnr.png: expected a file"),
        ("ours.png", "damaged", "ours.png: "),
    ],
)
def test_names_the_file_that_is_wrong(out, file, content, message):
    path = out / "deblurring" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_report(out)
    assert {file.name for file in out.iterdir()} == {"deblurring", "speed"}


def test_no_results(tmp_path):
    with pytest.raises(ValueError, match="python -m benchmarks NAME --out"):
        write_report(tmp_path / "missing")


def chromium(page: Path, width: int, height: int, *arguments: str) -> str:
    """What a headless browser prints; virtual time lets the scripts finish."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += [f"--window-size={width},{height}", "--virtual-time-budget=2000", *arguments, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


PROBE = """<script>
const stage = document.querySelector(".stage"), range = stage.querySelector("input");
const box = stage.getBoundingClientRect();
const style = (role) => getComputedStyle(stage.querySelector(role));
const clip = () => style(".before").clipPath;
const point = (type, share, buttons) => stage.dispatchEvent(
  new PointerEvent(type, {clientX: box.left + share * box.width, clientY: box.top + 9, buttons, bubbles: true}));
const seen = {start: clip(), fits: document.documentElement.scrollWidth <= innerWidth};
range.value = 20; range.dispatchEvent(new Event("input", {bubbles: true}));
seen.key = [clip(), range.getAttribute("aria-valuetext")];
point("pointerdown", 0.5, 1); point("pointermove", 0.505, 1); seen.still = clip();
point("pointermove", 0.75, 1); seen.drag = clip(); point("pointermove", 0.1, 0); seen.hover = clip();
point("click", 0.25, 0); seen.click = range.value;
seen.before = [style(".before").visibility, style(".reference").visibility];
document.querySelector("[value=reference]").click();
seen.reference = [style(".before").visibility, style(".reference").visibility, range.getAttribute("aria-valuetext")];
document.body.innerHTML = "<output></output>";
document.querySelector("output").textContent = JSON.stringify(seen);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_in_a_browser(out, width, height):
    page = write_report(out)
    chromium(page, width, height, f"--screenshot={out / 'screen.png'}", "--hide-scrollbars")
    screen = read_image(out / "screen.png").pixels
    assert screen.shape == (height, width, 3)
    assert 0.5 < np.mean(screen > 0.9) < 0.99  # a light page with something on it

    probe = out / "probe.html"
    probe.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    seen = json.loads(
        html.unescape(re.search("<output>(.*)</output>", chromium(probe, width, height, "--dump-dom"))[1])
    )
    inset = "inset(0px {}% 0px 0px)".format
    assert seen["fits"]  # tables scroll by themselves, the page does not
    assert seen["start"] == inset(50)
    assert seen["key"] == [inset(80), "20 % before, 80 % after"]
    assert seen["still"] == inset(80)
    assert seen["drag"] == seen["hover"] == inset(25)
    assert seen["click"] == "25"
    assert seen["before"] == ["visible", "hidden"]
    assert seen["reference"] == ["hidden", "visible", "25 % reference, 75 % after"]
