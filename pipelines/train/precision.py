"""Which number format the layers compute in.

bfloat16 pays only where the processor has instructions for it: with them the dropout network trained about twice as fast as in
float32, without them it was slower. float16 is for GPUs older than bfloat16 and is never chosen: processors have to emulate it.
"""

from pathlib import Path
from typing import Literal

from pipelines.config.training import Precision

ResolvedPrecision = Literal["float32", "bfloat16", "float16"]

_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


def resolve(precision: Precision, gpu: tuple[int, int] | None = None) -> ResolvedPrecision:
    """What `training.precision` means on this machine.

    Args:
        precision: the setting.
        gpu: compute capability of the GPU that computes; None for the processor.
    """
    if precision != "auto":
        return precision
    # Tensor cores take bfloat16 from Ampere on.
    has_it = gpu >= (8, 0) if gpu is not None else bool(bfloat16_instructions())
    return "bfloat16" if has_it else "float32"


def bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The bfloat16 instruction sets of the processor: a subset of amx_bf16, avx512_bf16. Empty where Linux does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return _BFLOAT16_FLAGS.intersection(flags)
