"""Lab 03, reconstruction and memory: the checks of its exercises."""

from __future__ import annotations

import numpy as np

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say

_random = np.random.default_rng(3)

# --- PCA --------------------------------------------------------------------------------------------------------------


def _components(train: np.ndarray) -> np.ndarray:
    """Eigenvectors of the covariance as columns, the largest variance first."""
    return np.linalg.eigh(np.cov(train.T))[1][:, ::-1]


def _pca(train: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    directions, mean = _components(train)[:, :k], train.mean(0)
    return mean + (x - mean) @ directions @ directions.T


def _pca_not_centred(train: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    directions = np.linalg.eigh(train.T @ train)[1][:, ::-1][:, :k]
    return x @ directions @ directions.T


def _pca_smallest(train: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    directions, mean = _components(train)[:, ::-1][:, :k], train.mean(0)
    return mean + (x - mean) @ directions @ directions.T


def _pca_mean_of_test(train: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    directions = _components(train)[:, :k]
    return x.mean(0) + (x - x.mean(0)) @ directions @ directions.T


def _pca_image_not_centred(train: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    directions = _components(train)[:, :k]
    return train.mean(0) + x @ directions @ directions.T


_train = _random.normal(size=(12, 5)) * [3.0, 2.0, 1.0, 0.5, 0.2] + [1.0, -2.0, 0.5, 3.0, 0.0]
_new = _random.normal(size=(4, 5)) + 1.0

implement(
    "03.pca",
    _pca,
    [
        (np.array([[0.0, 1.0], [4.0, 1.0], [2.0, 0.0], [2.0, 2.0]]), np.array([[5.0, 3.0]]), 1),  # gives (5, 1)
        (_train, _new, 2),
        (_train, _new, 0),
    ],
    [
        (_pca_not_centred, say("the mean of the training images is not subtracted before the components are sought")),
        (lambda t, x, k: _pca(t, x, k) - t.mean(0), say("the mean that was subtracted has to be added again")),
        (_pca_smallest, say("these are the components of the smallest variance: numpy's eigh sorts ascending")),
        (_pca_mean_of_test, say("the mean is that of the training images, not that of the images to reconstruct")),
        (_pca_image_not_centred, say("subtract the mean from x, too, before you multiply it by the components")),
    ],
)

_singular = np.array([6.0, 3.0, 2.0, 1.0])

predict(
    "03.dropped",
    ((_singular[2:] ** 2).sum(), (_singular[:2] ** 2).sum() / (_singular**2).sum()),
    [
        ((3.0, 0.75), say("singular values are lengths: their squares add up, not they themselves")),
        ((5.0, 0.1), say("0.1 is the share that is left over: the share explained is the rest")),
        ((45.0, 0.9), say("45 belongs to the components that stay: the error is made of those that are dropped")),
        ((5.0, 5 / 45), say("compare with the sum of all four squares, not with that of the first two")),
    ],
    say("the error is the sum of the dropped squares, the share is 1 − error / sum of all squares"),
)

predict(
    "03.capacity",
    "b",
    [
        ("a", say("with as many components as pixels everything is copied: what error is left for a defect?")),
        ("c", say("with no component all that varies in good images counts as error: the first ones must help")),
        ("d", say("the number matters: compare what 0, 3 and 64 components leave of a defect")),
    ],
    say("give one letter, 'a', 'b', 'c' or 'd'"),
)

# --- SSIM -------------------------------------------------------------------------------------------------------------

C1, C2 = 0.01**2, 0.03**2


def _ssim(x: np.ndarray, y: np.ndarray, weights: np.ndarray, c1: float = C1, c2: float = C2) -> float:
    mx, my = np.vdot(weights, x), np.vdot(weights, y)
    vx, vy = np.vdot(weights, x * x) - mx**2, np.vdot(weights, y * y) - my**2
    covariance = np.vdot(weights, x * y) - mx * my
    return float((2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


def _ssim_of_pattern(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    mx, my = np.vdot(weights, x), np.vdot(weights, y)
    return _ssim(x, y, weights) * float((mx**2 + my**2 + C1) / (2 * mx * my + C1))


def _ssim_of_deviations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    mx, my = np.vdot(weights, x), np.vdot(weights, y)
    vx, vy = (np.vdot(weights, (part - mean) ** 2) for part, mean in ((x, mx), (y, my)))
    top = (2 * mx * my + C1) * (2 * np.sqrt(vx * vy) + C2)
    return float(top / ((mx**2 + my**2 + C1) * (vx + vy + C2)))


_gauss = np.exp(-(np.arange(-2, 3) ** 2) / 2.0)
_gauss = np.outer(_gauss, _gauss) / _gauss.sum() ** 2
_window = _random.uniform(0.2, 0.8, (5, 5))

implement(
    "03.ssim",
    _ssim,
    [
        (np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])),  # variances 1/4, covariance −1/4
        (_window, np.clip(_window + 0.1 * _random.normal(size=(5, 5)), 0, 1), _gauss),
        (np.full((2, 2), 0.25), np.full((2, 2), 0.5), np.full((2, 2), 0.25)),  # no variance at all
        (_window, np.full((5, 5), 0.5), _gauss),
    ],
    [
        (lambda x, y, w: _ssim(x, y, w, 0.0, 0.0), say("C₁ and C₂ are missing: flat windows then divide 0 by 0")),
        (lambda x, y, w: _ssim(x, y, w, 0.01, 0.03), say("C₁ and C₂ are squares: 0.01² and 0.03²")),
        (
            lambda x, y, w: _ssim(x, y, np.full(w.shape, 1 / w.size)),
            say("the weights are not used: means and variances are weighted sums"),
        ),
        (_ssim_of_pattern, say("only variances are compared: the factor of the two means is missing")),
        (_ssim_of_deviations, say("σxy is the covariance, which can be negative, not the product σx · σy")),
    ],
)


def _stain(answer: tuple[np.ndarray, np.ndarray]) -> Message | None:
    x, y = (np.asarray(patch, float) for patch in answer)
    if x.shape != (8, 8) or y.shape != (8, 8):
        return say("give two patches of 8 × 8 numbers: the image and its reconstruction")
    if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) > 1:
        return say("the values of both patches lie between 0 and 1")
    error = float(np.abs(x - y).mean())
    if error < 0.2 - 1e-9:
        return say("the mean absolute error is {error:.3f}: the stain must change it by 0.2 or more", error=error)
    similarity = _ssim(x, y, np.full((8, 8), 1 / 64))
    if similarity < 0.9:
        return say("its SSIM is {ssim:.3f}, so SSIM sees it: change what both means forgive", ssim=similarity)
    return None


breaks("03.stain", _stain)

# --- the VAE ----------------------------------------------------------------------------------------------------------


def _divergence(mu: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    return ((mu**2 + np.exp(log_variance)).sum(1) - log_variance.sum(1) - mu.shape[1]) / 2


_mu, _log_variance = _random.normal(size=(3, 4)), _random.normal(size=(3, 4))

implement(
    "03.divergence",
    _divergence,
    [(np.array([[0.0, 0.0], [1.0, 0.0]]), np.zeros((2, 2))), (_mu, _log_variance)],  # the first: 0 and 1/2
    [
        (lambda m, v: 2 * _divergence(m, v), say("the factor ½ is missing")),
        (lambda m, v: -_divergence(m, v), say("the sign is wrong: a divergence is never negative")),
        (lambda m, v: _divergence(m, v) / m.shape[1], say("a mean over the dimensions: the price is their sum")),
        (lambda m, v: _divergence(m, v).sum(), say("one number for all images: sum over the dimensions only")),
        (lambda m, v: _divergence(m, 2 * v), say("the second argument is log σ², not log σ")),
        (
            lambda m, v: (m**2 + v - np.log(v) - 1).sum(1) / 2,
            say("the second argument is log σ², and is used as if it were σ²"),
        ),
    ],
)

_variances = np.array([2.0, 0.9, 0.4, 0.06, 0.04])

predict(
    "03.collapse",
    tuple(int((_variances > beta / 2).sum()) for beta in (1.0, 0.1)),
    [
        ((1, 3), say("the variance is compared with β/2, not with β")),
        ((4, 2), say("the other way round: a smaller β makes the latent numbers cheaper")),
        ((3, 5), say("compare the variances, not the standard deviations")),
        ((5, 5), say("a latent number has its price: which components are worth less than it costs?")),
    ],
    say("count the variances above β/2, first for β = 1, then for β = 0.1"),
)

# --- PatchCore --------------------------------------------------------------------------------------------------------


def _coreset(points: np.ndarray, count: int) -> list[int]:
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(2))
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(distances[:, chosen].min(1).argmax()))
    return chosen


def _coreset_by(points: np.ndarray, count: int, summary: str) -> list[int]:
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(2))
    chosen = [0]
    while len(chosen) < count:
        reach = distances[:, chosen[-1:]].min(1) if summary == "last" else getattr(np, summary)(distances[:, chosen], 1)
        if summary == "last":
            reach[chosen] = -1
        chosen.append(int(reach.argmax()))
    return chosen


def _coreset_nearest(points: np.ndarray, count: int) -> list[int]:
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(2))
    chosen = [0]
    while len(chosen) < count:
        reach = distances[:, chosen].min(1)
        reach[chosen] = np.inf
        chosen.append(int(reach.argmin()))
    return chosen


_cloud = np.concatenate([_random.normal(0, 1, (24, 2)), _random.normal(5, 0.3, (4, 2))])

implement(
    "03.coreset",
    _coreset,
    [(np.array([[0.0], [1.0], [10.0], [4.0], [7.0]]), 3), (_cloud, 8), (_cloud, 1)],  # the first: 0, 2, 3
    [
        (
            lambda p, n: _coreset_by(p, n, "mean"),
            say("a point's distance is that to its nearest chosen point, not the mean or sum over all of them"),
        ),
        (
            lambda p, n: _coreset_by(p, n, "last"),
            say("only the point chosen last is looked at: take the minimum over all"),
        ),
        (lambda p, n: _coreset_by(p, n, "max"), say("max and min are confused: the nearest chosen point counts")),
        (_coreset_nearest, say("this takes the nearest point: take the one that is farthest from all chosen ones")),
        (lambda p, n: _coreset(p, n + 1)[1:], say("point 0 is the first of the chosen ones")),
        (lambda p, n: _coreset(p, n + 1), say("one point too many: point 0 counts as well")),
    ],
)


def _score(patches: np.ndarray, bank: np.ndarray, neighbours: int, variant: str = "") -> float:
    distances = np.sqrt(((patches[:, None] - bank) ** 2).sum(2))  # patches × bank
    nearest = distances.min(1)
    farthest = int(nearest.argmax())
    star = int(distances[farthest].argmin())
    among = ((bank - bank[star]) ** 2).sum(1) if variant != "of the patch" else distances[farthest]
    around = np.argsort(among, kind="stable")[:neighbours]
    if variant == "without itself":
        around = np.argsort(among, kind="stable")[1 : neighbours + 1]
    share = np.exp(nearest[farthest]) / np.exp(distances[farthest, around]).sum()
    return float({"share": share, "unweighted": 1.0}.get(variant, 1 - share) * nearest[farthest])


def _score_mean(patches: np.ndarray, bank: np.ndarray, neighbours: int) -> float:
    return float(np.sqrt(((patches[:, None] - bank) ** 2).sum(2)).min(1).mean())


_bank, _patches = _random.normal(size=(20, 3)), _random.normal(size=(6, 3)) * 1.5
_line = np.array([[0.0], [1.0], [6.0]])

implement(
    "03.score",
    _score,
    [
        (np.array([[2.5], [0.0]]), _line, 2),  # 1.5 · (1 − 1 / (1 + e))
        (_patches, _bank, 5),
        (_patches[1:], _bank, 3),
        (np.array([[3.4]]), _line, 2),  # of the patch itself 6 would be the second nearest, of m* it is 0
    ],
    [
        (lambda p, b, n: _score(p, b, n, "unweighted"), say("the weight of equation 7 is missing")),
        (lambda p, b, n: _score(p, b, n, "share"), say("the weight is 1 minus this fraction")),
        (
            lambda p, b, n: _score(p, b, n, "of the patch"),
            say("the neighbours are those of m* in the bank, not those of the new patch"),
        ),
        (lambda p, b, n: _score(p, b, n, "without itself"), say("m* is one of its own b neighbours")),
        (_score_mean, say("this is the mean over the patches: the farthest patch makes the score")),
    ],
)

LENGTH = 12
GOOD_STRIPS = np.zeros((LENGTH - 2, LENGTH), int)
for _start in range(LENGTH - 2):
    GOOD_STRIPS[_start, _start : _start + 3] = 1, 2, 3


def _missing(answer: np.ndarray) -> Message | None:
    strip = np.asarray(answer)
    if strip.shape != (LENGTH,):
        return say("give a strip of 12 cells")
    if (strip == GOOD_STRIPS).all(1).any():
        return say("this is a good strip, and the memory is right about it")
    windows = np.lib.stride_tricks.sliding_window_view(strip, 3)
    bank = np.lib.stride_tricks.sliding_window_view(GOOD_STRIPS, 3, axis=1).reshape(-1, 3)
    distances = np.sqrt(((windows[:, None] - bank) ** 2).sum(2)).min(1)
    if distances.max() > 0:
        at = int(distances.argmax())
        fields = {"window": " ".join(map(str, windows[at])), "number": at + 1, "score": float(distances.max())}
        return say("it scores {score:.2f}: window {number}, {window}, occurs in no good strip", **fields)
    return None


breaks("03.missing", _missing)

choose(
    "03.detector",
    "ae",
    {
        "a": say("the interval of the paired difference lies above zero"),
        "b": say("its interval holds zero: undecided"),
        "c": say("better under the loss is not better as a detector: this interval holds zero"),
        "d": say("an interval that holds one half cannot be told from chance, to either side"),
        "e": say("its reconstructions are better, and the interval of the AUROC's difference lies above zero"),
        "f": say("undecided is not equal: with these images a difference of a tenth could stay unseen"),
    },
)
