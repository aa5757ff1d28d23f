"""What trainings, passes and metrics cost: counted operator by operator for a GPU, timed for a core of this CPU."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.manifold import TSNE
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mvtec_ad import metrics, synthetic
from mvtec_ad.backbones.trunk import trunk
from mvtec_ad.config import Options
from mvtec_ad.data.loading import load_images
from mvtec_ad.methods import anogan, items
from mvtec_ad.methods.anogan import Anogan
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.methods.padim import Padim, leave_one_out_and_fit
from mvtec_ad.methods.patchcore import greedy
from mvtec_ad.methods.segmentation import Segmentation
from mvtec_ad.synthetic.textures import draw_many


class Machine(NamedTuple):
    """What a machine delivers."""

    single: float  # FLOP a second
    double: float
    memory: float  # bytes a second
    launch: float  # seconds that an operator takes at least


# NVIDIA's data sheet: 8.1 TFLOPS in single precision, a thirty-second of it in double, 320 GB/s. Assumed: it delivers a
# quarter of that arithmetic and half of that bandwidth, Python launches an operator in 20 µs, and nothing is computed
# in half precision, in which it has 65 TFLOPS and some of the trainings do.
T4 = Machine(8.1e12 / 4, 8.1e12 / 32 / 4, 320e9 / 2, 20e-6)

# --- what something costs ---------------------------------------------------------------------------------------------

FLOPS = flop_registry | {
    torch.ops.aten.linalg_cholesky_ex: lambda a, **_: a.numel() * a.shape[-1] // 3,
    torch.ops.aten.linalg_solve_triangular: lambda a, b, **_: b.numel() * a.shape[-1],
}


class Cost(NamedTuple):
    """Operators, (FLOP, bytes, double precision) -> how many, and seconds of a CPU core that no GPU takes over."""

    operators: Counter
    host: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operators + other.operators, self.host + other.host)

    def __mul__(self, count: float) -> Cost:
        return Cost(Counter({key: n * count for key, n in self.operators.items()}), self.host * count)

    @property
    def gflop(self) -> float:
        """10⁹ FLOP."""
        return sum(n * flop for (flop, *_), n in self.operators.items()) / 1e9

    def seconds(self, machine: Machine = T4) -> float:
        """One after the other."""
        return self.host + sum(
            n * max(flop / (machine.double if double else machine.single), size / machine.memory, machine.launch)
            for (flop, size, double), n in self.operators.items()
        )


class Counting(TorchDispatchMode):
    """Counts what torch does, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            flop = FLOPS.get(func._overloadpacket, lambda *_, **__: 0)(*args, **kwargs, out_val=out)
            double = any(tensor.dtype == torch.float64 for tensor in tensors)
            self.operators[flop, sum(tensor.nbytes for tensor in tensors), double] += 1
        return out


def counted(task: Callable[[], Any], share: float = 1.0) -> Cost:
    """What a share of a task asks of a GPU."""
    with Counting() as counting:
        task()
    return Cost(counting.operators) * share


def timed(task: Callable[[], Any], share: float = 1.0) -> Cost:
    """What a share of a task takes on a CPU core, at best: others may be busy."""
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        task()
        seconds.append(time.process_time() - begun)
    return Cost(Counter(), min(seconds) * share)


def one_step(training: Callable[[int], Any]) -> Cost:
    """A step of a training that takes a number of steps, all that the package does in it."""
    one, two = (counted(partial(training, steps)).operators for steps in (1, 2))
    two.subtract(one)
    return Cost(two)


@cache
def forward(network: str, pixels: int, batch: int = 64) -> Cost:
    """An image through the trunk of a network; a network of Keras is taken for torchvision's of its name."""
    layers = trunk(network.removeprefix("keras:")).eval().requires_grad_(False).to("meta")
    return counted(lambda: layers(torch.zeros(batch, 3, pixels, pixels, device="meta")), 1 / batch)


def tuning(network: str, pixels: int, batch: int) -> Cost:
    """A step of training a trunk: three passes, for it goes forwards, and backwards to weights and to inputs."""
    return forward(network, pixels, batch) * (3 * batch)


@cache
def step(kind: type[Options], preset: str, of: str = "steps", **changes: Any) -> Cost:
    """A step of a training from scratch; `of` is the option that counts them."""
    model = replace(kind.preset(preset), **changes)
    shape = (model.batch_images, 28, 28) if kind is Dcgan else (2 * model.batch_images, model.crop, model.crop, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return one_step(lambda steps: replace(model, **{of: steps}).fit(images))


@cache
def decoder_step() -> Cost:
    """A step of the segmentation's decoder, on what the frozen encoder made of a batch."""
    model = Segmentation.preset("full")
    network = model.new_network()
    with torch.no_grad():
        features = network.encode(torch.zeros(model.batch_images, 3, model.crop, model.crop))
    return counted(lambda: network.decode(features).square().mean().backward())


@cache
def search_step(preset: str) -> Cost:
    """A step of a latent search for one image of those that are searched for together."""
    model = Anogan.preset(preset)
    networks = anogan.Networks(model.crop, model.latent, model.width, encodes=False).eval().requires_grad_(False)
    images, starts = torch.zeros(model.batch(), 3, model.crop, model.crop), torch.zeros(model.batch(), 1, model.latent)
    recipe = {"lr": model.search_lr, "feature_share": model.feature_share}
    search = partial(anogan.search, networks.averaged, networks.critic, images, starts, **recipe)
    return one_step(lambda steps: search(steps=steps)) * (1 / model.batch())


@cache
def gaussian(fitted: int, tested: int, channels: int) -> Cost:
    """PaDiM at one position: fit, leave each image out, score."""
    features = torch.randn(64, fitted, channels)
    fit = partial(leave_one_out_and_fit, features.shape, features.__getitem__, Padim().ridge)
    return counted(lambda: fit()[1].distance(torch.zeros(64, tested, channels)), 1 / 64)


@cache
def pick(points: int, dimensions: int) -> Cost:
    """One pick of the greedy coreset: its operators, and its row of the products with all points."""
    lazy = counted(lambda: greedy(torch.randn(2000, 16), 200, 0), 1 / 200)
    return lazy + comparison(points, 1, dimensions)


def comparison(patches: int, bank: int, width: int) -> Cost:
    """All patches with a whole bank."""
    return Cost(Counter({(2 * patches * bank * width, 12 * patches * bank, False): 1}))


@cache
def reading(pixels: int) -> Cost:
    """A picture of this side, decoded and resized."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        path.write_bytes(cv2.imencode(".png", synthetic.draw("capsule", 0, size=pixels).image)[1].tobytes())
        return timed(lambda: load_images([path] * 4, 224), 1 / 4)


def look(network: str, pixels: int) -> Cost:
    """An image of an artifact: read, and passed through a trunk."""
    return reading(256) + forward(network, pixels)


@cache
def texture(pixels: int) -> Cost:
    """A texture, drawn."""
    return timed(lambda: draw_many(8, pixels, workers=1, progress=False), 1 / 8)


@cache
def measuring(pixels: int) -> Cost:
    """Metrics and their intervals, a map."""
    rng, labels, masks = np.random.default_rng(0), np.arange(40) % 2, np.zeros((40, pixels, pixels), bool)
    masks[1::2, : pixels // 8, : pixels // 8] = True
    maps = rng.random(masks.shape, np.float32)
    return timed(lambda: metrics.evaluate(labels, rng.random((1, 40)), [maps], masks), 1 / 40)


@cache
def resampling() -> Cost:
    """Image AUROC in 2,000 resamples, of the scores of one seed."""
    labels, scores = np.arange(150) % 2, np.random.default_rng(0).random(150)
    weights = metrics.resample_weights(labels, 2000)
    return timed(lambda: metrics.resampled_ranking(labels, scores, weights))


@cache
def cutting(pixels: int) -> Cost:
    """A picture of a package: learn where items lie, register and cut it."""
    pictures = [synthetic.draw_package(seed, seed % 2 == 1).views["top"] for seed in range(8)]

    def cut() -> None:
        finder = items.fit_finder(pictures, progress=False)
        for picture in pictures:
            finder.cut(picture, pixels)

    return timed(cut, 1 / 8)


@cache
def neighbours(count: int = 48_000) -> Cost:
    """The distance of one pair of digits' features, and its share of a search for the third nearest of so many."""
    features = np.random.default_rng(0).random((count, 64))
    return timed(lambda: np.partition(cdist(features[:50], features), 3, 1), 1 / (50 * count))


@cache
def plane(count: int) -> Cost:
    """t-SNE of so many defects."""
    vectors = np.random.default_rng(0).random((count, 300))
    return timed(lambda: TSNE(perplexity=30, metric="cosine", init="pca", random_state=0).fit_transform(vectors))


def this_core() -> Machine:
    """What one core of this CPU delivers: a convolution, a product in double precision, a copy, tiny sums."""
    images, weights, matrix = torch.randn(8, 64, 56, 56), torch.randn(64, 64, 3, 3), torch.randn(512, 512).double()
    large, other, tiny = torch.zeros(2**24), torch.ones(2**24), torch.zeros(1)
    convolved = partial(torch.nn.functional.conv2d, images, weights, padding=1)
    single, double = (counted(task).gflop * 1e9 / timed(task).host for task in (convolved, lambda: matrix @ matrix))
    launch = timed(lambda: [tiny + tiny for _ in range(2000)], 1 / 2000).host
    return Machine(single, double, 2 * large.nbytes / timed(lambda: large.copy_(other)).host, launch)
