"""What the service answers, in this process: equal to what its model says, as it is promised, within limits."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served import GRAY, RATE, SIZE, THRESHOLD, Scorer, encoded, form, make_model, part
from starlette.testclient import TestClient

from mvtec_ad.drift import Martingale
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.serving.app import Answer, Drift, Past, create_app
from mvtec_ad.serving.batches import Batches
from mvtec_ad.serving.feedback import Feedback
from mvtec_ad.serving.guard import Guard, Limits, RequestError, check_token, listen
from mvtec_ad.serving.models import Findings, ServedModel

HERE = "http://127.0.0.1:8000"


@contextmanager
def service(model: Any = None, **known: Any) -> Iterator[TestClient]:
    """A client of an application that runs."""
    with TestClient(create_app(model or make_model(), **known), base_url=HERE) as client:
        yield client


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """Of a service with feedback."""
    with service(feedback=Feedback(tmp_path / "feedback")) as known:
        yield known


def inspect(client: TestClient, *pictures: np.ndarray, query: str = "") -> list[dict[str, Any]]:
    """Answers, in order."""
    kind, body = form([(f"{number}.png", encoded(picture)) for number, picture in enumerate(pictures)])
    answer = client.post(f"/inspect{query}", content=body, headers={"content-type": kind})
    assert answer.status_code == 200, answer.text
    return answer.json()["images"]


def pixels(url: str) -> np.ndarray:
    """Of a picture in a data URL, decoded by Pillow."""
    import io

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def without(image: dict[str, Any], *names: str) -> dict[str, Any]:
    """What does not differ from call to call."""
    return {name: value for name, value in image.items() if name not in ("id", "milliseconds", *names)}


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_what_the_model_says(client: TestClient) -> None:
    """Every field, by hand: a quarter of the picture is 60 brighter than a perfect part."""
    (image,) = inspect(client, part(60, (20, 40)))
    assert Answer.model_validate({"images": [image]}).images[0].verdict == "defect"
    expected = {"name": "0.png", "verdict": "defect", "score": 60.0, "threshold": THRESHOLD, "promised": RATE}
    expected |= {"product": "part", "type": None, "type_neighbours": None, "map_scale": [0.0, 2 * THRESHOLD]}
    expected |= {"size": [40, 20], "seen": [0.0, 0.0, 1.0, 1.0]}
    assert {name: image[name] for name in expected} == expected
    assert image["regions"] == [{"box": [0.0, 0.0, 0.5, 0.5], "area": 0.25, "peak": 60.0, "where": "upper left"}]
    assert image["sentence"] == "upper left, 25 % of the picture, 1.5 × the largest good score"
    assert image["path"] == [{"stage": "distance", "result": "defect", "words": "distance: score 60, threshold 39"}]
    gray = np.zeros((SIZE, SIZE), np.uint8)
    gray[: SIZE // 2, : SIZE // 2] = round(60 / (2 * THRESHOLD) * 255)
    assert np.array_equal(pixels(image["map"]), gray)


def test_forms_and_json_say_the_same_in_order(client: TestClient) -> None:
    """Three images of either kind, plain base64, in lines or as a browser gives it; and each alone."""
    pictures = [part(score) for score in (5, 45, 39)]
    of_form = inspect(client, *pictures)
    assert [image["score"] for image in of_form] == [5.0, 45.0, 39.0]
    assert [image["verdict"] for image in of_form] == ["good", "defect", "good"]
    texts = [base64.b64encode(encoded(picture)).decode() for picture in pictures]
    texts[1], texts[2] = f"data:image/png;base64,{texts[1]}", "\n".join(re.findall(".{1,60}", texts[2]))
    answer = client.post(
        "/inspect", json={"images": [{"name": f"{n}.png", "data": data} for n, data in enumerate(texts)]}
    )
    assert list(map(without, answer.json()["images"])) == list(map(without, of_form))
    for picture, image in zip(pictures, of_form, strict=True):
        assert without(inspect(client, picture)[0], "name") == without(image, "name")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
def test_every_format_is_read(client: TestClient, suffix: str) -> None:
    """A plain part of any format has its score, up to what JPEG loses."""
    data = base64.b64encode(encoded(np.full((16, 16, 3), GRAY + 50, np.uint8), suffix)).decode()
    (image,) = client.post("/inspect", json={"images": [{"name": "a", "data": data}]}).json()["images"]
    assert image["score"] == pytest.approx(50, abs=2)


def test_without_maps_all_else_is_the_same(client: TestClient) -> None:
    """`?maps=0`."""
    (full,), (small,) = inspect(client, part(60)), inspect(client, part(60), query="?maps=0")
    assert small["map"] is None
    assert full["map"]
    assert without(small, "map") == without(full, "map")


def test_names_from_outside_are_labels(client: TestClient) -> None:
    """The last component of a path, on one line, of a bounded length; none is no problem."""
    names = ("../../etc/passwd", "C:\\parts\\ü.png", "a\nb\r\0c", "x" * 5000, "", "\ud800")
    data = base64.b64encode(encoded(part())).decode()
    images = [{"name": name, "data": data} for name in names]
    shown = [
        image["name"]
        for image in client.post(
            "/inspect", content=json.dumps({"images": images}), headers={"content-type": "application/json"}
        ).json()["images"]
    ]
    assert shown[:3] == ["passwd", "ü.png", "a\\nb\\rc"]
    assert (shown[3], shown[5]) == ("x" * 200, "\\ud800")


def test_the_last_fifty_are_remembered(client: TestClient) -> None:
    """Newest first, with thumbnails; of a large picture 96 pixels."""
    for number in range(0, 54, 6):
        inspect(client, *(part(count, (60, 300)) for count in range(number, number + 6)))
    images = client.get("/history").json()["images"]
    assert Past.model_validate({"images": images})
    assert [image["score"] for image in images] == [float(score) for score in range(53, 3, -1)]
    thumbnail = pixels(images[0]["thumbnail"])
    assert thumbnail.shape == (19, 96, 3)
    assert np.abs(thumbnail.astype(int) - cv2.resize(part(53, (60, 300)), (96, 19)).astype(int)).mean() < 6
    assert {image["map"] for image in images} == {None}
    assert images[0]["feedback"] is None


class Other(ServedModel):
    """A line whose verdicts follow from the brightness of a picture."""

    def inspect(self, pictures: Any) -> list[Findings]:
        """Undecided, out of distribution, a typed defect, or an error."""
        answers = {
            0: Findings("undecided"),
            1: Findings("none of these", path=({"stage": "product", "result": "x", "words": "y"},)),
        }
        answers[2] = Findings("defect", product="a", type="hole", type_neighbours=(4, 5))
        if any(picture[0, 0, 0] == 9 for picture in pictures):
            raise DataError("/secret/model.zip gives an image the score nan")
        return [answers[picture[0, 0, 0]] for picture in pictures]


def test_what_nothing_can_tell_is_null() -> None:
    """An undecided image, one of no product, and a defect without scores or a map."""
    with service(Other("line")) as client:
        pictures = [np.full((8, 8, 3), value, np.uint8) for value in (0, 1, 2)]
        images = inspect(client, *pictures)
        assert [image["verdict"] for image in images] == ["undecided", "none of these", "defect"]
        assert images[0]["sentence"] == "nothing here can decide about it"
        assert images[1]["path"] == [{"stage": "product", "result": "x", "words": "y"}]
        assert images[2]["sentence"] == "a defect, by its score alone; looks like hole, 4 of 5 neighbours"
        assert {image[name] for image in images for name in ("score", "threshold", "map", "map_scale")} == {None}
        drift = client.get("/drift").json()
        assert (drift["alarm"], drift["seen"]) == (False, 0)
        assert "not watched" in drift["guarantee"]
        # an image that the model fails on costs those that are looked at with it nothing
        bad = encoded(np.full((8, 8, 3), 9, np.uint8))
        kind, body = form([("a.png", bad)])
        with ThreadPoolExecutor(6) as pool:
            failing = [
                pool.submit(client.post, "/inspect", content=body, headers={"content-type": kind}) for _ in range(3)
            ]
            fine = [pool.submit(inspect, client, pictures[0]) for _ in range(3)]
        assert {answer.result().status_code for answer in failing} == {500}
        assert "secret" not in failing[0].result().text
        assert {answer.result()[0]["verdict"] for answer in fine} == {"undecided"}


def test_a_model_without_good_scores_has_verdicts() -> None:
    """Then a map has a scale of its own; drift is watched all the same."""
    model = make_model()
    model.good_scores = {"part": (np.empty(0, np.float32), THRESHOLD)}
    with service(model) as client:
        good, bad = inspect(client, part(10), part(60))
        assert (good["verdict"], bad["verdict"]) == ("good", "defect")
        assert bad["map_scale"] == [0.0, 60.0]
        assert pixels(bad["map"]).max() == 255
        assert "largest good" not in bad["sentence"]
        assert client.get("/drift").json()["seen"] == 1


def test_of_a_cropped_picture_regions_are_where_they_are_in_all_of_it() -> None:
    """The map covers the central half."""
    with service(make_model(seen=(0.25, 0.25, 0.5, 0.5))) as client:
        (image,) = inspect(client, part(60))
        assert image["seen"] == [0.25, 0.25, 0.5, 0.5]
        assert image["regions"][0]["box"] == [0.25, 0.25, 0.25, 0.25]


# --- what surrounds them ----------------------------------------------------------------------------------------------


def test_drift_is_told_of_what_passes(client: TestClient) -> None:
    """An unchanged line raises nothing, defects do not count, a change raises the alarm everywhere."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        inspect(client, *(part(score) for score in rng.permutation(39)[:8]), *(part(90) for _ in range(8)))
    drift = Drift.model_validate(client.get("/drift").json())
    assert (drift.alarm, drift.seen, drift.limit) == (False, 80, 1000.0)
    calm = Martingale()
    for _ in range(6):
        inspect(client, *(part(score) for score in rng.integers(36, 39, 16)))
    drift = client.get("/drift").json()
    assert drift["alarm"]
    assert drift["largest"] > 1000
    assert (drift["guarantee"], list(drift["products"])) == (calm.guarantee, ["part"])
    assert client.get("/health").json()["drift_alarm"] is True
    assert samples(client)["mvtec_ad_drift_alarm", ()] == 1


def samples(client: TestClient) -> dict[tuple[str, tuple], float]:
    """Of `/metrics`, as Prometheus's own parser reads them."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples
    }


def test_metrics_count(client: TestClient) -> None:
    """Requests by path and status, images by verdict, and how long they took."""
    images = inspect(client, part(10), part(50), part(60))
    client.post("/feedback", json={"id": images[0]["id"], "right": True})
    client.get("/nowhere/at/all")
    counts = samples(client)
    assert counts["mvtec_ad_images_total", (("verdict", "defect"),)] == 2
    assert counts["mvtec_ad_images_total", (("verdict", "good"),)] == 1
    assert counts["mvtec_ad_requests_total", (("path", "/inspect"), ("status", "200"))] == 1
    assert counts["mvtec_ad_requests_total", (("path", "other"), ("status", "404"))] == 1
    assert counts["mvtec_ad_request_seconds_count", (("path", "/inspect"),)] == 1
    assert counts["mvtec_ad_image_seconds_count", ()] == 3
    assert counts["mvtec_ad_feedback_total", (("right", "true"),)] == 1
    assert counts["mvtec_ad_waiting", ()] == 0


def test_the_model_is_described(client: TestClient) -> None:
    """With its threshold and the limits of requests."""
    known = client.get("/model").json()
    assert (known["name"], known["method"], known["product"], known["feedback"]) == (
        "part.zip",
        "distance",
        "part",
        True,
    )
    assert known["limits"]["megapixels"] == Limits().megapixels
    assert known["served_by"]["numpy"] == np.__version__


def test_pages_need_no_internet(client: TestClient) -> None:
    """Documentation and page name no other host, and what they describe is there."""
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        others = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", answer.text)) - {"http://www.w3.org"}
        assert not others
    described = client.get("/openapi.json").json()
    past = {"/history", "/history/{identity}", "/history/{identity}/picture"}
    assert set(described["paths"]) == {"/inspect", "/feedback", *past, "/model", "/drift", "/health", "/metrics"}
    assert set(described["paths"]["/inspect"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
    }


# --- limits -----------------------------------------------------------------------------------------------------------


class Gate(Scorer):
    """A scorer that waits to be let through, and counts."""

    def __init__(self) -> None:
        self.open, self.begun = threading.Event(), threading.Event()

    def score(self, picture: np.ndarray) -> Any:
        """When the gate is open."""
        self.begun.set()
        assert self.open.wait(20)
        return super().score(picture)


def test_who_comes_when_too_many_wait_is_sent_away() -> None:
    """503 with Retry-After; those that wait have their answers, and later ones too."""
    gate = Gate()
    with service(make_model(scorer=gate), limits=Limits(waiting=4, images=4)) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(inspect, client, part(1))
        assert gate.begun.wait(20)
        waiting = pool.submit(inspect, client, part(50), part(2), part(3))
        try:
            while client.get("/health").json()["waiting"] < 4:
                time.sleep(0.01)
            kind, body = form([("a.png", encoded(part()))])
            answer = client.post("/inspect", content=body, headers={"content-type": kind})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert re.fullmatch(r'\{"error":"4 images wait already: try again in \d+ s"\}', answer.text)
        finally:
            gate.open.set()
        assert [image["score"] for image in first.result()] == [1.0]
        assert [image["score"] for image in waiting.result()] == [50.0, 2.0, 3.0]
        assert inspect(client, *map(part, range(4)))[3]["score"] == 3.0


def test_what_takes_too_long_is_given_up() -> None:
    """503, and the queue is as empty as before; what was given up is not remembered."""
    gate = Gate()
    with service(make_model(scorer=gate), limits=Limits(seconds=0.2)) as client:
        kind, body = form([("a.png", encoded(part()))])
        answer = client.post("/inspect", content=body, headers={"content-type": kind})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert client.get("/health").json()["waiting"] == 0
        gate.open.set()
        assert client.get("/history").json() == {"images": []}


def test_what_waits_is_looked_at_together() -> None:
    """While the model is at the first item, the others gather: no more than `together` at a time, in order."""
    seen, gate = [], threading.Event()

    def look(items: list[int]) -> list[Any]:
        seen.append(items)
        assert gate.wait(20)
        return [ValueError(str(item)) if item == 7 else item * item for item in items]

    async def run() -> list[Any]:
        batches = Batches(look, most=20, together=4, window=0.01)
        batches.start()
        tasks = [asyncio.create_task(batches.results([item], 20)) for item in range(3)]
        await asyncio.sleep(0.1)
        tasks += [asyncio.create_task(batches.results(items, 20)) for items in ([3, 4, 5], [6, 7], [8])]
        await asyncio.sleep(0.05)
        with pytest.raises(RequestError, match="9 images wait already") as refusal:
            await batches.results(range(12), 20)
        assert refusal.value.status == 503
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert batches.waiting == 0
        await batches.stop()
        return results

    results = asyncio.run(run())
    assert seen == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]
    assert results[:4] == [[0], [1], [4], [9, 16, 25]]
    assert str(results[4]) == "7"
    assert results[5] == [64]


def test_images_that_are_decoded_together_fit_into_memory(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    """Parts of at most so many pixels, or of one image."""
    from mvtec_ad.serving import app

    sizes = []
    monkeypatch.setattr(app, "TOGETHER", 24 * 32 * 2)
    model = client.app.state.service.model
    monkeypatch.setattr(
        model, "inspect", lambda pictures: sizes.append(len(pictures)) or type(model).inspect(model, pictures)
    )
    images = inspect(client, *(part(score) for score in range(5)), part(5, (100, 100)))
    assert [image["score"] for image in images] == [0, 1, 2, 3, 4, 5]
    assert sizes == [2, 2, 1, 1]


async def guarded(messages: list[dict[str, Any]], guard: Guard, **headers: str) -> tuple[int, bytes]:
    """Status and body of what stands behind a guard, or of its refusal."""
    answers: list[dict[str, Any]] = []
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        message = next(left, None)
        if message is None:
            await asyncio.sleep(60)
        return message

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    pairs = [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers.items())]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": pairs}
    await guard(scope, receive, send)
    return answers[0]["status"], answers[1]["body"]


async def echo(scope: dict[str, Any], receive: Callable, send: Callable) -> None:
    """An application that answers with the body it got."""
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def test_bodies_are_whole_or_refused() -> None:
    """In pieces, too large, too slow, too many at once; and nothing stays counted."""

    def pieces(*texts: bytes) -> list[dict[str, Any]]:
        last = len(texts) - 1
        return [{"type": "http.request", "body": text, "more_body": number < last} for number, text in enumerate(texts)]

    async def run() -> None:
        guard = Guard(echo, Limits(megabytes=1, body_seconds=0.2, bodies=2), None)
        large = bytes(600_000)
        assert await guarded(pieces(b"a", b"", b"bc"), guard) == (200, b"abc")
        assert (await guarded(pieces(large, large), guard))[0] == 413
        assert (await guarded(pieces(*[large] * 9), guard))[0] == 413  # not read to the end
        assert (await guarded([], guard, expect="100-continue", **{"content-length": "1000001"}))[0] == 413
        unfinished = [{"type": "http.request", "body": b"a", "more_body": True}]
        assert (await guarded(unfinished, guard))[0] == 408
        many = await asyncio.gather(*(guarded([*pieces(large, b"")[:1], *pieces(b"b")], guard) for _ in range(4)))
        assert sorted(status for status, _ in many) == [200, 200, 200, 503]
        assert guard.held == 0

    asyncio.run(run())


def test_with_a_token_only_who_has_it_is_answered() -> None:
    """In a header, in the address, or in the cookie that this sets; from any host then."""
    with service(token="secret-token") as client:
        for headers in (
            {},
            {"authorization": "Bearer wrong-token"},
            {"authorization": "secret-token"},
            {"cookie": "mvtec_ad_token=x"},
        ):
            answer = client.get("/model", headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert list(answer.json()) == ["error"]
        assert client.get("/model?token=wrong-token").status_code == 401
        page = client.get("/?token=wrong-token")  # which holds nothing, and asks for the right one
        assert (page.status_code, page.headers.get("set-cookie")) == (200, None)
        assert (
            client.get("/model", headers={"authorization": "bearer secret-token", "host": "line.example"}).status_code
            == 200
        )
        page = client.get("/?token=secret-token")
        assert page.status_code == 200
        assert "HttpOnly" in page.headers["set-cookie"]
        assert "SameSite=Strict" in page.headers["set-cookie"]
        assert client.get("/model").status_code == 200  # the client keeps the cookie, as a browser does
        elsewhere = client.post("/inspect", headers={"origin": "http://testserver:9999"}, content=b"")
        assert elsewhere.status_code == 403  # a cookie does not tell which port of a host asks


@pytest.mark.parametrize(
    ("host", "token"), [("0.0.0.0", None), ("192.168.1.5", None), ("::", None), ("line.example", None)]
)
def test_others_are_not_let_in_without_a_token(host: str, token: str | None) -> None:
    """Refused before anything is read."""
    with pytest.raises(SettingsError, match="--token"):
        check_token(host, token)
    assert check_token(host, "a-secret-token") == "a-secret-token"
    with pytest.raises(SettingsError, match="8 to 200"):
        check_token("127.0.0.1", "short")
    assert [check_token(local, None) for local in ("127.0.0.1", "localhost", "::1", "127.9.9.9")] == [None] * 4


def test_a_taken_port_is_told_of() -> None:
    """And an address that is not here."""
    listener = listen("127.0.0.1", 0)
    with listener, pytest.raises(SettingsError, match="choose another --port"):
        listen("127.0.0.1", listener.getsockname()[1])
    for host, port in (("203.0.113.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70_000)):
        with pytest.raises(SettingsError, match="--port"):
            listen(host, port)
