"""libsvm text to dense rows, and back.

A line is `label index:value index:value ...`. A row accepted here is parsed identically by `sklearn.datasets.load_svmlight_file`
(`zero_based=False`), except that values that are not bytes are stored as float32. The rules:

- Only a newline ends a line. Spaces, tabs and carriage returns separate tokens, so CRLF files are accepted.
- `#` starts a comment. A line without content is skipped. A label alone is a row of zeros.
- A label is a decimal number equal to one of `data.labels`: 3, +3 and 3.0 are the same label; 3.5 and nan are invalid.
- For regression any decimal number is a target; `data.targets` of them are separated by commas.
- Indices consist of digits, ascend, and lie between 1 and `data.features` or the number of values in `data.image_shape` (both
  bounds one lower with `data.zero_based`). Index 0 is rejected: it indicates a zero-based file, whose other rows would all be
  off by one value.
- A value is a decimal number in `data.value_range`, neither nan nor infinite. An omitted value is 0.
- Any other line is malformed. sklearn is more lenient in four points: it also accepts nan and infinities, Python's `1_000`, a
  sign before an index, and query ids, which it drops.

A number is the double nearest to what is written; float32 is that, rounded.

The format does not state the number of values, so `Rules` does. `libsvm_compiled` parses much text at full speed if Numba is
there, `libsvm_arrays` anything else; both leave lines that are not plainly well-formed to `parse_line`.
"""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import libsvm_arrays, libsvm_compiled
from pipelines.data.formats.chunk import Chunk
from pipelines.data.formats.libsvm_line import Rules

ENDINGS = (".txt", ".libsvm", ".svm", ".t")
COMPRESSIONS = ("", ".bz2", ".gz")

# Seconds. Importing Numba and the compiled parser takes half a second, compiling it three to six.
_PATIENCE, _PATIENCE_BEFORE_COMPILING = 0.25, 3.0


def is_libsvm(path: Path) -> bool:
    """Whether the file name has an ending of libsvm text."""
    return any(path.name.endswith(ending + compression) for ending in ENDINGS for compression in COMPRESSIONS)


def parse(text: bytes | memoryview, rules: Rules) -> Chunk:
    """Parse lines, each of which ends in a newline.

    Malformed lines do not raise but are part of the result, because only the caller knows file and line number.
    """
    if _arrays.spent >= _arrays.patience and libsvm_compiled.can_parse(rules):
        return libsvm_compiled.parse(text, rules)
    started = time.perf_counter()
    chunk = libsvm_arrays.parse(text, rules)
    _arrays.spent += time.perf_counter() - started
    return chunk


class _Arrays:
    """The seconds that this process parses with arrays before it loads the compiled parser: a part of what loading it takes."""

    spent = 0.0

    @functools.cached_property
    def patience(self) -> float:
        return _PATIENCE if libsvm_compiled.is_kept() else _PATIENCE_BEFORE_COMPILING


_arrays = _Arrays()


def write(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer[Any]]) -> bytes:
    """Inverse of `parse`: one line per row of `images` (rows, values), with zeros omitted and no trailing space."""
    width = images.shape[1]
    pairs = [b" %d:%d" % (index + 1, value) for index in range(width) for value in range(256)]
    lines = []
    for image, label in zip(images, labels.tolist(), strict=True):
        filled = np.flatnonzero(image)
        lines.append(b"%d" % label)
        lines.extend(map(pairs.__getitem__, (filled * 256 + image[filled]).tolist()))
        lines.append(b"\n")
    return b"".join(lines)
