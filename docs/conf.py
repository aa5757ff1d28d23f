"""Sphinx's configuration; the source is what `docs/stage.py` lays out in build/site-source."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "build" / "site-source"
sys.path[:0] = [str(HERE), str(HERE.parent)]

from stage import LANGUAGES, language_of  # noqa: E402

project = "Visual anomaly detection on MVTec AD"
copyright = "the authors, MIT"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_extra", "_static"]

nb_execution_mode = "off"  # the notebooks are committed executed
nb_mime_priority_overrides = [("html", "image/gif", 20)]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 6
myst_dmath_double_inline = True

autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}  # instead of the dozen types that it stands for
add_module_names = False  # the heading above says the module
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # an attribute that is also a property is described once
suppress_warnings = ["ref.python"]  # a short name in an annotation (`Box`) that two rooms have
default_role = "literal"  # docstrings are written with single backticks

html_theme = "pydata_sphinx_theme"
html_title = "mvtec_ad"
html_static_path = [str(HERE / "_static"), str(SOURCE / "_static")]
html_extra_path = [str(SOURCE / "_extra")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
mathjax_path = "mathjax/tex-svg-full.js"
templates_path = [str(HERE / "_templates")]
html_theme_options: dict[str, Any] = {
    "navbar_end": ["language", "theme-switcher"],
    "header_links_before_dropdown": 8,
    "show_toc_level": 1,
    "secondary_sidebar_items": {"**": ["page-toc"], "docs/results": [], "docs/how_it_was_measured": []},  # wide tables
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}

linkcheck_anchors = False
linkcheck_timeout = 20


def in_languages(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Tell the template in which languages a page is there, and whether its cells can be run."""
    language, english = language_of(pagename)
    names = {language_of(name): name for name in app.env.found_docs}
    start = {code: names.get((code, "README")) or names.get((code, f"{code}/contents")) for code in LANGUAGES}
    start["en"] = "index"
    found = {code: names.get((code, english)) or start[code] for code in LANGUAGES}
    context["languages"] = [
        (title, name, code == language) for code, title in LANGUAGES.items() if (name := found[code]) is not None
    ]
    if re.fullmatch(r"course/lite/\d.*", pagename) and (SOURCE / "_static/pyodide/pyodide.js").is_file():
        app.add_js_file("lite/lite.js", loading_method="defer")


def as_plain_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let |x| in a docstring be an absolute value: reStructuredText would take it for a substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`[^`]*`)", line)
            lines[number] = "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


def setup(app: Any) -> None:
    """Connect."""
    app.connect("autodoc-process-docstring", as_plain_bars)
    app.connect("html-page-context", in_languages)
