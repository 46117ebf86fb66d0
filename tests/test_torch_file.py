"""Checkpoints are read exactly; everything else is refused in one sentence, with nothing executed."""

import contextlib
import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from benchmarks.torch_writer import save
from conversion.torch_file import DTYPES, MAGIC, PROTOCOL, CheckpointError, Tensor, load

GOLDEN = Path(__file__).parent / "golden"
FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
MACHINE = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def put(value) -> bytes:
    """The pickle instructions that put a plain value onto the stack."""
    return pickle.dumps(value, 2)[2:-1]


def whole(instructions: bytes) -> bytes:
    return b"\x80\2" + instructions + b"."


def call(name: str, *arguments: bytes) -> bytes:
    """The instructions that call a global."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def storage(kind="torch FloatStorage", key="0", numel=4, tail=b"") -> bytes:
    kind = b"c" + kind.replace(" ", "\n").encode() + b"\n"
    return b"(" + put("storage") + kind + put(key) + put("cpu") + put(numel) + tail + b"tQ"


def tensor(stored: bytes = b"", offset=0, size=(4,), stride=(1,), metadata=b"") -> bytes:
    rest = (put(offset), put(size), put(stride), put(False), call("collections OrderedDict"), metadata)
    return call("torch._utils _rebuild_tensor_v2", stored or storage(), *rest)


def archive(entries: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    return file.getvalue()


def zip_file(instructions: bytes, **more: bytes) -> bytes:
    """A file in the zip format that has one storage, of four float32."""
    names = {"x/" + name: content for name, content in more.items()}
    return archive({"x/data.pkl": whole(instructions), "x/data/0": bytes(16), **names})


def legacy_file(instructions: bytes, *, storages: bytes = struct.pack("<q", 4) + bytes(16), **parts: bytes) -> bytes:
    """The same in the legacy format, of which any pickle may be replaced."""
    values = {"magic": put(MAGIC), "protocol": put(PROTOCOL), "machine": put(MACHINE)}
    keys = {"keys": put(["0"] if b"Q" in instructions else [])}
    pickles = {**values, "object": instructions, **keys, **parts}
    return b"".join(map(whole, pickles.values())) + storages


def tensors_of(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def assert_same(read, expected) -> None:
    """Compare what was read with what was written: types, keys in order, dtypes, shapes and every bit."""
    if isinstance(expected, np.ndarray | np.generic):
        array = read.numpy()
        assert (array.dtype, array.shape, array.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
        assert (read.dtype, read.shape, read.nbytes) == (array.dtype, array.shape, array.nbytes)
        assert array.flags.carray  # contiguous, aligned, writeable
        assert array.flags.owndata
    elif isinstance(expected, dict):
        assert (type(read), list(read)) == (dict, list(expected))
        for key in expected:
            assert_same(read[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert (type(read), len(read)) == (type(expected), len(expected))
        for one, other in zip(read, expected, strict=True):
            assert_same(one, other)
    else:
        assert (type(read), read) == (type(expected), expected)


def example() -> dict:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, (3, 5)).astype(dtype) for name, dtype in DTYPES.items()}
    odd = {"scalar": np.float32(2.5), "empty": np.zeros((0, 4)), "transposed": np.arange(6.0).reshape(2, 3).T}
    plain = {"n": [0, -1, 127, 128, 2**40, 1.5, True, None, "ü"], 3: ({}, [], ())}
    return {"arrays": arrays, "odd": [odd], "plain": plain}


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch_tensors.pt", "torch_tensors_legacy.pt"])
def test_what_torch_wrote_is_read_exactly(name):
    read = load(GOLDEN / name)
    with np.load(GOLDEN / "torch_tensors.npz") as file:
        expected = {tuple(key.split("/")): file[key] for key in file.files}
    expected["tensors", "bfloat16"] = expected["tensors", "bfloat16"].astype(ml_dtypes.bfloat16)
    for group in ("tensors", "state_dict"):
        assert_same(read.pop(group), {key: array for (first, key), array in expected.items() if first == group})
    assert_same(
        read,
        {
            "size": (2, 3, 4),
            "counter": {1: 2, 5: 1},
            "step": 70000,
            "big": 2**40,
            "negative": -3,
            "lr": 1.5e-4,
            "name": "tiny ü",
            "none": None,
            "flags": [True, False],
            "nested": [1, [2.5, ["x", {"y": (1, 2, 3, 4)}]], ()],
            "long": [0, 1, 2],
        },
    )


@FORMATS
def test_what_our_writer_wrote_is_read_exactly(tmp_path, legacy):
    save(example(), tmp_path / "x.pt", legacy)
    assert_same(load(tmp_path / "x.pt"), example())


def test_what_python_2_wrote_is_read(tmp_path):
    """Strings of bytes, an OrderedDict made from pairs and the first function that rebuilt tensors."""
    byte_string = lambda text: b"U" + bytes([len(text)]) + text.encode()  # noqa: E731
    stored = b"(" + byte_string("storage") + b"ctorch\nFloatStorage\n" + byte_string("7")
    stored += byte_string("cuda:0") + put(4) + b"NtQ"
    rebuilt = call("torch._utils _rebuild_tensor", stored, put(1), put((3,)), put((1,)))
    pairs = b"](](" + byte_string("weight") + rebuilt + b"ee"
    content = struct.pack("<q4f", 4, 1, 2, 3, 4)
    (tmp_path / "x.pt").write_bytes(
        legacy_file(call("collections OrderedDict", pairs), keys=b"](" + byte_string("7") + b"e", storages=content)
    )
    assert_same(load(tmp_path / "x.pt"), {"weight": np.array([2, 3, 4], np.float32)})


@FORMATS
def test_torch_agrees(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    save(example(), tmp_path / "ours.pt", legacy)
    theirs = torch.load(tmp_path / "ours.pt", weights_only=True)
    torch.save(theirs, tmp_path / "theirs.pt", _use_new_zipfile_serialization=not legacy)
    assert_same(load(tmp_path / "theirs.pt"), example())


MEASURE = """
import sys
from conversion.torch_file import load
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
load(sys.argv[2])["small"].numpy()
before = peak()
load(sys.argv[1])["small"].numpy()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@FORMATS
def test_a_large_file_takes_no_memory(tmp_path, legacy):
    small = {"small": np.arange(4, dtype=np.float32)}
    save({"large": np.zeros(50_000_000, np.float32)} | small, tmp_path / "large.pt", legacy)
    save(small, tmp_path / "small.pt", legacy)
    arguments = [sys.executable, "-c", MEASURE, tmp_path / "large.pt", tmp_path / "small.pt"]
    root = Path(__file__).parents[1]
    grown = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=root).stdout
    (tmp_path / "large.pt").unlink()
    assert int(grown) < 4000  # kB, of 200 MB


def test_a_file_that_shrinks_after_loading_is_refused(tmp_path):
    save({"a": np.zeros(100_000)}, tmp_path / "x.pt")
    read = load(tmp_path / "x.pt")["a"]
    os.truncate(tmp_path / "x.pt", 1000)
    with pytest.raises(CheckpointError, match="has changed since it was loaded"):
        read.numpy()


# Attacks --------------------------------------------------------------------------------------------------------------

EVIL = put("executed")
SOURCE = put("__import__('os').mkdir('executed')")
IMPORTED = call("builtins __import__", put("os"))

LIVE = {
    "os.system": (call("posix system", put("mkdir executed")), "asks to run posix.system, which a checkpoint"),
    "os alias": (call("os mkdir", EVIL), "asks to run os.mkdir, "),
    "eval": (call("builtins eval", SOURCE), "asks to run builtins.eval, "),
    "eval of python 2": (call("__builtin__ eval", SOURCE), "asks to run __builtin__.eval, "),
    "nested reduce": (
        call("builtins exec", call("builtins compile", SOURCE, put("x"), put("exec"))),
        "asks to run builtins.exec, ",
    ),
    "argument of an allowed call": (
        call("collections OrderedDict", b"](](" + EVIL + call("posix mkdir", EVIL) + b"ee"),
        "asks to run posix.mkdir, ",
    ),
    "getattr chain": (
        b"cbuiltins\ngetattr\n" + IMPORTED + put("mkdir") + b"\x86R" + EVIL + b"\x85R",
        "asks to run builtins.getattr, ",
    ),
    "partial": (
        call("functools partial", b"cposix\nmkdir\n", EVIL) + b")R",
        "asks to run functools.partial, ",
    ),
    "__setstate__ via BUILD": (
        call("collections OrderedDict") + b"}" + put("__setstate__") + b"cposix\nmkdir\nsb" + EVIL + b"b",
        "asks to run posix.mkdir, ",
    ),
    "hidden and dropped": (call("posix mkdir", EVIL) + b"0N", "asks to run posix.mkdir, "),
    "extension 1": (b"\x82\xf0" + EVIL + b"\x85R", "uses the pickle instruction EXT1, "),
    "extension 2": (b"\x83\xf0\x00" + EVIL + b"\x85R", "uses the pickle instruction EXT2, "),
    "extension 4": (b"\x84\xf0\0\0\0" + EVIL + b"\x85R", "uses the pickle instruction EXT4, "),
    "STACK_GLOBAL": (
        put("posix") + put("mkdir") + b"\x93" + EVIL + b"\x85R",
        "uses the pickle instruction STACK_GLOBAL",
    ),
    "protocol 4": (
        b"\x80\4" + put("posix") + put("mkdir") + b"\x93" + EVIL + b"\x85R",
        "is a pickle of protocol 4, expected 2",
    ),
    "INST": (b"(" + EVIL + b"iposix\nmkdir\n", "uses the pickle instruction INST, "),
    "OBJ": (b"(cposix\nmkdir\n" + EVIL + b"o", "asks to run posix.mkdir, "),
    "NEWOBJ": (
        b"cfunctools\npartial\ncposix\nmkdir\n" + EVIL + b"\x86\x81)R",
        "asks to run functools.partial, ",
    ),
}
"""Pickles that make a directory `executed` when Python's own unpickler reads them, and why they are refused."""

BROKEN = {
    "dotted name": (call("torch.serialization os.system", EVIL), "asks to run torch.serialization.os.system, "),
    "prefix of an allowed name": (call("torch._utils _rebuild_tensor_v", EVIL), "_rebuild_tensor_v, "),
    "control characters": (call("po\x1b[31mx system", EVIL), r"asks to run po\x1b[31mx.system, "),
    "OBJ of an allowed class": (b"(ccollections\nOrderedDict\no", "uses the pickle instruction OBJ, "),
    "NEWOBJ of an allowed class": (b"ccollections\nOrderedDict\n)\x81", "uses the pickle instruction NEWOBJ, "),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92", "uses the pickle instruction NEWOBJ_EX, "),
    "out-of-band buffer": (b"\x97", "uses the pickle instruction NEXT_BUFFER, "),
    "textual persistent id": (b"Pposix\n", "uses the pickle instruction PERSID, "),
    "call of a string": (put("posix.system") + EVIL + b"\x85R", "asks to call 'posix.system'"),
    "call without a tuple": (
        b"ccollections\nOrderedDict\n]R",
        "asks to call a function with [], expected a tuple for a function",
    ),
    "call with too many arguments": (call("torch Size", EVIL, EVIL), "positional argument"),
    "state of a function": (
        b"ccollections\nOrderedDict\n}b",
        "asks to set the state of a function, expected one of a dict",
    ),
    "state of a tensor": (
        tensor() + put({"storage": "/etc/passwd"}) + b"b",
        "asks to set the state of a tensor, expected one of a dict",
    ),
    "deep nesting": (b")" + b"\x85" * 20_000, "is nested deeper than 100 or contains itself"),
    "deep nesting in a key": (b"})" + b"\x85" * 20_000 + b"Ns", "as the key of a dict, expected a string or number"),
    "list that contains itself": (b"]q\0h\0a", "is nested deeper than 100 or contains itself"),
    "string of 4 GB": (b"X\xff\xff\xff\xff", "declares a piece of 4294967295 bytes, expected at most 16777216"),
    "stack underflow": (b"a", "is damaged or cut short"),
    "unknown instruction": (b"\xff", "is damaged or cut short"),
    "global by itself": (b"ctorch\nSize\n", "holds a function by itself, expected tensors and plain values"),
    "storage by itself": (storage(), "holds a storage by itself, expected tensors and plain values"),
    "call in a storage's name": (
        b"(" + put("storage") + call("posix mkdir", EVIL) + put("0") + put("cpu") + put(4) + b"tQ",
        "asks to run posix.mkdir, ",
    ),
    "storage of no type": (put(("storage", "float", "0", "cpu", 4)) + b"Q", "names a storage by ('storage', 'float',"),
    "storage of negative size": (
        tensor(storage(numel=-1)),
        "names a storage by ('storage', dtype('float32'), '0', 'cpu', -1)",
    ),
    "storage of size true": (tensor(storage(numel=True)), "names a storage by "),
    "view of a storage": (
        tensor(storage(tail=put(("1", 0, 4)))),
        "has a view of a storage, as very old versions of PyTorch wrote",
    ),
    "complex numbers": (tensor(storage("torch ComplexFloatStorage")), "numbers of type torch.ComplexFloatStorage"),
    "quantized numbers": (tensor(storage("torch QInt8Storage")), "numbers of type torch.QInt8Storage, expected one of"),
    "made-up numbers": (tensor(storage("torch EvilStorage")), "numbers of type torch.EvilStorage, expected one of"),
    "tensor of no storage": (tensor(put("0")), "has a tensor of '0', expected one of a storage"),
    "tensor beyond its storage": (tensor(offset=1), "in a storage of 4 numbers, which does not hold it"),
    "stride beyond its storage": (tensor(size=(2,), stride=(4,)), "in a storage of 4 numbers, which does not hold it"),
    "stride-0 bomb": (
        tensor(size=(2**31, 2**10), stride=(0, 0)),
        "has a tensor of size (2147483648, 1024), stride (0, 0) and offset 0 in a storage of 4 numbers",
    ),
    "empty of impossible size": (tensor(size=(0, 2**62), stride=(1, 1)), "which no tensor has"),
    "negative size": (tensor(size=(-1,)), "has the size, stride or offset (-1,), expected non-negative integers"),
    "negative stride": (
        tensor(offset=3, stride=(-1,)),
        "has the size, stride or offset (-1,), expected non-negative integers",
    ),
    "negative offset": (tensor(offset=-1), "has the size, stride or offset (-1,), expected non-negative integers"),
    "size true": (tensor(size=(True,)), "has the size, stride or offset (True,), expected non-negative integers"),
    "size of a string": (tensor(size="4"), "has the size, stride or offset '4', expected non-negative integers"),
    "size without stride": (tensor(stride=()), "has a tensor of size (4,) and stride (), which no tensor has"),
    "negated tensor": (tensor(metadata=put({"neg": True})), "with the property {'neg': True}, expected none"),
    "parameter of a string": (
        call("torch._utils _rebuild_parameter", EVIL, put(True), put(None)),
        "has a parameter of 'executed', expected one of a tensor",
    ),
}
"""Pickles that no torch.save writes, and why they are refused."""


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Iterator[Path]:
    """The directory that attacks make; extension codes, which bypass `find_class`, lead to them too."""
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("posix", "mkdir", 0xF0)
    yield tmp_path / "executed"
    copyreg.remove_extension("posix", "mkdir", 0xF0)
    copyreg._extension_cache.pop(0xF0, None)


def refused(content: bytes) -> str:
    """Load a file, which must be refused in one sentence, and return that."""
    Path("evil.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load("evil.pt")
    message = str(caught.value)
    assert message.startswith("evil.pt ")
    assert len(message.splitlines()) == 1
    assert len(message) < 400
    return message


@pytest.mark.parametrize("name", LIVE)
def test_attacks_work_on_pickle(marker, name):
    """So that the refusals below are of something."""
    with contextlib.suppress(TypeError, AttributeError):  # after the fact
        pickle.loads(whole(LIVE[name][0]))
    assert marker.exists()


@FORMATS
@pytest.mark.parametrize("name", LIVE | BROKEN)
def test_refused(marker, name, legacy):
    instructions, reason = (LIVE | BROKEN)[name]
    assert reason in refused(legacy_file(instructions) if legacy else zip_file(instructions))
    assert not marker.exists()


@pytest.mark.parametrize("part", ["magic", "protocol", "machine", "keys"])
def test_refused_in_any_pickle_of_the_legacy_format(marker, part):
    instructions, reason = LIVE["os.system"]
    assert reason in refused(legacy_file(b"N", **{part: instructions}))
    assert "names storage '0' outside of its object" in refused(legacy_file(b"N", **{part: tensor()}))
    assert not marker.exists()


@pytest.mark.parametrize("state", [{"__setstate__": 1}, {"__class__": 1}, {"items": 1}, (None, {"__class__": 1}), 5])
def test_the_state_of_a_dict_has_no_effect(tmp_path, state):
    (tmp_path / "x.pt").write_bytes(zip_file(call("collections OrderedDict") + put(state) + b"b" + put(1) + b"b"))
    assert_same(load(tmp_path / "x.pt"), {})


_PAIRS = b")q\0" + b"h\0h\0\x86q\0" * 60  # a tuple of two tuples of two tuples ..., each kept once
ENDLESS = {
    "keys that take hours to sort": (
        legacy_file(b"}", keys=b"](" + _PAIRS + _PAIRS + b"e"),
        "something else than a list of strings",
    ),
    "keys of one hash": (
        zip_file(b"}(" + b"".join(put((2**61 - 1) * i) + b"N" for i in range(2, 50_000)) + b"u"),
        "as the key of a dict, expected a string or number",
    ),
    "copies of copies": (
        zip_file(
            b"}(" + b"".join(put(str(i)) + b"N" for i in range(20_000)) + b"uq\1("
            b"" + b"ccollections\nOrderedDict\nh\1\x85R" * 300 + b"t"
        ),
        "asks for more than 500000 steps",
    ),
    "16 MB of empty dicts": (zip_file(b"}" * (15 << 20)), "asks for more than 500000 steps"),
}
"""Files that run nothing, and yet would keep a naive reader busy."""


@pytest.mark.parametrize("name", ENDLESS)
def test_refused_in_bounded_time(marker, name):
    content, reason = ENDLESS[name]
    assert reason in refused(content)


@pytest.mark.parametrize("name", ["string of 4 GB", "stride-0 bomb"])
def test_refusals_take_no_memory(marker, name):
    content = legacy_file(BROKEN[name][0])
    tracemalloc.start()
    refused(content + bytes(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


# Damaged and forged files ---------------------------------------------------------------------------------------------


def patched(content: bytes, name: str, **fields: int) -> bytes:
    """Change fields of an entry in the directory at the end of a zip archive."""
    start = content.rindex(name.encode()) - 46
    assert content[start : start + 4] == b"PK\1\2"
    result = bytearray(content)
    for field, value in fields.items():
        place, kind = {"flags": (8, "<H"), "packed": (20, "<I"), "size": (24, "<I"), "header": (42, "<I")}[field]
        struct.pack_into(kind, result, start + place, value)
    return bytes(result)


def overlapping() -> bytes:
    """An archive whose entry data/1 lies within data/0, header and all."""
    inner = archive({"x/data/1": bytes(16)})
    inner = inner[: inner.index(b"PK\1\2")]
    content = archive({"x/data.pkl": whole(tensor()), "x/data/0": inner, "x/data/1": bytes(16)})
    return patched(content, "x/data/1", header=content.index(inner))


GOOD = zip_file(tensor())
TWICE = zip_file(tensor(), **{"data/1": bytes(16)})

FORGED = {
    "size over the file's": (
        patched(GOOD, "x/data/0", packed=2**31, size=2**31),
        "of 2147483648 bytes where 16 are free",
    ),
    "size over the next entry": (patched(GOOD, "x/data.pkl", packed=10**4, size=10**4), "of 10000 bytes where "),
    "overlapping entries": (overlapping(), "'x/data/0' of 54 bytes where 0 are free"),
    "compressed entries": (
        archive({"x/data.pkl": whole(tensor()), "x/data/0": bytes(10**6)}, zipfile.ZIP_DEFLATED),
        "has a compressed entry 'x/data.pkl', expected a stored one",
    ),
    "packed size differs": (patched(GOOD, "x/data/0", size=2**31), "has a compressed entry 'x/data/0'"),
    "encrypted": (patched(GOOD, "x/data/0", flags=1), "has an encrypted entry 'x/data/0', expected a stored one"),
    "names differ": (GOOD.replace(b"x/data/0", b"x/data/1", 1), "is not where the archive's directory says"),
    "entry twice": (TWICE.replace(b"x/data/1", b"x/data/0"), "has two entries named 'x/data/0', expected one"),
    "parent folder": (zip_file(tensor(), **{"../../evil": b""}), "has an entry named 'x/../../evil', expected a plain"),
    "absolute name": (archive({"/data.pkl": whole(tensor())}), "has an entry named '/data.pkl', expected a plain"),
    "backslash": (zip_file(tensor(), **{"..\\evil": b""}), r"has an entry named 'x/..\\evil', expected a plain"),
    "two objects": (archive({"x/data.pkl": whole(b"N"), "y/data.pkl": whole(b"N")}), "it has 2 data.pkl"),
    "plain zip": (
        archive({"readme.txt": b"hello"}),
        "is a zip archive that torch.save did not write: it has 0 data.pkl",
    ),
    "empty zip": (archive({}), "is a zip archive that torch.save did not write: it has 0 data.pkl"),
    "TorchScript": (zip_file(tensor(), **{"constants.pkl": b""}), "is a TorchScript archive, expected a state dict"),
    "big-endian": (zip_file(tensor(), byteorder=b"big"), "was written on a big-endian machine"),
    "big-endian legacy": (
        legacy_file(tensor(), machine=put(MACHINE | {"little_endian": False})),
        "was written on a big-endian machine, expected a little-endian one",
    ),
    "storage missing": (zip_file(tensor(storage(key="1"))), "has no storage '1', which its tensors need"),
    "storage elsewhere": (zip_file(tensor(storage(key="../data.pkl"))), "has no storage '../data.pkl'"),
    "storage too short": (zip_file(tensor(storage(numel=5))), "has 16 bytes in storage '0', expected 20"),
    "storage cut short": (
        legacy_file(tensor(), storages=struct.pack("<q", 4) + bytes(15)),
        "is cut short: storage '0'",
    ),
    "storage of another size": (legacy_file(tensor(), storages=struct.pack("<q", 5)), "has 5 numbers in storage '0'"),
    "storage of negative size": (
        legacy_file(tensor(), storages=struct.pack("<q", -4)),
        "has -4 numbers in storage '0'",
    ),
    "storage of 2^62 numbers": (
        legacy_file(tensor(storage(numel=2**62)), storages=struct.pack("<q", 2**62)),
        "cut short",
    ),
    "storage unlisted": (legacy_file(tensor(), keys=put([])), "lists the storages [], expected ['0']"),
    "storage listed twice": (legacy_file(tensor(), keys=put(["0", "0"])), "lists the storages ['0', '0'], expected"),
    "storage declared differently": (
        legacy_file(b"(" + tensor() + tensor(storage("torch LongStorage")) + b"t"),
        "declares storage '0' twice, and differently",
    ),
    "protocol": (legacy_file(tensor(), protocol=put(1000)), "has protocol 1000, expected 1001"),
    "plain pickle": (pickle.dumps({"a": 1}, 2), "is a pickle that torch.save did not write"),
    "another tar": (
        b"weights.pth".ljust(257, b"\0") + b"ustar\0",
        "is a tar archive that PyTorch did not write; unpack",
    ),
    "lfs": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer and not the file; run git lfs pull"),
    "tar": (b"sys_info".ljust(257, b"\0") + b"ustar\0", "is in the tar format of PyTorch < 0.1.10"),
    "empty": (b"", "is empty, expected a PyTorch checkpoint"),
    "PNG": (b"\x89PNG\r\n\x1a\n", r"expected a zip archive or a pickle, got b'\x89PNG\r\n\x1a\n'..."),
    "text": (b"version of a text", "expected a zip archive or a pickle, got b'version '..."),
    "web page": (b"\n<!DOCTYPE html><html>", "looks like a web page, expected a PyTorch checkpoint; the download may"),
}
"""Files that torch.save did not write, and why they are refused."""


@pytest.mark.parametrize("name", FORGED)
def test_refused_file(marker, name):
    content, reason = FORGED[name]
    assert reason in refused(content)


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing\.pt cannot be read: No such file or directory"):
        load(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["torch_tensors.pt", "torch_tensors_legacy.pt"])
def test_every_truncation_is_refused(marker, name):
    content = (GOLDEN / name).read_bytes()
    for length in [*range(12), *np.linspace(12, len(content) - 1, 80, dtype=int)]:
        refused(content[:length])


@pytest.mark.parametrize("name", ["torch_tensors.pt", "torch_tensors_legacy.pt"])
def test_damage_is_refused_or_read(marker, name):
    """Whatever the bytes, nothing but a CheckpointError comes out, and what is read stays within the file."""
    content = (GOLDEN / name).read_bytes()
    rng = np.random.default_rng(0)
    # Most damage goes where there is more than numbers: the pickle at the start and a zip's directory at the end.
    spans = [(0, 2600), (0, len(content)), (len(content) - 2200, len(content))]
    outcomes = set()
    for trial in range(400):
        mutated = bytearray(content)
        for place in rng.integers(*spans[trial % 3], size=rng.integers(1, 5)):
            mutated[place] = rng.integers(256)
        Path("evil.pt").write_bytes(mutated)
        try:
            for read in tensors_of(load("evil.pt")):
                assert read.numpy().nbytes <= len(content)
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
