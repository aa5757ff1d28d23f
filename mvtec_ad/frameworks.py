"""The deep-learning frameworks, imported late and in an order that cannot kill the process.

torchvision loads triton, and triton's LLVM aborts when TensorFlow's is loaded already ("inconsistency in registered
CommandLine options"): no exception, the kernel is gone. torchvision first and TensorFlow after works. So both are
imported through this module only, and when TensorFlow was first, triton is kept from loading; it compiles GPU
kernels for `torch.compile`, which the suite does not use.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any


def import_torchvision() -> ModuleType:
    """torchvision, safe in a process that holds TensorFlow already."""
    if "torchvision" not in sys.modules and "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
    import torchvision

    return torchvision


def import_tensorflow() -> Any:
    """TensorFlow, quiet, and without taking the whole GPU for itself (torch may be using it)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    first_time = "tensorflow" not in sys.modules
    import tensorflow as tf

    if first_time:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    return tf


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
