"""Path forms: the same configuration works on a laptop and on a Databricks cluster.

Users write `dbfs:/x`, `/dbfs/x`, `file:/x`, `/Volumes/x` or a plain path. Spark, Python and Petastorm each need a different form
of it; the three `to_*` functions return these. Off Databricks, `dbfs:/` and `/Volumes/` map to folders below `CONVOY_DBFS_ROOT`
(default `~/.cache/convoy/dbfs`). Relative paths start at `CONVOY_HOME`, or else at the working directory; those on the command
line are looked for in the working directory first (`given`).

Object-store URIs (`s3://`, `abfss://`, `gs://`) are refused: the workers read with Python, which needs a mounted path.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from pipelines.errors import ConfigError

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


def to_python(location: str) -> Path:
    """Local path for Python.

    Raises:
        ConfigError: the scheme is not supported.
    """
    if not location:
        raise ConfigError("an empty path was given; name a file, a folder, or a URI such as dbfs:/folder")
    scheme = _scheme(location)
    if scheme == "dbfs":
        return _in_dbfs("/" + location[len("dbfs:") :].lstrip("/"))
    if scheme == "file":
        return Path("/" + unquote(location[len("file:") :]).lstrip("/"))
    if scheme is not None:
        raise ConfigError(
            f"{location}: the scheme '{scheme}:' is not supported; use dbfs:/, /dbfs/, /Volumes/, file:/ or a plain path "
            "(mount object storage as a volume)"
        )
    if location == "/dbfs" or location.startswith("/dbfs/"):
        return _in_dbfs(location[len("/dbfs") :] or "/")
    if location.startswith("/Volumes/"):
        return _in_dbfs(location)
    path = Path(location).expanduser()
    return path if path.is_absolute() else home() / path


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
    return str(here) if os.path.lexists(here) and here != home() / location else location


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
        ConfigError: the path contains a character that has a meaning in URLs. Petastorm does not unquote.
    """
    path = str(to_python(location).absolute())
    if set("#?;") & set(path):
        raise ConfigError(f"{path}: Petastorm cannot open a path that contains '#', '?' or ';'; use another folder")
    return "file://" + path


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
