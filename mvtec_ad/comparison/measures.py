"""One row measured: metrics with intervals, defect types one by one, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import evaluation
from mvtec_ad.comparison.scored import Scored
from mvtec_ad.errors import DataError

TEST_PART = "supervised test"  # the part of a report whose images all methods share
_PIXEL = ("pixel_auroc", "pixel_ap", "au_pro")


def measure(scored: Scored, masks: np.ndarray | None = None, resamples: int = 1000) -> dict[str, dict]:
    """All metrics of a row on its images.

    Args:
        scored: a row.
        masks: (N, h, w) bool at the size of its maps; None for image metrics alone.
        resamples: of the bootstrap of pixel metrics and false alarms.

    Returns:
        As from `evaluation.evaluate`, and `false_alarms` at 95 % detection. `f1_max` also has `floor`: what calling
        every image defective reaches. Pixel metrics are means over the seeds whose maps were kept: `values` tells how
        many; they are absent without maps or masks.

    Raises:
        DataError: only one class is present, or masks and maps differ in shape.
    """
    labels, defects = scored.labels, int(scored.labels.sum())
    metrics = evaluation.evaluate(labels, scored.scores)
    metrics["f1_max"]["floor"] = 2 * defects / (defects + len(labels))
    metrics["false_alarms"] = evaluation.false_alarms_interval(labels, scored.scores, resamples=resamples)
    if masks is not None and scored.maps:
        kept = [scored.seeds.index(seed) for seed in scored.maps]
        found = evaluation.evaluate(labels, scored.scores[kept], scored.maps.values(), masks, resamples)
        metrics |= {name: found[name] for name in _PIXEL}
    return metrics


def by_defect(rows: Sequence[Scored]) -> pd.DataFrame:
    """Image AUROC of each defect type against all good images, for each row.

    Args:
        rows: of one category.

    Returns:
        Columns row, defect, images (how many of this type), mean, low, high and seeds. With ten images a type the
        intervals are wide, and there are many of them: a table to find weaknesses in, not winners.

    Raises:
        DataError: a row has no good or no defective image.
    """
    lines = []
    for scored in rows:
        good = scored.labels == 0
        if good.all() or not good.any():
            raise DataError(f"{scored.name} has no AUROC by defect type: it needs good and defective images")
        for defect in sorted(set(scored.images["defect"][~good])):
            own = (scored.images["defect"] == defect).to_numpy() & ~good
            metric = evaluation.evaluate(scored.labels[good | own], scored.scores[:, good | own])["image_auroc"]
            line = {"row": scored.row, "defect": defect, "images": int(own.sum())}
            lines.append(line | {key: metric[key] for key in ("mean", "low", "high")} | {"seeds": len(scored.seeds)})
    return pd.DataFrame(lines)


def cost(scored: Scored) -> dict[str, float]:
    """What a row costs; nan where nobody has measured it.

    Returns:
        `fit_seconds` of one seed (a share, where seeds are fitted together), `milliseconds` per image scored,
        `memory_gb` (10⁹ bytes, peak of the process until then: where a notebook runs several methods, of the hungriest
        of them so far), and `model_mb` (10⁶ bytes).
    """
    seconds, images = scored.report.get("seconds", {}), scored.report.get("images", {})
    seeds = len(scored.report["seeds"])
    tested = images.get("good", 0) + images.get("defective", 0)
    size = scored.report.get("model_bytes", scored.model_bytes)
    unknown = float("nan")
    return {
        "fit_seconds": seconds.get("fit", unknown) / seeds,
        "milliseconds": 1000 * seconds.get("score", unknown) / (tested * seeds) if tested else unknown,
        "memory_gb": scored.report.get("peak_memory_gb", unknown),
        "model_mb": unknown if size is None else size / 1e6,
    }


def report(scored: Scored, metrics: dict[str, dict], part: str = TEST_PART) -> dict[str, Any]:
    """What is kept of a measured row: plain JSON data that `results.tables` reads.

    Args:
        scored: the row, on the images that were measured.
        metrics: from `measure`.
        part: which images these are.
    """
    known = ("category", "data_source", "backbone", "weights", "seeds", "settings", "seconds", "peak_memory_gb")
    labels = scored.labels
    return {
        "method": scored.method,
        "row": scored.row,
        **{key: scored.report[key] for key in known if key in scored.report},
        "part": part,
        "protocol": scored.protocol,
        "profile": scored.profile,
        "device": scored.device,
        "images": {"good": int((labels == 0).sum()), "defective": int(labels.sum())},
        "cost": {key: None if np.isnan(value) else float(value) for key, value in cost(scored).items()},
        "metrics": metrics,
    }
