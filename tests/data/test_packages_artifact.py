"""packages.zip: items of a production line on the other side as they were, and where they come from."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvtec_ad import artifacts, config
from mvtec_ad.cli import main
from mvtec_ad.config import DataSettings, profile
from mvtec_ad.data import boxes, decoding, index, prepare
from mvtec_ad.data.acquire import locate_packages
from mvtec_ad.errors import DataError

Maker = Callable[..., Path]
FEW = replace(
    profile("quick"),
    data=DataSettings(
        categories=("bottle",),
        image_size=32,
        rendered_train=2,
        rendered_test_good=1,
        rendered_per_defect=1,
        package_train=2,
        package_test=1,
    ),
)


def make_line(root: Path, name: str = "package", suffixes: tuple[str, str] = (".png", ".JPG")) -> Path:
    """A line of four items, 40×20 pixels, a box beside every test image; a suffix each for the two views."""
    generator = np.random.default_rng(0)
    for number, place in enumerate(("train/intact", "train/damaged", "test/intact", "test/damaged")):
        for view, suffix in zip(("side", "top"), suffixes, strict=True):
            path = root / name / place / view / f"{number}_{view}{suffix}"
            path.parent.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (20, 40, 3), np.uint8)).save(path)
            if place.startswith("test"):
                state = place.removeprefix("test/")
                annotation = boxes.Annotation((20, 40), state, boxes.Box(3 + number, 5, 31, 19))
                path.with_suffix(".xml").write_bytes(annotation.xml(path.name))
    return root


def test_images_keep_their_size_and_their_bytes(tmp_path: Path) -> None:
    """Whatever size the products of data.zip have; boxes, labels and groups come back with them."""
    root = make_line(tmp_path, "line")
    path = prepare.prepare_packages(FEW, root=root, category="line", progress=False)
    artifact = artifacts.load("packages", profile="quick", data_source="own")
    assert artifact.path == path == config.transfer_folder() / "packages.zip"
    assert artifact.manifest["categories"] == ["line"]
    assert artifact.manifest["metrics"] == {"images": 8, "defective": 4}
    assert artifact.manifest["options"]["packages"] == "line"
    assert artifact.json("licence.json")["licence"].startswith("Own images")
    before = index.read_category(root, "line")
    after = index.read_category(prepare.unpack(artifact), "line")
    same = ["image_id", "split", "defect", "label", "view", "group"]
    assert after[same].equals(before[same])
    for old, new in zip(before.itertuples(), after.itertuples(), strict=True):
        assert Path(new.image_path).read_bytes() == Path(old.image_path).read_bytes()
        assert Path(new.image_path).suffix == Path(old.image_path).suffix.lower()
        if old.split == "test":
            assert boxes.read_annotation(new.box_path) == boxes.read_annotation(old.box_path)
    assert (after["box_path"] != "").sum() == 4


def test_formats_that_artifacts_do_not_hold_become_png(tmp_path: Path) -> None:
    """With the same pixels."""
    root = make_line(tmp_path, suffixes=(".bmp", ".tif"))
    unpacked = prepare.unpack(artifacts.load(prepare.prepare_packages(FEW, root=root, progress=False)))
    before, after = (index.read_category(place, "package") for place in (root, unpacked))
    for old, new in zip(before["image_path"], after["image_path"], strict=True):
        assert new.endswith(".png")
        np.testing.assert_array_equal(decoding.read_image(new), np.asarray(Image.open(old)))


def test_a_broken_image_gets_no_further(tmp_path: Path) -> None:
    """Though its bytes would be copied."""
    root = make_line(tmp_path)
    broken = root / "package/train/intact/side/0_side.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"0_side\.png is cut off"):
        prepare.prepare_packages(FEW, root=root, progress=False)
    assert not (config.transfer_folder() / "packages.zip").exists()


def test_other_layouts_are_no_production_line(tmp_path: Path, make_category: Maker) -> None:
    """A product of MVTec AD has no views."""
    make_category(tmp_path, "bolt", size=16)
    with pytest.raises(DataError, match=r"bolt is no production line: its images must lie in {train,test}/"):
        prepare.prepare_packages(FEW, root=tmp_path, category="bolt", progress=False)


@pytest.mark.parametrize("source", ["auto", "mvtec_ad", "download"])
def test_beside_real_products_packages_are_drawn(
    own_home: Path, make_category: Maker, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    """Two artifacts, two sources, and a line that says so; nobody is asked for images that do not exist."""
    make_category(own_home / "data" / "mvtec_anomaly_detection", "bottle", train=2, test_good=1, size=16)
    prepare.prepare(FEW, source=source, progress=False)
    assert artifacts.load("data").manifest["data_source"] == "own"
    prepare.prepare_packages(FEW, source=source, progress=False)
    assert "no folder package in any place where images are looked for: packages are drawn" in capsys.readouterr().out
    artifact = artifacts.load("packages", data_source="rendered")
    assert "no photograph" in artifact.json("licence.json")["licence"]
    unpacked = prepare.unpack(artifact)
    table = index.read_category(unpacked, "package")
    assert index.data_source(unpacked, "package", table) == "rendered"
    assert table.groupby(["split", "label", "view"]).size().tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert (table["severity"] > 0).equals(table["label"] == 1)
    assert decoding.read_image(table["image_path"][0]).shape == (270, 480, 3)


@pytest.mark.parametrize("place", ["MVTEC_AD_ROOT", "a named archive", "data/mvtec_anomaly_detection", "raw-data.zip"])
def test_own_packages_are_preferred(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Wherever real images are looked for; drawn only when told so."""
    root = own_home / "data" / "mvtec_anomaly_detection" if place.startswith("data") else tmp_path / "mine"
    make_line(root)
    if place == "MVTEC_AD_ROOT":
        monkeypatch.setenv(place, str(root))
    elif not place.startswith("data"):
        archive = own_home / ("transfer/raw-data.zip" if place == "raw-data.zip" else "mine.zip")
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w") as opened:
            for path in root.rglob("*.*"):
                opened.write(path, path.relative_to(root))
        if place != "raw-data.zip":
            monkeypatch.setenv("MVTEC_AD_ROOT", str(archive))
    for source in ("auto", "mvtec_ad"):
        found = locate_packages("package", source=source, settings=FEW.data)
        assert len(index.read_category(found, "package")) == 8
    assert capsys.readouterr().out == ""
    assert locate_packages("package", source="rendered", settings=FEW.data) == own_home / "data" / "rendered"
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("MVTEC_AD_SOURCE", "rendered")
    assert locate_packages("package", settings=FEW.data) == own_home / "data" / "rendered"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_root_without_packages(
    own_home: Path, tmp_path: Path, make_category: Maker, capsys: pytest.CaptureFixture[str], zipped: bool
) -> None:
    """It holds products; what is drawn is said with its name. A root that is not there is a slip of the finger."""
    root = make_category(tmp_path / "products", "bottle", train=1, size=8)
    if zipped:
        with zipfile.ZipFile(tmp_path / "products.zip", "w") as opened:
            opened.write(root / "bottle/train/good/000.png", "bottle/train/good/000.png")
        root = tmp_path / "products.zip"
    assert locate_packages("package", root=root, settings=FEW.data) == own_home / "data" / "rendered"
    assert capsys.readouterr().out.startswith(f"no folder package in {root}: packages are drawn\n")
    with pytest.raises(DataError, match="nowhere does not exist"):
        locate_packages("package", root=tmp_path / "nowhere", settings=FEW.data)


@pytest.mark.parametrize(
    ("source", "words"),
    [("auto", "cartons can be drawn by none"), ("mvtec_ad", "cartons are not on disk"), ("photographs", "is unknown")],
)
def test_packages_that_cannot_be_had(tmp_path: Path, source: str, words: str) -> None:
    """Only `package` is drawn; a source is known or not whatever the name."""
    with pytest.raises(DataError, match=words):
        locate_packages("cartons", source=source)
    if source == "photographs":
        with pytest.raises(DataError, match=words):
            locate_packages("package", source=source)


def test_the_command(tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of any name, and a place of one's own; what does not go together is said."""
    root = make_line(tmp_path / "mine", "cartons")
    out = tmp_path / "there" / "mine.zip"
    assert main(["prepare", "--packages", "cartons", "--root", str(root), "--out", str(out)]) == 0
    assert f"{out}: 8 images of cartons (4 defective), source own" in capsys.readouterr().out
    assert not (own_home / "transfer" / "data.zip").exists()
    make_line(tmp_path / "mine")
    assert main(["prepare", "--root", str(root), "--packages"]) == 0
    assert artifacts.load("packages").manifest["categories"] == ["package"]
    for option in ("--category", "--image-size"):
        assert main(["prepare", "--packages", "--root", str(root), option, "16"]) == 2
        assert f"{option} says nothing about packages" in capsys.readouterr().err


def test_the_real_packages(shared: Callable[[str], Path]) -> None:
    """As they are on the disk: 400 JPEG files take what they took, and every box fits."""
    root = shared("data/packages").parent
    path = prepare.prepare_packages(profile("full"), root=root, category="packages", progress=False)
    assert path.stat().st_size < 1.01 * sum(image.stat().st_size for image in (root / "packages").rglob("*.jpg"))
    table = index.read_category(prepare.unpack(artifacts.load(path)), "packages")
    assert table.groupby(["split", "label", "view"]).size().tolist() == [10] * 4 + [90] * 4
    assert ((table["box_path"] != "") == (table["split"] == "test")).all()
