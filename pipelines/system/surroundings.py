"""What a program finds around it and would be affected by before it could check it: variables, locale, user, limits.

`repaired` gives the variables with which a process of Convoy starts, `apply` changes those of a process that has started, and
`refusal` says in one line what cannot be repaired. The front door, `spark-submit` of the environment, jobs, the fork server,
ranks and Spark's Python workers all go through here.

    python -I -S surroundings.py PACKAGES PROGRAM [ARGUMENT...]

becomes PROGRAM in repaired surroundings; PACKAGES is the folder of the environment's packages. For this, and for the front door,
which runs under whatever Python the machine has, the module imports the standard library only and is written for Python 3.8.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import pwd
import re
import resource
import socket
import sys
import warnings
from typing import Dict, Mapping, Optional

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if not __package__:
    # Run as a program.
    sys.path[:] = [_ROOT, *sys.path]

from pipelines.system import keras_settings, python_path  # noqa: E402

NOT_FROM_HERE = {"PYTHONSAFEPATH": "1"}
"""For jobs, which import nothing from the working directory, where Spark's Python workers look first (from Python 3.11 on)."""
Changes = Dict[str, Optional[str]]
"""Values of variables by name; None where one is unset."""

_UTF_8 = ("C.UTF-8", "en_US.UTF-8", "en_GB.UTF-8", "de_DE.UTF-8")
# Each changes what a program of Python does: other modules, no assertions, another encoding, a prompt at the end.
_OF_PYTHON = ("PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONINSPECT", "PYTHONCASEOK")
# Each changes what Spark's shell scripts do: `cd` prints, options are on, a file is run first.
_OF_SHELLS = ("CDPATH", "BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "GREP_OPTIONS", "POSIXLY_CORRECT")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_COLLECTOR = "-XX:+UseSerialGC"
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
_LC_CTYPE_MASK, _CODESET = 1, 14


def repaired(variables: Mapping[str, str], packages: str = "") -> tuple[dict[str, str], list[str]]:
    """The variables of a process of Convoy, from those it would get, and a line on each that the user may miss.

    Args:
        variables: as they are.
        packages: the folder of the environment's packages, which none on PYTHONPATH may replace; empty to leave that as it is.
    """
    result = dict(variables)
    notes: list[str] = []
    keras_settings.apply(result, changes(variables))
    if packages:
        keras_settings.apply(result, _spark_log(result))
    if packages and result.get("PYTHONPATH"):
        kept, notes = python_path.without_doubles(result["PYTHONPATH"].split(os.pathsep), packages)
        keras_settings.apply(result, {"PYTHONPATH": os.pathsep.join(kept) or None})
    return result, notes


def apply() -> None:
    """Repair the surroundings of this process, as far as is possible after its start."""
    changed = changes(os.environ)
    if "PYTHONWARNINGS" in changed:
        warnings.filters[:] = [each for each in warnings.filters if each[0] != "error"]  # type: ignore[index]
    keras_settings.apply(os.environ, changed)
    for stream in (sys.stdout, sys.stderr):
        # Python has opened them in the encoding it was given, which may lack a letter of a path.
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")
    raise_file_limit()


def changes(variables: Mapping[str, str]) -> Changes:
    """What has to change in variables, apart from PYTHONPATH."""
    found: Changes = {name: None for name in (*_OF_PYTHON, *_OF_SHELLS) if name in variables}
    if "PYTHONWARNINGS" in variables:
        kept = _without_errors(variables["PYTHONWARNINGS"])
        if kept is not None:
            found["PYTHONWARNINGS"] = kept or None
    found.update(_locale(variables))
    found.update(_user(variables))
    found.update(_proxies(variables))
    found.update(_java(variables))
    found.update(keras_settings.changes(variables))
    return found


def _without_errors(options: str) -> str | None:
    """PYTHONWARNINGS without entries that make errors of warnings, of which libraries give some; None if there are none.

    Python accepts any beginning of the word.
    """
    entries = [entry.strip() for entry in options.split(",")]
    kept = [entry for entry in entries if not entry or not "error".startswith(entry.partition(":")[0].strip() or "-")]
    return None if kept == entries else ",".join(kept)


def _locale(variables: Mapping[str, str]) -> Changes:
    """Java takes the encoding of file names from the locale, and Python that of what it reads and prints."""
    name = next((variables[each] for each in ("LC_ALL", "LC_CTYPE", "LANG") if variables.get(each)), "C")
    if _is_utf_8(name):
        return {}
    chosen = next((each for each in _UTF_8 if _is_utf_8(each)), None)
    return {"LC_ALL": chosen} if chosen else {}


def _is_utf_8(name: str) -> bool:
    """Whether a locale exists on this machine, and is of UTF-8: one that does not exist counts as C."""
    if not sys.platform.startswith("linux"):
        return name.lower().replace("-", "").endswith("utf8")
    # Not by `locale.setlocale`, which changes that of all threads for a moment.
    library = ctypes.CDLL(None)
    library.newlocale.restype = ctypes.c_void_p
    library.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    library.nl_langinfo_l.restype = ctypes.c_char_p
    library.nl_langinfo_l.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.freelocale.argtypes = (ctypes.c_void_p,)
    found = library.newlocale(_LC_CTYPE_MASK, os.fsencode(name), None)
    if not found:
        return False
    try:
        return bool(library.nl_langinfo_l(_CODESET, found) == b"UTF-8")
    finally:
        library.freelocale(found)


def _user(variables: Mapping[str, str]) -> Changes:
    """Python's libraries ask for the user's name, and find none for a uid without an entry of its own."""
    if has_name():
        return {}
    values = {"USER": f"uid{os.geteuid()}", "LOGNAME": f"uid{os.geteuid()}", "HOME": "/"}
    return {name: value for name, value in values.items() if not variables.get(name)}


def _java(variables: Mapping[str, str]) -> Changes:
    """Java does not start with two garbage collectors: Spark's launcher has one of Convoy's, and the user may have chosen one."""
    options = " ".join(variables.get(name, "") for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"))
    launcher = variables.get("SPARK_LAUNCHER_OPTS", "")
    if _COLLECTOR not in launcher or not re.search(r"-XX:\+Use\w+GC\b", options):
        return {}
    return {"SPARK_LAUNCHER_OPTS": " ".join(launcher.replace(_COLLECTOR, "").split())}


def _spark_log(variables: Mapping[str, str]) -> Changes:
    """Spark's log is in the clone (conf/spark/log4j2.properties); without a file to write, Spark would print it."""
    runs = os.path.join(_ROOT, "runs")
    if "CONVOY_SPARK_LOG" in variables or os.access(runs if os.path.isdir(runs) else _ROOT, os.W_OK):
        return {}
    cache = variables.get("CONVOY_CACHE") or os.path.join(variables.get("HOME") or os.path.expanduser("~"), ".cache/convoy")
    return {"CONVOY_SPARK_LOG": os.path.join(cache, "spark.log") if os.access(cache, os.W_OK) else os.devnull}


def has_name() -> bool:
    """Whether the user of this process has an entry in the system's list of users."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def _proxies(variables: Mapping[str, str]) -> Changes:
    """What listens on this machine is not reached through a proxy."""
    if not any(variables.get(form) for name in _PROXIES for form in (name, name.upper())):
        return {}
    excepted = [
        host.strip() for host in (variables.get("no_proxy") or variables.get("NO_PROXY") or "").split(",") if host.strip()
    ]
    missing = [host for host in _OWN_HOSTS if host not in excepted]
    if not missing or "*" in excepted:
        return {}
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join([*excepted, *missing]))


FILES = 512
"""Open files that a process may need: Spark's JVM had up to 348, training with two workers on two cores."""


def raise_file_limit() -> None:
    """Let this process and its children open as many files as the user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 2**20
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def refusal() -> str:
    """Why Spark cannot start here, and what to do; empty if it can."""
    try:
        os.getcwd()
    except OSError:
        return "the working directory no longer exists; change to one that does"
    raise_file_limit()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < FILES:
        return f"only {files} files may be open at a time (ulimit -n), Spark needs {FILES}; raise the limit, also the hard one"
    if not has_name():
        uid = os.geteuid()
        return (
            f"the user with uid {uid} has no name, and Java needs one; add an entry to /etc/passwd "
            f"(convoy:x:{uid}:{os.getegid()}::/tmp:/bin/sh), or run as a user that has one"
        )
    try:
        # An address can be bound to while its interface is down.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            socket.create_connection(listener.getsockname(), 5).close()
    except OSError as error:
        return (
            f"this machine has no 127.0.0.1 ({error.strerror}), at which Spark and Python speak to each other, also where all "
            "else is IPv6; ip address add 127.0.0.1/8 dev lo, and ip link set lo up"
        )
    return ""


def main(packages: str, program: str, *arguments: str) -> None:
    variables, notes = repaired(os.environ, packages)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr, flush=True)
    reason = refusal()
    if reason:
        sys.exit(f"error: {reason}")
    if any(argument.startswith(os.path.join(_ROOT, "jobs", "")) for argument in map(os.path.abspath, arguments)):
        variables.update(NOT_FROM_HERE)
    os.execve(program, [program, *arguments], variables)


if __name__ == "__main__":
    main(*sys.argv[1:])
