"""What of the user's code the settings ask for, read and checked on the driver."""

from pathlib import Path

from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.models.custom import sources, static_checks
from pipelines.models.custom.sources import SourceFile
from pipelines.system import import_path
from pipelines.system.import_path import ALL_RANKS, ImportPath


def import_paths(config: Config) -> list[tuple[str, ImportPath]]:
    """The import paths in the settings, each with the setting that holds it."""
    training = config.training
    texts = [("model.name", config.model.name), ("training.loss", training.loss)]
    texts += [("training.metrics", metric) for metric in training.metrics]
    texts += [("training.callbacks", callback.removeprefix(ALL_RANKS)) for callback in training.callbacks]
    parsed = [(key, import_path.parse(text)) for key, text in texts]
    return [(key, path) for key, path in parsed if path is not None]


def read(config: Config) -> tuple[SourceFile, ...]:
    """Read the modules of the user's that the settings name, without running them.

    Raises:
        ConfigError: a module is missing, is not Python, lacks what is named, or cannot be called as its setting demands.
    """
    found = []
    for key, path in import_paths(config):
        source = sources.read(path, key)
        found.append(source)
        if source is None:
            continue
        tree = static_checks.check_module(source)
        if not source.is_file:
            # A package may get its names from elsewhere.
            continue
        static_checks.check_name(source, tree, path.name)
        if key == "model.name":
            static_checks.check_build(source, tree, path.name, tuple(config.model.arguments))
    files = sources.unique(found)
    _refuse_equal_names(files)
    return files


def write(files: tuple[SourceFile, ...], folder: Path) -> None:
    """Keep the texts in a folder of the run."""
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.file_name).write_text(file.text, encoding="utf-8")


def refuse_changed(files: tuple[SourceFile, ...], folder: Path) -> None:
    """Compare the texts with those that a run was started with.

    Raises:
        ConfigError: one of them has changed since; says where.
    """
    for file in files:
        kept = folder / file.file_name
        if not kept.is_file():
            continue
        before = SourceFile(module=file.module, path=str(kept), text=kept.read_text(encoding="utf-8"), is_file=file.is_file)
        if before.sha256 != file.sha256:
            raise ConfigError(
                f"{file.path} has changed since the run began ({before.sha256[:12]} -> {file.sha256[:12]}; "
                f"{sources.difference(before, file)}); put back what is in {kept}, or start a new run"
            )


def _refuse_equal_names(files: tuple[SourceFile, ...]) -> None:
    texts: dict[str, str] = {}
    for file in files:
        if texts.setdefault(file.file_name, file.text) != file.text:
            raise ConfigError(f"{file.path}: another file of the settings has this name, too; rename one of them")
