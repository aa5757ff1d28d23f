"""`evaluate` of several rows and categories, or with a name: what it prints, keeps and writes, and how it fails."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad import artifacts
from mvtec_ad.benchmark.published import measured
from mvtec_ad.cli import main
from mvtec_ad.data import index, splits

Maker = Callable[..., Path]
PADIM = "padim,weights=random,channels=8,image_size=32,sigma=1,name=padim-small"
DRAWING = "autoencoder,steps=4,image_size=32,width=4,latent=8,name=drawing"
FLAGS = ["--weights", "random", "--channels", "8", "--image-size", "32", "--sigma", "1"]
KEYS = [(category, row) for category in ("part", "piece") for row in ("padim-small", "drawing")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """Two small categories with masks."""
    folder = tmp_path_factory.mktemp("images")
    make_category(folder, "piece", train=8, test_good=8, defects={"patch": 8}, size=32, seed=1)
    return make_category(folder, "part", train=8, test_good=8, defects={"patch": 8}, size=32)


def where(root: Path, *categories: str, rate: str = "0.3") -> list[str]:
    """Flags that every command here has: images, one seed, cells in this process."""
    images = ["--root", str(root), "--category", *(categories or ("part",))]
    return [*images, "--seeds", "0", "--false-alarm-rate", rate, "--jobs", "1"]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Of stderr."""
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The home of two rows on two categories, and what was printed."""
    home, printed = tmp_path_factory.mktemp("whole"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("MVTEC_AD_HOME", str(home))
        more = ["--name", "two", "--json", str(home / "reports.json")]
        assert main(["evaluate", PADIM, DRAWING, *where(root, "part", "piece"), *more]) == 0
    return home, printed.getvalue()


@pytest.fixture
def known(whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """All that `results` knows afterwards."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(whole[0]))
    return measured()


def test_each_cell_is_kept_printed_and_reported(whole: tuple[Path, str], known: list[dict]) -> None:
    """A zip, a line, a line of the table and of summary.csv, a record and a report each, in the order asked for."""
    home, printed = whole
    folder = home / "transfer" / "sweeps" / "two"
    assert sorted(folder.rglob("*.zip")) == sorted(folder / category / f"{row}.zip" for category, row in KEYS)
    assert [line.partition(": image AUROC")[0] for line in printed.splitlines()[:4]] == [" ".join(key) for key in KEYS]
    table = pd.read_csv(folder / "summary.csv")
    assert list(zip(table["category"], table["row"], strict=True)) == KEYS
    reports = json.loads((home / "reports.json").read_text(encoding="utf-8"))
    assert [(report["category"], report["row"]) for report in reports] == KEYS
    for line, report in zip(table.to_dict("records"), reports, strict=True):
        assert line["image_auroc"] == pytest.approx(report["metrics"]["image_auroc"]["mean"])
        assert f"| {report['category']} | {report['row']} | 1 |" in printed
        key = report["category"], report["row"], None
        (record,) = (one for one in known if (one["category"], one.get("row"), one.get("part")) == key)
        assert record["metrics"] == report["metrics"]
    for category in ("part", "piece"):
        pairs = pd.read_csv(folder / f"pairs-{category}.csv")
        assert set(pairs["first"]) | set(pairs["second"]) == {"padim-small", "drawing", "pixel_z_score"}
        assert f"{category}: 3 paired differences of image AUROC" in printed


def test_all_rows_meet_on_the_same_images(root: Path, whole: tuple[Path, str], known: list[dict]) -> None:
    """Beside the official test: every row, and the trivial ones, on the supervised test part, by scikit-learn."""
    shared = {(report["category"], report["row"]): report for report in known if "part" in report}
    assert {*KEYS, ("part", "pixel_z_score")} < set(shared)
    cut = splits.supervised(index.read_category(root, "part"), seed=0)
    images = list(cut.loc[cut["part"] == "test", "image_id"])
    cell = artifacts.load(whole[0] / "transfer" / "sweeps" / "two" / "part" / "padim-small.zip")
    scores = cell.table("scores.csv").set_index("image_id").loc[images]
    expected = roc_auc_score(scores["label"], scores["score"])
    assert shared["part", "padim-small"]["metrics"]["image_auroc"]["mean"] == pytest.approx(expected)
    assert shared["part", "padim-small"]["images"] == {"good": 2, "defective": 2}
    assert sorted(scores["label"]) == [0, 0, 1, 1]


def test_what_is_finished_is_not_measured_again(root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The alias `sweep` has the name `default`; where options differ, a line says which."""
    folder = own_home / "transfer" / "sweeps"
    assert main(["sweep", PADIM, *where(root)]) == 0
    first = (folder / "default" / "part" / "padim-small.zip").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["sweep", PADIM, *where(root)]) == 0
    assert "1 of 1 cells are finished already" in capsys.readouterr().out
    assert (folder / "default" / "part" / "padim-small.zip").stat().st_mtime_ns == first
    assert main(["sweep", PADIM.replace("channels=8", "channels=9"), *where(root)]) == 0
    assert "part padim-small is measured again: other channels than now" in capsys.readouterr().out
    assert main(["sweep", PADIM, *where(root, rate="2")]) == 2
    assert last_line(capsys).startswith("mvtec-ad sweep: ")


def test_one_row_with_a_name_is_kept_like_several(root: Path, own_home: Path, tmp_path: Path) -> None:
    """Its options may be flags; its report is no list, as without a name."""
    target = tmp_path / "report.json"
    command = ["evaluate", "padim", *where(root), *FLAGS, "--json", str(target)]
    assert main([*command, "--name", "mine"]) == 0
    named = json.loads(target.read_text(encoding="utf-8"))
    cell = artifacts.load(own_home / "transfer" / "sweeps" / "mine" / "part" / "padim.zip")
    assert cell.manifest["options"]["channels"] == named["settings"]["channels"] == 8
    assert main(command) == 0
    assert json.loads(target.read_text(encoding="utf-8"))["metrics"]["image_auroc"] == named["metrics"]["image_auroc"]


def test_a_failing_row_does_not_cost_the_others(
    root: Path, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 images allow 12 % of false alarms, the autoencoder keeps 4 to calibrate on; the others are in the JSON."""
    target = tmp_path / "reports.json"
    command = ["evaluate", DRAWING, PADIM, *where(root, rate="0.12"), "--name", "two", "--json", str(target)]
    assert main(command) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("mvtec-ad evaluate: 1 of 2 cells could not be measured, first part drawing: a false-alarm")
    assert "part drawing: failed: a false-alarm rate of 0.12 needs at least 8 good images" in captured.out
    folder = own_home / "transfer" / "sweeps" / "two"
    assert list(pd.read_csv(folder / "summary.csv")["row"]) == ["padim-small"]
    (report,) = json.loads(target.read_text(encoding="utf-8"))
    assert report["row"] == "padim-small"
    assert main(["evaluate", DRAWING, *where(root, rate="0.12"), "--name", "one", "--json", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


def test_a_supervised_row_is_kept_on_its_part(root: Path, own_home: Path) -> None:
    """The classifier has no official test: it stands beside the trivial rows on the common images, and there only."""
    row = "classifier,weights=random,image_size=32,steps=0,batch=4,look=whole,pyramid=1,name=classifier"
    assert main(["evaluate", row, *where(root)]) == 0
    assert [report.get("part") for report in measured() if report["method"] == "classifier"] == ["supervised test"]
    assert not (own_home / "transfer" / "sweeps" / "default" / "pairs-part.csv").exists()


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
        (["padim", "typing"], "typing is measured alone"),
        (["typing", "--name", "mine"], "typing is measured alone"),
        (["typing", "--category", "part", "piece"], "typing is measured alone"),
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
    line = last_line(capsys)
    assert "unrecognized arguments: --channels 5" in line
    assert "padim:keras,channels=50" in line


def test_an_image_that_is_gone_is_named(
    root: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between reading the folder and measuring several rows."""
    table = index.read_category(root, "part")
    table.loc[3, "image_path"] = str(own_home / "gone.png")
    monkeypatch.setattr(index, "read_category", lambda *_: table)
    assert main(["evaluate", PADIM, DRAWING, *where(root)]) == 2
    assert last_line(capsys).endswith(
        "gone.png cannot be read (No such file or directory): put it back, or read the folder again"
    )
