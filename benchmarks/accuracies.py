"""Test accuracy of every configuration in conf/: mean and range over seeds, with one and two workers.

Nothing is selected: each file in conf/ fixes the number of epochs, and the test accuracy of every run counts.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import results_table
from convoy_runs import train
from results_table import CONFIGS

from pipelines.track.rundir.summary import TrainingSummary


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Each configuration with 1 and 2 workers and the seeds 1 to `rounds`.

    Each finished run is added to `results`/accuracies-unfinished.json, so that an interrupted measurement resumes where it was.
    """
    unfinished = results / "accuracies-unfinished.json"
    runs: list[dict[str, Any]] = json.loads(unfinished.read_text()) if unfinished.exists() else []
    done = {(run["config"], run["workers"], run["seed"]) for run in runs}
    with tempfile.TemporaryDirectory() as home:
        for workers in (1, 2):
            for seed in range(1, rounds + 1):
                for config in CONFIGS:
                    if (config, workers, seed) in done:
                        continue
                    _, summary = train(
                        Path(home), results_table.data(config, data), config, f"training.seed={seed}", workers=workers
                    )
                    runs.append(_row(config, workers, seed, summary))
                    print(f"  {runs[-1]}", flush=True)
                    unfinished.write_text(json.dumps(runs, indent=1) + "\n")
    unfinished.unlink(missing_ok=True)
    return {"runs": runs}


def _row(config: str, workers: int, seed: int, summary: TrainingSummary) -> dict[str, Any]:
    return {
        "config": config,
        "workers": workers,
        "seed": seed,
        "epochs": summary.epochs,
        "accuracy": summary.test.accuracy,
        "precision": summary.precision,
        "rows_per_second": summary.rows_per_second,
        "train_seconds": summary.seconds.train,
        "total_seconds": round(summary.seconds.total - summary.seconds.ingest, 1),
    }


def lines(result: dict[str, Any]) -> list[str]:
    """A table in Markdown, as docs/results.md holds it."""
    return results_table.lines(result["runs"], {})
