"""Why a training is slower than it could be, from what all ranks did in two windows, one after the other.

In synchronous training a step takes equally long on all ranks. What differs is a rank's own part of it, until its gradients are
ready; the others wait for the slowest. What no rank's own part explains is the network's.
"""

import statistics
from collections.abc import Callable

from pipelines.launch.health.windows import Window
from pipelines.system.process_usage import Link
from pipelines.track.rundir.symptom import Kind, Symptom

# Of the own part of a step in the faster half of the ranks; and as a share of a whole step.
_SLOW_FACTOR, _SLOW_SHARE = 1.5, 0.2
# What explains that, as shares of the window; and of the excess over the others' part.
_QUEUED_SHARE, _THROTTLED_SHARE, _READING_SHARE, _COMPUTING_SHARE = 0.3, 0.1, 0.5, 0.5
_QUEUED_EXCESS = 0.5
# Of a step: what it costs that ranks are slow in turn, or that the network is.
_WANDERING_SHARE, _NETWORK_SHARE, _LOSSY_SHARE = 0.3, 0.75, 0.3
# Standard deviations of a rank's own part and of its waits, of their means.
_UNSTEADY = 0.3
# Longer waits than this many deviations have another reason.
_WAITS_OF_DEVIATION = 3
# A slow link, whose queue overflows, loses some, too: 1.1 % were sent again at a twentieth of the other hosts' rate.
_RETRANSMITTED_SHARE = 0.02
# Of the busiest host's connections, to those of the next.
_BUSY_FACTOR = 1.3


def compare(earlier: list[Window], later: list[Window]) -> list[Symptom]:
    """The symptoms that both windows show, one at most.

    Args:
        earlier, later: the windows of all ranks, in rank order.
    """
    if len(later) < 2:
        return []
    before, now = (_slow_ranks(windows) for windows in (earlier, later))
    if before & now:
        return [_explain_slow_rank(max((later[index] for index in before & now), key=lambda window: window.own), later)]
    if all(_is_lossy(windows) for windows in (earlier, later)):
        return [_lossy_link(later)]
    if all(_takes_turns(windows) for windows in (earlier, later)) or (before and now):
        return [_wandering(later)]
    if not before and not now and all(_network_share(windows) > _NETWORK_SHARE for windows in (earlier, later)):
        return [_slow_network(later)]
    return []


def _slow_ranks(windows: list[Window]) -> set[int]:
    """The indices of the ranks whose own part of a step is much longer than that of the faster half."""
    fast = _of_faster_half([window.own for window in windows])
    return {
        index
        for index, window in enumerate(windows)
        if window.own > _SLOW_FACTOR * fast and window.own - fast > _SLOW_SHARE * window.step
    }


def _of_faster_half(values: list[float]) -> float:
    """The median of the smaller half: a slow host may have half of the ranks."""
    return statistics.median(sorted(values)[: (len(values) + 1) // 2])


def _explain_slow_rank(slow: Window, windows: list[Window]) -> Symptom:
    others = _of_faster_half([window.own for window in windows])
    queued = slow.queued - _of_faster_half([window.queued for window in windows])
    throttled = slow.throttled_share - _of_faster_half([window.throttled_share for window in windows])
    figures: dict[str, float | str] = {
        "own_seconds_per_step": slow.own,
        "own_seconds_per_step_of_others": others,
        "queued_seconds_per_step": slow.queued,
        "queued_seconds_per_step_more_than_others": queued,
        "queued_share": slow.queued_share,
        "throttled_share": slow.throttled_share,
        "throttled_share_more_than_others": throttled,
        "processor_share": slow.processor_share,
        "reading_share": slow.reading_share,
        "window_seconds": slow.seconds,
        "steps": slow.steps,
    }
    where = f"rank {slow.rank} on {slow.host}"
    times = f"its part of a step takes {slow.own / max(others, 1e-9):.1f} times as long as the others' ({1e3 * slow.own:.0f} ms)"
    kind: Kind
    if throttled > _THROTTLED_SHARE:
        kind = "slow processor"
        why = f"for {slow.throttled_share:.0%} of the time its control group's limit of processors holds it; raise that"
    elif queued > _QUEUED_EXCESS * (slow.own - others) and slow.queued_share > _QUEUED_SHARE:
        kind = "slow processor"
        why = f"its threads wait for a processor ({1e3 * queued:.0f} ms more than the others'); look for other programs there"
    elif slow.reading_share > _READING_SHARE:
        kind = "starved"
        why = f"for {slow.reading_share:.0%} of the time its reader waits for {slow.reading or 'rows'}; look at its disk or mount"
    elif slow.processor_share > _COMPUTING_SHARE:
        kind = "slow processor"
        why = f"it computes for {slow.processor_share:.0%} of the time; its processor is slower, or it has more to do"
    else:
        kind = "slow rank"
        why = (
            f"it computes for only {slow.processor_share:.0%} of the time, and waits neither for rows nor for a processor; look "
            "for callbacks, for paging and at its log"
        )
    verb = "is starved by its input" if kind == "starved" else "is slower than the others"
    return Symptom(kind=kind, rank=slow.rank, host=slow.host, line=f"{where} {verb}: {times}; {why}", figures=figures)


def _takes_turns(windows: list[Window]) -> bool:
    """Whether ranks wait for one another because their own parts vary, and not in the same steps: then they would not wait."""
    step = max(window.step for window in windows)
    waits = min(window.waited for window in windows)
    unsteady = [window for window in windows if window.deviation > _UNSTEADY * window.own]
    wait_in_turn = all(window.waited_deviation > _UNSTEADY * window.waited for window in windows)
    longest = max((window.deviation for window in unsteady), default=0.0)
    return len(unsteady) > 1 and wait_in_turn and _WANDERING_SHARE * step < waits < _WAITS_OF_DEVIATION * longest


def _wandering(windows: list[Window]) -> Symptom:
    step = max(window.step for window in windows)
    share = min(window.waited for window in windows) / step
    unsteady = {f"deviation_of_rank_{window.rank}": window.deviation for window in windows}
    line = (
        f"the ranks are slow in turn: each waits for others for at least {share:.0%} of a step ({1e3 * step:.0f} ms); look for "
        "other programs on the nodes, or give each rank processors of its own"
    )
    return Symptom(
        kind="wandering", rank=None, host="", line=line, figures={"step_seconds": step, "waited_share": share, **unsteady}
    )


def _network_share(windows: list[Window]) -> float:
    """The share of a step in which even the slowest rank waits, so that it waits for no rank."""
    return min(window.waited / window.step for window in windows)


def _is_lossy(windows: list[Window]) -> bool:
    _, _, link = _worst(windows, lambda link: link.retransmitted)
    return _network_share(windows) > _LOSSY_SHARE and link.retransmitted > _RETRANSMITTED_SHARE * max(link.segments, 1)


def _worst(windows: list[Window], badness: Callable[[Link], float]) -> tuple[Window, str, Link]:
    """The link for which `badness` is greatest, with its rank and the address at its other end."""
    found = [(window, address, link) for window in windows for address, link in window.links.items()]
    return max(found, key=lambda each: badness(each[2]), default=(windows[0], "", Link()))


def _lossy_link(windows: list[Window]) -> Symptom:
    window, address, link = _worst(windows, lambda link: link.retransmitted)
    share, lost = _network_share(windows), link.retransmitted / max(link.segments, 1)
    line = (
        f"the link of rank {window.rank} on {window.host} to {address} loses data: {lost:.1%} of its segments were sent again, "
        f"and the ranks wait for the network for {share:.0%} of a step; look at that host's network"
    )
    figures = {**_link_figures(windows, link), "other_end": address}
    return Symptom(kind="lossy link", rank=window.rank, host=window.host, line=line, figures=figures)


def _slow_network(windows: list[Window]) -> Symptom:
    share = _network_share(windows)
    waits = f"the ranks wait for the network for {share:.0%} of a step"
    remedy = "training.compression=float16 halves what is sent, larger batches have fewer steps"
    shares = _busy_shares(windows)
    busiest = max(shares, key=lambda address: shares[address], default="")
    others = max((busy for address, busy in shares.items() if address != busiest), default=0.0)
    window, _, link = _worst([each for each in windows if each.address == busiest] or windows, lambda link: link.busy_seconds)
    figures = {**_link_figures(windows, link), **{f"busy_share_at_{address}": busy for address, busy in shares.items()}}
    if shares.get(busiest, 0.0) > _BUSY_FACTOR * others:
        # The busiest connection may be one that carries little, behind those that carry much.
        rate = sum(each.sent for each in window.links.values()) / max(link.busy_seconds, 1e-9) / 1e6
        line = (
            f"the link of rank {window.rank} on {window.host} is slow: {rate:.1f} MB/s while it sends, and {waits}; look at that "
            f"host's network, or {remedy}"
        )
        return Symptom(kind="slow link", rank=window.rank, host=window.host, line=line, figures=figures)
    sent = sum(link.sent for each in windows for link in each.links.values()) / sum(each.seconds for each in windows) / 1e6
    line = f"{waits}, and each sends {sent:.1f} MB/s; {remedy}"
    return Symptom(kind="slow network", rank=None, host="", line=line, figures=figures)


def _busy_shares(windows: list[Window]) -> dict[str, float]:
    """For each host, by address, the shares of the time in which its connections waited for acknowledgements.

    Those to it count, too: what waits to leave a slow link delays the acknowledgements of what it receives.
    """
    shares = dict.fromkeys((window.address for window in windows), 0.0)
    for window in windows:
        for address, link in window.links.items():
            for end in (window.address, address):
                shares[end] = shares.get(end, 0.0) + link.busy_seconds / window.seconds
    return shares


def _link_figures(windows: list[Window], link: Link) -> dict[str, float | str]:
    return {
        "network_share": _network_share(windows),
        "step_seconds": max(window.step for window in windows),
        "sent_bytes": link.sent,
        "segments": link.segments,
        "retransmitted": link.retransmitted,
        "busy_seconds": link.busy_seconds,
    }
