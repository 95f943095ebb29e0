"""Groups the entries of a journal into requests to a tracking server."""

from collections.abc import Sequence

from pipelines.track.mlflow.journal_file import Entry

BATCHED = ("params", "tags", "metrics")
"""Actions that can share a request."""
# Limits of `log_batch`: https://mlflow.org/docs/latest/rest-api.html#log-batch
_MAX_VALUES = 1000
_MAX_PARAMS_OR_TAGS = 100


def requests(pending: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries so that a slow server gets few requests. A status comes last."""
    groups: list[list[Entry]] = []
    batched = [entry for entry in pending if entry.action in BATCHED]
    capacity = {"params": 0, "tags": 0, "metrics": 0}
    for entry in batched:
        count = len(single_values(entry))
        capacity[entry.action] -= count
        capacity["all"] = capacity.get("all", 0) - count
        if not groups or min(capacity.values()) < 0:
            groups.append([])
            capacity = {"params": _MAX_PARAMS_OR_TAGS, "tags": _MAX_PARAMS_OR_TAGS, "metrics": _MAX_VALUES, "all": _MAX_VALUES}
            capacity[entry.action] -= count
            capacity["all"] -= count
        groups[-1].append(entry)
    others = [entry for entry in pending if entry.action not in (*BATCHED, "open", "status")]
    return groups + [[entry] for entry in others] + [[entry] for entry in pending if entry.action == "status"]


def points(entry: Entry) -> list[tuple[str, float]]:
    """Names and values of the metrics of an entry."""
    return list(entry.values["values"].items())


def single_values(entry: Entry) -> list[tuple[str, Entry]]:
    """Split an entry into one for each value, with its key."""
    if entry.action == "metrics":
        step = entry.values["step"]
        return [
            (key, Entry(entry.n, "metrics", entry.time, {"step": step, "values": {key: value}})) for key, value in points(entry)
        ]
    if entry.action in ("params", "tags"):
        return [(key, Entry(entry.n, entry.action, entry.time, {key: value})) for key, value in entry.values.items()]
    return [(entry.action, entry)]
