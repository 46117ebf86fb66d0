"""What a `prior.json` may say: one schema for the description of a prior and for its tables of settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hvae_jax.models.contract import HierarchyConfig

FORMAT = 1
"""Version of the directory format; a newer one is refused."""

MOST_BYTES = 4 << 20
"""Of the file."""

LARGEST_SIZE = 1 << 16
"""Of the whole numbers of an architecture: channels, levels, sides."""

MOST_LEVELS = 4096
"""Of an architecture, over all resolutions."""

GreyLevels = Annotated[float, Field(gt=0, le=1275)]
"""A deviation in grey levels of 255, up to five times white."""
Temperature = Annotated[float, Field(gt=0, le=1)]


class Row(BaseModel):
    """Settings for a noise level; deviations in grey levels of 255, the rest as in `RestoreConfig`."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    noise_std: Annotated[float, Field(ge=0, le=1275)]
    temperature: Temperature | Annotated[list[Temperature], Field(min_length=2, max_length=2)]
    returns: Literal["x", "mean"]
    max_iterations: Annotated[int, Field(ge=1, le=1_000_000)]
    initial: Literal["encode", "official", "image"] = "encode"
    orientations: Literal["fixed", "cycle"] | Annotated[int, Field(ge=1, le=8)] = "fixed"
    factor: Annotated[int, Field(ge=1, le=64)] = 1
    stop: Literal["plateau", "residual"] = "residual"
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    decoder_std: GreyLevels | None = None
    anneal_from: Annotated[float, Field(ge=0, le=1275)] | None = None
    anneal_to: GreyLevels | None = None
    anneal_to_per_noise_std: Annotated[float, Field(ge=0, le=100)] = 1.0
    decoder_std_per_noise_level: Annotated[float, Field(gt=0, le=1000)] | None = None
    decoder_std_exponent: Annotated[float, Field(ge=-10, le=10)] = 1.0

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> Row:
        annealed = (self.anneal_from, self.anneal_to, self.decoder_std_per_noise_level)
        if self.decoder_std is None and None in annealed:
            raise ValueError("expected decoder_std, or anneal_from, anneal_to and decoder_std_per_noise_level")
        if self.anneal_from is not None and None in annealed:
            raise ValueError("expected anneal_to and decoder_std_per_noise_level beside anneal_from")
        return self


class CalibrationRow(BaseModel):
    """How a deviation becomes an interval at a noise level, see `restoration.calibration`; in grey levels of 255."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    noise_std: Annotated[float, Field(ge=0, le=1275)]
    factor: Annotated[int, Field(ge=1, le=64)] = 1
    missing: bool = False
    contrast: Annotated[float, Field(ge=0, le=1e6)]
    floor: Annotated[float, Field(ge=0, le=1275)]
    scales: Annotated[list[Annotated[float, Field(ge=0, le=1e9)]], Field(min_length=6, max_length=6)]


class Description(BaseModel):
    """A `prior.json`; what else its maker wrote there is kept."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: int
    family: str
    config: dict[str, Any]
    sha256: str
    parameters: int | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    name: str | None = None
    settings: dict[str, Annotated[list[Row], Field(min_length=1, max_length=1000)]] | None = None
    settings_measured_on: str | None = None
    calibration: dict[str, Annotated[list[CalibrationRow], Field(min_length=1, max_length=1000)]] | None = None
    calibration_measured_on: str | None = None

    @pydantic.field_validator("settings", "calibration")
    @classmethod
    def _is_sorted(cls, tables: dict[str, list[Any]] | None) -> dict[str, list[Any]] | None:
        for task, rows in (tables or {}).items():
            kinds: dict[tuple[int, bool], list[float]] = {}
            for row in rows:
                kinds.setdefault((row.factor, getattr(row, "missing", False)), []).append(row.noise_std)
            if any(levels != sorted(set(levels)) for levels in kinds.values()):
                raise ValueError(f"expected noise levels that increase in the table of {task}")
        return tables


def read_description(path: Path) -> dict[str, Any]:
    """The values of a `prior.json`, checked.

    Args:
        path: the file.

    Returns:
        What it says, as it stands there.

    Raises:
        ValueError: it is too large, no JSON, or a value is missing or out of range; the message names the field.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes, got {path.stat().st_size}")
    try:
        values = json.loads(path.read_text())
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    if "format" in values and values["format"] != FORMAT:
        raise ValueError(
            f"it has format {values['format']!r}, this version of hvae_jax reads {FORMAT}; a newer one may read it"
        )
    check_description(values)
    return values


def check_description(values: dict[str, Any]) -> None:
    """ValueError, which names the field, for values that a `prior.json` may not have."""
    try:
        Description.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(in_words(error)) from None


def check_architecture(config: HierarchyConfig) -> None:
    """Refuse an architecture whose values are of wrong types or sizes that no model has.

    Raises:
        ValueError: the message names the field.
    """
    try:
        # As JSON, where lists are tuples and objects are resolutions, but a string is no number.
        pydantic.TypeAdapter(type(config)).validate_json(json.dumps(config.to_dict()), strict=True)
    except pydantic.ValidationError as error:
        raise ValueError(in_words(error)) from None
    for part in (config, *config.resolutions):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if isinstance(value, int) and not 0 <= value <= LARGEST_SIZE:
                raise ValueError(f"{field.name}: expected a whole number from 0 to {LARGEST_SIZE}, got {value}")
    if not 1 <= config.levels <= MOST_LEVELS:
        raise ValueError(f"levels: expected 1 to {MOST_LEVELS} in all, got {config.levels}")


def in_words(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong, on one line: field, expectation, value."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", got {str(first['input'])[:60]!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{got}"
