"""Which digit? 1,797 pictures of 8 x 8 pixels, with the network of network.py."""

from pathlib import Path

from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from pipelines import api

FOLDER = Path(__file__).parent


def main(workers=1, settings=None):
    digits = load_digits()
    rows = [(pixels.tolist(), int(label)) for pixels, label in zip(digits.data, digits.target)]
    frame = SparkSession.builder.getOrCreate().createDataFrame(rows, ["image", "label"])
    network = f"{FOLDER}/network.py:build"
    return api.train(frame, network, workers=workers, config=FOLDER / "config.yml", settings=settings or {}, name="digits")


if __name__ == "__main__":
    print(main().metrics)
