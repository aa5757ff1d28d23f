"""Who really wins? Differences of all pairs of rows, on the same resamples of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mvtec_ad import evaluation
from mvtec_ad.comparison.scored import Scored
from mvtec_ad.errors import DataError, SettingsError

_IMAGE = {
    "image_auroc": evaluation.image_auroc,
    "image_ap": evaluation.average_precision,
    "f1_max": lambda labels, scores: evaluation.f1_max(labels, scores)[0],
    "false_alarms": evaluation.false_alarms_at,
}
_PIXEL = {"pixel_auroc": "auroc", "pixel_ap": "average_precision", "au_pro": "au_pro"}
_LEVEL = 0.05


def paired(
    rows: Sequence[Scored],
    metric: str = "image_auroc",
    masks: Sequence[np.ndarray | None] | None = None,
    resamples: int = 4000,
) -> pd.DataFrame:
    """How much the first of each pair of rows is above the second, over draws of test images that both share.

    A pair's p-value is twice the share of resamples in which the difference is 0 or has the other sign (Efron and
    Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 15), counted so that it is never 0. With k rows there
    are k(k − 1)/2 pairs, and one in twenty excludes 0 by chance; `holm` takes that into account.

    Args:
        rows: of one category, all with the same images in the same order (`only`).
        metric: a key of `measure`. Pixel metrics are means over the seeds whose maps were kept.
        masks: for pixel metrics, those of each row, (N, h, w) bool at the size of its maps; rows without are left out.
        resamples: R. The smallest p-value is 2 / (R + 1), and Holm multiplies it by the number of pairs.

    Returns:
        A row a pair: first, second, mean, low, high (95 %), p, p_holm, differs (0 lies outside of the interval) and
        differs_holm (and is excluded with all pairs in mind). For `false_alarms` less is better.

    Raises:
        DataError: the rows have other images, or two rows have one name.
        SettingsError: the metric is unknown, or too few resamples for this many pairs were asked for.
    """
    if metric not in _IMAGE | _PIXEL:
        raise SettingsError(f"metric {metric!r} is unknown: use one of {', '.join([*_IMAGE, *_PIXEL])}")
    if metric in _PIXEL:
        masks = masks if masks is not None else [None] * len(rows)
        both = [pair for pair in zip(rows, masks, strict=True) if pair[1] is not None and pair[0].maps]
    else:
        both = [(row, None) for row in rows]
    _check_same([row for row, _ in both])
    pairs = list(combinations(range(len(both)), 2))
    if pairs and 2 * len(pairs) / (resamples + 1) > _LEVEL:
        raise SettingsError(f"{resamples} resamples cannot decide {len(pairs)} pairs: use {40 * len(pairs)} or more")
    if not pairs:
        raise DataError(f"rows with {metric}: {len(both)}, and a comparison needs two")
    labels = both[0][0].labels
    weights = evaluation.resample_weights(labels, resamples)
    drawn = [_drawn(row, own, metric, weights) for row, own in both]
    lines = [
        {"first": both[one][0].row, "second": both[other][0].row}
        | _difference(drawn[one], drawn[other], int(labels.sum()))
        for one, other in pairs
    ]
    table = pd.DataFrame(lines)
    table["p_holm"] = holm(table["p"])
    table["differs"] = (table["low"] > 0) | (table["high"] < 0)
    table["differs_holm"] = table["differs"] & (table["p_holm"] < _LEVEL)
    return table


def _check_same(rows: Sequence[Scored]) -> None:
    for row in rows[1:]:
        if list(row.images["image_id"]) != list(rows[0].images["image_id"]):
            raise DataError(f"{row.name} and {rows[0].name} have other images: bring both to common ones with `only`")
    names = [row.row for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two rows are named {name}: give them different names")


def _drawn(row: Scored, masks: np.ndarray | None, metric: str, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """A metric of the test set and of every resample, means over seeds."""
    if metric in _IMAGE:
        values = [_IMAGE[metric](row.labels, scores) for scores in row.scores]
        resampled = [evaluation.resampled_ranking(row.labels, scores, weights)[metric] for scores in row.scores]
    else:
        values = [evaluation.pixel_metrics(maps, masks)[metric] for maps in row.maps.values()]
        histograms = [evaluation.PixelHistograms.from_maps(maps, masks).coarsen() for maps in row.maps.values()]
        resampled = [getattr(one, _PIXEL[metric])(weights=weights) for one in histograms]
    return float(np.mean(values)), np.mean(resampled, axis=0)


def _difference(first: tuple[float, np.ndarray], second: tuple[float, np.ndarray], units: int) -> dict[str, float]:
    found = evaluation.paired_difference(first[1], second[1], first[0], second[0], units)
    gap = first[1] - second[1]
    gap = np.where(np.abs(gap) < 1e-12, 0.0, gap)
    if np.ptp(gap) <= 1e-9:  # resampling knows nothing, and the interval is what could have stayed unseen
        outside = found["low"] > 0 or found["high"] < 0
        return {**found, "p": 2 / (len(gap) + 1) if outside else 1.0}
    side = min((gap <= 0).sum(), (gap >= 0).sum())
    return {**found, "p": min(1.0, 2 * (side + 1) / (len(gap) + 1))}


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values adjusted for their number (Holm, Scandinavian Journal of Statistics, 1979).

    Whoever calls those below .05 different is wrong anywhere among the pairs with a probability of 5 % at most.

    Args:
        p_values: shape `(K,)`, in [0, 1].

    Returns:
        Shape `(K,)`: the smallest times K, the next times K − 1 and so on, none below one before it, 1 at most.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def wins(differences: pd.DataFrame, lower_is_better: bool = False) -> pd.DataFrame:
    """How many rows each one beats and is beaten by, by its interval alone and after Holm's correction.

    Args:
        differences: from `paired`.
        lower_is_better: for `false_alarms`.

    Returns:
        Index: rows; columns beats, beaten_by, beats_holm, beaten_by_holm; those that beat most come first.
    """
    names = list(dict.fromkeys([*differences["first"], *differences["second"]]))
    table = pd.DataFrame(0, index=names, columns=["beats", "beaten_by", "beats_holm", "beaten_by_holm"])
    for line in differences.itertuples():
        better, worse = line.first, line.second
        if (line.mean < 0) != lower_is_better:
            better, worse = worse, better
        for suffix, counts in (("", line.differs), ("_holm", line.differs_holm)):
            table.loc[better, f"beats{suffix}"] += int(counts)
            table.loc[worse, f"beaten_by{suffix}"] += int(counts)
    return table.sort_values(["beats_holm", "beats", "beaten_by"], ascending=[False, False, True], kind="stable")
