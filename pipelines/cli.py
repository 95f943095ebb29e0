"""The flags that all jobs share, and how a job ends.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 129, 130 or 143 interrupted (128 + signal, as shells count).
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from pipelines.config import Config, loader
from pipelines.config.schema import Verbosity
from pipelines.errors import ConfigError, ConvoyError, Interrupted
from pipelines.system import paths, spark_submit, temporary
from pipelines.system.reporter import PrintReporter, Reporter
from pipelines.system.secrets import mask
from pipelines.track.rundir import summary as summary_file


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    config: Config
    summary: Path | None
    """Where to write the JSON summary, if anywhere."""
    overrides: tuple[str, ...]
    """What the flags set, as `section.key=value`."""
    options: argparse.Namespace
    """All flags as they were given, a job's own ones included."""
    verbosity: Verbosity = "normal"

    @property
    def reporter(self) -> Reporter:
        """Prints for the user, only warnings where that was asked for."""
        return PrintReporter(quiet=self.verbosity == "quiet")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the result as JSON where that was asked for. Raises ConvoyError when it cannot be written."""
        if self.summary is not None:
            summary_file.write(summary, self.summary)


class Parser(argparse.ArgumentParser):
    """Shows no credential of a command line that it refuses."""

    def error(self, message: str) -> NoReturn:
        super().error(mask(message))


def parse(
    arguments: Sequence[str],
    description: str,
    default_config: str | None,
    own_flags: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    reads_data: bool = True,
) -> Request:
    """Read the shared flags.

    Args:
        arguments: without the program's name.
        description: for `--help`.
        default_config: the file that is read when there is no `--config`; None for the settings' own defaults, in jobs that
            start no workers. A job with a flag `--resume` does not read it when that is given.
        own_flags: adds the flags that only this job has.
        reads_data: there is a flag `--data`.

    Raises:
        ConfigError: a value is wrong. A flag that does not exist, or `--help`, exits as argparse does.
    """
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help=f"YAML settings (default: {default_config or 'none'})")
    add_flags(parser, reads_data=reads_data, starts_workers=default_config is not None)
    if own_flags is not None:
        own_flags(parser)
    options = parser.parse_args(arguments)
    overrides = overrides_of(options)
    resumed = getattr(options, "resume", "")
    if resumed and options.config:
        raise ConfigError(f"--config and --resume {resumed}: a run goes on with its own settings; change single ones with --set")
    file = options.config or (None if resumed else default_config)
    config = loader.load(loader.find(file) if file else None, overrides)
    check_summary(options.summary)
    return Request(config=config, summary=options.summary, overrides=overrides, options=options, verbosity=verbosity_of(options))


def add_flags(parser: argparse.ArgumentParser, *, reads_data: bool = True, starts_workers: bool = True) -> None:
    """The flags that jobs share, but for the file with the settings."""
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting, such as training.epochs=5")
    if reads_data:
        parser.add_argument("--data", metavar="NAME_OR_PATH", help="a data set name, libsvm file, folder or URI (data.dataset)")
    if starts_workers:
        parser.add_argument("--workers", metavar="N", help="number of workers (launch.workers)")
    parser.add_argument("--summary", metavar="FILE", type=Path, help="write the result as JSON to this file")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    loudness.add_argument("--verbose", action="store_true", help="print the log lines of all processes too")
    parser.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR for the log files (launch.log_level)")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """The flag `--resume` of a training (`pipelines.launch.resume`)."""
    parser.add_argument(
        "--resume",
        metavar="RUN",
        default="",
        help="go on with a run: its id, 'latest', its folder or a checkpoint in it; it keeps its settings, --set changes them",
    )


def overrides_of(options: argparse.Namespace) -> tuple[str, ...]:
    """What the flags of `add_flags` set, as `section.key=value`."""
    overrides = list(options.set)
    if getattr(options, "data", None) is not None:
        overrides.append(f"data.dataset={yaml.safe_dump(options.data, default_style=chr(34), width=10**6).strip()}")
    if getattr(options, "workers", None) is not None:
        overrides.append(f"launch.workers={options.workers}")
    if options.log_level is not None:
        overrides.append(f"launch.log_level={options.log_level.upper()}")
    return tuple(overrides)


def verbosity_of(options: argparse.Namespace) -> Verbosity:
    return "quiet" if options.quiet else "verbose" if options.verbose else "normal"


def check_summary(file: Path | None) -> None:
    """Raises ConfigError where `--summary` names a folder that is not there."""
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"--summary {file}: the folder does not exist; create it first")


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    """Call `main` and leave the process with the exit code of its outcome.

    On Databricks the process is not the job's: a `spark_python_task` is executed inside the notebook server's Python, which takes
    any exit, even one with code 0, for a crash. There this returns when the work is done.

    Raises:
        ConvoyError: on Databricks only, in place of an exit code other than 0.
    """
    if paths.on_databricks():
        _run_as_guest(main, arguments)
        return
    _raise_on_signals()
    spark_submit.attach()
    try:
        main(arguments)
        code = 0
    except ConvoyError as error:
        _say(f"error: {error}\n{error.details}".rstrip())
        code = error.exit_code
    except (Interrupted, KeyboardInterrupt) as interruption:
        signum = interruption.signum if isinstance(interruption, Interrupted) else signal.SIGINT
        _say(f"interrupted by {signal.Signals(signum).name}")
        code = 128 + signum
    except SystemExit as exit_of_argparse:
        code = exit_of_argparse.code if isinstance(exit_of_argparse.code, int) else 1
    except Exception:
        # A defect. Its traceback may show what was passed about.
        _say(traceback.format_exc().rstrip())
        code = 1
    _leave(code)


def _run_as_guest(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    try:
        main(arguments)
    except ConvoyError as error:
        # What the run's page shows first, and below it nothing of ours.
        raise ConvoyError(mask(f"{error}\n{error.details}".rstrip())) from None
    except Interrupted as interruption:
        raise KeyboardInterrupt(str(interruption)) from None
    except SystemExit as exit_of_argparse:
        if exit_of_argparse.code not in (0, None):
            raise ConfigError(f"the job does not take these parameters: {mask(' '.join(arguments))}") from None
    except Exception:
        # A defect. Databricks would show and keep its traceback as it is.
        raise RuntimeError(mask(traceback.format_exc().rstrip())) from None


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(mask(text), file=sys.stderr)


def _leave(code: int) -> NoReturn:
    """Without waiting for threads: one may hang on a server that does not answer."""
    temporary.remove()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _raise_on_signals() -> None:
    def interrupt(signum: int, _frame: FrameType | None) -> None:
        # The next Ctrl-C or SIGTERM ends the process at once, and its ranks with it (see pipelines.launch.workers.rank). A SIGHUP
        # that follows does not: it comes by itself when the same Ctrl-C has ended spark-submit's JVM.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise Interrupted(signum)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
