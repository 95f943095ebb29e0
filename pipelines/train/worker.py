"""What one worker does, from its shard to the tested network. Runs in a process of its own, one per rank."""

import os
import time
from pathlib import Path

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from pipelines import progress
from pipelines.config import Config
from pipelines.config.training import TrainingConfig
from pipelines.data.stream import augment
from pipelines.data.stream.batches import EvaluationData, Shard, TrainingData
from pipelines.data.stream.sharding import shard, steps_per_epoch
from pipelines.data.table.schema import Split, Table
from pipelines.errors import LaunchError, TrainingError
from pipelines.track.rundir.events import FinalScore, SpoolWriter, TrainingPlan
from pipelines.track.rundir.figure_data import PredictionWriter
from pipelines.track.rundir.logs import set_epoch
from pipelines.train import figure_inputs, precision
from pipelines.train.callback import EpochCallback, optimizer_steps
from pipelines.train.checkpoint import restore
from pipelines.train.checkpoint.state import RandomGenerators
from pipelines.train.checkpoint.training_progress import TrainingProgress
from pipelines.train.checkpoint.writer import CheckpointWriter
from pipelines.train.collectives import shared_memory
from pipelines.train.collectives.horovod import allgather, broadcast_state, check_equal_state
from pipelines.train.collectives.shared_memory import SharedMemoryReducer
from pipelines.train.compile import build_model, compile_model, use_threads
from pipelines.train.devices import use_own_gpu
from pipelines.train.evaluate import EVALUATION_BATCH_SIZE, Evaluator
from pipelines.train.optim.ema import assign_averages
from pipelines.train.optim.loss_scale import NOT_FINITE
from pipelines.train.optim.schedule import plan_learning_rate
from pipelines.train.precision import ResolvedPrecision
from pipelines.train.result import Score, TrainingResult
from pipelines.train.test_time_augmentation import average_over_views


def train(
    config: Config,
    table: Table,
    spool: SpoolWriter,
    run_dir: Path | None = None,
    checkpoint: Path | None = None,
    tested: bool = True,
) -> tuple[keras.Model, TrainingResult]:
    """Train on this rank's shard together with all other ranks.

    Every rank must call this at the same time with the same arguments, after `hvd.init()`.

    Args:
        config: the settings of the run.
        table: what to train on.
        spool: where this rank reports.
        run_dir: receives checkpoints and what the figures are drawn from; None for neither.
        checkpoint: the description of one to go on from.
        tested: False leaves the test rows alone, in a trial among which the best is still to be chosen.

    Returns:
        the model to be logged: the trained network in float32, uncompiled, equal on all ranks, over `training.test_views` views;
        and what came of it.

    Raises:
        DataError: the table is too small or damaged.
        LaunchError: ranks were not given the same work.
        TrainingError: the loss is not finite, or weights differ between ranks.
        CheckpointError: the checkpoint does not fit, or one cannot be written.
        Stopped: a stop was requested, and a checkpoint is written.
    """
    rank, workers, training = hvd.rank(), hvd.size(), config.training
    progress.mark("preparing")
    gpu = use_own_gpu()
    threads = use_threads(int(os.environ.get("OMP_NUM_THREADS", "0")))
    steps = steps_per_epoch(table.manifest.rows("train"), workers, training.batch_size_per_worker)
    resolved = agreed_precision(training, gpu)
    train_shard, validation_shard, test_shard = (_shard(config, table, split) for split in ("train", "validation", "test"))
    together = shared_memory.is_usable(config) and gpu is None
    check_agreement(steps=steps, table=table.manifest.key, precision=resolved, checkpoint=str(checkpoint), shared_memory=together)
    rate = plan_learning_rate(training, workers, steps)

    keras.utils.set_random_seed(training.seed)
    model = compile_model(config, table, resolved, rate, steps, SharedMemoryReducer() if together else None)
    training_progress = restore.restore_training(model, checkpoint, steps, workers, training.batch_size_per_worker)
    broadcast_state(model, model.optimizer)
    training_progress.weights_sha256 = check_equal_state(model, model.optimizer, "before training")
    spool.write(
        TrainingPlan(
            rows=table.manifest.rows("train"),
            workers=workers,
            batch_size_per_worker=training.batch_size_per_worker,
            steps=steps,
            learning_rate=rate.peak,
            threads=threads,
            precision=resolved,
            in_memory=train_shard.fits_memory,
            held_mb=round(train_shard.held_bytes(training.batch_size_per_worker) / 1e6),
            epoch=training_progress.epoch,
            step=training_progress.step,
        )
    )
    if rank == 0:
        restore.report_history(spool, training_progress)
    writer = CheckpointWriter(run_dir, config.checkpoint) if run_dir is not None and rank == 0 else None
    data = TrainingData(
        train_shard,
        steps=steps,
        batch_size=training.batch_size_per_worker,
        seed=training.seed * workers + rank,
        augmentation=augment.from_settings(training),
    )
    callback = EpochCallback(
        training,
        training_progress,
        data,
        EvaluationData(validation_shard) if table.manifest.rows("validation") else None,
        RandomGenerators(model, training.seed, rank),
        spool,
        steps,
        workers * training.batch_size_per_worker,
        restore.checkpoint_saver(writer, config, table.manifest.key, model, steps, workers),
    )
    train_seconds = _fit_and_save(model, data, callback, training, steps, writer)
    network, weights_sha256 = _trained(config, table, model, training_progress)
    logged = average_over_views(network, table.manifest.image, training.test_views)
    score, single_view = test(network, logged, test_shard, data, run_dir) if tested else (None, None)
    if score is not None:
        spool.write(FinalScore(score.loss, score.accuracy, score.rows))
    result = TrainingResult(
        epochs=training_progress.epoch,
        best_epoch=training_progress.best_epoch,
        precision=resolved,
        test=score,
        single_view_accuracy=single_view,
        rows_per_second=callback.rows_per_second,
        train_seconds=train_seconds,
        weights_sha256=weights_sha256,
    )
    return logged, result


def fit(model: keras.Model, data: TrainingData, callback: EpochCallback, training: TrainingConfig, steps: int) -> None:
    """Train from where the callback's course stands to the end.

    Raises:
        ConnectionError: another rank of this machine has ended.
        TrainingError: on all ranks in the same step, when a gradient or the loss is not finite. The weights are those of the step
            before.
    """
    training_progress = callback.training_progress
    try:
        if training_progress.step:
            # An epoch that was begun before is shorter than the others, which Keras allows only in a call of its own.
            _fit(
                model,
                data.dataset(skip_steps=training_progress.step),
                callback,
                training_progress.epoch,
                training_progress.epoch + 1,
            )
        if training_progress.epoch < training.epochs and not training_progress.stops_early(training.early_stopping_patience):
            _fit(model, data.dataset(), callback, training_progress.epoch, training.epochs)
    except tf.errors.UnknownError as error:
        if shared_memory.GONE not in str(error):
            raise
        raise ConnectionError(shared_memory.GONE) from None
    except tf.errors.InvalidArgumentError as error:
        if NOT_FINITE not in str(error):
            raise
        step = optimizer_steps(model) - training_progress.epoch * steps + 1
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        raise TrainingError(
            f"the loss is not finite in epoch {training_progress.epoch + 1}, step {step} of {steps}, at learning rate "
            f"{rate:g}; lower training.base_learning_rate or raise training.warmup_epochs"
        ) from None


def test(
    network: keras.Model, logged: keras.Model, shard: Shard, training: TrainingData, run_dir: Path | None
) -> tuple[Score, float | None]:
    """How a network does on this rank's and all other ranks' test rows.

    Args:
        network: in float32.
        logged: the same, or its mean over several views.
        shard: this rank's test rows.
        training: for examples.
        run_dir: receives what the figures are drawn from (`pipelines.track.rundir.figure_data`).

    Returns:
        the score of `logged`; the accuracy of `network` where that is another.
    """
    rank, workers = hvd.rank(), hvd.size()
    single_view = None
    predictions = PredictionWriter(shard.rows.start, workers)
    rows = EvaluationData(shard)
    score = Evaluator(logged).score(rows.batches(EVALUATION_BATCH_SIZE), predictions.add)
    if logged is not network:
        single_view = Evaluator(network).score(rows.batches(EVALUATION_BATCH_SIZE)).accuracy
    if run_dir is not None:
        predictions.save(run_dir, rank)
        # The last rank, because the first one now saves the network.
        if rank == workers - 1:
            progress.mark("keeping examples")
            figure_inputs.save_figure_inputs(run_dir, network, training.dataset(), next(rows.batches(EVALUATION_BATCH_SIZE)))
    return score, single_view


def agreed_precision(training: TrainingConfig, gpu: tuple[int, int] | None) -> ResolvedPrecision:
    """Other than float32 only where all ranks have it, because ranks that compute differently train differently."""
    everyones: set[ResolvedPrecision] = set(allgather(precision.resolve(training.precision, gpu)))
    return everyones.pop() if len(everyones) == 1 else "float32"


def check_agreement(**values: object) -> None:
    """Raises LaunchError on all ranks when they were not given the same work: unequal steps would wait for ever."""
    everyones = allgather(values)
    for rank, theirs in enumerate(everyones):
        if theirs != everyones[0]:
            raise LaunchError(f"rank {rank} was given {theirs}, rank 0 {everyones[0]}; all nodes must see the same table")


def _fit_and_save(
    model: keras.Model,
    data: TrainingData,
    callback: EpochCallback,
    training: TrainingConfig,
    steps: int,
    writer: CheckpointWriter | None,
) -> float:
    """Train until all checkpoints are on disk. Gives the seconds of the training alone."""
    started = time.monotonic()
    try:
        fit(model, data, callback, training, steps)
    except BaseException:
        # The process may end before the last checkpoint is on disk.
        if writer is not None:
            writer.wait()
        raise
    seconds = time.monotonic() - started
    if writer is not None:
        writer.finish()
    return seconds


def _trained(config: Config, table: Table, model: keras.Model, training_progress: TrainingProgress) -> tuple[keras.Model, str]:
    """The network with the weights that count, in float32, and their digest, which is that of all ranks."""
    if training_progress.best_weights is not None:
        model.set_weights(training_progress.best_weights)
    else:
        assign_averages(model)
    weights_sha256 = check_equal_state(model, model.optimizer, "after training")
    set_epoch(0)
    network = build_model(config, table, "float32")
    network.set_weights(model.get_weights())
    return network, weights_sha256


def _fit(model: keras.Model, dataset: tf.data.Dataset, callback: EpochCallback, first: int, last: int) -> None:
    model.fit(dataset, initial_epoch=first, epochs=last, callbacks=[callback], shuffle=False, verbose=0)


def _shard(config: Config, table: Table, split: Split) -> Shard:
    return Shard(
        table=table,
        split=split,
        rows=shard(table.manifest.rows(split), hvd.rank(), hvd.size()),
        stream=config.stream,
    )
