"""Which kind of defect is it? Metrics of verdicts over several types, and intervals over repeated folds.

`types`, `(N,)`, are names of the true types, `predicted`, `(N,)`, the names given. A name that is no true type, as
"unknown", is simply wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, f1_score, recall_score, silhouette_score

from mvtec_ad.errors import DataError, SettingsError


def verdict_metrics(types: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Balanced accuracy and macro F1 of named defect types, each type counting the same (scikit-learn).

    Returns:
        `balanced_accuracy`: mean recall of the true types (chance: one over their number). `macro_f1`: their mean F1.

    Examples:
        >>> verdict_metrics(["cut", "cut", "hole"], ["cut", "hole", "hole"])["balanced_accuracy"]
        0.75
    """
    types, predicted = _names(types, predicted)
    options = {"labels": np.unique(types), "average": "macro", "zero_division": 0.0}
    return {
        "balanced_accuracy": float(recall_score(types, predicted, **options)),
        "macro_f1": float(f1_score(types, predicted, **options)),
    }


def type_confusion(types: ArrayLike, predicted: ArrayLike) -> tuple[list[str], list[str], np.ndarray]:
    """Confusion matrix of defect types: counts of what was predicted for each true type.

    Returns the rows (true types, sorted), the columns (the same, then all else that was predicted) and counts, int64.

    Examples:
        >>> type_confusion(["cut", "cut", "hole"], ["cut", "unknown", "hole"])[2].tolist()
        [[1, 0, 1], [0, 1, 0]]
    """
    types, predicted = _names(types, predicted)
    rows = sorted(set(types))
    columns = [*rows, *sorted(set(predicted) - set(rows))]
    counts = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(counts, (np.searchsorted(rows, types), [columns.index(name) for name in predicted]), 1)
    return rows, columns, counts


def retrieval_map(queries: ArrayLike, query_types: ArrayLike, gallery: ArrayLike, gallery_types: ArrayLike) -> float:
    """Mean average precision of "show me the most similar defects", by cosine, each type counting the same, in (0, 1].

    Queries (M, d) and gallery (N, d) are embeddings of length 1, of different images, and their types (M,) and (N,)
    names; a type of the queries that the gallery lacks is a DataError.

    Examples:
        >>> retrieval_map([[1.0, 0.0]], ["cut"], [[0.0, 1.0], [1.0, 0.0]], ["hole", "cut"])
        1.0
    """
    query_types, gallery_types = np.asarray(query_types), np.asarray(gallery_types)
    absent = sorted(set(query_types) - set(gallery_types))
    if absent:
        raise DataError(f"type {absent[0]} is not in the gallery: nothing like it can be found")
    similarity = np.asarray(queries) @ np.asarray(gallery).T
    pairs = zip(query_types, similarity, strict=True)
    precision = np.array([average_precision_score(gallery_types == name, row) for name, row in pairs])
    return float(np.mean([precision[query_types == name].mean() for name in sorted(set(query_types))]))


def silhouette(embeddings: ArrayLike, types: ArrayLike) -> float:
    """Rousseeuw's silhouette (1987) by cosine distance: 1 for clusters far apart, 0 for none, below 0 for wrong ones.

    Embeddings are (N, d). Fewer than two types, or as many as images, are a DataError.

    Examples:
        >>> silhouette([[1, 0], [1, 0], [0, 1], [0, 1]], ["cut", "cut", "hole", "hole"])
        1.0
    """
    types = np.asarray(types)
    if not 2 <= len(set(types)) < len(types):
        raise DataError(f"a silhouette needs two or more types and more images than types, not {len(set(types))}")
    return float(silhouette_score(np.asarray(embeddings), types, metric="cosine"))


def corrected_t(values: ArrayLike, tested: float) -> dict[str, float]:
    """Corrected resampled t: mean over repeated folds with a 95 % interval that knows their training sets overlap.

    Nadeau and Bengio, "Inference for the generalization error", Machine Learning 2003: with J values of variance s²,
    mean ± t(J−1) √((1/J + n_test/n_train) s²). The usual √(s²/J) would shrink with every further repeat of the same few
    images.

    `values`, (J,), one per fold of every repeat, are a metric, or the difference of two on the same fold; nan is left
    out. `tested` is the share of the images that is tested on in each, 1/K for K folds.

    Examples:
        >>> corrected_t([0.5, 0.75, 1.0], tested=0.2)["mean"]
        0.75
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        raise DataError(f"an interval over folds needs two or more of them, not {len(values)}")
    if not 0 < tested < 1:
        raise SettingsError(f"share {tested} of tested images must lie between 0 and 1, for example 0.2")
    spread = np.sqrt((1 / len(values) + tested / (1 - tested)) * values.var(ddof=1))
    mean, reach = float(values.mean()), float(student.ppf(0.975, len(values) - 1) * spread)
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def _names(types: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    types, predicted = np.asarray(types, dtype=str), np.asarray(predicted, dtype=str)
    if types.ndim != 1 or types.shape != predicted.shape or len(types) == 0:
        raise DataError(
            f"true and given types must be two lists of one length, not {types.shape} and {predicted.shape}"
        )
    return types, predicted
