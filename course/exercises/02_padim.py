# %% [markdown]
# # Lab 02 · PaDiM
#
# <!-- badge -->
#
# Nothing is trained here, and nothing is downloaded. Each cell with an exercise ends in a check; it says what differs.

# %%
# <setup>

# %%
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
check("02.gaussians", numbers)

# %% [markdown]
# ## 02.mahalanobis · implement
#
# $M(x)=\sqrt{(x-\mu)^\top(\Sigma+\epsilon I)^{-1}(x-\mu)}$ for $n$ points at once.


# %%
def mahalanobis(x, mean, covariance, ridge):
    """Distances (n,) of points (n, d) from a Gaussian with this mean (d,) and covariance (d, d)."""
    # <solution>
    away = x - mean
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(mean)))
    return np.sqrt(np.einsum("nd,de,ne->n", away, inverse, away))
    # </solution>


check("02.mahalanobis", mahalanobis)

# %% [markdown] solution
# The inverse is taken once, for all points.

# %%
print(summary("02"))
