# %% [markdown]
# # Lab 02 · PaDiM: what is normal, and where the line is drawn
#
# <!-- badge -->
#
# After this lab you will be able to
#
# * **describe** what is normal at each position, and score an image by it (`02.gaussians`, `02.mahalanobis`, `02.map`);
# * **derive** the same distances more cheaply, by two identities (`02.woodbury`, `02.leave_one_out`);
# * **choose** the ridge in its unit, and show what too small a one does (`02.ridge_units`, `02.blind_direction`);
# * **calibrate** a threshold on good parts, and say what few of them promise (`02.conformal`, `02.nineteen`, `02.images`);
# * **explain** why one Gaussian fails on parts that turn (`02.poses`, `02.middle`);
# * **report** a threshold and a random draw honestly (`02.report`).
#
# It belongs to notebook 02. Nothing is trained here, and nothing is downloaded. Each exercise ends in a check; it says what
# differs. Equations are numbered as in the paper (Defard et al. 2020, [arXiv:2011.08785](https://arxiv.org/abs/2011.08785)).

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np

from mvtec_ad.course import check, summary

# %% [markdown]
# ## 02.gaussians · predict
#
# PaDiM keeps a Gaussian at each of 56 × 56 positions, over 100 channels. How many different numbers are that, mean and covariance?

# %%
# <solution>
numbers = 56 * 56 * (100 + 100 * 101 // 2)
# </solution>
verdict = check("02.gaussians", numbers)
verdict

# %%
if verdict.right:
    print(f"{numbers:,} numbers; in float32 {4 * numbers / 1e6:.0f} MB")

# %% [markdown]
# ## 02.mahalanobis · implement
#
# How far is a patch $x$ from normal? Equation (2), with the ridge $\epsilon$ of equation (1) written out:
#
# $$M(x)=\sqrt{(x-\mu)^{\mathsf T}(\Sigma+\epsilon I)^{-1}(x-\mu)}$$
#
# Compute it for $n$ points at once. By hand: with $\mu=0$, $\Sigma=\mathrm{diag}(8, 3)$ and $\epsilon=1$, the points (3, 0) and (0, 2)
# both have $M=1$, for each lies one standard deviation away in its direction.


# %%
def mahalanobis(x, mean, covariance, ridge):
    """Distances (n,) of points (n, d) from a Gaussian with this mean (d,) and covariance (d, d)."""
    # <solution>
    away = x - mean
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(mean)))
    return np.sqrt(np.einsum("nd,de,ne->n", away, inverse, away))
    # </solution>


distance_verdict = check("02.mahalanobis", mahalanobis)
distance_verdict

# %%
if distance_verdict.right:
    cloud = np.random.default_rng(0).normal(size=(80, 2)) @ [[2.0, 1.0], [0.0, 0.5]]
    grid = np.stack(np.meshgrid(np.linspace(-7, 7, 80), np.linspace(-5, 5, 80)), -1)
    level = mahalanobis(grid.reshape(-1, 2), cloud.mean(0), np.cov(cloud.T), 0.01).reshape(80, 80)
    figure, axes = plt.subplots(figsize=(4, 2.8), layout="constrained")
    axes.plot(*cloud.T, ".")
    axes.clabel(axes.contour(grid[..., 0], grid[..., 1], level, levels=[1, 2, 3], colors="C1"))
    axes.set(title="M around good patches", aspect="equal")

# %% [markdown] solution
# The inverse is taken once, for all points. A step along the cloud costs little, the same step across it much more: that is all that $\Sigma$
# adds to a Euclidean distance.

# %% [markdown]
# ## 02.map · implement
#
# The whole method. At each position $(i,j)$ the good images give $N$ vectors; their mean and covariance are, equation (1),
#
# $$\mu_{ij}=\frac1N\sum_k x^k_{ij},\qquad
# \Sigma_{ij}=\frac{1}{N-1}\sum_k (x^k_{ij}-\mu_{ij})(x^k_{ij}-\mu_{ij})^{\mathsf T}+\epsilon I .$$
#
# The anomaly map holds $M$ of each vector of the test image, to the Gaussian of *its own* position. A loop over positions is fine.


# %%
def anomaly_map(good, image, ridge):
    """Map (h, w) of features (h, w, d) of an image, from features (N, h, w, d) of good images."""
    # <solution>
    mean = good.mean(0)
    centred, away = good - mean, image - mean
    covariance = np.einsum("nhwd,nhwe->hwde", centred, centred) / (len(good) - 1) + ridge * np.eye(good.shape[-1])
    solved = np.linalg.solve(covariance, away[..., None])[..., 0]
    return np.sqrt((away * solved).sum(-1))
    # </solution>


verdict = check("02.map", anomaly_map)
verdict

# %% [markdown]
# A part with an edge in the middle, in three channels, with a defect that is no brighter than the part. Channels vary together among good
# parts, and in the defect they do not:

# %%
rng = np.random.default_rng(1)
good_features = (
    3.0 * (np.arange(20) > 9)[:, None] + rng.normal(size=(50, 12, 20, 1)) + rng.normal(0, 0.2, (50, 12, 20, 3))
)
defective_features = good_features[0].copy()
defective_features[4:7, 5:8] += [1.0, -1.0, 0.0]
if verdict.right:
    mapped = anomaly_map(good_features[1:], defective_features, 0.01)
    figure, axes = plt.subplots(1, 2, figsize=(6, 2.2), layout="constrained")
    for axis, title, picture in zip(
        axes, ("mean of the channels", "your map"), (defective_features.mean(-1), mapped), strict=True
    ):
        figure.colorbar(axis.imshow(picture), ax=axis)
        axis.set(title=title, xticks=[], yticks=[])

# %% [markdown] solution
# The mean of the channels does not show the defect, the map does: the channels rise and fall together at good parts, and each $\Sigma$
# knows it. The edge is no anomaly, because it is there in every good part.

# %% [markdown]
# ## 02.woodbury · implement
#
# With fewer images than channels, $\Sigma$ is $d\times d$ but holds only $N-1$ directions. Let $\bar X$ ($N\times d$) be the centred
# features and $\lambda=(N-1)\,\epsilon$. By the Woodbury identity (derived in notebook 02) the distance of $\delta=x-\mu$ needs only an
# $N\times N$ matrix and its Cholesky factor $L$, a lower triangle:
#
# $$M^2=\frac{\lVert\delta\rVert^2-\lVert A\,\delta\rVert^2}{\epsilon},\qquad A=L^{-1}\bar X,\qquad LL^{\mathsf T}=\bar X\bar X^{\mathsf T}+\lambda I .$$
#
# Return $A$, which is all that is kept of the good images beside $\mu$.


# %%
def dual_factor(centred, ridge):
    """A (N, d) of centred features (N, d)."""
    # <solution>
    inner = centred @ centred.T + (len(centred) - 1) * ridge * np.eye(len(centred))
    return np.linalg.solve(np.linalg.cholesky(inner), centred)
    # </solution>


verdict = check("02.woodbury", dual_factor)
verdict

# %%
if verdict.right:
    rng = np.random.default_rng(2)
    few, delta, ridge = rng.normal(size=(20, 300)), rng.normal(size=300), 0.01
    few = few - few.mean(0)
    dual = (delta @ delta - np.sum((dual_factor(few, ridge) @ delta) ** 2)) / ridge
    direct = delta @ np.linalg.solve(few.T @ few / 19 + ridge * np.eye(300), delta)
    print(f"M² by your factor {dual:.3f}, by a 300 × 300 matrix {direct:.3f}")

# %% [markdown] solution
# $\lVert A\delta\rVert^2$ is the part of $\delta$ that good images explain, shrunk by the ridge. What is left is divided by $\epsilon$: outside of the
# directions that good images span, the ridge alone decides.

# %% [markdown]
# ## 02.leave_one_out · implement
#
# A threshold needs scores of good parts, but those that were *fitted* score too low. Leave image $i$ out: Gaussian from the other
# $N-1$, distance of $x_i$ to it, for each $i$. Refitting $N$ times is not needed. With $\delta=x_i-\mu$, the scatter $S=\bar X^{\mathsf T}\bar X$,
# $B=\frac{1}{N-2}S+\epsilon I$, $c=\frac{N}{(N-1)(N-2)}$ and $q=\delta^{\mathsf T}B^{-1}\delta$, the identity of Sherman and Morrison gives
#
# $$M_{-i}(x_i)=\frac{N}{N-1}\sqrt{\frac{q}{1-c\,q}} .$$
#
# Write it with one inverse, or refit in a loop and time both: the check accepts either. By hand, for 0, 1 and 5 with $\epsilon=.5$: without 0
# the mean is 3 and the variance 8, so $M_{-1}=3/\sqrt{8.5}$.


# %%
def leave_one_out(x, ridge):
    """Distance (N,) of each point of (N, d) to the Gaussian of the others."""
    # <solution>
    n = len(x)
    away = x - x.mean(0)
    inverse = np.linalg.inv(away.T @ away / (n - 2) + ridge * np.eye(x.shape[1]))
    q = np.einsum("nd,de,ne->n", away, inverse, away)
    return n / (n - 1) * np.sqrt(q / (1 - n / ((n - 1) * (n - 2)) * q))
    # </solution>


verdict = check("02.leave_one_out", leave_one_out)
verdict

# %%
if verdict.right and distance_verdict.right:
    rng = np.random.default_rng(3)
    learn, new = rng.normal(size=(40, 20)), rng.normal(size=(4000, 20))
    fitted = learn.mean(0), np.cov(learn.T), 0.01
    distances = {
        "fitted": mahalanobis(learn, *fitted),
        "left out": leave_one_out(learn, 0.01),
        "new": mahalanobis(new, *fitted),
    }
    figure, axes = plt.subplots(figsize=(4.6, 2.4), layout="constrained")
    for name, values in distances.items():
        axes.hist(values, np.linspace(2, 14, 40), density=True, histtype="step", label=name)
        print(f"{name}: median {np.median(values):.2f}")
    axes.set(xlabel="M of good patches, 20 channels, 40 images")
    axes.legend()

# %% [markdown] solution
# Fitted patches have pulled mean and covariance towards themselves, the more so the fewer images there are for the channels. Left-out distances
# lie where those of new good parts lie, and a threshold can rest on them.

# %% [markdown]
# ## 02.ridge_units · predict
#
# $\epsilon=.01$ was chosen for a network. The features of another one are **4 times as large**, and otherwise alike. Which
# $\epsilon$ gives the same distances there?

# %%
# <solution>
same_ridge = 0.01 * 4**2
# </solution>
check("02.ridge_units", same_ridge)

# %% [markdown] solution
# $\delta$ becomes $4\delta$ and the covariance 16 times as large, so that a ridge 16 times as large leaves every $M$ as it was. The ridge is in
# units of feature variance. A recipe that states $\epsilon$ without the scale of its features is not complete.

# %% [markdown]
# ## 02.blind_direction · break
#
# Forty good patches have 6 channels, and the last is always the difference of the first two (a network whose channels repeat each other has
# many such directions). With $\epsilon=10^{-4}$, give a patch that is closer to the mean than any good one, at a Euclidean distance of at
# most .045, and yet has a larger $M$ than **every** good patch.

# %%
patches = np.random.default_rng(6).normal(size=(40, 6))
patches[:, 5] = patches[:, 0] - patches[:, 1]
print(f"nearest good patch: {np.linalg.norm(patches - patches.mean(0), axis=1).min():.2f} from the mean")

# %%
# <solution>
patch = patches.mean(0) + 0.045 * np.array([1, -1, 0, 0, 0, -1]) / np.sqrt(3)
# </solution>
verdict = check("02.blind_direction", patch)
verdict

# %%
if verdict.right and distance_verdict.right:
    for ridge in (1e-4, 1e-3, 1e-2):
        fitted = patches.mean(0), np.cov(patches.T), ridge
        here, largest = mahalanobis(np.array([patch]), *fitted)[0], mahalanobis(patches, *fitted).max()
        print(f"ridge {ridge:g}: M of your patch {here:.2f}, largest of a good patch {largest:.2f}")

# %% [markdown] solution
# Good patches do not vary along (1, −1, 0, 0, 0, −1), so that a step of length $s$ there has $M=s/\sqrt\epsilon$. A sensor's noise that is in no training
# image would raise an alarm. $\sqrt\epsilon$ is the smallest deviation that counts: choose it at the size of what you call noise.

# %% [markdown]
# ## 02.conformal · implement
#
# A threshold that has seen no defect: the $k$-th smallest of $n$ scores of good parts that were not fitted, with
#
# $$k=\lceil (n+1)(1-\alpha)\rceil .$$
#
# The next good part is equally likely to take each of $n+1$ ranks, so it exceeds this threshold with probability at most $\alpha$ (split
# conformal prediction: Vovk et al. 2005; Lei et al., JASA 2018, section 2.2). Where $k>n$, no score will do: return `np.inf`.


# %%
def conformal_threshold(scores, alpha):
    """Threshold that a new good score exceeds with probability at most alpha, from good scores (n,)."""
    # <solution>
    k = int(np.ceil((len(scores) + 1) * (1 - alpha)))
    return np.sort(scores)[k - 1] if k <= len(scores) else np.inf
    # </solution>


threshold_verdict = check("02.conformal", conformal_threshold)
threshold_verdict

# %%
if threshold_verdict.right:
    rng = np.random.default_rng(4)
    for n in (19, 29, 99):
        lines = rng.normal(size=(4000, n))
        ours, plain = np.array([conformal_threshold(line, 0.05) for line in lines]), np.quantile(lines, 0.95, axis=1)
        new = rng.normal(size=4000)
        print(
            f"{n} scores, false alarms: conformal {np.mean(new > ours):.3f}, plain quantile {np.mean(new > plain):.3f}"
        )

# %% [markdown] solution
# The plain quantile lies between the scores and forgets that the next part has a rank of its own: with few scores it raises more alarms than it
# promises. Nothing was assumed about the distribution, only that new parts are like the old ones.

# %% [markdown]
# ## 02.nineteen · predict
#
# With 19 scores and $\alpha=.05$ the threshold is the largest of them. The promise holds *on average over lines*, each with its own 19
# good parts. Your line has one such threshold, and so one true false-alarm rate. With which probability does it exceed 5 %? (Scores are
# continuous. To two decimals or more.)

# %%
# <solution>
unlucky = 0.95**19
# </solution>
verdict = check("02.nineteen", unlucky)
verdict

# %%
if verdict.right and threshold_verdict.right:
    rng = np.random.default_rng(5)
    true_rates = np.array([1 - conformal_threshold(rng.uniform(size=19), 0.05) for _ in range(5000)])
    above = np.mean(true_rates > 0.05)
    print(f"5000 lines: mean rate {true_rates.mean():.3f}, share of lines above .05: {above:.2f}")
    figure, axes = plt.subplots(figsize=(4.4, 2.2), layout="constrained")
    axes.hist(true_rates, np.linspace(0, 0.25, 51))
    axes.axvline(0.05, color="C1")
    axes.set(xlabel="true false-alarm rate of a line", ylabel="lines", title="19 good images each")

# %% [markdown] solution
# The rate exceeds 5 % where all 19 scores happen to lie among the lowest 95 % of the distribution. So more than a third of such lines have more
# false alarms than 5 %, and some have three times as many. The mean is right because most others have fewer.

# %% [markdown]
# ## 02.images · decide
#
# You may order as many good images as you want, and each costs something. The threshold will be the largest score. How many do you order
# at least, so that with a probability of 95 % *your* line has a true false-alarm rate of at most 5 %?

# %%
# <solution>
order = int(np.ceil(np.log(0.05) / np.log(0.95)))
# </solution>
verdict = check("02.images", order)
verdict

# %%
if verdict.right:
    for n in (19, order - 1, order):
        print(f"{n} images: {0.95**n:.3f} of the lines exceed 5 %")

# %% [markdown] solution
# Three times the 19 images of the average promise. With the largest score as threshold the mean rate is then 1/60: certainty about one line is paid
# with a higher threshold, which lets more defects through.

# %% [markdown]
# ## 02.poses · implement
#
# Where parts lie in different poses $\theta$, the covariance at a position has two terms (law of total covariance):
#
# $$\mathrm{Cov}(x)=\mathbb E\big[\mathrm{Cov}(x\mid\theta)\big]+\mathrm{Cov}\big(\mathbb E[x\mid\theta]\big) .$$
#
# Which share of the total variance lies *between* poses? Return the trace of the second term over the trace of $\mathrm{Cov}(x)$.
# Expectations run over the images, so that a pose counts as often as it occurs, and every variance is divided by the number of
# values. By hand: 0 and 2 in one pose, 10 and 12 in the other: 25 / 26.


# %%
def share_between(x, poses):
    """Share of the variance of features (n, d) that lies between poses (n,), which are whole numbers."""
    # <solution>
    means = np.zeros(x.shape)
    for pose in np.unique(poses):
        means[poses == pose] = x[poses == pose].mean(0)
    return means.var(0).sum() / x.var(0).sum()
    # </solution>


verdict = check("02.poses", share_between)
verdict

# %% [markdown]
# A bar that lies in one of eight poses; at each pixel the share of the variance between poses:

# %%
if verdict.right:
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:24, :24] - 11.5
    turns = rng.integers(0, 8, 200)
    pictures = []
    for turn in turns:
        angle = np.pi * turn / 8
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        pictures.append(((abs(along) < 9) & (abs(across) < 3)) + rng.normal(0, 0.2, x.shape))
    pictures = np.array(pictures)
    shares = [[share_between(pictures[:, i, j, None], turns) for j in range(24)] for i in range(24)]
    figure, axes = plt.subplots(1, 2, figsize=(5, 2.4), layout="constrained")
    for axis, title, picture in zip(axes, ("one part", "share between poses"), (pictures[0], shares), strict=True):
        figure.colorbar(axis.imshow(picture), ax=axis)
        axis.set(title=title, xticks=[], yticks=[])
    print(
        f"all pixels together: {share_between(pictures.reshape(200, -1), turns):.2f} of the variance lies between poses"
    )

# %% [markdown] solution
# Wherever the bar may or may not lie, most of the variance is between poses. It enlarges $\Sigma$ there, and the same defect has a smaller distance.
# To align the parts is to remove that term: notebook 02 measures what it brings.

# %% [markdown]
# ## 02.middle · break
#
# Parts lie in one of two poses, and at a position good patches look like the points below. Give a patch that is unlike every good one,
# more than 1.5 away from all of them, and yet has a *smaller* $M$ than every one ($\epsilon=.01$).

# %%
of_two_poses = np.random.default_rng(4).normal(np.repeat([[-3.0, 0.0], [3.0, 0.0]], 40, axis=0), 0.5)
print("means of the poses:", of_two_poses[:40].mean(0).round(2), of_two_poses[40:].mean(0).round(2))

# %%
# <solution>
unseen = of_two_poses.mean(0)
# </solution>
verdict = check("02.middle", unseen)
verdict

# %%
if verdict.right and distance_verdict.right:
    grid = np.stack(np.meshgrid(np.linspace(-6, 6, 80), np.linspace(-2.5, 2.5, 50)), -1)
    fitted = of_two_poses.mean(0), np.cov(of_two_poses.T), 0.01
    level = mahalanobis(grid.reshape(-1, 2), *fitted).reshape(50, 80)
    figure, axes = plt.subplots(figsize=(5, 2.4), layout="constrained")
    axes.clabel(axes.contour(grid[..., 0], grid[..., 1], level, levels=[0.5, 1, 2, 3], colors="0.6"))
    axes.plot(*of_two_poses.T, ".", label="good")
    axes.plot(*unseen, "X", markersize=9, label="your patch")
    axes.legend(loc="upper center", ncols=2)

# %% [markdown] solution
# The mean lies where no good patch lies, and there $M$ is 0. One Gaussian describes one kind of normal. A memory of good patches, as in lab 03's
# PatchCore, would call this patch far.

# %% [markdown]
# ## 02.report · decide
#
# Notebook 02, profile *quick*, 70 drawn test images of screws: 20 good, 50 defective. With the calibrated threshold PaDiM's accuracy is .414
# and its false-alarm rate .067; with the oracle threshold .762 and .700. Calling every image defective has an accuracy of .714. Twelve channels give
# an AUROC of .511 to .605 over five draws. Paired differences of AUROC: PaDiM aligned − as it lies .313 [.182, .457]; PatchCore − PaDiM,
# both aligned, −.013 [−.036, .000]. Which sentences may stand in a report?
#
# * **a** With a threshold from good training parts, which has seen no defect, PaDiM's accuracy on these screws is .414.
# * **b** With the right threshold a line may expect an accuracy of .762.
# * **c** At the oracle threshold .700 of the good parts are rejected, and calling everything defective is nearly as accurate.
# * **d** PaDiM with 12 channels reaches an AUROC of .605.
# * **e** On these drawn screws alignment raises PaDiM's AUROC.
# * **f** Once the parts are aligned, PatchCore is worse than PaDiM.

# %%
# <solution>
letters = "ace"
# </solution>
check("02.report", letters)

# %% [markdown] solution
# b and d are the same mistake: something was chosen with the test labels, a threshold or a draw, and then measured on them. f takes an
# undecided difference for a result.

# %%
print(summary("02"))
