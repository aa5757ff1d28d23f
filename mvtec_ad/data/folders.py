"""What lies in a folder: image files and folders below it, in one order, or an error that names the folder."""

from __future__ import annotations

from pathlib import Path

from mvtec_ad.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


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
