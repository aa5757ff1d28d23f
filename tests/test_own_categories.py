"""Own categories that lack something: the notebooks run to their end and print what they leave out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mvtec_ad.errors import DataError
from mvtec_ad.notebooks import where_possible

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = PROJECT / "notebooks" / "source"

# Runs the code of notebooks with tiny settings in one process, in a shell like a kernel's; the first error ends it.
RUNNER = """
import sys
from pathlib import Path
import torch, torchvision  # before TensorFlow
import jupytext
import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from run_notebook import shrink

shrink()
plt.show = lambda: plt.close("all")
for path in map(Path, sys.argv[1:]):
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    print(f"== {path.stem.partition('_')[0]}")
    for cell in jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells:
        if cell.cell_type == "code" and "<setup>" not in cell.source:
            shell.run_cell(cell.source).raise_error()
        plt.close("all")
"""


def draw(folder: Path, number: int, defect: bool = False, mask: Path | None = None) -> None:
    """Images of a bright square, with a dark line where they are defective."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    for position in range(number):
        image, marked = rng.normal(120, 6, (64, 64, 3)), np.zeros((64, 64), np.uint8)
        image[16:48, 16:48] += 60
        row, column = rng.integers(20, 30, 2)
        marked[row : row + 3, column : column + 14] = 255
        image[(marked > 0) & defect] = 20
        cv2.imwrite(str(folder / f"{position:03d}.png"), image.clip(0, 255).astype(np.uint8))
        if mask:
            mask.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(mask / f"{position:03d}_mask.png"), marked)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Number of a notebook -> what it printed, for one category without defects and one of one type, unmasked."""
    root, home = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("home")
    for category in ("flawless", "plain"):
        draw(root / category / "train" / "good", 24)
        draw(root / category / "test" / "good", 4)
    draw(root / "plain" / "test" / "scratch", 5, defect=True)
    environment = {"MVTEC_AD_ROOT": str(root), "MVTEC_AD_HOME": str(home), "MVTEC_AD_PROFILE": "quick"}
    environment |= {"MVTEC_AD_CATEGORIES": "flawless plain", "MPLBACKEND": "agg", "IPYTHONDIR": str(home)}
    environment["PYTHONPATH"] = f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"
    sources = [str(next(SOURCES.glob(f"{number}_*.py"))) for number in ("01", "02", "03", "06", "09")]
    command = [sys.executable, "-c", RUNNER, *sources]
    done = subprocess.run(command, env=os.environ | environment, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return dict(part.split("\n", 1) for part in done.stdout.split("== ") if part)


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (
            "01",
            ["flawless is left out: no AUROC", "flawless has no masks", "flawless is left out: flawless/test holds no"],
        ),
        ("02", ["flawless is left out: no AUROC", "plain has no masks: outlines"]),
        ("03", ["plain is left out: a false-alarm rate", "The rest of this notebook is left out"]),
        ("06", ["plain is left out: telling defect types apart", "The rest of this notebook is left out"]),
        (
            "09",
            [
                "flawless is left out: no AUROC",
                "plain has no masks: pixel metrics are left out",
                "autoencoder.zip is not",
            ],
        ),
    ],
)
def test_notebook_ends_and_says_what_it_left_out(printed: dict[str, str], number: str, lines: list[str]) -> None:
    """One printed line for each thing; that no cell raised is what the fixture asserts."""
    for line in lines:
        assert line in printed[number], printed[number]


def test_where_possible_leaves_out_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The package's errors are printed, without saying the name twice; others are faults and stay."""

    def make(name: str) -> int:
        if name == "bad":
            raise DataError("bad: no images")
        return len(name)

    assert where_possible(make, ["good", "bad"]) == {"good": 4}
    assert capsys.readouterr().out == "bad is left out: no images\n"
    with pytest.raises(TypeError):
        where_possible(len, [3])
