"""Errors that are meant for the person at the keyboard.

A `ConvoyError` is printed as it stands, on one line and without a traceback of the driver's. It therefore names what is wrong
(file, line, key, value), the rule that was broken, and the remedy.
"""

import signal


class ConvoyError(Exception):
    """Something the user can mend. The message says what, and how."""

    exit_code = 1
    details = ""
    """Printed below the message where there is more to see, such as the traceback of a rank that raised. Empty otherwise."""


class ConfigError(ConvoyError):
    """A setting, flag or configuration file is wrong. Found before Spark starts."""

    exit_code = 2


class DataError(ConvoyError):
    """The data itself is wrong: a malformed line, a broken table, a missing file."""


class LaunchError(ConvoyError):
    """The workers could not be started, or one of them failed."""


class CheckpointError(ConvoyError):
    """A checkpoint cannot be written, is damaged, or does not fit the training that should go on from it."""


class TrainingError(ConvoyError):
    """The numbers went wrong: a loss that is not finite, or weights that differ between ranks."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Not an Exception, so that no cleanup code swallows it by accident."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
