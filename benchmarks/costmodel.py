"""What an allreduce costs, and what is left of N workers' speed: a model with three numbers, fitted to measurements.

A ring of n hosts passes S bytes in 2 (n - 1) messages of S / n bytes each (Patarasuk and Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002), so that a reduction takes

    t(n, S) = base + 2 (n - 1) alpha + 2 (n - 1) / n * S / beta

with `base` the time in which Horovod agrees on what to reduce, `alpha` the latency of a message and `beta` the bandwidth of
a host.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Reduction:
    """One measurement."""

    hosts: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """The model. Seconds, seconds, bytes a second."""

    base: float
    alpha: float
    beta: float

    def seconds(self, hosts: int, num_bytes: int) -> float:
        if hosts == 1:
            return 0.0
        return self.base + 2 * (hosts - 1) * self.alpha + 2 * (hosts - 1) / hosts * num_bytes / self.beta

    def errors(self, measured: Iterable[Reduction]) -> list[float]:
        """Relative, with sign: positive where the model says more than was measured."""
        return [self.seconds(one.hosts, one.num_bytes) / one.seconds - 1 for one in measured]


def fit(measured: Sequence[Reduction]) -> Cost:
    """The model that is least wrong in relation to what was measured, none of its numbers below zero.

    Args:
        measured: with two sizes and two numbers of hosts at least, none of them 1.
    """
    rows = np.array([[1.0, 2 * (one.hosts - 1), 2 * (one.hosts - 1) / one.hosts * one.num_bytes] for one in measured])
    seconds = np.array([one.seconds for one in measured])
    weighted = rows / seconds[:, None]
    # Columns differ by powers of ten.
    scale = np.linalg.norm(weighted, axis=0)
    best, least = np.zeros(3), np.inf
    # Of three numbers that must not be negative, the best choice has some subset at zero.
    for subset in ([0, 1, 2], [1, 2], [0, 2], [2]):
        found = np.zeros(3)
        found[subset] = np.linalg.lstsq(weighted[:, subset] / scale[subset], np.ones(len(seconds)), rcond=None)[0]
        wrong = float(np.sum((weighted / scale @ found - 1) ** 2))
        if found.min() >= 0 and wrong < least:
            best, least = found / scale, wrong
    return Cost(float(best[0]), float(best[1]), float(1 / best[2]) if best[2] else float("inf"))


@dataclass(frozen=True)
class Fitted:
    """A model with what it is worth."""

    cost: Cost
    median_error: float
    largest_error: float
    unseen_error: float
    """The median for the largest number of hosts, by a model fitted to the others."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def judged(measured: Sequence[Reduction]) -> Fitted:
    """Fit, and say how far off it is. With fewer than three numbers of hosts nothing is unseen, and its error is not a number."""
    cost = fit(measured)
    errors = [abs(error) for error in cost.errors(measured)]
    hosts = sorted({one.hosts for one in measured})
    unseen = float("nan")
    if len(hosts) > 2:
        known = fit([one for one in measured if one.hosts < hosts[-1]])
        unseen = statistics.median(abs(error) for error in known.errors(one for one in measured if one.hosts == hosts[-1]))
    return Fitted(cost, statistics.median(errors), max(errors), unseen)


def efficiency(cost: Cost, workers: int, compute_seconds: float, num_bytes: int, hidden: float = 0.0) -> float:
    """Share of N times the speed of one worker, each on a host of its own and with the same batch as alone.

    Args:
        cost: of a reduction.
        workers: how many.
        compute_seconds: of a step on one worker.
        num_bytes: of all gradients.
        hidden: seconds of the step during which reductions can run beside it. Convoy reduces once, after the backward pass: 0.
    """
    visible = max(0.0, cost.seconds(workers, num_bytes) - hidden)
    return compute_seconds / (compute_seconds + visible)


def from_efficiencies(published: dict[int, float]) -> Cost:
    """The model, in units of a step's compute time and of its gradients, that goes through two published efficiencies.

    Args:
        published: by number of hosts, two of them.
    """
    (few, first), (many, second) = sorted(published.items())
    rows = [[2 * (hosts - 1), 2 * (hosts - 1) / hosts] for hosts in (few, many)]
    alpha, inverse_beta = np.linalg.solve(np.array(rows), np.array([1 / first - 1, 1 / second - 1]))
    return Cost(0.0, float(alpha), float(1 / inverse_beta))
