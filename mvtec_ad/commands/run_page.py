"""The page that a run leaves: what was measured, and every figure with the heading it stands under."""

from __future__ import annotations

import copy
import html
from pathlib import Path
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
h3 { font-weight: 500; color: #555; } img { max-width: 100%; border: 1px solid #eee; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; }
th { text-align: left; } div { overflow-x: auto; } a { color: #0a58a5; }
"""


def write_page(folder: Path, executed: list[tuple[str, Any, float]], profile: str, summary: str) -> Path:
    """Write `index.html`, self-contained, and an HTML copy of every notebook.

    Args:
        folder: `transfer/runs`.
        executed: (name, notebook, seconds) in order.
        profile: of the run.
        summary: Markdown, the table of everything measured.

    Returns:
        The page's path.
    """
    from nbconvert import HTMLExporter
    from nbconvert.filters import markdown2html

    for name, notebook, _ in executed:
        body, _ = HTMLExporter().from_notebook_node(_with_gifs(notebook))
        (folder / f"{name}.html").write_text(body, encoding="utf-8")
    sections = [_section(*item) for item in executed]
    contents = "".join(
        f'<li><a href="#{name}">{html.escape(_title(notebook))}</a>, {seconds:.0f} s: '
        f'<a href="{name}.html">whole notebook</a>, <a href="{name}.ipynb">.ipynb</a></li>'
        for name, notebook, seconds in executed
    )
    page = folder / "index.html"
    page.write_text(
        f"<!doctype html><meta charset='utf-8'><title>mvtec_ad run</title><style>{_STYLE}</style>"
        f"<h1>Visual anomaly detection: a run in profile {html.escape(profile)}</h1><ol>{contents}</ol>"
        f"<div>{markdown2html(summary)}</div>" + "".join(sections),
        encoding="utf-8",
    )
    return page


def _with_gifs(notebook: Any) -> Any:
    """A copy whose GIFs are HTML: nbconvert, 7.17 at least, shows no GIF of its own accord."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/gif" in output.get("data", {}):
                output["data"].setdefault("text/html", _block({"image/gif": output["data"]["image/gif"]}))
    return notebook


def _title(notebook: Any) -> str:
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line[2:]
    return "Untitled"


def _section(name: str, notebook: Any, seconds: float) -> str:
    """Figures and tables of one notebook under the nearest heading above them."""
    parts, heading, shown = [f'<h2 id="{name}">{html.escape(_title(notebook))}</h2>'], "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1].lstrip("# ") if headings else heading
            continue
        for output in cell.get("outputs", []):
            block = _block(output.get("data", {}))
            if block and heading != shown:
                parts.append(f"<h3>{html.escape(heading)}</h3>")
                shown = heading
            parts.append(block)
    return "".join(parts)


def _block(data: dict[str, Any]) -> str:
    for kind in ("image/png", "image/jpeg", "image/gif"):
        if kind in data:
            return f'<p><img alt="figure" src="data:{kind};base64,{data[kind].strip()}"></p>'
    if "text/html" in data:
        return f"<div>{data['text/html']}</div>"
    if "text/markdown" in data:
        from nbconvert.filters import markdown2html

        return f"<div>{markdown2html(data['text/markdown'])}</div>"
    return ""
