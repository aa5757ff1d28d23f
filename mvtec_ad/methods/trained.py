"""Methods that train a network of their own: every seed in turn, each with its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad.methods.scores import Trial
from mvtec_ad.training import checkpoint_path


def train_and_score(
    name: str,
    seeds: Sequence[int],
    identity: Callable[[int], dict[str, Any]],
    fit: Callable[[int, Path], Any],
    train: np.ndarray,
    test: np.ndarray,
) -> Iterator[Trial]:
    """Train with every seed, score, one after the other.

    A killed run that is started again goes on where its last checkpoint was (`transfer/checkpoints/`); checkpoints
    are removed when all seeds are done.

    Args:
        name: of the checkpoints.
        seeds: in order.
        identity: seed -> all that its weights depend on beside the images.
        fit: seed and where to keep its run -> the fitted model, whose `curve` is one of `training`.
        train: (N, S, S, 3) uint8 good images.
        test: (M, S, S, 3) uint8.

    Yields:
        One `Trial` per seed, in order; the seconds of its fit are those of all its runs.
    """
    paths = []
    for seed in seeds:
        begun = time.perf_counter()
        paths.append(checkpoint_path(name, identity(seed), train))
        model = fit(seed, paths[-1])
        fitted = time.perf_counter()
        seconds = fitted - begun + model.curve.attrs["seconds_before"]
        scores = model.score(test)
        yield Trial(seed, model, model.good_scores, scores, seconds, time.perf_counter() - fitted)
    for path in paths:
        path.unlink(missing_ok=True)
