"""The training loop: the same numbers whether a run is interrupted or not, and nothing good lost."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtec_ad.errors import TrainingError
from mvtec_ad.training import rng_of, train, warm_cosine


def line() -> tuple[torch.nn.Module, object]:
    """A model with two weights, and its loss at a step on random points of y = 3 x + 1."""
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.from_numpy(rng_of(4, step).normal(size=(8, 1)).astype(np.float32))
        return (model(x) - (3 * x + 1)).square().mean()

    return model, loss_of


def test_it_learns() -> None:
    """Two weights, known in advance."""
    model, loss_of = line()
    curve = train(model, loss_of, steps=300, rate=0.1, decay=0, progress=False)
    assert model.weight.item() == pytest.approx(3, abs=0.01)
    assert model.bias.item() == pytest.approx(1, abs=0.01)
    assert list(curve.columns) == ["step", "loss"]
    assert curve["loss"].iloc[-20:].mean() < 0.01 * curve["loss"].iloc[0]


@pytest.mark.parametrize("until", [1, 7, 19])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, until: int) -> None:
    """Bit by bit, the curve too."""
    model, loss_of = line()
    whole = train(model, loss_of, steps=20, rate=0.1, progress=False)
    broken, broken_loss = line()
    path = tmp_path / "run.checkpoint"
    first = train(broken, broken_loss, steps=20, rate=0.1, checkpoint=path, until=until, every=5, progress=False)
    assert len(first) == until
    again, again_loss = line()
    second = train(again, again_loss, steps=20, rate=0.1, checkpoint=path, progress=False)
    assert second.equals(whole)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """Steps after it are taken again, with the same numbers."""
    model, loss_of = line()
    whole = train(model, loss_of, steps=20, rate=0.1, progress=False)
    broken, broken_loss = line()

    def killed(step: int) -> torch.Tensor:
        if step == 13:
            raise KeyboardInterrupt
        return broken_loss(step)

    path = tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(broken, killed, steps=20, rate=0.1, checkpoint=path, every=5, progress=False)
    again, again_loss = line()
    taken = []

    def counted(step: int) -> torch.Tensor:
        taken.append(step)
        return again_loss(step)

    assert train(again, counted, steps=20, rate=0.1, checkpoint=path, progress=False).equals(whole)
    assert taken == list(range(10, 20))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """The step is named, and the last good checkpoint stays."""
    model, loss_of = line()
    path = tmp_path / "run.checkpoint"
    with pytest.raises(TrainingError, match=r"the loss is nan at step 12: .*run\.checkpoint holds the last good state"):
        train(
            model,
            lambda step: loss_of(step) * (math.nan if step == 12 else 1),
            steps=20,
            rate=0.1,
            checkpoint=path,
            every=5,
            progress=False,
        )
    assert len(torch.load(path, weights_only=True)["losses"]) == 10


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    """What differs is named; the file is left as it is."""
    path = tmp_path / "run.checkpoint"
    model, loss_of = line()
    train(model, loss_of, steps=5, rate=0.1, checkpoint=path, identity={"seed": 1}, progress=False)
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=r"another run \(rate, seed differ\)"):
        train(model, loss_of, steps=5, rate=0.2, checkpoint=path, identity={"seed": 2}, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Empty, something else, or cut off."""
    path = tmp_path / "run.checkpoint"
    model, loss_of = line()
    train(model, loss_of, steps=5, rate=0.1, checkpoint=path, progress=False)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(TrainingError, match=r"run\.checkpoint cannot be read: remove it"):
        train(model, loss_of, steps=5, rate=0.1, checkpoint=path, progress=False)


def test_the_rate_rises_and_falls() -> None:
    """A linear start, the top, half of it in the middle of the cosine, nothing at the end."""
    factors = [warm_cosine(step, 1000) for step in range(1000)]
    assert factors[:3] == pytest.approx([1 / 50, 2 / 50, 3 / 50])
    assert max(factors) == factors[49] == factors[50] == 1
    assert factors[525] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-4
