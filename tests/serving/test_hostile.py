"""Requests that mean no good, to a real server in a process of its own: each is refused in a line, and it lives on."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served import ask, child, encoded, form, inspect, part, rest, talk

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
PNG, JPEG, WEBP = (encoded(NOISE, suffix) for suffix in (".png", ".jpg", ".webp"))
LEAKS = re.compile(rb"Traceback|File \"|site-packages|\.py\b|/root|/home|/tmp|/usr|0x[0-9a-f]{6}")
Case = tuple[str, str, dict[str, str], bytes | None]  # method, path, headers, body
NUMBER = 200  # requests at least


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a service that takes 2 MB, 4 megapixels and 8 images."""
    with child(tmp_path_factory.mktemp("hostile") / "feedback") as (_, port):
        yield port


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header says a size that its data need not have."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def images() -> Iterator[bytes]:
    """Bombs, what is cut off, damaged, or no image at all."""
    yield png(65_000, 65_000, bytes(1_000_000))
    yield png(2**31 - 1, 2**31 - 1)
    yield png(2001, 2000)
    yield png(0, 10)
    yield png(100, 100)
    yield JPEG.replace(struct.pack(">HH", 24, 32), struct.pack(">HH", 65_000, 65_000))
    yield b"BM" + bytes(12) + struct.pack("<Iii", 40, 60_000, 60_000) + bytes(100)
    yield b"BM" + bytes(12) + struct.pack("<Iii", 40, -(2**31), 2**31 - 1) + bytes(100)
    yield b"II*\0\x08\0\0\0\x02\0\0\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\x01\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0"
    yield b"II*\0\xff\xff\xff\xff"
    yield b"II+\0\x08\0\0\0" + b"\xff" * 40
    yield WEBP[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6 + bytes(20)
    yield JPEG[:2] + JPEG[JPEG.rfind(b"\xff\xda") :] * 120
    yield PNG.replace(b"IDAT", b"IDAX")
    yield PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:]
    yield from (PNG[: len(PNG) * share // 20] for share in range(20))
    yield from (JPEG[: len(JPEG) * share // 20] for share in range(1, 20))
    yield from (WEBP[: len(WEBP) * share // 10] for share in range(1, 10))
    heads = (
        b"GIF89a",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x7fELF",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x1cftypheic",
    )
    yield from (head + bytes(200) for head in heads)
    yield from (
        b"\0",
        b"<html>",
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        "ünï".encode(),
        b"#!/bin/sh\nrm -rf /\n",
    )
    yield encoded(np.ones((8, 8, 3), np.float32), ".tiff")


def texts() -> Iterator[bytes]:
    """JSON that is none, that is something else, or that is far too much."""
    good = base64.b64encode(PNG).decode()
    wrong = (None, True, 1, "x", [], {}, [[]], {"images": None}, {"images": {}}, {"images": "x"}, {"images": []})
    wrong += ({"image": [good]}, {"images": [None]}, {"images": [good]}, {"images": [[good]]}, {"images": [{}]})
    wrong += tuple(
        {"images": [{"data": data}]} for data in (None, 1, [good], {}, "", "=", "a", "ab=c", "é", good[:-3], "!" + good)
    )
    wrong += tuple({"images": [{"data": good[:20] + odd + good[20:]}]} for odd in (" ", "-", "_", "\0", "\ud800"))
    wrong += tuple({"images": [{"name": name, "data": good}]} for name in (None, 1, [], {}))
    wrong += ({"images": [{"data": good}] * 9}, {"images": [{"data": good}, {"data": "eA=="}]})
    wrong += ({"images": [{"data": f"data:image/png;base64,{good}#"}]}, {"images": [{"data": "data:image/png"}]})
    yield from (json.dumps(value).encode() for value in wrong)
    yield from (
        b"",
        b"{",
        b'{"images": [',
        b'{"images": [NaN]}',
        b'{"images": Infinity}',
        b'{"images": -Infinity}',
        b"nul",
    )
    yield from (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 400 + b"]" * 400,
        b"[" + b"[]," * 600_000 + b"[]]",
        b"]" * 1_900_000,
    )
    yield from (
        b'{"images": ' + b"9" * 1_900_000 + b"}",
        b'{"images": 1e' + b"9" * 100_000 + b"}",
        b'"\xff\xfe"',
        b"\xef\xbb\xbf{}",
    )
    yield from (
        '{"images": []}'.encode("utf-16"),
        b'{"images": []} {}',
        b"{'images': []}",
        b'{"images": "' + b"A" * 1_900_000 + b'"}',
    )


def forms() -> Iterator[tuple[str, bytes]]:
    """Forms that are none, that are cut off, or of something else."""
    kind, body = form([("a.png", PNG)])
    plain = "multipart/form-data"
    yield plain, body
    yield f"{plain}; boundary=", body
    yield f"{plain}; boundary=y", body
    yield f"{plain}; boundary={'x' * 500}", body
    yield f"{plain}; boundary=x; charset=nonsense", b""
    yield from ((kind, body[: len(body) * share // 10]) for share in range(10))
    yield kind, body.replace(b"\r\n\r\n", b"\r\n", 1)
    yield kind, body.replace(b'name="images"; ', b"")
    yield kind, body.replace(b"Content-Disposition", b"X-Nothing")
    yield kind, body.replace(b"form-data", b"form-data; " + b"a" * 60_000)
    yield kind, body.replace(b'; filename="a.png"', b"")
    yield form([("a.png", PNG)], field="files")
    yield form([("a.png", PNG)], field="images\0")
    yield form([(f"{number}.png", PNG) for number in range(9)])
    yield form([("a.png", b"")])
    yield form([])
    yield kind, b"--x\r\n" * 50_000
    yield (
        kind,
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % n for n in range(20_000))
        + b"--x--\r\n",
    )
    yield "application/x-www-form-urlencoded", b"images=" + base64.b64encode(PNG)
    for other in (
        "",
        "text/plain",
        "image/png",
        "application/xml",
        "application/json5",
        "x" * 5_000,
        "multipart/mixed; boundary=x",
    ):
        yield other, PNG


def cases() -> Iterator[Case]:
    """All that HTTP itself lets through."""
    for data in images():
        kind, body = form([("../../etc/passwd", data)])
        yield "POST", "/inspect", {"Content-Type": kind}, body
    for body in texts():
        yield "POST", "/inspect", {"Content-Type": "application/json"}, body
    for kind, body in forms():
        yield "POST", "/inspect", {"Content-Type": kind}, body
    for path in ("/inspect", "/feedback", "/history", "/model", "/health", "/metrics", "/docs", "/", "/drift"):
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "get"):
            yield method, path, {}, None
    paths = (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/..\\..\\windows",
        "/inspect/",
        "/INSPECT",
        "/%00",
    )
    paths += (
        "/static/../app.py",
        "/history/1",
        "/feedback.jsonl",
        "/.git/config",
        "/%F0%9F%92%A3",
        "/?" + "a" * 9_000,
        "/" + "a/" * 4_000,
    )
    yield from (("GET" if "?" not in path else "POST", path, {}, None) for path in paths)
    kind, body = form([("a.png", PNG)])
    for query in ("maps=2", "maps=", "maps=abc", "maps=%00", "maps=0&maps=x"):
        yield "POST", f"/inspect?{query}", {"Content-Type": kind}, body
    opinions = [{}, [], None, 1, {"id": "x"}, {"right": True}, {"id": "x", "right": "yes"}, {"id": 1, "right": True}]
    opinions += [
        {"id": "../../etc/passwd", "right": True},
        {"id": "x", "right": True, "type": 1},
        {"id": "x", "right": 1},
    ]
    opinions += [
        {"id": "x", "right": True, "more": 1},
        {"id": "x" * 100_000, "right": True},
        {"id": "\ud800", "right": False},
    ]
    for opinion in opinions:
        yield "POST", "/feedback", {"Content-Type": "application/json"}, json.dumps(opinion).encode()
    yield "POST", "/feedback", {"Content-Type": "text/plain"}, b'{"id": "x", "right": true}'
    for host in ("attacker.example", "127.0.0.1.attacker.example", "", "localhost:80:80", "[::2]"):
        yield "GET", "/history", {"Host": host}, None
    for origin in ("http://attacker.example", "null", "http://127.0.0.1.attacker.example"):
        yield "POST", "/inspect", {"Content-Type": kind, "Origin": origin}, body
    yield "POST", "/inspect", {"Content-Type": kind}, body + bytes(2_100_000)


def raw() -> Iterator[bytes]:
    """What is no HTTP, or contradicts itself."""
    head = b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for length in (b"-1", b"x", b"1e3", b"0x10", b"5, 6", b"9" * 40, b"5\r\nContent-Length: 6"):
        yield head + b"Content-Length: " + length + b"\r\n\r\n{}{}{}"
    yield head + b"Content-Length: 2000001\r\nExpect: 100-continue\r\n\r\n"
    yield head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n"
    yield head + b"Transfer-Encoding: gzip\r\n\r\n"
    yield head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + bytes(65_536) + b"\r\n") * 40 + b"0\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 20_000 + b"\r\n"
    yield b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: localhost\r\nX y\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: localhost\r\n\0: a\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\n\r\n"
    yield b"GET /\xc3\xbc HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)
    yield b"\0" * 200 + b"\r\n\r\n"
    yield b"hello\r\n\r\n"
    yield "GET /☃ HTTP/1.1\r\n\r\n".encode()


def check(status: int, kind: str, body: bytes, case: object) -> None:
    """A refusal, on one line, that tells nothing of the machine."""
    shown = repr(case)[:300]
    assert 400 <= status < 500 or status == 503, (status, shown, body)
    assert kind == "application/json", shown
    assert b"\n" not in body, shown
    reason = json.loads(body)
    assert list(reason) == ["error"], shown
    assert isinstance(reason["error"], str), shown
    assert 5 < len(reason["error"]) < 1500, shown
    assert not LEAKS.search(body), body


def test_every_hostile_request_is_refused_in_one_line(server: int) -> None:
    """More than two hundred, several at once; after all of them a part has its verdict, as before."""
    before = inspect(server, part(10), part(50))
    hostile = list(cases())

    def send(case: Case) -> None:
        method, path, headers, body = case
        status, answered, answer = ask(server, method, path, body, **{"Host": "localhost", **headers})
        check(status, answered["content-type"], answer, case)

    def send_raw(data: bytes) -> None:
        head, _, body = talk(server, data).partition(b"\r\n\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
        }
        check(int(head.split()[1]), fields[b"content-type"].decode(), body, data)

    with ThreadPoolExecutor(8) as pool:
        sent = [*pool.map(send, hostile), *pool.map(send_raw, raw())]
    assert len(sent) >= NUMBER
    after = inspect(server, part(10), part(50))
    kept = ("verdict", "score", "threshold", "regions", "map")
    assert [[image[name] for name in kept] for image in after] == [[image[name] for name in kept] for image in before]


def test_who_sends_slowly_is_not_waited_for(server: int) -> None:
    """Headers and bodies that do not come, or drop by drop: 408 after a second; meanwhile others are answered."""
    head = b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n",),
        tuple(bytes([letter]) for letter in head),
        (head + b"Content-Length: 1000\r\n\r\n",),
        (head + b"Content-Length: 1000\r\n\r\n", *[b" "] * 100),
        (head + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 100),
        (head + b"Content-Length: 3000000\r\n\r\n", *[b" "] * 100),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",),  # after an answer
    ]
    with ThreadPoolExecutor(len(slow) + 1) as pool:
        answers = [pool.submit(talk, server, *pieces, pause=0.05) for pieces in slow]
        assert [image["verdict"] for image in inspect(server, part(10), part(50))] == ["good", "defect"]
        for pieces, answer in zip(slow, answers, strict=True):
            head, _, body = answer.result().rpartition(b"\r\n\r\n")
            expected = b"413" if b"3000000" in pieces[0] else b"408"
            assert head.rpartition(b"HTTP/1.1 ")[2].startswith(expected), (pieces[0], head)
            check(int(expected), "application/json", body, pieces[0])


def test_idle_connections_end_and_too_many_are_turned_away(server: int) -> None:
    """A connection on which nothing comes is closed without a word; of many at once the last ones hear why not."""
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        idle = pool.submit(talk, server)
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", server))) for _ in range(220)]
        head, _, body = rest(connections[-1]).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in head.lower()
        assert "connections" in json.loads(body)["error"]
        assert idle.result() == b""
    assert inspect(server, part(10))[0]["verdict"] == "good"
