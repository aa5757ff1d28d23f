"""Measured beside published: a verdict only where the two can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvtec_ad import results, transfer
from mvtec_ad.errors import DataError
from mvtec_ad.settings import PRESETS, ClassifierSettings, as_dict

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
    own = {
        "method": "padim",
        "category": "bottle",
        "data_source": "mvtec_ad",
        "backbone": "resnet18",
        "weights": "IMAGENET1K_V1",
        "seeds": [0],
        "settings": {"image_size": 256, "crop": 224, "channels": 100} | (settings or {}),
        "metrics": dict.fromkeys(("image_auroc", "pixel_auroc", "au_pro"), metric),
    }
    return own | changes


@pytest.mark.parametrize(
    ("report", "row", "expected"),
    [
        (make_report(0.97, 1.0), {}, "reproduced"),
        (make_report(0.98, 1.0), {}, "reproduced"),
        (make_report(0.90, 0.98), {}, "reproduced"),
        (make_report(0.985, 1.0), {}, "above"),
        (make_report(0.90, 0.97), {}, "below"),
        (make_report(weights="resnet18_in1k_to_layer3.pth (SHA-256 0123456789ab…)"), {}, "reproduced"),
        (make_report(data_source="rendered"), {}, "not comparable: other images"),
        (make_report(data_source="own"), {}, "not comparable: other images"),
        (make_report(weights="random (seed 0)"), {}, "not comparable: other weights"),
        (make_report(weights="drawn"), {}, "not comparable: other weights"),
        (make_report(settings={"crop": 256}), {}, "not comparable: other protocol"),
        (make_report(settings={"image_size": 224}), {}, "not comparable: other protocol"),
        (make_report(settings={"channels": 550}), {}, "not comparable: other protocol"),
        (make_report(backbone="wide_resnet50_2"), {}, "not comparable: other protocol"),
        (make_report(), {"crop": None}, "not comparable: protocol not stated"),
    ],
)
def test_verdicts(report: dict, row: dict, expected: str) -> None:
    """Backbone, channels, crop and size must match; then the interval decides."""
    published = {key: value for key, value in {**ROW, **row}.items() if value is not None}
    assert results.verdict(report, published) == expected


def test_the_metric_of_the_row_is_compared() -> None:
    """Not always the image AUROC."""
    report = make_report()
    report["metrics"]["pixel_auroc"] = {**report["metrics"]["pixel_auroc"], "low": 0.5, "mean": 0.6, "high": 0.7}
    assert results.verdict(report, {**ROW, "metric": "pixel_auroc"}) == "below"


def test_every_published_figure_has_its_source() -> None:
    """And a value that an AUC or an accuracy can have; a protocol is stated in full or not at all."""
    rows = results.reported()
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


def test_published_figures_of_a_report() -> None:
    """Same method, backbone, category and metric, all of them; the well-known .996 is one."""
    rows = results.published_for(make_report())
    assert {(row["method"], row["backbone"], row["category"], row["metric"]) for row in rows} == {
        ("padim", "resnet18", "bottle", "image_auroc")
    }
    assert 0.996 in [row["value"] for row in rows]
    assert len(rows) == sum(
        (row["method"], row["backbone"], row["category"], row["metric"])
        == ("padim", "resnet18", "bottle", "image_auroc")
        for row in results.reported()
    )
    assert results.published_for(make_report(category="part")) == []


def test_published_figures_are_those_of_the_shared_file(shared: Callable[[str], Path]) -> None:
    """The package carries what the project was given, unchanged; it adds the protocol where a source states one."""
    theirs = json.loads(shared("reported.json").read_text(encoding="utf-8"))["rows"]
    added = {"image_size", "crop", "channels"}
    own = results.reported()
    assert [{key: value for key, value in row.items() if key not in added} for row in own] == [
        {key: value for key, value in row.items() if key not in added} for row in theirs
    ]


def test_published_figures_stand_beside_real_images() -> None:
    """With their source and the verdict, one line each."""
    text = results.tables([make_report(0.985, 0.999)])
    assert ".985, .999" in text
    assert "reproduced" in text
    for row in results.published_for(make_report()):
        assert row["source"] in text


@pytest.mark.parametrize("source", ["rendered", "own"])
def test_published_figures_never_stand_beside_other_images(source: str) -> None:
    """Neither a value, nor a source, nor a verdict; the images are named."""
    text = results.tables([make_report(0.5, 0.7, data_source=source)])
    assert f"({source})" in text
    assert ".600 [.500, .700]" in text
    assert "verdict" not in text
    assert "published" not in text
    for row in results.published_for(make_report()):
        assert row["source"] not in text
        assert f"{row['value']:.3f}"[1:] not in text


def test_real_and_other_images_never_share_a_table() -> None:
    """Two tables, each with its own."""
    real, other = results.tables([make_report(data_source="rendered"), make_report()]).split("\n\n")
    assert "rendered" not in real
    assert "verdict" in real
    assert "(rendered)" in other
    assert "verdict" not in other


def test_without_maps_there_is_a_dash() -> None:
    """Not a zero."""
    report = make_report(data_source="own")
    report["metrics"] = {"image_auroc": report["metrics"]["image_auroc"]}
    assert results.tables([report]).splitlines()[-1].count("–") == 2


DRAWN = {"image_size": 128, "crop": 128, "loss": "ssim", "map": "ssim", "score": "peak", "latent": 64}


def autoencoder_report(**changes: Any) -> dict:
    """A report of a method without a network: no channels, and neither backbone nor weights."""
    return make_report(0.6, 0.8, **{"method": "autoencoder", "backbone": None, "weights": None, **changes}) | {
        "settings": DRAWN
    }


def rows_of(text: str) -> list[list[str]]:
    """Cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_sources_with_a_pixel_auroc_only() -> None:
    """A line each, with a dash where they have no image AUROC; none is left out and none named twice."""
    published = [row for row in results.reported() if row["method"] == "autoencoder" and row["category"] == "bottle"]
    assert {row["metric"] for row in published} == {"pixel_auroc"}
    assert len(published) == 2
    first, second = rows_of(results.tables([autoencoder_report()]))
    for cells, row in zip((first, second), published, strict=True):
        assert cells[4] == f"– / {row['value']:.3f} ({row['source']}: {row['detail']})".replace("0.", ".", 1)
        assert cells[5] == "not comparable: protocol not stated"
    assert first[1] == ".700 [.600, .800]"
    assert second[:4] == [""] * 4


def test_a_source_with_both_metrics_stands_in_one_line() -> None:
    """Its pixel AUROC beside its image AUROC, and not again below."""
    report = make_report(method="patchcore", backbone="wide_resnet50_2")
    report["settings"] = {"image_size": 256, "crop": 224, "coreset": 0.1}
    (row,) = rows_of(results.tables([report]))
    assert row[4].startswith("1.000 / .985 (amazon-science/patchcore-inspection")
    assert row[5] == "not comparable: protocol not stated"


def test_sources_of_one_metric_stand_beside_those_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sources: both metrics, the image AUROC alone, the pixel AUROC alone; the verdict is of the one shown."""
    rows = [
        {**ROW, "source": "both"},
        {**ROW, "source": "both", "metric": "pixel_auroc", "value": 0.95},
        {**ROW, "source": "image alone", "value": 0.9},
        {**ROW, "source": "pixel alone", "metric": "pixel_auroc", "value": 0.99},
    ]
    monkeypatch.setattr(results, "reported", lambda: rows)
    report = make_report(0.97, 1.0)
    report["metrics"]["pixel_auroc"] = {**report["metrics"]["pixel_auroc"], "low": 0.5, "mean": 0.6, "high": 0.7}
    assert [row[4:] for row in rows_of(results.tables([report]))] == [
        [".980 / .950 (both: 100 channels)", "reproduced"],
        [".900 (image alone: 100 channels)", "above"],
        ["– / .990 (pixel alone: 100 channels)", "below"],
    ]


@pytest.mark.parametrize(
    ("report", "title"),
    [
        (make_report(), "bottle: padim, resnet18, IMAGENET1K_V1, 100 channels, 256→224 px"),
        (make_report(settings={"crop": 256}), "bottle: padim, resnet18, IMAGENET1K_V1, 100 channels, 256 px"),
        (autoencoder_report(), "bottle: autoencoder, loss ssim, map ssim, score peak, latent 64, 128 px"),
        (
            autoencoder_report(method="vae", backbone="resnet18", weights="drawn"),
            "bottle: vae, resnet18, drawn, loss ssim, map ssim, score peak, latent 64, 128 px",
        ),
        (
            make_report(method="patchcore", settings={"coreset": 0.02}),
            "bottle: patchcore, resnet18, IMAGENET1K_V1, 2% coreset, 256→224 px",
        ),
    ],
)
def test_a_title_says_what_was_measured(report: dict, title: str) -> None:
    """Method, network where there is one, what the method's own settings are, pixels."""
    assert rows_of(results.tables([report]))[0][0] == title


@pytest.mark.parametrize("method", PRESETS)
def test_every_method_has_a_title(method: str) -> None:
    """From settings as an experiment writes them."""
    for settings in PRESETS[method].values():
        report = make_report(method=method, data_source="own") | {"settings": as_dict(settings)}
        assert rows_of(results.tables([report]))[0][0].startswith(f"bottle: {method}, ")


def test_records_of_several_methods_lie_beside_each_other() -> None:
    """Also where neither has a backbone; other settings are another measurement."""
    reports = [autoencoder_report(), autoencoder_report(method="vae"), make_report()]
    reports.append(autoencoder_report() | {"settings": {**DRAWN, "latent": 32}})
    paths = {results.record(report) for report in reports}
    assert len(paths) == 4
    assert len(results.measured()) == 4
    assert any(path.name.startswith("mvtec_ad-bottle-vae-none-") for path in paths)


def test_a_record_comes_back_and_is_replaced_by_a_newer_one(own_home: Path) -> None:
    """The same measurement once, others beside it."""
    results.record(make_report(0.90, 0.92))
    path = results.record(make_report(0.97, 0.99))
    results.record(make_report(settings={"channels": 50}))
    results.record(make_report(seeds=[0, 1]))
    found = results.measured()
    assert len(found) == 3
    (same,) = [report for report in found if report["settings"]["channels"] == 100 and report["seeds"] == [0]]
    assert same["metrics"]["image_auroc"]["low"] == 0.97
    assert {"date", "git_commit", "versions"} <= set(same)
    assert path.parent == own_home / "transfer" / "results"
    assert len(list(path.parent.iterdir())) == 3


def test_publishing_and_reading_back(own_home: Path) -> None:
    """The table stands between its marks and nothing else changes; again, and nothing changes at all."""
    (own_home / "assets").mkdir()
    readme = own_home / "README.md"
    readme.write_text(f"# Title\n\nbefore\n{START}\nold table\n{END}\nafter, ä\n", encoding="utf-8")
    results.record(make_report())
    results.record(make_report(data_source="rendered", category="screw"))
    results.publish(results.measured())
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    table, after = rest.split(END)
    assert before == "# Title\n\nbefore\n"
    assert after == "\nafter, ä\n"
    assert table.strip() == results.tables(results.measured())
    assert json.loads((own_home / "assets" / "results.json").read_text(encoding="utf-8")) == results.measured()
    results.publish(results.measured())
    assert readme.read_text(encoding="utf-8") == text


def test_own_measurements_replace_the_published_ones(own_home: Path) -> None:
    """What this machine measured wins; the rest comes with the suite."""
    (own_home / "assets").mkdir()
    committed = [make_report(0.5, 0.6), make_report(0.5, 0.6, category="screw")]
    (own_home / "assets" / "results.json").write_text(json.dumps(committed), encoding="utf-8")
    assert len(results.measured()) == 2
    results.record(make_report(0.97, 0.99))
    found = {report["category"]: report["metrics"]["image_auroc"]["low"] for report in results.measured()}
    assert found == {"bottle": 0.97, "screw": 0.5}


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        f"only {START}",
        f"only {END}",
        f"{END} the wrong way round {START}",
        None,
    ],
)
def test_a_readme_without_a_place_is_left_alone(own_home: Path, text: str | None) -> None:
    """Nothing is written, neither the table nor the figures."""
    (own_home / "assets").mkdir()
    if text is not None:
        (own_home / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="README"):
        results.publish([make_report()])
    assert list((own_home / "assets").iterdir()) == []
    assert text is None or (own_home / "README.md").read_text(encoding="utf-8") == text


def test_publishing_nothing_is_refused() -> None:
    """An empty table would erase the old one."""
    with pytest.raises(DataError, match="nothing has been measured"):
        results.publish([])


def classifier_report(**changes: Any) -> dict:
    """A report of a classifier: a network in its settings, no crop, the test part of the supervised split."""
    settings = as_dict(ClassifierSettings(weights="drawn"))
    own = make_report(method="classifier", protocol="supervised", backbone=None, weights=None)
    return own | {"settings": settings} | changes


@pytest.mark.parametrize(
    ("report", "title"),
    [
        (classifier_report(), "bottle: classifier, resnet18, drawn, look registered, 224 px, supervised test"),
        (
            classifier_report(method="inspector", part="supervised test"),
            "bottle: inspector, resnet18, drawn, look registered, 224 px",
        ),
        (
            classifier_report(backbone="resnet50", weights="ours (SHA-256 01…)", part="supervised test"),
            "bottle: classifier, resnet50, ours (SHA-256 01…), look registered, 224 px",
        ),
        (
            make_report(row="padim-keras", backbone="keras:resnet18"),
            "bottle: padim-keras, keras:resnet18, IMAGENET1K_V1, 100 channels, 256→224 px",
        ),
        (autoencoder_report(method="trivial", row="mean_intensity"), "bottle: mean_intensity, 128 px"),
    ],
)
def test_titles_of_rows_and_of_supervised_methods(report: dict, title: str) -> None:
    """The row's own name; what a classifier looks at; which images, where they are not the official ones."""
    assert rows_of(results.tables([report]))[0][0] == title


def test_other_images_than_the_official_have_no_published_peer() -> None:
    """Neither the test part of the supervised split, nor a method that has seen it otherwise."""
    assert results.published_for(make_report())
    assert results.published_for(make_report(part="supervised test")) == []
    assert results.published_for(make_report(protocol="supervised")) == []
    assert results.verdict(make_report(part="supervised test"), ROW) == "not comparable: other images"
    text = results.tables([classifier_report()])
    assert rows_of(text)[0][4:] == ["–", "no published peer"]


def test_methods_on_the_same_images_have_a_table_of_their_own() -> None:
    """Six metrics and two costs; real and rendered apart, and neither with the official ones; no published value."""
    costs = {"fit_seconds": 0.123, "milliseconds": 26.4, "memory_gb": None, "model_mb": None}
    part = {"part": "supervised test", "cost": costs}
    full = make_report(0.4, 0.8, **part)
    names = ("image_auroc", "image_ap", "f1_max", "false_alarms", "pixel_auroc")
    full["metrics"] = dict.fromkeys(names, full["metrics"]["image_auroc"])
    reports = [
        make_report(),
        make_report(data_source="rendered"),
        full,
        classifier_report(**{**part, "cost": {}}),
        classifier_report(data_source="rendered", **part),
    ]
    official, other, real, rendered = results.tables(reports).split("\n\n")
    assert "published" in official
    assert other.startswith("| Other images | image AUROC | pixel AUROC | AUPRO |")
    columns = "image AUROC | AP | F1-max | false alarms at 95 % detection | pixel AUROC | AUPRO | fit s | ms / image |"
    assert real.startswith(f"| Real MVTec AD, the same test images for all | {columns}")
    assert rendered.startswith(f"| Other images, the same for all | {columns}")
    first, second = rows_of(real)
    assert first[1:] == [".600 [.400, .800]"] * 5 + ["–", "0.12", "26"]
    assert second[-2:] == ["–", "–"]
    assert len(rows_of(rendered)) == 1
    assert "(rendered)" in rendered
    assert "published" not in real + rendered


def save_reports(reports: list[dict], stage: str = "padim") -> dict[str, Any]:
    """An artifact with reports, and its manifest."""
    about = {"profile": "quick", "data_source": "rendered", "categories": ["bottle"], "settings": {}, "seed": 0}
    return transfer.load(transfer.save(stage, {"reports.json": reports}, **about)).manifest


def test_artifacts_are_gathered_with_what_their_manifests_know(own_home: Path) -> None:
    """Profile, device, date, commit; reports of other shapes are none of ours."""
    own = make_report(data_source="rendered")
    manifest = save_reports([own, make_report(data_source="rendered", row="padim-keras", profile="full")])
    save_reports([{"views": {}}, "text", {**own, "metrics": {"accuracy": 1.0}}], "models")
    first, second = sorted(results.measured(), key=lambda report: "row" in report)
    assert {**first, **own} == first
    assert (first["artifact"], first["profile"], first["device"]) == ("padim.zip", "quick", manifest["device"])
    assert first["date"] == manifest["created_utc"][:10]
    assert first["git_commit"] == manifest["git_commit"]
    assert second["profile"] == "full"


def test_a_record_wins_over_an_artifact_and_only_records_are_published(own_home: Path) -> None:
    """What a notebook measured in passing is shown by `results`, and never published."""
    (own_home / "assets").mkdir()
    (own_home / "README.md").write_text(f"{START}\n{END}\n", encoding="utf-8")
    save_reports([make_report(0.5, 0.6), make_report(0.5, 0.6, category="screw")])
    with pytest.raises(DataError, match="nothing has been measured"):
        results.publish(results.measured())
    results.record(make_report(0.97, 0.99))
    found = {report["category"]: report for report in results.measured()}
    assert found["bottle"]["metrics"]["image_auroc"]["low"] == 0.97
    assert "artifact" not in found["bottle"]
    assert found["screw"]["artifact"] == "padim.zip"
    results.publish(results.measured())
    published = json.loads((own_home / "assets" / "results.json").read_text(encoding="utf-8"))
    assert published == [found["bottle"]]
    assert "screw" not in (own_home / "README.md").read_text(encoding="utf-8")


def test_a_record_says_where_it_was_made(own_home: Path) -> None:
    """The device of this machine and the profile, unless the report knows better; one file, no leftover."""
    path = results.record(make_report())
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["profile"] == "custom"
    assert kept["device"]
    again = json.loads(results.record(make_report(profile="full", device="a GPU")).read_text(encoding="utf-8"))
    assert (again["profile"], again["device"]) == ("full", "a GPU")
    measured_before = {"git_commit": "abc", "date": "2020-01-01", "versions": {}}
    kept = json.loads(results.record(make_report(**measured_before)).read_text(encoding="utf-8"))
    assert {key: kept[key] for key in measured_before} == measured_before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_parts_and_rows_are_measurements_of_their_own() -> None:
    """Neither replaces the official one of its method."""
    reports = [make_report(), make_report(row="padim-keras"), make_report(part="supervised test")]
    assert len({results.record(report) for report in reports}) == 3
    assert len(results.measured()) == 3
