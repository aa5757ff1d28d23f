"""Images that occur more than once are counted once, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvtec_ad import benchmark
from mvtec_ad.benchmark import compare
from mvtec_ad.cli import main
from mvtec_ad.data import index
from mvtec_ad.data.copies import distinct, image_notes, picture_hashes
from mvtec_ad.methods.padim import Padim
from mvtec_ad.pages import report_lines

SMALL = {"image_size": 32, "crop": 32, "weights": "random", "channels": 8}


@pytest.fixture
def root(tmp_path: Path, make_category: Callable[..., Path]) -> Path:
    """12 good training images, each three times, as other files; three of them among the good test images."""
    make_category(tmp_path, train=12, size=32)
    good = tmp_path / "part" / "train" / "good"
    for path in sorted(good.iterdir()):
        Image.open(path).save(good / f"{path.stem}b.bmp")
        Image.open(path).save(good / f"{path.stem}c.png", compress_level=1)
        if path.stem in ("000", "004", "007"):
            Image.open(path).save(tmp_path / "part" / "test" / "good" / f"again{path.stem}.tif")
    return tmp_path


def test_the_first_of_each() -> None:
    """As a dictionary keeps them."""
    hashes = list("abacbdea")
    expected = {letter: hashes.index(letter) for letter in hashes}
    assert distinct(hashes).tolist() == sorted(expected.values())


def test_copies_change_no_model(root: Path, tmp_path: Path) -> None:
    """Scores of held-out good images and the threshold are those of the 12 images; so is what `evaluate` measures."""
    paths = sorted((root / "part" / "train" / "good").iterdir())
    first = [path for path in paths if path.stem.isdigit()]
    with_copies, without = Padim(**SMALL).fit(paths), Padim(**SMALL).fit(first)
    assert (with_copies.copies, without.copies) == (24, 0)
    np.testing.assert_array_equal(with_copies.good_scores, without.good_scores)
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(Padim(**SMALL).fit(pixels).good_scores, without.good_scores)
    table = index.read_category(root, "part")
    known = {"data_source": "own", "false_alarm_rate": 0.2, "progress": False}
    only = table[~table["image_id"].str.contains("[bc]$")]
    measured = [benchmark.run(Padim(**SMALL), images, (0,), **known).report for images in (table, only)]
    assert measured[0]["images"] == measured[1]["images"]
    for key in ("metrics", "thresholds", "trivial"):
        assert measured[0][key] == measured[1][key]
    assert measured[0]["notes"][0].startswith(
        "24 of 36 good training images are copies of others and count once, first"
    )


def test_notes_stand_before_the_numbers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copies, leaks, one image good and defective, and defects without masks; none of them of clean images."""
    folder = root / "part"
    Image.open(folder / "test" / "good" / "002.png").save(folder / "test" / "patch" / "good.png")
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(folder / "ground_truth" / "patch" / "good_mask.png")
    Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(folder / "test" / "new.png")
    (folder / "test" / "dent").mkdir()
    (folder / "test" / "new.png").rename(folder / "test" / "dent" / "new.png")
    arguments = ["padim", "--root", str(root), "--category", "part", "--image-size", "32", "--weights", "random"]
    arguments += ["--channels", "8", "--false-alarm-rate", "0.2"]
    assert main(["evaluate", *arguments, "--seeds", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    notes = [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]
    assert [note.partition(", first")[0] for note in notes] == [
        "24 of 36 good training images are copies of others and count once",
        "3 test images are training images too",
        "1 test images are copies of others, so intervals are too narrow",
        "1 defective images are good ones too: which is right?",
        "1 defective images have no mask (dent) and count for no pixel metric",
    ]
    assert lines.index(f"note: {notes[-1]}") < next(n for n, line in enumerate(lines) if "image_auroc" in line)
    assert main(["fit", *arguments, "--out", str(root / "m.zip")]) == 0
    assert "24 of 36 good images are copies of others: each counts once" in capsys.readouterr().out


def test_clean_images_need_no_note(tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """And masks that are missing altogether are no oddity."""
    for masks in (True, False):
        table = index.read_category(make_category(tmp_path / str(masks), size=16, masks=masks), "part")
        assert image_notes(table, picture_hashes(list(table["image_path"]))) == []
    report = {"row": "x", "category": "part", "data_source": "own", "backbone": None, "seeds": [0], "notes": []}
    report |= {"images": {"train": 1, "good": 1, "defective": 1}, "settings": {"image_size": 9, "crop": 7}}
    report |= {"metrics": {}, "trivial": {}, "thresholds": {}, "seconds": {"fit": 0, "score": 0}, "peak_memory_gb": 0}
    assert "looked at: the central 7 of 9 pixels" in report_lines(report)


def test_defects_without_masks_count_for_no_pixel(tmp_path: Path, make_category: Callable[..., Path]) -> None:
    """Pixel metrics are those of the category without that type, image metrics those of all; also out of the file."""
    make_category(tmp_path, defects={"patch": 3, "dent": 3}, size=32)
    whole = index.read_category(tmp_path, "part")
    partly = whole.assign(mask_path=whole["mask_path"].where(whole["defect"] != "dent", ""))
    known = {"data_source": "own", "false_alarm_rate": 0.2, "progress": False}
    both, partial, rest = (
        benchmark.run(Padim(**SMALL), table, (0, 1), **known)
        for table in (whole, partly, whole[whole["defect"] != "dent"])
    )
    assert partial.report["metrics"]["image_auroc"] == both.report["metrics"]["image_auroc"]
    for name in ("pixel_auroc", "pixel_ap", "au_pro"):
        assert partial.report["metrics"][name]["values"] == rest.report["metrics"][name]["values"]
        assert partial.report["metrics"][name] != both.report["metrics"][name]
    ones = [np.ones((1, len(result.table))) for result in (partial, rest)]
    resampled = [
        compare._resampled(*pair) for pair in ((partial, "pixel_auroc", ones[0]), (rest, "pixel_auroc", ones[1]))
    ]
    np.testing.assert_allclose(resampled[0][1], resampled[1][1], rtol=1e-12)
    read = benchmark.Result.load(partial.save(tmp_path / "r.zip"))
    np.testing.assert_array_equal(read.masked, partial.masked)
    assert (~read.masked).sum() == 3
    assert benchmark.Result.load(both.save(tmp_path / "b.zip")).masked.all()
