"""What `--resume` (`pipelines.cli.add_resume`) means: which run goes on, with which settings, from which checkpoint."""

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

# What decides the numbers of a training. The rest may differ without a word.
_SAID = ("data.", "ingest.", "stream.", "model.", "training.", "launch.workers")


@dataclass(frozen=True)
class Resumption:
    """A run that goes on."""

    run_dir: Path
    config: Config
    checkpoint: Checkpoint | None
    """None when the run ended before its first one."""


def prepare(wanted: str, runs_uri: str, overrides: Sequence[str], reporter: Reporter) -> Resumption:
    """Find the run and the newest of its checkpoints that is whole.

    Args:
        wanted: what `--resume` names: `latest`, the id of a run, a run's folder or one checkpoint in it.
        runs_uri: the folder that holds the folders of runs.
        overrides: settings to change, as `section.key=value`.
        reporter: receives progress and warnings.

    Raises:
        ConfigError: there is no such run, or its settings cannot be used.
        CheckpointError: the network or the optimizer is not the checkpoint's.
        LaunchError: the run is still being trained.
    """
    place = paths.to_python(wanted)
    run_dir = layout.find(paths.to_python(runs_uri), wanted, place)
    orphans.refuse_if_running(run_dir)
    config = loader.load(run_dir / layout.CONFIG_FILE, overrides)
    found = _chosen(run_dir, place, reporter)
    if found is None:
        reporter.say(f"resume: {paths.display(run_dir)} has no checkpoint that can be used; it starts again at epoch 1")
        return Resumption(run_dir, config, None)
    for newer in store.set_aside_after(run_dir, found.path):
        reporter.say(f"resume: {newer.name} is newer and set aside")
    _check_settings(found, config)
    reporter.say(f"resume: {paths.display(run_dir)} goes on after {found.state.position}")
    return Resumption(run_dir, config, found)


def check_table(resumption: Resumption, manifest: TableManifest, reporter: Reporter) -> None:
    """Refuse a table other than the one the checkpoint saw, and say what else is not as it was.

    Raises:
        CheckpointError: the table holds other rows.
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
    """Lines that say which settings are not those of the checkpoint, and what comes of it; empty when nothing changes."""
    now = {key: list(value) if isinstance(value, tuple) else value for key, value in config.flat().items()}
    then = {current_name(key): value for key, value in state.settings.items()}
    different = [
        f"{key} {then[key]} -> {now[key]}" for key in now if key.startswith(_SAID) and key in then and then[key] != now[key]
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


def _chosen(run_dir: Path, place: Path, reporter: Reporter) -> Checkpoint | None:
    """The newest whole checkpoint, or the one that was asked for, or one before it."""
    name = place.name if place.suffix == ".json" else place.name.rsplit("-", 1)[0] + ".json"
    asked = next((path for path in store.available(run_dir) if path.name == name and place.is_file()), None)
    return store.newest(run_dir, reporter.warn, asked)


def _check_settings(found: Checkpoint, config: Config) -> None:
    state = found.state
    for key, stored, now in (
        ("model.name", state.network, config.model.name),
        ("training.optimizer", state.optimizer, config.training.optimizer),
    ):
        if stored != now:
            raise CheckpointError(
                f"{key}={now}: the checkpoint {found.path.name} holds {stored}; start a new run for another one"
            )
