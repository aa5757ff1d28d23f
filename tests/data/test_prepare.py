"""Where images come from, and data.zip: the same images and labels on the other side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvtec_ad import artifacts, config
from mvtec_ad.config import DataSettings, Profile, profile
from mvtec_ad.data import acquire, decoding, index, loading
from mvtec_ad.data.prepare import prepare, unpack
from mvtec_ad.data.rendered import write_category
from mvtec_ad.errors import ArtifactError, DataError

Maker = Callable[..., Path]
SIDE = 16
FEW = DataSettings(categories=("bottle",), image_size=32, rendered_train=2, rendered_test_good=1, rendered_per_defect=1)


def settings_for(*categories: str, size: int = SIDE) -> Profile:
    """The quick profile with other categories."""
    return replace(profile("quick"), data=DataSettings(categories=categories, image_size=size))


@pytest.fixture
def root(tmp_path: Path, make_category: Maker) -> Path:
    """Two tiny categories of one's own, one of them without masks."""
    make_category(tmp_path / "own", "bolt", train=3, test_good=2, defects={"cut": 2, "dent": 1}, size=SIDE, seed=1)
    return make_category(tmp_path / "own", "nut", train=2, test_good=1, defects={"cut": 1}, size=SIDE, masks=False)


def test_images_and_labels_come_back(root: Path) -> None:
    """Images of that size already are identical to the pixel; so are masks, labels and the table."""
    path = prepare(settings_for("bolt", "nut"), root=root, progress=False)
    artifact = artifacts.load("data", profile="quick", data_source="own")
    assert artifact.path == path
    unpacked = unpack(artifact)
    for category in ("bolt", "nut"):
        before, after = index.read_category(root, category), index.read_category(unpacked, category)
        same = ["image_id", "category", "split", "defect", "label", "view", "group"]
        pd.testing.assert_frame_equal(before[same], after[same])
        assert ((before["mask_path"] == "") == (after["mask_path"] == "")).all()
        for old, new in zip(before.itertuples(), after.itertuples(), strict=True):
            np.testing.assert_array_equal(
                np.asarray(Image.open(old.image_path)), np.asarray(Image.open(new.image_path))
            )
            if old.mask_path:
                np.testing.assert_array_equal(
                    np.asarray(Image.open(old.mask_path)), np.asarray(Image.open(new.mask_path))
                )
    assert artifact.manifest["metrics"] == {"images": 8 + 4, "defective": 4}
    assert artifact.table("index.csv")["image_id"].is_unique
    assert index.data_source(unpacked, "bolt", index.read_category(unpacked, "bolt")) == "own"


def test_larger_images_are_resized_once(tmp_path: Path, make_category: Maker) -> None:
    """To what `resize` gives, masks by their nearest pixel."""
    make_category(tmp_path, "bolt", train=1, test_good=0, defects={"cut": 1}, size=50)
    unpacked = unpack(artifacts.load(prepare(settings_for("bolt", size=32), root=tmp_path, progress=False)))
    for name in ("train/good/000", "test/cut/000"):
        image = np.asarray(Image.open(tmp_path / "bolt" / f"{name}.png"))
        found = np.asarray(Image.open(unpacked / "bolt" / f"{name}.png"))
        np.testing.assert_array_equal(found, loading.resize(image, 32))
    mask = np.asarray(Image.open(tmp_path / "bolt" / "ground_truth/cut/000_mask.png"))
    rows = np.floor((np.arange(32) + 0.5) * 50 / 32).astype(int)
    found = np.asarray(Image.open(unpacked / "bolt" / "ground_truth/cut/000_mask.png"))
    np.testing.assert_array_equal(found, mask[np.ix_(rows, rows)])


def test_a_plain_folder_becomes_good_training_images(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    """Own photographs, no layout."""
    write_image(tmp_path / "mine" / "a.bmp", np.full((SIDE, SIDE, 3), 9, np.uint8))
    unpacked = unpack(artifacts.load(prepare(settings_for("mine"), root=tmp_path, progress=False)))
    table = index.read_category(unpacked, "mine")
    assert table["image_id"].tolist() == ["mine/train/good/a"]
    assert (decoding.read_image(table["image_path"][0]) == 9).all()


def test_the_same_images_give_the_same_members(root: Path, tmp_path: Path) -> None:
    """Twice prepared, twice the same bytes in every member."""
    hashes = [
        artifacts.load(prepare(settings_for("bolt"), root=root, path=tmp_path / f"{run}.zip", progress=False)).manifest[
            "members"
        ]
        for run in range(2)
    ]
    assert hashes[0] == hashes[1]


def test_drawn_images_stay_drawn_images() -> None:
    """Source, licence and severity survive the zip; without real images `auto` draws."""
    path = prepare(replace(profile("quick"), data=FEW), progress=False)
    artifact = artifacts.load(path)
    assert artifact.manifest["data_source"] == "rendered"
    assert "no photograph" in artifact.json("licence.json")["licence"]
    unpacked = unpack(artifact)
    table = index.read_category(unpacked, "bottle")
    assert index.data_source(unpacked, "bottle", table) == "rendered"
    assert len(table) == 6
    assert (table.loc[table["label"] == 1, "severity"] > 0).all()


def test_sources_are_never_mixed(root: Path) -> None:
    """A number from drawn images must not stand beside one from photographs."""
    write_category(root, "screw", train=1, test_good=1, per_defect=1, size=32, progress=False)
    with pytest.raises(DataError, match="bolt: own, screw: rendered"):
        prepare(settings_for("bolt", "screw"), root=root, progress=False)
    assert not config.transfer_folder().joinpath("data.zip").exists()


def test_unpacking_twice_reuses_the_folder(root: Path) -> None:
    """Nothing is written again, nothing is left beside it; other content gets another folder."""
    artifact = artifacts.load(prepare(settings_for("bolt"), root=root, progress=False))
    first = unpack(artifact)
    marker = first / "bolt" / "mark"
    marker.write_text("still here")
    assert unpack(artifact) == first
    assert marker.is_file()
    assert list(first.parent.iterdir()) == [first]
    other = unpack(artifacts.load(prepare(settings_for("nut"), root=root, progress=False)))
    assert other != first
    assert first.is_dir()


def test_interrupted_unpacking_leaves_nothing_half_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call starts anew and succeeds."""
    artifact = artifacts.load(prepare(settings_for("bolt"), root=root, progress=False))

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


def test_a_named_root_is_taken_as_it_is(tmp_path: Path) -> None:
    """Even where the category is missing: reading it says so."""
    assert acquire.locate("bottle", root=tmp_path) == tmp_path


@pytest.mark.parametrize("place", ["MVTEC_AD_ROOT", "data/mvtec_anomaly_detection"])
def test_real_images_are_preferred(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, make_category: Maker, place: str
) -> None:
    """Where either place holds the category; where it does not, and when told so, images are drawn."""
    real = own_home / "data" / "mvtec_anomaly_detection" if "/" in place else own_home / "elsewhere"
    if "/" not in place:
        monkeypatch.setenv(place, str(real))
    make_category(real, "bottle", train=1, size=8)
    assert acquire.locate("bottle", settings=FEW) == real
    assert acquire.locate("bottle", source="mvtec_ad", settings=FEW) == real
    drawn = acquire.locate("bottle", source="rendered", settings=FEW)
    assert drawn == own_home / "data" / "rendered"
    assert len(index.read_category(drawn, "bottle")) == 6
    assert acquire.locate("screw", settings=FEW) == drawn
    monkeypatch.setenv("MVTEC_AD_SOURCE", "rendered")
    assert acquire.locate("bottle", source="mvtec_ad", settings=FEW) == drawn


@pytest.mark.parametrize(
    ("category", "source", "words"),
    [
        ("bottle", "mvtec_ad", "real MVTec AD images of bottle are not on disk: download it"),
        ("cable_tie", "auto", "cable_tie can be drawn by none of our programs"),
        ("cable_tie", "rendered", "cable_tie can be drawn by none"),
        ("bottle", "photographs", "'photographs' is unknown: use one of auto, mvtec_ad, rendered"),
    ],
)
def test_images_that_cannot_be_had(category: str, source: str, words: str) -> None:
    """The message says where to put them."""
    with pytest.raises(DataError, match=words) as caught:
        acquire.locate(category, source=source)
    assert "\n" not in str(caught.value)
