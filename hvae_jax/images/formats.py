"""The kinds of files, by name and by content, and what is wrong with one in words."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

FilePath: TypeAlias = str | os.PathLike[str]
if TYPE_CHECKING:
    OpenFile: TypeAlias = BinaryIO
else:  # which, unlike that, open files and `io.BytesIO` are instances of
    OpenFile = io.BufferedIOBase
Source: TypeAlias = FilePath | OpenFile
"""A file, or an open one that can be read from its start (standard input's bytes in an `io.BytesIO`, say)."""

PNG = (".png",)
JPEG = (".jpg", ".jpeg")
TIFF = (".tif", ".tiff")
NPY = (".npy",)
WEBP = (".webp",)
AVIF = (".avif",)
BMP = (".bmp",)
HEIC = (".heic", ".heif")
FITS = (".fits", ".fit", ".fts")
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw")
SUFFIXES = PNG + JPEG + TIFF + NPY + WEBP + AVIF + BMP + FITS
"""The file types that are written, and read."""
READ_ONLY = HEIC + RAW
"""Those that are only read."""

EXTRAS = {"pillow_heif": "photo", "rawpy": "photo", "imagecodecs": "photo", "astropy": "science"}
"""Packages that some formats need, and the extras that bring them."""

JPEG_SIGNATURE = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
NPY_SIGNATURE = b"\x93NUMPY"
FITS_SIGNATURE = b"SIMPLE  ="
LFS_SIGNATURE = b"version https://git-lfs"


class ImageError(ValueError):
    """A file or a specification that the user gave cannot be used; the message says which and why."""


def reason(error: BaseException) -> str:
    """An exception in words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def name_of(source: Source) -> str:
    """What an error calls a file."""
    return str(getattr(source, "name", "standard input")) if hasattr(source, "read") else str(source)


def check_is_file(path: Path) -> None:
    """Refuse what is no file: a folder, a pipe (which could be waited for without end), nothing."""
    if os.path.isdir(path):
        raise ImageError(f"{path}: expected a file, got a folder")
    if not os.path.exists(path):
        raise ImageError(f"{path}: expected a file, but there is none")
    if not os.path.isfile(path):
        raise ImageError(f"{path}: expected a file, got a device or a pipe; give - to read from standard input")


def check_suffix(path: Path, *, reading: bool = False) -> None:
    """Refuse a name whose ending is not that of a known type."""
    if path.suffix.lower() not in (SUFFIXES + READ_ONLY if reading else SUFFIXES):
        raise ImageError(
            f"{path}: expected a file name ending in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'}"
        )


def missing_package(source: Source, package: str, what: str) -> ImageError:
    """The error for a format whose package is not installed."""
    return ImageError(f"{name_of(source)}: {what} needs {package}: pip install 'hvae_jax[{EXTRAS[package]}]'")


def list_images(path: FilePath, *, recursive: bool = False) -> list[Path]:
    """List the images that a path names.

    Args:
        path: a file, or a folder, whose images are listed by name, without hidden files.
        recursive: those in the folder's sub-folders too.

    Returns:
        The files, at least one.

    Raises:
        ImageError: there is no such path, or no image in the folder.
    """
    return survey(path, recursive=recursive)[0]


def survey(path: FilePath, *, recursive: bool = False) -> tuple[list[Path], list[Path]]:
    """The images that a path names, as `list_images` has them, and what else is in a folder, which is skipped."""
    path = Path(path)
    if not os.path.isdir(path):
        check_is_file(path)
        return [path], []
    images: list[Path] = []
    others: list[Path] = []
    try:
        for file in sorted(path.rglob("*") if recursive else path.iterdir()):
            if any(part.startswith(".") for part in file.relative_to(path).parts) or not file.is_file():
                continue
            (images if file.suffix.lower() in SUFFIXES + READ_ONLY else others).append(file)
    except OSError as error:
        raise ImageError(f"{path}: expected a readable folder, got: {reason(error)}") from error
    if not images:
        raise ImageError(f"{path}: expected a folder with images ({', '.join(SUFFIXES)}), found none")
    return images, others
