"""A folder becomes the audited table, or a sentence that says what is wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvtec_ad.data import index
from mvtec_ad.data.rendered import write_category
from mvtec_ad.errors import DataError

Maker = Callable[..., Path]
Writer = Callable[[Path, np.ndarray], Path]


def test_full_layout(tmp_path: Path, make_category: Maker) -> None:
    """One row per image, every column as promised."""
    root = make_category(tmp_path, train=3, test_good=2, defects={"dent": 2, "cut": 1}, size=16)
    table = index.read_category(root, "part")
    assert list(table.columns) == index.COLUMNS
    assert table[["split", "defect", "label"]].agg(tuple, axis=1).tolist() == (
        [("train", "good", 0)] * 3 + [("test", "cut", 1)] + [("test", "dent", 1)] * 2 + [("test", "good", 0)] * 2
    )
    assert set(table["category"]) == {"part"}
    assert table["image_id"].tolist()[:4] == [
        "part/train/good/000",
        "part/train/good/001",
        "part/train/good/002",
        "part/test/cut/000",
    ]
    assert table["group"].is_unique
    for row in table.itertuples():
        assert Path(row.image_path) == root / f"{row.image_id}.png"
        expected = root / "part" / "ground_truth" / row.defect / f"{Path(row.image_path).stem}_mask.png"
        assert row.mask_path == (str(expected) if row.label else "")
        assert not row.mask_path or expected.is_file()


def test_without_masks(tmp_path: Path, make_category: Maker) -> None:
    """Image-level metrics only: no row has a mask, none is missed."""
    table = index.read_category(make_category(tmp_path, size=16, masks=False), "part")
    assert set(table["mask_path"]) == {""}
    assert table["label"].sum() == 4


def test_good_training_images_only(tmp_path: Path, make_category: Maker) -> None:
    """Enough to fit and calibrate."""
    root = make_category(tmp_path, train=5, test_good=0, defects={}, size=16)
    table = index.read_category(root, "part")
    assert set(table["split"] + table["defect"]) == {"traingood"}
    assert len(table) == 5


def test_a_plain_folder_of_good_images(tmp_path: Path, write_image: Writer) -> None:
    """Any image format, upper-case suffixes too; other files are no images."""
    for name in ("b.png", "a.JPG", "c.bmp", "d.tiff"):
        write_image(tmp_path / "mine" / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "mine" / "notes.txt").write_text("not an image")
    table = index.read_category(tmp_path, "mine")
    assert [Path(path).name for path in table["image_path"]] == ["a.JPG", "b.png", "c.bmp", "d.tiff"]
    assert set(table["split"] + table["defect"]) == {"traingood"}
    assert table["label"].sum() == 0


def test_categories_are_listed(tmp_path: Path, make_category: Maker, write_image: Writer) -> None:
    """Folders with images, and no others."""
    make_category(tmp_path, "layout", train=1, test_good=0, defects={}, size=8)
    write_image(tmp_path / "plain" / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    assert index.list_categories(tmp_path) == ["layout", "plain"]


def test_a_missing_category_says_what_there_is(tmp_path: Path, make_category: Maker) -> None:
    """A typing error is seen at once."""
    make_category(tmp_path, "bolt", train=1, size=8)
    make_category(tmp_path, "nut", train=1, size=8)
    with pytest.raises(DataError, match=r"no category 'blot' in .*: it holds bolt, nut"):
        index.read_category(tmp_path, "blot")


def unmask(folder: Path, write: Writer) -> None:
    (folder / "ground_truth" / "patch" / "002_mask.png").unlink()


def drop_image(folder: Path, write: Writer) -> None:
    (folder / "test" / "patch" / "001.png").unlink()


def drop_mask_folder(folder: Path, write: Writer) -> None:
    write(folder / "test" / "scratch" / "000.png", np.zeros((8, 8, 3), np.uint8))


def drop_defect_folder(folder: Path, write: Writer) -> None:
    write(folder / "ground_truth" / "scratch" / "000_mask.png", np.zeros((8, 8), np.uint8))


def second_mask(folder: Path, write: Writer) -> None:
    write(folder / "ground_truth" / "patch" / "000.png", np.zeros((8, 8), np.uint8))


def repeat(folder: Path, write: Writer) -> None:
    write(folder / "test" / "good" / "000.bmp", np.zeros((8, 8, 3), np.uint8))


def empty_training(folder: Path, write: Writer) -> None:
    shutil.rmtree(folder / "train" / "good")


def empty_everything(folder: Path, write: Writer) -> None:
    for child in folder.iterdir():
        shutil.rmtree(child)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (unmask, "lacks the mask of 1 images, first 002: add 002_mask.png"),
        (drop_image, "001_mask.png has no image"),
        (drop_mask_folder, "scratch lacks the mask of 1 images, first 000"),
        (drop_defect_folder, "scratch"),
        (second_mask, r"000\.png and .*000_mask\.png belong to the same image"),
        (repeat, "two images named part/test/good/000 that differ only in suffix"),
        (empty_training, "train/good holds no image"),
        (empty_everything, "holds neither train/good/ nor images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mixed_up_folder_is_refused(
    tmp_path: Path,
    make_category: Maker,
    write_image: Writer,
    harm: Callable[[Path, Writer], None],
    words: str,
) -> None:
    """In one line that names the file and the way out."""
    make_category(tmp_path, size=8)
    harm(tmp_path / "part", write_image)
    with pytest.raises(DataError, match=words) as caught:
        index.read_category(tmp_path, "part")
    assert "\n" not in str(caught.value)


def test_a_root_that_does_not_exist(tmp_path: Path) -> None:
    """A folder is named, no traceback of pathlib's."""
    with pytest.raises(DataError, match="nowhere does not exist"):
        index.read_category(tmp_path / "nowhere", "part")


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    """An archive that was not unpacked, for example."""
    (tmp_path / "bottle.tar.xz").write_bytes(b"")
    with pytest.raises(DataError, match=r"bottle\.tar\.xz is a file: give the folder"):
        index.read_category(tmp_path / "bottle.tar.xz", "bottle")


def test_hidden_files_and_folders_named_like_images_are_none(tmp_path: Path, make_category: Maker) -> None:
    """macOS leaves `._a.png` beside each `a.png` that it copies to a foreign disk."""
    make_category(tmp_path, train=2, test_good=0, defects={"patch": 1}, size=8)
    expected = index.read_category(tmp_path, "part")
    for folder in ("train/good", "test/patch", "ground_truth/patch"):
        (tmp_path / "part" / folder / "._000.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / "part" / folder / "more.png").mkdir()
    pd.testing.assert_frame_equal(index.read_category(tmp_path, "part"), expected)


def test_own_images_are_own(tmp_path: Path, make_category: Maker) -> None:
    """Another name, or an official name with other counts."""
    for category in ("part", "bottle"):
        make_category(tmp_path, category, size=8)
        table = index.read_category(tmp_path, category)
        assert index.data_source(tmp_path, category, table) == "own"
    assert index.audit(index.read_category(tmp_path, "part")) == ["part is not a category of MVTec AD"]
    assert "bottle/train/good: 8 images, official 209" in index.audit(index.read_category(tmp_path, "bottle"))
    assert "bottle/test/patch: 4 images, official 0" in index.audit(index.read_category(tmp_path, "bottle"))


def official_bottle() -> pd.DataFrame:
    """A table with the official counts of bottle, written down by hand."""
    counts = [("train", "good", 209), ("test", "good", 20), ("test", "broken_large", 20), ("test", "broken_small", 22)]
    rows = [
        {"category": "bottle", "split": split, "defect": defect, "label": int(defect != "good"), "mask_path": "m.png"}
        for split, defect, count in [*counts, ("test", "contamination", 21)]
        for _ in range(count)
    ]
    return pd.DataFrame(rows)


def test_the_audit_counts_images_and_masks() -> None:
    """Clean at the official counts; one image or one mask less is a line."""
    table = official_bottle()
    assert index.audit(table) == []
    assert index.audit(table.drop(index=0)) == ["bottle/train/good: 208 images, official 209"]
    table.loc[table.index[-1], "mask_path"] = ""
    assert index.audit(table) == ["bottle: 1 defective images have no mask"]


def test_a_completed_name_is_the_category(tmp_path: Path, make_category: Maker) -> None:
    """`part/` is `part` in every column, and `bottle/` is MVTec AD's."""
    make_category(tmp_path, size=8)
    pd.testing.assert_frame_equal(index.read_category(tmp_path, "./part/"), index.read_category(tmp_path, "part"))
    assert index.data_source(tmp_path, "bottle/", official_bottle()) == "mvtec_ad"


@pytest.fixture
def rendered_root(tmp_path: Path) -> Path:
    """A few drawn bottles."""
    write_category(tmp_path, "bottle", train=2, test_good=1, per_defect=1, size=32, progress=False)
    return tmp_path


def test_drawn_images_say_so_and_how_severe(rendered_root: Path) -> None:
    """`rendered`, and one more column."""
    table = index.read_category(rendered_root, "bottle")
    assert index.data_source(rendered_root, "bottle", table) == "rendered"
    assert list(table.columns) == [*index.COLUMNS, "severity"]
    assert (table.loc[table["label"] == 0, "severity"] == 0).all()
    assert table.loc[table["label"] == 1, "severity"].between(0.1, 1).all()
    assert len(set(table.loc[table["label"] == 1, "severity"])) == 3


def test_a_foreign_image_among_drawn_ones_is_named(rendered_root: Path, write_image: Writer) -> None:
    """It has no severity, so the folder is no longer what its marker says."""
    write_image(rendered_root / "bottle" / "train" / "good" / "mine.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"mine\.png"):
        index.read_category(rendered_root, "bottle")


def test_a_damaged_marker_is_named(rendered_root: Path) -> None:
    """A truncated rendered.json is a problem of that file."""
    marker = rendered_root / "bottle" / "rendered.json"
    marker.write_text(marker.read_text(encoding="utf-8")[:40], encoding="utf-8")
    with pytest.raises(DataError, match=r"rendered\.json"):
        index.read_category(rendered_root, "bottle")


def test_the_real_bottle_audits_clean(shared: Callable[[str], Path]) -> None:
    """Real MVTec AD, in its official layout."""
    root = shared("data/mvtec_anomaly_detection")
    table = index.read_category(root, "bottle")
    assert len(table) == 292
    assert index.audit(table) == []
    assert index.data_source(root, "bottle", table) == "mvtec_ad"
