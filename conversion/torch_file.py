"""Read the files of `torch.save` without PyTorch, trusting nothing in them.

A checkpoint is a pickle, and a pickle is a program. Here it runs on a machine of our own that knows the few
instructions torch.save writes and the few functions of `FUNCTIONS`; it never imports, looks up or calls anything else.
The numbers stay in the file until `Tensor.numpy` maps them.
"""

import io
import math
import mmap
import os
import pickletools
import reprlib
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FunctionType, NoneType
from typing import Any

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of a file of PyTorch < 1.6 holds."""

PROTOCOL = 1001
"""What its second pickle holds."""

PICKLE_LIMIT = 16 << 20
"""Bytes of a pickle or a zip directory beyond which a file is refused; a thousand tensors take about 200 kB."""

WORK_LIMIT = 500_000
"""Most instructions of a pickle, and entries that they copy; a VDVAE with its optimizer's state has a third of that."""

LARGEST_KEY = 2**31
"""Integers as keys are an optimizer's numbers of its parameters, and below it."""

NESTING_LIMIT = 100
"""Containers within containers beyond which a file is refused, so that whoever walks the result may recurse."""

# Checkpoints are little-endian, and so is every machine that JAX runs on.
DTYPES = {
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
"""PyTorch's names of the dtypes that are read."""


class CheckpointError(ValueError):
    """A file cannot be read as a PyTorch checkpoint; the message says which and why."""


@dataclass
class Storage:
    """A run of numbers in a file, which tensors are views of.

    Attributes:
        path: the file.
        dtype: the numbers' type.
        numel: how many.
        position: the byte at which they start; the old format tells it last.
    """

    path: str
    dtype: np.dtype
    numel: int
    position: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor that is still in its file.

    Attributes:
        storage: the numbers it is a view of.
        offset: its first number.
        shape: its shape.
        strides: numbers to skip along each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The numbers' type."""
        return self.storage.dtype

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that `numpy` returns."""
        return self.size * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Copy the tensor out of the file, which is mapped only meanwhile.

        Returns:
            A fresh C-contiguous array.

        Raises:
            CheckpointError: the file has gone or shrunk since it was loaded.
        """
        if not self.size:
            return np.empty(self.shape, self.dtype)
        itemsize = self.dtype.itemsize
        start = self.storage.position + self.offset * itemsize
        strides = [stride * itemsize for stride in self.strides]
        try:
            with (
                open(self.storage.path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
            ):
                return np.ndarray(self.shape, self.dtype, mapping, start, strides).copy()
        except (OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.storage.path} has changed since it was loaded: {error}") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """For `np.asarray`."""
        if copy is False:
            raise ValueError("a tensor in a file is only had as a copy")
        return self.numpy().astype(dtype or self.dtype, copy=False)


def load(path: str | os.PathLike) -> Any:
    """Read what `torch.save` wrote, in the zip format of PyTorch >= 1.6 or the format before it.

    Args:
        path: the file; it may come from anyone.

    Returns:
        Nested dicts, lists, tuples, numbers, strings and None, with a `Tensor` for each tensor.

    Raises:
        CheckpointError: the file cannot be read, is no such file, is damaged or asks for more than tensors.
    """
    path = os.fspath(path)
    try:
        raw = io.FileIO(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with _BoundedReader(raw) as file:
            value = _load(file, path)
        _check_plain(value)
        return value
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    # A damaged file may provoke anything: struct.error, BadZipFile, IndexError, UnicodeDecodeError, OSError, ...
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or cut short: {_short(error)}") from error


class _BoundedReader(io.BufferedReader):
    """A file from which a declared length can ask for a few megabytes at most."""

    def read(self, size: int | None = -1) -> bytes:
        if size and size > PICKLE_LIMIT:
            raise CheckpointError(f"declares a piece of {size} bytes, expected at most {PICKLE_LIMIT}")
        return super().read(size)

    def readline(self, size: int | None = -1) -> bytes:
        return super().readline(1000)


def _load(file: _BoundedReader, path: str) -> Any:
    """Tell the formats apart by the file's first bytes."""
    head = file.read(512)
    file.seek(0)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _load_zip(file, path)
    if head.startswith(b"\x80"):
        return _load_legacy(file, path)
    if not head:
        raise CheckpointError("is empty, expected a PyTorch checkpoint")
    if head[257:262] == b"ustar":
        if head[:100].rstrip(b"\0") in (b"sys_info", b"storages", b"tensors", b"pickle"):
            raise CheckpointError(
                "is in the tar format of PyTorch < 0.1.10; load it and save it again with a newer one"
            )
        raise CheckpointError("is a tar archive that PyTorch did not write; unpack it and give the checkpoint in it")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError("is a Git LFS pointer and not the file; run git lfs pull")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError("looks like a web page, expected a PyTorch checkpoint; the download may have failed")
    raise CheckpointError(f"is not a PyTorch checkpoint: expected a zip archive or a pickle, got {head[:8]!r}...")


def _load_zip(file: _BoundedReader, path: str) -> Any:
    """Read the zip format: a pickle PREFIX/data.pkl and a file PREFIX/data/KEY for each storage."""
    entries = _zip_entries(file)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(f"is a zip archive that torch.save did not write: it has {len(pickles)} data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries:
        raise CheckpointError("is a TorchScript archive, expected a state dict that torch.save wrote")
    if f"{prefix}byteorder" in entries:
        position, size = entries[f"{prefix}byteorder"]
        file.seek(position)
        _check_byteorder(file.read(size) == b"little")

    def find(dtype: np.dtype, key: str, numel: int) -> Storage:
        if f"{prefix}data/{key}" not in entries:
            raise CheckpointError(f"has no storage {_short(key)}, which its tensors need")
        position, size = entries[f"{prefix}data/{key}"]
        if size < numel * dtype.itemsize:
            raise CheckpointError(f"has {size} bytes in storage {_short(key)}, expected {numel * dtype.itemsize}")
        return Storage(path, dtype, numel, position)

    position, size = entries[pickles[0]]
    file.seek(position)
    return _unpickle(file, min(size, PICKLE_LIMIT), find)


def _zip_entries(file: _BoundedReader) -> dict[str, tuple[int, int]]:
    """Find where the entries of a zip archive lie, and refuse all that torch.save does not write.

    Args:
        file: the archive.

    Returns:
        By name, the position of the first byte and the number of bytes.

    Raises:
        CheckpointError: an entry is compressed or encrypted, leads out of the archive, comes twice or overlaps another.
    """
    with zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in infos), archive.start_dir][1:]
    entries: dict[str, tuple[int, int]] = {}
    for info, end in zip(infos, ends, strict=True):
        name = info.orig_filename
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise CheckpointError(f"has an entry named {_short(name)}, expected a plain relative name")
        if name in entries:
            raise CheckpointError(f"has two entries named {_short(name)}, expected one")
        file.seek(info.header_offset)
        signature, flags, method, name_length, extra_length = struct.unpack("<4s2xHH16xHH", file.read(30))
        encoded = name.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
        if signature != b"PK\3\4" or file.read(name_length) != encoded:
            raise CheckpointError(f"is damaged: entry {_short(name)} is not where the archive's directory says")
        if (info.flag_bits | flags) & 0x2041:
            raise CheckpointError(f"has an encrypted entry {_short(name)}, expected a stored one")
        if (info.compress_type, method) != (zipfile.ZIP_STORED,) * 2 or info.compress_size != info.file_size:
            raise CheckpointError(f"has a compressed entry {_short(name)}, expected a stored one")
        position = info.header_offset + 30 + name_length + extra_length
        if position + info.file_size > end:
            raise CheckpointError(
                f"has an entry {_short(name)} of {info.file_size} bytes where {max(end - position, 0)} are free"
            )
        entries[name] = position, info.file_size
    return entries


def _load_legacy(file: _BoundedReader, path: str) -> Any:
    """Read the old format: magic number, protocol, machine, object and storage keys as pickles, then the storages."""
    if _unpickle(file) != MAGIC:
        raise CheckpointError("is a pickle that torch.save did not write: its magic number is missing")
    protocol = _unpickle(file)
    if protocol != PROTOCOL:
        raise CheckpointError(f"has protocol {_short(protocol)}, expected {PROTOCOL}")
    _check_byteorder(_unpickle(file)["little_endian"])
    storages: dict[str, Storage] = {}

    def find(dtype: np.dtype, key: str, numel: int) -> Storage:
        storage = storages.setdefault(key, Storage(path, dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise CheckpointError(f"declares storage {_short(key)} twice, and differently")
        return storage

    value = _unpickle(file, find=find)
    keys = _unpickle(file)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError("has something else than a list of strings as the list of its storages")
    if sorted(keys) != sorted(storages):
        raise CheckpointError(f"lists the storages {_short(keys)}, expected {_short(list(storages))}")
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        storage = storages[key]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel:
            raise CheckpointError(f"has {numel} numbers in storage {_short(key)}, expected {storage.numel}")
        storage.position = file.tell()
        after = storage.position + numel * storage.dtype.itemsize
        if after > end:
            raise CheckpointError(f"is cut short: storage {_short(key)} ends at byte {after}, the file at byte {end}")
        file.seek(after)
    return value


def _check_byteorder(little: Any) -> None:
    """Refuse files of big-endian machines."""
    if little is not True:
        raise CheckpointError("was written on a big-endian machine, expected a little-endian one")


def _no_storage(dtype: np.dtype, key: str, numel: int) -> Storage:
    """Refuse a storage where the format has none."""
    raise CheckpointError(f"names storage {_short(key)} outside of its object")


def _unpickle(
    file: _BoundedReader,
    limit: int = PICKLE_LIMIT,
    find: Callable[[np.dtype, str, int], Storage] = _no_storage,
) -> Any:
    """Run one pickle on a machine that has only the instructions of torch.save.

    Args:
        file: at the pickle's first byte, afterwards at the one behind it.
        limit: the most bytes it may have.
        find: returns the storage of a dtype, key and number of elements.

    Returns:
        The object.

    Raises:
        CheckpointError: it has another instruction, asks for a function that is not in `FUNCTIONS` or gives one
            arguments of the wrong kind.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    end = file.tell() + limit
    argument: Any
    position: Any
    work = 0
    for opcode, argument, position in pickletools.genops(file):
        if position >= end:
            raise CheckpointError(f"has a pickle of more bytes than the {limit} expected")
        work += 1
        if work > WORK_LIMIT:
            raise CheckpointError(f"asks for more than {WORK_LIMIT} steps, which no checkpoint needs")
        match opcode.name:
            case "PROTO":
                if argument != 2:
                    raise CheckpointError(f"is a pickle of protocol {argument}, expected 2, which torch.save writes")
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # the strings of Python 2, which pickletools takes for latin-1
                stack.append(argument.encode("latin-1").decode())
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple([stack.pop() for _ in range(int(opcode.name[-1]))][::-1]))
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = pop_to_mark()
                _extend(stack[-1], items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                _update(stack[-1], [(key, item)])
            case "SETITEMS":
                items = pop_to_mark()
                _update(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_find_global(argument.replace(" ", ".")))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                # `_find_global` put all the functions there are on the stack.
                if not isinstance(function, FunctionType) or type(arguments) is not tuple:
                    raise CheckpointError(
                        f"asks to call {_short(function)} with {_short(arguments)}, expected a tuple for a function"
                    )
                work += sum(
                    len(given) for given in arguments if isinstance(given, dict | list | tuple)
                )  # it may be copied
                stack.append(function(*arguments))
            case "BUILD":
                stack.pop()
                # The `_metadata` of a state dict is the one state there is, and of no use here.
                if type(stack[-1]) is not dict:
                    raise CheckpointError(f"asks to set the state of {_short(stack[-1])}, expected one of a dict")
            case "BINPERSID":
                stack.append(find(*_storage_id(stack.pop())))
            case "STOP":
                value = stack.pop()
                if stack or marks:
                    raise CheckpointError("is damaged: its pickle ends before it is done")
                return value
            case name:
                raise CheckpointError(f"uses the pickle instruction {name}, which torch.save does not; refused")


def _extend(target: Any, items: list[Any]) -> None:
    """Append to a list."""
    if type(target) is not list:
        raise CheckpointError(f"asks to append to {_short(target)}, expected a list")
    target.extend(items)


def _update(target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    """Put entries into a dict."""
    if type(target) is not dict:
        raise CheckpointError(f"asks to put entries into {_short(target)}, expected a dict")
    for key, item in pairs:
        # Python hashes tuples recursively and without a limit, so a deep one as key would crash it; and large integers
        # can be made that all have one hash.
        if not (key is None or isinstance(key, str) or (isinstance(key, int) and 0 <= key < LARGEST_KEY)):
            raise CheckpointError(f"has {_short(key)} as the key of a dict, expected a string or number")
        target[key] = item


def _find_global(name: str) -> Callable | np.dtype:
    """Look up what a pickle names in our own tables."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if name in DTYPES:
        return DTYPES[name]
    if name.startswith("torch.") and name.endswith("Storage"):
        raise CheckpointError(f"holds numbers of type {_short(name)[1:-1]}, expected one of {', '.join(DTYPES)}")
    raise CheckpointError(
        f"asks to run {_short(name)[1:-1]}, which a checkpoint of weights has no need of; refused, nothing was executed"
    )


def _storage_id(value: Any) -> tuple[np.dtype, str, int]:
    """Check how a pickle names a storage: ('storage', type, key, location, numel) and in the old format a view."""
    match value:
        case ("storage", np.dtype() as dtype, str(key), _, int(numel)) if type(numel) is int and numel >= 0:
            return dtype, key, numel
        case ("storage", _, _, _, _, None):
            return _storage_id(value[:-1])
        case ("storage", _, _, _, _, _):
            raise CheckpointError(
                "has a view of a storage, as very old versions of PyTorch wrote; save it again with a newer one"
            )
    raise CheckpointError(f"names a storage by {_short(value)}, expected a type, key, location and size")


def _mapping(items: Any = ()) -> dict:
    """Stand in for OrderedDict, which Python 2 gives a list of [key, item], and for Counter, which is given a dict."""
    result: dict = {}
    _update(result, items.items() if isinstance(items, dict) else items)
    return result


def _size(sizes: Any) -> tuple[int, ...]:
    """Stand in for torch.Size."""
    if type(sizes) is not tuple or not all(type(n) is int and n >= 0 for n in sizes):
        raise CheckpointError(f"has the size, stride or offset {_short(sizes)}, expected non-negative integers")
    return sizes


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """Stand in for torch._utils._rebuild_tensor_v2 and its predecessor; a tensor must lie within its storage."""
    if not isinstance(storage, Storage):
        raise CheckpointError(f"has a tensor of {_short(storage)}, expected one of a storage")
    if metadata:
        raise CheckpointError(f"has a tensor with the property {_short(metadata)}, expected none")
    size, stride, (offset,) = _size(size), _size(stride), _size((offset,))
    # The dimensions that NumPy allows, and the sizes that it allows even for empty arrays.
    if len(size) != len(stride) or len(size) > 32 or math.prod(max(n, 1) for n in size) > sys.maxsize // 8:
        raise CheckpointError(f"has a tensor of size {_short(size)} and stride {_short(stride)}, which no tensor has")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel and (last >= storage.numel or numel > storage.numel):
        raise CheckpointError(
            f"has a tensor of size {_short(size)}, stride {_short(stride)} and offset {offset} "
            f"in a storage of {storage.numel} numbers, which does not hold it"
        )
    # The stride of an axis of length 1 is never used and may be any number.
    return Tensor(storage, offset, size, tuple(step if n > 1 else 0 for n, step in zip(size, stride, strict=True)))


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
    """Stand in for torch._utils._rebuild_parameter."""
    if not isinstance(data, Tensor):
        raise CheckpointError(f"has a parameter of {_short(data)}, expected one of a tensor")
    return data


FUNCTIONS: dict[str, Callable] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
"""What a pickle may call, by the name it has there."""


def _check_plain(value: Any) -> None:
    """Refuse an object that holds anything but plain values and tensors, is nested too deep or contains itself."""
    level = [value]
    for _ in range(NESTING_LIMIT):
        inner: dict[int, Any] = {}
        for item in level:
            if isinstance(item, dict | list | tuple):
                inner.update((id(child), child) for child in (item.values() if isinstance(item, dict) else item))
            elif not isinstance(item, str | int | float | NoneType | Tensor):
                raise CheckpointError(f"holds {_short(item)} by itself, expected tensors and plain values")
        level = list(inner.values())
        if not level:
            return
    raise CheckpointError(f"is nested deeper than {NESTING_LIMIT} or contains itself")


class _Quoting(reprlib.Repr):
    """Quotes values from a file: without control characters, of bounded length and depth."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100

    def repr_function(self, value: FunctionType, level: int) -> str:
        return "a function"

    def repr_Storage(self, value: Storage, level: int) -> str:
        return "a storage"

    def repr_Tensor(self, value: Tensor, level: int) -> str:
        return "a tensor"


_short = _Quoting().repr
