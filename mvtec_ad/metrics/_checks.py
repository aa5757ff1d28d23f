"""The questions that several metrics ask of their input first, answered in one line that names what is wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError


def checked_scores(scores: ArrayLike) -> np.ndarray:
    """Scores as a finite `(N,)` float64 array."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise DataError(f"scores must be one number per image, not an array of shape {scores.shape}")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise DataError(f"the score of image {bad[0]} is {scores[bad[0]]} ({bad.size} such); scores must be finite")
    return scores


def checked_labels(labels: ArrayLike, count: int) -> np.ndarray:
    """Labels as a `(count,)` bool array, True where defective."""
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise DataError(f"{count} scores need {count} labels, not an array of shape {labels.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 (good) or 1 (defect)")
    return labels.astype(bool)


def both_classes(labels: ArrayLike, scores: ArrayLike, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked `(labels, scores)`, or a DataError that says which class `metric` lacks."""
    scores = checked_scores(scores)
    labels = checked_labels(labels, len(scores))
    if labels.all() or not labels.any():
        present, absent = ("defective", "good") if labels.all() else ("good", "defective")
        raise DataError(f"no {metric}: all {len(labels)} test images are {present}; add {absent} images to compute it")
    return labels, scores


def checked_table(values: ArrayLike, name: str, rows: str, columns: int | None = None) -> np.ndarray:
    """Scores by seed, or weights by resample, as a float64 array of one row or more."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0 or columns not in (None, values.shape[1]):
        raise DataError(f"{name} must have shape ({rows}, {columns or 'images'}), not {values.shape}")
    return values
