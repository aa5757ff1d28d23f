"""Defect types by contrastive learning: SimCLR and SupCon embeddings, nearest prototypes, "unknown".

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", 2020
(arXiv:2002.05709); Khosla et al., "Supervised Contrastive Learning", 2020 (arXiv:2004.11362); Snell, Swersky, Zemel,
"Prototypical Networks for Few-shot Learning", 2017 (arXiv:1703.05175). How well it works: `benchmark.defect_types`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mvtec_ad.artifacts import Artifact, complete, model_files, read_model
from mvtec_ad.augment import crop, recolor, standardise, windows_at
from mvtec_ad.backbones.backbone import LITE, RESIDUAL
from mvtec_ad.backbones.trunk import load_trunk, outputs, seeded, trunk
from mvtec_ad.config import Options, check_seed, option, torch_device
from mvtec_ad.data.loading import batches, load_images, read_mask
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import (
    FITTED,
    as_tensor,
    check_table,
    curve_state,
    load_curve,
    load_weights,
    weights_state,
)
from mvtec_ad.training import Run, checkpoint_path

UNKNOWN = "unknown"
OBJECTIVES, LOOKS = ("supcon", "simclr"), ("whole", "predicted", "mask")
BACKBONES = (*LITE, *RESIDUAL)  # their layers have the names below
TRAINED = ("layer3", "layer2", "layer1", "all")
TAPPED = ("layer2", "layer3")  # the embedding is pooled from these
HIDDEN = 256  # width of the projection head
HEAD = 10.0  # times the learning rate: the head is new, and the layers below it are not
MEASURED = 4  # copies of each image that give the embedding its units
FLOOR = 0.3  # of the median spread: a feature that hardly varies among these images may vary wildly in others
# options that the output of the frozen layers rests on
FROZEN_OPTIONS = ("backbone", "weights", "trained", "look", "roi_size", "focus", "image_size", "copies")
FROZEN_OPTIONS += ("rotation", "translation", "color_jitter", "hflip", "projection")


@dataclass
class DefectTypes(Options):
    """Contrastive embedding of defects; a new one gets the type of the nearest prototype, or is called unknown.

    Below `trained` the network is frozen, and its output is computed once, for every image and each of its augmented
    copies; what lies above it learns from these.

    Attributes:
        seed: of the fit; None before it.
        encoder: the trained `Encoder`, in evaluation mode.
        weights_name: what the training began with, for people.
        embeddings: (N, d) float32, of the known defects, each of length 1.
        types: (N,) their types.
        image_ids: theirs, N of them.
        limit: novelty above which a defect is called unknown; ∞ until it is calibrated on defects of other folds.
        curve: of the training, columns step and loss.
        checkpoint_files: of the last fit; its caller removes them when what was fitted is safe.

    Examples:
        >>> detector = DefectTypes(weights="synthetic", look="mask", image_size=32, steps=2)
        >>> detector.loaded_size  # a region of 0.3 of such a picture has 32 pixels
        107
    """

    objective: str = option(
        "supcon", "supcon: same type, alike; simclr: same image, alike, which needs no labels", among=OBJECTIVES
    )
    backbone: str = option("efficientnet_lite0", "network, down to stride 16", among=BACKBONES)
    weights: str = option("imagenet", "imagenet, random, synthetic or the path of a weights file")
    trained: str = option("layer3", "first layer that is trained; those before it stay frozen", among=TRAINED)
    look: str = option("predicted", "whole, predicted: around the peak of an anomaly map, or mask", among=LOOKS)
    roi_size: float = option(0.3, "of the region that is looked at, as a share of the picture", least=0.01, most=1)
    focus: float = option(0.13, "σ of the Gaussian weight around the middle of the region, in its sizes", above=0)
    image_size: int = option(112, "pixels of what the network sees", least=32, most=16384)
    copies: int = option(16, "augmented copies of each training image", least=2, most=1000)
    rotation: float = option(180.0, "largest rotation of a copy, degrees", least=0, most=180)
    translation: float = option(
        0.06, "its largest shift, as a share of the region, and half its largest change of scale", least=0, below=0.5
    )
    color_jitter: float = option(
        0.3, "strength of its change of colours; 0: none, 1: as in pretraining", least=0, most=10
    )
    hflip: bool = option(False, "left for right: wrong where a part has a handedness, as a nut that lies on its face")
    projection: int = option(64, "numbers that the projection head gives to the loss", least=1, most=16384)
    temperature: float = option(0.1, "τ of the losses", above=0)
    steps: int = option(40, "training steps; 0 leaves the frozen network", least=0, most=1_000_000)
    batch: int = option(
        36, "copies a step, as many of each type; simclr: half as many images, twice each", least=2, most=10_000
    )
    lr: float = option(
        3e-4, "learning rate of the trained layers; the new head takes ten times as much", above=0, most=1
    )
    neighbours: int = option(5, "k: nearest known defects that novelty and the k-NN verdict look at", least=1)
    unknown: float = option(0.1, "share of known defects that may be called unknown", above=0, below=1)
    mixtures: tuple[str, ...] = option(("combined",), "folders that hold several types at once: no types of their own")
    folds: int = option(5, "in which it is measured", least=2, most=1000)
    repeats: int = option(1, "of the folds, each time dealt anew", least=1, most=1000)

    name: ClassVar = "defect_types"
    PRESETS: ClassVar = {
        "default": {},
        "quick": {"look": "mask", "image_size": 80, "copies": 6} | {"steps": 20, "batch": 20, "lr": 1e-3},
        "full": {},
        "simclr": {"objective": "simclr"},
        "whole": {"look": "whole"},
    }
    seed: int | None = field(default=None, init=False, compare=False)
    limit: float = field(default=float("inf"), init=False, compare=False)
    checkpoint_files: list[Path] = field(default_factory=list, **FITTED)

    def check(self) -> None:
        """Refuse to freeze random weights."""
        if self.weights == "random" and self.trained != "all":
            raise SettingsError("random weights leave nothing worth freezing: use trained all, or other weights")

    def fit(self, table: pd.DataFrame, seed: int = 0, *, maps: np.ndarray | None = None, **more: Any) -> DefectTypes:
        """Fit on the defects of a category that show one type each; arguments as in `gather` and `fit_rows`."""
        defects = self.gather(table, maps, seed=seed)
        return self.fit_rows(defects, defects.typed, seed, **more)

    def score(self, table: pd.DataFrame, *, maps: np.ndarray | None = None) -> pd.DataFrame:
        """Name the type of the N defects of a table; what their folders are called plays no part.

        Gives rows image_id, predicted (a type or `UNKNOWN`), similarity (cosine to the nearest prototype) and novelty.
        Where `look` is `predicted`, it takes anomaly maps, (N, H, W); without them, or masks, it is a DataError.
        """
        if self.seed is None:
            raise SettingsError(f"this {self.name} is not fitted: call fit(table) first")
        check_table(table, "image_id", "image_path")
        embeddings = self.embed(*self.load(table, maps))
        columns = {"image_id": table["image_id"].to_numpy(), "predicted": self.predict(embeddings)}
        columns |= {"similarity": self.similarity(embeddings).max(1), "novelty": self.novelty(embeddings)}
        return pd.DataFrame(columns)

    def gather(
        self, table: pd.DataFrame, maps: np.ndarray | None = None, *, seed: int = 0, progress: bool = False
    ) -> Defects:
        """Load the defects of a category and show them, and augmented copies of them, to the frozen layers.

        Args:
            table: table of images of one category.
            maps: (N, H, W) anomaly maps of the defective images, in the order of the table, where `look` is
                `predicted`: those of `benchmark.defect_types.anomaly_maps`, for example.
            seed: of copies and new weights.

        Raises:
            DataError: there are fewer than two types, a type has a single image, or masks or maps are missing.
            WeightsError: the weights cannot be had.
        """
        check_seed(seed)
        check_table(table, "image_id", "category", "defect", "label", "image_path", "mask_path")
        rows = table[table["label"] == 1].reset_index(drop=True)
        typed = np.flatnonzero(~rows["defect"].isin(self.mixtures))
        check_types(rows["defect"].to_numpy()[typed])
        category = rows["category"].iloc[0]
        if UNKNOWN in set(rows["defect"]):
            raise DataError(f"{category}/{UNKNOWN} is what a strange defect is called: rename that folder")
        counts = rows["defect"].iloc[typed].value_counts()
        if counts.min() < 2:
            raise DataError(
                f"{category}/{counts.idxmin()} has a single image: nothing can be learned from it and judged on "
                "another; add images, or leave the folder out"
            )
        images, centres = self.load(rows, maps)
        encoder, weights = self.new_encoder(seed)
        plain = encoder.frozen(standardise(self.cut(images, centres))).half().cpu()
        copies = [
            encoder.frozen(self.augment(images, centres, np.random.default_rng([seed, number]))).half().cpu()
            for number in tqdm(range(self.copies), "augmented copies", disable=not progress)
        ]
        return Defects(rows, images, centres, typed, encoder, weights, plain, torch.stack(copies, 1), self, seed)

    def fit_rows(
        self,
        defects: Defects,
        rows: np.ndarray,
        seed: int = 0,
        *,
        checkpoints: Path | None = None,
        progress: bool = False,
    ) -> DefectTypes:
        """Learn an embedding in which types, or images, separate, from some of the gathered defects.

        Args:
            defects: of `gather`, with the same network, look and copies: all folds share them.
            rows: (M,) int, which of them are learned from; for simclr their types are those of the prototypes only.
            seed: of the batches.
            checkpoints: folder in which the training keeps its run, and goes on from.

        Raises:
            DataError: there is one type only.
            SettingsError: the defects were gathered with other options.
        """
        different = [name for name in FROZEN_OPTIONS if getattr(self, name) != getattr(defects.options, name)]
        if different:
            raise SettingsError(f"the defects were gathered with another {', '.join(different)}: gather them again")
        self.types, self.image_ids = defects.types[rows], list(defects.table["image_id"].iloc[rows])
        check_types(self.types)
        self.seed, self.weights_name, self.limit = int(seed), defects.weights, float("inf")
        self.encoder = copy.deepcopy(defects.encoder)
        self.encoder.measure(defects.copies[rows, :MEASURED].flatten(0, 1))
        self.curve, self.checkpoint_files = pd.DataFrame({"step": [], "loss": []}), []
        if self.steps:
            self.train(defects, rows, checkpoints, progress)
        self.embeddings = self.encoder.embed(defects.plain[rows])
        return self

    def train(self, defects: Defects, rows: np.ndarray, checkpoints: Path | None, progress: bool) -> None:
        """AdamW on batches of copies: as many of each type, or, with simclr, two copies of each image."""
        device, numbers = torch_device(), np.unique(self.types, return_inverse=True)[1]
        by_type = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
        recipe = {"lr": self.lr, "steps": self.steps, "seed": self.seed, "weight_decay": 1e-2, "mixed": True}
        recipe |= {"factors": {"head": HEAD}, "every": max(1, self.steps // 2)}
        if checkpoints:
            identity = {**self.options(), "seed": self.seed, "weights": defects.weights, "copies_seed": defects.seed}
            identity |= {"rows": rows.tolist(), "types": list(self.types) if self.objective == "supcon" else None}
            path = checkpoint_path(checkpoints, self.name, identity, defects.plain[rows].numpy())
            self.checkpoint_files = [path]
            recipe |= {"checkpoint": path, "identity": {"run": path.stem}}

        def projected(chosen: np.ndarray, which: np.ndarray) -> Tensor:
            return self.encoder.head(self.encoder(defects.copies[rows[chosen], which].to(device).float()))

        with Run(self.encoder, **recipe, description=f"{self.objective}, seed {self.seed}", progress=progress) as run:
            for step in run:
                rng = run.rng(step)
                if self.objective == "supcon":
                    each = max(2, self.batch // len(by_type))
                    chosen = np.concatenate([rng.choice(positions, each) for positions in by_type])
                    embeddings = projected(chosen, rng.integers(self.copies, size=len(chosen)))
                    run.minimise(supcon(embeddings, torch.from_numpy(numbers[chosen]).to(device), self.temperature))
                else:
                    chosen = rng.permutation(len(rows))[: max(2, self.batch // 2)]
                    pairs = rng.permuted(np.tile(np.arange(self.copies), (len(chosen), 1)), axis=1)[:, :2]
                    first, second = projected(np.tile(chosen, 2), pairs.T.ravel()).chunk(2)
                    run.minimise(nt_xent(first, second, self.temperature))
        self.curve = run.curve()

    # --- verdicts -----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The types it knows, sorted; the order of all columns here."""
        return sorted(set(self.types))

    @property
    def prototypes(self) -> np.ndarray:
        """(T, d) float32, one per type."""
        return prototypes_of(self.embeddings, self.types)

    def embed(self, images: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Images, (M, S, S, 3) uint8 of `loaded_size`, and centres (M, 2) of regions -> (M, d) float32 of length 1."""
        return self.encoder.embed(self.encoder.frozen(standardise(self.cut(images, centres))))

    def similarity(self, embeddings: np.ndarray) -> np.ndarray:
        """(M, T) cosine between each embedding and each prototype."""
        return embeddings @ self.prototypes.T

    def novelty(self, embeddings: np.ndarray) -> np.ndarray:
        """(M,) float32 in [0, 2]: mean cosine distance to the `neighbours` nearest known defects, or to all there are.

        Sun et al. 2022 (arXiv:2204.06507) take the distance to the last of them; the mean is steadier with few.
        """
        distances = np.sort(1 - embeddings @ self.embeddings.T, axis=1)
        return distances[:, : self.neighbours].mean(1).astype(np.float32)

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        """(M,) the type of the nearest prototype, or `UNKNOWN` where the novelty lies above the limit."""
        nearest = np.array(self.names, dtype=object)[self.similarity(embeddings).argmax(1)]
        return np.where(self.novelty(embeddings) > self.limit, UNKNOWN, nearest)

    def with_type(self, name: str, embeddings: np.ndarray) -> DefectTypes:
        """A copy that knows one more type, from embeddings (M, d) of a few images of it; nothing is trained."""
        if name in self.names or name == UNKNOWN:
            raise DataError(f"type {name!r} is known already: give the new one another name")
        if len(embeddings) == 0:
            raise DataError(f"type {name!r} has no image: show at least one")
        taught = copy.copy(self)
        taught.embeddings = np.concatenate([self.embeddings, embeddings])
        taught.types = np.concatenate([self.types, np.full(len(embeddings), name, dtype=object)])
        taught.image_ids = [*self.image_ids, *(f"{name}/{number}" for number in range(len(embeddings)))]
        return taught

    # --- where to look ------------------------------------------------------------------------------------------------

    @property
    def window(self) -> float:
        """Size of what is looked at, as a share of the picture: the same for all, so that a large break stays large."""
        return 1.0 if self.look == "whole" else self.roi_size

    @property
    def loaded_size(self) -> int:
        """Side of the loaded pictures, pixels: a window of them fills what the network sees."""
        return round(self.image_size / self.window)

    def load(self, table: pd.DataFrame, maps: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Pictures, (N, S, S, 3) uint8, and the centres of windows, (N, 2); arguments and errors as in `score`."""
        if self.look == "whole":
            centres = np.full((len(table), 2), 0.5)
        elif self.look == "predicted":
            if maps is None or len(maps) != len(table):
                count = "none" if maps is None else len(maps)
                raise DataError(f"{len(table)} defective images need as many anomaly maps, and there are {count}")
            centres = around_peaks(maps)
        else:
            lacking = table[table["mask_path"].isna() | (table["mask_path"] == "")]
            if len(lacking):
                raise DataError(f"{lacking['image_id'].iloc[0]} has no mask: use the look predicted, or whole")
            paths = zip(table["mask_path"], table["image_path"], strict=True)
            centres = around_masks(read_mask(*pair) for pair in paths)
        return load_images(list(table["image_path"]), self.loaded_size), centres

    def cut(self, images: np.ndarray, centres: np.ndarray) -> Tensor:
        """Windows as they are: (N, S, S, 3) uint8 and (N, 2) -> (N, 3, size, size) float32 in [0, 1], on the device."""
        still = np.zeros(len(images))
        return self._crop(images, windows_at(centres, still + self.window, still, still + 1))

    def augment(self, images: np.ndarray, centres: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Windows rotated, shifted, scaled and recoloured; the defect is neither cut away nor covered.

        Pixels come from the whole picture, so a rotated window shows what really lies in its corners; only beyond the
        picture's border it is mirrored. (N, S, S, 3) uint8 and (N, 2) -> (N, 3, size, size) float32, standardised.
        """
        count = len(images)
        sizes = self.window * np.exp(rng.uniform(-2, 2, count) * self.translation)
        moved = centres + rng.uniform(-self.translation, self.translation, (count, 2)) * self.window
        angles = np.radians(rng.uniform(-self.rotation, self.rotation, count))
        flip = np.where(rng.random(count) < 0.5 * self.hflip, -1.0, 1.0)
        return recolor(self._crop(images, windows_at(moved, sizes, angles, flip)), rng, self.color_jitter)

    def _crop(self, images: np.ndarray, windows: Tensor) -> Tensor:
        device, parts = torch_device(), batches(len(images), 32)
        return torch.cat([crop(as_tensor(images[part]), windows[part].to(device), self.image_size) for part in parts])

    # --- network and state --------------------------------------------------------------------------------------------

    def new_encoder(self, seed: int = 0, *, fill: bool = True) -> tuple[Encoder, str]:
        """An encoder with a new head, in evaluation mode on the device, and what its weights are called.

        Without `fill` all weights are random. Weights that cannot be had, read, or do not fit are a WeightsError.
        """
        focus, weights = 0.0 if self.look == "whole" else self.focus, "random, from scratch"
        with seeded(seed):
            layers = trunk(self.backbone)
            if fill and self.weights != "random":
                weights = load_trunk(layers, self.backbone, self.weights)
            encoder = Encoder(layers, self.trained, self.weights != "random", self.projection, focus)
        return encoder.to(torch_device(), memory_format=torch.channels_last).eval(), weights

    def state(self) -> dict[str, Any]:
        """What a fit has found: weights, known defects and their prototypes, limit and curve."""
        known = {"embeddings": self.embeddings, "types": list(self.types), "image_ids": self.image_ids}
        limit = self.limit if np.isfinite(self.limit) else None
        more = {"prototypes": self.prototypes, "weights": self.weights_name, "limit": limit, "seed": self.seed}
        return {**weights_state(self.encoder, "encoder"), **known, **curve_state(self.curve), **more}

    def load_state(self, state: dict[str, Any]) -> DefectTypes:
        """The inverse of `state`; embeddings and types that do not fit each other or the network are a ValueError."""
        self.encoder = load_weights(self.new_encoder(fill=False)[0], state, "encoder")
        self.types, self.image_ids = np.array(state["types"], dtype=object), list(state["image_ids"])
        self.embeddings, shape = state["embeddings"], (len(self.image_ids), len(self.encoder.mean))
        if not self.embeddings.shape == shape == (len(self.types), shape[1]):
            raise ValueError(f"embeddings have shape {self.embeddings.shape}, not {shape}")
        self.curve, self.weights_name = load_curve(state, "step", "loss"), state["weights"]
        self.limit = float("inf") if state["limit"] is None else float(state["limit"])
        self.seed = int(state["seed"])
        return self

    def weights_files(self) -> dict[str, bytes]:
        """None: the state holds all weights."""
        return {}

    @property
    def backbone_name(self) -> str:
        """For manifests."""
        return self.backbone


def files(detector: DefectTypes, category: str) -> dict[str, Any]:
    """What `artifacts.save` needs to keep a fitted detector; no novelty lies above 2, which stands for no limit."""
    limit = {"value": min(detector.limit, 2.0), "false_alarm_rate": detector.unknown}
    return model_files(detector, category, limit)


def load(
    artifact: Artifact | str | Path, category: str | None = None, seed: int | None = None
) -> tuple[DefectTypes, dict[str, Any]]:
    """A fitted detector from an artifact, and its description; arguments and errors as `methods.load_model`."""
    artifact, description, state = read_model(artifact, method=DefectTypes.name, category=category, seed=seed)
    with complete(artifact):
        return DefectTypes.from_options(description["options"]).load_state(state), description


@dataclass(frozen=True)
class Defects:
    """The defective images of a category, and what the frozen layers give for them, which all folds share.

    Attributes:
        table: their rows, N of them.
        images: (N, S, S, 3) uint8.
        centres: (N, 2), of the windows that are looked at.
        typed: (M,) int, the images that show one type: those that are learned from and judged.
        encoder: as it was built, with a new head.
        weights: what its weights are called.
        plain: (N, C, h, w) float16, of the regions unchanged.
        copies: (N, K, C, h, w) float16, of augmented ones.
        options: that they were gathered with.
        seed: of the new head and the copies.
    """

    table: pd.DataFrame
    images: np.ndarray
    centres: np.ndarray
    typed: np.ndarray
    encoder: Encoder
    weights: str
    plain: Tensor
    copies: Tensor
    options: DefectTypes
    seed: int

    @property
    def types(self) -> np.ndarray:
        """(N,) names of folders."""
        return self.table["defect"].to_numpy(dtype=object)

    @property
    def mixed(self) -> np.ndarray:
        """(N − M,) int, images that show several types at once: never learned from, judged apart."""
        return np.setdiff1d(np.arange(len(self.table)), self.typed)


def check_types(types: np.ndarray) -> None:
    """Refuse, with a DataError, a single type or none."""
    names = sorted(set(types))
    if len(names) < 2:
        count = f"only {names[0]}" if names else "none"
        raise DataError(f"telling defect types apart needs two or more, and there is {count}: choose another category")


# --- losses -----------------------------------------------------------------------------------------------------------


def supcon(embeddings: Tensor, types: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss: every embedding must find all others of its type among all others.

    With z on the unit sphere, P(i) the others of i's type and A(i) all others,

        L = mean over i of  −1/|P(i)| Σ_{p ∈ P(i)} log( exp(z_i·z_p/τ) / Σ_{a ∈ A(i)} exp(z_i·z_a/τ) ).

    Khosla et al. 2020, eq. 2, divided by the number of embeddings, (N, d) of any length. Where every image is a type of
    its own and comes twice, it is `nt_xent`; an embedding that is alone of its type is a DataError.

    Examples:
        >>> supcon(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), temperature=1.0)  # log(1 + 2/e)
        tensor(0.5514)
    """
    directions = F.normalize(embeddings, dim=1)
    similarity = directions @ directions.T / temperature
    itself = torch.eye(len(types), dtype=torch.bool, device=similarity.device)
    partner = (types[:, None] == types[None, :]) & ~itself
    partners = partner.sum(1)
    if not bool(partners.all()):
        lonely = types[partners == 0][0]
        raise DataError(f"type {int(lonely)} has a single embedding in the batch: a contrast needs two or more")
    log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    return -((log_share * partner).sum(1) / partners).mean()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of SimCLR: each view must find its partner among all others.

    Chen et al. 2020, eq. 1; both are (N, d), the embeddings of two views of each image, in the same order.

    Examples:
        >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)
        tensor(0.5514)
    """
    views = F.normalize(torch.cat([first, second]), dim=1)
    similarity = views @ views.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(views), device=views.device).roll(len(first)))


# --- network ----------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A network in two parts, frozen below and trained above, whose pooled features are the embedding.

    Attributes:
        below, above: frozen layers, possibly none, and trained ones, of `trunk` up to layer3.
        pretrained: then batch norm keeps its statistics, which a few images are too few to estimate again.
        focus: σ of the Gaussian around the middle by which positions are weighted, in sizes of the view: a region has
            its defect there. 0, for whole pictures: the mean and the maximum over all positions.
        head: the projection g of SimCLR, used by the loss alone.
        mean, scale: (d,), of the pooled features before training; an embedding is given in these units, so that no
            feature counts for more because its numbers are larger.
    """

    def __init__(self, layers: nn.Sequential, trained: str, pretrained: bool, projection: int, focus: float) -> None:
        super().__init__()
        first = 0 if trained == "all" else [name for name, _ in layers.named_children()].index(trained)
        self.below, self.above = layers[:first].requires_grad_(False), layers[first:]
        self.pretrained, self.focus = pretrained, focus
        with torch.no_grad():
            width = self.eval().pooled(self.below(torch.zeros(1, 3, 32, 32))).shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.head = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, projection))

    def train(self, mode: bool = True) -> Encoder:
        """As always, but for what is frozen and the statistics of a pretrained network."""
        super().train(mode)
        self.below.eval()
        if self.pretrained:
            self.above.eval()  # it holds no dropout: only batch norm tells the difference
        return self

    def pooled(self, layer: Tensor) -> Tensor:
        """Output of `below`, (B, C, h, w) -> (B, d) pooled features in their own units."""
        tapped = outputs(self.above, layer, TAPPED)
        layers = tapped if hasattr(self.above, "layer2") else [layer, *tapped]
        return torch.cat([pool(layer, self.focus) for layer in layers], 1)

    def forward(self, layer: Tensor) -> Tensor:
        """Output of `below`, (B, C, h, w) -> (B, d) embeddings, of any length."""
        return (self.pooled(layer) - self.mean) / self.scale

    @torch.no_grad()
    def frozen(self, views: Tensor) -> Tensor:
        """Standardised views, (N, 3, S, S) -> output of `below`, (N, C, h, w)."""
        return torch.cat([self.below(views[part]) for part in batches(len(views), 4)])

    @torch.no_grad()
    def embed(self, layer: Tensor) -> np.ndarray:
        """Output of `below`, (N, C, h, w) -> (N, d) float32 embeddings of length 1."""
        self.eval()
        parts = [self(layer[part].to(torch_device()).float()) for part in batches(len(layer), 32)]
        return unit(torch.cat(parts).numpy(force=True)) if parts else np.empty((0, len(self.mean)), np.float32)

    @torch.no_grad()
    def measure(self, layer: Tensor) -> None:
        """Set `mean` and `scale` from outputs of `below` for training views, (B, C, h, w)."""
        features = self.pooled(layer.to(self.mean))  # to its device and precision
        spread = features.std(0)
        self.mean.copy_(features.mean(0))
        self.scale.copy_(spread.clamp(min=float(FLOOR * spread.median()) or 1.0))


def pool(layer: Tensor, focus: float) -> Tensor:
    """(B, C, h, w) -> (B, C), the mean under a Gaussian window; without focus (B, 2 C), mean and maximum."""
    if not focus:
        return torch.cat([layer.mean((2, 3)), layer.amax((2, 3))], 1)
    offsets = [(torch.arange(count) + 0.5) / count - 0.5 for count in layer.shape[2:]]
    rows, columns = (torch.exp(-((offset / focus) ** 2) / 2) for offset in offsets)
    window = rows[:, None] * columns
    return (layer * (window / window.sum()).to(layer)).sum((2, 3))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows brought to length 1, (N, d) float32."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def prototypes_of(embeddings: np.ndarray, types: Sequence[str] | np.ndarray) -> np.ndarray:
    """Prototypes, (T, d) float32 of length 1: the mean direction of each type, in the order of their sorted names.

    Snell, Swersky, Zemel 2017, eq. 1, on the unit sphere.

    Examples:
        >>> prototypes_of(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), ["cut", "cut", "burn"]).round(2)
        array([[-1.  ,  0.  ],
               [ 0.71,  0.71]], dtype=float32)
    """
    types = np.asarray(types)
    return unit(np.stack([embeddings[types == name].mean(0) for name in sorted(set(types))]))


def around_peaks(maps: np.ndarray) -> np.ndarray:
    """Peak of each anomaly map, (N, H, W), the first in reading order: (N, 2) column and row as shares of the image."""
    maps = np.asarray(maps, dtype=np.float32)
    finite = np.isfinite(maps).all((1, 2))
    if not finite.all():
        raise DataError(f"anomaly map {int(np.argmin(finite))} holds values that are not finite: score its image again")
    height, width = maps.shape[1:]
    rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), (height, width))
    return np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=1)


def around_masks(masks: Iterable[np.ndarray]) -> np.ndarray:
    """The middle of the largest connected part of each of N masks, (H, W) bool of any size: (N, 2) as `around_peaks`.

    An upper bound: no inspection line is told where the defect is.
    """
    centres = []
    for number, mask in enumerate(masks):
        _, _, stats, middles = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask).view(np.uint8))
        if len(stats) < 2:
            raise DataError(f"mask {number} is empty: there is no defect to look at")
        height, width = mask.shape
        centres.append((middles[1 + stats[1:, cv2.CC_STAT_AREA].argmax()] + 0.5) / (width, height))
    return np.array(centres).reshape(-1, 2)
