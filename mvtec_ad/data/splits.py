"""Which images a model may see: the official split, the supervised one, folds and held-out parts.

Groups (views of one item) never straddle two parts. Where parts are cut at random, every category and defect type is
cut in the same shares, and is in every part.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mvtec_ad.data.copies import picture_hashes
from mvtec_ad.errors import DataError


def official(table: pd.DataFrame) -> pd.DataFrame:
    """One-class split: `part` is `train` for good training images and `test` for test images; damaged training images,
    which packages have, are left out."""
    seen = table[(table["split"] == "test") | (table["label"] == 0)]
    return seen.assign(part=seen["split"])


def supervised(
    table: pd.DataFrame, *, seed: int = 0, fractions: tuple[float, float, float] = (0.5, 0.2, 0.3)
) -> pd.DataFrame:
    """Supervised split, with defects in each part, stratified by category and defect type, whole groups at a time.

    In MVTec AD defects exist only in the official test folder, so it is cut into train, validation and test; the
    official train/good images join `train`. Where the official training folder holds defects, as that of packages does,
    the official test images are the test part, and the training folder is cut into train and validation, in the
    proportion of the first two fractions.

    Returns:
        The table with `part` in {`train`, `validation`, `test`}, rows in the order they came in.

    Raises:
        DataError: a group has images of both labels or in two folders, a category lacks good or defective items, or a
            defect type has fewer groups than parts.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise DataError(f"fractions {fractions} must be positive and add up to 1")
    train, validation, test = fractions
    spread = _differing(table, ["category", "split"])
    if len(spread):
        folders = " and in ".join(sorted(spread["category"] + "/" + spread["split"]))
        raise DataError(f"item {spread['group'].iloc[0]} is in {folders}: remove it from all but one")
    part, generator = table["split"].copy(), np.random.default_rng(seed)
    for category, rows in table.groupby("category", sort=True):
        trained, tested = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
        _check_both_labels(tested, f"{category}/test")
        dealt, shares = tested, {"train": train, "validation": validation, "test": test}
        if trained["label"].any():
            _check_both_labels(trained, f"{category}/train")
            dealt, shares = trained, {name: shares[name] / (train + validation) for name in ("train", "validation")}
        part.update(_deal(dealt, shares, generator))
    return table.assign(part=part)


def hold_out(table: pd.DataFrame, share: float, seed: int = 0) -> np.ndarray:
    """A validation part out of a training table, stratified by category and defect type, whole groups at a time.

    Returns:
        (N,) bool, true for images that are held out: this share, in (0, 1), of the items.

    Raises:
        DataError: a group has images of both labels, a category lacks good or defective items, or a defect type has a
            single item.
    """
    if not 0 < share < 1:
        raise DataError(f"share {share} must lie between 0 and 1, for example 0.2")
    _check_classes(table)
    part = _deal(table, {"train": 1 - share, "validation": share}, np.random.default_rng(seed))
    return (part == "validation").to_numpy()


def grouped_folds(table: pd.DataFrame, number: int, seed: int = 0) -> np.ndarray:
    """Cross-validation of a classifier: folds stratified by category and defect type, whole groups at a time.

    Items of one type differ by one at most from fold to fold, and so do all items together.

    Returns:
        (N,) int, the fold of each image: 0 … number−1.

    Raises:
        DataError: fewer than two folds, a group has images of both labels, a category lacks good or defective items, or
            a defect type has fewer items than folds.
    """
    if number < 2:
        raise DataError(f"{number} folds leave nothing to validate on: choose 2 or more")
    _check_classes(table)
    generator = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for name, groups in _strata(table).items():
        if len(groups) < number:
            raise DataError(
                f"{name} has {len(groups)} items, too few for one in each of {number} folds: choose fewer folds, or "
                f"leave {name} out"
            )
        for group in generator.permutation(groups):
            fold_of[group] = len(fold_of) % number
    return table["group"].map(fold_of).to_numpy()


def folds(count: int, number: int, seed: int = 0) -> list[np.ndarray]:
    """Cut the positions 0 … count−1 into folds of nearly equal size, ascending int arrays."""
    if not 2 <= number <= count:
        raise DataError(f"{number} folds of {count} images: choose between 2 and {count}")
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(chunk) for chunk in np.array_split(order, number)]


def check_separate(table: pd.DataFrame, parts: ArrayLike) -> None:
    """Refuse parts that share an item or a picture: what was learnt would be tested on.

    Pictures are compared by content (`copies.content_hash`).

    `parts`, (N,), are those of the images of the table: names, fold numbers, or whether it is held out.

    Raises:
        DataError: a group or a picture lies in two parts; the message names the two files.
    """
    parts = np.asarray(parts)
    if parts.shape != (len(table),):
        raise DataError(f"{len(table)} images need as many parts, not an array of shape {parts.shape}")

    pictures = picture_hashes(list(table["image_path"]))
    for keys, what, way in ((table["group"], "item", "cut by group"), (pictures, "picture", "remove one of them")):
        first: dict[str, int] = {}  # key -> position of the first image that has it
        for position, key in enumerate(keys):
            other = first.setdefault(key, position)
            if parts[other] != parts[position]:
                pair = " and ".join(f"{table['image_path'].iloc[i]} ({parts[i]})" for i in (other, position))
                raise DataError(f"{pair} are the same {what} in two parts: {way}")


def _deal(table: pd.DataFrame, shares: dict[str, float], generator: np.random.Generator) -> pd.Series:
    """The part of each row: the groups of every stratum are shuffled and cut in these shares, none of them empty."""
    part_of: dict[str, str] = {}
    for name, groups in _strata(table).items():
        if len(groups) < len(shares):
            raise DataError(
                f"{name} has {len(groups)} items: a supervised split needs at least {len(shares)}, one each for "
                f"{', '.join(shares)}; add some, or leave {name} out"
            )
        generator.shuffle(groups)
        start = 0
        for position, (part, end) in enumerate(zip(shares, np.cumsum(list(shares.values())), strict=True), start=1):
            later = len(shares) - position  # parts that need an item each
            end = len(groups) if not later else min(max(round(len(groups) * end), start + 1), len(groups) - later)
            part_of |= dict.fromkeys(groups[start:end], part)
            start = end
    return table["group"].map(part_of)


def _strata(table: pd.DataFrame) -> dict[str, list[str]]:
    """`category/defect` -> its groups, both sorted; an item with several kinds of defects counts as the first of them,
    so that it is dealt once."""
    wrong = table[table["label"] != (table["defect"] != "good")]
    if len(wrong):
        row = wrong.iloc[0]
        raise DataError(f"{row['image_id']} has label {row['label']} but is {row['defect']!r}: correct one of the two")
    both = _differing(table, ["label"])
    if len(both):
        group = both["group"].iloc[0]
        raise DataError(f"a group holds good and defective images ({group}): give the two items different groups")
    kind_of: dict[str, tuple[str, str]] = {}
    for group, *kind in zip(table["group"], table["category"], table["defect"], strict=True):
        kind_of[group] = min(kind_of.get(group, tuple(kind)), tuple(kind))
    strata: dict[tuple[str, str], list[str]] = {}
    for group in sorted(kind_of):
        strata.setdefault(kind_of[group], []).append(group)
    return {"/".join(kind): strata[kind] for kind in sorted(strata)}


def _check_classes(table: pd.DataFrame) -> None:
    for category, rows in table.groupby("category"):
        _check_both_labels(rows, str(category))


def _check_both_labels(table: pd.DataFrame, folder: str) -> None:
    for label, word in enumerate(("good", "defective")):
        if not (table["label"] == label).any():
            raise DataError(f"{folder} holds no {word} item: a classifier needs both, so add some or leave it out")


def _differing(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The different values in these columns of the first group that has several."""
    values = table[["group", *columns]].drop_duplicates()
    several = values.loc[values["group"].duplicated(keep=False), "group"]
    return values[values["group"].isin(several[:1])]
