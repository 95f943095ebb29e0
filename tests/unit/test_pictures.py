"""The terminal that benchmarks/pictures.py draws."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def screen():
    sys.path.insert(0, BENCHMARKS)
    try:
        from pictures import Screen
    finally:
        sys.path.remove(BENCHMARKS)
    return Screen


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (["one\r\ntwo\r\n"], ["one", "two"]),
        (["\r\x1b[K[=>  ]", "\r\x1b[Kepoch 1\n[==> ]"], ["epoch 1", "[==> ]"]),
        (["abcdef", "\rxy"], ["xycdef"]),
        (["abcdefghijkl"], ["abcdefghij", "kl"]),
        (["first\nsecond\x1b[1A\x1b[2K\rnew"], ["new", "second"]),
        (["50 %\x1b[", "K\x1b[?25l done"], ["50 % done"]),
    ],
    ids=["lines", "a line drawn anew", "overwritten", "wrapped", "cursor up", "a sequence in two writes"],
)
def test_it_shows_what_a_terminal_would(screen, written, shown):
    terminal = screen(10)
    for text in written:
        terminal.write(text)
    assert terminal.text == shown


def test_colours_become_styles_and_text_is_escaped(screen):
    terminal = screen(20)
    terminal.write("\x1b[1;32m<\x1b[0m>")
    assert terminal.as_html() == '<span style="font-weight:bold;color:#a6e3a1;">&lt;</span>&gt;'
