"""The drift alarm: fair bets, p-values that are uniform and independent, an alarm rarely false and soon raised."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from mvtec_ad import drift
from mvtec_ad.drift import JUMPS, SHAPES, Martingale
from mvtec_ad.errors import DataError, SettingsError


def p_values(good: np.ndarray, parts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Of all parts in order."""
    line = Martingale(good, seed=seed)
    return np.array([line.p_value(part) for part in parts])


def test_the_wealth_is_that_of_a_jumper_between_beta_densities() -> None:
    """Bet by bet with scipy's densities, every gambler by himself, from the p-values alone."""
    rng = np.random.default_rng(0)
    good, parts = rng.normal(size=30), rng.normal(0.7, size=40)
    gamblers = [[1 / len(SHAPES)] * len(SHAPES) for _ in JUMPS]
    wealth = []
    for p in p_values(good, parts):
        for number, jump in enumerate(JUMPS):
            money = gamblers[number]
            moved = [(1 - jump) * stake + jump * sum(money) / len(money) for stake in money]
            pairs = zip(moved, SHAPES, strict=True)
            gamblers[number] = [stake * stats.beta.pdf(p, *shape) for stake, shape in pairs]
        wealth.append(np.mean([sum(money) for money in gamblers]))
    line = Martingale(good)
    np.testing.assert_allclose([line.update(part) for part in parts], wealth, rtol=1e-9)
    assert line.largest == pytest.approx(max(1.0, *wealth), rel=1e-9)


def test_p_values_count_all_that_came_before() -> None:
    """With ties, against a count by hand: p lies between the shares of the larger and of those not smaller."""
    good, parts = [1.0, 2.0, 2.0, 5.0], [2.0, 5.0, 0.0, 9.0, 2.0]
    before = list(good)
    for part, p in zip(parts, p_values(np.array(good), np.array(parts)), strict=True):
        before.append(part)
        larger, not_smaller = sum(x > part for x in before), sum(x >= part for x in before)
        assert larger / len(before) <= p <= not_smaller / len(before)


@pytest.mark.parametrize("discrete", [False, True])
def test_p_values_stay_uniform_and_independent_when_memory_is_full(
    monkeypatch: pytest.MonkeyPatch, discrete: bool
) -> None:
    """Of 5,000 short lines with room for eight scores: each p-value uniform, neighbours without correlation.

    A window that forgets the oldest, or a reference that stays, fails the second.
    """
    monkeypatch.setattr(drift, "MEMORY", 8)
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(5000, 18))
    scores = np.round(scores) if discrete else scores
    table = np.stack([p_values(row[:6], row[6:], seed) for seed, row in enumerate(scores)])
    assert min(stats.kstest(column, "uniform").pvalue for column in table.T) > 0.001
    correlation = np.corrcoef(table.T)[np.triu_indices(table.shape[1], 1)]
    assert np.abs(correlation).max() < stats.norm.isf(0.001 / 2 / len(correlation)) / np.sqrt(len(table))
    assert len(Martingale(np.arange(50.0)).state()["reference"]) == 8


def test_a_line_may_teach_what_is_normal() -> None:
    """Without good scores: the first p-value is a plain uniform number, no quiet line alarms, a change is seen soon."""
    first = np.array([Martingale(seed=seed).p_value(7.0) for seed in range(500)])
    assert stats.kstest(first, "uniform").pvalue > 0.001
    rng = np.random.default_rng(6)
    line = Martingale()
    for part in rng.normal(size=300):
        line.update(part)
    assert not line.alarm
    for part in rng.normal(2, size=40):
        line.update(part)
    assert line.alarm


def test_false_alarms_keep_the_guarantee() -> None:
    """Of 200 exchangeable lines of 200 parts at 10 %, no more alarms than chance (99.9 %) allows; a score of heavy
    tails, and what passes a calibrated threshold."""
    rng = np.random.default_rng(2)
    alarms = 0
    for number in range(200):
        good, parts = np.exp(3 * rng.normal(size=60)), np.exp(3 * rng.normal(size=200))
        line = Martingale(good, 0.1, seed=number, threshold=np.sort(good)[-4] if number % 2 else None)
        for part in parts:
            line.update(part)
        alarms += line.alarm
    assert alarms <= stats.binom.ppf(0.999, 200, 0.1)


@pytest.mark.parametrize(
    ("changed", "latest"),
    [
        (lambda parts: parts + 2, 30),
        (lambda parts: parts + 1, 120),
        (lambda parts: parts - 1, 120),
        (lambda parts: 3 * parts, 120),
        (lambda parts: parts / 4, 120),
        (lambda parts: 0 * parts + 0.5, 120),
    ],
    ids=["up 2 sd", "up 1 sd", "down 1 sd", "wider", "narrower", "frozen"],
)
def test_every_kind_of_drift_is_seen_soon(changed, latest) -> None:
    """After 200 quiet parts: nine lines of ten within the delay."""
    delays = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        line = Martingale(rng.normal(size=200), seed=seed)
        for part in rng.normal(size=200):
            line.update(part)
        assert not line.alarm
        after = changed(rng.normal(size=latest))
        delays.append(next((count for count, part in enumerate(after) if line.update(part) >= line.limit), np.inf))
    assert np.sort(delays)[8] <= latest


def test_defects_that_are_caught_are_no_drift() -> None:
    """What does not pass the threshold changes nothing, and is not counted."""
    rng = np.random.default_rng(3)
    line = Martingale(rng.normal(size=100), threshold=2.0)
    before = line.state()
    assert line.update(50.0) == 1.0
    assert line.state() == before
    line.update(1.0)
    assert line.seen == 1


def test_a_restarted_line_goes_on_as_if_it_had_not_been() -> None:
    """Through JSON, the alarm too; and wealth beyond any float stays a number."""
    rng = np.random.default_rng(4)
    line = Martingale(rng.normal(size=50), seed=4)
    for part in rng.normal(6, size=2000):
        line.update(part)
    again = Martingale.from_state(json.loads(json.dumps(line.state(), allow_nan=False)))
    assert again.alarm
    assert again.largest == line.largest < np.inf
    parts = rng.normal(size=20)
    assert [again.update(part) for part in parts] == [line.update(part) for part in parts]
    assert again.alarm  # it stays raised


def test_what_cannot_be_judged_is_named() -> None:
    """In one line each."""
    with pytest.raises(SettingsError, match="between 0 and 1"):
        Martingale([1.0], alarm_rate=0)
    with pytest.raises(DataError, match="finite"):
        Martingale([np.nan])
    line = Martingale([1.0])
    with pytest.raises(DataError, match="no number"):
        line.update(np.inf)
    for state in ({}, {**line.state(), "shares": [1]}, {**line.state(), "reference": [np.nan]}):
        with pytest.raises(DataError, match="remove it"):
            Martingale.from_state(state)


def test_numpy_is_enough() -> None:
    """A service without torch, scipy, scikit-learn and pandas watches its line."""
    text = "import sys, mvtec_ad.drift; print([n for n in ('torch', 'scipy', 'sklearn', 'pandas') if n in sys.modules])"
    child = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert child.stdout.strip() == "[]", child.stderr
