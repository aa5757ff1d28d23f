"""What a run holds, on disk and back, so that a killed run goes on where it was."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mvtec_ad.errors import TrainingError
from mvtec_ad.settings import transfer_folder
from mvtec_ad.transfer import replacing

# what was measured -> what it is ranked by, lowest first
Order = Callable[[dict[str, float]], Any]


def by_first(measured: dict[str, float]) -> float:
    """Rank by what was measured first."""
    return next(iter(measured.values()))


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
class Run:
    """What a checkpoint holds.

    Attributes:
        model: in training.
        optimisers: of its parts, by the name of their loss.
        scaler: of the loss; without effect but for half precision on a GPU.
        losses: of the steps taken: name -> value, NaN for who took no part in a step.
        held_out: step -> what was measured on held-out images.
        best: the model's state at the best of these.
        seconds: that it took so far.
    """

    model: torch.nn.Module
    optimisers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    losses: list[dict[str, float]] = field(default_factory=list)
    held_out: dict[int, dict[str, float]] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def measure(self, step: int, held_out: Callable[[], dict[str, float]], order: Order) -> float | None:
        """Look at the held-out images, keep the weights when they are the best so far; a value that is no number."""
        self.model.eval()
        with torch.no_grad():
            measured = {name: float(value) for name, value in held_out().items()}
        for value in measured.values():
            if not math.isfinite(value):
                return value
        self.held_out[step] = measured
        if self.without_progress(order) == 0:
            self.best = copy.deepcopy(self.model.state_dict())
        return None

    def without_progress(self, order: Order) -> int:
        """Checks since the best one."""
        ranks = [order(measured) for measured in self.held_out.values()]
        return len(ranks) - 1 - ranks.index(min(ranks)) if ranks else 0

    def curve(self) -> pd.DataFrame:
        """A row a step; what was measured on held-out images stands only where it was looked at."""
        own = _columns(self.losses) if self.losses else {name: [] for name in self.optimisers}
        curve = pd.DataFrame({"step": range(len(self.losses))} | own)
        if not self.held_out:
            return curve
        measured = pd.DataFrame({"step": list(self.held_out)} | _columns(self.held_out.values()))
        return curve.merge(measured, how="outer", on="step", sort=True)


def _columns(rows: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


def save(path: Path, run: Run, identity: dict[str, Any]) -> None:
    """Keep a run under `path`; a killed write leaves the old checkpoint whole."""
    state = {
        "model": run.model.state_dict(),
        "optimisers": {name: optimiser.state_dict() for name, optimiser in run.optimisers.items()},
        "scaler": run.scaler.state_dict(),
        "losses": run.losses,
        "held_out": run.held_out,
        "best": run.best,
        "seconds": run.seconds,
        "identity": identity,
    }
    with replacing(path) as file:
        torch.save(state, file)


def resume(path: Path, run: Run, identity: dict[str, Any]) -> None:
    """Fill a run from a checkpoint where there is one.

    Raises:
        TrainingError: the checkpoint cannot be read, or belongs to another run.
    """
    if not path.is_file():
        return
    try:
        state = torch.load(path, weights_only=True, map_location=next(run.model.parameters()).device)
        theirs, optimisers = state["identity"], state["optimisers"]
    except Exception as problem:  # torch raises whatever its unpickler meets
        raise TrainingError(f"checkpoint {path} cannot be read: remove it to begin again") from problem
    different = sorted(key for key in {*theirs, *identity} if theirs.get(key) != identity.get(key))
    if different:
        raise TrainingError(
            f"checkpoint {path} is of another run ({', '.join(different)} differ): remove it or take its settings"
        )
    run.model.load_state_dict(state["model"])
    for name, optimiser in run.optimisers.items():
        optimiser.load_state_dict(optimisers[name])
    if state["scaler"]:  # empty where the run began without half precision
        run.scaler.load_state_dict(state["scaler"])
    run.losses, run.held_out, run.best = state["losses"], state["held_out"], state["best"]
    run.seconds = state["seconds"]
