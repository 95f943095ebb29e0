"""The tables of results: what each configuration reached, and what was published. README.md has a part of docs/results.md.

    python benchmarks/results_table.py bench-results/accuracies.json    adds its runs to the record, writes both tables
    python benchmarks/results_table.py bench-results/speeds.json        replaces the record's speeds by its own
    python benchmarks/results_table.py                                  writes the tables from the record alone

The record, benchmarks/recorded.json, holds every run that the tables count. Speeds are measured separately: accuracies take
hours, in which a shared machine is not idle.
"""

import ast
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import ROOT

from pipelines.config import DataConfig, loader

RECORD = ROOT / "benchmarks/recorded.json"
BEGIN, END = "<!-- results: written by benchmarks/results_table.py -->", "<!-- end of results -->"
# Test accuracy reported by the course, or by the paper of a network or data set.
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
    # README of the data set's authors: networks of two convolutions, no augmentation; WRN-28-10, images mirrored and erased.
    "fashion_mnist": "91.6 to 92.5 % (two convolutions), 96.3 % (36 million parameters)",
}
CONFIGS = (
    "train_cnn",
    "champion",
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
    "fashion_mnist",
)
# Configurations in the table of each page.
PAGES = {
    ROOT / "docs/results.md": CONFIGS,
    ROOT / "README.md": ("train_cnn", "champion", "convnet", "convnet_dropout", "mlp", "fashion_mnist"),
}


def data(config: str, mnist: Path) -> Path | None:
    """The folder with a configuration's data, or None if it names its own."""
    return mnist if loader.load(ROOT / f"conf/{config}.yml").data.dataset == DataConfig().dataset else None


def lines(runs: list[dict[str, Any]], speeds: dict[str, dict[str, list[float]]], configs: Sequence[str] = CONFIGS) -> list[str]:
    """A table in Markdown.

    Args:
        runs: each with `config`, `workers`, `seed`, `epochs` and `accuracy` (0 to 1).
        speeds: measured rows per second by configuration and number of workers.
        configs: the configurations to show, in order.
    """
    table = [
        "| configuration | parameters | epochs | rows/s | test accuracy, 1 worker | 2 workers | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for config in configs:
        by_workers = {w: [run for run in runs if (run["config"], run["workers"]) == (config, w)] for w in (1, 2)}
        measured = [group for group in by_workers.values() if group]
        if not measured:
            continue
        speed = " / ".join(f"{statistics.median(rates):,.0f}" for rates in speeds.get(config, {}).values())
        table.append(
            f"| `conf/{config}.yml` | {parameters(config):,} | {measured[0][0]['epochs']} | {speed} | "
            f"{accuracy(by_workers[1])} | {accuracy(by_workers[2])} | {PUBLISHED.get(config, '')} |"
        )
    return table


def accuracy(runs: list[dict[str, Any]]) -> str:
    """Mean, range and number of seeds; empty without runs."""
    if not runs:
        return ""
    percent = [100 * run["accuracy"] for run in runs]
    return f"{statistics.mean(percent):.2f} % ({min(percent):.2f} to {max(percent):.2f}, {len(runs)} seeds)"


def parameters(config: str) -> int:
    """Number of parameters of the configured network for images of 28 x 28 and ten classes, from its docstring (tested)."""
    name = loader.load(ROOT / f"conf/{config}.yml").model.name
    docstring = ast.get_docstring(ast.parse((ROOT / f"pipelines/models/{name}.py").read_text())) or ""
    match = re.search(r"^([\d,]+) parameters for 28 x 28 x 1 and ten classes", docstring, re.MULTILINE)
    assert match is not None, name
    return int(match[1].replace(",", ""))


def recorded() -> tuple[list[dict[str, Any]], dict[str, dict[str, list[float]]]]:
    """The record's runs and speeds, as arguments of `lines`."""
    if not RECORD.exists():
        return [], {}
    content = json.loads(RECORD.read_text())
    return content["runs"], content["speeds"]


def add(result: dict[str, Any]) -> None:
    """Add a part's result to the record. A run replaces an older one with the same configuration, workers and seed."""
    runs, speeds = recorded()
    by_key = {(run["config"], run["workers"], run["seed"]): run for run in [*runs, *result.get("runs", [])]}
    order = sorted(by_key, key=lambda key: (CONFIGS.index(key[0]), *key[1:]))
    listed = ",\n".join("  " + json.dumps(by_key[key]) for key in order)
    speeds |= result.get("rows_per_second", {})
    RECORD.write_text(f'{{"speeds": {json.dumps(speeds)},\n "runs": [\n{listed}\n]}}\n')


def write_pages() -> None:
    for page, configs in PAGES.items():
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text("\n".join([before + BEGIN, *lines(*recorded(), configs), END + after]))


if __name__ == "__main__":
    for file in sys.argv[1:]:
        add(json.loads(Path(file).read_text())["result"])
    write_pages()
