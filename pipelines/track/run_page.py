"""Name, description and parameters of a run, as MLflow's page shows them."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines import tasks
from pipelines.config import Config
from pipelines.data.table.schema import SPLITS, TableManifest
from pipelines.system import import_path
from pipelines.track.figures import catalog
from pipelines.track.mlflow.journal import EXPERIMENT_ID, RUN_ID
from pipelines.track.rundir.events import TrainingPlan

DESCRIPTION_TAG = "mlflow.note.content"
NAME_TAG = "mlflow.runName"

# Storage locations and timeouts affect neither result nor speed. All settings are in the artifact config.yml.
_ADMINISTRATIVE_SECTIONS = ("tracking.", "checkpoint.")
_ADMINISTRATIVE = ("ingest.tables_uri", "launch.runs_uri", "launch.log_level", "launch.max_restarts")


@dataclass(frozen=True)
class RunOutcome:
    """Results of a training, for the description."""

    loss: float
    metrics: Mapping[str, float]
    """Of the test rows, by name."""
    epochs: int
    precision: str
    rows_per_second: float
    seconds: float
    figures: Sequence[str]
    """Names of the figures."""


def name(config: Config, dataset: str, key: str) -> str:
    """Name of a training run, such as `mnist-convnet-2w-k3f9`; `key` (`random_key`) makes it unique."""
    return f"{dataset}-{import_path.short(config.model.name).replace(':', '-')}-{config.launch.workers}w-{key}"


def random_key() -> str:
    """Four random characters, without any that look alike."""
    return "".join(secrets.choice("23456789abcdefghjkmnpqrstuvwxyz") for _ in range(4))


def title(config: Config, dataset: str) -> str:
    """Identifies a run in figures, and notes what makes training and validation loss incomparable."""
    smoothing = config.training.label_smoothing
    return f"{import_path.short(config.model.name)} on {dataset}" + (
        f" (training loss with label smoothing {smoothing:g})" if smoothing else ""
    )


def parameters(config: Config) -> dict[str, str]:
    """Settings by which runs can differ, by full name.

    Omitted are settings that affect neither result nor speed, empty ones, those that the chosen optimizer or schedule does not
    use, and parts of the recipe that are switched off.
    """
    flat = config.flat()
    unused = _unused(config)
    return {
        name: _shown(name, value)
        for name, value in flat.items()
        if not name.startswith(_ADMINISTRATIVE_SECTIONS)
        and name not in _ADMINISTRATIVE
        and not name.endswith(("_timeout_seconds", "_warning_seconds", "_shutdown_seconds"))
        and name not in unused
        and value not in ("", (), {})
    }


def resolved(plan: TrainingPlan) -> dict[str, str]:
    """Values that follow from the settings on these workers."""
    return {
        "resolved.global_batch_size": str(plan.workers * plan.batch_size_per_worker),
        "resolved.steps_per_epoch": str(plan.steps),
        "resolved.peak_learning_rate": f"{plan.learning_rate:g}",
        "resolved.precision": plan.precision,
        "resolved.threads_per_worker": str(plan.threads),
        "resolved.reading": "from memory" if plan.in_memory else "streamed",
    }


def description(config: Config, manifest: TableManifest, result: RunOutcome | None = None) -> str:
    """Summary of a run in Markdown; with a result also the figures and how to use the model."""
    parts = [_overview(config, manifest, result)]
    if manifest.note:
        parts.append(f"**Note:** {manifest.note}")
    if result is not None:
        parts += [_figures(result.figures, catalog.questions(manifest.spec.task)), _usage(manifest)]
    return "\n\n".join(parts)


def _overview(config: Config, manifest: TableManifest, result: RunOutcome | None) -> str:
    rows = ", ".join(f"{manifest.rows(split):,} {split}" for split in SPLITS)
    workers = f"{config.launch.workers} worker{'s' if config.launch.workers > 1 else ''}"
    table = f"[table {manifest.digest}]({_artifact('table/manifest.json')})"
    shape = " x ".join(map(str, manifest.spec.shape))
    data = f"**{manifest.dataset}** ({rows} rows of {shape}, {table})"
    network = f"`{import_path.short(config.model.name)}`"
    if result is None:
        return f"Trains {network} on {data} with {workers}."
    views, metric = config.training.test_views, tasks.of(manifest.spec.task).metrics[0]
    averaged = f", averaged over {views} views of each image as by the logged model" if views > 1 else ""
    return (
        f"{network} was trained on {data} for {result.epochs} epoch{'s' if result.epochs > 1 else ''} by {workers} in "
        f"{result.precision}. Its {metric.label} on the test rows is **{metric.shown(result.metrics[metric.name])}**{averaged} "
        f"(loss {result.loss:.4f}). {result.seconds:.0f} s in total, {result.rows_per_second:,.0f} rows/s. "
        f"To reproduce it: [config.yml]({_artifact('config.yml')})."
    )


def _figures(names: Sequence[str], questions: Mapping[str, str]) -> str:
    links = [f"- {questions[name]} [{name}]({_artifact(f'figures/{name}.png')})" for name in names]
    return "\n".join(["**Figures**, each with its data as a CSV file", "", *links])


def _usage(manifest: TableManifest) -> str:
    spec = manifest.spec
    low, high = spec.value_range
    inputs, shape = "images" if spec.is_picture else "features", ", ".join(map(str, spec.shape))
    return "\n".join(
        [
            "**Use the model**",
            "",
            "```python",
            "import mlflow",
            "",
            f'model = mlflow.pyfunc.load_model("runs:/{RUN_ID}/model")',
            f"# {inputs}: float32 array [n, {shape}], values {low:g} to {high:g}",
            f"{tasks.of(spec.task).output_layer} = model.predict({inputs})  # [n, {manifest.num_outputs}]",
            "```",
        ]
    )


def _artifact(path: str) -> str:
    return f"#/experiments/{EXPERIMENT_ID}/runs/{RUN_ID}/artifacts/{path}"


def _shown(name: str, value: object) -> str:
    """On one line: MLflow's page expands values that look like JSON."""
    if not isinstance(value, tuple):
        return str(value)
    separator = {"data.image_shape": " x ", "data.value_range": " to "}.get(name, ", ")
    return separator.join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)


def _unused(config: Config) -> set[str]:
    training = config.training
    unused = set()
    if training.optimizer != "sgd":
        unused.add("training.momentum")
    if training.optimizer == "adam":
        unused.add("training.weight_decay")
    if training.schedule != "step":
        unused |= {"training.step_epochs", "training.step_factor"}
    optional = [name for name in config.flat() if name.startswith("training.augment_")]
    optional += ["training.learning_rate_batch", "training.clip_norm", "training.average_decay"]
    if training.class_weights == "none":
        unused.add("training.class_weights")
    unused |= {"data.classes"} if config.data.task == "regression" else {"data.task", "data.targets"}
    unused |= {name for name in optional if not config.flat()[name]}
    if training.test_views == 1:
        unused.add("training.test_views")
    are_pictures = not config.data.features and not config.data.source_columns.features
    return unused | (set() if are_pictures else {"data.image_shape"}) | (set() if config.data.features else {"data.features"})
