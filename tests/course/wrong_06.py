"""Wrong answers to lab 06, and what is said to each."""

import numpy as np


def _length_1(x):
    return np.array([v / np.sqrt((v**2).sum()) for v in x])


def _contrast(first, second, temperature, own=False, twin=True, lengths=True, below=True):
    z = np.concatenate([first, second])
    if lengths:
        z = _length_1(z)
    n, losses = len(first), []
    for i in range(2 * n if below else n):
        j = i + n if i < n else i - n
        logits = [z[i] @ z[a] / temperature for a in range(2 * n) if (own or a != i) and (twin or a != j)]
        losses.append(np.logaddexp.reduce(logits) - z[i] @ z[j] / temperature)
    return sum(losses) / len(losses)


def _naive(first, second, temperature):
    z = _length_1(np.concatenate([first, second]))
    e = np.exp(z @ z.T / temperature)
    n = len(first)
    return np.mean([-np.log(e[i, (i + n) % (2 * n)] / (e[i].sum() - e[i, i])) for i in range(2 * n)])


def _supcon(vectors, types, temperature, how):
    z = _length_1(vectors)
    s, losses = z @ z.T / temperature, []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [a for a in others if types[a] == types[i]]
        below = [a for a in others if types[a] != types[i]] if how == "negatives" else others
        shares = np.array([s[i, p] - np.log(np.exp(s[i, below]).sum()) for p in positives])
        losses.append({"inside": -np.log(np.exp(shares).mean()), "sum": -shares.sum()}.get(how, -shares.mean()))
    return np.sum(losses) if how == "total" else np.mean(losses)


def _shuffled(image, rng):
    return rng.permutation(image.ravel()).reshape(image.shape)


def _covered(image, rng):
    image[: rng.integers(9)] = 0
    return image


def _mirrored(image, rng):
    return image[:, ::-1] if rng.random() < 0.5 else image


def _seldom(image, rng):
    return image.T if rng.random() < 0.1 else image


def _cosines(known, types, new, first=True, middle=True, last=True):
    known = _length_1(known) if first else known
    prototypes = np.array([known[types == kind].mean(0) for kind in sorted(set(types.tolist()))])
    prototypes = _length_1(prototypes) if middle else prototypes
    return (_length_1(new) if last else new) @ prototypes.T


def _by_neighbour(known, types, new):
    similarity = _length_1(new) @ _length_1(known).T
    return [[row[types == kind].max() for kind in sorted(set(types.tolist()))] for row in similarity]


def _interval(ours, theirs, spread, quantile):
    middle = np.mean(ours) - np.mean(theirs)
    return [middle, middle - quantile * spread, middle + quantile * spread]


def _usual(ours, theirs, trained, tested):
    quantile = {2: 12.7062047, 10: 2.2621572, 5: 2.7764451}[len(ours)]
    return _interval(ours, theirs, np.std(ours - theirs, ddof=1) / np.sqrt(len(ours)), quantile)


def _normal(ours, theirs, trained, tested):
    spread = np.std(ours - theirs, ddof=1) * np.sqrt(1 / len(ours) + tested / trained)
    return _interval(ours, theirs, spread, 1.96)


def _population(ours, theirs, trained, tested):
    quantile = {2: 12.7062047, 10: 2.2621572, 5: 2.7764451}[len(ours)]
    return _interval(ours, theirs, np.std(ours - theirs) * np.sqrt(1 / len(ours) + tested / trained), quantile)


def _of_all(ours, theirs, trained, tested):
    quantile = {2: 12.7062047, 10: 2.2621572, 5: 2.7764451}[len(ours)]
    share = tested / (tested + trained)
    return _interval(ours, theirs, np.std(ours - theirs, ddof=1) * np.sqrt(1 / len(ours) + share), quantile)


_TYPES = ["a"] * 90 + ["b"] * 10

WRONG = {
    "06.temperature": [
        ((0.25, 0.55, 1.0), "both vectors"),
        ((2.0, 0.55, 1.0), "smaller temperature"),
        ((0.5, 0.55, 1.0), "length 1"),
        ([0.125, 1.0, 0.55], "swapped"),
        ((0.125, 0.33, 0.33), "not pushed alike"),
        ((0.125, 0.7, 0.8), "2 × 2"),
    ],
    "06.nt_xent": [
        (lambda a, b, t: _contrast(a, b, t, lengths=False), "no cosines"),
        (lambda a, b, t: _contrast(a, b, t, own=True), "anchor itself"),
        (lambda a, b, t: _contrast(a, b, t, twin=False), "denominator"),
        (lambda a, b, t: _contrast(a, b, t, below=False), "each of the 2n"),
        (lambda a, b, t: 2 * len(a) * _contrast(a, b, t), "sum of the losses"),
        (lambda a, b, t: _contrast(a, b, 1 / t), "not multiplied"),
        (lambda a, b, t: -_contrast(a, b, t), "minus"),
        (_naive, "overflows"),
    ],
    "06.supcon": [
        (lambda v, y, t: _supcon(v, y, t, "inside"), "not inside"),
        (lambda v, y, t: _supcon(v, y, t, "sum"), "|P(i)|"),
        (lambda v, y, t: _supcon(v, y, t, "negatives"), "positives stand in it"),
        (lambda v, y, t: _supcon(v, y, t, "total"), "sum over the anchors"),
    ],
    "06.augmentation": [
        (_shuffled, "tears pits"),
        (_covered, "same pixels"),
        (_mirrored, "still be told apart"),
        (lambda image, rng: np.rot90(image), "leave it to chance"),
        (_seldom, "half of each"),
        (np.rot90(np.eye(9)), "function itself"),
        (lambda image, rng: None, "returns nothing yet"),
    ],
    "06.prototypes": [
        (lambda k, y, n: _cosines(k, y, n, first=False), "outweigh"),
        (lambda k, y, n: _cosines(k, y, n, middle=False), "shorter than 1"),
        (lambda k, y, n: _cosines(k, y, n, last=False), "new embeddings"),
        (_by_neighbour, "nearest image"),
        (lambda k, y, n: _cosines(k, y, n).T, "transpose"),
        (lambda k, y, n: _cosines(k, y, n).argmax(1), "all cosines"),
    ],
    "06.unknown": [
        ((0.12, 1.0), "learned from"),
        ((0.41, 0.625), "next defect"),
        ((0.58, 0.375), "smaller limit"),
        ((0.422, 0.625), "between two values"),
        ((0.47, 0.1), "type left out"),
        ((0.74, 0.0), "on the day"),
        ((0.3, 0.9), "sort the list"),
    ],
    "06.two_means": [
        ((_TYPES, ["a"] * 60 + ["b"] * 40, ["a"] * 100), "in macro F1"),
        ((_TYPES, ["a"] * 96 + ["b"] * 4, ["a"] * 60 + ["b"] * 40), "hardly differ"),
        ((_TYPES, ["a"] * 60 + ["b"] * 40, ["a"] * 93 + ["b"] * 7), "in balanced accuracy"),
        ((_TYPES, _TYPES, _TYPES[1:]), "length"),
        (("ab", "ab", "ba"), "cannot be tried"),
        ((["a", "b"], ["a", "a"], ["a", "b"]), "take 20 to 500"),
    ],
    "06.folds": [
        (_usual, "independent"),
        (_normal, "Student's t"),
        (_population, "ddof=1"),
        (_of_all, "number of all images"),
    ],
}
