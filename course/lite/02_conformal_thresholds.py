# %% [markdown]
# # A threshold that keeps its promise
#
# A line wants a threshold with at most 5 % false alarms. There are 39 good parts to set it with, none of which the model was
# fitted on. Which of their scores may it be?

# %%
import math
from fractions import Fraction

import numpy as np

# %% [markdown]
# ## The obvious way, and what it costs
#
# The 95 % quantile of the good scores. Repeat it: 39 parts set the threshold, one further part of the same kind comes.


# %%
def false_alarms(threshold_of, count=39, repetitions=20000, seed=0):
    scores = np.random.default_rng(seed).normal(size=(repetitions, count + 1))  # the last one is the part that comes
    return float(np.mean(scores[:, count] > threshold_of(scores[:, :count])))


false_alarms(lambda good: np.quantile(good, 0.95, axis=-1))

# %% [markdown]
# More than was promised, and it is no bad luck: the quantile is set in the middle of what is there, and parts still to come
# are not there.
#
# ## Counting ranks
#
# The new part and the $n$ old ones are exchangeable, so the new one is as likely to be first, second, … or last of all $n + 1$. It
# exceeds the $k$-th smallest old score with probability at most $(n + 1 - k) / (n + 1)$. That is no more than the rate $\alpha$ for
#
# $$k = \lceil (n + 1)(1 - \alpha) \rceil .$$
#
# Nothing was said of a distribution.


# %%
def rank(count, rate):
    return math.ceil((count + 1) * (1 - Fraction(str(rate))))  # as a fraction: 40 × 0.95 is 38, not a little more


def calibrated(good, rate=0.05):
    count = good.shape[-1]
    if rank(count, rate) > count:
        needed = math.ceil(1 / Fraction(str(rate))) - 1
        raise ValueError(f"{count} good parts cannot vouch for {rate:g}: it takes {needed}")
    return np.sort(good)[..., rank(count, rate) - 1]


rank(39, 0.05), false_alarms(calibrated)

# %% [markdown]
# ## What the promise means for one line
#
# 5 % is a mean over all lines that do this. *This* line has set its threshold once, and its true rate is fixed from then on; how
# far such rates lie apart:

# %%
good = np.random.default_rng(1).normal(size=(5000, 39))
true_rates = np.array(
    [0.5 * math.erfc(threshold / math.sqrt(2)) for threshold in calibrated(good)]
)  # of a standard normal
np.percentile(true_rates, [2.5, 50, 97.5]).round(3)

# %% [markdown]
# These rates follow Beta($n + 1 - k$, $k$), here Beta(2, 38), whatever the scores' distribution. Its mean:

# %%
round(float(true_rates.mean()), 3), 2 / 40

# %% [markdown]
# **Try**: 18 parts instead of 39; then 1 %. Then break the assumption: let the parts to come be a little brighter, by
# adding 0.3 to the last score in `false_alarms`.
