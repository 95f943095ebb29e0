"""Path forms: the same configuration works on a laptop and on a Databricks cluster.

Users write `dbfs:/x`, `/dbfs/x`, `file:/x`, `/Volumes/x` or a plain path. Spark, Python and Petastorm each need a different form
of it; the three `to_*` functions return these. Off Databricks, `dbfs:/` and `/Volumes/` map to folders below `CONVOY_DBFS_ROOT`
(default `~/.cache/convoy/dbfs`). Relative paths start at `CONVOY_HOME`, or else at the working directory; those on the command
line are looked for in the working directory first (`given`).

Object-store URIs (`s3://`, `abfss://`, `gs://`) are refused: the workers read with Python, which needs a mounted path. Other
paths are taken as they are written, or refused by `pipelines.system.path_rules`.
"""

import glob
import os
import re
from pathlib import Path
from urllib.parse import unquote

from pipelines.errors import ConfigError
from pipelines.system import path_rules

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")


def on_databricks() -> bool:
    """True inside a Databricks Runtime, which sets this variable on every node."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def home() -> Path:
    """Base of relative paths: `CONVOY_HOME`, or else the working directory."""
    return Path(os.environ.get("CONVOY_HOME") or os.getcwd())


def cache_root() -> Path:
    """The folder shared by all clones: downloads and built wheels."""
    return Path(os.environ.get("CONVOY_CACHE") or Path.home() / ".cache" / "convoy")


def dbfs_root() -> Path:
    """Where `dbfs:/` is mounted on this machine."""
    if on_databricks():
        return Path("/dbfs")
    return Path(os.environ.get("CONVOY_DBFS_ROOT") or cache_root() / "dbfs")


def to_python(location: str, origin: str = "") -> Path:
    """Local path for Python.

    Args:
        location: a path or URI as the user gave it.
        origin: how the user gave it, such as `--output `, for errors.

    Raises:
        ConfigError: the scheme is not supported, or the path breaks a rule of `path_rules`.
    """
    if not location:
        raise ConfigError(f"{origin}an empty path was given; name a file, a folder, or a URI such as dbfs:/folder")
    try:
        path = _local(location)
    except ConfigError as error:
        raise ConfigError(f"{origin}{error}") from error
    _refuse(path_rules.fault(str(path)), path, location, origin)
    return path


def given(location: str) -> str:
    """A location from the command line: a relative path is that in the working directory, if there is something, else `home`'s.

    Returns:
        the absolute path in the first case, so that what is recorded means the same from anywhere; otherwise `location`.
    """
    if not location or _scheme(location) is not None or location.startswith(("/", "~")):
        return location
    try:
        here = Path.cwd() / location
    except OSError:
        # The working directory has been deleted.
        return location
    is_there = os.path.lexists(here) or bool(glob.glob(str(here)))
    return str(here) if is_there and here != home() / location else location


def made(location: str) -> str:
    """A location from the command line of something that is to be written: a relative path starts in the working directory."""
    if not location or _scheme(location) is not None or location.startswith(("/", "~")):
        return location
    return str(Path.cwd() / location)


def to_spark(location: str) -> str:
    """URI for Spark, always with a scheme."""
    path = to_python(location)
    if on_databricks():
        if path.parts[:2] == ("/", "dbfs"):
            return "dbfs:/" + "/".join(path.parts[2:])
        if path.parts[:2] == ("/", "Volumes"):
            return "dbfs:" + str(path)
    # Not percent-encoded: Hadoop takes paths literally.
    return f"file:{path.absolute()}"


def to_petastorm(location: str) -> str:
    """URL for Petastorm. On Databricks this is the FUSE mount, not `dbfs:/`.

    Raises:
        ConfigError: the path contains a character that has a meaning in URLs.
    """
    path = to_python(location).absolute()
    _refuse(path_rules.table_fault(str(path)), path, location)
    return f"file://{path}"


def to_mlflow(location: str, origin: str = "") -> Path:
    """Local path of a folder with models that MLflow reads. Raises ConfigError if it would read another."""
    path = to_python(location, origin).absolute()
    _refuse(path_rules.mlflow_fault(str(path)), path, location, origin)
    return path


def variables() -> dict[str, str]:
    """Environment variables with which a process on another node resolves locations as this one does."""
    if on_databricks():
        return {}
    return {"CONVOY_HOME": str(home().absolute()), "CONVOY_DBFS_ROOT": str(dbfs_root().absolute())}


def display(path: Path) -> str:
    """A path for messages: relative to the home folder if it is below it."""
    try:
        return str(path.absolute().relative_to(home().absolute()))
    except ValueError:
        return str(path)


def _local(location: str) -> Path:
    scheme = _scheme(location)
    if scheme == "dbfs":
        return _in_dbfs("/" + location[len("dbfs:") :].lstrip("/"))
    if scheme == "file":
        return _of_file_uri(location)
    if scheme is not None:
        raise ConfigError(
            f"{location}: the scheme '{scheme}:' is not supported; use dbfs:/, /dbfs/, /Volumes/, file:/ or a plain path "
            f"(mount object storage as a volume){'' if '//' in location else f', and ./{location} for a file of that name'}"
        )
    if location == "/dbfs" or location.startswith("/dbfs/"):
        return _in_dbfs(location[len("/dbfs") :] or "/")
    if location.startswith("/Volumes/"):
        return _in_dbfs(location)
    # Not by pathlib, for which ./~x is ~x.
    path = Path(os.path.expanduser(location))
    if location.startswith("~") and str(path) == str(Path(location)):
        raise ConfigError(f"{location}: there is no such user; ./{location} is a file of that name")
    return path if path.is_absolute() else home() / path


def _of_file_uri(location: str) -> Path:
    path = location[len("file:") :]
    if path.startswith("//") and not path.startswith("///"):
        host, _, path = path[2:].partition("/")
        path = f"/{path}" if host == "localhost" else ""
    if not path.startswith("/"):
        raise ConfigError(f"{location}: must be file:/ and an absolute path on this machine")
    return Path("/" + unquote(path, errors="surrogateescape").lstrip("/"))


def _refuse(fault: str, path: Path, location: str, origin: str = "") -> None:
    if fault:
        # A relative path may be fine, and the folder that it starts from not.
        raise ConfigError(f"{origin}{path_rules.shown(location if path_rules.fault(location) else str(path))}: {fault}")


def _scheme(location: str) -> str | None:
    match = _SCHEME.match(location)
    return match.group(1).lower() if match else None


def _in_dbfs(path: str) -> Path:
    """`path` starts with a slash and is relative to the root of DBFS."""
    if path.startswith("/Volumes/") and on_databricks():
        root, path = Path("/Volumes"), path[len("/Volumes/") :]
    else:
        root = dbfs_root()
    resolved = Path(os.path.normpath(f"{root}/{path.lstrip('/')}"))
    if resolved != root and root not in resolved.parents:
        raise ConfigError(f"{path} leaves the folder {root} that it belongs to; remove the '..'")
    return resolved
