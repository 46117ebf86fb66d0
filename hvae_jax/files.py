"""Files that are written all or nothing."""

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write beside the target, then rename, which the file system does at once or not at all."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
