"""PaDiM beside anomalib's, as whole processes in one run: seconds, peak memory, AUROC.

    python benchmarks/padim.py --weights FILE --anomalib PYTHON [--root DIR] [--category bottle] [--runs 3]
                               [--enlarge 900] [--wide] [--out assets/benchmark]

PYTHON is an interpreter that has anomalib; `make benchmark` installs one.

Both sides read the same files, resize to 256, crop to 224, use the same network with the same weights and one draw of
100 channels. Ours also computes AUPRO, intervals, a calibrated threshold and the trivial rows. anomalib runs twice: as
it comes, and lean (no validation on the test images, no pictures). Without --anomalib only our rows are measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import psutil
from tqdm import tqdm

from mvtec_ad import plotting
from mvtec_ad.data.acquire import locate
from mvtec_ad.evaluation import markdown_table

HERE = Path(__file__).resolve().parent
OURS = "mvtec_ad"


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; seconds of the whole process, peak resident memory of its whole tree, and its last line's JSON."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peak), daemon=True)
    watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - begun
    if process.returncode:
        last = (errors.strip() or output.strip()).splitlines()[-1:]
        return {"failed": f"exit {process.returncode}: {' '.join(last)[:120]}", "peak_gb": peak[0] / 1e9}
    return {"seconds": seconds, "peak_gb": peak[0] / 1e9, "last": output.strip().splitlines()[-1]}


def _watch(process: psutil.Process, peak: list[int]) -> None:
    """Sample the resident memory of a process and its children, 20 times a second, until it ends.

    Pages that parent and children share are counted once for each.
    """
    while True:
        try:
            tree = [process, *process.children(recursive=True)]
            resident = 0
            for one in tree:
                try:
                    resident += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
        except psutil.NoSuchProcess:
            return
        if resident == 0:
            return
        peak[0] = max(peak[0], resident)
        time.sleep(0.05)


def run_ours(arguments: argparse.Namespace, root: Path, backbone: str, channels: int, weights: str) -> dict[str, Any]:
    """`python -m mvtec_ad evaluate padim`, one seed."""
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        ours = [sys.executable, "-m", "mvtec_ad", "evaluate", "padim", "--seeds", "0", "--json", str(report_file)]
        found = measured([*ours, *_shared_options(arguments, root, backbone, channels, weights)])
        if "failed" not in found:
            report = json.loads(report_file.read_text())
            found |= {"fit": report["seconds"]["fit"], "test": report["seconds"]["score"]}
            found |= {key: report["metrics"][key]["mean"] for key in ("image_auroc", "pixel_auroc")}
    return found


def run_anomalib(
    arguments: argparse.Namespace, root: Path, backbone: str, channels: int, weights: str, lean: bool
) -> dict[str, Any]:
    """benchmarks/anomalib_padim.py in the interpreter that has anomalib."""
    theirs = [arguments.anomalib, str(HERE / "anomalib_padim.py"), *(["--lean"] if lean else [])]
    found = measured([*theirs, *_shared_options(arguments, root, backbone, channels, weights)])
    if "failed" not in found:
        found |= json.loads(found["last"])
    return found


def _shared_options(arguments: argparse.Namespace, root: Path, backbone: str, channels: int, weights: str) -> list[str]:
    """What both sides are told."""
    where = ["--root", str(root), "--category", arguments.category]
    return [*where, "--backbone", backbone, "--channels", str(channels), "--weights", weights]


def enlarged(root: Path, category: str, side: int, folder: Path) -> Path:
    """A copy of a category with every image and mask enlarged to `side` pixels, pixel by pixel."""
    for path in tqdm(sorted((root / category).rglob("*.png")), desc=f"enlarge to {side}", unit="image"):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(target), cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST))
    return folder


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of what several runs gave; the failure where one failed."""
    failed = [run for run in runs if "failed" in run]
    if failed:
        return failed[0]
    keys = ("seconds", "peak_gb", "fit", "test", "image_auroc", "pixel_auroc")
    return {key: statistics.median(run[key] for run in runs) for key in keys}


def table(rows: dict[str, dict[str, Any]], base: str) -> str:
    """Markdown, seconds and memory also as multiples of `base`."""
    lines = []
    for name, row in rows.items():
        if "failed" in row:
            lines.append([name, row["failed"], "", f"{row['peak_gb']:.2f}", "", "", "", "", ""])
            continue
        lines.append(
            [
                name,
                f"{row['seconds']:.1f}",
                f"{row['seconds'] / rows[base]['seconds']:.2f} ×",
                f"{row['peak_gb']:.2f}",
                f"{row['peak_gb'] / rows[base]['peak_gb']:.2f} ×",
                f"{row['fit']:.1f}",
                f"{row['test']:.1f}",
                f"{row['image_auroc']:.4f}",
                f"{row['pixel_auroc']:.4f}",
            ]
        )
    columns = ["", "seconds, whole", "", "peak GB", "", "fit s", "test s", "image AUROC", "pixel AUROC"]
    return markdown_table(columns, lines)


def bars(rows: dict[str, dict[str, Any]], title: str) -> Any:
    """Whole-process seconds and peak memory, ours in one colour."""
    names = [name for name in rows if "failed" not in rows[name]]
    figure = plotting.new_figure(9, 0.55 * len(names) + 1.1)
    for axes, key, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("seconds", "peak_gb"),
        ("seconds, whole process", "peak memory, GB"),
        strict=True,
    ):
        values = [rows[name][key] for name in names]
        colours = [plotting.GOOD if name.startswith(OURS) else "#8A8A8A" for name in names]
        drawn = axes.barh(names, values, color=colours)
        axes.bar_label(drawn, fmt="%.1f", padding=3)
        axes.set(xlabel=label, xlim=(0, 1.15 * max(values)))
        axes.invert_yaxis() if key == "seconds" else None
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def main() -> None:
    """Measure, interleaved so that a busy moment meets both sides; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="drawn images when not given")
    parser.add_argument("--category", default="bottle")
    parser.add_argument("--weights", required=True, help="state dict of ResNet-18, or random")
    parser.add_argument("--anomalib", help="python that has anomalib")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--enlarge", type=int, help="enlarge the images to this side first")
    parser.add_argument(
        "--wide", action="store_true", help="WideResNet50-2 with 550 channels and random weights instead"
    )
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.png")
    arguments = parser.parse_args()
    network = ("wide_resnet50_2", 550, "random") if arguments.wide else ("resnet18", 100, arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        root = (arguments.root or locate(arguments.category, source="rendered")).resolve()
        if arguments.enlarge:
            root = enlarged(root, arguments.category, arguments.enlarge, Path(folder))
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in tqdm(range(arguments.runs), desc="benchmark", unit="round"):
            runs.setdefault(OURS, []).append(run_ours(arguments, root, *network))
            if arguments.anomalib:
                for name, lean in (("anomalib", False), ("anomalib, lean", True)):
                    runs.setdefault(name, []).append(run_anomalib(arguments, root, *network, lean))
    rows = {name: middle(own) for name, own in runs.items()}
    size = f"{arguments.enlarge}×{arguments.enlarge} files" if arguments.enlarge else "files as they are"
    title = f"PaDiM, {network[0]}, {network[1]} channels, {arguments.category}, {size}, median of {arguments.runs}"
    print(f"\n{title}\n\n{table(rows, OURS)}")
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(f"{title}\n\n{table(rows, OURS)}\n", encoding="utf-8")
        arguments.out.with_suffix(".png").write_bytes(plotting.to_png(bars(rows, title), dpi=110))


if __name__ == "__main__":
    main()
