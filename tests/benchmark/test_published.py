"""Measured beside published: a verdict only where the two can be compared; what is kept, shown and published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvtec_ad import artifacts
from mvtec_ad.benchmark import published
from mvtec_ad.errors import DataError
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.methods.classifier import Classifier

START, END = "<!-- results: start -->", "<!-- results: end -->"
ROW = {
    "method": "padim",
    "backbone": "resnet18",
    "category": "bottle",
    "metric": "image_auroc",
    "value": 0.98,
    "detail": "100 channels",
    "source": "somebody's README",
    "image_size": 256,
    "crop": 224,
    "channels": 100,
}


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
    ("report", "row", "expected"),
    [
        (make_report(0.97, 1.0), {}, "reproduced"),
        (make_report(0.98, 1.0), {}, "reproduced"),
        (make_report(0.90, 0.98), {}, "reproduced"),
        (make_report(0.985, 1.0), {}, "above"),
        (make_report(0.90, 0.97), {}, "below"),
        (make_report(weights="resnet18_in1k_to_layer3.pth (SHA-256 0123456789ab…)"), {}, "reproduced"),
        (make_report(data_source="synthetic"), {}, "not comparable: other images"),
        (make_report(data_source="own"), {}, "not comparable: other images"),
        (make_report(part="supervised test"), {}, "not comparable: other images"),
        (make_report(weights="random (seed 0)"), {}, "not comparable: other weights"),
        (make_report(weights="synthetic"), {}, "not comparable: other weights"),
        (make_report(settings={"crop": 256}), {}, "not comparable: other protocol"),
        (make_report(settings={"image_size": 224}), {}, "not comparable: other protocol"),
        (make_report(settings={"channels": 550}), {}, "not comparable: other protocol"),
        (make_report(backbone="wide_resnet50_2"), {}, "not comparable: other protocol"),
        (make_report(), {"crop": None}, "not comparable: protocol not stated"),
    ],
)
def test_verdicts(report: dict, row: dict, expected: str) -> None:
    """Backbone, channels, crop and size must match; then the interval decides."""
    stated = {key: value for key, value in {**ROW, **row}.items() if value is not None}
    assert published.verdict(report, stated) == expected


def test_every_published_figure_has_its_source() -> None:
    """And a value that an AUC or an accuracy can have; a protocol is stated in full or not at all."""
    rows = published.published()
    assert len(rows) > 200
    for row in rows:
        assert row["method"] == row["method"].lower() != ""
        assert row["metric"]
        assert row["category"]
        assert "backbone" in row
        assert len(row["source"]) > 5
        assert 0 < row["value"] <= 1
        stated = {"image_size", "crop", "channels"} & set(row)
        assert stated in (set(), {"image_size", "crop", "channels"})
        if stated:
            assert row["crop"] <= row["image_size"]


def test_published_figures_are_those_of_the_shared_file(shared: Callable[[str], Path]) -> None:
    """The package carries what the project was given, unchanged, and adds stated protocols and rows at the end."""
    theirs = json.loads(shared("reported.json").read_text(encoding="utf-8"))["rows"]
    added = {"image_size", "crop", "channels"}
    known = published.published()[: len(theirs)]
    assert [{key: value for key, value in row.items() if key not in added} for row in known] == [
        {key: value for key, value in row.items() if key not in added} for row in theirs
    ]


def test_published_figures_of_a_report() -> None:
    """Same method, backbone, category and metric, all of them; none for images that no paper has."""
    keys = ("method", "backbone", "category", "metric")
    wanted = ("padim", "resnet18", "bottle", "image_auroc")
    rows = published.published_for(make_report())
    assert 0.996 in [row["value"] for row in rows]  # the well-known one
    assert rows == [row for row in published.published() if tuple(row[key] for key in keys) == wanted]
    for other in ({"category": "part"}, {"part": "supervised test"}, {"protocol": "supervised"}):
        assert published.published_for(make_report(**other)) == []


# --- tables -----------------------------------------------------------------------------------------------------------


def test_verdicts_of_reports() -> None:
    """A line for each published figure of the last metric; other images get one that says why there is none."""
    reports = [make_report(), make_report(data_source="synthetic"), make_report(backbone="unheard-of")]
    table = published.verdicts(reports, by="backbone", metrics=("au_pro", "image_auroc"))
    assert list(table.columns) == ["category", "backbone", "AUPRO", "image AUROC", "reported image AUROC", "verdict"]
    peers = published.published_for(make_report())
    assert len(peers) > 1
    assert table["verdict"].tolist() == [
        *(published.verdict(make_report(), row) for row in peers),
        "not comparable: synthetic images",
        "no published peer",
    ]
    assert set(table["AUPRO"]) == {".985 [.970, 1.000]"}
    for reported, row in zip(table["reported image AUROC"], peers, strict=False):
        assert reported.startswith(f"{row['value']:.3f}".lstrip("0"))
        assert row["detail"] in reported
    assert table["reported image AUROC"].tolist()[-2:] == ["–", "–"]


@pytest.mark.parametrize("source", ["synthetic", "own"])
def test_real_and_other_images_never_share_a_table(source: str) -> None:
    """Published figures with their source and verdict stand beside real images only; without maps a dash, no zero."""
    other = make_report(0.5, 0.7, data_source=source)
    other["metrics"] = {"image_auroc": other["metrics"]["image_auroc"]}
    first, second = published.tables([other, make_report(0.985, 0.999)]).split("\n\n")
    assert "reproduced" in first
    assert f"({source})" not in first
    assert f"256→224 px ({source}) | .600 [.500, .700] | – | – |" in second
    for words in ("verdict", "published", "reproduced"):
        assert words not in second
    for row in published.published_for(make_report()):
        assert row["source"] in first
        assert row["source"] not in second
        assert f"{row['value']:.3f}"[1:] not in second
    assert "evaluate padim" in published.tables([])


def test_sources_with_a_pixel_auroc_only() -> None:
    """A line each, with a dash where they have no image AUROC; none is left out and none named twice."""
    sources = [r for r in published.published() if r["method"] == "autoencoder" and r["category"] == "bottle"]
    assert {row["metric"] for row in sources} == {"pixel_auroc"}
    assert len(sources) == 2
    first, second = rows_of(published.tables([autoencoder_report()]))
    for cells, row in zip((first, second), sources, strict=True):
        assert cells[4] == f"– / {row['value']:.3f} ({row['source']}: {row['detail']})".replace("0.", ".", 1)
        assert cells[5] == "not comparable: protocol not stated"
    assert first[1] == ".700 [.600, .800]"
    assert second[:4] == [""] * 4


def test_sources_of_one_metric_stand_beside_those_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sources: both metrics, the image AUROC alone, the pixel AUROC alone; the verdict is of the one shown."""
    rows = [
        {**ROW, "source": "both"},
        {**ROW, "source": "both", "metric": "pixel_auroc", "value": 0.95},
        {**ROW, "source": "image alone", "value": 0.9},
        {**ROW, "source": "pixel alone", "metric": "pixel_auroc", "value": 0.99},
    ]
    monkeypatch.setattr(published, "published", lambda: rows)
    report = make_report(0.97, 1.0)
    report["metrics"]["pixel_auroc"] = {**report["metrics"]["pixel_auroc"], "low": 0.5, "mean": 0.6, "high": 0.7}
    assert [row[4:] for row in rows_of(published.tables([report]))] == [
        [".980 / .950 (both: 100 channels)", "reproduced"],
        [".900 (image alone: 100 channels)", "above"],
        ["– / .990 (pixel alone: 100 channels)", "below"],
    ]


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
    assert other.startswith("| Other images | image AUROC | pixel AUROC | AUPRO |")
    columns = "image AUROC | AP | F1-max | false alarms at 95 % detection | pixel AUROC | AUPRO | fit s | ms / image |"
    assert real.startswith(f"| Real MVTec AD, the same test images for all | {columns}")
    assert synthetic.startswith(f"| Other images, the same for all | {columns}")
    first, second = rows_of(real)
    assert first[1:] == [".600 [.400, .800]"] * 5 + ["–", "0.12", "26"]
    assert second[-2:] == ["–", "–"]
    assert len(rows_of(synthetic)) == 1
    assert "(synthetic)" in synthetic
    assert "published" not in real + synthetic
    assert rows_of(published.tables([classifier_report()]))[0][4:] == ["–", "no published peer"]


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
