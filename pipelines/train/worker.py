"""What one worker does, from its shard to the tested network. Runs in a process of its own, one per rank."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from pipelines.config import Config, TrainingConfig
from pipelines.errors import LaunchError
from pipelines.evidence import PredictionWriter
from pipelines.models import registry
from pipelines.schema import Split, Table
from pipelines.spool import SpoolWriter
from pipelines.stream.batches import EvaluationData, Shard, training_dataset
from pipelines.stream.sharding import shard, steps_per_epoch
from pipelines.train import explain, precision
from pipelines.train.distributed import broadcast_state, check_equal_state, distributed, gathered
from pipelines.train.epochs import EpochCallback
from pipelines.train.evaluate import EVALUATION_BATCH_SIZE, Evaluator
from pipelines.train.precision import ResolvedPrecision
from pipelines.train.result import TrainingResult
from pipelines.train.schedule import PlannedLearningRate, plan

LossFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def train(config: Config, table: Table, spool: SpoolWriter, run_dir: Path | None = None) -> tuple[keras.Model, TrainingResult]:
    """Train on this rank's shard together with all other ranks.

    Every rank must call this at the same time with the same arguments, after `hvd.init()`. Where there is a `run_dir`, it
    receives what the figures are drawn from (`pipelines.evidence`).

    Returns:
        the trained network in float32, uncompiled, equal on all ranks; and what came of it.

    Raises:
        DataError: the table is too small or damaged.
        LaunchError: ranks disagree, or the loss is not a number.
    """
    rank, workers = hvd.rank(), hvd.size()
    training = config.training
    threads = use_threads(int(os.environ.get("OMP_NUM_THREADS", "0")))
    steps = steps_per_epoch(table.manifest.rows("train"), workers, training.batch_size_per_worker)
    resolved = agreed_precision(training)
    train_shard, validation_shard, test_shard = (_shard(config, table, split) for split in ("train", "validation", "test"))
    check_agreement(steps=steps, table=table.manifest.key, precision=resolved)
    rate = plan(training, workers, steps)
    spool.write(
        "plan",
        rows=table.manifest.rows("train"),
        workers=workers,
        batch_size_per_worker=training.batch_size_per_worker,
        steps=steps,
        learning_rate=rate.peak,
        threads=threads,
        precision=resolved,
        in_memory=train_shard.fits_memory,
    )

    # The same seed everywhere for the first weights; dropout must differ between ranks.
    keras.utils.set_random_seed(training.seed + rank)
    model = build(config, table, resolved)
    optimizer = make_optimizer(training, PlannedLearningRate(rate))
    model.compile(
        optimizer=optimizer,
        loss=make_loss(training.label_smoothing, table.manifest.num_classes),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        steps_per_execution=min(training.steps_per_execution, steps),
        # XLA was 4 to 10 times slower on CPUs, and has no kernel for Horovod's reduction.
        jit_compile=False,
    )
    broadcast_state(model, optimizer)
    check_equal_state(model, optimizer, "before training")

    epochs = EpochCallback(
        training,
        EvaluationData(validation_shard) if table.manifest.rows("validation") else None,
        spool,
        steps,
        workers * training.batch_size_per_worker,
    )
    dataset = training_dataset(
        train_shard, steps=steps, batch_size=training.batch_size_per_worker, seed=training.seed * workers + rank
    )
    started = time.monotonic()
    model.fit(dataset, epochs=training.epochs, steps_per_epoch=steps, callbacks=[epochs], verbose=0)
    train_seconds = time.monotonic() - started
    weights_sha256 = check_equal_state(model, optimizer, "after training")

    tested = build(config, table, "float32")
    tested.set_weights(model.get_weights())
    predictions = PredictionWriter(test_shard.rows.start, workers)
    test_data = EvaluationData(test_shard)
    score = Evaluator(tested).score(test_data.batches(EVALUATION_BATCH_SIZE), predictions.add)
    spool.write("test", loss=score.loss, accuracy=score.accuracy, rows=score.rows)
    if run_dir is not None:
        predictions.save(run_dir, rank)
        # The last rank, because the first one now saves the network.
        if rank == workers - 1:
            explain.leave(run_dir, tested, dataset, next(test_data.batches(EVALUATION_BATCH_SIZE)))
    result = TrainingResult(
        epochs=epochs.epochs,
        best_epoch=epochs.best_epoch,
        precision=resolved,
        test=score,
        rows_per_second=epochs.rows_per_second,
        train_seconds=train_seconds,
        weights_sha256=weights_sha256,
    )
    return tested, result


def use_threads(threads: int) -> int:
    """Limit TensorFlow to this many threads per operation, 0 for its own choice. Must come before the first operation."""
    if threads == 0:
        return os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Few operations at a time: they would share the same cores.
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
    return threads


def build(config: Config, table: Table, resolved: ResolvedPrecision) -> keras.Model:
    """The configured network, its layers computing in `resolved` and its weights in float32."""
    keras.config.set_dtype_policy("mixed_bfloat16" if resolved == "bfloat16" else "float32")
    try:
        return registry.build(config.model.name, table.manifest.image, table.manifest.num_classes)
    finally:
        keras.config.set_dtype_policy("float32")


def make_optimizer(training: TrainingConfig, rate: PlannedLearningRate) -> keras.optimizers.Optimizer:
    """The configured optimizer, averaging gradients over ranks."""
    if training.optimizer == "sgd":
        return distributed(keras.optimizers.SGD)(rate, momentum=training.momentum, nesterov=training.momentum > 0)
    if training.optimizer == "adamw":
        return distributed(keras.optimizers.AdamW)(rate, weight_decay=training.weight_decay)
    return distributed(keras.optimizers.Adam)(rate)


def make_loss(label_smoothing: float, num_classes: int) -> keras.losses.Loss | LossFunction:
    """Cross-entropy between labels [batch] int and probabilities [batch, num_classes], a mean over the batch in nats."""
    if label_smoothing == 0:
        return keras.losses.SparseCategoricalCrossentropy()

    def smoothed(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        targets = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), num_classes)
        return keras.losses.categorical_crossentropy(targets, probabilities, label_smoothing=label_smoothing)

    return smoothed


def agreed_precision(training: TrainingConfig) -> ResolvedPrecision:
    """bfloat16 only where all ranks have it, because ranks that compute differently train differently."""
    return "bfloat16" if set(gathered(precision.resolve(training.precision))) == {"bfloat16"} else "float32"


def check_agreement(**values: object) -> None:
    """Raises LaunchError on all ranks when they were not given the same work: unequal steps would wait for ever."""
    everyones = gathered(values)
    for rank, theirs in enumerate(everyones):
        if theirs != everyones[0]:
            raise LaunchError(f"rank {rank} was given {theirs}, rank 0 {everyones[0]}; all nodes must see the same table")


def _shard(config: Config, table: Table, split: Split) -> Shard:
    return Shard(
        table=table,
        split=split,
        rows=shard(table.manifest.rows(split), hvd.rank(), hvd.size()),
        stream=config.stream,
    )
