"""The whole road, as the driver sees it: source, table, workers, run."""

import dataclasses
import getpass
import importlib.metadata
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from pipelines import __version__, cli, configfile, logs, paths, rundir
from pipelines.config import Config, TrackingConfig
from pipelines.ingest import sources, table
from pipelines.launch import attempts, preflight, rankprocess, resume, session
from pipelines.launch.console import TrainingConsole
from pipelines.launch.recorded import recorded
from pipelines.launch.resume import Resumption
from pipelines.models import registry
from pipelines.schema import REJECTED_FOLDER, SPLITS, Table
from pipelines.secrets import mask
from pipelines.spool import SpoolReader
from pipelines.stream.sharding import steps_per_epoch
from pipelines.track import page
from pipelines.track.recorder import Recorder
from pipelines.track.run import TrackedRun

_VERSIONED = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "petastorm", "pyspark", "pyarrow", "numpy", "mlflow")


@dataclass
class Clock:
    """Seconds since the job was submitted, at the marks of the road."""

    submitted: float
    marks: dict[str, float] = dataclasses.field(default_factory=dict)

    def mark(self, name: str, at: float | None = None) -> None:
        self.marks.setdefault(name, (at or time.time()) - self.submitted)

    def at(self, name: str) -> float:
        """Seconds since the Unix epoch; when the job was submitted, for a mark that was not reached."""
        return self.submitted + self.marks.get(name, 0.0)

    def between(self, start: str, stop: str) -> float:
        return round(self.marks.get(stop, 0.0) - self.marks.get(start, 0.0), 2)


def run_training(
    config: Config, console: TrainingConsole, submitted: float | None = None, resumption: Resumption | None = None
) -> dict[str, Any]:
    """Train as configured and record the run, a new one or one that goes on.

    Args:
        config: the run.
        console: is told what happens.
        submitted: when its time began, in seconds since the Unix epoch; None for the start of this process.
        resumption: the run that goes on, whose settings `config` are; None for a new one.

    Returns:
        the summary, plain data ready for JSON.

    Raises:
        ConfigError: before anything is started.
        ConvoyError: the work failed; the run is FAILED and stays.
    """
    registry.check(config.model.name, config.training.label_smoothing)
    clock = Clock(submitted or _submitted_at())
    run_name = config.tracking.run_name or f"{config.model.name}-{config.launch.workers}w"
    run_dir = resumption.run_dir if resumption is not None else rundir.make(paths.to_python(config.launch.runs_uri), run_name)
    with recorded(config.tracking, run_name, run_dir, console, log_level=config.launch.log_level) as run:
        (run_dir / rundir.CONFIG_FILE).write_text(mask(configfile.dump(config)), encoding="utf-8")
        if resumption is None:
            run.settings(page.parameters(config), configfile.dump(config))
        run.tags(_tags(run_dir))
        summary = _train_and_record(config, console, run, run_dir, clock, resumption)
    clock.mark("end")
    summary |= {"run_id": run.run_id, "model_uri": run.model_uri, "tracking_uri": run.tracking_uri}
    summary["seconds"]["total"] = clock.between("submitted", "end")
    cli.write_summary(summary, run_dir / rundir.SUMMARY_FILE)
    return summary


def _train_and_record(
    config: Config, console: TrainingConsole, run: TrackedRun, run_dir: Path, clock: Clock, resumption: Resumption | None
) -> dict[str, Any]:
    source = sources.resolve(config.data, console.say)
    with _ranks_prepared(run_dir) as fork_server, session.open_session("convoy-train") as spark:
        for line in preflight.check(spark, config.launch.workers, str(run_dir)):
            console.warn(line)
        clock.mark("spark")
        data, built = table.open_or_build(spark, config, source, console.say)
        clock.mark("table")
        _announce(config, data, built, console, run)
        steps_per_epoch(data.manifest.rows("train"), config.launch.workers, config.training.batch_size_per_worker)
        if resumption is not None:
            resume.check_table(resumption, data.manifest, console.say)
        title = page.title(config, data.manifest.dataset)
        recorder = Recorder(run, run_dir, data.manifest, title, clock.submitted)
        for name, start, stop in (("set-up", "submitted", "spark"), ("ingest", "spark", "table")):
            recorder.phase(name, clock.at(start), clock.at(stop))
        results = attempts.train(
            spark,
            without_tracking(config),
            data,
            run_dir,
            start=resumption.checkpoint if resumption is not None else None,
            poll=_reports(run_dir, console, recorder, clock),
            warn=console.warn,
            restarted=partial(_tag_restart, run, run_dir),
            fork_server=fork_server,
        )
        clock.mark("trained")
        recorder.phase("launch", clock.at("table"), clock.at("plan"))
        result = results[0]
        tested = {"test/loss": result.test.loss, "test/accuracy": result.test.accuracy}
        if result.single_view_accuracy is not None:
            tested["test/single_view_accuracy"] = result.single_view_accuracy
        run.metrics(tested, step=result.epochs)
        run.model(run_dir / rundir.MODEL_FOLDER)
        figures = recorder.figures()
    outcome = page.Result(
        accuracy=result.test.accuracy,
        loss=result.test.loss,
        epochs=result.epochs,
        precision=result.precision,
        rows_per_second=result.rows_per_second,
        seconds=time.time() - clock.submitted,
        figures=figures,
    )
    run.tags({page.DESCRIPTION_TAG: page.description(config, data.manifest, outcome)})
    return {
        "dataset": data.manifest.dataset,
        "note": source.note,
        "table": data.uri,
        "run_dir": str(run_dir),
        "rows": {split: data.manifest.rows(split) for split in SPLITS},
        "workers": config.launch.workers,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "precision": result.precision,
        "test": dataclasses.asdict(result.test),
        "rows_per_second": round(result.rows_per_second),
        "seconds": {
            "ingest": clock.between("spark", "table"),
            "launch": clock.between("table", "plan"),
            "first_step": clock.between("submitted", "first_step"),
            "train": round(result.train_seconds, 2),
        },
    }


def _reports(run_dir: Path, console: TrainingConsole, recorder: Recorder, clock: Clock) -> Callable[[], None]:
    """A function that passes on what the workers have reported since it was last called."""
    spool, lines = SpoolReader(run_dir / rundir.SPOOL_FOLDER), logs.Follower(run_dir / rundir.LOG_FOLDER)
    for event in spool.new_events():
        # A run that goes on has told this before.
        recorder.remember(event)

    def pass_on() -> None:
        for event in spool.new_events():
            recorder.event(event)
            if event.rank == 0 and event.kind != "system":
                clock.mark(event.kind, event.time)
                console.show(event)
        if console.verbosity == "verbose":
            for line in lines.new_lines("rank-*.log"):
                console.echo(line)

    return pass_on


def _announce(config: Config, data: Table, built: bool, console: TrainingConsole, run: TrackedRun) -> None:
    manifest = data.manifest
    rows = ", ".join(f"{manifest.rows(split):,} {split}" for split in SPLITS)
    console.say(f"table {data.uri} ({'built' if built else 'reused'}): {rows}")
    run.dataset(data)
    run.tags({page.DESCRIPTION_TAG: page.description(config, manifest)} | ({"data_note": manifest.note} if manifest.note else {}))
    if manifest.rejected_rows:
        console.warn(f"{manifest.rejected_summary}, kept in {data.uri}/{REJECTED_FOLDER}")
        run.tags({"data_rejected": manifest.rejected_summary})
    run.metrics({"data/rejected_rows": manifest.rejected_rows}, step=0)


def _ranks_prepared(run_dir: Path) -> AbstractContextManager[str]:
    """The address of a fork server, where Spark's tasks will run on this machine."""
    return rankprocess.fork_server(run_dir) if session.is_local() else nullcontext("")


def _tag_restart(run: TrackedRun, run_dir: Path, line: str) -> None:
    # Numbered over the whole run, in which a resumption is a new start, too.
    number = rundir.attempts(run_dir)
    run.tags({"restarts": str(number), f"restart.{number}": line})


def without_tracking(config: Config) -> Config:
    """For ranks: they record nothing themselves, and the server's address may hold a password."""
    return dataclasses.replace(config, tracking=TrackingConfig())


def _tags(run_dir: Path) -> dict[str, str]:
    tags = {
        "convoy_version": __version__,
        "run_dir": str(run_dir),
        "mlflow.source.name": "jobs/train_cnn.py",
        "mlflow.source.type": "JOB",
        "mlflow.user": getpass.getuser(),
    }
    for distribution in _VERSIONED:
        try:
            tags[f"version.{distribution}"] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def _git_commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=paths.home(), capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _submitted_at() -> float:
    """When the job was submitted: what the front door says, else the start of spark-submit's JVM, else of this process."""
    told = os.environ.get("CONVOY_SUBMITTED_AT")
    if told:
        return float(told)
    if paths.on_databricks():
        # This process and its JVM are the cluster's, and were there before the job.
        return time.time()
    process = psutil.Process()
    parent = process.parent()
    if parent is not None and "java" in parent.name():
        process = parent
    return float(process.create_time())
