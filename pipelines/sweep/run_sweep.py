"""Run a sweep on the driver: one Spark session, parallel trials in threads, and a parent MLflow run for theirs."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pipelines.config import Config
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.errors import ConfigError, LaunchError
from pipelines.launch import orphans, session, slots
from pipelines.launch.preflight import check
from pipelines.launch.run_lifecycle import recorded
from pipelines.launch.workers import spawn
from pipelines.launch.workers.commands import GRACE_SECONDS
from pipelines.sweep import plan, report, results, sweep_file
from pipelines.sweep.plan import Sweep
from pipelines.sweep.search import FinishedTrial, Study, TrialOutcome, library
from pipelines.sweep.trial import TrialContext, run_trial
from pipelines.system import paths
from pipelines.track import provenance
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir import layout
from pipelines.track.tracked_run import TrackedRun

# Time for the trials to end, including the grace period of their ranks.
_HALT_SECONDS = GRACE_SECONDS + 4


def begin(sweep: Sweep) -> Path:
    """Create the folder of a new sweep, with everything needed to resume it.

    Raises:
        ConfigError: Optuna is not installed.
        LaunchError: the folder cannot be written.
    """
    library()
    folder = layout.make(paths.to_mlflow(sweep.base.launch.runs_uri, "launch.runs_uri="), sweep.config.name)
    try:
        sweep_file.save(sweep, folder)
    except OSError as error:
        raise LaunchError(f"{folder}: cannot be written ({error.strerror}); set launch.runs_uri to a writable folder") from error
    return folder


def find(identifier: str, overrides: Sequence[str] = ()) -> tuple[Sweep, Path]:
    """The sweep to resume, and its folder.

    Args:
        identifier: the ID of its run, its folder, or `latest`.
        overrides: `section.key=value` texts about where it is recorded, since credentials are not saved.

    Raises:
        ConfigError: there is no such sweep, or its settings would change.
        LaunchError: it is still running.
    """
    for text in overrides:
        if not text.startswith(plan.FIXED):
            raise ConfigError(f"--resume {identifier}: a resumed sweep keeps its settings; leave {text} out")
    path = paths.to_mlflow(paths.given(identifier), "--resume ")
    folder = layout.find_sweep(paths.to_python(Config().launch.runs_uri), identifier, path)
    orphans.refuse_if_running(folder)
    return sweep_file.load(folder / layout.SWEEP_FILE, overrides), folder


def run_sweep(sweep: Sweep, folder: Path, console: TrainingConsole) -> dict[str, Any]:
    """Run all trials that have not ended yet, and record the results.

    Args:
        sweep: the sweep.
        folder: its folder, new or of a resumed sweep.
        console: receives progress and warnings.

    Returns:
        the summary, plain data ready for JSON.

    Raises:
        ConfigError: raised before Spark starts.
        LaunchError: the cluster can never run a trial's workers, or no trial finished.
    """
    started = time.time()
    study = Study(sweep, folder)
    config = sweep.base
    with recorded(config.tracking, sweep.config.name, folder, console, log_level=config.launch.log_level) as run:
        run.tags(provenance.tags(folder, "jobs/sweep.py") | {"kind": "sweep", "sweep": sweep.config.name})
        run.text((folder / layout.SWEEP_FILE).read_text(encoding="utf-8"), layout.SWEEP_FILE)
        with spawn.fork_server_if_local("anything") as address, session.open_session("convoy-sweep") as spark:
            for line in check.check_cluster(spark, _most_workers(sweep), str(folder)):
                console.warn(line)
            if study.left:
                _prepare_tables(spark, sweep, console)
                try:
                    _run_trials(sweep, study, folder, spark, address, console)
                finally:
                    report.tables(run, sweep, study.ended(), folder)
            best = results.best(sweep, study.ended())
            if best is not None and sweep.tested not in best.outcome.metrics:
                report.test_best(spark, sweep, study, best, console)
        best = results.best(sweep, study.ended())
        report.outcome(run, sweep, study.ended(), best, folder)
        if not any(trial.outcome.state == "finished" for trial in study.ended()):
            first = study.ended()[0]
            raise LaunchError(f"no trial of sweep {sweep.config.name} finished; trial {first.number}: {first.outcome.note}")
        ended = study.ended()
    report.complete(folder, ended, console)
    return _summary(run, sweep, ended, best, folder, started)


def _most_workers(sweep: Sweep) -> int:
    return max(sweep.configuration(point).launch.workers for point in sweep.samples)


def _prepare_tables(spark: SparkSession, sweep: Sweep, console: TrainingConsole) -> None:
    """Ingest the known tables while all task slots are free. Trials ingest whatever further tables they need."""
    configs = [sweep.configuration(point) for point in sweep.samples]
    for config in {(config.data, config.ingest): config for config in configs}.values():
        source = resolve_source(config.data, console)
        data, built = table.open_or_build(spark, config, source, console)
        console.say(f"table {data.uri} ({'built' if built else 'reused'})")


def _run_trials(
    sweep: Sweep, study: Study, folder: Path, spark: SparkSession, fork_server: str, console: TrainingConsole
) -> None:
    workers, available = _most_workers(sweep), slots.available(spark)
    parallel = max(1, min(available // workers, study.left, sweep.config.side_by_side or available))
    # Tasks run on this machine.
    if fork_server:
        check.check_memory(parallel * workers)
    cores = min(slots.cores(spark), slots.own_cores()) if session.is_local() else slots.cores(spark)
    context = TrialContext(
        sweep=sweep,
        study=study,
        folder=folder,
        spark=spark,
        fork_server=fork_server,
        threads=max(1, cores // (parallel * workers)),
        halt=threading.Event(),
        console=console,
    )
    ended = len(study.ended())
    done = f" ({ended} done)" if ended else ""
    resources = f"{_count(workers, 'worker')} each, {_count(context.threads, 'thread')} per worker"
    order = f"{parallel} side by side" if parallel > 1 else "one after another"
    console.say(f"sweep {sweep.config.name}: {_count(study.left, 'trial')}{done}, {order}, {resources}")

    def report_end(trial: FinishedTrial) -> None:
        console.say(results.trial_line(sweep, trial, len(study.ended())))

    _run_parallel(context, parallel, report_end)


def _run_parallel(context: TrialContext, parallel: int, report_end: Callable[[FinishedTrial], None]) -> None:
    """Keep `parallel` trials running until none is left."""
    study = context.study
    running: dict[Future[TrialOutcome], Any] = {}
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="trial")
    try:
        while True:
            while len(running) < parallel and (proposal := study.ask()) is not None:
                running[pool.submit(run_trial, context, proposal)] = proposal
            if not running:
                return
            done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                proposal, outcome = running.pop(future), future.result()
                study.tell(proposal.number, outcome)
                report_end(FinishedTrial(proposal.number, proposal.assignment, outcome))
    finally:
        context.halt.set()
        wait(running, timeout=_HALT_SECONDS)
        pool.shutdown(wait=False)


def _summary(
    run: TrackedRun, sweep: Sweep, ended: list[FinishedTrial], best: FinishedTrial | None, folder: Path, started: float
) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "tracking_uri": run.tracking_uri,
        "run_dir": str(folder),
        "sweep": sweep.config.name,
        "metric": sweep.metric,
        "trials": results.rows(sweep, ended),
        "comparison": results.comparison(sweep, ended),
        "best": report.described(sweep, best, folder) if best is not None else None,
        "counts": report.counts(ended),
        "seconds": {"total": round(time.time() - started, 2)},
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
