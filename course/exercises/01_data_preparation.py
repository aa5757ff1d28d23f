# %% [markdown]
# # Lab 01 · Data and metrics: what a number stands on
#
# <!-- badge -->
#
# After this lab you will be able to
#
# * **predict** what a resize does to the ground truth (`01.mask`);
# * **score** parts with no model at all, and say where that fails (`01.z_score`);
# * **compute** three metrics from their definitions, ties included (`01.auroc`, `01.average_precision`, `01.aupro`);
# * **read** a metric beside what costs nothing and what it does not see (`01.floor`, `01.small_defect`);
# * **keep** all pictures of an item in one part, and show what happens otherwise (`01.torn`, `01.leak`);
# * **derive** an interval of an AUROC, and write no more than it allows (`01.newcombe`, `01.abstract`).
#
# It belongs to notebook 01. Nothing is downloaded: all data are small arrays. Each exercise ends in a check that says what differs.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np

from mvtec_ad import metrics
from mvtec_ad.course import check, summary

# %% [markdown]
# ## 01.mask · predict
#
# A scratch is 1 pixel wide and 32 pixels long, on a mask of 64×64. It is vertical, and its rows are 16 to 47. The mask is resized to
# 8×8, so that a block of 8×8 pixels becomes one pixel. Two rules:
#
# * *any*: a block is defective where any of its pixels is;
# * *nearest*: a block gets the value of one of its pixels, that in row 4 and column 4.
#
# By which factor does the *share* of defective pixels change? Give two numbers: the factor with *any*, and the mean factor with
# *nearest* over the eight columns in which the scratch may lie within its blocks.

# %%
# <solution>
growth = (4 * 64 / 32, (7 * 0 + 1 * 8) / 8)
# </solution>
verdict = check("01.mask", growth)
verdict

# %%
if verdict.right:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 16:48, 27], masks[1, 16:48, 28] = True, True
    figure, axes = plt.subplots(2, 3, figsize=(5, 3.4), layout="constrained")
    for row, mask, column in zip(axes, masks, (27, 28), strict=True):
        blocks = mask.reshape(8, 8, 8, 8)
        shown = {f"column {column}": mask, "any": blocks.any((1, 3)), "nearest": blocks[:, 4, :, 4]}
        for axis, (title, picture) in zip(row, shown.items(), strict=True):
            axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
            axis.set(title=title, xticks=[], yticks=[])

# %% [markdown] solution
# *Any* marks 4 blocks, which is 8 times the share of the scratch, wherever it lies. *Nearest* loses it at seven columns and makes it 8 times
# as large at the eighth: right on average, and never right for one scratch. A metric that counts pixels measures against what is left.

# %% [markdown]
# ## 01.z_score · implement
#
# The least that a method must beat. With the mean $\mu_p$ and the standard deviation $\sigma_p$ of pixel $p$ over the good images,
#
# $$z_p=\frac{|x_p-\mu_p|}{\sigma_p+5},\qquad \text{score}(x)=\max_p z_p .$$
#
# The 5 gray levels keep a pixel that hardly ever changes from deciding alone. (Notebook 01 blurs $z$ as well; leave that out.)
# By hand: good images `[10, 100]` and `[10, 120]` have $\mu=(10, 110)$ and $\sigma=(0, 10)$; the image `[20, 110]` scores
# 10 / 5 = 2, and `[10, 65]` scores 45 / 15 = 3.


# %%
def z_scores(good, images):
    """Scores (m,) of gray images (m, h, w), from good images (n, h, w)."""
    # <solution>
    z = np.abs(images - good.mean(0)) / (good.std(0) + 5)
    return z.max((1, 2))
    # </solution>


z_verdict = check("01.z_score", z_scores)
z_verdict


# %% [markdown]
# The next cell draws bars of 24×24 pixels: good ones, and ones with a dark spot. Once they always lie in the same way, once at any
# angle. They return after the next exercise.


# %%
def bars(rng, count, turned, defective):
    """Images (count, 24, 24) of a bright bar with noise; a dark spot lies on it where it is defective."""
    y, x = np.mgrid[:24, :24] - 11.5
    images = []
    for _ in range(count):
        angle = rng.uniform(0, np.pi) if turned else 0.0
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        image = 60 + 100.0 * ((abs(along) < 9) & (abs(across) < 3))
        if defective:
            image[(abs(along - rng.choice([-1, 1]) * rng.uniform(4, 7)) < 1.5) & (abs(across) < 1.5)] -= 60
        images.append(image + rng.normal(0, 6, image.shape))
    return np.stack(images)


rng = np.random.default_rng(0)
lying = {}
for pose, turned in {"as they always lie": False, "at any angle": True}.items():
    learn, good, bad = (bars(rng, count, turned, state) for count, state in ((60, False), (30, False), (30, True)))
    lying[pose] = learn, np.concatenate([good, bad])
bar_labels = np.repeat([0, 1], 30)

# %%
if z_verdict.right:
    figure, axes = plt.subplots(2, 4, figsize=(7, 3.8), layout="constrained")
    for row, (pose, (learn, test)) in zip(axes, lying.items(), strict=True):
        z = np.abs(test[-1] - learn.mean(0)) / (learn.std(0) + 5)
        shown = {f"defective, {pose}": test[-1], "mean": learn.mean(0), "deviation": learn.std(0), "z": z}
        for axis, (title, picture) in zip(row, shown.items(), strict=True):
            axis.imshow(picture, cmap="gray")
            axis.set_title(title, fontsize=7)
            axis.set(xticks=[], yticks=[])

# %% [markdown]
# ## 01.auroc · implement
#
# *AUROC* is the share of pairs, one defective and one good image, in which the defective one scores higher; ties count one half. With
# $m$ defective and $n$ good images these are $mn$ pairs, and nobody needs to look at each: rank all scores together, 1 the lowest,
# and sum the ranks $r_i$ of the defective images (Mann and Whitney 1947):
#
# $$A=\frac{1}{mn}\Big(\sum_{i\ \text{defective}} r_i-\frac{m(m+1)}{2}\Big)$$
#
# What ranks must equal scores have, so that a tie counts one half? For labels `[0, 0, 1, 1]` and scores `[1, 2, 2, 3]` the
# result is 3.5 / 4. (`scipy.stats.rankdata` may be used.)


# %%
def auroc(labels, scores):
    """AUROC of scores (N,), label 1 where an image is defective."""
    # <solution>
    below = (scores[:, None] > scores).sum(1)
    equal = (scores[:, None] == scores).sum(1)
    ranks = below + (equal + 1) / 2
    m, n = (labels == 1).sum(), (labels == 0).sum()
    return (ranks[labels == 1].sum() - m * (m + 1) / 2) / (m * n)
    # </solution>


verdict = check("01.auroc", auroc)
verdict

# %%
if z_verdict.right and verdict.right:
    for pose, (learn, test) in lying.items():
        area = auroc(bar_labels, z_scores(learn, test))
        low, high = metrics.newcombe(area, 30, 30)
        print(f"bars {pose}: AUROC of the z-score {area:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown] solution
# Tied scores share the mean of the ranks that they take up, which is one half for each pair among them. The z-score separates bars that always lie
# in the same way; where they turn it cannot be told from chance, for a pixel that the bar may or may not cover has no usual value. That
# is also how PaDiM fails, in lab 02.

# %% [markdown]
# ## 01.floor · predict
#
# A detector gives **all** images the same score. The test set is MVTec AD's toothbrush: 30 defective and 12 good images. What are
# its AUROC, its average precision and its largest F1 over all thresholds? Give the three numbers, to two decimals or more.
#
# Precision is the share of defects among the alarms, recall the share of defects that raise one; average precision is defined in the next
# exercise, and $F_1=2PR/(P+R)$.

# %%
# <solution>
floor = (0.5, 30 / 42, 2 * (30 / 42) / (30 / 42 + 1))
# </solution>
verdict = check("01.floor", floor)
verdict

# %%
if verdict.right:
    print("AUROC {:.2f}, average precision {:.2f}, largest F1 {:.2f}, and nothing was looked at".format(*floor))

# %% [markdown] solution
# There is one threshold that calls anything: it calls everything, with precision 30/42 and recall 1. A largest F1 of .83 sounds like a
# method, and follows from the share of defects in the test folder. So each such number is read beside its floor.

# %% [markdown]
# ## 01.average_precision · implement
#
# Let the threshold fall through the distinct scores. At the $k$-th of them everything that scores as high or higher is called defective;
# precision is then $P_k$, and recall $R_k$, with $R_0=0$. Average precision is (user guide of scikit-learn, *precision-recall*)
#
# $$\text{AP}=\sum_k (R_k-R_{k-1})\,P_k .$$
#
# A step in recall counts with the precision at its end: no line is drawn between two points. Equal scores are one threshold; a
# result that depends on the order of the list is wrong. For labels `[0, 0, 1, 1]` and scores `[1, 2, 2, 3]`:
# 1/2 · 1 + 1/2 · 2/3 = 5/6.


# %%
def average_precision(labels, scores):
    """Average precision of scores (N,), label 1 where an image is defective."""
    # <solution>
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        alarms = labels[scores >= threshold]
        recall = alarms.sum() / labels.sum()
        total += (recall - recall_before) * alarms.mean()
        recall_before = recall
    return total
    # </solution>


verdict = check("01.average_precision", average_precision)
verdict

# %% [markdown]
# The same detector on two test sets that differ only in how many good images they hold:

# %%
if verdict.right:
    rng = np.random.default_rng(3)
    for good in (20, 2000):
        labels = np.repeat([0, 1], [good, 60])
        scores = rng.normal(2.0 * labels, 1)
        both = metrics.image_auroc(labels, scores), average_precision(labels, scores)
        print(f"60 defects, {good} good images: AUROC {both[0]:.2f}, average precision {both[1]:.2f}")

# %% [markdown] solution
# AUROC hardly changes, average precision falls with the share of defects. In MVTec AD most test images are defective, on a line few parts
# are: an average precision moves to the line only together with its share of defects.

# %% [markdown]
# ## 01.aupro · implement
#
# Which share of each *defect* does a map find? At a threshold $t$, let $F(t)$ be the share of good pixels with a score of at least $t$,
# and $O(t)$ the mean over the defect regions $C_k$ of the share of their pixels with such a score (*per-region overlap*, PRO):
#
# $$O(t)=\frac1K\sum_{k=1}^K\frac{|\{p\in C_k: s_p\ge t\}|}{|C_k|},\qquad
#   \text{AUPRO}=\frac1u\int_0^u O\;\mathrm dF .$$
#
# The curve starts at (0, 0), its points are joined by straight lines, and it is cut at $F=u$, within a line if need be (Bergmann et al.,
# IJCV 2021; $u=.3$ there). `regions` holds 0 for good pixels and $k$ for the $k$-th region. A hint: find the first point with
# $F\ge u$, and put a point at $u$ in its place.


# %%
def aupro(anomaly_map, regions, limit):
    """AUPRO of a map (h, w) up to a false-positive rate, with regions (h, w): 0 is good, 1 … K are defects."""
    # <solution>
    false, overlap = [0.0], [0.0]
    for threshold in np.unique(anomaly_map)[::-1]:
        flagged = anomaly_map >= threshold
        false.append(flagged[regions == 0].mean())
        overlap.append(np.mean([flagged[regions == k].mean() for k in range(1, regions.max() + 1)]))
        if false[-1] >= limit:
            break
    step = (limit - false[-2]) / (false[-1] - false[-2])
    overlap[-1] = overlap[-2] + step * (overlap[-1] - overlap[-2])
    false[-1] = limit
    return np.sum(np.diff(false) * (np.array(overlap[1:]) + overlap[:-1]) / 2) / limit
    # </solution>


pro_verdict = check("01.aupro", aupro)
pro_verdict

# %% [markdown]
# ## 01.small_defect · break
#
# The image below has two defects: one of 64 pixels, one of 2. Give an anomaly map (16, 16) whose *pixel AUROC* (AUROC with
# pixels in place of images) is .95 or more, although it does not see the small defect at all: no pixel of it scores
# above the median of the good pixels.

# %%
regions = np.zeros((16, 16), int)
regions[2:10, 2:10], regions[13, 13:15] = 1, 2
print("\n".join("".join(".12"[k] for k in row) for row in regions))

# %%
# <solution>
blind_map = (regions == 1).astype(float)
# </solution>
verdict = check("01.small_defect", blind_map)
verdict

# %%
if verdict.right and pro_verdict.right:
    pixel_auroc = metrics.pixel_metrics(np.asarray(blind_map, float)[None], regions[None] > 0)["pixel_auroc"]
    print(f"pixel AUROC {pixel_auroc:.2f}, AUPRO {aupro(np.asarray(blind_map, float), regions, 0.3):.2f}")

# %% [markdown] solution
# The small defect is 2 of 66 defective pixels, so pixel AUROC loses at most a few hundredths. AUPRO counts defects: one of two is missed, and
# it falls near one half. An inspector who looks for scratches wants the second number.

# %% [markdown]
# ## 01.torn · predict
#
# Each item is photographed from **three** sides, and a quarter of the *pictures* is held out at random, each on its own. Which share of
# the items is torn apart, with pictures in both parts?

# %%
# <solution>
torn = 1 - 0.25**3 - 0.75**3
# </solution>
check("01.torn", torn)

# %% [markdown] solution
# An item is whole where all three pictures are held out or none is. More than half of the items are torn, and with two pictures 3 in 8: the
# more pictures an item has, the worse a cut by picture.

# %% [markdown]
# ## 01.leak · break
#
# Twelve cartons, two pictures each (rows 0 and 1 are the first carton, and so on). Their features say which carton it is; whether it
# is damaged was decided by a **coin**, so that there is nothing to learn. The classifier gives a picture the label of its
# nearest neighbour among those that were not held out.
#
# Choose what is held out, 6 to 18 of the 24 pictures, so that this classifier has an accuracy of 1, **however the coins fall**. Give 24
# values, True where held out.

# %%
rng = np.random.default_rng(33)
features = np.repeat(rng.normal(size=(12, 8)), 2, axis=0) + 0.1 * rng.normal(size=(24, 8))
damaged = np.repeat(rng.integers(0, 2, 12), 2)


def nearest_neighbour(held_out):
    """Accuracy on the held-out pictures."""
    away = np.linalg.norm(features[held_out][:, None] - features[~held_out], axis=2)
    return (damaged[~held_out][away.argmin(1)] == damaged[held_out]).mean()


# %%
# <solution>
held_out = np.arange(24) % 2 == 1
# </solution>
verdict = check("01.leak", held_out)
verdict

# %%
if verdict.right:
    rng = np.random.default_rng(0)
    by_item = [nearest_neighbour(np.repeat(rng.permutation(12) < 4, 2)) for _ in range(500)]
    by_picture = [nearest_neighbour(rng.permutation(24) < 8) for _ in range(500)]
    print(f"8 pictures held out, 500 draws: by item {np.mean(by_item):.2f}, by picture {np.mean(by_picture):.2f}")

# %% [markdown] solution
# One picture of each carton is held out, and the other one gives its label away. A random cut by picture does so for most cartons, and looks
# like a method that works. A cut by item has no such help: what is left is the luck of twelve coins.

# %% [markdown]
# ## 01.newcombe · implement
#
# An AUROC $A$ was measured with $m$ defective and $n$ good images. From which true values $\theta$ could it have come? From all that are
# at most $z=1.96$ standard deviations away, with the standard deviation that **$\theta$** would give (Newcombe 2006, method 5; the variance after
# Hanley and McNeil 1982):
#
# $$|\theta-A|\le z\sqrt{V(\theta)},\qquad
# V(\theta)=\frac{\theta(1-\theta)}{mn}\left[1+N^*\left(\frac{1-\theta}{2-\theta}+\frac{\theta}{1+\theta}\right)\right],\qquad
# N^*=\frac{m+n}2-1 .$$
#
# Return both ends of the interval, to three decimals or better. A grid over $\theta$ is good enough.


# %%
def newcombe(auroc, defects, good):
    """Ends (low, high) of the 95 % interval of an AUROC from so many defective and good images."""
    # <solution>
    theta = np.linspace(0, 1, 10_001)
    star = (defects + good) / 2 - 1
    shared = 1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    inside = theta[np.abs(theta - auroc) <= 1.96 * np.sqrt(theta * (1 - theta) * shared / (defects * good))]
    return inside.min(), inside.max()
    # </solution>


verdict = check("01.newcombe", newcombe)
verdict

# %%
if verdict.right:
    figure, axes = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
    for place, (name, (defects, good)) in enumerate(
        {"toothbrush": (30, 12), "bottle": (63, 20), "screw": (119, 41)}.items()
    ):
        low, high = newcombe(1.0, defects, good)
        print(f"{name}, {defects} defective and {good} good images, AUROC 1: from {low:.3f} to {high:.3f}")
        axes.plot([low, high], [place, place], "o-", color="C0")
        axes.text(low, place + 0.15, name)
    axes.axvline(1, color="C1")
    axes.set(xlabel="AUROC: measured 1, bootstrap [1, 1]", yticks=[], ylim=(-0.5, 2.7))

# %% [markdown] solution
# At $A=1$ the usual $A\pm1.96\sqrt{V(A)}$ has no width, because $V(1)=0$, and neither has the percentile bootstrap: no resample of a perfect
# test set holds a mistake. Asking which $\theta$ could have given $A$ leaves room below 1, the more so the fewer images there are.

# %% [markdown]
# ## 01.abstract · decide
#
# Suppose that a method separates the 30 defective and 12 good test images of toothbrush perfectly, with each of three seeds. Newcombe's interval of AUROC is
# [.88, 1]; the paired difference to an older method on the same images is .01 [−.02, .05]. Which sentences may stand in the
# abstract? Give the letters.
#
# * **a** On the 42 test images every defect scores above every good part.
# * **b** The AUROC is 1.000, with a bootstrap interval of [1.000, 1.000].
# * **c** The AUROC is 1.000 [.88, 1], 95 % interval of Newcombe for 30 and 12 images.
# * **d** As three seeds agree, the interval may be divided by $\sqrt3$.
# * **e** With the threshold of the largest F1, which was found on the test images, a line may expect an accuracy of 100 %.
# * **f** Whether the method is better than the older one is undecided.

# %%
# <solution>
letters = "acf"
# </solution>
check("01.abstract", letters)

# %% [markdown] solution
# Each of the others takes something for certain that 42 images cannot give: b the absence of mistakes, d three seeds for three test sets, e a threshold
# that has seen the answers.

# %%
print(summary("01"))
