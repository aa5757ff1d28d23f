"""What the benchmarks beside anomalib share: whole processes measured, tabled and drawn."""

from __future__ import annotations

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
from mvtec_ad.metrics import markdown_table

OURS = "mvtec_ad"


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; seconds of the whole process, peak memory of its whole tree, and its last line's JSON."""
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
    """Sample the memory of a process and its children, ten times a second, until it ends.

    Proportional set size where the system tells it (Linux): a page that three processes share counts a third for each.
    """
    while True:
        try:
            tree = [process, *process.children(recursive=True)]
            resident = 0
            for one in tree:
                try:
                    info = one.memory_full_info()
                    resident += getattr(info, "pss", info.uss)
                except psutil.NoSuchProcess:
                    continue
        except psutil.NoSuchProcess:
            return
        if resident == 0:
            return
        peak[0] = max(peak[0], resident)
        time.sleep(0.1)


def run_ours(method: str, options: list[str]) -> dict[str, Any]:
    """`python -m mvtec_ad evaluate METHOD`, one seed, as a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        ours = [sys.executable, "-m", "mvtec_ad", "evaluate", method, "--seeds", "0", "--json", str(report_file)]
        found = measured([*ours, *options])
        if "failed" not in found:
            report = json.loads(report_file.read_text())
            found |= {"fit": report["seconds"]["fit"], "test": report["seconds"]["score"]}
            found |= {key: report["metrics"][key]["mean"] for key in ("image_auroc", "pixel_auroc")}
    return found


def run_anomalib(python: str, method: str, options: list[str], lean: bool) -> dict[str, Any]:
    """benchmarks/anomalib_side.py in the interpreter that has anomalib."""
    script = str(Path(__file__).resolve().parent / "anomalib_side.py")
    found = measured([python, script, method, *(["--lean"] if lean else []), *options])
    if "failed" not in found:
        found |= json.loads(found["last"])
    return found


def both_sides(method: str, options: list[str], anomalib: str | None, rounds: int) -> dict[str, dict[str, Any]]:
    """Medians of `rounds` runs of every side, interleaved so that a busy moment meets all; ours alone where `anomalib`
    names no interpreter."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in tqdm(range(rounds), desc="benchmark", unit="round"):
        runs.setdefault(OURS, []).append(run_ours(method, options))
        if anomalib:
            for name, lean in (("anomalib", False), ("anomalib, lean", True)):
                runs.setdefault(name, []).append(run_anomalib(anomalib, method, options, lean))
    return {name: middle(own) for name, own in runs.items()}


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
    """Markdown, seconds and memory also as multiples of `base`, where that did not fail."""

    def multiple(row: dict[str, Any], key: str) -> str:
        return f"{row[key] / rows[base][key]:.2f} ×" if "failed" not in rows[base] else ""

    lines = []
    for name, row in rows.items():
        if "failed" in row:
            lines.append([name, row["failed"], "", f"{row['peak_gb']:.2f}", "", "", "", "", ""])
            continue
        lines.append(
            [
                name,
                f"{row['seconds']:.1f}",
                multiple(row, "seconds"),
                f"{row['peak_gb']:.2f}",
                multiple(row, "peak_gb"),
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
