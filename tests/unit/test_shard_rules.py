"""What `training.canonical_shards` means for settings, rows and workers."""

import dataclasses
from types import SimpleNamespace

import pytest
from test_resume_request import STATE

from pipelines.config import loader
from pipelines.data.stream.sharding import check_rows, own_shards
from pipelines.errors import ConfigError
from pipelines.launch import resume, slots


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["training.canonical_shards=4", "launch.workers=3"],
            "launch.workers=3: must be a divisor of training.canonical_shards (4), so that all workers have equally many",
        ),
        (
            ["training.canonical_shards=4", "launch.workers=8"],
            "launch.workers=8: must be a divisor of training.canonical_shards (4), so that all workers have equally many",
        ),
        (
            ["training.canonical_shards=4", "launch.workers=4", "launch.min_workers=3"],
            "launch.min_workers=3: must be a divisor of training.canonical_shards (4), so that all workers have equally many",
        ),
        (["training.canonical_shards=-1"], "training.canonical_shards=-1: must be 1 or more, or 0 (as many as workers)"),
        (["training.canonical_shards=65537"], "training.canonical_shards=65537: must be at most 65,536"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError) as caught:
        loader.load(None, settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(("workers", "least"), [(1, 0), (2, 1), (4, 2), (4, 0)])
def test_divisors_are_accepted_and_the_shards_do_not_depend_on_them(workers, least):
    settings = [f"launch.workers={workers}", f"launch.min_workers={least}"]
    assert loader.load(None, ["training.canonical_shards=4", *settings]).shards == 4
    assert loader.load(None, settings).shards == workers


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
def test_the_shards_of_all_workers_are_all_shards_in_the_order_of_the_ranks(workers):
    assert [number for rank in range(workers) for number in own_shards(12, rank, workers)] == list(range(12))


def test_ranks_that_cannot_divide_the_shards_are_refused():
    with pytest.raises(ConfigError, match=r"^training\.canonical_shards=4: must be a multiple of the workers \(3\), so that"):
        own_shards(4, 0, 3)


def test_more_shards_than_rows_are_refused_with_the_largest_number():
    check_rows(640, 640, 1)
    check_rows(1, 0, 1)
    with pytest.raises(
        ConfigError, match=r"^training\.canonical_shards=641: must be at most 640, .* 640 training rows .*; lower it$"
    ):
        check_rows(640, 641, 1)
    with pytest.raises(ConfigError, match=r"^training\.canonical_shards=161: must be at most 160, .* in 4 parts \(training\.acc"):
        check_rows(640, 161, 4)


@pytest.mark.parametrize(("left", "workers"), [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4)])
def test_a_training_goes_on_with_as_many_workers_as_divide_the_shards(monkeypatch, left, workers):
    monkeypatch.setattr(slots, "available", lambda _: left)
    monkeypatch.setattr(slots, "_REVIVE_SECONDS", 0.0)
    spark = SimpleNamespace()
    assert slots.wait_for_return(spark, 4, 1, 0.0, shards=4) == workers
    assert slots.wait_for_return(spark, 4, 1, 0.0) == min(left, 4)


def written(*settings):
    flat = loader.load(None, settings).flat()
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


def test_a_resumption_on_other_workers_says_that_rows_and_batches_stay():
    four = ["training.canonical_shards=4", "launch.workers=4"]
    state = dataclasses.replace(STATE, step=2, settings=written(*four), workers=4, batch_size_per_worker=16, steps_per_epoch=5)
    state = dataclasses.replace(state, settings=state.settings | {"training.batch_size_per_worker": 16})
    again = ["training.batch_size_per_worker=16", "training.canonical_shards=4"]
    lines = resume.changes(state, loader.load(None, [*again, "launch.workers=2"]), rows=320)
    assert lines == [
        "resume: changed: launch.workers 4 -> 2",
        "resume: 4 canonical shards, workers 4 -> 2; each global batch has the rows it would have had",
    ]
    assert resume.changes(state, loader.load(None, [*again, "launch.workers=4"]), rows=320) == []


def test_a_resumption_with_other_shards_says_what_changes():
    state = dataclasses.replace(STATE, step=2, settings=written("launch.workers=2"), workers=2, batch_size_per_worker=128)
    state = dataclasses.replace(state, steps_per_epoch=5)
    # Without the setting, the workers of the checkpoint are its shards.
    lines = resume.changes(state, loader.load(None, ["training.canonical_shards=2"]), rows=1280)
    assert [line.partition(";")[0] for line in lines] == [
        "resume: changed: training.canonical_shards 0 -> 2, launch.workers 2 -> 1",
        "resume: 2 canonical shards, workers 2 -> 1",
    ]
    lines = resume.changes(state, loader.load(None, ["training.canonical_shards=4"]), rows=1280)
    assert "another order" in lines[1]
    assert lines[2].startswith("resume: global batch 256 -> 512, steps an epoch 5 -> 2;")
