"""Whether training could work here: what is found, what is needed, what to do about it.

./convoy doctor [--workers N]
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.errors import LaunchError
from pipelines.launch.preflight import check, probe, requirements


def main(arguments: Sequence[str]) -> None:
    parser = cli.Parser(prog="./convoy doctor", description="Whether training could work here.")
    parser.add_argument("--workers", metavar="N", type=int, help="also start Spark, and look at the executors of so many workers")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers {options.workers}: must be at least 1")
    found = probe.probe_node()
    rows = requirements.check_node(found, options.workers or 1)
    if options.workers is not None and requirements.all_pass(rows):
        rows += check.check_with_spark(found, options.workers)
    print(check.table(rows))
    if not requirements.all_pass(rows):
        raise LaunchError("training could not work here")
    print("training can work here")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
