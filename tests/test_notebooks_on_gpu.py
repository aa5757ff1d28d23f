"""Every cell of every notebook runs on a (pretended) GPU; what is replaced stands in run_notebook.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCES = sorted((TESTS.parent / "notebooks" / "source").glob("[0-9][0-9]*_*.py"))


def run(profile: str, home: Path) -> str:
    """What the runner prints of all notebooks, in order, in one process."""
    command = [sys.executable, str(TESTS / "run_notebook.py"), profile]
    return subprocess.run(
        command, env={**os.environ, "MVTEC_AD_HOME": str(home)}, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All ten in profile quick."""
    return run("quick", tmp_path_factory.mktemp("quick"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_cell_runs_in_quick(quick: str, source: Path) -> None:
    """No cell fails, none is left out; otherwise what it printed is shown."""
    assert re.search(rf"^{source.stem}: 0 failed, ", quick, re.M), quick


@pytest.mark.skipif(not os.environ.get("FULL"), reason="takes minutes: FULL=1 pytest tests/test_notebooks_on_gpu.py")
def test_every_cell_runs_in_full(shared_folder: Path, tmp_path: Path) -> None:
    """On a few images of each real product."""
    printed = run("full", tmp_path)
    assert sorted(re.findall(r"^(\w+): 0 failed, ", printed, re.M)) == [source.stem for source in SOURCES], printed
