"""The commands, in this process: what they write, what they print, and how they fail."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mvtec_ad import transfer
from mvtec_ad.__main__ import COMMANDS, main
from mvtec_ad.commands.options import SETTINGS, method_settings
from mvtec_ad.data import index
from mvtec_ad.errors import DataError
from mvtec_ad.methods.autoencoder import fitting
from mvtec_ad.results import measured
from mvtec_ad.settings import PRESETS, TypingSettings, default_settings

Maker = Callable[..., Path]
SMALL = ["--weights", "random", "--channels", "8", "--image-size", "32", "--sigma", "1"]
DRAWING = ["--steps", "30", "--image-size", "32", "--width", "4", "--latent", "8", "--false-alarm-rate", "0.25"]


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
        (["detect", str(artifact), str(root), "--category", "bolt"], "no model of bolt"),
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


# The methods that are trained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["autoencoder", "vae"])
def test_fit_detect_evaluate_without_a_backbone(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """The same three commands as for PaDiM: an artifact, a verdict each, a report and its record."""
    path, report = tmp_path / "mine.zip", tmp_path / "report.json"
    assert main(["fit", method, "--root", str(root), "--category", "mine", *DRAWING, "--out", str(path)]) == 0
    loaded = transfer.load(path)
    assert (loaded.manifest["stage"], loaded.manifest["categories"]) == (method, ["mine"])
    assert loaded.manifest["settings"]["variational"] == (method == "vae")
    assert loaded.manifest["settings"]["crop"] == 32
    good_scores = loaded.arrays(f"mine/{method}/0/model.safetensors")["good_scores"]
    # 10 of 20 are held out; ⌈11 · 0.75⌉ = 9
    assert good_scores.shape == (10,)
    assert loaded.manifest["metrics"]["threshold"] == pytest.approx(np.sort(good_scores)[8])

    capsys.readouterr()
    patches = str(root / "part" / "test" / "patch")
    maps = str(tmp_path / "maps")
    assert main(["detect", str(path), patches, "--method", method, "--heat-maps", maps, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in rows] == ["defect"] * 3
    assert {row["threshold"] for row in rows} == {loaded.manifest["metrics"]["threshold"]}
    assert all(Path(row["heat_map"]).is_file() for row in rows)

    where = ["--root", str(root), "--category", "part", "--seeds", "0", "4"]
    assert main(["evaluate", method, *where, *DRAWING, "--json", str(report)]) == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert (found["method"], found["backbone"], found["weights"]) == (method, None, None)
    assert found["seeds"] == found["settings"]["seeds"] == [0, 4]
    assert found["metrics"]["image_auroc"]["values"] == [1, 1]
    assert f"{method} on part (own): 2 seeds\n" in capsys.readouterr().out
    (kept,) = measured()
    assert {key: kept[key] for key in found} == found
    assert main(["results"]) == 0
    printed = capsys.readouterr().out
    assert f"part: {method}, loss mse" in printed
    assert "None" not in printed


def test_fit_of_patchcore(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same three commands."""
    small = ["--weights", "random", "--image-size", "32", "--sigma", "1", "--layers", "1", "2"]
    path = tmp_path / "mine.zip"
    assert main(["fit", "patchcore", "--root", str(root), "--category", "mine", *small, "--out", str(path)]) == 0
    assert transfer.load(path).manifest["stage"] == "patchcore"
    capsys.readouterr()
    assert main(["detect", str(path), str(root / "part" / "test" / "patch"), "--heat-maps", "none", "--json"]) == 0
    assert [row["verdict"] for row in json.loads(capsys.readouterr().out)] == ["defect"] * 3
    where = ["--root", str(root), "--category", "part", "--seeds", "0"]
    assert main(["evaluate", "patchcore", *where, *small]) == 0
    assert measured()[0]["metrics"]["image_auroc"]["mean"] == 1
    assert main(["results"]) == 0
    assert "part: patchcore, resnet18, random (seed 0), 10% coreset, 32 px" in capsys.readouterr().out


# Values that differ from every preset, where one more or half more would be none
OTHER = {
    "backbone": "resnet50",
    "weights": "nowhere.pth",
    "loss": "ssim",
    "map": "features",
    "score": "error",
    "corruption": "mask",
    "interpolation": "linear",
    "image_size": 320,
    "crop": 64,
    "seeds": (4, 5),
    "layers": (1, 3),
    "latent": 7,
}


def another(field: Field, preset: Any) -> Any:
    """A possible value of a setting that the preset does not have."""
    value = getattr(preset, field.name)
    found = OTHER.get(field.name, value + 1 if isinstance(value, int) else value)
    found = {("score", "loss"): "peak", ("crop", 64): 32}.get((field.name, value), found)  # AnoGAN's own
    found = found * 0.5 if isinstance(found, float) else found
    assert found != value, f"give {field.name} a value in OTHER"
    return found


def settings_of(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: str) -> Any:
    """What reaches the method, seen where the settings are made."""
    seen: list[Any] = []

    def stop(parsed: argparse.Namespace, **how: bool) -> None:
        seen.append(method_settings(parsed, **how))
        raise DataError("far enough")

    monkeypatch.setattr(f"mvtec_ad.commands.{command}.method_settings", stop)
    assert main([command, *arguments, "--category", "part", *(["--out", "x.zip"] if command == "fit" else [])]) == 2
    return seen[0]


@pytest.mark.parametrize("command", ["evaluate", "fit"])
@pytest.mark.parametrize(
    ("method", "preset"), [(method, preset) for method, presets in PRESETS.items() for preset in presets]
)
def test_every_option_reaches_the_settings(
    monkeypatch: pytest.MonkeyPatch, command: str, method: str, preset: str
) -> None:
    """Each alone, over the preset and without touching anything else; then all together."""
    chosen = PRESETS[method][preset]
    start = [method, "--preset", preset]
    base = settings_of(monkeypatch, command, *start)
    same_crop = chosen.crop if command == "evaluate" else chosen.image_size
    assert base == type(chosen)(**{**vars(chosen), "crop": same_crop})
    together: dict[str, Any] = {}
    options: list[str] = []
    for field in fields(chosen):
        if field.name not in SETTINGS:
            continue
        together[field.name] = another(field, chosen)
        values = together[field.name] if isinstance(together[field.name], tuple) else (together[field.name],)
        option = ["--" + field.name.replace("_", "-"), *map(str, values)]
        options += option
        found = vars(settings_of(monkeypatch, command, *start, *option))
        expected = {**vars(base), field.name: together[field.name]}
        if field.name == "image_size":
            expected["crop"] = together[field.name]
        assert found == expected, option
        assert type(found[field.name]) is type(together[field.name])
    found = settings_of(monkeypatch, command, *start, *options)
    assert {name: getattr(found, name) for name in together} == together


def test_every_described_option_is_a_setting() -> None:
    """None is left over from a setting that is gone; only what no run needs to choose has no option."""
    names = {field.name for method in PRESETS for field in fields(default_settings(method))}
    typing = {field.name for field in fields(TypingSettings)}
    assert set(SETTINGS) <= names | typing
    hidden = {"interpolation", "fit_fraction", "feature_scale", "neighbourhood", "projection", "variational"}
    hidden |= {"averaging", "encoder_rate", "inversion", "search_rate"}
    assert names - set(SETTINGS) == hidden
    assert typing - set(SETTINGS) == {"focus", "copies", "shift", "light", "mirror", "projection", "mixtures"}
    for method in PRESETS:
        own = {field.name for field in fields(default_settings(method))}
        assert {"image_size", "crop", "seeds"} <= own
        assert all(field.default is not MISSING for field in fields(default_settings(method)))


@pytest.mark.parametrize("command", ["evaluate", "fit"])
@pytest.mark.parametrize("method", PRESETS)
def test_every_method_explains_itself(command: str, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own settings with their meaning, and none of another's."""
    with pytest.raises(SystemExit) as left:
        main([command, method, "--help"])
    assert left.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    own = {field.name for field in fields(default_settings(method))}
    for name, text in SETTINGS.items():
        assert (f"--{name.replace('_', '-')} " in printed) == (name in own), name
        assert name not in own or text[:12] in printed, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "padim", "--steps", "3"], "--steps"),
        (["evaluate", "autoencoder", "--channels", "3"], "--channels"),
        (["fit", "patchcore", "--ridge", "1"], "--ridge"),
        (["fit", "magic"], "magic"),
        (["fit", "autoencoder", "--preset", "resnet18"], "resnet18"),
        (["evaluate", "vae", "--steps", "many"], "many"),
        (["evaluate"], "METHOD"),
    ],
    ids=" ".join,
)
def test_an_option_of_another_method_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not silently ignored."""
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--category", "part", "--out", "x.zip"][: None if arguments[0] == "fit" else -2])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert "--help" in line


# Interrupted training -----------------------------------------------------------------------------------------------

# Imports once, then forks a process for each line it reads. `where` says at which step the process kills itself, or
# at which file it does so: half written, or written and not yet in its place. Every step that is taken is noted.
NURSERY = """
import json, os, signal, sys
import torch
import torch._dynamo  # what an optimiser imports when it is made
from mvtec_ad import evaluation, transfer
from mvtec_ad.__main__ import main
from mvtec_ad.data import acquire, index, loading
from mvtec_ad.methods import experiment, model_artifact
model = __import__("mvtec_ad.methods.autoencoder.fitting", fromlist=["fitting"])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def work(home, where, arguments):
    os.environ["MVTEC_AD_HOME"] = home
    os.dup2(os.open(os.path.join(home, "out.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    kind, moment = where or ("never", None)
    rng_of, save, replace = model.rng_of, torch.save, os.replace

    def step_begins(seed, step):
        if (kind, moment) == ("step", step):
            die()
        with open(os.path.join(home, "steps.txt"), "a") as file:
            print(step, file=file)
        return rng_of(seed, step)

    def half(state, file):
        save(state, file)
        if (kind, moment) == ("half", len(state["losses"])):
            file.truncate(file.tell() // 2)
            file.flush()
            die()

    def put(old, new):
        if kind == "before" and str(new).endswith(moment):
            die()
        replace(old, new)

    model.rng_of, torch.save, os.replace = step_begins, half, put
    return main(arguments)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work(*json.loads(line))
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Callable[[Path, Any, list[str]], int]]:
    """Runs a command in a process of its own, which may be told to kill itself; returns its exit status."""
    command = [sys.executable, "-c", NURSERY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:

        def run(home: Path, where: Any, arguments: list[str]) -> int:
            home.mkdir(exist_ok=True)
            print(json.dumps([str(home), where, arguments]), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run
        process.stdin.close()
        process.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as POSIX does it")
@pytest.mark.parametrize(
    ("method", "options", "kills"),
    [
        (
            "autoencoder",
            ["--loss", "ssim"],
            [  # where it is killed, and the steps that were taken until then; a checkpoint every 50
                (("step", 37), range(37)),  # before the first checkpoint: from the start
                (("step", 170), range(170)),
                (("half", 200), range(150, 200)),  # the checkpoint of step 150 stays
                (("step", 230), range(150, 230)),
                (("before", ".checkpoint"), range(200, 250)),  # the last one, written but not in its place
                (("before", ".zip"), range(200, 250)),  # trained, and the artifact is not there yet
            ],
        ),
        (
            "vae",
            ["--corruption", "mask", "--patience", "1", "--rate", "0.01", "--beta", "2"],
            [(("step", 60), range(60)), (("half", 100), range(50, 100)), (("step", 51), range(50, 51))],
        ),
    ],
    ids=["autoencoder", "vae"],
)
def test_killed_and_started_again_it_fits_the_same_model(
    root: Path,
    tmp_path: Path,
    nursery: Callable[[Path, Any, list[str]], int],
    method: str,
    options: list[str],
    kills: list[tuple[tuple[str, Any], range]],
) -> None:
    """By SIGKILL, again and again, in one run: its members are those of a run that nothing disturbed, byte by byte."""
    small = ["--image-size", "32", "--width", "4", "--latent", "8", "--batch", "8", "--steps", "250"]
    command = ["fit", method, "--root", str(root), "--category", "mine", *small, *options]
    command += ["--false-alarm-rate", "0.25", "--out"]

    def steps(home: Path) -> list[int]:
        """Taken since it was last asked."""
        text = (home / "steps.txt").read_text() if (home / "steps.txt").exists() else ""
        (home / "steps.txt").unlink(missing_ok=True)
        return [int(line) for line in text.split()]

    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert nursery(calm, None, [*command, str(calm / "a.zip")]) == 0, (calm / "out.txt").read_text()
    whole = steps(calm)
    assert whole == list(range(len(whole)))
    assert len(whole) > max(taken.stop for _, taken in kills if taken.stop < 250)
    for where, taken in kills:
        assert nursery(rough, where, [*command, str(rough / "a.zip")]) == -9, (rough / "out.txt").read_text()
        assert steps(rough) == list(taken)
        assert not (rough / "a.zip").exists()
    assert nursery(rough, None, [*command, str(rough / "a.zip")]) == 0, (rough / "out.txt").read_text()
    assert steps(rough) == whole[kills[-1][1].stop // 50 * 50 :]

    one, other = transfer.load(calm / "a.zip"), transfer.load(rough / "a.zip")
    assert one.names == other.names
    for name in (f"mine/{method}/0/model.safetensors", f"mine/{method}/0/model.json"):
        assert one.read(name) == other.read(name), name
    assert one.manifest["members"] == other.manifest["members"]
    for home in (calm, rough):
        assert list((home / "transfer" / "checkpoints").iterdir()) == []


def test_a_damaged_checkpoint_is_one_line(
    root: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which file to remove; then it begins again. Ctrl+C in training is no traceback either."""
    command = ["fit", "autoencoder", "--root", str(root), "--category", "mine", *DRAWING, "--width", "1"]
    command += ["--steps", "110", "--out", str(tmp_path / "a.zip")]
    rng_of = fitting.rng_of

    def interrupt(seed: int, step: int) -> np.random.Generator:
        if step == 105:
            raise KeyboardInterrupt
        return rng_of(seed, step)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "rng_of", interrupt)
        assert main(command) == 130
    (checkpoint,) = (own_home / "transfer" / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    before = checkpoint.read_bytes()
    assert f"{checkpoint} cannot be read: remove it" in fails(capsys, *command)
    assert checkpoint.read_bytes() == before
    checkpoint.unlink()
    assert main(command) == 0
    assert not checkpoint.exists()
