"""Every test carries the name of its folder as a marker: `./convoy test -m unit`."""

from pathlib import Path

import pytest

TIERS = ("unit", "spark", "training", "distributed", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(tests).parts[0]
        assert tier in TIERS, f"{item.path} lies in no tier"
        item.add_marker(tier)
    # The quick tiers first: what they find need not wait for processes.
    items.sort(key=lambda item: TIERS.index(item.path.relative_to(tests).parts[0]))
