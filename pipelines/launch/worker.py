"""The function that runs on every rank of a training: train, and on rank 0 save the network."""

import warnings
from pathlib import Path

from pipelines.config import Config
from pipelines.rundir import MODEL_FOLDER, SPOOL_FOLDER
from pipelines.schema import Table
from pipelines.spool import SpoolWriter
from pipelines.train.result import TrainingResult

_EXAMPLE_ROWS = 3


def work(config: Config, table: Table, run_dir: str) -> TrainingResult:
    """Called on all ranks at once, each in a process of its own. Rank 0 leaves an MLflow model folder in `run_dir`."""
    # Petastorm reads through pyarrow interfaces that pyarrow < 15 only deprecates; the pins keep them.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import horovod.tensorflow as hvd

    from pipelines.stream.reader import read_blocks
    from pipelines.stream.sharding import RowRange
    from pipelines.track import model as tracked_model
    from pipelines.train.worker import train

    hvd.init()
    rank = hvd.rank()
    spool = SpoolWriter(Path(run_dir) / SPOOL_FOLDER, rank)
    model, result = train(config, table, spool, Path(run_dir))
    # All ranks leave Horovod together; one that simply ended would look like a failure to the others.
    hvd.shutdown()
    if rank == 0:
        examples = RowRange(0, min(_EXAMPLE_ROWS, table.manifest.rows("test")))
        images, _ = next(iter(read_blocks(table, "test", examples)))
        tracked_model.save(model, Path(run_dir) / MODEL_FOLDER, table.manifest, images)
    spool.close()
    return result
