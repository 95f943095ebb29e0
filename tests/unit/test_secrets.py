import base64
import html
import json
import random
import shlex
from urllib.parse import quote

import pytest
import yaml

from pipelines.config import TrackingConfig
from pipelines.system.secrets import first_line, is_secret_name, mask, mask_value, masked, without_secrets

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl-_x"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/abc=\nDEF\n-----END RSA PRIVATE KEY-----"
ACCOUNT_KEY = base64.b64encode(bytes(range(64))).decode()


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
        ("password='two words', next", "password='***', next"),
        ('{\\"token\\": \\"a \\\\ b\\"}', '{\\"token\\": \\"***\\"}'),
        ("--password hunter2 --workers 2", "--password *** --workers 2"),
        ("PGPASSWORD=x SSHPASS: y GITLAB_PAT=z", "PGPASSWORD=*** SSHPASS: *** GITLAB_PAT=***"),
        ("clientSecret: abc, x-api-key: 5", "clientSecret: ***, x-api-key: ***"),
        ("Set-Cookie: session=1; id=2\nnext", "Set-Cookie: ***\nnext"),
        ('{"auths": {"r": {"auth": "dXNlcjpwYXNz"}}}', '{"auths": {"r": {"auth": "***"}}}'),
        ("/data/token=7/d.libsvm is read", "/data/token=***/d.libsvm is read"),
    ],
)
def test_credentials_are_masked_in_every_form_and_other_text_stays(text, shown):
    assert mask(text, {}) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql+pymysql://user:PLA/NTED@127.0.0.1:1/db", "mysql+pymysql://***@127.0.0.1:1/db"),
        ("postgresql://u:p@ss@db/mlflow?options=a@b", "postgresql://***@db/mlflow?options=a@b"),
        ("postgresql://u:12/34@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://u:p?ss@db/x?sslmode=require", "postgresql://***@db/x?sslmode=require"),
        ("mongodb+srv://u:p#s/s@c.mongo.net/db", "mongodb+srv://***@c.mongo.net/db"),
        ("http://ann:p@ss/w@rd@host.com/x, see ann@x.org", "http://***@host.com/x, see ann@x.org"),
        ("http://ann:p/w@127.0.0.1:5000/x", "http://***@127.0.0.1:5000/x"),
        ("https://only-a-token@host/x", "https://***@host/x"),
        ('postgresql://u:it\'s "two" <words>@db/x', "postgresql://***@db/x"),
        ("redis://:pw@h:6379/0", "redis://***@h:6379/0"),
        ("git+https://u:tok@github.com/org/repo@v1", "git+https://***@github.com/org/repo@v1"),
        ("http://h:5000/x,http://ann:pw@h2/y", "http://h:5000/x,http://***@h2/y"),
        ("sqlite:///x.db?password=PLANTED", "sqlite:///x.db?password=***"),
        ("https://h/a?sig=ab%2F&se=2026", "https://h/a?sig=***&se=2026"),
        ("jdbc:sqlserver://h:1433;user=a;password=two words;x=y", "jdbc:sqlserver://h:1433;user=a;password=***;x=y"),
        ("jdbc:oracle:thin:scott/tiger@h:1521:x", "jdbc:oracle:thin:***@h:1521:x"),
        ("AccountName=a;AccountKey=abc==;Suffix=x", "AccountName=a;AccountKey=***;Suffix=x"),
        ("Server=h;Uid=a;Pwd=b c;Database=x", "Server=h;Uid=a;Pwd=***;Database=x"),
        (f"key {ACCOUNT_KEY} of an account", "key *** of an account"),
        (f"at {JWT}.", "at ***"),
        (f"{PEM} after", "*** after"),
        (json.dumps({"key": PEM, "n": 1}), '{"key": "***", "n": 1}'),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\nabc", "***"),
        ("ghp_" + "a1" * 18, "***"),
        ("github_pat_" + "a1" * 20, "***"),
        ("glpat-" + "a1" * 10, "***"),
        ("hf_" + "a1" * 17, "***"),
        ("sk-proj-" + "a1" * 20, "***"),
        ("AIza" + "a1" * 17 + "b", "***"),
        ("npm_" + "a1" * 18, "***"),
        ("xoxb-1234567890-abcdefghij", "***"),
        ("https://hooks.slack.com/services/T0000/B0000/abcdefghijklmnop", "https://hooks.slack.com/services/***"),
    ],
)
def test_what_must_be_a_credential_is_masked_in_values_too(text, shown):
    assert mask_value(text) == shown
    assert mask(text, {}) == shown


def test_passwords_of_random_characters_leave_nothing_of_an_address():
    letters = "XYZ019/@?#:'&=%.;,+-~!$()*[]{}|^`\"<> "
    generator = random.Random(3)
    for scheme in ("postgresql", "http"):
        for _ in range(1000):
            password = "X" + "".join(generator.choices(letters, k=10)) + "Q"
            if "://" not in password:
                shown = mask_value(f"{scheme}://user:{password}@127.0.0.1:5000/name")
                assert shown == f"{scheme}://***@127.0.0.1:5000/name", password


def test_the_password_of_an_address_in_the_settings_is_masked_by_itself_too():
    TrackingConfig(uri="mysql://ann:it's/remem\"bered@db/x")
    assert mask("access denied (it's/remem\"bered)") == "access denied (***)"


@pytest.mark.parametrize(
    "value",
    [
        "/data/token=7/d.libsvm",
        "token=7/d.libsvm",
        "/x/password=a;token=b/y",
        "convoy",
        "hunter2hunter2",
        "key: password",
        "abfss://container@account.dfs.core.windows.net/x",
        "http://mlflow:5000/#/models/digits@champion",
        "https://unpkg.com/react@18/x",
        "sqlite:////home/ann@work/mlflow.db",
        "file:///data/token=7?password=x",
        "models:/digits@champion",
    ],
)
def test_names_and_paths_are_left_as_they_are_whatever_they_look_like(value):
    assert mask_value(value) == value


@pytest.mark.parametrize(
    "text",
    [
        "training.batch_size_per_worker=64: must be at least 1",
        "file.libsvm:3: unknown label 12 @ line 3",
        "sqlite:////home/ann/mlflow.db",
        "dbfs:/databricks-datasets/mnist-digits/data-001",
        "keys: a, b; tokens 5; signatures=2",
        "max_tokens=4096, sort_key=abc, PASS: 3, KEY: x, PRIMARY_KEY=id",
        "def f(token: str, sig: int) -> None: has_token == 1",
        "PWD=/home/ann OLDPWD=/home",
        "Basic training at the bearer of it",
        "see https://unpkg.com/react@18/x and models:/digits@champion",
    ],
)
def test_ordinary_text_is_unchanged(text):
    assert mask(text, {"HOME": "/home/ann", "TOKENIZERS_PARALLELISM": "training"}) == text


def test_the_value_of_a_secret_variable_is_masked_anywhere():
    environment = {"MLFLOW_TRACKING_PASSWORD": "tr0ub4dor", "DB": "mysql://ann:another1@db/x", "EDITOR": "ordinary"}
    assert mask("x tr0ub4dor-y another1 ordinary", environment) == "x ***-y *** ordinary"


@pytest.mark.parametrize("secret", ["geheim-ü-1234", "ab\"cd\\ef'gh", "a/b@c&d e<f>", "日本-secret", "p%41ss:wörd"])
def test_the_value_of_a_secret_variable_is_masked_in_every_escaping(secret):
    environment = {"HF_TOKEN": secret}
    written = [
        secret,
        json.dumps([secret]),
        json.dumps([secret], ensure_ascii=False),
        repr([secret]),
        yaml.safe_dump({"a": secret}),
        yaml.safe_dump({"a": secret}, allow_unicode=True, default_style="'"),
        html.escape(secret),
        quote(secret),
        quote(secret, safe=""),
        shlex.quote(secret),
        base64.b64encode(secret.encode()).decode(),
    ]
    for text in written:
        shown = mask(text, environment)
        assert "***" in shown, text
        assert not any(piece in shown for piece in ("geheim", "1234", "cd", "secret", "41ss", "rd", "d e")), shown


def test_what_is_inside_the_value_of_a_secret_variable_is_masked_by_itself_too():
    environment = {
        "SSH_PRIVATE_KEY": PEM,
        "DOCKER_AUTH_CONFIG": '{"auths": {"registry": {"auth": "dXNlcjpwYXNz", "email": "ann@example.com"}}}',
        "DATABASE": "mysql://ann:pla/nted-pw@db/x",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=store;AccountKey=UExBTlRFRA==;EndpointSuffix=core",
        "JAVA_OPTS": "-Dx=1 -Dtrust.password=hunter22",
        "GOOGLE_APPLICATION_CREDENTIALS": __file__,
    }
    text = f"MIIEow+/abc= dXNlcjpwYXNz nted-pw UExBTlRFRA== hunter22 store ann@example.com {__file__}"
    assert mask(text, environment) == f"*** *** *** *** *** store ann@example.com {__file__}"


@pytest.mark.parametrize(
    "text",
    [
        "http://a:bcdefgh@h/?token=1 password=hunter2",
        "Authorization: Bearer abcdefgh12345678",
        "Cookie: a=b",
        "Server=h;Uid=a;Pwd=b c;Database=x",
        '{"password": "hunter2", "token": 5}',
        PEM,
    ],
)
def test_masking_is_idempotent(text):
    once = mask(text, {})
    assert once != text
    assert mask(once, {}) == once


def test_strings_in_nested_data_are_masked():
    assert masked({"uri": ["http://a:b@h", 5, None]}) == {"uri": ["http://***@h", 5, None]}


@pytest.mark.parametrize(
    "name",
    [
        *("DATABRICKS_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PYSPARK_GATEWAY_SECRET"),
        *("PGPASSWORD", "MYSQL_PWD", "SSHPASS", "DB_PASS", "GITLAB_PAT", "AZURE_STORAGE_CONNECTION_STRING", "DOCKER_AUTH_CONFIG"),
        *(
            "AZURE_STORAGE_KEY",
            "OPENAI_API_KEY",
            "SECRET_KEY_BASE",
            "DB_PASSWORD_2",
            "TOKEN_GITHUB",
            "PRIVATE_KEY_B64",
            "SENTRY_DSN",
        ),
        *("accountKey", "x-api-key", "npm_config__authToken", "API_TOKENS", "DBPASS", "SAS_URL", "SLACK_WEBHOOK_URL"),
    ],
)
def test_names_of_secret_variables_are_recognized(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("HOME", "AWS_WEB_IDENTITY_TOKEN_FILE", "TOKENIZERS_PARALLELISM", "SSH_AUTH_SOCK", "KEYBOARD", "PWD", "OLDPWD", "PATH"),
        *(
            "MAX_TOKENS",
            "GIT_ASKPASS",
            "COMPASS",
            "NO_PROXY_BYPASS",
            "PUBLIC_KEY",
            "PARTITION_KEY",
            "XAUTHORITY",
            "MONKEY",
            "key",
        ),
    ],
)
def test_variables_that_hold_none_are_not_taken_for_secrets(name):
    assert not is_secret_name(name)


def test_an_environment_without_secrets_keeps_all_other_variables():
    environment = {"HOME": "/root", "HF_TOKEN": "x", "MLFLOW_TRACKING_URI": "http://ann:s3cret@h", "CONVOY_HOME": "/c"}
    assert without_secrets(environment) == {"HOME": "/root", "CONVOY_HOME": "/c"}


def test_a_process_without_secrets_keeps_its_paths_even_if_a_password_is_a_word_in_them():
    kept = {"HOME": "/home/convoy", "USER": "convoy", "PATH": "/x/convoy/bin:/bin", "LD_LIBRARY_PATH": "/x/convoy/lib"}
    kept |= {"DATA": "/data/token=7/x", "TF_FLAGS": "a=1;b=2"}
    dropped = {
        "MLFLOW_TRACKING_PASSWORD": "convoy",
        "COPY": "my convoy",
        "JAVA_OPTS": "-Dx.password=abc",
        "PROXY": "http://a:b@h",
    }
    assert without_secrets(kept | dropped | {"A_NOTE": JWT, "B_NOTE": PEM}) == kept


def test_the_first_line_of_an_error_is_nonblank_masked_and_bounded():
    assert first_line(ValueError("\n  no answer from https://me:hunter22@host \n  a trace")) == "no answer from https://***@host"
    assert first_line(KeyError()) == "KeyError"
    assert first_line("") == ""
    assert first_line("x" * 400, 100) == "x" * 100
