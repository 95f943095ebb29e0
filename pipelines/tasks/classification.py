"""Classification: one of several classes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipelines.data.table.schema import Task as TaskName
from pipelines.tasks.mcnemar import PairedCounts
from pipelines.tasks.metric import Metric, mean_over_rows
from pipelines.tasks.task import FigureContext, TaskFigure
from pipelines.track.figures import calibration, confusion_matrix, per_class, worst_mistakes
from pipelines.track.figures.style import Drawing
from pipelines.track.rundir.figure_data import Predictions

# Keras' bound on probabilities before it takes their logarithm.
_EPSILON = 1e-7


def _is_correct(ops: Any, targets: Any, outputs: Any) -> Any:
    return ops.equal(ops.argmax(outputs, axis=-1), targets)


def _worst_mistakes(test: Predictions, context: FigureContext) -> Drawing:
    return worst_mistakes.draw(
        test.targets[test.worst],
        test.outputs[test.worst],
        test.worst_images,
        context.names,
        context.value_range,
        row_numbers=test.rows[test.worst],
        mistakes=int((test.outputs.argmax(axis=1) != test.targets).sum()),
    )


class Classification:
    """See `pipelines.tasks.task.Task`."""

    name: TaskName = "classification"
    output_layer = "probabilities"
    activation = "softmax"
    metrics: tuple[Metric, ...] = (
        mean_over_rows("accuracy", _is_correct, label="accuracy", larger_is_better=True, in_percent=True),
    )
    losses: tuple[str, ...] = ("sparse_categorical_crossentropy",)
    figures: ClassVar[Mapping[str, TaskFigure]] = {
        "confusion_matrix": TaskFigure(
            confusion_matrix.QUESTION, lambda test, context: confusion_matrix.draw(test.targets, test.outputs, context.names)
        ),
        "per_class": TaskFigure(
            per_class.QUESTION, lambda test, context: per_class.draw(test.targets, test.outputs, context.names)
        ),
        "worst_mistakes": TaskFigure(worst_mistakes.QUESTION, _worst_mistakes, needs_pictures=True),
        "calibration": TaskFigure(calibration.QUESTION, lambda test, _: calibration.draw(test.targets, test.outputs)),
    }

    def row_losses(
        self, loss: str, targets: npt.NDArray[Any], outputs: npt.NDArray[Any], deviations: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """Cross-entropy in nats, computed as Keras does in training: probabilities are clipped, then renormalized."""
        clipped = outputs.astype(np.float64).clip(_EPSILON, 1 - _EPSILON)
        of_label = clipped[np.arange(len(targets)), targets]
        losses: npt.NDArray[np.float64] = np.log(clipped.sum(axis=1)) - np.log(of_label)
        return losses

    def confidence_of_mistakes(self, targets: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.where(outputs.argmax(axis=1) != targets, outputs.max(axis=1), 0.0).astype(np.float64)

    def caption(self, target: Any, names: Sequence[str]) -> str:
        return names[int(target)]

    def more_metrics(self, predictions: Predictions) -> dict[str, float]:
        return {"calibration_error": calibration.expected_calibration_error(predictions.targets, predictions.outputs)}

    def pair_sums(
        self, targets: npt.NDArray[Any], first: npt.NDArray[Any], second: npt.NDArray[Any], deviations: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """Rows that both, only the first, only the second, and neither of two models get right."""
        one, other = first.argmax(axis=1) == targets, second.argmax(axis=1) == targets
        return np.asarray([(one & other).sum(), (one & ~other).sum(), (~one & other).sum(), (~one & ~other).sum()], np.float64)

    def compared(self, sums: npt.NDArray[np.float64]) -> PairedCounts:
        both, only_first, only_second, neither = (int(number) for number in sums)
        return PairedCounts(both=both, only_first=only_first, only_second=only_second, neither=neither)
