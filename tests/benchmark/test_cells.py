"""`evaluate` of several rows: what a row says, what a cell holds, the same numbers however cells were run or killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mvtec_ad import artifacts, benchmark
from mvtec_ad.benchmark import Result, cells
from mvtec_ad.benchmark.cells import parse_row, parse_rows
from mvtec_ad.benchmark.published import measured
from mvtec_ad.cli import main
from mvtec_ad.config import Options
from mvtec_ad.data import index, splits
from mvtec_ad.errors import ArtifactError, DataError, SettingsError, WeightsError
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.padim import Padim

Maker = Callable[..., Path]
PADIM = "padim,backbone=resnet18,weights=random,channels=8,image_size=32,sigma=1,name=padim-small"
AUTOENCODER = "autoencoder,steps=4,image_size=32,width=4,latent=8,name=reconstruct"
CLASSIFIER = "classifier,weights=random,image_size=32,steps=0,batch_images=4,roi=whole,pyramid=1,name=classifier"
FLAGS = ["--backbone", "resnet18", "--weights", "random", "--channels", "8", "--image-size", "32", "--sigma", "1"]
KEYS = [(category, row) for category in ("part", "piece") for row in ("padim-small", "reconstruct")]
ZIPS = ["/".join(key) + ".zip" for key in KEYS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """Two small categories with masks."""
    folder, images = (
        tmp_path_factory.mktemp("images"),
        {"train": 8, "test_good": 8, "defects": {"patch": 8}, "size": 32},
    )
    make_category(folder, "piece", **images, seed=1)
    return make_category(folder, "part", **images)


def planned(
    root: Path, *rows: str, names: tuple[str, ...] = ("part", "piece"), promise: float = 0.3
) -> list[cells.Cell]:
    """Cells with seeds 0 and 3; four of them without rows."""
    tables = {name: (index.read_category(root, name), "own") for name in names}
    return cells.plan(parse_rows(rows or (PADIM, AUTOENCODER)), tables, (0, 3), promise)


def where(root: Path, *categories: str, promise: str = "0.3") -> list[str]:
    """Flags that every command here has: images, seeds, cells in this process."""
    images = ["--root", str(root), "--category", *(categories or ("part",))]
    return [*images, "--seeds", "0", "3", "--false-alarm-rate", promise, "--jobs", "1"]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The home of two rows on two categories that nothing disturbed, and what was printed."""
    home, printed = tmp_path_factory.mktemp("whole"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("MVTEC_AD_HOME", str(home))
        more = ["--name", "two", "--json", str(home / "reports.json")]
        assert main(["evaluate", PADIM, AUTOENCODER, *where(root, "part", "piece"), *more]) == 0
    return home, printed.getvalue()


@pytest.fixture
def folder(whole: tuple[Path, str]) -> Path:
    """Of the four cells of `whole`."""
    return whole[0] / "transfer" / "sweeps" / "two"


def zips(folder: Path) -> dict[str, Path]:
    """All cells below a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.zip"))}


def assert_same_numbers(folder: Path, other: Path) -> None:
    """Scores, maps, good scores and masks, byte by byte."""
    assert list(zips(folder)) == list(zips(other)) == ZIPS
    for place, path in zips(folder).items():
        first, second = artifacts.load(path), artifacts.load(other / place)
        assert first.names == second.names
        for name in first.names:
            assert name == "reports.json" or first.read(name) == second.read(name), (place, name)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("padim", "padim", Padim()),
        ("padim:keras", "padim-keras", Padim.preset("keras")),
        (
            "autoencoder,loss=ssim,steps=300",
            "autoencoder-loss-ssim-steps-300",
            replace(Autoencoder.preset(next(iter(Autoencoder.PRESETS))), loss="ssim", steps=300),
        ),
        ("padim,image_size=64", "padim-image_size-64", Padim(image_size=64, crop=64)),
        ("padim,image_size=64,crop=32,name=a.B_+1", "a.B_+1", Padim(image_size=64, crop=32)),
        (
            "padim,backbone=keras:resnet50,feature_scale=0.5",
            "padim-backbone-keras-resnet50-feature_scale-0.5",
            Padim(backbone="keras:resnet50", feature_scale=0.5),
        ),
        ("padim,feature_scale=none", "padim-feature_scale-none", Padim()),
        (
            "classifier,pyramid=1/2,hflip=FALSE",
            "classifier-pyramid-1-2-hflip-FALSE",
            Classifier(pyramid=(1, 2), hflip=False),
        ),
        ("inspector", "inspector", Classifier()),
    ],
)
def test_a_row_is_read(text: str, name: str, options: Options) -> None:
    """Method, preset, fields by their types, and a name made of what was given."""
    row = parse_row(text)
    assert (row.name, row.method) == (name, text.partition(",")[0].partition(":")[0])
    assert type(row.detector) is type(options)
    assert row.detector.options() == options.options()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("padin", "method 'padin' is unknown: use one of padim, patchcore"),
        ("padim:kears", "has no preset 'kears': use one of default"),
        ("padim:", "has no preset ''"),
        ("padim,", "'' is no option"),
        ("padim,channels", "'channels' is no option"),
        ("padim,=4", "'=4' is no option"),
        ("padim,chanels=4", "there is no option chanels: use name or image_size, crop"),
        ("padim,channels=4,channels=5", "channels is given twice"),
        ("padim,channels=many", "channels 'many' must be a whole number"),
        ("padim,sigma=nan", "sigma nan must be a finite number"),
        ("patchcore,layers=1-2", "layers '1-2' must be values as 1/2/3"),
        ("padim,channels=0", "row padim,channels=0: channels 0 must be 1 or more"),
        ("padim,seeds=1", "with --seeds"),
        ("classifier,seeds=1", "with --seeds"),
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


def test_weights_are_found_from_anywhere_and_count_by_content(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is made absolute, and its file's name names the row; a missing file is noticed before anything runs."""
    for name, content in (("own weights.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    row = parse_row("padim,weights=./own weights.pth")
    assert (row.name, row.detector.weights) == ("padim-weights-own-weights", str(tmp_path / "own weights.pth"))
    with pytest.raises(WeightsError, match=r"row padim,weights=x\.pth: weights 'x\.pth': not a file"):
        parse_row("padim,weights=x.pth")
    rows = [f"padim,weights={name},name=mine" for name in ("own weights.pth", "b.pth", "c.pth")]
    first, second, third = (planned(root, row, names=("part",))[0].identity for row in rows)
    assert first == second != third


@pytest.mark.parametrize(
    ("text", "own", "published"),
    [("padim", 256, 224), ("padim:resnet18", 224, 224), ("padim,crop=200", 200, 200), ("padim,image_size=64", 64, 64)],
)
def test_only_own_categories_are_looked_at_whole(text: str, own: int, published: int) -> None:
    """Unless a preset or a part of the picture is named."""
    row = parse_row(text)
    assert [row.on(source).crop for source in ("own", "mvtec_ad", "synthetic")] == [own, published, published]
    assert parse_row("classifier").on("own").options() == parse_row("classifier").detector.options()


def test_rows_need_names_of_their_own() -> None:
    """Also where only capitals differ, for file systems that do not see these."""
    assert [row.name for row in parse_rows(["padim", "padim,name=other"])] == ["padim", "other"]
    for second in ("padim", "vae,name=PADIM"):
        with pytest.raises(SettingsError, match="have the same name"):
            parse_rows(["padim", second])


# --- cells ------------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_result_of_one_run(root: Path, folder: Path) -> None:
    """One zip a cell with all its seeds; its report and arrays are those of `benchmark.run` in one thread."""
    assert list(zips(folder)) == ZIPS
    for cell in planned(root, names=("piece",)):
        result = Result.load(cell.path(folder))
        with cells.one_thread():
            options = {"data_source": "own", "false_alarm_rate": 0.3, "row": cell.row.name, "progress": False}
            alone = benchmark.run(cell.row.detector, cell.table, (0, 3), **options)
        assert (result.seeds, result.row, result.method) == ((0, 3), cell.row.name, cell.row.method)
        assert list(result.table["image_id"]) == list(alone.table["image_id"])
        np.testing.assert_array_equal(result.scores.astype(np.float32), alone.scores)
        np.testing.assert_array_equal(result.masks, alone.masks)
        for seed in (0, 3):
            np.testing.assert_array_equal(result.maps[seed], alone.maps[seed].astype(np.float16))
            np.testing.assert_array_equal(result.good_scores[seed], alone.good_scores[seed])
        known = {key: value for key, value in alone.report.items() if key not in ("seconds", "peak_memory_gb")}
        assert {**result.report, **known} == result.report
        manifest = artifacts.load(cell.path(folder)).manifest
        assert result.report["git_commit"] == manifest["git_commit"]
        assert result.report["date"] == manifest["created_utc"][:10]


def test_each_cell_is_printed_and_reported(
    whole: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line, a line of the table and of summary.csv, a record and a report each, in the order asked for."""
    home, printed = whole
    monkeypatch.setenv("MVTEC_AD_HOME", str(home))
    assert [line.partition(": image AUROC")[0] for line in printed.splitlines()[:4]] == [" ".join(key) for key in KEYS]
    table = pd.read_csv(folder / "summary.csv")
    assert list(zip(table["category"], table["row"], strict=True)) == KEYS
    assert set(table["seeds"]) == {"0 3"}
    reports = json.loads((home / "reports.json").read_text(encoding="utf-8"))
    assert [(report["category"], report["row"]) for report in reports] == KEYS
    for line, report in zip(table.to_dict("records"), reports, strict=True):
        expected = [
            report["metrics"]["image_auroc"]["mean"],
            report["metrics"]["au_pro"]["low"],
            report["seconds"]["fit"],
        ]
        assert [line["image_auroc"], line["au_pro_low"], line["fit_seconds"]] == pytest.approx(expected)
        assert line["model_bytes"] == report["model_bytes"]
        assert f"| {report['category']} | {report['row']} | 2 |" in printed
        key = report["category"], report["row"], None
        (record,) = (r for r in measured() if (r["category"], r.get("row"), r.get("part")) == key)
        assert record["metrics"] == report["metrics"]
    for category in ("part", "piece"):
        pairs = pd.read_csv(folder / f"pairs-{category}.csv")
        assert set(pairs["first"]) | set(pairs["second"]) == {"padim-small", "reconstruct", "pixel_z_score"}
        assert f"{category}: 3 paired differences of image AUROC" in printed


def test_all_rows_meet_on_the_same_images(
    root: Path, whole: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the official test: every row, and the trivial ones, on the supervised test part, by scikit-learn."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(whole[0]))
    shared = {(report["category"], report["row"]): report for report in measured() if "part" in report}
    assert {*KEYS, ("part", "pixel_z_score")} < set(shared)
    cut = splits.supervised(index.read_category(root, "part"), seed=0)
    images = list(cut.loc[cut["part"] == "test", "image_id"])
    scores = artifacts.load(folder / "part" / "padim-small.zip").table("scores.csv")
    by_seed = [rows.set_index("image_id").loc[images] for _, rows in scores.groupby("seed")]
    expected = np.mean([roc_auc_score(rows["label"], rows["score"]) for rows in by_seed])
    assert shared["part", "padim-small"]["metrics"]["image_auroc"]["mean"] == pytest.approx(expected)
    assert shared["part", "padim-small"]["images"] == {"good": 2, "defective": 2}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_cells import cells, planned

replace, written = os.replace, []

def third_is_the_last(old, new):
    if str(new).endswith(".zip"):
        written.append(new)
        if len(written) == 3:  # written, but not yet in its place
            os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

os.replace = third_is_the_last
list(cells.run_cells(planned(Path(sys.argv[2])), Path(sys.argv[3])))
"""


@pytest.mark.skipif(os.name == "nt", reason="processes are killed as POSIX does it")
def test_killed_and_started_again_it_measures_the_rest(root: Path, folder: Path, own_home: Path) -> None:
    """By SIGKILL: the numbers are those of a run that ran through, and what was done is not touched."""
    again, todo = own_home / "again", planned(root)
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(root), str(again)]
    child = subprocess.run(arguments, capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    done = {place: path.stat().st_mtime_ns for place, path in zips(again).items()}
    assert len(done) == 2
    missing = [cell for cell in todo if cell.missing(again) is not None]
    assert [(cell.category, cell.row.name) for cell in missing] == KEYS[2:]
    assert len(list(cells.run_cells(missing, again))) == 2
    assert {place: zips(again)[place].stat().st_mtime_ns for place in done} == done
    assert list(again.rglob("*.tmp")) == []
    assert not list((own_home / "transfer" / "checkpoints").iterdir())
    assert_same_numbers(again, folder)
    assert [cell.missing(again) for cell in todo] == [None] * 4


def test_what_is_damaged_or_different_is_measured_again(
    root: Path, folder: Path, tmp_path: Path, make_category: Maker
) -> None:
    """`missing` says why: a broken zip, other options, seeds, rates, images or data sources."""
    (cell,) = planned(root, PADIM, names=("part",))
    assert (cell.missing(folder), cell.missing(tmp_path)) == (None, "")
    path = cell.path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(cell.path(folder).read_bytes()[:-300])
    assert cell.missing(tmp_path).startswith("artifact ")
    images = make_category(tmp_path / "images", "part", train=9, test_good=8, defects={"patch": 8}, size=32)
    for (other,), reason in (
        (planned(root, PADIM.replace("=8", "=9"), names=("part",), promise=0.4), "channels, false alarm rate"),
        (cells.plan([cell.row], {"part": (cell.table, "synthetic")}, (0,), 0.3), "data source, seeds"),
        (planned(images, PADIM, names=("part",)), "images"),
    ):
        assert other.missing(folder) == f"other {reason} than now"


def test_a_mask_in_a_folder_of_masks_counts_by_its_size(tmp_path: Path, make_category: Maker) -> None:
    """MVTec LOCO has several masks an image: another one is another measurement, though its folder is as large."""
    truth = make_category(tmp_path, train=3, defects={"patch": 1}, size=16) / "part" / "ground_truth" / "patch"
    (truth / "000").mkdir()
    mask = (truth / "000_mask.png").rename(truth / "000" / "000.png")
    (before,) = planned(tmp_path, PADIM, names=("part",))
    mask.write_bytes(mask.read_bytes() + b"more")
    (after,) = planned(tmp_path, PADIM, names=("part",))
    assert before.identity["images"] != after.identity["images"]
    assert {**before.identity, "images": ""} == {**after.identity, "images": ""}


def test_what_cannot_be_planned_is_one_line(root: Path) -> None:
    """An image that is gone is named before anything is measured; one draw given twice would look like two."""
    table = index.read_category(root, "part")
    with pytest.raises(SettingsError, match="seed 0 is given 2 times"):
        cells.plan(parse_rows([PADIM]), {"part": (table, "own")}, (0, 0), 0.3)
    table.loc[3, "image_path"] = str(root / "part" / "gone.png")
    with pytest.raises(DataError, match=r"^[^\n]*gone\.png cannot be read \(No such file or directory\): put it back"):
        cells.plan(parse_rows([PADIM]), {"part": (table, "own")}, (0,), 0.3)


def test_a_failing_cell_does_not_cost_the_others(
    root: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 images allow 12 % of false alarms, the autoencoder keeps 4 to calibrate on; a fault of ours is a line too."""
    target, folder = own_home / "reports.json", own_home / "transfer" / "sweeps" / "two"
    command = ["evaluate", AUTOENCODER, PADIM, *where(root, promise="0.12"), "--name", "two", "--json", str(target)]
    assert main(command) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("mvtec-ad evaluate: 1 of 2 cells could not be measured, first part reconstruct: a false-al")
    assert "part reconstruct: failed: a false-alarm rate of 0.12 needs at least 8 good images" in captured.out
    assert list(pd.read_csv(folder / "summary.csv")["row"]) == ["padim-small"]
    assert [report["row"] for report in json.loads(target.read_text(encoding="utf-8"))] == ["padim-small"]
    assert list(zips(folder)) == ["part/padim-small.zip"]
    todo = planned(root, AUTOENCODER, PADIM, names=("part",), promise=0.12)
    with pytest.raises(ArtifactError, match="missing"):
        Result.load(todo[0].path(folder))
    none = own_home / "no.json"
    assert main(["evaluate", AUTOENCODER, *where(root, promise="0.12"), "--name", "one", "--json", str(none)]) == 2
    assert not none.exists()
    monkeypatch.setattr(Padim, "fit_batches", lambda *_: [][0])
    ((_, report, problem),) = cells.run_cells(todo[1:], own_home / "again")
    assert (report, problem) == (None, "IndexError: list index out of range")


def test_processes_give_the_same_numbers(root: Path, folder: Path, tmp_path: Path) -> None:
    """Two at once, and none of them is left."""
    from joblib.externals.loky import reusable_executor

    assert [problem for _, _, problem in cells.run_cells(planned(root), tmp_path, jobs=2)] == [""] * 4
    assert_same_numbers(tmp_path, folder)
    executor = reusable_executor._executor
    assert executor is None or not any(process.is_alive() for process in (executor._processes or {}).values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed", "ignore::DeprecationWarning:dask")
def test_a_cluster_gives_the_same_numbers(root: Path, folder: Path, tmp_path: Path) -> None:
    """Dask workers measure and send back; this process writes."""
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        ended = list(cells.run_cells(planned(root), tmp_path, scheduler=cluster.scheduler_address))
    assert [problem for _, _, problem in ended] == [""] * 4
    assert_same_numbers(tmp_path, folder)


def test_what_cannot_run_is_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job, no Dask, no scheduler that can be understood."""
    todo = planned(root, PADIM, names=("part",))
    with pytest.raises(SettingsError, match="0 jobs measure nothing"):
        list(cells.run_cells(todo, tmp_path, jobs=0))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        with pytest.raises(SettingsError, match=r'python -m pip install "dask\[distributed\]"'):
            list(cells.run_cells(todo, tmp_path, scheduler="tcp://127.0.0.1:1"))
    distributed = pytest.importorskip("distributed")
    with pytest.raises(SettingsError, match=r"no Dask scheduler answers at nonsense://127\.0\.0\.1:1"):
        list(cells.run_cells(todo, tmp_path, scheduler="nonsense://127.0.0.1:1"))
    clusters = {"has one worker, and joblib would measure here": {"a": 1}, "whose seeds would mix": {"a": 2, "b": 1}}
    for message, threads in clusters.items():
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "Client", lambda *_, threads=threads, **__: Threads(threads))
            with pytest.raises(SettingsError, match=message):
                list(cells.run_cells(todo, tmp_path, scheduler="tcp://127.0.0.1:1"))


class Threads(contextlib.nullcontext):
    """Of a cluster that tells its workers' threads, and nothing else."""

    def nthreads(self) -> dict[str, int]:
        return self.enter_result


def test_one_thread_and_back() -> None:
    """The caller's own number of threads is restored, also after a failure."""

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


# --- the command ------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_measured_again(root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The alias `sweep` has the name `default`; where options differ, a line says which."""
    path = own_home / "transfer" / "sweeps" / "default" / "part" / "padim-small.zip"
    assert main(["sweep", PADIM, *where(root)]) == 0
    first = path.stat().st_mtime_ns
    capsys.readouterr()
    assert main(["sweep", PADIM, *where(root)]) == 0
    assert "1 of 1 cells are finished already" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == first
    assert main(["sweep", PADIM.replace("channels=8", "channels=9"), *where(root)]) == 0
    assert "part padim-small is measured again: other channels than now" in capsys.readouterr().out
    assert main(["sweep", PADIM, *where(root, promise="2")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("mvtec-ad sweep: ")


def test_one_row_with_a_name_is_a_cell_too(root: Path, own_home: Path, tmp_path: Path) -> None:
    """Its options may be flags; its report is no list, as without a name."""
    target = tmp_path / "report.json"
    command = ["evaluate", "padim", *where(root), *FLAGS, "--json", str(target)]
    assert main([*command, "--name", "mine"]) == 0
    named = json.loads(target.read_text(encoding="utf-8"))
    cell = artifacts.load(own_home / "transfer" / "sweeps" / "mine" / "part" / "padim.zip")
    assert cell.manifest["options"]["channels"] == named["settings"]["channels"] == 8
    assert main(command) == 0
    assert json.loads(target.read_text(encoding="utf-8"))["metrics"]["image_auroc"] == named["metrics"]["image_auroc"]


def test_a_supervised_row_is_measured_on_its_part(root: Path, own_home: Path) -> None:
    """The classifier has no official test and promises no rate: it stands on the common images, and there only."""
    assert main(["evaluate", CLASSIFIER, *where(root)]) == 0
    assert [report.get("part") for report in measured() if report["method"] == "classifier"] == ["supervised test"]
    folder = own_home / "transfer" / "sweeps" / "default"
    assert not (folder / "pairs-part.csv").exists()
    result = Result.load(folder / "part" / "classifier.zip")
    report = result.report
    assert (report["protocol"], report["thresholds"], report["seeds"]) == ("supervised", {}, [0, 3])
    assert len(result.table) == report["images"]["good"] + report["images"]["defective"] < 16
    assert set(result.table["split"]) == {"test"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["padim", PADIM, "--category", "prat"], "it holds part, piece"),
        (["padim", PADIM, "--category", "../part"], "category '../part' must be the name of one folder"),
        (["padim", "padim"], "have the same name padim"),
        (["padim", PADIM, "--seeds", "-1"], "seed -1 must be a whole number from 0"),
        (["padim", PADIM, "--seeds", "3", "3"], "seed 3 is given 2 times"),
        (["padim", "--name", "a/b"], "--name 'a/b' is no file name"),
        (["padim", PADIM, "--false-alarm-rate", "2"], "false-alarm rate"),
        (["padim", "--weights", "nowhere.pth", "--name", "mine"], "'nowhere.pth': not a file"),
        (["padim", "defect_types"], "defect_types is measured alone"),
        (["defect_types", "--name", "mine"], "defect_types is measured alone"),
        (["defect_types", "--category", "part", "piece"], "defect_types is measured alone"),
        (["padim", PADIM, "--scheduler", "nonsense://127.0.0.1:1"], ""),  # with Dask or without it
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_a_user_can_mend_is_one_line(
    root: Path, own_home: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    first = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    assert main(["evaluate", *arguments[:first], *where(root), *arguments[first:]]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if line and "%|" not in line]) == 1
    assert errors[-1].startswith("mvtec-ad evaluate: ")
    assert words in errors[-1]
    assert not list(own_home.rglob("*.zip"))


@pytest.mark.parametrize("rows", [["padim:keras"], ["padim", "patchcore"], ["padim,channels=9"]], ids=" ".join)
def test_flags_belong_to_a_method_alone(root: Path, rows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And the line says how else the option is given."""
    with pytest.raises(SystemExit) as left:
        main(["evaluate", *rows, *where(root), "--channels", "5"])
    assert left.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "unrecognized arguments: --channels 5" in line
    assert "padim:keras,channels=50" in line
