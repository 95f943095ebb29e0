"""Which entries of a journal are sent to a tracking server together."""

from collections.abc import Sequence

from pipelines.track.mlflow.journal import Entry

BATCHED = ("params", "tags", "metrics")
"""Actions of which one request may hold many."""
# What one `log_batch` may hold: https://mlflow.org/docs/latest/rest-api.html#log-batch
_MOST_VALUES = 1000
_MOST_PARAMS_OR_TAGS = 100


def requests(pending: Sequence[Entry]) -> list[list[Entry]]:
    """Entries to be sent together: one request may hold many values, and a slow server is asked seldom. A status comes last."""
    groups: list[list[Entry]] = []
    batched = [entry for entry in pending if entry.action in BATCHED]
    room = {"params": 0, "tags": 0, "metrics": 0}
    for entry in batched:
        count = len(single_values(entry))
        room[entry.action] -= count
        room["all"] = room.get("all", 0) - count
        if not groups or min(room.values()) < 0:
            groups.append([])
            room = {"params": _MOST_PARAMS_OR_TAGS, "tags": _MOST_PARAMS_OR_TAGS, "metrics": _MOST_VALUES, "all": _MOST_VALUES}
            room[entry.action] -= count
            room["all"] -= count
        groups[-1].append(entry)
    others = [entry for entry in pending if entry.action not in (*BATCHED, "open", "status")]
    return groups + [[entry] for entry in others] + [[entry] for entry in pending if entry.action == "status"]


def points(entry: Entry) -> list[tuple[str, float]]:
    """The metrics of an entry, by name."""
    return list(entry.values["values"].items())


def single_values(entry: Entry) -> list[tuple[str, Entry]]:
    """One entry for each value."""
    if entry.action == "metrics":
        step = entry.values["step"]
        return [
            (key, Entry(entry.n, "metrics", entry.time, {"step": step, "values": {key: value}})) for key, value in points(entry)
        ]
    if entry.action in ("params", "tags"):
        return [(key, Entry(entry.n, entry.action, entry.time, {key: value})) for key, value in entry.values.items()]
    return [(entry.action, entry)]
