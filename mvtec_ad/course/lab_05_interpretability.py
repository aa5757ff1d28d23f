"""Lab 05, attribution maps and what they prove: the checks of its exercises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import trapezoid
from scipy.special import expit

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say

_random = np.random.default_rng(5)

Gradient = Callable[[np.ndarray], np.ndarray]
Answer = Callable[[np.ndarray], float]

# --- integrated gradients ---------------------------------------------------------------------------------------------

predict(
    "05.saturated",
    (0.0, 1.0),
    [
        ((0.0, 0.0), say("beyond 1 the slope is 0, but the path from 0 to 2 passes where it is 1")),
        ((1.0, 1.0), say("at x = 2 a small change of x changes nothing")),
        ((0.0, 2.0), say("the slope is 1 on half of the path only")),
        ((0.0, 0.5), say("0.5 is the mean slope: multiply it by x − x′")),
        ((1.0, 0.0), say("the other way round: first the slope at x = 2")),
    ],
    say("draw f: where on the path from 0 to 2 is its slope 1, and where 0?"),
)


def _integrated(gradient: Gradient, x: np.ndarray, baseline: np.ndarray, steps: int, variant: str = "") -> np.ndarray:
    offset = {"left": 0.0, "right": 1.0}.get(variant, 0.5)
    start = 0 * baseline if variant == "from zero" else baseline
    total = np.zeros(len(x))
    for k in range(steps):
        total += gradient(start + (k + offset) / steps * (x - start))
    if variant == "only here":
        total = steps * gradient(x)
    factor = {"slopes": 1.0, "times x": x}.get(variant, x - start)
    return factor * total / (1 if variant == "sum" else steps)


_a, _b = _random.normal(size=4), _random.normal(size=4)
_mix = _random.normal(size=(4, 4))

implement(
    "05.integrated",
    _integrated,
    [
        (lambda x: np.array([x[1], x[0]]), np.array([0.8, 0.5]), np.zeros(2), 4),  # of the product: 0.2 and 0.2
        (lambda x: 3 * x**2, np.array([1.0, -2.0, 0.5, 0.0]), np.array([0.5, 0.5, 0.5, 0.5]), 5),
        (lambda x: expit(x @ _mix) @ _mix.T, _a, _b, 10),
    ],
    [
        (
            lambda g, x, b, n: _integrated(g, x, b, n, "left"),
            say("these are the left ends, (k − 1)/m: take the middles"),
        ),
        (lambda g, x, b, n: _integrated(g, x, b, n, "right"), say("these are the right ends, k/m: take the middles")),
        (lambda g, x, b, n: _integrated(g, x, b, n, "slopes"), say("the mean slope has to be multiplied by x − x′")),
        (
            lambda g, x, b, n: _integrated(g, x, b, n, "times x"),
            say("multiply by x − x′, not by x: the baseline counts"),
        ),
        (lambda g, x, b, n: _integrated(g, x, b, n, "from zero"), say("the path begins at the baseline, not at 0")),
        (
            lambda g, x, b, n: _integrated(g, x, b, n, "only here"),
            say("this is the slope at x alone, without the path"),
        ),
        (lambda g, x, b, n: _integrated(g, x, b, n, "sum"), say("this is the sum over the steps: take the mean")),
    ],
)


def _completeness(answer: tuple[float, float]) -> Message | None:
    steepness, middle = (float(value) for value in answer)
    if not (steepness > 0 and 0 <= middle <= 1):
        return say("give a steepness above 0, and a place between 0 and 1")
    rise = float(expit(steepness * (1 - middle)) - expit(-steepness * middle))
    if rise < 0.5:
        return say("f rises by only {rise:.2f} from 0 to 1: make it steeper, or move it to the middle", rise=rise)
    p = expit(steepness * ((np.arange(8) + 0.5) / 8 - middle))
    error = abs(float((steepness * p * (1 - p)).mean()) - rise) / rise
    if error < 0.5:
        return say("8 steps are off by {error:.0%}: let f rise where none of the 8 places looks", error=error)
    return None


breaks("05.completeness", _completeness)

predict(
    "05.baseline",
    (0.0, 0.8, 2.0),
    [
        ((0.0, -0.8, -2.0), say("the slope is −1 and x − x′ is negative: what is their product?")),
        ((0.0, 0.4, 1.0), say("this is one pixel: the stain has two")),
        ((0.0, 0.0, 0.0), say("a black pixel is not without effect: x − x′ counts, not x")),
        ((2.0, 0.8, 0.0), say("the other way round: a black stain on a black baseline is no difference")),
    ],
    say("each pixel gets (x − x′) · slope: compute it for x′ = 0, 0.4 and 1"),
)

# --- Grad-CAM ---------------------------------------------------------------------------------------------------------


def _grad_cam(features: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    return np.maximum(np.tensordot(slopes.reshape(len(slopes), -1).mean(1), features, 1), 0)


def _weighted(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.maximum((weights[:, None, None] * features).sum(0), 0)


_features, _slopes = _random.normal(size=(2, 4, 3, 3))

implement(
    "05.grad_cam",
    _grad_cam,
    [
        (np.array([[[1.0, 4.0]], [[2.0, 0.0]]]), np.array([[[3.0, -1.0]], [[-1.0, -1.0]]])),  # weights 1, −1: (0, 4)
        (_features, _slopes),
    ],
    [
        (
            lambda a, s: np.maximum((a * s).sum(0), 0),
            say("this is HiResCAM: Grad-CAM takes the mean of each channel's slopes first"),
        ),
        (lambda a, s: np.tensordot(s.mean((1, 2)), a, 1), say("the ReLU is missing: negative values become 0")),
        (
            lambda a, s: np.maximum(s.mean((1, 2))[:, None, None] * a, 0).sum(0),
            say("the ReLU comes after the sum over the channels, not before"),
        ),
        (lambda a, s: _weighted(a, s.sum((1, 2))), say("the weight is the mean of the slopes, not their sum")),
        (
            lambda a, s: _weighted(a, np.maximum(s.mean((1, 2)), 0)),
            say("the weights keep their sign: channels may speak against the answer"),
        ),
        (lambda a, s: _weighted(a, a.mean((1, 2))), say("the weights come from the slopes, not from the features")),
    ],
)


def _lost(answer: tuple[np.ndarray, np.ndarray]) -> Message | None:
    features, slopes = (np.asarray(part, float) for part in answer)
    if features.ndim != 3 or features.shape != slopes.shape:
        return say("give features and slopes of one shape: channels × height × width")
    cam, contributions = _grad_cam(features, slopes), (features * slopes).sum(0)
    if cam.max() <= 0:
        return say("Grad-CAM is zero everywhere: it has no brightest cell")
    brightest = np.unravel_index(cam.argmax(), cam.shape)
    if contributions[brightest] >= 0:
        value = float(contributions[brightest])
        return say("the brightest cell contributes {value:+.2f}: its own slopes must be against it", value=value)
    if contributions.sum() <= 0:
        return say("all cells together are {total:+.2f}: keep the answer positive", total=float(contributions.sum()))
    return None


breaks("05.lost", _lost)

# --- SmoothGrad and occlusion -----------------------------------------------------------------------------------------


def _smooth_grad(gradient: Gradient, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.abs(sum(gradient(image + each) for each in noise)) / len(noise)


_image, _noise = _random.normal(size=(3, 3)), _random.normal(size=(6, 3, 3))

implement(
    "05.smooth_grad",
    _smooth_grad,
    [
        (np.sign, np.array([[0.1, -3.0]]), np.array([[[1.0, 1.0]], [[-1.0, -1.0]]])),  # 0 and 1
        (lambda x: 3 * x**2 - x[::-1], _image, _noise),
    ],
    [
        (
            lambda g, x, e: np.mean([np.abs(g(x + each)) for each in e], 0),
            say("the sign is dropped before the mean: the gradients of the copies may cancel"),
        ),
        (lambda g, x, e: np.mean([g(x + each) for each in e], 0), say("the sign of the mean is dropped at the end")),
        (lambda g, x, e: np.abs(g(x)), say("this is the plain gradient: the noise is not used")),
        (lambda g, x, e: np.abs(g(x + e.mean(0))), say("the mean is taken over gradients, not over noise")),
        (lambda g, x, e: len(e) * _smooth_grad(g, x, e), say("this is the sum over the copies: take their mean")),
    ],
)


def _occlusion(f: Answer, image: np.ndarray, baseline: float, window: int, variant: str = "") -> np.ndarray:
    fall, count = np.zeros(image.shape), np.zeros(image.shape)
    covered = image.copy()
    for top, left in np.ndindex(image.shape[0] - window + 1, image.shape[1] - window + 1):
        if variant != "never uncovered":
            covered = image.copy()
        area = slice(top, top + window), slice(left, left + window)
        covered[area] = baseline
        fall[area] += f(image) - f(covered)
        count[area] += 1
    return fall if variant == "sum" else fall / count


_weights = _random.normal(size=(5, 4))


def _bright(x: np.ndarray) -> float:
    return float(np.tanh(_weights * x).sum() + x[2, 2] * x[0, 1])


_picture = _random.uniform(size=(5, 4))

implement(
    "05.occlusion",
    _occlusion,
    [
        (np.sum, np.array([[1.0, 2.0], [3.0, 5.0]]), 0.0, 1),  # the image itself
        (_bright, _picture, 0.5, 2),
        (_bright, _picture, 0.25, 3),
    ],
    [
        (lambda f, x, b, w: _occlusion(f, x, b, w, "sum"), say("divide by the number of windows that cover a pixel")),
        (lambda f, x, b, w: -_occlusion(f, x, b, w), say("the sign: how far the answer *falls*, f(x) − f(covered)")),
        (lambda f, x, b, w: _occlusion(f, x, 0.0, w), say("the window is covered with the baseline, not with 0")),
        (
            lambda f, x, b, w: _occlusion(f, x, b, w, "never uncovered"),
            say("each window covers a fresh copy: earlier windows must be uncovered again"),
        ),
    ],
)

# --- do maps point at the damage, and does it matter? -----------------------------------------------------------------


def _pointing(maps: np.ndarray, regions: np.ndarray) -> tuple[float, float, float]:
    hits = [region.ravel()[each.ravel().argmax()] for each, region in zip(maps, regions, strict=True)]
    share, covered = float(np.mean(hits)), float(np.mean(regions))
    return share, covered, share - covered


def _pointing_with(maps: np.ndarray, regions: np.ndarray, hits: np.ndarray) -> tuple[float, float, float]:
    covered = float(np.mean(regions))
    return float(np.mean(hits)), covered, float(np.mean(hits)) - covered


_maps = _random.normal(size=(6, 4, 5))
_regions = np.zeros((6, 4, 5), bool)
for _region, _map in zip(_regions[:4], _maps, strict=False):
    _row, _column = np.unravel_index(_map.argmax(), _map.shape)
    _region[_row : _row + 2, max(0, _column - 1) : _column + 1] = True
_regions[4:, :2, :2] = _maps[4:, :2, :2] < _maps[4:].max((1, 2), keepdims=True)

implement(
    "05.pointing",
    _pointing,
    [
        (  # one hit of two, and a region of 1/4 of each image
            np.array([[[3.0, 1.0], [0.0, 2.0]], [[3.0, 1.0], [0.0, 2.0]]]),
            np.array([[[True, False], [False, False]], [[False, False], [False, True]]]),
        ),
        (_maps, _regions),
    ],
    [
        (
            lambda m, r: _pointing_with(m, r, (r & (m > 0)).any((1, 2))),
            say("a hit is the *largest* value in the region, not any positive one"),
        ),
        (
            lambda m, r: (_pointing(m, r)[0], _pointing(m, r)[1], _pointing(m, r)[0] / _pointing(m, r)[1]),
            say("the gain is the difference of hits and covered, not their ratio"),
        ),
        (
            lambda m, r: _pointing_with(m, r, r.reshape(len(r), -1)[:, np.argmax(m.mean(0))]),
            say("each map has a largest value of its own: do not average the maps"),
        ),
        (
            lambda m, r: _pointing_with(m, r, (m * r).sum((1, 2)) / m.sum((1, 2))),
            say("this is the share of energy in the region: the pointing game looks at one pixel"),
        ),
        (
            lambda m, r: (_pointing(m, r)[0], r.any(0).mean(), _pointing(m, r)[0] - r.any(0).mean()),
            say("covered is the mean share of an image, not of all regions laid over each other"),
        ),
    ],
)


def _deletion(f: Answer, image: np.ndarray, evidence: np.ndarray, baseline: float, variant: str = "") -> float:
    order = np.argsort(evidence.ravel() if variant == "lowest" else -evidence.ravel(), kind="stable")
    values = [f(image)]
    for count in range(1, len(order) + 1):
        copy = image.ravel().copy()
        copy[order[count - 1 : count] if variant == "alone" else order[:count]] = baseline
        values.append(f(copy.reshape(image.shape)))
    if variant == "mean":
        return float(np.mean(values))
    if variant == "without start":
        return float(trapezoid(values[1:], np.linspace(0, 1, len(values) - 1)))
    return float(trapezoid(values, np.linspace(0, 1, len(values))))


def _probability(x: np.ndarray) -> float:
    return float(expit(_weights[: x.shape[0], : x.shape[1]].ravel() @ x.ravel() * 3 + x[0, 0] * x[-1, -1]))


implement(
    "05.deletion",
    _deletion,
    [
        (np.mean, np.array([[1.0, 0.0]]), np.array([[2.0, 1.0]]), 0.0),  # values 1/2, 0, 0: area 1/8
        (_probability, _picture, _random.normal(size=(5, 4)), 0.5),
        (_probability, _picture[:3], _random.normal(size=(3, 4)), 0.2),
    ],
    [
        (
            lambda f, x, e, b: _deletion(f, x, e, b, "lowest"),
            say("the pixel with the largest value is deleted first, not the one with the smallest"),
        ),
        (
            lambda f, x, e, b: _deletion(f, x, e, b, "alone"),
            say("a deleted pixel stays deleted when the next one goes"),
        ),
        (lambda f, x, e, b: _deletion(f, x, e, 0.0), say("a deleted pixel becomes the baseline, not 0")),
        (lambda f, x, e, b: _deletion(f, x, e, b, "mean"), say("the area is that of trapezoids: both ends count half")),
        (
            lambda f, x, e, b: _deletion(f, x, e, b, "without start"),
            say("the curve begins with the whole image, before anything is deleted"),
        ),
    ],
)

predict(
    "05.ends",
    tuple(expit(np.array([-1.0, 2.0])).tolist()),
    [
        ((-1.0, 2.0), say("these are logits: turn them into probabilities")),
        ((expit(-1.0), 0.0), say("nothing left is not a probability of 0: the network answers for the baseline, too")),
        ((expit(-1.0), 0.5), say("a baseline is neutral only where its logit is 0: read the logit")),
        ((expit(2.0), expit(-1.0)), say("the curve of deletion begins with the whole image")),
    ],
    say("σ of both logits: first that of the image, then that of the baseline"),
    tolerance=3e-3,
)

choose(
    "05.evidence",
    "abf",
    {
        "a": say("at each stage its interval ends below one half"),
        "b": say("its map is the same whatever the network is"),
        "c": say("at the first stage its interval holds one half: over all stages it is undecided"),
        "d": say("the check is necessary, not sufficient: noise changes with anything"),
        "e": say("following the weights says nothing about where the damage is"),
        "f": say("its interval lies above zero, and the sentence names the network and the view"),
        "g": say("there is a map for each answer: a map is no evidence that the verdict is right"),
    },
)
