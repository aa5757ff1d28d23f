"""The band of the second opinion, against brute force; what one may ask a model; the joined score."""

from __future__ import annotations

import numpy as np
import pytest

from mvtec_ad.errors import DataError
from mvtec_ad.inspector.opinion import Band, chances, choose_band, joined

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
    """Every cost equals the loop's, and none is lower than that of the chosen width."""
    rng = np.random.default_rng(seed)
    labels, logits, called = rng.integers(0, 2, 40), rng.normal(0, 2, 40), rng.random(40).round(1)
    band = choose_band(labels, logits, called, -0.5, miss=10, false_alarm=1, widths=WIDTHS)
    by_hand = {width: brute(labels, logits, called, -0.5, width) for width in WIDTHS}
    assert band.costs == pytest.approx(by_hand)
    assert band.costs[band.width] == pytest.approx(min(by_hand.values()))


def test_of_equally_cheap_widths_the_narrowest_wins() -> None:
    """A classifier without mistakes asks nobody; and 0 is tried even when it is not named."""
    labels, logits = np.array([1, 1, 0, 0]), np.array([3.0, 1.0, -1.0, -3.0])
    assert choose_band(labels, logits, labels, 0.0, miss=10, false_alarm=1, widths=(2.0, 4.0)).width == 0.0
    wrong = np.array([3.0, -1.0, -1.5, -3.0])  # the second defect passes; both wider bands mend that
    assert choose_band(labels, wrong, labels, 0.0, miss=10, false_alarm=1, widths=(2.0, 4.0)).width == 2.0


def test_a_bad_second_opinion_is_not_asked() -> None:
    """One that says the opposite of the truth."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    logits = 2.0 * labels - 1 + rng.normal(0, 0.5, 50)
    assert choose_band(labels, logits, 1 - labels, 0.0, miss=10, false_alarm=1, widths=WIDTHS).width == 0.0


def test_a_band_survives_json() -> None:
    """With the costs of every width."""
    band = Band(-2.3, 1.5, {0.0: 0.4, 1.5: 0.1})
    assert Band.from_dict(band.as_dict()) == band


def test_no_band_without_images() -> None:
    """And none of lists of different lengths."""
    for lists in (([], [], []), ([1, 0], [0.0], [1.0, 0.0])):
        with pytest.raises(DataError, match="as many labels"):
            choose_band(*lists, 0.0, miss=1, false_alarm=1, widths=(0.0,))


def test_a_model_is_not_asked_about_what_it_was_fitted_on() -> None:
    """Leave-one-out scores where it has them, else its share of false alarms on what it held out."""
    fitted, asked = ["a", "b", "c"], {"d": 2.0, "e": 0.5}
    ids = ["d", "a", "e", "c", "b"]
    left_out = chances(ids, fitted, np.array([0.1, 3.0, 0.2]), asked, 1.0)
    assert left_out.tolist() == [1, 0, 0, 0, 1]
    held_out = chances(ids, fitted, np.array([0.1, 3.0, 0.2, 0.3]), asked, 1.0)
    assert held_out.tolist() == [1, 0.25, 0, 0.25, 0.25]
    with pytest.raises(DataError, match="no second opinion of f"):
        chances(["f"], fitted, np.array([0.1]), asked, 1.0)


def test_the_joined_score_keeps_verdicts_and_order() -> None:
    """Inside the band it is the second opinion's order, within the band; outside the classifier's distance."""
    band = Band(-2.0, 1.5)
    assert joined(1.0, band) == 3.0
    scores = np.array([-3.0, 0.0, 4.0, 5.0, 5.1, 9.0, 80.0])
    inside = np.array([joined(-1.5, band, score, 5.0) for score in scores])
    assert (np.diff(inside) > 0).all()
    assert ((inside > 0) == (scores > 5.0)).all()
    assert (np.abs(inside) <= band.width).all()


def test_unsure_is_inside_the_band() -> None:
    """A width of nothing is never unsure, not even at the threshold."""
    logits = [-3.6, -3.4, -2.0, -0.6, -0.4]
    assert Band(-2.0, 1.5).unsure(logits).tolist() == [False, True, True, True, False]
    assert not Band(-2.0, 0.0).unsure(logits).any()
