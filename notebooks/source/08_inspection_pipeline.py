# %% [markdown]
# # 08 · The whole line: hierarchical inspection
#
# <!-- badge -->
#
# Seven notebooks have left their models behind. A line needs one answer: stop this part, or let it pass? In this notebook we will
#
# * **tell products apart**, and say "none of these" of what is none;
# * **join** a classifier that knows some defects with a model that only knows what is good, where the first is unsure;
# * **choose** the band in which it counts as unsure, by what mistakes cost, on images that no model has learned from;
# * **judge items** that two cameras see by both pictures together;
# * **follow** every image through the tree, and count;
# * **measure** what the second opinion changes, paired: where it pays, and where it does not; and what each stage costs in time;
# * **discuss** ten cases, wrong ones first, and a defect that nobody has ever shown to the classifier.
#
# **It reads** `data.zip` and `packages.zip` of [01](01_data_preparation.ipynb), and the models of [02](02_padim.ipynb),
# [03](03_autoencoder.ipynb), [04](04_supervised_classifier.ipynb), [06](06_contrastive_typing.ipynb) and [07](07_dcgan_anogan.ipynb); what is missing is
# made here, but for the second opinions of 03 and 07, which are left out then. Profile *quick*: a minute on 2 CPU cores, two and a half where nothing is there.
#
# Lee, Lee, Lee, Shin, *A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks*, 2018,
# [arXiv:1807.03888](https://arxiv.org/abs/1807.03888); Chow, *On optimum recognition error and reject tradeoff*, 1970; Elkan, *The Foundations
# of Cost-Sensitive Learning*, 2001.

# %%
# <setup>

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.patheffects import withStroke
from sklearn.covariance import ledoit_wolf

from mvtec_ad import artifacts, benchmark, metrics, plotting, profile, synthetic
from mvtec_ad.backbones import load_backbone
from mvtec_ad.benchmark import supervised
from mvtec_ad.config import pin
from mvtec_ad.data import index, prepare
from mvtec_ad.data.loading import read_image
from mvtec_ad.inspection import InspectionOptions, Inspector, ProductClassifier, choose_reject_band
from mvtec_ad.inspection.inspector import grad_cam_maps, load_detectors, stage_of
from mvtec_ad.inspection.products import describe
from mvtec_ad.methods import METHODS, classifier
from mvtec_ad.methods.base import Scores
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need
from mvtec_ad.synthetic.textures import draw_composition

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}

run = profile(PROFILE, CATEGORIES)
pin(run)
options = InspectionOptions.preset(run.name, second="padim")
more = ("autoencoder", "patchcore", "gan")  # second opinions
at_hand = need(run, "data", "packages", "models", "padim", "contrastive", optional=more, other_profile=OTHER_PROFILE)
accepted = None if OTHER_PROFILE else run.name
data, packages, trained = (at_hand[stage] for stage in ("data", "packages", "models"))
source, line = data.manifest["data_source"], packages.manifest["categories"][0]
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
tables = {name: index.read_category(prepare.unpack(data), name) for name in wanted}
parts = where_possible(lambda name: supervised.Parts.of(tables[name]), wanted)
categories = list(parts)
with_classifier = [name for name in categories if name in dict(classifier.names(trained))]
detectors = {}  # method -> product -> a model with its calibrated threshold
for method in METHODS:
    if by_product := load_detectors(at_hand.get(stage_of(method)), method):
        detectors[method] = by_product
ready = [
    (method, name)
    for name in with_classifier
    for method in (options.second, *detectors)
    if name in detectors.get(method, {})
]
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}, products: {source}, {', '.join(categories)}; packages: {packages.manifest['data_source']}")
print(f"second opinion: {options.second}; a miss costs {options.miss:g}, a false alarm {options.false_alarm:g}")
if not ready:
    leave_out_rest("no category has a classifier and a model for a second opinion")
elif ready[0][0] != options.second:
    print(f"{options.second} is left out, for it has no model here: {ready[0][0]} gives the second opinion")

# %% [markdown]
# ## Five images first
#
# What may come along the belt: the products that there are models of, packages from two sides, and a stranger.

# %%
second, first = ready[0]
options = replace(options, second=second)
boxes = index.read_category(prepare.unpack(packages), line)
pictures = {name: [read_image(path) for path in part.learned["image_path"]] for name, part in parts.items()}
for view, rows in boxes[boxes["split"] == "train"].groupby("view"):
    pictures[f"{line}/{view}"] = [read_image(path) for path in rows["image_path"]]
names = sorted(set(synthetic.CATEGORIES) - set(categories))
others = [synthetic.draw(name, seed).image for seed in range(5) for name in names]
others = others or [draw_composition(seed).image for seed in range(25)]  # where all products are known
examples = {name: images[0] for name, images in pictures.items()} | {"a stranger": others[0]}
plotting.gallery(
    list(examples.values())[:5], titles=[name.replace("/", " ") for name in examples][:5], columns=5, size=1.7
)

# %% [markdown]
# ## First stage: which product is it?
#
# A frozen network describes each picture by mean and spread of its channels, $\phi(x)\in\mathbb R^d$. Every product $c$ gets a Gaussian with a mean
# $\mu_c$ of its own and **one covariance** $\Sigma$ for all; it is shrunk, for there are more numbers than pictures. The nearest mean names the product,
#
# $$M_c(x)=\sqrt{(\phi(x)-\mu_c)^\top\Sigma^{-1}(\phi(x)-\mu_c)},$$
#
# and a picture that is far from all of them is **none of these** (Lee et al. 2018, eq. 1 and 2). By hand for one picture:

# %%
network = load_backbone(options.backbone, options.weights)
features = {name: describe(network, images, options.image_size) for name, images in pictures.items()}
known = ProductClassifier.fit(options, network, features)
within = np.concatenate([rows - rows.mean(0, dtype=np.float64) for rows in features.values()])
scale = within.std(0) + 1e-6  # units first: shrinking pulls all variances towards one
shrunk = ledoit_wolf(within / scale, assume_centered=True)[0] * np.outer(scale, scale)
delta = features[first][0] - features[first].mean(0, dtype=np.float64)
by_hand = np.sqrt(delta @ np.linalg.solve(shrunk, delta))
column = known.names.index(first)
by_package = known.distances(pictures[first][:1])[0, column] * known.limits[column]
print(f"{delta.size} numbers a picture; distance to the mean {first} by hand {by_hand:.3f}, package {by_package:.3f}")
assert np.isclose(by_hand, by_package, rtol=1e-3)

# %% [markdown]
# How far is too far? Pictures that were **held out** say it: they are left out of the fit by folds, and the limit is the distance that all but
# $1/200$ of them stay below. Then the test: pictures of the same products that the fit has not seen, and strangers.

# %%
unseen = {name: [read_image(path) for path in part.test["image_path"]] for name, part in parts.items()}
for view, rows in boxes[boxes["split"] == "test"].groupby("view"):
    unseen[f"{line}/{view}"] = [read_image(path) for path in rows["image_path"]]
lines, ood_scores = {}, {}
for name, images in {**unseen, "strangers": others}.items():
    predicted, ood_scores[name] = known.name(images)
    none = ood_scores[name] > 1
    lines[name.replace("/", " ")] = {
        "pictures": len(images),
        "right": int(none.sum() if name == "strangers" else ((predicted == name) & ~none).sum()),
        "none of these": int(none.sum()),
        "smallest distance": ood_scores[name].min().round(2),
        "largest distance": ood_scores[name].max().round(2),
    }
pd.DataFrame(lines).T

# %%
figure, axis = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
for row, (name, scores) in enumerate(ood_scores.items()):
    colour = plotting.DEFECT if name == "strangers" else plotting.GOOD
    axis.scatter(scores, np.full(len(scores), row) + np.linspace(-0.25, 0.25, len(scores)), s=12, color=colour)
axis.axvline(1, color=plt.rcParams["text.color"], lw=1, ls="--")
axis.set(yticks=range(len(ood_scores)), yticklabels=list(lines), xscale="log")
axis.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"], minor=False)
axis.minorticks_off()
axis.set_xlabel("distance to the nearest product, in units of its limit")
plt.show()

# %% [markdown]
# Right of the dashed line lies what is none of these. The question is easy here, and that is the point: a model that was never shown a cable has no
# business judging one. Without this stage it would, and with confidence.

# %%
seen = {name: values for name, values in lines.items() if name != "strangers"}
right, pictures_seen = (sum(values[key] for values in seen.values()) for key in ("right", "pictures"))
low, _ = metrics.wilson(right / pictures_seen, pictures_seen)
refused_low, _ = metrics.wilson(lines["strangers"]["right"] / len(others), len(others))
print(f"{right} of {pictures_seen} pictures of known products are named rightly, at least {low:.0%} (95 % interval)")
print(f"{lines['strangers']['right']} of {len(others)} strangers are refused, at least {refused_low:.0%}")
lesson("products are recognised and strangers refused", low > 0.9 and refused_low > 0.8, run, source)

# %% [markdown]
# ## Second stage: when is the classifier unsure?
#
# The classifier's calibrated logit $z$ is a defect above $t=\log(c_\text{false alarm}/c_\text{miss})$, the threshold from the costs (notebook 04). Near $t$ it is little more than
# a coin. There the **second opinion** decides, a model that has never seen a defect. *Near* means $|z-t|<w$; $w$ is the one number to choose, and cost
# chooses it: for each $w$, what would mistakes cost on **validation** images? By hand on six of them:

# %%
labels = np.array([1, 1, 1, 0, 0, 0])
logits = np.array([2.0, -1.8, -2.6, -1.0, -2.4, -5.0])  # threshold below: log(1/10) = -2.3
called = np.array([1, 1, 1, 0, 0, 1])  # what the second opinion would say
t = np.log(options.false_alarm / options.miss)
by_hand = {}
for w in (0.0, 0.5, 1.5, 3.0):
    verdict = np.where(np.abs(logits - t) < w, called, logits > t)
    missed, alarms = ((labels == 1) & (verdict == 0)).sum(), ((labels == 0) & (verdict == 1)).sum()
    by_hand[w] = float(options.miss * missed + options.false_alarm * alarms) / len(labels)
costs = {"miss": options.miss, "false_alarm": options.false_alarm}
reject_band = choose_reject_band(labels, logits, called, t, **costs, widths=tuple(by_hand))
print("cost per part by hand:", {w: round(cost, 3) for w, cost in by_hand.items()}, "-> width", reject_band.width)
assert np.allclose(list(reject_band.costs.values()), list(by_hand.values()))
assert reject_band.width == min(by_hand, key=by_hand.get)

# %% [markdown]
# A trap: the second opinion must not be asked about images that it was fitted on, for it knows them by heart. PaDiM and PatchCore keep a
# leave-one-out score of each good image, and are asked for that. Autoencoder and f-AnoGAN held some out, and for the others that share of false alarms is taken
# which they had on the held-out ones (`alarm_probabilities`). Now the real models, on the classifier's validation images:

# %%
_, classify, *_ = Inspector.load(second=options.second, profile=accepted).stages


def colours(model, held):
    """Colour scale of Grad-CAM, from some two dozen images of a table."""
    some = held[:: -(-len(held) // 24)].reset_index(drop=True)
    return plotting.map_scale(grad_cam_maps(model, model.cut(some)[0]))


map_scales = {}
reject_bands, entries = {}, []
for method, by_product in detectors.items():
    for name in (name for name in categories if name in by_product and (name, "") in classify.classifiers):
        fitted = classify.classifiers[name, ""]
        reject_band = supervised.reject_band_of(fitted.model, by_product[name], parts[name], options)
        held = parts[name].learned[parts[name].learned["image_id"].isin(fitted.model.validation["image_id"])]
        if name not in map_scales:
            map_scales[name] = colours(fitted.model, held)
        reject_bands[name, method] = reject_band
        entries.append(replace(fitted, reject_band=reject_band, map_scale=map_scales[name]).entry(name, "", method))
for view in sorted(boxes["view"].unique()):
    fitted = classify.classifiers[line, view]
    held = boxes[boxes["image_id"].isin(fitted.model.validation["image_id"]) & (boxes["view"] == view)]
    entries.append(replace(fitted, map_scale=colours(fitted.model, held)).entry(line, view, None))
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for (name, method), reject_band in reject_bands.items():
    widths, costs = list(reject_band.costs), list(reject_band.costs.values())
    (curve,) = axis.plot(widths, costs, marker="o", ms=4, label=f"{name}, {method}")
    axis.plot(reject_band.width, min(costs), "o", ms=11, mfc="none", color=curve.get_color())
axis.set(xlabel="half-width w of the band, logits", ylabel="cost per part, validation images")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# At $w=0$ the classifier decides alone; to the right the second opinion is asked more and more often. The ring marks the cheapest width, of equally cheap
# ones the narrowest. Packages have no unsupervised model, so nobody is asked there; their threshold is the one that notebook 04 chose on validation images.
#
# What was learned goes into `inspection.zip`, so that the inspector can be built **from artifacts alone**:

# %%
learned = {"bands.json": entries, **known.files()}
about = {"profile": run.name, "data_source": source, "categories": [*categories, line], "options": options.options()}
artifacts.save("inspection", learned, **about, seed=0, inputs=[data, packages, trained])
inspector = Inspector.load(second=options.second, profile=accepted)
print("missing:", "; ".join(inspector.missing) or "nothing")
print("stages:", ", ".join(type(stage).__name__ for stage in inspector.stages))

# %% [markdown]
# ## Every image, and the way it takes
#
# Test images of all products, and the strangers. Nothing tells the inspector what they are.

# %%
tests = pd.concat([part.test for part in parts.values()] + [boxes[boxes["split"] == "test"]], ignore_index=True)
begun = time.perf_counter()
inspections = list(inspector.inspect([*tests["image_path"], *others]))
seconds = time.perf_counter() - begun
truth = tests["label"].to_numpy()
print(f"{len(inspections)} images in {seconds:.1f} s, with anomaly maps")

# %%
COLOURS = {"good": plotting.GOOD, "defect": plotting.DEFECT}
SCALE = 3.2 / len(inspections)  # inches an image


def draw_branches(axis, rows, name="all images", x=0, top=0.35):
    """Draw what becomes of rows (results of the four stages, label) that are together at x; their middle and end."""
    branches, ends, bottom = {}, [], top
    for results, label in rows:
        column = next((column for column in range(x + 1, 5) if results[column - 1]), None)  # the next that had a say
        if column:
            branches.setdefault((column, results[column - 1]), []).append((results, label))
    for key in sorted(branches, key=lambda key: (key[1] == "none of these", key[1])):
        middle, bottom = draw_branches(axis, branches[key], key[1], key[0], bottom)
        ends.append((key[0], middle, np.bincount([label for _, label in branches[key]], minlength=2)))
    counts, thick, smooth = np.bincount([label for _, label in rows], minlength=2), SCALE * len(rows), np.linspace(0, 1)
    bottom = max(bottom, top + max(0.31, thick + 0.1))
    middle = (top + bottom) / 2
    start = middle - thick / 2
    for column, end, numbers in ends:
        end -= SCALE * numbers.sum() / 2
        for number, colour in zip(numbers, COLOURS.values(), strict=True):
            edge = np.append(start + (end - start) * (3 - 2 * smooth) * smooth**2, end)  # bends, then runs straight on
            axis.fill_between([*(x + smooth), column], edge, edge + SCALE * number, color=colour, alpha=0.42, lw=0)
            start, end = start + SCALE * number, end + SCALE * number
    ink, weight = COLOURS.get(name.removeprefix("sure: "), "#222222"), "bold" if x == 4 else None
    axis.bar(x, thick, 0.035, middle - thick / 2, align="edge", color=ink, zorder=3)
    looks = {"path_effects": [withStroke(linewidth=2.5, foreground="white")], "zorder": 4}
    text = axis.text(x + 0.06, middle, name, va="center_baseline", color=ink, weight=weight, **looks)
    for number, colour in [pair for pair in zip(counts, COLOURS.values(), strict=True) if pair[0]]:
        looks |= {"xycoords": text, "va": "bottom", "color": colour, "weight": "bold"}
        text = axis.annotate(f"  {number}", (1, 0), **looks)
    wrong, words = {"good": (counts[1], "missed"), "defect": (counts[0], "false alarms")}.get(name, (0, ""))
    if wrong and x == 4:
        axis.annotate(f"   {wrong} {words}", (1, 0), xycoords=text, va="bottom")
    return middle, bottom + (0.12 if x == 1 else 0)


# %% [markdown]
# ## An item, two pictures
#
# Each picture was judged on its own. But it is an *item* that is stopped, and a package comes in two pictures. If either of them may stop it, false alarms of both views
# add up. The **joint verdict** of notebook 04 adds the two calibrated logits instead, against a threshold that validation items have chosen by cost.

# %%
by_view = {view: classify.classifiers[line, view] for view in sorted(boxes["view"].unique())}
held = classifier.joint_verdict(classifier.validation_scores([fitted.model for fitted in by_view.values()], boxes))
joint_threshold = metrics.cost_threshold(held["label"], held["score"], options.miss, options.false_alarm)
over = [inspection.score for inspection in inspections[: len(tests)]]  # calibrated logit less its threshold
packages_seen = tests.assign(over=np.array(over, dtype=float)).query("category == @line").dropna(subset="over")
limits = packages_seen["view"].map({view: fitted.reject_band.threshold for view, fitted in by_view.items()})
joint = classifier.joint_verdict(packages_seen.assign(score=packages_seen["over"] + limits)).set_index("group")
either = packages_seen.groupby("group")["over"].max()[joint.index].to_numpy() > 0
jointly, item_labels = joint["score"].to_numpy() > joint_threshold, joint["label"].to_numpy()
rules, lines = {"either view": either, "jointly": jointly}, {}
for name, stopped in rules.items():
    (_, alarms), (missed, _) = metrics.confusion(item_labels, stopped)
    cost = (options.miss * missed + options.false_alarm * alarms) / len(item_labels)
    lines[name] = {"good ones stopped": alarms, "damaged ones missed": missed, "cost per item": round(cost, 2)}
change = supervised.cost_difference(item_labels, [(either, jointly)], options)["difference"]
print(f"{(item_labels == 0).sum()} good packages, {(item_labels == 1).sum()} damaged ones")
print("change of cost, jointly minus either view: {mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change))
lesson(
    "the joint verdict is cheaper than stopping for either view",
    change["high"] < 0,
    run,
    packages.manifest["data_source"],
)
pd.DataFrame(lines).T

# %% [markdown]
# What becomes of all images? Every inspection keeps the steps of its `path`. Images with the same steps are drawn as one branch, as thick as they are many;
# for a package the other picture takes the place of a second opinion:

# %%
stages, rows, verdicts, deciders = ("product", "classifier", "second opinion"), [], [], []
stopped = dict(zip(joint.index, np.where(jointly, "defect", "good"), strict=True))
for number, (inspection, label) in enumerate(zip(inspections, [*truth, *[0] * len(others)], strict=True)):
    steps = {step.stage: step.result for step in inspection.path}  # strangers are no defects
    group = tests["group"][number] if number < len(tests) and inspection.product == line else None
    if group in stopped:
        steps["second opinion"] = "both pictures"
    verdicts.append(stopped.get(group, inspection.verdict))
    deciders.append("both pictures" if group in stopped else inspection.decided_by)
    rows.append(([*map(steps.get, stages), verdicts[-1]], label))
tree, axis = plt.subplots(figsize=(11.6, 5.8), layout="constrained")
_, bottom = draw_branches(axis, rows)
axis.set(xlim=(0, 5.2), ylim=(bottom, 0))
axis.set_axis_off()
for x, name in enumerate(("", *stages, "verdict")):
    text = axis.text(x, 0.18, name or "truth: ", color="#8A8A8A", va="center_baseline")
    for truth_name, colour in () if name else COLOURS.items():
        looks = {"color": colour, "weight": "bold", "va": "bottom"}
        text = axis.annotate(f"{truth_name}  ", (1, 0), xycoords=text, **looks)
plt.show()

# %%
table = pd.DataFrame(
    {
        "product": [*tests["category"], *["stranger"] * len(others)],
        "is": [*np.where(truth == 1, "defect", "good"), *["none of these"] * len(others)],
        "called": verdicts,
    }
)
pd.crosstab([table["product"], table["is"]], table["called"])

# %% [markdown]
# Read the tree from left to right: how many images take which branch, and what becomes of them. Grey figures at the end count the mistakes. For packages the table
# counts pictures: both pictures of an item get the verdict of the item.
#
# ## What does the second opinion change?
#
# Paired: the same test images, once judged by the classifier alone and once by both. A miss counts ten false alarms. A second opinion can only help where the classifier errs, so
# first, with all widths, the product whose classifier made the dearest mistakes on validation images:

# %%
_, classify, ask, *_ = inspector.stages
shown = max(
    (name for name, method in reject_bands if method == second), key=lambda name: reject_bands[name, second].costs[0.0]
)
fitted, detector = classify.classifiers[first, ""], ask.detectors[first]
test = parts[first].test
labels = test["label"].to_numpy()
logits_of, opinions = {}, {}
for name in with_classifier:
    model = classify.classifiers[name, ""].model
    logits_of[name] = model.score(parts[name].test).image.astype(float) / model.temperature
    for method in detectors:
        if (name, method) in reject_bands:
            asked = detectors[method][name]
            opinions[name, method] = supervised.second_scores(asked, parts[name].test) > asked.threshold


def compared(name, method, reject_band):
    """What a second opinion of a product changes on its test part, with a band; and its verdicts."""
    labels, z = parts[name].test["label"].to_numpy(), logits_of[name]
    alone, unsure = z > reject_band.threshold, reject_band.unsure(z)
    both = np.where(unsure, opinions[name, method], alone)
    cost = supervised.cost_difference(labels, [(alone, both)], options)
    (_, alarms), (missed, _) = metrics.confusion(labels, both)
    change = cost["difference"]
    pays = "pays" if change["high"] < 0 else "costs more" if change["low"] > 0 else "undecided"
    line = {"asked": int(unsure.sum()), "missed": missed, "false alarms": alarms}
    line |= {"cost per part": round(cost["inspector"]["mean"], 2)}
    line["change of cost"] = "{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change)
    return line | {"second opinion": pays}, change


z, threshold = logits_of[first], fitted.reject_band.threshold
reject_band = reject_bands[shown, second]
lines = {
    f"{w:g}" + (" (chosen)" if w == reject_band.width else ""): compared(shown, second, replace(reject_band, width=w))[
        0
    ]
    for w in options.widths
}
counts = parts[shown].test["label"].value_counts()
print(f"{shown}, {second}: {counts[1]} defects and {counts[0]} good ones")
pd.DataFrame(lines).T.rename_axis("half-width")

# %% [markdown]
# The first row is the classifier alone. The change is the paired difference with its 95 % interval (images resampled): a second opinion **pays** where
# the interval lies below zero, and **costs more** where it lies above; all else is *undecided*. Where no verdict changes, the interval is what so few images could hide.
#
# Now every product with every detector that there is a model of, at the width that validation images chose:

# %%
changes, lines = {}, {}
for (name, method), chosen in reject_bands.items():
    line, changes[name, method] = compared(name, method, chosen)
    (_, alarms), (missed, _) = metrics.confusion(parts[name].test["label"], opinions[name, method])
    lines[name, method] = {"half-width": chosen.width, **line, "alone: missed": missed, "alone: false alarms": alarms}
pd.DataFrame(lines).T

# %%
print("{0}, {1}: change of cost {mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(shown, second, **changes[shown, second]))
lesson(
    f"on {shown} the second opinion of {second} does not cost more than the classifier alone",
    changes[shown, second]["mean"] <= 0,
    run,
    source,
)
for name in with_classifier:
    if {(name, "padim"), (name, "autoencoder")} <= set(opinions):
        pair = opinions[name, "autoencoder"], opinions[name, "padim"]
        change = supervised.cost_difference(parts[name].test["label"], [pair], options)["difference"]
        words = "cheaper" if change["high"] < 0 else "dearer" if change["low"] > 0 else "undecided"
        print(f"{name}, asked alone: padim minus autoencoder", end=" ")
        print("{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change) + f" a part: {words}")

# %% [markdown]
# The last two columns are the detector alone, at the threshold that stops one good part in twenty. It is a question of the *pair*: a second opinion pays where it knows what the
# classifier does not. Where the classifier makes no mistake there is nothing to gain, and a detector that passes damaged parts can only make things dearer: see what the autoencoder alone misses,
# of screws above all, which lie at any angle (notebook 03). The band is the safeguard: where the second opinion is poor, validation images choose a narrow one, so that it is hardly asked. A detector
# may put the parts in a good *order* and still pass many a damaged one at that threshold. On real products, and on seven drawn ones, [`docs/results.md`](../docs/results.md) has the figures.
#
# ## What does each stage cost?


# %%
def milliseconds(task, count, repeats=3):
    """Median over repeats, per image."""
    task()
    spent = []
    for _ in range(repeats):
        begun = time.perf_counter()
        task()
        spent.append(time.perf_counter() - begun)
    return 1000 * np.median(spent) / count


few = [read_image(path) for path in test["image_path"][:8]]
cuts = fitted.model.look_at(few, "")
stages = {
    "read the file": lambda: [read_image(path) for path in test["image_path"][:8]],
    "which product": lambda: known.distances(few),
    "classifier": lambda: fitted.model.logits(fitted.model.look_at(few, "")),
    "Grad-CAM": lambda: grad_cam_maps(fitted.model, cuts),
    f"second opinion ({options.second})": lambda: supervised.second_scores(detector, test[:8]),
}
spent = {name: milliseconds(task, len(few)) for name, task in stages.items()}
figure, axis = plt.subplots(figsize=(6, 2.2), layout="constrained")
axis.barh(list(spent)[::-1], list(spent.values())[::-1], color=plotting.GOOD)
axis.set_xlabel("milliseconds an image, this machine")
plt.show()

# %% [markdown]
# The verdict itself is cheap. What is dear is looking twice, and drawing maps for people; both are done only where asked.
#
# ## Ten cases worth discussing
#
# Mistakes first, two of each product, then right verdicts; the narrowest decisions of each kind.

# %%
cases = [
    (verdicts[number] != ("defect" if label else "good"), -abs(inspection.score or 0), number)
    for number, (inspection, label) in enumerate(zip(inspections, truth, strict=False))
    if inspection.score is not None
]
ranks = pd.DataFrame(cases, columns=["wrong", "near", "number"]).assign(category=tests["category"])
ranks = ranks.sort_values(["wrong", "near"], ascending=False).groupby(["wrong", "category"]).head(2)
ten = list(ranks["number"].head(10))
shown = {n: inspections[n] for n in ten}
titles = [f"{tests['category'][n]}: {tests['defect'][n]}\n{verdicts[n]} ({deciders[n]})" for n in ten]
plotting.gallery([shown[n].picture for n in ten], titles=titles, labels=list(truth[ten]), columns=5, size=1.75)

# %%
plotting.inspection_figure(inspections[ten[0]], truth=int(truth[ten[0]]))

# %% [markdown]
# The figure above is what `python -m mvtec_ad detect transfer IMAGE --figures FOLDER` draws: picture, map of the model that decided, and the way. Here a defect
# that was caught, down to its type and its place on the atlas:

# %%
caught = [n for n, inspection in enumerate(inspections[: len(truth)]) if inspection.type is not None][:1]
print(f"truly {tests['defect'][caught[0]]}" if caught else "no defect was named: its figure is left out")
for n in caught:
    display(plotting.inspection_figure(inspections[n], truth=int(truth[n])))

# %% [markdown]
# The line above the figure is the truth. A classifier may be right for a reason that is none (notebook 05 measures how often): look at the map before you believe the verdict.
#
# A folder instead of an image gives an HTML page, sorted so that the worst come first.
#
# ## The failure case: a defect that nobody has shown
#
# A classifier knows the defects it was taught. Leave one type out of its training, and ask it about that type: does it pass? And does a stage behind it still
# catch it?

# %%
new = sorted(set(tables[first]["defect"]) - {"good"})[-1]


def without(new):
    """What becomes of a type of defect that the classifier has not been shown."""
    learned_types = parts[first].learned[parts[first].learned["defect"] != new].reset_index(drop=True)
    blind = replace(fitted.model).fit(learned_types, seed=0)
    never = pd.concat([tables[first][tables[first]["defect"] == new], test[test["label"] == 0]], ignore_index=True)
    blind_band = supervised.reject_band_of(blind, detector, replace(parts[first], learned=learned_types), options)
    zs = blind.score(never).image.astype(float) / blind.temperature
    stopped = supervised.second_scores(detector, never) > detector.threshold
    ways = {
        "classifier that knows the type": fitted.model.score(never).image / fitted.model.temperature > threshold,
        "classifier that does not": zs > blind_band.threshold,
        "the same, with second opinion": np.where(blind_band.unsure(zs), stopped, zs > blind_band.threshold),
        f"{options.second} alone": stopped,
    }
    is_new = (never["label"] == 1).to_numpy()
    return {
        name: {
            f"{new} caught": f"{called[is_new].sum()} of {is_new.sum()}",
            "false alarms": f"{called[~is_new].sum()} of {(~is_new).sum()}",
        }
        for name, called in ways.items()
    }


pd.DataFrame(where_possible(without, [new]).get(new)).T

# %% [markdown]
# The first row has learned from most of these very images, so it is no fair rival, only the ceiling; the second says what a classifier makes of a kind of defect that it was never taught, and the
# third what a second opinion adds. A new kind of defect does not announce itself: where the classifier is *surely wrong*, no band helps, for nobody asks. That is the limit of asking
# only where one is unsure. Who expects new defects asks always, and pays with false alarms.
#
# ## Yours, reported, verdict
#
# We found no published figure of an inspector of this make on MVTec AD.

# %%
scores = [inspection.score for inspection, name in zip(inspections, tests["category"], strict=False) if name == first]
refused = [number for number, score in enumerate(scores) if score is None]
if refused:
    print(f"{len(refused)} of {len(scores)} images were taken for no {first}: judged again, with the product told")
    told = inspector.inspect(list(test["image_path"][refused]), product=first, anomaly_maps=False)
    for number, inspection in zip(refused, told, strict=True):
        scores[number] = inspection.score
evaluated = {
    "classifier": metrics.evaluate(labels, z[None]),
    "inspector": metrics.evaluate(labels, np.array([scores])),
}
weights = metrics.resample_weights(labels, 2000)
ranked = [metrics.resampled_ranking(labels, values, weights)["image_auroc"] for values in (np.array(scores), z)]
estimates = [metrics.image_auroc(labels, values) for values in (np.array(scores), z)]
difference = metrics.paired_difference(*ranked, *estimates, int(labels.sum()))
print(f"inspector minus classifier, paired: {metrics.format_metric(difference)}")
lesson("the inspector is not below the classifier", difference["high"] >= 0, run, source)
pd.DataFrame(
    [
        [first, name, metrics.format_metric(values["image_auroc"]), "–", "no published figure found"]
        for name, values in evaluated.items()
    ],
    columns=["", "", "image AUROC", "reported", "verdict"],
)

# %% [markdown]
# ## Exercises
#
# **1.** And if the second opinion were asked about every part? Give `compared` a band without end for each product.
#
# <details><summary>Solution</summary>
#
# ```python
# for name, method in reject_bands:
#     print(name, method, compared(name, method, replace(reject_bands[name, method], width=np.inf))[0])
# ```
# The classifier then has no say: *missed* and *false alarms* are those of the last two columns above.
# </details>
#
# **2.** What if a miss costs only twice a false alarm? Choose the band anew with `replace(options, miss=2.0)`.
#
# <details><summary>Solution</summary>
#
# ```python
# cheap = supervised.reject_band_of(fitted.model, detector, parts[first], replace(options, miss=2.0))
# print(round(cheap.threshold, 2), cheap.width, {w: round(c, 3) for w, c in cheap.costs.items()})
# ```
# The threshold from the costs moves up, so fewer good parts are stopped by the classifier alone, and the width is chosen anew.
# </details>
#
# ## Save the artifact
#
# Scores of classifier and inspector on the common test part, for the comparison in notebook 09.

# %%
good = fitted.model.validation.query("label == 0")["score"].to_numpy() / fitted.model.temperature
measured = {
    "classifier": Scores(z.astype(np.float32), grad_cam_maps(fitted.model, fitted.model.cut(test)[0])),
    "inspector": Scores(np.array(scores, np.float32)),
}
known = {"data_source": source, "weights": fitted.model.weights_name, "false_alarm_rate": 0.05}
known["seconds"] = {"score": spent["classifier"] * len(test) / 1000}
results = [
    supervised.result_of(method, parts[first], fitted.model, {0: values}, {0: good}, **known)
    for method, values in measured.items()
]
files = {**learned, **benchmark.result_files(results), "tree.png": plotting.to_png(tree)}
about["metrics"] = {result.method: result.report["metrics"]["image_auroc"]["mean"] for result in results}
path = artifacts.save("inspection", files, **about, seed=0, inputs=[data, packages, trained])
artifacts.download(path)

# %%
again = Inspector.load(second=options.second, profile=accepted)
few = list(test["image_path"][:4])
before, after = (
    [inspection.as_dict() for inspection in line.inspect(few, anomaly_maps=False)] for line in (inspector, again)
)
assert before == after
print(f"the inspector from the files says the same; {path.stat().st_size / 1e6:.1f} MB of its own")

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * named products by the distance to their means, by hand and in the package, and refused strangers;
# * chosen by cost where a classifier counts as unsure, without asking any model about what it knows by heart;
# * judged an item by both of its pictures, and followed every image through the tree;
# * judged the second opinion on paired images, with its interval, for each product and detector;
# * timed the stages, looked at ten cases, and shown the classifier a defect that it was never taught.
#
# **Limits.** The band helps where the classifier is unsure, not where it is surely wrong. It was chosen on few defects, and in the proportion of good and
# bad ones that the data set has; a line has far fewer bad ones, and its costs are its own. Types are named around the peak of PaDiM's map, which often
# looks at the wrong place (notebook 06), by a typer that has seen these very test images.
#
# **Next:** 09 puts every method of this course on the same images, under the same rules.
