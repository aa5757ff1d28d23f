"""data.zip and packages.zip: the same images, masks, boxes and labels on the other side, and where they come from.

What is caught: pixels, names or groups that change on the way, sources that are mixed, a resize that is not
`loading.resize`, boxes that stay where they were, half a zip unpacked.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mvtec_ad import artifacts, config
from mvtec_ad.cli import main
from mvtec_ad.config import DataSettings, Profile, profile
from mvtec_ad.data import index, loading
from mvtec_ad.data.prepare import prepare, prepare_packages, unpack
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.synthetic import boxes, write_category

Maker = Callable[..., Path]
FEW = DataSettings(
    categories=("bottle",),
    image_size=32,
    synthetic_train=2,
    synthetic_test_good=1,
    synthetic_per_defect=1,
    package_train=2,
    package_test=1,
)


def run(*categories: str, size: int = 16) -> Profile:
    """The quick profile with few images, of other categories."""
    return Profile("quick", dataclasses.replace(FEW, categories=categories or ("bottle",), image_size=size))


def pixels(path: str | Path) -> np.ndarray:
    """By Pillow."""
    return np.asarray(Image.open(path))


@pytest.fixture
def root(tmp_path: Path, make_category: Maker) -> Path:
    """Two tiny categories of one's own, one of them without masks."""
    make_category(tmp_path / "own", "bolt", train=3, test_good=2, defects={"cut": 2, "dent": 1}, size=16, seed=1)
    return make_category(tmp_path / "own", "nut", train=2, test_good=1, defects={"cut": 1}, size=16, masks=False)


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


def test_images_and_labels_come_back(root: Path, tmp_path: Path) -> None:
    """Images of that size already are identical to the pixel; so are masks, labels and the table. Twice, the same."""
    path = prepare(run("bolt", "nut"), root=root, progress=False)
    artifact = artifacts.load("data", profile="quick", data_source="own")
    assert artifact.path == path
    unpacked = unpack(artifact)
    for category in ("bolt", "nut"):
        before, after = index.read_category(root, category), index.read_category(unpacked, category)
        same = ["image_id", "category", "split", "defect", "label", "view", "group"]
        assert before[same].equals(after[same])
        assert ((before["mask_path"] == "") == (after["mask_path"] == "")).all()
        for column in ("image_path", "mask_path"):
            for old, new in zip(before[column], after[column], strict=True):
                assert not old or np.array_equal(pixels(old), pixels(new))
    assert artifact.manifest["metrics"] == {"images": 8 + 4, "defective": 4}
    assert artifact.table("index.csv")["image_id"].is_unique
    assert index.data_source(unpacked, "bolt", index.read_category(unpacked, "bolt")) == "own"
    again = artifacts.load(prepare(run("bolt", "nut"), root=root, path=tmp_path / "again.zip", progress=False))
    assert again.manifest["members"] == artifact.manifest["members"]


def test_larger_images_are_resized_once(tmp_path: Path, make_category: Maker) -> None:
    """To what `resize` gives, masks by their nearest pixel."""
    make_category(tmp_path, "bolt", train=1, test_good=0, defects={"cut": 1}, size=50)
    unpacked = unpack(artifacts.load(prepare(run("bolt", size=32), root=tmp_path, progress=False)))
    for name in ("train/good/000", "test/cut/000"):
        image = pixels(tmp_path / "bolt" / f"{name}.png")
        found = pixels(unpacked / "bolt" / f"{name}.png")
        np.testing.assert_array_equal(found, loading.resize(image, 32))
    mask = pixels(tmp_path / "bolt" / "ground_truth/cut/000_mask.png")
    rows = np.floor((np.arange(32) + 0.5) * 50 / 32).astype(int)
    found = pixels(unpacked / "bolt" / "ground_truth/cut/000_mask.png")
    np.testing.assert_array_equal(found, mask[np.ix_(rows, rows)])


def test_a_plain_folder_becomes_good_training_images(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    """Own photographs, no layout."""
    write_image(tmp_path / "mine" / "a.bmp", np.full((16, 16, 3), 9, np.uint8))
    unpacked = unpack(artifacts.load(prepare(run("mine"), root=tmp_path, progress=False)))
    table = index.read_category(unpacked, "mine")
    assert table["image_id"].tolist() == ["mine/train/good/a"]
    assert (loading.read_image(table["image_path"][0]) == 9).all()


def test_synthetic_images_stay_synthetic(root: Path, own_home: Path, make_category: Maker) -> None:
    """Source, licence and severity survive the zip; without real images `auto` draws; sources are never mixed."""
    artifact = artifacts.load(prepare(run(size=32), progress=False))
    assert artifact.manifest["data_source"] == "synthetic"
    assert "no photograph" in artifact.json("licence.json")["licence"]
    unpacked = unpack(artifact)
    table = index.read_category(unpacked, "bottle")
    assert index.data_source(unpacked, "bottle", table) == "synthetic"
    assert len(table) == 6
    assert (table.loc[table["label"] == 1, "severity"] > 0).all()
    artifact.path.unlink()
    write_category(root, "screw", train=1, test_good=1, per_defect=1, size=32, progress=False)
    with pytest.raises(DataError, match="bolt: own, screw: synthetic"):
        prepare(run("bolt", "screw"), root=root, progress=False)
    assert not config.transfer_folder().joinpath("data.zip").exists()


def test_unpacking_twice_reuses_the_folder(root: Path) -> None:
    """Nothing is written again, nothing is left beside it; other content gets another folder."""
    artifact = artifacts.load(prepare(run("bolt"), root=root, progress=False))
    first = unpack(artifact)
    marker = first / "bolt" / "mark"
    marker.write_text("still here")
    assert unpack(artifact) == first
    assert marker.is_file()
    assert list(first.parent.iterdir()) == [first]
    other = unpack(artifacts.load(prepare(run("nut"), root=root, progress=False)))
    assert other != first
    assert first.is_dir()


def test_interrupted_unpacking_leaves_nothing_half_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call starts anew and succeeds."""
    artifact = artifacts.load(prepare(run("bolt"), root=root, progress=False))

    def fill_the_disk(self: artifacts.Artifact, folder: Path) -> None:
        (folder / "bolt").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.Artifact, "extract", fill_the_disk)
        with pytest.raises(ArtifactError, match="No space left"):
            unpack(artifact)
    folder = unpack(artifact)
    assert list(folder.parent.iterdir()) == [folder]
    assert len(index.read_category(folder, "bolt")) == 8


# --- items seen from several sides ------------------------------------------------------------------------------------


def test_images_keep_their_size_and_their_bytes(tmp_path: Path) -> None:
    """Whatever size the products of data.zip have; boxes, labels and groups come back with them."""
    root = make_line(tmp_path, "line")
    path = prepare_packages(run(), root=root, category="line", progress=False)
    artifact = artifacts.load("packages", profile="quick", data_source="own")
    assert artifact.path == path == config.transfer_folder() / "packages.zip"
    assert artifact.manifest["categories"] == ["line"]
    assert artifact.manifest["metrics"] == {"images": 8, "defective": 4}
    assert artifact.manifest["options"]["packages"] == "line"
    assert artifact.json("licence.json")["licence"].startswith("Own images")
    before = index.read_category(root, "line")
    after = index.read_category(unpack(artifact), "line")
    same = ["image_id", "split", "defect", "label", "view", "group"]
    assert after[same].equals(before[same])
    for old, new in zip(before.itertuples(), after.itertuples(), strict=True):
        assert Path(new.image_path).read_bytes() == Path(old.image_path).read_bytes()
        assert Path(new.image_path).suffix == Path(old.image_path).suffix.lower()
        if old.split == "test":
            assert boxes.read_annotation(new.box_path) == boxes.read_annotation(old.box_path)
    assert (after["box_path"] != "").sum() == 4


def test_other_formats_become_png_and_a_broken_image_gets_no_further(tmp_path: Path) -> None:
    """What an artifact does not hold, with the same pixels; also what would be copied is read first."""
    root = make_line(tmp_path, suffixes=(".bmp", ".tif"))
    path = prepare_packages(run(), root=root, progress=False)
    before, after = (index.read_category(folder, "package") for folder in (root, unpack(artifacts.load(path))))
    for old, new in zip(before["image_path"], after["image_path"], strict=True):
        assert new.endswith(".png")
        np.testing.assert_array_equal(pixels(new), pixels(old))
    path.unlink()
    root = make_line(tmp_path / "copied")
    broken = root / "package/train/intact/side/0_side.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"0_side\.png is cut off"):
        prepare_packages(run(), root=root, progress=False)
    assert not path.exists()


def test_a_line_in_data_zip(tmp_path: Path) -> None:
    """Layout and groups survive, a box is squeezed like its image; one of another size is found before writing."""
    root = make_line(tmp_path, "line")
    before = index.read_category(root, "line")
    table = index.read_category(
        unpack(artifacts.load(prepare(run("line", size=10), root=root, progress=False))), "line"
    )
    same = ["image_id", "split", "defect", "label", "view", "group"]
    assert table[same].equals(before[same])
    for number, box_path in ((2, table["box_path"].iloc[-4]), (3, table["box_path"].iloc[-1])):
        edges = ElementTree.parse(box_path).find("object/bndbox")
        # columns 5 or 6 to 32 of 40 are columns 1.25 or 1.5 to 8 of 10, rows 5 to 20 of 20 are rows 2.5 to 10 of 10
        assert [int(edge.text) for edge in edges] == [(3 + number) // 4, 2, 7, 9]
        assert boxes.read_annotation(box_path).size == (10, 10)
    wrong = next((root / "line/test/intact/side").glob("*.xml"))
    wrong.write_bytes(boxes.Annotation((540, 960), "intact", boxes.Box(1, 2, 3, 4)).xml("a.png"))
    with pytest.raises(DataError, match=r"_side\.xml is of an image of 960×540 but its image is 40×20"):
        prepare(run("line", size=10), root=root, progress=False)


def test_other_layouts_are_no_production_line(root: Path) -> None:
    """A product of MVTec AD has no views."""
    with pytest.raises(DataError, match=r"bolt is no production line: its images must lie in {train,test}/"):
        prepare_packages(run(), root=root, category="bolt", progress=False)


def test_beside_real_products_packages_are_synthetic(
    own_home: Path, make_category: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two artifacts, two sources, and a line that says so; nobody is asked for images that do not exist."""
    make_category(own_home / "data" / "mvtec_anomaly_detection", "bottle", train=2, test_good=1, size=16)
    prepare(run(), source="mvtec_ad", progress=False)
    assert artifacts.load("data").manifest["data_source"] == "own"
    prepare_packages(run(), source="mvtec_ad", progress=False)
    assert "no folder package in any place where images are looked for: packages are drawn" in capsys.readouterr().out
    artifact = artifacts.load("packages", data_source="synthetic")
    assert "no photograph" in artifact.json("licence.json")["licence"]
    unpacked = unpack(artifact)
    table = index.read_category(unpacked, "package")
    assert index.data_source(unpacked, "package", table) == "synthetic"
    assert table.groupby(["split", "label", "view"]).size().tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert (table["severity"] > 0).equals(table["label"] == 1)
    lossless = index.read_category(own_home / "data" / "synthetic", "package")
    at_the_line_itself = own_home / "data" / "synthetic" / "package"  # as `check` says it
    prepare_packages(run(), root=at_the_line_itself, path=own_home / "same.zip", progress=False)
    assert artifacts.load(own_home / "same.zip").sha256 == artifact.sha256
    for new, old in zip(table["image_path"], lossless["image_path"], strict=True):
        difference = loading.read_image(new).astype(int) - loading.read_image(old)
        assert difference.shape == (270, 480, 3)
        assert np.abs(difference).mean() < 2.5  # gray levels: a JPEG of noise
        assert Path(new).stat().st_size < Path(old).stat().st_size / 3


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


@pytest.mark.parametrize("zipped", [False, True])
def test_packages_as_their_authors_ship_them(tmp_path: Path, capsys: pytest.CaptureFixture[str], zipped: bool) -> None:
    """The command says what it read; what it writes lies in train/ and test/, under the name that notebooks know."""
    generator, root = np.random.default_rng(0), tmp_path / "Quality Control"
    for number, state in enumerate(["intact"] * 3 + ["damaged"] * 2):
        for view in ("side", "top"):
            path = root / state / view / f"{number}_{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (20, 40, 3), np.uint8)).save(path)
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "kaggle"), "zip", tmp_path, root.name))
    assert main(["prepare", "--root", str(root), "--packages"]) == 0
    out = capsys.readouterr().out
    assert ": 5 items in side and top view, train: 2 good, 1 damaged; test: 1 good, 1 damaged; cut by item" in out
    assert "packages.zip: 10 images of package (4 defective), source own" in out
    table = index.read_category(unpack(artifacts.load("packages")), "package")
    for row in table.itertuples():
        number = row.group.removeprefix("package/")
        split, state = ("test" if number in "03" else "train"), ("damaged" if number in "34" else "intact")
        assert Path(row.image_path).as_posix().endswith(f"package/{split}/{state}/{row.view}/{number}_{row.view}.png")
        written = tmp_path / "Quality Control" / state / row.view / Path(row.image_path).name
        assert Path(row.image_path).read_bytes() == written.read_bytes()
    assert len(table) == 10


def test_the_real_packages(shared: Callable[[str], Path]) -> None:
    """As they are on the disk: 400 JPEG files take what they took, and every box fits."""
    root = shared("data/packages").parent
    path = prepare_packages(profile("full"), root=root, category="packages", progress=False)
    assert path.stat().st_size < 1.01 * sum(image.stat().st_size for image in (root / "packages").rglob("*.jpg"))
    table = index.read_category(unpack(artifacts.load(path)), "packages")
    assert table.groupby(["split", "label", "view"]).size().tolist() == [10] * 4 + [90] * 4
    assert ((table["box_path"] != "") == (table["split"] == "test")).all()
