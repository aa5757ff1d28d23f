"""Wrong answers to lab 03, and what is said to each."""

import numpy as np


def _uncentred(train, x, k):
    v = np.linalg.svd(train, full_matrices=False)[2][:k]
    return x @ v.T @ v


def _mean_lost(train, x, k):
    v = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:k]
    return (x - train.mean(0)) @ v.T @ v


def _last(train, x, k):
    mean = train.mean(0)
    v = np.linalg.eigh((train - mean).T @ (train - mean))[1].T[:k]
    return (x - mean) @ v.T @ v + mean


def _other_mean(train, x, k):
    v = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:k]
    return (x - x.mean(0)) @ v.T @ v + x.mean(0)


def _numbers_only(train, x, k):
    v = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:k]
    return (x - train.mean(0)) @ v.T


def _moments(x, y, w):
    mx, my = (w * x).sum(), (w * y).sum()
    return mx, my, (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()


def _no_constants(x, y, w):
    mx, my, vx, vy, c = _moments(x, y, w)
    return 4 * mx * my * c / ((mx**2 + my**2) * (vx + vy))


def _no_squares(x, y, w):
    mx, my, vx, vy, c = _moments(x, y, w)
    return (2 * mx * my + 0.01) * (2 * c + 0.03) / ((mx**2 + my**2 + 0.01) * (vx + vy + 0.03))


def _plain_means(x, y, w):
    vx, vy, c = x.var(), y.var(), np.mean((x - x.mean()) * (y - y.mean()))
    mx, my = x.mean(), y.mean()
    return (2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))


def _contrast(x, y, w):
    _, _, vx, vy, c = _moments(x, y, w)
    return (2 * c + 9e-4) / (vx + vy + 9e-4)


def _deviations(x, y, w):
    mx, my, vx, vy, _ = _moments(x, y, w)
    return (2 * mx * my + 1e-4) * (2 * vx**0.5 * vy**0.5 + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))


def _kl(mu, lv):
    return np.array(
        [sum(m * m + np.exp(v) - v - 1 for m, v in zip(*pair, strict=True)) for pair in zip(mu, lv, strict=True)]
    )


def _greedy(points, count, reach, start=(0,)):
    chosen = list(start)
    while len(chosen) < count:
        away = np.linalg.norm(points[:, None] - points[chosen], axis=2)
        chosen.append(int(reach(away, chosen)))
    return chosen


def _by_last(away, chosen):
    last = away[:, -1].copy()
    last[chosen] = -1
    return last.argmax()


def _closest(away, chosen):
    nearest = away.min(1)
    nearest[chosen] = 1e9
    return nearest.argmin()


def _parts(patches, bank):
    away = np.array([[np.linalg.norm(p - b) for b in bank] for p in patches])
    i = away.min(1).argmax()
    return away, i, away[i].argmin()


def _no_weight(patches, bank, neighbours):
    away, i, star = _parts(patches, bank)
    return away[i, star]


def _fraction(patches, bank, neighbours):
    away, i, star = _parts(patches, bank)
    around = np.linalg.norm(bank - bank[star], axis=1).argsort()[:neighbours]
    return away[i, star] * np.exp(away[i, star]) / np.exp(away[i, around]).sum()


def _neighbours_of_patch(patches, bank, neighbours):
    away, i, star = _parts(patches, bank)
    around = away[i].argsort()[:neighbours]
    return away[i, star] * (1 - np.exp(away[i, star]) / np.exp(away[i, around]).sum())


def _without_star(patches, bank, neighbours):
    away, i, star = _parts(patches, bank)
    around = np.linalg.norm(bank - bank[star], axis=1).argsort()[1 : neighbours + 1]
    return away[i, star] * (1 - np.exp(away[i, star]) / np.exp(away[i, around]).sum())


_flat = np.full((8, 8), 0.7)
_noise = np.random.default_rng(0).uniform(0, 1, (2, 8, 8))

WRONG = {
    "03.pca": [
        (_uncentred, "before the components"),
        (_mean_lost, "added again"),
        (_last, "smallest variance"),
        (_other_mean, "mean is that of the training images"),
        (_numbers_only, "shape"),
    ],
    "03.dropped": [
        ((3, 0.75), "squares add up"),
        ((5, 0.1), "left over"),
        ((45, 0.9), "stay"),
        ((5, 0.1111), "all four"),
        (5, "sum of the dropped squares"),
    ],
    "03.capacity": [
        ("a", "copied"),
        ("c", "first ones must help"),
        ("d", "0, 3 and 64"),
        ("the second", "one letter"),
    ],
    "03.ssim": [
        (_no_constants, "0 by 0"),
        (_no_squares, "0.01²"),
        (_plain_means, "weights are not used"),
        (_contrast, "two means"),
        (_deviations, "covariance"),
    ],
    "03.stain": [
        ((_flat, _flat), "0.000"),
        (tuple(_noise), "SSIM sees it"),
        ((_flat, _flat + 0.4), "between 0 and 1"),
        ((np.full(64, 0.7), np.full(64, 0.9)), "8 × 8"),
    ],
    "03.divergence": [
        (_kl, "½"),
        (lambda mu, lv: -_kl(mu, lv) / 2, "sign"),
        (lambda mu, lv: (mu**2 + np.exp(lv) - lv - 1).mean(1) / 2, "mean over the dimensions"),
        (lambda mu, lv: (mu**2 + np.exp(lv) - lv - 1).sum() / 2, "all images"),
        (lambda mu, s: (mu**2 + np.exp(s) ** 2 - 2 * s - 1).sum(1) / 2, "not log σ"),
        (lambda mu, v: 0.5 * (mu**2 + v - np.log(v) - 1).sum(1), "as if it were"),
    ],
    "03.collapse": [
        ((1, 3), "not with β"),
        ((4, 2), "other way round"),
        ([3, 5], "standard deviations"),
        ((5, 5), "price"),
        (2, "above β/2"),
    ],
    "03.coreset": [
        (lambda p, n: _greedy(p, n, lambda away, chosen: away.sum(1).argmax()), "mean or sum"),
        (lambda p, n: _greedy(p, n, _by_last), "chosen last"),
        (lambda p, n: _greedy(p, n, _closest), "takes the nearest"),
        (lambda p, n: _greedy(p, n + 1, lambda away, chosen: away.min(1).argmax()), "too many"),
        (lambda p, n: _greedy(p, n + 1, lambda away, chosen: away.min(1).argmax())[1:], "first of the chosen"),
    ],
    "03.score": [
        (_no_weight, "weight of equation 7"),
        (_fraction, "1 minus"),
        (_neighbours_of_patch, "not those of the new patch"),
        (_without_star, "m* is one of"),
        (lambda p, b, n: np.mean([min(np.linalg.norm(q - m) for m in b) for q in p]), "mean over the patches"),
    ],
    "03.missing": [
        ([0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0], "good strip, and"),
        ([0, 0, 0, 1, 3, 2, 0, 0, 0, 0, 0, 0], "occurs in no good strip"),
        ([0] * 11, "12 cells"),
    ],
    "03.detector": [
        ("abe", "b does not hold"),
        ("ace", "c does not hold"),
        ("ade", "d does not hold"),
        ("aef", "f does not hold"),
        ("a", "e holds"),
        ("yes", "give the letters"),
    ],
}
