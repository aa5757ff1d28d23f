"""Measured beside published: a verdict only where the two can be compared; what is kept, shown and published."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binomtest

from mvtec_ad import artifacts
from mvtec_ad.benchmark import published
from mvtec_ad.benchmark.result import PROMISE, promise
from mvtec_ad.data.catalog import CATEGORIES
from mvtec_ad.errors import DataError
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.metrics import calibrated

START, END = "<!-- results: start -->", "<!-- results: end -->"
ROW = {
    "method": "padim",
    "backbone": "resnet18",
    "category": "bottle",
    "metric": "image_auroc",
    "value": 0.98,
    "detail": "100 channels",
    "source": "somebody's README",
    "protocol": {"image_size": 256, "crop": 224, "channels": 100},
}
PATCHCORE = {"coreset": 0.1, "layers": [2, 3], "image_size": 224, "crop": 224}


def make_report(low: float = 0.97, high: float = 1.0, settings: dict[str, Any] | None = None, **changes: Any) -> dict:
    """A report of real bottle under the published protocol."""
    metric = {"mean": (low + high) / 2, "sd": 0.0, "low": low, "high": high, "values": [(low + high) / 2]}
    known = {
        "method": "padim",
        "category": "bottle",
        "data_source": "mvtec_ad",
        "backbone": "resnet18",
        "weights": "IMAGENET1K_V1",
        "seeds": [0],
        "settings": {"image_size": 256, "crop": 224, "channels": 100} | (settings or {}),
        "metrics": dict.fromkeys(("image_auroc", "pixel_auroc", "au_pro"), metric),
    }
    return known | changes


def autoencoder_report(settings: dict[str, Any] | None = None, **changes: Any) -> dict:
    """A report of a method without a network: no channels, and neither backbone nor weights."""
    known = {"method": "autoencoder", "backbone": None, "weights": None, **changes}
    return make_report(0.6, 0.8, **known) | {"settings": {"image_size": 128, "crop": 128} | (settings or {})}


def classifier_report(settings: dict[str, Any] | None = None, **changes: Any) -> dict:
    """A report of a classifier: a network in its settings, no crop, the test part of the supervised split."""
    known = make_report(method="classifier", protocol="supervised", backbone=None, weights=None)
    return (
        known
        | {"settings": Classifier(backbone="resnet18", weights="synthetic").options() | (settings or {})}
        | changes
    )


def rows_of(text: str) -> list[list[str]]:
    """Cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.97, 0.99, "confirmed"),  # the whole interval is within .01 of .98
        (0.982, 0.988, "confirmed"),  # also where the published value lies outside it
        (0.97, 0.991, "agrees"),
        (0.969, 0.98, "agrees"),
        (0.981, 1.0, "above"),
        (0.9, 0.979, "below"),
        (0.9, 0.9796, "agrees"),  # printed as .980
        (0.9, 0.9794, "below"),
    ],
)
@pytest.mark.parametrize("metric", ["image_auroc", "pixel_auroc", "au_pro"])
def test_verdicts_of_comparable_figures(low: float, high: float, expected: str, metric: str) -> None:
    """The interval decides, of the metric that is published, whatever the others are."""
    report = make_report(0.1, 0.2)
    report["metrics"][metric] = {"mean": (low + high) / 2, "low": low, "high": high}
    assert published.verdict(report, {**ROW, "metric": metric}) == expected


@pytest.mark.parametrize(
    ("report", "row", "why"),
    [
        (make_report(data_source="synthetic"), {}, "other images"),
        (make_report(data_source="own"), {}, "other images"),
        (make_report(part="supervised test"), {}, "other images"),
        (make_report(backbone="wide_resnet50_2"), {}, "other network"),
        (make_report(weights="random (seed 0)"), {}, "other weights"),
        (make_report(weights="synthetic"), {}, "other weights"),
        (make_report(), {"differs": "other masks"}, "other masks"),
        (make_report(), {"category": "mean"}, "mean of all categories"),
        (make_report(settings={"crop": 256}), {}, "crop 224 there"),
        (
            make_report(settings={"crop": 224, "image_size": 224, "channels": 9}),
            {},
            "image_size 256, channels 100 there",
        ),
        (make_report(), {"protocol": {"channels": 100}}, "image_size, crop not stated"),
        (make_report(), {"protocol": {"channels": 550}}, "channels 550 there"),
        (make_report(), {"metric": "f1_max"}, "not measured"),
        (autoencoder_report({"loss": "mse"}), {"protocol": {"loss": "ssim"}}, "loss ssim there"),
        (autoencoder_report({"loss": "ssim"}), {"protocol": {"loss": "ssim"}}, "latent, image_size not stated"),
        (
            make_report(method="patchcore", settings=PATCHCORE | {"layers": [1, 2]}),
            {"protocol": PATCHCORE},
            "layers 2/3 there",
        ),
    ],
)
def test_verdicts_of_what_cannot_be_compared(report: dict, row: dict, why: str) -> None:
    """The reason is named: the options of that method which the source has otherwise, or does not state."""
    row = {**ROW, "backbone": report["backbone"] and "resnet18", **row}
    assert published.verdict(report, row) == f"not comparable: {why}"


@pytest.mark.parametrize("layers", [[2, 3], (2, 3)])
def test_each_method_has_a_protocol_of_its_own(layers: Any) -> None:
    """PatchCore needs no channels; weights from a file are those that it holds."""
    settings = PATCHCORE | {"layers": layers, "neighbours": 9}
    weights = "resnet18_in1k_to_layer3.pth (SHA-256 0d88f485e032…)"
    report = make_report(0.975, 0.985, method="patchcore", weights=weights) | {"settings": settings}
    assert published.verdict(report, {**ROW, "method": "patchcore", "protocol": PATCHCORE}) == "confirmed"
    row = {**ROW, "method": "patchcore", "protocol": PATCHCORE}
    for name in ("IMAGENET1K_V1", "keras imagenet", "imagenet (SHA-256 579344248a93…)"):
        assert published.verdict(report | {"weights": name}, row) == "confirmed", name
    for name in ("resnet18_in1k_to_layer3.pth", "imagenet.pth", "synthetic"):  # whatever a file is called
        assert published.verdict(report | {"weights": f"{name} (SHA-256 0123456789ab…)"}, row).endswith("other weights")


def test_protocols_are_options_of_their_methods() -> None:
    """Those that a verdict asks for, and those that are stated of the suite's methods."""
    options = {name: detector_class(name)().options() for name in METHODS}
    assert set(published.PROTOCOL) == set(METHODS)
    for method, keys in published.PROTOCOL.items():
        assert set(keys) <= set(options[method])
    for row in published.published():
        assert set(row["protocol"]) <= set(options.get(row["method"], row["protocol"]))


def test_every_published_figure_has_its_source() -> None:
    """And a value that an AUC, a PRO, an F1 or an accuracy can have; nothing is there twice."""
    rows = published.published()
    assert len(rows) >= 650
    metrics = {"image_auroc", "pixel_auroc", "au_pro", "f1_max", "image_f1", "accuracy_oracle_threshold"}
    keys = {"method", "backbone", "category", "metric", "value", "source", "detail", "protocol"}
    for row in rows:
        assert keys <= set(row) <= keys | {"differs", "read_in"}
        assert row["method"] == row["method"].lower() != ""
        assert row["category"] in (*CATEGORIES, "mean")
        assert row["metric"] in metrics
        assert len(row["source"]) > 5
        assert 0 < row["value"] <= 1
        assert row["protocol"].get("crop", 1) <= row["protocol"].get("image_size", row["protocol"].get("crop", 1))
    names = [
        tuple(row[key] for key in ("method", "backbone", "category", "metric", "source", "detail")) for row in rows
    ]
    assert len(set(names)) == len(names)


def test_the_mean_of_a_table_is_that_of_its_categories() -> None:
    """Of the 15 rounded figures within .0011: no digit was mistyped. One source's mean is .0045 off in the source."""
    tables: dict[tuple, dict[str, float]] = {}
    for row in published.published():
        name = (row["method"], row["backbone"], row["metric"], row["source"], row["detail"])
        tables.setdefault(name, {})[row["category"]] = row["value"]
    whole = {name: table for name, table in tables.items() if len(table) == 16}
    gaps = {name: abs(sum(table.values()) - 16 * table["mean"]) / 15 for name, table in whole.items()}
    assert len(whole) > 60
    assert [name[:3] for name, gap in gaps.items() if gap > 0.0011] == [
        ("reverse_distillation", "wide_resnet50_2", "pixel_auroc")
    ]


def test_published_figures_of_the_shared_file_are_all_there(shared: Callable[[str], Path]) -> None:
    """The package lost nothing of what the project was given."""

    def figure(row: dict[str, Any]) -> tuple:
        category = row["category"].replace("mean_of_15", "mean")
        return (row["method"], row["backbone"], category, row["metric"], round(row["value"], 3))

    theirs = json.loads(shared("reported.json").read_text(encoding="utf-8"))["rows"]
    assert set(map(figure, theirs)) <= set(map(figure, published.published()))


def test_published_figures_of_a_report() -> None:
    """Same method, backbone, category and metric, all of them; none for images that no paper has."""
    keys = ("method", "backbone", "category", "metric")
    wanted = ("padim", "resnet18", "bottle", "image_auroc")
    rows = published.published_for(make_report())
    assert 0.996 in [row["value"] for row in rows]  # the well-known one
    assert rows == [row for row in published.published() if tuple(row[key] for key in keys) == wanted]
    for other in ({"part": "supervised test"}, {"protocol": "supervised"}, {"backbone": "unheard-of"}):
        assert published.published_for(make_report(**other)) == []


def test_a_mean_stands_in_where_no_category_is_published() -> None:
    """The VAE of the PaDiM paper: .744 over all categories."""
    (row,) = published.published_for(autoencoder_report(method="vae"), "pixel_auroc")
    assert (row["category"], row["value"]) == ("mean", 0.744)
    (line,) = published.peers(autoencoder_report(method="vae"), ("image_auroc", "pixel_auroc"))
    assert line[0].startswith("– / .744 (")
    assert line[1] == "not comparable: mean of all categories"


# --- tables -----------------------------------------------------------------------------------------------------------


def test_verdicts_of_reports() -> None:
    """A line for each source, all metrics of it; other images get one that says why there is none."""
    reports = [make_report(), make_report(data_source="synthetic"), make_report(backbone="unheard-of")]
    table = published.verdicts(reports, by="backbone", metrics=("au_pro", "image_auroc"))
    heads = ["category", "backbone", "AUPRO", "image AUROC", "reported", "verdict"]
    assert list(table.columns) == heads
    lines = published.peers(make_report(), ("au_pro", "image_auroc"))
    assert len(lines) > 1
    assert [tuple(pair) for pair in table.iloc[:, -2:].to_numpy()] == [
        *lines,
        ("–", "not comparable: synthetic images"),
        ("–", "no published figure found"),
    ]
    assert set(table["AUPRO"]) == {".985 [.970, 1.000]"}


@pytest.mark.parametrize("source", ["synthetic", "own"])
def test_real_and_other_images_never_share_a_table(source: str) -> None:
    """Published figures with their source and verdict stand beside real images only; without maps a dash, no zero."""
    other = make_report(0.5, 0.7, data_source=source)
    other["metrics"] = {"image_auroc": other["metrics"]["image_auroc"]}
    first, second = published.tables([other, make_report(0.985, 0.999)]).split("\n\n")
    assert "agrees" in first
    assert f"({source})" not in first
    assert f"256→224 px ({source}) | .600 [.500, .700] | – | – | – |" in second
    for words in ("verdict", "published", "agrees"):
        assert words not in second
    for row in published.published_for(make_report()):
        assert row["source"] in first
        assert row["source"] not in second
        assert f"{row['value']:.3f}"[1:] not in second
    assert "evaluate padim" in published.tables([])


def test_sources_of_one_metric_stand_beside_those_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line each, a dash where a source has no figure, a verdict for each it has; one reason where all have it."""
    others = {"protocol": {"image_size": 256, "crop": 256, "channels": 100}}
    rows = [
        {**ROW, "source": "both"},
        {**ROW, "source": "both", "metric": "pixel_auroc", "value": 0.65},
        {**ROW, "source": "image alone", "value": 0.9},
        {**ROW, "source": "pixel alone", "metric": "pixel_auroc", "value": 0.99},
        {**ROW, "source": "whole picture", "value": 0.9, **others},
        {**ROW, "source": "whole picture", "metric": "au_pro", "value": 0.91, **others},
        {**ROW, "source": "PRO alone", "metric": "au_pro", "detail": "", "value": 0.98, **others},
    ]
    monkeypatch.setattr(published, "published", lambda: rows)
    report = make_report(0.97, 1.0)
    report["metrics"]["pixel_auroc"] = {**report["metrics"]["pixel_auroc"], "low": 0.5, "mean": 0.6, "high": 0.7}
    lines = rows_of(published.tables([report]))
    assert [row[5:] for row in lines] == [
        [".980 / .650 / – (both: 100 channels)", "agrees / agrees / –"],
        [".900 / – / – (image alone: 100 channels)", "above / – / –"],
        [".900 / – / .910 (whole picture: 100 channels)", "not comparable: crop 256 there"],
        ["– / .990 / – (pixel alone: 100 channels)", "– / below / –"],
        ["– / – / .980 (PRO alone)", "not comparable: crop 256 there"],
    ]
    assert lines[0][1] == ".985 [.970, 1.000]"
    assert all(row[:5] == [""] * 5 for row in lines[1:])


def test_every_table_shows_what_the_threshold_promised() -> None:
    """Beside it what came of it, with its interval; a dash where nothing was promised."""
    known = {"images": {"good": 20}, "thresholds": {"calibrated": {"false_alarm_rate": 0.1}}, "false_alarm_rate": 0.05}
    expected = promise(make_report(**known))
    assert expected == "5 % → .100 [.028, .301] of 20"
    reports = [make_report(**images, **known) for images in ({}, {"data_source": "own"}, {"part": "supervised test"})]
    for table in published.tables(reports).split("\n\n"):
        head, _, row = (line.strip("| ").split(" | ") for line in table.splitlines()[:3])
        assert row[head.index(PROMISE)] == expected
    assert rows_of(published.tables([make_report()]))[0][4] == "–"


@pytest.mark.parametrize(("alarms", "good"), [(0.0, 20), (7 / 60, 20), (0.5, 9), (1.0, 32)])
def test_the_interval_of_false_alarms_is_wilsons(alarms: float, good: int) -> None:
    """scipy's; a mean over seeds lies between its neighbours in whole images, for seeds are no more images."""
    point = {"thresholds": {"calibrated": {"false_alarm_rate": alarms}}, "images": {"good": good}}
    text = promise(make_report(false_alarm_rate=0.05, **point))
    low, high = (float(part) for part in re.search(r"\[(.*), (.*)\]", text).groups())
    around = [
        binomtest(count, good).proportion_ci(method="wilson") for count in (floor(alarms * good), ceil(alarms * good))
    ]
    assert around[0].low - 6e-4 <= low <= around[1].low + 6e-4
    assert around[0].high - 6e-4 <= high <= around[1].high + 6e-4
    assert text.startswith("5 % → ")
    assert text.endswith(f" of {good}")


def test_what_twenty_images_can_tell() -> None:
    """The figures of docs/how_it_was_measured.md: 209 good images, k = 200 of 210, so the rate is Beta(10, 200)."""
    rank = ceil(210 * 0.95)
    rate = beta(210 - rank, rank)
    low, high = rate.ppf([0.025, 0.975])
    assert (round(low, 3), round(high, 3)) == (0.023, 0.08)
    assert calibrated(np.arange(209.0), 0.05) == rank - 1
    alarms = betabinom(20, 210 - rank, rank)
    at_least = {count: float(alarms.sf(count - 1).round(3)) for count in (1, 2, 3, 4)}
    assert at_least == {1: 0.607, 2: 0.248, 3: 0.075, 4: 0.018}


@pytest.mark.parametrize(
    ("report", "title"),
    [
        (make_report(), "bottle: padim, resnet18, IMAGENET1K_V1, 256→224 px"),
        (make_report(settings={"channels": 550}), "bottle: padim, resnet18, IMAGENET1K_V1, channels 550, 256→224 px"),
        (make_report(settings={"crop": 256}), "bottle: padim, resnet18, IMAGENET1K_V1, 256 px"),
        (
            make_report(row="padim-keras", backbone="keras:resnet18"),
            "bottle: padim-keras, keras:resnet18, IMAGENET1K_V1, 256→224 px",
        ),
        (autoencoder_report({"loss": "ssim", "depth": 5}), "bottle: autoencoder, loss ssim, 128 px"),
        (
            autoencoder_report(method="vae", backbone="resnet18", weights="synthetic"),
            "bottle: vae, resnet18, synthetic, 128 px",
        ),
        (
            make_report(method="patchcore", settings={"coreset": 0.02, "layers": [1, 2]}),
            "bottle: patchcore, resnet18, IMAGENET1K_V1, layers 1/2, coreset 0.02, 256→224 px",
        ),
        (make_report(method="newcomer"), "bottle: newcomer, resnet18, IMAGENET1K_V1, 256→224 px"),
        (autoencoder_report(method="trivial", row="mean_intensity"), "bottle: mean_intensity, 128 px"),
        (
            classifier_report({"roi": "whole"}),
            "bottle: classifier, resnet18, synthetic, roi whole, 224 px, supervised test",
        ),
        (
            classifier_report(method="inspector", part="supervised test"),
            "bottle: inspector, resnet18, synthetic, 224 px",
        ),
        (
            classifier_report(backbone="resnet50", weights="ours (SHA-256 01…)", part="supervised test"),
            "bottle: classifier, resnet50, ours (SHA-256 01…), 224 px",
        ),
    ],
)
def test_a_title_says_what_was_measured(report: dict, title: str) -> None:
    """Row, network where there is one, the options that are not the method's defaults, pixels, images."""
    assert rows_of(published.tables([report]))[0][0] == title


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_title(method: str) -> None:
    """From options as a run writes them."""
    kind = detector_class(method)
    for preset in kind.PRESETS:
        report = make_report(method=method, data_source="own") | {"settings": kind.preset(preset).options()}
        assert rows_of(published.tables([report]))[0][0].startswith(f"bottle: {method}, ")


def test_methods_on_the_same_images_have_a_table_of_their_own() -> None:
    """Six metrics and two costs; real and synthetic apart, and neither with the official ones; no published value."""
    costs = {"fit_seconds": 0.123, "milliseconds": 26.4, "memory_gb": None, "model_mb": None}
    part = {"part": "supervised test", "cost": costs}
    full = make_report(0.4, 0.8, **part)
    names = ("image_auroc", "image_ap", "f1_max", "false_alarms", "pixel_auroc")
    full["metrics"] = dict.fromkeys(names, full["metrics"]["image_auroc"])
    reports = [
        make_report(),
        make_report(data_source="synthetic"),
        full,
        classifier_report(**{**part, "cost": {}}),
        classifier_report(data_source="synthetic", **part),
    ]
    official, other, real, synthetic = published.tables(reports).split("\n\n")
    assert "published" in official
    assert other.startswith(f"| Other images | image AUROC | pixel AUROC | AUPRO | {PROMISE} |")
    columns = "image AUROC | AP | F1-max | false alarms at 95 % detection | pixel AUROC | AUPRO"
    columns += f" | {PROMISE} | fit s | ms / image |"
    assert real.startswith(f"| Real MVTec AD, the same test images for all | {columns}")
    assert synthetic.startswith(f"| Other images, the same for all | {columns}")
    first, second = rows_of(real)
    assert first[1:] == [".600 [.400, .800]"] * 5 + ["–", "–", "0.12", "26"]
    assert second[-2:] == ["–", "–"]
    assert len(rows_of(synthetic)) == 1
    assert "(synthetic)" in synthetic
    assert "published" not in real + synthetic
    assert rows_of(published.tables([classifier_report()]))[0][4:] == ["–", "–", "no published figure found"]


# --- records ----------------------------------------------------------------------------------------------------------


def test_measurements_of_different_things_lie_beside_each_other() -> None:
    """Other methods, options, seeds, rows and parts; also where there is no backbone."""
    reports = [
        make_report(),
        make_report(row="padim-keras"),
        make_report(part="supervised test"),
        make_report(settings={"channels": 50}),
        make_report(seeds=[0, 1]),
        autoencoder_report(),
        autoencoder_report(method="vae"),
        autoencoder_report({"latent": 32}),
    ]
    paths = {published.record(report) for report in reports}
    assert len(paths) == len(published.measured()) == len(reports)
    assert any(path.name.startswith("mvtec_ad-bottle-vae-none-") for path in paths)


def test_a_record_comes_back_and_is_replaced_by_a_newer_one(own_home: Path) -> None:
    """The same measurement once; with the device of this machine and today's date, unless the report knows better."""
    published.record(make_report(0.90, 0.92))
    path = published.record(make_report(0.97, 0.99))
    (record,) = published.measured()
    assert record["metrics"]["image_auroc"]["low"] == 0.97
    assert record["profile"] == "custom"
    assert {"date", "git_commit", "versions", "device"} <= set(record)
    known = {"profile": "full", "device": "a GPU", "git_commit": "abc", "date": "2020-01-01", "versions": {}}
    published.record(make_report(**known))
    (record,) = published.measured()
    assert {key: record[key] for key in known} == known
    assert [file.name for file in (own_home / "transfer" / "results").iterdir()] == [path.name]


def test_a_record_names_no_folder_of_this_machine(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are named from where we stand, however they were given."""
    monkeypatch.chdir(own_home)
    paths = {published.record(make_report(settings={"weights": known})) for known in ("x.pth", str(own_home / "x.pth"))}
    (path,) = paths
    assert json.loads(path.read_text(encoding="utf-8"))["settings"]["weights"] == "x.pth"


FOREIGN = [
    {"metrics": {"accuracy": 1.0}},
    {"metrics": {"image_auroc": 1.0}},
    {"metrics": {**make_report()["metrics"], "pixel_auroc": {"mean": 1.0}}},
    {"metrics": []},
    {"settings": {}},
    {"settings": None},
]


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '"text"', "{", "null", *(json.dumps({**make_report(), **known}) for known in FOREIGN)]
)
def test_a_file_that_is_no_report_is_one_line(own_home: Path, text: str) -> None:
    """It names the file and the way out."""
    published.record(make_report())
    path = own_home / "transfer" / "results" / "foreign.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"foreign\.json (holds no report|cannot be read).*: remove it") as problem:
        published.measured()
    assert "\n" not in str(problem.value)


def save_reports(reports: list, stage: str = "padim") -> dict[str, Any]:
    """An artifact with reports, and its manifest."""
    about = {"profile": "quick", "data_source": "synthetic", "categories": ["bottle"], "options": {}, "seed": 0}
    return artifacts.load(artifacts.save(stage, {"reports.json": reports}, **about)).manifest


def test_artifacts_are_gathered_with_what_their_manifests_know(own_home: Path) -> None:
    """Profile, device, date, commit; reports of other shapes are none of ours."""
    known = make_report(data_source="synthetic")
    manifest = save_reports([known, make_report(data_source="synthetic", row="padim-keras", profile="full")])
    save_reports([{"views": {}}, "text", {**known, "metrics": {"accuracy": 1.0}}], "models")
    first, second = sorted(published.measured(), key=lambda report: "row" in report)
    assert {**first, **known} == first
    assert (first["artifact"], first["profile"], first["device"]) == ("padim.zip", "quick", manifest["device"])
    assert first["date"] == manifest["created_utc"][:10]
    assert first["git_commit"] == manifest["git_commit"]
    assert second["profile"] == "full"


# --- publishing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(own_home: Path) -> Path:
    """A docs/results.md with a place for the tables, and the folder of results.json."""
    (own_home / "assets").mkdir()
    (own_home / "docs").mkdir()
    path = own_home / "docs" / "results.md"
    path.write_text(f"# Title\n\nbefore\n{START}\nold table\n{END}\nafter, ä\n", encoding="utf-8")
    return path


def test_publishing_and_reading_back(own_home: Path, page: Path) -> None:
    """The table stands between its marks and nothing else changes; again, and nothing changes at all."""
    published.record(make_report())
    published.record(make_report(data_source="synthetic", category="screw"))
    published.publish(published.measured())
    text = page.read_text(encoding="utf-8")
    assert text == f"# Title\n\nbefore\n{START}\n{published.tables(published.measured())}\n{END}\nafter, ä\n"
    assert json.loads((own_home / "assets" / "results.json").read_text(encoding="utf-8")) == published.measured()
    published.publish(published.measured())
    assert page.read_text(encoding="utf-8") == text


def test_publishing_writes_whole_files(own_home: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed while it writes leaves results.md and results.json as they were."""
    figures = own_home / "assets" / "results.json"
    figures.write_text("[]", encoding="utf-8")
    before = page.read_text(encoding="utf-8")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            published.publish([make_report()])
    assert page.read_text(encoding="utf-8") == before
    assert figures.read_text(encoding="utf-8") == "[]"
    assert sorted(path.name for path in own_home.rglob("*")) == ["assets", "docs", "results.json", "results.md"]


def test_own_measurements_replace_the_published_ones_and_both_win_over_artifacts(own_home: Path, page: Path) -> None:
    """What a notebook measured in passing is shown by `results`, and never published."""
    save_reports([make_report(0.5, 0.6), make_report(0.5, 0.6, category="screw")])
    with pytest.raises(DataError, match="nothing has been measured"):
        published.publish(published.measured())
    committed = [make_report(0.7, 0.8), make_report(0.7, 0.8, category="cable")]
    (own_home / "assets" / "results.json").write_text(json.dumps(committed), encoding="utf-8")
    lows = {report["category"]: report["metrics"]["image_auroc"]["low"] for report in published.measured()}
    assert lows == {"bottle": 0.7, "screw": 0.5, "cable": 0.7}
    published.record(make_report(0.97, 0.99))
    record = {report["category"]: report for report in published.measured()}
    lows = {category: report["metrics"]["image_auroc"]["low"] for category, report in record.items()}
    assert lows == {"bottle": 0.97, "screw": 0.5, "cable": 0.7}
    assert "artifact" not in record["bottle"]
    assert record["screw"]["artifact"] == "padim.zip"
    published.publish(published.measured())
    assert json.loads((own_home / "assets" / "results.json").read_text(encoding="utf-8")) == [
        record["bottle"],
        record["cable"],
    ]
    assert "screw" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["no marks", f"only {START}", f"only {END}", f"{END} the wrong way round {START}", None]
)
def test_a_page_without_a_place_is_left_alone(own_home: Path, page: Path, text: str | None) -> None:
    """Nothing is written, neither the table nor the figures."""
    page.unlink() if text is None else page.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.md has no lines"):
        published.publish([make_report()])
    assert list((own_home / "assets").iterdir()) == []
    assert text is None or page.read_text(encoding="utf-8") == text


def test_the_committed_table_is_that_of_the_committed_figures(project: Path) -> None:
    """docs/results.md is what `results --publish` would write of assets/results.json."""
    reports = json.loads((project / "assets" / "results.json").read_text(encoding="utf-8"))
    text = (project / "docs" / "results.md").read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert text == f"\n{published.tables(reports)}\n"
    assert [published._name(report) for report in reports] == sorted({published._name(report) for report in reports})


def test_committed_figures_are_of_options_that_there_are(project: Path) -> None:
    """So that measuring the same again replaces them."""
    for report in json.loads((project / "assets" / "results.json").read_text(encoding="utf-8")):
        assert "seeds" not in report["settings"]
        if report["method"] in METHODS:
            assert detector_class(report["method"]).from_options(report["settings"]).options() == report["settings"]
