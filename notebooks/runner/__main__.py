"""Run the labs and render them to HTML, outputs included. Started by `./convoy labs`."""

import difflib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from notebooks.runner import page, source
from notebooks.runner.execute import Execution, execute
from notebooks.runner.source import Cell, Notebook, NotebookError
from pipelines import cli
from pipelines.errors import ConfigError
from pipelines.launch.session import open_session
from pipelines.system import paths
from pipelines.system.secrets import mask

FOLDER = Path(__file__).parents[1]
_RENAMED = {"06_distributed_road": "06_distributed_pipeline"}


def main(arguments: Sequence[str]) -> None:
    parser = cli.Parser(prog="./convoy labs", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", metavar="NAME", nargs="*", help="a lab's number, name or file (default: all labs)")
    parser.add_argument("--set", metavar="WIDGET=VALUE", action="append", default=[], help="a widget's value, such as epochs=2")
    parser.add_argument("--out", metavar="FOLDER", default="labs", help="the folder for the pages (default: labs)")
    parser.add_argument("--list", action="store_true", help="list the labs and their widgets without running them")
    options = parser.parse_args(arguments)
    notebooks = select(options.names, labs())
    widgets = parse_widgets(options.set, notebooks)
    if options.list:
        for notebook in notebooks:
            print(f"{notebook.name:<24} {notebook.title}  [{', '.join(notebook.widgets())}]")
        return
    folder = paths.to_python(options.out, "--out ")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out}: cannot be created ({error.strerror}); name another folder") from error
    executions = run(notebooks, widgets, folder)
    failed = [execution.error for execution in executions if execution.error]
    if len(executions) > 1:
        (folder / "index.html").write_text(page.render_index(executions), encoding="utf-8")
        print(f"index: {paths.display(folder / 'index.html')}")
    if failed:
        raise NotebookError("; ".join(map(str, failed)))


def labs(folder: Path = FOLDER) -> list[Notebook]:
    """The notebooks of a folder, sorted by name."""
    return [source.read(path) for path in sorted(folder.glob("*.py"))]


def select(names: Sequence[str], notebooks: Sequence[Notebook]) -> list[Notebook]:
    """The notebooks selected by name, number, part of the name, or path; all if none is named.

    Raises:
        ConfigError: a name matches no notebook, or more than one.
    """
    selected = []
    for name in names:
        stem = _RENAMED.get(Path(name).stem, Path(name).stem)
        matches = [notebook for notebook in notebooks if notebook.name == stem] or [
            notebook for notebook in notebooks if notebook.name.startswith(f"{name.zfill(2)}_") or stem in notebook.name
        ]
        if len(matches) == 1:
            selected += matches
            continue
        known = [notebook.name for notebook in matches or notebooks]
        near = difflib.get_close_matches(stem, known, n=1)
        hint = f"did you mean {near[0]}?" if near and not matches else f"there are {', '.join(known)}"
        raise ConfigError(f"{name}: {'matches more than one lab' if matches else 'matches no lab'}; {hint}")
    return list(dict.fromkeys(selected)) or list(notebooks)


def parse_widgets(settings: Sequence[str], notebooks: Sequence[Notebook]) -> dict[str, str]:
    """Parse `name=value` texts.

    Raises:
        ConfigError: a name is not a widget of any of the notebooks.
    """
    known = list(dict.fromkeys(name for notebook in notebooks for name in notebook.widgets()))
    values = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if equals and near else f"must be WIDGET=VALUE with one of {', '.join(known)}"
            raise ConfigError(f"--set {text}: no such widget; {hint}")
        values[name] = value
    return values


def run(notebooks: Sequence[Notebook], widgets: Mapping[str, str], folder: Path) -> list[Execution]:
    """Run notebooks in sequence in one Spark session, and write a page for each to `folder`.

    The others still run if one of them fails.
    """
    executions = []
    with open_session("convoy-labs") as spark:
        for notebook in notebooks:
            execution = execute(notebook, spark, widgets, _Progress(notebook))
            target = folder / page.file_name(notebook)
            target.write_text(page.render(execution, notebooks), encoding="utf-8")
            outcome = str(execution.error) if execution.error else f"{execution.seconds:.0f} s"
            print(mask(f"{notebook.name}: {outcome}: {paths.display(target)}"), flush=True)
            executions.append(execution)
    return executions


class _Progress:
    """Shows on a terminal which cell is running; prints nothing elsewhere."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._started = time.monotonic()

    def __call__(self, cell: Cell) -> None:
        if sys.stdout.isatty():
            count, seconds = self._notebook.cells[-1].number, time.monotonic() - self._started
            sys.stdout.write(f"{self._notebook.name}: cell {cell.number} of {count}, {seconds:.0f} s\x1b[K\r")
            sys.stdout.flush()


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
