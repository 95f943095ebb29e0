import contextlib
import http.server
import json
import threading

import pytest

from pipelines.track.mlflow import runs_page


@contextlib.contextmanager
def server(answers):
    """Answers by path and query, and keeps what was posted."""
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = answers.get(self.path, (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_POST(self):
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", posted
        listening.shutdown()


def test_the_view_is_stored_in_the_experiment_that_the_address_names(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    found = {"/api/2.0/mlflow/experiments/get-by-name?experiment_name=a+name": (200, {"experiment": {"experiment_id": "7"}})}
    with server(found) as (base, posted):
        address = runs_page.address(base, "a name")
    assert address == f"{base}/#/experiments/7/runs?viewStateShareKey=convoy&workflowType=machine_learning"
    ((path, tag),) = posted
    assert path == "/api/2.0/mlflow/experiments/set-experiment-tag"
    assert (tag["experiment_id"], tag["key"]) == ("7", "mlflow.sharedViewState.convoy")
    view = json.loads(tag["value"])
    assert {"metrics.`test/accuracy`", "params.`launch.workers`", "attributes.`Duration`"} <= set(view["selectedColumns"])


def test_without_the_experiment_the_address_is_that_of_the_server():
    with server({}) as (base, posted):
        assert runs_page.address(base, "convoy") == base
    assert posted == []


def test_another_kind_of_server_is_an_error():
    with server({"/api/2.0/mlflow/experiments/get-by-name?experiment_name=convoy": (500, {})}) as (base, _):
        with pytest.raises(OSError, match="500"):
            runs_page.address(base, "convoy")
    with pytest.raises(OSError, match="refused"):
        runs_page.address("http://127.0.0.1:9", "convoy")
