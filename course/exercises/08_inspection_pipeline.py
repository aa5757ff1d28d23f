# %% [markdown]
# # Lab 08 · The inspection line
#
# <!-- badge -->
#
# Notebook 08 joins the models of the course into one line, and notebook 11 takes it into service. Here the steps between are written by hand, on
# small arrays. Nothing is trained, and nothing is downloaded. Each cell with an exercise ends in a check; it says what differs.
#
# After this lab you can
#
# * **follow** errors through all stages of a line, down to the share of stopped parts that are defective (`08.stages`)
# * **refuse** pictures of products that no model knows (`08.product`)
# * **merge** a classifier and a second opinion into a single score, and say when a second opinion cannot help (`08.combined_score`, `08.sure_and_wrong`)
# * **promise** a number of false alarms that the next parts will show, with its range (`08.promise`)
# * **sign** an exported graph as equal to its model, or refuse to (`08.equal_graph`)
# * **maintain** a model without its old images, and watch its scores for drift (`08.update`, `08.martingale`)

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from mvtec_ad import metrics
from mvtec_ad.course import check, summary

# %% [markdown]
# ## 08.stages · predict
#
# Every part takes one way through the stages. A part whose product is not recognised goes to a person; it is neither stopped nor passed by the
# line. The second opinion is asked only where the classifier is unsure.
#
# ```
#                           defective parts                       good parts
# which product?            2 % are not recognised                2 % are not recognised
#   └ classifier            sure about 90 %, stops 95 % of these  sure about 95 %, stops 4 % of these
#       └ second opinion    asked about 10 %, stops 60 % of them  asked about 5 %, stops 20 % of them
# ```
#
# The shares of a row refer to what the row above has let through. One part in 200 is defective. Predict two numbers, as a tuple: the share of all
# defective parts that the line stops, and the share of all **stopped** parts that are defective.

# %%
# <solution>
# of the recognised parts .9 × .95 + .1 × .6 of the defective ones are stopped, and .95 × .04 + .05 × .2 of the good ones
shares = (0.98 * 0.915, 0.005 * 0.98 * 0.915 / (0.005 * 0.98 * 0.915 + 0.995 * 0.98 * 0.048))
# </solution>
check("08.stages", shares)

# %%
if check("08.stages", shares).right:
    figure, axis = plt.subplots(figsize=(6.5, 1.6), layout="constrained")
    counts = np.array([1000 * shares[0], 199000 * 0.98 * 0.048])  # of 200,000 parts
    axis.barh(["stopped parts"], counts[:1], color="C1", label=f"{counts[0]:,.0f} defective")
    axis.barh(["stopped parts"], counts[1:], left=counts[:1], color="C0", label=f"{counts[1]:,.0f} good")
    axis.set(xlabel="of 200,000 parts, 1,000 of them defective")
    axis.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    print(f"stopped: {shares[0]:.3f} of the defective parts; defective: {shares[1]:.3f} of the stopped parts")

# %% [markdown] solution
# Along a way the shares are multiplied, and the ways that end in *stopped* are added. The second number is small although the line errs seldom: good parts are
# 199 times as frequent as defective ones. On a test set that is half defective the same line would look far better.

# %% [markdown]
# ## 08.product · implement
#
# A picture is described by features $x\in\mathbb R^d$. Each product $c$ has a mean $\mu_c$; all share a covariance $\Sigma$ (Lee et al. 2018,
# [arXiv:1807.03888](https://arxiv.org/abs/1807.03888), eq. 1 and 2). With a limit $\ell_c$ for each product the picture is of
#
# $$\arg\min_c\frac{M_c(x)}{\ell_c},\qquad M_c(x)=\sqrt{(x-\mu_c)^\top\Sigma^{-1}(x-\mu_c)},$$
#
# unless even the smallest of these ratios is above 1: then it is *none of these*, here −1. Return the numbers of the products, `(n,)`, for pictures
# `x` `(n, d)`, `means` `(C, d)`, `covariance` `(d, d)` and `limits` `(C,)`.


# %%
def which_product(x, means, covariance, limits):
    """Number of the product of each picture (n,), −1 for none of them."""
    # <solution>
    away = x[:, None] - means  # (n, C, d)
    squared = np.einsum("ncd,de,nce->nc", away, np.linalg.inv(covariance), away)
    ratios = np.sqrt(squared) / limits
    return np.where(ratios.min(1) > 1, -1, ratios.argmin(1))
    # </solution>


check("08.product", which_product)

# %%
means = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 4.0]])
covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
if check("08.product", which_product).right:
    across, up = np.meshgrid(np.linspace(-4, 8, 160), np.linspace(-4, 8, 160))
    answers = which_product(np.c_[across.ravel(), up.ravel()], means, covariance, np.array([2.0, 2.5, 1.5]))
    figure, axis = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
    axis.contourf(across, up, answers.reshape(across.shape), levels=[-1.5, -0.5, 0.5, 1.5, 2.5], cmap="Pastel2_r")
    axis.plot(*means.T, "k+")
    axis.set(xlabel="feature 1", ylabel="feature 2", title="three products, and none of them")

# %% [markdown] solution
# The difference of every picture to every mean is an array of shape n × C × d, and one `einsum` gives all squared distances. Because of the covariance the accepted
# regions are ellipses; outside of them no product is named, however near one mean is compared with the others.

# %% [markdown]
# ## 08.combined_score · implement
#
# A classifier gives a calibrated logit $z$, and calls a part defective where $z>t$. Within the **reject band** $|z-t|<w$ it counts as unsure, and a
# detector decides by its own score $s$ and threshold $c$ (Chow 1970). To rank parts, and not only to judge them, both are put into one score,
#
# $$r=\begin{cases}w\tanh\dfrac{s-c}{|c|}&\text{where }|z-t|<w,\\[4pt]z-t&\text{elsewhere.}\end{cases}$$
#
# Above 0 is a defect. The hyperbolic tangent brings the detector's score into the band, −w to w, without changing its order. Return $r$, `(n,)`, for `logits`
# and `scores` `(n,)`.


# %%
def combined_score(logits, scores, threshold, width, limit):
    """Scores (n,) of classifier and second opinion together; `threshold` is t, `width` w, and `limit` c."""
    # <solution>
    unsure = np.abs(logits - threshold) < width
    return np.where(unsure, width * np.tanh((scores - limit) / abs(limit)), logits - threshold)
    # </solution>


check("08.combined_score", combined_score)

# %% [markdown]
# What is the best width? The next cell tries some on 300 validation parts, a third of them defective, where a missed defect costs ten false alarms, for two
# detectors: a good one, and one that knows little.

# %%
t = np.log(1 / 10)  # threshold of least expected cost, by the costs alone
random = np.random.default_rng(8)
labels = np.arange(300) < 100
logits = random.normal(np.where(labels, 1.5, -4.5), 2.0)
detectors = {"good": random.normal(np.where(labels, 7, 3), 1.2), "poor": random.normal(np.where(labels, 5, 4), 1.5)}


def cost_per_part(labels, score):
    """Mean cost where a score above 0 stops the part."""
    return np.mean(np.where(labels, 10 * (score <= 0), score > 0))


if check("08.combined_score", combined_score).right:
    figure, axis = plt.subplots(figsize=(4.5, 2.6), layout="constrained")
    for name, scores in detectors.items():
        widths = np.arange(0, 4.1, 0.5)
        axis.plot(
            widths, [cost_per_part(labels, combined_score(logits, scores, t, w, 5.0)) for w in widths], "o-", label=name
        )
    axis.set(xlabel="half-width w", ylabel="cost per part", ylim=(0, None))
    axis.legend(title="second opinion", frameon=False)

# %% [markdown] solution
# The verdict follows from the sign: outside of the band it is the classifier's, inside the detector's. At w = 0 nobody is asked, because no distance is
# smaller than 0. The curve of the poor detector says that it should rarely be asked, and so validation images choose a narrow band.

# %% [markdown]
# ## 08.sure_and_wrong · break
#
# A band helps where the classifier is *unsure*. Show where it cannot help: give `labels` (0 or 1), `logits` and `second` (what the second opinion says, 0 or 1) of 8 to 40
# parts such that
#
# * the second opinion is right about **every** part,
# * the classifier ranks well, with an image AUROC of .8 or more, but misses at least two defects at $t=\log\frac1{10}$,
# * and none of the half-widths .5, 1, 2 and 3 makes the cost per part smaller than the classifier alone has it (a miss costs 10, a false alarm 1).
#
# This is what a new type of defect may do to a classifier that was not shown it.

# %%
# <solution>
parts = {
    "labels": [1] * 10 + [0] * 10,
    "logits": [5] * 8 + [-7] * 2 + [-6] * 10,
    "second": [1] * 10 + [0] * 10,
}
# </solution>
check("08.sure_and_wrong", parts)

# %%
if check("08.sure_and_wrong", parts).right:
    figure, axis = plt.subplots(figsize=(6.5, 1.6), layout="constrained")
    axis.axvspan(t - 3, t + 3, color="0.9")
    axis.axvline(t, color="0.4", ls="--")
    axis.scatter(parts["logits"], parts["labels"], c=np.where(parts["labels"], "C1", "C0"), alpha=0.6)
    axis.set(yticks=[0, 1], yticklabels=["good", "defect"], ylim=(-0.5, 1.5), xlabel="logit; grey: the widest band")

# %% [markdown] solution
# The missed defects lie further below the threshold than the widest band reaches, so that nobody asks the second opinion about them. The classifier is sure and wrong.
# Where new types of defects are expected, a detector that knows good parts only must see every part.

# %% [markdown]
# ## 08.promise · implement
#
# $n$ good scores that the model has not been fitted on give a threshold, the $k$-th smallest with $k=\lceil(n+1)(1-\alpha)\rceil$. A coming good part exceeds it with a
# probability of at most α, on average over all draws of the $n$ images. Your line has one draw, and its true false-alarm rate is Beta$(n+1-k,k)$ (Vovk 2012,
# [arXiv:1209.2673](https://arxiv.org/abs/1209.2673), section 3). Among $m$ coming good parts the number $A$ of false alarms is therefore **beta-binomial**,
#
# $$P(A=a)=\binom ma\frac{B(a+n+1-k,\;m-a+k)}{B(n+1-k,\;k)}$$
#
# with the beta function $B$. Return a tuple of three numbers: the threshold, and the smallest $a$ with $P(A\le a)\ge.025$ and with $P(A\le a)\ge.975$. For 19 good scores and
# α = .05 we have k = 19: the largest score. `scipy.stats` is imported.


# %%
def promise(good_scores, alpha, coming):
    """Threshold, and the ends of the 95 % range of the number of false alarms among `coming` good parts."""
    # <solution>
    n = len(good_scores)
    k = int(np.ceil((n + 1) * (1 - alpha)))
    alarms = stats.betabinom(coming, n + 1 - k, k)
    return np.sort(good_scores)[k - 1], alarms.ppf(0.025), alarms.ppf(0.975)
    # </solution>


check("08.promise", promise)

# %%
if check("08.promise", promise).right:
    random = np.random.default_rng(11)
    thresholds = np.sort(random.random((1000, 59)), axis=1)[:, metrics.calibrated_rank(59, 0.05) - 1]
    alarms = (random.random((1000, 200)) > thresholds[:, None]).sum(1)
    _, low, high = promise(random.random(59), 0.05, 200)
    figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
    axis.hist(alarms, bins=np.arange(max(alarms) + 2) - 0.5, color="0.8")
    axis.axvspan(low - 0.5, high + 0.5, color="C0", alpha=0.15, label="your range")
    narrow = stats.binom(200, 0.05).ppf([0.025, 0.975])
    axis.plot(narrow, [0, 0], "C1", lw=5, solid_capstyle="butt", label="binomial, 5 %")
    axis.set(xlabel="false alarms among 200 good parts", ylabel="of 1,000 lines", title="59 good images each")
    axis.legend(frameon=False)
    print(f"{np.mean((alarms >= low) & (alarms <= high)):.3f} of 1,000 simulated lines lie within your range")

# %% [markdown] solution
# A binomial range would take 5 % for the true rate of this line; it forgets that the threshold itself was drawn. The beta-binomial range is wider, and the simulated lines
# agree with it. A line with twice the alarms that were promised may still be one that keeps its promise.

# %% [markdown]
# ## 08.equal_graph · decide
#
# A model was exported six times, by people with six habits. For each export there are the scores that its graph gives to pictures of a test set, and `model_scores` are
# those of the model, in the same order. You sign an export as *equal* only where
#
# * no verdict (`score > limit`) differs from the model's,
# * no score differs by more than $10^{-4}$, relative to the model's,
# * and so many pictures were compared that the 95 % interval of the share of changed verdicts ends below 2 % (`metrics.wilson(share, count)[1]`).
#
# Export c was compared on the first pictures only. Which ones do you sign? Compute what you need, and give the letters. The correlation of the scores is printed, as people like to
# quote it.

# %%
random = np.random.default_rng(80)
model_scores, limit = random.gamma(9, 1 / 3, 220), 4.0
model_scores[17] = 4.0 * (1 - 1e-5)
tiny = model_scores * (1 + random.uniform(-2e-6, 2e-6, 220))
exports = {"a": 1.03 * model_scores + 0.05, "b": tiny.copy(), "c": tiny[:60], "d": tiny.copy()}
exports |= {"e": model_scores.astype(np.float32), "f": tiny.copy()}
exports["d"][np.argsort(model_scores)[-3:]] *= 1.1
exports["f"][17] = 4.0 * (1 + 1e-5)
for name, graph_scores in exports.items():
    correlation = np.corrcoef(graph_scores, model_scores[: len(graph_scores)])[0, 1]
    print(f"{name}: {len(graph_scores)} pictures, correlation {correlation:.4f}")

# %%
# <solution>
signed = ""
for letter, values in exports.items():
    wanted = model_scores[: len(values)]
    changed = (values > limit) != (wanted > limit)
    largest, upper = np.abs(values / wanted - 1).max(), metrics.wilson(changed.mean(), len(values))[1]
    print(
        f"{letter}: {changed.sum()} verdicts changed (at most {upper:.1%}), largest relative difference {largest:.0e}"
    )
    signed += letter if not changed.any() and largest <= 1e-4 and upper < 0.02 else ""
# </solution>
check("08.equal_graph", signed)

# %% [markdown] solution
# A correlation does not see a factor or an offset, and it hardly sees a few scores that are far off. A verdict can change although all scores agree in five digits, where a score lies
# next to the limit. And no change among 60 pictures leaves room for more than was asked for.

# %% [markdown]
# ## 08.update · implement
#
# New good images arrive, and the old ones are gone. For PaDiM that is no loss. With the scatter $S=\sum_i(x_i-\mu)(x_i-\mu)^\top=(N-1)\Sigma$ of $N$ old images, and mean $\mu'$ and scatter $S'$ of $M$
# new ones,
#
# $$\mu_{N+M}=\mu+\tfrac M{N+M}(\mu'-\mu),\qquad S_{N+M}=S+S'+\tfrac{NM}{N+M}(\mu'-\mu)(\mu'-\mu)^\top$$
#
# (Chan, Golub, LeVeque 1979). Given are `mean` `(d,)` and `covariance` `(d, d)` of `count` old images, with $N-1$ in its denominator as `np.cov` has it, and the `new` features `(M, d)`; M may be 1. Return one array
# `(d + 1, d)`: the new mean above the new covariance. By hand: the numbers 0 and 2 have mean 1 and variance 2; with a new 4 the mean is 2 and the variance 4.


# %%
def updated(mean, covariance, count, new):
    """Mean, and below it the covariance, of old and new images together: (d + 1, d)."""
    # <solution>
    more, step = len(new), new.mean(0) - mean
    away = new - new.mean(0)
    scatter = (count - 1) * covariance + away.T @ away
    scatter = scatter + count * more / (count + more) * np.outer(step, step)
    return np.vstack([mean + more / (count + more) * step, scatter / (count + more - 1)])
    # </solution>


check("08.update", updated)


# %%
def ellipse(moments):
    """Points at a distance of two from the mean, (2, 100)."""
    circle = np.linspace(0, 2 * np.pi, 100)
    return moments[0][:, None] + 2 * np.linalg.cholesky(moments[1:]) @ [np.cos(circle), np.sin(circle)]


old, new = np.random.default_rng(0).normal(size=(40, 2)), np.random.default_rng(1).normal([3, 1], 0.5, (15, 2))
if check("08.update", updated).right:
    figure, axis = plt.subplots(figsize=(4.4, 2.8), layout="constrained")
    before, everything = np.vstack([old.mean(0), np.cov(old.T)]), np.vstack([old, new])
    axis.plot(*old.T, ".", color="0.6", label="old")
    axis.plot(*new.T, ".", color="C1", label="new")
    axis.plot(*ellipse(before), color="0.6")
    axis.plot(*ellipse(updated(*[before[0], before[1:]], 40, new)), color="C0", lw=4, alpha=0.4, label="yours")
    axis.plot(
        *ellipse(np.vstack([everything.mean(0), np.cov(everything.T)])), color="k", ls="--", lw=1, label="fit on all"
    )
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown] solution
# The last term of the scatter is the step between the two means: without it two distant clouds would seem as narrow as each of them. A single new image has a scatter of 0, while its
# covariance is undefined; so the formula is written with scatters. The result is that of a fit on all images, up to rounding.

# %% [markdown]
# ## 08.martingale · implement
#
# Scores of parts that pass rise slowly. When is it enough for an alarm? Each new score $s_i$ gets a p-value among all scores so far, itself included,
#
# $$p_i=\frac{\#\{\text{larger}\}+u_i\,\#\{\text{equal, itself among them}\}}{N_i+1},$$
#
# with $N_i$ scores before it and a uniform random $u_i$ (Vovk, Gammerman, Shafer 2005, eq. 2.20). It then joins those that the next one is compared with. As long as nothing changes, the p-values are independent and uniform.
# A gambler bets against that. His wealth starts at 1 and is multiplied by $f(p_i)=\epsilon p_i^{\epsilon-1}$ (section 7.1 there): a fair game, since $\int_0^1 f=1$. So it ever reaches $1/\delta$ with a probability of at most $\delta$ (Ville).
#
# Return the wealth after each new score, `(T,)`. By hand: good scores 1, 2, 3, a new 2.5, u = .5 and ε = .5 give p = 1.5 / 4 and a wealth of .8165.


# %%
def wealth(good_scores, new_scores, chance, epsilon):
    """Wealth after each of the new scores (T,); `chance` (T,) holds the random numbers u."""
    # <solution>
    seen, factors = list(good_scores), []
    for score, u in zip(new_scores, chance, strict=True):
        seen.append(score)
        p = (np.sum(np.array(seen) > score) + u * np.sum(np.array(seen) == score)) / len(seen)
        factors.append(epsilon * p ** (epsilon - 1))
    return np.cumprod(factors)
    # </solution>


check("08.martingale", wealth)

# %%
if check("08.martingale", wealth).right:
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.4), layout="constrained", sharey=True)
    for axis, step in zip(axes, (0.0, 1.0), strict=True):
        for seed in range(8):
            random = np.random.default_rng(seed)
            stream = random.normal(size=240) + step * (np.arange(240) >= 120)
            axis.plot(wealth(random.normal(size=100), stream, random.random(240), 0.5), lw=0.8, color="C0")
        axis.axhline(20, color="C1", ls="--")
        axis.set(yscale="log", ylim=(1e-12, 1e12), xlabel="part", title=f"scores rise by {step:g} after part 120")
    axes[0].set_ylabel("wealth (alarm: 20)")

# %% [markdown] solution
# Without a change this single bet loses, and it has to win all of that back before it raises the alarm. The class `Martingale` of the package therefore spreads the wealth over many bets. What the
# scores do not show, no bet can see: a lamp that changes pictures but no score goes unnoticed.

# %%
print(summary("08"))
