"""What `databricks.yml` says, brought to what the Jobs API takes: one target, variables filled in, paths in the workspace.

This is the part of Databricks bundles that Convoy's own files use (targets, variables, references, the prefix of development
mode, relative paths), so that a job can be sent where Databricks' program is not installed. That program reads the same files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipelines import __version__
from pipelines.errors import ConfigError

BUNDLE_FILE = "databricks.yml"
WHEEL_NAME = f"convoy-{__version__}-py3-none-any.whl"

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.-]*)\}")
_DEEPEST = 10


@dataclass(frozen=True)
class Upload:
    """A file of the repository and its place in the workspace."""

    source: Path
    target: str


@dataclass(frozen=True)
class Deployment:
    """A job, ready to be sent."""

    target: str
    job: dict[str, Any]
    """Settings as the Jobs API takes them."""
    uploads: tuple[Upload, ...]
    wheel: str
    """Where in the workspace the job's tasks look for the wheel."""

    @property
    def parameters(self) -> dict[str, str]:
        """Names and defaults of the job's parameters."""
        return {parameter["name"]: str(parameter["default"]) for parameter in self.job.get("parameters", ())}


def load(home: Path, user: str, target: str = "", variables: Mapping[str, str] | None = None, job: str = "") -> Deployment:
    """Read the bundle and bring one job of it to what the Jobs API takes.

    Args:
        home: the folder of `databricks.yml`.
        user: who submits, as the workspace names them, usually an address.
        target: a target's name; empty for the bundle's default.
        variables: values in place of the variables' defaults.
        job: which job; empty for the only one.

    Raises:
        ConfigError: names the file, what is wrong in it, and the remedy.
    """
    bundle, origins = _read(home)
    name = _target(bundle, target)
    chosen = bundle["targets"][name] or {}
    root = chosen.get("workspace", {}).get(
        "root_path", "/Workspace/Users/${workspace.current_user.userName}/.bundle/convoy/" + name
    )
    # Beside what Databricks' program keeps of the same bundle, not in it.
    root = root.replace("/.bundle/", "/.convoy/")
    short_name = re.sub(r"\W", "_", user.partition("@")[0])
    values = {
        "bundle": {"name": bundle["bundle"]["name"], "target": name},
        "var": _variables(bundle, chosen, variables or {}),
        "workspace": {
            "root_path": root,
            "file_path": "${workspace.root_path}/files",
            "artifact_path": "${workspace.root_path}/artifacts",
            "current_user": {"userName": user, "short_name": short_name},
        },
        "resources": bundle["resources"],
    }
    prefix = f"[dev {short_name}] " if chosen.get("mode") == "development" else ""
    for experiment in values["resources"].get("experiments", {}).values():
        folder, _, last = experiment["name"].rpartition("/")
        experiment["name"] = f"{folder}/{prefix}{last}"
    settings: dict[str, Any] = _filled(_job(bundle, job), values)
    settings["name"] = f"{prefix}{settings['name']} (convoy submit)"
    files, artifacts = (_filled("${workspace." + part + "}", values) for part in ("file_path", "artifact_path"))
    wheel = f"{artifacts}/{WHEEL_NAME}"
    _place(settings, home, origins[_job_key(bundle, job)].parent, files, wheel)
    sources = [*sorted((home / "jobs").glob("*.py")), *sorted((home / "conf").glob("*.yml"))]
    sources += sorted((home / "conf/databricks").glob("*.sh"))
    uploads = tuple(Upload(source, f"{files}/{source.relative_to(home).as_posix()}") for source in sources)
    return Deployment(target=name, job=settings, uploads=uploads, wheel=wheel)


def runtime_variables(home: Path, runtime: str) -> dict[str, str]:
    """The bundle's variables for an ML runtime, such as 17.3.

    Raises:
        ConfigError: no file of facts describes it.
    """
    facts = {file.stem[len("dbr-") : -len("-ml")]: file for file in (home / "conf/constraints").glob("dbr-*-ml.txt")}
    if runtime not in facts:
        known = ", ".join(sorted(facts, key=lambda name: [int(part) for part in name.split(".")]))
        raise ConfigError(f"--runtime {runtime}: must be one of {known} (conf/constraints)")
    scala = re.search(r"^# Python .* Scala (\d+\.\d+)", facts[runtime].read_text(encoding="utf-8"), re.M)
    if scala is None:
        raise ConfigError(f"{facts[runtime]}: must say which Scala the runtime has, as in '# Python 3.12, Java 17, Scala 2.13.'")
    return {"runtime": runtime, "scala": scala[1]}


def _read(home: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The bundle with the resources of all files it includes, and by job the file that holds it."""
    bundle = _yaml(home / BUNDLE_FILE)
    resources: dict[str, dict[str, Any]] = {}
    origins: dict[str, Path] = {}
    files = [file for pattern in bundle.get("include", ()) for file in sorted(home.glob(pattern))]
    for file in [home / BUNDLE_FILE, *files]:
        content = bundle if file.name == BUNDLE_FILE else _yaml(file)
        for kind, found in content.get("resources", {}).items():
            resources.setdefault(kind, {}).update(found)
            if kind == "jobs":
                origins |= dict.fromkeys(found, file)
    return bundle | {"resources": resources}, origins


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); run this in a checkout of Convoy") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" line {place.line + 1}" if place is not None else ""
        raise ConfigError(f"{file}{where}: not valid YAML; check indentation and colons") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must hold sections such as 'resources:'")
    return content


def _target(bundle: Mapping[str, Any], wanted: str) -> str:
    targets = bundle["targets"]
    if wanted and wanted not in targets:
        raise ConfigError(f"--target {wanted}: must be one of {', '.join(targets)} (targets in {BUNDLE_FILE})")
    return wanted or next((name for name, target in targets.items() if (target or {}).get("default")), next(iter(targets)))


def _variables(bundle: Mapping[str, Any], target: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    known = bundle.get("variables", {})
    for name in given:
        if name not in known:
            raise ConfigError(f"--var {name}={given[name]}: must be one of {', '.join(known)} (variables in {BUNDLE_FILE})")
    values = {name: variable["default"] for name, variable in known.items() if "default" in variable}
    values |= target.get("variables", {})
    # As YAML would read them, so that a number is a number.
    return values | {name: yaml.safe_load(value) for name, value in given.items()}


def _job_key(bundle: Mapping[str, Any], wanted: str) -> str:
    jobs = bundle["resources"].get("jobs", {})
    if wanted in jobs or (not wanted and len(jobs) == 1):
        return wanted or next(iter(jobs))
    raise ConfigError(f"--job {wanted}: must be one of {', '.join(jobs)} (resources.jobs in conf/databricks)")


def _job(bundle: Mapping[str, Any], wanted: str) -> Any:
    return bundle["resources"]["jobs"][_job_key(bundle, wanted)]


def _filled(node: Any, values: Mapping[str, Any], depth: int = 0) -> Any:
    """The node with every `${...}` replaced. A text that is one reference takes the type of what it refers to."""
    if isinstance(node, dict):
        return {key: _filled(value, values, depth) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values, depth) for value in node]
    if not isinstance(node, str) or "${" not in node:
        return node
    if depth == _DEEPEST:
        raise ConfigError(f"{node}: a reference that leads back to itself; see {BUNDLE_FILE}")
    whole = _REFERENCE.fullmatch(node)
    if whole:
        return _filled(_value(whole[1], values), values, depth + 1)
    return _REFERENCE.sub(lambda found: str(_filled(_value(found[1], values), values, depth + 1)), node)


def _value(reference: str, values: Mapping[str, Any]) -> Any:
    found: Any = values
    for part in reference.split("."):
        if not isinstance(found, Mapping) or part not in found:
            remedy = f"give --var {reference[4:]}=VALUE" if reference.startswith("var.") else "correct the reference"
            raise ConfigError(f"${{{reference}}}: there is no such value; see {BUNDLE_FILE}, or {remedy}")
        found = found[part]
    return found


def _place(settings: dict[str, Any], home: Path, folder: Path, files: str, wheel: str) -> None:
    """Replace paths of the repository, which start at the folder of the job's file, by those in the workspace."""
    for task in settings["tasks"]:
        python = task.get("spark_python_task")
        if python is not None:
            source = (folder / python["python_file"]).resolve()
            if not source.is_file() or home.resolve() not in source.parents:
                raise ConfigError(f"task {task['task_key']}: python_file {python['python_file']}: no such file from {folder}")
            python["python_file"] = str(PurePosixPath(files) / source.relative_to(home.resolve()).as_posix())
            # The API takes texts only.
            python["parameters"] = [str(parameter) for parameter in python.get("parameters", ())]
        for library in task.get("libraries", ()):
            if str(library.get("whl", "")).startswith("."):
                library["whl"] = wheel
    for cluster in settings.get("job_clusters", ()):
        cluster["new_cluster"]["spark_conf"] = {
            key: str(value) for key, value in cluster["new_cluster"].get("spark_conf", {}).items()
        }
