"""Export: a fitted model as one ONNX graph, with a certificate that the graph judges as the model does.

The graph takes a uint8 picture of any size; nothing is left to whoever runs it. `mvtec_ad.edge` does so without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvtec_ad.artifacts import write_file
from mvtec_ad.errors import DataError
from mvtec_ad.export.certificate import certificate_lines, certify
from mvtec_ad.export.graph import Fitted, fitted, fitted_classifier, load_fitted, to_onnx, with_int8_weights
from mvtec_ad.export.page import inspector_page, onnxruntime_web


def export_model(
    model: Fitted,
    folder: str | Path,
    stem: str,
    images: Mapping[str, Sequence[str | Path]],
    *,
    int8: bool = False,
    page: str | Path | None = None,
    progress: bool = False,
) -> tuple[list[Path], dict[str, Any]]:
    """Write STEM.onnx and STEM-certificate.json into a folder, on request STEM-int8.onnx and an HTML page.

    Returns:
        The files, and the certificate.

    Raises:
        DataError: no image is given, or the graph gives one of them another verdict; then nothing is written.
    """
    if not any(images.values()):
        raise DataError("a certificate needs images to compare on: give good ones with --good, others with --test")
    runtime = onnxruntime_web() if page else {}  # refused now, not after minutes of work
    graph = to_onnx(model)
    graphs = {"float32": graph.SerializeToString()}
    if int8:
        graphs["int8"] = with_int8_weights(graph).SerializeToString()
    certificate = certify(model, graphs, images, progress=progress)
    if changed := certificate["graphs"]["float32"]["changed"]:
        total = sum(certificate["images"].values())
        problem = f"the graph calls {len(changed)} of {total} images otherwise than the model, first {changed[0]}"
        raise DataError(f"{problem}: nothing is written; please report it with the model's options")
    files = {Path(folder, f"{stem}{'-int8' if name == 'int8' else ''}.onnx"): data for name, data in graphs.items()}
    for (path, _), result in zip(files.items(), certificate["graphs"].values(), strict=True):
        result["file"] = path.name
    if page:
        files[Path(page)] = inspector_page(graphs["float32"], model.description, runtime)
    files[Path(folder, f"{stem}-certificate.json")] = json.dumps(certificate, indent=1) + "\n"
    for path, data in files.items():
        write_file(path, data)
    return list(files), certificate


__all__ = [
    "Fitted",
    "certificate_lines",
    "certify",
    "export_model",
    "fitted",
    "fitted_classifier",
    "load_fitted",
    "to_onnx",
    "with_int8_weights",
]
