"""Files that survive being killed: written all or nothing, or line by line."""

import contextlib
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = ".hvae-jax-tmp"
"""What the names of files and folders begin with that are not finished."""


def temporary_prefix() -> str:
    """Of this process's temporary files, so that others can tell whether it still writes them."""
    return f"{TEMPORARY}-{platform.node()}-{os.getpid()}-"


def remove_strays(folder: Path) -> None:
    """Remove the temporary files in a folder that killed processes of this machine left."""
    for path in folder.glob(f"{TEMPORARY}-{glob.escape(platform.node())}-*"):
        pid = path.name.removeprefix(f"{TEMPORARY}-{platform.node()}-").partition("-")[0]
        if not pid.isdecimal() or _runs(int(pid)):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return True
    return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file beside the target that takes its name at the end, which the file system does at once or not at all."""
    temporary = path.with_name(f"{temporary_prefix()}{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file all or nothing; see `writing`."""
    with writing(path) as file:
        file.write(content)


class Journal:
    """Results that take long, kept in a file of JSON lines as they come, so that no later run repeats them.

    A line has the digest of the settings that its result depends on, and what it is the result of. A last line that
    was cut by a kill counts as missing.

    Args:
        path: the file; it and its folder are made if they are missing.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            text = file.read()
            if text and not text.endswith("\n"):  # no other line shall continue the one that was cut
                file.write("\n")
        self._results: dict[tuple[str, str], dict[str, Any]] = {}
        for row in read_rows(path):
            self._results[row["settings"], _canonical(row["key"])] = row["values"]

    def find(self, settings: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any] | None:
        """A result that was kept, or None.

        Args:
            settings: what it depends on, of JSON's types.
            key: what it is the result of, of JSON's types.
        """
        return self._results.get((digest_of(settings), _canonical(key)))

    def keep(self, settings: Mapping[str, Any], key: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """Add a result, of JSON's types, and write it at once; see `find`. Returns the line; see `read_rows`."""
        digest = digest_of(settings)
        row = {"settings": digest, "key": key, "values": values}
        self._results[digest, _canonical(key)] = values
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal that are whole: settings, key and values each."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            if "settings" in row and isinstance(row["key"], dict) and isinstance(row["values"], dict):
                rows.append(row)
    return rows


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True)


def digest_of(values: Any) -> str:
    """What tells values of JSON's types, settings for example, from others."""
    return hashlib.sha256(_canonical(values).encode()).hexdigest()[:16]


WITHDRAWN: Mapping[str, Any] = {"noise_conditional_latents": False, "lipschitz_weight": 0.0}
"""Settings that stored configurations may still have, with the value that changes nothing."""


def without_withdrawn(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration without the settings that are no more, where they say nothing."""
    return {name: value for name, value in values.items() if (name, value) not in WITHDRAWN.items()}
