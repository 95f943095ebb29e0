"""What was learned from the digits 0 to 4 helps with 5 to 9, of which there are few."""

from pathlib import Path

from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from pipelines import api

CONFIG = Path(__file__).with_name("config.yml")


def digits(first, count):
    found = load_digits()
    chosen = [each for each in zip(found.data.tolist(), found.target.tolist()) if first <= each[1] < first + 5]
    return SparkSession.builder.getOrCreate().createDataFrame(chosen[:count], ["image", "label"])


def main(workers=1, settings=None):
    settings = {"training.epochs": 10, **(settings or {})}
    first = api.train(digits(0, 1000), workers=workers, config=CONFIG, settings=settings, name="first")
    later = {**settings, "training.epochs": 8, "data.labels": [5, 6, 7, 8, 9]}
    taken = {"model.weights": first.model_uri, "model.frozen": ["conv*"]}
    scratch = api.train(digits(5, 400), workers=workers, config=CONFIG, settings=later, name="later")
    return scratch, api.train(digits(5, 400), workers=workers, config=CONFIG, settings={**later, **taken}, name="later")


if __name__ == "__main__":
    print(*(run.metrics["test/accuracy"] for run in main()))
