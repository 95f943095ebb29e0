"""What the completion knows of the commands' options, read from the parsers that the commands use."""

import argparse
import importlib
import json
from collections.abc import Sequence
from typing import Any, NoReturn

MODULES = {
    "train": "jobs.train_cnn",
    "submit": "tools.databricks.__main__",
    "labs": "notebooks.runner.__main__",
    "schema": "tools.schema",
    **{name: f"jobs.{name}" for name in ("sweep", "predict", "evaluate", "score", "promote", "runs", "replay", "doctor")},
}
"""The module of every command that has options; its `main` parses them first."""


class _Stopped(BaseException):
    """A command has made its parser."""


def text() -> str:
    """Options and argument of every command, as JSON: what `tools.completion.complete` reads."""
    return json.dumps({name: _about(_parser(module)) for name, module in MODULES.items()}, indent=1) + "\n"


def _parser(module: str) -> argparse.ArgumentParser:
    """The parser that a command's `main` makes and uses before it does anything else."""
    made: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, _arguments: Sequence[str] | None = None) -> NoReturn:
        made.append(parser)
        raise _Stopped

    parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, stop  # type: ignore[assignment,method-assign]
    try:
        importlib.import_module(module).main([])
    except _Stopped:
        pass
    finally:
        argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]
    return made[0]


def _about(parser: argparse.ArgumentParser) -> dict[str, Any]:
    options, argument = {}, None
    for action in parser._actions:
        takes_value = action.nargs != 0
        about = {"help": (action.help or "").partition(" (default")[0], "choices": list(map(str, action.choices or ()))}
        metavar = (str(action.metavar or action.dest).upper()) if takes_value else ""
        if not action.option_strings:
            argument = {"metavar": metavar, **about}
        for name in action.option_strings:
            if name.startswith("--"):
                options[name] = {"metavar": metavar, **about}
    return {"options": dict(sorted(options.items())), "argument": argument}
