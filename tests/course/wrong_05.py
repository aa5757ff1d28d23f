"""Wrong answers to lab 05, and what is said to each."""

import numpy as np


def _path(gradient, x, baseline, alphas):
    return np.mean([gradient(baseline + alpha * (x - baseline)) for alpha in alphas], axis=0)


def _at(start):
    return lambda g, x, b, m: (x - b) * _path(g, x, b, (np.arange(m) + start) / m)


def _middles(m):
    return [(k - 0.5) / m for k in range(1, m + 1)]


def _relu(x):
    return np.where(x > 0, x, 0)


def _sum_of(alpha, A):
    return _relu(np.einsum("k,kij->ij", alpha, A))


def _falls(f, image, baseline, window, divide=True, keep=False):
    rows, columns = image.shape
    parts = [[[] for _ in range(columns)] for _ in range(rows)]
    covered = np.array(image)
    for i in range(rows - window + 1):
        for j in range(columns - window + 1):
            covered = covered if keep else np.array(image)
            covered[i : i + window, j : j + window] = baseline
            for a in range(i, i + window):
                for b in range(j, j + window):
                    parts[a][b].append(f(image) - f(covered))
    return np.array([[np.sum(part) / (len(part) if divide else 1) for part in row] for row in parts])


def _game(maps, regions):
    return np.mean(
        [r[np.unravel_index(m.argmax(), m.shape)] for m, r in zip(maps, regions, strict=True)]
    ), regions.mean()


def _any_positive(maps, regions):
    hits = np.mean([(m[r] > 0).any() for m, r in zip(maps, regions, strict=True)])
    return hits, regions.mean(), hits - regions.mean()


def _ratio(maps, regions):
    hits, covered = _game(maps, regions)
    return hits, covered, hits / covered


def _energy(maps, regions):
    inside = np.mean([m[r].sum() / m.sum() for m, r in zip(maps, regions, strict=True)])
    return inside, regions.mean(), inside - regions.mean()


def _union(maps, regions):
    hits, covered = _game(maps, regions)[0], regions.any(axis=0).mean()
    return hits, covered, hits - covered


def _curve(f, image, evidence, baseline, sign=-1, keep=True):
    left, values = image.copy(), [f(image)]
    for i in np.argsort(sign * evidence, axis=None):
        left = left if keep else image.copy()
        left[np.unravel_index(i, image.shape)] = baseline
        values.append(f(left))
    return np.array(values)


def _area(values):
    return ((values[1:] + values[:-1]) / 2).mean()


_positive = np.array([[[5.0, 1.0]]])

WRONG = {
    "05.saturated": [
        ((0, 0), "passes where"),
        ((1, 1), "small change"),
        ((0, 2), "half of the path"),
        ((0, 0.5), "mean slope"),
        ((1, 0), "other way round"),
    ],
    "05.integrated": [
        (_at(0), "left ends"),
        (_at(1), "right ends"),
        (lambda g, x, b, m: _path(g, x, b, _middles(m)), "mean slope"),
        (lambda g, x, b, m: x * _path(g, x, b, _middles(m)), "not by x"),
        (lambda g, x, b, m: x * _path(g, x, 0 * x, _middles(m)), "begins at the baseline"),
        (lambda g, x, b, m: (x - b) * g(x), "without the path"),
        (lambda g, x, b, m: m * (x - b) * _path(g, x, b, _middles(m)), "take the mean"),
    ],
    "05.completeness": [
        ((1.0, 0.5), "rises by only"),
        ((10.0, 0.5), "off by"),
        ((-100.0, 0.5), "steepness above 0"),
        (100.0, "cannot be tried"),
    ],
    "05.baseline": [
        ((0, -0.8, -2), "product"),
        ((0, 0.4, 1), "two"),
        ((0, 0, 0), "not without effect"),
        ((2, 0.8, 0), "other way round"),
        ((0, 1, 3), "compute it"),
    ],
    "05.grad_cam": [
        (lambda A, s: _relu(sum(a * b for a, b in zip(A, s, strict=True))), "HiResCAM"),
        (lambda A, s: sum(b.mean() * a for a, b in zip(A, s, strict=True)), "ReLU is missing"),
        (lambda A, s: sum(_relu(b.mean() * a) for a, b in zip(A, s, strict=True)), "after the sum"),
        (lambda A, s: _sum_of([b.sum() for b in s], A), "not their sum"),
        (lambda A, s: _sum_of(_relu(s.mean((1, 2))), A), "keep their sign"),
        (lambda A, s: _sum_of(A.mean((1, 2)), A), "not from the features"),
    ],
    "05.lost": [
        ((_positive, np.ones((1, 1, 2))), "contributes +5"),
        ((_positive, -np.ones((1, 1, 2))), "zero everywhere"),
        ((_positive, np.array([[[-1.0, 2.0]]])), "all cells together"),
        ((_positive[0], np.ones((1, 2))), "one shape"),
    ],
    "05.smooth_grad": [
        (lambda g, x, e: sum(abs(g(x + each)) for each in e) / len(e), "before the mean"),
        (lambda g, x, e: sum(g(x + each) for each in e) / len(e), "dropped at the end"),
        (lambda g, x, e: abs(g(x)), "plain gradient"),
        (lambda g, x, e: abs(g(sum(x + each for each in e) / len(e))), "not over noise"),
        (lambda g, x, e: abs(sum(g(x + each) for each in e)), "take their mean"),
    ],
    "05.occlusion": [
        (lambda f, x, b, w: _falls(f, x, b, w, divide=False), "number of windows"),
        (lambda f, x, b, w: -_falls(f, x, b, w), "*falls*"),
        (lambda f, x, b, w: _falls(f, x, 0, w), "not with 0"),
        (lambda f, x, b, w: _falls(f, x, b, w, keep=True), "fresh copy"),
        (lambda f, x, b, w: _falls(f, x, b, w)[:1], "shape"),
    ],
    "05.pointing": [
        (_any_positive, "any positive"),
        (_ratio, "ratio"),
        (_energy, "energy"),
        (_union, "laid over"),
        (lambda maps, regions: _game(maps, regions), "shape"),
    ],
    "05.deletion": [
        (lambda f, x, e, b: _area(_curve(f, x, e, b, sign=1)), "largest value is deleted first"),
        (lambda f, x, e, b: _area(_curve(f, x, e, b, keep=False)), "stays deleted"),
        (lambda f, x, e, b: _area(_curve(f, x, e, 0)), "not 0"),
        (lambda f, x, e, b: _curve(f, x, e, b).mean(), "trapezoids"),
        (lambda f, x, e, b: _area(_curve(f, x, e, b)[1:]), "whole image"),
    ],
    "05.ends": [
        ((-1, 2), "logits"),
        ((0.2689, 0), "nothing left"),
        ((0.2689, 0.5), "neutral"),
        ((0.8808, 0.2689), "begins with"),
        ((0.5, 0.5), "both logits"),
    ],
    "05.evidence": [
        ("abcf", "c does not hold"),
        ("abdf", "d does not hold"),
        ("abef", "e does not hold"),
        ("abfg", "g does not hold"),
        ("ab", "f holds"),
    ],
}
