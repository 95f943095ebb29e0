"""Results of a sweep: the best trial, and tables as CSV, Markdown and text."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import tasks
from pipelines.sweep import space
from pipelines.sweep.plan import Sweep, without_seed
from pipelines.sweep.search import FinishedTrial, TrialOutcome
from pipelines.sweep.space import AxisValue


def ranked(sweep: Sweep, ended: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """Finished trials, best first; then pruned trials, which were trained for fewer epochs; then failed ones."""
    order = {"finished": 0, "pruned": 1, "failed": 2}

    def key(trial: FinishedTrial) -> tuple[int, float, int]:
        value = trial.outcome.value
        return order[trial.outcome.state], 0.0 if value is None else value if sweep.minimised else -value, trial.number

    return sorted(ended, key=key)


def best(sweep: Sweep, ended: Sequence[FinishedTrial]) -> FinishedTrial | None:
    """The best trial. Trials that differ only in their seed are judged by their mean and represented by the first.

    None if no trial has finished, or the sweep only compares.
    """
    if sweep.config.purpose == "compare":
        return None
    groups = [group for group in _groups(ended) if all(trial.outcome.state == "finished" for trial in group)]
    sign = 1 if sweep.minimised else -1
    return min(groups, key=lambda group: sign * statistics.mean(_values(group)), default=[None])[0]


def trial_line(sweep: Sweep, trial: FinishedTrial, ended: int) -> str:
    """One line about a trial that has just ended.

    Args:
        sweep: the trial's sweep.
        trial: the trial.
        ended: number of trials that have ended, this one included.
    """
    outcome = trial.outcome
    head = f"trial {trial.number} ({ended} of {sweep.trials})"
    parts = [head, space.to_text(trial.assignment)]
    if outcome.value is not None:
        parts.append(f"{sweep.metric} {_format_value(sweep.metric, outcome.value)}")
    parts.append(f"{outcome.seconds:.1f} s")
    if outcome.state != "finished":
        parts.append(_state(outcome) + (f": {outcome.note}" if outcome.state == "failed" else ""))
    return "  ".join(part for part in parts if part)


def rows(sweep: Sweep, ended: Sequence[FinishedTrial]) -> list[dict[str, Any]]:
    """The table of all trials, best first, one mapping per row."""
    names = space.short_names([axis.name for axis in sweep.axes])
    extra = [name for name in (sweep.tested, "test/loss") if name != sweep.metric]
    extra = [name for name in extra if any(name in trial.outcome.metrics for trial in ended)]
    failed = any(trial.outcome.state == "failed" for trial in ended)
    return [
        {"trial": trial.number}
        | {names[axis]: value for axis, value in trial.assignment.items()}
        | {sweep.metric: trial.outcome.value}
        | {name: trial.outcome.metrics.get(name) for name in extra}
        | {"epochs": trial.outcome.epochs, "seconds": trial.outcome.seconds}
        | {"state": _state(trial.outcome), "run": trial.outcome.run_id}
        | ({"reason": trial.outcome.note if trial.outcome.state == "failed" else ""} if failed else {})
        for trial in ranked(sweep, ended)
    ]


def comparison(sweep: Sweep, ended: Sequence[FinishedTrial]) -> list[dict[str, Any]]:
    """One row per configuration with mean and range over its seeds, in the order of the sweep file."""
    names = space.short_names([axis.name for axis in sweep.axes])
    rows = []
    for group in _groups(ended):
        finished = [trial for trial in group if trial.outcome.state == "finished"]
        values = _values(finished)
        row: dict[str, Any] = {names[axis]: value for axis, value in without_seed(group[0].assignment).items()}
        mean = statistics.mean(values) if values else None
        row |= {f"{sweep.metric}, mean": mean, "lowest": min(values, default=None), "highest": max(values, default=None)}
        row |= {"trials": len(finished), "failed": len(group) - len(finished)}
        row["seconds, median"] = statistics.median(trial.outcome.seconds for trial in finished) if finished else None
        rows.append(row)
    return rows


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV with a header line and unrounded numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0].keys() if table else ("trial",), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_markdown(table: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The table as Markdown with rounded numbers."""
    columns = list(table[0]) if table else ["trial"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_cell(metric, name, row[name]) for name in columns)} |" for row in table]
    return "\n".join(lines)


def as_text(table: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The table as aligned lines for a terminal, without the reasons of failures, which have been printed before."""
    columns = [name for name in table[0] if name != "reason"] if table else []
    cells = [columns, *([_cell(metric, name, row[name]) for name in columns] for row in table)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def header(sweep: Sweep, trial: FinishedTrial, command: str) -> str:
    """Comment lines for the file with the best configuration."""
    value = trial.outcome.value
    result = f"{sweep.metric} {_format_value(sweep.metric, value)}" if value is not None else ""
    return f"# Trial {trial.number} of sweep {sweep.config.name}, {space.to_text(trial.assignment)}: {result}.\n#   {command}\n"


def _groups(ended: Sequence[FinishedTrial]) -> list[list[FinishedTrial]]:
    """Groups of trials that differ only in their seed, in the order of the sweep."""
    groups: dict[tuple[tuple[str, AxisValue], ...], list[FinishedTrial]] = {}
    for trial in sorted(ended, key=lambda trial: trial.number):
        groups.setdefault(tuple(without_seed(trial.assignment).items()), []).append(trial)
    return list(groups.values())


def _values(group: Sequence[FinishedTrial]) -> list[float]:
    return [trial.outcome.value for trial in group if trial.outcome.value is not None]


def _state(outcome: TrialOutcome) -> str:
    return f"pruned {outcome.note}" if outcome.state == "pruned" else outcome.state


def _format_value(metric: str, value: float) -> str:
    return tasks.shown(metric, value)


def _cell(metric: str, name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if name in ("lowest", "highest") or name.startswith(metric) or "/" in name:
        return _format_value(name.partition(",")[0] if "/" in name else metric, value)
    return f"{value:.1f}" if name.startswith("seconds") else f"{value:.4g}"


def closing_lines(sweep: Sweep, summary: Mapping[str, Any]) -> list[str]:
    """The lines printed at the end: the tables, and where to find the results."""
    comparison = summary["comparison"]
    lines = ["", *as_text(summary["trials"], sweep.metric)]
    if sweep.config.purpose == "compare" or len(comparison) < len(summary["trials"]):
        lines += ["", *as_text(comparison, sweep.metric)]
    lines.append("")
    best = summary["best"]
    if best is not None:
        tested = best["metrics"].get(sweep.tested)
        lines.append(
            f"{'best':15}trial {best['trial']}, {sweep.metric} {_format_value(sweep.metric, best['value'])}"
            + (f", {sweep.tested.replace('/', ' ')} {_format_value(sweep.tested, tested)}" if tested is not None else "")
        )
        lines.append(f"{'configuration':15}{best['config']}  (./convoy train --config trains it)")
    lines.append(f"{'tables':15}{summary['run_dir']}/results.csv, results.md")
    lines.append(f"{'run':15}{summary['run_id'] or 'not yet in MLflow'}  (./convoy ui shows it)")
    return lines
