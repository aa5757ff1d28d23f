"""Whatever is broken: one line that names the thing and the way out, exit status 2, and nothing touched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
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
from mvtec_ad.errors import MvtecAdError

SIDE = 32
SMALL = ["--weights", "random", "--channels", "8", "--image-size", str(SIDE), "--sigma", "1"]
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
        return [
            "fit",
            "padim",
            "--root",
            str(self.root),
            "--category",
            "part",
            *SMALL,
            *RATE,
            "--out",
            self.out(),
            *more,
        ]

    def evaluate(self, *more: str) -> list[str]:
        """The command that measures on this place."""
        where = ["--root", str(self.root), "--category", "part", "--seeds", "0"]
        return ["evaluate", "padim", *where, *SMALL, *RATE, *more]

    def train(self, *more: str) -> list[str]:
        """The command that trains a network on this place."""
        where = ["--root", str(self.root), "--category", "part", "--out", self.out()]
        small = ["--image-size", str(SIDE), "--width", "4", "--latent", "8", "--steps", "5"]
        return ["fit", "autoencoder", *where, *small, "--false-alarm-rate", "0.6", *more]

    def detect(self, *images: Path | str) -> list[str]:
        """The command that judges images with this place's artifact."""
        names = [str(image) for image in images or [self.root / "part" / "test"]]
        return ["detect", str(self.artifact), *names, "--heat-maps", "none"]

    def keep(self, count: int) -> None:
        """Leave so many good images to fit on."""
        for path in sorted(self.image("train/good").iterdir())[count:]:
            path.unlink()

    def rewrite(self, change: Callable[[dict[str, bytes], dict[str, Any]], Any]) -> list[str]:
        """Change members and manifest of the artifact, sign it anew, and judge with it."""
        with zipfile.ZipFile(self.artifact) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(members.pop("manifest.json"))
        change(members, manifest)
        manifest["members"] = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
        with zipfile.ZipFile(self.artifact, "w") as archive:
            for name, data in {**members, "manifest.json": json.dumps(manifest).encode()}.items():
                archive.writestr(name, data)
        return self.detect()

    def fails(self, function: str, number: int, only: str = "") -> None:
        """Let a function raise this OSError, where its first argument has these letters in it."""
        module, _, name = function.rpartition(".")
        owner = {"os": os, "Path": Path, "artifacts": artifacts}[module]
        original = getattr(owner, name, open)

        def fail(first: Any, *arguments: Any, **options: Any) -> Any:
            if only in str(first):
                raise OSError(number, os.strerror(number), str(first))
            return original(first, *arguments, **options)

        self.failures.append((owner, name, fail))


Harm = Callable[[Place], "list[str] | Callable[[], object]"]
KINDS: dict[str, tuple[Harm, str, str]] = {}


def kind(name: str, thing: str, way_out: str) -> Callable[[Harm], Harm]:
    """Put a row into the table: what is broken, what the line must name, and the way out it must show."""

    def put(harm: Harm) -> Harm:
        assert name not in KINDS
        KINDS[name] = (harm, thing, way_out)
        return harm

    return put


# Images -------------------------------------------------------------------------------------------------------------


@kind("truncated PNG", "train/good/001.png", "cut off or damaged: copy it again")
def _(place: Place) -> list[str]:
    place.image().write_bytes(place.image().read_bytes()[:-200])
    return place.fit()


@kind("truncated JPEG", "train/good/001.jpg", "cut off or damaged: copy it again")
def _(place: Place) -> list[str]:
    Image.open(place.image()).save(place.image("train/good/001.jpg"))
    place.image().unlink()
    whole = place.image("train/good/001.jpg").read_bytes()
    place.image("train/good/001.jpg").write_bytes(whole[: len(whole) // 2])
    return place.fit()


@kind("truncated TIFF", "train/good/001.tiff", "save it as PNG")
def _(place: Place) -> list[str]:
    Image.open(place.image()).save(place.image("train/good/001.tiff"))
    place.image().unlink()
    place.image("train/good/001.tiff").write_bytes(place.image("train/good/001.tiff").read_bytes()[:-2000])
    return place.fit()


@kind("a flipped byte", "train/good/001.png", "copy it again")
def _(place: Place) -> list[str]:
    whole = bytearray(place.image().read_bytes())
    whole[len(whole) // 2] ^= 255
    place.image().write_bytes(whole)
    return place.fit()


@kind("empty image file", "train/good/001.png is empty", "copy it again")
def _(place: Place) -> list[str]:
    place.image().write_bytes(b"")
    return place.fit()


@kind("text named .png", "train/good/001.png cannot be decoded", "save it as PNG, JPEG, BMP or TIFF")
def _(place: Place) -> list[str]:
    place.image().write_text("not an image at all")
    return place.fit()


@kind("a telephone's HEIC named .jpg", "photo.jpg cannot be decoded", "save it as PNG, JPEG, BMP or TIFF")
def _(place: Place) -> list[str]:
    (place.folder / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    return place.detect(place.folder / "photo.jpg")


@kind("TIFF of floats", "train/good/001.tiff", "of 8 or 16 bits")
def _(place: Place) -> list[str]:
    place.image().unlink()
    cv2.imwrite(str(place.image("train/good/001.tiff")), np.zeros((SIDE, SIDE), np.float32))
    return place.fit()


@kind("a header that promises too much", "train/good/001.bmp cannot be decoded", "save it as PNG")
def _(place: Place) -> list[str]:
    Image.open(place.image()).save(place.image("train/good/001.bmp"))
    place.image().unlink()
    whole = bytearray(place.image("train/good/001.bmp").read_bytes())
    whole[18:26] = (2**30).to_bytes(4, "little") * 2  # width and height
    place.image("train/good/001.bmp").write_bytes(whole)
    return place.fit()


@kind("unreadable file", "train/good/001.png cannot be read (Permission denied)", "check the path and its permissions")
def _(place: Place) -> list[str]:
    place.fails("Path.read_bytes", errno.EACCES, only="001.png")
    return place.fit()


@kind("unreadable folder", "train/good cannot be read (Permission denied)", "check its permissions")
def _(place: Place) -> list[str]:
    place.fails("Path.iterdir", errno.EACCES, only="good")
    return place.fit()


# Masks --------------------------------------------------------------------------------------------------------------


@kind("mask of another size", "patch/000_mask.png is 20×32 but its image is 32×32", "export it again")
def _(place: Place) -> list[str]:
    Image.fromarray(np.zeros((32, 20), np.uint8)).save(place.image("ground_truth/patch/000_mask.png"))
    return place.evaluate()


@kind("truncated mask", "mask", "000_mask.png is cut off or damaged: copy it again")
def _(place: Place) -> list[str]:
    path = place.image("ground_truth/patch/000_mask.png")
    path.write_bytes(path.read_bytes()[:-20])
    return place.evaluate()


@kind("mask without its image", "patch/000_mask.png has no image", "remove one of them")
def _(place: Place) -> list[str]:
    place.image("test/patch/000.png").unlink()
    return place.evaluate()


@kind("image without its mask", "ground_truth/patch lacks the mask of 1 images", "add 000_mask.png")
def _(place: Place) -> list[str]:
    place.image("ground_truth/patch/000_mask.png").unlink()
    return place.evaluate()


@kind("defect folder without masks", "ground_truth/dent lacks the mask of 2 images", "to do without masks")
def _(place: Place) -> list[str]:
    shutil.copytree(place.image("test/patch"), place.image("test/dent"))
    return place.evaluate()


@kind("masks without their folder of images", "masks in", "test/patch is missing")
def _(place: Place) -> list[str]:
    shutil.rmtree(place.image("test/patch"))
    return place.evaluate()


@kind("two masks of one image", "000_mask.png belong to the same image", "remove one of them")
def _(place: Place) -> list[str]:
    shutil.copy(place.image("ground_truth/patch/000_mask.png"), place.image("ground_truth/patch/000.png"))
    return place.evaluate()


# Folders ------------------------------------------------------------------------------------------------------------


@kind("empty train/good", "train/good holds no image", "put at least a few good images there")
def _(place: Place) -> list[str]:
    place.keep(0)
    return place.fit()


@kind("one image", "1 good images are too few", "give at least 3")
def _(place: Place) -> list[str]:
    place.keep(1)
    return place.fit("--false-alarm-rate", "0.6")


@kind("two images", "2 good images are too few", "give at least 3")
def _(place: Place) -> list[str]:
    place.keep(2)
    return place.fit("--false-alarm-rate", "0.6")


@kind("too few images for the rate", "needs at least 19 good images", "add good images or allow a higher rate")
def _(place: Place) -> list[str]:
    return place.fit("--false-alarm-rate", "0.05")


@kind("nothing to test on", "no AUROC can be computed without", "`fit` and `detect` work with good images alone")
def _(place: Place) -> list[str]:
    shutil.rmtree(place.image("test"))
    shutil.rmtree(place.image("ground_truth"))
    return place.evaluate()


@kind("duplicate names", "two images named part/train/good/001", "rename one")
def _(place: Place) -> list[str]:
    shutil.copy(place.image(), place.image("train/good/001.bmp"))
    return place.fit()


@kind("two images to train on", "2 good images are too few to fit autoencoder", "give at least 3")
def _(place: Place) -> list[str]:
    place.keep(2)
    return place.train()


@kind(
    "too few held-out images for the rate", "needs at least 19 good images to calibrate on, but there are 2", "higher"
)
def _(place: Place) -> list[str]:
    return place.train("--false-alarm-rate", "0.05")


@kind("category unknown", "no category 'prat'", "it holds part")
def _(place: Place) -> list[str]:
    return place.fit("--category", "prat")


@kind("category without images", "bare holds neither train/good/ nor images", "put good images into")
def _(place: Place) -> list[str]:
    (place.root / "bare").mkdir()
    return place.fit("--category", "bare")


@kind("root missing", "nowhere does not exist", "give the folder that holds the category folders")
def _(place: Place) -> list[str]:
    return place.fit("--root", str(place.folder / "nowhere"))


@kind("root is a file", "001.png is neither a .tar.xz nor a .zip", "or a folder")
def _(place: Place) -> list[str]:
    return place.fit("--root", str(place.image()))


@kind("nothing to judge", "nothing holds no image", "give images, or a folder with some (.png")
def _(place: Place) -> list[str]:
    (place.folder / "nothing").mkdir()
    return place.detect(place.folder / "nothing")


@kind("image missing", "nowhere.png does not exist", "check the path")
def _(place: Place) -> list[str]:
    return place.detect(place.folder / "nowhere.png")


@kind("one broken image among good ones", "1 of 4 images not judged; image", "000.png is empty: copy it again")
def _(place: Place) -> list[str]:
    place.image("test/patch/000.png").write_bytes(b"")
    return place.detect()


# Artifacts ----------------------------------------------------------------------------------------------------------


@kind("artifact missing", "nowhere.zip is missing", "check the path")
def _(place: Place) -> list[str]:
    return ["detect", str(place.folder / "nowhere.zip"), str(place.root)]


@kind("artifact truncated", "part.zip is damaged", "make or copy it again")
def _(place: Place) -> list[str]:
    place.artifact.write_bytes(place.artifact.read_bytes()[:-1000])
    return place.detect()


@kind("artifact empty", "part.zip is damaged", "make or copy it again")
def _(place: Place) -> list[str]:
    place.artifact.write_bytes(b"")
    return place.detect()


@kind("artifact is no zip", "part.zip is damaged (File is not a zip file)", "make or copy it again")
def _(place: Place) -> list[str]:
    shutil.copy(place.image(), place.artifact)
    return place.detect()


@kind("artifact is an empty zip", "part.zip is damaged", "make or copy it again")
def _(place: Place) -> list[str]:
    zipfile.ZipFile(place.artifact, "w").close()
    return place.detect()


@kind("artifact tampered", "model.json does not match its SHA-256", "make or copy it again")
def _(place: Place) -> list[str]:
    with zipfile.ZipFile(place.artifact) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["part/padim/0/model.json"] = members["part/padim/0/model.json"].replace(b"1", b"2")
    with zipfile.ZipFile(place.artifact, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return place.detect()


@kind("artifact of another profile", "made with profile 'custom', this run uses 'quick'", "make it again")
def _(place: Place) -> Callable[[], object]:
    return lambda: artifacts.load(place.artifact, profile="quick")


@kind("artifact from other data", "made with data source 'own', this run uses 'mvtec_ad'", "make it again")
def _(place: Place) -> Callable[[], object]:
    return lambda: artifacts.load(place.artifact, data_source="mvtec_ad")


@kind("artifact of a newer schema", f"has schema {artifacts.SCHEMA + 1}", "update the package")
def _(place: Place) -> list[str]:
    return place.rewrite(lambda members, manifest: manifest.update(schema=artifacts.SCHEMA + 1))


@kind("artifact with an escaping path", "'../escaped.csv' leaves the folder", "do not trust this file")
def _(place: Place) -> list[str]:
    return place.rewrite(lambda members, manifest: members.update({"../escaped.csv": b"a"}))


@kind("artifact with a pickle", "'model.pkl' may hold code", "do not trust this file")
def _(place: Place) -> list[str]:
    return place.rewrite(lambda members, manifest: members.update({"model.pkl": pickle.dumps([1])}))


@kind("artifact with a pickle for arrays", "model.safetensors holds no plain arrays", "make it again")
def _(place: Place) -> list[str]:
    return place.rewrite(lambda members, _: members.update({"part/padim/0/model.safetensors": pickle.dumps([1])}))


@kind("artifact of half a model", "part.zip holds no whole model (KeyError 'grid')", "fit it again")
def _(place: Place) -> list[str]:
    def halve(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        description = json.loads(members["part/padim/0/model.json"])
        del description["state"]["grid"]
        members["part/padim/0/model.json"] = json.dumps(description).encode()

    return place.rewrite(halve)


@kind("artifact of an unknown method", "part.zip has no member part/magic/0/model.safetensors", "it holds part/padim/0")
def _(place: Place) -> list[str]:
    def rename(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        description = json.loads(members["part/padim/0/model.json"])
        members["part/padim/0/model.json"] = json.dumps({**description, "method": "magic"}).encode()

    return place.rewrite(rename)


@kind("artifact without a method", "part.zip holds no whole model (KeyError 'method')", "fit it again")
def _(place: Place) -> list[str]:
    def drop(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        description = json.loads(members["part/padim/0/model.json"])
        del description["method"]
        members["part/padim/0/model.json"] = json.dumps(description).encode()

    return place.rewrite(drop)


@kind("artifact of another method", "no model of any category vae", "it holds part padim seed 0")
def _(place: Place) -> list[str]:
    return [*place.detect(), "--method", "vae"]


@kind("artifact without the category", "no model of bolt", "it holds part padim seed 0")
def _(place: Place) -> list[str]:
    return [*place.detect(), "--category", "bolt"]


# Weights ------------------------------------------------------------------------------------------------------------


@kind("weights missing", "'nowhere.pth': not a file", "use imagenet, random, drawn or the path")
def _(place: Place) -> list[str]:
    return place.fit("--weights", "nowhere.pth")


@kind("weights of another network", "other.pth", "wrong network?")
def _(place: Place) -> list[str]:
    torch.save({"conv1.weight": torch.zeros(1)}, place.folder / "other.pth")
    return place.fit("--weights", str(place.folder / "other.pth"))


@kind("weights truncated", "half.pth cannot be read", "download it again")
def _(place: Place) -> list[str]:
    torch.save({"conv1.weight": torch.zeros(9999)}, place.folder / "half.pth")
    (place.folder / "half.pth").write_bytes((place.folder / "half.pth").read_bytes()[:20000])
    return place.fit("--weights", str(place.folder / "half.pth"))


# Places to write to -------------------------------------------------------------------------------------------------


@kind("full disk", "mine.zip cannot be written (No space left on device)", "make room or choose another place")
def _(place: Place) -> list[str]:
    place.fails("os.fsync", errno.ENOSPC)
    return place.fit()


@kind("full disk under the heat maps", "good_000.png cannot be written (No space left", "make room")
def _(place: Place) -> list[str]:
    place.fails("os.fsync", errno.ENOSPC)
    return [*place.detect(place.image("test/good")), "--heat-maps", str(place.folder / "maps")]


@kind("read-only transfer", "data.zip cannot be written (Read-only file system)", "choose another place")
def _(place: Place) -> list[str]:
    place.fails("artifacts.open", errno.EROFS)
    return ["prepare", "--root", str(place.root), "--category", "part", "--image-size", "8"]


@kind("transfer is a file", "transfer cannot be made (File exists)", "set MVTEC_AD_HOME")
def _(place: Place) -> list[str]:
    (place.folder / "transfer").write_text("mine")
    return ["prepare", "--root", str(place.root), "--category", "part", "--image-size", "8"]


@kind("transfer is a file where a checkpoint belongs", "transfer cannot be made (File exists)", "set MVTEC_AD_HOME")
def _(place: Place) -> list[str]:
    (place.folder / "transfer").write_text("mine")
    return place.train()


@kind("full disk under a checkpoint", ".checkpoint cannot be written (No space left on device)", "make room")
def _(place: Place) -> list[str]:
    place.fails("os.fsync", errno.ENOSPC)
    return place.train()


@kind("an artifact in place of a photograph", "mine.png is no artifact", "give a name that ends in .zip")
def _(place: Place) -> list[str]:
    return place.fit("--out", place.out(".png"))


@kind("heat maps into a file", "mine.txt cannot be made", "choose another name")
def _(place: Place) -> list[str]:
    return [*place.detect(), "--heat-maps", place.out(".txt")]


@kind("animation into a missing folder", "a.gif cannot be written", "its folder does not exist")
def _(place: Place) -> list[str]:
    return [*place.detect(), "--animation", str(place.folder / "nowhere" / "a.gif")]


@kind("report into a missing folder", "report.json cannot be written", "its folder does not exist")
def _(place: Place) -> list[str]:
    return place.evaluate("--json", str(place.folder / "nowhere" / "report.json"))


# Settings -----------------------------------------------------------------------------------------------------------


@kind("rate out of range", "the false-alarm rate must lie between 0 and 1", "for example 0.05, not 1.5")
def _(place: Place) -> list[str]:
    return place.fit("--false-alarm-rate", "1.5")


@kind("threshold is no number", "--threshold nan", "give a number")
def _(place: Place) -> list[str]:
    return [*place.detect(), "--threshold", "nan"]


@kind("crop larger than the image", "crop 64 is larger than image size 32", "choose a smaller crop")
def _(place: Place) -> list[str]:
    return place.fit("--crop", "64")


@kind("images that cannot be halved", "40 pixels cannot be halved 5 times", "change crop or depth")
def _(place: Place) -> list[str]:
    return place.train("--image-size", "40")


@kind("unknown loss", "loss 'l2' is unknown", "use one of mse, ssim, mse+ssim, features")
def _(place: Place) -> list[str]:
    return place.train("--loss", "l2")


@kind("a score without its distribution", "image_score 'elbo' is unknown", "use one of peak, error")
def _(place: Place) -> list[str]:
    return place.train("--image-score", "elbo")


@kind("a loss without weights", "'nowhere.pth': not a file", "use imagenet, random, drawn or the path")
def _(place: Place) -> list[str]:
    return place.train("--loss", "features", "--weights", "nowhere.pth")


@kind("a rate that leads nowhere", "autoencoder, seed 0: the loss is nan at step 1", "lower the learning rate")
def _(place: Place) -> list[str]:
    return place.train("--lr", "1e30")


@kind("an option of another method", "unrecognized arguments: --channels 8", "--help` lists the options")
def _(place: Place) -> list[str]:
    return place.train("--channels", "8")


@kind("unknown preset", "--preset: invalid choice: 'resnet19'", "resnet18")
def _(place: Place) -> list[str]:
    return place.fit("--preset", "resnet19")


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
    """Lines of stderr, without progress bars and argparse's usage."""
    pieces = [piece for piece in re.split(r"[\r\n]+", text) if piece.strip() and not re.search(r"\d+%\|", piece)]
    return [piece for piece in pieces if not piece.startswith(("usage: ", " "))]


def run(command: list[str] | Callable[[], object], capture: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status and stderr of a command, or of a call in a notebook as if it were one."""
    capture.readouterr()
    if callable(command):
        with pytest.raises(MvtecAdError) as caught:
            command()
        return 2, str(caught.value).splitlines()
    try:
        status = main(command)
    except SystemExit as left:  # argparse's way out
        status = left.code
    return status, lines(capture.readouterr().err)


@pytest.mark.parametrize("name", KINDS)
def test_broken_input_is_one_clear_line(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a decoder in C writes to stderr counts too."""
    harm, thing, way_out = KINDS[name]
    command = harm(place)
    before = files(place.folder)
    with monkeypatch.context() as patch:
        for owner, function, replacement in place.failures:
            patch.setattr(owner, function, replacement, raising=False)
        status, errors = run(command, capfd)
    assert status == 2
    assert len(errors) == 1, errors
    assert thing in errors[0]
    assert way_out in errors[0]
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
    image, threshold = str(place.image("test/patch/0005.png")), expected[0]["threshold"]
    assert rows.pop(1) == {
        "image": image,
        "verdict": "unreadable",
        "score": None,
        "threshold": threshold,
        "heat_map": None,
    }
    assert f"{image} cannot be decoded" in reason
    assert lines(captured.err) == [f"mvtec-ad detect: 1 of 5 images not judged; {reason}"]
    assert all(Path(row["heat_map"]).is_file() for row in rows)
    assert [row | {"heat_map": None} for row in rows] == expected
    command.remove("--json")
    assert main(command) == 2
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:5]] == ["defect", "unreadable", "defect", "good", "good"]
    assert printed[5].startswith("2 of 5 images called defective, 1 unreadable; heat maps in")


def test_drawn_heat_maps_are_not_judged(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run over the folder that the first one drew into sees the same images."""
    command = place.detect(place.image("test"))
    command[-1] = str(place.image("test/heat_maps"))
    for _ in range(2):
        assert main(command) == 0
        assert "of 4 images" in capsys.readouterr().out
