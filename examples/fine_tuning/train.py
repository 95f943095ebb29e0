"""What was learned from the digits 0 to 5 helps with 6 to 9, of which there are only 100 pictures to train on."""

from pathlib import Path

from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from pipelines import api

CONFIG = Path(__file__).with_name("config.yml")


def digits(labels, count):
    found = load_digits()
    rows = [(pixels.tolist(), int(label)) for pixels, label in zip(found.data, found.target) if label in labels]
    return SparkSession.builder.getOrCreate().createDataFrame(rows[:count], ["image", "label"])


def main(workers=1, settings=None):
    options = {"workers": workers, "config": CONFIG}
    first = api.train(digits(range(6), 1000), settings=settings or {}, name="first", **options)
    few = {"data.classes": 4, "data.labels": [6, 7, 8, 9], "ingest.test_fraction": 0.5, "ingest.validation_fraction": 0.5}
    scratch = few | {"training.epochs": 6} | (settings or {})
    tuned = scratch | {"model.weights": first.model_uri, "model.frozen": ["convolution_[12]"]}
    return tuple(api.train(digits(range(6, 10), 400), settings=each, name="later", **options) for each in (scratch, tuned))


if __name__ == "__main__":
    print(*(run.metrics["test/accuracy"] for run in main()))
