"""Print the address of the list of training runs at a running MLflow server. `./convoy ui` shows it.

python jobs/runs_page.py http://127.0.0.1:5000
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.track.mlflow import runs_page


def main(arguments: Sequence[str]) -> None:
    defaults = TrackingConfig()
    parser = cli.Parser(description="Print the address of the list of training runs.", allow_abbrev=False)
    parser.add_argument("server", metavar="SERVER", help="address of a running MLflow server, such as http://127.0.0.1:5000")
    parser.add_argument("--experiment", metavar="NAME", default=defaults.experiment, help=f"default: {defaults.experiment}")
    options = parser.parse_args(arguments)
    try:
        print(runs_page.address(options.server, options.experiment))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{options.server}: does not answer as an MLflow server does ({error})") from error


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
