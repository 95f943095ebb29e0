"""Make the challenger of a registered model its champion if it beats the current one on the same test rows.

spark-submit jobs/promote.py digits --data mnist
"""

import argparse
import sys
import time
from collections.abc import Sequence

from pipelines import cli
from pipelines.errors import ConfigError
from pipelines.launch.session import open_session
from pipelines.score import flags, mlflow_client, model_lookup, model_registry
from pipelines.score.evaluate.dataset import check_read_alike, select_rows
from pipelines.score.evaluate.evaluation import evaluate
from pipelines.system import paths
from pipelines.track.mlflow.follower import default_tracking_uri


def own_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the registered model; catalog.schema.model on Unity Catalog")
    flags.rows(parser)
    parser.add_argument(
        "--significance", metavar="P", type=float, default=0.05, help="the p-value required for promotion (default: 0.05)"
    )


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(arguments, "Promote the challenger of a registered model if it is better.", None, own_flags)
    options = request.options
    flags.check_rows(options)
    if not 0 < options.significance <= 1:
        raise ConfigError(f"--significance {options.significance}: must be more than 0 and at most 1, usually 0.05")
    tracking_uri = default_tracking_uri(request.config.tracking)
    client = mlflow_client.connect(tracking_uri, options.name)
    versions = [
        model_registry.version_of(client, options.name, alias) for alias in (model_registry.CHALLENGER, model_registry.CHAMPION)
    ]
    challenger, champion = versions
    if challenger is None or challenger == champion:
        raise ConfigError(f"{options.name}: has no challenger; train with --register {options.name} first")
    infos = [model_lookup.find(f"models:/{options.name}/{version}", tracking_uri) for version in versions if version is not None]
    selection = select_rows(request.config, infos[0], paths.given(options.table), options.split, request.reporter)
    check_read_alike(selection, infos)
    started = time.monotonic()
    with open_session("convoy-promote") as spark:
        table = selection.open(spark, request.reporter)
        comparison = evaluate(spark, infos, table, selection.splits)
    for note in comparison.notes:
        request.reporter.say(note)
    digest = table.manifest.digest
    if comparison.pairs is None:
        decision = model_registry.first_champion(comparison.results[0].metrics, comparison.results[0].rows, digest)
    else:
        decision = model_registry.decide(comparison.pairs, options.significance, digest)
    model_registry.record(client, options.name, challenger, champion, decision)
    request.reporter.say(
        f"{options.name} version {challenger} is {'now champion' if decision.promoted else 'not promoted'}: {decision.reason}"
    )
    request.write_summary(
        {
            "name": options.name,
            "version": challenger,
            "champion_before": champion,
            "promoted": decision.promoted,
            "reason": decision.reason,
            **decision.facts,
            "left_out_rows": comparison.left_out,
            "table": table.uri,
            "tracking_uri": tracking_uri,
            "seconds": {"total": round(time.monotonic() - started, 2)},
        }
    )


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
