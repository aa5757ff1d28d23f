# %% [markdown]
# # 05 · Where does the classifier look?
#
# <!-- badge -->
#
# The classifiers of notebook 04 say *damaged* and *intact*. They were never told where the damage is. In this notebook we will
#
# * **ask** each of them which pixels speak for its answer, with five methods;
# * **derive** integrated gradients, Grad-CAM and Grad-CAM++ by hand, and find captum's numbers;
# * **measure** the maps against the boxes of the damage, beside what random points would hit;
# * **delete** the pixels that are said to matter, and watch the answer;
# * **draw the weights anew** and look whether the maps notice;
# * **find** how much of the evidence is not on the item at all, but on the belt;
# * **watch it fail**: explanations that look convincing, of verdicts that are wrong.
#
# **It reads** `packages.zip` and `data.zip` of [01 · Data preparation](01_data_preparation.ipynb) and `models.zip` of
# [04 · Supervised classification](04_supervised_classifier.ipynb); what is missing is made here. Profile *quick*: a minute on 2 CPU cores, two where nothing is there.
#
# The methods: Sundararajan, Taly, Yan, *Axiomatic Attribution for Deep Networks*, 2017, [arXiv:1703.01365](https://arxiv.org/abs/1703.01365);
# Selvaraju et al., *Grad-CAM*, 2017, [arXiv:1610.02391](https://arxiv.org/abs/1610.02391); Chattopadhay et al., *Grad-CAM++*, 2018,
# [arXiv:1710.11063](https://arxiv.org/abs/1710.11063); Smilkov et al., *SmoothGrad*, 2017, [arXiv:1706.03825](https://arxiv.org/abs/1706.03825);
# Zeiler, Fergus, *Visualizing and Understanding Convolutional Networks*, 2014, [arXiv:1311.2901](https://arxiv.org/abs/1311.2901). How
# they are judged: Zhang et al. 2016, [arXiv:1608.00507](https://arxiv.org/abs/1608.00507); Petsiuk et al., *RISE*, 2018,
# [arXiv:1806.07421](https://arxiv.org/abs/1806.07421); Adebayo et al., *Sanity Checks for Saliency Maps*, 2018,
# [arXiv:1810.03292](https://arxiv.org/abs/1810.03292).

# %%
# <setup>

# %%
import copy
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from IPython.display import display
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from sklearn.metrics import roc_auc_score

from mvtec_ad import artifacts, plotting, profile
from mvtec_ad.augment import standardise
from mvtec_ad.config import pin
from mvtec_ad.data import index, prepare, splits
from mvtec_ad.methods import classifier, explain
from mvtec_ad.methods.base import as_tensor, enlarge
from mvtec_ad.methods.items import MARGIN
from mvtec_ad.metrics import format_number
from mvtec_ad.notebooks import leave_out_rest, lesson, where_possible
from mvtec_ad.stages import need

# %%
PROFILE = "quick"  # @param ["quick", "full"]
OTHER_PROFILE = False  # @param {type:"boolean"}

run = profile(PROFILE)
pin(run)
attribution = explain.Attribution.preset(run.name)
packages, data, artifact = need(run, "packages", "data", "models", other_profile=OTHER_PROFILE).values()
category = packages.manifest["categories"][0]
product = next((name for name in artifact.manifest["categories"] if name != category), None)
source = packages.manifest["data_source"]
plt.rcParams.update(plotting.STYLE)
table = index.read_category(prepare.unpack(packages), category)
test = table[table["split"] == "test"].reset_index(drop=True)
views = sorted(test["view"].unique())
names = [name for kind, name in classifier.names(artifact) if kind == category]
names.sort(key=lambda name: not name.startswith(classifier.Classifier().backbone))  # those of the first network first
loaded = {name: classifier.restore(artifact, category, name) for name in names}
print(f"profile {run.name}; packages: {source}, views: {', '.join(views)}; product: {product}")
print(", ".join(loaded))

# %% [markdown]
# ## Five images first
#
# Of each view we take the test items, as many damaged as intact ones; figures show a few, measures take all. The images are **cuts**: what the classifier
# sees. The box of the damage was drawn in the whole picture and is moved onto the cut; for intact items the box is the item itself.


# %%
cut_of = {}  # view -> cuts and transforms: all models of notebook 04 have the same finders


def studied(name, view):
    """What a model sees of the chosen test items in a view: cuts, boxes, and its logits."""
    model, _ = loaded[name]
    half = attribution.images // 2
    rows = test[test["view"] == view].sort_values("group").groupby("label").head(half)
    rows = rows.sort_values("label", ascending=False, kind="stable").reset_index(drop=True)
    if view not in cut_of:
        cut_of[view] = model.cut(rows)
    images, transforms = cut_of[view]
    labels = rows["label"].to_numpy()
    return SimpleNamespace(
        name=name,
        view=view,
        model=model,
        network=model.network,
        rows=rows,
        images=images,
        pixels=as_tensor(images),  # (N, 3, S, S) in [0, 1]
        transforms=transforms,
        labels=labels,
        signs=2 * labels - 1,  # +1: why damaged? −1: why intact?
        regions=explain.regions_of(rows, transforms, images.shape[1]),
        logits=model.logits(images),
        threshold=0.0,  # a probability of one half
    )


# %%
shown_in = {name: [view for view in views if view in model.finders] for name, (model, _) in loaded.items()}
cases = {(name, view): studied(name, view) for name, known in shown_in.items() for view in known}
one_view = {view: next(key for key in cases if key[0].endswith(f"-{view}")) for view in views}
some = [(cases[one_view[view]], position) for view in views for position in (0, 1, -1)]
plotting.gallery(
    [case.images[position] for case, position in some],
    titles=[f"{case.view}: {'damaged' if case.labels[position] else 'intact'}" for case, position in some],
    masks=[case.regions[position] for case, position in some],
    columns=6,
    size=1.6,
)

# %%
size = {view: 100 * cases[key].regions[cases[key].labels == 1].mean() for view, key in one_view.items()}
print({view: f"damage covers {share:.1f} % of a cut" for view, share in size.items()})
lost = {f"{name} on {view}": int((~cases[name, view].regions.any((1, 2))).sum()) for name, view in one_view.values()}
print("cuts that do not show their box at all:", lost)
verdicts = {key: f"{((case.logits > case.threshold) == case.labels).mean():.2f}" for key, case in cases.items()}
print("share of right verdicts:", {f"{name} on {view}": share for (name, view), share in verdicts.items()})

# %% [markdown]
# Keep these shares in mind. **A map can only show what a network has learned**: an honest map of a network that does not know where the damage is must not point at the damage. The
# network that judges worse here, the ResNet-18, has learned from drawn textures alone.
#
# ## The question: how much of the answer is due to this pixel?
#
# Take a function that is small enough to know the answer: $f(x)=x_1x_2$, at $x=(0.8, 0.5)$. The gradient is $(x_2,x_1)$: pixel 1 has the *smaller*
# slope although both are needed alike. A slope says what a small change does, not what the pixel contributes. **Integrated gradients** adds up
# the slopes on the straight way from a baseline $x'$, an image that shows nothing, to $x$, equation (1):
#
# $$\mathrm{IG}_i(x)=(x_i-x'_i)\int_0^1\frac{\partial f\bigl(x'+\alpha(x-x')\bigr)}{\partial x_i}\,d\alpha .$$
#
# Here with $x'=0$: on the way both values are $\alpha x$, the slope of pixel 1 is $\alpha x_2$, and
# $\mathrm{IG}_1=x_1\int_0^1\alpha x_2\,d\alpha=\tfrac12x_1x_2$. The same for pixel 2: each gets half, and the sum is $f(x)-f(x')$. That is
# **completeness**, and no other method here has it.


# %%
class Product(torch.nn.Module):
    """Red of the first pixel times red of the second."""

    def forward(self, images):
        return images[:, 0, 0, 0] * images[:, 0, 0, 1]


x = torch.zeros(1, 3, 1, 2)
x[0, 0, 0] = torch.tensor([0.8, 0.5])
alphas = (np.arange(1000) + 0.5) / 1000
by_hand = [0.8 * (alphas * 0.5).mean(), 0.5 * (alphas * 0.8).mean()]
by_captum = IntegratedGradients(Product()).attribute(x, torch.zeros_like(x), method="gausslegendre")[0, 0, 0]
by_package, errors = explain.integrated_gradients(Product().eval(), x, [1], torch.zeros(3, 1, 1))
print("by hand", np.round(by_hand, 6), "captum", by_captum.numpy(), "package", by_package[0, 0])
assert np.allclose(by_hand, 0.5 * 0.8 * 0.5)
assert np.allclose(by_captum, by_hand, atol=1e-6)
assert np.allclose(by_package[0, 0], by_hand, atol=1e-6)
assert errors[0] < 1e-6

# %% [markdown]
# ## Grad-CAM, by hand
#
# Integrated gradients goes through the network down to the pixels. **Grad-CAM** stops at the last feature maps $A^k$. Each channel is weighted by
# its mean slope, equation (1), and what speaks against the answer is dropped, equation (2):
#
# $$\alpha_k=\frac1Z\sum_{ij}\frac{\partial y}{\partial A^k_{ij}},\qquad L=\mathrm{ReLU}\Bigl(\sum_k\alpha_kA^k\Bigr).$$
#
# The features of EfficientNet-Lite may be negative, those that Grad-CAM was made for are not; nothing in these two equations minds. $y$ is the logit. For an intact item the question is *why intact?*, and $y$ is minus the logit.

# %%
case = cases[one_view[views[-1]]]
network, image = case.network, case.pixels[:1]
A = network.body(standardise(image)).detach().requires_grad_()
pooled = torch.cat([torch.nn.functional.adaptive_avg_pool2d(A, cells).flatten(1) for cells in network.pyramid], 1)
y = network.head(pooled)[0, 0]
slopes = torch.autograd.grad(y, A)[0]
alpha = slopes.mean((2, 3), keepdim=True)
by_hand = (alpha * A).sum(1).relu()[0].numpy(force=True)
by_captum = LayerGradCam(network, network.body).attribute(image, relu_attributions=True)[0, 0].numpy(force=True)
print(f"{A.shape[1]} channels on a {A.shape[2]}×{A.shape[3]} grid; ", end="")
print(f"largest value by hand {by_hand.max():.5f}, captum {by_captum.max():.5f}")
assert np.isclose(float(y), case.logits[0], rtol=1e-3, atol=1e-4)
assert np.allclose(by_hand, by_captum, rtol=1e-3, atol=1e-5)

# %% [markdown]
# **Grad-CAM++**, which captum does not have, does not average the slopes but weighs each place, and counts only slopes that are positive. For a network that is linear
# from one ReLU to the next, equation (19) becomes
#
# $$w_k=\sum_{ij}\alpha^k_{ij}\,\mathrm{ReLU}(g^k_{ij}),\qquad \alpha^k_{ij}=\frac{1}{2+g^k_{ij}\sum_{ab}A^k_{ab}},\qquad g=\frac{\partial y}{\partial A}.$$

# %%
alphas = 1 / (2 + slopes * A.sum((2, 3), keepdim=True))
weights = (alphas * slopes.relu()).sum((2, 3), keepdim=True)
by_hand_plus = (weights * A).sum(1).relu().detach()
by_package = explain.grad_cam(network, network.body, image, plus_plus=True)  # enlarged to the size of the image
by_hand_large = enlarge(by_hand_plus, image.shape[2:])
print(f"largest value, enlarged: by hand {by_hand_large.max():.5f}, package {by_package.max():.5f}")
assert np.allclose(by_hand_large, by_package, rtol=1e-3, atol=1e-5)

# %%
channel = int((alpha * A).detach().mean((2, 3)).argmax())
grids = {
    f"channel {channel}": A[0, channel].numpy(force=True),
    "Grad-CAM": by_hand,
    "Grad-CAM++": by_hand_plus[0].numpy(force=True),
}
figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained")
plotting.show_image(axes[0], case.images[0])
plotting.draw_mask(axes[0], case.regions[0], case.regions[0].shape)
axes[0].set_title("the cut")
for axis, (name, grid) in zip(axes[1:], grids.items(), strict=True):
    axis.imshow(grid, cmap=plotting.ANOMALY_MAP)
    axis.set_title(name)
    plotting.bare(axis)
plt.show()

# %% [markdown]
# On the left the cut with the box of the damage; then the channel that speaks most for *damaged*, and the two sums over all channels. Note how coarse the
# grid is: a cell is 16 pixels wide whatever the image. Equation (19) was derived for features that are never negative; where a channel's sum is, its divisor can come close to zero and blow
# that channel up, so Grad-CAM++ is to be read with care here. Both maps are enlarged to the size of the image, and look smoother than they are.
#
# ## All maps at once
#
# Two more methods ask differently. **SmoothGrad** averages the plain gradient over noisy copies and drops the sign: it says *sensitive here*, not *for
# what*. **Occlusion** covers one window after the other and notes how far the answer falls; it needs no gradient, and many passes. The baseline
# everywhere is the mean colour of the images explained. Each is a few lines; captum has them too, and draws the same noise from the same seed.

# %%
torch.manual_seed(0)
noise = torch.randn((attribution.noisy_copies, *image.shape[1:]), device=image.device)
noisy = (image + 0.15 * (image.max() - image.min()) * noise).requires_grad_()
slopes = torch.autograd.grad(network(noisy).sum(), noisy)[0]
by_hand = slopes.mean(0).abs().sum(0).numpy(force=True)
by_captum = explain.smooth_grad(network, image, attribution.noisy_copies)[0]
print(f"SmoothGrad: largest value by hand {by_hand.max():.4f}, captum {by_captum.max():.4f}")
assert np.allclose(by_hand, by_captum, atol=0.02 * by_captum.max())

# %%
step = image.shape[-1] // (attribution.windows + 1)  # windows are two steps wide and overlap by half
colour = case.pixels.mean((0, 2, 3))[:, None, None]
fall, count = torch.zeros(2, *image.shape[2:])
with torch.no_grad():
    for top in range(0, image.shape[2] - step, step):
        for left in range(0, image.shape[3] - step, step):
            window = (..., slice(top, top + 2 * step), slice(left, left + 2 * step))
            covered = image.clone()
            covered[window] = colour
            fall[window] += float(network(image) - network(covered))
            count[window] += 1
by_captum = explain.occlusion(network, image, [1], colour, window=2 * step, stride=step)[0]
print(f"occlusion: largest fall by hand {(fall / count).max():.4f}, captum {by_captum.max():.4f}")
assert np.allclose(fall / count, by_captum, atol=0.01 * np.abs(by_captum).max())

# %% [markdown]
# Grad-CAM and Grad-CAM++ are cheap: every model is asked about all damaged items, and about a few intact ones. The others cost many passes an image, so only the models of a single view are asked:
# by occlusion, in coarse windows, about the same items, by the two others about a few of each kind.


# %%
def first_of(case, count):
    """Positions of the first damaged and the first intact images of a case, as many of one as of the other."""
    return np.concatenate([np.flatnonzero(case.labels == label)[: count // 2] for label in (1, 0)])


def select(case, method, positions):
    """Maps by a method of images at these positions, which it must have explained."""
    rows = {position: row for row, position in enumerate(case.explained[method])}
    return case.maps[method][[rows[position] for position in positions]]


for key, case in cases.items():
    case.few = first_of(case, attribution.few)
    damaged_and_few = np.union1d(np.flatnonzero(case.labels == 1), case.few)
    asked = {("grad_cam", "grad_cam_plus_plus"): damaged_and_few}
    if key in one_view.values():
        asked |= {("occlusion",): damaged_and_few, ("integrated_gradients", "smooth_grad"): case.few}
    case.maps, case.explained = {}, {}
    for methods, chosen in asked.items():
        maps, errors = attribution.maps(
            case.network, case.network.body, case.pixels[chosen], case.signs[chosen], methods
        )
        case.maps |= maps
        case.explained |= dict.fromkeys(methods, chosen)  # which images
        case.errors = errors if len(errors) else getattr(case, "errors", errors)
for view in views:
    case = cases[one_view[view]]
    typical, largest = np.nanmedian(case.errors), np.nanmax(case.errors)
    print(f"{case.name}: {len(case.errors)} images, median error of completeness {typical:.3f}, largest {largest:.3f}")

# %% [markdown]
# Completeness holds for the exact integral; with few steps it is off by the error printed. A large error of one image is mostly a small divisor: an image
# whose logit hardly differs from that of the baseline.
#
# ### One method, several networks


# %%
PEAKS = {  # shape and colour both tell whether the largest value lies inside
    True: {"marker": "o", "color": "#56F5A5", "markerfacecolor": "none", "label": "largest value inside"},
    False: {"marker": "x", "color": "#FFFFFF", "label": "largest value outside"},
}
for style in PEAKS.values():
    style |= {"linestyle": "", "markersize": 8, "markeredgewidth": 1.6}
    style["path_effects"] = [Stroke(linewidth=3.2, foreground="black"), Normal()]


def map_rows(images, columns, regions, titles=None, size=1.5):
    """A row per image, its region outlined; a column per name of its maps over the grey image, on one scale a column."""
    figure = plotting.new_figure((len(columns) + 1) * size + 1.6, len(images) * size + 0.7)
    grid = figure.subplots(len(images), len(columns) + 1, squeeze=False)
    for axes, image, region, title in zip(grid[:, 0], images, regions, titles or [""] * len(images), strict=True):
        plotting.draw_mask(axes, region, plotting.show_image(axes, image), 1.2)
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
    for column, maps in zip(grid[:, 1:].T, map(np.stack, columns.values()), strict=True):
        limit = np.percentile(maps[maps > 0], 99.5) if (maps > 0).any() else 1
        for axes, image, region, values in zip(column, images, regions, maps, strict=True):
            plotting.show_image(axes, image.mean(2) / 255)
            shares = (values / limit).clip(0, 1)
            axes.imshow(shares, cmap=plotting.ANOMALY_MAP, vmin=0, vmax=1, alpha=np.minimum(1.5 * shares, 0.85))
            peak = np.unravel_index(values.argmax(), values.shape)
            if np.ptp(values):
                axes.plot(peak[1], peak[0], **PEAKS[bool(region[peak])])
    for axes, name in zip(grid[0], ["image", *columns], strict=True):
        axes.set_title(name, fontsize=9)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), plotting.ANOMALY_MAP), ax=grid, fraction=0.05, pad=0.01, aspect=30
    )
    bar.set_label("evidence, per column")
    bar.outline.set_visible(False)
    figure.legend(handles=[Line2D([], [], **style) for style in PEAKS.values()], loc="outside lower center", ncols=2)
    return figure


# %%
def side_by_side(positions):
    """Images, Grad-CAM maps of each network that knows all views, regions and titles, as `map_rows` takes them."""
    chosen = [(cases[one_view[view]], position) for view in views for position in positions]
    models = {"one per view": one_view}
    for name in loaded:
        if all((name, view) in cases for view in views):
            models[name.removesuffix("-all")] = {view: (name, view) for view in views}
    columns = {
        name: [select(cases[keys[case.view]], "grad_cam", [position])[0] for case, position in chosen]
        for name, keys in models.items()
    }
    images, regions = ([getattr(case, kind)[position] for case, position in chosen] for kind in ("images", "regions"))
    titles = [f"{case.view}\n{'damaged' if case.labels[position] else 'intact'}" for case, position in chosen]
    return images, columns, regions, titles


map_rows(*side_by_side(first_of(case, attribution.few)[[0, 1, -1]]))

# %% [markdown]
# Rows are images, columns networks. The first two columns are EfficientNet-Lite0 with a head for one view or for both; the last is the ResNet-18 that saw no photographs.
# Each column has one scale of its own. Where a picture stays grey, nothing speaks for the label in that network.
#
# ### One network, several methods

# %%
case = cases[one_view[views[-1]]]
some = first_of(case, attribution.few)[[0, 1, -1]]
map_rows(
    case.images[some],
    {name.replace("_", " "): select(case, name, some) for name in case.maps},
    case.regions[some],
    [f"{'damaged' if case.labels[n] else 'intact'}\nlogit {case.logits[n]:+.1f}" for n in some],
)

# %% [markdown]
# The same network and the same images, five answers. Whoever shows one of them has chosen. So they are measured.

# %%
if not any(case.regions.any() for case in cases.values()):
    leave_out_rest("it measures whether maps point at the damage, and none of these items has a box")

# %% [markdown]
# ## In numbers: does the map point at the damage?
#
# The **pointing game**: does the largest value lie in the box? A large box is hit by chance, so we take off the share of the image that the box
# covers: what a random point would hit. Zero is chance. The interval is a bootstrap over images. Damaged items (question *why damaged?*, box of the
# damage) and intact ones (*why intact?*, box of the item) are kept apart: to point at the item is much easier.


# %%
def numbers(case, label):
    """A row per method about the damaged (1) or intact (0) items of a case."""
    few = case.labels[case.few] == label
    for method in case.maps:
        explained = case.explained[method]
        annotated = explained[(case.labels[explained] == label) & case.regions[explained].any((1, 2))]
        regions, maps = case.regions[annotated], select(case, method, annotated)
        areas = regions.mean((1, 2))
        row = {"model": case.name, "view": case.view, "items": "damaged" if label else "intact", "method": method}
        row["images"] = len(regions)
        if len(regions):
            hits, pairs = explain.pointing_game(maps, regions), zip(regions, maps, strict=True)
            aurocs = [roc_auc_score(region.ravel(), values.ravel()) for region, values in pairs if not region.all()]
            row |= {"hits": hits.mean(), "covered": areas.mean()}
            row["gain"], row["gain_low"], row["gain_high"] = explain.pointing_against_area(hits, areas).values()
            row["energy"] = pd.Series(explain.energy_inside(maps, regions)).mean()  # leaves nan out
            row["region_auroc"] = pd.Series(aurocs, dtype=float).median()
        for kind in ("deletion", "insertion") if method in case.curves else ():
            row[kind] = case.curves[method][f"{kind}_area"][few].mean()
        yield row


for key, case in cases.items():
    case.curves = {}  # method -> curves and areas of deletion and insertion
    for name in case.maps if key in one_view.values() else ():
        inputs = case.pixels[case.few], select(case, name, case.few), case.signs[case.few]
        case.curves[name] = explain.deletion_insertion(case.network, *inputs, attribution.removals)
measured = pd.DataFrame(row for case in cases.values() for label in (1, 0) for row in numbers(case, label))


# %%
def wide(rows, values):
    """Models below one another, methods side by side."""
    table = rows.pivot(index=["model", "view"], columns="method", values=values).dropna(how="all")
    names = [name for name in explain.METHODS if name in table]
    return table[names].round(2).astype(object).fillna("–")


measured["shown"] = [f"{row.gain:+.2f} [{row.gain_low:+.2f}, {row.gain_high:+.2f}]" for row in measured.itertuples()]
on_damage, on_items = (measured[measured["items"] == kind] for kind in ("damaged", "intact"))
wide(on_damage, "shown")

# %% [markdown]
# Hits minus covered share, with its interval; a dash where a method was not asked. A row is better than chance where its interval lies above zero, and nothing is shown
# where it holds zero. The bottom line:

# %%
asked = on_damage[on_damage["model"].isin([name for name, _ in one_view.values()])]
for row in asked.itertuples():
    words = "above chance" if row.gain_low > 0 else "below chance" if row.gain_high < 0 else "undecided"
    print(f"{row.view}, {row.method}: {row.hits * row.images:.0f} hits of {row.images}, gain {row.shown}: {words}")
hits, areas = [], []
for key in one_view.values():
    case = cases[key]
    chosen = np.flatnonzero((case.labels == 1) & case.regions.any((1, 2)))
    hits.append(explain.pointing_game(select(case, "occlusion", chosen), case.regions[chosen]))
    areas.append(case.regions[chosen].mean((1, 2)))
gain = explain.pointing_against_area(np.concatenate(hits), np.concatenate(areas))
print("occlusion, both views together: gain {mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**gain))
lesson("occlusion points at the damage more often than chance", gain["low"] > 0, run, source)

# %% [markdown]
# Occlusion asks the network directly, and the damage does matter to it. Grad-CAM averages the slopes of a channel over the whole grid, and this head weighs every place by itself (the pyramid), so part of what it
# knows of places is averaged away. A row with few images has a wide interval whatever it shows; the best of many rows is lucky.
#
# Two measures use the whole map, not only its peak:

# %%
wide(on_damage, "energy")

# %%
wide(on_damage, "region_auroc")

# %% [markdown]
# *Energy* is the share of positive evidence inside the box, to be compared with the share that the box covers, which was printed at the beginning. *Region AUROC* asks
# how often a pixel inside beats one outside; one half is chance. A method whose maps are near zero at most pixels, inside the box and elsewhere, has a region AUROC near one half
# however well its few large values lie.

# %%
wide(on_items, "shown")

# %% [markdown]
# For intact items, the box is the item, and it fills most of a cut. Here a peak anywhere on the package is a hit, for any network: **a perfect score in the pointing game can be earned
# without having learned anything**. So the gain cannot be large either: what lies above chance is at most the share that the box leaves free.
#
# ## Delete what matters
#
# A box says what *should* matter. Whether it *does* matter to the network can be tested without any box: replace the pixels by the mean colour, the most
# important first, and watch the probability of the answer fall (**deletion**); or begin with the mean colour and put them back (**insertion**).

# %%
case = cases[one_view[views[-1]]]
figure, panels = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
for axes, kind, good in zip(panels, ("deletion", "insertion"), ("small", "large"), strict=True):
    for (name, curves), colour in zip(case.curves.items(), plotting.METHOD_COLOURS, strict=False):
        damaged = case.labels[case.few] == 1
        mean, area = curves[kind][damaged].mean(0), curves[f"{kind}_area"][damaged].mean()
        label = f"{name.replace('_', ' ')}: {format_number(area)}"
        axes.plot(np.linspace(0, 1, len(mean)), mean, color=colour, label=label, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"share of pixels {kind.replace('ion', 'ed')}")
    axes.set_title(f"{kind}: a {good} area is good")
    axes.legend(title="mean area", alignment="left", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
panels[0].set_ylabel("probability of the answer explained, mean")
plt.show()

# %%
for view in views:
    case = cases[one_view[view]]
    grey = np.broadcast_to(case.images.mean((0, 1, 2)).astype(np.uint8), case.images[:1].shape)
    print(f"{case.name}: logit of the mean colour alone {case.model.logits(np.ascontiguousarray(grey))[0]:+.1f}")
wide(on_damage, "deletion")

# %%
wide(on_damage, "insertion")

# %% [markdown]
# Read the printed logits first. The test presumes that the baseline is *neutral*, and it need not be: where the mean colour alone has a logit far from zero, the network calls a plain
# square damaged, or intact, with some certainty, and then the answer moves towards that whatever is deleted. A network is
# only good for images like those that it was trained on; a deleted image is none. The same shadow falls on integrated gradients: its sums are complete, but what they add up to is the
# difference to that square. And the means are those of a few items: small differences between methods say nothing.
#
# ## Does the map notice the network?
#
# Some maps show edges of the image whatever the network is. The check: draw the weights anew, first of the head, then of one block after the other
# down to the first convolution, and correlate the ranks of each map with those of the trained network. A map that stays near 1 while the network has forgotten
# everything does not explain the network.

# %%
case = cases[one_view[views[-1]]]
half = attribution.randomised // 2
few = np.concatenate([np.flatnonzero(case.logits > 0)[:half], np.flatnonzero(case.logits <= 0)[:half]])
verdict = np.where(case.logits[few] > 0, 1, -1)  # its own answer is explained
cheap = [name for name in explain.METHODS if "grad_cam" in name]
dear = ["integrated_gradients", "smooth_grad"]


def explained_by(network):
    """Method -> maps of these images; of the dear methods of one with each verdict."""
    two = [0, -1]
    maps, _ = attribution.maps(network, network.body, case.pixels[few], verdict, cheap)
    return maps | attribution.maps(network, network.body, case.pixels[few[two]], verdict[two], dear)[0]


before = explained_by(case.network)
correlations = {name: {} for name in before}
partly = copy.deepcopy(case.network)
for stage, group in enumerate(name for name in partly.groups() if "bn" not in name):
    torch.manual_seed(int(np.random.default_rng([0, stage]).integers(2**63)))
    for module in partly.get_submodule(group).modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # weights as those of a new layer, and no statistics of batch normalisation
    for name, maps in explained_by(partly).items():
        correlations[name][group.removeprefix("body.")] = explain.agreement(before[name], maps)

# %%
figure, axes = plt.subplots(figsize=(10.1, 4.2), layout="constrained")
for number, (name, values) in enumerate(correlations.items()):
    positions, colour = np.arange(len(values)) + 0.1 * (number - 2), plotting.METHOD_COLOURS[number]
    low, middle, high = pd.DataFrame(values).quantile([0.25, 0.5, 0.75]).to_numpy()  # nan is left out
    axes.vlines(positions, low, high, color=colour, linewidth=1.2)
    axes.plot(positions, middle, color=colour, marker="o", markersize=5, label=name.replace("_", " "))
axes.axhline(0, color="#8A8A8A", linewidth=1, linestyle=":")
axes.set_xticks(range(len(values)), [f"{'+ ' * (n > 0)}{group}" for n, group in enumerate(values)])
axes.set(ylim=(-1, 1), xlabel="weights drawn anew, from the output towards the input")
axes.set_ylabel("rank correlation with the trained network's map")
axes.set_title("median and quartiles over images; a map that stays near 1 does not show what was learnt")
axes.grid(axis="x", visible=False)
figure.legend(loc="outside right center")
plt.show()

# %%
left = {
    name: [np.nanmedian(values) if np.isfinite(values).any() else np.nan for values in stages.values()]
    for name, stages in correlations.items()
}
pd.DataFrame(left, index=list(next(iter(correlations.values())))).round(2).T

# %% [markdown]
# Each row should fall towards zero. The rule for a verdict looks at **all** stages: a map *follows the network* if at every stage the 95 % interval of its mean correlation lies
# within ±½, it *does not* if at some stage the interval lies above ½, and all else is undecided, as where a map is the same everywhere and has no ranks, or where only two images were asked.


# %%
def follows(stages):
    """Verdict over all stages of the randomisation, from the correlations of several images at each."""
    bounds = []
    for values in stages.values():
        if len(values) < 3 or not np.isfinite(values).all():
            return "undecided"
        means = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
        bounds.append(np.quantile(means, [0.025, 0.975]))
    return (
        "does not"
        if any(low > 0.5 for low, _ in bounds)
        else "follows the network"
        if (np.abs(bounds) < 0.5).all()
        else "undecided"
    )


verdicts = {name: follows(stages) for name, stages in correlations.items()}
verdicts

# %% [markdown]
# (Occlusion is left out: it would cost as much as all others together.) Grad-CAMs are coarse, a few cells a side: so few numbers are ranked that chance alone gives correlations off zero.
#
# ## Does the map notice the image?
#
# The check has a sister that is asked less often. Compare the maps of one network for *different* images: item 1 with item 2, item 2 with item 3,
# and so on. Damage lies somewhere else in each, so maps that follow it must differ.

# %%
lines = {}
for view in views:
    case = cases[one_view[view]]
    damaged_maps = {name: maps[case.labels[case.explained[name]] == 1] for name, maps in case.maps.items()}
    lines[f"{case.name}, {view}"] = {
        name: np.nanmedian(explain.agreement(maps[:-1], maps[1:])) for name, maps in damaged_maps.items()
    }
pd.DataFrame(lines).T.round(2)

# %% [markdown]
# The higher a number, the more a map of one item looks like that of the next. Such maps show a place that the network always looks at, and whoever sees only one of them, with damage near
# that place, takes it for an explanation. In part this is due
# to the registered cuts: from above, print and edges lie at the same place in all of them.
#
# ## Do networks agree?
#
# If two networks have learned the same damage, their maps of an image must look alike: rank correlation of Grad-CAM, median over images.

# %%
lines = {}
for view in views:
    reference = cases[one_view[view]].maps["grad_cam"]
    for (name, other), case in cases.items():
        if other == view and (name, view) != one_view[view]:
            both = explain.agreement(reference, case.maps["grad_cam"])
            lines.setdefault(f"{one_view[view][0]} and …", {})[name] = np.nanmedian(both)
pd.DataFrame(lines).T.round(2)

# %% [markdown]
# The network of a view and the one for both views stand on the same features and differ in their heads alone; with the ResNet-18 they share nothing but the images.
#
# ## On the item, or on the belt?
#
# Nothing on the belt can damage a package. Evidence that lies there is a mistake of the network, or of the map. Where the item is, the finder knows: a registered
# cut shows it in a square with a margin of 5 %; other cuts show its upright bounding box and 20 %, so that belt in the corners of that box counts
# as item here, and the shares below are lower bounds.


# %%
def items_of(case):
    """Where the item lies in each cut, (N, S, S) bool; a cut that fell back to the box is known by not being turned."""
    registered = case.model.roi == "registered" and case.model.finders[case.view].registers
    turned = (case.transforms[:, [0, 1], [1, 0]] != 0).any(1)
    margins = np.where(registered & turned, MARGIN["registered"], MARGIN["item"])
    size = case.images.shape[1]
    distances = np.abs(np.arange(size) - (size - 1) / 2)
    inside = distances <= size / margins[:, None] / 2
    return inside[:, :, None] & inside[:, None]


lines = []
for (name, view), case in cases.items():
    case.items = items_of(case)
    line = {"model": name, "view": view, "belt's share of area": 1 - case.items.mean()}
    for method, maps in case.maps.items():
        line[method] = np.nanmean(1 - explain.energy_inside(maps, case.items[case.explained[method]]))
    lines.append(line)
belt = pd.DataFrame(lines).set_index(["model", "view"])
belt.round(2)

# %%
view = max(views, key=lambda view: belt.loc[one_view[view], "belt's share of area"])
case = cases[one_view[view]]
covered = case.explained["occlusion"]
outside = 1 - explain.energy_inside(case.maps["occlusion"], case.items[covered])
order = covered[np.argsort(-np.nan_to_num(outside))[:3]]
map_rows(
    case.images[order],
    {name.replace("_", " "): select(case, name, order) for name in ("occlusion", "grad_cam", "grad_cam_plus_plus")},
    case.items[order],
    [f"{view}\n{'damaged' if case.labels[n] else 'intact'}" for n in order],
    size=1.6,
)

# %% [markdown]
# The three images with the largest share on the belt; the outline is the square of the item. A share near that of the area is what a constant map would have: then belt and item
# are the same to that network, or to that method. A share well below it says that the evidence lies on the item. Occlusion asks the network
# directly: it covers belt and package alike, and notes what changes the answer.
#
# ## Masks in place of boxes: the product
#
# The classifier of the product looks at whole pictures, and its defects have masks.


# %%
def of_product(product):
    """What the classifier of a product sees of its defective test images, with the maps and their measures."""
    split = splits.supervised(index.read_category(prepare.unpack(data), product))
    rows = split[(split["part"] == "test") & (split["label"] == 1)].reset_index(drop=True)
    model, description = classifier.restore(
        artifact, product, next(name for kind, name in classifier.names(artifact) if kind == product)
    )
    images, transforms = model.cut(rows)
    whole = SimpleNamespace(name=description["name"], view=product, model=model, network=model.network, rows=rows)
    whole.images, whole.pixels, whole.labels = images, as_tensor(images), rows["label"].to_numpy()
    whole.regions, whole.signs = explain.regions_of(rows, transforms, images.shape[1]), 2 * whole.labels - 1
    names = ["grad_cam", "grad_cam_plus_plus", "occlusion"]
    whole.maps, _ = attribution.maps(whole.network, whole.network.body, whole.pixels, whole.signs, names)
    whole.few, whole.curves = np.arange(0), {}  # deletion and insertion are left out
    whole.explained = dict.fromkeys(names, np.arange(len(rows)))
    return whole


studied_product = where_possible(of_product, [product] if product else [])
if not studied_product:
    print("no product has both a classifier and masks, so this section is left out")
lines = pd.DataFrame(
    [line for whole in studied_product.values() for line in numbers(whole, 1)], columns=measured.columns
)
measured = pd.concat([measured, lines], ignore_index=True) if len(lines) else measured
lines[["method", "images", "hits", "covered", "gain", "gain_low", "gain_high", "energy", "region_auroc"]].round(2)

# %%
for whole in studied_product.values():
    kinds = whole.rows[whole.rows["label"] == 1].groupby("defect").head(1).index
    display(
        map_rows(
            whole.images[kinds],
            {name.replace("_", " "): maps[kinds] for name, maps in whole.maps.items()},
            whole.regions[kinds],
            list(whole.rows["defect"][kinds]),
            size=1.6,
        )
    )

# %% [markdown]
# Three maps of the same network over the same product, one image of each type of defect; the table above counts the hits of all that were asked about.
#
# ## The failure case: convincing, and wrong
#
# Every damaged item of every network: was the verdict right, and did the Grad-CAM of *why damaged?* point at the damage?

# %%
lines = []
for (name, view), case in cases.items():
    chosen = case.labels == 1
    columns = {"position": np.flatnonzero(chosen), "logit": case.logits[chosen]}
    columns["right"] = columns["logit"] > case.threshold
    columns["hit"] = explain.pointing_game(select(case, "grad_cam", columns["position"]), case.regions[chosen])
    lines.append(pd.DataFrame({"model": name, "view": view, **columns}))
damaged = pd.concat(lines, ignore_index=True)
words = damaged.replace(
    {"right": {True: "found", False: "missed"}, "hit": {True: "points at the damage", False: "points elsewhere"}}
)
pd.crosstab(words["right"], words["hit"])

# %%
odd = [damaged[damaged["right"] == right][damaged["hit"] != right] for right in (False, True)]
both = pd.concat([rows.sort_values("logit", ascending=False).head(2) for rows in odd])
pictures, outlines, answers, titles = [], [], {"why damaged?": [], "why intact?": []}, []
for row in both.itertuples():
    case = cases[row.model, row.view]
    pictures.append(case.images[row.position])
    outlines.append(case.regions[row.position])
    for sign, maps in zip((1, -1), answers.values(), strict=True):
        maps += list(explain.grad_cam(case.network, case.network.body, case.pixels[[row.position]], [sign]))
    titles.append(f"{'found' if row.right else 'missed'}\n{row.model}, {row.view}\nlogit {row.logit:+.1f}")
map_rows(pictures, answers, outlines, titles, size=1.7) if pictures else "no such image"

# %% [markdown]
# The table counts verdicts on damaged items, of all networks and views, by what Grad-CAM points at. Those that were *found* while the map *points elsewhere* are successes in a table of accuracies. Only
# the pictures show that the network was right for another reason than the damage, or that the map is wrong about the reason. Those that were *missed* although the map points at the
# damage are the sister case: a map of *why damaged?* can be right while the verdict is not. (Each column has one scale.)
#
# Compare the two maps of a row: there is one for *why damaged?* and one for *why intact?*, and either can be the brighter one. A map
# is no evidence for the verdict that it explains.
#
# ## Yours, reported, verdict
#
# Nobody else has explained these packages, so no number can be compared. What papers *claim* can be.

# %%
case = cases[one_view[views[-1]]]
plus = measured[(measured["items"] == "damaged")].pivot_table(
    index=["model", "view"], columns="method", values="energy"
)
gained = (plus["grad_cam_plus_plus"] - plus["grad_cam"]).dropna()
errors = np.concatenate([cases[key].errors for key in one_view.values()])
errors = errors[np.isfinite(errors)]
completeness = np.median(errors)
low, high = np.quantile(np.median(np.random.default_rng(0).choice(errors, (2000, len(errors))), axis=1), [0.025, 0.975])
shown = [f"{value:+.2f}" for value in left["grad_cam"]]

# %%
claims = [
    [
        "completeness of integrated gradients",
        f"median error {completeness:.3f} [{low:.3f}, {high:.3f}], {attribution.path_steps} steps",
        "within .05 with 20 to 300 steps (Sundararajan et al. 2017, section 5)",
        "agrees" if high <= 0.05 else "does not agree" if low > 0.05 else "undecided",
    ],
    [
        "Grad-CAM follows the weights",
        f"median correlations {', '.join(shown)} from head to first layer",
        "passes the check (Adebayo et al. 2018, section 4.1)",
        {"follows the network": "agrees", "does not": "does not agree"}.get(verdicts["grad_cam"], "undecided"),
    ],
    [
        "Grad-CAM++ locates better than Grad-CAM",
        f"more energy in the box in {int((gained > 0).sum())} of {len(gained)} cases",
        "yes, on photographs (Chattopadhay et al. 2018, section 4.2)",
        "not comparable: other images, another measure",
    ],
]
pd.set_option("display.max_colwidth", None)
pd.DataFrame(claims, columns=["claim", "yours", "reported", "verdict"])

# %% [markdown]
# ## Exercises
#
# **1.** How many steps does integrated gradients need? Print the median error of completeness with 4, 16 and 64 steps for the four first images of
# the last view.
#
# <details><summary>Solution</summary>
#
# ```python
# case = cases[one_view[views[-1]]]
# colour = case.pixels.mean((0, 2, 3))[:, None, None]
# for steps in (4, 16, 64):
#     _, errors = explain.integrated_gradients(case.network, case.pixels[:4], case.signs[:4], colour, steps)
#     print(steps, round(float(np.nanmedian(errors)), 3))
# ```
# The error falls with the steps. The integral needs few of them where the network is nearly linear on the way, and many where it is not.
# </details>
#
# **2.** The baseline is a choice. Compare the maps of integrated gradients from the mean colour with those from black, image by image.
#
# <details><summary>Solution</summary>
#
# ```python
# case = cases[one_view[views[-1]]]
# black, inputs = torch.zeros(3, 1, 1), (case.pixels[case.few], case.signs[case.few])
# maps, _ = explain.integrated_gradients(case.network, *inputs, black, attribution.path_steps)
# print(explain.agreement(case.maps["integrated_gradients"], maps).round(2))
# ```
# The same method, network and images, and not the same map: an explanation always answers *instead of what?*, and the
# baseline is that *what*.
# </details>
#
# ## Save the artifact
#
# The table, the logits, and maps of each model in float16, of the few images that every method has explained.

# %%
scores = [
    case.rows[["image_id", "group", "view", "label"]].assign(model=name, score=case.logits, threshold=case.threshold)
    for (name, _), case in cases.items()
]
files = {"table.csv": measured.drop(columns="shown"), "scores.csv": pd.concat(scores), "belt.csv": belt.reset_index()}
for (name, view), case in cases.items():
    folder = f"{category}/{name}/{case.model.seed}"
    files[f"{folder}/maps-{view}.npz"] = {
        method: select(case, method, case.few).astype(np.float16) for method in case.maps
    }
    picture = map_rows(case.images[:4], {"grad cam": select(case, "grad_cam", range(4))}, case.regions[:4], size=1.7)
    files[f"{folder}/grad-cam-{view}.png"] = plotting.to_png(picture)
for whole in studied_product.values():
    files[f"{product}/{whole.name}/{whole.model.seed}/maps.npz"] = {
        method: maps.astype(np.float16) for method, maps in whole.maps.items()
    }
gains = {f"{row.model} {row.view} {row.method} {row.items}": row.gain for row in measured.itertuples()}
about = {"profile": run.name, "data_source": source, "categories": [category, *studied_product], "metrics": gains}
about |= {"options": attribution.options(), "seed": sorted({case.model.seed for case in cases.values()})}
path = artifacts.save("attributions", files, **about, inputs=[packages, data, artifact])
artifacts.download(path)

# %%
saved = artifacts.load("attributions", profile=run.name)
name, view = one_view[views[-1]]
again = saved.arrays(f"{category}/{name}/{cases[name, view].model.seed}/maps-{view}.npz")
assert np.allclose(again["grad_cam"], select(cases[name, view], "grad_cam", case.few), rtol=1e-2, atol=1e-3)
print(f"{len(saved.names)} members, {saved.path.stat().st_size / 1e6:.1f} MB; the maps come back as they went")

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * derived integrated gradients, Grad-CAM and Grad-CAM++ by hand and found the numbers of captum;
# * laid maps of several networks and several methods over the same images;
# * measured them against boxes and masks, beside chance, with intervals;
# * tested them without boxes: by deleting pixels, and by drawing the weights anew;
# * seen how much evidence lies on the belt, and that a map looks convincing for a wrong verdict too.
#
# **Limits.** Twenty damaged items a view: the intervals are wide, and neighbours in the table cannot be told apart. A map explains a network, not the damage. Grad-CAM cannot be
# finer than the grid of the last block. Deleted pixels make images that no network was trained on, so deletion measures that strangeness too. And a
# hit is no proof: a network may look at the right place for another reason.
#
# **Next:** 06 asks not whether an item is damaged, but of which kind the damage is.
