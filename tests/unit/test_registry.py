"""From registered version to champion, on a real registry in an sqlite file. Models are only named, not loaded."""

from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED, REQUEST_LIMIT_EXCEEDED, TEMPORARILY_UNAVAILABLE
from support.reported import ReportedLines

from pipelines.errors import ConfigError, ConvoyError
from pipelines.score import model_registry
from pipelines.score.evaluate import evaluation_run
from pipelines.score.mlflow_client import connect
from pipelines.score.model_info import ModelInfo
from pipelines.score.model_lookup import registered_name
from pipelines.tasks.mcnemar import PairedCounts


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(store):
    model_registry.connect(store)
    return mlflow.MlflowClient()


@pytest.fixture
def name(client, request):
    client.create_registered_model(request.node.name)
    return request.node.name


def new_challenger(client, name):
    version = str(client.create_model_version(name, source="file:/nowhere").version)
    client.set_registered_model_alias(name, model_registry.CHALLENGER, version)
    return version


def counts(only_challenger, only_champion):
    return PairedCounts(both=900, only_first=only_challenger, only_second=only_champion, neither=20)


@pytest.mark.parametrize(("challenger", "champion", "promoted"), [(20, 5, True), (5, 20, False), (9, 7, False), (0, 0, False)])
def test_only_a_significantly_better_challenger_is_promoted(challenger, champion, promoted):
    decision = model_registry.decide(counts(challenger, champion), 0.05, "abc")
    assert decision.promoted is promoted
    assert decision.facts["only_challenger_right"] == str(challenger)
    assert "table abc" in decision.reason


def test_the_first_champion_needs_no_rival_and_the_next_must_beat_it(client, name):
    first = new_challenger(client, name)
    model_registry.record(client, name, first, None, model_registry.first_champion({"accuracy": 0.97}, 1000, "abc"))
    assert model_registry.version_of(client, name, model_registry.CHAMPION) == first
    assert model_registry.version_of(client, name, model_registry.CHALLENGER) is None

    second = new_challenger(client, name)
    model_registry.record(client, name, second, first, model_registry.decide(counts(6, 5), 0.05, "abc"))
    assert model_registry.version_of(client, name, model_registry.CHAMPION) == first
    assert model_registry.version_of(client, name, model_registry.CHALLENGER) == second
    kept = client.get_model_version(name, second)
    assert kept.tags["promotion.decision"] == "not promoted"
    assert kept.tags["promotion.against_version"] == first
    assert kept.tags["promotion.p_value"] == "1"
    assert "Not promoted (against version 1)" in kept.description

    model_registry.record(client, name, second, first, model_registry.decide(counts(30, 5), 0.05, "abc"))
    assert model_registry.version_of(client, name, model_registry.CHAMPION) == second
    champion = client.get_model_version(name, second)
    assert champion.tags["promotion.table_digest"] == "abc"
    assert float(champion.tags["promotion.p_value"]) < 0.001
    assert "only the challenger gets 30 right, only the champion 5" in champion.description


ERRORS = [
    *(
        MlflowException("API request failed", error_code=code)
        for code in (INTERNAL_ERROR, PERMISSION_DENIED, REQUEST_LIMIT_EXCEEDED, TEMPORARILY_UNAVAILABLE)
    ),
    ConnectionError("read timed out"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: getattr(error, "error_code", "none"))
@pytest.mark.parametrize("call", ["get_registered_model", "get_model_version_by_alias"])
def test_an_error_of_the_registry_is_not_the_absence_of_a_champion(client, name, monkeypatch, error, call):
    def fail(*_):
        raise error

    monkeypatch.setattr(client, call, fail)
    with pytest.raises(ConvoyError, match="the registry did not say which version has the alias champion") as caught:
        model_registry.version_of(client, name, model_registry.CHAMPION)
    assert not isinstance(caught.value, ConfigError)


def test_an_alias_that_the_description_leaves_out_is_asked_for(client, name, monkeypatch):
    version = new_challenger(client, name)
    described = client.get_registered_model

    def without_aliases(name):
        model = described(name)
        model._aliases = {}
        return model

    monkeypatch.setattr(client, "get_registered_model", without_aliases)
    assert model_registry.version_of(client, name, model_registry.CHALLENGER) == version
    assert model_registry.version_of(client, name, model_registry.CHAMPION) is None


def test_a_newer_challenger_keeps_its_alias(client, name):
    old = new_challenger(client, name)
    newer = new_challenger(client, name)
    model_registry.record(client, name, old, None, model_registry.first_champion({"accuracy": 0.97}, 1000, "abc"))
    assert model_registry.version_of(client, name, model_registry.CHAMPION) == old
    assert model_registry.version_of(client, name, model_registry.CHALLENGER) == newer


def test_a_champion_that_came_meanwhile_is_not_replaced(client, name):
    first, rival, challenger = (new_challenger(client, name) for _ in range(3))
    client.set_registered_model_alias(name, model_registry.CHAMPION, rival)
    for beaten in (first, None):
        with pytest.raises(ConvoyError, match=f"version {rival} has become champion in place of .*promote again"):
            model_registry.record(client, name, challenger, beaten, model_registry.decide(counts(30, 5), 0.05, "abc"))
    assert model_registry.version_of(client, name, model_registry.CHAMPION) == rival
    assert model_registry.version_of(client, name, model_registry.CHALLENGER) == challenger
    assert client.get_model_version(name, challenger).tags == {}
    # What was not promoted moves nothing, and may be stored.
    model_registry.record(client, name, challenger, first, model_registry.decide(counts(5, 30), 0.05, "abc"))
    assert client.get_model_version(name, challenger).tags["promotion.against_version"] == first


def test_a_name_that_is_not_registered_is_named(client):
    with pytest.raises(ConfigError, match="nobody: no such registered model"):
        model_registry.version_of(client, "nobody", model_registry.CHAMPION)


@pytest.mark.parametrize("wrong", ["", "a/b", "a:b", "a@b"])
def test_a_wrong_name_is_refused_before_any_work(wrong):
    with pytest.raises(ConfigError, match="--register"):
        model_registry.check_name(wrong)
    model_registry.check_name("main.vision.digits")


def test_a_model_that_never_reached_the_server_is_a_warning_instead_of_an_error(store):
    lines = ReportedLines()
    assert model_registry.try_register("", "digits", store, lines) == {}
    assert lines[0].startswith("warning: not registered as digits: MLflow at sqlite:")


def test_three_part_names_on_databricks_belong_to_unity_catalog(monkeypatch, store):
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("DATABRICKS_TOKEN", "none")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    try:
        assert connect("databricks", "main.vision.digits")._registry_uri == "databricks-uc"
        assert registered_name("models:/main.vision.digits@champion") == "main.vision.digits"
    finally:
        mlflow.set_registry_uri("")
        mlflow.set_tracking_uri(store)


@pytest.mark.parametrize(
    ("uri", "name"),
    [("models:/a/3", "a"), ("models:/a@champion", "a"), ("models:/m-12ab", ""), ("runs:/1/model", ""), ("folder", "")],
)
def test_the_name_in_a_models_uri(uri, name):
    assert registered_name(uri) == name


def test_an_error_is_not_the_absence_of_the_run_that_logged_a_model(client, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lines = ReportedLines()

    def parent(run_id, uri):
        info = ModelInfo(
            uri="models:/m-1",
            path=Path(),
            version="",
            run_id=run_id,
            image_shape=(1, 1, 1),
            num_classes=2,
            labels=(0, 1),
            class_names=("a", "b"),
            value_range=(0.0, 1.0),
            dataset="d",
            table_digest="abc",
        )
        return evaluation_run.find_parent(info, uri, lines)

    run_id = client.create_run(client.create_experiment("parents")).info.run_id
    assert parent(run_id, store).info.run_id == run_id
    assert parent("0" * 32, store) is None
    assert lines == []
    assert parent(run_id, "http://127.0.0.1:9") is None
    assert "warning: models:/m-1: MLflow did not say which run logged it" in lines[0]
