"""`mvtec-ad check`: what is read as what, what is not, what is odd, and commands that really bring a folder in."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad.cli import main
from mvtec_ad.data import index, sources
from mvtec_ad.data.layout import check_layout

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
Write = Callable[[Path, np.ndarray], Path]


def counts(table: pd.DataFrame) -> dict[tuple[str, str], int]:
    return table.groupby(["split", "defect"]).size().to_dict()


def obey(lines: list[str], folder: Path) -> None:
    """Run the commands of a report in its folder, as a user would paste them."""
    commands = [line.removeprefix("  to use more:").strip() for line in lines]
    commands = [line for line in commands if line.startswith(("mkdir", "mv "))]
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True)
        assert not done.stderr + done.stdout, command


def test_mvtec_layout(tmp_path: Path, make_category: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and uses, and the two commands that come next, in the words of the command line."""
    make_category(tmp_path, train=20, size=32)
    assert main(["check", str(tmp_path / "part")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"part, in {tmp_path}",
        "  train/good: 20 images, fitted on",
        "  test/good: 4 images, tested on as good",
        "  test/patch: 4 images, tested on as defective, 4 with a mask",
        f"  mvtec-ad fit patchcore --root {tmp_path} --category part --out model.zip",
        f"  mvtec-ad evaluate patchcore --root {tmp_path} --category part",
    ]
    make_category(tmp_path, "second", size=32)
    lines = check_layout(tmp_path)
    assert lines[0] == f"{tmp_path}: a folder of 2 categories"
    assert {f"part, in {tmp_path}", f"second, in {tmp_path}"} < set(lines)


def test_a_category_may_have_any_name(tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """Also one that sounds like a folder of good images: what is in it tells."""
    for name in ("good_box", "normal_map"):
        make_category(tmp_path, name, size=8)
    assert check_layout(tmp_path)[0] == f"{tmp_path}: a folder of 2 categories"


def test_a_production_line(tmp_path: Path, draw: Draw, write_image: Write) -> None:
    """Its damaged training items are no test images, and one-class methods do not see them."""
    rng = np.random.default_rng(0)
    for number, (split, state) in enumerate((s, t) for s in ("train", "test") for t in ("intact", "damaged")):
        write_image(tmp_path / "line" / split / state / "top" / f"{number}_top.png", draw(rng, 16, False)[0])
    lines = [line.strip().partition(":")[::2] for line in check_layout(tmp_path / "line")[1:5]]
    assert {name: text.split(",")[1].strip() for name, text in lines} == {
        "train/good": "fitted on",
        "train/damaged": "for classifiers alone",
        "test/good": "tested on as good",
        "test/damaged": "tested on as defective",
    }


def ship_line(folder: Path, write_image: Write) -> Path:
    """Three intact items and two damaged ones, as the authors of such sets ship them."""
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (2, 16, 16, 3), np.uint8)
        for view, image in zip(("side", "top"), pixels, strict=True):
            write_image(folder / ("intact" if number < 3 else "damaged") / view / f"{number}_{view}.png", image)
    return folder


@pytest.mark.parametrize("around", ["", "archive", "a/b"])
def test_a_production_line_as_it_is_shipped(tmp_path: Path, write_image: Write, around: str) -> None:
    """It is read, so nothing is to be moved; the commands that use it name a root that holds it, folder or zip."""
    line = ship_line(tmp_path / "top" / around, write_image)
    lines = check_layout(tmp_path / "top")
    assert lines[:6] == [
        f"{line.name}, in {line.parent}",
        "  train/good: 4 images, fitted on",
        "  train/damaged: 2 images, for classifiers alone, 0 with a mask",
        "  test/good: 2 images, tested on as good",
        "  test/damaged: 2 images, tested on as defective, 0 with a mask",
        "  5 items in side and top view, train: 2 good, 1 damaged; test: 1 good, 1 damaged; cut by item, the lowest "
        "tenth of the numbers is tested on",
    ]
    assert f"  mvtec-ad evaluate patchcore --root {line.parent} --category {line.name}" in lines
    assert lines[-1] == f"  mvtec-ad prepare --root {line} --packages"
    archive = pack(tmp_path / "kaggle.zip", tmp_path / "top")
    lines = check_layout(archive)
    assert lines[-1] == f"  mvtec-ad prepare --root {archive} --packages"
    name = line.name if around else "package"
    assert f"  mvtec-ad evaluate patchcore --root {archive} --category {name}" in lines
    for category in {name, "package"}:
        assert len(index.read_category(sources.locate(category, root=archive), category)) == 10


def test_a_line_that_is_not_read_is_not_to_be_moved(tmp_path: Path, write_image: Write) -> None:
    """The item that does not fit is all there is to mend."""
    line = ship_line(tmp_path / "line", write_image)
    (line / "damaged" / "top" / "4_top.png").unlink()
    problem = f"item 4 of {line} has no top view: add it, or remove the item"
    assert check_layout(line) == [f"line, in {tmp_path}", f"  not read: {problem}"]


def test_a_flat_folder_is_good_images(
    tmp_path: Path, draw: Draw, write_image: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named from within, too."""
    rng = np.random.default_rng(0)
    for number in range(6):
        write_image(tmp_path / "mine" / f"{number}.webp", draw(rng, 32, False)[0])
    monkeypatch.chdir(tmp_path / "mine")
    lines = check_layout(".")
    assert "  train/good: 6 images, fitted on" in lines
    assert any("needs good and defective test images" in line for line in lines)


@pytest.fixture
def tiles(tmp_path: Path, draw: Draw, write_image: Write) -> Path:
    """Magnetic tiles: a folder a class, image.jpg beside mask.png of one name, also for tiles without defects."""
    rng = np.random.default_rng(0)
    for name, number in (("MT_Free", 10), ("MT_Blowhole", 3), ("MT_Break", 2)):
        for index_ in range(number):
            image, mask = draw(rng, 40, name != "MT_Free")
            path = write_image(tmp_path / "my tiles" / name / "Imgs" / f"exp_{index_}.png", mask)
            Image.fromarray(image).save(path.with_suffix(".jpg"))
    return tmp_path / "my tiles"


def test_classes_beside_one_another_with_their_masks(tiles: Path) -> None:
    """The commands give a category with masks and a test part, and every image is still there."""
    before = {path.stat().st_ino for path in tiles.rglob("*.jpg")}
    obey(check_layout(tiles), tiles.parent)
    table = index.read_category(tiles.parent, "my tiles")
    expected = {("train", "good"): 8, ("test", "good"): 2, ("test", "MT_Blowhole"): 3, ("test", "MT_Break"): 2}
    assert counts(table) == expected
    assert ((table["mask_path"] != "") == (table["label"] == 1)).all()
    assert {Path(path).stat().st_ino for path in table["image_path"]} == before
    assert any("tested on as defective, 3 with a mask" in line for line in check_layout(tiles))


@pytest.mark.parametrize("mask", ["{}_mask.png", "mask_{}.png", "{}_label.bmp"])
def test_masks_beside_their_images(mask: str, tmp_path: Path, draw: Draw, write_image: Write) -> None:
    """Told by their names, in a folder a class and in VisA's folders; in a plain folder they are odd."""
    rng = np.random.default_rng(0)
    for name, number in (("Normal", 10), ("Anomaly", 3)):
        for index_ in range(number):
            image, marks = draw(rng, 16, name == "Anomaly")
            folder = tmp_path / "part" / "Data" / "Images" / name
            write_image(folder / f"{index_:02d}.png", image)
            if name == "Anomaly":
                write_image(folder / mask.format(f"{index_:02d}"), marks)
    assert any("are named as masks of the images beside them" in line for line in check_layout(folder))
    obey(check_layout(tmp_path / "part"), tmp_path)
    table = index.read_category(tmp_path, "part")
    assert counts(table) == {("train", "good"): 8, ("test", "good"): 2, ("test", "Anomaly"): 3}
    assert ((table["mask_path"] != "") == (table["label"] == 1)).all()


def test_one_class_in_several_folders(tmp_path: Path, draw: Draw, write_image: Write) -> None:
    """VisA's folder of masks; and lines with the same names in each keep all their images."""
    rng = np.random.default_rng(0)
    for line in ("line a", "line b"):
        for name, number in (("good", 5), ("bent", 2)):
            for index_ in range(number):
                image, marks = draw(rng, 16, name == "bent")
                write_image(tmp_path / "part" / line / "images" / name / f"{index_}.png", image)
                if name == "bent":
                    write_image(tmp_path / "part" / line / "masks" / name / f"{index_}.png", marks)
    obey(check_layout(tmp_path / "part"), tmp_path)
    table = index.read_category(tmp_path, "part")
    assert counts(table) == {("train", "good"): 8, ("test", "good"): 2, ("test", "bent"): 4}
    assert (table["mask_path"] != "").sum() == 4


def test_masks_beside_images_in_mvtec_layout(tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """Two images of one name are refused, with the commands that part image and mask."""
    make_category(tmp_path, size=16)
    folder = tmp_path / "part"
    for path in (folder / "ground_truth" / "patch").iterdir():
        path.rename(folder / "test" / "patch" / f"{path.stem.removesuffix('_mask')}.bmp")
    for path in (folder / "test" / "patch").glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    lines = check_layout(folder)
    assert "holds two images named part/test/patch/000" in lines[1]
    obey(lines, tmp_path)
    table = index.read_category(tmp_path, "part")
    assert (table["mask_path"] != "").sum() == 4


@pytest.mark.parametrize("names", [("ok", "nok"), ("OK", "NG"), ("good", "not_good"), ("no_defect", "defect")])
def test_ok_and_nok(names: tuple[str, str], tmp_path: Path, draw: Draw, write_image: Write) -> None:
    """Two folders; a fifth of the good ones is kept to test on."""
    rng = np.random.default_rng(0)
    for name, number in zip(names, (10, 3), strict=True):
        for index_ in range(number):
            write_image(tmp_path / "part" / name / f"IMG {index_}.png", draw(rng, 16, False)[0])
    obey(check_layout(tmp_path / "part"), tmp_path)
    defect = names[1]
    expected = {("train", "good"): 8, ("test", "good"): 2, ("test", defect): 3}
    assert counts(index.read_category(tmp_path, "part")) == expected


def test_nothing_tells_which_are_good(tmp_path: Path, draw: Draw, write_image: Write) -> None:
    """Then nobody guesses: the names that are understood are listed."""
    for name in ("a", "b"):
        write_image(tmp_path / "part" / "x" / name / "0.png", draw(np.random.default_rng(0), 16, False)[0])
    (line,) = check_layout(tmp_path / "part")[1:]
    assert "no folder is named as one of good images (good, ok, normal, pass): rename the one" in line
    assert "x/a, x/b" in line


def test_further_below(tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """The root to give."""
    make_category(tmp_path / "data" / "inner", size=8)
    line = check_layout(tmp_path)[1].strip()
    assert line == f"give --root {tmp_path / 'data' / 'inner'}, which holds part"


def test_images_that_no_folder_of_the_layout_holds(
    tmp_path: Path,
    make_category: Callable[..., Path],
    draw: Draw,
    write_image: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Directly in test/, in validation/ (LOCO), one level too deep, hidden, of another format: said, and brought in."""
    make_category(tmp_path, train=6, size=16)
    folder, rng = tmp_path / "part", np.random.default_rng(5)
    hidden = ["train/good/.thumbnails/a.png", ".ipynb_checkpoints/a.png"]
    for name in ("test/a.png", "validation/good/000.png", "train/good/batch 1/000.png", *hidden):
        write_image(folder / name, draw(rng, 16, False)[0])
    (folder / "train" / "good" / "a.heic").write_bytes(b"?")
    before = counts(index.read_category(tmp_path, "part"))
    lines = check_layout(folder)
    unused = [line.removeprefix("  not used: ") for line in lines if line.startswith("  not used: ")]
    assert sorted(unused) == [
        "1 files (.heic is no format that is read: save as PNG), first a.heic",
        "1 files (in test/, good or defective?), first a.png",
        "1 files (in train/good/batch 1/, which is no folder of the layout), first 000.png",
        "1 files (in validation/good/, which is no folder of the layout), first 000.png",
        "2 files (hidden), first a.png",
    ]
    fit = ["fit", "padim", "--root", str(tmp_path), "--category", "part", "--out", str(tmp_path / "m.zip")]
    assert main([*fit, "--false-alarm-rate", "0.01"]) == 2  # too few good images for that
    assert f"not used: 2 files (hidden), first a.png; `mvtec-ad check {folder}` shows" in capsys.readouterr().err
    obey(lines, tmp_path)
    after = counts(index.read_category(tmp_path, "part"))
    assert after == {**before, ("train", "good"): 8, ("test", "defect"): 1}


def test_masks_under_another_name(tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """One command renames their folder, however many defects it has."""
    make_category(tmp_path, train=6, size=16, defects={"patch": 2, "dent": 2})
    (tmp_path / "part" / "ground_truth").rename(tmp_path / "part" / "Masks")
    lines = check_layout(tmp_path / "part")
    assert sum("mv -n" in line for line in lines) == 1
    obey(lines, tmp_path)
    assert (index.read_category(tmp_path, "part")["mask_path"] != "").sum() == 4


def test_what_is_odd(tmp_path: Path, make_category: Callable[..., Path], draw: Draw, write_image: Write) -> None:
    """One image of each fault is named, and nothing else."""
    make_category(tmp_path, train=20, size=64)
    good, rng = tmp_path / "part" / "train" / "good", np.random.default_rng(9)
    (good / "broken.png").write_bytes((good / "000.png").read_bytes()[:-30])
    Image.fromarray(draw(rng, 64, False)[0][..., 0].astype(np.uint16) << 4).save(good / "twelve.png")
    write_image(good / "blurred.png", cv2.GaussianBlur(draw(rng, 64, False)[0], (0, 0), 3))
    write_image(good / "dark.png", draw(rng, 64, False)[0] // 4)
    write_image(good / "bright.png", 255 - draw(rng, 64, False)[0] // 8)
    write_image(good / "black.png", np.zeros((64, 64, 3), np.uint8))
    write_image(good / "small.png", cv2.resize(draw(rng, 64, False)[0], (48, 40)))
    shutil.copy(good / "003.png", good / "copy.png")
    write_image(tmp_path / "part" / "ground_truth" / "patch" / "000_mask.png", np.zeros((64, 64), bool))
    write_image(tmp_path / "part" / "ground_truth" / "patch" / "001_mask.png", np.full((64, 64), 7, np.uint8))
    odd = "\n".join(line for line in check_layout(tmp_path / "part") if line.startswith("  odd: "))
    for words in (
        "broken.png is cut off or damaged",
        "000_mask.png marks 0% of its image",
        "001_mask.png has the value 7 everywhere",
        "1 of 27 good training images are copies of others and count once, first .*copy.png",
        r"images have 2 sizes, and each is squeezed into a square: 64×64 \(34\), 48×40 \(1\)",
        "1 images hold 12-bit data in 16 bits, and are read as such, first .*twelve.png",
        "2 images are much darker than the others .*, first .*black.png",
        "1 images are much brighter than the others .*, first .*bright.png",
        "1 images called good are blurred beside the other good ones, first .*blurred.png",
        "1 images are all but black, first .*black.png",
    ):
        assert pd.Series(odd.splitlines()).str.contains(words).sum() == 1, words
    assert len(odd.splitlines()) == 10


def pack(path: Path, folder: Path) -> Path:
    """Everything in a folder, in an archive of the path's suffix."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    else:
        kind = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".bz2": "bz2"}.get(path.suffix, "")
        with tarfile.open(path, f"w:{kind}") as archive:
            for file in files:
                archive.add(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
@pytest.mark.parametrize("what", ["category", "content", "images"])
def test_archives(suffix: str, what: str, tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """Of category folders, of what is in one, or of images only: read by `--root`, and `check` says how."""
    root = make_category(tmp_path / "root", size=8)
    inside = {"category": root, "content": root / "part", "images": root / "part" / "train" / "good"}[what]
    archive = pack(tmp_path / f"part{suffix}", inside)
    table = index.read_category(sources.locate("part", root=archive), "part")
    expected = index.read_category(root, "part") if what != "images" else index.read_category(inside.parent, "good")
    assert counts(table) == counts(expected)
    lines = check_layout(archive)
    assert f"  mvtec-ad fit patchcore --root {archive} --category part --out model.zip" in lines
    assert "/tmp/tmp" not in "\n".join(lines).replace(str(tmp_path), "")


def test_an_archive_in_another_layout(tiles: Path, tmp_path: Path) -> None:
    """Unpacked first, the commands work on the folder."""
    archive = pack(tmp_path / "box.zip", tiles)
    lines = check_layout(archive)
    assert lines[1].strip() == "unpack it first, for these are commands on the folder:"
    subprocess.run(["bash", "-euc", lines[2].strip().replace("python", "python3", 1)], cwd=tmp_path, check=True)
    obey(lines, tmp_path)
    assert counts(index.read_category(tmp_path, "box"))[("train", "good")] == 8


@pytest.mark.parametrize(("name", "words"), [("nowhere", "does not exist"), ("empty", "holds no image that is read")])
def test_nothing_to_check(name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err
