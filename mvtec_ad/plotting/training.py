"""Figures of a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import METHOD_COLOURS, STYLE, new_figure


@rc_context(STYLE)
def training_curves(curves: Mapping[str, pd.DataFrame], what: str = "loss") -> Figure:
    """Loss against steps; a line for the training, dots for held-out images, and a mark at the kept weights.

    Args:
        curves: Name -> as `training.train` returns it: columns step, loss and, where looked at, held_out.
        what: The loss is, for the axis.

    Raises:
        DataError: There is no curve.
    """
    if not curves:
        raise DataError("there is no curve to draw")
    figure = new_figure(7.4, 3.2)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
        smooth = curve["loss"].rolling(20, min_periods=1).mean()
        axes.plot(curve["step"] + 1, smooth, color=colour, label=f"{name}, training")
        if "held_out" in curve:
            seen = curve.dropna(subset="held_out")
            best = seen.loc[seen["held_out"].idxmin()]
            axes.plot(seen["step"] + 1, seen["held_out"], "o--", color=colour, label=f"{name}, held-out good images")
            axes.plot(best["step"] + 1, best["held_out"], "o", markersize=12, fillstyle="none", color=colour)
    axes.set(xlabel="step", ylabel=what, yscale="log")
    axes.legend()
    return figure


@rc_context(STYLE)
def adversarial_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """The losses of players that are trained against each other: a panel per run, all on the same vertical axis.

    A line is the rolling mean of 1/25 of the values, with the values themselves pale behind it; the axis leaves out the
    lowest and highest 1 % of these.

    Args:
        curves: Run -> as `training.train_in_turns` returns it: column step, and one per player, NaN where it took no
            part.

    Raises:
        DataError: There is no run, or one holds no loss.
    """
    losses = {run: curve.set_index("step") for run, curve in curves.items()}
    if not losses or any(one.notna().sum().sum() == 0 for one in losses.values()):
        raise DataError("there is no loss to draw: give at least one run, with columns step and one per player")
    figure = new_figure(3.4 * len(losses) + 0.6, 2.6)
    panels = figure.subplots(1, len(losses), sharey=True, squeeze=False)[0]
    for axes, (run, players) in zip(panels, losses.items(), strict=True):
        for colour, name in zip(METHOD_COLOURS, players, strict=False):
            line = players[name].dropna()
            axes.plot(line.index, line, color=colour, linewidth=0.7, alpha=0.25)
            mean = line.rolling(max(1, len(line) // 25), min_periods=1).mean()
            axes.plot(mean.index, mean, color=colour, linewidth=1.8, label=name)
        axes.set(title=run, xlabel="step")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("loss")
    values = np.concatenate([one.to_numpy(float).ravel() for one in losses.values()])
    low, high = np.nanpercentile(values, (1, 99))
    room = 0.06 * (high - low) or 1.0
    panels[0].set_ylim(low - room, high + room)
    return figure
