"""Splits: nothing a model learns from is tested on, whatever is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad.data import splits
from mvtec_ad.errors import DataError

DEFECTS = {"good": 20, "cut": 10, "dent": 13, "oil": 3}


def make_table(views: int = 1, categories: tuple[str, ...] = ("bolt", "nut")) -> pd.DataFrame:
    """A table of images, `views` of each item, five good training items a category."""
    rows = []
    for category in categories:
        for split, defect, count in [
            ("train", "good", 5),
            *[("test", name, number) for name, number in DEFECTS.items()],
        ]:
            for item in range(count):
                for view in range(views):
                    group = f"{category}/{split}/{defect}/{item}"
                    rows.append(
                        {
                            "image_id": f"{group}_{view}",
                            "category": category,
                            "split": split,
                            "defect": defect,
                            "label": int(defect != "good"),
                            "group": group,
                        }
                    )
    return pd.DataFrame(rows)


def test_official_keeps_the_folders() -> None:
    """train/good against test/*."""
    table = make_table()
    assert (splits.official(table)["part"] == table["split"]).all()
    assert "part" not in table


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_group_never_straddles_two_parts(views: int, seed: int) -> None:
    """All views of an item lie in one part, and every part has images."""
    cut = splits.supervised(make_table(views), seed=seed)
    assert cut.groupby("group")["part"].nunique().max() == 1
    assert set(cut["part"]) == {"train", "validation", "test"}


def test_an_item_with_two_kinds_of_defects_stays_in_one_part() -> None:
    """Its views lie in two defect folders, so it is met twice: the rule holds all the same."""
    table = make_table()
    table.loc[table["image_id"].isin([f"bolt/test/{d}/{i}_0" for d in ("cut", "dent") for i in range(8)]), "group"] = (
        table["image_id"].str.extract(r"/(\d+)_0$", expand=False).radd("bolt-item-")
    )
    for seed in range(5):
        cut = splits.supervised(table, seed=seed)
        assert cut.groupby("group")["part"].nunique().max() == 1


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.3), (0.6, 0.2, 0.2), (0.34, 0.33, 0.33)])
def test_every_defect_type_is_cut_in_the_same_shares(fractions: tuple[float, float, float]) -> None:
    """Within one item of the exact share, and never an empty part."""
    cut = splits.supervised(make_table(), fractions=fractions)
    tested = cut[cut["split"] == "test"]
    for (_, defect), rows in tested.groupby(["category", "defect"]):
        counts = rows["part"].value_counts()
        for part, fraction in zip(("train", "validation", "test"), fractions, strict=True):
            assert counts[part] >= 1
            assert abs(counts[part] - fraction * DEFECTS[defect]) <= 1.01


def test_official_training_images_are_trained_on() -> None:
    """And only they come from the training folder."""
    cut = splits.supervised(make_table())
    assert set(cut.loc[cut["split"] == "train", "part"]) == {"train"}


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    """Same seed, same parts; another seed, other parts; rows stay where they were."""
    table = make_table(2)
    first = splits.supervised(table, seed=1)
    pd.testing.assert_frame_equal(first, splits.supervised(table, seed=1))
    assert (first["part"] != splits.supervised(table, seed=2)["part"]).any()
    assert first["image_id"].tolist() == table["image_id"].tolist()
    shuffled = table.sample(frac=1, random_state=0)
    again = splits.supervised(shuffled, seed=1)
    assert again["image_id"].tolist() == shuffled["image_id"].tolist()
    pd.testing.assert_frame_equal(again.sort_index(), first)


def test_too_few_items_of_a_defect_are_refused() -> None:
    """Two items cannot be in three parts, however many views they have."""
    table = make_table(views=4)
    table = table[~table["group"].str.endswith("oil/2")]
    with pytest.raises(DataError, match="bolt/oil has 2 items: a supervised split needs at least 3"):
        splits.supervised(table)


def test_an_item_that_is_good_and_defective_is_refused() -> None:
    """One of the two labels would leak."""
    table = make_table()
    table.loc[table["image_id"] == "nut/test/good/0_0", "group"] = "nut/test/cut/0"
    with pytest.raises(DataError, match="good and defective"):
        splits.supervised(table)


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.8, 0.4, -0.2)])
def test_shares_that_are_none_are_refused(fractions: tuple[float, float, float]) -> None:
    """They are positive and add up to one."""
    with pytest.raises(DataError, match="fractions"):
        splits.supervised(make_table(), fractions=fractions)


@pytest.mark.parametrize(("count", "number"), [(10, 2), (11, 3), (7, 7), (100, 9)])
def test_folds_partition_the_images(count: int, number: int) -> None:
    """Each position once, sizes that differ by one at most, the seed decides."""
    found = splits.folds(count, number, seed=3)
    assert len(found) == number
    assert sorted(np.concatenate(found)) == list(range(count))
    assert np.ptp([len(fold) for fold in found]) <= 1
    for one, other in zip(found, splits.folds(count, number, seed=3), strict=True):
        np.testing.assert_array_equal(one, other)
    if count > 50:
        assert any((one != other).any() for one, other in zip(found[1:], splits.folds(count, number)[1:], strict=True))


@pytest.mark.parametrize(("count", "number"), [(5, 1), (5, 6), (0, 2), (5, 0)])
def test_impossible_folds_are_refused(count: int, number: int) -> None:
    """As many folds as images at most."""
    with pytest.raises(DataError, match=f"{number} folds of {count} images"):
        splits.folds(count, number)


# --- where defects may be learnt from ----------------------------------------------------------------------------


def make_packages(train: int = 7, test: int = 4) -> pd.DataFrame:
    """A table of packages: so many intact and so many damaged items in either folder, two views each."""
    rows = []
    for split, count in (("train", train), ("test", test)):
        for defect in ("good", "damaged"):
            for item in range(count):
                for view in ("side", "top"):
                    group = f"line/{split}-{defect}-{item}"
                    rows.append(
                        {
                            "image_id": f"{group}-{view}",
                            "image_path": f"{group}-{view}.png",
                            "category": "line",
                            "split": split,
                            "defect": defect,
                            "label": int(defect != "good"),
                            "group": group,
                        }
                    )
    return pd.DataFrame(rows)


def test_packages_are_tested_on_the_official_items() -> None:
    """7 items of a class in train are cut 5 to 2, as the fractions .5 and .2 say; another category is cut as before."""
    bolts = make_table(categories=("bolt",))
    table = pd.concat([bolts, make_packages()], ignore_index=True)
    cut = splits.supervised(table, seed=3)
    packages = cut[cut["category"] == "line"]
    items = packages.drop_duplicates("group").groupby(["defect", "split", "part"]).size()
    assert items.to_dict() == {
        (defect, split, part): count
        for defect in ("good", "damaged")
        for split, part, count in (("train", "train", 5), ("train", "validation", 2), ("test", "test", 4))
    }
    alone = splits.supervised(bolts, seed=3)
    assert (cut["part"][: len(alone)] == alone["part"]).all()


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("split == 'train'", "line/test holds no good item"),
        ("split == 'train' or label == 0", "line/test holds no defective item"),
        ("split == 'test' or label == 1", "line/train holds no good item"),
        ("split == 'test' or label == 0 or group == 'line/train-damaged-0'", "line/damaged has 1 items"),
    ],
)
def test_a_class_that_is_missing_is_named(keep: str, words: str) -> None:
    """Nothing is trained or tested on one class in silence."""
    with pytest.raises(DataError, match=words) as problem:
        splits.supervised(make_packages().query(keep))
    assert "\n" not in str(problem.value)


def test_an_item_in_two_folders_is_refused() -> None:
    """It would be learnt from and tested on."""
    table = make_packages()
    table.loc[table["group"] == "line/test-good-0", "group"] = "line/train-good-0"
    with pytest.raises(DataError, match="item line/train-good-0 is in line/test and in line/train: remove it"):
        splits.supervised(table)


CUTTERS = {
    "hold_out": lambda table, seed=0: splits.hold_out(table, 0.3, seed),
    "grouped_folds": lambda table, seed=0: splits.grouped_folds(table, 2, seed),
}


@pytest.mark.parametrize("cutter", CUTTERS)
def test_the_seed_decides_where_items_go(cutter: str) -> None:
    """The order of the rows, and their index, do not."""
    table = make_packages().query("split == 'train'")
    first = CUTTERS[cutter](table, 1)
    np.testing.assert_array_equal(first, CUTTERS[cutter](table, 1))
    assert (first != CUTTERS[cutter](table, 2)).any()
    shuffled = table.sample(frac=1, random_state=0)
    again = pd.Series(CUTTERS[cutter](shuffled, 1), shuffled.index)
    np.testing.assert_array_equal(again.sort_index(), first)


@pytest.mark.parametrize("cutter", CUTTERS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda table: table[table["label"] == 0], "line holds no defective item: a classifier needs both"),
        (lambda table: table[table["label"] == 1], "line holds no good item: a classifier needs both"),
        (lambda table: table[(table["label"] == 0) | (table["group"] == "line/train-damaged-1")], "line/damaged has 1"),
        (lambda table: table.assign(group="line/1"), r"good and defective images \(line/1\)"),
        (lambda table: table.assign(label=table["label"].where(table["group"] != "line/train-good-0", 1)), "label 1"),
    ],
    ids=["good only", "defective only", "one damaged item", "one group", "label against folder"],
)
def test_what_no_classifier_can_be_trained_on(
    cutter: str, spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    """One line that names category and class."""
    with pytest.raises(DataError, match=words) as problem:
        CUTTERS[cutter](spoil(make_packages().query("split == 'train'")))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 2])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """Both parts need items."""
    with pytest.raises(DataError, match=f"share {share} must lie between 0 and 1"):
        splits.hold_out(make_packages(), share)


@pytest.mark.parametrize(("number", "words"), [(1, "1 folds leave nothing"), (8, "line/damaged has 7 items, too few")])
def test_a_number_of_folds_that_cannot_be(number: int, words: str) -> None:
    """At least two, and no more than the rarest class has items."""
    with pytest.raises(DataError, match=words):
        splits.grouped_folds(make_packages().query("split == 'train'"), number)


# --- nothing in two parts ----------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> pd.DataFrame:
    """Six different pictures of three items."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (4, 6, 3), np.uint8)).save(path)
    return pd.DataFrame({"image_path": [str(path) for path in paths], "group": list("aabbcc")})


def test_parts_that_share_nothing_pass(pictures: pd.DataFrame) -> None:
    """Also where a picture is twice in one part, or the same bytes make a picture of another shape."""
    splits.check_separate(pictures, ["train", "train", "test", "test", "train", "train"])
    pixels = np.array(Image.open(pictures["image_path"][0]))
    Image.fromarray(pixels).save(pictures["image_path"][5])
    Image.fromarray(pixels.reshape(6, 4, 3)).save(pictures["image_path"][3])
    splits.check_separate(pictures, ["train", "train", "test", "test", "train", "train"])


def test_an_item_in_two_parts_is_named(pictures: pd.DataFrame) -> None:
    """By the files of its two views."""
    with pytest.raises(DataError, match=r"2\.png \(0\) and .*3\.png \(1\) are the same item in two parts"):
        splits.check_separate(pictures, np.array([0, 0, 0, 1, 1, 1]))


def test_a_copy_in_another_format_is_the_same_picture(pictures: pd.DataFrame, tmp_path: Path) -> None:
    """Other name, other bytes, same pixels."""
    Image.open(pictures["image_path"][0]).save(tmp_path / "copy.bmp")
    pictures.loc[5, "image_path"] = str(tmp_path / "copy.bmp")
    with pytest.raises(DataError, match=r"0\.png \(False\) and .*copy\.bmp \(True\) are the same picture in two parts"):
        splits.check_separate(pictures, np.array([0, 0, 0, 0, 1, 1], bool))


def test_parts_of_another_table_are_refused(pictures: pd.DataFrame) -> None:
    """As many as there are images."""
    with pytest.raises(DataError, match=r"6 images need as many parts, not an array of shape \(5,\)"):
        splits.check_separate(pictures, range(5))
