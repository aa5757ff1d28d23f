"""What stands before the application: limits on bodies, time, connections and memory, a token, one-line refusals.

uvicorn limits neither a body nor the time that headers and bodies take, and FastAPI parses what it is given: both are
limited here, before anything is parsed, so that nobody's request costs another one its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mvtec_ad.errors import SettingsError, printable

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # what a browser on this machine calls the service
MOST_HEADERS = 32_768  # bytes
COOKIE = "mvtec_ad_token"
LINGER = 60.0  # seconds for a client to read the rest of an answer
Message = dict[str, Any]


class RequestError(Exception):
    """A request that is not answered: status, one line for the client, and seconds after which to try again."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(printable(reason))
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, beside its type."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    megabytes: int = 64  # of a body
    megapixels: int = 50  # of an image
    images: int = 16  # of a request
    waiting: int = 64  # images that wait for the model, of all requests
    body_seconds: float = 30.0  # until a body is there
    header_seconds: float = 10.0  # until headers are there
    seconds: float = 60.0  # until images are looked at
    connections: int = 200  # open at once
    bodies: int = 4  # bodies of the largest size that are held at once

    @property
    def bytes(self) -> int:
        """Of a body."""
        return self.megabytes * 1_000_000

    @property
    def pixels(self) -> int:
        """Of an image."""
        return self.megapixels * 1_000_000


def refusal_body(reason: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": reason}).encode()


def check_token(host: str, token: str | None) -> str | None:
    """The token that requests must bring, None for none.

    Raises:
        SettingsError: others than this machine could ask without one, or it cannot stand in a header.
    """
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,200}", token):
        raise SettingsError("--token must be 8 to 200 letters, digits or .-_~, as a header and a cookie can hold them")
    if token is None and not _is_loopback(host):
        raise SettingsError(f"--host {host} lets others ask: give --token SECRET, or leave the host as 127.0.0.1")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that nobody waits for a model only to hear that the port is taken.

    Raises:
        SettingsError: it is, or there is no such address here.
    """
    if not 0 <= port < 65536:
        raise SettingsError(f"--port {port} must be a number from 0 to 65535")
    with contextlib.ExitStack() as opened:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
            listener.bind(address)
            listener.listen(100)  # who comes while the model is read waits
        except (OSError, UnicodeError) as problem:
            reason = getattr(problem, "strerror", None) or problem
            raise SettingsError(
                f"nothing can listen at {host} port {port} ({reason}): choose another --port"
            ) from problem
        opened.pop_all()
    return listener


class Guard:
    """ASGI middleware: who may ask, and whole bodies within the limits of size, time and memory.

    Args:
        app: the application behind it.
        limits: see `Limits`.
        token: that a request must bring as `Authorization: Bearer`, as `?token=` or in the cookie that this sets. None
            asks for none, and answers only who asks for this machine by its name for itself: a page of the web that is
            open in a browser here could otherwise ask, having its own name point here.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits, token: str | None) -> None:
        self.app, self.limits, self.token = app, limits, token
        self.held = 0  # bytes of bodies of all requests

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sizes = [0]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
                message = {**message, "headers": [*message.get("headers", []), *more, *cookie]}
            await send(message)

        cookie: list[tuple[bytes, bytes]] = []
        try:
            try:
                if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
                    raise RequestError(431, f"the headers are too long: at most {MOST_HEADERS} bytes are taken")
                cookie = self.check_sender(scope, headers)
                body = await self.read_body(headers, receive, sizes)
            except RequestError as refusal:
                await self.refuse(refusal, answer)
                return
            if body is None:  # the client has gone
                return
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def replay() -> Message:
                return next(messages, None) or await receive()

            await self.app(scope, replay, answer)
        finally:
            self.held -= sum(sizes)

    def check_sender(self, scope: Message, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """Whether this client may ask; the header that sets the cookie where the token came in the address."""
        if self.token is None:
            host, origin = headers.get("host", "").lower(), headers.get("origin")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if not _is_loopback(name.strip("[]")):
                raise RequestError(421, f"without a token only this machine may ask, and it asks for {LOOPBACK[0]}")
            if origin and scope["method"] not in ("GET", "HEAD") and origin.lower().partition("://")[2] != host:
                raise RequestError(403, "a page of another address may not send anything here")
            return []
        given = parse_qs(scope["query_string"].decode("latin-1"), errors="replace").get("token", [""])[0]
        bearer = headers.get("authorization", "").partition(" ")
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(headers.get("cookie", ""))
        except CookieError:
            jar.clear()
        candidates = [
            given,
            bearer[2] if bearer[0].lower() == "bearer" else "",
            jar[COOKIE].value if COOKIE in jar else "",
        ]
        expected = self.token.encode()
        if not any(hmac.compare_digest(text.encode("utf-8", "replace"), expected) for text in candidates):
            if scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):  # the page holds nothing, and asks for it
                return []
            raise RequestError(401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN once for the page")
        origin = headers.get("origin", "").lower().partition("://")[2]
        by_cookie = not (candidates[0] or candidates[1])  # which pages of other ports of this host send along
        if (
            by_cookie
            and origin
            and scope["method"] not in ("GET", "HEAD")
            and origin != headers.get("host", "").lower()
        ):
            raise RequestError(403, "a page of another address may not send anything here")
        if candidates[0]:
            return [(b"set-cookie", f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict".encode())]
        return []

    async def read_body(self, headers: Mapping[str, str], receive: Callable, sizes: list[int]) -> bytes | None:
        """All of a body; None where the client has gone. `sizes` gets the bytes that are held meanwhile."""
        limits, length = self.limits, headers.get("content-length", "0")
        too_large = RequestError(413, f"the body is too large: at most {limits.megabytes} MB are taken")
        refusal = too_large if length.isdigit() and int(length[:15]) > limits.bytes else None
        if refusal and "expect" in headers:  # it waits to be allowed
            raise refusal
        chunks, size, end = [], 0, time.monotonic() + limits.body_seconds
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0.001))
            except asyncio.TimeoutError:
                seconds = f"{limits.body_seconds:g} seconds"
                raise refusal or RequestError(408, f"the body is not there after {seconds}: send it at once") from None
            if message["type"] != "http.request":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limits.bytes:
                refusal = too_large
            elif self.held + len(chunk) > limits.bodies * limits.bytes:
                refusal = RequestError(503, "too many images are being sent: try again in a moment", 1)
            if refusal:  # read on for a while: who is interrupted while he sends, does not hear why
                chunks.clear()
                self.held, sizes[0] = self.held - sizes[0], 0
            else:
                chunks.append(chunk)
                self.held, sizes[0] = self.held + len(chunk), sizes[0] + len(chunk)
            if refusal and (size > 4 * limits.bytes or not message.get("more_body")):
                raise refusal
            if not message.get("more_body"):
                return b"".join(chunks)

    async def refuse(self, refusal: RequestError, send: Callable) -> None:
        """One line, and the end of the connection: what else comes on it may be the rest of a body."""
        headers = {"content-type": "application/json", "connection": "close", **refusal.headers}
        headers |= {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
        body = refusal_body(str(refusal))
        headers["content-length"] = str(len(body))
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with limits on connections and on the time that headers take, and refusals in one line."""

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Too many are turned away."""
        super().connection_made(transport)
        self.header_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            self.refuse(503, "too many connections: try again in a moment")
        else:
            self.watch_headers()

    def data_received(self, data: bytes) -> None:
        """As data come, headers may be complete, or begin."""
        super().data_received(data)
        self.watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        if self.header_timer:
            self.header_timer.cancel()

    def on_response_complete(self) -> None:
        """The next headers may have begun to come with the last request."""
        super().on_response_complete()
        self.watch_headers()

    def watch_headers(self) -> None:
        """The time runs while headers are expected."""
        if self.conn.their_state is not h11.IDLE:
            if self.header_timer:
                self.header_timer.cancel()
            self.header_timer = None
        elif self.header_timer is None and not self.transport.is_closing():
            self.header_timer = self.loop.call_later(self.limits.header_seconds, self.headers_late)

    def headers_late(self) -> None:
        """They have not come: 408; a connection on which nothing has come is closed without a word."""
        self.header_timer = None
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self.refuse(408, f"the headers are not there after {self.limits.header_seconds:g} seconds")
        else:
            self.end()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or has headers that do not end."""
        self.refuse(400, "this is no HTTP request that is understood, or its headers are too long")

    def refuse(self, status: int, reason: str) -> None:
        """Answer before the application is asked, and end the connection."""
        body = refusal_body(reason)
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        headers += [("retry-after", "1")] if status == 503 else []
        try:
            start = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        except h11.LocalProtocolError:  # an answer is on its way already
            pass
        self.end()

    def timeout_keep_alive_handler(self) -> None:
        """Also for a client that does not read its answer."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER, self.transport.abort)

    def end(self) -> None:
        """Close when what was written is read, or in `LINGER` seconds."""
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)
