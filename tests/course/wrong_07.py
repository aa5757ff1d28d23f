"""Wrong answers to lab 07, and what is said to each."""

import numpy as np

# --- gradients --------------------------------------------------------------------------------------------------------


def _d(logits):
    return np.where(
        logits > 0, 1 / (1 + np.exp(-np.abs(logits))), np.exp(-np.abs(logits)) / (1 + np.exp(-np.abs(logits)))
    )


def _loss(logits):
    return np.maximum(-logits, 0) + np.log1p(np.exp(-np.abs(logits)))


def _naive(logits):
    d = 1 / (1 + np.exp(-logits))
    return [-np.log(d), d - 1, -d]


def _over_probability(logits):
    return [_loss(logits), -1 / _d(logits), -1 / _d(-logits)]


# --- transposed convolution -------------------------------------------------------------------------------------------


def _enlarge(grid, kernel, stride, padding, add=True, cut=True):
    k = len(kernel)
    total = np.zeros([(n - 1) * stride + k for n in grid.shape])
    for i, j in np.ndindex(grid.shape):
        place = np.s_[i * stride : i * stride + k, j * stride : j * stride + k]
        total[place] = grid[i, j] * kernel + (total[place] if add else 0)
    if padding and cut:
        total = total[padding:-padding, padding:-padding]
    return total


# --- Fréchet distance -------------------------------------------------------------------------------------------------


def _distance(m, c, n, e, times=2.0, power=2.0, root=np.sqrt):
    shared = root(np.linalg.eigvals(c @ e).real).sum()
    return np.linalg.norm(m - n) ** power + np.trace(c) + np.trace(e) - times * shared


def _cells(m, c, n, e):
    return ((m - n) ** 2).sum() + np.trace(c + e - 2 * np.sqrt(c @ e))


def _variances(m, c, n, e):
    return ((m - n) ** 2).sum() + sum((np.sqrt(c[i, i]) - np.sqrt(e[i, i])) ** 2 for i in range(len(c)))


# --- modes ------------------------------------------------------------------------------------------------------------

_ANGLES = np.arange(8) * np.pi / 4
_CENTRES = 4 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_NOISE = np.random.default_rng(3).normal(size=(400, 2))

# --- search -----------------------------------------------------------------------------------------------------------


def _descend(x, w, b, f, share, lr, steps, first=None, weight=2.0, last="z"):
    z = np.zeros(w.shape[1])
    for _ in range(steps):
        r = x - (w @ z + b)
        pixels = (1 - share if first is None else first) * r
        z = z + lr * weight * (w.T @ (pixels + share * f.T @ f @ r))
    return z if last == "z" else w @ z + b


def _pixels_only(x, w, b, f, share, lr, steps):
    return _descend(x, w, b, f, 0.0, lr, steps)


# --- defects ----------------------------------------------------------------------------------------------------------

_STAIN = np.zeros((8, 8))
_STAIN[1:4, 4:7] = 1
_LABEL = np.zeros((8, 8))
_LABEL[4:7, 1:4] = 1

WRONG = {
    "07.optimal": [
        ((1 / 3, 0.5, 0, 1), "those of generated"),
        ((0.5, 0.25, 0.25, 0), "when it is seen"),
        ([0.5] * 4, "perfect"),
        ((1, 0.5, 1, 0), "no vote"),
        ((0.6, 0.5, 0.9, 0.1), "derivative"),
    ],
    "07.gradients": [
        (_naive, "rounds to 0"),
        (lambda x: [-_loss(-x), _d(x) - 1, -_d(x)], "−log D, which is positive"),
        (lambda x: [_loss(x), -_d(x), _d(x) - 1], "swapped"),
        (lambda x: [_loss(x), 1 - _d(x), _d(x)], "both losses fall"),
        (lambda x: [_loss(x), _d(x) - 1, _d(x)], "falls, too"),
        (_over_probability, "dD/dl"),
    ],
    "07.transposed": [
        (lambda g, k, s, p: _enlarge(g, k[::-1, ::-1], s, p), "flipped"),
        (lambda g, k, s, p: _enlarge(g, k, s, p, add=False), "overwritten"),
        (lambda g, k, s, p: _enlarge(g, k, s, p, cut=False), "nothing is cut"),
        (lambda g, k, s, p: _enlarge(g, k, 1, p), "side by side"),
        (lambda g, k, s, p: np.pad(_enlarge(g, k, s, p, cut=False), p), "takes cells away"),
        (lambda g, k, s, p: _enlarge(g, k.T, s, p), "rows and columns"),
    ],
    "07.frechet": [
        (lambda *case: _distance(*case, times=1.0), "counts twice"),
        (lambda *case: _distance(*case, power=1.0), "squared"),
        (lambda *case: _distance(*case, root=lambda values: values), "root of the product"),
        (lambda *case: np.sqrt(_distance(*case)), "no root of the whole"),
        (_cells, "each cell"),
        (_variances, "variances only"),
    ],
    "07.modes": [
        (np.sqrt(8) * _NOISE, "must look real"),
        (np.repeat(_CENTRES, 50, axis=0) + 0.1 * _NOISE, "in 8 of 8"),
        (np.repeat(_CENTRES[:4], 100, axis=0) + 0.1 * _NOISE, "your mean is"),
        (_CENTRES[::2], "100 to 5,000"),
    ],
    "07.search": [
        (lambda x, w, b, f, a, lr, n: _descend(x, w, b, f, a, -lr, n), "climbs"),
        (lambda *case: _descend(*case, weight=1.0), "factor 2"),
        (_pixels_only, "feature term"),
        (lambda *case: _descend(*case, first=1.0), "weighted by 1 − λ"),
        (lambda x, w, b, *rest: _descend(x, w, np.zeros(len(x)), *rest), "b is missing"),
        (lambda *case: _descend(*case[:-1], 1), "this is one step"),
        (lambda *case: _descend(*case, last="image"), "return z"),
    ],
    "07.redrawn": [
        (_STAIN, "is caught on"),
        (np.ones((8, 8)), "changes 64 pixels"),
        (0.3 * _LABEL, "0 pixels change"),
        (_LABEL.ravel(), "its shape is (64,)"),
        ([["dark"]], "cannot be tried"),
    ],
    "07.report": [
        ("abde", "3 / 4 is left"),
        ("acde", "not good"),
        ("ad", "ziz sees"),
        ("de", "(3, 0)"),
        ("adef", "every seed"),
        ("adeg", "overlap"),
        ("ae", "third"),
    ],
}
