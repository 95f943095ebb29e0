"""Functions that the tests run on the driver of a simulated cluster (`benchmarks/cluster/cluster.py`) and on its ranks."""

import dataclasses
import functools
import json
import os
import socket
import time
from pathlib import Path

from pipelines import progress
from pipelines.config import LaunchConfig, loader
from pipelines.launch import ranks, restarts, slots
from pipelines.system import paths


def task_slots(spark):
    return slots.available(spark)


def run(spark, function, np, runs):
    """Calls the public `ranks.run`."""
    return ranks.run(function, np, spark=spark, launch=LaunchConfig(runs_uri=str(runs), start_timeout_seconds=30))


def placement():
    """A rank's placement according to Horovod's variables, and what its host's name resolves to."""
    ranks_and_sizes = {
        name.lower(): os.environ[f"HOROVOD_{name}"] for name in ("RANK", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    }
    network = {name.lower(): os.environ[f"HOROVOD_GLOO_{name}"] for name in ("IFACE", "RENDEZVOUS_ADDR")}
    # The address on which Gloo listens.
    network["address"] = socket.gethostbyname(socket.gethostname())
    return {name: int(value) for name, value in ranks_and_sizes.items()} | network | {"folder": str(paths.to_python("tables"))}


def reduction():
    """Which way gradients take."""
    import horovod.tensorflow as hvd

    from pipelines.train.collectives import hosts, reducers

    config = loader.load(None, [])
    hvd.init(process_sets=hosts.process_sets(config))
    way = reducers.choose(config, has_gpu=False)
    hvd.shutdown()
    return way


def folder(spark):
    """The folder of tables on the driver."""
    return str(paths.to_python("tables"))


class Warnings(list):
    """An observer that keeps the warnings."""

    def __init__(self):
        super().__init__()
        self.symptoms = []

    def warn(self, line):
        self.append(line)

    def symptom(self, symptom):
        self.symptoms.append(symptom)
        # On a machine that other tests use, too, ranks and what passes for their network are slow now and then.
        if not symptom.ended_ranks and not symptom.kind.startswith(("slow", "wandering")):
            self.warn(symptom.line)

    restarting = warn

    def poll(self):
        return


def train(spark, settings, table, run_dir, function=None):
    """A training with restarts. Gives results, warnings and, where it failed, the error."""
    told = Warnings()
    try:
        results = restarts.train(
            spark,
            loader.load(None, settings),
            table,
            Path(run_dir),
            told,
            **({"function": function} if function else {}),
        )
    except Exception as error:
        return None, list(told), f"{type(error).__name__}: {error}"
    return results, list(told), ""


class EndOfTest(Exception):
    """Ends a training of `train_watched`."""


class Told(Warnings):
    """An observer that writes each symptom into a file, and ends the training when there is a file `end`."""

    def __init__(self, run_dir):
        super().__init__()
        self.run_dir = Path(run_dir)

    def symptom(self, symptom):
        with (self.run_dir / "told").open("a") as file:
            file.write(json.dumps([symptom.kind, symptom.rank, symptom.line, dict(symptom.figures)]) + "\n")

    def poll(self):
        if (self.run_dir / "end").exists():
            raise EndOfTest


def train_watched(spark, settings, table, run_dir, window_seconds):
    """A training whose symptoms are told at once; it ends when there is a file `end` in the run folder."""
    from pipelines.launch.health import watchdog

    watchdog.SymptomFinder = functools.partial(watchdog.SymptomFinder, window_seconds=window_seconds)
    try:
        restarts.train(spark, loader.load(None, settings), table, Path(run_dir), Told(run_dir))
    except EndOfTest:
        return
    finally:
        watchdog.SymptomFinder = watchdog.SymptomFinder.func


def wait_for_fault(config, table, run_dir, checkpoint=None):
    """Stand-in for a training: the first attempt runs until it is disturbed; later ones return workers and host at once."""
    if len(list((Path(run_dir) / "attempts").iterdir())) == 1:
        progress.joined()
        for step in range(1000):
            progress.mark(f"epoch 2, step {step}")
            time.sleep(0.1)
    return config.launch.workers, os.environ["HOROVOD_HOSTNAME"]


@dataclasses.dataclass(frozen=True)
class TimedReductions:
    """A training that first times allreduces, whenever a file `again-0`, `again-1`, `again-2` appears in a folder.

    The clock of rank 1 is an hour ahead. Rank 0 writes their mean time in seconds into `done-0`, ...
    """

    folder: str
    numbers: int
    """Size of the tensor, float32."""

    def __call__(self, config, table, run_dir, checkpoint=None):
        import horovod.tensorflow as hvd
        import tensorflow as tf

        from pipelines.launch.train_function import work
        from pipelines.train.devices import use_threads

        hvd.init()
        if hvd.rank() == 1:
            time.time = lambda real=time.time: real() + 3600
        # As the work itself does, which is too late after TensorFlow's first operation.
        use_threads(int(os.environ["OMP_NUM_THREADS"]))
        folder, tensor, steps = Path(self.folder), tf.ones(self.numbers), 5
        hvd.allreduce(tensor, name="reduced")
        for part in range(3):
            while not (folder / f"again-{part}").exists():
                time.sleep(0.02)
            hvd.allreduce(tf.zeros(1), name="together")
            started = time.perf_counter()
            for _ in range(steps):
                hvd.allreduce(tensor, name="reduced")
            if hvd.rank() == 0:
                unfinished = folder / f".done-{part}"
                unfinished.write_text(str((time.perf_counter() - started) / steps))
                unfinished.rename(folder / f"done-{part}")
        return work(config, table, run_dir, checkpoint)
