"""Whether each cause of a slow or failing training is told, and nothing is told of one that has none.

    ./convoy bench symptoms --rounds 10

Each round is ten trainings that nothing disturbs, of which half stream their rows, and one run of the tests that disturb ranks,
hosts and links, with the windows that trainings have. On a machine that does other work, its symptoms are told as well.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import Any

from processes import ROOT, SUBMIT, run

from pipelines.system import checked_lines
from pipelines.track.rundir import layout

CLEAN_PER_ROUND = 10
SETTINGS = {
    "data.dataset": "mnist-5k",
    "model.name": "convnet_dropout",
    "training.epochs": "16",
    "launch.workers": "2",
    "launch.threads_per_worker": "1",
}
STREAMED = {"stream.memory_limit_mb": "0"}
TESTS = ("tests/distributed/test_slow_ranks.py", "tests/distributed/test_hosts.py", "tests/distributed/test_faults.py")
_CHOSEN = "(slow or locked or taken_away or finite or diverging or stopped) and not left"
# What is told later counts as missed.
_LIMIT_SECONDS = 30.0
# As in `pipelines.launch.health.symptoms`.
_WINDOW_SECONDS = "8"


def measure(_data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """The undisturbed trainings, then the runs of the tests."""
    told: list[list[str]] = []
    seconds: dict[str, list[float]] = defaultdict(list)
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="convoy-symptoms-") as folder:
        for number in range(rounds * CLEAN_PER_ROUND):
            told.append(_undisturbed(Path(folder), number, STREAMED if number % 2 else {}))
            print(f"  undisturbed {number + 1}: {told[-1] or 'nothing told'}", flush=True)
        for number in range(rounds):
            report = results / f"symptoms-{number}.xml"
            words = [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", _CHOSEN, "--junitxml", str(report)]
            subprocess.run(words, cwd=ROOT, env=os.environ | {"CONVOY_SYMPTOM_WINDOW": _WINDOW_SECONDS}, check=False)
            for case in ET.parse(report).iter("testcase"):
                if case.find("failure") is not None or case.find("error") is not None:
                    missed.append(f"round {number + 1}: {case.get('name')}")
                for found in case.iter("property"):
                    name, value = found.get("name", ""), float(found.get("value", "nan"))
                    seconds[name].append(value)
                    if value > _LIMIT_SECONDS:
                        missed.append(f"round {number + 1}: {name}, told after {value:.0f} s")
    return {"told_of_undisturbed": told, "seconds_until_told": dict(seconds), "missed": missed}


def _undisturbed(folder: Path, number: int, more: dict[str, str]) -> list[str]:
    """The symptoms told of a training that nothing disturbs."""
    home = folder / str(number)
    home.mkdir()
    settings = SETTINGS | {"ingest.tables_uri": str(folder / "tables")} | more
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run([str(SUBMIT), "jobs/train_cnn.py", "--quiet", *sets], home)
    (run_dir,) = (home / "runs").iterdir()
    file = run_dir / layout.SYMPTOMS_FILE
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [json.dumps(checked_lines.decode(line)) for line in lines]


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    alarms = [symptom for told in result["told_of_undisturbed"] for symptom in told]
    text = [f"{len(result['told_of_undisturbed'])} undisturbed trainings: {len(alarms)} symptoms told"]
    text += [f"  FALSE: {alarm}" for alarm in alarms]
    text += [
        f"{name}: told after {statistics.median(values):.0f} s ({min(values):.0f} to {max(values):.0f}), {len(values)} times"
        for name, values in result["seconds_until_told"].items()
    ]
    return text + ([f"  MISSED: {test}" for test in result["missed"]] or ["none missed"])
