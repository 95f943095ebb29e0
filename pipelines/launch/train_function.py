"""The function that every rank of a training runs: train, and on rank 0 save the model."""

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from pipelines import progress
from pipelines.config import Config
from pipelines.data.table.schema import TRAINING_ROWS_NAME, Table
from pipelines.models.custom.sources import SourceFile
from pipelines.system import paths, writeback
from pipelines.system.tensorflow_env import import_for_training
from pipelines.track.rundir.events import ModelSaved, SpoolWriter
from pipelines.track.rundir.layout import MODEL_FOLDER, SPOOL_FOLDER
from pipelines.train.result import TrainingResult

_EXAMPLE_ROWS = 3
_SAMPLE_ROWS = 100


def work(
    config: Config,
    table: Table,
    run_dir: str,
    checkpoint: str | None = None,
    *,
    tested: bool = True,
    code: Sequence[SourceFile] = (),
) -> TrainingResult:
    """Train on this rank, while all others do. Rank 0 writes an MLflow model folder to `run_dir`.

    Args:
        config: settings of the run.
        table: the data to train on.
        run_dir: run folder.
        checkpoint: path of the checkpoint to start from; None for the beginning.
        tested: whether to evaluate on the test rows.
        code: the user's modules that the settings name, as the driver read them.

    Raises:
        UserCodeError: code of the user's raises; names its line.
    """
    # Petastorm uses pyarrow interfaces that some versions deprecate.
    warnings.filterwarnings("ignore", category=FutureWarning)
    progress.mark("loading TensorFlow")
    import_for_training()
    import horovod.tensorflow as hvd

    from pipelines.data.stream.reader import read_blocks
    from pipelines.data.stream.sharding import RowRange
    from pipelines.models.custom import loading, packaging
    from pipelines.track.mlflow import logged_model
    from pipelines.train.collectives import hosts, shared_memory
    from pipelines.train.worker import train

    if shared_memory.is_usable(config):
        # Horovod reads it in hvd.init().
        os.environ.setdefault("HOROVOD_CYCLE_TIME", str(shared_memory.CYCLE_MILLISECONDS))
    with progress.waiting("connecting to the other ranks"):
        hvd.init(process_sets=hosts.process_sets(config))
    progress.joined()
    folder, rank = Path(run_dir), hvd.rank()
    spool = SpoolWriter(folder / SPOOL_FOLDER, rank)
    loading.install(code)
    with loading.errors_named():
        model, result = train(config, table, spool, folder, Path(checkpoint) if checkpoint is not None else None, tested)
    # A rank that exits without it looks like a failure to the others.
    with progress.waiting("shutting down Horovod"):
        hvd.shutdown()
    if rank == 0:
        progress.mark("saving the model")
        examples = RowRange(0, min(_EXAMPLE_ROWS, table.manifest.rows("test")))
        images, *_ = next(iter(read_blocks(table, "test", examples)))
        first_rows = RowRange(0, min(_SAMPLE_ROWS, table.manifest.rows("train")))
        sample = [block for block, *_ in read_blocks(table, "train", first_rows)]
        training_rows = paths.to_python(table.uri) / TRAINING_ROWS_NAME if table.manifest.training_rows_sha256 else None
        # An earlier attempt may have saved one.
        shutil.rmtree(folder / MODEL_FOLDER, ignore_errors=True)
        with writeback.stage_of(folder).staged_folder(folder / MODEL_FOLDER) as target:
            network = loading.source_of(config.model.name)
            own = packaging.model_code(network) if network is not None else None
            logged_model.save(model, target, table.manifest, images, sample, training_rows, own)
        spool.write(ModelSaved())
    spool.close()
    return result
