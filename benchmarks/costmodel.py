"""The cost of an allreduce and the resulting scaling efficiency: a model with three parameters, fitted to measurements.

A ring of n hosts passes S bytes in 2 (n - 1) messages of S / n bytes each (Patarasuk and Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002), so that a reduction takes

    t(n, S) = base + 2 (n - 1) alpha + 2 (n - 1) / n * S / beta

where `base` is Horovod's time to negotiate a reduction, `alpha` the latency of a message and `beta` the bandwidth of a host.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Reduction:
    """One measured reduction."""

    hosts: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """The model's parameters: seconds, seconds, bytes per second."""

    base: float
    alpha: float
    beta: float

    def seconds(self, hosts: int, num_bytes: int) -> float:
        if hosts == 1:
            return 0.0
        return self.base + 2 * (hosts - 1) * self.alpha + 2 * (hosts - 1) / hosts * num_bytes / self.beta

    def errors(self, measured: Iterable[Reduction]) -> list[float]:
        """Signed relative errors: positive where the model overestimates."""
        return [self.seconds(reduction.hosts, reduction.num_bytes) / reduction.seconds - 1 for reduction in measured]


def fit(measured: Sequence[Reduction]) -> Cost:
    """The model with the least squared relative error and no negative parameter.

    Args:
        measured: at least two sizes and two numbers of hosts, none of them 1.
    """
    rows = np.array([[1.0, 2 * (r.hosts - 1), 2 * (r.hosts - 1) / r.hosts * r.num_bytes] for r in measured])
    seconds = np.array([reduction.seconds for reduction in measured])
    weighted = rows / seconds[:, None]
    # Columns differ by orders of magnitude.
    scale = np.linalg.norm(weighted, axis=0)
    best, least_error = np.zeros(3), np.inf
    # With three parameters that must not be negative, the optimum has some subset at zero.
    for subset in ([0, 1, 2], [1, 2], [0, 2], [2]):
        scaled = np.zeros(3)
        scaled[subset] = np.linalg.lstsq(weighted[:, subset] / scale[subset], np.ones(len(seconds)), rcond=None)[0]
        error = float(np.sum((weighted / scale @ scaled - 1) ** 2))
        if scaled.min() >= 0 and error < least_error:
            best, least_error = scaled / scale, error
    return Cost(float(best[0]), float(best[1]), float(1 / best[2]) if best[2] else float("inf"))


@dataclass(frozen=True)
class FittedCost:
    """A fitted model with its errors."""

    cost: Cost
    median_error: float
    largest_error: float
    unseen_error: float
    """Median error for the largest number of hosts, of a model fitted to the others."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def fit_with_errors(measured: Sequence[Reduction]) -> FittedCost:
    """Fit a model and evaluate it. The error on unseen hosts is NaN with fewer than three numbers of hosts."""
    cost = fit(measured)
    errors = [abs(error) for error in cost.errors(measured)]
    hosts = sorted({reduction.hosts for reduction in measured})
    unseen = float("nan")
    if len(hosts) > 2:
        known = fit([reduction for reduction in measured if reduction.hosts < hosts[-1]])
        unseen = statistics.median(
            abs(error) for error in known.errors(reduction for reduction in measured if reduction.hosts == hosts[-1])
        )
    return FittedCost(cost, statistics.median(errors), max(errors), unseen)


def efficiency(cost: Cost, workers: int, compute_seconds: float, num_bytes: int, hidden: float = 0.0) -> float:
    """Weak-scaling efficiency: speed relative to N times that of one worker, each on its own host with the same batch as alone.

    Args:
        cost: cost model of a reduction.
        workers: number of workers.
        compute_seconds: duration of a step on one worker.
        num_bytes: size of all gradients.
        hidden: seconds of a step that reductions can overlap with. Convoy reduces once, after the backward pass: 0.
    """
    visible = max(0.0, cost.seconds(workers, num_bytes) - hidden)
    return compute_seconds / (compute_seconds + visible)


def from_efficiencies(published: dict[int, float]) -> Cost:
    """The model through two published efficiencies, in units of a step's compute time and gradient size.

    Args:
        published: two efficiencies by number of hosts.
    """
    (few, first), (many, second) = sorted(published.items())
    rows = [[2 * (hosts - 1), 2 * (hosts - 1) / hosts] for hosts in (few, many)]
    alpha, inverse_beta = np.linalg.solve(np.array(rows), np.array([1 / first - 1, 1 / second - 1]))
    return Cost(0.0, float(alpha), float(1 / inverse_beta))
