import bz2
import gzip
import random

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
    ],
    ids=["empty", "empty-gz", "utf-16", "utf-16-le", "utf-8-sig", "utf-16-bz2", "gz-as-plain", "bz2-as-gz", "zip", "plain-as-gz"],
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
