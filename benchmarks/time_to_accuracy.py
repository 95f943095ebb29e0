"""Time from libsvm text to a test accuracy of 99.13 %: Convoy's default recipe versus the course's script, as whole processes.

Convoy starts without a table, so its time includes ingest. Its number of epochs was chosen on validation rows.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import train
from processes import ROOT, run

GOAL = 0.9913


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Each round runs the script and then Convoy, both with the round's number as seed."""
    rows = []
    for seed in range(1, rounds + 1):
        script = run([sys.executable, str(ROOT / "benchmarks/course_script.py"), str(data), "--seed", str(seed)], ROOT)
        with tempfile.TemporaryDirectory() as home:
            convoy, summary = train(Path(home), data, "train_cnn", f"training.seed={seed}")
        rows.append(
            {
                "seed": seed,
                "script_seconds": round(script.seconds, 1),
                "script_accuracy": json.loads(script.output.splitlines()[-1])["accuracy"],
                "script_peak_mb": round(script.peak_mb),
                "convoy_seconds": round(convoy.seconds, 1),
                "convoy_accuracy": summary.test.accuracy,
                "convoy_peak_mb": round(convoy.peak_mb),
                "ratio": round(convoy.seconds / script.seconds, 3),
            }
        )
        print(f"  {rows[-1]}", flush=True)
    accuracies = [row["convoy_accuracy"] for row in rows]
    return {
        "rounds": rows,
        "ratio": statistics.median(row["ratio"] for row in rows),
        "accuracy": statistics.mean(accuracies),
        "reached": statistics.mean(accuracies) >= GOAL,
    }


def ratios(result: dict[str, Any]) -> dict[str, list[float]]:
    """Ratios for the chart: higher is better."""
    rounds = result["rounds"]
    return {
        "text to 99.13 %, time of the course's script to ours": [row["script_seconds"] / row["convoy_seconds"] for row in rounds]
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    rounds = result["rounds"]
    script, convoy = ([row[f"{who}_seconds"] for row in rounds] for who in ("script", "convoy"))
    return [
        f"course's script, 15 epochs    {statistics.median(script):6.1f} s  ({min(script):.1f} to {max(script):.1f})  "
        f"{100 * statistics.mean(row['script_accuracy'] for row in rounds):.2f} %",
        f"Convoy, conf/train_cnn.yml    {statistics.median(convoy):6.1f} s  ({min(convoy):.1f} to {max(convoy):.1f})  "
        f"{100 * result['accuracy']:.2f} %",
        f"peak memory: the script {max(row['script_peak_mb'] for row in rounds):,} MB, "
        f"Convoy {max(row['convoy_peak_mb'] for row in rounds):,} MB",
        f"ratio, median of {len(rounds)} pairs: {result['ratio']:.3f}; {100 * GOAL:.2f} % "
        f"{'reached' if result['reached'] else 'NOT reached'}",
    ]
