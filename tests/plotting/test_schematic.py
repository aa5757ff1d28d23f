"""Schematics: arrows meet the sides of what they join."""

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from mvtec_ad.plotting import Schematic, to_png


def test_arrows_end_on_the_sides_that_face_each_other() -> None:
    """By hand: right of one box to the left of the next; top of one to the bottom of the other."""
    draw = Schematic(6, 4)
    left, right, above = draw.box("a", 1, 1), draw.box("b", 4, 1), draw.stack("c", 1, 3, planes=1)
    assert left.edge(right) == pytest.approx((1 + 1.1 / 2, 1))
    assert right.edge(left) == pytest.approx((4 - 1.1 / 2, 1))
    assert left.edge(above) == pytest.approx((1, 1 + 0.5 / 2))
    assert above.edge(left) == pytest.approx((1, 3 - 0.5 / 2))
    draw.arrow(left, right, "to the right")
    assert sum(isinstance(patch, FancyArrowPatch) for patch in draw.axes.patches) == 1


def test_a_stack_has_its_planes_and_a_picture_moves_no_axes() -> None:
    """Axes stay in inches, whatever is put on them; the figure can be written."""
    draw = Schematic(5, 2)
    draw.stack("layers", 1, 1, planes=3)
    assert len(draw.axes.patches) == 3
    draw.picture(np.zeros((8, 8, 3), np.uint8), 3, 1, size=1.0, text="seen")
    assert draw.axes.get_xlim() == (0, 5)
    assert draw.axes.get_ylim() == (0, 2)
    assert [text.get_text() for text in draw.axes.texts] == ["layers", "seen"]
    assert to_png(draw.figure).startswith(b"\x89PNG")
