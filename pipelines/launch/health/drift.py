"""Ranks whose weights are not those of the others, by the digests in their heartbeats.

The end of the epoch ends such a training; the driver tells it within seconds, from `pipelines.train.weight_digests`.
"""

from collections import Counter
from collections.abc import Sequence

from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.track.rundir.symptom import Symptom


def find_drift(heartbeats: Sequence[Heartbeat]) -> list[Symptom]:
    """What the latest heartbeats of all ranks, in rank order, show; one symptom at most."""
    digests = [dict(heartbeat.progress.weight_digests) for heartbeat in heartbeats]
    for step in sorted(set(digests[0]).intersection(*digests[1:])):
        # Of two, the first counts as right, as at the end of the epoch.
        ((usual, _),) = Counter(each[step] for each in digests).most_common(1)
        different = [rank for rank, each in enumerate(digests) if each[step] != usual]
        if different:
            return [_symptom(different, heartbeats, step)]
    return []


def _symptom(different: list[int], heartbeats: Sequence[Heartbeat], step: int) -> Symptom:
    one = len(different) == 1
    names = ", ".join(f"{rank} on {heartbeats[rank].host}" for rank in different)
    line = (
        f"the weights of rank{'' if one else 's'} {names} differ from those of the other ranks after step {step:,}; the training "
        "ends with an error at the end of the epoch"
    )
    return Symptom(
        kind="drifted",
        rank=different[0] if one else None,
        host=heartbeats[different[0]].host if one else "",
        line=line,
        figures={"ranks": ", ".join(map(str, different)), "step": step},
    )
