"""Search by words: descriptions against what was drawn, the loss and chance against brute force, the command."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtec_ad import artifacts, synthetic
from mvtec_ad.cli import main
from mvtec_ad.data import index
from mvtec_ad.data.loading import load_images, read_mask
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import descriptions, words
from mvtec_ad.methods.descriptions import LANGUAGES, PARTS, describe, distract, facts_of, queries, true_of
from mvtec_ad.methods.words import Described, Words, info_nce, region_of, retrieval

SMALL = {"image_size": 64, "steps": 120, "batch": 32}


# --- descriptions -----------------------------------------------------------------------------------------------------


def test_facts_of_a_painted_defect() -> None:
    """A dark square in the upper left, a bright bar along the bottom; else there is no colour."""
    image, mask = np.full((100, 100, 3), 120, np.uint8), np.zeros((100, 100), bool)
    mask[10:20, 5:15] = True
    image[mask] = 60
    known = {"product": "screw", "type": "scratch_head", "place": "upper left"}
    assert facts_of(image, mask, "screw", "scratch_head", 0.2) == {
        **known,
        "size": "medium",
        "severity": "faint",
        "colour": "dark",
    }
    assert facts_of(np.full_like(image, 120), mask, "screw", "scratch_head") == {**known, "size": "medium"}
    bar = np.zeros((100, 100), bool)
    bar[80:95, 30:70] = True
    image[bar] = 250
    facts = facts_of(image, bar, "screw", "own_type", 0.9)
    assert (facts["place"], facts["size"], facts["severity"], facts["colour"]) == (
        "bottom",
        "large",
        "severe",
        "bright",
    )
    with pytest.raises(DataError, match="a mask is empty"):
        facts_of(image, np.zeros((4, 4), bool), "screw", "crack")


def test_every_drawn_type_has_phrases_in_every_language() -> None:
    """Two that are learned and one that is not; and every template can name every part."""
    table = descriptions.phrases()
    for category in synthetic.CATEGORIES:
        assert set(table["products"][category]) == set(LANGUAGES)
        for defect in synthetic.defect_types(category):
            assert {len(table["types"][defect][language]) for language in LANGUAGES} == {3}
    for group, language in itertools.product(("seen", "unseen"), LANGUAGES):
        named = {
            part for template in descriptions.templates(language, group) for part in PARTS if f"{{{part}}}" in template
        }
        assert named == set(PARTS)
        assert all("{type}" in template for template in descriptions.templates(language, group))


def test_a_description_says_what_is_known_and_no_more() -> None:
    """Nothing of a template is left over; a word that is held out is not in what is learned from."""
    facts = {"product": "screw", "type": "thread_top", "place": "left", "size": "small"}
    rng = np.random.default_rng(0)
    for language, group in itertools.product(LANGUAGES, ("seen", "unseen")):
        held_out = descriptions.phrases_of("type", "thread_top", language)[-1]
        for template in descriptions.templates(language, group):
            texts = [describe(facts, template, language, rng) for _ in range(6)]
            assert not any(set(text) & set("[]{}") or held_out in text for text in texts)
            phrases = descriptions.phrases_of("place", "left", language)
            assert "{place}" not in template or all(any(phrase in text for phrase in phrases) for text in texts)
            assert held_out in describe(facts, template, language, rng, unseen_words=True)
            alone = describe({"type": "thread_top"}, template, language, rng)
            assert not any(word in alone for word in ("screw", "parafuso", "tornillo", *phrases))
    assert describe({"type": "own_type"}, "{type}", "pt", rng) == "own type"
    with pytest.raises(SettingsError, match="language 'de' is unknown: use one of en, pt, es"):
        descriptions.templates("de")


def test_statements_are_true_and_vary() -> None:
    """Each of its own defect; all languages occur, short and long ones; the rng decides."""
    facts = [{"product": "pill", "type": "crack", "place": "top", "size": "small", "colour": "dark"}] * 60
    stated, texts = descriptions.statements(facts, np.random.default_rng(0))
    assert true_of(stated, facts).all()
    assert {len(row) for row in stated} >= {1, 2, 5}
    assert (stated, texts) == descriptions.statements(facts, np.random.default_rng(0))
    for word in ("rachadura", "grieta"):
        assert any(word in text for text in texts)
    known = set(descriptions.vocabulary(facts))
    assert {word for text in texts for word in descriptions.plain(text)} <= known
    mixed = distract("a crack", sorted(known), np.random.default_rng(1)).split()
    assert 3 <= len(mixed) <= 5
    assert [word for word in mixed if word in ("a", "crack")] == ["a", "crack"]


def test_true_of_is_all_of_what_is_stated() -> None:
    """Against a loop."""
    rng = np.random.default_rng(0)
    facts = [{part: "ab"[rng.integers(2)] for part in PARTS if rng.random() < 0.8} for _ in range(20)]
    stated = [{part: "ab"[rng.integers(2)] for part in PARTS if rng.random() < 0.3} for _ in range(15)]
    expected = [[all(row.get(part) == value for part, value in said.items()) for row in facts] for said in stated]
    np.testing.assert_array_equal(true_of(stated, facts), expected)
    assert np.sum(expected) > 10


# --- loss and measure -------------------------------------------------------------------------------------------------


def test_info_nce_is_clips() -> None:
    """By hand in numpy: each image finds its words and each text its image; true ones share the answer."""
    rng = np.random.default_rng(0)
    images, texts, tau = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), 0.3
    a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (images, texts))
    share = np.exp(a @ b.T / tau)
    rows, columns = np.log(share / share.sum(1, keepdims=True)), np.log(share / share.sum(0, keepdims=True))
    expected = -(np.diag(rows).mean() + np.diag(columns).mean()) / 2
    pair = torch.from_numpy(images), torch.from_numpy(texts)
    assert info_nce(*pair, tau).item() == pytest.approx(expected)
    true = np.eye(5, dtype=bool)
    true[0, 1] = true[3, 2] = True
    by_image = np.mean([rows[i][true[i]].mean() for i in range(5)])
    by_text = np.mean([columns[:, j][true[:, j]].mean() for j in range(5)])
    assert info_nce(*pair, tau, torch.from_numpy(true)).item() == pytest.approx(-(by_image + by_text) / 2)


def test_chance_is_the_mean_over_all_orders() -> None:
    """Of five images, two or one of them right: recall, hits and the median rank of the first right one."""
    relevant = np.array([[True, False, True, False, False], [False, False, False, True, False], [False] * 5])
    recalls, hits, ranks = [], [], []
    for order in itertools.permutations(range(5)):
        for row in relevant[:2]:
            found = row[list(order)]
            recalls.append(found[:2].sum() / min(2, row.sum()))
            hits.append(found[:2].any())
            ranks.append(1 + found.argmax())
    similarity = np.array([[0.1, 0.9, 0.8, 0.0, 0.2], [0.5, 0.4, 0.3, 0.2, 0.1], [1, 2, 3, 4, 5]])
    result = retrieval(similarity, relevant, k=2)
    assert result["chance_recall"] == pytest.approx(np.mean(recalls))
    assert result["chance_hit"] == pytest.approx(np.mean(hits))
    assert result["chance_rank"] == np.quantile(ranks, 0.5, method="inverted_cdf")
    assert (result["recall"], result["hit"], result["median_rank"], result["queries"]) == (0.25, 0.5, 3.0, 2)
    with pytest.raises(DataError, match="no query is true of any image"):
        retrieval(similarity, np.zeros((3, 5), bool))


# --- the method -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn screws, six of each defect, and the model of `fitted`."""
    root = tmp_path_factory.mktemp("words")
    counts = {"train": 20, "test_good": 2, "per_defect": 6}
    synthetic.write_category(root, "screw", **counts, size=64, least_severity=0.6, progress=False)
    return root


@pytest.fixture(scope="module")
def described(root: Path) -> Described:
    """Its defects."""
    return Words(**SMALL).gather(index.read_category(root, "screw"), copies=1)


@pytest.fixture(scope="module")
def fitted(described: Described) -> Words:
    """Learned from two thirds of them."""
    return Words(**SMALL).fit(described, np.flatnonzero(np.arange(30) % 3 > 0), progress=False)


@pytest.fixture(scope="module")
def model(fitted: Words, root: Path) -> Path:
    """The same as an artifact."""
    about = {"profile": "custom", "data_source": "synthetic", "categories": ["screw"], "seed": 0}
    return artifacts.save("words", words.files(fitted), options=fitted.options(), path=root / "words.zip", **about)


def test_features_are_means_over_the_whole_inside_and_around(described: Described) -> None:
    """By hand, with the mask at the layers' size by areas; without a region its features are not there."""
    small, row = Words(**SMALL), described.table.iloc[7]
    layers = small.extractor(load_images([row["image_path"]], 64))[1:]
    mask = read_mask(row["mask_path"]).astype(float)
    whole, inside = [], []
    for layer in (layer[0].numpy() for layer in layers):
        step = 64 // len(layer)
        share = mask.reshape(len(layer), step, len(layer), step).mean((1, 3))[..., None]
        whole.append(layer.mean((0, 1)))
        inside.append((share * layer).sum((0, 1)) / share.sum())
    seen = described.features[7, 0]
    np.testing.assert_allclose(seen[:304], np.concatenate(whole + inside), rtol=1e-4, atol=1e-5)
    rows, columns = np.nonzero(mask)
    np.testing.assert_allclose(seen[-17:-15], [(columns.mean() + 0.5) / 64, (rows.mean() + 0.5) / 64], rtol=1e-5)
    alone = small.look_at([row["image_path"]], [None])[0, 0]
    np.testing.assert_allclose(alone[:152], seen[:152], rtol=1e-4, atol=1e-5)
    assert np.isnan(alone[152:]).all()


def test_words_find_defects_that_were_not_learned_from(fitted: Words, described: Described) -> None:
    """In each language, by sentences that were not learned from; and the words of an image are near it."""
    held = np.arange(30) % 3 == 0
    facts = [row for row, chosen in zip(described.facts, held, strict=True) if chosen]
    vectors = fitted.embed_images(described.features[held])
    for language in LANGUAGES:
        stated, texts = queries(facts, ("type",), language, "unseen")
        result = retrieval(fitted.embed_texts(texts) @ vectors.T, true_of(stated, facts), k=2)
        assert result["recall"] > 2 * result["chance_recall"], (language, result)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_words_without_a_known_part_say_nothing(fitted: Words) -> None:
    """They change no query; a query of such words alone is refused."""
    some, more = fitted.embed_texts(["scratch", "QQQ, scratch 77!"])
    np.testing.assert_array_equal(some, more)
    np.testing.assert_array_equal(fitted.embed_texts(["cabeça riscada"]), fitted.embed_texts(["CABECA riscada"]))
    with pytest.raises(DataError, match="query '77 qqq' has no word that is known: say what is seen"):
        fitted.embed_texts(["77 qqq"])


def test_a_model_from_a_file_is_the_same(fitted: Words, described: Described, model: Path) -> None:
    """Images and texts; and a second training of the same seed gives the same weights."""
    again = words.load(model)
    np.testing.assert_array_equal(again.embed_images(described.features), fitted.embed_images(described.features))
    np.testing.assert_array_equal(again.embed_texts(["a scratch"]), fitted.embed_texts(["a scratch"]))
    short = [Words(**SMALL | {"steps": 3}).fit(described, progress=False).embed_texts(["scratch"]) for _ in range(2)]
    np.testing.assert_array_equal(*short)


def test_like_moves_an_image_towards_the_words(fitted: Words, described: Described) -> None:
    """By the weight: none leaves it where it is, a large one gives the words alone."""
    image, text = fitted.embed_images(described.features[:2]), fitted.embed_texts(["large"])
    np.testing.assert_allclose(fitted.like(image, "large", 0), image, atol=1e-6)
    np.testing.assert_allclose(fitted.like(image, "large", 1e4), np.repeat(text, 2, 0), atol=1e-3)


def test_a_page_ranks_as_the_package(fitted: Words, described: Described, tmp_path: Path) -> None:
    """The encoder in JavaScript, run by node: cosines within what 8 bits of the table leave; unknown words are none."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not here")
    vectors, asked = fitted.embed_images(described.features), ["Scratch on the HEAD", "cabeça riscada", "77 qqq"]
    script = (Path(words.__file__).parents[1] / "templates" / "words.js").read_text(encoding="utf-8")
    data = json.dumps(words.for_page(fitted, vectors))
    script += f"const rank = words_search({data}); console.log(JSON.stringify({json.dumps(asked)}.map(rank)));"
    (tmp_path / "words.js").write_text(script, encoding="utf-8")
    first, second, none = json.loads(subprocess.check_output([node, str(tmp_path / "words.js")], text=True))
    expected = fitted.embed_texts(asked[:2]) @ vectors.T
    np.testing.assert_allclose([first, second], expected, atol=0.02)
    assert none is None


def test_the_region_of_a_map_is_around_its_peak() -> None:
    """Not the largest one, and above the threshold where there is one."""
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[0:4, 0:4], anomaly_map[6, 5:8], anomaly_map[6, 7] = 3, 4, 5
    assert np.argwhere(region_of(anomaly_map)).tolist() == [[6, 5], [6, 6], [6, 7]]
    assert np.argwhere(region_of(anomaly_map, 4.5)).tolist() == [[6, 7]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda table: Words(**SMALL).embed_texts(["a"]), "this words is not fitted: call fit"),
        (lambda table: Words(**SMALL).gather(table.drop(columns="mask_path")), "no column mask_path"),
        (lambda table: Words(**SMALL).gather(table.assign(mask_path="")), "no defect has a mask"),
        (lambda table: Words(batch=1), "batch 1 must be 2 or more"),
    ],
)
def test_bad_input(call: object, message: str, described: Described) -> None:
    """One line that names the thing."""
    with pytest.raises((DataError, SettingsError), match=message):
        call(described.table)


def test_one_type_is_too_few(described: Described) -> None:
    """Nothing can be told apart."""
    with pytest.raises(DataError, match="3 defects of one type are too few"):
        Words(**SMALL).fit(described, np.arange(3))


# --- the command ------------------------------------------------------------------------------------------------------


def test_search_ranks_by_the_cosine(
    root: Path, model: Path, fitted: Words, described: Described, capsys: pytest.CaptureFixture[str]
) -> None:
    """A category folder with its masks: rank, score, path; then where was looked."""
    page = root / "page.html"
    arguments = ["search", "thread", str(root / "screw/test"), "--model", str(model), "--top", "3", "--page", str(page)]
    assert main(arguments) == 0
    *lines, end, last = capsys.readouterr().out.splitlines()
    assert last == f"look at {page}"
    assert 'id="query"' in page.read_text(encoding="utf-8")
    assert end == "3 of 32 images; 30 looked at where their mask is"
    cosines = fitted.embed_images(described.features) @ fitted.embed_texts(["thread"])[0]
    scores = dict(zip(described.table["image_path"], cosines, strict=True))
    for rank, line in enumerate(lines, start=1):
        number, score, path = line.split()
        assert int(number) == rank
        if path in scores:  # of a defect; good ones have no mask
            assert float(score) == pytest.approx(scores[path], abs=2e-3)
    assert any(line.split()[2] in scores for line in lines)
    assert [float(line.split()[1]) for line in lines] == sorted(
        (float(line.split()[1]) for line in lines), reverse=True
    )


def test_search_looks_where_a_detector_points(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it calls good is left out; an image like another one is asked for by its path."""
    fit = ["fit", "padim", "--root", str(root), "--category", "screw", "--image-size", "64", "--channels", "20"]
    assert main([*fit, "--out", str(root / "padim.zip")]) == 0
    image = root / "screw/test/thread_top/000.png"
    where = [str(root / "screw/test"), "--model", str(model), "--detector", str(root / "padim.zip")]
    capsys.readouterr()
    assert main(["search", "large", *where, "--like", str(image), "--top", "40"]) == 0
    *lines, end = capsys.readouterr().out.splitlines()
    count = len(lines)
    assert 0 < count < 32
    assert end == (
        f"{count} of {count} images; looked at where its anomaly map is highest; {32 - count} more are good by "
        f"{root / 'padim.zip'}"
    )


def test_what_search_refuses(root: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with status 2."""
    test, given = str(root / "screw/test"), ["--model", str(model)]
    for arguments, expected in (
        (["77", test, *given], "query '77' has no word that is known"),
        (["scratch", str(root / "nowhere"), *given], "is no folder: give one of images"),
        (["scratch", str(tmp_path), *given], "holds no image"),
        (["scratch", test, "--model", str(root / "none.zip")], "none.zip is missing"),
        (["scratch", test, *given, "--like", "nowhere.png"], "image nowhere.png does not exist"),
        (["scratch", test, *given, "--page", "page.txt"], "give one that ends in .html"),
    ):
        capsys.readouterr()
        assert main(["search", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("mvtec-ad search: ")
        assert expected in line
