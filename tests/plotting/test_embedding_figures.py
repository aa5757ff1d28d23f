"""Figures of embeddings show the points, distances and intervals they were given."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.embeddings import (
    compared,
    dendrogram_and_distances,
    embedding_maps,
    few_shot_curve,
    type_looks,
)
from mvtec_ad.plotting.style import GOOD, to_png

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "category": ["screw", "screw", "bottle", "bottle", "bottle", "screw"],
        "defect": ["scratch", "good", "crack", "stain", "crack", "scratch"],
    }
)
POINTS = RNG.normal(size=(6, 2))
# Hand-made: a and b join at 1, c and d at 2, and both pairs at the mean of 5, 6, 7 and 8.
DISTANCES = pd.DataFrame(
    [[0, 5, 1, 6], [5, 0, 7, 2.0], [1, 7, 0, 8], [6, 2, 8, 0]], index=list("acbd"), columns=list("acbd")
)


def value(mean: float, width: float = 0.1) -> dict[str, float]:
    """A mean and an interval that is not symmetric around it."""
    return {"mean": mean, "low": mean - width, "high": mean + 2 * width}


WAYS = {
    "frozen": {"whole picture": value(0.3), "mask": value(0.5)},
    "SupCon": {"mask": value(0.8, 0.05)},
}
CURVES = {
    "frozen": {4: value(0.5), 1: value(0.3), 2: value(0.4)},
    "SupCon": {1: value(0.6), 8: value(0.9, 0.02)},
}


def large(types: int, categories: int) -> pd.DataFrame:
    """A table with every type of every category once."""
    pairs = [(f"category {c}", f"type {t}") for c in range(categories) for t in range(types)]
    return pd.DataFrame(pairs, columns=["category", "defect"])


def test_points_lie_where_they_are_and_look_as_their_type() -> None:
    """One group of marks per type, in the order of category and type; good parts are blue."""
    (axes,) = embedding_maps({"tsne": POINTS}, TABLE).axes
    groups = [[2, 4], [3], [1], [0, 5]]  # bottle: crack, stain; screw: good, scratch
    looks = list(type_looks(TABLE).values())
    for marks, rows, (colour, _) in zip(axes.collections, groups, looks, strict=True):
        np.testing.assert_array_equal(marks.get_offsets(), POINTS[rows])
        assert to_hex(marks.get_facecolor()[0]).upper() == colour
    assert looks[2][0] == GOOD
    shapes = [len(marks.get_paths()[0].vertices) for marks in axes.collections]
    assert shapes[0] == shapes[1] != shapes[2] == shapes[3]


@pytest.mark.parametrize(("types", "categories"), [(12, 1), (8, 7), (8, 8)])
def test_no_two_types_look_alike(types: int, categories: int) -> None:
    """Within a category by colour alone, and everywhere by colour and marker."""
    looks = type_looks(large(types, categories))
    assert len(set(looks.values())) == types * categories
    for index in range(categories):
        assert len({colour for (category, _), (colour, _) in looks.items() if category == f"category {index}"}) == types


def test_only_pca_has_ticks() -> None:
    """t-SNE and UMAP have no unit; all have one scale in both directions."""
    maps = dict.fromkeys(["pca", "tsne", "umap", "PCA, seed 1"], POINTS)
    figure = embedding_maps(maps, TABLE)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["PCA", "t-SNE", "UMAP", "PCA, seed 1"]
    assert [bool(len(axes.get_xticks())) for axes in figure.axes] == [True, False, False, True]
    assert {axes.get_aspect() for axes in figure.axes} == {1}


@pytest.mark.parametrize(("types", "categories"), [(1, 1), (8, 7)])
def test_legend_names_all_and_stays_inside(types: int, categories: int) -> None:
    """Categories are headings, where there are several; nothing leaves the figure."""
    table = large(types, categories)
    figure = embedding_maps({"tsne": RNG.normal(size=(len(table), 2))}, table)
    figure.draw_without_rendering()
    texts = figure.legends[0].get_texts()
    headings = [text.get_text() for text in texts if text.get_fontweight() == "bold"]
    assert headings == ([f"category {index}" for index in range(categories)] if categories > 1 else [])
    assert len(texts) == types * categories + len(headings)
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    axes_box = figure.axes[0].get_window_extent()
    assert axes_box.width > 200
    assert axes_box.x1 < box.x0


def joints(tree: Axes) -> list[float]:
    """Heights at which groups join: the outermost end of each bracket."""
    return sorted(float(np.max(line.get_xdata())) for line in tree.lines)


def test_tree_and_matrix_of_a_set_joined_by_hand() -> None:
    """Average linkage; the matrix in the order of the leaves, each of which lies at its row."""
    tree, matrix, _ = dendrogram_and_distances(DISTANCES).axes
    assert joints(tree) == pytest.approx([1, 2, 6.5])
    names = [label.get_text() for label in matrix.get_yticklabels()]
    assert {frozenset(names[:2]), frozenset(names[2:])} == {frozenset("ab"), frozenset("cd")}
    assert names == [label.get_text() for label in matrix.get_xticklabels()]
    np.testing.assert_array_equal(matrix.images[0].get_array(), DISTANCES.loc[names, names])
    ends = sorted(float(y) for line in tree.lines for x, y in line.get_xydata() if x == 0)
    assert ends == [0, 1, 2, 3]
    assert sorted(tree.get_ylim()) == sorted(matrix.get_ylim()) == [-0.5, 3.5]
    written = {text.get_position(): text.get_text() for text in matrix.texts}
    assert written[names.index("d"), names.index("b")] == "8.00"
    assert len(written) == 16


@pytest.mark.parametrize("count", [2, 12, 13, 50])
def test_any_number_of_types(count: int) -> None:
    """Up to 12 the numbers are written; equal types have distance 0; labels stay inside the figure."""
    points = RNG.normal(size=(count, 3))
    points[1] = points[0]
    values = np.linalg.norm(points[:, None] - points[None], axis=2)
    names = [f"category/type {index}" for index in range(count)]
    figure = dendrogram_and_distances(pd.DataFrame(values, names, names))
    figure.draw_without_rendering()
    tree, matrix, _ = figure.axes
    assert len(tree.lines) == count - 1
    assert len(matrix.texts) == (count**2 if count <= 12 else 0)
    for label in [*matrix.get_xticklabels(), *matrix.get_yticklabels(), tree.xaxis.label]:
        box = label.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0


def test_dots_and_intervals_lie_in_their_rows() -> None:
    """A look that a way lacks is left out; rows are read from the top."""
    (axes,) = compared(WAYS, chance=0.25).axes
    whole, mask = axes.lines[:2]
    assert list(whole.get_xdata()) == [0.3]
    assert list(mask.get_xdata()) == [0.5, 0.8]
    assert [round(y) for y in mask.get_ydata()] == [0, 1]
    assert whole.get_ydata()[0] < mask.get_ydata()[0]
    segments = axes.collections[1].get_segments()
    np.testing.assert_allclose([segment[:, 0] for segment in segments], [[0.4, 0.7], [0.75, 0.9]])
    np.testing.assert_allclose([segment[0, 1] for segment in segments], mask.get_ydata())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["frozen", "SupCon"]
    assert axes.get_ylim() == (1.5, -0.5)
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["whole picture", "mask", "chance"]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() == "chance"] == [0.25]


def test_curves_rise_in_the_order_of_counts() -> None:
    """Whatever the order they come in; the band is the interval."""
    (axes,) = few_shot_curve(CURVES, chance=0.2).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 0.3], [2, 0.4], [4, 0.5]])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[1, 0.6], [8, 0.9]])
    band = axes.collections[1].get_paths()[0].vertices
    assert {tuple(point) for point in band.round(6)} == {(1, 0.5), (1, 0.8), (8, 0.88), (8, 0.94)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8"]
    assert axes.lines[2].get_ydata()[0] == 0.2


def test_nothing_outside_changes() -> None:
    """The same input gives the same bytes, and matplotlib's settings stay."""
    before = dict(matplotlib.rcParams)
    for draw in (
        lambda: embedding_maps({"pca": POINTS}, TABLE),
        lambda: dendrogram_and_distances(DISTANCES),
        lambda: compared(WAYS),
        lambda: few_shot_curve(CURVES),
    ):
        assert to_png(draw()) == to_png(draw())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: embedding_maps({}, TABLE), "no map to draw"),
        (lambda: embedding_maps({"umap": POINTS[:4]}, TABLE), r"map umap must hold \(6, 2\) .* \(4, 2\)"),
        (lambda: embedding_maps({"umap": POINTS * np.inf}, TABLE), "finite"),
        (lambda: embedding_maps({"umap": POINTS}, TABLE[["defect"]]), "missing: category"),
        (lambda: embedding_maps({"umap": POINTS[:0]}, TABLE[:0]), "missing: images"),
        (lambda: dendrogram_and_distances(DISTANCES.iloc[:1, :1]), r"2 or more types .* \(1, 1\)"),
        (lambda: dendrogram_and_distances(DISTANCES.iloc[:, :2]), r"on both sides; the shape is \(4, 2\)"),
        (lambda: dendrogram_and_distances(DISTANCES[list("abcd")]), "on both sides"),
        (lambda: dendrogram_and_distances(DISTANCES + 1), "0 on the diagonal"),
        (lambda: dendrogram_and_distances(-DISTANCES), "from 0"),
        (lambda: dendrogram_and_distances(DISTANCES * np.nan), "finite"),
        (lambda: dendrogram_and_distances(DISTANCES * np.array([[1], [1], [1], [2]])), "symmetric"),
        (lambda: compared({}), "nothing to compare"),
        (lambda: compared({"frozen": {}}), "nothing to compare"),
        (lambda: compared({"frozen": {"mask": {"mean": 1, "low": 0}}}), "frozen must have mean, low and high"),
        (lambda: few_shot_curve({}), "curves need a name"),
        (lambda: few_shot_curve({"frozen": {}}), "curves need a name"),
        (lambda: few_shot_curve({"frozen": {0: value(0.1)}}), "1 or more images"),
        (lambda: few_shot_curve({"frozen": {2: {"mean": 0.1}}}), "frozen at 2 must have mean, low and high"),
    ],
)
def test_bad_input(draw: Callable[[], Figure], message: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(DataError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)
