"""What another user of the machine can reach of a running training (docs/security.md)."""

import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.submitting import Training, write_digits

from pipelines.launch.health import heartbeat

INTRUDER = Path(__file__).parents[1] / "support" / "intruder.py"
pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


def steps(attempt):
    """How many each rank has made."""
    return [heartbeat.read(attempt, rank).progress.step_times.steps for rank in (0, 1)]


@pytest.fixture(scope="module")
def found():
    """What the intruder found, while the training went on; the addresses where its processes listened; the names of all files."""
    # Not in pytest's folder, which others may not enter.
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        write_digits(home)
        with Training(home, "training.epochs=1000") as training:
            training.wait_for("epoch 2")
            listening = {
                (address.ip, address.port)
                for process in training.processes()
                for address in [connection.laddr for connection in process.net_connections() if connection.status == "LISTEN"]
            }
            ports = [str(port) for _, port in sorted(listening)]
            done = subprocess.run(
                [sys.executable, str(INTRUDER), folder, *ports], capture_output=True, text=True, timeout=120, check=False
            )
            names = {path.name for path in home.rglob("*")}
            (attempt,) = home.glob("runs/*/attempts/*")
            done_before, end = steps(attempt), time.monotonic() + 60
            while min(steps(attempt)) < max(done_before) + 20:
                assert time.monotonic() < end
                time.sleep(0.1)
            assert list(attempt.parent.iterdir()) == [attempt]
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), listening, names


def test_nothing_of_a_run_can_be_changed_or_added_to(found):
    files = found[0]["files"]
    assert files["readable"]
    assert (files["writable"], files["open"]) == ([], [])


def test_settings_logs_and_the_tracking_journal_cannot_be_read(found):
    intruder, _, names = found
    private = {"config.yml", "journal.jsonl", "rank-0.log", "rank-1.log"}
    assert private <= names
    assert not private & {Path(name).name for name in intruder["files"]["readable"]}


def test_everything_listens_on_loopback(found):
    _, listening, _ = found
    assert listening
    assert [address for address in listening if not ipaddress.ip_address(address[0].removeprefix("::ffff:")).is_loopback] == []


def test_the_gateway_to_java_asks_for_its_token_and_the_rendezvous_tells_nothing_that_was_not_asked_for(found):
    intruder, listening, _ = found
    answers = intruder["tcp"]
    assert {int(port) for port in answers} == {port for _, port in listening}
    (java,) = [texts for texts in answers.values() if "py4j" in texts[1]]
    assert "Authentication error" in java[2]
    (rendezvous,) = [texts for texts in answers.values() if texts[1].startswith("HTTP")]
    assert "400 Bad Request" in rendezvous[1]


def test_the_sockets_of_fork_server_and_shared_memory_hang_up(found):
    sockets = found[0]["unix"]
    assert sockets
    assert set(sockets.values()) == {"hung up"}
