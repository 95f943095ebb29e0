import csv
import dataclasses
import io

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support
from support.synthetic import write_table

from pipelines import tasks
from pipelines.track.figures import (
    calibration,
    catalog,
    comparison,
    confusion_matrix,
    examples,
    first_layer,
    learning_curves,
    parallel_coordinates,
    per_class,
    predicted_against_true,
    residuals,
    timeline,
    worst_mistakes,
)
from pipelines.track.figures.timeline import Phase
from pipelines.track.rundir.figure_data import Predictions

NAMES = ("zero", "one", "two", "three")
RANGE = (0.0, 255.0)
ACCURACY, RMSE = (tasks.of(name).metrics[0] for name in ("classification", "regression"))


def predicted(rows, classes=4, seed=1):
    """Labels and probabilities that are right about two times in three."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + 1.5 * (np.arange(classes) == labels[:, None])
    exponents = np.exp(logits)
    return labels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def images(rows, shape=(6, 5, 1)):
    return np.random.default_rng(0).integers(0, 256, (rows, *shape)).astype(np.uint8)


def table(drawing):
    return list(csv.DictReader(io.StringIO(drawing.csv())))


def words(drawing):
    texts = [text.get_text() for text in drawing.figure.texts]
    for axes in drawing.figure.axes:
        texts += [text.get_text() for text in (*axes.texts, *axes.get_yticklabels())]
    return " | ".join(texts)


def test_the_confusion_matrix_counts_as_sklearn_counts():
    labels, probabilities = predicted(300)
    counts = confusion_matrix.confusion_matrix(labels, probabilities)
    np.testing.assert_array_equal(counts, sklearn_confusion_matrix(labels, probabilities.argmax(1), labels=range(4)))
    drawing = confusion_matrix.draw(labels, probabilities, NAMES)
    assert sum(int(row["count"]) for row in table(drawing)) == 300
    cell = next(row for row in table(drawing) if row["true"] == "two" and row["predicted"] == "two")
    assert float(cell["rate"]) == pytest.approx(counts[2, 2] / counts[2].sum(), rel=1e-5)
    assert f"{counts[2, 2]}\n" in words(drawing)
    assert f"{300 - np.trace(counts)} of 300 rows are wrong" in words(drawing)


def test_precision_recall_and_support_are_those_of_sklearn_with_the_hardest_class_on_top():
    labels, probabilities = predicted(300)
    expected = precision_recall_fscore_support(labels, probabilities.argmax(1), labels=range(4))
    drawing = per_class.draw(labels, probabilities, NAMES)
    found = [[float(row[name]) for row in table(drawing)] for name in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    top = drawing.figure.axes[0].get_yticklabels()[0].get_text()
    assert top == NAMES[int(np.argmin(expected[2]))]


def test_a_class_without_rows_and_never_predicted_does_not_divide_by_zero():
    labels, probabilities = np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    row = table(per_class.draw(labels, probabilities, ("a", "b", "c")))[2]
    assert row == {"class": "c", "precision": "0", "recall": "0", "f1": "0", "support": "0"}
    assert "none: all 2 rows are correct" in words(confusion_matrix.draw(labels, probabilities, ("a", "b", "c")))
    assert "nothing: no mistakes" in words(worst_mistakes.draw(labels, probabilities, images(2), ("a", "b", "c"), RANGE))


def test_the_worst_mistakes_are_the_most_confident_ones_and_keep_their_row_numbers():
    labels, probabilities = predicted(300)
    worst = worst_mistakes.find(labels, probabilities)
    wrong = probabilities.argmax(1) != labels
    assert len(worst) == 25
    assert wrong[worst].all()
    confidence = probabilities.max(1)
    assert (np.diff(confidence[worst]) <= 0).all()
    assert confidence[worst].min() >= np.sort(confidence[wrong])[-25]
    drawing = worst_mistakes.draw(labels, probabilities, images(300), NAMES, RANGE, row_numbers=np.arange(300) + 7000)
    assert [int(row["row"]) for row in table(drawing)] == (worst + 7000).tolist()
    assert f"the 25 most confident of {wrong.sum()} mistakes" in words(drawing)
    assert len(drawing.figure.axes[0].images) == 25


def test_the_calibration_error_is_that_of_an_example_worked_by_hand():
    # Two bins are filled: (0.6, 0.667] holds 0.62 right and 0.66 wrong, (0.867, 0.933] holds 0.9 right.
    labels = np.array([0, 1, 0])
    probabilities = np.array([[0.62, 0.38], [0.66, 0.34], [0.9, 0.1]])
    expected = (2 * abs(0.5 - 0.64) + 1 * abs(1 - 0.9)) / 3
    assert calibration.expected_calibration_error(labels, probabilities) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_every_row_is_in_one_bin_and_the_error_is_within_its_limits(seed, rows):
    labels, probabilities = predicted(rows, seed=seed)
    bins = calibration.binned(labels, probabilities)
    assert bins.rows.sum() == rows
    assert 0 <= calibration.expected_calibration_error(labels, probabilities) <= 1


def test_certain_and_correct_is_perfectly_calibrated():
    labels = np.arange(4)
    assert calibration.expected_calibration_error(labels, np.eye(4)) == 0
    assert "well calibrated" in words(calibration.draw(labels, np.eye(4)))


def test_learning_curves_mark_the_epoch_with_the_lowest_validation_loss():
    losses = [0.9, 0.4, 0.5]
    history = [
        {"train/loss": loss / 2, "train/accuracy": 0.9, "validation/loss": loss, "validation/accuracy": 0.8} for loss in losses
    ]
    drawing = learning_curves.draw(history, "convnet on mnist", ACCURACY)
    assert "convnet on mnist;  lowest validation loss in epoch 2 of 3;  at the end training is 10.00 points above" in words(
        drawing
    )
    assert [float(row["validation/loss"]) for row in table(drawing)] == losses
    marks = [line for line in drawing.figure.axes[0].lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in marks] == [([2], [0.4])]


def test_learning_curves_without_validation_note_what_cannot_be_seen():
    drawing = learning_curves.draw([{"train/loss": 1.0, "train/accuracy": 0.5}], "", ACCURACY)
    assert "overfitting cannot be seen" in words(drawing)
    assert drawing.columns == ("epoch", "train/loss", "train/accuracy")


def test_the_first_layer_shows_a_tile_for_each_kernel_image_and_response():
    kernels, maps = np.random.default_rng(1).normal(size=(3, 3, 2, 8)), np.ones((4, 10, 10, 8))
    drawing = first_layer.draw(kernels, images(4, (12, 12, 2)), maps, RANGE)
    assert len(drawing.figure.axes[0].images) == 8 + 4 + 4 * 8
    assert len(table(drawing)) == kernels.size
    many = first_layer.draw(np.ones((3, 3, 1, 64)), images(2), np.zeros((2, 4, 4, 64)), RANGE)
    assert "the first 16 of 64 kernels" in words(many)


def test_examples_show_at_most_forty_with_their_labels():
    drawing = examples.draw(images(50), np.arange(50) % 4, NAMES, RANGE)
    assert len(drawing.figure.axes[0].images) == 40
    assert [text.get_text() for text in drawing.figure.axes[0].texts[:4]] == list(NAMES)


def test_the_timeline_adds_up_phases_of_one_kind():
    phases = [
        Phase("driver", "set-up", 0, 4),
        Phase("rank 0", "epoch 1", 4, 10),
        Phase("rank 0", "epoch 2", 10, 15),
        Phase("rank 1", "epoch 1", 4, 10),
    ]
    drawing = timeline.draw(phases)
    assert "15.0 s in total;  epochs 11.0 s, set-up 4.0 s" in words(drawing)
    assert [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()] == ["driver", "rank 0", "rank 1"]
    assert table(drawing)[2] == {"lane": "rank 0", "phase": "epoch 2", "start": "10", "seconds": "5"}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 40, 300])
@pytest.mark.parametrize("shape", [(6, 6, 3), (4, 9, 2)])
def test_any_number_of_classes_and_channels_can_be_drawn(classes, shape, tmp_path):
    labels, probabilities = predicted(200, classes)
    names = [f"a class with a long name {index}" for index in range(classes)]
    worst = worst_mistakes.find(labels, probabilities)
    test = Predictions(np.arange(200), labels, probabilities, worst, images(200, shape)[worst])
    manifest = write_table(tmp_path, {"train": 4}, classes=2, shape=shape).manifest
    figures = catalog.of_predictions(
        lambda: test, dataclasses.replace(manifest, labels=tuple(range(classes)), class_names=tuple(names))
    )
    assert set(figures) == {"confusion_matrix", "per_class", "worst_mistakes", "calibration"}
    for name, draw in figures.items():
        drawing = draw()
        height, width, _ = matplotlib.image.imread(io.BytesIO(drawing.png())).shape
        assert 200 < height < 1500
        assert 500 < width < 1500
        assert len(table(drawing)) > 1, name


@pytest.mark.parametrize("targets", [1, 2, 9])
def test_the_figures_of_numbers_show_each_of_them_with_its_errors(targets, tmp_path):
    true = np.random.default_rng(1).normal(50, 10, (6000, targets)).astype(np.float32)
    wrong = true + np.random.default_rng(2).normal(0.5, 1, true.shape).astype(np.float32)
    names = [f"a number with a long name {index}" for index in range(targets)]
    points = predicted_against_true.draw(true, wrong, names)
    assert "half of the errors are below 0.7" in words(points)
    rows = table(points)
    assert len(rows) == 5000 * min(targets, 6)
    assert float(rows[0]["true"]) == pytest.approx(float(true[0, 0]), rel=1e-5)
    errors = residuals.draw(true, wrong, names)
    assert "too large on average, standard deviation" in words(errors)
    assert sum(int(row["rows"]) for row in table(errors)) == 6000 * min(targets, 4)
    for drawing in (points, errors):
        height, width, _ = matplotlib.image.imread(io.BytesIO(drawing.png())).shape
        assert 300 < height < 1800
        assert 500 < width < 1700


def test_learning_curves_of_numbers_show_their_first_metric():
    history = [{"train/loss": 0.1, "train/rmse": 2.0, "validation/loss": 0.2, "validation/rmse": 3.5}]
    drawing = learning_curves.draw(history, "", RMSE)
    assert "at the end training rmse is 1.5 below validation" in words(drawing)
    assert drawing.columns == ("epoch", "train/loss", "train/rmse", "validation/loss", "validation/rmse")


def test_figures_without_data_are_left_out(tmp_path):
    manifest = write_table(tmp_path / "table", {"train": 8, "test": 4}).manifest
    assert catalog.drawings(tmp_path, manifest, [], "a title") == {}
    assert set(catalog.drawings(tmp_path, manifest, [{"train/loss": 1.0, "train/accuracy": 0.5}], "")) == {"learning_curves"}


def test_the_comparison_shows_each_run_and_names_its_best_epoch():
    rising = [
        {"train/loss": 1.0, "train/accuracy": 0.5, "validation/loss": 1.1, "validation/accuracy": 0.4},
        {"train/loss": 0.5, "train/accuracy": 0.9, "validation/loss": 0.8, "validation/accuracy": 0.6},
    ]
    alone = [{"train/loss": 0.7, "train/accuracy": 0.7}]
    drawing = comparison.draw({"with": rising, "without": alone})
    assert "best accuracy: with 60.00 % in epoch 2;  without 70.00 % in epoch 1" in words(drawing)
    assert [text.get_text() for text in drawing.figure.axes[0].get_legend().get_texts()] == [
        "with",
        "without",
        "training rows",
    ]
    assert [(row["run"], row["epoch"], row["validation/loss"]) for row in table(drawing)] == [
        ("with", "1", "1.1"),
        ("with", "2", "0.8"),
        ("without", "1", ""),
    ]


TEXTS = {"optimizer": ["adam", "lamb", "sgd"]}


def trial(number, rate, optimizer, loss):
    return {"trial": number, "rate": rate, "optimizer": optimizer, "loss": loss}


def test_trials_are_lines_from_their_settings_to_their_outcome():
    trials = [trial(1, 0.001, "adam", 0.4), trial(2, 0.1, "sgd", 0.2), trial(3, 0.01, "adam", None)]
    drawing = parallel_coordinates.draw(trials, ["rate", "optimizer"], "loss", minimised=True, texts=TEXTS, log=["rate"])
    lines = {
        tuple(round(float(y), 3) for y in line.get_ydata()): line
        for line in drawing.figure.axes[0].lines
        if len(line.get_xdata()) > 2 or line.get_linestyle() == ":"
    }
    # A logarithmic axis has 0.01 in its middle; the trial without an outcome ends before the last axis.
    assert set(lines) == {(0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.5, 0.0)}
    assert lines[1.0, 1.0, 0.0].get_color() == parallel_coordinates.style.RED
    assert "best (red): trial 2, loss 0.2" in drawing.figure.texts[1].get_text()
    assert list(csv.reader(io.StringIO(drawing.csv()))) == [
        ["trial", "rate", "optimizer", "loss"],
        ["1", "0.001", "adam", "0.4"],
        ["2", "0.1", "sgd", "0.2"],
        ["3", "0.01", "adam", ""],
    ]
    assert matplotlib.image.imread(io.BytesIO(drawing.png())).shape[1] > 600


def test_the_highest_accuracy_is_the_best_and_a_single_trial_can_be_drawn():
    trials = [trial(1, 1, "a", 0.4), trial(2, 1, "a", 0.6)]
    drawing = parallel_coordinates.draw(trials, ["rate", "optimizer"], "loss", minimised=False, texts={"optimizer": ["a"]})
    assert "best (red): trial 2" in drawing.figure.texts[1].get_text()
    parallel_coordinates.draw(trials[:1], ["rate", "optimizer"], "loss", minimised=False, texts={"optimizer": ["a"]}).png()
    parallel_coordinates.draw([trial(1, 1, "a", None)], ["rate"], "loss", minimised=False, texts={}).png()
