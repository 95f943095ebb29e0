"""Databricks' source format: a Python file divided into cells by comments.

    # Databricks notebook source      the first line, which marks the file as a notebook
    # DBTITLE 1,Title                 a cell's title
    # MAGIC %md                       a cell in another language; every line begins with `# MAGIC`
    # COMMAND ----------              separates two cells

Source: https://docs.databricks.com/en/notebooks/notebook-export-import.html.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.errors import ConvoyError

FIRST_LINE = "# Databricks notebook source"
_SEPARATOR = "# COMMAND ----------"
_MAGIC = "# MAGIC"
_TITLE = re.compile(r"# DBTITLE \d+,(.*)")
_HEADING = re.compile(r"#+\s+(.+)")
_KINDS: dict[str, "Kind"] = {"md": "markdown", "md-sandbox": "markdown", "python": "python", "sql": "sql"}
_UNSUPPORTED = {
    "run": "import what the other notebook defines from a package",
    "pip": "packages come from ./convoy setup, and on a cluster from its libraries",
}

_WIDGETS = ("text", "dropdown", "combobox", "multiselect")

Kind = Literal["markdown", "python", "sql"]


class NotebookError(ConvoyError):
    """A notebook is malformed, or one of its cells failed. The message begins `NOTEBOOK:CELL:LINE: `."""


@dataclass(frozen=True)
class Cell:
    number: int
    """From 1."""
    kind: Kind
    text: str
    first_line: int
    """Line of the file, from 1, at which `text` begins."""
    title: str = ""


@dataclass(frozen=True)
class Notebook:
    path: Path
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def title(self) -> str:
        """The first heading, or the name if there is none."""
        texts = (cell.text for cell in self.cells if cell.kind == "markdown")
        headings = (_HEADING.match(line) for text in texts for line in text.splitlines())
        return next((heading.group(1) for heading in headings if heading), self.name)

    def widgets(self) -> tuple[str, ...]:
        """Names of the widgets that its cells create, in order."""
        names: list[str] = []
        for cell in self.cells:
            for node in ast.walk(parse(self, cell)) if cell.kind == "python" else ():
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Attribute(attr="widgets"), attr=method),
                        args=[ast.Constant(value=str(name)), *_],
                    ) if method in _WIDGETS:
                        names.append(name)
        return tuple(dict.fromkeys(names))


def read(path: Path) -> Notebook:
    """Read a notebook. Raises NotebookError if the file is not one, or has a cell that cannot be run here."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotebookError(f"{path}: cannot be read ({error})") from error
    if not lines or lines[0].rstrip() != FIRST_LINE:
        raise NotebookError(f"{path}: not a notebook: its first line must be '{FIRST_LINE}'")
    cells: list[Cell] = []
    start = 1
    for end in [*(i for i, line in enumerate(lines) if line.rstrip() == _SEPARATOR), len(lines)]:
        cell = _cell(path, len(cells) + 1, lines[start:end], start + 1)
        if cell is not None:
            cells.append(cell)
        start = end + 1
    notebook = Notebook(path, tuple(cells))
    for cell in notebook.cells:
        if cell.kind == "python":
            parse(notebook, cell)
    return notebook


def parse(notebook: Notebook, cell: Cell) -> ast.Module:
    """A Python cell's syntax tree with the line numbers of the file. Raises NotebookError if it is not Python."""
    try:
        tree = ast.parse(cell.text, str(notebook.path))
    except SyntaxError as error:
        raise NotebookError(f"{location(notebook.name, cell.number, error.lineno or 1)}: SyntaxError: {error.msg}") from error
    return ast.increment_lineno(tree, cell.first_line - 1)


def location(name: str, cell: int, line: int) -> str:
    """A location: notebook, number of the cell, line within the cell."""
    return f"{name}:{cell}:{line}"


def _cell(path: Path, number: int, lines: list[str], first_line: int) -> Cell | None:
    title = ""
    while lines and not lines[0].strip():
        lines, first_line = lines[1:], first_line + 1
    if lines and (match := _TITLE.fullmatch(lines[0].rstrip())):
        title = match.group(1).strip()
        lines, first_line = lines[1:], first_line + 1
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    if not lines:
        return None
    is_magic = [line == _MAGIC or line.startswith(_MAGIC + " ") for line in lines]
    if not any(is_magic):
        return Cell(number, "python", "\n".join(lines), first_line, title)
    if not all(is_magic):
        odd = is_magic.index(not is_magic[0])
        raise NotebookError(f"{location(path.stem, number, odd + 1)}: '{_MAGIC}' lines and Python in one cell; split it in two")
    plain = [line[len(_MAGIC) + 1 :] for line in lines]
    command, _, rest = plain[0].partition(" ")
    kind = _KINDS.get(command.removeprefix("%")) if command.startswith("%") else None
    if kind is None:
        remedy = _UNSUPPORTED.get(command.removeprefix("%"), f"use one of {', '.join('%' + name for name in _KINDS)}")
        raise NotebookError(f"{location(path.stem, number, 1)}: {command} cannot be run here; {remedy}")
    # The rest of the command's line, mostly empty, preserves the line numbers below it.
    return Cell(number, kind, "\n".join([rest, *plain[1:]]), first_line, title)
