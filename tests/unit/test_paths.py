"""All path forms, as used by Spark, Python, Petastorm and the tracking store."""

from pathlib import Path

import pytest
from support import hostile

from pipelines import cli
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.system import path_rules, paths
from pipelines.system.reporter import PrintReporter
from pipelines.track.mlflow.follower import default_tracking_uri

OBJECT_STORES = ("s3://bucket/x", "s3a://bucket/x", "abfss://c@a.dfs.core.windows.net/x", "gs://bucket/x", "hdfs:///x")


@pytest.fixture
def laptop(monkeypatch):
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    monkeypatch.setenv("CONVOY_DBFS_ROOT", "/data/dbfs")
    monkeypatch.setenv("CONVOY_HOME", "/home/ann/convoy")


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")
    # Must have no effect on a cluster, even if set on the machine that submitted the job.
    monkeypatch.setenv("CONVOY_DBFS_ROOT", "/data/dbfs")
    monkeypatch.delenv("CONVOY_HOME", raising=False)


@pytest.mark.parametrize(
    ("location", "python", "spark", "petastorm"),
    [
        ("dbfs:/a/b", "/data/dbfs/a/b", "file:/data/dbfs/a/b", "file:///data/dbfs/a/b"),
        ("dbfs:///a/b", "/data/dbfs/a/b", "file:/data/dbfs/a/b", "file:///data/dbfs/a/b"),
        ("/dbfs/a/b", "/data/dbfs/a/b", "file:/data/dbfs/a/b", "file:///data/dbfs/a/b"),
        ("/Volumes/c/s/v", "/data/dbfs/Volumes/c/s/v", "file:/data/dbfs/Volumes/c/s/v", "file:///data/dbfs/Volumes/c/s/v"),
        ("dbfs:/Volumes/c/s/v", "/data/dbfs/Volumes/c/s/v", "file:/data/dbfs/Volumes/c/s/v", "file:///data/dbfs/Volumes/c/s/v"),
        ("file:/a/b", "/a/b", "file:/a/b", "file:///a/b"),
        ("file:///a/b%20c", "/a/b c", "file:/a/b c", "file:///a/b c"),
        ("/a/b", "/a/b", "file:/a/b", "file:///a/b"),
        ("a/b", "/home/ann/convoy/a/b", "file:/home/ann/convoy/a/b", "file:///home/ann/convoy/a/b"),
    ],
)
def test_on_a_laptop_every_form_maps_to_a_local_folder(laptop, location, python, spark, petastorm):
    assert str(paths.to_python(location)) == python
    assert paths.to_spark(location) == spark
    assert paths.to_petastorm(location) == petastorm


@pytest.mark.parametrize("location", ["dbfs:/a/b", "/Volumes/c/s/v", "a/b"])
def test_a_location_resolves_identically_on_a_node_with_the_variables(laptop, monkeypatch, location):
    variables, path = paths.variables(), paths.to_python(location)
    monkeypatch.delenv("CONVOY_HOME")
    monkeypatch.delenv("CONVOY_DBFS_ROOT")
    assert paths.to_python(location) != path
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert paths.to_python(location) == path


def test_databricks_nodes_need_no_variables(cluster):
    assert paths.variables() == {}


@pytest.mark.parametrize(
    ("location", "python", "spark", "petastorm"),
    [
        ("dbfs:/a/b", "/dbfs/a/b", "dbfs:/a/b", "file:///dbfs/a/b"),
        ("/dbfs/a/b", "/dbfs/a/b", "dbfs:/a/b", "file:///dbfs/a/b"),
        ("file:/dbfs/a/b", "/dbfs/a/b", "dbfs:/a/b", "file:///dbfs/a/b"),
        ("/Volumes/c/s/v/t", "/Volumes/c/s/v/t", "dbfs:/Volumes/c/s/v/t", "file:///Volumes/c/s/v/t"),
        ("dbfs:/Volumes/c/s/v/t", "/Volumes/c/s/v/t", "dbfs:/Volumes/c/s/v/t", "file:///Volumes/c/s/v/t"),
        ("/Workspace/Users/a@b.c/conf/x.yml", *(f"{p}/Workspace/Users/a@b.c/conf/x.yml" for p in ("", "file:", "file://"))),
        ("/local_disk0/x", "/local_disk0/x", "file:/local_disk0/x", "file:///local_disk0/x"),
    ],
)
def test_on_databricks_spark_uses_dbfs_and_python_and_petastorm_the_mount(cluster, location, python, spark, petastorm):
    assert str(paths.to_python(location)) == python
    assert paths.to_spark(location) == spark
    assert paths.to_petastorm(location) == petastorm


@pytest.mark.parametrize("location", OBJECT_STORES)
@pytest.mark.parametrize("role", [paths.to_python, paths.to_spark, paths.to_petastorm])
def test_object_stores_are_rejected_with_the_remedy(cluster, location, role):
    with pytest.raises(ConfigError, match=r"is not supported; use dbfs:/.*\(mount object storage as a volume\)"):
        role(location)


@pytest.mark.parametrize(
    "location", ["dbfs:/../etc/passwd", "/dbfs/../etc/passwd", "/Volumes/../../etc", "dbfs:/Volumes/../../etc"]
)
@pytest.mark.parametrize("where", ["laptop", "cluster"])
def test_no_form_can_leave_its_root(request, where, location):
    request.getfixturevalue(where)
    with pytest.raises(ConfigError, match=r"leaves the folder .* remove the '\.\.'"):
        paths.to_python(location)


def test_an_empty_path_is_rejected(laptop):
    with pytest.raises(ConfigError, match=r"^an empty path was given"):
        paths.to_python("")


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_path_is_taken_as_it_is_written(laptop, name):
    for location, expected in (
        (f"/a/{name}", f"/a/{name}"),
        (f"./{name}", f"/home/ann/convoy/{name}"),
        (f"/a/{name}/b", f"/a/{name}/b"),
    ):
        path = paths.to_python(location)
        assert str(path) == expected
        assert paths.to_spark(location) == f"file:{path}"


@pytest.mark.parametrize(("name", "reason"), hostile.REFUSED)
def test_what_no_command_takes_is_refused_in_one_line_that_shows_it(laptop, name, reason):
    with pytest.raises(ConfigError, match=reason) as failure:
        paths.to_python(f"/a/{name}/b", "--output ")
    line = str(failure.value)
    assert line.startswith("--output ")
    assert len(line.splitlines()) == 1
    assert len(line) < 300
    line.encode()


@pytest.mark.parametrize("location", ["~nosuchuser/x", "~nosuchuser"])
def test_the_folder_of_a_user_who_does_not_exist_is_one_line(laptop, location):
    with pytest.raises(ConfigError, match=f"^{location}: there is no such user; ./{location} is a file of that name$"):
        paths.to_python(location)
    assert paths.to_python(f"./{location}") == Path("/home/ann/convoy") / location


def test_a_tilde_is_the_home_of_a_user_only_at_the_beginning(laptop, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert paths.to_python("~/x") == Path("/home/ann/x")
    assert paths.to_python("./~") == Path("/home/ann/convoy/~")


@pytest.mark.parametrize(("location", "path"), [("file://localhost/a/b", "/a/b"), ("file:/a%C3%BC%25", "/aü%")])
def test_file_uris_are_decoded(location, path):
    assert str(paths.to_python(location)) == path


@pytest.mark.parametrize("location", ["file:a/b", "file:", "file://server/a"])
def test_file_uris_of_no_place_on_this_machine_are_rejected(location):
    with pytest.raises(ConfigError, match=f"^{location}: must be file:/ and an absolute path on this machine$"):
        paths.to_python(location)


def test_a_file_with_a_colon_is_read_by_its_path(laptop):
    with pytest.raises(ConfigError, match=r"and \./a:b\.txt for a file of that name$"):
        paths.to_python("a:b.txt")
    assert paths.to_python("./a:b.txt") == Path("/home/ann/convoy/a:b.txt")


def test_a_name_found_in_a_folder_is_shown_in_one_line_of_any_terminal(capsys):
    PrintReporter().say("Z\udcfcrich\n\x1b[2J \u2028ü\tx")
    PrintReporter().warn("\ud800")
    assert capsys.readouterr().out == "Z\\xfcrich\\n\\x1b[2J \\u2028ü\tx\nwarning: \\ud800\n"


def test_a_folder_of_tables_with_a_colon_and_a_bracket_is_refused(laptop):
    assert paths.to_petastorm("/a:b/c") == "file:///a:b/c"
    with pytest.raises(ConfigError, match=r"^/a:b/c\[1\]: contains ':' and '\[', which Spark cannot open together"):
        paths.to_petastorm("/a:b/c[1]")


@pytest.mark.parametrize("character", "#?;")
def test_characters_with_a_meaning_in_urls_are_rejected_for_petastorm_only(laptop, character):
    location = f"/a{character}b"
    assert paths.to_python(location) == Path(location)
    with pytest.raises(ConfigError, match="Petastorm cannot open"):
        paths.to_petastorm(location)


@pytest.mark.parametrize("location", ["/a%41b", "file:/a%2541b", "./a%b"])
def test_a_folder_of_models_that_mlflow_would_look_for_elsewhere_is_refused(laptop, location):
    assert paths.to_python(location)
    with pytest.raises(
        ConfigError, match=r"^--model .*: contains '%', and MLflow would open another folder; use another folder$"
    ):
        paths.to_mlflow(location, "--model ")


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        *(("a.txt", True), ("a[1]{x}%41 #?*;.txt", True), ("_a=1.txt", True)),
        *(("_a.txt", False), (".a.txt", False), ("2026-11-29T20:04.txt", False), ("a.txt._COPYING_", False)),
        *(("d:e/a.txt", True), ("d:e/a[1].txt", False), ("d:e[1]/a.txt", False)),
    ],
)
def test_the_names_that_spark_cannot_open_are_known(name, reads):
    assert (path_rules.spark_file_fault(f"/data/_f/{name}") == "") == reads


def test_the_tracking_store_of_a_laptop_is_in_the_home_folder(laptop, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri(TrackingConfig()) == "sqlite:////home/ann/convoy/mlflow.db"


@pytest.fixture
def here_and_home(tmp_path, monkeypatch):
    """A working directory with `here` and `both`, in a home folder with `there` and `both`."""
    home = tmp_path / "clone"
    here = home / "data"
    here.mkdir(parents=True)
    for file in (here / "here", here / "both", home / "there", home / "both"):
        file.touch()
    monkeypatch.setenv("CONVOY_HOME", str(home))
    monkeypatch.chdir(here)
    return here, home


def test_a_relative_path_given_is_that_of_the_working_directory_or_else_of_the_home_folder(here_and_home):
    here, home = here_and_home
    for name in ("here", "both", "./here", "../data/both"):
        assert paths.to_python(paths.given(name)) == here / name
    for name in ("there", "nowhere"):
        assert paths.given(name) == name
        assert paths.to_python(name) == home / name
    for name in ("dbfs:/here", "file:/here", str(home / "there"), "~/here", ""):
        assert paths.given(name) == name
    assert paths.made("new") == str(here / "new")
    assert paths.made("dbfs:/new") == "dbfs:/new"


def test_what_is_recorded_of_a_path_given_means_the_same_from_anywhere(here_and_home, monkeypatch, capsys):
    here, home = here_and_home

    def dataset(*arguments):
        return cli.parse(arguments, "", None).config.data

    assert dataset("--data", "here").dataset == str(here / "here")
    assert dataset("--set", "data.test_file=here", "--data", "there").test_file == str(here / "here")
    assert dataset("--data", "there").dataset == "there"
    (here / "mnist").mkdir()
    assert dataset("--data", "mnist").dataset == "mnist"
    assert capsys.readouterr() == ("", "")
    assert dataset("--data", "both").dataset == str(here / "both")
    told = "".join(capsys.readouterr())
    assert told == f"warning: both is in the working directory and in {home}; {here / 'both'} is taken\n"
    monkeypatch.chdir(home)
    assert dataset("--data", "both").dataset == "both"
    (home / "run.yml").write_text("data: {dataset: there}")
    (here / "run.yml").write_text("data: {dataset: here}")
    assert dataset("--config", "run.yml").dataset == "there"
    monkeypatch.chdir(here)
    assert dataset("--config", "run.yml").dataset == "here"


def test_the_help_says_where_relative_paths_start(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--help"], "", None)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Relative paths on the command line start in the working directory, or in CONVOY_HOME (the clone)" in shown


def test_a_working_directory_that_has_gone_is_not_looked_into(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", "/home/ann/convoy")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert paths.given("x") == "x"


@pytest.mark.parametrize("folder", ["/a%41b", "/a%b", "/a?b", "/a\nb"])
def test_a_tracking_store_that_sqlalchemy_would_look_for_elsewhere_is_refused(laptop, monkeypatch, folder):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CONVOY_HOME", folder)
    for uri in ("", *([f"sqlite:///{folder}/x.db"] if "?" not in folder else [])):
        with pytest.raises(ConfigError, match=r"^tracking\.uri=sqlite:////a.*: the path of the database contains "):
            default_tracking_uri(TrackingConfig(uri=uri))
    given = "sqlite:////a/x.db?timeout=5%20"
    assert default_tracking_uri(TrackingConfig(uri=given)) == given
