# %% [markdown]
# # 14 · One good image, or none
#
# <!-- badge -->
#
# The earlier notebooks had a hundred good images. On the first morning of a new product there is one; sometimes there is only a box of parts
# that nobody has sorted. At the end of this notebook you will be able to
#
# * **fit** a subspace to the patches of one good image and of its rotated copies, by hand and with the package;
# * **measure** what 1, 2, 4 and 8 images are worth, over 20 draws, with intervals over draws;
# * **explain** what PaDiM's ε does where the covariance is singular;
# * **judge** a box without any good image, and say how many defects in it the verdicts bear;
# * **say** what may be promised from k images, and why copies are no images.
#
# **It reads** `data.zip` of [01 · Data preparation](01_data_preparation.ipynb), which is made here if it is missing.
# Profile *quick*: less than a minute on 2 CPU cores, synthetic products. Profile *full*: real MVTec AD, a GPU helps.
#
# The methods: Lendering, Akdag, Bondarev, *SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling*, CVPR 2026,
# [arXiv:2602.23013](https://arxiv.org/abs/2602.23013); Li, Huang, Xue, Zhou, *MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual
# Scoring of the Unlabeled Images*, ICLR 2024, [arXiv:2401.16753](https://arxiv.org/abs/2401.16753).

# %%
# <setup>

# %%
import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats

from mvtec_ad import benchmark, metrics, plotting, profile
from mvtec_ad.config import pin
from mvtec_ad.data import index, prepare
from mvtec_ad.errors import DataError
from mvtec_ad.methods.musc import musc, mutual_scores, nearest_in_each
from mvtec_ad.methods.padim import fit_gaussians
from mvtec_ad.methods.patchcore import nearest
from mvtec_ad.methods.subspace_ad import SubspaceAd, residuals, rotated, second_moments, subspace, top_mean
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}
SHOTS, DRAWS, POOL = (1, 2, 4, 8), 20, 24  # good images of a draw; draws; images that are drawn from

run = profile(PROFILE, CATEGORIES)
pin(run)
detector = SubspaceAd.preset(run.name)
data = need(run, "data", other_profile=OTHER_PROFILE)["data"]
source, root = data.manifest["data_source"], prepare.unpack(data)
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
tables = where_possible(lambda name: benchmark.check_measurable(detector, index.read_category(root, name)), wanted)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}, images: {source}, categories: {', '.join(tables)}")
if not tables:
    leave_out_rest("it measures, and no category is left")

# %% [markdown]
# ## Five images first

# %%
still = next(iter(tables))  # lies still
turning = "screw" if "screw" in tables else list(tables)[-1]  # lies at any angle
good, tests, labels = {}, {}, {}
for name in dict.fromkeys((still, turning)):
    table = tables[name]
    good[name] = detector.load(list(table.query("split == 'train' and label == 0")["image_path"])[:POOL])
    tests[name] = table.query("split == 'test'").reset_index(drop=True)
    labels[name] = tests[name]["label"].to_numpy()
rows = tests[turning]
five = [*rows[rows["label"] == 0].index[:2], *rows[rows["label"] == 1].groupby("defect").head(1).index[:3]]
images = detector.load(list(rows["image_path"]))
plotting.gallery(images[five], titles=list(rows["defect"][five]), columns=5)

# %% [markdown]
# ## The idea: what one image cannot say
#
# A frozen network gives each cell of a grid a vector; we bring it to length 1. One good image has a few hundred of them, which is enough to say along which directions
# vectors of good parts vary. **SubspaceAD** keeps the principal directions $V$ that hold a share τ of the variance. What is left
# of a new vector is its anomaly:
#
# $$s(x)=\lVert (I-VV^{\mathsf T})(x-\mu)\rVert^2. \tag{1}$$
#
# The image score is the mean of the highest hundredth of the cells. What one image cannot say is how other good parts lie, so we show it at eight angles.

# %%
draw = plotting.Schematic(9, 2.2)
one = good[turning][0]
picture = draw.picture(one, 0.6, 1.1, 0.9, "one good image")
turned = [draw.picture(view, 2.0, y, 0.5) for view, y in zip(rotated(one, 3), (1.8, 1.15, 0.5), strict=True)]
network = draw.box("frozen network,\nunit length", 3.5, 1.15, 1.2, 0.6)
vectors = draw.stack("vectors of all cells", 4.9, 1.15, 0.5, 0.5)
space = draw.box("mean and\nprincipal directions", 6.4, 1.15, 1.4, 0.6)
rest = draw.box("score: squared\nresidual", 8.1, 1.15, 1.2, 0.6, "#FBE3C0")
for view in turned:
    draw.arrow(picture, view)
    draw.arrow(view, network)
for start, end in ((network, vectors), (vectors, space), (space, rest)):
    draw.arrow(start, end)
draw.figure

# %% [markdown]
# ## By hand
#
# The third layer of the network, of the image at all angles:

# %%
depth = detector.layers[0] - 1
layer = detector.network(rotated(one, detector.rotations))[depth].double().numpy(force=True)  # angles × h × w × C
X = (layer / np.linalg.norm(layer, axis=-1, keepdims=True)).reshape(-1, layer.shape[-1])
mean = X.mean(0)
_, lengths, directions = np.linalg.svd(X - mean, full_matrices=False)
share = np.cumsum(lengths**2) / np.sum(lengths**2)
V = directions[: np.searchsorted(share, detector.variance) + 1].T
print(
    f"{len(X):,} vectors of {X.shape[1]} numbers; {V.shape[1]} directions hold {detector.variance:.0%} of the variance"
)

# %%
defective = five[-1]
layer = detector.network(images[[defective]])[depth].double().numpy(force=True)[0]
x = (layer / np.linalg.norm(layer, axis=-1, keepdims=True)).reshape(-1, layer.shape[-1]) - mean
residual = np.square(x - x @ V @ V.T).sum(1)  # equation (1), one number a cell
by_hand = np.sort(residual)[-max(1, round(detector.top_share * len(residual))) :].mean()

# %%
one_shot = copy.copy(detector).fit(one[None])
scored = one_shot.score(images)
print(f"by hand {by_hand:.5f}, package {scored.image[defective]:.5f}")
assert np.isclose(by_hand, scored.image[defective], rtol=1e-3)

# %%
scale = {"anomaly map": plotting.map_scale(scored.maps)}
shown = {"image": images[five], "anomaly map": scored.maps[five]}
plotting.picture_rows(shown, titles=list(rows["defect"][five]), scales=scale)

# %% [markdown]
# These maps know one part. Where it and its copies have nothing alike, they are bright, on good parts too.
#
# ## One, two, four, eight
#
# Which image comes first on the first morning is chance. So each number below is a mean over 20 draws of k images, and the band is its 95 %
# interval over draws. It tells what another choice of good images would change, and nothing of other test images.
#
# The covariance of several images needs only their sums, so each image is looked at once. $\sum[x,1]^{\mathsf T}[x,1]$ holds scatter, sum and
# number of its vectors, and adds up.


# %%
def look(name):
    """Cells of the test images, and of each good image at all angles, (…, P, C)."""
    test = torch.cat([detector.features(layers) for layers, _ in detector.batches(list(tests[name]["image_path"]))])
    turns = detector.rotations if name == turning else 1
    return test.flatten(1, 2), [
        detector.features(detector.network(rotated(i, turns))).flatten(1, 2) for i in good[name]
    ]


cells = {name: look(name) for name in good}
draws = [np.random.default_rng(seed).permutation(len(good[turning])) for seed in range(DRAWS)]


def auroc(name, scores):
    """Image AUROC of (N, P) scores of cells."""
    return metrics.image_auroc(labels[name], top_mean(scores, detector.top_share).numpy(force=True))


# %%
def over_draws(name, angles):
    """AUROC of SubspaceAD, (shots, draws)."""
    test, views = cells[name]
    moments = [second_moments(view[:angles].flatten(0, 1)).numpy(force=True) for view in views]
    sums = [[sum(moments[i] for i in order[:k]) for order in draws] for k in SHOTS]
    return np.array([[auroc(name, residuals(test, *subspace(s, detector.variance))) for s in row] for row in sums])


def interval(values):
    """Mean and 95 % interval over draws, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return {"mean": np.mean(values), "low": np.mean(values) - half, "high": np.mean(values) + half}


curves = {f"{still}, as it lies": over_draws(still, 1), f"{turning}, as it lies": over_draws(turning, 1)}
curves[f"{turning}, at {detector.rotations} angles"] = over_draws(turning, detector.rotations)

# %%
figure, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
for (name, values), marker in zip(curves.items(), "so^", strict=True):
    ends = [interval(row) for row in values]
    line = axes.plot(SHOTS, values.mean(1), marker=marker, label=name)[0]
    band = [[end[side] for end in ends] for side in ("low", "high")]
    axes.fill_between(SHOTS, *band, alpha=0.2, color=line.get_color())
axes.set(xscale="log", xlabel="good images", ylabel="image AUROC", xticks=SHOTS, xticklabels=SHOTS)
axes.minorticks_off()
axes.legend(frameon=False, loc="lower right")
plt.show()

# %%
as_it_lies, at_angles = (list(curves.values())[number] for number in (1, 2))
for k, plain, turned in zip(SHOTS, as_it_lies, at_angles, strict=True):
    gain = interval(turned - plain)
    print(
        f"k = {k}: copies add {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]; worst draw {turned.min():.3f}"
    )
first_gain = interval(at_angles[0] - as_it_lies[0])["low"]
lesson("one image of a part at any angle is worth more at eight angles", first_gain > 0, run, source)
lesson(
    "one image of a part that lies still is enough",
    interval(curves[f"{still}, as it lies"][0])["low"] > 0.9,
    run,
    source,
)

# %% [markdown]
# The gain is largest for one image: eight images at eight angles by chance already know what copies would have shown. A copy is made by a computer, though: light falls on it from
# the wrong side.
#
# ## PaDiM with few images: what ε does
#
# PaDiM (notebook [02](02_padim.ipynb)) fits a Gaussian at each cell. Of k images the covariance has rank k − 1 at most, far less than its size: it is **singular**, and only ε, added to its
# diagonal, lets it be inverted. In the span of the images the distance is a Mahalanobis distance; outside of it, $\lVert\cdot\rVert/\sqrt\epsilon$. As ε falls
# to 0 the second part outgrows the first:
#
# $$\sqrt\epsilon\,M(x)\;\longrightarrow\;\lVert (I-P)(x-\mu)\rVert ,$$
#
# with $P$ the projection onto the span. That is the residual of equation (1), at each cell with a subspace of its own.

# %%
few = 4
test, views = cells[still]
at_cell = torch.stack([view[0] for view in views[:few]]).transpose(0, 1).contiguous()  # P × k × C
X = at_cell[0].double().numpy(force=True)
span = np.linalg.svd(X - X.mean(0), full_matrices=False)[2][: few - 1]
delta = test[-1, 0].double().numpy(force=True) - X.mean(0)
outside = np.linalg.norm(delta - delta @ span.T @ span)
print(
    f"rank of the covariance: {np.linalg.matrix_rank(np.cov(X.T))} of {X.shape[1]}; outside of the span {outside:.4f}"
)
for ridge in (1.0, 1e-2, 1e-4, 1e-6):
    distance = float(fit_gaussians(at_cell[:1], ridge).distance(test[-1:, :1].transpose(0, 1)))
    print(f"ε = {ridge:g}: √ε · M = {np.sqrt(ridge) * distance:.4f}")
assert np.isclose(np.sqrt(ridge) * distance, outside, rtol=1e-2)

# %% [markdown]
# So a small ε does not ruin PaDiM; it makes another method of it. A large one makes it the plain distance to the mean. Neither helps where parts turn, for a cell then holds another
# detail each time.
#
# ## Side by side
#
# On the parts at any angle, the same cells, the same draws. **PatchCore**: the distance to the nearest remembered vector, of a random tenth at all angles. **Nearest
# prototype**: the mean vector of the image beside that of the good ones.


# %%
def by_patchcore(order, k):
    """The nearest of a random tenth of the vectors of k images at all angles."""
    test, views = cells[turning]
    patches = torch.cat([views[i].flatten(0, 1) for i in order[:k]])
    bank = patches[np.random.default_rng(0).permutation(len(patches))[::10]]
    distances, _ = nearest(test.flatten(0, 1), bank, bank.square().sum(1))
    return distances.unflatten(0, test.shape[:2])


def by_prototype(order, k):
    """The distance of the mean vectors."""
    test, views = cells[turning]
    return (test.mean(1) - torch.stack([views[i][0].mean(0) for i in order[:k]]).mean(0)).norm(dim=1)[:, None]


def by_padim(order, k, ridge=1e-4):
    """A Gaussian at each cell; of one image the plain distance to it."""
    test, views = cells[turning]
    at_cell = torch.stack([views[i][0] for i in order[:k]]).transpose(0, 1).contiguous()
    if k == 1:
        return (test - at_cell[:, 0]).norm(dim=2)
    return fit_gaussians(at_cell, ridge).distance(test.transpose(0, 1)).T


# %%
ways = {"PatchCore, 8 angles": by_patchcore, "nearest prototype": by_prototype, "PaDiM": by_padim}
lines = {}
for k in (1, 4):
    found = {"SubspaceAD, 8 angles": at_angles[SHOTS.index(k)], "SubspaceAD": as_it_lies[SHOTS.index(k)]}
    found |= {name: np.array([auroc(turning, way(order, k)) for order in draws]) for name, way in ways.items()}
    lines[f"k = {k}"] = {name: metrics.format_metric(interval(values)) for name, values in found.items()}
    lines[f"worst draw, k = {k}"] = {name: metrics.format_number(values.min()) for name, values in found.items()}
pd.DataFrame(lines)

# %% [markdown]
# The order of these rows is that of these screws: on a real product at any angle PatchCore came first (`assets/few_shot.json`).
#
# ## What k images may promise
#
# A threshold that keeps a false-alarm rate α needs scores of good images that the model has not seen (notebooks [02](02_padim.ipynb) and
# [11](11_from_notebook_to_line.ipynb)). Of k images these are k leave-one-out scores, and their largest promises $1/(k+1)$ and nothing less:

# %%
for k in (1, 4, 8, 18, 19):
    print(f"k = {k:>2}: " + (f"at best {1 / (k + 1):.1%} false alarms" if k > 1 else "no score, no promise"))
try:
    metrics.calibrated(copy.copy(detector).fit(good[still][:few]).good_scores, 0.05)
except DataError as problem:
    print(f"and 5 % of {few}: {problem}")

# %% [markdown]
# Is the promise of four images, 20 %, kept? Over the draws, each with a threshold of its own:

# %%
test, views = cells[turning]
test_good = test[labels[turning] == 0]
moments = [second_moments(view.flatten(0, 1)).numpy(force=True) for view in views]


def scores_by(chosen, patches):
    """Image scores by the subspace of some good images."""
    space = subspace(sum(moments[i] for i in chosen), detector.variance)
    return top_mean(residuals(patches, *space), detector.top_share).numpy(force=True)


rates = []
for order in draws:
    chosen = order[:few]
    held_out = [scores_by(np.setdiff1d(chosen, [i]), views[i][:1])[0] for i in chosen]
    rates.append(np.mean(scores_by(chosen, test_good) > metrics.calibrated(held_out, 0.2)))
rate = interval(rates)
print(
    f"false alarms of {DRAWS} draws: mean {rate['mean']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}], worst {max(rates):.2f}"
)
lesson("over draws nothing speaks against the promise of 20 %", rate["low"] <= 0.2, run, source)

# %% [markdown]
# Kept on average over draws; whoever has one draw may have the worst.
#
# ## A failure case: copies are no images
#
# Twenty-four copies of one image are more than 19 images, and their contents differ, so the package cannot tell that a promise of 5 % from them is void. We break the rule on
# purpose: a method that does not turn images itself is given the copies as if they were images.

# %%
careless = replace(detector, rotations=1)
broken = {}
for name in dict.fromkeys((still, turning)):
    judged_good = list(careless.batches(list(tests[name]["image_path"][labels[name] == 0])))
    flags = []
    for single in good[name][:2]:
        careless.fit(rotated(single, 24))
        flags += list(careless.score_seen(judged_good).image > metrics.calibrated(careless.good_scores, 0.05))
    broken[name] = metrics.wilson(np.mean(flags), len(flags))
    print(f"{name}: promised 5 % of false alarms; {sum(flags)} of {len(flags)} verdicts on good parts are false alarms")
lesson(f"on {still} a threshold from copies breaks its promise", broken[still][0] > 0.05, run, source)

# %% [markdown]
# A copy that is left out still finds its neighbours at the next angles; another part finds none. Where the threshold holds all the same, it does so by luck: nothing was promised about other
# parts. That is why `SubspaceAd` turns images inside, and leaves each out with all its copies.
#
# ## No good image at all
#
# A box of parts, mostly good or not: nobody knows. **MuSc** lets them judge each other. A patch of a good part has near neighbours in many other images, a patch of a
# defect in few. With $d_j(x)$ the distance to the nearest patch of image $j$, the score is the mean of the smallest 30 % of all $d_j$, $j$ being any other image:
#
# $$a(x)=\operatorname{mean}\bigl\{\text{the smallest } 30\,\%\ \text{of}\ d_j(x)\bigr\},\qquad d_j(x)=\min_{m\in j}\lVert x-m\rVert . \tag{2}$$

# %%
box = cells[still][0]  # N × P × C
near = nearest_in_each(box)  # N × P × N

image, cell = 0, 5
to_others = [float((box[j] - box[image, cell]).norm(dim=1).min()) for j in range(len(box)) if j != image]
by_hand = np.mean(np.sort(to_others)[: int(0.3 * len(to_others))])
by_package = float(mutual_scores(near, 0.3)[image, cell])
print(f"by hand {by_hand:.4f}, package {by_package:.4f}")
assert np.isclose(by_hand, by_package, rtol=1e-3)


# %%
def judged(near, truth, chosen):
    """AUROC of images that judge each other."""
    scores = mutual_scores(near[chosen][:, :, chosen], 0.3)
    return metrics.image_auroc(truth[chosen], top_mean(scores, detector.top_share).numpy(force=True))


unsorted = judged(near, labels[still], np.arange(len(box)))
print(f"{still}: {labels[still].mean():.0%} of {len(box)} test images are defective; AUROC {unsorted:.3f}")
scores = musc(list(tests[still]["image_path"]), detector).image
assert np.isclose(metrics.image_auroc(labels[still], scores), unsorted, atol=0.01)

# %% [markdown]
# No image was called good by anybody. How many defects does a box bear? Boxes of 30 images, where there are as many, 20 draws for each share:


# %%
def borne(name, shares=(0.1, 0.25, 0.5, 0.75, 0.9)):
    """Share of defects in a box -> AUROC within it, over draws."""
    test, views = cells[name]
    near = nearest_in_each(torch.cat([test, torch.stack([view[0] for view in views])]))
    truth, found = np.r_[labels[name], np.zeros(len(views), int)], {}
    size = min(30, int(min((truth == 0).sum(), truth.sum()) / 0.9))
    for defects in (round(share * size) for share in shares):
        values = []
        for seed in range(DRAWS):
            rng = np.random.default_rng([seed, defects])
            parts = [rng.choice(np.flatnonzero(truth == c), n, False) for c, n in ((0, size - defects), (1, defects))]
            values.append(judged(near, truth, np.concatenate(parts)))
        found[defects / size] = interval(values) | {"worst": min(values)}
    return found


boxes = {name: borne(name) for name in dict.fromkeys((still, turning))}

# %%
figure, axes = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for (name, found), marker in zip(boxes.items(), "so", strict=False):
    shares = [100 * share for share in found]
    line = axes.plot(shares, [value["mean"] for value in found.values()], marker=marker, label=f"{name}, mean")[0]
    axes.plot(shares, [value["worst"] for value in found.values()], ls=":", color=line.get_color(), label="worst draw")
axes.set(xlabel="defects in the box, %", ylabel="image AUROC", title="Boxes of unsorted parts")
figure.legend(loc="outside right center")
plt.show()

# %%
for name, found in boxes.items():
    for share, value in found.items():
        print(f"{name}, {share:.0%} defective: {metrics.format_metric(value)}, worst draw {value['worst']:.3f}")
half = list(boxes[still].values())[2]
lesson(f"{still}: a box of which half are defects is ranked nearly right", half["low"] > 0.9, run, source)

# %% [markdown]
# Defects differ from each other, which is why even many of them do little harm: each still finds few neighbours. Of the parts at any angle few lie alike, and a box of 30 is of little help. What
# breaks the method is a defect that many parts share: then it is *normal* in this box. We paint the same dark square on 27 of 30 good images:

# %%
spoilt = good[still].copy()
spoilt = np.concatenate([spoilt, spoilt[:6]])[:30]
painted = np.arange(len(spoilt)) < 27 * len(spoilt) // 30
side = detector.crop // 8
spoilt[painted, 3 * side : 4 * side, 3 * side : 4 * side] = 20
same = metrics.image_auroc(painted, musc(spoilt, detector).image)
print(f"the same defect on {painted.mean():.0%} of the images: AUROC {same:.3f}")
lesson("a defect that nearly all share is called normal, and the good parts are called odd", same < 0.5, run, source)

# %% [markdown]
# And a score says nothing of an image alone: the same part in another box has another score, so no threshold can be kept. That is why `musc` is a function, no detector.
#
# ## Yours, reported, verdict
#
# Image AUROC on real MVTec AD as published, in percent: **means over 15 categories**, of large vision transformers. They are *not comparable* with three
# products and EfficientNet-Lite0, and still less with synthetic ones.

# %%
readme = "SubspaceAD's README at 05551d4"
published = [
    ("SubspaceAD, current abstract", "DINOv2-G", "", 97.1, "", "", "arXiv:2602.23013"),
    ("SubspaceAD, first version", "DINOv2-G", 96.6, 98.0, 98.1, 98.4, readme),
    ("AnomalyDINO", "DINOv2", 94.2, 96.6, 96.9, 97.7, readme),
    ("WinCLIP, WinCLIP+", "CLIP", 91.8, 93.1, 94.4, 95.2, "arXiv:2303.14814"),
    ("MuSc", "CLIP", 97.8, "", "", "", readme),
]
pd.DataFrame(published, columns=["method", "network", "zero", "1 shot", "2 shots", "4 shots", "read in"])

# %% [markdown]
# *zero*: WinCLIP knows the product's name and no image; the others an unlabelled batch. That SubspaceAD's authors report two figures for one shot shows how much such means depend on details. What this suite reaches on three **real**
# products stands in `assets/few_shot.json`, made by `benchmarks/few_shot.py`.
#
# ## Exercises
#
# **1.** Which share of variance? Measure τ from one half to almost one, with one shot, as the parts lie at any angle.
#
# <details><summary>Solution</summary>
#
# ```python
# test, views = cells[turning]
# for variance in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999):
#     spaces = [subspace(second_moments(views[order[0]].flatten(0, 1)).numpy(), variance) for order in draws]
#     print(variance, metrics.format_metric(interval([auroc(turning, residuals(test, *space)) for space in spaces])))
# ```
# No range is flat: a half and 0.99 are ahead, 0.8 lies far below both, and nobody would have guessed it. So τ is stated before the test images are looked at; the best of these
# six would be chosen on them.
# </details>
#
# **2.** Does the box of unsorted parts do better than one good image? Compare the parts at any angle with their one-shot draws.
#
# <details><summary>Solution</summary>
#
# ```python
# scores = mutual_scores(nearest_in_each(cells[turning][0]), 0.3)
# print(auroc(turning, scores), metrics.format_metric(interval(at_angles[0])))
# ```
# Neither: the box's figure lies inside the interval of the draws. The box shows many parts at many angles; one image at eight angles shows one part.
# </details>
#
# ## Recap
#
# In this notebook we have
#
# * fitted a subspace to one image at eight angles, by hand, and found the package's score;
# * measured what a good image is worth over 20 draws, and what copies add where parts turn;
# * seen PaDiM turn into a subspace method as ε falls;
# * kept the promise that four images allow, and broken one that was made from copies;
# * judged a box without a good image, and seen which defects it bears and which it does not.
#
# **Limits.** Intervals are over draws of good images, on the same test images, and draws share images: they are narrower than those of independent ones. Whether parts turn was told to the method, as one look
# at a few of them would tell. This notebook saves nothing.
#
# **Next:** as soon as 19 good images are there, [03b](03b_patchcore.ipynb) and a threshold that promises 5 %.
