import dataclasses
import io
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_svmlight_file
from support import mutations

from pipelines.data.formats import libsvm_arrays, libsvm_compiled
from pipelines.data.formats.libsvm import write
from pipelines.data.formats.libsvm_line import Rules

WIDTH = 12
RULES = Rules(shape=(3, 4, 1), value_range=(-1000.0, 1000.0), labels=(-1, 0, 1, 2, 3))
GREY = Rules(shape=(3, 4, 1), value_range=(0.0, 255.0), labels=tuple(range(10)))


def compiled(text, rules):
    assert libsvm_compiled.can_parse(rules)
    return libsvm_compiled.parse(text, rules)


# Both ways must read all text alike.
pytestmark = pytest.mark.parametrize("parse", [libsvm_arrays.parse, compiled], ids=["arrays", "compiled"])


def one_line(parse, line, rules=GREY):
    """Parse a line between two well-formed ones."""
    chunk = parse(b"1 2:3\n" + line + b"\n4 5:6\n", rules)
    assert chunk.num_lines == 3
    return chunk


indices = st.lists(st.integers(1, WIDTH), unique=True, max_size=WIDTH).map(sorted)
values = st.one_of(
    st.integers(0, 255).map(str),
    st.integers(-1000, 1000).map(str),
    st.floats(-1000, 1000, allow_nan=False).map(repr),
    st.sampled_from(["007", "+5", "1e2", "2.", ".5", "-0", "1E-3"]),
)
gaps = st.sampled_from([" ", " ", " ", "  ", "\t"])
endings = st.sampled_from(["", "", " ", "  ", " # a comment", "#1:2"])


@st.composite
def good_lines(draw):
    label = draw(st.sampled_from(["-1", "0", "1", "2", "3", "+1", "1.0", "3e0"]))
    pairs = [f"{draw(gaps)}{index}:{draw(values)}" for index in draw(indices)]
    return label + "".join(pairs) + draw(endings)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(good_lines(), st.sampled_from(["", " ", "# nothing", "\t#"])), min_size=1, max_size=8))
def test_well_formed_lines_parse_as_with_sklearn(parse, lines):
    text = "".join(f"{line}\n" for line in lines).encode()
    chunk = parse(text, RULES)
    assert chunk.bad_lines == ()
    assert chunk.num_lines == len(lines)
    matrix, labels = load_svmlight_file(io.BytesIO(text), n_features=WIDTH, zero_based=False)
    np.testing.assert_array_equal(chunk.inputs, matrix.toarray().astype(chunk.inputs.dtype))
    if chunk.inputs.dtype == np.uint8:
        np.testing.assert_array_equal(chunk.inputs, matrix.toarray())
    assert [RULES.labels[label] for label in chunk.targets] == labels.tolist()


# Why a line accepted by sklearn may be rejected: sklearn is more lenient (see `pipelines.data.formats.libsvm`) or cannot know.
STRICTER = {"index_not_a_number", "value_not_a_number", "value_not_finite", "label_not_a_number", "label_not_finite", "query_id"}
UNKNOWN_TO_SKLEARN = {"value_out_of_range", "label_unknown", "label_not_whole", "index_too_large"}


# 140 times 20 lines are 2,800.
@pytest.mark.slow
@settings(max_examples=140, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_fuzzed_lines_parse_as_with_sklearn_or_are_rejected_with_their_line_number(parse, random):
    lines = [mutations.mutated(random) for _ in range(20)]
    chunk = parse(b"".join(line + b"\n" for line in lines), GREY)
    assert chunk.num_lines == len(lines)
    rows = iter(zip(chunk.inputs, chunk.targets, strict=True))
    refused = {bad.number: bad for bad in chunk.bad_lines}
    for number, line in enumerate(lines):
        expected = mutations.parsed_by_sklearn(line)
        if number in refused:
            assert refused[number].raw == line
            if not isinstance(expected, str):
                assert refused[number].fault.reason in STRICTER | UNKNOWN_TO_SKLEARN, line
        elif expected is not None:
            image, label = next(rows)
            assert not isinstance(expected, str), line
            assert image.tolist() == expected[0].astype(image.dtype).tolist(), line
            assert label == expected[1], line
    assert next(rows, None) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("0123456789: .-#\tex", max_size=14), min_size=1, max_size=6))
def test_garbage_that_is_accepted_parses_as_with_sklearn(parse, lines):
    for line in lines:
        chunk = parse(f"{line}\n".encode(), RULES)
        expected = mutations.parsed_by_sklearn(line.encode())
        if chunk.bad_lines:
            continue
        assert len(chunk.targets) == (expected is not None)
        if expected is not None:
            np.testing.assert_array_equal(chunk.inputs[0], expected[0].astype(chunk.inputs.dtype))
            assert RULES.labels[chunk.targets[0]] == expected[1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"3 0:1", "index 0.*start at 1.*zero-based"),
        (b"3 13:1", r"index 13 is above 12, .*data\.image_shape=\[3, 4, 1\]"),
        (b"3 99999999999999999999:1", "index 99999999999999999999 is above 12"),
        (b"3 " + b"9" * 5000 + b":1", r"index 9{37}\.\.\. is above 12"),
        (b"3 5:1\r6:1 4:1", "index 4 comes after 6"),
        (b"\xef\xbb\xbf3 5:1", "is not plain ASCII; save the file as UTF-8 without a byte order mark"),
        (b"3\x00 \x005\x00:\x001\x00", "is not plain ASCII"),
        (b"3 5:1 4:1", "index 4 comes after 5; indices must ascend"),
        (b"3 5:1 5:1", "index 5 appears twice"),
        (b"3 5", "'5' has no colon"),
        (b"3 5:1\r7 6:1\r", "contains carriage returns; save the file with LF or CRLF"),
        (b"3 5\r", "'5' has no colon"),
        (b"3 5:1 :2", "the index is not a whole number"),
        (b"3 -5:1", "the index is not a whole number"),
        (b"3 1_0:1", "the index is not a whole number"),
        (b"3 5:", "the value is not a number"),
        (b"3 5:1:2", "the value is not a number"),
        (b"3 5:1_0", "the value is not a number"),
        (b"3 5:0x10", "the value is not a number"),
        (b"3 5:nan", "not a finite number"),
        (b"3 5:-Infinity", "not a finite number"),
        (b"3 5:1e999", r"outside data\.value_range"),
        (b"3 5:256", r"value '256' at index 5 is outside data\.value_range=\[0, 255\]"),
        (b"3 5:-1", r"outside data\.value_range"),
        (b"3 qid:4 5:1", "query ids are not supported"),
        (b"10 5:1", r"label '10' is not one of 0, 1, .* \(data\.classes, data\.labels\)"),
        (b"1.5 5:1", "label '1.5' is not a whole number"),
        (b"nan 5:1", "label 'nan' is not a finite number"),
        (b"cat 5:1", "label 'cat' is not a number"),
        (b"5:1 6:1", "label '5:1' is not a number"),
        (b"3,0,0,255", "is not a number"),
        (b"\xff\xfe", "is not plain ASCII; save the file as UTF-8 without a byte order mark"),
    ],
)
def test_a_malformed_line_is_rejected_with_its_reason(parse, line, reason):
    chunk = one_line(parse, line)
    (bad,) = chunk.bad_lines
    assert (bad.number, bad.raw) == (1, line)
    assert re.search(reason, bad.fault.text)
    assert bad.fault.text.isascii()
    assert chunk.targets.tolist() == [1, 4]


@pytest.mark.parametrize("line", [b"", b"   ", b"# 3 5:1", b"\t# note"])
def test_lines_without_content_count_as_lines_but_not_as_rows(parse, line):
    chunk = one_line(parse, line)
    assert chunk.bad_lines == ()
    assert chunk.targets.tolist() == [1, 4]
    assert chunk.inputs[:, [1, 4]].tolist() == [[3, 0], [0, 6]]


def test_a_label_alone_is_an_all_zero_row(parse):
    chunk = one_line(parse, b"7")
    assert chunk.targets.tolist() == [1, 7, 4]
    assert not chunk.inputs[1].any()


@pytest.mark.parametrize(
    "line", [b"3 1:255 12:9", b"3 1:255 12:9 ", b"3 1:255 12:9\r", b"3 1:255 12:9 \r", b"3 \r1:255 12:9", b"3\t1:255.0  12:+9#c"]
)
def test_different_spellings_of_a_row_are_equal(parse, line):
    chunk = one_line(parse, line)
    assert chunk.targets.tolist() == [1, 3, 4]
    assert chunk.inputs.dtype == np.uint8
    assert chunk.inputs[1].tolist() == [255, *[0] * 10, 9]


def test_one_value_that_is_not_a_byte_makes_the_chunk_float(parse):
    for value in (b"0.5", b"-1", b"256"):
        chunk = parse(b"1 1:7\n2 2:" + value + b"\n", RULES)
        assert chunk.inputs.dtype == np.float32
        assert chunk.inputs[:, :2].tolist() == [[7, 0], [0, float(value)]]


@pytest.mark.parametrize("line", [b"3 0:255 11:9", b"3  0:255 11:9#c"])
def test_a_zero_based_file_is_accepted_with_the_setting(parse, line):
    rules = dataclasses.replace(GREY, first_index=0)
    assert parse(line + b"\n", rules).inputs.tolist() == [[255, *[0] * 10, 9]]
    (bad,) = parse(b"3 1:1 12:1\n", rules).bad_lines
    assert "index 12 is above 11" in bad.fault.text


def test_labels_become_positions_in_the_order_of_the_setting(parse):
    rules = Rules(shape=(1, 1, 1), value_range=(0.0, 1.0), labels=(30, 10, 20))
    assert parse(b"10 1:1\n20\n30 \n", rules).targets.tolist() == [1, 2, 0]


@pytest.mark.parametrize("tail", [b"", b" #c"], ids=["plain", "slow"])
def test_labels_do_not_matter_where_nobody_needs_them(parse, tail):
    rules = Rules(shape=(1, 2, 1), value_range=(0.0, 1.0), labels=(1, 3_000_000_000), any_label=True)
    labels = [b"0", b"1", b"-1", b"nan", b"2.5", b"3000000000", b"99999999999999999999", b"1e999"]
    chunk = parse(b"".join(label + b" 2:1" + tail + b"\n" for label in labels), rules)
    assert chunk.bad_lines == ()
    assert chunk.targets.tolist() == [-1, 0, -1, -1, -1, 1, -1, -1]
    assert chunk.inputs.tolist() == [[0, 1]] * len(labels)
    (bad,) = parse(b"1:1 2:1\n", rules).bad_lines
    assert bad.fault.reason == "label_not_a_number"


def test_numbers_with_up_to_nine_and_with_more_digits_are_parsed(parse):
    rules = Rules(shape=(20_000, 1, 1), value_range=(0.0, 1e12), labels=(0, 1))
    chunk = parse(b"0 1:1 12345:123456789\n1 19999:12345678901\n", rules)
    assert chunk.inputs[0, 12344] == np.float32(123456789)
    assert chunk.inputs[1, 19998] == np.float32(12345678901)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_written_text_parses_to_the_same_rows(parse, seed, rows):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, WIDTH)).astype(np.uint8) * rng.integers(0, 2, (rows, WIDTH)).astype(np.uint8)
    labels = rng.integers(0, 10, rows)
    chunk = parse(write(images, labels), GREY)
    assert chunk.bad_lines == ()
    np.testing.assert_array_equal(chunk.inputs, images)
    np.testing.assert_array_equal(chunk.targets, labels)
