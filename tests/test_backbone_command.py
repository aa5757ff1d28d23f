"""`backbone`: from nothing to carried weights, interrupted on the way, and the comparison of objectives."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvtec_ad import synthetic
from mvtec_ad.backbones import load_backbone, synthetic_weights
from mvtec_ad.cli import main
from mvtec_ad.methods import pretraining

TINY = ["--images", "8", "--image-size", "48", "--view", "32", "--views", "4", "--steps", "6", "--recipes", "20"]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of our own, weights of our own, and one small product to judge by."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic_weights, "SYNTHETIC", tmp_path / "weights" / "resnet18_synthetic.safetensors")
    monkeypatch.setattr(pretraining, "COMPARISON", tmp_path / "weights" / "objectives.json")
    folder = synthetic.write_category(
        tmp_path / "data" / "judge", "bottle", train=12, test_good=4, per_defect=2, size=64, progress=False
    )
    monkeypatch.setattr(pretraining, "_folders", lambda *_: {"bottle": folder})
    monkeypatch.setattr(pretraining, "Padim", partial(pretraining.Padim, image_size=64, crop=64))
    return tmp_path


def test_training_measuring_and_carrying(own_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped at step 2 nothing is carried; the same command then ends with the weights of an unbroken run."""
    assert main(["backbone", *TINY, "--until", "2"]) == 0
    assert "stopped at step 2 of 6" in capsys.readouterr().out
    assert not synthetic_weights.SYNTHETIC.exists()
    assert main(["backbone", *TINY]) == 0
    card = synthetic_weights.synthetic_card()
    assert card["settings"]["steps"] == 6
    assert set(card["results"]) == {"synthetic", "random"}
    worth = pretraining.worth(
        load_backbone("resnet18", "synthetic"), {"bottle": own_place / "data" / "judge" / "bottle"}
    )
    assert card["results"]["synthetic"]["bottle"] == pytest.approx(worth.loc["bottle"].to_dict())
    assert not list((own_place / "data" / "textures").glob("*.checkpoint"))
    kept = synthetic_weights.load_synthetic()[0]["layer3.1.conv2.weight"]
    assert main(["backbone", *TINY]) == 0  # whole, from the start
    assert np.array_equal(synthetic_weights.load_synthetic()[0]["layer3.1.conv2.weight"], kept)
    assert main(["backbone", *TINY, "--seed", "1"]) == 0
    assert not np.array_equal(synthetic_weights.load_synthetic()[0]["layer3.1.conv2.weight"], kept)


def test_the_comparison_has_every_objective(capsys: pytest.CaptureFixture[str]) -> None:
    """And carries none of them."""
    assert main(["backbone", *TINY, "--compare"]) == 0
    found = pretraining.comparison()
    assert [row["objective"] for row in found["objectives"]] == list(pretraining.OBJECTIVES)
    for row in found["objectives"]:
        assert set(pd.DataFrame(row["results"]).index) == {"image_auroc", "pixel_auroc"}
        assert row["cpu_seconds"] > 0
    assert len({row["results"]["bottle"]["pixel_auroc"] for row in found["objectives"]}) == len(pretraining.OBJECTIVES)
    assert not synthetic_weights.SYNTHETIC.exists()
    assert capsys.readouterr().out.count("| vicreg | image auroc |") == 4  # a table after each of the last four


def test_an_unknown_objective_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With the ones there are."""
    assert main(["backbone", *TINY, "--objective", "guess"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "mvtec-ad backbone: objective 'guess' is unknown: use one of simclr, vicreg, recipes, places, both"
