"""MLflow's page that lists the training runs of an experiment, with columns for comparing them.

The page takes the columns from a "shared view", a tag of the experiment that the address names.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_SHARE_KEY = "convoy"
_VIEW = {
    # Evaluations and sweeps have no parameters; trials do.
    "searchFilter": "params.`launch.workers` LIKE '%'",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    # More would not fit beside the menu.
    "selectedColumns": [
        "attributes.`Duration`",
        "metrics.`test/accuracy`",
        "metrics.`epoch_seconds`",
        "params.`launch.workers`",
    ],
}
_TIMEOUT_SECONDS = 10
# The server is on this machine, whatever proxy the environment names.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def address(server: str, experiment: str) -> str:
    """Store the view in the experiment and return the address of the page.

    Args:
        server: address of a running MLflow server, such as `http://127.0.0.1:5000`.
        experiment: its name.

    Returns:
        the address of the list, or of the server if the experiment does not exist yet.

    Raises:
        OSError: there is no MLflow server at the address.
    """
    query = urllib.parse.urlencode({"experiment_name": experiment})
    try:
        found = _ask(f"{server}/api/2.0/mlflow/experiments/get-by-name?{query}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return server
        raise
    experiment_id = found["experiment"]["experiment_id"]
    tag = {"experiment_id": experiment_id, "key": f"mlflow.sharedViewState.{_SHARE_KEY}", "value": json.dumps(_VIEW)}
    _ask(f"{server}/api/2.0/mlflow/experiments/set-experiment-tag", tag)
    # Without the type MLflow 3 shows its menu for language models.
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={_SHARE_KEY}&workflowType=machine_learning"


def _ask(url: str, content: dict[str, Any] | None = None) -> Any:
    data = json.dumps(content).encode() if content is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with _opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
        return json.loads(answer.read())
