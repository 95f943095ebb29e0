"""Whether the installed packages that training needs still have their files."""

import csv
import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence

_NEEDED = ("convoy", "horovod", "keras", "tensorflow", "tensorflow-cpu")
_CODE = (".py", ".so")


def missing_files(needed: Sequence[str] = _NEEDED) -> tuple[str, ...]:
    """For each package that lacks a file of its code, the first one, as `FILE (PACKAGE)`.

    Args:
        needed: names of packages; what they require is checked, too. One that is not installed, or has no record of its files, as
            those of the system's package manager, counts as complete.
    """
    missing = []
    for package in _installed(needed):
        lost = next((file for file in _code(package) if not os.path.isfile(str(package.locate_file(file)))), None)
        if lost is not None:
            missing.append(f"{lost} ({package.metadata['Name']})")
    return tuple(missing)


def _installed(needed: Sequence[str]) -> Iterator[importlib.metadata.Distribution]:
    """The needed packages and all that they require."""
    queue, seen = list(needed), set()
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield package
        # Extras of other packages are not needed; Convoy's own are what it runs on.
        wanted = (line for line in package.requires or () if name == "convoy" or "extra ==" not in line)
        queue += [match[0] for match in map(re.compile(r"[\w.-]+").match, wanted) if match]


def _code(package: importlib.metadata.Distribution) -> Iterator[str]:
    # Python 3.12 leaves missing files out of `package.files`.
    for row in csv.reader((package.read_text("RECORD") or "").splitlines()):
        folders = row[0].split("/")[:-1] if row else []
        # Some systems remove the tests of their packages.
        if row and row[0].endswith(_CODE) and not {"test", "tests", "testing", ".."} & set(folders):
            yield row[0]
