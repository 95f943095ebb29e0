import numpy as np
import pytest

from pipelines.tasks.classification import Classification
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.figure_data import PredictionWriter


def written(tmp_path, rank, first_row, rows, workers=2, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (rows, 2, 2, 1)).astype(np.uint8), rng.integers(0, classes, rows)
    probabilities = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
    writer = PredictionWriter(first_row, workers, Classification().confidence_of_mistakes)
    for start in range(0, rows, 40):
        chunk = slice(start, start + 40)
        writer.add(images[chunk], labels[chunk], probabilities[chunk])
    writer.save(tmp_path, rank)
    return images, labels, probabilities


def test_predictions_of_all_ranks_are_concatenated_in_row_order(tmp_path):
    later = written(tmp_path, 1, 100, 90, seed=1)
    earlier = written(tmp_path, 0, 0, 100, seed=2)
    predictions = figure_data.load_predictions(tmp_path)
    assert predictions.rows.tolist() == list(range(190))
    np.testing.assert_array_equal(predictions.labels, np.concatenate([earlier[1], later[1]]))
    np.testing.assert_array_equal(predictions.probabilities, np.concatenate([earlier[2], later[2]]))
    images = np.concatenate([earlier[0], later[0]])
    np.testing.assert_array_equal(predictions.worst_images, images[predictions.worst])
    confidence = np.where(predictions.probabilities.argmax(1) != predictions.labels, predictions.probabilities.max(1), 0)
    assert set(np.argsort(-confidence)[:25]) <= set(predictions.worst.tolist())


def test_files_of_ranks_that_no_longer_exist_are_ignored(tmp_path):
    for rank in range(3):
        written(tmp_path, rank, 30 * rank, 30, workers=3)
    for rank in range(2):
        written(tmp_path, rank, 45 * rank, 45, workers=2)
    assert figure_data.load_predictions(tmp_path).rows.tolist() == list(range(90))


def test_no_mistakes_means_no_images_and_no_predictions_means_no_file(tmp_path):
    assert not figure_data.has(tmp_path, figure_data.EXAMPLES)
    PredictionWriter(0, 1, Classification().confidence_of_mistakes).save(tmp_path, 0)
    assert not figure_data.has_predictions(tmp_path)
    with pytest.raises(FileNotFoundError, match="no predictions"):
        figure_data.load_predictions(tmp_path)
    writer = PredictionWriter(0, 1, Classification().confidence_of_mistakes)
    writer.add(np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1]), np.eye(2, dtype=np.float32))
    writer.save(tmp_path, 0)
    predictions = figure_data.load_predictions(tmp_path)
    assert (len(predictions.rows), len(predictions.worst), len(predictions.worst_images)) == (2, 0, 0)


def test_a_huge_test_split_is_truncated_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(figure_data, "_MOST_OUTPUTS", 300)
    written(tmp_path, 0, 0, 100)
    assert figure_data.load_predictions(tmp_path).rows.tolist() == list(range(50))
