"""Which images a model may see: the official split and the supervised one.

A split adds one column, `part`, to the table of images. Groups (views of one item) never straddle two parts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvtec_ad.errors import DataError


def official(table: pd.DataFrame) -> pd.DataFrame:
    """One-class split: `part` is `train` for good training images and `test` for test images; damaged training images,
    which packages have, are left out."""
    seen = table[(table["split"] == "test") | (table["label"] == 0)]
    return seen.assign(part=seen["split"])


def supervised(
    table: pd.DataFrame, *, seed: int = 0, fractions: tuple[float, float, float] = (0.5, 0.2, 0.3)
) -> pd.DataFrame:
    """Supervised split: the official test folder cut into train, validation and test.

    Defects exist only in the official test folder, so it is cut, stratified by category and defect type, whole
    groups at a time. The official train/good images join `train`.

    Args:
        table: table of images.
        seed: decides which group goes where.
        fractions: shares of train, validation and test; they add up to 1.

    Returns:
        The table with `part` in {`train`, `validation`, `test`}, rows in the order they came in.

    Raises:
        DataError: a group has images of both labels, or a defect type has fewer groups than parts.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise DataError(f"fractions {fractions} must be positive and add up to 1")
    part = pd.Series("train", index=table.index)
    tested = table[table["split"] == "test"]
    if (tested.groupby("group")["label"].nunique() > 1).any():
        raise DataError("a group holds good and defective images: give the two items different groups")
    # An item with several kinds of defects counts as the first of them, so that it is dealt once.
    kind = tested.groupby("group")["defect"].transform("min")
    generator = np.random.default_rng(seed)
    for (category, defect), rows in tested.groupby(["category", kind], sort=True):
        groups = np.array(sorted(rows["group"].unique()))
        if len(groups) < 3:
            raise DataError(f"{category}/{defect} has {len(groups)} items: a supervised split needs at least 3")
        generator.shuffle(groups)
        first, second = _cuts(len(groups), fractions)
        names = dict.fromkeys(groups[:first], "train") | dict.fromkeys(groups[first:second], "validation")
        part[rows.index] = rows["group"].map(names).fillna("test")
    return table.assign(part=part)


def _cuts(count: int, fractions: tuple[float, float, float]) -> tuple[int, int]:
    """Two cuts through `count` items, each part at least one item."""
    first = min(max(round(count * fractions[0]), 1), count - 2)
    second = min(max(round(count * (fractions[0] + fractions[1])), first + 1), count - 1)
    return first, second


def folds(count: int, number: int, seed: int = 0) -> list[np.ndarray]:
    """Cut `count` positions into `number` folds of nearly equal size, for scores of images a model was not fitted on.

    Returns:
        A list of int arrays that together hold 0 … count−1 once each.
    """
    if not 2 <= number <= count:
        raise DataError(f"{number} folds of {count} images: choose between 2 and {count}")
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(chunk) for chunk in np.array_split(order, number)]
