"""The atlas of anomalies: one HTML file in which every image is a mark on a map that can be asked what it is."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex
from numpy.typing import ArrayLike
from PIL import Image

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.atlas_parts import PANEL, READING, RIMS, SCRIPT, STYLE, TEMPLATE
from mvtec_ad.plotting.embeddings import MAP_NAMES, checked_maps, type_looks
from mvtec_ad.plotting.images import heat_scale
from mvtec_ad.plotting.style import HEAT, INK

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, Plot

THUMBNAIL, LARGE = 96, 256  # longer side in pixels

_SHAPES = {  # matplotlib's marker -> bokeh's, and its outline in a square of 16 for the legend
    "o": ("circle", "M2.5 8a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0"),
    "^": ("triangle", "M8 2l6 11H2z"),
    "s": ("square", "M3 3h10v10H3z"),
    "D": ("diamond", "M8 1l4.5 7L8 15 3.5 8z"),
    "v": ("inverted_triangle", "M8 14L2 3h12z"),
    "h": ("hex", "M8 2l5.2 3v6L8 14l-5.2-3V5z"),
    "P": ("plus", "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z"),
    "*": ("star", "M8 1l2 5h5l-4 3.300 1.500 5.200L8 11.500 3.500 14.500 5 9.300 1 6h5z"),
}


def atlas_page(
    table: pd.DataFrame,
    maps: Mapping[str, ArrayLike],
    images: Sequence[ArrayLike],
    heat: Sequence[ArrayLike | None] | None = None,
    title: str = "Atlas of anomalies",
) -> str:
    """A self-contained page: a map of the images by colour (type) and shape (product), and what each of them shows.

    Pointing at a mark shows its picture, a click keeps it in the panel, large and beside its heat map; another map
    moves the marks; a click on a type in the legend fades it out. A dark rim tells that the model named another type,
    or none. All heat maps of a category share one scale, `heat_scale`. 300 drawn images made 7 MB.

    Args:
        table: Columns image_id, category, defect, N rows; with a column said, what the model took each for (a type,
            "unknown", or nothing), dark rims tell where it was wrong.
        maps: Name -> points of shape `(N, 2)`; the first is shown first.
        images: N arrays `(H, W, 3)`, uint8; sizes may differ.
        heat: N raw anomaly maps `(h, w)`, or None where there is none.
        title: Heading of the page.

    Returns:
        The HTML text, to be written as UTF-8; opening it needs no network.

    Raises:
        DataError: A column is missing, lengths differ, or an image or a map is not what it should be.
    """
    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.models import ColumnDataSource, CustomJS
    from bokeh.resources import INLINE

    if "image_id" not in table:
        raise DataError("the table of an atlas needs the column image_id")
    looks, maps = type_looks(table), checked_maps(maps, len(table))
    heat = [None] * len(table) if heat is None else heat
    if not len(table) == len(images) == len(heat):
        raise DataError(f"{len(table)} rows need as many images and heat maps, not {len(images)} and {len(heat)}")
    squares = [_square(points) for points in maps.values()]
    data = _columns(table, looks) | _pictures(table, images, heat)
    source = ColumnDataSource(data | {"x": squares[0][0], "y": squares[0][1], "alpha": [1.0] * len(table)})
    chosen = ColumnDataSource({"x": [], "y": []})
    plot = _plot(source, chosen)
    document = Document()
    document.add_root(plot)
    arguments = {"plot": plot, "source": source, "chosen": chosen, "squares": squares}
    document.js_on_event("document_ready", CustomJS(args=arguments, code=SCRIPT))
    parts = {"style": _style(), "legend": _legend(table, looks), "panel": PANEL}
    parts["head"] = _head(title, maps, "said" in table)
    return file_html(document, INLINE, title, template=TEMPLATE, template_variables=parts)


def _square(points: np.ndarray) -> list[list[float]]:
    """x and y, moved and scaled alike so that the larger extent is from −1 to 1."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-12)
    return ((points - (low + high) / 2) / half).T.round(4).tolist()


def _columns(table: pd.DataFrame, looks: Mapping[tuple[str, str], tuple[str, str]]) -> dict[str, list]:
    """What the marks look like and what is written about them, a column each."""
    kinds = list(zip(table["category"].astype(str), table["defect"].astype(str), strict=True))
    said = table["said"] if "said" in table else pd.Series([None] * len(table))
    said = ["" if pd.isna(word) else str(word) for word in said]
    wrong = [bool(word) and word != defect for word, (_, defect) in zip(said, kinds, strict=True)]
    return {
        "image_id": table["image_id"].astype(str).tolist(),
        "category": [category for category, _ in kinds],
        "defect": [defect for _, defect in kinds],
        "said": said,
        "kind": [list(looks).index(kind) for kind in kinds],
        "colour": [looks[kind][0] for kind in kinds],
        "marker": [_SHAPES[looks[kind][1]][0] for kind in kinds],
        "rim": [INK if one else "#FFFFFF" for one in wrong],
        "rim_width": [2.0 if one else 0.8 for one in wrong],
    }


def _pictures(table: pd.DataFrame, images: Sequence[ArrayLike], heat: Sequence[ArrayLike | None]) -> dict[str, list]:
    """Thumbnails, large pictures and heat maps as data URIs ("" for no heat map), and the ends of each heat scale."""
    images = [np.asarray(image) for image in images]
    heat = [None if one is None else np.asarray(one, dtype=np.float64) for one in heat]
    for index, (image, one) in enumerate(zip(images, heat, strict=True)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"image {index} must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        if one is not None and (one.ndim != 2 or not np.isfinite(one).all()):
            raise DataError(f"heat map {index} must hold (h, w) finite numbers; its shape is {one.shape}")
    scales, coloured = {}, []
    for category in set(table["category"]):
        own = [one for one, where in zip(heat, table["category"], strict=True) if one is not None and where == category]
        scales[category] = heat_scale(own) if own else (0.0, 1.0)
    ends = [scales[category] for category in table["category"]]
    for one, (low, high) in zip(heat, ends, strict=True):
        colours = None if one is None else colormaps[HEAT](Normalize(low, high, clip=True)(one))[..., :3]
        coloured.append("" if colours is None else _jpeg((255 * colours).round().astype(np.uint8), LARGE))
    return {
        "thumbnail": [_jpeg(image, THUMBNAIL) for image in images],
        "picture": [_jpeg(image, LARGE) for image in images],
        "heat": coloured,
        "low": [f"{low:.3g}" for low, _ in ends],
        "high": [f"{high:.3g}" for _, high in ends],
    }


def _jpeg(pixels: np.ndarray, side: int) -> str:
    """A data URI of the picture, its longer side brought to `side` pixels."""
    factor = side / max(pixels.shape[:2])
    height, width = (max(1, round(factor * length)) for length in pixels.shape[:2])
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plot(source: ColumnDataSource, chosen: ColumnDataSource) -> Plot:
    """The map without axes; it fills a square of the page, so that both directions have one scale."""
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    plot = figure(
        name="map",
        sizing_mode="stretch_both",
        x_range=Range1d(-1.07, 1.07),
        y_range=Range1d(-1.07, 1.07),
        tools="pan,wheel_zoom",
        active_scroll="wheel_zoom",
        toolbar_location=None,
        min_border=0,
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
        stylesheets=[".bk-Canvas { --highlight-color: transparent; }"],  # no dotted frame after a click
    )
    plot.axis.visible = False
    plot.grid.visible = False
    plot.scatter("x", "y", source=chosen, size=26, marker="circle", fill_color="#FFFFFF", line_color=INK, line_width=2)
    alphas = {"fill_alpha": "alpha", "line_alpha": "alpha"}
    rims = {"line_color": "rim", "line_width": "rim_width"}
    plot.scatter("x", "y", source=source, size=12, marker="marker", fill_color="colour", **rims, **alphas)
    return plot


def _head(title: str, maps: Mapping[str, ArrayLike], named: bool) -> str:
    """Heading, how to read the page, and the choice of a map."""
    choices = "".join(
        f'<label><input type="radio" name="map" value="{index}"{" checked" if index == 0 else ""}>'
        f"<span>{escape(MAP_NAMES.get(name, name))}</span></label>"
        for index, name in enumerate(maps)
    )
    return (
        f"<header><div><h1>{escape(title)}</h1><p>{READING.format(rims=RIMS if named else '')}</p></div>"
        f'<fieldset id="maps"><legend>Map</legend>{choices}</fieldset></header>'
    )


def _legend(table: pd.DataFrame, looks: Mapping[tuple[str, str], tuple[str, str]]) -> str:
    """A button for each type, with its mark and number of images, under a button for each product."""
    counts = table.groupby([table["category"].astype(str), table["defect"].astype(str)]).size()
    parts, before = [], None
    for index, ((category, defect), (colour, marker)) in enumerate(looks.items()):
        if category != before:
            parts.append(f'{"</div>" if parts else ""}<div class="product"><button>{escape(category)}</button>')
        before = category
        parts.append(
            f'<button class="type" data-kind="{index}" aria-pressed="true"><svg viewBox="0 0 16 16">'
            f'<path d="{_SHAPES[marker][1]}" fill="{colour}"/></svg><span>{escape(defect)}</span>'
            f"<small>{counts[category, defect]}</small></button>"
        )
    return "".join(parts) + "</div>"


def _style() -> str:
    steps = ", ".join(to_hex(colormaps[HEAT](step)) for step in np.linspace(0, 1, 12))
    return STYLE + f".bar {{ background: linear-gradient(90deg, {steps}); }}"
