"""Translated notebooks and README from catalogues: the prose of a cell, under the hash of its English text.

    python course/translate.py                     write notebooks, labs, solutions and README of all languages
    python course/translate.py missing pt          list what a language lacks, what was changed in English since, and
                                                   where numbers, code, formulas or links are not the English ones
    python course/translate.py template pt notebooks/02_padim    append the English text of what it lacks, to translate

A catalogue lies in course/translations/LANGUAGE/, named as its source: notebooks/02_padim.md, labs/02_padim.md,
README.md. Code is never translated; outputs are those of the English notebook. Notebooks are written without outputs,
for Colab; the site shows them with those of the English ones.
"""

from __future__ import annotations

import copy
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

import build as of_labs

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
LANGUAGES = ("pt", "es")
ENTRY = re.compile(r"^<!-- ([0-9a-f]{12}) -->\n", re.M)
LANGUAGE_LINE = "import os\n\nos.environ['MVTEC_AD_LANGUAGE'] = '{}'\n"


of_notebooks = of_labs.of_notebooks


def key(text: str) -> str:
    """What an English text stands under in a catalogue."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


def sources() -> dict[str, Path]:
    """Name of each catalogue -> its English source."""
    files = sorted((PROJECT / "notebooks" / "source").glob("[0-9][0-9]*_*.py"))
    found = {f"notebooks/{file.stem}": file for file in files}
    return found | {f"labs/{file.stem}": file for file in of_labs.SOURCES} | {"README": PROJECT / "README.md"}


def texts(source: Path) -> list[str]:
    """The English prose of a source: its markdown cells, or the sections of a page."""
    content = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        content = of_notebooks.readme_with_badges(content, None)
        return [section.strip() for section in re.split(r"^(?=## )", content, flags=re.M)]
    cells = jupytext.reads(content, fmt="py:percent").cells
    return [cell.source.strip() for cell in cells if cell.cell_type == "markdown"]


def catalogue(language: str, name: str) -> dict[str, str]:
    """Key of an English text -> its translation; empty where there is none yet."""
    path = HERE / "translations" / language / f"{name}.md"
    if not path.is_file():
        return {}
    parts = ENTRY.split(path.read_text(encoding="utf-8"))[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


FENCE, MATH = re.compile(r"```.*?```", re.S), re.compile(r"\$\$.*?\$\$|\$[^$\n]+(?:\n[^$\n]+)?\$", re.S)
CODE, LINK = re.compile(r"`[^`\n]+`"), re.compile(r"\]\(([^)]+)\)")
NUMBER = re.compile(r"(?<![\w.])\d*\.?\d+(?:[,\u202f\u00a0 ]\d{3}(?!\d))*(?:\.\d+)?(?!\w)")


def numbers(text: str) -> list[float]:
    """Numbers of a prose in order of size; thousands may be set apart by a comma or a space."""
    return sorted(float(re.sub(r"[,\u202f\u00a0 ]", "", number)) for number in NUMBER.findall(text))


def differences(english: str, translation: str) -> list[str]:
    """What a translation may not change and does: code, formulas, links, numbers, marks of lists and headings."""
    found = []
    for name, pattern in (("fenced code", FENCE), ("formulas", MATH), ("code", CODE), ("links", LINK)):
        parts = [sorted(re.sub(r"\s+", " ", part) for part in pattern.findall(text)) for text in (english, translation)]
        if parts[0] != parts[1]:
            odd = (
                [part for part in parts[0] if part not in parts[1]],
                [part for part in parts[1] if part not in parts[0]],
            )
            found.append(f"{name}: {odd[0]} became {odd[1]}")
        if name != "links":
            english, translation = (pattern.sub(" ", text) for text in (english, translation))
    plain = [re.sub(r"\]\([^)]+\)|<[^>]+>", " ", text) for text in (english, translation)]
    if numbers(plain[0]) != numbers(plain[1]):
        found.append(f"numbers: {numbers(plain[0])} became {numbers(plain[1])}")
    for mark in (r"^#+ ", r"^\s*[*-] ", r"^\s*\d\. ", r"^\|", r"<details>"):
        counts = [len(re.findall(mark, text, re.M)) for text in (english, translation)]
        if counts[0] != counts[1]:
            found.append(f"{counts[0]} times {mark} became {counts[1]}")
    return found


def stale(language: str, name: str) -> tuple[list[str], list[str]]:
    """English texts that a catalogue lacks, and keys of texts that are no longer there."""
    known, wanted = catalogue(language, name), {key(text): text for text in texts(sources()[name])}
    return [text for one, text in wanted.items() if one not in known], [one for one in known if one not in wanted]


def relinked(text: str, folder: str, language: str) -> str:
    """Links of a text that moves from `folder` into a folder of its language, one deeper."""
    text = re.sub(r"\]\(\.\./course/(labs|solutions)/", rf"](../course/\1/{language}/", text)
    text = re.sub(r"\]\(\.\./\.\./notebooks/", f"](../../notebooks/{language}/", text)
    return re.sub(r"\]\(\.\./", "](../../", text) if folder else text


def translated(notebook: Any, source: Path, language: str, place: str) -> Any:
    """A copy of a notebook with the prose of a language; English where the catalogue lacks a text.

    Args:
        notebook: Cut or executed from `source`, its badge and setup cell already in place.
        source: The English py:percent file.
        language: `pt` or `es`.
        place: Where the English one lies: `notebooks`, `course/labs` or `course/solutions`.
    """
    folder = "notebooks" if place == "notebooks" else "labs"
    known, result = catalogue(language, f"{folder}/{source.stem}"), copy.deepcopy(notebook)
    repository = of_notebooks.address()
    badges = [of_notebooks.badge(source.stem, repository, each) for each in (place, f"{place}/{language}")]
    english = {key(text.replace(of_notebooks.BADGE, badges[0])): key(text) for text in texts(source)}
    for cell in result.cells:
        if cell.cell_type == "markdown":
            text = known.get(english.get(key(cell.source), ""), cell.source)
            text = text.replace(of_notebooks.BADGE, badges[1]).replace(badges[0], badges[1])
            cell.source = relinked(text, folder, language)
    if folder == "labs":  # checks answer in the language of the notebook
        first = next(cell for cell in result.cells if cell.cell_type == "code")
        first.source = f"{LANGUAGE_LINE.format(language)}{first.source}"
    return result


def page(language: str) -> str:
    """The README of a language, as docs/LANGUAGE/README.md."""
    source = PROJECT / "README.md"
    known = catalogue(language, "README")
    text = "\n\n".join(known.get(key(section), section) for section in texts(source)) + "\n"
    text = of_notebooks.readme_with_badges(text, of_notebooks.address())
    text = text.replace("/blob/main/notebooks/", f"/blob/main/notebooks/{language}/")
    text = re.sub(rf"\[[^\[\]]*\]\(docs/{language}/README\.md\)", "[English](README.md)", text)  # in place of itself
    text = re.sub(r"\]\(notebooks/(\w+)\.ipynb\)", rf"](notebooks/{language}/\1.ipynb)", text)
    return re.sub(r"\]\((?!https?:|#|mailto:)", "](../../", text)


def write(language: str, root: Path = PROJECT) -> list[Path]:
    """Write all files of a language below `root`; their paths."""
    made: dict[Path, Any] = {}
    for name, source in sources().items():
        if name.startswith("notebooks/"):
            english = {"notebooks": of_notebooks.convert(source, of_notebooks.address())}
        elif name.startswith("labs/"):
            english = {f"course/{kind}": of_labs.finished(source, kind) for kind in of_labs.FOLDERS}
        else:
            made[root / "docs" / language / "README.md"] = page(language)
            continue
        for folder, notebook in english.items():
            made[root / folder / language / f"{source.stem}.ipynb"] = translated(notebook, source, language, folder)
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else f"{nbformat.writes(content)}\n"
        path.write_text(text, encoding="utf-8")
    return list(made)


def main(arguments: list[str]) -> int:
    """Write, list what is missing, or append what is to be translated."""
    if not arguments:
        for language in LANGUAGES:
            write(language)
        return 0
    command, language, *names = arguments
    lacks = 0
    for name in names or sources():
        missing, left = stale(language, name)
        lacks += bool(missing or left)
        if command == "template" and missing:
            path = HERE / "translations" / language / f"{name}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"<!-- {key(text)} -->\n{text}\n\n" for text in missing)
        elif missing or left:
            print(f"{language}/{name}.md lacks {len(missing)} texts; {len(left)} are of no cell any more: {left}")
        known = catalogue(language, name)
        for text in texts(sources()[name]) if command == "missing" else ():
            for line in differences(text, known[key(text)]) if key(text) in known else ():
                print(f"{language}/{name}.md, {key(text)}: {line}")
                lacks += 1
    return 1 if lacks and command == "missing" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
