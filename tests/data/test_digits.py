"""Handwritten digits: files of our own making, a download that is acted, and cuts that lose nothing."""

from __future__ import annotations

import gzip
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torchvision
from sklearn.datasets import load_digits

from mvtec_ad.data.digits import Digits, cut, load
from mvtec_ad.errors import DataError, SettingsError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    """The IDX format, from its description."""
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def put(
    folder: Path, part: str = "train", packed: bool = False, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS
) -> Path:
    """Write both files of a part, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        content = idx(array)
        path = folder / f"{part}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network: a download fails, and is counted."""
    calls: list[str] = []

    def offline(root: str, **_: object) -> None:
        calls.append(root)
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    return calls


def acted_download(write: Callable[[Path], object]) -> Callable[..., None]:
    """A stand-in for torchvision's MNIST, which keeps its files below MNIST/raw."""

    def download(root: str, train: bool, download: bool) -> None:
        assert train
        assert download
        assert 0 < socket.getdefaulttimeout() <= 10
        write(Path(root) / "MNIST" / "raw")

    return download


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("part", "name"), [("train", "training part"), ("t10k", "test part")])
def test_files_are_read_as_they_were_written(tmp_path: Path, part: str, name: str, packed: bool) -> None:
    """Every byte, and the source says where they came from."""
    found = load(folder=put(tmp_path / "own", part, packed))
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int64)
    assert found.images.flags.writeable
    assert found.source == f"MNIST, {name}, 30 images (from {tmp_path / 'own'})"


def test_a_folder_is_all_that_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """The training part before the test part; no file, or one of two, is an error, not another source."""
    folder = put(tmp_path / "own", "t10k", images=IMAGES[:20], labels=LABELS[:20])
    put(folder, "train")
    assert len(load("mnist", folder).images) == 30
    (folder / "train-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("MVTEC_AD_DIGITS", str(folder))
    assert len(load().images) == 20
    put(tmp_path / "data" / "mnist")
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"own holds no digits: put train-images-idx3-ubyte and .* there"):
        load()
    assert len(load(folder=put(tmp_path / "other")).images) == 30  # the argument before the variable
    assert len(load("sklearn").images) == 1797
    assert asked == []
    with pytest.raises(SettingsError, match="no source 'emnist' of digits: choose from auto, mnist, sklearn"):
        load("emnist")


IDX, LABEL_IDX = idx(IMAGES), idx(LABELS)
CUT = "cannot be read (it is cut off, or another file): remove it"
DAMAGE: dict[str, tuple[bytes, bytes, str]] = {  # images, labels, what is said of which file
    "cut": (IDX[:-1], LABEL_IDX, f"images {CUT}"),
    "long": (IDX + b"\0", LABEL_IDX, f"images {CUT}"),
    "header": (IDX[:9], LABEL_IDX, f"images {CUT}"),
    "empty": (b"", LABEL_IDX, f"images {CUT}"),
    "no IDX": (b"\1\2\3\4" + IDX[4:], LABEL_IDX, f"images {CUT}"),
    "negative": (IDX[:4] + struct.pack(">2i", -30, -28) + IDX[12:], LABEL_IDX, f"images {CUT}"),
    "none": (idx(IMAGES[:0]), idx(LABELS[:0]), f"images {CUT}"),
    "signed": (b"\0\0\x09" + IDX[3:], LABEL_IDX, "images holds images of shape (30, 28, 28)"),
    "labels": (LABEL_IDX, LABEL_IDX, "images holds images of shape (30,), not (N, 28, 28)"),
    "small": (idx(IMAGES[:, :8, :8]), LABEL_IDX, "images holds images of shape (30, 8, 8), not (N, 28, 28)"),
    "fewer labels": (IDX, idx(LABELS[:29]), "labels holds 29 labels for 30 images"),
    "letters": (IDX, idx(LABELS + 1), "labels holds the label 10, not only 0 to 9"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_named(tmp_path: Path, how: str, packed: bool) -> None:
    """Also in the data folder: other digits in their place would go unnoticed."""
    folder, suffix = tmp_path / "data" / "mnist", ".gz" if packed else ""
    folder.mkdir(parents=True)
    *contents, words = DAMAGE[how]
    for name, content in zip(("images-idx3", "labels-idx1"), contents, strict=True):
        path = folder / f"train-{name}-ubyte{suffix}"
        path.write_bytes(gzip.compress(content) if packed else content)
    name, said = words.split(" ", 1)
    for arguments in ({"folder": folder}, {}):
        with pytest.raises(DataError, match=rf"train-{name}-idx.-ubyte{suffix} {re.escape(said)}") as problem:
            load(**arguments)
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-400],
        lambda packed: b"no gzip",
        lambda packed: packed[:60] + b"\xff" * 40 + packed[100:],
        lambda packed: packed[:10] + b"\xff" * 40 + packed[50:],
    ],
    ids=["cut", "something else", "other values", "no values"],
)
def test_damaged_packing_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Whatever gzip says of it."""
    path = put(tmp_path / "own", packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read \(.+\): remove it") as problem:
        load(folder=path.parent)
    assert "\n" not in str(problem.value)


def test_real_files(shared: Callable[[str], Path]) -> None:
    """MNIST's own test part: its published counts, ink in the middle, paper around it."""
    found = load(folder=shared("data/mnist"))
    assert np.bincount(found.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert found.images.shape == (10000, 28, 28)
    assert found.images[:, 9:19, 9:19].mean() > 60
    assert found.images[:, 0].mean() < 1
    assert found.source.startswith("MNIST, test part, 10,000 images")


# --- which source -------------------------------------------------------------------------------------------------


def test_a_download_is_kept_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """It goes before a test part that lies there; the socket's time limit is put back."""
    put(tmp_path / "data" / "mnist", "t10k", images=IMAGES[:20], labels=LABELS[:20])
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets, "MNIST", acted_download(put))
        first = load()
    assert first.source == "MNIST, training part, 30 images (downloaded)"
    assert socket.getdefaulttimeout() is None
    again = load("mnist")
    assert (again.source, asked) == (first.source, [])
    np.testing.assert_array_equal(again.images, IMAGES)
    names = sorted(path.name for path in (tmp_path / "data" / "mnist").iterdir())
    assert names == ["MNIST", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def half(raw: Path) -> None:
    """A download that ends in the middle of a file, and no one says so."""
    put(raw, images=IMAGES)
    content = (raw / "train-images-idx3-ubyte").read_bytes()
    (raw / "train-images-idx3-ubyte").write_bytes(content[:5000])


def half_and_an_error(raw: Path) -> None:
    half(raw)
    raise ConnectionResetError("cut:\nall of it")


@pytest.mark.parametrize("failure", [half, half_and_an_error])
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[[Path], None]
) -> None:
    """The other digits are taken, or it is said why there are none; the next run may succeed."""
    folder = tmp_path / "data" / "mnist"
    monkeypatch.setattr(torchvision.datasets, "MNIST", acted_download(failure))
    assert load().source.startswith("scikit-learn")
    reason = "cut" if failure is half_and_an_error else r".*\(it is cut off.*"
    with pytest.raises(
        DataError, match=rf"could not be downloaded \({reason}\), and .*mnist holds no digits: put train-"
    ):
        load("mnist")
    assert list(folder.iterdir()) == []
    assert socket.getdefaulttimeout() is None
    folder.rmdir()
    folder.write_text("a file where they go is not the network's fault")
    with pytest.raises(
        DataError, match=r"not be downloaded \(.*File exists.*\), and .*mnist holds no digits"
    ) as problem:
        load("mnist")
    assert "\n" not in str(problem.value)
    folder.unlink()
    monkeypatch.setattr(torchvision.datasets, "MNIST", acted_download(put))
    assert load().source == "MNIST, training part, 30 images (downloaded)"


def test_without_a_network_files_are_used(tmp_path: Path, asked: list[str]) -> None:
    """A training part is not asked for again; before a test part is taken, it is."""
    folder = tmp_path / "data" / "mnist"
    assert load().source == "scikit-learn's digits, 1,797 images of 8 × 8 pixels, enlarged"
    put(folder, "t10k", packed=True)
    assert load("mnist").source == f"MNIST, test part, 30 images (from {folder})"
    assert len(asked) == 2
    put(folder, "train")
    assert load().source == f"MNIST, training part, 30 images (from {folder})"
    assert len(asked) == 2


def test_small_digits_are_enlarged(asked: list[str]) -> None:
    """Shrunk again they are the originals, with their ink where it was, in a frame of paper."""
    found, original = load("sklearn"), load_digits()
    np.testing.assert_array_equal(found.labels, original.target)
    assert (found.images.shape, found.images.dtype) == ((1797, 28, 28), np.uint8)
    assert (found.images.min(), found.images.max()) == (0, 255)
    assert found.images[:, [0, 1, 2, -3, -2, -1]].max() == 0
    assert found.images[:, :, [0, 1, 2, -3, -2, -1]].max() == 0
    cells = np.stack([cv2.resize(image, (12, 12), interpolation=cv2.INTER_AREA) for image in found.images])
    ink = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(cells[:, 2:10, 2:10], original.images, strict=True)]
    assert min(ink) > 0.85
    assert np.mean(ink) > 0.95
    steps = np.abs(np.diff(found.images[:, 4:24, 4:24].astype(int), axis=1))
    assert (steps > 0).any(2).mean() > 0.98  # no blocks: a row is never the one above
    assert 0.1 < found.images.mean() / 255 < 0.16  # MNIST: 0.13
    assert asked == []


# --- parts of them ------------------------------------------------------------------------------------------------


def numbered(*counts: int) -> Digits:
    """So many of each digit, mixed; the first pixels of an image are its number."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return Digits(images, labels, "drawn")


def numbers(digits: Digits) -> list[int]:
    """Which images these are."""
    return (digits.images[:, 0, 0].astype(int) * 256 + digits.images[:, 0, 1]).tolist()


@pytest.mark.parametrize("test", [30, 61, 137, 270])
def test_a_cut_is_stratified(test: int) -> None:
    """Exactly as many as asked for, each image once, in order, every digit in its share to within one."""
    whole = numbered(50, 30, 20, 60, 10, 40, 30, 20, 25, 20)
    parts = cut(whole, test)
    assert len(parts[1].images) == test
    assert sorted(numbers(parts[0]) + numbers(parts[1])) == list(range(305))
    for part in parts:
        assert numbers(part) == sorted(numbers(part))
        np.testing.assert_array_equal(part.labels, whole.labels[numbers(part)])
    shares = np.bincount(parts[1].labels, minlength=10) - test * np.bincount(whole.labels) / 305
    assert np.abs(shares).max() < 1
    assert parts[0].source == f"drawn, {305 - test} to train on"
    assert parts[1].source == f"drawn, {test} to test on"
    assert numbers(parts[1]) == numbers(cut(whole, test, 0)[1]) != numbers(cut(whole, test, 1)[1])


@pytest.mark.parametrize(
    ("counts", "test"),
    [([30] * 10, 0), ([30] * 10, -5), ([30] * 10, 9), ([30] * 10, 291), ([30] * 10, 400), ([30, 1], 10), ([], 1)],
)
def test_a_cut_that_loses_a_digit_is_refused(counts: list[int], test: int) -> None:
    """Each part needs one of each."""
    with pytest.raises(DataError, match=rf"{sum(counts)} images cannot be cut into {test} to test on"):
        cut(numbered(*counts), test)


def test_some_digits_only() -> None:
    """In their order; digits that are not there may be named beside others that are."""
    whole = numbered(5, 6, 7, 8)
    found = whole.of(3, 1, 9)
    assert numbers(found) == [number for number, label in enumerate(whole.labels) if label in (1, 3)]
    assert found.source == "drawn, 14 of the digits 3, 1, 9"
    assert np.bincount(cut(found, 4)[1].labels).tolist() == [0, 2, 0, 2]
    for absent in [(4, 5), ()]:
        with pytest.raises(DataError, match="drawn: none of them is one of"):
            whole.of(*absent)
