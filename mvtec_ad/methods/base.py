"""What every method is: a detector with options, fitted on good images, that scores any image and can be kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mvtec_ad.backbones.backbone import Backbone, batch_size, load_backbone, packed_weights
from mvtec_ad.config import Options, check_seed, option, torch_device
from mvtec_ad.data.copies import content_hash, distinct
from mvtec_ad.data.loading import batches, check_memory, load_images, resize
from mvtec_ad.data.spool import Spool
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.training import checkpoint_path

Images = Sequence[str | Path] | Sequence[np.ndarray] | np.ndarray  # paths, or uint8 RGB of any size: `check_images`
Pixels = np.ndarray | Spool  # (N, S, S, 3) uint8, which need not lie in memory
Layers = list[Tensor]  # (B, h, w, C) float32 each, shallow to deep
TOGETHER = 32  # images decoded at once, in parallel
FITTED = {"init": False, "repr": False, "compare": False}  # fields that a fit fills


@dataclass(frozen=True)
class Scores:
    """Raw anomaly scores: higher is more anomalous, nothing is squashed or normalised.

    Attributes:
        image: (N,) float32, one score per image.
        maps: (N, H, W) float32 anomaly maps at the size that the method looks at, or None.
    """

    image: np.ndarray
    maps: np.ndarray | None = None


@dataclass(frozen=True)
class Change:
    """What `Detector.update` or `Detector.forget` did.

    Attributes:
        images: number that was added or removed.
        copies: images that count for nothing, for the model, or an earlier one of them, has the same content.
        recomputed: how many of the `good_scores` are leave-one-out under the model as it is now; the others are as an
            earlier state of the model gave them, since their images are not at hand.
    """

    images: int
    copies: int
    recomputed: int


@dataclass
class Detector(Options):
    """A one-class detector. A method is a subclass in one file: options, `fit_batches`, `score_batch`, state.

    `score` depends on the image alone, never on its neighbours or its place in the call. Detectors are equal where
    their options are.

    Attributes:
        seed: of the fit; None before it.
        good_scores: (n,) float32, scores of good images that the model was not fitted on: what a threshold needs.
        copies: images of the last fit that were left out, for others have the same content: counted twice, an image
            would void what the threshold promises.
        hashes: `content_hash` of each fitted image, in their order; empty where a fit was not told: then nothing can be
            forgotten.
        checkpoint_files: of the last fit; its caller removes them when what was fitted is safe.
    """

    image_size: int = option(256, "side that images are resized to, pixels", least=1, most=16384)
    crop: int = option(
        224, "side of the central part that is kept, pixels; the image size keeps all", least=1, most=16384
    )
    seed: int | None = field(default=None, init=False, compare=False)
    good_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32), **FITTED)
    copies: int = field(default=0, **FITTED)
    hashes: list[str] = field(default_factory=list, **FITTED)
    checkpoint_files: list[Path] = field(default_factory=list, **FITTED)

    name: ClassVar[str]  # of the method, a key of `methods.METHODS`
    updates: ClassVar[bool] = False  # whether `update` and `forget` work
    least_images: ClassVar[int] = 3  # good ones that a fit can do with; with 1 a fit may give no `good_scores`
    extractor: ClassVar[Backbone | None] = None  # the frozen network whose features are used, where there is one

    def check(self) -> None:
        """Refuse a crop that the image size does not allow."""
        if self.crop > self.image_size:
            raise SettingsError(f"crop {self.crop} is larger than image size {self.image_size}: choose a smaller crop")

    # --- what a method says -------------------------------------------------------------------------------------------

    def fit_batches(self, seen: Iterable[Any], count: int, seed: int, checkpoints: Path | None, progress: bool) -> None:
        """Fit on batches of what `look` made of `count` good images, in order, and set `good_scores`."""
        raise NotImplementedError

    def score_batch(self, seen: Any) -> Scores:
        """Scores of one batch of what `look` made of images."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a fit has found, as plain arrays and JSON data; `good_scores` and `seed` among it."""
        raise NotImplementedError

    def load_state(self, state: dict[str, Any]) -> Detector:
        """The inverse of `state`; returns the detector."""
        self.good_scores, self.seed = state["good_scores"].astype(np.float32), int(state["seed"])
        needed = self.calibrates and self.least_images > 1
        if self.good_scores.ndim != 1 or (needed and not len(self.good_scores)):
            raise ValueError(f"good_scores have shape {self.good_scores.shape}")
        if len(self.hashes) not in (0, len(self.good_scores)):
            raise ValueError(f"{len(self.hashes)} images have {len(self.good_scores)} good_scores")
        return self

    def add_batches(self, seen: Iterable[Any], count: int, progress: bool) -> int:
        """Take in batches of what `look` made of `count` more good images; the number of `recomputed` scores."""
        raise NotImplementedError

    def remove_batches(self, seen: Iterable[Any], positions: np.ndarray, progress: bool) -> int:
        """Forget the fitted images at these positions, of which `seen` has batches in this order; as `add_batches`."""
        raise NotImplementedError

    def look(self, pixels: np.ndarray) -> Any:
        """What the method sees of (B, crop, crop, 3) uint8 images, whatever the seed: by default the pixels."""
        return pixels

    def batch(self) -> int:
        """Images that are looked at together."""
        return TOGETHER

    def fitted(self, count: int) -> np.ndarray:
        """Positions of the good images that are fitted on, ascending, of `count`."""
        return np.arange(count)

    def calibration_images(self, count: int) -> int:
        """How many of `count` good images give `good_scores`."""
        return len(self.fitted(count))

    # --- what all methods share ---------------------------------------------------------------------------------------

    @property
    def calibrates(self) -> bool:
        """Whether a fit gives `good_scores`, without which no threshold can be promised."""
        return True

    @property
    def backbone_name(self) -> str | None:
        """Of the frozen network, for reports and manifests."""
        return self.extractor.name if self.extractor else None

    @property
    def weights_name(self) -> str | None:
        """What was loaded into it, for reports and manifests."""
        return self.extractor.weights if self.extractor else None

    def weights_files(self) -> dict[str, bytes]:
        """Its weights file, where they came from one: an artifact must carry it beside the state."""
        return packed_weights(self.extractor.source) if self.extractor else {}

    def use_backbone(self, backbone: Backbone) -> None:
        """Take a frozen network that is already loaded, as from an artifact, instead of the options'."""
        self.extractor = backbone

    def fit(
        self, images: Images, seed: int = 0, *, checkpoints: Path | None = None, progress: bool = False
    ) -> Detector:
        """Fit on good images.

        Args:
            images: paths, or (N, H, W, 3) uint8 RGB, or what `check_images` makes of others; they are resized here.
            seed: of whatever the method draws, 0 or more.
            checkpoints: folder in which a training keeps its run, and goes on from; None keeps nothing.

        Raises:
            DataError: too few images, or one cannot be read.
        """
        good, hashes = self.training_images(images, progress=progress)
        seen = self.batches(good, progress=progress and f"{self.name} fit")
        return self.fit_seen(seen, len(good), seed, hashes=hashes, checkpoints=checkpoints, progress=progress)

    def fit_seen(
        self,
        seen: Iterable[Any],
        count: int,
        seed: int,
        *,
        hashes: Sequence[str] = (),
        checkpoints: Path | None = None,
        progress: bool = False,
    ) -> Detector:
        """As `fit`, from `training_batches`: kept in a list, they serve several seeds; `hashes` are theirs."""
        check_seed(seed)
        if count < self.least_images:
            least = self.least_images
            raise DataError(f"{count} good images are too few to fit {self.name}: give at least {least}, better 60")
        self.fit_batches(seen, count, seed, checkpoints, progress)
        self.seed, self.hashes = int(seed), list(hashes)
        return self

    def update(self, images: Images, *, progress: bool = False) -> Change:
        """Take in more good images; those that the model knows already, by content, count once.

        The methods say what is equal to a fit on all images. Of a model that was fitted on a share of its images all
        new ones are taken. An error leaves the model as it was.

        Raises:
            SettingsError: the method cannot, or the model does not know what it was fitted on.
            DataError: all images are copies, or one cannot be read.
        """
        images, hashes = self._for_change(images, "updated", progress)
        known = set(self.hashes)
        chosen = [position for position in distinct(hashes).tolist() if hashes[position] not in known]
        if not chosen:
            raise DataError(f"the model was fitted on all {len(images)} images already: give new ones")
        seen = self.batches(taken(images, chosen), progress=progress and f"{self.name} update")
        recomputed = self.add_batches(seen, len(chosen), progress)
        self.hashes = [*self.hashes, *(hashes[position] for position in chosen)]
        return Change(len(chosen), len(images) - len(chosen), recomputed)

    def forget(self, images: Images, *, progress: bool = False) -> Change:
        """Remove images that the model was fitted on, by their content; as `update`.

        Raises:
            SettingsError: the method cannot, or the model does not know what it was fitted on.
            DataError: the model was not fitted on one of the images, fewer than 3 would be left, or one cannot be read.
        """
        images, hashes = self._for_change(images, "made to forget", progress)
        order = {digest: position for position, digest in enumerate(self.hashes)}
        for position, digest in enumerate(hashes):
            if digest not in order:
                name = images[position] if isinstance(images[position], str | Path) else f"number {position}"
                raise DataError(f"the model was not fitted on image {name}, nothing is forgotten: leave it out")
        chosen = distinct(hashes)
        if len(self.hashes) - len(chosen) < 3:
            left = len(self.hashes) - len(chosen)
            raise DataError(f"{left} of {len(self.hashes)} good images would be left, at least 3 must: forget fewer")
        positions = np.array([order[hashes[position]] for position in chosen])
        seen = self.batches(taken(images, chosen), progress=progress and f"{self.name} forget")
        recomputed = self.remove_batches(seen, positions, progress)
        self.hashes = np.delete(self.hashes, positions).tolist()
        return Change(len(chosen), len(images) - len(chosen), recomputed)

    def check_changeable(self, word: str = "updated") -> None:
        """Refuse, with a SettingsError, a method that cannot change, or a model that does not know its images."""
        self.check_fitted()
        if not self.updates:
            raise SettingsError(f"{self.name} cannot be {word}, only padim and patchcore can: fit it again")
        if len(self.hashes) != len(self.good_scores):
            raise SettingsError(
                f"this {self.name} does not know which images it was fitted on and cannot be {word}, for an earlier "
                "version of the package made it: fit it again"
            )

    def _for_change(self, images: Images, word: str, progress: bool) -> tuple[Images, list[str]]:
        """Checked images and their hashes, where the method and the model allow a change."""
        self.check_changeable(word)
        images = check_images(images)
        return images, self.content_hashes(images, progress=progress)

    def score(self, images: Images, *, progress: bool = False) -> Scores:
        """Score images as `fit` takes them: scores (N,) and maps (N, crop, crop) or None, float32, raw."""
        return self.score_seen(self.batches(images, progress=progress and f"{self.name} score"))

    def score_seen(self, seen: Iterable[Any]) -> Scores:
        """As `score`, from `batches`."""
        self.check_fitted()
        parts = [self.score_batch(batch) for batch in seen]
        maps = None if parts[0].maps is None else np.concatenate([scores.maps for scores in parts])
        image = np.concatenate([scores.image for scores in parts])
        if not np.isfinite(image).all():
            raise DataError(f"{self.name} gives an image the score {image[~np.isfinite(image)][0]}: fit it again")
        return Scores(image, maps)

    def check_fitted(self) -> None:
        """Refuse, with a SettingsError, a detector that has nothing to score with."""
        if self.seed is None:
            raise SettingsError(f"this {self.name} is not fitted: call fit(images) first")

    def training_batches(self, images: Images, *, progress: bool = False) -> tuple[Iterator[Any], int]:
        """`batches` of the good images that are fitted on, and how many these are; of copies only the first."""
        good, _ = self.training_images(images, progress=progress)
        return self.batches(good, progress=progress and f"{self.name} fit"), len(good)

    def training_images(self, images: Images, *, progress: bool = False) -> tuple[Images, list[str]]:
        """The good images that are fitted on, of copies only the first, and the `content_hash` of each."""
        images = check_images(images)
        hashes = self.content_hashes(images, progress=progress)
        chosen = distinct(hashes)
        self.copies = len(images) - len(chosen)
        chosen = chosen[self.fitted(len(chosen))]
        return taken(images, chosen), [hashes[position] for position in chosen]

    def content_hashes(self, images: Images, *, progress: bool = False) -> list[str]:
        """`content_hash` of each image as the method looks at it."""
        hashes: list[str] = []
        with tqdm(total=len(images), desc=f"{self.name} read", unit="image", disable=not progress) as bar:
            for chunk in batches(len(images), TOGETHER):
                hashes += map(content_hash, self.load(images[chunk]))
                bar.update(chunk.stop - chunk.start)
        return hashes

    def batches(self, images: Images, *, progress: str | bool = False) -> Iterator[Any]:
        """What `look` makes of images, batch by batch, as they are read; `progress` is the title of a bar."""
        images = check_images(images)
        with tqdm(total=len(images), desc=progress or None, unit="image", disable=not progress) as bar:
            for chunk in batches(len(images), max(TOGETHER, self.batch())):
                yield from self.parts(self.load(images[chunk]))
                bar.update(chunk.stop - chunk.start)

    def parts(self, pixels: Pixels) -> Iterator[Any]:
        """What `look` makes of (N, crop, crop, 3) uint8 images that `load` has given, batch by batch."""
        for part in batches(len(pixels), self.batch()):
            yield self.look(pixels[part])

    def load(self, images: Images) -> np.ndarray:
        """(N, crop, crop, 3) uint8: images as the method looks at them."""
        images = check_images(images)
        if isinstance(images[0], str | Path):
            return load_images(images, self.image_size, self.crop)
        check_memory(len(images), self.crop)
        return np.stack([resize(image, self.image_size, self.crop) for image in images])


def taken(images: Images, positions: Sequence[int] | np.ndarray) -> Images:
    """Some of the images, in this order."""
    return images[positions] if isinstance(images, np.ndarray) else [images[position] for position in positions]


def hashes_state(hashes: Sequence[str]) -> dict[str, np.ndarray]:
    """Hashes of images as an array `images`, (N, 32) uint8, of a state; nothing where they are not known."""
    digests = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)
    return {"images": digests} if len(hashes) else {}


def load_hashes(state: dict[str, Any]) -> list[str]:
    """The inverse of `hashes_state`; empty for what an earlier version of the package wrote."""
    return [row.tobytes().hex() for row in np.asarray(state.get("images", np.empty((0, 32))), np.uint8)]


def check_images(images: Any) -> Images:
    """Images as they are taken: paths in a list, or uint8 RGB, (N, H, W, 3) or a list of (H, W, 3) of any size.

    Also understood are tensors, gray pictures, channels that stand first, any series that can be listed. All else is a
    DataError, floats too: whether their 1 is white or nearly black, no image says by itself.
    """
    images = listed(images)
    if isinstance(images, np.ndarray):
        return as_rgb(images, 4)
    paths = [isinstance(image, str | Path) for image in images]
    if any(paths) and not all(paths):
        raise DataError("images are paths and arrays at once: give all of them as one or the other")
    return images if any(paths) else [as_rgb(image) for image in images]


def listed(images: Any) -> Sequence[Any]:
    """Images as one array or a list that is not empty; a lone path, a folder, a table or a set is a DataError."""
    images = images.numpy(force=True) if isinstance(images, Tensor) else images
    if not isinstance(images, np.ndarray) or (images.ndim == 1 and images.dtype.kind in "OU"):
        if isinstance(images, str | bytes | Mapping | Set | pd.DataFrame) or not isinstance(images, Iterable):
            way = "[path] for one of them, sorted(folder.glob('*.png')) for a folder, list(table['image_path'])"
            raise DataError(f"images must be a list of paths or arrays, not a {type(images).__name__}: give {way}")
        images = list(images)
    if (images.size if isinstance(images, np.ndarray) else len(images)) == 0:
        raise DataError("no images to look at: the folder or the selection is empty")
    return images


def as_rgb(image: Any, ndim: int = 3) -> np.ndarray:
    """One image as (H, W, 3) uint8, or with `ndim` 4 a stack of them; nothing is copied. See `check_images`."""
    pixels = image.numpy(force=True) if isinstance(image, Tensor) else image
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and 0 not in pixels.shape:
        gray = pixels.ndim == ndim - 1
        if gray and not (ndim == 4 and (pixels.shape[-1] in (1, 3, 4) or pixels.shape[0] in (3, 4))):  # or one image?
            pixels = pixels[..., None]
        if pixels.ndim == ndim and pixels.shape[-1] not in (1, 3) and pixels.shape[-3] in (1, 3):
            pixels = np.moveaxis(pixels, -3, -1)
        if pixels.ndim == ndim and pixels.shape[-1] in (1, 3):
            return np.broadcast_to(pixels, (*pixels.shape[:-1], 3)) if pixels.shape[-1] == 1 else pixels
    shown = f"{tuple(np.shape(pixels))} {pixels.dtype}" if isinstance(pixels, np.ndarray) else type(image).__name__
    raise DataError(
        f"images must be paths or uint8 RGB from 0 to 255, (N, H, W, 3) or a list of (H, W, 3), not {shown}: multiply "
        "floats in [0, 1] by 255 and round, put a single image into a list, leave a fourth channel out"
    )


def check_table(table: Any, *columns: str) -> None:
    """Refuse, with a DataError, what is no table, is empty, lacks a column or has other labels than 0 and 1."""
    way = "give a table as from data.index.read_category"
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"images with labels come in a table, not a {type(table).__name__}: {way}")
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"the table of images has no column {missing[0]}: {way}")
    if len(table) == 0:
        raise DataError("the table of images is empty: the folder or the selection holds none")
    if "label" in columns and not table["label"].isin((0, 1)).all():
        raise DataError("labels must be the numbers 0 (good) and 1 (defect): convert the column label")


@dataclass
class FeatureDetector(Detector):
    """A detector over the layers of a frozen backbone, which several seeds share."""

    backbone: str = option("efficientnet_lite0", "efficientnet_lite0, resnet18, …, keras:NAME or timm:NAME")
    weights: str = option("imagenet", "imagenet, random, synthetic or the path of a weights file")

    @cached_property
    def network(self) -> Backbone:
        """The frozen network, loaded when first needed."""
        return load_backbone(self.backbone, self.weights)

    @property
    def extractor(self) -> Backbone:
        """The same."""
        return self.network

    def use_backbone(self, backbone: Backbone) -> None:
        """Instead of loading one."""
        self.network = backbone

    def look(self, pixels: np.ndarray) -> Layers:
        """Three layers, (B, h, w, C) float32 each: 1.4 MB an image for ResNet-18 at 224 px, 5.6 for WideResNet50."""
        return self.network(pixels)

    def batch(self) -> int:
        """What the device takes best."""
        return batch_size()


@dataclass
class TrainedDetector(Detector):
    """A detector that trains a network of its own; some good images are held out, for early stopping and the threshold.

    Attributes:
        curve: columns step, the losses and what was measured on held-out images.
    """

    steps: int = option(600, "training steps", least=1, most=1_000_000)
    batch_images: int = option(32, "images a step", least=2, most=100_000)
    lr: float = option(1e-3, "learning rate", above=0, most=1)
    held_out: float = option(
        0.2, "share of the good images that is not trained on; 0 trains on all, without a threshold", least=0, below=1
    )
    sigma: float = option(1.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)
    curve: pd.DataFrame = field(default_factory=pd.DataFrame, **FITTED)

    def check(self) -> None:
        """Refuse what a network cannot be trained on."""
        super().check()
        if self.crop < 16:
            raise SettingsError(f"crop {self.crop} is too small to be reconstructed: use 16 pixels or more")

    def batch(self) -> int:
        """As many pixels as `TOGETHER` images of 128 pixels have, at most: a network of its own is the wider.

        One image on a CPU, where sums of several differ in the last digit: a threshold is the score of a held-out
        image, and that image alone must not score above it.
        """
        return 1 if torch_device() == "cpu" else max(1, int(TOGETHER * min(1, (128 / self.crop) ** 2)))

    def fit_batches(
        self, seen: Iterable[np.ndarray], count: int, seed: int, checkpoints: Path | None, progress: bool
    ) -> None:
        """Hold some images out, train on the others, score those held out."""
        images = Spool(count)
        for batch in seen:
            images.append(batch)
        positions = held_out_positions(count, self.calibration_images(count), seed)
        held, others = images.taken(positions), images.taken(np.delete(np.arange(count), positions))
        checkpoint = checkpoint_path(checkpoints, self.name, self.identity(seed), images) if checkpoints else None
        self.checkpoint_files = [checkpoint] if checkpoint else []
        self.train(others, held, seed, checkpoint, progress)
        scores = [self.score_batch(part).image for part in self.parts(held)]
        self.good_scores = np.concatenate([np.empty(0, np.float32), *scores])

    @property
    def calibrates(self) -> bool:
        """Only where images are held out."""
        return self.held_out > 0

    def train(self, images: Pixels, held: Pixels, seed: int, checkpoint: Path | None, progress: bool) -> None:
        """Train the network on (N, S, S, 3) uint8 images; `held` are the held-out ones."""
        raise NotImplementedError

    def identity(self, seed: int) -> dict[str, Any]:
        """All that the weights depend on beside the images."""
        return {**self.options(), "seed": seed}

    def calibration_images(self, count: int) -> int:
        """The held-out images: the share asked for, but 20 where half of the images allows it; none where it is 0."""
        if not self.calibrates:
            return 0
        wanted = max(round(count * self.held_out), min(20, count // 2))
        return max(1, min(wanted, count - 2))


def held_out_positions(count: int, number: int, seed: int) -> np.ndarray:
    """`number` positions of `count` that are not trained on, ascending, int64."""
    return np.sort(np.random.default_rng([seed, count]).permutation(count)[:number])


def content_seed(image: np.ndarray) -> int:
    """A seed from an image's content, so that what is drawn for it depends on nothing else."""
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8], "big")


# --- tensors and maps -------------------------------------------------------------------------------------------------


def mean_pixels(images: Pixels) -> np.ndarray:
    """The mean image, (S, S, 3) float64: exact, being a sum of whole numbers."""
    parts = (images[part].sum(0, dtype=np.float64) for part in batches(len(images), TOGETHER))
    return sum(parts) / len(images)


def as_tensor(images: np.ndarray) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [0, 1], on the device; other numbers would be taken for dark."""
    if images.dtype != np.uint8:
        raise DataError(f"pixels must be uint8 from 0 to 255, not {images.dtype}: multiply floats in [0, 1] by 255")
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch_device()).permute(0, 3, 1, 2).float() / 255


def as_images(tensor: Tensor) -> np.ndarray:
    """(B, 3, S, S) in [0, 1] -> (B, S, S, 3) uint8."""
    return (tensor * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def normal(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Standard normal numbers, float32, on the device."""
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(torch_device())


def enlarge(grids: Tensor, size: int | tuple[int, int]) -> np.ndarray:
    """Grids (B, h, w) to maps of this size, or height and width, float32, linear between the centres of the cells."""
    maps = F.interpolate(grids[:, None], size, mode="bilinear", align_corners=False)
    return maps[:, 0].cpu().numpy()


def smooth(maps: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (N, H, W) float32 maps, σ in pixels, cut at 4σ, edges mirrored (as scipy's default)."""
    if sigma <= 0:
        return maps
    width = 2 * int(4 * sigma + 0.5) + 1
    return np.stack(
        [cv2.GaussianBlur(anomaly_map, (width, width), sigma, borderType=cv2.BORDER_REFLECT) for anomaly_map in maps]
    )


def grid_maps(grids: Tensor, size: int, sigma: float) -> np.ndarray:
    """Grids (B, h, w) as anomaly maps (B, size, size) float32: enlarged, then smoothed with σ in pixels."""
    return smooth(enlarge(grids, size), sigma)


def peak(maps: np.ndarray) -> np.ndarray:
    """Largest value of each map, (N, H, W) -> (N,)."""
    return maps.reshape(len(maps), -1).max(1)


def weights_state(network: torch.nn.Module, prefix: str) -> dict[str, np.ndarray]:
    """A network's weights as arrays, `PREFIX.NAME`."""
    return {f"{prefix}.{name}": value.cpu().numpy() for name, value in network.state_dict().items()}


def load_weights(network: torch.nn.Module, state: dict[str, Any], prefix: str) -> torch.nn.Module:
    """Fill a network from `weights_state`; moved to the device, in evaluation mode."""
    weights = {name: torch.from_numpy(np.array(state[f"{prefix}.{name}"])) for name in network.state_dict()}
    network.load_state_dict(weights)
    return network.to(torch_device(), memory_format=torch.channels_last).eval()


def curve_state(curve: pd.DataFrame) -> dict[str, np.ndarray]:
    """A training curve as arrays, `curve.COLUMN`."""
    return {f"curve.{name}": values.to_numpy() for name, values in curve.items()}


def load_curve(state: dict[str, Any], *columns: str) -> pd.DataFrame:
    """The inverse of `curve_state`, in the order of the columns."""
    return pd.DataFrame({name: state[f"curve.{name}"] for name in columns if f"curve.{name}" in state})
