"""From a checkpoint file to a prior: what is in it, which architecture it is of, and the prior's directory."""

import atexit
import contextlib
import dataclasses
import datetime
import functools
import gzip
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from conversion import safetensors, torch_file
from conversion.families import LAYOUTS
from conversion.mapping import assemble, expand, mismatches
from conversion.torch_file import CheckpointError, Tensor
from hvae_jax.models import FAMILIES
from hvae_jax.prior import Metadata, Prior
from hvae_jax.restoration import EXPERIMENTS

Weights = Literal["ema", "raw"]
"""Averaged over the training, or as it ended."""

WEIGHTS: dict[Weights, str] = {"ema": "ema_model_state_dict", "raw": "model_state_dict"}
"""Where PatchVDVAE's training checkpoints hold each."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        weights: which weights were taken, or None where the file holds one set.
        state: names to tensors, without the prefix of distributed training.
        family: the model family.
        preset: the preset it was compared with, None if there is none of its kind.
        config: the architecture, None if it is not known.
        differences: from the preset.
        mismatches: why the tensors do not fit; only without any the file can be converted.
    """

    path: Path
    weights: Weights | None
    state: Mapping[str, Tensor]
    family: str
    preset: str | None
    config: Any
    differences: tuple[str, ...]
    mismatches: tuple[str, ...]


def read(path: str | Path, preset: str | None = None, weights: Weights | None = None) -> Checkpoint:
    """Read what a checkpoint holds, without its numbers.

    Args:
        path: a file of `torch.save`, of OpenAI's VDVAE or of PatchVDVAE; untrusted.
        preset: the architecture it is expected to be of: a name in the family's `PRESETS`, or for VDVAE a JSON file
            of OpenAI's hyperparameters (see `vdvae.parse`). By default it is found out.
        weights: for a file that holds both; "ema" by default.

    Returns:
        What it holds.

    Raises:
        CheckpointError: the file is no checkpoint of these.
        ValueError: the preset is unknown, or needed and not given.
    """
    path = Path(path)
    content = _load(path)
    state, taken = _select(path, content, weights)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    family = next((name for name, layout in LAYOUTS.items() if any(n.startswith(layout.prefix) for n in shapes)), None)
    if family is None:
        raise CheckpointError(
            f"{path} holds no VDVAE and no PatchVDVAE: expected tensors named "
            f"{' or '.join(layout.prefix + '...' for layout in LAYOUTS.values())}, got {_some(state)}"
        )
    found: dict[str, Any] = {"path": path, "weights": taken, "state": state, "family": family}
    try:
        chosen, config, differences = _architecture(family, state, preset)
    except ValueError as error:
        if preset is not None:
            raise
        return Checkpoint(**found, preset=None, config=None, differences=(), mismatches=(str(error),))
    problems = _mismatches(family, state, config)
    return Checkpoint(**found, preset=chosen, config=config, differences=tuple(differences), mismatches=tuple(problems))


def to_prior(checkpoint: Checkpoint) -> Prior:
    """Read the numbers of a checkpoint.

    Args:
        checkpoint: what `read` found.

    Returns:
        The prior, with its provenance and the paper's settings for its kind; `Prior.save` writes it.

    Raises:
        ValueError: the tensors do not fit the architecture, or are not finite; all of them are listed.
    """
    path, layout = checkpoint.path, LAYOUTS[checkpoint.family]
    if checkpoint.config is None:
        raise ValueError(f"{path}: {checkpoint.mismatches[0]}")
    targets = expand(layout.rules(checkpoint.config))
    try:
        params = assemble(checkpoint.state, targets, _template(checkpoint.family, checkpoint.config))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kind = checkpoint.preset or path.stem
    metadata = Metadata.of(
        name=f"{checkpoint.family.replace('_', '-')}-{path.stem if checkpoint.differences else kind}",
        data_licence="that of the checkpoint's publisher; the conversion adds nothing to it",
        provenance={
            "source": path.name,
            "bytes": path.stat().st_size,
            "sha256": digest,
            "family": checkpoint.family,
            "preset": checkpoint.preset,
            "differences_from_preset": list(checkpoint.differences),
            "weights": checkpoint.weights,
            "converter": f"hvae_jax {importlib.metadata.version('hvae_jax')}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        settings={task: [EXPERIMENTS[name] for name in rows] for task, rows in layout.experiments.items()},
    )
    return Prior(params, FAMILIES[checkpoint.family].model(checkpoint.config), metadata)


UNPACKED_LIMIT = 32 << 30
"""Bytes of a compressed file's content beyond which it is refused."""


def _load(path: Path) -> Any:
    """What a file holds, whichever of the formats it is in."""
    head = b""
    with contextlib.suppress(OSError), path.open("rb") as file:  # the reader says what is wrong
        head = file.read(2)
    if path.suffix.lower() == ".safetensors":
        return safetensors.load(path)
    if head != b"\x1f\x8b":
        return torch_file.load(path)
    # Unpacked until the program ends, for the numbers are read later.
    folder = tempfile.mkdtemp(prefix="hvae-jax-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpacked = Path(folder) / path.stem
    try:
        with gzip.open(path) as source, unpacked.open("wb") as target:
            while chunk := source.read(1 << 20):
                if target.tell() > UNPACKED_LIMIT:
                    raise CheckpointError(f"{path} unpacks to more than {UNPACKED_LIMIT} bytes")
                target.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(f"{path} is a damaged gzip file: {error}") from None
    return _load(unpacked)


WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
"""Where training programs put a state dict in a checkpoint."""


def _select(path: Path, content: Any, weights: Weights | None) -> tuple[Mapping[str, Tensor], Weights | None]:
    """The state dict in a file: all of it, or one of a training checkpoint's."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no state dict: expected a dict of tensors, got {type(content).__name__}")
    taken = None
    if any(key in content for key in WEIGHTS.values()):
        taken = weights or "ema"
        if (key := WEIGHTS[taken]) not in content:
            other = "raw" if taken == "ema" else "ema"
            raise CheckpointError(f"{path} holds no {taken} weights (no {key}); give --weights {other}")
        content = content[key]
    while isinstance(content, dict) and (
        inner := next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
    ):
        content = content[inner]
    if not isinstance(content, dict) or not content or any(not isinstance(v, Tensor) for v in content.values()):
        kinds = content if isinstance(content, dict) else {type(content).__name__: None}
        raise CheckpointError(
            f"{path} holds no state dict: expected named tensors, or a training checkpoint with "
            f"{' or '.join(WEIGHTS.values())}, got {_some(kinds)}"
        )
    if bad := [name for name in content if not str(name).isprintable()]:  # they would reach the terminal
        raise CheckpointError(f"{path} has a tensor named {str(bad[0])[:60]!r}, expected printable names")
    return _unwrapped({str(name): tensor for name, tensor in content.items()}), taken


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what all of them begin with (module., model., _orig_mod., ...), up to a known family's names."""
    shorter = state
    while not any(name.startswith(layout.prefix) for name in shorter for layout in LAYOUTS.values()):
        if len({name.partition(".")[0] for name in shorter}) != 1 or any("." not in name for name in shorter):
            return state
        shorter = {name.partition(".")[2]: tensor for name, tensor in shorter.items()}
    return shorter


def _architecture(family: str, state: Mapping[str, Tensor], preset: str | None) -> tuple[str | None, Any, list[str]]:
    """The preset, the architecture that the file tells, and how they differ."""
    layout = LAYOUTS[family]
    shapes = {name: tensor.shape for name, tensor in state.items()}
    chosen, expected = preset, None
    if preset is not None and preset.endswith(".json") and layout.parse is not None:
        chosen, expected = Path(preset).stem, layout.parse(_read_json(Path(preset)))
    elif preset is not None and preset not in layout.presets:
        choices = f"{sorted(layout.presets)}{' or a .json file of hyperparameters' if layout.parse else ''}"
        raise ValueError(f"expected a preset of {family}, {choices}, got {preset!r}")
    elif preset is None:
        chosen = layout.detect(shapes)
    if expected is None and chosen is not None:
        expected = layout.presets[chosen]
    config = layout.infer(shapes, expected)
    return chosen, config, [] if expected is None else _differences(expected, config)


def _mismatches(family: str, state: Mapping[str, Tensor], config: Any) -> list[str]:
    """What keeps the tensors from filling a model of this architecture exactly."""
    shapes = {name: tensor.shape for name, tensor in state.items()}
    return mismatches(shapes, expand(LAYOUTS[family].rules(config)), _template(family, config))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object in {path}, got {type(values).__name__}")
    return values


def _differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """The fields in which two configurations differ, in words."""
    if dataclasses.is_dataclass(expected):
        return [
            line
            for field in dataclasses.fields(expected)
            for line in _differences(getattr(expected, field.name), getattr(found, field.name), f"{where} {field.name}")
        ]
    if isinstance(expected, tuple) and isinstance(found, tuple) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for i, (a, b) in pairs for line in _differences(a, b, f"{where}[{i}]")]
    if isinstance(expected, tuple) and isinstance(found, tuple):
        return [f"{where.strip()}: {len(found)} in the file, {len(expected)} in the preset"]
    return [] if expected == found else [f"{where.strip()}: {found} in the file, {expected} in the preset"]


@functools.cache
def _template(family: str, config: Any) -> Any:
    """Shapes of a model's parameters."""
    return jax.eval_shape(FAMILIES[family].model(config).initialize, jax.random.key(0))


def _some(names: Mapping) -> str:
    shown = ", ".join(str(name)[:60] for name in list(names)[:4])
    return f"{shown}{' ...' if len(names) > 4 else ''}" if names else "none"
