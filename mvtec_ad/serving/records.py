"""What an answer says of an image, as plain JSON data; and the watch for drift over the scores of what passes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvtec_ad.artifacts import write_file
from mvtec_ad.data.loading import resample
from mvtec_ad.drift import Martingale
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.regions import region_level, regions, sentence
from mvtec_ad.serving.models import DEFECT, Findings, ServedModel

THUMBNAIL = 96  # pixels of the longer side
FALSE_ALARM = 1 / 1000  # probability that an alarm is ever raised on a line that does not change, over all streams
SAVED = 60.0  # seconds between two copies of the watch on disk
DRIFT = "drift.json"


def record(name: str, findings: Findings, shape: tuple[int, ...], milliseconds: float, identity: str) -> dict[str, Any]:
    """All that is answered of one image, without its map.

    Args:
        name: of the image.
        shape: of the picture, (H, W, 3).
        milliseconds: that it took.
        identity: by which feedback names it.
    """
    values = {"id": identity, "name": name, "verdict": findings.verdict, "score": findings.score}
    values |= {"threshold": findings.threshold, "promised": findings.promised, "product": findings.product}
    values |= {"type": findings.type, "path": list(findings.path), "milliseconds": round(milliseconds, 2)}
    values["type_neighbours"] = findings.type_neighbours and list(findings.type_neighbours)
    values["map_scale"] = findings.map_scale and list(findings.map_scale)
    values |= {"size": [int(shape[1]), int(shape[0])], "seen": list(findings.seen)}
    level = values["level"] = _level(findings)
    parts = [] if level is None else regions(findings.anomaly_map, level, findings.seen)
    known: dict[str, Any] = {"defect_type": findings.type, "neighbours": findings.type_neighbours}
    if findings.of_map:
        known |= {"score": findings.score, "largest_good": findings.good_score}
    words = sentence(findings.verdict, parts, **known)
    return values | {"regions": [part.as_dict() for part in parts], "sentence": words, "map": None}


def _level(findings: Findings) -> float | None:
    """Value of the map above which something stands out: of a defect always something, else what passes the threshold.

    None where nothing tells it: there is no map, or one in other units than the score of a part that is no defect.
    """
    if findings.anomaly_map is None:
        return None
    threshold = findings.threshold if findings.of_map else None
    return region_level(findings.anomaly_map, threshold) if findings.verdict == DEFECT else threshold


def map_url(findings: Findings) -> str | None:
    """A gray PNG as data URL: black is the low end of the scale, white its high end or more."""
    if findings.anomaly_map is None or findings.map_scale is None:
        return None
    low, high = findings.map_scale
    gray = np.clip((findings.anomaly_map - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    return _url("png", gray)


def thumbnail_url(picture: np.ndarray) -> str:
    """A small JPEG as data URL, of a picture (H, W, 3) uint8 RGB."""
    height, width = picture.shape[:2]
    scale = THUMBNAIL / max(height, width)
    small = resample(picture, max(1, round(height * scale)), max(1, round(width * scale)))
    return _url("jpeg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))


def _url(kind: str, pixels: np.ndarray) -> str:
    _, data = cv2.imencode(f".{kind}", pixels)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Watch:
    """A conformal test martingale for each stream of parts, over the scores of those that pass.

    It learns from the line itself what is normal: leave-one-out scores of a fit are not what new parts score. Whatever
    decides what passes decides part by part, so those of an unchanged line are exchangeable, and the guarantee holds.

    Args:
        model: whose streams they are.
        folder: where the watch is kept over restarts, as drift.json; None keeps none.
    """

    def __init__(self, model: ServedModel, folder: Path | None = None) -> None:
        self.path = None if folder is None else folder / DRIFT
        alarm_rate = FALSE_ALARM / max(1, len(model.good_scores))
        self.lines = {name: Martingale((), alarm_rate) for name in sorted(model.good_scores)}
        self.saved = time.monotonic()
        known = [model.description, sorted((name, limit) for name, (_, limit) in model.good_scores.items())]
        self.model = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()
        if self.path is not None and self.path.is_file():
            self._load()

    def update(self, findings: Findings) -> None:
        """One more image: its score counts where it passes."""
        name, score = findings.stream or (findings.product or "", findings.score)
        if findings.passes and name in self.lines and score is not None and math.isfinite(score):
            self.lines[name].update(score)
        if time.monotonic() > self.saved + SAVED:
            self.save()

    def save(self) -> None:
        """Keep it on disk; what goes wrong is printed, for verdicts do not need it."""
        self.saved = time.monotonic()
        if self.path is None or not self.lines:
            return
        state = {"model": self.model, "lines": {name: line.state() for name, line in self.lines.items()}}
        try:
            write_file(self.path, json.dumps(state))
        except ArtifactError as problem:
            print(f"the drift watch is not kept: {problem}", file=sys.stderr)

    def _load(self) -> None:
        """Go on where this model's was; another model's is left behind.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            state = json.loads(self.path.read_bytes())
            if state["model"] == self.model:
                self.lines |= {product: Martingale.from_state(line) for product, line in state["lines"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as problem:
            raise DataError(f"{self.path} holds no drift watch ({problem}): remove it, to begin a new one") from problem

    def describe(self) -> dict[str, Any]:
        """Plain JSON data, for `/drift`: that of the stream whose martingale is highest, and all of them."""
        products = {}
        for product, line in sorted(self.lines.items()):
            known = {"alarm": line.alarm, "martingale": line.value, "largest": line.largest, "limit": line.limit}
            products[product] = known | {"guarantee": line.guarantee, "seen": line.seen}
        if not products:
            words = "drift is not watched: what is served has no scores"
            values = {"alarm": False, "martingale": 1.0, "largest": 1.0, "limit": 1 / FALSE_ALARM}
            return {**values, "guarantee": words, "seen": 0, "products": {}}
        first = max(products.values(), key=lambda known: (known["alarm"], known["martingale"]))
        return {**first, "seen": sum(known["seen"] for known in products.values()), "products": products}
