"""The page of an inspection: a card per image with its heat map and the way to its verdict, worst first."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mvtec_ad.commands.inspect import counts, said, summary, type_words

if TYPE_CHECKING:
    import numpy as np

    from mvtec_ad.inspector import Inspection

SIDE = 256  # pixels; the longer side of a picture on the page
LARGEST = 20_000  # bytes of a JPEG; two of them as text make 53 kB of page

# A sign beside the colour and the word, for those who tell neither apart at a glance.
SIGNS = {"defect": "✕", "undecided": "?", "none of these": "∅", "unreadable": "!", "good": "✓"}

STYLE = """
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

SCRIPT = """
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
    import cv2
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    from mvtec_ad.plotting import HEAT, heat_scale

    height, width = picture.shape[:2]
    heat = cv2.resize(np.asarray(heat, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
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


def write_page(target: Path, cards: Sequence[Card], notes: Sequence[str] = ()) -> None:
    """Write the page, self-contained, in the place of an older one.

    Args:
        target: the file.
        cards: of all images, in any order.
        notes: what was skipped or is missing, a line each.

    Raises:
        ArtifactError: the file cannot be written.
    """
    from mvtec_ad.transfer import replacing

    with replacing(target) as file:
        file.write(page(cards, notes).encode("utf-8", "replace"))  # a file's name may be no text


def page(cards: Sequence[Card], notes: Sequence[str] = ()) -> str:
    """The HTML text: counts that filter, then the cards, verdicts as in `VERDICTS` and the highest score first."""
    from mvtec_ad.inspector import VERDICTS

    def rank(card: Card) -> tuple[int, float]:
        score = card.inspection.score
        return VERDICTS.index(card.inspection.verdict), float("inf") if score is None else -score

    inspections = [card.inspection for card in cards]
    left_out = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Inspection</title><style>{STYLE}</style></head><body><header><h1>Inspection</h1>"
        f"<p>{escape(summary(inspections))}. Of each verdict, the highest score stands first. The heat maps of a "
        f"model share one scale.</p>{_choice(inspections)}</header>"
        f"<main>{''.join(_card(card) for card in sorted(cards, key=rank))}</main>"
        f"<footer>{left_out}</footer><script>{SCRIPT}</script></body></html>\n"
    )


def _choice(inspections: Sequence[Inspection]) -> str:
    """A button per verdict, with its number of images."""
    choices = {"": (f"all {len(inspections)}", True)}
    for verdict, count in counts(inspections).items():
        choices[verdict] = (f"{SIGNS[verdict]} {verdict} {count}", count > 0)
    buttons = "".join(
        f"<label><input type='radio' name='verdict' value='{value}'{'' if value else ' checked'}"
        f"{'' if possible else ' disabled'}><span>{words}</span></label>"
        for value, (words, possible) in choices.items()
    )
    return f"<fieldset><legend>Show</legend>{buttons}</fieldset>"


def _card(card: Card) -> str:
    """Pictures, verdict, numbers, way and file of one image."""
    own = card.inspection
    name, colour = Path(own.image).name, own.verdict.replace(" ", "-")
    product = escape(f"{own.product} {own.view}".rstrip()) if own.product else ""
    way = "".join(
        f"<li title='{escape(step.words)}' class='{'skipped' if step.outcome == 'skipped' else 'taken'}'>"
        f"{escape(step.stage)}: {escape(step.outcome)}</li>"
        for step in own.path
    )
    numbers = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in _numbers(own).items())
    return (
        f"<article data-verdict='{own.verdict}' style='--own: var(--{colour})'><div class='pictures'>"
        f"{_picture(card.picture, f'picture {name}', 'no picture')}"
        f"{_picture(card.heat, f'heat map of {name}', 'no heat map')}</div><div class='words'>"
        f"<h2><b>{SIGNS[own.verdict]} {own.verdict}</b> {product}</h2>"
        + (f"<dl>{numbers}</dl>" if numbers else "")
        + (f"<ol aria-label='the way to the verdict'>{way}</ol>" if way else "")
        + f"<small>{escape(own.image)}</small></div></article>"
    )


def _picture(uri: str, alt: str, otherwise: str) -> str:
    return f"<img src='{uri}' alt='{escape(alt)}' decoding='async'>" if uri else f"<div>{otherwise}</div>"


def _numbers(own: Inspection) -> dict[str, str]:
    """What is known of the image, each under its name."""
    known = {
        "problem": own.problem,
        "strangeness": "" if own.strangeness is None or own.product else f"{own.strangeness:.2f}, accepted up to 1",
        "probability": "" if own.probability is None else f"{own.probability:.3f} of a defect",
        "second opinion": said(own),
        "type": type_words(own),
        "decided by": own.decided_by or "",
        "heat map": own.heat_name,
    }
    return {name: text for name, text in known.items() if text}
