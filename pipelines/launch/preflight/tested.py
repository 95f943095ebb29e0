"""Which versions of its libraries Convoy was tested with, and which are known not to work."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Standing = Literal["tested", "older than tested", "newer than tested", "known not to work"]


@dataclass(frozen=True)
class TestedRange:
    """One library: oldest and newest version tested, both to the precision that counts, and what is known not to work.

    Attributes:
        name: as in the preflight's tables.
        oldest: of the tested versions.
        newest: of the tested versions; 2.21 stands for all of 2.21.x.
        works_from: no earlier version can work; empty where that is not known.
        reason: why.
    """

    name: str
    oldest: str
    newest: str
    works_from: str = ""
    reason: str = ""

    # Not a class of tests.
    __test__ = False

    @property
    def text(self) -> str:
        return self.oldest if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    def standing(self, version: str) -> Standing:
        found = numbers(version)
        if self.works_from and found < numbers(self.works_from):
            return "known not to work"
        if found < numbers(self.oldest):
            return "older than tested"
        newest = numbers(self.newest)
        return "newer than tested" if found[: len(newest)] > newest else "tested"


# By the name in `NodeReport.versions`; what the runtimes and the newest releases were tested with: docs/runtimes.md.
TESTED = {
    "python": TestedRange("Python", "3.10", "3.13", "3.10", "Convoy is written for 3.10 and later"),
    "pyspark": TestedRange("Spark", "3.5", "4.3"),
    "tensorflow": TestedRange("TensorFlow", "2.16", "2.21", "2.16", "earlier ones have Keras 2"),
    "horovod": TestedRange("Horovod", "0.28.1", "0.28.1", "0.28.1", "earlier ones do not compile for TensorFlow 2.16 and later"),
    "keras": TestedRange("Keras", "3.2", "3.15", "3.0", "Convoy is written for Keras 3"),
    "petastorm": TestedRange("Petastorm", "0.12.1", "0.13.1"),
    "pyarrow": TestedRange("pyarrow", "14.0", "26"),
    "numpy": TestedRange("numpy", "1.23", "2.5"),
    "mlflow": TestedRange("MLflow", "2.13", "3.17"),
}


@dataclass(frozen=True)
class Conflict:
    """Two libraries that do not work together: from a version of one, below a version of the other."""

    name: str
    from_version: str
    other: str
    below_version: str
    reason: str


CONFLICTS = (
    Conflict("numpy", "2", "tensorflow", "2.18", "TensorFlow before 2.18 is built for numpy 1"),
    Conflict("numpy", "2", "pyarrow", "16", "pyarrow before 16 is built for numpy 1"),
    Conflict("pyspark", "4.1", "pyarrow", "15", "Spark 4.1 and later refuse pyarrow before 15"),
    Conflict("pyspark", "4.2", "pyarrow", "18", "Spark 4.2 and later refuse pyarrow before 18"),
)

# Java's versions by Spark's major version: https://spark.apache.org/docs/3.5.0/ and https://spark.apache.org/docs/4.0.0/
_JAVA = {3: (8, 11, 17), 4: (17, 21)}


def conflict(name: str, versions: Mapping[str, str]) -> str:
    """Why a library cannot work beside the others; empty where nothing is known against it."""
    for known in CONFLICTS:
        found, other = numbers(versions.get(name, "")), numbers(versions.get(known.other, ""))
        if (
            known.name == name
            and found
            and other
            and found >= numbers(known.from_version)
            and other < numbers(known.below_version)
        ):
            return known.reason
    return ""


def javas(spark: str) -> tuple[int, ...]:
    """Versions of Java that a Spark runs on; of all Sparks where its version is not known, or is newer than tested."""
    major = numbers(spark)[:1]
    return _JAVA.get(major[0] if major else 0, tuple(sorted({version for some in _JAVA.values() for version in some})))


def numbers(version: str) -> tuple[int, ...]:
    """(2, 18, 1) for 2.18.1; what follows the numbers, as in 3.0.0rc1 or 1.2+cpu, does not count. () for no version."""
    found = re.match(r"\d[\d.]*", version)
    return tuple(int(part) for part in found[0].strip(".").split(".")) if found else ()
