"""Mutated files of every kind: each is read, or refused in one line; nothing that is no number comes through.

More of them, and others: `FUZZ_SEED=1 FUZZ_TIMES=10 python -m pytest tests/test_fuzz.py`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import random
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from mvtec_ad import artifacts, benchmark
from mvtec_ad.backbones import backbone as backbones
from mvtec_ad.backbones import load_backbone, trunk
from mvtec_ad.benchmark import published
from mvtec_ad.data.index import SYNTHETIC, read_category
from mvtec_ad.data.loading import read_image, read_mask
from mvtec_ad.errors import MvtecAdError
from mvtec_ad.methods import detector_class, load_model
from mvtec_ad.synthetic.boxes import Annotation, Box, read_annotation

TIMES, SEED = int(os.environ.get("FUZZ_TIMES", 1)), int(os.environ.get("FUZZ_SEED", 0))
SECONDS = 2.0  # of this process's own time, for one file
SIZE = 16
ODD = [
    *(
        None,
        True,
        0,
        -1,
        2,
        1e300,
        -0.5,
        2**70,
        10**400,
        float("nan"),
        float("inf"),
        "",
        "0",
        "widget",
        "a\nb",
        "\ud800",
    ),
    *("../x", "x" * 3000, [], [[]], [None], ["a", 1], {}, {"a": {}}, {"mean": "x"}, [0.5, float("nan")]),
]
TEXTS = [b"", b"nan", b"inf", b"1e400", b"9" * 400, b'"', b",", b"\n", b"\xff\xfe", b"\0", b"&x;", b"<a>", b"-1", b"x"]


# --- how files go wrong -----------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut off, cut out, put in or repeated."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(content) + 1)
        way = rng.randrange(5)
        if way == 0 and at < len(content):
            content[at] = rng.randrange(256)
        elif way == 1:
            del content[at:]
        elif way == 2:
            del content[at : at + rng.randrange(1, 40)]
        elif way == 3:
            content[at:at] = rng.choice(TEXTS)
        else:
            content[at:at] = content[at : at + 30] * rng.randrange(1, 4)
    return bytes(content)


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """One value of JSON data replaced, removed, renamed or added; sometimes its text damaged."""
    if rng.random() < 0.15:
        return rng.choice((damaged(data, rng), b"[" * 100_000, json.dumps(rng.choice(ODD)).encode()))
    value = root = {"root": json.loads(data)}
    key: Any = "root"
    while isinstance(value[key], dict | list) and value[key] and (value is root or rng.random() < 0.75):
        value = value[key]
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    way = rng.randrange(4)
    if way == 0 and value is not root:
        del value[key]
    elif way == 1 and isinstance(value, dict) and value is not root:
        value[rng.choice(("odd", "a\nb", ""))] = value.pop(key)
    else:
        value[key] = rng.choice(ODD)
    return json.dumps(root.get("root")).encode()


def changed_csv(data: bytes, rng: random.Random) -> bytes:
    """A cell or a column replaced or removed, or the text damaged."""
    lines = [line.split(b",") for line in data.split(b"\n")]
    row = rng.randrange(len(lines))
    column, way = rng.randrange(len(lines[row])), rng.randrange(5)
    if way == 0:
        return damaged(data, rng)
    if way == 1:
        for line in lines:
            del line[column : column + 1]
    elif way == 2:
        lines[row] = lines[rng.randrange(len(lines))]
    elif way == 3:
        del lines[row]
    else:
        lines[row][column] = rng.choice(TEXTS)
    return b"\n".join(b",".join(line) for line in lines)


@np.errstate(all="ignore")
def changed_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Of another shape, type or content."""
    array, way = np.array(array), rng.randrange(8)
    if way == 0 and array.size and array.dtype.kind == "f":
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf))
    elif way == 1:
        array = array[..., None] if rng.random() < 0.5 else array.reshape(-1)
    elif way == 2:
        array = array[: rng.randrange(max(1, len(np.atleast_1d(array))))] if array.ndim else array[None]
    elif way == 3:
        array = np.concatenate([np.atleast_1d(array)] * 2)
    elif way == 4:
        array = array.astype(rng.choice(("f8", "f2", "i4", "u1", "?")))
    elif way == 5:
        array = array.T if array.ndim > 1 else np.zeros((0, *array.shape[1:]), array.dtype)
    elif way == 6:
        array = -array if array.dtype.kind == "f" else array.astype(np.int64) + 1000
    else:
        array = np.full(array.shape, rng.choice((0, 1e38, -1e38) if array.dtype.kind == "f" else (0, 1)), array.dtype)
    return array


def changed_arrays(name: str, data: bytes, rng: random.Random) -> bytes:
    """An array changed, removed or renamed, or the file damaged."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    tensors = name.endswith(".safetensors")
    arrays = safetensors.numpy.load(data) if tensors else dict(np.load(io.BytesIO(data)))
    key = rng.choice(sorted(arrays))
    array, way = arrays.pop(key), rng.randrange(8)
    if way == 1:
        arrays[f"{key}x"] = array
    elif way == 2 and not tensors:
        arrays[key] = array.astype(rng.choice(("c16", "U5")))
    elif way:
        arrays[key] = changed_array(array, rng)
    return artifacts.encode(name, arrays)


def changed_zip(data: bytes, rng: random.Random) -> bytes:
    """A member of an artifact changed and signed again; sometimes the manifest, the list of members or the bytes."""
    if rng.random() < 0.1:
        return damaged(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, manifest = rng.choice(sorted(members)), members.pop("manifest.json")
    if name == "manifest.json":
        manifest = changed_json(manifest, rng)
    elif rng.random() < 0.1:
        content = members.pop(name)
        members |= {rng.choice((f"x/{name}", "a\nb.json", "n" * 10_000 + ".json", name.upper(), "../x.json")): content}
    elif name.endswith(".json"):
        members[name] = changed_json(members[name], rng)
    elif name.endswith(".csv"):
        members[name] = changed_csv(members[name], rng)
    elif name.endswith((".npz", ".safetensors")):
        members[name] = changed_arrays(name, members[name], rng)
    else:
        members[name] = damaged(members[name], rng)
    return signed(members, manifest)


def signed(members: dict[str, bytes], manifest: bytes) -> bytes:
    """A zip whose manifest has the hashes of these members, where it can hold any."""
    try:
        content = json.loads(manifest)
        content["members"] = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
        manifest = json.dumps(content).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in [*members.items(), ("manifest.json", manifest)]:
            archive.writestr(name, data)
    return buffer.getvalue()


def changed_state(state: dict[str, torch.Tensor], path: Path, rng: random.Random) -> None:
    """Write a state dict with one tensor that is odd, or damage the file."""
    state = {name: tensor.clone() for name, tensor in state.items()}
    key = rng.choice(sorted(state))
    tensor, kind = state[key], torch.float32
    odd: list[Callable[[], Any]] = [
        lambda: rng.choice(("text", None, 3, {"a": tensor}, [tensor], b"bytes")),
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: tensor.to(torch.complex64),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: tensor.float().to_sparse(),
        lambda: torch.full(tensor.shape, rng.choice((np.nan, np.inf, -1.0, 3e38)), dtype=kind),
        lambda: tensor.to(rng.choice((torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool))),
        lambda: tensor.flatten()[: rng.randrange(3)],
        lambda: tensor[None],
        lambda: state[rng.choice(sorted(state))],
        lambda: tensor.to(torch.float64) * 1e300,
    ]
    way = rng.randrange(len(odd) + 3)
    if way < len(odd):
        state[key] = odd[way]()
    elif way == len(odd):
        del state[key]
    elif way == len(odd) + 1:
        state = rng.choice(({"state_dict": state}, list(state.values()), {3: tensor}, Annotation, "text"))
    if path.suffix == ".safetensors":
        plain = state if isinstance(state, dict) else {}
        tensors = {str(k): v for k, v in plain.items() if isinstance(v, torch.Tensor) and v.layout == torch.strided}
        safetensors.torch.save_file({k: v.clone() for k, v in tensors.items() if not v.is_quantized and v.is_cpu}, path)
    else:
        torch.save(state, path)
    if way == len(odd) + 2:
        path.write_bytes(damaged(path.read_bytes(), rng))


# --- pristine files, and who reads them -------------------------------------------------------------------------------


class Tiny(nn.Sequential):
    """Three strided convolutions under the names of a residual network: what loading weights costs is not the point."""

    def __init__(self) -> None:
        block = [nn.Sequential(nn.Conv2d(n, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()) for n in (3, 4, 4)]
        super().__init__()
        for number, layer in enumerate(block, 1):
            self.add_module(f"layer{number}", layer)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> dict[str, Any]:
    """Kind -> what is changed: bytes, or a state dict, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk, "trunk", lambda name: Tiny())
        folder = tmp_path_factory.mktemp("pristine")
        table = read_category(make_category(folder, size=SIZE, train=6, test_good=2, defects={"patch": 2}), "part")
        files: dict[str, Any] = {"models": [], "results": [], "images": [], "masks": []}
        patch.setenv("MVTEC_AD_HOME", str(folder))
        small = {"image_size": SIZE, "crop": SIZE}
        known = {"data_source": "own", "false_alarm_rate": 0.4, "keep_models": True}
        frozen = {**small, "weights": "random"}
        options = {"padim": {**frozen, "channels": 3}, "patchcore": frozen, "knn": frozen}
        options |= {"autoencoder": {**small, "width": 2, "steps": 1, "depth": 2}}
        for method, chosen in options.items():
            detector = detector_class(method)(**chosen)
            result = benchmark.run(detector, table, (0, 1), progress=False, **known)
            path = result.save(folder / f"{method}.zip", models=True)
            files["results"].append(path.read_bytes())
            limit = {"value": 1.0, "false_alarm_rate": 0.05}
            artifacts.save_model(path, result.detectors[0], "part", limit, data_source="own")
            files["models"].append(path.read_bytes())
        files["records"] = [published.record(result.report).read_bytes()]
        files["records"] += [json.dumps(json.loads((benchmark_file()).read_text())[:3]).encode()]
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WebP", "GIF"):
        for name, picture in (("images", pixels), ("masks", (pixels[..., 0] > 200).astype(np.uint8) * 255)):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, kind)
            files[name].append(buffer.getvalue())
    files["boxes"] = [Annotation((24, 20), "scratch", Box(1, 2, 10, 12)).xml("000.png")]
    names = [path.relative_to(folder / "part").as_posix() for path in sorted((folder / "part").rglob("*.png"))]
    files["markers"] = [json.dumps({"drawn_by": "us", "images": {n: {"severity": 0.5} for n in names}}).encode()]
    return {**files, "category": folder, "state": Tiny().eval().state_dict(), "table": table}


def benchmark_file() -> Path:
    """What is published with the suite."""
    return Path(__file__).resolve().parents[1] / "assets" / "results.json"


def read_model(path: Path) -> Any:
    """As `detect` does."""
    detector, description = load_model(path)
    scores = detector.score(np.random.default_rng(1).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8))
    return [scores.image, scores.maps, description["threshold"]["value"], detector.good_scores]


def read_results(path: Path) -> Any:
    """As notebook 09 and the pages do."""
    results = benchmark.load_results([path])
    for result in results:
        published.tables([result.report])
        published.record(result.report)
    return [result.scores for result in results] + [maps for result in results for maps in result.maps.values()]


def read_record(path: Path) -> Any:
    """As `results` does."""
    folder = artifacts.transfer_folder() / "results"
    folder.mkdir(exist_ok=True)
    (folder / "one.json").write_bytes(path.read_bytes())
    text = published.tables(reports := published.measured())
    return [[report["metrics"]["image_auroc"]["mean"] for report in reports], text.count("nan")]


def read_box(path: Path) -> Any:
    box = read_annotation(path).box
    return [box.xmin, box.ymin, box.xmax, box.ymax]


def read_weights(path: Path) -> Any:
    layers = load_backbone("resnet18", str(path))(np.full((1, SIZE, SIZE, 3), 200, np.uint8))
    backbones.packed_weights(str(path))
    return [layer.numpy() for layer in layers]


KINDS: dict[str, tuple[Callable[[Path], Any], str, Callable[..., bytes] | None, int]] = {
    "models": (read_model, ".zip", changed_zip, 400),
    "results": (read_results, ".zip", changed_zip, 300),
    "records": (read_record, ".json", changed_json, 300),
    "boxes": (read_box, ".xml", damaged, 300),
    "images": (read_image, ".png", damaged, 200),
    "masks": (read_mask, ".png", damaged, 200),
    "markers": (lambda path: [0], ".json", changed_json, 100),
    "weights": (read_weights, ".pth", None, 300),
}


def outcomes(kind: str, pristine: dict[str, Any], folder: Path, seed: int, count: int) -> tuple[int, list[str]]:
    """How many mutations were refused, and what was wrong with the answers to others."""
    read, suffix, change, _ = KINDS[kind]
    refused, wrong = 0, []
    for number in range(count):
        rng = random.Random(f"{kind} {seed} {number}")
        path = folder / f"{kind}{rng.choice(('.pth', '.safetensors')) if kind == 'weights' else suffix}"
        if change is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, about quantised tensors
                changed_state(pristine["state"], path, rng)
        else:
            path.write_bytes(change(rng.choice(pristine[kind]), rng))
        if kind == "markers":
            marker = pristine["category"] / "part" / SYNTHETIC
            marker.write_bytes(path.read_bytes())
        start = time.process_time()
        try:
            found = read_category(pristine["category"], "part") if kind == "markers" else read(path)
            if isinstance(found, pd.DataFrame):
                found = [found["severity"].to_numpy(np.float64)] if "severity" in found else [0]
            if not all(np.isfinite(values).all() for values in found if values is not None):
                wrong.append(f"{kind} {seed} {number}: accepted what is no number")
        except MvtecAdError as problem:
            refused += 1
            if len(str(problem).splitlines()) != 1:
                wrong.append(f"{kind} {seed} {number}: not one line: {problem!r}")
        except Exception as problem:
            wrong.append(f"{kind} {seed} {number}: {type(problem).__name__}: {str(problem)[:200]}")
        if time.process_time() - start > SECONDS:
            wrong.append(f"{kind} {seed} {number}: {time.process_time() - start:.1f} s")
    return refused, wrong


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_read_or_refused_in_one_line(
    kind: str, pristine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other exception, no number that is none, none for long; and the mutations bite."""
    monkeypatch.setattr(trunk, "trunk", lambda name: Tiny())
    monkeypatch.setattr(artifacts, "git_commit", functools.cache(artifacts.git_commit))
    count = KINDS[kind][3] * TIMES
    refused, wrong = outcomes(kind, pristine, tmp_path, SEED, count)
    assert not wrong, "\n".join([f"{len(wrong)} of {count}", *wrong[:20]])
    assert refused > count // 10
