"""Builds the environment of a clone, or brings it up to date with the repository."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from typing import Mapping

from tools.setup import integrity
from tools.setup.clone import Clone, SetupError, cache, locked_block, replace, say
from tools.setup.horovod import install_horovod, wheel_or_compiler
from tools.setup.integrity import Damage
from tools.setup.java import archive_classes, archive_is_damaged, find_java, wheel_java
from tools.setup.python import find_python
from tools.setup.spark import write_spark_conf
from tools.setup.steps import Steps, exclusive


def set_up(clone: Clone, thorough: bool = False) -> str:
    """Bring the environment up to date with the repository; quick if it already is. Returns Java's home folder."""
    java_home = ready(clone, thorough)
    if java_home:
        return java_home
    try:
        with exclusive(clone.setup_lock, "another set-up of this clone is running; waiting for it") as lock:
            # The set-up that held the lock may have done everything.
            return ready(clone, thorough) or _build(Steps(clone, lock))
    except OSError as error:
        remedy = "free disk space or allow writing there, then run ./convoy again; it starts again where that is safe"
        raise SetupError(f"{error.filename or clone.root}: {error.strerror or error}; {remedy}") from error


def ready(clone: Clone, thorough: bool = False) -> str | None:
    """Java's home folder if the last set-up completed for exactly this state of the repository, else None.

    No entry of its folders of packages and programs may be missing. With `thorough` (a second), no file of a package may be
    missing or changed, nor the archive of Spark's classes, and Java must be the one that a set-up would choose now.
    """
    try:
        stamp = json.loads(clone.ready.read_text())
        java_home = str(stamp["java_home"])
        current = stamp["digest"] == digest(clone) and clone.python.exists()
        if not current or not os.access(f"{java_home}/bin/java", os.X_OK):
            return None
        if not set(stamp.get("contents", ())) <= set(integrity.contents(clone)):
            return None
        if thorough and (
            integrity.damaged(clone, stamp.get("deviations", ()))
            or archive_is_damaged(clone)
            or java_home != (find_java(clone) or wheel_java(clone))
        ):
            return None
        return java_home
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
    steps.new_log()
    python = find_python(steps)
    programs = (f"bin/python{python.version}", "bin/python", "bin/pip", "pyvenv.cfg")
    has_pip = any(clone.venv.glob("lib/python3.*/site-packages/pip/__init__.py"))
    damaged = integrity.damaged(clone, _known_deviations(clone))
    has_environment = has_pip and "pip" not in damaged and all((clone.venv / name).exists() for name in programs)
    if not clone.ready.exists() or not has_environment:
        if clone.ready.exists():
            clone.ready.unlink()
        if not python.has_venv:
            steps.install_system_packages(
                [f"python{python.version}-venv"], f"{python.path} cannot create environments without it"
            )
        wheel_or_compiler(steps, python.version)
        _make_venv(steps, python.path)
        damaged = {}
    else:
        clone.ready.unlink()
        wheel_or_compiler(steps, python.version)
    steps.variables["PATH"] = f"{clone.venv}/bin{os.pathsep}{steps.variables.get('PATH', os.defpath)}"
    steps.variables["VIRTUAL_ENV"] = str(clone.venv)
    _install_locked(steps, damaged)
    install_horovod(steps, python.version)
    steps.uv("Convoy itself", "install", "--no-deps", "--no-build-isolation", "--editable", str(clone.root))
    java_home = find_java(clone) or wheel_java(clone)
    write_spark_conf(clone, java_home)
    archive_classes(steps, java_home)
    _compile_parser(steps)
    for name, damage in integrity.damaged(clone).items():
        if name in damaged:
            file = clone.site_packages / damage.file
            raise SetupError(f"{file} of {name} is still damaged; delete {clone.venv}, then run ./convoy again")
    state = {"contents": integrity.contents(clone), "deviations": integrity.deviations(clone)}
    replace(clone.ready, json.dumps({"digest": digest(clone), "java_home": java_home, **state}))
    return java_home


def _compile_parser(steps: Steps) -> None:
    """Compile the parser of libsvm text; otherwise each process of the first ingest of much text would."""
    program = "from pipelines.data.formats import libsvm_compiled; libsvm_compiled.prepare()"
    try:
        steps.run("parser of libsvm text", [str(steps.clone.python), "-c", program])
    except SetupError:
        say(f"the parser could not be compiled ({steps.clone.log} says why); the first ingest will take some seconds longer")


def _known_deviations(clone: Clone) -> list[str]:
    try:
        return list(json.loads(clone.ready.read_text()).get("deviations", ()))
    except (OSError, ValueError):
        return []


def _make_venv(steps: Steps, python: str) -> None:
    venv = steps.clone.venv
    if venv.exists():
        say(f"found an incomplete {venv.name}; starting again")
        shutil.rmtree(venv)
    steps.run(f"environment {venv.name} with {python}", [python, "-m", "venv", str(venv)])


def _install_locked(steps: Steps, damaged: Mapping[str, Damage]) -> None:
    clone = steps.clone
    bootstrap = clone.venv / "uv.txt"
    bootstrap.write_text(locked_block(clone.packages.read_text(), "uv"))
    pip = [str(clone.python), "-m", "pip", "--disable-pip-version-check"]
    again = ["--force-reinstall"] if "uv" in damaged else []
    steps.run("uv, the installer", [*pip, "install", "--require-hashes", "--no-deps", *again, "-r", str(bootstrap)])
    shown = subprocess.run([*pip, "config", "list"], env=steps.variables, stdout=subprocess.PIPE, text=True)
    for name, value in uv_settings(shown.stdout).items():
        steps.variables.setdefault(name, value)
    steps.variables["UV_CACHE_DIR"] = str(cache() / "uv")
    if damaged:
        say(f"found damaged packages: {', '.join(damaged)}; installing them again")
    # The file of a package may be one with that in uv's cache.
    changed = [name for name, damage in damaged.items() if damage.is_changed]
    if changed:
        steps.run("removing them from uv's cache", [str(clone.venv / "bin/uv"), "cache", "clean", *changed])
    lock = str(clone.packages)
    steps.uv(
        f"packages of conf/constraints/{clone.packages.name}",
        *("sync", "--require-hashes", "--build-constraints", lock, "--compile-bytecode"),
        *(f"--reinstall-package={name}" for name in damaged),
        lock,
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
