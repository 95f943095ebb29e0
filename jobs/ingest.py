"""Write the Parquet table of a data set, unless it exists.

spark-submit jobs/ingest.py --data dbfs:/databricks-datasets/mnist-digits/data-001
"""

import sys
import time
from collections.abc import Sequence

from pipelines import cli
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.table.schema import REJECTED_FOLDER, SPLITS
from pipelines.launch.session import open_session


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(arguments, "Write the Parquet table of a data set.", "conf/train_cnn.yml")
    reporter = request.reporter
    source = resolve_source(request.config.data, reporter)
    started = time.monotonic()
    with open_session("convoy-ingest") as spark:
        data, built = table.open_or_build(spark, request.config, source, reporter)
    seconds = time.monotonic() - started
    rows = {split: data.manifest.rows(split) for split in SPLITS}
    counts = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    reporter.say(f"table {data.uri} ({'built' if built else 'reused'} in {seconds:.1f} s): {counts}")
    manifest = data.manifest
    if manifest.rejected_rows:
        reporter.say(f"{manifest.rejected_summary}, kept in {data.uri}/{REJECTED_FOLDER}")
    summary = {
        "table": data.uri,
        "dataset": source.dataset,
        "note": source.note,
        "rows": rows,
        "rejected_rows": manifest.rejected_rows,
        "rejected_by_reason": manifest.rejected_by_reason,
        "built": built,
        "seconds": round(seconds, 2),
    }
    request.write_summary(summary)


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
