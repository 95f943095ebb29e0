"""Which files are data, and of what kind."""

import io

import pytest
from PIL import Image

from pipelines.data.formats import image_file
from pipelines.data.formats.file_kind import file_kind, files_by_kind
from pipelines.errors import DataError
from pipelines.system.listing import files_below


def test_hidden_names_do_not_count_at_any_depth_and_links_are_followed(tmp_path):
    for name in ("root/a.txt", "root/b/c.txt", "root/x=1/d.txt", "root/_y=2/e.txt", "outside/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for name in (".a.txt", "_SUCCESS", "b/._c.txt", ".ipynb_checkpoints/a.txt", "_delta_log/0.json", ".y=2/e.txt"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text("")
    (tmp_path / "root/linked").symlink_to(tmp_path / "outside")
    found = [str(file.relative_to(tmp_path / "root")) for file in files_below(tmp_path / "root")]
    assert found == ["_y=2/e.txt", "a.txt", "b/c.txt", "linked/f.txt", "x=1/d.txt"]
    # A hidden folder is read when it is named.
    assert [file.name for file in files_below(tmp_path / "root/.ipynb_checkpoints")] == ["a.txt"]


def test_a_link_to_a_folder_around_it_is_named(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="a/b/up: is a symbolic link to a folder that contains it"):
        files_below(tmp_path / "a")
    (tmp_path / "a/b/up").unlink()
    (tmp_path / "a/b/lost").symlink_to("nowhere")
    with pytest.raises(DataError, match="a/b/lost: is a symbolic link that leads nowhere"):
        files_below(tmp_path / "a")


def encoded(form, **options):
    content = io.BytesIO()
    Image.new("RGB", (9, 7), (90, 0, 200)).save(content, form, **options)
    return content.getvalue()


@pytest.mark.parametrize("form", image_file._FORMATS)
def test_pictures_are_known_by_their_first_bytes(tmp_path, form):
    content = encoded(form)
    assert image_file.has_signature(content[: image_file.SIGNATURE_BYTES])
    (tmp_path / "scan").write_bytes(content)
    assert file_kind(tmp_path / "scan") == "picture"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("letter.scale", b"1 1:-0.5\n", "libsvm"),
        ("a9a", b"-1 3:1\n", "libsvm"),
        ("a.scale.bz2", b"BZh9", "libsvm"),
        ("a.txt", b"", "libsvm"),
        ("a.JPG", b"", "picture"),
        ("a.parquet", b"", "parquet"),
        ("part-0", b"PAR1\x15", "parquet"),
        ("notes", b"BM is how this text begins", "libsvm"),
    ],
)
def test_a_named_file_is_text_unless_it_is_something_else(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert file_kind(tmp_path / name) == kind


def test_the_files_of_a_folder_count_by_what_they_hold(tmp_path):
    def found(*contents):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, content in contents:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return {kind: [str(file.relative_to(folder)) for file in files] for kind, files in files_by_kind(folder).items()}

    text, picture, parquet = b"1 1:1\n", encoded("PNG"), b"PAR1 PAR1"
    assert found(("part-00000", text), ("part-00001", b""), ("_SUCCESS", b""), (".part-00000.crc", b"crc")) == {
        "libsvm": ["part-00000"]
    }
    assert found(("x/part-00000", parquet), ("x/part-1.snappy.parquet", parquet)) == {
        "parquet": ["x/part-00000", "x/part-1.snappy.parquet"]
    }
    # Beside files of a known kind, a file of another name is not data.
    assert found(("a.png", picture), ("scan", picture), ("LICENSE", text), ("labels.csv", text)) == {"picture": ["a.png"]}
    assert found(("letter.scale", text), ("scan", picture)) == {"libsvm": ["letter.scale"], "picture": ["scan"]}
    assert found(("a.txt", text), ("b.parquet", parquet)) == {"libsvm": ["a.txt"], "parquet": ["b.parquet"]}
