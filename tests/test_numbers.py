"""Every measured number of README.md and docs/ names where it was measured, and is what stands there.

`.997 [.929, 1.000]<!-- n:results/bottle+padim+*in1k*+mvtec_ad+official/metrics/image_auroc -->` is a path into
`assets/results.json`. A step is a key, or a pattern of keys; in a list it is words or patterns, joined by `+`, that the
wanted item says of itself. Where several numbers fit, their mean is meant (`[!r]*`: all keys but those with an r in
front). A path that ends at a metric means its mean, and low and high where an interval is printed. Generated tables
(`docs/results.md`) and the history of decisions need no such mark.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[1]
FILES = {
    path.stem: path
    for folder in ("assets", "mvtec_ad/backbones/weights", "mvtec_ad/benchmark")
    for path in (PROJECT / folder).glob("*.json")
}
TEXTS = [
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "docs").glob("[a-z][a-z]/*.md")),
]
TEXTS = [path for path in TEXTS if path.name not in ("results.md", "decisions.md")]
NUMBER = r"[+−-]?(?:\d[\d,]*)?(?:\.\d+)?"
MARKED = re.compile(
    rf"(?P<mean>{NUMBER})(?: \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\])?(?P<percent> ?%)?[*]*<!-- n:(?P<id>.+?) -->"
)
BARE = re.compile(r"(?<![\w.,/:=-])[+−-]?[01]?\.\d{2,}(?![\w.])")  # .997 and 0.997, no version, path or option


def words_of(item: dict[str, Any]) -> set[str]:
    """What an item of a list says of itself: its texts; reports without a part are of the official test."""
    left_out = ("protocol", "method") if "row" in item else ("protocol",)
    texts = [value for key, value in item.items() if isinstance(value, str) and key not in left_out]
    texts += [] if "part" in item else ["official"]
    return {word for text in texts for word in re.findall(r"[\w.+:-]+", text)}


def resolve(path: str) -> Any:
    """What stands at a path, or the mean over all that fit it."""
    name, *steps = path.split("/")
    values = [json.loads(FILES[name].read_text(encoding="utf-8"))]
    for step in steps:
        below = []
        for value in values:
            if isinstance(value, list):
                wanted = step.split("+")
                below += [v for v in value if all(any(fnmatchcase(w, s) for w in words_of(v)) for s in wanted)]
            else:
                below += [value[step]] if step in value else [value[key] for key in value if fnmatchcase(key, step)]
        assert below, f"{path}: nothing at {step}"
        values = below
    assert len(values) == 1 or not isinstance(values[0], dict), f"{path}: fits {len(values)}"
    return values[0] if len(values) == 1 else float(np.mean(values))


def differences(text: str) -> list[str]:
    """A line for each marked number of a text that is not, at its printed digits, what was measured."""
    lines = []
    for mark in MARKED.finditer(text):
        value = resolve(mark["id"])
        value = value if isinstance(value, dict) else {"mean": value}
        for key in ("mean", "low", "high"):
            if mark[key] is not None:
                digits = len(mark[key].partition(".")[2])
                measured = round(float(value[key]) * (100 if mark["percent"] else 1), digits)
                if float(mark[key].replace("−", "-").replace(",", "")) != measured:
                    lines.append(f"{mark['id']}: {key} is {measured}, printed is {mark[key]}")
    return lines


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_marked_numbers_are_what_was_measured(path: Path) -> None:
    """At the printed digits; every mark follows a number."""
    text = path.read_text(encoding="utf-8")
    assert len(MARKED.findall(text)) == text.count("<!-- n:")
    assert differences(text) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_measured_number_stands_without_its_source(path: Path) -> None:
    """A decimal like .997 outside of code has a mark."""
    text = re.sub(r"```.*?```|`[^`\n]+`|\]\([^)]*\)", "", path.read_text(encoding="utf-8"), flags=re.S)
    assert BARE.findall(MARKED.sub("", text)) == []


def test_a_wrong_or_unmarked_number_would_be_noticed() -> None:
    """What the checks above rest on."""
    source = "<!-- n:results/bottle+padim+*in1k*+mvtec_ad+official/metrics/image_auroc -->"
    assert differences(f"it is .997 [.929, 1.000]{source} or 100 %{source}") == []
    assert len(differences(f"it is .996 [.930, 1.000]{source}")) == 2
    assert BARE.findall("an AUROC of .997, 0.98 or −.012 (v1.2.3, 2011.08785, 1.5 minutes)") == [
        ".997",
        "0.98",
        "−.012",
    ]
    assert resolve("minutes/notebooks/0[13]") == 1.125


def test_the_readme_is_short() -> None:
    """A newcomer reads it in five minutes: at most 170 lines, 1,800 words, one table of eight rows and five columns."""
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 170
    assert sum(len(line.split()) for line in lines) <= 1800
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"\|[ :|-]+\|", line)]
    tables = [lines[rule - 1 : rule + lines[rule:].index("")] for rule in rules]
    assert len(tables) == 1
    assert len(tables[0]) - 2 <= 8
    assert all(len(line.strip("|").split("|")) <= 5 for line in tables[0])


PAGES = sorted(
    path
    for folder in ("", "docs", "data", "transfer", "mvtec_ad/synthetic")
    for path in (PROJECT / folder).glob("*.md")
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """Files, and headings of Markdown files."""
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.M)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target
