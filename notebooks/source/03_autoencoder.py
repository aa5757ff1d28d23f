# %% [markdown]
# # 03 · Autoencoder, VAE, PatchCore: what cannot be redrawn is a defect
#
# <!-- badge -->
#
# A network that has only ever drawn good bottles is asked to draw a broken one. If it draws a good bottle instead, the difference
# is the defect. In this notebook we will
#
# * **squeeze** images into a few numbers and draw them again: first with linear algebra, then with a convolutional autoencoder;
# * **measure** what is left over: absolute error, SSIM derived by hand, error in the eyes of another network;
# * **turn pictures into numbers**: AUROC with intervals, and a threshold that has seen no defect;
# * **watch it fail** three times: parts that lie at any angle, a network so strong that it redraws the defect too, and a variational
#   autoencoder that has collapsed;
# * **compare** with PCA, and with methods that draw nothing: PatchCore, by hand and at scale, and PaDiM.
#
# **It reads** `data.zip` of [01 · Data preparation](01_data_preparation.ipynb) and `padim.zip` of [02 · PaDiM](02_padim.ipynb); what is missing is made here.
# Profile *quick*: a minute and a half on a CPU, drawn products. Profile *full*: real MVTec AD, seven products, a GPU.
#
# The methods: Bergmann, Löwe, Fauser, Sattlegger, Steger, *Improving Unsupervised Defect Segmentation by Applying Structural
# Similarity To Autoencoders*, 2019, [arXiv:1807.02011](https://arxiv.org/abs/1807.02011); Kingma, Welling, *Auto-Encoding
# Variational Bayes*, 2013, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114); Roth et al., *Towards Total Recall in
# Industrial Anomaly Detection*, 2022, [arXiv:2106.08265](https://arxiv.org/abs/2106.08265).

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from mvtec_ad import artifacts, benchmark, metrics, plotting, profile
from mvtec_ad.benchmark import compare, published
from mvtec_ad.config import pin
from mvtec_ad.data import index, loading, prepare
from mvtec_ad.methods import load_model
from mvtec_ad.methods.autoencoder import Autoencoder, Vae, difference_map, divergence
from mvtec_ad.methods.base import as_tensor, peak, smooth
from mvtec_ad.methods.patchcore import Patchcore, greedy, patch_features
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}

run = profile(PROFILE, CATEGORIES)
pin(run)
detector = Autoencoder.preset(run.name)
seeds = run.seeds  # of weights, batches and held-out images
data, padim = need(run, "data", "padim", other_profile=OTHER_PROFILE).values()
source = data.manifest["data_source"]
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
root = prepare.unpack(data)
tables = where_possible(lambda name: benchmark.check_measurable(detector, index.read_category(root, name)), wanted)
categories = list(tables)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}, images: {source}, categories: {', '.join(categories)}")
print(
    f"{detector.crop} px into {detector.latent} numbers, {detector.steps} steps; loss {detector.loss}, map {detector.map}"
)
if not categories:
    leave_out_rest("it measures, and no category is left")

# %% [markdown]
# ## Five images first

# %%
first = categories[0]
turning = "screw" if "screw" in categories else categories[-1]  # lies at any angle


def images_of(name, size, crop=None):
    """Good training images, test images, masks and the table of the test images, at `size` pixels."""
    rows = tables[name]
    train, test = rows[rows["split"] == "train"], rows[rows["split"] == "test"].reset_index(drop=True)
    pixels = [loading.load_images(list(part["image_path"]), size, crop) for part in (train, test)]
    return *pixels, loading.load_masks(test, size, crop), test


train, test, masks, test_rows = images_of(first, detector.crop)
if masks is None:
    print(f"{first} has no masks: outlines and the figures of its pixels are left out")
    masks = np.zeros(test.shape[:3], bool)
labels, defects = test_rows["label"].to_numpy(), list(test_rows["defect"])
by_size = [rows.index[masks[rows.index].sum((1, 2)).argmax()] for _, rows in test_rows[labels == 1].groupby("defect")]
six = [*np.flatnonzero(labels == 0)[:2], *by_size, *np.flatnonzero(labels == 1)[:1]][:6]
titles = [defects[i] for i in six]
plotting.gallery(test[six[:5]], titles=titles[:5], masks=masks[six[:5]], columns=5)

# %% [markdown]
# ## PCA: the idea, without a network
#
# An **encoder** $f$ turns an image $x$ into a short vector, a **decoder** $g$ draws it again, and both are chosen so that
# good images come back as they were:
#
# $$\min_{f,g}\ \sum_{x\ \text{good}} \lVert x-g(f(x))\rVert^2 .$$
#
# If $f$ and $g$ are linear, nothing needs to be trained: the best $k$ numbers are the first $k$ principal components (Baldi and
# Hornik 1989), and what is lost is exactly the sum of the squared singular values that were dropped. On small gray images:

# %%
import cv2


def small_gray(images):
    """Gray, 32×32 pixels, (N, 1024) float in [0, 1]."""
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    small = [cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in gray]
    return np.stack(small).reshape(len(images), -1) / 255.0


X, Y = small_gray(train), small_gray(test)
mean = X.mean(0)
U, S, V = np.linalg.svd(X - mean, full_matrices=False)


def squeezed(x, k):
    """Encode into k numbers, decode."""
    return (x - mean) @ V[:k].T @ V[:k] + mean


k = 10
lost = np.square(X - squeezed(X, k)).sum()
print(f"{k} numbers of {X.shape[1]}: lost {lost:.4f}, the dropped singular values say {np.square(S[k:]).sum():.4f}")
assert np.isclose(lost, np.square(S[k:]).sum())

rows = {"seen": Y[six]} | {f"{k} numbers": squeezed(Y[six], k) for k in (2, 10, 40)}
rows["left over of 10"] = np.abs(Y[six] - squeezed(Y[six], 10))
pictures = {name: np.repeat(values.reshape(-1, 32, 32, 1).clip(0, 1), 3, 3) for name, values in rows.items()}
pictures["left over of 10"] = rows["left over of 10"].reshape(-1, 32, 32)  # a map: shown as heat
plotting.picture_rows(pictures, titles=titles, size=1.2)

# %% [markdown]
# The decoder has directions in which good bottles vary, and none for a hole in the rim. It draws what it can, and the rest is left
# over. Everything that follows is this picture with another $f$ and $g$; whether they are *better* ones is asked in the last table.
#
# ## A convolutional autoencoder
#
# Five convolutions with stride 2 halve the image again and again, a linear layer makes the vector, and the same way back. The
# network draws the *difference* to the mean good image, as PCA does; otherwise a thousand steps go into learning the
# background. The loss of an image is its squared error summed over all values, to which SSIM is added (next section). Part of
# the good images is held out: they say when to stop, and later where the threshold lies.

# %%
results = {
    name: benchmark.run(detector, tables[name], seeds, data_source=source, keep_models=True) for name in categories
}
first_result = results[first]
model, scores = first_result.detectors[0], first_result.scores[0]
network = model.network
print(
    f"{sum(p.numel() for p in network.parameters()):,} weights; grid {network.grid}, bottleneck: {network.bottleneck} numbers of {test[0].size}"
)
plotting.training_curves(
    {name: results[name].detectors[0].curve for name in dict.fromkeys((first, turning))}, what="loss of an image"
)

# %% [markdown]
# The circles mark the weights that are kept: the lowest loss on good images that were not trained on. When the line goes on falling and
# the dots do not, the network has begun to learn its images by heart. (In *quick* everything runs on one CPU thread: another number of
# threads adds up in another order, and after a hundred steps the second decimal may differ.)
#
# ## Absolute error and SSIM: two anomaly maps

# %%
reconstructions = model.reconstruct(test[six])
pixels = [as_tensor(images) for images in (test[six], reconstructions)]
rows = {
    "seen": test[six],
    "redrawn": reconstructions,
    "absolute error": difference_map("absolute", *pixels).numpy(force=True),
    "1 − SSIM": difference_map("ssim", *pixels).numpy(force=True),
}
plotting.picture_rows(rows, titles=titles, masks=masks[six])

# %% [markdown]
# Look at the second row: the bottles have hardly any defects left, and hardly any detail. The third row is the difference that the first
# papers used; the fourth is what the next section derives.
#
# ## SSIM, by hand
#
# The absolute error asks *how different is this pixel*. A scratch of low contrast differs little, and a sharp edge that is redrawn half a pixel
# off differs a lot. **SSIM** (Wang et al. 2004, eq. 13) compares small windows instead: do they have the same
# mean $\mu$, and do they vary together?
#
# $$\mathrm{SSIM}(x,y)=\frac{(2\mu_x\mu_y+C_1)(2\sigma_{xy}+C_2)}{(\mu_x^2+\mu_y^2+C_1)(\sigma_x^2+\sigma_y^2+C_2)},
# \qquad C_1=0.01^2,\ C_2=0.03^2 .$$
#
# One window of 11×11 pixels with Gaussian weights, around a pixel inside a defect:

# %%
defective = next(i for i in six if labels[i])
rows_, columns_ = np.nonzero(masks[defective] | ~masks[defective].any())  # without a mask the middle of the image
y, x = (int(np.clip(np.median(v), 5, detector.crop - 6)) for v in (rows_, columns_))
offsets = np.arange(-5, 6)
weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
weights /= weights.sum()


def ssim_of(a, b):
    """Of two 11×11 windows, values in [0, 1]."""
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    together = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_a * mean_b + c1) * (2 * together + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


window = slice(y - 5, y + 6), slice(x - 5, x + 6)
pair = test[defective] / 255.0, reconstructions[six.index(defective)] / 255.0
by_hand = 1 - np.mean([ssim_of(pair[0][window][..., c], pair[1][window][..., c]) for c in range(3)])
by_package = rows["1 − SSIM"][six.index(defective)][y, x]
print(f"1 − SSIM at row {y}, column {x}: by hand {by_hand:.6f}, package {by_package:.6f}")
assert np.isclose(by_hand, by_package, atol=1e-4)

# %% [markdown]
# Same network, same drawing, another ruler. How much does the ruler matter?

# %%
by_ruler = {f"map: {name}": model.score_as(test, name).image for name in ("absolute", "ssim")}
plotting.roc_and_pr(labels, by_ruler)

# %%
resamples = metrics.resample_weights(labels, 2000)


def difference(what, first_scores, second_scores):
    """Image AUROC of the first above that of the second, on the same draws of test images, and a verdict."""
    both = first_scores, second_scores
    draws = [metrics.resampled_ranking(labels, values, resamples)["image_auroc"] for values in both]
    points = [metrics.image_auroc(labels, values) for values in both]
    gap = metrics.paired_difference(*draws, *points, int(labels.sum()))
    word = "ahead" if gap["low"] > 0 else "behind" if gap["high"] < 0 else "undecided"
    print(f"{what}: {metrics.format_metric(gap)}: {word}")


difference("SSIM − absolute error", by_ruler["map: ssim"], by_ruler["map: absolute"])

# %% [markdown]
# ## Image score and threshold: from a picture to a verdict
#
# The score of an image is the peak of its smoothed map. Scores of images that were *trained on* are too low to set a threshold with; the held-out
# ones are not. (They chose the moment to stop, one number out of a handful: the promise is very nearly, not exactly,
# that of notebook 02.)

# %%
threshold = metrics.calibrated(model.good_scores, 0.05)
plotting.score_histogram(labels, scores, calibrated=threshold, oracle=metrics.oracle(labels, scores))

# %%
pd.DataFrame(first_result.report["thresholds"]).T.round(3)

# %% [markdown]
# ## Several products

# %%
benchmark.metrics_table(results)

# %% [markdown]
# Read the last row first, as always: it is the best score without any model.

# %%
both = {name: results[name].report["metrics"]["image_auroc"] for name in dict.fromkeys((first, turning))}
for name, auroc in both.items():
    print(f"{name}: image AUROC of the autoencoder {metrics.format_metric(auroc)}")
lesson(
    "the autoencoder finds defects where parts lie still: the interval begins above .65",
    both[first]["low"] > 0.65,
    run,
    source,
)
lesson(
    "where they lie at any angle it guesses: the interval holds one half",
    both[turning]["low"] < 0.5 < both[turning]["high"],
    run,
    source,
)

# %%
other = results[turning]
other_test = detector.load(list(other.table["image_path"]))
kinds = other.table[other.labels == 1].groupby("defect").head(1).index[:4]  # one of each kind of defect
shown = [*np.flatnonzero(other.labels == 0)[:2], *kinds]
plotting.picture_rows(
    {
        "seen": other_test[shown],
        "redrawn": other.detectors[0].reconstruct(other_test[shown]),
        "anomaly map": other.maps[seeds[0]][shown],
    },
    titles=list(other.table["defect"].iloc[shown]),
    masks=None if other.masks is None else other.masks[shown],
)

# %% [markdown]
# **This is the failure case.** A screw may lie at any angle, and a good screw at a new angle is as new to the network as a defect. It draws a
# blurred average of what it knows; the error is large on *every* screw, and the scores are no better than chance.
#
# ## The bottleneck: a network that redraws everything
#
# Why squeeze at all? Let us give the network more and more room, up to a grid of numbers that is large enough to copy the image. All have 64 pixels
# and a squared error as loss; the grid has one layer down and one up, and takes more and smaller steps. *Explained* is the share of what sets an
# image apart from the mean good one that the drawing shows: 1 is a copy, 0 the mean image.

# %%
tiny = detector.options() | {"loss": "mse", "width": 8, "depth": 4, "steps": 120, "patience": 0}
tiny |= {"image_size": 64, "crop": 64, "sigma": 1.0}
small_train, small_test, *_ = images_of(first, 64)
mean_good = small_train.mean(0)
copy_scores = {}


def trained(name, **changes):
    """Train at 64 pixels; what it explains, AUROC of both maps, and the drawings."""
    autoencoder = Autoencoder(**tiny | changes).fit(small_train)
    drawings = autoencoder.reconstruct(small_test)
    left, total = (np.square(small_test - other.astype(float)).sum((1, 2, 3)) for other in (drawings, mean_good))
    row = {"numbers": autoencoder.network.bottleneck}
    for label, word in enumerate(("good", "defective")):
        row[f"explained, {word}"] = round(1 - left[labels == label].sum() / total[labels == label].sum(), 2)
    for ruler in ("absolute", "ssim"):
        copy_scores[name, ruler] = autoencoder.score_as(small_test, ruler).image
        row[ruler] = metrics.format_metric(metrics.evaluate(labels, [copy_scores[name, ruler]])["image_auroc"])
    return name, row, drawings[six[1:]]


sizes = [trained(f"{n} numbers", latent=n) for n in (4, 32, 256)]
copier = {
    "latent": 0,
    "depth": 1,
    "width": 16,
    "batch_images": 4,
    "lr": 0.03,
    "steps": 1200,
}  # the last grid is the code
sizes.append(trained("grid 32×32", **copier))
pd.DataFrame({name: row for name, row, _ in sizes}).T

# %%
rows = {"seen": small_test[six[1:]]} | {name: pictures for name, _, pictures in sizes}
plotting.picture_rows(rows, titles=titles[1:], size=1.2)

# %%
squeezed_row, grid_row = sizes[1][1], sizes[-1][1]
explained = [[row[f"explained, {word}"] for word in ("good", "defective")] for row in (squeezed_row, grid_row)]
lesson("the grid explains most of good and of defective images", min(explained[1]) > 0.8, run, source)
lesson(
    "32 numbers explain less of the defective ones than the grid", explained[0][1] < explained[1][1] - 0.1, run, source
)
for ruler in ("absolute", "ssim"):
    difference(
        f"32 numbers − grid 32×32, {ruler}", *(copy_scores[name, ruler] for name in ("32 numbers", "grid 32×32"))
    )

# %% [markdown]
# The grid sees only a neighbourhood at a time and copies it: it explains as much of a defective image as of a good one, and the last row of pictures
# shows the broken glass and the dirt *again*; what is left over of a copy is left over of good parts too. The squeezed networks explain less of
# everything, and of defective images a little less than of good ones. **More room is not a better detector**; how much worse it is here say the
# differences above.
#
# ## Denoising and masking: a network that must repair
#
# A network that must *repair* its input cannot get away with copying it. The same strong network, but squares of its input are painted
# over, or noise is added, and the clean image is asked for:

# %%
hidden = [trained(f"grid, {kind}", corruption=kind, **copier) for kind in ("noise", "mask")]
compared = [sizes[-1], *hidden]
for name, *_ in hidden:
    difference(f"{name} − grid 32×32, ssim", copy_scores[name, "ssim"], copy_scores["grid 32×32", "ssim"])
pd.DataFrame({name: row for name, row, _ in compared}).T

# %%
rows = {"seen": small_test[six[1:]]} | {name: pictures for name, _, pictures in compared}
plotting.picture_rows(rows, titles=titles[1:], size=1.2)

# %% [markdown]
# Both explain less than the plain copier, of good and defective images alike; whether that makes a better detector is what the differences say.
# On real bottles, with more training images, a comparison of this kind stands in
# [`docs/results.md`](../docs/results.md#reconstruction). Hiding part of the input is what later methods build on (RIAD, DRÆM, masked
# transformers); it needs larger networks and longer training than this one.
#
# ## The loss: squared error, SSIM, or both
#
# In this sweep SSIM was a ruler only. It can be the loss as well, alone or beside the squared error, as it was for the first network of this
# notebook. The same network with the other losses, and both rulers for each. (The difference in the eyes of a network that knows textures
# can be a loss too: `loss="features"`. It trains for several times as long.)

# %%
losses = {detector.loss: first_result}
for loss in sorted({"mse", "mse+ssim", "ssim"} - {detector.loss}):
    other_loss = Autoencoder(**detector.options() | {"loss": loss})
    named = {"row": f"autoencoder-{loss}", "data_source": source}  # the row of that name in notebook 09
    losses[loss] = benchmark.run(other_loss, tables[first], seeds, keep_models=True, **named)
lines = {}
for loss, result in sorted(losses.items()):
    trained_with = result.detectors[0]
    of_rulers = {ruler: trained_with.score_as(test, ruler).image for ruler in ("absolute", "ssim")}
    lines[loss] = {
        ruler: metrics.format_metric(metrics.evaluate(labels, [values])["image_auroc"])
        for ruler, values in of_rulers.items()
    }
by_loss = compare.paired(list(losses.values()))
print(
    f"loss: {by_loss['differs'].sum()} of {len(by_loss)} differences exclude 0, all scored with the map {detector.map}"
)
pd.DataFrame(lines).T

# %% [markdown]
# Go along a row to see what the ruler does, down a column for the loss. The squared error together with SSIM is the default here because its image
# AUROC came out first on real bottles, by very little: see [`docs/results.md`](../docs/results.md#reconstruction).
#
# ## The setting that is reported
#
# Notebooks on MVTec AD often train on *all* good images, for 100 epochs, with a squared error, and look at the absolute error. No good image is left to
# set a threshold with then, so none is promised. In *full* this setting, `Autoencoder.preset("reported")`, stands beside ours on every product; for *quick*
# its hundreds of steps at 128 pixels take too long.

# %%
reported, lines = {}, {}
for name in categories if run.name == "full" else ():
    as_reported = Autoencoder.preset("reported")
    reported[name] = benchmark.run(as_reported, tables[name], seeds, data_source=source, row="autoencoder-reported")
    gap = compare.paired([results[name], reported[name]]).iloc[0]
    aurocs = [row.report["metrics"]["image_auroc"] for row in (results[name], reported[name])]
    lines[name] = dict(zip(("ours", "reported setting"), map(metrics.format_metric, aurocs), strict=True))
    lines[name]["ours − reported setting"] = metrics.format_metric(gap)
    lines[name]["ours is"] = "ahead" if gap["low"] > 0 else "behind" if gap["high"] < 0 else "undecided"
pd.DataFrame(lines).T if lines else print("left out here")

# %% [markdown]
# ## A variational autoencoder, and how it collapses
#
# An autoencoder says how to draw an image, not how *probable* it is. A **VAE** encodes into a small Gaussian $N(\mu,\sigma^2)$ instead of a
# point, and pays for every number that it uses: its loss is the squared error plus the divergence from the standard
# normal distribution (appendix B of the paper),
#
# $$\mathrm{KL}=\tfrac12\sum_j\left(\mu_j^2+\sigma_j^2-\log\sigma_j^2-1\right).$$
#
# Two numbers by hand, and by summing up the definition $\int q\log\frac{q}{p}$ on a fine grid:

# %%
mu, variance = np.array([0.7, -1.2]), np.array([0.5, 2.0])
by_hand = 0.5 * (mu**2 + variance - np.log(variance) - 1).sum()
grid = np.linspace(-15, 15, 200_001)
by_sum = 0.0
for m, v in zip(mu, variance, strict=True):
    log_q = -((grid - m) ** 2) / (2 * v) - np.log(2 * np.pi * v) / 2
    log_p = -(grid**2) / 2 - np.log(2 * np.pi) / 2
    by_sum += (np.exp(log_q) * (log_q - log_p)).sum() * (grid[1] - grid[0])
by_package = float(divergence(torch.from_numpy(mu)[None], torch.from_numpy(np.log(variance))[None]))
print(f"by hand {by_hand:.6f}   by summing {by_sum:.6f}   package {by_package:.6f}")
assert np.isclose(by_hand, by_sum, atol=1e-6)
assert np.isclose(by_hand, by_package)

# %%
vae_result = benchmark.run(Vae.preset(run.name), tables[first], seeds, data_source=source, keep_models=True)
vae = vae_result.detectors[0]
sampled = vae.sample(32)
plotting.picture_rows(
    {"sampled": sampled[: len(six)], "redrawn": vae.reconstruct(test[six]), "seen": test[six]}, size=1.4
)

# %%
deviation = {
    "good images": train,
    "their drawings": vae.reconstruct(train),
    "samples": sampled,
}
deviation = {name: float((images / 255).std(0).mean()) for name, images in deviation.items()}
with torch.no_grad():
    codes, log_variance = vae.network.encode(as_tensor(test))
nats = float(divergence(codes, log_variance).mean())
active = int((codes.var(0) > 0.01).sum())  # "active units": Burda, Grosse, Salakhutdinov 2015
print("standard deviation of a pixel:", {name: f"{value:.5f}" for name, value in deviation.items()})
print(f"KL {nats:.3f} nats an image; {active} of {codes.shape[1]} numbers depend on the image")
collapsed = active == 0 and deviation["samples"] < deviation["good images"] / 10
print("posterior collapse:", "yes" if collapsed else "no")

# %% [markdown]
# Random vectors, decoded, ought to be bottles that never existed. Look at the numbers instead of the pictures: if no number of the code
# depends on the image and all samples are alike, the decoder ignores its input and draws **one** bottle, the mean. That is **posterior collapse**: paying
# for no number at all is cheaper than learning to use them, and training may end there. (Bowman et al. 2016,
# [arXiv:1511.06349](https://arxiv.org/abs/1511.06349), describe it; the usual cures are a KL term that is phased in, and patience.) What is left of the
# method is the distance to the mean image, which notebook 01 had without a network. What can be a score with a VAE, collapsed or not:

# %%
ways = {
    "peak of the map (SSIM)": vae.score_as(test, "ssim").image,
    "peak of the map (absolute)": vae.score_as(test, "absolute").image,
    "squared error": vae.score_as(test, "ssim", "error").image,
    "squared error + KL": vae.score_as(test, "ssim", "elbo").image,
}
ways["KL alone"] = ways["squared error + KL"] - ways["squared error"]
ways = {name: metrics.evaluate(labels, [values])["image_auroc"] for name, values in ways.items()}
pd.DataFrame({"image AUROC": {name: metrics.format_metric(value) for name, value in ways.items()}})

# %% [markdown]
# The squared error of a whole image is a sum over all its values, in which the few hundred of a defect drown; the peak of a map looks at the worst
# place instead. The divergence adds next to nothing to a sum that is so much larger. That a generative model's probability can fail as a score
# of strangeness is well known, collapse or not (Nalisnick et al. 2019, [arXiv:1810.09136](https://arxiv.org/abs/1810.09136)).
#
# ## PatchCore: remember instead of redrawing
#
# Why redraw at all, if one can *remember*? PatchCore keeps the feature vectors of patches of good images and asks of every new
# patch how far the nearest remembered one is. Unlike PaDiM's Gaussians, a memory does not care where a patch comes from.
#
# All patches are too many. The **greedy coreset** (algorithm 1) keeps those from which no other is far: begin anywhere, then always take the point
# that is farthest from all taken ones. By hand, on 300 points in the plane:

# %%
rng = np.random.default_rng(0)
points = np.concatenate([rng.normal(0, 1, (280, 2)), rng.normal(4, 0.3, (20, 2))]).astype(np.float32)
taken, nearest = [0], np.linalg.norm(points - points[0], axis=1)
while len(taken) < 12:
    taken.append(int(nearest.argmax()))
    nearest = np.minimum(nearest, np.linalg.norm(points - points[taken[-1]], axis=1))
by_package = greedy(torch.from_numpy(points), 12, first=0)
assert list(by_package) == taken
at_random = rng.choice(len(points), 12, replace=False)

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
for axis, coreset, name in zip(axes, (taken, at_random), ("greedy", "random"), strict=True):
    radius = np.linalg.norm(points[:, None] - points[coreset][None], axis=2).min(1).max()
    axis.scatter(*points.T, s=8, color=plotting.GOOD, alpha=0.4)
    axis.scatter(*points[coreset].T, s=60, marker="X", color=plotting.DEFECT)
    axis.set_title(f"{name}: no point is farther than {radius:.2f}")
plt.show()

# %% [markdown]
# Twelve random points forget the small group on the right, and every patch like those would be an alarm; the greedy ones do not.

# %%
patchcore = Patchcore.preset(run.name)
memories = {
    name: benchmark.run(patchcore, tables[name], seeds, data_source=source, keep_models=True)
    for name in (categories if run.name == "full" else dict.fromkeys((first, turning)))
}
memory_result = memories[first]
memory = memory_result.detectors[0]
memory_test = memory.load(list(memory_result.table["image_path"]))
print(
    f"{len(memory.bank):,} patches kept of {len(train) * memory.grid[0] * memory.grid[1]:,}, {memory.bank.shape[1]} numbers each"
)

# %% [markdown]
# The score of an image, by hand. $m^{test,*}$ is its patch that is farthest from the memory, $m^*$ the remembered patch nearest to it. Equation (7) then
# weighs the distance: where the memory itself is sparse, a distance means more,
#
# $$s=\Bigl(1-\frac{e^{\lVert m^{test,*}-m^*\rVert}}{\sum_{m\in N_b(m^*)}e^{\lVert m^{test,*}-m\rVert}}\Bigr)\lVert m^{test,*}-m^*\rVert .$$

# %%
layers = memory.network(memory_test[[defective]])
patches = patch_features(layers, memory.layers, memory.neighbourhood)[0].flatten(0, 1)
bank, patches = memory.bank.double().numpy(force=True), patches.double().numpy(force=True)
distances = np.stack([np.linalg.norm(bank - patch, axis=1) for patch in patches])
odd = distances.min(1).argmax()
star = distances[odd].argmin()
around = np.linalg.norm(bank - bank[star], axis=1).argsort()[: memory.neighbours]
weight = 1 - np.exp(distances[odd, star]) / np.exp(distances[odd, around]).sum()
by_hand = weight * distances[odd, star]
by_package = memory_result.scores[0, defective]
print(
    f"distance {distances[odd, star]:.4f}, weight {weight:.4f}, score by hand {by_hand:.4f}, package {by_package:.4f}"
)
assert np.isclose(by_hand, by_package, rtol=1e-2)

# %% [markdown]
# A memory does not care where a patch comes from. So it should work where the autoencoder guessed:

# %%
for name, result in memories.items():
    print(f"{name}: image AUROC of PatchCore {metrics.format_metric(result.report['metrics']['image_auroc'])}")
lesson(
    "PatchCore works on all of them: every interval begins above .7",
    min(result.report["metrics"]["image_auroc"]["low"] for result in memories.values()) > 0.7,
    run,
    source,
)
ahead = compare.paired([memories[turning], results[turning]]).iloc[0]
print(f"{turning}: PatchCore − autoencoder {metrics.format_metric(ahead)}")
lesson("at any angle it is ahead of the autoencoder", ahead["low"] > 0, run, source)

# %% [markdown]
# ## One table
#
# The same images and metrics; each method at the size and crop of its own settings, so that its pixels are its own. PaDiM comes from
# `padim.zip`, as notebook 02 left it. The megabytes are those of the model; PaDiM and PatchCore also need their backbone. PCA is the linear
# autoencoder of the beginning, in colour, at the size and with the map of the autoencoder.

# %%
methods = {"autoencoder": first_result, "vae": vae_result, "patchcore": memory_result}
methods |= {"padim": benchmark.Result.load(padim, category=first, row="padim")} if padim else {}

flat, flat_test = (images.reshape(len(images), -1) / 255.0 for images in (train, test))
center, components = flat.mean(0), np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:40]
from_pca = ((flat_test - center) @ components.T @ components + center).clip(0, 1).reshape(test.shape)
pca_images = [torch.from_numpy(images).permute(0, 3, 1, 2).float() for images in (test / 255.0, from_pca)]
pca_maps = smooth(difference_map(detector.map, *pca_images).numpy(), detector.sigma)
pca = metrics.evaluate(labels, [peak(pca_maps)], [pca_maps], masks if masks.any() else None)


def in_words(measured):
    """The metrics of the table, as text."""
    return [metrics.format_metric(measured[key]) if key in measured else "–" for key in benchmark.METRICS]


lines = []
for name, report in ((name, result.report) for name, result in methods.items()):
    numbers = in_words(report["metrics"])
    seconds, count = report["seconds"], len(report["seeds"])
    per_image, size = 1000 * seconds["score"] / count / len(labels), report["model_bytes"] / 1e6
    lines.append([name, *numbers, count, f"{seconds['fit'] / count:.1f}", f"{per_image:.0f}", f"{size:.1f}"])
lines.append(["PCA, 40 numbers", *in_words(pca), "–", "–", "–", "–"])
for name, value in first_result.report["trivial"].items():
    lines.append([f"trivial: {name}", metrics.format_number(value), "–", "–", "–", "–", "–", "–"])
columns = ["", "image AUROC", "pixel AUROC", "AUPRO", "seeds", "fit, s", "ms an image", "model, MB"]
pd.DataFrame(lines, columns=columns).set_index("")

# %%
all_maps = {name: result.maps[result.seeds[0]].astype(np.float32) for name, result in methods.items()}
rows = {"seen": test[six]} | {name: maps[six] for name, maps in all_maps.items()}
scales = {name: plotting.map_scale(maps) for name, maps in all_maps.items()}
plotting.picture_rows(rows, titles=titles, masks=masks[six], scales=scales)

# %% [markdown]
# Which rows are apart? The differences, on the same draws of test images, against the autoencoder:

# %%
for row in compare.paired(list(methods.values())).query("first == 'autoencoder'").itertuples():
    word = "ahead" if row.low > 0 else "behind" if row.high < 0 else "undecided"
    print(f"autoencoder − {row.second}: {metrics.format_metric(row._asdict())}: {word}")

# %% [markdown]
# Look also at *how* they fail. The drawn maps are sharp and light up wherever the drawing is not exact; the embedded ones are coarse, and calm on
# good bottles. And the price differs: autoencoder and VAE have a network to train, PatchCore has patches to choose, PaDiM needs a second or two, and both of
# these live on a network that somebody else has trained. PCA, which is trained by one line of linear algebra, is the row that a deep autoencoder has
# to beat.

# %%
print(
    f"peak memory: {max(result.report['peak_memory_gb'] for result in methods.values()):.1f} GB, of the hungriest of them"
)

# %% [markdown]
# ## Yours, reported, verdict
#
# Autoencoders are compared where loss, latent vector and size are the same, PatchCore where coreset, layers and sizes are. Of a VAE whose map is its error we found means over all categories only
# (.744 on pixels, in the PaDiM paper).

# %%
as_published = {}
if run.name == "full":  # torchvision's ResNet-18, which its hub has; `quick` downloads nothing
    peer = Patchcore.preset("resnet18")
    as_published = where_possible(
        lambda name: benchmark.run(peer, tables[name], seeds, data_source=source, row="patchcore-resnet18"), categories
    )
rows = [*results.values(), vae_result, *memories.values(), *as_published.values()]
published.verdicts([result.report for result in rows], by="row")

# %% [markdown]
# What was measured on **real** bottles, with losses, rulers and sizes, stands in
# [`docs/results.md`](../docs/results.md#reconstruction). There too the z-score per pixel and PCA are rows that a deep autoencoder hardly beats: those
# bottles lie still as well.
#
# ## Exercises
#
# **1.** How much does PatchCore have to remember? Fit it with a tenth, and with a hundredth, of the patches that it keeps now.
#
# <details><summary>Solution</summary>
#
# ```python
# rows = tables[first]
# good, seen = (list(rows[rows["split"] == split]["image_path"]) for split in ("train", "test"))
# for share in (1, 1 / 10, 1 / 100):
#     smaller = Patchcore(**memory.options() | {"coreset": memory.coreset * share}).fit(good)
#     print(len(smaller.bank), round(metrics.image_auroc(labels, smaller.score(seen).image), 3))
# ```
# A memory that is too small calls good parts strange. Try the screws as well.
# </details>
#
# **2.** Train four times as long, and set the threshold with the images that the network was trained on, as if none had been held out. It
# promises 5 % false alarms. How many are there?
#
# <details><summary>Solution</summary>
#
# ```python
# from mvtec_ad.methods.base import held_out_positions
#
# longer = Autoencoder(**detector.options() | {"steps": 480, "patience": 0}).fit(train)
# held_out = held_out_positions(len(train), longer.calibration_images(len(train)), longer.seed)
# seen = longer.score(np.delete(train, held_out, 0)).image
# normal = longer.score(test[labels == 0]).image
# for name, those in (("trained on", seen), ("held out", longer.good_scores)):
#     limit = metrics.calibrated(those, 0.05)
#     print(name, round(limit, 3), round(float((normal > limit).mean()), 3))
# ```
# The threshold from images that were trained on is the lower one, the more so the longer it trains, and good bottles pay for it.
# </details>
#
# ## Save the artifacts
#
# Both VAE and autoencoder go into `autoencoder.zip`, and PatchCore's memory into `patchcore.zip`; `detect` reads them. Of the other losses and of the
# reported setting only scores and maps are kept, as rows of their own: notebook 09 puts them side by side.

# %%
other_losses = [result for result in losses.values() if result is not first_result]
for result in other_losses:
    result.detectors.clear()  # of these only scores and maps are kept
to_save = {
    "autoencoder": [*results.values(), vae_result, *other_losses, *reported.values()],
    "patchcore": list(memories.values()),
}
for stage, rows in to_save.items():
    artifacts.download(benchmark.save_results(stage, rows, profile=run.name, inputs=[data], models=True, maps="first"))

# %%
for stage, result in (("autoencoder", first_result), ("patchcore", memory_result)):
    restored, description = load_model(artifacts.load(stage, profile=run.name), method=stage, category=first)
    assert np.allclose(restored.score(list(result.table["image_path"][:5])).image, result.scores[0, :5], rtol=1e-5)
    print(f"{stage} from the file gives the same scores; its threshold is {description['threshold']['value']:.3g}")

# %% [markdown]
# ## The same on the command line
#
# Nobody needs a notebook for this. In a terminal `fit` learns from the good images of a folder and writes a model with its threshold, and `detect` judges
# any image and draws its heat map. A line that begins with `!` is such a command; a small PatchCore takes seconds:

# %%
import os
import sys

from IPython.display import Image

from mvtec_ad.config import transfer_folder

python, folder = sys.executable, os.path.relpath(transfer_folder())
photographs = os.path.relpath(root)
for name in ("demo.zip", "demo.gif"):  # of an earlier run
    (transfer_folder() / name).unlink(missing_ok=True)
# !{python} -m mvtec_ad fit patchcore --category "{first}" --root "{photographs}" --image-size 96 --coreset 0.01 --out "{folder}/demo.zip" 2> {os.devnull}
assert os.path.isfile(f"{folder}/demo.zip"), "the command failed: without its end, from 2> on, it says why"

# %%
good_one, defective_one = map(os.path.relpath, test_rows["image_path"].iloc[[six[0], six[-1]]])
# !{python} -m mvtec_ad detect "{folder}/demo.zip" "{good_one}" "{defective_one}" --heat-maps none --animation "{folder}/demo.gif"
Image(filename=f"{folder}/demo.gif")

# %% [markdown]
# `python -m mvtec_ad --help` lists the rest; options, layouts and formats stand in [`docs/command_line.md`](../docs/command_line.md).
#
# ## Recap
#
# In this notebook we have
#
# * squeezed images into a few numbers, by linear algebra and by a network, and looked at what is left over;
# * derived SSIM, the KL divergence, the greedy coreset and PatchCore's score by hand, and found the package's numbers;
# * seen that a ruler matters, that a network which copies good images copies defects too, and that a VAE can collapse;
# * calibrated a threshold on good parts that were held out;
# * put reconstruction beside embeddings, on the same images.
#
# **Limits.** A reconstruction needs parts that lie still and look alike; where good parts vary in ways the network cannot draw, it sees defects
# everywhere. Its score is in units of drawing errors, not of defects. The comparison is of these settings on these images: each method could be tuned, and
# none was tuned on the images of this notebook. Settings were chosen with *real* bottles in sight, so those figures are a little optimistic.
#
# **Next:** 04 has labels, a few of them, and asks what they are worth.
