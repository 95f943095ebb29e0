"""How far has diabetes advanced after a year? 442 patients of a DataFrame, ten measurements each."""

from pathlib import Path

from pyspark.sql import SparkSession
from sklearn.datasets import load_diabetes

from pipelines import api


def main(workers=1, settings=None):
    spark = SparkSession.builder.getOrCreate()
    patients = spark.createDataFrame(load_diabetes(as_frame=True, scaled=False).frame)
    columns = {"label": "target", "features": [name for name in patients.columns if name != "target"]}
    config = Path(__file__).with_name("config.yml")
    return api.train(patients, workers=workers, columns=columns, config=config, settings=settings or {}, name="diabetes")


if __name__ == "__main__":
    print(main().metrics)
