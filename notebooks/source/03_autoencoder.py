# %% [markdown]
# # 03 · Autoencoder and VAE: what cannot be reconstructed is a defect
#
# <!-- badge -->
#
# A network that has only ever seen good bottles is asked to draw a broken one. If it draws a good bottle instead, the difference
# is the defect. At the end of this notebook you will be able to
#
# * **compress** images into a few numbers and reconstruct them, with PCA and with a convolutional autoencoder that you train by hand;
# * **turn** an image and its reconstruction into an anomaly map: absolute error, and SSIM computed by hand;
# * **explain** why a network that reconstructs everything detects nothing;
# * **recognise** the posterior collapse of a variational autoencoder, and mend it;
# * **tell** from paired intervals which of two detectors is ahead, and when that is undecided.
#
# **It reads** `data.zip` of [01 · Data preparation](01_data_preparation.ipynb); what is missing is made here.
# Profile *quick*: a minute and a half on a CPU, drawn products. Profile *full*: real MVTec AD, seven products, a GPU.
#
# The methods: Bergmann, Löwe, Fauser, Sattlegger, Steger, *Improving Unsupervised Defect Segmentation by Applying Structural
# Similarity To Autoencoders*, 2019, [arXiv:1807.02011](https://arxiv.org/abs/1807.02011); Kingma, Welling, *Auto-Encoding
# Variational Bayes*, 2013, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114).

# %%
# <setup>

# %%
from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from mvtec_ad import artifacts, benchmark, metrics, plotting, profile
from mvtec_ad.benchmark import compare, published
from mvtec_ad.benchmark.result import make_result
from mvtec_ad.config import pin, torch_device
from mvtec_ad.data import index, loading, prepare
from mvtec_ad.methods import load_model
from mvtec_ad.methods.autoencoder import Autoencoder, Vae, difference_map, divergence
from mvtec_ad.methods.base import Scores, as_tensor, normal, peak, smooth
from mvtec_ad.notebooks import leave_out_rest, lesson, same_weights, where_possible
from mvtec_ad.stages import need
from mvtec_ad.training import warm_cosine

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
OTHER_PROFILE = False  # @param {type:"boolean"}
SEEDS = (0, 1, 2)  # of weights, batches and held-out images: every network is trained three times

run = profile(PROFILE, CATEGORIES)
pin(run)
detector = Autoencoder.preset(run.name)
data = need(run, "data", other_profile=OTHER_PROFILE)["data"]
source, root = data.manifest["data_source"], prepare.unpack(data)
wanted = [name for name in run.data.categories if name in data.manifest["categories"]]
tables = where_possible(lambda name: benchmark.check_measurable(detector, index.read_category(root, name)), wanted)
categories = list(tables)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}, images: {source}, categories: {', '.join(categories)}")
print(f"{detector.crop} px into {detector.latent} numbers, {detector.steps} steps; map {detector.map}")
if not categories:
    leave_out_rest("it measures, and no category is left")

# %% [markdown]
# ## Five images first

# %%
first = categories[0]
turning = "screw" if "screw" in categories else categories[-1]  # lies at any angle
rows = tables[first]
train_rows, test_rows = (rows[rows["split"] == part].reset_index(drop=True) for part in ("train", "test"))
train, test = (detector.load(list(part["image_path"])) for part in (train_rows, test_rows))
masks = loading.load_masks(test_rows, detector.image_size, detector.crop)
if masks is None:
    print(f"{first} has no masks: outlines and the figures of its pixels are left out")
    masks = np.zeros(test.shape[:3], bool)
labels, defects = test_rows["label"].to_numpy(), list(test_rows["defect"])

# %%
largest = [rows.index[masks[rows.index].sum((1, 2)).argmax()] for _, rows in test_rows[labels == 1].groupby("defect")]
five = [*np.flatnonzero(labels == 0)[:2], *largest, *np.flatnonzero(labels == 1)[:2]][:5]
titles = [defects[i] for i in five]
plotting.gallery(test[five], titles=titles, masks=masks[five], columns=5)

# %% [markdown]
# ## PCA: the idea, without a network
#
# An **encoder** $f$ turns an image $x$ into a short vector, a **decoder** $g$ reconstructs the image from it, and both are chosen so that
# good images come back as they were:
#
# $$\min_{f,g}\ \sum_{x\ \text{good}} \lVert x-g(f(x))\rVert^2 .$$
#
# If $f$ and $g$ are linear and the mean image is subtracted first, the best $k$ numbers are the coordinates along the first $k$
# principal components (Baldi and Hornik 1989). The squared error that remains on the training images is the sum of the squared
# singular values that were dropped:

# %%
X, Y = (images.reshape(len(images), -1) / 255.0 for images in (train, test))  # images × values
mean = X.mean(0)
S, V = np.linalg.svd(X - mean, full_matrices=False)[1:]


def pca(x, k):
    """Encode into k numbers, decode."""
    numbers = (x - mean) @ V[:k].T  # images × k
    return numbers @ V[:k] + mean  # images × values


error = np.square(X - pca(X, 10)).sum()
print(f"10 numbers of {X.shape[1]}: error {error:.3f}, dropped singular values squared {np.square(S[10:]).sum():.3f}")
assert np.isclose(error, np.square(S[10:]).sum())


# %%
def explained(reconstructions, label):
    """Share of the squared difference between test images and the mean good image that is reconstructed."""
    missed, total = (np.square(Y - other)[labels == label].sum() for other in (reconstructions, mean))
    return 1 - missed / total


from_pca = {k: pca(Y, k).clip(0, 1) for k in (2, 10, 64)}
shares = {k: [explained(images, label) for label in (0, 1)] for k, images in from_pca.items()}
pd.DataFrame(shares, ["explained, good", "explained, defective"]).T.rename_axis("numbers").round(2)

# %% [markdown]
# *Explained* is 1 for a perfect copy and 0 for the mean good image. The test images were not used to find the components.

# %%
as_pixels = {k: (255 * images).round().astype(np.uint8).reshape(test.shape) for k, images in from_pca.items()}
rows = {"image": test[five]} | {f"{k} numbers": images[five] for k, images in as_pixels.items()}
rows["error, 10 numbers"] = np.abs(test[five] / 255 - as_pixels[10][five] / 255).mean(3)
plotting.picture_rows(rows, titles=titles, masks=masks[five], size=1.3)

# %% [markdown]
# The components are directions in which good bottles vary, and a defect is no such direction. So with 10 numbers the defects are
# hardly reconstructed, and they show in the error (last row). Everything that follows repeats this with another $f$ and $g$.
#
# ## A convolutional autoencoder
#
# The encoder halves the side of the image layer by layer and ends in a vector, the **bottleneck**; the decoder goes the same way
# back. As with PCA, the decoder gives the *difference* to the mean good image; a sigmoid then keeps the values between 0 and 1.

# %%
draw = plotting.Schematic(10, 2.1)
image = draw.picture(test[five[-1]], 0.6, 1.2, 0.9, "image x\n3 × 64 × 64")
nodes = [image]
for x, size, text in ((1.8, 0.8, "32"), (2.65, 0.6, "16"), (3.4, 0.42, "8"), (4.05, 0.28, "4")):
    nodes.append(draw.stack(text, x, 1.2, size / 2, size))
nodes.append(draw.box("64\nnumbers", 4.95, 1.2, 0.8, 0.5, "#FBE3C0"))
for x, size, text in ((5.85, 0.28, "4"), (6.45, 0.42, "8"), (7.1, 0.6, "16"), (8.0, 0.8, "32")):
    nodes.append(draw.stack(text, x, 1.2, size / 2, size, colour="#CC79A7"))
nodes.append(draw.picture(as_pixels[10][five[-1]], 9.3, 1.2, 0.9, "reconstruction x̂\n3 × 64 × 64"))
for start, end in pairwise(nodes):
    draw.arrow(start, end)
draw.text("encoder f: convolutions, stride 2", 2.9, 1.9)
draw.text("decoder g: transposed convolutions", 6.95, 1.9)
draw.figure

# %% [markdown]
# Each blue or purple stack is a grid of numbers, its side written below. The same as a network in PyTorch, for images of 64 × 64 pixels:


# %%
def layer(convolution, inputs, outputs):
    """Halve (Conv2d) or double (ConvTranspose2d) the side of a grid."""
    weights = convolution(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)
    return nn.Sequential(weights, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


class SmallAutoencoder(nn.Module):
    def __init__(self, mean_image, width, latent):
        super().__init__()
        a, b, c, d = width, 2 * width, 4 * width, 8 * width  # channels: 8, 16, 32, 64
        down = [layer(nn.Conv2d, *pair) for pair in ((3, a), (a, b), (b, c), (c, d))]
        up = [layer(nn.ConvTranspose2d, *pair) for pair in ((b, a), (c, b), (d, c))][::-1]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(16 * d, latent))
        self.widen = nn.Sequential(nn.Linear(latent, 16 * d), nn.LeakyReLU(0.2), nn.Unflatten(1, (d, 4, 4)))
        self.decoder = nn.Sequential(*up, nn.ConvTranspose2d(a, 3, kernel_size=4, stride=2, padding=1))
        for weights in self.decoder[-1].parameters():
            nn.init.zeros_(weights)  # so that training begins at the mean image
        self.register_buffer("mean", torch.logit(mean_image, 0.005))

    def forward(self, images):  # B × 3 × 64 × 64, values from 0 to 1
        numbers = self.encoder(images)  # B × 64
        grid = self.widen(numbers)  # B × 64 × 4 × 4
        difference = self.decoder(grid)  # B × 3 × 64 × 64
        return torch.sigmoid(self.mean + difference)  # B × 3 × 64 × 64


# %% [markdown]
# The training loop: choose a batch of good images, reconstruct them, take the squared error of each image and its mean over the batch, and
# change the weights against the gradient of that mean. The learning rate rises at the start and then falls along a cosine. Ten steps by hand,
# and ten steps of the package from the same seed:

# %%
small = replace(Autoencoder.preset("quick"), loss="mse", steps=10, held_out=0.0, patience=0)
good = np.unique(small.load(list(train_rows["image_path"])), axis=0)  # copies count once
device = torch_device()
mean_image = torch.from_numpy(good.mean(0) / 255).permute(2, 0, 1)

torch.manual_seed(0)
network = SmallAutoencoder(mean_image, small.width, small.latent).float()
network.to(device, memory_format=torch.channels_last)
optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
for step in range(10):
    optimiser.param_groups[0]["lr"] = small.lr * warm_cosine(step, 10)
    chosen = np.random.default_rng([0, step]).permutation(len(good))[: small.batch_images]
    images = as_tensor(good[np.sort(chosen)])  # 16 × 3 × 64 × 64
    loss = (images - network(images)).square().sum((1, 2, 3)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %%
model = small.fit(good, seed=0)
assert same_weights(network, model.network) or device == "cuda"  # a GPU trains in half precision

# %% [markdown]
# So `Autoencoder(...).fit(...)` is this loop, with three additions: a part of the good images is held out, to choose when to stop and later the
# threshold; SSIM, a similarity of images that is explained below, joins the loss; and a run that was interrupted goes on where it
# stopped. Now the full training, with three seeds:

# %%
results = {
    name: benchmark.run(detector, tables[name], SEEDS, data_source=source, keep_models=True) for name in categories
}
first_result = results[first]
model, scores = first_result.detectors[0], first_result.scores[0]
weights = sum(weights.numel() for weights in model.network.parameters())
print(f"{weights:,} weights; bottleneck: {model.network.bottleneck} numbers of {test[0].size}")
plotting.training_curves(
    {name: results[name].detectors[0].curve for name in dict.fromkeys((first, turning))}, what="loss of an image"
)

# %% [markdown]
# The ringed dots mark the weights that are kept: those with the lowest loss on the held-out good images. Where the solid line goes
# on falling and the dots do not, the network has begun to memorise its training images. In *quick* training ends before that.
#
# ## From a reconstruction to an anomaly map
#
# The simplest map is the absolute error, averaged over the colours. The second map, 1 − SSIM, is explained in the next section.

# %%
reconstructions = model.reconstruct(test[five])
pair = [as_tensor(images) for images in (test[five], reconstructions)]
rows = {"image": test[five], "reconstruction": reconstructions}
rows["absolute error"] = difference_map("absolute", *pair).numpy(force=True)
rows["1 − SSIM"] = difference_map("ssim", *pair).numpy(force=True)
plotting.picture_rows(rows, titles=titles, masks=masks[five])

# %% [markdown]
# In the second row the defects are gone or faint, and so is fine detail. Below, the brightest places of a defective bottle should lie
# inside its outline in the first row. In *quick* those of 1 − SSIM do; the absolute error is also bright on edges of the rim.
#
# ## SSIM, by hand
#
# The absolute error compares single pixels. A faint scratch then scores low, and a sharp edge that is reconstructed half a pixel away scores high.
# **SSIM**, the structural similarity (Wang et al. 2004, eq. 13), compares small windows: do they have the same mean $\mu$ and the
# same variance $\sigma^2$, and do their pixels vary together ($\sigma_{xy}$)?
#
# $$\mathrm{SSIM}(x,y)=\frac{(2\mu_x\mu_y+C_1)(2\sigma_{xy}+C_2)}{(\mu_x^2+\mu_y^2+C_1)(\sigma_x^2+\sigma_y^2+C_2)},
# \qquad C_1=0.01^2,\ C_2=0.03^2 .$$
#
# The small constants $C_1$ and $C_2$ keep the denominator away from 0; the values of the three colours are averaged. Here is one window of
# 11 × 11 pixels inside a defect, with Gaussian weights that let its middle count most:

# %%
place = next(i for i, picture in enumerate(five) if labels[picture])  # of `five`, the first defective image
inside = np.argwhere(masks[five[place]] | ~masks[five[place]].any())  # without a mask the middle of the image
y, x = (int(np.clip(middle, 5, detector.crop - 6)) for middle in np.median(inside, 0))
window = slice(y - 5, y + 6), slice(x - 5, x + 6)
seen, drawn = (images[place][window] / 255 for images in (test[five], reconstructions))  # 11 × 11 × 3

draw = plotting.Schematic(9, 2.6)
nodes = []
for row, (whole, part, name) in enumerate(((test[five], seen, "x"), (reconstructions, drawn, "y"))):
    picture = draw.picture(whole[place], 0.7, 1.85 - 1.2 * row, 1.0)
    size, corner = 1.0 / detector.crop, (0.2, 1.35 - 1.2 * row)
    frame = {"fill": False, "edgecolor": "white", "linewidth": 1.5, "zorder": 3}
    low = (corner[0] + size * (x - 5), corner[1] + size * (detector.crop - y - 6))
    draw.axes.add_patch(plt.Rectangle(low, 11 * size, 11 * size, **frame))
    close = draw.picture(part, 2.3, 1.85 - 1.2 * row, 0.8, "")
    draw.arrow(picture, close)
    nodes.append((close, draw.box(f"mean μ{name}, variance σ²{name}", 4.2, 1.85 - 1.2 * row, 2.0, 0.45)))
    draw.text(("image x", "reconstruction y")[row], 0.75, 2.44 - 1.2 * row)
together = draw.box("covariance σxy", 4.2, 1.25, 1.5, 0.45)
ssim = draw.box("SSIM of\nthis window", 6.2, 1.25, 1.1, 0.6, "#FBE3C0")
result = draw.box("1 − SSIM:\none pixel of the map", 8.0, 1.25, 1.7, 0.6)
for close, moments in nodes:
    draw.arrow(close, moments)
    draw.arrow(close, together)
    draw.arrow(moments, ssim)
draw.arrow(together, ssim)
draw.arrow(ssim, result)
draw.figure

# %%
offsets = np.arange(-5, 6)
weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
weights /= weights.sum()


def ssim_of(a, b):
    """Of two 11 × 11 windows, values in [0, 1]."""
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    together = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_a * mean_b + c1) * (2 * together + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


by_hand = 1 - np.mean([ssim_of(seen[..., colour], drawn[..., colour]) for colour in range(3)])
by_package = rows["1 − SSIM"][place][y, x]
print(f"1 − SSIM at row {y}, column {x}: by hand {by_hand:.6f}, package {by_package:.6f}")
assert np.isclose(by_hand, by_package, atol=1e-4)

# %% [markdown]
# How much does the choice of map matter? The score of an image is the highest value of its smoothed map. The same three networks are
# scored with both maps. This is the difference of the image AUROCs, with an interval from the same resamples of the test images:


# %%
def as_row(name, scores):
    """A row for `difference`: image scores of each seed on the test images of the first product."""
    scores = {seed: Scores(values) for seed, values in enumerate(scores)}
    about = {"promises": False, "train": len(train), "data_source": source}
    return make_result(name, first_result.table, scores, {}, None, **about)


def difference(one, other):
    """Print how far the image AUROC of a row is above that of another one, and the verdict; the interval."""
    gap = compare.paired([one, other]).iloc[0]
    word = metrics.verdict(gap["low"], gap["high"])
    counts = f"{len(one.seeds)} and {len(other.seeds)} seeds"
    print(f"{one.row} − {other.row}: {metrics.format_metric(gap)}: {word} ({counts})")
    return gap


by_map = [
    as_row(f"map-{name}", [m.score_as(test, name).image for m in first_result.detectors])
    for name in ("ssim", "absolute")
]
gap = difference(*by_map)
lesson("the map of SSIM is ahead of the absolute error of the same networks", gap["low"] > 0, run, source)

# %% [markdown]
# ## PCA as a detector
#
# PCA gives a reconstruction too, so it is scored in the same way: 64 components, and the map and smoothing of the autoencoder.


# %%
def peaks(reconstructions, name=detector.map):
    """Image scores of reconstructed test images: the peaks of their smoothed maps."""
    maps = difference_map(name, as_tensor(test), as_tensor(reconstructions)).numpy(force=True)
    return peak(smooth(maps, detector.sigma))


pca_row = as_row("pca-64", [peaks(as_pixels[64])])
for row in (pca_row, first_result):
    print(f"{row.row}: image AUROC {metrics.format_metric(row.report['metrics']['image_auroc'])}")
gap = difference(pca_row, first_result)
lesson("PCA with 64 components is ahead of this autoencoder", gap["low"] > 0, run, source)

# %% [markdown]
# **A deep autoencoder has to beat PCA first.** PCA needs one line of linear algebra and no training. The lines above say whether this
# network does: in *quick*, after so short a training, it does not. What it does on real bottles, after longer training, stands in
# [`docs/results.md`](../docs/results.md#reconstruction).
#
# ## From a score to a verdict
#
# Scores of images that the network was *trained on* are too low to set a threshold with; those of the held-out good images are not.
# (The held-out images also chose the step to stop at. So the promised rate of false alarms, notebook 02, holds only approximately.)

# %%
threshold = metrics.calibrated(model.good_scores, 0.05)
plotting.score_histogram(labels, scores, calibrated=threshold, oracle=metrics.oracle(labels, scores))

# %% [markdown]
# An image left of the calibrated threshold is called good. This threshold was set without a defect. The oracle threshold was chosen with
# the labels of the test images: it shows what would be possible, and no production line can have it.
#
# ## Several products
#
# *AP*, the average precision, is the area under the precision-recall curve; *AUPRO* is the share of a defect's region that is found,
# averaged over all regions and over false-positive rates up to .3 (notebooks 01 and 02).

# %%
benchmark.metrics_table(results)

# %% [markdown]
# Read the last row first: it is the best image AUROC without a network (notebook 01). In *quick* the autoencoder does not reach it on
# either product.

# %%
both = {name: results[name].report["metrics"]["image_auroc"] for name in dict.fromkeys((first, turning))}
for name, auroc in both.items():
    print(f"{name}: image AUROC of the autoencoder {metrics.format_metric(auroc)}, mean of {len(SEEDS)} seeds")
still, moving = both[first], both[turning]
lesson(
    "the autoencoder finds defects where parts lie still: the interval begins above .65",
    still["low"] > 0.65,
    run,
    source,
)
lesson("at any angle it guesses: the interval holds one half", moving["low"] < 0.5 < moving["high"], run, source)

# %% [markdown]
# ## A failure case: parts that lie at any angle

# %%
other = results[turning]
other_test = detector.load(list(other.table["image_path"]))
kinds = other.table[other.labels == 1].groupby("defect").head(1).index[:3]  # one of each kind of defect
shown = [*np.flatnonzero(other.labels == 0)[:2], *kinds]
rows = {"image": other_test[shown], "reconstruction": other.detectors[0].reconstruct(other_test[shown])}
rows["anomaly map"] = other.maps[SEEDS[0]][shown]
outlines = None if other.masks is None else other.masks[shown]
plotting.picture_rows(rows, titles=list(other.table["defect"].iloc[shown]), masks=outlines)

# %% [markdown]
# Each screw lies at an angle of its own. The reconstructions are blurred, and the map is bright on *every* screw shown, good or defective.
# The interval above holds one half: the scores cannot be told from chance.
#
# ## The loss: squared error, with or without SSIM
#
# So far SSIM was in the map and, beside the squared error, in the loss. The same network trained with the squared error alone:

# %%
squeezed = replace(detector, loss="mse")
about = {"data_source": source, "keep_models": True}
mse_result = benchmark.run(squeezed, tables[first], SEEDS, row="autoencoder-mse", **about)
gap = difference(first_result, mse_result)

# %% [markdown]
# Both networks are scored with the same map. The sum of squared error and SSIM is the default loss because on real bottles its image AUROC
# was the highest, by very little ([`docs/results.md`](../docs/results.md#reconstruction)).
#
# Another common setting trains on *all* good images for 100 epochs, with a squared error, and uses the absolute error as map. Then no
# good image is left to set a threshold with. In *full* this setting, `Autoencoder.preset("reported")`, stands beside ours; for *quick* it takes too long.

# %%
reported, lines = {}, {}
for name in categories if run.name == "full" else ():
    as_reported = Autoencoder.preset("reported")
    reported[name] = benchmark.run(as_reported, tables[name], SEEDS, data_source=source, row="autoencoder-reported")
    gap = compare.paired([results[name], reported[name]]).iloc[0]
    lines[name] = {"ours − reported setting": metrics.format_metric(gap)}
    lines[name]["ours is"] = metrics.verdict(gap["low"], gap["high"])
pd.DataFrame(lines).T if lines else print("left out here")

# %% [markdown]
# ## The bottleneck: a network that copies everything
#
# Why compress at all? Give the network so much room that it can copy: one convolution down to a grid of half the side, one up again, and the
# grid itself is the bottleneck. It has more numbers than the image. It is trained for more steps, on smaller batches, until it reconstructs
# good images well.

# %%
copier = replace(squeezed, latent=0, depth=1, width=16, batch_images=4, lr=0.03, steps=700, patience=0)
grid_result = benchmark.run(copier, tables[first], SEEDS, row="grid", **about)
drawings = {"pca-64": [as_pixels[64]]}
for name, result in ((f"vector-{squeezed.latent}", mse_result), ("grid", grid_result)):
    drawings[name] = [each.reconstruct(test) for each in result.detectors]  # a seed each
vector, grid = list(drawings)[1:]
sizes = [64, *(result.detectors[0].network.bottleneck for result in (mse_result, grid_result))]

# %%
by_map = {
    (name, ruler): as_row(f"{name}-{ruler}", [peaks(images, ruler) for images in seeds])
    for name, seeds in drawings.items()
    for ruler in ("ssim", "absolute")
}
shares = {
    name: [[explained(images.reshape(Y.shape) / 255, label) for label in (0, 1)] for images in seeds]
    for name, seeds in drawings.items()
}  # name -> seeds × (good, defective)
lines = {}
for (name, seeds), size in zip(shares.items(), sizes, strict=True):
    low, high = np.min(seeds, 0), np.max(seeds, 0)
    lines[name] = {"numbers": size, "seeds": len(seeds)}
    lines[name] |= {
        f"explained, {word}": f"{low[i]:.2f} to {high[i]:.2f}" for i, word in enumerate(("good", "defective"))
    }
    for ruler in ("ssim", "absolute"):
        lines[name][f"AUROC, {ruler}"] = metrics.format_metric(by_map[name, ruler].report["metrics"]["image_auroc"])
pd.DataFrame(lines).T

# %%
rows = {"image": test[five]} | {name: seeds[0][five] for name, seeds in drawings.items()}
plotting.picture_rows(rows, titles=titles, masks=masks[five], size=1.3)

# %%
loss_of_defects = {
    name: np.subtract(*np.transpose(seeds)) for name, seeds in shares.items()
}  # good − defective, by seed
for name, gaps in loss_of_defects.items():
    print(f"{name}: explained, good − defective: {', '.join(f'{gap:.3f}' for gap in gaps)}")
bottlenecks = min(loss_of_defects["pca-64"].min(), loss_of_defects[vector].min())
lesson(
    "with each seed the grid explains > .75 of good and of defective images", np.min(shares[grid]) > 0.75, run, source
)
lesson("a bottleneck explains defective images less well than good ones, by > .04", bottlenecks > 0.04, run, source)
lesson("the grid explains both alike, within .03", np.abs(loss_of_defects[grid]).max() < 0.03, run, source)
for name, ruler in ((name, ruler) for name in ("pca-64", vector) for ruler in ("ssim", "absolute")):
    gap = difference(by_map[name, ruler], by_map[grid, ruler])
    lesson(f"{name} is the better detector, map {ruler}", gap["low"] > 0, run, source)

# %% [markdown]
# In the row of the grid the broken glass and the dirt are *there again*. The grid explains defective images as well as good ones, so its
# errors say little about defects. The intervals of its AUROC hold one half: it cannot be told from chance.
#
# PCA with 64 numbers explains good images at least as well as the grid does, but defective ones less well, and it detects. The network with a
# vector of 64 numbers explains less of everything in so few steps, and still detects. **A network that reconstructs more need not be the
# better detector**: good images must come back, and defects must not.
#
# ## A variational autoencoder
#
# An autoencoder reconstructs an image, but does not say how *probable* it is. A **VAE** (variational autoencoder) encodes an image into a
# Gaussian $N(\mu,\sigma^2)$, the *posterior*, instead of a point, and samples the code $z$ from it. A second term of the loss is the price of
# the information in $z$:
#
# $$\text{loss}=\lVert x-\hat x\rVert^2+\beta\,\mathrm{KL},\qquad \mathrm{KL}=\tfrac12\sum_j\left(\mu_j^2+\sigma_j^2-\log\sigma_j^2-1\right).$$
#
# KL is the divergence of the code's distribution from the standard normal one (appendix B of the paper), one term per latent dimension $j$, in
# *nats*, the unit of information of the natural logarithm. With $\beta=1$ the loss is, up to a constant, minus the lower bound of the
# log-likelihood (the *evidence lower bound*, ELBO), where each pixel is Gaussian with variance one half.

# %%
draw = plotting.Schematic(9, 1.9)
image = draw.picture(test[five[-1]], 0.65, 1.1, 0.9, "x")
encoder = draw.box("encoder", 1.95, 1.1, 0.9)
mu, sigma = (draw.box(text, 3.2, y, 0.6, 0.4, "#FBE3C0") for text, y in (("μ", 1.45), ("σ", 0.75)))
code = draw.box("z = μ + σ · ε", 4.6, 1.1, 1.2, 0.5, "#FBE3C0")
decoder = draw.box("decoder", 6.1, 1.1, 0.9)
again = draw.picture(as_pixels[10][five[-1]], 7.5, 1.1, 0.9, "x̂")
for start, end in (
    (image, encoder),
    (encoder, mu),
    (encoder, sigma),
    (mu, code),
    (sigma, code),
    (code, decoder),
    (decoder, again),
):
    draw.arrow(start, end)
draw.arrow(draw.box("ε from N(0, I)", 4.6, 0.3, 1.2, 0.35, "#FFFFFF"), code)
draw.text("KL: what μ and σ cost", 3.2, 1.78)
draw.text("new samples:\nz from N(0, I)", 6.1, 0.45)
draw.figure

# %% [markdown]
# The formula of KL, checked on two dimensions by summing the definition $\int q\log\frac{q}{p}$ on a fine grid:

# %%
mu, variance = np.array([0.7, -1.2]), np.array([0.5, 2.0])
by_hand = 0.5 * (mu**2 + variance - np.log(variance) - 1).sum()
z = np.linspace(-15, 15, 200_001)[:, None]
log_q = -((z - mu) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
log_p = -(z**2) / 2 - np.log(2 * np.pi) / 2
by_sum = (np.exp(log_q) * (log_q - log_p)).sum() * (z[1, 0] - z[0, 0])
by_package = float(divergence(torch.from_numpy(mu)[None], torch.from_numpy(np.log(variance))[None]))
print(f"by hand {by_hand:.6f}   by summing {by_sum:.6f}   package {by_package:.6f}")
assert np.isclose(by_hand, by_sum, atol=1e-6)
assert np.isclose(by_hand, by_package)

# %% [markdown]
# ## Posterior collapse, and how to mend it
#
# Two VAEs that differ only in $\beta$, three seeds each. Does the network use its code? Three questions, asked with the good test images: how much do the
# reconstructions vary from image to image (standard deviation of a pixel, of 255), how many nats does each latent dimension carry,
# and what do new samples look like?

# %%
mended = replace(Vae.preset(run.name), beta=0.1)
vae_results = {
    beta: benchmark.run(replace(mended, beta=beta), tables[first], SEEDS, row=row, **about)
    for beta, row in ((1.0, "vae-beta-1"), (0.1, "vae"))
}
vaes = {beta: result.detectors for beta, result in vae_results.items()}
images = as_tensor(test[labels == 0])
noise = normal((len(images), mended.latent), np.random.default_rng(0))


# %%
def look_at(vae):
    """What a VAE does with the good test images, and its KL in each latent dimension."""
    with torch.no_grad():
        mu, log_variance = vae.network.encode(images)
        reconstruction, kl = vae.network(images, noise)
        error = (images - reconstruction).square().sum((1, 2, 3))
    drawn = vae.reconstruct(test)
    row = {"SD, reconstructions": drawn[labels == 0].std(0).mean(), "SD, samples": vae.sample(64).std(0).mean()}
    row["explained, good"] = explained(drawn.reshape(Y.shape) / 255, 0)
    row |= {"KL, nats": float(kl.mean()), "loss with β = 1": float((error + kl).mean())}
    per_dimension = 0.5 * (mu.square() + log_variance.exp() - log_variance - 1).mean(0)
    return row, per_dimension.numpy(force=True)


looks = {(beta, seed): look_at(vae) for beta, seeds in vaes.items() for seed, vae in zip(SEEDS, seeds, strict=True)}
table = pd.DataFrame({key: row for key, (row, _) in looks.items()}).T.rename_axis(["β", "seed"])
real = test[labels == 0].std(0).mean()
print(f"standard deviation of a pixel over the good test images themselves: {real:.2f} of 255")
table.round(2)

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", sharey=True)
for axis, beta in zip(axes, vaes, strict=True):
    bars = [looks[beta, seed][1] for seed in SEEDS]
    for seed, heights in enumerate(bars):
        place = np.arange(len(heights)) + 1 + 0.27 * (seed - 1)
        axis.bar(place, np.sort(heights)[::-1], 0.25, color=plotting.METHOD_COLOURS[seed], label=f"seed {seed}")
    axis.set(title=f"β = {beta}: KL of each latent dimension, sorted", xlabel="latent dimension", xticks=[])
axes[0].set_ylabel("nats")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %%
good_test = test[labels == 0][:5]
pictures = {"image": good_test}
for beta, seeds in vaes.items():
    pictures[f"reconstruction, β = {beta}"] = seeds[0].reconstruct(good_test)
    pictures[f"new sample, β = {beta}"] = seeds[0].sample(len(good_test))
from_mean = {name: np.abs(images / 255 - mean.reshape(test.shape[1:])).mean(3) for name, images in pictures.items()}
scale = plotting.map_scale(from_mean["image"])
plotting.picture_rows(from_mean, scales=dict.fromkeys(from_mean, scale), size=1.2)

# %% [markdown]
# Shown is how far each picture lies from the mean good image; all rows share one scale, and the first row belongs to five good test images.
# Black is the mean image itself. With $\beta=1$ all pictures are nearly black. With $\beta=.1$ reconstructions follow their images, and new
# samples differ from the mean and from one another.

# %%
collapsed, used = table.loc[1.0], table.loc[0.1]
lesson(
    "β = 1, each seed: reconstructions hardly vary", (collapsed["SD, reconstructions"] < real / 50).all(), run, source
)
lesson("β = 1, each seed: the code carries less than .1 nats", (collapsed["KL, nats"] < 0.1).all(), run, source)
lesson("β = .1, each seed: more than .4 of good images explained", (used["explained, good"] > 0.4).all(), run, source)
better = used["loss with β = 1"].max() < collapsed["loss with β = 1"].min()
lesson("even under the loss with β = 1 each mended network is better than each collapsed one", better, run, source)

# %% [markdown]
# With $\beta=1$ the decoder ignores its code and draws **one** bottle, the mean. This is **posterior collapse** (Bowman et al. 2016,
# [arXiv:1511.06349](https://arxiv.org/abs/1511.06349)): the posterior of every image is nearly the standard normal distribution. The usual explanation: early
# in training the code tells the decoder little, so making it carry nothing lowers the loss at once, and training stays there. With $\beta=.1$ all dimensions
# carry something, and samples are different bottles, though less varied than real ones.
#
# The last line above matters: the collapsed network is **not** the best one for the loss with $\beta=1$, for the mended ones have a lower loss. Training
# only stopped there. PCA agrees: in a linear VAE a component lowers the loss if its variance is above $\beta/2$ (Lucas et al. 2019,
# [arXiv:1911.02469](https://arxiv.org/abs/1911.02469)). So with $\beta=1$, too, a linear VAE would use some dimensions. The last line below compares both
# VAEs as detectors:

# %%
variances = S**2 / len(X)
for beta in vaes:
    print(f"β = {beta}: {(variances > beta / 2).sum()} principal components have a variance above {beta / 2}")
gap = difference(vae_results[0.1], vae_results[1.0])

# %% [markdown]
# Another usual remedy raises $\beta$ slowly from 0 during training. What can be the *score* of a VAE? Its likelihood bound looks natural:
# error + KL. Here it stands beside the peak of the map, for the three mended networks:

# %%
ways = {f"peak-{name}": [vae.score_as(test, name).image for vae in vaes[0.1]] for name in ("ssim", "absolute")}
ways["squared-error"] = [vae.score_as(test, "ssim", "error").image for vae in vaes[0.1]]
ways["error-and-kl"] = [vae.score_as(test, "ssim", "elbo").image for vae in vaes[0.1]]
ways = {name: as_row(name, scores) for name, scores in ways.items()}
for row in ways.values():
    print(f"{row.row}: image AUROC {metrics.format_metric(row.report['metrics']['image_auroc'])}")
for name in ("squared-error", "error-and-kl"):
    difference(ways["peak-ssim"], ways[name])

# %% [markdown]
# In *quick* the peak of the SSIM map has the highest AUROC, but both differences are undecided; the peak of the absolute error does about as
# well as the sum of squares. One argument for a peak: the squared error is a sum over all pixels, and the few pixels of a defect are a
# small part of it. KL says how far the posterior of an image lies from the standard normal, and those of good bottles lie away from it as well.
#
# That the likelihood of a generative model can fail as an anomaly score is known
# (Nalisnick et al. 2019, [arXiv:1810.09136](https://arxiv.org/abs/1810.09136)).
#
# ## Yours, reported, verdict
#
# An autoencoder is compared with a published result where loss, latent vector and size are the same. For a VAE with its error as map we found
# only means over all categories (.744 on pixels, in the [PaDiM paper](https://arxiv.org/abs/2011.08785)).

# %%
rows = [*results.values(), vae_results[0.1], *reported.values()]
published.verdicts([result.report for result in rows], by="row")

# %% [markdown]
# ## Exercises
#
# These go on with what this notebook holds. [Lab 03](../course/labs/03_autoencoder.ipynb) has more, on small arrays, with checks that say what differs.
#
# **1.** A network that must *repair* its input cannot simply copy it. Train the grid with noise or painted squares on its input (`corruption`), and the clean
# image as target. Is it a better detector?
#
# <details><summary>Solution</summary>
#
# ```python
# for kind in ("none", "noise", "mask"):
#     repairing = replace(copier, corruption=kind, steps=3000)  # minutes on a CPU
#     drawn = repairing.fit(train).reconstruct(test)
#     shares_of = [round(explained(drawn.reshape(Y.shape) / 255, label), 2) for label in (0, 1)]
#     print(kind, shares_of, metrics.format_metric(metrics.evaluate(labels, [peaks(drawn)])["image_auroc"]))
# ```
# Look at what is explained before you compare AUROCs: a network that has not yet learned to reconstruct good images says nothing about the idea.
# With one seed and intervals as wide as these, expect *undecided*. Repairing the input is what later methods build on (RIAD, DRÆM),
# with larger networks and longer training.
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
# longer = replace(detector, steps=4 * detector.steps, patience=0).fit(train)
# held_out = held_out_positions(len(train), longer.calibration_images(len(train)), longer.seed)
# seen = longer.score(np.delete(train, held_out, 0)).image
# normal_scores = longer.score(test[labels == 0]).image
# for name, those in (("trained on", seen), ("held out", longer.good_scores)):
#     limit = metrics.calibrated(those, 0.05)
#     print(name, round(limit, 3), round(float((normal_scores > limit).mean()), 3))
# ```
# Images that were trained on have lower scores. Their threshold is lower too, and more good bottles may be called defective.
# </details>
#
# ## Save the artifact
#
# `autoencoder.zip` holds the networks of all products, the mended VAE, and scores of the other loss; [03b](03b_patchcore.ipynb), 08 and 09 read them.

# %%
mse_result.detectors.clear()  # of this only scores and maps are kept
rows = [*results.values(), vae_results[0.1], mse_result, *reported.values()]
known = {"profile": run.name, "inputs": [data], "models": True, "maps": "first"}
artifacts.download(benchmark.save_results("autoencoder", rows, **known))
restored, description = load_model(
    artifacts.load("autoencoder", profile=run.name), method="autoencoder", category=first
)
assert np.allclose(restored.score(list(first_result.table["image_path"][:5])).image, scores[:5], rtol=1e-5)
print(f"the model from the file gives the same scores; its threshold is {description['threshold']['value']:.3g}")

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * compressed images into a few numbers, with PCA and with a network written out and trained by hand, and found the package's weights;
# * computed SSIM and the KL divergence by hand, and found the package's numbers;
# * put PCA beside the autoencoder, with an interval of the difference;
# * seen that a network that copies good images copies defects too;
# * recognised posterior collapse by three measurements, and mended it.
#
# **Limits.** A reconstruction needs parts that lie still and look alike. Where good parts vary in ways that the network cannot reconstruct, their
# scores are high as well. The comparison is of these settings on these images; each method could be tuned. Settings were chosen by results on *real*
# bottles, so the results on those may be optimistic.
#
# **Next:** [03b](03b_patchcore.ipynb) reconstructs nothing: it remembers.
