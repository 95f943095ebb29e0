import threading

import pytest
import yaml

from pipelines import errors
from pipelines.sweep import plan, sweep_file
from pipelines.sweep.search import Study, TrialOutcome
from pipelines.sweep.trial import TrialConsole, TrialContext, _Watch
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir.events import EpochEnd, Event, StepProgress
from pipelines.track.tracked_run import EndedEarly


@pytest.fixture
def context(tmp_path):
    """Context of a sweep with two trials of three epochs; the first has finished with a loss of 0.1 in every epoch."""
    (tmp_path / "base.yml").write_text("training: {epochs: 3}\n")
    content = {"space": {"training.seed": [1, 2]}, "pruning": "median", "pruning_after_trials": 1, "pruning_after_epochs": 2}
    (tmp_path / "s.yml").write_text(yaml.safe_dump({"config": str(tmp_path / "base.yml")} | content))
    sweep = sweep_file.load(tmp_path / "s.yml")
    study = Study(sweep, tmp_path)
    first = study.ask()
    for epoch in (1, 2, 3):
        study.report(first.number, epoch, 0.1)
    study.tell(first.number, TrialOutcome(state="finished", value=0.1))
    shared = {"spark": None, "fork_server": "", "threads": 1, "halt": threading.Event(), "console": TrainingConsole(1)}
    return TrialContext(sweep=sweep, study=study, folder=tmp_path, **shared)


def epoch(number, loss):
    return Event(0, 0.0, EpochEnd(number, {"validation/loss": loss}))


def watch(context):
    proposal = context.study.ask()
    return _Watch(context, proposal.number, context.sweep.configuration(proposal.assignment))


def test_an_unpromising_trial_is_pruned_after_the_minimum_number_of_epochs(context):
    following = watch(context)
    following([epoch(1, 0.9)])
    with pytest.raises(EndedEarly, match="after epoch 2 of 3"):
        following([Event(0, 0.0, StepProgress(2, 1, 1.0)), epoch(2, 0.8)])
    assert [metrics["validation/loss"] for metrics in following.history] == [0.9, 0.8]


def test_a_trial_is_not_pruned_in_its_last_epoch(context):
    following = watch(context)
    following([epoch(1, 0.05), epoch(2, 0.05), epoch(3, 0.9)])
    assert len(following.history) == 3


def test_of_an_epoch_that_a_restart_repeats_the_last_values_count(context):
    """With fewer workers they differ."""
    following = watch(context)
    following([epoch(1, 0.05), epoch(2, 0.05)])
    following([epoch(1, 0.06)])
    assert [metrics["validation/loss"] for metrics in following.history] == [0.06]
    following([epoch(2, 0.04)])
    assert [metrics["validation/loss"] for metrics in following.history] == [0.06, 0.04]
    (trial,) = [trial for trial in context.study._study.get_trials() if trial.number == 1]
    assert trial.intermediate_values == {1: 0.06, 2: 0.04}


def test_epochs_that_a_checkpoint_reports_again_keep_those_after_them(context):
    following = watch(context)
    following([epoch(1, 0.05), epoch(2, 0.04), epoch(1, 0.05)])
    assert [metrics["validation/loss"] for metrics in following.history] == [0.05, 0.04]


def test_a_restarted_trial_is_pruned_by_its_new_values_and_not_before_it_is_where_it_was(context):
    following = watch(context)
    # Better than the median, and lost afterwards.
    following([epoch(1, 0.05), epoch(2, 0.05)])
    following([epoch(1, 0.9)])
    with pytest.raises(EndedEarly, match="after epoch 2 of 3"):
        following([epoch(2, 0.8)])


def test_a_trial_stops_when_the_sweep_does(context):
    following = watch(context)
    context.halt.set()
    with pytest.raises(errors.Interrupted):
        following([])


@pytest.mark.parametrize(("verbosity", "echoed"), [("normal", []), ("quiet", []), ("verbose", ["trial 7: a line of a rank"])])
def test_a_trial_only_warns_with_its_number_unless_verbose(capsys, verbosity, echoed):
    console = TrialConsole(7, TrainingConsole(1, verbosity))
    console.say("table is there")
    console.warn("a line")
    console.warn("another")
    console.echo("a line of a rank")
    console.show(epoch(1, 0.5))
    assert capsys.readouterr().out.splitlines() == ["warning: trial 7: a line", "warning: trial 7: another", *echoed]


def test_a_trial_gets_its_share_of_the_cores_unless_configured_and_writes_no_checkpoints(context):
    config = context.sweep.base
    assert plan.for_trial(config, 3).launch.threads_per_worker == 3
    assert plan.for_trial(config, 3).checkpoint.every_epochs == 0
    chosen = plan.for_trial(config, 2)
    assert plan.for_trial(chosen, 3).launch.threads_per_worker == 2
