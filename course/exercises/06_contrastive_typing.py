# %% [markdown]
# # Lab 06 · Which defect is it?
#
# <!-- badge -->
#
# A contrastive loss pulls like to like and pushes the rest away. Here you write two of them on a handful of vectors, name defects by them, and find out how much of the
# gain is real. After this lab you can
#
# * **write** the losses of SimCLR and SupCon, and say what temperature and length do to them (`06.temperature`, `06.nt_xent`, `06.supcon`);
# * **refuse** a copy that takes the type out of the picture (`06.augmentation`);
# * **name** a new defect by the nearest prototype, be it made of a single image (`06.prototypes`);
# * **set** the limit above which a defect is called unknown, and say what is promised (`06.unknown`);
# * **choose** between two means over types, and see where they disagree (`06.two_means`);
# * **compare** two ways of looking over folds that share their images (`06.folds`).
#
# It goes with [notebook 06](../../notebooks/06_contrastive_typing.ipynb). Nothing is trained or downloaded.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from mvtec_ad import metrics
from mvtec_ad.course import check, summary

# %% [markdown]
# ## 06.temperature · predict
#
# A contrastive loss is a softmax over products, $\exp(z_i\cdot z_a/\tau)$ with a temperature $\tau$. Two questions before any of it is written.
#
# **First**, somebody forgets to bring the vectors to length 1. All vectors of a batch are twice as long as they should be, and $\tau=0.5$. With which
# temperature would vectors of length 1 give exactly this loss?
#
# **Second**, the negatives of an anchor are pushed away in proportion to their terms in the softmax. An anchor has three negatives, with cosines 0.9, 0.3 and −0.4. Which
# share of the whole push goes to the nearest of the three, at $\tau=1$ and at $\tau=0.1$?
#
# Give all three numbers, the shares to two decimals: `(temperature, share at 1, share at 0.1)`. Estimate them first; then a line of numpy may help.

# %%
# <solution>
answer = (0.125, 0.55, 1.00)
# </solution>
verdict = check("06.temperature", answer)
verdict

# %%
if verdict.right:
    cosines, temperatures = np.array([0.9, 0.3, -0.4]), np.geomspace(0.05, 3, 60)
    power = np.exp(cosines / temperatures[:, None])
    figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
    for cosine, share in zip(cosines, (power / power.sum(1, keepdims=True)).T, strict=True):
        axis.plot(temperatures, share, label=f"cosine {cosine}")
    axis.plot([1, 0.1], answer[1:], "ko", label="your answer")
    axis.set(xscale="log", xlabel="temperature τ", ylabel="share of the push")
    axis.legend(fontsize=8)
    plt.show()

# %% [markdown] solution
# Lengths enter twice: $2z\cdot2z'=4\,z\cdot z'$, so the temperature is a quarter. A network that may choose the lengths of its vectors chooses its own temperature, and can lower
# its loss without turning any vector; that is why they are brought to length 1. A small temperature puts nearly all of the push on the nearest
# negative. If that is a defect of the same type, as SimCLR cannot know, it is the wrong one to push.

# %% [markdown]
# ## 06.nt_xent · implement
#
# SimCLR sees two copies of each of $n$ images, $2n$ vectors in all. Each is an anchor once; its only positive is its twin $j(i)$, the other copy of the same image
# (Chen et al. 2020, eq. 1):
#
# $$\ell_{i}=-\log\frac{\exp(z_i\cdot z_{j(i)}/\tau)}{\sum_{a\neq i}\exp(z_i\cdot z_a/\tau)},\qquad L=\frac1{2n}\sum_i\ell_i .$$
#
# All $z$ are brought to length 1 first. Your function must also bear $\tau=0.001$, where $\exp(1/\tau)$ is more than a float can hold: a softmax stays the same
# when the largest value of a row is subtracted from all of it. Of four copies, `first` above and `second` below, this is who is what (T twin, − negative):
#
# ```
#            f0  f1  s0  s1
#   f0       ·   −   T   −
#   f1       −   ·   −   T
#   s0       T   −   ·   −
#   s1       −   T   −   ·
# ```


# %%
def nt_xent(first, second, temperature):
    """Loss, a number: first (n, d) and second (n, d) are two copies of the same n images, of any length."""
    # <solution>
    z = np.concatenate([first, second])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    logits = z @ z.T / temperature
    np.fill_diagonal(logits, -np.inf)
    logits -= logits.max(1, keepdims=True)
    log_share = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows, n = np.arange(len(z)), len(first)
    return -log_share[rows, np.roll(rows, n)].mean()
    # </solution>


verdict = check("06.nt_xent", nt_xent)
verdict

# %%
if verdict.right:
    angles = np.radians(np.arange(0, 181, 5))
    one, other = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 1.0])
    figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
    for tau in (0.1, 0.5, 1.0):
        turned = [nt_xent(one, np.stack([[np.cos(a), np.sin(a)], other]), tau) for a in angles]
        axis.plot(np.degrees(angles), turned, label=f"τ = {tau}")
    axis.axvline(90, color="grey", ls=":", lw=1)
    axis.set(xlabel="angle between an image's two copies (at 90°: on the other image)", ylabel="loss")
    axis.legend(fontsize=8)
    plt.show()

# %% [markdown] solution
# The diagonal is −∞ before the softmax, so the anchor is no choice of its own. After the largest value is subtracted, every exponential is at most 1.

# %% [markdown]
# ## 06.supcon · implement
#
# Who has labels has more positives: all others of the anchor's type, $P(i)$. SupCon takes the mean over them (Khosla et al. 2020, eq. 2, divided by the number of anchors $N$):
#
# $$L=\frac1N\sum_i\frac{-1}{|P(i)|}\sum_{p\in P(i)}\log\frac{\exp(z_i\cdot z_p/\tau)}{\sum_{a\neq i}\exp(z_i\cdot z_a/\tau)} .$$
#
# The logarithm stands *inside* the sum over $p$; the same paper shows that the other order trains worse. Every type of a batch occurs at least twice.


# %%
def supcon(vectors, types, temperature):
    """Loss, a number, of vectors (n, d) of any length and their types (n,)."""
    # <solution>
    z = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = z @ z.T / temperature
    np.fill_diagonal(logits, -np.inf)
    largest = logits.max(1, keepdims=True)
    shares = logits - largest - np.log(np.exp(logits - largest).sum(1, keepdims=True))
    positive = types[:, None] == types
    np.fill_diagonal(positive, False)
    return -np.mean(np.where(positive, shares, 0).sum(1) / positive.sum(1))
    # </solution>


verdict = check("06.supcon", supcon)
verdict

# %%
if verdict.right:
    angles, kinds = np.radians([0, 20, 90, 130]), np.array([0, 0, 1, 1])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    push = np.zeros_like(points)
    for at in np.ndindex(points.shape):  # − gradient, by differences of your loss
        step = np.zeros_like(points)
        step[at] = 1e-5
        push[at] = (supcon(points - step, kinds, 0.5) - supcon(points + step, kinds, 0.5)) / 2e-5
    figure, axis = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
    axis.scatter(*points.T, c=kinds, cmap="coolwarm", s=50)
    axis.quiver(*points.T, *push.T, angles="xy", scale_units="xy", scale=1, width=0.006)
    axis.set(aspect="equal", xlim=(-1.1, 1.5), ylim=(-0.4, 1.4), title="where your loss moves four vectors")
    plt.show()

# %% [markdown] solution
# With two copies of each image and the image's number as its type, this is NT-Xent: SimCLR is SupCon with one type per image. In the picture the two vectors in the
# middle move most, since each has a negative near it; all move along the circle, for lengths do not matter.

# %% [markdown]
# ## 06.augmentation · break
#
# SimCLR learns that two copies of an image are the same thing, whatever was done to them. So a copy must not change what you ask for later. Here are windows
# of three types: a scratch **along** the direction of transport, a scratch **across** it (another machine makes it), and a **pit**.
#
# Write an augmentation that looks harmless and destroys the difference of the first two: it only moves the pixels of the window (all values are still there), pits stay
# pits, and about half of the copies of either scratch are read as the other type. It draws from `rng`, a `np.random.Generator`.

# %%
along, across, pit = np.zeros((3, 9, 9))
along[3, 1:6] = across[2:7, 5] = 1
pit[5, 3:6] = pit[4:7, 4] = 1
figure, axes = plt.subplots(1, 3, figsize=(4.5, 1.7), layout="constrained")
for axis, name, image in zip(axes, ("along", "across", "pit"), (along, across, pit), strict=True):
    axis.imshow(image, cmap="gray")
    axis.set(title=name, xticks=[], yticks=[])
plt.show()


# %%
def augment(image, rng):
    """A copy of an image (9, 9), changed by chance."""
    # <solution>
    return np.rot90(image, rng.integers(4))
    # </solution>


verdict = check("06.augmentation", augment)
verdict

# %%
if verdict.right:
    rng = np.random.default_rng(1)
    figure, axes = plt.subplots(2, 6, figsize=(6, 2.2), layout="constrained")
    for row, name, image in zip(axes, ("along", "across"), (along, across), strict=True):
        for axis in row:
            axis.imshow(augment(image, rng), cmap="gray")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    plt.show()

# %% [markdown] solution
# Quarter turns are good copies of a hazelnut and bad ones of these scratches. No loss warns of it: the loss falls, the embedding is blind to direction. A turn by a quarter *always* is harmless,
# since both copies then still agree. What may be done to a picture depends on the question, not on the network.

# %% [markdown]
# ## 06.prototypes · implement
#
# A type's **prototype** is the mean direction of its embeddings: bring them to length 1, take the mean, and bring it to length 1 again (Snell et al. 2017, eq. 1, on the sphere). A new defect
# gets the type whose prototype has the largest cosine. A type that was never trained on needs no training: the mean of a single image is a prototype, too.
#
# Return all cosines, `(m, t)`: a row for each of the $m$ new defects, a column for each of the $t$ types in sorted order.


# %%
def cosines_to_prototypes(known, types, new):
    """Cosines (m, t) of new embeddings (m, d) with the prototypes of known (n, d), whose types (n,) are numbers."""
    # <solution>
    known, new = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, new))
    prototypes = np.stack([known[types == kind].sum(0) for kind in sorted(set(types))])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    return new @ prototypes.T
    # </solution>


verdict = check("06.prototypes", cosines_to_prototypes)
verdict

# %%
if verdict.right:
    rng, kinds = np.random.default_rng(3), np.repeat([0, 1, 2], [8, 8, 1])
    angles = np.radians(np.array([20, 100, 170])[kinds] + rng.normal(0, 14, len(kinds)))
    known, around = np.stack([np.cos(angles), np.sin(angles)], 1), np.radians(np.arange(0, 200, 2))
    circle = np.stack([np.cos(around), np.sin(around)], 1)
    figure, axis = plt.subplots(figsize=(4.5, 2.6), layout="constrained")
    axis.scatter(*known.T, c=kinds, cmap="brg", marker="x", label="known defects")
    axis.scatter(*1.12 * circle.T, c=cosines_to_prototypes(known, kinds, circle).argmax(1), cmap="brg", s=6)
    axis.set(aspect="equal", title="ring: the type that your prototypes name", xticks=[], yticks=[])
    plt.show()

# %% [markdown] solution
# The sum has the direction of the mean, so the number of images need not be divided out. The third type of the picture is one image; its prototype is that image.

# %% [markdown]
# ## 06.unknown · decide
#
# The **novelty** of a defect is its mean cosine distance to the nearest known ones. Above a limit it is called unknown. The line's operator accepts that at most a tenth ($\alpha=0.1$) of *known*
# types are called unknown. If $n$ novelties come from defects that are like the next one, the smallest limit with this promise is the value of rank
#
# $$k=\lceil(n+1)(1-\alpha)\rceil$$
#
# when they are sorted upward (split conformal prediction; Vovk et al. 2005). You have three lists: of the defects that the network has learned from, of defects of the same types that were held
# out, and of a type that was left out altogether, which a colleague kept to see how well "unknown" works.
#
# Which limit do you set, and which share of the type left out does it call unknown? Give `(limit, share)`.

# %%
learned = np.array([2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 9, 9, 10, 12, 15]) / 100
held_out = np.array([11, 14, 16, 17, 19, 20, 21, 22, 24, 25, 26, 28, 29, 31, 33, 36, 41, 47, 58]) / 100
left_out = np.array([23, 34, 39, 44, 52, 61, 66, 74]) / 100
figure, axis = plt.subplots(figsize=(6, 1.8), layout="constrained")
for height, (name, values) in enumerate({"left out": left_out, "held out": held_out, "learned": learned}.items()):
    axis.plot(values, np.full(len(values), height), "|", ms=18, mew=2, label=name)
axis.set(xlabel="novelty", yticks=[0, 1, 2], yticklabels=["left out", "held out", "learned"], ylim=(-0.6, 2.6))
plt.show()

# %%
# <solution>
answer = (np.sort(held_out)[17], np.mean(left_out > np.sort(held_out)[17]))
# </solution>
verdict = check("06.unknown", answer)
verdict

# %%
if verdict.right:
    print(f"limit {answer[0]}: {answer[1]:.2f} of the type left out are called unknown")

# %% [markdown] solution
# Rank 18 of 19 is 0.47, and half of the type left out lies above it: 0.50. The promise speaks of known types only. How much of a new type is caught depends on how unlike it is, and
# nothing can promise that before it is seen. A limit from what was learned would call nearly every defect of the line unknown.

# %% [markdown]
# ## 06.two_means · break
#
# **Balanced accuracy** is the mean recall over the types. **Macro F1** is the mean over types of $F_1=2\,TP/(2\,TP+FP+FN)$. Both give a rare type the weight of a common one, and people
# report whichever is at hand.
#
# Give true types and two sets of predictions for them, 20 to 500 images, such that balanced accuracy finds the *first* better by at least 0.1, and macro F1 the *second* by at least 0.1.
# Start with a common and a rare type: `np.repeat(["a", "b"], [90, 10])`.

# %%
# <solution>
answer = (
    np.repeat(["a", "b"], [90, 10]),
    np.repeat(["a", "b"], [60, 40]),
    np.repeat(["a", "b"], [96, 4]),
)
# </solution>
verdict = check("06.two_means", answer)
verdict

# %%
if verdict.right:
    for name, predicted in zip(("first", "second"), answer[1:], strict=True):
        values = metrics.verdict_metrics(answer[0], predicted)
        print(f"{name}: balanced accuracy {values['balanced_accuracy']:.2f}, macro F1 {values['macro_f1']:.2f}")

# %% [markdown] solution
# The first predictions find all of the rare type, at the price of thirty false alarms for it. Recall does not see false alarms from a large type: they cost `a` a third of its recall, but they ruin the
# precision of `b`. So balanced accuracy is 0.83 against 0.70, and macro F1 0.60 against 0.77. Which mean is right depends on what a false `b` costs.

# %% [markdown]
# ## 06.folds · implement
#
# A window around the true mask shows the defect for certain; no line has it, so it is an upper bound for the window around PaDiM's peak. How much better is it? Both were measured on the same ten folds (five,
# twice). Any two training sets of such folds share images, so the usual interval of ten independent values is too narrow. Nadeau and Bengio (2003) widen it: with the $J$ differences,
# their mean $\bar d$ and sample variance $s_d^2$,
#
# $$\bar d\pm t_{J-1}\sqrt{\Bigl(\tfrac1J+\tfrac{n_\text{test}}{n_\text{train}}\Bigr)s^2_d}\;,$$
#
# where $t_{J-1}$ leaves 2.5 % on each end of Student's t (`stats.t.ppf`). Return `(mean, low, high)` of ours − theirs.


# %%
def corrected_interval(ours, theirs, trained, tested):
    """Mean difference and the ends of its 95 % interval, from values (J,) of the same folds and numbers of images."""
    # <solution>
    d = np.asarray(ours) - np.asarray(theirs)
    half = np.std(d, ddof=1) * np.sqrt(1 / len(d) + tested / trained) * stats.t.ppf(0.975, len(d) - 1)
    return d.mean(), d.mean() - half, d.mean() + half
    # </solution>


verdict = check("06.folds", corrected_interval)
verdict

# %%
mask = np.array([0.9, 0.7, 0.8, 0.9, 0.7, 0.8, 0.9, 0.6, 0.8, 0.9])  # balanced accuracy of each fold
predicted = np.array([0.6, 0.7, 0.8, 0.6, 0.6, 0.7, 0.6, 0.7, 0.7, 0.7])
if verdict.right:
    intervals = {
        "folds taken for independent": corrected_interval(mask, predicted, 1, 0),
        "corrected, 40 trained, 10 tested": corrected_interval(mask, predicted, 40, 10),
    }
    figure, axis = plt.subplots(figsize=(5.5, 1.6), layout="constrained")
    for height, (name, (middle, low, high)) in enumerate(intervals.items()):
        axis.errorbar(middle, height, xerr=[[middle - low], [high - middle]], fmt="o", capsize=4)
        print(f"{name}: {middle:.2f} [{low:.2f}, {high:.2f}]")
    axis.axvline(0, color="grey", ls=":")
    axis.set(yticks=[0, 1], yticklabels=list(intervals), ylim=(-0.6, 1.6), xlabel="mask − predicted")
    plt.show()

# %% [markdown] solution
# The mean difference is 0.13 in both. Taken for independent, the folds say that the mask is better; the corrected interval holds zero, and the verdict is *undecided*. More repeats of the same images
# shrink only the term 1/J; the other stays.

# %%
print(summary("06"))
