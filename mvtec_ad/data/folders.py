"""Folders: what lies in one, in one order, and what writing into one can raise; errors name the folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mvtec_ad.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
WAY_OUT = "make room or move what is in the way, or set MVTEC_AD_HOME to a folder of yours"


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix; a hidden one is not: macOS leaves `._a.png` beside `a.png`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; none where there is no such folder."""
    return [path for path in children(folder) if is_image(path)] if folder.is_dir() else []


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted by name; none where there is no such folder."""
    return [path for path in children(folder) if path.is_dir()] if folder.is_dir() else []


def children(folder: Path) -> list[Path]:
    """Everything directly in a folder, sorted by name.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as problem:
        raise DataError(f"folder {folder} cannot be read ({problem.strerror}): check its permissions") from problem


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the disk can refuse while `place` is made, written, renamed or removed, in one line.

    Raises:
        DataError: the disk is full or read-only, a file is where a folder should be or the other way round, …
    """
    try:
        yield
    except OSError as problem:
        raise DataError(f"{place} cannot be written ({problem.strerror or problem}): {WAY_OUT}") from problem
