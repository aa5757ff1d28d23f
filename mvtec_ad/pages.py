"""Pages and lines to read: what a run of the notebooks measured and drew, what an inspection found, the atlas.

What is no Python stands in `templates/`. A page is one HTML file, its style, script and pictures inside.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex
from numpy.typing import ArrayLike
from PIL import Image

from mvtec_ad import artifacts
from mvtec_ad.benchmark import METRICS, load_results, published
from mvtec_ad.benchmark.result import promise
from mvtec_ad.config import seen_part
from mvtec_ad.data.loading import resample, resize
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.inspection.inspector import UNREADABLE, VERDICTS
from mvtec_ad.metrics import calibrated, format_metric, format_number
from mvtec_ad.plotting import ANOMALY_MAP, GOOD, map_scale

if TYPE_CHECKING:
    from mvtec_ad.benchmark import Report
    from mvtec_ad.inspection import Inspection

SIZE, THUMBNAIL = 256, 96  # pixels, the longer side of a picture
LARGEST = 20_000  # bytes of a JPEG of `SIZE`; two of them as text make 53 kB of page
MOST_CARDS = 500  # on a page of an inspection: 26 MB
FIGURES = ("image/png", "image/jpeg", "image/gif")  # of a notebook's outputs
MAP_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
TYPE_COLOURS = (
    *("#D55E00", "#56B4E9", "#009E73", "#AA4499", "#E6A700", "#332288"),
    *("#A6761D", "#E7298A", "#7FB800", "#882255", "#00A6A6", "#6C757D"),
)
BOKEH_MARKERS = {  # of matplotlib's
    **{"o": "circle", "^": "triangle", "s": "square", "D": "diamond"},
    **{"v": "inverted_triangle", "h": "hex", "P": "plus", "*": "star"},
}

TEMPLATES = Environment(
    loader=PackageLoader("mvtec_ad"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"metric": format_metric, "number": format_number, "share": "{:.0%}".format}
TEMPLATES.filters["percent"] = lambda share: f"{100 * share:.3g} %"
TEMPLATES.globals["seen_part"] = seen_part
TEMPLATES.filters["basename"] = os.path.basename


def render(template: str, **values: Any) -> str:
    """The text of a file of `templates/`; in HTML, values are escaped."""
    return TEMPLATES.get_template(template).render(**values)


def jpeg(pixels: np.ndarray, size: int = SIZE) -> str:
    """A data URI of the picture (H, W, 3) uint8, at most `size` wide and high, coarser where `LARGEST` asks for it."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    for quality in (82, 60, 35, 12):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= LARGEST * max(1, size / SIZE) ** 2:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, scale: tuple[float, float] | None) -> np.ndarray:
    """The anomaly map (h, w) over the grey picture (H, W, 3) uint8: low values let it through, high ones cover it.

    `scale` is the lowest and the highest value of the colours; None: the map's own.
    """
    anomaly_map = resample(np.asarray(anomaly_map, np.float32), *picture.shape[:2])
    share = np.asarray(Normalize(*(scale or map_scale([anomaly_map])), clip=True)(anomaly_map))
    opacity = (0.2 + 0.65 * share)[..., None]
    colours = colormaps[ANOMALY_MAP](share)[..., :3] * 255
    return (opacity * colours + (1 - opacity) * picture.mean(axis=2, keepdims=True)).round().astype(np.uint8)


# --- a run of the notebooks -------------------------------------------------------------------------------------------


def write_run_page(folder: Path, executed: Sequence[tuple[str, Any, float]], profile: str) -> Path:
    """Write `index.html` into `transfer/runs`, an HTML copy of every notebook beside it, and return its path.

    First pictures out of `transfer/`: images with anomaly maps and verdicts, the ways of inspected images, the atlas.
    Then metrics as bars, and the notebooks, `executed` as (name, notebook, seconds), with their figures and tables.
    """
    from nbconvert import HTMLExporter
    from nbconvert.filters import markdown2html

    notebooks, exporter = [], HTMLExporter()
    for name, notebook, seconds in executed:
        artifacts.write_file(folder / f"{name}.html", exporter.from_notebook_node(_with_gifs(notebook))[0])
        outputs = list(_outputs(notebook))
        titles = [line[2:] for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# ")]
        figure = next((jpeg(_pixels(base64.b64decode(data)), 512) for _, kind, data in outputs if kind in FIGURES), "")
        known = {"name": name, "title": (titles or [name])[0], "seconds": seconds}
        notebooks.append(known | {"figure": figure, "outputs": outputs})
    reports = published.from_artifacts()
    text = render(
        "run.html",
        title=f"Visual anomaly detection: a run in profile {profile}",
        notebooks=notebooks,
        reports=[report for report in reports if "part" not in report and report.get("protocol") != "supervised"],
        metrics=METRICS,
        tables=published.tables(reports),
        linked=[name for name in ("atlas.html", "inspections/index.html") if (folder.parent / name).is_file()],
        markdown=markdown2html,
        **_opening_pictures(),
    )
    artifacts.write_file(folder / "index.html", text)
    return folder / "index.html"


def _with_gifs(notebook: Any) -> Any:
    """A copy whose GIFs are HTML: nbconvert, 7.17 at least, shows no GIF of its own accord."""
    notebook = copy.deepcopy(notebook)
    for data in (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/gif" in data:
            uri = f"data:image/gif;base64,{data['image/gif'].strip()}"
            data.setdefault("text/html", f'<img alt="figure" src="{uri}">')
    return notebook


def _outputs(notebook: Any) -> Iterator[tuple[str, str, str]]:
    """The nearest heading above, MIME type and content of every figure and table."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1] if headings else heading
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            for kind in [kind for kind in (*FIGURES, "text/html", "text/markdown") if kind in data][:1]:
                yield heading, kind, data[kind].strip()


def _pixels(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of an image file."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as problem:  # whatever Pillow's readers find wrong with a foreign file
        raise ArtifactError(f"a picture cannot be read ({problem}): make it again") from problem


def _opening_pictures() -> dict[str, Any]:
    """What `transfer/` holds to look at first: judged images, the tree of inspected ones, the marks of the atlas."""
    pictures: dict[str, Any] = {"judged": [], "tree": "", "marks": []}
    with contextlib.suppress(ArtifactError):  # its notebook has not run yet, or not on these images
        pictures["judged"] = list(_judged_images(artifacts.load("padim"), artifacts.load("data")))
    with contextlib.suppress(ArtifactError):
        pictures["tree"] = base64.b64encode(artifacts.load("inspection").read("tree.png")).decode()
    with contextlib.suppress(ArtifactError):
        atlas = artifacts.load("contrastive")
        types = atlas.table("atlas.csv", {"category": str, "defect": str})
        with artifacts.complete(atlas):
            looks, points = type_looks(types), atlas.arrays("atlas.npz")["tsne"]
            colours = [looks[pair][0] for pair in zip(types["category"], types["defect"], strict=True)]
            pictures["marks"] = list(zip(*_square(points), colours, strict=True))
    return pictures


def _judged_images(artifact: artifacts.Artifact, data: artifacts.Artifact) -> Iterator[dict[str, Any]]:
    """Image, anomaly map, score and verdict of the defects with the highest and the lowest score and of the good part
    with the highest, in two categories."""
    files = {name.rpartition(".")[0]: name for name in data.names}
    results = [result for result in load_results([artifact], data) if result.maps and result.good_scores]
    first = {result.category: result for result in reversed(results)}
    for result in list(first.values())[:-3:-1]:
        (seed, maps), scores, settings = next(iter(result.maps.items())), result.scores[0], result.report["settings"]
        threshold, scale = calibrated(result.good_scores[seed], result.report["false_alarm_rate"]), map_scale(maps)
        order = np.argsort(-scores)
        defects, good = order[result.labels[order] == 1], order[result.labels[order] == 0]
        for index in (defects[0], defects[-1], good[0]):
            row, called = result.table.iloc[index], scores[index] > threshold
            picture = _pixels(data.read(files.get(row["image_id"], row["image_id"])))
            picture = resize(picture, settings["image_size"], settings.get("crop"))
            yield {
                "name": f"{result.category} · {row['defect']}",
                "verdict": "defect" if called else "good",
                "right": called == row["label"],
                "score": f"{result.row}: score {scores[index]:.4g} {'>' if called else '≤'} {threshold:.4g}",
                "picture": jpeg(picture),
                "anomaly_map": jpeg(overlay(picture, maps[index], scale)),
            }


# --- an inspection ----------------------------------------------------------------------------------------------------


def inspection_line(inspection: Inspection, widths: list[int]) -> str:
    """A line for an image, verdict first, in columns; an unreadable one says why instead.

    `widths` are those of the columns in the lines before, at first of the verdict alone; they grow.
    """
    known = [] if inspection.verdict == UNREADABLE else list(words(inspection).values())
    row = [inspection.verdict, *known]
    widths += [0] * (len(row) - len(widths))
    widths[: len(row)] = map(max, widths, map(len, row))
    cells = [text.ljust(width) for text, width in zip(row, widths, strict=False) if width]
    return "  ".join([*cells, inspection.image if known else inspection.problem])


def words(inspection: Inspection) -> dict[str, str]:
    """Product, probability, second opinion (with score and threshold) and type (with distance, or how new it is and
    where that begins) in words, "" for what is not known."""
    product = f"{inspection.product} {inspection.view}".rstrip() if inspection.product else ""
    if not product and inspection.ood_score is not None:
        product = f"{inspection.ood_score:.2f} × the limit"
    probability = "" if inspection.probability is None else f"p {inspection.probability:.3f}"
    detector, second = inspection.second_opinion, ""
    if detector:
        sign = ">" if detector.score > detector.threshold else "≤"
        second = f"{detector.method}: {detector.verdict}, {detector.score:.4g} {sign} {detector.threshold:.4g}"
    kind = inspection.type or ""
    if kind == "unknown" and inspection.novelty is not None and inspection.novelty_limit is not None:
        kind = f"unknown type, novelty {inspection.novelty:.2f} > {inspection.novelty_limit:.2f}"
    elif kind and inspection.type_distance is not None:
        kind = f"{kind}, distance {inspection.type_distance:.2f}"
    return {"product": product, "probability": probability, "second opinion": second, "type": kind}


def inspection_summary(inspections: Sequence[Inspection]) -> str:
    """How many images have which verdict, in one line."""
    counts = Counter(inspection.verdict for inspection in inspections)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    return f"{len(inspections)} image{'s' * (len(inspections) != 1)}: {', '.join(parts)}"


def skipped(inspections: Sequence[Inspection], missing: Sequence[str]) -> list[str]:
    """A line for each reason why a stage was left out, with the number of images; then what else is missing."""
    reasons = Counter(reason for inspection in inspections for reason in inspection.skipped)
    lines = [f"skipped for {count} of {len(inspections)}: {reason}" for reason, count in reasons.items()]
    return lines + [text for text in missing if not any(text in reason for reason in reasons)]


class Card(NamedTuple):
    """An inspection without its pixels, and its picture and anomaly map as data URIs, "" for none."""

    inspection: Inspection
    picture: str
    anomaly_map: str


def make_card(inspection: Inspection, pictured: bool = True) -> Card:
    """Turn the pixels of an inspection into JPEGs, or drop them where no page is wanted."""
    picture = anomaly_map = ""
    if pictured and inspection.picture is not None:
        picture = jpeg(inspection.picture)
        if inspection.anomaly_map is not None:
            anomaly_map = jpeg(overlay(inspection.picture, inspection.anomaly_map, inspection.map_scale))
    return Card(replace(inspection, picture=None, anomaly_map=None), picture, anomaly_map)


def first_cards(cards: Sequence[Card]) -> list[Card]:
    """The cards that a page shows, in their order: by verdict (`VERDICTS`), the highest score first."""

    def rank(card: Card) -> tuple[int, float]:
        score = card.inspection.score
        return VERDICTS.index(card.inspection.verdict), float("inf") if score is None else -score

    return sorted(cards, key=rank)[:MOST_CARDS]


def inspection_page(
    cards: Sequence[Card], notes: Sequence[str] = (), inspections: Sequence[Inspection] | None = None
) -> str:
    """The HTML text: counts that filter, then `first_cards`; and notes. `inspections` are all, where cards are not."""
    shown = first_cards(cards)
    inspections = [card.inspection for card in cards] if inspections is None else inspections
    if len(shown) < len(inspections):
        notes = [f"this page shows the first {len(shown)} of {len(inspections)} images", *notes]
    values = {"title": "Inspection", "verdicts": VERDICTS, "cards": shown, "notes": notes}
    return render("inspection.html", summary=inspection_summary(inspections), words=words, **values)


# --- reports of `evaluate` --------------------------------------------------------------------------------------------


def report_lines(report: Report) -> list[str]:
    """A report of a method: what was measured on what, metrics, trivial rows, thresholds and costs."""
    return [line.rstrip() for line in render("report.txt", promise=promise(report), **report).splitlines()]


def defect_types_lines(report: Mapping[str, Any]) -> list[str]:
    """All of it: what was looked at, every way, confusions, mixtures, a type left out, a few images of it."""
    confusion, answers = report["confusion"], {}
    for name, counts in zip(confusion["types"], confusion["counts"], strict=True):
        answers[name] = [(answer, count) for answer, count in zip(confusion["said"], counts, strict=True) if count]
    return [line.rstrip() for line in render("defect_types.txt", answers=answers, **report).splitlines()]


# --- the atlas of embeddings ------------------------------------------------------------------------------------------


def atlas_page(
    table: pd.DataFrame,
    maps: Mapping[str, ArrayLike],
    images: Sequence[ArrayLike],
    anomaly_maps: Sequence[ArrayLike | None] | None = None,
    title: str = "Atlas of anomalies",
    search: Mapping[str, Any] | None = None,
) -> str:
    """A map of embedded images as one HTML page: each image is a mark, its colour the type, its shape the product.

    Pointing at a mark shows its picture, a click keeps it in the panel, large and beside its anomaly map; another map
    moves the marks; a click on a type in the legend fades it out. A dark rim tells that the model named another type,
    or none. All anomaly maps of a category share one scale, `map_scale`. 300 synthetic images made 7 MB.

    Args:
        table: Columns image_id, category, defect, N rows; with a column predicted, what the model took each for (a
            type, "unknown", or nothing), dark rims tell where it was wrong.
        maps: Name -> points of shape `(N, 2)`; the first is shown first.
        images: N arrays `(H, W, 3)`, uint8; sizes may differ.
        anomaly_maps: N raw maps `(h, w)`, or None where there is none.
        search: What `methods.words.for_page` gives: the page gets a search box, whose words are encoded in the browser.

    Returns:
        The HTML text, to be written as UTF-8; opening it needs no network.

    Raises:
        DataError: a column is missing, lengths differ, or an image or a map is not what it should be.
    """
    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.models import ColumnDataSource, CustomJS
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    marks, types = _marks(table)
    if not maps:
        raise DataError("there is no map to draw: make one with `project`")
    for name, points in maps.items():
        if np.shape(points) != (len(table), 2) or not np.isfinite(points).all():
            wanted = f"({len(table)}, 2) finite numbers"
            raise DataError(f"the map {name} must hold {wanted}; its shape is {np.shape(points)}")
    squares = [_square(np.asarray(points, np.float64)) for points in maps.values()]
    marks |= _pictures(marks["category"], images, [None] * len(table) if anomaly_maps is None else anomaly_maps)
    source = ColumnDataSource(marks | {"x": squares[0][0], "y": squares[0][1], "alpha": [1.0] * len(table)})
    chosen = ColumnDataSource({"x": [], "y": []})
    frameless = {"toolbar_location": None, "outline_line_color": None, "min_border": 0}
    frameless |= {"background_fill_color": None, "border_fill_color": None}
    frameless["stylesheets"] = [".bk-Canvas { --highlight-color: transparent; }"]  # no dotted frame after a click
    ends, tools = (-1.07, 1.07), {"tools": "pan,wheel_zoom", "active_scroll": "wheel_zoom"}
    # it fills a square of the page, so that both directions have one scale
    plot = figure(name="map", sizing_mode="stretch_both", x_range=ends, y_range=ends, **tools, **frameless)
    plot.axis.visible = plot.grid.visible = False
    plot.scatter("x", "y", source=chosen, size=26, fill_color="#FFFFFF", line_color="#222222", line_width=2)
    rims = {"line_color": "rim", "line_width": "rim_width", "line_alpha": "alpha"}
    plot.scatter("x", "y", source=source, size=12, marker="marker", fill_color="colour", fill_alpha="alpha", **rims)
    document = Document()
    document.add_root(plot)
    scripts = ["words.js"] * (search is not None) + ["atlas.js"]
    script = "".join(TEMPLATES.loader.get_source(TEMPLATES, name)[0] for name in scripts)
    arguments = {"plot": plot, "source": source, "chosen": chosen, "squares": squares}
    arguments["search"] = "" if search is None else json.dumps(dict(search))
    document.js_on_event("document_ready", CustomJS(args=arguments, code=script))
    values = {"maps": [MAP_NAMES.get(name, name) for name in maps], "types": types, "predictions": "predicted" in table}
    values["searched"] = search is not None
    values["colours"] = [to_hex(colormaps[ANOMALY_MAP](share)) for share in np.linspace(0, 1, 12)]
    template = TEMPLATES.get_template("atlas.html")
    return file_html(document, INLINE, title, template=template, template_variables=values)


def type_looks(table: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """(category, defect) -> (colour, matplotlib marker) of a table of images, in sorted order.

    The marker tells the category. Colours go round through all types; a category of at most 12 types has none twice,
    so that marker and colour together tell the type. Good parts are blue.
    """
    missing = [column for column in ("category", "defect") if column not in table]
    if missing or not len(table):
        raise DataError(f"a map needs images and their category and defect; missing: {', '.join(missing) or 'images'}")
    pairs = sorted(set(zip(table["category"].astype(str), table["defect"].astype(str), strict=True)))
    markers = dict(zip(sorted({category for category, _ in pairs}), cycle(BOKEH_MARKERS), strict=False))
    colours = cycle(TYPE_COLOURS)
    return {(name, kind): (GOOD if kind == "good" else next(colours), markers[name]) for name, kind in pairs}


def _square(points: np.ndarray) -> list[list[float]]:
    """x and y, moved and scaled alike so that the larger extent is from −1 to 1."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-12)
    return ((points - (low + high) / 2) / half).T.round(4).tolist()


def _marks(table: pd.DataFrame) -> tuple[dict[str, list], list[dict[str, Any]]]:
    """What the marks look like and what is written about them, a column each; and the types of the legend."""
    if "image_id" not in table:
        raise DataError("the table of an atlas needs the column image_id")
    looks = type_looks(table)
    marks = table[["image_id", "category", "defect"]].astype(str)
    marks["predicted"] = table["predicted"].fillna("").astype(str) if "predicted" in table else ""
    types = pd.DataFrame([(*pair, *look) for pair, look in looks.items()])
    types = types.set_axis(["category", "defect", "colour", "marker"], axis=1).rename_axis("kind").reset_index()
    marks = marks.merge(types, how="left", on=["category", "defect"])
    types["count"] = marks["kind"].value_counts()
    wrong = ~marks["predicted"].isin([""]) & (marks["predicted"] != marks["defect"])
    marks["marker"] = marks["marker"].map(BOKEH_MARKERS)
    marks["rim"], marks["rim_width"] = np.where(wrong, "#222222", "#FFFFFF"), np.where(wrong, 2.0, 0.8)
    return marks.to_dict("list"), types.to_dict("records")


def _pictures(
    categories: Sequence[str], images: Sequence[ArrayLike], anomaly_maps: Sequence[ArrayLike | None]
) -> dict[str, list]:
    """Thumbnails, pictures and anomaly maps as data URIs ("" for no map), and the ends of each category's scale."""
    counts = len(categories), len(images), len(anomaly_maps)
    if len(set(counts)) > 1:
        raise DataError("{} rows need as many images and anomaly maps, not {} and {}".format(*counts))
    images, by_category = [np.asarray(image) for image in images], {category: [] for category in categories}
    for index, (category, image, values) in enumerate(zip(categories, images, anomaly_maps, strict=True)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"image {index} must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        if values is not None and (np.ndim(values) != 2 or not np.isfinite(values).all()):
            raise DataError(f"anomaly map {index} must hold (h, w) finite numbers; its shape is {np.shape(values)}")
        by_category[category] += [] if values is None else [values]
    scales = {category: map_scale(values) if values else (0.0, 1.0) for category, values in by_category.items()}
    norms, coloured = [Normalize(*scales[category], clip=True) for category in categories], []
    for norm, values in zip(norms, anomaly_maps, strict=True):
        shares = norm(np.asarray([[0.0]] if values is None else values, np.float64))
        pixels = np.ascontiguousarray(colormaps[ANOMALY_MAP](shares, bytes=True)[..., :3])
        coloured.append("" if values is None else jpeg(pixels))
    return {
        "thumbnail": [jpeg(image, THUMBNAIL) for image in images],
        "picture": [jpeg(image) for image in images],
        "anomaly_map": coloured,
        "low": [f"{norm.vmin:.3g}" for norm in norms],
        "high": [f"{norm.vmax:.3g}" for norm in norms],
    }
