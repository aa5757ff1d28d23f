"""Images on a mounted drive: `MVTEC_AD_ROOT` with spaces in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from colab.stub import Colab
from IPython.core.interactiveshell import InteractiveShell

from mvtec_ad.data import index, sources
from mvtec_ad.errors import DataError


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_category: Callable[..., Path]) -> Path:
    """A mounted drive that holds the category `part`, in a folder and in a zip beside it."""
    (tmp_path / "content").mkdir()
    colab = Colab(tmp_path / "content")
    colab.install(monkeypatch)
    colab.mount("drive")
    drive = Path("drive/My Drive")
    make_category(drive / "MVTec AD", "part", train=2, test_good=1, defects={"patch": 1}, size=16)
    shutil.make_archive(str(drive / "raw data (1)"), "zip", drive / "MVTec AD")
    return drive


@pytest.mark.parametrize("name", ["MVTec AD", "raw data (1).zip"])
@pytest.mark.parametrize("home", ["content", "My Drive/a home"])
def test_images_are_read_from_a_drive(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, home: str
) -> None:
    """The folder, and the archive, which is unpacked below a home that may lie on the drive as well."""
    monkeypatch.setenv("MVTEC_AD_ROOT", str(drive / name))
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "content" / "drive" / home))
    root = sources.locate("part", source="mvtec_ad")
    table = index.read_category(root, "part")
    assert len(table) == 4
    assert all(Path(path).is_file() for path in table["image_path"])
    assert (root == drive / name) == (name == "MVTec AD")


def test_a_drive_that_is_not_mounted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart of the runtime; nothing is drawn in its place."""
    monkeypatch.setenv("MVTEC_AD_ROOT", str(tmp_path / "My Drive" / "MVTec AD"))
    with pytest.raises(DataError, match=r"MVTEC_AD_ROOT is .*My Drive/MVTec AD, which does not exist: mount its drive"):
        sources.locate("bottle")


def test_in_a_notebook_a_problem_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The calls that led to it help nobody who can mend it."""
    shell = InteractiveShell()
    shell.run_cell("from mvtec_ad.errors import DataError\nraise DataError('part has one image: add another')")
    assert capsys.readouterr().out.strip() == "DataError: part has one image: add another"
