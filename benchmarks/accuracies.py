"""Test accuracy of every network of the course, mean and range over seeds, with one and with two workers.

Nothing is chosen here: each file in conf/ says its epochs, and each run's one test accuracy is taken as it is.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import train

# Test accuracy in per cent that the course reports, where it does.
COURSE = {"mlp": "95.5", "convnet": "98.6", "convnet_two": "99.1", "convnet_dropout": "99.1", "convnet_dropout_sgd": "96 to 97"}
CONFIGS = ("train_cnn", *COURSE)


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Each configuration with 1 and 2 workers and the seeds 1 to `rounds`.

    Each run is added to `results`/accuracies-unfinished.json when it is done, so that a measurement of an hour can be interrupted
    and goes on where it was.
    """
    kept = results / "accuracies-unfinished.json"
    runs: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    done = {(run["config"], run["workers"], run["seed"]) for run in runs}
    with tempfile.TemporaryDirectory() as home:
        for workers in (1, 2):
            for seed in range(1, rounds + 1):
                for config in CONFIGS:
                    if (config, workers, seed) in done:
                        continue
                    _, summary = train(Path(home), data, config, f"training.seed={seed}", workers=workers)
                    runs.append(_row(config, workers, seed, summary))
                    print(f"  {runs[-1]}", flush=True)
                    kept.write_text(json.dumps(runs, indent=1) + "\n")
    kept.unlink(missing_ok=True)
    return {"runs": runs}


def _row(config: str, workers: int, seed: int, summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": config,
        "workers": workers,
        "seed": seed,
        "epochs": summary["epochs"],
        "accuracy": summary["test"]["accuracy"],
        "precision": summary["precision"],
        "rows_per_second": summary["rows_per_second"],
        "train_seconds": summary["seconds"]["train"],
        "total_seconds": round(summary["seconds"]["total"] - summary["seconds"]["ingest"], 1),
    }


def lines(result: dict[str, Any]) -> list[str]:
    """A table in Markdown, as README.md holds it."""
    table = [
        "| configuration | epochs | workers | minutes | test accuracy, mean (range) of seeds | course |",
        "|---|---|---|---|---|---|",
    ]
    for config in CONFIGS:
        for workers in (1, 2):
            runs = [run for run in result["runs"] if (run["config"], run["workers"]) == (config, workers)]
            if not runs:
                continue
            accuracies = [100 * run["accuracy"] for run in runs]
            minutes = statistics.median(run["total_seconds"] for run in runs) / 60
            table.append(
                f"| `conf/{config}.yml` | {runs[0]['epochs']} | {workers} | {minutes:.1f} | {statistics.mean(accuracies):.2f} % "
                f"({min(accuracies):.2f} to {max(accuracies):.2f}, {len(runs)} seeds) | "
                f"{COURSE.get(config, '')}{' %' if config in COURSE else ''} |"
            )
    return table
