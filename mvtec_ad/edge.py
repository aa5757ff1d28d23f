"""An exported model, run by onnxruntime: neither torch nor pandas is needed, here or in what this module imports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from mvtec_ad.data.loading import resize
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.schema import parse_json

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA = "mvtec_ad"  # key of the JSON in a graph's `metadata_props`
SCHEMA = 1


class _Threshold(TypedDict):
    value: float
    false_alarm_rate: float | None


_WRITTEN = {
    **{"schema": int, "method": str, "category": str, "image_size": int, "crop": int, "threshold": _Threshold},
    **{"map_scale": list[float], "good_scores": list[float]},
}
_MANIFEST = TypedDict("_MANIFEST", _WRITTEN)


class EdgeModel:
    """A model that `mvtec-ad export` wrote; scores pictures as the model it was made of does.

    Attributes:
        method, category: what was fitted, and on what.
        threshold: a score above it is a defect.
        false_alarm_rate: that the threshold promises; None where it was chosen by costs.
        map_scale: values of the anomaly map that are shown darkest and brightest.
        good_scores: (n,) float32, as of `methods.base.Detector`.
        image_size, crop: the picture is squeezed into a square of so many pixels, whose centre is looked at.
        manifest: all that was written into the graph, plain JSON data.
    """

    def __init__(self, model: str | Path | bytes, threads: int = 0) -> None:
        """Open a file, or its bytes; 0 threads are as many as onnxruntime takes by itself.

        Raises:
            ArtifactError: it is missing, damaged, or was not written by `mvtec-ad export`.
        """
        path = Path("the graph") if isinstance(model, bytes) else Path(model)
        self.session = _open(path, model, threads)
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA, "null")
        try:
            self.manifest: dict[str, Any] = parse_json(text, _MANIFEST)
        except ValueError as problem:
            raise ArtifactError(f"model {path} is none of ours ({problem}): make it by `mvtec-ad export`") from problem
        manifest = self.manifest
        if manifest["schema"] != SCHEMA:
            raise ArtifactError(f"model {path} is of schema {manifest['schema']}, here it is {SCHEMA}: export it again")
        self.method, self.category = manifest["method"], manifest["category"]
        self.threshold = float(manifest["threshold"]["value"])
        self.false_alarm_rate = manifest["threshold"]["false_alarm_rate"]
        self.map_scale: tuple[float, float] = tuple(map(float, manifest["map_scale"]))
        self.good_scores = np.array(manifest["good_scores"], np.float32)
        self.image_size, self.crop = manifest["image_size"], manifest["crop"]

    def run(self, picture: np.ndarray) -> tuple[float, np.ndarray | None, bool]:
        """Score, anomaly map (crop, crop) float32 or None, and whether it is a defect, of an (H, W, 3) uint8 picture.

        Raises:
            DataError: it is no such array.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
            raise DataError(f"a picture must be (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}")
        names = [output.name for output in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, {"image": np.ascontiguousarray(picture)}), strict=True))
        return float(outputs["score"]), outputs.get("map"), bool(outputs["defect"])

    def score(self, picture: np.ndarray) -> tuple[np.ndarray, float, np.ndarray | None]:
        """What it is shown of a picture (H, W, 3) of any size, (S, S, 3) uint8; its score, and its (S, S) map."""
        score, anomaly_map, _ = self.run(picture)
        return resize(picture, self.image_size, self.crop), score, anomaly_map


def _open(path: Path, model: str | Path | bytes, threads: int) -> InferenceSession:
    """A session on the CPU, with onnxruntime's many ways to refuse a file in one line."""
    import onnxruntime

    if not isinstance(model, bytes) and not path.is_file():
        raise ArtifactError(f"model {path} is missing: check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # who waits leaves the cores to others
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # int8 weights are brought back once, not anew
    try:
        source = model if isinstance(model, bytes) else str(path)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ArtifactError(f"model {path} cannot be opened ({reason}): export or copy it again") from problem
    inputs = [(value.name, value.type) for value in session.get_inputs()]
    outputs = {value.name for value in session.get_outputs()}
    if inputs != [("image", "tensor(uint8)")] or not {"score", "defect"} <= outputs:
        raise ArtifactError(f"model {path} takes or gives something else than ours: export one with `mvtec-ad export`")
    return session
