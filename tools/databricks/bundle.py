"""Resolve `databricks.yml` to settings for the Jobs API: one target, variables substituted, paths in the workspace.

This implements the part of Databricks bundles that Convoy's own files use (targets, variables, references, the development-mode
prefix, relative paths), so that a job can be submitted where the Databricks CLI is not installed. The CLI reads the same files.
"""

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipelines import __version__
from pipelines.config import yaml_text
from pipelines.errors import ConfigError
from pipelines.system.secrets import MASK, is_secret_name, mask, mask_value

BUNDLE_FILE = "databricks.yml"
RUN_BODY = "conf/databricks/train.submit.json"
WHEEL_NAME = f"convoy-{__version__}-py3-none-any.whl"

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.-]*)\}")
_JOB_PARAMETER = re.compile(r"\{\{job\.parameters\.([\w-]+)\}\}")
_MAX_DEPTH = 10


@dataclass(frozen=True)
class Upload:
    """A file of the repository and its path in the workspace."""

    source: Path
    target: str

    @property
    def content(self) -> bytes:
        """The file as it is uploaded: a configuration without credentials, and without its comments if they hold any."""
        content = self.source.read_bytes()
        if self.source.suffix != ".yml":
            return content
        settings = _yaml(self.source)
        shown = _without_secrets(settings)
        if shown == settings and mask(content.decode()) == content.decode():
            return content
        return yaml.safe_dump(shown, sort_keys=False).encode()

    @property
    def lacks_credentials(self) -> bool:
        """Whether a setting of the file is uploaded without the credentials in it."""
        return self.source.suffix == ".yml" and _without_secrets(_yaml(self.source)) != _yaml(self.source)


@dataclass(frozen=True)
class Deployment:
    """A job, ready to submit."""

    target: str
    job: dict[str, Any]
    """Settings as the Jobs API takes them."""
    uploads: tuple[Upload, ...]
    wheel: str
    """The wheel's path in the workspace, as the job's tasks name it."""

    @property
    def parameters(self) -> dict[str, str]:
        """Names and defaults of the job's parameters."""
        return {parameter["name"]: str(parameter["default"]) for parameter in self.job.get("parameters", ())}


def load(
    home: Path,
    user: str,
    target: str = "",
    variables: Mapping[str, str] | None = None,
    job: str = "",
    parameters: Mapping[str, str] | None = None,
) -> Deployment:
    """Read the bundle and resolve one of its jobs to settings for the Jobs API.

    Args:
        home: the folder of `databricks.yml`.
        user: the submitting user's name in the workspace, usually an email address.
        target: a target's name; empty for the bundle's default.
        variables: values that override the variables' defaults.
        job: a job's name; empty for the only one.
        parameters: values that override the defaults of the job's parameters: the configurations they name are uploaded.

    Raises:
        ConfigError: names the file, what is wrong in it, and the remedy.
    """
    bundle, origins = _read(home)
    name = _target_name(bundle, target)
    target_settings = bundle["targets"][name] or {}
    root = target_settings.get("workspace", {}).get(
        "root_path", "/Workspace/Users/${workspace.current_user.userName}/.bundle/convoy/" + name
    )
    # Beside the Databricks CLI's own deployment of the same bundle, not inside it.
    root = root.replace("/.bundle/", "/.convoy/")
    short_name = re.sub(r"\W", "_", user.partition("@")[0])
    values = {
        "bundle": {"name": bundle["bundle"]["name"], "target": name},
        "var": _variables(bundle, target_settings, variables or {}),
        "workspace": {
            "root_path": root,
            "file_path": "${workspace.root_path}/files",
            "artifact_path": "${workspace.root_path}/artifacts",
            "current_user": {"userName": user, "short_name": short_name},
        },
        "resources": bundle["resources"],
    }
    prefix = f"[dev {short_name}] " if target_settings.get("mode") == "development" else ""
    for experiment in values["resources"].get("experiments", {}).values():
        folder, _, last = experiment["name"].rpartition("/")
        experiment["name"] = f"{folder}/{prefix}{last}"
    key = _job_key(bundle, job)
    settings: dict[str, Any] = _resolve(bundle["resources"]["jobs"][key], values)
    settings["name"] = f"{prefix}{settings['name']} (convoy submit)"
    files, artifacts = (_resolve("${workspace." + part + "}", values) for part in ("file_path", "artifact_path"))
    wheel = f"{artifacts}/{WHEEL_NAME}"
    _use_workspace_paths(settings, home, origins[key].parent, files, wheel)
    sources = [*sorted((home / "jobs").glob("*.py")), *_configurations(settings, parameters or {}, home, files)]
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


def run_body(home: Path, target: str = "", variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`conf/databricks/train.submit.json`, a body for runs/submit of the Jobs API, with the bundle's variables resolved.

    Arguments and errors are those of `load`.
    """
    bundle, _ = _read(home)
    values = {"var": _variables(bundle, bundle["targets"][_target_name(bundle, target)] or {}, variables or {})}
    body: dict[str, Any] = _resolve(json.loads((home / RUN_BODY).read_text(encoding="utf-8")), values)
    for task in body["tasks"]:
        _use_strings(task["new_cluster"])
        python = task["spark_python_task"]
        python["parameters"] = [str(parameter) for parameter in python["parameters"]]
    return body


def _read(home: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The bundle with the resources of all included files, and the file that defines each job."""
    bundle = _yaml(home / BUNDLE_FILE)
    resources: dict[str, dict[str, Any]] = {}
    origins: dict[str, Path] = {}
    files = [file for pattern in bundle.get("include", ()) for file in sorted(home.glob(pattern))]
    for file in dict.fromkeys([home / BUNDLE_FILE, *files]):
        content = bundle if file.name == BUNDLE_FILE else _yaml(file)
        for kind, definitions in content.get("resources", {}).items():
            for name in resources.setdefault(kind, {}).keys() & definitions.keys():
                raise ConfigError(f"{file}: resources.{kind}.{name} is also in another file of the bundle; rename one of them")
            resources[kind].update(definitions)
            if kind == "jobs":
                origins |= dict.fromkeys(definitions, file)
    return bundle | {"resources": resources}, origins


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml_text.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); run this in a checkout of Convoy") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}{yaml_text.problem(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must contain sections such as 'resources:'")
    return content


def _target_name(bundle: Mapping[str, Any], requested: str) -> str:
    targets = bundle["targets"]
    if requested and requested not in targets:
        raise ConfigError(f"--target {requested}: must be one of {', '.join(targets)} (targets in {BUNDLE_FILE})")
    return requested or next((name for name, target in targets.items() if (target or {}).get("default")), next(iter(targets)))


def _variables(bundle: Mapping[str, Any], target: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    known = bundle.get("variables", {})
    for name, value in overrides.items():
        if name not in known:
            raise ConfigError(f"--var {name}={value}: must be one of {', '.join(known)} (variables in {BUNDLE_FILE})")
    values = {name: variable["default"] for name, variable in known.items() if "default" in variable}
    values |= target.get("variables", {})
    # Parsed as YAML, so that a number is a number.
    return values | {name: yaml_text.parse(value) for name, value in overrides.items()}


def _job_key(bundle: Mapping[str, Any], requested: str) -> str:
    jobs = bundle["resources"].get("jobs", {})
    if requested in jobs or (not requested and len(jobs) == 1):
        return requested or next(iter(jobs))
    raise ConfigError(f"--job {requested}: must be one of {', '.join(jobs)} (resources.jobs in conf/databricks)")


def _resolve(node: Any, values: Mapping[str, Any], depth: int = 0) -> Any:
    """The node with every `${...}` replaced. A string that is a single reference takes the type of the value."""
    if isinstance(node, dict):
        return {key: _resolve(value, values, depth) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve(value, values, depth) for value in node]
    if not isinstance(node, str) or "${" not in node:
        return node
    if depth == _MAX_DEPTH:
        raise ConfigError(f"{node}: circular reference; see {BUNDLE_FILE}")
    whole = _REFERENCE.fullmatch(node)
    if whole:
        return _resolve(_lookup(whole[1], values), values, depth + 1)
    return _REFERENCE.sub(lambda match: str(_resolve(_lookup(match[1], values), values, depth + 1)), node)


def _lookup(reference: str, values: Mapping[str, Any]) -> Any:
    value: Any = values
    for part in reference.split("."):
        if not isinstance(value, Mapping) or part not in value:
            remedy = f"pass --var {reference[4:]}=VALUE" if reference.startswith("var.") else "correct the reference"
            raise ConfigError(f"${{{reference}}}: no such value; see {BUNDLE_FILE}, or {remedy}")
        value = value[part]
    return value


def _configurations(settings: Mapping[str, Any], parameters: Mapping[str, str], home: Path, files: str) -> list[Path]:
    """The files of the repository that the parameters of the tasks name. A path that leads elsewhere in the workspace stays."""
    values = {parameter["name"]: str(parameter["default"]) for parameter in settings.get("parameters", ())} | dict(parameters)
    named = {
        _JOB_PARAMETER.sub(lambda match: values.get(match[1], match[0]), text)
        for task in settings["tasks"]
        for text in task.get("spark_python_task", {}).get("parameters", ())
    }
    sources = []
    paths = {posixpath.normpath(name) for name in named}
    for location in sorted(path.removeprefix(f"{files}/") for path in paths if path.startswith(f"{files}/")):
        source = home / location
        if not source.is_file() or home.resolve() not in source.resolve().parents:
            raise ConfigError(f"{location}: the job reads it, but there is no such file in {home}; name one such as conf/mlp.yml")
        sources.append(source)
    return sources


def _without_secrets(node: Any, key: str = "") -> Any:
    if isinstance(node, dict):
        return {name: _without_secrets(value, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [_without_secrets(value, key) for value in node]
    if isinstance(node, str):
        return MASK if is_secret_name(key) else mask_value(node)
    return node


def _use_workspace_paths(settings: dict[str, Any], home: Path, folder: Path, files: str, wheel: str) -> None:
    """Replace paths into the repository, which are relative to the job's file, with paths in the workspace."""
    for task in settings["tasks"]:
        python = task.get("spark_python_task")
        if python is not None:
            source = (folder / python["python_file"]).resolve()
            if not source.is_file() or home.resolve() not in source.parents:
                raise ConfigError(f"task {task['task_key']}: python_file {python['python_file']}: no such file from {folder}")
            python["python_file"] = str(PurePosixPath(files) / source.relative_to(home.resolve()).as_posix())
            # The API accepts only strings.
            python["parameters"] = [str(parameter) for parameter in python.get("parameters", ())]
        for library in task.get("libraries", ()):
            if str(library.get("whl", "")).startswith("."):
                library["whl"] = wheel
    for cluster in settings.get("job_clusters", ()):
        _use_strings(cluster["new_cluster"])


def _use_strings(cluster: dict[str, Any]) -> None:
    """The API accepts only strings as Spark settings."""
    cluster["spark_conf"] = {key: str(value) for key, value in cluster.get("spark_conf", {}).items()}
