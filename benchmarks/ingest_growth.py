"""Ingest alone: MNIST's training text once and repeated ten times, compared with scikit-learn's parser on one core.

python benchmarks/ingest_growth.py FILE    the parser alone; prints JSON
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from convoy_runs import repeated
from processes import ROOT, SUBMIT, run

TIMES = (1, 10)


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Whole processes. The text is uncompressed, so that decompression, which neither does itself, is not measured."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {times: repeated(data, Path(folder) / f"{times}x", times) for times in TIMES}
        for _ in range(rounds):
            for times, source in sources.items():
                parser = run([sys.executable, str(ROOT / "benchmarks/ingest_growth.py"), str(source / "train.libsvm")], source)
                with tempfile.TemporaryDirectory() as home:
                    command = [str(SUBMIT), str(ROOT / "jobs/ingest.py"), "--data", str(source)]
                    ingest = run(command, Path(home))
                    table_mb = sum(file.stat().st_size for file in Path(home).rglob("*.parquet")) / 1e6
                rows.append(
                    {
                        "times": times,
                        "parser_seconds": json.loads(parser.output.splitlines()[-1])["seconds"],
                        "ingest_seconds": round(ingest.seconds, 1),
                        "table_mb": round(table_mb, 1),
                        "peak_mb": round(ingest.peak_mb),
                    }
                )
                print(f"  {rows[-1]}", flush=True)
    return {"rounds": rows}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    seconds = {}
    text = []
    for times in TIMES:
        rounds = [row for row in result["rounds"] if row["times"] == times]
        parser, seconds[times] = (statistics.median(row[f"{who}_seconds"] for row in rounds) for who in ("parser", "ingest"))
        text.append(
            f"{times:2}x MNIST  ingest {seconds[times]:6.1f} s, scikit-learn's parser on one core {parser:6.1f} s, "
            f"ratio for two cores {2 * seconds[times] / parser:.2f}; table {rounds[0]['table_mb']} MB, "
            f"peak memory {statistics.median(row['peak_mb'] for row in rounds):.0f} MB"
        )
    each = (seconds[TIMES[1]] - seconds[TIMES[0]]) / (TIMES[1] - TIMES[0])
    return [*text, f"beyond start-up, {each:.1f} s per additional MNIST"]


def ratios(result: dict[str, Any]) -> dict[str, list[float]]:
    """Ratios for the chart: higher is better."""
    rounds = [row for row in result["rounds"] if row["times"] == TIMES[-1]]
    return {
        "ingest of 10x MNIST, time of scikit-learn's parser to ours": [r["parser_seconds"] / r["ingest_seconds"] for r in rounds]
    }


if __name__ == "__main__":
    from sklearn.datasets import load_svmlight_file

    started = time.monotonic()
    load_svmlight_file(sys.argv[1], n_features=784)
    print(json.dumps({"seconds": round(time.monotonic() - started, 2)}))
