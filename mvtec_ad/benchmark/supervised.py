"""Classifier and inspector measured like every other method: on the test part of the supervised split."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import metrics
from mvtec_ad.benchmark.cells import SUPERVISED
from mvtec_ad.benchmark.result import Result, make_result
from mvtec_ad.benchmark.run import check_seeds, peak_memory_gb, reset_peak_memory
from mvtec_ad.data import loading, splits
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspector.models import Detector
from mvtec_ad.inspector.opinion import Band, chances, choose_band, joined
from mvtec_ad.inspector.stages import heat_of
from mvtec_ad.methods import base, detector_class
from mvtec_ad.methods.baselines import SIDE, trivial_scores
from mvtec_ad.methods.classifier import DefectClassifier
from mvtec_ad.methods.classifier.experiment import train_one
from mvtec_ad.settings import ClassifierSettings, InspectionSettings
from mvtec_ad.training import checkpoints_folder, remove_checkpoints


@dataclass(frozen=True)
class Parts:
    """A product's images with the supervised split: one cut for all methods and seeds, so that they are paired.

    Attributes:
        learned: rows of the parts train and validation.
        test: rows of the test part.
        normal: rows of the official good training images, which one-class detectors are fitted on.
    """

    learned: pd.DataFrame
    test: pd.DataFrame
    normal: pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame) -> Parts:
        """Cut a table of one product."""
        table = splits.supervised(table, seed=0)
        test, normal = table["part"] == "test", (table["split"] == "train") & (table["label"] == 0)
        return cls(*(table[rows].reset_index(drop=True) for rows in (~test, test, normal)))


def run(
    method: str,
    table: pd.DataFrame,
    settings: ClassifierSettings,
    seeds: Sequence[int] = (0,),
    *,
    data_source: str,
    inspection: InspectionSettings | None = None,
    second: base.Detector | None = None,
    false_alarm_rate: float = 0.05,
    row: str | None = None,
) -> Result:
    """Train on the parts train and validation with each seed, score the test part, measure.

    Args:
        method: `classifier` or `inspector`.
        table: images of one product.
        settings: of the classifier.
        seeds: of classifier and second opinion.
        data_source: as `data.index.data_source` tells it.
        inspection: which second opinion, costs and widths; the defaults when None.
        second: the second opinion, which is fitted here; the first preset of its method when None.
        false_alarm_rate: of the second opinion's calibrated threshold.
        row: name of this recipe; the method's when None.

    Returns:
        As `benchmark.run`; the report of an inspector has `second`, `bands`, `verdicts` and `mistakes`: what those of
        classifier and inspector cost on the test part, and their paired difference. The maps are the classifier's
        Grad-CAM; the inspector has none, for maps of two models have no common scale.

    Raises:
        SettingsError: the method is neither, or seeds cannot work.
        DataError: the product cannot be split.
    """
    if method not in SUPERVISED:
        raise SettingsError(f"method {method!r} is neither of {', '.join(SUPERVISED)}")
    seeds, inspection, parts = check_seeds(seeds), inspection or InspectionSettings(), Parts.of(table)
    reset_peak_memory()
    seconds, checkpoints = {"fit": 0.0, "score": 0.0}, []
    scores, good_scores, bands, verdicts = {}, {}, [], []
    for seed in seeds:
        begun = time.perf_counter()
        model, path = train_one(settings, parts.learned, seed=seed, progress=False)
        checkpoints.append(path)
        detector, band = None, Band(_threshold(inspection))
        if method == "inspector":
            kind = detector_class(inspection.second)
            opinion = copy.copy(second) if second else kind.preset(next(iter(kind.PRESETS)))
            opinion.fit(list(parts.normal["image_path"]), seed, checkpoints=checkpoints_folder())
            checkpoints += opinion.checkpoint_files
            detector = Detector(inspection.second, opinion, metrics.calibrated(opinion.good_scores, false_alarm_rate))
            band = band_of(model, detector, parts, inspection)
        fitted = time.perf_counter()
        scores[seed], alone = _scores(model, band, detector, parts.test)
        seconds["fit"] += fitted - begun
        seconds["score"] += time.perf_counter() - fitted
        held = model.validation
        good_scores[seed] = held.loc[held["label"] == 0, "score"].to_numpy() / model.temperature
        bands.append(band.as_dict())
        verdicts.append((alone > band.threshold, scores[seed].image > (0 if detector else band.threshold)))
    known: dict[str, Any] = {"seconds": seconds, "peak_memory_gb": peak_memory_gb(), "weights": model.weights}
    if method == "inspector":
        known |= {"second": inspection.second, "bands": bands}
        known["verdicts"] = [[calls.tolist() for calls in pair] for pair in verdicts]
        known["mistakes"] = cost_difference(parts.test["label"].to_numpy(), verdicts, inspection)
    known |= {"data_source": data_source, "false_alarm_rate": false_alarm_rate, "row": row}
    result = result_of(method, parts, settings, scores, good_scores, **known)
    remove_checkpoints(checkpoints)
    return result


def result_of(
    method: str,
    parts: Parts,
    settings: ClassifierSettings,
    scores: Mapping[int, base.Scores],
    good_scores: Mapping[int, np.ndarray],
    *,
    row: str | None = None,
    **known: Any,
) -> Result:
    """The result of what was scored, with a report without thresholds: nothing is promised here.

    Args:
        method: `classifier` or `inspector`.
        parts: of the product.
        settings: of the classifier.
        scores: of each seed on `parts.test`; pixel metrics are measured where their maps are of whole pictures.
        good_scores: of each seed, on the good validation images.
        row: name of this recipe; the method's when None.
        **known: other keys of `Report`: data_source, weights, false_alarm_rate, seconds, …
    """
    mapped = settings.look == "whole" and all(seed_scores.maps is not None for seed_scores in scores.values())
    small = [loading.load_images(list(rows["image_path"]), SIDE) for rows in (parts.normal, parts.test)]
    labels = parts.test["label"].to_numpy()
    return make_result(
        method,
        parts.test,
        scores,
        good_scores,
        loading.load_masks(parts.test, settings.image_size) if mapped else None,
        row=row,
        promises=False,
        train=len(parts.learned),
        protocol="supervised",
        backbone=settings.architecture,
        settings={name: value for name, value in settings.options().items() if name != "seeds"},
        trivial={name: metrics.image_auroc(labels, values) for name, values in trivial_scores(*small).items()},
        **known,
    )


def band_of(model: DefectClassifier, detector: Detector, parts: Parts, inspection: InspectionSettings) -> Band:
    """The band around the classifier's threshold that is cheapest on the images which chose its checkpoint."""
    held = model.validation
    rows = parts.learned.set_index("image_id").loc[held["image_id"]].reset_index()
    unseen = rows[~rows["image_id"].isin(parts.normal["image_id"])]
    asked = dict(zip(unseen["image_id"], opinions(detector, unseen), strict=True)) if len(unseen) else {}
    fitted = list(parts.normal["image_id"])
    called = chances(list(held["image_id"]), fitted, detector.model.good_scores, asked, detector.threshold)
    return choose_band(
        held["label"],
        held["score"].to_numpy() / model.temperature,
        called,
        _threshold(inspection),
        miss=inspection.miss,
        false_alarm=inspection.false_alarm,
        widths=inspection.widths,
    )


def opinions(detector: Detector, table: pd.DataFrame) -> np.ndarray:
    """(N,) scores of the images of a table."""
    return detector.model.score(list(table["image_path"])).image


def cost_difference(
    labels: np.ndarray,
    verdicts: Sequence[tuple[np.ndarray, np.ndarray]],
    inspection: InspectionSettings,
    resamples: int = 2000,
) -> dict[str, dict[str, float]]:
    """Cost per part of two ways to judge the same images, means over seeds, and the paired difference.

    Args:
        labels: (N,) 0 or 1.
        verdicts: for each seed (N,) bool of the classifier alone, and of the inspector.
        inspection: the costs.
        resamples: bootstrap resamples of images, stratified by label, the same for both ways and all seeds.

    Returns:
        `{"classifier", "inspector", "difference"}`, each `{"mean", "low", "high"}`; the difference is inspector −
        classifier, so that a second opinion that pays is negative. Where no verdict differs the interval is what could
        have stayed unseen: no change in N images (Wilson).

    Examples:
        >>> calls = np.array([False, True])
        >>> cost_difference(np.array([0, 1]), [(calls, ~calls)], InspectionSettings())["inspector"]["mean"]
        5.5
    """
    labels = np.asarray(labels, dtype=bool)

    def costs(called: np.ndarray) -> np.ndarray:
        return np.where(labels, inspection.miss * ~called, inspection.false_alarm * called)

    alone, both = (np.mean([costs(pair[who]) for pair in verdicts], axis=0) for who in (0, 1))
    weights = metrics.resample_weights(labels.astype(int), resamples) / len(labels)
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


def _threshold(inspection: InspectionSettings) -> float:
    """On calibrated logits."""
    return metrics.bayes_threshold(inspection.miss, inspection.false_alarm)


def _scores(
    model: DefectClassifier, band: Band, detector: Detector | None, table: pd.DataFrame
) -> tuple[base.Scores, np.ndarray]:
    """Scores of the inspector, or of the classifier where there is no second opinion; and its calibrated logits."""
    cuts, _ = model.cut(table)
    logits = model.logits(cuts).astype(np.float64) / model.temperature
    if detector is None:
        return base.Scores(logits.astype(np.float32), heat_of(model, cuts)), logits
    unsure = np.flatnonzero(band.unsure(logits))
    asked = dict(zip(unsure, opinions(detector, table.iloc[unsure]), strict=True)) if len(unsure) else {}
    scores = [joined(logit, band, asked.get(n), detector.threshold) for n, logit in enumerate(logits)]
    return base.Scores(np.array(scores, np.float32)), logits
