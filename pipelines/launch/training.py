"""A training on the driver, from source to result: source, table, workers, run."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from pipelines.config import Config, TrackingConfig, loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.sources.source import Source, short_name
from pipelines.data.stream.sharding import check_rows, fitting_batch
from pipelines.data.table.schema import REJECTED_FOLDER, SPLITS, Table
from pipelines.launch import restarts, resume, session, user_inputs
from pipelines.launch.clock import Clock
from pipelines.launch.preflight import check
from pipelines.launch.reports import ReportObserver
from pipelines.launch.resume import Resumption
from pipelines.launch.run_lifecycle import recorded
from pipelines.launch.train_function import work
from pipelines.launch.user_inputs import UserInputs
from pipelines.launch.workers import spawn
from pipelines.system import atomic, paths, spark_location
from pipelines.system.fingerprint import Fingerprint
from pipelines.track import provenance, run_page
from pipelines.track.console.console import TrainingConsole
from pipelines.track.recorder import Recorder
from pipelines.track.rundir import layout
from pipelines.track.rundir import summary as summary_file
from pipelines.track.rundir.events import Event, TrainingPlan
from pipelines.track.rundir.summary import ModelScore, SplitRows, StageSeconds, TrainingSummary
from pipelines.track.tracked_run import TrackedRun
from pipelines.train.result import TrainingResult

# MLflow's import would compete with the start of Spark for the cores. It waits until Spark has started, or this long.
_MLFLOW_SECONDS = 20
# Concurrent trainings in one process must not write the same table.
_tables = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Context of a training that is a trial of a sweep."""

    spark: SparkSession
    """The session of the sweep, already checked (`pipelines.launch.preflight.check`)."""
    fork_server: str
    """Address of the shared fork server; empty if there is none."""
    run_dir: Path
    name: str
    """Name of the run."""
    parent: Path
    """Run folder of the sweep."""
    tags: Mapping[str, str]
    tested: bool
    """Whether to evaluate on the test rows. If not, the model is not logged and no figures are drawn."""
    watch: Callable[[Sequence[Event]], None]
    """Called several times a second with the new events of rank 0. An exception ends the training; `EndedEarly` prunes it."""


def run_training(
    config: Config,
    console: TrainingConsole,
    submitted: float | None = None,
    resumption: Resumption | None = None,
    trial: Trial | None = None,
    fork_server: str | None = None,
) -> TrainingSummary:
    """Train as configured and record a new run, or continue one.

    Args:
        config: settings of the run.
        console: shows the progress.
        submitted: time of submission, in seconds since the Unix epoch; None for that of this process.
        resumption: the run to continue, with the settings `config`; None for a new one.
        trial: context of a trial; None for a single training.
        fork_server: address of a fork server that is already starting; None to start one.

    Raises:
        ConfigError: a setting is invalid; raised before anything is started.
        EndedEarly: raised by a trial's `watch`.
        ConvoyError: training failed; the run remains, as FAILED.
    """
    inputs = user_inputs.prepare(config, resumption.run_dir if resumption is not None else None)
    # Before the run is touched.
    known = resume.check_source(resumption, console) if resumption is not None else None
    clock = Clock(submitted or provenance.submitted_at())
    key = run_page.random_key()
    run_name = config.tracking.run_name or run_page.name(config, _expected_dataset(config), key)
    if trial is not None:
        run_name, run_dir = trial.name, trial.run_dir
    elif resumption is not None:
        run_dir = resumption.run_dir
    else:
        run_dir = layout.make(paths.to_mlflow(config.launch.runs_uri, "launch.runs_uri="), run_name)
    parent = trial.parent if trial is not None else None
    patience = _MLFLOW_SECONDS if trial is None else 0
    with recorded(
        config.tracking, run_name, run_dir, console, log_level=config.launch.log_level, parent=parent, patience_seconds=patience
    ) as run:
        training = _Training(config, console, run, run_dir, clock, inputs, resumption, known, trial)
        training.record_settings()
        summary = training.run(fork_server, key)
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


@dataclass(frozen=True)
class _Training:
    """A training with an open run."""

    config: Config
    console: TrainingConsole
    tracked: TrackedRun
    run_dir: Path
    clock: Clock
    inputs: UserInputs
    resumption: Resumption | None
    known: tuple[Source, Sequence[Fingerprint] | None] | None
    """The source, and the fingerprints of its files, of a resumed run."""
    trial: Trial | None

    def record_settings(self) -> None:
        if self.resumption is None:
            atomic.write(self.run_dir / layout.CONFIG_FILE, loader.dump_masked(self.config), private=True)
        for key in loader.without_credentials(self.config):
            self.console.warn(f"{key} is kept without its credentials; give it again (--set {key}) to resume or repeat this run")
        if self.resumption is None:
            self.tracked.settings(run_page.parameters(self.config), loader.dump_masked(self.config))
        self.inputs.keep(self.run_dir)
        if self.resumption is None:
            for file in self.inputs.code:
                self.tracked.text(file.text, f"{layout.CODE_FOLDER}/{file.file_name}")
            self.tracked.tags(self.inputs.tags)
        self.tracked.tags(provenance.tags(self.run_dir, "jobs/train_cnn.py" if self.trial is None else "jobs/sweep.py"))
        if self.trial is not None:
            self.tracked.tags(self.trial.tags)

    def run(self, fork_server: str | None, name_key: str) -> TrainingSummary:
        source, fingerprints = self.known or (resolve_source(self.config.data, self.console), None)
        self._correct_name(source.dataset, name_key)
        with self._cluster(fork_server) as (spark, server):
            self.clock.mark("spark")
            data = self._open_table(spark, source, fingerprints)
            title = run_page.title(self.config, data.manifest.dataset)
            recorder = Recorder(self.tracked, self.run_dir, data.manifest, title, self.clock.submitted)
            with self._taken_over():
                results = self._train(spark, server, data, recorder)
            self._record_result(results[0], data, recorder)
        return self._summary(data.manifest.note, data, results)

    def _correct_name(self, dataset: str, key: str) -> None:
        """Rename the run if its data set is another one: a subset replaces MNIST if that cannot be downloaded."""
        named_here = self.resumption is None and self.trial is None and not self.config.tracking.run_name
        if named_here and dataset != _expected_dataset(self.config):
            self.tracked.tags({run_page.NAME_TAG: run_page.name(self.config, dataset, key)})

    @contextmanager
    def _cluster(self, fork_server: str | None) -> Iterator[tuple[SparkSession, str]]:
        """A session that can run the workers, and the address of a fork server, empty if tasks run on other machines."""
        if self.trial is not None:
            yield self.trial.spark, self.trial.fork_server
            return
        server = spawn.fork_server_if_local("training") if fork_server is None else nullcontext(fork_server)
        with server as address:
            # Tasks run on this machine.
            if address:
                check.check_memory(self.config.launch.workers)
            with session.open_session("convoy-train") as spark:
                for line in check.check_cluster(spark, self.config.launch.workers, str(self.run_dir)):
                    self.console.warn(line)
                yield spark, address

    def _open_table(self, spark: SparkSession, source: Source, fingerprints: Sequence[Fingerprint] | None) -> Table:
        with _tables:
            data, built = table.open_or_build(spark, self.config, source, self.console, fingerprints)
        self.clock.mark("table")
        manifest = data.manifest
        rows = ", ".join(f"{manifest.rows(split):,} {split}" for split in SPLITS)
        self.console.say(f"table {data.uri} ({'built' if built else 'reused'}): {rows}")
        self.tracked.dataset(data)
        self.tracked.tags(
            {run_page.DESCRIPTION_TAG: run_page.description(self.config, manifest)}
            | ({"data_note": manifest.note} if manifest.note else {})
        )
        if manifest.rejected_rows:
            self.console.warn(f"{manifest.rejected_summary}, kept in {data.uri}/{REJECTED_FOLDER}")
            self.tracked.tags({"data_rejected": manifest.rejected_summary})
        # A metric would be shown as a chart, before those of loss and accuracy.
        self.tracked.parameters({"resolved.rejected_rows": str(manifest.rejected_rows)})
        self._check_batch(manifest.rows("train"))
        if self.resumption is not None:
            resume.check_table(self.resumption, manifest, self.console)
        return data

    def _check_batch(self, rows: int) -> None:
        """Raises DataError or ConfigError if there are too few training rows, and warns if they do not fill a global batch."""
        shards, training = self.config.shards, self.config.training
        check_rows(rows, training.canonical_shards, training.accumulation_steps)
        batch_size = fitting_batch(rows, shards, training.batch_size_per_worker, training.accumulation_steps)
        if batch_size < training.batch_size_per_worker:
            self.console.warn(
                f"the table has {rows} training rows, fewer than one global batch of {shards * training.batch_size_per_worker}; "
                f"training.batch_size_per_worker is {batch_size} instead of {training.batch_size_per_worker}"
            )

    def _taken_over(self) -> AbstractContextManager[None]:
        """The block within which a resumed run's folder is this training's."""
        if self.resumption is None:
            return nullcontext()
        return resume.taken_over(
            self.resumption,
            loader.dump_masked(self.config),
            began=lambda: TrainingPlan.kind in self.clock.marks,
            reporter=self.console,
        )

    def _train(self, spark: SparkSession, fork_server: str, data: Table, recorder: Recorder) -> list[TrainingResult]:
        clock, trial = self.clock, self.trial
        for name, start, stop in (("set-up", "submitted", "spark"), ("ingest", "spark", "table")):
            recorder.phase(name, clock.at(start), clock.at(stop))
        observer = ReportObserver(self.run_dir, self.console, recorder, clock, trial.watch if trial is not None else None)
        # Spark has started, and the ranks wait for the import of TensorFlow, which uses only one core.
        self.tracked.hand_over()
        results = restarts.train(
            spark,
            without_tracking(self.config),
            data,
            self.run_dir,
            observer,
            start=self.resumption.checkpoint if self.resumption is not None else None,
            function=partial(work, tested=trial is None or trial.tested, code=self.inputs.code),
            fork_server=fork_server,
        )
        observer.await_last_report()
        for file in sorted((self.run_dir / layout.TENSORBOARD_FOLDER).rglob("*")):
            if file.is_file():
                self.tracked.artifact(file, str(file.parent.relative_to(self.run_dir)))
        clock.mark("trained")
        recorder.phase("launch", clock.at("table"), clock.at("plan"))
        return results

    def _record_result(self, result: TrainingResult, data: Table, recorder: Recorder) -> None:
        if result.test is None:
            return
        tested = result.test.named("test")
        if result.single_view is not None:
            tested[f"test/single_view_{next(iter(result.test.metrics))}"] = result.single_view
        self.tracked.metrics(tested, step=result.epochs)
        self.tracked.model(self.run_dir / layout.MODEL_FOLDER)
        outcome = run_page.RunOutcome(
            loss=result.test.loss,
            metrics=result.test.metrics,
            epochs=result.epochs,
            precision=result.precision,
            rows_per_second=result.rows_per_second,
            seconds=time.time() - self.clock.submitted,
            figures=recorder.figures(),
        )
        self.tracked.tags({run_page.DESCRIPTION_TAG: run_page.description(self.config, data.manifest, outcome)})

    def _summary(self, note: str, data: Table, results: Sequence[TrainingResult]) -> TrainingSummary:
        """The summary without what is known only after the end of the run."""
        clock, result = self.clock, results[0]
        first_step = clock.at("first_step")
        return TrainingSummary(
            dataset=data.manifest.dataset,
            note=note,
            table=data.uri,
            run_dir=str(self.run_dir),
            rows=SplitRows(**{split: data.manifest.rows(split) for split in SPLITS}),
            workers=len(results),
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            precision=result.precision,
            test=ModelScore(result.test.loss, result.test.metrics, result.test.rows) if result.test is not None else None,
            rows_per_second=round(result.rows_per_second),
            tracking_processor_seconds=round(self.tracked.processor_seconds(first_step, first_step + result.train_seconds), 3),
            seconds=StageSeconds(
                ingest=clock.between("spark", "table"),
                launch=clock.between("table", "plan"),
                first_step=clock.between("submitted", "first_step"),
                train=round(result.train_seconds, 2),
            ),
        )


def _expected_dataset(config: Config) -> str:
    """Expected `Source.dataset`, known before the source is resolved."""
    return short_name(spark_location.short(config.data.dataset))


def without_tracking(config: Config) -> Config:
    """The settings for ranks, which track nothing but TensorBoard's logs: the server's address may contain a password."""
    tracking = TrackingConfig(tensorboard=config.tracking.tensorboard, profile=config.tracking.profile)
    return dataclasses.replace(config, tracking=tracking)
