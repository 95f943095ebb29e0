"""How TensorFlow is imported: the variables that it reads then, and what ranks do without."""

import importlib
import platform
import sys
from collections.abc import Mapping

# Keras imports them where they are installed, for its wrappers of scikit-learn and its galleries of pictures: a fifth of the time
# that the import of TensorFlow takes.
_NOT_FOR_TRAINING = ("sklearn", "matplotlib")


def tensorflow_environment(given: Mapping[str, str]) -> dict[str, str]:
    """What to set beside `given`, the variables that are set already. Whether oneDNN computes is left to who has set it."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    # TensorFlow uses oneDNN by itself only where the processor has instructions for neural networks, AVX512-VNNI or later. With
    # AVX2 alone it makes trainings 1.2 to 2.4 times as fast, too (benchmarks/README.md).
    if platform.machine() == "x86_64" and "TF_ENABLE_ONEDNN_OPTS" not in given:
        variables["TF_ENABLE_ONEDNN_OPTS"] = "1"
    return variables


def import_for_training() -> None:
    """Import TensorFlow as if what only `keras.wrappers` and `keras.visualization` use were not installed."""
    hidden = [name for name in _NOT_FOR_TRAINING if name not in sys.modules]
    # Python's own sign that a module is not there.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        importlib.import_module("tensorflow")
    finally:
        for name in hidden:
            del sys.modules[name]
