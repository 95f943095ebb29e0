"""What can be known of a user's module without running it, so that the driver refuses it before anything starts."""

import ast
import difflib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.models.custom.sources import SourceFile, is_found

# A model that needs them would not load elsewhere.
_TRAINING_ONLY = ("pipelines", "horovod", "petastorm", "pyspark")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_TAKEN_BY_POSITION = 2


def check_module(source: SourceFile) -> ast.Module:
    """Parse a module and check what it imports.

    Raises:
        ConfigError: it is not Python, or imports what the workers or a logged model will not have.
    """
    try:
        tree = ast.parse(source.text, source.path)
        compile(source.text, source.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(f"{source.path}{line}: is not valid Python ({reason})") from error
    if source.is_file:
        for node, module in _imports(tree.body):
            _check_import(source, node, module)
    return tree


def check_name(source: SourceFile, tree: ast.Module, name: str) -> None:
    """Raises ConfigError if a module defines no object of this name. One that defines names as it runs may."""
    defined = set(_defined(tree.body))
    if name in defined or "*" in defined:
        return
    near = difflib.get_close_matches(name, defined, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it defines {', '.join(sorted(defined)) or 'nothing'}"
    raise ConfigError(f"{source.path}: defines no {name}; {hint}")


def check_build(source: SourceFile, tree: ast.Module, name: str, arguments: Collection[str]) -> None:
    """Check the parameters of a network's function, where they can be read.

    Args:
        source: the module.
        tree: its syntax tree.
        name: the function's.
        arguments: names in `model.arguments`.

    Raises:
        ConfigError: it cannot be called as `name(spec, outputs, **arguments)`.
    """
    function = next((node for node in tree.body if isinstance(node, _Function) and node.name == name), None)
    if function is None or function.decorator_list:
        return
    place = f"{source.path} line {function.lineno}"
    parameters = function.args
    positional = [argument.arg for argument in (*parameters.posonlyargs, *parameters.args)]
    if len(positional) < _TAKEN_BY_POSITION and parameters.vararg is None:
        raise ConfigError(f"{place}: {name} must take the table's spec and the number of outputs: def {name}(spec, outputs)")
    named = [argument.arg for argument in parameters.kwonlyargs]
    known = [*[argument.arg for argument in parameters.args if argument.arg not in positional[:_TAKEN_BY_POSITION]], *named]
    for argument in arguments:
        if argument not in known and parameters.kwarg is None:
            near = difflib.get_close_matches(argument, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise ConfigError(f"model.arguments: {name} in {place} takes no {argument}; {hint}")
    with_default = positional[len(positional) - len(parameters.defaults) :]
    with_default += [each for each, default in zip(named, parameters.kw_defaults, strict=True) if default is not None]
    needed = (*positional[_TAKEN_BY_POSITION:], *named)
    missing = next((each for each in needed if each not in with_default and each not in arguments), "")
    if missing:
        raise ConfigError(f"model.arguments: {name} in {place} needs {missing}; add it, as in {{{missing}: VALUE}}")


def imported_packages(source: SourceFile) -> set[str]:
    """Top-level names of the packages that a module imports anywhere."""
    nodes = list(ast.walk(ast.parse(source.text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and node.level == 0}
    return {name.partition(".")[0] for name in names}


def _check_import(source: SourceFile, node: ast.stmt, module: str) -> None:
    place = f"{source.path} line {node.lineno}"
    if isinstance(node, ast.ImportFrom) and node.level:
        raise ConfigError(f"{place}: a file has no package to import from; put all into one file, or use package.module:NAME")
    top = module.partition(".")[0]
    if top in _TRAINING_ONLY:
        raise ConfigError(
            f"{place}: imports {top}, which the logged model must not need; import it inside the function that uses it"
        )
    if is_found(top):
        return
    beside = Path(source.path).parent
    if (beside / f"{top}.py").exists() or (beside / top).is_dir():
        raise ConfigError(
            f"{place}: imports {top}, which lies beside it; workers get this one file: put all into it, or install a package on "
            "all nodes and use package.module:NAME"
        )
    raise ConfigError(f"{place}: imports {top}, which is not installed here; install it on driver and workers")


def _imports(body: Iterable[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Imports that always run, with the module they import. Those in `try`, `if` and functions may not."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module or ""


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that a module's statements define."""
    for node in body:
        if isinstance(node, _Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.For):
            for part in ("body", "orelse", "handlers", "finalbody"):
                for child in getattr(node, part, ()):
                    yield from _defined(child.body if isinstance(child, ast.ExceptHandler) else [child])
        else:
            yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
