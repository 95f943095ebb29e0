"""Tables damaged between two runs."""

import json
import os
import shutil
from pathlib import Path

from support.ingesting import ingest, rows_of
from support.reported import ReportedLines
from support.synthetic import write_libsvm

from pipelines.data.table.schema import MANIFEST_NAME


def flip_a_bit(table):
    path = table / "split=test" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def forge_a_path(table):
    manifest = json.loads((table / MANIFEST_NAME).read_text())
    manifest["splits"]["train"]["files"][0]["path"] = "../../x"
    (table / MANIFEST_NAME).write_text(json.dumps(manifest))


def link_away(table):
    shutil.move(table, table.parents[1] / "elsewhere")
    (table.parents[1] / "elsewhere" / MANIFEST_NAME).unlink()
    table.symlink_to(table.parents[1] / "elsewhere")


DAMAGES = {
    "missing part": (lambda table: (table / "split=train/part-00001.parquet").unlink(), "part-00001.parquet is missing"),
    "truncated part": (lambda table: os.truncate(table / "split=train/part-00000.parquet", 99), "is truncated or damaged"),
    "changed bit": (flip_a_bit, "split=test/part-00000.parquet is "),
    "no manifest": (lambda table: (table / MANIFEST_NAME).unlink(), "has no manifest"),
    "truncated manifest": (lambda table: os.truncate(table / MANIFEST_NAME, 300), "not a table manifest"),
    "forged manifest": (forge_a_path, "'../../x' is not the path of a file of split train"),
    "a link to something else": (link_away, "has no manifest"),
}


def test_a_damaged_table_is_detected_and_rewritten_with_the_same_rows(spark, tmp_path):
    """One table for all kinds of damage: each rebuilt table is the next one to be damaged."""
    write_libsvm(tmp_path / "digits.txt", 700)
    tables = tmp_path / "tables"
    first, _ = ingest(spark, tmp_path / "digits.txt", tables, "ingest.rows_per_row_group=200")
    expected = rows_of(first, "train")
    for name, (damage, text) in DAMAGES.items():
        damage(Path(first.uri))
        lines = ReportedLines()
        built, new = ingest(spark, tmp_path / "digits.txt", tables, "ingest.rows_per_row_group=200", reporter=lines)
        assert new, name
        assert lines[0].startswith("warning: "), lines
        assert first.uri in lines[0]
        assert text in lines[0]
        assert lines[0].endswith("; the table is rewritten")
        assert rows_of(built, "train") == expected
        assert [path.name for path in tables.iterdir()] == [Path(first.uri).name]
    assert (tmp_path / "elsewhere" / "split=train").is_dir()
