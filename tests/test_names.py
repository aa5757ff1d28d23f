"""One idea, one name: no identifier of the package uses a word that the field's own word has replaced."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mvtec_ad"
REPLACED = {  # word -> the one that is used
    **dict.fromkeys(("drawn", "rendered", "abstract", "carried"), "synthetic (or generated, by a network)"),
    **dict.fromkeys(("typing", "typer", "contrastive"), "defect_types"),
    "heat": "anomaly_map",
    **dict.fromkeys(("judge", "opinion"), "detector, second_opinion"),
    **dict.fromkeys(("trial", "experiment", "scored", "outcome"), "result"),
    **dict.fromkeys(("rate", "decay", "momentum"), "lr, weight_decay, beta1"),
    **dict.fromkeys(("turn", "shift", "light", "mirror"), "rotation, translation, color_jitter, hflip"),
    "side": "roi_size, image_size, size",
    **dict.fromkeys(("redraw", "redrawn", "redrawing", "halvings", "code"), "reconstruct, depth, bottleneck"),
    **dict.fromkeys(("strange", "strangeness", "stranger", "strangers"), "ood_score, out_of_distribution"),
    **dict.fromkeys(("band", "bands", "joined"), "reject_band, combined_score"),
    **dict.fromkeys(("places", "home"), "paths, root"),
    **dict.fromkeys(("members", "replacing", "makers"), "files, atomic_write, PRODUCED_BY"),
    **dict.fromkeys(("said", "told", "kept", "own", "one", "found"), "the noun"),
}
FIELD = (  # terms of the field that hold such a word
    r"second_opinions?|weight_decay|reject_bands?|leave_one_out|one_class|one_hot|one_thread|exit_code|"
    r"(false_alarm|false_discovery|false_positive|true_positive|detection|reject|error|promised|recall|miss|learning|realised)_rates?"
)
GEOMETRY = {
    "side",
    "turn",
    "shift",
    "light",
    "mirror",
    "code",
    "band",
    "bands",
}  # of drawn things, in the room that draws them


def words(identifier: str) -> list[str]:
    """The words of an identifier, without the field's terms.

    Examples:
        >>> words("heatMaps_found"), words("FalseAlarmRate")
        (['heat', 'maps', 'found'], [])
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower()
    return [word for word in re.sub(FIELD, "", snake).split("_") if word]


def defined(code: str) -> set[str]:
    """Every name that a module gives: functions, classes, arguments, variables, attributes, aliases."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias) and node.asname:
            names.add(node.asname)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_replaced_word_in_an_identifier(path: Path) -> None:
    """Names that the module gives, and its own."""
    geometry = GEOMETRY if "synthetic" in path.parts else set()
    names = defined(path.read_text(encoding="utf-8")) | {path.stem, path.parent.name}
    old = {name: sorted(set(words(name)) & (set(REPLACED) - geometry)) for name in names}
    assert not {name: [f"{word}: {REPLACED[word]}" for word in hits] for name, hits in old.items() if hits}


def test_every_kind_of_name_is_seen() -> None:
    """The check above would notice each of these."""
    code = "import os as own\ndef told(said, *, kept=1):\n    found = one.heat = 2\n    [joined for joined in ()]"
    assert defined(code) == {"own", "told", "said", "kept", "found", "heat", "joined"}
