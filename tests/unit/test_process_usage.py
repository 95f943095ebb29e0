"""What a process knows of its own use of processors and links."""

import socket
import threading
import time

import pytest

from pipelines.system import process_usage
from pipelines.system.process_usage import UsageMeter


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A file `cpu.stat` of the control group of this process."""
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(process_usage, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(process_usage, "_MOUNT", tmp_path)
    monkeypatch.setattr(process_usage.os, "sched_getaffinity", lambda _: {0, 1})
    return tmp_path / "cpu.stat"


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        ("usage_usec 5\nthrottled_usec 3000000\n", 1.5),
        ("nr_periods 7\nthrottled_time 3000000000\n", 1.5),
        # A group of version 2 without a limit of processors.
        ("usage_usec 5\nuser_usec 3\nsystem_usec 2\n", 0.0),
        ("", 0.0),
        ("throttled_usec many\n", 0.0),
    ],
)
def test_the_control_group_says_how_long_it_was_held(group, content, seconds):
    group.write_text(content)
    assert UsageMeter().usage().throttled_seconds == seconds


def test_without_control_groups_nothing_was_held(group):
    assert UsageMeter().usage().throttled_seconds == 0.0


def test_what_ended_threads_have_used_counts():
    def compute():
        deadline = time.thread_time() + 0.2
        while time.thread_time() < deadline:
            pass

    meter = UsageMeter()
    before = meter.usage()
    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    # Each waits for the other.
    time.sleep(0.1)
    during = meter.usage()
    for thread in threads:
        thread.join()
    after = meter.usage()
    assert after.processor_seconds - before.processor_seconds > 0.35
    assert before.queued_seconds <= during.queued_seconds <= after.queued_seconds


def test_connections_of_this_machine_with_itself_are_no_links():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as connection:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"x")
            found = UsageMeter().usage()
            assert (found.links, found.address) == ({}, "")
            # Looking at a connection has left it open.
            assert connection.recv(1) == b"x"
