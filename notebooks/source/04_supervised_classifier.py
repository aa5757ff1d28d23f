# %% [markdown]
# # 04 · A few labels: supervised classification
#
# <!-- badge -->
#
# A line that has run for a while has a box of damaged parts. What are a few dozen labels worth? In this notebook we will
#
# * **split** labelled parts so that no part is on two sides, not even as another view of itself;
# * **find the item** in the picture, without labels: by rare colours, and by its print;
# * **transfer** a network: its head first, in closed form, then all layers; and train another from scratch beside it;
# * **judge** it: per class, per view, jointly from two views, against rows that need no network;
# * **calibrate** its probabilities, and choose a threshold from what a missed defect and a false alarm cost.
#
# **You need** `packages.zip` and `data.zip` from [01 · Data preparation](01_data_preparation.ipynb). Profile *quick*: two minutes on
# 2 CPU cores, drawn parts, a network that never saw a photograph. Profile *full*: ImageNet weights, a GPU.
#
# Yosinski, Clune, Bengio, Lipson, *How transferable are features in deep neural networks?*, 2014, [arXiv:1411.1792](https://arxiv.org/abs/1411.1792); He et
# al., *Spatial Pyramid Pooling*, 2014, [arXiv:1406.4729](https://arxiv.org/abs/1406.4729); Kumar et al., *Fine-Tuning can Distort Pretrained Features*,
# 2022, [arXiv:2202.10054](https://arxiv.org/abs/2202.10054); Guo et al., *On Calibration of Modern Neural Networks*, 2017,
# [arXiv:1706.04599](https://arxiv.org/abs/1706.04599); Elkan, *The Foundations of Cost-Sensitive Learning*, 2001.

# %%
# <setup>

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from sklearn.calibration import CalibrationDisplay

from mvtec_ad import artifacts, augment, metrics, plotting, profile
from mvtec_ad.config import set_seed
from mvtec_ad.data import index, prepare, splits
from mvtec_ad.data.loading import read_image
from mvtec_ad.methods import classifier, items
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.baselines import trivial_rows
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.notebooks import where_possible

# %%
PROFILE = "quick"  # @param ["quick", "full"]

run = profile(PROFILE)
detector = Classifier.preset(run.name)
packages = artifacts.load("packages", profile=run.name)
data = artifacts.load("data", profile=run.name)
category, root = packages.manifest["categories"][0], prepare.unpack(data)
product_cuts = where_possible(
    lambda name: splits.supervised(index.read_category(root, name), seed=0), data.manifest["categories"]
)
product = next(iter(product_cuts), None)
source = packages.manifest["data_source"]
set_seed(0)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}; packages: {source}; product: {product} ({data.manifest['data_source']})")
print(f"{detector.backbone}, weights {detector.weights}, {detector.image_size} px, {detector.steps} steps")

# %% [markdown]
# ## Five images first
#
# Packages on a belt, each photographed twice: by a camera at the side, and by one above. Some are damaged.

# %%
table = index.read_category(prepare.unpack(packages), category)
train, test = (table[table["split"] == part].reset_index(drop=True) for part in ("train", "test"))
views = sorted(table["view"].unique())
some = [group for _, rows in test.groupby("label") for group in rows["group"].unique()[:2]]
shown = test[test["group"].isin(some)].sort_values(["view", "label", "group"])
plotting.gallery(
    [read_image(path) for path in shown["image_path"]],
    titles=[f"{row.view}: {row.defect}" for row in shown.itertuples()],
    labels=list(shown["label"]),
    columns=4,
)

# %% [markdown]
# ## Whose part is it? Splits without leaks
#
# Both views of an item show the same damage. If one of them is trained on and the other tested on, the test is an exam with the answers on the
# back. So whole items are dealt out, *groups*; and no picture may be in two parts under another name, which a hash of
# its pixels tells.

# %%
split = splits.supervised(table)
splits.check_separate(split, split["part"])
split.groupby(["part", "defect"])["group"].nunique().unstack()

# %% [markdown]
# The items of the official test folder stay the test part. The rest is cut into a training and a validation part; the
# validation part will choose checkpoint, temperature and threshold, since whoever chooses must not be the judge.
#
# ## Where is the item?
#
# Most of each picture is belt. Damage is a few per cent of the picture, and seen from above far less: squeezed into
# 224 pixels it is gone. So the item is looked for first, *without labels*. The belt fills the pictures, so the item has the **rare colours**:
# with $p(c)$ the share of pixels of colour $c$ in the training pictures, every pixel gets $-\log p(c)$. Every third item is enough to know a belt.

# %%
some = train[train["group"].isin(train["group"].unique()[::3])]
finders = detector.find_items(some)
finder = finders[views[-1]]
pictures = [read_image(path) for path in some.loc[some["view"] == views[-1], "image_path"]]
picture = pictures[0]
small = items.small_colours(picture)
by_hand = np.zeros((items.LEVELS,) * 3)
for image in pictures:
    np.add.at(by_hand, items.small_colours(image), 1)
rare = -np.log(by_hand / by_hand.sum() + 1e-7)
assert np.allclose(rare, finder.rarity, atol=1e-4)

box = finder.box(picture)
print(
    f"the item fills columns {box.xmin} to {box.xmax}, rows {box.ymin} to {box.ymax} of {picture.shape[1]}×{picture.shape[0]}"
)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.3), layout="constrained")
plotting.show_image(axes[0], picture)
axes[0].add_patch(
    plt.Rectangle(
        (box.xmin, box.ymin), box.xmax - box.xmin, box.ymax - box.ymin, fill=False, color=plotting.DEFECT, lw=2
    )
)
axes[1].imshow(rare[small], cmap=plotting.ANOMALY_MAP)
plotting.bare(axes[1])
plotting.show_image(axes[2], finder.cut(picture, detector.image_size))
for axis, title in zip(axes, ("picture", "−log p(colour)", "what the network sees"), strict=True):
    axis.set_title(title)
plt.show()

# %% [markdown]
# Seen from above, an item is flat, and its print can be recognised: key points (SIFT, Lowe 2004) of one item are found again on all others, and say
# how far each is turned. The cut is turned back, so that **every place of it shows the same place of the item**. From the side
# the box is seen in perspective, the print is distorted, and the cut is only moved and scaled. The three regions of interest, of the same items:

# %%
cuts = {roi: [finder.cut(image, detector.image_size, roi) for image in pictures[:5]] for roi in items.ROIS}
print({view: "registered" if finders[view].registers else "moved and scaled" for view in finders})
plotting.picture_rows(cuts, size=1.4)

# %% [markdown]
# ## Rows without a network
#
# As always, what anybody can compute in five lines comes first; here on whole pictures.

# %%
trivial = trivial_rows(train, test)
lines = {
    view: {name: metrics.image_auroc(rows["label"], trivial.loc[rows.index, name]) for name in trivial}
    for view, rows in test.groupby("view")
}
pd.DataFrame(lines).round(3)

# %% [markdown]
# ## A head for a frozen network, by hand
#
# A network that was trained on other images is kept as it is, and only its last layer, the **head**, is learned: a logistic regression on
# its features. That is a convex problem with one solution, so nothing depends on rates or luck. On a single average over the image one cannot say
# *where* something is odd; so the features are averaged over a **pyramid** of grids, 1×1, 2×2 and 4×4 cells (He et al. 2014).

# %%
network, weights = detector.new_network()
cut = as_tensor(np.stack(cuts["registered"]))[:1].cpu()
with torch.no_grad():
    features = network.body(augment.standardise(cut))[0].numpy()  # C×h×w
    pooled = network.pooled(cut)[0].numpy()
channels, height, width = features.shape
whole = features.mean((1, 2))
quarter = features[:, : -(-height // 2), : -(-width // 2)].mean((1, 2))  # the upper left cell of the 2×2 grid
assert np.allclose(pooled[:channels], whole, atol=1e-5)
assert np.allclose(pooled[channels : 5 * channels].reshape(channels, 4)[:, 0], quarter, atol=1e-5)
print(f"{weights}: {channels} channels on a {height}×{width} grid -> {len(pooled)} numbers an image")

# %% [markdown]
# The weights may end before the last block (those that the package carries do). The new block begins as one that only passes on what
# reaches it: its shortcut copies, its branches start at zero. A random block would bury everything under it.
#
# Now the loss. Damaged and intact items are equally many here; where they are not, each class gets the same total weight. For logits $z_i$ and labels
# $y_i\in\{0,1\}$,
#
# $$L=-\sum_i w_{y_i}\bigl[y_i\log\sigma(z_i)+(1-y_i)\log(1-\sigma(z_i))\bigr],\qquad w_1=n_0/n_1,\quad w_0=1 .$$

# %%
z, y = torch.tensor([1.5, -0.3, 0.2, -2.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
sigma = 1 / (1 + np.exp(-z.numpy()))
by_hand = -(3 * np.log(sigma[0]) + np.log(1 - sigma[1:]).sum()) / 4
by_torch = torch.nn.functional.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(3.0))
print(f"by hand {by_hand:.6f}, torch {by_torch:.6f}")
assert np.isclose(by_hand, by_torch)

# %% [markdown]
# ## Training images that stay true
#
# More images can be made out of few, as long as the label stays true: a crop may cut the only damage away, a blur may hide it. Here an image
# is turned, shifted and scaled less than the margin around the item, and the light changes a little; nothing is cut out. Where cuts are
# registered, left stays left.

# %%
rng = np.random.default_rng(0)
originals = as_tensor(np.stack([finder.cut(pictures[0], detector.image_size)] * 6))
limits = {"rotation": detector.rotation, "translation": detector.translation, "color_jitter": detector.color_jitter}
changed = augment.jitter(originals, rng, **limits, hflip=False).permute(0, 2, 3, 1).numpy(force=True)
plotting.gallery(list(changed), columns=6, size=1.4)

# %% [markdown]
# ## One model per view, or one for both
#
# First the head, then all layers at a low rate. Every few steps the validation part is asked; the checkpoint with the highest validation AUROC is
# kept, at equal AUROC the one with the lower loss. It may be the first, the head alone.

# %%
per_view, view_models = classifier.score_unseen(detector, train, test, finders=finders)
models = {f"{detector.backbone}-{view}": model for view, model in zip(views, view_models, strict=True)}
together, (model,) = classifier.score_unseen(detector, train, test, per_view=False, finders=finders)
models[f"{detector.backbone}-all"] = model

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained", sharex=True)
for (name, model), colour in zip(models.items(), plotting.METHOD_COLOURS, strict=False):
    curve = model.curve.assign(step=model.curve["step"] + 1)
    checks = curve.dropna(subset="validation_auroc")
    best = checks.sort_values(["validation_auroc", "validation_loss"], ascending=[False, True], kind="stable").iloc[:1]
    axes[0].plot(curve["step"], curve["loss"].rolling(20, min_periods=1).mean(), color=colour, label=name)
    axes[1].plot(checks["step"], checks["train_accuracy"], ".-", color=colour)
    for axis, key in zip(axes, ("validation_loss", "validation_accuracy"), strict=True):
        axis.plot(checks["step"], checks[key], "o", color=colour, ms=5)
        axis.plot(best["step"], best[key], "o", color=colour, ms=12, fillstyle="none")
axes[0].set(xlabel="step", title="Loss. Lines: training (mean of 20 steps), dots: validation", ylim=(0, None))
axes[1].set(xlabel="step", title="Accuracy. Lines: training, dots: validation, rings: kept")
figure.legend(loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# The rings mark what was kept. Validation parts are small, so their measures move in steps. The training accuracy (of sixteen images, to save time) begins
# at 1: the head in closed form knows its own images by heart, while the validation part lies well below. That gap is the usual sign of too few items, and
# fine-tuning shakes both without closing it.
#
# Beside them a network **from scratch**, MobileNetV3, on both views. Nobody has trained it before, and so few items cannot:

# %%
newcomer = "mobilenet_v3_large"
untrained = replace(detector, backbone=newcomer, weights="random", pyramid=(1,), steps=2 * detector.steps)
scratch, (model,) = classifier.score_unseen(untrained, train, test, per_view=False, finders=finders)
models[f"{newcomer}-all"] = model

# %%
scores = {
    "ResNet-18, a model per view": per_view,
    "ResNet-18, one for both": together,
    f"{newcomer}, from scratch": scratch,
}
measured = {name: classifier.by_view(table) for name, table in scores.items()}


def metric_table(key):
    """One metric with its interval: a row per method, a column per view."""
    return pd.DataFrame(
        {name: {view: metrics.format_metric(m[key]) for view, m in each.items()} for name, each in measured.items()}
    ).T


metric_table("image_auroc")

# %% [markdown]
# In *quick* this is a sobering table: .612 [.433, .762] jointly. The drawn damage is faint, the items are few, and the network that the package carries has
# never seen print or cardboard; from above the mean brightness alone gives .710 on these forty items. All nine intervals hold one half.
# Among nine intervals of 95 % one will often leave it out by chance (on another machine the network from scratch got .704 [.523, .832] on the side, and .452 from above):
# whoever tells of the best one only has a story. **A number needs its interval**: with 20 items a class it is ± .16 wide, and no two rows can be told apart here.
#
# With ImageNet weights the same code, on real renders of packages, gives in a 5-fold cross-validation .962 [.921, .982] from the side, .929
# [.877, .959] from above and .973 jointly (README, *A few labels*). What follows is worth doing with a weak classifier too: it is how one finds out that it is weak.
#
# ## Two views, one verdict
#
# An item is damaged when either camera shows it. For classes that are equally frequent and views whose evidence is independent, the logits of
# the probabilities add up (naive Bayes). By hand for the first item, then for all:

# %%
joint = classifier.joint_verdict(per_view)
first = joint.iloc[0]
p = [1 / (1 + np.exp(-first[view])) for view in views]
odds = np.prod([q / (1 - q) for q in p])
print(
    f"probabilities {p[0]:.3f} and {p[1]:.3f} -> jointly {odds / (1 + odds):.3f}; logit {np.log(odds):.3f}, package {first['score']:.3f}"
)
assert np.isclose(np.log(odds), first["score"])

difference = classifier.joint_minus_better_view(per_view)
print(
    f"joint minus the better view ({difference['better']}): {metrics.format_metric(difference)}; "
    "paired, resampling items"
)
figure, axis = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
for label, colour, name in ((0, plotting.GOOD, "intact"), (1, plotting.DEFECT, "damaged")):
    rows = joint[joint["label"] == label]
    axis.scatter(rows[views[0]], rows[views[1]], color=colour, label=name, s=28, alpha=0.8)
limits = np.array(axis.get_xlim())
axis.plot(limits, -limits, color=plt.rcParams["text.color"], lw=1, ls="--", label="joint verdict: probability ½")
axis.set(xlabel=f"logit, {views[0]}", ylabel=f"logit, {views[1]}")
axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=1.4, columnspacing=1)
plt.show()

# %% [markdown]
# Below and left of the dashed line the two views together say *intact*. A point far from both axes is one on which the views agree.
#
# ## Per class: what is missed, what is thrown away

# %%
labels = joint["label"].to_numpy()
verdicts = joint["score"].to_numpy() > 0
counts = {view: metrics.confusion(labels, joint[view] > 0) for view in views}
counts["joint"] = metrics.confusion(labels, verdicts)
figure, axes = plt.subplots(1, len(counts), figsize=(7.8, 2.9), layout="constrained", sharey=True)
for axis, (name, matrix) in zip(axes, counts.items(), strict=True):
    shares = matrix / matrix.sum(1, keepdims=True)
    cells = [[f"{n}\n{share:.0%}" for n, share in zip(*row, strict=True)] for row in zip(matrix, shares, strict=True)]
    names = ["good", "defect"]
    looks = {"cmap": "Greys", "vmin": -0.1, "vmax": 1.25, "cbar": False, "linewidths": 2, "annot_kws": {"size": 12}}
    sns.heatmap(shares, annot=cells, fmt="", xticklabels=names, yticklabels=names, ax=axis, square=True, **looks)
    axis.set(title=name, xlabel="verdict")
    axis.tick_params(length=0, rotation=0)
    for word in [*axis.get_xticklabels(), *axis.get_yticklabels()]:
        word.set_color(plotting.GOOD if word.get_text() == "good" else plotting.DEFECT)
axes[0].set_ylabel("truth")
plt.show()

# %%
classes = metrics.per_class(labels, verdicts)
rows = {
    name: {key: metrics.format_metric(value) if key != "support" else value for key, value in values.items()}
    for name, values in classes.items()
}
print(f"accuracy of the joint verdict {metrics.format_metric(metrics.accuracy(labels, verdicts))}")
pd.DataFrame(rows).T

# %% [markdown]
# **Precision** of a class: of all parts called that, how many are; **recall**: of all parts that are, how many are called that. The
# intervals are Wilson's, and with some dozens of parts per class they are wide: no figure in the second decimal deserves belief.
#
# ## Can the probability be believed?
#
# A logit of 2 promises a probability of .88. **Reliability** asks whether 88 of 100 such parts are damaged. Networks that were trained until the loss
# is near zero promise too much; one number repairs most of it, the **temperature** $T$: divide all logits by it, where
# $T$ minimises the loss on the validation part (Guo et al. 2017). With so few parts the labels are softened first, as Platt (1999) did: a
# defect counts as $(m+1)/(m+2)$, so that $m$ of $m$ right answers do not promise certainty. The order of the parts stays as it is.

# %%
top = models[f"{detector.backbone}-{views[-1]}"]
validation = top.validation
defects, sound = (validation["label"] == 1).sum(), (validation["label"] == 0).sum()
targets = np.where(validation["label"] == 1, (defects + 1) / (defects + 2), 1 / (sound + 2))
grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2001))
losses = []
for t in grid:
    p = 1 / (1 + np.exp(-validation["score"] / t))
    losses.append(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean())
print(
    f"temperature by trying all: {grid[np.argmin(losses)]:.2f}, package {top.temperature:.2f}, from {len(validation)} images"
)
assert np.isclose(grid[np.argmin(losses)], top.temperature, rtol=0.01)


# %%
top_labels = test.loc[test["view"] == views[-1], "label"].to_numpy()
raw = per_view.loc[per_view["view"] == views[-1], "score"].to_numpy() * top.temperature
figure, axis = plt.subplots(figsize=(5, 4.9), layout="constrained")
temperatures = {"as trained": 1.0, "divided by T": top.temperature}
for (name, t), colour in zip(temperatures.items(), plotting.METHOD_COLOURS, strict=False):
    p = metrics.probability(raw, t)
    name += f": ECE {metrics.format_number(metrics.calibration_error(top_labels, p, 5))}"
    CalibrationDisplay.from_predictions(top_labels, p, n_bins=5, name=name, ax=axis, color=colour, marker="o")
    table = metrics.reliability(top_labels, p, bins=5)
    axis.vlines(table.confidence, table.low, table.high, color=colour, alpha=0.4, lw=4)
axis.set(xlabel="predicted probability of a defect (mean in the bin)", ylabel="share of defects (bar: 95 % interval)")
axis.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2)
plt.show()

# %% [markdown]
# ## A threshold for what mistakes cost
#
# Where probabilities are calibrated, the best threshold follows from the costs alone (Elkan 2001): call a part defective when
#
# $$p>\frac{c_\text{false alarm}}{c_\text{false alarm}+c_\text{miss}}\quad\Longleftrightarrow\quad z>T\,\log\frac{c_\text{false alarm}}{c_\text{miss}} .$$
#
# A missed defect that costs ten good parts, on the test part (the threshold of the last column was chosen on the validation part by trying all):

# %%
MISS, ALARM = 10.0, 1.0
limits = {
    "probability ½": 0.0,
    "from the costs": metrics.bayes_threshold(MISS, ALARM, top.temperature),
    "cheapest on validation": metrics.cost_threshold(validation["label"], validation["score"], MISS, ALARM),
}
lines = {}
for name, limit in limits.items():
    (_, alarms), (missed, _) = metrics.confusion(top_labels, raw > limit)
    cost = metrics.mean_cost(top_labels, raw, limit, MISS, ALARM)
    lines[name] = {
        "threshold": round(limit, 2),
        "missed": missed,
        "false alarms": alarms,
        "cost per part": round(cost, 2),
    }
lines["call all defective"] = {
    "missed": 0,
    "false alarms": int((top_labels == 0).sum()),
    "cost per part": float((top_labels == 0).mean()),
}
pd.DataFrame(lines).T

# %%
ratios = np.geomspace(0.1, 100, 60)
cheapest = [metrics.cost_threshold(top_labels, raw, ratio, 1.0) for ratio in ratios]
curves = {"call all good": np.inf, "call all defective": -np.inf, "cost-optimal threshold": np.array(cheapest)}
colours = {"color": (plotting.GOOD, plotting.DEFECT, plotting.METHOD_COLOURS[0]), "ls": ("--", "--", "-")}
figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for (name, thresholds), colour, dashes in zip(curves.items(), *colours.values(), strict=True):
    pairs = np.broadcast(thresholds, ratios)
    costs = [metrics.mean_cost(top_labels, raw, threshold, ratio, 1.0) for threshold, ratio in pairs]
    axis.plot(ratios, costs, color=colour, ls=dashes, label=name)
axis.set(xlabel="cost of a miss / cost of a false alarm", ylabel="mean cost per part (in false alarms)")
axis.set(xscale="log", ylim=(-0.02, 1.25 * (top_labels == 0).mean()))  # to call all good soon costs far more
axis.xaxis.set_major_formatter("{x:g}")
axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
plt.show()

# %% [markdown]
# With so weak a classifier and so dear a miss, stopping *every* part is cheapest: it costs .50, the threshold from the costs .75, the one
# chosen on 24 validation images .90. The curve shows where a classifier begins to pay: only where a miss costs less than about three false alarms does the best
# threshold lie below both dashed lines. (That curve picks its threshold on the images that it prices: it is what could be had at best.)
#
# ## A product of MVTec AD
#
# The supervised split of a product: its defects, which lie in the test folder, are dealt into three parts by type. The
# bottles lie still and fill the picture, so whole pictures are looked at.

# %%
whole = replace(detector, roi="whole")
if product:
    bottles = product_cuts[product]
    learned, unseen = bottles[bottles["part"] != "test"], bottles[bottles["part"] == "test"].reset_index(drop=True)
    product_scores, (product_model,) = classifier.score_unseen(whole, learned, unseen, per_view=False)
    product_measured = classifier.measure(product_scores["label"].to_numpy(), product_scores["score"].to_numpy())
    rows = trivial_rows(learned, unseen)
    print(f"{product}: AUROC {metrics.format_metric(product_measured['image_auroc'])} on {len(unseen)} images")
    print("trivial rows:", {name: round(metrics.image_auroc(unseen["label"], rows[name]), 3) for name in rows})
else:
    product_scores = per_view.head(0)
    print("no product can be split, so the classifier of a product is left out")

# %% [markdown]
# In *quick* it gets .648 [.356, .855] on fifteen bottles, and the z-score per pixel, a trivial row, .870: a part that always lies alike can be judged without a network.
#
# Per defect type: the share of its images that get a higher score than a good image does, that is its AUROC against all good ones.

# %%
good = product_scores.loc[product_scores["label"] == 0, "score"]
lines = {}
for defect, rows in product_scores[product_scores["label"] == 1].groupby("defect"):
    auroc = metrics.image_auroc([0] * len(good) + [1] * len(rows), [*good, *rows["score"]])
    low, high = metrics.newcombe(auroc, len(rows), len(good))
    lines[defect] = {"images": len(rows), "AUROC against good": f"{auroc:.3f} [{low:.3f}, {high:.3f}]"}
pd.DataFrame(lines).T

# %% [markdown]
# ## The failure case
#
# The surest mistakes, in both directions:

# %%
errors = np.where(per_view["label"] == 1, -per_view["score"], per_view["score"])
wrong = per_view.assign(error=errors).nlargest(4, "error")
model_of = dict(zip(views, view_models, strict=True))
pictures = [model_of[row.view].cut(test[test["image_id"] == row.image_id])[0][0] for row in wrong.itertuples()]
titles = [f"{row.view}: {row.defect}\nlogit {row.score:.1f}" for row in wrong.itertuples()]
plotting.gallery(pictures, titles=titles, labels=list(wrong["label"]), columns=4)

# %% [markdown]
# Three damaged items that were passed and an intact one that was stopped. The damage is faint at this size; yet a logit of −2.3, a tenth of a chance that the
# item is damaged, is more than the network had reason to say. Those who look for damage in these cuts themselves will find that they need the other view, or a lens.
#
# ## Yours, reported, verdict

# %%
lines = [
    [name, view, metrics.format_metric(m["image_auroc"]), metrics.format_metric(m["accuracy"])]
    for name, values in measured.items()
    for view, m in values.items()
]
reported = "98 % accuracy, two-view ResNet-50" if source != "synthetic" else "–"
pd.DataFrame(
    [
        [
            *line,
            reported,
            "not comparable: other images and split" if source == "synthetic" else "not comparable: other split",
        ]
        for line in lines
    ],
    columns=["", "view", "image AUROC", "accuracy", "reported", "verdict"],
)

# %% [markdown]
# A published two-view ResNet-50 claims an accuracy of 98 % on packages like the real ones, under another split. Ours, a ResNet-18 whose last layer is
# new, is compared with it in the README.
#
# ## Exercises
#
# **1.** What does the pyramid add? Train the model of the view from above with the usual global average alone, `pyramid=(1,)`.
#
# <details><summary>Solution</summary>
#
# ```python
# top_train, top_test = (part[part["view"] == views[-1]] for part in (train, test))
# plain, _ = classifier.score_unseen(replace(detector, pyramid=(1,)), top_train, top_test, finders=finders)
# print(metrics.image_auroc(plain["label"], plain["score"]))
# ```
# In *quick*: .745, against .623 with the pyramid. With few items and a weak network the places in the finer grids are more room to be wrong; try
# the real ones before you drop it.
# </details>
#
# **2.** How many labels does it take? Train on a quarter, and on half, of the items.
#
# <details><summary>Solution</summary>
#
# ```python
# for share in (0.25, 0.5):
#     few = top_train[splits.hold_out(top_train, share)]
#     less, _ = classifier.score_unseen(detector, few, top_test, finders=finders)
#     print(len(few), metrics.image_auroc(less["label"], less["score"]))
# ```
# In *quick*: 30 items .620, 60 items .613, all 120 .623. More labels do not help a network that hardly sees the damage.
# </details>
#
# ## Save the artifact

# %%
tables = {**scores, f"{product}, whole pictures": product_scores}
if not product:
    del tables[f"{product}, whole pictures"]
files = {"scores.csv": pd.concat([table.assign(method=name, split="test", seed=0) for name, table in tables.items()])}
seen = {f"{detector.backbone}-{view}": rows for view, rows in per_view.groupby("view")}
seen |= {f"{detector.backbone}-all": together, f"{newcomer}-all": scratch}
for name, model in models.items():
    limit = metrics.bayes_threshold(MISS, ALARM, model.temperature)
    numbers = {"image_auroc": metrics.image_auroc(seen[name]["label"], seen[name]["score"])}
    files |= classifier.files(model, category, name, threshold=limit, metrics=numbers)
if product:
    limit = metrics.bayes_threshold(MISS, ALARM, product_model.temperature)
    files |= classifier.files(product_model, product, detector.backbone, threshold=limit, metrics=product_measured)
aurocs = {f"{name}, {view}": m["image_auroc"]["mean"] for name, each in measured.items() for view, m in each.items()}
about = {
    "profile": run.name,
    "data_source": source,
    "categories": [category, *list(product_cuts)[:1]],
    "options": detector.options(),
}
path = artifacts.save("models", files, **about, seed=[0], inputs=[packages, data], metrics=aurocs)
artifacts.download(path)

# %%
restored, description = classifier.restore(
    artifacts.load("models", profile=run.name), category, f"{detector.backbone}-{views[-1]}"
)
few = test[test["view"] == views[-1]][:8]
assert np.array_equal(restored.score(few).image, top.score(few).image)
print(
    f"the model from the file gives the same scores; its threshold is {description['threshold']:.2f}, its weights: {description['weights']}"
)

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * dealt out whole items, and proved that no picture is in two parts;
# * found the item by rare colours and turned it by its print, without a label;
# * read a frozen network with a head in closed form, and fine-tuned all of it gently;
# * judged views apart and together, per class, with intervals and trivial rows;
# * calibrated probabilities, and turned costs into a threshold.
#
# **Limits.** A classifier knows the defects it was shown; a new kind may pass as intact, which the one-class methods of 02 and 03 do
# not forgive. Items, not pictures, are the units: with 40 of them in the test part two verdicts differ by a few items.
#
# **Next:** [05](05_interpretability.ipynb) asks where these networks look.
