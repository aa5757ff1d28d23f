"""Everything that is measured on one category, as plain JSON data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import metrics
from mvtec_ad.methods.contrastive import experiment
from mvtec_ad.methods.contrastive.material import Material
from mvtec_ad.settings import TypingSettings

LEAST_FOR_OPEN_SET = 3  # types: one is left out, and two are told apart


def measure(
    settings: TypingSettings,
    material: Material,
    objectives: Sequence[str] = ("supcon", "simclr"),
    *,
    data_source: str,
    open_set: bool = True,
    kept: list[Path] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Repeated folds, types left out, and a few images of a new type.

    Args:
        settings: what is fitted and measured.
        material: of the category.
        objectives: that are trained in the folds; types are left out for the first of them only.
        data_source: as `data.index.data_source` tells it.
        open_set: whether types are left out too, which takes the most time.
        kept: checkpoints are kept and added to this list, so that a killed run goes on; None keeps none.
        progress: show bars.

    Returns:
        `ways` as from `experiment.summary`, `confusion` of the first objective's prototypes, `limit`, `mixtures`,
        `open_set` and `few_shot` (None where no type is left out), counts, settings and seconds.
    """
    begun = time.perf_counter()
    verdicts, quality = experiment.cross_validate(settings, material, objectives, kept=kept, progress=progress)
    way = f"{objectives[0]}, prototypes"
    limit = experiment.calibrated_limit(verdicts, way, settings)
    own = verdicts[(verdicts["way"] == way) & ~verdicts["defect"].isin(settings.mixtures)]
    rows, columns, counts = metrics.type_confusion(own["defect"], own["said"])
    report = {
        "method": "typing",
        "category": material.table["category"].iloc[0],
        "data_source": data_source,
        "weights": material.views.weights,
        "types": material.table["defect"].iloc[material.typed].value_counts().sort_index().to_dict(),
        "settings": settings.options(),
        "ways": experiment.summary(quality, settings.folds),
        "confusion": {"types": rows, "said": columns, "counts": counts.tolist()},
        "limit": limit if np.isfinite(limit) else None,
        "mixtures": mixtures(verdicts, way, settings, limit),
        "open_set": None,
        "few_shot": None,
    }
    if open_set and len(report["types"]) >= LEAST_FOR_OPEN_SET:
        novelty, shown = experiment.leave_one_out(settings, material, objectives[:1], kept=kept, progress=progress)
        report["open_set"] = by_way(experiment.open_set_summary(novelty, settings.unknown))
        report["few_shot"] = few_shot(shown)
    return {**report, "seconds": time.perf_counter() - begun}


def mixtures(verdicts: pd.DataFrame, way: str, settings: TypingSettings, limit: float) -> dict[str, Any] | None:
    """What is said of images with several types at once, over all folds; None where there are none."""
    own = verdicts[(verdicts["way"] == way) & verdicts["defect"].isin(settings.mixtures)]
    if own.empty:
        return None
    return {
        "images": int(own["image_id"].nunique()),
        "called_unknown": float((own["novelty"] > limit).mean()),
        "nearest": own["said"].value_counts(normalize=True).round(4).to_dict(),
    }


def by_way(found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Way -> means over the left-out types, the interval of the mean AUROC over types, and each type's AUROC."""
    result = {}
    for way, rows in found.groupby("way", sort=False):
        result[way] = {
            "auroc": _mean_over_types(rows["auroc"]),
            "called_unknown": float(rows["called_unknown"].mean()),
            "false_unknown": float(rows["false_unknown"].mean()),
            "types": rows.set_index("left_out")["auroc"].round(4).to_dict(),
        }
    return result


def few_shot(shown: pd.DataFrame) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Way -> number of images shown -> recall of the new type and balanced accuracy, means over types."""
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (way, shots), rows in shown.groupby(["way", "shots"], sort=False):
        by_type = rows.groupby("left_out")[["recall", "balanced_accuracy"]].mean()
        result.setdefault(way, {})[str(shots)] = {name: _mean_over_types(by_type[name]) for name in by_type}
    return result


def _mean_over_types(values: pd.Series) -> dict[str, float]:
    """Mean, and a bootstrap interval in which the types are the units: would other types do as well?"""
    values = values.to_numpy(float)
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
