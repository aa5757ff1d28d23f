# %% [markdown]
# # Metrics, and how far to believe them
#
# Twenty good parts and ten defective ones have been scored. How well does the score separate them, and what would another
# test set of that size have said? Everything here is numpy; change a cell and run it again.

# %%
import numpy as np

random = np.random.default_rng(1)
labels = np.array([0] * 20 + [1] * 10)  # 1 is a defect
scores = np.concatenate([random.normal(0, 1, 20), random.normal(1.8, 1, 10)])

# %% [markdown]
# ## AUROC is a count of pairs
#
# Of all pairs of a defect and a good part: in which share does the defect score higher? A tie counts one half. No threshold is
# needed, and a constant score gives exactly one half.


# %%
def auroc(labels, scores):
    defect, good = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(np.mean((defect > good) + 0.5 * (defect == good)))


assert auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.8])) == 0.75  # three of four pairs
auroc(labels, scores)

# %% [markdown]
# ## Average precision
#
# Go down the list from the highest score. Each time a defect comes, note the share of defects among all parts so far; the mean
# of these notes is the average precision. Unlike AUROC it depends on how many good parts there are.


# %%
def average_precision(labels, scores):
    ranked = labels[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked == 1].mean())


average_precision(labels, scores)

# %% [markdown]
# ## How sure is that?
#
# The bootstrap draws test sets of the same size from this one, with replacement, good parts and defects apart, and looks how
# the AUROC moves.


# %%
def bootstrap(labels, scores, resamples=2000, seed=0):
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == label) for label in (0, 1)]
    draws = [np.concatenate([random.choice(group, len(group)) for group in groups]) for _ in range(resamples)]
    return np.percentile([auroc(labels[draw], scores[draw]) for draw in draws], [2.5, 97.5])


bootstrap(labels, scores)

# %% [markdown]
# It has a blind spot: where no defect scores below a good part, every draw says 1, and the interval shrinks to a point, as if
# thirty parts could prove perfection. Newcombe's interval (2006, method 5) does not: it is the set of all true values from
# which the measured one is less than 1.96 standard errors away.


# %%
def newcombe(value, defects, good, z=1.959964):
    def too_far(true):
        half = (good + defects) / 2 - 1
        spread = true * (1 - true) * (1 + half * (1 - true) / (2 - true) + half * true / (1 + true))
        return abs(true - value) > z * np.sqrt(spread / (defects * good))

    near = [float(true) for true in np.linspace(0, 1, 20001) if not too_far(true)]
    return min(near), max(near)


perfect = np.concatenate([np.zeros(20), np.ones(10)])
bootstrap(labels, perfect), newcombe(1.0, 10, 20)

# %% [markdown]
# **Try**: let the defects lie at 1.0 instead of 1.8 above. How many parts does it take until the whole interval lies above
# one half? How large a test set would tell .95 from .97?
