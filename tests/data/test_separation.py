"""200 seeds of every way to cut, on drawn and real images: no picture and no item in two parts, every class in each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad.data import index, splits
from mvtec_ad.data.rendered import write_category, write_packages
from mvtec_ad.errors import DataError

SEEDS = range(200)


def drawn_products(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    for category in ("bottle", "screw"):
        write_category(root, category, train=4, test_good=7, per_defect=5, size=32, progress=False)
    return pd.concat([index.read_category(root, category) for category in ("bottle", "screw")], ignore_index=True)


def drawn_packages(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    write_packages(root, train=11, test=4, size=(32, 56), progress=False)
    return index.read_category(root, "package")


def real_packages(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    return index.read_category(shared()("data/packages").parent, "packages")


def real_bottle(root: Path, shared: Callable[[], Callable[[str], Path]]) -> pd.DataFrame:
    return index.read_category(shared()("data/mvtec_anomaly_detection"), "bottle")


@pytest.fixture(scope="module", params=[drawn_products, drawn_packages, real_packages, real_bottle])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """One table after the other, the real ones where they are; numbers for `picture`, `item` and `kind` of each row.

    Every picture is decoded once, with Pillow.
    """
    images = request.param(tmp_path_factory.mktemp("images"), lambda: request.getfixturevalue("shared"))
    pixels = (np.asarray(Image.open(path).convert("RGB")) for path in images["image_path"])
    pictures = pd.Series([hashlib.sha256(image.tobytes()).hexdigest() for image in pixels])
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


def test_supervised(table: pd.DataFrame, to_cut: pd.DataFrame) -> None:
    """What is tested on stays away from what is learnt from; the official folder that needs no cut stays whole."""
    packages = set(to_cut["split"]) == {"train"}
    shares = {"train": 5 / 7, "validation": 2 / 7} if packages else {"train": 0.5, "validation": 0.2, "test": 0.3}
    cut = table.index.isin(to_cut.index)
    for seed in SEEDS:
        parts = splits.supervised(table, seed=seed)["part"].to_numpy(object)
        check_nothing_twice(table, parts)
        check_shares(to_cut, parts[cut], shares)
        assert set(parts[~cut]) == ({"test"} if packages else {"train"})
        assert set(parts) == {"train", "validation", "test"}
        assert set(table["label"][parts == "test"]) == {0, 1}
    splits.check_separate(table, parts)


@pytest.mark.parametrize(("share", "seeds"), [(0.2, SEEDS[:100]), (0.37, SEEDS[100:])])
def test_hold_out(to_cut: pd.DataFrame, share: float, seeds: range) -> None:
    """The share that is asked for, of every class."""
    for seed in seeds:
        held_out = splits.hold_out(to_cut, share, seed)
        assert held_out.dtype == bool
        check_nothing_twice(to_cut, held_out)
        check_shares(to_cut, held_out, {True: share, False: 1 - share})


@pytest.mark.parametrize(("number", "seeds"), [(2, SEEDS[:100]), (5, SEEDS[100:])])
def test_grouped_folds(to_cut: pd.DataFrame, number: int, seeds: range) -> None:
    """As many folds as asked for, of nearly the same size."""
    items = np.unique(to_cut["item"], return_index=True)[1]
    for seed in seeds:
        folds = splits.grouped_folds(to_cut, number, seed)
        check_nothing_twice(to_cut, folds)
        check_shares(to_cut, folds, dict.fromkeys(range(number), 1 / number))
        assert np.ptp(np.bincount(folds[items])) <= 1


def test_a_picture_in_two_parts_is_found(table: pd.DataFrame) -> None:
    """One image of the test part, put into train under another name as well."""
    cut = splits.supervised(table)
    tested = cut[cut["part"] == "test"].head(1)
    doubled = pd.concat([cut[cut["part"] == "train"].iloc[::40], tested, tested.assign(part="train", group="another")])
    with pytest.raises(DataError, match="are the same picture in two parts") as problem:
        splits.check_separate(doubled, doubled["part"])
    assert str(problem.value).count(tested["image_path"].iloc[0]) == 2
