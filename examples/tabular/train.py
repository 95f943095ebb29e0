"""Benign or malignant? 569 tumours of a Spark table, thirty measurements each."""

from pathlib import Path

from pyspark.sql import SparkSession
from sklearn.datasets import load_breast_cancer

from pipelines import api


def main(workers=2, settings=None):
    spark = SparkSession.builder.getOrCreate()
    tumours = load_breast_cancer(as_frame=True).frame
    tumours["kind"] = [("malignant", "benign")[target] for target in tumours["target"]]
    spark.createDataFrame(tumours.drop(columns="target")).createOrReplaceTempView("tumours")
    config = Path(__file__).with_name("config.yml")
    return api.train("table:tumours", workers=workers, config=config, settings=settings or {})


if __name__ == "__main__":
    print(main().metrics)
