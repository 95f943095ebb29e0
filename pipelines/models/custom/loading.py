"""Runs the user's modules on a rank, and says where in them an error is."""

import hashlib
import importlib
import importlib.machinery
import linecache
import re
import sys
import traceback
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, UserCodeError
from pipelines.models.custom import sources
from pipelines.models.custom.sources import SourceFile
from pipelines.system import import_path
from pipelines.system.import_path import ImportPath

_installed: dict[str, SourceFile] = {}
# Paths of the modules that were run.
_own_files: set[str] = set()
_LONGEST = 300


def install(files: Iterable[SourceFile]) -> None:
    """Have `load` run these texts, as the driver read them, instead of what this node has. Replaces earlier ones."""
    _installed.clear()
    _installed.update({file.module: file for file in files})


def source_of(setting: str) -> SourceFile | None:
    """The user's module of an installed import path; None for a registered name, and for modules without text."""
    path = import_path.parse(setting)
    return _installed.get(path.module) if path is not None else None


def load(path: ImportPath, key: str) -> Any:
    """The object that an import path names.

    Args:
        path: the import path.
        key: the setting that holds it, for errors.

    Raises:
        ConfigError: there is no such module or object, or the module here differs from the driver's.
        UserCodeError: the module raises as it runs.
    """
    source = _installed.get(path.module) or sources.read(path, key)
    with errors_named():
        module = _module(path, source, key)
    try:
        return getattr(module, path.name)
    except AttributeError as error:
        raise ConfigError(f"{key}={path}: {source.path if source else path.module} defines no {path.name}") from error


def module_of(path: ImportPath, key: str) -> types.ModuleType:
    """The module of an import path. Raises as `load`."""
    source = _installed.get(path.module) or sources.read(path, key)
    with errors_named():
        return _module(path, source, key)


def _module(path: ImportPath, source: SourceFile | None, key: str) -> types.ModuleType:
    if source is not None:
        _own_files.add(source.path)
    if source is None or not source.is_file:
        try:
            module = importlib.import_module(path.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path.module}.".startswith(f"{error.name}."):
                raise
            raise ConfigError(f"{key}={path}: this node has no module {path.module}; install it on all nodes") from error
        if source is not None:
            _check_equal(module, source, f"{key}={path}")
        return module
    name = source.module_name
    if name not in sys.modules:
        sys.modules[name] = module = types.ModuleType(name)
        module.__file__ = source.path
        # A rank on another node has no such file to show lines of.
        linecache.cache[source.path] = len(source.text), None, source.text.splitlines(keepends=True), source.path
        try:
            exec(compile(source.text, source.path, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _check_equal(module: types.ModuleType, source: SourceFile, setting: str) -> None:
    """Raises ConfigError if a node has another version of a package's module than the driver."""
    here = Path(module.__file__ or "")
    if here.is_file() and hashlib.sha256(here.read_text(encoding="utf-8").encode()).hexdigest() != source.sha256:
        raise ConfigError(f"{setting}: {here} differs from the driver's {source.path}; install the same version on all nodes")


@contextmanager
def errors_named() -> Iterator[None]:
    """Within the block, an error in a module of the user's becomes a `UserCodeError`, which names its line first."""
    try:
        yield
    except Exception as error:
        named = _named(error)
        if named is None:
            raise
        raise named from error


def _named(error: BaseException) -> UserCodeError | None:
    """The error with its place in the user's code; None if it was raised outside, or is one already."""
    if isinstance(error, UserCodeError | ConfigError):
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _own_files]
    text = " ".join(str(error).split())
    kind = type(error).__name__
    shown = f"{kind}: {text[:_LONGEST]}{'...' if len(text) > _LONGEST else ''}" if text else kind
    details = "".join(traceback.format_exception(error)).rstrip()
    if frames:
        last = frames[-1]
        return UserCodeError(f"{last.filename} line {last.lineno}, in {last.name}: {shown}", details)
    # An error of a graph that runs has the place where it was built in its message.
    for file, line, function in re.findall(r'File "([^"]+)", line (\d+), in (\S+)', str(error))[::-1]:
        if file in _own_files:
            return UserCodeError(f"{file} line {line}, in {function}: {shown}", details)
    return None
