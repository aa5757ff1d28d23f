"""Figures of inspections say what the inspections say, and count right."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.text import Text

from mvtec_ad.errors import DataError
from mvtec_ad.inspector import VERDICTS, Inspection, Step
from mvtec_ad.plotting import DEFECT, GOOD, decision_tree, inspection_figure, to_png
from mvtec_ad.plotting.inspection_tree import _ORDER

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (24, 24, 3), np.uint8)
HEAT = np.zeros((24, 24), np.float32)
HEAT[6:12, 9:18] = 4.0
PATH = (
    Step("product", "package side", "told"),
    Step("classifier", "unsure", "probability 0.6, between 0.2 and 0.8, $which$ is a long line that must be wrapped"),
    Step("second opinion", "defect", "padim: 3 > 2"),
)
WHOLE = Inspection(
    "a/$b$_{.png",
    "defect",
    "package",
    "side",
    path=PATH,
    picture=PICTURE,
    heat=HEAT,
    heat_scale=(0, 4),
    heat_name="PaDiM",
)


def texts(figure: Figure) -> list[str]:
    """All words of a figure that can be seen."""
    return [one.get_text() for one in figure.findobj(Text) if one.get_text() and one.get_visible()]


def inside(figure: Figure) -> bool:
    """Whether no text leaves the figure."""
    figure.draw_without_rendering()
    boxes = [one.get_window_extent() for one in figure.findobj(Text) if one.get_text() and one.get_visible()]
    width, height = figure.bbox.size
    return all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)


def way(product: str, classifier: str, second: str | None, verdict: str) -> Inspection:
    """An inspection without pixels."""
    steps = [Step("product", product, ""), Step("classifier", classifier, "")]
    steps += [Step("second opinion", second, "")] if second else []
    return Inspection("x", verdict, product, path=(*steps, Step("type", "skipped", ""), Step("atlas", "placed", "")))


def test_a_whole_inspection() -> None:
    """Headline, steps in order with their words, two pictures and the line round the hot region; any file name."""
    figure = inspection_figure(WHOLE)
    words = texts(figure)
    assert "defect · package side" in words
    stages = [text for text in words if text in ("product: ", "classifier: ", "second opinion: ")]
    assert stages == ["product: ", "classifier: ", "second opinion: "]
    for text in ("unsure", "package side", "padim: 3 > 2", "a/$b$_{.png", "heat map: PaDiM"):
        assert text in words
    assert inside(figure)
    (contour,) = figure.findobj(QuadContourSet)
    (line,) = (line for line in contour.allsegs[0])
    np.testing.assert_allclose([line.min(axis=0), line.max(axis=0)], [[8.5, 5.5], [17.5, 11.5]])
    assert to_png(inspection_figure(WHOLE)) == to_png(inspection_figure(WHOLE))


def test_the_heat_of_another_size_lies_on_the_picture() -> None:
    """A map half as fine is stretched, its line with it."""
    half = SimpleNamespace(**vars(WHOLE) | {"heat": HEAT[::2, ::2]})
    (contour,) = inspection_figure(half).findobj(QuadContourSet)
    np.testing.assert_allclose(contour.allsegs[0][0].mean(axis=0), [13, 8.5], atol=0.6)


def test_mask_and_truth() -> None:
    """The true defect is outlined, and the verdict is right or wrong in its own colour."""
    mask = np.zeros((24, 24), bool)
    mask[2:5, 3:9] = True
    figure = inspection_figure(WHOLE, mask, 0)
    assert len(figure.findobj(QuadContourSet)) == 2
    headline = next(one for one in figure.findobj(Text) if one.get_text().startswith("defect · "))
    assert (headline.get_text(), to_hex(headline.get_color()).upper()) == ("defect · package side, wrong", DEFECT)
    assert len(inspection_figure(WHOLE, mask & False).findobj(QuadContourSet)) == 1
    assert "defect · package side, right" in texts(inspection_figure(WHOLE, truth=1))
    fine = Inspection("x", "good", "nut", picture=PICTURE)
    headline = next(one for one in inspection_figure(fine, truth=0).findobj(Text) if "good" in one.get_text())
    assert (headline.get_text(), to_hex(headline.get_color()).upper()) == ("good · nut, right", GOOD)


@pytest.mark.parametrize(
    ("inspection", "expected"),
    [
        (Inspection("x.png", "unreadable", problem="image x.png is empty"), ["image x.png is empty", "no heat map"]),
        (Inspection("x.png", "none of these", picture=PICTURE), ["none of these; truly defect", "no heat map"]),
        (Inspection("x.png", "undecided", "nut", path=PATH[:1]), ["undecided · nut; truly defect", "no picture"]),
        (Inspection("x.png", "good", "nut", picture=PICTURE, heat=HEAT * 0), ["good · nut, wrong", "heat map"]),
    ],
)
def test_what_is_missing_is_said(inspection: Inspection, expected: list[str]) -> None:
    """No picture, no heat, no way, a flat heat map without a scale: a figure all the same."""
    figure = inspection_figure(inspection, truth=1)
    assert set(expected) <= set(texts(figure))
    assert inside(figure)


def test_a_heat_map_must_be_one() -> None:
    """One line that names the image."""
    with pytest.raises(DataError, match=r"x\.png must be \(h, w\)"):
        inspection_figure(Inspection("x.png", "good", picture=PICTURE, heat=HEAT[None]))


def grown() -> tuple[list[Inspection], list[int]]:
    """Twelve images of two products and a stranger."""
    counted = [
        (way("bottle", "sure: defect", None, "defect"), 1, 3),
        (way("bottle", "sure: good", None, "good"), 0, 2),
        (way("bottle", "sure: good", None, "good"), 1, 1),
        (way("nut", "unsure", "defect", "defect"), 0, 2),
        (way("nut", "unsure", "good", "good"), 0, 1),
        (way("nut", "skipped", "skipped", "undecided"), 1, 1),
        (Inspection("x", "none of these", path=(Step("product", "none of these", ""),)), 1, 1),
        (Inspection("x", "unreadable"), 0, 1),
    ]
    every = [(one, label) for one, label, count in counted for _ in range(count)]
    return [one for one, _ in every], [label for _, label in every]


def bars(figure: Figure) -> list[Rectangle]:
    """Nodes of a tree; the axes' own background left out."""
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def test_the_tree_counts() -> None:
    """Numbers at every node, and bars and branches as thick as the numbers."""
    inspections, _ = grown()
    figure = decision_tree(inspections)
    words = texts(figure)
    assert {"product", "classifier", "second opinion", "verdict"} <= set(words)
    # root 12; bottle 6, nut 4, stranger 1; classifier 3, 3, 3, 1; second opinion 2, 1, 1; leaves
    numbers = [12, 6, 4, 1, 3, 3, 3, 1, 2, 1, 1, 3, 3, 2, 1, 1, 1, 1]
    assert Counter(int(text) for text in words if text.strip().isdigit()) == Counter(numbers)
    heights = [bar.get_height() for bar in bars(figure)]
    np.testing.assert_allclose(sorted(heights), np.sort(numbers) * max(heights) / 12)
    ribbons = [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]
    assert len(ribbons) == len(numbers) - 1  # each node but the root has one
    assert not any("miss" in text or "alarm" in text for text in words)
    assert inside(figure)


def test_the_tree_tells_errors() -> None:
    """With labels, leaves name false alarms and misses, and both classes have their colours."""
    inspections, labels = grown()
    figure = decision_tree(inspections, labels)
    assert sorted(text.strip() for text in texts(figure) if re.search("alarm|miss", text)) == [
        "1 miss",
        "2 false alarms",
    ]
    counted = Counter()
    for one in figure.findobj(Text):
        if one.get_text().strip().isdigit():
            counted[to_hex(one.get_color()).upper()] += int(one.get_text())
    # every image counts once at each node of its way: root, stages, leaf
    nodes = [
        2 + sum(step.stage in ("product", "classifier", "second opinion") for step in one.path) for one in inspections
    ]
    assert counted == {
        GOOD: sum(count for count, label in zip(nodes, labels, strict=True) if label == 0),
        DEFECT: sum(count for count, label in zip(nodes, labels, strict=True) if label == 1),
    }
    assert inside(figure)


def test_leaves_do_not_touch() -> None:
    """Every leaf has a line of its own, also with many ways; a stage that nobody took has no column."""
    inspections, _ = grown()
    more = [way(f"product {index}", "sure: good", None, "good") for index in range(12)]
    figure = decision_tree(inspections * 30 + more)
    spans = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars(figure) if bar.get_x() > 8)
    assert len(spans) == 19
    assert all(low - high > 0.05 for (_, high), (low, _) in pairwise(spans))
    assert "second opinion" not in texts(decision_tree(more))


def test_a_told_product_has_its_name() -> None:
    """`told` says little."""
    told = Inspection("x", "good", "package", "top", path=(Step("product", "told", ""),))
    assert "package top (told)" in texts(decision_tree([told]))


def test_the_tree_refuses_what_it_cannot_draw() -> None:
    """Nothing, or labels of other images."""
    with pytest.raises(DataError, match="at least one"):
        decision_tree([])
    with pytest.raises(DataError, match="1 inspections need as many labels, not 2"):
        decision_tree([WHOLE], [0, 1])


def test_every_verdict_has_its_place() -> None:
    """The order of the leaves knows all verdicts."""
    assert set(VERDICTS) <= set(_ORDER)


def test_no_global_state_changes() -> None:
    """Styles end with the function."""
    before: dict[str, Any] = dict(matplotlib.rcParams)
    inspection_figure(WHOLE)
    decision_tree([WHOLE])
    assert dict(matplotlib.rcParams) == before
