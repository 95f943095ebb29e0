"""How TensorFlow is imported: its environment variables, optional packages that are skipped, and without its messages."""

import contextlib
import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping

# Keras imports them if installed, for its scikit-learn wrappers and its visualization: a fifth of TensorFlow's import time.
_NOT_FOR_TRAINING = ("sklearn", "matplotlib")


def tensorflow_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `environment`, the variables already set. An existing choice about oneDNN is respected."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    # By default TensorFlow uses oneDNN only on processors with AVX512-VNNI or later. With AVX2 alone it speeds up training, too:
    # by a factor of 1.2 to 2.4 (benchmarks/README.md).
    if platform.machine() == "x86_64" and "TF_ENABLE_ONEDNN_OPTS" not in environment:
        variables["TF_ENABLE_ONEDNN_OPTS"] = "1"
    return variables


def import_for_training() -> None:
    """Import TensorFlow as if packages used only by `keras.wrappers` and `keras.visualization` were not installed."""
    hidden = [name for name in _NOT_FOR_TRAINING if name not in sys.modules]
    # None in sys.modules makes an import raise ModuleNotFoundError.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        importlib.import_module("tensorflow")
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def without_import_messages() -> Iterator[None]:
    """Hold back what is written to standard error within the block, and write it if the block fails.

    TensorFlow 2.21 prints that oneDNN is on whatever TF_CPP_MIN_LOG_LEVEL says, from C++.
    """
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        try:
            held, error_stream = stack.enter_context(tempfile.TemporaryFile()), os.dup(2)
        except OSError:
            # Nothing can be held back: the disk is full, or there is no standard error.
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(error_stream, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(error_stream, 2)
            os.close(error_stream)
