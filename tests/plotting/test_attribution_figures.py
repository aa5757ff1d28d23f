"""Figures of explanations show what the arrays say."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mvtec_ad.errors import DataError
from mvtec_ad.plotting import attribution_rows, deletion_insertion_curves, randomisation_figure, to_png

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 24, 32
IMAGES = RNG.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
REGIONS = np.zeros((3, HEIGHT, WIDTH), bool)
REGIONS[:, 5:12, 10:20] = True
MAPS = {"one": RNG.normal(size=(3, HEIGHT, WIDTH)), "other": 1000 * RNG.normal(size=(3, HEIGHT, WIDTH))}
MAPS["one"][0, 8, 15] = 50  # inside
MAPS["one"][1, 20, 3] = 50  # outside
MAPS["one"][2] = 0  # no peak
CURVES = RNG.random((2, 5, 21))
RESULT = {
    "deletion": CURVES[0],
    "insertion": CURVES[1],
    "deletion_area": np.full(5, 0.125),
    "insertion_area": np.linspace(0.5, 0.9, 5),
}
CASCADE = {"fc": np.array([0.1, 0.5, np.nan, 0.9]), "layer4": np.full(4, np.nan), "conv1": np.linspace(-1, 1, 4)}


def rows_of(figure: Figure) -> np.ndarray:
    """Axes of the pictures, (rows, columns); the colour bar left out."""
    return np.array(figure.axes[:-1], dtype=object).reshape(3, -1)


def marker(axes: Axes) -> tuple[str, float, float] | None:
    """Shape and place of the mark on a map."""
    return (axes.lines[0].get_marker(), *axes.lines[0].get_xydata()[0]) if axes.lines else None


def test_peaks_are_marked_where_they_are() -> None:
    """A ring inside, a cross outside, a plus where no region is known, nothing on a constant map."""
    marks = [marker(axes) for axes in rows_of(attribution_rows(IMAGES, MAPS, REGIONS))[:, 1]]
    assert marks == [("o", 15, 8), ("x", 3, 20), None]
    marks = [marker(axes) for axes in rows_of(attribution_rows(IMAGES, MAPS))[:, 1]]
    assert marks == [("+", 15, 8), ("+", 3, 20), None]


def test_each_column_has_one_scale() -> None:
    """From 0 to the 99.5th percentile of its positive values; nothing covers the image where they are negative."""
    grid = rows_of(attribution_rows(IMAGES, MAPS, REGIONS))
    for column, maps in enumerate(MAPS.values(), start=1):
        limit = np.percentile(maps[maps > 0], 99.5)
        for axes, one in zip(grid[:, column], maps, strict=True):
            heat = axes.images[1]
            assert heat.get_clim() == pytest.approx((0, limit))
            np.testing.assert_array_equal(heat.get_array(), one)
            assert (np.asarray(heat.get_alpha())[one <= 0] == 0).all()
            assert (np.asarray(heat.get_alpha())[one > 0] > 0).all()


def test_regions_are_outlined_or_other_outlines() -> None:
    """On the image alone."""
    smaller = np.zeros_like(REGIONS)
    smaller[:, 7:9, 12:14] = True
    widths = []
    for outlines in (None, smaller):
        grid = rows_of(attribution_rows(IMAGES, MAPS, REGIONS, list("abc"), outlines))
        assert [[len(axes.collections) for axes in line] for line in grid] == [[1, 0, 0]] * 3
        widths.append(np.ptp(grid[0, 0].collections[0].get_paths()[0].vertices[:, 0]))
        assert [line[0].get_ylabel() for line in grid] == ["a", "b", "c"]
        assert [axes.get_title(loc="left") for axes in grid[0]] == ["image", "one", "other"]
    assert widths == pytest.approx([10, 2])


def test_maps_without_evidence() -> None:
    """All negative: the image shows alone, and the peak still."""
    figure = attribution_rows(IMAGES / 255, {"one": -np.abs(MAPS["other"]) - 1}, REGIONS)
    assert all((np.asarray(line[1].images[1].get_alpha()) == 0).all() for line in rows_of(figure))
    assert to_png(figure)


def test_curves_are_means_over_images() -> None:
    """With the mean area in the legend."""
    deletion, insertion = deletion_insertion_curves({"one": RESULT, "other": RESULT}).axes
    np.testing.assert_allclose(deletion.lines[0].get_xydata(), np.stack([np.linspace(0, 1, 21), CURVES[0].mean(0)], 1))
    np.testing.assert_allclose(insertion.lines[1].get_ydata(), CURVES[1].mean(0))
    assert [text.get_text() for text in deletion.get_legend().texts] == ["one: .125", "other: .125"]
    assert [text.get_text() for text in insertion.get_legend().texts] == ["one: .700", "other: .700"]


def test_medians_and_quartiles_along_the_cascade() -> None:
    """Nan is left out; a group of nan alone leaves a gap."""
    (axes,) = randomisation_figure({"one": CASCADE, "other": CASCADE}).axes
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0.5, np.nan, 0], atol=1e-9)
    spans = [segment[:, 1] for segment in axes.collections[0].get_segments() if len(segment)]
    np.testing.assert_allclose(spans[0], [0.3, 0.7])
    np.testing.assert_allclose(spans[-1], [-0.5, 0.5])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["fc", "+ layer4", "+ conv1"]


def test_nothing_outside_changes() -> None:
    """The same arrays give the same bytes, and matplotlib's settings stay."""
    before = dict(matplotlib.rcParams)
    for draw in (
        lambda: attribution_rows(IMAGES, MAPS, REGIONS),
        lambda: deletion_insertion_curves({"one": RESULT}),
        lambda: randomisation_figure({"one": CASCADE}),
    ):
        assert to_png(draw()) == to_png(draw())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: attribution_rows([], {"one": []}), "0 images need"),
        (lambda: attribution_rows(IMAGES, {}), "3 images need as many maps"),
        (lambda: attribution_rows(IMAGES, {"one": MAPS["one"][:2]}), "3 images need as many maps"),
        (lambda: attribution_rows(IMAGES, MAPS, REGIONS[:1]), "3 images need as many maps, regions"),
        (lambda: attribution_rows(IMAGES, {"one": MAPS["one"][:, ::2]}), r"shape \(12, 32\), its image \(24, 32\)"),
        (lambda: deletion_insertion_curves({}), "at least one method"),
        (lambda: randomisation_figure({}), "share one cascade"),
        (lambda: randomisation_figure({"one": CASCADE, "other": {"fc": [1]}}), "share one cascade"),
    ],
)
def test_bad_input(draw: Callable[[], Figure], message: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(DataError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)
