"""Sweeps: what a row says, what a cell keeps, and the same numbers however a sweep was run, killed or gathered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad import transfer
from mvtec_ad.__main__ import main
from mvtec_ad.data import index, splits
from mvtec_ad.errors import ArtifactError, SettingsError, WeightsError
from mvtec_ad.methods import experiment
from mvtec_ad.results import measured
from mvtec_ad.settings import KERAS_RECIPE, AutoencoderSettings, ClassifierSettings, PadimSettings
from mvtec_ad.sweep import Row, cells, engine, gather, parse_row, parse_rows

Maker = Callable[..., Path]
PADIM = "padim,weights=random,channels=8,image_size=32,sigma=1,name=padim-small"
DRAWING = "autoencoder,steps=4,image_size=32,width=4,latent=8,name=drawing"
KEYS = [
    (category, row, seed) for category in ("part", "piece") for row in ("padim-small", "drawing") for seed in (0, 3)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """Two small categories with masks."""
    folder = tmp_path_factory.mktemp("images")
    make_category(folder, "piece", train=8, test_good=4, defects={"patch": 4}, size=32, seed=1)
    return make_category(folder, "part", train=8, test_good=4, defects={"patch": 4}, size=32)


def command(root: Path, *more: str) -> list[str]:
    """Eight cells, in this process unless `more` says otherwise."""
    where = ["--root", str(root), "--category", "part", "piece", "--seeds", "0", "3"]
    return ["sweep", PADIM, DRAWING, *where, "--false-alarm-rate", "0.3", "--jobs", "1", *more]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nothing disturbed."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVTEC_AD_HOME", str(home))
        assert main(command(root)) == 0
    return home / "transfer" / "sweeps" / "default"


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Keys of the cells that are measured in this process from now on."""
    keys: list[tuple[str, str, int]] = []
    run_cell = cells.run_cell

    def counted(cell: cells.Cell) -> cells.Outcome:
        keys.append(cell.key)
        return run_cell(cell)

    monkeypatch.setattr(engine, "run_cell", counted)
    return keys


def zips(folder: Path) -> dict[str, Path]:
    """All cells below a folder, by their place."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.zip"))}


def assert_same_numbers(folder: Path, other: Path) -> None:
    """Scores, maps, good scores and masks, byte by byte."""
    assert list(zips(folder)) == list(zips(other))
    for place, path in zips(folder).items():
        one, two = transfer.load(path), transfer.load(other / place)
        assert one.names == two.names
        for name in one.names:
            assert name == "reports.json" or one.read(name) == two.read(name), (place, name)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("padim", Row("padim", "padim", PadimSettings())),
        ("padim:keras", Row("padim-keras", "padim", KERAS_RECIPE)),
        (
            "autoencoder,loss=ssim,steps=300",
            Row("autoencoder-loss-ssim-steps-300", "autoencoder", AutoencoderSettings(loss="ssim", steps=300)),
        ),
        ("padim,image_size=64", Row("padim-image_size-64", "padim", PadimSettings(image_size=64, crop=64))),
        ("padim,image_size=64,crop=32,name=a.B_+1", Row("a.B_+1", "padim", PadimSettings(image_size=64, crop=32))),
        (
            "padim,backbone=keras:resnet50,feature_scale=0.5",
            Row(
                "padim-backbone-keras-resnet50-feature_scale-0.5",
                "padim",
                PadimSettings(backbone="keras:resnet50", feature_scale=0.5),
            ),
        ),
        ("padim,feature_scale=none", Row("padim-feature_scale-none", "padim", PadimSettings())),
        (
            "classifier,pyramid=1/2,mirror=FALSE",
            Row("classifier-pyramid-1-2-mirror-FALSE", "classifier", ClassifierSettings(pyramid=(1, 2), mirror=False)),
        ),
        ("inspector", Row("inspector", "inspector", ClassifierSettings())),
    ],
)
def test_a_row_is_read(text: str, row: Row) -> None:
    """Method, preset, fields by their types, and a name made of what was given."""
    assert parse_row(text) == row


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("padin", "method 'padin' is unknown: use one of padim, autoencoder"),
        ("padim:kears", "padim has no preset 'kears': use one of resnet18"),
        ("padim:", "padim has no preset ''"),
        ("padim,", "'' is no setting"),
        ("padim,channels", "'channels' is no setting"),
        ("padim,=4", "'=4' is no setting"),
        ("padim,chanels=4", "there is no setting chanels: use name or backbone, weights, channels"),
        ("padim,channels=4,channels=5", "channels is given twice"),
        ("padim,channels=many", "channels 'many' must be a whole number"),
        ("padim,channels=none", "channels 'none' must be a whole number"),
        ("padim,sigma=nan", "sigma 'nan' must be a number"),
        ("padim,feature_scale=x", "feature_scale 'x' must be a number or none"),
        ("patchcore,layers=1-2", "layers '1-2' must be whole numbers as 1/2/3"),
        ("classifier,mirror=1", "mirror '1' must be true or false"),
        ("padim,channels=0", "row padim,channels=0: channels 0 must be at least 1"),
        ("padim,seeds=1", "with --seeds"),
        ("padim,name=../up", "name '../up' is no file name"),
        ("padim,name=.", "name '.' is no file name"),
        ("padim,name=é", "name 'é' is no file name"),
    ],
)
def test_a_wrong_row_is_one_line(text: str, message: str) -> None:
    """It names the row, what is wrong in it and the way out."""
    with pytest.raises(SettingsError, match=r"^[^\n]+$") as raised:
        parse_row(text)
    assert message in str(raised.value)
    assert str(raised.value).startswith("row " + text)


def test_weights_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is made absolute, and its file's name names the row; a missing file is noticed before anything runs."""
    (tmp_path / "own weights.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    row = parse_row("padim,weights=./own weights.pth")
    assert (row.name, row.settings.weights) == ("padim-weights-own-weights", str(tmp_path / "own weights.pth"))
    with pytest.raises(WeightsError, match=r"row padim,weights=x\.pth: weights 'x\.pth': not a file"):
        parse_row("padim,weights=x.pth")


def test_rows_need_names_of_their_own() -> None:
    """Also where only capitals differ, for file systems that do not see these."""
    assert [row.name for row in parse_rows(["padim", "padim,name=other"])] == ["padim", "other"]
    for second in ("padim", "vae,name=PADIM"):
        with pytest.raises(SettingsError, match="have the same name"):
            parse_rows(["padim", second])


def test_a_cell_keeps_what_comparisons_read(root: Path, whole: Path) -> None:
    """One zip a cell; scores, maps and report are those of the method with this seed alone, in one thread."""
    assert list(zips(whole)) == sorted("{}/{}/{}.zip".format(*key) for key in KEYS)
    row = parse_row(PADIM)
    table = index.read_category(root, "piece")
    with cells.one_thread():
        settings = replace(row.settings, seeds=(3,))
        options = {"data_source": "own", "false_alarm_rate": 0.3, "progress": False}
        alone = experiment.run("padim", table, settings, **options)
    kept = transfer.load(whole / "piece" / "padim-small" / "3.zip")
    scores = kept.table("scores.csv")
    assert list(scores.columns[:6]) == ["image_id", "split", "method", "seed", "label", "score"]
    assert set(scores["method"]) == {"padim-small"}
    np.testing.assert_array_equal(scores["score"].to_numpy(np.float32), alone.trials[0].scores.image)
    assert list(scores["image_id"]) == list(alone.test["image_id"])
    maps = kept.arrays("piece/padim-small/3/maps.npz")["maps"]
    assert maps.dtype == np.float16
    np.testing.assert_array_equal(maps, alone.trials[0].scores.maps.astype(np.float16))
    (report,) = kept.json("reports.json")
    assert (report["row"], report["method"], report["seeds"]) == ("padim-small", "padim", [3])
    assert report["metrics"] == alone.report["metrics"]
    assert report["ms_per_image"] == pytest.approx(report["seconds"]["score"] * 1000 / 8)
    # of each of 8 × 8 positions a mean of 8, and half or all of an 8 × 8 factor; the 8 channels
    assert 64 * (8 + 36) * 4 <= report["model_bytes"] - 8 * 8 <= 64 * (8 + 64) * 4


def test_gathered_is_as_measured_together(root: Path, whole: Path) -> None:
    """All seeds in one experiment: image metrics and thresholds are equal, pixel metrics nearly (float16)."""
    reports = {(report["category"], report["row"]): report for report in gather(whole)}
    assert set(reports) == {key[:2] for key in KEYS}
    for text in (PADIM, DRAWING):
        row = parse_row(text)
        settings = replace(row.settings, seeds=(0, 3))
        options = {"data_source": "own", "false_alarm_rate": 0.3, "progress": False}
        with cells.one_thread():
            together = experiment.run(row.method, index.read_category(root, "part"), settings, **options).report
        found = reports["part", row.name]
        for name, metric in together["metrics"].items():
            tolerance = 1e-3 if name in ("pixel_auroc", "pixel_ap", "au_pro") else 1e-12
            for key, value in metric.items():
                assert found["metrics"][name][key] == pytest.approx(value, abs=tolerance), (name, key)
        for kind, point in together["thresholds"].items():
            assert found["thresholds"][kind] == pytest.approx(point, rel=1e-6)
        for key in ("seeds", "settings", "images", "trivial", "weights", "backbone", "data_source", "false_alarm_rate"):
            assert found[key] == together[key], key
        assert set(together) <= set(found)
        cell = transfer.load(whole / "part" / row.name / "3.zip").manifest
        assert (found["git_commit"], found["date"]) == (str(cell["git_commit"]), cell["created_utc"][:10])


def test_the_overview_says_what_the_reports_say(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each category and row, in the order asked for; and `results` knows them all."""
    table = pd.read_csv(whole / "summary.csv")
    assert list(zip(table["category"], table["row"], strict=True)) == list(dict.fromkeys(key[:2] for key in KEYS))
    assert set(table["seeds"]) == {"0 3"}
    for report in gather(whole):
        own = table[(table["category"] == report["category"]) & (table["row"] == report["row"])].iloc[0]
        assert own["image_auroc"] == pytest.approx(report["metrics"]["image_auroc"]["mean"])
        assert own["au_pro_low"] == pytest.approx(report["metrics"]["au_pro"]["low"])
        parts = [transfer.load(path).json("reports.json")[0] for path in (whole / report["category"]).rglob("*.zip")]
        fit = sum(part["seconds"]["fit"] for part in parts if part["row"] == report["row"])
        assert own["fit_seconds"] == pytest.approx(fit)
    monkeypatch.setenv("MVTEC_AD_HOME", str(whole.parents[2]))
    found = measured()
    assert {(report["category"], report["row"]) for report in found if "part" not in report} == {
        key[:2] for key in KEYS
    }


def test_all_rows_meet_on_the_same_images(root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the official test: every row, and the trivial ones, on the supervised test part, by scikit-learn."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(whole.parents[2]))
    shared = {(report["category"], report["row"]): report for report in measured() if "part" in report}
    assert {key[:2] for key in KEYS} | {("part", "pixel_z_score")} < set(shared)
    cut = splits.supervised(index.read_category(root, "part"), seed=0)
    images = list(cut.loc[cut["part"] == "test", "image_id"])
    values = []
    for seed in (0, 3):
        scores = transfer.load(whole / "part" / "padim-small" / f"{seed}.zip").table("scores.csv").set_index("image_id")
        values.append(roc_auc_score(scores.loc[images, "label"], scores.loc[images, "score"]))
    assert shared["part", "padim-small"]["metrics"]["image_auroc"]["values"] == pytest.approx(values)


KILLED = """
import os, signal, sys
from mvtec_ad.__main__ import main

replace, kept = os.replace, []

def third_is_the_last(old, new):
    if str(new).endswith(".zip"):
        kept.append(new)
        if len(kept) == 4:  # written, but not yet in its place
            os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

os.replace = third_is_the_last
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="processes are killed as POSIX does it")
def test_killed_and_started_again_it_measures_the_rest(
    root: Path, whole: Path, own_home: Path, count: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """By SIGKILL: the numbers are those of the sweep that ran through, and what was done is not touched."""
    child = subprocess.run([sys.executable, "-c", KILLED, *command(root)], capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    folder = own_home / "transfer" / "sweeps" / "default"
    done = {place: path.stat().st_mtime_ns for place, path in zips(folder).items()}
    assert len(done) == 3
    assert main(command(root)) == 0
    assert len(count) == 5
    assert not {"{}/{}/{}.zip".format(*key) for key in count} & set(done)
    assert {place: zips(folder)[place].stat().st_mtime_ns for place in done} == done
    assert "3 of 8 cells are finished already" in capsys.readouterr().out
    assert list(folder.rglob("*.tmp")) == []
    assert_same_numbers(folder, whole)
    assert main(command(root)) == 0
    assert len(count) == 5
    assert "8 of 8 cells are finished already" in capsys.readouterr().out


def test_what_is_damaged_or_different_is_measured_again(
    root: Path,
    whole: Path,
    own_home: Path,
    count: list[tuple[str, str, int]],
    capsys: pytest.CaptureFixture[str],
    make_category: Maker,
) -> None:
    """A line says which cell and why; all others stay."""
    small = ["--category", "part", "--seeds", "0", "3", "--jobs", "1"]
    run = ["sweep", "--root", str(root), *small, "--false-alarm-rate", "0.3", "--"]
    folder = own_home / "transfer" / "sweeps" / "default"
    assert main([*run, PADIM]) == 0
    count.clear()
    path = folder / "part" / "padim-small" / "3.zip"
    path.write_bytes(path.read_bytes()[:-300])
    assert main([*run, PADIM]) == 0
    assert count == [("part", "padim-small", 3)]
    assert "part padim-small seed 3 is measured again: artifact" in capsys.readouterr().out
    assert transfer.load(path).read("scores.csv") == transfer.load(whole / "part/padim-small/3.zip").read("scores.csv")

    count.clear()
    assert main([*run, PADIM.replace("channels=8", "channels=9")]) == 0
    assert len(count) == 2
    assert "part padim-small seed 0 is measured again: other channels than now" in capsys.readouterr().out

    count.clear()  # only one seed with other settings: the other one is no part of what is gathered
    assert main(["sweep", PADIM, "--root", str(root), "--category", "part", "--seeds", "0", *run[8:-1]]) == 0
    assert len(count) == 1
    with pytest.raises(ArtifactError, match="different conditions"):
        gather(folder)

    count.clear()
    other = make_category(own_home / "other", "part", train=9, test_good=4, defects={"patch": 4}, size=32)
    assert main(["sweep", PADIM, "--root", str(other), "--category", "part", "--seeds", "0", *run[8:-1]]) == 0
    assert "seed 0 is measured again: other images than now" in capsys.readouterr().out


def test_a_failing_cell_does_not_cost_the_others(
    root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 images allow 12 % of false alarms; the autoencoder keeps only 4 to calibrate on."""
    arguments = ["--root", str(root), "--category", "part", "--seeds", "0", "1", "--jobs", "1"]
    assert main(["sweep", DRAWING, PADIM, *arguments, "--false-alarm-rate", "0.12", "--name", "two"]) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith(
        "mvtec-ad sweep: 2 of 4 cells could not be measured, first part drawing seed 0: a false-alarm"
    )
    assert captured.out.count("failed: a false-alarm rate of 0.12 needs at least 8 good images") == 2
    folder = own_home / "transfer" / "sweeps" / "two"
    assert list(zips(folder)) == ["part/padim-small/0.zip", "part/padim-small/1.zip"]
    assert list(pd.read_csv(folder / "summary.csv")["row"]) == ["padim-small"]


def test_processes_give_the_same_numbers(root: Path, whole: Path, own_home: Path) -> None:
    """Two at once."""
    assert main(command(root, "--jobs", "2")) == 0
    assert_same_numbers(own_home / "transfer" / "sweeps" / "default", whole)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed", "ignore::DeprecationWarning:dask")
def test_a_cluster_gives_the_same_numbers(root: Path, whole: Path, own_home: Path) -> None:
    """Dask workers measure and send back; this process writes."""
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        assert main(command(root, "--scheduler", cluster.scheduler_address)) == 0
    assert_same_numbers(own_home / "transfer" / "sweeps" / "default", whole)


def test_what_a_cluster_lacks_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dask itself, or a scheduler that can be understood."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        assert main(command(root, "--scheduler", "tcp://127.0.0.1:1")) == 2
        assert 'python -m pip install "dask[distributed]"' in capsys.readouterr().err
    pytest.importorskip("distributed")
    assert main(command(root, "--scheduler", "nonsense://127.0.0.1:1")) == 2
    assert "no Dask scheduler answers at nonsense://127.0.0.1:1" in capsys.readouterr().err.splitlines()[-1]


def test_what_a_user_can_mend_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    for more, message in [
        (["--category", "prat"], "it holds part, piece"),
        (["--category", "../part"], "'../part' is no folder's name"),
        (["--seeds", "-1"], "seed -1 is negative"),
        (["--jobs", "0"], "0 jobs measure nothing"),
        (["--name", "a/b"], "--name 'a/b' is no file name"),
        (["--false-alarm-rate", "2"], "false-alarm rate"),
    ]:
        assert main([*command(root), *more]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_one_thread_and_back() -> None:
    """The caller's own number of threads is restored, also after a failure."""
    import torch

    def fail() -> None:
        with cells.one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError):
            fail()
        assert torch.get_num_threads() == 3
        assert "TF_NUM_INTRAOP_THREADS" not in os.environ
    finally:
        torch.set_num_threads(before)


def test_supervised_rows_are_gathered_on_their_part(root: Path, own_home: Path) -> None:
    """The classifier is tested on the supervised test part, and promises no false-alarm rate."""
    row = "classifier,weights=random,image_size=32,steps=2,batch=4,look=whole,pyramid=1,name=classifier"
    where = ["--root", str(root), "--category", "part", "--seeds", "0", "1", "--jobs", "1"]
    assert main(["sweep", row, *where, "--false-alarm-rate", "0.3"]) == 0
    folder = own_home / "transfer" / "sweeps" / "default"
    assert [own["part"] for own in measured() if own["method"] == "classifier"] == ["supervised test"]
    (report,) = gather(folder)
    assert (report["protocol"], report["thresholds"], report["seeds"]) == ("supervised", {}, [0, 1])
    kept = [transfer.load(path).json("reports.json")[0] for path in zips(folder).values()]
    values = [own["metrics"]["image_auroc"]["mean"] for own in kept]
    assert report["metrics"]["image_auroc"]["values"] == pytest.approx(values)
    scores = transfer.load(folder / "part" / "classifier" / "0.zip").table("scores.csv")
    assert len(scores) == report["images"]["good"] + report["images"]["defective"] < 16
