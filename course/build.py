"""Cut course/exercises/NN_name.py into a student's notebook and its solution, and put translations beside both.

    python course/build.py [00 01 …]     write labs/ and solutions/ (executed), and those of all languages
    python course/build.py --check       prove that what is committed equals its sources

A source is py:percent. Lines between `# <solution>` and `# </solution>` become dots in the student's notebook; a
markdown cell whose head ends in `solution` stands in the solution only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext

HERE = Path(__file__).resolve().parent
SOURCES = sorted((HERE / "exercises").glob("[0-9][0-9]_*.py"))
SOLUTION = re.compile(r"^( *)# <solution>\n(.*?)^ *# </solution>\n?", re.M | re.S)
ASSIGNED = re.compile(r"^(\w+(?:, \w+)*) = ", re.M)


def stub(match: re.Match[str]) -> str:
    """Dots in place of a solution; every name that it assigns at the top level holds them."""
    indent, text = match.groups()
    names = [] if indent else [name for names in ASSIGNED.findall(text) for name in names.split(", ")]
    lines = [f"{name} = ...  # your answer" for name in dict.fromkeys(names)]
    return "".join(f"{line}\n" for line in lines or [f"{indent}...  # your code"])


def cut(source: Path, solution: bool) -> Any:
    """The notebook of a source: the student's, or the solution."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    cells = []
    for cell in notebook.cells:
        only_in_solution = cell.metadata.get("title", "").strip() == "solution"
        if only_in_solution and not solution:
            continue
        cell.source = SOLUTION.sub((lambda match: match[2]) if solution else stub, f"{cell.source}\n").rstrip("\n")
        cell.metadata = {}
        cells.append(cell)
    notebook.cells = cells
    return notebook
