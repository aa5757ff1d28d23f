# %% [markdown]
# # Lab 03 · Reconstruction and memory
#
# <!-- badge -->
#
# It belongs to notebooks 03, *Autoencoder and VAE*, and 03b, *PatchCore*. You will
#
# * **reconstruct** with a few numbers, and say what error is left (`03.pca`, `03.dropped`);
# * **explain** why a method that reconstructs more may detect less (`03.capacity`);
# * **turn** an image and its reconstruction into a map, and know what that map cannot see (`03.ssim`, `03.stain`);
# * **compute** what a latent number of a VAE costs, and predict which ones collapse (`03.divergence`, `03.collapse`);
# * **choose** a memory of patches, score with it, and find a defect that it calls good (`03.coreset`, `03.score`, `03.missing`);
# * **tell** which comparisons of detectors are decided (`03.detector`).
#
# Nothing is downloaded, and no network is trained. Each cell with an exercise ends in a check; it says what differs.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

from mvtec_ad import metrics
from mvtec_ad.course import check, summary

# %% [markdown]
# A small product for the first exercises: pictures of 8 × 8 pixels with a bright disc. Good ones vary in three ways (brightness of the disc,
# and light from the left and from above) and have a little noise; a defect darkens 2 × 2 pixels of the disc.

# %%
rng = np.random.default_rng(0)
rows, columns = np.mgrid[0:8, 0:8] / 3.5 - 1  # −1 to 1
disc = (rows**2 + columns**2 < 0.9).astype(float)


def product(count):
    """Good pictures (count, 64), values about 0 to 1."""
    a, b, c = rng.normal(size=(3, count, 1, 1))
    pictures = 0.3 + disc * (0.4 + 0.06 * a) + 0.05 * b * columns + 0.05 * c * rows
    return (pictures + 0.02 * rng.normal(size=pictures.shape)).reshape(count, 64)


train, good, defective = product(300), product(60), product(60)
for picture in defective.reshape(-1, 8, 8):  # a view: the pictures themselves change
    row, column = rng.integers(2, 5, 2)
    picture[row : row + 2, column : column + 2] -= 0.12
figure, axes = plt.subplots(1, 6, figsize=(8, 1.6))
for axis, picture, title in zip(axes, [*good[:3], *defective[:3]], ["good"] * 3 + ["defective"] * 3, strict=True):
    axis.imshow(picture.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])

# %% [markdown]
# ## 03.pca · implement
#
# PCA is the best linear autoencoder for squared error (Baldi and Hornik 1989). With the mean $\mu$ of the *training* images and the $k$
# directions $V_k$ ($k\times d$, orthonormal rows) along which they vary most, encoder and decoder are
#
# $$z=V_k(x-\mu),\qquad \hat x=\mu+V_k^\top z .$$
#
# Return the reconstructions of all $n$ images at once, $(n, d)$. `np.linalg.svd` sorts its directions by falling variance, `np.linalg.eigh` by
# rising variance. On paper: the training points $(0,1), (4,1), (2,0), (2,2)$ vary most horizontally, so with $k=1$ the point $(5,3)$ becomes $(5,1)$.


# %%
def reconstruct(train, x, k):
    """Reconstructions (n, d) of images x (n, d) from k numbers each; components and mean come from train (m, d)."""
    # <solution>
    mean = train.mean(0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:k]  # k × d
    return mean + (x - mean) @ directions.T @ directions
    # </solution>


check("03.pca", reconstruct)

# %%
if check("03.pca", reconstruct).right:
    figure, axes = plt.subplots(3, 4, figsize=(6, 4.6))
    for line, k in zip(axes[1:], (3, 40), strict=True):
        line[0].set_ylabel(f"|x − x̂|, k = {k}")
        for axis, picture in zip(line, [*good[:2], *defective[:2]], strict=True):
            error = np.abs(picture - reconstruct(train, picture[None], k)[0])
            axis.imshow(error.reshape(8, 8), cmap="inferno", vmin=0, vmax=0.12)
    for axis, picture, title in zip(
        axes[0], [*good[:2], *defective[:2]], ["good"] * 2 + ["defective"] * 2, strict=True
    ):
        axis.imshow(picture.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])

# %% [markdown] solution
# The directions come from the training images alone, and so does the mean: what a test image has in common with no training image must not
# reach its reconstruction. With $k=0$ every image becomes the mean image.

# %% [markdown]
# ## 03.dropped · predict
#
# The centred training matrix of another product has four singular values: $6, 3, 2, 1$. Two numbers are kept. Which squared error, summed over
# all training images, is left? And which share of the squared difference to the mean image is explained? Give both as a tuple, `(error, share)`.

# %%
# <solution>
answer = (2**2 + 1**2, (6**2 + 3**2) / (6**2 + 3**2 + 2**2 + 1**2))
# </solution>
check("03.dropped", answer)

# %% [markdown] solution
# The squares of the singular values are sums of squared coordinates along each direction, and directions at right angles do not mix (Eckart and
# Young 1936). So the error is what was dropped, and on *training* images it can only fall with $k$.

# %% [markdown]
# ## 03.capacity · predict
#
# Now $k$ runs from 0 to 64, as many numbers as there are pixels. The score of an image is the largest error of a pixel, $\max_i|x_i-\hat x_i|$, and the
# detector is measured by the AUROC of good and defective test images. Which sketch is right?

# %%
k = np.linspace(0, 64, 200)
sketches = {
    "a: rises and stays": 1 - 0.4 * np.exp(-k / 2),
    "b: rises, then falls": 1 - 0.4 * np.exp(-k / 2) - 0.5 * (k / 64) ** 2,
    "c: falls from the start": 1 - 0.5 * k / 64,
    "d: does not change": np.full(200, 0.8),
}
figure, axes = plt.subplots(1, 4, figsize=(9, 1.9), sharey=True, layout="constrained")
for axis, (title, curve) in zip(axes, sketches.items(), strict=True):
    axis.plot(k, curve, color="#0072B2")
    axis.set(title=title, xlabel="k", ylim=(0.45, 1.03))
axes[0].set_ylabel("AUROC")

# %%
# <solution>
sketch = "b"
# </solution>
check("03.capacity", sketch)

# %%
if check("03.pca", reconstruct).right and check("03.capacity", sketch).right:
    images, labels = np.concatenate([good, defective]), np.repeat([0, 1], 60)
    aurocs = []
    for k in range(65):
        error = np.abs(images - reconstruct(train, images, k))
        aurocs.append(metrics.image_auroc(labels, error.max(1).round(9)))  # rounding errors of a copy count as equal
    figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
    axis.plot(range(65), aurocs, color="#0072B2")
    axis.set(xlabel="numbers kept, k", ylabel="AUROC, measured")
    print(", ".join(f"k = {k}: {aurocs[k]:.2f}" for k in (0, 3, 40, 60, 64)))

# %% [markdown] solution
# The first three components are the three ways in which good pictures vary; without them good variation counts as error. Each further component
# can reproduce a part of the defect, and with 64 all images come back and all scores are equal. Good images must come back, and defects must
# not: a network that reconstructs more is not by that the better detector.

# %% [markdown]
# ## 03.ssim · implement
#
# SSIM compares two windows (Wang et al. 2004, eq. 13): their means, their variances, and whether their pixels vary together.
#
# $$\mathrm{SSIM}(x,y)=\frac{(2\mu_x\mu_y+C_1)(2\sigma_{xy}+C_2)}{(\mu_x^2+\mu_y^2+C_1)(\sigma_x^2+\sigma_y^2+C_2)},\qquad C_1=0.01^2,\ C_2=0.03^2 .$$
#
# All moments are weighted by $w$, whose sum is 1: $\mu_x=\sum w\,x$, $\sigma_x^2=\sum w\,(x-\mu_x)^2$, $\sigma_{xy}=\sum w\,(x-\mu_x)(y-\mu_y)$. Return one
# number. On paper: for $x=(0, 1)$, $y=(1, 0)$ and equal weights both variances are ¼ and the covariance is −¼, so SSIM is close to −1.


# %%
def ssim(x, y, weights):
    """SSIM of two windows (h, w) with values from 0 to 1, and weights (h, w) whose sum is 1."""
    # <solution>
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    variance_x, variance_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
    covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = 0.01**2, 0.03**2
    means = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return means * (2 * covariance + c2) / (variance_x + variance_y + c2)
    # </solution>


check("03.ssim", ssim)

# %% [markdown] solution
# The fraction is the product of two: one compares the means, the other the patterns. A reconstruction that is grey in a textured window has a
# covariance of 0, and its SSIM falls to nearly 0, however small the absolute error is.

# %% [markdown]
# ## 03.stain · break
#
# On the synthetic bottles of notebook 03 the map 1 − SSIM beats the absolute error. It does not see everything. Give a patch of an image and its
# reconstruction, each 8 × 8 with values from 0 to 1, whose mean absolute error is **at least 0.2**, a stain that anybody sees, while their SSIM
# (equal weights) is **at least 0.9**.

# %%
# <solution>
pair = (np.full((8, 8), 0.6), np.full((8, 8), 0.85))
# </solution>
check("03.stain", pair)

# %%
if check("03.stain", pair).right and check("03.ssim", ssim).right:
    patch, redrawn = (np.asarray(part, float) for part in pair)
    value = ssim(patch, redrawn, np.full((8, 8), 1 / 64))
    figure, axes = plt.subplots(1, 2, figsize=(3.4, 1.9))
    for axis, picture, title in zip(axes, (patch, redrawn), ("image", "reconstruction"), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
    print(f"mean absolute error {np.abs(patch - redrawn).mean():.2f}, SSIM {value:.3f}")

# %% [markdown] solution
# An even change of brightness leaves the pattern alone, and the factor of the means, $2\mu_x\mu_y/(\mu_x^2+\mu_y^2)$, stays close to 1 while both are bright. So a
# line whose defects are discolourations needs another map, or both.

# %% [markdown]
# ## 03.divergence · implement
#
# A VAE encodes an image into a Gaussian $N(\mu,\sigma^2)$ and pays for the information in it with its divergence from $N(0, I)$ (Kingma and Welling
# 2013, appendix B):
#
# $$\mathrm{KL}=\tfrac12\sum_j\left(\mu_j^2+\sigma_j^2-\log\sigma_j^2-1\right).$$
#
# Networks give $\log\sigma^2$, which may be any number. Return one KL per image, $(n,)$. On paper: it is 0 for $\mu=0$, $\log\sigma^2=0$, and ½ where one $\mu_j$ is 1.


# %%
def divergence(mu, log_variance):
    """KL (n,) in nats, of means (n, d) and logarithms of variances (n, d)."""
    # <solution>
    return 0.5 * (mu**2 + np.exp(log_variance) - log_variance - 1).sum(1)
    # </solution>


check("03.divergence", divergence)

# %% [markdown] solution
# Each term is at least 0, and 0 only where its dimension says the same of all images: a dimension without divergence carries nothing.

# %% [markdown]
# ## 03.collapse · predict
#
# Notebook 03 trains a VAE with the loss $\lVert x-\hat x\rVert^2+\beta\,\mathrm{KL}$, and with $\beta=1$ it collapses. In a *linear* VAE the collapse can be computed: the
# $j$-th principal component is used if and only if its variance $\lambda_j$ (of the training images along it) is above $\beta/2$ (Lucas et al. 2019,
# [arXiv:1911.02469](https://arxiv.org/abs/1911.02469)); all others fall back to $N(0, 1)$. The variances are $2,\ 0.9,\ 0.4,\ 0.06,\ 0.04$. How many
# components are used with $\beta=1$, and how many with $\beta=0.1$? Give a tuple.

# %%
# <solution>
used = (2, 4)
# </solution>
check("03.collapse", used)

# %% [markdown]
# One component by itself: the encoder gives $\mu=m\,x$ and a variance $s^2$, the decoder $\hat x=w\,z$. The mean loss over images of variance $\lambda$ is
# $\lambda(1-wm)^2+w^2s^2+\tfrac{\beta}{2}(m^2\lambda+s^2-\log s^2-1)$. The cell minimises it for many $\lambda$ and shows what the component then carries.

# %%
if check("03.collapse", used).right:
    figure, axis = plt.subplots(figsize=(5.4, 2.6), layout="constrained")
    variances = np.geomspace(0.01, 4, 40)
    for beta, colour in ((1.0, "#D55E00"), (0.1, "#0072B2")):
        carried = []
        for variance in variances:

            def loss(parameters, variance=variance, beta=beta):
                m, w, log_s = parameters
                s = np.exp(2 * log_s)
                kl = 0.5 * (m**2 * variance + s - 2 * log_s - 1)
                return variance * (1 - w * m) ** 2 + w**2 * s + beta * kl

            m, _, log_s = minimize(loss, [1.0, 1.0, 0.0]).x
            carried.append(0.5 * (m**2 * variance + np.exp(2 * log_s) - 2 * log_s - 1))
        axis.plot(variances, carried, "o-", ms=3, color=colour, label=f"β = {beta}")
        axis.axvline(beta / 2, color=colour, ls="--", lw=1)
    axis.set(xscale="log", xlabel="variance of the component (dashed: β/2)", ylabel="KL, nats")
    axis.legend()

# %% [markdown] solution
# Below $\beta/2$ the price of a latent number is higher than the squared error that it saves. Where *all* variances are below, the whole posterior
# collapses, and no training can help; where some lie above and the network still collapses, as in notebook 03, training only stopped there.

# %% [markdown]
# ## 03.coreset · implement
#
# PatchCore (Roth et al. 2022, algorithm 1) keeps a few patches from which no other one is far. Begin with point 0; then, until there are `count`,
# take the point whose distance to its **nearest** chosen point is the largest. Return the list of indices in the order in which they were chosen. On
# paper: of the numbers 0, 1, 10, 4, 7 the first three are those with indices 0, 2, 3 (4 lies 4 away from its nearest chosen one, 7 only 3).


# %%
def coreset(points, count):
    """Indices of the chosen points, of points (n, d)."""
    # <solution>
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
    # </solution>


check("03.coreset", coreset)

# %%
if check("03.coreset", coreset).right:
    points = np.concatenate([rng.normal(0, 1, (190, 2)), rng.normal(5, 0.3, (10, 2))])
    choices = {"greedy": coreset(points, 10), "random": list(rng.choice(200, 10, replace=False))}
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True, layout="constrained")
    for axis, (title, chosen) in zip(axes, choices.items(), strict=True):
        radius = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(1).max()
        axis.scatter(*points.T, s=8, alpha=0.4, color="#0072B2")
        axis.scatter(*points[chosen].T, s=60, marker="X", color="#D55E00")
        axis.set_title(f"{title}: all within {radius:.2f}")

# %% [markdown] solution
# Only the distance to the nearest chosen point is kept, and after each choice it can only shrink: one pass over the points a choice. The rare
# group is reached early because it is far. So is a defective patch that stands among the good ones by mistake: a greedy memory remembers it.

# %% [markdown]
# ## 03.score · implement
#
# The score of an image (equation 7). $m^{test}$ is its patch that is farthest from the bank, $m^*$ the patch of the bank nearest to it, and $N_b(m^*)$ the
# $b$ patches of the **bank** nearest to $m^*$, itself among them:
#
# $$s=\Bigl(1-\frac{e^{\lVert m^{test}-m^*\rVert}}{\sum_{m\in N_b(m^*)}e^{\lVert m^{test}-m\rVert}}\Bigr)\lVert m^{test}-m^*\rVert .$$
#
# Return one number. On paper: the bank is 0, 1, 6 on a line, the patches are 2.5 and 0, and $b=2$. The farthest patch is 2.5, $m^*$ is 1, its neighbours are
# 1 and 0, and $s=1.5\,(1-1/(1+e))$.


# %%
def score(patches, bank, neighbours):
    """PatchCore's score of an image with patches (n, d), from a bank (m, d) and b = neighbours."""
    # <solution>
    distances = np.linalg.norm(patches[:, None] - bank, axis=2)  # n × m
    farthest = distances.min(1).argmax()
    star = distances[farthest].argmin()
    around = np.linalg.norm(bank - bank[star], axis=1).argsort()[:neighbours]
    weight = 1 - np.exp(distances[farthest, star]) / np.exp(distances[farthest, around]).sum()
    return weight * distances[farthest, star]
    # </solution>


check("03.score", score)

# %% [markdown] solution
# Where $m^*$ is a lonely patch of the bank, its neighbours are much farther from the new patch, the fraction is small and the weight close to 1; where the
# bank is dense, the weight is smaller. On the screw of notebook 03b the distance is so large that the printed weight rounds to one.

# %% [markdown]
# ## 03.missing · break
#
# A product seen as a strip of 12 cells: a plug of three wires, `1 2 3`, somewhere on an empty board of zeros. It lies anywhere, so the ten good strips are
#
#     1 2 3 0 0 0 0 0 0 0 0 0      0 1 2 3 0 0 0 0 0 0 0 0      …      0 0 0 0 0 0 0 0 0 1 2 3
#
# A patch is a window of three neighbouring cells, and the memory keeps the windows of all good strips. Give a strip that is **not** good, and yet scores 0.
# (With swapped wires it does not: `1 3 2` occurs in no good strip.)

# %%
# <solution>
strip = [0] * 12
# </solution>
check("03.missing", strip)

# %% [markdown] solution
# An empty board, two plugs, or half a plug at the edge: each window is known. A memory without positions does not count and does not ask what
# should be there. Defects that only the whole reveals are a data set of their own (MVTec LOCO, Bergmann et al. 2022).

# %% [markdown]
# ## 03.detector · decide
#
# Which sentences do the executed notebooks 03 and 03b (profile *quick*, synthetic images) support? Differences are of the image AUROC, with 95 %
# intervals from the same resamples of the test images.
#
# * **a** On the bottle PCA with 64 components is ahead of this autoencoder: .120 [.035, .226].
# * **b** SSIM in the loss makes the autoencoder a better detector: .013 [−.003, .034].
# * **c** The VAE with β = 0.1 detects better than the collapsed one: .052 [−.010, .133].
# * **d** On the screw the autoencoder is worse than chance: .437 [.301, .585].
# * **e** The grid explains more of good images than the network with a vector of 64 numbers (.80 to .81 against .61 to .62), and detects less: vector − grid
#   is .283 [.101, .451].
# * **f** PatchCore and PaDiM detect equally well on the bottle: .000 [−.114, .114].
#
# Give the letters of all that hold, for example `"bd"`.

# %%
# <solution>
letters = "ae"
# </solution>
check("03.detector", letters)

# %% [markdown] solution
# An interval that holds zero decides nothing: neither *better* nor *equal*. A claim of equality needs a narrow interval around zero and a bound
# that was named before.

# %%
print(summary("03"))
