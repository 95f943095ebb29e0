"""The record of `.ci/runtime`, and the table that is written from it."""

import os

import pytest

from tools import runtimes


def write_results(folder, failing="", skipping=""):
    for part in runtimes.PARTS:
        inner = {failing: "<failure/>", skipping: '<skipped message="no second disk"/>'}.get(part, "")
        (folder / f"{part}.xml").write_text(
            f'<testsuites><testsuite><testcase classname="tests.{part}" name="test_one">{inner}</testcase>'
            f'<testcase classname="tests.{part}" name="test_two"/></testsuite></testsuites>'
        )


def test_tests_of_all_parts_are_counted(tmp_path):
    write_results(tmp_path, failing="spark", skipping="training")
    assert runtimes.tests(tmp_path) == {
        "passed": 8,
        "failed": ["tests.spark::test_one"],
        "skipped": {"no second disk": 1},
    }


def test_of_a_repeated_test_the_last_result_counts(tmp_path):
    write_results(tmp_path, failing="spark")
    (tmp_path / "again.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.spark" name="test_one"/></testsuite></testsuites>'
    )
    os.utime(tmp_path / "again.xml", (2e9, 2e9))
    assert runtimes.tests(tmp_path) == {"passed": 10, "failed": [], "skipped": {}}


def test_a_missing_part_is_named_with_the_command_that_runs_it(tmp_path):
    write_results(tmp_path)
    (tmp_path / "training.xml").unlink()
    with pytest.raises(SystemExit, match=r"has no results of training: \.ci/runtime NAME training"):
        runtimes.tests(tmp_path)


def test_the_table_has_medians_reasons_of_skips_and_failures(tmp_path):
    write_results(tmp_path, failing="spark", skipping="training")
    trainings = [{"accuracy": 0.99 + seed / 1000, "rows_per_second": 1000 * seed, "first_step": seed} for seed in (1, 2, 3)]
    of = {"commit": "0a1b2c3", "date": "2026-12-01"}
    record = {**of, "versions": {"python": "3.12.1"}, "tests": runtimes.tests(tmp_path), "trainings": trainings}
    lines = runtimes.table({"dbr-17.3-ml": record}).splitlines()
    assert lines[0] == "|  | 17.3 LTS ML |"
    assert "| Python | 3.12.1 |" in lines
    assert "| tests passed | 8 |" in lines
    assert "| accuracy of three seeds, % | 99.10, 99.20, 99.30 |" in lines
    assert "| rows/s, median | 2,000 |" in lines
    assert "| first step after, s, median | 2.0 |" in lines
    assert "- no second disk" in lines
    assert "- 17.3 LTS ML: tests.spark::test_one" in lines
