"""Handwritten digits to draw: MNIST where it can be had, scikit-learn's small ones where not."""

from __future__ import annotations

import gzip
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mvtec_ad.config import data_folder
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.frameworks import import_torchvision

SOURCES = ("auto", "mnist", "sklearn")
PARTS = {"train": "training", "t10k": "test"}  # how file names begin -> what MNIST calls the part
IMAGE_SIZE = 28
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
        """Only these digits, in the same order; a DataError where there is none of them."""
        rows = np.isin(self.labels, digits)
        names = ", ".join(map(str, digits))
        if not rows.any():
            raise DataError(f"{self.source}: none of them is one of [{names}], choose from 0 to 9")
        return _subset(self, rows, f"of the digits {names}")


def load(source: str = "auto", folder: str | Path | None = None) -> Digits:
    """Find handwritten digits.

    MNIST (LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998): its
    training part where it lies in `data/mnist` or can be downloaded, else its test part where that lies there; where a
    folder is given, or `MVTEC_AD_DIGITS` is set, nothing else is tried. `mnist` takes only these; `auto` takes the
    1,797 digits of scikit-learn, 8 × 8 pixels, enlarged, where there are none; `sklearn` takes these in any case.

    Raises:
        DataError: a file is damaged, the folder holds none, or `mnist` cannot be had.
    """
    if source not in SOURCES:
        raise SettingsError(f"no source {source!r} of digits: choose from {', '.join(SOURCES)}")
    if source == "sklearn":
        return _enlarged()
    named, problem = folder or os.environ.get("MVTEC_AD_DIGITS"), ""
    folder = Path(named).expanduser() if named else data_folder() / "mnist"
    digits = (None if named else _part(folder / "MNIST" / "raw", "train", "downloaded")) or _part(folder, "train")
    if not (digits or named):
        digits, problem = _download(folder)
    digits = digits or _part(folder, "t10k")
    if digits is None and (named or source == "mnist"):
        tried = f"MNIST could not be downloaded ({problem}), and " if problem else ""
        raise DataError(
            f"{tried}{folder} holds no digits: put train-images-idx3-ubyte and train-labels-idx1-ubyte there "
            "(or those of t10k; .gz or not)"
        )
    return digits or _enlarged()


def cut(digits: Digits, test: int, seed: int = 0) -> tuple[Digits, Digits]:
    """Cut into what to train on and exactly `test` images to test on, each with the same share of every digit.

    Shares agree to within one image, and the order stays. A digit that would be missing in one part is a DataError.
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
    return _subset(digits, ~rows, "to train on"), _subset(digits, rows, "to test on")


def _subset(digits: Digits, rows: np.ndarray, which: str) -> Digits:
    """The images where `rows`, (N,) bool, is true."""
    return Digits(digits.images[rows], digits.labels[rows], f"{digits.source}, {rows.sum():,} {which}")


def _download(folder: Path) -> tuple[Digits | None, str]:
    """MNIST's training part from torchvision's mirrors, kept when all of it is there and whole; else why it is not."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as unfinished:
            import_torchvision().datasets.MNIST(unfinished, train=True, download=True)
            raw, target = Path(unfinished) / "MNIST" / "raw", folder / "MNIST" / "raw"
            digits = _part(raw, "train", "downloaded")
            target.mkdir(parents=True, exist_ok=True)
            for file in raw.iterdir():
                file.replace(target / file.name)
        return digits, ""
    except Exception as problem:  # no network, a proxy's page, a full disk: whatever it is, there are other digits
        return None, str(problem).partition("\n")[0].rstrip(":") or type(problem).__name__
    finally:
        socket.setdefaulttimeout(before)


def _part(folder: Path, part: str, origin: str | None = None) -> Digits | None:
    """A part of MNIST from its two files, packed or not, or None where one of them is missing."""
    files = []
    for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        files += [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()][:1]
    if len(files) < 2:
        return None
    images, labels = map(_read, files)
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or not len(images):
        raise DataError(f"{files[0]} holds images of shape {images.shape}, not (N, 28, 28): put MNIST's file there")
    if labels.shape != images.shape[:1]:
        counts = f"{len(labels):,} labels for {len(images):,} images"
        raise DataError(f"{files[1]} holds {counts}: put both files of one part there")
    if labels.max() > 9:
        raise DataError(f"{files[1]} holds the label {labels.max()}, not only 0 to 9: put MNIST's file there")
    count = f"MNIST, {PARTS[part]} part, {len(images):,} images"
    return Digits(images, labels.astype(np.int64), f"{count} ({origin or f'from {folder}'})")


def _read(path: Path) -> np.ndarray:
    """The numbers in one of MNIST's files, as torchvision reads it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain = path
            if path.suffix == ".gz":
                plain = Path(folder, path.stem)
                plain.write_bytes(gzip.decompress(path.read_bytes()))
            return import_torchvision().datasets.mnist.read_sn3_pascalvincent_tensor(plain).numpy()
    except Exception as problem:  # gzip and torchvision have a dozen ways to say it
        reason = problem if isinstance(problem, (OSError, EOFError)) else "it is cut off, or another file"
        raise DataError(f"{path} cannot be read ({reason}): remove it, or put MNIST's whole file there") from problem


def _enlarged() -> Digits:
    """scikit-learn's digits, their 8 × 8 cells with 0 … 16 ink enlarged, in a frame of paper, cubic."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    cells = np.pad(images.reshape(-1, 8, 8) * (255 / 16), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    large = np.stack([cv2.resize(cell, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC) for cell in cells])
    pixels = ((large - 127.5) * CONTRAST + 127.5).clip(0, 255).round().astype(np.uint8)
    source = f"scikit-learn's digits, {len(pixels):,} images of 8 × 8 pixels, enlarged"
    return Digits(pixels, labels.astype(np.int64), source)
