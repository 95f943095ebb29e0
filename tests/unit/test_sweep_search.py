import re

import pytest
import yaml

from pipelines.errors import ConfigError, LaunchError
from pipelines.sweep import search, sweep_file
from pipelines.sweep.search import Study, TrialOutcome

RATES = {"training.base_learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.fixture
def sweep(tmp_path):
    def read(**content):
        (tmp_path / "base.yml").write_text("training: {epochs: 9}\n")
        file = tmp_path / "trial.yml"
        file.write_text(yaml.safe_dump({"config": str(tmp_path / "base.yml")} | content, sort_keys=False))
        return sweep_file.load(file)

    return read


def finish(study, proposal, value=0.5):
    study.tell(proposal.number, TrialOutcome(state="finished", value=value))


def drain(study):
    """Run all remaining trials, each finishing immediately."""
    found = []
    while (proposal := study.ask()) is not None:
        found.append(proposal)
        finish(study, proposal)
    return found


def test_a_grid_is_proposed_in_order_and_then_ends(sweep, tmp_path):
    grid = sweep(space={"training.seed": [1, 2], "training.epochs": [3, 4]})
    study = Study(grid, tmp_path)
    assert [proposal.assignment for proposal in drain(study)] == grid.points
    assert study.ask() is None
    assert study.left == 0
    assert [trial.number for trial in study.ended()] == [1, 2, 3, 4]


def test_a_resumed_sweep_keeps_ended_trials_and_retries_interrupted_ones_with_the_same_settings(sweep, tmp_path):
    random = sweep(search="random", trials=5, space=RATES)
    study = Study(random, tmp_path)
    first, second, third = (study.ask() for _ in range(3))
    finish(study, second, 0.25)
    again = Study(random, tmp_path)
    assert [(trial.assignment, trial.outcome.value) for trial in again.ended()] == [(second.assignment, 0.25)]
    assert again.left == 4
    found = drain(again)
    assert [proposal.assignment for proposal in found[:2]] == [first.assignment, third.assignment]
    assert len(found) == 4
    assert again.left == 0


@pytest.mark.parametrize("content", [{"space": {"training.seed": [1, 2, 3]}}, {"search": "random", "trials": 3, "space": RATES}])
def test_a_driver_killed_while_starting_a_trial_neither_loses_nor_repeats_one(sweep, tmp_path, content):
    grid = sweep(**content)
    (tmp_path / "whole").mkdir()
    wanted = [proposal.assignment for proposal in drain(Study(grid, tmp_path / "whole"))]
    study = Study(grid, tmp_path)
    finish(study, study.ask())
    before = (tmp_path / "trials.jsonl").read_bytes()
    study.ask()
    begun = (tmp_path / "trials.jsonl").read_bytes()[len(before) :].splitlines(keepends=True)
    # The first line creates the trial, later ones set its value on each axis.
    assert len(begun) >= 2
    (tmp_path / "trials.jsonl").write_bytes(before + begun[0])
    again = Study(grid, tmp_path)
    assert again.left == 2
    drain(again)
    found = [trial.assignment for trial in again.ended()]
    assert sorted(map(str, found)) == sorted(map(str, wanted))


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_the_seed_determines_the_samples_even_if_the_sweep_is_interrupted(sweep, tmp_path, kind):
    drawn = []
    for name, breaks_off in (("whole", False), ("broken", True)):
        (tmp_path / name).mkdir()
        study = Study(sweep(search=kind, trials=6, space=RATES), tmp_path / name)
        found = []
        while (proposal := study.ask()) is not None:
            rate = proposal.assignment["training.base_learning_rate"]
            if breaks_off and len(found) == 2:
                breaks_off = False
                study = Study(sweep(search=kind, trials=6, space=RATES), tmp_path / name)
                continue
            found.append(rate)
            finish(study, proposal, rate)
        drawn.append(found)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 6
    assert all(1e-4 <= rate <= 1e-1 for rate in drawn[0])


def test_a_bayesian_search_gets_closer_to_the_optimum_than_a_random_one(sweep, tmp_path):
    def distance(kind):
        (tmp_path / kind).mkdir()
        study = Study(sweep(search=kind, trials=30, space=RATES), tmp_path / kind)
        found = []
        while (proposal := study.ask()) is not None:
            rate = proposal.assignment["training.base_learning_rate"]
            found.append(abs(rate - 0.003) / 0.003)
            finish(study, proposal, found[-1])
        return sum(found[15:]) / 15

    assert distance("bayesian") < distance("random") / 2


def test_the_median_pruner_stops_a_trial_worse_than_half_of_the_earlier_ones(sweep, tmp_path):
    study = Study(sweep(space={"training.seed": [1, 2, 3, 4]}, pruning="median", pruning_after_trials=2), tmp_path)
    for value in (0.3, 0.4):
        proposal = study.ask()
        for epoch in (1, 2):
            assert not study.report(proposal.number, epoch, value)
        finish(study, proposal, value)
    good, bad = study.ask(), study.ask()
    assert not study.report(good.number, 1, 0.2)
    assert study.report(bad.number, 1, 0.9)
    study.tell(bad.number, TrialOutcome(state="pruned", value=0.9, note="after epoch 1 of 9"))
    assert study.ended()[-1].outcome.state == "pruned"


def test_no_trial_is_pruned_before_the_configured_number_of_epochs(sweep, tmp_path):
    study = Study(
        sweep(space={"training.seed": [1, 2]}, pruning="median", pruning_after_trials=1, pruning_after_epochs=3), tmp_path
    )
    first, bad = study.ask(), study.ask()
    for epoch in (1, 2, 3):
        study.report(first.number, epoch, 0.1)
    finish(study, first, 0.1)
    assert [study.report(bad.number, epoch, 0.9) for epoch in (1, 2, 3)] == [False, False, True]


def test_with_accuracy_as_objective_low_values_are_pruned(sweep, tmp_path):
    content = {"objective": "validation/accuracy", "pruning": "median", "pruning_after_trials": 1}
    study = Study(sweep(space={"training.seed": [1, 2, 3]}, **content), tmp_path)
    first = study.ask()
    study.report(first.number, 1, 0.9)
    finish(study, first, 0.9)
    assert not study.report(study.ask().number, 1, 0.95)
    assert study.report(study.ask().number, 1, 0.5)


def test_successive_halving_continues_one_trial_of_three(sweep, tmp_path):
    study = Study(sweep(space={"training.seed": [1, 2, 3, 4, 5, 6]}, pruning="halving"), tmp_path)
    ends = [study.report(study.ask().number, 1, value) for value in (0.1, 0.5, 0.6, 0.7, 0.8, 0.05)]
    assert ends[0] is False
    assert ends[-1] is False
    assert sum(ends) >= 3


def test_an_interrupted_trial_competes_in_no_rung_of_successive_halving(sweep, tmp_path):
    """Its retry does. Counting both would hold the same value against others twice."""
    random = sweep(search="random", trials=8, space=RATES, pruning="halving")
    # The fifth would be the second best of six, which continues, if one of the others counted twice.
    values = (0.1, 0.5, 0.6, 0.7, 0.2, 0.15, 0.9, 0.05)

    def ends(interrupted):
        folder = tmp_path / f"interrupted-{interrupted}"
        folder.mkdir()
        study, number = Study(random, folder), 0
        while (proposal := study.ask()) is not None:
            pruned = next((epoch for epoch in range(1, 9) if study.report(proposal.number, epoch, values[number] / epoch)), 0)
            if number == interrupted:
                interrupted, study = None, Study(random, folder)
                continue
            number += 1
            study.tell(proposal.number, TrialOutcome(state="pruned" if pruned else "finished", value=0.5, epochs=pruned))
        return [(trial.outcome.state, trial.outcome.epochs) for trial in study.ended()]

    whole = ends(None)
    assert whole[0] == whole[7] == ("finished", 0)
    assert whole[4] == ("pruned", 1)
    for number in range(8):
        assert ends(number) == whole


def test_amended_outcomes_persist_in_the_next_process(sweep, tmp_path):
    grid = sweep(space={"training.seed": [1, 2]})
    study = Study(grid, tmp_path)
    drain(study)
    study.amend(2, metrics={"test/accuracy": 0.9})
    study.amend(1, metrics={"test/accuracy": 0.8})
    assert [trial.outcome.metrics["test/accuracy"] for trial in Study(grid, tmp_path).ended()] == [0.8, 0.9]


def test_a_record_with_a_truncated_last_line_is_repaired(sweep, tmp_path):
    grid = sweep(space={"training.seed": [1, 2]})
    study = Study(grid, tmp_path)
    finish(study, study.ask())
    record = tmp_path / "trials.jsonl"
    record.write_bytes(record.read_bytes() + b'{"op_code": 4, "wor')
    assert len(drain(Study(grid, tmp_path))) == 1


def test_a_damaged_record_is_a_one_line_error(sweep, tmp_path):
    (tmp_path / "trials.jsonl").write_text("what\n")
    with pytest.raises(
        LaunchError, match=r"trials.jsonl: line 1 is incomplete; restore the file from a copy, or start a new sweep"
    ):
        Study(sweep(space={"training.seed": [1]}), tmp_path)


def test_a_changed_value_of_a_record_is_named(sweep, tmp_path):
    grid = sweep(space={"training.seed": [1, 2]})
    study = Study(grid, tmp_path)
    finish(study, study.ask(), 0.125)
    record = tmp_path / "trials.jsonl"
    changed = record.read_bytes().replace(b"0.125", b"0.925")
    record.write_bytes(changed)
    with pytest.raises(LaunchError, match=r"trials.jsonl: line \d+ is not as it was written: some of its bytes have changed"):
        Study(grid, tmp_path)


def test_a_record_without_checksums_of_an_earlier_version_continues(sweep, tmp_path):
    grid = sweep(space={"training.seed": [1, 2]})
    study = Study(grid, tmp_path)
    finish(study, study.ask(), 0.125)
    record = tmp_path / "trials.jsonl"
    record.write_bytes(re.sub(rb', "crc32": "[0-9a-f]{8}"', b"", record.read_bytes()))
    again = Study(grid, tmp_path)
    assert [trial.outcome.value for trial in again.ended()] == [0.125]
    drain(again)
    assert Study(grid, tmp_path).left == 0


def test_a_line_that_a_full_disk_cut_is_not_kept_before_the_next(sweep, tmp_path):
    study = Study(sweep(space={"training.seed": [1, 2]}), tmp_path)
    record = tmp_path / "trials.jsonl"
    with record.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    drain(study)
    assert Study(sweep(space={"training.seed": [1, 2]}), tmp_path).left == 0


def test_a_missing_optuna_is_a_one_line_error_with_a_remedy(sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"sweeps need Optuna .*; run ./convoy setup, or pip install optuna"):
        search.Study(sweep(space={"training.seed": [1]}), tmp_path)
