"""Pages and lines to read: what a run of the notebooks measured and drew, and what an inspection found."""

from __future__ import annotations

import base64
import copy
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvtec_ad.artifacts import write_file
from mvtec_ad.data.loading import resample
from mvtec_ad.inspector import UNREADABLE, VERDICTS
from mvtec_ad.metrics import format_metric, format_number

if TYPE_CHECKING:
    from mvtec_ad.inspector import Inspection

# --- a run of the notebooks ----

_RUN_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
h3 { font-weight: 500; color: #555; } img { max-width: 100%; border: 1px solid #eee; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; }
th { text-align: left; } div { overflow-x: auto; } a { color: #0a58a5; }
"""


def write_run_page(folder: Path, executed: list[tuple[str, Any, float]], profile: str, summary: str) -> Path:
    """Write `index.html`, self-contained, and an HTML copy of every notebook.

    Args:
        folder: `transfer/runs`.
        executed: (name, notebook, seconds) in order.
        profile: of the run.
        summary: Markdown, the table of everything measured.

    Returns:
        The page's path.
    """
    from nbconvert import HTMLExporter
    from nbconvert.filters import markdown2html

    for name, notebook, _ in executed:
        body, _ = HTMLExporter().from_notebook_node(_with_gifs(notebook))
        write_file(folder / f"{name}.html", body)
    sections = [_section(*item) for item in executed]
    contents = "".join(
        f'<li><a href="#{name}">{html.escape(_title(notebook))}</a>, {seconds:.0f} s: '
        f'<a href="{name}.html">whole notebook</a>, <a href="{name}.ipynb">.ipynb</a></li>'
        for name, notebook, seconds in executed
    )
    page = folder / "index.html"
    write_file(
        page,
        f"<!doctype html><meta charset='utf-8'><title>mvtec_ad run</title><style>{_RUN_STYLE}</style>"
        f"<h1>Visual anomaly detection: a run in profile {html.escape(profile)}</h1><ol>{contents}</ol>"
        f"<div>{markdown2html(summary)}</div>" + "".join(sections),
    )
    return page


def _with_gifs(notebook: Any) -> Any:
    """A copy whose GIFs are HTML: nbconvert, 7.17 at least, shows no GIF of its own accord."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/gif" in output.get("data", {}):
                output["data"].setdefault("text/html", _block({"image/gif": output["data"]["image/gif"]}))
    return notebook


def _title(notebook: Any) -> str:
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line[2:]
    return "Untitled"


def _section(name: str, notebook: Any, seconds: float) -> str:
    """Figures and tables of one notebook under the nearest heading above them."""
    parts, heading, shown = [f'<h2 id="{name}">{html.escape(_title(notebook))}</h2>'], "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1].lstrip("# ") if headings else heading
            continue
        for output in cell.get("outputs", []):
            block = _block(output.get("data", {}))
            if block and heading != shown:
                parts.append(f"<h3>{html.escape(heading)}</h3>")
                shown = heading
            parts.append(block)
    return "".join(parts)


def _block(data: dict[str, Any]) -> str:
    for kind in ("image/png", "image/jpeg", "image/gif"):
        if kind in data:
            return f'<p><img alt="figure" src="data:{kind};base64,{data[kind].strip()}"></p>'
    if "text/html" in data:
        return f"<div>{data['text/html']}</div>"
    if "text/markdown" in data:
        from nbconvert.filters import markdown2html

        return f"<div>{markdown2html(data['text/markdown'])}</div>"
    return ""


# --- an inspection, in words ----


def inspection_lines(inspections: Sequence[Inspection]) -> list[str]:
    """A line for each image, verdict first, in columns; an unreadable one says why instead."""
    table = [[] if inspection.verdict == UNREADABLE else inspection_columns(inspection) for inspection in inspections]
    widths = [max(map(len, column)) for column in zip(*filter(None, table), strict=True)]
    first = max(len(inspection.verdict) for inspection in inspections)
    described = []
    for inspection, row in zip(inspections, table, strict=True):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False) if width]
        end = inspection.image if row else inspection.problem
        described.append("  ".join([inspection.verdict.ljust(first), *cells, end]))
    return described


def inspection_columns(inspection: Inspection) -> list[str]:
    """Product, probability, second opinion and type of an image in words, "" for what is not known."""
    product = f"{inspection.product} {inspection.view}".rstrip() if inspection.product else ""
    if not product and inspection.strangeness is not None:
        product = f"{inspection.strangeness:.2f} × the limit"
    probability = "" if inspection.probability is None else f"p {inspection.probability:.3f}"
    return [product, probability, opinion_words(inspection), type_words(inspection)]


def opinion_words(inspection: Inspection) -> str:
    """The second opinion, with the score and the threshold that it stands on."""
    if inspection.opinion is None:
        return ""
    opinion = inspection.opinion
    sign = ">" if opinion.score > opinion.threshold else "≤"
    return f"{opinion.method}: {opinion.verdict}, {opinion.score:.4g} {sign} {opinion.threshold:.4g}"


def type_words(inspection: Inspection) -> str:
    """The type and how far it is; for an unknown one, how new and where that begins."""
    if inspection.type is None:
        return ""
    if inspection.type == "unknown" and inspection.novelty is not None and inspection.novelty_limit is not None:
        return f"unknown type, novelty {inspection.novelty:.2f} > {inspection.novelty_limit:.2f}"
    return inspection.type + ("" if inspection.type_distance is None else f", distance {inspection.type_distance:.2f}")


def verdict_counts(inspections: Sequence[Inspection]) -> dict[str, int]:
    """Verdict -> number of images, all verdicts in their order."""
    verdicts = [inspection.verdict for inspection in inspections]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def inspection_summary(inspections: Sequence[Inspection]) -> str:
    """How many images have which verdict, in one line."""
    parts = [f"{count} {verdict}" for verdict, count in verdict_counts(inspections).items() if count]
    return f"{len(inspections)} image{'s' * (len(inspections) != 1)}: {', '.join(parts)}"


def skipped(inspections: Sequence[Inspection], missing: Sequence[str]) -> list[str]:
    """A line for each reason why a stage was left out, with the number of images; then what else is missing."""
    reasons = [reason for inspection in inspections for reason in inspection.skipped]
    lines = [
        f"skipped for {reasons.count(reason)} of {len(inspections)}: {reason}" for reason in dict.fromkeys(reasons)
    ]
    return lines + [text for text in missing if not any(text in reason for reason in reasons)]


# --- an inspection, as a page ----

SIDE = 256  # pixels; the longer side of a picture on the page
LARGEST = 20_000  # bytes of a JPEG; two of them as text make 53 kB of page

# A sign beside the colour and the word, for those who tell neither apart at a glance.
SIGNS = {"defect": "✕", "undecided": "?", "none of these": "∅", "unreadable": "!", "good": "✓"}

INSPECTION_STYLE = """
:root { color-scheme: light dark; --page: #F4F4F1; --card: #FFF; --ink: #222; --faint: #666; --line: #DDD;
  --defect: #B34700; --undecided: #8A5A00; --none-of-these: #6B3FA0; --unreadable: #5A5A5A; --good: #005F96; }
@media (prefers-color-scheme: dark) { :root { --page: #151515; --card: #212121; --ink: #EEE; --faint: #AAA;
  --line: #3A3A3A; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
  background: var(--page); max-width: 1400px; margin: 0 auto; padding: 20px 16px 40px; }
h1 { font-size: 25px; line-height: 1.2; margin: 0 0 4px; } p { margin: 0; color: var(--faint); }
fieldset { border: 0; padding: 0; margin: 16px 0; display: flex; flex-wrap: wrap; gap: 8px; }
legend, fieldset input { position: absolute; opacity: 0; }
label span { display: block; padding: 6px 13px; border-radius: 99px; border: 1px solid var(--line); cursor: pointer;
  background: var(--card); }
:checked + span { background: var(--ink); color: var(--card); } :focus-visible + span { outline: 3px solid #56B4E9; }
:disabled + span { opacity: .45; cursor: default; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 14px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
  border-top: 4px solid var(--own); content-visibility: auto; contain-intrinsic-size: auto 400px; }
article[hidden] { display: none; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.pictures > * { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--page); display: block; }
.pictures div { display: grid; place-items: center; color: var(--faint); font-size: 13px; padding: 12px; }
.words { padding: 12px 14px 14px; display: grid; gap: 8px; } .words > * { margin: 0; min-width: 0; }
h2 { font-size: 16px; display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; }
h2 b { background: var(--own); color: #FFF; border-radius: 6px; padding: 2px 9px; white-space: nowrap; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 12px; font-size: 14px; } dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
ol { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 15px; font-size: 12.5px; }
ol li { border: 1px solid var(--line); border-radius: 6px; padding: 1px 7px; position: relative; }
ol .skipped { border-style: dashed; color: var(--faint); }
ol li:not(:last-child)::after { content: "›"; position: absolute; right: -11px; color: var(--faint); }
small { color: var(--faint); overflow-wrap: anywhere; } footer { margin-top: 24px; font-size: 14px; }
"""

INSPECTION_SCRIPT = """
const cards = document.querySelectorAll('article');
const show = () => { const wanted = document.querySelector('input:checked').value;
  for (const card of cards) card.hidden = wanted && card.dataset.verdict !== wanted; };
document.querySelector('fieldset').addEventListener('change', show); show();
"""


@dataclass(frozen=True)
class Card:
    """An inspection without its pixels, and its picture and heat map as data URIs, "" for none."""

    inspection: Inspection
    picture: str
    heat: str


def make_card(inspection: Inspection, pictured: bool = True) -> Card:
    """Turn the pixels of an inspection into JPEGs, or drop them where no page is wanted."""
    picture = heat = ""
    if pictured and inspection.picture is not None:
        picture = jpeg(inspection.picture)
        if inspection.heat is not None:
            heat = jpeg(overlay(inspection.picture, inspection.heat, inspection.heat_scale))
    return Card(replace(inspection, picture=None, heat=None), picture, heat)


def overlay(picture: np.ndarray, heat: np.ndarray, scale: tuple[float, float] | None) -> np.ndarray:
    """The heat map over the grey picture: low values let it through, high ones cover it.

    Args:
        picture: (H, W, 3) uint8.
        heat: (h, w) float32, stretched over the picture.
        scale: lowest and highest value of the colours; None: the map's own.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    from mvtec_ad.plotting import HEAT, heat_scale

    height, width = picture.shape[:2]
    heat = resample(np.asarray(heat, np.float32), height, width)
    part = np.asarray(Normalize(*(scale or heat_scale([heat])), clip=True)(heat))
    opacity = (0.2 + 0.65 * part)[..., None]
    mixed = opacity * colormaps[HEAT](part)[..., :3] * 255 + (1 - opacity) * picture.mean(axis=2, keepdims=True)
    return mixed.round().astype(np.uint8)


def jpeg(pixels: np.ndarray) -> str:
    """A data URI of the picture, at most `SIDE` pixels wide and high, coarser where it would not fit into `LARGEST`."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in (82, 60, 35, 12):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= LARGEST:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def inspection_page(cards: Sequence[Card], notes: Sequence[str] = ()) -> str:
    """The HTML text, self-contained: counts that filter, then cards by verdict (`VERDICTS`), the highest score first.

    Args:
        cards: of all images, in any order.
        notes: what was skipped or is missing, a line each.
    """

    def rank(card: Card) -> tuple[int, float]:
        score = card.inspection.score
        return VERDICTS.index(card.inspection.verdict), float("inf") if score is None else -score

    inspections = [card.inspection for card in cards]
    left_out = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Inspection</title><style>{INSPECTION_STYLE}</style></head><body><header><h1>Inspection</h1>"
        f"<p>{escape(inspection_summary(inspections))}. Of each verdict, the highest score stands first. The heat maps "
        f"of a model share one scale.</p>{_choice(inspections)}</header>"
        f"<main>{''.join(_card(card) for card in sorted(cards, key=rank))}</main>"
        f"<footer>{left_out}</footer><script>{INSPECTION_SCRIPT}</script></body></html>\n"
    )


def _choice(inspections: Sequence[Inspection]) -> str:
    """A button per verdict, with its number of images."""
    choices = {"": (f"all {len(inspections)}", True)}
    for verdict, count in verdict_counts(inspections).items():
        choices[verdict] = (f"{SIGNS[verdict]} {verdict} {count}", count > 0)
    buttons = "".join(
        f"<label><input type='radio' name='verdict' value='{value}'{'' if value else ' checked'}"
        f"{'' if possible else ' disabled'}><span>{words}</span></label>"
        for value, (words, possible) in choices.items()
    )
    return f"<fieldset><legend>Show</legend>{buttons}</fieldset>"


def _card(card: Card) -> str:
    """Pictures, verdict, numbers, way and file of one image."""
    inspection = card.inspection
    name, colour = Path(inspection.image).name, inspection.verdict.replace(" ", "-")
    product = escape(f"{inspection.product} {inspection.view}".rstrip()) if inspection.product else ""
    way = "".join(
        f"<li title='{escape(step.words)}' class='{'skipped' if step.outcome == 'skipped' else 'taken'}'>"
        f"{escape(step.stage)}: {escape(step.outcome)}</li>"
        for step in inspection.path
    )
    numbers = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in _numbers(inspection).items())
    return (
        f"<article data-verdict='{inspection.verdict}' style='--own: var(--{colour})'><div class='pictures'>"
        f"{_picture(card.picture, f'picture {name}', 'no picture')}"
        f"{_picture(card.heat, f'heat map of {name}', 'no heat map')}</div><div class='words'>"
        f"<h2><b>{SIGNS[inspection.verdict]} {inspection.verdict}</b> {product}</h2>"
        + (f"<dl>{numbers}</dl>" if numbers else "")
        + (f"<ol aria-label='the way to the verdict'>{way}</ol>" if way else "")
        + f"<small>{escape(inspection.image)}</small></div></article>"
    )


def _picture(uri: str, alt: str, otherwise: str) -> str:
    return f"<img src='{uri}' alt='{escape(alt)}' decoding='async'>" if uri else f"<div>{otherwise}</div>"


def _numbers(inspection: Inspection) -> dict[str, str]:
    """What is known of the image, each under its name."""
    unknown = inspection.strangeness is not None and not inspection.product
    known = {
        "problem": inspection.problem,
        "strangeness": f"{inspection.strangeness:.2f}, accepted up to 1" if unknown else "",
        "probability": "" if inspection.probability is None else f"{inspection.probability:.3f} of a defect",
        "second opinion": opinion_words(inspection),
        "type": type_words(inspection),
        "decided by": inspection.decided_by or "",
        "heat map": inspection.heat_name,
    }
    return {name: text for name, text in known.items() if text}


# --- a report of defect types, in words ---

_TYPING_METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "retrieval_map": "retrieval mAP",
    "silhouette": "silhouette",
}


def typing_lines(report: dict[str, Any]) -> list[str]:
    """All of it: what was looked at, every way, confusions, mixtures, a type left out, a few images of it."""
    return [
        *_typing_head(report),
        "",
        *_typing_ways(report),
        "",
        *_typing_confusion(report),
        *_typing_mixtures(report),
        "",
        *_typing_left_out(report),
    ]


def _typing_head(report: dict[str, Any]) -> Iterator[str]:
    settings, types = report["settings"], report["types"]
    yield (
        f"typing on {report['category']} ({report['data_source']}): {settings['backbone']}, {report['weights']}, "
        f"look {settings['look']}"
    )
    counts = ", ".join(f"{count} {name}" for name, count in types.items())
    yield f"{sum(types.values())} defects of {len(types)} types: {counts}"
    yield f"{settings['folds']} folds, dealt {settings['repeats']} time{'s' if settings['repeats'] > 1 else ''}"


def _typing_ways(report: dict[str, Any]) -> Iterator[str]:
    yield f"  {'':<22} " + " ".join(f"{words:<22}" for words in _TYPING_METRICS.values()).rstrip()
    for way, measured in report["ways"].items():
        cells = [format_metric(measured[name]) if name in measured else "" for name in _TYPING_METRICS]
        yield (f"  {way:<22} " + " ".join(f"{cell:<22}" for cell in cells)).rstrip()


def _typing_confusion(report: dict[str, Any]) -> Iterator[str]:
    yield "  what was there: what was said (all folds)"
    confusion = report["confusion"]
    for name, counts in zip(confusion["types"], confusion["counts"], strict=True):
        answers = [f"{count} {answer}" for count, answer in zip(counts, confusion["said"], strict=True) if count]
        yield f"    {name:<22} {', '.join(answers)}"


def _typing_mixtures(report: dict[str, Any]) -> Iterator[str]:
    mixed = report["mixtures"]
    if mixed:
        nearest = ", ".join(f"{share:.0%} {name}" for name, share in mixed["nearest"].items())
        yield ""
        yield f"  {mixed['images']} images with several types at once: {mixed['called_unknown']:.0%} called unknown"
        yield f"    nearest: {nearest}"


def _typing_left_out(report: dict[str, Any]) -> Iterator[str]:
    if report["open_set"] is None:
        yield "  no type was left out: that takes three or more"
        return
    yield "  a type left out of the training: is it called unknown?"
    for way, measured in report["open_set"].items():
        rates = f"{measured['called_unknown']:.0%} of it called unknown, {measured['false_unknown']:.0%} of known ones"
        yield f"    {way:<22} AUROC {format_metric(measured['auroc'])}; {rates}"
    yield "  and named, after a few images of it? balanced accuracy over all types (recall of the new one)"
    for way, by_shots in report["few_shot"].items():
        cells = []
        for shots, measured in by_shots.items():
            accuracy, recall = (format_number(measured[name]["mean"]) for name in ("balanced_accuracy", "recall"))
            cells.append(f"{shots}: {accuracy} ({recall})")
        yield f"    {way:<22} " + "; ".join(cells)
