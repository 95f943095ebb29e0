"""Evaluate a logged model on a table or on libsvm files, and record the result as a child of the run that trained it.

spark-submit jobs/evaluate.py --model models:/digits@champion --data my.libsvm
"""

import argparse
import sys
from collections.abc import Sequence

from pipelines import cli, tasks
from pipelines.launch.session import open_session
from pipelines.score import flags, model_lookup, model_registry
from pipelines.score.evaluate.dataset import select_rows
from pipelines.score.evaluate.evaluation_run import run_evaluation
from pipelines.system import paths
from pipelines.track.mlflow.follower import default_tracking_uri


def own_flags(parser: argparse.ArgumentParser) -> None:
    flags.model(parser)
    flags.rows(parser)
    flags.register(parser)


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(arguments, "Evaluate a logged model on every row exactly once.", None, own_flags)
    tracking, options, reporter = request.config.tracking, request.options, request.reporter
    flags.check_rows(options)
    if options.register:
        model_registry.check_name(options.register)
    info = model_lookup.find(options.model, default_tracking_uri(tracking), tracking.experiment)
    selection = select_rows(request.config, info, paths.given(options.table), options.split, reporter)
    with open_session("convoy-evaluate") as spark:
        summary = run_evaluation(spark, selection, info, reporter)
    test = summary["test"]
    metric, *others = [f"{name} {tasks.shown(name, value)}" for name, value in test.items() if name not in ("loss", "rows")]
    beside = [f"loss {test['loss']:.4f}", *others, f"{test['rows']:,} rows"]
    reporter.say(f"{metric}  ({', '.join(beside)})")
    reporter.say(f"run {summary['run_id']}" + (f", child of {summary['parent_run_id']}" if summary["parent_run_id"] else ""))
    if options.register:
        summary["registered"] = model_registry.try_register(info.uri, options.register, default_tracking_uri(tracking), reporter)
    request.write_summary(summary)


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
