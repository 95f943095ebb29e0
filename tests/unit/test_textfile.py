import bz2
import gzip
import random
from pathlib import Path

import pytest

from pipelines.data.formats import text_file
from pipelines.errors import DataError

TEXT = "".join(f"{row % 10} 1:{row % 256} 5:7\n" for row in range(3000)).encode()


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return put


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", TEXT),
        ("a.txt", TEXT.rstrip()),
        ("a.txt", TEXT.replace(b"\n", b"\r\n")),
        ("a.txt", b"# caf\xe9 in Latin-1\n" + TEXT),
        ("a.txt.gz", gzip.compress(TEXT)),
        ("a.txt.bz2", bz2.compress(TEXT)),
        ("a.txt.bz2", bz2.compress(TEXT) + bz2.compress(TEXT)),
        ("a.txt.bz2", bz2.compress(TEXT) + b"\0\0"),
        ("a.libsvm", b"B 1:1\n"),
        ("a.txt", b"1 1:\0\n" + TEXT),
    ],
    # Not the bytes: gzip stores the time, and parallel test processes must agree on the names.
    ids=[
        "plain",
        "no-final-newline",
        "crlf",
        "latin-1",
        "gz",
        "bz2",
        "two-bz2",
        "bz2-and-zeros",
        "a-label-B",
        "a-zero-byte",
    ],
)
def test_text_that_spark_can_read_is_accepted(write, name, content):
    text_file.check(write(name, content))
    text_file.check_whole(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt: the file is empty"),
        ("a.txt.gz", b"", r"a\.txt\.gz: the file is empty"),
        ("a.txt", TEXT.decode().encode("utf-16"), r"a\.txt:1: the text is UTF-16; save the file as plain UTF-8"),
        ("a.txt", TEXT.decode().encode("utf-16-le"), r"a\.txt:1: the text is UTF-16 or binary"),
        ("a.txt", TEXT.decode().encode("utf-8-sig"), r"a\.txt:1: the text is UTF-8 with a byte order mark"),
        ("a.txt.bz2", bz2.compress(TEXT.decode().encode("utf-16")), r"a\.txt\.bz2:1: the text is UTF-16"),
        ("a.txt", gzip.compress(TEXT), r"compressed with gzip, which its name does not say; give it the ending \.gz"),
        ("a.txt.gz", bz2.compress(TEXT), r"compressed with bzip2, .* give it the ending \.bz2"),
        ("a.txt", b"PK\x03\x04rest", "compressed with zip, .* decompress it"),
        ("a.txt.gz", TEXT, r"not compressed as its ending \.gz says"),
        ("a.scale", b"PAR1" + TEXT, r"a\.scale: the file is Parquet, not text"),
        ("a.txt", b"\x89PNG\r\n\x1a\n" + TEXT, r"a\.txt: the file is a picture, not text"),
    ],
    ids=[
        *("empty", "empty-gz", "utf-16", "utf-16-le", "utf-8-sig", "utf-16-bz2"),
        *("gz-as-plain", "bz2-as-gz", "zip", "plain-as-gz", "parquet", "picture"),
    ],
)
def test_unsupported_files_are_rejected_before_spark_reads_them(write, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        text_file.check(write(name, content))
    assert "\n" not in str(caught.value)


def test_a_truncated_bz2_file_is_rejected_at_any_length(write):
    whole = bz2.compress(TEXT)
    for length in range(4, len(whole)):
        with pytest.raises(DataError, match=r"a\.txt\.bz2:\d+: the compressed data is truncated"):
            text_file.check(write("a.txt.bz2", whole[:length]))


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_truncated_compressed_file_is_reported_with_its_last_line(write, ending, compress):
    text = random.Random(1).randbytes(300_000).hex().encode()
    text = b"\n".join(text[start : start + 100] for start in range(0, len(text), 100))
    packed = compress(text)
    with pytest.raises(DataError, match="truncated") as caught:
        text_file.check_whole(write(f"a.txt{ending}", packed[: len(packed) * 9 // 10]))
    line = int(str(caught.value).split(":")[1])
    # bzip2 decompresses in blocks of 900 kB, and this text is shorter.
    assert 5000 <= line <= 6000 if ending == ".gz" else line == 1


def test_a_changed_byte_in_a_gz_file_is_detected_by_its_checksum(write):
    packed = gzip.compress(TEXT, compresslevel=0)
    half = len(packed) // 2
    uri = write("a.txt.gz", packed[:half] + b"\xff" + packed[half + 1 :])
    with pytest.raises(DataError, match=r"a\.txt\.gz:\d+: the compressed data is truncated or damaged"):
        text_file.check_whole(uri)


def test_a_file_that_differs_from_its_checksum_file_is_reported_with_it(write):
    uri = write("a.txt", TEXT)
    text_file.check_whole(uri)
    write(".a.txt.crc", b"crc\0")
    with pytest.raises(DataError, match=r"a\.txt: does not match its checksum file \.a\.txt\.crc; .*delete the checksum file"):
        text_file.check_whole(uri)


@pytest.mark.parametrize(("ending", "compress"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_file_is_cut_into_pieces_of_whole_lines(write, monkeypatch, ending, compress):
    path = Path(write(f"a.txt{ending}", compress(TEXT.rstrip())))
    assert b"".join(text_file.pieces(path, 12)) == TEXT
    monkeypatch.setattr(text_file, "TEXT_BYTES", 1000)
    monkeypatch.setattr(text_file, "DENSE_BYTES", 12 * 7)
    pieces = list(text_file.pieces(path, 12))
    assert b"".join(pieces) == TEXT
    assert {piece.count(b"\n") for piece in pieces[:-1]} == {7}


@pytest.mark.parametrize("step", [1, 2, 5, 9, 10, 11, 1000])
def test_every_line_belongs_to_the_part_in_which_it_begins(write, step):
    text = b"1 2:3\n\n22 4:5\n# a comment\n3"
    path = Path(write("a.txt", text))
    starts = [0, *(place + 1 for place, byte in enumerate(text) if byte == 10)]
    lines = dict(zip(starts, (text + b"\n").splitlines(keepends=True), strict=True))
    for start in range(0, len(text), step):
        expected = b"".join(line for place, line in lines.items() if start <= place < start + step)
        assert b"".join(text_file.pieces(path, 12, start, start + step)) == expected
