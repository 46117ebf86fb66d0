"""Damaged and hostile files by the thousand: each is read or refused in words, in bounded time and memory.

    python -m benchmarks fuzz --count 1000 [--targets checkpoint,prior,orbax,image,mask,kernel] [--seed 0]

Every input is a good file that was changed at random, the same for the same seed. What fails is kept under --out.
"""

import argparse
import collections
import io
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command import AddOption, names_of

MOST_SECONDS, MOST_BYTES = 2.0, 512 << 20
"""For each input."""


class Target(NamedTuple):
    """Something that reads files.

    Attributes:
        write: the function (rng, folder) that writes an input and returns its path.
        read: reads it.
        refusals: the exceptions that are words.
    """

    write: Callable[[np.random.Generator, Path], Path]
    read: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...]


# What is changed


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes with one to eight changes: flipped, set, cut, repeated, moved, numbers made extreme."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        if not data:
            break
        at = int(rng.integers(len(data)))
        length = int(min(rng.integers(1, 65), len(data) - at))
        match rng.integers(7):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + length] = rng.bytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 9))
            case 4:
                del data[at:]
            case 5:
                other = int(rng.integers(len(data)))
                data[at : at + length] = data[other : other + length]
            case 6:
                extreme = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                width = int(rng.choice([1, 2, 4]))
                order = "little" if rng.random() < 0.5 else "big"
                data[at : at + width] = (extreme & (256**width - 1)).to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(data)


STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**9), 0.0, -0.5, 1e-300, 1e300, math.inf, math.nan),
    *("", "x", "fixed", "1", [], [1], [[]], {}, {"a": 1}, [None], ["x", 2], [1.0] * 3),
)
"""Values that a JSON file may hold where others are expected."""


def mutated_json(rng: np.random.Generator, value: Any) -> Any:
    """A copy of an object of which one to three values are strange, missing, twice there or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.integers(1, 4)):
        parent, key = value, None
        while isinstance(parent, dict | list) and parent:
            names = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            key = names[int(rng.integers(len(names)))]
            if not isinstance(parent[key], dict | list) or not parent[key] or rng.random() < 0.15:
                break
            parent = parent[key]
        if key is None:
            continue
        match rng.integers(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.append(parent[key])
            case 2 if isinstance(parent, dict):
                parent[f"{key}x"] = parent.pop(key)
            case 3 if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
                parent[key] = parent[key] * float(rng.choice([-1, 1e-6, 0.5, 3, 1e6]))
            case _:
                parent[key] = STRANGE[int(rng.integers(len(STRANGE)))]
    return value


# The targets


def checkpoints(home: Path) -> Target:
    """Files of PyTorch and safetensors."""
    from benchmarks.torch_writer import save
    from conversion import safetensors, torch_file

    def read(path: Path) -> None:
        inner = [(safetensors if path.suffix == ".safetensors" else torch_file).load(path)]
        while inner:
            item = inner.pop()
            if isinstance(item, torch_file.Tensor):
                item.numpy()
            elif isinstance(item, dict | list | tuple):
                inner += item.values() if isinstance(item, dict) else item

    rng = np.random.default_rng(0)
    state = {f"block.{i}.weight": rng.standard_normal((3, 4)).astype(np.float32) for i in range(4)}
    seeds: list[tuple[str, bytes]] = []
    for legacy in (False, True):
        save({"state_dict": state, "step": 3}, home / "a.pt", legacy=legacy)
        seeds.append(("a.pt", (home / "a.pt").read_bytes()))
    header = {k: {"dtype": "F32", "shape": [3, 4], "data_offsets": [48 * i, 48 * i + 48]} for i, k in enumerate(state)}
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in state.values())
    seeds.append(("a.safetensors", len(text).to_bytes(8, "little") + text + data))
    return Target(changed_files(seeds), read, (torch_file.CheckpointError,))


def changed_files(seeds: list[tuple[str, bytes]]) -> Callable[[np.random.Generator, Path], Path]:
    """Writes one of the files, changed."""

    def write(rng: np.random.Generator, folder: Path) -> Path:
        name, content = seeds[int(rng.integers(len(seeds)))]
        path = folder / name
        path.write_bytes(mutated(rng, content))
        return path

    return write


def prior_folder(folder: Path) -> None:
    """A small prior with the bundled one's tables of settings, saved."""
    import jax

    import hvae_jax as hj
    from hvae_jax.models.patch_vdvae import PatchVDVAE, PatchVDVAEConfig, Resolution
    from hvae_jax.prior import Metadata, Prior

    small = dict.fromkeys(("width", "encoder_width", "skip_width"), 8)
    small |= dict.fromkeys(("bottleneck", "posterior_bottleneck", "latent_channels", "encoder_bottleneck"), 4)
    coarse, fine = (Resolution(stride=stride, levels=1, encoder_blocks=1, **small) for stride in (1, 2))
    model = PatchVDVAE(PatchVDVAEConfig((coarse, fine), noise_conditional=True, clip_input=False))
    about = Metadata.of(name="small", settings=hj.load_prior().info["settings"])
    Prior(model.initialize(jax.random.key(0)), model, about).save(folder)


def read_prior(folder: Path) -> None:
    """Load it and look up its settings for every task."""
    import hvae_jax as hj
    from hvae_jax.restoration.recommended import rows_for

    prior = hj.load_prior(folder)
    kernel = np.ones((3, 3)) / 9
    for operator in (
        *(hj.operators.Blur(kernel), hj.operators.SuperResolution(kernel, 2)),
        *(hj.operators.Denoising(), hj.operators.Inpainting(np.eye(8))),
    ):
        for sigma in (0.5, 10.0, 60.0):
            if rows_for(prior, operator) is None:
                continue
            config = hj.recommended_config(prior, sigma / 255, operator)
            config.check(None)
            if not (np.isfinite(config.decoder_std).all() and (np.asarray(config.decoder_std) > 0).all()):
                raise AssertionError(f"a γ of {config.decoder_std}")


def descriptions(home: Path) -> Target:
    """`prior.json`, with everything else whole."""
    import hvae_jax as hj

    prior = home / "prior"
    prior_folder(prior)
    good = json.loads((prior / "prior.json").read_text())

    def write(rng: np.random.Generator, folder: Path) -> Path:
        text = json.dumps(mutated_json(rng, good))
        (prior / "prior.json").write_bytes(mutated(rng, text.encode()) if rng.random() < 0.1 else text.encode())
        return prior

    return Target(write, read_prior, (hj.PriorError,))


def parameters(home: Path) -> Target:
    """Orbax's files, damaged and with the checksum of what is there, as of one who means it."""
    import shutil

    import hvae_jax as hj
    from hvae_jax.prior import _digest

    good = home / "prior"
    prior_folder(good)
    files = sorted(path.relative_to(good) for path in (good / "params").rglob("*") if path.is_file())

    def write(rng: np.random.Generator, folder: Path) -> Path:
        changed = folder / "prior"
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(good, changed)
        path = changed / files[int(rng.integers(len(files)))]
        if rng.random() < 0.1:
            path.unlink()
        else:
            path.write_bytes(mutated(rng, path.read_bytes()))
        about = json.loads((changed / "prior.json").read_text())
        about["sha256"] = _digest(changed / "params")
        (changed / "prior.json").write_text(json.dumps(about))
        return changed

    def read(folder: Path) -> None:
        with quiet():  # Orbax tells of damage at length, besides raising
            hj.load_prior(folder)

    return Target(write, read, (hj.PriorError,))


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches stderr, not even from other threads."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def picture_seeds() -> list[tuple[str, bytes]]:
    """A small picture in every format that can be written."""
    from hvae_jax.images import encode_image
    from hvae_jax.images.formats import SUFFIXES

    rng = np.random.default_rng(0)
    colour = rng.random((12, 10, 3)).astype(np.float32)
    seeds = []
    for suffix in SUFFIXES:
        for pixels in (colour, colour[..., :1]):
            for depth in (8, 16) if suffix in (".png", ".tif", ".npy") else (8,):
                file = io.BytesIO()
                encode_image(file, suffix, pixels, bit_depth=depth)
                seeds.append((f"a{suffix}", file.getvalue()))
    return seeds


def pictures(home: Path) -> Target:
    """Photographs."""
    from hvae_jax.images import ImageError, read_image

    return Target(changed_files(picture_seeds()), read_image, (ImageError,))


def masks(home: Path) -> Target:
    """Masks, of the same formats."""
    from hvae_jax.images import ImageError, read_mask

    return Target(changed_files(picture_seeds()), read_mask, (ImageError,))


def kernels(home: Path) -> Target:
    """Kernels: pictures, arrays, archives, text."""
    import scipy.io

    from hvae_jax.images import ImageError, read_kernel

    kernel = np.random.default_rng(0).random((5, 7))
    archive, matrix, text = io.BytesIO(), io.BytesIO(), io.StringIO()
    np.savez_compressed(archive, kernel=kernel)
    scipy.io.savemat(matrix, {"kernel": kernel}, do_compression=True)
    np.savetxt(text, kernel)
    seeds = [("a.npz", archive.getvalue()), ("a.mat", matrix.getvalue()), ("a.txt", text.getvalue().encode())]
    return Target(changed_files(picture_seeds() + 8 * seeds), lambda path: read_kernel(str(path)), (ImageError,))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "checkpoint": checkpoints,
    "prior": descriptions,
    "orbax": parameters,
    "image": pictures,
    "mask": masks,
    "kernel": kernels,
}
"""Each is made with a folder for what it needs."""


# Running


class Outcome(NamedTuple):
    """Of one input.

    Attributes:
        kind: "read", "refused", or what went wrong.
        seconds: that it took.
    """

    kind: str
    seconds: float


@contextmanager
def bounded() -> Iterator[None]:
    """At most `MOST_BYTES` more memory; a reader that never ends is stopped."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, 10 * MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def outcome(target: Target, path: Path) -> Outcome:
    """Read an input."""
    start = time.perf_counter()
    try:
        with bounded():
            target.read(path)
        kind = "read"
    except target.refusals as error:
        words = str(error)
        hidden = error.__cause__ if isinstance(error.__cause__, MemoryError | TimeoutError) else None
        kind = "refused" if words and "\n" not in words and hidden is None else f"{type(hidden or error).__name__}"
    except Exception as error:
        kind = type(error).__name__
    seconds = time.perf_counter() - start
    return Outcome("slow" if seconds > MOST_SECONDS and kind in ("read", "refused") else kind, seconds)


def fuzz(name: str, count: int, seed: int, out: Path | None = None) -> dict[str, int]:
    """Run one target.

    Args:
        name: of `TARGETS`.
        count: how many inputs.
        seed: of the first; each has its own.
        out: where to keep what failed; None for nowhere.

    Returns:
        How many inputs came to which end.
    """
    import shutil

    ends: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as scratch:
        target = TARGETS[name](Path(home))
        for number in range(seed, seed + count):
            path = target.write(np.random.default_rng((number, len(name))), Path(scratch))
            end = outcome(target, path)
            ends[end.kind] += 1
            if end.kind not in ("read", "refused") and out is not None:
                kept = out / f"{name}-{number}-{end.kind}"
                out.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    shutil.copytree(path, kept, dirs_exist_ok=True)
                else:
                    shutil.copy(path, kept.with_suffix(path.suffix))
    return dict(ends)


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--targets", type=names_of, default=tuple(TARGETS), metavar="A,B", help=f"of {', '.join(TARGETS)}")
    add("--count", type=int, default=1000, help="inputs of each target (default 1000)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("out/fuzz"), metavar="DIR", help="keeps what failed (default out/fuzz)")


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    if unknown := set(args.targets) - set(TARGETS):
        raise ValueError(f"expected targets of {', '.join(TARGETS)}, got {min(unknown)}")
    print(f"`{command}`\n\n| target | inputs | read | refused in words | failed | seconds |\n| --- |" + " --- |" * 5)
    failed = 0
    for name in args.targets:
        start = time.perf_counter()
        ends = fuzz(name, args.count, args.seed, args.out)
        bad = {kind: number for kind, number in ends.items() if kind not in ("read", "refused")}
        failed += sum(bad.values())
        words = ", ".join(f"{number} {kind}" for kind, number in bad.items()) or "0"
        seconds = time.perf_counter() - start
        row = (name, args.count, ends.get("read", 0), ends.get("refused", 0), words, f"{seconds:.0f}")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    if failed:
        print(f"{failed} inputs were neither read nor refused in words; they are in {args.out}", file=sys.stderr)
        raise SystemExit(1)
