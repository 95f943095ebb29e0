"""Parser of a single line of libsvm text. `pipelines.data.formats.libsvm` states the rules."""

import math
import re
from dataclasses import dataclass

from pipelines.config import DataConfig
from pipelines.config.data import MAX_VALUE
from pipelines.data.formats.chunk import Fault

_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NOT_FINITE = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
ANY_VALUE = (-MAX_VALUE, MAX_VALUE)
"""Range of all values that a row may have."""
# More than any shape needs; Python refuses to parse numbers with thousands of digits.
_MAX_INDEX_DIGITS = 18


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a line may contain."""

    shape: tuple[int, ...]
    """Shape of a row, for example (28, 28, 1), or (13,) for 13 features that are no picture."""
    value_range: tuple[float, float]
    """Smallest and largest value."""
    labels: tuple[int, ...]
    """Label values as written in the text; empty for regression."""
    num_targets: int = 0
    """Numbers in place of the label, for regression; 0 for classification."""
    first_index: int = 1
    """Index of the first value of a row: 1, or 0 in zero-based files."""
    any_label: bool = False
    """Accept other labels as well, as class index -1, and other targets as nan: whoever predicts need not know them."""
    index_is_known: bool = False
    """The first index is that of a model's training data, which no setting changes."""

    @classmethod
    def from_config(cls, data: DataConfig) -> "Rules":
        return cls(
            shape=data.shape,
            value_range=data.allowed_range,
            labels=data.label_values,
            num_targets=len(data.target_names),
            first_index=0 if data.zero_based else 1,
        )

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def last_index(self) -> int:
        return self.first_index + self.num_values - 1


@dataclass(frozen=True)
class Row:
    """A well-formed line."""

    target: int | list[float]
    """Class index: position in `Rules.labels`; -1 for another label (`Rules.any_label`). For regression, the numbers."""
    positions: list[int]
    """Zero-based positions among the values."""
    values: list[float]


def parse_line(line: bytes, rules: Rules) -> Row | Fault | None:
    """Parse one line: a row, a fault, or None for a line without content."""
    tokens = line.partition(b"#")[0].split()
    if not tokens:
        return None
    target = _parse_targets(tokens[0], rules) if rules.num_targets else _parse_label(tokens[0], rules)
    if isinstance(target, Fault):
        return target
    low, high = rules.value_range
    row = Row(target, [], [])
    previous = rules.first_index - 1
    for token in tokens[1:]:
        index_text, _, value_text = token.partition(b":")
        if not (index_text.isdigit() and _NUMBER.fullmatch(value_text)):
            return _pair_fault(token, line)
        digits = index_text.lstrip(b"0") or b"0"
        index, value = int(digits[:_MAX_INDEX_DIGITS]), float(value_text)
        if not previous < index <= rules.last_index:
            return _index_fault(digits, index, previous, rules)
        if not low <= value <= high:
            shown = f"value {_show(value_text)} at index {index}"
            remedy = " (auto allows any)" if len(rules.shape) == 1 and high < MAX_VALUE else ""
            return Fault("value_out_of_range", f"{shown} is outside data.value_range=[{low:g}, {high:g}]{remedy}")
        row.positions.append(index - rules.first_index)
        row.values.append(value)
        previous = index
    return row


def _parse_targets(token: bytes, rules: Rules) -> list[float] | Fault:
    numbers = token.split(b",")
    if len(numbers) == rules.num_targets and all(map(_NUMBER.fullmatch, numbers)):
        targets = [float(number) for number in numbers]
        if max(map(abs, targets)) <= MAX_VALUE:
            return targets
    if rules.any_label:
        return [math.nan] * rules.num_targets
    if any(map(_NOT_FINITE.fullmatch, numbers)) or (all(map(_NUMBER.fullmatch, numbers)) and len(numbers) == rules.num_targets):
        return Fault(
            "target_not_finite", f"the target {_show(token)} is not a finite number from {-MAX_VALUE:g} to {MAX_VALUE:g}"
        )
    if not all(map(_NUMBER.fullmatch, numbers)):
        return Fault("target_not_a_number", f"the target {_show(token)} is not a number; a line is 'target index:value ...'")
    wanted = f"{rules.num_targets}, separated by commas" if rules.num_targets > 1 else "1"
    text = f"the target {_show(token)} has {len(numbers)} numbers; data.targets says that there are {wanted}"
    return Fault("number_of_targets", text)


def _parse_label(token: bytes, rules: Rules) -> int | Fault:
    if rules.any_label and (_NUMBER.fullmatch(token) or _NOT_FINITE.fullmatch(token)):
        label = float(token)
        return rules.labels.index(int(label)) if label in rules.labels else -1
    if _NOT_FINITE.fullmatch(token):
        return Fault("label_not_finite", f"the label {_show(token)} is not a finite number")
    if not _NUMBER.fullmatch(token):
        if _is_not_ascii_text(token):
            return _encoding_fault(f"the label {_show(token)}")
        text = f"the label {_show(token)} is not a number; a line is 'label index:value index:value ...'"
        return Fault("label_not_a_number", text)
    label = float(token)
    if label not in rules.labels:
        if not label.is_integer():
            return Fault("label_not_whole", f"the label {_show(token)} is not a whole number")
        shown = ", ".join(map(str, rules.labels[:12])) + (", ..." if len(rules.labels) > 12 else "")
        return Fault("label_unknown", f"the label {_show(token)} is not one of {shown} (data.classes, data.labels)")
    return rules.labels.index(int(label))


def _pair_fault(token: bytes, line: bytes) -> Fault:
    index_text, colon, value_text = token.partition(b":")
    if _is_not_ascii_text(token):
        return _encoding_fault(_show(token))
    if not colon and b"\r" in line.strip():
        return Fault("carriage_return", "the line contains carriage returns; save the file with LF or CRLF as line ends")
    if not colon:
        return Fault("colon_missing", f"{_show(token)} has no colon; an entry is index:value")
    if index_text == b"qid":
        return Fault("query_id", f"{_show(token)}: query ids are not supported; remove them")
    if not index_text.isdigit():
        return Fault("index_not_a_number", f"{_show(token)}: the index is not a whole number from 1 on")
    if _NOT_FINITE.fullmatch(value_text):
        return Fault("value_not_finite", f"{_show(token)}: the value is not a finite number")
    return Fault("value_not_a_number", f"{_show(token)}: the value is not a number")


def _index_fault(digits: bytes, index: int, previous: int, rules: Rules) -> Fault:
    if index < rules.first_index:
        if rules.index_is_known:
            return Fault("index_zero", "index 0: indices in the model's training data start at 1; renumber this file")
        return Fault("index_zero", "index 0: libsvm indices start at 1; for a zero-based file set data.zero_based=true")
    if index > rules.last_index:
        is_picture = len(rules.shape) == 3
        setting = f"data.image_shape={list(rules.shape)}" if is_picture else f"data.features={rules.num_values}"
        limit = f"the number of values of {setting}" if is_picture else setting
        if rules.first_index == 0:
            limit = f"the last of {setting} when counted from 0 (data.zero_based)"
        return Fault("index_too_large", f"index {_show(digits)[1:-1]} is above {rules.last_index}, {limit}")
    if index == previous:
        return Fault("index_repeated", f"index {index} appears twice")
    return Fault("index_descending", f"index {index} comes after {previous}; indices must ascend")


def _is_not_ascii_text(token: bytes) -> bool:
    return not token.isascii() or b"\0" in token


def _encoding_fault(shown: str) -> Fault:
    return Fault("wrong_encoding", f"{shown} is not plain ASCII; save the file as UTF-8 without a byte order mark")


def _show(token: bytes) -> str:
    text = token.decode("utf-8", "backslashreplace")
    return ascii(text if len(text) <= 40 else text[:37] + "...")
