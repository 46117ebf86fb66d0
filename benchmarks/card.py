"""Write a prior's model card: README.md and its pictures.

    python -m benchmarks card --prior NAME|DIR --run RUN --machine "two CPU cores" --results RESULTS \
        --images DATA/test/bsd_valid32.txt --out hvae_jax/pretrained/NAME

It says what `prior.json`, the run of the training (`config.json` and `log.jsonl`) and the tables in RESULTS that are of
this prior say, and measures the rest: the ELBO on --images, and on the free pictures that are here what the prior is
for and what not, beside total variation. What was measured is kept in RESULTS/card; an interrupted run goes on there.
The pictures in the card are free.

Source: Mitchell et al., "Model Cards for Model Reporting", 2019, for what a card must say.
"""

import argparse
import collections
import dataclasses
import datetime
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import jax
import jinja2
import numpy as np
import PIL.Image
import PIL.ImageDraw
from jaxtyping import Float

import hvae_jax as hj
from benchmarks import problems
from benchmarks.command import AddOption
from benchmarks.experiment import (
    Run,
    markdown,
    plus_minus,
    settings_of,
    solver_version,
    standard_error,
)
from benchmarks.measures import elbo
from benchmarks.methods import admm_tv, tuned
from benchmarks.pictures import sheet
from benchmarks.problems import Problem
from hvae_jax.files import write_atomically
from hvae_jax.images import Squares, estimate_noise_std, make_mask, read_image
from hvae_jax.operators import Blur, Denoising, Inpainting, SuperResolution
from hvae_jax.photographs.checking import LEAST_ESTIMATE
from hvae_jax.prior import BUNDLED, Prior, find_prior
from hvae_jax.training.config import TrainConfig

PRETRAINED = Path(hj.__file__).parent / "pretrained"
RESULTS = Path(__file__).parent / "results"
TABLES = ("final", "deblurring", "inpainting")
WEIGHTS = 7.0 * 1.6 ** np.arange(20)
"""Of total variation, up from its default; as many are tried down from there."""

TEMPERATURES = (0.7, 0.85, 1.0)

TILE = 160
"""Side of the pictures, the middle of the images, in pixels."""

LARGEST = 400_000
"""Bytes of all pictures of a card together."""


class Case(NamedTuple):
    """Pictures, degraded in one way.

    Attributes:
        fit: whether the prior is for this.
        names: of the pictures.
        problem: the pictures and what happened to them; "pictures" and "task" of its label say it in words.
    """

    fit: bool
    names: Sequence[str]
    problem: Problem


def cases(photographs: Squares, face: Squares, seed: int = 0) -> list[Case]:
    """What a prior for photographs is for, and then what it is not for.

    Args:
        photographs: at home.
        face: a face, of the same size.
        seed: of noise, masks and the drawing.

    Returns:
        The cases, each with another photograph first.
    """
    size = photographs.pixels.shape[1]
    loaded = problems.load_kernels(names=("k3", "k9"))
    blur = Blur(loaded["k9"])
    box = np.ones((size, size), np.float32)
    box[3 * size // 8 : 5 * size // 8, 3 * size // 8 : 5 * size // 8] = 0
    text, drawing = (
        Squares((name,), make(size)[None], "drawn") for name, make in (("text", page), ("drawing", shapes))
    )

    def mask(kind: str) -> Inpainting:
        return Inpainting(make_mask(kind, size, seed))

    listed: list[tuple[bool, str, Squares, str, Any, float]] = [
        (True, "photographs", photographs, "motion blur", blur, 7.65),
        (True, "photographs", photographs, "half the size", SuperResolution(loaded["k3"], 2), 3.0),
        (True, "photographs", photographs, "50 % missing", mask("random50"), 3.0),
        (True, "photographs", photographs, "noise", Denoising(), 25.0),
        (False, "a face", face, "motion blur", blur, 7.65),
        (False, "text", text, "motion blur", blur, 7.65),
        (False, "a drawing", drawing, "motion blur", blur, 7.65),
        (False, "photographs", photographs, "strong noise", Denoising(), 75.0),
        (False, "photographs", photographs, "80 % missing", mask("random80"), 3.0),
        (False, "photographs", photographs, "a large hole", Inpainting(box), 3.0),
    ]
    made = []
    for i, (fit, pictures, images, task, operator, sigma) in enumerate(listed):
        turned = turn(images, i)
        label: dict[str, str | float] = {"pictures": pictures, "task": task}
        made.append(Case(fit, turned.names, problems.observe(label, operator, sigma, turned, seed)))
    turned = turn(photographs, len(listed))
    compressed = np.stack([jpeg(x, quality=10) for x in turned.pixels])
    noise_std = max(estimate_noise_std(compressed), LEAST_ESTIMATE)
    label = {"pictures": "photographs", "task": "JPEG quality 10", "σ": round(255 * noise_std, 2)}
    return [*made, Case(False, turned.names, Problem(label, Denoising(), noise_std, turned.pixels, compressed))]


def turn(images: Squares, count: int) -> Squares:
    """The same images, beginning with another one."""
    count %= len(images.names)
    names = (*images.names[count:], *images.names[:count])
    return images._replace(names=names, pixels=np.roll(images.pixels, -count, axis=0))


def page(size: int) -> Float[np.ndarray, "size size 3"]:
    """Printed text: black on white."""
    image = PIL.Image.new("RGB", (size, size), (255, 255, 255))
    words = "What the eye reads at once a prior for photographs has never seen: thin strokes, all alike, on nothing. "
    for i, top in enumerate(range(4, size, 18)):
        start = 31 * i % len(words)
        PIL.ImageDraw.Draw(image).text((6, top), (words * 3)[start : start + size // 5], fill=(0, 0, 0), font_size=13)
    return np.asarray(image, np.float32) / 255


def shapes(size: int) -> Float[np.ndarray, "size size 3"]:
    """A drawing: flat colours with black outlines."""
    rng = np.random.default_rng(0)
    image = PIL.Image.new("RGB", (4 * size, 4 * size), (250, 240, 210))
    draw = PIL.ImageDraw.Draw(image)
    for _ in range(24):
        (top, left), (height, width) = rng.uniform(-0.1, 0.9, 2) * 4 * size, rng.uniform(0.1, 0.35, 2) * 4 * size
        kind = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        kind((left, top, left + width, top + height), fill=colour, outline=(0, 0, 0), width=8)
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.LANCZOS), np.float32) / 255


def jpeg(x: Float[np.ndarray, "height width 3"], quality: int) -> Float[np.ndarray, "height width 3"]:
    """An image, stored as JPEG and read again."""
    return np.asarray(PIL.Image.open(io.BytesIO(jpeg_bytes(x, quality))), np.float32) / 255


def jpeg_bytes(x: Float[np.ndarray, "height width 3"], quality: int) -> bytes:
    """An image as a JPEG file."""
    samples = np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)
    return iio.imwrite("<bytes>", samples, plugin="pillow", extension=".jpg", quality=quality)


def compare(run: Run, prior: Prior, case: Case, batch: int) -> tuple[list[Any], list[tuple[str, np.ndarray]]]:
    """Restore a case by total variation and by the prior.

    Args:
        run: keeps what was measured.
        prior: the prior.
        case: the case.
        batch: images in a compiled call.

    Returns:
        A row of the table, and of the sheet of pictures.
    """
    problem = case.problem
    key = {**problem.label, "method": "best weight of tv"}
    weight = run.row(key, lambda: {"weight": best_weight(problem)})["weight"]
    methods: dict[str, Any] = {
        "start": lambda y, A, noise_std: A.initial(y),
        "TV": partial(admm_tv, weight=weight),
        "this prior": lambda y, A, noise_std: hj.restore(prior, y, A, noise_std).image,
    }
    found = {}
    for name, method in methods.items():
        version = solver_version(prior) if name == "this prior" else None
        found[name] = run.restore((name, method), problem, case.names, batch, int(name != "start"), version)
    means = {name: float(np.mean(row["PSNR"])) for name, row in found.items()}
    gain = np.subtract(found["this prior"]["PSNR"], found[max(("start", "TV"), key=means.__getitem__)]["PSNR"])
    words = [problem.label["pictures"], problem.label["task"], problem.label["σ"]]
    row = [*words, *means.values(), float(gain.mean()), standard_error(gain)]

    tv, ours = (found[name]["pictures"][0] for name in ("TV", "this prior"))
    values = [f"{name} {found[name]['PSNR'][0]:.2f} dB" for name in ("TV", "this prior")]
    captions = [f"{words[1]}, noise {words[2]}", *values, "original"]  # Pillow's font has no sigma
    files = [tv["before"], tv["after"], ours["after"], tv["reference"]]
    tiles = [middle(read_image(run.folder / file).pixels) for file in files]
    return row, list(zip(captions, tiles, strict=True))


def best_weight(problem: Problem) -> float:
    """The weight of total variation with the best mean PSNR for these very images."""
    case = [(problem.observed, problem.operator, problem.noise_std, problem.clean)]
    higher = tuned(admm_tv, case, WEIGHTS)
    return higher if higher > WEIGHTS[0] else tuned(admm_tv, case, WEIGHTS[0] ** 2 / WEIGHTS)


def middle(x: np.ndarray) -> np.ndarray:
    """The middle of a picture."""
    top, left = (max(side - TILE, 0) // 2 for side in x.shape[:2])
    return x[top : top + TILE, left : left + TILE]


def verdict(row: Sequence[Any]) -> str:
    """A row of the table of limits in words."""
    *_, ours, gain, error = row
    words = f"{ours:.2f} dB, {abs(gain):.2f} {'above' if gain > 0 else 'below'} the better simple way"
    return words if np.isnan(error) or abs(gain) > 2 * error else f"{words}, which is within two standard errors"


def training_runs(prior: Prior, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What is known of the training.

    Args:
        prior: the prior.
        folders: of the runs that made it, the last one's prior being this.

    Returns:
        The configuration of each run, with "hours" in its steps (pauses are not counted, nor steps that were lost and
        repeated) and the last "bits_per_dim" of the log; without folders, what `prior.json` says.

    Raises:
        ValueError: a folder has no log, or the last is not of this prior's training.
    """
    known = prior.info.get("training", {}).get("config")
    if not folders:
        return [known] if known else []
    runs = []
    for folder in folders:
        config = TrainConfig.from_file(folder / "config.json")
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        if not lines or lines[-1]["step"] != config.steps:
            last = lines[-1]["step"] if lines else 0
            raise ValueError(f"{folder}: expected the log of all {config.steps} steps, got one of {last}")
        steps = np.diff([0, *(line["step"] for line in lines)])
        hours = sum(steps / [line["steps_per_second"] for line in lines]) / 3600
        runs.append({**dataclasses.asdict(config), "hours": float(hours), "bits_per_dim": lines[-1]["bits_per_dim"]})
    if known is None or config != TrainConfig.from_dict(known):  # a file of an older version has fewer settings
        raise ValueError(f"{folders[-1]}: expected the run that made the prior, got one with other settings")
    return runs


def licences(attribution: Path, photographs: Path) -> list[tuple[str, int]]:
    """The licences of the training files, and how many files each has.

    Args:
        attribution: a Markdown table whose first and last columns are file and licence.
        photographs: the files, one a line.

    Returns:
        The most frequent licence first.

    Raises:
        ValueError: a file is not attributed.
    """
    declared = {}
    for line in attribution.read_text().splitlines():
        if len(cells := [cell.strip() for cell in line.strip().strip("|").split(" | ")]) > 2:
            declared[cells[0]] = cells[-1]
    names = photographs.read_text().split()
    if missing := [name for name in names if name not in declared]:
        raise ValueError(f"{attribution}: expected all files of {photographs}, got none for {missing[0]}")
    # The author is in brackets behind the licence.
    count = collections.Counter(re.sub(r" \(.*", "", declared[name]) for name in names)
    return count.most_common()


def tables(results: Path, names: Sequence[str], prior: str) -> Iterator[dict[str, Any]]:
    """The results of experiments, those of another prior left out and said so on stderr.

    Args:
        results: the folder of all experiments.
        names: of those to show, where they are.
        prior: what `settings_of` calls the prior.

    Yields:
        The content of NAME.json, with "markdown" in each table (the paper's numbers left out) and all "notes".
    """
    for name in names:
        path = results / name / f"{name}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        if content["settings"].get("prior") != prior:
            print(f"{path}: left out, for it is of {content['settings'].get('prior')}, not {prior}", file=sys.stderr)
            continue
        for table in content["tables"]:
            shown = [i for i, column in enumerate(table["columns"]) if not column.startswith("paper ")]
            rows = [[row[i] for i in shown] for row in table["rows"]]
            table["markdown"] = markdown([table["columns"][i] for i in shown], rows)
        content["notes"] = list(dict.fromkeys(note for table in content["tables"] for note in table["notes"]))
        yield content


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--prior", default=BUNDLED, metavar="NAME|DIR", help="default: the bundled one")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of README.md and its pictures: the prior's")
    add("--results", type=Path, default=RESULTS, metavar="DIR", help="of the experiments (default benchmarks/results)")
    add("--tables", default=",".join(TABLES), metavar="A,B", help=f"experiments to show (default {','.join(TABLES)})")
    add("--run", type=Path, nargs="+", default=[], metavar="DIR", help="folder(s) of its training, in order")
    add("--machine", metavar="WORDS", help="that it was trained on")
    add("--photos", type=Path, metavar="LIST", help="the files it was trained on (default: the bundled prior's list)")
    add("--images", type=Path, metavar="DIR|LIST", help="for the ELBO (default: the free photographs that are here)")
    add("--limit", type=int, metavar="N", help="take the first N photographs only")
    add("--size", type=int, default=256, help="side of the squares that are cut from the middle (default 256)")
    add("--batch", type=int, default=5, help="images per compiled call (default 5)")
    add("--seed", type=int, default=0)


def run(args: argparse.Namespace, command: str) -> None:
    """Measure, and write the card."""
    prior = hj.load_prior(args.prior)
    folder = find_prior(args.prior)
    described = json.loads((folder / "prior.json").read_text())
    if described["family"] != "patch_vdvae":
        raise ValueError(f"expected a prior of the family patch_vdvae, got {described['family']}")
    name = prior.info.get("name", args.prior)
    runs = training_runs(prior, args.run)
    photos = args.photos or PRETRAINED / "training" / f"{name}.photos.txt"
    declared = licences(PRETRAINED / "ATTRIBUTION.md", photos) if args.photos or photos.exists() else []
    measured_on = problems.load_images(args.images, args.size, args.limit)
    photographs = problems.load_images(None, args.size, args.limit)
    face = problems.load_images(problems.DATA / "faces", args.size)

    settings = settings_of(prior, args.prior, photographs, seed=args.seed)
    shown = list(tables(args.results, args.tables.split(","), settings["prior"]))
    listed = cases(photographs, face, args.seed)
    with Run("card", "Model card", "what a prior is for, and what not", args.results, command, settings) as run:
        run.expect(1 + 4 * len(listed))
        key = {"elbo": measured_on.source, "pixels": measured_on.digest}
        found = run.row(key, lambda: elbo(prior, measured_on, args.seed))
        rows, pictures = zip(*(compare(run, prior, case, args.batch) for case in listed), strict=True)
        columns = ["pictures", "task", "noise", "start", "TV", "this prior", "gain", "±"]
        run.table("What it is for, and what not", columns, rows)
        run.finish()

    side = -(-min(args.size, 96) // prior.multiple) * prior.multiple
    key, shape = jax.random.key(args.seed), (6, side, side, 3)
    samples = [np.asarray(hj.sample(prior, key, shape, temperature=tau)) for tau in TEMPERATURES]
    files = {
        "restored.jpg": sheet([row for row, case in zip(pictures, listed, strict=True) if case.fit]),
        "failures.jpg": sheet([row for row, case in zip(pictures, listed, strict=True) if not case.fit]),
        "samples.jpg": np.concatenate([np.concatenate(list(row), axis=1) for row in samples]),
    }
    for quality in range(90, 30, -5):
        contents = {file: jpeg_bytes(pixels, quality) for file, pixels in files.items()}
        if sum(map(len, contents.values())) <= LARGEST:
            break

    if (figure := args.results / "intervals" / "coverage.png").exists():
        contents["coverage.png"] = figure.read_bytes()
    levels = np.mean(found["kl"], axis=0)
    strides = zip(prior.config.resolutions, prior.config.latent_maps, strict=True)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("card.md").render(
        name=name,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        command=command,
        info=prior.info,
        family=described["family"],
        sha256=described["sha256"],
        parameters=described["parameters"],
        megabytes=sum(file.stat().st_size for file in (folder / "params").rglob("*") if file.is_file()) / 1e6,
        levels=prior.levels,
        multiple=prior.multiple,
        resolutions=[(stride, resolution.levels, channels) for resolution, (stride, channels) in strides],
        noise_conditional=prior.config.noise_conditional,
        noise_max=255 * runs[-1]["loss"]["noise_max"] if runs else None,
        limits=markdown(columns, rows),
        measured={f"{pictures}, {task}": verdict(row) for row in rows for pictures, task in [row[:2]]},
        photographs=len(photographs.names),
        side=args.size,
        at_home=sum(case.fit for case in listed),
        files=sum(count for _, count in declared),
        licences=declared,
        runs=runs,
        machine=args.machine,
        elbo={
            "bits": plus_minus(float(np.mean(found["bits"])), standard_error(found["bits"]), 3),
            "source": measured_on.source.replace(" of images,", " of the free photographs of benchmarks/data,"),
            "kl": levels.sum(),
            "levels": ", ".join(f"{level:.3f}" for level in levels),
            "psnr": np.mean(found["psnr"]),
        },
        temperatures=", ".join(map(str, TEMPERATURES)),
        results=shown,
        coverage="coverage.png" in contents,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for file, content in {**contents, "README.md": text.encode()}.items():
        write_atomically(args.out / file, content)
    size = sum(map(len, contents.values())) / 1000
    print(f"{args.out / 'README.md'}: {len(text.split())} words, {len(contents)} pictures of together {size:.0f} kB")
