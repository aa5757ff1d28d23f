"""The reject band against brute force; what one may ask a model; the combined score."""

from __future__ import annotations

import numpy as np
import pytest

from mvtec_ad.errors import DataError
from mvtec_ad.inspection.second_opinion import RejectBand, alarm_probabilities, choose_reject_band, combined_score

COSTS = {"miss": 10, "false_alarm": 1}
WIDTHS = (0.0, 0.5, 1.0, 2.0, 4.0)


def brute(labels: np.ndarray, logits: np.ndarray, called: np.ndarray, threshold: float, width: float) -> float:
    """Cost per part with a miss of 10 and a false alarm of 1, an image at a time."""
    total = 0.0
    for label, logit, chance in zip(labels, logits, called, strict=True):
        stopped = chance if abs(logit - threshold) < width else float(logit > threshold)
        total += 10 * (1 - stopped) if label else stopped
    return total / len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_width_wins(seed: int) -> None:
    """Every cost equals the loop's, none is lower than that of the chosen width, and JSON keeps them all."""
    rng = np.random.default_rng(seed)
    labels, logits, called = rng.integers(0, 2, 40), rng.normal(0, 2, 40), rng.random(40).round(1)
    band = choose_reject_band(labels, logits, called, -0.5, **COSTS, widths=WIDTHS)
    by_hand = {width: brute(labels, logits, called, -0.5, width) for width in WIDTHS}
    assert band.costs == pytest.approx(by_hand)
    assert band.costs[band.width] == pytest.approx(min(by_hand.values()))
    assert RejectBand.from_dict(band.as_dict()) == band


@pytest.mark.parametrize(
    ("logits", "called", "width"),
    [
        ([3.0, 1.0, -1.0, -3.0], [1, 1, 0, 0], 0.0),  # no mistakes: nobody is asked, and 0 is tried unnamed
        ([3.0, -1.0, -1.5, -3.0], [1, 1, 0, 0], 2.0),  # the second defect passes; both wider bands mend that
        ([3.0, -1.0, -1.5, -3.0], [0, 0, 1, 1], 0.0),  # the opposite of the truth
    ],
)
def test_of_equally_cheap_widths_the_narrowest_wins(logits: list[float], called: list[int], width: float) -> None:
    """A second opinion is asked where it mends something, and no wider."""
    assert choose_reject_band([1, 1, 0, 0], logits, called, 0.0, **COSTS, widths=(2.0, 4.0)).width == width


def test_no_band_without_images() -> None:
    """And none of lists of different lengths."""
    for lists in (([], [], []), ([1, 0], [0.0], [1.0, 0.0])):
        with pytest.raises(DataError, match="as many labels"):
            choose_reject_band(*lists, 0.0, **COSTS, widths=(0.0,))


def test_a_model_is_not_asked_about_what_it_was_fitted_on() -> None:
    """Leave-one-out scores where it has them, else its share of false alarms on what it held out."""
    fitted, scores, ids = ["a", "b", "c"], {"d": 2.0, "e": 0.5}, ["d", "a", "e", "c", "b"]
    left_out = alarm_probabilities(ids, fitted, np.array([0.1, 3.0, 0.2]), scores, 1.0)
    assert left_out.tolist() == [1, 0, 0, 0, 1]
    held_out = alarm_probabilities(ids, fitted, np.array([0.1, 3.0, 0.2, 0.3]), scores, 1.0)
    assert held_out.tolist() == [1, 0.25, 0, 0.25, 0.25]
    with pytest.raises(DataError, match="no second opinion of f"):
        alarm_probabilities(["f"], fitted, np.array([0.1]), scores, 1.0)


def test_the_combined_score_keeps_verdicts_and_order() -> None:
    """Inside the band it is the second opinion's order, within the band; outside the classifier's distance."""
    band = RejectBand(-2.0, 1.5)
    assert band.unsure([-3.6, -3.4, -2.0, -0.6, -0.4]).tolist() == [False, True, True, True, False]
    assert not RejectBand(-2.0, 0.0).unsure([-2.0]).any()  # a width of nothing is never unsure
    assert combined_score(1.0, band) == 3.0
    scores = np.array([-3.0, 0.0, 4.0, 5.0, 5.1, 9.0, 80.0])
    inside = np.array([combined_score(-1.5, band, score, 5.0) for score in scores])
    assert (np.diff(inside) > 0).all()
    assert ((inside > 0) == (scores > 5.0)).all()
    assert (np.abs(inside) <= band.width).all()
