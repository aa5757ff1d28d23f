"""The tree of all ways that inspected images took to their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.inspection import WORD_COLOURS, beside
from mvtec_ad.plotting.style import CLASS_COLOURS, CLASS_NAMES, FAINT, INK, STYLE, new_figure, outlined

_STAGES = ("product", "classifier", "second opinion")
_ORDER = (
    "sure: defect",
    "unsure",
    "sure: good",
    "skipped",
    "defect",
    "undecided",
    "good",
    "none of these",
    "unreadable",
)
_COLUMN, _BAR = 2.1, 0.07  # inches: from stage to stage; a node's width
_LINE, _TOTAL = 0.31, 3.2  # inches: least height of a leaf; thickness of all images together


@dataclass
class _Node:
    """Images that took one way so far: how many of each class (or all in the first place), and where they went on."""

    name: str
    depth: int
    leaf: bool = False
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2, int))
    branches: dict[str, _Node] = field(default_factory=dict)
    middle: float = 0.0  # inches from the top


@rc_context(STYLE)
def decision_tree(inspections: Sequence[Any], labels: Sequence[int] | None = None) -> Figure:
    """Which way how many images took: by product, by the classifier, by the second opinion, to the verdict.

    Branches are as thick as the number of images on them.

    Args:
        inspections: N `Inspection`s; of their `path`, the stages product, classifier and second opinion count.
        labels: 0 (good) or 1 (defect) for each: branches show both in their colours, and leaves tell false alarms and
            misses.

    Raises:
        DataError: There is no inspection, or not as many labels.
    """
    if not inspections:
        raise DataError("a decision tree needs at least one inspection")
    if labels is not None and len(labels) != len(inspections):
        raise DataError(f"{len(inspections)} inspections need as many labels, not {len(labels)}")
    stages = [name for name in _STAGES if any(step.stage == name for one in inspections for step in one.path)]
    root = _grow(inspections, labels, stages)
    scale = _TOTAL / len(inspections)
    height = _place(root, 0.35, scale) + 0.05
    width = _COLUMN * (len(stages) + 2) + (1.1 if labels is not None else 0.4)  # room for the words at the leaves
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.15, width - 0.15), ylim=(height, 0))  # an inch is an inch, from the top
    for column, name in enumerate((*stages, "verdict"), 1):
        axes.text(column * _COLUMN, 0.18, name, color=FAINT, va="center_baseline")
    if labels is not None:
        truth = axes.text(0, 0.18, "truth: ", color=FAINT, va="center_baseline")
        for name, colour in zip(CLASS_NAMES, CLASS_COLOURS, strict=True):
            truth = beside(axes, truth, f"{name}  ", colour, fontweight="bold")
    _draw(axes, root, scale, labels is not None)
    return figure


def _grow(inspections: Sequence[Any], labels: Sequence[int] | None, stages: Sequence[str]) -> _Node:
    """The tree; branches in the order in which a person wants to see them."""
    root = _Node("all images", 0)
    for inspection, label in zip(inspections, [0] * len(inspections) if labels is None else labels, strict=True):
        root.counts[int(label)] += 1
        node = root
        steps = {step.stage: step.outcome for step in inspection.path}
        if steps.get("product") == "told":
            steps["product"] = f"{inspection.product} {inspection.view}".rstrip() + " (told)"
        ways = [(stages.index(stage) + 1, steps[stage]) for stage in stages if stage in steps]
        for depth, name in [*ways, (len(stages) + 1, inspection.verdict)]:
            key = f"{depth} {name}"
            node = node.branches.setdefault(key, _Node(name, depth, depth > len(stages)))
            node.counts[int(label)] += 1
    return root


def _sorted(node: _Node) -> list[_Node]:
    """The branches: known words as in `_ORDER`, products by name before them."""
    return sorted(
        node.branches.values(), key=lambda one: (_ORDER.index(one.name) if one.name in _ORDER else -1, one.name)
    )


def _place(node: _Node, top: float, scale: float) -> float:
    """Give the node and all behind it a height of its own; returns where it ends."""
    bottom = top
    for branch in _sorted(node):
        bottom = _place(branch, bottom, scale)
    bottom = max(bottom, top + max(_LINE, scale * node.counts.sum() + 0.1))
    node.middle = (top + bottom) / 2
    return bottom + (0.12 if node.depth == 1 else 0)


def _draw(axes: Axes, node: _Node, scale: float, labelled: bool) -> None:
    """A node, its words, and the branches that leave it."""
    x, thick = node.depth * _COLUMN, scale * node.counts.sum()
    colour = WORD_COLOURS.get(node.name, INK)
    axes.add_patch(Rectangle((x, node.middle - thick / 2), _BAR, thick, color=colour, zorder=3))
    start = node.middle - thick / 2
    for branch in _sorted(node):
        end = branch.middle - scale * branch.counts.sum() / 2
        for count, own in zip(branch.counts, CLASS_COLOURS if labelled else ("#9A9A9A",) * 2, strict=True):
            if count:
                _ribbon(axes, (x + _BAR, start), (branch.depth * _COLUMN, end), scale * count, own)
            start, end = start + scale * count, end + scale * count
        _draw(axes, branch, scale, labelled)
    looks = {"zorder": 4, "path_effects": outlined(2.5, "white"), "parse_math": False}
    weight = "bold" if node.leaf else "normal"
    place = (x + _BAR + 0.06, node.middle)
    text = axes.text(*place, node.name, va="center_baseline", color=colour, fontweight=weight, **looks)
    if not labelled:
        beside(axes, text, f"  {node.counts.sum()}", INK, fontweight="bold", **looks)
        return
    for count, own in zip(node.counts, CLASS_COLOURS, strict=True):
        if count:
            text = beside(axes, text, f"  {count}", own, fontweight="bold", **looks)
    wrong = {"defect": node.counts[0], "good": node.counts[1]}.get(node.name, 0) if node.leaf else 0
    if wrong:
        words = {"defect": ("false alarm", "false alarms"), "good": ("miss", "misses")}[node.name][int(wrong > 1)]
        beside(axes, text, f"   {wrong} {words}", INK, **looks)


def _ribbon(axes: Axes, start: tuple[float, float], end: tuple[float, float], thick: float, colour: str) -> None:
    """A band between two places given by their upper ends; it bends within one column and then runs straight."""
    (x0, y0), (x1, y1) = start, end
    bend = min(x0 + _COLUMN - _BAR, x1)
    middle = (x0 + bend) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (bend, y1), (x1, y1), (x1, y1 + thick), (bend, y1 + thick)]
    points += [(middle, y1 + thick), (middle, y0 + thick), (x0, y0 + thick), (x0, y0)]
    line, curve = Path.LINETO, Path.CURVE4
    codes = [Path.MOVETO, curve, curve, curve, line, line, line, curve, curve, curve, Path.CLOSEPOLY]
    axes.add_patch(PathPatch(Path(points, codes), facecolor=colour, alpha=0.42, linewidth=0, zorder=2))
