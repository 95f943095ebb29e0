"""Classification and regression, each one object that owns what depends on it: output layer, losses, metrics, figures, and the
test that compares two models. A metric is one entry in the `metrics` of its task."""

from pipelines.data.table.schema import Task as TaskName
from pipelines.errors import ConfigError
from pipelines.tasks.classification import Classification
from pipelines.tasks.metric import named, plain
from pipelines.tasks.regression import Regression
from pipelines.tasks.task import Task

_SHORT_NAMES = {"mse": "mean_squared_error", "mae": "mean_absolute_error"}
_TASKS: tuple[Task, ...] = (Classification(), Regression())


def of(name: TaskName) -> Task:
    return next(task for task in _TASKS if task.name == name)


def check_loss(task: TaskName, loss: str) -> None:
    """Raises ConfigError for `training.loss` if it is a loss of another task."""
    others = [each for each in _TASKS if each.name != task and full_loss_name(loss) in each.losses]
    if others:
        ours = ", ".join(of(task).losses)
        raise ConfigError(
            f"training.loss={loss}: must fit data.task {task}, which has {ours}; or name your own as file.py:function, or set "
            f"data.task={others[0].name}"
        )


def full_loss_name(loss: str) -> str:
    """Keras' name of a loss that is given by its short form."""
    return _SHORT_NAMES.get(loss, loss)


def shown(metric: str, value: float) -> str:
    """A metric's value for a line of text; `metric` may start with a split, as `test/accuracy`."""
    found = named((metric for task in _TASKS for metric in task.metrics), metric.rpartition("/")[2])
    return found.shown(value) if found is not None else plain(value)
