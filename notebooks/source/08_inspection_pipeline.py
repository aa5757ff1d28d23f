# %% [markdown]
# # 08 · The inspection line: product, verdict, second opinion, type of defect
#
# <!-- badge -->
#
# The earlier notebooks have left their models behind. A line needs one answer for each part: stop it, or let it pass? In this notebook we will
#
# * **recognise the product** on a picture, and refuse pictures of products that no model knows;
# * **choose a reject band**: where a classifier counts as unsure, so that a second opinion decides;
# * **choose the second opinion** itself, from what its mistakes cost and from the time it takes;
# * **judge an item** that two cameras see, by both of its pictures together;
# * **measure**, on paired images, whether the second opinion pays;
# * **discuss ten cases** with their heat maps, and ask how far a heat map can be trusted;
# * **leave a type of defect out** of the training, and count how many of its parts are still caught.
#
# **It reads** `data.zip` and `packages.zip` of [01](01_data_preparation.ipynb), and the models of [02](02_padim.ipynb),
# [03](03_autoencoder.ipynb), [03b](03b_patchcore.ipynb), [04](04_supervised_classifier.ipynb), [06](06_contrastive_typing.ipynb) and
# [07b](07b_anogan.ipynb). What is missing is made here, but for the models of 03, 03b and 07b, which are left out then.
# Profile *quick*: a minute on 2 CPU cores, two and a half where nothing is there.
#
# Lee, Lee, Lee, Shin, *A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks*, 2018,
# [arXiv:1807.03888](https://arxiv.org/abs/1807.03888); Chow, *On optimum recognition error and reject tradeoff*, 1970; Elkan, *The Foundations
# of Cost-Sensitive Learning*, 2001.

# %%
# <setup>

# %%
import time
from dataclasses import replace

import captum.attr
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.colors import Normalize
from matplotlib.patheffects import withStroke
from sklearn.covariance import ledoit_wolf

from mvtec_ad import artifacts, benchmark, metrics, plotting, profile, synthetic
from mvtec_ad.backbones import load_backbone
from mvtec_ad.benchmark import supervised
from mvtec_ad.config import pin
from mvtec_ad.data import index, loading, prepare
from mvtec_ad.data.loading import read_image
from mvtec_ad.inspection import InspectionOptions, Inspector, ProductClassifier, choose_reject_band
from mvtec_ad.inspection.inspector import grad_cam_maps, load_detectors, stage_of
from mvtec_ad.inspection.products import describe
from mvtec_ad.inspection.second_opinion import alarm_probabilities
from mvtec_ad.methods import METHODS, classifier
from mvtec_ad.methods.base import Scores, as_tensor
from mvtec_ad.methods.explain import pointing_game
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.plotting.images import show_image, show_map
from mvtec_ad.stages import need
from mvtec_ad.synthetic.textures import draw_composition

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}

run = profile(PROFILE, CATEGORIES)
pin(run)

# %%
options = InspectionOptions.preset(run.name)
more = ("autoencoder", "patchcore", "gan")  # artifacts with models for a second opinion
at_hand = need(run, "data", "packages", "models", "padim", "contrastive", optional=more, other_profile=OTHER_PROFILE)
accepted = None if OTHER_PROFILE else run.name
data, packages, trained = (at_hand[stage] for stage in ("data", "packages", "models"))
source, line = data.manifest["data_source"], packages.manifest["categories"][0]
plt.rcParams.update(plotting.STYLE)

# %%
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
tables = {name: index.read_category(prepare.unpack(data), name) for name in wanted}
parts = where_possible(lambda name: supervised.Parts.of(tables[name]), wanted)
categories, known_classifiers = list(parts), dict(classifier.names(trained))

# %%
by_method = {method: load_detectors(at_hand.get(stage_of(method)), method) for method in METHODS}
detectors = {  # (product, method) -> a model with its calibrated threshold
    (name, method): by_method[method][name]
    for name in categories
    for method in by_method
    if name in known_classifiers and name in by_method[method]
}
print(f"profile {run.name}, products: {source}, {', '.join(categories)}; packages: {packages.manifest['data_source']}")
print(f"a missed defect costs {options.miss:g}, a false alarm {options.false_alarm:g}")
if not detectors:
    leave_out_rest("no category has a classifier and a model for a second opinion")

# %% [markdown]
# ## Five images first
#
# What may come along the belt: products that there are models of, packages from two sides, and a product that no model has seen.

# %%
compared = list(dict.fromkeys(name for name, _ in detectors))
boxes = index.read_category(prepare.unpack(packages), line)
pictures = {name: [read_image(path) for path in part.learned["image_path"]] for name, part in parts.items()}
for view, rows in boxes[boxes["split"] == "train"].groupby("view"):
    pictures[f"{line}/{view}"] = [read_image(path) for path in rows["image_path"]]

# %%
names = sorted(set(synthetic.CATEGORIES) - set(categories))
others = [synthetic.draw(name, seed).image for seed in range(5) for name in names]
others = others or [draw_composition(seed).image for seed in range(25)]  # where all products are known
examples = {name: images[0] for name, images in pictures.items()} | {"another product": others[0]}
titles = [name.replace("/", " ") for name in examples]
plotting.gallery(list(examples.values())[-5:], titles=titles[-5:], columns=5, size=1.7)

# %% [markdown]
# ## The line, drawn
#
# Each picture takes one way through these stages. The supervised **classifier** of notebook 04 has learned from some defects. Where it is unsure, a
# **second opinion** decides: an unsupervised detector, which knows good parts only. A defect is then given its **type** and its place on the **atlas** of notebook 06.

# %%
draw = plotting.Schematic(9, 2.9)
grey = "#EEEEEC"
picture = draw.picture(examples[compared[0]], 0.6, 1.75, 0.9, "a picture")
product = draw.box("which\nproduct?", 2.15, 1.75)
refused = draw.box("none of these", 2.15, 0.45, 1.3, colour=grey)
judge = draw.box("classifier:\nlogit z", 4.0, 1.75)
asked = draw.box("second\nopinion", 5.75, 0.45)
verdict = draw.box("verdict", 6.3, 1.75, 0.9)
passes = draw.box("part passes", 6.3, 2.6, 1.1, 0.4, colour=grey)
kind = draw.box("type of\ndefect", 8.2, 1.75)
place = draw.box("place on\nthe atlas", 8.2, 0.45)
draw.arrow(picture, product)
draw.arrow(product, judge)
draw.arrow(judge, verdict, "sure: |z − t| ≥ w")
draw.arrow(verdict, passes)
draw.arrow(verdict, kind, "defect")
for start, end in ((product, refused), (judge, asked), (asked, verdict), (kind, place)):
    draw.arrow(start, end)
draw.text("too far\nfrom all", 2.25, 1.1, 8.5, ha="left")
draw.text("unsure: |z − t| < w", 4.75, 0.98, 8.5, ha="right")
draw.text("good", 6.4, 2.2, 8.5, ha="left")
draw.figure

# %% [markdown]
# Here $z$ is the classifier's logit (above 0: rather defective) and $t$ a threshold. Three things are to be chosen: the distance that is *too far*, the half-width $w$ of
# the band around $t$, and the detector that is asked.
#
# ## First stage: which product is it?
#
# A frozen network describes each picture by mean and standard deviation of its channels, $\phi(x)\in\mathbb R^d$. Every product $c$ gets a Gaussian with a mean
# $\mu_c$ of its own. All share **one covariance** $\Sigma$. It is shrunk (Ledoit and Wolf), because $d$ is large for so few pictures. The nearest mean names the product,
#
# $$M_c(x)=\sqrt{(\phi(x)-\mu_c)^\top\Sigma^{-1}(\phi(x)-\mu_c)},$$
#
# and a picture that is far from all of them is **none of these** (Lee et al. 2018, eq. 1 and 2). By hand for one picture:

# %%
network = load_backbone(options.backbone, options.weights)
features = {name: describe(network, images, options.image_size) for name, images in pictures.items()}
known = ProductClassifier.fit(options, network, features)
first = compared[0]
within = np.concatenate([rows - rows.mean(0, dtype=np.float64) for rows in features.values()])
scale = within.std(0) + 1e-6  # units first: shrinking pulls all variances towards one
shrunk = ledoit_wolf(within / scale, assume_centered=True)[0] * np.outer(scale, scale)
delta = features[first][0] - features[first].mean(0, dtype=np.float64)  # (d,)
by_hand = np.sqrt(delta @ np.linalg.solve(shrunk, delta))
column = known.names.index(first)
by_package = known.distances(pictures[first][:1])[0, column] * known.limits[column]
print(f"d = {delta.size}; distance to the mean {first} by hand {by_hand:.3f}, package {by_package:.3f}")
assert np.isclose(by_hand, by_package, rtol=1e-3)

# %% [markdown]
# How far is *too far*? We measure pictures that were **held out** of the fit, fold by fold. The limit is the distance that all but one in 200 of them stay below.
# Then the test, on pictures of the same products that the fit has not seen, and on other products:

# %%
unseen = {name: [read_image(path) for path in part.test["image_path"]] for name, part in parts.items()}
for view, rows in boxes[boxes["split"] == "test"].groupby("view"):
    unseen[f"{line}/{view}"] = [read_image(path) for path in rows["image_path"]]
right, ood_scores = {}, {}
for name, images in {**unseen, "other products": others}.items():
    nearest, ood_scores[name] = known.name(images)  # distance in units of the limit
    accepted_as_it = (nearest == name) & (ood_scores[name] <= 1)
    right[name] = ood_scores[name] > 1 if name == "other products" else accepted_as_it

# %%
figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
for row, (name, scores) in enumerate(ood_scores.items()):
    colour = plotting.DEFECT if name == "other products" else plotting.GOOD
    axis.scatter(scores, np.full(len(scores), row) + np.linspace(-0.25, 0.25, len(scores)), s=12, color=colour)
axis.axvline(1, color=plt.rcParams["text.color"], lw=1, ls="--")
words = [f"{name.replace('/', ' ')}: {hits.sum()} of {len(hits)} right" for name, hits in right.items()]
axis.set(yticks=range(len(words)), yticklabels=words, xscale="log")
axis.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"], minor=False)
axis.minorticks_off()
axis.set_xlabel("distance to the nearest product, in units of its limit")
axis.set_title("right of the dashed line: none of these")
plt.show()

# %%
hits = np.concatenate([right[name] for name in unseen])
low, _ = metrics.wilson(hits.mean(), len(hits))
refused_low, _ = metrics.wilson(right["other products"].mean(), len(others))
print(f"{hits.sum()} of {len(hits)} pictures of known products are named rightly: at least {low:.0%} (95 % interval)")
print(
    f"{right['other products'].sum()} of {len(others)} pictures of other products are refused: at least {refused_low:.0%}"
)
lesson("products are recognised and other products refused", low > 0.9 and refused_low > 0.8, run, source)

# %% [markdown]
# The question is easy here, and still it must be asked: a model that was never shown a cable must not judge one. Without this stage it would.
#
# ## Second stage: when is the classifier unsure?
#
# The classifier's logit is divided by a temperature, so that its probabilities are **calibrated**: of all parts that get a probability near .9, nine in ten should be
# defects. (Notebook 04 measures how far probability and share lie apart.) A part is called a defect where its calibrated logit $z$ is above
#
# $$t=\log(c_\text{false alarm}/c_\text{miss}),$$
#
# the threshold of least expected cost (Elkan 2001). Near $t$ both verdicts cost about the same, so the classifier alone is of little use there:
# for $|z-t|<w$ the second opinion decides (Chow 1970 calls it a *reject*). We choose the $w$ whose mistakes cost least on **validation** images. By hand on six made-up
# ones:

# %%
labels = np.array([1, 1, 1, 0, 0, 0])
logits = np.array([2.0, -1.8, -2.6, -1.0, -2.4, -5.0])
called = np.array([1, 1, 1, 0, 0, 1])  # what the second opinion would say
t = np.log(options.false_alarm / options.miss)
by_hand = {}
for w in (0.0, 0.5, 1.5, 3.0):
    stops = np.where(np.abs(logits - t) < w, called, logits > t)
    missed, alarms = ((labels == 1) & (stops == 0)).sum(), ((labels == 0) & (stops == 1)).sum()
    by_hand[w] = float(options.miss * missed + options.false_alarm * alarms) / len(labels)

# %%
costs = {"miss": options.miss, "false_alarm": options.false_alarm}
reject_band = choose_reject_band(labels, logits, called, t, **costs, widths=tuple(by_hand))
print(f"t = {t:.2f}; cost per part for each w: { {w: round(cost, 3) for w, cost in by_hand.items()} }")
print("cheapest half-width, package:", reject_band.width)
assert np.allclose(list(reject_band.costs.values()), list(by_hand.values()))
assert reject_band.width == min(by_hand, key=by_hand.get)

# %% [markdown]
# A trap: a detector's scores are too good on the images that it was fitted on. PaDiM and PatchCore keep a leave-one-out score of each good image,
# and that one is used here. The autoencoder and f-AnoGAN held some good images out; the share of false alarms on these is used for
# the fitted ones (`alarm_probabilities`). All other images are scored here, once for each detector:

# %%
classifiers = Inspector.load(second=None, profile=accepted).stages[1].classifiers
official = {name: tables[name][tables[name]["split"] == "test"].reset_index(drop=True) for name in compared}
scores = {  # (product, method) -> image id -> score
    (name, method): dict(
        zip(official[name]["image_id"], supervised.second_scores(detector, official[name]), strict=True)
    )
    for (name, method), detector in detectors.items()
}


def band_of(model, name, method):
    """The cheapest reject band of a product's classifier with this second opinion, on the validation images."""
    held, detector = model.validation, detectors[name, method]
    fitted, good_scores = list(parts[name].normal["image_id"]), detector.detector.good_scores
    stops = alarm_probabilities(list(held["image_id"]), fitted, good_scores, scores[name, method], detector.threshold)
    return choose_reject_band(
        held["label"], held["score"] / model.temperature, stops, t, **costs, widths=options.widths
    )


# %%
reject_bands = {(name, method): band_of(classifiers[name, ""].model, name, method) for name, method in detectors}

# %%
figure, axes = plt.subplots(1, len(compared), figsize=(4.4 * len(compared), 3), layout="constrained", squeeze=False)
colours = dict(zip(by_method, plotting.METHOD_COLOURS, strict=False))
for axis, name in zip(axes[0], compared, strict=True):
    for method in (method for product, method in detectors if product == name):
        chosen = reject_bands[name, method]
        axis.plot(*zip(*chosen.costs.items(), strict=True), marker="o", ms=4, color=colours[method], label=method)
        axis.plot(chosen.width, min(chosen.costs.values()), "o", ms=11, mfc="none", color=colours[method])
    axis.set(title=name, xlabel="half-width w of the band, logits", ylabel="cost per part, validation")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
plt.show()

# %% [markdown]
# At $w=0$ the classifier decides alone; further to the right the second opinion is asked about more parts. The ring marks the cheapest width; of equally cheap
# ones the narrowest. Where a curve rises steeply, that detector judges this product worse than the classifier does, and its band stays narrow.
#
# ## Which second opinion?
#
# Four questions, asked on images that no detector was fitted on, and that are not in our test part: whoever chooses on the test images has no honest test left.
#
# * does it put defects above good parts? Image **AUROC**, with its 95 % interval;
# * what would its mistakes **cost**, if it judged every part alone?
# * how often does it **agree** with the classifier (one that always agrees adds nothing), and is it right where the classifier errs? This is asked on the validation
#   images;
# * how **long** does it take?

# %%
held, calls, lines = {}, {}, {}
for name, method in detectors:
    validation, temperature = classifiers[name, ""].model.validation, classifiers[name, ""].model.temperature
    held[name] = official[name][~official[name]["image_id"].isin(parts[name].test["image_id"])]
    held[name] = held[name].merge(validation[["image_id", "score"]], on="image_id", how="left")
    labels, limit = held[name]["label"].to_numpy(), detectors[name, method].threshold
    values = held[name]["image_id"].map(scores[name, method]).to_numpy()
    calls[name, method] = values > limit
    judged = held[name]["score"].notna().to_numpy()  # by a classifier that has not learned from them
    sure = (held[name]["score"].to_numpy() / temperature > t)[judged]
    errs, right = sure != labels[judged], (calls[name, method] == labels)[judged]
    lines[name, method] = {
        "image AUROC": metrics.format_metric(metrics.evaluate(labels, values[None])["image_auroc"]),
        "cost per part, alone": f"{metrics.mean_cost(labels, values, limit, **costs):.2f}",
        "agrees with the classifier": f"{np.mean(right != errs):.0%}",
        "right where the classifier errs": f"{(right & errs).sum()} of {errs.sum()}",
    }
for name in held:
    print(f"{name}: to stop every part costs {options.false_alarm * (held[name]['label'] == 0).mean():.2f} a part")
pd.DataFrame(lines).T.sort_index(level=0, sort_remaining=False)

# %% [markdown]
# To stop *every* part needs no model: a detector that costs more than that is of no use on its own, whatever its AUROC. The thresholds allow few false alarms, and
# so they let defects pass. Now the time: all are measured in turn, round after round, so that whatever else the machine does slows them alike, and only **ratios** are
# judged.

# %%
everywhere = [method for method in by_method if all((name, method) in detectors for name in compared)]
everywhere = everywhere or [next(iter(detectors))[1]]
compared = [name for name in compared if all((name, method) in detectors for method in everywhere)]
first = compared[0]
model, test = classifiers[first, ""].model, parts[first].test
few = list(test["image_path"][:8])
seen = [read_image(path) for path in few]
cuts = model.look_at(seen, "")
tasks = {
    "read the file": lambda: [read_image(path) for path in few],
    "which product": lambda: known.distances(seen),
    "classifier": lambda: model.logits(model.look_at(seen, "")),
    "Grad-CAM": lambda: grad_cam_maps(model, cuts),
}
tasks |= {method: lambda detector=detectors[first, method].detector: detector.score(few) for method in everywhere}

# %%
seconds = {name: [] for name in tasks}
for task in tasks.values():
    task()  # once for warming up
for _ in range(3):
    for name, task in tasks.items():
        begun = time.perf_counter()
        task()
        seconds[name].append(time.perf_counter() - begun)
spent = {name: 1000 * np.median(values) / len(few) for name, values in seconds.items()}  # milliseconds an image
ratios = {name: np.sort(np.divide(seconds[name], seconds["classifier"])) for name in tasks}

# %%
figure, axis = plt.subplots(figsize=(7.5, 0.7 + 0.3 * len(tasks)), layout="constrained")
colour = [plotting.METHOD_COLOURS[0] if name in everywhere else plotting.GOOD for name in tasks]
axis.barh(list(tasks), list(spent.values()), color=colour)
axis.invert_yaxis()
axis.set(xlabel="milliseconds an image, this machine", title="green: detectors that could give the second opinion")
plt.show()
for method in everywhere:
    low, middle, high = ratios[method][[0, 1, 2]]
    words = metrics.verdict(low - 1, high - 1, "slower", "faster")
    print(f"{method}: {middle:.1f} times the classifier's time, {low:.1f} to {high:.1f} in three rounds: {words}")

# %% [markdown]
# Milliseconds are this machine's; the verdict asks whether all rounds lie on one side of 1. **The choice** is the method whose mistakes cost least over all products,
# among those that have a model of every product. Its time does not count here: a missed defect costs more than milliseconds. The paired difference to each of the others
# tells how sure the choice is:

# %%
labels = np.concatenate([held[name]["label"] for name in compared])
pooled = {method: np.concatenate([calls[name, method] for name in compared]) for method in everywhere}
second = min(pooled, key=lambda method: metrics.mean_cost(labels, pooled[method], 0.5, **costs))
for method in sorted(set(pooled) - {second}):
    change = supervised.cost_difference(labels, [(pooled[method], pooled[second])], options)["difference"]
    words = metrics.verdict(change["low"], change["high"], "dearer", "cheaper")
    print("{0} − {1}: {mean:+.2f} [{low:+.2f}, {high:+.2f}] a part: ".format(second, method, **change) + words)
print(f"chosen: {second}")

# %%
labels, changes = held[first]["label"].to_numpy(), {}
for method in sorted({"padim", "patchcore"} & set(pooled) if "autoencoder" in pooled else ()):
    pair = calls[first, "autoencoder"], calls[first, method]
    changes[method] = supervised.cost_difference(labels, [pair], options)["difference"]
    print(
        "{0}, {1} − autoencoder: {mean:+.2f} [{low:+.2f}, {high:+.2f}] a part".format(first, method, **changes[method])
    )
if changes:
    cheaper = all(change["high"] < 0 for change in changes.values())
    lesson(f"on {first}, mistakes of PaDiM and PatchCore cost less than the autoencoder's", cheaper, run, source)

# %% [markdown]
# ## The inspector, from artifacts alone
#
# What was learned here, the Gaussians of the products and a band for each product and detector, goes into `inspection.zip`, with the colour scale of each classifier's heat
# maps. The inspector is then built from files:


# %%
def entries_of(name, view, table):
    """What `inspection.zip` keeps of a classifier, an entry for each second opinion."""
    fitted = classifiers[name, view]
    some = table[table["image_id"].isin(fitted.model.validation["image_id"])]
    some = some[:: -(-len(some) // 12)].reset_index(drop=True)  # a dozen show the range
    fitted = replace(fitted, map_scale=plotting.map_scale(grad_cam_maps(fitted.model, fitted.model.cut(some)[0])))
    bands = {method: chosen for (product, method), chosen in reject_bands.items() if product == name}
    bands = bands or {None: fitted.reject_band}  # packages: nobody is asked, the threshold is that of notebook 04
    return [replace(fitted, reject_band=chosen).entry(name, view, method) for method, chosen in bands.items()]


# %%
views = [(name, "", parts[name].learned) for name in categories if (name, "") in classifiers]
views += [(line, view, rows) for view, rows in boxes.groupby("view")]
learned = {"bands.json": [entry for each in views for entry in entries_of(*each)], **known.files()}
options = replace(options, second=second)
about = {"profile": run.name, "data_source": source, "categories": [*categories, line], "options": options.options()}
artifacts.save("inspection", learned, **about, seed=0, inputs=[data, packages, trained])
inspector = Inspector.load(second=second, profile=accepted)
print("missing:", "; ".join(inspector.missing) or "nothing")
print("stages:", ", ".join(type(stage).__name__ for stage in inspector.stages))

# %% [markdown]
# ## An item, two pictures
#
# The test images of all products and the pictures of other products now go through the line; nothing tells the inspector what they are.
#
# Each picture is judged on its own. But it is an *item* that is stopped, and a package has two pictures. If either of them may stop it, the false alarms of both views
# add up. The **joint verdict** of notebook 04 adds the two calibrated logits instead; its threshold is the cheapest one on validation items.

# %%
tests = pd.concat([part.test for part in parts.values()] + [boxes[boxes["split"] == "test"]], ignore_index=True)
truth = tests["label"].to_numpy()
inspections = list(inspector.inspect([*tests["image_path"], *others], anomaly_maps=False))
by_view = {view: classifiers[line, view] for view in sorted(boxes["view"].unique())}
validation = classifier.joint_verdict(classifier.validation_scores([each.model for each in by_view.values()], boxes))
joint_threshold = metrics.cost_threshold(validation["label"], validation["score"], **costs)
margins = [inspection.score for inspection in inspections[: len(tests)]]  # calibrated logit less its threshold
seen = tests.assign(margin=np.array(margins, dtype=float)).query("category == @line").dropna(subset="margin")
limits = seen["view"].map({view: each.reject_band.threshold for view, each in by_view.items()})
joint = classifier.joint_verdict(seen.assign(score=seen["margin"] + limits)).set_index("group")

# %%
either = seen.groupby("group")["margin"].max()[joint.index].to_numpy() > 0
jointly, labels = joint["score"].to_numpy() > joint_threshold, joint["label"].to_numpy()
for name, stops in {"either view": either, "jointly": jointly, "every package": np.ones_like(either)}.items():
    (_, alarms), (missed, _) = metrics.confusion(labels, stops)
    print(
        f"{name}: {alarms} of {(labels == 0).sum()} good packages stopped, {missed} of {labels.sum()} damaged ones missed;"
        f" cost per item {(costs['false_alarm'] * alarms + costs['miss'] * missed) / len(labels):.2f}"
    )

# %%
change = supervised.cost_difference(labels, [(either, jointly)], options)["difference"]
print("cost per item, jointly − either view: {mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change))
claim, drawn = "the joint verdict is cheaper than stopping for either view", packages.manifest["data_source"]
lesson(claim, change["high"] < 0, run, drawn)

# %% [markdown]
# The last row, which needs no model, is the one to beat. In *quick* stopping for either view is hardly cheaper than that: each of two thresholds that accept many false
# alarms in order to miss nothing stops good packages of its own.
#
# ## Every image, and the way it takes
#
# Every inspection keeps the steps of its `path`. Images with the same steps are drawn as one branch, as thick as they are many; for a package the other picture takes the
# place of a second opinion:

# %%
stages, rows, verdicts, deciders = ("product", "classifier", "second opinion"), [], [], []
stopped = dict(zip(joint.index, np.where(jointly, "defect", "good"), strict=True))
for number, (inspection, label) in enumerate(zip(inspections, [*truth, *[0] * len(others)], strict=True)):
    steps = {step.stage: step.result for step in inspection.path}  # other products are no defects
    group = tests["group"][number] if number < len(tests) and inspection.product == line else None
    if group in stopped:
        steps["second opinion"] = "both pictures"
    verdicts.append(stopped.get(group, inspection.verdict))
    deciders.append("both pictures" if group in stopped else inspection.decided_by)
    rows.append(([*map(steps.get, stages), verdicts[-1]], label))

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


# %%
tree, axis = plt.subplots(figsize=(10.4, 5.8), layout="constrained")
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
asked = sum(inspection.second_opinion is not None for inspection in inspections)
judged = sum(inspection.product in compared for inspection in inspections)
extra = asked / max(judged, 1) * ratios[second][1]
print(f"the second opinion was asked for {asked} of {judged} pictures: {extra:.0%} of the classifier's time on top")

# %% [markdown]
# Read the tree from left to right: how many images take which branch, and what becomes of them; the words at the end count the mistakes. For packages it
# counts pictures: both pictures of an item get the verdict of the item. Pictures of other products have the colour of good parts. *None of these* is no verdict on a part,
# so it counts as no mistake.
#
# The sentence below the tree says why a slow second opinion need not slow the line down much: its time is spent only where it is asked.
#
# ## Does the second opinion pay?
#
# Paired: the same test images, once judged by the classifier alone and once by both. The second opinion **pays** where the 95 % interval of the change of cost lies
# below zero, and **costs more** where it lies above; all else is *undecided*. Where no verdict changes, the interval says how large a change so few images could hide.

# %%
logits_of = {name: classifiers[name, ""].model.score(parts[name].test).image.astype(float) for name in held}
ways, lines = {}, {}
for (name, method), chosen in reject_bands.items():
    test, z = parts[name].test, logits_of[name] / classifiers[name, ""].model.temperature
    alone, unsure = z > chosen.threshold, chosen.unsure(z)
    called = test["image_id"].map(scores[name, method]).to_numpy() > detectors[name, method].threshold
    ways[name, method] = {"alone": alone, "in the band": np.where(unsure, called, alone), "always": called}
    change = supervised.cost_difference(test["label"], [(alone, ways[name, method]["in the band"])], options)[
        "difference"
    ]
    (_, alarms), (missed, _) = metrics.confusion(test["label"], ways[name, method]["in the band"])
    lines[name, method] = {"half-width": chosen.width, "asked": f"{unsure.sum()} of {len(z)}", "missed": missed}
    lines[name, method] |= {
        "false alarms": alarms,
        "change of cost": "{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**change),
    }
    lines[name, method]["second opinion"] = metrics.verdict(change["low"], change["high"], "costs more", "pays")
pd.DataFrame(lines).T.sort_index(level=0, sort_remaining=False)

# %% [markdown]
# And without a band, if the second opinion were asked about every part? Where that costs more than the classifier alone, is the band cheaper than asking always? Both are
# judged by their 95 % intervals.

# %%
safe = []
for (name, method), calls_of in ways.items():
    labels = parts[name].test["label"]
    always = supervised.cost_difference(labels, [(calls_of["alone"], calls_of["always"])], options)["difference"]
    band = supervised.cost_difference(labels, [(calls_of["always"], calls_of["in the band"])], options)["difference"]
    words = metrics.verdict(always["low"], always["high"], "costs more", "pays")
    print(f"{name}, {method}, asked always: {words}", end="; ")
    print("the band changes that by {mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**band))
    safe += [band["high"] < 0] if words == "costs more" else []
print(f"where always asking costs more, the interval says that the band is cheaper in {sum(safe)} of {len(safe)} cases")
lesson("that is in more than half of them", 2 * sum(safe) > len(safe), run, source)

# %% [markdown]
# A second opinion can pay only where it is right and the classifier is wrong. Where the classifier makes no mistake there is nothing to gain, and a detector that passes
# damaged parts can only add to the cost. In *quick* the test images are too few: no row of the table shows that it pays.
#
# **The band limits the loss**: where the second opinion is poor, validation images choose a narrow one, so that it is seldom asked. On real
# products, and on seven drawn ones, [`docs/results.md`](../docs/results.md) has the figures.
#
# ## Ten cases worth discussing, with their heat maps
#
# Mistakes first, then right verdicts; of each product and class the two pictures whose score lies closest to the threshold. Below each picture the map of the model that
# decided: Grad-CAM of the classifier (for a package that of this picture), or the anomaly map of the second opinion, each on the colour scale of its model. The colour of a
# title is the truth.

# %%
judged = [n for n in range(len(tests)) if inspections[n].score is not None]
ranks = pd.DataFrame({"number": judged, "category": tests["category"][judged]})
ranks["wrong"] = [verdicts[n] != ("defect" if truth[n] else "good") for n in judged]
ranks["margin"] = [abs(inspections[n].score) for n in judged]
ranks["truth"] = truth[judged]
ranks = ranks.sort_values("margin")
ranks["place"] = ranks.groupby(["wrong", "category", "truth"]).cumcount()  # the narrowest of its kind comes first
ranks = ranks[ranks["place"] < 2].sort_values(["wrong", "place", "margin"], ascending=[False, True, True])
ten = list(ranks["number"].head(10))

# %%
figure = plotting.new_figure(8.8, 8.4)
grid = figure.subplots(4, 5)
cases = inspector.inspect(list(tests["image_path"][ten]))  # once more, now with heat maps
for n, case, above, below in zip(ten, cases, grid[::2].ravel(), grid[1::2].ravel(), strict=False):
    show_image(above, case.picture)
    show_map(below, case.picture, case.anomaly_map, Normalize(*case.map_scale, clip=True))
    colour = plotting.DEFECT if truth[n] else plotting.GOOD
    above.set_title(f"{tests['category'][n]}\n{tests['defect'][n]}", color=colour, fontsize=9)
    mark = "✗" if ranks.set_index("number")["wrong"][n] else "✓"
    below.set_title(f"{mark} {verdicts[n]} ({deciders[n]})", fontsize=9)
for axis in grid.ravel():
    plotting.bare(axis)
figure

# %% [markdown]
# Discuss each picture with its map: would you have decided so? And does the bright place explain the verdict? The figure of a single inspection, as
# `python -m mvtec_ad detect transfer IMAGE --figures FOLDER` draws it, adds the way through the stages. Here a defect that was caught, with the type that it was given and
# its place on the atlas. *Right* in its title is about the verdict, not about the type: compare the type with the true one, printed first.

# %%
named = [inspection.type not in (None, "unknown") for inspection in inspections[: len(tests)]]
caught = tests[named].head(1)
print(f"truly {caught['defect'].iloc[0]}" if len(caught) else "no defect was named: its figure is left out")
for inspection, label in zip(inspector.inspect(list(caught["image_path"])), caught["label"], strict=True):
    display(plotting.inspection_figure(inspection, truth=int(label)))

# %% [markdown]
# ## How far can these maps be trusted?
#
# A classifier can be right while its map is bright at the wrong place. The **pointing game** counts how often the largest value of a map lies inside the true mask
# (outlined below), on the test images with a defect.
#
# Beside Grad-CAM stands **HiResCAM** (Draelos and Carin 2020, [arXiv:2011.08891](https://arxiv.org/abs/2011.08891)), which does not average the gradient over the places.
# It multiplies gradient and feature map place by place,
#
# $$\text{HiResCAM}=\sum_k \frac{\partial z}{\partial A_k}\odot A_k ,$$
#
# with the last feature maps $A_k$. Our classifier is linear in $A$, so HiResCAM splits the logit exactly: its sum over the places is the logit without the bias. But what
# does *this* part have that good parts have not? To see it, take the same split **less its mean over good parts**.


# %%
def hires_cam(model, rows):
    """HiResCAM by hand, (N, 1, h, w); asserts that its sum over the places is the logit less the bias."""
    cuts = model.cut(rows)[0]
    method = captum.attr.LayerGradientXActivation(model.network, model.network.body)
    places = method.attribute(as_tensor(cuts)).sum(1, keepdim=True).detach()  # N×C×h×w -> N×1×h×w
    total = places.sum((1, 2, 3)).numpy(force=True) + model.network.head.bias.item()
    assert np.allclose(total, model.logits(cuts), rtol=1e-2, atol=1e-2)
    return places


# %%
masked = [name for name in compared if (parts[name].test.query("label == 1")["mask_path"] != "").any()]
hits, shown = {}, {}
for name in masked:
    model, detector = classifiers[name, ""].model, detectors[name, second].detector
    rows = parts[name].test.query("label == 1 and mask_path != ''").reset_index(drop=True)
    good = parts[name].learned.query("label == 0").head(16).reset_index(drop=True)
    places = hires_cam(model, rows)
    grids = {"HiResCAM": places, "HiResCAM − good": places - hires_cam(model, good).mean(0, keepdim=True)}
    size, cuts = model.image_size, model.cut(rows)[0]
    maps = {"Grad-CAM": grad_cam_maps(model, cuts)}
    for method, grid in grids.items():
        maps[method] = captum.attr.LayerAttribution.interpolate(grid, (size, size), "bilinear")[:, 0].numpy(force=True)
    maps[second] = detector.score(list(rows["image_path"])).maps
    for method, values in maps.items():
        look = (detector.image_size, detector.crop) if method == second else (size,)
        hits[method, name] = pointing_game(values, loading.load_masks(rows, *look))
    shown[name] = {"image": cuts} | maps, list(rows["defect"]), loading.load_masks(rows, size)

# %%
for name in masked[:1]:
    pictures, titles, masks = shown[name]
    rows = {method: values[:5] for method, values in pictures.items()}
    display(plotting.picture_rows(rows, titles=titles[:5], masks=masks[:5], size=1.45))
found = {pair: f"{values.sum()} of {len(values)}" for pair, values in hits.items()}
pd.Series(found, dtype=object).unstack(sort=False) if found else "no masks: the pointing game is left out"


# %%
def paired_shares(after, before):
    """Difference of two shares on the same images, and its 95 % bootstrap interval."""
    gains = np.subtract(after, before, dtype=float)
    draws = metrics.resample_weights(np.ones(len(gains), int), 2000) @ gains / len(gains)
    return gains.mean(), *np.quantile(draws, [0.025, 0.975])


# %%
for method in ("HiResCAM − good", second) if masked else ():
    pair = (np.concatenate([hits[each, name] for name in masked]) for each in (method, "Grad-CAM"))
    mean, low, high = paired_shares(*pair)
    words = metrics.verdict(low, high, "points at the defect more often", "points at it less often")
    print(f"{method} against Grad-CAM, paired: {mean:+.2f} [{low:+.2f}, {high:+.2f}]: {words}")
    lesson(f"{method} points at the defect more often than Grad-CAM", low > 0, run, source)

# %% [markdown]
# Where Grad-CAM and HiResCAM are bright on *every* picture, at the border for instance, good parts are bright too: the mean over good parts takes it off again. Such a
# place tells nothing about the defect. What is left is the difference that the verdict rests on; on parts that lie at any angle the mean is blurred. Take the verdict from
# the classifier, and the place from a map that was tested on masks.
#
# ## The failure case: a type of defect that nobody has shown
#
# A classifier knows the defects it was taught. We leave one type out of its training, and ask it about that type: of each product, two at most, the type with the smallest
# defects. The band is chosen anew, without that type.


# %%
def leave_out(name):
    """How a classifier that was not shown the smallest type of defect judges it, alone and with the second opinion."""
    rows = official[name].query("label == 1").reset_index(drop=True)
    areas = loading.load_masks(rows, 128).mean((1, 2))
    new = pd.Series(areas).groupby(rows["defect"]).mean().idxmin()
    learned = parts[name].learned[parts[name].learned["defect"] != new].reset_index(drop=True)
    blind = replace(classifiers[name, ""].model).fit(learned, seed=0)
    rows = rows[rows["defect"] == new].reset_index(drop=True)
    z, chosen = blind.score(rows).image.astype(float) / blind.temperature, band_of(blind, name, second)
    called = rows["image_id"].map(scores[name, second]).to_numpy() > detectors[name, second].threshold
    return new, z > chosen.threshold, chosen.unsure(z), called


# %%
lines, found = {}, where_possible(leave_out, masked[:2])
for name, (new, alone, unsure, called) in found.items():
    lines[f"{name}: {new}"] = {
        "classifier that was not shown it": f"{alone.sum()} of {len(alone)}",
        "the same, with second opinion": f"{np.where(unsure, called, alone).sum()} of {len(alone)}",
        f"{second} alone": f"{called.sum()} of {len(alone)}",
        "sure and wrong": f"{(~alone & ~unsure).sum()} of {(~alone).sum()} mistakes",
    }
pd.DataFrame(lines).T

# %%
if found:
    alone, unsure, called = (np.concatenate(values) for values in list(zip(*found.values(), strict=True))[1:])
    low, high = metrics.wilson(alone.mean(), len(alone))
    print(f"never shown, and still caught: {alone.sum()} of {len(alone)} [{low:.0%}, {high:.0%}]")
    mean, low, high = paired_shares(np.where(unsure, called, alone), alone)
    words = metrics.verdict(low, high, "more are caught", "fewer are caught")
    print(f"with the second opinion within the band, paired: {mean:+.2f} [{low:+.2f}, {high:+.2f}]: {words}")

# %% [markdown]
# On a new type of defect the classifier need not be unsure. The last column counts the mistakes outside of the band: there the classifier is *sure and wrong*, and no
# second opinion is asked. That is the limit of a reject band. Where new types are expected, the second opinion can be asked about every part; what that costs on the known
# types stands above (*asked always*).
#
# ## Yours, reported, verdict
#
# We found no published figure of an inspector of this kind on MVTec AD.

# %%
test, model = parts[first].test, classifiers[first, ""].model
labels, z = test["label"].to_numpy(), logits_of[first] / model.temperature
told = list(inspector.inspect(list(test["image_path"]), product=first, anomaly_maps=False))
inspected = np.array([inspection.score for inspection in told])
weights = metrics.resample_weights(labels, 2000)
ranked = [metrics.resampled_ranking(labels, values, weights)["image_auroc"] for values in (inspected, z)]
estimates = [metrics.image_auroc(labels, values) for values in (inspected, z)]
change = metrics.paired_difference(*ranked, *estimates, int(labels.sum()))
words = metrics.verdict(change["low"], change["high"])
print(f"image AUROC, inspector − classifier, paired: {metrics.format_metric(change)}: {words}")

# %%
measured = {"classifier": metrics.evaluate(labels, z[None]), "inspector": metrics.evaluate(labels, inspected[None])}
rows = [
    [first, name, metrics.format_metric(values["image_auroc"]), "–", "no published figure found"]
    for name, values in measured.items()
]
pd.DataFrame(rows, columns=["product", "row", "image AUROC", "reported", "verdict"])

# %% [markdown]
# ## Exercises
#
# These go on with what this notebook holds. [Lab 08](../course/labs/08_inspection_pipeline.ipynb) has more, on small arrays, with checks that say what differs.
#
# **1.** What if a miss costs only twice a false alarm? Which half-width is then the cheapest? Set `costs` and `t` anew and call `band_of`.
#
# <details><summary>Solution</summary>
#
# ```python
# costs, t = {"miss": 2.0, "false_alarm": 1.0}, np.log(1 / 2)
# cheap = band_of(classifiers[first, ""].model, first, second)
# print(round(cheap.threshold, 2), cheap.width, {w: round(c, 3) for w, c in cheap.costs.items()})
# ```
# The threshold moves up. So the classifier alone stops no more good parts than before, but it may miss more defects.
# </details>
#
# **2.** The choice of the second opinion did not use the test images. What would you have chosen on the test images, and why must you not?
#
# <details><summary>Solution</summary>
#
# ```python
# for method in everywhere:
#     rows = {name: parts[name].test for name in compared}
#     mistakes = [
#         metrics.mean_cost(rows[n]["label"], rows[n]["image_id"].map(scores[n, method]), detectors[n, method].threshold, **costs)
#         for n in compared
#     ]
#     print(method, np.round(mistakes, 2))
# ```
# Whatever comes out, the cost of the chosen one would be the smallest of several on these images. On new images, expect it to be larger.
# </details>
#
# ## Save the artifact
#
# Scores of classifier and inspector on the common test part, for the comparison in notebook 09.

# %%
good = model.validation.query("label == 0")["score"].to_numpy() / model.temperature
known_of = {"data_source": source, "weights": model.weights_name, "false_alarm_rate": 0.05}
known_of["seconds"] = {"score": spent["classifier"] * len(test) / 1000}
results = {
    "classifier": Scores(z.astype(np.float32), grad_cam_maps(model, model.cut(test)[0])),
    "inspector": Scores(inspected.astype(np.float32)),
}
results = [
    supervised.result_of(method, parts[first], model, {0: values}, {0: good}, **known_of)
    for method, values in results.items()
]
files = {**learned, **benchmark.result_files(results), "tree.png": plotting.to_png(tree)}
about["metrics"] = {result.method: result.report["metrics"]["image_auroc"]["mean"] for result in results}
path = artifacts.save("inspection", files, **about, seed=0, inputs=[data, packages, trained])
artifacts.download(path)

# %%
again = Inspector.load(second=second, profile=accepted)
few = list(test["image_path"][:4])
before, after = (
    [inspection.as_dict() for inspection in each.inspect(few, anomaly_maps=False)] for each in (inspector, again)
)
assert before == after
print(f"the inspector from the files says the same; {path.stat().st_size / 1e6:.1f} MB of its own")

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * named products by the distance to their means, by hand and in the package, and refused other products;
# * chosen by cost where a classifier counts as unsure, without asking any model about images that it was fitted on;
# * chosen the second opinion without a look at the test images, and said how sure that choice is;
# * judged an item by both of its pictures, and followed every image through the line;
# * compared the classifier with and without a second opinion on the same images, for each product and detector;
# * looked at ten cases with their maps, counted how often a map points at the defect, and shown the classifier defects that it was never taught.
#
# **Limits.** The band helps where the classifier is unsure, not where it is sure and wrong. It was chosen on few defects, and in the proportion of good and
# bad ones that the data set has; a line has far fewer bad ones, and its costs are its own. Types are named around the peak of PaDiM's map, which often
# looks at the wrong place (notebook 06), by a model that has seen these very test images.
#
# **Next:** [09](09_comparison.ipynb) puts every method of this course on the same images, under the same rules.
