"""What importing costs, in which order the frameworks may come, and which room may import which."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# A room imports only rooms that stand before it.
FLOORS = [
    "errors",
    "schema",
    "drift",
    "frameworks",
    "config",
    "settings",
    "artifacts",
    "regions",
    "synthetic",
    "data",
    "edge",
    "metrics",
    "plotting",
    "backbones",
    "augment",
    "training",
    "tiles",
    "methods",
    "course",
    "inspection",
    "serving",
    "benchmark",
    "pages",
    "report",
    "export",
    "notebooks",
    "stages",
    "commands",
    "cli",
]
PACKAGE = Path(__file__).resolve().parents[1] / "mvtec_ad"


def run_child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in the checkout."""
    return subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)


@pytest.mark.parametrize(
    "code",
    [
        "import mvtec_ad",
        "from mvtec_ad.cli import main\ntry:\n    main(['evaluate', '--help'])\nexcept SystemExit:\n    pass",
        "from mvtec_ad.cli import main\nmain(['results'])",
        "from mvtec_ad.notebooks import lesson",
        "from mvtec_ad.course import check\ncheck('02.gaussians', 1)",
    ],
    ids=["import", "help", "results", "notebook", "course"],
)
def test_no_framework_is_loaded_before_it_is_needed(code: str) -> None:
    """Neither importing the package nor asking for help costs seconds; nor what every notebook and lab imports."""
    names = "('torch', 'tensorflow', 'keras', 'nbformat')"
    child = run_child(f"{code}\nimport sys\nprint('loaded', [name for name in {names} if name in sys.modules])")
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == "loaded []"


# Imports once, then runs each piece of code in a fork of itself: what it writes, and its exit status in a line.
FORKS = """
{first}
import os, sys, traceback
for code in {codes!r}:
    child = os.fork()
    if child == 0:
        status = 1
        os.dup2(1, 2)
        try:
            exec(code)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    print("ended:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
BACKBONE = """
from mvtec_ad.backbones import load_backbone
print([tuple(x.shape) for x in load_backbone({!r}, 'random')(__import__('numpy').zeros((1, 64, 64, 3), 'uint8'))])
"""
RESNET = "[(1, 16, 16, 64), (1, 8, 8, 128), (1, 4, 4, 256)]"
LITE = "[(1, 16, 16, 24), (1, 8, 8, 40), (1, 4, 4, 112)]"
MOBILENET = "[(1, 16, 16, 128), (1, 8, 8, 256), (1, 4, 4, 512)]"
# torch's first optimiser would load triton, which ends the process where TensorFlow was first: of a training, and of a
# latent search
TRAINING = """
import numpy
from mvtec_ad.methods.anogan import Anogan
good = numpy.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), 'uint8')
detector = Anogan(image_size=16, crop=16, width=2, steps=1, search_steps=1).fit(good)
print(detector.score(good[:2]).maps.shape)
"""
UMAP = """
from mvtec_ad.frameworks import import_umap
assert import_umap() is import_umap()
print('tensorflow' in sys.modules, 'umap.parametric_umap' in sys.modules)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked as POSIX does it")
@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (
            "import tensorflow, torch",  # torch alone is harmless: once for all three
            {
                BACKBONE.format("resnet18"): RESNET,
                BACKBONE.format("efficientnet_lite0"): LITE,
                BACKBONE.format("timm:tf_efficientnet_lite0"): LITE,
                TRAINING: "(2, 16, 16)",
            },
        ),
        (
            "from mvtec_ad.frameworks import import_tensorflow; import_tensorflow()",
            {BACKBONE.format("resnet18"): RESNET},
        ),
        # UMAP would import TensorFlow for a variant that is not used; and that can still be imported afterwards
        ("import torch, torchvision", {BACKBONE.format("keras:mobilenet"): MOBILENET, UMAP: "False False"}),
    ],
    ids=["raw tensorflow", "tensorflow", "torchvision"],
)
def test_either_framework_may_come_first(first: str, expected: dict[str, str]) -> None:
    """The second framework works, without an abort and without a warning of ours to explain."""
    child = run_child(FORKS.format(first=first, codes=list(expected)))
    assert child.returncode == 0, child.stderr
    assert "Warning:" not in child.stdout
    lines = child.stdout.splitlines()
    ends = [number for number, line in enumerate(lines) if line.startswith("ended:")]
    assert [lines[number] for number in ends] == ["ended: 0"] * len(expected), child.stdout
    assert [lines[number - 1] for number in ends] == list(expected.values())


def imported_rooms(code: str, package: list[str]) -> set[str]:
    """Rooms of mvtec_ad that a module imports anywhere in it, "" for the root itself.

    Args:
        code: of the module.
        package: dotted parts of the package it lies in, for relative imports.
    """
    modules: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules += [f"{module}.{alias.name}" if module == "mvtec_ad" else module for alias in node.names]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"mvtec_ad(\.\w+)+", str(node.value)):
            modules.append(str(node.value))  # imported by name later
    rooms = {module.split(".")[1] if "." in module else "" for module in modules if module.split(".")[0] == "mvtec_ad"}
    return {room if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file() else "" for room in rooms}


@pytest.mark.parametrize(
    ("code", "rooms"),
    [
        ("import mvtec_ad.methods.padim", {"methods"}),
        ("from mvtec_ad import artifacts, errors", {"artifacts", "errors"}),
        ("from mvtec_ad import __version__", {""}),
        ("from mvtec_ad.data import index", {"data"}),
        ("from . import index", {"data"}),
        ("from .. import methods", {"methods"}),
        ("from ..methods.padim import Padim", {"methods"}),
        ("def late():\n    from mvtec_ad.benchmark import run", {"benchmark"}),
        ("METHODS = {'padim': ('mvtec_ad.methods.padim', 1)}", {"methods"}),
        ("import torch, os.path", set()),
    ],
)
def test_imported_rooms_sees_every_form(code: str, rooms: set[str]) -> None:
    """The check below would notice a wrong import in each of these forms."""
    assert imported_rooms(code, ["mvtec_ad", "data"]) == rooms


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.name.startswith("__"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    """The floor rule of the design."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    assert parts[0] in FLOORS, f"give {parts[0]} its place in FLOORS"
    allowed = set(FLOORS[: FLOORS.index(parts[0]) + 1]) | ({""} if parts[0] == "cli" else set())  # which tells versions
    found = imported_rooms(path.read_text(encoding="utf-8"), ["mvtec_ad", *parts[:-1]])
    assert found <= allowed, f"{path.name} imports {sorted(found - allowed)}"
