"""A service for tests: a model without a network, whose scores are known by hand, in this process or in a child.

python served.py FOLDER     serves it at a free port, which is printed, with feedback in FOLDER
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

GOOD_SCORES = np.linspace(0, 40, 41, dtype=np.float32)
THRESHOLD, RATE, SIZE = 39.0, 0.05, 16
SLOW = 111  # the score of a part that takes half a second
GRAY = 100  # of a perfect part: the score is the largest distance from it


class Scorer:
    """As an exported model: what it is shown, score and map of a picture."""

    threshold, false_alarm_rate, map_scale = THRESHOLD, RATE, (0.0, 2 * THRESHOLD)

    def score(self, picture: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """The map is the distance from `GRAY`."""
        image = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        time.sleep(0.5 * (image[0, 0, 0] == GRAY + SLOW))
        values = np.abs(image.mean(2) - GRAY).astype(np.float32)
        return image, float(values.max()), values


def part(score: float = 10, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A picture, (H, W, 3) uint8, of this score: its upper left quarter is that much brighter than a perfect part."""
    picture = np.full((*size, 3), GRAY, np.uint8)
    picture[: size[0] // 2, : size[1] // 2] += np.uint8(score)
    return picture


def encoded(picture: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    """A file of it."""
    return cv2.imencode(suffix, picture[..., ::-1], options)[1].tobytes()


def form(files: Sequence[tuple[str, bytes]], field: str = "images") -> tuple[str, bytes]:
    """Content type and body of a form."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files
    ]
    return "multipart/form-data; boundary=x", b"".join(parts) + b"--x--\r\n"


def make_model(**more: Any) -> Any:
    """A `ServedModel` of the scorer."""
    from mvtec_ad.serving.models import SingleModel

    about = {"kind": "model", "method": "distance", "product": "part"}
    known = {"scorer": Scorer(), "method": "distance", "product": "part", **more}
    return SingleModel("part.zip", about, {"part": (GOOD_SCORES, THRESHOLD)}, **known)


def write_onnx(path: Path) -> Path:
    """The scorer as an exported model."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "last"], ["gray"], keepdims=0),
        helper.make_node("Resize", ["gray", "", "", "size"], ["small"], mode="nearest", nearest_mode="floor"),
        helper.make_node("Sub", ["small", "perfect"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["map"]),
        helper.make_node("ReduceMax", ["map"], ["score"], keepdims=0),
        helper.make_node("Greater", ["score", "threshold"], ["defect"]),
    ]
    constants = {"last": np.array([2]), "size": np.array([SIZE, SIZE]), "perfect": np.float32(GRAY)}
    constants["threshold"] = np.float32(THRESHOLD)
    outputs = {
        "score": (TensorProto.FLOAT, []),
        "map": (TensorProto.FLOAT, [SIZE, SIZE]),
        "defect": (TensorProto.BOOL, []),
    }
    graph = helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    known = {"schema": 1, "method": "distance", "category": "part", "image_size": SIZE, "crop": SIZE}
    known |= {"threshold": {"value": THRESHOLD, "false_alarm_rate": RATE}, "map_scale": [0.0, 2 * THRESHOLD]}
    helper.set_model_props(model, {"mvtec_ad": json.dumps(known | {"good_scores": GOOD_SCORES.tolist()})})
    onnx.save(model, path)
    return path


@contextlib.contextmanager
def child(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that serves it, and its port; it is ended by Ctrl-C where it has not ended yet."""
    command = [sys.executable, __file__, str(folder)]
    known = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    known["env"] = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, **known) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("ready "), process.stderr.read()
            yield process, int(line.split()[1])
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def inspect(port: int, *pictures: np.ndarray) -> list[dict[str, Any]]:
    """What a service answers of pictures."""
    kind, body = form([(f"{number}.png", encoded(picture)) for number, picture in enumerate(pictures)])
    status, _, answer = ask(port, "POST", "/inspect", body, Content_Type=kind)
    assert status == 200, answer
    return json.loads(answer)["images"]


def talk(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back for bytes that are sent as they are."""
    early = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
                if pause:
                    connection.settimeout(pause)
                    with contextlib.suppress(TimeoutError):
                        early += connection.recv(1 << 20)
                    connection.settimeout(20)
                    if early:
                        break
            except OSError:
                break
        return early + rest(connection)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other end closes."""
    pieces = []
    with contextlib.suppress(OSError):
        while piece := connection.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


if __name__ == "__main__":
    from mvtec_ad.serving import app as service
    from mvtec_ad.serving.feedback import Feedback
    from mvtec_ad.serving.guard import Limits, listen

    listener = listen("127.0.0.1", 0)
    limits = Limits(megabytes=2, megapixels=4, images=8, header_seconds=1, body_seconds=1)
    app = service.create_app(make_model(), limits=limits, feedback=Feedback(sys.argv[1]))
    service.run(app, listener, ready=f"ready {listener.getsockname()[1]}")
    print(f"ended after {app.state.service.inspected}")
