"""List recent runs in the terminal, newest first.

python jobs/runs.py --count 20
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.system.secrets import mask
from pipelines.track.mlflow import recent_runs
from pipelines.track.mlflow.follower import default_tracking_uri


def main(arguments: Sequence[str]) -> None:
    defaults = TrackingConfig()
    parser = cli.Parser(description="List recent runs, newest first.", allow_abbrev=False)
    parser.add_argument("--count", metavar="N", type=int, default=10, help="number of runs (default: 10)")
    parser.add_argument("--experiment", metavar="NAME", default=defaults.experiment, help=f"default: {defaults.experiment}")
    options = parser.parse_args(arguments)
    if not 1 <= options.count <= recent_runs.MAX_COUNT:
        raise ConfigError(f"--count {options.count}: must be from 1 to {recent_runs.MAX_COUNT:,}")
    uri = default_tracking_uri(defaults)
    runs = recent_runs.find(uri, options.experiment, options.count)
    if runs:
        print("\n".join(recent_runs.table(runs)))
    else:
        print(f"no runs of experiment {options.experiment} at {mask(uri)}; ./convoy train records one")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
