"""The lazy greedy coreset against the naive loop, its projection and its stopping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from mvtec_ad.methods.patchcore import coreset


def clusters(count: int, width: int, seed: int) -> torch.Tensor:
    """Like features: a few kinds of patches of unequal spread and frequency, far from the origin, float32."""
    generator = np.random.default_rng(seed)
    kinds = generator.normal(3, 2, (12, width))
    kind = generator.choice(12, count, p=generator.dirichlet(np.ones(12)))
    spread = generator.gamma(2, 0.3, 12)
    points = kinds[kind] + spread[kind, None] * generator.normal(size=(count, width))
    return torch.from_numpy(points.astype(np.float32))


def naive(points: np.ndarray, number: int, first: int) -> list[int]:
    """Algorithm 1 as it is written: every distance to every pick."""
    picks, distances = [first], np.full(len(points), np.inf)
    while len(picks) < number:
        distances = np.minimum(distances, np.linalg.norm(points - points[picks[-1]], axis=1))
        picks.append(int(distances.argmax()))
    return picks


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("count", "width", "number"), [(1000, 8, 300), (3000, 128, 300), (200, 40, 199), (50, 3, 1)])
def test_picks_equal_those_of_the_naive_loop(count: int, width: int, number: int, seed: int) -> None:
    """In their order; the active sets are much smaller than the points."""
    points = clusters(count, width, seed)
    points -= points.mean(0)
    found = coreset.greedy(points, number, first=seed, progress=False)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, naive(points.double().numpy(), number, seed))


@pytest.mark.parametrize(("share", "numbers"), [(4, 1000), (500, 100), (1, 2**22)])
def test_picks_depend_on_neither_active_set_nor_chunks(
    monkeypatch: pytest.MonkeyPatch, share: int, numbers: int
) -> None:
    """Two active points or all of them, products of a few rows or one."""
    points = clusters(1000, 16, 0)
    points -= points.mean(0)
    expected = naive(points.double().numpy(), 150, 7)
    monkeypatch.setattr(coreset, "ACTIVE_SHARE", share)
    monkeypatch.setattr(coreset, "ACTIVE_LEAST", 2)
    monkeypatch.setattr(coreset, "CHUNK_NUMBERS", numbers)
    np.testing.assert_array_equal(coreset.greedy(points, 150, 7, progress=False), expected)


def test_a_far_outlier_hides_nobody() -> None:
    """It makes the products of all others coarse; the others are still covered as well."""
    points = clusters(600, 16, 3)
    points[100] += 3000
    found = coreset.greedy(points - points.mean(0), 2, 0, progress=False)
    np.testing.assert_array_equal(found, [0, 100])
    found = coreset.greedy(points - points.mean(0), 60, 0, progress=False)
    distances = cdist(points.double(), points[found].double()).min(1)
    assert distances.max() <= 1.01 * cdist(points.double(), points[naive(points.double().numpy(), 60, 0)]).min(1).max()


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e4])
@pytest.mark.parametrize("width", [5, 300])
def test_equal_points_give_one_pick(value: float, width: int) -> None:
    """No crash, no index twice: the bank is smaller than asked for."""
    picks = coreset.select(torch.full((500, width), value), 50, projection=64, progress=False)
    assert len(picks) == 1


@pytest.mark.parametrize("width", [6, 200])
def test_duplicates_are_picked_once(width: int) -> None:
    """40 distinct points, each 25 times: 40 picks, one of each."""
    distinct = clusters(40, width, 0)
    points = distinct[torch.from_numpy(np.random.default_rng(0).permutation(1000) % 40)]
    picks = coreset.select(points, 100, projection=64, progress=False)
    assert len(picks) == 40
    assert len(np.unique(points[picks].numpy(), axis=0)) == 40


def test_ties_are_filled_evenly() -> None:
    """Points of a line, of which many are equally far: 5 picks of 0 … 16 leave none farther than 2."""
    points = torch.arange(17.0)[:, None] - 8
    picks = coreset.greedy(points, 5, 0, progress=False)
    assert sorted(picks) == [0, 4, 8, 12, 16]


def test_the_covering_radius_never_grows() -> None:
    """More picks cover better, and at most twice as badly as any other choice of as many (Gonzalez 1985)."""
    points = clusters(800, 10, 5)
    picks = coreset.select(points, 100, seed=2, progress=False)
    distances = cdist(points, points[picks])
    radii = np.minimum.accumulate(distances, axis=1).max(0)
    assert (np.diff(radii) <= 1e-6).all()
    generator = np.random.default_rng(0)
    best = min(cdist(points, points[generator.choice(800, 100, replace=False)]).min(1).max() for _ in range(20))
    assert radii[-1] <= 2 * best


def test_all_points_on_request() -> None:
    """Also where some are equal."""
    np.testing.assert_array_equal(coreset.select(torch.ones(7, 3), 7), np.arange(7))


def test_the_seed_decides() -> None:
    """Over the first pick and the projection; distinct indices within range."""
    points = clusters(400, 150, 1)
    one, again, other = (coreset.select(points, 40, projection=20, seed=s, progress=False) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len(np.unique(one)) == 40
    assert 0 <= one.min() <= one.max() < 400


def test_the_projection_keeps_distances() -> None:
    """Squared ratios scatter around 1 with variance 2/d (Johnson, Lindenstrauss); narrow features stay exact."""
    points = clusters(60, 500, 0)
    before = pdist(points)
    draws = [coreset.project(points, 200, np.random.default_rng(seed)) for seed in range(20)]
    assert draws[0].shape == (60, 200)
    ratios = np.stack([(pdist(draw) / before) ** 2 for draw in draws])
    assert ratios.mean() == pytest.approx(1, abs=0.05)
    assert ratios.std(0).mean() == pytest.approx(np.sqrt(2 / 200), rel=0.2)
    kept = coreset.project(points, 500, np.random.default_rng(0))
    np.testing.assert_allclose(kept, points - points.mean(0), rtol=1e-6)
    np.testing.assert_allclose(kept.mean(0), 0, atol=1e-5)


def test_the_number_of_threads_is_given_back() -> None:
    """The picking takes one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        coreset.select(clusters(100, 4, 0), 10, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
