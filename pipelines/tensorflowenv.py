"""The variables that TensorFlow reads when it is imported, for all processes in which Convoy has it imported."""

import platform
from collections.abc import Mapping


def tensorflow_environment(given: Mapping[str, str]) -> dict[str, str]:
    """What to set beside `given`, the variables that are set already. Whether oneDNN computes is left to who has set it."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    # TensorFlow uses oneDNN by itself only where the processor has instructions for neural networks, AVX512-VNNI or later. With
    # AVX2 alone it makes trainings 1.2 to 2.4 times as fast, too (benchmarks/README.md).
    if platform.machine() == "x86_64" and "TF_ENABLE_ONEDNN_OPTS" not in given:
        variables["TF_ENABLE_ONEDNN_OPTS"] = "1"
    return variables
