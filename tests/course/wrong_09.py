"""Wrong answers to lab 09, and what is said to each."""

import math

import numpy as np
from scipy.stats import norm, t

# --- pictures ---------------------------------------------------------------------------------------------------------

_PARTS = np.random.default_rng(5).random((8, 8, 8)) / 2 + 0.2


def _lamp(step, parts=_PARTS, change=0.0):
    defective = parts + step
    defective[:, 2:6, 2:6] = parts[:, 2:6, 2:6] + change
    return parts, defective


# --- intervals --------------------------------------------------------------------------------------------------------


def _variance(theta, defects, good, less=1):
    number = (defects + good) / 2 - less
    return theta * (1 - theta) * (1 + number * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / defects / good


def _wald(area, defects, good):
    reach = norm.ppf(0.975) * math.sqrt(_variance(area, defects, good))
    return area - reach, area + reach


def _wald_cut(area, defects, good):
    low, high = _wald(area, defects, good)
    return max(0, low), min(1, high)


def _solved(area, defects, good, z=1.959963984540054, less=1):
    """Both ends by halving an interval: where the estimate is no longer within z deviations."""
    ends = []
    for end in (0.0, 1.0):
        near, far = area + (end - area) * 1e-12, end
        for _ in range(100):
            middle = (near + far) / 2
            if abs(area - middle) < z * math.sqrt(_variance(middle, defects, good, less)):
                near = middle
            else:
                far = middle
        ends.append(far)
    return tuple(ends)


def _point(area, defects, good):
    return (1.0, 1.0) if area == 1 else _solved(area, defects, good)


# --- paired -----------------------------------------------------------------------------------------------------------


def _area(labels, scores, row, tie=0.5):
    total = right = 0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            weight = row[i] * row[j]
            total += weight
            right += weight * (1.0 if scores[i] > scores[j] else tie if scores[i] == scores[j] else 0.0)
    return right / total


def _areas(labels, scores, draws, tie=0.5):
    return np.array([_area(labels, scores, row, tie) for row in draws])


def _difference(labels, first, second, draws, tie=0.5, ends=(2.5, 97.5)):
    change = _areas(labels, first, draws, tie) - _areas(labels, second, draws, tie)
    even = np.ones(len(labels))
    estimate = _area(labels, first, even, tie) - _area(labels, second, even, tie)
    return estimate, *np.percentile(change, ends)


def _own_draws(labels, first, second, draws):
    change = _areas(labels, first, draws) - _areas(labels, second, draws[::-1])
    return _difference(labels, first, second, draws)[0], *np.percentile(change, [2.5, 97.5])


def _ends_subtracted(labels, first, second, draws):
    one, two = (np.percentile(_areas(labels, scores, draws), [2.5, 97.5]) for scores in (first, second))
    return _difference(labels, first, second, draws)[0], one[0] - two[1], one[1] - two[0]


# --- many comparisons -------------------------------------------------------------------------------------------------


def _no_maximum(p_values):
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    answer = [0.0] * len(p_values)
    for place, n in enumerate(order):
        answer[n] = min(1.0, p_values[n] * (len(p_values) - place))
    return answer


def _ascending(p_values):
    answer, largest = [], 0.0
    for place, p in enumerate(sorted(p_values)):
        largest = max(largest, min(1.0, p * (len(p_values) - place)))
        answer.append(largest)
    return answer


def _benjamini_hochberg(p_values):
    count = len(p_values)
    order = np.argsort(p_values)
    raised = [p_values[n] * count / (place + 1) for place, n in enumerate(order)]
    answer = np.empty(count)
    answer[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return answer


def _interval(differences, variance, quantile):
    mean = sum(differences) / len(differences)
    return mean, mean - quantile * math.sqrt(variance), mean + quantile * math.sqrt(variance)


def _usual(differences, train, test):
    count = len(differences)
    return _interval(differences, np.std(differences, ddof=1) ** 2 / count, t.ppf(0.975, count - 1))


def _upside_down(differences, train, test):
    count = len(differences)
    variance = (1 / count + train / test) * np.var(differences, ddof=1)
    return _interval(differences, variance, t.ppf(0.975, count - 1))


def _normal(differences, train, test):
    variance = (1 / len(differences) + test / train) * np.var(differences, ddof=1)
    return _interval(differences, variance, norm.ppf(0.975))


def _population(differences, train, test):
    count = len(differences)
    variance = (1 / count + test / train) * np.var(differences)
    return _interval(differences, variance, t.ppf(0.975, count - 1))


WRONG = {
    "09.museum": [
        ((20 / 83, 0.936, 0.7, 0.505), "share of good pictures"),
        ((0.759, 0.94, 0.7, 0.505), "end of the range"),
        ((0.759, 0.9, 0.7, 0.505), "mean of all seeds"),
        ((0.759, 0.936, 0.6, 0.505), "both pictures"),
        ([0.759, 0.936, 0.625, 0.505], "not parts"),
        ((0.759, 0.936, 0.7, 0.967), "need not be equal"),
        ((0.759, 0.936, 0.7, 0.8), "14 others"),
        (0.759, "four numbers"),
    ],
    "09.background": [
        (_lamp(0.002), "image AUROC of"),
        (_lamp(0.2), "differs by 0.20"),
        (_lamp(0.05, change=0.05), "the parts differ"),
        (_lamp(0.05, parts=np.full((8, 8, 8), 0.5)), "vary more"),
        (_lamp(0.05, parts=_PARTS + 0.4), "between 0 and 1"),
        (_lamp(0.05, parts=_PARTS[:3]), "6 to 40"),
    ],
    "09.min_max": [
        ((5.0, -1.5), "2 of the four defects"),
        ((6.0, 0.0), "0 of the six"),
        ((7.6, -4.0), "at most"),
        (6.0, "as a tuple"),
    ],
    "09.newcombe": [
        (_wald, "variance of the estimate"),
        (_wald_cut, "cutting"),
        (_point, "other root"),
        (lambda area, defects, good: _solved(area, defects, good, less=0), "less 1"),
        (lambda area, defects, good: _solved(area, defects, good, z=norm.ppf(0.95)), "90 %"),
        (lambda area, defects, good: _solved(area, defects, good)[::-1], "comes first"),
    ],
    "09.paired": [
        (_own_draws, "draws of its own"),
        (_ends_subtracted, "ends of two intervals"),
        (lambda labels, a, b, draws: _difference(labels, a, b, draws, tie=0.0), "one half"),
        (lambda labels, a, b, draws: _difference(labels, a, b, draws, ends=(5, 95)), "90 %"),
        (lambda labels, a, b, draws: _difference(labels, a, b, draws > 0), "as often as"),
        (lambda labels, a, b, draws: _difference(labels, b, a, draws), "sign"),
    ],
    "09.holm": [
        (lambda p: [min(1.0, value * len(p)) for value in p], "Bonferroni"),
        (_no_maximum, "running maximum"),
        (_ascending, "ascending"),
        (_benjamini_hochberg, "Benjamini"),
        (lambda p: p.tolist(), "as they came"),
    ],
    "09.corrected_t": [
        (_usual, "s / √J"),
        (_upside_down, "turned over"),
        (_normal, "1.96"),
        (_population, "ddof=1"),
        (lambda differences, train, test: _usual(differences, train, test)[1:], "shape"),
    ],
    "09.abstract": [
        ("abcfi", "best of five seeds"),
        ("abdfi", "chosen on these test pictures"),
        ("abefi", "ten comparisons"),
        ("abfgi", "hides a category"),
        ("abfhi", "0 is inside"),
        ("abf", "without a model"),
        ("afi", "two intervals overlap"),
    ],
}
