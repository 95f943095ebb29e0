"""Test accuracy of every network, mean and range over seeds, with one and with two workers.

Nothing is chosen here: each file in conf/ says its epochs, and each run's one test accuracy is taken as it is.
"""

import ast
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import train
from processes import ROOT

from pipelines import configfile

# Test accuracy that the course, or the paper of a network, reports, where it does.
PUBLISHED = {
    "mlp": "95.5 %",
    "convnet": "98.6 %",
    "convnet_two": "99.1 %",
    "convnet_dropout": "99.1 %",
    "convnet_dropout_sgd": "96 to 97 %",
    # LeCun et al. 1998, figure 9: error 0.95 %; 0.8 % with distorted digits.
    "lenet5": "99.05 % (paper)",
    # Sabour et al. 2017, table 1: error 0.35 % with three rounds of routing, no reconstruction, digits shifted by up to 2 pixels.
    "capsnet": "99.65 % (paper)",
}
CONFIGS = (
    "train_cnn",
    "mlp",
    "mlp_three",
    "mlp_wide",
    "convnet",
    "convnet_two",
    "convnet_dropout",
    "convnet_dropout_sgd",
    "lenet5",
    "vgg",
    "inception",
    "resnet",
    "dilated",
    "capsnet",
)


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
        "| configuration | parameters | epochs | workers | minutes | rows/s | test accuracy, mean (range) of seeds | published |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for config in CONFIGS:
        for workers in (1, 2):
            runs = [run for run in result["runs"] if (run["config"], run["workers"]) == (config, workers)]
            if not runs:
                continue
            accuracies = [100 * run["accuracy"] for run in runs]
            minutes = statistics.median(run["total_seconds"] for run in runs) / 60
            rows_per_second = statistics.median(run["rows_per_second"] for run in runs)
            table.append(
                f"| `conf/{config}.yml` | {parameters(config):,} | {runs[0]['epochs']} | {workers} | {minutes:.1f} | "
                f"{rows_per_second:,.0f} | {statistics.mean(accuracies):.2f} % "
                f"({min(accuracies):.2f} to {max(accuracies):.2f}, {len(runs)} seeds) | {PUBLISHED.get(config, '')} |"
            )
    return table


def parameters(config: str) -> int:
    """Of the configured network for MNIST, as the network's page says; a test holds the page to it."""
    name = configfile.load(ROOT / f"conf/{config}.yml").model.name
    page = ast.get_docstring(ast.parse((ROOT / f"pipelines/models/{name}.py").read_text())) or ""
    found = re.search(r"^([\d,]+) parameters for 28 x 28 x 1 and ten classes", page, re.MULTILINE)
    assert found is not None, name
    return int(found[1].replace(",", ""))
