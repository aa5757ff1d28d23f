"""The one training loop: a budget of steps, checkpoints, exact resume, early stopping, mixed precision, progress.

A step draws everything random from its own number (`rng_of`), so a run that was interrupted needs no state of a random
generator: after a resume the same steps follow with the same numbers (bit by bit on a CPU; a GPU's own sums vary).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mvtec_ad.errors import SettingsError, TrainingError
from mvtec_ad.settings import transfer_folder
from mvtec_ad.transfer import replacing

# what was measured -> what it is ranked by, lowest first
Order = Callable[[dict[str, float]], Any]


def _by_first(measured: dict[str, float]) -> float:
    return next(iter(measured.values()))


def _columns(rows: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


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


def checkpoint_path(name: str, identity: dict[str, Any], *images: np.ndarray) -> Path:
    """Where a run keeps its checkpoint, below `transfer/checkpoints/`: the same place for the same run only.

    Args:
        name: of the method.
        identity: plain JSON data, all that the run depends on beside the images.
        *images: that it trains on.

    Raises:
        TrainingError: the folder cannot be made.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for array in images:
        digest.update(np.ascontiguousarray(array).data)
    try:
        folder = transfer_folder() / "checkpoints"
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise TrainingError(
            f"the folder {problem.filename} cannot be made: {problem.strerror}; set MVTEC_AD_HOME to a folder of yours"
        ) from problem
    return folder / f"{name}-{digest.hexdigest()[:16]}.checkpoint"


@dataclass
class _Run:
    """What a checkpoint holds.

    Attributes:
        model: in training.
        optimiser: of its parameters.
        scaler: of the loss; without effect but for half precision on a GPU.
        losses: of the steps taken.
        held_out: step -> what was measured on held-out images.
        best: the model's state at the best of these.
        seconds: that it took so far.
    """

    model: torch.nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    losses: list[float] = field(default_factory=list)
    held_out: dict[int, dict[str, float]] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def without_progress(self, order: Order) -> int:
        """Checks since the best one."""
        ranks = [order(measured) for measured in self.held_out.values()]
        return len(ranks) - 1 - ranks.index(min(ranks)) if ranks else 0

    def curve(self) -> pd.DataFrame:
        """A row a step; what was measured on held-out images stands only where it was looked at."""
        curve = pd.DataFrame({"step": range(len(self.losses)), "loss": self.losses})
        if not self.held_out:
            return curve
        measured = pd.DataFrame({"step": list(self.held_out)} | _columns(self.held_out.values()))
        return curve.merge(measured, how="outer", on="step", sort=True)


def train(
    model: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    *,
    steps: int,
    rate: float,
    decay: float = 1e-4,
    factors: Mapping[str, float] | None = None,
    held_out: Callable[[], dict[str, float]] | None = None,
    order: Order = _by_first,
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
    run = _Run(model, optimiser, scaler)
    if checkpoint:
        _resume(checkpoint, run, identity)
    last = min(steps, until or steps)
    begun = time.perf_counter() - run.seconds
    seconds_before = run.seconds
    if held_out and check_first and not run.held_out:
        _check(run, -1, held_out, order, _failure(description, 0, checkpoint))
    bar = tqdm(range(len(run.losses), last), description, last, initial=len(run.losses), disable=not progress)
    for step in bar:
        if patience and run.without_progress(order) >= patience:
            bar.set_postfix_str(f"stopped early, {patience} checks without progress")
            break
        model.train()
        with forward():
            loss = loss_of(step)
        _step(run, loss, rate * warm_cosine(step, steps), _failure(description, step, checkpoint))
        if step % 10 == 0:
            bar.set_postfix(loss=f"{np.mean(run.losses[-50:]):.4g}")
        if (step + 1) % every == 0 or step + 1 == last:
            run.seconds = time.perf_counter() - begun
            if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
                raise _failure(description, step, checkpoint)(math.nan)
            if held_out:
                _check(run, step, held_out, order, _failure(description, step, checkpoint))
            if checkpoint:
                _save(checkpoint, run, identity)
    bar.close()
    if run.best and last == steps:
        model.load_state_dict(run.best)
    curve = run.curve()
    curve.attrs["seconds_before"] = seconds_before
    return curve


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


def _failure(description: str, step: int, checkpoint: Path | None) -> Callable[[float], TrainingError]:
    """The error for a loss that is no number."""
    kept = f"; {checkpoint} holds the last good state" if checkpoint and checkpoint.is_file() else ""
    return lambda value: TrainingError(
        f"{description}: the loss is {value} at step {step}: lower the learning rate{kept}"
    )


def _step(run: _Run, loss: torch.Tensor, rate: float, failure: Callable[[float], TrainingError]) -> None:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise failure(value)
    for group in run.optimiser.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)  # absent from checkpoints of before
    run.optimiser.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    run.scaler.step(run.optimiser)
    run.scaler.update()
    run.losses.append(value)


def _check(
    run: _Run,
    step: int,
    held_out: Callable[[], dict[str, float]],
    order: Order,
    failure: Callable[[float], TrainingError],
) -> None:
    """Look at the held-out images; keep the weights when they are the best so far."""
    run.model.eval()
    with torch.no_grad():
        measured = {name: float(value) for name, value in held_out().items()}
    for value in measured.values():
        if not math.isfinite(value):
            raise failure(value)
    run.held_out[step] = measured
    if run.without_progress(order) == 0:
        run.best = copy.deepcopy(run.model.state_dict())


def _save(path: Path, run: _Run, identity: dict[str, Any]) -> None:
    state = {
        "model": run.model.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "scaler": run.scaler.state_dict(),
        "losses": run.losses,
        "held_out": run.held_out,
        "best": run.best,
        "seconds": run.seconds,
        "identity": identity,
    }
    with replacing(path) as file:
        torch.save(state, file)


def _resume(path: Path, run: _Run, identity: dict[str, Any]) -> None:
    """Fill a run from a checkpoint where there is one."""
    if not path.is_file():
        return
    try:
        state = torch.load(path, weights_only=True, map_location=next(run.model.parameters()).device)
        theirs = state["identity"]
    except Exception as problem:  # torch raises whatever its unpickler meets
        raise TrainingError(f"checkpoint {path} cannot be read: remove it to begin again") from problem
    different = sorted(key for key in {*theirs, *identity} if theirs.get(key) != identity.get(key))
    if different:
        raise TrainingError(
            f"checkpoint {path} is of another run ({', '.join(different)} differ): remove it or take its settings"
        )
    run.model.load_state_dict(state["model"])
    run.optimiser.load_state_dict(state["optimiser"])
    if state["scaler"]:  # empty where the run began without half precision
        run.scaler.load_state_dict(state["scaler"])
    run.losses, run.held_out, run.best = state["losses"], state["held_out"], state["best"]
    run.seconds = state["seconds"]
