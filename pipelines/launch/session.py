"""The Spark session of a job."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.java_gateway import is_instance_of
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.system import paths, spark_submit

_log = logging.getLogger(__name__)


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """The session that is there, or a new one, which is stopped at the end.

    A cluster's own session is left as it is. A new one takes the master of `spark-submit`, or `local[*]`.

    Raises:
        LaunchError: Spark could not be started.
    """
    active = SparkSession.getActiveSession()
    if active is not None or paths.on_databricks():
        # Databricks counts a stopped session as a crash of the driver.
        yield active or SparkSession.builder.getOrCreate()
        return
    # Otherwise Spark starts whatever `python3` is first on the PATH of its workers.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    interrupt_handler = signal.getsignal(signal.SIGINT)
    try:
        builder = (
            SparkSession.builder.appName(app_name)
            .config("spark.ui.showConsoleProgress", "false")
            # A copy of a task that writes or trains would do its work twice.
            .config("spark.speculation", "false")
        )
        for key, value in _loopback().items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
        if spark_submit.is_submitted():
            _leave_interrupts_to_the_driver(session)
    except Exception as error:
        raise LaunchError(f"Spark could not be started ({error}); run ./convoy doctor") from error
    # Spark's own handler first asks the JVM to cancel, and fails when Ctrl-C has already ended that.
    signal.signal(signal.SIGINT, interrupt_handler)
    try:
        yield session
    finally:
        _end_barrier_timers(session)
        try:
            session.stop()
        except Exception:
            # After a Ctrl-C the JVM is already gone.
            _log.info("Spark was not there to be stopped", exc_info=True)


def is_local() -> bool:
    """The tasks of the session that is there, or else of the one to come, run on this machine."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return runs_here(active)
    SparkContext._ensure_initialized()
    return bool(SparkConf().get("spark.master", "local[*]").startswith("local"))


def runs_here(spark: SparkSession) -> bool:
    """The tasks of a session run on this machine."""
    return bool(spark.sparkContext.master.startswith("local"))


def _loopback() -> dict[str, str]:
    """On one machine nothing listens to the network, unless the user's own settings say so."""
    if not is_local():
        return {}
    conf = SparkConf()
    wanted = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if "SPARK_LOCAL_IP" not in os.environ:
        # The address of the web page comes from there alone.
        wanted["spark.ui.enabled"] = "false"
    return {key: value for key, value in wanted.items() if not conf.contains(key)}


def _leave_interrupts_to_the_driver(session: SparkSession) -> None:
    """A Ctrl-C reaches spark-submit's JVM, too. It would end at once, and the driver could neither end its tasks nor be heard."""
    jvm = session.sparkContext._jvm
    ignore = jvm.java.lang.Class.forName("sun.misc.SignalHandler").getField("SIG_IGN").get(None)
    jvm.sun.misc.Signal.handle(jvm.sun.misc.Signal("INT"), ignore)


def _end_barrier_timers(session: SparkSession) -> None:
    """Let the JVM end. Spark times barrier stages with threads that keep a local-mode JVM alive for ever.

    One is that of the tasks; the other, of the coordinator, Spark 3.5.0 leaves running, too. They are timers up to Spark 3.5 and
    executors from 4.0 on (SPARK-46895).
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
        _log.warning("the timers of Spark's barrier stages could not be ended; spark-submit may not return", exc_info=True)
