"""The atlas is one file that needs nothing else, and in a browser it shows the image that is pointed at."""

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

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from PIL import Image

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.atlas import atlas_page

COUNT = 12
TABLE = pd.DataFrame(
    {
        "image_id": [f"part/{index:03d}" for index in range(COUNT)],
        "category": ["nut"] * 6 + ["pill"] * 6,
        "defect": ["bent"] * 3 + ["scratch"] * 6 + ["crack"] * 3,
        "said": ["bent", "unknown", "scratch", "scratch", None, "bent", *["scratch"] * 3, *["crack"] * 3],
    }
)
COLOURS = np.array([[(37 * i) % 256, (91 * i + 40) % 256, (151 * i + 80) % 256] for i in range(COUNT)], np.uint8)
IMAGES = [np.broadcast_to(colour, (40, 40, 3)) for colour in COLOURS]
ANGLES = np.arange(COUNT) * 2 * np.pi / COUNT
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
MAPS = {"pca": 5 * CIRCLE + 7, "tsne": -100 * CIRCLE}
# One flat value an image: 0 to 5 for nuts, 600 to 1100 for pills, two scales that must not mix.
HEAT: list[np.ndarray | None] = [np.full((20, 20), float(i if i < 6 else 100 * i)) for i in range(COUNT)]
HEAT[4] = None


def pixels_of(uri: str) -> np.ndarray:
    """The picture in a data URI, (H, W, 3) float."""
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)


class Reader(HTMLParser):
    """Collects what a page loads, its tags, and its JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.json = ""
        self.inside_json = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset") and value]
        self.inside_json = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        self.json += data if self.inside_json else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside_json = False


def columns_of(page: str) -> dict[str, Any]:
    """The columns of the marks, as the page holds them."""

    def search(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            if part.get("type") == "map" and any(key == "thumbnail" for key, _ in part["entries"]):
                yield dict(part["entries"])
            part = list(part.values())
        for one in part if isinstance(part, list) else []:
            yield from search(one)

    text = Reader(page).json  # the page escapes its JSON once more
    return next(search(json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))))


def test_page_is_whole() -> None:
    """Nothing is loaded from elsewhere; every image is there, small and large, in its colour."""
    page = atlas_page(TABLE, MAPS, IMAGES, HEAT)
    assert Reader(page).loaded == []
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page.split("</style>")[0])
    columns = columns_of(page)
    for key, side in (("thumbnail", 96), ("picture", 256)):
        for uri, colour in zip(columns[key], COLOURS, strict=True):
            pixels = pixels_of(uri)
            assert pixels.shape == (side, side, 3)
            assert np.abs(pixels - colour).max() < 8  # JPEG
    assert columns["image_id"] == TABLE["image_id"].tolist()


def test_heat_has_one_scale_per_category() -> None:
    """From the 1st to the 99.8th percentile of the category's maps, in the colours of inferno; a missing map is ""."""
    columns = columns_of(atlas_page(TABLE, MAPS, IMAGES, HEAT))
    for index, own in enumerate(HEAT):
        if own is None:
            assert columns["heat"][index] == ""
            continue
        group = [one for one, nut in zip(HEAT, TABLE["category"] == TABLE["category"][index], strict=True) if nut]
        low, high = np.percentile(np.stack([one for one in group if one is not None]), [1, 99.8])
        share = np.clip((own[0, 0] - low) / (high - low), 0, 1)
        assert np.abs(pixels_of(columns["heat"][index]) - 255 * np.array(colormaps["inferno"](share)[:3])).max() < 8
        assert (float(columns["low"][index]), float(columns["high"][index])) == pytest.approx((low, high), rel=6e-3)
    assert set(columns_of(atlas_page(TABLE, MAPS, IMAGES))["heat"]) == {""}


def test_marks_tell_type_product_and_what_was_named_wrongly() -> None:
    """A type has one look; a dark rim where the model named another or none, not where nothing was asked."""
    columns = columns_of(atlas_page(TABLE, MAPS, IMAGES))
    looks = set(zip(columns["marker"], columns["colour"], TABLE["category"], TABLE["defect"], strict=True))
    assert len(looks) == len({look[:2] for look in looks}) == 4
    assert len({look[0] for look in looks}) == 2
    dark = [index for index, rim in enumerate(columns["rim"]) if rim != "#FFFFFF"]
    assert dark == [1, 2, 5]
    assert "dark rim" not in atlas_page(TABLE.drop(columns="said"), MAPS, IMAGES)


def test_text_is_escaped() -> None:
    """Tags in names, titles and maps stay text."""
    nasty = "<img src=x onerror=alert(1)></script><script>bad()</script>&amp;{{ 7 * 7 }}"
    table = TABLE.assign(image_id=nasty, category=nasty, defect=nasty, said=nasty)
    tags = Reader(atlas_page(TABLE.assign(category="a", defect="b"), MAPS, IMAGES)).tags
    page = atlas_page(table, {nasty: CIRCLE, "tsne": CIRCLE}, IMAGES, title=nasty)
    assert Reader(page).tags == tags
    assert columns_of(page)["image_id"] == [nasty] * COUNT
    assert "<img src=x" not in page


def test_wide_images_keep_their_shape_and_the_page_its_size() -> None:
    """The longer side is brought to size; 300 noisy photographs stay under 12 MB."""
    wide = columns_of(atlas_page(TABLE, MAPS, [np.zeros((30, 60, 3), np.uint8)] * COUNT))
    assert pixels_of(wide["thumbnail"][0]).shape == (48, 96, 3)
    rng = np.random.default_rng(0)
    noise = rng.integers(100, 140, (3, 64, 64, 3), dtype=np.uint8)
    small = len(atlas_page(TABLE, MAPS, IMAGES))
    photographs = [noise[index % 3] for index in range(COUNT)]
    grown = len(atlas_page(TABLE, MAPS, photographs, [rng.random((16, 16))] * COUNT)) - small
    assert small + 300 / COUNT * grown < 12e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: atlas_page(TABLE, MAPS, IMAGES[:5]), "12 rows need as many images .* not 5 and 12"),
        (lambda: atlas_page(TABLE, MAPS, IMAGES, HEAT[:5]), "not 12 and 5"),
        (lambda: atlas_page(TABLE, {"pca": CIRCLE[:5]}, IMAGES), r"map pca must hold \(12, 2\)"),
        (lambda: atlas_page(TABLE, {"pca": CIRCLE * np.nan}, IMAGES), "finite"),
        (lambda: atlas_page(TABLE, {}, IMAGES), "no map"),
        (lambda: atlas_page(TABLE.drop(columns="image_id"), MAPS, IMAGES), "column image_id"),
        (lambda: atlas_page(TABLE.drop(columns="defect"), MAPS, IMAGES), "missing: defect"),
        (lambda: atlas_page(TABLE[:0], MAPS, []), "missing: images"),
        (lambda: atlas_page(TABLE, MAPS, [np.zeros((8, 8, 3))] * COUNT), r"image 0 must be \(H, W, 3\) uint8"),
        (lambda: atlas_page(TABLE, MAPS, IMAGES, [np.zeros(8)] * COUNT), "heat map 0 must"),
    ],
)
def test_bad_input(call: Callable[[], str], message: str) -> None:
    """One line that names the thing."""
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


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


class Page:
    """The atlas in the browser; every question waits for its answer, at most 10 seconds."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        browser.get(path.as_uri())
        self.wait(lambda: browser.execute_script("return document.body.dataset.ready") == "yes")
        # The first drawing has given the map its size.
        self.wait(
            lambda: browser.execute_script("return Bokeh.documents[0].get_model_by_name('map').inner_width > 300")
        )

    def wait(self, question: Callable[[], Any]) -> Any:
        """The first true answer."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 10, poll_frequency=0.05).until(lambda _: question())

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

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

    def alphas(self) -> list[float]:
        code = "return Array.from(Bokeh.documents[0].get_model_by_name('map').renderers[1].data_source.data.alpha)"
        return self.browser.execute_script(code)


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Page:
    """The atlas of the small table."""
    path = tmp_path / "atlas.html"
    path.write_text(atlas_page(TABLE, MAPS, IMAGES, HEAT), encoding="utf-8")
    return Page(browser, path)


def test_pointing_and_clicking_show_the_right_image(opened: Page) -> None:
    """Of every mark: its thumbnail and words at the mouse; of some, picture and heat map in the panel after a click."""
    columns = columns_of(atlas_page(TABLE, MAPS, IMAGES, HEAT))
    for index in range(COUNT):
        opened.go(CIRCLE[index], click=index in (1, 4, 8))
        shown = opened.wait(lambda index=index: TABLE["image_id"][index] in opened.find("#tip").text)
        assert shown
        assert np.abs(pixels_of(opened.source("#tip img")) - COLOURS[index]).max() < 8
        assert f"{TABLE['category'][index]} · {TABLE['defect'][index]}" in opened.find("#tip").text
        if index in (1, 4, 8):
            opened.wait(lambda index=index: TABLE["image_id"][index] in opened.find("#about").text)
            assert np.abs(pixels_of(opened.source("#picture")) - COLOURS[index]).max() < 8
            assert opened.source("#heat") == columns["heat"][index]
            assert opened.find("#low").text == ("no heat map" if index == 4 else f"score {columns['low'][index]}")
    assert "the model said: unknown" in opened_text(opened, 1)
    assert "the model said so" in opened_text(opened, 3)
    assert "model" not in opened_text(opened, 4)
    opened.go(np.zeros(2))
    opened.wait(lambda: not opened.find("#tip").is_displayed())


def opened_text(opened: Page, index: int) -> str:
    """The words at the mouse over one mark."""
    opened.go(CIRCLE[index])
    opened.wait(lambda: TABLE["image_id"][index] in opened.find("#tip").text)
    return opened.find("#tip").text


def test_another_map_moves_the_marks(opened: Page) -> None:
    """In t-SNE every mark lies opposite."""
    assert [label.text for label in opened.browser.find_elements("css selector", "#maps label")] == ["PCA", "t-SNE"]
    opened.browser.find_elements("css selector", "#maps label")[1].click()
    for index in (0, 5):
        opened.go(np.zeros(2))
        opened.go(-CIRCLE[index])
        opened.wait(lambda index=index: TABLE["image_id"][index] in opened.find("#tip").text)


def test_types_fade_out_and_come_back(opened: Page) -> None:
    """By their button, by that of their product, and all; what is faded cannot be pointed at."""
    scratched = [6, 7, 8]  # the fourth type of the legend, pill · scratch
    opened.browser.find_elements("css selector", ".type")[3].click()
    opened.go(CIRCLE[0])
    opened.wait(lambda: TABLE["image_id"][0] in opened.find("#tip").text)
    assert [index for index, alpha in enumerate(opened.alphas()) if alpha < 0.5] == scratched
    opened.go(CIRCLE[7])
    opened.wait(lambda: not opened.find("#tip").is_displayed())
    opened.find(".product:nth-child(1) > button").click()
    opened.wait(lambda: [index for index, alpha in enumerate(opened.alphas()) if alpha < 0.5] == [*range(9)])
    opened.find("[data-all='1']").click()
    opened.go(CIRCLE[7])
    opened.wait(lambda: TABLE["image_id"][7] in opened.find("#tip").text)
    assert opened.alphas() == [1] * COUNT


def test_nothing_is_requested_and_nothing_fails(browser: Any, tmp_path: Path) -> None:
    """Names full of HTML too: they stay text, and the only file read is the page."""
    browser.get_log("performance"), browser.get_log("browser")
    nasty = "<img src=https://example.org/x onerror=alert(1)>"
    path = tmp_path / "nasty.html"
    path.write_text(atlas_page(TABLE.assign(defect=nasty, said="b"), MAPS, IMAGES, title=nasty), encoding="utf-8")
    page = Page(browser, path)
    page.go(CIRCLE[2], click=True)
    page.wait(lambda: nasty in page.find("#tip").text and nasty in page.find("#what").text)
    assert page.find("h1").text == nasty
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert path.as_uri() in asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
