"""A folder becomes the audited table, or a sentence that says what is wrong with it: products, and items seen twice.

What is caught: labels, masks or groups that do not belong to an image, splits and official counts that are taken for
granted, folders that are mixed up, hidden files, boxes of another image.
"""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from mvtec_ad.data import index, splits
from mvtec_ad.errors import DataError
from mvtec_ad.synthetic import boxes, write_category

Maker = Callable[..., Path]
Writer = Callable[[Path, np.ndarray], Path]


def refused(root: Path, category: str, words: str) -> None:
    """Reading must fail with these words, in one line."""
    with pytest.raises(DataError, match=words) as caught:
        index.read_category(root, category)
    assert "\n" not in str(caught.value)


def test_full_layout(tmp_path: Path, make_category: Maker) -> None:
    """One row per image, every column as promised."""
    root = make_category(tmp_path, train=3, test_good=2, defects={"dent": 2, "cut": 1}, size=16)
    table = index.read_category(root, "part")
    assert list(table.columns) == index.COLUMNS
    assert table[["split", "defect", "label"]].agg(tuple, axis=1).tolist() == (
        [("train", "good", 0)] * 3 + [("test", "cut", 1)] + [("test", "dent", 1)] * 2 + [("test", "good", 0)] * 2
    )
    assert set(table["category"]) == {"part"}
    names = ["train/good/000", "train/good/001", "train/good/002", "test/cut/000"]
    assert table["image_id"].tolist()[:4] == [f"part/{name}" for name in names]
    assert table["group"].is_unique
    for row in table.itertuples():
        assert Path(row.image_path) == root / f"{row.image_id}.png"
        expected = root / "part" / "ground_truth" / row.defect / f"{Path(row.image_path).stem}_mask.png"
        assert row.mask_path == (str(expected) if row.label else "")
        assert not row.mask_path or expected.is_file()


def test_parts_of_the_layout(tmp_path: Path, make_category: Maker, write_image: Writer) -> None:
    """No masks: none is missed. No test: enough to fit. No layout: good images of any format, and no other files."""
    table = index.read_category(make_category(tmp_path, size=16, masks=False), "part")
    assert set(table["mask_path"]) == {""}
    assert table["label"].sum() == 4
    make_category(tmp_path, "untested", train=5, test_good=0, defects={}, size=16)
    names = ("b.png", "a.JPG", "c.bmp", "d.tiff")
    for name in names:
        write_image(tmp_path / "plain" / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "plain" / "notes.txt").write_text("not an image")
    for category, files in (("untested", [f"00{i}.png" for i in range(5)]), ("plain", sorted(names))):
        table = index.read_category(tmp_path, category)
        assert [Path(path).name for path in table["image_path"]] == files
        assert set(table["split"] + table["defect"]) == {"traingood"}
        assert table["label"].sum() == 0
    (tmp_path / "empty").mkdir()
    assert index.list_categories(tmp_path) == ["part", "plain", "untested"]


def test_a_root_or_category_that_is_not_there(tmp_path: Path, make_category: Maker) -> None:
    """A typing error is seen at once; an archive is no folder."""
    for name in ("bolt", "nut"):
        make_category(tmp_path, name, train=1, size=8)
    refused(tmp_path, "blot", r"no category 'blot' in .*: it holds bolt, nut")
    refused(tmp_path / "nowhere", "bolt", "nowhere does not exist")
    (tmp_path / "bottle.tar.xz").write_bytes(b"")
    refused(tmp_path / "bottle.tar.xz", "bottle", r"bottle\.tar\.xz is a file: give the folder")


def black(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


# what must be said -> what is done to a category of 8 training images, 4 good test images, 4 patches and their masks
MIXED_UP: dict[str, Callable[[Path, Writer], object]] = {
    "lacks the mask of 1 images, first 002: add 002_mask.png, or remove .* to do without masks": lambda folder, write: (
        folder / "ground_truth/patch/002_mask.png"
    ).unlink(),
    r"001_mask\.png has no image in .*: remove one of them": lambda folder, write: (
        folder / "test/patch/001.png"
    ).unlink(),
    "masks in .*scratch have no images: .*test/scratch is missing": lambda folder, write: write(
        folder / "ground_truth/scratch/000_mask.png", black(8, 8)
    ),
    r"masks .*000\.png and .*000_mask\.png belong to the same image: remove one of them": lambda folder, write: write(
        folder / "ground_truth/patch/000.png", black(8, 8)
    ),
    "two images named part/test/good/000: rename one, or move it to ground_truth if": lambda folder, write: write(
        folder / "test/good/000.bmp", black(8, 8, 3)
    ),
    r"train/good/ \(or ok, normal, pass\) holds no image: put at least a few good images there": lambda folder, write: (
        shutil.rmtree(folder / "train/good")
    ),
    "holds neither train/good/ nor images: put good images into": lambda folder, write: (
        [shutil.rmtree(child) for child in folder.iterdir()]
    ),
}


@pytest.mark.parametrize("words", MIXED_UP)
def test_a_mixed_up_folder_is_refused(tmp_path: Path, make_category: Maker, write_image: Writer, words: str) -> None:
    """In one line that names the file and the way out."""
    make_category(tmp_path, size=8)
    MIXED_UP[words](tmp_path / "part", write_image)
    refused(tmp_path, "part", words)


def test_hidden_files_and_folders_named_like_images_are_none(tmp_path: Path, make_category: Maker) -> None:
    """macOS leaves `._a.png` beside each `a.png` that it copies to a foreign disk."""
    make_category(tmp_path, train=2, test_good=0, defects={"patch": 1}, size=8)
    expected = index.read_category(tmp_path, "part")
    for folder in ("train/good", "test/patch", "ground_truth/patch"):
        (tmp_path / "part" / folder / "._000.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / "part" / folder / "more.png").mkdir()
    for folder in ("train/.good", "test/.thumbnails", "test/__MACOSX", "ground_truth/.thumbnails"):
        shutil.copytree(tmp_path / "part" / "train" / "good", tmp_path / "part" / folder)
    (tmp_path / ".hidden" / "train").mkdir(parents=True)
    assert index.list_categories(tmp_path) == ["part"]
    pd.testing.assert_frame_equal(index.read_category(tmp_path, "part"), expected)


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


def test_own_images_are_own(tmp_path: Path, make_category: Maker) -> None:
    """Another name, or an official name with other counts."""
    for category in ("part", "bottle"):
        make_category(tmp_path, category, size=8)
        table = index.read_category(tmp_path, category)
        assert index.data_source(tmp_path, category, table) == "own"
    assert index.audit(index.read_category(tmp_path, "part")) == ["part is not a category of MVTec AD"]
    assert "bottle/train/good: 8 images, official 209" in index.audit(index.read_category(tmp_path, "bottle"))
    assert "bottle/test/patch: 4 images, official 0" in index.audit(index.read_category(tmp_path, "bottle"))


def test_a_completed_name_is_the_category(tmp_path: Path, make_category: Maker) -> None:
    """`part/` is `part` in every column, and `bottle/` is MVTec AD's."""
    make_category(tmp_path, size=8)
    pd.testing.assert_frame_equal(index.read_category(tmp_path, "./part/"), index.read_category(tmp_path, "part"))
    assert index.data_source(tmp_path, "bottle/", official_bottle()) == "mvtec_ad"


@pytest.fixture
def synthetic_root(tmp_path: Path) -> Path:
    """A few drawn bottles."""
    write_category(tmp_path, "bottle", train=2, test_good=1, per_defect=1, size=32, progress=False)
    return tmp_path


def test_synthetic_images_say_so_and_how_severe(synthetic_root: Path, write_image: Writer) -> None:
    """`synthetic`, and one more column; an image that the marker does not know, or a damaged marker, is named."""
    table = index.read_category(synthetic_root, "bottle")
    assert index.data_source(synthetic_root, "bottle", table) == "synthetic"
    assert list(table.columns) == [*index.COLUMNS, "severity"]
    severity = table["severity"].groupby(table["label"])
    assert severity.max()[0] == 0
    assert severity.min()[1] >= 0.1
    assert severity.max()[1] <= 1
    assert severity.nunique()[1] == 3
    mine = write_image(synthetic_root / "bottle" / "train" / "good" / "mine.png", black(32, 32, 3))
    refused(synthetic_root, "bottle", r"mine\.png")
    mine.unlink()
    marker = synthetic_root / "bottle" / "synthetic.json"
    marker.write_text(marker.read_text(encoding="utf-8")[:40], encoding="utf-8")
    refused(synthetic_root, "bottle", r"synthetic\.json")


def test_the_real_bottle_audits_clean(shared: Callable[[str], Path]) -> None:
    """Real MVTec AD, in its official layout."""
    root = shared("data/mvtec_anomaly_detection")
    table = index.read_category(root, "bottle")
    assert len(table) == 292
    assert index.audit(table) == []
    assert index.data_source(root, "bottle", table) == "mvtec_ad"


# --- items of a production line ---------------------------------------------------------------------------------------


BOX = (10, 4, 29, 11)


def voc(name: str, box: tuple[int, ...] = BOX, size: tuple[int, int] = (20, 40)) -> str:
    """What a labelling tool writes: tabs, an unneeded field or two."""
    edges = "".join(
        f"\n\t\t\t<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<annotation>\n\t<folder>x</folder>\n\t<size>\n\t\t<width>{size[1]}</width>\n\t\t<height>{size[0]}</height>"
        f"\n\t\t<depth>3</depth>\n\t</size>\n\t<object>\n\t\t<name>{name}</name>\n\t\t<bndbox>{edges}\n\t\t</bndbox>"
        "\n\t</object>\n</annotation>"
    )


@pytest.fixture
def line(tmp_path: Path, write_image: Writer) -> Path:
    """Three items a class in train and two in test, 40×20 pixels, boxes beside the test images."""
    number = 1000
    for split, count in (("train", 3), ("test", 2)):
        for state in ("intact", "damaged"):
            for _ in range(count):
                number += 1
                for view in ("side", "top"):
                    path = tmp_path / "line" / split / state / view / f"{number}_{view}.png"
                    write_image(path, np.full((20, 40, 3), number % 256, np.uint8))
                    if split == "test":
                        path.with_suffix(".xml").write_text(voc(state))
    return tmp_path / "line"


def test_one_row_an_image_and_one_group_an_item(line: Path) -> None:
    """Intact is good, damaged is a defect, in train as in test; the item's number is the group."""
    table = index.read_category(line.parent, "line")
    assert list(table.columns) == [*index.COLUMNS, "box_path"]
    counts = table.groupby(["split", "defect", "label", "view"]).size()
    assert counts.to_dict() == {
        (split, defect, label, view): n
        for split, n in (("train", 3), ("test", 2))
        for defect, label in (("good", 0), ("damaged", 1))
        for view in ("side", "top")
    }
    assert (table.groupby("group")["view"].agg(tuple) == ("side", "top")).all()
    assert table["group"].nunique() == 10
    assert table["image_id"].is_unique
    for row in table.itertuples():
        assert Path(row.image_path) == line.parent / f"{row.image_id}.png"
        assert row.group == f"line/{Path(row.image_path).stem.split('_')[0]}"
        assert row.box_path == (row.image_path.replace(".png", ".xml") if row.split == "test" else "")
    assert index.list_categories(line.parent) == ["line"]
    assert index.data_source(line.parent, "line", table) == "own"
    one_class = splits.official(table)  # no model of good parts learns from damaged ones
    assert set(one_class.loc[one_class["part"] == "train", "label"]) == {0}
    assert (one_class["part"] == "test").sum() == 8


@pytest.mark.parametrize(
    ("box", "before", "after", "expected"),
    [
        ((0, 0, 39, 19), (20, 40), (10, 10), (0, 0, 9, 9)),
        ((39, 19, 39, 19), (20, 40), (10, 10), (9, 9, 9, 9)),
        ((3, 3, 3, 3), (20, 40), (5, 5), (0, 0, 0, 0)),
        ((2, 2, 3, 3), (10, 10), (20, 20), (4, 4, 7, 7)),
    ],
)
def test_a_box_is_scaled_with_its_image(box: tuple, before: tuple, after: tuple, expected: tuple) -> None:
    """Worked out on paper; a small box keeps a pixel."""
    assert boxes.Box(*box).scaled(before, after) == boxes.Box(*expected)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """And holds what Pascal VOC wants, read by another parser's eyes."""
    path = tmp_path / "a.xml"
    path.write_bytes(boxes.Annotation((20, 40), "intact", boxes.Box(*BOX)).xml("a.png"))
    assert boxes.read_annotation(path) == boxes.Annotation((20, 40), "intact", boxes.Box(*BOX))
    root = ElementTree.parse(path)
    tags = ("filename", "size/width", "size/height", "object/name")
    assert [root.findtext(tag) for tag in tags] == ["a.png", "40", "20", "intact"]
    assert [int(root.findtext(f"object/bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")] == list(BOX)


def first(line: Path, folder: str, suffix: str = "png") -> Path:
    return min((line / folder).glob(f"*.{suffix}"))


def copy_item(line: Path, target: str) -> None:
    for view in ("side", "top"):
        shutil.copy(first(line, f"train/intact/{view}"), line / target / view)


def rewrite_box(line: Path, text: str) -> None:
    first(line, "test/intact/side", "xml").write_text(text)


def second_suffix(line: Path) -> None:
    shutil.copy(first(line, "train/intact/side"), first(line, "train/intact/side").with_suffix(".bmp"))


_OBJECT = voc("intact")[voc("intact").index("<object>") : voc("intact").index("</annotation>")]
MIXED_LINES: dict[str, Callable[[Path], object]] = {
    r"item \d+ of .*line has no side view: add it": lambda line: first(line, "train/intact/side").unlink(),
    r"item 1001 of .* is in train/damaged and in train/intact": lambda line: copy_item(line, "train/damaged"),
    r"item 1001 of .* is in test/intact and in train/intact": lambda line: copy_item(line, "test/intact"),
    r"1001\.png must be named NUMBER_side\.png": lambda line: first(line, "train/intact/side").rename(
        line / "train/intact/side/1001.png"
    ),
    "item 1001 of .* has two side views": second_suffix,
    r"_side\.xml says 'damaged' but lies in test/intact": lambda line: rewrite_box(line, voc("damaged")),
    r"_side\.xml cannot be read": lambda line: rewrite_box(line, voc("intact")[:80]),
    r"_side\.xml cannot be read \(it has 2 objects, not one\)": lambda line: rewrite_box(
        line, voc("intact").replace("</annotation>", _OBJECT + "</annotation>")
    ),
    r"_side\.xml lies outside its image of 40×20": lambda line: rewrite_box(line, voc("intact", (10, 4, 50, 11))),
    "line holds no image": lambda line: [path.unlink() for path in line.rglob("*.png")],
}


@pytest.mark.parametrize("words", MIXED_LINES)
def test_an_item_that_does_not_fit_is_named(line: Path, words: str) -> None:
    """One line, the thing, the way out."""
    MIXED_LINES[words](line)
    refused(line.parent, "line", words)


# --- a production line as its authors ship it -------------------------------------------------------------------------


def number_names(count: int, first: int) -> list[str]:
    return [str(first + 7 * step) for step in range(count)]


def make_shipped(folder: Path, intact: list[str], damaged: list[str]) -> Path:
    """`{intact,damaged}/{side,top}/NUMBER_VIEW.png`, of files that nobody decodes."""
    for state, numbers in (("intact", intact), ("damaged", damaged)):
        for view in ("side", "top"):
            (folder / state / view).mkdir(parents=True)
            for number in numbers:
                (folder / state / view / f"{number}_{view}.png").write_bytes(number.encode())
    return folder


PARTS = [("train", "good"), ("train", "damaged"), ("test", "good"), ("test", "damaged")]
INTACT, DAMAGED = number_names(26, 8), number_names(11, 90)  # 8, 15, 22 … and 90, 97, 104 …


def test_a_line_without_train_and_test_is_cut_by_item(tmp_path: Path) -> None:
    """A tenth of 26 and 11 items are 3 and 1; numbers are compared as numbers, and no name of a folder tells."""
    table = index.read_category(make_shipped(tmp_path / "line", INTACT, DAMAGED).parent, "line")
    assert set(table.loc[table["split"] == "test", "group"]) == {f"line/{number}" for number in ("8", "15", "22", "90")}
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table.groupby(["split", "defect", "view"]).size().to_dict() == {
        (split, defect, view): count
        for (split, defect), count in zip(PARTS, (23, 10, 3, 1), strict=True)
        for view in ("side", "top")
    }
    assert list(table["split"]) == sorted(table["split"], reverse=True)
    assert table["image_id"].is_unique
    assert "line/test/damaged/side/90_side" in set(table["image_id"])
    assert Path(table["image_path"].iloc[-1]).parent == tmp_path / "line" / "damaged" / "top"
    again = index.read_category(make_shipped(tmp_path / "other", DAMAGED, INTACT).parent, "other")
    assert set(again.loc[again["split"] == "test", "group"]) == {
        f"other/{number}" for number in ("8", "15", "22", "90")
    }
    assert index.list_categories(tmp_path) == ["line", "other"]


@pytest.mark.parametrize("inside", ["", "package", "archive", "package/images", "a/b", "package/a/b"])
def test_packages_are_the_line_that_a_root_holds(tmp_path: Path, make_category: Maker, inside: str) -> None:
    """The root itself, any folder in it, or one folder deeper; beside products. Other names are taken at their word."""
    make_category(tmp_path / "root", "bottle", train=1, test_good=1, defects={}, size=8)
    make_shipped(tmp_path / "root" / inside, INTACT, DAMAGED)
    (tmp_path / "root" / "__MACOSX" / "damaged").mkdir(parents=True)
    table = index.read_category(tmp_path / "root", "package")
    assert set(table["category"]) == {"package"}
    assert set(table["group"]) == {f"package/{number}" for number in INTACT + DAMAGED}
    assert {Path(path).parents[2] for path in table["image_path"]} == {tmp_path / "root" / inside}
    refused(tmp_path / "root", "packages", "no category 'packages' in")


def test_a_line_with_train_and_test_may_have_any_name_too(line: Path) -> None:
    """Of the folder around it, as of its own; the parts of it are no lines."""
    expected = index.read_category(line.parent, "line")["image_path"].tolist()
    for root in (line, line.parent):
        assert index.read_category(root, "package")["image_path"].tolist() == expected
    refused(line / "train", "package", "no category 'package' in")


def test_which_of_two_lines_is_not_guessed(tmp_path: Path) -> None:
    """Nor is one looked for three folders down."""
    make_shipped(tmp_path / "a" / "b" / "c", INTACT, DAMAGED)
    refused(tmp_path, "package", "no category 'package' in")
    make_shipped(tmp_path / "a" / "d", INTACT, DAMAGED)
    assert len(index.read_category(tmp_path, "package")) == 74
    refused(
        tmp_path / "a", "package", "a holds two production lines, .*/a/b/c and .*/a/d: give the folder of one as root"
    )


def rename(line: Path, view: str, name: str) -> None:
    (line / "damaged" / view / f"97_{view}.png").rename(line / "damaged" / view / name)


MIXED_SHIPPED: dict[str, Callable[[Path], object]] = {
    "item 97 of .*line has no side view: add it, or remove": lambda line: (line / "damaged/side/97_side.png").unlink(),
    "item 8 of .*line is in damaged and in intact: remove it from one": lambda line: [
        shutil.copy(line / f"intact/{view}/8_{view}.png", line / f"damaged/{view}") for view in ("side", "top")
    ],
    r"97\.png must be named NUMBER_side\.png": lambda line: rename(line, "side", "97.png"),
    "item 97 of .*line has no top view": lambda line: rename(line, "top", "98_top.png"),
    "line/intact holds a single item: add one": lambda line: [
        path.unlink() for path in line.glob("intact/*/*") if not path.name.startswith("8_")
    ],
    r"97_top\.xml says 'intact' but lies in damaged: move": lambda line: (line / "damaged/top/97_top.xml").write_text(
        voc("intact")
    ),
}


@pytest.mark.parametrize("words", MIXED_SHIPPED)
def test_an_item_that_does_not_fit_is_named_there_too(tmp_path: Path, words: str) -> None:
    """As in train/ and test/."""
    MIXED_SHIPPED[words](make_shipped(tmp_path / "line", INTACT, DAMAGED))
    refused(tmp_path, "line", words)


def test_classes_without_views_are_no_line(tmp_path: Path) -> None:
    """Nor is one state alone: `check` says how such folders become a category."""
    make_shipped(tmp_path / "line", INTACT, DAMAGED)
    for path in (tmp_path / "line").glob("*/side/*"):
        path.rename(path.parents[1] / path.name)
    shutil.rmtree(tmp_path / "line" / "damaged" / "top")
    refused(tmp_path, "line", "line holds neither train/good/ nor images")


def test_the_published_packages_are_cut_as_our_figures_have_it(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Without its train/ and test/, every item comes into the part that it had."""
    root = shared("data/packages").parent
    before = index.read_category(root, "packages")
    for path in map(Path, before["image_path"]):
        place = tmp_path / "packages" / path.relative_to(root / "packages" / path.parents[2].name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    after = index.read_category(tmp_path, "packages")
    assert dict(zip(after["image_id"], after["group"], strict=True)) == dict(
        zip(before["image_id"], before["group"], strict=True)
    )


def test_the_real_packages(shared: Callable[[str], Path]) -> None:
    """180 items to learn from, 20 to be tested on, two views each, a box beside every test image."""
    table = index.read_category(shared("data/packages").parent, "packages")
    assert table.groupby(["split", "label", "view"]).size().tolist() == [10] * 4 + [90] * 4
    assert table["group"].nunique() == 200
    assert ((table["box_path"] != "") == (table["split"] == "test")).all()
    assert {boxes.read_annotation(path).size for path in table["box_path"] if path} == {(540, 960)}


NAMES = ["{}_mask", "{}-mask", "{}_Mask", "{}_gt", "{}_GT", "mask_{}", "GT-{}", "{}_label", "{}.seg", "{}"]


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_found_by_one_rule(name: str, tmp_path: Path, make_category: Maker) -> None:
    """Whatever their folder calls them; the image `000_gt` beside them is no mask."""
    make_category(tmp_path, defects={"patch": 3}, size=8)
    truth = tmp_path / "part" / "ground_truth" / "patch"
    for path in sorted(truth.iterdir()):
        path.rename(truth / f"{name.format(path.stem.removesuffix('_mask'))}.png")
    table = index.read_category(tmp_path, "part")
    masks = [Path(path).name for path in table.loc[table["label"] == 1, "mask_path"]]
    assert masks == [f"{name.format(f'{number:03d}')}.png" for number in range(3)]


def test_masks_by_two_rules_are_refused(tmp_path: Path, make_category: Maker) -> None:
    """One folder, one rule: else it is a guess which file belongs to what."""
    make_category(tmp_path, size=8)
    truth = tmp_path / "part" / "ground_truth" / "patch"
    (truth / "002_mask.png").rename(truth / "mask_002.png")
    refused(tmp_path, "part", "lacks the mask of 1 images, first 002")


def test_several_masks_of_an_image_and_none_of_another_type(
    tmp_path: Path, make_category: Maker, write_image: Writer
) -> None:
    """MVTec LOCO's folders are one mask path; a type without any mask has none."""
    make_category(tmp_path, defects={"patch": 2, "dent": 2}, size=8)
    truth = tmp_path / "part" / "ground_truth"
    shutil.rmtree(truth / "dent")
    for path in sorted((truth / "patch").iterdir()):
        (truth / "patch" / path.stem.removesuffix("_mask")).mkdir()
        path.rename(truth / "patch" / path.stem.removesuffix("_mask") / "000.png")
    table = index.read_category(tmp_path, "part").set_index("image_id")["mask_path"]
    assert table["part/test/patch/001"] == str(truth / "patch" / "001")
    assert table["part/test/dent/001"] == ""


@pytest.mark.parametrize("good", ["Good", "OK", "ok", "NORMAL", "pass"])
def test_good_is_spelled_in_many_ways(good: str, tmp_path: Path, make_category: Maker) -> None:
    """And is the same table, but for the paths."""
    make_category(tmp_path, size=8)
    expected = index.read_category(tmp_path, "part")
    for split in ("train", "test"):
        (tmp_path / "part" / split / "good").rename(tmp_path / "part" / split / good)
    (tmp_path / "part" / "ground_truth").rename(tmp_path / "part" / "Ground_Truth")
    table = index.read_category(tmp_path, "part")
    columns = ["image_id", "split", "defect", "label"]
    pd.testing.assert_frame_equal(table[columns], expected[columns], check_like=True)
    assert (table["mask_path"] != "").sum() == 4


def test_names_that_differ_only_in_unicode_form(tmp_path: Path, make_category: Maker) -> None:
    """macOS takes letters with accents apart; images from there meet masks from elsewhere."""
    make_category(tmp_path, defects={"rasguño": 2}, size=8)
    folder = tmp_path / "part"
    apart = unicodedata.normalize("NFD", "rasguño")
    (folder / "test" / "rasguño").rename(folder / "test" / apart)
    (folder / "test" / apart / "000.png").rename(folder / "test" / apart / f"{unicodedata.normalize('NFD', 'é')}.png")
    (folder / "ground_truth" / "rasguño" / "000_mask.png").rename(folder / "ground_truth" / "rasguño" / "é_mask.png")
    table = index.read_category(tmp_path, "part")
    assert (table.loc[table["label"] == 1, "mask_path"] != "").all()


def test_messages_say_where_to_look(tmp_path: Path, make_category: Maker) -> None:
    """Whoever is refused a folder is told how to see what is read of it."""
    make_category(tmp_path, size=8)
    refused(tmp_path, "nothing", r"; `mvtec-ad check .*` shows what is read as what$")
    shutil.rmtree(tmp_path / "part" / "train" / "good")
    refused(tmp_path, "part", r"; `mvtec-ad check .*/part` shows what is read as what$")


ENTITIES = '<!DOCTYPE a [<!ENTITY a "a"><!ENTITY b "&a;&a;">]>'
ODD_BOXES = {
    "no number": ("nan", "{}", "utf-8"),
    "infinite": ("inf", "{}", "utf-8"),
    "too large for a float": ("1e400", "{}", "utf-8"),
    "no text": ("", "{}", "utf-8"),
    "entities": ("1", ENTITIES + "{}", "utf-8"),
    "entities in UTF-16": ("1", ENTITIES + "{}", "utf-16"),
    "encoding nobody knows": ("1", '<?xml version="1.0" encoding="klingon"?>{}', "utf-8"),
    "encoding of several bytes": ("1", '<?xml version="1.0" encoding="utf-7"?>{}', "utf-8"),
    "no XML": ("1", "box: {}", "utf-8"),
    "too deep": ("1", "<a>" * 200_000 + "{}", "utf-8"),
    "too large": ("1", "{}" + " " * 1_000_001, "utf-8"),
}


@pytest.mark.parametrize("name", ODD_BOXES)
def test_an_odd_box_is_one_line(tmp_path: Path, name: str) -> None:
    """Whatever the file holds; one in UTF-16 without entities is read."""
    left, around, encoding = ODD_BOXES[name]
    path, box = tmp_path / "000.xml", boxes.Annotation((20, 40), "intact", boxes.Box(1, 2, 3, 4))
    text = box.xml("000.png").decode()
    path.write_bytes(around.format(text.replace("<xmin>1<", f"<xmin>{left}<")).encode(encoding))
    with pytest.raises(DataError, match=r"box .*000\.xml cannot be read") as caught:
        boxes.read_annotation(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(text.encode("utf-16"))
    assert boxes.read_annotation(path) == box
