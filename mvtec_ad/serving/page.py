"""The page of a service: one HTML file that asks nobody but the service it came from, and needs no framework."""

from __future__ import annotations

import base64
import hashlib
from functools import cache

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

STOPS = 17  # of the colour scale; between them the page interpolates


@cache
def line_page() -> str:
    """The HTML text for `/`: drop or photograph a part, see its verdict, say whether that was right.

    Its policy lets the script that is written here run and no other, and lets it ask its own service alone: a name of a
    file or a product that carries a script stays text, and no picture leaves for elsewhere.
    """
    templates = Environment(
        loader=PackageLoader("mvtec_ad"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = templates.loader.get_source(templates, "line.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scale = cv2.applyColorMap(np.linspace(0, 255, STOPS).round().astype(np.uint8), cv2.COLORMAP_INFERNO).reshape(-1, 3)
    colours = ["#" + bytes(pixel[::-1]).hex() for pixel in scale]  # OpenCV's pixels are BGR
    return templates.get_template("line.html").render(title="Inspection", script=script, digest=digest, colours=colours)
