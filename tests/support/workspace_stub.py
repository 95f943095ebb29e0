"""Stub of a Databricks workspace on loopback: workspace files, the Jobs API, and runs that really execute.

It serves the real SDK, refuses what a workspace would refuse, and runs each task's file with its parameters in a one-machine
cluster (`guest_cluster`), whose Python has the submitted wheel and not this checkout.
"""

import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from databricks.bundles.jobs import Job, Task
from support.task_cluster import TaskCluster

_CODES = {
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    502: "BAD_GATEWAY",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}
TOKEN = "dapi-of-the-stub"
USER = "ann@example.com"


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Workspace:
    """Serves until the block ends.

    Args:
        home: folder for the workspace's files and the tasks' output.
        cluster_environment: environment variables of every cluster, such as the address of MLflow.
    """

    def __init__(self, home: Path, **cluster_environment: str) -> None:
        self.home = home
        self.cluster_environment = cluster_environment
        self.calls: list[str] = []
        self.jobs: dict[int, dict[str, Any]] = {}
        self.owners: dict[int, str] = {}
        """Creators of the jobs that are not the stub's user's."""
        self.runs: dict[int, dict[str, Any]] = {}
        self.outputs: dict[int, dict[str, Any]] = {}
        self.idempotent: dict[str, int] = {}
        self.errors: list[tuple[str, int]] = []
        """Path suffix and status of error responses; each is returned once in place of the real response."""
        self.holds = False
        """If set, runs stay pending until they are cancelled."""
        self.cancelled: set[int] = set()
        self._lock = threading.RLock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub._answer(self, b"")

            def do_POST(self) -> None:
                stub._answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Workspace":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def local(self, path: str) -> Path:
        return self.home / path.lstrip("/")

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        url = urllib.parse.urlsplit(handler.path)
        self.calls.append(url.path)
        headers = {}
        try:
            for suffix, status in self.errors:
                if url.path.endswith(suffix):
                    self.errors.remove((suffix, status))
                    headers = {"Retry-After": "0"} if status in (429, 503) else {}
                    raise Refused(status, _CODES.get(status, "REFUSED"), "out of order")
            if url.path == "/.well-known/databricks-config":
                # Requested without a token; older workspaces lack it.
                raise Refused(404, "ENDPOINT_NOT_FOUND", "no such page")
            if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(403, "PERMISSION_DENIED", "Invalid access token.")
            route = url.path.removeprefix("/api/").partition("/")[2].replace("/", "_").replace("-", "_")
            if not hasattr(self, f"_{route}"):
                raise Refused(404, "ENDPOINT_NOT_FOUND", f"No API found for '{url.path}'")
            if handler.headers.get_content_type() == "multipart/form-data":
                content = _fields(handler.headers["Content-Type"], body)
            else:
                content = json.loads(body) if body else dict(urllib.parse.parse_qsl(url.query))
            with self._lock:
                status, answer = 200, getattr(self, f"_{route}")(content)
        except Refused as refusal:
            status, answer = refusal.status, {"error_code": refusal.code, "message": str(refusal)}
        text = json.dumps(answer).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    # The API, by path

    def _preview_scim_v2_Me(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"userName": USER}

    def _workspace_mkdirs(self, body: dict[str, Any]) -> dict[str, Any]:
        self.local(body["path"]).mkdir(parents=True, exist_ok=True)
        return {}

    def _workspace_import(self, body: dict[str, Any]) -> dict[str, Any]:
        target = self.local(body["path"])
        if not target.parent.is_dir():
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"The parent folder ({target.parent}) does not exist.")
        if target.exists() and body.get("overwrite") != "true":
            raise Refused(400, "RESOURCE_ALREADY_EXISTS", f"Path ({body['path'].decode()}) already exists.")
        target.write_bytes(body["content"])
        return {}

    def _jobs_list(self, query: dict[str, Any]) -> dict[str, Any]:
        jobs = [
            {"job_id": job_id, "settings": job, "creator_user_name": self.owners.get(job_id, USER)}
            for job_id, job in self.jobs.items()
            if job["name"] == query["name"]
        ]
        return {"jobs": jobs, "has_more": False}

    def _jobs_create(self, body: dict[str, Any]) -> dict[str, Any]:
        self.jobs[100 + len(self.jobs)] = _checked(body)
        return {"job_id": max(self.jobs)}

    def _jobs_reset(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["job_id"] not in self.jobs:
            raise Refused(400, "INVALID_PARAMETER_VALUE", f"Job {body['job_id']} does not exist.")
        self.jobs[body["job_id"]] = _checked(body["new_settings"])
        return {}

    def _jobs_run_now(self, body: dict[str, Any]) -> dict[str, Any]:
        job = self.jobs[body["job_id"]]
        defaults = {parameter["name"]: parameter["default"] for parameter in job.get("parameters", ())}
        unknown = set(body.get("job_parameters", {})) - set(defaults)
        if unknown:
            raise Refused(400, "INVALID_PARAMETER_VALUE", f"Job parameters {unknown} are not defined.")
        clusters = {cluster["job_cluster_key"]: cluster["new_cluster"] for cluster in job["job_clusters"]}
        tasks = [task | {"new_cluster": clusters[task["job_cluster_key"]]} for task in job["tasks"]]
        return self._start(body.get("idempotency_token", ""), tasks, defaults | body.get("job_parameters", {}))

    def _jobs_runs_submit(self, body: dict[str, Any]) -> dict[str, Any]:
        for task in body["tasks"]:
            try:
                Task.from_dict(task)
            except (ValueError, TypeError) as error:
                raise Refused(400, "INVALID_PARAMETER_VALUE", str(error)) from None
        return self._start(body.get("idempotency_token", ""), body["tasks"], {})

    def _start(self, token: str, tasks: list[dict[str, Any]], parameters: dict[str, str]) -> dict[str, Any]:
        if token and token in self.idempotent:
            return {"run_id": self.idempotent[token]}
        run_id = 1000 + 100 * len(self.runs)
        self.idempotent[token] = run_id
        task_runs = [
            {"task_key": task["task_key"], "run_id": run_id + number, "state": {"life_cycle_state": "PENDING"}}
            for number, task in enumerate(tasks, 1)
        ]
        page = f"{self.host}/jobs/runs/{run_id}"
        self.runs[run_id] = {"run_id": run_id, "run_page_url": page, "state": {"life_cycle_state": "PENDING"}, "tasks": task_runs}
        threading.Thread(target=self._execute, args=(run_id, tasks, parameters), daemon=True).start()
        return {"run_id": run_id}

    def _jobs_runs_get(self, query: dict[str, Any]) -> dict[str, Any]:
        return self._known(query, self.runs)

    def _jobs_runs_get_output(self, query: dict[str, Any]) -> dict[str, Any]:
        return self._known(query, self.outputs)

    def _jobs_runs_cancel(self, body: dict[str, Any]) -> dict[str, Any]:
        self.cancelled.add(self._known(body, self.runs)["run_id"])
        return {}

    def _mlflow_runs_get(self, query: dict[str, Any]) -> dict[str, Any]:
        return {"run": {"info": {"run_id": query["run_id"], "experiment_id": "7"}}}

    @staticmethod
    def _known(query: dict[str, Any], table: dict[int, dict[str, Any]]) -> dict[str, Any]:
        if int(query["run_id"]) not in table:
            raise Refused(400, "INVALID_PARAMETER_VALUE", f"Run {query['run_id']} does not exist.")
        return table[int(query["run_id"])]

    # Runs

    def _execute(self, run_id: int, tasks: list[dict[str, Any]], parameters: dict[str, str]) -> None:
        run = self.runs[run_id]
        while self.holds and run_id not in self.cancelled:
            time.sleep(0.05)
        if run_id in self.cancelled:
            for part in (*run["tasks"], run):
                part["state"] = {"life_cycle_state": "TERMINATED", "result_state": "CANCELED", "state_message": "Run cancelled."}
            return
        run["state"] = {"life_cycle_state": "RUNNING"}
        wheels = [self.local(library["whl"]) for library in tasks[0]["libraries"]]
        cluster = TaskCluster(self.home, tasks[0]["new_cluster"], wheels, self.cluster_environment)
        results = {}
        try:
            for task, task_run in zip(tasks, run["tasks"], strict=True):
                dependencies = [dependency["task_key"] for dependency in task.get("depends_on", ())]
                if any(results[key] != "SUCCESS" for key in dependencies):
                    results[task["task_key"]] = "UPSTREAM_FAILED"
                else:
                    task_run["state"] = {"life_cycle_state": "RUNNING"}
                    results[task["task_key"]] = self._run_task(cluster, task, task_run["run_id"], parameters)
                task_run["state"] = {"life_cycle_state": "TERMINATED", "result_state": results[task["task_key"]]}
        finally:
            cluster.end()
        result = "SUCCESS" if set(results.values()) == {"SUCCESS"} else "FAILED"
        run["state"] = {"life_cycle_state": "TERMINATED", "result_state": result, "state_message": ""}

    def _run_task(self, cluster: TaskCluster, task: dict[str, Any], run_id: int, parameters: dict[str, str]) -> str:
        arguments = []
        for text in task["spark_python_task"]["parameters"]:
            for name, value in parameters.items():
                text = text.replace("{{job.parameters." + name + "}}", value)
            # As if the workspace's files were mounted at /Workspace.
            arguments.append(text.replace("/Workspace/", f"{self.home}/Workspace/"))
        log = self.home / f"task-{run_id}.log"
        error = cluster.run(self.local(task["spark_python_task"]["python_file"]), arguments, log)
        self.outputs[run_id] = {"logs": log.read_text(), "error": error} if error else {"logs": log.read_text()}
        return "FAILED" if error else "SUCCESS"


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        Job.from_dict(settings)
    except (ValueError, TypeError) as error:
        raise Refused(400, "INVALID_PARAMETER_VALUE", str(error)) from None
    return settings


def _fields(content_type: str, body: bytes) -> dict[str, Any]:
    """Fields of a multipart form. `content` is bytes, since it may be a wheel; the others are text."""
    boundary = b"--" + content_type.partition("boundary=")[2].encode()
    fields: dict[str, Any] = {}
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = head.decode().partition('name="')[2].partition('"')[0]
        content = content.removesuffix(b"\r\n")
        fields[name] = content if name == "content" else content.decode()
    return fields
