"""Realistic damage to libsvm lines, and how sklearn parses a line."""

import io

from sklearn.datasets import load_svmlight_file

_PIECES = (
    "",
    " ",
    "  ",
    "\t",
    "\r",
    "\v",
    ":",
    "::",
    ": ",
    "#",
    "# x",
    "-",
    "+",
    ".",
    "e",
    "_",
    "\0",
    "0",
    "9",
    "qid:1 ",
    "\ufeff",
    "é",
)
_TOKENS = (
    *("0:1", "1:1", "12:7", "13:7", "5", "5:", ":5", "5:5:5", "5:nan", "5:inf", "5:-inf", "5:1e999", "5:1e-999", "5:256", "5:-1"),
    *(
        "5:0x5",
        "+5:1",
        "1_0:1",
        "5:1_0",
        "5:1.5",
        "5:+7",
        "5:007",
        "005:7",
        "99999999999:1",
        "5:0.1e1",
        "qid:3",
        "a:b",
        "\u0665:1",
    ),
)
_LABELS = ("0", "3", "9", "10", "-1", "+3", "3.0", "3e0", "3.5", "nan", "inf", "1e999", "x", "", "0x3", "1_0", "3,4", "#")


def line(random):
    """A well-formed line of up to twelve values."""
    indices = sorted(random.sample(range(1, 13), random.randint(0, 12)))
    return " ".join([str(random.randint(0, 9)), *(f"{index}:{random.randint(0, 255)}" for index in indices)])


def mutated(random):
    """Bytes without a newline: a well-formed line with up to three mutations."""
    text = line(random)
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        position = random.randint(0, len(text))
        tokens = text.split(" ")
        which = random.randrange(len(tokens))
        match random.randrange(8):
            case 0:
                text = text[:position] + random.choice(_PIECES) + text[position:]
            case 1:
                text = text[:position] + text[position + random.randint(1, 3) :]
            case 2:
                text = text[:position]
            case 3:
                text = " ".join([*tokens[:which], random.choice(_TOKENS), *tokens[which:]])
            case 4:
                text = " ".join([*tokens[:which], tokens[which], *tokens[which:]])
            case 5:
                text = " ".join([*tokens[:which], *tokens[which + 1 :], tokens[which]])
            case 6:
                text = " ".join([random.choice(_LABELS), *tokens[1:]])
            case 7:
                text += random.choice((" ", "\r", "\t", " # note", " 12:1"))
    return text.encode()


def parsed_by_sklearn(raw, width=12):
    """(values, label), None for a line without content, or the error message."""
    try:
        matrix, labels = load_svmlight_file(io.BytesIO(raw + b"\n"), n_features=width, zero_based=False)
    except (ValueError, OverflowError, IndexError) as error:
        return str(error) or type(error).__name__
    return (matrix.toarray()[0], labels[0]) if len(labels) else None
