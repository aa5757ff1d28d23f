"""Exported models beside the models they were made of, on real products: the certificates, and the page in a browser.

    python benchmarks/export.py --root ROOT [--category bottle …] [--rows patchcore-lite …] [--good N] [--page]

Models are fitted once and stay in transfer/export/, as do graphs and certificates. `--page` inspects 50 test images of
each category in headless Chromium, by the page of its first row, and compares verdicts and scores with python's.
Latencies are those of a machine that may be busy: its load is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mvtec_ad import artifacts, export
from mvtec_ad.cli import main
from mvtec_ad.commands.flags import image_paths
from mvtec_ad.config import transfer_folder
from mvtec_ad.data import index, splits
from mvtec_ad.data.loading import read_image
from mvtec_ad.methods import classifier
from mvtec_ad.metrics import cost_threshold, markdown_table

ROWS = {  # name -> words of `fit`
    "patchcore-lite": ["patchcore", "--coreset", "0.01", "--image-size", "224", "--crop", "224"],
    "patchcore": ["patchcore"],
    "padim": ["padim"],
    "autoencoder": ["autoencoder", "--preset", "quick"],
    "vae": ["vae", "--preset", "quick"],
    "classifier": [],
}
IN_BROWSER = 50


def fit(row: str, category: str, root: Path, path: Path) -> None:
    """Write the model where it is missing; a classifier learns on the train part of the supervised split."""
    if path.is_file():
        return
    if row != "classifier":
        main(["fit", *ROWS[row], "--root", str(root), "--category", category, "--out", str(path)])
        return
    table = splits.supervised(index.read_category(root, category))
    train = table[table["part"] == "train"].reset_index(drop=True)
    model = classifier.Classifier.preset("quick", roi="whole").fit(train, seed=0)
    threshold = cost_threshold(model.validation["label"], model.validation["score"], 10.0, 1.0)
    files = classifier.files(model, category, "whole", threshold=float(threshold), metrics={})
    known = {"profile": "custom", "data_source": "mvtec_ad", "categories": [category], "seed": 0}
    artifacts.save("models", files, options=model.options(), path=path, **known)


def certificate(row: str, category: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """That of one model, made where it is missing."""
    folder = transfer_folder() / "export" / f"{row}-{category}"
    if not (folder / "model-certificate.json").is_file():
        path = folder / "model.zip"
        fit(row, category, arguments.root, path)
        data = arguments.root / category
        images = {
            "good": image_paths([str(data / "train" / "good")])[: arguments.good],
            "test": image_paths([str(data / "test")]),
        }
        page = folder / "inspect.html" if arguments.page and row == arguments.rows[0] else None
        model = export.load_fitted(path)
        export.export_model(model, folder, "model", images, int8=True, page=page, progress=True)
    return json.loads((folder / "model-certificate.json").read_text())


def in_browser(row: str, category: str, root: Path) -> str:
    """How the page judges test images, in a sentence; its console must stay empty."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    folder = transfer_folder() / "export" / f"{row}-{category}"
    model = export.load_fitted(folder / "model.zip")
    paths = image_paths([str(root / category / "test")])
    paths = paths[:: max(1, len(paths) // IN_BROWSER)][:IN_BROWSER]
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    with tempfile.TemporaryDirectory() as profile:
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
            options.add_argument(word)
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")  # no network
        options.add_argument("--disable-background-networking")
        options.add_argument("--disable-component-update")
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument("--window-size=1000,1100")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get((folder / "inspect.html").absolute().as_uri())
            wait = WebDriverWait(browser, 300, poll_frequency=0.05)
            wait.until(lambda _: browser.execute_script("return document.body.dataset.ready") == "yes")
            changed, largest, milliseconds = 0, 0.0, []
            for number, path in enumerate(paths):
                named = Path(profile) / f"{number:03d}{path.suffix}"
                named.write_bytes(path.read_bytes())
                browser.find_element(By.ID, "file").send_keys(str(named))
                result = browser.find_element(By.ID, "result")
                wait.until(lambda _, name=named.name, result=result: result.get_attribute("data-file") == name)
                _, score, _ = model.score(read_image(path))
                verdict = "defect" if score > model.description["threshold"]["model"] else "good"
                changed += result.get_attribute("data-verdict") != verdict
                largest = max(largest, abs(float(result.get_attribute("data-score")) - score) / abs(score))
                milliseconds.append(int(result.text.rsplit(", ", 1)[1].split()[0]))
            for width in (1000, 390):
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.save_screenshot(str(folder / f"page-{width}.png"))
                overflow = browser.execute_script("return document.documentElement.scrollWidth") - width
                assert overflow <= 0, f"{overflow} pixels too wide at {width}"
            console = browser.get_log("browser")
        finally:
            browser.quit()
    middle = sorted(milliseconds)[len(milliseconds) // 2]
    return (
        f"{category}, {row}: {len(paths)} images in the browser, {changed} verdicts changed, largest relative score "
        f"difference {largest:.2g}, {middle} ms an image (median), {len(console)} lines on the console {console[:1]}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--category", nargs="+", default=["bottle", "capsule", "metal_nut"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--good", type=int, default=50, help="good training images that are compared too")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    lines = []
    for row in arguments.rows:
        for category in arguments.category:
            made = certificate(row, category, arguments)
            for name, graph in made["graphs"].items():
                times = [
                    "{median:.0f}, {p95:.0f}".format(**graph["milliseconds"][key]) for key in graph["milliseconds"]
                ]
                differences = [f"{graph[key]:.1g}" for key in ("relative_score_difference", "map_difference")]
                size, load = f"{graph['bytes'] / 1e6:.1f}", made["machine"]["load"]
                counts = [sum(made["images"].values()), graph["verdicts_changed"]]
                lines.append([category, row, name, *counts, *differences, size, *times, load])
    columns = ["category", "model", "weights", "images", "verdicts changed", "score (relative)", "map", "MB"]
    columns += ["one thread, ms (p95)", "two", "load"]
    print(markdown_table(columns, lines))
    if arguments.page:
        print("\n".join(in_browser(arguments.rows[0], category, arguments.root) for category in arguments.category))
