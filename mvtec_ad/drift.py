"""Drift: a conformal test martingale over the scores of what passes, with a stated false-alarm guarantee.

Each new score has a smoothed conformal p-value among the good scores and those seen since. As long as all of them are
exchangeable, as those of an unchanged line are, these p-values are independent and uniform on [0, 1], whatever the
distribution of the scores. A gambler with one unit of money bets against that in a fair game: his wealth is a
non-negative martingale, which by Ville's inequality ever reaches 1/α with probability at most α, over a whole life and
without a correction for looking after each part. Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
2005, section 7.1; Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection",
COPA 2021, arXiv:2102.10439. Numpy only: a service without torch watches its line by it.
"""

from __future__ import annotations

import bisect
import math
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError, SettingsError

MEMORY = 5000  # scores that a new one is compared with: 40 kB, and what an update costs at most
# Bets are densities of p: Beta(a, b) with a and b of these. (1, 1) does not bet; a < b wins where scores rise, a > b
# where they fall; small a = b where they spread, large ones where they crowd together, as of a camera that froze.
SHAPES = tuple(product((0.5, 0.8, 1.0, 1.25, 2.0, 4.0), repeat=2))
JUMPS = (1e-2, 1e-3, 1e-4)  # share of the money on each bet that is spread over all of them before the next part
_A, _B = np.array(SHAPES).T
_LOG_BETA = np.array([math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b) for a, b in SHAPES])


class Martingale:
    """Conformal test martingale: evidence that the scores of a line have drifted, and an alarm that is rarely false.

    The wealth is the mean over `JUMPS` of a gambler who spreads it over the bets of `SHAPES` and moves that share of it
    from bet to bet at every part (Simple Jumper, section 4 of arXiv:2102.10439, there with three linear bets): so it is
    not lost on the parts before a change, and sees drift in either direction, in spread and in shape.

    Memory stays bounded without a cost in validity. A new score joins those it was compared with; where that makes more
    than `MEMORY`, one of them, drawn evenly and thus maybe the new one, is forgotten. What remains is a random part of
    the past that says nothing of which score came last, so the remaining and the coming scores are as exchangeable as
    before and the next p-value as uniform and independent. The first `MEMORY` parts are compared with all before them;
    later the past fades, and a drift much slower than `MEMORY` parts is taken for the normal state. An update costs at
    most the same at every age.

    Args:
        good_scores: Scores of good parts that nothing of the model has seen, `(n,)`, to compare the first parts with;
            () to learn from the line itself what is normal. Leave-one-out scores of a fit will not do: PatchCore's err
            on the high side (its coreset was chosen with the image present), and 62 real bottles or 67 real capsules
            that are good raise the alarm.
        alarm_rate: α, the largest probability of an alarm in the whole life of a line that does not drift.
        seed: Of the ties of p-values and of what is forgotten.
        threshold: Watch what passes only: scores below it, among the good ones and the new ones; others are ignored.
            Defects that are caught are then no drift. The calibrated threshold is one of the good scores, and given it
            those below are a sample of what passes, as the new ones are: the guarantee holds. None: every score.

    Attributes:
        value: The wealth, from 1 at the start.
        largest: Its largest value so far.
        limit: 1 / alarm_rate.
        alarm: Whether the wealth has reached the limit; it stays so.
        seen: Number of parts that it has bet on.

    Raises:
        DataError: a good score is not finite.
        SettingsError: an alarm rate outside (0, 1).

    Examples:
        >>> line = Martingale(np.arange(100.0), alarm_rate=0.01)
        >>> values = [line.update(score) for score in np.linspace(90, 130, 40)]
        >>> line.alarm, line.seen
        (True, 40)
    """

    def __init__(
        self, good_scores: ArrayLike = (), alarm_rate: float = 1 / 1000, seed: int = 0, threshold: float | None = None
    ) -> None:
        if not 0 < alarm_rate < 1:
            raise SettingsError(f"the alarm rate must lie between 0 and 1, for example 0.001, not {alarm_rate}")
        scores = np.asarray(good_scores, dtype=np.float64).ravel()
        if not np.isfinite(scores).all():
            raise DataError("a good score is not finite: drift cannot be judged; fit the model again")
        if threshold is not None:
            scores = scores[scores < threshold]
        self.alarm_rate, self.threshold = float(alarm_rate), None if threshold is None else float(threshold)
        self.seen, self.alarm = 0, False
        self._rng = np.random.default_rng(seed)
        if scores.size > MEMORY:
            scores = self._rng.choice(scores, MEMORY, replace=False)
        self._reference: list[float] = np.sort(scores).tolist()
        self._shares = np.full(
            (len(JUMPS), len(SHAPES)), 1 / (len(JUMPS) * len(SHAPES))
        )  # of the wealth; they sum to 1
        self._log_value = self._log_largest = (
            0.0  # wealth overflows some thousand parts after a drift, its log does not
        )

    @property
    def value(self) -> float:
        """The wealth now."""
        return _finite_exp(self._log_value)

    @property
    def largest(self) -> float:
        """The largest wealth so far."""
        return _finite_exp(self._log_largest)

    @property
    def limit(self) -> float:
        """The wealth that raises the alarm."""
        return 1 / self.alarm_rate

    @property
    def guarantee(self) -> str:
        """The false-alarm guarantee in a sentence."""
        return (
            f"as long as the line does not change, the probability that this alarm is ever raised is at most "
            f"{self.alarm_rate:g} (conformal test martingale, Ville's inequality)"
        )

    def update(self, score: float) -> float:
        """Bet on the next part; the wealth after it. A score that does not pass the threshold changes nothing.

        Raises:
            DataError: the score is not finite.
        """
        score = float(score)
        if not math.isfinite(score):
            raise DataError(f"the score of a part is {score}, which is no number to judge drift by")
        if self.threshold is not None and score >= self.threshold:
            return self.value
        p = self.p_value(score)
        spread = np.array(JUMPS)[:, None]
        shares = (1 - spread) * self._shares + spread * self._shares.mean(axis=1, keepdims=True)
        shares *= np.exp((_A - 1) * math.log(p) + (_B - 1) * math.log1p(-p) - _LOG_BETA)
        gain = float(shares.sum())
        self._shares = shares / gain
        self._log_value += math.log(gain)
        self._log_largest = max(self._log_largest, self._log_value)
        self.alarm = self.alarm or self._log_value >= math.log(self.limit)
        self.seen += 1
        return self.value

    def p_value(self, score: float) -> float:
        """Smoothed conformal p-value of a score, which then joins those that the next is compared with.

        p = (#{larger} + U · #{equal, itself among them}) / (N + 1) with U uniform on (0, 1): small where the score is
        high. Equation 2.20 of Vovk et al. 2005.
        """
        below, not_above = bisect.bisect_left(self._reference, score), bisect.bisect_right(self._reference, score)
        total = len(self._reference) + 1
        p = (total - 1 - not_above + self._rng.random() * (not_above - below + 1)) / total
        self._reference.insert(below, score)
        if total > MEMORY:
            del self._reference[int(self._rng.integers(total))]
        return min(max(p, 1e-15), 1 - 1e-15)  # 0 and 1 have probability zero and no logarithm

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON, for `from_state`: a line that is restarted goes on as if it had not been.

        Examples:
            >>> line = Martingale([1.0, 2.0, 3.0])
            >>> Martingale.from_state(line.state()).update(2.5) == line.update(2.5)
            True
        """
        return {
            "alarm_rate": self.alarm_rate,
            "threshold": self.threshold,
            "seen": self.seen,
            "alarm": self.alarm,
            "log_value": self._log_value,
            "log_largest": self._log_largest,
            "shares": self._shares.tolist(),
            "reference": list(self._reference),
            "random": self._rng.bit_generator.state,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Martingale:
        """The martingale that `state` describes.

        Raises:
            DataError: it is no such state, or of another version's bets.
        """
        try:
            line = cls(state["reference"], state["alarm_rate"], threshold=state["threshold"])
            line.seen, line.alarm = int(state["seen"]), bool(state["alarm"])
            line._log_value, line._log_largest = float(state["log_value"]), float(state["log_largest"])
            shares = np.array(state["shares"], dtype=np.float64)
            line._rng.bit_generator.state = state["random"]
            if shares.shape != line._shares.shape or len(line._reference) != len(state["reference"]):
                raise ValueError("other bets")
        except (KeyError, TypeError, ValueError, DataError, SettingsError) as problem:
            raise DataError(f"the saved state of the drift alarm cannot be read ({problem}): remove it") from problem
        line._shares = shares
        return line


def _finite_exp(logarithm: float) -> float:
    """e to this power, at most the largest that JSON can hold."""
    return math.exp(min(logarithm, 709.0))
