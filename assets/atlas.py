"""Draw assets/atlas.jpg: the page of notebook 06 in a browser, one defect pointed at and another one kept.

    python assets/atlas.py

Reads transfer/contrastive.zip, which notebook 06 writes (drawn products in the profile quick); needs Chromium, its
driver and selenium.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

from mvtec_ad import artifacts
from mvtec_ad.errors import ArtifactError

TARGET = Path(__file__).resolve().parent / "atlas.jpg"
POINTED, KEPT = "screw/test/scratch_neck/005", "bottle/test/contamination/004"
PLACE = """
const map = Bokeh.documents[0].get_model_by_name('map'), data = map.renderers[1].data_source.data;
const at = Array.from(data.image_id).indexOf(arguments[0]);
const share = (range, value) => (value - range.start) / (range.end - range.start) - 0.5;
return [share(map.x_range, data.x[at]), -share(map.y_range, data.y[at])];
"""


def main() -> None:
    """Open the page, click, point, take the picture."""
    artifact = artifacts.load("contrastive")
    if artifact.manifest["data_source"] != "synthetic":
        raise ArtifactError(f"{artifact.path} shows images that are not drawn: run notebook 06 in the profile quick")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "atlas.html"
        page.write_bytes(artifact.read("atlas.html"))
        browser = chromium()
        browser.get(page.as_uri())
        wait = WebDriverWait(browser, 20)
        wait.until(lambda _: browser.execute_script("return document.body.dataset.ready") == "yes")
        wait.until(lambda _: browser.execute_script(PLACE, KEPT)[0] is not None)
        go(browser, KEPT, click=True)
        go(browser, POINTED)
        wait.until(lambda _: POINTED in browser.find_element("css selector", "#tip").text)
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        browser.quit()
    picture.save(TARGET, quality=88, subsampling=0)


def chromium() -> Any:
    """A browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,940", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def go(browser: Any, image_id: str, *, click: bool = False) -> None:
    """Point at an image's mark, and click it."""
    plot = browser.find_element("css selector", "#plot")
    right, down = browser.execute_script(PLACE, image_id)
    size = plot.size
    action = ActionChains(browser).move_to_element_with_offset(
        plot, round(right * size["width"]), round(down * size["height"])
    )
    (action.click() if click else action).perform()


if __name__ == "__main__":
    main()
