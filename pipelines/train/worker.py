"""The training of one worker, from its shard to the evaluated network. Runs in a process of its own, one per rank."""

import time
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from pipelines import progress
from pipelines.config import Config, TrackingConfig
from pipelines.config.training import TrainingConfig
from pipelines.data.stream import augment
from pipelines.data.stream.batches import EvaluationData, Shard, TrainingData
from pipelines.data.stream.canonical import WorkerData
from pipelines.data.stream.sharding import shard
from pipelines.data.table.schema import Split, Table
from pipelines.errors import TrainingError
from pipelines.system import writeback
from pipelines.track.rundir.events import FinalScore, SpoolWriter, TrainingPlan, WeightsTaken
from pipelines.track.rundir.layout import TENSORBOARD_FOLDER
from pipelines.track.rundir.logs import set_epoch
from pipelines.train import initial_weights, objective, own_callbacks
from pipelines.train.callback import EpochCallback
from pipelines.train.checkpoint import restore
from pipelines.train.checkpoint.restore import CheckpointSaver
from pipelines.train.checkpoint.state import RandomGenerators
from pipelines.train.checkpoint.training_progress import TrainingProgress
from pipelines.train.checkpoint.writer import CheckpointWriter
from pipelines.train.collectives import reducers, shared_memory
from pipelines.train.collectives.horovod import allgather, broadcast_state, check_equal_state
from pipelines.train.compile import build_model, compile_model
from pipelines.train.evaluate import Validation, evaluate_test_rows
from pipelines.train.optim.distributed import was_finite
from pipelines.train.optim.ema import assign_averages
from pipelines.train.optim.loss_scale import NOT_FINITE
from pipelines.train.optim.step_count import steps_done
from pipelines.train.own_callbacks import OwnCallbacks
from pipelines.train.result import TrainingResult
from pipelines.train.targets import in_source_units
from pipelines.train.tensorboard import TensorBoardLogs
from pipelines.train.test_time_augmentation import average_over_views
from pipelines.train.worker_setup import WorkerSetup, set_up


def train(
    config: Config,
    table: Table,
    spool: SpoolWriter,
    run_dir: Path | None = None,
    checkpoint: Path | None = None,
    tested: bool = True,
) -> tuple[keras.Model, TrainingResult]:
    """Train on this rank's shard, together with all other ranks.

    All ranks must call this at the same time with the same arguments, after `hvd.init()`.

    Args:
        config: settings of the run.
        table: the table to train on.
        spool: the rank's event log.
        run_dir: receives checkpoints and the data of the figures; None to write neither.
        checkpoint: description file of the checkpoint to resume from; None to start from scratch.
        tested: evaluate the test rows; False for a trial, while the best trial is still to be chosen.

    Returns:
        the trained network to log, in float32, uncompiled, over `training.test_views` views and in source units; and the result.
        Equal on all ranks.

    Raises:
        DataError: the table is too small or damaged.
        ConfigError: network, loss, metrics or callbacks of the user's do not fit.
        LaunchError: the ranks were given different work.
        TrainingError: the loss is not finite, or weights differ between ranks.
        CheckpointError: the checkpoint does not match, or a checkpoint cannot be written.
        UserCodeError: code of the user's raises.
        Stopped: a stop was requested, and a checkpoint has been written.
    """
    progress.mark("preparing")
    setup = set_up(config, table, checkpoint)
    keras.utils.set_random_seed(config.training.seed)
    rules = objective.target_rules(config, table)
    model = compile_model(config, table, setup, rules, reducers.make(setup.reduction, config.training))
    if config.model.weights and checkpoint is None:
        taken = initial_weights.assign(model, initial_weights.location(config.model.weights, run_dir))
        spool.write(WeightsTaken(taken.layers, taken.left))
    training_progress = restore.restore_training(model, checkpoint, setup)
    own = OwnCallbacks(own_callbacks.make(config.training.callbacks, setup.rank), training_progress)
    broadcast_state(model, model.optimizer)
    training_progress.weights_sha256 = check_equal_state(model, model.optimizer, "before training")
    _report_start(config, table, setup, training_progress, spool)

    writer = CheckpointWriter(run_dir, config.checkpoint.keep) if run_dir is not None and setup.rank == 0 else None
    data = _training_data(config, table, setup)
    callback = EpochCallback(
        config.training,
        setup,
        training_progress,
        data,
        Validation(EvaluationData(_shard(config, table, "validation", setup)), rules)
        if table.manifest.rows("validation")
        else None,
        RandomGenerators(model, config.training.seed, setup.own_shards),
        spool,
        CheckpointSaver(writer, config, table.manifest.key, model, setup),
    )
    logs = _logs(config.tracking, training_progress, model, setup, run_dir)
    train_seconds = _fit_and_save(model, data, callback, own, logs, config.training, setup, writer)

    network, weights_sha256 = _trained_network(config, table, model, training_progress)
    logged = average_over_views(network, table.manifest.spec, config.training.test_views)
    score, single_view = None, None
    if tested:
        test = _shard(config, table, "test", setup)
        score, single_view = evaluate_test_rows(network, logged, test, rules, setup, data, run_dir)
        spool.write(FinalScore(score.loss, score.metrics, score.rows))
    result = TrainingResult(
        epochs=training_progress.epoch,
        best_epoch=training_progress.best_epoch,
        precision=setup.precision,
        test=score,
        single_view=single_view,
        rows_per_second=callback.rows_per_second,
        train_seconds=train_seconds,
        weights_sha256=weights_sha256,
    )
    return in_source_units(logged, table.manifest), result


def _report_start(
    config: Config, table: Table, setup: WorkerSetup, training_progress: TrainingProgress, spool: SpoolWriter
) -> None:
    shards = _training_shards(config, table, setup)
    spool.write(
        TrainingPlan(
            rows=table.manifest.rows("train"),
            workers=setup.workers,
            batch_size_per_worker=setup.global_batch_size // setup.workers,
            steps=setup.steps_per_epoch,
            learning_rate=setup.learning_rate.peak,
            threads=setup.threads,
            precision=setup.precision,
            in_memory=all(each.fits_memory for each in shards),
            held_mb=round(sum(each.held_bytes(setup.batch_size_per_worker) for each in shards) / 1e6),
            epoch=training_progress.epoch,
            step=training_progress.step,
        )
    )
    if setup.rank == 0:
        restore.report_history(spool, training_progress)


def _training_data(config: Config, table: Table, setup: WorkerSetup) -> WorkerData:
    return WorkerData(
        [
            TrainingData(
                rows,
                steps=setup.steps_per_epoch,
                batch_size=setup.batch_size_per_worker,
                seed=config.training.seed * setup.shards + number,
                augmentation=augment.from_settings(config.training),
            )
            for number, rows in zip(setup.own_shards, _training_shards(config, table, setup), strict=True)
        ]
    )


def _training_shards(config: Config, table: Table, setup: WorkerSetup) -> list[Shard]:
    rows = table.manifest.rows("train")
    return [
        Shard(table=table, split="train", rows=shard(rows, number, setup.shards), stream=config.stream)
        for number in setup.own_shards
    ]


def _shard(config: Config, table: Table, split: Split, setup: WorkerSetup) -> Shard:
    rows = shard(table.manifest.rows(split), setup.rank, setup.workers)
    return Shard(table=table, split=split, rows=rows, stream=config.stream)


def _logs(
    tracking: TrackingConfig, training_progress: TrainingProgress, model: keras.Model, setup: WorkerSetup, run_dir: Path | None
) -> list[keras.callbacks.Callback]:
    """What writes TensorBoard logs on this rank: nothing on all but rank 0, and where they are not asked for."""
    if run_dir is None or setup.rank != 0 or not (tracking.tensorboard or tracking.profile):
        return []
    folder = writeback.stage_of(run_dir).staging_path(run_dir / TENSORBOARD_FOLDER)
    return [TensorBoardLogs(folder, tracking, training_progress, steps_done(model))]


def fit(
    model: keras.Model,
    data: WorkerData,
    callback: EpochCallback,
    own: OwnCallbacks,
    logs: Sequence[keras.callbacks.Callback],
    training: TrainingConfig,
    setup: WorkerSetup,
) -> None:
    """Train from the current progress to the end.

    Args:
        model: compiled.
        data: the training data.
        callback: ends the epochs; its progress is that of the training.
        own: the user's callbacks, called after it.
        logs: further callbacks, called last.
        training: settings of the training.
        setup: steps per epoch.

    Raises:
        ConnectionError: another rank on this machine has ended.
        TrainingError: a gradient or the loss is not finite; raised on all ranks in the same step, with the weights of the step
            before.
    """
    callbacks = [callback, own, *logs]
    training_progress, steps = callback.training_progress, setup.steps_per_epoch
    try:
        if training_progress.step and not training_progress.is_complete(training.epochs, training.early_stopping_patience):
            # The rest of an interrupted epoch has fewer steps than the others, so Keras needs a separate call for it.
            rest, epoch = data.dataset(skip_steps=training_progress.step), training_progress.epoch
            _fit(model, rest, callbacks, epoch, epoch + 1)
        if not own.stopped and not training_progress.is_complete(training.epochs, training.early_stopping_patience):
            _fit(model, data.dataset(), callbacks, training_progress.epoch, training.epochs)
    except tf.errors.UnknownError as error:
        if shared_memory.PEER_EXITED not in str(error):
            raise
        raise ConnectionError(shared_memory.PEER_EXITED) from None
    except tf.errors.InvalidArgumentError as error:
        if NOT_FINITE not in str(error):
            raise
        step = steps_done(model) - training_progress.epoch * steps + 1
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        where, remedy, blamed = _where_not_finite(error)
        raise TrainingError(
            f"the loss is not finite{where} in epoch {training_progress.epoch + 1}, step {step} of {steps}, at learning rate "
            f"{rate:g}; {remedy}",
            "not finite",
            blamed,
        ) from None


def _where_not_finite(error: tf.errors.InvalidArgumentError) -> tuple[str, str, list[int]]:
    """On which ranks a gradient was not finite before they were averaged, and what to do about it. All ranks must call this."""
    finite = allgather(was_finite(error))
    ranks = [rank for rank, own in enumerate(finite) if own is False]
    if 0 < len(ranks) < len(finite):
        # All ranks have the same weights.
        names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
        return f" on {names} alone", "look for the cause in the rows that are read there, and in the machine", ranks
    everywhere = " on all ranks" if 1 < len(ranks) == len(finite) else ""
    return everywhere, "lower training.base_learning_rate or raise training.warmup_epochs", []


def _fit_and_save(
    model: keras.Model,
    data: WorkerData,
    callback: EpochCallback,
    own: OwnCallbacks,
    logs: Sequence[keras.callbacks.Callback],
    training: TrainingConfig,
    setup: WorkerSetup,
    writer: CheckpointWriter | None,
) -> float:
    """Train, and wait until all checkpoints are on disk. Returns the seconds of the training alone."""
    started = time.monotonic()
    try:
        # An execution of many steps, which takes long with a large network, is progress all the time.
        with progress.counting(lambda: steps_done(model), model.optimizer.step_timer.times):
            fit(model, data, callback, own, logs, training, setup)
    except BaseException:
        # Otherwise the process may end before the last checkpoint is on disk.
        if writer is not None:
            writer.wait()
        raise
    seconds = time.monotonic() - started
    if writer is not None:
        writer.finish()
    return seconds


def _trained_network(
    config: Config, table: Table, model: keras.Model, training_progress: TrainingProgress
) -> tuple[keras.Model, str]:
    """The network in float32 with the best or averaged weights if configured, else the last; and their SHA-256."""
    if config.training.early_stopping_patience and training_progress.best_weights is not None:
        model.set_weights(training_progress.best_weights)
    else:
        assign_averages(model)
    weights_sha256 = check_equal_state(model, model.optimizer, "after training")
    set_epoch(0)
    network = build_model(config, table, "float32")
    network.set_weights(model.get_weights())
    return network, weights_sha256


def _fit(model: keras.Model, dataset: tf.data.Dataset, callbacks: list[keras.callbacks.Callback], first: int, last: int) -> None:
    model.fit(dataset, initial_epoch=first, epochs=last, callbacks=callbacks, shuffle=False, verbose=0)
