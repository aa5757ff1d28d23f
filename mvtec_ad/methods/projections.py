"""Embeddings on a plane, and how far a map of them, or a second training, can be trusted."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from mvtec_ad.errors import DataError, SettingsError

PROJECTIONS = ("pca", "tsne", "umap")


def project(embeddings: ArrayLike, method: str, seed: int = 0) -> np.ndarray:
    """Embeddings as points on a plane; the same arguments give the same points.

    - `pca`: the two directions of largest variance; linear, so distances on the map are never larger than true ones.
    - `tsne`: keeps near neighbours near; sizes of clusters and distances between them mean little (van der Maaten &
      Hinton, "Visualizing Data using t-SNE", 2008). Perplexity 30, less where there are fewer than 91 images.
    - `umap`: likewise, from a graph of 15 nearest neighbours, all others where there are fewer (McInnes, Healy,
      Melville 2018, arXiv:1802.03426).

    `tsne` and `umap` compare directions (cosine distance) and start from the map that PCA makes of these: a random
    start loses the places of clusters (Kobak & Linderman, Nature Biotechnology 2021).

    Args:
        embeddings: (N, d), N from 4 and d from 2.
        method: one of `PROJECTIONS`.
        seed: of what is random in t-SNE and UMAP.

    Returns:
        (N, 2) float32. The unit of the axes is that of the embeddings for `pca`, and none for the others.

    Raises:
        SettingsError: the method is unknown.
        DataError: there are fewer than 4 embeddings or 2 numbers in each, one is not finite, all are equal, or, but for
            `pca`, one is zero and has no direction.
    """
    if method not in PROJECTIONS:
        raise SettingsError(f"projection {method!r} is unknown: use one of {', '.join(PROJECTIONS)}")
    points = _finite(embeddings)
    count = len(points)
    if count < 4 or points.shape[1] < 2:
        raise DataError(f"a map needs 4 embeddings of 2 numbers or more, not an array of shape {points.shape}")
    points = points if method == "pca" else _directions(points)
    if np.ptp(points, axis=0).max() <= 1e-7 * np.abs(points).max():
        raise DataError("all embeddings are equal: there is nothing to map; were they made by a trained network?")
    with threadpool_limits(1):  # sums over threads come in any order, and two runs would differ in their last digits
        if method == "pca":
            plane = PCA(2, svd_solver="full").fit_transform(points)
        elif method == "tsne":
            perplexity = min(30.0, (count - 1) / 3)
            plane = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(points)
        else:
            plane = _umap(points, min(15, count - 1), seed)
    return plane.astype(np.float32)


def _umap(directions: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    """umap-learn without the TensorFlow that it imports for a variant not used here, which would cost seconds."""
    parametric = "umap.parametric_umap"
    blocked = "umap" not in sys.modules and sys.modules.setdefault(parametric, None) is None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP
    if blocked:
        del sys.modules[parametric]
    with warnings.catch_warnings():  # umap-learn before 0.5.8 calls scikit-learn from 1.6 by an argument's old name
        warnings.filterwarnings("ignore", "'force_all_finite' was renamed", FutureWarning)
        return UMAP(n_neighbors=neighbours, metric="cosine", init="pca", random_state=seed, n_jobs=1).fit_transform(
            directions
        )


def neighbours_kept(first: ArrayLike, second: ArrayLike, k: int) -> float:
    """Share of each point's k nearest neighbours in one space that are among its k nearest in the other, on average.

    Distances are Euclidean in each space; a point is no neighbour of its own; of points equally far the earlier is
    nearer. Two unrelated spaces keep k / (N − 1).

    Args:
        first: (N, d) points.
        second: (N, e) points, in the same order.
        k: from 1 to N − 1.

    Returns:
        From 0 to 1, the same with `first` and `second` exchanged.

    Raises:
        DataError: an array is not (N, d) or not finite, or they differ in N.
        SettingsError: k is not from 1 to N − 1.
    """
    first, second = _finite(first), _finite(second)
    if len(first) != len(second):
        raise DataError(f"neighbours of {len(first)} points cannot be compared with those of {len(second)}")
    if not 1 <= k < len(first):
        raise SettingsError(f"k = {k} neighbours of {len(first)} points: choose k from 1 to {len(first) - 1}")
    return float((_near(first, k) & _near(second, k)).sum(axis=1).mean() / k)


def _near(points: np.ndarray, k: int) -> np.ndarray:
    """(N, N) bool: is the column among the k nearest of the row?"""
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    near = np.zeros(distances.shape, bool)
    np.put_along_axis(near, distances.argsort(axis=1, kind="stable")[:, :k], True, axis=1)
    return near


def type_distances(embeddings: ArrayLike, names: ArrayLike) -> pd.DataFrame:
    """Cosine distance between the prototypes of types.

    A prototype is the mean of the embeddings of a type, each of length 1, brought to length 1 again.

    Args:
        embeddings: (N, d).
        names: (N,) the type of each.

    Returns:
        (T, T) float64 in [0, 2], rows and columns the types in sorted order; symmetric, 0 on the diagonal.

    Raises:
        DataError: there is no embedding, or not a name for each, or an embedding is zero or not finite, or the
            directions of a type cancel out.
    """
    directions, names = _directions(_finite(embeddings)), np.asarray(names)
    if names.shape != (len(directions),):
        raise DataError(f"{len(directions)} embeddings need as many names of types, not an array of {names.shape}")
    types = sorted(set(names.tolist()))
    means = np.stack([directions[names == defect].mean(axis=0) for defect in types])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if lengths.min() < 1e-9:
        raise DataError(f"the embeddings of {types[int(lengths.argmin())]} cancel out: their mean has no direction")
    likeness = (means / lengths) @ (means / lengths).T
    distances = np.clip(1 - (likeness + likeness.T) / 2, 0, 2)
    np.fill_diagonal(distances, 0)
    return pd.DataFrame(distances, index=types, columns=types)


def _finite(points: ArrayLike) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not points.size:
        raise DataError(f"embeddings must have shape (N, d), not {points.shape}")
    if not np.isfinite(points).all():
        row = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise DataError(f"embedding {row} holds a number that is not finite: leave it out or train again")
    return points


def _directions(points: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    if lengths.min() == 0:
        raise DataError(f"embedding {int(lengths.argmin())} is zero and has no direction: leave it out or use pca")
    return points / lengths
