# %% [markdown]
# # PaDiM in forty lines
#
# The file `features.npz` holds what EfficientNet-Lite0 says of synthetic bottles at each of 14 × 14 positions: ten
# channels of 60 good bottles to fit on, and of 24 others, half of them defective.

# %%
import numpy as np

with np.load("features.npz") as data:
    good, test, labels, masks = (data[name].astype(float) for name in ("good", "test", "labels", "masks"))
good.shape, test.shape

# %% [markdown]
# ## One Gaussian a position
#
# At each position the vectors of the good bottles have a mean $\mu$ and a covariance $\Sigma$; a small multiple of the identity
# keeps it invertible. How strange is a vector $x$ there? Its Mahalanobis distance $\sqrt{(x - \mu)^T \Sigma^{-1} (x - \mu)}$.


# %%
def fit(good, ridge=0.01):
    mean = good.mean(axis=0)
    away = good - mean
    covariance = np.einsum("nhwc,nhwd->hwcd", away, away) / (len(good) - 1)
    covariance += ridge * covariance.diagonal(axis1=2, axis2=3).mean() * np.eye(good.shape[-1])
    return mean, np.linalg.inv(covariance)


def anomaly_map(features, mean, inverse):
    away = features - mean
    return np.sqrt(np.einsum("nhwc,hwcd,nhwd->nhw", away, inverse, away))


mean, inverse = fit(good)
maps = anomaly_map(test, mean, inverse)
maps.shape

# %% [markdown]
# ## A score, and how well it separates
#
# The score of a part is the highest value of its map.

# %%
scores = maps.max(axis=(1, 2))
pairs = scores[labels == 1][:, None] > scores[labels == 0][None, :]
print(f"AUROC {pairs.mean():.3f} of {pairs.size} pairs")


# %% [markdown]
# ## Where is the defect?
#
# A darker sign is a higher distance. Left the map, right the true mask.


# %%
def draw(*maps):
    signs = np.array(list(" ·░▒▓█"))
    rows = [signs[np.clip(6 * (m - m.min()) / (np.ptp(m) or 1), 0, 5).astype(int)] for m in maps]
    for parts in zip(*rows, strict=True):
        print("   ".join("".join(sign * 2 for sign in part) for part in parts))


worst = int(np.argmax(np.where(labels == 1, scores, 0)))
draw(maps[worst], masks[worst])

# %% [markdown]
# ## A threshold from good parts
#
# Good parts that were fitted on score too low, so each is scored by Gaussians that have not seen it.

# %%
held_out = np.array([anomaly_map(good[[i]], *fit(np.delete(good, i, axis=0))).max() for i in range(len(good))])
fitted_on = anomaly_map(good, mean, inverse).max(axis=(1, 2))
threshold = np.sort(held_out)[int(np.ceil(61 * 0.95)) - 1]  # rank 58 of 60: at most 5 % false alarms
print(f"held out {held_out.mean():.1f} on average, fitted on {fitted_on.mean():.1f}; threshold {threshold:.1f}")
print(
    f"found {(scores > threshold)[labels == 1].mean():.2f}, false alarms {(scores > threshold)[labels == 0].mean():.2f}"
)

# %% [markdown]
# **Try**: fit on the first 12 bottles only; what happens to the gap between held out and fitted on? Then a ridge of 1, then of
# 0.0001. Then shift all test features by one position with `np.roll(test, 1, axis=2)`: what does a method do that
# compares positions, if the part lies elsewhere?
