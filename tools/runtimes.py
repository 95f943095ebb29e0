"""Record the results of `.ci/runtime` in an environment, and write the table of docs/runtimes.md from all records.

python -m tools.runtimes NAME FOLDER    FOLDER contains the tests' JUnit files and the trainings' summaries
python -m tools.runtimes                the table alone
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/runtimes"
PAGE = ROOT / "docs/runtimes.md"
BEGIN, END = "<!-- written by tools/runtimes.py -->", "<!-- end -->"

PARTS = ("unit", "spark", "training", "distributed", "job")
_PACKAGES = ("pyspark", "tensorflow", "keras", "horovod", "petastorm", "numpy", "pandas", "pyarrow", "mlflow")
_TITLES = {"local": "newest", "dbr-15.4-ml": "15.4 LTS ML", "dbr-16.4-ml": "16.4 LTS ML", "dbr-17.3-ml": "17.3 LTS ML"}
_TITLES |= {"dbr-18-ml": "18 LTS ML", "dbr-19-ml": "19 ML"}


def main(arguments: list[str]) -> None:
    if arguments:
        name, folder = arguments[0], Path(arguments[1])
        RECORDS.mkdir(exist_ok=True)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        of = {"commit": commit, "date": datetime.date.today().isoformat()}
        record = {**of, "versions": versions(), "tests": tests(folder), "trainings": trainings(folder)}
        (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    records = {
        name: json.loads((RECORDS / f"{name}.json").read_text()) for name in _TITLES if (RECORDS / f"{name}.json").exists()
    }
    text = PAGE.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{before}\n\n{table(records)}\n\n{after}")


def versions() -> dict[str, str]:
    """Package versions of this environment."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        for name in (package, f"{package}-cpu"):
            try:
                found[package] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def tests(folder: Path) -> dict[str, Any]:
    """How many tests passed, which failed, and how many were skipped for which reason."""
    missing = [part for part in PARTS if not (folder / f"{part}.xml").exists()]
    if missing:
        raise SystemExit(f"{folder} has no results of {', '.join(missing)}: .ci/runtime NAME {' '.join(missing)}")
    # Of a test that was repeated, the last result.
    files = sorted(folder.glob("*.xml"), key=lambda file: file.stat().st_mtime)
    cases = {
        (case.get("classname"), case.get("name")): case for file in files for case in ET.parse(file).iter("testcase")
    }.values()
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [skip for case in cases if (skip := case.find("skipped")) is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": sorted(f"{case.get('classname')}::{case.get('name')}" for case in failed),
        "skipped": dict(Counter(skip.get("message", "") for skip in skipped)),
    }


def trainings(folder: Path) -> list[dict[str, float]]:
    """Accuracy, rows per second and seconds to the first step of each training."""
    found = []
    for file in sorted(folder.glob("seed-*.json")):
        summary = json.loads(file.read_text())
        found.append(
            {
                "accuracy": summary["test"]["accuracy"],
                "rows_per_second": summary["rows_per_second"],
                "first_step": summary["seconds"]["first_step"],
            }
        )
    return found


def table(records: dict[str, dict[str, Any]]) -> str:
    """A Markdown table with one column per environment."""
    rows = [["", *(_TITLES[name] for name in records)]]
    rows += [
        [label, *(record["versions"].get(package, "") for record in records.values())]
        for label, package in (("Python", "python"), ("Spark", "pyspark"), ("TensorFlow", "tensorflow"), ("Keras", "keras"))
    ]
    rows += [[package, *(record["versions"].get(package, "") for record in records.values())] for package in _PACKAGES[3:]]
    rows += [[key, *(record[key] for record in records.values())] for key in ("commit", "date")]
    rows.append(["tests passed", *(f"{record['tests']['passed']:,}" for record in records.values())])
    rows.append(["failed", *(str(len(record["tests"]["failed"])) for record in records.values())])
    rows.append(["skipped", *(str(sum(record["tests"]["skipped"].values())) for record in records.values())])
    for label, key, form in (
        ("accuracy of three seeds, %", "accuracy", lambda value: f"{100 * value:.2f}"),
        ("rows/s, median", "rows_per_second", None),
        ("first step after, s, median", "first_step", None),
    ):
        cells = []
        for record in records.values():
            values = [training[key] for training in record["trainings"]]
            if form or not values:
                cells.append(", ".join(map(form or str, values)))
            else:
                cells.append(f"{statistics.median(values):,.{0 if max(values) > 100 else 1}f}")
        rows.append([label, *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    reasons = {re.sub(r"\s+", " ", reason): None for record in records.values() for reason in record["tests"]["skipped"]}
    failures = [f"- {_TITLES[name]}: {test}" for name, record in records.items() for test in record["tests"]["failed"]]
    parts = ["\n".join(lines)]
    if reasons:
        parts.append("Reasons of skips:\n\n" + "\n".join(f"- {reason}" for reason in reasons))
    if failures:
        parts.append("Failures:\n\n" + "\n".join(failures))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
