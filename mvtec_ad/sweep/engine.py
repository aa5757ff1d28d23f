"""Run many cells, on this machine or on a Dask cluster: workers measure and send back, this process keeps."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvtec_ad.errors import MvtecAdError, SettingsError
from mvtec_ad.sweep.cells import Cell, keep, one_thread, run_cell

IDLE = 60  # seconds after which a worker of a killed sweep ends by itself


def run_cells(
    cells: Sequence[Cell], folder: Path, *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[tuple[Cell, dict[str, Any] | None, str]]:
    """Measure cells; each is on the disk before it is yielded, and one that fails does not cost the others.

    Args:
        cells: to measure.
        folder: of the sweep.
        jobs: processes at once, each with one thread; 1 stays in this process.
        scheduler: address of a Dask scheduler, for example `tcp://host:8786`, whose workers are used instead. They
            need this package, one thread each, and the images under the same paths; they need not share the folder.

    Yields:
        Cell, its report (None where it failed) and the problem ("" where it did not), in the order in which they end.

    Raises:
        SettingsError: there is no such scheduler, no worker, or a worker was killed.
        ArtifactError: a cell cannot be written.
    """
    if jobs < 1:
        raise SettingsError(f"{jobs} jobs measure nothing: use 1 or more")
    if not cells:
        return
    from joblib import Parallel, delayed

    cell_of = {cell.key: cell for cell in cells}
    with _workers(jobs, scheduler) as options:
        measure = Parallel(**options, return_as="generator_unordered", batch_size=1)
        for outcome in measure(delayed(run_cell)(cell) for cell in cells):
            cell = cell_of[outcome.key]
            if outcome.members is None:
                yield cell, None, outcome.problem
            else:
                keep(cell, outcome.members, folder)
                yield cell, outcome.members["reports.json"][0], ""


def fetch_weights(cells: Sequence[Cell]) -> None:
    """Have Keras download its weights once, before several processes do so into the same file.

    What fails here fails again in its cell, which says so.
    """
    networks = {
        (getattr(cell.row.settings, "backbone", ""), getattr(cell.row.settings, "weights", "")) for cell in cells
    }
    for name, weights in sorted(networks):
        if name.startswith("keras:") and weights == "imagenet":
            from mvtec_ad.backbones import load_backbone

            with one_thread(), contextlib.suppress(MvtecAdError):
                load_backbone(name, weights)


@contextlib.contextmanager
def _workers(jobs: int, scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Options of `joblib.Parallel`; the workers are gone afterwards."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        if scheduler is not None:
            with _cluster(scheduler):
                yield {"n_jobs": -1}
        elif jobs == 1:
            yield {"n_jobs": 1}
        else:
            yield {"n_jobs": jobs, "backend": "loky", "idle_worker_timeout": IDLE}
    except TerminatedWorkerError as problem:
        raise SettingsError(
            "a worker was killed, most likely for want of memory: start again with fewer --jobs; what is done is kept"
        ) from problem
    finally:
        if scheduler is None and jobs > 1:
            _dismiss()


def _dismiss() -> None:
    """End loky's workers, and do now what joblib leaves to exit handlers: the command line ends without these."""
    from joblib.externals.loky import get_reusable_executor

    executor = get_reusable_executor(reuse=True)
    executor.shutdown(wait=True)  # not killed: they have semaphores of tqdm to clear away
    finalizers = getattr(getattr(executor, "_temp_folder_manager", None), "_finalizers", {})
    while finalizers:
        _, remove_folder = finalizers.popitem()
        atexit.unregister(remove_folder)
        remove_folder()


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[None]:
    """A Dask cluster as joblib's backend."""
    from joblib import parallel_config

    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as problem:
        raise SettingsError(
            '--scheduler needs Dask, which is not installed: python -m pip install "dask[distributed]"'
        ) from problem
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as problem:
        raise SettingsError(
            f"no Dask scheduler answers at {scheduler}: start one with `dask scheduler` and give its tcp://HOST:PORT"
        ) from problem
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            raise SettingsError(
                f"workers of {scheduler} have several threads, whose seeds would mix: start them with `dask worker "
                f"{scheduler} --nthreads 1 --nworkers N`"
            )
        try:
            with parallel_config("dask", wait_for_workers_timeout=30):
                yield
        except (KilledWorker, TimeoutError) as problem:
            reason = str(problem).splitlines()[0] or type(problem).__name__
            raise SettingsError(
                f"the cluster at {scheduler} cannot go on ({reason}): look after its workers and start again; finished "
                "cells are kept"
            ) from problem
