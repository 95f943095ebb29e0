"""What ranks see and compute with `training.canonical_shards`. Ranks import it by name."""

import hashlib
from pathlib import Path


def curve(uri, settings, folder, start=None, stop=None):
    """Train on this rank, and report what it saw.

    Args:
        uri: the table.
        settings: those of the run.
        folder: run folder.
        start: checkpoint to start from; None for the beginning.
        stop: epoch and step after which all ranks stop; None to train to the end.

    Returns:
        digests of the rows of each step, [steps][shards of this rank]; the mean loss of each epoch up to each step;
        metrics of each epoch; and the SHA-256 of the weights, empty if it was stopped.
    """
    from pipelines import progress
    from pipelines.system.tensorflow_env import import_for_training

    import_for_training()
    import horovod.tensorflow as hvd

    from pipelines.config import loader
    from pipelines.data.table.schema import Table, read_manifest
    from pipelines.track.rundir.events import SpoolReader, SpoolWriter
    from pipelines.train.callback import EpochCallback
    from pipelines.train.worker import train

    hvd.init()
    table = Table(uri, read_manifest(Path(uri)))
    config = loader.load(None, [*settings, f"launch.workers={hvd.size()}"])
    digests, losses = [], []
    _record_rows(digests, config.shards // hvd.size())
    real = EpochCallback.on_train_batch_end, EpochCallback._stop_if_requested

    def record_loss(self, batch, logs=None):
        losses.append(logs["loss"])
        real[0](self, batch, logs)

    def stop_all_ranks(self):
        if stop is not None and (self.training_progress.epoch + 1, self.training_progress.step) == stop:
            progress.request_stop()
            real[1](self)
            raise progress.Stopped

    EpochCallback.on_train_batch_end, EpochCallback._stop_if_requested = record_loss, stop_all_ranks
    spool, sha256 = SpoolWriter(Path(folder) / "spool", hvd.rank()), ""
    try:
        sha256 = train(config, table, spool, Path(folder), Path(start) if start is not None else None)[1].weights_sha256
    except progress.Stopped:
        progress._rank.stop.clear()
    finally:
        spool.close()
    events = SpoolReader(Path(folder) / "spool").new_events()
    metrics = {event.values.epoch: event.values.metrics for event in events if event.kind == "epoch" and event.rank == 0}
    hvd.shutdown()
    return digests[: len(losses)], losses, metrics, sha256


def _record_rows(digests, shards):
    """Append the digest of each shard's part of each batch of the training."""
    import numpy as np
    import tensorflow as tf

    from pipelines.data.stream.canonical import WorkerData

    real = WorkerData.dataset

    def record(*batch):
        parts = zip(*(np.split(values, shards) for values in batch), strict=True)
        digests.append([hashlib.sha256(b"".join(values.tobytes() for values in part)).hexdigest() for part in parts])
        return np.int32(0)

    def recorded(self, skip_steps=0):
        dataset = real(self, skip_steps)

        def through(*batch):
            with tf.control_dependencies([tf.numpy_function(record, batch, tf.int32)]):
                return tuple(tf.identity(values) for values in batch)

        return dataset.map(through)

    WorkerData.dataset = recorded
