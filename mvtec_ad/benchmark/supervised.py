"""Classifier, inspector and segmentation measured like every other method: on the test part of the supervised split."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import metrics
from mvtec_ad.benchmark.cells import LABELLED
from mvtec_ad.benchmark.result import Result, make_result
from mvtec_ad.benchmark.run import check_seeds, peak_memory_gb, reset_peak_memory
from mvtec_ad.data import loading, splits
from mvtec_ad.data.copies import image_notes, picture_hashes
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspection.inspector import grad_cam_maps
from mvtec_ad.inspection.products import InspectionOptions
from mvtec_ad.inspection.second_opinion import (
    CalibratedDetector,
    RejectBand,
    alarm_probabilities,
    choose_reject_band,
    combined_score,
)
from mvtec_ad.methods import base, detector_class
from mvtec_ad.methods.baselines import IMAGE_SIZE, trivial_scores
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.segmentation import Segmentation, overlap
from mvtec_ad.training import checkpoints_folder, remove_checkpoints


@dataclass(frozen=True)
class Parts:
    """A product's images with the supervised split: one cut for all methods and seeds, so that they are paired."""

    learned: pd.DataFrame  # of the parts train and validation
    test: pd.DataFrame
    normal: pd.DataFrame  # official good training images, which one-class detectors are fitted on

    @classmethod
    def of(cls, table: pd.DataFrame) -> Parts:
        """Cut a table of one product."""
        table = splits.supervised(table, seed=0)
        test, normal = table["part"] == "test", (table["split"] == "train") & (table["label"] == 0)
        return cls(*(table[rows].reset_index(drop=True) for rows in (~test, test, normal)))


def run(
    method: str,
    table: pd.DataFrame,
    classifier: Classifier | Segmentation,
    seeds: Sequence[int] = (0,),
    *,
    data_source: str,
    inspection: InspectionOptions | None = None,
    second: base.Detector | None = None,
    false_alarm_rate: float = 0.05,
    row: str | None = None,
) -> Result:
    """Train on the parts train and validation with each seed, score the test part, measure.

    Args:
        method: `classifier`, `inspector` or `segmentation`.
        classifier: whose options are taken, those of a `Segmentation` where that is measured; not fitted itself.
        inspection: which second opinion, costs and widths; the defaults when None.
        second: the second opinion, which is fitted here; the first preset of its method when None.
        false_alarm_rate: of the second opinion's calibrated threshold.
        table, seeds, data_source, row: as in `benchmark.run`.

    Returns:
        As `benchmark.run`; the report of an inspector has `second`, `bands`, `verdicts` and `mistakes`: what those of
        classifier and inspector cost on the test part, and their paired difference. The maps are the classifier's
        Grad-CAM; the inspector has none, for maps of two models have no common scale.

    Raises:
        SettingsError: the method is none of these, or seeds cannot work.
        DataError: the product cannot be split.
    """
    if method not in LABELLED:
        raise SettingsError(f"method {method!r} is neither of {', '.join(LABELLED)}")
    if method == "segmentation":
        return run_segmentation(classifier, table, seeds, data_source, false_alarm_rate, row)
    seeds, inspection, parts = check_seeds(seeds), inspection or InspectionOptions(), Parts.of(table)
    threshold = metrics.bayes_threshold(inspection.miss, inspection.false_alarm)  # on calibrated logits
    reset_peak_memory()
    seconds, checkpoints = {"fit": 0.0, "score": 0.0}, []
    scores, good_scores, reject_bands, verdicts = {}, {}, [], []
    for seed in seeds:
        begun = time.perf_counter()
        model = replace(classifier).fit(parts.learned, seed, checkpoints=checkpoints_folder())
        checkpoints += model.checkpoint_files
        detector, reject_band = None, RejectBand(threshold)
        if method == "inspector":
            kind = detector_class(inspection.second)
            one_class = copy.copy(second) if second else kind.preset(next(iter(kind.PRESETS)))
            one_class.fit(list(parts.normal["image_path"]), seed, checkpoints=checkpoints_folder())
            checkpoints += one_class.checkpoint_files
            detector = CalibratedDetector(one_class, metrics.calibrated(one_class.good_scores, false_alarm_rate))
            reject_band = reject_band_of(model, detector, parts, inspection)
        fitted = time.perf_counter()
        scores[seed], alone = _scores(model, reject_band, detector, parts.test)
        seconds["fit"] += fitted - begun
        seconds["score"] += time.perf_counter() - fitted
        held = model.validation
        good_scores[seed] = held.loc[held["label"] == 0, "score"].to_numpy() / model.temperature
        reject_bands.append(reject_band.as_dict())
        verdicts.append((alone > threshold, scores[seed].image > (0 if detector else threshold)))
    known: dict[str, Any] = {"seconds": seconds, "peak_memory_gb": peak_memory_gb(), "weights": model.weights_name}
    if method == "inspector":
        known |= {"second": inspection.second, "bands": reject_bands}
        known["verdicts"] = [[calls.tolist() for calls in pair] for pair in verdicts]
        known["mistakes"] = cost_difference(parts.test["label"].to_numpy(), verdicts, inspection)
    known |= {"notes": image_notes(table, picture_hashes(list(table["image_path"])))}
    known |= {"data_source": data_source, "false_alarm_rate": false_alarm_rate, "row": row}
    result = result_of(method, parts, classifier, scores, good_scores, **known)
    remove_checkpoints(checkpoints)
    return result


def run_segmentation(
    segmentation: Segmentation,
    table: pd.DataFrame,
    seeds: Sequence[int],
    data_source: str,
    false_alarm_rate: float = 0.05,
    row: str | None = None,
) -> Result:
    """As `run`; its maps are its own, and its threshold promises. The metrics have `dice` and `iou` too.

    These are of the pixels above the level that held-out defects chose: means over the defective test images with
    masks, with bootstrapped intervals.
    """
    seeds, parts = check_seeds(seeds), Parts.of(table)
    masks = loading.load_masks(parts.test, segmentation.image_size, segmentation.crop)
    defective = np.flatnonzero((parts.test["label"] == 1) & loading.masked(parts.test))
    reset_peak_memory()
    seconds, scores, good_scores = {"fit": 0.0, "score": 0.0}, {}, {}
    pool: dict[str, Any] = {}  # views of the images, which the seeds share
    overlaps, checkpoints, detectors = [], [], []
    for seed in seeds:
        begun = time.perf_counter()
        model = replace(segmentation).fit(parts.learned, seed, pool=pool, checkpoints=checkpoints_folder())
        fitted = time.perf_counter()
        scores[seed], good_scores[seed] = model.score(list(parts.test["image_path"])), model.good_scores
        seconds["fit"] += fitted - begun
        seconds["score"] += time.perf_counter() - fitted
        if len(defective):
            overlaps.append(overlap(scores[seed].maps[defective] > model.level, masks[defective]))
        checkpoints += model.checkpoint_files
        detectors = detectors or [model]  # the first may be kept
    known: dict[str, Any] = {"seconds": seconds, "peak_memory_gb": peak_memory_gb(), "weights": model.encoder}
    known["detectors"] = detectors
    known |= {"notes": image_notes(table, picture_hashes(list(table["image_path"])))}
    known |= {"data_source": data_source, "false_alarm_rate": false_alarm_rate, "row": row}
    result = result_of("segmentation", parts, segmentation, scores, good_scores, promises=True, **known)
    if len(defective):
        weights = metrics.resample_weights(np.ones(len(defective), int)) / len(defective)
        for name, values in zip(("dice", "iou"), np.swapaxes(overlaps, 0, 1), strict=True):  # (seeds, defects)
            by_seed, mean = values.mean(1).tolist(), float(values.mean())
            low, high = metrics.interval(weights @ values.mean(0), mean, len(defective))
            spread = float(np.std(by_seed, ddof=1)) if len(seeds) > 1 else 0.0
            metric = {"mean": mean, "sd": spread, "low": low, "high": high, "values": by_seed}
            result.report["metrics"][name] = metric
    remove_checkpoints(checkpoints)
    return result


def result_of(
    method: str,
    parts: Parts,
    classifier: Classifier | Segmentation,
    scores: Mapping[int, base.Scores],
    good_scores: Mapping[int, np.ndarray],
    **known: Any,
) -> Result:
    """The result of what was scored, with a report without thresholds, unless it is told that something is promised.

    Args:
        method: `classifier`, `inspector` or `segmentation`.
        parts, classifier: of the product, and whose options were taken.
        scores: of each seed on `parts.test`; pixel metrics are measured where their maps are of whole pictures.
        good_scores: of each seed, on the good validation images.
        **known: other keys of `Report`: data_source, weights, false_alarm_rate, seconds, …
    """
    mapped = getattr(classifier, "roi", "whole") == "whole" and all(
        seed_scores.maps is not None for seed_scores in scores.values()
    )
    small = [loading.load_images(list(rows["image_path"]), IMAGE_SIZE) for rows in (parts.normal, parts.test)]
    trivial = {name: metrics.image_auroc(parts.test["label"], v) for name, v in trivial_scores(*small).items()}
    shared = {"train": len(parts.learned), "protocol": "supervised", "backbone": classifier.backbone}
    shared |= {"settings": classifier.options(), "trivial": trivial, "promises": False}
    seen = classifier.image_size, getattr(classifier, "crop", None)
    masks = loading.load_masks(parts.test, *seen) if mapped else None
    return make_result(method, parts.test, scores, good_scores, masks, **{**shared, **known})


def reject_band_of(
    model: Classifier, detector: CalibratedDetector, parts: Parts, inspection: InspectionOptions
) -> RejectBand:
    """The band around the classifier's threshold that is cheapest on the images which chose its checkpoint."""
    held = model.validation
    rows = parts.learned.set_index("image_id").loc[held["image_id"]].reset_index()
    unseen = rows[~rows["image_id"].isin(parts.normal["image_id"])]
    scores = dict(zip(unseen["image_id"], second_scores(detector, unseen), strict=True)) if len(unseen) else {}
    fitted, good_scores = list(parts.normal["image_id"]), detector.detector.good_scores
    called = alarm_probabilities(list(held["image_id"]), fitted, good_scores, scores, detector.threshold)
    logits = held["score"].to_numpy() / model.temperature
    threshold = metrics.bayes_threshold(inspection.miss, inspection.false_alarm)  # on calibrated logits
    costs = {"miss": inspection.miss, "false_alarm": inspection.false_alarm, "widths": inspection.widths}
    return choose_reject_band(held["label"], logits, called, threshold, **costs)


def second_scores(detector: CalibratedDetector, table: pd.DataFrame) -> np.ndarray:
    """(N,) scores of the second opinion of the images of a table."""
    return detector.detector.score(list(table["image_path"])).image


def cost_difference(
    labels: np.ndarray, verdicts: Sequence[tuple[np.ndarray, np.ndarray]], inspection: InspectionOptions
) -> dict[str, dict[str, float]]:
    """Cost per part of two ways to judge the same images, means over seeds, and the paired difference.

    Args:
        labels: (N,) 0 or 1.
        verdicts: for each seed (N,) bool of the classifier alone, and of the inspector.
        inspection: the costs.

    Returns:
        `{"classifier", "inspector", "difference"}`, each `{"mean", "low", "high"}`; the difference is inspector −
        classifier, so that a second opinion that pays is negative. The resamples of images, stratified by label, are
        the same for both ways and all seeds. Where no verdict differs the interval is what could have stayed unseen: no
        change in N images (Wilson).

    Examples:
        >>> calls = np.array([False, True])
        >>> cost_difference(np.array([0, 1]), [(calls, ~calls)], InspectionOptions())["inspector"]["mean"]
        5.5
    """
    labels = np.asarray(labels, dtype=bool)

    def costs(called: np.ndarray) -> np.ndarray:
        return np.where(labels, inspection.miss * ~called, inspection.false_alarm * called)

    alone, both = (np.mean([costs(pair[who]) for pair in verdicts], axis=0) for who in (0, 1))
    weights = metrics.resample_weights(labels.astype(int), 2000) / len(labels)
    intervals = {}
    for name, values in (("classifier", alone), ("inspector", both), ("difference", both - alone)):
        mean, resampled = float(values.mean()), weights @ values
        low, high = np.quantile(resampled, [0.025, 0.975])
        if high - low < 1e-12:  # nothing varied in the sample
            unseen = (1 - metrics.wilson(1.0, len(labels))[0]) * max(inspection.miss, inspection.false_alarm)
            low, high = mean - unseen, mean + unseen
        floor = -np.inf if name == "difference" else 0.0
        intervals[name] = {"mean": mean, "low": float(max(min(low, mean), floor)), "high": float(max(high, mean))}
    return intervals


def _scores(
    model: Classifier, reject_band: RejectBand, detector: CalibratedDetector | None, table: pd.DataFrame
) -> tuple[base.Scores, np.ndarray]:
    """Scores of the inspector, or of the classifier where there is no second opinion; and its calibrated logits."""
    cuts, _ = model.cut(table)
    logits = model.logits(cuts).astype(np.float64) / model.temperature
    if detector is None:
        return base.Scores(logits.astype(np.float32), grad_cam_maps(model, cuts)), logits
    unsure = np.flatnonzero(reject_band.unsure(logits))
    asked = dict(zip(unsure, second_scores(detector, table.iloc[unsure]), strict=True)) if len(unsure) else {}
    scores = [combined_score(logit, reject_band, asked.get(n), detector.threshold) for n, logit in enumerate(logits)]
    return base.Scores(np.array(scores, np.float32)), logits
