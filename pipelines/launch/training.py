"""The whole road, as the driver sees it: source, table, workers, run."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from pipelines.config import Config, TrackingConfig, loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.stream.sharding import steps_per_epoch
from pipelines.data.table.schema import REJECTED_FOLDER, SPLITS, Table
from pipelines.launch import reports, restarts, resume, session
from pipelines.launch.clock import Clock
from pipelines.launch.preflight import check
from pipelines.launch.resume import Resumption
from pipelines.launch.run_lifecycle import recorded
from pipelines.launch.train_function import work
from pipelines.launch.workers import spawn
from pipelines.models import registry
from pipelines.system import atomic, paths
from pipelines.track import provenance, run_page
from pipelines.track.console.console import TrainingConsole
from pipelines.track.recorder import Recorder
from pipelines.track.rundir import layout
from pipelines.track.rundir import summary as summary_file
from pipelines.track.rundir.events import Event
from pipelines.track.rundir.summary import ModelScore, SplitRows, StageSeconds, TrainingSummary
from pipelines.track.tracked_run import TrackedRun
from pipelines.train.result import Score, TrainingResult

# MLflow's import would share the cores with that of TensorFlow and the start of Spark. It waits for Spark's, or so long.
_MLFLOW_SECONDS = 20
# Trainings of one process must not write the same table at once.
_tables = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a training that is one of several in a Spark session is given by who started it."""

    spark: SparkSession
    """Was looked at before (`pipelines.launch.preflight.check`), and stays."""
    fork_server: str
    """The address of one for all, or nothing."""
    run_dir: Path
    name: str
    """Of its run."""
    parent: Path
    """The folder of the run that this one is to be shown below."""
    tags: Mapping[str, str]
    tested: bool
    """False leaves the test rows alone; then the model stays in the run folder, and no figures are drawn."""
    watch: Callable[[Sequence[Event]], None]
    """Called some times a second with what rank 0 has reported since. What it raises ends the training: `EndedEarly` as one that
    promised too little."""


def run_training(
    config: Config,
    console: TrainingConsole,
    submitted: float | None = None,
    resumption: Resumption | None = None,
    trial: Trial | None = None,
    fork_server: str | None = None,
) -> TrainingSummary:
    """Train as configured and record the run, a new one or one that goes on.

    Args:
        config: the run.
        console: is told what happens.
        submitted: when its time began, in seconds since the Unix epoch; None for the start of this process.
        resumption: the run that goes on, whose settings `config` are; None for a new one.
        trial: where it is one of several in a Spark session that is there.
        fork_server: the address of one that has begun to import already; None to start one.

    Returns:
        the summary.

    Raises:
        ConfigError: before anything is started.
        EndedEarly: by a trial's `watch`.
        ConvoyError: the work failed; the run is FAILED and stays.
    """
    registry.check(config.model.name, config.training.label_smoothing)
    clock = Clock(submitted or provenance.submitted_at())
    run_name = config.tracking.run_name or f"{config.model.name}-{config.launch.workers}w"
    if trial is not None:
        run_name, run_dir = trial.name, trial.run_dir
    elif resumption is not None:
        run_dir = resumption.run_dir
    else:
        run_dir = layout.make(paths.to_python(config.launch.runs_uri), run_name)
    parent = trial.parent if trial is not None else None
    patience = _MLFLOW_SECONDS if trial is None else 0
    with recorded(
        config.tracking, run_name, run_dir, console, log_level=config.launch.log_level, parent=parent, patience_seconds=patience
    ) as run:
        atomic.write(run_dir / layout.CONFIG_FILE, loader.dump_masked(config), private=True)
        for key in loader.without_credentials(config):
            console.warn(f"{key} is kept without its credentials; give it again (--set {key}) to resume or repeat this run")
        if resumption is None:
            run.settings(run_page.parameters(config), loader.dump_masked(config))
        run.tags(provenance.tags(run_dir, "jobs/train_cnn.py" if trial is None else "jobs/sweep.py"))
        if trial is not None:
            run.tags(trial.tags)
        summary = _train_and_record(config, console, run, run_dir, clock, resumption, trial, fork_server)
    clock.mark("end")
    summary = dataclasses.replace(
        summary,
        run_id=run.run_id,
        model_uri=run.model_uri,
        tracking_uri=run.tracking_uri,
        seconds=dataclasses.replace(summary.seconds, total=clock.between("submitted", "end")),
    )
    summary_file.write(summary.as_dict(), run_dir / layout.SUMMARY_FILE, private=True)
    return summary


def _train_and_record(
    config: Config,
    console: TrainingConsole,
    run: TrackedRun,
    run_dir: Path,
    clock: Clock,
    resumption: Resumption | None,
    trial: Trial | None,
    fork_server: str | None,
) -> TrainingSummary:
    source = resolve_source(config.data, console)
    with _cluster(config, console, run_dir, trial, fork_server) as (spark, server):
        clock.mark("spark")
        with _tables:
            data, built = table.open_or_build(spark, config, source, console)
        clock.mark("table")
        _announce(config, data, built, console, run)
        steps_per_epoch(data.manifest.rows("train"), config.launch.workers, config.training.batch_size_per_worker)
        if resumption is not None:
            resume.check_table(resumption, data.manifest, console)
        title = run_page.title(config, data.manifest.dataset)
        recorder = Recorder(run, run_dir, data.manifest, title, clock.submitted)
        for name, start, stop in (("set-up", "submitted", "spark"), ("ingest", "spark", "table")):
            recorder.phase(name, clock.at(start), clock.at(stop))
        pass_on = reports.follow(run_dir, console, recorder, clock, trial.watch if trial is not None else None)
        # Spark is up, and the ranks wait for TensorFlow, whose import keeps one core busy.
        run.hand_over()
        results = restarts.train(
            spark,
            without_tracking(config),
            data,
            run_dir,
            start=resumption.checkpoint if resumption is not None else None,
            poll=pass_on,
            reporter=console,
            restarted=partial(_tag_restart, run, run_dir),
            function=work if trial is None or trial.tested else partial(work, tested=False),
            fork_server=server,
        )
        reports.await_last_report(pass_on, clock, console)
        clock.mark("trained")
        recorder.phase("launch", clock.at("table"), clock.at("plan"))
        result = results[0]
        if result.test is not None:
            _record_test(run, run_dir, result.test, result)
            outcome = run_page.RunOutcome(
                accuracy=result.test.accuracy,
                loss=result.test.loss,
                epochs=result.epochs,
                precision=result.precision,
                rows_per_second=result.rows_per_second,
                seconds=time.time() - clock.submitted,
                figures=recorder.figures(),
            )
            run.tags({run_page.DESCRIPTION_TAG: run_page.description(config, data.manifest, outcome)})
    return TrainingSummary(
        dataset=data.manifest.dataset,
        note=source.note,
        table=data.uri,
        run_dir=str(run_dir),
        rows=SplitRows(**{split: data.manifest.rows(split) for split in SPLITS}),
        workers=len(results),
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        precision=result.precision,
        test=ModelScore(**dataclasses.asdict(result.test)) if result.test is not None else None,
        rows_per_second=round(result.rows_per_second),
        tracking_processor_seconds=round(
            run.processor_seconds(clock.at("first_step"), clock.at("first_step") + result.train_seconds), 3
        ),
        seconds=StageSeconds(
            ingest=clock.between("spark", "table"),
            launch=clock.between("table", "plan"),
            first_step=clock.between("submitted", "first_step"),
            train=round(result.train_seconds, 2),
        ),
    )


@contextmanager
def _cluster(
    config: Config, console: TrainingConsole, run_dir: Path, trial: Trial | None, fork_server: str | None
) -> Iterator[tuple[SparkSession, str]]:
    """A session that can run the workers, and the address of a fork server where Spark's tasks run on this machine."""
    if trial is not None:
        yield trial.spark, trial.fork_server
        return
    server = spawn.fork_server_if_local("training") if fork_server is None else nullcontext(fork_server)
    with server as address, session.open_session("convoy-train") as spark:
        for line in check.check_cluster(spark, config.launch.workers, str(run_dir)):
            console.warn(line)
        yield spark, address


def _record_test(run: TrackedRun, run_dir: Path, test: Score, result: TrainingResult) -> None:
    tested = {"test/loss": test.loss, "test/accuracy": test.accuracy}
    if result.single_view_accuracy is not None:
        tested["test/single_view_accuracy"] = result.single_view_accuracy
    run.metrics(tested, step=result.epochs)
    run.model(run_dir / layout.MODEL_FOLDER)


def _announce(config: Config, data: Table, built: bool, console: TrainingConsole, run: TrackedRun) -> None:
    manifest = data.manifest
    rows = ", ".join(f"{manifest.rows(split):,} {split}" for split in SPLITS)
    console.say(f"table {data.uri} ({'built' if built else 'reused'}): {rows}")
    run.dataset(data)
    run.tags(
        {run_page.DESCRIPTION_TAG: run_page.description(config, manifest)}
        | ({"data_note": manifest.note} if manifest.note else {})
    )
    if manifest.rejected_rows:
        console.warn(f"{manifest.rejected_summary}, kept in {data.uri}/{REJECTED_FOLDER}")
        run.tags({"data_rejected": manifest.rejected_summary})
    run.metrics({"data/rejected_rows": manifest.rejected_rows}, step=0)


def _tag_restart(run: TrackedRun, run_dir: Path, line: str) -> None:
    # Numbered over the whole run, in which a resumption is a new start, too.
    number = layout.attempts(run_dir)
    run.tags({"restarts": str(number), f"restart.{number}": line})


def without_tracking(config: Config) -> Config:
    """For ranks: they record nothing themselves, and the server's address may hold a password."""
    return dataclasses.replace(config, tracking=TrackingConfig())
