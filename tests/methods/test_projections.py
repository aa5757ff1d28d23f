"""Maps of embeddings are what their libraries make, repeatable, and judged by definitions a loop can repeat."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from mvtec_ad.errors import DataError, MvtecAdError, SettingsError
from mvtec_ad.methods.projections import PROJECTIONS, neighbours_kept, project, type_distances

RNG = np.random.default_rng(0)
CENTRES = 4 * RNG.normal(size=(5, 16))
CLUSTERS = np.repeat(CENTRES, 12, axis=0) + RNG.normal(size=(60, 16))
NAMES = np.repeat(["dent", "crack", "stain", "hole", "bend"], 12)


@pytest.mark.parametrize("method", PROJECTIONS)
def test_maps_keep_clusters_and_repeat(method: str) -> None:
    """Points of a cluster stay together, and the same seed gives the same bytes."""
    plane = project(CLUSTERS, method, seed=3)
    assert plane.shape == (60, 2)
    assert plane.dtype == np.float32
    assert trustworthiness(CLUSTERS, plane, n_neighbors=8, metric="cosine") > 0.85
    assert plane.tobytes() == project(CLUSTERS, method, seed=3).tobytes()


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_only_directions_count(method: str) -> None:
    """Powers of 2 stretch every embedding without a rounding error, and change nothing."""
    stretched = CLUSTERS * 2.0 ** RNG.integers(-3, 4, (60, 1))
    np.testing.assert_array_equal(project(CLUSTERS, method), project(stretched, method))


def test_pca_is_the_best_plane() -> None:
    """Singular values by numpy: the scores of the two largest, up to sign."""
    centred = CLUSTERS - CLUSTERS.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(project(CLUSTERS, "pca")), np.abs(centred @ directions[:2].T), atol=1e-4)


def test_seeds_move_umap_but_not_pca() -> None:
    """PCA has nothing random."""
    assert project(CLUSTERS, "umap", 0).tobytes() != project(CLUSTERS, "umap", 1).tobytes()
    assert project(CLUSTERS, "pca", 0).tobytes() == project(CLUSTERS, "pca", 1).tobytes()


@pytest.mark.parametrize("method", PROJECTIONS)
@pytest.mark.parametrize("count", [4, 5, 16, 17])
def test_few_images(method: str, count: int) -> None:
    """Neighbourhoods shrink with the set, with repeated images too, and no warning escapes."""
    points = CLUSTERS[:count].copy()
    assert np.isfinite(project(points, method)).all()
    points[: count // 2] = points[0]
    assert np.isfinite(project(points, method)).all()


def test_umap_comes_without_tensorflow() -> None:
    """It would be imported for a variant that is not used; and it can still be imported afterwards."""
    code = (
        "import sys, numpy as np; from mvtec_ad.methods.projections import project; "
        "project(np.random.default_rng(0).normal(size=(6, 3)), 'umap'); "
        "print('tensorflow' in sys.modules, 'umap.parametric_umap' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("k", [1, 5, 59])
def test_neighbours_kept_against_scikit_learn(k: int) -> None:
    """Sets of neighbours from another search, compared in a loop."""
    other = CLUSTERS[:, :2] + RNG.normal(size=(60, 2))
    # Asked without points to look up, scikit-learn leaves out each point itself.
    near = [NearestNeighbors(n_neighbors=k).fit(p).kneighbors(return_distance=False) for p in (CLUSTERS, other)]
    share = np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)])
    assert neighbours_kept(CLUSTERS, other, k) == pytest.approx(share)
    assert neighbours_kept(other, CLUSTERS, k) == pytest.approx(share)


def test_neighbours_kept_by_hand() -> None:
    """Four points on a line, the last moved to the other end; and equal points, the earlier of which is nearer."""
    line, moved = np.array([[0.0], [1], [3], [7]]), np.array([[0.0], [1], [3], [-1.5]])
    # Nearest: 1, 0, 1, 2 before; 1, 0, 1, 0 after.
    assert neighbours_kept(line, moved, 1) == 0.75
    # Two nearest: 12, 02, 10, 21 before; 13, 02, 10, 01 after.
    assert neighbours_kept(line, moved, 2) == pytest.approx((0.5 + 1 + 1 + 0.5) / 4)
    assert neighbours_kept(line, 9 * line + 2, 2) == 1
    # All equal: the nearest of the first is the second, and of all others the first; on a line only 0 and 1 agree.
    row = np.arange(40.0)[:, None] ** 2
    assert neighbours_kept(row, np.zeros((40, 1)), 1) == 2 / 40


def test_unrelated_spaces_keep_what_chance_keeps() -> None:
    """k / (N − 1), within four standard errors of it."""
    kept = [neighbours_kept(RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3)), 7) for _ in range(40)]
    assert np.mean(kept) == pytest.approx(7 / 49, abs=4 * np.std(kept) / np.sqrt(40))


def test_type_distances_against_a_loop() -> None:
    """Prototypes by loop, distances by scipy; types in sorted order."""
    distances = type_distances(CLUSTERS.astype(np.float32), NAMES)
    assert list(distances.index) == list(distances.columns) == ["bend", "crack", "dent", "hole", "stain"]
    prototypes = {
        name: sum(row / np.linalg.norm(row) for row, own in zip(CLUSTERS, NAMES, strict=True) if own == name)
        for name in set(NAMES)
    }
    for first, second in [(a, b) for a in prototypes for b in prototypes]:
        assert distances.loc[first, second] == pytest.approx(cosine(prototypes[first], prototypes[second]), abs=1e-6)
    assert (np.diag(distances) == 0).all()
    np.testing.assert_array_equal(distances, distances.T)


def test_opposite_and_orthogonal_types() -> None:
    """Distances 2 and 1; the length of an embedding does not count."""
    distances = type_distances([[9.0, 0], [0, 1], [-2, 0]], ["right", "up", "left"])
    assert distances.loc["right", "left"] == 2
    assert distances.loc["right", "up"] == distances.loc["up", "left"] == 1
    assert type_distances([[9.0, 0], [0, 1], [1, 1]], ["a", "a", "b"]).loc["a", "b"] == pytest.approx(0, abs=1e-12)


ZERO = np.eye(5)
ZERO[2] = 0
NOT_FINITE = np.eye(5)
NOT_FINITE[3, 1] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: project(CLUSTERS, "lda"), SettingsError, "'lda' is unknown: use one of pca, tsne, umap"),
        (lambda: project(CLUSTERS[:3], "pca"), DataError, r"needs 4 embeddings .* not an array of shape \(3, 16\)"),
        (lambda: project(CLUSTERS[:, :1], "tsne"), DataError, r"not an array of shape \(60, 1\)"),
        (lambda: project(CLUSTERS[0], "pca"), DataError, r"shape \(N, d\), not \(16,\)"),
        (lambda: project(NOT_FINITE, "pca"), DataError, "embedding 3 holds a number that is not finite"),
        (lambda: project(ZERO, "umap"), DataError, "embedding 2 is zero"),
        (lambda: project(np.ones((5, 3)), "tsne"), DataError, "all embeddings are equal"),
        (lambda: project(np.ones((5, 3)), "pca"), DataError, "all embeddings are equal"),
        (lambda: neighbours_kept(CLUSTERS, CLUSTERS[:9], 2), DataError, "neighbours of 60 points .* of 9"),
        (lambda: neighbours_kept(CLUSTERS, CLUSTERS, 60), SettingsError, "choose k from 1 to 59"),
        (lambda: neighbours_kept(CLUSTERS, CLUSTERS, 0), SettingsError, "choose k from 1 to 59"),
        (lambda: type_distances(CLUSTERS, NAMES[:5]), DataError, "60 embeddings need as many names"),
        (lambda: type_distances(np.zeros((0, 4)), []), DataError, r"shape \(N, d\), not \(0, 4\)"),
        (lambda: type_distances(ZERO, list("abcde")), DataError, "embedding 2 is zero"),
        (lambda: type_distances([[1.0, 0], [-1, 0]], ["a", "a"]), DataError, "embeddings of a cancel out"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[MvtecAdError], message: str) -> None:
    """One line that names the thing."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
