import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import shutil
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.reported import ReportedLines

from pipelines.config import DataConfig
from pipelines.data.formats.libsvm import parse
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.sources import downloads, resolve
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.sources.resolve import resolve_source
from pipelines.errors import ConfigError, DataError
from pipelines.system.reporter import NullReporter

ROWS = {"train": 6, "test": 3}
IDX_NAMES = {"train": "train", "test": "t10k"}
SILENT = NullReporter()


@pytest.fixture(autouse=True)
def own_dbfs(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_DBFS_ROOT", str(tmp_path / "dbfs"))
    monkeypatch.setenv("CONVOY_HOME", str(tmp_path))
    monkeypatch.delenv("CONVOY_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "Two Digits"
    data.mkdir()
    (data / "two-train.txt").write_text("1 1:1\n")
    (data / "two-test.txt").write_text("1 1:1\n")
    return data


@pytest.fixture
def published(tmp_path):
    """A tiny set as IDX files in folder `good`, and its pixels and labels."""
    rng = np.random.default_rng(1)
    content = {}
    (tmp_path / "good").mkdir()
    for split, rows in ROWS.items():
        images, labels = rng.integers(0, 256, (rows, 28, 28)).astype(np.uint8), np.arange(rows).astype(np.uint8)
        write_idx(tmp_path / "good", split, images, labels)
        content[split] = (images.reshape(rows, -1), labels)
    return tmp_path / "good", content


def write_idx(folder, split, images, labels):
    head = struct.pack(">IIII", 2051, len(images), 28, 28)
    (folder / f"{IDX_NAMES[split]}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
    head = struct.pack(">II", 2049, len(labels))
    (folder / f"{IDX_NAMES[split]}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes()))


def tiny_set(content, *mirrors, local_folder=""):
    splits = tuple(
        downloads.IdxSplit(
            name=split,
            idx_name=IDX_NAMES[split],
            rows=len(labels),
            pixels_sha256=hashlib.sha256(images.tobytes()).hexdigest(),
            labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        )
        for split, (images, labels) in content.items()
    )
    return downloads.ImageSet(name="tiny", splits=splits, local_folder=local_folder, mirrors=mirrors)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


class CutShort(Quiet):
    """Announces more bytes than it sends, like a broken connection."""

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


class NotHttp(Quiet):
    """A server of another protocol."""

    def do_GET(self):
        self.wfile.write(b"220 mail.example\r\n\r\n")


@pytest.fixture
def serve():
    servers = []

    def start(root, handler=Quiet):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(root)))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_holds(folder, content):
    rules = Rules(shape=(28, 28, 1), value_range=(0.0, 255.0), labels=tuple(range(10)))
    assert sorted(path.name for path in folder.iterdir()) == ["tiny-test.txt", "tiny-train.txt"]
    for split, (images, labels) in content.items():
        chunk = parse((folder / f"tiny-{split}.txt").read_bytes(), rules)
        np.testing.assert_array_equal(chunk.inputs, images)
        np.testing.assert_array_equal(chunk.targets, labels)


@pytest.mark.parametrize("form", ["{}", "file:{}", "Two Digits"])
def test_a_folder_resolves_to_its_train_and_test_file(folder, form):
    location = form.format(folder)
    source = resolve_source(DataConfig(dataset=location), SILENT)
    assert source.files == ((f"{location}/two-train.txt", "train"), (f"{location}/two-test.txt", "test"))
    assert source.dataset == "two-digits"
    assert source.note == ""


@pytest.mark.parametrize("location", ["dbfs:/sets/two", "/dbfs/sets/two", "/Volumes/sets/two"])
def test_cluster_locations_are_below_the_local_root(tmp_path, folder, location):
    place = tmp_path / "dbfs" / ("Volumes" if location.startswith("/Volumes") else "") / "sets"
    place.mkdir(parents=True)
    folder.rename(place / "two")
    assert resolve_source(DataConfig(dataset=location), SILENT).files[0] == (f"{location}/two-train.txt", "train")


@pytest.mark.parametrize("ending", [".bz2", ".gz"])
def test_compressed_files_are_found(folder, ending):
    (folder / "two-train.txt").rename(folder / f"two-train.txt{ending}")
    source = resolve_source(DataConfig(dataset=str(folder)), SILENT)
    assert source.files[0][0].endswith(f"two-train.txt{ending}")


def test_a_folder_with_zero_or_two_training_files_is_rejected_with_their_names(folder):
    (folder / "two-train.txt.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2 files \(two-train\.txt, two-train\.txt\.gz\) with 'train' in the name"):
        resolve_source(DataConfig(dataset=str(folder)), SILENT)
    (folder / "two-train.txt.gz").unlink()
    (folder / "two-train.txt").unlink()
    with pytest.raises(ConfigError, match="no file with 'train' in the name"):
        resolve_source(DataConfig(dataset=str(folder), wait_seconds=0), SILENT)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("latest_train.libsvm", "latest_test.libsvm"),
        ("contest-train.t", "contest-test.t"),
        ("Train.txt", "TEST1.txt"),
        ("mnistTrain.txt", "mnistTesting.txt"),
        ("train2.svm", "2test.svm"),
    ],
)
def test_the_names_of_a_folder_are_read_by_words(tmp_path, train, test):
    for name in (train, test, "._train.libsvm", "_train.txt", "attested.txt", "restrained.txt"):
        (tmp_path / name).write_text("1 1:1\n")
    found = resolve_source(DataConfig(dataset=str(tmp_path)), SILENT).files
    assert found == ((f"{tmp_path}/{train}", "train"), (f"{tmp_path}/{test}", "test"))


def test_the_files_of_a_folder_are_text_whatever_their_endings(tmp_path):
    for name in ("letter-train.scale", "letter-test.scale"):
        (tmp_path / name).write_text("1 1:1\n")
    (tmp_path / "train.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = ((f"{tmp_path}/letter-train.scale", "train"), (f"{tmp_path}/letter-test.scale", "test"))
    assert resolve_source(DataConfig(dataset=str(tmp_path)), SILENT).files == found
    # A known ending comes first.
    (tmp_path / "a-train.libsvm").write_text("1 1:1\n")
    assert resolve_source(DataConfig(dataset=str(tmp_path)), SILENT).files == ((f"{tmp_path}/a-train.libsvm", "train"), found[1])


def test_a_file_is_never_both_training_and_test_file(tmp_path):
    drop = tmp_path / "drop"
    drop.mkdir()
    (drop / "latest_train.libsvm").write_text("1 1:1\n")
    with pytest.raises(ConfigError, match=r"no file with 'test' in the name .*as a word that begins with 'test'"):
        resolve_source(DataConfig(dataset=str(drop), wait_seconds=0), SILENT)
    (drop / "train_test.libsvm").write_text("1 1:1\n")
    (drop / "latest_train.libsvm").unlink()
    with pytest.raises(ConfigError, match=r"train_test\.libsvm: has both 'train' and 'test' in its name"):
        resolve_source(DataConfig(dataset=str(drop), wait_seconds=0), SILENT)
    (tmp_path / "a.txt").write_text("1 1:1\n")
    (tmp_path / "link.txt").symlink_to("a.txt")
    os.link(tmp_path / "a.txt", tmp_path / "hard.txt")
    for name in ("a.txt", "link.txt", "hard.txt", f"file:{tmp_path}/./a.txt"):
        with pytest.raises(ConfigError, match=r"data\.test_file=.*: must not be the training file"):
            resolve_source(DataConfig(dataset=str(tmp_path / "a.txt"), test_file=name), SILENT)


def test_a_link_that_leads_to_itself_or_nowhere_is_named(folder):
    (folder / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"Two Digits/loop: is a symbolic link that leads nowhere or to itself"):
        resolve_source(DataConfig(dataset=str(folder)), SILENT)


def test_a_hidden_file_is_read_when_it_is_named(tmp_path):
    (tmp_path / "_digits.libsvm").write_text("1 1:1\n")
    assert resolve_source(DataConfig(dataset=str(tmp_path / "_digits.libsvm")), SILENT).dataset == "_digits"


def test_a_file_alone_or_with_a_test_file(folder):
    train, test = str(folder / "two-train.txt"), str(folder / "two-test.txt")
    alone = resolve_source(DataConfig(dataset=train), SILENT)
    assert (alone.dataset, alone.files) == ("two-train", ((train, "train"),))
    assert resolve_source(DataConfig(dataset=train, test_file=test), SILENT).files == ((train, "train"), (test, "test"))
    with pytest.raises(ConfigError, match=r"data\.test_file=none\.txt: no such file"):
        resolve_source(DataConfig(dataset=train, test_file="none.txt", wait_seconds=0), SILENT)


def spark_output(folder, parts, ending=".libsvm"):
    """A folder as Spark writes text: an empty part for an empty partition, checksums and a marker."""
    folder.mkdir()
    for number, text in enumerate((*parts, "")):
        (folder / f"part-{number:05d}{ending}").write_text(text)
        (folder / f".part-{number:05d}{ending}.crc").write_bytes(b"crc\0")
    (folder / "_SUCCESS").write_text("")
    return folder


@pytest.mark.parametrize("ending", [".libsvm", "-4f2c.c000.libsvm", ""])
def test_a_folder_of_parts_counts_as_one_file(tmp_path, ending):
    train = spark_output(tmp_path / "digits-train.libsvm", ["1 1:1\n", "1 1:2\n"], ending)
    test = spark_output(tmp_path / "digits-test.libsvm", ["1 1:3\n"], ending)
    parts = [(f"{train}/part-0000{number}{ending}", "train") for number in range(2)]
    tests = [(f"{test}/part-00000{ending}", "test")]
    for dataset, test_file, files in (
        (train, "", parts),
        (f"{train}/", f"{test}/", parts + tests),
        (tmp_path, "", parts + tests),
    ):
        source = resolve_source(DataConfig(dataset=str(dataset), test_file=test_file), SILENT)
        assert list(source.files) == files
        assert source.dataset == (tmp_path.name[:40].lower() if dataset == tmp_path else "digits-train")
    with pytest.raises(ConfigError, match="must not be the training file"):
        resolve_source(DataConfig(dataset=str(train), test_file=f"file:{train}"), SILENT)


def test_a_pattern_stands_for_the_files_and_folders_of_parts_that_match(tmp_path):
    for name in ("b-2.libsvm", "b-1.libsvm", "_b-3.libsvm", ".b-4.libsvm", "test-1.libsvm"):
        (tmp_path / name).write_text("1 1:1\n")
    parts = spark_output(tmp_path / "b-0.libsvm", ["1 1:1\n", "1 1:2\n"])
    source = resolve_source(DataConfig(dataset=f"{tmp_path}/b-*.libsvm", test_file=f"{tmp_path}/test-?.libsvm"), SILENT)
    assert [uri for uri, split in source.files if split == "train"] == [
        f"{parts}/part-00000.libsvm",
        f"{parts}/part-00001.libsvm",
        f"{tmp_path}/b-1.libsvm",
        f"{tmp_path}/b-2.libsvm",
    ]
    assert [uri for uri, split in source.files if split == "test"] == [f"{tmp_path}/test-1.libsvm"]
    with pytest.raises(ConfigError, match="must not be the training file"):
        resolve_source(DataConfig(dataset=f"{tmp_path}/b-*.libsvm", test_file=f"{tmp_path}/b-1*"), SILENT)
    with pytest.raises(ConfigError, match="no such file or folder"):
        resolve_source(DataConfig(dataset=f"{tmp_path}/c-*.libsvm", wait_seconds=0), SILENT)
    (tmp_path / "b-5.libsvm").mkdir()
    with pytest.raises(ConfigError, match=r"matches the folder .*/b-5\.libsvm, which holds no parts"):
        resolve_source(DataConfig(dataset=f"{tmp_path}/b-*.libsvm"), SILENT)
    # A name that is there is no pattern.
    (tmp_path / "b-[12].libsvm").write_text("1 1:1\n")
    source = resolve_source(DataConfig(dataset=f"{tmp_path}/b-[12].libsvm"), SILENT)
    assert source.files == ((f"{tmp_path}/b-[12].libsvm", "train"),)


def test_a_folder_of_parts_that_is_empty_or_unfinished_is_refused(tmp_path):
    folder = spark_output(tmp_path / "a", [])
    with pytest.raises(DataError, match="a: contains no rows: all its files are empty"):
        resolve_source(DataConfig(dataset=str(folder)), SILENT)
    (folder / "part-00000").write_text("1 1:1\n")
    (folder / "_temporary").mkdir()
    with pytest.raises(DataError, match="a: Spark has not finished writing it"):
        resolve_source(DataConfig(dataset=str(folder)), SILENT)


@pytest.mark.parametrize("dataset", ["mnist-5k", "Two Digits"])
def test_a_test_file_is_rejected_if_the_data_set_has_its_own(folder, dataset):
    with pytest.raises(ConfigError, match=r"data\.test_file=two-test\.txt: must be empty"):
        resolve_source(DataConfig(dataset=dataset, test_file="two-test.txt"), SILENT)


def test_a_missing_data_set_is_reported_with_the_known_names():
    with pytest.raises(ConfigError, match=r"data\.dataset=mnits: no such file or folder .*mnist, mnist-5k, fashion-mnist"):
        resolve_source(DataConfig(dataset="mnits"), SILENT)


def test_a_late_file_is_waited_for_and_reported_once(tmp_path, folder):
    late = tmp_path / "dbfs" / "sets"
    lines = ReportedLines()
    timer = threading.Timer(0.7, lambda: shutil.copytree(folder, late))
    timer.start()
    source = resolve_source(DataConfig(dataset="dbfs:/sets", wait_seconds=20), lines)
    timer.join()
    assert source.files == (("dbfs:/sets/two-train.txt", "train"), ("dbfs:/sets/two-test.txt", "test"))
    assert len(lines) == 1
    assert "dbfs:/sets: no such file or folder" in lines[0]
    assert "retrying for 20 s (data.wait_seconds)" in lines[0]


def test_waiting_for_a_missing_file_ends_in_time(tmp_path):
    started = time.monotonic()
    with pytest.raises(ConfigError, match="no such file or folder"):
        resolve_source(DataConfig(dataset="dbfs:/nothing", wait_seconds=0.5), SILENT)
    assert 0.5 <= time.monotonic() - started < 5


def test_another_kind_of_source_is_one_class_and_one_list_entry(monkeypatch):
    class Catalog(LibsvmFiles):
        @classmethod
        def recognizes(cls, location):
            return location.startswith("catalog:")

        @classmethod
        def find(cls, data, report):
            return cls("digits", ((data.dataset, "train"),))

    monkeypatch.setattr(resolve, "KINDS", (Catalog, *resolve.KINDS))
    source = resolve_source(DataConfig(dataset="catalog:main.digits"), SILENT)
    assert isinstance(source, Catalog)
    assert source.files == (("catalog:main.digits", "train"),)


def test_a_pipe_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        resolve_source(DataConfig(dataset=str(tmp_path / "pipe.txt")), SILENT)


@pytest.mark.parametrize("location", ["dbfs:/../outside.txt", "/dbfs/../../etc/passwd", "/Volumes/../../outside.txt"])
@pytest.mark.parametrize("runtime", ["", "15.4"])
def test_cluster_locations_cannot_leave_their_root(location, runtime, monkeypatch):
    if runtime:
        monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", runtime)
    with pytest.raises(ConfigError, match=r"remove the '\.\.'"):
        resolve_source(DataConfig(dataset=location), SILENT)


def test_an_unreadable_file_is_named(tmp_path, unprivileged):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.txt").write_text("1 1:1\n")
    (tmp_path / "closed").chmod(0)
    (tmp_path / "secret.txt").write_text("1 1:1\n")
    (tmp_path / "secret.txt").chmod(0)
    for dataset in ("closed", "closed/a.txt", "secret.txt"):
        said = unprivileged(
            "from pipelines.config import Config, DataConfig\n"
            "from pipelines.data.ingest import table\nfrom pipelines.data.sources.resolve import resolve_source\n"
            "from pipelines.system.reporter import PrintReporter\n"
            f"config = Config(data=DataConfig(dataset={str(tmp_path / dataset)!r}))\n"
            "table.find(config, resolve_source(config.data, PrintReporter()))\n"
        )
        assert said.startswith("DataError: ")
        assert f"{dataset}: cannot be read (Permission denied); check the path and its permissions" in said


def test_a_set_is_downloaded_and_stored_as_libsvm_text(tmp_path, serve, published):
    root, content = published
    lines = ReportedLines()
    downloads.fetch(tiny_set(content, serve(root)), tmp_path / "dbfs" / "tiny", lines)
    assert_holds(tmp_path / "dbfs" / "tiny", content)
    assert any("checksums verified" in line for line in lines)


def test_a_mirror_with_wrong_pixels_is_skipped(tmp_path, serve, published):
    root, content = published
    bad = tmp_path / "bad"
    bad.mkdir()
    for split, (images, labels) in content.items():
        write_idx(bad, split, images.reshape(-1, 28, 28) ^ 1, labels)
    downloads.fetch(tiny_set(content, serve(bad), serve(root)), tmp_path / "dbfs" / "tiny", SILENT)
    assert_holds(tmp_path / "dbfs" / "tiny", content)


def test_an_interrupted_download_leaves_no_files(tmp_path, serve, published):
    root, content = published
    with pytest.raises(downloads.DownloadError):
        downloads.fetch(tiny_set(content, serve(root, CutShort)), tmp_path / "dbfs" / "tiny", SILENT)
    assert not (tmp_path / "dbfs").exists()


def test_corrupt_archives_and_non_http_responses_are_skipped(tmp_path, serve, published):
    root, content = published
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in root.iterdir():
        packed = path.read_bytes()
        (broken / path.name).write_bytes(packed[:12] + b"\xff" * 28 + packed[40:])
    downloads.fetch(tiny_set(content, serve(broken), serve(root, NotHttp), serve(root)), tmp_path / "dbfs" / "tiny", SILENT)
    assert_holds(tmp_path / "dbfs" / "tiny", content)


def test_every_dead_mirror_is_named(tmp_path, serve, published):
    root, content = published
    empty = tmp_path / "empty"
    empty.mkdir()
    # Nothing listens on port 9; the second mirror responds with 404.
    mirrors = ("http://127.0.0.1:9/", serve(empty))
    with pytest.raises(downloads.DownloadError, match=r"127\.0\.0\.1:9/.*404"):
        downloads.fetch(tiny_set(content, *mirrors), tmp_path / "dbfs" / "tiny", SILENT)
    # With a local package no mirror is needed.
    downloads.fetch(tiny_set(content, *mirrors, local_folder=f"{root}/"), tmp_path / "dbfs" / "tiny", SILENT)
    assert_holds(tmp_path / "dbfs" / "tiny", content)


def test_offline_mnist_is_replaced_by_the_substitute_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_OFFLINE", "1")
    lines = ReportedLines()
    source = resolve_source(DataConfig(dataset="mnist"), lines)
    assert source.dataset == "mnist-5k"
    assert source.note in lines
    assert "5,000" in source.note
    rules = Rules(shape=(28, 28, 1), value_range=(0.0, 255.0), labels=tuple(range(10)))
    folder = tmp_path / "dbfs" / "convoy" / "mnist-5k"
    for split, per_class in (("train", 400), ("test", 100)):
        chunk = parse((folder / f"mnist-5k-{split}.txt").read_bytes(), rules)
        assert chunk.bad_lines == ()
        assert np.bincount(chunk.targets).tolist() == [per_class] * 10
    asked_for = resolve_source(DataConfig(dataset="mnist-5k"), lines)
    assert asked_for.files == source.files
    assert asked_for.note == ""


def test_offline_fashion_mnist_names_the_package(monkeypatch):
    monkeypatch.setenv("CONVOY_OFFLINE", "1")
    # The package may be installed on the test machine.
    monkeypatch.setattr(downloads, "FASHION_MNIST", dataclasses.replace(downloads.FASHION_MNIST, local_folder=""))
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        resolve_source(DataConfig(dataset="fashion-mnist"), SILENT)


def test_existing_mnist_is_used_without_a_download(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_OFFLINE", "1")
    folder = tmp_path / "dbfs" / "databricks-datasets" / "mnist-digits" / "data-001"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"mnist-digits-{split}.txt.bz2").write_bytes(b"")
    source = resolve_source(DataConfig(dataset="mnist"), SILENT)
    assert source.dataset == "mnist"
    assert source.files[0][0] == "dbfs:/databricks-datasets/mnist-digits/data-001/mnist-digits-train.txt.bz2"
    assert source.note == ""
