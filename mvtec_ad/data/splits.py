"""Which images a model may see: the official split, the supervised one, folds and held-out parts.

Groups (views of one item) never straddle two parts. Where parts are cut at random, every category and defect type is
cut in the same shares, and is in every part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mvtec_ad.data.decoding import read_image
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

    Args:
        table: table of images.
        seed: decides which group goes where.
        fractions: shares of train, validation and test; they add up to 1.

    Returns:
        The table with `part` in {`train`, `validation`, `test`}, rows in the order they came in.

    Raises:
        DataError: a group has images of both labels or in two folders, a category lacks good or defective items, or a
            defect type has fewer groups than parts.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise DataError(f"fractions {fractions} must be positive and add up to 1")
    train, validation, test = fractions
    _check_places(table)
    part = table["split"].copy()
    generator = np.random.default_rng(seed)
    for category, rows in table.groupby("category", sort=True):
        trained, tested = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
        _check_both_labels(tested, f"{category}/test")
        if trained["label"].any():
            _check_both_labels(trained, f"{category}/train")
            shares = {"train": train / (train + validation), "validation": validation / (train + validation)}
            part.update(_deal(trained, shares, generator))
        else:
            part.update(_deal(tested, {"train": train, "validation": validation, "test": test}, generator))
    return table.assign(part=part)


def hold_out(table: pd.DataFrame, share: float, seed: int = 0) -> np.ndarray:
    """A validation part out of a training table, stratified by category and defect type, whole groups at a time.

    Args:
        table: table of images, N rows.
        share: of the items that is held out, in (0, 1).
        seed: decides which.

    Returns:
        (N,) bool, true for images that are held out.

    Raises:
        DataError: the share is none, a group has images of both labels, a category lacks good or defective items, or a
            defect type has a single item.
    """
    if not 0 < share < 1:
        raise DataError(f"share {share} must lie between 0 and 1, for example 0.2")
    _check_classes(table)
    part = _deal(table, {"train": 1 - share, "validation": share}, np.random.default_rng(seed))
    return (part == "validation").to_numpy()


def grouped_folds(table: pd.DataFrame, number: int, seed: int = 0) -> np.ndarray:
    """Cross-validation of a classifier: folds stratified by category and defect type, whole groups at a time.

    Items of one type differ by one at most from fold to fold, and so do all items together.

    Args:
        table: table of images, N rows.
        number: of folds.
        seed: decides which group goes where.

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
    """Cut `count` positions into `number` folds of nearly equal size, for scores of images a model was not fitted on.

    Returns:
        A list of int arrays that together hold 0 … count−1 once each.
    """
    if not 2 <= number <= count:
        raise DataError(f"{number} folds of {count} images: choose between 2 and {count}")
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(chunk) for chunk in np.array_split(order, number)]


def check_separate(table: pd.DataFrame, parts: ArrayLike) -> None:
    """Refuse parts that share an item or a picture: what was learnt would be tested on.

    Pictures are compared by the SHA-256 of their decoded pixels: a copy that was renamed, saved in another lossless
    format or given other metadata has other bytes, but a model sees the same picture.

    Args:
        table: table of images, N rows.
        parts: (N,), the part of each image: names, fold numbers, or whether it is held out.

    Raises:
        DataError: a group or a picture lies in two parts; the message names the two files.
    """
    parts = np.asarray(parts)
    if parts.shape != (len(table),):
        raise DataError(f"{len(table)} images need as many parts, not an array of shape {parts.shape}")
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(_pixel_hash, table["image_path"]))
    for keys, what, way in ((table["group"], "item", "cut by group"), (pictures, "picture", "remove one of them")):
        pair = _pair_in_two_parts(keys, parts)
        if pair:
            first, second = table["image_path"].iloc[list(pair)]
            raise DataError(
                f"{first} ({parts[pair[0]]}) and {second} ({parts[pair[1]]}) are the same {what} in two parts: {way}"
            )


def _pixel_hash(path: str) -> str:
    pixels = read_image(path)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _pair_in_two_parts(keys: Iterable[str], parts: np.ndarray) -> tuple[int, int] | None:
    """Positions of two images that have one key but not one part."""
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        known = first.setdefault(key, position)
        if parts[known] != parts[position]:
            return known, position
    return None


def _deal(table: pd.DataFrame, shares: dict[str, float], generator: np.random.Generator) -> pd.Series:
    """The part of each row: the groups of every stratum are shuffled and cut in these shares."""
    part_of: dict[str, str] = {}
    for name, groups in _strata(table).items():
        if len(groups) < len(shares):
            raise DataError(
                f"{name} has {len(groups)} items: a supervised split needs at least {len(shares)}, one each for "
                f"{', '.join(shares)}; add some, or leave {name} out"
            )
        generator.shuffle(groups)
        cuts = _cuts(len(groups), list(shares.values()))
        for part, start, end in zip(shares, cuts, cuts[1:], strict=False):
            part_of |= dict.fromkeys(groups[start:end], part)
    return table["group"].map(part_of)


def _cuts(count: int, shares: list[float]) -> list[int]:
    """Where the parts of `count` items begin and end, from 0 to `count`; each has at least one item."""
    cuts = [0]
    for position, end in enumerate(np.cumsum(shares)[:-1], start=1):
        cuts.append(min(max(round(count * end), cuts[-1] + 1), count - len(shares) + position))
    return [*cuts, count]


def _strata(table: pd.DataFrame) -> dict[str, list[str]]:
    """`category/defect` -> its groups, both sorted; an item with several kinds of defects counts as the first of them,
    so that it is dealt once.

    Raises:
        DataError: a label disagrees with its defect type, or a group has images of both labels.
    """
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


def _check_both_labels(table: pd.DataFrame, place: str) -> None:
    for label, word in enumerate(("good", "defective")):
        if not (table["label"] == label).any():
            raise DataError(f"{place} holds no {word} item: a classifier needs both, so add some or leave it out")


def _check_places(table: pd.DataFrame) -> None:
    """An item lies in one category, and there in train or in test."""
    spread = _differing(table, ["category", "split"])
    if len(spread):
        group = spread["group"].iloc[0]
        own = spread[spread["group"] == group]
        listed = " and in ".join(sorted(own["category"] + "/" + own["split"]))
        raise DataError(f"item {group} is in {listed}: remove it from all but one")


def _differing(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The different values in these columns of all groups that have several."""
    found = table[["group", *columns]].drop_duplicates()
    return found[found["group"].duplicated(keep=False)]
