# %% [markdown]
# # 09 · Comparison of all methods on the same images: who really wins?
#
# <!-- badge -->
#
# Every notebook has measured its own method, at its own size, some with labels and some without. Now they all meet. In this notebook we will
#
# * **bring** all methods to the same test images, and say which of them cannot be brought there;
# * **count** false alarms at a detection rate, by hand and with an interval;
# * **derive** a paired difference on six images, and see why its interval is narrower than two separate intervals suggest;
# * **correct** for many comparisons (Holm), by hand;
# * **read** one table and one figure: who is ahead of whom, and at what cost;
# * **watch it fail**: a ranking that changes when the same images are split in another way.
#
# **It reads** `data.zip` of [01](01_data_preparation.ipynb), which is made here where it is missing; what else lies in `transfer/` joins in: `padim.zip`
# ([02](02_padim.ipynb)), `autoencoder.zip` ([03](03_autoencoder.ipynb)), `patchcore.zip` ([03b](03b_patchcore.ipynb)), `gan.zip` ([07b](07b_anogan.ipynb)) and
# `inspection.zip` ([08](08_inspection_pipeline.ipynb)). What no artifact holds is measured here (in *full* PaDiM and k-NN alone).
# Profile *quick*: half a minute on 2 CPU cores, two and a half where everything is measured here.

# %%
# <setup>

# %%
from dataclasses import replace
from functools import partial
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

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

# %%
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
# Good ones, and one of each defect type, all from the part that every method will be judged on.

# %%
tables = {name: tables[name] for name in categories}
first, last = categories[0], categories[-1]
part = tables[first].set_index("image_id").loc[common[first]].reset_index()
five = part.groupby("defect").head(2).sort_values("label").drop_duplicates("image_id")
five = pd.concat([five[five["label"] == 0], five[five["label"] == 1].drop_duplicates("defect")]).head(5)
images, masks = loading.load_images(list(five["image_path"]), 192), loading.load_masks(five, 192)
if masks is None:
    print(f"{first} has no masks: pixel metrics are left out")
plotting.gallery(images, titles=list(five["defect"]), masks=masks, columns=5, size=1.75)

# %% [markdown]
# ## Who is here
#
# A scoring artifact holds a score for every image, method and seed. An artifact that was made from another
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


# %%
missing = (*METHODS, *SUPERVISED) if run.name == "quick" else ("padim", "knn", "efficient_ad")  # others take long
present_methods = {row.method for row in rows} | {"anogan"}  # which notebook 07b shows beside f-AnoGAN
for method in [name for name in missing if name not in present_methods]:
    print(f"{method} has no artifact here, so it is measured now")
    rows += where_possible(partial(measured_now, method), categories).values()
TRIVIAL = ("all_defective", "mean_intensity", "mean_intensity_inverted", "distance_to_mean", "pixel_z_score")
BAR = "pixel_z_score"  # of the rows that need no model the one that is hardest to beat
for table in tables.values():
    rows += compare.trivial(table, data_source=source, profile=run.name)

# %% [markdown]
# A **one-class** method has seen good parts only, and is tested on all *official* test images. A **supervised** one needs
# defects to learn from, and MVTec AD has them in the test folder alone; so that folder was cut in three (notebook 01), and about a third of it is left to test on. *The
# only images that both may be asked about are these*: here they are called the **common part**. Beside them stand, as everywhere, rows that need no model.

# %%
official = {name: [r for r in rows if r.category == name and r.protocol == "official"] for name in categories}
shared = {name: [r.only(common[name]) for r in rows if r.category == name] for name in categories}
for name in categories:
    both = [("official", official[name][0].labels), ("common part", shared[name][0].labels)]
    words = ", ".join(f"{part}: {len(labels)} images, {labels.sum()} defective" for part, labels in both)
    print(f"{name}; {words}; rows: {len(official[name])} and {len(shared[name])}")

# %% [markdown]
# Each method is measured at its own size and crop, and the masks are brought to the same size and crop. So a method that cuts the border off is not asked about defects
# there. This is not quite fair: read pixel figures of different crops with that in mind.
#
# ## False alarms at 95 % detection, by hand
#
# An AUROC (the share of pairs of a good and a defective part that are in the right order) averages over all thresholds, but a production line runs at one. There the
# question is: *if 19 of 20 defects must be found, how many good parts are thrown away?* On five good parts and four defects, of which three quarters must be found:

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
# One weak defect sets the threshold: at .5 two of five good parts are lost. If that defect scored .34, three would be lost. So the figure depends on very few test images,
# and its interval has to move the threshold too (`metrics.false_alarms_interval`). It is a column of the table below.
#
# ## A paired difference, by hand
#
# Do two intervals that overlap mean "no difference"? No: an image that is hard for one method is often hard for the other. When we draw the test images anew, both figures
# go up or down together, and their *difference* changes less. So the difference is what must be resampled, with the same draw for both. Three good parts, three defects,
# two methods:

# %%
six = np.array([0, 0, 0, 1, 1, 1])
first_scores, second_scores = np.array([1.0, 2, 4, 3, 5, 6]), np.array([1.0, 3, 5, 2, 4, 6])
draws = metrics.resample_weights(six, 200)  # 200×6: how often each image is in each draw


def auroc_by_hand(scores, weights):
    """Share of pairs that are in the right order; a pair counts as often as its images were drawn."""
    order = np.sign(scores[six == 1][:, None] - scores[six == 0][None])  # 3×3: 1, 0 for a tie, -1
    counts = np.outer(weights[six == 1], weights[six == 0])
    return np.sum(counts * (order + 1) / 2) / counts.sum()


by_hand = np.array([auroc_by_hand(first_scores, w) - auroc_by_hand(second_scores, w) for w in draws])
print("the first two draws:", *draws[:2], "-> differences of AUROC", by_hand[:2].round(2))

# %%
estimates = [auroc_by_hand(scores, np.ones(6)) for scores in (first_scores, second_scores)]
resampled = [metrics.resampled_ranking(six, scores, draws)["image_auroc"] for scores in (first_scores, second_scores)]
package = metrics.paired_difference(*resampled, *estimates, units=3)
low, high = np.quantile(by_hand, [0.025, 0.975])
print(f"by hand {estimates[0] - estimates[1]:.3f} [{low:.3f}, {high:.3f}], package {metrics.format_metric(package)}")
assert np.allclose([estimates[0] - estimates[1], low, high], [package["mean"], package["low"], package["high"]])

# %% [markdown]
# Now all pairs of methods on one product; those that rank every image right are left out. For each pair the spread (standard deviation over 2000 draws) of the difference,
# once with the same draw for both, and once with a draw of its own for each:

# %%
contenders = [row for row in official[first] if row.row not in TRIVIAL or row.row == BAR]
labels = contenders[0].labels
draws = metrics.resample_weights(labels, 2000)
aurocs = {}  # row -> (2000,), means over its seeds
for row in contenders:
    each = [metrics.resampled_ranking(labels, scores, draws)["image_auroc"] for scores in row.scores]
    aurocs[row.row] = np.mean(each, axis=0)
imperfect = [name for name, values in aurocs.items() if values.std() > 0]
pairs = list(combinations(imperfect, 2))
paired = np.array([(aurocs[one] - aurocs[two]).std() for one, two in pairs])
unpaired = np.array([(aurocs[one] - aurocs[two][::-1]).std() for one, two in pairs])  # reversed: other draws

# %%
narrower = paired < unpaired
print(f"the paired difference has the smaller spread in {narrower.sum()} of {len(pairs)} pairs;", end=" ")
print(f"paired / unpaired spread: {(paired / unpaired).min():.2f} to {(paired / unpaired).max():.2f}" if pairs else "")
lesson("pairing makes the difference narrower", len(pairs) > 0 and narrower.mean() > 0.9, run, source)

# %% [markdown]
# How much narrower depends on how strongly the two figures move together.
#
# ## Many pairs: Holm's correction, by hand
#
# With many pairs some intervals exclude 0 by luck: among twenty comparisons of equals, one on average. **Holm's correction** makes up for it.
#
# Each pair has a p-value: twice the share of draws in which the difference is 0 or has the other sign. Of K p-values the smallest is multiplied by K, the next by K − 1,
# and so on; none may fall below the one before. Call those that are then still below .05 different: the chance that even one of these claims is false is at most 5 %.

# %%
p = [0.01, 0.04, 0.03, 0.005]
smallest_first, adjusted = sorted(p), []
for place, value in enumerate(smallest_first):
    adjusted.append(max([value * (len(p) - place), *adjusted]))
print({value: round(float(raised), 3) for value, raised in zip(smallest_first, adjusted, strict=True)})
assert np.allclose([adjusted[smallest_first.index(value)] for value in p], compare.holm(p))

# %% [markdown]
# ## One table
#
# All rows of one product on its official test images. *AUPRO* is the area under the per-region-overlap curve up to 30 % false-positive pixels: how well a map covers each
# defect (notebook 02); rows without maps have a dash there. *Won* and *lost* count the paired differences of image AUROC that stand after Holm. The time of the fit is
# per seed, the other per image, both on the machine that made the artifact.
#
# Three of the rows may be new to you: `padim-keras` is PaDiM on a network in Keras (notebook 02), `autoencoder-mse` was trained with the squared error alone
# (notebook 03), and `knn` scores a whole image by its distance to the nearest good images, in the features of a network.


# %%
def measure_all(results):
    """Metrics of every row at its own resolution."""
    return {row.row: compare.measure(row) for row in results}


measured = {name: {"official": measure_all(official[name]), "common": measure_all(shared[name])} for name in categories}
contest = {
    name: compare.paired([r for r in official[name] if r.row not in TRIVIAL or r.row == BAR]) for name in categories
}

# %%
WORDS = {"image_auroc": "image AUROC", "au_pro": "AUPRO", "false_alarms": "false alarms at 95 %"}
wins, cost = compare.wins(contest[first]), compare.costs(official[first], measured[first]["official"]).set_index("row")
lines = {}
for row, values in measured[first]["official"].items():
    lines[row] = {word: metrics.format_metric(values[key]) if key in values else "–" for key, word in WORDS.items()}
    known = row in wins.index
    lines[row]["won, lost"] = f"{wins['beats_holm'][row]}, {wins['beaten_by_holm'][row]}" if known else "–"
    lines[row] |= {"fit s": f"{cost['fit_seconds'][row]:.1f}", "ms / image": f"{cost['milliseconds'][row]:.1f}"}
pd.DataFrame(lines).T.sort_values("image AUROC", ascending=False, kind="stable")

# %% [markdown]
# Look at the interval of any one image AUROC, and then at its difference to the next row: the interval is wider. Five rows need no model: `all_defective` calls every part
# a defect, two read the mean brightness, two compare with the mean good image. **They are the ones to beat**, above all `pixel_z_score` (each pixel against its mean and
# deviation over good images), which has a *won, lost* of its own.
#
# Does what is trained for longest score best?

# %%
timed = cost.loc[[row.row for row in contenders]].dropna(subset=["fit_seconds", "milliseconds"])
slowest, best = timed["fit_seconds"].idxmax(), timed["mean"].idxmax()
print(
    f"longest to fit: {slowest}, image AUROC {timed['mean'][slowest]:.3f};",
    f"highest image AUROC (first of equals): {best}, {timed['mean'][best]:.3f}",
)
pair = contest[first][contest[first]["first"].isin([slowest, best]) & contest[first]["second"].isin([slowest, best])]
for line in pair.itertuples():
    words = metrics.verdict(line.low, line.high)
    print(f"{line.first} − {line.second}: {line.mean:+.3f} [{line.low:+.3f}, {line.high:+.3f}]: {words}")

# %% [markdown]
# ## One figure
#
# Left the image AUROC of each row with its interval. Right the **paired difference** to `pixel_z_score`, the row to beat. *Filled*: the difference stands after Holm,
# which counts all pairs of the product; *open*: it does not stand.


# %%
def differences_to(pairs, bar):
    """Paired differences of all other rows to one row."""
    mirrored = {"first": pairs["second"], "mean": -pairs["mean"], "low": -pairs["high"], "high": -pairs["low"]}
    both = pd.concat([pairs, pairs.assign(second=pairs["first"], **mirrored)])
    return both[both["second"] == bar].set_index("first")


shown = list(dict.fromkeys((first, last)))
counts = [len({*contest[name]["first"], *contest[name]["second"]}) for name in shown]
COLOURS = {"ahead": plotting.METHOD_COLOURS[0], "behind": plotting.DEFECT, "undecided": "#8A8A8A"}

# %%
look = {"height_ratios": counts, "width_ratios": (1, 1)}
figure, grid = plt.subplots(
    len(shown),
    2,
    figsize=(8.8, 1.3 * len(shown) + 0.3 * sum(counts)),
    squeeze=False,
    sharex="col",
    gridspec_kw=look,
    layout="constrained",
)
for name, (left, right) in zip(shown, grid, strict=True):
    bar, aurocs_of = differences_to(contest[name], BAR), measured[name]["official"]
    names = sorted([*bar.index, BAR], key=lambda row: aurocs_of[row]["image_auroc"]["mean"])
    for place, row in enumerate(names):
        values = aurocs_of[row]["image_auroc"]
        left.plot([values["low"], values["high"]], [place, place], color="#333333", lw=2)
        left.plot(values["mean"], place, "o", color="#333333", clip_on=False, zorder=3)
        if row == BAR:
            continue
        line = bar.loc[row]
        colour = COLOURS[metrics.verdict(line["low"], line["high"])]
        right.plot([line["low"], line["high"]], [place, place], color=colour, lw=2)
        right.plot(line["mean"], place, "o", color=colour, mfc=colour if line["differs_holm"] else "white", zorder=3)
    left.set(yticks=range(len(names)), yticklabels=names, title=f"{name}: image AUROC")
    right.set(yticks=range(len(names)), yticklabels=[], title=f"image AUROC minus that of {BAR}")
    left.axvline(0.5, color="#8A8A8A", ls=":", lw=1)
    right.axvline(0, color="#333333", lw=1)
handles = [plt.Line2D([], [], color=colour, marker="o", label=word) for word, colour in COLOURS.items()]
for word, inside in {"stands after Holm": "#333333", "does not stand": "white"}.items():
    handles.append(plt.Line2D([], [], color="#333333", marker="o", mfc=inside, ls="", label=word))
figure.legend(handles=handles, loc="outside lower right", ncols=5)
plt.show()

# %%
for name in categories:
    pairs = contest[name]
    print(
        f"{name}: {len(pairs)} pairs, {pairs['differs'].sum()} intervals exclude 0, {pairs['differs_holm'].sum()} after Holm"
    )
behind = differences_to(contest[first], "f_anogan") if "f_anogan" in aurocs else pd.DataFrame()
ahead = [row for row in ("padim", "patchcore") if row in behind.index]
for row in ahead:
    line = behind.loc[row]
    print(
        f"{first}: {row} − f_anogan {metrics.format_metric(line)}, after Holm: {'yes' if line['differs_holm'] else 'no'}"
    )
holds = len(ahead) == 2 and all(behind.loc[row, "differs_holm"] and behind.loc[row, "low"] > 0 for row in ahead)
if len(ahead) == 2:
    lesson("PaDiM and PatchCore are ahead of f-AnoGAN, also after Holm", holds, run, source)

# %% [markdown]
# **A method "wins" when its difference to the row to beat is green and filled.** Green and open may be luck. Grey does not mean equal: these images cannot tell.
#
# The same question about places instead of images, for the rows that have maps (maps are kept of one seed, so this is a difference of single seeds). And again on the
# common part, where the supervised rows stand beside the others:

# %%
with_maps = [row for row in official[first] if row.maps and row.masks is not None]
contests = {"AUPRO": compare.paired(with_maps, "au_pro")} if len(with_maps) > 1 else {}
contests |= {"image AUROC, the same rows": compare.paired(with_maps)} if contests else {}
fair = [row for row in shared[first] if row.row not in TRIVIAL or row.row == BAR]
contests["image AUROC, common part"] = compare.paired(fair)
for row in (row for row in fair if row.method in SUPERVISED):
    auroc = metrics.format_metric(measured[first]["common"][row.row]["image_auroc"])
    print(f"{row.row}, common part ({len(row.table)} images): image AUROC {auroc}")
for word, pairs in contests.items():
    print(
        f"{word}: {pairs['differs'].sum()} of {len(pairs)} intervals exclude 0, {pairs['differs_holm'].sum()} after Holm"
    )

# %%
if "AUPRO" in contests:
    by_place, by_image = (contests[word]["differs_holm"] for word in ("AUPRO", "image AUROC, the same rows"))
    print(f"of {len(by_place)} pairs AUPRO decides {by_place.mean():.0%} after Holm, image AUROC {by_image.mean():.0%}")
    lesson("AUPRO tells more pairs apart than image AUROC", by_place.sum() > by_image.sum(), run, source)

# %% [markdown]
# Each image brings thousands of pixels; that is a likely reason why differences of maps show on few images. And on a common part of so few images hardly any difference
# stands after Holm: that too is a result.
#
# ## Where each method is weak
#
# The image AUROC of each type of defect against all good images. For each row that makes mistakes its worst type is printed. With ten images a type every interval is wide:
# this finds weaknesses to look at, not winners.

# %%
for name in shown:
    types = compare.by_defect([row for row in official[name] if row.row not in TRIVIAL])
    for row, lines in types[types["mean"] < 1].groupby("row", sort=False):
        worst = lines.loc[lines["mean"].idxmin()]
        print(f"{name}, {row}: {worst['defect']} {metrics.format_metric(worst)}, {worst['images']} images")

# %% [markdown]
# ## Where it fails: another cut of the same images, another order
#
# The common part comes from one split of many that the same rule can make (a *cut* in the output). What if the seed of the split had been another one? (The supervised rows
# would have to be trained anew, so this is about the others.)


# %%
def mean_auroc(row):
    """Image AUROC, the mean over seeds."""
    return np.mean([metrics.image_auroc(row.labels, scores) for scores in row.scores])


cuts = [compare.common_part(tables[first], seed=seed) for seed in range(40)]
by_cut = pd.DataFrame({row.row: [mean_auroc(row.only(ids)) for ids in cuts] for row in contenders})
for row, values in by_cut.items():
    print(f"{row}: {values.min():.3f} to {values.max():.3f} in {len(cuts)} cuts of {len(cuts[0])} images")

# %%
always = list(by_cut.columns[by_cut.min() == 1])
rest = by_cut.drop(columns=always)
print(f"1.000 in all {len(cuts)} cuts: {', '.join(always) or 'no row'}")
best = rest.idxmax(axis=1).value_counts() if len(rest.columns) else pd.Series(dtype=int)
print("the best of the others:", ", ".join(f"{row} in {count}" for row, count in best.items()))
turns = bool(len(best)) and best.iloc[0] < 0.9 * len(cuts)
lesson("who comes next depends on the seed of the split", turns, run, source)

# %% [markdown]
# Nothing about the methods has changed from one cut to the next, not a weight; only the images differ. So a table of one cut of so few images says little without
# intervals. A claim about one hundredth needs far more images, and a paired difference.
#
# ## Yours, reported, verdict
#
# Each row against its published figures, where they are comparable. A published figure *agrees* where it lies in our interval. It is *confirmed* only where that whole
# interval is close to it, and with few images the interval of an image AUROC is hardly ever that narrow.

# %%
verdicts = published.verdicts([row.report for row in rows if row.row not in TRIVIAL], by="row")
comparable = verdicts[~verdicts["verdict"].str.startswith("not comparable")]
print({words: int(count) for words, count in verdicts["verdict"].value_counts().items()})
comparable if len(comparable) else "none of these rows has a published figure to stand beside"

# %% [markdown]
# What was measured on real images, and how it compares, stands in `docs/results.md` and in `python -m mvtec_ad results`.
#
# ## Exercises
#
# These go on with what this notebook holds. [Lab 09](../course/labs/09_comparison.ipynb) has more, on small arrays, with checks that say what differs.
#
# **1.** Does the order change when the question is "how many false alarms at 95 % detection"? (Less is better.)
#
# <details><summary>Solution</summary>
#
# ```python
# alarms = compare.paired(contenders, "false_alarms")
# print(alarms["differs"].sum(), "of", len(alarms), alarms["differs_holm"].sum())
# compare.wins(alarms, lower_is_better=True)
# ```
# Compare the two counts with those of the AUROC. This figure depends on one or two weak defects, so expect it to tell
# fewer methods apart, though it is the one that a production line would ask for.
# </details>
#
# **2.** How many test images would it take? Pretend that each image had been there twice, or four times, and count again.
#
# <details><summary>Solution</summary>
#
# ```python
# def repeated(row, times):
#     table = pd.concat([row.table] * times, ignore_index=True)
#     return replace(row, table=table, scores=np.tile(row.scores, times), maps={}, masks=None)
#
# for times in (1, 2, 4):
#     more = compare.paired([repeated(row, times) for row in contenders])
#     print(times * len(labels), "images:", more["differs_holm"].sum(), "of", len(more))
# ```
# With more images the intervals are narrower, so more pairs can be told apart. (Only pretend: copies are not new images, and the estimates stay what they are.)
# </details>
#
# ## Save the artifact
#
# All metrics of all rows, the paired differences, and for each row a report on the common part, which `results` puts into a table of its own.

# %%
made_from = [data, *(inputs[stage] for stage in loaded)]
path = compare.save(official, shared, measured, contest, profile=run.name, inputs=made_from)
artifacts.download(path)
reports = artifacts.load("comparison", profile=run.name).json("reports.json")
assert reports[0]["metrics"] == measured[first]["common"][reports[0]["row"]]

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * read the scores of every method from its artifact, and brought them to the same images;
# * counted false alarms at a detection rate, derived a paired difference and Holm's correction by hand, and found the package's numbers;
# * read one table and one figure: who is ahead of whom, with all pairs in mind, and at what cost;
# * asked the same of places instead of images, and of the common part with the supervised rows;
# * seen which part of a ranking changes with the seed of a split.
#
# **Limits.** The intervals are about other test images of the same kind, and about nothing else: not another product, another camera, another budget. The seeds are few,
# and in *quick* most rows have one. Each method could be tuned, and none was tuned on these images; a method whose defaults happen to suit them has an advantage that no
# interval shows. The false alarms at 95 % choose their threshold on the test labels, which nobody has on a line: notebook 02 says what can be promised instead.
#
# **Next:** [09b](09b_museum.ipynb), a museum of wrong results, shows how figures like these come out too good; [10](10_backbone_without_photographs.ipynb) asks what is
# left of such figures when the network has never seen a photograph.
