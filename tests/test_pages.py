"""Pages are one file that needs nothing else, names on them are text, and a browser shows what they promise."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from PIL import Image

from mvtec_ad import artifacts, pages
from mvtec_ad.errors import DataError
from mvtec_ad.inspection.inspector import DEFECT, Inspection
from mvtec_ad.pages import atlas_page

COUNT = 12
TABLE = pd.DataFrame(
    {
        "image_id": [f"part/{index:03d}" for index in range(COUNT)],
        "category": ["nut"] * 6 + ["pill"] * 6,
        "defect": ["bent"] * 3 + ["scratch"] * 6 + ["crack"] * 3,
        "predicted": ["bent", "unknown", "scratch", "scratch", None, "bent", *["scratch"] * 3, *["crack"] * 3],
    }
)
COLOURS = np.array([[(37 * i) % 256, (91 * i + 40) % 256, (151 * i + 80) % 256] for i in range(COUNT)], np.uint8)
IMAGES = [np.broadcast_to(colour, (300, 300, 3)) for colour in COLOURS]
ANGLES = np.arange(COUNT) * 2 * np.pi / COUNT
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
MAPS = {"pca": 5 * CIRCLE + 7, "tsne": -100 * CIRCLE}
# One flat value an image: 0 to 5 for nuts, 600 to 1100 for pills, two scales that must not mix.
ANOMALY_MAPS: list[np.ndarray | None] = [np.full((20, 20), float(i if i < 6 else 100 * i)) for i in range(COUNT)]
ANOMALY_MAPS[4] = None
NASTY = "<img src=x onerror=alert(1)>.png"
QUOTED = 'it\'s "nut" & <b>'  # a category


def pixels_of(uri: str) -> np.ndarray:
    """The picture in a data URI, (H, W, 3) float."""
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)


class Reader(HTMLParser):
    """Collects what a page loads, its tags with their attributes, its texts and its JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.json = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = "json" if ("type", "application/json") in attrs else tag

    def handle_data(self, data: str) -> None:
        if self.inside == "json":
            self.json += data
        elif self.inside not in ("style", "script"):
            self.texts.append(" ".join(data.split()))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def values(self, *names: str) -> list[str]:
        """Of these attributes."""
        return [own[name] for _, own in self.tags for name in names if own.get(name)]


def is_whole(page: str) -> None:
    """Nothing is loaded from elsewhere: no file, no style, no script."""
    assert [uri[:60] for uri in Reader(page).values("src", "srcset") if not uri.startswith("data:")] == []
    assert [own["href"] for tag, own in Reader(page).tags if tag == "link"] == ["data:,"]
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page.split("</style>")[0])


# --- the atlas ---


def columns_of(page: str) -> dict[str, Any]:
    """The columns of the marks, as the page holds them."""

    def search(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            if part.get("type") == "map" and any(key == "thumbnail" for key, _ in part["entries"]):
                yield dict(part["entries"])
            part = list(part.values())
        for item in part if isinstance(part, list) else []:
            yield from search(item)

    text = Reader(page).json  # the page escapes its JSON once more
    return next(search(json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))))


@pytest.fixture(scope="module")
def atlas() -> str:
    """The page of the small table."""
    return atlas_page(TABLE, MAPS, IMAGES, ANOMALY_MAPS)


def test_the_atlas_is_whole(atlas: str) -> None:
    """Nothing is loaded from elsewhere; every image is there, small and large, in its colour; wide ones stay wide."""
    is_whole(atlas)
    columns = columns_of(atlas)
    for key, size in (("thumbnail", 96), ("picture", 256)):
        for uri, colour in zip(columns[key], COLOURS, strict=True):
            pixels = pixels_of(uri)
            assert pixels.shape == (size, size, 3)
            assert np.abs(pixels - colour).max() < 8  # JPEG
    assert columns["image_id"] == TABLE["image_id"].tolist()
    wide = columns_of(atlas_page(TABLE, MAPS, [np.zeros((150, 300, 3), np.uint8)] * COUNT))
    assert pixels_of(wide["thumbnail"][0]).shape == (48, 96, 3)
    assert set(wide["anomaly_map"]) == {""}


def test_anomaly_maps_have_one_scale_per_category(atlas: str) -> None:
    """From the 1st to the 99.8th percentile of the category's maps, in the colours of inferno; a missing map is ""."""
    columns = columns_of(atlas)
    for index, values in enumerate(ANOMALY_MAPS):
        if values is None:
            assert columns["anomaly_map"][index] == ""
            continue
        same = TABLE["category"] == TABLE["category"][index]
        group = [other for other, chosen in zip(ANOMALY_MAPS, same, strict=True) if chosen and other is not None]
        low, high = np.percentile(np.stack(group), [1, 99.8])
        share = np.clip((values[0, 0] - low) / (high - low), 0, 1)
        colour = 255 * np.array(colormaps["inferno"](share)[:3])
        assert np.abs(pixels_of(columns["anomaly_map"][index]) - colour).max() < 8
        assert (float(columns["low"][index]), float(columns["high"][index])) == pytest.approx((low, high), rel=6e-3)


def test_marks_tell_type_product_and_what_was_named_wrongly(atlas: str) -> None:
    """A type has one look; a dark rim where the model named another or none, not where nothing was asked."""
    columns = columns_of(atlas)
    looks = set(zip(columns["marker"], columns["colour"], TABLE["category"], TABLE["defect"], strict=True))
    assert len(looks) == len({look[:2] for look in looks}) == 4
    assert len({look[0] for look in looks}) == 2
    assert [index for index, rim in enumerate(columns["rim"]) if rim != "#FFFFFF"] == [1, 2, 5]
    assert "dark rim" in atlas
    assert "dark rim" not in atlas_page(TABLE.drop(columns="predicted"), MAPS, IMAGES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: atlas_page(TABLE, MAPS, IMAGES[:5]), "12 rows need as many images .* not 5 and 12"),
        (lambda: atlas_page(TABLE, MAPS, IMAGES, ANOMALY_MAPS[:5]), "not 12 and 5"),
        (lambda: atlas_page(TABLE, {"pca": CIRCLE[:5]}, IMAGES), r"map pca must hold \(12, 2\)"),
        (lambda: atlas_page(TABLE, {}, IMAGES), "no map"),
        (lambda: atlas_page(TABLE.drop(columns="image_id"), MAPS, IMAGES), "column image_id"),
        (lambda: atlas_page(TABLE.drop(columns="defect"), MAPS, IMAGES), "missing: defect"),
        (lambda: atlas_page(TABLE[:0], MAPS, []), "missing: images"),
        (lambda: atlas_page(TABLE, MAPS, [np.zeros((8, 8, 3))] * COUNT), r"image 0 must be \(H, W, 3\) uint8"),
        (lambda: atlas_page(TABLE, MAPS, IMAGES, [np.zeros(8)] * COUNT), "anomaly map 0 must"),
    ],
)
def test_bad_input(call: Callable[[], str], message: str) -> None:
    """One line that names the thing."""
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_search_box_only_where_there_is_something_to_search(atlas: str) -> None:
    """With what it needs as text of the page; how it ranks: tests/methods/test_words.py."""
    assert 'id="query"' not in atlas
    page = atlas_page(TABLE, MAPS, IMAGES, search={"grams": ["<dent>"]})
    is_whole(page)
    assert 'id="query"' in page
    assert "&lt;dent&gt;" in page or "<dent>" in Reader(page).json


# --- names are text ---


def nasty_atlas(nasty: str = NASTY) -> str:
    """Every text that a user gives is HTML."""
    table = TABLE.assign(image_id=nasty, category=nasty, defect=nasty, predicted=nasty)
    return atlas_page(table, {nasty: CIRCLE, "tsne": CIRCLE}, IMAGES, title=nasty)


def nasty_inspection() -> str:
    """A file and a product with such names."""
    inspection = Inspection(f"folder/{NASTY}", DEFECT, QUOTED, NASTY, score=1.0, picture=IMAGES[0], problem=NASTY)
    return pages.inspection_page([pages.make_card(inspection)], [NASTY])


REPORT = {
    **{"method": "padim", "row": "padim", "category": QUOTED, "data_source": "synthetic", "seeds": [0]},
    **{"settings": {"image_size": 32, "crop": 24}, "false_alarm_rate": 0.25, "weights": None, "backbone": None},
    "metrics": {"image_auroc": {"mean": 0.75, "low": 0.5, "high": 0.875, "sd": 0.0, "values": [0.75]}},
}


@pytest.fixture
def run_page(own_home: Path) -> Path:
    """The page of two notebooks, with data, scores and maps of a category with quotes in `transfer/`."""
    names = [f"{QUOTED}/test/{kind}/00{n}" for kind in ("good", "hole") for n in range(2)]
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[4:28, 4:28] = 200  # what is left of it by the crop
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    scores = pd.DataFrame({"image_id": names, "split": "test", "method": "padim", "seed": 0, "label": [0, 0, 1, 1]})
    maps = np.array([0.25, 0.5, 0.75, 0.125])[:, None, None] * np.ones((1, 24, 24))
    how = {"profile": "quick", "data_source": "synthetic", "categories": [QUOTED], "options": {}, "seed": 0}
    data = artifacts.save("data", {f"{name}.png": file.getvalue() for name in names}, **how)
    files = {
        "scores.csv": scores.assign(score=maps[:, 0, 0]),
        "reports.json": [REPORT],
        f"{QUOTED}/padim/good_scores.npz": {"0": np.array([0.25, 0.375, 0.4, 0.45])},  # ⌈5 · 0.75⌉ = 4: 0.45
        f"{QUOTED}/padim/0/maps.npz": {"maps": maps.astype(np.float16)},
    }
    artifacts.save("padim", files, inputs=[artifacts.load(data)], **how)
    figure = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})
    table = nbformat.v4.new_output("display_data", {"text/markdown": "| a | b |\n|---|---|\n| 1 | 2 |"})
    cells = [
        nbformat.v4.new_markdown_cell(f"# {QUOTED}\n\n## Under {NASTY}"),
        nbformat.v4.new_code_cell("1", outputs=[figure, table]),
    ]
    executed = [("01_a", nbformat.v4.new_notebook(cells=cells), 90.0), ("02_b", nbformat.v4.new_notebook(), 30.0)]
    runs = own_home / "transfer" / "runs"
    runs.mkdir()
    return pages.write_run_page(runs, executed, NASTY)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_of_a_run(run_page: Path) -> None:
    """Pictures with verdicts first, then intervals as bars, then notebooks; all of it also as folded tables."""
    page = run_page.read_text(encoding="utf-8")
    is_whole(page)
    reader = Reader(page)
    assert [text for text in reader.texts if "score" in text and "padim:" in text] == [
        "padim: score 0.75 > 0.45,",  # the defects, then the good part
        "padim: score 0.125 ≤ 0.45,",
        "padim: score 0.5 > 0.45,",
    ]
    assert [text for text in reader.texts if text in ("right", "wrong")] == ["right", "wrong", "wrong"]
    assert [text for text in reader.texts if text in ("✕ defect", "✓ good")] == ["✕ defect", "✓ good", "✕ defect"]
    picture = pixels_of(next(own["src"] for tag, own in reader.tags if tag == "img"))
    assert picture.shape == (24, 24, 3)
    assert np.abs(picture - 200).max() < 8  # the crop that the maps have
    (interval,) = [own["style"] for _, own in reader.tags if own.get("class") == "interval"]
    assert [float(text) for text in re.findall(r": ([\d.]+)", interval)] == [0.5, 0.75, 0.875]
    assert reader.texts.count(".750 [.500, .875]") == 2  # beside its bar, and in the full table
    assert "2 notebooks in 2.0 minutes" in page
    assert {"01_a.html", "01_a.ipynb", "02_b.html"} <= set(reader.values("href"))
    assert (run_page.parent / "02_b.html").is_file()
    assert {"1", "2", "90 s:"} <= set(reader.texts)
    order = [page.index(words) for words in ("What a detector sees", "What was measured", "Notebooks</h2>")]
    assert sorted(order) == order


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_of_a_run_without_artifacts(own_home: Path) -> None:
    """A notebook that leaves nothing behind."""
    runs = own_home / "transfer" / "runs"
    runs.mkdir(parents=True)
    page = pages.write_run_page(runs, [("01_a", nbformat.v4.new_notebook(), 1.0)], "quick").read_text()
    assert "Nothing has been measured yet" in page
    assert "What a detector sees" not in page


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["atlas", "inspection", "run"])
def test_names_are_text(kind: str, request: pytest.FixtureRequest) -> None:
    """Tags in names of files, products, types, titles and headings stay text: no tag more, no handler."""
    page = {"atlas": nasty_atlas, "inspection": nasty_inspection}.get(kind)
    reader = Reader(page() if page else request.getfixturevalue("run_page").read_text(encoding="utf-8"))
    assert [own for _, own in reader.tags if "onerror" in own] == []
    assert any(NASTY in text for text in reader.texts)
    if kind == "atlas":
        plain = Reader(nasty_atlas("plain"))
        assert [tag for tag, _ in reader.tags] == [tag for tag, _ in plain.tags]
        closing = f"</script><script>bad()</script>&amp;{{{{ 7 * 7 }}}}{NASTY}"
        assert columns_of(nasty_atlas(closing))["image_id"] == [closing] * COUNT
    else:
        assert any(QUOTED in text for text in reader.texts)
        assert any(QUOTED in alt or NASTY in alt for alt in reader.values("alt"))
        assert all(own.get("alt") for tag, own in reader.tags if tag == "img")


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window and without a network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-prefers-reduced-motion"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


class Opened:
    """The atlas in the browser; every question waits for its answer, at most 10 seconds."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        browser.get(path.as_uri())
        self.wait(lambda: browser.execute_script("return document.body.dataset.ready") == "yes")
        # The first drawing has given the map its size.
        width = "return Bokeh.documents[0].get_model_by_name('map').inner_width > 300"
        self.wait(lambda: browser.execute_script(width))

    def wait(self, question: Callable[[], Any]) -> Any:
        """The first true answer."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 10, poll_frequency=0.05).until(lambda _: question())

    def find(self, selector: str, index: int = 0) -> Any:
        return self.browser.find_elements("css selector", selector)[index]

    def source(self, selector: str) -> str:
        """What an image shows, "" where it is hidden or absent."""
        code = "const e = document.querySelector(arguments[0]); return e && e.offsetWidth ? e.src : ''"
        return self.browser.execute_script(code, selector)

    def go(self, place: np.ndarray, click: bool = False) -> None:
        """Move the mouse to a place of a map that spans −1 to 1, here computed without the page's help."""
        from selenium.webdriver import ActionChains

        plot = self.find("#plot")
        right, down = place * [1, -1] / 1.07 * plot.size["width"] / 2
        action = ActionChains(self.browser, duration=20).move_to_element_with_offset(plot, round(right), round(down))
        (action.click() if click else action).perform()

    def tip(self, index: int, place: np.ndarray | None = None, click: bool = False) -> str:
        """The words at the mouse over the mark of an image."""
        self.go(CIRCLE[index] if place is None else place, click)
        self.wait(lambda: TABLE["image_id"][index] in self.find("#tip").text)
        return self.find("#tip").text

    def faded(self) -> list[int]:
        """Marks that are hardly there."""
        code = "return Array.from(Bokeh.documents[0].get_model_by_name('map').renderers[1].data_source.data.alpha)"
        return [index for index, alpha in enumerate(self.browser.execute_script(code)) if alpha < 0.5]


@pytest.fixture
def opened(browser: Any, tmp_path: Path, atlas: str) -> Opened:
    """The atlas of the small table."""
    browser.set_window_size(1280, 900)
    path = tmp_path / "atlas.html"
    path.write_text(atlas, encoding="utf-8")
    return Opened(browser, path)


def test_pointing_and_clicking_show_the_right_image(opened: Opened, atlas: str) -> None:
    """Of every mark: its thumbnail and words at the mouse; of some, picture and map in the panel after a click."""
    columns = columns_of(atlas)
    for index in range(COUNT):
        assert f"{TABLE['category'][index]} · {TABLE['defect'][index]}" in opened.tip(index, click=index in (1, 4, 8))
        assert np.abs(pixels_of(opened.source("#tip img")) - COLOURS[index]).max() < 8
        if index in (1, 4, 8):
            opened.wait(lambda index=index: TABLE["image_id"][index] in opened.find("#about").text)
            assert np.abs(pixels_of(opened.source("#picture")) - COLOURS[index]).max() < 8
            assert opened.source("#anomaly-map") == columns["anomaly_map"][index]
            assert opened.find("#low").text == ("no heat map" if index == 4 else f"score {columns['low'][index]}")
    for index, words in ((1, "the model said: unknown"), (3, "the model said so")):
        assert words in opened.tip(index)
    assert "model" not in opened.tip(4)
    opened.go(np.zeros(2))
    opened.wait(lambda: not opened.find("#tip").is_displayed())


def test_another_map_moves_the_marks_and_types_fade(opened: Opened) -> None:
    """In t-SNE every mark lies opposite; what is faded, by its button or that of its product, cannot be pointed at."""
    assert [opened.find("#maps label", index).text for index in (0, 1)] == ["PCA", "t-SNE"]
    opened.find("#maps label", 1).click()
    for index in (0, 5):
        opened.go(np.zeros(2))
        opened.tip(index, -CIRCLE[index])
    opened.find(".type", 3).click()  # pill · scratch
    opened.tip(0, -CIRCLE[0])
    assert opened.faded() == [6, 7, 8]
    opened.go(-CIRCLE[7])
    opened.wait(lambda: not opened.find("#tip").is_displayed())
    opened.find(".product:nth-child(1) > button").click()
    opened.wait(lambda: opened.faded() == [*range(9)])
    opened.find("[data-all='1']").click()
    opened.tip(7, -CIRCLE[7])
    assert opened.faded() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_asks_complains_or_overflows(browser: Any, run_page: Path, tmp_path: Path, width: int) -> None:
    """Names full of HTML too; the only file that is read is the page, and on a telephone nothing is cut off."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 390}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)  # no window is narrower than 500
    for name, text in (("atlas", nasty_atlas()), ("inspection", nasty_inspection()), ("run", run_page.read_text())):
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        browser.get_log("performance"), browser.get_log("browser")
        browser.get(path.as_uri())
        if name == "atlas":
            Opened(browser, path).wait(lambda: NASTY in browser.find_element("id", "what").text)
        for details in browser.find_elements("css selector", "details"):
            details.click()
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert path.as_uri() in asked
        assert [url for url in asked if url != path.as_uri() and not url.startswith(("data:", "blob:"))] == []
        assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
