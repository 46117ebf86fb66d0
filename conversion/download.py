"""The official checkpoints: where they are, and downloading each once, through any number of interruptions."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hvae_jax.progress import progress_bar

OPENAI = "https://openaipublic.blob.core.windows.net/very-deep-vaes-assets"

RETRIES = 4
"""How often a cut connection is taken up again before giving up."""

PATIENCE = 2.0
"""Seconds before the first retry; each further one waits twice as long."""

TIMEOUT = (15, 60)
"""Seconds for connecting, and for the next bytes to come."""

CHUNK = 1 << 18
"""Bytes written at a time."""


class Official(NamedTuple):
    """A published checkpoint.

    Attributes:
        url: where it is.
        file: its name in the cache.
        preset: its architecture.
        raw_url: where the weights are that were not averaged, where that is another file.
    """

    url: str
    file: str
    preset: str
    raw_url: str | None = None


def _openai(folder: str, name: str, preset: str, raw: bool = True) -> Official:
    url = f"{OPENAI}/{folder}/{name}-model-ema.th"
    return Official(url, f"{name}-model-ema.th", preset, url.replace("-ema", "") if raw else None)


_CIFAR10 = {
    f"vdvae-cifar10-seed{seed}": _openai("vdvae-assets-2", f"cifar10-seed{seed}-iter-{steps}", "cifar10", raw=False)
    for seed, steps in enumerate((900000, 1050000, 650000, 1050000))
}
OFFICIAL: dict[str, Official] = {
    "vdvae-ffhq256": _openai("vdvae-assets", "ffhq256-iter-1700000", "ffhq256"),
    "vdvae-ffhq1024": _openai("vdvae-assets", "ffhq1024-iter-1700000", "ffhq1024"),
    "vdvae-imagenet32": _openai("vdvae-assets", "imagenet32-iter-1700000", "imagenet32"),
    "vdvae-imagenet64": _openai("vdvae-assets-2", "imagenet64-iter-1600000", "imagenet64"),
    "vdvae-cifar10": _CIFAR10["vdvae-cifar10-seed0"],
    **_CIFAR10,
    "patch-vdvae": Official(
        "https://osf.io/download/udjny/?view_only=a152beb1784a4ee4b2c41f9993b306b7", "patch_vdvae.pth", "official"
    ),
}
"""By the names that `hvae-jax-convert` takes; PatchVDVAE's file holds both weights."""


class DownloadError(ValueError):
    """A checkpoint could not be had; the message says why and what to do."""


def fetch(name: str, weights: str = "ema", cache: Path | None = None) -> Path:
    """Download an official checkpoint, or find it in the cache.

    The publishers tell no checksums. So the SHA-256 of the first download is written beside the file, and the file is
    compared with it at each later use.

    Args:
        name: a key of `OFFICIAL`.
        weights: "ema" or "raw", where they are files of their own.
        cache: folder to keep it in; by default the environment's HVAE_JAX_CACHE, else the user's cache folder.

    Returns:
        The file.

    Raises:
        DownloadError: it cannot be downloaded, or what is in the cache has changed. What came of a download is kept,
            and the next call goes on from there.
    """
    import filelock
    import pooch

    official = OFFICIAL[name]
    url, file = official.url, official.file
    if weights == "raw" and official.raw_url is not None:
        url, file = official.raw_url, file.replace("-ema", "")
    elif weights == "raw" and "-ema" in file:
        raise DownloadError(f"{name} has no raw weights, expected --weights ema")
    folder = Path(cache or os.environ.get("HVAE_JAX_CACHE") or pooch.os_cache("hvae_jax"))
    target, record = folder / file, folder / f"{file}.sha256"
    pooch.get_logger().setLevel("ERROR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two at once would write into one unfinished file.
        with filelock.FileLock(folder / f"{file}.lock"):
            known = record.read_text().strip() if record.exists() else None
            if known and target.exists():
                if (found := pooch.file_hash(str(target))) != known:
                    raise DownloadError(
                        f"{target} has changed since it was downloaded: expected sha256 {known}, got {found}; delete "
                        "it and try again"
                    )
                return target
            try:
                resume = functools.partial(_resume, unfinished=folder / f"{file}.part")
                pooch.retrieve(url, known and f"sha256:{known}", fname=file, path=folder, downloader=resume)
            except ValueError as error:
                if isinstance(error, DownloadError):
                    raise
                raise DownloadError(  # pooch's, which compared and deleted what came
                    f"{url} is another file than was downloaded before: expected sha256 {known}; delete {record} to "
                    "take the new one"
                ) from error
            if known is None:
                record.write_text(pooch.file_hash(str(target)) + "\n")
            return target
    except OSError as error:
        raise DownloadError(f"{folder}: cannot keep the download of {name} there: {error}") from error


def _resume(url: str, output_file: str, pooch: Any, *, unfinished: Path) -> None:
    """Download for pooch, which wants the whole in `output_file`; go on with what a failure left in `unfinished`."""
    import requests

    failures = 0
    with _progress(url.split("?")[0].rsplit("/", 1)[-1] or url) as report:
        while True:
            size = _size(unfinished)
            try:
                _get(url, unfinished, report)
                break
            except (requests.RequestException, _Cut) as error:
                failures = 1 if _size(unfinished) > size else failures + 1
                response = getattr(error, "response", None)
                refused = response is not None and response.status_code < 500
                if refused or failures > RETRIES:
                    kept = (
                        f"; {_size(unfinished):,} bytes are kept, the same command goes on" if _size(unfinished) else ""
                    )
                    raise DownloadError(
                        f"{url} cannot be downloaded: {_reason(error)}{kept}. If you have the file already, give its "
                        "name instead"
                    ) from error
                time.sleep(PATIENCE * 2 ** (failures - 1))
    os.replace(unfinished, output_file)
    _validator(unfinished).unlink(missing_ok=True)


class _Cut(Exception):
    """The connection ended before the file did."""


def _get(url: str, unfinished: Path, report: Callable[[int, int | None], None]) -> None:
    """Make one request for the rest of a file, and write what comes."""
    import requests

    size, validator = _size(unfinished), _validator(unfinished)
    headers = {"Accept-Encoding": "identity"}
    if size and validator.exists() and (same := validator.read_text()):
        # If the file is another by now, the server sends all of the new one.
        headers |= {"Range": f"bytes={size}-", "If-Range": same}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # there is no rest: it was whole, or is of another file
            unfinished.unlink()
            raise _Cut("the server has no more of the file than is here; it is downloaded again")
        response.raise_for_status()
        if "text/html" in response.headers.get("Content-Type", ""):
            raise DownloadError(f"{url} gives a web page, expected a checkpoint; open it in a browser to see why")
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {size}-")
        done = size if resumed else 0
        if not resumed:
            validator.write_text(response.headers.get("ETag", response.headers.get("Last-Modified", "")))
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        with unfinished.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                report(done, total)
        if total is not None and done != total:
            raise _Cut(f"the connection ended after {done:,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator(unfinished: Path) -> Path:
    """Where it is kept by which a server tells whether its file is still the same."""
    return unfinished.with_name(f"{unfinished.name}.etag")


def _reason(error: Exception) -> str:
    """An exception in words, without the layers of libraries around it."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason}"
    if "NameResolution" in str(error) or "Failed to establish" in str(error) or "ProxyError" in str(error):
        return "the server cannot be reached"
    return "the connection broke off" if "IncompleteRead" in str(error) else str(error)


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr, in a terminal only; yields what takes the bytes that are here and all that there are."""
    with progress_bar(unit="bytes") as progress:
        bar = progress.add_task(f"downloading {name}", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
