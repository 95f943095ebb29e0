import pytest

from pipelines.config import IngestConfig
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.ingest.quarantine import check_bad_rows
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.sources.parsed_rows import BlockReport
from pipelines.errors import DataError

RULES = Rules(shape=(3, 4, 1), value_range=(0.0, 255.0), labels=(0, 1))
SOURCE = LibsvmFiles("digits", (("a-train.txt", "train"), ("a-test.txt", "test")))


def reports(bad, uses_last_index=True):
    """Two blocks per file; the malformed lines are in the second block of the test file, starting at its fifth line."""
    blocks = [BlockReport(file, block, lines=1000, rows=990) for file in (0, 1) for block in (0, 65_536)]
    blocks[-1] = BlockReport(1, 65_536, 1000, 990, bad, 4, "the label '7' is wrong", uses_last_index=uses_last_index)
    return blocks


def test_without_malformed_lines_nothing_is_reported():
    rejected = check_bad_rows(IngestConfig(), SOURCE, RULES, reports({}))
    assert (rejected.rows, rejected.per_file, rejected.by_reason, rejected.warnings) == (0, (0, 0), {}, ())


def test_the_first_malformed_line_is_numbered_across_the_blocks_of_its_file():
    with pytest.raises(DataError) as caught:
        check_bad_rows(IngestConfig(), SOURCE, RULES, reports({"label_unknown": 1}))
    assert str(caught.value) == (
        "a-test.txt:1005: the label '7' is wrong; fix the file, or set ingest.on_bad_rows=quarantine to continue "
        "without such lines"
    )


def test_the_limit_applies_to_each_file():
    """The limit is 20 malformed of 2,000 lines of the test file, whatever the training file contains."""
    config = IngestConfig(on_bad_rows="quarantine")
    within = check_bad_rows(config, SOURCE, RULES, reports({"label_unknown": 12, "colon_missing": 8}))
    assert (within.rows, within.per_file, within.by_reason) == (20, (0, 20), {"label_unknown": 12, "colon_missing": 8})
    assert within.warnings == (
        "a-test.txt:1005: the label '7' is wrong; set aside 20 of 2,000 lines (12 label_unknown, 8 colon_missing)",
    )
    with pytest.raises(DataError, match=r"^a-test\.txt:1005: .*; 21 of 2,001 rows .*more than ingest\.max_bad_fraction=0\.01"):
        check_bad_rows(config, SOURCE, RULES, reports({"label_unknown": 21}))


def test_a_few_lines_with_an_index_0_are_set_aside_with_a_caveat():
    config = IngestConfig(on_bad_rows="quarantine")
    (doubtful,) = check_bad_rows(config, SOURCE, RULES, reports({"index_zero": 3}, uses_last_index=False)).warnings
    assert doubtful.endswith("if the file is zero-based, its other rows are off by one value")
    # Index 12 is used, so indices start at 1.
    (certain,) = check_bad_rows(config, SOURCE, RULES, reports({"index_zero": 3}, uses_last_index=True)).warnings
    assert certain.endswith("(3 index_zero)")


@pytest.mark.parametrize("mode", ["fail", "quarantine"])
def test_a_zero_based_file_is_reported_as_such_once(mode):
    with pytest.raises(DataError, match="1,980 of 3,960 lines have an index 0 and none uses 12, so the file seems to be"):
        check_bad_rows(IngestConfig(on_bad_rows=mode), SOURCE, RULES, reports({"index_zero": 1980}, uses_last_index=False))
