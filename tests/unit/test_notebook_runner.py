"""The notebook runner, tested on small notebooks. For the labs themselves see tests/e2e/test_labs.py."""

import html.parser
import re
import textwrap

import pytest

from notebooks.runner import __main__ as command
from notebooks.runner import page, source
from notebooks.runner.execute import execute
from notebooks.runner.outputs import CellError, Html, ImageOutput, Text
from notebooks.runner.source import NotebookError
from pipelines.errors import ConfigError

SEPARATOR = "\n\n# COMMAND ----------\n\n"


def write(folder, *cells, name="05_note"):
    path = folder / f"{name}.py"
    texts = (textwrap.dedent(cell).strip("\n") for cell in cells)
    path.write_text(f"{source.FIRST_LINE}\n" + SEPARATOR.join(texts) + "\n")
    return path


def run(folder, *cells, widgets=None, spark=None):
    return execute(source.read(write(folder, *cells)), spark, widgets)


def shown(execution, cell):
    return execution.results[cell - 1].outputs


class FakeSpark:
    """Returns the text of each SQL query as its result."""

    sparkContext = "the context"

    def sql(self, text):
        return text.strip()


# The format


def test_a_file_is_split_into_cells_with_kinds_titles_and_line_numbers(tmp_path):
    path = write(
        tmp_path,
        "# MAGIC %md\n# MAGIC # Hello\n# MAGIC\n# MAGIC world",
        "# DBTITLE 1,Numbers\nx = 1\ny = 2",
        "# MAGIC %sql select 1",
    )
    notebook = source.read(path)
    assert [(cell.number, cell.kind, cell.text.strip(), cell.title) for cell in notebook.cells] == [
        (1, "markdown", "# Hello\n\nworld", ""),
        (2, "python", "x = 1\ny = 2", "Numbers"),
        (3, "sql", "select 1", ""),
    ]
    assert path.read_text().splitlines()[notebook.cells[1].first_line - 1] == "x = 1"
    assert notebook.title == "Hello"


def test_empty_cells_are_ignored(tmp_path):
    assert [cell.text for cell in source.read(write(tmp_path, "a = 1", "", "b = 2")).cells] == ["a = 1", "b = 2"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["x = 1", "# MAGIC %run ./other"], r"^05_note:2:1: %run cannot be run here; import what the other notebook defines"),
        (["# MAGIC %pip install torch"], r"^05_note:1:1: %pip cannot be run here; packages come from \./convoy setup"),
        (["# MAGIC %scala\n# MAGIC val x = 1"], r"^05_note:1:1: %scala cannot be run here; use one of %md, .*%sql$"),
        (["x = 1\n# MAGIC %pip install y"], r"^05_note:1:2: '# MAGIC' lines and Python in one cell; split it in two$"),
        (["x = 1", "y = 2\nz = ("], r"^05_note:2:2: SyntaxError: "),
    ],
)
def test_an_unsupported_cell_is_refused_with_its_location_before_anything_runs(tmp_path, cells, message):
    with pytest.raises(NotebookError, match=message):
        source.read(write(tmp_path, *cells))


def test_a_plain_python_file_is_not_a_notebook(tmp_path):
    (tmp_path / "plain.py").write_text("x = 1\n")
    with pytest.raises(NotebookError, match=r"plain\.py: not a notebook: its first line must be '# Databricks notebook source'$"):
        source.read(tmp_path / "plain.py")


# Running


def test_cells_share_a_namespace_and_each_outputs_its_prints_and_its_last_value(tmp_path):
    execution = run(
        tmp_path, "x = 20\nprint('one')\nprint('two')\nx + 1", "x = x + 2", "x", "x;", "# MAGIC %md\n# MAGIC text", "None"
    )
    assert execution.error is None
    assert shown(execution, 1) == [Text("one\ntwo\n", "stdout"), Text("21", "result")]
    assert shown(execution, 3) == [Text("22", "result")]
    assert [shown(execution, cell) for cell in (2, 4, 5, 6)] == [[], [], [], []]


def test_displayed_values_keep_their_position_among_the_prints(tmp_path):
    (cell,) = run(
        tmp_path, "print('a')\ndisplayHTML('<b>h</b>')\nimport sys\nsys.stderr.write('e')\ndisplay([1])\nprint('b')"
    ).results
    assert cell.outputs == [
        Text("a\n", "stdout"),
        Html("<b>h</b>"),
        Text("e", "stderr"),
        Text("[1]", "result"),
        Text("b\n", "stdout"),
    ]


def test_pyplot_figures_and_displayed_figures_are_each_output_once(tmp_path):
    execution = run(
        tmp_path,
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('rising')\nplt.show()",
        "from matplotlib.figure import Figure\nfigure = Figure()\nfigure.suptitle('mine')\ndisplay(figure)",
        "figure",
    )
    for cell, description in ((1, "rising"), (2, "mine"), (3, "mine")):
        (picture,) = (output for output in shown(execution, cell) if isinstance(output, ImageOutput))
        assert picture.png.startswith(b"\x89PNG")
        assert picture.description == description
    assert not [output for output in shown(execution, 1) if isinstance(output, Text) and output.stream != "result"]


def test_tables_are_truncated_and_escaped(tmp_path):
    execution = run(
        tmp_path, "import pandas as pd\nframe = pd.DataFrame({'name': ['<i>'] * 30})\ndisplay(frame)", "frame.head(2)"
    )
    (displayed,), (value,) = shown(execution, 1), shown(execution, 2)
    assert displayed.html.count("&lt;i&gt;") == 20
    assert "the first 20 rows" in displayed.html
    assert "<th>1</th>" in value.html
    assert "<th>1</th>" not in displayed.html


def test_the_globals_of_a_databricks_cell_are_defined(tmp_path):
    execution = run(
        tmp_path, "sc, __name__", "# MAGIC %sql\n# MAGIC select 1", "# MAGIC %python\n# MAGIC 1 + 1", spark=FakeSpark()
    )
    assert [shown(execution, cell) for cell in (1, 2, 3)] == [
        [Text("('the context', '__main__')", "result")],
        [Text("'select 1'", "result")],
        [Text("2", "result")],
    ]


def test_widgets_are_strings_whose_defaults_can_be_overridden(tmp_path):
    cells = (
        "dbutils.widgets.text('epochs', '3', 'Epochs')\ndbutils.widgets.dropdown('mode', 'a', ['a', 'b'])",
        "dbutils.widgets.multiselect('some', 'x', ['x', 'y'])\ndbutils.widgets.getAll()",
        "dbutils.widgets.get('epochs')",
    )
    assert run(tmp_path, *cells).widgets == {"epochs": "3", "mode": "a", "some": "x"}
    execution = run(tmp_path, *cells, widgets={"epochs": "1", "mode": "b", "some": "x,y"})
    assert execution.widgets == {"epochs": "1", "mode": "b", "some": "x,y"}
    assert shown(execution, 3) == [Text("'1'", "result")]
    assert source.read(write(tmp_path, *cells)).widgets() == ("epochs", "mode", "some")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("dbutils.widgets.dropdown('mode', 'c', ['a', 'b'])", "ValueError: widget mode=c: must be one of a, b"),
        ("dbutils.widgets.get('mode')", r"no widget 'mode'; must be one of \(none\)"),
        ("dbutils.fs.ls('/')", r"AttributeError: dbutils\.fs exists only on Databricks"),
        ("spark.table('x')", "AttributeError: "),
    ],
)
def test_invalid_calls_and_databricks_only_features_raise_an_explanation(tmp_path, cell, reason):
    assert re.search(f"^05_note:1:1: .*{reason}", str(run(tmp_path, cell).error))


def test_an_error_names_notebook_cell_and_line_and_ends_the_notebook(tmp_path):
    execution = run(tmp_path, "x = 0", "# DBTITLE 1,Broken\nprint('before')\n\n1 / x", "print('never')")
    assert str(execution.error) == "05_note:2:3: ZeroDivisionError: division by zero"
    before, failure = shown(execution, 2)
    assert before == Text("before\n", "stdout")
    assert isinstance(failure, CellError)
    assert "1 / x" in failure.traceback
    assert "execute.py" not in failure.traceback
    assert len(execution.results) == 2


def test_an_error_inside_a_library_is_located_at_the_line_that_called_it(tmp_path):
    error = run(tmp_path, "import json\n\njson.loads(\n    '{'\n)").error
    assert str(error).startswith("05_note:1:3: JSONDecodeError: ")


def test_an_expected_error_is_shown_without_a_traceback(tmp_path):
    execution = run(tmp_path, "from pipelines.config import loader\nloader.load(None, ['training.epochs=0'])")
    assert str(execution.error) == "05_note:1:2: training.epochs=0: must be at least 1"
    assert shown(execution, 1) == [CellError("training.epochs=0: must be at least 1")]


def test_exit_ends_the_notebook_without_an_error(tmp_path):
    execution = run(tmp_path, "try:\n    dbutils.notebook.exit('enough')\nexcept Exception:\n    pass", "print('never')")
    assert execution.error is None
    assert shown(execution, 1) == [Text("the notebook ends here: enough", "result")]
    assert len(execution.results) == 1


def test_an_interrupt_propagates(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "raise KeyboardInterrupt")


# The page


class Elements(html.parser.HTMLParser):
    """Collects tags with their attributes, and asserts that they are properly nested."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.found, self._open = [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_is_self_contained_and_escapes_printed_text(tmp_path):
    execution = run(
        tmp_path,
        "# MAGIC %md\n# MAGIC # A title\n# MAGIC\n# MAGIC | a | b |\n# MAGIC |---|---|\n# MAGIC | 1 | 2 |",
        "print('<script>alert(1)</script>')\nprint('10 %\\r90 %')",
        "import matplotlib.pyplot as plt\nplt.plot([1]);",
    )
    text = page.render(execution)
    elements = Elements(text).found
    tags = [tag for tag, _ in elements]
    assert {"table", "h1", "img", "style", "title"} <= set(tags)
    assert "script" not in tags
    assert "&lt;script&gt;" in text
    assert "\n90 %</pre>" in text
    (image,) = (attributes for tag, attributes in elements if tag == "img")
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"]
    assert not [attributes for _, attributes in elements if "href" in attributes]
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_of_a_failed_notebook_shows_where_it_stopped(tmp_path):
    text = page.render(run(tmp_path, "x = 1", "x / 0", "print('never')"))
    assert "ZeroDivisionError" in text
    assert "05_note:2:1" in text
    assert "never" not in text


# The command


@pytest.fixture
def notebooks(tmp_path):
    widget = "dbutils.widgets.text('{}', '', '')"
    first = write(tmp_path, widget.format("epochs"), name="01_perceptron")
    second = write(tmp_path, widget.format("optimizers"), name="02_convnet")
    return [source.read(first), source.read(second)]


@pytest.mark.parametrize("name", ["2", "02", "convnet", "02_convnet", "notebooks/02_convnet.py"])
def test_a_lab_is_selected_by_number_name_or_file(notebooks, name):
    assert [notebook.name for notebook in command.select([name], notebooks)] == ["02_convnet"]


def test_the_former_name_of_a_lab_still_selects_it(notebooks, tmp_path):
    notebooks.append(source.read(write(tmp_path, "x = 1", name="06_distributed_pipeline")))
    for name in ("06_distributed_road", "notebooks/06_distributed_road.py"):
        assert [notebook.name for notebook in command.select([name], notebooks)] == ["06_distributed_pipeline"]


def test_all_labs_are_selected_by_default_and_a_wrong_name_gets_a_hint(notebooks):
    assert command.select([], notebooks) == notebooks
    with pytest.raises(ConfigError, match=r"^02_convnat: matches no lab; did you mean 02_convnet"):
        command.select(["02_convnat"], notebooks)
    with pytest.raises(ConfigError, match=r"^0: matches more than one lab; there are 01_perceptron, 02_convnet$"):
        command.select(["0"], notebooks)


def test_a_widget_that_no_selected_lab_has_is_refused(notebooks):
    assert command.parse_widgets(["epochs=1", "optimizers=a=b"], notebooks) == {"epochs": "1", "optimizers": "a=b"}
    with pytest.raises(ConfigError, match=r"^--set epoch=1: no such widget; did you mean epochs"):
        command.parse_widgets(["epoch=1"], notebooks)
    with pytest.raises(ConfigError, match=r"^--set optimizers=adam: no such widget; must be WIDGET=VALUE with one of epochs"):
        command.parse_widgets(["optimizers=adam"], notebooks[:1])
