"""PatchCore: distances to a memory bank of the patch features of good images.

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly Detection", 2022
(arXiv:2106.08265). As in anomalib, the pooled layers are concatenated as they are; the authors' code brings each patch
to 1024 numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mvtec_ad import tiles
from mvtec_ad.backbones.backbone import STRIDES
from mvtec_ad.config import option, torch_device
from mvtec_ad.data.copies import content_hash
from mvtec_ad.data.loading import read_image
from mvtec_ad.data.spool import Spool
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import (
    FITTED,
    FeatureDetector,
    Images,
    Layers,
    Scores,
    check_images,
    grid_maps,
    hashes_state,
    load_hashes,
)

FORGOTTEN = 0.02  # of all images: as many as a coreset may lose
REPAIRING = 20  # good images at least that holes are filled from
MOST_PATCHES = 2**19  # that the coreset is chosen from; of more, so many are drawn, which bounds memory


@dataclass
class Patchcore(FeatureDetector):
    """PatchCore: fit on good images, score any image.

    `good_scores` are those of each fitted image against the bank without its own patches. The coreset was chosen with
    the image present, so where its patches stood no others were picked and holes stay: these scores err on the high
    side, that of fewer false alarms.

    With `tile`, pictures of any size are looked at in their native size, a tile at a time, and a tile's side changes
    nothing but memory (`mvtec_ad.tiles`). The unit stays the picture: one score each, which is what the threshold
    promises about: for pictures as large as the fitted ones, since more patches have a larger largest distance.
    `image_size` and `crop` then say nothing, and there are no maps but from `score_picture`.

    Attributes:
        bank: (M, C) float32, patch features in the order of their picking: eq. 4, thinned by eq. 5.
        picks: (M,) int64, the patch that each bank row is: image · cells + cell, in the order of the fitted images;
            with `tile` the image.
        grid: height and width in cells; (1, 1) with `tile`.
        most_pixels: of a fitted picture, with `tile`.
        forgotten: images since the fit.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        >>> detector = Patchcore(weights="random", coreset=0.5, image_size=32, crop=32).fit(good, seed=0)
        >>> detector.bank.shape, detector.score(good[:2]).maps.shape
        (torch.Size([64, 152]), (2, 32, 32))
    """

    layers: tuple[int, ...] = option((2, 3), "depths of the network, of 1, 2 and 3", among=(1, 2, 3))
    neighbourhood: int = option(3, "p of eq. 1: a patch is averaged over p × p cells, odd", least=1, most=99)
    coreset: float = option(0.1, "share of the patches that is kept", above=0, most=1)
    projection: int = option(128, "dimensions in which the coreset is chosen; distances take all", least=1, most=16384)
    neighbours: int = option(9, "b of eq. 7; 0 and 1 leave the image score unweighted", least=0)
    sigma: float = option(4.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)
    memory_gb: float = option(0.5, "distances held at once, 10⁹ bytes", above=0, most=1e6)
    most_pixels: int = field(default=0, **FITTED)
    forgotten: int = field(default=0, **FITTED)
    tile: int = option(
        0, "side of the tiles in which pictures are looked at in their native size, pixels; 0 resizes them", least=0
    )

    name: ClassVar = "patchcore"
    updates: ClassVar = True
    reach: ClassVar[int | None] = None  # pixels that a patch sees around it, once measured
    PRESETS: ClassVar = {
        "default": {},
        "resnet18": {"backbone": "resnet18", "image_size": 224, "crop": 224},  # anomalib's, whose figures are published
        "wide_resnet50": {"backbone": "wide_resnet50_2"},
        "quick": {"image_size": 192, "crop": 192, "sigma": 3.0, "coreset": 0.02},
        "full": {},
    }

    def check(self) -> None:
        """Refuse no layers and a neighbourhood without a centre."""
        super().check()
        if not self.layers:
            raise SettingsError("layers () are none of 1, 2 and 3: name one or more of them")
        if self.neighbourhood % 2 == 0:
            raise SettingsError(f"neighbourhood {self.neighbourhood} has no centre: use an odd number")

    def fit_batches(
        self, seen: Iterable[Layers], count: int, seed: int, checkpoints: Path | None, progress: bool
    ) -> None:
        """Gather patch features, 1.2 MB an image for ResNet-18 at 224 px, choose the bank and calibrate."""
        self.most_pixels = self.forgotten = 0
        patches, positions, features = self.gathered(seen, count, seed)
        number = max(1, round(self.coreset * len(patches)))
        picks = select(patches, number, projection=self.projection, seed=seed, progress=progress)
        self.bank, self.picks = patches[torch.from_numpy(picks).to(patches.device)], positions[picks]
        self.good_scores = self.left_out(features, self.bank, self.picks // (self.grid[0] * self.grid[1]), progress)

    def left_out(self, features: Any, bank: Tensor, origins: np.ndarray, progress: bool) -> np.ndarray:
        """`leave_one_out` of features from `gathered`."""
        if not self.tile:
            return leave_one_out(features, bank, origins, self.neighbours, self.memory_gb, progress)
        rows = torch.from_numpy(origins).to(bank.device)
        return np.array(
            [self.score_picture(picture, bank, rows == n, progress)[0] for n, picture in enumerate(features)],
            np.float32,
        )

    def gathered(self, seen: Iterable[Layers], count: int, seed: int) -> tuple[Tensor, np.ndarray, Tensor | Spool]:
        """Patches of `count` images that a coreset is chosen from (n, C), the positions of these among all, and all of
        them (N, P, C)."""
        if self.tile:
            return self.gathered_tiles(seen, count, seed)
        patches, start = None, 0
        for layers in seen:
            batch_features = patch_features(layers, self.layers, self.neighbourhood)
            if patches is None:
                self.grid = tuple(batch_features.shape[1:3])
                cells = self.grid[0] * self.grid[1]
                positions = draw_patches(count * cells, MOST_PATCHES, seed)
                patches = batch_features.new_empty(len(positions), batch_features.shape[3])
                spool = Spool(count) if len(positions) < count * cells else None  # calibration needs the others too
            if spool is not None:
                spool.append(batch_features.flatten(1, 2).cpu().numpy())
            batch_features = batch_features.flatten(0, 2)
            low, high = np.searchsorted(positions, [start, start + len(batch_features)])
            patches[low:high] = batch_features[torch.from_numpy(positions[low:high] - start).to(patches.device)]
            start += len(batch_features)
        return patches, positions, patches.unflatten(0, (count, cells)) if spool is None else spool

    def gathered_tiles(self, seen: Iterable[np.ndarray], count: int, seed: int) -> tuple[Tensor, np.ndarray, Any]:
        """As `gathered`, of pictures; of each, equally many of its patches are drawn, which bounds memory."""
        parts, self.grid, cell = [], (1, 1), STRIDES[min(self.layers) - 1]
        for number, picture in enumerate(seen):
            self.most_pixels = max(self.most_pixels, picture.shape[0] * picture.shape[1])
            total, start = math.prod(math.ceil(size / cell) for size in picture.shape[:2]), 0
            positions = draw_patches(total, max(1, MOST_PATCHES // count), seed + number)  # in the order of the tiles
            chosen = []
            for _, features in self.tiled(picture):
                flat = features.flatten(0, 1)
                low, high = np.searchsorted(positions, [start, start + len(flat)])
                chosen.append(flat[torch.from_numpy(positions[low:high] - start).to(flat.device)])
                start += len(flat)
            parts.append(torch.cat(chosen))
        return torch.cat(parts), np.repeat(np.arange(count), [len(part) for part in parts]), seen

    def tiled(self, picture: np.ndarray, progress: bool = False) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Patch features of a picture in its native size, tile by tile: their cells, and (h, w, C)."""
        if self.network.tensors is None:
            raise SettingsError(f"{self.backbone} cannot be asked tile by tile: choose efficientnet_lite0 or resnet18")
        if self.reach is None:
            tensors = self.network.tensors
            self.reach = tiles.receptive_reach(
                lambda pixels: patch_features(
                    [layer.permute(0, 2, 3, 1) for layer in tensors(pixels.to(torch_device()))],
                    self.layers,
                    self.neighbourhood,
                )
            )

        def features(pixels: np.ndarray) -> Tensor:
            return patch_features(self.network(pixels), self.layers, self.neighbourhood)

        total = len(tiles.cut(*picture.shape[:2], self.tile, self.reach))
        parts = tiles.tiled_features(features, picture, self.tile, self.reach)
        return iter(tqdm(parts, total=total, desc="patchcore tiles", unit="tile", disable=not progress))

    def score_picture(
        self, picture: np.ndarray, bank: Tensor | None = None, without: Tensor | None = None, progress: bool = False
    ) -> tuple[float, np.ndarray]:
        """Score of a picture (H, W, 3) uint8 in its native size, and the distance of each of its cells, (h, w) float32.

        As `score_batch`, tile by tile; another bank than the model's may be given, and rows that are left out.
        """
        bank = self.bank if bank is None else bank
        lengths = bank.square().sum(1)
        if without is not None and not without.all():
            lengths = lengths.masked_fill(without, torch.inf)
        parts, largest, patch, centre = [], -1.0, None, None
        for place, features in self.tiled(picture, progress):
            flat = features.flatten(0, 1)
            distances, rows = nearest(flat, bank, lengths, self.memory_gb)
            value, at = distances.max(0)
            if float(value) > largest:
                largest, patch, centre = float(value), flat[at].clone(), rows[at]
            parts.append((place, distances.unflatten(0, features.shape[:2]).cpu().numpy()))
        grid = np.empty(tuple(max(place[axis].stop for place, _ in parts) for axis in (0, 1)), np.float32)
        for place, distances in parts:
            grid[place] = distances
        number = min(self.neighbours, int(lengths.isfinite().sum()))  # rows that are left out are not among the b
        return largest * float(reweighting(patch[None], centre[None], bank, lengths, number)), grid

    def add_batches(self, seen: Iterable[Layers], count: int, progress: bool) -> int:
        """Choose the coreset anew, from the bank and the patches of the new images, in the size that the share gives.

        It is not the bank of a fit on all images, but for `coreset` = 1: patches that the old bank left out are gone.
        They lie within the old covering radius of the old bank, and that bank within the new radius of the new one, so
        every patch ever seen has a row at the sum of both radii or nearer (in the projection that each was chosen in).
        Scores of old images are those against the old bank; new images are scored without their own rows.
        """
        old, grid = len(self.good_scores), self.grid
        patches, positions, features = self.gathered(seen, count, self.seed)
        if self.grid != grid:
            new, self.grid = self.grid, grid
            raise SettingsError(f"layers of {new} cells, fitted on {grid}: fit again")
        cells = self.grid[0] * self.grid[1]
        union, origins = torch.cat([self.bank, patches]), np.concatenate([self.picks, old * cells + positions])
        number = max(1, round(self.coreset * min((old + count) * cells, MOST_PATCHES)))
        if self.tile:  # pictures have unequal sizes: the bank grows by the share of what is new
            number = min(len(self.bank) + round(self.coreset * len(patches)), round(self.coreset * MOST_PATCHES))
        picks = select(union, number, projection=self.projection, seed=self.seed, progress=progress)
        bank, picked = union[torch.from_numpy(picks).to(union.device)], origins[picks]
        new = self.left_out(features, bank, picked // cells - old, progress)
        self.bank, self.picks, self.good_scores = bank, picked, np.concatenate([self.good_scores, new])
        return count

    def remove_batches(self, seen: Iterable[Layers], positions: np.ndarray, progress: bool) -> int:
        """Remove the rows that come from these images, and their scores.

        It is not the bank of a fit on the others, but for `coreset` = 1: where a row stood, patches like it of other
        images were left out, and are gone. Mostly other rows are near; but where a row alone stood for patches that all
        images have, all good images to come score too high (seen on bottles: 4 of 209 forgotten, 19 of 20 good test
        images flagged). `repair` fills such holes. `FORGOTTEN` of all images at most may be forgotten since the fit.

        Raises:
            DataError: they are more, or the bank would be empty.
        """
        fitted = len(self.good_scores) + self.forgotten
        most = max(1, int(FORGOTTEN * fitted))
        if self.coreset < 1 and self.forgotten + len(positions) > most:
            raise DataError(
                f"of a coreset of {fitted} images {most} can be forgotten, {self.forgotten + len(positions)} would be: "
                "fit again on the others"
            )
        self.remove(positions)
        self.forgotten += len(positions)
        return 0

    def repair(self, images: Images, *, progress: bool = False) -> int:
        """Fill the holes that `forget` left, from good images at hand, known or new, 20 or more; their number.

        Their patches are offered to the coreset (again), and their scores are those against the new bank. The scores
        of images that are not given stay as they are.
        """
        images, hashes = self._for_change(images, "repaired", progress)
        if len(set(hashes)) < REPAIRING:
            raise DataError(f"{len(set(hashes))} good images are too few to fill holes from: give {REPAIRING} or more")
        known = np.flatnonzero(np.isin(self.hashes, hashes))
        if len(known) == len(self.hashes):  # all are at hand: a fit leaves no holes
            self.fit(images, self.seed, progress=progress)
            return len(self.hashes)
        if len(known):
            self.remove(known)
            self.hashes = np.delete(self.hashes, known).tolist()
        return self.update(images, progress=progress).images

    def remove(self, positions: np.ndarray) -> None:
        """Rows and scores of fitted images go."""
        cells = self.grid[0] * self.grid[1]
        images = self.picks // cells
        rows = ~np.isin(images, positions)
        if not rows.any():
            raise DataError("all rows of the bank come from these images: fit again on the others")
        self.bank = self.bank[torch.from_numpy(rows).to(self.bank.device)]
        self.picks = self.picks[rows] - cells * np.searchsorted(np.sort(positions), images[rows])
        self.good_scores = np.delete(self.good_scores, positions)

    def score_batch(self, layers: Layers) -> Scores:
        """The image score comes from the distances of the patches; only the map is enlarged and smoothed."""
        if self.tile:
            return Scores(np.array([self.score_picture(layers)[0]], np.float32))
        features = patch_features(layers, self.layers, self.neighbourhood)
        if tuple(features.shape[1:3]) != self.grid:
            raise SettingsError(f"layers of {features.shape[1:3]} cells, fitted on {self.grid}: fit again")
        lengths = self.bank.square().sum(1)
        scores, distances = measure(features.flatten(1, 2), self.bank, lengths, self.neighbours, self.memory_gb)
        return Scores(scores.cpu().numpy(), grid_maps(distances.unflatten(1, self.grid), self.crop, self.sigma))

    def batches(self, images: Images, *, progress: str | bool = False) -> Iterable[Any]:
        """With `tile`, the pictures themselves, which are read anew by each who walks through them."""
        if not self.tile:
            return super().batches(images, progress=progress)
        return Pictures(check_images(images), progress)

    def content_hashes(self, images: Images, *, progress: bool = False) -> list[str]:
        """With `tile`, of the pictures as they are."""
        if not self.tile:
            return super().content_hashes(images, progress=progress)
        return [content_hash(picture) for picture in Pictures(images, progress and "patchcore read")]

    def look(self, pixels: np.ndarray) -> Layers:
        """As of every feature detector; refused with `tile`, where nothing is resized."""
        if self.tile:
            raise SettingsError(
                "this patchcore looks at pictures tile by tile, as fit, score, update and detect do: for all else fit "
                "one without --tile"
            )
        return super().look(pixels)

    def load(self, images: Images) -> np.ndarray:
        """Refused with `tile`: nothing is resized."""
        if self.tile:
            raise SettingsError("this patchcore looks at pictures tile by tile: only fit, score, update and detect can")
        return super().load(images)

    def state(self) -> dict[str, Any]:
        """The bank, where its rows come from, and the grid."""
        arrays = {name: getattr(self, name) for name in ("bank", "picks", "grid", "good_scores", "seed")}
        arrays |= {"forgotten": self.forgotten} if self.forgotten else {}
        return {**arrays, **hashes_state(self.hashes), **({"most_pixels": self.most_pixels} if self.tile else {})}

    def load_state(self, state: dict[str, Any]) -> Patchcore:
        """The inverse of `state`."""
        self.hashes, self.forgotten = load_hashes(state), int(state.get("forgotten", 0))
        self.most_pixels = int(state["most_pixels"]) if self.tile else 0
        self.bank = torch.as_tensor(state["bank"]).to(torch_device())
        self.picks, self.grid = np.asarray(state["picks"]), tuple(state["grid"])
        if self.bank.ndim != 2 or self.picks.shape != self.bank.shape[:1]:
            raise ValueError(f"a bank of {tuple(self.bank.shape)} has {len(self.picks)} picks")
        return super().load_state(state)


@dataclass(frozen=True)
class Pictures:
    """Pictures in their native size, one after the other, read each time anew."""

    images: Images
    progress: str | bool = False

    def __iter__(self) -> Iterator[np.ndarray]:
        for image in tqdm(self.images, desc=self.progress or None, unit="picture", disable=not self.progress):
            yield read_image(image) if isinstance(image, str | Path) else image


# --- features and distances -------------------------------------------------------------------------------------------


def patch_features(layers: Layers, depths: Sequence[int], neighbourhood: int) -> Tensor:
    """Locally aware patch features (eq. 1 to 3): p × p averages of each chosen layer, on the grid of the shallowest.

    At the border the average takes in zeros, as in both known implementations; deeper layers are enlarged linearly.
    Layers (B, h, w, C), shallow to deep, at `depths` from 1 -> (B, h, w, ΣC) float32; `neighbourhood` is p.

    Examples:
        >>> layers = [torch.ones(2, 8, 8, 16), torch.ones(2, 4, 4, 32)]
        >>> patch_features(layers, (1, 2), 3).shape
        torch.Size([2, 8, 8, 48])
    """
    chosen = [layers[depth - 1].permute(0, 3, 1, 2) for depth in sorted(set(depths))]  # B×C×h×w
    pooled = [F.avg_pool2d(layer, neighbourhood, stride=1, padding=neighbourhood // 2) for layer in chosen]
    grid = pooled[0].shape[2:]
    deeper = [F.interpolate(layer, grid, mode="bilinear", align_corners=False) for layer in pooled[1:]]
    return torch.cat([layer.permute(0, 2, 3, 1) for layer in (pooled[0], *deeper)], -1)


def measure(
    features: Tensor, bank: Tensor, lengths: Tensor, neighbours: int, memory_gb: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Image scores (eq. 6 and 7) and patch distances.

    Features (B, P, C) and a bank (M, C) give (B,) and (B, P), ≥ 0. `lengths`, (M,), are squared lengths of the bank's
    rows; a row of infinite length is left out. `neighbours` is b of `reweighting`.

    Examples:
        >>> bank = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> measure(torch.tensor([[[0.0, 3.0]]]), bank, bank.square().sum(1), neighbours=1)
        (tensor([3.]), tensor([[3.]]))
    """
    distances, rows = nearest(features.flatten(0, 1), bank, lengths, memory_gb)
    distances, rows = distances.unflatten(0, features.shape[:2]), rows.unflatten(0, features.shape[:2])
    largest, place = distances.max(1)  # s* of eq. 6
    images = torch.arange(len(features), device=features.device)
    patches, centres = features[images, place], rows[images, place]  # m^test,* and m*
    return largest * reweighting(patches, centres, bank, lengths, neighbours), distances


def nearest(patches: Tensor, bank: Tensor, lengths: Tensor, memory_gb: float = 0.5) -> tuple[Tensor, Tensor]:
    """Nearest neighbour in the bank of each of (n, C) patches, by comparing with all: distances and rows, (n,) each.

    Products find the row, up to the rounding of float32; its distance is then taken from the difference, which loses no
    digits. Of products, `memory_gb` · 10⁹ bytes are held at once, one patch at least; for the others see `measure`.
    """
    distances, rows = [], []
    for part in patches.split(max(1, int(memory_gb * 1e9 / (4 * len(bank))))):
        row = torch.addmm(lengths, part, bank.T, alpha=-2).argmin(1)  # ‖m‖² − 2 m·x: the patch's own ‖x‖² is the same
        rows.append(row)
        distances.append((part - bank[row]).square().sum(1).sqrt())
    return torch.cat(distances), torch.cat(rows)


def reweighting(patches: Tensor, centres: Tensor, bank: Tensor, lengths: Tensor, neighbours: int) -> Tensor:
    """The factor of eq. 7: 1 − exp(d(m*)) / Σ exp(d(m)) over the b bank rows nearest to m*, m* being one of them.

    It grows with the distances around m*: beside a normal patch that is itself rare, the same distance counts for more.
    `patches`, (B, C), are the most anomalous of each image, `centres`, (B,), their m*; `lengths` are as in `measure`.
    Gives (B,) in [0, 1); 1 where b, or the bank, is 1 or less. Rows that are left out must not be among the b.
    """
    neighbours = min(neighbours, len(bank))
    if neighbours <= 1:
        return torch.ones_like(patches[:, 0])
    squared = torch.addmm(lengths, bank[centres], bank.T, alpha=-2)
    squared.scatter_(1, centres[:, None], -torch.inf)  # m* first, whatever rounding or duplicates say
    around = bank[squared.topk(neighbours, largest=False).indices]  # B×b×C
    distances = (patches[:, None] - around).square().sum(-1).sqrt()
    return 1 - distances.softmax(1)[:, 0]


def leave_one_out(
    features: Tensor | Spool,
    bank: Tensor,
    origins: np.ndarray,
    neighbours: int,
    memory_gb: float = 0.5,
    progress: bool = False,
) -> np.ndarray:
    """Score of every fitted image against the bank rows that come from other images, (N,) float32.

    An image that fills the bank alone, which only a tiny bank or equal images allow, is measured against all of it.
    Features are (N, P, C), the bank (M, C); `origins`, (M,), says which image each of its rows comes from.
    """
    lengths, rows = bank.square().sum(1), torch.from_numpy(origins).to(bank.device)
    scores = []
    for index in tqdm(range(len(features)), desc="patchcore calibrate", unit="image", disable=not progress):
        from_image = rows == index
        others = lengths if from_image.all() else lengths.masked_fill(from_image, torch.inf)
        image = torch.as_tensor(features[index : index + 1]).to(bank.device)
        number = min(neighbours, int(others.isfinite().sum()))
        scores.append(measure(image, bank, others, number, memory_gb)[0])
    return torch.cat(scores).cpu().numpy()


def draw_patches(total: int, most: int, seed: int) -> np.ndarray:
    """Positions of the patches that the coreset is chosen from, ascending, int64: all, or `most` at random.

    All images of any MVTec AD category have fewer at 256 px; 5,000 such images have 5 million, 7.9 GB, and the choice
    of a tenth of them takes days.

    Examples:
        >>> draw_patches(3, 4, seed=0)
        array([0, 1, 2])
    """
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng([seed, total]).choice(total, most, replace=False))


# --- the coreset ------------------------------------------------------------------------------------------------------
# Algorithm 1, the greedy solution of eq. 5: take again and again the point that is farthest from all points taken. The
# rule is Gonzalez's (1985), whose covering radius is at most twice the smallest possible one.

# Share of the points that stands for all between two refreshes: 163,856 × 128 on one core 10 s, a 16th 12, a 256th 11.
ACTIVE_SHARE = 64
ACTIVE_LEAST = 64
PRODUCT_ROUNDING = 1e-6  # error of squared distances from a matrix product, as a part of the largest squared length
EQUAL = 1e-10  # those of equal points, taken from differences, are below this part of it
CHUNK_NUMBERS = 2**22  # of a product: 17 MB


def select(
    features: Tensor, number: int, *, projection: int = 128, seed: int = 0, progress: bool = False
) -> np.ndarray:
    """Greedy coreset of features in a random projection (Johnson, Lindenstrauss 1984): indices, as from `greedy`.

    Of (n, C) features, `number` are picked; n picks all, in their own order. A `projection` of C or more dimensions
    leaves the features as they are; `seed` is that of the first pick and of the projection.
    """
    if number >= len(features):
        return np.arange(len(features))
    generator = np.random.default_rng(seed)
    first = int(generator.integers(len(features)))
    return greedy(project(features, projection, generator), number, first, progress=progress)


def project(features: Tensor, dimensions: int, generator: np.random.Generator) -> Tensor:
    """Random projection: centred (n, C) features times a Gaussian matrix, which keeps distances on average.

    Centring changes no distance, but short vectors lose fewer digits when distances come from products. Gives (n, d)
    float32; with C ≤ d nothing is projected.
    """
    mean, width = features.mean(0), features.shape[1]
    if width <= dimensions:
        return features - mean
    matrix = generator.normal(0, dimensions**-0.5, (width, dimensions)).astype(np.float32)
    matrix = torch.from_numpy(matrix).to(features.device)
    return torch.cat([(chunk - mean) @ matrix for chunk in features.split(max(1, CHUNK_NUMBERS // width))])


def greedy(points: Tensor, number: int, first: int, *, progress: bool = False) -> np.ndarray:
    """Farthest-first picks, exact but lazy.

    The distance of a point to its nearest pick only shrinks, so a stale one is an upper bound. Only an active set, the
    points with the largest bounds, is kept up to date. While its farthest point is beyond every bound outside, it is
    the farthest of all. When it no longer is, one matrix product brings all bounds up to date, and a new set is
    chosen. Points that are equally far up to rounding may be picked in another order than the plain loop's.

    Points are (n, d), best centred. Gives (k,) int64, distinct; k < `number` where all points left equal a pick.

    Examples:
        >>> greedy(torch.arange(17.0)[:, None], 3, first=0)
        array([ 0, 16,  8])
    """
    lengths = points.square().sum(1)
    slack, equal = (float(lengths.max()) * share for share in (PRODUCT_ROUNDING, EQUAL))
    bounds = torch.full_like(lengths, torch.inf)  # n, squared distance to the nearest pick or more
    nearest_pick = torch.zeros_like(lengths, dtype=torch.int64)  # n
    size = min(len(points), max(ACTIVE_LEAST, len(points) // ACTIVE_SHARE))
    picks, known = [first], 0
    with tqdm(total=number, initial=1, desc="coreset", unit="pick", disable=not progress) as bar:
        while len(picks) < number:
            _refresh(points, lengths, picks[known:], bounds, nearest_pick)
            known = len(picks)
            farthest = bounds.topk(min(size + 1, len(points)))
            active = farthest.indices[:size].sort().values
            limit = float(farthest.values[size]) if size < len(points) else -torch.inf  # of the others
            if float(bounds[active].max()) <= equal:
                break
            chosen = points[active]
            distances = (chosen - points[nearest_pick[active]]).square().sum(1)  # from differences: no digits are lost
            bounds[active] = distances
            with _one_thread():
                while len(picks) < number:
                    largest, place = distances.max(0)
                    sure = float(largest) > limit + slack or len(picks) == known  # nothing is surer after a refresh
                    if float(largest) <= equal or not sure:
                        break
                    picks.append(int(active[place]))
                    distances = torch.minimum(distances, (chosen - chosen[place]).square().sum(1))
                    bar.update()
    return np.array(picks)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of tiny steps gain nothing from a second thread, and on busy cores wait for it: 30 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _refresh(points: Tensor, lengths: Tensor, picks: list[int], bounds: Tensor, nearest_pick: Tensor) -> None:
    """Lower the bounds of all points to their distances from new picks, by one product in chunks."""
    if not picks:
        return
    indices = torch.tensor(picks, device=points.device)
    centres, squares = points[indices], lengths[indices]
    rows = max(1, CHUNK_NUMBERS // len(picks))
    for start in range(0, len(points), rows):
        chunk = slice(start, start + rows)
        squared, which = torch.addmm(squares, points[chunk], centres.T, alpha=-2).min(1)
        squared = (squared + lengths[chunk]).clamp_min(0)
        closer = squared < bounds[chunk]
        bounds[chunk] = torch.where(closer, squared, bounds[chunk])
        nearest_pick[chunk] = torch.where(closer, indices[which], nearest_pick[chunk])
