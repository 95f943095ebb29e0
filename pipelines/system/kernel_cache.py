"""Functions compiled by Numba, kept on disk for all processes of a user: Spark's Python workers and ranks need not compile them.

Numba keeps compiled functions by the path and the time of their source file, beside it or in the home folder. A module here may
lie in an archive, whose path changes with every application, or in an installed package that is read-only. So what is compiled is
kept by the content of the module instead, in a folder that only this user can write to, because what is in it is executed. Numba
itself tells processors apart, so that hosts can share a home folder. Each file has a checksum beside it: a bit that changes on
disk could change what the code computes.
"""

import functools
import hashlib
import importlib.resources
import importlib.util
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any, cast

from pipelines.system import atomic, paths

_log = logging.getLogger(__name__)
# Threads compile at the same time, and the folder is a setting of the process.
_numba_settings = threading.Lock()


def is_installed() -> bool:
    """Whether Numba is there, without importing it."""
    return importlib.util.find_spec("numba") is not None


def is_kept(modules: Sequence[str]) -> bool:
    """Whether a process has compiled a function of these modules, for any processor, without importing Numba or the modules."""
    stem = _file_name(modules[0], _content(modules)).removesuffix(".py")
    return any(next(folder.glob(f"*/*/{stem}.*.nbi"), None) for folder in _folders(os.environ.get("NUMBA_CACHE_DIR", "")))


def compiled(
    function: Callable[..., Any],
    modules: Sequence[str],
    example: Sequence[Any],
    options: Mapping[str, Any] = MappingProxyType({"error_model": "numpy"}),
    constants: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., Any]:
    """Compile a function, or load it if a process has compiled it.

    Args:
        function: a function of a module's top level. It may call functions that Numba compiles.
        modules: all modules whose code is compiled, its own first.
        example: arguments of the types that it is for. It is called with them.
        options: how to compile it (`numba.njit`). Changes with the modules only.
        constants: values for names of its module, of which it and the compiled functions of its module are compiled anew.

    Raises:
        Exception: whatever Numba raises for a function that it cannot compile.
    """
    import numba

    if numba.config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    assert isinstance(function, FunctionType)
    kept: Any
    original = _with_constants(function, constants)
    jit: Any = functools.partial(numba.njit, **options)
    for folder in _folders(numba.config.CACHE_DIR):
        # A damaged file in the cache, or a full disk, can raise anything.
        try:
            source = _copied_source(modules, folder / f"numba-{numba.__version__}", constants)
            _remove_damaged(source)
            twin = FunctionType(original.__code__.replace(co_filename=str(source)), original.__globals__, original.__name__)
            twin.__qualname__ = original.__qualname__
            with _numba_settings:
                chosen, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(source.parent)
                try:
                    kept = jit(twin, cache=True)
                finally:
                    numba.config.CACHE_DIR = chosen
            kept(*example)
            if kept.stats.cache_misses:
                for file in _kept_files(source):
                    atomic.write(_checksum_file(file), _checksum(file))
            return cast(Callable[..., Any], kept)
        except Exception as error:
            _log.info("%s is not kept in %s: %s", function.__name__, folder, error)
    alone: Callable[..., Any] = jit(original)
    alone(*example)
    return alone


def _with_constants(function: FunctionType, constants: Mapping[str, Any]) -> FunctionType:
    """A function with these values for names of its module, in it and in what is compiled of its module."""
    if not constants:
        return function
    import numba

    # In its machine code, Numba names a function by its module, name, types, and place among those that the process has compiled.
    # Two that different processes have compiled may have the same name, and a process that loads both would confuse them.
    mark = hashlib.sha256(repr(sorted(constants.items())).encode()).hexdigest()[:16]
    names: dict[str, Any] = {**function.__globals__, **constants}

    def changed(original: FunctionType) -> FunctionType:
        twin = FunctionType(original.__code__, names, original.__name__)
        twin.__qualname__ = f"{original.__qualname__}_{mark}"
        return twin

    for name, value in function.__globals__.items():
        if isinstance(value, numba.core.dispatcher.Dispatcher) and value.__module__ == function.__module__:
            names[name] = numba.jit(**value.targetoptions)(changed(value.py_func))
    return changed(function)


def _kept_files(source: Path) -> Iterator[Path]:
    return source.parent.glob(f"*/{source.stem}.*.nb[ic]")


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _checksum(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).hexdigest().encode()


def _remove_damaged(source: Path) -> None:
    """Remove what is not as it was written, or was written by a process that ended before the checksum; it is compiled anew."""
    for file in _kept_files(source):
        checksum = _checksum_file(file)
        if not checksum.exists() or checksum.read_bytes() != _checksum(file):
            _log.info("%s is damaged", file)
            file.unlink(missing_ok=True)


def _folders(chosen: str) -> Iterator[Path]:
    """Where to keep compiled functions, the best place first: where the user wants them (NUMBA_CACHE_DIR), or private folders."""
    if chosen:
        yield Path(chosen)
        return
    temporary = Path(tempfile.gettempdir()) / f"convoy-compiled-{os.geteuid()}"
    try:
        yield _private(paths.cache_root() / "compiled")
    # RuntimeError: there is no home folder.
    except (OSError, RuntimeError) as error:
        _log.info("compiled functions are kept in %s: %s", temporary, error)
    try:
        yield _private(temporary)
    except OSError as error:
        _log.info("compiled functions are not kept: %s", error)


def _private(folder: Path) -> Path:
    """Create a folder that only this user can write to. Raises OSError if others can, or this user cannot."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder}: others can write to it")
    return folder


def _content(modules: Sequence[str]) -> bytes:
    parts = [module.rpartition(".") for module in modules]
    return b"".join(importlib.resources.files(package).joinpath(f"{name}.py").read_bytes() for package, _, name in parts)


def _file_name(module: str, content: bytes) -> str:
    return f"{module.rpartition('.')[2]}_{hashlib.sha256(content).hexdigest()[:16]}.py"


def _copied_source(modules: Sequence[str], folder: Path, constants: Mapping[str, Any]) -> Path:
    """A copy of the modules, named by its content. Older versions of Numba look at its time, which is therefore fixed."""
    content = _content(modules) + "".join(f"# {name} = {value!r}\n" for name, value in constants.items()).encode()
    file = folder / _file_name(modules[0], content)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(file, content)
        os.utime(file, (0, 0))
    return file
