"""The training loop: the same numbers whether a run is interrupted or not, and nothing good lost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtec_ad.errors import TrainingError
from mvtec_ad.training import checkpoint_path, rng_of, train, warm_cosine


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


def states(model: torch.nn.Module) -> list[np.ndarray]:
    """The weights as they are now."""
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """To the bit."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class HeldOut:
    """Gives a sequence of losses, one a check, and remembers the weights it was asked about."""

    def __init__(self, model: torch.nn.Module, values: list[float], asked: int = 0) -> None:
        self.model, self.values, self.asked = model, values, asked
        self.seen: list[list[np.ndarray]] = []

    def __call__(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        self.seen.append(states(self.model))
        self.asked += 1
        return {"held_out": self.values[self.asked - 1]}


SEQUENCES = [  # losses at the checks, patience, checks that are made, the best of them
    ([5, 4, 3, 2, 1], 2, 5, 4),  # always better: to the end
    ([5, 1, 2, 3, 0], 2, 4, 1),  # would become better after the stop
    ([5, 1, 2, 3, 0], 3, 5, 4),
    ([5, 1, 2, 3, 0], 0, 5, 4),  # never stops early
    ([5, 1, 2, 3, 4], 0, 5, 1),
    ([1, 2, 3, 4, 5], 1, 2, 0),
    ([3, 3, 3, 3, 3], 2, 3, 0),  # equal is no progress, and the first of the equal ones is kept
    ([3, 4, 2, 3, 2], 2, 5, 2),  # progress begins the count anew
]


@pytest.mark.parametrize(("values", "patience", "checks", "best"), SEQUENCES)
def test_early_stopping(values: list[float], patience: int, checks: int, best: int) -> None:
    """After so many checks without progress; the model ends with the weights of the best one, the curve says all."""
    model, loss_of = line()
    held_out = HeldOut(model, values)
    options = {"steps": 20, "rate": 0.1, "every": 4, "progress": False}
    curve = train(model, loss_of, held_out=held_out, patience=patience, **options)
    assert held_out.asked == checks
    assert list(curve.columns) == ["step", "loss", "held_out"]
    assert curve["step"].tolist() == list(range(4 * checks))
    assert curve["held_out"].dropna().to_dict() == {4 * check + 3: values[check] for check in range(checks)}
    assert equal(states(model), held_out.seen[best])
    assert not equal(held_out.seen[0], held_out.seen[1])
    plain, plain_loss = line()
    whole = train(plain, plain_loss, **options)
    np.testing.assert_array_equal(curve["loss"], whole["loss"][: 4 * checks])  # looking changes no step


def test_the_last_step_is_checked_too() -> None:
    """Where the number of steps is no multiple of the rhythm."""
    model, loss_of = line()
    held_out = HeldOut(model, [3, 2, 1])
    curve = train(model, loss_of, steps=10, rate=0.1, every=4, held_out=held_out, patience=1, progress=False)
    assert curve["held_out"].dropna().to_dict() == {3: 3, 7: 2, 9: 1}
    assert equal(states(model), held_out.seen[2])


def test_buffers_belong_to_the_best_weights() -> None:
    """Batch statistics of the step that was best, not of the last."""
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(1)
    means: list[float] = []

    def loss_of(step: int) -> torch.Tensor:
        return model(torch.from_numpy(rng_of(0, step).normal(step, 1, (8, 1)).astype(np.float32))).square().mean()

    def held_out() -> dict[str, float]:
        means.append(model.running_mean.item())
        return {"loss of these": abs(len(means) - 2)}

    train(model, loss_of, steps=12, rate=0.1, every=3, held_out=held_out, progress=False)
    assert len(set(means)) == 4
    assert model.running_mean.item() == means[1]


@pytest.mark.parametrize(("values", "patience", "checks", "best"), SEQUENCES)
@pytest.mark.parametrize("killed", [2, 4, 9, 11, 12, 15, 19])
def test_a_killed_run_stops_where_an_unbroken_one_does(
    tmp_path: Path, values: list[float], patience: int, checks: int, best: int, killed: int
) -> None:
    """The same weights, curve and stopping step, whether the best check came before or after the interruption."""
    options = {"steps": 20, "rate": 0.1, "every": 4, "patience": patience, "progress": False}
    model, loss_of = line()
    whole = train(model, loss_of, held_out=HeldOut(model, values), **options)
    path = tmp_path / "run.checkpoint"
    broken, broken_loss = line()

    def kill(step: int) -> torch.Tensor:
        if step == killed:
            raise KeyboardInterrupt
        return broken_loss(step)

    try:
        train(broken, kill, held_out=HeldOut(broken, values), checkpoint=path, **options)
    except KeyboardInterrupt:
        assert len(whole) > killed
    else:
        assert len(whole) <= killed
    assert path.is_file() == (killed >= 4)
    again, again_loss = line()
    taken: list[int] = []

    def counted(step: int) -> torch.Tensor:
        taken.append(step)
        return again_loss(step)

    done = min(killed // 4, checks)  # checks that the checkpoint knows
    held_out = HeldOut(again, values, done)
    curve = train(again, counted, held_out=held_out, checkpoint=path, **options)
    assert curve.equals(whole)
    assert equal(states(again), states(model))
    assert taken == list(range(4 * done, 4 * checks))
    assert held_out.asked == checks


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """Its checkpoint gives curve and best weights; neither a step is taken nor a check made."""
    path = tmp_path / "run.checkpoint"
    options = {"steps": 8, "rate": 0.1, "every": 2, "patience": 2, "checkpoint": path, "progress": False}
    model, loss_of = line()
    whole = train(model, loss_of, held_out=HeldOut(model, [2, 1, 3, 4]), **options)

    def never(*step: int) -> float:
        raise AssertionError("trained again")

    again, _ = line()
    assert train(again, never, held_out=never, **options).equals(whole)
    assert equal(states(again), states(model))


def test_stopped_at_until_the_weights_are_the_last_ones(tmp_path: Path) -> None:
    """A run that goes on later is not set back to its best weights meanwhile."""
    model, loss_of = line()
    held_out = HeldOut(model, [1, 2, 3])
    options = {"steps": 20, "rate": 0.1, "every": 2, "until": 6, "progress": False}
    train(model, loss_of, held_out=held_out, checkpoint=tmp_path / "run.checkpoint", **options)
    assert equal(states(model), held_out.seen[2])


def test_the_best_by_an_order_of_ones_own() -> None:
    """The highest first value, and the lowest second one among equals; the curve holds both."""
    model, loss_of = line()
    seen: list[list[np.ndarray]] = []
    measured = [{"auroc": a, "other": b} for a, b in ((0.9, 5.0), (1.0, 3.0), (1.0, 2.0), (1.0, 4.0), (0.5, 1.0))]

    def held_out() -> dict[str, float]:
        seen.append(states(model))
        return measured[len(seen) - 1]

    options = {"steps": 10, "rate": 0.1, "every": 2, "progress": False}
    curve = train(model, loss_of, held_out=held_out, order=lambda m: (-m["auroc"], m["other"]), **options)
    assert equal(states(model), seen[2])
    assert curve[["auroc", "other"]].dropna().to_dict("records") == measured


def test_the_weights_it_began_with_may_stay_the_best(tmp_path: Path) -> None:
    """They are measured at step −1, also when the run is killed and goes on."""
    model, loss_of = line()
    begun = states(model)
    path = tmp_path / "run.checkpoint"
    options = {"steps": 6, "rate": 0.1, "every": 2, "check_first": True, "checkpoint": path, "progress": False}
    train(model, loss_of, held_out=HeldOut(model, [1, 2]), until=2, **options)
    again, again_loss = line()
    curve = train(again, again_loss, held_out=HeldOut(again, [1, 2, 3, 4], 2), **options)
    assert equal(states(again), begun)
    assert curve["step"].tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert curve["loss"].isna().tolist() == [True] + 6 * [False]
    assert curve.set_index("step")["held_out"].dropna().to_dict() == {-1: 1, 1: 2, 3: 3, 5: 4}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_held_out_loss_that_is_no_number_stops_the_run(tmp_path: Path, value: float) -> None:
    """One line names value and step; the checkpoint before it stays and can be gone on from."""
    model, loss_of = line()
    path = tmp_path / "run.checkpoint"
    options = {"steps": 20, "rate": 0.1, "every": 5, "patience": 3, "checkpoint": path, "progress": False}
    words = rf"the loss is {value} at step 9: .*run\.checkpoint holds the last good state"
    with pytest.raises(TrainingError, match=words) as caught:
        train(model, loss_of, held_out=HeldOut(model, [2, value]), **options)
    assert "\n" not in str(caught.value)
    assert len(torch.load(path, weights_only=True)["losses"]) == 5
    again, again_loss = line()
    curve = train(again, again_loss, held_out=HeldOut(again, [2, 1, 0, 3], 1), **options)
    assert curve["held_out"].dropna().tolist() == [2, 1, 0, 3]


def test_another_patience_is_another_run(tmp_path: Path) -> None:
    """It would have stopped elsewhere."""
    path = tmp_path / "run.checkpoint"
    model, loss_of = line()
    options = {"steps": 5, "rate": 0.1, "checkpoint": path, "progress": False}
    train(model, loss_of, held_out=lambda: {"loss": 1.0}, patience=2, **options)
    with pytest.raises(TrainingError, match=r"another run \(patience differ\)"):
        train(model, loss_of, held_out=lambda: {"loss": 1.0}, patience=3, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="half precision is for GPUs")
def test_mixed_precision_changes_nothing_on_a_cpu() -> None:
    """Not a bit."""
    (plain, plain_loss), (mixed, mixed_loss) = line(), line()
    types: set[torch.dtype] = set()

    def watched(step: int) -> torch.Tensor:
        types.add(mixed(torch.zeros(1, 1)).dtype)
        return mixed_loss(step)

    one = train(plain, plain_loss, steps=20, rate=0.1, progress=False)
    other = train(mixed, watched, steps=20, rate=0.1, mixed=True, progress=False)
    assert other.equals(one)
    assert equal(states(mixed), states(plain))
    assert types == {torch.float32}


def another() -> Iterator[tuple[str, Callable[[dict, list[np.ndarray]], None]]]:
    """Changes that make another run: a setting, a key more, one pixel, an image less, the order, another method."""
    yield "a value", lambda identity, images: identity.update(rate=0.2)
    yield "a nested value", lambda identity, images: identity["seeds"].append(1)
    yield "another key", lambda identity, images: identity.update(more=None)
    yield "a pixel", lambda identity, images: images[0].__setitem__((0, 0, 0, 0), 255)
    yield "an image less", lambda identity, images: images.__setitem__(0, images[0][:-1])
    yield "the order", lambda identity, images: images.__setitem__(0, images[0][::-1])
    yield "more images", lambda identity, images: images.append(images[0][:1])


def test_the_same_run_has_the_same_checkpoint(own_home: Path) -> None:
    """Whatever the order of the settings and the images' place in memory; any other run has a file of its own."""
    identity = {"rate": 0.1, "seeds": [0], "weights": None}
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    path = checkpoint_path("autoencoder", identity, images)
    assert path.parent == own_home / "transfer" / "checkpoints"
    assert path.parent.is_dir()
    assert not path.exists()
    assert path.name.startswith("autoencoder-")
    assert path.suffix == ".checkpoint"
    assert path == checkpoint_path("autoencoder", dict(reversed(identity.items())), images.copy())
    assert path == checkpoint_path("autoencoder", identity, np.asfortranarray(images))
    assert path == checkpoint_path("autoencoder", identity, np.repeat(images, 2, 0)[::2])
    others = {checkpoint_path("other", identity, images): "another method"}
    for name, change in another():
        own, arrays = copy.deepcopy(identity), [images.copy()]
        change(own, arrays)
        found = checkpoint_path("autoencoder", own, *arrays)
        assert found != path, name
        assert found not in others, name
        others[found] = name
