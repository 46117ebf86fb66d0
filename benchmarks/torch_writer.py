"""Write files as `torch.save` does, without PyTorch: checkpoints for tests and benchmarks."""

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from conversion.torch_file import DTYPES, MAGIC, PROTOCOL

STORAGES = {dtype: name for name, dtype in DTYPES.items()}


def save(obj: Any, path: str | os.PathLike, legacy: bool = False) -> None:
    """Write an object so that `torch.load(path, weights_only=True)` reads it.

    Arrays are written one by one, so that memory stays at what the object takes.

    Args:
        obj: nested dicts, lists and tuples of arrays, numbers, strings and None.
        path: where to.
        legacy: write the format of PyTorch < 1.6.

    Raises:
        TypeError: the object holds something else.
    """
    arrays: list[np.ndarray] = []
    pickled = _pickle(obj, arrays, legacy)
    if legacy:
        with open(path, "wb") as file:
            machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4, "long": 4}}
            for value in (MAGIC, PROTOCOL, machine):
                file.write(_pickle(value, [], legacy))
            file.write(pickled + _pickle([str(key) for key in range(len(arrays))], [], legacy))
            for array in arrays:
                file.write(struct.pack("<q", array.size))
                _write_numbers(array, file)
        return
    prefix = Path(path).stem
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"{prefix}/{name}"), content)
        for key, array in enumerate(arrays):
            with archive.open(zipfile.ZipInfo(f"{prefix}/data/{key}"), "w", force_zip64=True) as entry:
                _write_numbers(array, entry)


def _write_numbers(array: np.ndarray, file: IO[bytes]) -> None:
    """Write an array's bytes, of which a copy is made only where they are not in order."""
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _pickle(value: Any, arrays: list[np.ndarray], legacy: bool) -> bytes:
    """Pickle a value in protocol 2 and append the arrays in it to `arrays`."""
    return b"\x80\2" + b"".join(_instructions(value, arrays, legacy)) + b"."


def _instructions(value: Any, arrays: list[np.ndarray], legacy: bool) -> Iterator[bytes]:
    """Yield the instructions that put a value onto the stack."""
    match value:
        case None:
            yield b"N"
        case bool():
            yield b"\x88" if value else b"\x89"
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            yield b"\x8a" + bytes([len(digits)]) + digits
        case float() if type(value) is float:  # a np.float64 is one too
            yield b"G" + struct.pack(">d", value)
        case str():
            yield b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case list() | tuple():
            yield b"](" if isinstance(value, list) else b"("
            for item in value:
                yield from _instructions(item, arrays, legacy)
            yield b"e" if isinstance(value, list) else b"t"
        case dict():
            yield b"}("
            for pair in value.items():
                for item in pair:
                    yield from _instructions(item, arrays, legacy)
            yield b"u"
        case np.ndarray() | np.generic():
            array = np.asarray(value)
            yield b"ctorch._utils\n_rebuild_tensor_v2\n((" + b"X\7\0\0\0storage"
            yield b"c" + STORAGES[array.dtype].replace(".", "\n").encode() + b"\n"
            for item in (str(len(arrays)), "cpu", array.size, *([None] if legacy else [])):
                yield from _instructions(item, arrays, legacy)
            strides = tuple(np.empty(array.shape, np.bool_).strides)
            yield b"tQ"
            for item in (0, array.shape, strides, False):
                yield from _instructions(item, arrays, legacy)
            yield b"ccollections\nOrderedDict\n)RtR"
            arrays.append(array)
        case _:
            raise TypeError(f"expected arrays, numbers, strings, dicts, lists and tuples, got {type(value).__name__}")
