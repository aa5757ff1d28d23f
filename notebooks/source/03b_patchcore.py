# %% [markdown]
# # 03b · PatchCore: remember good patches instead of reconstructing them
#
# <!-- badge -->
#
# Notebook 03 reconstructed images and looked at what was left over. PatchCore reconstructs nothing: it keeps feature vectors of patches of good images,
# and asks of a new patch how far the nearest remembered one is. At the end of this notebook you will be able to
#
# * **choose** a small set of patches that stands for all, with the greedy coreset, by hand;
# * **compute** PatchCore's image score by hand, and find the package's number;
# * **compare** it with autoencoder, VAE, PCA and PaDiM on the same images, with paired intervals, and by what each costs;
# * **fit** a detector and judge an image from the command line.
#
# **It reads** `data.zip` of [01 · Data preparation](01_data_preparation.ipynb), which is made here if it is missing, and, where they are at hand, `padim.zip` of
# [02 · PaDiM](02_padim.ipynb) and `autoencoder.zip` of [03 · Autoencoder](03_autoencoder.ipynb).
# Profile *quick*: less than a minute on a CPU, drawn products. Profile *full*: real MVTec AD, seven products, a GPU.
#
# The method: Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, *Towards Total Recall in Industrial Anomaly Detection*, 2022,
# [arXiv:2106.08265](https://arxiv.org/abs/2106.08265).

# %%
# <setup>

# %%
import os
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Image

from mvtec_ad import artifacts, benchmark, metrics, plotting, profile
from mvtec_ad.benchmark import compare, published
from mvtec_ad.benchmark.result import make_result
from mvtec_ad.config import pin, transfer_folder
from mvtec_ad.data import index, loading, prepare
from mvtec_ad.methods import load_model
from mvtec_ad.methods.autoencoder import Autoencoder, difference_map
from mvtec_ad.methods.base import Scores, as_tensor, peak, smooth
from mvtec_ad.methods.patchcore import Patchcore, greedy, patch_features
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}
SEEDS = (0, 1, 2)  # of the coreset

run = profile(PROFILE, CATEGORIES)
pin(run)
detector = Patchcore.preset(run.name)
inputs = need(run, "data", optional=("padim", "autoencoder"), other_profile=OTHER_PROFILE)
data = inputs.pop("data")
source, root = data.manifest["data_source"], prepare.unpack(data)
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
tables = where_possible(lambda name: benchmark.check_measurable(detector, index.read_category(root, name)), wanted)
categories = list(tables)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}, images: {source}, categories: {', '.join(categories)}")
print(f"{detector.backbone}, {detector.crop} px; {100 * detector.coreset:g} % of the patches are kept")
if not categories:
    leave_out_rest("it measures, and no category is left")

# %% [markdown]
# ## Five images first

# %%
first = categories[0]  # lies still
turning = "screw" if "screw" in categories else categories[-1]  # lies at any angle
test_rows = tables[turning].query("split == 'test'").reset_index(drop=True)
five = [*test_rows[test_rows["label"] == 0].index[:2]]
five += [*test_rows[test_rows["label"] == 1].groupby("defect").head(1).index[:3]]
images = detector.load(list(test_rows["image_path"][five]))
titles = list(test_rows["defect"][five])
plotting.gallery(images, titles=titles, columns=5)

# %% [markdown]
# These parts lie at any angle. PaDiM (notebook 02) and the autoencoder (03) expect each detail of a part at one place of the image.
#
# ## The idea: a memory of good patches
#
# A frozen network (its weights stay as they are; in *quick* it is the one of notebook 02) gives each cell of a grid a feature vector. The
# vector is averaged with those of the neighbouring cells, so that it describes a **patch** (eq. 1 to 3). The vectors of all good images are
# gathered in a **memory bank** $\mathcal M$. A new patch $x$ is as anomalous as it is far from the nearest remembered one:
#
# $$d(x)=\min_{m\in\mathcal M}\lVert x-m\rVert .$$
#
# PaDiM keeps a Gaussian for each position; here a patch may be compared with one from any position, of any image.

# %%
draw = plotting.Schematic(9, 2.9)
good = draw.picture(detector.load(list(tables[turning]["image_path"][:1]))[0], 0.6, 2.2, 0.85, "good images")
new = draw.picture(images[-1], 0.6, 0.75, 0.85, "new image")
networks = [draw.box("frozen network", 2.1, y, 1.2, 0.45) for y in (2.2, 0.75)]
patches = [draw.stack("patch features", 3.6, y, 0.5, 0.5) for y in (2.2, 0.75)]
coreset = draw.box("greedy coreset", 5.2, 2.2, 1.2, 0.45)
bank = draw.stack("", 6.9, 2.2, 0.25, 0.5, colour="#E69F00")
nearest = draw.box("distance to the\nnearest in the bank", 6.9, 0.75, 1.5, 0.5, "#FBE3C0")
score = draw.box("anomaly map,\nimage score", 8.35, 0.75, 1.0, 0.5)
for start, end in ((good, networks[0]), (networks[0], patches[0]), (patches[0], coreset), (coreset, bank)):
    draw.arrow(start, end)
for start, end in ((new, networks[1]), (networks[1], patches[1]), (patches[1], nearest), (nearest, score)):
    draw.arrow(start, end)
draw.arrow(bank, nearest, dashed=True)
draw.text("memory bank", 7.8, 2.2)
draw.text("fit", 0.3, 2.75)
draw.text("score", 0.4, 1.3)
draw.figure

# %% [markdown]
# Nothing is trained. Fitting means to gather and to choose (upper row); scoring means to compare with all that was kept (lower row).
#
# ## The greedy coreset, by hand
#
# There are too many patches to keep all. The **greedy coreset** (algorithm 1) keeps a few from which no other patch is far: begin with any
# point, then always take the point whose nearest taken point is farthest away. On 300 points in the plane, of which 20 form a small group:

# %%
rng = np.random.default_rng(0)
points = np.concatenate([rng.normal(0, 1, (280, 2)), rng.normal(4, 0.3, (20, 2))]).astype(np.float32)
taken, distance = [0], np.linalg.norm(points - points[0], axis=1)
while len(taken) < 12:
    taken.append(int(distance.argmax()))
    distance = np.minimum(distance, np.linalg.norm(points - points[taken[-1]], axis=1))
assert list(greedy(torch.from_numpy(points), 12, first=0)) == taken


def radius(chosen):
    """Distance of the point that is farthest from all chosen ones."""
    return np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(1).max()


# %%
draws = [rng.choice(len(points), 12, replace=False) for _ in range(1000)]
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
for axis, coreset, name in zip(axes, (taken, draws[0]), ("greedy", "random"), strict=True):
    axis.scatter(*points.T, s=8, color=plotting.GOOD, alpha=0.4, label="points")
    axis.scatter(*points[coreset].T, s=60, marker="X", color=plotting.DEFECT, label="chosen")
    axis.set_title(f"{name}: all points within {radius(coreset):.2f} of a chosen one")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
worse = np.mean([radius(coreset) > radius(taken) for coreset in draws])
missed = np.mean([not any(point >= 280 for point in coreset) for coreset in draws])
print(f"1,000 random choices: {worse:.1%} leave a point farther away, {missed:.1%} miss the small group")
lesson("random choices leave a point farther away in more than 95 of 100 cases", worse > 0.95, run, source)

# %% [markdown]
# A memory that misses the small group gives every patch like those a high score. The greedy choice takes such rare points early.
#
# ## PatchCore at scale

# %%
memories = {
    name: benchmark.run(detector, tables[name], SEEDS, data_source=source, keep_models=True)
    for name in (categories if run.name == "full" else dict.fromkeys((first, turning)))
}
first_result, turning_result = memories[first], memories[turning]
memory, labels = turning_result.detectors[0], turning_result.labels
images = memory.load(list(turning_result.table["image_path"]))
patches = turning_result.report["images"]["train"] * memory.grid[0] * memory.grid[1]
print(f"{turning}: {len(memory.bank):,} of {patches:,} patches kept, {memory.bank.shape[1]} numbers each")

# %% [markdown]
# The score of an image, by hand. $m^{test,*}$ is its patch that is farthest from the memory, $m^*$ the remembered patch nearest to it. Equation (7)
# multiplies the distance by a weight below 1. The weight is smaller where the memory is dense: where the $b$ nearest patches $N_b$ of $m^*$ in the
# memory are about as close to the new patch as $m^*$ itself. The cell below prints the weight: here it is close to 1.
#
# $$s=\Bigl(1-\frac{e^{\lVert m^{test,*}-m^*\rVert}}{\sum_{m\in N_b(m^*)}e^{\lVert m^{test,*}-m\rVert}}\Bigr)\lVert m^{test,*}-m^*\rVert .$$

# %%
defective = int(np.flatnonzero(labels == 1)[0])
layers = memory.network(images[[defective]])
features = patch_features(layers, memory.layers, memory.neighbourhood)[0].flatten(0, 1)  # patches × numbers
bank, features = memory.bank.double().numpy(force=True), features.double().numpy(force=True)
distances = np.stack([np.linalg.norm(bank - patch, axis=1) for patch in features])  # patches × bank
odd = distances.min(1).argmax()  # m^test,*
star = distances[odd].argmin()  # m*
around = np.linalg.norm(bank - bank[star], axis=1).argsort()[: memory.neighbours]  # N_b(m*)
weight = 1 - np.exp(distances[odd, star]) / np.exp(distances[odd, around]).sum()
by_hand, by_package = weight * distances[odd, star], turning_result.scores[0, defective]
print(f"distance {distances[odd, star]:.3f} × weight {weight:.3f} = {by_hand:.3f}, package {by_package:.3f}")
assert np.isclose(by_hand, by_package, rtol=1e-2)

# %% [markdown]
# ## Still parts and parts at any angle
#
# A memory does not use the position of a patch. So it should also work where the autoencoder was no better than chance:

# %%
for name, result in memories.items():
    auroc = result.report["metrics"]["image_auroc"]
    print(f"{name}: image AUROC of PatchCore {metrics.format_metric(auroc)}, {len(SEEDS)} seeds")
lowest = min(result.report["metrics"]["image_auroc"]["low"] for result in memories.values())
lesson("PatchCore detects on all of them: every interval begins above .65", lowest > 0.65, run, source)
map_scale = {"anomaly map": plotting.map_scale(turning_result.maps[0])}  # one for all test images


def show(chosen, titles):
    """Test images of the product and their anomaly maps."""
    rows = {"image": images[chosen], "anomaly map": turning_result.maps[0][chosen]}
    masks = None if turning_result.masks is None else turning_result.masks[chosen]
    return plotting.picture_rows(rows, titles=titles, masks=masks, scales=map_scale)


show(five, titles)

# %% [markdown]
# On these defective parts the brightest place lies inside or near the outline. How far is PatchCore ahead of the methods of the other notebooks on such parts?

# %%
loaded = [
    result for result in benchmark.load_results(inputs.values(), data) if result.row in ("padim", "autoencoder", "vae")
]
gaps = {}
for other in (result for result in loaded if result.category == turning):
    gap = gaps[other.row] = compare.paired([turning_result, other]).iloc[0]
    word = metrics.verdict(gap["low"], gap["high"])
    print(f"{turning}: PatchCore − {other.row}: {metrics.format_metric(gap)}: {word}")
if "padim" in gaps:
    lesson("at any angle PatchCore is ahead of PaDiM", gaps["padim"]["low"] > 0, run, source)
if "autoencoder" in gaps:
    lesson("at any angle PatchCore is ahead of the autoencoder", gaps["autoencoder"]["low"] > 0, run, source)

# %% [markdown]
# ## A failure case: what it takes for good
#
# The four defective parts with the lowest scores, and the good part with the highest:

# %%
mean_scores = turning_result.scores.mean(0)  # over seeds
order = np.argsort(mean_scores)
missed = [*order[labels[order] == 1][:4], order[labels[order] == 0][-1]]
share = np.mean(mean_scores[labels == 1] < mean_scores[labels == 0].max())
print(f"{share:.0%} of the defective parts score below the highest good one")
print("scores, left to right:", ", ".join(f"{mean_scores[i]:.1f}" for i in missed))
show(missed, list(turning_result.table["defect"][missed]))

# %% [markdown]
# The image score is (apart from its weight) the largest distance of any patch. So a defective part scores below a good one when none of its
# patches is as far from the memory as the farthest patch of the good part. In the last column a good part has a patch that is far from all that was kept.
#
# ## One table
#
# Autoencoder, VAE, PCA, PatchCore and PaDiM on the same images of the first product, each at the size and crop of its own
# settings. PCA is the linear autoencoder of notebook 03: 64 components, at the size and with the map of the autoencoder. A method whose file
# is not at hand is left out. The *trivial* rows use no network (notebook 01).

# %%
small = Autoencoder.preset(run.name)
rows = tables[first]
train, test = (small.load(list(rows[rows["split"] == part]["image_path"])) for part in ("train", "test"))
begun = time.perf_counter()
flat = train.reshape(len(train), -1) / 255
mean, components = flat.mean(0), np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:64]
fitted = time.perf_counter()
drawn = ((test.reshape(len(test), -1) / 255 - mean) @ components.T @ components + mean).clip(0, 1)
drawn = (255 * drawn).round().astype(np.uint8).reshape(test.shape)
maps = difference_map(small.map, as_tensor(test), as_tensor(drawn)).numpy(force=True)
maps = smooth(maps, small.sigma)
seconds = {"fit": fitted - begun, "score": time.perf_counter() - fitted}

# %%
masks = loading.load_masks(first_result.table, small.image_size, small.crop)
about = {"promises": False, "train": len(train), "data_source": source, "seconds": seconds}
about["model_bytes"] = 4 * (mean.size + components.size)  # as float32
pca = make_result("pca", first_result.table, {0: Scores(peak(maps), maps)}, {}, masks, row="pca-64", **about)
methods = [first_result, *(result for result in loaded if result.category == first), pca]
lines = {}
for result in methods:
    known = result.report["metrics"]
    lines[result.row] = {key: metrics.format_metric(known[key]) if key in known else "–" for key in benchmark.METRICS}
    lines[result.row]["seeds"] = len(result.seeds)
for name, value in first_result.report["trivial"].items():
    lines[f"trivial: {name}"] = {"image_auroc": metrics.format_number(value)}
pd.DataFrame(lines).T.fillna("–").rename(
    columns={"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AUPRO"}
)

# %% [markdown]
# *AUPRO* is the share of a defect's region that is found, averaged over all regions and over false-positive rates up to .3. Which rows
# differ? These are differences of the image AUROC, with intervals from the same resamples of the test images:

# %%
for row in compare.paired(methods).query("first == 'patchcore' or second == 'pca-64'").itertuples():
    print(f"{row.first} − {row.second}: {metrics.format_metric(row._asdict())}: {metrics.verdict(row.low, row.high)}")

# %% [markdown]
# ## The price

# %%
price = pd.DataFrame({result.row: compare.cost(result) for result in methods}).T
price = price[["fit_seconds", "milliseconds", "model_mb"]].round({"fit_seconds": 1, "milliseconds": 1, "model_mb": 1})
price.columns = ["fit, s", "ms an image", "model, MB"]
price

# %% [markdown]
# Seconds were measured on the machine that made each artifact. The megabytes are those of the model; PaDiM and PatchCore also need their
# frozen network, which was trained elsewhere. Autoencoder and VAE need time for training; PatchCore needs time for every image, because it
# compares each patch with the whole bank. How do the maps differ? Each row has a scale of its own:

# %%
shown = [
    *np.flatnonzero(first_result.labels == 0)[:2],
    *first_result.table.query("label == 1").groupby("defect").head(1).index[:3],
]
rows = {"image": first_result.detectors[0].load(list(first_result.table["image_path"][shown]))}
all_maps = {result.row: result.maps[0].astype(np.float32) for result in methods if result.maps}
outlines = None if first_result.masks is None else first_result.masks[shown]
plotting.picture_rows(
    rows | {name: maps[shown] for name, maps in all_maps.items()},
    titles=list(first_result.table["defect"][shown]),
    masks=outlines,
    scales={name: plotting.map_scale(maps) for name, maps in all_maps.items()},
    size=1.3,
)

# %% [markdown]
# Maps of reconstructions are finer, and bright along edges that are not reconstructed exactly, on good bottles too. Maps of features are
# coarser, and darker on good bottles than on defects.
#
# ## Yours, reported, verdict
#
# PatchCore is compared where coreset, layers and sizes are those of the published result. In *full* it is also measured with
# the published recipe, on torchvision's ResNet-18; *quick* downloads nothing.

# %%
as_published = {}
if run.name == "full":
    peer = Patchcore.preset("resnet18")
    as_published = where_possible(
        lambda name: benchmark.run(peer, tables[name], SEEDS, data_source=source, row="patchcore-resnet18"), categories
    )
published.verdicts([result.report for result in [*memories.values(), *as_published.values()]], by="row")

# %% [markdown]
# What was measured on **real** products stands in [`docs/results.md`](../docs/results.md).
#
# ## Exercises
#
# These go on with what this notebook holds. [Lab 03](../course/labs/03_autoencoder.ipynb) has more, on small arrays, with checks that say what differs.
#
# **1.** How much does PatchCore have to remember? Fit it with a tenth, and with a hundredth, of the patches that it keeps now.
#
# <details><summary>Solution</summary>
#
# ```python
# rows = tables[turning]
# good, seen = (list(rows[rows["split"] == split]["image_path"]) for split in ("train", "test"))
# for share in (1, 1 / 10, 1 / 100):
#     smaller = Patchcore(**memory.options() | {"coreset": memory.coreset * share}).fit(good)
#     auroc = metrics.evaluate(labels, [smaller.score(seen).image])["image_auroc"]
#     print(len(smaller.bank), metrics.format_metric(auroc))
# ```
# A memory that is too small is far from good patches as well, and its good parts score high. Whether the difference is decided, `compare.paired` says.
# </details>
#
# **2.** Is the weight of equation (7) worth its effort? Set `neighbours` to 1: the package then leaves the weight out.
#
# <details><summary>Solution</summary>
#
# ```python
# from dataclasses import replace
#
# plain = benchmark.run(replace(detector, neighbours=1), tables[turning], SEEDS, data_source=source, row="unweighted")
# gap = compare.paired([turning_result, plain]).iloc[0]
# print(metrics.format_metric(gap), metrics.verdict(gap["low"], gap["high"]))
# ```
# The weight printed above is close to 1: at such distances $e^{\lVert m^{test,*}-m^*\rVert}$ is small beside the sum of the others.
# </details>
#
# ## Save the artifact
#
# The memory of each product, with its threshold; `detect`, 08 and 09 read it.

# %%
known = {"profile": run.name, "inputs": [data], "models": True, "maps": "first"}
artifacts.download(benchmark.save_results("patchcore", list(memories.values()), **known))
restored, description = load_model(artifacts.load("patchcore", profile=run.name), method="patchcore", category=first)
same = restored.score(list(first_result.table["image_path"][:5])).image
assert np.allclose(same, first_result.scores[0, :5], rtol=1e-5)
print(f"the model from the file gives the same scores; its threshold is {description['threshold']['value']:.3g}")

# %% [markdown]
# ## The same on the command line
#
# In a terminal, `fit` learns from the good images of a folder and writes a model with its threshold, and `detect` judges
# any image and draws its anomaly map. A line that begins with `!` is such a command. This model has smaller images and a smaller coreset
# than the one above, so their scores cannot be compared:

# %%
python, folder = sys.executable, os.path.relpath(transfer_folder())
photographs = os.path.relpath(root)
for name in ("demo.zip", "demo.gif"):  # of an earlier run
    (transfer_folder() / name).unlink(missing_ok=True)
# !{python} -m mvtec_ad fit patchcore --category "{first}" --root "{photographs}" --image-size 96 --coreset 0.01 --out "{folder}/demo.zip" 2> {os.devnull}
assert os.path.isfile(f"{folder}/demo.zip"), "the command failed: run it without its end, from 2> on, to see why"

# %%
good_image, defective_image = map(os.path.relpath, first_result.table["image_path"].iloc[[shown[0], shown[-1]]])
# !{python} -m mvtec_ad detect "{folder}/demo.zip" "{good_image}" "{defective_image}" --heat-maps none --animation "{folder}/demo.gif"
Image(filename=f"{folder}/demo.gif")

# %% [markdown]
# `python -m mvtec_ad --help` lists the rest; options, layouts and formats stand in [`docs/command_line.md`](../docs/command_line.md).
#
# ## Recap
#
# In this notebook we have
#
# * chosen a coreset by hand, and found the package's choice;
# * computed PatchCore's score by hand, and found the package's number;
# * measured it on parts that lie still and on parts at any angle, and looked at what it misses;
# * put reconstruction beside features on the same images, with paired verdicts and prices;
# * fitted and used a detector from the command line.
#
# **Limits.** The comparison is of these settings on these images; each method could be tuned. Settings of the autoencoder were chosen by results on *real*
# bottles (notebook 03). PatchCore's bank grows with the number of good images, and with it the time for every image.
#
# **Next:** [04](04_supervised_classifier.ipynb) has labels, a few of them, and asks what they are worth.
