"""The number format that the layers compute in.

bfloat16 pays only where the processor has instructions for it: with them, the dropout network trained about twice as fast as in
float32; without them, more slowly. float16 is for GPUs without bfloat16 and is never chosen automatically: CPUs emulate it.
"""

from pathlib import Path
from typing import Literal

from pipelines.config.training import Precision

ResolvedPrecision = Literal["float32", "bfloat16", "float16"]

_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


def resolve(precision: Precision, gpu: tuple[int, int] | None = None) -> ResolvedPrecision:
    """Resolve `training.precision` for this machine.

    Args:
        precision: the setting.
        gpu: compute capability of the rank's GPU; None to compute on the CPU.
    """
    if precision != "auto":
        return precision
    # Tensor cores support bfloat16 since Ampere.
    has_bfloat16 = gpu >= (8, 0) if gpu is not None else bool(bfloat16_instructions())
    return "bfloat16" if has_bfloat16 else "float32"


def bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The processor's bfloat16 instruction sets, a subset of amx_bf16 and avx512_bf16; empty if `cpuinfo` cannot be read."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return _BFLOAT16_FLAGS.intersection(flags)
