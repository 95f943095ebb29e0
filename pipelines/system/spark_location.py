"""Locations that Spark reads by itself: `table:NAME`, and `FORMAT:PATH` for any format that a session can read."""

import re
from typing import NamedTuple

from pipelines.errors import ConfigError
from pipelines.system import paths

TABLE = "table"
_KNOWN = ("avro", "binaryFile", "csv", "delta", "iceberg", "image", "json", "orc", "parquet", "xml")
_FORMATS = {name.lower(): name for name in _KNOWN}
_PREFIX = re.compile(r"(\w+):(?!//)(.+)")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class SparkLocation(NamedTuple):
    kind: str
    """`table`, or a format of Spark's."""
    name: str
    """Of a table or view; of a format, the path."""

    @property
    def is_path(self) -> bool:
        """Whether it is a path of this machine's, not a table or an address of a store that only Spark reads."""
        return self.kind != TABLE and _URI.match(self.name) is None


def parse(location: str) -> SparkLocation | None:
    """The parts of a location that Spark reads; None for any other. A format that is not known here counts if its path exists."""
    match = _PREFIX.fullmatch(location)
    if match is None:
        return None
    prefix, name = match.groups()
    if prefix.lower() == TABLE:
        return SparkLocation(TABLE, name)
    if prefix.lower() in _FORMATS:
        return SparkLocation(_FORMATS[prefix.lower()], name)
    try:
        is_there = prefix.lower() not in ("dbfs", "file") and paths.to_python(name).exists()
    except ConfigError:
        return None
    return SparkLocation(prefix, name) if is_there else None


def given(location: str) -> str:
    """The same as `paths.given`, for the path in such a location, too."""
    parsed = parse(location)
    if parsed is None:
        return paths.given(location)
    return f"{parsed.kind}:{paths.given(parsed.name)}" if parsed.is_path else location


def short(location: str) -> str:
    """The name of a table, or the last part of a path: what runs and folders are called after."""
    parsed = parse(location)
    if parsed is None:
        return location.rstrip("/").rpartition("/")[2]
    if parsed.kind == TABLE:
        return parsed.name
    return parsed.name.rstrip("/").rpartition("/")[2].removesuffix(f".{parsed.kind}")
