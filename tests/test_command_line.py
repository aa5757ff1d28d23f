"""The commands, in this process: what they write, what they print, and how they fail."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad import artifacts, benchmark, cli
from mvtec_ad.benchmark.published import measured
from mvtec_ad.cli import COMMANDS, main
from mvtec_ad.commands import detect, evaluate
from mvtec_ad.config import Options
from mvtec_ad.data import index, loading
from mvtec_ad.errors import DataError
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.methods.padim import Padim
from mvtec_ad.training import Run

Maker = Callable[..., Path]
SMALL = ["--backbone", "resnet18", "--weights", "random", "--channels", "8", "--image-size", "32", "--sigma", "1"]
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


def test_fit_needs_good_images_alone(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The artifact says what it was fitted on; where the folder has no test images, and only there, it is said."""
    common = [*SMALL, "--root", str(root), "--out", str(tmp_path / "a.zip")]
    for category, missing in (("mine", True), ("part", False)):
        assert main(["fit", "padim", "--category", category, *common]) == 0
        assert ("No AUROC can be computed" in capsys.readouterr().out) == missing
    loaded = artifacts.load(artifact)
    assert (loaded.manifest["stage"], loaded.manifest["data_source"]) == ("padim", "own")
    assert loaded.manifest["categories"] == ["mine"]
    assert loaded.manifest["metrics"]["good_images"] == 20
    assert loaded.json("mine/padim/0/model.json")["threshold"]["false_alarm_rate"] == 0.05
    arrays = loaded.arrays("mine/padim/0/model.safetensors")
    # 20 left-out scores at 5 %: ⌈21 · 0.95⌉ = 20, so the largest of them
    assert loaded.manifest["metrics"]["threshold"] == pytest.approx(arrays["good_scores"].max())


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
    assert {row["threshold"] for row in rows} == {artifacts.load(artifact).manifest["metrics"]["threshold"]}
    assert {row["heat_map"] for row in rows} == {None}
    arguments[-1:] = ["--threshold", "1e9"]  # of one's own: nothing is a defect; a line an image
    assert main(["detect", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["good"] * 4 + ["0"]
    assert lines[4] == "0 of 4 images called defective"


def test_heat_maps_never_share_a_file(
    root: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A readable picture each, even where an image has the name that another's picture is given instead of its own."""
    image = (root / "part" / "test" / "patch" / "000.png").read_bytes()
    paths = [tmp_path / name / "000.png" for name in ("0002_good", "a/good", "b/good", "c/good")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(image)
    capsys.readouterr()
    maps = tmp_path / "maps"
    assert main(["detect", str(artifact), *map(str, paths), "--heat-maps", str(maps), "--json"]) == 0
    named = [row["heat_map"] for row in json.loads(capsys.readouterr().out)]
    assert len(set(named)) == 4
    assert sorted(named) == sorted(map(str, maps.iterdir()))
    for name in named:
        with Image.open(name) as opened:
            assert np.asarray(opened.convert("L")).std() > 0


def replace_read_table(monkeypatch: pytest.MonkeyPatch, instead: Callable[..., Any]) -> None:
    """In every command that reads a table of images."""
    for command in (cli, evaluate):
        monkeypatch.setattr(command, "read_table", instead)


@pytest.fixture
def six(root: Path, tmp_path: Path) -> Path:
    """A folder of six images, the fourth of which cannot be read."""
    folder = tmp_path / "six"
    folder.mkdir()
    for number, source in enumerate(sorted((root / "part" / "test").rglob("*.png"))):
        (folder / f"{number}.png").write_bytes(b"no image" if number == 3 else source.read_bytes())
    return folder


@pytest.mark.parametrize("as_json", [False, True])
def test_detect_speaks_before_it_has_read_everything(
    six: Path, artifact: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images at a time: before the next are read, these are judged, printed and drawn."""
    maps, progress, printed = six.parent / "maps", [], ""
    read = loading.load_readable

    def watched(paths: list[Path], *sizes: int) -> Any:
        nonlocal printed
        printed += capsys.readouterr().out
        names = [path.name for path in six.iterdir() if path.name in printed]
        progress.append((len(paths), len(names), len(list(maps.glob("*.png")))))
        return read(paths, *sizes)

    monkeypatch.setattr(loading, "load_readable", watched)
    monkeypatch.setattr(detect, "AT_ONCE", 2)
    command = ["detect", str(artifact), str(six), "--heat-maps", str(maps), *(["--json"] if as_json else [])]
    assert main(command) == 2  # for the one that cannot be read, after all others
    assert progress == [(2, 0, 0), (2, 2, 2), (2, 4, 3)]
    printed += capsys.readouterr().out
    if as_json:
        rows = json.loads(printed)
        assert [row["verdict"] == "unreadable" for row in rows] == [False, False, False, True, False, False]
        assert [row["heat_map"] is None for row in rows] == [row["verdict"] == "unreadable" for row in rows]
    else:
        assert printed.splitlines()[-1].endswith(f"of 6 images called defective, 1 unreadable; heat maps in {maps}/")


@pytest.mark.parametrize("animated", [False, True])
def test_detect_holds_few_images_and_maps(
    six: Path, artifact: Path, tmp_path: Path, animated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it reads the next ones, those before the last are gone; of an animation the highest scores are kept."""
    images, maps, alive = [], [], []
    read, score = loading.load_readable, Padim.score_seen

    def living(references: list[weakref.ref]) -> int:
        return sum(reference() is not None for reference in references)

    def watched_read(*arguments: Any) -> Any:
        gc.collect()
        alive.append((living(images), living(maps)))
        pixels, problems = read(*arguments)
        images.append(weakref.ref(pixels))
        return pixels, problems

    def watched_score(self: Padim, seen: Any) -> Any:
        scores = score(self, seen)
        maps.append(weakref.ref(scores.maps))
        return scores

    monkeypatch.setattr(loading, "load_readable", watched_read)
    monkeypatch.setattr(Padim, "score_seen", watched_score)
    monkeypatch.setattr(detect, "AT_ONCE", 1)
    monkeypatch.setattr(detect, "MOST_FRAMES", 3)
    target = tmp_path / "a.gif"
    more = ["--animation", str(target)] if animated else []
    assert main(["detect", str(artifact), str(six), "--heat-maps", str(tmp_path / "maps"), *more]) == 2
    assert len(alive) == 6
    assert max(count for pair in alive for count in pair) <= 1
    assert target.exists() == animated
    if animated:
        with Image.open(target) as opened:
            assert opened.n_frames == 3  # of 5


def test_the_first_verdict_comes_soon() -> None:
    """Not after 32 images, of which a large model judges two a second."""
    assert [part.stop - part.start for part in detect.growing(100, detect.AT_ONCE)] == [4, 8, 16, 32, 32, 8]
    assert [(part.start, part.stop) for part in detect.growing(5, detect.AT_ONCE)] == [(0, 4), (4, 5)]
    assert list(detect.growing(0, detect.AT_ONCE)) == []


def test_json_stays_whole_where_detect_breaks_off(
    six: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody interrupts at the third picture: a list of what was judged by then; a full disk costs no verdict."""
    command = ["detect", str(artifact), str(six), "--heat-maps", str(six.parent / "maps"), "--json"]
    monkeypatch.setattr(detect, "AT_ONCE", 2)
    for problem, status, count in ((OSError(28, "No space left on device"), 2, 6), (KeyboardInterrupt(), 130, 4)):
        written = []

        def third_fails(descriptor: int, problem: BaseException = problem, written: list[int] = written) -> None:
            written.append(descriptor)
            if len(written) == 3:
                raise problem

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", third_fails)
            assert main(command) == status
        names = [Path(row["image"]).name for row in json.loads(capsys.readouterr().out)]
        assert names == [f"{number}.png" for number in range(count)]


def files_of(folder: Path) -> dict[str, bytes]:
    """Name and content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def oddly_named(root: Path, tmp_path: Path) -> Path:
    """A folder of images whose names are no plain words."""
    (tmp_path / "new").mkdir()
    long = "L" * 239
    names = ["$12_$", r"a$\frac{$", "写真🔩", "two\nlines\x1b[31m", os.fsdecode(b"a\xff\xfe"), f"{long}1", f"{long}2"]
    for name in names:
        content = (root / "mine" / "train" / "good" / "000.png").read_bytes()
        (tmp_path / "new" / f"{name}.png").write_bytes(content)
    return tmp_path / "new"


def test_any_name_gets_its_verdict_and_its_heat_map(
    oddly_named: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, whatever is in the name; pictures under short names, none twice; the JSON has the name's bytes."""
    command = ["detect", str(artifact), str(oddly_named), "--heat-maps", str(tmp_path / "maps")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 + 1
    assert any(r"two\nlines\x1b[31m" in line for line in lines)
    assert len(list((tmp_path / "maps").iterdir())) == 7
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["image"] for row in rows) == sorted(map(str, oddly_named.iterdir()))
    assert {row["heat_map"] for row in rows} == {str(path) for path in (tmp_path / "maps").iterdir()}


def test_a_heat_map_never_replaces_a_file_of_the_users(
    root: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor a link; what an earlier run drew is replaced, and is no image to be judged, wherever it lies."""
    folder = tmp_path / "good"
    folder.mkdir()
    for name in ("000", "good_000", "good_good_000"):
        (folder / f"{name}.png").write_bytes((root / "mine" / "train" / "good" / "001.png").read_bytes())
    (folder / "0000_good_000.png").symlink_to("nowhere")
    (folder / "good_good_good_000.png").write_text("no image at all")
    before = files_of(folder)
    monkeypatch.chdir(tmp_path)
    for place in ("good", ".", str(folder), "heat_maps"):
        command = ["detect", str(artifact), "good", *(["--heat-maps", place] if place != "heat_maps" else [])]
        for _ in range(2):
            assert main(command) == 2
            words = capsys.readouterr().out
            assert re.search("of 4 images called defective, 1 unreadable; heat maps in", words)
            assert ("good_000.png is no heat map, it was left as it is" in words) == (Path(place).name == "good")
            after = files_of(folder)
            assert {name: after[name] for name in before} == before
            assert len(after) == len(before) + 3
    assert (folder / "0000_good_000.png").is_symlink()
    assert len(files_of(tmp_path / "heat_maps")) == 3


def test_an_output_never_takes_the_name_of_an_image(
    root: Path, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file to write has its own suffix, so that no image can be named by a slip."""
    image = str(root / "part" / "test" / "good" / "000.png")
    before = files_of(root)
    known = ["--root", str(root), "--category", "part", *SMALL]
    for command in (
        ["detect", str(artifact), image, "--animation", image],
        ["detect", str(root), image, "--page", image],
        ["evaluate", "padim", *known, "--json", image],
        ["prepare", *known[:4], "--out", image],
        ["fit", "padim", *known, "--out", image],
    ):
        assert "ends in ." in fails(capsys, *command)
    assert files_of(root) == before


def child(*arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
    """A command as a process of its own, and its environment."""
    paths = {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    return [sys.executable, "-m", "mvtec_ad", *arguments], {**os.environ, **paths, **environment}


@pytest.mark.parametrize(("command", "encoding"), [("help", "cp1252"), ("detect", "ascii")])
def test_a_console_of_another_alphabet(command: str, encoding: str, oddly_named: Path, artifact: Path) -> None:
    """What it lacks is printed as an escape."""
    judge = ["detect", str(artifact), str(oddly_named), "--heat-maps", "none"]
    arguments = ["fit", "f_anogan", "--help"] if command == "help" else judge
    call, environment = child(*arguments, PYTHONIOENCODING=encoding)
    ended = subprocess.run(call, env=environment, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (rb"\u03ba" if command == "help" else rb"\u5199\u771f") in ended.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["results"]])
def test_a_reader_who_goes_ends_it_quietly(arguments: list[str]) -> None:
    """As `| head` does."""
    call, environment = child(*arguments)
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(call, env=environment, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever command met it: the file, the reason and the way out."""

    def refuse(_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/some/place")

    monkeypatch.setitem(COMMANDS, "results", (*COMMANDS["results"][:2], refuse))
    line = fails(capsys, "results")
    assert "/some/place cannot be used (Permission denied): check it and its permissions" in line


def test_prepare_makes_data_zip(root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Own images, at a size of one's own."""
    assert main(["prepare", "--root", str(root), "--category", "part", "mine", "--image-size", "16"]) == 0
    loaded = artifacts.load("data")
    assert loaded.path == own_home / "transfer" / "data.zip"
    assert loaded.manifest["metrics"] == {"images": 26 + 20, "defective": 3}
    assert loaded.manifest["options"]["image_size"] == 16
    assert "46 images of part, mine (3 defective), source own" in capsys.readouterr().out


def test_too_few_good_images_names_the_number_needed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """⌈1/rate⌉ − 1: 19 for 5 %, 3 for 25 %, which four images are enough for."""
    common = ["padim", "--root", str(root), "--category", "few", *SMALL, "--out", str(tmp_path / "few.zip")]
    line = fails(capsys, "fit", *common)
    assert "a false-alarm rate of 0.05 needs at least 19 good images to calibrate on, but there are 4" in line
    assert not (tmp_path / "few.zip").exists()
    assert main(["fit", *common, "--false-alarm-rate", "0.25"]) == 0


EVALUATE = ["evaluate", "padim", "--category", "part", "--root", "{root}", *SMALL]


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("'resnet19' is unknown", [*EVALUATE, "--backbone", "resnet19"]),
        ("has no synthetic weights", [*EVALUATE, "--backbone", "resnet50", "--weights", "synthetic"]),
        ("channels", [*EVALUATE, "--channels", "0"]),
        ("seed 0 is given 2 times", [*EVALUATE, "--seeds", "0", "0"]),
        ("hazelnut can be drawn by none", ["evaluate", "padim", "--category", "hazelnut", *SMALL]),
        ("MVTEC_AD_ROOT", ["evaluate", "padim", "--category", "bottle", "--source", "mvtec_ad"]),
        ("it holds none", ["detect", "{home}/data.zip", "{root}"]),
        ("no category 'prat'", ["prepare", "--root", "{root}", "--category", "prat"]),
        ("nowhere does not exist", ["prepare", "--root", "{home}/nowhere", "--category", "part"]),
        ("size", ["prepare", "--root", "{root}", "--category", "part", "--image-size", "-8"]),
        ("'fast' is unknown", ["prepare", "--profile", "fast"]),
        ("nothing has been measured", ["results", "--publish"]),
        ("'fast' is unknown", ["run", "--profile", "fast"]),
        ("holds no notebooks", ["run", "01"]),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    words: str, arguments: list[str], root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the thing and the way out, no traceback; images, artifacts: test_broken_input.py."""
    about = {"profile": "quick", "data_source": "own", "categories": [], "options": {}, "seed": 0}
    artifacts.save("data", {}, **about, path=own_home / "data.zip")
    assert words in fails(capsys, *(argument.format(root=root, home=own_home) for argument in arguments))


def test_what_cannot_be_written_is_said_before_any_work(
    root: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option that names a file or a folder to write: a folder or a file in its way is no reason for minutes."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    folder, below = str(tmp_path / "folder"), str(tmp_path / "file" / "new.zip")
    measure = ["evaluate", "padim", "--root", str(root), "--category", "part", *SMALL]
    fit = ["fit", "padim", "--root", str(root), "--category", "mine", *SMALL]
    image = str(root / "mine" / "train" / "good" / "003.png")
    (tmp_path / "folder.zip").mkdir()
    replace_read_table(monkeypatch, lambda *_, **__: pytest.fail("work before the check"))
    for arguments, words in (
        ([*measure, "--json", folder], "is a folder"),
        ([*measure, "--json", below], "is a file"),
        ([*fit, "--out", str(tmp_path / "folder.zip")], "is a folder"),
        ([*fit, "--out", below], "is a file"),
        (["prepare", "--root", str(root), "--category", "part", "--out", folder], "is a folder"),
        (["detect", str(artifact), image, "--heat-maps", str(tmp_path / "file")], "is a file"),
        (["detect", str(artifact), image, "--animation", folder], "is a folder"),
        (["detect", folder, image, "--page", folder], "is a folder"),
    ):
        assert words in fails(capsys, *arguments)
    assert (tmp_path / "file").read_text() == "mine"


def test_evaluate_looks_at_all_files_before_it_fits(
    make_category: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test image, a mask, or the folder of records that cannot be written must cost no hours."""
    root = make_category(tmp_path / "images", "part", train=20, test_good=3, defects={"patch": 3}, size=32)
    monkeypatch.setattr(Padim, "fit_batches", lambda *_: pytest.fail("fitted"))
    measure = ["evaluate", "padim", "--root", str(root), "--category", "part", *SMALL, "--seeds", "0"]
    for name in ("ground_truth/patch/000_mask.png", "test/good/000.png"):
        (root / "part" / name).write_bytes(b"no image")
        assert f"{name} cannot be decoded" in fails(capsys, *measure)
    monkeypatch.setattr(os, "access", lambda place, _: Path(place).name != "transfer")
    replace_read_table(monkeypatch, lambda *_, **__: pytest.fail("read"))
    assert "transfer cannot be written (permission denied)" in fails(capsys, *measure)


@pytest.mark.parametrize("command", ["prepare", "results", "evaluate", "fit", "detect", "run"])
def test_a_home_that_cannot_be_made_is_one_line(
    command: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file lies where the home should be; each command names the folder and the way out."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "file" / "home"))
    images = ["--root", str(root), "--category", "part"]
    more = {
        "prepare": images,
        "evaluate": ["padim", *images, *SMALL, "--seeds", "0"],
        "fit": ["autoencoder", *images, *DRAWING, "--out", str(tmp_path / "a.zip")],
        "detect": [str(tmp_path), str(root / "mine")],
    }
    line = fails(capsys, command, *more.get(command, []))
    if command != "run":  # which finds no notebooks there
        assert "MVTEC_AD_HOME" in line


@pytest.mark.parametrize("name", ["part/", "./part"])
def test_a_completed_category_is_the_category(name: str, root: Path, own_home: Path, tmp_path: Path) -> None:
    """Tab completion writes a slash; the record lies where `results` looks."""
    images = ["--root", str(root), "--category", name]
    assert main(["evaluate", "padim", *images, *SMALL, "--seeds", "0"]) == 0
    assert [report["category"] for report in measured()] == ["part"]
    assert main(["fit", "padim", *images, *SMALL, "--out", str(tmp_path / "a.zip")]) == 0
    assert artifacts.load(tmp_path / "a.zip").manifest["categories"] == ["part"]


@pytest.mark.parametrize("command", ["evaluate", "fit", "prepare"])
@pytest.mark.parametrize("name", ["../part", "{root}/part", "a/b", "", ".."])
def test_a_category_is_one_plain_name(
    command: str, name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anything else would leave the folders that are made for it."""
    method = [] if command == "prepare" else ["padim", *SMALL]
    out = ["--out", str(tmp_path / "a.zip")] if command == "fit" else []
    line = fails(capsys, command, *method, "--root", str(root / "part"), "--category", name.format(root=root), *out)
    assert "--root" in line
    assert not (tmp_path / "a.zip").exists()


def test_results_of_nothing_and_of_a_damaged_record(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The way to a first row; the file is named."""
    assert main(["results"]) == 0
    assert "Nothing has been measured yet" in capsys.readouterr().out
    (own_home / "transfer" / "results").mkdir(parents=True)
    (own_home / "transfer" / "results" / "broken.json").write_text("{", encoding="utf-8")
    assert "broken.json" in fails(capsys, "results")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert COMMANDS[command][0][1:20] in capsys.readouterr().out


def test_interrupting_is_no_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 130, as shells have it."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "read_category", interrupt)
    assert main(["evaluate", "padim", "--root", str(root), "--category", "part"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "fit"])
@pytest.mark.parametrize(
    ("options", "own", "published"),
    [
        ("", 256, 224),  # a product's border may be defective too
        ("--preset resnet18", 224, 224),
        ("--image-size 128", 128, 128),
        ("--image-size 128 --crop 96", 96, 96),
        ("--crop 224", 224, 224),
    ],
)
def test_what_is_measured_is_what_is_saved(
    command: str, options: str, own: int, published: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both commands look at the same part of an image: the whole of the user's own, elsewhere what was published."""
    seen: list[int] = []

    def stop(detector: Padim, *_: Any, **__: Any) -> None:
        seen.append(detector.crop)
        raise DataError("far enough")

    monkeypatch.setattr(benchmark, "run", stop)
    monkeypatch.setattr(Padim, "fit", stop)
    rows = {"category": "part", "split": "train", "label": 0, "image_path": [f"{n}.png" for n in range(30)]}
    end = ["--category", "part", *(["--out", str(tmp_path / "x.zip")] if command == "fit" else [])]
    for source in ("own", "mvtec_ad", "synthetic"):
        replace_read_table(monkeypatch, lambda *_, source=source, **__: (pd.DataFrame(rows), source))
        assert main([command, "padim", *options.split(), *end]) == 2
    assert seen == [own, published, published]


def detector_made_by(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: str) -> dict[str, Any]:
    """The options of the detector that a command makes."""
    seen: list[Options] = []

    def stop(parsed: Any, *_: Any, **__: Any) -> None:
        raise DataError("far enough")

    def check(own: Options) -> None:
        seen.append(own)

    replace_read_table(monkeypatch, stop)
    kind = detector_class(arguments[0])
    with monkeypatch.context() as patch:
        patch.setattr(kind, "check", check)
        assert main([command, *arguments, "--category", "part", *(["--out", "x.zip"] if command == "fit" else [])]) == 2
    return seen[-1].options()


# The methods that are trained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "held_out", "rank"),
    [  # of 20 good images; ⌈(n + 1) · 0.75⌉ is the rank of the threshold among their scores
        ("autoencoder", DRAWING, 10, 9),
        ("vae", DRAWING, 10, 9),
        ("patchcore", [*SMALL[:4], *SMALL[6:], "--layers", "1", "2", "--false-alarm-rate", "0.25"], 20, 16),
    ],
)
def test_fit_detect_evaluate(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, options: list, held_out: int, rank: int
) -> None:
    """The same three commands as for PaDiM: an artifact, a verdict each, a report and its record."""
    path, report = tmp_path / "mine.zip", tmp_path / "report.json"
    assert main(["fit", method, "--root", str(root), "--category", "mine", *options, "--out", str(path)]) == 0
    loaded = artifacts.load(path)
    assert (loaded.manifest["stage"], loaded.manifest["categories"]) == (method, ["mine"])
    assert loaded.manifest["options"]["crop"] == 32
    good_scores = loaded.arrays(f"mine/{method}/0/model.safetensors")["good_scores"]
    assert good_scores.shape == (held_out,)
    assert loaded.manifest["metrics"]["threshold"] == pytest.approx(np.sort(good_scores)[rank - 1])

    capsys.readouterr()
    patches, maps = str(root / "part" / "test" / "patch"), str(tmp_path / "maps")
    assert main(["detect", str(path), patches, "--method", method, "--heat-maps", maps, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in rows] == ["defect"] * 3
    assert {row["threshold"] for row in rows} == {loaded.manifest["metrics"]["threshold"]}
    assert all(Path(row["heat_map"]).is_file() for row in rows)

    where = ["--root", str(root), "--category", "part", "--seeds", "0", "4"]
    assert main(["evaluate", method, *where, *options, "--json", str(report)]) == 0
    measured_now = json.loads(report.read_text(encoding="utf-8"))
    network = ("resnet18", "random (seed 0)") if method == "patchcore" else (None, None)
    assert (measured_now["method"], measured_now["backbone"], measured_now["weights"]) == (method, *network)
    assert measured_now["seeds"] == [0, 4]
    assert measured_now["metrics"]["image_auroc"]["values"] == [1, 1]
    words = "resnet18, random (seed 0), " if method == "patchcore" else ""
    assert f"{method} on part (own): {words}2 seeds\n" in capsys.readouterr().out
    (record,) = measured()
    assert {key: record[key] for key in measured_now} == measured_now
    assert main(["results"]) == 0
    printed = capsys.readouterr().out
    assert f"part: {method}" in printed
    assert "None" not in printed


def test_a_method_without_maps_is_judged_without_pictures(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DN2 looks at images as a whole; who wants an animation of its maps is told that there is none."""
    path, patches = tmp_path / "mine.zip", str(root / "part" / "test" / "patch")
    small = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32"]
    assert main(["fit", "knn", "--root", str(root), "--category", "mine", *small, "--out", str(path)]) == 0
    capsys.readouterr()
    command = ["detect", str(path), patches, "--heat-maps", str(tmp_path / "maps"), "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["verdict"], row["heat_map"]) for row in rows] == [("defect", None)] * 3
    assert not (tmp_path / "maps").exists()
    line = fails(capsys, *command, "--animation", str(tmp_path / "a.gif"))
    assert "a.gif is not written: knn has no anomaly map to show" in line


def another(own: Field, options: dict[str, Any]) -> Any:
    """A possible value of an option that the preset does not have."""
    value = options[own.name]
    if isinstance(value, bool):
        return not value
    if own.metadata["among"]:
        found = tuple(own.metadata["among"][:1]) if isinstance(value, list) else own.metadata["among"][0]
        return found if found != value else own.metadata["among"][1]
    if isinstance(value, str):
        return {"backbone": "resnet50", "weights": "nowhere.pth"}[own.name]
    return 0.5 if value is None else value + 1 if isinstance(value, int) else value * 0.5


CASES = [(method, preset) for method in METHODS for preset in detector_class(method).PRESETS]


@pytest.mark.parametrize(("method", "preset"), CASES)
def test_every_option_reaches_the_detector(monkeypatch: pytest.MonkeyPatch, method: str, preset: str) -> None:
    """All at once, over the preset; without any, the preset as it is."""
    kind, start = detector_class(method), [method, "--preset", preset]
    base = kind(**kind.PRESETS[preset]).options()
    assert detector_made_by(monkeypatch, "evaluate", *start) == base
    assert detector_made_by(monkeypatch, "fit", *start) == base
    wanted: dict[str, Any] = {own.name: another(own, base) for own in kind.option_fields()}
    flags: list[str] = []
    for name, value in wanted.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    found = detector_made_by(monkeypatch, "fit", *start, *flags)
    assert found == {name: list(value) if isinstance(value, tuple) else value for name, value in wanted.items()}


@pytest.mark.parametrize("command", ["evaluate", "fit"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_itself(command: str, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own options with their meaning, and none of another's."""
    with pytest.raises(SystemExit) as left:
        main([command, method, "--help"])
    assert left.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    own = {one.name: one.metadata["help"] for one in detector_class(method).option_fields()}
    for other in METHODS:
        for one in detector_class(other).option_fields():
            flag = f"--{one.name.replace('_', '-')}"
            assert (re.search(rf"{flag}[ ,\]]", printed) is not None) == (one.name in own), flag
    for name, text in own.items():
        assert text[:12] in printed, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "padim", "--steps", "3"], "--steps"),
        (["evaluate", "autoencoder", "--channels", "3"], "--channels"),
        (["fit", "patchcore", "--ridge", "1"], "--ridge"),
        (["fit", "magic"], "magic"),
        (["fit", "autoencoder", "--preset", "resnet18"], "resnet18"),
        (["evaluate", "vae", "--steps", "many"], "many"),
        (["evaluate", "padim", "patchcore", "--channels", "3"], "--channels"),
        (["fit", "padim", "--seeds", "3", "4"], "--seeds"),  # one model has one seed
        (["backbone", "--until", "0"], "must be 1 or more"),
        (["evaluate"], "METHOD"),
    ],
    ids=" ".join,
)
def test_an_option_of_another_method_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not silently ignored."""
    more = {"fit": ["--category", "part", "--out", "x.zip"], "evaluate": ["--category", "part"]}
    with pytest.raises(SystemExit) as left:
        main([*arguments, *more.get(arguments[0], [])])
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
from mvtec_ad import artifacts, metrics
from mvtec_ad.cli import main
from mvtec_ad.data import sources, index, loading
from mvtec_ad.methods import autoencoder
from mvtec_ad.training import Run

autoencoder.EVERY = 10

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def work(home, where, arguments):
    os.environ["MVTEC_AD_HOME"] = home
    os.dup2(os.open(os.path.join(home, "out.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    kind, moment = where or ("never", None)
    rng, save, replace = Run.rng, torch.save, os.replace

    def step_begins(run, step, *more):
        if (kind, moment) == ("step", step):
            die()
        with open(os.path.join(home, "steps.txt"), "a") as file:
            print(step, file=file)
        return rng(run, step, *more)

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

    Run.rng, torch.save, os.replace = step_begins, half, put
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
            [  # where it is killed, and the steps that were taken until then; a checkpoint every 10
                (("step", 7), range(7)),  # before the first checkpoint: from the start
                (("step", 34), range(34)),
                (("half", 40), range(30, 40)),  # the checkpoint of step 30 stays
                (("step", 46), range(30, 46)),
                (("before", ".checkpoint"), range(40, 50)),  # the last one, written but not in its place
                (("before", ".zip"), range(40, 50)),  # trained, and the artifact is not there yet
            ],
        ),
        (
            "vae",
            ["--corruption", "mask", "--patience", "1", "--lr", "0.01", "--beta", "2"],
            [(("step", 12), range(12)), (("half", 20), range(10, 20)), (("step", 11), range(10, 11))],
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
    small = ["--image-size", "32", "--width", "4", "--latent", "8", "--batch-images", "8", "--steps", "50"]
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
    assert len(whole) > max(taken.stop for _, taken in kills if taken.stop < 50)
    for where, taken in kills:
        assert nursery(rough, where, [*command, str(rough / "a.zip")]) == -9, (rough / "out.txt").read_text()
        assert steps(rough) == list(taken)
        assert not (rough / "a.zip").exists()
    assert nursery(rough, None, [*command, str(rough / "a.zip")]) == 0, (rough / "out.txt").read_text()
    assert steps(rough) == whole[kills[-1][1].stop // 10 * 10 :]

    one, other = artifacts.load(calm / "a.zip"), artifacts.load(rough / "a.zip")
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
    rng = Run.rng

    def interrupt(run: Run, step: int, *more: int) -> np.random.Generator:
        if step == 105:
            raise KeyboardInterrupt
        return rng(run, step, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "rng", interrupt)
        assert main(command) == 130
    (checkpoint,) = (own_home / "transfer" / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    before = checkpoint.read_bytes()
    assert f"{checkpoint} cannot be read: remove it" in fails(capsys, *command)
    assert checkpoint.read_bytes() == before
    checkpoint.unlink()
    assert main(command) == 0
    assert not checkpoint.exists()
