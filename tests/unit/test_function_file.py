"""A function of a notebook becomes a file that can be imported without the notebook."""

import importlib.util
import linecache
import types

import pytest
from support import synthetic

from pipelines.errors import ConfigError
from pipelines.launch import function_file

CELLS = (
    """
import collections
import math as m
from os import path
from fractions import Fraction as F

WIDTH, NAMES = 3, ("a", "b")
frame = object()

def scale(value):
    return m.sqrt(value) * WIDTH

class Base:
    def __init__(self):
        self.names = NAMES
""",
    """
class Layer(Base):
    def width(self):
        return scale(4)

def even(number):
    return number == 0 or odd(number - 1)

def odd(number):
    return number != 0 and even(number - 1)

LOSS = "huber"
""",
    '''
def network(spec, outputs, frame=None, *, factor=WIDTH):
    """What it gives is easy to compare."""
    layer = Layer()
    total = sum(len(name) for name in layer.names)
    return layer.width() * factor + total, F(1, 2), path.join("a", "b"), even(4), collections.Counter(spec)

def by_frame():
    return frame
''',
)


@pytest.fixture
def notebook(tmp_path):
    """The names that the cells define, as a notebook does: the text of a cell is known to `linecache` alone."""
    names = {"__name__": "__main__"}
    for number, text in enumerate(CELLS):
        cell = f"<cell {tmp_path.name} {number}>"
        linecache.cache[cell] = len(text), None, text.splitlines(keepends=True), cell
        exec(compile(text, cell, "exec"), names)
    return types.SimpleNamespace(**names)


def imported(location):
    file, _, name = location.rpartition(":")
    spec = importlib.util.spec_from_file_location("imported", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name), module


def test_the_file_of_a_function_has_what_it_uses_of_earlier_cells_and_nothing_else(notebook, tmp_path):
    location = function_file.location(notebook.network, tmp_path / "networks")
    function, module = imported(location)
    assert function("abb", 1) == notebook.network("abb", 1)
    assert module.LOSS == "huber"
    assert not hasattr(module, "frame")
    assert not hasattr(module, "by_frame")


def test_the_same_function_is_written_once(notebook, tmp_path):
    assert function_file.location(notebook.network, tmp_path) == function_file.location(notebook.network, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_function_of_a_module_is_named_where_it_is():
    assert function_file.location(synthetic.write_table, None) == "support.synthetic:write_table"
    assert function_file.location(imported, None) == f"{__file__}:imported"


def nested():
    def inside(spec, outputs):
        return None

    return inside


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda spec, outputs: None, "network <lambda>: must be a function with a name"),
        (nested(), "network nested.<locals>.inside: must be a function with a name, defined by itself"),
        (len, "network len: must be a function with a name"),
        ("convnet", "network 'convnet': must be a function with a name"),
    ],
)
def test_what_no_module_can_define_is_one_line(function, reason, tmp_path):
    with pytest.raises(ConfigError) as failure:
        function_file.location(function, tmp_path)
    assert str(failure.value).startswith(reason)
    assert "\n" not in str(failure.value)


def test_a_value_that_no_file_can_hold_is_one_line(notebook, tmp_path):
    with pytest.raises(ConfigError, match=r"^network by_frame: uses frame, a object, which no file can hold"):
        function_file.location(notebook.by_frame, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_function_whose_text_is_gone_is_one_line(notebook, tmp_path):
    linecache.cache.clear()
    with pytest.raises(ConfigError, match=r'^network network: the text of network cannot be found; .* "network\.py:network"$'):
        function_file.location(notebook.network, tmp_path)
