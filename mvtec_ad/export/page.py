"""A single HTML file that inspects pictures in a browser, without a server: the graph and onnxruntime-web inside it."""

from __future__ import annotations

import base64
import gzip
import shutil
import subprocess
import tarfile
from typing import Any

from matplotlib import colormaps

from mvtec_ad.config import data_folder, make_folder, seen_part
from mvtec_ad.errors import SettingsError
from mvtec_ad.pages import render
from mvtec_ad.plotting import ANOMALY_MAP

PACKAGE = "onnxruntime-web"
FILES = {"script": "ort.wasm.min.js", "glue": "ort-wasm-simd-threaded.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}


def onnxruntime_web() -> dict[str, bytes]:
    """onnxruntime-web's files, "script", "glue" and "wasm": from data/onnxruntime-web, where npm puts them once.

    Raises:
        SettingsError: npm is missing, or cannot fetch them.
    """
    folder = make_folder(data_folder() / PACKAGE)
    archives = sorted(folder.glob(f"{PACKAGE}-*.tgz"))
    if not archives:
        npm = shutil.which("npm")
        if npm is None:
            raise SettingsError(f"--page needs {PACKAGE} of npm, and there is no npm: install Node.js, or leave it out")
        child = subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True, text=True)
        archives = sorted(folder.glob(f"{PACKAGE}-*.tgz"))
        if child.returncode or not archives:
            reason = " ".join(child.stderr.split())[-200:]
            raise SettingsError(f"--page: npm could not fetch {PACKAGE} ({reason}): try again, or leave it out")
    try:
        with tarfile.open(archives[-1]) as archive:
            return {key: archive.extractfile(f"package/dist/{name}").read() for key, name in FILES.items()}
    except (tarfile.TarError, OSError, EOFError, KeyError) as problem:
        raise SettingsError(f"{archives[-1]} is damaged or of another version: remove it, and run again") from problem


def inspector_page(graph: bytes, description: dict[str, Any], runtime: dict[str, bytes]) -> str:
    """The page of a graph, `description` being its `edge.EdgeModel.manifest`, with the files of `onnxruntime_web`."""
    packed = {**runtime, "graph": graph}
    script = packed.pop("script").decode().split("//# sourceMappingURL")[0].replace("</script", "<\\/script")
    files = {name: base64.b64encode(gzip.compress(data, mtime=0)).decode() for name, data in packed.items()}
    colours = (255 * colormaps[ANOMALY_MAP](range(256))[:, :3]).round().astype(int).tolist()
    public = ("method", "category", "threshold", "map_scale", "image_size", "crop")
    return render(
        "inspector.html",
        title=f"Inspect {description['category']}",
        description={name: description[name] for name in public},
        looked_at=seen_part(description["image_size"], description["crop"]),
        colours=colours,
        files=files,
        runtime=script,
    )
