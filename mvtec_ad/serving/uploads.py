"""Bodies of requests become named images, still encoded and checked by their headers alone, or a refusal in a line."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mvtec_ad.data import formats
from mvtec_ad.data.loading import check_content
from mvtec_ad.errors import DataError, printable
from mvtec_ad.serving.guard import Limits, RequestError

FIELD = "images"  # of the form, and of the JSON object
LONGEST_NAME = 200  # characters of an image's name
MOST_MARKS = 10_000  # brackets and commas of a JSON text: an image in it has none, each makes Python take memory
DEEPEST = 50  # brackets that are open at once
MOST_SCANS = 100  # of a JPEG: a progressive one has ten, and each takes as long as the whole picture
WAY = 'send a form with files named "images", or JSON {"images": [{"name": …, "data": BASE64}]}'


@dataclass(frozen=True)
class Upload:
    """An image as it came: the name that its sender gives it, and the bytes of its file."""

    name: str
    content: bytes


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The images of a request, of a form (multipart) or JSON, each checked by its header.

    Raises:
        RequestError: 400, 413, 415 or 422, which names the image.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = await _form_uploads(request, limits)
    elif kind == "application/json":
        uploads = _json_uploads(read_json(await request.body()), limits)
    else:
        raise RequestError(415, f"a body of type {kind[:100] or 'unknown'} is not understood: {WAY}")
    if not uploads:
        raise RequestError(422, f"there is no image: {WAY}")
    if len(uploads) > limits.images:
        raise RequestError(413, f"{len(uploads)} images are too many for a request: at most {limits.images} are taken")
    for upload in uploads:
        check_upload(upload, limits)
    return uploads


async def _form_uploads(request: Request, limits: Limits) -> list[Upload]:
    body = await request.body()
    try:
        form = await request.form(max_files=limits.images, max_fields=limits.images, max_part_size=1_000_000)
    except HTTPException as problem:
        raise RequestError(400, f"the form cannot be read ({problem.detail}): {WAY}") from problem
    except (ValueError, LookupError) as problem:  # of headers that python-multipart stumbles over
        raise RequestError(400, f"the form cannot be read: {WAY}") from problem
    try:
        if not body.rstrip().endswith(b"--"):
            raise RequestError(400, "the form is cut off: send it again")
        parts = form.getlist(FIELD)
        if other := [name for name in form if name != FIELD]:
            raise RequestError(422, f"the form has a field {shown(other[0])!r}: {WAY}")
        if any(not isinstance(part, UploadFile) for part in parts):
            raise RequestError(422, f"a field of the form is no file: {WAY}")
        return [Upload(shown(part.filename or ""), await part.read()) for part in parts]
    finally:
        await form.close()


def _json_uploads(data: Any, limits: Limits) -> list[Upload]:
    images = data.get(FIELD) if isinstance(data, Mapping) else None
    if not isinstance(images, list):
        raise RequestError(422, f"the JSON holds no list of images: {WAY}")
    if len(images) > limits.images:
        raise RequestError(413, f"{len(images)} images are too many for a request: at most {limits.images} are taken")
    uploads = []
    for number, image in enumerate(images):
        text = image.get("data") if isinstance(image, Mapping) else None
        name = image.get("name", f"image {number}") if isinstance(image, Mapping) else None
        if not isinstance(text, str) or not isinstance(name, str):
            raise RequestError(422, f"image {number} has no text data, or a name that is no text: {WAY}")
        if text.startswith("data:"):  # as a browser gives a file
            text = text.partition(",")[2]
        try:
            content = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
        except (binascii.Error, ValueError) as problem:
            raise RequestError(
                422, f"the data of image {number} are no base64: encode the bytes of its file"
            ) from problem
        uploads.append(Upload(shown(name) or f"image {number}", content))
    return uploads


def read_json(body: bytes) -> Any:
    """JSON data of a body: UTF-8, without NaN, not deep, not of more brackets and commas than images need.

    Raises:
        RequestError: 400.
    """
    if sum(map(body.count, (b",", b"[", b"{", b"]", b"}"))) > MOST_MARKS:
        raise RequestError(400, "the JSON has far more parts than a list of images: " + WAY)
    if _depth(body) > DEEPEST:
        raise RequestError(400, "the JSON is nested too deeply: " + WAY)
    try:
        return json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as problem:  # UnicodeDecodeError and JSONDecodeError among them
        raise RequestError(400, f"the body is no JSON in UTF-8: {WAY}") from problem


def _depth(body: bytes) -> int:
    """Brackets open at once, at most; those in texts count too, which only refuses odd names."""
    depth = deepest = 0
    for letter in body.translate(None, delete=bytes(set(range(256)) - set(b"[]{}"))):
        depth += 1 if letter in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def check_upload(upload: Upload, limits: Limits) -> None:
    """Refuse, undecoded, what is no image (415), has too many pixels (413) or is not whole (422)."""
    size = formats.picture_size(upload.content)
    try:
        check_content(upload.content, f"image {upload.name}", limits.pixels)
    except DataError as problem:
        too_large = size is not None and size[0] * size[1] > limits.pixels
        raise RequestError(
            413 if too_large else 415 if size is None and upload.content else 422, str(problem)
        ) from problem
    if 0 in size:
        raise RequestError(422, f"image {upload.name} has no pixels: export it again")
    if upload.content.startswith(formats.JPEG) and upload.content.count(b"\xff\xda") > MOST_SCANS:
        raise RequestError(422, f"image {upload.name} has more than {MOST_SCANS} scans: save it as a plain JPEG")


def shown(name: str) -> str:
    """A name from outside as it is shown: its last component, of a bounded length, on one line."""
    return printable(PurePosixPath(name[:4096].replace("\\", "/").replace("\0", "")).name[:LONGEST_NAME])
