"""Galleries, maps, mosaics, curves and intervals show what the arrays say; nothing outside the figure changes."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import evaluate, pixel_metrics, pro_curve
from mvtec_ad.plotting import (
    DEFECT,
    GOOD,
    animation,
    anomaly_map_gallery,
    gallery,
    interval_rows,
    map_scale,
    new_figure,
    picture_rows,
    pro_curve_figure,
    roc_and_pr,
    score_histogram,
    seeds_strip,
    tile_rows,
    tiles,
    to_png,
    training_curves,
)
from mvtec_ad.plotting.style import FAINT

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [20, 40])
SCORES = GENERATOR.normal(size=60) + LABELS
IMAGES = GENERATOR.integers(0, 256, size=(4, 24, 32, 3), dtype=np.uint8)
MASKS = np.zeros((4, 24, 32), dtype=bool)
MASKS[2, 5:9, 10:20] = True
MASKS[3, 0:6, 0:7] = True  # touches two edges of the image
MAPS = (10 + GENERATOR.normal(size=(4, 24, 32)) + 5 * MASKS).astype(np.float32)
DIGITS = GENERATOR.integers(0, 200, (16, 28, 28), np.uint8)  # never white
CURVE = pd.DataFrame({"step": range(6), "loss": [9.0, 7, 6, 5, 5, 4], "held_out": [np.nan, 8, np.nan, 6, np.nan, 7]})


def metric(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


PARTS = {
    "all": {"padim": metric(0.9, 0.8, 0.95), "z score": metric(0.7, 0.6, 0.8)},
    "some": {"padim": metric(0.85, 0.6, 0.97), "classifier": metric(0.99, 0.7, 1.0)},
}


def one_of_each():
    values = evaluate(LABELS, SCORES[None])["image_auroc"]
    return {
        "gallery": gallery(IMAGES, ["a", "b", "c", "d"], masks=MASKS, labels=[0, 0, 1, 1]),
        "anomaly_map_gallery": anomaly_map_gallery(IMAGES, MAPS, MASKS, [9, 16, 14, 18], 15),
        "picture_rows": picture_rows({"seen": IMAGES, "map": MAPS}, list("abcd"), MASKS),
        "tile_rows": tile_rows({"digits": DIGITS}),
        "roc_and_pr": roc_and_pr(LABELS, {"one": SCORES, "other": -SCORES}),
        "score_histogram": score_histogram(LABELS, SCORES, 1.0, 0.5),
        "pro_curve_figure": pro_curve_figure(*pro_curve(MAPS, MASKS)),
        "seeds_strip": seeds_strip({"one": values}),
        "training_curves": training_curves({"one": CURVE}),
        "interval_rows": interval_rows(PARTS, trivial=["z score"]),
    }


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("L")).astype(int)


# All figures ---------------------------------------------------------------------------------------------------------


def test_figures_leave_the_settings_alone_and_are_the_same_twice():
    """No figure is known to pyplot; a PNG stores no date and no version."""
    settings = dict(matplotlib.rcParams)
    first, second = one_of_each(), one_of_each()
    assert pyplot.get_fignums() == []
    for name, figure in first.items():
        assert isinstance(figure, Figure)
        png = to_png(figure, dpi=60)
        assert png == to_png(second[name], dpi=60), name
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.size == tuple(np.floor(figure.get_size_inches() * 60 + 1e-6).astype(int))
            assert set(picture.info) == {"Software", "dpi"}
            assert picture.info["Software"] == "mvtec-ad"
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize(
    ("figure", "kind", "starts"),
    [
        (score_histogram([0, 1], [1.0, 2.0]), "png", b"\x89PNG"),
        (tile_rows({"digits": DIGITS}), "png", b"\x89PNG"),
        (gallery(IMAGES), "jpeg", b"\xff\xd8"),
    ],
)
def test_a_notebook_shows_a_figure_once_as_its_value(figure, kind, starts, monkeypatch):
    """Curves as PNG, pictures as JPEG; never both, whatever formats the inline backend registers for figures."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    data, _ = DisplayFormatter().format(figure)
    assert data == {}  # shown by itself, so not a second time as the value
    assert [image.format for image in shown] == [kind]
    assert shown[0].data.startswith(starts)


def test_importing_loads_no_deep_learning_framework():
    code = "import sys, mvtec_ad.plotting; sys.exit(bool({'torch', 'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Images --------------------------------------------------------------------------------------------------------------


ODD = ["part_$12_$", r"a$\frac{$", "写真🔩", "\udcff\udcfe", "tab\t bell\a", "$\\mathdefault"]


def test_names_are_drawn_as_they_are_spelled():
    """No mathematics, no missing glyph (a warning), no error; what the font lacks stands there as an escape."""
    values = evaluate(LABELS, SCORES[None])["image_auroc"]
    four = ODD[:4]
    figures = [
        gallery(IMAGES, four),
        anomaly_map_gallery(IMAGES, MAPS, titles=four),
        picture_rows(dict.fromkeys(ODD, IMAGES), four),
        tile_rows(dict.fromkeys(ODD, DIGITS)),
        roc_and_pr(LABELS, dict.fromkeys(ODD, SCORES)),
        seeds_strip(dict.fromkeys(ODD, values), ODD[0]),
        training_curves(dict.fromkeys(ODD, CURVE), ODD[1]),
        interval_rows({name: {other: metric(0.9, 0.8, 0.95) for other in ODD} for name in ODD[:2]}),
    ]
    for figure in figures:
        to_png(figure, dpi=40)
        shown = texts(figure)
        assert "part_$12_$" in shown
        assert r"\u5199\u771f\U0001f529" in shown
        assert r"\udcff\udcfe" in shown
    plain, odd = (to_png(gallery(IMAGES[:1], [name]), dpi=40) for name in ("part_12_", "part_$12_$"))
    assert plain != odd


def test_powers_along_an_axis_stay_mathematics():
    """Only names are not: matplotlib's own 10² is a formula."""
    curve = CURVE.assign(loss=[1e-3, 1e-2, 1e-1, 1, 10, 100])
    figure = training_curves({"$one$": curve})
    to_png(figure)
    labels = [label for label in figure.axes[0].get_yticklabels() if "mathdefault" in label.get_text()]
    assert labels
    assert all(label.get_parse_math() for label in labels)


def test_gallery_places_images_and_titles_in_the_colours_of_their_class():
    figure = gallery(IMAGES, ["a", "b", "c", "d"], columns=3, labels=[0, 0, 1, 1])
    assert len(figure.axes) == 4
    rows, columns, *_ = figure.axes[3].get_subplotspec().get_geometry()
    assert (rows, columns) == (2, 3)
    for axes, image, title, label in zip(figure.axes, IMAGES, "abcd", [0, 0, 1, 1], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert axes.get_title("left") == title
        assert axes._left_title.get_color() == (DEFECT if label else GOOD)
    figure = gallery([IMAGES[0], IMAGES[0][..., 0], IMAGES[0] / 255.0, IMAGES[0][..., 0] / 255.0])
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert (limits[1], limits[3]) == ((0, 255), (0, 1))  # not stretched to the darkest and brightest pixel


@pytest.mark.parametrize("factor", [1, 2])
def test_the_outline_encloses_the_mask_and_nothing_else(factor):
    images = np.repeat(np.repeat(IMAGES, factor, axis=1), factor, axis=2)  # a mask is stretched over a larger image
    figure = gallery(images, masks=MASKS)
    assert [len(axes.collections) for axes in figure.axes] == [0, 0, 1, 1]
    rows, columns = np.mgrid[: 24 * factor, : 32 * factor]
    points = np.column_stack([columns.ravel(), rows.ravel()])
    for index in (2, 3):
        (path,) = figure.axes[index].collections[0].get_paths()
        inside = path.contains_points(points).reshape(rows.shape)
        expected = np.repeat(np.repeat(MASKS[index], factor, axis=0), factor, axis=1)
        # A stretched outline cuts the corners of the pixels it crosses.
        assert (inside != expected).sum() <= (0 if factor == 1 else 4)
        assert figure.axes[index].get_xlim() == (-0.5, 32 * factor - 0.5)


def test_all_anomaly_maps_share_one_colour_scale_with_the_bar():
    """The percentiles of all maps together, unless a scale is given."""
    assert map_scale(MAPS) == pytest.approx(tuple(np.percentile(MAPS, [1, 99.8])), rel=1e-6)
    low, high = map_scale(np.ones((2, 4, 4)))
    assert low < high
    *panels, bar = anomaly_map_gallery(IMAGES, MAPS, MASKS).axes
    maps = [axes.images[1] for axes in panels[1::2]]
    assert len(maps) == 4
    assert len({id(image.norm) for image in maps}) == 1
    assert (maps[0].norm.vmin, maps[0].norm.vmax) == map_scale(MAPS)
    np.testing.assert_array_equal(maps[2].get_array(), MAPS[2])
    assert bar.get_ylim() == pytest.approx(map_scale(MAPS))
    given = anomaly_map_gallery(IMAGES[:1], MAPS[:1], scale=(0, 50))
    assert given.axes[1].images[1].get_clim() == (0, 50)


def test_verdicts_say_what_was_called_and_whether_it_is_right():
    figure = anomaly_map_gallery(IMAGES, MAPS, MASKS, scores=[9, 16, 14, 15], threshold=15)
    titles = [axes.get_title("left").split("\n")[1] for axes in figure.axes[1:8:2]]
    assert titles == ["good, right", "defect, wrong", "good, wrong", "good, wrong"]  # 15 does not exceed 15
    for options, title in (
        ({"threshold": 15}, "score 16 > 15\ndefect"),  # an own image: nobody knows the truth
        ({"threshold": 15, "labels": [1]}, "score 16 > 15\ndefect, right"),
        ({}, "score 16"),
    ):
        (_, overlay, _) = anomaly_map_gallery(IMAGES[:1], MAPS[:1], scores=[16.0], **options).axes
        assert overlay.get_title("left") == title


def test_rows_of_pictures_show_images_and_maps_each_on_one_scale():
    figure = picture_rows({"seen": IMAGES, "map": MAPS, "other": 2 * MAPS}, list("abcd"), MASKS, {"other": (0.0, 50.0)})
    grid = np.array(figure.axes).reshape(3, 4)
    for column in range(4):
        shown = [axes.images[0] for axes in grid[:, column]]
        np.testing.assert_array_equal(shown[0].get_array(), IMAGES[column])
        np.testing.assert_array_equal(shown[1].get_array(), MAPS[column])
        assert shown[1].get_clim() == map_scale(MAPS)
        assert shown[2].get_clim() == (0.0, 50.0)
        assert grid[0, column].get_title(loc="left") == "abcd"[column]
        assert [bool(axes.collections) for axes in grid[:, column]] == [bool(MASKS[column].any()), False, False]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["seen", "map", "other"]


def test_tiles_made_by_hand():
    """Row by row with one white pixel between; the place that stays empty is white; colours are kept."""
    images = np.arange(3 * 2 * 1, dtype=np.uint8).reshape(3, 2, 1)
    expected = [[0, 255, 2], [1, 255, 3], [255, 255, 255], [4, 255, 255], [5, 255, 255]]
    np.testing.assert_array_equal(tiles(images, 2), expected)
    np.testing.assert_array_equal(tiles(images, 1).ravel(), [0, 1, 255, 2, 3, 255, 4, 5])
    np.testing.assert_array_equal(tiles(list(images), 9), [[0, 255, 2, 255, 4], [1, 255, 3, 255, 5]])
    mosaic = tiles(IMAGES, 2)
    assert mosaic.shape == (49, 65, 3)
    for index, (row, column) in enumerate(((0, 0), (0, 33), (25, 0), (25, 33))):
        np.testing.assert_array_equal(mosaic[row : row + 24, column : column + 32], IMAGES[index])
    assert (mosaic[24] == 255).all()
    assert (mosaic[:, 32] == 255).all()


@pytest.mark.parametrize("zoom", [1, 2, 3])
def test_mosaics_stand_below_each_other_pixel_by_pixel(zoom):
    """What is seen is each mosaic, a pixel a square of whole dots: nothing is blurred, names stand inside."""
    names = ["half-way", "autoencoder, wide mmmm" if zoom == 1 else "at last"]
    rows = {names[0]: DIGITS, names[1]: DIGITS[::-1, ..., None].repeat(3, 3)}
    figure = tile_rows(rows, columns=8, zoom=zoom)
    shown = pixels(to_png(figure))
    height, width = 57 * zoom, 231 * zoom
    for index, images in enumerate((DIGITS, DIGITS[::-1])):
        top = 8 + index * (height + 8)
        expected = tiles(images, 8).repeat(zoom, 0).repeat(zoom, 1)
        assert np.abs(shown[top : top + height, -8 - width : -8] - expected).max() <= 1  # the colour map rounds
    assert (shown[:8] == 255).all()
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.texts] == names
    edges = [text.get_window_extent() for text in figure.texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width - (8 + width) * figure.dpi / 90 for box in edges)


def test_an_animation_has_a_frame_per_figure_in_order_with_its_duration():
    """Colours come back in the order given; the GIF repeats for ever."""
    colours = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}
    figures = [new_figure(2, 1) for _ in colours]
    for figure, colour in zip(figures, colours, strict=True):
        figure.set_facecolor(colour)
    with Image.open(io.BytesIO(animation(figures, seconds=0.5, dpi=50))) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (3, (100, 50), 0)
        for index, expected in enumerate(colours.values()):
            gif.seek(index)
            assert gif.info["duration"] == 500
            assert np.abs(np.asarray(gif.convert("RGB"))[25, 50].astype(int) - expected).max() <= 4


# Curves --------------------------------------------------------------------------------------------------------------


def three_decimals(value):
    return f"{value:.3f}".lstrip("0")


def test_curves_name_and_enclose_what_scikit_learn_computes_and_mark_chance():
    roc, pr = roc_and_pr(LABELS, {"one": SCORES, "other": -SCORES}).axes
    for index, (name, scores) in enumerate((("one", SCORES), ("other", -SCORES))):
        auroc, ap = roc_auc_score(LABELS, scores), average_precision_score(LABELS, scores)
        assert f"{name}: AUROC {three_decimals(auroc)}" in texts(roc)
        assert f"{name}: AP {three_decimals(ap)}" in texts(pr)
        x, y = roc.lines[index].get_data()
        assert (np.diff(x) * (y[1:] + y[:-1]) / 2).sum() == pytest.approx(auroc)
        recall, precision = pr.lines[index].get_data()
        steps = pr.lines[index].get_drawstyle()
        held = precision[:-1] if steps == "steps-post" else precision[1:]  # recall falls from 1 to 0
        assert (-np.diff(recall) * held).sum() == pytest.approx(ap)
    assert pr.lines[-1].get_ydata() == pytest.approx([2 / 3, 2 / 3])  # 40 of 60 are defects
    np.testing.assert_array_equal(roc.lines[-1].get_xydata(), [[0, 0], [1, 1]])


def test_both_thresholds_stand_at_their_values_and_say_what_they_are():
    figure = score_histogram(LABELS, SCORES, calibrated=1.25, oracle=0.5)
    for axes in figure.axes:
        ends = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
        assert ends == [[1.25, 1.25], [0.5, 0.5]]
    assert "calibrated on good images: 1.25" in texts(figure)
    assert "oracle (uses test labels): 0.5" in texts(figure)


def test_every_image_is_in_the_histogram_and_in_the_strip_in_the_colour_of_its_class():
    top, strip = score_histogram(LABELS, SCORES).axes
    for label, colour in ((0, GOOD), (1, DEFECT)):
        bars = [patch for patch in top.patches if np.allclose(patch.get_facecolor()[:3], to_rgb(colour))]
        assert sum(patch.get_height() for patch in bars) == (label == LABELS).sum()
        np.testing.assert_array_equal(strip.lines[label].get_xdata(), SCORES[label == LABELS])
        assert strip.lines[label].get_color() == colour
    assert "good (20 images)" in texts(top.figure)
    assert len(score_histogram([0, 0], [1.0, 2.0]).axes) == 2  # one class alone will do


@pytest.mark.parametrize("limit", [0.3, 0.1])
def test_the_shaded_area_is_au_pro(limit):
    figure = pro_curve_figure(*pro_curve(MAPS, MASKS), limit)
    (shade,) = figure.axes[0].collections
    vertices = shade.get_paths()[0].vertices
    x, y = vertices[:, 0], vertices[:, 1]
    shaded = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2  # shoelace
    assert shaded / limit == pytest.approx(pixel_metrics(MAPS, MASKS, limit)["au_pro"], abs=1e-9)
    assert vertices[:, 0].max() == limit
    assert f"AUPRO\n{three_decimals(pixel_metrics(MAPS, MASKS, limit)['au_pro'])}" in texts(figure)


def test_seeds_show_each_value_the_mean_and_the_interval():
    values = metric(0.93, 0.85, 0.97) | {"values": [0.91, 0.95]}
    figure = seeds_strip({"one": values, "other": metric(0.8, 0.7, 0.9) | {"values": [0.8]}}, metric="AUPRO")
    axes = figure.axes[0]
    places = [tuple(np.asarray(line.get_xdata(), dtype=float)) for line in axes.lines if len(line.get_xdata())]
    assert places == [(0.85, 0.97), (0.93,), (0.91, 0.95), (0.7, 0.9), (0.8,), (0.8,)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "other"]
    assert ".930 [.850, .970]" in texts(figure)
    assert axes.get_xlabel() == "AUPRO"


def test_a_training_shows_its_losses_and_marks_the_kept_weights():
    (axes,) = training_curves({"one": CURVE, "two": CURVE[["step", "loss"]]}, what="error").axes
    trained, held, best, plain = axes.lines
    assert list(trained.get_xdata()) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(trained.get_ydata(), [9, 8, 22 / 3, 6.75, 6.4, 6])
    assert (list(held.get_xdata()), list(held.get_ydata())) == ([2, 4, 6], [8, 6, 7])
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([4], [6])
    np.testing.assert_allclose(plain.get_ydata(), trained.get_ydata())
    assert axes.get_ylabel() == "error"


def test_interval_rows_show_every_row_in_every_column():
    left, right = interval_rows(PARTS, trivial=["z score"]).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["padim", "z score", "classifier"]
    assert [label.get_color() == FAINT for label in left.get_yticklabels()] == [False, True, False]
    assert ".900 [.800, .950]" in texts(left)
    assert [texts(axes).count("not scored") for axes in (left, right)] == [1, 1]
    points = [tuple(line.get_xydata()[0]) for line in left.lines if line.get_marker() == "o"]
    assert points == [(0.9, 0.0), (0.7, 1.0)]
    bars = [line.get_xdata() for line in left.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 5]
    np.testing.assert_allclose(bars, [[0.8, 0.95], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: gallery(IMAGES, masks=MASKS[:3]), "4 images need 4 masks, not 3"),
        (lambda: gallery([]), "at least one image"),
        (lambda: gallery([np.zeros((3, 24, 32))]), "an image must have shape"),
        (lambda: anomaly_map_gallery(IMAGES, MAPS[:2]), "4 images need 4 maps, not 2"),
        (lambda: picture_rows({}), "one length"),
        (lambda: picture_rows({"seen": []}), "one length"),
        (lambda: picture_rows({"seen": IMAGES, "map": MAPS[:2]}), "one length"),
        (lambda: picture_rows({"seen": IMAGES}, titles=["a"]), "one length"),
        (lambda: tiles(DIGITS / 255, 4), r"uint8 \(N, H, W\) .* not float64 \(16, 28, 28\)"),
        (lambda: tiles(DIGITS[0], 4), r"not uint8 \(28, 28\)"),
        (lambda: tiles(DIGITS[:0], 4), "N from 1"),
        (lambda: tiles(IMAGES[..., :2], 4), r"not uint8 \(4, 24, 32, 2\)"),
        (lambda: tile_rows({}), "at least one row"),
        (lambda: tile_rows({"a": DIGITS, "b": DIGITS[:3]}), "not 2 that differ"),
        (lambda: animation([]), "at least one"),
        (lambda: animation([new_figure(2, 1), new_figure(3, 1)]), "one size"),
        (lambda: roc_and_pr([0, 0], {"one": [1.0, 2.0]}), "no AUROC"),
        (lambda: score_histogram([0, 1], [1.0]), "shape"),
        (lambda: seeds_strip({}), "no row"),
        (lambda: training_curves({}), "no curve"),
        (lambda: interval_rows({"all": {}}), "no row"),
    ],
)
def test_input_that_does_not_fit_is_refused(draw, message):
    with pytest.raises(DataError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)
