# %% [markdown]
# # 05 · Where does the classifier look?
#
# <!-- badge -->
#
# The classifiers of notebook 04 say *damaged* or *intact*. They were never told where the damage is. In this notebook we will
#
# * **derive** integrated gradients, Grad-CAM, SmoothGrad and occlusion by hand, and find the numbers of the library captum;
# * **check** the completeness of integrated gradients, as a number;
# * **show** what Grad-CAM loses by averaging, on a network whose answer can be taken apart exactly;
# * **measure** whether maps point at the damage, beside what a random point would hit;
# * **test** maps without boxes: delete the pixels, draw the weights anew;
# * **see it fail**: right answers with maps that point elsewhere.
#
# **It reads** `packages.zip` and `data.zip` of [01 · Data preparation](01_data_preparation.ipynb) and `models.zip` of [04 · Supervised
# classification](04_supervised_classifier.ipynb); what is missing is made here. Profile *quick*: a minute on 2 CPU cores, or two minutes where all of
# it must be made first.
#
# | method | source |
# |---|---|
# | integrated gradients | Sundararajan, Taly, Yan 2017, [arXiv:1703.01365](https://arxiv.org/abs/1703.01365) |
# | Grad-CAM | Selvaraju et al. 2017, [arXiv:1610.02391](https://arxiv.org/abs/1610.02391) |
# | Grad-CAM++ | Chattopadhay et al. 2018, [arXiv:1710.11063](https://arxiv.org/abs/1710.11063) |
# | HiResCAM | Draelos, Carin 2020, [arXiv:2011.08891](https://arxiv.org/abs/2011.08891) |
# | SmoothGrad | Smilkov et al. 2017, [arXiv:1706.03825](https://arxiv.org/abs/1706.03825) |
# | occlusion | Zeiler, Fergus 2014, [arXiv:1311.2901](https://arxiv.org/abs/1311.2901) |
# | pointing game | Zhang et al. 2016, [arXiv:1608.00507](https://arxiv.org/abs/1608.00507) |
# | deletion and insertion | Petsiuk et al. 2018, [arXiv:1806.07421](https://arxiv.org/abs/1806.07421) |
# | randomised weights | Adebayo et al. 2018, [arXiv:1810.03292](https://arxiv.org/abs/1810.03292) |

# %%
# <setup>

# %%
import copy
from functools import cache
from itertools import cycle, pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam
from IPython.display import display
from matplotlib.lines import Line2D
from scipy.stats import t

from mvtec_ad import artifacts, metrics, plotting, profile
from mvtec_ad.augment import standardise
from mvtec_ad.config import pin
from mvtec_ad.data import index, prepare, splits
from mvtec_ad.methods import classifier, explain
from mvtec_ad.methods.base import as_tensor, enlarge
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need

# %%
PROFILE = "quick"  # @param ["quick", "full"]
OTHER_PROFILE = False  # @param {type:"boolean"}

run = profile(PROFILE)
pin(run)
attribution = explain.Attribution.preset(run.name)
packages, data, artifact = need(run, "packages", "data", "models", other_profile=OTHER_PROFILE).values()
source = packages.manifest["data_source"]
category = packages.manifest["categories"][0]
table = index.read_category(prepare.unpack(packages), category)
models = {
    name: classifier.restore(artifact, category, name)[0]
    for kind, name in classifier.names(artifact)
    if kind == category
}
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}; packages: {source}; classifiers: {', '.join(models)}")

# %% [markdown]
# ## Five images first
#
# This lecture studies **one view and one network**: the camera from above, and the EfficientNet-Lite0 of that view. The other networks and the other
# view follow near the end. The network sees **cut-outs** of the pictures (04), so the box of the damage is moved onto the cut-out.


# %%
@cache
def items_of(view):
    """Test items of a view, the damaged first: rows, what a classifier sees of them, and the boxes filled."""
    rows = table[(table["split"] == "test") & (table["view"] == view)].sort_values("group")
    rows = rows.groupby("label").head(attribution.images // 2)  # as many damaged as intact ones
    rows = rows.sort_values("label", ascending=False, kind="stable").reset_index(drop=True)
    model = next(model for model in models.values() if view in model.finders)  # all have the same finders
    images, transforms = model.cut(rows)  # N×S×S×3
    return rows, images, explain.regions_of(rows, transforms, images.shape[1])


views = sorted(table["view"].unique())
view = views[-1]
name = f"{classifier.Classifier().backbone}-{view}"
network = models[name].network
rows, images, regions = items_of(view)

# %%
plotting.gallery(
    images[[0, 1, 2, -2, -1]],
    titles=["damaged"] * 3 + ["intact"] * 2,
    masks=regions[[0, 1, 2, -2, -1]],
    size=1.7,
)

# %%
labels = rows["label"].to_numpy()
logits = models[name].logits(images)
right = int(((logits > 0) == labels).sum())
print(f"{name}: {right} of {len(labels)} verdicts are right")
for label, word in ((1, "damaged"), (0, "intact")):
    print(f"{word}: the box covers {100 * regions[labels == label].mean():.0f} % of a cut-out")

# %% [markdown]
# The outline is the box: of the damage on damaged items, of the whole item on intact ones. Keep the printed shares in mind: a random point hits the box
# of an *intact* item nearly always, so pointing at it proves nothing. From here on we ask about damaged items only: **why damaged?**
#
# An **attribution map**, or *map* for short, gives every pixel a number: how much it contributes to the answer. The answer is the logit. A map can only
# show what a network has learned: where a network has not learned to use the damage, no map of it can be expected to point there.
#
# ## Integrated gradients
#
# How much of the answer is due to a pixel? Take a small function: $f(x)=x_1x_2$ at $x=(0.8, 0.5)$. The gradient is $(x_2,x_1)$, so pixel 1 has the
# *smaller* slope, although the product needs both equally. A slope says what a small change does, not what the pixel contributes.
#
# **Integrated gradients** sums the slopes along the straight path from a baseline $x'$, an image that shows nothing, to $x$ (equation 1):
#
# $$\mathrm{IG}_i(x)=(x_i-x'_i)\int_0^1\frac{\partial f\bigl(x'+\alpha(x-x')\bigr)}{\partial x_i}\,d\alpha .$$
#
# With $x'=0$ the slope of pixel 1 along the path is $\alpha x_2$, and $\mathrm{IG}_1=x_1\int_0^1\alpha x_2\,d\alpha=\tfrac12x_1x_2$. Pixel 2 gets the
# same, and the sum is $f(x)-f(x')$. This is the axiom of **completeness**: a map distributes the whole difference $f(x)-f(x')$ over the pixels, no more
# and no less.


# %%
class Product(torch.nn.Module):
    """Red of the first pixel times red of the second."""

    def forward(self, images):
        return images[:, 0, 0, 0] * images[:, 0, 0, 1]


x = torch.zeros(1, 3, 1, 2)
x[0, 0, 0] = torch.tensor([0.8, 0.5])
by_captum = IntegratedGradients(Product()).attribute(x, torch.zeros_like(x), method="gausslegendre")[0, 0, 0]
print(f"captum {by_captum.numpy().round(3)}, sum {by_captum.sum():.3f}, answer {Product()(x).item():.3f}")
assert np.allclose(by_captum, [0.8 * 0.5 / 2] * 2)

# %% [markdown]
# The same on the network. The baseline is the mean colour of the images. The integral becomes a weighted sum of the slopes at a few values of $\alpha$
# (Gauss–Legendre nodes).

# %%
cuts, boxes, answers = images[labels == 1], regions[labels == 1], logits[labels == 1]
damaged = as_tensor(cuts)  # B×3×S×S
few, image = damaged[: attribution.few], damaged[:1]
grey = few.mean((0, 2, 3))[:, None, None]  # 3×1×1
nodes, weights = np.polynomial.legendre.leggauss(16)  # on [−1, 1]
total = torch.zeros_like(image)
for alpha, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
    point = (grey + alpha * (image - grey)).requires_grad_()
    total += weight * torch.autograd.grad(network(point).sum(), point)[0]
by_hand = ((image - grey) * total).sum(1)[0].numpy(force=True)  # H×W
by_package = explain.integrated_gradients(network, image, [1], grey, steps=16)[0][0]
print(f"largest value by hand {by_hand.max():.4f}, package {by_package.max():.4f}")
assert np.allclose(by_hand, by_package, atol=0.02 * np.abs(by_package).max())

# %% [markdown]
# ### The path, drawn

# %%
ones = np.ones(len(damaged))
maps, errors = attribution.maps(network, network.body, few, ones[: len(few)], ["integrated_gradients", "smooth_grad"])
draw, stops = plotting.Schematic(9, 3.1), []
for alpha in (0, 0.1, 0.4, 1):
    point = (grey + alpha * (image - grey)).requires_grad_()
    answer = network(point).sum()
    slopes = torch.autograd.grad(answer, point)[0][0].abs().sum(0).numpy(force=True)
    x = 0.7 + 1.5 * len(stops)
    stops.append(draw.picture(point[0].permute(1, 2, 0).clamp(0, 1).numpy(force=True), x, 2.2, 1.0))
    draw.text(f"α = {alpha}, f = {answer.item():+.1f}", x, 2.85)
    below = draw.picture((slopes / np.percentile(slopes, 99.5)).clip(0, 1), x, 0.8, 1.0, "slopes at α")
    draw.arrow(stops[-1], below)
for start, end in pairwise(stops):
    draw.arrow(start, end)
evidence = maps["integrated_gradients"][0]
mean = draw.box("mean over α,\n× (x − x′)", 6.65, 0.8)
shown = draw.picture((evidence / np.percentile(evidence, 99.5)).clip(0, 1), 8.2, 0.8, 1.0, "the map")
draw.arrow(below, mean)
draw.arrow(mean, shown)
draw.text("completeness:\nsum of the map\n= f(x) − f(x′)", 8.2, 1.75)
draw.figure

# %% [markdown]
# Top row: the path from the baseline $x'$ (α = 0) to the image $x$ (α = 1), with the network's logit $f$. Bottom row: size of the slopes at each stop.
# The slopes themselves, with their sign, are averaged over the whole path, not over these four stops alone. This mean times $x-x'$ is the map on the
# right (its positive part is shown).
#
# ### Completeness as a number
#
# The sum of each map must equal $f(x)-f(x')$. If it does not, there were too few steps, and the map is not yet the integral.

# %%
alphas = torch.linspace(0, 1, 33, device=grey.device) ** 2  # closer together near the baseline
with torch.no_grad():
    on_path = [network(grey + alphas[:, None, None, None] * (image - grey)) for image in few]
paths, alphas = torch.stack(on_path).numpy(force=True), alphas.numpy(force=True)
fewest = max(2, attribution.path_steps // 8)
rough, rough_errors = explain.integrated_gradients(network, few, ones[: len(few)], grey, fewest)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(alphas, paths.T, color=plotting.METHOD_COLOURS[0], linewidth=1)
left.set(xlabel="α", ylabel="logit f", title="the answer on the way, a line per image")
for steps, values, marker in ((fewest, rough, "x"), (attribution.path_steps, maps["integrated_gradients"], "o")):
    right.plot(paths[:, -1] - paths[:, 0], values.sum((1, 2)), marker, label=f"{steps} steps", clip_on=False)
right.axline((0, 0), slope=1, color="#8A8A8A", linewidth=1)
right.set(xlabel="f(x) − f(x′)", ylabel="sum of the map", title="completeness: points should lie on the line")
figure.legend(loc="outside right center")
plt.show()

# %%
for steps, values in ((fewest, rough_errors), (attribution.path_steps, errors)):
    print(
        f"{steps} steps: relative error, median {np.nanmedian(values):.3f}, {np.nanmin(values):.3f} to {np.nanmax(values):.3f}"
    )
steepest = alphas[np.abs(np.diff(paths) / np.diff(alphas)).argmax(1)]
print(f"the logit changes fastest at α = {steepest.min():.3f} to {steepest.max():.3f}")
better = int((errors < rough_errors).sum())
low, _ = metrics.wilson(better / len(errors), len(errors))
print(f"more steps, smaller error: {better} of {len(errors)} images")
lesson("completeness gets better with more steps, in most images", low > 0.5, run, source)

# %% [markdown]
# On the left the logit changes fastest near α = 0 (printed), where the picture is still nearly invisible. Too few steps miss this change, and the error
# of completeness shows it. So compute that error with every map. Note also that the baseline is not neutral: it has a logit of its own, shown in the
# schematic at α = 0.
#
# ## Grad-CAM
#
# Integrated gradients goes down to the pixels. **Grad-CAM** stops at the last feature maps $A^k$, with one value in each cell $ij$ of a coarse grid of
# $Z$ cells. With $y$ the logit, each channel $k$ is weighted by its mean slope (equation 1), and what speaks against the answer is dropped (equation
# 2):
#
# $$\alpha_k=\frac1Z\sum_{ij}\frac{\partial y}{\partial A^k_{ij}},\qquad L=\mathrm{ReLU}\Bigl(\sum_k\alpha_kA^k\Bigr).$$


# %%
def take_apart(network, images):
    """Feature maps A of images, the slopes of their logits y in A, and y."""
    A = network.body(standardise(images)).detach().requires_grad_()  # B×C×h×w
    pooled = torch.cat([F.adaptive_avg_pool2d(A, cells).flatten(1) for cells in network.pyramid], 1)  # B×D
    y = network.head(pooled)[:, 0]  # B
    return A.detach(), torch.autograd.grad(y.sum(), A)[0], y.detach()


A, slopes, y = take_apart(network, damaged)
alpha = slopes.mean((2, 3), keepdim=True)  # B×C×1×1
grad_cam = (alpha * A).sum(1).relu()  # B×h×w
by_captum = LayerGradCam(network, network.body).attribute(damaged, relu_attributions=True)[:, 0].detach()
print(f"{A.shape[1]} channels on a {A.shape[2]}×{A.shape[3]} grid")
print(f"largest value by hand {grad_cam.max():.4f}, captum {by_captum.max():.4f}")
assert torch.allclose(grad_cam, by_captum, rtol=1e-3, atol=1e-5)

# %% [markdown]
# ### What the mean loses
#
# After $A$ this network is linear: averages over the cells of a pyramid of grids (1×1, 2×2 and 4×4 cells, notebook 04), and a weighted sum of them. So
# its answer can be taken apart **exactly**, cell by cell, with a bias $b$:
#
# $$y=b+\sum_{ij}c_{ij},\qquad c_{ij}=\sum_k\frac{\partial y}{\partial A^k_{ij}}A^k_{ij}.$$
#
# $\mathrm{ReLU}(c)$ is **HiResCAM**: Grad-CAM without the mean over the slopes. Where the head has a weight for every cell, as here, the slopes differ
# from place to place, and their mean mixes them up.


# %%
def interval(values):
    """Mean over images and its 95 % interval (Student's t)."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return np.mean(values), np.mean(values) - half, np.mean(values) + half


def contrary(A, slopes):
    """Share of Grad-CAM's evidence on cells that speak against the answer, (B,)."""
    grad_cam = (slopes.mean((2, 3), keepdim=True) * A).sum(1).relu()
    against = (slopes * A).sum(1) <= 0
    return ((grad_cam * against).sum((1, 2)) / grad_cam.sum((1, 2)).clamp(min=1e-12)).numpy(force=True)


contributions = (slopes * A).sum(1)  # B×h×w
assert torch.allclose(contributions.sum((1, 2)) + network.head.bias.detach(), y, atol=1e-3)
mean, low, high = interval(contrary(A, slopes))
print(f"share of Grad-CAM's evidence on cells that speak against the answer: {mean:.2f} [{low:.2f}, {high:.2f}]")
lesson("this network does not use a fifth or more of Grad-CAM's evidence", low > 0.2, run, source)

# %%
PEAKS = {"marker": "X", "color": "white"}, {"marker": "o", "color": "#56F5A5"}  # largest value outside, inside
PEAKS = [peak | {"linestyle": "", "markersize": 8, "markeredgecolor": "black"} for peak in PEAKS]


def show(pictures, regions, titles=None):
    """Rows of images or maps, regions outlined; a row has one scale, on which the median map reaches full brightness."""
    bright = {key: np.median([np.percentile(each, 99.5) for each in row]) for key, row in pictures.items()}
    scales = {key: (0, max(value, 1e-9)) for key, value in bright.items()}
    figure = plotting.picture_rows(pictures, titles, scales=scales, size=1.4)
    for axes, picture, region in zip(figure.axes, (each for row in pictures.values() for each in row), cycle(regions)):
        plotting.draw_mask(axes, region, region.shape, 1.2)
        if picture.ndim == 2 and np.ptp(picture):
            top, left = np.unravel_index(picture.argmax(), picture.shape)
            axes.plot(left, top, **PEAKS[int(region[top, left])], clip_on=False, zorder=5)
    words = ("largest value outside", "largest value inside")
    handles = [Line2D([], [], **peak, label=word) for peak, word in zip(PEAKS, words, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


S, some = images.shape[1], slice(5)
cells = {"cut-out": cuts[some], "Grad-CAM": enlarge(grad_cam[some], S)}
cells |= {
    "speaks for": enlarge(contributions[some].relu(), S),
    "speaks against": enlarge((-contributions[some]).relu(), S),
}
show(cells, boxes[some])

# %% [markdown]
# Each row of maps has one scale, on which its median map reaches full brightness; stronger maps saturate. The outline is the box of the damage. *Speaks
# for* and *speaks against* are the exact contributions. Where Grad-CAM is bright and *speaks for* is dark, the map shows a place that the network did
# not use for this answer. With a single global average before the head all slopes of a channel are equal, and both methods agree: know the head before
# you choose the map.
#
# Many largest values lie at the border of the image. Is that an artefact of Grad-CAM? The exact contributions can answer.

# %%
ring = np.ones(A.shape[2:], bool)
ring[1:-1, 1:-1] = False
for word, grids in (("Grad-CAM", grad_cam), ("exact contributions", contributions)):
    peaks = grids.flatten(1).argmax(1).numpy(force=True)
    share = ring.ravel()[peaks].mean()
    low, high = metrics.wilson(share, len(peaks))
    more = metrics.verdict(low - ring.mean(), high - ring.mean(), "more than its area", "less than its area")
    print(
        f"{word}: largest value in the outermost cells {share:.2f} [{low:.2f}, {high:.2f}], area {ring.mean():.2f}: {more}"
    )

# %% [markdown]
# Where both lines say the same, the border is no fault of the map: this network takes evidence from there, from the edge of the item, the belt, or the
# zeros with which a convolution pads an image. Where only Grad-CAM has it, the mean of the slopes has put it there.
#
# **Grad-CAM++** replaces $\alpha_k$ by another weight $w_k$: it counts positive slopes only, and gives each place a weight of its own. For a network
# that is linear from one ReLU to the next, its equation (19) becomes
#
# $$w_k=\sum_{ij}\frac{\mathrm{ReLU}(g^k_{ij})}{2+g^k_{ij}\sum_{ab}A^k_{ab}},\qquad g=\frac{\partial y}{\partial A}.$$
#
# It was derived for features that are never negative. Here they can be, and the divisor can come close to zero, so a map can have very large values:

# %%
divisor = 2 + slopes * A.sum((2, 3), keepdim=True)
plus_plus = ((slopes.relu() / divisor).sum((2, 3), keepdim=True) * A).sum(1).relu()
by_package = explain.grad_cam(network, network.body, damaged, plus_plus=True)  # enlarged to the size of the image
print(f"largest value by hand {enlarge(plus_plus, S).max():.3f}, package {by_package.max():.3f}")
assert np.allclose(enlarge(plus_plus, S), by_package, rtol=1e-2, atol=1e-2 * by_package.max())

# %% [markdown]
# ## SmoothGrad and occlusion
#
# **SmoothGrad** averages the gradient over noisy copies of the image and drops the sign. It says *sensitive here*, not *for which answer*.

# %%
image = damaged[:1]
torch.manual_seed(0)
noise = torch.randn((attribution.noisy_copies, *image.shape[1:]), device=image.device)
noisy = (image + explain.NOISE * (image.max() - image.min()) * noise).requires_grad_()
gradients = torch.autograd.grad(network(noisy).sum(), noisy)[0]  # copies×3×H×W
by_hand = gradients.mean(0).abs().sum(0).numpy(force=True)  # H×W
by_captum = explain.smooth_grad(network, image, attribution.noisy_copies)[0]
print(f"largest value by hand {by_hand.max():.4f}, captum {by_captum.max():.4f}")
assert np.allclose(by_hand, by_captum, atol=0.02 * by_captum.max())

# %% [markdown]
# **Occlusion** covers one window after the other with the baseline and notes how far the answer falls. It needs no gradient, but many passes.

# %%
step = S // (attribution.windows + 1)  # windows are two steps wide and overlap by half
fall, count = np.zeros((2, S, S))
for top, left in product(range(0, S - step, step), repeat=2):
    window = (..., slice(top, top + 2 * step), slice(left, left + 2 * step))
    covered = image.clone()
    covered[window] = grey
    fall[window] += float((network(image) - network(covered)).detach())
    count[window] += 1
by_captum = explain.occlusion(network, image, [1], grey, window=2 * step, stride=step)[0]
print(f"largest fall by hand {(fall / count).max():.4f}, captum {by_captum.max():.4f}")
assert np.allclose(fall / count, by_captum, atol=0.01 * np.abs(by_captum).max())

# %% [markdown]
# ## One network, five methods

# %%
cheap = ["grad_cam", "grad_cam_plus_plus", "occlusion"]
maps |= attribution.maps(network, network.body, damaged, ones, cheap)[0]
words = {"grad_cam": "Grad-CAM", "grad_cam_plus_plus": "Grad-CAM++", "smooth_grad": "SmoothGrad"}
words |= {"integrated_gradients": "integrated\ngradients", "occlusion": "occlusion"}
show(
    {"cut-out": cuts[some]} | {words[method]: maps[method][some] for method in maps},
    boxes[some],
    [f"logit {logit:+.1f}" for logit in answers[some]],
)

# %% [markdown]
# The same network and the same images, five answers. Whoever shows only one of them has made a choice. So the next sections measure them. Above each
# column stands the logit; below 0 the network missed the damage. Each row again has one scale: a map that is black, but has a marker, has only values
# that are small beside the others, or negative. (Integrated gradients and SmoothGrad are noisy from pixel to pixel; Grad-CAM is a coarse grid,
# enlarged.)

# %%
if not boxes.any():
    leave_out_rest("it measures whether maps point at the damage, and none of these items has a box")

# %% [markdown]
# ## Does the map point at the damage?
#
# * **hits**, the pointing game: how often the largest value lies in the box. **covered** is the share of the image in the box: what a random point
#   would hit. **gain** is their difference, with its 95 % interval (bootstrap over images): zero is chance.
# * **energy**: share of the positive evidence in the box, to be compared with *covered*.
# * **region AUROC**: how often a pixel inside beats one outside; one half is chance.


# %%
def with_verdict(measured):
    """The table of `explain.localisation` with the gain's interval in one column, and whether it is above chance."""
    gains = zip(measured["gain"], measured["gain_low"], measured["gain_high"], strict=True)
    table = measured.drop(columns=["gain", "gain_low", "gain_high"]).round(2)
    table["gain"] = [f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]" for gain, low, high in gains]
    ends = zip(measured["gain_low"], measured["gain_high"], strict=True)
    table["pointing is"] = [metrics.verdict(*pair, "above chance", "below chance") for pair in ends]
    return table


maps["contributions"] = enlarge(contributions.relu(), S)
measured = explain.localisation(maps, boxes)
with_verdict(measured)

# %%
gain = measured.set_index("method").loc["occlusion"]
lesson("occlusion points at the damage more often than chance", gain["gain_low"] > 0, run, source)

# %% [markdown]
# *contributions* are those of HiResCAM. A row with few images has a wide interval, and the best of many rows may be the best by luck. Occlusion asks
# the network directly: here the damage does matter to its answer.
#
# ## Delete what matters
#
# A box says what *should* matter. Whether it *does* can be tested without a box: replace pixels by the baseline, the most important first, and watch
# the probability of *damaged* fall (**deletion**); or start from the baseline and put them back (**insertion**). A small area under the deletion curve
# is good, and a large one under the insertion curve.
#
# What is small? Compare with the area of a **random order**: of single pixels for noisy maps, of whole windows for smooth maps.

# %%
rng = np.random.default_rng(0)
coarse = torch.from_numpy(rng.random((len(few), 6, 6), np.float32))
orders = {method: maps[method][: len(few)] for method in words}
orders |= {"random pixels": rng.random((len(few), S, S)), "random windows": enlarge(coarse, S)}
curves = {
    order: explain.deletion_insertion(network, few, values, ones[: len(few)], attribution.removals)
    for order, values in orders.items()
}

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
for axes, kind, good in zip(panels, ("deletion", "insertion"), ("small", "large"), strict=True):
    for (order, curve), colour in zip(curves.items(), plotting.METHOD_COLOURS, strict=False):
        mean, line = curve[kind].mean(0), "--" if "random" in order else "-"
        axes.plot(
            np.linspace(0, 1, len(mean)),
            mean,
            line,
            color=colour,
            label=words.get(order, order).replace("\n", " "),
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"share of pixels {kind.replace('ion', 'ed')}")
    axes.set_title(f"{kind}: a {good} area is good")
panels[0].set_ylabel("probability of damaged, mean")
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %%
lines = []
for method in words:
    rival = "pixels" if method in ("integrated_gradients", "smooth_grad") else "windows"
    line = {"method": method, "random": rival}
    for kind, sign in (("deletion", -1), ("insertion", 1)):
        gains = sign * (curves[method][f"{kind}_area"] - curves[f"random {rival}"][f"{kind}_area"])
        line[f"{kind} area"], (mean, low, high) = curves[method][f"{kind}_area"].mean(), interval(gains)
        line[f"{kind}: gain"] = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] {metrics.verdict(low, high, 'better', 'worse')}"
        if (method, kind) == ("occlusion", "deletion"):
            lesson("deleting what occlusion names beats random windows", low > 0, run, source)
    lines.append(line)
deleted = pd.DataFrame(lines).set_index("method")
print(f"logit of the mean colour alone: {paths[0, 0]:+.1f}")
deleted.round(2)

# %% [markdown]
# *Gain* is how much smaller (deletion) or larger (insertion) the area is than that of the random order, image by image. Read the printed logit too. The
# test presumes a neutral baseline. All deletion curves end at the answer for the mean colour alone, whatever is deleted; where that answer is
# *damaged*, as in *quick*, they can rise instead of fall. And a network can be trusted only on images like those that it was trained on; a half-deleted
# image is not like them.
#
# ## Does the map notice the network?
#
# Some maps show edges of the image whatever the network is. The check: draw the weights anew, first of the head, then block after block down to the
# first convolution, and correlate the ranks of each map with those of the trained network's map. **A map that stays near 1 while the network has
# forgotten everything does not explain the network.** The edges of the image do not depend on the network at all, so they must fail this check.

# %%
check, stages = damaged[: attribution.randomised], [group for group in network.groups() if "bn" not in group]
pixels = check.mean(1).numpy(force=True)
edges = np.hypot(*np.gradient(pixels, axis=(1, 2)))


def maps_of(network):
    """The methods that are checked: two that read the network, and one that does not."""
    cams = {
        f"grad_cam{end}": explain.grad_cam(network, network.body, check, plus_plus=bool(end))
        for end in ("", "_plus_plus")
    }
    return cams | {"edges of the image": edges}


before = maps_of(network)
correlations = {method: np.zeros((3, len(stages), len(check))) for method in before}  # draws × stages × images
for seed in range(3):
    partly = copy.deepcopy(network)
    torch.manual_seed(seed)
    for stage, group in enumerate(stages):
        for module in partly.get_submodule(group).modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for method, values in maps_of(partly).items():
            correlations[method][seed, stage] = np.nan_to_num(explain.agreement(before[method], values))

# %%
figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
for number, (method, values) in enumerate(correlations.items()):
    positions, colour = np.arange(len(stages)) + 0.1 * (number - 1), plotting.METHOD_COLOURS[number]
    for draw in values.mean(2):
        axes.plot(positions, draw, "o", color=colour, markersize=5, clip_on=False)
    axes.plot(positions, values.mean((0, 2)), color=colour, label=words.get(method, method), clip_on=False)
axes.axhline(0, color="#8A8A8A", linewidth=1, linestyle=":")
axes.set_xticks(
    range(len(stages)), [f"{'+ ' * (n > 0)}{group.removeprefix('body.')}" for n, group in enumerate(stages)]
)
axes.set(ylim=(-0.5, 1.1), xlabel="weights drawn anew, from the output towards the input", ylabel="rank correlation")
axes.set_title("maps before and after: a point per draw of the weights, mean over images")
figure.legend(loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# The verdict looks at **all** stages. A map *follows the network* if at every stage the 95 % interval of the mean correlation ends below one half; it
# *does not* if at some stage the interval begins above one half; all else is *undecided*. (A map with the same value everywhere has no ranks; its
# correlation counts as zero.)


# %%
def verdict_of(values):
    """From correlations (draws, stages, images): the verdict at each stage, and over all of them."""
    ends = [interval(values[:, stage].mean(0))[1:] for stage in range(values.shape[1])]
    each = [metrics.verdict(low - 0.5, high - 0.5, "does not", "follows") for low, high in ends]
    whole = "follows" if set(each) == {"follows"} else "does not" if "does not" in each else "undecided"
    return dict(zip(stages, each, strict=True)) | {"all stages": whole}


verdicts = pd.DataFrame({method: verdict_of(values) for method, values in correlations.items()}).T
lesson("Grad-CAM follows the network at every stage", verdicts.loc["grad_cam", "all stages"] == "follows", run, source)
verdicts

# %% [markdown]
# Grad-CAM++ keeps only positive slopes, so a head of random signs can change it less than it changes Grad-CAM (first stage of the figure). Passing the
# check is necessary, not sufficient: a map of pure noise passes too.
#
# ## The other networks, the other view
#
# One network and one view prove little. So the next cells measure Grad-CAM and Grad-CAM++ for every classifier of notebook 04, in every view that it
# knows, over all damaged items. The tables go into the artifact.

# %%
cases, lines, scores, unused = {}, [], [], {}
for other, model in models.items():
    for seen in (known for known in views if known in model.finders):
        rows, images, filled = items_of(seen)
        logits, chosen = model.logits(images), rows["label"] == 1
        scores.append(rows[["image_id", "group", "view", "label"]].assign(model=other, score=logits, threshold=0.0))
        inputs = as_tensor(images[chosen]), np.ones(chosen.sum()), cheap[:2]
        values = (
            maps if (other, seen) == (name, view) else attribution.maps(model.network, model.network.body, *inputs)[0]
        )
        unused[other, seen] = interval(contrary(*take_apart(model.network, inputs[0])[:2]))
        cases[other, seen] = values, filled[chosen], logits[chosen]
        lines.append(explain.localisation(values, filled[chosen]).assign(model=other, view=seen))
everything = pd.concat(lines, ignore_index=True)

# %%
cams = everything[everything["method"].isin(cheap[:2])].set_index(["model", "view"])
cams = with_verdict(cams)
print({method: rows["pointing is"].value_counts().to_dict() for method, rows in cams.groupby("method")})
cams[["method", "hits", "covered", "gain", "pointing is", "energy"]]

# %% [markdown]
# The printed line counts verdicts. A sentence such as "Grad-CAM points at the damage" would need *above chance* in every case; with some of them
# *undecided* it holds for those networks and views only. How much of Grad-CAM's evidence lies on cells that speak against the answer differs from
# network to network, too:

# %%
pd.DataFrame(unused, index=["share on cells against the answer, mean", "low", "high"]).T.round(2)

# %% [markdown]
#
# ## The failure case: right, and looking elsewhere
#
# For every damaged item, network and view: was the item found, and did Grad-CAM point at the damage? An item counts once for each network, so the
# printed interval is narrower than it should be.

# %%
found = np.concatenate([logits > 0 for _, _, logits in cases.values()])
hit = np.concatenate([explain.pointing_game(values["grad_cam"], filled) for values, filled, _ in cases.values()])
share = (found & ~hit).sum() / max(1, found.sum())
low, high = metrics.wilson(share, max(1, found.sum()))
print(f"of the damaged items that were found, Grad-CAM points elsewhere in {share:.2f} [{low:.2f}, {high:.2f}]")
lesson("for a third or more of the found items the map points elsewhere", low > 1 / 3, run, source)
verdict, place = np.where(found, "found", "missed"), np.where(hit, "points at the damage", "points elsewhere")
pd.crosstab(pd.Series(verdict, name="verdict"), pd.Series(place, name="Grad-CAM"))

# %%
elsewhere = ~explain.pointing_game(maps["grad_cam"], boxes)
odd = np.flatnonzero(elsewhere)[np.argsort(-answers[elsewhere])][:5]  # the surest of them
why = {sign: explain.grad_cam(network, network.body, damaged[odd], [sign] * len(odd)) for sign in (1, -1)}
pictures = {"cut-out": cuts[odd], "why\ndamaged?": why[1], "why\nintact?": why[-1], "occlusion": maps["occlusion"][odd]}
show(pictures, boxes[odd], [f"logit {logit:+.1f}" for logit in answers[odd]]) if len(odd) else "no such item"

# %% [markdown]
# Found items whose Grad-CAM points elsewhere are successes in a table of accuracies. Either the network was right for another reason than the damage,
# or the map is wrong about the reason; the row of occlusion helps to tell which. Compare the two Grad-CAM maps of a column: there is one for *why
# damaged?* and one for *why intact?*. Both exist for every verdict, so **a map is no evidence for the verdict that it explains**.
#
# ## Masks in place of boxes: a product
#
# The classifier of a product looks at whole pictures. The defects of a product have masks, and these are much smaller than boxes.


# %%
def of_product(category):
    """Defective test images of a product as its classifier sees them, with maps and masks."""
    split = splits.supervised(index.read_category(prepare.unpack(data), category))
    rows = split[(split["part"] == "test") & (split["label"] == 1)].reset_index(drop=True)
    own = next(name for kind, name in classifier.names(artifact) if kind == category)
    model = classifier.restore(artifact, category, own)[0]
    images, transforms = model.cut(rows)
    masks = explain.regions_of(rows, transforms, images.shape[1])
    values, _ = attribution.maps(model.network, model.network.body, as_tensor(images), np.ones(len(rows)), cheap)
    cases[own, category] = values, masks, model.logits(images)
    return own, images, rows["defect"], explain.localisation(values, masks).assign(model=own, view=category)


first = next((name for name in artifact.manifest["categories"] if name != category), None)
studied = where_possible(of_product, [first] if first else [])
everything = pd.concat([everything, *(measures for *_, measures in studied.values())], ignore_index=True)
with_verdict(everything[everything["view"] == first].drop(columns="view")) if studied else print(
    "no product has both a classifier and masks"
)

# %%
for kind, (own, images, defects, _) in studied.items():
    values, masks, _ = cases[own, kind]
    each = defects.groupby(defects).head(2).index[:5]
    pictures = {"picture": images[each]} | {words[method]: values[method][each] for method in cheap}
    display(show(pictures, masks[each], list(defects[each])))

# %% [markdown]
# The masks are small, so a random point rarely hits them, and one hit more or less moves the gain by a lot. Read the verdicts, not the hits: a
# classifier that tells good from defective pictures need not know *where*.
#
# Look also whether a map lights up what is the same in every picture, such as the background around a bottle. A contribution that every picture has
# acts like a bias: it is in the sum, but it does not tell defective from good. A map of one picture cannot show the difference. For the place of a
# defect, notebooks 02 and 03 have methods made for it.
#
# ## Yours, reported, verdict
#
# Nobody else has explained these packages, so no number can be compared. But what papers *claim* can be checked. Each verdict is computed, and each can
# be *undecided*.

# %%
error = np.nanmedian(errors)
pairs = cams.pivot_table(index=["model", "view"], columns="method", values="energy")
more = (pairs["grad_cam_plus_plus"] - pairs["grad_cam"]).to_numpy()
completeness = metrics.verdict(np.nanmin(errors) - 0.05, np.nanmax(errors) - 0.05, "does not agree", "agrees")
follows = {"follows": "agrees", "does not": "does not agree", "undecided": "undecided"}[
    verdicts.loc["grad_cam", "all stages"]
]
located = metrics.verdict(*interval(more)[1:], "agrees", "does not agree") if len(more) > 1 else "undecided"
claims = [
    [
        "error of completeness ≤ .05",
        f"median {error:.3f}, {attribution.path_steps} steps",
        "Sundararajan 2017, section 5",
        completeness,
    ],
    ["Grad-CAM follows the weights", f"at {len(stages)} stages, 3 draws", "Adebayo 2018, section 4.1", follows],
    [
        "Grad-CAM++: more energy in the box",
        f"in {(more > 0).sum()} of {len(more)} cases",
        "yes, on photographs: Chattopadhay 2018, 4.2",
        located,
    ],
]
pd.DataFrame(claims, columns=["claim", "yours", "reported", "verdict"])

# %% [markdown]
# For the first verdict the range of the errors over the images serves as the interval: *agrees* needs every error within the bound. The paper finds 20
# to 300 steps enough ([section 5](https://arxiv.org/abs/1703.01365)). The third verdict comes from the 95 % interval of the mean difference over the
# cases. The cases share images and networks, so this interval is narrower than it should be.
#
# ## Exercises
#
# These go on with what this notebook holds. [Lab 05](../course/labs/05_interpretability.ipynb) has more, on small arrays, with checks that say what differs.
#
# **1.** The baseline is a choice. Compare the maps of integrated gradients from the mean colour with those from black, image by image.
#
# <details><summary>Solution</summary>
#
# ```python
# black = torch.zeros(3, 1, 1)
# dark, _ = explain.integrated_gradients(network, few[:2], [1, 1], black, attribution.path_steps)
# print(explain.agreement(maps["integrated_gradients"][:2], dark).round(2))
# ```
# The same method, network and images, and not the same map: an explanation answers *instead of what?*, and the baseline is that *what*.
# </details>
#
# **2.** Does a map notice the *image*? Correlate the maps of item 1 with those of item 2, item 2 with item 3, and so on. The damage lies elsewhere in each.
#
# <details><summary>Solution</summary>
#
# ```python
# for method, values in maps.items():
#     print(method, np.nanmedian(explain.agreement(values[:-1], values[1:])).round(2))
# ```
# The higher a number, the more a map of one item looks like that of the next: it shows a place where this network always looks.
# </details>
#
# **3.** Put SmoothGrad to the check of randomised weights.
#
# <details><summary>Solution</summary>
#
# Add `"smooth_grad": explain.smooth_grad(network, check, 4)` to what `maps_of` returns, and run the cells of that section again. In *quick* it follows at every stage.
# </details>
#
# ## Save the artifact
#
# The artifact holds the table of all networks, views and methods, the logits, and, in float16, the maps of the first items of each network and view.

# %%
files = {"table.csv": everything, "scores.csv": pd.concat(scores), "deletion.csv": deleted.reset_index()}
for (other, seen), (values, _, _) in cases.items():
    folder = f"{seen if seen in studied else category}/{other}/{models[name].seed}"
    part = "" if seen in studied else f"-{seen}"
    files[f"{folder}/maps{part}.npz"] = {method: each[: len(few)].astype(np.float16) for method, each in values.items()}
about = {"profile": run.name, "data_source": source, "categories": [category, *studied]}
about |= {"metrics": {f"{row.model} {row.view} {row.method}": row.gain for row in everything.itertuples()}}
about |= {"options": attribution.options(), "seed": sorted({model.seed for model in models.values()})}
path = artifacts.save("attributions", files, **about, inputs=[packages, data, artifact])
artifacts.download(path)

# %%
saved = artifacts.load("attributions", profile=run.name)
again = saved.arrays(f"{category}/{name}/{models[name].seed}/maps-{view}.npz")["grad_cam"]
assert np.allclose(again, maps["grad_cam"][: len(few)], rtol=1e-2, atol=1e-3)
print(f"{len(saved.names)} files, {saved.path.stat().st_size / 1e6:.1f} MB; the maps come back as they went")

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * derived integrated gradients, Grad-CAM, SmoothGrad and occlusion by hand and found the package's numbers;
# * checked completeness as a number, and seen how the error falls with more steps;
# * taken the answer apart exactly, and measured how much of Grad-CAM lies on cells that speak against the answer;
# * measured the maps against boxes and masks, compared them with chance, and given intervals and verdicts that can be *undecided*;
# * tested them by deletion and by weights drawn anew, and compared them with random orders and with edges;
# * seen maps that point elsewhere although the answer is right.
#
# **Limits.** A few dozen damaged items: intervals are wide, and rows of a table with similar numbers cannot be told apart. A map explains a network,
# not the damage. Grad-CAM is no finer than the grid of the last block. And a hit is no proof: a network may look at the right place for another reason.
#
# **Next:** [06](06_contrastive_typing.ipynb) asks not whether an item is damaged, but of which kind the damage is.
