"""Training: what the frozen layers say is computed once, for every image and a number of its copies."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mvtec_ad.config import torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.contrastive.model import DefectTyper, embed
from mvtec_ad.methods.contrastive.networks import Encoder, build
from mvtec_ad.methods.contrastive.regions import Regions
from mvtec_ad.methods.contrastive.views import shown, vary
from mvtec_ad.methods.contrastive_losses import nt_xent, supcon
from mvtec_ad.settings import TypingSettings
from mvtec_ad.training import Run, checkpoint_path, checkpoints_folder

HEAD = 10.0  # times the rate: it is new, and the layers below it are not
# settings that the views of images rest on
FIXED = ("backbone", "weights", "trained", "look", "side", "focus", "image_size", "copies")
FIXED += ("turn", "shift", "light", "mirror", "projection")
MEASURED = 4  # copies of each image that give the embedding its units


@dataclass(frozen=True)
class Views:
    """What the frozen layers say of images; labels play no part, so all folds share it.

    Attributes:
        encoder: as it was built, with a new head.
        weights: what its weights are called.
        plain: (N, C, h, w) float16, the regions unchanged.
        copies: (N, K, C, h, w) float16, augmented.
        settings: of network, look and copies.
        seed: of the new head and the copies.
    """

    encoder: Encoder
    weights: str
    plain: Tensor
    copies: Tensor
    settings: TypingSettings
    seed: int


def views_of(
    settings: TypingSettings, images: np.ndarray, regions: Regions, *, seed: int = 0, progress: bool = True
) -> Views:
    """Show all images to the frozen layers.

    Args:
        settings: network and augmentation.
        images: (N, S, S, 3) uint8.
        regions: of the N images.
        seed: of weights and copies.
        progress: show a bar.

    Raises:
        WeightsError: the weights cannot be had.
    """
    encoder, weights = build(settings, seed)
    encoder.to(torch_device(), memory_format=torch.channels_last)

    def below(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([encoder.below(pixels[part]).half().cpu() for part in batches(len(pixels), 4)])

    plain = below(shown(images, regions, settings.image_size))
    bar = tqdm(range(settings.copies), "augmented copies", disable=not progress)
    copies = [below(vary(images, regions, settings, np.random.default_rng([seed, number]))) for number in bar]
    return Views(encoder, weights, plain.clone(), torch.stack(copies, 1), settings, seed)


def fit(
    settings: TypingSettings,
    views: Views,
    types: np.ndarray,
    rows: np.ndarray | None = None,
    *,
    seed: int | None = None,
    checkpoint: bool = False,
    progress: bool = True,
) -> DefectTyper:
    """Learn an embedding in which types, or images, separate.

    Args:
        settings: what to fit; 0 steps leave the frozen network, whose prototypes are the first baseline.
        views: of N images.
        types: (N,) names. With simclr they do not enter the training, only the prototypes.
        rows: (M,) int, which of the images are learned from; all when None.
        seed: the first of the settings when None.
        checkpoint: keep the run below `transfer/checkpoints/`, and go on from there; see `checkpoint_of`.
        progress: show a bar.

    Raises:
        DataError: there is one type only.
        SettingsError: the views were made with another network, look or other copies.
    """
    seed = settings.seeds[0] if seed is None else seed
    _check_same_views(settings, views.settings)
    rows = np.arange(len(types)) if rows is None else np.ascontiguousarray(rows)
    types = np.asarray(types, dtype=object)
    known = types[rows]
    check_types(known)
    encoder = copy.deepcopy(views.encoder)
    encoder.measure(views.copies[rows, :MEASURED].flatten(0, 1).to(torch_device()).float())
    curve = pd.DataFrame({"step": [], "loss": []})
    if settings.steps:
        path = checkpoint_of(settings, views, types, rows, seed) if checkpoint else None
        curve = _train(encoder, settings, views.copies, known, rows, seed, path, progress)
    embeddings = embed(encoder, views.plain[rows])
    return DefectTyper(encoder, settings, seed, views.weights, embeddings, known, curve=curve)


def checkpoint_of(settings: TypingSettings, views: Views, types: np.ndarray, rows: np.ndarray, seed: int) -> Path:
    """Where the run keeps its checkpoint; remove it when its result is kept."""
    run = {**settings.options(), "seed": seed, "weights": views.weights, "views": views.seed, "rows": rows.tolist()}
    if settings.objective == "supcon":
        run["types"] = list(types[rows])
    return checkpoint_path(checkpoints_folder(), "typing", run, views.plain[rows].numpy())


def _check_same_views(settings: TypingSettings, shown: TypingSettings) -> None:
    """What the frozen layers were shown cannot be changed afterwards."""
    different = [name for name in FIXED if getattr(settings, name) != getattr(shown, name)]
    if different:
        raise SettingsError(f"the views were made with another {', '.join(different)}: make them again with `views_of`")


def check_types(types: np.ndarray) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        DataError: there is one type only, or none.
    """
    names = sorted(set(types))
    if len(names) < 2:
        found = f"only {names[0]}" if names else "none"
        raise DataError(f"telling defect types apart needs two or more, and there is {found}: choose another category")


def _train(
    encoder: Encoder,
    settings: TypingSettings,
    copies: Tensor,
    types: np.ndarray,
    rows: np.ndarray,
    seed: int,
    checkpoint: Path | None,
    progress: bool,
) -> pd.DataFrame:
    """Minimise the loss on balanced batches of copies."""
    numbers = np.unique(types, return_inverse=True)[1]
    members = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    device = torch_device()

    def projected(chosen: np.ndarray, which: np.ndarray) -> Tensor:
        return encoder.head(encoder(copies[rows[chosen], which].to(device).float()))

    def by_type(rng: np.random.Generator) -> Tensor:
        each = max(2, settings.batch // len(members))
        chosen = np.concatenate([rng.choice(own, each) for own in members])
        embeddings = projected(chosen, rng.integers(settings.copies, size=len(chosen)))
        return supcon(embeddings, torch.from_numpy(numbers[chosen]).to(device), settings.temperature)

    def by_image(rng: np.random.Generator) -> Tensor:
        chosen = rng.permutation(len(rows))[: max(2, settings.batch // 2)]
        pairs = rng.permuted(np.tile(np.arange(settings.copies), (len(chosen), 1)), axis=1)[:, :2]
        return nt_xent(*projected(np.tile(chosen, 2), pairs.T.ravel()).chunk(2), settings.temperature)

    loss = by_type if settings.objective == "supcon" else by_image
    with Run(
        _Trained(encoder),
        lr=settings.rate,
        steps=settings.steps,
        seed=seed,
        weight_decay=1e-2,
        factors={"head": HEAD},
        mixed=True,
        checkpoint=checkpoint,
        every=max(1, settings.steps // 2),
        identity={"run": checkpoint.stem} if checkpoint else None,
        description=f"{settings.objective}, seed {seed}",
        progress=progress,
    ) as run:
        for step in run:
            run.minimise(loss(run.rng(step)))
    return run.curve()


class _Trained(nn.Module):
    """The parts of an encoder that are trained: what a checkpoint must hold."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.above, self.head = encoder.above, encoder.head
        self.whole = [encoder]  # in a list, so that the frozen part is no part of this

    def train(self, mode: bool = True) -> _Trained:
        """As the encoder would."""
        self.whole[0].train(mode)
        return self
