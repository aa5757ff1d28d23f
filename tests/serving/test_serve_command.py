"""`mvtec-ad serve`: a whole process from start to Ctrl-C, without torch where an exported model is served; refusals."""

from __future__ import annotations

import builtins
import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import SLOW, ask, child, encoded, form, inspect, part, write_onnx

from mvtec_ad.cli import main

BARE = """
import sys
for name in ("torch", "torchvision", "tensorflow", "timm", "pandas", "scipy", "sklearn", "matplotlib", "safetensors"):
    sys.modules[name] = None  # importing it is an ImportError
from mvtec_ad.cli import entry
entry()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as POSIX does it")
def test_an_exported_model_is_served_without_torch(tmp_path: Path, project: Path) -> None:
    """It says what it reads and where it answers; Ctrl-C ends it in a line, with status 0."""
    model = write_onnx(tmp_path / "part.onnx")
    command = [sys.executable, "-c", BARE, "serve", str(model), "--port", "0", "--token", "a-secret-token"]
    known = {"cwd": project, "env": {"MVTEC_AD_HOME": str(tmp_path), "PYTHONPATH": str(project)}, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **known) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0] == f"reading {model}\n", process.stderr.read() if process.poll() is not None else lines
        assert lines[1] == f"feedback goes to {tmp_path / 'transfer' / 'feedback'}\n"
        address = re.fullmatch(
            r"ready after [\d.]+ s: http://127\.0\.0\.1:(\d+)/\?token=… \(.*\); Ctrl-C ends it\n", lines[2]
        )
        port = int(address[1])
        assert ask(port, "GET", "/health")[0] == 401
        status, _, answer = ask(port, "GET", "/model", Authorization="Bearer a-secret-token")
        assert (status, json.loads(answer)["name"]) == (200, "part.onnx")
        with pytest.raises(AssertionError, match="token"):
            inspect(port, part())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        assert (process.returncode, rest, errors) == (0, "ended; 0 images were inspected\n", "")
    assert (tmp_path / "transfer" / "feedback" / "drift.json").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="it is ended as POSIX does it")
def test_who_waits_when_it_is_terminated_is_told(tmp_path: Path) -> None:
    """What is looked at or half sent does not hold it up, and nothing but a line is printed."""
    with child(tmp_path) as (process, port), socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        with ThreadPoolExecutor(4) as pool:
            kind, body = form([("a.png", encoded(part(SLOW)))])
            waiting = [pool.submit(ask, port, "POST", "/inspect", body, Content_Type=kind) for _ in range(4)]
            while json.loads(ask(port, "GET", "/health")[2])["waiting"] < 4:
                time.sleep(0.01)
            process.terminate()
            for answer in waiting:
                status, headers, text = answer.result()
                assert (status, headers["retry-after"]) == (503, "10")
                assert "ends" in json.loads(text)["error"]
        printed, errors = process.communicate(timeout=20)
        assert (process.returncode, printed, errors) == (0, "ended after 0\n", "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "--token SECRET"),
        (["--token", "short"], "8 to 200"),
        (["--port", "99999"], "from 0 to 65535"),
        (["--second", "padim"], "--second says nothing with a single model"),
        (["--images", "65"], "would never fit --waiting 64"),
        (["--feedback", "{file}/below"], "cannot be written"),
        ([], "missing.zip is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_served_is_refused_in_a_line(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 2, before anything is read."""
    file = tmp_path / "file"
    file.touch()
    words = [word.format(file=file) for word in arguments]
    words = words if "--port" in words else [*words, "--port", "0"]
    assert main(["serve", str(tmp_path / "missing.zip"), *words]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("mvtec-ad serve: ")
    assert reason in printed
    assert printed.count("\n") == 1


def test_a_taken_port_is_told_of_before_the_model_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody waits for that."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path / "missing.zip"), "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it."""
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **known: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return plain(name, *arguments, **known)

    for name in [name for name in sys.modules if name.startswith("mvtec_ad.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["serve", "part.zip"]) == 2
    way = 'pip install "mvtec-ad-notebooks[serve]"'
    assert capsys.readouterr().err == f"mvtec-ad serve: {missing} is not installed: {way}\n"
