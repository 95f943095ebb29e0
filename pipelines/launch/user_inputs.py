"""What of the user's a training needs besides data: code of their own, and weights to start from. Read and kept by the driver."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines import tasks
from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.models.custom import requested
from pipelines.models.custom.sources import SourceFile
from pipelines.system import atomic, paths, temporary
from pipelines.system.secrets import first_line, mask
from pipelines.track.mlflow.follower import default_tracking_uri
from pipelines.track.rundir import layout

_WEIGHTS = (".keras", ".weights.h5")
_SERVERS = ("runs:/", "models:/")


@dataclass(frozen=True, kw_only=True)
class UserInputs:
    """The user's code and weights."""

    code: tuple[SourceFile, ...] = ()
    weights: Path | None = None
    """A local copy of the file; None for random weights, or if the run folder has it already."""

    def keep(self, run_dir: Path) -> None:
        """Put all of it into the run folder, for the ranks and for a resumption."""
        requested.write(self.code, run_dir / layout.CODE_FOLDER)
        if self.weights is not None:
            folder = run_dir / layout.WEIGHTS_FOLDER
            folder.mkdir(exist_ok=True)
            atomic.copy(self.weights, folder / self.weights.name)

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of the run: the digest of each file."""
        return {f"code.{file.file_name}": file.sha256 for file in self.code}


def check(config: Config) -> UserInputs:
    """Read and check the user's code, which is not run, and check the form of `model.weights`. Fetches nothing.

    Raises:
        ConfigError: names setting, file and line, the rule and the remedy.
    """
    return UserInputs(code=_code(config), weights=_file(config.model.weights))


def prepare(config: Config, run_dir: Path | None) -> UserInputs:
    """As `check`, and fetch the weights.

    Args:
        config: settings of the run.
        run_dir: folder of the run that is resumed, whose weights are kept there; None for a new one.

    Raises:
        ConfigError: also for code that has changed since the run began, and weights that cannot be fetched.
    """
    code = _code(config)
    if run_dir is not None:
        requested.refuse_changed(code, run_dir / layout.CODE_FOLDER)
        if any((run_dir / layout.WEIGHTS_FOLDER).glob("*")):
            return UserInputs(code=code)
    is_logged = config.model.weights.startswith(_SERVERS)
    return UserInputs(code=code, weights=_fetched(config) if is_logged else _file(config.model.weights))


def _code(config: Config) -> tuple[SourceFile, ...]:
    registry.check(config.model.name, config.training.label_smoothing, config.model.arguments)
    registry.check_features(config.model.name, config.data.features or len(config.data.source_columns.features))
    registry.check_task(config.model.name, config.data.task)
    tasks.check_loss(config.data.task, config.training.loss)
    return requested.read(config)


def _file(location: str) -> Path | None:
    """The file that `model.weights` names; None for no weights, and for those of a logged model."""
    if not location or location.startswith(_SERVERS):
        return None
    file = paths.to_python(location, "model.weights=")
    if not file.name.endswith(_WEIGHTS) or not file.is_file():
        reason = "there is no such file" if file.name.endswith(_WEIGHTS) else "is no file of Keras' weights"
        raise ConfigError(
            f"model.weights={location}: {reason}; must be a .keras or .weights.h5 file, runs:/RUN/model, models:/NAME/VERSION or "
            "models:/NAME@ALIAS"
        )
    return file


def _fetched(config: Config) -> Path:
    """The weights of a logged model."""
    from pipelines.track.mlflow import logged_model

    uri, tracking_uri = config.model.weights, default_tracking_uri(config.tracking)
    # MLflow may return this folder itself, or one in it.
    target = temporary.folder("convoy-weights-")
    try:
        folder = logged_model.download(uri, tracking_uri, target)
    except Exception as error:
        problem = f"could not be fetched from {mask(tracking_uri)} ({first_line(error)})"
        raise ConfigError(f"model.weights={uri}: {problem}; use runs:/RUN/model, models:/NAME/VERSION or a file") from error
    file = next(iter(sorted(folder.rglob("*.keras"))), None)
    if file is None:
        raise ConfigError(f"model.weights={uri}: this model has no .keras file; name one that Convoy or Keras 3 has saved")
    return Path(shutil.move(file, target / "model.keras"))
