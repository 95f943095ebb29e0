"""The init script of clusters: who compiles Horovod, and with which patch. `.ci/init-script` runs all of it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tools.setup import horovod

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "conf/databricks/init.sh"
# Building is a line in a file, some time, and an empty wheel.
NODE = """
set -euo pipefail
. {script}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build_wheel() {{
    echo "$HOSTNAME" >> {log}
    {build}
    mkdir -p "$1"
    touch "$1/horovod-0.28.1-cp312-cp312-linux_x86_64.whl"
}}
kept_wheel {kept}
"""


def start_node(tmp_path, name, build="sleep 2", **seconds):
    code = NODE.format(script=SCRIPT, log=tmp_path / "log", kept=tmp_path / "kept", build=build)
    defaults = {"HEARTBEAT_SECONDS": "0.3", "GONE_SECONDS": "30", "SETTLE_SECONDS": "0.5"}
    variables = {**os.environ, "HOSTNAME": name, **defaults, **{key.upper(): str(value) for key, value in seconds.items()}}
    return subprocess.Popen(["bash", "-c", code], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def builders(tmp_path):
    return (tmp_path / "log").read_text().split()


def test_of_nodes_that_come_together_one_compiles_and_all_get_its_wheel(tmp_path):
    # The nodes' claims must be there within this time, on a machine that is busy with other tests.
    nodes = [start_node(tmp_path, f"node-{number}", settle_seconds=5) for number in range(4)]
    outputs = [node.communicate(timeout=60)[0].strip() for node in nodes]
    assert [node.returncode for node in nodes] == [0] * 4
    assert outputs == [str(tmp_path / "kept/horovod-0.28.1-cp312-cp312-linux_x86_64.whl")] * 4
    assert len(builders(tmp_path)) == 1
    assert list((tmp_path / "kept/claims").iterdir()) == []


def test_a_node_that_comes_later_takes_the_kept_wheel_at_once(tmp_path):
    start_node(tmp_path, "first", build="true").communicate(timeout=60)
    started = time.monotonic()
    node = start_node(tmp_path, "second", settle_seconds=30)
    assert node.communicate(timeout=60)[0].strip().endswith(".whl")
    assert time.monotonic() - started < 10
    assert builders(tmp_path) == ["first"]


def test_a_builder_that_dies_is_followed_by_the_next(tmp_path):
    first = start_node(tmp_path, "first", build="kill -KILL $$; exit 1", gone_seconds=3)
    first.wait(30)
    second = start_node(tmp_path, "second", build="true", gone_seconds=3)
    assert second.communicate(timeout=60)[0].strip().endswith(".whl")
    first.communicate(timeout=60)
    assert builders(tmp_path) == ["first", "second"]


def test_a_build_that_fails_is_a_failure_of_its_node_and_the_next_tries(tmp_path):
    first = start_node(tmp_path, "first", build="exit 1")
    assert first.wait(60) != 0
    first.communicate()
    assert start_node(tmp_path, "second", build="true").communicate(timeout=60)[0].strip().endswith(".whl")
    assert builders(tmp_path) == ["first", "second"]


def test_the_patch_and_the_source_are_those_of_the_set_up(tmp_path):
    for folder in ("by the set-up", "by the script"):
        for name, line in horovod.REMOVED_LINES.items():
            (tmp_path / folder / name).parent.mkdir(parents=True)
            (tmp_path / folder / name).write_text(f"before\n{line}\nafter\n")
    horovod.patch(tmp_path / "by the set-up")
    subprocess.run(["bash", "-c", f". {SCRIPT}; patch_source '{tmp_path}/by the script'"], check=True, timeout=30)
    for name in horovod.REMOVED_LINES:
        assert (tmp_path / "by the script" / name).read_text() == (tmp_path / "by the set-up" / name).read_text()
    text = SCRIPT.read_text()
    assert f"PATCH={horovod.PATCH}\n" in text
    version, _, rest = (ROOT / "conf/constraints/horovod.lock").read_text().partition("==")[2].partition(" ")
    assert f"HOROVOD={version}\n" in text
    assert f"HOROVOD_HASH={rest.partition('sha256:')[2].strip()}\n" in text


@pytest.mark.parametrize("variable", ["TENSORFLOW", "PETASTORM"])
def test_what_it_installs_is_what_the_runtimes_environments_are_tested_with(variable):
    version = next(line.partition("=")[2] for line in SCRIPT.read_text().splitlines() if line.startswith(f"{variable}="))
    pinned = f"\n{variable.lower()}=={version}"
    names = ["dbr-19-ml"] if variable == "TENSORFLOW" else ["dbr-16.4-ml", "dbr-17.3-ml", "dbr-18-ml", "dbr-19-ml"]
    assert all(pinned in (ROOT / f"conf/constraints/{name}.in").read_text() for name in names)
