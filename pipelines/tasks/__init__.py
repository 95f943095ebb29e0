"""Classification and regression, each one object that owns what depends on it: output layer, losses, metrics, figures, and the
test that compares two models. A metric is one entry in the `metrics` of its task."""

from pipelines.data.table.schema import Task as TaskName
from pipelines.tasks.classification import Classification
from pipelines.tasks.metric import named, plain
from pipelines.tasks.regression import Regression
from pipelines.tasks.task import Task

_TASKS: tuple[Task, ...] = (Classification(), Regression())


def of(name: TaskName) -> Task:
    return next(task for task in _TASKS if task.name == name)


def shown(metric: str, value: float) -> str:
    """A metric's value for a line of text; `metric` may start with a split, as `test/accuracy`."""
    found = named((metric for task in _TASKS for metric in task.metrics), metric.rpartition("/")[2])
    return found.shown(value) if found is not None else plain(value)
