"""The figure of an inspection says what the inspection says."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text

from mvtec_ad.errors import DataError
from mvtec_ad.inspection.inspector import Inspection, Step
from mvtec_ad.plotting import DEFECT, GOOD, inspection_figure, to_png

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
ANOMALY_MAP = np.zeros((24, 24), np.float32)
ANOMALY_MAP[6:12, 9:18] = 4.0
PATH = (
    Step("product", "package side", "told"),
    Step("classifier", "unsure", "probability 0.6, between 0.2 and 0.8, $which$ is a long line that must be wrapped"),
    Step("second opinion", "defect", "padim: 3 > 2"),
)
PIXELS = {"picture": PICTURE, "anomaly_map": ANOMALY_MAP}
WHOLE = Inspection(
    "a/$b$_{.png", "defect", "package", "side", path=PATH, **PIXELS, map_scale=(0, 4), map_name="anomaly map of PaDiM"
)


def texts(figure: Figure) -> dict[str, str]:
    """All words of a figure that can be seen, none of which leaves it, with their colours."""
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    width, height = figure.bbox.size
    for box in (text.get_window_extent() for text in shown):
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
    return {text.get_text(): to_hex(text.get_color()).upper() for text in shown}


def test_a_whole_inspection() -> None:
    """Headline, steps in order with their words, two pictures and the line round the hot region; any file name."""
    before = dict(matplotlib.rcParams)
    figure = inspection_figure(WHOLE)
    words = list(texts(figure))
    assert [text for text in words if text.endswith(": ")] == ["product: ", "classifier: ", "second opinion: "]
    expected = ("defect · package side", "unsure", "package side", "padim: 3 > 2", "a/$b$_{.png")
    assert {*expected, "heat map: anomaly map of PaDiM"} <= set(words)
    (contour,) = figure.findobj(QuadContourSet)
    (line,) = contour.allsegs[0]
    np.testing.assert_allclose([line.min(axis=0), line.max(axis=0)], [[8.5, 5.5], [17.5, 11.5]])
    assert to_png(inspection_figure(WHOLE)) == to_png(inspection_figure(WHOLE))
    assert dict(matplotlib.rcParams) == before
    (contour,) = inspection_figure(replace(WHOLE, anomaly_map=ANOMALY_MAP[::2, ::2])).findobj(QuadContourSet)
    np.testing.assert_allclose(contour.allsegs[0][0].mean(axis=0), [13, 8.5], atol=0.6)  # half as fine, stretched


@pytest.mark.parametrize(
    ("inspection", "truth", "expected"),
    [
        (WHOLE, 1, {"defect · package side, right": DEFECT}),
        (WHOLE, 0, {"defect · package side, wrong": DEFECT}),
        (Inspection("x", "good", "nut", picture=PICTURE), 0, {"good · nut, right": GOOD, "no heat map": "#8A8A8A"}),
        (Inspection("x", "unreadable", problem="x is empty"), 1, {"x is empty": "#8A8A8A", "no heat map": "#8A8A8A"}),
        (Inspection("x", "none of these", picture=PICTURE), 1, {"none of these; truly defect": "#222222"}),
        (Inspection("x", "undecided", "nut", path=PATH[:1]), 1, {"undecided · nut; truly defect": "#222222"}),
        (Inspection("x", "good", "nut", picture=PICTURE, anomaly_map=ANOMALY_MAP * 0), 1, {"good · nut, wrong": GOOD}),
    ],
)
def test_the_truth_and_what_is_missing(inspection: Inspection, truth: int, expected: dict[str, str]) -> None:
    """The headline says whether the verdict is right; no picture, map or way, a flat map: a figure all the same."""
    assert expected.items() <= texts(inspection_figure(inspection, truth)).items()


def test_an_anomaly_map_must_be_one() -> None:
    """One line that names the image."""
    with pytest.raises(DataError, match=r"x\.png must be \(h, w\)"):
        inspection_figure(Inspection("x.png", "good", picture=PICTURE, anomaly_map=ANOMALY_MAP[None]))
