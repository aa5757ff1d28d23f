"""Splits: nothing a model learns from is tested on, whatever is cut."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

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
