"""Render a notebook with its outputs as a self-contained HTML file, for reading and printing."""

import base64
import html
import time
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, SqlLexer

from notebooks.runner.execute import CellResult, Execution
from notebooks.runner.outputs import CellError, Html, ImageOutput, Output, Text
from notebooks.runner.source import Cell, Notebook
from pipelines.system.secrets import mask

_STYLE = Path(__file__).with_name("page.css")
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_CODE = HtmlFormatter(style="xcode", nowrap=True)
_INDEX = "index.html"


def file_name(notebook: Notebook) -> str:
    return f"{notebook.name}.html"


def render(execution: Execution, siblings: Sequence[Notebook] = ()) -> str:
    """The page of one notebook, without credentials in its texts.

    Args:
        execution: the notebook's results. After an error, the page ends at the failed cell.
        siblings: all notebooks with a page in the same folder, in order, including this one.
    """
    notebook = execution.notebook
    parts = [_navigation(notebook, siblings) if len(siblings) > 1 else ""]
    parts += [_cell(result) for result in execution.results]
    widgets = mask(", ".join(f"{name}={value or '(empty)'}" for name, value in execution.widgets.items()))
    parts.append(
        f"<footer>{_error(execution)}notebooks/{html.escape(notebook.path.name)}, run in {execution.seconds:.0f} s on "
        f"{time.strftime('%Y-%m-%d')}{html.escape(' with ' + widgets if widgets else '')}</footer>"
    )
    return _document(mask(notebook.title), "\n".join(parts))


def render_index(executions: Sequence[Execution]) -> str:
    """A page with links to the others."""
    rows = "\n".join(
        f'<li><a href="{file_name(execution.notebook)}">{_title(execution.notebook)}</a> {_error(execution)}</li>'
        for execution in executions
    )
    return _document("Labs", f"<h1>Labs</h1>\n<ul>\n{rows}\n</ul>")


def _document(title: str, body: str) -> str:
    style = _STYLE.read_text(encoding="utf-8") + _CODE.get_style_defs(".code")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}\n</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _navigation(notebook: Notebook, siblings: Sequence[Notebook]) -> str:
    index = next(i for i, other in enumerate(siblings) if other.name == notebook.name)
    previous = siblings[index - 1] if index > 0 else None
    following = siblings[index + 1] if index + 1 < len(siblings) else None
    links = (
        f'<a href="{file_name(previous)}">← {_title(previous)}</a>' if previous else "<span></span>",
        f'<a href="{_INDEX}">all labs</a>',
        f'<a href="{file_name(following)}">{_title(following)} →</a>' if following else "<span></span>",
    )
    return f"<nav>{''.join(links)}</nav>"


def _title(notebook: Notebook) -> str:
    return html.escape(mask(notebook.title))


def _error(execution: Execution) -> str:
    return f'<span class="failed">{html.escape(mask(str(execution.error)))}</span> ' if execution.error else ""


def _cell(result: CellResult) -> str:
    cell = result.cell
    title = f'<div class="title">{html.escape(mask(cell.title))}</div>' if cell.title else ""
    if cell.kind == "markdown":
        return f'<section id="cell-{cell.number}">{title}{_MARKDOWN.render(mask(cell.text))}</section>'
    outputs = "".join(_output(output) for output in result.outputs)
    code = f'<div class="code"><pre>{_code(cell)}</pre></div>'
    return f'<section class="cell" id="cell-{cell.number}">{title}{code}{outputs}</section>'


def _code(cell: Cell) -> str:
    lexer = SqlLexer() if cell.kind == "sql" else PythonLexer()
    code: str = highlight(mask(cell.text.strip("\n")), lexer, _CODE)
    return code


def _output(output: Output) -> str:
    match output:
        case Text(text, stream):
            return f'<div class="output"><pre class="{stream}">{html.escape(mask(_as_on_terminal(text)))}</pre></div>'
        case Html(markup):
            return f'<div class="output">{mask(markup)}</div>'
        case ImageOutput(png, description):
            source = base64.b64encode(png).decode()
            alternative = html.escape(mask(description), quote=True)
            return f'<div class="output"><img src="data:image/png;base64,{source}" alt="{alternative}"></div>'
        case CellError(traceback):
            return f'<div class="output failure"><pre>{html.escape(mask(traceback))}</pre></div>'


def _as_on_terminal(text: str) -> str:
    """Text as a terminal would show it: a carriage return, as used by progress bars, overwrites what precedes it."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n"))
