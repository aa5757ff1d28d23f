"""`update`, `forget`, `check --model` and `detect --tile`, in this process: what they write, print and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mvtec_ad import artifacts, metrics
from mvtec_ad.backbones import load_backbone
from mvtec_ad.cli import main
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspection.suspects import suspects
from mvtec_ad.methods import load_model
from mvtec_ad.methods.knn import Knn
from mvtec_ad.methods.padim import Padim

Maker = Callable[..., Path]
Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
Write = Callable[[Path, np.ndarray], Path]
SMALL = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--sigma", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_category: Maker, draw: Draw, write_image: Write) -> Path:
    """`part` with 25 good images; `new`, six good ones; `odd`, these and two defects; the models of two methods."""
    folder = tmp_path_factory.mktemp("living")
    make_category(folder, "part", train=25, test_good=0, defects={}, size=32)
    generator = np.random.default_rng(7)
    for name, defects in (("new", (False,) * 6), ("odd", (False,) * 3 + (True,) * 2)):
        for number, defect in enumerate(defects):
            write_image(folder / name / f"{number}.png", draw(generator, 32, defect)[0])
    where = ["--root", str(folder), "--category", "part", *SMALL]
    assert main(["fit", "padim", *where, "--channels", "8", "--out", str(folder / "padim.zip")]) == 0
    assert main(["fit", "patchcore", *where, "--coreset", "0.5", "--out", str(folder / "patchcore.zip")]) == 0
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must exit with 2, and return its one line on stderr, without bars."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mvtec-ad ")]
    return line.removeprefix(f"mvtec-ad {arguments[0]}: ")


@pytest.mark.parametrize("method", ["padim", "patchcore"])
def test_update_and_forget_leave_a_chain(
    method: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each artifact names all that it came from, and has the threshold of its scores at the promised rate."""
    first, second, third = folder / f"{method}.zip", tmp_path / "more.zip", tmp_path / "less.zip"
    assert main(["update", str(first), str(folder / "new"), "--out", str(second)]) == 0
    assert f"{second}: 6 images added to 25; threshold " in capsys.readouterr().out
    forget = ["forget", str(second), str(folder / "part/train/good/003.png"), "--out", str(third)]
    if method == "patchcore":
        assert "there may be holes, and good images would be flagged: give --repair GOOD/" in fails(capsys, *forget)
        forget += ["--repair", str(folder / "part/train/good")]  # the forgotten image among them
    assert main(forget) == 0
    out = capsys.readouterr().out
    assert f"{third}: 1 images forgotten of 31; threshold " in out
    assert f"{30 if method == 'padim' else 6} of its 30 scores are those of the earlier model" in out
    chain = [artifacts.load(path) for path in (first, second, third)]
    for number, artifact in enumerate(chain):
        names = [{"name": item.path.name, "sha256": item.sha256} for item in chain[:number]]
        assert artifact.manifest["inputs"] == names
    detector, description = load_model(chain[2])
    threshold = description["threshold"]
    assert threshold == {"value": metrics.calibrated(detector.good_scores, 0.05), "false_alarm_rate": 0.05}
    assert (len(detector.hashes), len(detector.good_scores), description["category"]) == (30, 30, "part")
    measured = chain[1].manifest["metrics"]
    assert (measured["change"], measured["images"], measured["scores_recomputed"]) == ("update", 6, 6)


def test_defects_among_the_new_images_are_refused_left_out_or_taken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, oddest first; nothing is written until someone has looked."""
    target = tmp_path / "more.zip"
    words = ["update", folder / "padim.zip", folder / "odd", "--out", target]
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    printed = capsys.readouterr()
    listed = [line.split()[-1] for line in printed.out.splitlines() if line.startswith("suspect")]
    assert sorted(listed) == [str(folder / "odd" / name) for name in ("3.png", "4.png")]
    assert "2 of 5 new images do not look like the good ones, nothing is written: look at them" in printed.err
    assert not target.exists()
    for choice, count in (("leave-out", 28), ("take", 30)):
        assert main([*map(str, words), "--suspects", choice]) == 0
        assert len(load_model(target)[0].hashes) == count
    assert main(["forget", str(target), str(folder / "odd/4.png"), "--out", str(tmp_path / "b.zip")]) == 0
    assert "none of the 2 new images looks good" in fails(
        capsys, *words[:2], folder / "odd/3.png", folder / "odd/4.png", "--out", target, "--suspects", "leave-out"
    )


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, and the model stays."""
    model, before = folder / "padim.zip", (folder / "padim.zip").read_bytes()
    good, new = folder / "part/train/good", folder / "new"
    for words, expected in (
        (["update", model, new, "--out", model], "is the model itself: give another name, so that you can go back"),
        (["update", model, new, "--out", tmp_path / "a.txt"], "is no artifact: give a name that ends in .zip"),
        (["update", model, good, "--out", tmp_path / "a.zip"], "the model was fitted on all 25 images already"),
        (["forget", model, new, "--out", tmp_path / "a.zip"], f"the model was not fitted on image {new}/0.png"),
        (["forget", model, *list(good.iterdir())[:7], "--out", tmp_path / "a.zip"], "needs at least 19 good images"),
        (["forget", model, good, "--out", tmp_path / "a.zip"], "0 of 25 good images would be left"),
        (["detect", model, new, "--tile", "64"], "padim looks at a resized picture, each position by itself"),
        (["detect", folder / "patchcore.zip", new, "--tile", "64"], "pictures resized to 32 px; fit it with --tile"),
    ):
        assert expected in fails(capsys, *words)
    assert model.read_bytes() == before
    assert not list(tmp_path.glob("*.zip"))
    with pytest.raises(SystemExit):
        main(["fit", "padim", "--category", "part", "--tile", "64", "--out", str(tmp_path / "a.zip")])
    assert "only patchcore can look at tiles" in capsys.readouterr().err


def test_check_lists_the_images_that_do_not_look_good(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """New ones by conformal p-values, those of the fit by their leave-one-out scores."""
    capsys.readouterr()
    assert main(["check", str(folder / "odd"), "--model", str(folder / "padim.zip")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in lines[:2]} == {str(folder / "odd" / name) for name in ("3.png", "4.png")}
    assert lines[2] == "2 of 5 images new to the model do not look good"
    assert lines[3].startswith("with 25 good scores, fewer than 2 odd ones of 5 new images cannot be told from chance")
    assert len(lines) == 4
    assert main(["check", str(folder / "part/train/good"), "--model", str(folder / "padim.zip")]) == 0
    assert "of 25 images that the model was fitted on do not look good" in capsys.readouterr().out.splitlines()[-1]


def test_suspects_equal_their_parts(folder: Path, draw: Draw, write_image: Write, tmp_path: Path) -> None:
    """P-values of both kinds, each image beside its score; a planted defect in a fit is recognised."""
    generator = np.random.default_rng(11)
    paths = [write_image(tmp_path / f"{n}.png", draw(generator, 32, n == 30)[0]) for n in range(40)]
    detector = Padim(weights="random", backbone="resnet18", channels=6, image_size=32, crop=32, sigma=1.0)
    detector.fit([str(path) for path in paths[:35]])
    table = suspects(detector, paths[::-1], 0.2)
    assert table["image"].tolist() == [str(path) for path in paths[::-1]]
    assert table["known"].tolist() == [False] * 5 + [True] * 35
    np.testing.assert_allclose(table["score"][5:], detector.good_scores[::-1])
    np.testing.assert_allclose(table["p_value"][5:], metrics.leave_one_out_p_values(detector.good_scores, 0.2)[::-1])
    new = detector.score([str(path) for path in paths[:34:-1]]).image
    expected = [(1 + (detector.good_scores >= score).sum()) / 36 for score in new]
    np.testing.assert_allclose(table["p_value"][:5], expected)
    adjusted = stats.false_discovery_control(table["p_value"][5:])
    assert (table["suspect"][5:] == (adjusted <= 0.2)).all()
    assert table["score"].idxmax() == 39 - 30
    assert table.loc[39 - 30, "suspect"]


def test_other_methods_have_suspects_too(folder: Path) -> None:
    """Of images that are new; the fitted ones are not looked at as new, where the model knows them."""
    detector = Knn(weights="random", image_size=32, crop=32)
    with pytest.raises(SettingsError, match="not fitted"):
        suspects(detector, [folder / "new/0.png"])
    detector.use_backbone(load_backbone("resnet18", "random"))
    detector.fit(sorted((folder / "part/train/good").iterdir()))
    assert suspects(detector, [folder / "new/0.png", folder / "part/train/good/000.png"])["known"].tolist() == [
        False,
        True,
    ]


def test_a_large_picture_is_detected_by_tiles(
    tmp_path: Path, draw: Draw, write_image: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fitted at the size that pictures have; the side of a tile changes no score; a larger picture gets a warning."""
    generator = np.random.default_rng(3)
    for number in range(4):
        write_image(tmp_path / "part/train/good" / f"{number}.png", draw(generator, 128, False)[0])
    model = tmp_path / "a.zip"
    words = [
        "fit",
        "patchcore",
        "--root",
        tmp_path,
        "--category",
        "part",
        "--backbone",
        "resnet18",
        "--weights",
        "random",
    ]
    words += ["--tile", "64", "--false-alarm-rate", "0.2", "--out", model]
    assert main([*map(str, words)]) == 0
    assert "in their native size, by tiles of 64 px" in capsys.readouterr().out
    defect = write_image(tmp_path / "defect.tif", draw(generator, 256, True)[0])
    scores = []
    for tile in ("64", "512"):
        detect = ["detect", str(model), str(defect), "--tile", tile, "--heat-maps", str(tmp_path / "maps"), "--json"]
        assert main(detect) == 0
        printed = capsys.readouterr()
        (row,) = json.loads(printed.out)
        assert "calibrated on pictures of 0.0164 million pixels, and" in printed.err
        assert row["verdict"] == "defect"
        assert Path(row["heat_map"]).is_file()
        scores.append(row["score"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(defect.read_bytes()[:500])
    assert "1 of 2 images not judged" in fails(capsys, "detect", model, broken, defect, "--heat-maps", "none")
