"""The page of `mvtec-ad serve`: does it show the verdicts that Python gives, on images that it is sent in a browser?

    python benchmarks/page.py MODEL.zip IMAGES/ [--count 50]

MODEL is what `fit` wrote; IMAGES any folder, as the `test/` of a category. Every so many images, of all folders alike,
are chosen in headless Chromium, all at once; then verdicts are read off the page, and scores from behind it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from selenium import webdriver

from mvtec_ad.data.loading import is_image, paths_below
from mvtec_ad.methods import load_model

MOST = 50  # of the history


def open_page(address: str, profile: Path) -> webdriver.Chrome:
    """The page in a browser that reaches this machine alone."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    quiet = "no-first-run disable-background-networking disable-component-update disable-sync disable-quic"
    flags = f"headless=new no-sandbox disable-gpu disable-dev-shm-usage {quiet}".split()
    for flag in [*flags, f"user-data-dir={profile}", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.get(address)
    return browser


def wait(browser: webdriver.Chrome, question: str, seconds: float) -> None:
    """Until an expression is true."""
    end = time.monotonic() + seconds
    while not browser.execute_script(f"return {question}"):
        if time.monotonic() > end:
            raise SystemExit(f"{question} is not so after {seconds:g} s")
        time.sleep(0.1)


def main() -> None:
    """Print what differs, and end with 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=MOST, help=f"images, at most {MOST}")
    arguments = parser.parse_args()
    paths = [path for path in paths_below(arguments.images) if is_image(path)]
    paths = [
        paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(arguments.count, MOST)).astype(int))
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {f"{path.parent.name}-{path.name}": path for path in paths}
        for file, path in files.items():
            shutil.copyfile(path, folder / file)
        command = [sys.executable, "-m", "mvtec_ad", "serve", str(arguments.model), "--port", "0", "--feedback", "none"]
        service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = next((line for line in service.stdout if "ready after" in line), "")
            browser = open_page(line.split(": ", 1)[1].split(" ")[0], folder / "profile")
            try:
                wait(browser, "document.body.dataset.ready === 'yes'", 30)
                begun = time.perf_counter()
                browser.find_element("id", "choose").send_keys("\n".join(str(folder / file) for file in files))
                wait(browser, f"past.size === {len(files)} && !working && !refreshing", 600)
                seconds = time.perf_counter() - begun
                code = "return [...past.values()].map(({name, score, milliseconds}) => [name, score, milliseconds])"
                records = {name: (score, took) for name, score, took in browser.execute_script(code)}
                code = """return [...document.querySelectorAll('#history button')].map(button =>
                  [...button.querySelectorAll('span')].map(span => span.textContent))"""
                tiles = {tile[1]: tile[0].split(" ", 1)[1] for tile in browser.execute_script(code)}
                console = [entry["message"] for entry in browser.get_log("browser")]
            finally:
                browser.quit()
        finally:
            service.terminate()
            service.wait(30)
    detector, description = load_model(arguments.model)
    scores = detector.score(list(files.values())).image
    verdicts = ["defect" if score > description["threshold"]["value"] else "good" for score in scores]
    different = [file for file, verdict in zip(files, verdicts, strict=True) if tiles.get(file) != verdict]
    shown = np.array([records[file][0] for file in files])
    print(f"{len(files)} images, {verdicts.count('defect')} of them defects for Python, in {seconds:.1f} s")
    print(f"verdicts that differ: {len(different)} {different or ''}")
    print(f"largest difference of scores, relative: {np.max(np.abs(shown - scores) / np.abs(scores)):.1e}")
    print(f"milliseconds an image, median: {np.median([took for _, took in records.values()]):.0f}")
    print(f"console of the browser: {console or 'empty'}")
    raise SystemExit(bool(different or console or len(tiles) != len(files)))


if __name__ == "__main__":
    main()
