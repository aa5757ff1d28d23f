# %% [markdown]
# # Lab 07 · Two networks play, and what a generator cannot draw
#
# <!-- badge -->
#
# The generator and discriminator of this lab are small enough for numpy: logits, grids of a few cells, and a linear generator, for which AnoGAN's search can be followed step by step.
# After this lab you can
#
# * **derive** what the discriminator tends to, and why the generator does not minimise log(1 − D) (`07.optimal`, `07.gradients`);
# * **write** a transposed convolution, and tell which kernels draw checkerboards (`07.transposed`);
# * **measure** how far generated from real is, and know what the Fréchet distance does not see (`07.frechet`, `07.modes`);
# * **search** the latent space for the image that is closest to a part, by pixels and features (`07.search`);
# * **find** a defect that the generator draws itself (`07.redrawn`);
# * **judge** remedies and detectors by what is shown of them (`07.report`).
#
# It goes with notebooks [07](../../notebooks/07_dcgan.ipynb) and [07b](../../notebooks/07b_anogan.ipynb). Nothing is downloaded.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np

from mvtec_ad.course import check, summary

# %% [markdown]
# ## 07.optimal · predict
#
# A world has four images. Real ones occur with probability $p$, and the generator draws them with probability $q$:
#
# | image | 1 | 2 | 3 | 4 |
# | :-- | --: | --: | --: | --: |
# | $p$, real | 0.5 | 0.25 | 0.25 | 0 |
# | $q$, generated | 0.25 | 0.25 | 0 | 0.5 |
#
# The discriminator may give each image any probability $D$ of being real, and maximises $\sum p\log D+\sum q\log(1-D)$ (Goodfellow et al. 2014, eq. 1). To which four values does it tend while the generator
# stands still? Give them in this order, as a tuple.

# %%
# <solution>
answer = (2 / 3, 1 / 2, 1, 0)
# </solution>
verdict = check("07.optimal", answer)
verdict

# %% [markdown]
# Gradient ascent on four logits, one for each image, beside your answer:

# %%
if verdict.right:
    p, q, logits = np.array([0.5, 0.25, 0.25, 0]), np.array([0.25, 0.25, 0, 0.5]), np.zeros(4)
    for _ in range(500):
        probability = 1 / (1 + np.exp(-logits))
        logits += p * (1 - probability) - q * probability
    figure, axis = plt.subplots(figsize=(5, 2.2), layout="constrained")
    axis.bar(np.arange(1, 5) - 0.2, 1 / (1 + np.exp(-logits)), 0.4, label="after 500 steps")
    axis.bar(np.arange(1, 5) + 0.2, np.array(answer, float), 0.4, label="your answer")
    axis.set(xticks=range(1, 5), xlabel="image", ylabel="D", ylim=(0, 1.05))
    axis.legend(fontsize=8)
    plt.show()

# %% [markdown] solution
# $p/D-q/(1-D)=0$ gives $D^*=p/(p+q)$. Where only one kind occurs, $D^*$ is 0 or 1 and its logit grows without end: real and generated images that never overlap are where a discriminator becomes
# certain, and its slope useless or huge. Remedies for that stand in `07.report`.

# %% [markdown]
# ## 07.gradients · implement
#
# The discriminator gives a logit $l$, and $D=\sigma(l)=1/(1+e^{-l})$. The game's own loss for the generator is $\log(1-D)$; what is used is $-\log D$, called *non-saturating* (Goodfellow et al.
# 2014, section 3). Both fall as $D$ rises. They differ in their slopes over the logit, which is what reaches the generator.
#
# Return an array `(3, n)` for logits `(n,)`: the loss $-\log D$, its derivative $\frac{d}{dl}(-\log D)$, and the derivative $\frac{d}{dl}\log(1-D)$. At $l=-800$ the discriminator is so sure that $D$ rounds to 0; the
# loss is 800 all the same (`np.logaddexp`).


# %%
def generator_gradients(logits):
    """Rows (3, n): loss −log D, its slope, and the slope of log(1 − D), for logits (n,) of generated images."""
    # <solution>
    probability = np.exp(-np.logaddexp(0, -logits))
    return np.array([np.logaddexp(0, -logits), probability - 1, -probability])
    # </solution>


verdict = check("07.gradients", generator_gradients)
verdict

# %%
if verdict.right:
    logits = np.linspace(-8, 8, 200)
    _, used, saturating = generator_gradients(logits)
    figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
    axis.plot(logits, used, label="−log D")
    axis.plot(logits, saturating, label="log(1 − D)")
    axis.set(xlabel="logit of a generated image (left: rejected)", ylabel="slope")
    axis.legend(fontsize=8)
    plt.show()

# %% [markdown] solution
# With $dD/dl=D(1-D)$ the slopes are $D-1$ and $-D$. At the beginning the discriminator rejects everything, $D$ is near 0: the first slope is near −1 and the second near 0. The aim is the same, the gradient is
# not.

# %% [markdown]
# ## 07.transposed · implement
#
# A transposed convolution enlarges a grid. Every cell adds the kernel, times its value, to the result; the kernels of neighbouring cells lie `stride` cells apart, and where they overlap they add up. `padding` then
# *cuts* so many cells from each border. A side of $h$ cells becomes
#
# $$(h-1)\,\text{stride}+k-2\,\text{padding}$$
#
# cells with a kernel of $k\times k$ (PyTorch, `ConvTranspose2d`, without output padding). Before you write it: which side does 4 become, with a kernel of 4, stride 2, padding 1? Along one axis, stride 2 and kernel 3:
#
# ```
# cell 0   k k k
# cell 1       k k k
# cell 2           k k k
#          1 1 2 1 2 1 1    so many kernels reach each cell of the result
# ```


# %%
def transposed_convolution(grid, kernel, stride, padding):
    """The enlarged grid, of one channel; grid is (h, w) and kernel (k, k)."""
    # <solution>
    (h, w), k = grid.shape, len(kernel)
    total = np.zeros(((h - 1) * stride + k, (w - 1) * stride + k))
    for i in range(h):
        for j in range(w):
            total[i * stride : i * stride + k, j * stride : j * stride + k] += grid[i, j] * kernel
    return total[padding : total.shape[0] - padding, padding : total.shape[1] - padding]
    # </solution>


verdict = check("07.transposed", transposed_convolution)
verdict

# %% [markdown]
# A grid of ones through kernels of ones: what should be plain is a checkerboard if the stride does not divide the kernel's side (Odena et al. 2016).

# %%
if verdict.right:
    figure, axes = plt.subplots(1, 3, figsize=(7, 2.4), layout="constrained")
    for axis, size in zip(axes, (3, 4, 5), strict=True):
        plain = transposed_convolution(np.ones((6, 6)), np.ones((size, size)), 2, 1)
        axis.imshow(plain, cmap="gray", vmin=0)
        axis.set(title=f"kernel {size}, stride 2: {len(plain)}×{len(plain)}", xticks=[], yticks=[])
        print(f"kernel {size}: kernels that reach a cell of the middle:", np.unique(plain[3:-3, 3:-3]).astype(int))
    plt.show()

# %% [markdown] solution
# 4 becomes 3·2 + 4 − 2 = 8. With a kernel of 3 a cell is reached by 1, 2 or 4 kernels, with one of 4 always by 4. A network can learn weights that even this out, but it begins with the pattern; DCGAN's kernels of 4 with stride 2 begin
# without.

# %% [markdown]
# ## 07.frechet · implement
#
# How far are generated images from real ones? The Fréchet distance compares two Gaussians, fitted to features of both (Heusel et al. 2017, eq. 6):
#
# $$d^2=\lVert m_1-m_2\rVert^2+\operatorname{tr}\big(C_1+C_2-2\,(C_1C_2)^{1/2}\big).$$
#
# $(C_1C_2)^{1/2}$ is the matrix whose square is $C_1C_2$. Its trace is all that is needed: the sum of the square roots of the eigenvalues of $C_1C_2$, which are real and not negative (`np.linalg.eigvals`; rounding may leave
# a tiny imaginary part). In one dimension $d^2=(m_1-m_2)^2+(\sigma_1-\sigma_2)^2$.


# %%
def frechet(mean1, covariance1, mean2, covariance2):
    """Squared Fréchet distance, a number, of two Gaussians with means (d,) and covariances (d, d)."""
    # <solution>
    eigenvalues = np.linalg.eigvals(covariance1 @ covariance2).real.clip(0)
    spread = np.trace(covariance1) + np.trace(covariance2) - 2 * np.sqrt(eigenvalues).sum()
    return np.sum((mean1 - mean2) ** 2) + spread
    # </solution>


verdict_of_frechet = check("07.frechet", frechet)
verdict_of_frechet

# %% [markdown] solution
# For one dimension the trace is $\sigma_1^2+\sigma_2^2-2\sigma_1\sigma_2$, the square above. `np.sqrt` of a matrix takes the root of each cell, which is another thing.

# %% [markdown]
# ## 07.modes · break
#
# The distance sees means and covariances, nothing else. Here are 800 real "images" of two features. They come in eight kinds, around a circle of radius 4.
#
# Give generated points, `(N, 2)` with 100 to 5,000 rows, that have **collapsed**: each lies within 0.5 of the centre of a kind, but at most four of the eight kinds occur; and yet their Fréchet distance to the real points is below 0.05.

# %%
angles = np.arange(8) * np.pi / 4
centres = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
real = np.concatenate([centres + offset for offset in np.random.default_rng(0).normal(0, 0.1, (100, 1, 2))])
print("mean of the real points", real.mean(0).round(2), "and their covariance", np.cov(real.T).round(2).tolist())

# %%
# <solution>
answer = np.tile(centres[::2], (50, 1)) + np.random.default_rng(1).normal(0, 0.1, (200, 2))
# </solution>
verdict = check("07.modes", answer)
verdict

# %%
if verdict.right:
    generated = np.array(answer)
    figure, axis = plt.subplots(figsize=(3.2, 3.2), layout="constrained")
    axis.plot(*real.T, ".", color="lightgrey", label="real")
    axis.plot(*generated.T, ".", ms=3, label="generated")
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.legend(loc="center", fontsize=8)
    plt.show()
    nearest = np.linalg.norm(real[:, None] - generated, axis=-1).min(1)
    print(f"share of the real points with a generated one within 0.5: {(nearest < 0.5).mean():.2f}")

# %% [markdown] solution
# Every second kind: a square has the mean of the circle and the same covariance. The share of real points that have a generated neighbour is near 0.5, and tells it at once: that is the
# idea of recall (Kynkäänniemi et al. 2019), which notebook 07 measures beside the distance.

# %% [markdown]
# ## 07.search · implement
#
# AnoGAN asks a generator of good parts for the image closest to a part $x$: gradient descent on $z$, with the networks fixed. We take a linear generator $G(z)=Wz+b$, linear features $f(x)=Fx$ of the
# discriminator, and squares in place of the absolute values of Schlegl et al. 2017, section 2.2:
#
# $$\mathcal L(z)=(1-\lambda)\,\lVert x-G(z)\rVert^2+\lambda\,\lVert f(x)-f(G(z))\rVert^2 .$$
#
# Start at $z=0$ and take `steps` steps $z\leftarrow z-\eta\,\nabla\mathcal L(z)$, with $\eta$ the learning rate. Return $z$. The derivative by hand: $\mathcal L$ depends on $z$ only through the residual $r=x-Wz-b$, and
# $f(x)-f(G(z))=Fr$.


# %%
def search(image, weights, offset, features, share, lr, steps):
    """z (k,) after so many steps; image (d,), weights W (d, k), offset b (d,), features F (m, d), share λ."""
    # <solution>
    z = np.zeros(weights.shape[1])
    for _ in range(steps):
        r = image - weights @ z - offset
        slope = -2 * weights.T @ ((1 - share) * r + share * features.T @ (features @ r))
        z = z - lr * slope
    return z
    # </solution>


verdict = check("07.search", search)
verdict

# %% [markdown]
# A generator of two patterns, a good part, and one with a defect that is partly made of these patterns. The residual of the pixels after each step:

# %%
if verdict.right:
    rng = np.random.default_rng(0)
    weights, features, offset = np.linalg.qr(rng.normal(size=(30, 2)))[0], rng.normal(size=(5, 30)) / 6, np.zeros(30)
    good = weights @ np.array([1.0, -1.0]) + 0.1 * rng.normal(size=30)
    defect = 1.5 * weights[:, 0] + rng.normal(size=30) / 6
    figure, axis = plt.subplots(figsize=(5, 2.5), layout="constrained")
    for name, image in {"good": good, "with a defect": good + defect}.items():
        latents = [search(image, weights, offset, features, 0.1, 0.05, steps) for steps in range(41)]
        residuals = [np.sum((image - weights @ z) ** 2) for z in latents]
        axis.plot(residuals, label=name)
        print(f"{name}: residual {residuals[0]:.2f} at first, {residuals[-1]:.2f} after 40 steps")
    axis.set(xlabel="step of the search", ylabel="squared residual", ylim=(0, None))
    axis.legend(fontsize=8)
    plt.show()

# %% [markdown] solution
# $\nabla\mathcal L=-2W^\top\big((1-\lambda)r+\lambda F^\top Fr\big)$: the error in the image is brought back to $z$ by $W^\top$, and the error in the features first to the image by $F^\top$. The search removes whatever lies
# in the span of $W$, from the good part and from the defect alike; what remains of the defect is the part that the generator has no pattern for.

# %% [markdown]
# ## 07.redrawn · break
#
# f-AnoGAN puts an encoder $E$ in place of the search. Its score of an image with $n$ pixels and $n_f$ features is (Schlegl et al. 2019, izi with features, $\kappa=1$)
#
# $$\frac1n\lVert x-G(E(x))\rVert^2+\frac{\kappa}{n_f}\lVert f(x)-f(G(E(x)))\rVert^2 .$$
#
# Here the part is an 8 × 8 picture, good parts vary in three ways, which are the generator's three patterns (below), plus a little noise; $E$ is the least-squares inverse, and the features are differences of
# neighbouring pixels. Parts that score above the 90 % quantile of good ones are stopped.
#
# Give a **defect** that is not seen: an `(8, 8)` array that is added to the part, local (at most 16 pixels change) and strong (at least eight pixels change by 0.5 or more; good parts vary by a few tenths). At most a fifth of the parts that have it may be stopped.

# %%
label = np.zeros((8, 8))
label[4:7, 1:4] = 1
patterns = {
    "brightness": np.ones((8, 8)),
    "slope of brightness": np.tile(np.linspace(-1, 1, 8), (8, 1)),
    "label": label,
}
figure, axes = plt.subplots(1, 3, figsize=(5.5, 2), layout="constrained")
for axis, (name, pattern) in zip(axes, patterns.items(), strict=True):
    axis.imshow(pattern, cmap="gray", vmin=-1, vmax=1)
    axis.set(title=name, xticks=[], yticks=[])
plt.show()

# %%
# <solution>
answer = -3 * label
# </solution>
verdict = check("07.redrawn", answer)
verdict

# %%
if verdict.right:
    rng, basis = np.random.default_rng(1), np.stack([pattern.ravel() for pattern in patterns.values()], axis=1)
    part = (basis @ [0.1, 0.1, 0.3]).reshape(8, 8) + rng.normal(0, 0.05, (8, 8)) + answer
    z = np.linalg.pinv(basis) @ part.ravel()
    back = (basis @ z).reshape(8, 8)
    print("z of the part with your defect, in standard deviations of good parts:", (z / [0.1, 0.1, 0.3]).round(1))
    figure, axes = plt.subplots(1, 3, figsize=(5.5, 2), layout="constrained")
    for axis, name, picture in zip(axes, ("x", "G(E(x))", "difference"), (part, back, part - back), strict=True):
        axis.imshow(picture, cmap="gray", vmin=-1, vmax=1)
        axis.set(title=name, xticks=[], yticks=[])
    plt.show()

# %% [markdown] solution
# Good labels are lighter or darker, so the generator draws a label of any darkness, and a part whose label is burnt black comes back as it is. The residual cannot see it; $z$ does, which lies far from where good parts have theirs.
# A score that adds the length of $z$ would catch this defect. A generator is asked for the closest image, not for a probable one.

# %% [markdown]
# ## 07.report · decide
#
# Remedies for a game that does not settle bound the **slope** of the discriminator. *Spectral normalisation* divides each layer's weights by their largest singular value (Miyato et al. 2018); WGAN-GP adds
# $(\lVert\nabla D\rVert-1)^2$ between real and generated images (Gulrajani et al. 2017), and R1 adds $\frac\gamma2\lVert\nabla D\rVert^2$ at real ones (Mescheder et al. 2018). f-AnoGAN's encoder can be trained by *izi* (image → z → image, on
# good images) or by *ziz* (z → image → z: $\lVert z-E(G(z))\rVert^2$ on random z).
#
# From the notebooks: Fréchet distances over three seeds, DCGAN, notebook 07 in profile *quick*:
#
# | recipe | seed 0 | seed 1 | seed 2 | recall, mean |
# | :-- | --: | --: | --: | --: |
# | momentum 0.9 | 463 | 458 | 466 | .000 |
# | momentum 0.5 | 131 | 220 | 212 | .006 |
# | momentum 0.5, two time scales | 129 | 289 | 193 | .042 |
#
# AUROC of AnoGAN's loss (07b, *quick*, digits, three seeds): .927, .945, .923 after 10 steps of the search, .888, .924, .867 after 40. Real bottles (07b): image AUROC of f-AnoGAN .916 [.806, .965], of the mean good image .921
# [.811, .967].
#
# A linear discriminator of two layers: $D(x)=v^\top(Wx)$ with $W=\begin{pmatrix}3&0\\0&4\end{pmatrix}$ and $v=(1,0)$. Which sentences hold?
#
# * **a** The slope of this $D$ has length 3 everywhere: WGAN-GP's term is 4 and R1's, with $\gamma=1$, is 4.5.
# * **b** With both of its layers spectrally normalised, the slope of this $D$ has length 1.
# * **c** Momentum 0.5 has a smaller Fréchet distance than momentum 0.9 with every seed: its digits are good.
# * **d** Whether two time scales help momentum 0.5 is undecided after these three seeds.
# * **e** An encoder can bring ziz to 0 and still reconstruct real images badly.
# * **f** A longer search finds a closer image, and so it tells anomalies apart better.
# * **g** On real bottles f-AnoGAN is worse than the mean good image.

# %%
# <solution>
answer = "ade"
# </solution>
check("07.report", answer)

# %% [markdown]
# To **b** and **e**, in numbers: slopes of this $D$, and two encoders of one linear generator with ziz = 0, on an image that the generator nearly draws.

# %%
W, v = np.diag([3.0, 4.0]), np.array([1.0, 0.0])
normalised = (W / np.linalg.norm(W, 2)).T @ (v / np.linalg.norm(v))
print("slope:", np.linalg.norm(W.T @ v), "normalised:", np.linalg.norm(normalised))
G, image = np.eye(4)[:, :2], np.array([1.0, -1.0, 0.1, 0.1])
for name, more in {"least squares": 0.0, "another left inverse": 20.0}.items():
    E = np.linalg.pinv(G) + more * np.array([[0, 0, 1, 0], [0, 0, 0, 1]])
    print(f"{name}: E G = 1? {np.allclose(E @ G, np.eye(2))}; squared error {np.sum((image - G @ E @ image) ** 2):.2f}")

# %% [markdown] solution
# Singular values bound a slope and need not reach it: 3/4 is left. A distance that is smaller is no picture that is good; recall says that most digits are missing. And intervals that overlap show no order, in neither
# direction.

# %%
print(summary("07"))
