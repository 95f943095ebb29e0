"""Resolve `--resume` (`pipelines.cli.add_resume`): which run continues, with which settings, from which checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config, loader
from pipelines.config.renamed import current_name
from pipelines.data.stream.sharding import steps_per_epoch
from pipelines.data.table.schema import TableManifest
from pipelines.errors import CheckpointError
from pipelines.launch import orphans
from pipelines.system import paths
from pipelines.system.reporter import Reporter
from pipelines.track.rundir import layout
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Checkpoint, State

# Settings that affect the result of a training. Changes of others are not reported.
_REPORTED = ("data.", "ingest.", "stream.", "model.", "training.", "launch.workers")


@dataclass(frozen=True)
class Resumption:
    """A run to continue."""

    run_dir: Path
    config: Config
    checkpoint: Checkpoint | None
    """None if the run ended before its first checkpoint."""


def prepare(identifier: str, runs_uri: str, overrides: Sequence[str], reporter: Reporter) -> Resumption:
    """Find the run and its newest intact checkpoint.

    Args:
        identifier: value of `--resume`: `latest`, the id of a run, a run folder or a checkpoint in it.
        runs_uri: parent of the run folders.
        overrides: settings to change, as `section.key=value`.
        reporter: receives progress and warnings.

    Raises:
        ConfigError: there is no such run, or its settings are invalid.
        CheckpointError: network or optimizer differ from those of the checkpoint.
        LaunchError: the run is still training.
    """
    path = paths.to_mlflow(paths.given(identifier), "--resume ")
    run_dir = layout.find(paths.to_python(runs_uri), identifier, path)
    orphans.refuse_if_running(run_dir)
    config = loader.load(run_dir / layout.CONFIG_FILE, overrides)
    checkpoint = _select(run_dir, path, reporter)
    if checkpoint is None:
        reporter.say(f"resume: {paths.display(run_dir)} has no usable checkpoint; it starts again at epoch 1")
        return Resumption(run_dir, config, None)
    for newer in store.set_aside_after(run_dir, checkpoint.path):
        reporter.say(f"resume: {newer.name} is newer and set aside")
    _check_settings(checkpoint, config)
    reporter.say(f"resume: {paths.display(run_dir)} continues after {checkpoint.state.position}")
    return Resumption(run_dir, config, checkpoint)


def check_table(resumption: Resumption, manifest: TableManifest, reporter: Reporter) -> None:
    """Check that the table is the checkpoint's, and report which settings have changed.

    Raises:
        CheckpointError: the table has other rows.
    """
    if resumption.checkpoint is None:
        return
    state, config = resumption.checkpoint.state, resumption.config
    if manifest.key != state.table_key:
        raise CheckpointError(
            f"the run was trained on table {state.table_key[:12]}, this is {manifest.digest}: other files, or other settings of "
            "data and ingest; resume with those it had, or start a new run"
        )
    for line in changes(state, config, manifest.rows("train")):
        reporter.say(line)


def changes(state: State, config: Config, rows: int) -> list[str]:
    """Which settings differ from those of the checkpoint, and the consequences, as lines for the user. Often empty."""
    now = {key: list(value) if isinstance(value, tuple) else value for key, value in config.flat().items()}
    then = {current_name(key): value for key, value in state.settings.items()}
    different = [
        f"{key} {then[key]} -> {now[key]}" for key in now if key.startswith(_REPORTED) and key in then and then[key] != now[key]
    ]
    if not different:
        return []
    lines = [f"resume: changed: {', '.join(different)}"]
    workers, batch_size = config.launch.workers, config.training.batch_size_per_worker
    if (workers, batch_size) != (state.workers, state.batch_size_per_worker):
        steps = steps_per_epoch(rows, workers, batch_size)
        lines.append(
            f"resume: global batch {state.workers * state.batch_size_per_worker} -> {workers * batch_size}, steps an epoch "
            f"{state.steps_per_epoch} -> {steps}; each worker reads other rows, so the weights will not be those of a training "
            "that was not interrupted"
        )
    return lines


def _select(run_dir: Path, path: Path, reporter: Reporter) -> Checkpoint | None:
    """The newest intact checkpoint up to the requested one, if `path` is one."""
    name = path.name if path.suffix == ".json" else path.name.rsplit("-", 1)[0] + ".json"
    requested = next((each for each in store.available(run_dir) if each.name == name and path.is_file()), None)
    return store.newest(run_dir, reporter.warn, requested)


def _check_settings(checkpoint: Checkpoint, config: Config) -> None:
    state = checkpoint.state
    for key, stored, now in (
        ("model.name", state.network, config.model.name),
        ("training.optimizer", state.optimizer, config.training.optimizer),
    ):
        if stored != now:
            raise CheckpointError(
                f"{key}={now}: the checkpoint {checkpoint.path.name} holds {stored}; start a new run for another one"
            )
