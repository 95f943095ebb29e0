"""The results stated in README, docs/results.md and the configuration files are those of the recorded runs."""

import re
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "conf").glob("*.yml"))


@pytest.fixture(scope="module")
def results_table():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import results_table
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return results_table


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_a_page_contains_the_table_of_the_recorded_runs(results_table, name):
    page = ROOT / name
    _, _, rest = page.read_text().partition(results_table.BEGIN)
    table, end, _ = rest.partition(results_table.END)
    assert end
    assert table.strip().splitlines() == results_table.lines(*results_table.recorded(), results_table.PAGES[page])


def test_the_page_of_results_shows_every_configuration(results_table):
    assert results_table.PAGES[ROOT / "docs/results.md"] == results_table.CONFIGS


def test_every_configuration_is_in_the_table(results_table):
    assert sorted(results_table.CONFIGS) == CONFIGS


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_file_states_the_mean_of_at_least_three_recorded_seeds(results_table, config):
    header = (ROOT / f"conf/{config}.yml").read_text()
    stated = re.search(r"Expected: .*?([\d.]+) % test accuracy", header.replace("\n# ", " "))
    assert stated is not None
    accuracies = [100 * run["accuracy"] for run in results_table.recorded()[0] if run["config"] == config]
    assert len(accuracies) >= 3
    decimals = len(stated[1].partition(".")[2])
    assert float(stated[1]) == pytest.approx(statistics.mean(accuracies), abs=0.51 * 10**-decimals)


def test_a_mean_and_its_range_are_written_in_percent(results_table):
    runs = [
        {"config": "convnet", "workers": 1, "seed": seed, "epochs": 8, "accuracy": accuracy}
        for seed, accuracy in ((1, 0.98), (2, 0.99), (3, 0.985))
    ]
    (row,) = results_table.lines(runs, {"convnet": {"1": [900.0, 2000.0, 1000.0], "2": [3000.0]}})[2:]
    assert row == "| `conf/convnet.yml` | 149,010 | 8 | 1,000 / 3,000 | 98.50 % (98.00 to 99.00, 3 seeds) |  | 98.6 % |"


def test_a_repeated_run_replaces_the_older_one(results_table, tmp_path, monkeypatch):
    monkeypatch.setattr(results_table, "RECORD", tmp_path / "record.json")
    run = {"config": "convnet", "workers": 1, "seed": 1, "accuracy": 0.98}
    results_table.add({"runs": [run, run | {"seed": 2}]})
    results_table.add({"rows_per_second": {"convnet": {"1": [900.0]}}})
    results_table.add({"runs": [run | {"accuracy": 0.99}]})
    runs, speeds = results_table.recorded()
    assert [(r["seed"], r["accuracy"]) for r in runs] == [(1, 0.99), (2, 0.98)]
    assert speeds == {"convnet": {"1": [900.0]}}
