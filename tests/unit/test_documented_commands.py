"""What README and docs tell a user to type: its options exist, and a test runs it or a reason says why none does."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.sweep import run_sweep, sweep_file
from tools.completion.collect import MODULES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
COMMAND = re.compile(
    r"\.ci/\w+$|eval |(\w+=\S+ )?(\./convoy|spark-submit|mlflow|python|pipx|databricks|export|\.venv/bin/\w+|\.) \S"
)

# Each command and the tests that run it: as documented, or with smaller data, fewer epochs, and other paths and names. Tests run
# `./convoy NAME` as the program it becomes, such as `spark-submit jobs/NAME.py`.
TRAIN = "e2e/test_jobs.py::test_the_summary_has_the_keys_of_the_contract"
OWN_DATA = "distributed/test_own_data.py::test_a_network_learns_data_of_another_shape_by_configuration_alone"
TABLE = "e2e/test_table_training.py::test_two_workers_learn_text_labels_from_a_table_and_the_model_knows_its_columns"
OWN_NETWORK = "e2e/test_own_network.py::test_the_run_holds_file_digest_and_traces_and_is_named_after_the_function"
SWEEP = "e2e/test_sweep.py::test_a_killed_sweep_continues_and_its_trials_are_child_runs"
SWEEP_FILES = "unit/test_sweep_plan.py::test_every_sweep_file_of_the_repository_is_valid_and_documents_its_command"
REPLAY = "e2e/test_tracking_trouble.py::test_a_training_without_its_server_succeeds_leaks_no_secret_and_is_completed_by_replay"
SUBMIT = "e2e/test_databricks_job.py::test_the_job_of_the_bundle_runs_to_its_end_from_the_wheel"
BODY = "e2e/test_databricks_job.py::test_the_body_for_runs_submit_runs_and_a_failed_task_names_its_cause"
LABS = "e2e/test_labs.py::test_a_lab_runs_with_figures_and_without_warnings"
HOSTS = "distributed/test_hosts.py::test_one_rank_on_each_of_three_hosts_trains_like_three_on_one_and_depends_on_the_network"
SERVER = "e2e/test_using_a_model.py::test_the_server_returns_the_same_probabilities_for_tensors_and_dataframes"
RUN_BY = {
    "./convoy help": ("unit/test_front_door.py::test_help_names_every_command",),
    "./convoy train": (
        TRAIN,
        "unit/test_front_door.py::test_train_becomes_spark_submit_and_says_when_so_that_set_up_does_not_count",
    ),
    "spark-submit jobs/train_cnn.py": (TRAIN,),
    "./convoy train --config conf/convnet_dropout.yml --workers 2 --set training.epochs=5": (TRAIN,),
    "./convoy train --config conf/convnet_dropout.yml --set training.canonical_shards=4 --workers 2": (
        "distributed/test_canonical_shards.py::test_any_number_of_workers_sees_the_same_rows_in_the_same_steps",
    ),
    "./convoy train --workers 4 --set training.epochs=3": (TRAIN,),
    "./convoy train --config best.yml": (
        "e2e/test_sweep.py::test_the_best_configuration_is_that_of_the_best_trial_and_can_be_trained",
    ),
    "./convoy train --data digits.libsvm --set data.image_shape=[8,8,1] --set data.value_range=[0,16] --set data.classes=10": (
        OWN_DATA,
    ),
    "./convoy train --data pets --set data.image_shape=[32,32,3] --set data.classes=2": (OWN_DATA,),
    "./convoy train --config conf/mlp.yml --data parquet:flowers.parquet --set 'data.columns={label: species, features: [length, "
    "width]}' --set data.classes=3 --set data.value_range=auto": (TABLE,),
    "./convoy train --data own.libsvm --set data.features=13 --set data.value_range=auto --set data.scaling=standardize "
    "--set data.classes=2 --set model.name=mlp_wide": (
        "distributed/test_own_data.py::test_features_that_are_no_picture_are_learned_from_file_to_test_accuracy",
    ),
    "./convoy train --set model.name=mine.py:build --set 'model.arguments={width: 16}' --workers 2": (OWN_NETWORK,),
    "./convoy train --set model.name=mine.py:build --set 'model.arguments={width: 32}' --workers 2": (OWN_NETWORK,),
    "./convoy train --set model.weights=models:/digits@champion --set 'model.frozen=[convolution*]'": (
        "e2e/test_own_network.py::test_a_training_starts_from_the_weights_of_a_registered_model_and_keeps_frozen_layers",
    ),
    "./convoy train --resume latest": (
        "e2e/test_lost_workers.py::test_resume_finishes_the_same_run_with_each_epoch_recorded_once",
        "e2e/test_lost_workers.py::test_another_network_is_rejected_in_one_line",
    ),
    "./convoy train --register digits": ("e2e/test_using_a_model.py::test_training_registered_the_model_as_challenger",),
    "spark-submit jobs/ingest.py --data my.libsvm": ("e2e/test_jobs.py::test_ingest_alone_finds_the_table_that_training_wrote",),
    "./convoy sweep": (SWEEP,),
    "spark-submit jobs/sweep.py": (SWEEP,),
    "./convoy sweep conf/sweeps/convnet.yml": (SWEEP, SWEEP_FILES),
    "./convoy sweep conf/sweeps/large_batch.yml": (SWEEP, SWEEP_FILES),
    "./convoy sweep conf/sweeps/convnet.yml --data mnist-5k --workers 2 --set training.epochs=2 --summary sweep.json": (SWEEP,),
    "./convoy sweep --resume latest": (SWEEP,),
    "./convoy predict digit.jpg my.libsvm": (
        "e2e/test_using_a_model.py::test_predict_labels_pictures_and_lines_with_the_newest_model",
    ),
    "./convoy evaluate": (
        "e2e/test_using_a_model.py::test_an_evaluation_reproduces_the_results_of_the_training_as_a_child_of_its_run",
    ),
    "spark-submit jobs/evaluate.py": (
        "e2e/test_using_a_model.py::test_an_evaluation_reproduces_the_results_of_the_training_as_a_child_of_its_run",
    ),
    "./convoy evaluate --model runs:/RUN/model --data my.libsvm": (
        "e2e/test_using_a_model.py::test_an_evaluation_reproduces_the_results_of_the_training_as_a_child_of_its_run",
    ),
    "./convoy score": ("e2e/test_using_a_model.py::test_a_whole_table_is_scored_by_the_champion",),
    "./convoy score --model runs:/RUN/model --data DATA --output scored": (
        "e2e/test_using_a_model.py::test_a_whole_table_is_scored_by_the_champion",
    ),
    "./convoy promote digits --data mnist": ("e2e/test_using_a_model.py::test_a_challenger_becomes_the_first_champion",),
    "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db": (SERVER,),
    "mlflow models serve --model-uri models:/digits@champion --env-manager local --port 5001": (SERVER,),
    "./convoy ui": ("e2e/test_run_page.py::test_the_overview_summarizes_the_run_and_shows_how_to_use_the_model",),
    "./convoy runs": ("e2e/test_run_page.py::test_recent_runs_are_listed_in_the_terminal",),
    "./convoy runs --count 20": ("e2e/test_run_page.py::test_recent_runs_are_listed_in_the_terminal",),
    "./convoy replay": (REPLAY,),
    "./convoy replay runs/RUN": (REPLAY,),
    "./convoy replay runs/SWEEP": (REPLAY,),
    "./convoy schema": ("unit/test_config_schema.py::test_the_command_writes_the_files_in_the_repository",),
    'eval "$(CLONE/convoy completion bash)"': ("unit/test_completion.py::test_tab_completes",),
    "./convoy doctor": ("e2e/test_refused_starts.py::test_the_doctor_finds_that_training_can_work_here",),
    "./convoy doctor --workers 2": ("e2e/test_refused_starts.py::test_the_doctor_checks_the_executors_if_given_workers",),
    "./convoy labs": (LABS,),
    "./convoy labs 2 --set data=mnist-5k --set epochs=3": (LABS,),
    "./convoy submit --dry-run": ("unit/test_submit.py::test_a_dry_run_shows_files_and_job_without_contacting_the_workspace",),
    "./convoy submit --runtime 17.3": ("unit/test_bundle.py::test_each_runtime_has_its_image_and_the_uploaded_init_script",),
    "./convoy submit": (SUBMIT,),
    "./convoy submit --target dev --var node_type=m5.2xlarge --var cores_per_node=8": (SUBMIT,),
    "export DATABRICKS_HOST=https://...": (SUBMIT,),
    "./convoy submit --runtime 17.3 --body run.json": (BODY,),
    "databricks jobs submit --json @run.json": (BODY,),
    "spark-submit --master spark://HEAD:7077 jobs/train_cnn.py --workers 2": (HOSTS,),
    "SPARK_REMOTE=sc://HOST:15002 ./convoy train --workers 2": (
        "e2e/test_spark_connect.py::test_a_training_ingests_trains_two_workers_and_restarts_when_one_is_lost",
        "unit/test_front_door.py::test_with_spark_connect_train_needs_no_spark_submit",
    ),
    "SPARK_REMOTE=local[2] ./convoy train --workers 2": (
        "e2e/test_spark_connect.py::test_without_a_server_a_job_starts_its_own",
    ),
    ".venv/bin/uv pip freeze --exclude-editable > installed.txt": (
        "unit/test_dependencies.py::test_the_list_for_an_audit_names_every_package",
    ),
}
MEASURES = "a measurement: minutes to hours, and meaningless beside other tests"
NOT_RUN = {
    "./convoy test": "runs the tests",
    "./convoy test --quick": "runs the tests",
    "./convoy setup": "downloads and compiles for minutes; every command begins with it, ./convoy test too",
    ". .venv/bin/activate": "prepares a shell; tests run inside the environment",
    "python benchmarks/pictures.py": "writes pictures into docs/, to be looked at",
    "CONVOY_RUNTIME=dbr-17.3-ml ./convoy train": "compiles a Horovod of its own; .ci/runtime runs the main job there",
    ".ci/run": "runs the tests, as `./convoy test` does",
    ".ci/petastorm": "builds an environment for each pyarrow; run by hand when the reader or Petastorm changes",
    "databricks bundle deploy": "needs a workspace and the Databricks CLI; tests/unit/test_bundle.py checks the bundle",
    "databricks bundle run convoy": "needs a workspace and the Databricks CLI; tests/unit/test_bundle.py checks the bundle",
    "databricks workspace import": "needs a workspace and the Databricks CLI",
    "pipx run pip-audit --no-deps --disable-pip -r installed.txt": "asks a service on the network",
    "./convoy bench --rounds 1": MEASURES,
    "./convoy bench --rounds 3": MEASURES,
    "./convoy bench --data FOLDER": MEASURES,
    "./convoy bench first_step --rounds 5": MEASURES,
    "./convoy bench launching": MEASURES,
    "./convoy bench training_rate": MEASURES,
    "./convoy bench time_to_accuracy": MEASURES,
    "./convoy bench accuracies speeds": MEASURES,
    "./convoy bench scaling --rounds 1": MEASURES,
    "./convoy bench soak --rounds 10": MEASURES,
    "./convoy bench symptoms --rounds 10": MEASURES,
    "./convoy canary": "builds an environment of the newest releases, and runs the quick tests in it",
    "./convoy bench examples --rounds 3": MEASURES,
    "./convoy bench fine_tuning": MEASURES,
    "./convoy bench flat_memory --rounds 1": MEASURES,
    "./convoy bench ingest_growth": MEASURES,
}


def commands(page: Path) -> list[str]:
    """Commands in indented and fenced blocks, without what explains them, and in code spans."""
    found, fence = [], None
    # A command that continues in the next line.
    text = re.sub(r" *\\\n *", " ", page.read_text())
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence in ("", "sh", "bash") or (fence is None and line.startswith("    ")):
            found.append(re.split(r" {2,}", line.strip())[0])
        elif fence is None:
            found += re.findall(r"`([^`]+)`", line)
    return [command for command in found if COMMAND.match(command)]


DOCUMENTED = sorted({command for page in PAGES for command in commands(page)})


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_is_run_by_a_test_or_has_a_reason(command):
    assert (command in RUN_BY) != (command in NOT_RUN), "name a test in RUN_BY, or a reason in NOT_RUN"
    for name in RUN_BY.get(command, ()):
        file, _, test = name.partition("::")
        module = ast.parse((ROOT / "tests" / file).read_text())
        assert test in [node.name for node in module.body if isinstance(node, ast.FunctionDef)], f"tests/{name} does not exist"


def test_the_lists_name_only_documented_commands():
    assert sorted([*RUN_BY, *NOT_RUN]) == DOCUMENTED


class Parsed(BaseException):
    """Raised in the place of a job's work."""


def main_and_arguments(command):
    """The function that a command leads to, and its arguments; None for what is not the project's or takes no options."""
    words = shlex.split(command)
    words = words[1:] if "=" in words[0] else words
    if words[:1] == ["spark-submit"]:
        (script,) = [word for word in words if word.startswith("jobs/")]
        return importlib.import_module(f"jobs.{Path(script).stem}").main, words[words.index(script) + 1 :]
    if words[:1] == ["./convoy"] and words[1] in MODULES:
        return importlib.import_module(MODULES[words[1]]).main, words[2:]
    return None


# Alone, it stands for the command with options.
NAMES = {"./convoy sweep", "spark-submit jobs/sweep.py", "./convoy score", "./convoy replay", "spark-submit jobs/evaluate.py"}


@pytest.mark.parametrize("command", [command for command in DOCUMENTED if main_and_arguments(command) and command not in NAMES])
def test_the_options_of_a_documented_command_exist_and_its_settings_are_valid(command, monkeypatch):
    main, arguments = main_and_arguments(command)
    monkeypatch.setenv("CONVOY_HOME", str(ROOT))
    for word in arguments:
        assert not word.startswith("conf/") or (ROOT / word).is_file(), word
    if "best.yml" in arguments:
        arguments[arguments.index("best.yml")] = "conf/convnet.yml"
    parse, parse_args = cli.parse, argparse.ArgumentParser.parse_args

    def stop(*_args, **_kwargs):
        raise Parsed

    def only_parse(*args, **kwargs):
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        raise Parsed(parse(*args, **kwargs))

    def only_parse_args(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(cli, "parse", only_parse)
    if main.__module__ == "jobs.sweep":
        monkeypatch.setattr(run_sweep, "begin", stop)
        monkeypatch.setattr(run_sweep, "find", stop)
    elif main.__module__ in ("jobs.runs", "jobs.replay", "jobs.doctor", MODULES["submit"], MODULES["labs"], MODULES["schema"]):
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse_args)
    with pytest.raises(Parsed):
        main(arguments)


def test_the_front_door_knows_every_documented_command():
    shown = subprocess.run(
        [sys.executable, str(ROOT / "convoy"), "help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    known = {name for names in re.findall(r"^  \./convoy ([\w|]+)", shown, re.MULTILINE) for name in names.split("|")}
    documented = {match[1] for command in DOCUMENTED if (match := re.search(r"\./convoy (\w+)", command))}
    assert documented <= known


def test_the_sweep_on_the_page_of_sweeps_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(ROOT))
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/sweeps.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "sweep.yml").write_text(block)
    assert sweep_file.load(tmp_path / "sweep.yml").trials == 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_exist(page):
    text = page.read_text()
    links = [*re.findall(r"\]\(([^)#]+)[^)]*\)", text), *re.findall(r'src="([^"]+)"', text)]
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    spans = re.findall(r"`((?:pipelines|jobs|conf|docs|tests|tools|benchmarks|notebooks)/[\w./-]*)`", text)
    missing += [name for name in spans if not (ROOT / name).exists()]
    assert missing == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
