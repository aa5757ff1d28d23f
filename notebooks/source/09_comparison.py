# %% [markdown]
# # 09 · Comparison of all methods on the same images: who really wins?
#
# <!-- badge -->
#
# Every notebook has measured its own method, at its own size, some with labels and some without. Now they all meet. In this notebook we will
#
# * **bring** all methods to the same test images, and say which of them cannot be brought there;
# * **count** false alarms at a detection rate, by hand and with an interval;
# * **derive** a paired difference on six images, and see why it is narrower than two intervals suggest;
# * **ask** which differences are left when there are many of them (Holm);
# * **look** at defect types one by one, and at what each method costs;
# * **watch it fail**: below the first places, a ranking that another cut of the same images turns round.
#
# **It reads** `data.zip` of [01](01_data_preparation.ipynb), which is made here where it is missing; what else lies in `transfer/` joins in: `padim.zip` ([02](02_padim.ipynb)),
# `autoencoder.zip` and `patchcore.zip` ([03](03_autoencoder.ipynb)), `gan.zip` ([07](07_dcgan_anogan.ipynb)), and `inspection.zip` of notebook 08. What no artifact holds is measured here
# (in *full* PaDiM and k-NN alone).
# Profile *quick*: half a minute on 2 CPU cores, two and a half where everything is measured here.

# %%
# <setup>

# %%
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from mvtec_ad import artifacts, benchmark, metrics, plotting, profile
from mvtec_ad.benchmark import compare, published, supervised
from mvtec_ad.benchmark.cells import SUPERVISED
from mvtec_ad.config import pin
from mvtec_ad.data import index, loading, prepare
from mvtec_ad.inspection import InspectionOptions
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.padim import Padim
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}

run = profile(PROFILE, CATEGORIES)
pin(run)
STAGES = ("padim", "autoencoder", "patchcore", "gan", "inspection")
inputs = need(run, "data", optional=STAGES, other_profile=OTHER_PROFILE)
data = inputs.pop("data")
source, root = data.manifest["data_source"], prepare.unpack(data)
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
simplest = detector_class("knn").preset(run.name)  # what it needs, all methods need
tables = where_possible(lambda name: benchmark.check_measurable(simplest, index.read_category(root, name)), wanted)
common = where_possible(lambda name: compare.common_part(tables[name]), tables)
categories = list(common)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}, images: {source}")
if not categories:
    leave_out_rest("it compares on the part of a category that a classifier is tested on, and no category is left")

# %% [markdown]
# ## Five images first
#
# Two good ones, and one of each defect type, all from the part that every method will be judged on.

# %%
tables = {name: tables[name] for name in categories}
first, last = categories[0], categories[-1]

part = tables[first].set_index("image_id").loc[common[first]].reset_index()
five = part.groupby("defect").head(2).sort_values("label").drop_duplicates("image_id")
five = pd.concat([five[five["label"] == 0], five[five["label"] == 1].drop_duplicates("defect")]).head(5)
plotting.gallery(
    loading.load_images(list(five["image_path"]), 192),
    titles=list(five["defect"]),
    masks=loading.load_masks(five, 192),
    columns=5,
)

# %% [markdown]
# ## Who is here
#
# A scoring artifact holds a score for every image, method and seed. Nothing is trusted that cannot be checked: an artifact that was made from another
# `data.zip` is refused, since its scores would belong to other images.

# %%
loaded = where_possible(lambda stage: benchmark.load_results([inputs[stage]], data), inputs)
rows = [row for results in loaded.values() for row in results if row.category in categories]


def measured_now(method, name):
    """The result of a method on a category that no artifact holds."""
    if method in SUPERVISED:
        options, second = InspectionOptions.preset(run.name, second="padim"), Padim.preset(run.name)
        whole = replace(Classifier.preset(run.name), roi="whole")
        return supervised.run(method, tables[name], whole, data_source=source, inspection=options, second=second)
    detector = detector_class(method).preset(run.name)
    return benchmark.run(detector, tables[name], seeds=(0,), data_source=source, progress=False)


missing = (*METHODS, *SUPERVISED) if run.name == "quick" else ("padim", "knn")  # in full the others take long
present_methods = {row.method for row in rows} | {"anogan"}  # which notebook 07 shows beside f-AnoGAN
for method in [name for name in missing if name not in present_methods]:
    print(f"{method} has no artifact here, so it is measured now")
    rows += where_possible(partial(measured_now, method), categories).values()
pd.DataFrame(
    {
        row.name: {
            "method": row.method,
            "learns from": "good and defective parts" if row.protocol == "supervised" else "good parts",
            "images scored": len(row.table),
            "seeds": len(row.seeds),
            "maps": " × ".join(map(str, next(iter(row.maps.values())).shape[1:])) if row.maps else "–",
        }
        for row in rows
    }
).T

# %% [markdown]
# Two rules of the game stand in this table. A **one-class** method has seen good parts only, and is tested on all official test images. A **supervised** one needs
# defects to learn from, and MVTec AD has them in the test folder alone; so that folder was cut in three (notebook 01), and what is left to test on is a third of it. *The
# only images that both may be asked about are that third*: here it is called the common part.
#
# And beside them stand, as everywhere, the rows that need no model.

# %%
TRIVIAL = ("all_defective", "mean_intensity", "mean_intensity_inverted", "distance_to_mean", "pixel_z_score")
BAR = "pixel_z_score"  # the trivial row that is hardest to beat
for table in tables.values():
    rows += compare.trivial(table, data_source=source, profile=run.name)
official = {name: [r for r in rows if r.category == name and r.protocol == "official"] for name in categories}
shared = {name: [r.only(common[name]) for r in rows if r.category == name] for name in categories}
for name in categories:
    everything, third = official[name][0].labels, shared[name][0].labels
    print(
        f"{name}: {len(everything)} official test images ({everything.sum()} defective), "
        f"common part {len(third)} ({third.sum()} defective)"
    )

# %% [markdown]
# Each method is measured at its own size and crop, the masks brought to it: a method that cuts the border off is not asked about it. That is what papers do; it is
# not quite fair, so read pixel figures of different crops with that in mind.
#
# ## False alarms at 95 % detection, by hand
#
# An AUROC is a mean over all thresholds, and no line runs at all of them. A question that a line would ask: *if 19 of 20 defects must be found, how many good parts
# are thrown away?* On five good parts and four defects, of which three quarters must be found:

# %%
good_scores, defect_scores = [0.1, 0.3, 0.35, 0.6, 0.8], [0.2, 0.5, 0.7, 0.9]
must_be_found = int(np.ceil(0.75 * len(defect_scores)))  # 3 of 4
threshold = sorted(defect_scores, reverse=True)[must_be_found - 1]  # the weakest defect that must be found
by_hand = np.mean([score >= threshold for score in good_scores])

small_labels, small_scores = [0] * 5 + [1] * 4, good_scores + defect_scores
by_package = metrics.false_alarms_at(small_labels, small_scores, detection=0.75)
print(f"threshold {threshold}: by hand {by_hand:.2f}, package {by_package:.2f}")
assert by_hand == by_package

# %% [markdown]
# One weak defect sets the threshold: at .5 two of five good parts are lost. Let it score .34 instead, and it would be three. So the figure moves with every draw of test images, more than an AUROC does,
# and its interval has to move the threshold too (`metrics.false_alarms_interval`). What that looks like for a real row:

# %%
lead = official[first][0]
labels, scores = lead.labels, lead.scores[0]
weakest = np.sort(scores[labels == 1])[::-1][int(np.ceil(0.95 * labels.sum())) - 1]
figure, axes = plt.subplots(figsize=(8, 1.9), layout="constrained")
for label, colour, word in ((0, plotting.GOOD, "good"), (1, plotting.DEFECT, "defect")):
    values = scores[labels == label]
    axes.plot(values, np.full(len(values), label), "|", color=colour, markersize=18, label=word)
axes.axvline(weakest, color="black", linewidth=1)
axes.set(yticks=[0, 1], yticklabels=["good", "defect"], ylim=(-0.6, 1.6), xlabel=f"score of {lead.row}, {first}")
axes.set_title("right of the line: 95 % of the defects, and the good parts that go with them")
plt.show()
alarms = metrics.false_alarms_interval(labels, lead.scores)
print(f"false alarms at 95 % detection, {lead.row}: {metrics.format_metric(alarms)}, {len(lead.seeds)} seeds")

# %% [markdown]
# ## Every row, on both sets of images


# %%
def measure_all(scored):
    """Metrics of every row at its own resolution."""
    return {row.row: compare.measure(row) for row in scored}


measured = {name: {"official": measure_all(official[name]), "common": measure_all(shared[name])} for name in categories}


def metrics_table(name, part):
    """Every metric of a category as text."""
    words = {
        "image_auroc": "image AUROC",
        "image_ap": "AP",
        "f1_max": "F1-max",
        "false_alarms": "false alarms at 95 %",
        "pixel_auroc": "pixel AUROC",
        "au_pro": "AUPRO",
    }
    lines = {
        row: {word: metrics.format_metric(values[key]) if key in values else "–" for key, word in words.items()}
        for row, values in measured[name][part].items()
    }
    floor = next(iter(measured[name][part].values()))["f1_max"]["floor"]
    print(f"{name}, {part}: calling everything defective has an F1 of {metrics.format_number(floor)}")
    return pd.DataFrame(lines).T


metrics_table(first, "official")

# %%
metrics_table(first, "common")

# %% [markdown]
# Look at F1-max first, and at the line above the table: to call *everything* defective is worth that much already, because most test images are. Then
# at the interval of any one cell, and then at the differences between the cells of a column.


# %%
def interval_figure(name):
    """Image AUROC of all rows on both sets of images."""
    parts = {}
    for part, scored in (("official", official[name]), ("common", shared[name])):
        words = f"{name}: {'official test images' if part == 'official' else 'common part'} ({len(scored[0].table)})"
        parts[words] = {row: values["image_auroc"] for row, values in measured[name][part].items()}
    return plotting.interval_rows(parts, trivial=TRIVIAL)


interval_figure(first)

# %%
interval_figure(last)

# %% [markdown]
# The left column has the narrower bars, the right one has all methods. **The grey rows are the ones to beat**: on the bottle, which never moves, a z-score per pixel
# has a higher AUROC than all that redraws; on the screws, which lie at any angle, its interval holds one half, and so do those of the autoencoder and f-AnoGAN.
#
# ## A paired difference, by hand
#
# Do two bars that overlap mean "no difference"? No: an image that is hard for one method is often hard for the other. When we draw the test images anew, both go down together, and the
# *difference* stays. So the difference is what must be resampled, with the same draw for both. Three good parts, three defects, two methods:

# %%
six = np.array([0, 0, 0, 1, 1, 1])
first_scores, second_scores = np.array([1.0, 2, 4, 3, 5, 6]), np.array([1.0, 3, 5, 2, 4, 6])
draws = metrics.resample_weights(six, 200)
print("how often each image is in the first three draws:")
print(draws[:3])


def auroc_by_hand(scores, weights):
    """Share of pairs that are in the right order; a pair counts as often as its images were drawn."""
    won = pairs = 0
    for good in np.flatnonzero(six == 0):
        for defect in np.flatnonzero(six == 1):
            count = weights[good] * weights[defect]
            pairs += count
            won += count * (float(scores[defect] > scores[good]) + 0.5 * float(scores[defect] == scores[good]))
    return won / pairs


by_hand = np.array([auroc_by_hand(first_scores, w) - auroc_by_hand(second_scores, w) for w in draws])
first_aurocs, second_aurocs = (
    metrics.resampled_ranking(six, scores, draws)["image_auroc"] for scores in (first_scores, second_scores)
)
assert np.allclose(by_hand, first_aurocs - second_aurocs)

whole = np.ones(6)
estimates = auroc_by_hand(first_scores, whole), auroc_by_hand(second_scores, whole)
package = metrics.paired_difference(first_aurocs, second_aurocs, *estimates, units=3)
low, high = np.quantile(by_hand, [0.025, 0.975])
print(f"by hand {estimates[0] - estimates[1]:.3f} [{low:.3f}, {high:.3f}], package {metrics.format_metric(package)}")
assert np.allclose([estimates[0] - estimates[1], low, high], [package["mean"], package["low"], package["high"]])

# %% [markdown]
# Now with real rows. PaDiM is no example where it makes no mistake: a perfect score stays perfect in every draw. So the two autoencoders of notebook 03 that
# differ only in their loss, or, where they are not here, PaDiM and the first of another kind. (`padim-keras` is the same network with the same weights, through the
# other framework, and its row agrees with that of `padim`, as it should.)

# %%
autoencoders = [row for row in official[first] if row.method == "autoencoder"][:2]
others = [row for row in official[first] if not row.row.startswith("padim")]
pair = autoencoders if len(autoencoders) == 2 else [lead, others[0]]
labels = pair[0].labels
draws = metrics.resample_weights(labels, 2000)
first_aurocs, second_aurocs = (
    np.mean([metrics.resampled_ranking(labels, s, draws)["image_auroc"] for s in row.scores], 0) for row in pair
)
together = first_aurocs - second_aurocs
apart = first_aurocs - second_aurocs[::-1]  # reversed: the same draws, no longer the same images
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
bins = np.linspace(min(together.min(), apart.min()), max(together.max(), apart.max()), 40)
axes.hist(apart, bins, color="lightgrey", label="each method on a draw of its own")
axes.hist(together, bins, histtype="step", linewidth=2, color=plotting.METHOD_COLOURS[0], label="both on the same draw")
axes.axvline(0, color="black", linewidth=1)
axes.set(xlabel=f"image AUROC: {pair[0].row} − {pair[1].row}", ylabel="draws")
figure.legend(loc="outside upper left", ncols=2)
plt.show()
print(f"spread: paired {together.std():.3f}, unpaired {apart.std():.3f}")

# %% [markdown]
# The green outline is what we use. How much narrower it is depends on how alike the two methods are; it can only be told from images that both have seen.
#
# ## Who really wins?
#
# All pairs. But with many pairs some will exclude 0 by luck: among twenty comparisons of equals, one. **Holm's correction** makes up for it: of K p-values the smallest is multiplied by
# K, the next by K − 1, and so on; what is then still below .05 may be believed all at once. By hand:

# %%
p = [0.01, 0.04, 0.03, 0.005]
smallest_first = sorted(p)
adjusted = []
for place, value in enumerate(smallest_first):
    adjusted.append(max([value * (len(p) - place), *adjusted]))
by_package = compare.holm(p)
print({value: round(float(raised), 3) for value, raised in zip(smallest_first, adjusted, strict=True)})
assert np.allclose([adjusted[smallest_first.index(value)] for value in p], by_package)

# %%
contest = {
    name: compare.paired([r for r in official[name] if r.row not in TRIVIAL or r.row == BAR]) for name in categories
}


def difference_matrix(pairs, metric):
    """How far the method of a row is above that of a column."""
    mirrored = pairs.assign(first=pairs["second"], second=pairs["first"], mean=-pairs["mean"])
    both = pd.concat([pairs, mirrored]).set_index(["first", "second"])
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    table = both["mean"].unstack().loc[names, names]
    limit = 1.2 * table.abs().max(axis=None)
    written = table.fillna(0).map(lambda value: metrics.format_number(value).replace("-", "−"))
    _, axes = plt.subplots(figsize=(2.4 + 0.6 * len(names), 1.6 + 0.42 * len(names)), layout="constrained")
    look = {"cmap": "BrBG", "vmin": -limit, "vmax": limit, "annot": written, "fmt": "", "annot_kws": {"fontsize": 9}}
    sns.heatmap(table, ax=axes, cbar_kws={"label": f"{metric}: row − column"}, **look)
    for text in axes.texts:
        column, row = (int(place) for place in text.get_position())
        pair = both.loc[(names[row], names[column])]
        text.set_weight("bold" if pair["differs_holm"] else "normal")
        text.set_color("white" if abs(pair["mean"]) > 0.66 * limit else "black")
        if pair["differs"]:
            axes.add_patch(plt.Rectangle((column + 0.05, row + 0.06), 0.9, 0.88, fill=False, linewidth=1.6))
    axes.set(xlabel="", ylabel="", title="framed: the 95 % interval excludes 0 · bold: also after Holm")
    axes.grid(False)
    axes.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
    plt.show()


difference_matrix(contest[first], "image AUROC")

# %%
for name in categories:
    pairs = contest[name]
    print(
        f"{name}: {len(pairs)} pairs; the interval excludes 0 in {pairs['differs'].sum()}, "
        f"after Holm in {pairs['differs_holm'].sum()}"
    )
compare.wins(contest[first])


# %%
def verdict(pairs, better, worse):
    """What the pair of two rows says, with all pairs in mind."""
    chosen = pairs[pairs["first"].isin([better, worse]) & pairs["second"].isin([better, worse])]
    if better == worse or chosen.empty:
        return "not measured", False
    line = chosen.iloc[0]
    sign = 1 if line["first"] == better else -1
    low, high = sorted((sign * line["low"], sign * line["high"]))
    ahead = bool(line["differs_holm"] and sign * line["mean"] > 0)
    words = (
        "ahead, also after Holm"
        if ahead
        else "ahead, not after Holm"
        if low > 0
        else "undecided"
        if high > 0
        else "behind"
    )
    return f"{metrics.format_metric({'mean': sign * line['mean'], 'low': low, 'high': high})}: {words}", ahead


for better in ("padim", "patchcore"):
    for worse in (BAR, "f_anogan"):
        print(f"{first}: {better} − {worse} {verdict(contest[first], better, worse)[0]}")
here = {row.row for row in official[first]}
if {"padim", "patchcore", "f_anogan"} <= here:
    ahead = [verdict(contest[first], better, "f_anogan")[1] for better in ("padim", "patchcore")]
    lesson("PaDiM and PatchCore are ahead of f-AnoGAN, also after Holm", all(ahead), run, source)

# %% [markdown]
# Read a row of the matrix: how far this method is above each of the others. *Framed*: its interval excludes 0. *Bold*: also with all pairs in mind. **A method "wins" here when it beats the row of the z-score, framed and
# bold**; the lines above say whether PaDiM and PatchCore do. What the table says more surely is who is behind.
#
# The same for places instead of images. Maps were kept for one seed of each row, so this is a difference of single seeds:

# %%
with_maps = [row for row in official[first] if row.maps and row.masks is not None]
if with_maps:
    by_place = compare.paired(with_maps, "au_pro")
    difference_matrix(by_place, "AUPRO")
    by_image = compare.paired(with_maps)
    for word, pairs in (("AUPRO", by_place), ("image AUROC, the same rows", by_image)):
        print(
            f"{word}: {pairs['differs'].sum()} of {len(pairs)} intervals exclude 0, {pairs['differs_holm'].sum()} after Holm"
        )
else:
    print(f"{first} has no masks: what is said of places is left out")

# %% [markdown]
# The counts say whether places decide more than images do. Each image brings thousands of pixels, and a method that finds places finds them on every image.
#
# And the common part, where the supervised rows stand beside the others, if notebook 08 has been run:

# %%
fair = compare.paired([r for r in shared[first] if r.row not in TRIVIAL or r.row == BAR])
print(
    f"{len(common[first])} images: {fair['differs'].sum()} of {len(fair)} intervals exclude 0, {fair['differs_holm'].sum()} after Holm"
)
compare.wins(fair)

# %% [markdown]
# ## Defect type by defect type
#
# Each type against all good images. A table to find weaknesses in, not winners: with ten images a type every interval is wide.


# %%
def defect_type_table(rows):
    """Image AUROC of each method on each defect type, and below it the 95 % interval."""
    types = compare.by_defect(rows).set_index(["row", "defect"])
    text = types.apply(lambda auroc: metrics.format_metric(auroc).replace(" ", "\n", 1), axis=1).unstack(sort=False)
    images = types["images"].unstack(sort=False).max()
    table = types["mean"].unstack(sort=False)
    _, axes = plt.subplots(figsize=(2.6 + 1.2 * text.shape[1], 1 + 0.46 * len(text)), layout="constrained")
    look = {"cmap": "cividis", "vmin": 0.4, "vmax": 1, "annot": text, "fmt": "", "annot_kws": {"fontsize": 8}}
    sns.heatmap(table, ax=axes, cbar_kws={"label": "image AUROC", "extend": "min"}, **look)
    for cell, auroc in zip(axes.texts, table.stack().dropna(), strict=True):
        cell.set_color("black" if auroc > 0.72 else "white")
    axes.set(xlabel="", ylabel="")
    axes.set_xticklabels([f"{name}\n{count} images" for name, count in images.items()], fontsize=8)
    plt.show()


defect_type_table([row for row in official[first] if row.row not in TRIVIAL or row.row == BAR])

# %%
defect_type_table([row for row in official[last] if row.row not in TRIVIAL or row.row == BAR])

# %% [markdown]
# Which type is the hardest for a method hangs on ten images of it.

# %%
for name in categories:
    types = compare.by_defect([row for row in official[name] if row.row not in TRIVIAL])
    missed = types[types["mean"] < 1]
    hardest = missed.loc[missed.groupby("row")["mean"].idxmin()].set_index("row")
    print(f"{name}, hardest type of each method that is not perfect: {dict(hardest['defect'])}")

# %% [markdown]
# ## What it costs

# %%
cost = compare.costs(official[first], measured[first]["official"])
shown = cost[(~cost["row"].isin(TRIVIAL) | (cost["row"] == BAR)) & (cost["milliseconds"] > 0)].sort_values("mean")
figure, axes = plt.subplots(figsize=(8.4, 1.2 + 0.3 * len(shown)), layout="constrained")
for place, line in enumerate(shown.itertuples()):
    colour = "grey" if line.row == BAR else plotting.METHOD_COLOURS[place % len(plotting.METHOD_COLOURS)]
    size = 0 if np.isnan(line.model_mb) else line.model_mb
    axes.vlines(line.milliseconds, line.low, line.high, color=colour, alpha=0.45, linewidth=3)
    axes.scatter(line.milliseconds, line.mean, s=30 + 22 * size, color=colour, edgecolor="white", zorder=3)
    label = f"{line.row} ({size:.1f} MB)" if size else line.row
    pointer = {"arrowstyle": "-", "color": colour, "alpha": 0.7, "relpos": (0, 0.5)}
    beside = {"xytext": (1.03, (place + 0.5) / len(shown)), "textcoords": "axes fraction", "va": "center"}
    axes.annotate(label, (line.milliseconds, line.mean), fontsize=9, arrowprops=pointer, **beside)
axes.set(xscale="log", xlabel="milliseconds per image", ylabel="image AUROC", title="dot: size of the model on disk")
axes.xaxis.set_major_formatter("{x:g}")
plt.show()

# %%
cost.set_index("row")[["fit_seconds", "milliseconds", "memory_gb", "model_mb"]].round(1)

# %% [markdown]
# Times are of this machine, on the day the artifact was made; memory is the peak of the process while the row was measured. The backbone is in no model's size. Still, three things can be seen: what is trained for
# long is not what scores best; fitting PaDiM is one pass over the good images; and PatchCore pays at the other end, when it looks for neighbours.
#
# ## Where it fails: another cut of the same images, another order
#
# The common part is one of many that the same rule could have cut. What if the seed of the split had been another one? (The supervised rows would have to be trained anew, so this is about the others.)

# %%
contenders = [r for r in official[first] if r.row not in TRIVIAL or r.row == BAR]
cuts = [compare.common_part(tables[first], seed=seed) for seed in range(40)]


def mean_auroc(row):
    """Image AUROC, the mean over seeds."""
    return np.mean([metrics.image_auroc(row.labels, scores) for scores in row.scores])


by_cut = pd.DataFrame({row.row: [mean_auroc(row.only(ids)) for ids in cuts] for row in contenders})
figure, axes = plt.subplots(figsize=(8, 0.8 + 0.4 * len(contenders)), layout="constrained")
look = {"color": plotting.METHOD_COLOURS[0], "marker": "|", "size": 13, "linewidth": 1.5, "alpha": 0.6}
sns.stripplot(by_cut, orient="h", jitter=False, ax=axes, **look)
axes.plot(by_cut.iloc[0], by_cut.columns, "o", color="black", markersize=5, zorder=5)
axes.set(xlabel=f"image AUROC, {first}: 40 cuts of {len(cuts[0])} images (dot: seed 0)")
plt.show()
always = list(by_cut.columns[by_cut.min() == 1])
rest = by_cut.drop(columns=always)
print(f"1.000 in all {len(cuts)} cuts: {', '.join(always) or 'no row'}")
seconds = rest.idxmax(axis=1).value_counts() if len(rest.columns) else pd.Series(dtype=int)
print("the best of the others depends on the cut:", "yes" if len(seconds) > 1 else "no")
seconds.rename("cuts in which it is the best of the others").to_frame()

# %% [markdown]
# **What is far ahead stays ahead; who comes next may depend on the seed of a split.** Nothing about the methods has changed from one cut to the next, not a weight: along a row of dots only
# the images differ. A table of one cut of so few images, without intervals, is an anecdote; a claim of one hundredth needs some thousand images, or a
# paired difference.
#
# ## Yours, reported, verdict
#
# One line for each source of published figures, a verdict for each of its metrics. It compares with our interval, so a few images can confirm little: on real images most image AUROCs *agree*, and it takes the
# many pixels to *confirm*.

# %%
published.verdicts([row.report for row in rows if row.row not in TRIVIAL], by="row")

# %% [markdown]
# What was measured on real images, and how it compares, stands in `docs/results.md` and in `python -m mvtec_ad results`.
#
# ## Exercises
#
# **1.** Does the order change when the question is "how many false alarms at 95 % detection"? Make the matrix for it. (Less is better.)
#
# <details><summary>Solution</summary>
#
# ```python
# alarms = compare.paired(contenders, "false_alarms")
# print(alarms["differs"].sum(), "of", len(alarms), alarms["differs_holm"].sum())
# compare.wins(alarms, lower_is_better=True)
# ```
# Compare the two counts with those of the AUROC. The figure hangs on one or two weak defects, so it tells methods apart
# less well than the AUROC does, though it is the one a line would ask for.
# </details>
#
# **2.** How many test images would it take? Pretend that each image had been there twice, or four times, and count again.
#
# <details><summary>Solution</summary>
#
# ```python
# from dataclasses import replace
#
# def repeated(row, times):
#     table = pd.concat([row.table] * times, ignore_index=True)
#     return replace(row, table=table, scores=np.tile(row.scores, times), maps={}, masks=None)
#
# for times in (1, 2, 4):
#     more = compare.paired([repeated(row, times) for row in contenders])
#     print(times * len(labels), "images:", more["differs_holm"].sum(), "of", len(more))
# ```
# The count rises with every doubling that helps. (Only pretend: copies are not new images, and the estimates stay what they are.)
# </details>
#
# ## Save the artifact
#
# All metrics of all rows, the paired differences, and for each row a report on the common part, which `results` puts into a table of its own.

# %%
path = compare.save(
    official, shared, measured, contest, profile=run.name, inputs=[data, *(inputs[stage] for stage in loaded)]
)
artifacts.download(path)

# %%
reports = artifacts.load("comparison", profile=run.name).json("reports.json")
assert reports[0]["metrics"] == measured[first]["common"][reports[0]["row"]]
print(published.tables([r for r in reports if r["row"] not in TRIVIAL]))

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * read the scores of every method from its artifact, and brought them to the same images;
# * counted false alarms at a detection rate, derived a paired difference and Holm's correction by hand, and found the package's numbers;
# * asked of every pair whether it differs, with all pairs in mind, on images and on places;
# * put weaknesses and costs beside the scores;
# * seen which part of a ranking turns round with the seed of a split.
#
# **Limits.** The intervals are about other test images of the same kind, and about nothing else: not another product, another camera, another budget. The seeds are few, and in *quick* most rows have one. Each method could be tuned, and
# none was tuned on these images; a method of which more is known to its authors has an advantage that no interval shows. The F1-max and the false alarms at 95 % choose their threshold on the test labels, which
# nobody has on a line: notebook 02 says what can be promised instead.
#
# **Next:** [10](10_backbone_without_photographs.ipynb) asks what is left of rows like these when the network has never seen a photograph.
