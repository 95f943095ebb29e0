"""What a logged model needs so that it loads where the user's modules are not: their text, and the packages they import."""

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.models.custom import serving
from pipelines.models.custom.sources import SourceFile
from pipelines.models.custom.static_checks import imported_packages

# Requirements of every logged model.
_REQUIRED = ("keras", "mlflow", "numpy", "tensorflow")


@dataclass(frozen=True, kw_only=True)
class ModelCode:
    """Additions to a model's folder."""

    files: Mapping[str, str]
    """Texts of Python files by their path in the folder of the model's code."""
    requirements: tuple[str, ...]
    """Packages with their versions."""
    keras_module: str
    """Name of the module in `files` that MLflow takes for Keras, which loads the model within the user's modules."""


def model_code(network: SourceFile) -> ModelCode:
    """What a model of this module's function needs."""
    requirements = set()
    if network.is_file:
        files = {f"{network.module_name}.py": network.text}
    else:
        top = network.module.partition(".")[0]
        released = _released(top)
        requirements |= {released} if released else set()
        files = {} if released else _package(Path(network.path), network.module)
    for package in imported_packages(network) - set(sys.stdlib_module_names) - set(_REQUIRED):
        released = _released(package)
        requirements |= {released} if released else set()
    keras_module = f"convoy_keras_{network.sha256[:12]}"
    files |= {
        f"{keras_module}/__init__.py": '"""Loads a Keras model that has classes of its own."""\n',
        f"{keras_module}/models.py": Path(serving.__file__).read_text(encoding="utf-8"),
        f"{keras_module}/modules.txt": f"{network.module_name}\n",
    }
    return ModelCode(files=files, requirements=tuple(sorted(requirements)), keras_module=keras_module)


def _package(file: Path, module: str) -> dict[str, str]:
    """The Python files of the package that holds a module, by their path from the folder above it."""
    parts = module.split(".")
    if file.name == "__init__.py":
        parts.append("__init__")
    root = file.parents[len(parts) - 1]
    if len(parts) == 1:
        return {file.name: file.read_text(encoding="utf-8")}
    found = sorted((root / parts[0]).rglob("*.py"))
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in found}


def _released(package: str) -> str:
    """`NAME==VERSION` of the distribution of a package; empty for one that was installed from a folder, or not at all."""
    for name in importlib.metadata.packages_distributions().get(package, ()):
        distribution = importlib.metadata.distribution(name)
        if distribution.read_text("direct_url.json") is None:
            return f"{name}=={distribution.version}"
    return ""
