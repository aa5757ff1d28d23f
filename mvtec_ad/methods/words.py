"""Search by words: images of defects and descriptions of them in one space, as in CLIP, in three languages.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (arXiv:2103.00020), with
frozen image features and, for the words, a bag of their n-grams as in Bojanowski et al., "Enriching Word
Vectors with Subword Information", 2017 (arXiv:1607.04606). What is said of a defect: `descriptions`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import hypergeom
from torch import Tensor, nn

from mvtec_ad.artifacts import Artifact, complete, model_files, read_model
from mvtec_ad.backbones.backbone import Backbone, artifact_backbone, batch_size, load_backbone, packed_weights
from mvtec_ad.config import Options, check_seed, option, torch_device
from mvtec_ad.data.loading import batches, load_images, read_image, read_mask
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import FITTED, check_table, curve_state, load_curve, load_weights, weights_state
from mvtec_ad.methods.defect_types import unit
from mvtec_ad.methods.descriptions import box_of, distract, facts_of, plain, statements, true_of, vocabulary
from mvtec_ad.regions import region_level
from mvtec_ad.training import Run

GRAMS = (3, 4, 5)  # letters of the n-grams
BUMPS = (0.1, 0.3, 0.5, 0.7, 0.9)  # where a coordinate is told finely: Gaussians of it around these
GEOMETRY = 7 + 2 * len(BUMPS)
FLOOR = 0.05  # of the median spread, as in `defect_types`


# --- measuring --------------------------------------------------------------------------------------------------------


def retrieval(similarity: np.ndarray, relevant: np.ndarray, k: int = 5) -> dict[str, float]:
    """Recall at k and the rank of the first right image, beside chance, over queries that have a right one.

    Args:
        similarity: (Q, N), higher is nearer.
        relevant: (Q, N) bool.
        k: images that are looked at.

    Returns:
        `recall` (of the right images the share among the first k, of k where there are more), `hit` (share of queries
        with a right image among the first k), `median_rank` of the first right one; `chance_recall`, `chance_hit` and
        `chance_rank` of a random order (hypergeometric: exact); `queries`.

    Examples:
        >>> retrieval(np.array([[0.9, 0.1, 0.5, 0.2]]), np.array([[True, False, False, False]]), k=1)["recall"]
        1.0
    """
    asked = relevant.any(1)
    if not asked.any():
        raise DataError("no query is true of any image: there is nothing to be found")
    similarity, relevant = similarity[asked], relevant[asked]
    images, right = relevant.shape[1], relevant.sum(1)
    order = np.argsort(-similarity, axis=1, kind="stable")
    ordered = np.take_along_axis(relevant, order, 1)
    hits, most = ordered[:, :k].sum(1), np.minimum(right, k)
    ranks = np.arange(images + 1)
    within = 1 - hypergeom.pmf(0, images, right[:, None], ranks).mean(0)  # a right one among the first r, by chance
    return {
        "recall": float((hits / most).mean()),
        "chance_recall": float((min(k, images) * right / images / most).mean()),
        "hit": float((hits > 0).mean()),
        "chance_hit": float(within[min(k, images)]),
        "median_rank": float(np.median(ordered.argmax(1) + 1)),
        "chance_rank": float(ranks[np.argmax(within >= 0.5)]),
        "queries": int(asked.sum()),
    }


# --- loss and networks ------------------------------------------------------------------------------------------------


def info_nce(images: Tensor, texts: Tensor, temperature: Tensor | float, true: Tensor | None = None) -> Tensor:
    """InfoNCE both ways, as in CLIP: each image must find its words among all, and all words their image.

    With z on the unit sphere and s = z_image · z_text / τ, the loss is the mean of two cross-entropies: of the softmax
    over each row of s, and over each column. Where words are true of several images of the batch, the right answer is
    shared evenly among these; without `true` each has its partner alone (Radford et al. 2021, figure 3).

    Args:
        images, texts: (N, d) of any length.
        temperature: τ.
        true: (N, N) bool, image by text; the diagonal where it is not given.

    Examples:
        >>> info_nce(torch.eye(2), torch.eye(2), 1.0)  # log(1 + 1/e)
        tensor(0.3133)
    """
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / temperature
    true = torch.eye(len(images), device=images.device) if true is None else true.to(similarity)
    of_images = F.cross_entropy(similarity, true / true.sum(1, keepdim=True))
    of_texts = F.cross_entropy(similarity.T, true.T / true.T.sum(1, keepdim=True))
    return (of_images + of_texts) / 2


def grams_of(word: str) -> tuple[str, ...]:
    """The word between its ends, and its n-grams: words that share a stem share most of these.

    Examples:
        >>> grams_of("dent")
        ('<de', '<den', '<dent', '<dent>', 'den', 'dent', 'dent>', 'ent', 'ent>', 'nt>')
    """
    framed = f"<{word}>"
    return tuple(sorted({framed} | {framed[start : start + n] for n in GRAMS for start in range(len(framed) - n + 1)}))


class Pair(nn.Module):
    """Two encoders into one space, and the temperature between them.

    Attributes:
        rows: n-gram -> its row of `table`; those that no training sentence had are not there, and say nothing.
        table: vectors of n-grams. A text is the direction of their sum, so that a gram counts by its length.
        text: what is learned on it.
        image: what is learned on frozen features.
        log_temperature: log τ.
        mean, scale: of the frozen features of the training images.
        region: how many of these, the last ones, tell of the region; NaN where none is known.
    """

    def __init__(self, grams: Sequence[str], features: int, region: int, options: Words) -> None:
        super().__init__()
        hidden, size, drop = options.hidden, options.embedding, options.dropout
        self.rows = {gram: row for row, gram in enumerate(grams)}
        self.looked_up: dict[str, list[int]] = {}  # word -> rows of its n-grams
        self.table = nn.EmbeddingBag(len(grams), options.width, mode="sum")
        nn.init.normal_(self.table.weight, std=0.1)
        self.text = nn.Sequential(nn.Linear(options.width, hidden), nn.ReLU(), nn.Linear(hidden, size))
        layers = (nn.Dropout(drop), nn.Linear(features, 2 * hidden), nn.ReLU(), nn.Dropout(drop))
        self.image = nn.Sequential(*layers, nn.Linear(2 * hidden, size))
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(0.07))))
        self.region = region
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    @torch.no_grad()
    def measure(self, features: Tensor) -> Pair:
        """Set `mean` and `scale` from those of (N, D) training images whose region is known."""
        self.mean.copy_(features.mean(0))
        spread = features.std(0)
        self.scale.copy_(spread.clamp(min=float(FLOOR * spread.median()) or 1.0))
        return self

    def known(self, text: str) -> list[int]:
        """Rows of the known n-grams of a text, one for each time that it occurs."""
        rows = []
        for word in plain(text):
            if word not in self.looked_up:
                self.looked_up[word] = [self.rows[gram] for gram in grams_of(word) if gram in self.rows]
            rows += self.looked_up[word]
        return rows

    def texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, d), of any length."""
        known, device = [self.known(text) for text in texts], self.table.weight.device
        flat = torch.tensor([row for rows in known for row in rows], dtype=torch.int64, device=device)
        starts = torch.tensor(np.cumsum([0, *map(len, known)])[:-1], device=device)
        directions = F.normalize(self.table(flat, starts), dim=1)
        return self.text(directions * directions.shape[1] ** 0.5)  # of unit spread

    def images(self, features: Tensor) -> Tensor:
        """(N, D) frozen features -> (N, d), of any length; what is not known of an image counts as the mean."""
        return self.image(((features - self.mean) / self.scale).nan_to_num())

    def hide(self, features: Tensor, which: np.ndarray) -> Tensor:
        """(N, D) features, of some images without the region."""
        features = features.clone()
        features[torch.from_numpy(which), -self.region :] = torch.nan
        return features


# --- the method -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Described:
    """Defects, what is known of each, and what the frozen network sees of it.

    Attributes:
        table: their rows, N of them.
        facts: N of `facts_of`.
        features: (N, K, D) float32, of the image unchanged, then of copies whose window was rotated and recoloured.
    """

    table: pd.DataFrame
    facts: list[dict[str, str]]
    features: np.ndarray


@dataclass
class Words(Options):
    """Images of defects and descriptions of them in one space, by InfoNCE on frozen image features.

    Of an image the features are averaged over all of it, inside its region and around that; the place and size of the
    region are given as numbers, for averages tell neither. The region is the mask, or what stands out of an anomaly
    map. Where none is known the whole image is all that is seen: a share of the training images is shown so.

    Attributes:
        seed: of the fit; None before it.
        network: the trained `Pair`, in evaluation mode.
        curve: of the training, columns step and loss.

    Examples:
        >>> words = Words(weights="random", image_size=64)
        >>> words.widths  # layers 2 and 3 have 40 and 112 channels
        (152, 321)
    """

    backbone: str = option("efficientnet_lite0", "efficientnet_lite0, resnet18, …, keras:NAME or timm:NAME")
    weights: str = option("imagenet", "imagenet, random, synthetic or the path of a weights file")
    image_size: int = option(192, "side that images are resized to, pixels", least=32, most=4096)
    copies: int = option(1, "of each training image, the region grown at random, as maps have it", least=0, most=100)
    growth: float = option(0.06, "by which it grows at most, as a share of the picture", least=0, most=0.5)
    blind: float = option(0.2, "share of training images whose region is not shown", least=0, most=1)
    distraction: float = option(
        0.3, "share of training sentences with words that mean nothing among theirs", least=0, most=1
    )
    width: int = option(64, "numbers that stand for an n-gram", least=2, most=4096)
    hidden: int = option(128, "width of the hidden layer of the texts, half of that of the images", least=2, most=4096)
    embedding: int = option(64, "numbers of the common space", least=2, most=4096)
    dropout: float = option(0.2, "of the image's layers", least=0, below=1)
    steps: int = option(800, "training steps", least=1, most=1_000_000)
    batch: int = option(128, "images and descriptions a step", least=2, most=100_000)
    lr: float = option(2e-3, "learning rate", above=0, most=1)

    name: ClassVar = "words"
    PRESETS: ClassVar = {"default": {}, "quick": {"steps": 300, "batch": 96}, "full": {}}
    seed: int | None = field(default=None, init=False, compare=False)
    curve: pd.DataFrame = field(default_factory=pd.DataFrame, **FITTED)

    # --- images -------------------------------------------------------------------------------------------------------

    @cached_property
    def extractor(self) -> Backbone:
        """The frozen network, loaded when first needed."""
        return load_backbone(self.backbone, self.weights)

    def use_backbone(self, backbone: Backbone) -> None:
        """Take a frozen network that is already loaded, as from an artifact."""
        self.extractor = backbone

    @cached_property
    def widths(self) -> tuple[int, int]:
        """Features of the whole, and of the region."""
        channels = sum(layer.shape[-1] for layer in self.extractor(np.zeros((1, 64, 64, 3), np.uint8))[1:])
        return channels, 2 * channels + GEOMETRY

    def look_at(
        self, paths: Sequence[str | Path], masks: Sequence[np.ndarray | None], copies: int = 0, seed: int = 0
    ) -> np.ndarray:
        """Frozen features of images: of the whole, inside the region, around it, and its geometry.

        Args:
            paths: N images.
            masks: N regions, (H, W) bool of any size, or None where it is not known: its features are NaN then.
            copies: of each image, with a region that was grown at random.
            seed: of these.

        Returns:
            (N, 1 + copies, D) float32.
        """
        rows = []
        for part in batches(len(paths), batch_size()):
            images = load_images(paths[part], self.image_size)
            layers = [layer.numpy(force=True) for layer in self.extractor(images)[1:]]
            for number in range(part.start, part.start + len(images)):
                deep = [layer[number - part.start] for layer in layers]
                mask = None if masks[number] is None else shrunk(masks[number], self.image_size)
                whole = np.concatenate([layer.mean((0, 1)) for layer in deep])
                views, rng = [mask] * (1 + copies), np.random.default_rng([seed, number])
                if mask is not None:
                    views[1:] = [grown(mask, rng.uniform(0, self.growth)) for _ in range(copies)]
                rows.append([np.concatenate([whole, self.region(deep, view)]) for view in views])
        return np.array(rows, np.float32)

    def region(self, layers: Sequence[np.ndarray], mask: np.ndarray | None) -> np.ndarray:
        """Features of a region, from layers (h, w, C): means inside and around it, then its geometry."""
        if mask is None:
            return np.full(self.widths[1], np.nan)
        inside, around = mask.astype(np.float32), (grown(mask, 1 / 16) & ~mask).astype(np.float32)
        means = []
        for where in (inside, around):
            for layer in layers:
                weights = cv2.resize(where, layer.shape[1::-1], interpolation=cv2.INTER_AREA) + 1e-9
                means.append(np.tensordot(weights / weights.sum(), layer, 2))
        return np.concatenate([*means, geometry(mask)])

    def gather(self, table: pd.DataFrame, *, copies: int = 0, seed: int = 0) -> Described:
        """The defects of a table that have a mask, described and seen.

        Raises:
            DataError: a column is missing, or there is no defect with a mask.
        """
        check_table(table, "category", "defect", "label", "image_path", "mask_path")
        rows = table[(table["label"] == 1) & (table["mask_path"].fillna("") != "")].reset_index(drop=True)
        if not len(rows):
            raise DataError("no defect has a mask: descriptions are made from masks, give images that have some")
        masks = [read_mask(*pair) for pair in zip(rows["mask_path"], rows["image_path"], strict=True)]
        severities = rows["severity"] if "severity" in rows else [None] * len(rows)
        facts = []
        for row, mask, severity in zip(rows.itertuples(), masks, severities, strict=True):
            facts.append(facts_of(read_image(row.image_path), mask, row.category, row.defect, severity))
        return Described(rows, facts, self.look_at(list(rows["image_path"]), masks, copies, seed))

    # --- training -----------------------------------------------------------------------------------------------------

    def fit(self, described: Described, rows: np.ndarray | None = None, seed: int = 0, **more: Any) -> Words:
        """Learn the common space from some of the gathered defects, all by default.

        Raises:
            DataError: there are fewer than two defects, or all are of one type.
        """
        check_seed(seed)
        rows = np.arange(len(described.facts)) if rows is None else np.asarray(rows)
        if len({described.facts[row]["type"] for row in rows}) < 2:
            raise DataError(f"{len(rows)} defects of one type are too few to learn words from: give two types or more")
        self.seed = int(seed)
        features = torch.from_numpy(described.features[rows])
        words = vocabulary(described.facts)
        grams = sorted({gram for word in words for gram in grams_of(word)})
        self.check_width(features.shape[-1])
        torch.manual_seed(seed)
        self.network = self.new_network(grams).measure(features.flatten(0, 1))
        recipe = {"lr": self.lr, "steps": self.steps, "seed": seed, "weight_decay": 1e-2, "description": self.name}
        with Run(self.network, **recipe, **more) as run:
            for step in run:
                rng = run.rng(step)
                chosen = rng.permutation(len(rows))[: self.batch]
                facts = [described.facts[row] for row in rows[chosen]]
                stated, texts = statements(facts, rng)
                texts = [distract(text, words, rng) if rng.random() < self.distraction else text for text in texts]
                true = torch.from_numpy(true_of(stated, facts).T)  # image by text
                seen = features[chosen, rng.integers(features.shape[1], size=len(chosen))]
                seen = self.network.hide(seen, rng.random(len(chosen)) < self.blind).to(torch_device())
                pair = self.network.images(seen), self.network.texts(texts)
                run.minimise(info_nce(*pair, self.network.log_temperature.exp(), true))
        self.curve = run.curve()
        self.network.eval()
        return self

    def check_width(self, width: int) -> None:
        """Refuse, with a SettingsError, features of another network."""
        if width != sum(self.widths):
            raise SettingsError(
                f"features have {width} numbers, {self.backbone} gives {sum(self.widths)}: gather again"
            )

    def new_network(self, grams: Sequence[str]) -> Pair:
        """Untrained, on the device."""
        return Pair(grams, sum(self.widths), self.widths[1], self).to(torch_device())

    # --- search -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, features: np.ndarray) -> np.ndarray:
        """Of `look_at`, (N, D) or (N, K, D), of which the unchanged one counts -> (N, d) float32 of length 1."""
        self.check_fitted()
        features = features[:, 0] if features.ndim == 3 else features
        return unit(self.network.images(torch.from_numpy(features).to(torch_device())).numpy(force=True))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """N texts -> (N, d) float32 of length 1; a text without a known word is a DataError."""
        self.check_fitted()
        for text in texts:
            if not self.network.known(text):
                raise DataError(f"query {text!r} has no word that is known: say what is seen, as a scratch on the head")
        return unit(self.network.texts(texts).numpy(force=True))

    def like(self, images: np.ndarray, text: str, weight: float = 0.7) -> np.ndarray:
        """Vectors of images, (N, d), moved towards a text, "small" for example: queries (N, d) of length 1.

        The weight was chosen on drawn bottles and screws; a word alone moves further than a sentence with the type.
        """
        return unit(images + weight * self.embed_texts([text]))

    def check_fitted(self) -> None:
        """Refuse, with a SettingsError, what has learned nothing."""
        if self.seed is None:
            raise SettingsError(f"this {self.name} is not fitted: call fit(described) first")

    def state(self) -> dict[str, Any]:
        """The weights of both encoders, and the curve."""
        more = {"grams": list(self.network.rows), "seed": self.seed}
        return {**weights_state(self.network, "network"), **curve_state(self.curve), **more}

    def load_state(self, state: dict[str, Any]) -> Words:
        """The inverse of `state`."""
        self.network = load_weights(self.new_network(state["grams"]), state, "network")
        self.curve, self.seed = load_curve(state, "step", "loss"), int(state["seed"])
        return self

    def weights_files(self) -> dict[str, bytes]:
        """Of the frozen network, where they came from a file."""
        return packed_weights(self.weights)

    @property
    def backbone_name(self) -> str:
        """For manifests."""
        return self.extractor.name

    @property
    def weights_name(self) -> str:
        """For manifests."""
        return self.extractor.weights


def shrunk(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask, (H, W) bool, as a square of this side; what is smaller than a pixel of it stays."""
    shares = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return shares > min(0.25, shares.max() / 2)


def grown(mask: np.ndarray, share: float) -> np.ndarray:
    """A mask, (H, W) bool, that reaches further on all sides by a share of the picture's longer one."""
    reach = 2 * round(share * max(mask.shape)) + 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return cv2.dilate(mask.astype(np.uint8), ellipse).astype(bool)


def geometry(mask: np.ndarray) -> np.ndarray:
    """Place and size of a region, (17,): centre, width, height, logarithms of area, width and height, and the centre
    by Gaussians of width 0.12 around `BUMPS`, column first: a straight line cannot tell the middle from both ends."""
    box, area = box_of(mask)
    bumps = np.exp(-(((box[:2, None] - np.array(BUMPS)) / 0.12) ** 2) / 2)
    return np.concatenate([box, np.log([area, *box[2:]]), bumps.ravel()])


def region_of(anomaly_map: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """The connected region of an anomaly map around its peak, above `regions.region_level`: (H, W) bool.

    Examples:
        >>> region_of(np.array([[0.0, 1.0, 0.0, 0.9], [0.0, 4.0, 3.0, 0.0]])).astype(int)
        array([[0, 0, 0, 0],
               [0, 1, 1, 0]])
    """
    above = (anomaly_map > region_level(anomaly_map, threshold)).astype(np.uint8)
    _, labels = cv2.connectedComponents(above, connectivity=8)
    return labels == labels.ravel()[np.argmax(anomaly_map)]


def files(words: Words, category: str = "all") -> dict[str, Any]:
    """What `artifacts.save` needs to keep a fitted one; a cosine of −1, below which nothing lies, is its threshold."""
    return model_files(words, category, {"value": -1.0, "false_alarm_rate": 1.0})


def load(artifact: Artifact | str | Path, category: str | None = None, seed: int | None = None) -> Words:
    """A fitted one from an artifact; arguments and errors as `methods.load_model`."""
    artifact, description, state = read_model(artifact, method=Words.name, category=category, seed=seed)
    with complete(artifact):
        words = Words.from_options(description["options"])
        words.use_backbone(artifact_backbone(artifact, description, words.weights))
        return words.load_state(state)


def for_page(words: Words, vectors: np.ndarray) -> dict[str, Any]:
    """What `templates/words.js` needs to search N images, (N, d) of `embed_images`, as plain JSON data.

    The table of n-grams is rounded to whole numbers of 8 bits, the layers are as they are; half a megabyte in all.
    """

    def text(array: Any) -> str:
        return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

    network = words.network
    table = network.table.weight.numpy(force=True)
    largest = float(np.abs(table).max())
    layers = [network.text[0].weight, network.text[0].bias, network.text[2].weight, network.text[2].bias]
    return {
        "grams": list(network.rows),
        "table": text((table / largest * 127).round().astype(np.int8)),
        "largest": largest,
        "width": table.shape[1],
        "layers": [text(layer.numpy(force=True).astype("<f4")) for layer in layers],
        "vectors": text(vectors.astype("<f4")),
        "size": vectors.shape[1],
    }
