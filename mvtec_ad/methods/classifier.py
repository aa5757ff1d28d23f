"""Supervised classification: a pretrained network learns to tell good items from defective ones, by transfer.

Yosinski et al. 2014 (arXiv:1411.1792) on transfer; Kumar et al. 2022 (arXiv:2202.10054) on the head first, then all
layers; He et al. 2014 (arXiv:1406.4729) on the pyramid; Guo et al. 2017 (arXiv:1706.04599) on the temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mvtec_ad import artifacts, augment, metrics
from mvtec_ad.backbones.backbone import DEVIATION, MEAN, TORCH_TAPS, batch_size
from mvtec_ad.backbones.trunk import LITE, load_trunk, seeded, trunk
from mvtec_ad.config import Options, check_seed, option, torch_device
from mvtec_ad.data import loading, splits
from mvtec_ad.data.loading import read_image
from mvtec_ad.errors import ArtifactError, DataError, SettingsError, TrainingError
from mvtec_ad.methods import items
from mvtec_ad.methods.base import FITTED, Scores, as_tensor, check_table
from mvtec_ad.schema import parse_json
from mvtec_ad.training import Run, checkpoint_path

CHECKS = 8  # looks at the validation part
FLOOR = 0.3  # of the median spread: a feature that hardly varies among these images may vary wildly in others
WATCHED = 16  # training images whose accuracy is drawn beside that of the validation part; it decides nothing
SCRATCH = 30.0  # times the learning rate, for a network that knows nothing yet
JOINT = "joint"  # the item, from all its views


@dataclass
class Classifier(Options):
    """Transfer learning: a head for frozen features by logistic regression, then all layers are fine-tuned.

    Scores are logits, raw; divided by `temperature` they are calibrated.

    Attributes:
        seed: of validation part, new weights, batches and augmentation; None before the fit.
        network: in evaluation mode.
        weights_name: what it started from, for people and manifests.
        finders: view -> where its items are; empty where whole pictures are looked at.
        temperature: that calibrates the logits, from the validation images.
        validation: rows image_id, label and score of the images that chose checkpoint and temperature: a part that is
            held out, or, where there is no fine-tuning, all of them, cross-validated.
        curve: of the fine-tuning.
        checkpoint_files: of the fit; its caller removes them when what was fitted is safe.

    Examples:
        >>> Classifier.preset("quick", roi="whole").options()["image_size"]
        192
    """

    backbone: str = option("efficientnet_lite0", "network that is transferred", among=tuple(TORCH_TAPS))
    weights: str = option("imagenet", "imagenet, random, synthetic (resnet18) or the path of a state dict")
    roi: str = option("registered", "whole picture, item, or the item registered by its print", among=items.ROIS)
    image_size: int = option(224, "side of that region, pixels", least=32, most=16384)
    pyramid: tuple[int, ...] = option(
        (1, 2, 4), "cells a side of the grids that features are averaged over", least=1, most=64
    )
    penalty: float = option(
        100.0, "on the squared weights of the first head (1 / C of logistic regression)", above=0, most=1e9
    )
    steps: int = option(64, "training steps, of all layers", least=0, most=1_000_000)
    batch_images: int = option(16, "images a step", least=2, most=100_000)
    lr: float = option(3e-5, "learning rate; a network from scratch takes thirty times as much", above=0, most=1)
    held_out: float = option(
        0.2, "share of the items that is held out: to choose checkpoint and temperature", above=0, below=1
    )
    rotation: float = option(5.0, "largest rotation of a training image, degrees; below the item's margin", least=0)
    translation: float = option(0.03, "its largest shift, share of the image, and change of scale", least=0, below=1)
    color_jitter: float = option(0.1, "its largest change of brightness and contrast", least=0, below=1)
    hflip: bool = option(True, "also mirror it, where cuts are not registered")
    seed: int | None = field(default=None, init=False, compare=False)
    network: ClassifierNetwork | None = field(default=None, **FITTED)
    weights_name: str = field(default="", **FITTED)
    finders: dict[str, items.Finder] = field(default_factory=dict, **FITTED)
    temperature: float = field(default=1.0, **FITTED)
    validation: pd.DataFrame = field(default_factory=pd.DataFrame, **FITTED)
    curve: pd.DataFrame = field(default_factory=pd.DataFrame, **FITTED)
    checkpoint_files: list[Path] = field(default_factory=list, **FITTED)

    name: ClassVar = "classifier"
    PRESETS: ClassVar = {
        "default": {},
        "quick": {"image_size": 192, "steps": 0, "batch_images": 8},  # the head alone
        "full": {},
    }

    def check(self) -> None:
        """Refuse a pyramid without a grid."""
        if not self.pyramid:
            raise SettingsError("pyramid () needs at least one grid: (1,) is the usual global average")

    # --- learning -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        table: pd.DataFrame,
        seed: int = 0,
        *,
        finders: Mapping[str, items.Finder] | None = None,
        cuts: Mapping[str, np.ndarray] | None = None,
        checkpoints: Path | None = None,
        progress: bool = False,
    ) -> Classifier:
        """Learn from labelled images.

        Args:
            table: table of images, of one view or of several; the labels are those of its column.
            seed: of validation part or folds, new weights, batches and augmentation, 0 or more.
            finders: view -> finder, where `find_items` was asked before.
            cuts: image id -> what `cut` gives of it, where that was asked before.
            checkpoints: folder in which the training keeps its run, and goes on from.

        Raises:
            DataError: a class is missing from the training or the validation part, or a file cannot be read.
            WeightsError: the weights cannot be had.
        """
        check_seed(seed)
        check_table(table, "image_id", "category", "defect", "label", "image_path", "view", "group")
        finders = self.find_items(table, progress=progress) if finders is None else finders
        self.finders = {} if self.roi == "whole" else {view: finders[view] for view in sorted(table["view"].unique())}
        self.network, self.weights_name = self.new_network(seed)
        self.network.to(torch_device(), memory_format=torch.channels_last)
        self.seed, self.checkpoint_files = int(seed), []
        labels = table["label"].to_numpy()
        cuts = self.cut(table)[0] if cuts is None else np.stack([cuts[name] for name in table["image_id"]])
        self.curve = pd.DataFrame({"step": [], "loss": []})
        if self.network.pretrained and not self.steps:
            held = np.ones(len(table), bool)  # each by a head that has not seen it
            logits = self.cross_validated_head(cuts, labels, self.folds(table, seed))
        else:
            held = splits.hold_out(table, self.held_out, seed)
            if self.network.pretrained:  # otherwise there are no features yet that a head could read
                self.fit_head(cuts[~held], labels[~held])
            if self.steps:
                self.fine_tune(cuts, labels, held, checkpoints, progress)
            logits = self.logits(cuts[held])
        self.temperature = metrics.fit_temperature(labels[held], logits)
        ids = table["image_id"].to_numpy()[held]
        self.validation = pd.DataFrame({"image_id": ids, "label": labels[held], "score": logits})
        return self

    def find_items(self, table: pd.DataFrame, *, progress: bool = False) -> dict[str, items.Finder]:
        """A finder for each view; none where the whole picture is looked at."""
        if self.roi == "whole":
            return {}
        return {
            view: items.fit_finder([read_image(path) for path in rows["image_path"]], progress=progress)
            for view, rows in table.groupby("view", sort=True)
        }

    def new_network(self, seed: int = 0) -> tuple[ClassifierNetwork, str]:
        """A network with a new head, in evaluation mode on the CPU, and what its weights are called."""
        pretrained = self.weights != "random"
        with seeded(seed):
            body = trunk(self.backbone)
            name = load_trunk(body, self.backbone, self.weights) if pretrained else "random, from scratch"
            return ClassifierNetwork(body, self.pyramid, pretrained), name

    @property
    def flips(self) -> bool:
        """Whether training images are mirrored: not where every place of a cut has its meaning."""
        registered = self.roi == "registered" and any(finder.registers for finder in self.finders.values())
        return self.hflip and not registered

    def fit_head(self, cuts: np.ndarray, labels: np.ndarray) -> None:
        """Logistic regression on the pooled features of the frozen layers, standardised: its solution is the head.

        The loss is convex, so this head is the best there is. Gradient steps on all layers under a random one would
        spoil what they know (Kumar et al. 2022). Both classes count the same together, however many images they have.
        """
        self._set_head(*self._regression(self._features(cuts), labels))

    def cross_validated_head(self, cuts: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """`fit_head` on all images; (N,) float32 logits, each by a head that was fitted on the other `folds` (N,)."""
        features, logits = self._features(cuts), np.empty(len(labels), np.float32)
        for fold in np.unique(folds):
            unseen = folds == fold
            weight, bias = self._regression(features[:, ~unseen], labels[~unseen])
            logits[unseen] = features[0, unseen] @ weight + bias
        self._set_head(*self._regression(features, labels))
        return logits

    def folds(self, table: pd.DataFrame, seed: int) -> np.ndarray:
        """(N,) int, folds that hold the share `held_out` each, or more where a type of defect has too few items."""
        fewest = table.groupby(["category", "defect"])["group"].nunique().min()
        return splits.grouped_folds(table, max(2, min(round(1 / self.held_out), fewest)), seed)

    def _features(self, cuts: np.ndarray) -> np.ndarray:
        """(1 or 2, N, D) float64: pooled features of the cuts, and of their mirror images where these count."""
        views = [cuts, cuts[:, :, ::-1]] if self.flips else [cuts]
        with torch.no_grad():
            parts = [view[part] for view in views for part in loading.batches(len(view), batch_size())]
            features = torch.cat([self.network.pooled(as_tensor(part)) for part in parts]).double().numpy(force=True)
        return features.reshape(len(views), len(cuts), -1)

    def _regression(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
        """Weight (D,) and bias of the head.

        It is fitted in the space that the N images span: for a penalty on squares that is the same solution, and N is
        much smaller than D.
        """
        labels, features = np.tile(labels, len(features)), np.concatenate(features)
        mean, scale = features.mean(0), features.std(0)
        scale = np.maximum(scale, FLOOR * np.median(scale))
        regression = LogisticRegression(C=1 / self.penalty, class_weight="balanced", tol=1e-7, max_iter=1000)
        basis, coordinates = np.linalg.qr(((features - mean) / scale).T)
        regression.fit(coordinates.T, labels)
        weight = basis @ regression.coef_[0] / scale
        return weight, float(regression.intercept_[0] - weight @ mean)

    @torch.no_grad()
    def _set_head(self, weight: np.ndarray, bias: float) -> None:
        self.network.head.weight.copy_(torch.from_numpy(weight)[None])
        self.network.head.bias.fill_(bias)

    def fine_tune(
        self, cuts: np.ndarray, labels: np.ndarray, held: np.ndarray, checkpoints: Path | None, progress: bool
    ) -> None:
        """AdamW on all layers at a low rate; ends with the check of the highest validation AUROC, then lowest loss."""
        network, device = self.network, torch_device()
        cuts, labels, held_cuts, held_labels = cuts[~held], labels[~held], cuts[held], labels[held]
        weight = torch.tensor(float((labels == 0).sum() / (labels == 1).sum()), device=device)
        jitter = {name: getattr(self, name) for name in ("rotation", "translation", "color_jitter")}
        jitter["hflip"] = self.flips
        identity = {**self.options(), "weights_name": self.weights_name, "recipe": [CHECKS, FLOOR, SCRATCH]}
        if checkpoints:
            arrays = cuts, labels, held_cuts, held_labels
            self.checkpoint_files = [checkpoint_path(checkpoints, self.name, {**identity, "seed": self.seed}, *arrays)]
        recipe = {"lr": self.lr * (1 if network.pretrained else SCRATCH), "steps": self.steps, "seed": self.seed}
        recipe |= {"weight_decay": 1e-2, "every": max(1, self.steps // CHECKS), "mixed": True, "identity": identity}
        recipe["checkpoint"] = next(iter(self.checkpoint_files), None)

        def loss(logits: Tensor, labels: np.ndarray) -> Tensor:
            targets = torch.from_numpy(labels.astype(np.float32)).to(device)
            return F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weight)

        def check(run: Run) -> None:
            with run.evaluating():
                logits, trained = self.logits(held_cuts), self.logits(cuts[watched])
            measured = {
                "validation_auroc": metrics.image_auroc(held_labels, logits),
                "validation_loss": float(loss(torch.from_numpy(logits).to(device), held_labels)),
                "validation_accuracy": float(((logits > 0) == held_labels).mean()),
                "train_accuracy": float(((trained > 0) == labels[watched]).mean()),
            }
            run.keep_best(measured, rank=(-measured["validation_auroc"], measured["validation_loss"]))

        with Run(network, **recipe, description=f"{self.backbone}, seed {self.seed}", progress=progress) as run:
            watched = run.rng(0).permutation(len(cuts))[: min(len(held_cuts), WATCHED)]
            if not run.measured:  # before the first step: the head alone may stay the best
                check(run)
            for step in run:
                rng = run.rng(step)
                batch = np.sort(rng.permutation(len(cuts))[: self.batch_images])
                images = augment.jitter(as_tensor(cuts[batch]), rng, **jitter)
                with seeded(int(rng.integers(2**31))):  # dropout and stochastic depth draw from torch's own generator
                    logits = network(images)
                run.minimise(loss(logits, labels[batch]))
                if run.due():
                    check(run)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.half())  # as they are kept, so that the file gives the same scores
                if not parameter.isfinite().all():
                    raise TrainingError(f"weights of {self.backbone} have grown beyond half precision: lower the lr")
        network.eval()
        self.curve = run.curve()

    # --- scoring ------------------------------------------------------------------------------------------------------

    def cut(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The regions of interest of the images of a table: what the network sees.

        Returns:
            (N, S, S, 3) uint8, and (N, 3, 3) float64 from places (x, y, 1) of the picture to places of its cut.

        Raises:
            DataError: a file cannot be read, or a view is one that it was not fitted on.
        """
        check_table(table, "image_path", "view")
        loading.check_memory(len(table), self.image_size)
        paths, views = table["image_path"].to_numpy(), table["view"].to_numpy()
        cuts = np.empty((len(table), self.image_size, self.image_size, 3), np.uint8)
        transforms = np.empty((len(table), 3, 3))
        for view, finder in {view: self._finder(view) for view in sorted(set(views))}.items():
            rows = views == view
            cuts[rows], transforms[rows] = items.cut_files(paths[rows], finder, self.image_size, self.roi)
        return cuts, transforms

    def look_at(self, pictures: Sequence[np.ndarray], view: str) -> np.ndarray:
        """As `cut`, of pictures of one view that are in memory, (H, W, 3) uint8 of any size; gives the cuts alone."""
        finder = self._finder(view)
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(lambda picture: finder.cut(picture, self.image_size, self.roi), pictures)))

    def _finder(self, view: str) -> items.Finder:
        """What finds the item of a view; nothing is looked for in whole pictures."""
        if not self.finders:
            return items.Finder(np.zeros((items.LEVELS,) * 3, np.float32))
        if view not in self.finders:
            raise DataError(f"view {view!r} is new to this classifier: it knows {', '.join(self.finders)}")
        return self.finders[view]

    @torch.inference_mode()
    def logits(self, cuts: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 cuts, as `cut` gives them -> (N,) float32, raw."""
        size = self.image_size
        if self.network is None:
            raise SettingsError("this classifier is not fitted: call fit(table) first")
        if cuts.shape[1:] != (size, size, 3):
            raise DataError(f"images must be (N, {size}, {size}, 3), not {cuts.shape}: give what `cut` returns")
        parts = [self.network(as_tensor(cuts[part])).float() for part in loading.batches(len(cuts), batch_size())]
        return torch.cat(parts).numpy(force=True)

    def score(self, table: pd.DataFrame) -> Scores:
        """Logits (N,) float32 of the images of a table, raw; no maps."""
        return Scores(self.logits(self.cut(table)[0]))

    # --- keeping ------------------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether the layers below the head are still those of a network that is installed with the package."""
        installed = "imagenet" if self.backbone in LITE else "synthetic"
        return not self.steps and self.weights == installed

    def state(self) -> dict[str, Any]:
        """What a fit has found: arrays of network and finders, two tables, and JSON data.

        Of a frozen network the head alone; parameters of a tuned one in half precision, to which `fine_tune` rounds.
        """
        layers = self.network.head.state_dict(prefix="head.") if self.frozen else self.network.state_dict()
        tuned = dict(self.network.named_parameters()) if self.steps else {}
        state = {
            name: (weights.half() if name in tuned else weights).numpy(force=True) for name, weights in layers.items()
        }
        for view, finder in self.finders.items():
            state |= {f"finder.{view}.{key}": array for key, array in asdict(finder).items()}
        state |= {"seed": self.seed, "weights": self.weights_name, "views": sorted(self.finders)}
        state |= {"resized": True} if self.roi == "whole" else {}
        return state | {"temperature": self.temperature, "validation": self.validation, "curve": self.curve}

    def load_state(self, state: Mapping[str, Any]) -> Classifier:
        """The inverse of `state`; returns the classifier."""
        if self.roi == "whole" and not state.get("resized"):
            raise ValueError("an earlier version of the package cut whole pictures in another way")
        self.seed, self.weights_name = int(state["seed"]), state["weights"]
        if self.frozen:
            network, here = self.new_network(self.seed)
            if here != self.weights_name:
                raise ValueError(f"its frozen layers are {self.weights_name}, here they would be {here}")
        else:
            with seeded(self.seed):
                body = trunk(self.backbone)
                network = ClassifierNetwork(body, self.pyramid, not self.weights_name.startswith("random"))
        layers = network.state_dict()
        stored = [name for name in layers if name.startswith("head.") or not self.frozen]
        network.load_state_dict(layers | {name: torch.from_numpy(state[name]) for name in stored})
        self.network = network.to(torch_device(), memory_format=torch.channels_last)
        keys = items.Finder.__dataclass_fields__
        self.finders = {
            view: items.Finder(**{key: state[f"finder.{view}.{key}"] for key in keys}) for view in state["views"]
        }
        self.temperature = float(state["temperature"])
        self.validation, self.curve = state["validation"], state["curve"]
        return self


class ClassifierNetwork(nn.Module):
    """Images -> one logit each, positive for a defect; in evaluation mode when it is made.

    Attributes:
        body: the convolutional layers; its output (B, C, h, w) is what Grad-CAM reads.
        head: linear, on the averages over all cells of the pyramid.
        pyramid: cells a side of each of its grids: spatial pyramid pooling (He et al. 2014) with means. A grid of 1 is
            the usual global average, a finer one also tells *where*.
        pretrained: then batch norm keeps its statistics, which 16 images are too few to estimate again.
    """

    def __init__(self, body: nn.Sequential, pyramid: Sequence[int], pretrained: bool) -> None:
        super().__init__()
        self.body, self.pyramid, self.pretrained = body, tuple(pyramid), pretrained
        with torch.no_grad():
            channels = body.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
        self.head = nn.Linear(channels * sum(cells**2 for cells in pyramid), 1)
        self.eval()

    def train(self, mode: bool = True) -> ClassifierNetwork:
        """As always, but for the statistics of a pretrained network."""
        super().train(mode)
        for module in self.body.modules() if self.pretrained else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> what the head sees, (B, C · cells)."""
        features = self.body(augment.standardise(images))  # B×C×h×w
        return torch.cat([F.adaptive_avg_pool2d(features, cells).flatten(1) for cells in self.pyramid], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,) logits."""
        return self.head(self.pooled(images))[:, 0]

    def groups(self) -> list[str]:
        """Names of its parts that own weights, from the output to the input."""
        parts = [name for name, part in self.body.named_children() if any(True for _ in part.parameters())]
        return ["head", *(f"body.{name}" for name in reversed(parts))]


# --- artifacts --------------------------------------------------------------------------------------------------------


def files(
    model: Classifier, category: str, name: str, *, threshold: float, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What `artifacts.save` needs to keep a fitted classifier, under a name within the category, as `resnet18-top`.

    The threshold on its logits, and metrics, plain JSON data, are kept beside it. Gives `CATEGORY/NAME/SEED/` with
    model.json, model.safetensors, validation.csv and curve.csv.
    """
    folder, state = f"{category}/{name}/{model.seed}", model.state()
    tables = {f"{folder}/{key}.csv": state.pop(key) for key in ("validation", "curve")}
    arrays = {key: state.pop(key) for key in list(state) if isinstance(state[key], np.ndarray)}
    description = {
        "category": category,
        "name": name,
        "settings": model.options(),
        "labels": {"0": "good", "1": "defective"},
        "preprocessing": {"mean": list(MEAN), "deviation": list(DEVIATION), "colours": "RGB, 0 to 1"},
        "threshold": threshold,
        "metrics": dict(metrics),
    }
    return {f"{folder}/model.json": description | state, f"{folder}/model.safetensors": arrays, **tables}


def names(artifact: artifacts.Artifact) -> list[tuple[str, str]]:
    """Category and name of each model in an artifact, in order."""
    folders = [file.split("/") for file in artifact.names if file.endswith("/model.json")]
    return list(dict.fromkeys((folder[0], folder[1]) for folder in folders if len(folder) == 4))


class ClassifierDescription(TypedDict):
    """What `model.json` of a classifier holds that readers rely on."""

    category: str
    name: str
    settings: dict[str, Any]
    threshold: float
    seed: int
    weights: str
    views: list[str]
    temperature: float


def restore(
    artifact: artifacts.Artifact, category: str, name: str, seed: int | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """A fitted classifier from an artifact, and its description (with `threshold` and `metrics`).

    Without a seed the first one is taken. No such model, or one that is not whole, is an ArtifactError.
    """
    prefix = f"{category}/{name}/" + ("" if seed is None else f"{seed}/")
    fitting = [file for file in artifact.names if file.startswith(prefix) and file.endswith("/model.json")]
    if not fitting:
        held = ", ".join("/".join(pair) for pair in names(artifact)) or "none"
        raise ArtifactError(f"{artifact.path} has no classifier {prefix.rstrip('/')}: it holds {held}")
    folder = fitting[0].removesuffix("/model.json")
    with artifacts.complete(artifact):
        description = parse_json(artifact.read(fitting[0]), ClassifierDescription)
        state = description | artifact.arrays(f"{folder}/model.safetensors")
        state["validation"] = artifact.table(f"{folder}/validation.csv")
        curve = artifact.table(f"{folder}/curve.csv")
        state["curve"] = curve.apply(lambda column: column.replace("", np.nan).astype(float))
        return Classifier.from_options(description["settings"]).load_state(state), description


# --- what it is worth -------------------------------------------------------------------------------------------------


def score_unseen(
    classifier: Classifier,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    per_view: bool = True,
    seed: int = 0,
    finders: Mapping[str, items.Finder] | None = None,
    cuts: Mapping[str, np.ndarray] | None = None,
    checkpoints: Path | None = None,
    progress: bool = False,
) -> tuple[pd.DataFrame, list[Classifier]]:
    """Calibrated scores of one table by models that were fitted on another.

    The models take the classifier's options, one for each view or one for all; it is not fitted itself. `seed`,
    `finders`, `checkpoints` and `progress` are as in `Classifier.fit`, and `cuts`, of both tables.

    Returns:
        Rows image_id, group, view, defect, label and score: the logit divided by the temperature, so that models may be
        put side by side; and the models.
    """
    frames, models = [], []
    for view, rows in train.groupby("view", sort=True) if per_view else [(None, train)]:
        options = {"finders": finders, "cuts": cuts, "checkpoints": checkpoints, "progress": progress}
        model = replace(classifier).fit(rows.reset_index(drop=True), seed, **options)
        asked = test if view is None else test[test["view"] == view]
        columns = asked[["image_id", "group", "view", "defect", "label"]]
        seen = model.cut(asked)[0] if cuts is None else np.stack([cuts[name] for name in asked["image_id"]])
        frames.append(columns.assign(score=model.logits(seen).astype(np.float64) / model.temperature))
        models.append(model)
    return pd.concat(frames), models


def validation_scores(models: Sequence[Classifier], table: pd.DataFrame) -> pd.DataFrame:
    """Calibrated scores of the validation images of fitted models, as `score_unseen` gives those of a test table.

    What a threshold is chosen on; `table` holds these images, it may hold others.
    """
    columns = table[["image_id", "group", "view", "defect"]]
    frames = [model.validation.assign(score=model.validation["score"] / model.temperature) for model in models]
    return pd.concat([frame.merge(columns, on="image_id") for frame in frames], ignore_index=True)


def joint_verdict(scores: pd.DataFrame) -> pd.DataFrame:
    """Late fusion: the item, from all its views, by the sum of its calibrated logits.

    Logits of independent evidence add up, for classes that are equally frequent (naive Bayes). `scores`, as from
    `score_unseen`, give rows group, defect, label, score (and fold), one an item, and a column for each view.

    Examples:
        >>> views = {"group": "item", "defect": "scratch", "label": 1, "view": ["side", "top"], "score": [1.5, -0.5]}
        >>> joint_verdict(pd.DataFrame(views))["score"].tolist()
        [1.0]
    """
    views = scores.pivot(index="group", columns="view", values="score")
    columns = [name for name in ("defect", "label", "fold") if name in scores]
    rows = scores.groupby("group")[columns].first()
    return rows.join(views).assign(score=views.sum(axis=1)).reset_index()


def measure(labels: np.ndarray, scores: np.ndarray, folds: ArrayLike | None = None) -> dict[str, Any]:
    """Plain JSON data: AUROC, AP and accuracy with intervals, both classes, confusion, and calibration.

    Scores are calibrated logits; above 0, a probability of one half, is called a defect. With the folds of a
    cross-validation AUROC and AP are means over these, each ranked by its own model, as logits of different models have
    no common scale; `pooled_auroc` ranks them all together nevertheless.

    Examples:
        >>> measure(np.array([0, 0, 1, 1]), np.array([-2.0, 0.5, 1.0, 2.0]))["accuracy"]["mean"]
        0.75
    """
    folds = np.zeros(len(labels), int) if folds is None else np.asarray(folds)
    probabilities = metrics.probability(scores)
    defects, good = int(labels.sum()), int((labels == 0).sum())
    parts = [(labels[folds == fold], scores[folds == fold]) for fold in np.unique(folds)]
    auroc = float(np.mean([metrics.image_auroc(*part) for part in parts]))
    precision = float(np.mean([metrics.average_precision(*part) for part in parts]))
    bounds = {"image_auroc": metrics.newcombe(auroc, defects, good), "image_ap": metrics.wilson(precision, defects)}
    means = {"image_auroc": auroc, "image_ap": precision}
    return {
        **{key: {"mean": means[key], "low": low, "high": high} for key, (low, high) in bounds.items()},
        "pooled_auroc": metrics.image_auroc(labels, scores),
        "accuracy": metrics.accuracy(labels, scores > 0),
        "classes": metrics.per_class(labels, scores > 0),
        "confusion": metrics.confusion(labels, scores > 0).tolist(),
        "calibration_error": metrics.calibration_error(labels, probabilities),
        "brier": metrics.brier(labels, probabilities),
    }


def by_view(scores: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`measure` for each view, and for the joint verdict where there are several; by fold where there are folds."""
    frames = dict(list(scores.groupby("view", sort=True)))
    if len(frames) > 1:
        frames[JOINT] = joint_verdict(scores)
    return {
        name: measure(rows["label"].to_numpy(), rows["score"].to_numpy(), rows.get("fold"))
        for name, rows in frames.items()
    }


def joint_minus_better_view(scores: pd.DataFrame, resamples: int = 2000) -> dict[str, Any]:
    """AUROC of the joint verdict minus that of the better view: `{"mean", "low", "high", "better"}`.

    The 95 % interval is paired, over items; of a cross-validation all are means over its folds.
    """
    rows = joint_verdict(scores)
    folds = rows["fold"].to_numpy() if "fold" in rows else np.zeros(len(rows), int)
    labels = rows["label"].to_numpy()
    weights = metrics.resample_weights(labels, resamples)

    def auroc(name: str, weights: np.ndarray) -> np.ndarray:
        """(R,) means over the folds, each item of a resample counted by its weight."""
        parts = [folds == fold for fold in np.unique(folds)]
        ranked = [metrics.resampled_ranking(labels[part], rows.loc[part, name], weights[:, part]) for part in parts]
        return np.mean([values["image_auroc"] for values in ranked], axis=0)

    views = sorted(scores["view"].unique())
    estimates = {name: float(auroc(name, np.ones((1, len(rows))))[0]) for name in ["score", *views]}
    better = max(views, key=estimates.__getitem__)
    resampled = [auroc(name, weights) for name in ("score", better)]
    difference = metrics.paired_difference(*resampled, estimates["score"], estimates[better], int(labels.sum()))
    return {**difference, "better": better}
