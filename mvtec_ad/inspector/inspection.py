"""What an inspection says of one image, and by which way it came to say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

GOOD, DEFECT = "good", "defect"
STRANGER = "none of these"  # no product that the inspector knows
UNDECIDED = "undecided"  # a product for which there is no model
UNREADABLE = "unreadable"
VERDICTS = (DEFECT, UNDECIDED, STRANGER, UNREADABLE, GOOD)  # in the order in which a person wants to see them


@dataclass(frozen=True)
class Step:
    """One stage of the way.

    Attributes:
        stage: `product`, `classifier`, `second opinion`, `type` or `atlas`.
        outcome: the branch that was taken, in a word or two: `bottle`, `sure`, `unsure`, `defect`, `skipped` …
        words: the same with its numbers, for people.
    """

    stage: str
    outcome: str
    words: str


@dataclass(frozen=True)
class Opinion:
    """What an unsupervised model says: `score > threshold` is a defect; both raw."""

    method: str
    score: float
    threshold: float

    @property
    def verdict(self) -> str:
        """`good` or `defect`."""
        return DEFECT if self.score > self.threshold else GOOD


@dataclass(frozen=True)
class Inspection:
    """What is known of one image.

    Attributes:
        image: its path, or `image N` of an array.
        verdict: one of `VERDICTS`.
        product: category, or None where it is none of these.
        view: from which side, where the product has several; otherwise empty.
        strangeness: distance to the nearest known product in units of the largest that is accepted; above 1 the image
            is none of these. None where the product was told, or there is nothing to tell it by.
        probability: of a defect, from the supervised classifier; None without one.
        score: higher is more likely defective; orders the images of one product and view as the whole inspector does
            (`opinion.joined`). None where nothing was decided.
        path: the stages in order.
        decided_by: `classifier` or the method of the opinion that decided; None where nothing did.
        opinion: of the unsupervised model, where it was asked.
        type: of the defect, `unknown` where it is like none that is known; None for a good part or without a typer.
        type_distance: cosine distance to the prototype of the nearest type, 0 to 2.
        novelty: mean cosine distance to the nearest known defects; above `novelty_limit` the type is unknown.
        place: x and y on the atlas's map; None without an atlas.
        picture: (S, S, 3) uint8, what the deciding model was shown.
        heat: (S, S) float32 over that picture: where it sees the defect.
        heat_scale: lowest and highest value of its colours, the same for all images of one model; None: the map's own.
        heat_name: which map that is.
        problem: why an unreadable image cannot be read.
    """

    image: str
    verdict: str
    product: str | None = None
    view: str = ""
    strangeness: float | None = None
    probability: float | None = None
    score: float | None = None
    path: tuple[Step, ...] = ()
    decided_by: str | None = None
    opinion: Opinion | None = None
    type: str | None = None
    type_distance: float | None = None
    novelty: float | None = None
    novelty_limit: float | None = None
    place: tuple[float, float] | None = None
    picture: np.ndarray | None = field(default=None, repr=False, compare=False)
    heat: np.ndarray | None = field(default=None, repr=False, compare=False)
    heat_scale: tuple[float, float] | None = None
    heat_name: str = ""
    problem: str = ""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Stages for which an artifact or a model is missing, each with its reason."""
        return tuple(f"{step.stage}: {step.words}" for step in self.path if step.outcome == "skipped")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data: everything but the pixels."""
        own = {
            name: getattr(self, name)
            for name in ("image", "verdict", "product", "view", "strangeness", "probability", "score", "decided_by")
        }
        opinion = self.opinion
        own["opinion"] = opinion and {
            "method": opinion.method,
            "score": opinion.score,
            "threshold": opinion.threshold,
            "verdict": opinion.verdict,
        }
        own |= {name: getattr(self, name) for name in ("type", "type_distance", "novelty", "novelty_limit")}
        own["place"] = None if self.place is None else list(self.place)
        own["path"] = [{"stage": step.stage, "outcome": step.outcome, "words": step.words} for step in self.path]
        return own | {"skipped": list(self.skipped), "problem": self.problem or None}
