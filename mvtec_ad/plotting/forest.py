"""Forest plot: methods beside each other, each with its mean and its interval."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import format_metric
from mvtec_ad.plotting.style import FAINT, INK, METHOD_COLOURS, STYLE, in_font, new_figure


@rc_context(STYLE)
def interval_rows(metrics_by_part: Mapping[str, Mapping[str, Mapping]], trivial: Collection[str] = ()) -> Figure:
    """Forest plot: a row per method, a column per set of images, the mean over seeds and its 95 % interval.

    `metrics_by_part`: name of the images -> row -> image AUROC of `evaluate`, `{"mean", "low", "high"}`; a row that is
    missing in a column was not scored there. `trivial` rows need no model; they are grey.
    """
    names = list(dict.fromkeys(name for rows in metrics_by_part.values() for name in rows))
    if not names:
        raise DataError("there is no row to draw")
    width = 1.9 + 0.075 * max(map(len, names)) + 3.6 * len(metrics_by_part)
    figure = new_figure(width, 0.9 + 0.32 * len(names))
    panels = figure.subplots(1, len(metrics_by_part), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (part, rows) in zip(panels, metrics_by_part.items(), strict=True):
        axes.axvline(0.5, color=FAINT, linewidth=1, linestyle=":")  # chance
        for place, name in enumerate(names):
            values, text, ink = rows.get(name), "not scored", FAINT
            if values is not None:
                text, ink = format_metric(values), INK
                colour, ends = FAINT if name in trivial else METHOD_COLOURS[0], [values["low"], values["high"]]
                axes.plot(ends, [place, place], color=colour, alpha=0.45, linewidth=5, solid_capstyle="butt")
                looks = {"color": colour, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8}
                axes.plot(values["mean"], place, "o", **looks)
            edge = {"xycoords": ("axes fraction", "data"), "va": "center"}
            axes.annotate(text, (1.01, place), fontsize=8.5, color=ink, **edge)
        axes.set(title=part, xlabel="image AUROC")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(names)), list(map(in_font, names)))  # an axis writes them itself
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_color(FAINT if name in trivial else INK)
    return figure
