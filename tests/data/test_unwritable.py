"""What the disk refuses is said in one line that names the place and the way out, and costs nothing that was there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision

from mvtec_ad import artifacts
from mvtec_ad.config import DataSettings
from mvtec_ad.data import acquire, digits
from mvtec_ad.data.acquire import archives, fetch, official
from mvtec_ad.data.prepare import unpack
from mvtec_ad.data.rendered import write_category, write_packages
from mvtec_ad.errors import DataError, MvtecAdError

FEW = DataSettings(
    image_size=32, rendered_train=1, rendered_test_good=1, rendered_per_defect=1, package_train=1, package_test=1
)
FULL = OSError(28, "No space left on device")


def refused(act: Callable[[], object], place: str, reason: str) -> None:
    """`act` must fail in one line of the package's own, with the place, the system's reason and a way out."""
    with pytest.raises(MvtecAdError) as caught:
        act()
    line = str(caught.value)
    assert place in line
    assert reason in line
    assert "make room or move what is in the way, or set MVTEC_AD_HOME to a folder of yours" in line
    assert "\n" not in line


def fail(problem: BaseException) -> Callable[..., None]:
    """A function that raises, whatever it is given."""

    def act(*arguments: object, **options: object) -> None:
        raise problem

    return act


def draw_bottle(root: Path, seed: int = 0) -> Path:
    return write_category(root, "bottle", train=1, test_good=0, per_defect=0, size=32, seed=seed, progress=False)


def draw_packages(root: Path, seed: int = 0) -> Path:
    return write_packages(root, train=1, test=0, size=(54, 96), seed=seed, progress=False)


@pytest.mark.parametrize("draw", [draw_bottle, draw_packages])
def test_nothing_is_drawn_below_a_file(tmp_path: Path, draw: Callable[[Path], Path]) -> None:
    """The root is a file."""
    (tmp_path / "root").write_text("mine")
    refused(lambda: draw(tmp_path / "root"), str(tmp_path / "root"), "File exists")
    assert (tmp_path / "root").read_text() == "mine"


@pytest.mark.parametrize("draw", [draw_bottle, draw_packages])
def test_a_full_disk_while_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., Path]) -> None:
    """An older set stays as it was, and nothing half-drawn beside it."""
    kept = {path: path.read_bytes() for path in draw(tmp_path / "root").rglob("*.*")}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail(FULL))
        refused(lambda: draw(tmp_path / "root", seed=1), "root", "No space left on device")
    assert {path: path.read_bytes() for path in (tmp_path / "root").rglob("*.*")} == kept


def test_an_older_set_returns_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was already moved aside when the disk refused."""
    kept = {path: path.read_bytes() for path in draw_bottle(tmp_path / "root").rglob("*.*")}
    rename, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(30, "Read-only file system")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second_fails)
        refused(lambda: draw_bottle(tmp_path / "root", seed=1), "bottle", "Read-only file system")
    assert {path: path.read_bytes() for path in (tmp_path / "root").rglob("*.*")} == kept


@pytest.mark.parametrize(
    ("find", "name"), [(acquire.locate, "bottle"), (acquire.locate_packages, "package")], ids=["locate", "packages"]
)
def test_a_file_where_drawn_images_go(own_home: Path, find: Callable[..., Path], name: str) -> None:
    """`data/rendered` is a file."""
    (own_home / "data").mkdir()
    (own_home / "data" / "rendered").write_text("mine")
    refused(lambda: find(name, source="rendered", settings=FEW), f"rendered/{name}", "File exists")


def test_a_file_where_an_archive_goes(own_home: Path) -> None:
    """`data/unpacked` is a file."""
    (own_home / "data").mkdir()
    (own_home / "data" / "unpacked").write_text("mine")
    (own_home / "mine.zip").write_bytes(b"PK\5\6" + bytes(18))  # an empty one
    refused(
        lambda: acquire.locate("part", root=own_home / "mine.zip"), "mine.zip cannot be unpacked", "Not a directory"
    )


@pytest.mark.parametrize("what", ["prepared", "folder"])
def test_a_file_where_an_artifact_is_unpacked(own_home: Path, what: str) -> None:
    """`data/prepared` is a file, or what goes below it has the name of one."""
    options = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 0}
    artifact = artifacts.load(artifacts.save("data", {"a.json": {}}, **options))
    place = own_home / "data" / "prepared"
    place = place if what == "prepared" else place / artifact.sha256[:12]
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    refused(lambda: unpack(artifact), f"{artifact.path} cannot be unpacked into", "")
    assert place.read_text() == "mine"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_part_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there is longer than the whole file, so it must go first."""
    (tmp_path / "part").write_bytes(b"too long")
    monkeypatch.setattr(Path, "unlink", fail(OSError(30, "Read-only file system")))
    refused(lambda: fetch.fetch("http://127.0.0.1:1/a", tmp_path / "part", size=3), "part", "Read-only file system")


@pytest.fixture
def fetched(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whatever is asked for is downloaded, and is not what it should be; returns the folder."""

    def put(url: str, path: Path, **options: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"downloaded")

    monkeypatch.setattr(official, "fetch", put)
    return own_home / "data" / "downloads"


@pytest.mark.parametrize("kind", ["good", "wrong"])
@pytest.mark.parametrize("name", ["bottle.tar.xz", official.ARCHIVE], ids=["category", "whole"])
def test_a_download_that_cannot_be_removed_or_renamed(
    fetched: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """After it was unpacked, or because it is not MVTec's."""
    monkeypatch.setenv("MVTEC_AD_URLS", f"http://127.0.0.1:1/{name}")
    monkeypatch.setattr(
        archives, "unpack", fail(archives.ArchiveError("damaged")) if kind == "wrong" else lambda *_, **__: 0
    )
    monkeypatch.setattr(official, "file_sha256", lambda _: official.catalog.ARCHIVE_SHA256 if kind == "good" else "")
    for operation in ("unlink", "rename"):
        monkeypatch.setattr(Path, operation, fail(OSError(13, "Permission denied")))
    refused(lambda: official.download("bottle"), f"{name} cannot be written", "Permission denied")


def test_digits_say_why_they_are_not_downloaded(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where they go is not the network's fault; without a wish for MNIST there are others."""
    monkeypatch.setattr(torchvision.datasets, "MNIST", fail(RuntimeError("Error downloading a.gz:\nTried nothing")))
    with pytest.raises(DataError, match=r"not be downloaded \(Error downloading a\.gz\), and .*mnist holds no digits"):
        digits.load("mnist")
    (own_home / "data" / "mnist").rmdir()
    (own_home / "data" / "mnist").write_text("mine")
    with pytest.raises(DataError, match=r"not be downloaded \(.*File exists.*\), and .*mnist holds no digits"):
        digits.load("mnist")
    assert "scikit-learn" in digits.load().source
