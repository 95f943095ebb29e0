"""Score libsvm text, Parquet, a table of Spark's or a folder of pictures with a logged model, and write a Parquet folder.

spark-submit jobs/score.py --model models:/digits@champion --data my.libsvm --output scored
"""

import argparse
import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.errors import ConfigError
from pipelines.launch.session import open_session
from pipelines.score import flags, model_lookup
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring
from pipelines.system import paths
from pipelines.track.mlflow.follower import default_tracking_uri


def own_flags(parser: argparse.ArgumentParser) -> None:
    flags.model(parser)
    parser.add_argument("--output", metavar="FOLDER", required=True, help="the Parquet folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output once the new one is complete")
    parser.add_argument(
        "--image-column", metavar="NAME", default="", help="column of a table or Parquet (default: as in training)"
    )
    flags.form(parser)


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(arguments, "Write a model's prediction for every row of a data set.", None, own_flags)
    tracking, options = request.config.tracking, request.options
    if options.data is None and not options.config:
        raise ConfigError("--data: required: libsvm text, Parquet, pictures, a table or a data set's name")
    info = model_lookup.find(options.model, default_tracking_uri(tracking), tracking.experiment)
    scoring = ScoringRequest(
        config=request.config,
        info=info,
        output=paths.made(options.output),
        image_column=options.image_column,
        digits=info.converts_to_digits(options.form),
        resize=info.resizes_pictures(options.form),
        picture_note=info.picture_note(options.form),
        overwrite=options.overwrite,
    )
    kind = check(scoring)
    with open_session("convoy-score") as spark:
        summary = run_scoring(spark, scoring, kind, request.reporter)
    rejected = f", {summary['rejected_rows']:,} bad rows set aside" if summary["rejected_rows"] else ""
    request.reporter.say(
        f"{summary['rows']:,} rows scored by {info.uri} to {options.output} at {summary['rows_per_second']:,} rows/s{rejected}"
    )
    request.write_summary(summary)


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
