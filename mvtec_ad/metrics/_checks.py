"""The questions every metric asks of its input first, answered in one line that names what is wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError, SettingsError


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


def checked_seeds(scores_by_seed: ArrayLike) -> np.ndarray:
    """Scores of several seeds as an `(S, N)` float64 array."""
    scores_by_seed = np.asarray(scores_by_seed, dtype=np.float64)
    if scores_by_seed.ndim != 2 or len(scores_by_seed) == 0:
        raise DataError(f"scores_by_seed must have shape (seeds, images), not {scores_by_seed.shape}")
    return scores_by_seed


def checked_weights(weights: ArrayLike, images: int) -> np.ndarray:
    """How often each image counts in each resample, as an `(R, images)` float64 array."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != images:
        raise DataError(f"weights must have shape (R, {images}), not {weights.shape}")
    return weights


def checked_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Anomaly maps and masks as `(N, H, W)` arrays of one shape; half precision is widened, masks become bool."""
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise DataError(
            f"maps and masks must both have shape (N, H, W), not {maps.shape} and {masks.shape}; "
            "resize both to the evaluation resolution first"
        )
    if maps.dtype not in (np.float32, np.float64):
        maps = maps.astype(np.float32 if maps.dtype == np.float16 else np.float64)
    return maps, masks.astype(bool, copy=False)


def both_kinds_of_pixel(normal: int, defect: int) -> None:
    """Raise a DataError where pixel metrics have nothing to compare."""
    if defect == 0:
        raise DataError("no pixel metrics: the masks mark no defect pixel; masks of defective images are needed")
    if normal == 0:
        raise DataError("no pixel metrics: the masks mark every pixel as defect, so there is no false alarm to count")


def checked_limit(limit: float) -> float:
    """The upper end of the integrated false-positive rates."""
    if not 0 < limit <= 1:
        raise SettingsError(f"limit is a false-positive rate in (0, 1], not {limit}")
    return float(limit)
