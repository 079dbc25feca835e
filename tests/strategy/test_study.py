import dataclasses
import itertools
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import CheckFailedError, EdgeNASError, InputError
from edgenas.evaluation.evaluator import Evaluated, unpacked
from edgenas.evaluation.recipe import Candidate, Fidelity, Recipe
from edgenas.space import MobileSpace
from edgenas.space.baselines import hand_made_within
from edgenas.strategy import Limits, Study, study
from tests.strategy.conftest import Formula, Learner, values

MakeStudy = Callable[..., Study]
in_memory = pytest.mark.usefixtures("in_memory")


def trials_of(made: Study) -> list[Any]:
    return made._stored.get_trials(deepcopy=False)


def outcomes(made: Study) -> list[Any]:
    return [(trial.user_attrs["id"], trial.state.name, trial.values) for trial in trials_of(made)]


@in_memory
@pytest.mark.parametrize("strategy", ["random", "nsga2", "tpe"])
def test_nothing_infeasible_and_nothing_twice_is_trained_or_stored(
    make_study: MakeStudy, strategy: str, half: Limits
) -> None:
    made = make_study(strategy=strategy)
    evaluator = Formula()
    front = made.run(evaluator)
    trials = trials_of(made)
    assert len(trials) == 30 == len(evaluator.seen)
    assert len(set(evaluator.seen)) == 30
    assert len({trial.user_attrs["id"] for trial in trials}) == 30
    assert all(trial.user_attrs["latency_high_ms"] <= half.max_latency_ms for trial in trials)
    assert made.counts()["infeasible"] > 0  # half the space breaks the limit, so some proposals did
    assert all(point.latency_interval_ms[1] <= half.max_latency_ms for point in front)


class Breaks(Learner):
    """Networks that learn with 512 steps; the user ends the search while the network of that number is evaluated."""

    def __init__(self, last: int) -> None:
        super().__init__(lambda _: 512)
        self._last = last

    def one(self, candidate: Candidate) -> Evaluated:
        if len(self.seen) == self._last:
            raise KeyboardInterrupt
        return super().one(candidate)


@in_memory
@pytest.mark.parametrize("strategy", ["nsga2", "tpe"])
def test_a_study_that_is_broken_off_goes_on_as_it_would_have(make_study: MakeStudy, strategy: str) -> None:
    """With the same candidates, trained as long: broken off while that was being chosen, and at the begin, in the
    middle and at the end of a batch."""
    settings = {"trials": 18, "strategy": strategy}
    whole, broken = make_study("whole", **settings), make_study("broken", **settings)
    whole.run(Learner(lambda _: 512))
    for last, steps, stored in (
        (3, [256] * 2 + [512], 0), (6, [256] * 2 + [512] * 4, 2), (3, [512] * 3, 4), (4, [512] * 4, 7),
        (2, [512] * 2, 8), (2, [512] * 2, 9), (2, [512] * 2, 10), (4, [512] * 4, 13),
    ):  # fmt: skip
        breaks = Breaks(last)
        with pytest.raises(KeyboardInterrupt):
            make_study("broken", **settings).run(breaks)
        assert breaks.steps == steps
        assert len(trials_of(broken)) == stored, "what was evaluated is stored, whatever becomes of its batch"
    last_run = Learner(lambda _: 512)
    make_study("broken", **settings).run(last_run)
    assert last_run.steps == [512] * 5
    assert outcomes(broken) == outcomes(whole)


def test_more_trials_go_on_where_the_study_ended(make_study: MakeStudy) -> None:
    make_study(trials=5).run(Formula())
    more = Formula()
    front = make_study(trials=8).run(more)
    assert len(more.seen) == 3
    assert len(front) > 0


class Asked(Formula):
    """It notes which networks it is asked for together, by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[list[str]] = []

    def evaluate(self, candidates: Sequence[Candidate], steps: int) -> Iterator[Evaluated]:
        self.together.append([candidate.architecture.id for candidate in candidates])
        return super().evaluate(candidates, steps)


@in_memory
@pytest.mark.parametrize(
    ("fails", "sizes"), [((), [2, 2, 4, 2]), ((3, 10), [2, 2, 4, 3, 1])], ids=["none fails", "two fail"]
)
def test_four_are_evaluated_at_a_time_and_no_more_than_are_missing(
    make_study: MakeStudy, fails: tuple[int, ...], sizes: list[int]
) -> None:
    """Two of the first four were evaluated before, to say how long all are trained."""

    class Failing(Asked):
        def one(self, candidate: Candidate) -> Evaluated:
            return Evaluated(None, "no room", 0.0) if len(self.seen) in fails else super().one(candidate)

    made, evaluator = make_study(trials=10), Failing()
    made.run(evaluator)
    assert list(map(len, evaluator.together)) == sizes
    assert (made.counts()["complete"], made.counts()["failed"]) == (10, len(fails))


@in_memory
def test_each_network_gets_its_own_result_also_among_those_known_before(
    make_study: MakeStudy, space: MobileSpace
) -> None:
    made, evaluator = make_study(trials=12), Asked()
    made.run(evaluator)
    first, *batches = evaluator.together
    ids = [trial.user_attrs["id"] for trial in trials_of(made)]
    assert list(itertools.chain(*batches)) == [name for name in ids if name not in first]
    assert sorted(map(ids.index, first)) == [0, 5], "one of them in the middle of a batch"
    for trial in trials_of(made):
        candidate = made._candidate(space.codes(trial.params))
        assert (candidate.architecture.id, values(candidate)["accuracy"]) == (trial.user_attrs["id"], trial.values[0])


@in_memory
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_a_failed_trial(make_study: MakeStudy, bad: float) -> None:
    class Sometimes(Formula):
        def one(self, candidate: Candidate) -> Evaluated:
            spoiled = Evaluated({**values(candidate), "accuracy": bad}, None, 0.0)
            return spoiled if len(self.seen) == 3 else super().one(candidate)

    made = make_study(trials=6)
    made.run(Sometimes())
    states = [trial.state.name for trial in trials_of(made)]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert all(math.isfinite(point.accuracy) for point in made.front)


@in_memory
def test_ten_failures_in_a_row_stop_the_search(make_study: MakeStudy) -> None:
    class Never(Formula):
        def one(self, candidate: Candidate) -> Evaluated:
            return Evaluated(None, "out of memory", 0.0)

    made = make_study()
    with pytest.raises(EdgeNASError, match=r"last 10 candidates all failed.*out of memory"):
        made.run(Never())
    assert len(trials_of(made)) == 10, "it ends in the middle of a batch"


@in_memory
def test_an_impossible_limit_is_named_with_what_can_be_reached(make_study: MakeStudy) -> None:
    with pytest.raises(InputError, match=r"--max-latency-ms 0.001 \(the nearest reachable value is 0.01") as caught:
        make_study(limits=Limits(max_latency_ms=0.001)).run(Formula())
    reachable = float(str(caught.value).split("value is ")[1].split(")")[0])
    make_study("loose", trials=1, limits=Limits(max_latency_ms=reachable)).run(Formula())


@in_memory
def test_a_limit_that_leaves_few_networks_ends_with_its_reason(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "MOST_PROPOSALS_A_TRIAL", 5)
    tightest = Limits(max_model_kb=12.43)  # 14 networks of this space are that small
    evaluator = Formula()
    with pytest.raises(InputError, match="After 100 proposals no new network that keeps the limits") as caught:
        make_study(trials=20, limits=tightest).run(evaluator)
    assert 8 <= len(set(evaluator.seen)) == len(evaluator.seen) <= 14
    assert f"about {len(evaluator.seen)} networks" in str(caught.value)


SCRIPT = """
import os, signal, sys
from edgenas.ledger import Ledger
from edgenas.space import MobileSpace
from edgenas.strategy import Limits, Settings, Study
from edgenas.strategy.objectives import FreeObjectives
from sqlalchemy.engine.default import DefaultDialect
from tests.strategy import conftest

count, event = int(sys.argv[1]), sys.argv[2]

def happens(what):
    if what == event and len(evaluator.seen) == count:
        os.kill(os.getpid(), signal.SIGKILL)

class Told(conftest.Formula):
    def one(self, candidate):
        found = super().one(candidate)
        happens("evaluated")
        return found

def telling(what, function):
    def told(*arguments, **options):
        happens(what)
        return function(*arguments, **options)
    return told

DefaultDialect.do_commit = telling("commits", DefaultDialect.do_commit)
Ledger.append = telling("stored", Ledger.append)
evaluator = Told()
space = conftest.MobileSpace("tiny", (28, 28, 1), 10)
table = conftest.made_up(space)
limits = conftest.half.__wrapped__(space, table)
settings = Settings(study="killed", data="none", device="board", table="none", space="tiny", input_shape=(28, 28, 1),
                    trials=12, strategy="tpe", limits=limits)
Study(settings, space, FreeObjectives(space, table, "int8", limits)).run(evaluator)
"""


def test_killed_four_times_it_ends_as_if_nothing_had_happened(make_study: MakeStudy, tmp_path: Path) -> None:
    """Killed where it hurts most: while it is chosen how long candidates are trained; evaluated and not stored; half
    stored; stored and not yet in the ledger."""
    whole = make_study("whole", strategy="tpe", trials=12)
    whole.run(Formula())
    for kill, stored in (("2 evaluated", 0), ("3 evaluated", 1), ("3 commits", 3), ("2 stored", 5)):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *kill.split()], cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL
        assert make_study("killed", strategy="tpe", trials=12).counts()["complete"] == stored
    made = make_study("killed", strategy="tpe", trials=12)
    made.run(Formula())
    assert outcomes(made) == outcomes(whole)
    assert {state for _, state, _ in outcomes(made)} == {"COMPLETE"}
    assert [entry["steps"] for entry in made.ledger.entries("fidelity_chosen")] == [256]


@in_memory
def test_the_settings_of_a_trial_are_its_network(make_study: MakeStudy, space: MobileSpace) -> None:
    made = make_study(trials=5)
    made.run(Formula())
    for trial in trials_of(made):
        assert space.decode(trial.params).id == trial.user_attrs["id"]
    assert dataclasses.asdict(made.settings)["trials"] == 5


@in_memory
@pytest.mark.parametrize(("asked", "steps"), [(None, 256), (30, 30)])
def test_candidates_are_trained_for_as_long_as_was_asked_or_chosen(
    make_study: MakeStudy, asked: int | None, steps: int
) -> None:
    evaluator = Formula()
    make_study(trials=5, fidelity=Fidelity(steps=asked)).run(evaluator)
    assert evaluator.steps == [steps] * 5
    assert {candidate.recipe for candidate in evaluator.candidates} == {Recipe()}


@in_memory
def test_the_largest_and_the_smallest_drawn_by_hand_say_how_long_and_are_not_trained_again(
    make_study: MakeStudy, space: MobileSpace
) -> None:
    made = make_study(trials=12)
    drawn = hand_made_within(space, made._free.excess, 6).values()
    macs = sorted(space.decode(space.values(code)).macs for code in drawn)
    evaluator = Learner(lambda candidate: 512 if candidate.architecture.macs == macs[-1] else 256)
    told: list[str] = []
    made.run(evaluator, say=told.append)
    first = [candidate.architecture.macs for candidate in evaluator.candidates[:3]]
    assert first == [macs[0], macs[-1], macs[-1]] and evaluator.steps[:3] == [256, 256, 512]
    assert set(evaluator.steps[3:]) == {512}
    trained = list(zip(evaluator.seen, evaluator.steps, strict=True))
    assert len(trained) == len(set(trained)) == 14, "the smallest is trained again, with as many steps as all others"
    assert [entry["steps"] for entry in made.ledger.entries("fidelity_chosen")] == [512]
    assert told[-1] == "Better than guessing: every candidate gets 512 steps."


@in_memory
@pytest.mark.parametrize(("at_a_time", "left_s"), [(1, [240, 180, 80, 30, 0]), (2, [120, 90, 40, 15, 0])])
def test_the_time_left_counts_what_the_first_networks_took(
    make_study: MakeStudy, at_a_time: int, left_s: list[float]
) -> None:
    """They were evaluated before the first trial, and are not again; side by side, two take half the time each."""
    seconds = iter([60.0, 60.0, 0.0, 0.0, 30.0])

    class Slow(Learner):
        def one(self, candidate: Candidate) -> Evaluated:
            return dataclasses.replace(super().one(candidate), seconds=next(seconds))

    evaluator, reports = Slow(lambda _: 256), list[study.TrialReport]()
    evaluator.at_a_time = at_a_time
    make_study(trials=5).run(evaluator, reports.append)
    assert [report.left_s for report in reports] == left_s


@in_memory
def test_one_network_says_how_long_where_none_is_drawn_by_hand(make_study: MakeStudy) -> None:
    made = make_study(trials=1)
    evaluator = Learner(lambda _: 512)
    made.run(evaluator)
    anchor = made.space.decode(made.space.values(made._free.anchor)).id
    assert evaluator.seen[:2] == [anchor] * 2
    assert evaluator.steps == [256, 512, 512]


@in_memory
def test_a_network_that_failed_before_the_search_is_a_failed_trial_and_is_not_tried_again(
    make_study: MakeStudy,
) -> None:
    class Sometimes(Formula):
        def one(self, candidate: Candidate) -> Evaluated:
            return Evaluated(None, "out of memory", 0.0) if len(self.seen) == 1 else super().one(candidate)

    made, evaluator = make_study(trials=4), Sometimes()
    made.run(evaluator)
    failed = [trial.user_attrs["id"] for trial in trials_of(made) if trial.state.name == "FAIL"]
    assert failed == evaluator.seen[:1]
    assert len(evaluator.seen) == len(set(evaluator.seen)) == 5
    assert all(trial.user_attrs["learned"] for trial in trials_of(made)), "nobody said that it only guesses"


@in_memory
def test_a_point_says_what_it_named_rightly_and_whether_it_learned(make_study: MakeStudy) -> None:
    """Networks smaller than the largest drawn by hand, and larger than the smallest, guess for ever."""
    made = make_study(trials=12)
    least, most = made._first()
    least_macs, most_macs = (made._candidate(code).architecture.macs for code in (least, most))

    def guesses(macs: int) -> bool:
        return least_macs < macs < most_macs

    made.run(Learner(lambda candidate: math.inf if guesses(candidate.architecture.macs) else 0))
    assert {point.learned for point in made.points} == {True, False}
    for point in made.points:
        assert point.learned is not guesses(point.architecture.macs)
        assert point.images == 100
        assert unpacked(point.right, 100).sum() == math.ceil(100 * point.accuracy)


@in_memory
def test_a_point_that_nobody_said_that_of_has_learned_as_far_as_is_known(make_study: MakeStudy) -> None:
    made = make_study(trials=3)
    made.run(Formula())
    assert {(point.right, point.images, point.learned) for point in made.points} == {("", 100, True)}


@in_memory
def test_a_search_where_nothing_learns_ends_before_any_trial(make_study: MakeStudy) -> None:
    made, told = make_study(trials=6), list[str]()
    evaluator = Learner(lambda _: math.inf)
    with pytest.raises(CheckFailedError, match="After 4096 steps networks drawn by hand are no better than guessing"):
        made.run(evaluator, say=told.append)
    assert trials_of(made) == []
    assert len(told) == 4 and told[-1].startswith("After 1024 steps")
    assert evaluator.steps == [256, 256, 512, 512, 1024, 1024, 4096, 4096]
