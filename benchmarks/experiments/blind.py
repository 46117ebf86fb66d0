"""Photographs whose blur nobody tells: whose is found, who gains, and whose picture gets worse."""

import importlib.util
import io
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float
from scipy import ndimage

import hvae_jax as hj
from benchmarks.command import AddOption
from benchmarks.experiment import solver_version
from benchmarks.experiments.common import Options
from benchmarks.problems import load_kernels
from hvae_jax.images import parse_kernel
from hvae_jax.metrics import psnr
from hvae_jax.training.iterates import random_kernels

TITLE, PAPER = "Unknown blur, estimated", "none"

Peer: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From the pixels of a picture to those of another."""

BLURS = ("shake", "gaussian", "disc", "line")
"""A bent path, a round or elongated Gaussian, a disc, a straight motion; sizes are random."""

NOISES = (1.0, 2.55, 7.65)
"""In grey levels."""

QUALITIES = (None, None, 90)
"""Of files: PNG, PNG, JPEG."""

CONDITIONS = tuple(itertools.product(NOISES, (None, 90)))
"""All that a sharp picture is tried with; blurred ones take turns at noises and qualities."""

HARM = 0.2
"""A picture is worse that has lost so many dB."""

SIDE, MARGIN = 176, 12
"""Of the pictures, at most, in pixels; what the scene has beyond them, at least."""


def add_options(add: AddOption) -> None:
    """Its own."""
    add("--wrap", action="store_true", help="blur the squares as if they repeated themselves")


def blur_kernel(blur: str, seed: int, given: dict[str, np.ndarray] | None) -> Float[np.ndarray, "kh kw"]:
    """A kernel of random size, or one of those given for shake."""
    rng = np.random.default_rng(seed)
    if blur == "none":
        return np.ones((1, 1), np.float32)
    if blur == "gaussian":
        width, ratio = rng.uniform(1, 3), rng.choice([1, rng.uniform(0.4, 0.8)])
        return parse_kernel(f"gaussian:{width:.3f},{width * ratio:.3f},{rng.uniform(0, 180):.1f}")
    if blur == "disc":
        return parse_kernel(f"disk:{rng.uniform(1.5, 4.5):.3f}")
    if blur == "line":
        return parse_kernel(f"motion:{rng.uniform(5, 17):.2f},{rng.uniform(0, 180):.1f}")
    if given is not None:
        kernel = np.asarray(given[sorted(given)[seed % len(given)]], np.float64)
        at = [(np.arange(n) * kernel.sum(axis=1 - axis)).sum() for axis, n in enumerate(kernel.shape)]
        moved = np.maximum(ndimage.shift(kernel, [n // 2 - a for n, a in zip(kernel.shape, at, strict=True)]), 0)
        return (moved / moved.sum()).astype(np.float32)
    return np.asarray(random_kernels(jax.random.key(seed), 1)[0])


def simulated(
    scene: np.ndarray, kernel: np.ndarray, sigma: float, quality: int | None, seed: int, wrap: bool
) -> tuple[bytes, Float[np.ndarray, "H W C"]]:
    """The file of a blurred picture, and the clean one: of the scene's middle, so that its borders are natural."""
    mode = "wrap" if wrap else "nearest"
    size = min(SIDE, min(scene.shape[:2]) - (0 if wrap else 2 * MARGIN))
    top, left = ((side - size) // 2 for side in scene.shape[:2])
    middle = (slice(top, top + size), slice(left, left + size))
    scene = np.asarray(scene[middle] if wrap else scene, np.float64)
    light = np.stack([ndimage.convolve(c, kernel, mode=mode) for c in np.moveaxis(scene, -1, 0)], axis=-1)
    light, clean = (light, scene) if wrap else (light[middle], scene[middle])
    noisy = 255 * light + sigma * np.random.default_rng(seed).standard_normal(light.shape)
    file = io.BytesIO()
    kind, options = ("PNG", {}) if quality is None else ("JPEG", {"quality": quality})
    PIL.Image.fromarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8).squeeze()).save(file, kind, **options)
    return file.getvalue(), clean.astype(np.float32)


def measured(
    options: Options, blur: str, i: int, condition: tuple[float, int | None], peer: Peer | None
) -> dict[str, Any]:
    """PSNR of a file, of what is made of it with the kernel estimated and known, and of the peer's result."""
    seed = 1000 * options.seed + 100 * (*BLURS, "none").index(blur) + i
    sigma, quality = condition
    given = None if options.kernels is None else load_kernels(options.kernels, None)
    kernel = blur_kernel(blur, seed, given)
    file, clean = simulated(options.images.pixels[i], kernel, sigma, quality, seed, options.own.wrap)
    photo = hj.read_photograph(io.BytesIO(file))

    def score(pixels: np.ndarray) -> float:
        written = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.float32) / 255
        return round(float(psnr(written, clean)), 3)

    done = hj.restore_photograph(photo, "deblur", kernel="estimate", prior=options.prior)
    assert done.estimate is not None
    about = {
        "input": score(photo.pixels),
        "found": done.estimate.description,
        "confidence": round(done.estimate.confidence, 3),
        "accepted": done.kernel is not None,
        "estimated": score(done.image.pixels),
        "peer": None if peer is None else score(peer(photo.pixels)),
    }
    if blur == "none":
        return {**about, "known": about["input"]}
    known = hj.restore_photograph(photo, "deblur", kernel=kernel, prior=options.prior)
    return {**about, "known": score(known.image.pixels)}


def polyblur() -> tuple[Peer | None, str]:
    """The peer, where it is installed, and a sentence."""
    if importlib.util.find_spec("polyblur") is None:
        why = "polyblur is not installed (pip install --no-build-isolation polyblur, with PyTorch), and was left out."
        return None, why
    from polyblur import polyblur_deblurring

    def restore(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(polyblur_deblurring(pixels.astype(np.float32), n_iter=3, alpha=6, beta=1, edgetaping=True))

    return restore, "polyblur 0.1.6: three iterations, α = 6, β = 1; it restores every picture."


def run(options: Options) -> None:
    """Run it."""
    peer, sentence = polyblur()
    count = len(options.images.names)
    settings = {"recommended": solver_version(options.prior), "version": VERSION, "wrap": options.own.wrap}
    with options.start("blind", TITLE, PAPER, peer=peer is not None, **settings) as run:
        names = options.images.names
        run.expect(len(names) * (len(BLURS) + len(CONDITIONS)))
        cells = {
            blur: [(i, (NOISES[(i + turn) % 3], QUALITIES[(i // 3 + turn) % 3])) for i in range(len(names))]
            for turn, blur in enumerate(BLURS)
        }
        cells["none"] = [(i, condition) for i in range(len(names)) for condition in CONDITIONS]
        rows = {
            blur: [
                run.row(
                    {"blur": blur, "image": names[i], "noise": condition[0], "quality": condition[1]},
                    partial(measured, options, blur, i, condition, peer),
                )
                for i, condition in members
            ]
            for blur, members in cells.items()
        }
        lines = [summed_up(blur, rows[blur]) for blur in BLURS]
        lines.append(summed_up("all blurred", [row for blur in BLURS for row in rows[blur]]))
        lines.append(summed_up("sharp", rows["none"]))
        note = (
            f"PSNR in dB, means over {count} photographs for each blur, of all pictures: one that is not accepted "
            f"stays as it was. Of the accepted: how many lost more than {HARM} dB, the least and the mean gain, and "
            f"the median of what is lacking to the known kernel. Noise of {', '.join(map(str, NOISES))} grey levels, "
            f"and PNG or JPEG, by turns; of sharp pictures all combinations. {sentence}"
        )
        columns = ["blur", "accepted", "worse", "least gain", "mean gain", "less than known", "input", "estimated"]
        run.table("Nothing told", [*columns, "known kernel", "polyblur"], lines, notes=[note])
        run.finish()


def summed_up(name: str, rows: list[dict[str, Any]]) -> list[Any]:
    """A line of the table."""
    accepted = [row for row in rows if row["accepted"]]
    gains = np.array([row["estimated"] - row["input"] for row in accepted])
    lacking = np.array([row["known"] - row["estimated"] for row in accepted])
    means = [
        None if any(row[column] is None for row in rows) else float(np.mean([row[column] for row in rows]))
        for column in ("input", "estimated", "known", "peer")
    ]
    share = f"{len(accepted)}/{len(rows)}"
    if not accepted:
        return [name, share, None, None, None, None, *means]
    worse = f"{int((gains < -HARM).sum())}/{len(accepted)}"
    numbers = [round(float(value), 2) for value in (gains.min(), gains.mean(), np.median(lacking))]
    return [name, share, worse, *numbers, *means]


VERSION = 2
"""Of the simulation and of the estimate."""
