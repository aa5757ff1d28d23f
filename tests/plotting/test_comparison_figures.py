"""The figures of a comparison show what the numbers say, legibly, and nothing outside them changes."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.patches import Rectangle

from mvtec_ad.errors import DataError
from mvtec_ad.plotting import accuracy_and_cost, defect_type_table, difference_matrix, interval_rows, to_png
from mvtec_ad.plotting.comparison import _spread
from mvtec_ad.plotting.style import FAINT


def metric(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


PARTS = {
    "all": {"padim": metric(0.9, 0.8, 0.95), "z score": metric(0.7, 0.6, 0.8)},
    "some": {"padim": metric(0.85, 0.6, 0.97), "classifier": metric(0.99, 0.7, 1.0)},
}
PAIRS = pd.DataFrame(
    {
        "first": ["a", "a", "b"],
        "second": ["b", "c", "c"],
        "mean": [0.1, -0.25, -0.35],
        "differs": [False, True, True],
        "differs_holm": [False, False, True],
    }
)
TYPES = pd.DataFrame(
    {
        "row": ["a", "a", "b"],
        "defect": ["dent", "crack", "dent"],
        "images": [10, 8, 10],
        "mean": [0.9, 0.55, 0.7],
        "low": [0.7, 0.3, 0.5],
        "high": [0.97, 0.8, 0.9],
    }
)
COSTS = pd.DataFrame(
    {
        "row": ["padim", "patchcore", "z score", "untimed"],
        "mean": [0.9, 0.9, 0.89, 0.5],
        "low": [0.8, 0.8, 0.7, 0.4],
        "high": [0.95, 0.95, 0.93, 0.6],
        "milliseconds": [9.0, 26.0, 0.5, np.nan],
        "model_mb": [20.0, 2.0, np.nan, 1.0],
    }
)


def drawn():
    return {
        "interval_rows": interval_rows(PARTS, trivial=["z score"]),
        "difference_matrix": difference_matrix(PAIRS),
        "defect_type_table": defect_type_table(TYPES),
        "accuracy_and_cost": accuracy_and_cost(COSTS, trivial=["z score"]),
    }


def texts(artist):
    return [text.get_text() for text in artist.findobj(matplotlib.text.Text) if text.get_text()]


def test_figures_leave_the_settings_alone_and_are_the_same_twice():
    settings = dict(matplotlib.rcParams)
    first, second = drawn(), drawn()
    for name, figure in first.items():
        assert to_png(figure, dpi=50) == to_png(second[name], dpi=50), name
    assert dict(matplotlib.rcParams) == settings


def overlaps(figure):
    """Pairs of texts whose boxes overlap by more than a pixel; ticks beyond the ends of an axis are not drawn."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    hidden = {
        label
        for axes in figure.axes
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim())))
        for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
        if not low <= place <= high
    }
    shown = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip() and t.get_visible()]
    shown = [t for t in shown if t not in hidden]
    boxes = [(t.get_text(), t.get_window_extent(renderer).padded(-1)) for t in shown if t.get_rotation() == 0]
    return [
        (name, other)
        for i, (name, box) in enumerate(boxes)
        for other, second in boxes[:i]
        if box.overlaps(second) and (name, tuple(box.bounds)) != (other, tuple(second.bounds))
    ]


@pytest.mark.parametrize("name", ["interval_rows", "difference_matrix", "defect_type_table"])
def test_no_label_lies_on_another(name):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn()[name]
    FigureCanvasAgg(figure)
    assert overlaps(figure) == []


def test_interval_rows_show_every_row_in_every_column():
    figure = interval_rows(PARTS, trivial=["z score"])
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["padim", "z score", "classifier"]
    assert [label.get_color() == FAINT for label in left.get_yticklabels()] == [False, True, False]
    assert ".900 [.800, .950]" in texts(left)
    assert "not scored" in texts(left)
    assert texts(right).count("not scored") == 1
    points = [tuple(line.get_xydata()[0]) for line in left.lines if line.get_marker() == "o"]
    assert points == [(0.9, 0.0), (0.7, 1.0)]
    bars = [line.get_xdata() for line in left.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 5]
    np.testing.assert_allclose(bars, [[0.8, 0.95], [0.6, 0.8]])


def test_differences_have_their_sign_and_mark():
    figure = difference_matrix(PAIRS)
    axes = figure.axes[0]
    cells = {tuple(text.get_position()): text for text in axes.texts}
    assert cells[(1, 0)].get_text() == ".100"  # row a, column b
    assert cells[(0, 1)].get_text() == "−.100"
    assert cells[(2, 1)].get_text() == "−.350"
    assert {place for place, text in cells.items() if text.get_weight() == "bold"} == {(2, 1), (1, 2)}
    frames = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_linewidth() == 1.6]
    assert {(round(f.get_x() + 0.45), round(f.get_y() + 0.44)) for f in frames} == {(2, 0), (0, 2), (2, 1), (1, 2)}
    values = np.asarray(axes.images[0].get_array().filled(np.nan))
    np.testing.assert_allclose(values, -values.T)
    assert axes.images[0].norm.vmin == -axes.images[0].norm.vmax


def test_defect_types_name_their_number_of_images():
    found = texts(defect_type_table(TYPES))
    assert "dent\n10 images" in found
    assert "crack\n8 images" in found
    assert ".550" in found
    assert "[.300, .800]" in found


def test_costs_draw_rows_with_a_time_and_sizes_in_proportion():
    axes = accuracy_and_cost(COSTS, trivial=["z score"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["padim (20.0 MB)", "patchcore (2.0 MB)", "z score"]
    dots = [c for c in axes.collections if isinstance(c, PathCollection)]
    areas = [float(dot.get_sizes()[0]) for dot in dots]
    assert areas[0] > areas[1] > areas[2]
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("values", [[0.9, 0.9, 0.9], [0.1, 0.5, 0.95], [0.99, 0.98, 0.97, 0.1], [0.0, 0.0, 0.01]])
def test_labels_keep_their_order_and_distance(values):
    heights = _spread(values, 0.1, 0.0, 1.0)
    order = np.argsort(values, kind="stable")
    assert (np.diff(heights[order]) >= 0.1 - 1e-9).all()
    assert heights.min() >= -1e-9
    assert heights.max() <= 1.0 + 1e-9


def test_nothing_to_draw_is_said():
    with pytest.raises(DataError, match="no row"):
        interval_rows({"all": {}})
    with pytest.raises(DataError, match="no pair"):
        difference_matrix(PAIRS.iloc[:0])
    with pytest.raises(DataError, match="no defect type"):
        defect_type_table(TYPES.iloc[:0])
    with pytest.raises(DataError, match="no row says"):
        accuracy_and_cost(COSTS.iloc[3:])
