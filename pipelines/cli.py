"""Command-line flags common to all jobs, and exit codes.

0 success, 1 the job failed, 2 the request was invalid, 129, 130 or 143 interrupted (128 + signal, as in shells), 141 nobody reads
the output any more.
"""

import argparse
import contextlib
import logging
import os
import select
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
from pipelines.config.data import NAMED_DATASETS
from pipelines.config.schema import Verbosity
from pipelines.errors import ConfigError, ConvoyError, Interrupted
from pipelines.system import atomic, import_path, path_rules, paths, spark_location, spark_submit, surroundings, temporary
from pipelines.system.reporter import PrintReporter, Reporter
from pipelines.system.secrets import mask
from pipelines.track.rundir import summary as summary_file

# Settings that name what is read.
_INPUTS = ("data.dataset", "data.test_file", "model.weights")
# Settings with import paths, in which a file may be named.
_CODE = ("model.name", "training.loss", "training.metrics", "training.callbacks")
_PATHS = (
    "Relative paths on the command line start in the working directory, or in CONVOY_HOME (the clone) if there is nothing of "
    "that name; those in configuration files start in CONVOY_HOME, as do the folders for tables and runs."
)


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    config: Config
    summary: Path | None
    """File for the JSON summary, if requested."""
    overrides: tuple[str, ...]
    """Settings from the flags, as `section.key=value`."""
    options: argparse.Namespace
    """All flags, including the job's own."""
    verbosity: Verbosity = "normal"

    @property
    def reporter(self) -> Reporter:
        """Prints for the user, only warnings with `--quiet`."""
        return PrintReporter(quiet=self.verbosity == "quiet")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the result as JSON if requested. Raises ConvoyError if it cannot be written."""
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
    """Parse the common flags.

    Args:
        arguments: command line without the program's name.
        description: for `--help`.
        default_config: file to read without `--config`; None for the defaults of the settings, in jobs that start no workers.
            It is not read with `--resume`.
        own_flags: adds the job's own flags.
        reads_data: whether there is a flag `--data`.

    Raises:
        ConfigError: a value is invalid. Unknown flags and `--help` exit as argparse does.
    """
    parser = Parser(description=description, epilog=_PATHS, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help=f"YAML settings (default: {default_config or 'none'})")
    add_flags(parser, reads_data=reads_data, starts_workers=default_config is not None)
    if own_flags is not None:
        own_flags(parser)
    options = parser.parse_args(arguments)
    overrides = overrides_of(options)
    resumed = getattr(options, "resume", "")
    if resumed and options.config:
        raise ConfigError(f"--config and --resume {resumed}: a resumed run keeps its own settings; change single ones with --set")
    file = options.config or (None if resumed else default_config)
    config = loader.load(loader.find(file) if file else None, overrides)
    check_summary(options.summary)
    return Request(config=config, summary=options.summary, overrides=overrides, options=options, verbosity=verbosity_of(options))


def add_flags(parser: argparse.ArgumentParser, *, reads_data: bool = True, starts_workers: bool = True) -> None:
    """Add the common flags except `--config`."""
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
    """Add the flag `--resume` of a training (`pipelines.launch.resume`)."""
    parser.add_argument(
        "--resume",
        metavar="RUN",
        default="",
        help="continue a run: its id, 'latest', its folder or a checkpoint in it; --set changes its settings",
    )


def overrides_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Settings from the flags of `add_flags`, as `section.key=value`."""
    overrides = [_located(setting) for setting in options.set]
    if getattr(options, "data", None) is not None:
        overrides.append(_input("data.dataset", options.data))
    if getattr(options, "workers", None) is not None:
        overrides.append(f"launch.workers={options.workers}")
    if options.log_level is not None:
        overrides.append(f"launch.log_level={options.log_level.upper()}")
    return tuple(overrides)


def _located(setting: str) -> str:
    """`section.key=value` with the path in it found, if it is that of an input or of the user's code."""
    key, _, raw = setting.partition("=")
    if key.strip() not in (*_INPUTS, *_CODE):
        return setting
    value = loader.value_of(key, raw)
    if key.strip() in _INPUTS:
        return _input(key.strip(), value) if isinstance(value, str) else setting
    if isinstance(value, list):
        found: Any = [import_path.located(each) if isinstance(each, str) else each for each in value]
    else:
        found = import_path.located(value) if isinstance(value, str) else value
    return setting if found == value else _as_setting(key.strip(), found)


def _input(key: str, location: str) -> str:
    found = location if location in NAMED_DATASETS else spark_location.given(location)
    elsewhere = paths.home() / location
    if found != location and elsewhere.exists():
        PrintReporter().warn(f"{location} is in the working directory and in {paths.home()}; {found} is taken")
    return _as_setting(key, found)


def _as_setting(key: str, value: object) -> str:
    """`section.key=value`, in which every text is one to YAML."""
    shown = yaml.safe_dump(value, default_style=chr(34), default_flow_style=True, width=10**6, allow_unicode=True)
    return f"{key}={shown.strip()}"


def verbosity_of(options: argparse.Namespace) -> Verbosity:
    return "quiet" if options.quiet else "verbose" if options.verbose else "normal"


def check_summary(file: Path | None) -> None:
    """Raises ConfigError if the folder of `--summary` does not exist, or the path breaks a rule of `path_rules`."""
    fault = path_rules.fault(str(file)) if file is not None else ""
    if fault:
        raise ConfigError(f"--summary {file}: {fault}")
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"--summary {file}: the folder does not exist; create it first")


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    """Call `main` and exit the process with the corresponding code.

    On Databricks a `spark_python_task` runs in the Python process of the notebook server, where any exit, even with code 0, is
    taken for a crash. There this returns when the job is done.

    Raises:
        ConvoyError: on Databricks only, instead of an exit code other than 0.
    """
    if paths.on_databricks():
        _run_as_guest(main, arguments)
        return
    _raise_on_signals()
    surroundings.apply()
    spark_submit.attach()
    try:
        main(arguments)
        code = 0
    except ConvoyError as error:
        _say(f"error: {path_rules.printable(str(error))}\n{error.details}".rstrip())
        code = error.exit_code
    except (Interrupted, KeyboardInterrupt) as interruption:
        signum = interruption.signum if isinstance(interruption, Interrupted) else signal.SIGINT
        _say(f"interrupted by {signal.Signals(signum).name}")
        code = 128 + signum
    except SystemExit as exit_of_argparse:
        code = exit_of_argparse.code if isinstance(exit_of_argparse.code, int) else 1
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_has_no_reader():
            # What read it has ended, such as `head`. The code is that of a program which the signal ends.
            code = 128 + signal.SIGPIPE
        elif isinstance(error, OSError) and error.errno in atomic.FULL:
            _say(_full_disk(error))
            code = 1
        else:
            # A bug. Its traceback may contain credentials.
            _say(traceback.format_exc().rstrip())
            code = 1
    _leave(code)


def _run_as_guest(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    try:
        main(arguments)
    except ConvoyError as error:
        # The run's page shows the message first; `from None` omits our frames.
        raise ConvoyError(mask(f"{error}\n{error.details}".rstrip())) from None
    except Interrupted as interruption:
        raise KeyboardInterrupt(str(interruption)) from None
    except SystemExit as exit_of_argparse:
        if exit_of_argparse.code not in (0, None):
            raise ConfigError(f"the job does not accept these parameters: {mask(' '.join(arguments))}") from None
    except Exception:
        # A bug. Databricks would show and store its traceback unmasked.
        raise RuntimeError(mask(traceback.format_exc().rstrip())) from None


def _full_disk(error: OSError) -> str:
    return f"error: {error.filename or 'the output'} cannot be written ({error.strerror}); free disk space there"


def _output_has_no_reader() -> bool:
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(mask(text), file=sys.stderr)


def _leave(code: int) -> NoReturn:
    """Exit without waiting for threads: one may hang on a dead server."""
    temporary.remove()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # A job whose result is lost has failed.
            if error.errno in atomic.FULL and code == 0:
                _say(_full_disk(error))
                code = 1
        except ValueError:
            # It is closed.
            continue
    os._exit(code)


def _raise_on_signals() -> None:
    def interrupt(signum: int, _frame: FrameType | None) -> None:
        # Another Ctrl-C or SIGTERM kills the process at once, with its ranks (pipelines.launch.workers.rank). A SIGHUP must
        # not: it follows by itself when the same Ctrl-C has ended spark-submit's JVM.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise Interrupted(signum)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
