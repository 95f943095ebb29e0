import pytest

from pipelines.system.secrets import first_line, is_secret_name, mask, masked, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://ann:p%40ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("see https://host/a?token=abc123&page=2 there", "see https://host/a?token=***&page=2 there"),
        ("https://s3/x?X-Amz-Signature=0a1b&X-Amz-Credential=AKIA", "https://s3/x?X-Amz-Signature=***&X-Amz-Credential=***"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: ***"),
        ("header Bearer abcdefgh12345678", "header Bearer ***"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
        ('{"password": "hunter2"}', '{"password": "***"}'),
        ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
        ("dapi0123456789abcdef0123456789abcdef", "***"),
    ],
)
def test_credentials_are_masked_in_every_form_and_other_text_stays(text, shown):
    assert mask(text, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "training.batch_size_per_worker=64: must be at least 1",
        "file.libsvm:3: unknown label 12 @ line 3",
        "sqlite:////home/ann/mlflow.db",
        "dbfs:/databricks-datasets/mnist-digits/data-001",
        "keys: a, b; tokens 5; signatures=2",
    ],
)
def test_ordinary_text_is_unchanged(text):
    assert mask(text, {"HOME": "/home/ann", "TOKENIZERS_PARALLELISM": "training"}) == text


def test_the_value_of_a_secret_variable_is_masked_anywhere():
    environment = {"MLFLOW_TRACKING_PASSWORD": "tr0ub4dor", "DB": "mysql://ann:another1@db/x", "EDITOR": "ordinary"}
    assert mask("x tr0ub4dor-y another1 ordinary", environment) == "x ***-y *** ordinary"


def test_masking_is_idempotent():
    once = mask("http://a:bcdefgh@h/?token=1 password=hunter2", {})
    assert mask(once, {}) == once


def test_strings_in_nested_data_are_masked():
    assert masked({"uri": ["http://a:b@h", 5, None]}) == {"uri": ["http://***@h", 5, None]}


@pytest.mark.parametrize(
    "name",
    ["DATABRICKS_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PYSPARK_GATEWAY_SECRET"],
)
def test_names_of_secret_variables_are_recognized(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["HOME", "AWS_WEB_IDENTITY_TOKEN_FILE", "TOKENIZERS_PARALLELISM", "SSH_AUTH_SOCK", "KEYBOARD"])
def test_other_names_are_not_taken_for_secrets(name):
    assert not is_secret_name(name)


def test_an_environment_without_secrets_keeps_all_other_variables():
    environment = {"HOME": "/root", "HF_TOKEN": "x", "MLFLOW_TRACKING_URI": "http://ann:s3cret@h", "CONVOY_HOME": "/c"}
    assert without_secrets(environment) == {"HOME": "/root", "CONVOY_HOME": "/c"}


def test_the_first_line_of_an_error_is_nonblank_masked_and_bounded():
    assert first_line(ValueError("\n  no answer from https://me:hunter22@host \n  a trace")) == "no answer from https://***@host"
    assert first_line(KeyError()) == "KeyError"
    assert first_line("") == ""
    assert first_line("x" * 400, 100) == "x" * 100
