"""Translations: code, outputs and numbers are the English ones, nothing is missing, a changed cell is noticed."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest

COURSE = Path(__file__).parents[2] / "course"
sys.path.insert(0, str(COURSE))
spec = importlib.util.spec_from_file_location("translate", COURSE / "translate.py")
translate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(translate)
sys.path.remove(str(COURSE))

EACH = [(language, name) for language in translate.LANGUAGES for name in translate.sources()]


@pytest.mark.parametrize(("language", "name"), EACH)
def test_nothing_is_missing_or_left_behind(language: str, name: str) -> None:
    """Every English text has its translation, and no translation is of a text that was changed."""
    assert translate.stale(language, name) == ([], [])


@pytest.mark.parametrize(("language", "name"), EACH)
def test_code_formulas_links_and_numbers_are_the_english_ones(language: str, name: str) -> None:
    known = translate.catalogue(language, name)
    for text in translate.texts(translate.sources()[name]):
        assert translate.differences(text, known[translate.key(text)]) == [], text[:80]


@pytest.mark.parametrize(("language", "name"), [pair for pair in EACH if pair[1].startswith("notebooks/")])
def test_notebooks_have_the_code_and_the_outputs_of_the_english(language: str, name: str) -> None:
    source = translate.sources()[name]
    english = nbformat.read(COURSE.parent / f"{name}.ipynb", as_version=4)
    ours = translate.translated(english, source, language, "notebooks")
    for cell, other in zip(english.cells, ours.cells, strict=True):
        assert cell.cell_type == other.cell_type
        if cell.cell_type == "code":
            assert cell.source == other.source
            assert cell.outputs == other.outputs
        elif len(cell.source) > 60:
            assert cell.source != other.source


@pytest.mark.parametrize("language", translate.LANGUAGES)
def test_badges_open_the_notebook_of_the_language(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the repository has an address; and no translation is lost by it."""
    monkeypatch.setattr(translate.of_notebooks, "address", lambda: "https://github.com/owner/name.git")
    opened = set()
    for path in translate.write(language, tmp_path):
        opened |= set(re.findall(r"github/owner/name/blob/main/([\w/]+\.ipynb)", path.read_text(encoding="utf-8")))
    here = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ipynb")}
    assert opened == here
    assert all(language in Path(path).parts for path in opened)
    assert "## Two commands" not in (tmp_path / "docs" / language / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", translate.LANGUAGES)
def test_what_is_committed_is_what_the_catalogues_give(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notebooks, labs, solutions and README of a language, byte for byte."""
    written = {path.relative_to(tmp_path): path.read_bytes() for path in translate.write(language, tmp_path)}
    assert len(written) == 18 + 2 * 10 + 1
    for path, content in written.items():
        assert (COURSE.parent / path).read_bytes() == content, f"run `python course/translate.py`: {path}"


def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, english: str) -> None:
    """One notebook of one cell, translated as `bom dia`."""
    source = tmp_path / "99_small.py"
    source.write_text(f"# %% [markdown]\n# {english}\n", encoding="utf-8")
    folder = tmp_path / "translations" / "pt" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "99_small.md").write_text(f"<!-- {translate.key('good morning')} -->\nbom dia\n", encoding="utf-8")
    monkeypatch.setattr(translate, "HERE", tmp_path)
    monkeypatch.setattr(translate, "sources", lambda: {"notebooks/99_small": source})


def test_a_changed_cell_makes_its_translation_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, monkeypatch, "good morning")
    assert translate.stale("pt", "notebooks/99_small") == ([], [])
    small(tmp_path, monkeypatch, "good evening")
    assert translate.stale("pt", "notebooks/99_small") == (["good evening"], [translate.key("good morning")])


@pytest.mark.parametrize(
    ("english", "translation", "word"),
    [
        ("12 of 16,386 patches", "12 de 16 386 recortes", ""),
        ("an AUROC of .95", "uma AUROC de 0.95", ""),
        ("an AUROC of .95", "uma AUROC de 0.59", "numbers"),
        ("use `fit`", "use `ajustar`", "code"),
        ("see $x^2$", "veja $x^3$", "formulas"),
        ("[a](02_padim.ipynb)", "[a](03_padim.ipynb)", "links"),
        ("* one\n* two", "* um, dois", "times"),
        ("```\nx = 1\n```", "```\nx = 2\n```", "fenced"),
    ],
)
def test_what_a_translation_may_not_change(english: str, translation: str, word: str) -> None:
    lines = translate.differences(english, translation)
    assert lines == [] if not word else word in lines[0]


@pytest.mark.parametrize(
    ("folder", "text", "there"),
    [
        ("notebooks", "[l](../course/labs/02_padim.ipynb)", "[l](../../course/labs/pt/02_padim.ipynb)"),
        ("notebooks", "[n](03b_patchcore.ipynb)", "[n](03b_patchcore.ipynb)"),
        ("notebooks", "[r](../README.md)", "[r](../../README.md)"),
        ("labs", "[n](../../notebooks/02_padim.ipynb)", "[n](../../../notebooks/pt/02_padim.ipynb)"),
    ],
)
def test_links_lead_to_the_same_language(folder: str, text: str, there: str) -> None:
    assert translate.relinked(text, folder, "pt") == there
