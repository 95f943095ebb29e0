"""The user's modules as text, as the driver finds them. Nothing of them is run here."""

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.system import paths
from pipelines.system.import_path import ImportPath

# Some of their modules exist only when they have been imported, in some versions.
_MADE_AT_IMPORT = ("keras", "tensorflow")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A module of the user's."""

    module: str
    """As in the settings: dotted name, or location of a file."""
    path: str
    """Where it was read, for messages."""
    text: str
    is_file: bool
    """A file of its own, which need not be installed anywhere. A module of a package must be, on all nodes."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def module_name(self) -> str:
        """Name under which it is imported. With the digest of a file, so that two versions of it can be in one process."""
        return f"{self.file_name.removesuffix('.py')}_{self.sha256[:12]}" if self.is_file else self.module

    @property
    def file_name(self) -> str:
        """Name of the copy in a run folder."""
        if not self.is_file:
            return f"{self.module}.py"
        stem = Path(self.path).stem
        return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in stem) + ".py"


def read(path: ImportPath, key: str) -> SourceFile | None:
    """Read the module of an import path.

    Args:
        path: the import path.
        key: the setting that holds it, for errors.

    Returns:
        its text; None for a module that has none, such as one in C.

    Raises:
        ConfigError: there is no such file or module, or it cannot be read.
    """
    if not path.name.isidentifier():
        raise ConfigError(f"{key}={path}: must be package.module:function or path/to/file.py:function")
    if path.is_file:
        return _read_file(path, key)
    spec = _spec_of(path.module)
    if spec is None and path.module.partition(".")[0] in _MADE_AT_IMPORT:
        return None
    if spec is None:
        hint = "name a file as path/to/file.py:function, or install the package on driver and workers (or put it on PYTHONPATH)"
        raise ConfigError(f"{key}={path}: there is no module {path.module} here; {hint}")
    if not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    return SourceFile(
        module=path.module, path=str(spec.origin), text=_text(Path(str(spec.origin)), f"{key}={path}"), is_file=False
    )


def _read_file(path: ImportPath, key: str) -> SourceFile:
    file = paths.to_python(path.module, f"{key}=")
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [each.name for each in file.parent.glob("*.py")], n=1)
        hint = f"did you mean {file.parent / near[0]}?" if near else "relative paths start in the working directory"
        raise ConfigError(f"{key}={path}: there is no file {file}; {hint}")
    return SourceFile(module=path.module, path=str(file), text=_text(file, f"{key}={path}"), is_file=True)


def _text(file: Path, setting: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{setting}: {file} cannot be read ({reason}); it must be a Python file") from error


def _spec_of(module: str) -> ModuleSpec | None:
    """Where a module is, found without running the packages that contain it; None if there is none."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top].__spec__
        name = top
        for part in rest:
            name = f"{name}.{part}"
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or [])) if spec is not None else None
    except (ImportError, ValueError):
        return None
    return spec


def is_found(package: str) -> bool:
    """Whether a package or module of this name, without dots, can be imported here."""
    return package in sys.builtin_module_names or _spec_of(package) is not None


def difference(before: SourceFile, now: SourceFile) -> str:
    """The first line in which two texts differ: `line 3: 'x = 1' -> 'x = 2'`."""
    old, new = before.text.splitlines(), now.text.splitlines()
    number = next((n for n, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new)))
    lines = ["end of file" if number >= len(text) else repr(text[number].strip()) for text in (old, new)]
    return f"line {number + 1}: {lines[0]} -> {lines[1]}"


def unique(files: Iterable[SourceFile | None]) -> tuple[SourceFile, ...]:
    """The files, each once, in order."""
    return tuple({file.module: file for file in files if file is not None}.values())
