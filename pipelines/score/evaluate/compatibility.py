"""Whether a model fits a table: rows of the same form, and the same classes or numbers, which are matched by name."""

from typing import Any

from pipelines.data.table.schema import TableManifest
from pipelines.errors import DataError
from pipelines.score.model_info import ModelInfo


def check_compatible(info: ModelInfo, manifest: TableManifest, uri: str) -> None:
    """Raises DataError unless a table is for the model's task, and its rows have the model's shape and value range."""
    if manifest.spec.task != info.task:
        raise _misfit(
            info, uri, *(("numbers" if task == "regression" else "classes") for task in (manifest.spec.task, info.task))
        )
    shape = "image shape" if manifest.spec.is_picture else "rows of shape"
    compared: dict[str, tuple[Any, Any]] = {shape: (manifest.spec.shape, info.image_shape)}
    if info.checks_range:
        compared["value range"] = (manifest.spec.value_range, info.value_range)
    for property_name, (actual, expected) in compared.items():
        if actual != expected:
            raise _misfit(info, uri, f"{property_name} {list(actual)}", str(list(expected)))


def reading_note(info: ModelInfo, manifest: TableManifest, uri: str) -> str:
    """A line for the user if the rows of a table were read by another rule than those of the model; empty otherwise."""
    ours, theirs = manifest.reading, info.reading
    if ours is None or theirs is None or {ours.source, theirs.source} != {"libsvm"} or ours.zero_based == theirs.zero_based:
        return ""
    return (
        f"table {uri}: was read with indices from {0 if ours.zero_based else 1}, the data of model {info.uri} with indices from "
        f"{0 if theirs.zero_based else 1}; if the files are alike, its rows are off by one value"
    )


def output_order(info: ModelInfo, manifest: TableManifest, uri: str) -> tuple[int, ...]:
    """The model's output for each class or number of a table.

    Raises:
        DataError: a class or number of the table or of the model has no match.
    """
    if info.task == "classification":
        return class_order(info, manifest, uri)
    ours, theirs = manifest.target_names, info.target_names
    if set(ours) == set(theirs):
        return tuple(theirs.index(name) for name in ours)
    # One number is one, whatever it is called.
    if len(ours) == len(theirs) == 1:
        return (0,)
    raise _misfit(info, uri, f"the numbers {_shortened(ours)}", _shortened(theirs))


def class_order(info: ModelInfo, manifest: TableManifest, uri: str) -> tuple[int, ...]:
    """The model's class index of each class of a table.

    Classes are matched by name. Where both come from libsvm text and one has only label values, these are matched.

    Raises:
        DataError: a class of the table or of the model has no match.
    """
    if manifest.num_classes != info.num_classes:
        raise _misfit(info, uri, f"{manifest.num_classes} classes", str(info.num_classes))
    if not info.describes_classes:
        return tuple(range(info.num_classes))
    if set(manifest.class_names) == set(info.class_names):
        return tuple(info.class_names.index(name) for name in manifest.class_names)
    if _matches_by_label(info, manifest):
        return tuple(info.labels.index(label) for label in manifest.labels)
    raise _misfit(info, uri, f"the classes {_shortened(manifest.class_names)}", _shortened(info.class_names))


def _matches_by_label(info: ModelInfo, manifest: TableManifest) -> bool:
    # The label values of pictures are only positions of their folders.
    of_text = all(reading is not None and reading.source == "libsvm" for reading in (manifest.reading, info.reading))
    one_is_unnamed = _is_unnamed(manifest.class_names, manifest.labels) or _is_unnamed(info.class_names, info.labels)
    return of_text and one_is_unnamed and set(manifest.labels) == set(info.labels)


def _is_unnamed(names: tuple[str, ...], labels: tuple[int, ...]) -> bool:
    return names == tuple(map(str, labels))


def _misfit(info: ModelInfo, uri: str, actual: str, expected: str) -> DataError:
    return DataError(f"table {uri}: has {actual}, but model {info.uri} was trained on {expected}; name data that fit this model")


def _shortened(names: tuple[str, ...]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 80 else text[:77] + "..."
