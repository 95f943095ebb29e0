"""The init script of clusters: who compiles Horovod, and with which patch. `.ci/init-script` runs all of it."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.object_store import object_store

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


@pytest.fixture(params=["a local folder", "an object store"])
def volume(request, tmp_path):
    if request.param == "a local folder":
        yield tmp_path
    else:
        with object_store(tmp_path / "volume") as mount:
            yield mount


def start_node(tmp_path, name, build="sleep 2", volume=None, **seconds):
    code = NODE.format(script=SCRIPT, log=tmp_path / "log", kept=(volume or tmp_path) / "kept", build=build)
    defaults = {"HEARTBEAT_SECONDS": "0.3", "GONE_SECONDS": "30", "SETTLE_SECONDS": "0.5"}
    variables = {**os.environ, "HOSTNAME": name, **defaults, **{key.upper(): str(value) for key, value in seconds.items()}}
    return subprocess.Popen(["bash", "-c", code], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def builders(tmp_path):
    return (tmp_path / "log").read_text().split()


def test_of_nodes_that_come_together_one_compiles_and_all_get_its_wheel(tmp_path, volume):
    # The nodes' claims must be there within this time, on a machine that is busy with other tests.
    nodes = [start_node(tmp_path, f"node-{number}", volume=volume, settle_seconds=5) for number in range(4)]
    outputs = [node.communicate(timeout=60)[0].strip() for node in nodes]
    assert [node.returncode for node in nodes] == [0] * 4
    assert outputs == [str(volume / "kept/horovod-0.28.1-cp312-cp312-linux_x86_64.whl")] * 4
    assert len(builders(tmp_path)) == 1
    assert list((volume / "kept/claims").iterdir()) == []


def test_a_node_that_comes_later_takes_the_kept_wheel_at_once(tmp_path):
    start_node(tmp_path, "first", build="true").communicate(timeout=60)
    started = time.monotonic()
    node = start_node(tmp_path, "second", settle_seconds=30)
    assert node.communicate(timeout=60)[0].strip().endswith(".whl")
    assert time.monotonic() - started < 10
    assert builders(tmp_path) == ["first"]


def test_a_builder_that_dies_is_followed_by_the_next(tmp_path, volume):
    first = start_node(tmp_path, "first", volume=volume, build="kill -KILL $$; exit 1", gone_seconds=3)
    first.wait(30)
    second = start_node(tmp_path, "second", volume=volume, build="true", gone_seconds=3)
    assert second.communicate(timeout=60)[0].strip().endswith(".whl")
    first.communicate(timeout=60)
    assert builders(tmp_path) == ["first", "second"]


def test_a_build_that_fails_is_a_failure_of_its_node_and_the_next_tries(tmp_path):
    first = start_node(tmp_path, "first", build="exit 1")
    assert first.wait(60) != 0
    first.communicate()
    assert start_node(tmp_path, "second", build="true").communicate(timeout=60)[0].strip().endswith(".whl")
    assert builders(tmp_path) == ["first", "second"]


def run_script(code, **variables):
    """What a part of the script prints to standard error, and its exit code."""
    defaults = {"SETTLE_SECONDS": "0", "HEARTBEAT_SECONDS": "1"}
    done = subprocess.run(
        [shutil.which("bash"), "-c", f"set -euo pipefail; . {SCRIPT}; scratch=$(mktemp -d); trap 'rm -rf $scratch' EXIT; {code}"],
        env={**os.environ, **defaults, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr.splitlines(), done.returncode


COMPILING = "convoy: compiling Horovod for kept; the other nodes wait for it"


@pytest.mark.parametrize("step", ["add no-such-package", "wheel=$(kept_wheel {kept})"], ids=["packages", "Horovod"])
def test_without_a_network_one_line_says_so_and_what_to_do(tmp_path, step):
    """With the real pip, and an index that nobody serves."""
    # Nothing may be installed into the environment of the tests.
    settings = {"PIP_DRY_RUN": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    index = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "no_proxy": "127.0.0.1"}
    shown, code = run_script(step.format(kept=tmp_path / "kept"), PYTHON=sys.executable, **settings, **index)
    assert [line for line in shown if line != COMPILING] == [
        "convoy: the package index cannot be reached; connect this node, or set an index (PIP_INDEX_URL) or a proxy "
        "(https_proxy) that it can reach in the cluster's spark_env_vars"
    ]
    assert code == 1
    assert not list(tmp_path.glob("kept/claims/*"))


@pytest.mark.parametrize(
    "output",
    [
        "WARNING: Retrying (Retry(total=0))\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES",
        "ERROR: Could not find a version (from versions: none)",
        "HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /six (Caused by SSLError(x))",
    ],
)
def test_another_failure_of_pip_is_shown_as_pip_tells_it(tmp_path, output):
    (tmp_path / "output").write_text(f"{output}\n")
    (tmp_path / "python").write_text(f"#!/bin/sh\ncat {tmp_path}/output >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    assert run_script("pip install six", PYTHON=str(tmp_path / "python")) == (output.splitlines(), 1)


@pytest.mark.parametrize("missing", ["g++ make", "make"])
def test_without_a_compiler_one_line_says_so_and_what_to_do(tmp_path, missing):
    (tmp_path / "bin").mkdir()
    for tool in ("basename", "cat", "cp", "date", "head", "ls", "mkdir", "mktemp", "rm", "sleep"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    if missing == "make":
        (tmp_path / "bin/g++").symlink_to(shutil.which("true"))
    shown, code = run_script(f"wheel=$(kept_wheel {tmp_path}/kept)", PATH=str(tmp_path / "bin"))
    assert [line for line in shown if line != COMPILING] == [
        f"convoy: to compile Horovod, this node needs {missing}; install what is missing with an init script before this one "
        f"(apt-get install -y {missing})"
    ]
    assert code == 1
    assert not list(tmp_path.glob("kept/claims/*"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_volume_that_cannot_be_written_ends_the_script_and_is_named(tmp_path, when):
    kept = tmp_path / "kept"
    if when == "before":
        kept.touch()
    build = 'build_wheel() { mkdir -p "$1"; touch "$1/horovod-1.whl"; }'
    full = 'cp() { case $2 in *.whl*) return 1 ;; esac; command cp "$@"; }'
    shown, code = run_script(f"{build}; {full}; wheel=$(kept_wheel {kept})")
    assert shown[-1] == f"convoy: {kept} cannot be written; create the volume, or set CONVOY_WHEELS to a folder that can be"
    assert code == 1


def test_a_runtime_that_brings_everything_gets_nothing(tmp_path):
    """As 15.4 does."""
    # It answers every question for a version, and has no pip.
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = -c ] && echo 1.0 || { echo "$@" >&2; exit 1; }\n')
    (tmp_path / "python").chmod(0o755)
    variables = {**os.environ, "PYTHON": str(tmp_path / "python"), "CONVOY_WHEELS": str(tmp_path / "wheels")}
    done = subprocess.run(["bash", SCRIPT], env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("convoy: TensorFlow 1.0, Horovod 1.0, Petastorm 1.0\n", "")
    assert done.returncode == 0
    assert not (tmp_path / "wheels").exists()


@pytest.mark.parametrize("runtime", ["15.4", "16.4", "17.3", "18", "19"])
def test_the_environment_for_the_whole_script_lacks_what_the_runtime_lacks(runtime):
    """Of what the runtime's facts tell: `.ci/init-script` may take out nothing else."""
    chosen = re.search(r"^missing=.*?^esac$", (ROOT / ".ci/init-script").read_text(), re.M | re.S).group(0)
    shown = subprocess.run(
        ["bash", "-c", f'{chosen}; echo "$missing"'],
        env={"name": runtime},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    missing = set(filter(None, shown.stdout.strip().split("|")))
    facts = set(re.findall(r"^([\w-]+)==", (ROOT / f"conf/constraints/dbr-{runtime}-ml.txt").read_text(), re.M))
    assert missing & facts == set()
    assert missing >= {"tensorflow", "horovod", "petastorm"} - facts
    if runtime == "15.4":
        assert missing == set()


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
