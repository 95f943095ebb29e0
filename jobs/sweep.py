"""Train many configurations, side by side where task slots allow, and record one MLflow run with a run for each below it.

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
    parser.add_argument("file", nargs="?", metavar="FILE", help="YAML that says what is tried, such as conf/sweeps/course.yml")
    parser.add_argument("--resume", metavar="SWEEP", default="", help="go on with a sweep: its run's id, its folder, or 'latest'")
    cli.add_flags(parser)
    options = parser.parse_args(arguments)
    overrides = cli.overrides_of(options)
    cli.check_summary(options.summary)
    if bool(options.file) == bool(options.resume):
        raise ConfigError("one of FILE and --resume SWEEP is needed; the ready-made sweeps lie in conf/sweeps/")
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
