"""What people say of verdicts: a folder that `fit` reads, whole whatever happens to the service that writes it."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from served import ask, child, encoded, inspect, make_model, part
from starlette.testclient import TestClient

from mvtec_ad.data import index
from mvtec_ad.data.loading import read_image
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.serving import feedback as feedbacks
from mvtec_ad.serving.app import create_app
from mvtec_ad.serving.feedback import Feedback, History, labelled_type
from mvtec_ad.serving.guard import RequestError

KILLS = 25


def record(verdict: str = "defect", kind: str | None = None, product: str | None = "part") -> dict[str, Any]:
    """As an answer has it."""
    known = {"id": "1", "name": "a.png", "score": 50.0, "threshold": 39.0}
    return {"verdict": verdict, "type": kind, "product": product, **known}


def images(folder: Path) -> dict[str, str]:
    """Path of each image, relative, and the SHA-256 of what it holds."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def journal(folder: Path) -> list[dict[str, Any]]:
    """Its lines."""
    return [json.loads(line) for line in (folder / "feedback.jsonl").read_text().splitlines()]


def check_whole(folder: Path) -> list[dict[str, Any]]:
    """Every image is named by its content, the last line about it says where it is, versions follow one another."""
    lines, held = journal(folder), images(folder)
    assert [line["version"] for line in lines] == list(range(1, len(lines) + 1))
    last = {line["sha256"]: line["saved"] for line in lines}
    assert {digest: path for path, digest in held.items()} == last
    assert len(held) == len(last)
    assert all(Path(path).stem == digest[:20] for path, digest in held.items())
    return lines


@pytest.mark.parametrize(
    ("verdict", "known", "right", "kind", "expected"),
    [
        ("good", None, True, None, "good"),
        ("good", None, False, None, "defect"),
        ("good", None, False, "scratch", "scratch"),
        ("defect", None, False, None, "good"),
        ("defect", None, True, None, "defect"),
        ("defect", "hole", True, None, "hole"),
        ("defect", "unknown", True, None, "defect"),
        ("defect", "hole", True, "scratch", "scratch"),
        ("defect", "hole", False, "scratch", "scratch"),
        ("defect", None, False, " OK ", "good"),
        ("undecided", None, False, "good", "good"),
        ("none of these", None, True, "bolt", "bolt"),
        ("good", None, True, "scratch", None),
        ("good", None, False, "good", None),
        ("defect", None, True, "good", None),
        ("undecided", None, True, None, None),
        *(
            ("defect", None, True, name, None)
            for name in ("../x", "a/b", "a\\b", "..", ".git", "-rf", "C:x", "a\nb", "x" * 61, "\ud800", "a\0")
        ),
    ],
)
def test_what_was_said_of_a_verdict(
    verdict: str, known: str | None, right: bool, kind: str | None, expected: str | None
) -> None:
    """The type of the image, None where it is refused."""
    if expected is not None:
        assert labelled_type(record(verdict, known), right, kind) == expected
        return
    with pytest.raises(RequestError) as refusal:
        labelled_type(record(verdict, known), right, kind)
    assert refusal.value.status == 422


def test_the_folder_is_read_by_fit(tmp_path: Path) -> None:
    """Good parts to fit on, defects to test on, with the pixels that came; the last word counts."""
    folder = tmp_path / "feedback"
    with TestClient(create_app(make_model(), feedback=Feedback(folder)), base_url="http://localhost") as client:

        def say(score: int, right: bool, kind: str | None = None) -> dict[str, Any]:
            files = [("images", (f"{score}.png", encoded(part(score))))]
            (image,) = client.post("/inspect", files=files).json()["images"]
            answer = client.post("/feedback", json={"id": image["id"], "right": right, "type": kind})
            assert answer.status_code == 200, answer.text
            newest = client.get("/history").json()["images"][0]
            assert (newest["id"], newest["feedback"]["saved"]) == (image["id"], answer.json()["saved"])
            return answer.json()

        assert say(10, True)["saved"].startswith("part/train/good/")
        assert say(50, False)["saved"].startswith("part/train/good/")
        assert say(60, True, "scratch")["saved"].startswith("part/test/scratch/")
        assert say(20, False)["saved"].startswith("part/test/defect/")
        assert say(20, True) == {
            "saved": f"part/train/good/{hashlib.sha256(encoded(part(20))).hexdigest()[:20]}.png",
            "version": 5,
        }
    table = index.read_category(folder, "part")
    read = {(row.split, row.defect, int(read_image(row.image_path)[0, 0, 0]) - 100) for row in table.itertuples()}
    assert read == {("train", "good", 10), ("train", "good", 50), ("train", "good", 20), ("test", "scratch", 60)}
    lines = check_whole(folder)
    assert [(line["right"], line["type"]) for line in lines] == [
        (True, "good"),
        (False, "good"),
        (True, "scratch"),
        (False, "defect"),
        (True, "good"),
    ]
    assert lines[4]["moved_from"] == lines[3]["saved"]


def test_no_feedback_without_a_folder_or_of_what_is_forgotten(tmp_path: Path) -> None:
    """404; and where the disk refuses, 503 without its path."""
    with TestClient(create_app(make_model()), base_url="http://localhost") as client:
        answer = client.post("/feedback", json={"id": "x", "right": True})
        assert (answer.status_code, "--feedback" in answer.json()["error"]) == (404, True)
        assert client.get("/model").json()["feedback"] is False
    folder = tmp_path / "feedback"
    with TestClient(create_app(make_model(), feedback=Feedback(folder)), base_url="http://localhost") as client:
        assert client.post("/feedback", json={"id": "x", "right": True}).status_code == 404
        (image,) = client.post("/inspect", files=[("images", ("a.png", encoded(part(10))))]).json()["images"]
        (folder / "part").write_text("a file where the folder should be")
        answer = client.post("/feedback", json={"id": image["id"], "right": True})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert str(tmp_path) not in answer.text
        assert client.post("/feedback", json={"id": image["id"], "right": True, "type": "../up"}).status_code == 422
        (folder / "part").unlink()
        assert client.post("/feedback", json={"id": image["id"], "right": True}).status_code == 200
    check_whole(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing locks a folder there")
def test_a_folder_has_one_service(tmp_path: Path) -> None:
    """A second one is refused, until the first ends."""
    first = Feedback(tmp_path)
    with pytest.raises(DataError, match="another service"):
        Feedback(tmp_path)
    first.close()
    Feedback(tmp_path).close()
    with pytest.raises(DataError, match="cannot be written"):
        Feedback(tmp_path / ".lock" / "below")


def test_what_a_killed_service_left_is_put_in_order(tmp_path: Path) -> None:
    """Half a line or file, an image without a line, one that was moved without; foreign files are left alone."""
    feedback = Feedback(tmp_path)
    pictures = {score: encoded(part(score)) for score in (1, 2, 3)}
    for score in (1, 2):
        feedback.add(record(), pictures[score], True, "hole")
    feedback.close()
    before = journal(tmp_path)
    names = {score: f"{hashlib.sha256(data).hexdigest()[:20]}.png" for score, data in pictures.items()}
    with open(tmp_path / "feedback.jsonl", "ab") as file:
        file.write(b'{"version": 3, "at": "20')
    (tmp_path / "part/test/hole" / f".{names[3]}.host.123.tmp").write_bytes(b"half")
    (tmp_path / "part/test/hole/notes.txt").write_text("mine")
    good = tmp_path / "part/train/good"
    good.mkdir(parents=True)
    (good / names[3]).write_bytes(pictures[3])
    os.replace(tmp_path / "part/test/hole" / names[2], good / names[2])
    Feedback(tmp_path).close()
    lines = journal(tmp_path)
    assert lines[:2] == before
    assert sorted((line["version"], line["type"], line["right"]) for line in lines[2:]) == [
        (3, "good", None),
        (4, "good", None),
    ]
    assert {line["saved"] for line in lines[2:]} == {f"part/train/good/{names[2]}", f"part/train/good/{names[3]}"}
    (tmp_path / "part/test/hole/notes.txt").unlink()
    assert check_whole(tmp_path) == lines
    assert not list(tmp_path.rglob("*.tmp"))
    Feedback(tmp_path).close()
    assert journal(tmp_path) == lines


# Imports once, then forks a writer for each line it reads; a writer keeps feedback until it is killed.
NURSERY = """
import itertools, os, sys
from mvtec_ad.serving.feedback import Feedback

for line in sys.stdin:
    folder, start = line.rstrip().rsplit(" ", 1)
    child = os.fork()
    if child == 0:
        feedback = Feedback(folder)
        print(os.getpid(), flush=True)
        record = {"id": "1", "name": "a", "verdict": "defect", "type": None, "product": "part", "score": 1}
        record["threshold"] = 0
        for number in itertools.count(int(start)):
            content = str(number - number % 3).encode() * 20_000  # of three, two say something else of the same image
            feedback.add(record, content, True, f"type{number % 3}")
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as POSIX does it")
def test_whenever_it_is_killed_the_folder_is_whole(tmp_path: Path, project: Path) -> None:
    """At random moments while it writes and moves; nothing that was there is lost."""
    folder, moments, before = tmp_path / "feedback", random.Random(0), []
    command, known = (
        [sys.executable, "-c", NURSERY],
        {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
    )
    with subprocess.Popen(command, **known, env={**os.environ, "PYTHONPATH": str(project)}) as nursery:
        for number in range(KILLS):
            print(folder, number * 10_000, file=nursery.stdin, flush=True)
            writer = int(nursery.stdout.readline())
            time.sleep(moments.uniform(0, 0.06))
            os.kill(writer, signal.SIGKILL)
            assert nursery.stdout.readline() == "ended\n"
            Feedback(folder).close()
            lines = check_whole(folder) if (folder / "feedback.jsonl").exists() else []
            assert lines[: len(before)] == before
            before = lines
        nursery.stdin.close()
    assert len(lines) > KILLS, "no writer lived long enough: the kills prove nothing"


def test_killed_and_restarted_a_service_has_its_feedback(tmp_path: Path) -> None:
    """What was answered is there, although the service was killed while more came."""
    answered = {}
    with child(tmp_path) as (process, port):
        for score in range(6):
            (image,) = inspect(port, part(score))
            opinion = json.dumps({"id": image["id"], "right": score % 2 == 0}).encode()
            if score == 5:
                process.kill()
                break
            status, _, answer = ask(port, "POST", "/feedback", opinion, Content_Type="application/json")
            assert status == 200
            answered[json.loads(answer)["saved"]] = hashlib.sha256(encoded(part(score))).hexdigest()
    with child(tmp_path) as (_, port):
        assert {line["saved"]: line["sha256"] for line in check_whole(tmp_path)} == answered
        assert inspect(port, part(7))[0]["score"] == 7
    assert len(index.read_category(tmp_path, "part")) == len(answered) == 5


def test_the_drift_watch_lives_on(tmp_path: Path) -> None:
    """Of the same model it goes on where it was; another model begins anew; a damaged file is refused."""

    def seen(model: Any, *scores: int) -> float:
        with TestClient(create_app(model, feedback=Feedback(tmp_path)), base_url="http://localhost") as client:
            for score in scores:
                client.post("/inspect", files=[("images", ("a.png", encoded(part(score))))])
            return client.get("/drift").json()["seen"]

    assert seen(make_model(), 1, 2, 3) == 3
    assert seen(make_model(), 4) == 4
    other = make_model()
    other.description["threshold"] = 41.0
    assert seen(other, 1) == 1
    (tmp_path / "drift.json").write_text("{}")
    feedback = Feedback(tmp_path)
    with pytest.raises(DataError, match=r"drift\.json holds no drift watch"):
        create_app(make_model(), feedback=feedback)
    feedback.close()


def test_a_full_disk_costs_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last images cannot be kept, feedback on them is refused, and in words."""

    def full(*arguments: Any, **known: Any) -> None:
        raise OSError(28, "No space left on device")

    history = History(tmp_path)
    monkeypatch.setattr(feedbacks.tempfile, "TemporaryFile", full)
    history.add(record(), b"content")
    assert history.find("1") == (record() | {"has_file": False}, None)
    cause = ArtifactError("/secret/x cannot be written")
    cause.__cause__ = OSError(28, "No space left on device")
    assert feedbacks.in_short(cause) == "No space left on device"


def test_a_full_disk_costs_neither_the_journal_nor_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is taken back, so that the next one is whole; half a picture is not kept as if it were one."""
    feedback = Feedback(tmp_path)
    known = {"id": "1", "name": "a", "product": "part", "verdict": "good", "score": 1.0, "threshold": 2.0, "type": None}
    plain = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        feedback._write({"saved": "x", "right": True})
    assert feedback.journal.read_bytes() == b""
    monkeypatch.setattr(os, "fsync", plain)
    line = feedback.add(known, b"\x89PNG", True, None)
    assert [json.loads(text) for text in feedback.journal.read_text().splitlines()] == [line]
    feedback.close()

    class Short(io.BytesIO):
        def write(self, data: bytes) -> int:
            return super().write(data[:3])

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Short())
    history = History(tmp_path)
    history.add(known, b"a whole picture")
    assert history.find("1")[1] is None
    assert not history.newest()[0]["has_file"]


def test_what_is_not_the_services_is_left_alone(tmp_path: Path) -> None:
    """Temporary files of others, folders, and lines of the journal that lead elsewhere."""
    part = tmp_path / "part" / "train" / "good"
    (part / "deeper").mkdir(parents=True)
    (part / ".mine.tmp").write_bytes(b"x")
    (part / "photo.png").write_bytes(b"x")
    (tmp_path / "feedback.jsonl").write_text('{"sha256": "ab", "saved": "x"}\n{"sha256": "cd", "saved": "../../x"}\n')
    feedback = Feedback(tmp_path)
    assert (feedback.where, feedback.types, feedback.version) == ({}, [], 2)
    assert (part / ".mine.tmp").exists()
    feedback.close()
