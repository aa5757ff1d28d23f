"""Suspects: images that are called good and do not look like the good ones of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mvtec_ad import metrics
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.base import Detector, taken


def suspects(
    detector: Detector, images: Sequence[str | Path], false_discovery_rate: float = 0.1, *, progress: bool = False
) -> pd.DataFrame:
    """Outliers among images that are called good, a row per image: image, known, score, p_value, suspect.

    Images that the model was not fitted on get conformal p-values (`metrics.conformal_p_values`), so that among those
    called suspects the share of good images is at most the rate, in the mean: a guarantee where the good scores come
    from images that were held out, and measured to hold where they are leave-one-out (PaDiM, PatchCore, DN2).

    Images that it was fitted on, recognised by content, have their leave-one-out score, and
    `metrics.leave_one_out_p_values` among all of these: no guarantee, for the law of good scores is then estimated from
    the very scores that are judged; `benchmarks/contamination.py` measures what it finds and where it breaks.

    Raises:
        SettingsError: the model has no good scores to compare with.
        DataError: an image cannot be read.
    """
    detector.check_fitted()
    metrics.discoveries([1.0], false_discovery_rate)  # refuses what is no rate, before anything is read
    if not len(detector.good_scores):
        raise SettingsError(
            f"this {detector.name} has no scores of good images to compare with: fit it with some held out"
        )
    images = [str(path) for path in images]
    hashes = detector.content_hashes(images, progress=progress)
    order = {digest: position for position, digest in enumerate(detector.hashes)}
    known = np.array([digest in order and len(order) == len(detector.good_scores) for digest in hashes])
    table = pd.DataFrame({"image": images, "known": known, "score": np.nan, "p_value": np.nan, "suspect": False})
    if known.any():
        within = metrics.leave_one_out_p_values(detector.good_scores, false_discovery_rate)
        odd = metrics.discoveries(within, false_discovery_rate)
        rows = [order[digest] for digest, of_fit in zip(hashes, known, strict=True) if of_fit]
        table.loc[known, "score"] = detector.good_scores[rows].astype(float)
        table.loc[known, "p_value"], table.loc[known, "suspect"] = within[rows], odd[rows]
    if not known.all():
        scores = detector.score(taken(images, np.flatnonzero(~known)), progress=progress).image
        p_values = metrics.conformal_p_values(scores, detector.good_scores)
        table.loc[~known, "score"], table.loc[~known, "p_value"] = scores.astype(float), p_values
        table.loc[~known, "suspect"] = metrics.discoveries(p_values, false_discovery_rate)
    return table
