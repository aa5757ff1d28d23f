"""Run a method on one category and measure it: the same images, metrics, thresholds and trivial rows for all."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import evaluation
from mvtec_ad.data import loading, splits
from mvtec_ad.errors import DataError
from mvtec_ad.methods import module_of
from mvtec_ad.methods.scores import Trial
from mvtec_ad.methods.trivial import trivial_scores
from mvtec_ad.settings import as_dict


@dataclass(frozen=True)
class Experiment:
    """A measured method.

    Attributes:
        report: plain JSON data, the shape that `python -m mvtec_ad evaluate --json` writes.
        test: table of the test images, in the order of all arrays here.
        images: (M, H, W, 3) uint8 test images.
        masks: (M, H, W) bool, or None where there are none.
        trials: one per seed.
    """

    report: dict[str, Any]
    test: pd.DataFrame
    images: np.ndarray
    masks: np.ndarray | None
    trials: list[Trial]

    @property
    def labels(self) -> np.ndarray:
        """(M,) int, 1 for a defect."""
        return self.test["label"].to_numpy()

    def scores_table(self) -> pd.DataFrame:
        """Rows image_id, split, method, seed, label, score: what every scoring artifact holds."""
        frames = [
            pd.DataFrame(
                {
                    "image_id": self.test["image_id"],
                    "split": self.test["split"],
                    "method": self.report["method"],
                    "seed": trial.seed,
                    "label": self.test["label"],
                    "score": trial.scores.image,
                }
            )
            for trial in self.trials
        ]
        return pd.concat(frames, ignore_index=True)


def run(
    method: str,
    table: pd.DataFrame,
    settings: Any,
    *,
    data_source: str,
    false_alarm_rate: float = 0.05,
    keep_models: bool = False,
    progress: bool = True,
) -> Experiment:
    """Fit on train/good, score the official test images, measure.

    Args:
        method: a key of `settings.PRESETS`.
        table: images of one category.
        settings: the method's settings.
        data_source: as `data.index.data_source` tells it.
        false_alarm_rate: that the calibrated threshold promises.
        keep_models: keep every trial's fitted model; otherwise only the scores stay in memory.
        progress: show bars.

    Raises:
        DataError: there are no test images of both classes, so that no AUROC can be computed.
        SettingsError: the method is unknown.
    """
    module = module_of(method)
    category = table["category"].iloc[0]
    table = splits.official(table)
    train_rows, test_rows = (table[table["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    if test_rows["label"].nunique() < 2:
        raise DataError(
            f"{category}: no AUROC can be computed without good and defective test images "
            f"({len(test_rows)} test images, {int(test_rows['label'].sum())} defective); "
            "`fit` and `detect` work with good images alone"
        )
    evaluation.check_enough(settings.calibration_images(len(train_rows)), false_alarm_rate)
    size = settings.image_size, settings.crop
    train = loading.load_images(list(train_rows["image_path"]), *size)
    test = loading.load_images(list(test_rows["image_path"]), *size)
    masks = loading.load_masks(test_rows, *size)
    trials = []
    for trial in module.fit_and_score(settings, train, test, progress=progress):
        backbone = getattr(trial.model, "backbone", None)
        trials.append(trial if keep_models else replace(trial, model=None))
    report = {
        "method": method,
        "category": category,
        "data_source": data_source,
        "backbone": backbone.name if backbone else None,
        "weights": backbone.weights if backbone else None,
        "seeds": [trial.seed for trial in trials],
        "images": {
            "train": len(train),
            "good": int((test_rows["label"] == 0).sum()),
            "defective": int(test_rows["label"].sum()),
        },
        "settings": as_dict(settings),
        **measure(test_rows["label"].to_numpy(), trials, masks, false_alarm_rate),
        "trivial": {
            name: evaluation.image_auroc(test_rows["label"], scores)
            for name, scores in trivial_scores(train, test).items()
        },
        "seconds": {
            "fit": sum(trial.fit_seconds for trial in trials),
            "score": sum(trial.score_seconds for trial in trials),
        },
        "peak_memory_gb": peak_memory_gb(),
    }
    return Experiment(report, test_rows, test, masks, trials)


def measure(
    labels: np.ndarray, trials: list[Trial], masks: np.ndarray | None, false_alarm_rate: float
) -> dict[str, Any]:
    """`metrics` and `thresholds` of a report; threshold figures are means over the seeds."""
    image_scores = np.stack([trial.scores.image for trial in trials])
    maps = [trial.scores.maps for trial in trials]
    metrics = evaluation.evaluate(labels, image_scores, maps if maps[0] is not None else None, masks)
    summaries = [
        evaluation.threshold_summary(
            labels, trial.scores.image, evaluation.calibrated(trial.good_scores, false_alarm_rate)
        )
        for trial in trials
    ]
    thresholds = {
        kind: {key: float(np.mean([summary[kind][key] for summary in summaries])) for key in summaries[0][kind]}
        for kind in ("calibrated", "oracle")
    }
    return {"metrics": metrics, "false_alarm_rate": false_alarm_rate, "thresholds": thresholds}


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in 10⁹ bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
