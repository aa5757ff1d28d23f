"""Surfaces to learn from and to judge, as many and as large as the module that asks says; watched trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from mvtec_ad.training import Run

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def good(request: pytest.FixtureRequest, draw: Draw) -> np.ndarray:
    """(GOOD, SIDE, SIDE, 3) good surfaces."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, request.module.SIDE, False)[0] for _ in range(request.module.GOOD)])


@pytest.fixture(scope="module")
def test_set(request: pytest.FixtureRequest, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """EACH good and as many defective surfaces, in that order, and their masks."""
    generator, each = np.random.default_rng(1), request.module.EACH
    images, masks = zip(*[draw(generator, request.module.SIDE, k >= each) for k in range(2 * each)], strict=True)
    return np.stack(images), np.stack(masks)


@pytest.fixture(autouse=True)
def own_numbers() -> Iterator[None]:
    """No test leaves torch's global numbers changed, or depends on what ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Moves(list):
    """Places that a training asked random numbers for, in order; the one of number `stop` kills it, once."""

    stop: int | None = None


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Moves:
    """Those of every run of the test."""
    taken, rng = Moves(), Run.rng

    def watched(run: Run, *place: int) -> np.random.Generator:
        if len(taken) == taken.stop:
            taken.stop = None
            raise KeyboardInterrupt
        taken.append(place)
        return rng(run, *place)

    monkeypatch.setattr(Run, "rng", watched)
    return taken
