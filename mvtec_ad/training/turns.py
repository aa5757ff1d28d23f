"""Players that take turns, as the generator and the critic of a GAN: each step moves one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mvtec_ad.training.checkpoints import Run
from mvtec_ad.training.loop import Checks, Failure, descend, walk


@dataclass(frozen=True)
class Turn:
    """What one player does in a step: it minimises a loss of its own over its own weights, the others' lie still.

    Attributes:
        name: its column in the curve.
        part: whose weights it moves.
        loss_of: step and repeat (0 … times − 1) -> scalar loss; must draw what is random from `rng_of`.
        rate: step -> learning rate.
        first: step from which on it takes part.
        last: step before which it ends; None takes part to the end.
        times: how often in a step.
        momentum: β₁ of Adam; GANs want less than the usual 0.9.
        decay: weight decay.
        after: called with the step when its weights have moved.
    """

    name: str
    part: torch.nn.Module
    loss_of: Callable[[int, int], torch.Tensor]
    rate: Callable[[int], float]
    first: int = 0
    last: int | None = None
    times: int = 1
    momentum: float = 0.9
    decay: float = 0.0
    after: Callable[[int], None] | None = None

    def active(self, step: int) -> bool:
        """Whether it takes part in a step."""
        return self.first <= step < (math.inf if self.last is None else self.last)


def train_in_turns(
    model: torch.nn.Module,
    turns: Sequence[Turn],
    *,
    steps: int,
    checkpoint: Path | None = None,
    every: int = 100,
    identity: dict[str, Any] | None = None,
    until: int | None = None,
    description: str = "training",
    progress: bool = True,
) -> pd.DataFrame:
    """Let the players of a game, as generator and critic, minimise losses of their own with AdamW.

    In every step each active turn comes in order, `times` times, while the weights of the others lie still: gradients
    pass through them, but none is computed for them. No half precision: the penalty of a critic needs gradients of
    gradients.

    Args:
        model: holds all parts, in place; what it keeps in buffers is in the checkpoint too.
        turns: in order.
        steps: to take in all, those of an interrupted run included.
        checkpoint: as in `train`, and so are `every`, `identity`, `until`, `description` and `progress`.

    Returns:
        The curve: column step and one for every turn, its mean loss in the step, NaN where it took no part; `attrs` as
        in `train`.

    Raises:
        TrainingError: as in `train`.
    """
    run = Run(model, {turn.name: _optimiser(turn) for turn in turns}, torch.amp.GradScaler(enabled=False))

    def take(step: int, failure: Failure) -> dict[str, float]:
        return {turn.name: _move(run, turn, step, failure) if turn.active(step) else math.nan for turn in turns}

    identity = {"steps": steps, **(identity or {})}
    return walk(run, take, steps, Checks(), checkpoint, every, identity, until, description, progress)


def _move(run: Run, turn: Turn, step: int, failure: Failure) -> float:
    """A player's moves of one step; the mean of its loss."""
    values = []
    with _alone(run.model, turn.part):
        for repeat in range(turn.times):
            values.append(descend(run, turn.name, turn.loss_of(step, repeat), turn.rate(step), failure))
    if turn.after:
        turn.after(step)
    return float(np.mean(values))


@contextmanager
def _alone(model: torch.nn.Module, part: torch.nn.Module) -> Iterator[None]:
    """No gradient is computed for weights outside the part."""
    own = {id(weights) for weights in part.parameters()}
    others = [weights for weights in model.parameters() if weights.requires_grad and id(weights) not in own]
    for weights in others:
        weights.requires_grad_(False)
    try:
        yield
    finally:
        for weights in others:
            weights.requires_grad_(True)


def _optimiser(turn: Turn) -> torch.optim.Optimizer:
    own = [weights for weights in turn.part.parameters() if weights.requires_grad]
    return torch.optim.AdamW(own, lr=1.0, betas=(turn.momentum, 0.999), weight_decay=turn.decay)
