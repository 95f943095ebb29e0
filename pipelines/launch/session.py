"""The Spark session of a job."""

import atexit
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark
from py4j.java_gateway import is_instance_of
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from pipelines.errors import LaunchError
from pipelines.system import connect, paths, spark_submit, surroundings
from pipelines.system.secrets import first_line, mask

_log = logging.getLogger(__name__)
_kept = ExitStack()
atexit.register(_kept.close)


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """The active session, or else a new one that is stopped at the end.

    The session of a Databricks cluster is never stopped. A new one uses the master of `spark-submit`, or `local[*]`; if
    `SPARK_REMOTE` is set, it is one of Spark Connect.

    Raises:
        LaunchError: Spark could not be started.
    """
    active = SparkSession.getActiveSession()
    if active is not None or paths.on_databricks():
        # Databricks treats a stopped session as a crash of the driver.
        yield active or SparkSession.builder.getOrCreate()
        return
    _check_surroundings()
    # By default Spark starts the first `python3` on the PATH of its workers.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    interrupt_handler = signal.getsignal(signal.SIGINT)
    with connect.kept_address():
        address = connect.requested()
        session = _connected(address) if address and not address.startswith("local") else _started(app_name)
        # Spark's own handler asks the JVM to cancel and fails if Ctrl-C has already ended it.
        signal.signal(signal.SIGINT, interrupt_handler)
        try:
            yield session
        finally:
            if not connect.is_remote(session):
                _end_barrier_timers(session)
            try:
                session.stop()
            except Exception:
                # After a Ctrl-C the JVM is already gone.
                _log.info("Spark had already stopped", exc_info=True)


def kept_session(app_name: str) -> SparkSession:
    """The active session, or a new one that lasts until the process ends, for code that is called again and again.

    It cannot be restarted: stopping a session also stops the timers that barrier stages in the same JVM need. Raises as
    `open_session`.
    """
    return _kept.enter_context(open_session(app_name))


def _started(app_name: str) -> SparkSession:
    try:
        builder = (
            SparkSession.builder.appName(app_name)
            .config("spark.ui.showConsoleProgress", "false")
            # A speculative copy of a task would write or train a second time.
            .config("spark.speculation", "false")
        )
        for key, value in _loopback().items():
            builder = builder.config(key, value)
        with warnings.catch_warnings():
            # Connect sets on its new server, a second time and in vain, what that was started with.
            warnings.filterwarnings("ignore", "Failed to set spark", UserWarning)
            session = builder.getOrCreate()
        if spark_submit.is_submitted() and not connect.is_remote(session):
            _leave_interrupts_to_the_driver(session)
    except Exception as error:
        # That of Py4J only names the constructor that failed.
        cause = getattr(error, "java_exception", error)
        raise LaunchError(f"Spark could not be started ({first_line(cause)}); run ./convoy doctor") from error
    return session


def _connected(address: str) -> SparkSession:
    """A session of a Spark Connect server that is already running, whose settings are its own."""
    try:
        connect.check_reachable(address)
        session = SparkSession.builder.getOrCreate()
        # The first question to the server.
        _log.info("Spark Connect, Spark %s", session.version)
        return session
    except ImportError as error:
        remedy = "install Spark Connect's packages: pip install 'pyspark[connect]'"
        raise LaunchError(f"SPARK_REMOTE={mask(address)}: {first_line(error)}; {remedy}") from error
    except Exception as error:
        remedy = "start the server, or unset SPARK_REMOTE to train without Spark Connect"
        raise LaunchError(f"SPARK_REMOTE={mask(address)}: {first_line(error)}; {remedy}") from error


def _check_surroundings() -> None:
    """Before the JVM starts. Raises LaunchError where it cannot."""
    surroundings.apply()
    reason = surroundings.refusal() or _other_spark(os.environ.get("SPARK_HOME", "")) or _no_connect_server(connect.requested())
    if reason:
        raise LaunchError(f"Spark cannot start: {reason}")


def _other_spark(home: str) -> str:
    """Why the Spark in SPARK_HOME cannot be used by this Python; empty if it can."""
    if home and not Path(home, "bin/spark-submit").exists():
        return f"SPARK_HOME={home} has no Spark (bin/spark-submit); unset SPARK_HOME"
    versions = [jar.stem.rpartition("-")[2] for jar in Path(home, "jars").glob("spark-core_*.jar")] if home else []
    if not versions or pyspark.__version__ in versions:
        return ""
    return (
        f"SPARK_HOME={home} has Spark {versions[0]}, this Python has pyspark {pyspark.__version__}; unset SPARK_HOME, or start "
        "the job with its spark-submit"
    )


def _no_connect_server(address: str) -> str:
    """Why this process cannot start a Spark Connect server of its own; empty if it can, or need not."""
    if not address.startswith("local") or int(pyspark.__version__.partition(".")[0]) >= 4:
        return ""
    return (
        f"SPARK_REMOTE={address}, and Spark {pyspark.__version__} brings no server of Spark Connect; unset SPARK_REMOTE, or name "
        "a server that runs (sc://HOST:15002)"
    )


def is_local() -> bool:
    """Whether the tasks of the active session, or else of the next one, run on this machine. Starts Spark's JVM.

    Raises:
        LaunchError: Spark cannot start here.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return runs_here(active)
    if connect.requested():
        return connect.requested().startswith("local")
    _check_surroundings()
    SparkContext._ensure_initialized()
    return bool(SparkConf().get("spark.master", "local[*]").startswith("local"))


def runs_here(spark: SparkSession) -> bool:
    """Whether the tasks of a session run on this machine."""
    if connect.is_remote(spark):
        return connect.server_is_here(spark)
    return bool(spark.sparkContext.master.startswith("local"))


def _loopback() -> dict[str, str]:
    """Settings for one machine, where nothing should listen on the network unless the user configured it."""
    if not is_local():
        return {}
    settings = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if connect.requested():
        # The settings of `spark-submit` and Spark's files are read only when the server starts.
        listens = {"spark.connect.grpc.binding.address": "127.0.0.1", "spark.connect.grpc.binding.port": _choose_connect_port()}
        return settings | listens | {"spark.ui.enabled": "false"}
    conf = SparkConf()
    if "SPARK_LOCAL_IP" not in os.environ:
        # Only this variable sets the address of the web UI.
        settings["spark.ui.enabled"] = "false"
    return {key: value for key, value in settings.items() if not conf.contains(key)}


def _choose_connect_port() -> str:
    """Choose a free port for the server that this process is about to start, and have Spark's client look for it there.

    Spark's own choice is one port for all processes of a machine, so that a second one could not start its server.
    """
    from pyspark.sql.connect.client import DefaultChannelBuilder

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    DefaultChannelBuilder.default_port = staticmethod(lambda: port)
    return str(port)


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
