"""Items seen from two sides: one table, groups that tie the views, and one line for whatever does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mvtec_ad import artifacts
from mvtec_ad.config import DataSettings, Profile
from mvtec_ad.data import boxes, index, prepare, splits
from mvtec_ad.errors import DataError

Writer = Callable[[Path, np.ndarray], Path]
REAL = Path(__file__).parents[2].parent / "shared" / "data"
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


def test_both_views_stay_together_and_no_model_of_good_parts_learns_from_damaged_ones(line: Path) -> None:
    """The two splits."""
    table = index.read_category(line.parent, "line")
    one_class = splits.official(table)
    assert set(one_class.loc[one_class["part"] == "train", "label"]) == {0}
    assert (one_class["part"] == "test").sum() == 8


def test_through_data_zip_and_back(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layout, groups and boxes survive; a box is squeezed like its image."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "home"))
    profile = Profile("quick", data=DataSettings(categories=("line",), image_size=10))
    path = prepare.prepare(profile, root=line.parent, progress=False)
    artifact = artifacts.load(path)
    table = index.read_category(prepare.unpack(artifact), "line")
    before = index.read_category(line.parent, "line")
    same = ["image_id", "split", "defect", "label", "view", "group"]
    assert table[same].equals(before[same])
    tested = table[table["split"] == "test"]
    for box_path in tested["box_path"]:
        edges = ElementTree.parse(box_path).find("object/bndbox")
        # columns 10 to 30 of 40 are columns 2.5 to 7.5 of 10, rows 4 to 12 of 20 are rows 2 to 6 of 10
        assert [int(edge.text) for edge in edges] == [2, 2, 7, 5]
        assert boxes.read_annotation(box_path).size == (10, 10)


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
    assert [root.findtext(tag) for tag in ("filename", "size/width", "size/height", "object/name")] == [
        "a.png",
        "40",
        "20",
        "intact",
    ]
    assert [int(root.findtext(f"object/bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")] == list(BOX)


def drop_a_view(line: Path) -> None:
    next((line / "train" / "intact" / "side").glob("*.png")).unlink()


def put_an_item_in_both_classes(line: Path) -> None:
    for view in ("side", "top"):
        first = min((line / "train" / "intact" / view).glob("*.png"))
        shutil.copy(first, line / "train" / "damaged" / view)


def put_an_item_in_both_splits(line: Path) -> None:
    for view in ("side", "top"):
        first = min((line / "train" / "intact" / view).glob("*.png"))
        shutil.copy(first, line / "test" / "intact" / view)


def name_without_view(line: Path) -> None:
    first = min((line / "train" / "intact" / "side").glob("*.png"))
    first.rename(first.with_name("1001.png"))


def second_picture(line: Path) -> None:
    first = min((line / "train" / "intact" / "side").glob("*.png"))
    shutil.copy(first, first.with_suffix(".bmp"))


def box_of_the_other_class(line: Path) -> None:
    min((line / "test" / "intact" / "side").glob("*.xml")).write_text(voc("damaged"))


def box_cut_off(line: Path) -> None:
    min((line / "test" / "intact" / "side").glob("*.xml")).write_text(voc("intact")[:80])


def two_boxes(line: Path) -> None:
    text = voc("intact")
    thing = text[text.index("<object>") : text.index("</annotation>")]
    min((line / "test" / "intact" / "side").glob("*.xml")).write_text(
        text.replace("</annotation>", thing + "</annotation>")
    )


def box_outside(line: Path) -> None:
    min((line / "test" / "intact" / "side").glob("*.xml")).write_text(voc("intact", (10, 4, 50, 11)))


def no_image_at_all(line: Path) -> None:
    for path in line.rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_a_view, r"item \d+ of .*line has no side view: add it"),
        (put_an_item_in_both_classes, r"item 1001 of .* is in train/damaged and in train/good"),
        (put_an_item_in_both_splits, r"item 1001 of .* is in test/good and in train/good"),
        (name_without_view, r"1001\.png must be named NUMBER_side\.png"),
        (second_picture, r"item 1001 of .* has two side views"),
        (box_of_the_other_class, r"_side\.xml says 'damaged' but lies in test/intact"),
        (box_cut_off, r"_side\.xml cannot be read"),
        (two_boxes, r"_side\.xml cannot be read \(it has 2 objects, not one\)"),
        (box_outside, r"_side\.xml lies outside its image of 40×20"),
        (no_image_at_all, r"line holds no image"),
    ],
)
def test_what_does_not_fit_is_named(line: Path, spoil: Callable[[Path], None], message: str) -> None:
    """One line, the thing, the way out."""
    spoil(line)
    with pytest.raises(DataError, match=message) as problem:
        index.read_category(line.parent, "line")
    assert "\n" not in str(problem.value)


def test_a_box_of_another_size_than_its_image(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found when the image is decoded, before anything is written."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "home"))
    min((line / "test" / "intact" / "side").glob("*.xml")).write_text(voc("intact", size=(540, 960)))
    profile = Profile("quick", data=DataSettings(categories=("line",), image_size=10))
    with pytest.raises(DataError, match=r"_side\.xml is of an image of 960×540 but its image is 40×20"):
        prepare.prepare(profile, root=line.parent, progress=False)


@pytest.mark.skipif(not (REAL / "packages").is_dir(), reason="../shared/data/packages is not here")
def test_the_real_packages() -> None:
    """180 items to learn from, 20 to be tested on, two views each, a box beside every test image."""
    table = index.read_category(REAL, "packages")
    assert table.groupby(["split", "label", "view"]).size().tolist() == [10] * 4 + [90] * 4
    assert table["group"].nunique() == 200
    assert ((table["box_path"] != "") == (table["split"] == "test")).all()
    assert {boxes.read_annotation(path).size for path in table["box_path"] if path} == {(540, 960)}
