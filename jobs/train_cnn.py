"""Train a network on Spark workers and record one MLflow run.

spark-submit jobs/train_cnn.py --config conf/train_cnn.yml --workers 2
spark-submit jobs/train_cnn.py --resume latest
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.launch.workers import spawn
from pipelines.score import flags


def _add_flags(parser: argparse.ArgumentParser) -> None:
    flags.register(parser)
    cli.add_resume(parser)


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(arguments, "Train a network and record one MLflow run.", "conf/train_cnn.yml", _add_flags)
    # The import of TensorFlow in the fork server takes longer than everything else before the first step, so it starts before the
    # other imports of this process.
    with spawn.fork_server_if_local("training") as fork_server:
        _train(request, fork_server)


def _train(request: cli.Request, fork_server: str) -> None:
    from pipelines.launch import resume
    from pipelines.launch.training import run_training
    from pipelines.score import model_registry
    from pipelines.track.console.console import TrainingConsole
    from pipelines.track.mlflow.follower import default_tracking_uri

    name = request.options.register
    if name:
        model_registry.check_name(name)
    resumption = None
    if request.options.resume:
        runs_uri = request.config.launch.runs_uri
        resumption = resume.prepare(request.options.resume, runs_uri, request.overrides, request.reporter)
    config = resumption.config if resumption is not None else request.config
    console = TrainingConsole(config.training.epochs, request.verbosity)
    summary = run_training(config, console, resumption=resumption, fork_server=fork_server)
    console.result(summary)
    if name:
        tracking_uri = default_tracking_uri(config.tracking)
        registered = model_registry.try_register(summary.model_uri, name, tracking_uri, request.reporter)
        summary = dataclasses.replace(summary, registered=registered)
    request.write_summary(summary.as_dict())


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
