"""Handwritten digits to draw: MNIST where it can be had, scikit-learn's small ones where not."""

from __future__ import annotations

import gzip
import math
import os
import socket
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mvtec_ad.config import data_folder
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.frameworks import import_torchvision

SOURCES = ("auto", "mnist", "sklearn")
PARTS = {"train": "training", "t10k": "test"}  # how file names begin -> what MNIST calls the part
SIDE = 28
TIMEOUT = 5.0  # seconds without an answer: there are other digits
MARGIN = 2  # of the 8 × 8 cells of a small digit: then it is as large in its frame as MNIST's are
CONTRAST = 1.6  # undoes the blur of enlarging: strokes as black as MNIST's


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes:
        images: (N, 28, 28) uint8, 0 is paper, 255 is ink.
        labels: (N,) int64, 0 … 9.
        source: one line that says which digits these are, and how many.
    """

    images: np.ndarray
    labels: np.ndarray
    source: str

    def of(self, *digits: int) -> Digits:
        """Only these digits, in the same order.

        Raises:
            DataError: there is none of them.
        """
        rows = np.isin(self.labels, digits)
        names = ", ".join(map(str, digits))
        if not rows.any():
            raise DataError(f"{self.source}: none of them is one of [{names}], choose from 0 to 9")
        return _some(self, rows, f"of the digits {names}")


def load(source: str = "auto", folder: str | Path | None = None) -> Digits:
    """Find handwritten digits.

    MNIST (LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998): its
    training part where it lies in `data/mnist` or can be downloaded, else its test part where that lies there.

    Args:
        source: `mnist` takes only these; `auto` takes the 1,797 digits of scikit-learn, 8 × 8 pixels, enlarged, where
            there are none; `sklearn` takes scikit-learn's, whatever else is there.
        folder: holds MNIST's files, packed or not; then nothing else is tried. The environment variable
            `MVTEC_AD_DIGITS` when None.

    Raises:
        DataError: a file is damaged, the folder holds none, or `mnist` cannot be had.
        SettingsError: there is no such source.
    """
    if source not in SOURCES:
        raise SettingsError(f"no source {source!r} of digits: choose from {', '.join(SOURCES)}")
    if source == "sklearn":
        return _small()
    named = folder or os.environ.get("MVTEC_AD_DIGITS")
    place = Path(named).expanduser() if named else data_folder() / "mnist"
    problems: list[str] = []  # of a download
    digits = _part(place, "train") or _part(place, "t10k") if named else _mnist(place, problems)
    if digits is None and (named or source == "mnist"):
        tried = f"MNIST could not be downloaded ({problems[0]}), and " if problems else ""
        raise DataError(
            f"{tried}{place} holds no digits: put train-images-idx3-ubyte and train-labels-idx1-ubyte there "
            "(or those of t10k; .gz or not)"
        )
    return digits or _small()


def cut(digits: Digits, test: int, seed: int = 0) -> tuple[Digits, Digits]:
    """Cut into two parts with the same share of every digit, to within one image.

    Args:
        digits: to cut.
        test: images of the second part, exactly.
        seed: of the choice.

    Returns:
        What to train on and what to test on, both in the order of `digits`.

    Raises:
        DataError: a digit would be missing in one of the parts.
    """
    counts = np.bincount(digits.labels, minlength=10)
    total = int(counts.sum())
    shares, left_over = np.divmod(test * counts, max(1, total))
    most = np.argsort(-left_over, kind="stable")[: max(0, test - int(shares.sum()))]
    shares[most] += 1
    present = counts > 0
    if not present.any() or (shares < present).any() or (shares >= counts)[present].any():
        raise DataError(
            f"{total:,} images cannot be cut into {test:,} to test on and the rest with every digit in both: "
            "take another number, or more images"
        )
    rng = np.random.default_rng([seed, total])
    rows = np.zeros(total, bool)
    for digit in range(10):
        rows[rng.permutation(np.flatnonzero(digits.labels == digit))[: shares[digit]]] = True
    return _some(digits, ~rows, "to train on"), _some(digits, rows, "to test on")


def _some(digits: Digits, rows: np.ndarray, which: str) -> Digits:
    """The images where `rows`, (N,) bool, is true."""
    return Digits(digits.images[rows], digits.labels[rows], f"{digits.source}, {rows.sum():,} {which}")


def _mnist(folder: Path, problems: list[str]) -> Digits | None:
    """MNIST, the training part first, from the folder or the network; None where it cannot be had.

    Why a download failed is added to `problems`.
    """
    return (
        _part(folder / "MNIST" / "raw", "train", "downloaded")
        or _part(folder, "train")
        or _download(folder, problems)
        or _part(folder, "t10k")
    )


def _download(folder: Path, problems: list[str]) -> Digits | None:
    """MNIST's training part from torchvision's mirrors; kept when all of it is there and whole, else None."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as unfinished:
            import_torchvision().datasets.MNIST(unfinished, train=True, download=True)
            raw, kept = Path(unfinished) / "MNIST" / "raw", folder / "MNIST" / "raw"
            digits = _part(raw, "train", "downloaded")
            kept.mkdir(parents=True, exist_ok=True)
            for file in raw.iterdir():
                file.replace(kept / file.name)
        return digits
    except Exception as problem:  # no network, a proxy's page, a full disk: whatever it is, there are other digits
        problems.append(str(problem).partition("\n")[0].rstrip(":") or type(problem).__name__)
        return None
    finally:
        socket.setdefaulttimeout(before)


def _part(folder: Path, part: str, origin: str | None = None) -> Digits | None:
    """A part of MNIST from its two files, or None where one of them is missing."""
    files = [_file(folder, f"{part}-{name}") for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if None in files:
        return None
    images, labels = _read_idx(files[0], 3), _read_idx(files[1], 1)
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        raise DataError(f"{files[0]} holds images of shape {images.shape}, not (N, 28, 28): put MNIST's file there")
    if len(labels) != len(images):
        raise DataError(
            f"{files[1]} holds {len(labels):,} labels for {len(images):,} images: put both files of one part there"
        )
    if labels.max() > 9:
        raise DataError(f"{files[1]} holds the label {labels.max()}, not only 0 to 9: put MNIST's file there")
    count = f"MNIST, {PARTS[part]} part, {len(images):,} images"
    return Digits(images, labels.astype(np.int64), f"{count} ({origin or f'from {folder}'})")


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A file of bytes in the IDX format: 0, 0, 8 for bytes, the number of dimensions; each size; the values.

    Sizes are big-endian int32. Source: the page of MNIST, yann.lecun.com/exdb/mnist.

    Raises:
        DataError: the file cannot be read, is cut off or something else.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} cannot be read ({problem}): remove it, or put the whole file there") from problem
    magic, start = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic or len(content) < start:
        raise DataError(
            f"{path} does not begin as MNIST's file does, with {magic.hex()} and sizes: put that file there"
        )
    shape = np.frombuffer(content, ">i4", dimensions, 4).tolist()
    if min(shape) < 0 or math.prod(shape) != len(content) - start:
        raise DataError(
            f"{path} holds {len(content) - start:,} values, not {' × '.join(map(str, shape))}: "
            "it is damaged; remove it, or put the whole file there"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _small() -> Digits:
    """scikit-learn's digits, their 8 × 8 cells with 0 … 16 ink enlarged, in a frame of paper, cubic."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    cells = np.pad(images.reshape(-1, 8, 8) * (255 / 16), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    large = np.stack([cv2.resize(cell, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for cell in cells])
    pixels = ((large - 127.5) * CONTRAST + 127.5).clip(0, 255).round().astype(np.uint8)
    source = f"scikit-learn's digits, {len(pixels):,} images of 8 × 8 pixels, enlarged"
    return Digits(pixels, labels.astype(np.int64), source)
