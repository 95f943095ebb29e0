"""Run the cells of a notebook in order and collect their outputs."""

import ast
import contextlib
import os
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from notebooks.runner import outputs, runtime, source
from notebooks.runner.outputs import CellError, Output, Text
from notebooks.runner.source import Cell, Notebook, NotebookError
from pipelines.errors import ConvoyError


@dataclass
class CellResult:
    cell: Cell
    outputs: list[Output] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, output: Output) -> None:
        last = self.outputs[-1] if self.outputs else None
        if isinstance(output, Text) and isinstance(last, Text) and output.stream == last.stream != "result":
            self.outputs[-1] = Text(last.text + output.text, output.stream)
        else:
            self.outputs.append(output)


@dataclass
class Execution:
    """The result of running a notebook."""

    notebook: Notebook
    results: list[CellResult] = field(default_factory=list)
    """One per cell, up to an error or `dbutils.notebook.exit`."""
    widgets: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: NotebookError | None = None


def execute(
    notebook: Notebook, spark: Any, widgets: Mapping[str, str] | None = None, report: Callable[[Cell], None] = lambda cell: None
) -> Execution:
    """Run a notebook in this process, in its own namespace.

    An error ends it and is stored in the result as NOTEBOOK:CELL:LINE and the reason. An interrupt propagates.

    Args:
        notebook: from `source.read`.
        spark: the global `spark` of its cells.
        widgets: values that override the widgets' defaults.
        report: called with each code cell before it runs.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    started = time.monotonic()
    execution = Execution(notebook)
    runner = _Runner(notebook, runtime.Widgets(widgets or {}), spark)
    for cell in notebook.cells:
        result = CellResult(cell)
        execution.results.append(result)
        if cell.kind == "markdown":
            continue
        report(cell)
        try:
            runner.run(cell, result)
        except runtime.Exit as end:
            result.add(Text(f"the notebook ends here: {end}", "result"))
            break
        except NotebookError as error:
            execution.error = error
            break
    execution.widgets = runner.widgets.getAll()
    execution.seconds = time.monotonic() - started
    return execution


class _Runner:
    def __init__(self, notebook: Notebook, widgets: runtime.Widgets, spark: Any) -> None:
        self.widgets = widgets
        self._notebook = notebook
        self._spark = spark
        self._namespace: dict[str, Any] = {"__name__": "__main__", **runtime.cell_globals(widgets, spark, self._emit)}
        self._result = CellResult(Cell(0, "python", "", 0))

    def _emit(self, output: Output) -> None:
        self._result.add(output)

    def run(self, cell: Cell, result: CellResult) -> None:
        self._result = result
        started = time.monotonic()
        streams = outputs.Stream("stdout", self._emit), outputs.Stream("stderr", self._emit)
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]), warnings.catch_warnings():
                # plt.show() has no effect here; the figure is added at the end of its cell.
                warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
                if cell.kind == "sql":
                    self._emit(outputs.displayed(self._spark.sql(cell.text)))
                else:
                    self._run_python(cell)
                for figure in outputs.open_figures():
                    self._emit(figure)
        except Exception as error:
            raise self._with_location(cell, error) from error
        finally:
            result.seconds = time.monotonic() - started

    def _run_python(self, cell: Cell) -> None:
        tree = source.parse(self._notebook, cell)
        last = tree.body[-1] if tree.body else None
        statements = tree.body
        if isinstance(last, ast.Expr) and not cell.text.rstrip().endswith(";"):
            statements = tree.body[:-1]
        exec(self._compile(ast.Module(statements, [])), self._namespace)
        if statements is not tree.body and isinstance(last, ast.Expr):
            value = eval(self._compile(ast.Expression(last.value)), self._namespace)
            if value is not None:
                self._emit(outputs.result(value))

    def _compile(self, tree: ast.Module | ast.Expression) -> Any:
        return compile(tree, str(self._notebook.path), "exec" if isinstance(tree, ast.Module) else "eval")

    def _with_location(self, cell: Cell, error: Exception) -> NotebookError:
        """The error with the line of the cell that caused it. Its traceback becomes an output of the cell."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [i for i, frame in enumerate(frames) if frame.filename == str(self._notebook.path)]
        trimmed = traceback.TracebackException.from_exception(error)
        trimmed.stack = traceback.StackSummary.from_list(frames[own[0] :] if own else [])
        self._emit(CellError(str(error) if isinstance(error, ConvoyError) else "".join(trimmed.format(chain=False))))
        line = (frames[own[-1]].lineno or 1) - cell.first_line + 1 if own else 1
        reason = str(error) if isinstance(error, ConvoyError) else f"{type(error).__name__}: {error}".split("\n", 1)[0]
        return NotebookError(f"{source.location(self._notebook.name, cell.number, line)}: {reason}")
