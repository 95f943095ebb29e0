"""Import paths in settings: `package.module:name`, or `path/to/file.py:name`.

The file's location may have any form that `pipelines.system.paths` takes.
"""

from dataclasses import dataclass

from pipelines.system import paths

ALL_RANKS = "all:"
"""Before the import path of a callback that runs on all ranks, not just on rank 0."""
_FILE_SUFFIX = ".py"


@dataclass(frozen=True)
class ImportPath:
    """Where an object of the user's is: a network's function, a loss, a metric or a callback."""

    module: str
    """Dotted name of a module, or location of a file."""
    name: str
    """Name of the object in it."""

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    @property
    def is_file(self) -> bool:
        return self.module.endswith(_FILE_SUFFIX)


def parse(text: str) -> ImportPath | None:
    """The import path that a text is; None for a name without a colon, such as that of a registered network."""
    module, colon, name = text.rpartition(":")
    return ImportPath(module, name) if colon else None


def short(text: str) -> str:
    """A name or import path without folders and packages: `mine:build` for `path/to/mine.py:build`, `mine` for `mine.py:mine`."""
    path = parse(text)
    if path is None:
        return text
    module = path.module.removesuffix(_FILE_SUFFIX) if path.is_file else path.module.replace(".", "/")
    module = module.rpartition("/")[2].rpartition(":")[2]
    return module if module == path.name else f"{module}:{path.name}"


def located(text: str) -> str:
    """An import path from the command line, its file found as `paths.given` finds it. Other texts as they are."""
    prefix = ALL_RANKS if text.startswith(ALL_RANKS) else ""
    path = parse(text.removeprefix(prefix))
    return f"{prefix}{paths.given(path.module)}:{path.name}" if path is not None and path.is_file else text
