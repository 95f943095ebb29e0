"""`spark-submit` of a job with a barrier stage ends with its driver, on every Spark: two of its timers would keep the JVM."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyspark
import pytest

ROOT = Path(__file__).parents[2]
JOB = """
from pyspark import BarrierTaskContext
from pipelines.launch.session import open_session

def meet(_):
    return [BarrierTaskContext.get().allGather("here")]

with open_session("barrier") as spark:
    print(spark.sparkContext.parallelize([0, 1], 2).barrier().mapPartitions(meet).collect(), spark.version)
    print("ansi", spark.conf.get("spark.sql.ansi.enabled"))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fails", [False, True], ids=["that succeeds", "that fails"])
def test_spark_submit_returns_after_a_barrier_stage(tmp_path, fails):
    job = tmp_path / "job.py"
    job.write_text(JOB + ("    raise SystemExit(3)\n" if fails else ""))
    command = [str(Path(sys.executable).parent / "spark-submit"), "--master", "local[2]", str(job)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "CONVOY_SPARK_LOG": str(tmp_path / "spark.log")}
    # Two sizes for which Java's garbage collection has a warning.
    variables["SPARK_SUBMIT_OPTS"] = "-XX:NewSize=64m -XX:MaxNewSize=32m"
    started = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert f"{[['here', 'here']] * 2}" in done.stdout
    assert bool(done.returncode) == fails, done.stderr
    assert "[warning]" not in done.stdout + done.stderr
    assert time.monotonic() - started < 90
    log = tmp_path / "spark.log"
    assert "could not be stopped" not in done.stderr + (log.read_text() if log.exists() else "")
    # The default, under which all of Convoy's queries run.
    assert f"ansi {str(int(pyspark.__version__[0]) >= 4).lower()}" in done.stdout
