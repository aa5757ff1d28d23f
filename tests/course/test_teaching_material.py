"""Figures of slides exist, minutes fill a lecture, quizzes explain each choice, terms of the glossary are in use."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import string
import struct
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
COURSE = PROJECT / "course"
DECKS = {path.stem[:2]: path for path in sorted((COURSE / "slides").glob("*.md"))}
QUIZZES = {path.stem: path for path in sorted((COURSE / "quizzes").glob("*.json"))}
WEEKS = [f"{week:02}" for week in range(1, 10)]
KINDS = {"image/png", "image/jpeg", "image/gif"}

spec = importlib.util.spec_from_file_location("slides", COURSE / "slides.py")
maker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maker)


def slides_of(week: str) -> list[str]:
    """The slides of a deck, as markdown."""
    return DECKS[week].read_text(encoding="utf-8").split("\n---\n")


def cited(text: str) -> list[tuple[str, int]]:
    """Notebook and number of each figure; a link to any other picture is an error."""
    links = re.findall(r"!\[[^\]]+\]\(([^)]*)\)", text)
    return [
        (name, int(number)) for link in links for name, number in [re.fullmatch(r"figure:(\w+)#(\d+)", link).groups()]
    ]


def pictures_in(notebook: str) -> int:
    """Number of pictures in the outputs of an executed notebook."""
    cells = json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return sum(bool(KINDS & set(output.get("data", {}))) for cell in cells for output in cell.get("outputs", []))


def test_every_week_has_a_deck_and_a_quiz() -> None:
    assert list(DECKS) == WEEKS
    assert list(QUIZZES) == ["00", *WEEKS]


@pytest.mark.parametrize("week", WEEKS)
def test_figures_exist_and_each_is_shown_once(week: str) -> None:
    figures = cited("".join(slides_of(week)))
    assert len(figures) >= 5
    assert len(set(figures)) == len(figures)
    for notebook, number in figures:
        assert 1 <= number <= pictures_in(notebook), f"{notebook} has no figure {number}"


@pytest.mark.parametrize("week", WEEKS)
def test_a_deck_fills_a_lecture(week: str) -> None:
    slides = slides_of(week)
    assert 12 <= len(slides) <= 18
    notes = [re.findall(r"^Note: (\d+) min\. \S", slide, re.M) for slide in slides]
    assert all(len(minutes) == 1 for minutes in notes), f"no minutes: {notes.index([]) if [] in notes else notes}"
    assert 60 <= sum(int(minutes[0]) for minutes in notes) <= 75
    titles = [re.search(r"^##? (.+)", slide.strip())[1] for slide in slides]
    assert titles[-1] == "Recap"
    for mark in ("Board: ", "Question to the room", "Failure case: "):
        assert sum(title.startswith(mark) for title in titles) == 1, mark


@pytest.mark.parametrize("week", QUIZZES)
def test_a_quiz_explains_each_choice(week: str) -> None:
    quiz = json.loads(QUIZZES[week].read_text(encoding="utf-8"))
    assert len(quiz) == 8
    for entry in quiz:
        assert set(entry) == {"question", "choices"}
        assert 3 <= len(entry["choices"]) <= 4
        rights = [choice["right"] for choice in entry["choices"]]
        assert any(rights), entry["question"]
        assert not all(rights), entry["question"]
        texts = [choice["text"] for choice in entry["choices"]]
        whys = [choice["why"] for choice in entry["choices"]]
        assert len(set(texts)) == len(texts)
        assert len(set(whys)) == len(whys)
        assert all(len(why) > 15 and why.endswith(".") for why in whys), entry["question"]


def test_no_question_is_asked_twice() -> None:
    questions = [
        entry["question"] for path in QUIZZES.values() for entry in json.loads(path.read_text(encoding="utf-8"))
    ]
    assert len(questions) == len({re.sub(r"\W+", " ", question.lower()) for question in questions}) == 80


def test_neither_the_place_nor_the_length_of_a_choice_gives_it_away() -> None:
    quizzes = [entry["choices"] for path in QUIZZES.values() for entry in json.loads(path.read_text(encoding="utf-8"))]
    places = [next(place for place, choice in enumerate(choices) if choice["right"]) for choices in quizzes]
    assert max(places.count(place) for place in range(3)) < 0.45 * len(quizzes)
    longest = sum(max(choices, key=lambda choice: len(choice["text"]))["right"] for choices in quizzes)
    assert longest < 0.45 * len(quizzes)


def test_terms_of_the_glossary_are_in_use_and_translated() -> None:
    with (COURSE / "glossary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 90
    assert set(rows[0]) == {"term", "meaning", "pt", "es", "meaning_pt", "meaning_es"}
    assert all(value.strip() for row in rows for value in row.values())
    terms = [row["term"].lower() for row in rows]
    assert len(set(terms)) == len(terms)
    assert all(
        len({row[key] for row in rows}) == len(rows) for key in ("meaning", "meaning_pt", "meaning_es", "pt", "es")
    )
    sources = [*(PROJECT / "notebooks" / "source").glob("*.py"), *(PROJECT / "docs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources).lower()
    text = re.sub(r"\s+", " ", re.sub(r"\n# ", " ", text).replace("**", ""))
    unused = [term for term in terms if not re.search(rf"(?<!\w){re.escape(term)}", text)]
    assert not unused


def test_mathematics_reaches_the_page_unchanged() -> None:
    """CommonMark gives back any punctuation after a backslash, so removing the backslashes restores the formula."""
    formula = r"$$\{a_i\}_{i<n} \\ \text{x}*y_j^{*} & [1] | 2$$"
    escaped = maker.deck(f"before\n\n{formula}\n\n- $x_1$ costs")
    bare = re.sub(
        r"\\[!-/:-@\[-`{-~]", "", escaped.replace("before\n\n$$", "").replace("$$\n\n- $x", "x").replace("$ costs", "")
    )
    assert not set(bare) & set(string.punctuation)  # nothing is left that markdown could read as its own
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped) == f"before\n\n{formula}\n\n- $x_1$ costs"


def test_a_figure_is_cut_from_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "TARGET", tmp_path)
    (tmp_path / "figures").mkdir()
    page = maker.deck("## Failure case: a screw\n\n![What <b> to see](figure:02_padim#2)\n")
    assert '<!-- .slide: class="failure" -->\n## Failure' in page
    assert "What &lt;b&gt; to see" in page
    content = (tmp_path / "figures" / "02_padim-2.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1011, 279)
