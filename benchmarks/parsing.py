"""Parsing libsvm text on one core: Convoy's compiled parser and its array parser, and scikit-learn's, side by side.

python benchmarks/parsing.py FOLDER    prints JSON; the folder holds MNIST's libsvm files
"""

import bz2
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import ROOT, run

if TYPE_CHECKING:
    from pipelines.data.formats.libsvm_line import Rules

_MEGABYTE = 10**6
MEGABYTES = 12
COLUMNS = 28
GOALS = {"MNIST": 500, "6 decimals": 300, "9 digits": 300}
WAYS = ("compiled", "arrays", "scikit-learn")


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """In each round a process parses each text in each way, in MB of text per second of processor time."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds):
            finished = run([sys.executable, str(ROOT / "benchmarks/parsing.py"), str(data)], Path(home))
            rows.append(json.loads(finished.output.splitlines()[-1]))
            print(f"  {rows[-1]}", flush=True)
    return {"megabytes_per_second": rows}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    rows = result["megabytes_per_second"]
    text = []
    for name in rows[0]:
        speeds = {way: statistics.median(row[name][way] for row in rows) for way in WAYS}
        goal = f", goal {GOALS[name]}" if name in GOALS else ""
        text.append(
            f"{name:22} {', '.join(f'{way} {speed:.0f}' for way, speed in speeds.items())} MB/s{goal}; "
            f"{speeds['compiled'] / speeds['scikit-learn']:.1f} times scikit-learn's"
        )
    return text


def ratios(result: dict[str, Any]) -> dict[str, list[float]]:
    """Ratios for the chart: higher is better."""
    rows = result["megabytes_per_second"]
    return {
        f"parsing of {name} on a core, against scikit-learn": [row[name]["compiled"] / row[name]["scikit-learn"] for row in rows]
        for name in GOALS
    }


def texts(data: Path) -> Iterator[tuple[str, bytes, "Rules"]]:
    """Name, text and rules."""
    import numpy as np

    from pipelines.data.formats.libsvm_line import Rules

    train = next(file for file in sorted(data.iterdir()) if "train" in file.name)
    with bz2.open(train) if train.suffix == ".bz2" else train.open("rb") as file:
        mnist = file.read(MEGABYTES * _MEGABYTE)
    mnist = mnist[: mnist.rindex(b"\n") + 1]
    pixels = Rules(shape=(28, 28, 1), value_range=(0.0, 255.0), labels=tuple(range(10)))
    yield "MNIST", mnist, pixels
    yield "MNIST, CRLF, comments", mnist.replace(b"\n", b" # a digit\r\n").replace(b" ", b"  "), pixels
    values = np.random.default_rng(0).normal(size=(MEGABYTES * _MEGABYTE // 400, COLUMNS)).clip(-5, 5).tolist()
    features = Rules(shape=(COLUMNS,), value_range=(-5.0, 5.0), labels=(0, 1))
    for name, form in (
        ("6 decimals", "%.6f"),
        ("9 digits", "%.9g"),
        ("exponents", "%+.7e"),
        ("as Python writes them", "%r"),
        ("20 decimals", "%.20f"),
    ):
        pairs = " ".join(f"{column + 1}:{form}" for column in range(COLUMNS))
        yield name, "".join(f"{number % 2} {pairs % tuple(row)}\n" for number, row in enumerate(values)).encode(), features


def pieces(text: bytes) -> list[bytes]:
    """The text as ingest parses it."""
    from pipelines.data.formats.text_file import TEXT_BYTES

    found, start = [], 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + TEXT_BYTES) + 1
        found.append(text[start:end])
        start = end
    return found


def speeds(text: bytes, rules: "Rules") -> dict[str, float]:
    """MB of text per second of processor time, by way."""
    from sklearn.datasets import load_svmlight_file

    from pipelines.data.formats import libsvm_arrays, libsvm_compiled

    if not libsvm_compiled.can_parse(rules):
        raise RuntimeError("Numba is missing or fails")
    parts = pieces(text)
    ways: dict[str, Callable[[], Any]] = {
        "compiled": lambda: [len(libsvm_compiled.parse(part, rules).targets) for part in parts],
        "arrays": lambda: [len(libsvm_arrays.parse(part, rules).targets) for part in parts],
        "scikit-learn": lambda: load_svmlight_file(io.BytesIO(text), n_features=rules.num_values),
    }
    found = {}
    for way, parse in ways.items():
        started = time.thread_time()
        parse()
        found[way] = round(len(text) / _MEGABYTE / (time.thread_time() - started), 1)
    return found


if __name__ == "__main__":
    print(json.dumps({name: speeds(text, rules) for name, text, rules in texts(Path(sys.argv[1]))}))
