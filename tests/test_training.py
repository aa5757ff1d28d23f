"""The visible loop: torch's AdamW, the same numbers whether a run is interrupted or not, nothing good lost."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvtec_ad import training
from mvtec_ad.errors import SettingsError, TrainingError
from mvtec_ad.training import Run, checkpoint_path, checkpoints_folder, constant, remove_checkpoints, warm_cosine

Weights = dict[str, np.ndarray]
LAST = r"run\.checkpoint holds the last good state"


def state(model: nn.Module) -> Weights:
    """Weights and buffers as they are now."""
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def equal(one: Weights, other: Weights) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def kept(path: Path) -> int:
    """Steps that a checkpoint knows."""
    return len(torch.load(path, weights_only=True)["losses"])


# --- models, and how they are trained ---------------------------------------------------------------------------------


def line() -> nn.Module:
    """Two weights, which learn y = 3 x + 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(1, 1)


def learn(
    model: nn.Module,
    values: list[float] | None = None,
    *,
    stop: int | None = None,
    first: bool = False,
    worse: Callable[[int], float] = lambda step: 1.0,
    **options: Any,
) -> tuple[Run, list[int], list[Weights]]:
    """A run, the steps it took, and the weights at its checks.

    At each check of the whole run, `first` of all or not, held-out images say the next of `values`; there is none
    without values. It is killed in step `stop`; `worse` gives a factor on the loss of a step.
    """
    taken, seen = [], []
    options = {"lr": 0.1, "steps": 20, "seed": 4, "every": 4, "progress": False} | options

    def check() -> None:
        with run.evaluating():
            assert not model.training
            assert not torch.is_grad_enabled()
            seen.append(state(model))
            run.keep_best(values[len(run.measured)])
        assert model.training

    with Run(model, **options) as run:
        if first and not run.measured:
            check()
        for step in run:
            if step == stop:
                raise KeyboardInterrupt
            taken.append(step)
            x = torch.from_numpy(run.rng(step).normal(size=(8, 1)).astype(np.float32))
            run.minimise((model(x) - (3 * x + 1)).square().mean() * worse(step))
            if values is not None and run.due():
                check()
    return run, taken, seen


class Game(nn.Module):
    """Two players in double precision, one with batch statistics and a child of the other's name, a sum in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.left = nn.Linear(3, 2)
            parts = {"left": nn.Linear(2, 4), "bend": nn.Tanh(), "norm": nn.BatchNorm1d(4), "out": nn.Linear(4, 1)}
            self.right = nn.Sequential(OrderedDict(parts))
        self.register_buffer("seen", torch.zeros(3))
        self.double()

    def loss(self, name: str, rng: np.random.Generator) -> Tensor:
        """Of either player; passes through both."""
        points = torch.from_numpy(rng.normal(size=(6, 3)))
        self.seen += points.mean(0)
        return (self.right(self.left(points)) + {"left": -1, "right": 0.5}[name]).square().mean()


PLAN = [  # name, moves a step, steps it takes part in, learning rate at a step (None: the run's, under its schedule)
    ("left", 2, {*range(6), *range(10, 12)}, lambda step: 0.1 / (1 + step)),
    ("right", 3, {*range(3, 9)}, lambda step: None),
]


def play(
    game: Game, *, stop: tuple[int, str] | None = None, worse: Any = None, **options: Any
) -> tuple[Run, list[tuple[int, str]]]:
    """A game by `PLAN`, and whose moves it took at which step; killed in the step of `stop` before that player's move.

    `worse` gives a factor on the loss from step, player and move.
    """
    options = {"lr": 0.05, "steps": 12, "seed": 9, "every": 4, "schedule": constant, "progress": False} | options
    taken = []
    with Run(game, **options) as run:
        for step in run:
            for player, (name, moves, active, lr) in enumerate(PLAN):
                if (step, name) == stop:
                    raise KeyboardInterrupt
                for move in range(moves if step in active else 0):
                    taken.append((step, name))
                    loss = game.loss(name, run.rng(step, player, move))
                    loss = loss * (worse(step, name, move) if worse else 1)
                    run.minimise(loss, of=getattr(game, name), lr=lr(step))
    return run, taken


def adamw(weights: Iterable[nn.Parameter], beta1: float, decay: float) -> torch.optim.AdamW:
    """Torch's own, every weight a group with a rate of its own."""
    return torch.optim.AdamW([{"params": [one]} for one in weights], betas=(beta1, 0.999), weight_decay=decay)


def move(optimiser: torch.optim.AdamW, loss: Tensor, lrs: list[float]) -> float:
    """Down the loss, every weight at its rate; the loss."""
    for group, lr in zip(optimiser.param_groups, lrs, strict=True):
        group["lr"] = lr
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


# --- steps ------------------------------------------------------------------------------------------------------------


def test_it_learns() -> None:
    """Two weights, known in advance; a row of the curve a step."""
    model = line()
    run, taken, _ = learn(model, steps=300, weight_decay=0)
    assert model.weight.item() == pytest.approx(3, abs=0.01)
    assert model.bias.item() == pytest.approx(1, abs=0.01)
    curve = run.curve()
    assert list(curve.columns) == ["step", "loss"]
    assert curve["step"].tolist() == taken == list(range(300))
    assert curve["loss"].iloc[-20:].mean() < 0.01 * curve["loss"].iloc[0]
    assert run.complete


@pytest.mark.parametrize("factors", [{}, {"left": 10.0, "right": 0.5}, {"right": 0.0}])
@pytest.mark.parametrize(("beta1", "decay"), [(0.9, 1e-4), (0.5, 0.3)])
def test_one_player_by_hand(factors: dict[str, float], beta1: float, decay: float) -> None:
    """AdamW under the schedule; a named child, and only it, at a rate of its own: also its decay."""
    game, twin = Game(), Game().train()
    optimiser = adamw(twin.parameters(), beta1, decay)
    scale = [factors.get(name.partition(".")[0], 1.0) for name, _ in twin.named_parameters()]
    options = {"lr": 0.02, "steps": 7, "seed": 3, "factors": factors, "beta1": beta1, "weight_decay": decay}
    losses = []
    with Run(game, **options, progress=False) as run:
        for step in run:
            run.minimise(game.loss("left", run.rng(step)))
            lr = 0.02 * warm_cosine(step, 7)
            loss = twin.loss("left", np.random.default_rng([3, step]))
            losses.append(move(optimiser, loss, [lr * one for one in scale]))
    for name, values in state(twin).items():
        np.testing.assert_allclose(state(game)[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(run.curve()["loss"], losses, rtol=1e-9)
    begun = state(Game())
    for name, _ in game.named_parameters():
        moved = factors.get(name.partition(".")[0], 1.0) != 0
        assert np.array_equal(state(game)[name], begun[name]) != moved, name


@pytest.mark.parametrize("factors", [{}, {"left": 0.5}])
def test_several_players_by_hand(factors: dict[str, float]) -> None:
    """Several moves a step, windows, rates of their own; a factor is a child's, not a grandchild's of its name."""
    game, twin = Game(), Game().train()
    run, _ = play(game, beta1=0.5, weight_decay=0.2, factors=factors)
    movers = {name: adamw(getattr(twin, name).parameters(), 0.5, 0.2) for name, *_ in PLAN}
    expected = {name: np.full(12, np.nan) for name in movers}
    for step in range(12):
        for player, (name, moves, active, lr) in enumerate(PLAN):
            if step in active:
                lrs = [(lr(step) or 0.05) * factors.get(name, 1.0)] * len(movers[name].param_groups)
                rngs = [np.random.default_rng([9, step, player, move]) for move in range(moves)]
                expected[name][step] = np.mean([move(movers[name], twin.loss(name, rng), lrs) for rng in rngs])
    for name, values in state(twin).items():
        np.testing.assert_allclose(state(game)[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    curve = run.curve()
    assert list(curve.columns) == ["step", "left", "right"]
    for name, losses in expected.items():
        np.testing.assert_allclose(curve[name], losses, rtol=1e-9)  # NaN where it took no part
    assert np.isnan(curve["left"]).tolist() == 6 * [False] + 4 * [True] + 2 * [False]


def test_the_others_lie_still() -> None:
    """Weights and gradients stay, no gradient is computed for them; what was frozen stays frozen, decay or not."""
    game = Game()
    asked: list[str] = []
    for name, weights in game.named_parameters():
        weights.register_hook(lambda _, name=name: asked.append(name.partition(".")[0]))
    frozen = game.left.bias.requires_grad_(False)
    before, begun = state(game), frozen.clone()
    with Run(game, lr=0.1, steps=2, weight_decay=0.5, progress=False) as run:
        for step in run:
            for player, other in (("left", "right"), ("right", "left")):
                asked.clear()
                gradients = {name: one.grad for name, one in game.named_parameters() if name.startswith(other)}
                run.minimise(game.loss(player, run.rng(step)), of=getattr(game, player))
                assert set(asked) == {player}
                now, own = state(game), dict(game.named_parameters())
                for name in own:
                    moved = name.startswith(player) and own[name] is not frozen
                    assert np.array_equal(now[name], before[name]) != moved, name
                assert all(own[name].grad is gradient for name, gradient in gradients.items())
                before = now
    assert torch.equal(frozen, begun)
    assert frozen.grad is None
    assert not frozen.requires_grad
    assert game.left.weight.requires_grad


def test_the_model_is_in_training_mode_at_every_step() -> None:
    """Also when a part was put into evaluation mode in the step before."""
    game, modes = Game(), []
    with Run(game, lr=0.1, steps=3, progress=False) as run:
        for step in run:
            modes.append(game.right.training)
            game.right.eval()
            run.minimise(game.loss("left", run.rng(step)), of=game.left)
    assert modes == [True, True, True]


def test_the_rate_rises_and_falls() -> None:
    """A linear start, the top, half of it in the middle of the cosine, nothing at the end."""
    factors = [warm_cosine(step, 1000) for step in range(1000)]
    assert factors[:3] == pytest.approx([1 / 50, 2 / 50, 3 / 50])
    assert max(factors) == factors[49] == factors[50] == 1
    assert factors[525] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-4
    assert warm_cosine(0, 1) == constant(3, 5) == 1


def test_what_is_due() -> None:
    """Every so many steps, and at the last of all; not at the last before an interruption."""
    asked: dict[Any, list[int]] = {3: [], 100: [], None: []}
    for until in (8, None):
        with Run(line(), lr=0.1, steps=11, every=4, until=until, progress=False) as run:
            for step in run:
                for every, steps in asked.items():
                    steps += [step] if run.due(every) else []
    assert asked == {3: [2, 5, 2, 5, 8, 10], 100: [10], None: [3, 7, 3, 7, 10]}


def test_a_part_that_is_not_there_is_refused() -> None:
    """A misspelt factor would change nothing, silently; a stranger's weights are in no checkpoint."""
    with pytest.raises(SettingsError, match="no part 'haed'"):
        Run(Game(), lr=0.1, steps=1, factors={"haed": 10.0})
    stranger = nn.Linear(1, 1)
    with Run(Game(), lr=0.1, steps=1, progress=False) as run:
        for _ in run:
            with pytest.raises(SettingsError, match="no child"):
                run.minimise(stranger(torch.ones(1, 1)).mean(), of=stranger)


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, [5, 4, 6, 3, 7], [5, 1, 2, 3, 0]])
@pytest.mark.parametrize("until", [0, 1, 4, 7, 16, 19])
def test_a_run_stopped_at_until_ends_the_same(tmp_path: Path, values: list[float] | None, until: int) -> None:
    """Bit by bit: weights, curve and checks, at whatever step; meanwhile it has its last weights, not its best."""
    options = {"checkpoint": tmp_path / "run.checkpoint", "patience": 0 if values is None else 2}
    whole, first, second = line(), line(), line()
    run, _, _ = learn(whole, values, patience=options["patience"])
    broken, taken, seen = learn(first, values, until=until, **options)
    assert taken == list(range(until))[: len(run.curve())]
    if until == 0:  # 0 is not none
        assert equal(state(first), state(line()))
        assert (len(broken.curve()), list(broken.curve().columns)) == (0, ["step", "loss"])
    assert broken.complete == (values == [5, 1, 2, 3, 0] and until > 16)  # stopped early by then
    if until in (4, 16) and values:
        assert equal(state(first), seen[-1])
    again, more, _ = learn(second, values, **options)
    assert taken + more == run.curve()["step"].tolist()
    assert again.curve().equals(run.curve())
    assert equal(state(second), state(whole))
    assert (again.seconds_before > 0) == (until > 0)
    assert run.seconds_before == 0
    assert again.curve().attrs["seconds_before"] == again.seconds_before


@pytest.mark.parametrize("player", ["left", "right"])
@pytest.mark.parametrize("stops", [[1], [2], [5], [7, 9], [8, 8], [9, 10]], ids=str)
def test_a_game_killed_or_stopped_ends_the_same(tmp_path: Path, stops: list[int], player: str) -> None:
    """To the bit, also where one player had moved in that step, begins after the resume, or rests for a whole part."""
    options = {"checkpoint": tmp_path / "run.checkpoint"}
    whole, first = Game(), Game()
    expected, moves = play(whole)
    with pytest.raises(KeyboardInterrupt):
        play(first, stop=(stops[0], player), **options)
    assert options["checkpoint"].is_file() == (stops[0] >= 4)
    done = 4 * (stops[0] // 4)
    for until in stops[1:]:
        _, taken = play(Game(), until=until, **options)
        assert taken == [move for move in moves if done <= move[0] < until]
        done = until
    again = Game()
    run, taken = play(again, **options)
    assert taken == [move for move in moves if move[0] >= done]
    assert run.curve().equals(expected.curve())
    assert equal(state(again), state(whole))
    assert state(again)["seen"].any()
    finished = Game()
    run, taken = play(finished, **options)
    assert taken == []  # a finished game is not played again
    assert run.complete
    assert run.curve().equals(expected.curve())
    assert equal(state(finished), state(whole))


# --- held-out images --------------------------------------------------------------------------------------------------

SEQUENCES = [  # losses at the checks, patience, checks that are made, the best of them
    ([5, 4, 3, 2, 1], 2, 5, 4),  # always better: to the end
    ([5, 1, 2, 3, 0], 2, 4, 1),  # would become better after the stop
    ([5, 1, 2, 3, 0], 3, 5, 4),
    ([5, 1, 2, 3, 4], 0, 5, 1),  # never stops early
    ([1, 2, 3, 4, 5], 1, 2, 0),
    ([3, 3, 3, 3, 3], 2, 3, 0),  # equal is no progress, and the first of the equal ones is kept
    ([3, 4, 2, 3, 2], 2, 5, 2),  # progress begins the count anew
]


@pytest.mark.parametrize(("values", "patience", "checks", "best"), SEQUENCES)
def test_early_stopping(values: list[float], patience: int, checks: int, best: int) -> None:
    """After so many checks without progress; the model ends with the weights of the best one, the curve says all."""
    model, plain = line(), line()
    run, taken, seen = learn(model, values, patience=patience)
    curve = run.curve()
    assert (len(seen), run.complete) == (checks, True)
    assert list(curve.columns) == ["step", "loss", "held_out"]
    assert curve["step"].tolist() == taken == list(range(4 * checks))
    assert curve["held_out"].dropna().to_dict() == {4 * check + 3: values[check] for check in range(checks)}
    assert equal(state(model), seen[best])
    assert not equal(seen[0], seen[1])
    whole = learn(plain)[0].curve()
    np.testing.assert_array_equal(curve["loss"], whole["loss"][: 4 * checks])  # looking changes no step
    short = learn(line(), [3, 2, 1], steps=10)[0].curve()  # no multiple of the rhythm: the last step is checked too
    assert short["held_out"].dropna().to_dict() == {3: 3, 7: 2, 9: 1}


@pytest.mark.parametrize(("values", "patience", "checks", "best"), SEQUENCES)
@pytest.mark.parametrize("killed", [2, 4, 9, 12, 15, 19])
def test_a_killed_run_stops_where_an_unbroken_one_does(
    tmp_path: Path, values: list[float], patience: int, checks: int, best: int, killed: int
) -> None:
    """The same weights, curve and stopping step, whether the best check came before or after the interruption."""
    options = {"patience": patience, "checkpoint": tmp_path / "run.checkpoint"}
    model, again, third = line(), line(), line()
    whole = learn(model, values, patience=patience)[0].curve()
    try:
        learn(line(), values, stop=killed, **options)
    except KeyboardInterrupt:
        assert len(whole) > killed
    else:
        assert len(whole) <= killed
    done = min(killed // 4, checks)  # checks that the checkpoint knows
    assert options["checkpoint"].is_file() == (done > 0)
    run, taken, seen = learn(again, values, **options)
    assert taken == list(range(4 * done, 4 * checks))
    assert len(seen) == checks - done
    assert run.curve().equals(whole)
    assert equal(state(again), state(model))
    run, taken, seen = learn(third, values, **options)  # neither trained nor measured again
    assert (taken, seen, run.complete) == ([], [], True)
    assert run.curve().equals(whole)
    assert equal(state(third), state(model))


def test_the_weights_it_began_with_may_stay_the_best(tmp_path: Path) -> None:
    """They are measured at step −1, once, also when the run is stopped and goes on."""
    path = tmp_path / "run.checkpoint"
    options = {"steps": 6, "every": 2, "first": True, "checkpoint": path}
    model, again = line(), line()
    assert len(learn(model, [1, 2, 3, 4], until=2, **options)[2]) == 2
    run, _, seen = learn(again, [1, 2, 3, 4], **options)
    assert len(seen) == 2
    assert equal(state(again), state(line()))
    curve = run.curve()
    assert curve["step"].tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert curve["loss"].isna().tolist() == [True] + 6 * [False]
    assert curve.set_index("step")["held_out"].dropna().to_dict() == {-1: 1, 1: 2, 3: 3, 5: 4}
    with Run(line(), lr=0.1, steps=6, seed=4, every=2, checkpoint=path, progress=False) as run:
        run.keep_best(0.0)  # a run that goes on knows it already
        assert run.measured[-1] == {"held_out": 1.0}
        assert run.without_progress() == 3


def test_buffers_belong_to_the_best_weights() -> None:
    """Batch statistics of the step that was best by a rank of one's own, not of the last; all values in the curve."""
    model, means = nn.BatchNorm1d(1), []
    measured = [{"auroc": a, "other": b} for a, b in ((0.9, 5.0), (1.0, 3.0), (1.0, 2.0), (1.0, 4.0), (0.5, 1.0))]
    with Run(model, lr=0.1, steps=10, every=2, progress=False) as run:
        for step in run:
            run.minimise(model(torch.from_numpy(run.rng(step).normal(step, 1, (8, 1))).float()).square().mean())
            if run.due():
                means.append(model.running_mean.item())
                now = measured[len(means) - 1]
                run.keep_best(now, rank=(-now["auroc"], now["other"]))
    assert len(set(means)) == 5
    assert model.running_mean.item() == means[2]
    assert run.curve()[["auroc", "other"]].dropna().to_dict("records") == measured


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("move", [("left", 0), ("left", 1), ("right", 2)])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, move: tuple[str, int], value: float) -> None:
    """Any player's, at any move: one line names the step, the last good checkpoint stays and can be gone on from."""
    options = {"checkpoint": tmp_path / "run.checkpoint"}

    def worse(*now: Any) -> float:
        return value if now == (5, *move) else 1

    with pytest.raises(TrainingError, match=rf"the loss is (nan|-?inf) at step 5: .*{LAST}"):
        play(Game(), worse=worse, **options)
    assert kept(options["checkpoint"]) == 4
    clean, again = Game(), Game()
    expected, _ = play(clean)
    assert play(again, **options)[0].curve().equals(expected.curve())
    assert equal(state(again), state(clean))
    with pytest.raises(TrainingError, match=r"at step 5: lower the learning rate$"):
        play(Game(), worse=worse)
    with pytest.raises(TrainingError, match=rf"the loss is {value} at step 9: "):  # of held-out images
        learn(line(), [2, value], every=5)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    """Broken by the last move before a checkpoint, where no loss sees it any more."""
    game, path = Game(), tmp_path / "run.checkpoint"

    def broken() -> None:
        with Run(game, lr=0.1, steps=8, every=3, checkpoint=path, progress=False) as run:
            for step in run:
                run.minimise(game.loss("left", run.rng(step)))
                if step == 5:
                    game.left.weight.data[0, 0] = math.nan

    with pytest.raises(TrainingError, match=rf"the loss is nan at step 5: .*{LAST}"):
        broken()
    assert kept(path) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.2},
        {"steps": 6},
        {"seed": 5},
        {"beta1": 0.5},
        {"weight_decay": 0.0},
        {"every": 5},
        {"patience": 3},
        {"factors": {"weight": 2.0}},
        {"identity": {"name": 2}},
        {"identity": {}},
    ],
    ids=str,
)
def test_another_runs_checkpoint_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What differs is named; the file is left as it is, and so is the model."""
    path = tmp_path / "run.checkpoint"
    options = {"steps": 5, "identity": {"name": 1}, "factors": {"weight": 1.5}, "checkpoint": path}
    learn(line(), **options)
    before, model = path.read_bytes(), line()
    name = "name" if "identity" in changes else next(iter(changes))
    with pytest.raises(TrainingError, match=rf"another run \({name} differ\)"):
        learn(model, **options | changes)
    assert path.read_bytes() == before
    assert equal(state(model), state(line()))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Empty, something else, or cut off."""
    path = tmp_path / "run.checkpoint"
    learn(line(), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(TrainingError, match=r"run\.checkpoint cannot be read: remove it"):
        learn(line(), checkpoint=path)


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="half precision is for GPUs")
def test_mixed_precision_changes_nothing_on_a_cpu() -> None:
    """Not a bit."""
    plain, mixed = line(), line()
    assert learn(mixed, mixed=True)[0].curve().equals(learn(plain)[0].curve())
    assert equal(state(mixed), state(plain))
    with Run(mixed, lr=0.1, steps=1, mixed=True, progress=False) as run:
        for _ in run:
            assert mixed(torch.zeros(1, 1)).dtype == torch.float32


def test_half_precision_where_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: in the forward pass of every move, with the weights as they are by then; nowhere else."""

    def on(device: str, mixed: bool) -> tuple[Any, torch.amp.GradScaler]:
        return lambda: torch.autocast("cpu", torch.bfloat16), torch.amp.GradScaler("cpu", enabled=False)

    monkeypatch.setattr(training, "_precision", on)
    model, x = line(), torch.ones(1, 1)
    backward: list[bool] = []
    model.weight.register_hook(lambda _: backward.append(torch.is_autocast_enabled("cpu")))

    def interrupted() -> None:
        with Run(model, lr=0.5, steps=3, schedule=constant, progress=False) as run:
            for step in run:
                assert torch.is_autocast_enabled("cpu")
                for _ in range(2):
                    output = model(x)
                    assert output.dtype == torch.bfloat16
                    assert output.item() == pytest.approx((model.weight + model.bias).item(), rel=0.02)
                    run.minimise((output.float() - 50).square().mean())
                with run.evaluating():
                    assert model(x).dtype == torch.float32
                if step == 1:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not torch.is_autocast_enabled("cpu")
    assert backward == 4 * [False]


# --- places -----------------------------------------------------------------------------------------------------------


def another() -> Iterator[tuple[str, Callable[[dict, list[np.ndarray]], None]]]:
    """Changes that make another run: an option, a key more, one pixel, an image less, the order."""
    yield "a value", lambda identity, images: identity.update(lr=0.2)
    yield "a nested value", lambda identity, images: identity["layers"].append(1)
    yield "another key", lambda identity, images: identity.update(more=None)
    yield "a pixel", lambda identity, images: images[0].__setitem__((0, 0, 0, 0), 255)
    yield "an image less", lambda identity, images: images.__setitem__(0, images[0][:-1])
    yield "the order", lambda identity, images: images.__setitem__(0, images[0][::-1])
    yield "more images", lambda identity, images: images.append(images[0][:1])


def test_the_same_run_has_the_same_checkpoint(own_home: Path) -> None:
    """Whatever the order of the options and the images' place in memory; any other run has a file of its own."""
    identity = {"lr": 0.1, "layers": [0], "weights": None}
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    folder = checkpoints_folder()
    assert folder == own_home / "transfer" / "checkpoints"
    assert folder.is_dir()
    path = checkpoint_path(folder, "autoencoder", identity, images)
    assert path.parent == folder
    assert not path.exists()
    assert path.name.startswith("autoencoder-")
    assert path.suffix == ".checkpoint"
    assert path == checkpoint_path(folder, "autoencoder", dict(reversed(identity.items())), images.copy())
    assert path == checkpoint_path(folder, "autoencoder", identity, np.asfortranarray(images))
    assert path == checkpoint_path(folder, "autoencoder", identity, np.repeat(images, 2, 0)[::2])
    others = {checkpoint_path(folder, "other", identity, images): "another method"}
    for file in (path, mine := path.with_name("mine.checkpoint")):
        file.touch()
    remove_checkpoints([path, folder / "gone.checkpoint"])
    assert list(folder.iterdir()) == [mine]
    for name, change in another():
        own, arrays = copy.deepcopy(identity), [images.copy()]
        change(own, arrays)
        found = checkpoint_path(folder, "autoencoder", own, *arrays)
        assert found != path, name
        assert found not in others, name
        others[found] = name
