"""A stub of google.colab with a user: what the browser's dialogs do to files, without a browser.

The behaviour is that of github.com/googlecolab/colabtools, google/colab/files.py at 0969d3a0, resources/files.js at
605a5ecd and drive.py at 0270a019.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest


class Colab:
    """google.colab, and the user in front of it; `install` makes `folder` the working folder, as /content is there.

    Attributes:
        choices: what the user chooses in the dialogs to come, first to last: names and bytes, or None to cancel.
        log: what was called with what the user chose or what the program asked for, in order: `("upload", "a.zip")`,
            `("download", "a.zip")`, `("mount", "/content/drive")`.
        downloads: the browser's folder: the names that downloads got there, with their bytes.

    Examples:
        >>> colab = Colab(tmp_path)
        >>> colab.install(monkeypatch)
        >>> colab.choices.append({"project.zip": b"..."})
    """

    def __init__(self, folder: Path, *, stored_names: bool = False) -> None:
        """With `stored_names`, an upload is returned under the name that it got on disk, not under the chosen one.

        The sources above return the chosen one; whether the newest runtimes still do could not be looked up.
        """
        self.folder = folder
        self.stored_names = stored_names
        self.choices: deque[dict[str, bytes] | None] = deque()
        self.log: list[tuple[str, ...]] = []
        self.downloads: dict[str, bytes] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the stub where imports and `sys.modules` find it, until `monkeypatch` takes it back."""
        module = types.ModuleType("google.colab")
        module.files = types.SimpleNamespace(upload=self.upload, download=self.download)
        module.drive = types.SimpleNamespace(mount=self.mount)
        try:
            google = importlib.import_module("google")  # TensorFlow's protobuf lies below this name as well
        except ModuleNotFoundError:
            google = types.ModuleType("google")
            monkeypatch.setitem(sys.modules, "google", google)
        monkeypatch.setattr(google, "colab", module, raising=False)
        monkeypatch.setitem(sys.modules, "google.colab", module)
        monkeypatch.chdir(self.folder)

    def upload(self) -> dict[str, bytes]:
        """Ask; what is chosen is written into the working folder, and nothing there is ever overwritten.

        An empty file never arrives. An upload that is cancelled returns an empty dictionary.
        """
        assert self.choices, "a dialog opened, and nobody was to answer it"
        chosen = self.choices.popleft() or {}
        self.log.append(("upload", *chosen))
        received = {}
        for name, content in chosen.items():
            assert "/" not in name, f"a browser sends no folders: {name}"
            if not content:
                continue
            stored = _numbered(name, os.path.lexists)
            print(f"Saving {name} to {stored}")
            Path(stored).write_bytes(content)
            received[stored if self.stored_names else name] = content
        return received

    def download(self, filename: str) -> None:
        """Send a file to the browser, which numbers a second one of the same name."""
        if not os.path.exists(filename):
            raise FileNotFoundError(filename)
        name = os.path.basename(filename)
        self.log.append(("download", name))
        self.downloads[_numbered(name, self.downloads.__contains__)] = Path(filename).read_bytes()

    def mount(self, mountpoint: str) -> None:
        """Mount a drive, empty at first: `My Drive` below the mount point, which `MyDrive` names as well."""
        self.log.append(("mount", mountpoint))
        drive = Path(mountpoint).expanduser() / "My Drive"
        if " " in mountpoint:
            raise ValueError("no mount point may hold a space")
        if drive.is_dir():
            print(f"Drive already mounted at {mountpoint}")
            return
        if drive.parent.is_dir() and any(drive.parent.iterdir()):
            raise ValueError("the mount point holds files already")
        drive.mkdir(parents=True)
        (drive.parent / "MyDrive").symlink_to(drive.name)


def _numbered(name: str, taken: Callable[[str], bool]) -> str:
    """`name`, or the first of `name (1)`, `name (2)`, … that is free; the number stands before the last suffix."""
    stem, suffix = os.path.splitext(name)
    return next(free for n in itertools.count() if not taken(free := f"{stem} ({n}){suffix}" if n else name))
