"""Random command lines, made from the parser itself: each works, or ends with exit status 2 and one line, no traceback.

The images are tiny, the networks do nothing but average, a training takes one step, notebooks are not executed, and
nobody answers on the network; every check before, between and after these is the real one. More of it by hand:
`FUZZ_SEED=1 FUZZ_CALLS=5000 python -m pytest tests/test_fuzz_command_line.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mvtec_ad import notebooks, synthetic
from mvtec_ad.backbones import backbone, keras_networks
from mvtec_ad.backbones.backbone import Backbone
from mvtec_ad.backbones.trunk import load_trunk, trunk
from mvtec_ad.cli import COMMANDS, Parser, main
from mvtec_ad.config import NAMED_WEIGHTS
from mvtec_ad.errors import MvtecAdError
from mvtec_ad.methods import METHODS, WITH_LABELS, anogan, pretraining
from mvtec_ad.training import Run

CALLS, SEED = int(os.environ.get("FUZZ_CALLS", 500)), int(os.environ.get("FUZZ_SEED", 21))
NUMBERS = [
    "0",
    "-1",
    "1.5",
    "2147483648",
    "4294967296",
    "1000000000000",
    "1e12",
    "1e300",
    "-1e300",
    "1e-300",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "١٢",
    "1_0",
    "true",
    "none",
]
NUMBERS += ["1" + "0" * 30, "9" * 5000, "100000", "", " ", "1\n2"]
TEXTS = [
    "",
    " ",
    "x" * 300,
    "é" * 200,
    "a\nb",
    "a\tb",
    "\udcff",
    "\u2028",
    "../x",
    "a/b",
    "a:b",
    "%s",
    "{}",
    "$x$",
    "--",
    "-x",
]
TEXTS += [
    "none",
    "nan",
    "[0]",
    "con",
    "part",
    "imagenet",
    "keras:mobilenet",
    "padim,steps=",
    "padim:nope",
    "padim,name=",
]
VALID_NUMBERS = ("1", "2", "3", "32", "0.5")


@contextlib.contextmanager
def small_world(make_category: Callable[..., Path], home: Path) -> Iterator[dict[str, Any]]:
    """A home with images, an artifact and notebooks; what is heavy or leaves this machine is replaced."""
    make_category(home / "root", "part", train=20, test_good=3, defects={"patch": 3, "hole": 3}, size=32)
    make_category(home / "root", "few", train=3, test_good=0, defects={}, size=32)
    (home / "notebooks").mkdir()
    for number in ("01", "02"):
        nbformat.write(nbformat.v4.new_notebook(), home / "notebooks" / f"{number}_x.ipynb")
    (home / "file.txt").write_text("no image")
    (home / "folder").mkdir()
    (home / "docs").mkdir()
    (home / "docs" / "results.md").write_text("<!-- results: start -->\n<!-- results: end -->\n")

    def averages(pixels: np.ndarray) -> list[Tensor]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        layers = [torch.nn.functional.adaptive_avg_pool2d(images, max(1, pixels.shape[1] // s)) for s in (4, 8, 16)]
        return [layer.permute(0, 2, 3, 1) for layer in layers]

    def network(name: str, weights: str) -> Backbone:
        if weights not in NAMED_WEIGHTS:
            load_trunk(trunk(name), name, weights)  # which says what is wrong with a file
        return Backbone(name, weights, True, averages, source=weights)

    def unreachable(*_: Any, **__: Any) -> NoReturn:
        raise URLError("nobody answers")

    def pretrained(options: Any, bank: Any, *, checkpoint: Path, until: int | None, progress: bool = True) -> Any:
        if checkpoint:
            checkpoint.touch()
        return pretraining.Trunk(), pd.DataFrame({"step": [0], "loss": [1.0]})

    def drawn(root: Path, category: str = "package", **_: Any) -> Path:
        return make_category(root, category, train=3, test_good=1, defects={"patch": 1}, size=32)

    steps, search = Run.__iter__, anogan.search
    blank = lambda count, *_, **__: (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.int16))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MvtecAdError, "__init__", Exception.__init__)  # not `conftest`'s: a name may hold a line's end
        patch.chdir(home)
        patch.setenv("MVTEC_AD_HOME", str(home))
        patch.setattr(backbone, "_load_trunk", network)
        patch.setattr(keras_networks, "load", lambda name, weights: network(f"keras:{name}", weights))
        patch.setattr(urllib.request, "urlopen", unreachable)
        patch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
        patch.setattr("distributed.Client", unreachable)
        patch.setattr(Run, "__iter__", lambda run: itertools.islice(steps(run), 1))
        patch.setattr(anogan, "search", lambda *images, steps, **how: search(*images, steps=1, **how))
        patch.setattr(notebooks, "execute_notebook", lambda notebook, target: 0.0)
        patch.setattr(pretraining, "pretrain", pretrained)
        patch.setattr(pretraining.textures, "draw_many", blank)
        patch.setattr(pretraining, "save_synthetic", lambda *_: None)
        patch.setattr(pretraining, "save_comparison", lambda *_: None)
        patch.setattr(
            pretraining, "worth", lambda *_: pd.DataFrame({"image_auroc": [1.0], "pixel_auroc": [1.0]}, ["x"])
        )
        patch.setattr(pretraining, "write_category", lambda root, name, **_: Path(root) / name)
        patch.setattr(synthetic, "write_category", drawn)
        patch.setattr(synthetic, "write_packages", drawn)
        patch.setattr("mvtec_ad.benchmark.cells._processes", lambda cells, jobs: contextlib.nullcontext({"n_jobs": 1}))
        fit = ["fit", "padim", "--weights", "random", "--image-size", "32", "--root", "root", "--category", "part"]
        assert main([*fit, "--out", "padim.zip"]) == 0
        yield


def calls(seed: int, count: int) -> Iterator[list[str]]:
    """Command lines: mostly of what would work, with one to three flags that may be anything."""
    random_ = random.Random(seed)
    pick = random_.choice
    image, root = "root/part/test/patch/000.png", ["--root", "root", "--category", "part"]
    small = ["--image-size", "32", "--false-alarm-rate", "0.1"]
    quick = {name: ["--weights", "random", "--steps", "1"] for name in WITH_LABELS}
    quick["defect_types"] = [
        "--backbone",
        "resnet18",
        "--weights",
        "synthetic",
        "--look",
        "mask",
        "--copies",
        "2",
        "--folds",
        "2",
    ]
    paths = [
        "root",
        "folder",
        "file.txt",
        "nowhere/x",
        "file.txt/x",
        "padim.zip",
        "/proc/none/x.zip",
        "new.zip",
        *TEXTS,
    ]
    for _ in range(count):
        command = pick([*COMMANDS, "fit", "evaluate", "fit", "evaluate", "detect"])
        method = pick([*METHODS, *METHODS, *WITH_LABELS, "defect_types", "nope", *TEXTS[:8]])
        words = {
            "fit": [method, *root, "--out", "out.zip", *small],
            "evaluate": [method, *root, "--seeds", "0", *small, *quick.get(method, [])],
            "detect": [pick(["padim.zip", "folder", pick(paths)]), image],
            "run": [pick(["1", "02", *NUMBERS])],
            "prepare": ["--root", "root", "--category", "part"],
        }.get(command, [])
        if command == "evaluate" and random_.random() < 0.3:
            fields = [
                "steps=1",
                "channels=2",
                f"{pick(['lr', 'sigma', 'name', 'layers', 'steps'])}={pick(NUMBERS + TEXTS)}",
            ]
            words[:1] = [f"padim{pick(['', ':keras', ':x'])},{pick(fields)}", pick([*METHODS])]
        parser = Parser(prog="x")
        COMMANDS[command][1](parser, words)
        flags = [action for action in parser._actions if action.option_strings and action.dest != "help"]
        for action in random_.sample(flags, min(len(flags), random_.randint(0, 3))):
            words.append(action.option_strings[0])
            if isinstance(action, argparse._StoreTrueAction | argparse.BooleanOptionalAction):
                continue
            kinds = [*(action.choices or ()), *VALID_NUMBERS] if action.type or action.choices else ["part", *paths]
            hostile = NUMBERS if action.type else TEXTS
            number = random_.randint(0, 3) if action.nargs in ("+", "?") else 1
            words += [str(pick(kinds) if random_.random() < 0.3 else pick(hostile)) for _ in range(number)]
        if random_.random() < 0.05:
            random_.shuffle(words)
        if random_.random() < 0.05:
            words = words[: random_.randint(0, len(words))]
        yield [command, *words]


def fault(words: list[str]) -> str:
    """What is wrong with how a command line ends; "" for nothing."""
    shown, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(printed):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        except BaseException:
            return traceback.format_exc()
    lines = [line for line in shown.getvalue().split("\n") if line.strip() and "\r" not in line]
    if status not in (0, 2) or (status == 2 and len(lines) != 1):
        return f"status {status}, {len(lines)} lines: {lines}"
    if "Error: " in printed.getvalue() and "failed: " in printed.getvalue():  # a cell whose fault is ours
        return printed.getvalue()
    return ""


def test_a_random_command_line_works_or_says_in_one_line_why_not(
    make_category: Callable[..., Path], tmp_path: Path
) -> None:
    """Absurd numbers, texts that are no names, flags that do not belong together."""
    with small_world(make_category, tmp_path):
        faults = {" ".join(words)[:300]: problem for words in calls(SEED, CALLS) if (problem := fault(words))}
    assert not faults
