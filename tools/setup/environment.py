"""Builds the environment of a clone, or brings it up to date with the repository."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import shutil
import subprocess

from tools.setup.clone import Clone, cache, locked_block, replace, say
from tools.setup.horovod import install_horovod, wheel_or_compiler
from tools.setup.java import archive_classes, find_java, wheel_java
from tools.setup.python import find_python
from tools.setup.spark import write_spark_conf
from tools.setup.steps import Steps, exclusive


def set_up(clone: Clone, check_java: bool = False) -> str:
    """Bring the environment up to date with the repository; quick if it already is. Returns Java's home folder."""
    java_home = ready(clone, check_java)
    if java_home:
        return java_home
    with exclusive(clone.setup_lock, "another set-up of this clone is running; waiting for it") as lock:
        # The set-up that held the lock may have done everything.
        return ready(clone, check_java) or _build(Steps(clone, lock))


def ready(clone: Clone, check_java: bool = False) -> str | None:
    """Java's home folder if the last set-up completed for exactly this state of the repository, else None.

    With `check_java` (half a second), it must also be the Java that a set-up would choose now.
    """
    try:
        stamp = json.loads(clone.ready.read_text())
        java_home = str(stamp["java_home"])
        current = stamp["digest"] == digest(clone) and clone.python.exists()
        if not current or not os.access(f"{java_home}/bin/java", os.X_OK):
            return None
        return None if check_java and java_home != (find_java(clone) or wheel_java(clone)) else java_home
    except (OSError, ValueError, KeyError):
        return None


def digest(clone: Clone) -> str:
    """A digest of everything that determines the environment, including its path, which scripts in .venv contain."""
    tools = sorted((clone.root / "tools/setup").glob("*.py"))
    files = [clone.root / "convoy", *tools, clone.root / "pyproject.toml", *sorted(clone.spark_conf.iterdir())]
    total = hashlib.sha256(str(clone.root).encode())
    for file in [*files, clone.packages, clone.horovod]:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _build(steps: Steps) -> str:
    """Run the steps in order; each is skipped or quick if its result exists."""
    clone = steps.clone
    clone.log.write_text("")
    python = find_python(steps)
    has_environment = (clone.venv / f"bin/python{python.version}").exists() and (clone.venv / "bin/pip").exists()
    if not clone.ready.exists() or not has_environment:
        if clone.ready.exists():
            clone.ready.unlink()
        if not python.has_venv:
            steps.install_system_packages(
                [f"python{python.version}-venv"], f"{python.path} cannot create environments without it"
            )
        wheel_or_compiler(steps, python.version)
        _make_venv(steps, python.path)
    else:
        clone.ready.unlink()
        wheel_or_compiler(steps, python.version)
    steps.variables["PATH"] = f"{clone.venv}/bin{os.pathsep}{steps.variables.get('PATH', os.defpath)}"
    steps.variables["VIRTUAL_ENV"] = str(clone.venv)
    _install_locked(steps)
    install_horovod(steps, python.version)
    steps.uv("Convoy itself", "install", "--no-deps", "--no-build-isolation", "--editable", str(clone.root))
    java_home = find_java(clone) or wheel_java(clone)
    write_spark_conf(clone, java_home)
    archive_classes(steps, java_home)
    replace(clone.ready, json.dumps({"digest": digest(clone), "java_home": java_home}))
    return java_home


def _make_venv(steps: Steps, python: str) -> None:
    venv = steps.clone.venv
    if venv.exists():
        say(f"found an incomplete {venv.name}; starting again")
        shutil.rmtree(venv)
    steps.run(f"environment {venv.name} with {python}", [python, "-m", "venv", str(venv)])


def _install_locked(steps: Steps) -> None:
    clone = steps.clone
    bootstrap = clone.venv / "uv.txt"
    bootstrap.write_text(locked_block(clone.packages.read_text(), "uv"))
    pip = [str(clone.python), "-m", "pip", "--disable-pip-version-check"]
    steps.run("uv, the installer", [*pip, "install", "--require-hashes", "--no-deps", "-r", str(bootstrap)])
    shown = subprocess.run([*pip, "config", "list"], env=steps.variables, stdout=subprocess.PIPE, text=True)
    for name, value in uv_settings(shown.stdout).items():
        steps.variables.setdefault(name, value)
    steps.variables["UV_CACHE_DIR"] = str(cache() / "uv")
    lock = str(clone.packages)
    steps.uv(
        f"packages of conf/constraints/{clone.packages.name}",
        *("sync", "--require-hashes", "--build-constraints", lock, "--compile-bytecode", lock),
    )


def uv_settings(pip_config: str) -> dict[str, str]:
    """uv's equivalents of the settings that `pip config list` shows, so that one configuration serves both."""
    found: dict[str, tuple[str, str]] = {}
    for line in pip_config.splitlines():
        section, _, rest = line.partition(".")
        name, equals, value = rest.partition("=")
        # Environment variables take precedence over files, as in pip.
        if equals and section in ("global", "install", ":env:") and found.get(name, ("", ""))[0] != ":env:":
            with contextlib.suppress(ValueError, SyntaxError):
                found[name] = (section, str(ast.literal_eval(value)))
    pip = {name: value for name, (_, value) in found.items()}
    # Every file is checked against its hash, so it does not matter which index a package comes from.
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_TIMEOUT": "180"}
    extra = [url for url in pip.get("extra-index-url", "").split() if url.startswith(("http://", "https://"))]
    for key, setting in (
        ("UV_DEFAULT_INDEX", pip.get("index-url")),
        ("UV_INDEX", " ".join(extra)),
        ("UV_INSECURE_HOST", pip.get("trusted-host")),
        ("SSL_CERT_FILE", pip.get("cert")),
    ):
        if setting:
            settings[key] = setting
    return settings
