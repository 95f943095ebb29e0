import io
import logging
import logging.config
import subprocess
import sys

import pytest

from pipelines import cli
from pipelines.errors import ConfigError
from pipelines.track.rundir import logs


@pytest.fixture
def lines():
    """Configures logging into a buffer, and puts back what was there."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()

    def configured(who, level="INFO"):
        root.handlers = []
        logs.configure(stream, who, level)
        return lambda: stream.getvalue().splitlines()

    yield configured
    root.handlers, root.level = handlers, level
    logs.set_epoch(0)


def test_a_line_carries_time_rank_and_epoch(lines):
    written = lines("rank 3")
    log = logging.getLogger("pipelines.test")
    log.info("before")
    logs.set_epoch(7)
    log.warning("within %s", "it")
    log.debug("not asked for")
    before, within = written()
    assert before.endswith("Z rank 3 INFO pipelines.test: before")
    assert within.endswith("Z rank 3 epoch 7 WARNING pipelines.test: within it")


def test_secrets_do_not_reach_a_log(lines):
    written = lines("driver")
    logging.getLogger("pipelines.test").info("https://me:hunter2hunter2@example.com failed")
    assert "hunter2" not in written()[0]


def test_logs_are_merged_by_time_and_a_traceback_stays_with_its_line(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/driver.log").write_text(
        "2026-01-01T10:00:00.000Z driver INFO a: first\n2026-01-01T10:00:09.000Z driver INFO a: last\n"
    )
    (tmp_path / "logs/rank-0.log").write_text(
        "2026-01-01T10:00:01.000Z rank 0 INFO a: second\nTraceback (most recent call last):\n  ValueError: no\n"
    )
    (tmp_path / "logs/rank-1.log").write_text("a library speaks\n2026-01-01T10:00:00.500Z rank 1 INFO a: between\n")
    logs.merge(tmp_path / "logs", tmp_path / "run.log")
    assert [line[-30:] for line in (tmp_path / "run.log").read_text().splitlines()] == [
        line[-30:]
        for line in (
            "    rank-1| a library speaks",
            "2026-01-01T10:00:00.000Z driver INFO a: first",
            "2026-01-01T10:00:00.500Z rank 1 INFO a: between",
            "2026-01-01T10:00:01.000Z rank 0 INFO a: second",
            "    rank-0| Traceback (most recent call last):",
            "    rank-0|   ValueError: no",
            "2026-01-01T10:00:09.000Z driver INFO a: last",
        )
    ]


def test_only_the_end_of_a_huge_log_is_merged_and_the_omission_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MERGED_BYTES", 1000)
    text = "".join(f"2026-01-01T10:00:00.000Z rank 0 INFO a: {number}\n" for number in range(100))
    (tmp_path / "rank-0.log").write_text(text)
    logs.merge(tmp_path, tmp_path / "run.log")
    first, *_, last = (tmp_path / "run.log").read_text().splitlines()
    assert "bytes of" in first
    assert "are omitted" in first
    assert last.endswith("a: 99")


def test_a_log_tail_returns_each_complete_line_once(tmp_path):
    follower = logs.LogTail(tmp_path)
    path = tmp_path / "rank-0.log"
    path.write_text("2026-01-01T10:00:00.000Z rank 0 INFO a: one\nraw\nhalf")
    assert follower.new_lines() == ["2026-01-01T10:00:00.000Z rank 0 INFO a: one", "    rank-0| raw"]
    with path.open("a") as file:
        file.write(" a line\n")
    assert follower.new_lines() == ["    rank-0| half a line"]


def test_the_flags_for_output_are_parsed(tmp_path):
    request = cli.parse(["--quiet", "--log-level", "debug"], "", None)
    assert (request.verbosity, request.config.launch.log_level) == ("quiet", "DEBUG")
    assert cli.parse(["--verbose"], "", None).verbosity == "verbose"
    assert cli.parse([], "", None).verbosity == "normal"
    with pytest.raises(ConfigError, match=r"launch\.log_level"):
        cli.parse(["--log-level", "loud"], "", None)
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["--quiet", "--verbose"], "", None)


def test_an_error_is_one_line_with_details_for_developers_below():
    code = (
        "from pipelines import cli\nfrom pipelines.errors import LaunchError\n"
        "def main(arguments):\n    error = LaunchError(arguments[0])\n    error.details = arguments[1]\n    raise error\n"
        "import sys\ncli.run(main, sys.argv[1:])\n"
    )

    def printed(details):
        done = subprocess.run([sys.executable, "-c", code, "it failed", details], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        return done.stderr

    assert printed("") == "error: it failed\n"
    assert printed("Traceback\n  line\n") == "error: it failed\nTraceback\n  line\n"


def test_setting_up_a_store_cannot_replace_the_log_handlers(tmp_path):
    root = logging.getLogger()
    before = list(root.handlers)
    with logs.kept():
        logging.config.fileConfig(tmp_path / "alembic.ini", disable_existing_loggers=False)
    assert root.handlers == before
    with pytest.raises((KeyError, FileNotFoundError)):
        logging.config.fileConfig(tmp_path / "alembic.ini")
