"""Every method before the same images, under the same rules: metrics, differences of all pairs, defect types, costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mvtec_ad import metrics
from mvtec_ad.benchmark.result import Result, make_result
from mvtec_ad.data import loading, splits
from mvtec_ad.errors import DataError, SettingsError

TEST_PART = "supervised test"  # the part of a report whose images all methods share
IMAGE = {
    "image_auroc": metrics.image_auroc,
    "image_ap": metrics.average_precision,
    "f1_max": lambda labels, scores: metrics.f1_max(labels, scores)[0],
    "false_alarms": metrics.false_alarms_at,
}
PIXEL = {"pixel_auroc": "auroc", "pixel_ap": "average_precision", "au_pro": "au_pro"}  # and their histograms' methods
STRONGEST = "pixel_z_score"  # of the trivial baselines: on parts that lie still it keeps up with most methods
LEVEL = 0.05


def common_part(table: pd.DataFrame, seed: int = 0) -> list[str]:
    """Image ids of the test part of the supervised split: the images on which every method can be compared.

    Args:
        table: images of one category.
        seed: of the split; the classifiers of the suite know 0.

    Raises:
        DataError: the category cannot be split (`splits.supervised` says why).
    """
    cut = splits.supervised(table, seed=seed)
    return list(cut.loc[cut["part"] == "test", "image_id"])


def trivial(table: pd.DataFrame, *, data_source: str, profile: str = "custom") -> list[Result]:
    """The trivial baselines on the official split, a result each; the distance to the mean image has maps.

    Args:
        table: images of one category.
        data_source: of the images.
        profile: of the run.

    Raises:
        DataError: an image cannot be read.
    """
    from mvtec_ad.methods.base import Scores
    from mvtec_ad.methods.baselines import SIDE, SIGMA, mean_image, trivial_scores

    official = splits.official(table)
    train, test = (official[official["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    good, images = (loading.load_images(list(rows["image_path"]), SIDE) for rows in (train, test))
    begun = time.perf_counter()
    scores = trivial_scores(good, images)
    seconds = {"fit": 0.0, "score": (time.perf_counter() - begun) / len(scores)}
    maps = {"distance_to_mean": mean_image(good, images, SIGMA).maps}
    masks = loading.load_masks(test, SIDE)
    known = {"train": len(train), "data_source": data_source, "protocol": "official", "profile": profile}
    known |= {"backbone": None, "weights": None, "settings": {"image_size": SIDE, "crop": SIDE}, "seconds": seconds}
    return [
        make_result(
            "trivial", test, {0: Scores(image_scores, maps.get(name))}, {}, masks, row=name, promises=False, **known
        )
        for name, image_scores in scores.items()
    ]


def measure(result: Result, resamples: int = 1000) -> dict[str, dict[str, Any]]:
    """All metrics of a row on its images.

    Args:
        result: a row.
        resamples: of the bootstrap of pixel metrics and false alarms.

    Returns:
        As from `metrics.evaluate`, and `false_alarms` at 95 % detection. `f1_max` also has `floor`: what calling
        every image defective reaches. Pixel metrics are means over the seeds whose maps were kept: `values` tells how
        many; they are absent without maps or masks.

    Raises:
        DataError: only one class is present, or masks and maps differ in shape.
    """
    labels = result.labels
    measured = metrics.evaluate(labels, result.scores)
    measured["f1_max"]["floor"] = 2 * labels.sum() / float(labels.sum() + len(labels))
    measured["false_alarms"] = metrics.false_alarms_interval(labels, result.scores, resamples=resamples)
    if result.masks is not None and result.maps:
        mapped = [result.seeds.index(seed) for seed in result.maps]
        pixel = metrics.evaluate(labels, result.scores[mapped], result.maps.values(), result.masks, resamples)
        measured |= {name: pixel[name] for name in PIXEL}
    return measured


def by_defect(results: Sequence[Result]) -> pd.DataFrame:
    """Image AUROC of each defect type against all good images, for each row.

    Args:
        results: of one category.

    Returns:
        Columns row, defect, images (how many of this type), mean, low, high and seeds. With ten images a type the
        intervals are wide, and there are many of them: a table to find weaknesses in, not winners.

    Raises:
        DataError: a row has no good or no defective image.
    """
    lines = []
    for result in results:
        good = result.labels == 0
        if good.all() or not good.any():
            raise DataError(f"{result.name} has no AUROC by defect type: it needs good and defective images")
        for defect in sorted(set(result.table["defect"][~good])):
            rows = (result.table["defect"] == defect).to_numpy() & ~good
            metric = metrics.evaluate(result.labels[good | rows], result.scores[:, good | rows])["image_auroc"]
            line = {"row": result.row, "defect": defect, "images": int(rows.sum())}
            lines.append(line | {key: metric[key] for key in ("mean", "low", "high")} | {"seeds": len(result.seeds)})
    return pd.DataFrame(lines)


def cost(result: Result) -> dict[str, float]:
    """What a row costs; nan where nobody has measured it.

    Returns:
        `fit_seconds` of one seed (a share, where seeds share a pass through a backbone), `milliseconds` per image
        scored, likewise; `memory_gb` (10⁹ bytes, peak of the process) and `model_mb` (10⁶ bytes, without a backbone).
    """
    report, seeds, unknown = result.report, len(result.report["seeds"]), float("nan")
    seconds, images = report.get("seconds", {}), report.get("images", {})
    tested = images.get("good", 0) + images.get("defective", 0)
    return {
        "fit_seconds": seconds.get("fit", unknown) / seeds,
        "milliseconds": 1000 * seconds.get("score", unknown) / (tested * seeds) if tested else unknown,
        "memory_gb": report.get("peak_memory_gb", unknown),
        "model_mb": report.get("model_bytes", unknown) / 1e6,
    }


def report(result: Result, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a row on the common images: plain JSON data for `published.record` and `published.tables`.

    Args:
        result: the row, on the images that were measured.
        measured: from `measure`.
    """
    dropped = ("images", "metrics", "thresholds", "trivial", "false_alarm_rate", "model_bytes")
    known = {key: value for key, value in result.report.items() if key not in dropped}
    labels = result.labels
    return known | {
        "part": TEST_PART,
        "profile": result.profile,
        "device": result.device,
        "images": {"good": int((labels == 0).sum()), "defective": int(labels.sum())},
        "cost": {key: None if np.isnan(value) else float(value) for key, value in cost(result).items()},
        "metrics": measured,
    }


# --- who really wins? -------------------------------------------------------------------------------------------------


def paired(results: Sequence[Result], metric: str = "image_auroc", resamples: int = 4000) -> pd.DataFrame:
    """How much the first of each pair of rows is above the second, over draws of test images that both share.

    A pair's p-value is twice the share of resamples in which the difference is 0 or has the other sign (Efron and
    Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 15), counted so that it is never 0. With k rows there
    are k(k − 1)/2 pairs, and one in twenty excludes 0 by chance; `holm` takes that into account.

    Args:
        results: of one category, all with the same images in the same order (`Result.only`).
        metric: a key of `measure`. Pixel metrics are means over the seeds whose maps were kept, each row at its own
            size; rows without maps or masks are left out.
        resamples: R. The smallest p-value is 2 / (R + 1), and Holm multiplies it by the number of pairs.

    Returns:
        A row a pair: first, second, mean, low, high (95 %), p, p_holm, differs (0 lies outside of the interval) and
        differs_holm (and is excluded with all pairs in mind). For `false_alarms` less is better.

    Raises:
        DataError: the rows have other images, two rows have one name, or there are not two.
        SettingsError: the metric is unknown, or too few resamples for this many pairs were asked for.
    """
    if metric not in IMAGE | PIXEL:
        raise SettingsError(f"metric {metric!r} is unknown: use one of {', '.join([*IMAGE, *PIXEL])}")
    rows = [row for row in results if metric in IMAGE or (row.maps and row.masks is not None)]
    if len(rows) < 2:
        raise DataError(f"rows with {metric}: {len(rows)}, and a comparison needs two")
    names = [row.row for row in rows]
    for row in rows:
        if list(row.table["image_id"]) != list(rows[0].table["image_id"]):
            raise DataError(f"{row.name} and {rows[0].name} have other images: bring both to common ones with `only`")
        if names.count(row.row) > 1:
            raise DataError(f"two rows are named {row.row}: give them different names")
    pairs = list(combinations(range(len(rows)), 2))
    if 2 * len(pairs) / (resamples + 1) > LEVEL:
        raise SettingsError(f"{resamples} resamples cannot decide {len(pairs)} pairs: use {40 * len(pairs)} or more")
    weights = metrics.resample_weights(rows[0].labels, resamples)
    resampled = [_resampled(row, metric, weights) for row in rows]
    lines = []
    for first, second in pairs:
        difference = _difference(resampled[first], resampled[second], int(rows[0].labels.sum()))
        lines.append({"first": names[first], "second": names[second], **difference})
    table = pd.DataFrame(lines)
    table["p_holm"] = holm(table["p"])
    table["differs"] = (table["low"] > 0) | (table["high"] < 0)
    table["differs_holm"] = table["differs"] & (table["p_holm"] < LEVEL)
    return table


def _resampled(row: Result, metric: str, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """A metric of the test set and of every resample, means over seeds."""
    if metric in IMAGE:
        values = [IMAGE[metric](row.labels, scores) for scores in row.scores]
        resampled = [metrics.resampled_ranking(row.labels, scores, weights)[metric] for scores in row.scores]
    else:
        histograms = [metrics.PixelHistograms.from_maps(maps, row.masks) for maps in row.maps.values()]
        values = [getattr(histogram, PIXEL[metric])() for histogram in histograms]
        resampled = [getattr(histogram.coarsen(), PIXEL[metric])(weights=weights) for histogram in histograms]
    return float(np.mean(values)), np.mean(resampled, axis=0)


def _difference(first: tuple[float, np.ndarray], second: tuple[float, np.ndarray], units: int) -> dict[str, float]:
    """Difference of two rows with its interval and its p-value."""
    difference = metrics.paired_difference(first[1], second[1], first[0], second[0], units)
    gap = first[1] - second[1]
    gap = np.where(np.abs(gap) < 1e-12, 0.0, gap)
    if np.ptp(gap) <= 1e-9:  # resampling knows nothing, and the interval is what could have stayed unseen
        outside = difference["low"] > 0 or difference["high"] < 0
        return {**difference, "p": 2 / (len(gap) + 1) if outside else 1.0}
    tail = min((gap <= 0).sum(), (gap >= 0).sum())
    return {**difference, "p": min(1.0, 2 * (tail + 1) / (len(gap) + 1))}


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values adjusted for their number (Holm, Scandinavian Journal of Statistics, 1979).

    Whoever calls those below .05 different is wrong anywhere among the pairs with a probability of 5 % at most.

    Args:
        p_values: shape `(K,)`, in [0, 1].

    Returns:
        Shape `(K,)`: the smallest times K, the next times K − 1 and so on, none below one before it, 1 at most.

    Examples:
        >>> holm([0.01, 0.04, 0.03, 0.005])
        array([0.03, 0.06, 0.06, 0.02])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def wins(differences: pd.DataFrame, lower_is_better: bool = False) -> pd.DataFrame:
    """How many rows each one beats and is beaten by, by its interval alone and after Holm's correction.

    Args:
        differences: from `paired`.
        lower_is_better: for `false_alarms`.

    Returns:
        Index: rows; columns beats, beaten_by, beats_holm, beaten_by_holm; those that beat most come first.

    Examples:
        >>> pair = {"first": ["a"], "second": ["b"], "mean": [-0.1], "differs": [True], "differs_holm": [False]}
        >>> wins(pd.DataFrame(pair)).loc["b"].to_dict()
        {'beats': 1, 'beaten_by': 0, 'beats_holm': 0, 'beaten_by_holm': 0}
    """
    names = list(dict.fromkeys([*differences["first"], *differences["second"]]))
    table = pd.DataFrame(0, index=names, columns=["beats", "beaten_by", "beats_holm", "beaten_by_holm"])
    for line in differences.itertuples():
        better, worse = (line.first, line.second) if (line.mean < 0) == lower_is_better else (line.second, line.first)
        for suffix, counts in (("", line.differs), ("_holm", line.differs_holm)):
            table.loc[better, f"beats{suffix}"] += int(counts)
            table.loc[worse, f"beaten_by{suffix}"] += int(counts)
    return table.sort_values(["beats_holm", "beats", "beaten_by"], ascending=[False, False, True], kind="stable")
