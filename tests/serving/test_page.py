"""The page of a service in headless Chromium: what a person sees and does, against numbers made by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for module in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(module, reason=f"{module} is missing: pip install mvtec-ad-notebooks[serve]")

from mvtec_ad.serving.app import create_app  # noqa: E402
from mvtec_ad.serving.feedback import Feedback  # noqa: E402
from mvtec_ad.serving.models import Findings, ServedModel  # noqa: E402
from mvtec_ad.serving.page import line_page  # noqa: E402

THRESHOLD, SEEN = 5.0, (0.125, 0.125, 0.75, 0.75)  # of pictures of 64 pixels: rows and columns 8 to 55
RIGHT, WRONG = ".toggle:nth-of-type(1) span", ".toggle:nth-of-type(2) span"


class Brightness(ServedModel):
    """The map is the brightness of the middle, black 0 and white 10; bright places are defects named `spot`.

    Of pictures of another size than 64 pixels it knows nothing.
    """

    def inspect(self, pictures: Sequence[np.ndarray]) -> list[Findings]:
        findings = []
        for picture in pictures:
            if len(picture) != 64:
                words = "nearest is lamp, at 1.70 of the distance that is accepted"
                steps = ({"stage": "product", "result": "none of these", "words": words},)
                findings.append(Findings("none of these", path=steps))
                continue
            values = picture[8:56, 8:56].mean(2).astype(np.float32) / 25.5
            score, verdict = float(values.max()), "defect" if values.max() > THRESHOLD else "good"
            steps = [{"stage": "classifier", "result": "skipped", "words": "there is none"}]
            steps.append({"stage": "brightness", "result": verdict, "words": f"score {score:.4g}, threshold 5"})
            known = {"product": "lamp", "promised": 0.05, "anomaly_map": values, "map_scale": (0.0, 10.0), "seen": SEEN}
            known |= {"good_score": 2.5, "passes": verdict == "good", "path": tuple(steps)}
            known |= {"type": "spot", "type_neighbours": (4, 5)} if verdict == "defect" else {}
            findings.append(Findings(verdict, score, THRESHOLD, **known))
        return findings


class Served:
    """A service in a thread, which can be ended and begun again at the same address."""

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.folder, self.token, self.port = folder, token, 0
        self.begin()

    def begin(self) -> None:
        about = {"method": "brightness", "product": "lamp", "promise": "what is promised", "types": ["spot", "scratch"]}
        good = {"lamp": (np.linspace(1, 2.5, 40).astype(np.float32), THRESHOLD)}
        self.app = create_app(Brightness("lamp.zip", about, good), token=self.token, feedback=Feedback(self.folder))
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port, self.listener = listener.getsockname()[1], listener
        listener.listen()
        ready, servers = threading.Event(), []

        def serve() -> None:
            import uvicorn

            class Server(uvicorn.Server):
                async def startup(self, sockets: Any = None) -> None:
                    await super().startup(sockets=sockets)
                    servers.append(self)
                    ready.set()

            config = uvicorn.Config(self.app, lifespan="on", log_level="error", timeout_graceful_shutdown=1)
            asyncio.run(Server(config).serve(sockets=[listener]))

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(10)
        self.server = servers[0]

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.listener.close()
        assert not self.thread.is_alive()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class Page:
    """The page in the browser; every question waits for its answer, at most 5 seconds."""

    def __init__(self, browser: Any, served: Served, width: int = 1280, height: int = 900) -> None:
        self.browser, self.served = browser, served
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 500})
        browser.get_log("browser")
        self.open(served.address)

    def open(self, address: str) -> None:
        self.browser.get(address)
        if not self.served.token:
            self.wait("document.body.dataset.ready === 'yes'")

    def script(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def wait(self, question: str) -> Any:
        """The first true answer of an expression."""
        end = time.monotonic() + 5
        while not (answer := self.script(f"return {question}")):
            assert time.monotonic() < end, (question, self.text("body"))
            time.sleep(0.02)
        return answer

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def texts(self, selector: str) -> list[str]:
        code = "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText)"
        return self.script(code, selector)

    def send(self, *paths: Path) -> None:
        """Choose files, and wait until all are inspected and the history is there."""
        self.find("#choose").send_keys("\n".join(map(str, paths)))
        self.settle()

    def settle(self) -> None:
        self.wait("!working && !refreshing && !waiting.length && (!shown || past.has(shown.id))")
        self.wait("!shown || document.body.dataset.shown === shown.id")

    def alpha(self, x: float, y: float) -> int:
        """Opacity, 0 to 255, of the heat map at a place of the picture, in shares."""
        code = """const canvas = document.querySelector('#heat'), frame = document.querySelector('#frame');
        const box = canvas.getBoundingClientRect(), whole = frame.getBoundingClientRect();
        const at = [(whole.left + arguments[0] * whole.width - box.left) / box.width * canvas.width,
                    (whole.top + arguments[1] * whole.height - box.top) / box.height * canvas.height];
        return canvas.getContext('2d').getImageData(Math.floor(at[0]), Math.floor(at[1]), 1, 1).data[3];"""
        return self.script(code, x, y)

    def rectangle(self, selector: str) -> list[float]:
        """Left, top, width and height of an element in shares of the picture's frame."""
        code = """const [a, b] = [arguments[0], '#frame'].map(s => document.querySelector(s).getBoundingClientRect());
        return [(a.left - b.left) / b.width, (a.top - b.top) / b.height, a.width / b.width, a.height / b.height];"""
        return self.script(code, selector)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, that reaches this machine alone."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Begins a service, which ends with the test."""
    begun: list[Served] = []

    def begin(token: str | None = None) -> Served:
        begun.append(Served(tmp_path / "feedback", token))
        return begun[0]

    yield begin
    for served in begun:
        if served.thread.is_alive():
            served.end()


@pytest.fixture
def page(browser: Any, serve: Callable[..., Served]) -> Page:
    """The page, as wide as a desk's."""
    return Page(browser, serve())


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    """Writes a picture of a part, which is a defect where it has a bright spot: rows 16 to 23, columns 40 to 55.

    Beside it is a duller one, just below the threshold.
    """

    def write(name: str, spot: int = 0) -> Path:
        pixels = np.full((64, 64, 3), 40, np.uint8)
        if spot:
            pixels[16:24, 40:56] = spot
            pixels[40:48, 12:20] = 127  # 4.98
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return write


def test_a_picture_gets_its_verdict(page: Page, part: Callable[..., Path]) -> None:
    """Word, sign and colour, sentence, score, region, way and time; the heat map lies where the spot is."""
    page.send(part("bulb.png", 204))
    assert page.text("#verdict") == "✕ defect"
    colour = page.find("#verdict").value_of_css_property("background-color")
    assert colour.replace(" ", "") in ("rgba(179,71,0,1)", "rgb(179,71,0)")
    # 204 / 25.5 = 8 of the largest good score 2.5; 8 × 16 pixels of 64 × 64; its middle at (48, 20)
    sentence = "upper right, 3.1 % of the picture, 3.2 × the largest good score; looks like spot, 4 of 5 neighbours"
    assert page.script("return document.querySelector('#sentence').textContent") == sentence
    assert page.text("#sentence em") == "spot"
    name = page.text("#name")
    assert name.startswith("bulb.png · lamp · 64 × 64 pixels · ")
    assert name.endswith(" ms")
    assert page.text("#score-text") == "score 8 > threshold 5; chosen to stop at most 5 % of good parts"
    assert page.rectangle("#boxes .box") == pytest.approx([40 / 64, 16 / 64, 16 / 64, 8 / 64], abs=0.005)
    assert page.rectangle("#seen") == pytest.approx(SEEN, abs=0.005)
    assert page.rectangle("#heat") == pytest.approx(SEEN, abs=0.005)
    assert page.texts("#regions td") == ["1", "upper right", "3.1 %", "16 × 8", "8"]
    assert [text.split("\n") for text in page.texts("#way li")] == [
        ["classifier: skipped", "there is none"],
        ["brightness: defect", "score 8, threshold 5"],
    ]
    assert page.alpha(48 / 64, 20 / 64) == 166  # 65 % of 255
    assert page.alpha(16 / 64, 44 / 64) == page.alpha(30 / 64, 20 / 64) == 0
    page.send(part("good.png"))
    assert page.text("#verdict") == "✓ good"
    assert page.text("#sentence").lower() == "nothing stands out, 0.63 × the largest good score"
    assert page.texts("#boxes .box") == page.texts("#regions td") == []
    assert page.alpha(48 / 64, 20 / 64) == 0
    assert page.console() == []


def test_sliders(page: Page, part: Callable[..., Path]) -> None:
    """Opacity from nothing to all; above the peak nothing is shown, at the bottom everything."""
    from selenium.webdriver.common.keys import Keys

    page.send(part("bulb.png", 204))
    assert page.text("#level-text") == "5, threshold"
    page.find("#opacity").send_keys(Keys.END)
    assert (page.alpha(0.75, 0.3), page.text("#opacity-text")) == (255, "100 %")
    page.find("#opacity").send_keys(Keys.HOME)
    assert (page.alpha(0.75, 0.3), page.text("#opacity-text")) == (0, "0 %")
    page.find("#opacity").send_keys(Keys.END)
    page.find("#level").send_keys(Keys.END)
    assert (page.alpha(0.75, 0.3), page.text("#level-text")) == (0, "10")
    assert not page.find("#boxes .box").is_displayed()
    page.find("#level").send_keys(Keys.HOME)
    assert (page.alpha(0.75, 0.3), page.alpha(0.3, 0.6), page.text("#level-text")) == (255, 255, "0")
    assert page.find("#boxes .box").is_displayed()
    page.find("#boxed").click()
    assert not page.find("#boxes .box").is_displayed()
    page.find("#regions button").click()
    assert page.script("return document.querySelector('.box').classList.contains('chosen')")
    assert page.console() == []


def test_feedback_is_kept_and_shown(page: Page, part: Callable[..., Path]) -> None:
    """Wrong of a defect is good, or another type, known or new; right keeps the type; what is saved is the file."""
    from selenium.webdriver.support.ui import Select

    path, folder = part("bulb.png", 204), page.served.folder
    page.send(path)
    page.find(WRONG).click()
    assert [option.text for option in Select(page.find("#type")).options] == ["good", "scratch", "spot", "another: …"]
    page.find("#more button").click()
    page.wait("document.querySelector('#answer').textContent.startsWith('Saved as lamp/train/good/')")
    (saved,) = folder.glob("lamp/train/good/*.png")
    assert saved.read_bytes() == path.read_bytes()
    page.settle()
    assert page.texts("#history button")[0].split("\n")[-1] == "wrong, good"
    page.find(WRONG).click()
    page.find(RIGHT).click()  # changed one's mind
    assert Select(page.find("#type")).first_selected_option.text == "spot"
    Select(page.find("#type")).select_by_visible_text("another: …")
    page.find("#other").send_keys("../up")
    page.find("#more button").click()
    page.wait("document.querySelector('#answer').textContent.includes('name of a folder')")
    page.find("#other").clear()
    page.find("#other").send_keys("glare")
    page.find("#more button").click()
    page.wait("document.querySelector('#answer').textContent.startsWith('Saved as lamp/test/glare/')")
    assert [file.read_bytes() for file in folder.glob("lamp/*/*/*")] == [path.read_bytes()]
    lines = [json.loads(line) for line in (folder / "feedback.jsonl").read_text().splitlines()]
    assert [(line["right"], line["type"]) for line in lines] == [(False, "good"), (True, "glare")]
    page.send(part("good.png"))
    page.find(RIGHT).click()
    assert not page.find("#type").is_displayed()  # nothing to choose
    page.find("#more button").click()
    page.wait("document.querySelector('#answer').textContent.startsWith('Saved as lamp/train/good/')")
    page.find(WRONG).click()
    assert [option.text for option in Select(page.find("#type")).options][:3] == ["a defect", "glare", "scratch"]
    page.served.end()
    page.served.begin()  # whose folder tells it what was named before
    page.open(page.served.address)
    page.send(part("good.png"))
    page.find(WRONG).click()
    assert [option.text for option in Select(page.find("#type")).options][:3] == ["a defect", "glare", "scratch"]
    assert [line for line in page.console() if "422" not in line] == []


def test_a_reload_keeps_the_history(page: Page, part: Callable[..., Path]) -> None:
    """Newest first, with thumbnails; a click brings picture, heat map and what was said back, from the service."""
    page.send(part("bulb.png", 204))
    page.find(RIGHT).click()
    page.find("#more button").click()
    page.wait("document.querySelector('#answer').textContent.startsWith('Saved')")
    page.send(part("good.png"))
    page.open(page.served.address)
    assert not page.find("#result").is_displayed()
    page.wait("document.querySelectorAll('#history button').length === 2")
    tiles = [text.split("\n") for text in page.texts("#history button")]
    assert [tile[:2] for tile in tiles] == [["✓ good", "good.png"], ["✕ defect", "bulb.png"]]
    assert tiles[1][3] == "right, spot"
    assert page.script("return [...document.querySelectorAll('#history img')].every(image => image.naturalWidth)")
    page.find("#history li:last-child button").click()
    page.wait("document.body.dataset.shown && document.querySelector('#picture').naturalWidth")
    assert page.text("#verdict") == "✕ defect"
    assert page.script("return document.querySelector('#picture').naturalWidth") == 64  # the file, no thumbnail
    assert page.alpha(0.75, 0.3) == 166
    assert page.text("#answer") == "Said before: right, spot."
    assert page.find("#history [aria-current=true]").text.split("\n")[1] == "bulb.png"
    assert page.console() == []


def test_several_at_once(page: Page, part: Callable[..., Path], tmp_path: Path) -> None:
    """The first defect stays in sight; what cannot be read is one line, and costs no other its verdict."""
    (tmp_path / "notes.png").write_text("no picture")
    page.send(part("a.png"), tmp_path / "notes.png", part("b.png", 204), part("c.png"), part("d.png", 230))
    assert page.text("#progress") == "5 pictures: 2 good, 2 defect, 1 not inspected"
    assert page.text("#name").startswith("b.png")
    assert [tile.split("\n")[1] for tile in page.texts("#history button")] == ["d.png", "c.png", "b.png", "a.png"]
    (line,) = page.texts("#problems span")
    assert "notes.png" in line
    assert "\n" not in line
    page.find("#problems button").click()
    assert page.texts("#problems span") == []
    assert [line for line in page.console() if "415" not in line] == []


def test_dropped_and_pasted_pictures(page: Page, part: Callable[..., Path]) -> None:
    """As files of the clipboard and of a drag."""
    part("bulb.png", 204)
    page.script(
        """const transfer = new DataTransfer(), canvas = document.createElement('canvas');
        canvas.width = canvas.height = 64;
        const context = canvas.getContext('2d');
        context.fillStyle = '#fff'; context.fillRect(0, 0, 64, 64);
        canvas.toBlob(blob => {
          transfer.items.add(new File([blob], 'dropped.png', {type: 'image/png'}));
          document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
          document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}));
        });"""
    )
    page.wait("past.size === 2")
    page.settle()
    assert page.text("#sentence").lower().startswith("all over, 56 % of the picture")  # 48 × 48 of 64 × 64
    assert page.console() == []


def test_a_telephone_shows_all_of_it(browser: Any, serve: Callable[..., Served], part: Callable[..., Path]) -> None:
    """390 px: nothing beyond the edge, targets that a finger hits, a button for the camera; the verdict comes first."""
    page = Page(browser, serve(), 390, 844)
    assert page.find(".photograph").is_displayed()
    assert page.find("#photograph").get_attribute("capture") == "environment"
    page.send(part("a rather long name of a picture that no telephone has room for, IMG_20261129.png", 204))
    page.find(WRONG).click()
    assert page.script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    outside = """return [...document.querySelectorAll('main *, header *, #add *, #last *')].filter(element => {
      const box = element.getBoundingClientRect();
      return box.width > 1 && (box.left < -1 || box.right > 391);
    }).map(element => element.outerHTML.slice(0, 80))"""
    assert page.script(outside) == []
    tops = page.script(
        "return ['#verdict', '#frame', '#score', '#feedback', '#history'].map(selector => "
        "document.querySelector(selector).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    heights = page.script(
        "return [...document.querySelectorAll('.button, .toggle span, #more button, select')]"
        ".map(element => element.getBoundingClientRect().height)"
    )
    assert min(heights) >= 42
    assert page.console() == []


def test_a_keyboard_is_enough(page: Page, part: Callable[..., Path]) -> None:
    """Tab reaches everything in the order that it is read in, with a visible focus; names are read aloud."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(page.browser, duration=0).send_keys(*keys).perform()

    page.send(part("bulb.png", 204))
    page.script("document.activeElement.blur()")
    reached, names = [], []
    for _ in range(9):
        press(Keys.TAB)
        reached.append(page.script("const e = document.activeElement; return e.id || e.name || e.textContent"))
        names.append(page.browser.switch_to.active_element.accessible_name)
        outlined = """const e = document.activeElement, shown = e.matches('.button input, .toggle input')
            ? e.nextElementSibling : e, {outlineStyle, outlineWidth} = getComputedStyle(shown);
            return outlineStyle === 'none' ? 0 : parseFloat(outlineWidth)"""
        assert page.script(outlined) >= 2, reached
        if reached[-1] == "right":
            break
    assert reached == ["choose", "opacity", "level", "boxed", "1", "right"]
    assert names == ["Choose pictures", "opacity", "shown above", "boxes around regions", "show region 1", "✓ right"]
    press(Keys.SPACE)
    press(Keys.ARROW_RIGHT)
    assert page.script("return document.querySelector('[name=right]:checked').value") == "no"
    press(Keys.TAB)
    press("s")  # scratch, by its first letter
    press(Keys.TAB)
    press(Keys.ENTER)
    page.wait("document.querySelector('#answer').textContent.startsWith('Saved as lamp/test/scratch/')")
    live = page.script("return document.querySelector('#verdict').closest('[aria-live]').getAttribute('aria-live')")
    assert live == "polite"
    page.settle()
    for _ in range(3):
        press(Keys.TAB)
        if page.script("return document.activeElement.matches('#history button')"):
            break
    press(Keys.ENTER)
    page.settle()
    assert page.text("#answer") == "Said before: wrong, scratch."
    unnamed = """return [...document.querySelectorAll('input, select, button, output')].filter(element =>
      !(element.labels && element.labels.length) && !element.textContent.trim() && !element.getAttribute('aria-label')
      && !element.htmlFor).map(element => element.id)"""
    assert page.script(unnamed) == []
    assert page.console() == []


def test_a_token_is_asked_for_once(browser: Any, serve: Callable[..., Served], part: Callable[..., Path]) -> None:
    """The page says when it is wrong, keeps it for the tab, and sends it with every request."""
    page = Page(browser, serve(token="a" * 20))
    page.wait("!document.querySelector('#token-form').hidden")
    page.find("#token").send_keys("wrong")
    page.find("#token-form button").click()
    page.wait("document.querySelector('#problems').textContent.includes('not the token')")
    page.find("#token").send_keys("a" * 20)
    page.find("#token-form button").click()
    page.wait("document.body.dataset.ready === 'yes'")
    assert page.texts("#problems span") == []
    assert not page.find("#token-form").is_displayed()
    page.send(part("bulb.png", 204))
    assert page.text("#verdict") == "✕ defect"
    page.open(page.served.address)
    page.wait("document.querySelectorAll('#history button').length === 1")
    assert not page.find("#token-form").is_displayed()
    page.script("sessionStorage.clear()")
    assert [line for line in page.console() if "401" not in line] == []


def test_a_busy_service_is_asked_again(page: Page, part: Callable[..., Path]) -> None:
    """After the seconds that it names, with a word about it."""
    batches = page.served.app.state.service.batches
    most, batches.most = batches.most, 0
    page.find("#choose").send_keys(str(part("bulb.png", 204)))
    page.wait("document.querySelector('#progress').textContent === 'the service is busy: trying again in 1 s'")
    batches.most = most
    page.wait("shown && shown.verdict === 'defect'")
    page.settle()
    assert page.texts("#problems span") == []
    assert [line for line in page.console() if "503" not in line] == []


def test_a_service_that_has_gone(page: Page, part: Callable[..., Path]) -> None:
    """One line; what waits is sent when it is back and one tries again."""
    page.served.end()
    page.find("#choose").send_keys("\n".join([str(part("a.png", 204)), str(part("b.png"))]))
    page.wait("document.querySelector('#problems button')")
    line = "the service does not answer: is it still running? 2 pictures wait."
    assert page.texts("#problems span") == [line]
    page.served.begin()
    page.find("#problems button").click()
    page.wait("past.size === 2")
    page.settle()
    assert page.texts("#problems span") == []
    assert page.text("#progress") == "2 pictures: 1 defect, 1 good"


def test_a_picture_that_nothing_is_known_of(page: Page, part: Callable[..., Path], tmp_path: Path) -> None:
    """No score, no map, no region: only the verdict and the way are shown, and a person may say what it is."""
    from selenium.webdriver.support.ui import Select

    page.send(part("bulb.png", 204))
    Image.new("RGB", (80, 40)).save(tmp_path / "shoe.png")
    page.send(tmp_path / "shoe.png")
    assert (page.text("#verdict"), page.text("#sentence")) == ("∅ none of these", "like no product that is known here")
    assert [page.find(selector).is_displayed() for selector in ("#score", "#controls", "#heat", "#seen")] == [False] * 4
    assert page.texts("#boxes .box") == page.texts("#regions td") == []
    assert page.text("#caption") == "There is no heat map of it."
    assert page.script("return document.querySelector('#frame').getBoundingClientRect().width") == pytest.approx(
        2 * page.script("return document.querySelector('#frame').getBoundingClientRect().height"), abs=1
    )
    page.find(WRONG).click()
    options = [option.text for option in Select(page.find("#type")).options]
    assert options == ["good", "a defect", "scratch", "spot", "another: …"]
    Select(page.find("#type")).select_by_visible_text("a defect")
    page.find("#more button").click()
    page.wait("document.querySelector('#answer').textContent.startsWith('Saved as unknown/test/defect/')")
    assert page.console() == []


def test_drift_is_said(page: Page, part: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the alarm is raised, with its guarantee."""
    page.send(part("good.png"))
    assert not page.find("#drift").is_displayed()
    watch = page.served.app.state.service.watch
    calm = watch.describe()
    monkeypatch.setattr(watch, "describe", lambda: calm | {"alarm": True, "guarantee": "seldom wrong"})
    page.send(part("other.png"))
    page.wait("!document.querySelector('#drift').hidden")
    assert page.text("#drift").endswith("Guarantee: seldom wrong.")
    assert page.console() == []


def test_names_are_text(page: Page, part: Callable[..., Path]) -> None:
    """A file's name and a type are no markup, and a script from elsewhere than the page does not run."""
    name = "<img src=x onerror=document.title='bad'>.png"
    page.send(part(name, 204))
    assert page.text("#name b") == name
    assert page.texts("#history button")[0].split("\n")[1].startswith("<img src=x")
    page.script(
        "const script = document.createElement('script'); script.textContent = 'document.title = 0';"
        "document.body.append(script)"
    )
    assert page.script("return document.title") == "Inspection"
    assert any("Content Security Policy" in line for line in page.console())


def ask(served: Served, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[Any, bytes]:
    """Answer and body."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()


def test_a_past_picture_comes_back(serve: Callable[..., Served], part: Callable[..., Path]) -> None:
    """Its file byte for byte, and the record that was answered, with the map that the list leaves out."""
    served, path = serve(), part("bulb.png", 204)
    data = {"images": [{"name": "bulb.png", "data": base64.b64encode(path.read_bytes()).decode()}]}
    answer, body = ask(served, "/inspect", "POST", json.dumps(data).encode(), Content_Type="application/json")
    assert answer.status == 200, body
    (record,) = json.loads(body)["images"]
    assert record["map"].startswith("data:image/png;base64,")
    assert record["level"] == THRESHOLD
    (listed,) = json.loads(ask(served, "/history")[1])["images"]
    assert listed["map"] is None
    again = json.loads(ask(served, f"/history/{record['id']}")[1])
    assert {name: again[name] for name in record} == record
    assert (again["has_file"], again["feedback"], again["thumbnail"]) == (True, None, listed["thumbnail"])
    answer, body = ask(served, f"/history/{record['id']}/picture")
    assert (body, answer.getheader("content-type")) == (path.read_bytes(), "image/png")
    for address in ("/history/nothing", "/history/nothing/picture"):
        answer, body = ask(served, address)
        assert answer.status == 404
        assert "there is no such image among the last 50" in json.loads(body)["error"]


def test_without_a_token_there_is_the_page_alone(serve: Callable[..., Served]) -> None:
    """So that a telephone can be asked for it; it holds nothing."""
    served = serve(token="a" * 20)
    answer, body = ask(served, "/")
    assert (answer.status, body.decode(), answer.getheader("set-cookie")) == (200, line_page(), None)
    for path in ("/model", "/history", "/drift", "/docs", "//", "/history/x/picture"):
        assert ask(served, path)[0].status == 401, path
    assert ask(served, "/", "POST")[0].status == 401
    assert ask(served, f"/?token={'a' * 20}")[0].getheader("set-cookie").startswith("mvtec_ad_token=")


def test_the_page_is_one_file_for_its_service_alone() -> None:
    """Nothing is loaded from anywhere; the script is the one that its policy names."""
    text = line_page()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert re.findall(r"(?:src|href)=[\"'](?!data:)([^\"']+)", text) == ["docs", "metrics"]
    assert "http" not in re.sub(r"http-equiv", "", text)
    (stops,) = re.findall(r'data-colours="([^"]+)"', text)
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    for stop, share in zip(stops.split(), np.linspace(0, 1, len(stops.split())), strict=True):
        expected = to_hex(colormaps["inferno"](round(share * 255)))
        pairs = zip(bytes.fromhex(stop[1:]), bytes.fromhex(expected[1:]), strict=True)
        assert max(abs(ours - theirs) for ours, theirs in pairs) <= 2
