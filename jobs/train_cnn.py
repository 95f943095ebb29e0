"""Train a network on Spark workers and record one MLflow run.

spark-submit jobs/train_cnn.py --config conf/train_cnn.yml --workers 2
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.launch.console import TrainingConsole
from pipelines.launch.training import run_training


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(arguments, "Train a network and record one MLflow run.", "conf/train_cnn.yml")
    console = TrainingConsole(request.config.training.epochs, request.verbosity)
    summary = run_training(request.config, console)
    console.result(summary)
    request.write_summary(summary)


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
