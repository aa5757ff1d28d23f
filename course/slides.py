"""Make build/slides/NN_name.html from course/slides/NN_name.md: reveal.js pages that need no network.

    python course/slides.py [01 02 …]

A deck is markdown, slides parted by `---`; `Note: 4 min. …` begins the speaker's notes (key S). A title that begins
with Board, Question, Failure or Recap gives its slide a colour. `![what to see](figure:02_padim#3)` is the third
picture of the executed notebooks/02_padim.ipynb; pictures are cut from the notebooks here, and not committed again.
"""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
BUILD, TARGET = PROJECT / "build", PROJECT / "build" / "slides"
DECKS = sorted((PROJECT / "course" / "slides").glob("[0-9][0-9]_*.md"))
FIGURE = re.compile(r"!\[([^\]]*)\]\(figure:(\w+)#(\d+)\)")
MATH = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.S)
MARKED = re.compile(r"^## (Board|Question|Failure|Recap)\b", re.M)
ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif"}
PACKAGES = {"reveal.js": "5.2.1", "katex": "0.19.1"}  # name -> version in the registry of npm
NEEDED = re.compile(r"(dist/(reveal|reset|theme/white)\.css|dist/reveal\.js|plugin/(markdown|notes|math)/\w+\.js)$")
NEEDED_BY_KATEX = re.compile(r"dist/(katex\.min\.(css|js)|contrib/auto-render\.min\.js|fonts/.+\.woff2)$")

STYLE = """
.reveal { font-family: "Helvetica Neue", Arial, sans-serif; font-size: 27px; }
.reveal .slides { text-align: left; }
.reveal .slides > section.present { display: flex !important; flex-direction: column; height: 100%; padding: 0; }
.reveal h1 { font-size: 1.9em; margin: auto 0 0.4em; } .reveal h1 ~ p:last-of-type { margin-bottom: auto; }
.reveal h2 { font-size: 1.3em; margin: 0 0 0.5em; } .reveal h1, .reveal h2 { text-transform: none; }
.reveal p, .reveal ul, .reveal ol, .reveal table { margin: 0 0 0.5em; }
.reveal table { font-size: 0.85em; }
.reveal ul, .reveal ol { display: block; padding-left: 1em; }
.reveal .katex-display { margin: 0.4em 0; }
.reveal figure { flex: 1 1 0; min-height: 0; margin: 0 0 0.3em; display: flex; flex-direction: column; }
.reveal figure img { flex: 1 1 0; min-height: 0; width: 100%; margin: 0; object-fit: contain; }
.reveal figcaption { font-size: 0.72em; color: #555; text-align: center; }
.reveal section:not(:has(figure, h1)) { font-size: 1.3em; }
.reveal section.board h2 { color: #00795a; } .reveal section.failure h2 { color: #c04a00; }
.reveal section.question h2 { color: #005f9e; } .reveal section.recap h2 { color: #777; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="reveal.js/dist/reset.css"><link rel="stylesheet" href="reveal.js/dist/reveal.css">
<link rel="stylesheet" href="reveal.js/dist/theme/white.css"><style>{style}</style></head>
<body><div class="reveal"><div class="slides">
<section data-markdown data-separator-notes="^Note:"><textarea data-template>
{slides}
</textarea></section></div></div>
<script src="reveal.js/dist/reveal.js"></script><script src="reveal.js/plugin/markdown/markdown.js"></script>
<script src="reveal.js/plugin/notes/notes.js"></script><script src="reveal.js/plugin/math/math.js"></script>
<script>Reveal.initialize({{width: 1280, height: 720, controls: false, margin: 0.05, center: false,
hash: true, slideNumber: true, transition: "none", katex: {{local: "katex"}},
plugins: [RevealMarkdown, RevealNotes, RevealMath.KaTeX]}});</script>
</body></html>
"""


@cache
def figures(notebook: str) -> list[tuple[str, bytes]]:
    """File ending and content of each picture in the outputs of an executed notebook, in their order."""
    cells = json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    pictures = [(ENDINGS[kind], data[kind]) for data in outputs for kind in ENDINGS if kind in data]
    return [(ending, base64.b64decode("".join(content))) for ending, content in pictures]


def figure(match: re.Match[str]) -> str:
    """A picture with its caption as HTML; its file is written beside the pages."""
    caption, notebook, number = match.groups()
    ending, content = figures(notebook)[int(number) - 1]
    path = TARGET / "figures" / f"{notebook}-{number}.{ending}"
    path.write_bytes(content)
    text = html.escape(caption)
    return f'<figure><img src="figures/{path.name}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def deck(text: str) -> str:
    """Slides as the markdown plugin reads them: math escaped, pictures in place, marked slides with their class."""
    text = MATH.sub(lambda match: re.sub(r"([!-#%-/:-@\[-`{-~])", r"\\\1", match[0]), text)
    text = MARKED.sub(lambda match: f'<!-- .slide: class="{match[1].lower()}" -->\n{match[0]}', text)
    return FIGURE.sub(figure, text)


def unpack(package: str, needed: re.Pattern[str]) -> None:
    """Put the needed files of an npm package beside the pages; its archive is fetched once and kept in build/."""
    archive = BUILD / f"{package}-{PACKAGES[package]}.tgz"
    if not archive.is_file():
        subprocess.run(["npm", "pack", "--silent", f"{package}@{PACKAGES[package]}"], cwd=BUILD, check=True)
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            if needed.search(member.name):
                path = TARGET / package / member.name.removeprefix("package/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files.extractfile(member).read())


def main(numbers: list[str]) -> None:
    """Write the pages of all decks, or of those whose numbers are given."""
    (TARGET / "figures").mkdir(parents=True, exist_ok=True)
    unpack("reveal.js", NEEDED)
    unpack("katex", NEEDED_BY_KATEX)
    for source in DECKS:
        if not numbers or source.stem[:2] in numbers:
            page = PAGE.format(title=source.stem, style=STYLE, slides=deck(source.read_text(encoding="utf-8")))
            (TARGET / f"{source.stem}.html").write_text(page, encoding="utf-8")
            print(f"build/slides/{source.stem}.html")


if __name__ == "__main__":
    main(sys.argv[1:])
