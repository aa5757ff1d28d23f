"""The application: `create_app(model)` gives it to any ASGI server or test, `run` serves it on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr, ValidationError
from starlette.exceptions import HTTPException

from mvtec_ad.artifacts import versions
from mvtec_ad.data import formats
from mvtec_ad.data.loading import decode_image
from mvtec_ad.errors import ArtifactError, DataError, MvtecAdError, in_words
from mvtec_ad.serving import feedback as feedbacks
from mvtec_ad.serving.batches import Batches
from mvtec_ad.serving.guard import MOST_HEADERS, Guard, LimitedProtocol, Limits, RequestError
from mvtec_ad.serving.models import Findings, ServedModel
from mvtec_ad.serving.page import line_page
from mvtec_ad.serving.records import Watch, map_url, record, thumbnail_url
from mvtec_ad.serving.uploads import FIELD, Upload, read_json, read_uploads

TEMPLATES = Path(__file__).parents[1] / "templates"
TOGETHER = 64_000_000  # pixels that are decoded at once
VERDICTS = ("good", "defect", "undecided", "none of these")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds


# --- what is asked and answered, for the documentation ----------------------------------------------------------------


class Step(BaseModel):
    """One stage of the way to a verdict."""

    stage: str
    result: str
    words: str


class Box(BaseModel):
    """A region of the anomaly map that stands out, largest area first."""

    box: list[float]  # left, top, width, height in shares of the picture
    area: float  # share of the picture
    peak: float  # largest value of the map
    where: str  # as "upper left"


class Inspected(BaseModel):
    """What is known of one image; null where nothing can tell it."""

    id: str
    name: str
    verdict: Literal["good", "defect", "undecided", "none of these"]
    score: float | None
    threshold: float | None
    promised: float | None
    product: str | None
    type: str | None
    type_neighbours: list[int] | None
    path: list[Step]
    milliseconds: float
    map: str | None
    map_scale: list[float] | None
    level: float | None  # of the map, above which regions stand out
    size: list[int]
    seen: list[float]
    regions: list[Box]
    sentence: str


class Remembered(Inspected):
    """An image of the history; its map comes with it where it is asked for by its id."""

    at: str
    thumbnail: str
    has_file: bool  # whether its file can be asked for
    feedback: dict[str, Any] | None


class Answer(BaseModel):
    """Of `/inspect`."""

    images: list[Inspected]


class Past(BaseModel):
    """Of `/history`."""

    images: list[Remembered]


class Statement(BaseModel):
    """What somebody says of a verdict: of the image with this id, whether it is right, and what the image shows."""

    model_config = ConfigDict(extra="forbid")
    id: StrictStr
    right: StrictBool
    type: StrictStr | None = None


class Saved(BaseModel):
    """Where feedback lies, relative to the folder, and how many there were until then."""

    saved: str
    version: int


class Drift(BaseModel):
    """The martingale that is highest, and those of all products."""

    alarm: bool
    martingale: float
    largest: float
    limit: float
    guarantee: str
    seen: int
    products: dict[str, dict[str, Any]]


class Problem(BaseModel):
    """Why a request is not answered, on one line."""

    error: str


_FILES = {"type": "object", "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}}}
_TEXTS = {"type": "object", "properties": {"name": {"type": "string"}, "data": {"type": "string", "format": "byte"}}}
_BODY = {
    "multipart/form-data": {"schema": _FILES | {"required": [FIELD]}},
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {FIELD: {"type": "array", "items": _TEXTS | {"required": ["data"]}}},
            "required": [FIELD],
        }
    },
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 408, 413, 415, 421, 422, 500, 503)
}


# --- the service ------------------------------------------------------------------------------------------------------


@dataclass
class Looked:
    """An image that the model has looked at."""

    upload: Upload
    findings: Findings
    record: dict[str, Any]
    thumbnail: str


@dataclass
class Service:
    """A model with what surrounds it: the queue before it, its counts, its last images and what was said of them."""

    model: ServedModel
    limits: Limits
    feedback: feedbacks.Feedback | None
    registry: CollectorRegistry = field(default_factory=lambda: CollectorRegistry(auto_describe=True))

    def __post_init__(self) -> None:
        folder = self.feedback.folder if self.feedback else None
        self.history, self.watch = feedbacks.History(folder), Watch(self.model, folder)
        self.batches, self.inspected = Batches(self.look, self.limits.waiting), 0
        self.files = ThreadPoolExecutor(1, thread_name_prefix="files")  # in which everything is written
        self.readers = ThreadPoolExecutor(2, thread_name_prefix="read")
        known = {"registry": self.registry, "namespace": "mvtec_ad"}
        self.requests = Counter("requests", "Requests by path and status.", ["path", "status"], **known)
        self.durations = Histogram("request_seconds", "Of requests by path.", ["path"], buckets=BUCKETS, **known)
        self.images = Counter("images", "Images by verdict.", ["verdict"], **known)
        self.image_seconds = Histogram("image_seconds", "That the model took, by image.", buckets=BUCKETS, **known)
        self.statements = Counter("feedback", "Feedback by whether the verdict was right.", ["right"], **known)
        for verdict in VERDICTS:
            self.images.labels(verdict)
        gauges = {
            "waiting": "Images that wait for the model.",
            "drift_alarm": "Whether a martingale reached its limit.",
        }
        gauges |= {"drift_martingale": "The highest martingale.", "drift_limit": "Of the martingale."}
        drift = {"drift_alarm": "alarm", "drift_martingale": "martingale", "drift_limit": "limit"}
        for name, text in gauges.items():
            key = drift.get(name)
            value = (lambda key=key: float(self.watch.describe()[key])) if key else (lambda: self.batches.waiting)
            Gauge(name, text, **known).set_function(value)
        with contextlib.suppress(Exception):  # a system that tells nothing of processes
            ProcessCollector(registry=self.registry)

    @contextlib.asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """While the application lives."""
        self.batches.start()
        try:
            yield
        finally:
            await self.batches.stop()
            self.readers.shutdown()
            self.files.shutdown()
            self.watch.save()
            self.history.close()
            if self.feedback:
                self.feedback.close()

    async def inspect(self, uploads: Sequence[Upload], maps: bool) -> list[dict[str, Any]]:
        """Look at images, remember them, and tell."""
        looked = await self.batches.results([(upload, maps) for upload in uploads], self.limits.seconds)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.files, self.remember, looked)
        return [each.record for each in looked]

    def look(self, items: Sequence[tuple[Upload, bool]]) -> list[Looked | Exception]:
        """What the model makes of some images, in its thread; not more are decoded at once than memory is meant for."""
        results: list[Looked | Exception] = []
        for part in _parts([upload for upload, _ in items]):
            results += self._look(items[len(results) : len(results) + part])
        return results

    def _look(self, items: Sequence[tuple[Upload, bool]]) -> list[Looked | Exception]:
        begun = time.perf_counter()
        pictures = list(self.readers.map(lambda item: self._decode(item[0]), items))
        readable = [picture for picture in pictures if not isinstance(picture, Exception)]
        try:
            findings: list[Any] = self.model.inspect(readable) if readable else []
        except Exception as problem:  # of one of them, perhaps: the others have their answers
            findings = [problem] if len(readable) == 1 else [self._alone(picture) for picture in readable]
        milliseconds, remaining = 1000 * (time.perf_counter() - begun) / len(items), iter(findings)
        results: list[Looked | Exception] = []
        for (upload, maps), picture in zip(items, pictures, strict=True):
            known = picture if isinstance(picture, Exception) else next(remaining)
            if isinstance(known, Exception):
                results.append(known)
                continue
            values = record(upload.name, known, picture.shape, milliseconds, uuid.uuid4().hex)
            values["map"] = map_url(known) if maps else None
            results.append(Looked(upload, known, values, thumbnail_url(picture)))
        return results

    def _decode(self, upload: Upload) -> np.ndarray | Exception:
        try:
            return decode_image(upload.content, f"image {upload.name}", self.limits.pixels)
        except DataError as problem:
            return RequestError(422, str(problem))

    def _alone(self, picture: np.ndarray) -> Findings | Exception:
        try:
            return self.model.inspect([picture])[0]
        except Exception as problem:
            return problem

    def remember(self, looked: Sequence[Looked]) -> None:
        """Count, watch for drift, keep among the last."""
        for each in looked:
            self.inspected += 1
            self.images.labels(each.findings.verdict).inc()
            self.image_seconds.observe(each.record["milliseconds"] / 1000)
            self.watch.update(each.findings)
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            more = {"at": now, "thumbnail": each.thumbnail, "feedback": None}
            self.history.add(each.record | more, each.upload.content)

    def keep(self, statement: Statement) -> dict[str, Any]:
        """Write what somebody says of a verdict."""
        if self.feedback is None:
            raise RequestError(404, "no feedback is kept here: start the service with --feedback FOLDER")
        remembered, content = self.history.find(statement.id)
        if content is None:
            raise RequestError(503, "this image could not be kept, there was no room for it: inspect it again", 60)
        try:
            line = self.feedback.add(remembered, content, statement.right, statement.type)
        except (OSError, ArtifactError) as problem:
            print(f"feedback is not kept: {in_words(problem)}", file=sys.stderr)
            raise RequestError(503, f"feedback cannot be written ({feedbacks.in_short(problem)})", 60) from problem
        remembered["feedback"] = {name: line[name] for name in ("right", "type", "saved", "at")}
        self.statements.labels(str(statement.right).lower()).inc()
        return {"saved": line["saved"], "version": line["version"]}

    def describe(self) -> dict[str, Any]:
        """Of `/model`."""
        known = {"name": self.model.name, **self.model.description, "limits": asdict(self.limits)}
        known["types"] = sorted({*known.get("types", []), *(self.feedback.types if self.feedback else [])})
        return known | {"feedback": self.feedback is not None, "served_by": versions()}


def _parts(uploads: Sequence[Upload]) -> Iterator[int]:
    """Numbers of images that follow one another and have at most `TOGETHER` pixels in all, or are one."""
    count = pixels = 0
    for upload in uploads:
        width, height = formats.picture_size(upload.content)
        if count and pixels + width * height > TOGETHER:
            yield count
            count = pixels = 0
        count, pixels = count + 1, pixels + width * height
    if count:
        yield count


def create_app(
    model: ServedModel,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    feedback: feedbacks.Feedback | None = None,
) -> FastAPI:
    """The application that serves a model.

    Args:
        model: as `models.load_served` gives it.
        limits: see `Limits`.
        token: that every request must bring; None answers this machine alone.
        feedback: folder that what is said of verdicts goes to; it is closed with the application.
    """
    service = Service(model, limits or Limits(), feedback)
    about = {"title": "Inspection", "version": versions().get("mvtec-ad-notebooks", "0"), "responses": _PROBLEMS}
    about["description"] = "Pictures of parts in, verdicts with their reasons out. Problems are one line of JSON."
    app = FastAPI(**about, lifespan=service.running, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.add_middleware(Guard, limits=service.limits, token=token)
    app.add_middleware(_Counting, service=service)
    _add_errors(app)
    body = {"required": True, "content": _BODY}

    @app.post("/inspect", response_model=Answer, openapi_extra={"requestBody": body})
    async def inspect(
        request: Request, maps: bool = Query(True, description="Whether answers hold anomaly maps.")
    ) -> dict[str, Any]:
        """Inspect one or many images, sent as a form of files named "images" or as base64 in JSON.

        A verdict is a defect where the score is larger than the threshold; `promised` is the share of good parts that
        this may stop. The map is a gray PNG over the part `seen` of the picture, from `map_scale[0]` to `[1]`.
        """
        return {"images": await service.inspect(await read_uploads(request, service.limits), maps)}

    statement_schema = {"application/json": {"schema": Statement.model_json_schema()}}

    @app.post(
        "/feedback",
        response_model=Saved,
        openapi_extra={"requestBody": {"required": True, "content": statement_schema}},
    )
    async def feedback_(request: Request) -> dict[str, Any]:
        """Say whether a verdict was right, and what the image shows: good, or the name of a defect."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "feedback is JSON, with Content-Type: application/json")
        try:
            statement = Statement.model_validate(read_json(await request.body()))
        except ValidationError as problem:
            raise RequestError(422, f"feedback {_first(problem.errors())}") from problem
        return await asyncio.get_running_loop().run_in_executor(service.files, service.keep, statement)

    @app.get("/history", response_model=Past)
    async def history() -> dict[str, Any]:
        """The last fifty images, newest first, with thumbnails and what was said of them."""
        return {"images": service.history.newest()}

    @app.get("/history/{identity}", response_model=Remembered)
    async def remembered(identity: str) -> dict[str, Any]:
        """One of the last fifty images, with its map."""
        return service.history.record(identity)

    @app.get("/history/{identity}/picture", response_class=Response)
    async def picture(identity: str) -> Response:
        """The file of one of the last fifty images, as it came."""
        _, content = await asyncio.get_running_loop().run_in_executor(service.files, service.history.find, identity)
        if content is None:
            raise RequestError(404, "the picture itself is not kept: start the service with --feedback FOLDER")
        return Response(content, media_type=feedbacks.MEDIA_TYPES[feedbacks.suffix(content)])

    @app.get("/model", response_model=dict[str, Any])
    async def model_() -> dict[str, Any]:
        """What is served: method, options, threshold and what it promises, and the limits of requests."""
        return service.describe()

    @app.get("/drift", response_model=Drift)
    async def drift() -> dict[str, Any]:
        """Whether the scores of what passes are still those of good parts."""
        return service.watch.describe()

    @app.get("/health", response_model=dict[str, Any])
    async def health() -> dict[str, Any]:
        """That the service answers, how many images wait, and whether the drift alarm is raised."""
        alarm = service.watch.describe()["alarm"]
        return {"status": "ok", "model": model.name, "waiting": service.batches.waiting, "drift_alarm": alarm}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse((TEMPLATES / "api.html").read_text(encoding="utf-8"))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(line_page())

    return app


class _Counting:
    """Counts requests with their status and time; paths that nobody knows have one name."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), ["499"]  # where nobody is there to be answered

        async def counted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:  # answered with a 500 outside of here
            status[0] = "500" if status[0] == "499" else status[0]
            raise
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self.service.requests.labels(path, status[0]).inc()
            self.service.durations.labels(path).observe(time.perf_counter() - begun)


# --- problems, in one line --------------------------------------------------------------------------------------------


def _problem(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, problem: RequestError) -> JSONResponse:
        return _problem(problem.status, str(problem), problem.headers)

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, problem: HTTPException) -> JSONResponse:
        words = {
            404: "there is nothing at this address: /docs lists what there is",
            405: "not by this method: see /docs",
        }
        return _problem(problem.status_code, words.get(problem.status_code, str(problem.detail)), problem.headers)

    @app.exception_handler(RequestValidationError)
    async def of_arguments(request: Request, problem: RequestValidationError) -> JSONResponse:
        return _problem(422, f"the request {_first(problem.errors())}")

    @app.exception_handler(MvtecAdError)
    @app.exception_handler(MemoryError)
    async def of_model(request: Request, problem: Exception) -> JSONResponse:
        print(f"not answered: {in_words(problem)}", file=sys.stderr)  # which may name a path
        if isinstance(problem, MemoryError):
            return _problem(503, "there is not enough memory for this image now", {"retry-after": "5"})
        return _problem(500, "the model cannot judge this image: the service's console says why")

    @app.exception_handler(Exception)
    async def of_ours(request: Request, problem: Exception) -> JSONResponse:
        traceback.print_exception(problem)  # on the console alone
        return _problem(500, "the service failed on this request: its console says why")


def _first(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors, in words."""
    place = ".".join(str(part) for part in errors[0].get("loc", ()) if part not in ("query", "body"))[:100]
    return f"has no valid {place or 'object'}: {errors[0].get('msg', 'it cannot be read')}"


# --- serving ----------------------------------------------------------------------------------------------------------


def run(app: FastAPI, listener: socket.socket, *, ready: str = "") -> None:
    """Serve until Ctrl-C or SIGTERM, on a socket that is bound already; `ready` is printed when requests are taken."""
    protocol = type("Protocol", (LimitedProtocol,), {"limits": app.state.service.limits})
    known = {"http": protocol, "ws": "none", "lifespan": "on", "log_level": "critical", "access_log": False}
    known |= {"server_header": False, "proxy_headers": False, "timeout_keep_alive": 10, "timeout_graceful_shutdown": 3}
    server = uvicorn.Server(uvicorn.Config(app, h11_max_incomplete_event_size=MOST_HEADERS, **known))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # which uvicorn raises again at the end
    startup, shutdown = server.startup, server.shutdown

    async def announced(*arguments: Any, **more: Any) -> None:
        await startup(*arguments, **more)
        print(ready, flush=True)

    async def prompt(*arguments: Any, **more: Any) -> None:
        app.state.service.batches.end()
        await shutdown(*arguments, **more)

    server.startup, server.shutdown = announced, prompt
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
