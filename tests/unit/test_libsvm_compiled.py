"""The compiled parser of libsvm text: what it reads is what the array parser reads, bit for bit, and numbers are exact."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import mutations

from pipelines.data.formats import libsvm, libsvm_arrays, libsvm_compiled, number_kernel
from pipelines.data.formats.libsvm_line import Rules

CLASSES = Rules(shape=(6,), value_range=(-1e37, 1e37), labels=(1, -1, 3))
BYTES = Rules(shape=(3, 4, 1), value_range=(0.0, 255.0), labels=tuple(range(10)))
EVERY_RULES = [
    CLASSES,
    dataclasses.replace(CLASSES, any_label=True, first_index=0),
    dataclasses.replace(CLASSES, value_range=(0.5, 100.25)),
    dataclasses.replace(CLASSES, value_range=(-3.0, -1.0)),
    dataclasses.replace(CLASSES, value_range=(300.0, 1000.0)),
    dataclasses.replace(CLASSES, labels=(), num_targets=1),
    dataclasses.replace(CLASSES, labels=(), num_targets=3, any_label=True),
    BYTES,
    dataclasses.replace(BYTES, value_range=(0.0, 16.0), any_label=True),
]

odd_numbers = "0 -0 -0.0 255 256 1 -1 +1 1. .5 1e5 1E-5 1e+05 007 1e400 1e-400 5e-324 1e 1e+ . + - e5 nan inf 1-2 0x1 1_0".split()
numbers = st.one_of(
    st.integers(0, 255).map(str),
    st.floats(allow_nan=False).map(repr),
    st.floats(-300, 300).map("{:.6g}".format),
    st.floats(-300, 300).map("{:.25f}".format),
    st.sampled_from(odd_numbers),
)
indices = st.one_of(
    st.integers(0, 7).map(str), st.sampled_from([*"07 00 +2 -1 1.5 2e0 99999999999 18446744073709551617".split(), ""])
)
gaps = st.sampled_from([*[" "] * 6, "  ", "\t", "\r", " \r ", "\v", "\f", "", ":", ","])
endings = st.sampled_from([*[""] * 4, " ", "\r", " \r", "#", " # 1:1", "#\0", "\v"])


@st.composite
def written_lines(draw):
    targets = ",".join(draw(st.lists(numbers, min_size=1, max_size=3)) if draw(st.booleans()) else [draw(numbers)])
    chosen = sorted(draw(st.lists(st.integers(1, 6), unique=True, max_size=5)))
    pairs = [f"{index}:{draw(numbers)}" for index in chosen]
    return " ".join([targets, *pairs]) + draw(endings)


@st.composite
def odd_lines(draw):
    pairs = "".join(f"{draw(gaps)}{draw(indices)}:{draw(numbers)}" for _ in range(draw(st.integers(0, 3))))
    return draw(gaps) + draw(numbers) + pairs + draw(endings)


lines = st.one_of(written_lines(), odd_lines(), st.text("0123456789: .-#\tex,+", max_size=14))


def assert_same(text, rules):
    """The chunks of both ways are the same to the bit."""
    assert libsvm_compiled.can_parse(rules)
    expected, found = libsvm_arrays.parse(text, rules), libsvm_compiled.parse(text, rules)
    assert (found.num_lines, found.bad_lines, found.weights) == (expected.num_lines, expected.bad_lines, expected.weights)
    for name in ("inputs", "targets", "lines"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), name


@pytest.mark.slow
@pytest.mark.parametrize("rules", EVERY_RULES)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(lines, min_size=1, max_size=6))
@example(texts=["1 1:-0", "1 1:2"])
@example(texts=["1 1:-0", "1 1:0.5"])
@example(texts=["1 1:0.5 2:x", "1 1:2"])
@example(texts=["1 1:2 2:3", "1 1:7 2:x", "", "3 2:0.5"])
def test_both_ways_read_the_same(rules, texts):
    assert_same("".join(f"{line}\n" for line in texts).encode(), rules)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_both_ways_read_damaged_text_alike(random):
    text = b"".join(mutations.mutated(random) + b"\n" for _ in range(20))
    for rules in (BYTES, dataclasses.replace(BYTES, any_label=True), dataclasses.replace(BYTES, value_range=(-1e37, 1e37))):
        assert_same(text, rules)


@pytest.mark.parametrize("text", [b"", b"1 1:2", b"1 1:2\n3 1:3", b"#"])
def test_text_that_ends_in_no_newline_is_refused_before_memory_behind_it_is_read(text):
    assert libsvm_compiled.can_parse(CLASSES)
    with pytest.raises(ValueError, match="newline"):
        libsvm_compiled.parse(text, CLASSES)


def test_more_labels_than_a_line_has_bytes_and_labels_that_are_no_doubles():
    many = dataclasses.replace(CLASSES, labels=tuple(range(5000, -5000, -1)))
    assert_same(b"".join(b"%d 1:%d\n" % (label, label) for label in range(-5001, 5002, 7)), many)
    assert not libsvm_compiled.can_parse(dataclasses.replace(CLASSES, labels=(2**53 + 1, 1)))


def number(text):
    """The number that the kernel reads, where it stops, and whether it is certain of it."""
    value, at, certain = number_kernel.number(np.frombuffer(text + b"\n", np.uint8), np.uint64(0))
    return value, int(at), certain


def assert_exact(text):
    value, at, certain = number(text.encode())
    assert at == len(text)
    if certain:
        assert np.float64(value).tobytes() == np.float64(text).tobytes(), text
    return certain


@settings(max_examples=600, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 18))
def test_numbers_as_programs_write_them_are_exact(value, places):
    assert assert_exact(repr(value))
    assert assert_exact(f"{value:.{places}e}")


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(-400, 400), st.sampled_from("eE"))
def test_every_mantissa_and_exponent_is_exact(mantissa, exponent, letter):
    assert (
        assert_exact(f"{mantissa:.0f}{letter}{exponent}" if mantissa < 2**53 else f"{mantissa}{letter}{exponent:+d}")
        or mantissa > 10**19
    )


@settings(max_examples=400, deadline=None)
@given(st.integers(2**52, 2**53 - 1), st.integers(-70, 70))
def test_numbers_halfway_between_two_doubles_and_next_to_it_are_exact_or_left_to_others(mantissa, power):
    halfway = Fraction(2 * mantissa + 1) * Fraction(2) ** power
    places = max(0, -power)
    for change in (-1, 0, 1):
        whole = halfway * 10**places + change
        assert whole.denominator == 1
        assert_exact(f"{whole.numerator}e-{places}")


@settings(max_examples=400, deadline=None)
@given(st.from_regex(rb"[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_long_numbers_are_exact_or_left_to_others(text):
    try:
        expected = float(text)
    except ValueError:
        assert not number(text)[2]
        return
    value, at, certain = number(text)
    if certain:
        assert at == len(text)
        assert np.float64(value).tobytes() == np.float64(expected).tobytes()


def test_twenty_digits_and_more_are_hardly_ever_left_to_others():
    values = np.random.default_rng(0).normal(size=2000)
    assert sum(not assert_exact(f"{value:.20f}") for value in values) <= 2


def test_the_compiled_parser_takes_over_from_the_arrays_after_a_while(monkeypatch):
    text = b"1 1:0.5\n"
    ways = []
    for way in (libsvm_arrays, libsvm_compiled):
        monkeypatch.setattr(
            way, "parse", lambda text, rules, name=way.__name__, parse=way.parse: ways.append(name) or parse(text, rules)
        )
    monkeypatch.setattr(libsvm, "_arrays", libsvm._Arrays())
    libsvm.parse(text, CLASSES)
    libsvm._arrays.spent = 100.0
    libsvm.parse(text, CLASSES)
    libsvm.parse(text, dataclasses.replace(CLASSES, labels=(2**60, 1)))
    assert [name.rpartition("_")[2] for name in ways] == ["arrays", "compiled", "arrays"]
