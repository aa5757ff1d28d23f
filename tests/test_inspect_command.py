"""`detect` with a folder of artifacts, in this process, with an inspector that looks at nothing: what it prints, writes
and how it fails."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from mvtec_ad import pages
from mvtec_ad.cli import main
from mvtec_ad.inspection import inspector
from mvtec_ad.inspection.inspector import (
    DEFECT,
    GOOD,
    OUT_OF_DISTRIBUTION,
    UNDECIDED,
    UNREADABLE,
    VERDICTS,
    Inspection,
    SecondOpinion,
)

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (32, 32, 3), np.uint8)
ANOMALY_MAP = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
PIXELS = {"picture": PICTURE, "anomaly_map": ANOMALY_MAP, "map_scale": (0.0, 1.0), "map_name": "Grad-CAM"}
MISSING = "contrastive.zip is missing: run notebooks/06_contrastive_typing.ipynb, which makes it"


def good(name: str) -> Inspection:
    """The classifier is sure."""
    known = {"product": "bottle", "ood_score": 0.4, "probability": 0.02, "score": 0.02, "decided_by": "classifier"}
    inspection = Inspection(name, GOOD, **known, picture=PICTURE).after("product", "bottle", "0.4 of the limit")
    return inspection.after("classifier", "sure: good", "probability 0.020")


def bad(name: str, score: float = 0.7) -> Inspection:
    """The classifier is unsure, and the second opinion finds a defect."""
    known = {"product": "package", "view": "side", "probability": 0.6, "score": score, "decided_by": "autoencoder"}
    inspection = Inspection(name, DEFECT, **known, second_opinion=SecondOpinion("autoencoder", 2.5, 1.25), **PIXELS)
    inspection = inspection.after("product", "package side", "told").after("classifier", "unsure", "probability 0.600")
    return inspection.after("second opinion", "defect", "autoencoder: 2.5 > 1.25").after("type", "skipped", MISSING)


def typed(name: str, kind: str = "hole") -> Inspection:
    """A sure defect of a kind."""
    known = {"product": "bottle", "ood_score": 0.4, "probability": 0.99, "score": 0.99, "decided_by": "classifier"}
    known |= {"type": kind, "type_distance": 0.125, "novelty": 0.75, "novelty_limit": 0.5}
    inspection = Inspection(name, DEFECT, **known, **PIXELS).after("product", "bottle", "")
    return inspection.after("classifier", "sure: defect", "").after("type", kind, "")


def other(name: str) -> Inspection:
    """None of the products."""
    inspection = Inspection(name, OUT_OF_DISTRIBUTION, ood_score=1.5, picture=PICTURE)
    return inspection.after("product", OUT_OF_DISTRIBUTION, "1.5 times the limit")


def undecided(name: str) -> Inspection:
    """A product without a model."""
    inspection = Inspection(name, UNDECIDED, "pill").after("product", "pill", "")
    return inspection.after("classifier", "skipped", "no classifier for pill")


INSPECTIONS: dict[str, Callable[[str], Inspection]] = {
    "good": good,
    "bad": bad,
    "worse": lambda name: bad(name, 0.8),
    "typed": typed,
    "new": lambda name: typed(name, "unknown"),
    "other": other,
    "undecided": undecided,
    "corrupt": lambda name: Inspection(name, UNREADABLE, problem=f"image {name} is cut off"),
}


class Fake:
    """Judges a file by its name: `INSPECTIONS` of what stands before the first dash."""

    missing = (MISSING, "padim.zip is missing: run notebooks/02_padim.ipynb, which makes it")
    asked: list[dict[str, Any]]

    @classmethod
    def load(cls, folder: Any, **wanted: Any) -> Fake:
        """Remembers what was asked for."""
        cls.asked = [{"folder": folder} | wanted]
        return cls()

    def inspect(self, sources: Sequence[Path], **wanted: Any) -> Iterator[Inspection]:
        """One of each."""
        self.asked.append(wanted)
        for source in sources:
            yield INSPECTIONS[source.name.split("-")[0].split(".")[0]](str(source))


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake instead of an inspector."""
    monkeypatch.setattr(inspector, "Inspector", Fake)


@pytest.fixture
def folder(tmp_path: Path, write_image: Callable[[Path, np.ndarray], Path]) -> Path:
    """Makes files of all kinds, twice a good one, without the unreadable one."""
    for name in ("bad", "good", "good-2", "new", "other", "typed", "undecided", "worse"):
        write_image(tmp_path / "images" / f"{name}.png", PICTURE)
    return tmp_path / "images"


def files(folder: Path, *names: str) -> list[str]:
    """Paths of files, which are made where they are missing."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


class Page(HTMLParser):
    """What a page shows: cards in order, each with its verdict, its texts and its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.cards: list[dict[str, Any]] = []
        self.buttons: list[str] = []
        self.outside: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        own = dict(attrs)
        self.tags.append((tag, own))
        if tag == "article":
            self.cards.append({"verdict": own["data-verdict"], "texts": [], "pictures": []})
        elif tag == "img":
            self.cards[-1]["pictures"].append(own)

    def handle_data(self, data: str) -> None:
        """Collect."""
        inside = self.cards and "footer" not in [tag for tag, _ in self.tags]
        if data.strip():
            (self.cards[-1]["texts"] if inside else self.outside).append(data.strip())


def test_lines_are_in_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict first, then what is known, the path last, never further left than before; then counts and reasons."""
    paths = files(tmp_path / "x", "good.png", "bad.png", "typed.png", "new.png", "other.png", "bad-2.png")
    assert main(["inspect", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:6]] == [GOOD, DEFECT, DEFECT, DEFECT, OUT_OF_DISTRIBUTION, DEFECT]
    places = [line.index(path) for line, path in zip(lines, paths, strict=False)]
    assert places == sorted(places)
    assert places[4] == places[5]
    assert [line.index("p 0.") for line in lines[1:4]] == [lines[1].index("p 0.")] * 3
    assert [part.strip() for part in lines[1].split("  ") if part] == [
        "defect",
        "package side",
        "p 0.600",
        "autoencoder: defect, 2.5 > 1.25",
        paths[1],
    ]
    assert "hole, distance 0.12" in lines[2]
    assert "unknown type, novelty 0.75 > 0.50" in lines[3]
    assert "1.50 × the limit" in lines[4]
    assert lines[6:] == [
        "6 images: 4 defect, 1 none of these, 1 good",
        f"skipped for 2 of 6: type: {MISSING}",
        Fake.missing[1],
    ]
    assert not (tmp_path / "transfer").exists()  # files alone leave no page


def test_the_inspector_is_asked_what_was_said(tmp_path: Path) -> None:
    """Options arrive; heat maps are made only where something shows them."""
    (path,) = files(tmp_path / "x", "good.png")
    assert main(["inspect", path]) == 0
    plain = {"product": None, "view": None, "anomaly_maps": False, "progress": False}
    assert Fake.asked == [{"folder": tmp_path / "transfer", "second": "autoencoder"}, plain]
    models = tmp_path / "models"
    models.mkdir()
    for same in (["detect", str(models), path], ["inspect", path, "--artifacts", str(models)]):
        assert main(same) == 0
        assert Fake.asked == [{"folder": models, "second": "autoencoder"}, plain]
    told = ["--product", "package", "--view", "side", "--second", "none", "--artifacts", "elsewhere"]
    assert main(["inspect", path, path, *told, "--page", str(tmp_path / "p.html")]) == 0
    assert Fake.asked[0] == {"folder": Path("elsewhere"), "second": None}
    assert Fake.asked[1] == {"product": "package", "view": "side", "anomaly_maps": True, "progress": False}
    assert main(["inspect", path, path, "--json"]) == 0
    assert Fake.asked[1]["progress"]  # rows in words are progress enough
    assert main(["inspect", path, "--second", "padim", "--figures", str(tmp_path / "f")]) == 0
    assert (Fake.asked[0]["second"], Fake.asked[1]["anomaly_maps"]) == ("padim", True)


def test_a_corrupt_image_leaves_the_others_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and one line, after all others; also as JSON."""
    paths = files(tmp_path / "x", "good.png", "corrupt-1.png", "corrupt-2.png", "bad.png")
    assert main(["inspect", *paths]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"mvtec-ad inspect: 2 of 4 images not judged; image {paths[1]} is cut off\n"
    lines = printed.out.splitlines()
    assert lines[1] == f"unreadable  image {paths[1]} is cut off"
    assert lines[0].startswith("good    bottle")
    assert lines[4] == "4 images: 1 defect, 2 unreadable, 1 good"
    assert main(["inspect", *paths, "--json"]) == 2
    rows = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in rows] == [GOOD, UNREADABLE, UNREADABLE, DEFECT]
    assert rows[1]["problem"] == f"image {paths[1]} is cut off"
    assert main(["inspect", paths[1], "--page", str(tmp_path / "p.html")]) == 2  # no columns to align
    assert capsys.readouterr().out.splitlines()[0] == lines[1]
    (card,) = Page(tmp_path / "p.html").cards
    assert (f"image {paths[1]} is cut off" in card["texts"], card["pictures"]) == (True, [])


def test_json_and_figures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row is the inspection and its figure; the page's path goes to stderr; drawn figures are not inspected."""
    target = tmp_path / "images" / "figures"
    assert main(["inspect", str(folder), "--json", "--figures", str(target)]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    paths = sorted(folder.glob("*.png"))
    for row, path in zip(rows, paths, strict=True):
        figure = Path(row.pop("figure"))
        assert figure == target / f"images_{path.name}"
        with Image.open(figure) as picture:
            assert picture.format == "PNG"
        expected = INSPECTIONS[path.stem.split("-")[0]](str(path)).as_dict()
        assert row == json.loads(json.dumps(expected))
    page = tmp_path / "transfer" / "inspections" / "index.html"
    assert printed.err.splitlines()[-1] == f"look at {page}"
    assert page.is_file()
    assert main(["inspect", str(folder), "--json", "--figures", str(target)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(rows)
    assert main(["inspect", str(folder / "good.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["figure"] is None


def test_a_full_disk_costs_pictures_and_no_verdict(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines and JSON come all the same, and a page where there is room for it; status 2, one line."""
    assert main(["inspect", str(folder)]) == 0
    expected = capsys.readouterr().out.splitlines()
    command = ["inspect", str(folder), "--figures", str(tmp_path / "f")]

    def full(source: str, target: str) -> None:
        if "index.html" in str(target) and page:
            return replaced(source, target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replaced = os.replace
    monkeypatch.setattr(os, "replace", full)
    for page in (True, False):
        assert main(command) == 2
        printed = capsys.readouterr()
        lines = [line for line in printed.out.splitlines() if "figures in" not in line]
        assert lines == [line for line in expected if "figures in" not in line][: len(lines)]
        assert len(lines) >= len(expected) - 2
        assert "look at" in printed.out if page else "look at" not in printed.out
        line = printed.err.splitlines()[-1]
        assert "images_bad.png cannot be written (No space left on device)" in line
        assert f"(and {7 if page else 8} more pictures)" in line
    assert main([*command, "--json"]) == 2
    assert {row["figure"] for row in json.loads(capsys.readouterr().out)} == {None}


def test_the_page_shows_every_image_once_worst_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verdicts in their order, within one the highest score first; buttons count; nothing is fetched."""
    corrupt = files(tmp_path / "x", "corrupt.png")
    assert main(["inspect", str(folder), *corrupt]) == 2
    target = tmp_path / "transfer" / "inspections" / "index.html"
    assert f"look at {target}" in capsys.readouterr().out
    page = Page(target)
    assert [card["verdict"] for card in page.cards] == sorted(
        (card["verdict"] for card in page.cards), key=VERDICTS.index
    )
    names = [Path(card["texts"][-1]).name for card in page.cards]
    assert names[:4] == ["new.png", "typed.png", "worse.png", "bad.png"]  # 0.99 twice, 0.8, 0.7
    assert sorted(names) == sorted([*(path.name for path in folder.iterdir()), "corrupt.png"])
    for count in ("all 9", "✕ defect 4", "? undecided 1", "∅ none of these 1", "! unreadable 1", "✓ good 2"):
        assert count in page.outside
    assert f"skipped for 2 of 9: type: {MISSING}" in page.outside
    shown = page.cards[2]["texts"]
    for text in ("✕ defect", "package side", "0.600 of a defect", "autoencoder: defect, 2.5 > 1.25"):
        assert text in shown
    assert shown[-5:-1] == ["product: package side", "classifier: unsure", "second opinion: defect", "type: skipped"]
    links = [own[key] for _, own in page.tags for key in ("src", "href") if key in own]
    assert len(links) == 4 * 2 + 2 + 1 + 1  # pictures, heat maps, and the icon that no server is asked for
    assert all(str(link).startswith("data:image/jpeg;base64,") for link in links if link != "data:,")
    assert all(own["alt"] for tag, own in page.tags if tag == "img")


def test_a_page_has_an_end(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the first ones of its order, counts all, and says so."""
    monkeypatch.setattr(pages, "MOST_CARDS", 2)
    target, kept = tmp_path / "p.html", []
    sort = pages.first_cards
    monkeypatch.setattr(pages, "first_cards", lambda cards: kept.append(len(cards)) or sort(cards))
    assert main(["inspect", str(folder), "--page", str(target)]) == 0
    page = Page(target)
    assert [Path(card["texts"][-1]).name for card in page.cards] == ["new.png", "typed.png"]  # as without an end
    assert "this page shows the first 2 of 8 images" in page.outside
    assert any(text.startswith("8 images: 4 defect") for text in page.outside)
    assert max(kept) == 4  # cards that lie in memory


@pytest.mark.parametrize("as_json", [False, True])
def test_verdicts_are_printed_as_they_come(
    tmp_path: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was judged before somebody interrupts has been said, and the JSON is whole."""
    printed = []

    def interrupted(self: Fake, sources: Sequence[Path], **_: Any) -> Iterator[Inspection]:
        for source in sources[:2]:
            yield good(str(source))
            printed.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    monkeypatch.setattr(Fake, "inspect", interrupted)
    paths = files(tmp_path / "x", "good.png", "good-2.png", "good-3.png")
    assert main(["inspect", *paths, *(["--json"] if as_json else [])]) == 130
    assert all(path in text for path, text in zip(paths, printed, strict=False))
    if as_json:
        rows = json.loads("".join(printed) + capsys.readouterr().out)
        assert [row["image"] for row in rows] == paths[:2]


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    """A file may be called anything."""
    name = "bad-<b>&\"'<script>.png"
    (path,) = files(tmp_path / "x", name)
    assert main(["inspect", path, "--page", str(tmp_path / "p.html")]) == 0
    page = Page(tmp_path / "p.html")
    assert "".join(page.cards[0]["texts"]).endswith(path)
    assert page.cards[0]["pictures"][0]["alt"] == f"picture {name}"
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "b" in [tag for tag, _ in page.tags]  # the verdict
    assert [tag for tag, _ in page.tags].count("b") == 1


def decoded(uri: str) -> np.ndarray:
    """Pixels of a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture)


def test_pictures_stay_small() -> None:
    """At most 256 pixels and 60 kB for an image, even where nothing can be compressed; small ones keep their size."""
    noise = RNG.integers(0, 256, (700, 900, 3), np.uint8)
    own = replace(bad("x.png"), picture=noise, anomaly_map=RNG.random((90, 90), np.float32))
    card = pages.make_card(own)
    assert decoded(card.picture).shape == decoded(card.anomaly_map).shape == (199, 256, 3)
    assert len(pages.inspection_page([card])) - len(pages.inspection_page([])) < 60_000
    assert decoded(pages.make_card(good("x.png")).picture).shape == (32, 32, 3)
    smooth = np.repeat(np.linspace(0, 255, 64).round().astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    assert np.abs(decoded(pages.jpeg(smooth)).astype(int) - smooth).max() <= 4  # made coarse only where it must
    assert pages.make_card(own, pictured=False).picture == ""
    assert (card.inspection.picture, card.inspection.anomaly_map) == (None, None)


def test_overlay_by_hand() -> None:
    """Below the scale a fifth of the darkest colour over grey, above it 85 % of the brightest."""
    picture = np.full((2, 2, 3), (30, 60, 90), np.uint8)
    heat = np.array([[-5.0, -5.0], [7.0, 7.0]], np.float32)
    mixed = pages.overlay(picture, heat, (0.0, 1.0))
    ends = [np.array(colormaps["inferno"](end)[:3]) * 255 for end in (0.0, 1.0)]
    np.testing.assert_allclose(mixed[0, 0], 0.2 * ends[0] + 0.8 * 60, atol=0.51)
    np.testing.assert_allclose(mixed[1, 1], 0.85 * ends[1] + 0.15 * 60, atol=0.51)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["inspect", "{file}", "--view", "side"], "--view side needs --product"),
        (["inspect", "{file}", "--page", "."], "--page . is a folder"),
        (["inspect", "{file}", "--page", "{file}/p.html"], "is a file: choose another name"),
        (["inspect", "{file}", "--figures", "{file}/f"], "is a file: choose another name"),
        (
            ["detect", "{folder}", "{file}", "--artifacts", "x"],
            "--artifacts says nothing beside {folder}: leave it out",
        ),
    ],
)
def test_bad_options(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, before any model is read."""
    (path,) = files(tmp_path / "x", "good.png")
    names = {"file": path, "folder": tmp_path}
    Fake.asked = []
    assert main([option.format(**names) for option in options]) == 2
    message = capsys.readouterr().err
    assert words.format(**names) in message
    assert (message.count("\n"), Fake.asked) == (1, [])
