import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.formats import libsvm_decimal
from pipelines.data.formats.libsvm_line import Row, Rules, parse_line

CLASSES = Rules(shape=(6,), value_range=(-1e37, 1e37), labels=(1, -1, 3))
NUMBERS = Rules(shape=(6,), value_range=(-1000.0, 1000.0), labels=(), num_targets=1)

ends = st.sampled_from(["", " ", "  ", "\r", " \r"])
odd_numbers = "1 -1 +1 1. .5 1e5 1E-5 1e+05 -0.0 007 1e400 1e nan inf 1-2 0x1".split()
numbers = st.one_of(
    st.floats(allow_nan=False).map(repr), st.floats(-100, 100).map("{:.6g}".format), st.sampled_from([*odd_numbers, ""])
)
indices = st.sampled_from([*"1 2 3 4 6 0 7 07 +2 -1 1.5 2e0 99999999999".split(), ""])
entries = st.tuples(indices, numbers)
lines = st.builds(
    lambda target, pairs, separator, end: (separator.join([target, *(f"{i}:{v}" for i, v in pairs)]) + end).encode(),
    numbers,
    st.lists(entries, max_size=4),
    st.sampled_from([" ", " ", " ", "  ", "\t", ":", ""]),
    ends,
)
good = st.builds(
    lambda target, values: f"{target} {' '.join(f'{i + 1}:{value!r}' for i, value in enumerate(values))}".encode(),
    st.sampled_from(["1", "-1", "3.0", "1e0"]),
    st.lists(st.floats(-1000, 1000), max_size=6),
)


@pytest.mark.parametrize("rules", [CLASSES, NUMBERS, dataclasses.replace(CLASSES, any_label=True, first_index=0)])
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.one_of(good, lines), max_size=6))
def test_what_is_taken_at_once_is_what_the_parser_of_single_lines_makes_of_it(rules, texts):
    found = libsvm_decimal.read(texts, rules)
    for number, line in enumerate(found.lines.tolist()):
        row = parse_line(texts[line], rules)
        assert isinstance(row, Row)
        pairs = found.line_of_pair == number
        assert np.ravel(found.targets[number]).tolist() == np.ravel(row.target).tolist()
        assert found.positions[pairs].tolist() == row.positions
        assert found.values[pairs].tolist() == row.values


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(good, min_size=1, max_size=20))
def test_lines_as_programs_write_them_are_all_taken(texts):
    for rules in (CLASSES, NUMBERS):
        assert libsvm_decimal.read(texts, rules).lines.tolist() == list(range(len(texts)))
        assert libsvm_decimal.read([line + b" \r" for line in texts], rules).lines.tolist() == list(range(len(texts)))


def test_a_line_that_is_not_taken_does_not_keep_the_others_from_it():
    texts = [b"1 1:0.5", b"1 2:abc", b"1 1:0.5 1:2", b"7 1:1.5", b"1\t1:0.5", b"# 1:1", b"", b"-1 1:1e38", b"-1 3:2.5"]
    assert libsvm_decimal.read(texts, CLASSES).lines.tolist() == [0, 8]
    assert libsvm_decimal.read([], CLASSES).lines.tolist() == []
