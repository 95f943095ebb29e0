"""A cluster of one machine as a `spark_python_task` sees it: a Python process shared with others, and a Spark session in it.

Databricks evaluates the task's file with `exec`, without `__file__`. Tasks are read from standard input, results written to
standard output. Run by a Python that has Convoy's wheel but not its checkout.
"""

import contextlib
import json
import sys
import traceback

from pyspark.sql import SparkSession


def main(spark_conf: dict[str, str]) -> None:
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for key, value in spark_conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    answers = sys.stdout
    for line in sys.stdin:
        order = json.loads(line)
        with open(order["log"], "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            error = run(order["file"], order["parameters"])
        if spark.sparkContext._jsc.sc().isStopped():
            error = "the task stopped the cluster's Spark session"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def run(file: str, parameters: list[str]) -> str:
    sys.argv = [file, *parameters]
    try:
        with open(file, "rb") as source:
            exec(compile(source.read(), file, "exec"), {"__name__": "__main__"})
    except BaseException as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
