"""Players that take turns: iterates by formulas of AdamW, nothing moved that should lie still, runs that resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvtec_ad.errors import TrainingError
from mvtec_ad.training import Turn, rng_of, train_in_turns

QUIET = {"progress": False}
Weights = dict[str, np.ndarray]


class Game(nn.Module):
    """Two small players in double precision, one with batch statistics, and a sum in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.left = nn.Linear(3, 2)
            self.right = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("seen", torch.zeros(3))
        self.double()

    def points(self, step: int, player: int, repeat: int) -> Tensor:
        """(6, 3) float64, of a player's move."""
        return torch.from_numpy(rng_of(9, step, player, repeat).normal(size=(6, 3)))

    def left_loss(self, step: int, repeat: int) -> Tensor:
        """Passes through the right player."""
        points = self.points(step, 0, repeat)
        self.seen += points.mean(0)
        return (self.right(self.left(points)) - 1).square().mean()

    def right_loss(self, step: int, repeat: int) -> Tensor:
        """Passes through the left player."""
        return (self.right(self.left(self.points(step, 1, repeat))) + 0.5).square().mean()

    def turns(self, **right: Any) -> list[Turn]:
        """Left moves twice a step, right once; both all the time."""
        return [
            Turn("left", self.left, self.left_loss, lambda step: 0.1 / (1 + step), times=2, momentum=0.5),
            Turn("right", self.right, self.right_loss, lambda _: 0.05, **right),
        ]


def state(model: nn.Module) -> Weights:
    """Weights and buffers as they are now."""
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def assert_same(one: Weights, other: Weights) -> None:
    """To the bit."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


class ByHand:
    """AdamW by the formulas of Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2."""

    def __init__(self, weights: list[nn.Parameter], momentum: float, decay: float) -> None:
        self.weights, self.momentum, self.decay, self.moves = weights, momentum, decay, 0
        self.means = [np.zeros(tuple(one.shape)) for one in weights]
        self.squares = [np.zeros(tuple(one.shape)) for one in weights]

    def move(self, loss: Tensor, rate: float) -> float:
        """Down the loss; its value."""
        self.moves += 1
        gradients = torch.autograd.grad(loss, self.weights)
        for number, (own, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            slope = gradient.numpy()
            self.means[number] = self.momentum * self.means[number] + (1 - self.momentum) * slope
            self.squares[number] = 0.999 * self.squares[number] + 0.001 * slope**2
            mean = self.means[number] / (1 - self.momentum**self.moves)
            square = self.squares[number] / (1 - 0.999**self.moves)
            before = own.detach().numpy().copy()
            after = before - rate * self.decay * before - rate * mean / (np.sqrt(square) + 1e-8)
            own.data.copy_(torch.from_numpy(after))
        return loss.item()


def test_iterates_are_those_of_adamw_by_hand() -> None:
    """Several moves a step, windows, rates by step, momentum, decay: weights, statistics and curve."""
    game, twin, steps = Game(), Game(), 9
    plan: list[dict[str, Any]] = [
        {"times": 2, "momentum": 0.5, "first": 0, "last": 6, "decay": 0.0},
        {"times": 3, "momentum": 0.9, "first": 2, "last": 8, "decay": 0.3},
        {"times": 1, "momentum": 0.0, "first": 4, "last": None, "decay": 0.0},  # the left one again, by itself
    ]
    names, rates = ("left", "right", "late"), (lambda s: 0.1 / (1 + s), lambda s: 0.02 * (1 + s % 3), lambda _: 0.03)

    def players(of: Game) -> list[tuple[nn.Module, Callable[[int, int], Tensor]]]:
        return [(of.left, of.left_loss), (of.right, of.right_loss), (of.left, of.left_loss)]

    turns = [
        Turn(name, part, loss, rate, **own)
        for name, rate, (part, loss), own in zip(names, rates, players(game), plan, strict=True)
    ]
    curve = train_in_turns(game, turns, steps=steps, **QUIET)

    twin.train()
    expected = {name: np.full(steps, np.nan) for name in names}
    movers = [
        ByHand(list(part.parameters()), own["momentum"], own["decay"])
        for (part, _), own in zip(players(twin), plan, strict=True)
    ]
    for step in range(steps):
        for name, rate, (_, loss), own, mover in zip(names, rates, players(twin), plan, movers, strict=True):
            if own["first"] <= step and (own["last"] is None or step < own["last"]):
                values = [mover.move(loss(step, repeat), rate(step)) for repeat in range(own["times"])]
                expected[name][step] = sum(values) / len(values)
    assert [mover.moves for mover in movers] == [12, 18, 5]
    for name, values in state(twin).items():
        np.testing.assert_allclose(state(game)[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    assert list(curve.columns) == ["step", *names]
    assert curve["step"].tolist() == list(range(steps))
    for name in names:
        np.testing.assert_allclose(curve[name], expected[name], rtol=1e-9)
        np.testing.assert_array_equal(np.isnan(curve[name]), np.isnan(expected[name]))
    assert np.isnan(curve["left"]).tolist() == 6 * [False] + 3 * [True]


def test_torchs_own_adamw_gives_the_same_bits() -> None:
    """With the other player's weights left in the graph: that they lie still changes no gradient."""
    game, twin = Game(), Game()
    curve = train_in_turns(game, game.turns(decay=0.1), steps=5, **QUIET)
    twin.train()
    left = torch.optim.AdamW(twin.left.parameters(), lr=1.0, betas=(0.5, 0.999), weight_decay=0.0)
    right = torch.optim.AdamW(twin.right.parameters(), lr=0.05, betas=(0.9, 0.999), weight_decay=0.1)
    losses = []
    for step in range(5):
        left.param_groups[0]["lr"] = 0.1 / (1 + step)
        moves = [(left, twin.left_loss, 0), (left, twin.left_loss, 1), (right, twin.right_loss, 0)]
        for optimiser, loss_of, repeat in moves:
            loss = loss_of(step, repeat)
            twin.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert_same(state(game), state(twin))
    np.testing.assert_array_equal(curve["right"], losses[2::3])
    np.testing.assert_array_equal(curve["left"], (np.array(losses[0::3]) + np.array(losses[1::3])) / 2)


def test_the_others_lie_still() -> None:
    """Neither their weights nor their gradients change while one moves, and no gradient is computed for them."""
    game = Game()
    parts, other = {"left": game.left, "right": game.right}, {"left": "right", "right": "left"}

    def seen(name: str) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        own = list(parts[name].parameters())
        gradients = [None if one.grad is None else one.grad.numpy().copy() for one in own]
        return [one.detach().numpy().copy() for one in own], gradients

    asked = []

    def watched(name: str, loss_of: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
        def loss(step: int, repeat: int) -> Tensor:
            asked.append((step, name, repeat))
            assert all(one.requires_grad for one in parts[name].parameters())
            assert not any(one.requires_grad for one in parts[other[name]].parameters())
            before[name] = seen(name)
            before[other[name]] = seen(other[name])
            return loss_of(step, repeat)

        return loss

    def after(name: str) -> Callable[[int], None]:
        def check(step: int) -> None:
            for one, then in zip(seen(other[name]), before[other[name]], strict=True):
                for now, was in zip(one, then, strict=True):
                    assert (now is None) == (was is None)
                    assert now is None or np.array_equal(now, was)
            assert not all(map(np.array_equal, seen(name)[0], before[name][0]))
            assert all(one.requires_grad for one in game.parameters())
            checked.append((step, name))

        return check

    before: dict[str, Any] = {}
    checked: list[tuple[int, str]] = []
    turns = [
        Turn("left", game.left, watched("left", game.left_loss), lambda _: 0.1, times=2, after=after("left")),
        Turn("right", game.right, watched("right", game.right_loss), lambda _: 0.1, after=after("right")),
    ]
    train_in_turns(game, turns, steps=3, **QUIET)
    assert checked == [(step, name) for step in range(3) for name in ("left", "right")]
    assert asked == [
        (step, *move) for step in range(3) for move in (("left", 0), ("left", 1), ("right", 0))
    ]  # in order, each repeat told apart


def test_after_sees_moved_weights_once_a_step() -> None:
    """Not once a move, and not while a player takes no part."""
    game = Game()
    calls: list[tuple[int, Weights]] = []

    def after(step: int) -> None:
        calls.append((step, state(game.right)))

    turns = game.turns(times=3, first=1, last=4, after=after)
    train_in_turns(game, turns, steps=6, **QUIET)
    assert [step for step, _ in calls] == [1, 2, 3]
    assert not np.array_equal(calls[0][1]["0.weight"], Game().right[0].weight.detach())
    assert_same({name: calls[-1][1][name] for name in ("0.weight", "3.bias")}, last_of(game))


def last_of(game: Game) -> Weights:
    """Two weights of the right player at the end."""
    return {name: value for name, value in state(game.right).items() if name in ("0.weight", "3.bias")}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("player", [0, 1])
def test_what_could_learn_can_still_learn_after_an_error(player: int, error: type[BaseException]) -> None:
    """Whoever's move it was in; what was frozen from the start stays frozen."""
    game = Game()
    game.left.bias.requires_grad_(False)
    game.right[3].weight.requires_grad_(False)
    could = {name: weights.requires_grad for name, weights in game.named_parameters()}

    def fails(step: int, repeat: int) -> Tensor:
        if step == 2:
            raise error("in the middle")
        return (game.left_loss, game.right_loss)[player](step, repeat)

    turns = game.turns()
    turns[player] = Turn("failing", turns[player].part, fails, lambda _: 0.1)
    with pytest.raises(error, match="in the middle"):
        train_in_turns(game, turns, steps=5, **QUIET)
    assert {name: weights.requires_grad for name, weights in game.named_parameters()} == could


def test_frozen_weights_stay_frozen() -> None:
    """In one's own turn too, also where weights decay; the others move."""
    game = Game()
    before = state(game)
    for weights in (game.left.bias, game.right[3].weight):
        weights.requires_grad_(False)
    train_in_turns(game, game.turns(decay=0.5), steps=4, **QUIET)
    now = state(game)
    for name in ("left.bias", "right.3.weight"):
        np.testing.assert_array_equal(now[name], before[name])
        assert not game.get_parameter(name).requires_grad
        assert game.get_parameter(name).grad is None
    for name in ("left.weight", "right.0.weight", "right.3.bias"):
        assert not np.array_equal(now[name], before[name])
        assert game.get_parameter(name).requires_grad


@pytest.mark.parametrize("until", [1, 4, 5, 10])
def test_an_interrupted_game_ends_the_same(tmp_path: Path, until: int) -> None:
    """Bit by bit: weights, batch statistics, other buffers, momenta, curve; before and after a player joins."""
    window = {"first": 3, "last": 9, "times": 2}
    game = Game()
    whole = train_in_turns(game, game.turns(**window), steps=12, **QUIET)
    path = tmp_path / "game.checkpoint"
    broken = Game()
    options = {"steps": 12, "checkpoint": path, "every": 4, **QUIET}
    assert len(train_in_turns(broken, broken.turns(**window), until=until, **options)) == until
    again = Game()
    curve = train_in_turns(again, again.turns(**window), **options)
    assert curve.equals(whole)
    assert curve["right"].isna().sum() == 6
    assert curve.attrs["seconds_before"] > 0
    assert whole.attrs["seconds_before"] == 0
    assert_same(state(again), state(game))
    assert np.any(state(again)["seen"] != 0)


@pytest.mark.parametrize("player", ["left", "right"])
@pytest.mark.parametrize("killed", [2, 7, 8])
def test_a_killed_game_goes_on_from_its_last_checkpoint(tmp_path: Path, killed: int, player: str) -> None:
    """Also when one player has moved in that step and the other has not."""
    game = Game()
    whole = train_in_turns(game, game.turns(), steps=12, **QUIET)
    path = tmp_path / "game.checkpoint"
    options = {"steps": 12, "checkpoint": path, "every": 4, **QUIET}

    def noting(of: Game, steps: list[int], stop: int | None) -> list[Turn]:
        def wrap(turn: Turn) -> Turn:
            def loss_of(step: int, repeat: int) -> Tensor:
                if (step, turn.name) == (stop, player):
                    raise KeyboardInterrupt
                steps.append(step)
                return turn.loss_of(step, repeat)

            return Turn(turn.name, turn.part, loss_of, turn.rate, times=turn.times, momentum=turn.momentum)

        return [wrap(turn) for turn in of.turns()]

    broken, again = Game(), Game()
    with pytest.raises(KeyboardInterrupt):
        train_in_turns(broken, noting(broken, [], killed), **options)
    assert path.is_file() == (killed >= 4)
    taken: list[int] = []
    assert train_in_turns(again, noting(again, taken, None), **options).equals(whole)
    assert sorted(set(taken)) == list(range(killed // 4 * 4, 12))
    assert_same(state(again), state(game))
    taken.clear()
    finished = Game()
    assert train_in_turns(finished, noting(finished, taken, None), **options).equals(whole)
    assert taken == []  # a finished game is not played again
    assert_same(state(finished), state(game))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("player", "repeat"), [(0, 0), (0, 1), (1, 0)])
def test_a_loss_that_is_no_number_stops_the_game(tmp_path: Path, player: int, repeat: int, value: float) -> None:
    """Any player's, at any move: the step is named, the last good checkpoint stays and can be gone on from."""
    path = tmp_path / "game.checkpoint"
    options = {"steps": 8, "checkpoint": path, "every": 3, **QUIET}
    game = Game()
    turns = game.turns()
    good = turns[player]

    def loss_of(step: int, number: int) -> Tensor:
        loss = good.loss_of(step, number)
        return loss * 0 + value if (step, number) == (4, repeat) else loss

    turns[player] = Turn(good.name, good.part, loss_of, good.rate, times=good.times, momentum=good.momentum)
    words = rf"the loss is {value} at step 4: .*game\.checkpoint holds the last good state"
    with pytest.raises(TrainingError, match=words) as caught:
        train_in_turns(game, turns, **options)
    assert "\n" not in str(caught.value)
    assert all(weights.requires_grad for weights in game.parameters())
    kept = torch.load(path, weights_only=True)
    assert len(kept["losses"]) == 3
    clean, again = Game(), Game()
    whole = train_in_turns(clean, clean.turns(), steps=8, **QUIET)
    assert train_in_turns(again, again.turns(), **options).equals(whole)
    assert_same(state(again), state(clean))


def test_who_takes_no_part_cannot_fail() -> None:
    """Its loss is not asked for, and NaN in the curve is no failure."""
    game = Game()

    def never(step: int, repeat: int) -> Tensor:
        raise AssertionError(f"asked at {step}")

    turns = [*game.turns(), Turn("never", game.left, never, lambda _: 0.1, first=5)]
    curve = train_in_turns(game, turns, steps=5, **QUIET)
    assert curve["never"].isna().all()
    assert curve[["left", "right"]].notna().all(axis=None)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    """Broken by the last move before a checkpoint, where no loss sees it any more."""
    path = tmp_path / "game.checkpoint"
    game = Game()

    def after(step: int) -> None:
        if step == 5:
            game.left.weight.data[0, 0] = math.nan

    with pytest.raises(TrainingError, match=r"the loss is nan at step 5"):
        train_in_turns(game, game.turns(after=after), steps=8, checkpoint=path, every=3, **QUIET)
    assert len(torch.load(path, weights_only=True)["losses"]) == 3


@pytest.mark.parametrize(
    ("steps", "identity", "words"),
    [(6, {"seed": 2}, "seed differ"), (7, {"seed": 1}, "steps differ"), (6, {}, "seed differ")],
)
def test_another_games_checkpoint_is_refused(tmp_path: Path, steps: int, identity: dict[str, int], words: str) -> None:
    """What differs is named; the file is left as it is, and so is the model."""
    path = tmp_path / "game.checkpoint"
    game, other = Game(), Game()
    train_in_turns(game, game.turns(), steps=6, checkpoint=path, identity={"seed": 1}, **QUIET)
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=rf"another run \({words}\)"):
        train_in_turns(other, other.turns(), steps=steps, checkpoint=path, identity=identity, **QUIET)
    assert path.read_bytes() == before
    assert_same(state(other), state(Game()))


def test_the_model_is_in_training_mode_at_every_step() -> None:
    """Also when a player has put a part into evaluation mode in the step before."""
    game = Game()
    modes = []

    def loss_of(step: int, repeat: int) -> Tensor:
        modes.append(game.right.training)
        game.right.eval()
        return game.left_loss(step, repeat)

    train_in_turns(game, [Turn("left", game.left, loss_of, lambda _: 0.1)], steps=3, **QUIET)
    assert modes == [True, True, True]
