"""Errors whose messages are shown to the user.

A `ConvoyError` is printed as is, on one line and without the driver's traceback. It therefore names what is wrong (file, line,
key, value), the rule that was broken, and the remedy.
"""

import signal
from collections.abc import Sequence
from typing import Literal


class ConvoyError(Exception):
    """Something the user can fix. The message says what, and how."""

    exit_code = 1
    details = ""
    """Printed below the message, such as the traceback of a rank that raised. Empty if there is nothing more to show."""


class ConfigError(ConvoyError):
    """A setting, flag or configuration file is wrong. Raised before Spark starts."""

    exit_code = 2


class UserCodeError(ConvoyError):
    """Code that a setting names, such as a network of the user's, raised. The message begins with its file and line."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class DataError(ConvoyError):
    """The data itself is wrong: a malformed line, a broken table, a missing file."""


class LaunchError(ConvoyError):
    """The workers could not be started, or one of them failed."""


class CheckpointError(ConvoyError):
    """A checkpoint cannot be written, is damaged, or does not match the training that should resume from it."""


class TrainingError(ConvoyError):
    """A loss is not finite, or weights differ between ranks."""

    def __init__(self, message: str, kind: Literal["not finite", "drifted"], blamed: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.blamed = tuple(blamed)
        """The ranks at fault; empty if all are."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Not an Exception, so that no `except Exception` swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
