"""What the notebooks show and claim: networks, loops and schematics in sight, short cells, no decimal without its cell.

The executed notebooks are those that are committed, or those of the folder in MVTEC_AD_EXECUTED.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import pytest

from mvtec_ad.notebooks import number_of

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
EXECUTED = Path(os.environ.get("MVTEC_AD_EXECUTED", NOTEBOOKS))
SOURCES = sorted((NOTEBOOKS / "source").glob("[0-9][0-9]*_*.py"))
NAMES = [source.stem for source in SOURCES]

DECIMAL = re.compile(r"(?<![\w.,/])(\d*\.\d+)(?![\w.]*\d)")
WITH_LINK = re.compile(r"\]\(|arXiv|doi")


def cells(name: str, kind: str) -> list[Any]:
    """The code or markdown cells of an executed notebook."""
    notebook = nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def code(name: str) -> str:
    """All code of a notebook's source, commands of a shell left out."""
    text = (NOTEBOOKS / "source" / f"{name}.py").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def printed(cell: Any) -> str:
    """Text that a cell put out: streams, results and tables."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text", ""))
        data = output.get("data", {})
        parts += [data.get("text/plain", ""), re.sub(r"<[^>]+>", " ", str(data.get("text/html", "")))]
    return "\n".join(parts)


def paragraphs(name: str) -> list[str]:
    """Prose of a notebook: no code, no formula, no table, no solution of an exercise, which another run gives."""
    text = "\n\n".join(cell.source for cell in cells(name, "markdown"))
    text = re.sub(r"<details>.*?</details>|```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$]*\$", " ", text, flags=re.S)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    return [paragraph for paragraph in re.split(r"\n\s*\n|\n(?=[*#] |\d+\. )", text) if paragraph.strip()]


def unshown(prose: list[str], numbers: set[float]) -> list[str]:
    """Decimals of the prose that no cell shows; those of a paragraph with a source are the source's."""
    missing = []
    for paragraph in prose:
        if WITH_LINK.search(paragraph):
            continue
        for text in DECIMAL.findall(paragraph):
            digits = len(text.partition(".")[2])
            if not any(round(abs(number), digits) == float(text) for number in numbers):
                missing.append(f"{text} in: {' '.join(paragraph.split())[:90]}")
    return missing


def numbers_in(text: str) -> set[float]:
    """Every number of a text."""
    return {float(number) for number in re.findall(r"\d+\.?\d*(?:e[-+]?\d+)?|\.\d+", text)}


@pytest.mark.parametrize("name", NAMES)
def test_every_quoted_decimal_is_shown_by_a_cell(name: str) -> None:
    """It stands in an output or in the code of the same notebook, or its paragraph names a source."""
    numbers = numbers_in(code(name))
    for cell in cells(name, "code"):
        numbers |= numbers_in(printed(cell))
    assert unshown(paragraphs(name), numbers) == []


def test_a_decimal_that_no_cell_shows_is_named() -> None:
    """Rounded ones count as shown; percents, versions and those with a source do not matter."""
    shown = numbers_in("AUROC 0.9134 [.88, .95]")
    assert unshown(["it is .91, at most .95", "published: .7 ([paper](x))", "version 1.2.3"], shown) == []
    assert unshown(["it is .92"], shown) == [".92 in: it is .92"]
    assert unshown(["0.91 of 1.5"], shown) == ["1.5 in: 0.91 of 1.5"]


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short(name: str) -> None:
    """Half of a notebook's code cells have at most ten lines that are not empty, none has more than forty."""
    lengths = [
        sum(bool(line.strip()) for line in cell.source.splitlines())
        for cell in cells(name, "code")
        if "SetupError" not in cell.source
    ]
    assert median(lengths) <= 10
    assert max(lengths) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_paragraphs_are_short(name: str) -> None:
    """At most 90 words."""
    long = [paragraph for paragraph in paragraphs(name) if len(paragraph.split()) > 90]
    assert [" ".join(paragraph.split())[:60] for paragraph in long] == []


def classes(name: str) -> list[str]:
    """Networks that a notebook writes out: subclasses of nn.Module."""
    tree = ast.parse(code(name).replace("\n%", "\n#"))
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("nn.Module") for base in node.bases)
    ]


def loops(name: str) -> int:
    """Training loops that a notebook writes out and holds against the package's weights."""
    text = code(name)
    return min(text.count(".backward()"), len(re.findall(r"assert same_weights\(", text)))


def test_networks_are_written_out() -> None:
    """In five notebooks or more."""
    assert sum(bool(classes(name)) for name in NAMES) >= 5, {name: classes(name) for name in NAMES}


def test_loops_by_hand_give_the_packages_weights() -> None:
    """In five notebooks or more; the notebook itself asserts it."""
    assert sum(bool(loops(name)) for name in NAMES) >= 5, {name: loops(name) for name in NAMES}


def test_networks_and_loops_are_short() -> None:
    """Each class and each loop with an optimiser's step has at most 25 lines."""
    for name in NAMES:
        for node in ast.walk(ast.parse(code(name))):
            module = isinstance(node, ast.ClassDef) and node.name in classes(name)
            loop = isinstance(node, ast.For) and ".step()" in ast.unparse(node)
            if module or loop:
                assert node.end_lineno - node.lineno < 25, f"{name}: line {node.lineno}"


def test_methods_have_schematics() -> None:
    """Nine notebooks or more draw one."""
    assert sum("Schematic(" in code(name) for name in NAMES) >= 9


def width(table: str) -> int:
    """Characters of a row of an HTML table: the longest text of every column, and two between columns."""
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
    texts = [[re.sub(r"<[^>]+>", "", text).strip() for text in row] for row in rows]
    columns = max(map(len, texts), default=0)
    whole = [row for row in texts if len(row) == columns]
    return sum(2 + max(len(row[column]) for row in whole) for column in range(columns))


@pytest.mark.parametrize("name", NAMES)
def test_tables_fit_the_page(name: str) -> None:
    """No table is wider than 130 characters."""
    tables = [
        (cell.source[-60:], output["data"]["text/html"])
        for cell in cells(name, "code")
        for output in cell.outputs
        if "<table" in str(output.get("data", {}).get("text/html", ""))
    ]
    assert [(source, width(str(table))) for source, table in tables if width(str(table)) > 130] == []


def test_names_of_notebooks() -> None:
    """Twelve numbers; a letter where a lecture was split."""
    assert [number_of(source) for source in SOURCES][:3] == ["01", "02", "03"]
    assert {number_of(source)[:2] for source in SOURCES} == {f"{number:02}" for number in range(1, 13)}
