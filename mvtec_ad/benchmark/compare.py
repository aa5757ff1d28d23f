"""Methods compared on the same images: metrics, paired differences with Holm's correction, defect types, costs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mvtec_ad import artifacts, metrics
from mvtec_ad.artifacts import Artifact
from mvtec_ad.benchmark.result import Result, make_result, threshold_means
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
    """Image ids of the supervised split's test part, on which all methods can be compared; that of the suite's
    classifiers has seed 0."""
    cut = splits.supervised(table, seed=seed)
    return list(cut.loc[cut["part"] == "test", "image_id"])


def trivial(table: pd.DataFrame, *, data_source: str, profile: str = "custom") -> list[Result]:
    """The trivial baselines on the official split of one category, a result each; the distance to the mean has maps."""
    from mvtec_ad.methods.base import Scores
    from mvtec_ad.methods.baselines import IMAGE_SIZE, SIGMA, mean_image, trivial_scores

    official = splits.official(table)
    train, test = (official[official["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    good, images = (loading.load_images(list(rows["image_path"]), IMAGE_SIZE) for rows in (train, test))
    begun = time.perf_counter()
    scores = trivial_scores(good, images)
    seconds = {"fit": 0.0, "score": (time.perf_counter() - begun) / len(scores)}
    maps = {"distance_to_mean": mean_image(good, images, SIGMA).maps}
    masks = loading.load_masks(test, IMAGE_SIZE)
    known = {"train": len(train), "data_source": data_source, "protocol": "official", "profile": profile}
    options = {"image_size": IMAGE_SIZE, "crop": IMAGE_SIZE}
    known |= {"backbone": None, "weights": None, "settings": options, "seconds": seconds, "promises": False}
    by_row = {name: {0: Scores(image_scores, maps.get(name))} for name, image_scores in scores.items()}
    return [make_result("trivial", test, by_seed, {}, masks, row=name, **known) for name, by_seed in by_row.items()]


def measure(result: Result, resamples: int = 1000) -> dict[str, dict[str, Any]]:
    """All metrics of a row on its images; resamples are those of pixel metrics and false alarms.

    As from `metrics.evaluate`, and `false_alarms` at 95 % detection. `f1_max` has `floor`: what calling every image
    defective reaches. Pixel metrics are means over the seeds whose maps were kept: `values` tells how many; they are
    absent without maps or masks.
    """
    labels = result.labels
    measured = metrics.evaluate(labels, result.scores)
    measured["f1_max"]["floor"] = 2 * labels.sum() / float(labels.sum() + len(labels))
    measured["false_alarms"] = metrics.false_alarms_interval(labels, result.scores, resamples=resamples)
    if result.masks is not None and result.maps:
        mapped = [result.seeds.index(seed) for seed in result.maps]
        maps = result.maps.values()
        pixel = metrics.evaluate(labels, result.scores[mapped], maps, result.masks, resamples, result.masked)
        measured |= {name: pixel[name] for name in PIXEL}
    return measured


def by_defect(results: Sequence[Result]) -> pd.DataFrame:
    """Image AUROC of each defect type against all good images, for each row of one category.

    Columns row, defect, images (how many of this type), mean, low, high and seeds. With ten images a type the intervals
    are wide, and there are many of them: a table to find weaknesses in, not winners.

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

    `fit_seconds` of one seed (a share, where seeds share a pass through a backbone), `milliseconds` per image scored,
    likewise; `memory_gb` (10⁹ bytes, peak of the process) and `model_mb` (10⁶ bytes, without a backbone).
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


def costs(results: Sequence[Result], measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, mean, low and high of the image AUROC (of `measured`: row -> `measure`), then those of `cost`."""
    lines = []
    for result in results:
        auroc = measured[result.row]["image_auroc"]
        lines.append({"row": result.row, **{key: auroc[key] for key in ("mean", "low", "high")}, **cost(result)})
    return pd.DataFrame(lines)


def report(result: Result, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Report of a row on the common images with what `measure` said of it, for `published.record` and `tables`."""
    dropped = ("images", "metrics", "thresholds", "trivial", "model_bytes")
    known, labels = {key: value for key, value in result.report.items() if key not in dropped}, result.labels
    if result.good_scores and result.report.get("thresholds"):
        scores = dict(zip(result.seeds, result.scores, strict=True))
        known["thresholds"] = threshold_means(labels, scores, result.good_scores, known["false_alarm_rate"])
    return known | {
        "part": TEST_PART,
        "profile": known.get("profile", "custom"),
        "device": known.get("device") or artifacts.device(),
        "images": {"good": int((labels == 0).sum()), "defective": int(labels.sum())},
        "cost": {key: None if np.isnan(value) else float(value) for key, value in cost(result).items()},
        "metrics": measured,
    }


def save(
    official: Mapping[str, Sequence[Result]],
    common: Mapping[str, Sequence[Result]],
    measured: Mapping[str, Mapping[str, Mapping[str, Any]]],
    differences: Mapping[str, pd.DataFrame],
    *,
    profile: str,
    inputs: Sequence[Artifact] = (),
) -> Path:
    """Write `comparison.zip`: metrics, differences, defect types and costs as tables, and a `report` of each row.

    Args:
        official, common: category -> rows on the official test images, of one data source, and on the common part.
        measured: category -> `official` and `common` -> row -> `measure`.
        differences: category -> `paired`.
        profile, inputs: of the run, and the artifacts that these were made from.
    """
    lines = [
        {"category": category, "images": part, "row": row, "metric": name}
        | {key: values[key] for key in ("mean", "sd", "low", "high")}
        | {"seeds": len(values["values"])}
        for category, parts in measured.items()
        for part, rows in parts.items()
        for row, row_metrics in rows.items()
        for name, values in row_metrics.items()
    ]
    everything = [result for results in common.values() for result in results]
    reports = [report(result, measured[result.category]["common"][result.row]) for result in everything]

    def of_all(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([table.assign(category=category) for category, table in tables.items()])

    files = {
        "metrics.csv": pd.DataFrame(lines),
        "differences.csv": of_all(differences),
        "defect_types.csv": of_all({category: by_defect(results) for category, results in official.items()}),
        "costs.csv": of_all({name: costs(results, measured[name]["official"]) for name, results in official.items()}),
        "reports.json": reports,
    }
    known = {"profile": profile, "data_source": everything[0].data_source, "categories": list(common), "inputs": inputs}
    options = {"rows": sorted({result.row for result in everything}), "split_seed": 0}
    image_auroc = {f"{r['category']} {r['row']}": r["metrics"]["image_auroc"]["mean"] for r in reports}
    return artifacts.save("comparison", files, options=options, seed=0, metrics=image_auroc, **known)


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
        DataError: the rows have other images, two have one name, or there are not two.
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
    pairs = list(combinations(names, 2))
    if 2 * len(pairs) / (resamples + 1) > LEVEL:
        raise SettingsError(f"{resamples} resamples cannot decide {len(pairs)} pairs: use {40 * len(pairs)} or more")
    labels = rows[0].labels
    weights = metrics.resample_weights(labels, resamples)
    values = {row.row: _resampled(row, metric, weights) for row in rows}
    differences = [_difference(values[first], values[second], int(labels.sum())) for first, second in pairs]
    table = pd.concat([pd.DataFrame(pairs, columns=["first", "second"]), pd.DataFrame(differences)], axis=1)
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
        masks, weights = row.masks[row.masked], weights[:, row.masked]
        histograms = [metrics.PixelHistograms.from_maps(maps[row.masked], masks) for maps in row.maps.values()]
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
    """P-values adjusted for their number, (K,) -> (K,) (Holm, Scandinavian Journal of Statistics, 1979).

    The smallest times K, the next times K − 1 and so on, none below one before it, 1 at most. Whoever calls those below
    .05 different is wrong anywhere among the pairs with a probability of 5 % at most.

    Examples:
        >>> holm([0.01, 0.04, 0.03, 0.005])
        array([0.03, 0.06, 0.06, 0.02])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    return np.minimum(raised, 1.0)[np.argsort(order)]


def wins(differences: pd.DataFrame, lower_is_better: bool = False) -> pd.DataFrame:
    """How many rows each one beats and is beaten by, by its interval alone and after Holm's correction.

    Of the table of `paired`; for `false_alarms` lower is better. Rows that beat most come first.

    Examples:
        >>> pair = {"first": ["a"], "second": ["b"], "mean": [-0.1], "differs": [True], "differs_holm": [False]}
        >>> wins(pd.DataFrame(pair)).loc["b"].to_dict()
        {'beats': 1, 'beaten_by': 0, 'beats_holm': 0, 'beaten_by_holm': 0}
    """
    first_wins, counts = (differences["mean"] < 0) == lower_is_better, {}
    better, worse = (differences["first"].where(wins, differences["second"]) for wins in (first_wins, ~first_wins))
    for suffix in ("", "_holm"):
        decided = differences[f"differs{suffix}"]
        counts |= {
            f"beats{suffix}": better[decided].value_counts(),
            f"beaten_by{suffix}": worse[decided].value_counts(),
        }
    names = pd.unique(pd.concat([differences["first"], differences["second"]]))
    table = pd.DataFrame(counts, index=names).fillna(0).astype(int)
    return table.sort_values(["beats_holm", "beats", "beaten_by"], ascending=[False, False, True], kind="stable")
