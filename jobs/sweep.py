"""Train many configurations, concurrently as far as task slots allow, and record them as children of one MLflow run.

spark-submit jobs/sweep.py conf/sweeps/course.yml
spark-submit jobs/sweep.py --resume latest
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.config import loader
from pipelines.errors import ConfigError
from pipelines.sweep import results, run_sweep, sweep_file
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir import summary as summary_file


def main(arguments: Sequence[str]) -> None:
    parser = cli.Parser(prog="./convoy sweep", description="Train many configurations.", allow_abbrev=False)
    parser.add_argument("file", nargs="?", metavar="FILE", help="YAML that defines the sweep, such as conf/sweeps/course.yml")
    parser.add_argument("--resume", metavar="SWEEP", default="", help="continue a sweep: its run's id, its folder, or 'latest'")
    cli.add_flags(parser)
    options = parser.parse_args(arguments)
    overrides = cli.overrides_of(options)
    cli.check_summary(options.summary)
    if bool(options.file) == bool(options.resume):
        raise ConfigError("either FILE or --resume SWEEP is required; ready-made sweeps are in conf/sweeps/")
    if options.resume:
        sweep, folder = run_sweep.find(options.resume, overrides)
    else:
        sweep = sweep_file.load(loader.find(options.file), overrides)
        folder = run_sweep.begin(sweep)
    console = TrainingConsole(epochs=1, verbosity=cli.verbosity_of(options))
    summary = run_sweep.run_sweep(sweep, folder, console)
    for line in results.closing_lines(sweep, summary):
        console.say(line)
    if options.summary is not None:
        summary_file.write(summary, options.summary)


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
