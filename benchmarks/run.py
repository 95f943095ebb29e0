"""The measurements behind Convoy's claims, for anyone to repeat.

    ./convoy bench                                 all parts except those that take hours or need root
    ./convoy bench first_step time_to_accuracy     some of them
    ./convoy bench --rounds 5 --data FOLDER        another number of repetitions, another folder with the MNIST files

Prints medians and ratios, writes them as JSON with a description of the machine to bench-results/, and plots the ratios. On a
shared machine only compare figures from the same invocation.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import chart
from processes import ROOT

from pipelines.data.sources.resolve import MNIST_FOLDER
from pipelines.system import paths
from pipelines.train.precision import bfloat16_instructions

PARTS = (
    "first_step",
    "launching",
    "input_pipeline",
    "parsing",
    "ingest_growth",
    "augmentation",
    "training_rate",
    "tracking_cost",
    "time_to_accuracy",
    "flat_memory",
)
# The first two cover every configuration, which takes hours; the last three need root to create hosts in network namespaces.
ON_REQUEST = ("accuracies", "speeds", "fine_tuning", "examples", "scaling", "soak", "symptoms")
# They bring their own rows.
WITHOUT_MNIST = ("examples", "soak", "symptoms")
RESULTS = ROOT / "bench-results"
_VERSIONED = ("pyspark", "tensorflow-cpu", "keras", "horovod", "petastorm", "pyarrow", "numpy", "mlflow")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./convoy bench", description="Side-by-side measurements.")
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"one of {', '.join(PARTS)} (default: all of these), or of {', '.join(ON_REQUEST)}",
    )
    parser.add_argument("--rounds", type=int, default=3, help="repetitions or seeds of each part (default 3)")
    parser.add_argument("--data", type=Path, default=paths.to_python(MNIST_FOLDER), help="folder with MNIST's libsvm files")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS + ON_REQUEST]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; must be one of {', '.join(PARTS + ON_REQUEST)}")
    parts = options.parts or PARTS
    if not options.data.is_dir() and not set(parts) <= set(WITHOUT_MNIST):
        parser.error(f"--data {options.data}: no such folder; it must contain the two libsvm files of MNIST")
    RESULTS.mkdir(exist_ok=True)
    # So that the command being measured is terminated as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    ratios: dict[str, list[float]] = {}
    for part in parts:
        print(f"{part}, {options.rounds} rounds", flush=True)
        module = importlib.import_module(part)
        started = time.time()
        result = module.measure(options.data.absolute(), options.rounds, RESULTS)
        record = {"part": part, "rounds": options.rounds, "machine": machine, "started": started, "result": result}
        (RESULTS / f"{part}.json").write_text(json.dumps(record, indent=1) + "\n")
        print("\n".join(f"  {line}" for line in module.lines(result)), flush=True)
        if hasattr(module, "ratios"):
            ratios |= module.ratios(result)
    if ratios:
        chart.draw(ratios, RESULTS / "ratios.png")
        print(f"{RESULTS / 'ratios.png'}", flush=True)
    return 0


def describe_machine() -> dict[str, Any]:
    """What a reader must know to interpret the figures."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": sorted(bfloat16_instructions()),
        "load before": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
    } | {name: version(name) for name in _VERSIONED}


if __name__ == "__main__":
    sys.exit(main())
