"""Where the time of a test run went."""

from collections import defaultdict

import pytest

_SHORT_RUN = 20
_FILES, _TESTS = 8, 10


def summary(reports):
    """Lines with the seconds of every tier, and of the slowest files and tests; none for a short run.

    Args:
        reports: pytest's reports of set-up, call and tear-down of every test. What a fixture takes counts for the test that is
            first to use it.
    """
    tiers, files, tests = (defaultdict(float) for _ in range(3))
    for report in reports:
        if isinstance(report, pytest.TestReport):
            file = report.nodeid.partition("::")[0].removeprefix("tests/")
            tiers[file.partition("/")[0]] += report.duration
            files[file] += report.duration
            tests[report.nodeid.removeprefix("tests/")] += report.duration
    if sum(tiers.values()) < _SHORT_RUN:
        return []
    return [
        f"{sum(tiers.values()):.0f} s of tests, side by side: "
        + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in _longest(tiers, len(tiers))),
        *(f"{seconds:6.1f} s  {name}" for name, seconds in _longest(files, _FILES)),
        "slowest tests, each with the fixtures that it is first to use:",
        *(f"{seconds:6.1f} s  {name}" for name, seconds in _longest(tests, _TESTS)),
    ]


def _longest(seconds, count):
    return sorted(seconds.items(), key=lambda item: -item[1])[:count]
