"""YAML in which no key occurs twice in a mapping. YAML forbids that; PyYAML silently drops all but the last one."""

from typing import Any

import yaml
from yaml.nodes import MappingNode


class DuplicateKey(yaml.MarkedYAMLError):
    """A key occurs twice. Its message says which, and where both are."""

    def __init__(self, key: object, first: yaml.Mark, second: yaml.Mark) -> None:
        super().__init__(problem=f"{key} occurs twice", problem_mark=second)
        self.key = key
        self.first = first.line + 1
        """Its line, from 1; `problem_mark` is that of the second."""


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: MappingNode) -> None:
        # Before keys that are merged into the mapping, which its own may replace.
        seen: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = (key.tag, key.value)
                if name in seen:
                    raise DuplicateKey(key.value, seen[name], key.start_mark)
                seen[name] = key.start_mark
        super().flatten_mapping(node)


def parse(text: str) -> Any:
    """Plain data.

    Raises:
        DuplicateKey: a key occurs twice in a mapping.
        yaml.YAMLError: the text is not YAML.
    """
    return yaml.load(text, _Loader)


def problem(error: Exception) -> str:
    """What is wrong with a file that cannot be parsed, to be put after its name: its line, the rule and the remedy."""
    mark = getattr(error, "problem_mark", None)
    line = f" line {mark.line + 1}" if mark is not None else ""
    if isinstance(error, DuplicateKey):
        return f"{line}: {error.key} is also in line {error.first}; put both together, or leave one out"
    return f"{line}: not valid YAML; check indentation and colons"
