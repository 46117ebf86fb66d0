"""Read safetensors files: a JSON header that says where each tensor lies, and then the numbers."""

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from conversion.torch_file import PICKLE_LIMIT, CheckpointError, Storage, Tensor

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""The format's names of the types that are read."""


def load(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read what a safetensors file holds; the numbers stay in it until `Tensor.numpy` maps them.

    Args:
        path: the file; it may come from anyone.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: the file cannot be read or is damaged.

    Source: https://huggingface.co/docs/safetensors, "Format".
    """
    path = os.fspath(path)
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(PICKLE_LIMIT, size - 8):
                raise CheckpointError(f"{path} declares a header of {length} bytes, expected at most {PICKLE_LIMIT}")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise CheckpointError(f"{path} has a header that is no object")
        return {
            name: _tensor(path, about, 8 + length, size) for name, about in header.items() if name != "__metadata__"
        }
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {type(error).__name__}: {error}") from None


def _tensor(path: str, about: Mapping[str, Any], start: int, size: int) -> Tensor:
    dtype, shape = DTYPES[about["dtype"]], tuple(about["shape"])
    first, last = about["data_offsets"]
    if not all(isinstance(side, int) and side >= 0 for side in (*shape, first, last)):
        raise ValueError(f"a shape or a place is no count: {shape}, {first}, {last}")
    if last - first != math.prod(shape) * dtype.itemsize or start + last > size:
        raise ValueError(f"a tensor of shape {shape} lies from {first} to {last} of {size - start} bytes")
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Tensor(Storage(path, dtype, math.prod(shape), start + first), 0, shape, strides)
