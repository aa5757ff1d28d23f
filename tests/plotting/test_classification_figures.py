"""The figures of a classifier show what the arrays say, and nothing outside them changes."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgba
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.plotting import (
    DEFECT,
    GOOD,
    METHOD_COLOURS,
    confusion_matrices,
    cost_curve,
    learning_curves,
    reliability_diagram,
    to_png,
)

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [60, 20])
SCORES = 2 * GENERATOR.normal(size=80) + 3 * LABELS - 1.5
PROBABILITIES = 1 / (1 + np.exp(-SCORES))
NONE = np.nan
CURVE = pd.DataFrame(
    {
        "step": range(6),
        "loss": [0.9, 0.7, 0.6, 0.5, 0.5, 0.4],
        "train_accuracy": [NONE, 0.6, NONE, 0.8, NONE, 1.0],
        "validation_loss": [NONE, 0.8, NONE, 0.6, NONE, 0.7],
        "validation_accuracy": [NONE, 0.5, NONE, 0.7, NONE, 0.9],
        "validation_auroc": [NONE, 0.6, NONE, 0.95, NONE, 0.95],
    }
)
COUNTS = np.array([[30, 10], [1, 3]])


def drawn():
    """One of each figure."""
    return {
        "confusion_matrices": confusion_matrices({"one": COUNTS, "other": COUNTS.T}),
        "reliability_diagram": reliability_diagram({"one": (LABELS, PROBABILITIES)}),
        "learning_curves": learning_curves({"one": CURVE}),
        "cost_curve": cost_curve(LABELS, SCORES, [1, 10]),
    }


def texts(artist):
    return [text.get_text() for text in artist.findobj(matplotlib.text.Text) if text.get_text()]


def test_figures_leave_pyplot_and_the_settings_alone_and_are_the_same_twice():
    settings = dict(matplotlib.rcParams)
    first, second = drawn(), drawn()
    for name, figure in first.items():
        assert to_png(figure, dpi=50) == to_png(second[name], dpi=50), name
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings


def test_each_cell_holds_its_count_and_its_share_of_the_row():
    one, other = confusion_matrices({"one": COUNTS, "other": [[0, 0], [2, 6]]}).axes
    cells = {text.get_position(): text.get_text() for text in one.texts}
    assert [cells[column, row - 0.08] for row in (0, 1) for column in (0, 1)] == ["30", "10", "1", "3"]
    assert [cells[column, row + 0.2] for row in (0, 1) for column in (0, 1)] == ["75.0 %", "25.0 %", "25.0 %", "75.0 %"]
    np.testing.assert_allclose(one.images[0].get_array(), [[0.75, 0.25], [0.25, 0.75]])
    assert one.images[0].get_clim() == other.images[0].get_clim()
    assert [text.get_text() for text in other.texts] == ["0", "no part", "0", "no part", "2", "25.0 %", "6", "75.0 %"]
    assert (one.get_title("left"), other.get_title("left")) == ("one", "other")
    assert (one.get_ylabel(), one.get_xlabel()) == ("truth", "verdict")
    for labels in (one.get_xticklabels(), one.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["good", "defect"]
        assert [label.get_color() for label in labels] == [GOOD, DEFECT]


def test_the_text_stands_out_from_its_cell():
    (axes,) = confusion_matrices({"one": [[100, 0], [45, 55]]}).axes
    picture = axes.images[0]
    for text in axes.texts:
        column, row = text.get_position()
        ground = picture.cmap(picture.norm(picture.get_array()[round(row), round(column)]))
        assert abs(np.mean(to_rgba(text.get_color())[:3]) - np.mean(ground[:3])) > 0.35


def test_dots_are_the_bins_of_scikit_learn_and_bars_their_wilson_intervals():
    flat = np.full(80, 0.4)
    figure = reliability_diagram({"one": (LABELS, PROBABILITIES), "flat": (LABELS, flat)}, bins=5)
    (axes,) = figure.axes
    diagonal, one, other = axes.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    frequency, confidence = calibration_curve(LABELS, PROBABILITIES, n_bins=5)
    np.testing.assert_allclose(one.get_xydata(), np.column_stack([confidence, frequency]))
    np.testing.assert_allclose(other.get_xydata(), [[0.4, 0.25]])
    (bar,) = axes.collections[1].get_segments()
    interval = binomtest(20, 80).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(bar, [[0.4, interval.low], [0.4, interval.high]])
    assert len(axes.collections[0].get_segments()) == len(frequency)
    inside = np.searchsorted([0.2, 0.4, 0.6, 0.8], PROBABILITIES)
    shares = [abs((LABELS - PROBABILITIES)[inside == index].sum()) / 80 for index in range(5)]
    assert f"one: ECE {sum(shares):.3f}".replace("0.", ".") in texts(figure)
    assert "flat: ECE .150" in texts(figure)


def test_training_and_checks_are_drawn_and_the_first_of_the_best_is_ringed():
    losses, accuracies = learning_curves({"one": CURVE, "other": CURVE}).axes
    smooth, checks, ring = losses.lines[:3]
    assert list(smooth.get_xdata()) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(smooth.get_ydata(), [0.9, 0.8, 2.2 / 3, 0.675, 0.64, 0.6])
    np.testing.assert_allclose(checks.get_xydata(), [[2, 0.8], [4, 0.6], [6, 0.7]])
    np.testing.assert_allclose(ring.get_xydata(), [[4, 0.6]])  # .95 comes twice; not the lowest loss decides
    training, checks, ring = accuracies.lines[:3]
    np.testing.assert_allclose(training.get_xydata(), [[2, 0.6], [4, 0.8], [6, 1.0]])
    np.testing.assert_allclose(checks.get_xydata(), [[2, 0.5], [4, 0.7], [6, 0.9]])
    np.testing.assert_allclose(ring.get_xydata(), [[4, 0.7]])
    assert (checks.get_linestyle(), ring.get_fillstyle()) == ("None", "none")
    for index in (0, 1):
        assert {line.get_color() for line in accuracies.lines[3 * index : 3 * index + 3]} == {METHOD_COLOURS[index]}
    legends = [[text.get_text() for text in legend.get_texts()] for legend in losses.figure.legends]
    assert legends == [["one", "other"], ["training", "validation", "kept: highest validation AUROC"]]


def test_the_kept_check_is_the_best_one_and_not_the_last():
    best_first = CURVE.assign(validation_auroc=[NONE, 0.9, NONE, 0.8, NONE, 0.7])
    losses, _ = learning_curves({"one": best_first}).axes
    np.testing.assert_allclose(losses.lines[2].get_xydata(), [[2, 0.8]])


def test_a_curve_without_a_check_shows_its_loss_alone():
    unchecked = CURVE.assign(**dict.fromkeys(CURVE.columns[2:], NONE))
    losses, accuracies = learning_curves({"one": unchecked}).axes
    assert len(losses.lines[0].get_xdata()) == 6
    assert not any(len(line.get_xdata()) for line in [*losses.lines[1:], *accuracies.lines])


def test_costs_are_those_of_the_cheapest_threshold_and_of_calling_all_one_thing():
    ratios = [10.0, 0.1, 1.0, 1000.0]  # in any order
    figure = cost_curve(LABELS, SCORES, ratios)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    cheapest = []
    for ratio in sorted(ratios):
        flags = [threshold < SCORES for threshold in [-np.inf, *SCORES]]
        cheapest.append(min(((flag < LABELS) * ratio + (flag > LABELS)).mean() for flag in flags))
    assert list(lines["cost-optimal threshold"].get_xdata()) == sorted(ratios)
    np.testing.assert_allclose(lines["cost-optimal threshold"].get_ydata(), cheapest)
    np.testing.assert_allclose(lines["call all good"].get_ydata(), 0.25 * np.sort(ratios))
    np.testing.assert_allclose(lines["call all defective"].get_ydata(), 0.75)
    assert [lines[name].get_color() for name in ("call all good", "call all defective")] == [GOOD, DEFECT]
    assert axes.get_xscale() == "log"
    low, high = axes.get_ylim()
    assert low < 0 < 0.75 < high < 1.5  # the line of a cost of 0 is seen, and calling all good does not squeeze it


def test_input_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="no confusion matrix"):
        confusion_matrices({})
    for wrong in (COUNTS[:1], COUNTS / 44, -COUNTS):
        with pytest.raises(DataError, match="the confusion matrix of one must hold"):
            confusion_matrices({"one": wrong})
    with pytest.raises(DataError, match="no probabilities"):
        reliability_diagram({})
    with pytest.raises(DataError, match=r"probabilities must lie in \[0, 1\]"):
        reliability_diagram({"one": (LABELS, SCORES)})
    with pytest.raises(DataError, match="no curve"):
        learning_curves({})
    with pytest.raises(DataError, match="curve of one lacks the columns train_accuracy, validation_loss"):
        learning_curves({"one": CURVE[["step", "loss", "validation_accuracy", "validation_auroc"]]})
    for ratios in ([], [1.0, 0.0], [np.nan], [np.inf]):
        with pytest.raises(SettingsError, match="ratios are what a miss costs in false alarms"):
            cost_curve(LABELS, SCORES, ratios)
    with pytest.raises(DataError, match=r"no cost threshold: all 2 .* are good"):
        cost_curve([0, 0], [1.0, 2.0], [1.0])
