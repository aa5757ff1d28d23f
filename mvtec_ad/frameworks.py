"""The deep-learning frameworks, imported late and in an order that cannot kill the process.

torchvision loads triton, and so does torch's first optimiser; triton's LLVM aborts when TensorFlow's is loaded already
("inconsistency in registered CommandLine options"): no exception, the kernel is gone. triton first and TensorFlow after
works. So both are imported through this module only, and when TensorFlow was first, triton is kept from loading; it
compiles GPU kernels for `torch.compile`, which the suite does not use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def keep_triton_out() -> None:
    """In a process that holds TensorFlow and no triton, keep it so."""
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def import_torchvision() -> ModuleType:
    """torchvision, safe in a process that holds TensorFlow already."""
    keep_triton_out()
    import torchvision

    return torchvision


def import_timm() -> ModuleType:
    """timm, which imports torchvision, safe in the same way."""
    import_torchvision()
    import timm

    return timm


def import_tensorflow() -> Any:
    """TensorFlow, quiet, and without taking the whole GPU for itself (torch may be using it)."""
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _quiet_standard_error():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    keep_triton_out()
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


@contextlib.contextmanager
def _quiet_standard_error() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2: TensorFlow logs before its own log level is in force."""
    try:
        stderr = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def import_keras() -> ModuleType:
    """Keras 3 on TensorFlow.

    Raises:
        SettingsError: Keras runs on another backend in this process.
    """
    import_tensorflow()
    import keras

    if keras.backend.backend() != "tensorflow":
        from mvtec_ad.errors import SettingsError

        raise SettingsError(
            f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow and restart the kernel"
        )
    return keras


def import_umap() -> type:
    """UMAP of umap-learn, without the TensorFlow that it imports for a variant of its own, which costs seconds, and the
    process where torch was first."""
    parametric = "umap.parametric_umap"
    blocked = "umap" not in sys.modules and sys.modules.setdefault(parametric, None) is None  # type: ignore[arg-type]
    # umap-learn before 0.5.8 calls scikit-learn from 1.6 by an argument's old name
    warnings.filterwarnings("ignore", "'force_all_finite' was renamed", FutureWarning)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP
    if blocked:
        del sys.modules[parametric]
    return UMAP
