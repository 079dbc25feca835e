import dataclasses
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import EdgeNASError, InputError
from edgenas.evaluation.evaluator import Evaluated
from edgenas.space import MobileSpace
from edgenas.strategy import Limits, Study, study
from tests.strategy.conftest import Formula, values

MakeStudy = Callable[..., Study]
in_memory = pytest.mark.usefixtures("in_memory")


def trials_of(made: Study) -> list[Any]:
    return made._stored.get_trials(deepcopy=False)


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


def test_a_study_that_is_broken_off_proposes_what_it_would_have(make_study: MakeStudy) -> None:
    whole, broken = Formula(), Formula()
    make_study("whole", trials=12).run(whole)
    for _ in range(3):

        class Breaks(Formula):
            def evaluate(self, candidates):
                if len(self.seen) == 3:
                    raise KeyboardInterrupt
                done = super().evaluate(candidates)
                broken.seen += [candidate.architecture.id for candidate in candidates]
                return done

        with pytest.raises(KeyboardInterrupt):
            make_study("broken", trials=12).run(Breaks())
    make_study("broken", trials=12).run(broken)
    assert broken.seen == whole.seen


def test_more_trials_go_on_where_the_study_ended(make_study: MakeStudy) -> None:
    make_study(trials=5).run(Formula())
    more = Formula()
    front = make_study(trials=8).run(more)
    assert len(more.seen) == 3
    assert len(front) > 0


@in_memory
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_a_failed_trial(make_study: MakeStudy, bad: float) -> None:
    class Sometimes(Formula):
        def evaluate(self, candidates):
            results = super().evaluate(candidates)
            spoiled = Evaluated({**values(candidates[0]), "accuracy": bad}, None, 0.0)
            return [spoiled] if len(self.seen) == 3 else results

    made = make_study(trials=6)
    made.run(Sometimes())
    states = [trial.state.name for trial in trials_of(made)]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert all(math.isfinite(point.accuracy) for point in made.front)


@in_memory
def test_ten_failures_in_a_row_stop_the_search(make_study: MakeStudy) -> None:
    class Never(Formula):
        def evaluate(self, candidates):
            return [Evaluated(None, "out of memory", 0.0) for _ in candidates]

    with pytest.raises(EdgeNASError, match=r"last 10 candidates all failed.*out of memory"):
        make_study().run(Never())


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
    def evaluate(self, candidates):
        found = super().evaluate(candidates)
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
table = conftest.table.__wrapped__(space)
limits = conftest.half.__wrapped__(space, table)
settings = Settings(study="killed", data="none", device="board", table="none", space="tiny", input_shape=(28, 28, 1),
                    trials=12, strategy="tpe", limits=limits)
Study(settings, space, FreeObjectives(space, table, "int8", limits)).run(evaluator)
"""


def test_killed_three_times_it_ends_as_if_nothing_had_happened(make_study: MakeStudy, tmp_path: Path) -> None:
    """Killed where it hurts most: evaluated and not stored; half stored; stored and not yet in the ledger."""
    whole = Formula()
    make_study("whole", strategy="tpe", trials=12).run(whole)
    for kill, stored in (("2 evaluated", 1), ("3 commits", 3), ("2 stored", 5)):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *kill.split()], cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL
        assert make_study("killed", strategy="tpe", trials=12).counts()["complete"] == stored
    made = make_study("killed", strategy="tpe", trials=12)
    made.run(Formula())
    assert [trial.user_attrs["id"] for trial in trials_of(made)] == whole.seen
    assert all(trial.state.name == "COMPLETE" for trial in trials_of(made))


@in_memory
def test_the_settings_of_a_trial_are_its_network(make_study: MakeStudy, space: MobileSpace) -> None:
    made = make_study(trials=5)
    made.run(Formula())
    for trial in trials_of(made):
        assert space.decode(trial.params).id == trial.user_attrs["id"]
    assert dataclasses.asdict(made.settings)["trials"] == 5
