"""Functions that the tests run on ranks, which import them by name."""

import os
import signal
import sys
import time


def joint_gradients(features, targets, weights):
    """The averaged gradient of a linear model; each rank computes one half of the batch."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from pipelines.train.collectives.horovod import allreduce_mean

    hvd.init()
    half = slice(hvd.rank() * len(features) // hvd.size(), (hvd.rank() + 1) * len(features) // hvd.size())
    variable = tf.Variable(weights)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.linalg.matvec(tf.constant(features[half]), variable) - targets[half]))
    result = allreduce_mean([tape.gradient(loss, variable)])[0].numpy()
    hvd.shutdown()
    return result


def description():
    """The environment and state of a rank, without what must differ between ranks."""
    import resource
    import sys
    import tempfile

    sys.stdout.write("this line is in the log of any rank\n")
    environment = dict(os.environ)
    scratch = environment.pop("TMPDIR")
    del environment["HOROVOD_GLOO_RENDEZVOUS_PORT"]
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines())
    return {
        "environment": environment,
        "temporary folder": tempfile.gettempdir() == scratch and os.listdir(scratch) == [],
        "directory": os.getcwd(),
        # Without the packages that setuptools brings inside itself, which it adds once it is imported.
        "path": [folder for folder in dict.fromkeys(sys.path) if not folder.endswith("setuptools/_vendor")],
        "arguments": sys.argv[:1],
        "state": {name: status[name] for name in ("Umask", "SigBlk", "Cpus_allowed_list")},
        # Without those that are the C library's own.
        "ignored": int(status["SigIgn"], 16) & (2**31 - 1),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
        "niceness": os.nice(0),
        "handlers": [str(signal.getsignal(signum)).split(" at ")[0] for signum in sorted(signal.Signals)],
        "open files": sorted(
            _kind_of_file(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}")
        ),
        "threads": len([name for name in os.listdir("/proc/self/task") if "jemalloc" not in _comm(name)]) - 1,
        "tensorflow imported": "tensorflow" in sys.modules,
    }


def random_numbers():
    """A number from the global generator of each library that a rank may use."""
    import random

    import keras
    import numpy as np
    import tensorflow as tf

    return random.random(), np.random.rand(), float(tf.random.uniform(())), float(keras.random.uniform(()))


def _kind_of_file(fd):
    """Target of a file descriptor, without the numbers of pipes and sockets."""
    return os.readlink(f"/proc/self/fd/{fd}").partition("[")[0]


def _comm(thread):
    with open(f"/proc/self/task/{thread}/comm") as file:
        return file.read()


def imported(names):
    """Which of these modules are imported in a rank before it imports any itself."""
    import sys

    return sorted(name for name in names if sys.modules.get(name) is not None)


def computes_with_onednn():
    from tensorflow.python.framework.test_util import IsMklEnabled

    return IsMklEnabled()


def reduce_forever(action):
    """Reduce until rank 1 fails in the twentieth step."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    step = 0
    while True:
        hvd.allreduce(tf.ones(10))
        step += 1
        if step == 20 and hvd.rank() == 1:
            if action == "raise":
                raise ValueError("deliberate failure")
            os.kill(os.getpid(), signal.SIGKILL)


def fail_on_rank_1():
    """Rank 1 fails while rank 0 waits for it."""
    if os.environ["HOROVOD_RANK"] == "1":
        raise ValueError("deliberate failure")
    time.sleep(1000)


def hear_a_stop_while_busy(folder):
    """Exit with code 7 when a stop is requested, while the main thread is outside Python, as in an execution of many steps."""
    import hashlib
    import threading
    from pathlib import Path

    from pipelines import progress

    def hear():
        progress.wait_for_stop()
        os._exit(7)

    threading.Thread(target=hear, daemon=True).start()
    Path(folder, "busy").touch()
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)


def sleep_forever():
    time.sleep(1000)


def unequal_state():
    import horovod.tensorflow as hvd
    import keras

    from pipelines.train.collectives.horovod import check_equal_state

    hvd.init()
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    check_equal_state(model, optimizer, "before training")


def network_environment():
    return {
        name: os.environ[name] for name in ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_GLOO_IFACE", "HOROVOD_GLOO_RENDEZVOUS_ADDR")
    }


def faulty_work(faults, config, table, run_dir, checkpoint=None):
    """The real work, with injected faults.

    Args:
        faults: by number of the attempt, from 1: kind of fault, rank, epoch and step; epoch 0 is before the ranks join. Other
            attempts have no fault.
    """
    from pathlib import Path

    from pipelines.launch.train_function import work

    fault = faults.get(len(list((Path(run_dir) / "attempts").iterdir())))
    if fault is not None:
        action, rank, epoch, step = fault
        if os.environ["HOROVOD_RANK"] == str(rank):
            if epoch == 0:
                FAULTS[action](None)
            _inject(FAULTS[action], epoch, step)
    return work(config, table, run_dir, checkpoint)


def drifting_work(config, table, run_dir, checkpoint=None):
    """The real work in steps of half a second; after the third, the weights of rank 1 change."""
    from pipelines.launch.train_function import work
    from pipelines.train import callback

    real = callback.EpochCallback.on_train_batch_end

    def slow(self, batch, logs=None):
        real(self, batch, logs)
        time.sleep(0.5)
        if self.training_progress.step == 3 and os.environ["HOROVOD_RANK"] == "1":
            _change_weights(self)

    callback.EpochCallback.on_train_batch_end = slow
    return work(config, table, run_dir, checkpoint)


def _inject(fault, epoch, step):
    from pipelines.train import callback

    real = callback.EpochCallback.on_train_batch_end

    def with_fault(self, batch, logs=None):
        real(self, batch, logs)
        if (self.training_progress.epoch + 1, self.training_progress.step) == (epoch, step):
            fault(self)

    callback.EpochCallback.on_train_batch_end = with_fault


def _raise(_callback):
    raise ValueError("deliberate failure")


def _change_weights(callback):
    weights = callback.model.trainable_weights[0]
    weights.assign(weights * 1.001)


def _set_weights_to_nan(callback):
    # In the last layer: the activations of earlier ones would hide it.
    weights = callback.model.trainable_weights[-1]
    weights.assign(weights * float("nan"))


def _hang_in_the_reader(_callback):
    from pipelines.data.stream import batches

    def endless(*_, **__):
        time.sleep(1000)
        yield

    batches.read_blocks = endless


def _hang_in_evaluation(callback):
    callback._validation.score = lambda _: time.sleep(1000)


FAULTS = {
    "raise": _raise,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "kill the task": lambda _: os.kill(os.getppid(), signal.SIGKILL),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "terminate": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "change weights": _change_weights,
    "set weights to NaN": _set_weights_to_nan,
    "hang in the reader": _hang_in_the_reader,
    "hang in evaluation": _hang_in_evaluation,
}


def trained_whole_and_in_two_parts(uri, settings, folder, stop, changed=()):
    """SHA-256 of the weights of a training, and of the same training stopped after `stop`, an epoch and a step, and resumed.

    Args:
        changed: settings of the whole training, and of the resumed part.
    """
    from pathlib import Path

    from pipelines import progress
    from pipelines.system.tensorflow_env import import_for_training

    import_for_training()
    import horovod.tensorflow as hvd

    from pipelines.config import loader
    from pipelines.data.table.schema import Table, read_manifest
    from pipelines.track.rundir.events import SpoolWriter
    from pipelines.train.callback import EpochCallback
    from pipelines.train.checkpoint import store
    from pipelines.train.collectives.horovod import allgather
    from pipelines.train.worker import train

    hvd.init()
    table = Table(uri, read_manifest(Path(uri)))

    def part(name, start=None, more=()):
        config = loader.load(None, [*settings, f"launch.workers={hvd.size()}", *more])
        spool = SpoolWriter(Path(folder) / name / "spool", hvd.rank())
        try:
            return train(config, table, spool, Path(folder) / name, start)[1].weights_sha256
        finally:
            spool.close()

    whole = part("whole", more=changed)
    real = EpochCallback._stop_if_requested

    def stop_all_ranks(self):
        if (self.training_progress.epoch + 1, self.training_progress.step) == stop:
            progress.request_stop()
            real(self)
            raise progress.Stopped

    EpochCallback._stop_if_requested = stop_all_ranks
    try:
        part("parts")
    except progress.Stopped:
        progress._rank.stop.clear()
    EpochCallback._stop_if_requested = real
    # The others wait until rank 0 has written it.
    start = Path(allgather(str(store.newest(Path(folder) / "parts").path) if hvd.rank() == 0 else None)[0])
    resumed = part("parts", start, changed)
    hvd.shutdown()
    return whole, resumed, store.verify(start).state.position


def shared_memory_means(length, calls):
    """A rank's inputs and the means it got, call by call."""
    import horovod.tensorflow as hvd
    import numpy as np

    from pipelines.train.collectives.shared_memory import SharedMemoryReducer

    hvd.init()
    reducer, rng = SharedMemoryReducer(), np.random.default_rng(hvd.rank())
    inputs = [rng.normal(size=length).astype(np.float32) for _ in range(calls)]
    # With random delays, so that ranks overtake each other.
    means = [(time.sleep(0.001 * rng.integers(3)), reducer.mean(values))[1] for values in inputs]
    hvd.shutdown()
    return inputs, means


def means_while_rank_1_stands_still(seconds):
    """Means through shared memory and through Horovod, around a time in which rank 1 is stopped."""
    import subprocess

    import horovod.tensorflow as hvd
    import numpy as np
    import tensorflow as tf

    from pipelines.train.collectives.shared_memory import SharedMemoryReducer

    hvd.init()
    reducer, value = SharedMemoryReducer(), np.full(10, hvd.rank(), np.float32)
    means = []
    for _ in range(2):
        hvd.allreduce(tf.constant(0.0), name="together")
        if hvd.rank() == 1:
            subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        means += [float(reducer.mean(value)[0]), float(hvd.allreduce(tf.constant(value), name="mean")[0])]
    hvd.shutdown()
    return means


def host_means(machines, dtype, compression, steps, slow=-1):
    """A rank's gradients, the means it got and the seconds it waited for others of its machine meanwhile, step by step.

    `machines` names one for each rank; `slow` is a rank that takes 0.2 s longer for each step.
    """
    os.environ["CONVOY_MACHINES"] = ",".join(machines)
    import horovod.tensorflow as hvd
    import numpy as np
    import tensorflow as tf

    from pipelines.train.collectives.hosts import HostReducer, leaders

    tf.config.threading.set_inter_op_parallelism_threads(1)
    hvd.init(process_sets=[leaders()])
    reducer, rng = HostReducer(compression, bucket_bytes=1000), np.random.default_rng(hvd.rank())
    average = tf.function(reducer.allreduce_mean)
    found = []
    for _ in range(steps):
        gradients = [rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (500,), (2, 5), (20, 30), (7,))]
        # Ranks overtake each other.
        time.sleep(0.2 if hvd.rank() == slow else 0.001 * rng.integers(3))
        means, held_up = average([tf.constant(gradient) for gradient in gradients])
        found.append((gradients, [mean.numpy() for mean in means], float(np.ptp(held_up.numpy(), axis=1).sum())))
    hvd.shutdown()
    return found


def begin_of_a_sum_and_end_of_a_gradient(machines):
    """When a rank begins to wait for the last layer's gradients of its machine, and when those of its first layer are ready."""
    os.environ["CONVOY_MACHINES"] = ",".join(machines)
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from pipelines.train.collectives.hosts import HostReducer, leaders

    tf.config.threading.set_inter_op_parallelism_threads(2)
    hvd.init(process_sets=[leaders()])
    reducer = HostReducer("none", bucket_bytes=1000)
    begun = []
    add = reducer._add
    reducer._add = lambda *arguments: (begun.append(time.time()), add(*arguments))[1]

    def slowly(values):
        time.sleep(0.5)
        return values

    @tf.function
    def step(first, last):
        slow = tf.ensure_shape(tf.numpy_function(slowly, [first], first.dtype, stateful=False), first.shape)
        with tf.control_dependencies([slow]):
            ready = tf.timestamp()
        means, _ = reducer.allreduce_mean([slow, last])
        return means, ready

    for _ in range(3):
        begun.clear()
        _, ready = step(tf.ones(500), tf.ones(500))
    hvd.shutdown()
    return begun[0], float(ready)


def exit_after_a_mean_over_machines(machines, leaving):
    """Average twice; before the second time a rank exits."""
    os.environ["CONVOY_MACHINES"] = ",".join(machines)
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from pipelines.train.collectives.hosts import HostReducer, leaders

    hvd.init(process_sets=[leaders()])
    reducer = HostReducer("none", bucket_bytes=1000)
    reducer.allreduce_mean([tf.ones(10)])
    if hvd.rank() == leaving:
        os._exit(3)
    reducer.allreduce_mean([tf.ones(10)])


def leave_after_two_means():
    """The error that the other ranks get after the last one has exited."""
    import horovod.tensorflow as hvd
    import numpy as np

    from pipelines.train.collectives.shared_memory import SharedMemoryReducer

    hvd.init()
    reducer = SharedMemoryReducer()
    for _ in range(2):
        reducer.mean(np.ones(10, np.float32))
    if hvd.rank() == hvd.size() - 1:
        return "left"
    try:
        reducer.mean(np.ones(10, np.float32))
    except ConnectionError as error:
        return str(error)
    return "nothing"


def horovod_inputs(rank):
    """Values of a rank: a matrix, a group of tensors of several shapes, and rank + 1 rows."""
    import numpy as np

    random = np.random.default_rng(rank)
    shapes = ((), (1,), (3, 5), (1000,), (2, 3, 4, 5))
    return {
        "matrix": random.normal(size=(17, 31)).astype(np.float32),
        "group": [np.asarray(random.normal(size=shape), dtype=np.float32) for shape in shapes],
        "rows": random.integers(0, 1000, size=(rank + 1, 3)),
    }


def horovod_operations():
    """The result of each operation on this rank, eager and inside a function."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    values = horovod_inputs(hvd.rank())

    def operations(mode):
        matrix = tf.constant(values["matrix"])
        results = {
            "compressed": hvd.allreduce(matrix, op=hvd.Average, compression=hvd.Compression.fp16, name=f"{mode}.compressed"),
            "group": hvd.grouped_allreduce([tf.constant(value) for value in values["group"]], op=hvd.Average),
            "gathered": hvd.allgather(tf.constant(values["rows"]), name=f"{mode}.gathered"),
        }
        for root in range(2):
            results[f"broadcast from {root}"] = hvd.broadcast(matrix, root_rank=root, name=f"{mode}.broadcast.{root}")
        for dtype in ("float32", "float64", "float16"):
            for name, operation in (("average", hvd.Average), ("sum", hvd.Sum)):
                reduced = hvd.allreduce(tf.cast(matrix, dtype), op=operation, name=f"{mode}.{name}.{dtype}")
                results[f"{name} {dtype}"] = tf.cast(reduced, tf.float64)
        return results

    found = {
        mode: tf.nest.map_structure(lambda tensor: tensor.numpy(), function(mode))
        for mode, function in (("eager", operations), ("graph", tf.function(operations)))
    }
    found["objects"] = hvd.allgather_object({"rank": 0} if hvd.rank() == 0 else {"rank": 1, "more": "text"})
    found["built"] = {"gloo": bool(hvd.gloo_built()), "mpi": bool(hvd.mpi_built())}
    return found


def own_task():
    """Number of the Spark task."""
    from pyspark import TaskContext

    return TaskContext.get().partitionId()


def own_task_and_those_met():
    """Number of the barrier task, and those of all tasks as it hears them."""
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    return context.partitionId(), context.allGather(str(context.partitionId()))


# Bytes that a rank takes when it is asked to.
MEMORY = 930_000_000


def disturbed_work(folder, config, table, run_dir, checkpoint=None):
    """The real work, disturbed on a rank as long as a folder has a file `WHAT-RANK`: starve, lock, clock, disk or memory.

    The second attempt returns at once what it would continue from.
    """
    import ctypes
    import types
    from pathlib import Path

    import numpy as np

    from pipelines.data.stream import batches
    from pipelines.launch.health import heartbeat
    from pipelines.launch.train_function import work
    from pipelines.system import atomic
    from pipelines.train import callback

    if len(list((Path(run_dir) / "attempts").iterdir())) > 1:
        return checkpoint

    def asked(name):
        return Path(folder, f"{name}-{os.environ['HOROVOD_RANK']}").exists()

    taken = []
    read_blocks, on_train_batch_end = batches.read_blocks, callback.EpochCallback.on_train_batch_end

    def slow_blocks(*arguments, **options):
        for block in read_blocks(*arguments, **options):
            time.sleep(0.3 if asked("starve") else 0)
            yield block

    def locked(self, batch, logs=None):
        on_train_batch_end(self, batch, logs)
        if asked("lock"):
            hold_lock(os.fsencode(Path(folder, f"lock-{os.environ['HOROVOD_RANK']}")))
        if asked("memory") and not taken:
            # Writes to it, so that it is there.
            taken.append(np.ones(MEMORY, np.uint8))
        elif not asked("memory"):
            taken.clear()

    def hold_lock(path):
        interval = sys.getswitchinterval()
        sys.setswitchinterval(3600)
        # Functions of a PyDLL are called without releasing Python's lock.
        while ctypes.PyDLL(None).access(path, os.F_OK) == 0:
            sum(range(100_000))
        sys.setswitchinterval(interval)

    def slow_write(path, content, **options):
        time.sleep(2.5 if asked("disk") else 0)
        atomic.write(path, content, **options)

    batches.read_blocks, callback.EpochCallback.on_train_batch_end = slow_blocks, locked
    heartbeat.atomic = types.SimpleNamespace(write=slow_write)
    heartbeat.time = types.SimpleNamespace(**{**vars(time), "time": lambda: time.time() + (100 if asked("clock") else 0)})
    return work(config, table, run_dir, checkpoint)
