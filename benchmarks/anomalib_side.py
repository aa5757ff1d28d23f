"""The other side of benchmarks/padim.py and patchcore.py: anomalib's methods, run as its documentation runs them.

Needs anomalib; benchmarks/sides.py starts it with the interpreter that has it. The last line it prints is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings

BEGUN = time.perf_counter()

import torch  # noqa: E402
from anomalib.data import MVTecAD  # noqa: E402
from anomalib.engine import Engine  # noqa: E402
from anomalib.models import Padim, Patchcore  # noqa: E402
from anomalib.pre_processing import PreProcessor  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

IMPORTED = time.perf_counter()


def main() -> None:
    """Fit, test, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["padim", "patchcore"])
    parser.add_argument("--root", required=True)
    parser.add_argument("--category", required=True)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", required=True, help="path of a state dict, or random")
    parser.add_argument("--channels", type=int, default=100, help="of PaDiM")
    parser.add_argument("--coreset", type=float, default=0.1, help="of PatchCore: share of the patches that is kept")
    parser.add_argument("--lean", action="store_true", help="without validation on the test images, without pictures")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    transform = v2.Compose(
        [
            v2.Resize((256, 256), antialias=True),
            v2.CenterCrop(224),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    torch.manual_seed(0)
    kind, own = Padim, {"n_features": arguments.channels}
    if arguments.method == "patchcore":
        share = {"coreset_sampling_ratio": arguments.coreset, "num_neighbors": 9}
        kind, own = Patchcore, {"layers": ["layer2", "layer3"], **share}
    model = kind(
        backbone=arguments.backbone,
        pre_trained=False,
        pre_processor=PreProcessor(transform=transform),
        visualizer=not arguments.lean,
        **own,
    )
    if arguments.weights != "random":
        state = torch.load(arguments.weights, weights_only=True)
        network = model.model.feature_extractor.feature_extractor
        missing = [
            name for name in network.load_state_dict(state, strict=False).missing_keys if "num_batches" not in name
        ]
        if missing:
            raise SystemExit(f"{arguments.weights} lacks {missing[0]}")
    workers = {"num_workers": 2} if arguments.lean else {}
    data = MVTecAD(root=arguments.root, category=arguments.category, **workers)
    lean = {"limit_val_batches": 0} if arguments.lean else {}
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False, **lean
        )
        started = time.perf_counter()
        engine.fit(model=model, datamodule=data)
        fitted = time.perf_counter()
        metrics = engine.test(model=model, datamodule=data)[0]
        tested = time.perf_counter()
    report = {
        "import": IMPORTED - BEGUN,
        "fit": fitted - started,
        "test": tested - fitted,
        "image_auroc": metrics["image_AUROC"],
        "pixel_auroc": metrics["pixel_AUROC"],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
