"""Logs of JSON objects, one per line, each with its checksum.

    {"n": 3, "action": "status", "crc32": "9ae0daaf"}

The checksum is that of the line without it (CRC-32, IEEE 802.3), so a changed bit cannot pass for another value. Lines of earlier
versions have none.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from pipelines.errors import DataError

_CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"\}$')
# All but the last byte, in which a bit may have changed.
_COMPLETE = re.compile(rb'(\}|"crc32": "[0-9a-f]{8}".)$', re.DOTALL)


def encode(values: Mapping[str, Any]) -> bytes:
    """The line of plain data that is not empty, with the newline."""
    text = json.dumps(values).encode()
    return b'%s, "crc32": "%08x"}\n' % (text[:-1], zlib.crc32(text))


def decode(line: bytes) -> dict[str, Any] | None:
    """The values of a line; None if it is empty, or incomplete because a process was killed or a disk was full.

    Raises:
        DataError: it is complete, but not as it was written.
    """
    checksum = _CHECKSUM.search(line)
    text = line[: checksum.start()] + b"}" if checksum else line
    try:
        values = json.loads(text)
        if isinstance(values, dict) and (checksum is None or int(checksum[1], 16) == zlib.crc32(text)):
            return values
    except (ValueError, RecursionError):
        if not _COMPLETE.search(line):
            return None
    raise DataError("is not as it was written: some of its bytes have changed")
