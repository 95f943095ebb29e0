"""Changed bits of the archive of Spark's classes: Java finds them, and starts without it."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.setup import java

DAMAGES = 25
JAVA = Path(os.environ["JAVA_HOME"], "bin/java") if os.environ.get("JAVA_HOME") else "java"


def start(archive):
    """Java with the options of `tools/setup/spark.py`, but for its log. Returns that."""
    options = [f"-XX:SharedArchiveFile={archive}", "-XX:+VerifySharedSpaces", "-Xlog:cds=info"]
    done = subprocess.run([JAVA, *options, "-version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "version" in done.stderr
    return done.stdout


@pytest.fixture
def archive(tmp_path):
    copy = tmp_path / "classes.jsa"
    shutil.copyfile(Path(sys.prefix) / java.CLASSES, copy)
    return copy


# One whose end is missing is not given to Java (tests/unit/test_setup.py).
def test_each_changed_bit_is_found(archive):
    size, rng = archive.stat().st_size, random.Random(1)
    assert "Checksum verification failed" not in start(archive)
    with archive.open("r+b") as file:
        for _ in range(DAMAGES):
            position = rng.randrange(size)
            file.seek(position)
            (byte,) = file.read(1)
            for value in (byte ^ 1 << rng.randrange(8), byte):
                file.seek(position)
                file.write(bytes([value]))
                file.flush()
                if value != byte:
                    assert "Checksum verification failed" in start(archive), position
