"""The one training loop: a budget of steps, checkpoints, exact resume, progress, and a stop when the loss is no number.

A step draws everything random from its own number (`rng_of`), so a run that was interrupted needs no state of a random
generator: after a resume the same steps follow with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mvtec_ad.errors import TrainingError
from mvtec_ad.transfer import replacing


def rng_of(seed: int, step: int) -> np.random.Generator:
    """The random stream of one step of one run."""
    return np.random.default_rng([seed, step])


def warm_cosine(step: int, steps: int, warm: float = 0.05) -> float:
    """Factor on the learning rate: a linear start over a share `warm` of the steps, then a half cosine down to 0.

    Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5, one cycle.
    """
    start = max(1, round(warm * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def train(
    model: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    *,
    steps: int,
    rate: float,
    decay: float = 1e-4,
    checkpoint: Path | None = None,
    every: int = 100,
    identity: dict[str, Any] | None = None,
    until: int | None = None,
    description: str = "training",
    progress: bool = True,
) -> pd.DataFrame:
    """Minimise a loss with AdamW under `warm_cosine`.

    Args:
        model: its parameters are trained, in place.
        loss_of: step -> scalar loss; must draw what is random from `rng_of`.
        steps: to take in all, those of an interrupted run included.
        rate: highest learning rate.
        decay: weight decay.
        checkpoint: file that holds the run so far; a run that finds it goes on from there. None keeps nothing.
        every: steps between checkpoints.
        identity: what makes the run what it is (settings, seed); a checkpoint of another run is refused.
        until: stop here, with a checkpoint, as if interrupted.
        description: of the progress bar.
        progress: show it.

    Returns:
        The curve: columns step and loss, a row a step.

    Raises:
        TrainingError: the loss is not finite (the step is named; the last checkpoint stays), or the checkpoint
            belongs to another run or cannot be read.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    identity = {"steps": steps, "rate": rate, "decay": decay, **(identity or {})}
    losses = _resume(checkpoint, model, optimiser, identity) if checkpoint else []
    model.train()
    last = min(steps, until or steps)
    bar = tqdm(range(len(losses), last), description, last, initial=len(losses), disable=not progress, unit="step")
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = rate * warm_cosine(step, steps)
        loss = loss_of(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            kept = f"; {checkpoint} holds the last good state" if checkpoint and checkpoint.is_file() else ""
            raise TrainingError(f"{description}: the loss is {value} at step {step}: lower the learning rate{kept}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(value)
        if step % 10 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4g}")
        if checkpoint and ((step + 1) % every == 0 or step + 1 == last):
            _save(checkpoint, model, optimiser, identity, losses)
    return pd.DataFrame({"step": range(len(losses)), "loss": losses})


def _save(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any], losses: list[float]
) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "identity": identity, "losses": losses}
    with replacing(path) as file:
        torch.save(state, file)


def _resume(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> list[float]:
    """Fill model and optimiser from a checkpoint where there is one; the losses so far."""
    if not path.is_file():
        return []
    try:
        state = torch.load(path, weights_only=True)
        theirs = state["identity"]
    except Exception as problem:  # torch raises whatever its unpickler meets
        raise TrainingError(f"checkpoint {path} cannot be read: remove it to begin again") from problem
    different = sorted(key for key in {*theirs, *identity} if theirs.get(key) != identity.get(key))
    if different:
        raise TrainingError(
            f"checkpoint {path} is of another run ({', '.join(different)} differ): remove it or take its settings"
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return list(state["losses"])
