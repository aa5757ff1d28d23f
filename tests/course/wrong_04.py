"""Wrong answers to lab 04, and what is said to each."""

import math
from itertools import pairwise

import numpy as np


def _leaking(groups, hashes, parts, same):
    n = len(groups)
    return [any(same(i, j) for j in range(n) if parts[j] != parts[i]) for i in range(n)]


def _by_group(g, h, p):
    return _leaking(g, h, p, lambda i, j: g[i] == g[j])


def _by_hash(g, h, p):
    return _leaking(g, h, p, lambda i, j: h[i] == h[j])


def _by_both(g, h, p):
    return _leaking(g, h, p, lambda i, j: g[i] == g[j] and h[i] == h[j])


def _by_either(g, h, p):
    return np.array(_leaking(g, h, p, lambda i, j: g[i] == g[j] or h[i] == h[j]))


def _shares(training, picture):
    return np.array([[np.mean(training == colour) for colour in row] for row in picture])


def _p(z):
    return 1 / (1 + np.exp(-z))


def _cross_entropy(z, y, focus, alpha):
    return np.mean(alpha(y) * focus * (y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)))


def _alpha(y):
    return np.where(y == 1, len(y) / (2 * y.sum()), len(y) / (2 * (len(y) - y.sum())))


def _beta(y):
    return np.where(y == 1, 1 / (2 * np.mean(y == 0)), 1 / (2 * np.mean(y)))


def _naive(z, y, gamma):
    p = np.where(y == 1, _p(z), 1 - _p(z))
    return -np.mean(_alpha(y) * (1 - p) ** gamma * np.log(p))


def _right(z, y):
    return _p(np.where(y == 1, z, -z))


def _logit(p):
    return np.log(p / (1 - p))


def _bins(labels, p, bins):
    number = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    for i in np.unique(number):
        yield (number == i).mean(), labels[number == i].mean(), p[number == i].mean(), (i + 0.5) / bins


def _half_open(labels, p, bins):
    number = np.minimum((p * bins).astype(int), bins - 1)
    inside = [number == i for i in np.unique(number)]
    return sum(part.mean() * abs(labels[part].mean() - p[part].mean()) for part in inside)


def _of_surer_class(labels, p, bins):
    sure, hit = np.maximum(p, 1 - p), (p > 0.5) == (labels == 1)
    return sum(w * abs(f - c) for w, f, c, _ in _bins(hit, sure, bins))


def _entropy(t, z):
    return (t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)).mean(-1)


def _soft(y):
    m, n = (y == 1).sum(), (y == 0).sum()
    return np.where(y == 1, (m + 1) / (m + 2), 1 / (n + 2))


def _recalls(severity, detected, edges, interval):
    for low, high in pairwise(edges):
        hits = detected[(severity > low) & (severity <= high)]
        yield low, high, hits.mean(), *interval(hits.mean(), len(hits))


def _from(passes, edge=0):
    def answer(severity, detected, edges, interval):
        last = math.nan
        for row in list(_recalls(severity, detected, edges, interval))[::-1]:
            if not passes(row):
                break
            last = row[edge]
        return last

    return answer


def _first_bin(severity, detected, edges, interval):
    return next((row[0] for row in _recalls(severity, detected, edges, interval) if row[3] > 0.5), math.nan)


_truth = np.tile([0, 1], 10)
_sure = np.where(_truth == 1, 0.99, 0.01)

WRONG = {
    "04.leaks": [
        (_by_group, "hashes are overlooked"),
        (_by_hash, "groups are overlooked"),
        (_by_both, "*or*"),
        (lambda g, h, p: _by_either(g, h, p) & (p == "test"), "other parts"),
        (
            lambda g, h, p: [(g == a).sum() > 1 or (h == b).sum() > 1 for a, b in zip(g, h, strict=True)],
            "within the same part",
        ),
    ],
    "04.twins": [(0.5, "honest"), (0.75, "guesses"), (1.0, "by heart"), (0.625, "other way round"), (0.6, "too small")],
    "04.rarity": [
        (lambda t, x: -np.log(_shares(x, x) + 1e-7), "not from this picture"),
        (lambda t, x: -np.log(_shares(t, x)), "never seen"),
        (lambda t, x: -np.log2(_shares(t, x) + 1e-7), "natural"),
        (lambda t, x: np.log(_shares(t, x) + 1e-7), "sign"),
        (lambda t, x: 1 / (_shares(t, x) + 1e-7), "is expected"),
    ],
    "04.loss": [
        (_naive, "logaddexp"),
        (lambda z, y, g: _cross_entropy(z, y, (1 - _right(z, y)) ** g, lambda y: 1), "missing"),
        (lambda z, y, g: _cross_entropy(z, y, (1 - _right(z, y)) ** g, _beta), "swapped"),
        (lambda z, y, g: _cross_entropy(z, y, _right(z, y) ** g, _alpha), "not p^γ"),
        (lambda z, y, g: _cross_entropy(z, y, (1 - _p(z)) ** g, _alpha), "probability of the right class"),
        (lambda z, y, g: len(z) * _cross_entropy(z, y, (1 - _right(z, y)) ** g, _alpha), "the sum"),
    ],
    "04.constant": [
        ((0.1, 0.1), "count the same"),
        ((0.5, 0.5), "nine of ten"),
        ((0.5, 0.1), "undo"),
        ((0.1, 0.9), "swap them"),
        ((0.2, 0.4), "derivative"),
    ],
    "04.fusion": [
        (lambda p, q: _p(_logit(p).sum(1)), "all views but one"),
        (lambda p, q: _p((_logit(p) - _logit(q)).sum(1)), "once too often"),
        (lambda p, q: [sum(row) / len(row) for row in p], "mean"),
        (lambda p, q: [np.prod(row) for row in p], "product"),
        (lambda p, q: [max(row) for row in p], "surest"),
    ],
    "04.shared": [
        ((_truth, _sure, _sure), "sum is still calibrated"),
        ((_truth, np.full(20, 0.9), _sure), "view 1"),
        ((_truth, _sure, np.full(20, 0.9)), "view 2"),
        ((_truth[:4], _sure[:4], _sure[:4]), "20 items"),
        ((np.arange(20) < 2, np.full(20, 0.1), np.full(20, 0.1)), "0.10 of the items"),
    ],
    "04.calibration": [
        (_half_open, "upper edge"),
        (lambda y, p, n: np.mean([abs(f - c) for _, f, c, _ in _bins(y, p, n)]), "weighted"),
        (lambda y, p, n: sum(w * (f - c) for w, f, c, _ in _bins(y, p, n)), "absolute"),
        (lambda y, p, n: sum(w * (f - c) ** 2 for w, f, c, _ in _bins(y, p, n)), "square"),
        (lambda y, p, n: sum(w * abs(f - middle) for w, f, _, middle in _bins(y, p, n)), "its middle"),
        (_of_surer_class, "surer class"),
    ],
    "04.temperature": [
        (lambda y, z, g: g[_entropy(y, z / g[:, None]).argmin()], "soften"),
        (lambda y, z, g: g[_entropy(_soft(y), z * g[:, None]).argmin()], "divided by T"),
        (lambda y, z, g: g[_entropy(_soft(y), z / g[:, None]).argmax()], "largest"),
        (lambda y, z, g: _entropy(_soft(y), z / g[:, None]).argmin(), "index"),
        (lambda y, z, g: _entropy(_soft(y), z / g[:, None]).min(), "not the cross-entropy"),
    ],
    "04.threshold": [
        (-2.302585, "not divided yet"),
        (4.60517, "sign"),
        (0.0909091, "on the probability"),
        (-1.151293, "T multiplies"),
        (-2, "natural"),
        (-10.0, "too small"),
    ],
    "04.line": [
        (0.0909091, "costs alone"),
        (9.9, "these are odds"),
        (0.99, "prior alone"),
        (0.00100908, "more evidence"),
        (0.5, "too small"),
    ],
    "04.severity": [
        (_from(lambda row: row[2] > 0.5), "not enough"),
        (_from(lambda row: row[4] > 0.5), "upper end"),
        (_first_bin, "each bin above"),
        (_from(lambda row: row[3] > 0.5, edge=1), "lower edge"),
    ],
    "04.networks": [
        ("abef", "b does not hold"),
        ("acef", "c does not hold"),
        ("adef", "d does not hold"),
        ("ef", "a holds"),
        ("ae", "f holds"),
    ],
}
