# %% [markdown]
# # Lab 00 · Self-test: what the course takes for granted
#
# <!-- badge -->
#
# Nine short questions, half an hour in all. You are ready for the course if you can
#
# * **say** how large a convolution's output is, and what one value of it sees (`00.convolution`, `00.receptive_field`);
# * **compute** a covariance matrix, and say what it does not show (`00.covariance`, `00.uncorrelated`);
# * **rank** images by a score, and measure the ranking (`00.auroc`);
# * **estimate** how sure a mean is (`00.bootstrap`);
# * **reason** from a detector's rates to what an alarm means (`00.base_rate`, `00.alarms`);
# * **differentiate** a loss (`00.gradient`).
#
# Nothing is downloaded and nothing is trained. Each exercise ends in a check that says what differs. One that you miss is not a
# reason to stay away: under each stands a free text that covers it. If you miss more than four, read first.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np

from mvtec_ad.course import check, summary

# %% [markdown]
# ## 00.convolution · predict
#
# A kernel of $k=5$ pixels moves over a row of $n=64$ pixels in steps of $s=2$, without padding. At how many positions $o$ does it
# produce a value? (Dumoulin and Visin 2016, [arXiv:1603.07285](https://arxiv.org/abs/1603.07285), section 2.4.)
#
# $$o=\left\lfloor\frac{n-k}{s}\right\rfloor+1$$
#
# *Two minutes. To read:* [Dive into Deep Learning, padding and stride](https://d2l.ai/chapter_convolutional-neural-networks/padding-and-strides.html).

# %%
# <solution>
positions = (64 - 5) // 2 + 1
# </solution>
check("00.convolution", positions)

# %% [markdown] solution
# The kernel's left end lies at pixel 0, 2, … 58: 30 positions. The last pixel is seen by none of them.

# %% [markdown]
# ## 00.receptive_field · predict
#
# Three convolutions follow each other, each with a kernel of 3×3. Their strides are 2, 2 and 1. How wide is the square of the input
# that one value of the third layer depends on? With kernels $k_l$ and strides $s_i$ (Araujo, Norris and Sim,
# [Distill 2019](https://distill.pub/2019/computing-receptive-fields/)):
#
# $$r=1+\sum_l (k_l-1)\prod_{i<l}s_i$$
#
# *Three minutes. To read:* the article above, or [Deep Learning, chapter 9](https://www.deeplearningbook.org/contents/convnets.html).

# %%
# <solution>
field = 1 + 2 * 1 + 2 * 2 + 2 * 4
# </solution>
check("00.receptive_field", field)

# %% [markdown] solution
# Neighbours in the third layer's input are 4 pixels apart, so its kernel alone spans 9 pixels, and the first two layers widen that to 15.
# The position of a defect is known no more precisely than that from this layer alone.

# %% [markdown]
# ## 00.covariance · implement
#
# The covariance matrix of $n$ points $x_k$ in $d$ dimensions with mean $\mu$, without `np.cov`:
#
# $$\Sigma=\frac{1}{n-1}\sum_{k=1}^n (x_k-\mu)(x_k-\mu)^{\mathsf T}$$
#
# For the points (0, 1), (2, 3) and (4, 2) it is `[[4, 1], [1, 1]]`: follow one of these numbers by hand first.
#
# *Four minutes. To read:* [Deep Learning, chapter 3.8](https://www.deeplearningbook.org/contents/prob.html), then the
# [user guide of scikit-learn](https://scikit-learn.org/stable/modules/covariance.html) on estimating it.


# %%
def covariance(x):
    """Covariance matrix (d, d) of points (n, d)."""
    # <solution>
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)
    # </solution>


check("00.covariance", covariance)

# %% [markdown]
# ## 00.uncorrelated · break
#
# A covariance of 0 is often read as "the two have nothing to do with each other". Give numbers that refute it: two rows, $x$ and $y$,
# so that $y$ follows from $x$ (equal $x$ have equal $y$), $y$ changes, and yet their covariance is 0.
#
# *Four minutes. To read:* [Deep Learning, chapter 3.8](https://www.deeplearningbook.org/contents/prob.html).

# %%
# <solution>
points = np.array([[-2, -1, 0, 1, 2], [4, 1, 0, 1, 4]])
# </solution>
verdict = check("00.uncorrelated", points)
verdict

# %%
if verdict.right:
    figure, axes = plt.subplots(figsize=(3, 2.2), layout="constrained")
    axes.plot(*points, "o")
    axes.set(xlabel="x", ylabel="y", title="y follows from x, covariance 0")

# %% [markdown] solution
# $y=x^2$ on both sides of 0: each product with a positive sign has a partner with a negative one. A covariance sees only how far a
# straight line goes. PaDiM (lab 02) describes good parts by means and covariances, and what these do not see, it does not see.

# %% [markdown]
# ## 00.auroc · predict
#
# Three good images score .1, .2 and .6; three defective ones .2, .5 and .9. *AUROC* is the share of pairs, one defective and one
# good image, in which the defective one scores higher; a tie counts one half. What is it here?
#
# *Three minutes, on paper. To read:* [user guide of scikit-learn, ROC](https://scikit-learn.org/stable/modules/model_evaluation.html#roc-metrics).

# %%
# <solution>
auroc = (1.5 + 2 + 3) / 9
# </solution>
check("00.auroc", auroc)

# %% [markdown] solution
# The image with .2 wins one pair, ties one and loses one; that with .5 wins two, that with .9 all three. No threshold was
# needed: AUROC asks about the order alone.

# %% [markdown]
# ## 00.bootstrap · implement
#
# How sure is the mean of $n$ values? Draw $n$ of them with replacement, many times, and look at how much the mean changes
# (Efron 1979). `drawn` holds the indices of the draws, a row each. Return the quantiles .025 and .975 of the means, the two ends of
# the *percentile interval*.
#
# *Four minutes. To read:* [Computational and Inferential Thinking, chapter 13](https://inferentialthinking.com/chapters/13/2/Bootstrap.html).


# %%
def bootstrap_interval(values, drawn):
    """Ends (low, high) of the 95 % percentile interval of the mean of values (n,), from the draws (resamples, n)."""
    # <solution>
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return low, high
    # </solution>


verdict = check("00.bootstrap", bootstrap_interval)
verdict

# %%
if verdict.right:
    rng = np.random.default_rng(0)
    right = np.array([1] * 18 + [0] * 2)  # 18 of 20 images were called rightly
    low, high = bootstrap_interval(right, rng.integers(0, 20, (2000, 20)))
    print(f"accuracy {right.mean():.2f} of 20 images: from {low:.2f} to {high:.2f}")

# %% [markdown]
# ## 00.base_rate · predict
#
# On a line 1 part in 100 is defective. A detector raises an alarm on 95 % of the defective parts, and on 5 % of the good ones.
# An alarm goes off. With which probability is the part defective? To two decimals or more.
#
# *Three minutes. To read:* [Computational and Inferential Thinking, chapter 18](https://inferentialthinking.com/chapters/18/Updating_Predictions.html).

# %%
# <solution>
probability = 0.01 * 0.95 / (0.01 * 0.95 + 0.99 * 0.05)
# </solution>
check("00.base_rate", probability)

# %% [markdown] solution
# Of 10 000 parts 100 are defective and raise 95 alarms; 9900 are good and raise 495. So 95 of 590 alarms are true, about one in six.

# %% [markdown]
# ## 00.alarms · decide
#
# The same line. Detector A calls every part good. Detector B is the one above: it finds 95 % of the defects, and alarms on 5 % of
# the good parts. Which sentences hold? Give their letters, such as `"bd"`.
#
# * **a** A has an accuracy of 99 %, B one of 95 %.
# * **b** So A is the better detector for this line.
# * **c** About one of six alarms of B is true.
# * **d** If every second part were defective, the AUROC of B would be higher, because defects are easier to meet.
# * **e** Half as many false alarms would raise the share of true alarms more than finding all the defects would.
#
# *Three minutes. To read:* the chapter above, and the
# [user guide of scikit-learn](https://scikit-learn.org/stable/modules/model_evaluation.html#classification-metrics) on accuracy.

# %%
# <solution>
letters = "ace"
# </solution>
check("00.alarms", letters)

# %% [markdown]
# ## 00.gradient · implement
#
# Logistic regression gives a point $x_k$ the probability $\sigma(w^{\mathsf T}x_k)$ of label 1, with $\sigma(z)=1/(1+e^{-z})$. Its
# loss over $n$ points with labels $y_k\in\{0,1\}$ is
#
# $$L(w)=-\frac1n\sum_k y_k\log\sigma(w^{\mathsf T}x_k)+(1-y_k)\log\big(1-\sigma(w^{\mathsf T}x_k)\big).$$
#
# Return its gradient. A hint: $\sigma'=\sigma(1-\sigma)$, and most of it cancels.
#
# *Four minutes. To read:* [Deep Learning, chapter 6.2](https://www.deeplearningbook.org/contents/mlp.html), and the
# [user guide of scikit-learn](https://scikit-learn.org/stable/modules/linear_model.html#logistic-regression).


# %%
def gradient(w, x, y):
    """Gradient (d,) of the loss at w (d,), for points x (n, d) with labels y (n,)."""
    # <solution>
    return x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(x)
    # </solution>


verdict = check("00.gradient", gradient)
verdict

# %%
if verdict.right:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 20)
    x = np.column_stack([rng.normal(2 * labels - 1, 1), np.ones(40)])
    w, losses = np.zeros(2), []
    for _ in range(60):
        losses.append(np.logaddexp(0, (1 - 2 * labels) * (x @ w)).mean())
        w = w - gradient(w, x, labels)
    figure, axes = plt.subplots(figsize=(3.6, 2.2), layout="constrained")
    axes.plot(losses)
    axes.set(xlabel="step along −gradient", ylabel="loss", title="your gradient at work")

# %% [markdown] solution
# $\nabla L=\frac1n\sum_k(\sigma(w^{\mathsf T}x_k)-y_k)\,x_k$: each point pulls in proportion to how wrong its probability is. The
# networks of labs 03 to 07 are trained with the same rule, with the chain rule applied more often.

# %%
print(summary("00"))
