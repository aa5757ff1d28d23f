"""The ways to name a type: chance, colours, a frozen network read in three ways, and trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from mvtec_ad.methods.contrastive.fitting import checkpoint_of, fit
from mvtec_ad.methods.contrastive.material import Material
from mvtec_ad.methods.contrastive.model import DefectTyper, embed, nearest_neighbours
from mvtec_ad.settings import TypingSettings

FROZEN, PROBE, CHANCE = "frozen, prototypes", "frozen, linear probe", "always the same"
COLOURS = "mean colours"  # the row without a network


@dataclass(frozen=True)
class Answer:
    """What one way says of images that it has not seen.

    Attributes:
        said: (M,) names.
        novelty: (M,) higher is more unlike all known types; None where the way has none.
        embeddings: (M, d) and those of the known images, (N, d); None where there are none.
    """

    said: np.ndarray
    novelty: np.ndarray | None = None
    embeddings: tuple[np.ndarray, np.ndarray] | None = None


def answers(
    settings: TypingSettings,
    material: Material,
    train: np.ndarray,
    test: np.ndarray,
    objectives: Sequence[str],
    *,
    seed: int,
    kept: list[Path] | None = None,
) -> tuple[dict[str, Answer], dict[str, DefectTyper]]:
    """Learn from some images, and name others: by every way.

    Args:
        settings: of the training.
        material: of the category.
        train: (N,) int, images that are learned from.
        test: (M,) int, images that are named.
        objectives: that are trained: supcon, simclr.
        seed: of the training.
        kept: checkpoints are kept, and added to this list; None keeps none.

    Returns:
        Way -> answer; and the typers: frozen, and one per objective.
    """
    frozen = fit(replace(settings, steps=0), material.views, material.types, train, seed=seed, progress=False)
    typers = {"frozen": frozen}
    for objective in objectives:
        own = replace(settings, objective=objective)
        if kept is not None:
            kept.append(checkpoint_of(own, material.views, material.types, train, seed))
        typers[objective] = fit(
            own, material.views, material.types, train, seed=seed, checkpoint=kept is not None, progress=False
        )
    found = {CHANCE: Answer(np.full(len(test), frozen.names[0])), COLOURS: _by_colour(material, train, test)}
    found[PROBE] = _by_probe(frozen, embed(frozen.encoder, material.views.plain[test]))
    for name, typer in typers.items():
        embeddings = embed(typer.encoder, material.views.plain[test])
        nearest = np.array(typer.names)[typer.likeness(embeddings).argmax(1)]
        both = embeddings, typer.embeddings
        found[f"{name}, prototypes"] = Answer(nearest, typer.novelty(embeddings), both)
        neighbours = nearest_neighbours(embeddings, typer.embeddings, typer.types, settings.neighbours)
        found[f"{name}, k-NN"] = Answer(neighbours)
    return found, typers


def _by_colour(material: Material, train: np.ndarray, test: np.ndarray) -> Answer:
    """Nearest prototype by mean and spread of the three colours of the whole picture, standardised."""
    pixels = material.images.reshape(len(material.images), -1, 3).astype(np.float32)
    features = np.concatenate([pixels.mean(1), pixels.std(1)], axis=1)
    features = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    types = material.types[train]
    names = sorted(set(types))
    middles = np.stack([features[train][types == name].mean(0) for name in names])
    distances = ((features[test][:, None] - middles) ** 2).sum(-1)
    return Answer(np.array(names)[distances.argmin(1)])


def _by_probe(frozen: DefectTyper, embeddings: np.ndarray) -> Answer:
    """Logistic regression on the frozen embeddings; what it is not sure of is novel (Hendrycks, Gimpel 2017)."""
    scale = np.sqrt(embeddings.shape[1])  # back to about unit spread
    probe = LogisticRegression(C=0.1, class_weight="balanced", max_iter=3000)
    probe.fit(frozen.embeddings * scale, frozen.types.astype(str))
    probabilities = probe.predict_proba(embeddings * scale)
    return Answer(probe.classes_[probabilities.argmax(1)], 1 - probabilities.max(1))
