"""The Spark session of a job."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark
from py4j.java_gateway import is_instance_of
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.system import paths, spark_submit, surroundings

_log = logging.getLogger(__name__)


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """The active session, or else a new one that is stopped at the end.

    The session of a Databricks cluster is never stopped. A new one uses the master of `spark-submit`, or `local[*]`.

    Raises:
        LaunchError: Spark could not be started.
    """
    active = SparkSession.getActiveSession()
    if active is not None or paths.on_databricks():
        # Databricks treats a stopped session as a crash of the driver.
        yield active or SparkSession.builder.getOrCreate()
        return
    surroundings.apply()
    reason = surroundings.refusal() or _other_spark(os.environ.get("SPARK_HOME", ""))
    if reason:
        raise LaunchError(f"Spark cannot start: {reason}")
    # By default Spark starts the first `python3` on the PATH of its workers.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    interrupt_handler = signal.getsignal(signal.SIGINT)
    try:
        builder = (
            SparkSession.builder.appName(app_name)
            .config("spark.ui.showConsoleProgress", "false")
            # A speculative copy of a task would write or train a second time.
            .config("spark.speculation", "false")
        )
        for key, value in _loopback().items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
        if spark_submit.is_submitted():
            _leave_interrupts_to_the_driver(session)
    except Exception as error:
        raise LaunchError(f"Spark could not be started ({error}); run ./convoy doctor") from error
    # Spark's own handler asks the JVM to cancel and fails if Ctrl-C has already ended it.
    signal.signal(signal.SIGINT, interrupt_handler)
    try:
        yield session
    finally:
        _end_barrier_timers(session)
        try:
            session.stop()
        except Exception:
            # After a Ctrl-C the JVM is already gone.
            _log.info("Spark had already stopped", exc_info=True)


def _other_spark(home: str) -> str:
    """Why the Spark in SPARK_HOME cannot be used by this Python; empty if it can, or if none is there."""
    versions = [jar.stem.rpartition("-")[2] for jar in Path(home, "jars").glob("spark-core_*.jar")] if home else []
    if not versions or pyspark.__version__ in versions:
        return ""
    return (
        f"SPARK_HOME={home} has Spark {versions[0]}, this Python has pyspark {pyspark.__version__}; unset SPARK_HOME, or start "
        "the job with its spark-submit"
    )


def is_local() -> bool:
    """Whether the tasks of the active session, or else of the next one, run on this machine."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return runs_here(active)
    SparkContext._ensure_initialized()
    return bool(SparkConf().get("spark.master", "local[*]").startswith("local"))


def runs_here(spark: SparkSession) -> bool:
    """Whether the tasks of a session run on this machine."""
    return bool(spark.sparkContext.master.startswith("local"))


def _loopback() -> dict[str, str]:
    """Settings for one machine, where nothing should listen on the network unless the user configured it."""
    if not is_local():
        return {}
    conf = SparkConf()
    settings = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if "SPARK_LOCAL_IP" not in os.environ:
        # Only this variable sets the address of the web UI.
        settings["spark.ui.enabled"] = "false"
    return {key: value for key, value in settings.items() if not conf.contains(key)}


def _leave_interrupts_to_the_driver(session: SparkSession) -> None:
    """Ignore Ctrl-C in spark-submit's JVM. It would exit at once, and the driver could neither cancel its tasks nor print."""
    jvm = session.sparkContext._jvm
    ignore = jvm.java.lang.Class.forName("sun.misc.SignalHandler").getField("SIG_IGN").get(None)
    jvm.sun.misc.Signal.handle(jvm.sun.misc.Signal("INT"), ignore)


def _end_barrier_timers(session: SparkSession) -> None:
    """Stop the timers of barrier stages, whose threads keep the JVM alive in local mode.

    One belongs to the tasks; the other, of the coordinator, is not stopped by Spark 3.5.0 either. They are timers up to Spark 3.5
    and executors from 4.0 on (SPARK-46895).
    """
    try:
        context = session.sparkContext
        companion = context._jvm.java.lang.Class.forName("org.apache.spark.BarrierTaskContext$")
        module = companion.getField("MODULE$").get(None)
        timers = [getattr(module, "org$apache$spark$BarrierTaskContext$$timer")()]
        coordinator = context._jsc.sc().taskScheduler().barrierCoordinator()
        if coordinator is not None:
            timers.append(getattr(coordinator, "org$apache$spark$BarrierCoordinator$$timer")())
        for timer in timers:
            if is_instance_of(context._gateway, timer, "java.util.Timer"):
                timer.cancel()
            else:
                timer.shutdownNow()
    except Exception:
        _log.warning("the timers of Spark's barrier stages could not be stopped; spark-submit may hang", exc_info=True)
