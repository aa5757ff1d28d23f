"""`evaluate typing`: the whole way from a folder to the report, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvtec_ad.cli import main
from mvtec_ad.config import transfer_folder
from mvtec_ad.methods.contrastive import experiment, report

COLOURS = {"blot": (200, 30, 30), "cut": (20, 20, 20), "dye": (40, 60, 220)}
SMALL = ["--weights", "drawn", "--image-size", "32", "--steps", "1", "--batch", "6", "--folds", "2", "--look", "mask"]


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable, write_image: Callable, make_category: Callable
) -> Path:
    """`part` with three types of four images, and one image with several at once; `pair` with two types; `one` with a
    single type; `lone` with a type of one image."""
    folder = tmp_path_factory.mktemp("types")
    rng = np.random.default_rng(0)
    counts = {
        "part": {"blot": 4, "cut": 4, "dye": 4, "combined": 1},
        "pair": {"blot": 4, "cut": 4},
        "one": {"blot": 4, "combined": 2},
        "lone": {"blot": 4, "cut": 1},
    }
    for category, types in counts.items():
        make_category(folder, category, train=6, test_good=2, defects={}, size=64)
        for defect, count in types.items():
            for number in range(count):
                image, mask = draw(rng, 64, True)
                image[mask] = COLOURS.get(defect, (230, 230, 230))
                write_image(folder / category / "test" / defect / f"{number:03d}.png", image)
                truth = folder / category / "ground_truth" / defect / f"{number:03d}_mask.png"
                write_image(truth, (mask * 255).astype(np.uint8))
    return folder


def test_the_report_is_what_the_experiment_says(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    """All parts are there, counts are those of the folder, means lie in their intervals; no checkpoint is left."""
    target = tmp_path / "report.json"
    where = ["--root", str(root), "--category", "part", "--json", str(target)]
    assert main(["evaluate", "typing", *where, *SMALL]) == 0
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["types"] == {"blot": 4, "cut": 4, "dye": 4}
    assert np.sum(found["confusion"]["counts"]) == 12  # every image with one type once
    assert found["mixtures"]["images"] == 1
    assert sum(found["mixtures"]["nearest"].values()) == pytest.approx(1, abs=1e-3)
    assert found["ways"][experiment.CHANCE]["balanced_accuracy"]["mean"] == pytest.approx(1 / 3)
    assert set(found["open_set"]["supcon, prototypes"]["types"]) == {"blot", "cut", "dye"}
    assert set(found["few_shot"]["supcon"]) == {"1", "2"}  # four images: none is left after showing four
    for way in found["ways"].values():
        for metric in way.values():
            assert metric["low"] <= metric["mean"] <= metric["high"]
    assert not list((transfer_folder() / "checkpoints").glob("typing-*"))
    printed = capsys.readouterr().out
    assert "12 defects of 3 types: 4 blot, 4 cut, 4 dye" in printed
    assert "1 images with several types at once" in printed
    assert printed.count("AUROC") == len(found["open_set"])


def test_two_types_leave_none_out(root: Path, capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    """Nothing is measured that cannot be, and the lines say so."""
    assert main(["evaluate", "typing", "--root", str(root), "--category", "pair", *SMALL]) == 0
    assert "no type was left out: that takes three or more" in capsys.readouterr().out


def test_predicted_regions_come_from_padim(root: Path, tmp_path: Path, own_home: Path) -> None:
    """Without a look given, PaDiM is fitted on the good images first."""
    target = tmp_path / "report.json"
    where = ["--root", str(root), "--category", "pair", "--json", str(target)]
    assert main(["evaluate", "typing", *where, *SMALL[:-2]]) == 0
    assert json.loads(target.read_text(encoding="utf-8"))["settings"]["look"] == "predicted"


@pytest.mark.parametrize(
    ("category", "options", "words"),
    [
        ("one", [], "needs two or more, and there is only blot"),
        ("lone", [], "lone/cut has a single image"),
        ("part", ["--folds", "5"], "part/blot has 4 images, too few for 5 folds"),
        ("part", ["--look", "sideways"], "'sideways' is unknown"),
        ("part", ["--weights", "random"], "nothing worth freezing"),
        ("part", ["--side", "2"], "side 2.0"),
    ],
)
def test_it_fails_in_one_line(
    root: Path, category: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    """The line names the thing."""
    assert main(["evaluate", "typing", "--root", str(root), "--category", category, *SMALL, *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mvtec-ad")]
    assert len(lines) == 1
    assert words in lines[0]


def test_means_over_types_resample_types() -> None:
    """Each left-out type counts once; the interval holds the mean and is a point where all types agree."""
    table = pd.DataFrame(
        {
            "left_out": ["a", "b", "c"] * 2,
            "way": ["x"] * 3 + ["y"] * 3,
            "auroc": [0.5, 0.7, 0.9, 0.8, 0.8, 0.8],
            "called_unknown": [0.0, 0.5, 1.0, 0.2, 0.2, 0.2],
            "false_unknown": [0.1] * 6,
        }
    )
    found = report.by_way(table)
    assert found["x"]["auroc"]["mean"] == pytest.approx(0.7)
    assert 0.5 <= found["x"]["auroc"]["low"] < 0.7 < found["x"]["auroc"]["high"] <= 0.9
    assert found["y"]["auroc"]["low"] == pytest.approx(0.8)
    assert found["x"]["called_unknown"] == pytest.approx(0.5)
    assert found["x"]["types"] == {"a": 0.5, "b": 0.7, "c": 0.9}
