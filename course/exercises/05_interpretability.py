# %% [markdown]
# # Lab 05 · What a map proves
#
# <!-- badge -->
#
# It belongs to notebook 05, *Where does the classifier look?*. You will
#
# * **derive** integrated gradients, and check their completeness as a number (`05.saturated`, `05.integrated`, `05.completeness`);
# * **say** what the choice of the baseline decides (`05.baseline`, `05.ends`);
# * **write** Grad-CAM, and show what its mean loses (`05.grad_cam`, `05.lost`);
# * **write** SmoothGrad and occlusion (`05.smooth_grad`, `05.occlusion`);
# * **measure** whether maps point at the damage, and whether it matters to the answer (`05.pointing`, `05.deletion`);
# * **tell** what the check of randomised weights proves, and what no map proves (`05.evidence`).
#
# Networks are small functions here, whose gradients are given. Nothing is downloaded. Each cell with an exercise ends in a check; it says what differs.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.integrate import trapezoid

from mvtec_ad.course import check, summary

rng = np.random.default_rng(0)

# %% [markdown]
# ## 05.saturated · predict
#
# A detector of damage that is sure enough once it has seen enough: $f(x)=\min(x, 1)$, here at $x=2$, with the baseline $x'=0$ (after section 2 of
# Sundararajan, Taly and Yan 2017, [arXiv:1703.01365](https://arxiv.org/abs/1703.01365)). How large is its slope at $x$, and how large is its attribution by
# integrated gradients, $(x-x')\int_0^1 f'(x'+\alpha(x-x'))\,d\alpha$? Give a tuple, `(slope, attribution)`.

# %%
# <solution>
pair = (0, 1)
# </solution>
check("05.saturated", pair)

# %%
if check("05.saturated", pair).right:
    x = np.linspace(0, 2.2, 200)
    figure, axis = plt.subplots(figsize=(4.4, 2.2), layout="constrained")
    axis.plot(x, np.minimum(x, 1), color="#0072B2", label="f")
    axis.plot(x, (x < 1) * 1.0, color="#D55E00", ls="--", label="slope")
    axis.plot([0, 2], [0, 1], "ko", label="baseline and x")
    axis.set(xlabel="x")
    axis.legend()

# %% [markdown] solution
# A slope says what a small change does: at $x=2$ nothing. The attribution is $f(x)-f(x')$, all of the answer, as there is only one input.

# %% [markdown]
# ## 05.integrated · implement
#
# On many inputs the integral becomes a mean over $m$ steps. Cut the path from $x'$ to $x$ into $m$ equal parts and take the slope in the **middle** of each:
#
# $$\mathrm{IG}_i(x)\approx(x_i-x'_i)\,\frac1m\sum_{k=1}^m\frac{\partial f}{\partial x_i}\Bigl(x'+\tfrac{k-1/2}{m}(x-x')\Bigr).$$
#
# (Equation 1 of the paper; its own sum, equation 3, takes the right ends, $k/m$.) `gradient(point)` returns all slopes at a point. Return the attributions
# $(d,)$. On paper: $f=x_1x_2$ at (0.8, 0.5) with baseline 0 gives 0.2 for both.


# %%
def integrated_gradients(gradient, x, baseline, steps):
    """Attributions (d,) of x (d,) against a baseline (d,)."""
    # <solution>
    middles = (np.arange(steps) + 0.5) / steps
    slopes = [gradient(baseline + alpha * (x - baseline)) for alpha in middles]
    return (x - baseline) * np.mean(slopes, axis=0)
    # </solution>


check("05.integrated", integrated_gradients)

# %% [markdown]
# The attributions should add up to $f(x)-f(x')$: completeness. How fast does the error fall for $f(x)=\sigma(4\sum_i x_i-6)$ with ten inputs?

# %%
if check("05.integrated", integrated_gradients).right:
    point, start = rng.uniform(size=10), np.zeros(10)

    def sigmoid(x):
        return 1 / (1 + np.exp(-(4 * x.sum() - 6)))

    def slopes(x):
        return np.full(10, 4 * sigmoid(x) * (1 - sigmoid(x)))

    for steps in (2, 8, 32, 128):
        total = integrated_gradients(slopes, point, start, steps).sum()
        print(f"{steps:3d} steps: sum {total:.4f}, f(x) − f(x′) = {sigmoid(point) - sigmoid(start):.4f}")

# %% [markdown] solution
# Middles are more exact than ends at the same price. The factor $x-x'$ turns slopes into contributions: a pixel that equals the baseline gets nothing.

# %% [markdown]
# ## 05.completeness · break
#
# In notebook 05 eight steps missed the answer by a median of more than its own size, because the logit changes close to the baseline. Build such a case.
# The function is $f(x)=\sigma(s\,(x-t))$, the path goes from 0 to 1, and eight middles are used: 1/16, 3/16, …, 15/16. Give `(s, t)`, a steepness $s>0$ and a place $t$ between 0
# and 1, with $f(1)-f(0)\ge0.5$ and a sum that differs from $f(1)-f(0)$ by **half of it or more**.

# %%
# <solution>
steep = (100, 1 / 8)
# </solution>
check("05.completeness", steep)

# %%
if check("05.completeness", steep).right:
    s, t = steep
    x, middles = np.linspace(0, 1, 400), (np.arange(8) + 0.5) / 8

    def step(x):
        return 1 / (1 + np.exp(-s * (x - t)))

    figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
    axis.plot(x, step(x), color="#0072B2")
    axis.plot(middles, step(middles), "o", color="#D55E00", label="where the slope is taken")
    axis.set(xlabel="α", ylabel="f")
    axis.legend()
    total = (s * step(middles) * (1 - step(middles))).mean()
    print(f"sum {total:.3f}, f(1) − f(0) = {step(1.0) - step(0.0):.3f}")

# %% [markdown] solution
# The rise is narrower than the gap between two places. It may also fall *on* a place, and then the sum is far too large. The error of completeness shows both, and
# it is computed with every map.

# %% [markdown]
# ## 05.baseline · predict
#
# Six pixels, 0.6 each but for a black stain on two of them: $x=(0.6, 0.6, 0, 0, 0.6, 0.6)$. The network is $f(x)=4-\sum_i x_i$: the darker, the more damaged. What
# do the **two pixels of the stain** get together, by integrated gradients, with a black baseline (0 everywhere), a grey one (0.4) and a white one (1)? Give a
# tuple of three.

# %%
# <solution>
stain = (0, 0.8, 2)
# </solution>
check("05.baseline", stain)

# %%
if check("05.baseline", stain).right and check("05.integrated", integrated_gradients).right:
    x = np.array([0.6, 0.6, 0, 0, 0.6, 0.6])
    figure, axes = plt.subplots(1, 3, figsize=(7, 1.9), sharey=True, layout="constrained")
    for axis, grey in zip(axes, (0.0, 0.4, 1.0), strict=True):
        values = integrated_gradients(lambda point: -np.ones(6), x, np.full(6, grey), 8)
        axis.bar(range(6), values, color=["#0072B2"] * 2 + ["#D55E00"] * 2 + ["#0072B2"] * 2)
        axis.axhline(0, color="grey", lw=1)
        axis.set(title=f"baseline {grey:g}", xlabel="pixel")

# %% [markdown] solution
# An explanation answers *instead of what?*, and the baseline is that *what*. Instead of black, the black stain is no reason, although it is all that is wrong with the
# part. So a baseline must not look like a defect, and it is named beside the map.

# %% [markdown]
# ## 05.grad_cam · implement
#
# Grad-CAM (Selvaraju et al. 2017, eq. 1 and 2) explains an answer $y$ by the last features $A$, $K$ channels on a grid of $Z$ cells. `slopes` are
# $\partial y/\partial A^k_{ij}$.
#
# $$\alpha_k=\frac1Z\sum_{ij}\frac{\partial y}{\partial A^k_{ij}},\qquad L=\mathrm{ReLU}\Bigl(\sum_k\alpha_kA^k\Bigr).$$
#
# Return $L$, $(h, w)$. On paper, with two channels on a grid of 1 × 2: $A=(1, 4), (2, 0)$, slopes $(3, -1), (-1, -1)$. The weights are 1 and −1, the sum is
# $(-1, 4)$, and $L=(0, 4)$.


# %%
def grad_cam(features, slopes):
    """Grad-CAM (h, w) of features (K, h, w) and the slopes of the answer in them (K, h, w)."""
    # <solution>
    weights = slopes.mean((1, 2), keepdims=True)  # K × 1 × 1
    return np.maximum((weights * features).sum(0), 0)
    # </solution>


check("05.grad_cam", grad_cam)

# %% [markdown] solution
# Weights and features keep their signs until the sum: a channel whose presence speaks against the answer darkens its cells.

# %% [markdown]
# ## 05.lost · break
#
# Where the network is linear after $A$, without a bias, its answer can be taken apart exactly: $y=\sum_{ij}c_{ij}$ with
# $c_{ij}=\sum_k\frac{\partial y}{\partial A^k_{ij}}A^k_{ij}$ (Draelos and Carin 2020). Give features and slopes of one shape $(K, h, w)$, as small as you like, with a positive answer
# $y$, for which the **brightest cell of Grad-CAM** contributes a **negative** $c_{ij}$: the map points at evidence against.

# %%
# <solution>
example = (np.array([[[4.0, 2.0]]]), np.array([[[-1.0, 3.0]]]))
# </solution>
check("05.lost", example)

# %%
if check("05.lost", example).right and check("05.grad_cam", grad_cam).right:
    features, slopes = (np.asarray(part, float) for part in example)
    figure, axes = plt.subplots(1, 2, figsize=(5, 1.8), layout="constrained")
    for axis, grid, title in zip(
        axes, (grad_cam(features, slopes), (features * slopes).sum(0)), ("Grad-CAM", "exact contributions"), strict=True
    ):
        limit = 2 * np.abs(grid).max()  # pale colours, on which the numbers can be read
        axis.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit)
        for (row, column), value in np.ndenumerate(grid):
            axis.text(column, row, f"{value:+.1f}", ha="center", va="center")
        axis.set(title=title, xticks=[], yticks=[])

# %% [markdown] solution
# One channel is enough: its slope is positive on average, but negative where the feature is strong. This needs a head with a weight for each place; after one
# global average all slopes of a channel are equal, and both maps agree. In notebook 05 the share of Grad-CAM's evidence on such cells is printed for each network.

# %% [markdown]
# ## 05.smooth_grad · implement
#
# SmoothGrad (Smilkov et al. 2017, [arXiv:1706.03825](https://arxiv.org/abs/1706.03825)) averages gradients over noisy copies of the image. As in notebook 05 the sign is dropped
# **after** the mean:
#
# $$M(x)=\Bigl|\frac1n\sum_{k=1}^n\nabla f(x+\epsilon_k)\Bigr| .$$
#
# `noise` holds the $\epsilon_k$. On paper: if the gradient is the sign of $x$ and the noise is +1 and −1, a pixel of 0.1 gets 0 (the signs cancel), and one of −3 gets 1.


# %%
def smooth_grad(gradient, image, noise):
    """SmoothGrad (h, w) of an image (h, w) from noise (n, h, w)."""
    # <solution>
    return np.abs(np.mean([gradient(image + each) for each in noise], axis=0))
    # </solution>


check("05.smooth_grad", smooth_grad)

# %% [markdown] solution
# What changes its sign with a little noise cancels; what points the same way in all copies stays. Without a sign the map says *sensitive here*, not *for
# which answer*.

# %% [markdown]
# ## 05.occlusion · implement
#
# Occlusion (Zeiler and Fergus 2014) needs no gradient. Cover a square window with the baseline, note how far the answer **falls**,
# $f(x)-f(x_\text{covered})$, move on by one pixel, and give every pixel the **mean** fall over all windows that cover it. Windows lie wholly inside the image.
# `f` takes an image and returns a number; `baseline` is a number. Return the map $(h, w)$. On paper: where $f$ is the sum, the baseline 0 and the window one
# pixel, the map is the image.


# %%
def occlusion(f, image, baseline, window):
    """Mean fall (h, w) of the answer f where windows of this size cover an image (h, w)."""
    # <solution>
    fall, count = np.zeros(image.shape), np.zeros(image.shape)
    for top in range(image.shape[0] - window + 1):
        for left in range(image.shape[1] - window + 1):
            area = slice(top, top + window), slice(left, left + window)
            covered = image.copy()
            covered[area] = baseline
            fall[area] += f(image) - f(covered)
            count[area] += 1
    return fall / count
    # </solution>


check("05.occlusion", occlusion)

# %% [markdown]
# A toy classifier to try it on: items of 12 × 12 pixels, damaged ones with a dark stain. Its logit is the contrast of the darkest 3 × 3 window, so we know
# where it looks.


# %%
def contrast(image):
    """Logit of the toy classifier: how far the darkest 3 × 3 window lies below the mean."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3)).mean((2, 3))
    return 20 * (image.mean() - windows.min()) - 3


damaged = 0.6 + 0.05 * rng.normal(size=(8, 12, 12))
boxes = np.zeros(damaged.shape, bool)
for picture, box in zip(damaged, boxes, strict=True):
    row, column = rng.integers(0, 9, 2)
    box[row : row + 3, column : column + 4] = True
    picture[box] -= 0.25
if check("05.occlusion", occlusion).right:
    maps = np.stack([occlusion(contrast, picture, 0.6, 3) for picture in damaged])
    figure, axes = plt.subplots(2, 4, figsize=(6, 3.1), layout="constrained")
    for pair, picture, each in zip(axes.T, damaged, maps, strict=False):
        pair[0].imshow(picture, cmap="gray", vmin=0, vmax=1)
        pair[1].imshow(each, cmap="inferno")
        for axis in pair:
            axis.set(xticks=[], yticks=[])

# %% [markdown] solution
# Occlusion asks the network directly, but about images with grey squares, which it may never have seen. And damage that shows in two places can have an empty map: while
# one is covered, the other is enough.

# %% [markdown]
# ## 05.pointing · implement
#
# The pointing game (Zhang et al. 2016): a map **hits** if its largest value lies in the region. A random point hits, too: with the probability of the share of the
# image that the region **covers**. Return three numbers: the share of maps that hit, the mean share that the regions cover, and the **gain**, hits − covered. On
# paper: two maps of 2 × 2 with regions of one pixel each, one hit: (½, ¼, ¼).


# %%
def pointing(maps, regions):
    """Hits, covered and gain, of maps (n, h, w) and regions (n, h, w) of booleans."""
    # <solution>
    flat_maps, flat_regions = maps.reshape(len(maps), -1), regions.reshape(len(maps), -1)
    hits = flat_regions[np.arange(len(maps)), flat_maps.argmax(1)].mean()
    covered = regions.mean()
    return hits, covered, hits - covered
    # </solution>


check("05.pointing", pointing)

# %%
if check("05.pointing", pointing).right and check("05.occlusion", occlusion).right:
    for title, each in (("occlusion", maps), ("random", rng.random(maps.shape))):
        print(title, ", ".join(f"{value:.2f}" for value in pointing(each, boxes)))

# %% [markdown] solution
# Without *covered* a number of hits says nothing: the box of an intact item covers 90 % of its cut-out in notebook 05, and any map hits it.

# %% [markdown]
# ## 05.deletion · implement
#
# A region says what *should* matter. Whether it does, deletion tests (Petsiuk et al. 2018, [arXiv:1806.07421](https://arxiv.org/abs/1806.07421)): replace the pixels by the baseline, **the
# largest value of the map first**, one after the other until none is left, and note $f$ before the first and after each of them. With $n$ pixels these are $n+1$ values
# at $0, \tfrac1n, \dots, 1$. Return the area under this curve by the trapezoidal rule (`scipy.integrate.trapezoid`). On paper: $f$ is the mean, the image is (1, 0), the map (2, 1), the baseline 0.
# The values are ½, 0, 0, and the area is ⅛.


# %%
def deletion_area(f, image, evidence, baseline):
    """Area under the deletion curve of f, for an image (h, w) and a map (h, w) without ties."""
    # <solution>
    left, values = image.copy(), [f(image)]
    for place in np.argsort(-evidence, axis=None):
        left[np.unravel_index(place, image.shape)] = baseline
        values.append(f(left))
    return trapezoid(values, np.linspace(0, 1, len(values)))
    # </solution>


check("05.deletion", deletion_area)

# %%
if check("05.deletion", deletion_area).right and check("05.occlusion", occlusion).right:
    for title, each in (("occlusion", maps), ("random", rng.random(maps.shape))):
        pairs = zip(damaged, each, strict=True)
        areas = [deletion_area(lambda x: 1 / (1 + np.exp(-contrast(x))), *pair, 0.6) for pair in pairs]
        print(f"{title}: area under the deletion curve {np.mean(areas):.2f}, small is good")

# %% [markdown] solution
# A small area means: the probability falls as soon as the first pixels are gone. What is small only a random order tells, of pixels for noisy maps and of windows for
# smooth ones.

# %% [markdown]
# ## 05.ends · predict
#
# A network's logit is −1 for a damaged item that it misses, and +2 for the mean colour alone, the baseline of deletion (+2.0 is what notebook 05 prints for its
# network in profile *quick*). At which probability of *damaged* does the deletion curve of this item begin, and at which one does it end, whatever the map is? Give a tuple, to
# three decimals.

# %%
# <solution>
ends = (1 / (1 + np.exp(1)), 1 / (1 + np.exp(-2)))
# </solution>
check("05.ends", ends)

# %%
if check("05.ends", ends).right:
    print(f"from {ends[0]:.3f} to {ends[1]:.3f}")

# %% [markdown] solution
# The curve rises however good the map is. Deletion presumes a baseline without an opinion; where the baseline looks damaged to the network, compare areas
# with those of a random order only, and name the logit of the baseline.

# %% [markdown]
# ## 05.evidence · decide
#
# The check of randomised weights (Adebayo et al. 2018, [arXiv:1810.03292](https://arxiv.org/abs/1810.03292)) draws the weights anew, from the head to the first layer, and correlates the ranks of each map before
# and after. The rule of notebook 05: a map *follows the network* if at **every** stage the 95 % interval of the mean correlation ends below one half. It *does not* if at some
# stage the interval begins above one half. All else is *undecided*. A table made up for this exercise:
#
# | map | head | + last block | all layers |
# |---|---|---|---|
# | P | .21 [.10, .32] | .12 [.01, .23] | .05 [−.06, .16] |
# | Q | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |
# | R | .55 [.41, .69] | .30 [.18, .42] | .18 [.07, .29] |
# | S (pure noise) | .00 [−.02, .02] | .01 [−.01, .03] | .00 [−.02, .02] |
#
# Which sentences hold?
#
# * **a** P follows the network.
# * **b** Q does not explain the network.
# * **c** R follows the network: after all layers its correlation is far below one half.
# * **d** S passes the check, so it explains the network.
# * **e** P follows the network, so its brightest place is the damage.
# * **f** A gain of +.30 [+.08, +.53] in the pointing game says of this network and this view: its map points at the damage more often than a random point.
# * **g** The item is called damaged, and the map of *why damaged?* is bright on a scratch: this shows that the verdict is right.

# %%
# <solution>
letters = "abf"
# </solution>
check("05.evidence", letters)

# %% [markdown] solution
# The check can refute a map, not prove it. And there is a map for *why damaged?* and one for *why intact?* of each item: a map is no evidence for the verdict
# that it explains.

# %%
print(summary("05"))
