import dataclasses
import json

import numpy as np
import pytest

from pipelines.errors import CheckpointError, ConfigError
from pipelines.system.fingerprint import fingerprint, json_sha256
from pipelines.track.rundir.layout import RunRecord, find, make, read_record, write_record
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import State

STATE = State(
    epoch=1,
    step=0,
    steps_per_epoch=20,
    workers=2,
    batch_size_per_worker=16,
    learning_rate=0.002,
    network="convnet",
    optimizer="adam",
    shapes=((3, 3, 1, 8), (8,)),
    table_key="0" * 64,
    settings={"data.image_shape": [12, 12, 1], "training.seed": 1},
    history=({"train/loss": 0.5},),
    best_epoch=1,
    best_loss=None,
    dropout_calls=(20,),
    weights_sha256="1" * 64,
)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {"weights/0": rng.normal(size=(3, 4)).astype(np.float32), "seeds": np.array([1, 2**32 - 1], np.uint32)}


def write(run_dir, epoch, step=0, keep=3, seed=None):
    state = dataclasses.replace(STATE, epoch=epoch, step=step)
    return store.write(run_dir, state, arrays(epoch if seed is None else seed), keep)


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_a_checkpoint_is_restored_bit_for_bit(tmp_path):
    path = write(tmp_path, 1, step=17)
    checkpoint = store.newest(tmp_path)
    assert checkpoint.path == path
    assert checkpoint.state == dataclasses.replace(STATE, step=17)
    assert checkpoint.state.position == "epoch 1, step 17"
    stored = store.read_arrays(checkpoint)
    assert stored.keys() == arrays().keys()
    for name, array in arrays(1).items():
        assert stored[name].dtype == array.dtype
        assert stored[name].tobytes() == array.tobytes()


def test_the_newest_is_by_epoch_and_step_and_only_the_last_few_are_kept(tmp_path):
    for epoch, step in ((2, 0), (9, 0), (10, 0), (10, 5)):
        write(tmp_path, epoch, step, keep=2)
    assert store.newest(tmp_path).state.position == "epoch 10, step 5"
    assert len(store.available(tmp_path)) == 2
    assert len(names(tmp_path)) == 4


def test_a_checkpoint_written_again_replaces_the_first_and_leaves_no_other_file(tmp_path):
    write(tmp_path, 1, seed=1)
    path = write(tmp_path, 1, seed=2)
    assert store.read_arrays(store.verify(path))["weights/0"].tobytes() == arrays(2)["weights/0"].tobytes()
    assert len(names(tmp_path)) == 2


def test_leftovers_of_a_killed_writer_are_ignored_and_removed_by_the_next(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".epoch-000002-step-00000000.77.npz").write_bytes(b"half")
    (folder / "epoch-000002-step-00000000-0123456789ab.npz").write_bytes(b"without description")
    assert store.newest(tmp_path) is None
    write(tmp_path, 1)
    assert len(names(tmp_path)) == 2


def _flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_any_flipped_bit_is_detected_and_the_previous_checkpoint_is_used(tmp_path, suffix):
    before = write(tmp_path, 1)
    write(tmp_path, 2)
    damaged = next((tmp_path / "checkpoints").glob(f"epoch-000002*.{suffix}"))
    intact = damaged.read_bytes()
    for offset in np.random.default_rng(1).integers(0, len(intact), 40):
        _flip(damaged, offset)
        lines = []
        assert store.newest(tmp_path, lines.append).path == before
        assert len(lines) == 1
        assert "epoch-000002" in lines[0]
        assert "\n" not in lines[0]
        damaged.write_bytes(intact)


def test_reading_a_checkpoint_hashes_its_arrays_once(tmp_path, monkeypatch):
    path, hashed = write(tmp_path, 1), []
    monkeypatch.setattr(store, "fingerprint", lambda path: hashed.append(path) or fingerprint(path))
    checkpoint = store.verify(path)
    store.read_arrays(checkpoint)
    assert hashed == [checkpoint.arrays_path]


@pytest.mark.parametrize("trouble", ["truncated", "empty", "missing"])
def test_missing_or_truncated_arrays_are_detected(tmp_path, trouble):
    path = write(tmp_path, 1)
    data = next((tmp_path / "checkpoints").glob("*.npz"))
    if trouble == "missing":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[: 100 if trouble == "truncated" else 0])
    with pytest.raises(CheckpointError, match=data.name):
        store.verify(path)
    assert store.newest(tmp_path) is None


def test_pickled_objects_are_not_read(tmp_path):
    path = store.write(tmp_path, STATE, {"object": np.array([{"a": 1}], dtype=object)}, 1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        store.read_arrays(store.verify(path))


def test_a_description_cannot_name_a_file_outside_the_folder(tmp_path):
    path = write(tmp_path, 1)
    whole = json.loads(path.read_text())
    whole["payload"]["data"]["file"] = "../../secret.npz"
    whole["sha256"] = json_sha256(whole["payload"])
    path.write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match=r": secret\.npz cannot be read"):
        store.verify(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    good = write(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"weights/0 holds values that are not finite at epoch 2"):
        store.write(tmp_path, dataclasses.replace(STATE, epoch=2), {"weights/0": np.array([1.0, value], np.float32)}, keep=1)
    assert store.newest(tmp_path).path == good


def test_a_folder_that_cannot_be_written_gives_one_line_with_the_remedy(tmp_path):
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"cannot be written .*checkpoint\.every_epochs=0") as caught:
        write(tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_checkpoints_after_the_chosen_one_are_set_aside_but_kept(tmp_path):
    chosen = write(tmp_path, 1)
    write(tmp_path, 2)
    assert [path.name for path in store.set_aside_after(tmp_path, chosen)] == ["epoch-000002-step-00000000.json"]
    assert store.newest(tmp_path).path == chosen
    aside = tmp_path / "checkpoints" / "set-aside"
    assert store.verify(aside / "epoch-000002-step-00000000.json").state.epoch == 2


def test_a_run_is_found_by_id_by_path_and_as_the_latest_with_a_checkpoint(tmp_path):
    first, second, empty = (make(tmp_path / "runs", name) for name in ("a", "b", "c"))
    for folder in (second, first, empty):
        (folder / "config.yml").write_text("")
    write(second, 1)
    write_record(second, RunRecord("abc", "sqlite:///x"))
    path = write(first, 1)
    runs = tmp_path / "runs"
    assert read_record(second) == RunRecord("abc", "sqlite:///x")
    assert read_record(first) is None
    assert find(runs, "abc", tmp_path / "abc") == second
    assert find(runs, "latest", tmp_path / "latest") == first
    for given in (first, first / "checkpoints", path):
        assert find(runs, str(given), given) == first
    with pytest.raises(ConfigError, match=r"--resume xyz: neither the id of a run"):
        find(runs, "xyz", tmp_path / "xyz")
    with pytest.raises(ConfigError, match=r"no run below \S+ has a checkpoint"):
        find(tmp_path / "nothing", "latest", tmp_path / "latest")
