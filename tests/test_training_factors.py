"""Factors on the learning rate: AdamW's first step by hand, and runs that go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvtec_ad.errors import SettingsError, TrainingError
from mvtec_ad.training import rng_of, train, warm_cosine


class Pair(torch.nn.Module):
    """Two children and a weight of its own; a child's name that begins with another's."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = torch.nn.Linear(2, 3)
            self.head = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
            self.header = torch.nn.Linear(3, 1)
            self.own = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.body(x)
        return self.head(hidden) + self.header(hidden) + self.own


def loss_at(model: Pair, step: int) -> torch.Tensor:
    """Far from its least, so that no gradient is near 0."""
    x = torch.from_numpy(rng_of(1, step).uniform(1, 2, (8, 2)).astype(np.float32))
    return (model(x) - 50).square().mean()


def moved(factors: dict[str, float] | None, decay: float = 0.0, rate: float = 1e-3) -> dict[str, torch.Tensor]:
    """Weights before and after one step: name -> difference."""
    model = Pair()
    before = {name: own.detach().clone() for name, own in model.named_parameters()}
    train(model, lambda step: loss_at(model, step), steps=1, rate=rate, decay=decay, factors=factors, progress=False)
    return {name: own.detach() - before[name] for name, own in model.named_parameters()}


def test_the_first_step_is_the_rate_times_the_factor() -> None:
    """Adam's first step is the rate, whatever the gradient: m̂ / √v̂ = ±1; only named children have another one."""
    for name, step in moved({"head": 10.0, "own": 0.5}).items():
        factor = {"head": 10.0, "own": 0.5}.get(name.split(".")[0], 1.0)
        torch.testing.assert_close(step.abs(), torch.full_like(step, 1e-3 * factor), rtol=1e-3, atol=0)


def test_decay_grows_with_the_factor() -> None:
    """AdamW shrinks a weight by rate · factor · decay, beside the step."""
    plain, decayed = moved({"head": 10.0}, rate=1e-2), moved({"head": 10.0}, rate=1e-2, decay=0.3)
    weights = dict(Pair().named_parameters())
    for name in plain:
        factor = 10.0 if name.startswith("head.") else 1.0
        shrunk = -1e-2 * factor * 0.3 * weights[name].detach()
        torch.testing.assert_close(decayed[name] - plain[name], shrunk, rtol=1e-3, atol=1e-6)


def test_no_factors_are_one_everywhere() -> None:
    """None, an empty mapping, ones, and torch's own AdamW: the same bits after five steps."""
    models = [Pair() for _ in range(3)]
    for model, factors in zip(models, (None, {}, {"head": 1.0}), strict=True):
        train(model, lambda step, own=model: loss_at(own, step), steps=5, rate=0.01, factors=factors, progress=False)
    reference = Pair()
    optimiser = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=1e-4)
    for step in range(5):
        optimiser.param_groups[0]["lr"] = 0.01 * warm_cosine(step, 5)
        optimiser.zero_grad()
        loss_at(reference, step).backward()
        optimiser.step()
    for model in models:
        for one, other in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.equal(one, other)


def test_the_factor_holds_through_the_schedule() -> None:
    """Five steps of torch's AdamW with two groups, each at its own rate."""
    model, reference = Pair(), Pair()
    train(model, lambda step: loss_at(model, step), steps=5, rate=0.01, factors={"head": 10.0}, progress=False)
    groups = {True: [], False: []}
    for name, own in reference.named_parameters():
        groups[name.startswith("head.")].append(own)
    optimiser = torch.optim.AdamW([{"params": groups[False]}, {"params": groups[True]}], weight_decay=1e-4)
    for step in range(5):
        for group, factor in zip(optimiser.param_groups, (1, 10), strict=True):
            group["lr"] = 0.01 * factor * warm_cosine(step, 5)
        optimiser.zero_grad()
        loss_at(reference, step).backward()
        optimiser.step()
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_factor_of_zero_freezes() -> None:
    """Decay too."""
    steps = moved({"body": 0.0}, decay=0.5)
    assert not any(step.any() for name, step in steps.items() if name.startswith("body."))
    assert all(step.any() for name, step in steps.items() if not name.startswith("body."))


def test_an_interrupted_run_keeps_its_factors(tmp_path: Path) -> None:
    """Bit by bit; a checkpoint made with other factors, or none, is refused."""
    path = tmp_path / "run.checkpoint"
    whole, broken, again = Pair(), Pair(), Pair()
    options = {"steps": 8, "rate": 0.02, "factors": {"head": 5.0}, "progress": False}
    curve = train(whole, lambda step: loss_at(whole, step), **options)
    train(broken, lambda step: loss_at(broken, step), **options, checkpoint=path, until=3)
    for factors in ({"head": 4.0}, {"head": 5.0, "body": 2.0}, None):
        with pytest.raises(TrainingError, match=r"another run \(factors differ\)") as problem:
            train(Pair(), lambda step: loss_at(again, step), **{**options, "factors": factors}, checkpoint=path)
        assert "\n" not in str(problem.value)
    resumed = train(again, lambda step: loss_at(again, step), **options, checkpoint=path)
    assert resumed.equals(curve)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_part_that_is_not_there_is_refused() -> None:
    """A misspelt name would change nothing, silently."""
    with pytest.raises(SettingsError, match="no part 'haed'"):
        moved({"haed": 10.0})
