"""What a path may be, by what opens it. Everything that a user can name passes here, so that no library reads a part of a name.

A character is refused only where a library is known to take it for something else; `tests/spark/test_hostile_names.py` walks a
list of names through readers and writers. Without imports of this project, because the set-up uses it, too.
"""

from __future__ import annotations

import os
import unicodedata

# Limits of Linux, in bytes.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
_LONGEST_SHOWN = 200
# In Spark's paths of more than one file.
GLOB_CHARACTERS = "\\{}[]*?"
# It takes paths for URLs, and does not decode them.
_PETASTORM = "#?;"
# It decodes the path of a model's folder after it has looked whether that exists.
_MLFLOW = "%"
# SQLAlchemy 2.1 decodes a database's path, 2.0 does not; both end it at a question mark.
_DATABASE = "?%"
# What shells, Java's options, Log4j's lookups, setuptools' templates, alembic's settings or the PATH take for something else.
_CLONE = '%{}[]*?#;:\\"$`|<>&!'


def fault(path: str) -> str:
    """Why no command takes this path, with the remedy; empty if there is nothing against it."""
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in path):
        return "contains a line break or another control character; use another name"
    if not _is_unicode(path):
        return "is not UTF-8, which Spark and MLflow need; use another name"
    if max(len(os.fsencode(name)) for name in path.split("/")) > _LONGEST_NAME:
        return f"is longer than a name can be ({_LONGEST_NAME} bytes); use a shorter one"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"is longer than a path can be ({_LONGEST_PATH} bytes); use a shorter one"
    return ""


def table_fault(path: str) -> str:
    """The same for a folder of tables, which Spark and Petastorm read."""
    return fault(path) or _contains(path, _PETASTORM, "Petastorm cannot open such a path") or _pattern_fault(path)


def mlflow_fault(path: str) -> str:
    """The same for a folder of models or of runs, whose models MLflow reads."""
    return fault(path) or _contains(path, _MLFLOW, "MLflow would open another folder")


def database_fault(path: str) -> str:
    """The same for an SQLite file of MLflow."""
    return fault(path) or _contains(path, _DATABASE, "SQLAlchemy would open another file")


def clone_fault(path: str) -> str:
    """The same for the folder of a clone."""
    return fault(path) or _contains(path, _CLONE, "its environment would not work there")


def spark_file_fault(path: str) -> str:
    """The same for a file that Spark reads by itself."""
    name = path.rpartition("/")[2]
    if _pattern_fault(path):
        return _pattern_fault(path)
    if is_hidden(name) or name.endswith("._COPYING_"):
        return "has a name that Spark skips; rename it so that it begins with a letter"
    # Hadoop takes what is before the colon in the name of the checksum file for the scheme of a URI.
    return "has a colon in its name, which Spark cannot open; rename it" if ":" in name else ""


def is_hidden(name: str) -> bool:
    """Whether Spark skips a file or folder of this name where its folder is read."""
    # _x=1 is a folder of a Hive partition.
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def printable(text: str) -> str:
    """Text for one line of a terminal: line breaks, control characters and bytes that are not UTF-8 as escapes."""
    return "".join(
        character
        if character == "\t" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        else f"\\x{ord(character) - 0xDC00:02x}"
        if "\udc80" <= character <= "\udcff"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def shown(path: str) -> str:
    """A path for a message."""
    text = printable(path)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pattern_fault(path: str) -> str:
    # Such characters are escaped (`pipelines.data.ingest.spark_jobs`), and Hadoop compares escaped paths name by name.
    found = next((character for character in path if character in GLOB_CHARACTERS), "") if ":" in path else ""
    return f"contains ':' and '{found}', which Spark cannot open together; use another folder" if found else ""


def _contains(path: str, characters: str, reason: str) -> str:
    found = next((character for character in path if character in characters), "")
    return f"contains '{found}', and {reason}; use another folder" if found else ""
