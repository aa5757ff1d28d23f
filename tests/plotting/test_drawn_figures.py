"""Figures of generated pictures show the pixels, losses and moments they were given."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mvtec_ad.errors import DataError
from mvtec_ad.plotting import adversarial_curves, drawn_grid, drawn_strips, growth, search_figure, tiles, to_png

RNG = np.random.default_rng(0)
DIGITS = RNG.integers(0, 200, (16, 28, 28), np.uint8)  # never white
COLOUR = RNG.integers(0, 200, (3, 6, 4, 3), np.uint8)
GRIDS = RNG.integers(0, 200, (3, 16, 28, 28), np.uint8)
TITLES = ["epoch 0", "epoch 5", "epoch 20"]
LOSSES = np.array([[9, 8, 7], [5, 6, 4], [3, 1, 2.0], [2.5, 1.5, 2]])  # restart 1 ends lowest


def losses(count: int = 100, **changes: Any) -> pd.DataFrame:
    """A curve whose two losses go apart."""
    steps = np.arange(count)
    columns = {"step": steps, "discriminator": 2.0 - steps / count, "generator": 2.0 + steps / count}
    return pd.DataFrame(columns | changes)


def pixels(figure: Figure) -> np.ndarray:
    """As the figure is shown, grey."""
    with Image.open(io.BytesIO(to_png(figure))) as picture:
        return np.asarray(picture.convert("L")).astype(int)


def titles(axes: Axes) -> str:
    """Titles stand at the left."""
    return axes.get_title(loc="left")


def inside(figure: Figure) -> bool:
    """Whether no text leaves the figure."""
    figure.draw_without_rendering()
    texts = [
        text for axes in figure.axes for text in (*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label)
    ]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert boxes
    width, height = figure.bbox.size
    return all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)


def test_tiles_made_by_hand() -> None:
    """Row by row with one white pixel between; the place that stays empty is white."""
    images = np.arange(3 * 2 * 1, dtype=np.uint8).reshape(3, 2, 1)
    expected = [[0, 255, 2], [1, 255, 3], [255, 255, 255], [4, 255, 255], [5, 255, 255]]
    np.testing.assert_array_equal(tiles(images, 2), expected)
    np.testing.assert_array_equal(tiles(images, 1).ravel(), [0, 1, 255, 2, 3, 255, 4, 5])
    np.testing.assert_array_equal(tiles(list(images), 9), [[0, 255, 2, 255, 4], [1, 255, 3, 255, 5]])
    assert tiles(images, 2).dtype == np.uint8


def test_coloured_tiles_keep_their_colours() -> None:
    """Height and width are not mixed up; images are not changed."""
    before = COLOUR.copy()
    mosaic = tiles(COLOUR, 2)
    assert mosaic.shape == (13, 9, 3)
    np.testing.assert_array_equal(mosaic[:6, :4], COLOUR[0])
    np.testing.assert_array_equal(mosaic[:6, 5:], COLOUR[1])
    np.testing.assert_array_equal(mosaic[7:, :4], COLOUR[2])
    assert (mosaic[6] == 255).all()
    assert (mosaic[:, 4] == 255).all()
    np.testing.assert_array_equal(COLOUR, before)


@pytest.mark.parametrize(("size", "side", "dots"), [(28, 0.8, 3), (8, 0.8, 9), (28, 0.6, 2), (60, 0.8, 1)])
def test_a_pixel_is_shown_as_a_square_of_whole_dots(size: int, side: float, dots: int) -> None:
    """What is seen is the mosaic, each pixel repeated: nothing is blurred, and nothing dark becomes light."""
    images = RNG.integers(0, 200, (6, size, size), np.uint8)
    mosaic = tiles(images, 3)
    figure = drawn_grid(images, columns=3, side=side)
    shown = pixels(figure)
    expected = mosaic.repeat(dots, 0).repeat(dots, 1)
    assert shown.shape == (expected.shape[0] + 16, expected.shape[1] + 16)
    assert np.abs(shown[8:-8, 8:-8] - expected).max() <= 1  # the colour map rounds
    assert (shown[:8] == 255).all()
    (axes,) = figure.axes
    assert axes.images[0].get_interpolation() == "nearest"


def test_large_pictures_shrink_and_long_titles_break() -> None:
    """The figure stays small, and the title inside."""
    figure = drawn_grid(np.zeros((2, 300, 400), np.uint8), columns=2, title="pictures " * 9, side=1)
    assert figure.get_size_inches()[0] == pytest.approx(2 + 16 / 90, abs=0.02)
    assert figure.get_size_inches()[1] < 2.2
    assert titles(figure.axes[0]).count("\n") >= 2
    assert inside(figure)
    assert inside(drawn_grid(DIGITS[:1], title="one digit of a generator"))


def test_strips_stand_below_each_other_with_their_names() -> None:
    """One mosaic per row, of one size; grey and coloured rows go together."""
    coloured = DIGITS[..., None].repeat(3, 3)
    figure = drawn_strips({"real": DIGITS, "a remedy with a long name": coloured[::-1]}, columns=8)
    real, drawn = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["real", "a remedy with a long name"]
    np.testing.assert_array_equal(real.images[0].get_array(), tiles(DIGITS, 8))
    np.testing.assert_array_equal(drawn.images[0].get_array(), tiles(coloured[::-1], 8))
    assert inside(figure)
    assert real.get_position().y0 > drawn.get_position().y1
    assert real.get_position().x0 == drawn.get_position().x0
    shown = pixels(figure)
    expected = tiles(DIGITS, 8).repeat(2, 0).repeat(2, 1)
    assert np.abs(shown[8 : 8 + len(expected), -8 - expected.shape[1] : -8] - expected).max() <= 1
    (one,) = drawn_strips({"all": DIGITS}).axes
    assert one.images[0].get_array().shape == (28, 16 * 29 - 1)


def keeping(made: list[Figure]) -> Callable[..., bytes]:
    """An `animation` that only keeps the figures."""

    def keep(figures: Any, *_: Any, **__: Any) -> bytes:
        made.extend(figures)
        return b""

    return keep


def frames(gif: bytes) -> tuple[list[np.ndarray], list[int]]:
    """Grey pixels and milliseconds of each frame."""
    with Image.open(io.BytesIO(gif)) as picture:
        pictures, durations = [], []
        for index in range(picture.n_frames):
            picture.seek(index)
            pictures.append(np.asarray(picture.convert("L")).astype(int))
            durations.append(picture.info["duration"])
    return pictures, durations


def test_growth_shows_each_moment() -> None:
    """In order, each with its title, for the time that was asked for."""
    pictures, durations = frames(growth(GRIDS, TITLES, seconds=0.4))
    assert durations == [400, 400, 400]
    high = 4 * 29 - 1
    assert [picture.shape for picture in pictures] == [(8 + 20 + 2 * high + 8, 2 * high + 16)] * 3
    for picture, grid in zip(pictures, GRIDS, strict=True):
        expected = tiles(grid, 4).repeat(2, 0).repeat(2, 1)
        assert np.abs(picture[28:-8, 8:-8] - expected).max() <= 3  # 255 grey levels instead of 256
    assert np.abs(pictures[0][:28] - pictures[1][:28]).max() > 100


def test_growth_has_room_for_its_widest_title(monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames of one size."""
    made: list[Figure] = []
    monkeypatch.setattr("mvtec_ad.plotting.drawn.animation", keeping(made))
    wide = ["short", "a title that is much wider than a single digit"]
    growth(GRIDS[:2], wide, columns=1)
    assert all(inside(figure) for figure in made)
    sizes = [tuple(figure.get_size_inches()) for figure in made]
    assert sizes[0] == sizes[1]


def test_eight_moments_of_digits_stay_below_400_kilobytes() -> None:
    """From noise to blots; noise compresses worst."""
    rows = np.hypot(*np.mgrid[-1:1:28j, -1:1:28j]) < 0.6
    clear = np.linspace(0, 1, 8)[:, None, None, None]
    noise = RNG.normal(0, 50, (8, 16, 28, 28)) * (1 - clear)
    grids = np.clip(255 * rows * clear + 128 * (1 - clear) + noise, 0, 255).astype(np.uint8)
    gif = growth(grids, [f"epoch {epoch}" for epoch in range(8)])
    assert len(frames(gif)[0]) == 8
    assert len(gif) < 400_000


def test_runs_share_an_axis_and_skip_what_was_not_trained() -> None:
    """NaN leaves a gap that the line bridges; lines are rolling means over the values; names in the legend."""
    sparse = losses(9, generator=[1, np.nan, np.nan, 2, np.nan, np.nan, 3, np.nan, np.nan])
    figure = adversarial_curves({"critic 3:1": sparse, "ramp": losses(100, generator=np.arange(100.0))})
    left, right = figure.axes
    assert [titles(axes) for axes in figure.axes] == ["critic 3:1", "ramp"]
    named = [{line.get_label(): line for line in axes.lines} for axes in (left, right)]
    np.testing.assert_array_equal(named[0]["generator"].get_xydata(), [[0, 1], [3, 2], [6, 3]])
    np.testing.assert_allclose(named[0]["discriminator"].get_xydata(), sparse[["step", "discriminator"]])
    mean = named[1]["generator"].get_ydata()  # of 1/25 of 100 values
    np.testing.assert_allclose(mean[:5], [0, 0.5, 1, 1.5, 2.5])
    assert mean[-1] == np.mean([96, 97, 98, 99])
    assert left.get_ylim() == right.get_ylim()
    assert {text.get_text() for text in left.get_legend().get_texts()} == {"generator", "discriminator"}
    assert inside(figure)


def test_one_outlier_does_not_squash_the_rest() -> None:
    """The axis leaves it out."""
    curve = losses(1000)
    highest = curve[["generator", "discriminator"]].to_numpy().max()
    curve.loc[500, "generator"] = 1000.0
    (axes,) = adversarial_curves({"run": curve}).axes
    assert axes.get_ylim()[1] < 2 * highest


def test_search_shows_the_way_of_the_chosen_restart() -> None:
    """The restart with the lowest loss at the end, unless another is chosen; dots where pictures were taken."""
    pictures = DIGITS[:3]
    figure = search_figure(DIGITS[9], pictures, LOSSES, [0, 1, 3])
    *shown, axes = figure.axes
    assert [titles(one) for one in shown] == ["target", "step 0", "step 1", "step 3"]
    for one, picture in zip(shown, [DIGITS[9], *pictures], strict=True):
        np.testing.assert_array_equal(one.images[0].get_array(), picture)
        assert one.images[0].get_interpolation() == "nearest"
    named = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(named["chosen restart"].get_ydata(), LOSSES[:, 1])
    np.testing.assert_array_equal(axes.lines[-1].get_xydata(), [[0, 8], [1, 6], [3, 1.5]])
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines[:2]], LOSSES[:, [0, 2]].T)
    assert named["chosen restart"].get_linewidth() > axes.lines[0].get_linewidth()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chosen restart", "the other 2"]
    assert inside(figure)
    other = search_figure(DIGITS[9], pictures, LOSSES, [0, 1, 3], chosen=2).axes[-1]
    np.testing.assert_array_equal(other.lines[-1].get_ydata(), [7, 4, 2])


def test_search_with_one_restart_and_colours() -> None:
    """No other restart is named; the first dot lies on the only step."""
    *shown, axes = search_figure(COLOUR[0], COLOUR[1:2], [[0.5]], [0]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chosen restart"]
    np.testing.assert_array_equal(shown[1].images[0].get_array(), COLOUR[1])


def test_nothing_outside_changes() -> None:
    """The same input gives the same bytes, and matplotlib's settings stay."""
    before = dict(matplotlib.rcParams)
    for draw in (
        lambda: to_png(drawn_grid(DIGITS, title="digits")),
        lambda: to_png(drawn_strips({"real": DIGITS})),
        lambda: to_png(adversarial_curves({"run": losses()})),
        lambda: to_png(search_figure(DIGITS[0], DIGITS[:1], LOSSES, [2])),
        lambda: growth(GRIDS, TITLES),
    ):
        assert draw() == draw()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: tiles(DIGITS / 255, 4), r"uint8 \(N, H, W\) .* not float64 \(16, 28, 28\)"),
        (lambda: tiles(DIGITS[0], 4), r"not uint8 \(28, 28\)"),
        (lambda: tiles(DIGITS[:0], 4), "N from 1"),
        (lambda: tiles(COLOUR[..., :2], 4), r"not uint8 \(3, 6, 4, 2\)"),
        (lambda: tiles([DIGITS[0], DIGITS[0, :9]], 4), "pictures must have one size"),
        (lambda: tiles(DIGITS, 0), "1 or more columns, not 0"),
        (lambda: drawn_grid(DIGITS, side=0), "side above 0"),
        (lambda: drawn_strips({}), "at least one row"),
        (lambda: drawn_strips({"a": DIGITS, "b": DIGITS[:3]}), r"one size.*\(3, 28, 28\), \(16, 28, 28\)"),
        (lambda: drawn_strips({"a": DIGITS, "b": DIGITS / 255}), "pictures of b must be uint8"),
        (lambda: growth([], []), "not 0 and 0"),
        (lambda: growth(GRIDS[0], TITLES), "pictures of a moment must be uint8"),
        (lambda: growth(GRIDS, TITLES[:2]), "a title for each, not 3 and 2"),
        (lambda: growth([GRIDS[0], GRIDS[1, :4]], TITLES[:2]), "grids of one shape"),
        (lambda: adversarial_curves({}), "no loss to draw"),
        (lambda: adversarial_curves({"a": losses()[["step"]]}), "no loss to draw"),
        (lambda: adversarial_curves({"a": losses(generator=np.nan, discriminator=np.nan)}), "no loss to draw"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES[0], [0]), r"\(T, R\), not \(3,\)"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES * np.nan, [0]), "finite"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], [[1, 2], [3]], [0]), "tables of numbers"),
        (lambda: search_figure(DIGITS[0, :9], DIGITS[:1], LOSSES, [0]), r"shape \(9, 28\), not \(28, 28\)"),
        (lambda: search_figure(DIGITS[0] / 255, DIGITS[:1], LOSSES, [0]), "the target must be uint8"),
        (lambda: search_figure(DIGITS[0], DIGITS[:2], LOSSES, [0]), "2 pictures needs a step from 0 to 3"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES, [4]), "a step from 0 to 3"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES, [-1]), "a step from 0 to 3"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES, [0.5]), "a step from 0 to 3"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES, [0], chosen=3), "must be 0 to 2, not 3"),
        (lambda: search_figure(DIGITS[0], DIGITS[:1], LOSSES, [0], chosen=-1), "must be 0 to 2, not -1"),
    ],
)
def test_bad_input(draw: Callable[[], Any], message: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(DataError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)
