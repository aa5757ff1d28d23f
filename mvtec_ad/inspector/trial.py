"""Classifier and inspector measured like every other method: on the test part of the supervised split."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import evaluation
from mvtec_ad.data import loading, splits
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspector.models import Detector
from mvtec_ad.inspector.opinion import Band, chances, choose_band, joined
from mvtec_ad.inspector.stages import heat_of
from mvtec_ad.methods import module_of
from mvtec_ad.methods.classifier import DefectClassifier
from mvtec_ad.methods.classifier.experiment import train_one
from mvtec_ad.methods.experiment import Experiment, peak_memory_gb
from mvtec_ad.methods.scores import Scores, Trial
from mvtec_ad.methods.trivial import SIDE, trivial_scores
from mvtec_ad.settings import ClassifierSettings, InspectionSettings, as_dict, default_settings
from mvtec_ad.training import checkpoint_path

METHODS = ("classifier", "inspector")


@dataclass(frozen=True)
class Parts:
    """A product's images with the supervised split: one cut for all methods and seeds, so that they are paired.

    Attributes:
        learned: rows of the parts train and validation.
        test: rows of the test part.
        normal: rows of the official good training images, which unsupervised models are fitted on.
    """

    learned: pd.DataFrame
    test: pd.DataFrame
    normal: pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame) -> Parts:
        """Cut a table of one product."""
        table = splits.supervised(table, seed=0)
        rows = table["part"] == "test", (table["split"] == "train") & (table["label"] == 0)
        learned, test, normal = (table[own].reset_index(drop=True) for own in (~rows[0], *rows))
        return cls(learned, test, normal)


def run(
    method: str,
    table: pd.DataFrame,
    settings: ClassifierSettings,
    *,
    data_source: str,
    inspection: InspectionSettings | None = None,
    second: Any = None,
    false_alarm_rate: float = 0.05,
) -> Experiment:
    """Train on the parts train and validation, score the test part, measure.

    Args:
        method: `classifier` or `inspector`.
        table: images of one product.
        settings: of the classifier; each of its seeds is one trial.
        data_source: as `data.index.data_source` tells it.
        inspection: which second opinion, costs and widths; the defaults when None.
        second: settings of the second opinion, whose seed is the trial's; those of its first preset when None.
        false_alarm_rate: of the second opinion's calibrated threshold.

    Returns:
        As `methods.experiment.run`; its report has `protocol`, and for the inspector `cost`: of classifier and
        inspector on the test part and their paired difference. The maps are the classifier's Grad-CAM; the inspector
        has none, for maps of two models have no common scale.

    Raises:
        SettingsError: the method is neither.
        DataError: the product cannot be split.
    """
    if method not in METHODS:
        raise SettingsError(f"method {method!r} is neither of {', '.join(METHODS)}")
    inspection = inspection or InspectionSettings()
    parts = Parts.of(table)
    trials, bands, verdicts, kept = [], [], [], []
    for seed in settings.seeds:
        begun = time.perf_counter()
        model, path = train_one(replace(settings, seeds=(seed,)), parts.learned, seed=seed, progress=False)
        kept.append(path)
        detector, band = None, Band(_threshold(inspection))
        if method == "inspector":
            detector, path = _detector(inspection.second, second, seed, parts.normal, false_alarm_rate)
            band = band_of(model, detector, parts, inspection)
            kept.append(path)
        fitted = time.perf_counter()
        scores, alone = _scores(model, band, detector, parts.test, maps=method == "classifier")
        good = model.validation.loc[model.validation["label"] == 0, "score"].to_numpy() / model.temperature
        trials.append(Trial(seed, model, good, scores, fitted - begun, time.perf_counter() - fitted))
        bands.append(band.as_dict())
        verdicts.append((alone > band.threshold, scores.image > (0 if detector else band.threshold)))
    for path in kept:
        path.unlink(missing_ok=True)
    measured = report(method, parts, settings, trials, false_alarm_rate) | {"data_source": data_source}
    if method == "inspector":
        measured |= {
            "second": inspection.second,
            "bands": bands,
            "cost": cost_difference(parts.test["label"].to_numpy(), verdicts, inspection),
            "verdicts": [[own.tolist() for own in pair] for pair in verdicts],
        }
    images = loading.load_images(list(parts.test["image_path"]), settings.image_size)
    masks = loading.load_masks(parts.test, settings.image_size)
    return Experiment(measured, parts.test, images, masks, trials)


def band_of(model: DefectClassifier, detector: Detector, parts: Parts, inspection: InspectionSettings) -> Band:
    """The band around the classifier's threshold that is cheapest on the images which chose its checkpoint."""
    held = model.validation
    rows = parts.learned.set_index("image_id").loc[held["image_id"]].reset_index()
    unseen = rows[~rows["image_id"].isin(parts.normal["image_id"])]
    asked = dict(zip(unseen["image_id"], opinions(detector, unseen), strict=True)) if len(unseen) else {}
    called = chances(
        list(held["image_id"]), list(parts.normal["image_id"]), detector.model.good_scores, asked, detector.threshold
    )
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
    settings = detector.model.settings
    return detector.model.score(
        loading.load_images(list(table["image_path"]), settings.image_size, settings.crop)
    ).image


def cost_difference(
    labels: np.ndarray,
    verdicts: list[tuple[np.ndarray, np.ndarray]],
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
    """
    labels = np.asarray(labels, dtype=bool)

    def costs(called: np.ndarray) -> np.ndarray:
        return np.where(labels, inspection.miss * ~called, inspection.false_alarm * called)

    alone, both = (np.mean([costs(own[way]) for own in verdicts], axis=0) for way in (0, 1))
    weights = evaluation.resample_weights(labels.astype(int), resamples) / len(labels)
    found = {}
    for name, values in (("classifier", alone), ("inspector", both), ("difference", both - alone)):
        mean, drawn = float(values.mean()), weights @ values
        low, high = np.quantile(drawn, [0.025, 0.975])
        if high - low < 1e-12:  # nothing varied in the sample
            unseen = (1 - evaluation.wilson(1.0, len(labels))[0]) * max(inspection.miss, inspection.false_alarm)
            low, high = mean - unseen, mean + unseen
        floor = -np.inf if name == "difference" else 0.0
        found[name] = {"mean": mean, "low": float(max(min(low, mean), floor)), "high": float(max(high, mean))}
    return found


def _threshold(inspection: InspectionSettings) -> float:
    """On calibrated logits."""
    return evaluation.bayes_threshold(inspection.miss, inspection.false_alarm)


def _detector(method: str, settings: Any, seed: int, normal: pd.DataFrame, rate: float) -> tuple[Detector, Path]:
    settings = replace(settings or default_settings(method), seeds=(seed,))
    images = loading.load_images(list(normal["image_path"]), settings.image_size, settings.crop)
    path = checkpoint_path(f"second-{method}", as_dict(settings), images)
    model = module_of(method).fit(settings, images, checkpoint=path, progress=False)
    return Detector(method, model, evaluation.calibrated(model.good_scores, rate)), path


def _scores(
    model: DefectClassifier, band: Band, detector: Detector | None, table: pd.DataFrame, maps: bool
) -> tuple[Scores, np.ndarray]:
    """Scores of the way that is measured, and the classifier's calibrated logits."""
    cuts, _ = model.cut(table)
    logits = model.logits(cuts).astype(np.float64) / model.temperature
    if detector is None:
        return Scores(logits.astype(np.float32), heat_of(model, cuts) if maps else None), logits
    unsure = band.unsure(logits)
    asked = dict(zip(np.flatnonzero(unsure), opinions(detector, table[unsure]), strict=True)) if unsure.any() else {}
    scores = [joined(logit, band, asked.get(n), detector.threshold) for n, logit in enumerate(logits)]
    return Scores(np.array(scores, np.float32)), logits


def report(method: str, parts: Parts, settings: ClassifierSettings, trials: list[Trial], rate: float) -> dict[str, Any]:
    """A report in the shape of that of `methods.experiment.run`, without thresholds: nothing is promised here.

    Args:
        method: `classifier` or `inspector`.
        parts: of the product.
        settings: of the classifier.
        trials: scored on `parts.test`; pixel metrics are measured where they have maps of whole pictures.
        rate: of false alarms, that the second opinion promises.
    """
    labels = parts.test["label"].to_numpy()
    maps = [trial.scores.maps for trial in trials]
    whole = settings.look == "whole"
    masks = loading.load_masks(parts.test, settings.image_size) if whole and maps[0] is not None else None
    scores = np.stack([trial.scores.image for trial in trials])
    small = [loading.load_images(list(own["image_path"]), SIDE) for own in (parts.normal, parts.test)]
    return {
        "method": method,
        "protocol": "supervised",
        "category": parts.test["category"].iloc[0],
        "backbone": settings.architecture,
        "weights": trials[0].model.weights,
        "seeds": [trial.seed for trial in trials],
        "images": {
            "train": len(parts.learned),
            "good": int((labels == 0).sum()),
            "defective": int(labels.sum()),
        },
        "settings": as_dict(settings),
        "metrics": evaluation.evaluate(labels, scores, maps if masks is not None else None, masks),
        "false_alarm_rate": rate,
        "thresholds": {},
        "trivial": {name: evaluation.image_auroc(labels, own) for name, own in trivial_scores(*small).items()},
        "seconds": {
            "fit": sum(trial.fit_seconds for trial in trials),
            "score": sum(trial.score_seconds for trial in trials),
        },
        "peak_memory_gb": peak_memory_gb(),
    }
