"""The setup cell in Colab: whatever lies there and whatever is chosen, it ends installed or in one line.

The real text runs in a real IPython shell, with google.colab's stub and with a pip that writes down what it is asked.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shlex
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from colab.stub import Colab
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

PROJECT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/someone/somewhere"


def packed(files: dict[str, str]) -> bytes:
    """A zip of texts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def project(folder: str = "", version: str = "1", beside: dict[str, str] | None = None) -> bytes:
    """The project as a zip, in a folder of it or not."""
    toml = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    return packed(
        {
            f"{folder}pyproject.toml": toml,
            f"{folder}mvtec_ad/version": version,
            f"{folder}notebooks/01.ipynb": "{}" * 9,
        }
        | (beside or {})
    )


WHOLE = project()
# Cut off, as an upload that was interrupted leaves it; and damaged in the last of its files alone, where 255 begins
# nothing that can be unpacked.
CUT = WHOLE[: len(WHOLE) * 2 // 3]
AT = WHOLE.index(b"01.ipynb") + len(b"01.ipynb")
DAMAGED = WHOLE[:AT] + b"\xff" + WHOLE[AT + 1 :]
OTHER = packed({"pyproject.toml": '[project]\nname = "another"\n', "mvtec_ad/version": "1"})


class Runtime:
    """A runtime of Colab: a disk, and a kernel that can be restarted.

    Attributes:
        colab: google.colab and its user.
        asked: pip's command lines, in order.
        failing: pip fails where its command line holds this text.
    """

    def __init__(self, colab: Colab, site: Path) -> None:
        self.colab, self.site = colab, site
        self.asked: list[str] = []
        self.failing = ""
        self.restart()

    def restart(self) -> None:
        """A new kernel: the disk stays."""
        config = Config()
        config.HistoryManager.enabled = False
        self.shell = InteractiveShell(config=config, user_module=types.ModuleType("cells"))
        self.shell.register_magic_function(self.pip, "line", "pip")

    def pip(self, line: str) -> None:
        """Note the line; where it names the package's folder or address, put it onto the disk."""
        self.asked.append(line)
        if self.failing and self.failing in line:
            return
        target = shlex.split(line)[-1]
        if target.startswith("git+"):
            (self.site / "mvtec_ad").write_text(target)
        elif "/" in target:
            assert (Path(target) / "pyproject.toml").is_file()
            (self.site / "mvtec_ad").write_text((Path(target) / "mvtec_ad" / "version").read_text())

    def run(self, text: str) -> str | None:
        """Run a cell; the line that it stopped with."""
        shown: list[str] = []
        self.shell._showtraceback = lambda kind, problem, lines: shown.extend(lines)
        done = self.shell.run_cell(text)
        if done.success:
            return None
        assert type(done.error_in_exec).__name__ == "SetupError", shown
        (line,) = shown
        assert "\n" not in line
        return line

    @property
    def version(self) -> str | None:
        """What is installed."""
        path = self.site / "mvtec_ad"
        return path.read_text() if path.exists() else None

    @property
    def here(self) -> set[str]:
        """The names in the working folder."""
        return {path.name for path in self.colab.folder.iterdir()}


@pytest.fixture(scope="module")
def setup_cell() -> Callable[[str | None], str]:
    """The text for an address, of notebooks/build.py."""
    spec = importlib.util.spec_from_file_location("build", PROJECT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.setup_cell


@pytest.fixture
def text(setup_cell: Callable[[str | None], str]) -> str:
    """The cell where no address is set."""
    return setup_cell(None)


@pytest.fixture(params=[False, True], ids=["chosen-names", "stored-names"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A fresh one: the package is not installed, and the working folder's name holds a space."""
    folder, site = tmp_path / "the content", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    colab = Colab(folder, stored_names=request.param)
    colab.install(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        if name == "mvtec_ad":
            return (site / name).exists() or None
        return real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return Runtime(colab, site)


MACOS = {"__MACOSX/my project/._pyproject.toml": "attributes", "__MACOSX/._my project": "attributes"}
# what lies there, what is chosen (None: nothing is asked)
WAYS: dict[str, tuple[dict[str, bytes], dict[str, bytes] | None]] = {
    "lies there": ({"project.zip": WHOLE}, None),
    "lies there under the second name": ({"project (1).zip": WHOLE}, None),
    "chosen": ({}, {"project.zip": WHOLE}),
    "chosen under the second name": ({}, {"project (1).zip": WHOLE}),
    "GitHub's, one folder deep": ({}, {"mvtec-ad-notebooks-main.zip": project("mvtec-ad-notebooks-main/")}),
    "macOS's, one folder deep": ({}, {"my project.zip": project("my project/", beside=MACOS)}),
    "chosen with another": ({}, {"notes.txt": b"hello", "project.zip": WHOLE}),
    "a wrong one lies there": ({"project.zip": OTHER}, {"project.zip": WHOLE}),
    "a cut one lies there": ({"project.zip": CUT}, {"project.zip": WHOLE}),
    "a cut one came after a whole one": ({"project.zip": WHOLE, "project (1).zip": CUT}, None),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_project_is_installed_whatever_way_it_comes(runtime: Runtime, text: str, way: str) -> None:
    """Once: run again, or in a new kernel, the cell does nothing. What lay there stays."""
    lying, chosen = WAYS[way]
    for at, (name, content) in enumerate(lying.items()):
        Path(name).write_bytes(content)
        os.utime(name, (at, at))
    runtime.colab.choices += [] if chosen is None else [chosen]
    assert runtime.run(text) is None
    assert runtime.version == "1"
    more, own = runtime.asked
    assert re.search(r"\bcaptum\b", more)
    assert "--no-deps" in own
    assert set(lying) <= runtime.here
    before = (list(runtime.asked), list(runtime.colab.log))
    assert runtime.run(text) is None
    runtime.restart()
    assert runtime.run(text) is None
    assert (runtime.asked, runtime.colab.log) == before


REFUSED: dict[str, dict[str, bytes] | None] = {
    "cancelled": None,
    "empty": {"project.zip": b""},
    "another project": {"project.zip": OTHER},
    "an artifact": {"padim.zip": packed({"manifest.json": "{}"})},
    "cut off": {"project.zip": CUT},
    "cut off under the second name": {"project (1).zip": CUT},
    "damaged": {"project.zip": DAMAGED},
    "no zip": {"project.zip": b"hello"},
    "two that are none": {"project.zip": CUT, "data.zip": OTHER},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_project_is_named_and_asked_for_again(runtime: Runtime, text: str, case: str) -> None:
    """pip is not called, the upload is gone, what lay there before is untouched."""
    Path("padim.zip").write_bytes(b"of an earlier notebook")
    chosen = REFUSED[case]
    runtime.colab.choices.append(chosen)
    line = runtime.run(text)
    assert line.endswith("run this cell again")
    received = {name: content for name, content in (chosen or {}).items() if content}
    for name, content in received.items():
        assert re.search(rf"{re.escape(Path(name).stem)}( \(1\))?\.zip with {len(content):,} bytes", line)
    assert ("nothing" in line) == (not received)
    assert (runtime.asked, runtime.here) == ([], {"padim.zip"})
    assert Path("padim.zip").read_bytes() == b"of an earlier notebook"
    runtime.colab.choices.append({"project.zip": WHOLE})
    assert runtime.run(text) is None
    assert runtime.version == "1"


def test_the_newest_of_two_is_installed(runtime: Runtime, text: str) -> None:
    """Whoever uploads again wants the new one."""
    for name, version, time in (("project.zip", "old", 1), ("project (1).zip", "new", 2)):
        Path(name).write_bytes(project(version=version))
        os.utime(name, (time, time))
    assert runtime.run(text) is None
    assert runtime.version == "new"


def test_a_kernel_restarted_within_the_cell_goes_on(runtime: Runtime, text: str) -> None:
    """What Colab lacks is there, the package not yet; the zip still lies there."""
    runtime.failing = "--no-deps"
    runtime.colab.choices.append({"project.zip": WHOLE})
    assert "pip" in runtime.run(text)
    runtime.failing = ""
    runtime.restart()
    assert runtime.run(text) is None
    assert runtime.version == "1"
    assert len(runtime.colab.log) == 1


def test_with_an_address_nothing_is_asked(runtime: Runtime, setup_cell: Callable[[str | None], str]) -> None:
    """Also where a zip lies there; a second run and a new kernel do nothing."""
    Path("project.zip").write_bytes(CUT)
    text = setup_cell(ADDRESS)
    for _ in range(2):
        assert runtime.run(text) is None
        runtime.restart()
    more, own = runtime.asked
    assert re.search(r"\bcaptum\b", more)
    assert shlex.split(own) == ["install", "-q", "--no-deps", f"git+{ADDRESS}"]
    assert runtime.colab.log == []


@pytest.mark.parametrize(
    ("address", "way_out"),
    [
        (None, "pip install -e '.[notebooks]'"),
        (ADDRESS, f"pip install 'mvtec-ad-notebooks[notebooks] @ git+{ADDRESS}'"),
    ],
)
def test_outside_of_colab_one_line_says_how_to_install(
    runtime: Runtime,
    setup_cell: Callable[[str | None], str],
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    way_out: str,
) -> None:
    """Nothing is installed into an environment that is the user's own."""
    monkeypatch.delitem(sys.modules, "google.colab")
    Path("project.zip").write_bytes(WHOLE)
    assert way_out in runtime.run(setup_cell(address))
    assert runtime.asked == []


def test_a_pip_that_fails_is_one_line(runtime: Runtime, setup_cell: Callable[[str | None], str]) -> None:
    """An address that is private, a network that is down."""
    runtime.failing = "install"
    assert "pip could not install" in runtime.run(setup_cell(ADDRESS))
