"""Check whether training can work here: what was found, what is required, and how to fix it.

./convoy doctor [--workers N]
"""

import sys
from collections.abc import Sequence

try:
    from pipelines import cli
    from pipelines.errors import LaunchError
    from pipelines.launch.preflight import check, probe, requirements
    from pipelines.system import connect
except ImportError as error:
    # A package that this program needs itself is missing or damaged.
    sys.exit(f"error: the environment is damaged ({error}); run ./convoy setup")


def main(arguments: Sequence[str]) -> None:
    parser = cli.Parser(prog="./convoy doctor", description="Check whether training can work here.")
    parser.add_argument("--workers", metavar="N", type=int, help="also start Spark and check the executors of N workers")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers {options.workers}: must be at least 1")
    node = probe.probe_node()
    # The server of Spark Connect has the workers, not this machine.
    elsewhere = connect.requested().startswith("sc://")
    rows = requirements.check_node(node, 1 if elsewhere else options.workers or 1)
    if options.workers is not None and requirements.all_pass(rows):
        rows += check.check_with_spark(node, options.workers)
    print(check.table(rows))
    if not requirements.all_pass(rows):
        raise LaunchError("training cannot work here")
    print("training can work here")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
