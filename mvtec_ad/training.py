"""The one training loop, visible wherever it stands.

    with Run(network, lr=1e-3, steps=600, seed=0, checkpoint=path, identity=options) as run:
        for step in run:                                       # goes on where a killed run stopped
            images = batch(good, run.rng(step))                # everything random comes from the step's number
            run.minimise(loss(network(images), images))        # of=critic / of=generator where players take turns
            if run.due(50):
                with run.evaluating():                         # evaluation mode, no gradients, full precision
                    run.keep_best(validation_loss())           # early stopping ends the for

A step draws everything random from its own number, so a run that was interrupted needs no state of a random generator:
after a resume the same steps follow with the same numbers (bit by bit on a CPU; a GPU's own sums vary).
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mvtec_ad.artifacts import atomic_write
from mvtec_ad.config import make_folder, transfer_folder
from mvtec_ad.errors import SettingsError, TrainingError
from mvtec_ad.frameworks import keep_triton_out


def warm_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: a linear start over a twentieth of the steps, then a half cosine down to 0.

    Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5, one cycle.
    """
    start = max(1, round(0.05 * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def constant(step: int, steps: int) -> float:
    """Factor 1 on the learning rate."""
    return 1.0


class Run:
    """A training: its steps, optimisers (AdamW), checkpoint, best weights and curve.

    Args:
        network: its parameters are trained, in place; a checkpoint holds all of its state.
        lr: highest learning rate.
        steps: to take in all, those of an interrupted run included.
        seed: of `rng`.
        schedule: step, steps -> factor on the learning rate.
        beta1: β₁ of Adam; GANs want less than the usual 0.9.
        weight_decay: of AdamW.
        factors: child of the network -> factor on the rate of its parameters; 1 for all others.
        every: steps between checkpoints, and what `due` means without a number.
        patience: stop after so many `keep_best` without progress; 0 never stops early.
        mixed: half precision in the forward pass where the network lies on a GPU; no effect on a CPU.
        checkpoint: file that holds the run so far; a run that finds it goes on from there. None keeps nothing.
        identity: what makes the run what it is (options, seed); a checkpoint of another run is refused.
        until: stop after so many steps, with a checkpoint, as if interrupted: a run that goes on from it ends the same.
        description: of the progress bar.
        progress: show it.

    Attributes:
        step: the present one; -1 before the first.
        measured: step -> what `keep_best` was given there.
        complete: whether all steps were taken, or training stopped early; only then it ends with the best weights.
        seconds_before: that an interrupted run had taken before this one.

    Raises:
        TrainingError: a loss or a weight is not finite (the step is named; the last checkpoint stays), or the
            checkpoint belongs to another run or cannot be read.
        SettingsError: `factors` names no child of the network.

    Examples:
        >>> network = nn.Linear(1, 1)
        >>> with Run(network, lr=0.1, steps=2, seed=0, progress=False) as run:
        ...     for step in run:
        ...         run.minimise(network(torch.ones(4, 1)).square().mean())
        >>> list(run.curve()["step"])
        [0, 1]
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        steps: int,
        seed: int = 0,
        schedule: Callable[[int, int], float] = warm_cosine,
        beta1: float = 0.9,
        weight_decay: float = 1e-4,
        factors: Mapping[str, float] | None = None,
        every: int = 100,
        patience: int = 0,
        mixed: bool = False,
        checkpoint: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        until: int | None = None,
        description: str = "training",
        progress: bool = True,
    ) -> None:
        self.network, self.lr, self.steps, self.seed, self.schedule = network, lr, steps, seed, schedule
        self.beta1, self.weight_decay, self.factors = beta1, weight_decay, dict(factors or {})
        self.every, self.patience, self.checkpoint, self.until = every, patience, checkpoint, until
        self.description, self.progress = description, progress
        recipe = {"steps": steps, "lr": lr, "seed": seed, "beta1": beta1, "weight_decay": weight_decay}
        recipe |= {"factors": self.factors, "every": every, "patience": patience}
        self.identity = {**recipe, **(identity or {})}
        self.precision, self.scaler = _precision(next(network.parameters()).device.type, mixed)
        self.step, self.complete, self.seconds_before, self._seconds = -1, False, 0.0, 0.0
        self.measured: dict[int, dict[str, float]] = {}
        self._ranks: list[Any] = []
        self._losses: list[dict[str, float]] = []  # of the steps taken
        self._moves: dict[str, list[float]] = {}  # of the present step
        self._best: dict[str, Any] = {}
        self._optimisers: dict[str, torch.optim.Optimizer] = {}
        self._states: dict[str, Any] = {}  # of optimisers that a checkpoint holds, until they are asked for
        unknown = sorted(set(self.factors) - {name.partition(".")[0] for name, _ in network.named_parameters()})
        if unknown:
            raise SettingsError(f"the model has no part {unknown[0]!r} whose rate could be changed")

    def __enter__(self) -> Run:
        if self.checkpoint:
            self._resume()
        self.seconds_before = self._seconds
        self._begun = time.perf_counter() - self._seconds
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and self.complete and self._best:
            self.network.load_state_dict(self._best)

    def __iter__(self) -> Iterator[int]:
        """The steps that are left; each has the network in training mode, and mixed precision where that is on."""
        last = min(self.steps, self.steps if self.until is None else self.until)
        stopped = False
        steps = range(len(self._losses), last)
        with tqdm(steps, self.description, last, initial=steps.start, disable=not self.progress) as bar:
            for self.step in bar:
                if self.patience and self.without_progress() >= self.patience:
                    bar.set_postfix_str(f"stopped early, {self.patience} checks without progress")
                    stopped = True
                    break
                self.network.train()
                self._moves = {}
                with self.precision():
                    yield self.step
                self._losses.append({name: float(np.mean(values)) for name, values in self._moves.items()})
                if self.step % 10 == 0:
                    recent = self._losses[-50:]  # who takes no part is left out
                    means = {name: np.mean([step[name] for step in recent if name in step]) for name in recent[-1]}
                    bar.set_postfix({name: f"{mean:.4g}" for name, mean in means.items()})
                if self.due() or self.step + 1 == last:
                    self._keep()
        self.complete = stopped or len(self._losses) >= self.steps

    def rng(self, step: int, *more: int) -> np.random.Generator:
        """The random stream of one step; `more` tells apart what draws several times in a step."""
        return np.random.default_rng([self.seed, step, *more])

    def minimise(self, loss: Tensor, of: nn.Module | None = None, lr: float | None = None) -> None:
        """One step of AdamW down a loss.

        The weights of one child of the network move, or all, those of the others lie still: gradients pass through
        them, but none is computed for them. `lr` takes the place of the run's under its schedule.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._failure(value)
        names = ["loss"] if of is None else [name for name, child in self.network.named_children() if child is of]
        if not names:
            raise SettingsError("the part whose weights should move is no child of the run's network: make it one")
        name = names[0]
        optimiser = self._optimiser(name, of or self.network)
        lr = self.lr * self.schedule(self.step, self.steps) if lr is None else lr
        for group in optimiser.param_groups:
            group["lr"] = lr * group["factor"]
        optimiser.zero_grad(set_to_none=True)
        moving = None if of is None else [weights for group in optimiser.param_groups for weights in group["params"]]
        with torch.autocast(loss.device.type, enabled=False):
            self.scaler.scale(loss).backward(inputs=moving)
        self.scaler.step(optimiser)
        self.scaler.update()
        torch.clear_autocast_cache()  # of half-precision copies of the weights, which have moved
        self._moves.setdefault(name, []).append(value)

    def due(self, every: int | None = None) -> bool:
        """Whether something that happens every so many steps is due at the end of this one; the last of all counts.

        The last step before `until` does not: an interrupted run measures what an uninterrupted one would.
        """
        return (self.step + 1) % (every or self.every) == 0 or self.step + 1 == self.steps

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around a measurement: the network in evaluation mode, no gradients, full precision; then training mode."""
        self.network.eval()
        with torch.no_grad(), torch.autocast(next(self.network.parameters()).device.type, enabled=False):
            yield
        self.network.train()

    def keep_best(self, measured: float | Mapping[str, float], rank: Any = None) -> None:
        """Keep the weights where what was measured on held-out images is the best so far; the run ends with these.

        `measured` is a value, or name -> value; lowest `rank` is best, the first value without one. What is measured
        before the first step (the weights it begins with may stay the best) stands at step -1. A run that goes on knows
        it already and ignores it: ask `if not run.measured` to spare the measurement.
        """
        if self.step in self.measured:
            return
        values = {"held_out": measured} if isinstance(measured, int | float) else dict(measured)
        values = {name: float(value) for name, value in values.items()}
        for value in values.values():
            if not math.isfinite(value):
                raise self._failure(value)
        self.measured[self.step] = values
        self._ranks.append(next(iter(values.values())) if rank is None else rank)
        if self.without_progress() == 0:
            self._best = copy.deepcopy(self.network.state_dict())

    def without_progress(self) -> int:
        """How many `keep_best` came after the best one."""
        return len(self._ranks) - 1 - self._ranks.index(min(self._ranks)) if self._ranks else 0

    def curve(self) -> pd.DataFrame:
        """A row a step: columns step, each loss (NaN for who took no part), what `keep_best` was given (NaN between).

        `attrs["seconds_before"]`: seconds that an interrupted run had taken before this one.
        """
        names = dict.fromkeys(name for losses in self._losses for name in losses) or self._optimisers or {"loss": None}
        columns = {name: [losses.get(name, math.nan) for losses in self._losses] for name in names}
        curve = pd.DataFrame({"step": range(len(self._losses))} | columns)
        if self.measured:
            measured = pd.DataFrame([{"step": step, **values} for step, values in self.measured.items()])
            curve = curve.merge(measured, how="outer", on="step", sort=True)
        curve.attrs["seconds_before"] = self.seconds_before
        return curve

    # --- inside -------------------------------------------------------------------------------------------------------

    def _optimiser(self, name: str, part: nn.Module) -> torch.optim.Optimizer:
        """AdamW over a part, with what a checkpoint knows of it."""
        if name not in self._optimisers:
            groups: dict[float, list[nn.Parameter]] = {}
            for path, weights in part.named_parameters():
                child = path.partition(".")[0] if part is self.network else name
                if weights.requires_grad:
                    groups.setdefault(self.factors.get(child, 1.0), []).append(weights)
            keep_triton_out()
            optimiser = torch.optim.AdamW(
                [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
                lr=self.lr,
                betas=(self.beta1, 0.999),
                weight_decay=self.weight_decay,
            )
            if name in self._states:
                optimiser.load_state_dict(self._states.pop(name))
            self._optimisers[name] = optimiser
        return self._optimisers[name]

    def _failure(self, value: float) -> TrainingError:
        end = f"; {self.checkpoint} holds the last good state" if self.checkpoint and self.checkpoint.is_file() else ""
        step = max(self.step, 0)
        return TrainingError(f"{self.description}: the loss is {value} at step {step}: lower the learning rate{end}")

    def _keep(self) -> None:
        """Check the weights, and write the checkpoint; a killed write leaves the old one whole."""
        self._seconds = time.perf_counter() - self._begun
        if not all(bool(weights.isfinite().all()) for weights in self.network.parameters()):
            raise self._failure(math.nan)
        if not self.checkpoint:
            return
        state = {
            "network": self.network.state_dict(),
            "optimisers": self._states | {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()},
            "scaler": self.scaler.state_dict(),
            "losses": self._losses,
            "measured": self.measured,
            "ranks": self._ranks,
            "best": self._best,
            "seconds": self._seconds,
            "identity": self.identity,
        }
        with atomic_write(self.checkpoint) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        """Fill the run from its checkpoint where there is one."""
        path = self.checkpoint
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True, map_location=next(self.network.parameters()).device)
            theirs, self._states = state["identity"], dict(state["optimisers"])
        except PermissionError as problem:  # what is in it may be hours of work
            raise TrainingError(f"checkpoint {path} cannot be read (permission denied): check it") from problem
        except Exception as problem:  # torch raises whatever its unpickler meets
            raise TrainingError(f"checkpoint {path} cannot be read: remove it to begin again") from problem
        different = sorted(key for key in {*theirs, *self.identity} if theirs.get(key) != self.identity.get(key))
        if different:
            raise TrainingError(
                f"checkpoint {path} is of another run ({', '.join(different)} differ): remove it or take its options"
            )
        self.network.load_state_dict(state["network"])
        if state["scaler"]:  # empty where the run began without half precision
            self.scaler.load_state_dict(state["scaler"])
        self._losses, self.measured, self._ranks = state["losses"], state["measured"], state["ranks"]
        self._best, self._seconds = state["best"], state["seconds"]


def _precision(device: str, mixed: bool) -> tuple[Callable[[], AbstractContextManager], torch.amp.GradScaler]:
    """Context of the forward pass, and the scaler that half precision without bfloat16's range needs."""
    if not mixed or device != "cuda":
        return nullcontext, torch.amp.GradScaler(device, enabled=False)
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return lambda: torch.autocast(device, kind), torch.amp.GradScaler(device, enabled=kind == torch.float16)


def checkpoints_folder() -> Path:
    """Where trainings keep their runs, below `transfer/`; made when missing."""
    return make_folder(transfer_folder() / "checkpoints")


def checkpoint_path(folder: Path, name: str, identity: Mapping[str, Any], *images: Iterable[np.ndarray]) -> Path:
    """Where a run keeps its checkpoint: the same place for the same run only.

    `identity` is plain JSON data, all that the run depends on beside the images that it trains on.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for row in itertools.chain(*images):  # one at a time, for they need not lie in memory
        digest.update(np.ascontiguousarray(row).data)
    return folder / f"{name}-{digest.hexdigest()[:16]}.checkpoint"


def remove_checkpoints(paths: Iterable[Path]) -> None:
    """Remove the checkpoints of trainings whose result is safe."""
    for path in paths:
        path.unlink(missing_ok=True)
