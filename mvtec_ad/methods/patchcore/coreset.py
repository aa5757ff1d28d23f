"""Greedy coreset: few points that leave no point far from the nearest of them.

PatchCore's algorithm 1, the greedy solution of eq. 5 (Roth et al. 2022, arXiv:2106.08265): take again and again the
point that is farthest from all points taken. The rule is Gonzalez's (1985), whose covering radius is at most twice
the smallest possible one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm

# A 64th of the points stands for all of them between two refreshes. Measured on 163,856 × 128 and one
# core: 10 s, with a 16th 12 s, with an 8th 25 s, with a 256th 11 s.
ACTIVE_SHARE = 64
ACTIVE_LEAST = 64
# Squared distances that a matrix product gives are wrong by about this part of the largest squared length ...
PRODUCT_ROUNDING = 1e-6
# ... and those of equal points, taken from differences, are below this part of it.
EQUAL = 1e-10
CHUNK_NUMBERS = 2**22  # of a product: 17 MB


def select(
    features: torch.Tensor, number: int, *, projection: int = 128, seed: int = 0, progress: bool = True
) -> np.ndarray:
    """Greedy coreset of features, chosen in a random projection (Johnson, Lindenstrauss 1984).

    Args:
        features: (n, C) float32.
        number: how many to pick, 1 … n; n picks all of them, in their own order.
        projection: dimensions in which distances are compared; more than C: the features as they are.
        seed: of the first pick and of the projection.
        progress: show a bar.

    Returns:
        (k,) int64, distinct indices in the order of their picking. k is `number`, or less where every point left
        equals a pick.
    """
    if number >= len(features):
        return np.arange(len(features))
    generator = np.random.default_rng(seed)
    first = int(generator.integers(len(features)))
    return greedy(project(features, projection, generator), number, first, progress=progress)


def project(features: torch.Tensor, dimensions: int, generator: np.random.Generator) -> torch.Tensor:
    """Centred features times a Gaussian matrix, which keeps distances on average.

    Centring changes no distance, but short vectors lose fewer digits when distances come from products.

    Args:
        features: (n, C) float32.
        dimensions: d; with C ≤ d nothing is projected.
        generator: draws the matrix.

    Returns:
        (n, min(C, d)) float32.
    """
    mean = features.mean(0)
    width = features.shape[1]
    if width <= dimensions:
        return features - mean
    matrix = generator.normal(0, dimensions**-0.5, (width, dimensions)).astype(np.float32)
    matrix = torch.from_numpy(matrix).to(features.device)
    return torch.cat([(chunk - mean) @ matrix for chunk in features.split(max(1, CHUNK_NUMBERS // width))])


def greedy(points: torch.Tensor, number: int, first: int, *, progress: bool = True) -> np.ndarray:
    """Farthest-first picks, exact but lazy.

    The distance of a point to its nearest pick only shrinks, so a stale one is an upper bound. Only an active set, the
    points with the largest bounds, is kept up to date. While its farthest point is beyond every bound outside, it is
    the farthest of all. When it no longer is, one matrix product brings all bounds up to date, and a new set is
    chosen. Points that are equally far up to rounding may be picked in another order than the plain loop's.

    Args:
        points: (n, d) float32; best centred.
        number: how many to pick, 1 … n.
        first: index of the first pick.
        progress: show a bar.

    Returns:
        (k,) int64, distinct; k < `number` where all points left equal a pick.
    """
    lengths = points.square().sum(1)
    slack, equal = (float(lengths.max()) * share for share in (PRODUCT_ROUNDING, EQUAL))
    bounds = torch.full_like(lengths, torch.inf)  # n, squared distance to the nearest pick or more
    nearest = torch.zeros_like(lengths, dtype=torch.int64)  # n, that pick
    size = min(len(points), max(ACTIVE_LEAST, len(points) // ACTIVE_SHARE))
    picks, known = [first], 0
    with tqdm(total=number, initial=1, desc="coreset", unit="pick", disable=not progress) as bar:
        while len(picks) < number:
            _refresh(points, lengths, picks[known:], bounds, nearest)
            known = len(picks)
            active, limit = _farthest(bounds, size)
            if float(bounds[active].max()) <= equal:
                break
            own = points[active]
            distances = (own - points[nearest[active]]).square().sum(1)  # from differences: no digits are lost
            bounds[active] = distances
            with _one_thread():
                while len(picks) < number:
                    largest, place = distances.max(0)
                    sure = float(largest) > limit + slack or len(picks) == known  # nothing is surer after a refresh
                    if float(largest) <= equal or not sure:
                        break
                    picks.append(int(active[place]))
                    distances = torch.minimum(distances, (own - own[place]).square().sum(1))
                    bar.update()
    return np.array(picks)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of tiny steps gain nothing from a second thread, and on busy cores wait for it: 30 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _refresh(
    points: torch.Tensor, lengths: torch.Tensor, picks: list[int], bounds: torch.Tensor, nearest: torch.Tensor
) -> None:
    """Lower the bounds of all points to their distances from new picks, by one product in chunks."""
    if not picks:
        return
    indices = torch.tensor(picks, device=points.device)
    centres, squares = points[indices], lengths[indices]
    rows = max(1, CHUNK_NUMBERS // len(picks))
    for start in range(0, len(points), rows):
        chunk = slice(start, start + rows)
        squared, which = torch.addmm(squares, points[chunk], centres.T, alpha=-2).min(1)
        squared = (squared + lengths[chunk]).clamp_min(0)
        closer = squared < bounds[chunk]
        bounds[chunk] = torch.where(closer, squared, bounds[chunk])
        nearest[chunk] = torch.where(closer, indices[which], nearest[chunk])


def _farthest(bounds: torch.Tensor, size: int) -> tuple[torch.Tensor, float]:
    """The `size` points with the largest bounds, in ascending order, and the largest bound of the others."""
    if size == len(bounds):
        return torch.arange(size, device=bounds.device), -torch.inf
    values, indices = bounds.topk(size + 1)
    return indices[:-1].sort().values, float(values[-1])
