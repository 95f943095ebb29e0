"""Which Parquet files of a folder are scored. All are, or a line says why not."""

import pytest

from pipelines.data.sources import parquet_files
from pipelines.errors import ConfigError, DataError
from pipelines.score.batch.inputs import detect_kind


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(root):
    return [str(file.relative_to(root)) for file in parquet_files.find(str(root))]


def test_sub_folders_count_and_what_spark_writes_beside_its_files_does_not(tmp_path):
    write(tmp_path, "b.parquet", "a/c.parquet", "a/d/e.parquet", "f.PARQUET", "g.parq")
    write(tmp_path, "_SUCCESS", ".b.parquet.crc", "_temporary/0/x.parquet", "README.md")
    assert found(tmp_path) == ["a/c.parquet", "a/d/e.parquet", "b.parquet", "f.PARQUET", "g.parq"]


def test_partitions_may_be_nested_and_begin_with_an_underscore(tmp_path):
    write(tmp_path, "_y=1/m=1/a.parquet", "_y=1/m=2/a.parquet", "_y=2/m=1/a.parquet")
    assert len(found(tmp_path)) == 3


@pytest.mark.parametrize(
    "names", [("a.parquet", "id=7/b.parquet"), ("id=7/a.parquet", "id=8/x=1/b.parquet"), ("a=1/x.parquet", "b=1/x.parquet")]
)
def test_files_that_spark_would_drop_beside_partitions_are_refused(tmp_path, names):
    write(tmp_path, *names)
    with pytest.raises(ConfigError, match=f"{tmp_path}/.*parquet: lies in other folders than {tmp_path}/.*parquet; either all"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("_spark_metadata/0", "the output of a stream"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
    ],
)
def test_a_table_whose_log_says_which_files_count_is_refused_as_a_whole_and_in_part(tmp_path, name, kind):
    write(tmp_path, "all/t/id=1/a.parquet", f"all/t/{name}")
    for folder in ("all", "all/t", "all/t/id=1"):
        with pytest.raises(
            ConfigError, match=f"^--data {tmp_path}/all/t: is {kind}, .*write its rows to a folder of plain Parquet$"
        ):
            detect_kind(str(tmp_path / folder))
    # A file that is named is read.
    assert detect_kind(str(tmp_path / "all/t/id=1/a.parquet")) == "parquet"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("_a.parquet", "has a name that Spark skips"),
        (".a.parquet", "has a name that Spark skips"),
        ("2026-11-29T20:04.parquet", "has a colon in its name"),
    ],
)
def test_a_file_that_spark_cannot_open_is_refused_when_it_is_named(tmp_path, name, reason):
    write(tmp_path, name)
    with pytest.raises(ConfigError, match=f"^--data {tmp_path}/{name}: {reason}"):
        detect_kind(str(tmp_path / name))


def test_a_link_in_a_circle_is_named(tmp_path):
    write(tmp_path, "a.parquet")
    (tmp_path / "up").symlink_to(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path}/up: is a symbolic link to a folder that contains it"):
        detect_kind(str(tmp_path))
