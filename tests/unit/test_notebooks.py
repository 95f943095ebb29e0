"""Static checks of every lab. For running them see tests/e2e/test_labs.py."""

import ast
import re
from pathlib import Path

import pytest

from notebooks.runner import __main__ as command
from notebooks.runner import source

ROOT = Path(__file__).parents[2]
LABS = command.labs()
# Labs with a table and a network of their own.
OWN_NETWORKS = ("08_own_table", "09_starting_from_weights")
MAY_IMPORT = {"pipelines", "itertools", "keras", "matplotlib", "mlflow", "numpy", "pandas", "pyspark", "sklearn"}
each_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)


def statements(lab):
    for cell in lab.cells:
        if cell.kind == "python":
            yield from ast.walk(source.parse(lab, cell))


def text_of(lab):
    return "\n".join(cell.text for cell in lab.cells if cell.kind == "markdown")


def test_there_is_a_numbered_lab_for_each_step_of_the_course():
    assert [lab.name for lab in LABS] == [
        "01_perceptron",
        "02_convnet",
        "03_second_layer",
        "04_dropout",
        "05_optimizers",
        "06_distributed_pipeline",
        "07_reading_a_run",
        "08_own_table",
        "09_starting_from_weights",
    ]
    assert [lab.title.split(":")[0] for lab in LABS] == [f"Lab {number}" for number in range(1, 10)]


@each_lab
def test_a_lab_defines_nothing_but_networks(lab):
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    definitions = [node for node in statements(lab) if isinstance(node, defined)]
    networks = [node for node in definitions if isinstance(node, ast.FunctionDef) and node.args.args[0].arg == "spec"]
    assert [ast.unparse(node)[:60] for node in definitions if node not in networks] == []
    assert not networks or lab.name in OWN_NETWORKS


@each_lab
def test_a_lab_imports_only_the_library_and_what_every_student_knows(lab):
    modules = {alias.name for node in statements(lab) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in statements(lab) if isinstance(node, ast.ImportFrom)}
    assert "pipelines.launch" in modules
    assert {module.split(".")[0] for module in modules} <= MAY_IMPORT
    private = [alias.name for node in statements(lab) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert not [name for name in private if name.startswith("_")]
    assert not [node.attr for node in statements(lab) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]


@each_lab
def test_a_lab_begins_with_a_text_and_then_its_widgets(lab):
    assert [cell.kind for cell in lab.cells[:2]] == ["markdown", "python"]
    own_data = set() if lab.name in OWN_NETWORKS else {"data"}
    assert {"epochs", "workers", "storage"} | own_data <= set(lab.widgets())
    in_second = [node for node in ast.walk(source.parse(lab, lab.cells[1])) if isinstance(node, ast.Call)]
    assert len(lab.widgets()) == len(in_second)


@each_lab
def test_a_lab_explains_more_than_it_computes_and_has_exercises(lab):
    words = len(re.findall(r"\w+", text_of(lab)))
    code = sum(len(cell.text.splitlines()) for cell in lab.cells if cell.kind == "python")
    assert words > 500
    assert words > 3 * code
    if lab is not LABS[-1]:
        assert "\n## Try it\n" in text_of(lab)


@each_lab
def test_files_named_in_the_text_exist(lab):
    named = re.findall(r"`((?:pipelines|conf|notebooks|jobs)/[\w./-]+)`", text_of(lab))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_nothing_in_the_library_imports_the_notebooks():
    importing = re.compile(r"^\s*(from|import) notebooks", re.M)
    assert [path for path in (ROOT / "pipelines").rglob("*.py") if importing.search(path.read_text())] == []
