"""Names that some library takes for something else than a name, and those that no command takes."""

from pathlib import Path

NAMES = (
    *("a[1]", "a{x}", "a{x,y}", "a*b", "a?b", "a\\b", "a%41b", "a%b", "a+b", "a=b", "_a", ".a", "-a", "--help"),
    *("O'Brien", 'a"b', "a`b", "$HOME", "$(x)", "a&b", "a|b", "a;b", "a#b", "a!b", "a,b", "a:b", "s3:b", "dbfs:b", "file:b"),
    *("a b", " a", "a ", "a.", "~", "~root", "~nosuchuser", "null", "no", "7", "2026-11-29", "@a", "a: b", "a #b"),
    *("- a", "'a", '"a"', "Zürich", "Zu\u0308rich", "日本", "a\u00a0b", "\u202eb", "x" * 200),
)
"""Names of files and folders. Each stands for itself."""

HOME = ("a[1]", "a{x,y}", "a*b", "a\\b", "_a", ".a", "-a", "O'Brien", "$HOME", "a`b", "a&b,c=d", "~root", " a ", "Zu\u0308rich é")
"""A path of such names that may hold everything: data, tables, runs and a tracking store."""

REFUSED = (
    ("a\nb", "contains a line break"),
    ("a\rb", "contains a line break"),
    ("a\tb", "contains a line break or another control character"),
    ("a\x00b", "control character"),
    ("a\x1bb", "control character"),
    ("a\u2028b", "contains a line break"),
    ("Z\udcfcrich", r"/Z\\xfcrich/b: is not UTF-8"),
    ("x" * 256, "is longer than a name can be"),
    ("ü" * 128, "is longer than a name can be"),
    ("/".join(["x" * 250] * 17), "is longer than a path can be"),
)
"""Names, and what the message about them matches."""


def folder(parent: Path) -> Path:
    """A new folder below `parent` on the path `HOME`."""
    path = parent.joinpath(*HOME)
    path.mkdir(parents=True)
    return path
