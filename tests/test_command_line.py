"""The commands, in this process: what they write, what they print, and how they fail."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvtec_ad import transfer
from mvtec_ad.__main__ import COMMANDS, main
from mvtec_ad.commands.options import method_settings
from mvtec_ad.data import index
from mvtec_ad.errors import DataError
from mvtec_ad.results import measured

Maker = Callable[..., Path]
SMALL = ["--weights", "random", "--channels", "8", "--image-size", "32", "--sigma", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """`part`, full layout; `mine`, good images only; `few`, four good images."""
    folder = tmp_path_factory.mktemp("images")
    make_category(folder, "part", train=20, test_good=3, defects={"patch": 3}, size=32)
    make_category(folder, "mine", train=20, test_good=0, defects={}, size=32)
    return make_category(folder, "few", train=4, test_good=0, defects={}, size=32)


@pytest.fixture(scope="module")
def artifact(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PaDiM fitted on good images alone."""
    path = tmp_path_factory.mktemp("fitted") / "mine.zip"
    assert main(["fit", "padim", "--root", str(root), "--category", "mine", *SMALL, "--out", str(path)]) == 0
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must exit with 2, and return its one line on stderr."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and "\r" not in line]
    lines = [line for line in lines if "it/s" not in line and "image/s" not in line and "batch" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"mvtec-ad {arguments[0]}: ")
    return lines[0]


def test_evaluate_writes_the_promised_json(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shape that machines read, a table to read, and a record for `results`."""
    target = tmp_path / "report.json"
    where = ["--category", "part", "--root", str(root), "--backbone", "resnet18", "--seeds", "0", "4"]
    assert main(["evaluate", "padim", *where, *SMALL, "--json", str(target)]) == 0
    report = json.loads(target.read_text(encoding="utf-8"))
    assert (report["method"], report["category"], report["data_source"]) == ("padim", "part", "own")
    assert (report["backbone"], report["weights"], report["seeds"]) == ("resnet18", "random (seed 0)", [0, 4])
    for name in ("image_auroc", "image_ap", "f1_max", "pixel_auroc", "pixel_ap", "au_pro"):
        assert set(report["metrics"][name]) == {"mean", "sd", "low", "high", "values"}
    assert report["metrics"]["image_auroc"]["values"] == [1, 1]
    assert set(report["thresholds"]["calibrated"]) == {"value", "accuracy", "false_alarm_rate", "detection_rate"}
    assert set(report["seconds"]) == {"fit", "score"}
    assert report["peak_memory_gb"] > 0
    assert (report["settings"]["image_size"], report["settings"]["crop"]) == (32, 32)  # a size of one's own keeps all
    printed = capsys.readouterr().out
    assert "padim on part (own): resnet18, random (seed 0), 2 seeds" in printed
    for row in report["trivial"]:
        assert row in printed
    (kept,) = measured()
    assert {key: kept[key] for key in report} == report


def test_fit_needs_good_images_alone(artifact: Path) -> None:
    """The artifact says what it was fitted on; only the triangle and the channels are in it."""
    loaded = transfer.load(artifact)
    assert (loaded.manifest["stage"], loaded.manifest["data_source"]) == ("padim", "own")
    assert loaded.manifest["categories"] == ["mine"]
    assert loaded.manifest["metrics"]["good_images"] == 20
    assert loaded.json("mine/padim/0/model.json")["threshold"]["false_alarm_rate"] == 0.05
    arrays = loaded.arrays("mine/padim/0/model.safetensors")
    # 20 left-out scores at 5 %: ⌈21 · 0.95⌉ = 20, so the largest of them
    assert loaded.manifest["metrics"]["threshold"] == pytest.approx(arrays["good_scores"].max())


def test_fit_says_that_no_auroc_can_be_computed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the folder has no test images, and only there."""
    common = [*SMALL, "--root", str(root), "--out", str(tmp_path / "a.zip")]
    assert main(["fit", "padim", "--category", "mine", *common]) == 0
    assert "No AUROC can be computed" in capsys.readouterr().out
    assert main(["fit", "padim", "--category", "part", *common]) == 0
    assert "No AUROC" not in capsys.readouterr().out


def test_detect_finds_the_planted_patch(root: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder and a file; pure JSON on stdout, scores as the threshold judges them."""
    good = root / "mine" / "train" / "good" / "003.png"
    capsys.readouterr()
    arguments = [str(artifact), str(root / "part" / "test" / "patch"), str(good), "--heat-maps", "none", "--json"]
    assert main(["detect", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) for row in rows] == [{"image", "verdict", "score", "threshold", "heat_map"}] * 4
    assert [row["verdict"] for row in rows] == ["defect"] * 3 + ["good"]
    assert [Path(row["image"]).name for row in rows] == ["000.png", "001.png", "002.png", "003.png"]
    assert all((row["score"] > row["threshold"]) == (row["verdict"] == "defect") for row in rows)
    assert {row["threshold"] for row in rows} == {transfer.load(artifact).manifest["metrics"]["threshold"]}
    assert {row["heat_map"] for row in rows} == {None}


def test_detect_prints_a_line_per_image(root: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a threshold of one's own, nothing is a defect."""
    capsys.readouterr()
    patches = str(root / "part" / "test" / "patch")
    assert main(["detect", str(artifact), patches, "--heat-maps", "none", "--threshold", "1e9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["good"] * 3
    assert lines[3] == "0 of 3 images called defective"


def test_detect_draws_a_heat_map_each(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One readable picture per image, also where two images have the same name."""
    for line in ("a", "b"):
        (tmp_path / line / "good").mkdir(parents=True)
        image = root / "part" / "test" / "patch" / "000.png"
        (tmp_path / line / "good" / "000.png").write_bytes(image.read_bytes())
    capsys.readouterr()
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), "--heat-maps", str(tmp_path / "maps"), "--json"]
    assert main(["detect", str(artifact), *arguments]) == 0
    pictures = [Path(row["heat_map"]) for row in json.loads(capsys.readouterr().out)]
    assert len(set(pictures)) == 2
    for picture in pictures:
        with Image.open(picture) as opened:
            assert np.asarray(opened.convert("L")).std() > 0


def test_prepare_makes_data_zip(root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Own images, at a size of one's own."""
    assert main(["prepare", "--root", str(root), "--category", "part", "mine", "--image-size", "16"]) == 0
    loaded = transfer.load("data")
    assert loaded.path == own_home / "transfer" / "data.zip"
    assert loaded.manifest["metrics"] == {"images": 26 + 20, "defective": 3}
    assert loaded.manifest["settings"]["image_size"] == 16
    assert "46 images of part, mine (3 defective), source own" in capsys.readouterr().out


def test_results_before_anything_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The way to a first row."""
    assert main(["results"]) == 0
    assert "Nothing has been measured yet" in capsys.readouterr().out


def test_too_few_good_images_names_the_number_needed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """⌈1/rate⌉ − 1: 19 for 5 %, 3 for 25 %, which four images are enough for."""
    common = ["padim", "--root", str(root), "--category", "few", *SMALL, "--out", str(tmp_path / "few.zip")]
    line = fails(capsys, "fit", *common)
    assert "a false-alarm rate of 0.05 needs at least 19 good images to calibrate on, but there are 4" in line
    assert not (tmp_path / "few.zip").exists()
    assert main(["fit", *common, "--false-alarm-rate", "0.25"]) == 0


def test_what_a_user_can_mend_is_one_line(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the thing and the way out, no traceback."""
    evaluate = ["evaluate", "padim", "--root", str(root), *SMALL]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"not an image")
    transfer.save(
        "data", {}, profile="quick", data_source="own", categories=[], settings={}, seed=0, path=tmp_path / "data.zip"
    )
    cases = [
        ([*evaluate, "--category", "prat"], "it holds few, mine, part"),
        ([*evaluate, "--category", "mine"], "no AUROC can be computed"),
        ([*evaluate, "--category", "part", "--backbone", "resnet19"], "'resnet19' is unknown"),
        ([*evaluate, "--category", "part", "--weights", "nowhere.pth"], "nowhere.pth"),
        ([*evaluate, "--category", "part", "--backbone", "resnet50", "--weights", "drawn"], "has no drawn weights"),
        ([*evaluate, "--category", "part", "--crop", "64"], "crop 64 is larger than image size 32"),
        ([*evaluate, "--category", "part", "--false-alarm-rate", "2"], "false-alarm rate"),
        ([*evaluate, "--category", "part", "--channels", "0"], "channels"),
        (["evaluate", "padim", "--category", "hazelnut", *SMALL], "hazelnut can be drawn by none"),
        (["evaluate", "padim", "--category", "bottle", "--source", "mvtec_ad"], "MVTEC_AD_ROOT"),
        (["detect", str(tmp_path / "nowhere.zip"), str(root)], "nowhere.zip is missing"),
        (["detect", str(artifact), str(tmp_path / "nowhere.png")], "nowhere.png does not exist"),
        (["detect", str(artifact), str(tmp_path / "empty")], "holds no image"),
        (["detect", str(artifact), str(tmp_path / "broken.png")], "broken.png cannot be decoded"),
        (["detect", str(tmp_path / "broken.png"), str(root)], "broken.png is damaged"),
        (["detect", str(tmp_path / "data.zip"), str(root)], "it holds none"),
        (["detect", str(artifact), str(root), "--category", "bolt"], "no PaDiM of bolt"),
        (["prepare", "--root", str(root), "--category", "prat"], "no category 'prat'"),
        (["prepare", "--root", str(tmp_path / "nowhere"), "--category", "part"], "nowhere does not exist"),
        (["prepare", "--root", str(root), "--category", "part", "--image-size", "-8"], "size"),
        (["prepare", "--profile", "fast"], "'fast' is unknown"),
        (["results", "--publish"], "nothing has been measured"),
        (["run", "--profile", "fast"], "'fast' is unknown"),
        (["run", "01"], "holds no notebooks"),
    ]
    wrong = []
    for arguments, words in cases:
        try:
            line = fails(capsys, *arguments)
        except Exception as problem:
            wrong.append(f"{' '.join(arguments[:4])} … {arguments[-1]}: {type(problem).__name__} {problem}")
        else:
            if words not in line:
                wrong.append(line)
    assert not wrong, "\n".join(wrong)


def test_a_report_that_cannot_be_written_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that does not exist is no reason for a traceback after minutes of work."""
    arguments = ["evaluate", "padim", "--root", str(root), "--category", "part", "--seeds", "0", *SMALL]
    line = fails(capsys, *arguments, "--json", str(tmp_path / "nowhere" / "report.json"))
    assert "report.json" in line


def test_a_damaged_record_is_one_line(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is named."""
    (own_home / "transfer" / "results").mkdir(parents=True)
    (own_home / "transfer" / "results" / "broken.json").write_text("{", encoding="utf-8")
    assert "broken.json" in fails(capsys, "results")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert COMMANDS[command][1:20] in capsys.readouterr().out


def test_interrupting_is_no_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 130, as shells have it."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "read_category", interrupt)
    assert main(["evaluate", "padim", "--root", str(root), "--category", "part"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "crop"),
    [
        ("evaluate", [], 224),  # the published protocol
        ("evaluate", ["--image-size", "128"], 128),
        ("evaluate", ["--image-size", "128", "--crop", "96"], 96),
        ("fit", ["--out", "x.zip"], 256),  # a product's border may be defective too
        ("fit", ["--out", "x.zip", "--crop", "224"], 224),
    ],
)
def test_only_the_published_protocol_crops(
    command: str, options: list[str], crop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the method, seen where the settings are made."""
    seen: list[int] = []

    def stop(arguments: argparse.Namespace, **how: bool) -> None:
        seen.append(method_settings(arguments, **how).crop)
        raise DataError("far enough")

    monkeypatch.setattr(f"mvtec_ad.commands.{command}.method_settings", stop)
    assert main([command, "padim", "--category", "bottle", *options]) == 2
    assert seen == [crop]
