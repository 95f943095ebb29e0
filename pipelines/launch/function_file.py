"""A file with a function of a notebook, so that ranks and the logged model can import it.

What a function of a module needs is in its module. One that was defined in a notebook's cell, or in the script that runs, uses
names of the cells before it; here it is written to a file together with these: functions and classes by their text, modules by an
import, numbers and texts by their value.
"""

import ast
import builtins
import hashlib
import inspect
import linecache
import symtable
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.system import atomic

# A module with these is trained and measured with them.
_BESIDE = ("LOSS", "METRICS")


def location(function: Callable[..., Any], folder: Path) -> str:
    """Where a function can be imported from, as setting `model.name` takes it.

    Args:
        function: not a lambda, nor defined inside another function.
        folder: for the file of a function that no module has.

    Returns:
        `package.module:function` or `path/to/file.py:function`.

    Raises:
        ConfigError: its text, or what it uses, cannot be written to a file; the message says what.
    """
    name = getattr(function, "__qualname__", "")
    if not isinstance(function, types.FunctionType) or not name.isidentifier():
        raise ConfigError(
            f"network {name or repr(function)}: must be a function with a name, defined by itself and not in another one"
        )
    module = function.__module__
    if module != "__main__" and module in sys.modules:
        return f"{module if '.' in module else inspect.getsourcefile(function)}:{name}"
    text = source(function)
    file = folder / hashlib.sha256(text.encode()).hexdigest()[:8] / f"{name}.py"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(file, text)
    return f"{file}:{name}"


def source(function: types.FunctionType) -> str:
    """The text of a module with a function and what it needs of its notebook. Raises ConfigError if something has no text."""
    names = function.__globals__
    found: dict[str, str] = {}
    imports: set[str] = set()
    _collect(function.__name__, names, found, imports, function.__name__)
    for name in _BESIDE:
        if name in names:
            _collect(name, names, found, imports, function.__name__)
    return "\n".join([*sorted(imports), "", *found.values()])


def _collect(name: str, names: Mapping[str, Any], found: dict[str, str], imports: set[str], network: str) -> None:
    """Add a global name and, before it, what it needs."""
    value = names[name]
    if name in found:
        return
    if isinstance(value, types.ModuleType):
        imports.add(f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}")
        return
    if isinstance(value, types.FunctionType | type):
        if value.__module__ != "__main__":
            imports.add(f"from {value.__module__} import {value.__qualname__} as {name}")
            return
        text = _text(value, network)
        # A placeholder ends the recursion of functions that call each other.
        found[name] = ""
        for used in _globals(text):
            if used in names and (used == name or not hasattr(builtins, used)):
                _collect(used, names, found, imports, network)
        del found[name]
        found[name] = f"\n{text}"
        return
    found[name] = f"{name} = {_literal(name, value, network)}\n"


def _globals(text: str) -> Iterator[str]:
    """The global names that a piece of code reads."""
    scopes = [symtable.symtable(text, "<network>", "exec")]
    seen: dict[str, None] = {}
    for scope in scopes:
        scopes += scope.get_children()
        is_module = scope.get_type() == "module"
        seen |= dict.fromkeys(
            symbol.get_name() for symbol in scope.get_symbols() if symbol.is_referenced() and (is_module or symbol.is_global())
        )
    return iter(seen)


def _text(value: types.FunctionType | type, network: str) -> str:
    try:
        if isinstance(value, types.FunctionType):
            return textwrap.dedent(inspect.getsource(value))
        # Python looks for a class in the file of its module, which a notebook does not have.
        method = next(each for each in vars(value).values() if isinstance(each, types.FunctionType))
        lines = linecache.getlines(method.__code__.co_filename)
        tree = ast.parse("".join(lines))
        node = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == value.__name__][-1]
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return "".join(lines[first - 1 : node.end_lineno])
    except (OSError, StopIteration, IndexError, SyntaxError) as error:
        raise ConfigError(
            f"network {network}: the text of {value.__qualname__} cannot be found; put both into a file network.py and give "
            f'"network.py:{network}"'
        ) from error


def _literal(name: str, value: Any, network: str) -> str:
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise ConfigError(
        f"network {network}: uses {name}, a {type(value).__name__}, which no file can hold; make it inside the function, or give "
        "it in model.arguments"
    )
