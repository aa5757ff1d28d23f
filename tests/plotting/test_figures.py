"""What the figures show is what the arrays say; nothing outside the figure changes."""

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
from mvtec_ad.metrics import au_pro, evaluate, pro_curve
from mvtec_ad.plotting import (
    DEFECT,
    GOOD,
    gallery,
    heat_maps,
    heat_scale,
    picture_rows,
    pro_curve_figure,
    roc_and_pr,
    score_histogram,
    seeds_strip,
    to_png,
    training_curves,
)

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [20, 40])
SCORES = GENERATOR.normal(size=60) + LABELS
IMAGES = GENERATOR.integers(0, 256, size=(4, 24, 32, 3), dtype=np.uint8)
MASKS = np.zeros((4, 24, 32), dtype=bool)
MASKS[2, 5:9, 10:20] = True
MASKS[3, 0:6, 0:7] = True  # touches two edges of the image
CURVE = pd.DataFrame({"step": range(6), "loss": [9.0, 7, 6, 5, 5, 4], "held_out": [np.nan, 8, np.nan, 6, np.nan, 7]})
MAPS = (10 + GENERATOR.normal(size=(4, 24, 32)) + 5 * MASKS).astype(np.float32)


def drawn():
    """One of each figure."""
    metric = evaluate(LABELS, SCORES[None])["image_auroc"]
    return {
        "gallery": gallery(IMAGES, ["a", "b", "c", "d"], masks=MASKS, labels=[0, 0, 1, 1]),
        "heat_maps": heat_maps(IMAGES, MAPS, MASKS, [9, 16, 14, 18], 15),
        "roc_and_pr": roc_and_pr(LABELS, {"one": SCORES, "other": -SCORES}),
        "score_histogram": score_histogram(LABELS, SCORES, 1.0, 0.5, 0.05),
        "pro_curve_figure": pro_curve_figure(*pro_curve(MAPS, MASKS)),
        "seeds_strip": seeds_strip({"one": metric}, {"one": 0.9}),
        "picture_rows": picture_rows({"seen": IMAGES, "map": MAPS}, list("abcd"), MASKS),
        "training_curves": training_curves({"one": CURVE}),
    }


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_figures_leave_pyplot_and_the_settings_alone():
    settings = dict(matplotlib.rcParams)
    figures = drawn()
    assert all(isinstance(figure, Figure) for figure in figures.values())
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings


def test_png_is_the_same_twice_and_stores_no_date_and_no_version():
    first, second = drawn(), drawn()
    for name, figure in first.items():
        png = to_png(figure, dpi=60)
        assert png == to_png(second[name], dpi=60), name
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.size == tuple(np.floor(figure.get_size_inches() * 60 + 1e-6).astype(int))
            assert not {"Software", "Date", "Creation Time"} & set(picture.info)


@pytest.mark.parametrize(
    ("figure", "kind", "starts"),
    [
        (score_histogram([0, 1], [1.0, 2.0]), "png", b"\x89PNG"),
        (gallery(IMAGES), "jpeg", b"\xff\xd8"),
    ],
)
def test_a_notebook_shows_a_figure_once_as_its_value(figure, kind, starts, monkeypatch):
    """Curves as PNG, pictures as JPEG; never both, whatever formats the inline backend registers for figures."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    data, _ = DisplayFormatter().format(figure)
    assert data == {}  # shown by itself, so not a second time as the value
    assert [one.format for one in shown] == [kind]
    assert shown[0].data.startswith(starts)


def test_importing_loads_no_deep_learning_framework():
    code = "import sys, mvtec_ad.plotting; sys.exit(bool({'torch', 'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gallery_places_images_and_titles_in_the_colours_of_their_class():
    figure = gallery(IMAGES, ["a", "b", "c", "d"], columns=3, labels=[0, 0, 1, 1])
    assert len(figure.axes) == 4
    rows, columns, *_ = figure.axes[3].get_subplotspec().get_geometry()
    assert (rows, columns) == (2, 3)
    for axes, image, title, label in zip(figure.axes, IMAGES, "abcd", [0, 0, 1, 1], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert axes.get_title("left") == title
        assert axes._left_title.get_color() == (DEFECT if label else GOOD)


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


def test_grey_images_and_images_in_unit_range_are_shown_as_they_are():
    figure = gallery([IMAGES[0], IMAGES[0][..., 0], IMAGES[0] / 255.0, IMAGES[0][..., 0] / 255.0])
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert limits[1] == (0, 255)  # not stretched to the darkest and brightest pixel
    assert limits[3] == (0, 1)


def test_all_heat_maps_share_one_colour_scale_with_the_bar():
    figure = heat_maps(IMAGES, MAPS, MASKS)
    *panels, bar = figure.axes
    assert len(panels) == 8
    maps = [axes.images[1] for axes in panels[1::2]]
    assert len({id(image.norm) for image in maps}) == 1
    assert (maps[0].norm.vmin, maps[0].norm.vmax) == heat_scale(MAPS)
    np.testing.assert_array_equal(maps[2].get_array(), MAPS[2])
    assert bar.get_ylim() == pytest.approx(heat_scale(MAPS))
    given = heat_maps(IMAGES[:1], MAPS[:1], scale=(0, 50))
    assert given.axes[1].images[1].get_clim() == (0, 50)


def test_heat_scale_is_the_percentiles_of_all_maps_together():
    assert heat_scale(MAPS) == pytest.approx(tuple(np.percentile(MAPS, [1, 99.8])), rel=1e-6)
    low, high = heat_scale(np.ones((2, 4, 4)))
    assert low < high


def test_verdicts_say_what_was_called_and_whether_it_is_right():
    figure = heat_maps(IMAGES, MAPS, MASKS, scores=[9, 16, 14, 15], threshold=15)
    titles = [axes.get_title("left").split("\n")[1] for axes in figure.axes[1:8:2]]
    assert titles == ["good, right", "defect, wrong", "good, wrong", "good, wrong"]  # 15 does not exceed 15
    alone = heat_maps(IMAGES[:1], MAPS[:1], scores=[16.0], threshold=15)
    assert alone.axes[1].get_title("left") == "score 16 > 15\ndefect"  # an own image: nobody knows the truth
    named = heat_maps(IMAGES[:1], MAPS[:1], scores=[16.0], threshold=15, labels=[1])
    assert named.axes[1].get_title("left").endswith("defect, right")
    assert heat_maps(IMAGES[:1], MAPS[:1], scores=[16.0]).axes[1].get_title("left") == "score 16"


def three_decimals(value):
    return f"{value:.3f}".lstrip("0")


def test_curves_name_what_scikit_learn_computes_and_mark_chance():
    figure = roc_and_pr(LABELS, {"one": SCORES, "other": -SCORES})
    roc, pr = figure.axes
    for name, scores in (("one", SCORES), ("other", -SCORES)):
        assert f"{name}: AUROC {three_decimals(roc_auc_score(LABELS, scores))}" in texts(roc)
        assert f"{name}: AP {three_decimals(average_precision_score(LABELS, scores))}" in texts(pr)
    assert pr.lines[-1].get_ydata() == pytest.approx([2 / 3, 2 / 3])  # 40 of 60 are defects
    np.testing.assert_array_equal(roc.lines[-1].get_xydata(), [[0, 0], [1, 1]])


def test_the_area_under_the_drawn_curves_is_the_number_in_the_legend():
    roc, pr = roc_and_pr(LABELS, {"one": SCORES}).axes
    x, y = roc.lines[0].get_data()
    area = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
    assert area == pytest.approx(roc_auc_score(LABELS, SCORES))
    recall, precision = pr.lines[0].get_data()
    steps = pr.lines[0].get_drawstyle()
    held = precision[:-1] if steps == "steps-post" else precision[1:]  # recall falls from 1 to 0
    assert (-np.diff(recall) * held).sum() == pytest.approx(average_precision_score(LABELS, SCORES))


def test_both_thresholds_stand_at_their_values_and_say_what_they_are():
    figure = score_histogram(LABELS, SCORES, calibrated=1.25, oracle=0.5, false_alarm_rate=0.05)
    top, strip = figure.axes
    for axes in (top, strip):
        ends = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
        assert ends == [[1.25, 1.25], [0.5, 0.5]]
    assert "calibrated at 5 % false alarms: 1.25" in texts(figure)
    assert "oracle (uses test labels): 0.5" in texts(figure)
    assert "false alarms" not in texts(score_histogram(LABELS, SCORES, calibrated=1.25))


def test_every_image_is_in_the_histogram_and_in_the_strip_in_the_colour_of_its_class():
    top, strip = score_histogram(LABELS, SCORES).axes
    for label, colour in ((0, GOOD), (1, DEFECT)):
        bars = [patch for patch in top.patches if np.allclose(patch.get_facecolor()[:3], to_rgb(colour))]
        assert sum(patch.get_height() for patch in bars) == (label == LABELS).sum()
        np.testing.assert_array_equal(strip.lines[label].get_xdata(), SCORES[label == LABELS])
        assert strip.lines[label].get_color() == colour
    assert f"good ({20} images)" in texts(top.figure)
    assert len(score_histogram([0, 0], [1.0, 2.0]).axes) == 2  # one class alone will do


@pytest.mark.parametrize("limit", [0.3, 0.1])
def test_the_shaded_area_is_au_pro(limit):
    figure = pro_curve_figure(*pro_curve(MAPS, MASKS), limit)
    axes = figure.axes[0]
    (shade,) = axes.collections
    vertices = shade.get_paths()[0].vertices
    x, y = vertices[:, 0], vertices[:, 1]
    shaded = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2  # shoelace
    assert shaded / limit == pytest.approx(au_pro(MAPS, MASKS, limit), abs=1e-9)
    assert vertices[:, 0].max() == limit
    assert f"AUPRO\n{three_decimals(au_pro(MAPS, MASKS, limit))}" in texts(figure)


def test_seeds_show_each_value_the_mean_the_interval_and_what_was_reported():
    one = {"mean": 0.93, "sd": 0.02, "low": 0.85, "high": 0.97, "values": [0.91, 0.95]}
    other = {"mean": 0.8, "sd": 0.0, "low": 0.7, "high": 0.9, "values": [0.8]}
    figure = seeds_strip({"one": one, "other": other}, {"other": 0.88}, metric="AUPRO")
    axes = figure.axes[0]
    drawn_at = [tuple(np.asarray(line.get_xdata(), dtype=float)) for line in axes.lines if len(line.get_xdata())]
    assert drawn_at == [(0.85, 0.97), (0.93,), (0.91, 0.95), (0.7, 0.9), (0.8,), (0.8,), (0.88,)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "other"]
    assert ".930 [.850, .970]" in texts(figure)
    assert axes.get_xlabel() == "AUPRO"
    assert "reported" not in texts(seeds_strip({"one": one}))


def test_input_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="4 images need 4 masks, not 3"):
        gallery(IMAGES, masks=MASKS[:3])
    with pytest.raises(DataError, match="4 images need 4 maps, not 2"):
        heat_maps(IMAGES, MAPS[:2])
    with pytest.raises(DataError, match="at least one image"):
        gallery([])
    with pytest.raises(DataError, match="an image must have shape"):
        gallery([np.zeros((3, 24, 32))])
    with pytest.raises(DataError, match="no AUROC"):
        roc_and_pr([0, 0], {"one": [1.0, 2.0]})
    with pytest.raises(DataError, match="shape"):
        score_histogram([0, 1], [1.0])
    with pytest.raises(DataError, match="without a row"):
        seeds_strip({"one": {"mean": 1, "low": 1, "high": 1, "values": [1]}}, {"two": 0.9})


def test_rows_of_pictures_show_images_and_maps_each_on_one_scale():
    figure = picture_rows({"seen": IMAGES, "map": MAPS, "other": 2 * MAPS}, list("abcd"), MASKS, {"other": (0.0, 50.0)})
    grid = np.array(figure.axes).reshape(3, 4)
    for column in range(4):
        shown = [axes.images[0] for axes in grid[:, column]]
        np.testing.assert_array_equal(shown[0].get_array(), IMAGES[column])
        np.testing.assert_array_equal(shown[1].get_array(), MAPS[column])
        assert shown[1].get_clim() == heat_scale(MAPS)
        assert shown[2].get_clim() == (0.0, 50.0)
        assert grid[0, column].get_title(loc="left") == "abcd"[column]
        assert [bool(axes.collections) for axes in grid[:, column]] == [bool(MASKS[column].any()), False, False]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["seen", "map", "other"]
    for wrong in ({}, {"seen": IMAGES, "map": MAPS[:2]}, {"seen": []}):
        with pytest.raises(DataError, match="one length"):
            picture_rows(wrong)
    with pytest.raises(DataError, match="one length"):
        picture_rows({"seen": IMAGES}, titles=["a"])


def test_a_training_shows_its_losses_and_marks_the_kept_weights():
    (axes,) = training_curves({"one": CURVE, "two": CURVE[["step", "loss"]]}, what="error").axes
    trained, held, best, plain = axes.lines
    assert list(trained.get_xdata()) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(trained.get_ydata(), [9, 8, 22 / 3, 6.75, 6.4, 6])
    assert (list(held.get_xdata()), list(held.get_ydata())) == ([2, 4, 6], [8, 6, 7])
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([4], [6])
    np.testing.assert_allclose(plain.get_ydata(), trained.get_ydata())
    assert axes.get_ylabel() == "error"
    with pytest.raises(DataError, match="no curve"):
        training_curves({})
