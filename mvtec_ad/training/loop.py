"""Steps, one after the other, of a model that minimises a loss.

A step draws everything random from its own number (`rng_of`), so a run that was interrupted needs no state of a random
generator: after a resume the same steps follow with the same numbers (bit by bit on a CPU; a GPU's own sums vary).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mvtec_ad.errors import SettingsError, TrainingError
from mvtec_ad.training.checkpoints import Order, Run, by_first, resume, save

Failure = Callable[[float], TrainingError]


def rng_of(seed: int, step: int, *more: int) -> np.random.Generator:
    """The random stream of one step of one run; `more` tells apart what draws several times in a step."""
    return np.random.default_rng([seed, step, *more])


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
    factors: Mapping[str, float] | None = None,
    held_out: Callable[[], dict[str, float]] | None = None,
    order: Order = by_first,
    check_first: bool = False,
    patience: int = 0,
    mixed: bool = False,
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
        factors: child of the model -> factor on the rate of its parameters; 1 for all others.
        held_out: measures the model as it is, in evaluation mode, on images that it does not learn from: name -> finite
            value. Asked every `every` steps and at the end; the model ends with the weights that were best.
        order: what was measured -> what it is ranked by, lowest is best; the first value when not given.
        check_first: also measure before the first step, which may stay the best.
        patience: stop after so many of these checks without progress; 0 never stops early.
        mixed: half precision in the forward pass where the model lies on a GPU; no effect on a CPU.
        checkpoint: file that holds the run so far; a run that finds it goes on from there. None keeps nothing.
        every: steps between checkpoints.
        identity: what makes the run what it is (settings, seed); a checkpoint of another run is refused.
        until: stop here, with a checkpoint, as if interrupted.
        description: of the progress bar.
        progress: show it.

    Returns:
        The curve: columns step and loss, a row a step; and what was measured on held-out images, with NaN at the steps
        between. What was measured before the first step stands at step −1.
        `curve.attrs["seconds_before"]`: seconds that an interrupted run had taken before this one.

    Raises:
        TrainingError: the loss or a weight is not finite (the step is named; the last checkpoint stays), or the
            checkpoint belongs to another run or cannot be read.
        SettingsError: `factors` names no child of the model.
    """
    optimiser = torch.optim.AdamW(_groups(model, factors or {}), lr=rate, weight_decay=decay)
    identity = {"steps": steps, "rate": rate, "decay": decay, **(identity or {})}
    if factors:
        identity["factors"] = dict(factors)
    if held_out:  # then the moments of checking decide which weights are kept
        identity |= {"every": every, "patience": patience, "check_first": check_first}
    forward, scaler = _precision(next(model.parameters()).device.type, mixed)
    run = Run(model, {"loss": optimiser}, scaler)

    def take(step: int, failure: Failure) -> dict[str, float]:
        with forward():
            loss = loss_of(step)
        return {"loss": descend(run, "loss", loss, rate * warm_cosine(step, steps), failure)}

    checks = Checks(held_out, order, check_first, patience)
    return walk(run, take, steps, checks, checkpoint, every, identity, until, description, progress)


@dataclass(frozen=True)
class Checks:
    """What is looked at between steps; see `train`."""

    held_out: Callable[[], dict[str, float]] | None = None
    order: Order = by_first
    first: bool = False
    patience: int = 0


def walk(
    run: Run,
    take: Callable[[int, Failure], dict[str, float]],
    steps: int,
    checks: Checks,
    checkpoint: Path | None,
    every: int,
    identity: dict[str, Any],
    until: int | None,
    description: str,
    progress: bool,
) -> pd.DataFrame:
    """All steps that are left of a run."""
    if checkpoint:
        resume(checkpoint, run, identity)
    last = min(steps, until or steps)
    begun = time.perf_counter() - run.seconds
    seconds_before = run.seconds
    if checks.first and not run.held_out:
        _check(run, -1, checks, _failure(description, 0, checkpoint))
    bar = tqdm(range(len(run.losses), last), description, last, initial=len(run.losses), disable=not progress)
    for step in bar:
        if checks.patience and run.without_progress(checks.order) >= checks.patience:
            bar.set_postfix_str(f"stopped early, {checks.patience} checks without progress")
            break
        run.model.train()
        failure = _failure(description, step, checkpoint)
        run.losses.append(take(step, failure))
        if step % 10 == 0:
            bar.set_postfix(_recent(run.losses[-50:]))
        if (step + 1) % every == 0 or step + 1 == last:
            run.seconds = time.perf_counter() - begun
            if not all(bool(weights.isfinite().all()) for weights in run.model.parameters()):
                raise failure(math.nan)
            _check(run, step, checks, failure)
            if checkpoint:
                save(checkpoint, run, identity)
    bar.close()
    if run.best and last == steps:
        run.model.load_state_dict(run.best)
    curve = run.curve()
    curve.attrs["seconds_before"] = seconds_before
    return curve


def _recent(losses: list[dict[str, float]]) -> dict[str, str]:
    """Mean of each loss over a few steps, for the bar; who takes no part is left out."""
    means = {name: np.mean([one[name] for one in losses]) for name in losses[-1]}
    return {name: f"{mean:.4g}" for name, mean in means.items() if math.isfinite(mean)}


def _groups(model: torch.nn.Module, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """The model's parameters by their factor on the learning rate."""
    strangers = sorted(set(factors) - {name.partition(".")[0] for name, _ in model.named_parameters()})
    if strangers:
        raise SettingsError(f"the model has no part {strangers[0]!r} whose rate could be changed")
    parts: dict[float, list[torch.nn.Parameter]] = {}
    for name, weights in model.named_parameters():
        parts.setdefault(factors.get(name.partition(".")[0], 1.0), []).append(weights)
    return [{"params": own, "factor": factor} for factor, own in parts.items()]


def _precision(device: str, mixed: bool) -> tuple[Callable[[], AbstractContextManager], torch.amp.GradScaler]:
    """Context of the forward pass, and the scaler that half precision without bfloat16's range needs."""
    if not mixed or device != "cuda":
        return nullcontext, torch.amp.GradScaler(device, enabled=False)
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return lambda: torch.autocast(device, kind), torch.amp.GradScaler(device, enabled=kind == torch.float16)


def _failure(description: str, step: int, checkpoint: Path | None) -> Failure:
    """The error for a loss that is no number."""
    kept = f"; {checkpoint} holds the last good state" if checkpoint and checkpoint.is_file() else ""
    return lambda value: TrainingError(
        f"{description}: the loss is {value} at step {step}: lower the learning rate{kept}"
    )


def descend(run: Run, name: str, loss: torch.Tensor, rate: float, failure: Failure) -> float:
    """One step down a loss; its value."""
    value = float(loss.detach())
    if not math.isfinite(value):
        raise failure(value)
    optimiser = run.optimisers[name]
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
    optimiser.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    run.scaler.step(optimiser)
    run.scaler.update()
    return value


def _check(run: Run, step: int, checks: Checks, failure: Failure) -> None:
    """Look at the held-out images where there are some."""
    wrong = run.measure(step, checks.held_out, checks.order) if checks.held_out else None
    if wrong is not None:
        raise failure(wrong)
