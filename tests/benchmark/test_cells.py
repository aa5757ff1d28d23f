"""Cells: what a row says, what a cell keeps, and the same numbers however cells were run, killed or sent away."""

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

from mvtec_ad import artifacts, benchmark
from mvtec_ad.benchmark import Result, cells
from mvtec_ad.benchmark.cells import parse_row, parse_rows
from mvtec_ad.config import Options
from mvtec_ad.data import index
from mvtec_ad.errors import ArtifactError, DataError, SettingsError, WeightsError
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.padim import Padim
from mvtec_ad.settings import ClassifierSettings

Maker = Callable[..., Path]
PADIM = "padim,weights=random,channels=8,image_size=32,sigma=1,name=padim-small"
DRAWING = "autoencoder,steps=4,image_size=32,width=4,latent=8,name=drawing"
KEYS = [(category, row) for category in ("part", "piece") for row in ("padim-small", "drawing")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """Two small categories with masks."""
    folder = tmp_path_factory.mktemp("images")
    make_category(folder, "piece", train=8, test_good=4, defects={"patch": 4}, size=32, seed=1)
    return make_category(folder, "part", train=8, test_good=4, defects={"patch": 4}, size=32)


def planned(root: Path, *rows: str, names: tuple[str, ...] = ("part", "piece"), rate: float = 0.3) -> list[cells.Cell]:
    """Cells with seeds 0 and 3; four of them without rows."""
    tables = {name: (index.read_category(root, name), "own") for name in names}
    return cells.plan(parse_rows(rows or (PADIM, DRAWING)), tables, (0, 3), rate)


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of four cells that nothing disturbed, in this process."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVTEC_AD_HOME", str(home))
        folder = cells.sweep_folder("default")
        ended = list(cells.run_cells(planned(root), folder))
    assert [cell.key for cell, _, _ in ended] == KEYS
    assert all(report and not problem for _, report, problem in ended)
    return folder


def zips(folder: Path) -> dict[str, Path]:
    """All cells below a folder, by their place."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.zip"))}


def assert_same_numbers(folder: Path, other: Path) -> None:
    """Scores, maps, good scores and masks, byte by byte."""
    assert list(zips(folder)) == list(zips(other))
    for place, path in zips(folder).items():
        one, two = artifacts.load(path), artifacts.load(other / place)
        assert one.names == two.names
        for name in one.names:
            assert name == "reports.json" or one.read(name) == two.read(name), (place, name)


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
            "classifier,pyramid=1/2,mirror=FALSE",
            "classifier-pyramid-1-2-mirror-FALSE",
            ClassifierSettings(pyramid=(1, 2), mirror=False),
        ),
        ("inspector", "inspector", ClassifierSettings()),
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
        ("padim:kears", "has no preset 'kears': use one of resnet18"),
        ("padim:", "has no preset ''"),
        ("padim,", "'' is no option"),
        ("padim,channels", "'channels' is no option"),
        ("padim,=4", "'=4' is no option"),
        ("padim,chanels=4", "there is no option chanels: use name or image_size, crop"),
        ("padim,channels=4,channels=5", "channels is given twice"),
        ("padim,channels=many", "channels 'many' must be a whole number"),
        ("padim,channels=none", "channels 'none' must be a whole number"),
        ("padim,sigma=nan", "sigma nan must be a finite number"),
        ("padim,feature_scale=x", "feature_scale 'x' must be a number"),
        ("patchcore,layers=1-2", "layers '1-2' must be values as 1/2/3"),
        ("classifier,mirror=1", "mirror '1' must be true or false"),
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


def test_weights_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is made absolute, and its file's name names the row; a missing file is noticed before anything runs."""
    (tmp_path / "own weights.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    row = parse_row("padim,weights=./own weights.pth")
    assert (row.name, row.detector.weights) == ("padim-weights-own-weights", str(tmp_path / "own weights.pth"))
    with pytest.raises(WeightsError, match=r"row padim,weights=x\.pth: weights 'x\.pth': not a file"):
        parse_row("padim,weights=x.pth")


def test_rows_need_names_of_their_own() -> None:
    """Also where only capitals differ, for file systems that do not see these."""
    assert [row.name for row in parse_rows(["padim", "padim,name=other"])] == ["padim", "other"]
    for second in ("padim", "vae,name=PADIM"):
        with pytest.raises(SettingsError, match="have the same name"):
            parse_rows(["padim", second])


# --- cells ------------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_result_of_one_run(root: Path, whole: Path) -> None:
    """One zip a cell with all its seeds; its report and arrays are those of `benchmark.run` in one thread."""
    assert list(zips(whole)) == sorted("{}/{}.zip".format(*key) for key in KEYS)
    for cell in planned(root, names=("piece",)):
        kept = cells.kept(cell, whole)
        with cells.one_thread():
            options = {"data_source": "own", "false_alarm_rate": 0.3, "row": cell.row.name, "progress": False}
            alone = benchmark.run(cell.row.detector, cell.table, (0, 3), **options)
        assert (kept.seeds, kept.row, kept.method) == ((0, 3), cell.row.name, cell.row.method)
        assert list(kept.table["image_id"]) == list(alone.table["image_id"])
        np.testing.assert_array_equal(kept.scores.astype(np.float32), alone.scores)
        np.testing.assert_array_equal(kept.masks, alone.masks)
        for seed in (0, 3):
            np.testing.assert_array_equal(kept.maps[seed], alone.maps[seed].astype(np.float16))
            np.testing.assert_array_equal(kept.good_scores[seed], alone.good_scores[seed])
        measured = ("seconds", "peak_memory_gb")
        known = {key: value for key, value in alone.report.items() if key not in measured}
        assert {**kept.report, **known} == kept.report
        manifest = artifacts.load(cell.path(whole)).manifest
        assert (kept.report["git_commit"], kept.report["date"]) == (
            manifest["git_commit"],
            manifest["created_utc"][:10],
        )


def test_the_overview_says_what_the_reports_say(root: Path, whole: Path) -> None:
    """A row for each, in their order."""
    reports = [cells.kept(cell, whole).report for cell in planned(root)]
    table = cells.overview(reports)
    assert list(zip(table["category"], table["row"], strict=True)) == KEYS
    assert set(table["seeds"]) == {"0 3"}
    for line, report in zip(table.to_dict("records"), reports, strict=True):
        assert line["image_auroc"] == report["metrics"]["image_auroc"]["mean"]
        assert line["au_pro_low"] == report["metrics"]["au_pro"]["low"]
        assert line["fit_seconds"] == report["seconds"]["fit"]
        assert line["model_bytes"] == report["model_bytes"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_cells import cells, planned

replace, kept = os.replace, []

def third_is_the_last(old, new):
    if str(new).endswith(".zip"):
        kept.append(new)
        if len(kept) == 3:  # written, but not yet in its place
            os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

os.replace = third_is_the_last
list(cells.run_cells(planned(Path(sys.argv[2])), cells.sweep_folder("default")))
"""


@pytest.mark.skipif(os.name == "nt", reason="processes are killed as POSIX does it")
def test_killed_and_started_again_it_measures_the_rest(root: Path, whole: Path, own_home: Path) -> None:
    """By SIGKILL: the numbers are those of a run that ran through, and what was done is not touched."""
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(root)]
    child = subprocess.run(arguments, capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    folder, todo = cells.sweep_folder("default"), planned(root)
    done = {place: path.stat().st_mtime_ns for place, path in zips(folder).items()}
    assert len(done) == 2
    missing = [cell for cell in todo if cells.state(cell, folder) is not None]
    assert [cell.key for cell in missing] == KEYS[2:]
    assert len(list(cells.run_cells(missing, folder))) == 2
    assert {place: zips(folder)[place].stat().st_mtime_ns for place in done} == done
    assert list(folder.rglob("*.tmp")) == []
    assert not list((own_home / "transfer" / "checkpoints").iterdir())
    assert_same_numbers(folder, whole)
    assert [cells.state(cell, folder) for cell in todo] == [None] * 4


def test_what_is_damaged_or_different_is_measured_again(
    root: Path, whole: Path, tmp_path: Path, make_category: Maker
) -> None:
    """`state` says why: a broken zip, other options, seeds, rates, images or data sources."""
    (cell,) = planned(root, PADIM, names=("part",))
    assert cells.state(cell, whole) is None
    assert cells.state(cell, tmp_path) == ""
    path = cell.path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(cell.path(whole).read_bytes()[:-300])
    assert cells.state(cell, tmp_path).startswith("artifact ")
    (other,) = planned(root, PADIM.replace("channels=8", "channels=9"), names=("part",), rate=0.4)
    assert cells.state(other, whole) == "other channels, false alarm rate than now"
    tables = {"part": (cell.table, "rendered")}
    (other,) = cells.plan([cell.row], tables, (0,), 0.3)
    assert cells.state(other, whole) == "other data source, seeds than now"
    images = make_category(tmp_path / "images", "part", train=9, test_good=4, defects={"patch": 4}, size=32)
    (other,) = planned(images, PADIM, names=("part",))
    assert cells.state(other, whole) == "other images than now"


def test_weights_files_count_by_their_content(root: Path, tmp_path: Path) -> None:
    """Wherever they lie."""
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    rows = [f"padim,weights={tmp_path / name},name=own" for name in ("a.pth", "b.pth", "c.pth")]
    one, two, three = (planned(root, row, names=("part",))[0].identity for row in rows)
    assert one == two != three


def test_an_image_that_is_gone_is_one_line(root: Path) -> None:
    """Noticed before anything is measured; it names the file and the way out."""
    table = index.read_category(root, "part")
    gone = str(root / "part" / "gone.png")
    table.loc[3, "image_path"] = gone
    with pytest.raises(
        DataError, match=r"gone\.png cannot be read \(No such file or directory\): put it back"
    ) as problem:
        cells.plan(parse_rows([PADIM]), {"part": (table, "own")}, (0,), 0.3)
    assert "\n" not in str(problem.value)


def test_seeds_count_once(root: Path) -> None:
    """One draw given twice would look like two."""
    with pytest.raises(SettingsError, match="seed 0 is given 2 times"):
        cells.plan(parse_rows([PADIM]), {"part": (index.read_category(root, "part"), "own")}, (0, 0), 0.3)


def test_a_failing_cell_does_not_cost_the_others(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images allow 12 % of false alarms, the autoencoder keeps 4 to calibrate on; a fault of ours is a line too."""
    todo = planned(root, DRAWING, PADIM, names=("part",), rate=0.12)
    (drawing, report, problem), (padim, other, none) = cells.run_cells(todo, tmp_path)
    assert (drawing.title, report) == ("part drawing", None)
    assert problem.startswith("a false-alarm rate of 0.12 needs at least 8 good images")
    assert (padim.title, other["row"], none) == ("part padim-small", "padim-small", "")
    assert list(zips(tmp_path)) == ["part/padim-small.zip"]
    with pytest.raises(ArtifactError, match="missing"):
        cells.kept(drawing, tmp_path)
    monkeypatch.setattr(Padim, "fit_batches", lambda *_: [][0])
    ((_, report, problem),) = cells.run_cells(todo[1:], tmp_path / "again")
    assert (report, problem) == (None, "IndexError: list index out of range")


def test_processes_give_the_same_numbers(root: Path, whole: Path, tmp_path: Path) -> None:
    """Two at once, and none of them is left."""
    from joblib.externals.loky import reusable_executor

    ended = list(cells.run_cells(planned(root), tmp_path, jobs=2))
    assert [problem for _, _, problem in ended] == [""] * 4
    assert_same_numbers(tmp_path, whole)
    executor = reusable_executor._executor
    assert executor is None or not any(process.is_alive() for process in (executor._processes or {}).values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed", "ignore::DeprecationWarning:dask")
def test_a_cluster_gives_the_same_numbers(root: Path, whole: Path, tmp_path: Path) -> None:
    """Dask workers measure and send back; this process writes."""
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        ended = list(cells.run_cells(planned(root), tmp_path, scheduler=cluster.scheduler_address))
    assert [problem for _, _, problem in ended] == [""] * 4
    assert_same_numbers(tmp_path, whole)


def test_what_cannot_run_is_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job, no Dask, no scheduler that can be understood."""
    todo = planned(root, PADIM, names=("part",))
    with pytest.raises(SettingsError, match="0 jobs measure nothing"):
        list(cells.run_cells(todo, tmp_path, jobs=0))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        with pytest.raises(SettingsError, match=r'python -m pip install "dask\[distributed\]"'):
            list(cells.run_cells(todo, tmp_path, scheduler="tcp://127.0.0.1:1"))
    pytest.importorskip("distributed")
    with pytest.raises(SettingsError, match=r"no Dask scheduler answers at nonsense://127\.0\.0\.1:1"):
        list(cells.run_cells(todo, tmp_path, scheduler="nonsense://127.0.0.1:1"))


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


def test_supervised_rows_are_measured_on_their_part(root: Path, tmp_path: Path) -> None:
    """The classifier is tested on the supervised test part, and promises no false-alarm rate."""
    row = "classifier,weights=random,image_size=32,steps=2,batch=4,look=whole,pyramid=1,name=classifier"
    ((cell, report, problem),) = cells.run_cells(planned(root, row, names=("part",)), tmp_path)
    assert problem == ""
    assert (report["protocol"], report["thresholds"], report["seeds"]) == ("supervised", {}, [0, 3])
    kept = Result.load(cell.path(tmp_path))
    assert len(kept.table) == report["images"]["good"] + report["images"]["defective"] < 8
    assert set(pd.Series(kept.table["split"])) == {"test"}
