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
import tempfile
from pathlib import Path

from sides import OURS, bars, both_sides, enlarged, table

from mvtec_ad import plotting
from mvtec_ad.data.sources import locate


def main() -> None:
    """Measure, print and draw."""
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
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.png")
    arguments = parser.parse_args()
    network = ("wide_resnet50_2", 550, "random") if arguments.wide else ("resnet18", 100, arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        root = (arguments.root or locate(arguments.category, source="synthetic")).resolve()
        if arguments.enlarge:
            root = enlarged(root, arguments.category, arguments.enlarge, Path(folder))
        backbone, channels, weights = network
        options = ["--root", str(root), "--category", arguments.category, "--backbone", backbone]
        options += ["--channels", str(channels), "--weights", weights]
        rows = both_sides("padim", options, arguments.anomalib, arguments.runs)
    size = f"{arguments.enlarge}×{arguments.enlarge} files" if arguments.enlarge else "files as they are"
    title = f"PaDiM, {network[0]}, {network[1]} channels, {arguments.category}, {size}, median of {arguments.runs}"
    print(f"\n{title}\n\n{table(rows, OURS)}")
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
        arguments.out.with_suffix(".png").write_bytes(plotting.to_png(bars(rows, title), dpi=110))


if __name__ == "__main__":
    main()
