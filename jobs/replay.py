"""Complete a run in MLflow from its folder, after the tracking server was down or slow.

python jobs/replay.py RUN_DIR
"""

import logging
import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.system import paths
from pipelines.system.reporter import PrintReporter
from pipelines.track.mlflow.replay import replay, with_trials


def main(arguments: Sequence[str]) -> None:
    about = "Send MLflow what it lacks of a run."
    parser = cli.Parser(prog="./convoy replay", description=about, allow_abbrev=False)
    parser.add_argument(
        "run_dir", metavar="RUN_DIR", help="the folder of the run, such as runs/20260131-120000-mnist-convnet-2w-k3f9"
    )
    parser.add_argument("--to", metavar="URI", default="", help="the tracking server (default: the one the run was recorded for)")
    options = parser.parse_args(arguments)
    # Warnings are printed below.
    logging.getLogger().addHandler(logging.NullHandler())
    for run_dir in with_trials(paths.to_python(paths.given(options.run_dir), "RUN_DIR ")):
        result = replay(run_dir, options.to)
        lost = (f"{line}; MLflow does not get what it said" for line in result.damaged)
        again = (f"{line}; what MLflow had accepted by it was sent again" for line in result.forgotten)
        for line in (*result.refusals, *lost, *again):
            PrintReporter().warn(line)
        state = "has all that can be read" if result.damaged else "is complete"
        print(f"run {result.run_id} at {result.tracking_uri} {state}: {result.entries} entries sent now")
        if result.model_uri:
            print(f"model {result.model_uri}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
