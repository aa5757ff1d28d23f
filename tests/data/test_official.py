"""Whether files are MVTec AD's, byte for byte: the list in the package, and each way in which a folder differs."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad import artifacts, config
from mvtec_ad.cli import main
from mvtec_ad.data import catalog, index, official
from mvtec_ad.data.layout import check_layout

IMAGES = {name: list(images) for name, images in official.IMAGES.items()}  # as the package brings them
COUNTS = {"bottle": (4, 3, {"cut": 2}), "screw": (3, 2, {"bent": 2, "cut": 1})}


def table(root: Path, category: str = "bottle") -> pd.DataFrame:
    return index.read_category(root, category)


def report(root: Path, category: str = "bottle") -> str:
    return official.report(table(root, category), progress=False)


@pytest.fixture
def root(tmp_path: Path, make_category: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small categories; for the package, they are all that MVTec AD has."""
    root, digests = tmp_path / "images", {}
    for seed, (name, (train, good, defects)) in enumerate(COUNTS.items()):
        make_category(root, name, train=train, test_good=good, defects=defects, size=16, seed=seed)
        digests[name] = {
            f"{split}/{path.parent.name}/{path.stem}": hashlib.sha256(path.read_bytes()).digest()[:12]
            for split in ("train", "test")
            for path in sorted((root / name / split).rglob("*.png"))
        }
        monkeypatch.setitem(catalog.CATEGORIES, name, catalog.Category(name, "object", train, good, defects))
    monkeypatch.setattr(official, "IMAGES", digests)
    monkeypatch.setattr(official, "SIZES", dict.fromkeys(COUNTS, 16))
    return root


def resize(path: Path, size: int) -> None:
    Image.open(path).resize((size, size + 1)).save(path)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_has_the_counts_of_the_data_set() -> None:
    """5,354 images, 12 bytes each, no two alike."""
    assert set(IMAGES) == set(catalog.CATEGORIES)
    for name, category in catalog.CATEGORIES.items():
        folders = pd.Series(IMAGES[name]).str.rpartition("/")[0].value_counts().to_dict()
        assert folders.pop("train/good") == category.train
        assert folders.pop("test/good") == category.test_good
        assert folders == {f"test/{defect}": count for defect, count in category.defects.items()}
    digests = [digest for images in official.IMAGES.values() for digest in images.values()]
    assert len(set(digests)) == len(digests) == 3629 + 467 + 1258
    assert {len(digest) for digest in digests} == {12}


def test_the_list_is_that_of_the_archive(shared: Callable[[str], Path]) -> None:
    """Every row of a list that was made without the package: name, size and SHA-256."""
    with shared("mvtec_sha256.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {row["path"]: (int(row["width"]), int(row["height"]), row["sha256"][:24]) for row in rows}
    listed = {
        f"{name}/{image}.png": (official.SIZES[name], official.SIZES[name], digest.hex())
        for name, images in official.IMAGES.items()
        for image, digest in images.items()
    }
    assert listed == expected


def test_the_list_is_made_of_the_unpacked_archive(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of each file's SHA-256, in the order of their paths."""
    monkeypatch.setattr(official, "CATEGORIES", {name: catalog.CATEGORIES[name] for name in ("screw", "bottle")})
    official.write_digests(root, tmp_path / "digests.bin")
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("[0-9][0-9][0-9].png"))
    digests = [hashlib.sha256((root / path).read_bytes()).digest()[:12] for path in files]
    assert len(files) == 9 + 8
    assert (tmp_path / "digests.bin").read_bytes() == b"".join(digests)


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_complete_category(root: Path) -> None:
    assert report(root) == "bottle: 9 of 9 official"
    assert report(root, "screw") == "screw: 8 of 8 official"


def test_damaged_and_missing(root: Path) -> None:
    """Cut off, one byte changed, saved anew with the same pixels, and gone; each is named."""
    cut, changed, saved, gone = (root / "bottle" / "train" / "good" / f"{number:03d}.png" for number in range(4))
    cut.write_bytes(cut.read_bytes()[:-30])
    content = changed.read_bytes()
    changed.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    Image.open(saved).save(saved, compress_level=0)
    gone.unlink()
    first = "3 with other bytes (damaged, or saved anew), first train/good/000.png"
    assert report(root) == f"bottle: 5 of 9 official; {first}; 1 missing, first train/good/003.png"
    (root / "bottle" / "test" / "good" / "000.png").write_bytes(b"")
    assert "4 with other bytes" in report(root)


def test_resized(root: Path) -> None:
    """Single files, and all; then also saved as JPEG."""
    path = root / "bottle" / "test" / "cut" / "001.png"
    resize(path, 12)
    assert report(root) == "bottle: 8 of 9 official; 1 resized to 12×13, first test/cut/001.png"
    for path in (root / "bottle").glob("t*/*/*.png"):
        resize(path, 8)
    assert report(root) == "bottle: 0 of 9 official; all 9 resized to 8×9"
    for path in (root / "bottle").glob("t*/*/*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert report(root) == "bottle: 0 of 9 official; all 9 resized to 8×9"


def test_split_anew(root: Path) -> None:
    """Moved under another name, since the first name is taken there; and copied, as a leak is."""
    test, train = root / "bottle" / "test" / "good", root / "bottle" / "train" / "good"
    for number in (1, 2):
        (test / f"00{number}.png").rename(train / f"10{number}.png")
    words = "2 images of test/good lie in train/good, first train/good/101.png"
    assert report(root) == f"bottle: 9 of 9 official; {words}"
    shutil.copy(train / "000.png", test / "009.png")
    copy = "1 images of train/good lie in test/good, first test/good/009.png"
    assert report(root) == f"bottle: 9 of 9 official; {words}; {copy}"


def test_renamed_and_foreign(root: Path, write_image: Callable[[Path, np.ndarray], Path]) -> None:
    """Two that changed places, and one that MVTec AD does not have."""
    folder = root / "bottle" / "train" / "good"
    for old, new in (("000", "last"), ("001", "000"), ("last", "001")):
        (folder / f"{old}.png").rename(folder / f"{new}.png")
    write_image(folder / "mine.png", np.full((16, 16, 3), 9, np.uint8))
    shutil.copy(root / "screw" / "train" / "good" / "000.png", folder / "screw.png")
    renamed = "2 under another name, first train/good/000.png"
    assert report(root) == f"bottle: 9 of 9 official; {renamed}; 2 foreign, first train/good/mine.png"


def test_a_file_in_the_place_of_another(root: Path) -> None:
    """A copy of another image, and an official image of another category: what belongs there is missing."""
    good = root / "bottle" / "train" / "good"
    shutil.copy(good / "001.png", good / "000.png")
    shutil.copy(root / "screw" / "train" / "good" / "000.png", good / "002.png")
    other = "1 under another name, first train/good/000.png; 1 foreign, first train/good/002.png"
    assert report(root) == f"bottle: 7 of 9 official; {other}; 2 missing, first train/good/000.png"


def test_another_category_name(root: Path, make_category: Callable[..., Path]) -> None:
    """Recognised by most of its images, also below another's name; a few among own ones are named."""
    (root / "bottle").rename(root / "widget")
    assert report(root, "widget") == "widget is MVTec AD's bottle: 9 of 9 official"
    (root / "screw").rename(root / "bottle")
    assert report(root) == "bottle is MVTec AD's screw: 8 of 8 official"
    make_category(root, "mine", size=8, seed=5)
    assert report(root, "mine") == ""
    for number in (0, 1):
        shutil.copy(
            root / "widget" / "train" / "good" / f"00{number}.png", root / "mine" / "train" / "good" / f"1{number}.png"
        )
    assert report(root, "mine") == "mine: 2 of 18 images are MVTec AD's bottle"


def test_own_and_drawn_images(root: Path, make_category: Callable[..., Path]) -> None:
    """Own images of another layout are not taken for resized ones; of drawn ones nothing is said."""
    shutil.rmtree(root / "bottle")
    make_category(root, "bottle", train=5, test_good=2, size=8, seed=7)
    assert report(root) == "bottle: none of its 11 images is an official file of MVTec AD"
    assert official.report(table(root).assign(severity=0.5), progress=False) == ""


# --- who says so ------------------------------------------------------------------------------------------------------


def test_check_says_so(root: Path) -> None:
    """In the report of a category, and nothing where there is nothing to compare with."""
    assert "  bottle: 9 of 9 official" in check_layout(root / "bottle")
    shutil.rmtree(root / "bottle")
    (root / "screw").rename(root / "mine")
    for path in (root / "mine").glob("t*/*/*.png"):
        resize(path, 12)
    assert not [line for line in check_layout(root / "mine") if "official" in line]


def test_prepare_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per category, which the manifest of data.zip keeps; what comes out of it is resized."""
    path = root / "bottle" / "test" / "good" / "002.png"
    Image.open(path).save(path, compress_level=0)
    where = ["--root", str(root), "--category", "bottle", "screw", "--image-size", "8"]
    assert main(["prepare", "--profile", "quick", *where]) == 0
    words = "1 with other bytes (damaged, or saved anew), first test/good/002.png"
    lines = [f"bottle: 8 of 9 official; {words}", "screw: 8 of 8 official"]
    assert capsys.readouterr().out.splitlines()[:2] == lines
    artifact = artifacts.load("data")
    assert artifact.manifest["metrics"] == {"images": 17, "defective": 5, "official": lines}
    artifact.extract(config.data_folder() / "again")
    assert report(config.data_folder() / "again", "screw") == "screw: 0 of 8 official; all 8 resized to 8×8"


@pytest.mark.parametrize(("category", "size"), [("bottle", 450), ("capsule", 500), ("metal_nut", 350)])
def test_real_products_that_were_resized(shared: Callable[[str], Path], category: str, size: int) -> None:
    """Copies at half the size: the right images, none of them official."""
    counts = {"bottle": 292, "capsule": 351, "metal_nut": 335}
    line = f"{category}: 0 of {counts[category]} official; all {counts[category]} resized to {size}×{size}"
    assert report(shared("data/mvtec_anomaly_detection"), category) == line
