"""Resolve `--resume` (`pipelines.cli.add_resume`): which run continues, with which settings, from which checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config, loader
from pipelines.config.renamed import current_name
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.sources.source import Source
from pipelines.data.stream.sharding import fitting_batch, steps_per_epoch
from pipelines.data.table.schema import TableManifest
from pipelines.errors import CheckpointError
from pipelines.launch import orphans
from pipelines.system import atomic, paths
from pipelines.system.fingerprint import Fingerprint
from pipelines.system.reporter import Reporter
from pipelines.track.rundir import layout
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Checkpoint, State

# Settings that affect the result of a training. Changes of others are not reported.
_REPORTED = ("data.", "ingest.", "stream.", "model.", "training.", "launch.workers")
# Settings that determine, with the number of shards, in which order their rows are read.
_ORDER = ("stream.", "training.seed", "training.batch_size_per_worker")


@dataclass(frozen=True)
class Resumption:
    """A run to continue."""

    run_dir: Path
    config: Config
    checkpoint: Checkpoint | None
    """None if the run ended before its first checkpoint."""


def prepare(identifier: str, runs_uri: str, overrides: Sequence[str], reporter: Reporter) -> Resumption:
    """Find the run and its newest intact checkpoint. Changes nothing in the run folder.

    Args:
        identifier: value of `--resume`: `latest`, the id of a run, a run folder or a checkpoint in it.
        runs_uri: parent of the run folders.
        overrides: settings to change, as `section.key=value`.
        reporter: receives progress and warnings.

    Raises:
        ConfigError: there is no such run, or its settings are invalid.
        CheckpointError: the settings do not fit the checkpoint.
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
    _check_settings(checkpoint, config)
    reporter.say(f"resume: {paths.display(run_dir)} continues after {checkpoint.state.position}")
    state, patience = checkpoint.state, config.training.early_stopping_patience
    if patience and state.epoch - state.best_epoch >= patience:
        reporter.say(
            f"resume: no epoch after {state.best_epoch} was better, so training.early_stopping_patience={patience} ends the "
            "training here; raise it to train on"
        )
    return Resumption(run_dir, config, checkpoint)


def check_source(resumption: Resumption, reporter: Reporter) -> tuple[Source, Sequence[Fingerprint] | None]:
    """Find the source that the run continues with, before anything else is done.

    Returns:
        the source, and the fingerprints of its files; None if Spark must open it first.

    Raises:
        ConfigError, DataError: the source is not available.
        CheckpointError: its table would have other rows than the checkpoint's.
    """
    source = resolve_source(resumption.config.data, reporter)
    if source.needs_spark:
        # `check_table` compares its table later.
        return source, None
    fingerprints = table.fingerprints_of(source)
    keys = table.possible_keys(resumption.config, source, fingerprints)
    if resumption.checkpoint is not None and resumption.checkpoint.state.table_key not in keys:
        raise _another_table(resumption.checkpoint.state, keys[0])
    return source, fingerprints


def check_table(resumption: Resumption, manifest: TableManifest, reporter: Reporter) -> None:
    """Check that the table is the checkpoint's, and report which settings have changed.

    Raises:
        CheckpointError: the table has other rows.
    """
    if resumption.checkpoint is None:
        return
    state, config = resumption.checkpoint.state, resumption.config
    if manifest.key != state.table_key:
        raise _another_table(state, manifest.key)
    for line in changes(state, config, manifest.rows("train")):
        reporter.say(line)


@contextmanager
def taken_over(resumption: Resumption, config_yaml: str, began: Callable[[], bool], reporter: Reporter) -> Iterator[None]:
    """Make the run folder that of the continued training. Enter this when everything is checked.

    Checkpoints newer than the chosen one are set aside, and the configuration is replaced. Both are undone if the block fails
    before the training began, as when the ranks refuse the checkpoint.

    Args:
        resumption: the run to continue.
        config_yaml: content of its configuration file from now on.
        began: whether the ranks have accepted the checkpoint.
        reporter: receives what is set aside, and put back.
    """
    run_dir, checkpoint = resumption.run_dir, resumption.checkpoint
    settings = run_dir / layout.CONFIG_FILE
    before = settings.read_bytes()
    atomic.write(settings, config_yaml, private=True)
    newer = store.set_aside_after(run_dir, checkpoint.path) if checkpoint is not None else []
    for path in newer:
        reporter.say(f"resume: {path.name} is newer and set aside")
    try:
        yield
    except BaseException:
        if not began():
            atomic.write(settings, before, private=True)
            store.put_back(newer)
            for path in newer:
                reporter.say(f"resume: {path.name} is put back, because the training did not begin")
        raise


def changes(state: State, config: Config, rows: int) -> list[str]:
    """Which settings differ from those of the checkpoint, and the consequences, as lines for the user. Often empty."""
    now = {key: list(value) if isinstance(value, tuple) else value for key, value in config.flat().items()}
    # Earlier versions had no canonical shards.
    then = {"training.canonical_shards": 0} | {current_name(key): value for key, value in state.settings.items()}
    different = [key for key in now if key.startswith(_REPORTED) and key in then and then[key] != now[key]]
    if not different:
        return []
    lines = [f"resume: changed: {', '.join(f'{key} {then[key]} -> {now[key]}' for key in different)}"]
    shards, workers, training = config.shards, config.launch.workers, config.training
    if workers != state.workers and shards == state.shards:
        lines.append(
            f"resume: {shards} canonical shards, workers {state.workers} -> {workers}; each global batch has the rows it would "
            "have had"
        )
    if state.step and (shards != state.shards or any(key.startswith(_ORDER) for key in different)):
        lines.append(
            f"resume: the rest of epoch {state.epoch + 1} reads its rows in another order, so it may repeat some and leave out "
            "others"
        )
    batch_size = fitting_batch(rows, shards, training.batch_size_per_worker, training.accumulation_steps)
    if (shards, batch_size) != (state.shards, state.batch_size_per_worker):
        steps = steps_per_epoch(rows, shards, batch_size)
        lines.append(
            f"resume: global batch {state.shards * state.batch_size_per_worker} -> {shards * batch_size}, steps an epoch "
            f"{state.steps_per_epoch} -> {steps}; each worker reads other rows, so the weights will not be those of a training "
            "that was not interrupted"
        )
    return lines


def _another_table(state: State, key: str) -> CheckpointError:
    return CheckpointError(
        f"the run was trained on table {state.table_key[:12]}, this is {key[:12]}: other files, or other settings of "
        "data and ingest; resume with those it had, or start a new run"
    )


def _select(run_dir: Path, path: Path, reporter: Reporter) -> Checkpoint | None:
    """The newest intact checkpoint up to the requested one, if `path` is one."""
    name = path.name if path.suffix == ".json" else path.name.rsplit("-", 1)[0] + ".json"
    requested = next((each for each in store.available(run_dir) if each.name == name and path.is_file()), None)
    return store.newest(run_dir, reporter.warn, requested)


def _check_settings(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse settings for which the checkpoint has no state, or which its training has passed."""
    state, training = checkpoint.state, config.training
    for key, stored, now in (
        ("model.name", state.network, config.model.name),
        ("training.optimizer", state.optimizer, training.optimizer),
    ):
        if stored != now:
            raise CheckpointError(
                f"{key}={now}: the checkpoint {checkpoint.path.name} holds {stored}; start a new run for another one"
            )
    settings = {current_name(key): value for key, value in state.settings.items()}
    for key, given, default in (
        ("model.arguments", config.model.arguments, {}),
        ("model.frozen", list(config.model.frozen), []),
    ):
        if settings.get(key, default) != given:
            had = f"the checkpoint {checkpoint.path.name} was trained with {settings.get(key, default)}"
            raise CheckpointError(f"{key}={given}: {had}; keep that, or start a new run")
    for key, state_name, value in (
        ("training.average_decay", "averaged weights", training.average_decay),
        ("training.momentum", "momentum", training.momentum),
    ):
        stored = settings.get(key, 0)
        if bool(stored) != bool(value):
            kept = "holds" if stored else "holds no"
            raise CheckpointError(
                f"{key}={value:g}: the checkpoint {checkpoint.path.name} {kept} {state_name} ({key}={stored:g}); "
                f"resume with {'a value above 0' if stored else '0'}, or start a new run"
            )
    if training.epochs < state.epoch + (state.step > 0):
        raise CheckpointError(
            f"training.epochs={training.epochs}: the checkpoint {checkpoint.path.name} is already after {state.position}; "
            "resume with more epochs, or from an earlier checkpoint"
        )
