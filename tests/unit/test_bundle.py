"""Every Databricks job in the repository, checked as strictly as possible without a workspace."""

import importlib.util
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from databricks.bundles.experiments import MlflowExperiment
from databricks.bundles.jobs import Job, Task
from databricks.sdk.service.jobs import JobsAPI, SubmitTask

from pipelines import cli
from pipelines.errors import ConfigError
from tools.databricks import bundle
from tools.databricks.workspace import check, differences, validated

ROOT = Path(__file__).parents[2]
RESOURCES = sorted((ROOT / "conf/databricks").glob("*.yml"))
# What docs/runtimes.md has a column for.
RUNTIMES = {
    "15.4": "15.4.x-cpu-ml-scala2.12",
    "16.4": "16.4.x-cpu-ml-scala2.12",
    "17.3": "17.3.x-cpu-ml-scala2.13",
    "18": "18.x-cpu-ml-scala2.13",
    "19": "19.x-cpu-ml-scala2.13",
}


@pytest.fixture(params=["dev", "prod"])
def deployment(request):
    return bundle.load(ROOT, "ann@example.com", request.param)


def raw_jobs():
    return {
        name: job for file in RESOURCES for name, job in yaml.safe_load(file.read_text())["resources"].get("jobs", {}).items()
    }


def submitted_tasks():
    return bundle.run_body(ROOT)["tasks"]


def clusters_and_tasks(deployment):
    job = deployment.job
    return [cluster["new_cluster"] for cluster in job["job_clusters"]], job["tasks"]


def test_there_is_something_to_check():
    assert raw_jobs()
    assert submitted_tasks()


def test_the_bundle_has_no_key_or_mode_that_the_cli_would_ignore():
    content = yaml.safe_load((ROOT / "databricks.yml").read_text())
    # Databricks' own schema allows any key here: https://docs.databricks.com/dev-tools/bundles/reference.html
    assert set(content) == {"bundle", "include", "artifacts", "variables", "targets"}
    assert all(set(variable) <= {"description", "default"} for variable in content["variables"].values())
    modes = {name: target["mode"] for name, target in content["targets"].items()}
    assert modes == {"dev": "development", "prod": "production"}
    assert set(content["artifacts"]["wheel"]) == {"type", "path", "build"}
    used = set(re.findall(r"\$\{var\.(\w+)\}", "".join(file.read_text() for file in RESOURCES)))
    assert used == set(content["variables"])


@pytest.mark.parametrize("name", raw_jobs())
def test_databricks_own_types_accept_every_field_of_every_job(name):
    assert Job.from_dict(raw_jobs()[name]).as_dict()


def test_databricks_own_types_accept_every_experiment():
    for file in RESOURCES:
        for experiment in yaml.safe_load(file.read_text())["resources"].get("experiments", {}).values():
            MlflowExperiment.from_dict(experiment)


def test_the_sdk_drops_nothing_from_a_resolved_job_and_no_reference_is_left_in_it(deployment):
    validated(deployment.job)
    Job.from_dict(deployment.job)
    assert "${" not in json.dumps(deployment.job)
    assert set(deployment.job) <= set(inspect.signature(JobsAPI.create).parameters)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_sdk_and_the_service_accept_the_runs_submit_body_of_every_runtime(runtime):
    content = bundle.run_body(ROOT, "prod", bundle.runtime_variables(ROOT, runtime))
    assert "${" not in json.dumps(content)
    assert [task["new_cluster"]["spark_version"] for task in content["tasks"]] == [RUNTIMES[runtime]]
    assert set(content) <= set(inspect.signature(JobsAPI.submit).parameters)
    for task in content["tasks"]:
        assert list(differences(task, SubmitTask.from_dict(task).as_dict())) == []
        Task.from_dict(task)
        # At this level of the API tasks cannot share a cluster.
        assert "new_cluster" in task


@pytest.mark.parametrize(
    "mistake",
    [
        {"task_keyy": "x"},
        {"spark_python_task": {"python_file": "/x.py", "parameters": "--epochs 3"}},
        {"new_cluster": {"spark_version": "x", "data_security_mode": "SINGLE"}},
    ],
)
def test_a_job_with_a_mistake_is_refused_before_it_is_sent(mistake):
    with pytest.raises(ConfigError, match=r"^conf/databricks: job\.tasks\[0\]\."):
        validated({"name": "x", "tasks": [{"task_key": "t", **mistake}]})


def test_clusters_are_what_training_needs(deployment):
    clusters, _ = clusters_and_tasks(deployment)
    for cluster in [*clusters, *(task["new_cluster"] for task in submitted_tasks())]:
        assert cluster["spark_version"] == RUNTIMES["18"]
        (script,) = cluster["init_scripts"]
        assert script["workspace"]["destination"].endswith("/conf/databricks/init.sh")
        assert cluster["spark_env_vars"]["CONVOY_WHEELS"].startswith("/Volumes/")
        assert cluster["data_security_mode"] == "SINGLE_USER"
        assert "autoscale" not in cluster
        # As many cores as a node has: one worker a node.
        assert int(cluster["spark_conf"]["spark.task.cpus"]) >= 4
        assert cluster["spark_conf"]["spark.speculation"] == "false"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_runtime_has_its_image_and_the_uploaded_init_script(runtime):
    deployment = bundle.load(ROOT, "ann@example.com", "dev", bundle.runtime_variables(ROOT, runtime))
    (cluster,), _ = clusters_and_tasks(deployment)
    assert cluster["spark_version"] == RUNTIMES[runtime]
    assert cluster["init_scripts"][0]["workspace"]["destination"] in {upload.target for upload in deployment.uploads}
    validated(deployment.job)
    Job.from_dict(deployment.job)


def test_an_unknown_runtime_is_one_line_that_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"^--runtime 20: must be one of 15\.4, 16\.4, 17\.3, 18, 19 \(conf/constraints\)$"):
        bundle.runtime_variables(ROOT, "20")


def test_training_requests_one_worker_per_node(deployment):
    (cluster,), tasks = clusters_and_tasks(deployment)
    arguments = [task["spark_python_task"]["parameters"] for task in tasks if task["task_key"] == "train"]
    arguments += [task["spark_python_task"]["parameters"] for task in submitted_tasks()]
    nodes = [cluster["num_workers"], *(task["new_cluster"]["num_workers"] for task in submitted_tasks())]
    assert [int(parameters[parameters.index("--workers") + 1]) for parameters in arguments] == nodes


def test_cluster_keys_and_dependencies_resolve(deployment):
    keys = {cluster["job_cluster_key"] for cluster in deployment.job["job_clusters"]}
    earlier = set()
    for task in deployment.job["tasks"]:
        assert task["job_cluster_key"] in keys
        assert {dependency["task_key"] for dependency in task.get("depends_on", ())} <= earlier
        earlier.add(task["task_key"])
    assert earlier == {"ingest", "train", "evaluate", "promote"}


def test_every_file_a_task_names_is_uploaded_or_the_wheel(deployment):
    uploaded = {upload.target for upload in deployment.uploads}
    for task in deployment.job["tasks"]:
        assert task["spark_python_task"]["python_file"] in uploaded
        assert task["libraries"] == [{"whl": deployment.wheel}]
        config = task["spark_python_task"]["parameters"][1].replace("{{job.parameters.config}}", "conf/train_cnn.yml")
        assert config in uploaded or task["task_key"] in ("evaluate", "promote")
    assert all(upload.source.is_file() for upload in deployment.uploads)


def test_every_job_parameter_is_declared_and_every_declared_one_is_used(deployment):
    used = set(re.findall(r"{{job\.parameters\.(\w+)}}", json.dumps(deployment.job["tasks"])))
    assert used == set(deployment.parameters)


def test_the_experiment_is_an_absolute_workspace_path_on_every_task_that_records(deployment):
    arguments = [
        text for task in [*deployment.job["tasks"], *submitted_tasks()] for text in task["spark_python_task"]["parameters"]
    ]
    experiments = [text.partition("=")[2] for text in arguments if text.startswith("tracking.exp")]
    assert len(experiments) == 3
    assert all(name.startswith("/") and not name.startswith("/Workspace/") for name in experiments)


def test_parameters_parse_with_the_jobs_own_parser(deployment, monkeypatch):
    for task in [*deployment.job["tasks"], *submitted_tasks()]:
        python = task["spark_python_task"]
        script = ROOT / "jobs" / Path(python["python_file"]).name
        assert script.is_file()
        arguments = []
        for text in python["parameters"]:
            for name, default in deployment.parameters.items():
                text = text.replace("{{job.parameters." + name + "}}", default)
            arguments.append(re.sub(r"^/Workspace/.*/conf/", f"{ROOT}/conf/", text))
        parsed = parse(script, arguments, monkeypatch)
        assert parsed.config.ingest.tables_uri.startswith("/Volumes/")
        assert parsed.config.launch.runs_uri in ("runs", "/Volumes/main/default/convoy/runs")
        assert parsed.config.launch.runs_uri != "runs" or task["task_key"] in ("ingest", "promote")


class Parsed(BaseException):
    def __init__(self, request):
        super().__init__()
        self.request = request


def parse(script, arguments, monkeypatch):
    """The request that the job's main parses from the arguments; it goes no further."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    real = cli.parse

    def stop(*passed):
        raise Parsed(real(*passed))

    monkeypatch.setattr(cli, "parse", stop)
    with pytest.raises(Parsed) as caught:
        module.main(arguments)
    monkeypatch.setattr(cli, "parse", real)
    return caught.value.request


def test_a_development_target_prefixes_the_names_of_its_resources_and_a_production_target_does_not():
    dev, prod = (bundle.load(ROOT, "ann.b@example.com", target) for target in ("dev", "prod"))
    assert dev.job["name"] == "[dev ann_b] convoy (convoy submit)"
    assert prod.job["name"] == "convoy (convoy submit)"
    assert dev.wheel.startswith("/Workspace/Users/ann.b@example.com/.convoy/convoy/dev/")
    assert prod.wheel.startswith("/Workspace/Shared/.convoy/convoy/prod/")
    assert "tracking.experiment=/Shared/[dev ann_b] convoy-dev" in dev.job["tasks"][1]["spark_python_task"]["parameters"]


def test_variables_keep_their_types_and_can_be_overridden():
    variables = {"workers": "4", "node_type": "m5.2xlarge", "cores_per_node": "8"}
    job = bundle.load(ROOT, "ann@example.com", "dev", variables).job
    cluster = job["job_clusters"][0]["new_cluster"]
    assert (cluster["num_workers"], cluster["node_type_id"]) == (4, "m5.2xlarge")
    # Spark's settings are always strings.
    assert cluster["spark_conf"]["spark.task.cpus"] == "8"
    assert "4" in job["tasks"][1]["spark_python_task"]["parameters"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"target": "staging"}, r"^--target staging: must be one of dev, prod"),
        ({"variables": {"worker": "2"}}, r"^--var worker=2: must be one of runtime, scala, node_type, "),
        ({"job": "other"}, r"^--job other: must be one of convoy "),
    ],
)
def test_an_unknown_name_is_one_line_that_lists_the_known_ones(arguments, line):
    with pytest.raises(ConfigError, match=line):
        bundle.load(ROOT, "ann@example.com", **arguments)


def test_a_parameter_that_the_job_does_not_declare_is_refused(deployment):
    with pytest.raises(ConfigError, match=r"^--param epochs: must be one of config, data, setting, register, tables, runs"):
        check(deployment, {"epochs": "3"})


@pytest.fixture
def copy(tmp_path):
    shutil.copy(ROOT / "databricks.yml", tmp_path)
    shutil.copytree(ROOT / "conf/databricks", tmp_path / "conf/databricks")
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("../../jobs/ingest.py", "../../jobs/absent.py", r"^task ingest: python_file .*absent\.py: no such file"),
        ("${var.node_type}", "${var.node_typ}", r"^\$\{var\.node_typ\}: no such value; .*--var"),
        ("resources:", "resources: [", r"job\.yml line \d+: not valid YAML"),
    ],
)
def test_a_broken_job_file_is_one_line(copy, old, new, line):
    file = copy / "conf/databricks/job.yml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=line):
        bundle.load(copy, "ann@example.com")


def test_a_resource_that_two_files_define_is_refused(copy):
    (copy / "conf/databricks/more.yml").write_text((copy / "conf/databricks/experiment.yml").read_text())
    with pytest.raises(ConfigError, match=r"more\.yml: resources\.experiments\.\w+ is also in another file of the bundle"):
        bundle.load(copy, "ann@example.com")


def test_a_key_that_occurs_twice_in_a_job_is_refused(copy):
    file = copy / "conf/databricks/job.yml"
    file.write_text(file.read_text() + "resources: {}\n")
    with pytest.raises(ConfigError, match=r"job\.yml line \d+: resources is also in line \d+; put both together"):
        bundle.load(copy, "ann@example.com")
