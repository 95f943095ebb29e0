"""Run any function on N Horovod ranks, like `HorovodRunner(np=...).run` and `horovod.spark.run` (docs/horovodrunner.md)."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from pathlib import Path
from typing import Any

import cloudpickle
from pyspark.sql import SparkSession

from pipelines.config import LaunchConfig
from pipelines.errors import ConfigError
from pipelines.launch import session
from pipelines.launch.health.failures import extract, read_failures
from pipelines.launch.preflight import check
from pipelines.launch.workers import barrier, commands, spawn
from pipelines.launch.workers.barrier import RankError
from pipelines.launch.workers.supervisor import Assignment, run_locally
from pipelines.system import paths
from pipelines.track.rundir import layout

_log = logging.getLogger(__name__)


def run(
    function: Callable[..., Any],
    np: int,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    spark: SparkSession | None = None,
    launch: LaunchConfig | None = None,
) -> list[Any]:
    """Call `function(*args, **kwargs)` on every rank, each in a new process with Horovod's environment.

    The function calls `hvd.init()` itself, as under `horovodrun`. Function and arguments are pickled by cloudpickle, so import
    heavy libraries inside it and pass data by path. Only the ops of `horovod.tensorflow` work with Keras 3, not `horovod.keras`.

    On the driver's machine (local mode, negative `np`) the processes are forked from a server that has imported TensorFlow and
    Horovod. The first call starts it and later ones reuse it, so set variables that TensorFlow reads at import before that.

    Args:
        function: from a module that all nodes have, or defined where it is used, as in a notebook.
        np: number of ranks. Positive: tasks of one Spark barrier stage, all at once or none. Negative: `-np` processes on the
            driver, without Spark, to try a function.
        args: arguments of the function.
        kwargs: keyword arguments of the function.
        spark: the session; None for the active one, or else a new one for the duration of the call.
        launch: timeouts, threads and the folder for logs (`runs_uri`, which all nodes must share); its `workers` is ignored.

    Returns:
        what the function returned on each rank, in rank order. HorovodRunner returns the first of these.

    Raises:
        ConfigError: `np` is 0.
        LaunchError: there are fewer task slots than ranks, or an executor lacks a requirement; raised at once.
        RankError: a rank raised or died. The message names the first one; `details` has its traceback, and its log is kept.
    """
    if np == 0:
        raise ConfigError("np=0: must be positive for ranks on Spark's workers, or negative for processes on the driver")
    launch = dataclasses.replace(launch or LaunchConfig(), workers=abs(np))
    work_dir = layout.make(paths.to_python(launch.runs_uri), f"{getattr(function, '__name__', 'function')}-{abs(np)}w")
    call = (function, tuple(args), dict(kwargs or {}))
    if np < 0:
        return _on_driver(call, launch, work_dir)
    if spark is not None:
        return _on_spark(spark, call, launch, work_dir)
    with session.open_session("convoy-ranks") as own:
        return _on_spark(own, call, launch, work_dir)


def _on_spark(spark: SparkSession, call: tuple[Any, ...], launch: LaunchConfig, work_dir: Path) -> list[Any]:
    # First, so that its imports run during the checks.
    server = spawn.persistent_fork_server() if session.is_local() else ""
    for line in check.check_cluster(spark, launch.workers, str(work_dir)):
        _log.warning("%s", line)
    ranks = barrier.start(spark, _call, call, launch=launch, work_dir=work_dir, fork_server=server)
    try:
        while not ranks.wait(1):
            continue
    except BaseException:
        ranks.cancel()
        raise
    return ranks.results()


def _on_driver(call: tuple[Any, ...], launch: LaunchConfig, work_dir: Path) -> list[Any]:
    attempt_dir = layout.new_attempt(work_dir)
    payload = cloudpickle.dumps((_call, call))
    assignment = Assignment(
        payload=payload,
        launch=launch,
        work_dir=str(work_dir),
        attempt_dir=str(attempt_dir),
        fork_server=spawn.persistent_fork_server(),
    )
    with run_locally(assignment) as ranks:
        try:
            done, waiting = wait(ranks, return_when=FIRST_EXCEPTION)
        except BaseException:
            commands.send(attempt_dir, commands.KILL)
            raise
        if waiting or any(rank.exception() for rank in done):
            # The others would wait for the failed one.
            commands.send(attempt_dir, commands.KILL)
    failures = read_failures(attempt_dir) or extract("\n".join(str(rank.exception() or "") for rank in ranks))
    if failures:
        raise RankError(failures)
    return [cloudpickle.loads(rank.result()) for rank in ranks]


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)
