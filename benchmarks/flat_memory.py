"""Memory of a rank while it streams a table, and one ten times as large: `convnet`, one epoch, two workers, no rows cached.

The larger source repeats MNIST's training file ten times. Repeated rows cost as much as distinct ones.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import repeated, train

TIMES = (1, 10)
WORKERS = 2


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """The sizes alternate, each in its own home folder, so that each run ingests."""
    runs: list[dict[str, Any]] = []
    for _ in range(rounds):
        for times in TIMES:
            with tempfile.TemporaryDirectory() as folder:
                source = repeated(data, Path(folder) / "source", times)
                home = Path(folder) / "home"
                home.mkdir()
                finished, summary = train(
                    home, source, "convnet", "training.epochs=1", "stream.memory_limit_mb=0", workers=WORKERS
                )
                runs.append(
                    {
                        "times": times,
                        "rows": summary.rows.train,
                        "rank_peak_mb": round(finished.rank_peak_mb),
                        "rows_per_second": summary.rows_per_second,
                        "ingest_seconds": summary.seconds.ingest,
                        "source_mb": round(sum(path.stat().st_size for path in source.iterdir()) / 1e6),
                    }
                )
            print(f"  {runs[-1]}", flush=True)
    small, large = (statistics.median(one["rank_peak_mb"] for one in runs if one["times"] == times) for times in TIMES)
    return {"runs": runs, "growth": large / small}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    text = []
    for times in TIMES:
        runs = [one for one in result["runs"] if one["times"] == times]
        peak, speed, ingest = (statistics.median(one[key] for one in runs) for key in _REPORTED)
        text.append(
            f"{runs[0]['rows']:>9,} rows  a rank's peak memory {peak:.0f} MB, {speed:,.0f} rows/s streamed, ingest {ingest:.0f} s"
        )
    return [*text, f"ten times the rows, {result['growth']:.2f} times the memory"]


_REPORTED = ("rank_peak_mb", "rows_per_second", "ingest_seconds")
