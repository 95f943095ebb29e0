"""Symptoms from heartbeats that the test makes, with a simulated clock."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.launch.health.symptoms import SymptomFinder
from pipelines.progress import Progress, StepTimes
from pipelines.system.process_usage import Link, ProcessUsage


@dataclass
class Rank:
    """What a rank does in each second."""

    own: float = 0.05
    """Seconds of a step until its gradients are ready."""
    deviation: float = 0.002
    wait_deviation: float = 0.0005
    processor: float = 0.6
    queued: float = 0.05
    throttled: float = 0.0
    reading: float = 0.0
    """Seconds for which a reader waits."""
    link: Link = field(default_factory=lambda: Link(busy_seconds=0.1, sent=1_000_000, segments=700, retransmitted=0))
    times: StepTimes = field(default_factory=lambda: StepTimes(steps=1))
    usage: ProcessUsage = field(default_factory=ProcessUsage)
    read: float = 0.0
    sums: Link = field(default_factory=Link)


class Simulation:
    def __init__(self, *ranks, transfer=0.004):
        self.ranks = ranks
        self.transfer = transfer
        """Seconds of a step that the network takes."""
        self.finder = SymptomFinder(len(ranks), wall_clock=lambda: 1e9 + self.time)
        self.time = 0.0
        self.beats = 0
        self.clocks = [0.0 for _ in ranks]

    def run(self, seconds, **more):
        """The symptoms that are found meanwhile."""
        found = []
        for _ in range(seconds):
            self.time += 1
            self.beats += 1
            step = max(rank.own for rank in self.ranks) + self.transfer
            for number, rank in enumerate(self.ranks):
                advance(rank, step, 1 / step)
                rank.usage = dataclasses.replace(
                    rank.usage,
                    address=f"10.0.0.{number}",
                    # In a ring.
                    links={f"10.0.0.{(number + 1) % len(self.ranks)}": rank.sums},
                )
                found += self.finder.add(self.heartbeat(number, rank, **more), self.time)
            found += self.finder.check(self.time)
        return found

    def heartbeat(self, number, rank, digests=None, **more):
        return Heartbeat(
            rank=number,
            host=f"node-{number}",
            pid=100 + number,
            beats=self.beats,
            done=False,
            progress=Progress(
                joined=True,
                reading="part-0.parquet" if rank.reading else "",
                reading_seconds=rank.read,
                step_times=rank.times,
                weight_digests=(digests or {}).get(number, ()),
            ),
            usage=rank.usage,
            sent_at=1e9 + self.time + self.clocks[number],
            clock_offset=5e8 + self.clocks[number],
            **more,
        )


def advance(rank, step, steps):
    """One second of a rank in which there are `steps` steps of `step` seconds."""
    waited, times = step - rank.own, rank.times
    added = {
        "steps": steps,
        "own_seconds": steps * rank.own,
        "waited_seconds": steps * waited,
        "later_steps": steps,
        "later_own_seconds": steps * rank.own,
        "later_own_squares": steps * (rank.own**2 + rank.deviation**2),
        "later_waited_seconds": steps * waited,
        "later_waited_squares": steps * (waited**2 + rank.wait_deviation**2),
    }
    rank.times = StepTimes(**{name: getattr(times, name) + value for name, value in added.items()})
    rank.sums = Link(**{name: value + getattr(rank.link, name) for name, value in dataclasses.asdict(rank.sums).items()})
    rank.usage = ProcessUsage(
        processor_seconds=rank.usage.processor_seconds + rank.processor,
        queued_seconds=rank.usage.queued_seconds + rank.queued,
        throttled_seconds=rank.usage.throttled_seconds + rank.throttled,
    )
    rank.read += rank.reading


def test_ranks_that_are_equally_fast_cause_no_symptom():
    assert Simulation(Rank(), Rank(own=0.06), Rank(own=0.055)).run(300) == []


def test_a_single_rank_has_nobody_to_wait_for():
    assert Simulation(Rank()).run(100) == []


@pytest.mark.parametrize(
    ("rank", "kind", "reason"),
    [
        (Rank(own=0.1, queued=0.5), "slow processor", "its threads wait for a processor (47 ms more than the others')"),
        (Rank(own=0.1, throttled=0.4), "slow processor", "its control group's limit of processors holds it"),
        (Rank(own=0.1, processor=0.9), "slow processor", "it computes for 90% of the time"),
        (Rank(own=0.1, processor=0.2, reading=0.9), "starved", "for 90% of the time its reader waits for part-0.parquet"),
        (Rank(own=0.1, processor=0.2), "slow rank", "look for callbacks"),
    ],
)
def test_a_rank_that_the_others_wait_for_is_named_once_with_the_reason(rank, kind, reason):
    simulation = Simulation(Rank(), Rank(), rank)
    found = simulation.run(25)
    assert [(symptom.kind, symptom.rank, symptom.host) for symptom in found] == [(kind, 2, "node-2")]
    assert "rank 2 on node-2 is " in found[0].line
    assert "2.0 times as long as the others' (100 ms)" in found[0].line
    assert reason in found[0].line
    assert found[0].figures["own_seconds_per_step_of_others"] == pytest.approx(0.05)
    assert simulation.run(100) == []


def test_a_rank_that_is_slow_for_a_moment_causes_no_symptom():
    simulation = Simulation(Rank(), Rank())
    assert simulation.run(30) == []
    simulation.ranks[1].own = 0.2
    assert simulation.run(5) == []
    simulation.ranks[1].own = 0.05
    assert simulation.run(60) == []


def test_a_rank_that_becomes_slow_is_named_within_thirty_seconds():
    simulation = Simulation(Rank(), Rank())
    assert simulation.run(60) == []
    simulation.ranks[0].own = 0.11
    assert [symptom.rank for symptom in simulation.run(30)] == [0]


def test_slow_steps_are_compared_over_longer_windows():
    simulation = Simulation(Rank(own=2.0), Rank(own=4.5))
    assert [(symptom.kind, symptom.rank) for symptom in simulation.run(60)] == [("slow processor", 1)]


@pytest.mark.parametrize("seconds", [0, 9], ids=["from step to step", "for some seconds each"])
def test_ranks_that_are_slow_in_turn_are_told_from_one_that_is_always_slow(seconds):
    if seconds:
        simulation = Simulation(Rank(), Rank())
        found = []
        for turn in range(6):
            simulation.ranks[turn % 2].own, simulation.ranks[1 - turn % 2].own = 0.1, 0.05
            found += simulation.run(seconds)
    else:
        found = Simulation(*(Rank(deviation=0.03, wait_deviation=0.03) for _ in range(2)), transfer=0.03).run(30)
    assert [(symptom.kind, symptom.rank) for symptom in found] == [("wandering", None)]
    assert "slow in turn" in found[0].line


def test_steps_that_are_long_on_all_ranks_alike_are_no_symptom():
    assert Simulation(*(Rank(deviation=0.03) for _ in range(2)), transfer=0.03).run(60) == []


def test_of_the_ranks_on_a_slow_host_the_slowest_is_named_and_they_are_not_slow_in_turn():
    simulation = Simulation(Rank(), Rank(), Rank(own=0.1, processor=0.9), Rank(own=0.101, processor=0.9))
    found = []
    for second in range(60):
        # By chance one or the other is the slowest.
        simulation.ranks[2 + second % 2].own, simulation.ranks[3 - second % 2].own = 0.1, 0.101
        found += simulation.run(1)
    assert {(symptom.kind, symptom.rank) for symptom in found} <= {("slow processor", 2), ("slow processor", 3)}
    assert found


def test_a_limit_of_processors_that_holds_all_ranks_alike_is_not_the_reason():
    held = {"throttled": 0.3, "processor": 0.2}
    (found,) = Simulation(Rank(**held), Rank(own=0.1, reading=0.9, **held)).run(30)
    assert (found.kind, found.rank) == ("starved", 1)


def test_a_slow_network_is_told_from_slow_ranks():
    found = Simulation(Rank(), Rank(), transfer=0.2).run(30)
    assert [(symptom.kind, symptom.rank) for symptom in found] == [("slow network", None)]
    assert "wait for the network for 80% of a step, and each sends 1.0 MB/s" in found[0].line


def test_the_host_with_the_slow_link_is_named():
    slow, to_it = (Link(busy_seconds=busy, sent=1_000_000, segments=700, retransmitted=0) for busy in (0.8, 0.7))
    found = Simulation(Rank(link=to_it), Rank(link=slow), Rank(), transfer=0.2).run(30)
    assert [(symptom.kind, symptom.rank) for symptom in found] == [("slow link", 1)]
    assert "the link of rank 1 on node-1 is slow: 1.2 MB/s while it sends" in found[0].line
    assert found[0].figures["busy_share_at_10.0.0.1"] == pytest.approx(1.5)


def test_a_link_that_loses_data_is_named_before_a_slow_one():
    lossy = Link(busy_seconds=0.5, sent=1_000_000, segments=700, retransmitted=20)
    found = Simulation(Rank(link=lossy), Rank(), transfer=0.1).run(30)
    assert [(symptom.kind, symptom.rank) for symptom in found] == [("lossy link", 0)]
    assert "2.9% of its segments were sent again" in found[0].line


def test_a_clock_that_jumps_or_is_another_hour_is_named():
    simulation = Simulation(Rank(), Rank())
    simulation.clocks[0] = -3600.0
    (skewed,) = simulation.run(5)
    assert (skewed.kind, skewed.rank) == ("clock", 0)
    assert "the clock of rank 0 on node-0 is 3600 s behind the driver's" in skewed.line
    simulation.clocks[1] = 120.0
    (jumped,) = simulation.run(5)
    assert (jumped.kind, jumped.rank) == ("clock", 1)
    assert "has jumped forward by 120 s" in jumped.line
    # Often, by as much; once, by much less.
    for jump, lines in ((150, 0), (6, 1), (7, 0)):
        simulation.clocks[1] += jump
        assert [f"by {jump} s" in symptom.line for symptom in simulation.run(5)] == [True] * lines


def test_weights_that_differ_after_a_step_that_all_ranks_tell_of_are_named_once():
    simulation = Simulation(Rank(), Rank(), Rank())
    alike = {0: [(8, 11), (16, 12)], 1: [(8, 11), (16, 12)], 2: [(16, 12), (32, 13)]}
    assert simulation.run(5, digests=alike) == []
    # Not all have told of the next one.
    assert simulation.run(5, digests=alike | {0: [(16, 12), (32, 99)]}) == []
    differing = {0: [(16, 12), (32, 99)], 1: [(24, 12), (32, 13)], 2: [(32, 13)]}
    (found,) = simulation.run(5, digests=differing)
    assert (found.kind, found.rank, found.host) == ("drifted", 0, "node-0")
    assert found.line.startswith("the weights of rank 0 on node-0 differ from those of the other ranks after step 32; ")
    assert simulation.run(5, digests=differing) == []


def test_a_disk_that_takes_seconds_for_a_heartbeat_is_named():
    simulation = Simulation(Rank(), Rank())
    assert simulation.run(2, write_seconds=4.2) == simulation.run(1) == simulation.run(2, write_seconds=4.2) == []
    found = simulation.run(1, write_seconds=4.2)
    assert [(symptom.kind, symptom.rank) for symptom in found] == [("slow disk", 0), ("slow disk", 1)]
    assert "needs 4.2 s or more to write a small file into the run folder" in found[0].line


def test_a_rank_that_does_not_train_is_not_compared():
    simulation = Simulation(Rank(), Rank(own=0.2))
    for rank in simulation.ranks:
        rank.times = StepTimes()
    assert all(simulation.finder.add(simulation.heartbeat(0, simulation.ranks[0]), second) == [] for second in range(60))
    assert simulation.finder.check(60) == []
