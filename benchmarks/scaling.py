"""How training scales over hosts: allreduces and steps measured on 1 to 4 hosts, a cost model, and its prediction for 512.

The hosts are network namespaces of this machine (`cluster/`). For the steps each may use a fraction of a core, so that two cores
stand for four hosts, and may send at most 500 Mbit/s, so that the network costs something. `--rounds` repeats each measurement.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Ranks import its modules through the package `benchmarks`.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import costmodel, rankwork
from benchmarks.cluster.cluster import Cluster, ClusterDriver
from benchmarks.cluster.network import HostError, why_not
from benchmarks.costmodel import Cost, Reduction, efficiency

HOSTS = (1, 2, 3, 4)
REDUCING_HOSTS = (2, 3, 4)
SIZES = [1 << power for power in range(10, 25, 2)]
MEGABITS = 500
# A second link with less bandwidth and more latency. The delay is simulated in Python, which could not keep up with a faster one.
SLOW_MEGABITS, DELAY = 100, 0.001
# Cores per host. Four hosts leave some of this machine's two cores to the daemons.
QUOTA = 0.4
WEAK_BATCH, STRONG_BATCH = 64, 256
STEPS = 40
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_WAYS = {"seconds": "", "seconds_together": " reduced after the backward pass", "seconds_flat": " with Horovod between all ranks"}

PUBLISHED = {
    "ResNet-50 on CPUs, Gloo, machines (Horovod's pull request 1120)": {2: 0.78, 4: 0.61, 8: 0.47},
    "Inception V3 and ResNet-101, 512 GPUs, 25 Gbit/s (Sergeev and Del Balso 2018, arXiv:1802.05799)": {512: 0.90},
}
# 64 images per step on a P100 at 142 per second (TensorFlow's benchmarks of 2017), and 23.8 million weights (Keras's model page).
INCEPTION_SECONDS, INCEPTION_BYTES, INCEPTION_BANDWIDTH = 64 / 142, 4 * 23_851_784, 25e9 / 8


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Reductions without and with added latency, then steps with a fraction of a core; the chart is stored beside the figures."""
    if why_not():
        raise HostError(why_not())
    with tempfile.TemporaryDirectory() as folder:
        with _hosts(Path(folder) / "reductions", 0) as (cluster, driver):
            reductions = {f"{MEGABITS} Mbit/s": _reductions(cluster, driver, rounds)}
            cluster.network.limit(SLOW_MEGABITS)
            with cluster.network.delay(DELAY):
                reductions[f"{SLOW_MEGABITS} Mbit/s, {1000 * DELAY:.0f} ms"] = _reductions(cluster, driver, rounds)
        with _hosts(Path(folder) / "steps", QUOTA) as (cluster, driver):
            steps = {hosts: _steps(cluster, driver, hosts, rounds) for hosts in HOSTS}
        with _hosts(Path(folder) / "ranks", QUOTA, hosts=2, cores=2) as (cluster, driver):
            by_ranks_per_host = {ranks: _steps(cluster, driver, 2 * ranks, rounds) for ranks in (1, 2)}
    result = evaluate(reductions, steps) | {"two_hosts_by_ranks_per_host": by_ranks_per_host}
    _draw(result, results / "scaling.png")
    return result


def evaluate(reductions: dict[str, list[Reduction]], steps: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Models, efficiencies and predictions from the measurements, as plain data."""
    fitted = {link: costmodel.fit_with_errors(measured) for link, measured in reductions.items()}
    alone, cost = steps[1]["seconds"], next(iter(fitted.values())).cost
    size = steps[1]["gradient_bytes"]
    scaling = []
    for hosts, measured in steps.items():
        weak, strong = measured["seconds"]["weak"], measured["seconds"]["strong"]
        scaling.append(
            {
                "hosts": hosts,
                "weak_step_seconds": weak,
                "weak_step_seconds_together": measured["seconds_together"]["weak"],
                "weak_efficiency": alone["weak"] / weak,
                "weak_efficiency_by_model": efficiency(cost, hosts, alone["weak"], size),
                "strong_step_seconds": strong,
                "strong_efficiency": alone["strong"] / (hosts * strong),
                "strong_efficiency_by_model": alone["strong"] / hosts / (alone["strong"] / hosts + cost.seconds(hosts, size)),
            }
        )
    return {
        "settings": {"quota": QUOTA, "megabits": MEGABITS, "weak_batch": WEAK_BATCH, "strong_batch": STRONG_BATCH},
        "network": rankwork.NETWORK,
        "gradient_bytes": size,
        "reductions": {link: [asdict(one) for one in measured] for link, measured in reductions.items()},
        "models": {link: one.to_json() for link, one in fitted.items()},
        "scaling": scaling,
        "predictions": predictions(cost, alone["weak"], size),
        "published": {name: {str(hosts): share for hosts, share in shares.items()} for name, shares in PUBLISHED.items()},
    }


def predictions(cost: Cost, compute_seconds: float, num_bytes: int) -> dict[str, dict[str, float]]:
    """Predicted efficiency by number of workers, for this measurement and for the published ones."""
    gloo = next(shares for shares in PUBLISHED.values() if 2 in shares)
    published = costmodel.from_efficiencies({2: gloo[2], 4: gloo[4]})
    faster = Cost(cost.base, cost.alpha, 10 * cost.beta)
    inception = Cost(0.0, 20e-6, INCEPTION_BANDWIDTH)
    # Horovod's own optimizers overlap reductions with the backward pass, which is two thirds of a step.
    hidden = INCEPTION_SECONDS * 2 / 3
    rows = {
        "as measured": lambda n: efficiency(cost, n, compute_seconds, num_bytes),
        "with ten times the bandwidth": lambda n: efficiency(faster, n, compute_seconds, num_bytes),
        "ResNet-50, Gloo, fitted to its 2 and 4": lambda n: efficiency(published, n, 1.0, 1),
        "Inception V3, 25 Gbit/s, nothing hidden": lambda n: efficiency(inception, n, INCEPTION_SECONDS, INCEPTION_BYTES),
        "Inception V3, 25 Gbit/s, all hidden that can be": lambda n: efficiency(
            inception, n, INCEPTION_SECONDS, INCEPTION_BYTES, hidden
        ),
    }
    return {name: {str(workers): share(workers) for workers in WORKERS} for name, share in rows.items()}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    text = []
    for link, model in result["models"].items():
        cost, errors = model["cost"], (model["median_error"], model["largest_error"], model["unseen_error"])
        half, most, unseen = (f"{100 * error:.0f} %" for error in errors)
        text.append(
            f"{link}: base {1000 * cost['base']:.1f} ms, alpha {1000 * cost['alpha']:.2f} ms, "
            f"beta {8e-6 * cost['beta']:.0f} Mbit/s; error {half} (median), {most} (maximum), "
            f"{unseen} for an unseen number of hosts"
        )
    for row in result["scaling"]:
        text.append(
            f"{row['hosts']} hosts  weak {1000 * row['weak_step_seconds']:6.0f} ms/step, {100 * row['weak_efficiency']:3.0f} % "
            f"(model {100 * row['weak_efficiency_by_model']:3.0f} %; reduced after the backward pass "
            f"{1000 * row['weak_step_seconds_together']:6.0f} ms)   strong {1000 * row['strong_step_seconds']:6.0f} ms, "
            f"{100 * row['strong_efficiency']:3.0f} % (model {100 * row['strong_efficiency_by_model']:3.0f} %)"
        )
    for ranks, measured in result["two_hosts_by_ranks_per_host"].items():
        of_ways = ", ".join(f"{1000 * seconds['strong']:.0f} ms{_WAYS[way]}" for way, seconds in measured.items() if way in _WAYS)
        text.append(f"two hosts with {ranks} ranks each, {STRONG_BATCH} rows together: {of_ways}")
    width = max(map(len, [*result["predictions"], *result["published"]]))
    text.append(f"{'workers':{width}}  " + " ".join(f"{workers:>5}" for workers in WORKERS))
    for name, shares in {**result["predictions"], **result["published"]}.items():
        cells = (f"{100 * shares[str(workers)]:5.0f}" if str(workers) in shares else "    -" for workers in WORKERS)
        text.append(f"{name:{width}}  " + " ".join(cells))
    return text


@contextmanager
def _hosts(folder: Path, quota: float, hosts: int = max(HOSTS), cores: int = 1) -> Iterator[tuple[Cluster, ClusterDriver]]:
    with Cluster(folder, hosts=hosts, cores=cores, quota=quota) as cluster, cluster.driver() as driver:
        cluster.network.limit(MEGABITS)
        yield cluster, driver


def _reductions(cluster: Cluster, driver: ClusterDriver, rounds: int) -> list[Reduction]:
    reductions = []
    for hosts in REDUCING_HOSTS:
        arguments = (SIZES, 0.5 * rounds)
        by_rank = driver.call(
            rankwork.run, rankwork.reductions, hosts, arguments, rankwork.folder_of(cluster.folder), seconds=600
        )
        reductions += [Reduction(hosts, size, max(rank[size] for rank in by_rank)) for size in SIZES]
        print(f"  reductions on {hosts} hosts done", flush=True)
    return reductions


def _steps(cluster: Cluster, driver: ClusterDriver, ranks: int, rounds: int) -> dict[str, Any]:
    arguments = ({"weak": WEAK_BATCH, "strong": STRONG_BATCH // ranks}, STEPS)
    runs = rankwork.folder_of(cluster.folder)
    results = [driver.call(rankwork.run, rankwork.steps, ranks, arguments, runs, seconds=600)[0] for _ in range(rounds)]
    print(f"  steps of {ranks} ranks on {len(cluster.workers)} hosts at most done", flush=True)
    ways = [key for key in results[0] if key.startswith("seconds")]
    return {
        "gradient_bytes": results[0]["gradient_bytes"],
        **{way: {batch: statistics.median(one[way][batch] for one in results) for batch in arguments[0]} for way in ways},
    }


def _draw(result: dict[str, Any], path: Path) -> None:
    """Plot reductions and efficiencies with the models; the numbers are in the JSON file beside the chart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for style, (link, measured) in zip(("o", "s"), result["reductions"].items(), strict=False):
        cost = Cost(**result["models"][link]["cost"])
        for colour, hosts in enumerate(REDUCING_HOSTS):
            points = [(one["num_bytes"], one["seconds"]) for one in measured if one["hosts"] == hosts]
            sizes = [size for size, _ in points]
            left.plot(sizes, [seconds for _, seconds in points], style, color=f"C{colour}", label=f"{hosts} hosts, {link}")
            left.plot(sizes, [cost.seconds(hosts, size) for size in sizes], "-", color=f"C{colour}", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="bytes", ylabel="seconds", title="Allreduce; lines: the model")
    left.legend(fontsize=7)
    hosts = [row["hosts"] for row in result["scaling"]]
    for colour, kind in enumerate(("weak", "strong")):
        shares = [100 * row[f"{kind}_efficiency"] for row in result["scaling"]]
        right.plot(hosts, shares, "o", color=f"C{colour}", label=f"{kind} scaling, measured")
    for name, by_workers in result["predictions"].items():
        right.plot(list(map(int, by_workers)), [100 * share for share in by_workers.values()], "-", linewidth=1, label=name)
    for name, shares in result["published"].items():
        right.plot(
            list(map(int, shares)), [100 * share for share in shares.values()], "x", color="black", label=name.split("(")[0]
        )
    right.set(xscale="log", xlabel="workers, one per host", ylabel="% of N times one worker", ylim=(0, 105), title="Efficiency")
    right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
