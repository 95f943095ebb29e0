"""Submit the job of databricks.yml to a Databricks workspace, follow it, and exit as it does.

./convoy submit --target dev --param data=fashion-mnist
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipelines import cli, errors
from pipelines.errors import ConfigError, LaunchError
from pipelines.system import paths
from pipelines.system.secrets import mask
from tools.databricks import bundle, follow, wheel, workspace

_PLACEHOLDER_USER = "you@example.com"


def main(arguments: Sequence[str]) -> None:
    parser = cli.Parser(prog="./convoy submit", description="Run the job of databricks.yml in a workspace.", allow_abbrev=False)
    parser.add_argument("--target", metavar="NAME", default="", help="a target of databricks.yml (default: its default)")
    parser.add_argument("--job", metavar="NAME", default="", help="a job of conf/databricks (default: the only one)")
    parser.add_argument("--runtime", metavar="NAME", default="", help="an ML runtime, such as 17.3 (default: in databricks.yml)")
    parser.add_argument("--var", metavar="NAME=VALUE", action="append", default=[], help="a variable of databricks.yml")
    parser.add_argument("--param", metavar="NAME=VALUE", action="append", default=[], help="a parameter of the job, for this run")
    parser.add_argument("--poll-seconds", metavar="S", type=float, default=5.0, help="time between status requests (default: 5)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, without contacting a workspace")
    parser.add_argument("--body", metavar="FILE", help=f"write {bundle.RUN_BODY} with its variables resolved to a file, and stop")
    options = parser.parse_args(arguments)
    if not 0.01 <= options.poll_seconds <= 3600:
        parser.error(f"--poll-seconds {options.poll_seconds}: must be from 0.01 to 3600")
    variables, parameters = _pairs("--var", options.var), _pairs("--param", options.param)
    if options.runtime:
        variables = bundle.runtime_variables(paths.home(), options.runtime) | variables
    if options.body:
        body = bundle.run_body(paths.home(), options.target, variables)
        workspace.validated({"name": body["run_name"], "tasks": body["tasks"]})
        try:
            paths.to_python(options.body, "--body ").write_text(json.dumps(body, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"--body {options.body}: cannot be written ({error.strerror}); name another file") from error
        _say(f"{options.body} written; databricks jobs submit --json @{options.body} runs it")
        return
    if options.dry_run:
        deployment = bundle.load(paths.home(), _PLACEHOLDER_USER, options.target, variables, options.job, parameters)
        workspace.check(deployment, parameters)
        _warn_of_credentials(deployment)
        for upload in deployment.uploads:
            _say(f"upload {upload.source.relative_to(paths.home())} to {upload.target}")
        _say(f"upload Convoy's wheel to {deployment.wheel}")
        _say(json.dumps(deployment.job, indent=2))
        if parameters:
            _say(f"run with {json.dumps(parameters)}")
        return
    # Errors in the files are reported before the workspace is contacted.
    workspace.check(bundle.load(paths.home(), _PLACEHOLDER_USER, options.target, variables, options.job, parameters), parameters)
    client, user = workspace.connect()
    deployment = bundle.load(paths.home(), user, options.target, variables, options.job, parameters)
    _warn_of_credentials(deployment)
    with tempfile.TemporaryDirectory() as folder:
        built = wheel.build(paths.home(), Path(folder))
        _say(f"target {deployment.target} of {client.config.host} as {user}")
        run_id = workspace.submit(client, user, deployment, built, parameters, _say)
    try:
        outcome = follow.follow(client, run_id, _say, options.poll_seconds)
    except (errors.Interrupted, KeyboardInterrupt):
        follow.cancel(client, run_id)
        print(f"run {run_id} is being cancelled", flush=True)
        raise
    for mlflow_run in outcome.mlflow_runs:
        print(f"MLflow run {mlflow_run}: {workspace.mlflow_page(client, mlflow_run)}")
    if not outcome.succeeded:
        failure = LaunchError(f"{outcome.reason}; {outcome.page}")
        failure.details = outcome.details
        raise failure
    print(f"run {run_id} succeeded")


def _say(line: str) -> None:
    print(mask(line), flush=True)


def _warn_of_credentials(deployment: bundle.Deployment) -> None:
    for upload in deployment.uploads:
        if upload.lacks_credentials:
            name = upload.source.relative_to(paths.home())
            remedy = "give the cluster MLFLOW_TRACKING_URI, from a secret scope in spark_env_vars, or the job refuses it"
            _say(f"warning: {name} is uploaded without the credentials in it; {remedy}")


def _pairs(flag: str, arguments: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise ConfigError(f"{flag} {argument}: must be NAME=VALUE")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
