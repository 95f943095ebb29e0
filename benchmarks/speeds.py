"""Rows per second of each configuration with one and two workers, in the second of two epochs, for the table of results."""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from processes import ROOT, SUBMIT, run
from results_table import CONFIGS

# Same network and batch as the champion.
_LIKE_ANOTHER = ("fashion_mnist",)
SETTINGS = {"training.epochs": 2, "training.warmup_epochs": 0.5}


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """All configurations in sequence, as trials of one sweep, which share a Spark session and so little overhead."""
    configs = [name for name in CONFIGS if name not in _LIKE_ANOTHER]
    speeds: dict[str, dict[str, list[float]]] = {name: {"1": [], "2": []} for name in configs}
    with tempfile.TemporaryDirectory() as home:
        sweep, summary = Path(home) / "speeds.yml", Path(home) / "summary.json"
        files = [str(ROOT / f"conf/{name}.yml") for name in configs]
        sweep.write_text(json.dumps({"purpose": "compare", "configs": files, "side_by_side": 1, "set": SETTINGS}))
        for _ in range(rounds):
            for workers in (1, 2):
                command = [str(SUBMIT), str(ROOT / "jobs/sweep.py"), str(sweep), "--data", str(data)]
                run([*command, "--workers", str(workers), "--summary", str(summary)], Path(home))
                described = json.loads(summary.read_text())
                for trial in described["trials"]:
                    (folder,) = Path(home, described["run_dir"], "trials").glob(f"*-trial-{trial['trial']}")
                    speeds[trial["configuration"]][str(workers)].append(_last_rate(folder))
                print(
                    f"  {workers} workers: { {name: by_workers[str(workers)][-1] for name, by_workers in speeds.items()} }",
                    flush=True,
                )
    return {"rows_per_second": speeds}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    return [
        f"{name:22}" + ", ".join(f"{statistics.median(rates):9,.0f} with {workers}" for workers, rates in by_workers.items())
        for name, by_workers in result["rows_per_second"].items()
    ]


def _last_rate(run_dir: Path) -> float:
    events = map(json.loads, (run_dir / "spool/rank-0.jsonl").read_text().splitlines())
    return round([event["values"]["metrics"]["rows_per_second"] for event in events if event["kind"] == "epoch"][-1])
