"""Splits: nothing a model learns from is tested on, whatever is cut; many seeds, on synthetic and real images.

What is caught: an item or a picture in two parts, shares that are not those asked for, an empty part, a seed or order
of rows that decides nothing or too much, classes that are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad.data import index, splits
from mvtec_ad.errors import DataError
from mvtec_ad.synthetic import write_category, write_packages

SEEDS = range(50)


def synthetic_products(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    for category in ("bottle", "screw"):
        write_category(root, category, train=4, test_good=7, per_defect=5, size=32, progress=False)
    return pd.concat([index.read_category(root, category) for category in ("bottle", "screw")], ignore_index=True)


def synthetic_packages(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    write_packages(root, train=6, test=3, size=(32, 56), progress=False)
    return index.read_category(root, "package")


def real_packages(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    return index.read_category(shared()("data/packages").parent, "packages")


def real_bottle(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    return index.read_category(shared()("data/mvtec_anomaly_detection"), "bottle")


@pytest.fixture(scope="module", params=[synthetic_products, synthetic_packages, real_packages, real_bottle])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """One table after the other, the real ones where they are; numbers for `picture`, `item` and `kind` of each row.

    Two files of the same bytes are one picture.
    """
    images = request.param(tmp_path_factory.mktemp("images"), lambda: request.getfixturevalue("shared"))
    pictures = pd.Series([hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in images["image_path"]])
    kinds = images["category"] + "/" + images["defect"]
    names = {"picture": pictures, "item": images["group"], "kind": kinds}
    return images.assign(**{column: pd.factorize(values)[0] for column, values in names.items()})


@pytest.fixture(scope="module")
def to_cut(table: pd.DataFrame) -> pd.DataFrame:
    """What is cut: the official training folder where it holds defects, else the official test folder."""
    from_train = ((table["split"] == "train") & (table["label"] == 1)).any()
    return table[table["split"] == ("train" if from_train else "test")]


def check_nothing_twice(rows: pd.DataFrame, parts: np.ndarray) -> None:
    """No picture and no item in two parts."""
    for column in ("picture", "item"):
        numbers = rows[column].to_numpy()
        part_of = np.empty(numbers.max() + 1, parts.dtype)
        part_of[numbers] = parts
        assert (part_of[numbers] == parts).all(), column


def check_shares(rows: pd.DataFrame, parts: np.ndarray, shares: dict[object, float]) -> None:
    """Each part holds its share of the items of each category and defect type, give or take one, and never none."""
    items = np.unique(rows["item"], return_index=True)[1]
    kinds, part_of = rows["kind"].to_numpy()[items], parts[items]
    there = np.unique(kinds)
    for part, share in shares.items():
        counts = np.bincount(kinds[part_of == part], minlength=kinds.max() + 1)[there]
        assert counts.min() >= 1, part
        assert np.abs(counts - share * np.bincount(kinds)[there]).max() <= 1, part
    assert set(parts) == set(shares)


def test_a_label_is_what_its_folder_says(table: pd.DataFrame) -> None:
    """Read off the path itself: what lies below good or intact is good, everything else a defect."""
    for row in table.itertuples():
        split, state = row.image_path.rpartition(f"/{row.category}/")[2].split("/")[:2]
        assert row.split == split
        assert row.label == int(state not in ("good", "intact"))
        assert (row.defect == "good") == (row.label == 0)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.3), (0.34, 0.33, 0.33)])
def test_supervised(table: pd.DataFrame, to_cut: pd.DataFrame, fractions: tuple[float, float, float]) -> None:
    """What is tested on stays away from what is learnt from; the official folder that needs no cut stays whole."""
    packages = set(to_cut["split"]) == {"train"}
    shares = dict(zip(("train", "validation", "test"), fractions, strict=True))
    if packages:
        shares = {part: shares[part] / sum(fractions[:2]) for part in ("train", "validation")}
    cut = table.index.isin(to_cut.index)
    for seed in SEEDS:
        parts = splits.supervised(table, seed=seed, fractions=fractions)["part"].to_numpy(object)
        check_nothing_twice(table, parts)
        check_shares(to_cut, parts[cut], shares)
        assert set(parts[~cut]) == ({"test"} if packages else {"train"})
        assert set(parts) == {"train", "validation", "test"}
        assert set(table["label"][parts == "test"]) == {0, 1}


@pytest.mark.parametrize(("share", "seeds"), [(0.2, SEEDS[:25]), (0.37, SEEDS[25:])])
def test_hold_out(to_cut: pd.DataFrame, share: float, seeds: range) -> None:
    """The share that is asked for, of every class."""
    for seed in seeds:
        held_out = splits.hold_out(to_cut, share, seed)
        assert held_out.dtype == bool
        check_nothing_twice(to_cut, held_out)
        check_shares(to_cut, held_out, {True: share, False: 1 - share})


@pytest.mark.parametrize(("number", "seeds"), [(2, SEEDS[:25]), (5, SEEDS[25:])])
def test_grouped_folds(to_cut: pd.DataFrame, number: int, seeds: range) -> None:
    """As many folds as asked for, of nearly the same size."""
    items = np.unique(to_cut["item"], return_index=True)[1]
    for seed in seeds:
        folds = splits.grouped_folds(to_cut, number, seed)
        check_nothing_twice(to_cut, folds)
        check_shares(to_cut, folds, dict.fromkeys(range(number), 1 / number))
        assert np.ptp(np.bincount(folds[items])) <= 1


def test_a_picture_in_two_parts_is_found(table: pd.DataFrame) -> None:
    """One image of the test part, put into train under another name as well; without it, all is well."""
    cut = splits.supervised(table)
    splits.check_separate(cut[::9], cut["part"][::9])
    tested = cut[cut["part"] == "test"].head(1)
    doubled = pd.concat([cut[cut["part"] == "train"].iloc[::40], tested, tested.assign(part="train", group="another")])
    with pytest.raises(DataError, match="are the same picture in two parts") as problem:
        splits.check_separate(doubled, doubled["part"])
    assert str(problem.value).count(tested["image_path"].iloc[0]) == 2


# --- tables made by hand ----------------------------------------------------------------------------------------------


def make_table(
    items: dict[str, dict[str, int]], category: str = "bolt", views: tuple[str, ...] = ("",)
) -> pd.DataFrame:
    """A table of images from the number of items of each split and type, every item in each view."""
    rows = [
        (f"{category}/{split}/{defect}/{item}", category, split, defect, int(defect != "good"), view)
        for split, counts in items.items()
        for defect, count in counts.items()
        for item in range(count)
        for view in views
    ]
    table = pd.DataFrame(rows, columns=["group", "category", "split", "defect", "label", "view"])
    return table.assign(image_id=table["group"] + "_" + table["view"])


def make_products() -> pd.DataFrame:
    """Bolts and nuts, whose defects are in the test folder."""
    items = {"train": {"good": 5}, "test": {"good": 20, "cut": 10, "dent": 13, "oil": 3}}
    return pd.concat([make_table(items, "bolt"), make_table(items, "nut")], ignore_index=True)


def make_packages() -> pd.DataFrame:
    """A production line, with 7 items of either class in train and 4 in test, two views each."""
    items = {"train": {"good": 7, "damaged": 7}, "test": {"good": 4, "damaged": 4}}
    return make_table(items, "line", ("side", "top"))


def test_official_keeps_the_folders() -> None:
    """train/good against test/*."""
    table = make_products()
    assert (splits.official(table)["part"] == table["split"]).all()
    assert "part" not in table


def test_no_part_lacks_a_type() -> None:
    """Three items of a type are one in each part, whatever their shares."""
    cut = splits.supervised(make_products(), fractions=(0.9, 0.05, 0.05))
    assert cut.query("defect == 'oil'").groupby(["category", "part"]).size().tolist() == [1] * 6


def test_an_item_with_two_kinds_of_defects_stays_in_one_part() -> None:
    """Its views lie in two defect folders, so it is met twice: the rule holds all the same."""
    table = make_products()
    ids = [f"bolt/test/{defect}/{item}_" for defect in ("cut", "dent") for item in range(8)]
    item = table["image_id"].str.extract(r"/(\d+)_$", expand=False)
    table["group"] = table["group"].where(~table["image_id"].isin(ids), "bolt-item-" + item)
    assert table["group"].nunique() == len(table) - 8
    for seed in range(5):
        cut = splits.supervised(table, seed=seed)
        assert cut.groupby("group")["part"].nunique().max() == 1


def test_packages_are_tested_on_the_official_items() -> None:
    """7 items of a class in train are cut 5 to 2, as the fractions .5 and .2 say; another category is cut as before."""
    products = make_products().query("category == 'bolt'")
    cut = splits.supervised(pd.concat([products, make_packages()], ignore_index=True), seed=3)
    items = cut[cut["category"] == "line"].drop_duplicates("group").groupby(["defect", "split", "part"]).size()
    assert items.to_dict() == {
        (defect, split, part): count
        for defect in ("good", "damaged")
        for split, part, count in (("train", "train", 5), ("train", "validation", 2), ("test", "test", 4))
    }
    alone = splits.supervised(products, seed=3)
    assert (cut["part"][: len(alone)] == alone["part"]).all()


CUTTERS: dict[str, Callable[..., np.ndarray]] = {
    "supervised": lambda table, seed=0: splits.supervised(table, seed=seed)["part"].to_numpy(object),
    "hold_out": lambda table, seed=0: splits.hold_out(table, 0.3, seed),
    "grouped_folds": lambda table, seed=0: splits.grouped_folds(table, 2, seed),
}


@pytest.mark.parametrize("cutter", CUTTERS)
def test_the_seed_decides_where_items_go(cutter: str) -> None:
    """The order of the rows, and their index, do not."""
    table = make_packages()
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
        (lambda table: table[table["label"] == 0], "line.* holds no defective item: a classifier needs both"),
        (lambda table: table[table["label"] == 1], "line.* holds no good item: a classifier needs both"),
        (lambda table: table[(table["label"] == 0) | table["group"].str.endswith("/1")], "line/damaged has 1 items"),
        (lambda table: table.assign(group="line/" + table["split"]), r"good and defective images \(line/t"),
        (lambda table: table.assign(label=table["label"].where(table["group"] != "line/train/good/0", 1)), "label 1"),
    ],
    ids=["good only", "defective only", "one damaged item", "one group", "label against folder"],
)
def test_what_no_classifier_can_be_trained_on(
    cutter: str, spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    """One line that names category and class."""
    table = make_packages()
    if cutter != "supervised":
        table = table.query("split == 'train'")
    with pytest.raises(DataError, match=words) as problem:
        CUTTERS[cutter](spoil(table))
    assert "\n" not in str(problem.value)


TRAINED = make_packages().query("split == 'train'")
REFUSED: dict[str, Callable[[], object]] = {
    "bolt/oil has 2 items: a supervised split needs at least 3": lambda: splits.supervised(
        make_table({"train": {"good": 5}, "test": {"good": 9, "oil": 2}}, views=("a", "b", "c"))
    ),
    "line/test holds no good item": lambda: splits.supervised(TRAINED),
    "line/test holds no defective item": lambda: splits.supervised(
        make_packages().query("split == 'train' or label == 0")
    ),
    "line/train holds no good item": lambda: splits.supervised(make_packages().query("split == 'test' or label == 1")),
    "item line/train/good/0 is in line/test and in line/train: remove it": lambda: splits.supervised(
        make_packages().replace({"group": {"line/test/good/0": "line/train/good/0"}})
    ),
    r"fractions \(0.5, 0.5, 0.5\)": lambda: splits.supervised(make_products(), fractions=(0.5, 0.5, 0.5)),
    r"fractions \(1.0, 0.0, 0.0\)": lambda: splits.supervised(make_products(), fractions=(1.0, 0.0, 0.0)),
    r"fractions \(0.8, 0.4, -0.2\)": lambda: splits.supervised(make_products(), fractions=(0.8, 0.4, -0.2)),
    "share 0 must lie between 0 and 1": lambda: splits.hold_out(TRAINED, 0),
    "share 1.0 must lie between 0 and 1": lambda: splits.hold_out(TRAINED, 1.0),
    "share -0.2 must lie between 0 and 1": lambda: splits.hold_out(TRAINED, -0.2),
    "1 folds leave nothing": lambda: splits.grouped_folds(TRAINED, 1),
    "line/damaged has 7 items, too few": lambda: splits.grouped_folds(TRAINED, 8),
    "1 folds of 5 images": lambda: splits.folds(5, 1),
    "6 folds of 5 images": lambda: splits.folds(5, 6),
    "2 folds of 0 images": lambda: splits.folds(0, 2),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_cut_that_cannot_be_is_refused(words: str) -> None:
    """In one line that says why."""
    with pytest.raises(DataError, match=words) as problem:
        REFUSED[words]()
    assert "\n" not in str(problem.value)


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


@pytest.fixture
def pictures(tmp_path: Path) -> pd.DataFrame:
    """Six different pictures of three items."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (4, 6, 3), np.uint8)).save(path)
    return pd.DataFrame({"image_path": [str(path) for path in paths], "group": list("aabbcc")})


def test_nothing_in_two_parts(pictures: pd.DataFrame, tmp_path: Path) -> None:
    """A picture twice in one part is fine, or its bytes in another shape; an item or a copy in two parts is named."""
    parts = ["train", "train", "test", "test", "train", "train"]
    splits.check_separate(pictures, parts)
    pixels = np.array(Image.open(pictures["image_path"][0]))
    Image.fromarray(pixels).save(pictures["image_path"][5])
    Image.fromarray(pixels.reshape(6, 4, 3)).save(pictures["image_path"][3])
    splits.check_separate(pictures, parts)
    with pytest.raises(DataError, match=r"2\.png \(0\) and .*3\.png \(1\) are the same item in two parts"):
        splits.check_separate(pictures, np.array([0, 0, 0, 1, 1, 1]))
    Image.open(pictures["image_path"][0]).save(tmp_path / "copy.bmp")  # other name, other bytes, same pixels
    pictures.loc[5, "image_path"] = str(tmp_path / "copy.bmp")
    with pytest.raises(DataError, match=r"0\.png \(False\) and .*copy\.bmp \(True\) are the same picture in two parts"):
        splits.check_separate(pictures, np.array([0, 0, 0, 0, 1, 1], bool))
    with pytest.raises(DataError, match=r"6 images need as many parts, not an array of shape \(5,\)"):
        splits.check_separate(pictures, range(5))
