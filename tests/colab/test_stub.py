"""The stub of google.colab does to files what the real module does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from colab.stub import Colab


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Colab:
    """Colab, its working folder empty and its name with a space."""
    (tmp_path / "the content").mkdir()
    colab = Colab(tmp_path / "the content")
    colab.install(monkeypatch)
    return colab


def test_an_upload_lands_in_the_working_folder_and_overwrites_nothing(colab: Colab) -> None:
    """The second of a name is numbered on disk, and returned under the chosen one, as in the sources we could read."""
    from google.colab import files

    colab.choices += [{"a.zip": b"1", "empty.zip": b""}, {"a.zip": b"2"}, None, {"a.zip": b"3"}]
    assert [files.upload() for _ in range(4)] == [{"a.zip": b"1"}, {"a.zip": b"2"}, {}, {"a.zip": b"3"}]
    on_disk = {path.name: path.read_bytes() for path in colab.folder.iterdir()}
    assert on_disk == {"a.zip": b"1", "a (1).zip": b"2", "a (2).zip": b"3"}
    assert colab.log == [("upload", "a.zip", "empty.zip"), ("upload", "a.zip"), ("upload",), ("upload", "a.zip")]
    colab.stored_names = True
    colab.choices.append({"a.zip": b"4"})
    assert files.upload() == {"a (3).zip": b"4"}
    with pytest.raises(AssertionError, match="nobody"):
        files.upload()


def test_a_download_must_exist_and_its_second_is_numbered(colab: Colab) -> None:
    """What the browser holds is what lay there at the time."""
    from google.colab import files

    with pytest.raises(FileNotFoundError, match=r"a\.zip"):
        files.download("deep/a.zip")
    for content in (b"1", b"2"):
        Path("a.zip").write_bytes(content)
        files.download("a.zip")
    assert colab.downloads == {"a.zip": b"1", "a (1).zip": b"2"}
    assert colab.log == [("download", "a.zip")] * 2


def test_a_drive_is_mounted_once_where_nothing_lies(colab: Colab) -> None:
    """`My Drive` and `MyDrive` are one folder."""
    from google.colab import drive

    drive.mount("drive")
    (colab.folder / "drive" / "MyDrive" / "a.txt").write_text("here")
    drive.mount("drive")
    assert (colab.folder / "drive" / "My Drive" / "a.txt").read_text() == "here"
    with pytest.raises(ValueError, match="files"):
        drive.mount(".")
    with pytest.raises(ValueError, match="space"):
        drive.mount("my drive")


def test_the_stub_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither the module nor the working folder, and `google` is what it was."""
    before, folder = sys.modules.get("google"), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        Colab(tmp_path).install(patch)
        assert Path.cwd() == tmp_path
        assert sys.modules["google"].colab is sys.modules["google.colab"]
    assert Path.cwd() == folder
    assert "google.colab" not in sys.modules
    assert not hasattr(sys.modules.get("google"), "colab")
    assert before in (None, sys.modules.get("google"))
