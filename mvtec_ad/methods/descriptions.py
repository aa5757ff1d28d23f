"""Descriptions of defects: what is known of each, and how it is put into words, in three languages.

The facts come from what a drawn defect knows of itself, or, of a photograph, from its folder and its mask. All
sentences come from the templates and phrases in `descriptions.json`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.regions import position_words

LANGUAGES = ("en", "pt", "es")
PARTS = ("product", "type", "place", "size", "severity", "colour")  # of a description, each may be left out
SIZES = (0.004, 0.015)  # shares of the picture where medium and large begin
SEVERITIES = (0.4, 0.7)  # of drawn defects: where moderate and severe begin
CONTRAST = 8.0  # levels of gray between a defect and its surroundings from which it is dark or bright
Facts = Mapping[str, str]  # part -> its value: what is known of a defect


@cache
def phrases() -> dict[str, Any]:
    """`descriptions.json`: the phrases of each value of each part by language, and the templates, `seen` and `unseen`.

    The last phrase of a type is never trained on.
    """
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def facts_of(
    image: np.ndarray, mask: np.ndarray, product: str, defect: str, severity: float | None = None
) -> dict[str, str]:
    """What is known of a defect: product and type by their folders, place, size and colour by its mask.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, not empty.
        product, defect: names of folders.
        severity: of a drawn defect, from 0 to 1; a photograph has none, and nothing is said of it.

    Returns:
        Part of `PARTS` -> value; without a colour where the defect is about as bright as what surrounds it.
    """
    box, area = box_of(mask)
    reach = max(3, round(max(mask.shape) / 16) | 1)
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool) & ~mask
    gray = image.mean(2)
    contrast = gray[mask].mean() - gray[ring].mean() if ring.any() else 0.0
    facts = {"product": product, "type": defect, "place": position_words(box[:2], box[2:])}
    facts["size"] = ("small", "medium", "large")[int(np.searchsorted(SIZES, area, "right"))]
    if severity is not None:
        facts["severity"] = ("faint", "moderate", "severe")[int(np.searchsorted(SEVERITIES, severity, "right"))]
    if abs(contrast) > CONTRAST:
        facts["colour"] = "dark" if contrast < 0 else "bright"
    return facts


def box_of(mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre of gravity, width and height of a mask, (4,), and its area, all in shares of the picture."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise DataError("a mask is empty: there is no defect to describe")
    height, width = mask.shape
    extent = np.ptp(columns) + 1, np.ptp(rows) + 1
    box = np.array([columns.mean() + 0.5, rows.mean() + 0.5, *extent]) / (width, height, width, height)
    return box, float(mask.mean())


def phrases_of(part: str, value: str | None, language: str) -> list[str]:
    """What a value of a part may be called; a folder of somebody's own by its name, what is not known a defect."""
    if value is None:
        return [{"en": "defect", "pt": "defeito", "es": "defecto"}[language]]
    known = phrases()[f"{part[:-1]}ies" if part.endswith("y") else f"{part}s"].get(value)
    return known[language] if known else [value.replace("_", " ")]


def templates(language: str, group: str = "seen") -> list[str]:
    """Templates of a language, those that are trained on or the `unseen` ones."""
    if language not in LANGUAGES:
        raise SettingsError(f"language {language!r} is unknown: use one of {', '.join(LANGUAGES)}")
    return phrases()[group][language]


def describe(
    facts: Facts, template: str, language: str, rng: np.random.Generator, *, unseen_words: bool = False
) -> str:
    """A sentence of some facts; what is not among them is not said.

    `[…]` of a template falls away where its part is not known. The rng chooses among phrases of the same meaning;
    `unseen_words` takes the phrase of the type that is not trained on.

    Examples:
        >>> template = "[{size} ]{type}[ {place}][ on a {product}]"
        >>> describe({"type": "squeeze", "place": "centre"}, template, "en", np.random.default_rng(3))
        'dent in the centre'
    """

    def phrase(part: str) -> str:
        choices = phrases_of(part, facts.get(part), language)
        if part == "type" and len(choices) > 1:
            choices = choices[-1:] if unseen_words else choices[:-1]
        return choices[rng.integers(len(choices))]

    text = re.sub(r"\[([^\[\]]*\{(\w+)\}[^\[\]]*)\]", lambda match: match[1] if match[2] in facts else "", template)
    return re.sub(r"\{(\w+)\}", lambda match: phrase(match[1]), text)


def statements(facts: Sequence[Facts], rng: np.random.Generator) -> tuple[list[dict[str, str]], list[str]]:
    """A random statement about each of N defects, and a sentence of it: some of the facts, in one of the languages.

    Of long and short sentences there are as many; nine in ten name the type.
    """
    stated, texts = [], []
    for row in facts:
        share = rng.choice((0.2, 0.5, 0.9))
        chances = {part: 0.9 if part == "type" else share for part in row}
        chosen = {part: value for part, value in row.items() if rng.random() < chances[part]} or {"type": row["type"]}
        language = LANGUAGES[rng.integers(len(LANGUAGES))]
        known = templates(language)
        stated.append(chosen)
        texts.append(describe(chosen, known[rng.integers(len(known))], language, rng))
    return stated, texts


def true_of(stated: Sequence[Facts], facts: Sequence[Facts]) -> np.ndarray:
    """Which of Q statements are true of which of N defects, (Q, N) bool: all that is stated is so.

    Examples:
        >>> true_of([{"type": "poke"}, {"place": "top"}], [{"type": "poke", "place": "top"}, {"type": "crack"}])
        array([[ True, False],
               [ True, False]])
    """
    asked, known = (np.array([[row.get(part, "") for part in PARTS] for row in rows]) for rows in (stated, facts))
    return ((asked[:, None] == "") | (asked[:, None] == known[None])).all(2)


def plain(text: str) -> list[str]:
    """Words of a text: lower case, without accents, letters of a to z and digits.

    Examples:
        >>> plain("Rasguño, en la CABEZA!")
        ['rasguno', 'en', 'la', 'cabeza']
    """
    letters = (letter for letter in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(letter))
    return re.findall("[a-z0-9]+", "".join(letters))


def vocabulary(facts: Sequence[Facts]) -> list[str]:
    """The plain words that sentences of these facts may have in training, sorted."""
    values = {(part, row.get(part)) for row in facts for part in PARTS}
    texts = []
    for language in LANGUAGES:
        texts += [re.sub(r"\{\w+\}", " ", template) for template in templates(language)]
        for part, value in values:
            choices = phrases_of(part, value, language)
            texts += choices[:-1] if part == "type" and len(choices) > 1 else choices
    return sorted({word for text in texts for word in plain(text)})


def distract(text: str, words: Sequence[str], rng: np.random.Generator) -> str:
    """A sentence with one to three words that mean nothing, each half of one word and half of another, among its own.

    So an encoder learns to pass over what it does not know.
    """
    sentence = text.split()
    for first, second in rng.choice(words, (rng.integers(1, 4), 2)):
        sentence.insert(rng.integers(len(sentence) + 1), first[: len(first) // 2] + second[len(second) // 2 :])
    return " ".join(sentence)


def queries(
    facts: Sequence[Facts],
    parts: Sequence[str],
    language: str,
    group: str = "seen",
    *,
    unseen_words: bool = False,
    seed: int = 0,
) -> tuple[list[dict[str, str]], list[str]]:
    """Every statement of these parts that is true of one of the defects, and a sentence of it by each template.

    Examples:
        >>> stated, texts = queries([{"type": "poke", "place": "top"}, {"type": "crack"}], ["type"], "en")
        >>> len(texts), stated[0], texts[0]
        (12, {'type': 'crack'}, 'fissure')
    """
    rng = np.random.default_rng(seed)
    distinct = sorted({tuple((part, row[part]) for part in parts if part in row) for row in facts})
    stated = [dict(statement) for statement in distinct for _ in templates(language, group)]
    several = templates(language, group) * len(distinct)
    texts = [describe(*pair, language, rng, unseen_words=unseen_words) for pair in zip(stated, several, strict=True)]
    return stated, texts
