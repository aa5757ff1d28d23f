"""Whatever is broken: one line that names the thing and the way out, exit status 2, and nothing touched."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mvtec_ad import artifacts
from mvtec_ad.cli import main
from mvtec_ad.methods import autoencoder

SIDE = 32
SMALL = ["--backbone", "resnet18", "--weights", "random", "--channels", "8", "--image-size", str(SIDE), "--sigma", "1"]
RATE = ["--false-alarm-rate", "0.25"]  # three good images are enough for it


class Place:
    """A folder of one's own with images, a fitted artifact and a photograph; each row breaks one thing in it.

    Attributes:
        folder: holds all that follows.
        root: holds the category `part`, in full layout with masks.
        artifact: PaDiM of `part`.
        failures: functions of the machine that fail while the command runs: owner, name, replacement.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.artifact = folder, folder / "images", folder / "part.zip"
        self.failures: list[tuple[object, str, Callable[..., Any]]] = []
        self.where = ["--root", str(self.root), "--category", "part"]

    def image(self, name: str = "train/good/001.png") -> Path:
        """A file of the category."""
        return self.root / "part" / name

    def out(self, suffix: str = ".zip") -> str:
        """A name to write to, at which something lies already."""
        path = self.folder / f"mine{suffix}"
        path.write_bytes(b"what a user made")
        return str(path)

    def fit(self, *more: str) -> list[str]:
        """The command that fits on this place."""
        return ["fit", "padim", *self.where, *SMALL, *RATE, "--out", self.out(), *more]

    def evaluate(self, *more: str) -> list[str]:
        """The command that measures on this place."""
        return ["evaluate", "padim", *self.where, "--seeds", "0", *SMALL, *RATE, *more]

    def train(self, *more: str) -> list[str]:
        """The command that trains a network on this place."""
        small = ["--image-size", str(SIDE), "--width", "4", "--latent", "8", "--steps", "5"]
        return ["fit", "autoencoder", *self.where, "--out", self.out(), *small, "--false-alarm-rate", "0.6", *more]

    def prepare(self) -> list[str]:
        """The command that writes data.zip."""
        return ["prepare", *self.where, "--image-size", "8"]

    def detect(self, *images: Path | str) -> list[str]:
        """The command that judges images with this place's artifact."""
        names = [str(image) for image in images or [self.root / "part" / "test"]]
        return ["detect", str(self.artifact), *names, "--heat-maps", "none"]

    # --- harm: each returns the place ---

    def cut(self, path: Path, end: int | None) -> Place:
        """Keep the bytes before this one."""
        return self.write(path, path.read_bytes()[:end])

    def write(self, path: Path, content: bytes) -> Place:
        """Other content."""
        path.write_bytes(content)
        return self

    def promise(self) -> Place:
        """The second training image as a BMP whose header tells of 2³⁰ × 2³⁰ pixels."""
        path = self.image().with_suffix(".bmp")
        Image.open(self.image()).save(path)
        self.image().unlink()
        whole = path.read_bytes()
        return self.write(path, whole[:18] + (2**30).to_bytes(4, "little") * 2 + whole[26:])

    def untested(self) -> Place:
        """No test images."""
        shutil.rmtree(self.image("test")), shutil.rmtree(self.image("ground_truth"))
        return self

    def keep(self, count: int) -> Place:
        """Leave so many good images to fit on."""
        for path in sorted(self.image("train/good").iterdir())[count:]:
            path.unlink()
        return self

    def make(self, path: Path) -> Path:
        """A folder."""
        path.mkdir()
        return path

    def describe(self, change: Callable[[dict[str, Any]], Any]) -> list[str]:
        """Change the description of the model in the artifact, sign it anew, and judge with it."""
        artifact, name = artifacts.load(self.artifact), "part/padim/0/model.json"
        description = artifact.json(name)
        change(description)
        files = {member: artifact.read(member) for member in artifact.names} | {name: description}
        about = ("stage", "profile", "data_source", "categories", "options", "seed")
        known = {key: artifact.manifest[key] for key in about}
        artifacts.save(known.pop("stage"), files, **known, path=self.artifact)
        return self.detect()

    def fails(self, function: str, number: int, only: str = "") -> Place:
        """Let a function raise this OSError, where its first argument has these letters in it."""
        module, _, name = function.rpartition(".")
        owner = {"os": os, "io": io, "Path": Path, "artifacts": artifacts}[module]
        original = getattr(owner, name, open)

        def fail(first: Any, *arguments: Any, **options: Any) -> Any:
            if only in str(first):
                raise OSError(number, os.strerror(number), str(first))
            return original(first, *arguments, **options)

        self.failures.append((owner, name, fail))
        return self

    def diverge(self) -> Place:
        """A training whose loss is no number."""
        original = autoencoder.difference_map
        self.failures.append((autoencoder, "difference_map", lambda *given: original(*given) * float("nan")))
        return self


def weights(place: Place, state: dict[str, torch.Tensor], end: int | None = None) -> list[str]:
    """The command that fits on this file of weights."""
    torch.save(state, place.folder / "own.pth")
    return place.cut(place.folder / "own.pth", end).fit("--weights", str(place.folder / "own.pth"))


MASK = "ground_truth/patch/000_mask.png"
NARROW = cv2.imencode(".png", np.zeros((32, 20), np.uint8))[1].tobytes()
# the words of the line: the thing, and the way out -> what is broken, and with which command it is met
BROKEN: dict[str, Callable[[Place], list[str]]] = {
    # Images; what else a decoder must notice is in data/test_loading.py
    "001.png … cut off or damaged: copy it again": lambda p: p.cut(p.image(), -200).fit(),
    "001.png is empty … copy it again": lambda p: p.write(p.image(), b"").fit(),
    "001.png cannot be decoded … save it as PNG, JPEG, BMP, WebP or TIFF": lambda p: p.write(
        p.image(), b"a text"
    ).fit(),
    "001.bmp has 1073741824×1073741824 pixels … make it smaller": lambda p: p.promise().fit(),
    "001.png cannot be read (Permission denied) … check the path and its permissions": lambda p: p.fails(
        "Path.read_bytes", errno.EACCES, only="001.png"
    ).fit(),
    "train/good cannot be read (Permission denied) … check its permissions": lambda p: p.fails(
        "Path.iterdir", errno.EACCES, only="good"
    ).fit(),
    "000_mask.png is 20×32 but its image is 32×32 … export it again": lambda p: p.write(
        p.image(MASK), NARROW
    ).evaluate(),
    "mask … 000_mask.png is cut off or damaged: copy it again": lambda p: p.cut(p.image(MASK), -20).evaluate(),
    # Folders; how else they are mixed up is in data/test_index.py
    "2 good images are too few … give at least 3": lambda p: p.keep(2).fit("--false-alarm-rate", "0.6"),
    "2 good images are too few to fit autoencoder … give at least 3": lambda p: p.keep(2).train(),
    "needs at least 19 good images to calibrate on, but there are 2 … higher": lambda p: p.train(
        "--false-alarm-rate", "0.05"
    ),
    "no AUROC can be computed without … `fit` and `detect` work with good images": lambda p: p.untested().evaluate(),
    "no category 'prat' … it holds part": lambda p: p.fit("--category", "prat"),
    "nowhere does not exist … give the folder that holds": lambda p: p.fit("--root", str(p.folder / "nowhere")),
    "nothing holds no image … give images, or a folder with some (.png": lambda p: p.detect(
        p.make(p.folder / "nothing")
    ),
    "nowhere.png does not exist … check the path": lambda p: p.detect(p.folder / "nowhere.png"),
    "1 of 4 images not judged; image … 000.png is empty: copy it again": lambda p: p.write(
        p.image("test/patch/000.png"), b""
    ).detect(),
    # Artifacts; what else is no artifact is in test_artifacts.py
    "nowhere.zip is missing … check the path": lambda p: ["detect", str(p.folder / "nowhere.zip"), str(p.root)],
    "part.zip is damaged … make or copy it again": lambda p: p.cut(p.artifact, -1000).detect(),
    "part.zip is damaged (File is not a zip file) … make or copy it again": lambda p: p.write(
        p.artifact, p.image().read_bytes()
    ).detect(),
    "part.zip holds no whole model (KeyError 'grid') … fit it again": lambda p: p.describe(
        lambda description: description["state"].pop("grid")
    ),
    "part.zip holds no whole model (it lacks method) … fit it again": lambda p: p.describe(
        lambda description: description.pop("method")
    ),
    "whole model (part/padim/0/model.json describes another one) … fit it again": lambda p: p.describe(
        lambda description: description.update(method="magic")
    ),
    "no model of any category vae … it holds part padim seed 0": lambda p: [*p.detect(), "--method", "vae"],
    "no model of bolt … it holds part padim seed 0": lambda p: [*p.detect(), "--category", "bolt"],
    "part.zip cannot be read (Permission denied): check the path and its permissions": lambda p: p.fails(
        "io.open", errno.EACCES, only="part.zip"
    ).detect(),
    # Weights
    "'nowhere.pth': not a file … use imagenet, random, synthetic or the path": lambda p: p.fit(
        "--weights", "nowhere.pth"
    ),
    "fit … 'nowhere.pth': not a file": lambda p: p.train("--loss", "features", "--weights", "nowhere.pth"),
    "own.pth … wrong network?": lambda p: weights(p, {"conv1.weight": torch.zeros(1)}),
    "own.pth cannot be read … download it again": lambda p: weights(p, {"conv1.weight": torch.zeros(9999)}, 20000),
    # Places to write to
    "mine.zip cannot be written (No space left on device) … make room or choose another place": lambda p: p.fails(
        "os.fsync", errno.ENOSPC
    ).fit(),
    "good_000.png cannot be written (No space left … make room": lambda p: (
        [*p.fails("os.fsync", errno.ENOSPC).detect(p.image("test/good"))[:-1], str(p.folder / "maps")]
    ),
    "data.zip cannot be written (Read-only file system) … choose another place": lambda p: p.fails(
        "artifacts.open", errno.EROFS
    ).prepare(),
    "transfer cannot be made (File exists) … set MVTEC_AD_HOME": lambda p: p.write(
        p.folder / "transfer", b"mine"
    ).prepare(),
    "fit … transfer cannot be made (File exists) … set MVTEC_AD_HOME": lambda p: p.write(
        p.folder / "transfer", b"mine"
    ).train(),
    ".checkpoint cannot be written (No space left on device) … make room": lambda p: p.fails(
        "os.fsync", errno.ENOSPC
    ).train(),
    "mine.png is no artifact … give a name that ends in .zip": lambda p: p.fit("--out", p.out(".png")),
    "mine.txt cannot be made … choose another name": lambda p: [*p.detect()[:-1], p.out(".txt")],
    "a.gif cannot be written … its folder does not exist": lambda p: (
        [*p.detect(), "--animation", str(p.folder / "nowhere" / "a.gif")]
    ),
    "report.json cannot be written … its folder does not exist": lambda p: p.evaluate(
        "--json", str(p.folder / "nowhere" / "report.json")
    ),
    # Settings; options that a parser refuses are in test_command_line.py
    "the false-alarm rate must lie between 0 and 1 … for example 0.05, not 1.5": lambda p: p.fit(
        "--false-alarm-rate", "1.5"
    ),
    "--threshold nan … give a number": lambda p: [*p.detect(), "--threshold", "nan"],
    "crop 64 is larger than image size 32 … choose a smaller crop": lambda p: p.fit("--crop", "64"),
    "40 pixels cannot be halved 5 times … change crop or depth": lambda p: p.train("--image-size", "40"),
    "loss 'l2' is unknown … use one of mse, ssim, mse+ssim, features": lambda p: p.train("--loss", "l2"),
    "image_score 'elbo' is unknown … use one of peak, error": lambda p: p.train("--image-score", "elbo"),
    "autoencoder, seed 0: the loss is nan at step 0 … lower the learning rate": lambda p: p.diverge().train(),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> Path:
    """What every row starts from: `images/part` and `part.zip`."""
    folder = tmp_path_factory.mktemp("whole")
    make_category(folder / "images", "part", train=4, test_good=2, defects={"patch": 2}, size=SIDE)
    where = ["--root", str(folder / "images"), "--category", "part", "--out", str(folder / "part.zip")]
    assert main(["fit", "padim", *where, *SMALL, *RATE]) == 0
    return folder


@pytest.fixture
def place(whole: Path, own_home: Path) -> Place:
    """A copy of it, in a home of its own."""
    shutil.copytree(whole, own_home, dirs_exist_ok=True)
    return Place(own_home)


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden and temporary ones too, with its hash."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def lines(text: str) -> list[str]:
    """Lines of stderr, without progress bars."""
    return [piece for piece in re.split(r"[\r\n]+", text) if piece.strip() and not re.search(r"\d+%\|", piece)]


@pytest.mark.parametrize("words", BROKEN)
def test_broken_input_is_one_clear_line(
    words: str, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a decoder in C writes to stderr counts too."""
    command = BROKEN[words](place)
    before = files(place.folder)
    capfd.readouterr()
    with monkeypatch.context() as patch:
        for failure in place.failures:
            patch.setattr(*failure, raising=False)
        assert main(command) == 2
    (line,) = lines(capfd.readouterr().err)
    for part in words.split(" … "):
        assert part in line
    assert files(place.folder) == before


def test_the_rows_fail_for_their_own_reason(place: Place) -> None:
    """Unharmed, the three commands of the table work, and write what they should."""
    target = Path(place.out())
    for command in (place.fit(), place.train(), place.evaluate(), place.detect()):
        assert main(command) == 0
    assert artifacts.load(target).manifest["categories"] == ["part"]


def test_what_is_unusual_but_whole_is_taken(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A JPEG named .png, a folder named like an image, a hidden leftover, other sizes: fitted on and judged."""
    with Image.open(place.image()) as image:
        image.convert("RGB").save(place.image(), "JPEG")
        image.resize((200, 7)).save(place.image("train/good/wide.png"))
        image.resize((9, 90)).save(place.image("test/good/tall Größe 1.BMP"))
    place.image("train/good/folder.png").mkdir()
    place.image("train/good/._001.png").write_bytes(b"\0\5\x16\7")
    assert main(place.fit()) == 0
    assert "fitted on 5 good images" in capsys.readouterr().out
    assert main(place.detect()) == 0
    assert "tall Größe 1.BMP" in capsys.readouterr().out


def test_a_broken_image_costs_no_other_its_verdict(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows as without it, and one more that says why; heat maps for the others."""
    command = [*place.detect(place.image("test/patch"), place.image("test/good")), "--json"]
    assert main(command) == 0
    expected = json.loads(capsys.readouterr().out)
    place.image("test/patch/0005.png").write_text("not an image")
    command[command.index("none")] = str(place.folder / "maps")
    assert main(command) == 2
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    reason = rows[1].pop("reason")
    image, unknown = str(place.image("test/patch/0005.png")), {"score": None, "heat_map": None}
    assert rows.pop(1) == {"image": image, "verdict": "unreadable", "threshold": expected[0]["threshold"], **unknown}
    assert f"{image} cannot be decoded" in reason
    assert lines(captured.err) == [f"mvtec-ad detect: 1 of 5 images not judged; {reason}"]
    assert all(Path(row["heat_map"]).is_file() for row in rows)
    for row, other in zip(rows, expected, strict=True):  # in a batch of other size the last digits may differ
        assert row | {"heat_map": None, "score": other["score"]} == other
        assert row["score"] == pytest.approx(other["score"], rel=1e-5)
    command.remove("--json")
    assert main(command) == 2
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:5]] == ["defect", "unreadable", "defect", "good", "good"]
    assert printed[5].startswith("2 of 5 images called defective, 1 unreadable; heat maps in")


def test_hidden_folders_are_not_judged(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Thumbnails and checkpoints that systems and editors keep beside images."""
    for name in (".thumbnails", "patch/.ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(place.image("test/good"), place.image("test") / name)
    assert main(place.detect(place.image("test"))) == 0
    assert "of 4 images" in capsys.readouterr().out


def test_drawn_heat_maps_are_not_judged(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run over the folder that the first one drew into sees the same images."""
    command = place.detect(place.image("test"))
    command[-1] = str(place.image("test/heat_maps"))
    for _ in range(2):
        assert main(command) == 0
        assert "of 4 images" in capsys.readouterr().out
