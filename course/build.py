"""Cut course/exercises/NN_name.py into a student's notebook and its solution.

    python course/build.py [00 01 …]     write labs/ and solutions/, these executed
    python course/build.py --check       prove that what is committed equals its sources

A source is py:percent. Lines between `# <solution>` and `# </solution>` become dots in the student's notebook; a
markdown cell whose head ends in `solution` stands in the solution only.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat

from mvtec_ad.notebooks import execute_notebooks

HERE = Path(__file__).resolve().parent
FOLDERS = ("labs", "solutions")
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


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


of_notebooks = load(HERE.parent / "notebooks" / "build.py")


def finished(source: Path, folder: str) -> Any:
    """A notebook of `labs` or `solutions` without outputs, as it is written."""
    notebook = cut(source, solution=folder == "solutions")
    return of_notebooks.finish(notebook, source.stem, of_notebooks.address(), f"course/{folder}")


def problems(source: Path, folder: str) -> list[str]:
    """What keeps a committed notebook from being what its source gives."""
    path, fresh = HERE / folder / f"{source.stem}.ipynb", finished(source, folder)
    if not path.is_file():
        return [f"{folder}/{path.name} is missing: run `python course/build.py`"]
    cells = [
        [(cell.cell_type, cell.source, cell.id) for cell in notebook.cells]
        for notebook in (nbformat.read(path, as_version=4), fresh)
    ]
    return (
        [] if cells[0] == cells[1] else [f"{folder}/{path.name} differs from its source: run `python course/build.py`"]
    )


def main(arguments: list[str]) -> int:
    """Build or check."""
    if arguments == ["--check"]:
        lines = [line for source in SOURCES for folder in FOLDERS for line in problems(source, folder)]
        print("\n".join(lines) or "every lab equals its source")
        return 1 if lines else 0
    chosen = [source for source in SOURCES if not arguments or source.stem[:2] in arguments]
    for folder in FOLDERS:
        made = {HERE / folder / f"{source.stem}.ipynb": finished(source, folder) for source in chosen}
        (HERE / folder).mkdir(exist_ok=True)
        if folder == "solutions":
            execute_notebooks(made, jobs=2)
        for path, notebook in made.items():
            for cell in notebook.cells:
                cell.metadata = {}
                if cell.cell_type == "code":
                    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            nbformat.write(notebook, path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
